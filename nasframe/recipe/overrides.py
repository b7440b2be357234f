"""Overrides from the command line, switches, and the names of stages that both go by.

Overrides follow one grammar:

==================================  =====================================================================
``task.path=data/SST-2``            set an option, written in the recipe or not; the value is YAML
``stages.search.trials=5``          a stage goes by its ``name``, else its ``save_as``, else its verb
``stages.train.modifiers.0.weight=1``  list items go by their number
``+stages.train.modifiers.1=kd``    add what is not there yet (setting what is there is refused)
``~task.limit``                     take away
``smoke=true``                      turn on one of the recipe's ``switches``, which are overrides by name
==================================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasframe.errors import Problem, listing, suggestion
from nasframe.recipe.yaml import Node, Position, parse

OF_STAGES = frozenset({"use", "name", "save_as", "from", "space"})
"""Options that stay when a stage uses another plugin: they are the stage's own."""
OF_SAMPLERS = frozenset({"use", "join"})
"""Options that stay when another sampler takes the place of one: the framework itself understands them."""
REPLACED = ("model", "task", "space", "sampler", "trainer", "stages")
"""Keys whose switches and ``set`` go with them when a recipe that extends another replaces them."""


def kept_options(path: Sequence[str]) -> frozenset[str]:
    """Name the options at a path that stay when another plugin is used there; all others are the old plugin's own.

    >>> sorted(kept_options(("task",))), sorted(kept_options(("stages", "search", "sampler")))
    (['use'], ['join', 'use'])
    """
    if len(path) == 2 and path[0] == "stages":
        return OF_STAGES
    return OF_SAMPLERS if "sampler" in path else frozenset({"use"})


def stage_names(stages: Sequence[Any]) -> list[tuple[str, bool]]:
    """Name every stage, and tell whether that name was given or only comes from its verb.

    >>> stage_names([{"train": {"save_as": "teacher"}}, {"search": {}}, {"search": {"trials": 5}}])
    [('teacher', True), ('search', False), ('search-2', False)]
    """
    found: list[tuple[str, bool]] = []
    counts: dict[str, int] = {}
    for stage in stages:
        verb, options = verb_of(stage)
        given = next((options[key] for key in ("name", "save_as") if isinstance(options.get(key), str)), None)
        if given is None:
            counts[verb] = counts.get(verb, 0) + 1
            found.append((verb if counts[verb] == 1 else f"{verb}-{counts[verb]}", False))
        else:
            found.append((given, True))
    return found


def verb_of(stage: Any) -> tuple[str, dict[str, Any]]:
    """Split ``{verb: options}`` or ``"verb"`` into the two; whatever is neither becomes ``("", {})``."""
    if isinstance(stage, str):
        return stage, {}
    if isinstance(stage, Mapping) and len(stage) == 1:
        verb, options = next(iter(stage.items()))
        return str(verb), dict(options) if isinstance(options, Mapping) else {}
    return "", {}


MOST_STAGES = 1000
"""Stages of a recipe, with those that ``repeat`` writes out."""
MOST_KEYS = 50
"""Keys of an override's path."""


def _expand(stages: list[Node], problems: list[Problem]) -> list[Node]:
    """Write ``repeat: {times: 4, stages: […]}`` out, names with the endings ``-1`` to ``-4``."""
    found: list[Node] = []
    for node in stages:
        verb, options = verb_of(node.plain())
        if verb != "repeat":
            found.append(node)
            continue
        times, inner = options.get("times"), options.get("stages")
        if not isinstance(times, int) or isinstance(times, bool) or times < 1 or not isinstance(inner, list):
            text = f"{node.plain()!r} does not fit. Expected repeat: {{times: 4, stages: [...]}}."
            problems.append(Problem(str(node.at), "stages.repeat", text))
            continue
        if extra := options.keys() - {"times", "stages", "name"}:
            text = f"unknown option {listing(extra)}. Options: name, stages, times."
            problems.append(Problem(str(node.at), "stages.repeat", text))
        group = _expand(node.value["repeat"].value["stages"].value, problems)
        if len(found) + times * len(group) > MOST_STAGES:
            text = f"{times} times {len(group)} stages are too many. Expected at most {MOST_STAGES} in a recipe."
            problems.append(Problem(str(node.at), "stages.repeat", text))
            times = 1
        for number in range(1, times + 1):
            found += _numbered(group, number)
    return found


