"""Azure ML: machines that stand by; which failures are Azure's and which the model's; keys and Entra tokens."""

import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from backends.azure_ml import BODY_LIMIT, AzureMl
from gateway.clock import FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, ConfigError
from gateway.vocab import Start, Verdict, Work
from tests.support.endpoints import endpoint, failure, says
from tests.support.provider import SECRET, Behaviour, Received, Wire, a_call, providing


async def test_the_request_goes_out_as_it_came_with_our_key_to_our_deployment() -> None:
    headers = [
        (b"authorization", b"Bearer callers"),
        (b"azureml-model-deployment", b"theirs"),
        (b"x-mine", b"1"),
    ]
    async with endpoint(AzureMl, says(200, b"ok", {"x-ms-run-fn-exec-ms": "12.5"}), deployment="blue") as (
        backend,
        provider,
    ):
        async with backend.send(a_call(headers=headers), 0) as reply:
            assert (reply.status, reply.body) == (200, b"ok")
            assert (b"x-ms-run-fn-exec-ms", b"12.5") in reply.headers
    request = provider.seen[0]
    assert request.target == "/v2/models/minilm/infer"
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert request.fields["azureml-model-deployment"] == "blue"
    assert request.fields["x-mine"] == "1"


async def test_a_scoring_script_has_one_path_and_takes_work_only() -> None:
    async with endpoint(AzureMl, says(200), path="/score") as (backend, provider):
        async with backend.send(a_call(), 0):
            pass
        assert provider.seen[0].target == "/score"
        assert "azureml-model-deployment" not in provider.seen[0].fields
        assert "/score is for POST requests" in str(backend.cannot_carry(a_call(method=b"GET")))
        assert backend.cannot_carry(a_call()) is None


async def test_the_limit_of_a_request() -> None:
    async with endpoint(AzureMl, says(200)) as (backend, _):
        assert backend.cannot_carry(a_call(bytes(BODY_LIMIT))) is None
        assert "10485760 are allowed" in str(backend.cannot_carry(a_call(bytes(BODY_LIMIT + 1))))


MODEL = "ms-azureml-model-error-statuscode"


@pytest.mark.parametrize(
    ("status", "fields", "kind"),
    [
        (401, {}, BackendDenied),
        (403, {}, BackendDenied),
        (404, {}, BackendDenied),
        (413, {}, BackendDenied),
        (408, {}, BackendBroke),
        (424, {MODEL: "500", "ms-azureml-model-error-reason": "model_error"}, BackendBroke),
        (424, {MODEL: "503"}, BackendFull),
        (424, {MODEL: "429"}, BackendFull),
        (424, {MODEL: "what"}, BackendBroke),
        (424, {}, BackendBroke),
        (429, {"retry-after": "3"}, BackendFull),
        (500, {}, BackendBroke),
        (502, {}, BackendBroke),
        (503, {}, BackendFull),
        (504, {}, BackendBroke),
    ],
)
async def test_whose_failure_it_was(status: int, fields: dict[str, str], kind: type[BackendError]) -> None:
    async with endpoint(AzureMl, says(status, b"it said " + SECRET.encode(), fields)) as (backend, provider):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert type(came) is kind
    assert (came.work is Work.NOT_STARTED) == (kind is not BackendBroke)
    assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
    if "retry-after" in fields:
        assert came.retry_after == 3.0
    if status == 424:
        assert came.answer is not None
        assert came.answer.status == {"500": 500, "503": 503, "429": 429}.get(fields.get(MODEL, ""), 424)
    else:
        assert came.answer is None


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_the_models_own_refusal_is_an_answer_with_its_own_status(status: int) -> None:
    async with endpoint(AzureMl, says(424, b"bad tensor", {MODEL: str(status)})) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.status, reply.body) == (status, b"bad tensor")


