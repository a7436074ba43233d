"""JSON as Triton's serializer writes it, byte for byte.

Must never know: models, HTTP. Triton prints through RapidJSON: floats of any width as doubles with the
Grisu2 algorithm (Loitsch, "Printing Floating-Point Numbers Quickly and Accurately with Integers", 2010),
which is not always the shortest form that Python's `repr` finds, and strings as the bytes they are.
An answer that a spilled worker writes differently from the warm server is a wrong answer to anyone who
compares bytes, so the printing is reproduced here. Checked against tritonserver 2.51.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MASK = (1 << 64) - 1
_HIDDEN_BIT = 1 << 52
_ESCAPES = {
    0x22: b'\\"', 0x5C: b"\\\\", 0x08: b"\\b", 0x0C: b"\\f", 0x0A: b"\\n", 0x0D: b"\\r", 0x09: b"\\t",
}  # fmt: skip
_SPECIAL = re.compile(rb'[\x00-\x1f"\\]')


class Verbatim(bytes):
    """Bytes that are already JSON."""


def dump(value: object) -> bytes:
    """`value` as compact JSON in Triton's spelling. `bytes` are written as a string, unchecked."""
    if isinstance(value, Verbatim):
        return bytes(value)
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, float):
        return number(value).encode()
    if isinstance(value, str):
        return string(value.encode())
    if isinstance(value, bytes):
        return string(value)
    if value is None:
        return b"null"
    if isinstance(value, Mapping):
        fields = (string(str(name).encode()) + b":" + dump(item) for name, item in value.items())
        return b"{" + b",".join(fields) + b"}"
    if isinstance(value, Iterable):
        return b"[" + b",".join(map(dump, value)) + b"]"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def string(raw: bytes) -> bytes:
    """A JSON string of these bytes. Bytes that are not UTF-8 pass through, as Triton lets them."""
    return b'"' + _SPECIAL.sub(lambda hit: _escape(hit[0][0]), raw) + b'"'


def _escape(byte: int) -> bytes:
    return _ESCAPES.get(byte) or b"\\u%04X" % byte


def number(value: float) -> str:
    """A double as RapidJSON's Writer prints it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    magnitude = abs(value)
    if magnitude < 2**53 and magnitude.is_integer():
        return f"{sign}{int(magnitude)}.0"
    digits, exponent = _grisu2(magnitude)
    return sign + _prettify(digits, exponent)


def _prettify(digits: str, exponent: int) -> str:
    """Place the point: `digits` times 10^`exponent`, plain notation from 1e-6 up to 1e21."""
    point = len(digits) + exponent
    if exponent >= 0 and point <= 21:
        return digits + "0" * exponent + ".0"
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    head = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{head}e{point - 1}"


def _cached_power(decimal: int) -> tuple[int, int]:
    """10^decimal as (64-bit fraction, binary exponent), rounded to nearest."""
    power = 10 ** abs(decimal)
    if decimal >= 0:
        shift = power.bit_length() - 64
        exact = power << 1 if shift <= 0 else power
        if shift <= 0:
            return (power << -shift), shift
        fraction = ((exact >> (shift - 1)) + 1) >> 1
        return (fraction, shift) if fraction <= _MASK else (fraction >> 1, shift + 1)
    shift = power.bit_length() + 63
    fraction = ((1 << (shift + 1)) // power + 1) >> 1
    return (fraction, -shift) if fraction <= _MASK else (fraction >> 1, 1 - shift)


_POWERS = tuple(_cached_power(decimal) for decimal in range(-348, 341, 8))


def _times(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    return (left[0] * right[0] + (1 << 63)) >> 64, left[1] + right[1] + 64


def _normal(fraction: int, exponent: int) -> tuple[int, int]:
    shift = 64 - fraction.bit_length()
    return fraction << shift, exponent - shift


def _grisu2(value: float) -> tuple[str, int]:
    """Digits and decimal exponent of a finite positive double."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    biased = bits >> 52
    fraction = bits & (_HIDDEN_BIT - 1) | (_HIDDEN_BIT if biased else 0)
    exponent = (biased or 1) - 1075
    upper = _normal((fraction << 1) + 1, exponent - 1)
    lower = (fraction << 2) - 1, exponent - 2
    if fraction != _HIDDEN_BIT:
        lower = (fraction << 1) - 1, exponent - 1
    lower = lower[0] << (lower[1] - upper[1]), upper[1]
    # The smallest tabled power that brings the product's exponent into the range DigitGen can handle.
    index = (math.ceil((-61 - upper[1]) * 0.30102999566398114 + 347) >> 3) + 1
    power = _POWERS[index]
    exact, _ = _times(_normal(fraction, exponent), power)
    high, high_exponent = _times(upper, power)
    low, _ = _times(lower, power)
    # One unit inside on both sides, because each product may be off by one.
    high, low = high - 1, low + 1
    digits, kappa = _digits(exact, high, high_exponent, high - low)
    return digits, 348 - 8 * index + kappa


