"""Names for the recipes of one comparison: the options in which they differ, as few as tell them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nasframe.declarations import stages_of

SHOWN = 2
"""Options in a name, if these are enough."""


def distinct_names(name: str, recipes: Sequence[Mapping[str, Any]], alone: bool) -> list[str]:
    """Name recipes after two of the options in which they differ, or more if two names would be equal.

    Args:
        name: the name that all the recipes have.
        recipes: for each its options by dotted path, as :func:`options_of` returns them.
        alone: there are no recipes of another name, so that this one need not be shown.

    >>> distinct_names("r", [{"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 2}, {"a": 2, "b": 2, "c": 1}], True)
    ['a=1, b=1, c=1', 'a=1, b=1, c=2', 'a=2, b=2, c=1']

    If plugins differ, their own options come last, because they follow from the plugin:

    >>> grid, random = {"sampler.use": "grid", "sampler.size": 3, "lr": 1}, {"sampler.use": "random", "lr": 1}
    >>> distinct_names("r", [grid, random], True)
    ['sampler=grid, …', 'sampler=random, …']
    """
    if len(recipes) == 1:
        return [name]
    primary, dependent = _differing(recipes)
    options = [*primary, *dependent]
    # A plugin's options follow from the plugin, so they only count if the others do not tell the recipes apart.
    fewest = min(SHOWN, len(primary))
    names: list[str] = []
    # One option more at a time, until no two names are equal.
    for count in range(fewest, len(options) + 1):
        names = [_name(recipe, options, count) for recipe in recipes]
        if not alone:
            names = [f"{name} ({text})" for text in names]
        if _all_distinct(names):
            return names
    # Options may be written alike and differ all the same, as 1 and "1" do.
    return [f"{text} #{number}".strip() for number, text in enumerate(names, 1)]


def _all_distinct(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def _differing(recipes: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the options in which recipes differ, and apart from them those of plugins that differ themselves."""
    paths: dict[str, None] = {}  # of all recipes, since an option may be in some of them only
    for recipe in recipes:
        paths |= dict.fromkeys(recipe)
    differing = []
    for path in paths:
        # As text, which a name shows; and lists have no hash.
        values = {str(recipe.get(path)) for recipe in recipes}
        if len(values) > 1:
            differing.append(path)
    primary: list[str] = []
    dependent: list[str] = []
    for path in differing:
        if _is_inside_another(path, differing):
            dependent.append(path)
        else:
            primary.append(path)
    return primary, dependent


def _is_inside_another(path: str, paths: Sequence[str]) -> bool:
    """Return whether an option belongs to a plugin that another path names: ``sampler.size`` to ``sampler.use``."""
    for other in paths:
        plugin = other.removesuffix(".use")
        if other != path and path.startswith(f"{plugin}."):
            return True
    return False


def _name(recipe: Mapping[str, Any], options: Sequence[str], count: int) -> str:
    """Return a name of a number of options; an ellipsis shows that there are more."""
    # All options are passed on, since the short form of a path must not fit one that the ellipsis hides either.
    parts = [_option(path, recipe, options) for path in options[:count]]
    if len(options) > count:
        parts.append("…")
    return ", ".join(parts)


def _option(path: str, recipe: Mapping[str, Any], options: Sequence[str]) -> str:
    """Write an option with its value, by the last part of its path if no other option ends in the same.

    >>> _option("stages.search.sampler.use", {"stages.search.sampler.use": "grid"}, ["stages.search.sampler.use"])
    'sampler=grid'
    """
    shown = _last_part(path)
    last_parts = [_last_part(other) for other in options]
    if last_parts.count(shown) > 1:
        shown = _readable(path)
    if path not in recipe:
        return f"without {shown}"
    return f"{shown}={recipe[path]}"


def _readable(path: str) -> str:
    return path.removesuffix(".use").removeprefix("stages.")


def _last_part(path: str) -> str:
    return _readable(path).rpartition(".")[2]


def options_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a recipe by dotted path; stages and plugins in lists are named, not numbered.

    >>> options_of({"modifiers": [{"use": "hspg", "eps": 0}, {"use": "kd"}]})
    {'modifiers': 'hspg + kd', 'modifiers.hspg.eps': 0}
    """
    return dict(_options(recipe, ""))


def _options(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    plugins = _distinct_plugins(value)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            inner_path = f"{path}.{key}" if path else str(key)
            yield from _options(inner, inner_path)
    elif isinstance(value, list) and path == "stages":
        # By name and not by number: a stage more in front would otherwise make all options differ.
        for stage in stages_of({"stages": value}):
            yield from _options(stage.options, f"stages.{stage.name}")
    elif plugins:
        # Which plugins there are is an option of its own, so that one more shows by its name alone.
        yield path, " + ".join(plugins)
        for plugin in value:
            own = dict(plugin)
            name = own.pop("use")
            yield from _options(own, f"{path}.{name}")
    else:
        yield path, value


def _distinct_plugins(value: Any) -> list[str]:
    """Return the plugins of a list of plugins, or none if one is there twice: their options are then one value.

    >>> _distinct_plugins([{"use": "hspg"}, {"use": "kd"}]), _distinct_plugins([{"use": "kd"}, {"use": "kd"}])
    (['hspg', 'kd'], [])
    """
    if not isinstance(value, list):
        return []
    for item in value:
        if not isinstance(item, Mapping) or "use" not in item:
            return []
    names = [item["use"] for item in value]
    if not _all_distinct(names):
        return []
    return names
