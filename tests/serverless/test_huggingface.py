"""Hugging Face Inference Endpoints: held only when nobody is up, so that cold and warm are known."""

from typing import Any

import pytest
from pydantic import ValidationError

from backends.huggingface import HuggingFace
from gateway.clock import FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Start, Verdict, Work
from tests.support.endpoints import answer, endpoint, failure, in_turn, says
from tests.support.provider import SECRET, Behaviour, Received, Wire, a_call, providing
from tests.support.requests import ArrivingBody

KIT = {"x-overspill-boot-id": "b", "x-overspill-boot-age": "0.0"}
STARTING = b'{"error":"503 Service Unavailable"}'


def later(clock: FakeClock, seconds: float, behaviour: Behaviour) -> Behaviour:
    """The same, that much later."""

    async def behave(request: Received, wire: Wire) -> None:
        clock.advance(seconds)
        await behaviour(request, wire)

    return behave


async def test_a_call_that_is_answered_at_once_was_held_by_nobody() -> None:
    headers = [(b"authorization", b"Bearer callers"), (b"x-scale-up-timeout", b"9999"), (b"x-mine", b"1")]
    async with endpoint(HuggingFace, says(200, b"ok")) as (backend, provider):
        reply = await answer(backend, a_call(b"body", headers=headers))
        assert (reply.status, reply.body, reply.start) == (200, b"ok", Start.WARM)
        assert reply.usage is not None
        assert reply.usage.boot_s == 0.0
    (request,) = provider.seen
    assert (request.target, request.body) == ("/v2/models/minilm/infer", b"body")
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert request.fields["x-mine"] == "1"
    assert "x-scale-up-timeout" not in request.fields


async def test_a_call_that_met_nobody_is_sent_again_to_be_held_and_is_cold() -> None:
    clock = FakeClock()
    behaviour = in_turn(says(503, STARTING), later(clock, 90, says(200, b"ok")))
    async with endpoint(HuggingFace, behaviour, clock, wait_for_replica="5m") as (backend, provider):
        reply = await answer(backend, a_call(b"body"))
        assert (reply.status, reply.body, reply.start) == (200, b"ok", Start.COLD)
        assert reply.usage is not None
        assert reply.usage.billed_s == 90.0
        assert reply.usage.boot_s is None  # the work is within it
    assert [request.fields.get("x-scale-up-timeout") for request in provider.seen] == [None, "300"]
    assert [request.body for request in provider.seen] == [b"body", b"body"]


async def test_a_short_wait_may_have_been_a_full_queue() -> None:
    clock = FakeClock()
    behaviour = in_turn(says(503, STARTING), later(clock, 2, says(200)))
    async with endpoint(HuggingFace, behaviour, clock) as (backend, _):
        assert (await answer(backend)).start is Start.UNKNOWN


async def test_the_workers_word_comes_first() -> None:
    async with endpoint(HuggingFace, says(200, b"", KIT)) as (backend, _):
        reply = await answer(backend)
        assert reply.start is Start.COLD
        assert reply.usage is not None
        assert reply.usage.instance == "b"


async def test_a_body_that_cannot_be_sent_twice_is_held_from_the_start() -> None:
    call = a_call(ArrivingBody(b"x" * 100, declared=100))
    async with endpoint(HuggingFace, says(200), wait_for_replica="30s") as (backend, provider):
        assert (await answer(backend, call)).start is Start.UNKNOWN
    (request,) = provider.seen
    assert (request.fields["x-scale-up-timeout"], request.body) == ("30", b"x" * 100)


async def test_who_does_not_wait_goes_elsewhere_at_once() -> None:
    async with endpoint(HuggingFace, says(503, STARTING), wait_for_replica="0s") as (backend, provider):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert type(came) is BackendFull
    assert came.retry_after == 120.0  # what a replica is expected to take


@pytest.mark.parametrize(
    ("status", "body", "kind", "work"),
    [
        (503, STARTING, BackendFull, Work.NOT_STARTED),
        (429, b"", BackendFull, Work.NOT_STARTED),
        (502, b"Bad Gateway", BackendBroke, Work.MAYBE),
        (504, b"", BackendBroke, Work.MAYBE),
        (500, b'{"error":"boom"}', BackendBroke, Work.MAYBE),
        (400, b'{"error":"Bad Request: Endpoint is paused"}', BackendDenied, Work.NOT_STARTED),
        (401, b'{"error":"Invalid credentials"}', BackendDenied, Work.NOT_STARTED),
        (403, b"", BackendDenied, Work.NOT_STARTED),
    ],
)
async def test_what_a_failure_means(status: int, body: bytes, kind: type[BackendError], work: Work) -> None:
    async with endpoint(HuggingFace, says(status, body, {"retry-after": "7"})) as (backend, _):
        came = await failure(backend)
        assert type(came) is kind
        assert came.work is work
        assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
        assert came.retry_after == (7.0 if kind is BackendFull else None)


