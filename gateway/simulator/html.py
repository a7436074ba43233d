"""The page of `simulate --html`: what was simulated, the figures, and the drawings, in one file.

The file asks for nothing else: its style is in it, it has no script, and its policy forbids every request.
Figures are those of `simulate --json`, each in a `data` element that carries it in full. Words and tables
are made here, drawings in `plots.py`, what they draw in `series.py`; nothing is simulated.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from gateway import __version__
from gateway.simulator import plots, words
from gateway.simulator.main import Study, Wanted
from gateway.simulator.report import PARTS, REFERENCE, UNIT_WORDS, Unit, money, share
from gateway.simulator.series import RunSeries, arrivals_per_second, run_series, span

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>Overspill simulation</h1>
<p class="soft">overspill {version}, seed {seed}. All figures come from replaying arrivals on virtual time
through the gateway's own queue, slots and policies.</p>
{contents}</header>
<main>
"""
_FOOT = "</main>\n</body>\n</html>\n"

TIMES = words.TIMES

Rows = Sequence[Mapping[str, Any]]


def page(sections: Sequence[tuple[str, str]], *, seed: int) -> str:
    """The whole file, of (name of the trace, its section)."""
    contents = ""
    if len(sections) > 1:
        links = "".join(
            f'<a href="#trace-{number}">{escape(name)}</a>' for number, (name, _) in enumerate(sections)
        )
        contents = f'<nav aria-label="Traces">{links}</nav>\n'
    head = _HEAD.format(
        title=escape("Overspill simulation: " + ", ".join(name for name, _ in sections)),
        style=files("gateway.simulator").joinpath("page.css").read_text(encoding="utf-8"),
        version=escape(__version__),
        seed=seed,
        contents=contents,
    )
    return head + "".join(text for _, text in sections) + _FOOT


def section(study: Study, wanted: Wanted, *, number: int, variations: Rows | None = None) -> str:
    """One trace. `number` tells its marks from those of others; `variations` are those of `sensitivity`."""
    return "\n".join(_section(study, wanted, f"trace-{number}", variations)) + "\n"


def _section(study: Study, wanted: Wanted, mark: str, variations: Rows | None) -> Iterator[str]:
    result = study.result
    yield f'<section class="trace" id="{mark}">'
    yield f"<h2>{escape(result['trace'])}</h2>"
    yield f'<p class="verdict">{escape(words.verdict(study, wanted.unit))}</p>'
    yield "<h3>What was simulated</h3>"
    described = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in words.parameters(study, wanted)
    )
    yield f"<dl>{described}</dl>"
    yield "<h3>Policies</h3>"
    yield _policies(study, wanted.unit, mark)
    yield "<h3>The lower bound</h3>"
    yield _bound(study, wanted.unit)
    yield "<h3>Read with care</h3>"
    yield f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in words.caveats(study, wanted))}</ul>"
    if variations is not None:
        yield "<h3>If prices, idle time or budget were different</h3>"
        yield _variations(study, variations, wanted.unit)
    yield from _drawings(study, wanted.unit, mark)
    # "<" would let a name end the element; JSON has another way to write it.
    text = json.dumps(dict(result) | ({"sensitivity": list(variations)} if variations is not None else {}))
    yield f'<script type="application/json" id="{mark}-json">{text.replace("<", chr(92) + "u003c")}</script>'
    yield "</section>"


def _policies(study: Study, unit: Unit, mark: str) -> str:
    result = study.result
    ratios = result["ratio_to_bound"]
    parts = [part for part in PARTS if any(entry["cost_split"].get(part) for _, entry in words.ranked(study))]
    most = max(entry["cost"] for _, entry in words.ranked(study))
    names = ("policy", "replicas", "attained", "cost", f"{TIMES} bound", *parts, "spilled")
    heads = "".join(f'<th scope="col">{name}</th>' for name in (*names, "cold starts", "activations", "lost"))
    rows: list[str] = []
    best = words.best(study)
    for name, entry in words.ranked(study):
        ratio = ratios.get(name)
        split = [(part, entry["cost_split"][part]) for part in parts]
        spoken = "; ".join(f"{part} {money(amount, unit)}" for part, amount in split)
        bar = plots.split(f"{mark}-bar-{len(rows)}", split, most, spoken)
        attains = words.attains(study, entry)
        cells = [
            _cell("replicas", entry["replicas"], f"{entry['replicas']:g}"),
            _cell("attained", entry["attained"], share(entry["attained"]), style="" if attains else "missed"),
            _cell("cost", entry["cost"], money(entry["cost"], unit), style="best" if name == best else ""),
            "<td>-</td>" if ratio is None else _cell("ratio_to_bound", ratio, f"{ratio:.2f}"),
            *(_cell(part, amount, money(amount, unit)) for part, amount in split),
            _cell("spill_ratio", entry["spill_ratio"], share(entry["spill_ratio"])),
            _cell("cold_ratio", entry["cold_ratio"], share(entry["cold_ratio"])),
            _cell("activations", entry["activations"], f"{entry['activations']:,}"),
            _cell("lost", entry["lost"], f"{entry['lost']:,}"),
        ]
        note = "" if attains else '<br><small class="missed">misses the objective</small>'
        head = f'<th scope="row">{escape(name)}{note}{bar}</th>'
        rows.append(f'<tr data-policy="{escape(name)}">{head}{"".join(cells)}</tr>')
    keys = "".join(_key(part, words.PART_WORDS[part]) for part in parts)
    return (
        f'<div class="wide"><table><caption>Costs in {UNIT_WORDS[unit]}, the cheapest first. '
        f"Cold starts: activations for each spilled request.</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div><p>{keys}</p>"
    )


