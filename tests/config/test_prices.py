"""The price sheet, and `price: {like: …}`: what a backend gets from it, and what a wrong reference is told."""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from gateway import app
from gateway.cli import command
from gateway.config.effective import effective
from gateway.config.json_schema import json_schema
from gateway.config.load import Loaded, load
from gateway.config.price_sheet import OLD_DAYS, Priced, PriceLine, age_days, first_day, read_sheet, shipped
from gateway.config.price_terms import price_fields
from gateway.config.problems import ConfigProblems
from tests.config.plugins import problems, read

SHEET = shipped()
DAY = 86_400.0
WRITTEN = 1_795_305_600.0  # 2026-11-22
FILE = """\
version: 1
backends:
  fleet: {{type: fleet, replicas: [a], max_in_flight: 1, price: {fleet}}}
  burst: {{type: rented, endpoint: e, api_key: {{env: K}}, max_in_flight: 1, price: {burst},
    cold_start: {{expect: 1s, idle_after: 1s}}}}
routes:
  all: {{latency_budget: {{within: 1s}}, tiers: [{{backend: fleet}}, {{backend: burst}}]}}
"""


def text(burst: str = "{usd_per_second: 0.001}", fleet: str = "{usd_per_replica_hour: 1}") -> str:
    return FILE.format(burst=burst, fleet=fleet)


def prices(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """What the backends were given, without what is not set."""
    return {
        name: options.price.model_dump(exclude_none=True)  # type: ignore[attr-defined]
        for name, options in loaded.settings.backends.items()
    }


def said(loaded: Loaded) -> list[str]:
    return [f"{doubt.line}:{doubt.column}: {doubt.path}: {doubt.message}" for doubt in loaded.warnings]


def on(backend: dict[str, Any], *, wall: float | None = None) -> Loaded:
    """A file with one real backend."""
    document = {
        "version": 1,
        "backends": {"one": backend},
        "routes": {"r": {"match": {"model": "m"}, "policy": "fleet_only", "tiers": [{"backend": "one"}]}},
    }
    return load(yaml.safe_dump(document), *app.registries(), resolve_secrets=False, wall=wall)


# ---- the sheet -------------------------------------------------------------------------------------------


def test_the_sheet_in_config_is_the_one_in_the_package() -> None:
    packaged = resources.files("gateway.config").joinpath("prices.yaml").read_text(encoding="utf-8")
    assert Path("config/prices.yaml").read_text(encoding="utf-8") == packaged


@pytest.mark.parametrize("name", sorted(SHEET))
def test_every_line_has_a_page_and_a_date_that_is_past(name: str) -> None:
    line = SHEET[name].line
    assert line.source
    assert line.url.startswith("https://")
    assert first_day(line.as_of).year >= 2025
    assert age_days(line.as_of, WRITTEN) >= 0
    assert line.money()
    assert all(usd > 0 for usd in line.money().values())


def test_no_line_stands_there_twice() -> None:
    names = [
        row.strip() for row in Path("config/prices.yaml").read_text().splitlines() if row.startswith("  ")
    ]
    names = [row for row in names if row.endswith(":") and not row.startswith("#")]
    assert len(names) == len(set(names)) == len(SHEET)


def test_a_line_given_twice_is_told() -> None:
    line = "{usd_per_second: 1, as_of: 2026-01, source: s}"
    with pytest.raises(ConfigProblems, match="is given twice"):
        read_sheet(f"version: 1\nprices:\n  a/b: {line}\n  a/b: {line}\n", "own.yaml")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{usd_per_second: 1, as_of: 2026-01}", "source"),
        ("{usd_per_second: 1, source: s}", "as_of"),
        ("{usd_per_second: 1, source: s, as_of: 2026-02-30}", "is not a date"),
        ("{usd_per_second: 1, source: s, as_of: yesterday}", "is not a date"),
        ("{source: s, as_of: 2026-01}", "says no price"),
        ("{usd_per_second: 1, usd_per_hour: 1, source: s, as_of: 2026-01}", "keep one"),
        ("{usd_per_second: -1, source: s, as_of: 2026-01}", "at least 0"),
        ("{usd_per_secnd: 1, source: s, as_of: 2026-01}", "did you mean `usd_per_second`"),
    ],
)
def test_a_wrong_line_is_told_with_its_place(line: str, told: str) -> None:
    with pytest.raises(ConfigProblems, match=told) as raised:
        read_sheet(f"version: 1\nprices:\n  a/b: {line}\n", "own.yaml")
    assert {problem.line for problem in raised.value.problems} == {3}
    assert {problem.file for problem in raised.value.problems} == {"own.yaml"}


