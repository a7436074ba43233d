"""Timers on a fake clock: they ring when the test moves the clock, in order, and can be counted."""

from collections.abc import Callable

from gateway.clock import FakeClock, Timer, TimerHost


class ManualTimers:
    """A TimerHost that only rings from `advance`."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._set: list[_Manual] = []

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        timer = _Manual(self._set, when, callback)
        self._set.append(timer)
        return timer

    @property
    def live(self) -> list[float]:
        """When the timers that are still set will ring."""
        return sorted(timer.when for timer in self._set)

    def advance(self, seconds: float) -> None:
        """Move the clock, ringing on the way whatever is due, at its moment."""
        end = self._clock.now() + seconds
        while due := [timer for timer in self._set if timer.when <= end]:
            first = min(due, key=lambda timer: timer.when)
            self._clock.advance(max(0.0, first.when - self._clock.now()))
            first.cancel()
            first.callback()
        self._clock.advance(max(0.0, end - self._clock.now()))

    def ring(self) -> None:
        """Ring the next timer now, however early that is: hosts round."""
        first = min(self._set, key=lambda timer: timer.when)
        first.cancel()
        first.callback()


class _Manual:
    def __init__(self, all_set: "list[_Manual]", when: float, callback: Callable[[], object]) -> None:
        self._all_set = all_set
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        if self in self._all_set:
            self._all_set.remove(self)


class CountedTimers:
    """Another host's timers, counted while they are set."""

    def __init__(self, host: TimerHost) -> None:
        self._host = host
        self.live: set[object] = set()

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        counted = _Counted(self.live)

        def ring() -> None:
            self.live.discard(counted)
            callback()

        self.live.add(counted)
        counted.timer = self._host.call_at(when, ring)
        return counted


class _Counted:
    timer: Timer

    def __init__(self, live: set[object]) -> None:
        self._live = live

    def cancel(self) -> None:
        self._live.discard(self)
        self.timer.cancel()
