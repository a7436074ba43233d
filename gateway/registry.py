"""Name -> plugin class, each name once; a plugin's module is imported when its name is first asked for.

Leaf: standard library only. It names no plugin: a plugin's own module adds itself, and the folder's
`__init__` says in one line which names are found in which module. So a process holds what its file names.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """The plugins of one kind. Iterating yields names in alphabetical order, and imports nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}
        self._modules: dict[str, str] = {}
        self._gone: dict[str, str] = {}

    def add(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator; a second class under the same name is a programming error."""

        def register(cls: type[T]) -> type[T]:
            if self._classes.setdefault(name, cls) is not cls:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            return cls

        return register

    def find_in(self, module: str, *names: str) -> None:
        """Say that importing `module` adds the classes called `names`; it is imported once one is wanted."""
        for name in names:
            if self._modules.setdefault(name, module) != module:
                raise ValueError(f"{self.kind} {name!r} is in {self._modules[name]}, not in {module}")

    def get(self, name: str) -> type[T]:
        """The class called `name`; KeyError names the known ones."""
        if name not in self:
            raise KeyError(f"unknown {self.kind} {name!r}; known: {', '.join(self)}")
        if name not in self._classes:
            import_module(self._modules[name])
            if name not in self._classes:
                raise RuntimeError(f"{self._modules[name]} adds no {self.kind} {name!r}")
        return self._classes[name]

    def modules(self) -> dict[str, str]:
        """Where names are found, by name; none for a class that was added without."""
        return dict(self._modules)

    def retire(self, name: str, pointer: str) -> None:
        """Say what to do about a name that people still write though nothing can be behind it."""
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is registered")
        self._gone[name] = pointer

    def pointer(self, name: str) -> str | None:
        """What to do about a name that was retired; None for any other."""
        return self._gone.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._classes, *self._modules}))

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._modules
