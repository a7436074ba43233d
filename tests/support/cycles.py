"""What stays in memory until somebody looks for cycles: objects of the gateway that nobody can reach any more."""

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_cycles() -> Iterator[None]:
    """Nothing of the gateway's or its backends' becomes unreachable within without being freed at once."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = Counter(name for each in gc.garbage if (name := _ours(each)) is not None)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found, f"left in cycles: {dict(found)}"


_SMALL = frozenset(("Instance", "Ticket"))
"""Entries of a table that know each other and nothing of a call."""


def _ours(each: object) -> str | None:
    """The name of a class of the product, or of a function of the product's whose frame is kept."""
    code = getattr(each, "f_code", None)
    if code is not None:
        place = str(code.co_filename)
        return str(code.co_qualname) if "/gateway/" in place or "/backends/" in place else None
    if type(each).__name__ in _SMALL:
        return None
    module = type(each).__module__
    return type(each).__qualname__ if module.split(".")[0] in {"gateway", "backends"} else None