@pytest.mark.parametrize(("status", "body"), [(400, b'{"error":"bad"}'), (404, b""), (422, b"x"), (424, b"")])
async def test_what_blames_the_request_is_an_answer(status: int, body: bytes) -> None:
    async with endpoint(HuggingFace, says(status, body)) as (backend, _):
        reply = await answer(backend)
        assert (reply.status, reply.body) == (status, body)


async def test_the_secret_is_read_again_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fussy(request: Received, wire: Wire) -> None:
        ok = request.fields["authorization"] == "Bearer rotated"
        await wire.answer(200 if ok else 401, request.fields["authorization"].encode())

    async with endpoint(HuggingFace, fussy) as (backend, _):
        assert "Bearer …" in str(await failure(backend))
        monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rotated")
        assert (await answer(backend)).status == 200


async def test_a_replica_is_paid_in_whole_minutes_idling_included() -> None:
    clock = FakeClock()
    cold = {"expect": "1m", "idle_after": "15m"}
    behaviour = later(clock, 10, says(200))
    async with endpoint(HuggingFace, behaviour, clock, price={"usd_per_second": 0.01}, cold_start=cold) as (
        backend,
        _,
    ):
        reply = await answer(backend)
        assert reply.usage is not None
        assert reply.usage.usd == pytest.approx(0.1)
        clock.advance(3600)
        assert sum(charge.usd for charge in backend.settle(clock.now())) == pytest.approx(0.01 * 950)
        rent = backend.rent
        assert rent is not None
        assert (rent.round_up_s, rent.bills_boot, rent.bills_idle) == (60, True, True)


async def test_a_ping_waits_for_a_replica_too() -> None:
    behaviour = in_turn(says(503, STARTING), says(404, b"Not Found", KIT))
    async with endpoint(HuggingFace, behaviour) as (backend, provider):
        usage = await backend.ping(0, route="embed", kind="spill")
        assert usage is not None
        assert usage.instance == "b"
    assert [request.fields.get("x-scale-up-timeout") for request in provider.seen] == [None, "300"]


@pytest.mark.parametrize(
    ("state", "can"),
    [
        ("running", True), ("scaledToZero", True), ("initializing", True), ("updating", True),
        ("pending", True), ("paused", False), ("failed", False), ("updateFailed", None), ("else", None),
    ],
)  # fmt: skip
async def test_its_state_is_asked_where_it_may_be(*, state: str, can: bool | None) -> None:
    async def management(request: Received, wire: Wire) -> None:
        await wire.json(200, {"name": "e", "status": {"state": state, "readyReplica": 0}})

    async with providing(management) as control:
        options: dict[str, Any] = {
            "control": {"namespace": "acme", "name": "e-1", "url": control.url},
            "headers": {"x-endpoints": {"env": "OVERSPILL_EXAMPLE_SECRET"}},
        }
        async with endpoint(HuggingFace, says(200), **options) as (backend, provider):
            assert await backend.probe(0) is can
            assert backend.state == state
            assert provider.seen == []
    (asked,) = control.seen
    assert (asked.method, asked.target) == ("GET", "/v2/endpoint/acme/e-1")
    assert asked.fields["authorization"] == f"Bearer {SECRET}"
    assert "x-endpoints" not in asked.fields


@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, b"[[" * 9), (200, b"{}"), (401, b"no")])
async def test_an_answer_about_its_state_that_says_nothing_says_nothing(status: int, body: bytes) -> None:
    async with endpoint(HuggingFace, says(status, body)) as (backend, provider):
        assert await backend.probe(0) is None
        assert provider.seen == []
    async with providing(says(status, body)) as control:
        told = {"namespace": "acme", "name": "e", "url": control.url}
        async with endpoint(HuggingFace, says(200), control=told) as (backend, _):
            assert await backend.probe(0) is None


@pytest.mark.parametrize("namespace", ["a/b", "../x", "", "a?b"])
def test_names_stay_within_their_place(namespace: str) -> None:
    example = HuggingFace.example("http://127.0.0.1:9")
    with pytest.raises(ValidationError):
        HuggingFace.Options.model_validate({**example, "control": {"namespace": namespace, "name": "e"}})
