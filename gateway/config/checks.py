"""What no single model can see: names that point elsewhere, secrets in the open, limits without a price.

Problems are found in the plain data, so that they are told even when another part of the file is wrong.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from gateway.config.explain import SECRET_RULE
from gateway.config.problems import USER_IN_URL, Path, quoted, suggestion
from gateway.config.tree import Tree
from gateway.options import SecretRef
from policies.base import Policy

_SECRET_HEADERS = re.compile(
    r"authorization|proxy-authorization|cookie|.*(api[-_]?key|token|secret|password)", re.IGNORECASE
)
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_PATH_LIKE = re.compile(r"\.{0,2}/")


def check_tree(tree: Tree) -> None:
    """Problems between the sections, added to the tree."""
    _check_inline_secrets(tree)
    _check_tiers(tree)
    _check_matches(tree)
    _check_ports(tree)
    _check_hedges(tree)


def check_secrets(options: BaseModel, tree: Tree, base: Path) -> None:
    """Every reference must lead to a secret. Neither the secret nor what may be one is ever shown."""
    for path, secret in _secrets(options, base):
        try:
            secret.resolve()
        except LookupError as error:
            tree.problem(tree.at_value(path), path, _unresolved(secret, error))


def _unresolved(secret: SecretRef, error: LookupError) -> str:
    """A name is quoted only if it looks like one: people paste the secret itself here."""
    if secret.env is not None and not _ENV_NAME.fullmatch(secret.env):
        return "the environment variable named here is not set; `env` is a name like RUNPOD_API_KEY"
    if secret.file is not None and not _PATH_LIKE.match(str(secret.file)):
        return "the secret file named here cannot be read; write its path from / or from ./"
    hint = "; set it before the gateway starts" if secret.env is not None else ""
    return f"{error.args[0]}{hint}"


def _secrets(value: object, path: Path) -> Iterator[tuple[Path, SecretRef]]:
    if isinstance(value, SecretRef):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _secrets(item, (*path, index))


def _check_inline_secrets(tree: Tree) -> None:
    """Passwords inside URLs, and header values that are credentials by their name."""
    for path, raw in tree.raw.items():
        if USER_IN_URL.search(raw):
            tree.problem(
                tree.at_value(path), path, f"has credentials in a URL; {SECRET_RULE} (see `headers`)"
            )
        elif (
            len(path) >= 2
            and path[-2] == "headers"
            and isinstance(path[-1], str)
            and _SECRET_HEADERS.fullmatch(path[-1])
            and path[0] in {"backends", "tracing"}
        ):
            tree.problem(tree.at_value(path), path, SECRET_RULE)


def _mapping(tree: Tree, *path: str) -> dict[str, Any]:
    value = tree.get(path)
    return value if isinstance(value, dict) else {}


def _check_tiers(tree: Tree) -> None:
    known = _mapping(tree, "backends")
    for route, body in _mapping(tree, "routes").items():
        tiers = body.get("tiers") if isinstance(body, dict) else None
        seen: dict[str, int] = {}
        for index, tier in enumerate(tiers if isinstance(tiers, list) else ()):
            name = tier.get("backend") if isinstance(tier, dict) else None
            path: Path = ("routes", route, "tiers", index, "backend")
            if not isinstance(name, str):
                continue
            if name not in known and known:
                hint = suggestion(name, known, "backends")
                tree.problem(tree.at_value(path), path, f"no backend is called {quoted(name)}; {hint}")
            elif name in seen:
                line = tree.at_key(("routes", route, "tiers", seen[name])).line
                tree.problem(
                    tree.at_value(path),
                    path,
                    f"{quoted(name)} is already a tier here, in line {line}; keep one",
                )
            seen.setdefault(name, index)


def check_policies(tree: Tree, chosen: Mapping[str, Policy | None]) -> None:
    """What the policy of each route, None while its options are wrong, finds wrong with the route's tiers."""
    for route, policy in chosen.items():
        tiers = _mapping(tree, "routes", route).get("tiers")
        backends = [
            name
            for tier in (tiers if isinstance(tiers, list) else ())
            if isinstance(tier, dict) and isinstance(name := tier.get("backend"), str)
        ]
        if policy is not None and backends:
            for key, message in policy.problems(backends).items():
                path: Path = ("routes", route, "policy", *key)
                tree.problem(tree.at_value(path), path, message)


