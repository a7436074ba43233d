"""What a request may say to litellm, what its exceptions mean, and its objects as OpenAI's answers."""

import importlib.metadata
import importlib.util
import json
from typing import Any

import pytest

from backends.litellm import LiteLLM
from backends.litellm_calls import Unsuited, arguments, event, whole
from backends.litellm_errors import backend_error, mistake
from gateway.errors import BackendBroke, BackendDenied, BackendDown, BackendError, BackendFull, ConfigError
from tests.support.provider import SECRET, built

HI = [{"role": "user", "content": "hi"}]


def asked(
    operation: str = "chat", *, also: tuple[str, ...] = (), remote: bool = False, **request: Any
) -> Any:
    body = json.dumps({"model": "small", **request}).encode()
    return arguments(operation, body, also=also, remote_content=remote)


def test_what_openais_api_knows_is_handed_on() -> None:
    given = asked(messages=HI, temperature=0.5, tools=[{"type": "function", "function": {}}], stop=None)
    assert given.arguments == {
        "messages": HI, "temperature": 0.5, "tools": [{"type": "function", "function": {}}]
    }  # fmt: skip
    assert not given.streaming
    assert asked("embeddings", input=["a"], stream=True).arguments == {"input": ["a"]}
    assert asked("completions", prompt="a", best_of=2).arguments == {"prompt": "a", "best_of": 2}


@pytest.mark.parametrize(
    "name",
    [
        "api_base", "api_key", "base_url", "custom_llm_provider", "extra_body", "extra_headers", "fallbacks",
        "metadata", "mock_response", "num_retries", "aws_region_name", "vertex_credentials", "top_k",
    ],
)  # fmt: skip
def test_what_it_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(Unsuited, match=f"does not take '{name}'") as caught:
        asked(messages=HI, **dict[str, Any]({name: "http://elsewhere"}))
    assert caught.value.field == name
    assert asked(messages=HI, also=("top_k",), top_k=5).arguments["top_k"] == 5


def test_every_stream_is_asked_what_it_used() -> None:
    plain = asked(messages=HI, stream=True)
    assert plain.arguments["stream_options"] == {"include_usage": True}
    assert (plain.streaming, plain.wants_usage) == (True, False)
    assert asked(messages=HI, stream=True, stream_options={"include_usage": True}).wants_usage


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}},
        {"type": "image_url", "image_url": " HTTPS://elsewhere/x.png"},
        {"type": "file", "file": {"file_id": "gs://bucket/x"}},
        {"type": "any", "deep": [{"er": ["file:///etc/passwd"]}]},
    ],
)
def test_content_by_address_is_refused_unless_allowed(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "see http://a"}, part]}]
    with pytest.raises(Unsuited, match="as data, not by its address"):
        asked(messages=messages)
    assert asked(messages=messages, remote=True).arguments["messages"] == messages
    data = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    assert asked(messages=[{"role": "user", "content": [data]}]).arguments


def test_tools_that_lead_elsewhere_are_refused() -> None:
    with pytest.raises(Unsuited, match="type function only"):
        asked(messages=HI, tools=[{"type": "mcp", "server_url": "http://elsewhere"}])


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"messages": None},
        {"messages": "hi"},
        {"messages": ["hi"]},
        {"messages": HI, "tools": {"type": "x"}},
    ],
)
def test_requests_that_make_no_sense(request_: dict[str, Any]) -> None:
    with pytest.raises(Unsuited):
        asked(**request_)


def test_empty_members_that_clients_look_at_are_there() -> None:
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": []}}]}
    assert json.loads(whole(answer))["choices"][0] == {
        "index": 0, "finish_reason": None,
        "message": {"role": "assistant", "tool_calls": [], "content": None},
    }  # fmt: skip


def test_events_are_those_that_the_client_asked_for() -> None:
    usage = {"prompt_tokens": 1}
    last = {"choices": [{"index": 0, "delta": {}}], "usage": usage}
    assert event(dict(last), wants_usage=False) == b""
    assert json.loads(event(dict(last), wants_usage=True)[6:]) == {"choices": [], "usage": usage}
    text = {"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": usage}
    shown = event(text, wants_usage=False)
    assert json.loads(shown[6:]) == {
        "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]
    }
    assert shown.endswith(b"\n\n")


class Raised(Exception):
    """As litellm's exceptions look."""

    def __init__(self, text: str = "no", status_code: int | None = None, headers: Any = None) -> None:
        super().__init__(text)
        self.status_code = status_code
        self.litellm_response_headers = headers


class BadRequestError(Raised): ...


class ContextWindowExceededError(BadRequestError): ...


class ConnectError(Exception): ...


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (ContextWindowExceededError("long", 400), 400),
        (BadRequestError("bad", 422), 422),
        (BadRequestError("bad"), 400),
        (Raised("bad", 500), None),
        (ValueError("bad"), None),
    ],
)
def test_whose_mistake_it_was(raised: Exception, status: int | None) -> None:
    assert mistake(raised) == status


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (Raised("x", 429, {"Retry-After": "7"}), BackendFull),
        (Raised("insufficient_quota", 429), BackendDenied),
        (Raised("x", 503), BackendFull),
        (Raised("x", 401), BackendDenied),
        (Raised("x", 404), BackendDenied),
        (Raised("x", 408), BackendBroke),
        (Raised("x", 500), BackendBroke),
        (KeyError("x"), BackendBroke),
    ],
)
def test_what_an_exception_means(raised: Exception, kind: type[BackendError]) -> None:
    error = backend_error("said", raised, 0.0)
    assert type(error) is kind
    assert error.retry_after == (7.0 if getattr(raised, "litellm_response_headers", None) else None)


def test_a_connection_that_was_refused_is_found_among_the_causes() -> None:
    raised = Raised("Connection error.", 500)
    raised.__cause__ = Raised("again")
    raised.__cause__.__context__ = ConnectError("refused")
    assert type(backend_error("said", raised, 0.0)) is BackendDown
    raised.__cause__.__context__ = raised  # a circle of causes has an end
    assert type(backend_error("said", raised, 0.0)) is BackendBroke


async def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", SECRET)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install the extra: pip install 'overspill\[llm\]'"):
        async with built(LiteLLM, LiteLLM.example("http://127.0.0.1:9")):
            pass


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8"])
async def test_the_two_releases_of_the_attacker_are_never_imported(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", SECRET)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(ConfigError, match=f"litellm {version} was published by an attacker"):
        async with built(LiteLLM, LiteLLM.example("http://127.0.0.1:9")):
            pass
