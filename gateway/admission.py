"""Step 4: a place inside the gateway, held until the last byte of the answer.

It bounds how many calls are inside at once, the queued ones included, so that an overload costs a
refusal and not memory. It never looks at backends: whether a slot is free is the pool's question.
"""

from collections.abc import Iterable
from types import TracebackType

from gateway.errors import Contended

FOR_BEST_EFFORT = 0.8
"""Share of the places that best-effort calls may fill."""


class Admission:
    """Counts the calls inside; used as `with admission.enter():`.

    before:  the calls that came in under earlier configurations and are still inside take places too
    """

    __slots__ = ("_before", "_limit", "inside")

    def __init__(self, *, limit: int, before: Iterable["Admission"] = ()) -> None:
        self._limit = limit
        self.inside: int = 0
        self._before: list[Admission] = [each for each in before if each.inside]

    def enter(self, priority: str = "default") -> "Admission":
        """A place, or Contended. The place is the context; leaving it gives the place back.

        The last fifth of the places is not for best-effort calls: they are refused first.
        """
        limit = self._limit * FOR_BEST_EFFORT if priority == "best_effort" else self._limit
        inside = self.inside
        if self._before:
            self._before = [each for each in self._before if each.inside]
            inside += sum(each.inside for each in self._before)
        if inside >= limit:
            raise Contended(f"the gateway already holds {self._limit} calls, its limit", retry_after=1.0)
        return self

    def __enter__(self) -> None:
        self.inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.inside -= 1
