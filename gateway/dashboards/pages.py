"""What a dashboard is here: rows of panels, each a question in PromQL. Plain values, no Grafana.

The queries use Grafana's own variables: `$__rate_interval`, `$__range`, and the page's `$job`, `$route`,
`$backend`. Must never know how a panel is drawn.
"""

from typing import Literal, NamedTuple

Kind = Literal["lines", "area", "shares", "number", "bars", "heat", "states"]
"""Lines; stacked areas; areas stacked to 100 %; the last value; bars; a heat map; a state over time."""


class Query(NamedTuple):
    """One query and what its series are called. A `limit` is drawn as a dashed line."""

    expr: str
    legend: str
    limit: bool = False
    exemplars: bool = False


class Step(NamedTuple):
    """From `value` on a panel has this colour; None: from below everything."""

    value: float | None
    color: str


class Panel(NamedTuple):
    """One panel. `unit` is one of Grafana's; `words` say a number in words."""

    title: str
    description: str
    kind: Kind
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    height: int = 8
    steps: tuple[Step, ...] = ()
    words: tuple[tuple[str, str, str], ...] = ()
    decimals: int | None = None


class Row(NamedTuple):
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


class Page(NamedTuple):
    """One dashboard. `chooses`: the labels that its reader may choose values of."""

    uid: str
    title: str
    description: str
    chooses: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)


RATE = "$__rate_interval"
RANGE = "$__range"

_JOB = 'job=~"$job"'
_ROUTE = 'route=~"$route"'
_BACKEND = 'backend=~"$backend"'
_OWNED = 'owned="true"'
_RENTED = 'owned="false"'


def of(metric: str, *matchers: str) -> str:
    """The series of a gateway's metric, of the jobs that are chosen."""
    chosen = ",".join((_JOB, *matchers))
    return f"overspill_{metric}{{{chosen}}}"


def of_route(metric: str, *matchers: str) -> str:
    """The same of the routes that are chosen."""
    return of(metric, _ROUTE, *matchers)


def of_backend(metric: str, *matchers: str) -> str:
    """The same of the backends that are chosen."""
    return of(metric, _BACKEND, *matchers)


def rate(series: str, window: str = RATE) -> str:
    """Per second."""
    return f"rate({series}[{window}])"


def increase(series: str, window: str = RANGE) -> str:
    """What was added in the time that is shown."""
    return f"increase({series}[{window}])"


def owned(expr: str) -> str:
    """Only what was on backends that are paid whether used or not."""
    return f"{expr} * on (job, instance, backend) group_left () {of('backend_info', _OWNED)}"


def rented(expr: str) -> str:
    """Only what was on backends that are paid by use."""
    return f"{expr} * on (job, instance, backend) group_left () {of('backend_info', _RENTED)}"


def total(expr: str, *labels: str) -> str:
    """The sum, for each value of the labels."""
    return f"sum by ({', '.join(labels)}) ({expr})" if labels else f"sum({expr})"


def total_or_none(expr: str) -> str:
    """The sum; 0 where there is no such series, as with a gateway that has no fleet."""
    return f"(sum({expr}) or vector(0))"


def or_none(expr: str, label: str, word: str) -> str:
    """The series; where there are none, as with a gateway that does not use this, a 0 that is called so."""
    return f'({expr} or on () label_replace(vector(0), "{label}", "{word}", "", ""))'
