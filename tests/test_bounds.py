"""Bounds: every number that a recipe or a command takes has them, whoever's option it is."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import pytest
import typer
from annotated_types import Ge, Le, Predicate

from nasframe import registry
from nasframe.cli import app
from nasframe.errors import UsageError
from nasframe.options import number_bounds, options_of, plain_default, validate
from nasframe.recipe.top_level import TopLevel
from nasframe.records import Count, Share, ShareText
from nasframe.stages.verbs import POSITIONAL, VERBS


def numbers_without_bounds(annotation: Any, marks: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yield the numeric types inside a type that lack a lower or an upper bound."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        if not any(isinstance(mark, Predicate) for mark in inner[1:]):
            yield from numbers_without_bounds(inner[0], inner[1:])
    elif annotation in (int, float):
        bounds = number_bounds(marks)
        low, high = {bounds.least, bounds.above}, {bounds.most, bounds.below}
        if low == {None} or high == {None}:
            yield annotation
    elif origin is not Literal:
        for part in inner:
            yield from numbers_without_bounds(part)


def factories() -> Iterator[tuple[str, Callable[..., Any], int]]:
    for kind in registry.KINDS:
        for name, entry in registry.factories(kind).items():
            if not entry.source.file:  # other tests of this process may have loaded plugins of their own
                yield f"{kind} {name}", entry.load(), 0
    for verb, entry in VERBS.items():
        yield f"stage {verb}", entry.function, POSITIONAL
    yield "recipe", TopLevel, 0


def test_every_numeric_option_of_plugins_and_verbs_has_bounds():
    lacking = [
        f"{owner}.{option.name}: {option.annotation}"
        for owner, factory, positional in factories()
        for option in options_of(factory, positional=positional).values()
        if list(numbers_without_bounds(option.annotation))
    ]
    assert lacking == []


def test_every_default_is_within_its_bounds():
    for owner, factory, positional in factories():
        options = options_of(factory, positional=positional).values()
        defaults = {option.name: plain_default(option) for option in options if not option.required}
        given = {name: value for name, value in defaults.items() if value is not None}
        wrong = [fault for fault in validate(given, factory, positional=positional)[1] if fault[0][0] in given]
        assert wrong == [], owner


@pytest.mark.parametrize(
    ("annotation", "lacks"),
    [
        (int, True), (float | None, True), (list[int], True), (dict[str, float], True), (Annotated[int, Ge(1)], True),
        (Annotated[float, Le(1)], True), (int | Count, True), (Count, False), (list[Share] | None, False),
        (Annotated[Count, Ge(2)], False), (ShareText, False), (Literal[8] | None, False), (bool, False), (Any, False),
    ],
)  # fmt: skip
def test_the_walk_sees_numbers_wherever_they_stand(annotation, lacks):
    assert bool(list(numbers_without_bounds(annotation))) == lacks


def commands(group: typer.Typer) -> Iterator[Callable[..., Any]]:
    yield from (info.callback for info in group.registered_commands if info.callback)
    if group.registered_callback is not None and group.registered_callback.callback:
        yield group.registered_callback.callback
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from commands(inner.typer_instance)


def test_every_numeric_option_of_the_command_line_has_bounds():
    lacking = []
    numeric = 0
    for command in commands(app):
        for name, annotation in typing.get_type_hints(command, include_extras=True).items():
            if typing.get_origin(annotation) is not Annotated:
                continue
            kind, described = typing.get_args(annotation)[:2]
            if {int, float} & {kind, *typing.get_args(kind)}:
                numeric += 1
                if described.min is None or described.max is None:
                    lacking.append(f"{command.__module__}.{command.__name__} {name}")
    assert lacking == []
    assert numeric > 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0, -1, 1e300])
def test_numbers_that_mean_nothing_are_refused_in_python_too(value):
    with pytest.raises(UsageError, match="temperature"):
        registry.make("modifier", "kd", temperature=value)


def test_a_plugin_without_bounds_still_works():
    def third(rate: float = float("inf"), count: int = 3, share: float | str = "5%") -> tuple[Any, ...]:
        return rate, count, share

    assert validate({"rate": -2.5, "count": -(10**12), "share": "x"}, third)[1] == []
    assert [at for at, _ in validate({"rate": float("inf")}, third)[1]] == [("rate",)]
