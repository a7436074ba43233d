"""The counter at which one worker answers what the admin process asks: one JSON line in, one JSON text out.

It stands on a Unix socket in a directory that only this user can enter. Everything is told in one answer, so
that metrics, routes and backends of one look fit together. It only reads, but for a reload. Knows no HTTP.
"""

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Protocol

from msgspec import convert, json

from gateway import __version__
from gateway.admin import AdminState, judge
from gateway.errors import ConfigError
from gateway.explain.live import Explaining
from gateway.metric_families import plain
from gateway.metrics import GatewayCollector, build_registry
from gateway.reports import report_backends, report_routes, route_sums
from gateway.scaling.loads import loads
from gateway.workers.assignment import Assignment

log = logging.getLogger("overspill.workers")

LONGEST_LINE = 4 * 2**20
_PATIENCE_S = 5.0


def place_of(directory: Path, worker: int) -> Path:
    """The socket of one worker."""
    return directory / f"worker-{worker}"


_STEPS = ("prepare", "commit", "abort", "rows")


class Apprentice(Protocol):
    """Who takes over a configuration in this worker."""

    async def prepare(self, assignment: Assignment) -> None:
        """Open what is new. ConfigError when it cannot be."""
        ...

    def commit(self) -> None:
        """Put in place what was prepared."""
        ...

    async def abort(self) -> None:
        """Forget it."""
        ...

    def rows(self) -> list[int]:
        """Rows of slots that are in use here."""
        ...


class Desk:
    """Answers for one gateway. `apprentice`: who takes over other configurations in it."""

    def __init__(self, state: AdminState, explaining: Explaining) -> None:
        self._state = state
        self._explaining = explaining
        self.registry = build_registry(GatewayCollector(state, version=__version__))
        self.apprentice: Apprentice | None = None
        self._server: asyncio.AbstractServer | None = None
        self._place: Path | None = None

    async def start(self, place: Path) -> None:
        """Take questions at this socket, which a killed worker may have left behind. Raises OSError."""
        place.unlink(missing_ok=True)  # noqa: ASYNC240 - in memory, or as good as
        self._place = place
        self._server = await asyncio.start_unix_server(self._serve, str(place), limit=LONGEST_LINE)

    async def stop(self) -> None:
        """Take none any more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._place is not None:
            self._place.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):  # who asked has gone, or is no colleague
            async with asyncio.timeout(_PATIENCE_S):
                question = json.decode(await reader.readline())
            answer = (
                await self._taking_over(question) if question["ask"] in _STEPS else self._answer(question)
            )
            async with asyncio.timeout(_PATIENCE_S):
                writer.write(json.encode(answer))
                await writer.drain()
        writer.close()

    async def _taking_over(self, question: dict[str, Any]) -> dict[str, Any]:
        """One step of a reload by all workers. `error`: why this one cannot take part."""
        apprentice = self.apprentice
        if apprentice is None:
            return {"error": "takes over nothing"}
        try:
            if question["ask"] == "prepare":
                await apprentice.prepare(convert(question["with"], Assignment))
            elif question["ask"] == "commit":
                apprentice.commit()
            elif question["ask"] == "abort":
                await apprentice.abort()
        except ConfigError as error:
            return {"error": str(error)}
        except Exception:
            log.exception("a step of a reload failed: %s", question["ask"])
            return {"error": "failed; its log has the details"}
        return {"error": None, "rows": apprentice.rows()}

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if question["ask"] == "explain":
            answer = self._explaining.answer(question["body"].encode())
            return {"status": answer.status, "body": answer.body}
        state = self._state
        now = state.clock.now()
        if question["ask"] == "scaling":
            told = loads(state.ledger, state.capacities, state.pools, now)
            return {"pid": os.getpid(), "loads": {name: list(load) for name, load in told.items()}}
        return {
            "pid": os.getpid(),
            "health": judge(state)._asdict(),
            "metrics": [
                {
                    "name": family.name,
                    "type": family.type,
                    "help": family.documentation,
                    "samples": [plain(sample) for sample in family.samples],
                }
                for family in self.registry.collect()
            ],
            "routes": report_routes(state.ledger, state.capacities, state.pools, now),
            "sums": route_sums(state.ledger, now),
            "backends": report_backends(state.ledger, state.capacities, now),
            "decisions": self._explaining.recent(question.get("decisions", 0)),
        }


async def ask(
    place: Path, question: dict[str, Any], *, patience: float = _PATIENCE_S
) -> dict[str, Any] | None:
    """Ask the worker at this socket; None when it does not answer within `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_unix_connection(str(place))
            try:
                writer.write(json.encode(question) + b"\n")
                answer: dict[str, Any] = json.decode(await reader.read())
                return answer
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None
