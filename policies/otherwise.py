"""A policy within a policy: `otherwise: NAME`, or `otherwise: {type: NAME, …its options}`.

For policies that decide about some calls and leave the others to another one. Which policies there are is
looked up when options are checked, so that none of them needs to know any other.

Knows the registry; no concrete policy.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, ValidationError

from policies.base import Policy, PolicyOptions, TierView, policies


class _Use(NamedTuple):
    kind: type[Policy]
    options: PolicyOptions


def _read(written: str | Mapping[str, Any]) -> _Use:
    """The class and its checked options. ValueError: what is wrong, and what would be right."""
    rest = {} if isinstance(written, str) else {key: written[key] for key in written if key != "type"}
    name = written if isinstance(written, str) else written.get("type")
    if name is None:
        raise ValueError("is without a `type`; write a policy's name, or {type: NAME, …its options}")
    if not isinstance(name, str) or name not in policies:
        raise ValueError(f"there is no policy {name!r}; known policies: {', '.join(policies)}")
    kind = policies.get(name)
    try:
        options = kind.Options.model_validate_json(json.dumps(rest), strict=True)
    except ValidationError as error:
        raise ValueError(f"{name} cannot be used so: {'; '.join(_told(kind, error))}") from None
    return _Use(kind, options)


def _told(kind: type[Policy], error: ValidationError) -> Iterable[str]:
    known = ", ".join(kind.Options.model_fields) or "it has none"
    for details in error.errors(include_url=False, include_input=False, include_context=False):
        key = ".".join(map(str, details["loc"]))
        message = details["msg"].removeprefix("Value error, ")
        if details["type"] == "extra_forbidden":
            message = f"is not a key here; known keys: {known}"
        elif details["type"] == "missing":
            message = "is missing"
        yield f"{key}: {message}" if key else message


def _check(written: str | dict[str, Any]) -> str | dict[str, Any]:
    _read(written)
    return written


Otherwise = Annotated[str | dict[str, Any], AfterValidator(_check)]
"""A policy's name, or {type: NAME, …its options}; as written, once it is known to be right."""


def build(written: str | Mapping[str, Any]) -> Policy:
    """The policy that is meant."""
    kind, options = _read(written)
    return kind(options)


def not_a_tier(backend: str, backends: Iterable[str]) -> str:
    """What to say of a backend that the route does not have."""
    return f"`{backend}` is not a tier of this route; its tiers are {', '.join(backends)}"


def place_of(backend: str, tiers: Iterable[TierView]) -> int | None:
    """Where in the order of the file; None for a backend that is no tier."""
    for place, tier in enumerate(tiers):
        if tier.options.backend == backend:
            return place
    return None
