"""KEDA's HTTP add-on: a cold start is what the interceptor says, and its silence says whether work began."""

import pytest

from backends.keda import Keda
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, BackendUnready
from gateway.vocab import Start, Work
from tests.support.endpoints import answer, endpoint, failure, in_turn, says
from tests.support.provider import SECRET, a_call

COLD = {"X-KEDA-HTTP-Cold-Start": "true"}
WARM = {"X-KEDA-HTTP-Cold-Start": "false"}
KIT = {"x-overspill-boot-id": "b", "x-overspill-boot-age": "0.0"}
OLD_KIT = {"x-overspill-boot-id": "b", "x-overspill-boot-age": "900"}


async def test_the_request_goes_to_the_interceptor_with_the_services_host() -> None:
    async with endpoint(Keda, says(200, b"ok", WARM)) as (backend, provider):
        reply = await answer(backend, a_call(b"body", headers=[(b"x-mine", b"1")]))
        assert (reply.status, reply.body) == (200, b"ok")
    (request,) = provider.seen
    assert request.fields["host"] == "minilm.example.com"
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert (request.target, request.body) == ("/v2/models/minilm/infer", b"body")


@pytest.mark.parametrize(
    ("fields", "start", "instance"),
    [
        (COLD, Start.COLD, ""),
        (WARM, Start.WARM, ""),
        ({}, Start.UNKNOWN, ""),
        ({"X-KEDA-HTTP-Cold-Start": "perhaps"}, Start.UNKNOWN, ""),
        (KIT, Start.COLD, "b"),
        (OLD_KIT, Start.WARM, "b"),
        ({**COLD, **KIT}, Start.COLD, "b"),
        ({**COLD, **OLD_KIT}, Start.COLD, "b"),
        ({**WARM, **KIT}, Start.WARM, "b"),
    ],
)
async def test_the_interceptors_word_comes_before_the_workers(
    fields: dict[str, str], start: Start, instance: str
) -> None:
    async with endpoint(Keda, says(200, b"ok", fields)) as (backend, _):
        reply = await answer(backend)
        assert reply.start is start
        assert reply.usage is not None
        assert reply.usage.instance == instance
        assert start is not Start.WARM or reply.usage.boot_s == 0.0
        assert start is not Start.UNKNOWN or reply.usage.boot_s is None
        assert not any(name.startswith((b"x-keda", b"x-overspill")) for name, _ in reply.headers)


async def test_how_long_it_booted_is_the_workers_to_say() -> None:
    async with endpoint(Keda, in_turn(says(200, b"", COLD), says(200, b"", {**COLD, **KIT}))) as (backend, _):
        boots = [
            reply.usage.boot_s for reply in [await answer(backend), await answer(backend)] if reply.usage
        ]
        assert boots == [None, 0.0]


NONE_READY = b"context marked done while waiting for workload reach > 0 replicas: context deadline exceeded"
TABLE: list[tuple[int, bytes, dict[str, str], type[BackendError], Work]] = [
    (502, b"Bad Gateway", {}, BackendUnready, Work.NOT_STARTED),
    (504, b"Gateway Timeout", {}, BackendUnready, Work.NOT_STARTED),
    (502, b"Bad Gateway", COLD, BackendBroke, Work.MAYBE),
    (502, b"Bad Gateway", WARM, BackendBroke, Work.MAYBE),
    (504, b"Gateway Timeout", COLD, BackendBroke, Work.MAYBE),
    (503, b"<p>starting</p>", {}, BackendFull, Work.NOT_STARTED),
    (503, b"full", WARM, BackendFull, Work.NOT_STARTED),
    (429, b"full", WARM, BackendFull, Work.NOT_STARTED),
    (500, b"boom", WARM, BackendBroke, Work.MAYBE),
    (401, b"", WARM, BackendDenied, Work.NOT_STARTED),
    (403, b"no", WARM, BackendDenied, Work.NOT_STARTED),
    (404, b"Not Found", {}, BackendDenied, Work.NOT_STARTED),
]


@pytest.mark.parametrize(("status", "body", "fields", "kind", "work"), TABLE)
async def test_what_a_failure_means_where_the_interceptor_says_whether_it_sent_it_on(
    status: int, body: bytes, fields: dict[str, str], kind: type[BackendError], work: Work
) -> None:
    async with endpoint(Keda, in_turn(says(200, b"", WARM), says(status, body, fields))) as (backend, _):
        await answer(backend)
        came = await failure(backend)
        assert type(came) is kind
        assert came.work is work


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (502, b"Bad Gateway", BackendBroke),
        (504, b"Gateway Timeout", BackendBroke),
        (502, NONE_READY, BackendUnready),
        (503, b"full", BackendFull),
    ],
)
async def test_an_interceptor_that_has_not_said_so_yet_may_have_sent_it_on(
    status: int, body: bytes, kind: type[BackendError]
) -> None:
    async with endpoint(Keda, says(status, body)) as (backend, _):
        assert type(await failure(backend)) is kind


async def test_the_applications_own_404_is_an_answer() -> None:
    async with endpoint(Keda, says(404, b"Not Found", WARM)) as (backend, _):
        for _attempt in range(2):
            reply = await answer(backend)
            assert (reply.status, reply.body, reply.start) == (404, b"Not Found", Start.WARM)


async def test_a_cold_start_that_fails_is_still_paid() -> None:
    async with endpoint(Keda, says(500, b"boom", COLD), price={"usd_per_request": 0.5}) as (backend, _):
        came = await failure(backend)
        assert came.usage is not None
        assert came.usage.usd == 0.5
