"""The JSON Schema accepts every recipe in the tree and refuses what an editor should underline."""

import json
from pathlib import Path

import pytest

from nasframe import registry
from nasframe.recipe.schema import recipe_schema
from nasframe.recipe.yaml import Position, parse

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "studies")  # not recipes
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
NOTES = {"$schema", "$defs", "title", "description", "default", "minItems", "maxItems", "propertyNames"}


@pytest.fixture(scope="module")
def schema():
    registry.plugins.cache_clear()
    return recipe_schema()


def fits(value, shape, root) -> bool:
    """The keywords of JSON Schema that the schema uses; an unknown one fails the test."""
    if shape is True:
        return True
    known = shape.get("properties", {}).keys()
    checks = {
        "$ref": lambda ref: fits(value, root["$defs"][ref.removeprefix("#/$defs/")], root),
        "anyOf": lambda shapes: any(fits(value, inner, root) for inner in shapes),
        "not": lambda inner: not fits(value, inner, root),
        "const": lambda only: value == only,
        "enum": lambda words: value in words,
        "type": lambda kinds: any(is_type(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)),
        "format": lambda kind: kind == "path",
        "minimum": lambda low: not is_type(value, "number") or value >= low,
        "maximum": lambda high: not is_type(value, "number") or value <= high,
        "exclusiveMinimum": lambda low: not is_type(value, "number") or value > low,
        "exclusiveMaximum": lambda high: not is_type(value, "number") or value < high,
        "items": lambda inner: not isinstance(value, list) or all(fits(item, inner, root) for item in value),
        "required": lambda names: not isinstance(value, dict) or set(names) <= value.keys(),
        "properties": lambda inner: (
            not isinstance(value, dict)
            or all(fits(value[key], inner[key], root) for key in inner.keys() & value.keys())
        ),
        "additionalProperties": lambda inner: (
            not isinstance(value, dict)
            or all(inner is not False and fits(value[key], inner, root) for key in value.keys() - known)
        ),
    }
    return all(checks[key](content) for key, content in shape.items() if key not in NOTES)


def is_type(value, kind) -> bool:
    if kind == "null":
        return value is None
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def read(text):
    node, problems = parse(text, Position("f", 1, 1))
    assert not problems
    return node.plain()


def test_it_is_plain_json(schema):
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["$defs"]) == set(registry.KINDS)


@pytest.mark.parametrize("path", [*FILES, ROOT / "tests/data/toy.yaml"], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_of_the_tree_fits(schema, path):
    assert fits(read(path.read_text(encoding="utf-8")), schema, schema)


@pytest.mark.parametrize(
    "text",
    [
        "seed: one",
        "sede: 1",
        "nasframe: 2",
        "model: minilm-l7",
        "task: {use: glue, nmae: cola}",
        "task: {use: glue, name: colla}",
        "space: {use: width_depth, layers: 3}",
        "stages: {train: {}}",
        "stages: [{trian: {epochs: 1}}]",
        "stages: [{train: {epoch: 1}}]",
        "stages: [{train: {epochs: many}}]",
        "stages: [{train: {keep: first}}]",
        "stages: [{train: {modifiers: [{use: kd, temp: 2}]}}]",
        "stages: [{transform: {score: taylor}}]",
        "stages: [{transform: {use: rewire, rank: 3}}]",
        "stages: [{search: {sampler: {use: randm}}}]",
        "stages: [{repeat: {times: 0, stages: []}}]",
        "sampler: {use: evolution, join: 5}",
        "extends: {a: b}",
        "budgets: {params: {high: 3}}",
        "stages: [{train: {epochs: 1}, search: {}}]",
    ],
)
def test_what_check_refuses_does_not_fit(schema, text):
    assert not fits(read(text), schema, schema)


@pytest.mark.parametrize(
    "text",
    [
        "task: {path: data}",
        "sampler: {use: sandwich, inner: {use: random}, join: layer}",
        "extends: [a.yaml, b]",
        "stages: [{transform: {use: rewire, score: taylor, name: x, from: teacher, save_as: y}}]",
        "stages: [{extract: }]",
        "stages: [{search: {sampler: shared, budgets: {params: [50%, 1e6]}}}]",
        "stages: [{repeat: {times: 2, stages: []}}]",
        "switches: {smoke: {stages.a.b: 1}}",
        "estimators: {latency: {threads: 1}}",
    ],
)
def test_what_check_allows_fits(schema, text):
    assert fits(read(text), schema, schema)


def test_options_carry_their_meaning(schema):
    kd = next(
        shape
        for shape in schema["$defs"]["modifier"]["anyOf"]
        if shape.get("properties", {}).get("use") == {"const": "kd"}
    )
    assert kd["properties"]["temperature"]["type"] == "number"
    assert kd["properties"]["temperature"]["description"]
    assert kd["additionalProperties"] is False
