"""Tracing as one gateway owns it: who samples, who sends, and what became of it all.

Built only where the file has a `tracing` section. Knows how the parts fit; nothing of calls and of wires.
"""

import asyncio
import sys
from collections.abc import Mapping
from random import Random
from typing import Final
from uuid import UUID

from gateway.clock import Clock
from gateway.config.tracing import Tracing
from gateway.ledger import Ledger
from gateway.tracing.outbox import Outbox
from gateway.tracing.tracer import Tracer

SWITCH_S: Final = 0.0005
"""How long the thread that encodes spans may keep the interpreter from the event loop; 5 ms by default."""
CLOSE_S: Final = 5.0
"""How long the last spans may take to leave when the gateway stops."""


class TraceService:
    """Takes sampled calls in, and sends their spans. Raises ConfigError where a package is missing."""

    def __init__(self, options: Tracing, *, clock: Clock, chance: Random, version: str) -> None:
        from gateway.tracing.otlp import OtlpExporter  # noqa: PLC0415 - some tenths of a second to import

        self._switched_s = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_S, self._switched_s))
        instance = str(UUID(int=chance.getrandbits(128), version=4))
        self.outbox = Outbox(OtlpExporter(options, version=version, instance=instance))
        self.tracer = Tracer(share=options.sample, clock=clock, chance=chance, hand_on=self.outbox.offer)

    def follow(self, ledger: Ledger) -> None:
        """The ledger whose records these are: it tells of `results`, and books before spans are made."""
        ledger.traced = self.results
        self.tracer.before_look = ledger.settle

    def results(self) -> Mapping[str, int]:
        """Sampled calls by what became of their spans."""
        outbox = self.outbox
        return {
            "exported": outbox.exported,
            "dropped": outbox.dropped + self.tracer.dropped,
            "failed": outbox.failed,
        }

    async def close(self) -> None:
        """Send what there is, for a few seconds at most. After the last call."""
        self.tracer.flush()
        await asyncio.to_thread(self.outbox.close, CLOSE_S)
        sys.setswitchinterval(self._switched_s)
