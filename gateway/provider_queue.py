"""Calls that wait at the provider, in its own queue, for whichever of its instances is up or free first.

A call that is sent where nothing idles makes an instance boot, and is not married to it: the provider gives
the first instance that can serve to the call that has waited longest. What of that is known here:

    sent      nothing idled: the call joins the queue, and unless an instance boots that nobody waits for,
              one more does: the provider wants as many as there are calls
    up        an instance should be up by now: the first of the queue runs there, or it idles
    ended     an instance has become free: the first of the queue runs there, or it idles

So a boot may outlive its reason. Providers do not tell when an instance is up: it is taken to be after the
time that boots took lately. Counts are what this is for, never which call is where.

Pure: time is an argument. It knows slots and warmth; no backend, no policy and no price.
"""

from gateway.slot import Slot
from gateway.vocab import Start, Verdict
from gateway.warmth import Warmth

LEARNS = 0.2
"""Weight of the newest boot among those before."""


class ProviderQueue:
    """The queue of one backend's endpoint.

    warmth:  its instances; those that boot are entered there
    boot_s:  how long one is said to boot, in seconds; what is seen corrects it
    """

    __slots__ = ("_booting", "_waiting", "_warmth", "boot_s", "calls")

    def __init__(self, warmth: Warmth, boot_s: float) -> None:
        self._warmth = warmth
        self.boot_s = boot_s
        """Seconds after which a new instance is expected to be up."""
        self.calls = 0
        """Calls that wait there."""
        self._waiting: dict[int, Slot] = {}  # by identity, first come first
        self._booting: dict[object, None] = {}  # what stands for each instance that boots, oldest first

    def sent(self, slot: Slot, now: float) -> object | None:
        """A call goes where nothing idles. What stands in `up`, due after `boot_s`, for the instance that it
        makes boot; None where it makes none.
        """
        slot.behind = len(self._booting)
        self._waiting[id(slot)] = slot
        self.calls += 1
        if len(self._booting) >= self.calls:
            return None
        instance = object()
        self._booting[instance] = None
        self._warmth.begin_opening(instance, now + self.boot_s)
        return instance

    def up(self, instance: object, now: float) -> bool:
        """That instance should be up. True where it idles: nobody waits for it any more."""
        if instance not in self._booting:
            return False
        self._booted(instance)
        return self._freed(now)

    def ended(self, slot: Slot, verdict: Verdict, now: float) -> None:
        """A call has left its slot."""
        waited = self._waiting.pop(id(slot), None) is not None
        self.calls -= waited
        if waited and (verdict is Verdict.SUCCESS or not slot.used) and self._booting:
            # Served, so something was up before it was expected; or never sent, and nothing boots for it.
            self._booted(next(iter(self._booting) if slot.used else reversed(self._booting)))
        if verdict is Verdict.SUCCESS:
            if slot.start is Start.COLD and slot.boot_s is not None and not slot.behind:
                self.boot_s += LEARNS * (slot.boot_s - self.boot_s)
            self._freed(now)
        elif slot.age is not None and not slot.used:
            self._warmth.untouched(slot.taken_at - slot.age)

    def _booted(self, instance: object) -> None:
        del self._booting[instance]
        self._warmth.end_opening(instance)

    def _freed(self, now: float) -> bool:
        """An instance can serve."""
        if self._waiting:
            del self._waiting[next(iter(self._waiting))]
            self.calls -= 1
            return False
        self._warmth.back(now)
        return True
