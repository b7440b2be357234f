"""Search: domains, bounds, Pareto fronts, costs and the loop; numpy only, never torch."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import the loop when it is first used: reading a recipe needs bounds but not numpy."""
    if name in ("search", "SearchResult"):
        return getattr(import_module("nasframe.search.loop"), name)
    raise AttributeError(f"module 'nasframe.search' has no attribute {name!r}")
