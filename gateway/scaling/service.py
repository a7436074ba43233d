"""The scaling signals as something that runs: looks for ever, and serves KEDA's port if there is one.

Knows the signals, the section of the file and the service; never the rule.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from gateway.background import Background
from gateway.clock import Clock
from gateway.config.address import Address
from gateway.config.scaling import Scaling
from gateway.errors import ConfigError
from gateway.metrics import Observed
from gateway.scaling.external import NEEDS_LIBRARY, ExternalScaler
from gateway.scaling.loads import loads
from gateway.scaling.rule import Load
from gateway.scaling.signals import Loads, ScalingSignals

log = logging.getLogger("overspill.scaling")


class ScalingService:
    """The signals of one gateway, or of several workers. ConfigError where the gRPC library is missing.

    It may be made in one process and opened in a child: the library is imported when it is opened.
    """

    def __init__(self, options: Scaling, loads: Loads, clock: Clock) -> None:
        if options.external_scaler is not None and find_spec("grpc") is None:
            raise ConfigError(NEEDS_LIBRARY)
        self.signals = ScalingSignals(options, loads, clock)
        self.address: Address | None = None
        """Where KEDA may ask."""
        self._external: ExternalScaler | None = None

    @classmethod
    def of(cls, observed: Observed, options: Scaling) -> "ScalingService":
        """Of one gateway in this process."""

        async def now() -> Mapping[str, Load]:
            at = observed.clock.now()
            return loads(observed.ledger, observed.capacities, observed.pools, at)

        return cls(options, now, observed.clock)

    def document(self) -> dict[str, Any]:
        """What GET /scaler/metrics.json answers."""
        return self.signals.document()

    async def open(self, background: Background) -> None:
        """Begin to look, and listen. Raises OSError where the port cannot be had."""
        background.spawn(self.signals.run(), name="scaling signals")
        wanted = self.signals.options.external_scaler
        if wanted is not None:
            external = ExternalScaler(self.signals)
            self.address = Address(*await external.open(*wanted))
            self._external = external
            log.info("serving KEDA's external scaler on %s", self.address)

    async def open_if_possible(self, background: Background) -> None:
        """The same, but a port that cannot be had is only logged: the admin port says the same."""
        try:
            await self.open(background)
        except OSError as error:
            log.error("%s", error)

    async def close(self) -> None:
        """Listen no more. What looks is ended by whoever has its background."""
        if self._external is not None:
            await self._external.close()
