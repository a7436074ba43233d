"""The shape of the file as JSON Schema (draft 2020-12), for editors.

Built from the same models that `load` uses, with one branch for each registered backend and policy.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from backends.base import Backend
from gateway.config.price_terms import PriceNotes, price_model
from gateway.config.schema import NAME, Document
from gateway.options import SecretRef
from gateway.registry import Registry
from policies.base import Policy

_REF = "#/$defs/"


def json_schema(backends: Registry[Backend], policies: Registry[Policy]) -> dict[str, Any]:
    """The schema of the whole file."""
    backend_options = {name: backends.get(name).Options for name in backends}
    policy_options = {name: policies.get(name).Options for name in policies}
    models: list[type[BaseModel]] = [Document, *backend_options.values(), *policy_options.values()]
    refs, schema = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], ref_template=_REF + "{model}"
    )
    shapes: dict[str, Any] = schema["$defs"]
    if SecretRef.__name__ in shapes:
        shapes[SecretRef.__name__] = _secret(shapes[SecretRef.__name__])
    for name in _price_shapes(shapes, backend_options.values()):
        shapes[name] = _like(shapes[name])
    at = {model: ref["$ref"].removeprefix(_REF) for (model, _), ref in refs.items()}
    document = shapes.pop(at[Document])
    _put_backends(document, {name: shapes[at[model]] for name, model in backend_options.items()})
    _put_policies(
        shapes["RouteDocument"], {name: shapes[at[model]] for name, model in policy_options.items()}
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **document,
        "title": "Overspill configuration",
        "$defs": _reachable(document, shapes),
    }


def _secret(shape: dict[str, Any]) -> dict[str, Any]:
    """Exactly one of the two, which the model checks with code."""
    return {
        "title": SecretRef.__name__,
        "description": shape.get("description", ""),
        "type": "object",
        "properties": {
            name: {"type": "string", "description": shape["properties"][name]["description"]}
            for name in ("env", "file")
        },
        "additionalProperties": False,
        "oneOf": [{"required": ["env"]}, {"required": ["file"]}],
    }


def _price_shapes(shapes: dict[str, Any], options: Iterable[type[BaseModel]]) -> set[str]:
    """The names of the shapes that the backends' prices have."""
    models = {model.__name__ for each in options if (model := price_model(each)) is not None}
    return {name for name in shapes if name.rpartition("__")[2] in models}


def _like(shape: dict[str, Any]) -> dict[str, Any]:
    """What the price of any backend may say, and that a line of the sheet stands for what it need not."""
    notes = PriceNotes.model_json_schema()["properties"]
    return {
        **{key: value for key, value in shape.items() if key != "required"},
        "properties": {**notes, **shape["properties"]},
        "anyOf": [{"required": ["like"]}, {"required": shape.get("required", [])}],
        "dependentRequired": {"cores": ["like"], "memory": ["like"]},
    }


def _typed(name: str, shape: dict[str, Any]) -> dict[str, Any]:
    """The options of one plugin, told apart by their `type`."""
    kind = {"const": name, "description": shape.get("description", "").partition("\n")[0]}
    required = [key for key in shape.get("required", ()) if key != "type"]
    return {
        **shape,
        "title": name,
        "type": "object",
        "properties": {"type": kind, **{k: v for k, v in shape.get("properties", {}).items() if k != "type"}},
        "required": ["type", *required],
    }


def _put_backends(document: dict[str, Any], shapes: dict[str, dict[str, Any]]) -> None:
    section = document["properties"]["backends"]
    for key in ("additionalProperties", "patternProperties"):
        section.pop(key, None)
    section["patternProperties"] = {NAME: {"oneOf": [_typed(name, shape) for name, shape in shapes.items()]}}
    section["additionalProperties"] = False
    document["properties"]["routes"]["additionalProperties"] = False


def _put_policies(route: dict[str, Any], shapes: dict[str, dict[str, Any]]) -> None:
    written = route["properties"]["policy"]
    bare = [name for name, shape in shapes.items() if not shape.get("required")]
    route["properties"]["policy"] = {
        "description": written.get("description", ""),
        "default": written.get("default"),
        "oneOf": [{"enum": bare}, *(_typed(name, shape) for name, shape in shapes.items())],
    }


def _reachable(document: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    """Only the definitions that something refers to: the plugins' own stand in their branches."""
    wanted: set[str] = set()
    left: list[Any] = [document]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            left += node.values()
            name = str(node.get("$ref", "")).removeprefix(_REF)
            if name in shapes and name not in wanted:
                wanted.add(name)
                left.append(shapes[name])
    return {name: shape for name, shape in shapes.items() if name in wanted}
