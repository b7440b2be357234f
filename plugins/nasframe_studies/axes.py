"""The axes of a study, whose product makes its arms, and how an arm's options become overrides of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nasframe.recipe.overrides import Override
from nasframe.recipe.yaml import Node

COMPARISONS = {"<=": "lte", ">=": "gte", "<": "lt", ">": "gt"}
"""How comparisons are written in names; the longer ones first, because the shorter begin them."""
NAMED_ITEMS = 4
"""Items of a list that a name may show."""


def written_out(path: str, node: Node) -> Iterator[Override]:
    """Yield one entry of an arm as overrides; below ``stages`` every stage and every option is one by itself."""
    yield from _written_out(tuple(path.split(".")), node)


def _written_out(keys: tuple[str, ...], node: Node) -> Iterator[Override]:
    # A mapping of stages must not replace the stages of the base, nor one stage's options all of its options.
    is_above_options = keys[0] == "stages" and len(keys) < 3
    if is_above_options and isinstance(node.value, dict) and node.value:
        for key, item in node.value.items():
            yield from _written_out((*keys, key), item)
    else:
        yield Override("", keys, node, node.at, merges=True)


def label(path: str, node: Node, number: int) -> str:
    """Return a name for one value of an axis.

    Args:
        path: the option that the axis varies.
        node: the value.
        number: the value's position, which names it if it is a mapping or a long list.

    >>> from nasframe.recipe.yaml import Position
    >>> label("stages.search.trials", Node(300, Position("x")), 0)
    'trials=300'
    >>> label("stages.search.sampler.use", Node("random", Position("x")), 0)
    'random'
    >>> label("stages.search.constraints.macs", Node("<= 40M", Position("x")), 0)
    'macs=lte40M'
    """
    key = path.rpartition(".")[2]
    value = node.plain()
    if isinstance(value, dict) and isinstance(value.get("use"), str):
        value = value["use"]  # a plugin with options goes by its name
    text = _value_label(value, number)
    if key == "use":  # a plugin's name speaks for itself
        return text
    return f"{key}={text}"


def _value_label(value: Any, number: int) -> str:
    items = value if isinstance(value, list) else [value]
    is_nested = any(isinstance(item, dict | list) for item in items)
    is_short = 0 < len(items) <= NAMED_ITEMS
    if is_nested or not is_short:  # written out it would be no name any more
        return str(number)
    return "+".join(map(_safe, items))


def _safe(value: Any) -> str:
    """Write a value so that it can stand in a file's name; a number's sign and comparisons stay."""
    text = str(value)
    for comparison, word in COMPARISONS.items():
        text = re.sub(rf"{comparison}\s*", word, text)
    # Without its minus a number would be another one; at the start of anything else a minus would look like an option.
    sign = "-" if re.match(r"-[\d.]", text) else ""
    return sign + re.sub(r"[^\w.+@%]+", "-", text).strip("-")
