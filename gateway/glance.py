"""Everything that is shown of a gateway, seen in one look: for whoever shows figures beside each other.

Plain values only. Knows no HTTP and not where they come from: one process, or several merged.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.core import Metric


class Glance(NamedTuple):
    """All of one moment.

    metrics:    as `/metrics` shows them
    routes:     as `/admin/routes` does; `sums` what their quantiles are made of (`reports.route_sums`)
    backends:   as `/admin/backends` does
    status:     `ready`, `not_ready` or `draining`; `reasons` the routes that nothing can serve, and why
    decisions:  the last ones, the newest first (`explain.recent`)
    """

    metrics: Sequence[Metric]
    routes: Sequence[Mapping[str, Any]]
    sums: Mapping[str, Mapping[str, Any]]
    backends: Sequence[Mapping[str, Any]]
    status: str
    reasons: Mapping[str, Mapping[str, str]]
    decisions: Sequence[Mapping[str, Any]]
