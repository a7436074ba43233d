"""One target without atheris: `python -m loadtests.fuzz.unguided NAME SECONDS SEED FOLDER KEPT`.

Mutates the kept inputs blindly; an input that breaks the target is saved. Takes the same arguments as
`guided.py`, and ends with the same word for how often the target was called.
"""

import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from traceback import print_exc

from gateway.clock import SystemClock
from loadtests.fuzz.corpus import kept
from loadtests.fuzz.targets import LARGEST, TARGETS

_TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"%", b"0", b"1", b"-1", b"\xff", b'"',
    b"{", b"}", b"[", b"]", b"chunked", b"content-length", b"transfer-encoding", b"9" * 30, b"0\r\n\r\n",
)  # fmt: skip


def mutated(data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """`data` with a few pieces cut out, doubled, replaced, or taken from another input."""
    raw = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(raw) + 1)
        end = min(len(raw), place + chance.randrange(1, 16))
        match chance.randrange(6):
            case 0:
                raw[place:place] = chance.choice(_TOKENS)
            case 1:
                del raw[place:end]
            case 2:
                raw[place:end] = raw[place:end] * 2
            case 3:
                raw[place:end] = chance.choice(_TOKENS)
            case 4:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                raw[place:end] = other[start : start + chance.randrange(1, 40)]
            case _ if place < len(raw):
                raw[place] ^= 1 << chance.randrange(8)
    return bytes(raw)


def main() -> int:
    """Fuzz until the time is over or something is found; returns the exit status."""
    name, seconds, seed, folder, _ = sys.argv[1:]
    target, chance, clock = TARGETS[name](), Random(int(seed)), SystemClock()
    inputs, largest = [*kept(name).values(), b""], LARGEST.get(name, 1024)
    end = clock.now() + float(seconds)
    count = 0
    while clock.now() < end:
        data = mutated(chance.choice(inputs), inputs, chance)[:largest]
        count += 1
        try:
            target(data)
        except Exception:  # whatever it is: that is what is looked for
            print_exc()
            Path(folder, f"found-{sha256(data).hexdigest()[:16]}").write_bytes(data)
            print(f"stat::number_of_executed_units: {count}", file=sys.stderr)
            return 1
    print(f"stat::number_of_executed_units: {count}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
