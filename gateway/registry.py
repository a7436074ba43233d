"""Name -> plugin class, each name once.

Leaf: standard library only. It never imports a plugin: a plugin's own module adds itself, and the
folder's `__init__` lists the modules, so that one line of import is the whole registration.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """The plugins of one kind. Iterating yields names in alphabetical order."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}
        self._gone: dict[str, str] = {}

    def add(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator; a second class under the same name is a programming error."""

        def register(cls: type[T]) -> type[T]:
            if self._classes.setdefault(name, cls) is not cls:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            return cls

        return register

    def get(self, name: str) -> type[T]:
        """The class called `name`; KeyError names the known ones."""
        try:
            return self._classes[name]
        except KeyError:
            raise KeyError(f"unknown {self.kind} {name!r}; known: {', '.join(self)}") from None

    def retire(self, name: str, pointer: str) -> None:
        """Say what to do about a name that people still write though nothing can be behind it."""
        if name in self._classes:
            raise ValueError(f"{self.kind} {name!r} is registered")
        self._gone[name] = pointer

    def pointer(self, name: str) -> str | None:
        """What to do about a name that was retired; None for any other."""
        return self._gone.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __contains__(self, name: object) -> bool:
        return name in self._classes