async def test_no_call_waits_for_a_machine() -> None:
    async with endpoint(AzureMl, says(200)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is Start.WARM


async def test_a_worker_that_says_that_it_has_just_started_is_believed() -> None:
    fields = {"x-overspill-boot-id": "b", "x-overspill-boot-age": "0.0"}
    async with endpoint(AzureMl, says(200, b"ok", fields)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is Start.COLD


async def test_it_is_owned_and_costs_its_hours_only() -> None:
    clock = FakeClock()
    async with endpoint(AzureMl, says(200), clock, instances=2) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None
        clock.advance(7200)
        assert (backend.settle(clock.now()), backend.instances(clock.now())) == ([], {})
        assert backend.usd_per_replica_hour == pytest.approx(1.06)
        assert (backend.owned, backend.can_open, backend.rent, backend.price_known) == (
            True,
            False,
            None,
            True,
        )
    async with endpoint(AzureMl, says(200), price=None) as (backend, _):
        assert (backend.usd_per_replica_hour, backend.price_known) == (None, False)


@pytest.mark.parametrize("both", [{"key": None}, {"entra": {}}])
def test_there_is_one_way_in(both: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of key and entra"):
        AzureMl.Options.model_validate({**AzureMl.example("http://127.0.0.1:9"), **both})


@pytest.mark.parametrize(
    ("entra", "says_so"),
    [
        ({"client_secret": {"env": "OVERSPILL_EXAMPLE_SECRET"}}, "needs tenant and client_id"),
        ({"tenant": "t"}, "needs client_secret"),
    ],
)
def test_an_application_is_whole_or_not_there(entra: dict[str, Any], says_so: str) -> None:
    example = {**AzureMl.example("http://127.0.0.1:9"), "key": None, "entra": entra}
    with pytest.raises(ValidationError, match=says_so):
        AzureMl.Options.model_validate(example)


def grants(*tokens: str) -> Behaviour:
    left = iter(tokens)

    async def behave(request: Received, wire: Wire) -> None:
        await wire.json(200, {"access_token": next(left), "expires_in": "3599", "token_type": "Bearer"})

    return behave


async def test_an_application_signs_in_with_its_secret_at_its_own_host() -> None:
    async with providing(grants("aad-1")) as login:
        entra = {
            "tenant": "contoso", "client_id": "app-1", "login_url": login.url,
            "client_secret": {"env": "OVERSPILL_EXAMPLE_SECRET"},
        }  # fmt: skip
        async with endpoint(AzureMl, says(200), key=None, entra=entra) as (backend, provider):
            for _ in range(3):
                async with backend.send(a_call(), 0):
                    pass
    (asked,) = login.seen
    assert asked.target == "/contoso/oauth2/v2.0/token"
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"], "client_id": ["app-1"], "client_secret": [SECRET],
        "scope": ["https://ml.azure.com/.default"],
    }  # fmt: skip
    assert {request.fields["authorization"] for request in provider.seen} == {"Bearer aad-1"}
    assert not any(SECRET in json.dumps(request.fields) for request in provider.seen)


async def test_an_application_whose_secret_is_missing_is_told_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OVERSPILL_EXAMPLE_SECRET")
    entra = {"tenant": "t", "client_id": "a", "client_secret": {"env": "OVERSPILL_EXAMPLE_SECRET"}}
    with pytest.raises(ConfigError, match="OVERSPILL_EXAMPLE_SECRET is not set"):
        async with endpoint(AzureMl, says(200), key=None, entra=entra):
            pass


async def test_a_wrong_secret_is_read_again_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fussy(request: Received, wire: Wire) -> None:
        if SECRET in request.body.decode():
            body = {"error": "invalid_client", "error_description": f"AADSTS7000215: {SECRET}"}
            await wire.json(401, body)
        else:
            await wire.json(200, {"access_token": "aad", "expires_in": 3599})

    async with providing(fussy) as login:
        entra = {
            "tenant": "t", "client_id": "a", "login_url": login.url,
            "client_secret": {"env": "OVERSPILL_EXAMPLE_SECRET"},
        }  # fmt: skip
        async with endpoint(AzureMl, says(200), key=None, entra=entra) as (backend, provider):
            came = await failure(backend)
            assert type(came) is BackendDenied
            assert str(came) == "burst: no token from 127.0.0.1: it answered 401 invalid_client"
            assert provider.seen == []
            monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rotated")
            async with backend.send(a_call(), 0) as reply:
                assert reply.status == 200


@pytest.mark.parametrize(("client_id", "suffix"), [(None, ""), ("mine", "&client_id=mine")])
async def test_the_machines_own_identity_needs_nothing(client_id: str | None, suffix: str) -> None:
    async with providing(grants("aad-1")) as machine:
        entra = {"metadata_url": machine.url, "client_id": client_id}
        async with endpoint(AzureMl, says(200), key=None, entra=entra) as (backend, provider):
            async with backend.send(a_call(), 0):
                pass
    assert machine.seen[0].target == (
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fml.azure.com" + suffix
    )
    assert machine.seen[0].fields["metadata"] == "true"
    assert provider.seen[0].fields["authorization"] == "Bearer aad-1"


async def test_a_token_that_was_taken_back_is_replaced() -> None:
    async def fussy(request: Received, wire: Wire) -> None:
        stale = len(provider.seen) > 1 and request.fields["authorization"] == "Bearer aad-1"
        await wire.answer(401 if stale else 200, b"ok")

    async with providing(grants("aad-1", "aad-2")) as machine:
        async with endpoint(AzureMl, fussy, key=None, entra={"metadata_url": machine.url}) as (
            backend,
            provider,
        ):
            for _ in range(2):
                async with backend.send(a_call(), 0) as reply:
                    assert reply.status == 200
    assert [r.fields["authorization"][-5:] for r in provider.seen] == ["aad-1", "aad-1", "aad-2"]