def _digits(exact: int, high: int, exponent: int, delta: int) -> tuple[str, int]:
    """The fewest digits that stay within `delta` below `high`, moved towards `exact`."""
    shift = -exponent
    one = 1 << shift
    gap = high - exact
    whole, rest = high >> shift, high & (one - 1)
    digits: list[int] = []
    for kappa in range(len(str(whole)) - 1, -1, -1):
        digit, whole = divmod(whole, 10**kappa)
        if digit or digits:
            digits.append(digit)
        left = (whole << shift) + rest
        if left <= delta:
            _round(digits, delta, left, 10**kappa << shift, gap)
            return "".join(map(str, digits)), kappa
    kappa = 0
    while True:
        rest *= 10
        delta *= 10
        digit = rest >> shift
        if digit or digits:
            digits.append(digit)
        rest &= one - 1
        kappa -= 1
        if rest < delta:
            # Triton's RapidJSON tables powers up to 10^8 only, and does not move longer digits at all.
            _round(digits, delta, rest, one, gap * 10**-kappa if kappa > -9 else 0)
            return "".join(map(str, digits)), kappa


def _round(digits: list[int], delta: int, rest: int, step: int, gap: int) -> None:
    while (
        rest < gap
        and delta - rest >= step
        and (rest + step < gap or gap - rest > rest + step - gap)
    ):  # fmt: skip
        digits[-1] -= 1
        rest += step


_POWERS_OF_TEN = tuple(float(f"1e{power}") for power in range(309))
_EXACT = 2**53 - 1


def double(text: str) -> float:
    """A number with a point or an exponent as RapidJSON's reader takes it, which may be some ulp off.

    It reads for speed: up to 17 digits become a double, and one multiplication or division places the point
    (rapidjson/reader.h, ParseNumber without kParseFullPrecisionFlag).
    """
    if len(text) <= 16 and "e" not in text and "E" not in text:
        return float(text)  # at most 15 digits: both steps are exact
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    power, digits = int(exponent or 0), whole + fraction
    if len(whole) > 19 or abs(power) > 600:
        return float(text)
    # Whole numbers as far as they are exact, which is for 16 digits or one less, then doubles.
    start = len(digits) - len(digits.lstrip("0"))
    end = max(start + 16, len(whole))
    end += int(digits[:end]) <= _EXACT
    value = float(int(digits[:end]))
    taken = min(end, len(digits)) - start - (whole != "0")
    for digit in digits[end : end + max(0, 17 - taken)]:
        value = value * 10.0 + int(digit)
    power -= max(0, min(len(digits), end + max(0, 17 - taken)) - len(whole))
    if power < -308:
        value, power = value / _POWERS_OF_TEN[308], power + 308
    if not -308 <= power <= 308:
        return float(text)
    value = value * _POWERS_OF_TEN[power] if power >= 0 else value / _POWERS_OF_TEN[-power]
    return -value if mantissa.startswith("-") else value


_PARSE_ERRORS: Sequence[tuple[str, str]] = (
    ("Expecting property name", "Missing a name for object member."),
    ("Illegal trailing comma before end of object", "Missing a name for object member."),
    ("Expecting ':'", "Missing a colon after a name of object member."),
    ("Extra data", "The document root must not be followed by other values."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid \\", "Invalid escape character in string."),
    ("Invalid control character", "Invalid encoding in string."),
)


def parse(raw: bytes) -> Any:
    """The document. Raises ValueError with RapidJSON's words and offset (the offset is approximate)."""
    text = raw.decode("latin-1" if not _is_utf8(raw) else "utf-8", "strict")
    try:
        return json.loads(text, parse_float=double)
    except RecursionError:
        raise ValueError("Terminate parsing due to Handler error. at 0") from None
    except json.JSONDecodeError as error:
        if not text.strip():
            raise ValueError(f"The document is empty. at {len(raw)}") from None
        words = next((ours for theirs, ours in _PARSE_ERRORS if theirs in error.msg), "Invalid value.")
        if "Expecting ','" in error.msg:
            inside_array = _innermost(text[: error.pos]) == "["
            words = f"Missing a comma or {_closing(inside_array)}."
        place = error.pos
        if "Illegal trailing comma" in error.msg:  # Python 3.13 points at the comma, not behind it
            place += 1 + len(text[place + 1 :]) - len(text[place + 1 :].lstrip())
        if "Unterminated" in error.msg:
            place = len(text)
        elif words == "Invalid value.":
            place += _literal_prefix(text[place:])
        raise ValueError(f"{words} at {len(text[:place].encode())}") from None


def _literal_prefix(text: str) -> int:
    """How far a parser gets into `true`, `false` or `null` before it sees that it is none of them."""
    return max(
        next((place for place, letter in enumerate(word) if text[place : place + 1] != letter), len(word))
        for word in ("true", "false", "null")
    )


def _closing(inside_array: bool) -> str:
    return "']' after an array element" if inside_array else "'}' after an object member"


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _innermost(text: str) -> str:
    """The bracket that is still open at the end of `text`, or nothing."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"?', "", text)
    opened: list[str] = []
    for character in bare:
        if character in "[{":
            opened.append(character)
        elif character in "]}" and opened:
            opened.pop()
    return opened[-1] if opened else ""
