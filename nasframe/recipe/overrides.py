"""Changes of a recipe: overrides from the command line, and those that ``set`` and switches hold.

All follow one grammar:

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

from nasframe.errors import Problem, listing, suggestion
from nasframe.recipe.merge import kept_options, merge
from nasframe.recipe.stage_list import expand, group_names, plain_stages, stage_names, verb_of
from nasframe.recipe.yaml import Node, Position, parse

ADD, TAKE_AWAY = "+", "~"
APPLIED = ("extends", "set", "switches")
"""Keys that are applied before any override, so that an override of them would change nothing."""
MOST_KEYS = 50
"""Most keys of an override's path, so that ``a.a.a…`` cannot nest more deeply than other checks can follow."""
MOST_DIGITS = 9
"""Most digits of an item's number; Python refuses to read very long numbers."""


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
    """Apply ``set``, switches and overrides to a recipe, in this order, and write out its ``repeat`` groups.

    Args:
        root: the recipe, which is changed.
        overrides: as text, or already read.
        problems: where problems are noted.
    """
    switches = _switches_of(root)
    switched: list[Override] = []
    others: list[Override] = []
    for item in _read_all(overrides, problems):
        first_key = item.keys[0]
        if first_key in APPLIED:
            text = f"{first_key!r} is applied before any override. Expected an override of what it would change."
            problems.append(Problem(str(item.at), ".".join(item.keys), text))
        elif _is_switch(item, switches):
            switched.append(item)
        else:
            others.append(item)
    changes: list[Override] = []
    set_node = root.value.pop("set", None)  # so that the resolved recipe, to which it is applied, has none
    if set_node is not None:
        changes += _listed("set", set_node, problems)
    # Switches come before all other overrides, wherever they stand among them: the more specific one wins.
    changes += _turned_on(switched, switches, problems)
    _apply_all(root, [*changes, *others], problems)


def _apply_all(root: Node, changes: Sequence[Override], problems: list[Problem]) -> None:
    """Apply changes of a ``repeat`` group before it is written out, all others after."""
    stages = root.value.get("stages")
    groups = group_names(stages)
    of_groups: list[Override] = []
    others: list[Override] = []
    for item in changes:
        is_of_group = item.keys[0] == "stages" and len(item.keys) > 1 and item.keys[1] in groups
        holder = of_groups if is_of_group else others
        holder.append(item)
    # A change of a group changes each of its rounds; a single round is named with its number, as in `train-2`.
    for item in of_groups:
        _apply(root, item, problems)
    if stages is not None and isinstance(stages.value, list):
        stages.value = expand(stages.value, problems)
    for item in others:
        _apply(root, item, problems)


# ---- what is written becomes overrides


def _read_all(overrides: Sequence[str | Override], problems: list[Problem]) -> list[Override]:
    requests = []
    for item in overrides:
        request = read_override(item, problems) if isinstance(item, str) else item
        if request is not None:
            requests.append(request)
    return requests


def read_override(text: str, problems: list[Problem]) -> Override | None:
    """Read ``key=value``, ``+key=value`` or ``~key``; ``None`` if it is none of them, with the problem noted."""
    at = Position(f"override {text!r}")
    sign, rest = _split_sign(text)
    key, equals, value = rest.partition("=")
    keys = tuple(key.split("."))
    has_value = bool(equals)
    needs_value = sign != TAKE_AWAY
    if not all(keys) or has_value != needs_value or len(keys) > MOST_KEYS:
        problems.append(Problem(str(at), "", "not an override. Expected key=value, +key=value or ~key."))
        return None
    node, problems_of_value = parse(value, at)
    problems += problems_of_value
    return None if node is None else Override(sign, keys, node, at)


def _split_sign(text: str) -> tuple[str, str]:
    """Split a path into ``+`` or ``~``, if it begins with one, and the rest."""
    sign = text[:1] if text[:1] in (ADD, TAKE_AWAY) else ""
    return sign, text[len(sign) :]


def _listed(path: str, changes: Node, problems: list[Problem]) -> list[Override]:
    """Read the changes of ``set`` or of a switch: dotted path → value."""
    if not isinstance(changes.value, dict):
        problems.append(Problem(str(changes.at), path, "is not a mapping. Expected dotted.path: value."))
        return []
    overrides = []
    for key, value in changes.value.items():
        sign, rest = _split_sign(key)
        overrides.append(Override(sign, tuple(rest.split(".")), value, value.at))
    return overrides


def _switches_of(root: Node) -> Mapping[str, Node]:
    switches = root.value.get("switches")
    if switches is None or not isinstance(switches.value, dict):
        return {}
    return switches.value


def _is_switch(item: Override, switches: Mapping[str, Node]) -> bool:
    return item.sign == "" and len(item.keys) == 1 and item.keys[0] in switches


def _turned_on(requests: Sequence[Override], switches: Mapping[str, Node], problems: list[Problem]) -> list[Override]:
    """Return the changes of the switches that are turned on; if a switch is given twice, the last one wins."""
    last = {item.keys[0]: item for item in requests}
    changes: list[Override] = []
    for item in requests:
        name = item.keys[0]
        if last[name] is not item:
            continue
        value = item.value.value
        if not isinstance(value, bool):
            text = f"{item.value.plain()!r} does not fit. Expected true or false."
            problems.append(Problem(str(item.at), name, text))
        if value is True:
            changes += _listed(f"switches.{name}", switches[name], problems)
    return changes


# ---- overrides change the recipe