def _bound(study: Study, unit: Unit) -> str:
    bound = study.result["bound"]
    if not bound:
        return (
            "<p>There is none here: it needs a fleet that has a price, a rented backend, and numpy and scipy "
            "(the extra <code>simulate</code>).</p>"
        )
    dt = bound.get("dt")
    width = f" over bins of {_data(dt, plots.duration(dt))}" if dt else ""
    return (
        f"<p>{_data(bound['cost'], money(bound['cost'], unit))} {escape(UNIT_WORDS[unit])} with "
        f"{_data(bound['replicas'], words.replicas(bound['replicas']))} of the fleet, at "
        f"{escape(share(words.target(study)))} of the requests answered in time.</p>"
        f"<p>Its type: the value of a fluid linear program with activation cost{width}, solved by HiGHS. "
        "Work may be split, paused and moved freely, and capacity is there the moment it is wanted; every "
        "rented instance still pays its mean cold start and its idle time-out once.</p>"
        "<p>The figure above is at the objective, the ratios are to the bound at what each policy attained. "
        f"{escape(REFERENCE)} A ratio of 1.8 therefore means: at most 1.8 times the best possible cost, "
        "probably less.</p>"
    )


def _variations(study: Study, rows: Rows, unit: Unit) -> str:
    names = [name for name, _ in words.ranked(study)]
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("setting", *names, "lower bound"))
    lines = []
    for row in rows:
        policies, ratios, bound = row["policies"], row["ratio_to_bound"], row["bound"]
        met = {name: words.enough(study, entry, row) for name, entry in policies.items()}
        best = min((name for name in names if met[name]), key=lambda n: policies[n]["cost"], default=None)
        cells = []
        for name in names:
            entry = policies[name]
            ratio = f", {ratios[name]:.2f}{TIMES}" if name in ratios else ""
            missed = "" if met[name] else f'<br><span class="missed">{share(entry["attained"])}</span>'
            cells.append(
                f'<td data-policy="{escape(name)}"{_style("best" if name == best else "")}>'
                f"{_data(entry['cost'], money(entry['cost'], unit))}"
                f'<br><small class="soft">k={entry["replicas"]:g}{ratio}</small>{missed}</td>'
            )
        last = _data(bound["cost"], money(bound["cost"], unit)) if bound else "-"
        setting = escape(words.setting(row))
        lines.append(
            f'<tr data-setting="{escape(row["parameter"])}={row["value"]:g}"><th scope="row">{setting}</th>'
            f"{''.join(cells)}<td>{last}</td></tr>"
        )
    return (
        "<p>One thing is changed at a time; everything else stays as above. In bold the cheapest that "
        f"attains the objective; a share in red is below it. k: replicas; {TIMES}: the lower bound.</p>"
        f'<div class="wide"><table><caption>Costs in {UNIT_WORDS[unit]}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _drawings(study: Study, unit: Unit, mark: str) -> Iterator[str]:
    workload, outcomes, result = study.workload, study.outcomes, study.result
    grid = span(workload, outcomes.values())
    names = [name for name, _ in words.ranked(study)]
    found = {name: run_series(workload, study.scenario, outcomes[name], grid) for name in names}
    yield "<h3>Over time</h3>"
    yield (
        f'<p class="soft">A column covers {plots.duration(grid.width)} and shows the fullest moment '
        "in it, so that no peak is averaged away; the thin line is the mean. Drawings above each other share "
        "their time axis; fleets and queues have upright axes of their own in every policy.</p>"
    )
    yield _figure(
        "Arrivals per second",
        _key("arrived", "busiest second of the column") + _key_line("mean", "mean"),
        plots.arrivals(f"{mark}-arrivals", grid, *arrivals_per_second(workload)),
    )
    lines = []
    for name in names:
        paid, cost = found[name].cost, result["policies"][name]["cost"]
        factor = cost / paid[-1] if paid[-1] else 0.0  # from the unit of the prices to that of the result
        lines.append((name, [value * factor for value in paid]))
    yield _figure(
        f"Cost so far, in {UNIT_WORDS[unit]}",
        "".join(_key_line(f"line p{n % plots.LINES}", name) for n, name in enumerate(names)),
        plots.cost(
            f"{mark}-cost",
            grid,
            lines,
            result["bound"]["cost"] if result["bound"] else None,
            unit=UNIT_WORDS[unit],
            name=words.cost_ticks(unit),
        ),
    )
    rented_top = max((each.peak for run in found.values() for each in run.rented.values()), default=0)
    answers = [band for run in found.values() for band in run.latency.bands if band is not None]
    low = min((band[0] for band in answers if band[0] > 0), default=study.scenario.budget_s)
    high = max((band[3] for band in answers), default=study.scenario.budget_s)
    for number, name in enumerate(names):
        entry = result["policies"][name]
        yield f"<h4>{escape(name)}</h4>"
        yield (
            f'<p class="soft">{words.replicas(entry["replicas"])}, {share(entry["attained"])} attained, '
            f"{escape(money(entry['cost'], unit))}</p>"
        )
        yield from _of_policy(study, name, found[name], f"{mark}-{number}", rented_top, (low, high))


def _of_policy(
    study: Study,
    name: str,
    run: RunSeries,
    mark: str,
    rented_top: int,
    answers: tuple[float, float],
) -> Iterator[str]:
    outcome, scenario = study.outcomes[name], study.scenario
    grid = span(study.workload, study.outcomes.values())
    if scenario.fleet is not None and outcome.replicas:
        slots = outcome.replicas * scenario.fleet.slots
        yield _figure(
            "Fleet slots in use",
            _key("fleet", "in use") + _key_line("limit", "all there are") + _key_line("mean", "mean"),
            plots.fleet(f"{mark}-fleet", grid, run.fleet, slots),
        )
    for number, (endpoint, levels) in enumerate(run.rented.items()):
        if not levels.peak:
            yield f'<p class="soft">No instance of {escape(endpoint)} was opened.</p>'
            continue
        yield _figure(
            f"Rented instances of {endpoint}",
            _key("busy", "serving")
            + _key("opening", "opening (cold start)")
            + _key("idle", "idle, still paid for")
            + _key_line("mean", "mean of all"),
            plots.rented(f"{mark}-rented-{number}", endpoint, grid, levels, top=rented_top),
        )
    yield _figure(
        "Requests waiting, for a slot or for an instance to open",
        _key("waiting", "waiting") + _key_line("mean", "mean"),
        plots.waiting(f"{mark}-queue", grid, run.waiting),
    )
    low, high = answers
    lost = f"; {len(run.latency.lost)} columns have lost requests" if run.latency.lost else ""
    yield _figure(
        "Latency against the budget, by arrival",
        _key("all", "least to greatest")
        + _key("most", "up to the 95th percentile")
        + _key_line("median", "median")
        + _key("late", f"late (marks {len(run.latency.late):,} of {run.latency.misses:,} misses{lost})")
        + (_key("lost", "never answered") if run.latency.lost else ""),
        plots.latency(f"{mark}-latency", grid, run.latency, scenario.budget_s, low=low, high=high),
    )


def _figure(title: str, keys: str, drawing: plots.Drawing) -> str:
    return (
        f"<figure><figcaption>{escape(title)}<small>{keys}</small></figcaption>"
        f'<div class="chart">{drawing.svg}</div><p class="soft told">{escape(drawing.words)}</p></figure>'
    )


def _key(style: str, text: str) -> str:
    return f'<span class="key"><i class="{style}"></i>{escape(text)}</span>'


def _key_line(style: str, text: str) -> str:
    line = f'<svg viewBox="0 0 40 10" aria-hidden="true"><path class="{style}" d="M0 5H40"/></svg>'
    return f'<span class="key">{line}{escape(text)}</span>'


def _cell(field: str, value: float, text: str, *, style: str = "") -> str:
    return f'<td data-field="{field}"{_style(style)}>{_data(value, text)}</td>'


def _data(value: float, text: str) -> str:
    return f'<data value="{value!r}">{escape(text)}</data>'


def _style(style: str) -> str:
    return f' class="{style}"' if style else ""
