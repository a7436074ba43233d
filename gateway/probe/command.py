"""Runs the probe that a person asked for: says ahead what it takes, asks, measures, shows the figures.

Progress goes to standard error, the result to standard output. The registry and the checked file are
handed in; it must never know a concrete backend, nor how a figure comes about.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import typer
from rich.console import Console

from backends.base import Backend, Kit
from gateway.background import Background
from gateway.clock import Clock
from gateway.config.schema import RouteOptions, Settings
from gateway.errors import ConfigError
from gateway.options import parse_duration
from gateway.probe.calibration import block, priors
from gateway.probe.facts import Facts, facts
from gateway.probe.figures import Figures
from gateway.probe.measure import Measurement, ProbeFailed, Tell, Wanted
from gateway.probe.plan import forecast, told
from gateway.probe.purse import Purse, Rates
from gateway.probe.report import report
from gateway.probe.request import (
    ProtocolName,
    Template,
    chat,
    given,
    metadata_question,
    zeros,
)
from gateway.registry import Registry

DEFAULT_CAP_USD = 0.5
"""What a probe may cost where nobody says."""
FAILED = 1
"""Exit status of a probe that could not measure what was asked."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
CLEAN_UP_S = 5.0
"""How long what was cut off may take to be cancelled at the provider."""
_PLAIN_WIDTH = 110
_SIGNS_OF_A_PATTERN = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for on the command line, as it was written; None: not said."""

    backend: str
    route: str | None = None
    model: str | None = None
    protocol: ProtocolName | None = None
    request: Path | None = None
    path: str | None = None
    calls: int = 50
    colds: int = 3
    most: int | None = None
    timeout: str = "2m"
    idle: str | None = None
    max_usd: float | None = None
    yes: bool = False
    as_json: bool = False


@dataclass(slots=True)
class Ended:
    """How a probe ended. `error`: why it could not go on, "" if it could."""

    figures: Figures
    error: str = ""
    interrupted: bool = False


def probe(asked: Asked, settings: Settings, registry: Registry[Backend], clock: Clock) -> int:
    """Measure, show, and return the exit status. Raises ValueError for what cannot be asked for so."""
    source = _source(asked, settings)
    runner = Runner(asked, settings, registry, clock, source)
    said = Console(stderr=True)
    said.print(runner.ahead(), markup=False, highlight=False, soft_wrap=True)
    _confirm(asked, runner)
    with said.status("") as status:
        try:
            with asyncio.Runner() as loop:
                loop.run(runner.run(status.update))
        except KeyboardInterrupt:
            runner.ended.interrupted = True
    return _show(asked, runner, said)


class Runner:
    """One probe from start to end; `ended` holds what there is, also after it was interrupted."""

    def __init__(
        self,
        asked: Asked,
        settings: Settings,
        registry: Registry[Backend],
        clock: Clock,
        source: "Callable[[Asker], Any]",
    ) -> None:
        self._source = source
        self._clock = clock
        self._background = Background()
        options = settings.backends[asked.backend]
        kit = Kit(clock=clock, chance=Random(), spawn=self._background.spawn)  # noqa: S311 - guards nothing
        try:
            self.backend = registry.get(options.type)(asked.backend, options, kit)
        except LookupError as error:  # a secret among the added fields that is not on this machine
            raise ConfigError(f"backends.{asked.backend}: {error}") from None
        self.facts: Facts = facts(self.backend, _seconds("--idle", asked.idle))
        most = asked.most if asked.most is not None else options.max_in_flight
        self.wanted = Wanted(
            calls=asked.calls,
            colds=asked.colds,
            most=min(most, options.max_in_flight),
            timeout_s=_seconds("--timeout", asked.timeout) or 120.0,
        )
        self.cap = DEFAULT_CAP_USD if asked.max_usd is None else asked.max_usd
        self.forecast = forecast(self.facts, self.wanted, priors(options).service_mean)
        self.ended = Ended(Figures())

    def ahead(self) -> str:
        """What it will take, for the person who is about to pay for it."""
        backend = self.backend
        text = told(
            f"{backend.name} ({backend.options.type})",
            self.facts,
            self.wanted,
            self.forecast,
            cap=self.cap,
        )
        if len(backend.replicas) > 1:
            text += f"\n  of its {len(backend.replicas)} replicas, {backend.replicas[0]} is measured"
        return text

    async def run(self, tell: Tell) -> None:
        """Measure. Whatever comes, the backend is closed and what was found is in `ended`."""
        rates = None if self.facts.owned else Rates.of(self.facts.rent)
        measurement = Measurement(
            self.backend,
            facts=self.facts,
            purse=Purse(rates, self.cap),
            wanted=self.wanted,
            clock=self._clock,
            tell=tell,
        )
        self.ended.figures = measurement.figures
        try:
            await self.backend.open()
            await measurement.run(await self._source(measurement.ask))
        except (ProbeFailed, ConfigError) as error:
            self.ended.error = str(error)
        except ValueError as error:  # no request could be made of the model's metadata
            self.ended.error = str(error)
        finally:
            measurement.figures.spent_usd = measurement.spent()
            await self._background.close(grace=CLEAN_UP_S)
            await self.backend.close()


Asker = Callable[[Template], Any]
"""Sends one request and returns the body of its answer."""


def _source(asked: Asked, settings: Settings) -> Callable[[Asker], Any]:
    """How the request comes about; wrong options are found here, before anything is sent."""
    if asked.backend not in settings.backends:
        raise ValueError(f"the file has no backend {asked.backend!r}; it has {', '.join(settings.backends)}")
    name, route = _route(asked, settings)
    model = asked.model if asked.model is not None else _model(route)
    protocol = asked.protocol or _protocol(asked, route, model)
    body = asked.request.read_bytes() if asked.request is not None else None
    if body is None and protocol == "raw":
        raise ValueError("a raw request cannot be made up; give one with --request FILE and --path /…")
    fixed: Template | None = None
    question: Template | None = None
    if body is not None:
        fixed = given(protocol, name, model, asked.path, body)
    elif protocol == "openai":
        fixed = chat(name, model)
    else:
        question = metadata_question(name, model)

    async def source(ask: Asker) -> Template:
        if fixed is not None:
            return fixed
        assert question is not None
        return zeros(name, model, await ask(question))

    return source


def _route(asked: Asked, settings: Settings) -> tuple[str, RouteOptions | None]:
    """The route named, or the only one that uses the backend; none if there is no such route."""
    using = [
        name
        for name, route in settings.routes.items()
        if any(tier.backend == asked.backend for tier in route.tiers)
    ]
    if asked.route is not None:
        if asked.route not in settings.routes:
            raise ValueError(f"the file has no route {asked.route!r}; it has {', '.join(settings.routes)}")
        return asked.route, settings.routes[asked.route]
    if len(using) > 1 and asked.request is None and asked.model is None:
        raise ValueError(f"several routes use {asked.backend}; choose one with --route: {', '.join(using)}")
    return (using[0], settings.routes[using[0]]) if using else ("", None)


def _model(route: RouteOptions | None) -> str:
    names = route.match.models if route is not None else ()
    return next((name for name in names if not any(sign in name for sign in _SIGNS_OF_A_PATTERN)), "")


def _protocol(asked: Asked, route: RouteOptions | None, model: str) -> ProtocolName:
    if asked.path is not None:
        if asked.path.startswith("/v2"):
            return "kserve"
        return "openai" if asked.path.startswith("/v1") else "raw"
    if route is not None and route.match.protocol is not None:
        return route.match.protocol
    return "kserve" if model or asked.request is None else "raw"


def _seconds(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
    assert isinstance(seconds, float)
    if seconds <= 0:
        raise ValueError(f"{option} is {text!r}; it must be longer than nothing")
    return seconds


def _confirm(asked: Asked, runner: Runner) -> None:
    """Ask before money is spent on more than one start. Raises ValueError where nobody can be asked."""
    facts, ahead = runner.facts, runner.forecast
    if facts.owned:
        return
    if not facts.priced and asked.max_usd is not None:
        raise ValueError(
            f"--max-usd cannot be kept: backends.{asked.backend} has no price; "
            "add one, or leave --max-usd out"
        )
    if asked.yes or (ahead.activations <= 1 and facts.priced):
        return
    if not sys.stdin.isatty():
        raise ValueError("this spends money on a rented backend; add --yes if that is meant")
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(FAILED)


def _show(asked: Asked, runner: Runner, said: Console) -> int:
    ended, backend = runner.ended, runner.backend
    figures = ended.figures
    if asked.as_json:
        document = {
            "backend": backend.name,
            "type": backend.options.type,
            **figures.as_json(),
            "error": ended.error or None,
            "complete": not ended.error and not ended.interrupted,
        }
        typer.echo(json.dumps(document, indent=2))
    elif figures:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _PLAIN_WIDTH
        title = f"{backend.name} ({backend.options.type})"
        console.print(report(figures, title, owned=backend.owned))
        typer.echo(f"\n# paste under backends.{backend.name}\n{block(figures.calibration())}", nl=False)
    if ended.interrupted:
        what = "these are the figures so far" if figures else "nothing was measured yet"
        said.print(f"interrupted: {what}", markup=False)
        return INTERRUPTED
    if ended.error:
        text = f"overspill probe: {ended.error}"
        if not figures and figures.spent_usd:
            text += f" (it has cost about ${figures.spent_usd:.4f})"
        said.print(text, markup=False, highlight=False, soft_wrap=True)
        return FAILED
    return 0
