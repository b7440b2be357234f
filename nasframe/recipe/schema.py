"""The JSON Schema of recipes, made from the installed plugins, with which editors complete and check while you type."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import pydantic

from nasframe import registry
from nasframe.errors import NasframeError
from nasframe.options import Option, checkable, options_of, ref_kind, summary, takes_any
from nasframe.recipe.stages import COMMON
from nasframe.recipe.top_level import PLUGIN_KEYS, TopLevel
from nasframe.stages.verbs import VERBS

NOTHING = {"type": "null"}
LIST = {"type": "array", "items": {"type": "string"}}
BOUNDS = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": ["string", "number"]}, {"type": "array"}]},
}


def recipe_schema() -> dict[str, Any]:
    """Return the schema of a recipe's file.

    It is laxer than ``nasframe check``, which refuses everything that it refuses, with better messages.

    Returns:
        A JSON Schema, draft 2020-12.

    >>> sorted(recipe_schema()["$defs"])[:2]
    ['estimator', 'model']
    """
    docs = {option.name: option.doc for option in options_of(TopLevel, skip=()).values()}
    properties: dict[str, Any] = {}
    for key in fields(TopLevel):
        properties[key.name] = {"description": docs[key.name], **_top(key.name)}
    properties["extends"] = {"description": "recipes that this one builds on.", "anyOf": [{"type": "string"}, LIST]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nasframe recipe",
        "type": "object",
        # A recipe with one-file plugins passes as it is, because the names that they register are not known here.
        "anyOf": [{"additionalProperties": False, "properties": properties}, {"required": ["plugins"]}],
        "$defs": {kind: _plugin(kind) for kind in registry.KINDS},
    }


def _top(key: str) -> dict[str, Any]:
    if key in PLUGIN_KEYS:
        # A fragment, or a recipe that extends one, may give options without naming the plugin, or null to remove it.
        return {"anyOf": [{"$ref": f"#/$defs/{key}"}, {"type": "object", "not": {"required": ["use"]}}, NOTHING]}
    kinds: dict[str, dict[str, Any]] = {
        "nasframe": {"const": 1},
        "seed": {"type": "integer"},
        "plugins": LIST,
        "objectives": LIST,
        "constraints": {"anyOf": [BOUNDS, NOTHING]},
        "budgets": {"anyOf": [BOUNDS, NOTHING]},
        "estimators": {"type": "object"},
        "set": {"type": "object"},
        "switches": {"type": "object", "additionalProperties": {"type": "object"}},
        "stages": {"type": "array", "items": {"anyOf": [*map(_stage, VERBS), _repeat()]}},
    }
    return kinds.get(key, {"type": "string"})


def _plugin(kind: str) -> dict[str, Any]:
    """A plugin of a kind: its bare name, or ``use`` with its options."""
    reserved = {key: {"type": ["string", "object"]} for key in registry.RESERVED.get(kind, ())}
    names = []
    choices = []
    for name, factory in _factories(kind):
        names.append(name)
        more = {"use": {"const": name}, **reserved}
        choices.append(_object(factory, options_of(factory), more, ("use",)))
    return {"anyOf": [{"enum": names}, *choices]}


def _factories(kind: str | None) -> Iterator[tuple[str, Any]]:
    """Yield the plugins of a kind; one that cannot be loaded has no options to offer."""
    for name, entry in registry.factories(str(kind)).items():
        try:
            yield name, entry.load()
        except NasframeError:
            continue


def _object(
    factory: Callable[..., Any], options: Mapping[str, Option], more: Mapping[str, Any], required: Iterable[str] = ()
) -> dict[str, Any]:
    properties = {name: _option(option) for name, option in options.items()}
    shape: dict[str, Any] = {"type": "object", "properties": {**properties, **more}}
    if not takes_any(factory):
        shape["additionalProperties"] = False
    shape["description"] = summary(factory)
    # Not the options that the plugin requires: they may stand in a file that this one extends, or that extends it.
    if required:
        shape["required"] = list(required)
    return shape


def _option(option: Option) -> dict[str, Any]:
    kind = ref_kind(option.annotation)
    inner = typing.get_args(option.annotation)
    kind_of_items = ref_kind(inner[0]) if inner else None
    shape: dict[str, Any]
    if kind:
        shape = {"anyOf": [{"$ref": f"#/$defs/{kind}"}, NOTHING, {"const": "shared"}]}
    elif kind_of_items:
        shape = {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/{kind_of_items}"}, NOTHING]}}
    else:
        shape = pydantic.TypeAdapter(checkable(option.annotation)).json_schema()
        shape.pop("title", None)
    if option.doc:
        shape["description"] = option.doc
    return shape


def _stage(verb: str) -> dict[str, Any]:
    function, options = VERBS[verb].function, VERBS[verb].options
    common: dict[str, Any] = {key: {"type": "string"} for key in COMMON}
    common["space"] = {"$ref": "#/$defs/space"}
    if "use" not in options:
        return _verb(verb, _object(function, options, common))
    # Options that are not the verb's own belong to the plugin that it uses.
    own = {name: option for name, option in options.items() if name != "use"}
    shapes = []
    for name, factory in _factories(ref_kind(options["use"].annotation)):
        more = {"use": {"const": name}, **common}
        shapes.append(_object(factory, {**options_of(factory), **own}, more, ("use",)))
    return _verb(verb, {"anyOf": shapes})


def _verb(verb: str, options: dict[str, Any]) -> dict[str, Any]:
    shape = {"anyOf": [options, {"type": "null"}]}
    return {"type": "object", "required": [verb], "additionalProperties": False, "properties": {verb: shape}}


def _repeat() -> dict[str, Any]:
    inner = {"times": {"type": "integer", "minimum": 1}, "stages": {"type": "array"}, "name": {"type": "string"}}
    group = {"type": "object", "required": ["times", "stages"], "additionalProperties": False, "properties": inner}
    return {"type": "object", "required": ["repeat"], "additionalProperties": False, "properties": {"repeat": group}}