def _check_matches(tree: Tree) -> None:
    """The same pattern twice: the second route would never be taken."""
    seen: dict[str, list[tuple[object, str, Path]]] = {}
    for route in _mapping(tree, "routes"):
        match = _mapping(tree, "routes", route, "match")
        model, protocol = match.get("model"), match.get("protocol")
        base: Path = ("routes", route, "match", "model")
        patterns = model if isinstance(model, list) else [model]
        for index, pattern in enumerate(patterns):
            if not isinstance(pattern, str):
                continue
            path = (*base, index) if isinstance(model, list) else base
            for other_protocol, other, first in seen.get(pattern, ()):
                if protocol == other_protocol:
                    line = tree.at_value(first).line
                    where = "in this route" if other == route else f"by route {quoted(other)}"
                    tree.problem(
                        tree.at_value(path),
                        path,
                        f"{quoted(pattern)} is matched already {where}, in line {line}; keep one",
                    )
                    break
            seen.setdefault(pattern, []).append((protocol, route, path))


def _check_ports(tree: Tree) -> None:
    listen = _mapping(tree, "listen")
    seen: dict[str, str] = {}
    for port, address in listen.items():
        if isinstance(address, str) and not address.endswith(":0"):
            if address in seen:
                path: Path = ("listen", port)
                tree.problem(
                    tree.at_value(path),
                    path,
                    f"is the address of {quoted(seen[address])} too; give it its own",
                )
            seen.setdefault(address, port)


def _check_hedges(tree: Tree) -> None:
    """A hedge runs a call twice on purpose: never one of which the file says that it must not be."""
    for name, route in _mapping(tree, "routes").items():
        if isinstance(route, dict) and route.get("hedge") is not None and route.get("idempotent") is False:
            path: Path = ("routes", name, "hedge")
            line = tree.at_key(("routes", name, "idempotent")).line
            tree.problem(
                tree.at_key(path),
                path,
                f"runs calls twice, and line {line} says that they must not be (`idempotent: false`); "
                "take one of the two out",
            )


def check_scaling(tree: Tree, owned: Mapping[str, bool]) -> None:
    """Bounds are for backends that are owned: of others there are no replicas to ask for."""
    known = [name for name, is_owned in owned.items() if is_owned]
    backends = _mapping(tree, "backends")
    for name in _mapping(tree, "scaling", "replicas"):
        if name not in backends:
            what = f"there is no such backend; {suggestion(str(name), known, 'owned backends')}"
        elif owned.get(name) is False:
            what = "is a rented backend, whose provider decides how many instances there are; take it out"
        else:
            continue
        path: Path = ("scaling", "replicas", name)
        tree.problem(tree.at_key(path), path, what)


def check_spill_budgets(
    tree: Tree, options: Mapping[str, BaseModel | None], owned: Mapping[str, bool]
) -> None:
    """Limits in dollars need a price for everything they limit, and only what is rented can be limited.

    options:  of each backend by its name, None while they are wrong
    owned:    of each backend whose kind is known, whether it is paid for used or not

    A price that is not known cannot be held against a limit: counted as zero it would make the limit a
    promise that nothing keeps, and as infinite the backend would never be used. So the file is refused.
    """
    rented = {name: each for name, each in options.items() if owned.get(name) is False}
    for name, backend in _mapping(tree, "backends").items():
        if not isinstance(backend, dict) or backend.get("spill_budget") is None:
            continue
        path: Path = ("backends", name, "spill_budget")
        if owned.get(name) is False:
            _check_priced(tree, path, [name], rented)
        elif owned.get(name) is True:
            tree.problem(
                tree.at_key(path),
                path,
                "is for backends that are paid by use; an owned one costs the same however much it is used; "
                "take it out, or limit the route (`routes: {NAME: {spill_budget: …}}`)",
            )
    for name, route in _mapping(tree, "routes").items():
        tiers = route.get("tiers") if isinstance(route, dict) else None
        names = [
            tier.get("backend")
            for tier in (tiers if isinstance(tiers, list) else ())
            if isinstance(tier, dict)
        ]
        _check_priced(tree, ("routes", name, "spill_budget"), names, rented)


def _check_priced(
    tree: Tree, path: Path, names: Iterable[object], rented: Mapping[str, BaseModel | None]
) -> None:
    limits = _mapping(tree, *map(str, path))
    dollars = [key for key in ("usd_per_hour", "usd_per_day") if limits.get(key) is not None]
    for name in names:
        options = rented.get(name) if isinstance(name, str) else None
        if dollars and options is not None and getattr(options, "price", "known") is None:
            tree.problem(
                tree.at_key((*path, dollars[0])),
                (*path, dollars[0]),
                f"limits dollars, but backend {quoted(str(name))} has no price, and what is not "
                f"known cannot be counted; give `price` in backends.{name}",
            )
