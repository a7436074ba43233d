"""Settings -> YAML, with every default filled in: what `overspill check --effective` shows.

The text is itself a configuration that loads to the same Settings. Secrets appear only as the reference
that the file gives.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, get_args

import yaml
from pydantic import BaseModel, BeforeValidator

from gateway.config.schema import Address, PolicyUse, Settings
from gateway.options import Auto, SecretRef, parse_duration, parse_share, parse_size

_BINARY = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_ROUTE_ORDER = ("match", "latency_budget", "policy", "tiers", "timeout", "stall_timeout", "idempotent")


def effective(settings: Settings) -> str:
    """The whole configuration as YAML text."""
    document = _plain(settings, None)
    for name, said in document.pop("price_sources").items():
        document["backends"][name]["price"] |= {key: text for key, text in said.items() if text is not None}
    return yaml.dump(
        document,
        Dumper=yaml.SafeDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
    )


def _plain(value: Any, unit: object) -> Any:
    """What YAML should say for `value`; `unit` is the parser that its field was read with."""
    if isinstance(value, SecretRef):
        return {"env": value.env} if value.env is not None else {"file": str(value.file)}
    if isinstance(value, PolicyUse):
        return {"type": value.type, **_plain(value.options, None)}
    if isinstance(value, BaseModel):
        return _section(value)
    if isinstance(value, Mapping):
        return {key: _plain(item, unit) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and not isinstance(value, Address):
        return [_plain(item, unit) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Auto):
        return "auto"
    if isinstance(value, int | float) and unit is not None:
        return _with_unit(value, unit)
    return value if isinstance(value, int | float) else str(value)


def _section(value: BaseModel) -> dict[str, Any]:
    fields = type(value).model_fields
    names = [name for name in _ROUTE_ORDER if name in fields] if "tiers" in fields else list(fields)
    section = {}
    for name in [*names, *(name for name in fields if name not in names)]:
        unit = _unit(fields[name].annotation, fields[name].metadata)
        section[name] = _plain(getattr(value, name), unit)
    return section


def _unit(annotation: Any, metadata: list[Any]) -> object:
    """The parser of `Duration`, `Size` or `Share`, however deep in `Duration | None` it is."""
    for item in metadata:
        if isinstance(item, BeforeValidator) and item.func in (parse_duration, parse_size, parse_share):
            return item.func
    inner = getattr(annotation, "__metadata__", ())
    for argument in get_args(annotation):
        if unit := _unit(argument, list(inner)):
            return unit
    return None


def _with_unit(value: float, unit: object) -> str | float:
    """The shortest usual spelling that reads back as exactly the same number."""
    if unit is parse_size:
        for name, size in _BINARY:
            if value and value % size == 0:
                return f"{int(value) // size}{name}"
        return value
    if unit is parse_share:
        text = f"{_decimal(round(value * 100, 12))}%"
        return text if parse_share(text) == value else value
    for name, seconds in (("h", 3600), ("m", 60)):
        if value and value % seconds == 0:
            return f"{int(value) // seconds}{name}"
    text = f"{_decimal(round(value * 1000, 12))}ms"
    return text if value < 1 and parse_duration(text) == value else f"{_decimal(value)}s"


def _decimal(value: float) -> str:
    """Digits without an exponent, which the file's own spelling does not know."""
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
