"""What a call costs where tokens are paid for, beside or instead of seconds and requests.

Pure values. A figure that is needed and not known makes the price of the call unknown, never zero.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from backends.openai_usage import Tokens
from backends.rates import Rates
from backends.token_prices import NoPrice, look_up
from gateway.options import Options, Usd

LISTED = "litellm/"
"""How a price begins that is looked up in litellm's list."""

_MILLION = 1e6


class LongPrompts(Options):
    """Prices of calls whose prompt is longer than usual."""

    above_tokens: int = Field(ge=1)
    """They hold for a prompt of more tokens than this."""
    usd_per_million_input_tokens: Usd
    """As outside."""
    usd_per_million_output_tokens: Usd
    """As outside."""
    usd_per_million_cached_tokens: Usd | None = None
    """As outside."""


class TypicalTokens(Options):
    """How large a call usually is: what tokens will cost is reserved and compared by it, not booked."""

    input: int = Field(ge=0)
    """Tokens of the prompt."""
    output: int = Field(ge=0)
    """Tokens of the answer."""

    @property
    def tokens(self) -> Tokens:
        """The same as of one call."""
        return Tokens(self.input, self.output)


class TokenRates(Rates):
    """What a language model costs."""

    usd_per_million_input_tokens: Usd | None = None
    """Price of a million tokens of prompts."""
    usd_per_million_output_tokens: Usd | None = None
    """Price of a million tokens of answers."""
    usd_per_million_cached_tokens: Usd | None = None
    """Price of a million tokens of prompts out of the provider's cache; without it, as of any other."""
    long_prompts: tuple[LongPrompts, ...] = ()
    """Other prices for longer prompts; of several that fit, the one for the longest holds."""

    @property
    def by_token(self) -> bool:
        """Whether tokens are paid for."""
        prices = (self.usd_per_million_input_tokens, self.usd_per_million_output_tokens)
        return any(price is not None for price in prices)

    def tokens_usd(self, tokens: Tokens | None) -> float | None:
        """Dollars of a call's tokens; None where their number or their price is not known."""
        if not self.by_token:
            return 0.0
        if tokens is None:
            return None
        rates: TokenRates | LongPrompts = self
        longer = [rate for rate in self.long_prompts if tokens.prompt > rate.above_tokens]
        if longer:
            rates = max(longer, key=lambda rate: rate.above_tokens)
        cached = rates.usd_per_million_cached_tokens
        whole = rates.usd_per_million_input_tokens
        parts = [
            (tokens.prompt - tokens.cached, whole),
            (tokens.cached, whole if cached is None else cached),
            (tokens.completion, rates.usd_per_million_output_tokens),
        ]
        usd = 0.0
        for count, price in parts:
            if count and price is None:
                return None
            usd += count * (price or 0.0) / _MILLION
        return usd

    def call_usd(self, billed_s: float, tokens: Tokens | None) -> float | None:
        """Dollars of a call in all."""
        usd = self.tokens_usd(tokens)
        if usd is None:
            return None
        return usd + billed_s * (self.usd_per_second or 0.0) + (self.usd_per_request or 0.0)


def listed(model: str) -> dict[str, Any]:
    """The rates of a model in litellm's list, as they would be written in the file. Raises NoPrice."""
    usual, *longer = look_up(model)

    def rates(price: Any) -> dict[str, Any]:
        return {
            "usd_per_million_input_tokens": _per_million(price.input),
            "usd_per_million_output_tokens": _per_million(price.output),
            "usd_per_million_cached_tokens": None if price.cached is None else _per_million(price.cached),
        }

    return {
        **rates(usual),
        "long_prompts": tuple({"above_tokens": price.above, **rates(price)} for price in longer),
    }


def _per_million(usd: float) -> float:
    return float(f"{usd * _MILLION:.9g}")  # 1.5e-7 a token is 0.15 a million, not 0.15 and a bit


def _from_list(value: object) -> object:
    """`litellm/MODEL`, or a mapping that is `like` it but for the keys that it has itself."""
    if isinstance(value, dict) and isinstance(value.get("like"), str):
        rates = _from_list(value["like"])
        assert isinstance(rates, dict)
        return {**rates, **{key: given for key, given in value.items() if key != "like"}}
    if not isinstance(value, str):
        return value
    if not value.startswith(LISTED):
        raise ValueError(f"{value!r} is no price; write what a token costs, or {LISTED}MODEL")
    try:
        return listed(value.removeprefix(LISTED))
    except NoPrice as error:
        raise ValueError(str(error)) from None


TokenPriceOption = Annotated[
    TokenRates,
    BeforeValidator(
        _from_list, json_schema_input_type=TokenRates | Annotated[str, Field(pattern=f"^{LISTED}.+")]
    ),
]
"""Rates, or `litellm/MODEL` for those in the list of the installed litellm package."""
