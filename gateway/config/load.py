"""The whole way from a file to Settings; every problem of the file in one run.

The registries of backends and policies are arguments: this module knows no plugin.
"""

from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path as FilePath
from random import Random
from typing import Any, NamedTuple, TypeVar

from backends.base import Backend, BackendOptions, Kit
from gateway.auth.check import check_auth
from gateway.clock import FakeClock
from gateway.config.checks import (
    check_policies,
    check_scaling,
    check_secrets,
    check_spill_budgets,
    check_tree,
)
from gateway.config.doubts import Rented, warnings
from gateway.config.explain import found, validate
from gateway.config.price_sheet import Priced, read_sheet
from gateway.config.price_terms import PriceTerms
from gateway.config.problems import (
    FILE,
    ConfigProblems,
    Path,
    Problem,
    dotted,
    in_order,
    printable,
    quoted,
    suggestion,
    tidy,
)
from gateway.config.schema import Document, PolicyUse, PriceSource, RouteDocument, RouteOptions, Settings
from gateway.config.text import read_text as read_text  # noqa: PLC0414 - others take it from here
from gateway.config.tls import check_client_files, check_server_files
from gateway.config.tls import doubts as tls_doubts
from gateway.config.tree import NotYaml, Tree, read_tree
from gateway.errors import ConfigError
from gateway.registry import Registry
from policies.base import Policy

Plugin = TypeVar("Plugin")

_DEFAULT_POLICY = str(RouteDocument.model_fields["policy"].default)


class Loaded(NamedTuple):
    """A file that can be used, and the doubts about it."""

    settings: Settings
    warnings: list[Problem]


def load(
    source: FilePath | str,
    backends: Registry[Backend],
    policies: Registry[Policy],
    *,
    resolve_secrets: bool = True,
    name: str = "<config>",
    wall: float | None = None,
    running: bool = False,
) -> Loaded:
    """Read and check a file (a Path) or a text (a str, called `name` in problems).

    With `resolve_secrets` every secret reference must lead to a secret now. With `wall`, Unix time, prices
    that are old by then are doubted, and a certificate that has expired is a problem; where the gateway is
    `running` already it is a doubt, for it must not stand in the way of other changes. Raises ConfigProblems,
    never anything else, whatever the file holds.
    """
    file = printable(str(source) if isinstance(source, FilePath) else name)
    try:
        text = read_text(source) if isinstance(source, FilePath) else source.removeprefix("\ufeff")
        tree = read_tree(text, file)
    except NotYaml as error:
        raise ConfigProblems([Problem(file, *error.place, FILE, str(error))]) from None
    return _Reader(
        tree, backends, policies, resolve_secrets=resolve_secrets, wall=wall, running=running
    ).read()


