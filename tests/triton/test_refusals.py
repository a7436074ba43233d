"""What each failure answer of Triton means for another attempt: one row for every text that is known."""

import pytest

from backends.triton_refusals import refusal
from gateway.errors import BackendBroke, BackendError, BackendFull, BackendUnready
from gateway.vocab import Verdict, Work

FULL, UNREADY, BROKE = BackendFull, BackendUnready, BackendBroke
STUB = "Stub process 'model_0' is not healthy."

TABLE: list[tuple[int, str, type[BackendError] | None]] = [
    (503, "[request id: 7] Exceeds maximum queue size", FULL),
    (503, "[request id: <id_unknown>] Exceeds maximum queue size", FULL),
    (503, "Request timeout expired", FULL),
    (503, "", FULL),
    (429, "too many requests", FULL),
    (503, "Server not ready", UNREADY),
    (503, "Server exiting", UNREADY),
    (503, "Server is stopping, scheduler for model has stopped accepting new inference requests", UNREADY),
    (503, "Request for unknown model: 'm' version 3 is not at ready state", UNREADY),
    (503, "model 'm' is not ready", UNREADY),
    (404, "Request for unknown model: 'm' is not found", UNREADY),
    (404, "Request for unknown model: 'm' has no available versions", UNREADY),
    (400, "Request for unknown model: 'm' is not found", UNREADY),
    (400, "Model version not ready", UNREADY),
    (400, STUB, BROKE),
    (400, "unexpected shape for input 'x': expected [-1,4], got [1,5]", None),
    (400, "the sensor is not ready", None),
    (403, "This API is restricted, expecting header 'triton-access-token'", None),
    (404, "the path /nope is not known", None),
    (413, "too large", None),
    (500, "Failed to process the request(s) for model 'm', message: it broke", BROKE),
    (500, "failed to parse the request JSON buffer: Invalid value. at 0", None),
    (500, STUB, BROKE),
    (501, "ModelInfer RPC doesn't support models with decoupled transaction policy", None),
    (502, "bad gateway", BROKE),
    (504, "upstream request timeout", BROKE),
]


@pytest.mark.parametrize(("status", "text", "kind"), TABLE)
def test_each_answer_has_one_meaning(status: int, text: str, kind: type[BackendError] | None) -> None:
    error = refusal(status, text, inference=True, version_asked=False)
    assert type(error) is (kind or type(None))
    if error is not None:
        assert text in str(error)
        assert error.work is (Work.MAYBE if kind is BROKE else Work.NOT_STARTED)
        assert error.verdict is (Verdict.NEUTRAL if kind is FULL else Verdict.FAILURE)


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("text", ["Request for unknown model: 'm' version 9 is not found"])
def test_a_version_that_was_asked_for_and_is_unknown_is_the_clients_answer(status: int, text: str) -> None:
    assert refusal(status, text, inference=True, version_asked=True) is None


def test_a_version_that_was_asked_for_and_is_still_loading_may_be_ready_elsewhere() -> None:
    text = "Request for unknown model: 'm' version 9 is not at ready state"
    assert type(refusal(503, text, inference=True, version_asked=True)) is UNREADY


@pytest.mark.parametrize("text", ["Model version not ready", STUB])
def test_not_ready_is_the_answer_to_a_question_about_readiness(text: str) -> None:
    assert refusal(400, text, inference=False, version_asked=False) is None
