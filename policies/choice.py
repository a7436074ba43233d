"""What the simple policies share: walking tiers in an order of preference, and saying why.

Both `spill_when_full` and `weighted` try tiers one after the other and differ only in the order. The
walk depends on nothing but the tiers, the call and the time, so whoever asks later gets the answer
that follows from the time waited, without any memory of the answer before.

Pure functions over the views of `policies.base`; knows no policy.
"""

from collections.abc import Sequence

from gateway.vocab import Reason
from policies.base import Action, Hold, RequestView, Run, Shed, TierView


def usable(tier: TierView, request: RequestView) -> bool:
    """Could this call run on that tier, now or as soon as a slot is free?"""
    return tier.blocked is None and request.may_use(tier.name)


def walk(tiers: Sequence[TierView], request: RequestView, now: float, *, queued: bool) -> Action:
    """Run on the first of `tiers` where the call may; else wait or shed, as `when_full` says.

    Each usable tier that is full adds its patience to the time after which the next is allowed. A
    tier that is not usable adds none and stops nothing: `when_full` speaks of full tiers.
    """
    opens = request.since  # when the tier at hand becomes allowed
    contended = False
    for place, tier in enumerate(tiers):
        if tier.blocked is not None or not request.may_use(tier.name):
            continue
        if now < opens:
            break
        if request.free_on(tier):
            return Run(tier.name, reason(tiers, place, request, queued=queued))
        contended = True
        opens += tier.options.patience
        if tier.options.then == "shed":
            break
    # Compared with the very sum, not with the time waited: rounding must not hold a call twice.
    if now < opens:
        return Hold(min(opens, request.deadline))
    return Shed(Reason.SHED_FULL, contended=contended)


def allowed(tiers: Sequence[TierView], place: int, request: RequestView, now: float) -> bool:
    """Would the walk have come to `tiers[place]` by now, if everything before it was full?"""
    opens = request.since
    for tier in tiers[:place]:
        if usable(tier, request):
            if tier.options.then == "shed":
                return False
            opens += tier.options.patience
    return now >= opens and usable(tiers[place], request)


def reason(tiers: Sequence[TierView], place: int, request: RequestView, *, queued: bool) -> Reason:
    """Why the call runs on `tiers[place]`, given what stands before it.

    An attempt after a failed one is a `fallback`, wherever it goes. An owned tier is `warm`. A rented
    one says what was wrong with the tiers before it: `spill_full` if any of them could have taken
    the call but for want of a slot, else the word of the nearest owned one that is blocked. Where no
    tier before it could ever take this call (none is listed, or none can carry it), the file itself
    pinned it there: `pinned`.
    """
    if request.attempt:
        return Reason.FALLBACK
    if tiers[place].owned:
        return Reason.WARM_QUEUED if queued else Reason.WARM
    owned_word = rented_word = None
    for earlier in reversed(tiers[:place]):
        if not request.may_use(earlier.name):
            continue
        if earlier.blocked is None:
            return Reason.SPILL_FULL
        if earlier.owned:
            owned_word = owned_word or earlier.blocked
        else:
            rented_word = rented_word or earlier.blocked
    return owned_word or rented_word or Reason.PINNED
