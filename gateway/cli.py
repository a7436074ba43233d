"""The command line: arguments in, exit status out. Everything else is done elsewhere.

A bad configuration ends with status 2 and one `FILE:LINE:COLUMN: path: message` for each problem on
standard error, which editors can jump to. Standard output carries only what was asked for.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gateway import __version__, app, serving
from gateway.auth import command as key_commands
from gateway.clock import SystemClock
from gateway.config import price_list
from gateway.config.effective import effective
from gateway.config.json_schema import json_schema
from gateway.config.load import Loaded, load
from gateway.config.problems import ConfigProblems, Problem
from gateway.config.source import Source
from gateway.errors import ConfigError
from gateway.explain import options as explaining
from gateway.probe import options as probing
from gateway.simulator import command as options
from gateway.simulator import plan_command
from gateway.top import command as top_command
from gateway.workers.run import worker_count

BAD_CONFIG = 2
"""Exit status for a configuration that cannot be used; also what a wrong option gives."""

command = typer.Typer(
    name="overspill",
    help="One URL in front of an always-on Triton fleet and rented serverless GPUs: "
    "fill what is paid for, spill the burst, prove the cost.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback that shows local variables would show secrets.
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration file (YAML).")
]
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        metavar="N|auto",
        help="Processes that share the ports, the slots of every replica and the spill budgets, with one "
        "admin port for all; auto: one per core. One that dies is started again.",
    ),
]


def main() -> None:
    """Entry point of the `overspill` command."""
    command()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"overspill {__version__}")
        raise typer.Exit


@command.callback()
def _every_command(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    pass


@command.command()
def serve(config: ConfigFile, *, record: options.Record = None, workers: Workers = "1") -> None:
    """Run the gateway until SIGTERM or Ctrl-C, which drain it: calls in flight are finished first.

    SIGUSR2 restarts it as the version that is installed now, in the same process and on the same ports,
    without a lost call: worker after worker, or with --workers 1 when its calls have ended, while connections
    wait. SIGHUP reads the configuration again.
    """
    try:
        count = worker_count(workers)
        if record is not None and count > 1:
            raise ValueError("--record needs --workers 1: a recording is of the decisions of one process")
    except ValueError as error:
        typer.echo(f"overspill serve: {error}", err=True)
        raise typer.Exit(BAD_CONFIG) from None
    try:
        source = Source(config, app.load_file)
        loaded = source.read()
        _print(loaded.warnings, warning=True)
        status = serving.serve(source, loaded.settings, record=record, workers=count)
    except ConfigProblems as error:
        _print(error.problems)
        raise typer.Exit(BAD_CONFIG) from None
    except ConfigError as error:
        # Found while the gateway was being built: it has no line, but it is the file all the same.
        typer.echo(f"{config}:1:1: (file): {error}", err=True)
        raise typer.Exit(BAD_CONFIG) from None
    raise typer.Exit(status)


@command.command()
def check(
    config: ConfigFile,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")
    ] = False,
    show_effective: Annotated[
        bool,
        typer.Option(
            "--effective",
            help="Print the whole configuration, every default filled in, secrets by reference.",
        ),
    ] = False,
    secrets: Annotated[
        bool,
        typer.Option(
            "--secrets/--no-secrets",
            help="Whether every secret reference must lead to a secret on this machine.",
        ),
    ] = True,
) -> None:
    """Check a configuration file without starting anything: exit status 0 if it is good, 2 if not.

    Every problem is told in one run, with its line, its column and what would be right. Unknown keys are
    problems. Warnings are about files that work, and do not change the exit status.
    """
    loaded: Loaded | None = None
    problems: Iterable[Problem] = ()
    try:
        loaded = _load(config, resolve_secrets=secrets)
    except ConfigProblems as error:
        problems = error.problems
    warnings = loaded.warnings if loaded is not None else []
    text = effective(loaded.settings) if loaded is not None and show_effective else None
    if as_json:
        _print_json(problems, warnings, text)
    else:
        _print(problems)
        _print(warnings, warning=True)
        if loaded is not None:
            typer.echo(text.rstrip() if text is not None else _good(config, loaded))
    raise typer.Exit(0 if loaded is not None else BAD_CONFIG)


@command.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors that complete and check YAML."""
    typer.echo(json.dumps(json_schema(*app.registries()), indent=2))


command.command()(price_list.prices)
command.command()(top_command.top)
command.add_typer(key_commands.keys, name="keys")


@command.command()
def demo(
    seconds: Annotated[
        int, typer.Option("--seconds", min=10, max=3600, help="How long the load runs, in seconds.")
    ] = 60,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the figures of the run to this file as well."),
    ] = None,
) -> None:
    """Show the whole thing on this machine: a real Triton, serverless backends that go cold, and a burst.

    Nothing is sent anywhere and nothing is spent: the three serverless providers are emulated locally, with
    their boot times, their limits and their bills.
    """
    from gateway.demo.main import run  # noqa: PLC0415 - optional extras, seconds to import

    raise typer.Exit(run(seconds, json_path))