def _apply(root: Node, item: Override, problems: list[Problem]) -> None:
    """Apply one override; note why, if it cannot be applied."""
    try:
        holder = root
        for depth, key in enumerate(item.keys[:-1]):
            holder = _step(holder, key, item.keys[:depth], item)
        _assign(holder, item)
    except _Refused as error:
        problems.append(Problem(str(item.at), ".".join(item.keys), str(error)))


def _step(holder: Node, key: str, before: tuple[str, ...], item: Override) -> Node:
    """Go one key down; a missing key becomes an empty mapping, unless something is to be taken away."""
    _open(holder, before, item)
    values = holder.value
    if isinstance(values, list):
        # Stages go by their names, which stay the same when a recipe that is extended gets one more.
        if before == ("stages",):
            _, options = _stage(holder, key)
            return options
        node: Node = values[_index(holder, key)]
        return node
    if key not in values:
        if item.sign == TAKE_AWAY:
            raise _Refused(f"there is no {key!r} to take away.{suggestion(key, values)}")
        values[key] = Node({}, item.at)
    child: Node = values[key]
    return child


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
    """Set, add or take away what the last key of the path names."""
    _open(holder, item.keys[:-1], item)
    if item.sign == TAKE_AWAY:
        holder.at = item.at  # a problem about the missing key is then shown at the override
    if isinstance(holder.value, dict):
        _assign_key(holder, item)
        return
    # Only the next number adds an item: one further on would leave a gap.
    is_next = item.keys[-1] == str(len(holder.value))
    if item.sign == ADD and is_next:
        holder.value.append(Node(item.value.value, item.at))
    elif item.keys[:-1] == ("stages",):
        _assign_stage(holder, item)
    else:
        _assign_item(holder, item)


def _assign_item(holder: Node, item: Override) -> None:
    """Set or take away an item of a list."""
    index = _index(holder, item.keys[-1])
    if item.sign == TAKE_AWAY:
        del holder.value[index]
    elif item.sign == ADD:
        raise _Refused(f"item {index} exists already. To change it, leave out the '+'.")
    else:
        holder.value[index] = _laid_over(holder.value[index], item)


def _assign_stage(stages: Node, item: Override) -> None:
    """Replace a stage's options, or take the stage away."""
    key = item.keys[-1]
    number, options = _stage(stages, key)
    if item.sign == ADD:
        raise _Refused(f"there is a stage {key!r} already. Expected +stages.{len(stages.value)} for one more.")
    if item.sign == TAKE_AWAY:
        del stages.value[number]
    else:
        options.value = item.value.value
        options.at = item.at


def _assign_key(holder: Node, item: Override) -> None:
    """Set, add or take away a key of a mapping."""
    key = item.keys[-1]
    old = holder.value.get(key)
    if item.sign == TAKE_AWAY:
        if old is None:
            raise _Refused(f"there is no {key!r} to take away.{suggestion(key, holder.value)}")
        del holder.value[key]
        return
    if item.sign == ADD and old is not None:
        raise _Refused(f"{key!r} exists already. To change it, leave out the '+'.")
    if key == "use" and old is not None and old.value != item.value.value:
        # The old plugin's options go. Those that earlier overrides set stay, because they are meant for the new one:
        # "task.path=x task.use=csv" means the same in either order.
        stay = kept_options(item.keys[:-1])
        holder.value = {name: node for name, node in holder.value.items() if name in stay or node.at.overridden}
    holder.value[key] = _laid_over(old, item)


def _laid_over(below: Node | None, item: Override) -> Node:
    """Return an override's value, put over what is there if it merges."""
    above = Node(item.value.value, item.at)
    if below is None or not item.merges:
        return above
    return merge(below, above, item.keys)


# ---- finding what a key names


def _index(holder: Node, key: str) -> int:
    """Read the number of a list's item."""
    is_number = key.isdecimal() and len(key) <= MOST_DIGITS
    if not is_number or int(key) >= len(holder.value):
        last = len(holder.value) - 1
        raise _Refused(f"no item {key!r}. Expected a number from 0 to {last}; '+' with {last + 1} adds one.")
    return int(key)


def _stage(stages: Node, key: str) -> tuple[int, Node]:
    """Find a stage by its name or number; return its number and its options."""
    if key.isdecimal():
        number = _index(stages, key)
    else:
        number = _number_of_stage(stages, key)
    node = stages.value[number]
    verb, _ = verb_of(node.plain())
    if not verb:
        raise _Refused(f"stage {number} is not '{{verb: options}}'.")
    if isinstance(node.value, str):
        node.value = {verb: Node({}, node.at)}
    options: Node = node.value[verb]
    if options.value is None:
        options.value = {}
    return number, options


def _number_of_stage(stages: Node, key: str) -> int:
    """Find a stage by its name; a name that only comes from a verb must be the only one of that verb."""
    plain = plain_stages(stages)
    named_stages = stage_names(plain)
    names = [name for name, _ in named_stages]
    if key not in names:
        raise _Refused(f"no stage {key!r}. Stages: {listing(names)}.{suggestion(key, names)}")
    number = names.index(key)
    _, is_given = named_stages[number]
    if is_given:
        return number
    # "train" alone may mean any of several unnamed trainings, and the wrong one would be changed silently.
    verb, _ = verb_of(plain[number])
    unnamed = [name for name, is_given in named_stages if not is_given]
    of_verb = [name for name in unnamed if name == verb or name.startswith(f"{verb}-")]
    if len(of_verb) > 1:
        raise _Refused(
            f"several stages are called {verb!r} only by their verb. Give this one a 'name:' to override it."
        )
    return number
