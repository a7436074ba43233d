"""Prices of tokens out of litellm's list, read without importing litellm."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends import token_prices, token_rates
from backends.openai_usage import Tokens
from backends.token_prices import NoPrice, TokenPrice, find_list, look_up
from backends.token_rates import TokenRates, listed
from gateway import app
from gateway.config.load import load

installed = pytest.mark.skipif(find_spec("litellm") is None, reason="the package litellm is not installed")

LISTED: dict[str, Any] = {
    "small": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1.5e-07,
        "output_cost_per_token": 6e-07,
        "cache_read_input_token_cost": 7.5e-08,
        "input_cost_per_token_above_200k_tokens": 3e-07,
        "output_cost_per_token_above_200k_tokens": 1.2e-06,
        "input_cost_per_token_above_128k_tokens": 2e-07,
    },
    "groq/words": {"mode": "embedding", "input_cost_per_token": 1e-08},
    "halved": {"mode": "chat", "input_cost_per_token": 1e-08},
    "nothing": {"mode": "chat", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "timed": {
        "mode": "chat",
        "input_cost_per_token": 1e-08,
        "output_cost_per_token": 1,
        "input_cost_per_second": 1,
    },
    "picture": {"mode": "image_generation", "input_cost_per_token": 1e-08, "output_cost_per_token": 1e-08},
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of the same form, where litellm's is looked for."""
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / token_prices.LIST).write_text(json.dumps(LISTED))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "litellm", raising=False)
    return package / token_prices.LIST


def test_a_models_prices(path: Path) -> None:
    assert find_list() == path
    assert look_up("small") == [
        TokenPrice(0, 1.5e-07, 6e-07, 7.5e-08),
        TokenPrice(128_000, 2e-07, 6e-07, None),
        TokenPrice(200_000, 3e-07, 1.2e-06, None),
    ]
    assert look_up("openai/small") == look_up("small")
    assert look_up("groq/words") == [TokenPrice(0, 1e-08, 0.0, None)]


@pytest.mark.parametrize("model", ["none", "azure/small", "groq/small"])
def test_a_model_that_is_not_listed(path: Path, model: str) -> None:
    with pytest.raises(NoPrice, match=f"no model '{model}'"):
        look_up(model)


@pytest.mark.parametrize("model", ["halved", "nothing", "timed", "picture"])
def test_what_is_not_said_is_not_free(path: Path, model: str) -> None:
    with pytest.raises(NoPrice, match="does not say what a token"):
        look_up(model)


def test_a_list_that_is_broken_or_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text('["no list"]')
    with pytest.raises(NoPrice, match="cannot be read"):
        look_up("small")
    path.unlink()
    with pytest.raises(NoPrice, match=r"pip install 'overspill\[llm\]'"):
        look_up("small")


def test_as_rates_they_read_like_the_file(path: Path) -> None:
    rates = TokenRates.model_validate(listed("small"))
    assert rates.usd_per_million_input_tokens == 0.15
    assert rates.usd_per_million_cached_tokens == 0.075
    assert rates.tokens_usd(Tokens(1_000_000, 0)) == pytest.approx(0.3)
    assert rates.tokens_usd(Tokens(150_000, 1_000)) == pytest.approx(150_000 * 2e-7 + 1_000 * 6e-7)
    assert rates.tokens_usd(Tokens(100, 10, cached=40)) == pytest.approx(
        60 * 1.5e-7 + 40 * 7.5e-8 + 10 * 6e-7
    )
    assert token_rates.LISTED == "litellm/"


@pytest.mark.parametrize(("model", "doubted"), [("openai/small", False), ("openai/unheard", True)])
def test_a_file_without_a_price_is_doubted_only_where_the_list_has_none(
    path: Path, model: str, doubted: bool
) -> None:
    described = {"type": "litellm", "model": model, "max_in_flight": 4}
    document = {
        "version": 1,
        "backends": {"one": described},
        "routes": {"r": {"tiers": [{"backend": "one"}]}},
    }
    loaded = load(yaml.safe_dump(document), *app.registries(), resolve_secrets=False)
    assert any("cost will be unknown" in str(doubt) for doubt in loaded.warnings) == doubted


@installed
def test_the_real_list_is_read_without_importing_the_package() -> None:
    script = (
        "import sys; from backends.token_prices import look_up; "
        "p = look_up('openai/gpt-4o-mini')[0]; assert 0 < p.input < p.output < 1e-4; "
        "assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
