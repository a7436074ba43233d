"""What a fuzz target is."""

from abc import ABC, abstractmethod


class Target(ABC):
    """Made once, fed bytes any number of times."""

    @abstractmethod
    def __call__(self, data: bytes) -> None:
        """Whatever it raises is a find."""

    def close(self) -> None:
        """Give back what it holds: most hold nothing."""
        return