def kinds_of(provider: str) -> Iterator[str]:
    for kind in app.registries()[0]:
        if kind == provider or kind.startswith(f"{provider}_"):
            yield kind


def alike(kind: str, name: str) -> Loaded:
    """A backend of that kind, priced like that line."""
    line = SHEET[name].line
    backend = {
        **app.registries()[0].get(kind).example("http://127.0.0.1:9"),
        "price": {"like": name, **({"cores": 4, "memory": "16GiB"} if line.by_parts else {})},
    }
    if name.endswith("by-request"):
        backend["billing"] = "request"
    return on(backend)


@pytest.mark.parametrize("name", sorted(name for name in SHEET if any(kinds_of(name.partition("/")[0]))))
def test_a_kind_of_the_same_provider_takes_the_line_and_counts_as_it_is_billed(name: str) -> None:
    fits = []
    for kind in kinds_of(name.partition("/")[0]):
        try:
            loaded = alike(kind, name)
        except ConfigProblems as error:
            assert "this kind of backend takes" in str(error)  # noqa: PT017 - paid in another unit
            continue
        fits += [] if any("counts otherwise" in doubt for doubt in said(loaded)) else [kind]
    assert fits


# ---- like ------------------------------------------------------------------------------------------------


def test_a_price_like_a_line_is_the_lines() -> None:
    loaded = read(text("{like: runpod/l4}", "{like: huggingface/aws-l4}"))
    assert prices(loaded) == {"burst": {"usd_per_second": 0.00019}, "fleet": {"usd_per_replica_hour": 0.8}}


def test_what_is_written_beside_it_goes_before_it() -> None:
    backend = {
        "type": "aws_lambda", "function": "f", "region": "us-east-1", "max_in_flight": 1,
        "price": {"like": "aws_lambda/arm64", "usd_per_request": 0},
    }  # fmt: skip
    loaded = on(backend)
    assert prices(loaded) == {"one": {"usd_per_gb_second": 0.0000133334, "usd_per_request": 0}}
    source = loaded.settings.price_sources["one"]
    assert source.as_of == "2026-09-28"
    assert source.source is not None
    assert source.source.endswith("https://aws.amazon.com/lambda/pricing/; usd_per_request given here")


def test_hours_and_seconds_stand_for_each_other() -> None:
    loaded = read(text("{like: sagemaker/ml.g5.xlarge}", "{like: runpod/h100}"))
    assert prices(loaded)["burst"]["usd_per_second"] == pytest.approx(1.41 / 3600)
    assert prices(loaded)["fleet"] == {"usd_per_replica_hour": 4.176}


def test_cpu_and_memory_are_counted_beside_the_gpu() -> None:
    loaded = read(text("{like: cloud_run/l4, cores: 8, memory: 32GiB}"))
    usd = prices(loaded)["burst"]["usd_per_second"]
    assert usd == pytest.approx(0.0001867 + 8 * 0.000018 + 32 * 0.000002)
    assert 3600 * usd == pytest.approx(1.42, abs=0.005)
    assert said(loaded) == []


