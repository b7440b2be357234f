"""Grouping of pairs, such as the values of each arm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def distinct_by(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """Group values by their keys, each value of a key once; both are in the order in which they come.

    >>> distinct_by([("a", 1), ("b", 1), ("a", 2), ("a", 1)])
    {'a': [1, 2], 'b': [1]}
    """
    groups: dict[Key, dict[Value, None]] = {}  # mappings to nothing, as sets have no order
    for key, value in pairs:
        groups.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in groups.items()}
