"""The price sheet and the emulators' tariffs say the same where they speak of the same thing."""

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from backends.base import Kit
from backends.emulators import aws_lambda, modal
from backends.emulators.tariff import PerInvocation, PerLife
from gateway import app
from gateway.clock import FakeClock
from gateway.config.load import load
from gateway.config.price_sheet import shipped
from gateway.vocab import Rent

SHEET = shipped()


def rent(kind: str, name: str, **more: Any) -> Rent:
    """What a backend of that kind reckons with, priced like that line of the sheet."""
    registries = app.registries()
    backend = {**registries[0].get(kind).example("http://127.0.0.1:9"), "price": {"like": name}, **more}
    document = {
        "version": 1,
        "backends": {"one": backend},
        "routes": {"r": {"match": {"model": "m"}, "policy": "fleet_only", "tiers": [{"backend": "one"}]}},
    }
    options = load(yaml.safe_dump(document), *registries, resolve_secrets=False).settings.backends["one"]
    made = registries[0].get(kind)(
        "one", options, Kit(FakeClock(), Random(0), lambda work, name: work.close())
    )
    assert made.rent is not None
    return made.rent


def lives() -> Iterator[float]:
    chance = Random(7)
    yield from (0.0, 0.001, 0.9999, 1.0, 1.0001, 61.0)
    yield from (chance.expovariate(1 / 20) for _ in range(500))


def stepped(seconds: float, step: float) -> float:
    return math.ceil(seconds / step - 1e-6) * step if step else seconds


@pytest.mark.parametrize("name", ["runpod/l4", "runpod/h100", "modal/t4"])
def test_a_life_costs_what_the_providers_emulator_bills(name: str) -> None:
    kind = name.partition("/")[0]
    reckoned = rent(kind, name)
    assert reckoned.usd_per_second is not None
    assert reckoned.bills_boot
    assert reckoned.bills_idle
    assert reckoned.usd_per_call == 0.0
    tariff = PerLife(usd_per_second=reckoned.usd_per_second, whole_seconds=kind == "runpod")
    for life in lives():
        usd = stepped(life, reckoned.round_up_s) * reckoned.usd_per_second
        assert tariff.usd(tariff.life_s(life), 1) == pytest.approx(usd, abs=1e-12)


def test_an_invocation_costs_what_lambdas_emulator_bills() -> None:
    reckoned = rent("aws_lambda", "aws_lambda/x86", memory="1769MiB")
    assert reckoned.usd_per_second is not None
    assert reckoned.bills_boot
    assert not reckoned.bills_idle
    tariff = PerInvocation(memory_mb=1769)
    for life in lives():
        usd = stepped(life, reckoned.round_up_s) * reckoned.usd_per_second + reckoned.usd_per_call
        assert tariff.usd(tariff.invocation_s(0.0, life), 1) == pytest.approx(usd, abs=1e-12)


def test_the_emulators_own_figures_are_the_sheets() -> None:
    x86, l4 = SHEET["aws_lambda/x86"].line, SHEET["modal/l4"].line
    function = aws_lambda.LambdaOptions()
    assert function.usd_per_gb_second == x86.usd_per_gb_second
    assert function.usd_per_request == x86.usd_per_request
    assert modal.ModalOptions().usd_per_second == l4.usd_per_second


LIST = """\
{"some-model": {"litellm_provider": "p", "mode": "chat",
  "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07}}
"""


def test_a_price_like_litellms_is_looked_up_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('nobody imports it')\n")
    (package / "model_prices_and_context_window_backup.json").write_text(LIST)
    monkeypatch.syspath_prepend(tmp_path)
    price = {"like": "litellm/some-model", "usd_per_million_output_tokens": 0.5}
    registries = app.registries()
    backend = {**registries[0].get("openai").example("http://127.0.0.1:9"), "price": price}
    routes = {"r": {"match": {"model": "m"}, "policy": "fleet_only", "tiers": [{"backend": "one"}]}}
    document = {"version": 1, "backends": {"one": backend}, "routes": routes}
    settings = load(yaml.safe_dump(document), *registries, resolve_secrets=False).settings
    given = settings.backends["one"].price  # type: ignore[attr-defined]
    assert (given.usd_per_million_input_tokens, given.usd_per_million_output_tokens) == (0.15, 0.5)
    source = settings.price_sources["one"].source
    assert source is not None
    assert source.startswith("litellm/some-model: ")
