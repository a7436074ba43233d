"""Turns requests away at the door while the process has more to do than it can.

Belongs to step 1: a request is refused by its head alone, before its body is waited for, and recorded like
any other. Knows no route and no backend.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.errors import Contended
from gateway.exchange import Exchange
from gateway.pressure import Pressure


class Doorkeeper(Collector):
    """Of one listener."""

    def __init__(self, pressure: Pressure) -> None:
        self.pressure = pressure

    def refusal(self, exchange: Exchange) -> Contended | None:
        """Why a request is not taken in now, by its head; None where it may come in."""
        return self.pressure.refusal_of(exchange.headers) if self.pressure.late else None

    def collect(self) -> Iterator[Metric]:
        """How many were turned away."""
        family = CounterMetricFamily(
            "overspill_turned_away",
            "Requests refused with 429 by their head because the process had more to do than it could",
            labels=["priority"],
        )
        for priority, count in self.pressure.refused.items():
            family.add_metric([priority], count)
        yield family
