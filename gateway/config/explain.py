"""What a validation error means to the person who wrote the file.

Takes pydantic's errors and gives Problems: the place in the file, the path in the file's own words, what
stands there and what would be right. Values are quoted only where they cannot be secrets.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.problems import Path, quoted, suggestion
from gateway.config.schema import NAME
from gateway.config.tree import ABSENT, Tree, step
from gateway.options import SecretRef

Model = TypeVar("Model", bound=BaseModel)
JsonSchema = Mapping[str, Any]

SECRET_RULE = "a secret is never written in this file; write {env: NAME} or {file: PATH} instead"  # noqa: S105

_SENSITIVE = re.compile(r"key|secret|token|passw|credential|auth|cookie", re.IGNORECASE)
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "url_type": "a URL",
}
_BOUNDS = {
    "greater_than": ("gt", "must be greater than {}"),
    "greater_than_equal": ("ge", "must be at least {}"),
    "less_than": ("lt", "must be less than {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "too_short": ("min_length", "must hold at least {}"),
    "too_long": ("max_length", "must hold at most {}"),
    "string_too_short": ("min_length", "must have at least {} characters"),
    "string_too_long": ("max_length", "must have at most {} characters"),
}


class _Found(NamedTuple):
    """One pydantic error, located in the file."""

    path: Path
    error: ErrorDetails
    missing: str | None
    is_key: bool


def validate(model: type[Model], data: object, tree: Tree, base: Path) -> Model | None:
    """`data`, which stands at `base`, as a `model`; None when it has problems (the tree has them then).

    Strict, and by the rules for JSON: text becomes a path or a duration, but never a number, and `on`
    never becomes 1.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        _Explainer(tree, base, data, _shape(model)).explain(error)
        return None


@cache
def _shape(model: type[BaseModel]) -> JsonSchema:
    """Built once: it takes longer than everything else about a problem, and several sections can be wrong."""
    return model.model_json_schema()


def is_sensitive(path: Path) -> bool:
    """True where a value may be a secret, going by the names of its keys."""
    below = path[1:] if path[:1] == ("auth",) else path  # a section of its own, of which little is secret
    return any(isinstance(part, str) and _SENSITIVE.search(part) for part in below)


def found(tree: Tree, path: Path) -> str:
    """What stands at `path`, in words; never the value where it may be a secret."""
    value = tree.get(path)
    if value is None:
        return "is empty"
    if isinstance(value, dict):
        return "is a mapping"
    if isinstance(value, list):
        return "is a list"
    if is_sensitive(path) or path[-1:] == ("headers",):
        return "is a single value"
    raw = quoted(tree.raw.get(path, str(value)))
    if isinstance(value, bool):
        return f"is {raw}, which YAML reads as {str(value).lower()}"
    return f"is the text {raw}" if isinstance(value, str) else f"is the number {raw}"


