"""IBM watsonx.ai: one path for a deployment's task, opened by a token that is had for an API key."""

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from backends.watsonx import Watsonx
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, ConfigError
from gateway.vocab import Call, Start, Verdict, WholeBody, Work
from tests.support.endpoints import answer, endpoint, failure, in_turn, says
from tests.support.provider import SECRET, Received, Wire, a_call, a_chat, providing

KEY: dict[str, Any] = {"api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"}, "token": None}


def raw(method: bytes = b"POST", *, stream: bool = False) -> Call:
    return Call(
        protocol="raw", operation="raw", method=method, target=b"/anything", headers=[],
        body=WholeBody(b'{"input_data":[]}'), stream=stream, request_id="req-1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "stream", "target"),
    [
        ("predictions", False, "/ml/v4/deployments/granite/predictions?version=2024-10-10"),
        ("chat", False, "/ml/v1/deployments/granite/text/chat?version=2024-10-10"),
        ("chat", True, "/ml/v1/deployments/granite/text/chat_stream?version=2024-10-10"),
        ("generation", False, "/ml/v1/deployments/granite/text/generation?version=2024-10-10"),
        ("generation", True, "/ml/v1/deployments/granite/text/generation_stream?version=2024-10-10"),
        ("ai_service", False, "/ml/v4/deployments/granite/ai_service?version=2024-10-10"),
        ("ai_service", True, "/ml/v4/deployments/granite/ai_service_stream?version=2024-10-10"),
        ("forecast", False, "/ml/v1/deployments/granite/time_series/forecast?version=2024-10-10"),
    ],
)
async def test_the_body_goes_to_the_tasks_path(*, task: str, stream: bool, target: str) -> None:
    async with endpoint(Watsonx, says(200, b'{"predictions":[]}'), task=task) as (backend, provider):
        reply = await answer(backend, raw(stream=stream))
        assert (reply.status, reply.body, reply.start) == (200, b'{"predictions":[]}', Start.WARM)
    (request,) = provider.seen
    assert (request.method, request.target) == ("POST", target)
    assert request.body == b'{"input_data":[]}'
    assert request.fields["authorization"] == f"Bearer {SECRET}"


async def test_a_chat_goes_out_as_it_came() -> None:
    async with endpoint(Watsonx, says(200)) as (backend, provider):
        await answer(backend, a_chat())
    assert provider.seen[0].json() == {"model": "small", "messages": []}


@pytest.mark.parametrize(
    ("task", "call", "why"),
    [
        ("chat", a_call(), "not infer of kserve"),
        ("chat", a_chat(operation="embeddings"), "not embeddings of openai"),
        ("predictions", a_chat(), "takes calls of raw routes, not chat"),
        ("predictions", raw(b"GET"), "POST requests only"),
        ("forecast", raw(stream=True), "cannot answer with a stream"),
    ],
)
async def test_what_the_task_does_not_take_is_never_sent_there(task: str, call: Call, why: str) -> None:
    async with endpoint(Watsonx, says(200), task=task) as (backend, _):
        assert why in str(backend.cannot_carry(call))
        assert backend.cannot_carry(raw()) is None


ERROR = b'{"errors":[{"code":"deployment_not_found","message":"no"}],"trace":"t","status_code":0}'


@pytest.mark.parametrize(
    ("status", "kind", "work"),
    [
        (429, BackendFull, Work.NOT_STARTED),
        (503, BackendFull, Work.NOT_STARTED),
        (401, BackendDenied, Work.NOT_STARTED),
        (402, BackendDenied, Work.NOT_STARTED),
        (403, BackendDenied, Work.NOT_STARTED),
        (404, BackendDenied, Work.NOT_STARTED),
        *[(status, BackendBroke, Work.MAYBE) for status in (408, 500, 502, 504, 520, 521, 524)],
    ],
)
async def test_what_a_failure_means(status: int, kind: type[BackendError], work: Work) -> None:
    async with endpoint(Watsonx, says(status, ERROR, {"retry-after": "3"})) as (backend, _):
        came = await failure(backend)
        assert type(came) is kind
        assert came.work is work
        assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
        assert came.retry_after == (3.0 if kind is BackendFull else None)
        assert "deployment_not_found" in str(came)


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_what_blames_the_request_is_an_answer(status: int) -> None:
    async with endpoint(Watsonx, says(status, ERROR)) as (backend, _):
        reply = await answer(backend)
        assert (reply.status, reply.body) == (status, ERROR)


async def test_many_calls_share_one_token_that_is_had_for_the_key() -> None:
    async def grant(request: Received, wire: Wire) -> None:
        await wire.json(200, {"access_token": "iam-1", "expires_in": 3600, "token_type": "Bearer"})

    async with providing(grant) as iam:
        async with endpoint(Watsonx, says(200), **KEY, iam_url=iam.url) as (backend, provider):
            await asyncio.gather(*(answer(backend) for _ in range(4)))
    (asked,) = iam.seen
    assert (asked.method, asked.target) == ("POST", "/identity/token")
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["urn:ibm:params:oauth:grant-type:apikey"], "apikey": [SECRET],
    }  # fmt: skip
    assert {request.fields["authorization"] for request in provider.seen} == {"Bearer iam-1"}
    assert not any(SECRET in json.dumps(request.fields) for request in provider.seen)


async def test_a_token_that_was_taken_back_is_replaced_and_the_call_sent_again() -> None:
    tokens = iter(("iam-1", "iam-2"))

    async def grant(request: Received, wire: Wire) -> None:
        await wire.json(200, {"access_token": next(tokens), "expires_in": 3600})

    async with providing(grant) as iam:
        behaviour = in_turn(says(200), says(401, ERROR), says(200))
        async with endpoint(Watsonx, behaviour, **KEY, iam_url=iam.url) as (backend, provider):
            for _ in range(2):
                assert (await answer(backend)).status == 200
    assert [r.fields["authorization"][-5:] for r in provider.seen] == ["iam-1", "iam-1", "iam-2"]


async def test_a_key_that_is_refused_is_never_shown() -> None:
    async with providing(says(400, f'{{"errorMessage":"{SECRET}"}}'.encode())) as iam:
        async with endpoint(Watsonx, says(200), **KEY, iam_url=iam.url) as (backend, provider):
            came = await failure(backend)
            assert provider.seen == []
    assert type(came) is BackendDenied
    assert came.work is Work.NOT_STARTED


async def test_a_key_that_is_missing_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVERSPILL_EXAMPLE_SECRET")
    with pytest.raises(ConfigError, match="OVERSPILL_EXAMPLE_SECRET is not set"):
        async with endpoint(Watsonx, says(200), **KEY):
            pass


async def test_it_is_owned_and_costs_its_hours_only() -> None:
    async with endpoint(Watsonx, says(200), instances=2) as (backend, _):
        reply = await answer(backend)
        assert reply.usage is not None
        assert reply.usage.usd is None
        assert backend.usd_per_replica_hour == pytest.approx(10.44)
        assert (backend.owned, backend.can_open, backend.rent, backend.settle(1e9)) == (True, False, None, [])


@pytest.mark.parametrize("wrong", [{"token": None}, {"api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"}}])
def test_there_is_one_way_in(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of api_key and token"):
        Watsonx.Options.model_validate({**Watsonx.example("http://127.0.0.1:9"), **wrong})


@pytest.mark.parametrize("deployment", ["a/b", "..", "a?b", ""])
def test_a_deployment_stays_within_its_path(deployment: str) -> None:
    with pytest.raises(ValidationError):
        Watsonx.Options.model_validate({**Watsonx.example("http://127.0.0.1:9"), "deployment": deployment})
