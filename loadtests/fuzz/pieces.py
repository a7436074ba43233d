"""How fuzzed bytes are cut up: the choices are taken from the bytes, so that a saved input says all."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from random import Random


def chance_of(data: bytes) -> Random:
    """The same choices for the same bytes."""
    return Random(blake2b(data, digest_size=8).digest())


def cut(data: bytes, chance: Random, *, most: int = 6) -> list[bytes]:
    """`data` in up to `most` pieces."""
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, most)))
    return [
        data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if end > start
    ]


def every_byte(data: bytes) -> Iterator[bytes]:
    """One byte after the other."""
    return (data[place : place + 1] for place in range(len(data)))


def ways(data: bytes) -> Sequence[list[bytes]]:
    """Ways in which the same bytes may arrive, after the one in which they come at once."""
    found = [cut(data, chance_of(data))]
    if len(data) <= 256:
        found.append(list(every_byte(data)))
    return found


def parted(data: bytes) -> tuple[bytes, bytes]:
    """The first line, and what follows it: a target that takes two things takes them so."""
    first, _, rest = data.partition(b"\n")
    return first, rest
