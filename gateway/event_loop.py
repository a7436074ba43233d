"""The event loop as a figure: how many tasks there are. A number that only rises is a leak.

Counted when it is scraped, in proportion to the tasks. Knows nothing of what they do.
"""

import asyncio
from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.metric_families import gauged


class EventLoopCollector(Collector):
    """`overspill_event_loop_tasks`; absent where nobody scrapes from inside of a loop."""

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        try:
            tasks = asyncio.all_tasks()
        except RuntimeError:  # no loop runs in this thread
            return
        yield gauged(
            "event_loop_tasks",
            "Tasks of the event loop, one a connection among them.",
            [],
            {(): len(tasks)},
        )