@command.command()
def explain(
    config: ConfigFile,
    *,
    route: explaining.RouteName = None,
    state: explaining.StateFile = None,
    size: explaining.Size = None,
    priority: explaining.Priority = "default",
    protocol: explaining.Protocol = None,
    operation: explaining.Operation = None,
    stream: explaining.Stream = False,
    body: explaining.Body = 0,
    version: explaining.Version = "",
    as_json: explaining.AsJson = False,
) -> None:
    """Say what would be decided about a call in a given state, and why every other way lost.

    The route's own policy decides, on the gateway's own queue and slots. Nothing is sent or spent.
    """
    from gateway.explain.asked import Wanted  # noqa: PLC0415 - not a part of what serves requests
    from gateway.explain.command import explain as look  # noqa: PLC0415 - the same, and it draws tables

    with _wrong_input("explain"):
        look(
            _load(config, resolve_secrets=False).settings, app.registries(),
            route=route, state=state, protocol=protocol, as_json=as_json,
            wanted=Wanted(
                size=size, priority=priority, operation=operation, stream=stream, body=body, version=version
            ),
        )  # fmt: skip


@command.command()
def simulate(
    trace: options.TracesOrNone = None,
    config: options.ConfigFile = None,
    *,
    route: options.Route = None,
    service: options.Service = None,
    size: options.Size = None,
    budget: options.Budget = None,
    objective: options.Objective = None,
    cold: options.Cold = None,
    idle: options.Idle = None,
    premium: options.Premium = None,
    bills: options.Bills = None,
    fee: options.Fee = None,
    round_up: options.RoundUp = None,
    late_binding: options.LateBinding = None,
    fleet_price: options.FleetPrice = 1.0,
    replicas: options.Replicas = "auto",
    policy: options.PolicyNames = None,
    seed: options.Seed = 0,
    unit: options.CostUnit = options.Unit.USD,
    prewarm: options.PrewarmWithin = None,
    as_json: options.AsJson = False,
    html: options.HtmlFile = None,
    sensitive: options.Sensitive = False,
    replay: options.Replay = None,
) -> None:
    """Replay a trace on virtual time: what each policy attains, what it costs, how far that is from the best.

    The queue, the slots and the policies are the gateway's own; only time and the backends are simulated. An
    instance of the endpoint serves one request at a time; of its life is paid for what --bills says, all of
    it by default. The lower bound is a cost that nobody could undercut who knew every request ahead.
    """
    from gateway.simulator import replay_show  # noqa: PLC0415 - not a part of what serves requests
    from gateway.simulator.main import Wanted  # noqa: PLC0415 - the same
    from gateway.simulator.show import show  # noqa: PLC0415 - the same, and it draws tables

    wanted = Wanted(
        service=service, size=size, budget=budget, objective=objective, cold=cold, idle=idle, premium=premium,
        fleet_price=fleet_price, replicas=replicas, policies=tuple(policy or ()), route=route, seed=seed,
        unit=unit.value, prewarm=prewarm, bills=bills, fee=fee, round_up=round_up,
        late_binding=late_binding,
    )  # fmt: skip
    with _wrong_input("simulate"):
        settings = _load(config, resolve_secrets=False).settings if config is not None else None
        if replay is not None:
            simulated = trace or html or sensitive or wanted != Wanted()
            settings = replay_show.checked(settings, simulated=bool(simulated))
            agrees = replay_show.show(replay, settings, app.registries()[1], as_json=as_json)
            raise typer.Exit(0 if agrees else 1)
        show(
            replay_show.needed(trace), wanted, app.registries(), settings,
            unit=unit.value, as_json=as_json, html=html, sensitive=sensitive,
        )  # fmt: skip


