"""Any provider of language models that the litellm package knows, paid by token.

OpenAI calls are handed to litellm's functions and its answers written as OpenAI's. litellm is imported when
the backend is opened, not before: it takes seconds and much memory. It is kept from trying again by itself,
from logging what is asked and answered, and from fetching its list of prices. Knows litellm; it must never
know slots, routes or another backend.

Nothing is told about cold starts: they are unknown. Redirects are not followed for providers that are
reached through OpenAI's own client; for others litellm decides.
"""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import warnings
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Literal

import msgspec

from backends import litellm_calls, litellm_errors
from backends.base import Backend, BackendOptions, Kit, backends
from backends.credentials import AddedFields, Credentials
from backends.elastic import HttpUrl
from backends.litellm_calls import Unsuited
from backends.openai_usage import Tokens, usage_of
from backends.openai_wire import ModelName, Operation, Operations, unfit
from backends.rates import rent_of
from backends.token_prices import NoPrice
from backends.token_rates import TokenPriceOption, TokenRates, TypicalTokens, listed
from gateway.errors import AnswerTruncated, ConfigError
from gateway.options import SecretRef
from gateway.vocab import Call, Headers, Rent, Reply, Start, Usage

MALICIOUS = ("1.82.7", "1.82.8")
"""Releases that were published by an attacker and steal credentials."""

_OFFERED: tuple[Operation, ...] = ("chat", "completions", "embeddings")
_FUNCTIONS = {"chat": "acompletion", "completions": "atext_completion", "embeddings": "aembedding"}
_JSON: Headers = [(b"content-type", b"application/json")]
_EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class LiteLLMOptions(BackendOptions):
    """A model of a provider that litellm knows."""

    type: Literal["litellm"]
    """Kind of backend."""
    model: ModelName
    """litellm's name for it, provider first, like `bedrock/anthropic.claude-…` or `groq/llama-3.3-70b`."""
    api_key: SecretRef | None = None
    """The provider's key. Without it, litellm looks where that provider's keys usually are."""
    api_base: HttpUrl | None = None
    """Address of the provider's API, where it is not the usual one."""
    operations: Operations = _OFFERED
    """What the model can be asked for."""
    pass_on: tuple[str, ...] = ()
    """Further members of a request that are handed on, like `top_k`; else those of OpenAI's API only."""
    remote_content: Literal["refuse", "allow"] = "refuse"
    """`allow`: messages may refer to pictures and files by address, and tools to servers. litellm goes there
    itself for some providers, from this machine and to wherever the client says."""
    price: TokenPriceOption | None = None
    """What it costs, or `litellm/MODEL` for another model in litellm's list. Without it, what that list says
    of this one."""
    typical_tokens: TypicalTokens | None = None
    """How large a call usually is. Prices by token are compared and reserved by it; without it their cost is
    known only afterwards, and nothing is granted under a limit in dollars."""