def test_of_cpu_and_memory_that_nobody_told_the_least_is_counted_and_said() -> None:
    loaded = read(text("{like: modal/l4}"))
    assert prices(loaded)["burst"]["usd_per_second"] == pytest.approx(0.000222 + 0.125 * 0.0000131)
    (doubt,) = said(loaded)
    assert "counts cores as 0.125 and memory as 0GiB" in doubt
    less = read(text("{like: cloud_run/l4, cores: 1, memory: 1GiB}"))
    least = read(text("{like: cloud_run/l4, cores: 4, memory: 16GiB}"))
    assert prices(less) == prices(least)


def test_how_the_provider_rounds_goes_along_where_a_backend_can_be_told() -> None:
    loaded = on({
        "type": "http", "url": "http://127.0.0.1:9", "max_in_flight": 1, "price": {"like": "huggingface/gcp-l4"},
        "cold_start": {"expect": "1s", "idle_after": "1s"},
    })  # fmt: skip
    expected = {"usd_per_second": pytest.approx(0.7 / 3600), "bills_idle": True, "round_up": 60.0}
    assert prices(loaded) == {"one": expected}
    assert said(loaded) == []


def test_a_line_that_is_billed_otherwise_than_the_backend_counts_is_doubted() -> None:
    (doubt,) = said(read(text("{like: runpod/l4}")))
    assert doubt.startswith(
        "4:89: backends.burst.price.like: `runpod/l4` is billed in steps of 1s, and this kind"
    )


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ("{like: runpod/L44}", "4:89: backends.burst.price.like: there is no price `runpod/L44`; did you mean "
         "`runpod/l4` or `runpod/l40` or `runpod/l40s`? known prices of `runpod`: runpod/a100-80gb,"),
        ("{like: lambda/x86}", "4:89: backends.burst.price.like: there is no price `lambda/x86`; did you mean "
         "`aws_lambda/x86`"),
        ("{like: acme/l4}", "4:89: backends.burst.price.like: there is no price `acme/l4`"),
        ("{lik: runpod/l4}", "4:83: backends.burst.price.lik: `lik` is not a key here; did you mean `like`?"),
        ("{like: 4}", "4:89: backends.burst.price.like: is the number `4`; it must be text"),
        ("{like: aws_lambda/x86}", "4:89: backends.burst.price.like: `aws_lambda/x86` says usd_per_gb_second, "
         "usd_per_request; this kind of backend takes usd_per_second"),
        ("{like: runpod/l4, cores: 2}", "4:107: backends.burst.price.cores: has no price of its own in "
         "`runpod/l4`; take it out"),
        ("{like: modal/cpu}", "4:89: backends.burst.price.like: needs `cores` and `memory` beside it"),
        ("{usd_per_second: 1, memory: 1GiB}", "4:110: backends.burst.price.memory: is for a price that is "),
        ("{like: runpod/l4, usd_per_second: much}", "4:116: backends.burst.price.usd_per_second: is the text "),
        ("{like: litellm/gpt-4o}", "4:89: backends.burst.price.like: `litellm/gpt-4o` is a price of tokens; "),
        ("{usd_per_second: 1, as_of: today}", "4:109: backends.burst.price.as_of: 'today' is not a date; "),
        ("{as_of: 2026-01}", "4:75: backends.burst.price.usd_per_second: is missing"),
    ],
)  # fmt: skip
def test_a_wrong_price_is_told_once_with_its_place(price: str, told: str) -> None:
    (problem,) = problems(text(price))
    assert problem.startswith(told)


def test_a_price_that_is_wrong_hides_no_other_mistake_and_makes_none() -> None:
    wrong = text("{like: nope/l4}").replace(
        "max_in_flight: 1, price: {like", "max_in_flight: many, price: {like"
    )
    wrong = wrong.replace("routes:", "    # limited\nroutes:").replace(
        "tiers:", "spill_budget: {usd_per_hour: 1}, tiers:"
    )
    assert [problem.split(": ")[1] for problem in problems(wrong)] == [
        "backends.burst.max_in_flight",
        "backends.burst.price.like",
    ]


def test_a_budget_in_dollars_may_rest_on_a_line() -> None:
    assert (
        problems(text("{like: runpod/l4}").replace("tiers:", "spill_budget: {usd_per_hour: 1}, tiers:")) == []
    )