@command.command()
def plan(
    trace: options.Traces,
    config: options.ConfigFile = None,
    *,
    route: options.Route = None,
    service: options.Service = None,
    size: options.Size = None,
    budget: options.Budget = None,
    objective: options.Objective = None,
    cold: options.Cold = None,
    idle: options.Idle = None,
    premium: options.Premium = None,
    bills: options.Bills = None,
    fee: options.Fee = None,
    round_up: options.RoundUp = None,
    late_binding: options.LateBinding = None,
    fleet_price: options.FleetPrice = 1.0,
    policy: plan_command.PolicyNames = None,
    load: plan_command.Loads = None,
    repeats: plan_command.Repeats = 3,
    seed: plan_command.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Say how many warm replicas, under which policy, meet the objective at least cost.

    And from which load on one more pays for itself. The answer may be no fleet, no serverless, or that the
    objective cannot be attained. Every figure comes from replaying the trace as `simulate` does.
    """
    from gateway.simulator.main import Wanted  # noqa: PLC0415 - not a part of what serves requests
    from gateway.simulator.plan_show import show  # noqa: PLC0415 - the same, and it draws tables

    wanted = Wanted(
        service=service, size=size, budget=budget, objective=objective, cold=cold, idle=idle, premium=premium,
        fleet_price=fleet_price, policies=tuple(policy or ()), route=route, seed=seed,
        bills=bills, fee=fee, round_up=round_up, late_binding=late_binding,
    )  # fmt: skip
    with _wrong_input("plan"):
        settings = _load(config, resolve_secrets=False).settings if config is not None else None
        show(trace, wanted, app.registries(), settings, loads=load, repeats=repeats, as_json=as_json)


@command.command(hidden=True)
def advise() -> None:
    """Work out how many replicas the calls on standard input needed. The gateway starts this itself."""
    from gateway.simulator.advise import advise as work_out  # noqa: PLC0415 - not a part of what serves

    try:
        typer.echo(work_out(sys.stdin.buffer, *app.registries()))
    except ValueError as error:
        typer.echo(f"overspill advise: {error}", err=True)
        raise typer.Exit(BAD_CONFIG) from None


@command.command()
def probe(
    config: ConfigFile,
    backend: probing.BackendName,
    *,
    route: probing.Route = None,
    model: probing.Model = None,
    protocol: probing.ProtocolUsed = None,
    request: probing.RequestFile = None,
    path: probing.RequestPath = None,
    calls: probing.Calls = 50,
    cold_starts: probing.ColdStarts = 3,
    concurrency: probing.Concurrency = None,
    timeout: probing.Timeout = "2m",
    idle: probing.Idle = None,
    max_usd: probing.MaxUsd = None,
    yes: probing.Yes = False,
    as_json: probing.AsJson = False,
) -> None:
    """Measure a backend: cold starts, warm latency, calls at once, price. Ends with a block to paste.

    It says ahead what it will take and cost, never spends more than --max-usd, and prints what it has when
    it is stopped with Ctrl-C. Exit status 1: the backend cannot be measured; 2: a wrong file or option.
    """
    from gateway.probe import command as measured  # noqa: PLC0415 - not a part of what serves requests

    asked = measured.Asked(
        backend=backend, route=route, model=model, protocol=protocol.value if protocol else None,
        request=request, path=path, calls=calls, colds=cold_starts, most=concurrency, timeout=timeout,
        idle=idle, max_usd=max_usd, yes=yes, as_json=as_json,
    )  # fmt: skip
    with _wrong_input("probe"):
        settings = _load(config, resolve_secrets=False).settings
        status = measured.probe(asked, settings, app.registries()[0], SystemClock())
    raise typer.Exit(status)


def _load(config: Path, *, resolve_secrets: bool = True) -> Loaded:
    return load(config, *app.registries(), resolve_secrets=resolve_secrets, wall=SystemClock().wall())


def _good(config: Path, loaded: Loaded) -> str:
    settings = loaded.settings
    return f"{config}: good: {_count(settings.backends, 'backend')}, {_count(settings.routes, 'route')}"


def _count(things: Iterable[object], noun: str) -> str:
    number = len(list(things))
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def _wrong_input(command_name: str) -> Iterator[None]:
    """End with `BAD_CONFIG` and say why, where the file or what was asked for is wrong."""
    try:
        yield
    except ConfigProblems as error:
        _print(error.problems)
        raise typer.Exit(BAD_CONFIG) from None
    except (ValueError, OSError, ConfigError) as error:
        typer.echo(f"overspill {command_name}: {error}", err=True)
        raise typer.Exit(BAD_CONFIG) from None


def _print(problems: Iterable[Problem], *, warning: bool = False) -> None:
    """To standard error, one a line; in colours only on a terminal that wants them."""
    colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    word = "warning: " if warning else ""
    for problem in problems:
        place = f"{problem.file}:{problem.line}:{problem.column}:"
        if colours:
            mark = typer.style(f"{word}{problem.path}:", fg="yellow" if warning else "red", bold=True)
            typer.echo(f"{typer.style(place, dim=True)} {mark} {problem.message}", err=True)
        else:
            typer.echo(f"{place} {word}{problem.path}: {problem.message}", err=True)


def _print_json(problems: Iterable[Problem], warnings: Iterable[Problem], text: str | None) -> None:
    found = [problem._asdict() for problem in problems]
    result: dict[str, object] = {
        "ok": not found,
        "problems": found,
        "warnings": [problem._asdict() for problem in warnings],
    }
    if text is not None:
        result["effective"] = text
    typer.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
