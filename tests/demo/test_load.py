"""The open-loop driver against the bundled server: what it counts, and from when it measures."""

import random

import numpy as np
import pytest
from aiohttp import web

from backends.emulators.kserve import KServeServer
from gateway.clock import SystemClock
from gateway.demo.apps import serve
from gateway.demo.load import Sample, drive, questions
from gateway.demo.models import DIGITS, Digits
from gateway.demo.tally import Tally
from gateway.vocab import Start


def small(seed: int = 5) -> Digits:
    chance = np.random.default_rng(seed)
    return Digits(
        *(chance.normal(size=shape).astype(np.float32) for shape in ((64, 8), (8,), (8, 10), (10,)))
    )


def images() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(6).integers(0, 17, size=(50, 64)).astype(np.float32)


async def load(url: str, model: Digits, moments: list[float]) -> tuple[list[Sample], Tally]:
    clock = SystemClock()
    tally = Tally(clock, "fleet")
    samples = await drive(url, moments, questions(model, images(), 12), clock=clock, watch=tally, timeout=5)
    return samples, tally


def spread(count: int) -> list[float]:
    chance = random.Random(1)
    return sorted(chance.uniform(0, 0.2) for _ in range(count))


async def test_right_answers_are_neither_lost_nor_wrong() -> None:
    async with KServeServer(serve(small())) as server:
        samples, tally = await load(server.url, small(), spread(24))
    assert len(samples) == tally.requests == 24
    assert not any(sample.lost or sample.wrong or sample.shed for sample in samples)
    assert tally.in_flight == 0


async def test_another_models_answers_are_wrong() -> None:
    async with KServeServer(serve(small(seed=8))) as server:
        samples, tally = await load(server.url, small(), spread(12))
    assert all(sample.wrong for sample in samples)
    assert tally.wrong == 12


async def test_half_the_requests_are_json_and_half_binary() -> None:
    async with KServeServer(serve(small())) as server:
        await load(server.url, small(), spread(12))
        binary = ["inference-header-content-length" in dict(seen.headers) for seen in server.requests]
    assert sorted(binary) == [False] * 6 + [True] * 6


async def test_a_cut_connection_is_lost_and_a_refusal_is_shed() -> None:
    async with KServeServer(serve(small())) as server:
        server.fail_next(2, "die")
        server.fail_next(3, 503)
        samples, tally = await load(server.url, small(), [0.0] * 6)
    assert (tally.lost, tally.shed, tally.wrong) == (2, 3, 0)
    assert sorted(sample.status for sample in samples) == [0, 0, 200, 503, 503, 503]


async def test_an_error_that_is_not_the_gateways_own_no_is_wrong() -> None:
    async with KServeServer(serve(small())) as server:
        server.fail_next(1, 500)
        _, tally = await load(server.url, small(), [0.0])
    assert (tally.lost, tally.shed, tally.wrong) == (0, 0, 1)


async def test_latency_counts_from_the_intended_moment_and_later_requests_do_not_wait() -> None:
    # One slot and 50 ms a request: the fourth of four simultaneous requests is done after 200 ms.
    async with KServeServer(serve(small()), slots=1, pace_s=0.05) as server:
        samples, _ = await load(server.url, small(), [0.0] * 4)
    latencies = sorted(sample.latency for sample in samples)
    assert [sample.intended for sample in samples] == [0.0] * 4
    assert latencies[0] >= 0.05
    assert latencies[-1] >= 0.2


async def test_what_the_gateway_says_of_an_answer_is_kept() -> None:
    said = {
        "x-overspill-backend": "runpod",
        "x-overspill-reason": "spill_full",
        "x-overspill-start": "cold",
    }
    app = serve(small())

    async def handle(request: web.Request) -> web.Response:
        status, fields, body = app(
            request.method, request.path, "", dict(request.headers), await request.read()
        )
        return web.Response(status=status, headers={**dict(fields), **said}, body=body)

    application = web.Application()
    application.router.add_post(f"/v2/models/{DIGITS}/infer", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        samples, tally = await load(f"http://127.0.0.1:{port}", small(), [0.0, 0.0])
    finally:
        await runner.cleanup()
    assert {(sample.backend, sample.reason, sample.start) for sample in samples} == {
        ("runpod", "spill_full", "cold")
    }
    assert tally.reasons == {"spill_full": 2}
    assert tally.starts(Start.COLD) == 2
    assert tally.spilled() == 1.0


@pytest.mark.parametrize(
    ("status", "lost", "shed"), [(0, True, False), (429, False, True), (504, False, True)]
)
def test_a_sample_knows_what_it_is(status: int, lost: bool, shed: bool) -> None:
    sample = Sample(1.0, 3.5, status, "", "", "unknown", wrong=False)
    assert (sample.lost, sample.shed) == (lost, shed)
    assert sample.latency == 2.5