def _numbered(group: Sequence[Node], number: int) -> list[Node]:
    """Copy a group; names, saved names and references to what this round saved before get the round's number."""
    saved: set[str] = set()
    found = []
    for (name, _), node in zip(stage_names([n.plain() for n in group]), group, strict=True):
        verb, options = verb_of(node.plain())
        copy = node.copy()
        if isinstance(copy.value, str):
            copy.value = {verb: Node({}, copy.at)}
        inner = copy.value.get(verb)
        if inner is not None and isinstance(inner.value or {}, dict):
            inner.value = inner.value or {}
            inner.value["name"] = Node(f"{name}-{number}", inner.at)
            if options.get("from") in saved:
                inner.value["from"] = Node(f"{options['from']}-{number}", inner.at)
            if isinstance(options.get("save_as"), str):
                inner.value["save_as"] = Node(f"{options['save_as']}-{number}", inner.at)
                saved.add(options["save_as"])
        found.append(copy)
    return found


SIGNS = ("+", "~")
APPLIED = ("extends", "set", "switches")
"""Keys that are applied before any override, so that an override of them would change nothing."""


@dataclass(frozen=True)
class Override:
    """One change of a recipe.

    Args:
        sign: ``+`` adds, ``~`` takes away, nothing sets.
        keys: the path.
        value: what to set.
        at: where it was written.
        merges: a mapping is put over the one that is there, as a recipe over one that it extends.
    """

    sign: str
    keys: tuple[str, ...]
    value: Node
    at: Position
    merges: bool = False


class _Refused(Exception):
    """An override that cannot be applied."""


def change(root: Node, overrides: Sequence[str | Override], problems: list[Problem]) -> None:
    """Apply ``set``, switches, overrides; those on a ``repeat`` group before it is written out, the rest after."""
    given = [read_override(item, problems) if isinstance(item, str) else item for item in overrides]
    parsed = [item for item in given if item]
    switches = root.value.get("switches")
    known = switches.value if switches is not None and isinstance(switches.value, dict) else {}
    fixed = root.value.pop("set", None)
    changes = _listed("set", fixed, problems) if fixed is not None else []

    def is_switch(item: Override) -> bool:
        return item.sign == "" and len(item.keys) == 1 and item.keys[0] in known

    turned = [item for item in parsed if is_switch(item)]
    last = {item.keys[0]: number for number, item in enumerate(turned)}  # of one said twice the last counts
    for number, item in enumerate(turned):
        if last[item.keys[0]] == number:
            changes += _switch(item, known[item.keys[0]], problems)
    for item in parsed:
        if item.keys[0] in APPLIED:
            text = f"{item.keys[0]!r} is applied before any override. Expected an override of what it would change."
            problems.append(Problem(str(item.at), ".".join(item.keys), text))
        elif not is_switch(item):
            changes.append(item)
    stages = root.value.get("stages")
    groups = {name for name, _ in _names(stages) if name.split("-")[0] == "repeat"} | _given_groups(stages)
    early = [item for item in changes if item.keys[0] == "stages" and len(item.keys) > 1 and item.keys[1] in groups]
    for item in early:
        _apply(root, item, problems)
    if stages is not None and isinstance(stages.value, list):
        stages.value = _expand(stages.value, problems)
    for item in changes:
        if item not in early:
            _apply(root, item, problems)


def _given_groups(stages: Node | None) -> set[str]:
    pairs = [verb_of(node.plain()) for node in stages.value] if stages and isinstance(stages.value, list) else []
    return {str(options["name"]) for verb, options in pairs if verb == "repeat" and "name" in options}


def read_override(text: str, problems: list[Problem]) -> Override | None:
    """Read ``key=value``, ``+key=value`` or ``~key``; ``None`` where it is none, with the problem noted."""
    at = Position(f"override {text!r}")
    sign = text[:1] if text[:1] in SIGNS else ""
    key, equals, value = text[len(sign) :].partition("=")
    keys = tuple(key.split("."))
    if not all(keys) or (sign == "~") == bool(equals) or len(keys) > MOST_KEYS:
        problems.append(Problem(str(at), "", "not an override. Expected key=value, +key=value or ~key."))
        return None
    node, found = parse(value, at)
    problems += found
    return None if node is None else Override(sign, keys, node, at)


