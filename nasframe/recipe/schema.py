"""The JSON Schema of recipes, made from the installed plugins, with which editors complete and check while you type."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pydantic

from nasframe import registry
from nasframe.errors import NasframeError
from nasframe.options import Option, checkable, options_of, ref_kind, summary, takes_any
from nasframe.recipe.loading import FORMAT
from nasframe.recipe.stage_list import REPEAT
from nasframe.recipe.stages import common_options
from nasframe.recipe.top_level import PLUGIN_KEYS, TopLevel
from nasframe.stages.verbs import VERBS

Shape = dict[str, Any]
"""A JSON Schema, or a part of one."""

NOTHING: Shape = {"type": "null"}
TEXTS: Shape = {"type": "array", "items": {"type": "string"}}
BOUND: Shape = {"anyOf": [{"type": ["string", "number"]}, {"type": "array"}]}
BOUNDS: Shape = {"type": "object", "additionalProperties": BOUND}
JOINT: Shape = {"type": "array", "items": {"type": "object", "additionalProperties": {"type": ["string", "number"]}}}


def recipe_schema() -> Shape:
    """Return the schema of a recipe's file.

    It is laxer than ``nasframe check``, which refuses everything that it refuses, with better messages.

    Returns:
        A JSON Schema, draft 2020-12.

    >>> sorted(recipe_schema()["$defs"])[:2]
    ['estimator', 'evaluator']
    """
    properties: Shape = {}
    for name, option in options_of(TopLevel, skip=()).items():
        properties[name] = {"description": option.doc, **_top_level(name)}
    properties["extends"] = {"description": "recipes that this one builds on.", **_any_of({"type": "string"}, TEXTS)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nasframe recipe",
        "type": "object",
        # A recipe with one-file plugins passes as it is, because the names that they register are not known here.
        "anyOf": [{"additionalProperties": False, "properties": properties}, {"required": ["plugins"]}],
        "$defs": {kind: _plugin(kind) for kind in registry.KINDS},
    }


def _any_of(*shapes: Shape) -> Shape:
    return {"anyOf": list(shapes)}


def _reference(kind: str) -> Shape:
    """Return the shape of a plugin of a kind, which the schema describes once."""
    return {"$ref": f"#/$defs/{kind}"}


def _closed_object(properties: Shape, required: Sequence[str]) -> Shape:
    """Return the shape of a mapping that has no other keys than these."""
    return {
        "type": "object",
        "required": list(required),
        "additionalProperties": False,
        "properties": properties,
    }


def _top_level(key: str) -> Shape:
    if key in PLUGIN_KEYS:
        # A fragment, or a recipe that extends one, may give options without naming the plugin, or null to remove it.
        options_alone = {"type": "object", "not": {"required": ["use"]}}
        return _any_of(_reference(PLUGIN_KEYS[key]), options_alone, NOTHING)
    if key == "stages":
        stages = [_stage(verb) for verb in VERBS]
        return {"type": "array", "items": _any_of(*stages, _repeat())}
    shapes: dict[str, Shape] = {
        "nasframe": {"const": FORMAT},
        "seed": {"type": "integer"},
        "plugins": TEXTS,
        "objectives": TEXTS,
        "observers": {"type": "array", "items": _any_of(_reference("observer"), NOTHING)},
        "constraints": _any_of(BOUNDS, NOTHING),
        "budgets": _any_of(BOUNDS, JOINT, NOTHING),
        "estimators": {"type": "object"},
        "set": {"type": "object"},
        "switches": {"type": "object", "additionalProperties": {"type": "object"}},
    }
    return shapes.get(key, {"type": "string"})


def _plugin(kind: str) -> Shape:
    """Return the shape of a plugin of a kind: its bare name, or ``use`` with its options."""
    reserved: Shape = {key: {"type": ["string", "object"]} for key in registry.RESERVED.get(kind, ())}
    names = []
    choices = []
    for name, factory in _factories(kind):
        names.append(name)
        choices.append(_use(name, factory, options_of(factory), reserved))
    return _any_of({"enum": names}, *choices)


def _factories(kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the plugins of a kind; one that cannot be loaded has no options to offer."""
    for name, entry in registry.factories(kind).items():
        try:
            yield name, entry.load()
        except NasframeError:
            continue


def _use(name: str, factory: Callable[..., Any], options: Mapping[str, Option], more: Shape) -> Shape:
    """Return the shape of ``use: name`` with options."""
    shape = _options(factory, options, {"use": {"const": name}, **more})
    # Not the options that the plugin requires: they may stand in a file that this one extends, or that extends it.
    shape["required"] = ["use"]
    return shape


def _options(factory: Callable[..., Any], options: Mapping[str, Option], more: Shape) -> Shape:
    """Return the shape of options, and of more keys that stand beside them."""
    properties = {name: _option(option) for name, option in options.items()}
    shape: Shape = {"type": "object", "properties": properties | more}
    if not takes_any(factory):
        shape["additionalProperties"] = False
    shape["description"] = summary(factory)
    return shape


def _option(option: Option) -> Shape:
    kind = ref_kind(option.annotation)
    arguments = typing.get_args(option.annotation)
    kind_of_items = ref_kind(arguments[0]) if arguments else None
    shape: Shape
    if kind:
        shape = _any_of(_reference(kind), NOTHING, {"const": "shared"})
    elif kind_of_items:
        shape = {"type": "array", "items": _any_of(_reference(kind_of_items), NOTHING)}
    else:
        shape = pydantic.TypeAdapter(checkable(option.annotation)).json_schema()
        shape.pop("title", None)
    if option.doc:
        shape["description"] = option.doc
    return shape


def _stage(verb: str) -> Shape:
    """Return the shape of a stage: its verb, with options or none."""
    function = VERBS[verb].function
    options = VERBS[verb].options
    common: Shape = {key: {"type": "string"} for key in common_options(verb)}
    common["space"] = _any_of(_reference("space"), NOTHING)  # null: the network as it was loaded
    if "task" in common:
        common["task"] = _any_of(_reference("task"), NOTHING)
    if "use" not in options:
        shape = _options(function, options, common)
    else:
        kind = ref_kind(options.pop("use").annotation)
        # Options that are not the verb's own belong to the plugin that it uses.
        shapes = [_use(name, factory, options_of(factory) | options, common) for name, factory in _factories(kind)]
        shape = _any_of(*shapes)
    return _closed_object({verb: _any_of(shape, NOTHING)}, required=[verb])


def _repeat() -> Shape:
    """Return the shape of a group of stages."""
    times = {"type": "integer", "minimum": 1}
    properties = {"times": times, "stages": {"type": "array"}, "name": {"type": "string"}}
    group = _closed_object(properties, required=["times", "stages"])
    return _closed_object({REPEAT: group}, required=[REPEAT])
