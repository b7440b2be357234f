"""The JSON Schema of recipes, made from the installed plugins, so that editors complete and check while one types."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
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
    """Make the schema of a recipe's file; what it refuses ``nasframe check`` refuses too, with better words.

    Returns:
        A JSON Schema, draft 2020-12.

    >>> sorted(recipe_schema()["$defs"])[:2]
    ['estimator', 'model']
    """
    docs = {option.name: option.doc for option in options_of(TopLevel, skip=()).values()}
    properties: dict[str, Any] = {
        field.name: {"description": docs[field.name]} | _top(field.name) for field in fields(TopLevel)
    }
    properties["extends"] = {"description": "recipes that this one builds on."} | {"anyOf": [{"type": "string"}, LIST]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nasframe recipe",
        "type": "object",
        # names that a recipe's own plugin files register cannot be known here
        "anyOf": [{"additionalProperties": False, "properties": properties}, {"required": ["plugins"]}],
        "$defs": {kind: _plugin(kind) for kind in registry.KINDS},
    }


def _top(key: str) -> dict[str, Any]:
    if key in PLUGIN_KEYS:
        # a fragment or a recipe that extends one may give options without the name, or take away what the other has
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
    entries = {}
    for name, entry in registry.factories(kind).items():
        try:
            entries[name] = entry.load()
        except NasframeError:
            continue  # a plugin that cannot be loaded has no options to offer
    reserved = {key: {"type": ["string", "object"]} for key in registry.RESERVED.get(kind, ())}
    choices = [
        _object(factory, options_of(factory), {"use": {"const": name}} | reserved, ("use",))
        for name, factory in entries.items()
    ]
    return {"anyOf": [{"enum": list(entries)}, *choices]}


def _object(
    factory: Callable[..., Any], options: Mapping[str, Option], more: Mapping[str, Any], required: Iterable[str] = ()
) -> dict[str, Any]:
    properties = {name: _option(option) for name, option in options.items()}
    found: dict[str, Any] = {"type": "object", "properties": properties | dict(more)}
    if not takes_any(factory):
        found["additionalProperties"] = False
    # an option that must be given may stand in a file that this one extends, or that extends this one
    return found | {"description": summary(factory)} | ({"required": list(required)} if required else {})


def _option(option: Option) -> dict[str, Any]:
    inner = typing.get_args(option.annotation)
    if kind := ref_kind(option.annotation):
        shapes: list[dict[str, Any]] = [{"$ref": f"#/$defs/{kind}"}, {"type": "null"}, {"const": "shared"}]
        found: dict[str, Any] = {"anyOf": shapes}
    elif inner and (kind := ref_kind(inner[0])):
        found = {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/{kind}"}, NOTHING]}}
    else:
        found = pydantic.TypeAdapter(checkable(option.annotation)).json_schema()
        found.pop("title", None)
    return found | ({"description": option.doc} if option.doc else {})


def _stage(verb: str) -> dict[str, Any]:
    function = VERBS[verb].function
    options = VERBS[verb].options
    common: dict[str, Any] = {key: {"type": "string"} for key in COMMON} | {"space": {"$ref": "#/$defs/space"}}
    if "use" not in options:
        return _verb(verb, _object(function, options, common))
    # what is not the verb's own belongs to the plugin it uses
    own = {name: option for name, option in options.items() if name != "use"}
    shapes = []
    for name, entry in registry.factories(ref_kind(options["use"].annotation)).items():
        try:
            factory = entry.load()
        except NasframeError:
            continue
        shapes.append(_object(factory, options_of(factory) | own, {"use": {"const": name}} | common, ("use",)))
    return _verb(verb, {"anyOf": shapes})


def _verb(verb: str, options: dict[str, Any]) -> dict[str, Any]:
    shape = {"anyOf": [options, {"type": "null"}]}
    return {"type": "object", "required": [verb], "additionalProperties": False, "properties": {verb: shape}}


def _repeat() -> dict[str, Any]:
    inner = {"times": {"type": "integer", "minimum": 1}, "stages": {"type": "array"}, "name": {"type": "string"}}
    group = {"type": "object", "required": ["times", "stages"], "additionalProperties": False, "properties": inner}
    return {"type": "object", "required": ["repeat"], "additionalProperties": False, "properties": {"repeat": group}}
