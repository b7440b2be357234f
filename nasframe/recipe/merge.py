"""How one recipe, or a part of it, is put over another: which values of the lower one stay, and which go."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nasframe.recipe.stage_list import plain_stages, stage_names
from nasframe.recipe.yaml import Node

OF_STAGES = frozenset({"use", "name", "save_as", "from", "space"})
"""Options that stay when a stage uses another plugin: they are the stage's own."""
OF_SAMPLERS = frozenset({"use", "join"})
"""Options that stay when another sampler takes the place of one: the framework itself understands them."""
REPLACED = ("model", "teacher", "task", "space", "sampler", "trainer", "stages")
"""Keys whose switches and ``set`` go with them when a recipe that extends another replaces them."""


def kept_options(path: Sequence[str]) -> frozenset[str]:
    """Name the options at a path that stay when another plugin is used there; all others are the old plugin's own.

    >>> sorted(kept_options(("task",))), sorted(kept_options(("stages", "search", "sampler")))
    (['use'], ['join', 'use'])
    """
    if len(path) == 2 and path[0] == "stages":
        return OF_STAGES
    return OF_SAMPLERS if "sampler" in path else frozenset({"use"})


def merge(below: Node, above: Node, path: tuple[str, ...] = ()) -> Node:
    """Put one recipe, or a part of it, over another.

    Mappings merge, everything else is replaced; a mapping that names another plugin drops the old one's options.

    Args:
        below: what is extended.
        above: what extends it.
        path: where both stand in the recipe.
    """
    # `task: glue` below `task: {name: cola}` is the same plugin with one more option.
    if isinstance(below.value, str) and isinstance(above.value, dict):
        below = Node({"use": Node(below.value, below.at)}, below.at)
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    # Keys keep the order of the lower file, whose resolved recipe then differs only where values do.
    merged: dict[str, Node] = dict(below.value)
    if not path:  # the top level, which has `set` and switches
        merged = _without_replaced(below.value, above.value)
    # The old plugin's options mean nothing to the new one, or something else under the same name.
    if another_plugin(below, above, path):
        stay = kept_options(path)
        merged = {key: node for key, node in merged.items() if key in stay}
    for key, node in above.value.items():
        if key in merged:
            merged[key] = merge(merged[key], node, (*path, key))
        else:
            merged[key] = node
    return Node(merged, above.at)


def another_plugin(below: Node, above: Node, path: tuple[str, ...]) -> bool:
    """Tell whether what extends a part of a recipe puts another plugin there, or none.

    A fragment may give options without naming their plugin; what extends it then says which plugin it is.
    """
    if above.value is None:
        return True
    new = _use(above)
    old = _use(below)
    is_cost = len(path) == 2 and path[0] == "estimators"
    if old is None and is_cost:
        old = path[1]  # a cost is its own plugin unless it uses another
    if new is None or old is None:
        return False
    return bool(new != old)


def _use(node: Node) -> Any:
    """Return the name of the plugin that a part of a recipe uses, or ``None``."""
    if isinstance(node.value, str):
        return node.value
    if isinstance(node.value, dict) and "use" in node.value:
        return node.value["use"].value
    return None


def _without_replaced(below: Mapping[str, Node], above: Mapping[str, Node]) -> dict[str, Node]:
    """Drop what ``set`` and the switches of an extended recipe change in plugins and stages that are replaced."""
    kept = dict(below)
    replaced = [key for key in REPLACED if _replaces(below, above, key)]
    if not replaced:
        return kept
    # A switch such as `cola: {task.name: cola}` would set an option that the new plugin need not have.
    new_stages: set[str] = set()
    if "stages" in replaced:
        new_stages = {name for name, _ in stage_names(plain_stages(above["stages"]))}
    if "set" in kept:
        kept["set"] = _pruned(kept["set"], replaced, new_stages)
    switches = kept.get("switches")
    if switches is not None and isinstance(switches.value, dict):
        pruned = {name: _pruned(node, replaced, new_stages) for name, node in switches.value.items()}
        kept["switches"] = Node(pruned, switches.at)
    return kept


def _replaces(below: Mapping[str, Node], above: Mapping[str, Node], key: str) -> bool:
    """Tell whether a recipe puts something else in the place of a key of the one that it extends."""
    if key not in below or key not in above:
        return False
    return key == "stages" or another_plugin(below[key], above[key], (key,))


def _pruned(changes: Node, replaced: Collection[str], new_stages: Collection[str]) -> Node:
    """Return the changes of ``set`` or of a switch without those of what is replaced."""
    if not isinstance(changes.value, dict):
        return changes
    stay = {}
    for path, node in changes.value.items():
        if _still_applies(path, changes.value, replaced, new_stages):
            stay[path] = node
    return Node(stay, changes.at)


def _still_applies(
    path: str, changes: Mapping[str, Node], replaced: Collection[str], new_stages: Collection[str]
) -> bool:
    """Tell whether a change is still of something that is there."""
    key, _, rest = path.lstrip("+~").partition(".")
    if key not in replaced or not rest:
        return True
    if key == "stages":
        return rest.partition(".")[0] in new_stages
    # The changes themselves say which plugin their options are for.
    return f"{key}.use" in changes or key in changes