def _switch(item: Override, changes: Node, problems: list[Problem]) -> list[Override]:
    name = item.keys[0]
    if not isinstance(item.value.value, bool):
        problems.append(Problem(str(item.at), name, f"{item.value.plain()!r} does not fit. Expected true or false."))
    if item.value.value is not True:
        return []
    return _listed(f"switches.{name}", changes, problems)


def _listed(path: str, changes: Node, problems: list[Problem]) -> list[Override]:
    if not isinstance(changes.value, dict):
        problems.append(Problem(str(changes.at), path, "is not a mapping. Expected dotted.path: value."))
        return []
    pairs = [(key[:1] if key[:1] in SIGNS else "", key, value) for key, value in changes.value.items()]
    return [Override(sign, tuple(key[len(sign) :].split(".")), value, value.at) for sign, key, value in pairs]


def _apply(root: Node, item: Override, problems: list[Problem]) -> None:
    try:
        holder = root
        for depth, key in enumerate(item.keys[:-1]):
            holder = _step(holder, key, item.keys[:depth], item)
        _assign(holder, item)
    except _Refused as error:
        problems.append(Problem(str(item.at), ".".join(item.keys), str(error)))


def _step(holder: Node, key: str, before: tuple[str, ...], item: Override) -> Node:
    """Go one key down; what is missing becomes an empty mapping, unless something is to be taken away."""
    _open(holder, before, item)
    if isinstance(holder.value, list):
        return _stage(holder, key)[1] if before == ("stages",) else holder.value[_index(holder, key)]
    if key not in holder.value:
        if item.sign == "~":
            raise _Refused(f"there is no {key!r} to take away.{suggestion(key, holder.value)}")
        holder.value[key] = Node({}, item.at)
    found: Node = holder.value[key]
    return found


def _open(holder: Node, path: tuple[str, ...], item: Override) -> None:
    """Make a shorthand a mapping: ``task: glue`` is ``task: {use: glue}``."""
    if isinstance(holder.value, str):
        holder.value = {"use": Node(holder.value, holder.at)}
        holder.at = item.at
    elif holder.value is None:
        holder.value = {}
        holder.at = item.at
    elif not isinstance(holder.value, dict | list):
        raise _Refused(f"{'.'.join(path)!r} is {holder.value!r}, which has no options.")


def _assign(holder: Node, item: Override) -> None:
    key, before = item.keys[-1], item.keys[:-1]
    _open(holder, before, item)
    if item.sign == "~":
        holder.at = item.at  # what is then missing is missing because of it
    if isinstance(holder.value, list):
        if before == ("stages",) and not (item.sign == "+" and key == str(len(holder.value))):
            number, options = _stage(holder, key)
            if item.sign == "+":
                raise _Refused(f"there is a stage {key!r} already. Expected +stages.{len(holder.value)} for one more.")
            if item.sign == "~":
                del holder.value[number]
            else:
                options.value = item.value.value
                options.at = item.at
        elif item.sign == "~":
            del holder.value[_index(holder, key)]
        elif item.sign == "+" and key == str(len(holder.value)):
            holder.value.append(Node(item.value.value, item.at))
        else:
            index = _index(holder, key)
            holder.value[index] = _laid(holder.value[index], item)
        return
    there = key in holder.value
    if item.sign == "~" and not there:
        raise _Refused(f"there is no {key!r} to take away.{suggestion(key, holder.value)}")
    if item.sign == "+" and there:
        raise _Refused(f"{key!r} is there already. To change it leave out the '+'.")
    if item.sign == "~":
        del holder.value[key]
        return
    if key == "use" and there and holder.value["use"].value != item.value.value:
        kept = kept_options(before)
        holder.value = {k: n for k, n in holder.value.items() if k in kept or n.at.overridden}
    holder.value[key] = _laid(holder.value.get(key), item)


def _laid(below: Node | None, item: Override) -> Node:
    above = Node(item.value.value, item.at)
    return merge(below, above, item.keys) if item.merges and below is not None else above


