"""`python -m loadtests.bench.overhead`: what metrics, access log and traces cost, in CPU time per request.

The same gateway several times, all of it on and with parts of it off, put under the same load in turn (A B C,
A B C, …). Each is compared with the whole in its own round; medians and ranges over the rounds. All on means
metrics, every call in the access log, and the shipped 1 % of the calls traced to a collector on this machine.
Of each there are several processes, whose mean counts: two that are alike differ by 5 % for as long as they
live, by where their memory lies; and turns are short, because the speed of a machine moves within seconds.

Exit code 0: all together cost at most the limit. 1: more, or a run failed. 2: a tool is missing. 3: others
were busy on the same cores, so that nothing is shown. 130: stopped.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from types import FrameType

from loadtests.bench.figures import Limit, Run, Spread
from loadtests.bench.machine import Cores, describe
from loadtests.bench.measure import Measured, Settings, measure
from loadtests.bench.peers.overspill import CHILD_AFTER, key_headers, overspill_config
from loadtests.bench.peers.plan import Peer, Plan, Site
from loadtests.bench.processes import NotAnswering, Server, exchange, free_ports, wait_until_serving
from loadtests.bench.report import spread_text, table
from loadtests.bench.workload import WORKLOADS, Kind

LIMIT = 0.15
"""Share of the gateway's CPU time per request that the three may take together."""


@dataclass(frozen=True)
class Variant:
    """A gateway with parts of its observation off.

    without:  what the launcher leaves out (`loadtests.bench.unobserved`)
    """

    says: str
    log: bool = True
    tracing: bool = True
    without: str = ""


EVERYTHING, NOTHING = "everything", "none_of_the_three"
VARIANTS: Mapping[str, Variant] = {
    EVERYTHING: Variant("metrics, access log and traces"),
    "no_log": Variant("without the access log", log=False),
    "no_traces": Variant("without traces", tracing=False),
    "no_metrics": Variant("without metrics", without="metrics"),
    NOTHING: Variant("without all three", log=False, tracing=False, without="metrics"),
    "nor_decisions": Variant(
        "nor the last decisions that /explain keeps", log=False, tracing=False, without="metrics,decisions"
    ),
}


def config(variant: Variant, site: Site, sink_port: int) -> str:
    """The bench's own file for the gateway, with parts of it left out."""
    text = overspill_config(
        site.directory, port=site.port, admin_port=site.admin_port, upstream_port=site.upstream_port
    )
    lines = [line for line in text.splitlines() if variant.log or not line.startswith("access_log:")]
    if variant.tracing:
        lines.append(f"tracing: {{endpoint: http://127.0.0.1:{sink_port}, sample: 0.01}}")
    return "\n".join([*lines, ""])


def _plan(name: str, sink_port: int, site: Site) -> Plan:
    variant = VARIANTS[name]
    file = site.write("overspill.yaml", config(variant, site, sink_port))
    argv = [sys.executable, "-m", "loadtests.bench.unobserved", str(file), "--without", variant.without]
    return Plan(
        name=name, version=variant.says, argv=argv, port=site.port, admin_port=site.admin_port,
        headers=key_headers(site.directory), child_after=CHILD_AFTER,
    )  # fmt: skip


_PROCESS = "#"
"""Stands between the name of a variant and the number of its process."""


def contestants(sink_port: int, processes: int) -> dict[str, Peer]:
    """All processes of all variants, as the rounds take them."""
    return {
        f"{name}{_PROCESS}{number}": Peer(partial(_plan, name, sink_port), frozenset({Kind.HTTP}))
        for number in range(1, processes + 1)
        for name in VARIANTS
    }


