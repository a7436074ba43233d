"""Prices of tokens, out of the list that the litellm package brings along, without importing the package.

Importing it takes seconds and two thousand modules; its list is one JSON file. Knows that file's format
and nothing else: it must never know what a price is used for.

The file is `model_prices_and_context_window_backup.json` in the package (litellm documentation,
"Completion Token Usage & Cost"); its prices are US dollars per token.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

LIST = "model_prices_and_context_window_backup.json"
_MODES = ("chat", "completion", "embedding", "responses")
_LONG = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_PER_USE = ("input_cost_per_query", "input_cost_per_second", "output_cost_per_second", "input_cost_per_image")


class TokenPrice(NamedTuple):
    """US dollars of one token.

    above:   holds where the prompt has more tokens than this; 0: always
    input:   of the prompt; `cached`: of a prompt token that came from a cache, None where nothing is said
    output:  of the answer
    """

    above: int
    input: float
    output: float
    cached: float | None


class NoPrice(LookupError):
    """The list is not there, or does not say what a token of that model costs. The text says which."""


def find_list() -> Path:
    """Where the list is. Raises NoPrice."""
    found = importlib.util.find_spec("litellm")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder) / LIST
        if path.is_file():
            return path
    raise NoPrice("litellm's list of prices is not here; install the extra: pip install 'overspill[llm]'")


def look_up(model: str, path: Path | None = None) -> list[TokenPrice]:
    """The prices of a model, by litellm's name for it: first the usual ones, then those of longer prompts.

    path:  of the list, if it is not the installed package's. Raises NoPrice
    """
    try:
        listed = msgspec.json.decode((path or find_list()).read_bytes(), type=dict[str, dict[str, Any]])
    except (OSError, ValueError) as error:
        raise NoPrice(f"litellm's list of prices cannot be read: {error}") from None
    entry = listed.get(model)
    if entry is None:
        # The list leaves some providers out of the name: openai/gpt-4o is gpt-4o there.
        provider, _, rest = model.partition("/")
        entry = listed.get(rest, {})
        if entry.get("litellm_provider") != provider:
            raise NoPrice(f"litellm's list of prices has no model {model!r}")
    return _prices(model, entry)


def _prices(model: str, entry: dict[str, Any]) -> list[TokenPrice]:
    usual = _price(entry, 0, "")
    # Nothing at all is what the list says of models whose price its makers did not know.
    priced = usual is not None and (usual.input > 0 or usual.output > 0)
    if not priced or entry.get("mode") not in _MODES or any(entry.get(name) for name in _PER_USE):
        raise NoPrice(f"litellm's list of prices does not say what a token of {model!r} costs")
    assert usual is not None
    steps = sorted(int(match[1]) for name in entry if (match := _LONG.fullmatch(name)))
    longer = [_price(entry, 1000 * step, f"_above_{step}k_tokens") for step in steps]
    return [usual, *(price for price in longer if price is not None)]


def _price(entry: dict[str, Any], above: int, suffix: str) -> TokenPrice | None:
    given = _figure(entry, "input_cost_per_token" + suffix)
    if given is None:
        return None
    made = _figure(entry, "output_cost_per_token" + suffix)
    if made is None:
        made = 0.0 if entry.get("mode") == "embedding" else _figure(entry, "output_cost_per_token")
    if made is None:
        return None
    return TokenPrice(above, given, made, _figure(entry, "cache_read_input_token_cost" + suffix))


def _figure(entry: dict[str, Any], name: str) -> float | None:
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) and value >= 0 else None