def test_a_mapping_may_come_in_through_an_anchor() -> None:
    loaded = read(text("&p {like: runpod/l4}").replace("replicas: [a]", "replicas: [a], headers: {}"))
    assert prices(loaded)["burst"] == {"usd_per_second": 0.00019}


# ---- prices of one's own ---------------------------------------------------------------------------------


def test_a_file_of_ones_own_adds_lines_and_takes_the_place_of_others(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "version: 1\nprices:\n"
        "  runpod/l4: {usd_per_second: 0.0001, round_up: 0s, as_of: 2026-10, source: our contract}\n"
        "  metal/l4: {usd_per_hour: 0.36, as_of: 2026-10, source: the landlord}\n"
    )
    loaded = read(f"prices: {own}\n{text('{like: runpod/l4}', '{like: metal/l4}')}")
    assert prices(loaded) == {"burst": {"usd_per_second": 0.0001}, "fleet": {"usd_per_replica_hour": 0.36}}
    assert loaded.settings.price_sources["burst"].source == "runpod/l4: our contract"
    assert said(loaded) == []


def test_a_file_of_ones_own_that_cannot_be_used_is_told_and_nothing_after_it(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    (problem,) = problems(f"prices: {own}\n{text('{like: metal/l4}')}")
    assert problem.startswith("1:9: prices: ")
    assert problem.endswith("`: there is no such file")
    own.write_text("version: 1\nprices: {metal/l4: {usd_per_hour: much, as_of: 2026-10, source: s}}\n")
    (problem,) = problems(f"prices: {own}\n{text('{like: metal/l4}')}")
    assert problem.startswith(f"{own}:2:35: prices[`metal/l4`].usd_per_hour: is the text `much`")
    own.write_text("- a list\n")
    (problem,) = problems(f"prices: {own}\n{text('{like: metal/l4}')}")
    assert "a file of prices begins with" in problem


# ---- dates -----------------------------------------------------------------------------------------------


def aged(price: str, *, days: float) -> list[str]:
    """The doubts about prices, so many days after 2026-08-20."""
    wall = first_day("2026-08-20").toordinal() - first_day("1970-01-01").toordinal() + days
    backends, policies = app.registries()
    document = f"""\
version: 1
backends:
  one: {{type: runpod, endpoint_id: e, api_key: {{env: K}}, max_in_flight: 1, price: {price}, cold_start: {{expect: 1s, idle_after: 1s}}}}
routes:
  r: {{match: {{model: m}}, policy: fleet_only, tiers: [{{backend: one}}]}}
"""
    return said(load(document, backends, policies, resolve_secrets=False, wall=wall * DAY))


def test_a_line_is_doubted_once_it_is_too_old() -> None:
    assert aged("{like: runpod/l4}", days=OLD_DAYS) == []
    (doubt,) = aged("{like: runpod/l4}", days=OLD_DAYS + 1)
    assert "backends.one.price.like: `runpod/l4` is of 2026-08-20, 181 days ago" in doubt
    assert "https://docs.runpod.io/serverless/pricing" in doubt


def test_a_date_of_ones_own_counts_instead() -> None:
    assert aged("{like: runpod/l4, as_of: 2027-06-01}", days=300) == []
    assert aged("{usd_per_second: 1, as_of: 2026-08}", days=100) == []
    (doubt,) = aged("{usd_per_second: 1, as_of: 2026-08}", days=200)
    assert "backends.one.price.as_of: is 219 days ago" in doubt
    (doubt,) = aged("{usd_per_second: 1, as_of: 2036-08}", days=200)
    assert "is a day that is to come" in doubt


def test_a_line_of_which_nothing_is_used_has_no_age() -> None:
    assert aged("{like: runpod/l4, usd_per_second: 0.0002}", days=1000) == []


def test_figures_that_nobody_verified_are_doubted_until_somebody_did() -> None:
    name = next(name for name, priced in SHEET.items() if priced.line.unverified and "serverless" in name)
    backend = dict(app.registries()[0].get("sagemaker_serverless").example("http://127.0.0.1:9"))
    assert any("nobody has verified" in doubt for doubt in said(on({**backend, "price": {"like": name}})))
    mine = {"like": name, "as_of": "2026-11"}
    assert not any("verified" in doubt for doubt in said(on({**backend, "price": mine})))


# ---- what is shown ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "price",
    [
        "{like: modal/l4, cores: 2, memory: 8GiB}",
        "{like: sagemaker/ml.g5.xlarge, as_of: 2026-11-02, source: invoice}",
        "{usd_per_second: 0.1, as_of: 2026-11, source: 'a: b'}",
        "{usd_per_second: 0.1}",
    ],
)
def test_the_effective_configuration_shows_figures_and_source_and_reads_back(price: str) -> None:
    first = read(text(price)).settings
    shown = effective(first)
    again = read(shown).settings
    assert again.model_dump() == first.model_dump()
    assert effective(again) == shown
    price_shown = yaml.safe_load(shown)["backends"]["burst"]["price"]
    assert "like" not in price_shown
    assert ("source" in price_shown) == ("as_of" in price_shown) == (price != "{usd_per_second: 0.1}")


