"""The stages of a recipe as they are written: their verbs, their names, and ``repeat`` groups written out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from nasframe.errors import Problem
from nasframe.options import unknown_option
from nasframe.recipe.yaml import Node

REPEAT = "repeat"
"""The verb of a group of stages. Groups are written out before anything else reads the stages."""
OPTIONS_OF_REPEAT = ("times", "stages", "name")
MOST_STAGES = 1000
"""Most stages of a recipe, with those that ``repeat`` writes out: groups in groups multiply."""


def verb_of(stage: Any) -> tuple[str, dict[str, Any]]:
    """Split ``{verb: options}`` or ``"verb"`` into the two; whatever is neither becomes ``("", {})``."""
    if isinstance(stage, str):
        return stage, {}
    if isinstance(stage, Mapping) and len(stage) == 1:
        verb, options = next(iter(stage.items()))
        if not isinstance(options, Mapping):
            options = {}
        return str(verb), dict(options)
    return "", {}


def stage_names(stages: Sequence[Any]) -> list[tuple[str, bool]]:
    """Name every stage, and tell whether that name was given or only comes from its verb.

    >>> stage_names([{"train": {"save_as": "teacher"}}, {"search": {}}, {"search": {"trials": 5}}])
    [('teacher', True), ('search', False), ('search-2', False)]
    """
    # Only stages named after their verb are counted, so that naming one does not rename those after it.
    names: list[tuple[str, bool]] = []
    counts: Counter[str] = Counter()
    for stage in stages:
        verb, options = verb_of(stage)
        given_names = [options[key] for key in ("name", "save_as") if isinstance(options.get(key), str)]
        if given_names:
            names.append((given_names[0], True))
            continue
        counts[verb] += 1
        number = counts[verb]
        name = verb if number == 1 else f"{verb}-{number}"
        names.append((name, False))
    return names


def plain_stages(stages: Node | None) -> list[Any]:
    """Return the stages of a recipe without positions; none if they are not a list."""
    if stages is None or not isinstance(stages.value, list):
        return []
    return [node.plain() for node in stages.value]


def group_names(stages: Node | None) -> set[str]:
    """Return the names of the ``repeat`` groups that are not written out yet."""
    plain = plain_stages(stages)
    groups = set()
    for (name, _), stage in zip(stage_names(plain), plain, strict=True):
        verb, _ = verb_of(stage)
        if verb == REPEAT:
            groups.add(name)
    return groups


def expand(stages: list[Node], problems: list[Problem]) -> list[Node]:
    """Write ``repeat: {times: 4, stages: […]}`` out; names get the endings ``-1`` to ``-4``."""
    expanded: list[Node] = []

    def problem(node: Node, text: str) -> None:
        problems.append(Problem(str(node.at), "stages.repeat", text))

    for node in stages:
        verb, options = verb_of(node.plain())
        if verb != REPEAT:
            expanded.append(node)
            continue
        times = options.get("times")
        if not _is_count(times) or not isinstance(options.get("stages"), list):
            problem(node, f"{node.plain()!r} does not fit. Expected repeat: {{times: 4, stages: [...]}}.")
            continue
        for key in options:
            if key not in OPTIONS_OF_REPEAT:
                problem(node, unknown_option(key, OPTIONS_OF_REPEAT, "repeat"))
        # A group may hold groups, whose names then get an ending for each.
        group = expand(node.value[REPEAT].value["stages"].value, problems)
        if len(expanded) + times * len(group) > MOST_STAGES:
            problem(
                node, f"{times} times {len(group)} stages are too many. Expected at most {MOST_STAGES} in a recipe."
            )
            times = 1  # so that the stages themselves are still checked
        for number in range(1, times + 1):
            expanded += _numbered(group, number)
    return expanded


def _is_count(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a number of times; true is an int in Python, but no number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _numbered(group: Sequence[Node], number: int) -> list[Node]:
    """Copy a group for one round: names, and references to what this round saved before, get the round's number."""
    saved: set[str] = set()
    copies = []
    names = stage_names([node.plain() for node in group])
    for (name, _), node in zip(names, group, strict=True):
        verb, options = verb_of(node.plain())
        copy = node.copy()
        copies.append(copy)
        if isinstance(copy.value, str):
            copy.value = {verb: Node({}, copy.at)}
        holder = copy.value.get(verb)
        if holder is not None and holder.value is None:
            holder.value = {}
        if holder is None or not isinstance(holder.value, dict):
            continue  # not a stage, which is reported later
        # Every stage of a plan has its own name, even one that was only named after its verb.
        holder.value["name"] = Node(f"{name}-{number}", holder.at)
        start = options.get("from")
        # Other names in `from` are of networks from before the group, or of its previous round.
        if start in saved:
            holder.value["from"] = Node(f"{start}-{number}", holder.at)
        save_as = options.get("save_as")
        if isinstance(save_as, str):
            holder.value["save_as"] = Node(f"{save_as}-{number}", holder.at)
            saved.add(save_as)
    return copies