def merge(below: Node, above: Node, path: tuple[str, ...] = ()) -> Node:
    """Put one recipe, or a part of it, over another.

    Mappings merge, everything else is replaced; a mapping that names another plugin drops the old one's options.

    Args:
        below: what is extended.
        above: what extends it.
        path: where both stand in the recipe.
    """
    if isinstance(below.value, str) and isinstance(above.value, dict):
        below = Node({"use": Node(below.value, below.at)}, below.at)
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    kept = below.value if path else _without_replaced(below.value, above.value)
    if another_plugin(below, above, path):
        stay = kept_options(path)
        kept = {key: node for key, node in kept.items() if key in stay}
    merged = {
        key: merge(node, above.value[key], (*path, key)) if key in above.value else node for key, node in kept.items()
    }
    return Node(merged | {key: node for key, node in above.value.items() if key not in merged}, above.at)


def another_plugin(below: Node, above: Node, path: tuple[str, ...]) -> bool:
    """Tell whether what extends a part of a recipe puts another plugin there, or none.

    A fragment may give options without a plugin; which one they are for is said by what extends it.
    """
    if above.value is None:
        return True
    new, old = _use(above), _use(below)
    if old is None and len(path) == 2 and path[0] == "estimators":
        old = path[1]  # a cost is its own plugin unless it uses another
    return new is not None and old is not None and new != old


def _use(node: Node) -> Any:
    if isinstance(node.value, str):
        return node.value
    return node.value["use"].value if isinstance(node.value, dict) and "use" in node.value else None


def _without_replaced(below: Mapping[str, Node], above: Mapping[str, Node]) -> dict[str, Node]:
    """Drop what ``set`` and the switches of an extended recipe change in plugins and stages that are replaced."""
    replaced = {
        key
        for key in REPLACED
        if key in below and key in above and (key == "stages" or another_plugin(below[key], above[key], (key,)))
    }
    stages = {name for name, _ in _names(above["stages"])} if "stages" in replaced else set()

    def stays(path: str, changes: Mapping[str, Node]) -> bool:
        key, _, rest = path.lstrip("+~").partition(".")
        if key not in replaced or not rest:
            return True
        if key == "stages":
            return rest.partition(".")[0] in stages
        return f"{key}.use" in changes or key in changes

    def pruned(node: Node) -> Node:
        if not isinstance(node.value, dict):
            return node
        return Node({path: item for path, item in node.value.items() if stays(path, node.value)}, node.at)

    kept = dict(below)
    if not replaced:
        return kept
    if "set" in kept:
        kept["set"] = pruned(kept["set"])
    switches = kept.get("switches")
    if switches is not None and isinstance(switches.value, dict):
        kept["switches"] = Node({name: pruned(node) for name, node in switches.value.items()}, switches.at)
    return kept


def _index(holder: Node, key: str) -> int:
    if not key.isdecimal() or len(key) > 9 or int(key) >= len(holder.value):
        last = len(holder.value) - 1
        raise _Refused(f"no item {key!r}. Expected a number from 0 to {last}; '+' with {last + 1} adds one.")
    return int(key)


def _names(stages: Node | None) -> list[tuple[str, bool]]:
    return stage_names([node.plain() for node in stages.value]) if stages and isinstance(stages.value, list) else []


def _stage(stages: Node, key: str) -> tuple[int, Node]:
    """Find a stage by its name or number; a name that comes from a verb must be the only one."""
    names = _names(stages)
    if key.isdecimal():
        number = _index(stages, key)
    else:
        number = next((n for n, (name, _) in enumerate(names) if name == key), -1)
        if number < 0:
            known = [name for name, _ in names]
            raise _Refused(f"no stage {key!r}. Stages: {listing(known)}.{suggestion(key, known)}")
        verb, given = verb_of(stages.value[number].plain())[0], names[number][1]
        if not given and sum(name == verb or name.startswith(f"{verb}-") for name, g in names if not g) > 1:
            raise _Refused(
                f"several stages are called {verb!r} only by their verb. Give this one a 'name:' to override it."
            )
    node = stages.value[number]
    verb = verb_of(node.plain())[0]
    if not verb:
        raise _Refused(f"stage {number} is not '{{verb: options}}'.")
    if isinstance(node.value, str):
        node.value = {verb: Node({}, node.at)}
    if node.value[verb].value is None:
        node.value[verb].value = {}
    options: Node = node.value[verb]
    return number, options