@backends.add("litellm")
class LiteLLM(Backend):
    """One model."""

    Options: ClassVar[type[BackendOptions]] = LiteLLMOptions
    needs: ClassVar[str] = "litellm"
    options: LiteLLMOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        super().__init__(name, options, kit)
        assert isinstance(options, LiteLLMOptions)
        self._price = options.price or _listed_price(options.model)
        typical = options.typical_tokens.tokens if options.typical_tokens else None
        ahead = None if self._price is None else self._price.tokens_usd(typical)
        self._rent = rent_of(self._price, idle_s=0.0, boot_s=0.0, tokens_usd=ahead)
        self._added = AddedFields(options.headers)
        secrets = {f"header {field}": reference for field, reference in self._added.secret.items()}
        if options.api_key is not None:
            secrets["api_key"] = options.api_key
        self.credentials = Credentials(name, secrets)
        self._litellm: Any = None
        self._session: Any = None

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a model behind an OpenAI-compatible server at `url`."""
        return {
            "type": "litellm",
            "model": "openai/small",
            "api_base": f"{url}/v1",
            "api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_million_input_tokens": 0.1, "usd_per_million_output_tokens": 0.4},
            "typical_tokens": {"input": 1000, "output": 300},
        }

    @property
    def rent(self) -> Rent:
        """What a call costs, as far as it can be told ahead."""
        return self._rent

    @property
    def price_known(self) -> bool:
        """True when the file or litellm's list says what a token costs."""
        return self._price is not None

    async def open(self) -> None:
        """Import litellm, which takes seconds. Raises ConfigError where it, or a secret, is not there."""
        self.credentials.check()
        self._litellm = await asyncio.to_thread(_imported, self.name)
        if self._litellm.aclient_session is None:
            httpx = importlib.import_module("httpx")
            limits = httpx.Limits(max_connections=None)
            self._session = httpx.AsyncClient(follow_redirects=False, limits=limits, timeout=None)
            self._litellm.aclient_session = self._session
        try:
            self._litellm.get_llm_provider(self.options.model, api_base=self.options.api_base)
        except Exception as error:
            said = self.credentials.excerpt(str(error))
            raise ConfigError(f"{self.name}: litellm does not know the model's provider: {said}") from None

    async def close(self) -> None:
        """Close litellm's connections: those of this process, which are one pool for all."""
        if self._litellm is None:
            return
        if self._session is not None:
            self._litellm.aclient_session = None
            await self._session.aclose()
            self._session = None
        await self._litellm.close_litellm_async_clients()
        self._litellm.in_memory_llm_clients_cache.flush_cache()

    def cannot_carry(self, call: Call) -> str | None:
        """Another protocol, or something that the model does not offer."""
        return unfit(self.name, call, tuple(each for each in self.options.operations if each in _OFFERED))

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One call of litellm's. Leaving before the answer's end closes its connection."""
        return self._send(call)

    @asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        try:
            asked = litellm_calls.arguments(
                call.operation,
                await call.body.read(1 << 62),  # the protocol has read it all, within its own limit
                also=self.options.pass_on,
                remote_content=self.options.remote_content == "allow",
            )
        except Unsuited as error:
            yield self._refused(400, str(error), error.field or None)
            return
        given = {**asked.arguments, **self._ours(stream=asked.streaming)}
        function = getattr(self._litellm, _FUNCTIONS[call.operation])
        try:
            answer = await function(**given)
        except Exception as error:
            yield self._failed(error)
            return
        if not asked.streaming:
            yield self._whole(answer)
            return
        reply = Reply(200, list(_EVENTS), start=Start.UNKNOWN, usage=Usage())
        reply.stream = self._events(answer, reply, wants_usage=asked.wants_usage)
        try:
            yield reply
        finally:
            await _closed(answer)

    def _ours(self, *, stream: bool) -> dict[str, Any]:
        """The arguments that are ours to say."""
        options = self.options
        ours: dict[str, Any] = {"model": options.model, "num_retries": 0, "max_retries": 0}
        if stream:
            ours["stream"] = True
        if options.api_key is not None:
            ours["api_key"] = self.credentials["api_key"]
        if options.api_base is not None:
            ours["api_base"] = options.api_base
        if options.headers:
            added = self._added.onto([], self.credentials)
            ours["extra_headers"] = {name.decode("latin-1"): value.decode() for name, value in added}
        return ours

    # -- answers

    def _whole(self, answer: Any) -> Reply:
        body = litellm_calls.whole(answer.model_dump(exclude_none=True))
        return Reply(200, list(_JSON), body, usage=self._usage(usage_of(body)))

    async def _events(self, answer: Any, reply: Reply, *, wants_usage: bool) -> AsyncIterator[bytes]:
        tokens: Tokens | None = None
        try:
            async for chunk in answer:
                document = chunk.model_dump(exclude_none=True)
                if document.get("usage"):
                    tokens = usage_of(msgspec.json.encode(document)) or tokens
                if data := litellm_calls.event(document, wants_usage=wants_usage):
                    yield data
        except Exception as error:
            said = self.credentials.excerpt(str(error))
            raise AnswerTruncated(f"{self.name}: the answer broke off: {said}") from None
        reply.usage = self._usage(tokens)
        yield litellm_calls.DONE

    def _usage(self, tokens: Tokens | None) -> Usage:
        usd = None if self._price is None else self._price.call_usd(0.0, tokens)
        read, wrote = (None, None) if tokens is None else tokens[:2]
        return Usage(usd=usd, reported=tokens is not None, input_tokens=read, output_tokens=wrote)

    def _failed(self, error: Exception) -> Reply:
        """The client's own mistake as an answer; raises what anything else means."""
        said = self.credentials.excerpt(str(error))
        status = litellm_errors.mistake(error)
        if status is not None:
            return self._refused(status, said)
        failure = litellm_errors.backend_error(f"{self.name}: {said}", error, self.kit.clock.wall())
        if getattr(error, "status_code", None) == 401:
            self.credentials.forget()
        raise failure from None

    def _refused(self, status: int, said: str, field: str | None = None) -> Reply:
        """Nothing was asked of the model, so nothing is owed."""
        usd = None if self._price is None else 0.0
        return Reply(status, list(_JSON), litellm_calls.error(status, said, field), usage=Usage(usd=usd))


def _listed_price(model: str) -> TokenRates | None:
    try:
        return TokenRates.model_validate(listed(model))
    except NoPrice:
        return None


def _imported(name: str) -> Any:
    """litellm, made quiet. Raises ConfigError."""
    if importlib.util.find_spec("litellm") is None:
        raise ConfigError(
            f"{name}: type litellm needs the litellm package; install the extra: pip install 'overspill[llm]'"
        )
    version = importlib.metadata.version("litellm")
    if version in MALICIOUS:
        raise ConfigError(
            f"{name}: litellm {version} was published by an attacker and steals credentials; remove it, "
            "change every secret that this machine knows, and install another version"
        )
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # its list comes from the network otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is within itself
        litellm: Any = importlib.import_module("litellm")
        _quiet(litellm)
        # Much of it is loaded with the first call of each kind: these two are answered without being sent.
        hello = {"messages": [{"role": "user", "content": "hello"}], "mock_response": "hello"}
        litellm.completion(model="openai/none", api_key="none", **hello)
        deque(litellm.completion(model="openai/none", api_key="none", stream=True, **hello), maxlen=0)
    return litellm


def _quiet(litellm: Any) -> None:
    """Nothing is sent, logged or tried again but what is asked of it."""
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.telemetry = False
    litellm.num_retries = 0
    litellm.disable_aiohttp_transport = True  # its sessions are not closed with the client
    for callbacks in ("callbacks", "input_callback", "success_callback", "failure_callback"):
        setattr(litellm, callbacks, [])
    for logger in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(logger).disabled = True  # what it says may quote a request
    for logger in ("httpcore", "httpx", "openai"):
        logging.getLogger(logger).setLevel(logging.WARNING)  # and so may these, below that


async def _closed(stream: Any) -> None:
    """Close a stream of litellm's, whichever of its wrappers it is in."""
    while stream is not None and not hasattr(stream, "aclose"):
        stream = getattr(stream, "completion_stream", None)
    if stream is not None:
        await stream.aclose()