@pytest.mark.parametrize(
    ("price", "good"),
    [
        ("{like: runpod/l4}", True),
        ("{like: modal/l4, cores: 2, memory: 8GiB, as_of: 2026-11, source: s}", True),
        ("{usd_per_second: 1, as_of: 2026-11-22}", True),
        ("{as_of: 2026-11}", False),
        ("{usd_per_second: 1, cores: 2}", False),
        ("{lik: runpod/l4}", False),
    ],
)
def test_the_schema_for_editors_knows_it(price: str, good: bool) -> None:
    backend = dict(app.registries()[0].get("runpod").example("http://127.0.0.1:9"))
    backend["price"] = yaml.load(price, yaml.BaseLoader)
    backend["price"] = {
        k: float(v) if k in ("cores", "usd_per_second") else v for k, v in backend["price"].items()
    }
    document = {"version": 1, "backends": {"one": backend}, "routes": {"r": {"tiers": [{"backend": "one"}]}}}
    assert jsonschema.Draft202012Validator(json_schema(*app.registries())).is_valid(document) is good


def test_no_price_of_a_backend_has_a_key_that_means_something_else_here() -> None:
    backends = app.registries()[0]
    for kind in backends:
        assert not {"like", "cores", "memory", "as_of", "source"} & set(
            price_fields(backends.get(kind).Options)
        )


def test_the_list_is_printed() -> None:
    run = CliRunner().invoke(command, ["prices", "l4"])
    assert run.exit_code == 0
    assert "runpod/l4 " in run.stdout
    assert "https://modal.com/pricing" in run.stdout
    assert "h100" not in run.stdout


def test_the_list_as_json_can_be_a_sheet_again(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("version: 1\nprices: {metal/l4: {usd_per_hour: 0.36, as_of: 2026-10, source: s}}\n")
    run = CliRunner().invoke(command, ["prices", "--json", "--file", str(own)])
    found = json.loads(run.stdout)
    assert found.keys() == SHEET.keys() | {"metal/l4"}
    assert found["metal/l4"] == {"usd_per_hour": 0.36, "as_of": "2026-10", "source": "s", "file": str(own)}
    assert found["runpod/l4"]["usd_per_second"] == 0.00019


def test_a_list_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    run = CliRunner().invoke(command, ["prices", "no-such-gpu"])
    assert (run.exit_code, run.stdout) == (1, "")
    run = CliRunner().invoke(command, ["prices", "--file", str(tmp_path / "none.yaml")])
    assert run.exit_code == 2
    assert "there is no such file" in run.stderr


def test_a_line_names_its_page_even_without_an_address() -> None:
    line = PriceLine(usd_per_second=1.0, as_of="2026-01", source="our contract")
    assert Priced(line, "f").line.page == "our contract"