# -- arithmetic


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the whole costs beyond one variant, round by round.

    cpu_us:       of the variant itself, per request
    saved_us:     what it costs less than the whole
    share:        that, of what the whole costs
    undisturbed:  nobody else worked on the cores
    """

    name: str
    cpu_us: Spread
    saved_us: Spread
    share: Spread
    undisturbed: bool


def costs(runs: Sequence[Run]) -> list[Cost]:
    """One for each variant that has runs beside the whole. Rounds that others disturbed count only for want
    of better ones.
    """
    usable: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if not run.void and run.cpu_us_per_request:
            usable.setdefault((run.peer.partition(_PROCESS)[0], run.round), []).append(run)
    found = []
    for name in VARIANTS:
        pairs = [
            (whole, less)
            for (variant, number), less in usable.items()
            if variant == name and (whole := usable.get((EVERYTHING, number))) is not None
        ]
        quiet = [(whole, less) for pair in pairs if (whole := _quiet(pair[0])) and (less := _quiet(pair[1]))]
        figures = [(_cpu_us(whole), _cpu_us(less)) for whole, less in quiet or pairs]
        cpu = Spread.of([less for _, less in figures])
        saved = Spread.of([whole - less for whole, less in figures])
        share = Spread.of([1.0 - less / whole for whole, less in figures])
        if cpu and saved and share:
            found.append(Cost(name=name, cpu_us=cpu, saved_us=saved, share=share, undisturbed=bool(quiet)))
    return found


def _quiet(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.limit is not Limit.DISTURBED]


def _cpu_us(runs: list[Run]) -> float:
    return fmean(run.cpu_us_per_request or 0.0 for run in runs)


def verdict(found: Sequence[Cost], limit: float) -> bool | None:
    """Do all three together stay within the limit? None where that is not shown."""
    together = next((cost for cost in found if cost.name == NOTHING), None)
    if together is None or not together.undisturbed:
        return None
    return together.share.median <= limit


# -- the report


def _percent(share: Spread) -> str:
    return f"{share.median:.1%} ({share.low:.1%} to {share.high:.1%})"


def markdown(found: Sequence[Cost], about: Mapping[str, str], limit: float) -> str:
    """What came out."""
    rows = [
        (
            VARIANTS[cost.name].says,
            spread_text(cost.cpu_us, 1),
            "-" if cost.name == EVERYTHING else spread_text(cost.saved_us, 1),
            "-" if cost.name == EVERYTHING else _percent(cost.share),
            "" if cost.undisturbed else "others were busy here",
        )
        for cost in found
    ]
    together = next((cost for cost in found if cost.name == NOTHING), None)
    word = {True: "met", False: "missed", None: "not shown"}[verdict(found, limit)]
    got = "nothing was measured" if together is None else _percent(together.share)
    return "\n".join(
        [
            "# What observing costs\n",
            *(f"- {key}: {value}" for key, value in about.items()),
            "\nMedian (range) over the rounds; what is saved is told from the whole in the same round.\n",
            table(("the gateway", "CPU us/request", "saved us", "saved", "note"), rows),
            f"\nMetrics, log and traces together: {got} of the CPU per request, at most {limit:.0%} wanted: "
            f"{word}.\n",
        ]
    )


# -- the run


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m loadtests.bench.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--rounds", type=int, default=12, help="times that each is loaded (12)")
    add("--processes", type=int, default=3, help="of each variant (3)")
    add("--seconds", type=float, default=1.0, help="length of one run (1); wrk takes whole seconds")
    add("--connections", type=int, default=32, help="of the load (32)")
    add("--warm-up", type=float, default=2.0, help="seconds of load before the rounds (2)")
    add("--limit", type=float, default=LIMIT, help=f"share that is allowed ({LIMIT})")
    add("--markdown", type=Path, metavar="FILE", help="write the report, as printed")
    return options.parse_args(given)


def _measured(options: argparse.Namespace, cores: Cores) -> Measured:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overspill-overhead-")))
        [port] = free_ports(1)
        argv = [sys.executable, "-m", "loadtests.bench.span_sink", str(port)]
        sink = stack.enter_context(Server(argv, core=cores.load, log=directory / "sink"))
        wait_until_serving(sink, partial(_refused, port), within_s=10.0)
        known = contestants(port, options.processes)
        return measure(
            Settings(
                peers=list(known),
                connections=[options.connections],
                rounds=options.rounds,
                seconds=options.seconds,
                warm_up_s=options.warm_up,
                workload=WORKLOADS["infer"],
                cores=cores,
                known=known,
            ),
            _say,
        )


def _refused(port: int) -> str | None:
    try:
        status, _ = exchange(port, "POST", "/v1/traces", b"")
    except OSError as error:
        return str(error)
    return None if status == 200 else f"status {status}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, _stop)  # so that what was started is ended on this way out too
    cores = Cores.choose()
    try:
        about = {
            **describe(cores),
            "rounds": f"{options.rounds} of {options.seconds:g} s, {options.connections} connections, "
            f"{options.processes} processes of each",
        }
        measured = _measured(options, cores)
    except NotAnswering as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    found = costs(measured.runs)
    text = markdown(found, about, options.limit)
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    if measured.failed or any(run.void for run in measured.runs):
        return 1
    return {True: 0, False: 1, None: 3}[verdict(found, options.limit)]


if __name__ == "__main__":
    sys.exit(main())
