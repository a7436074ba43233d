"""Are the gateway's books the providers' bills? Requests with failures through every emulated endpoint.

    python -m loadtests.books                    10,000 requests, a few minutes
    python -m loadtests.books --requests 600 --only aws_lambda,modal

Emulators that boot, idle away, fail and keep a bill of their own; a gateway with a route to each; clients
that come in bursts, some of whom hang up. Afterwards what the gateway says is compared with what the
emulators say: answers, cold starts, dollars, and one log line for each request.

Exit code 0: they are the same. 1: they are not.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import uvloop

from loadtests.books_endpoints import KINDS, Endpoint
from loadtests.books_run import Books, run

SHARE = 0.01
"""The gateway's bill may differ so much from the emulator's, beyond what nobody was told of or presumed."""
_THREADS = 128


class Row(NamedTuple):
    """One endpoint, by both sides.

    served, answered:  answers by the gateway's log, and by the clients, who read who made them
    started, told:     starts by the gateway, and those that an emulator has told somebody of
    untold:            starts that it has not: their calls had left, had failed, or were answered by others
    doubtful:          of those told, the ones told only to somebody who hung up in that moment
    booked, billed:    dollars; `untold_usd` billed for instances that nobody was told of, `presumed_usd`
                       booked for instances of which the gateway itself says that it never heard of them
    """

    name: str
    served: int
    answered: int
    started: int
    told: int
    untold: int
    doubtful: int
    unknown: int
    booked: float
    billed: float
    untold_usd: float
    presumed_usd: float
    tolerance: float
    wrong: tuple[str, ...]


def row(books: Books, each: Endpoint) -> Row:
    """What both sides say of one endpoint, and what of it is wrong."""
    bill, fleet = each.emulator.bill(), each.emulator.fleet
    stayed = {sent.id for sent in books.sent if sent.status}
    served = sum(
        line["backend"] == each.name and line["outcome"] == "ok" and line["request_id"] in stayed
        for line in books.log
    )
    answered = sum(sent.status == 200 and sent.by == each.name for sent in books.sent)
    started = round(books.total("instances_started_total", each.name))
    told = bill.cold_starts - fleet.unmet
    unknown = round(books.starts(each.name, "unknown"))
    booked = books.booked(each.name)
    untold_usd = bill.usd * fleet.unmet_s / bill.billed_seconds if bill.billed_seconds else 0.0
    presumed_usd = books.total("presumed_usd_total", each.name)
    wrong = []
    if served != answered:
        wrong.append(f"{served} answers in the log, {answered} at the clients")
    if not told - fleet.doubtful <= started <= told:
        wrong.append(f"{started} starts by the gateway, {told} told by the provider")
    if unknown:
        wrong.append(f"{unknown} starts unknown")
    off = each.tolerance * bill.usd
    if booked - presumed_usd > bill.usd + off or booked < bill.usd - untold_usd - off:
        wrong.append(f"{100 * (booked / bill.usd - 1):+.2f} % of the bill")
    return Row(
        each.name, served, answered, started, told, fleet.unmet, fleet.doubtful, unknown, booked, bill.usd,
        untold_usd, presumed_usd, each.tolerance, tuple(wrong),
    )  # fmt: skip


def whole(books: Books) -> list[str]:
    """What is wrong with the requests as such: each has one answer and one log line, and ran once."""
    wrong = []
    lines = Counter(line["request_id"] for line in books.log)
    sent = Counter(each.id for each in books.sent)
    for what, ids in (
        ("have no log line", [each for each in sent if not lines[each]]),
        ("have more than one log line", [each for each in lines if lines[each] > 1]),
        ("have a log line and were never sent", [each for each in lines if not sent[each]]),
        ("have more than one answer", [each for each in sent if sent[each] > 1]),
        ("have another request's answer", [each.id for each in books.sent if each.status == -2]),
    ):
        if ids:
            wrong.append(f"{len(ids)} requests {what}: {', '.join(ids[:3])}")
    ran: Counter[str] = Counter()
    for endpoint in books.endpoints:
        ran.update(endpoint.executions.of)
    once = {each.id for each in books.sent if each.route.endswith("-pinged")}
    if twice := [each for each in once if ran[each] > 1]:
        wrong.append(f"{len(twice)} requests that may run once ran again: {', '.join(twice[:3])}")
    return wrong


def report(books: Books, rows: Sequence[Row], wrong: Sequence[str]) -> str:
    """The table, and below it what is wrong and what the tolerances are for."""
    statuses = Counter(each.status for each in books.sent)
    said = {0: "left", -1: "broken off", -2: "mixed up"}
    lines = [
        f"{len(books.sent)} requests in {books.seconds:.0f} s; answers: "
        + ", ".join(f"{said.get(status, status)} {count}" for status, count in sorted(statuses.items())),
        "made to go wrong: " + ", ".join(f"{kind} {count}" for kind, count in sorted(books.troubles.items())),
        "",
        f"{'endpoint':24} {'answers':>7} {'starts':>7} {'told':>6} {'doubt':>5} {'untold':>6} "
        f"{'booked $':>10} {'billed $':>10} {'differs':>8} {'untold':>7} {'presumed':>8}",
    ]
    lines += [
        f"{each.name:24} {each.served:7} {each.started:7} {each.told:6} {each.doubtful:5} {each.untold:6} "
        f"{each.booked:10.6f} {each.billed:10.6f} {_share(each.booked - each.billed, each.billed)} "
        f"{_share(each.untold_usd, each.billed)[1:]} {_share(each.presumed_usd, each.billed)}  "
        f"{'; '.join(each.wrong)}".rstrip()
        for each in rows
    ]
    lines += [_together(rows), "", *wrong]
    lines.append(
        "Doubt: starts told of only to a connection that the gateway ended in the same moment, as where the "
        "other attempt of a hedged call had answered: nobody at the provider's end can know whether it "
        "has read that. The gateway may have counted them or not."
    )
    lines.append(
        "Untold: instances of which the provider told nobody, because every call that they were started for "
        "had left, had failed, or was answered by another. The gateway does not count them, and can only "
        "presume that there are some: what it booked for those that it never heard of is in its own metric, "
        "and in the last column. Without them, what it booked is at most "
        f"{100 * SHARE:g} % above the bill; with them, at most {100 * SHARE:g} % below the bill less the "
        "untold."
    )
    for endpoint in books.endpoints:
        if endpoint.tolerance > SHARE:
            lines.append(f"{endpoint.name}: within {100 * endpoint.tolerance:g} %: {endpoint.why}.")
    return "\n".join(lines) + "\n"


def _together(rows: Sequence[Row]) -> str:
    """What all endpoints come to: the bill that somebody would compare."""
    booked, billed = sum(each.booked for each in rows), sum(each.billed for each in rows)
    return (
        f"{'all together':24} {sum(each.served for each in rows):7} {sum(each.started for each in rows):7} "
        f"{sum(each.told for each in rows):6} {sum(each.doubtful for each in rows):5} "
        f"{sum(each.untold for each in rows):6} {booked:10.6f} {billed:10.6f} "
        f"{_share(booked - billed, billed)} {_share(sum(each.untold_usd for each in rows), billed)[1:]} "
        f"{_share(sum(each.presumed_usd for each in rows), billed)}"
    )


def _share(part: float, of: float) -> str:
    return f"{100 * part / of:+7.2f}%" if of else f"{'-':>8}"


async def _measured(names: Sequence[str], requests: int, seed: int, factor: float) -> Books:
    # Workers sleep in threads.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    return await run(names, requests, seed=seed, factor=factor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 or 1; 2 for a name that is none."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.books", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--only", help=f"endpoints, separated by commas: {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--factor",
        type=float,
        default=1.0,
        help="times that boots, work and idling take as long: 3 is six minutes",
    )
    given = parser.parse_args(arguments)
    names = given.only.split(",") if given.only else list(KINDS)
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"no such endpoint: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        books = runner.run(_measured(names, given.requests, given.seed, given.factor))
    rows = [row(books, each) for each in books.endpoints]
    wrong = whole(books)
    sys.stdout.write(report(books, rows, wrong))
    return 1 if wrong or any(each.wrong for each in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
