"""Opening ahead in a simulated run: the gateway's own controller, ticking on virtual time.

It ends with the trace: nothing is opened once the last request has come and what it left behind is gone.
Knows a pool and a clock; never a policy, and no money but what the scenario allows.
"""

from collections.abc import Sequence
from math import floor

from gateway.pool import Pool
from gateway.prewarm_loop import TICK_S
from gateway.prewarming import Prewarming
from gateway.simulator.engine import VirtualTime
from gateway.simulator.scenario import Scenario


class Ahead:
    """Ticks from the second of the first arrival on. Make it only where `scenario.prewarm` says so."""

    def __init__(self, pool: Pool, scenario: Scenario, time: VirtualTime, arrivals: Sequence[float]) -> None:
        assert scenario.prewarm is not None
        self._time = time
        self._prewarming = Prewarming(pool, scenario.prewarm, clock=time, budget_s=scenario.budget_s)
        self._until = arrivals[-1] + max((endpoint.idle_s for endpoint in scenario.endpoints), default=0.0)
        self._due = floor(arrivals[0]) + TICK_S
        time.at(self._due, self._tick)

    def _tick(self) -> None:
        self._prewarming.step(self._time.instant)
        self._due += TICK_S
        if self._due <= self._until:
            self._time.at(self._due, self._tick)