class _Explainer:
    """The errors of one validation."""

    def __init__(self, tree: Tree, base: Path, data: object, schema: JsonSchema) -> None:
        self._tree = tree
        self._base = base
        self._data = data
        self._schema = schema

    def explain(self, error: ValidationError) -> None:
        """Add the problems of `error` to the tree."""
        unions: dict[Path, dict[str, list[_Found]]] = {}
        secrets: list[Path] = []
        for details in error.errors(include_url=False, include_input=False):
            located, site, branch = self._locate(details)
            if self._tree.is_spoiled(located.path):
                continue
            if secret := self._secret_around(located.path):
                self._say(secret, self._wrong_reference(secret))
                secrets.append(secret)
            elif site is None:
                self._tell(located)
            else:
                unions.setdefault(site, {}).setdefault(branch, []).append(located)
        for site, branches in unions.items():
            # The shape that was meant is the one in which the secret stands, and that has been told.
            if not any(secret[: len(site)] == site for secret in secrets):
                self._tell_union(site, branches)

    def _wrong_reference(self, path: Path) -> str:
        """Nothing of what stands here is repeated, keys included: any of it may be the secret."""
        value = self._tree.get(path)
        is_reference = isinstance(value, dict) and value.keys() <= {"env", "file"}
        return "give exactly one of {env: NAME} and {file: PATH}" if is_reference else SECRET_RULE

    def _locate(self, details: ErrorDetails) -> tuple[_Found, Path | None, str]:
        """Where in the file it is. What pydantic adds to the path of its own names a branch of a union."""
        path = self._base
        here: object = self._data
        site: Path | None = None
        branch, missing, is_key = "", None, False
        location = details["loc"]
        for index, part in enumerate(location):
            inside = step(here, part)
            if inside is not ABSENT:
                path, here = (*path, part), inside
            elif index == len(location) - 1 and details["type"] == "missing":
                missing = str(part)
            elif part == "[key]":
                is_key = True
            elif site is None:
                site, branch = path, str(part)
        return _Found(path, details, missing, is_key), site, branch

    def _tell(self, item: _Found) -> None:
        kind, path = item.error["type"], item.path
        if item.missing is not None:
            absent = (*path, item.missing)
            purpose = self._description(absent)
            self._tree.problem(
                self._tree.at_key(path), absent, f"is missing: {purpose}" if purpose else "is missing"
            )
        elif kind == "extra_forbidden":
            self._tell_unknown_key(path)
        elif item.is_key:
            is_name = item.error.get("ctx", {}).get("pattern") == NAME
            rule = "; use letters, digits, `_`, `-` and `.`, at most 64" if is_name else ""
            self._tree.problem(self._tree.at_key(path), path, f"is not a usable name here{rule}")
        else:
            self._say(path, self._wrong(item))

    def _say(self, path: Path, message: str) -> None:
        self._tree.problem(self._tree.at_value(path), path, message)

    def _tell_unknown_key(self, path: Path) -> None:
        key = str(path[-1])
        known = {name for node in self._nodes(path[:-1]) for name in node.get("properties", ())}
        message = f"{quoted(key)} is not a key here; {suggestion(key, known, 'keys')}"
        self._tree.problem(self._tree.at_key(path), path, message)

    def _wrong(self, item: _Found) -> str:
        """What is wrong with the value at a place, and what would be right."""
        kind, path, context = item.error["type"], item.path, item.error.get("ctx", {})
        if kind in ("value_error", "assertion_error"):
            if is_sensitive(path):
                return f"cannot be used; {self._description(path) or 'see `overspill schema`'}"
            return str(context.get("error", item.error["msg"]))
        if kind in _BOUNDS:
            name, text = _BOUNDS[kind]
            return text.format(f"{context.get(name):g}")
        if kind == "string_pattern_mismatch":
            return f"{found(self._tree, path)}; it must match {context.get('pattern')}"
        if expected := self._expected(item):
            return f"{found(self._tree, path)}; it must be {expected}{self._hint(item)}"
        return item.error["msg"].replace("Input should", "must").replace("Value error, ", "")

    def _expected(self, item: _Found) -> str:
        kind, context = item.error["type"], item.error.get("ctx", {})
        if kind in ("literal_error", "enum"):
            return str(context.get("expected", "")).replace("'", "`").replace("False", "`false`")
        expected = _EXPECTED.get(kind, "")
        if expected == "a mapping" and (shape := self._shape(item.path)):
            return f"a mapping like {shape}"
        return expected

    def _shape(self, path: Path) -> str:
        """`{queue: …, then: …}` of what belongs here, if that is short."""
        for node in self._nodes(path):
            keys = list(node.get("properties", ()))
            if 0 < len(keys) <= 4:
                return "{" + ", ".join(f"{key}: …" for key in keys) + "}"
        return ""

    def _hint(self, item: _Found) -> str:
        kind, path, value = item.error["type"], item.path, self._tree.get(item.path)
        plain = path in self._tree.plain
        if kind == "string_type" and isinstance(value, bool | int | float):
            return "; put it in quotes"
        if path and path[-1] == "max_in_flight" and value == "auto":
            return "; `auto` is not for this kind of backend (triton has it): write a number"
        if kind in ("int_type", "float_type") and isinstance(value, str):
            if not plain and re.fullmatch(r"[-+]?[0-9.]+", value):
                return "; leave the quotes out"
            if plain and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?[eE][0-9-]+", value):
                return "; YAML wants a point and a sign, like 1.0e-4"
        return ""

    def _tell_union(self, site: Path, branches: Mapping[str, list[_Found]]) -> None:
        """Several shapes were possible and none fitted: speak of the one that was meant, or of all."""
        meant = [
            items for items in branches.values() if not any(self._is_mismatch(item, site) for item in items)
        ]
        if meant:
            for item in min(meant, key=len):
                self._tell(item)
            return
        everything = [item for items in branches.values() for item in items]
        shapes = [
            self._expected(item) or "{env: NAME} or {file: PATH}"
            for item in everything
            if self._is_mismatch(item, site)
        ]
        hints = {hint for item in everything if (hint := self._hint(item))}
        expected = ", or ".join(dict.fromkeys(shapes))
        self._say(site, f"{found(self._tree, site)}; it must be {expected}{''.join(sorted(hints)[:1])}")

    def _is_mismatch(self, item: _Found, site: Path) -> bool:
        """The value is of another kind than this branch: not a mistake inside it."""
        kind = item.error["type"]
        if item.path != site or item.missing is not None:
            return False
        is_reference = kind == "value_error" and not isinstance(self._tree.get(site), dict)
        return kind in _EXPECTED or kind in ("literal_error", "enum") or is_reference

    def _secret_around(self, path: Path) -> Path | None:
        """The nearest place around `path` where nothing but a secret reference may stand."""
        for length in range(len(self._base), len(path) + 1):
            nodes = self._nodes(path[:length])
            titles = [node.get("title") for node in nodes if node.get("type") != "null"]
            if titles and all(title == SecretRef.__name__ for title in titles):
                return path[:length]
        return None

    def _description(self, path: Path) -> str:
        relative = path[len(self._base) :]
        parents = self._nodes(path[:-1]) if relative else []
        for node in parents:
            described = node.get("properties", {}).get(path[-1], {}).get("description", "")
            if described:
                return " ".join(str(described).split())
        return ""

    def _nodes(self, path: Path) -> list[JsonSchema]:
        """The schemas that apply at `path`: one for each shape that may stand there."""
        nodes = list(self._resolved(self._schema))
        for part in path[len(self._base) :]:
            below = [step for node in nodes for step in _below(node, part)]
            nodes = [found for step in below for found in self._resolved(step)]
        return nodes

    def _resolved(self, node: JsonSchema) -> Iterator[JsonSchema]:
        if "$ref" in node:
            yield from self._resolved(self._schema["$defs"][node["$ref"].rpartition("/")[2]])
        elif choices := node.get("anyOf") or node.get("oneOf") or node.get("allOf"):
            for choice in choices:
                yield from self._resolved(choice)
        else:
            yield node


def _below(node: JsonSchema, part: str | int) -> Iterator[JsonSchema]:
    if isinstance(part, int):
        steps = [node.get("items")]
    elif part in node.get("properties", {}):
        steps = [node["properties"][part]]
    else:
        steps = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
    yield from (step for step in steps if isinstance(step, Mapping))
