"""Does a live run do what its simulation says? Both from one policy file, one trace and one set of times.

    python -m loadtests.live_vs_sim azure_llm_2023_code.csv.gz
    python -m loadtests.live_vs_sim burst:2:20:120 --service lognormal:600ms:0.4 --budget 10s --slots 2

Live: a fleet and a serverless endpoint (the emulators: they boot, idle away and send a bill), a real gateway
in front of them, all processes of their own on 127.0.0.1, and an open-loop driver that sends every request at
its own moment. Each request says how long it is to be served. Simulated: the same requests and times, by what
`overspill simulate` runs, on the same file. `--speed 4` does everything four times as fast, in both.

Exit code 0: they agree. 1: they do not. 2: nothing could be measured, and why.
"""

import argparse
import asyncio
import json
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict

import uvloop

from gateway.app import registries
from gateway.clock import SystemClock
from gateway.config.load import load
from gateway.demo.processes import CannotStart
from gateway.options import parse_duration
from gateway.simulator import from_file
from gateway.simulator.distributions import draws, is_distribution, parse, stream
from gateway.simulator.expression import compile_expression
from gateway.simulator.generators import open_trace
from gateway.simulator.run import simulate
from gateway.simulator.scenario import Workload
from loadtests.live_run import LATE_S, ROUTE, Figures, Live, Plan, live, stage

MOST_POINTS, MOST_COST = 5.0, 0.15
"""How far the two may be apart: points of attainment, and share of the cost."""


def busiest(arrivals: Sequence[float], seconds: float) -> tuple[int, int]:
    """The requests of the window of that length with the most of them: first, and one past the last."""
    windows = ((first, bisect_left(arrivals, since + seconds)) for first, since in enumerate(arrivals))
    return max(windows, key=lambda window: window[1] - window[0])


def workload(trace: str, service: str, seconds: float, *, speed: float, seed: int) -> Workload:
    """The busiest `seconds` of a trace, everything `speed` times as fast. Raises ValueError, OSError."""
    whole = open_trace(trace, seed=seed)
    if is_distribution(service):
        services: Sequence[float] = draws(parse(service), stream(seed, "service"), len(whole))
    else:
        services = compile_expression(service)(whole)
    first, end = busiest(whole.arrivals, seconds)
    zero = whole.arrivals[first]
    return Workload(
        whole.name,
        [(at - zero) / speed for at in whole.arrivals[first:end]],
        [each / speed for each in services[first:end]],
    )


def simulated(load_: Workload, policy_file: str, seed: int) -> Figures:
    """The same requests on virtual time."""
    backends, policies = registries()
    settings = load(policy_file, backends, policies).settings
    scenario = from_file.scenario(
        settings,
        ROUTE,
        backends,
        budget_s=None,
        objective=None,
        cold=None,
        idle_s=None,
        premium=None,
        seed=seed,
    )
    use = settings.routes[ROUTE].policy
    outcome = simulate(load_, scenario, policies.get(use.type)(use.options), 1)
    split = outcome.cost_split
    return Figures(
        outcome.requests, outcome.attained, outcome.cost, split["fleet"], outcome.cost - split["fleet"],
        outcome.activations, outcome.spilled, outcome.lost, outcome.duration,
    )  # fmt: skip


def compare(load_: Workload, plan: Plan) -> tuple[Live, Figures]:
    """Run both. Raises CannotStart."""
    with stage(plan) as stage_, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(live(load_.arrivals, load_.services, plan, stage_, SystemClock()))
        return measured, simulated(load_, stage_.policy, plan.seed)


def differences(measured: Live, said: Figures) -> tuple[float, float]:
    """Points of attainment, and share of the simulated cost; live less simulated."""
    return 100 * (measured.attained - said.attained), measured.cost / said.cost - 1.0


