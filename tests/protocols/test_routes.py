"""The route table: which call takes which route, and what follows from it."""

from typing import Any, NamedTuple, cast

import pytest

from gateway.config.schema import SizeOf
from gateway.errors import ConfigError, UnknownRoute
from gateway.routes import Route, RouteTable
from gateway.vocab import Call, WholeBody


class Match(NamedTuple):
    models: tuple[str, ...] = ()
    protocol: str | None = None


class Budget(NamedTuple):
    within: float = 0.25
    objective: float = 0.99


class Options(NamedTuple):
    match: Match = Match()
    latency_budget: Budget | None = None
    timeout: float = 60.0
    stall_timeout: float = 30.0
    idempotent: bool = True
    size: SizeOf = SizeOf()


def route(name: str, *models: str, protocol: str | None = None, **options: Any) -> Route:
    return Route.of(name, Options(Match(models, protocol), **options), cast(Any, f"pool of {name}"))


def call(model: str = "", *, protocol: str = "kserve", hint: str = "", arrived: float = 100.0) -> Call:
    return Call(
        protocol=protocol, operation="x", method=b"POST", target=b"/", headers=[], body=WholeBody(b""),
        model=model, route_hint=hint, arrived=arrived,
    )  # fmt: skip


TABLE = RouteTable(
    [
        route("llama", "llama-*"),
        route("exact", "llama-3", "minilm"),
        route("chat", "llama-*", protocol="openai"),
        route("tensors", "bert", protocol="kserve"),
        route("texts", "bert", protocol="openai"),
        route("bert", "bert", "bert-?"),
        route("rest", "*"),
        route("hook", protocol="raw"),
    ]
)


@pytest.mark.parametrize(
    ("protocol", "model", "name"),
    [
        ("kserve", "minilm", "exact"),
        ("openai", "minilm", "exact"),
        ("kserve", "llama-3", "exact"),
        ("openai", "llama-3", "exact"),
        ("kserve", "llama-4", "llama"),
        ("openai", "llama-4", "chat"),
        ("kserve", "bert", "tensors"),
        ("openai", "bert", "texts"),
        ("kserve", "bert-1", "bert"),
        ("kserve", "bert-10", "rest"),
        ("kserve", "LLAMA-4", "rest"),
        ("kserve", "llama-\nx", "llama"),
        ("openai", "", "rest"),
    ],
)
def test_a_model_finds_its_route(protocol: str, model: str, name: str) -> None:
    request = call(model, protocol=protocol)
    assert TABLE.lookup(request).name == name
    assert request.route == name
    assert TABLE.find(protocol, model) is TABLE.get(name)


@pytest.mark.parametrize("name", ["llama", "hook", "rest"])
def test_a_raw_call_finds_its_route_by_name(name: str) -> None:
    assert TABLE.lookup(call(protocol="raw", hint=name)).name == name


@pytest.mark.parametrize("name", ["", "nowhere", "tensors", "chat", "minilm"])
def test_a_raw_call_to_a_route_of_another_protocol_or_none_is_404(name: str) -> None:
    with pytest.raises(UnknownRoute) as caught:
        TABLE.lookup(call(protocol="raw", hint=name))
    assert caught.value.field == "route"


def test_a_call_may_name_its_route_instead_of_a_model() -> None:
    assert TABLE.lookup(call(hint="tensors")).name == "tensors"
    with pytest.raises(UnknownRoute):
        TABLE.lookup(call(hint="texts"))


def test_an_unknown_model_is_404_and_close_names_are_suggested() -> None:
    table = RouteTable([route("a", "minilm", "minilm-l6", "bert"), route("b", "secret", protocol="openai")])
    with pytest.raises(UnknownRoute) as caught:
        table.lookup(call("minilmm"))
    assert caught.value.field == "model"
    assert "'minilmm'" in str(caught.value)
    assert "minilm, minilm-l6" in str(caught.value)
    with pytest.raises(UnknownRoute) as caught:
        table.lookup(call("secrett"))
    assert "close" not in str(caught.value)


def test_suggestions_are_few_and_their_cost_is_bounded() -> None:
    few = RouteTable([route("a", *(f"model-{number}" for number in range(50)))])
    with pytest.raises(UnknownRoute) as caught:
        few.lookup(call("model-x"))
    assert str(caught.value).count("model-") == 6
    many = RouteTable([route("a", *(f"model-{number}" for number in range(5000)))])
    with pytest.raises(UnknownRoute) as caught:
        many.lookup(call("model-x"))
    assert str(caught.value).count("model-") == 1
    with pytest.raises(UnknownRoute) as caught:
        few.lookup(call("x" * 10_000))
    assert len(str(caught.value)) < 200


def test_the_route_sets_deadline_and_idempotence() -> None:
    table = RouteTable([route("a", "m", timeout=2.0, idempotent=False)])
    request = call("m")
    table.lookup(request)
    assert (request.deadline, request.deadline_is_clients, request.idempotent) == (102.0, False, False)


@pytest.mark.parametrize(("asked", "deadline", "clients"), [(101.0, 101.0, True), (200.0, 102.0, False)])
def test_the_earlier_of_two_deadlines_holds(asked: float, deadline: float, clients: bool) -> None:
    request = call("m")
    request.deadline = asked
    request.deadline_is_clients = True
    RouteTable([route("a", "m", timeout=2.0)]).lookup(request)
    assert (request.deadline, request.deadline_is_clients) == (deadline, clients)


def test_what_a_route_asks_for_is_worked_out_once() -> None:
    with_budget = route("a", "m", latency_budget=Budget(0.25, 0.9))
    assert (with_budget.within_s, with_budget.objective) == (0.25, 0.9)
    without = route("b", "n")
    assert (without.within_s, without.objective) == (None, None)
    assert (without.timeout_s, without.stall_timeout_s, without.idempotent) == (60.0, 30.0, True)
    with pytest.raises(AttributeError):
        without.timeout_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("protocol", "models"),
    [("kserve", ["llama-3", "minilm", "bert"]), ("openai", ["llama-3", "minilm", "bert"])],
)
def test_models_are_listed_once_in_the_order_of_the_file_without_patterns(
    protocol: str, models: list[str]
) -> None:
    assert TABLE.models(protocol) == models


@pytest.mark.parametrize(
    ("routes", "kserve", "openai"),
    [
        ([route("a", "m")], "a", "a"),
        ([route("a", "m"), route("b", "n")], "", ""),
        ([route("a", "m", protocol="kserve"), route("b", "n", protocol="openai")], "a", "b"),
        ([route("a", "m"), route("hook")], "a", "a"),
        ([route("hook")], "", ""),
    ],
)
def test_the_sole_route_of_a_protocol(routes: list[Route], kserve: str, openai: str) -> None:
    table = RouteTable(routes)
    assert (table.sole("kserve"), table.sole("openai")) == (kserve, openai)


@pytest.mark.parametrize(
    "routes",
    [
        [route("a", "m"), route("b", "m")],
        [route("a", "m", protocol="kserve"), route("b", "m", protocol="kserve")],
        [route("a", "m-*"), route("b", "x", "m-*")],
        [route("a", "m"), route("a", "n")],
    ],
)
def test_two_routes_for_the_same_calls_are_a_mistake(routes: list[Route]) -> None:
    with pytest.raises(ConfigError):
        RouteTable(routes)


def test_the_table_yields_its_routes_in_order() -> None:
    assert [each.name for each in TABLE][:3] == ["llama", "exact", "chat"]
    assert len(TABLE) == 8
