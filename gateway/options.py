"""The scalars of the configuration file: durations, sizes, shares, secrets, as typed fields.

Leaf: standard library and pydantic only. Plugins declare their options with these types, so one word
means the same in every section, and every mistake is explained in the same way.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

_DIGITS = r"(\d{1,15}(?:\.\d+)?)"  # bounded: no text may become an infinite number
_DURATION = re.compile(_DIGITS + r"(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(_DIGITS + r"\s*(B|KiB|MiB|GiB|KB|MB|GB)")
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SHARE = re.compile(_DIGITS + "%")


def parse_duration(value: object) -> object:
    """`250ms`, `8s`, `2m`, `1.5h`, `1m30s` to seconds. A bare number is refused: its unit is a guess."""
    if isinstance(value, str):
        text = value.strip()
        parts = _DURATION.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    raise ValueError(f"{value!r} is not a duration; write it with its unit, like 250ms, 8s, 2m or 1h")


def parse_size(value: object) -> object:
    """`64KiB`, `20MB` or a plain number of bytes to bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(float(match[1]) * _BYTES[match[2]])
    raise ValueError(f"{value!r} is not a size; write bytes or a unit, like 65536, 64KiB or 20MB")


def parse_share(value: object) -> object:
    """`99%` or 0.99 to 0.99."""
    percent = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    share = float(percent[1]) / 100 if percent else value
    if isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1:
        return float(share)
    raise ValueError(f"{value!r} is not a share; write a percentage like 99% or a number from 0 to 1")


def _schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


Duration = Annotated[
    float, BeforeValidator(parse_duration), _schema(r"^(\d+(\.\d+)?(ms|s|m|h|d))+$", "250ms")
]
"""Seconds, written with a unit."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "examples": ["64KiB"]}]}),
]
"""Bytes."""

Share = Annotated[
    float,
    BeforeValidator(parse_share),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": "%$"}]}
    ),
]
"""A fraction from 0 to 1."""

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""US dollars."""


class Auto(int):
    """`auto`: a number that is learned while serving. Its value is where learning starts."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "auto"


AUTO = Auto(4)


def _number_or_auto(value: object, number: ValidatorFunctionWrapHandler) -> int:
    if isinstance(value, str) and value.strip() == "auto":
        return AUTO
    if isinstance(value, Auto):
        return value
    return int(number(value))


SlotCount = Annotated[
    int,
    Field(ge=1),
    WrapValidator(_number_or_auto),
    PlainSerializer(lambda value: "auto" if isinstance(value, Auto) else value, return_type=int | str),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}),
]
"""Calls at once, or `auto` where the number is to be learned (an `Auto`)."""


class Options(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)


class SecretRef(Options):
    """A secret by reference, `{env: NAME}` or `{file: PATH}`: the file never holds the secret itself."""

    env: str | None = None
    """Name of the environment variable that holds it."""
    file: Path | None = None
    """Path of the file that holds it; surrounding white space is dropped."""

    @model_validator(mode="before")
    @classmethod
    def _never_in_the_file(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            # The value is not quoted here: it may be the secret.
            raise ValueError("a secret is never written in the file; use {env: NAME} or {file: PATH}")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "SecretRef":
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of env and file, like {env: RUNPOD_API_KEY}")
        return self

    def resolve(self) -> str:
        """The secret. Raises LookupError, naming the reference and never the value."""
        if self.env is not None:
            value = os.environ.get(self.env, "")
            if not value:
                raise LookupError(f"environment variable {self.env} is not set")
            return value
        assert self.file is not None
        try:
            value = self.file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise LookupError(f"cannot read secret file {self.file}: {error.strerror}") from None
        except ValueError:  # its text, which the error would carry, may be most of the secret
            raise LookupError(f"secret file {self.file} is not UTF-8 text") from None
        if not value:
            raise LookupError(f"secret file {self.file} is empty")
        return value


def _in_a_file(secret: SecretRef) -> SecretRef:
    if secret.file is None:
        raise ValueError("a private key stands in a file of its own; write {file: PATH}")
    return secret


KeyFile = Annotated[SecretRef, AfterValidator(_in_a_file)]
"""A private key, by the file in which it stands."""
