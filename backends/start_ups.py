"""How long an endpoint's instances take to come up: by those that were seen to, and those that were not.

Who waits for the first instance that is free sees the quick starts: the slow ones come up when nobody waits
for them any more, and are never heard of. So their average is not that of what was seen: each start-up that
had not ended when it was lost sight of counts as one that takes longer than that (the product-limit estimate:
Kaplan and Meier, 1958). Pure; it must never know an instance or a provider.
"""

from collections import deque
from typing import NamedTuple

REMEMBERED = 256
"""Start-ups that are remembered, the latest."""


class Chance(NamedTuple):
    """A start-up takes so many seconds, with this share of certainty."""

    seconds: float
    share: float


class StartUps:
    """The start-ups of one endpoint. `expected`: seconds that one takes, as far as none has been seen."""

    def __init__(self, expected: float) -> None:
        self.expected = expected
        self._seen: deque[tuple[float, bool]] = deque(maxlen=REMEMBERED)

    def took(self, seconds: float) -> None:
        """One came up after so long."""
        self._seen.append((seconds, False))

    def outlasted(self, seconds: float) -> None:
        """One was not up after so long, and nothing more was seen of it."""
        self._seen.append((seconds, True))

    def beyond(self, seconds: float) -> list[Chance]:
        """What one may take in all that has taken `seconds` already: shares that add up to 1."""
        longer = sorted(each for each in self._seen if each[0] > seconds)
        left, chances = 1.0, []
        for place, (length, lost) in enumerate(longer):
            if not lost:
                chances.append(Chance(length, share := left / (len(longer) - place)))
                left -= share
        if left > 1e-9:
            # Longer than any that was seen to its end.
            longest = longer[-1][0] if longer else seconds
            chances.append(Chance(max(self.expected, longest), left))
        return chances

    def mean_beyond(self, seconds: float) -> float:
        """The average of that."""
        return sum(length * share for length, share in self.beyond(seconds))
