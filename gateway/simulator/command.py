"""The options of `overspill simulate`, each with its help. Nothing else: what they do is in `main.py`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args

import typer


class Unit(StrEnum):
    """What costs are told in."""

    USD = "usd"
    SLOT_SECONDS = "slot_seconds"


Traces = Annotated[
    list[str],
    typer.Option(
        "--trace",
        metavar="T",
        help="When the requests come: a file, plain or gzip (the published LLM and function traces, a CSV "
        "with t_s, counts per second or minute, this gateway's access log), poisson:RATE:SECONDS, or "
        "burst:CALM:PEAK:SECONDS. May be given several times.",
    ),
]
TracesOrNone = Annotated[list[str] | None, get_args(Traces)[1]]
"""Not needed with --replay."""
Record = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE",
        dir_okay=False,
        help="Write every event and every decision to this file when the gateway stops, for simulate "
        "--replay. Neither bodies nor header values are in it; it ends after 200,000 lines.",
    ),
]
"""Of `overspill serve`, whose recordings are replayed here."""
Replay = Annotated[
    Path | None,
    typer.Option(
        "--replay",
        metavar="FILE",
        dir_okay=False,
        help="Not a trace, but the recording of a live run (serve --record): feed its events to new pools, "
        "with the policies of the file given with -c, and print every decision that is not the same. Exit "
        "status 0 if all agree, 1 if not.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Take the slots, prices, idle times, cold starts and latency budget of a route from this file; "
        "options that are given go before it. Without it the options describe one fleet and one endpoint.",
    ),
]
Route = Annotated[
    str | None,
    typer.Option("--route", metavar="NAME", help="The route of the file, if it has several."),
]
Service = Annotated[
    str | None,
    typer.Option(
        "--service",
        metavar="EXPR|DIST",
        help="How long a slot serves a request: seconds as arithmetic over the trace's columns "
        "(0.15+0.0002*input_tokens+0.012*output_tokens), or a distribution (lognormal:MEDIAN:SIGMA, "
        "exponential:MEAN, constant:T, empirical:FILE). Default: the durations in the trace, if any.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="EXPR",
        help="What can be told of a request when it comes, as arithmetic over the trace's columns "
        "(input_tokens): requests of like size are expected to take alike. Default: nothing.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="T", help="Longest time from arrival to the end of the answer. Default: 15s."
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        "--objective", metavar="SHARE", help="Share of the requests to answer within it. Default: 0.99."
    ),
]
Cold = Annotated[
    str | None,
    typer.Option("--cold", metavar="DIST", help="How long an instance boots. Default: lognormal:6s:0.4."),
]
Idle = Annotated[
    str | None,
    typer.Option("--idle", metavar="T", help="How long an idle instance stays. Default: 5s."),
]
Premium = Annotated[
    float | None,
    typer.Option(
        "--premium", min=0, help="Price of an instance, as a multiple of a fleet slot's. Default: 1.5."
    ),
]
Bills = Annotated[
    str | None,
    typer.Option(
        "--bills",
        metavar="cold,idle|cold|idle|none",
        help="What of an instance's life is paid for beside the requests it serves: cold starts, idling. "
        "cold is AWS Lambda's way. Default: what the backend of the file does, else cold,idle.",
    ),
]
Fee = Annotated[
    float | None,
    typer.Option(
        "--fee", metavar="USD", min=0, help="Dollars for each request to an instance, pings too. Default: 0."
    ),
]
RoundUp = Annotated[
    str | None,
    typer.Option(
        "--round-up",
        metavar="T",
        help="The provider rounds up to multiples of this: an instance's life where idling is paid for, else "
        "every request with the cold start it waited for. Default: what the backend does, else not at all.",
    ),
]


class Binding(StrEnum):
    """How a call comes to an instance that has to boot: `late_binding` of a backend."""

    PING = "ping"
    PROVIDER = "provider"
    NONE = "none"


LateBinding = Annotated[
    Binding | None,
    typer.Option(
        "--late-binding",
        help="ping: an instance may boot while requests wait, which then run on whatever is free first. "
        "provider: a request makes one boot, and waits in the provider's own queue for what is free first. "
        "none: only a request makes one boot, and waits for it. Default: what the backend of the file does, "
        "else ping.",
    ),
]
PrewarmWithin = Annotated[
    str | None,
    typer.Option(
        "--prewarm",
        metavar="MAX:USD",
        help="Open instances ahead of demand as long as no more than MAX are up, for at most USD dollars an "
        "hour. Default: what the route of the file says, else nothing.",
    ),
]
FleetPrice = Annotated[
    float,
    typer.Option("--fleet-price", min=0, help="Dollars per hour of a fleet slot, where no file says it."),
]
Replicas = Annotated[
    str,
    typer.Option(
        "--replicas",
        metavar="auto|N",
        help="Replicas of the fleet. auto: for each policy, as many as attain the objective at least cost.",
    ),
]
PolicyNames = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="A policy to simulate; may be given several times. Default: cheapest_in_budget, "
        "fleet_only, serverless_only, queue_threshold, spill_when_full, and the route's own.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Equal seeds give equal results.")]
CostUnit = Annotated[
    Unit, typer.Option("--unit", help="What costs are told in: dollars, or seconds of one fleet slot.")
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as JSON on standard output: an object, a list for several traces."
    ),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        dir_okay=False,
        help="Write the result to this file as well, as a page with drawings that needs no network.",
    ),
]
Sensitive = Annotated[
    bool,
    typer.Option(
        "--sensitivity",
        help="Simulate again with other instance prices, idle times and budgets, one at a time, for a table "
        "on the page of --html and in --json. Takes up to nine times as long.",
    ),
]
