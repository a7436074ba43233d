"""`price: {like: runpod/l4}`: a line of the price sheet, put into the words of the backend that refers to it.

What any backend's `price` may say beside its own keys is read and taken out here, before the backend's own
options are checked. So no backend knows of sheets, and no sheet of backends: they meet in the names of the
keys (`usd_per_second`, `usd_per_gb_second`, …), which mean the same in both.
"""

from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, Field

from gateway.config.explain import validate
from gateway.config.price_sheet import OLD_DAYS, Dated, Priced, PriceLine, age_days, together
from gateway.config.problems import Path, quoted
from gateway.config.schema import PriceSource
from gateway.config.tree import Tree
from gateway.options import Options, Size
from gateway.vocab import Rent

LISTED = "litellm/"
"""How names begin that are looked up in litellm's list of token prices, by the backends that know it."""

_BY_TIME = ("usd_per_second", "usd_per_replica_hour")
_RULES = ("bills_boot", "bills_idle", "round_up", "least")
_HOUR_S = 3600.0
_GIB = 2**30


class PriceNotes(Options):
    """What the `price` of any backend may say beside its own keys."""

    like: str | None = None
    """Line of the price sheet (see `overspill prices`) whose figures hold unless they are given here."""
    cores: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """CPU cores of an instance, where the line has a price for them."""
    memory: Size | None = None
    """Memory of an instance, where the line has a price for it."""
    as_of: Dated | None = None
    """When the price was seen: a day like 2026-11-22, or a month."""
    source: str | None = Field(default=None, min_length=1)
    """Who says so; shown beside the price."""


class _Liked(NamedTuple):
    """A backend's reference to a line."""

    name: str
    line: PriceLine


