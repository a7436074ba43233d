"""Taking over a changed file: all of it, or nothing and a word of why.

The file is checked as `overspill check` does, then held against what cannot change while the gateway runs,
then handed to whoever puts it in place: this process, or all workers. Knows no socket, no pool and no HTTP.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

from gateway.clock import Clock
from gateway.config.effective import effective
from gateway.config.load import Loaded
from gateway.config.problems import FILE, ConfigProblems, Problem
from gateway.config.schema import Settings
from gateway.config.source import Source
from gateway.config.status import ConfigStatus, plain
from gateway.errors import ConfigError

log = logging.getLogger("overspill.reload")

_FIXED = (
    "listen", "tls", "admin_tls", "access_log", "tracing", "state", "advice", "scaling", "idempotency",
    "busy_poll",
)  # fmt: skip
"""Sections of which something is built once, when the gateway starts."""

OK, CONFLICT, UNPROCESSABLE = 200, 409, 422


class Outcome(NamedTuple):
    """What became of a reload, as an HTTP status and what to say with it."""

    status: int
    body: Mapping[str, Any]


NO_FILE = Outcome(CONFLICT, {"result": "rejected", "error": "this gateway was not started from a file"})


class CannotNow(ConfigError):
    """The file is good, but what it changes cannot be changed now."""


class Reloader:
    """Takes over the file when told to, one time after the other.

    running:  the file's settings as they run
    adopt:    puts other settings in place, for all or for none; ConfigError when it has changed nothing
    counted:  is told of each reload whether it was taken over, as `ok`
    """

    def __init__(
        self,
        source: Source,
        running: Settings,
        *,
        adopt: Callable[[Settings], Awaitable[None]],
        counted: Callable[..., None],
        status: ConfigStatus,
        clock: Clock,
    ) -> None:
        self.status = status
        self._source = source
        self._running = running
        self._adopt = adopt
        self._counted = counted
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self.renew: Callable[[], Awaitable[None]] | None = None
        """Reads the other files again that the configuration names."""

    async def reload(self) -> Outcome:
        """Read the file and take it over. Raises nothing that a file could cause."""
        async with self._one_at_a_time:
            if self.renew is not None:
                await self.renew()
            try:
                loaded = await asyncio.to_thread(self._source.read, running=True)
                for doubt in loaded.warnings:
                    log.warning("%s", doubt)
                text = effective(loaded.settings)
                if text == self.status.text:
                    self._counted(ok=True)
                    self.status.confirm(self._clock.wall())
                    return Outcome(
                        OK, {"result": "unchanged", "revision": self.status.revision, **_doubts(loaded)}
                    )
                problems = list(fixed(self._running, loaded.settings, str(self._source.path)))
                if problems:
                    return self._rejected(CONFLICT, problems)
                await self._adopt(loaded.settings)
            except ConfigProblems as error:
                return self._rejected(UNPROCESSABLE, list(error.problems))
            except ConfigError as error:
                status = CONFLICT if isinstance(error, CannotNow) else UNPROCESSABLE
                return self._rejected(status, [Problem(str(self._source.path), 1, 1, FILE, str(error))])
            return self._accepted(loaded, text)

    async def watch(self) -> None:
        """Take it over whenever it changes, unless the running file says `reload: {watch: false}`."""
        while True:
            await self._source.changed()
            if self._running.reload.watch:
                await self.reload()

    def _accepted(self, loaded: Loaded, text: str) -> Outcome:
        settings = loaded.settings
        changes = told(self._running, settings)
        self._running = settings
        self._counted(ok=True)
        self.status.accept(text, self._clock.wall())
        log.info("configuration %s taken over: %s", self.status.revision, _in_words(changes))
        return Outcome(
            OK, {"result": "ok", "revision": self.status.revision, "changed": changes, **_doubts(loaded)}
        )

    def _rejected(self, status: int, problems: list[Problem]) -> Outcome:
        self._counted(ok=False)
        self.status.reject(problems, self._clock.wall())
        log.error("the configuration was not taken over, %s goes on:", self.status.revision)
        for problem in problems:
            log.error("%s", problem)
        return Outcome(
            status,
            {"result": "rejected", "revision": self.status.revision, "problems": plain(problems)},
        )


def _doubts(loaded: Loaded) -> Mapping[str, Any]:
    """What whoever asked for a reload should know of a file that was taken over all the same."""
    return {"warnings": plain(loaded.warnings)} if loaded.warnings else {}


def fixed(running: Settings, wanted: Settings, file: str) -> Iterator[Problem]:
    """What cannot change without a restart, and would."""
    for name in _FIXED:
        if getattr(running, name) != getattr(wanted, name):
            yield _needs_restart(file, name)


def _needs_restart(file: str, path: str) -> Problem:
    what = "cannot change while the gateway runs; restart it, or put back what it was started with"
    return Problem(file, 1, 1, path, what)


def told(before: Settings, after: Settings) -> dict[str, Any]:
    """What differs, by name."""
    changes: dict[str, Any] = {}
    for section in ("backends", "routes"):
        old, new = getattr(before, section), getattr(after, section)
        changes[section] = {
            "added": [name for name in new if name not in old],
            "removed": [name for name in old if name not in new],
            "changed": [name for name in new if name in old and new[name] != old[name]],
        }
    others = [name for name in type(after).model_fields if name not in ("backends", "routes")]
    changes["settings"] = [name for name in others if getattr(before, name) != getattr(after, name)]
    return changes


def _in_words(changes: Mapping[str, Any]) -> str:
    parts = [
        f"{section} {what}: {', '.join(names)}"
        for section in ("backends", "routes")
        for what, names in changes[section].items()
        if names
    ]
    if changes["settings"]:
        parts.append(f"settings changed: {', '.join(changes['settings'])}")
    return "; ".join(parts) or "nothing that counts"
