"""Sheets of prices: what providers ask for their hardware, each line with its date and its source.

One ships with the package, `config/prices.yaml`; a file of the user's own adds lines or takes their place.
Knows the form of a sheet and nothing else: what a line means to a backend is `price_terms.py`'s.
"""

import datetime
import re
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from gateway.config.explain import validate
from gateway.config.problems import FILE, ConfigProblems, Problem
from gateway.config.tree import NotYaml, read_tree
from gateway.options import Duration, Options, Size, Usd

SHIPPED = "prices.yaml"
"""The sheet that comes with the package."""
OLD_DAYS = 180
"""A price that was seen longer ago is worth a second look."""

_DATE = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?")


def first_day(text: str) -> datetime.date:
    """The day, or the first one of the month, that `text` names. Raises ValueError."""
    if match := _DATE.fullmatch(text):
        try:
            return datetime.date(int(match[1]), int(match[2]), int(match[3] or 1))
        except ValueError:
            pass  # the thirtieth of February, which is told below
    raise ValueError(f"{text!r} is not a date; write a day like 2026-11-22 or a month like 2026-11")


def age_days(text: str, wall: float) -> int:
    """Whole days from a date to `wall`, Unix time. Negative for one that is to come."""
    today = datetime.datetime.fromtimestamp(wall, datetime.UTC).date()
    return (today - first_day(text)).days


def _dated(text: str) -> str:
    first_day(text)
    return text


Dated = Annotated[
    str,
    AfterValidator(_dated),
    WithJsonSchema({"type": "string", "pattern": r"^\d{4}-\d{2}(-\d{2})?$", "examples": ["2026-11-22"]}),
]
"""A day, or a month; kept as it is written."""


class PriceLine(Options):
    """What one provider asks for one kind of hardware."""

    usd_per_second: Usd | None = None
    """Price of one instance for one second; of its GPU alone where cores and memory have prices as well."""
    usd_per_hour: Usd | None = None
    """The same for one hour, where that is how it is published."""
    usd_per_core_second: Usd | None = None
    """Price of one CPU core for one second, beside that."""
    usd_per_gib_second: Usd | None = None
    """Price of one GiB of an instance's memory for one second, beside that."""
    usd_per_gb_second: Usd | None = None
    """Price of one GB of memory for one second while a request runs."""
    usd_per_request: Usd | None = None
    """Fee of one request."""
    usd_per_gb: Usd | None = None
    """Price of a gigabyte that is moved, in or out."""
    cores: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Cores that are billed at the least."""
    memory: Size | None = None
    """Memory that is billed at the least."""
    round_up: Duration | None = None
    """Seconds are rounded up to multiples of this; absent: nothing is known of it."""
    least: Duration | None = None
    """Time for which a request is billed at the least."""
    bills_boot: bool | None = None
    """Whether starting up is paid for; absent: that is not known."""
    bills_idle: bool | None = None
    """Whether idling is paid for; absent: that is not known."""
    lacks: str = ""
    """What is paid for beside all this and is not counted."""
    as_of: Dated
    """When the figures were seen: a day, or a month."""
    unverified: bool = False
    """Nobody has compared the figures with the provider's own page yet."""
    source: str = Field(min_length=1)
    """Name of the page that has the price."""
    url: str = Field(default="", pattern=r"^(https://[^\s@]+)?$")
    """Its address."""

    @model_validator(mode="after")
    def _some_price(self) -> Self:
        if not self.money():
            raise ValueError("says no price; give at least one of usd_per_second, usd_per_hour, …")
        if self.usd_per_second is not None and self.usd_per_hour is not None:
            raise ValueError("says usd_per_second and usd_per_hour; keep one")
        return self

    def money(self) -> dict[str, float]:
        """The prices that are said, by their names."""
        names = [name for name in type(self).model_fields if name.startswith("usd_")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def by_parts(self) -> bool:
        """Whether cores and memory are paid for on their own."""
        return self.usd_per_core_second is not None or self.usd_per_gib_second is not None

    @property
    def page(self) -> str:
        """Where it is published, for people."""
        return f"{self.source}, {self.url}" if self.url else self.source


PriceName = Annotated[str, Field(pattern=r"^[a-z0-9_-]+/[a-z0-9][a-z0-9._-]{0,63}$")]
"""`PROVIDER/HARDWARE`."""


class _Sheet(Options):
    """A file of prices."""

    version: Literal[1]
    """Version of this form."""
    prices: dict[PriceName, PriceLine] = Field(min_length=1)
    """The lines, each under the name that `like` calls it by."""


class Priced(NamedTuple):
    """A line, and the file it stands in."""

    line: PriceLine
    file: str


def shipped() -> dict[str, Priced]:
    """The sheet that comes with the package. Raises ConfigProblems where somebody has broken it."""
    text = resources.files("gateway.config").joinpath(SHIPPED).read_text(encoding="utf-8")
    return read_sheet(text, SHIPPED)


def read_sheet(text: str, file: str) -> dict[str, Priced]:
    """The lines of a sheet, which problems call `file`. Raises ConfigProblems."""
    try:
        tree = read_tree(text, file)
    except NotYaml as error:
        raise ConfigProblems([Problem(file, *error.place, FILE, str(error))]) from None
    sheet = None
    if isinstance(tree.data, dict):
        sheet = validate(_Sheet, tree.data, tree, ())
    elif not tree.problems:
        tree.problem(tree.at_value(()), (), "is not a mapping; a file of prices begins with `version: 1`")
    if sheet is None or tree.problems:
        raise ConfigProblems(tree.problems)
    return {name: Priced(line, file) for name, line in sheet.prices.items()}


def together(own: Mapping[str, Priced]) -> dict[str, Priced]:
    """The shipped sheet, with the user's own lines beside or instead of it."""
    return {**shipped(), **own}