def report(measured: Live, said: Figures) -> str:
    """Both, side by side."""
    points, share = differences(measured, said)
    rows = [
        ("attained", f"{measured.attained:.2%}", f"{said.attained:.2%}", f"{points:+.2f} points"),
        ("cost", f"${measured.cost:.5f}", f"${said.cost:.5f}", f"{share:+.1%}"),
        *(
            (f"  {name}", f"${getattr(measured, field):.5f}", f"${getattr(said, field):.5f}", "")
            for name, field in (("fleet", "fleet_cost"), ("rented", "rented_cost"))
        ),
        ("  rented, metered", f"${measured.metered:.5f}", "", "by the gateway's own metrics"),
        *(
            (field, str(a := getattr(measured, field)), str(b := getattr(said, field)), f"{a - b:+d}")
            for field in ("activations", "spilled", "lost")
        ),
        ("duration", f"{measured.duration_s:.1f} s", f"{said.duration_s:.1f} s", ""),
    ]
    lines = [
        f"{'':18} {'live':>12} {'simulated':>12}",
        *(f"{a:18} {b:>12} {c:>12}  {d}" for a, b, c, d in rows),
    ]
    lines.append(
        f"The driver sent {measured.lagged} of {measured.requests} requests more than {LATE_S:g} s late "
        f"(p99 {1000 * measured.lag_p99_s:.0f} ms, most {1000 * measured.lag_max_s:.0f} ms)."
    )
    if measured.lagged > 0.01 * measured.requests:
        lines.append("That is more than 1 %: the machine was too busy, and the comparison says little.")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def agree(measured: Live, said: Figures) -> bool:
    """Within 5 points of attainment and 15 % of cost."""
    points, share = differences(measured, said)
    return abs(points) <= MOST_POINTS and abs(share) <= MOST_COST


def _seconds(text: str) -> float:
    seconds = parse_duration(text)
    assert isinstance(seconds, float)
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.live_vs_sim", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("trace", help="a file as for `overspill simulate`, or burst:CALM:PEAK:SECONDS")
    add("--seconds", type=_seconds, default=120.0, help="length of the slice, its busiest (120s)")
    add("--speed", type=float, default=1.0, help="everything so many times as fast (1)")
    add("--service", default="0.15+0.0002*input_tokens+0.012*output_tokens", help="as for `simulate`")
    add("--budget", type=_seconds, default=15.0, help="latency budget (15s)")
    add("--objective", type=float, default=0.99, help="share of requests within it (0.99)")
    add("--cold", type=_seconds, default=6.0, help="every boot takes so long (6s)")
    add("--idle", type=_seconds, default=5.0, help="idle time-out of an instance (5s)")
    add("--slots", type=int, default=4, help="slots of the fleet (4)")
    add("--cap", type=int, default=64, help="most instances at once (64)")
    add("--slot-usd-per-hour", type=float, default=1.0, help="price of a fleet slot (1)")
    add("--premium", type=float, default=1.5, help="price of an instance, in fleet slots (1.5)")
    add("--policy", default="cheapest_in_budget")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print the figures as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 or 2."""
    given = _parser().parse_args(arguments)
    speed = given.speed
    plan = Plan(
        given.budget / speed, given.objective, given.cold / speed, given.idle / speed, given.slots, given.cap,
        given.slot_usd_per_hour / 3600, given.premium, given.policy, given.seed,
    )  # fmt: skip
    try:
        load_ = workload(given.trace, given.service, given.seconds, speed=speed, seed=given.seed)
        sys.stderr.write(
            f"{load_.name}: {len(load_)} requests in {load_.span:.1f} s, "
            f"{sum(load_.services):.0f} s of service\n"
        )
        measured, said = compare(load_, plan)
    except (ValueError, OSError, CannotStart) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if given.json:
        points, share = differences(measured, said)
        sys.stdout.write(
            json.dumps(
                {"live": asdict(measured), "simulated": asdict(said), "points": points, "cost_share": share}
            )
            + "\n"
        )
    else:
        sys.stdout.write(report(measured, said))
    return 0 if agree(measured, said) else 1


if __name__ == "__main__":
    sys.exit(main())