class PriceTerms:
    """The prices of one file, on their way to the backends' options.

    own:   lines of the user's own sheet; None if it cannot be read, which has been told
    wall:  Unix time that prices are old by; None where nobody asks
    """

    def __init__(self, tree: Tree, own: Mapping[str, Priced] | None, wall: float | None) -> None:
        self.sources: dict[str, PriceSource] = {}
        """Where the price of a backend comes from, where that is known."""
        self._tree = tree
        self._own = own
        self._wall = wall
        self._sheet: Mapping[str, Priced] | None = None
        self._doubts: list[tuple[Path, str]] = []
        self._liked: dict[str, _Liked] = {}

    def expanded(self, backend: str, options: type[BaseModel]) -> tuple[Any, bool]:
        """The section of a backend with its price in the backend's own keys only, and whether that went well.

        If not it has been told, and the section is without a price.
        """
        section = self._tree.get(("backends", backend))
        path: Path = ("backends", backend, "price")
        fields = price_fields(options)
        price = section.get("price")
        if not isinstance(price, dict) or not fields:
            return section, True
        terms = None if self._misspelt(path, price, fields) else self._terms(path, price, fields)
        if terms is None:
            return {key: value for key, value in section.items() if key != "price"}, False
        return {**section, "price": terms}, True

    def doubts(self, rents: Mapping[str, Rent | None]) -> Iterator[tuple[Path, str]]:
        """What is doubtful about the prices, each with its place. `rents`: what rented backends count."""
        yield from self._doubts
        for backend, (name, line) in self._liked.items():
            rent = rents.get(backend)
            if rent is not None and (differs := _counted_otherwise(line, rent)):
                yield (
                    ("backends", backend, "price", "like"),
                    f"{quoted(name)} is billed {differs}, and this kind of backend counts otherwise: its "
                    "costs will not be quite the bill",
                )

    def _misspelt(self, path: Path, price: Mapping[str, Any], fields: Collection[str]) -> bool:
        """Whether a key is none, but nearly one of ours; those nearer to the backend's it tells itself."""
        notes = PriceNotes.model_fields
        found = False
        for key in price:
            close = get_close_matches(key, [*fields, *notes], n=1)
            if key not in fields and key not in notes and close and close[0] in notes:
                here = (*path, key)
                message = f"{quoted(key)} is not a key here; did you mean `{close[0]}`?"
                self._tree.problem(self._tree.at_key(here), here, message)
                found = True
        return found

    def _terms(self, path: Path, price: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any] | None:
        ours = {key: price[key] for key in PriceNotes.model_fields if key in price and key not in fields}
        given = {key: value for key, value in price.items() if key not in ours}
        notes = validate(PriceNotes, ours, self._tree, path)
        if notes is None:
            return None
        if notes.like is not None and notes.like.startswith(LISTED):
            return self._by_token(path, notes, given, fields)
        if notes.like is None:
            return given if self._without_line(path, notes) else None
        line = self._line(path, notes.like)
        figures = None if line is None else self._figures(path, notes, line, fields)
        if line is None or figures is None:
            return None
        self._note(path, notes, line, figures, given)
        return {**figures, **given}

    def _without_line(self, path: Path, notes: PriceNotes) -> bool:
        """All figures stand in the file."""
        for key in ("cores", "memory"):
            if getattr(notes, key) is not None:
                self._tell((*path, key), "is for a price that is `like` a line of the sheet; take it out")
                return False
        self._note_own(path, notes)
        return True

    def _by_token(
        self, path: Path, notes: PriceNotes, given: dict[str, Any], fields: Collection[str]
    ) -> dict[str, Any] | None:
        """The backend looks it up itself: only some know tokens."""
        if "usd_per_million_input_tokens" not in fields:
            self._tell((*path, "like"), f"{quoted(str(notes.like))} is a price of tokens; {_paid_by(fields)}")
            return None
        source = notes.source or f"{notes.like}: the list of prices in the installed litellm package"
        self.sources[str(path[1])] = PriceSource(source=source, as_of=notes.as_of)
        self._doubt_own_date(path, notes)
        return {"like": notes.like, **given}

    def _line(self, path: Path, name: str) -> PriceLine | None:
        if self._sheet is None:
            self._sheet = together(self._own or {})
        if name in self._sheet:
            return self._sheet[name].line
        if self._own is not None:  # else it may stand in the file that cannot be read
            self._tell((*path, "like"), f"there is no price {quoted(name)}; {_near(name, self._sheet)}")
        return None

    def _figures(
        self, path: Path, notes: PriceNotes, line: PriceLine, fields: Collection[str]
    ) -> dict[str, Any] | None:
        """What the line says, in keys that the backend has; None when it says something that has none."""
        for key, priced in (("cores", line.usd_per_core_second), ("memory", line.usd_per_gib_second)):
            if getattr(notes, key) is not None and priced is None:
                self._tell((*path, key), f"has no price of its own in {quoted(str(notes.like))}; take it out")
                return None
        alone = line.usd_per_second is None and line.usd_per_hour is None
        if alone and line.by_parts and None in (notes.cores, notes.memory):
            message = "needs `cores` and `memory` beside it: they are all that is paid for"
            self._tell((*path, "like"), message)
            return None
        named = ("usd_per_gb_second", "usd_per_request", "usd_per_gb")
        money = {key: value for key in named if (value := getattr(line, key)) is not None}
        if line.by_parts or not alone:
            per_hour = "usd_per_second" not in fields and "usd_per_replica_hour" in fields
            usd = _usd_per_hour(line, notes)
            money[_BY_TIME[per_hour]] = _tidy(usd) if per_hour else _tidy(usd / _HOUR_S)
        if not money.keys() <= set(fields):
            said = ", ".join(sorted(line.money()))
            self._tell((*path, "like"), f"{quoted(str(notes.like))} says {said}; {_paid_by(fields)}")
            return None
        rules = {key: value for key in _RULES if key in fields and (value := getattr(line, key)) is not None}
        return {**money, **{k: v if isinstance(v, bool) else _duration(v) for k, v in rules.items()}}

    def _note(
        self,
        path: Path,
        notes: PriceNotes,
        line: PriceLine,
        figures: Mapping[str, Any],
        given: Mapping[str, Any],
    ) -> None:
        """Where the price is from, and what is doubtful about what was taken from the line."""
        taken = figures.keys() - given.keys()
        if not any(key.startswith("usd_") for key in taken):
            self._note_own(path, notes)
            return
        self._doubt_own_date(path, notes)
        name = str(notes.like)
        replaced = sorted(figures.keys() & given.keys())
        but = f"; {', '.join(replaced)} given here" if replaced else ""
        self.sources[str(path[1])] = PriceSource(
            source=notes.source or f"{name}: {line.page}{but}", as_of=notes.as_of or line.as_of
        )
        self._liked[str(path[1])] = _Liked(name, line)
        like = (*path, "like")
        advice = f"compare it with {line.page}, and give `as_of` here once you have"
        if notes.as_of is None and line.unverified:
            self._doubts.append((like, f"{quoted(name)} is a figure that nobody has verified; {advice}"))
        elif notes.as_of is None and self._wall is not None and age_days(line.as_of, self._wall) > OLD_DAYS:
            days = age_days(line.as_of, self._wall)
            self._doubts.append((like, f"{quoted(name)} is of {line.as_of}, {days} days ago; {advice}"))
        if line.lacks:
            self._doubts.append((like, f"{quoted(name)} does not count {line.lacks}"))
        parts = (("cores", line.usd_per_core_second), ("memory", line.usd_per_gib_second))
        absent = [key for key, usd in parts if usd is not None and getattr(notes, key) is None]
        if absent and any(key in taken for key in _BY_TIME):
            counted = " and ".join(f"{key} as {_amount(key, line)}" for key in absent)
            message = (
                f"{quoted(name)} has prices for CPU and memory beside the GPU, and counts {counted}; say "
                "beside it what an instance has, like `cores: 4, memory: 16GiB`"
            )
            self._doubts.append((like, message))

    def _note_own(self, path: Path, notes: PriceNotes) -> None:
        """No figure is from a sheet."""
        if notes.source is not None or notes.as_of is not None:
            self.sources[str(path[1])] = PriceSource(source=notes.source, as_of=notes.as_of)
        self._doubt_own_date(path, notes)

    def _doubt_own_date(self, path: Path, notes: PriceNotes) -> None:
        if notes.as_of is None or self._wall is None:
            return
        days = age_days(notes.as_of, self._wall)
        if days > OLD_DAYS:
            message = f"is {days} days ago; look whether it still costs that, and say when you did"
            self._doubts.append(((*path, "as_of"), message))
        elif days < -1:  # somewhere it is tomorrow already
            self._doubts.append(((*path, "as_of"), "is a day that is to come"))

    def _tell(self, path: Path, message: str) -> None:
        self._tree.problem(self._tree.at_value(path), path, message)


