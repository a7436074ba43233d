"""An OpenAI-compatible server that is paid by use: tokens, seconds or requests of somebody else's.

vLLM, SGLang, TGI, Triton's own OpenAI front end, or any provider that speaks the API. The call goes out
as it came but for the model's name and, where told so, the question for its usage; the answer streams
back. Knows what its answers say of tokens; it must never know another provider's API.

Such providers say nothing about cold starts: the worker kit's two fields do; without them it is unknown.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Literal

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer, Upload, join_url
from backends.elastic import ColdStart, HttpUrl
from backends.instances import Ticket
from backends.openai_refusals import Meaning, meaning
from backends.openai_usage import StreamUsage, Tokens, asking_for_usage, omits_usage, usage_of
from backends.openai_wire import EVERY_OPERATION, ModelName, Operations, below, renamed, unfit
from backends.rates import rent_of
from backends.token_rates import TokenPriceOption, TypicalTokens
from backends.web_endpoint import WebEndpoint, WebOptions
from gateway.errors import BackendBroke, BackendError
from gateway.options import SecretRef
from gateway.vocab import Call, Headers, Reply

_MAY_ADD = ("chat", "completions")


class OpenAIOptions(WebOptions):
    """An OpenAI-compatible server that is paid by use."""

    type: Literal["openai"]
    """Kind of backend."""
    url: HttpUrl
    """Its address up to and with the version, like https://api.example.com/v1: what the openai package calls
    `base_url`."""
    api_key: SecretRef | None = None
    """Sent as `Authorization: Bearer …`; a client's own key is never sent."""
    model: ModelName | None = None
    """The model's name there. Without it, the one that the client wrote."""
    operations: Operations = EVERY_OPERATION
    """What it offers."""
    price: TokenPriceOption | None = None
    """What it costs, by token, second or request, or `litellm/MODEL` for the token prices in litellm's list.
    Without it every cost figure of its routes is absent."""
    typical_tokens: TypicalTokens | None = None
    """How large a call usually is. Prices by token are compared and reserved by it; without it their cost is
    known only afterwards, and nothing is granted under a limit in dollars."""
    stream_usage: Literal["as_asked", "always"] = "as_asked"
    """`always`: every stream is asked what it used (`stream_options`), and a client that did not ask is not
    told. `as_asked`: the cost of a stream is known where the client asked, or the server says it anyway."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "0s", "idle_after": "0s"})
    """What is known ahead about its instances; as it stands, that there is always one up."""
    late_binding: Literal["ping", "none"] = "none"
    """`ping`: an instance may be made to boot while calls wait, by a request whose answer does not matter.
    `none`: only a call makes one boot, and waits for it."""


@backends.add("openai")
class OpenAI(WebEndpoint):
    """One server, or whatever stands behind its address."""

    Options: ClassVar[type[BackendOptions]] = OpenAIOptions
    options: OpenAIOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, OpenAIOptions)
        typical = options.typical_tokens.tokens if options.typical_tokens else None
        rent = rent_of(
            options.price,
            idle_s=options.cold_start.idle_after,
            boot_s=options.cold_start.expect,
            tokens_usd=options.price.tokens_usd(typical) if options.price else None,
        )
        secrets = {"api_key": options.api_key} if options.api_key is not None else {}
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self._renamed = renamed(options.model)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a server at `url`."""
        return {
            "type": "openai",
            "url": f"{url}/v1",
            "api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "model": "Qwen/Qwen3-8B",
            "max_in_flight": 4,
            "price": {"usd_per_million_input_tokens": 0.1, "usd_per_million_output_tokens": 0.4},
            "typical_tokens": {"input": 1000, "output": 300},
        }

    @property
    def price_known(self) -> bool:
        """True when the file says what it costs."""
        return self.options.price is not None

    def price(self, billed_s: float) -> float | None:
        """US dollars of a call that said nothing about tokens."""
        return self._call_usd(billed_s, None)

    def _call_usd(self, billed_s: float | None, tokens: Tokens | None) -> float | None:
        price = self.options.price
        return None if price is None else price.call_usd(billed_s or 0.0, tokens)

    def cannot_carry(self, call: Call) -> str | None:
        """Another protocol, or something that the server does not offer."""
        return unfit(self.name, call, self.options.operations)

    def address(self, call: Call) -> str:
        """The call's path below the server's own base."""
        return join_url(self.options.url, below(b"", call))

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the key, if there is one."""
        if self.options.api_key is not None:
            headers = [*headers, (b"authorization", b"Bearer " + self.credentials["api_key"].encode())]
        return self.added.onto(headers, self.credentials)

    async def sealed(self, call: Call, address: str, fields: Headers, body: Upload) -> tuple[Headers, Upload]:
        """The model's own name there, and the question for the usage."""
        if isinstance(body, bytes) and call.protocol == "openai":
            if self._renamed is not None:
                body = self._renamed.apply(body)
            if self._asks(call):
                body = asking_for_usage(body)
        return fields, body

    def _asks(self, call: Call) -> bool:
        """Whether a question is added that the client did not ask."""
        if self.options.stream_usage != "always" or not call.stream or call.operation not in _MAY_ADD:
            return False
        return omits_usage(call.body.whole() or b"")

    # -- answers

    def judged(self, status: int) -> bool:
        """Every failure's text counts."""
        return status >= 400

    def refusal(self, answer: Answer) -> BackendError | None:
        """What an error answer means; None for the client's own."""
        said = f"{self.name}: the server answered {answer.status}"
        match meaning(answer.status, answer.body):
            case Meaning.FULL:
                return self.full(said, answer)
            case Meaning.DENIED:
                return self.denied(said, answer.body)
            case Meaning.UNREADY:  # there is no other replica that we could ask
                return self.denied(f"{said}, as if it had no such model", answer.body)
            case Meaning.BROKE:
                reply = Reply(answer.status, answer.headers, answer.body)
                return BackendBroke(said, answer=reply)
            case Meaning.ANSWER:
                return None

    async def answered(self, call: Call, ticket: Ticket, held: AsyncExitStack) -> Reply:
        """The answer, whose usage becomes known with its last byte."""
        reply = await super().answered(call, ticket, held)
        price = self.options.price
        if price is None or not price.by_token:
            if reply.stream is not None and self._asks(call):
                reply.stream = self._watched(reply, reply.stream, StreamUsage(hide=True))
        elif reply.stream is None:
            # A request that was refused has used no token.
            tokens = Tokens(0, 0) if reply.status >= 400 else usage_of(reply.body or b"")
            self._book(reply, tokens)
        else:
            reply.stream = self._watched(reply, reply.stream, StreamUsage(hide=self._asks(call)))
        return reply

    async def _watched(
        self, reply: Reply, stream: AsyncIterable[bytes], usage: StreamUsage
    ) -> AsyncGenerator[bytes, None]:
        async for part in stream:
            if shown := usage.feed(part):
                yield shown
        if rest := usage.finish():
            yield rest
        self._book(reply, usage.tokens)

    def _book(self, reply: Reply, tokens: Tokens | None) -> None:
        if reply.usage is not None:
            usage = reply.usage._replace(usd=self._call_usd(reply.usage.billed_s, tokens))
            if tokens is not None:
                usage = usage._replace(input_tokens=tokens.prompt, output_tokens=tokens.completion)
            reply.usage = usage