class _Reader:
    """One file on its way from a tree to Settings."""

    def __init__(
        self,
        tree: Tree,
        backends: Registry[Backend],
        policies: Registry[Policy],
        *,
        resolve_secrets: bool,
        wall: float | None,
        running: bool,
    ) -> None:
        self._tree = tree
        self._backends = backends
        self._policies = policies
        self._resolve_secrets = resolve_secrets
        self._prices = PriceTerms(tree, _own_prices(tree), wall)
        self._wall = wall
        self._expiry = None if running else wall

    def read(self) -> Loaded:
        """Check everything, then build."""
        tree = self._tree
        if not isinstance(tree.data, dict):
            what = "is not a mapping" if not tree.problems else "cannot be used"
            tree.problem(tree.at_value(()), (), f"{what}; a configuration begins with `version: 1`")
            raise ConfigProblems(tree.problems)
        document = validate(Document, tree.data, tree, ())
        if document is not None and document.tracing is not None and self._resolve_secrets:
            check_secrets(document.tracing, tree, ("tracing",))
        if document is not None and self._resolve_secrets:
            check_server_files(document, tree, self._expiry)
        if document is not None:
            check_auth(document, tree, resolve_secrets=self._resolve_secrets)
        options = {name: self._backend(name) for name in self._section("backends")}
        uses = {name: self._policy(name) for name in self._section("routes")}
        check_tree(tree)
        owned = {name: kind.owned for name in options if (kind := self._known_kind(name)) is not None}
        check_spill_budgets(tree, options, owned)
        check_scaling(tree, owned)
        check_policies(
            tree,
            {
                name: None if use is None else self._policies.get(use.type)(use.options)
                for name, use in uses.items()
            },
        )
        if tree.problems or document is None:
            raise ConfigProblems(tree.problems)
        settings = _settings(document, options, uses, self._prices.sources)
        rented = self._rented(settings)
        doubts = [
            Problem(tree.file, *tree.at_value(path), dotted(path), tidy(doubt))
            for path, doubt in self._prices.doubts({name: said.rent for name, said in rented.items()})
        ]
        if self._resolve_secrets:
            doubts += [
                Problem(tree.file, *tree.at_value(path), dotted(path), tidy(doubt))
                for path, doubt in tls_doubts(settings, self._wall)
            ]
        return Loaded(settings, in_order([*warnings(settings, tree, owned, rented), *doubts]))

    def _section(self, name: str) -> list[str]:
        """The names in a section whose entries have the right shape; the others have been told."""
        section = self._tree.get((name,))
        entries = section.items() if isinstance(section, dict) else ()
        return [key for key, entry in entries if isinstance(entry, dict)]

    def _known_kind(self, backend: str) -> type[Backend] | None:
        kind = self._tree.get(("backends", backend, "type"))
        return self._backends.get(kind) if isinstance(kind, str) and kind in self._backends else None

    def _rented(self, settings: Settings) -> dict[str, Rented]:
        """What the rented backends say of their instances. Built as the gateway does, but for secrets."""
        kit = Kit(clock=FakeClock(), chance=Random(0), spawn=_nothing_runs)  # noqa: S311
        rented = {}
        for name, options in settings.backends.items():
            kind = self._backends.get(options.type)
            if not kind.owned:
                with suppress(ConfigError):  # it is told when the gateway is built
                    backend = kind(name, options.model_copy(update={"headers": {}}), kit)
                    rented[name] = Rented(backend.rent, backend.can_open, backend.price_known)
        return rented

    def _backend(self, name: str) -> BackendOptions | None:
        path: Path = ("backends", name)
        kind = self._kind(path, (*path, "type"), self._backends)
        if kind is None:
            return None
        section, priced = self._prices.expanded(name, kind.Options)
        options = validate(kind.Options, section, self._tree, path)
        if options is not None and self._resolve_secrets:
            check_secrets(options, self._tree, path)
            check_client_files(options, self._tree, path, self._expiry)
        return options if priced else None

    def _policy(self, route: str) -> PolicyUse | None:
        path: Path = ("routes", route, "policy")
        written = self._tree.get(path) if path in self._tree.keys else _DEFAULT_POLICY
        if isinstance(written, dict):
            kind = self._kind(path, (*path, "type"), self._policies)
            name, rest = str(written.get("type")), {key: written[key] for key in written if key != "type"}
        elif isinstance(written, str):
            kind = self._kind(path, path, self._policies, written)
            name, rest = written, {}
        else:
            return None  # the document's own validation has told it
        options = validate(kind.Options, rest, self._tree, path) if kind is not None else None
        return PolicyUse(type=name, options=options) if options is not None else None

    def _kind(
        self, path: Path, type_path: Path, registry: Registry[Plugin], name: object = None
    ) -> type[Plugin] | None:
        """The class that a `type` (or `name`) calls for, or None after telling what is wrong with it."""
        tree = self._tree
        name = tree.get(type_path) if name is None else name
        if tree.is_spoiled(type_path):
            return None
        if isinstance(name, str) and name in registry:
            return registry.get(name)
        if type_path not in tree.keys:
            place, what = tree.at_key(path), "is missing"
        elif not isinstance(name, str):
            place, what = tree.at_value(type_path), f"{found(tree, type_path)}; it must be text"
        else:
            place, what = tree.at_value(type_path), f"there is no {registry.kind} type {quoted(name)}"
            if (pointer := registry.pointer(name)) is not None:
                tree.problem(place, type_path, f"{what}: {pointer}")
                return None
        known = suggestion(name if isinstance(name, str) else "", registry, f"{registry.kind} types")
        tree.problem(place, type_path, f"{what}; {known}")
        return None


def _own_prices(tree: Tree) -> Mapping[str, Priced] | None:
    """The lines of the user's own sheet; None after telling why it cannot be read."""
    path: Path = ("prices",)
    name = tree.get(path)
    if not isinstance(name, str) or not name:
        return {}
    try:
        return read_sheet(read_text(FilePath(name)), printable(name))
    except NotYaml as error:
        tree.problem(tree.at_value(path), path, f"{quoted(name)}: {error}")
    except ConfigProblems as error:
        tree.problems += error.problems
    return None


def _nothing_runs(work: Coroutine[Any, Any, None], /, *, name: str) -> None:
    work.close()
    raise RuntimeError(f"{name}: nothing runs while a file is checked")


def _settings(
    document: Document,
    backends: dict[str, BackendOptions | None],
    policies: dict[str, PolicyUse | None],
    sources: dict[str, PriceSource],
) -> Settings:
    """Everything is checked: put the plugins' own options where the raw mappings were."""
    routes = {}
    for name, route in document.routes.items():
        fields = {key: getattr(route, key) for key in route.model_fields_set}
        routes[name] = RouteOptions.model_construct(**{**fields, "policy": policies[name]})
    # What the sheets say stands in the backends' options by now.
    fields = {key: getattr(document, key) for key in document.model_fields_set - {"prices"}}
    return Settings.model_construct(
        **{**fields, "backends": backends, "routes": routes, "price_sources": sources}
    )
