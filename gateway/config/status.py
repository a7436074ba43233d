"""Which configuration runs, and what became of the last file that was to replace it: for people and metrics.

Knows texts and times; no file and no gateway.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.config.problems import Problem


class Rejected(NamedTuple):
    """A file that was not taken over."""

    at: float
    problems: Sequence[Problem]


class ConfigStatus(Collector):
    """The running configuration.

    text:      all of it as YAML, secrets by reference
    revision:  a short name of that text: the same text has the same revision
    since:     Unix time at which it was taken over
    rejected:  the last file, if it was not
    """

    def __init__(self, text: str, now: float) -> None:
        self.rejected: Rejected | None = None
        self.accept(text, now)

    def accept(self, text: str, now: float) -> None:
        """It runs from now on."""
        self.text = text
        self.revision = revision_of(text)
        self.since = now
        self.confirm(now)

    def confirm(self, now: float) -> None:
        """The file says what runs already."""
        self.confirmed = now
        self.rejected = None

    def reject(self, problems: Sequence[Problem], now: float) -> None:
        """A file could not be used; nothing has changed."""
        self.rejected = Rejected(now, problems)

    def as_yaml(self) -> str:
        """The running configuration, which can be read back; what else there is to say stands in comments."""
        lines = [f"revision {self.revision}, taken over {_moment(self.since)}"]
        if self.rejected is not None:
            lines.append(f"a file was rejected {_moment(self.rejected.at)}, and changed nothing:")
            lines += [f"  {problem}" for problem in self.rejected.problems]
        return self.text + "".join(f"# {line}\n" for line in lines)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        rejected = self.rejected
        return {
            "running": {"revision": self.revision, "since": _moment(self.since), "text": self.text},
            "rejected": None
            if rejected is None
            else {"at": _moment(rejected.at), "problems": plain(rejected.problems)},
        }

    def collect(self) -> Iterator[Metric]:
        """As metrics."""
        yield InfoMetricFamily(
            "overspill_config", "The configuration that runs.", value={"revision": self.revision}
        )
        yield GaugeMetricFamily(
            "overspill_config_last_reload_successful",
            "0 while the last file that was to be taken over has been rejected.",
            value=float(self.rejected is None),
        )
        yield GaugeMetricFamily(
            "overspill_config_last_reload_success_timestamp_seconds",
            "When a file was last taken over, or found to be what runs already; Unix time.",
            value=self.confirmed,
        )


class DrainingCalls(Collector):
    """The calls that go on by a configuration that was replaced."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """As a metric."""
        yield GaugeMetricFamily(
            "overspill_config_draining_calls",
            "Calls that came in by a configuration that was replaced meanwhile, and are not over.",
            value=self._count(),
        )


def revision_of(text: str) -> str:
    """A short name of an effective configuration."""
    return sha256(text.encode()).hexdigest()[:12]


def plain(problems: Sequence[Problem]) -> list[Mapping[str, Any]]:
    """For JSON, as `overspill check --json` tells them."""
    return [problem._asdict() for problem in problems]


def _moment(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