def price_model(options: type[BaseModel]) -> type[BaseModel] | None:
    """The class of a backend's `price`; None where it has none."""
    field = options.model_fields.get("price")
    return None if field is None else _model_in(field.annotation)


def price_fields(options: type[BaseModel]) -> Collection[str]:
    """The keys of a backend's `price`; none where it has no price."""
    model = price_model(options)
    return () if model is None else tuple(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model | None`, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _usd_per_hour(line: PriceLine, notes: PriceNotes) -> float:
    """Dollars of an instance's hour: its GPU, its cores and its memory, of which the line has a least."""
    usd = line.usd_per_hour or (line.usd_per_second or 0.0) * _HOUR_S
    cores = max(notes.cores or 0.0, line.cores or 0.0)
    memory = max(notes.memory or 0, line.memory or 0)
    usd += cores * (line.usd_per_core_second or 0.0) * _HOUR_S
    return usd + memory / _GIB * (line.usd_per_gib_second or 0.0) * _HOUR_S


def _counted_otherwise(line: PriceLine, rent: Rent) -> str:
    """How the line is billed that the backend does not count like that; empty if it does."""
    found = []
    if line.round_up is not None and abs(line.round_up - rent.round_up_s) > 1e-9:
        found.append(f"in steps of {_duration(line.round_up)}" if line.round_up else "without rounding up")
    for what, billed, counted in (
        ("starting up", line.bills_boot, rent.bills_boot),
        ("idling", line.bills_idle, rent.bills_idle),
    ):
        if billed is not None and billed != counted:
            found.append(f"{'with' if billed else 'without'} {what}")
    return " and ".join(found)


def _near(name: str, sheet: Mapping[str, Priced]) -> str:
    """What may have been meant."""
    provider = name.partition("/")[0]
    same = sorted(each for each in sheet if each.startswith(f"{provider}/"))
    close = get_close_matches(name.lower(), sheet, n=3, cutoff=0.6)
    guess = f"did you mean {' or '.join(map(quoted, close))}? " if close else ""
    if same:
        return f"{guess}known prices of {quoted(provider)}: {', '.join(same)}"
    providers = sorted({each.partition("/")[0] for each in sheet})
    return f"{guess}`overspill prices` lists them; providers: {', '.join(providers)}"


def _paid_by(fields: Collection[str]) -> str:
    said = [key for key in fields if key.startswith("usd_")]
    return f"this kind of backend takes {', '.join(said)}"


def _amount(key: str, line: PriceLine) -> str:
    if key == "cores":
        return f"{line.cores or 0:g}"
    return f"{(line.memory or 0) / _GIB:g}GiB"


def _tidy(usd: float) -> float:
    return float(f"{usd:.12g}")  # 0.00019 an hour is 0.684, and a second of that 0.00019 again


def _duration(seconds: float) -> str:
    text = format(Decimal(repr(float(seconds))), "f")
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}s"
