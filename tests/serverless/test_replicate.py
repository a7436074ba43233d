"""Replicate: the life of a prediction, what it says about warm and cold, and what every failure means."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from backends.replicate import Replicate
from backends.workers import kit
from gateway.clock import FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Start, Verdict, Work
from tests.support.endpoints import answer, endpoint, failure, in_turn, says
from tests.support.provider import (
    SECRET,
    Behaviour,
    Received,
    Wire,
    a_call,
    built,
    providing,
    until,
)

POSTED = "/v1/deployments/acme/minilm/predictions"
CREATED = "2026-11-22T10:00:00.000000Z"


def result(body: bytes = b"answer", boot: tuple[str, float] | None = None) -> str:
    fields = [("content-type", "text/plain")]
    if boot is not None:
        fields += [("x-overspill-boot-id", boot[0]), ("x-overspill-boot-age", str(boot[1]))]
    return json.dumps(kit.write_result(200, fields, body))


def prediction(status: str = "succeeded", starting: float | None = None, **more: Any) -> dict[str, Any]:
    """`starting`: seconds before it was taken by a worker; None for a timeline that is not told."""
    document: dict[str, Any] = {
        "id": "p1x", "status": status, "output": None, "error": None, "metrics": {}, "created_at": CREATED,
        "urls": {"get": "https://elsewhere.example/p1x", "cancel": "https://elsewhere.example/p1x/cancel"},
    }  # fmt: skip
    if starting is not None:
        document["started_at"] = f"2026-11-22T10:00:{starting:09.6f}Z"
    if status == "succeeded":
        document |= {"output": result(), "metrics": {"predict_time": 2.0}}
    return {**document, **more}


def made(status: int = 201, starting: float | None = None, **more: Any) -> Behaviour:
    return says(status, json.dumps(prediction(starting=starting, **more)).encode())


Step = dict[str, Any] | int | Callable[[Received, Wire], Any]


def scripted(*steps: Step) -> Behaviour:
    """One step per request, cancels apart: a prediction to answer, a status without one, or a behaviour."""
    left = list(steps)

    async def behave(request: Received, wire: Wire) -> None:
        if request.target.endswith("/cancel"):
            await wire.json(200, prediction("canceled"))
            return
        step = left.pop(0)
        if callable(step):
            await step(request, wire)
        elif isinstance(step, int):
            await wire.answer(step, f"refused {request.fields.get('authorization')}".encode())
        else:
            await wire.json(201 if request.method == "POST" else 200, step)

    return behave


async def test_a_call_becomes_a_prediction_and_its_output_the_answer() -> None:
    async with endpoint(Replicate, made()) as (backend, provider):
        reply = await answer(backend, a_call(b"body"))
        assert (reply.status, reply.headers) == (200, [(b"content-type", b"text/plain")])
        assert reply.body == b"answer"
    (request,) = provider.seen
    assert (request.method, request.target) == ("POST", POSTED)
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert request.fields["prefer"] == "wait=5"
    assert request.json().keys() == {"input"}
    assert request.json()["input"].keys() == {"event"}
    event = json.loads(request.json()["input"]["event"])
    assert kit.read_event(event)[1] == "/v2/models/minilm/infer"
    assert kit.read_event(event)[-1] == b"body"


@pytest.mark.parametrize(
    ("options", "target", "version"),
    [
        ({"deployment": "a/b"}, "/v1/deployments/a/b/predictions", None),
        ({"model": "meta/llama-3"}, "/v1/models/meta/llama-3/predictions", None),
        ({"version": "5c7d"}, "/v1/predictions", "5c7d"),
        ({"version": "a/b:5c7d"}, "/v1/predictions", "a/b:5c7d"),
    ],
)
async def test_where_predictions_are_made(options: dict[str, str], target: str, version: str | None) -> None:
    chosen: dict[str, Any] = {"deployment": None, **options}
    async with endpoint(Replicate, made(), **chosen) as (backend, provider):
        await answer(backend)
    assert provider.seen[0].target == target
    assert provider.seen[0].json().get("version") == version


@pytest.mark.parametrize("several", [{"version": "1"}, {"model": "a/b"}, {"deployment": None}])
def test_predictions_are_made_in_one_place(several: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of deployment, version and model"):
        Replicate.Options.model_validate({**Replicate.example("http://127.0.0.1:9"), **several})


async def test_an_unfinished_prediction_is_asked_for_at_the_apis_own_address_only() -> None:
    steps: list[Step] = [
        prediction("starting"), prediction("starting"), prediction("processing"), 503, prediction(),
    ]  # fmt: skip
    async with endpoint(Replicate, scripted(*steps), wait="0s") as (backend, provider):
        assert (await answer(backend)).body == b"answer"
    assert "prefer" not in provider.seen[0].fields
    assert {request.target for request in provider.seen[1:]} == {"/v1/predictions/p1x"}
    assert {request.method for request in provider.seen[1:]} == {"GET"}


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_every_way_of_saying_made_is_understood(status: int) -> None:
    async with endpoint(Replicate, made(status)) as (backend, _):
        assert (await answer(backend)).body == b"answer"


@pytest.mark.parametrize(
    ("status", "body", "kind", "work"),
    [
        (402, b'{"title":"Insufficient credit"}', BackendDenied, Work.NOT_STARTED),
        (422, b'{"title":"Invalid version or not permitted"}', BackendDenied, Work.NOT_STARTED),
        (400, b"", BackendDenied, Work.NOT_STARTED),
        (401, b'{"title":"Unauthenticated"}', BackendDenied, Work.NOT_STARTED),
        (403, b"", BackendDenied, Work.NOT_STARTED),
        (404, b"", BackendDenied, Work.NOT_STARTED),
        (413, b"", BackendDenied, Work.NOT_STARTED),
        (429, b'{"detail":"throttled. Your rate limit resets in ~30s."}', BackendFull, Work.NOT_STARTED),
        (500, b"", BackendBroke, Work.MAYBE),
        (503, b"", BackendBroke, Work.MAYBE),
        (301, b"", BackendBroke, Work.MAYBE),
        (201, b"{}", BackendBroke, Work.MAYBE),
        (201, b"[" * 90_000, BackendBroke, Work.MAYBE),
        (201, b'{"status":"starting","id":"../x"}', BackendBroke, Work.MAYBE),
    ],
)
async def test_what_a_refused_submission_means(
    status: int, body: bytes, kind: type[BackendError], work: Work
) -> None:
    async with endpoint(Replicate, says(status, body)) as (backend, provider):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert type(came) is kind
    assert came.work is work
    assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
    assert came.retry_after == (30.0 if kind is BackendFull else None)


async def test_when_to_come_back_is_the_fields_first() -> None:
    body = b"Your rate limit resets in ~30s."
    async with endpoint(Replicate, says(429, body, {"retry-after": "4"})) as (backend, _):
        assert (await failure(backend)).retry_after == 4.0


@pytest.mark.parametrize("status", ["failed", "canceled", "aborted", "something new"])
async def test_a_prediction_without_success_is_broken_and_still_billed(status: str) -> None:
    ended = prediction(status, error=f"ValueError: {SECRET}", metrics={"predict_time": 3.0})
    async with endpoint(Replicate, scripted(ended), price={"usd_per_second": 0.5}) as (backend, _):
        came = await failure(backend)
    assert type(came) is BackendBroke
    assert str(came) == f"burst: the prediction ended as {status}: ValueError: …"
    assert came.usage is not None
    assert (came.usage.billed_s, came.usage.usd, came.usage.reported) == (3.0, 1.5, True)


@pytest.mark.parametrize("output", [None, 1, [], {}, "no json", "[" * 9000, json.dumps({"statusCode": "x"})])
async def test_an_output_that_is_no_workers_result_is_broken(output: Any) -> None:
    async with endpoint(Replicate, made(output=output)) as (backend, _):
        assert type(await failure(backend)) is BackendBroke


async def test_a_result_may_be_an_object_too() -> None:
    async with endpoint(Replicate, made(output=json.loads(result()))) as (backend, _):
        assert (await answer(backend)).body == b"answer"


# -- warm and cold


@pytest.mark.parametrize(
    ("starting", "boot", "start", "boot_s"),
    [
        (None, None, Start.UNKNOWN, None),
        (0.2, None, Start.WARM, 0.0),
        (3.0, None, Start.WARM, 0.0),
        (3.1, None, Start.COLD, 3.1),
        (40.0, None, Start.COLD, 40.0),
        (40.0, ("b", 900.0), Start.WARM, 0.0),
        (40.0, ("b", 0.0), Start.COLD, 40.0),
        (None, ("b", 900.0), Start.WARM, 0.0),
    ],
)
async def test_a_start_is_the_workers_word_else_the_time_in_starting(
    starting: float | None, boot: tuple[str, float] | None, start: Start, boot_s: float | None
) -> None:
    async with endpoint(Replicate, made(starting=starting, output=result(boot=boot))) as (backend, _):
        reply = await answer(backend)
        assert reply.start is start
        assert reply.usage is not None
        assert reply.usage.boot_s == boot_s
        assert reply.usage.instance == (boot[0] if boot else "")
        assert reply.headers == [(b"content-type", b"text/plain")]


@pytest.mark.parametrize("created", ["yesterday", "", "2026-11-22T10:00:00"])
async def test_a_timeline_that_cannot_be_read_tells_nothing_or_is_utc(created: str) -> None:
    async with endpoint(Replicate, made(starting=9.0, created_at=created)) as (backend, _):
        assert (await answer(backend)).start is (Start.COLD if "T" in created else Start.UNKNOWN)


# -- money


async def test_a_deployments_instance_is_paid_from_start_to_end() -> None:
    clock = FakeClock()
    async with endpoint(
        Replicate, made(starting=8.0), clock, price={"usd_per_second": 0.01},
        cold_start={"expect": "10s", "idle_after": "60s"},
    ) as (backend, _):  # fmt: skip
        reply = await answer(backend)
        assert reply.usage is not None
        assert reply.usage.billed_s == 10.0
        assert reply.usage.usd == pytest.approx(0.1)
        clock.advance(1000)
        assert sum(charge.usd for charge in backend.settle(clock.now())) == pytest.approx(0.6)
        assert backend.rent is not None
        assert (backend.rent.bills_boot, backend.rent.bills_idle) == (True, True)


async def test_a_public_models_prediction_is_paid_for_what_it_ran() -> None:
    clock = FakeClock()
    options: dict[str, Any] = {"deployment": None, "model": "meta/llama-3"}
    price = {"usd_per_second": 0.01, "usd_per_request": 0.5}
    async with endpoint(Replicate, made(starting=8.0), clock, price=price, **options) as (backend, _):
        reply = await answer(backend)
        assert reply.usage is not None
        assert (reply.usage.billed_s, reply.usage.boot_s, reply.usage.reported) == (2.0, 8.0, True)
        assert reply.usage.usd == pytest.approx(0.52)
        clock.advance(1000)
        assert backend.settle(clock.now()) == []
        assert backend.rent is not None
        assert (backend.rent.bills_boot, backend.rent.bills_idle) == (False, False)


async def test_a_private_version_is_billed_as_the_file_says() -> None:
    options: dict[str, Any] = {"deployment": None, "version": "5c7d", "billing": "instance"}
    options["price"] = {"usd_per_second": 0.01}
    async with endpoint(Replicate, made(starting=8.0), FakeClock(), **options) as (backend, _):
        reply = await answer(backend)
        assert reply.usage is not None
        assert reply.usage.usd == pytest.approx(0.1)


async def test_no_price_is_unknown_and_never_nothing() -> None:
    async with endpoint(Replicate, made(), price=None) as (backend, _):
        reply = await answer(backend)
        assert reply.usage is not None
        assert (reply.usage.usd, backend.price_known) == (None, False)
    with pytest.raises(ValidationError, match="says no price"):
        Replicate.Options.model_validate({**Replicate.example("http://127.0.0.1:9"), "price": {}})


# -- hanging up


@pytest.mark.parametrize("status", ["starting", "processing"])
async def test_who_hangs_up_cancels_the_prediction(status: str) -> None:
    clock = FakeClock()
    steps: list[Step] = [prediction(status) for _ in range(100)]
    async with providing(scripted(*steps)) as provider:
        options = {**Replicate.example(provider.url), "price": {"usd_per_second": 1.0}}
        async with built(Replicate, options, clock=clock) as (backend, background):
            task = asyncio.ensure_future(answer(backend))
            await until(lambda: len(provider.seen) > 2)
            clock.advance(4)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await background.done()
            cancelled = [r for r in provider.seen if r.target == "/v1/predictions/p1x/cancel"]
            assert [request.method for request in cancelled] == ["POST"]
            assert backend.instances(clock.now())["busy"] == 0
            # One that nobody had taken cost nothing; one that ran is charged.
            charged = sum(charge.usd for charge in backend.settle(clock.now()))
            assert charged == (4.0 if status == "processing" else 0.0)


async def test_a_prediction_is_cancelled_though_its_id_came_after_the_caller_had_gone() -> None:
    let_go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        await let_go.wait()
        await wire.json(201, prediction("starting"))

    async with providing(scripted(late)) as provider:
        async with built(Replicate, Replicate.example(provider.url)) as (backend, background):
            task = asyncio.ensure_future(answer(backend))
            await until(lambda: provider.busy == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            let_go.set()
            await background.done()
    assert provider.seen[-1].target == "/v1/predictions/p1x/cancel"


async def test_a_prediction_that_cannot_be_asked_for_is_given_up_and_cancelled() -> None:
    steps: list[Step] = [prediction("starting"), *[429] * 6]
    async with endpoint(Replicate, scripted(*steps)) as (backend, provider):
        came = await failure(backend)
        assert type(came) is BackendBroke
        assert came.work is Work.MAYBE
        assert "status cannot be read" in str(came)
        await until(lambda: provider.seen[-1].target.endswith("/cancel"))


async def test_a_prediction_that_was_removed_is_broken_and_not_cancelled() -> None:
    async with endpoint(Replicate, scripted(prediction("starting"), 404)) as (backend, provider):
        assert type(await failure(backend)) is BackendBroke
    assert not any(request.target.endswith("/cancel") for request in provider.seen)


# -- models that exist already


async def test_raw_sends_the_body_as_input_and_answers_with_the_output() -> None:
    output = ["https://replicate.delivery/xyz/out.png"]
    async with endpoint(Replicate, made(output=output), envelope="raw") as (backend, provider):
        reply = await answer(backend, a_call(b'{"prompt": "a cat", "seed": 1e2}'))
        assert (reply.status, reply.headers) == (200, [(b"content-type", b"application/json")])
        assert json.loads(reply.body or b"") == output
        assert not backend.can_open
    assert provider.seen[0].json() == {"input": {"prompt": "a cat", "seed": 100.0}}
    assert len(provider.seen) == 1  # a file's URL is the client's to fetch


@pytest.mark.parametrize("body", [b"", b"[1]", b"no json", b"[" * 9000])
async def test_raw_takes_json_objects_only(body: bytes) -> None:
    async with endpoint(Replicate, made(), envelope="raw") as (backend, provider):
        assert (await answer(backend, a_call(body))).status == 400
        assert provider.seen == []


async def test_an_input_that_does_not_fit_blames_the_client_in_raw_and_the_model_otherwise() -> None:
    said = b'{"title":"Input validation failed","detail":"- prompt is required","invalid_fields":[]}'
    async with endpoint(Replicate, says(422, said), envelope="raw") as (backend, _):
        reply = await answer(backend)
        assert (reply.status, reply.body, reply.usage) == (422, said, None)
        assert backend.settle(1e9) == []
    async with endpoint(Replicate, says(422, said)) as (backend, _):
        assert (await failure(backend)).work is Work.NOT_STARTED


async def test_what_it_cannot_carry_is_never_sent_there() -> None:
    binary = a_call(headers=[(b"inference-header-content-length", b"9")])
    async with endpoint(Replicate, made(), max_input="10KiB") as (backend, _):
        assert "bytes as a prediction, 10240 are allowed" in str(backend.cannot_carry(a_call(b"x" * 9000)))
        assert backend.cannot_carry(a_call(b"x" * 1000)) is None
        assert backend.cannot_carry(binary) is None
        assert backend.cannot_carry(a_call(stream=True)) is None
    async with endpoint(Replicate, made(), envelope="raw") as (backend, _):
        for call in (binary, a_call(method=b"GET"), a_call(stream=True)):
            assert "`envelope: raw`" in str(backend.cannot_carry(call))


# -- questions and pings


@pytest.mark.parametrize(
    ("status", "can"), [(200, True), (401, False), (403, False), (404, False), (429, None), (500, None)]
)
async def test_a_deployment_is_asked_whether_it_is_there(*, status: int, can: bool | None) -> None:
    async with endpoint(Replicate, says(status)) as (backend, provider):
        assert await backend.probe(0) is can
    assert (provider.seen[0].method, provider.seen[0].target) == ("GET", "/v1/deployments/acme/minilm")


async def test_there_is_no_question_about_a_version() -> None:
    async with endpoint(Replicate, says(200), deployment=None, version="5c7d") as (backend, provider):
        assert await backend.probe(0) is None
    assert provider.seen == []


async def test_a_ping_makes_an_instance_boot_and_is_charged() -> None:
    booted = made(starting=30.0, output=json.dumps(kit.write_result(204, [
        ("x-overspill-boot-id", "b"), ("x-overspill-boot-age", "0.0"),
    ], b"")), metrics={"predict_time": 0.5})  # fmt: skip
    async with endpoint(Replicate, in_turn(booted), price={"usd_per_second": 1.0}) as (backend, provider):
        usage = await backend.ping(0, route="embed", kind="prewarm")
        assert usage is not None
        assert (usage.instance, usage.boot_s, usage.usd) == ("b", 30.0, 30.5)
        assert [charge.kind for charge in backend.settle(backend.kit.clock.now())] == ["prewarm"]
    assert provider.seen[0].fields["prefer"] == "wait=60"
    event = json.loads(provider.seen[0].json()["input"]["event"])
    assert event["rawPath"] == "/.overspill/ping"
