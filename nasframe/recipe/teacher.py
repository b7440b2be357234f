"""What the key ``teacher`` changes in a recipe: a stage loads the teacher in place of the one that trains it.

This is written out when a recipe is read, as ``repeat`` groups are. A resolved recipe has the stage ``load`` and its
model, so it means the same when it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nasframe import registry
from nasframe.declarations import TEACHER, declaration_of
from nasframe.errors import NasframeError, Problem
from nasframe.recipe.stage_list import stage_names, verb_of
from nasframe.recipe.yaml import Node, Position

LOAD = "load"
"""The verb of the stage that loads the teacher."""


def write_out_teacher(root: Node, is_example: Callable[[Node], bool], problems: list[Problem]) -> None:
    """Put a stage ``load`` in the place of the one that trains the teacher, if the recipe names a teacher.

    Without a model of its own, the recipe compresses the teacher itself. The model of a packaged recipe that is
    extended is only an example, so it gives way. With a model of its own, the stage after ``load`` starts from that.

    Args:
        root: the recipe, which is changed.
        is_example: tells whether a model comes from a packaged recipe, and the teacher does not.
        problems: where problems are noted.
    """
    teacher = root.value.get(TEACHER)
    stages = root.value.get("stages")
    if teacher is None or teacher.value is None or stages is None or not isinstance(stages.value, list):
        return
    plain = [node.plain() for node in stages.value]
    if any(verb_of(stage)[0] == LOAD for stage in plain):
        return  # written out already
    model = root.value.get("model")
    if model is None or model.value is None or is_example(model):
        model = Node(teacher.copy().value, teacher.at)
        root.value["model"] = model
    position = _place_of_load(stages.value, plain, teacher.at, problems)
    if position is None:
        return
    if not _same_use(model, teacher):
        _start_from_model(stages.value, position + 1, problems)


def _place_of_load(stages: list[Node], plain: Sequence[Any], at: Position, problems: list[Problem]) -> int | None:
    """Write the stage ``load`` into the stages and return its position; ``None`` if there is a problem.

    Args:
        stages: the stages, which are changed.
        plain: the same without positions.
        at: where the recipe names the teacher.
        problems: where problems are noted.
    """
    load = Node({LOAD: Node({"save_as": Node(TEACHER, at)}, at)}, at)
    saving = [number for number, stage in enumerate(plain) if verb_of(stage)[1].get("save_as") == TEACHER]
    trains_it = bool(saving) and verb_of(plain[saving[0]])[0] == "train"
    others = saving[1:] if trains_it else saving
    names = [name for name, _ in stage_names(plain)]
    for number in others:
        text = (
            f"saves a network as {TEACHER!r}, but the recipe's teacher has that name. Expected another name, or no "
            f"{TEACHER!r} at the top level."
        )
        problems.append(Problem(str(stages[number].at), f"stages.{names[number]}.save_as", text))
    if others:
        return None
    if not trains_it:
        stages.insert(0, load)
        return 0
    position = saving[0]
    # A stage that starts from the model itself does not see what came before.
    starts_anew = verb_of(plain[position])[1].get("from") in ("pretrained", "random")
    for number in range(0 if starts_anew else position):
        if declaration_of(verb_of(plain[number])[0]).replaces_net:
            text = (
                f"changes the network that the stage {names[position]!r} trains, but the recipe's {TEACHER!r} is "
                "loaded in place of it. Expected no such stage before it."
            )
            problems.append(Problem(str(stages[number].at), f"stages.{names[number]}", text))
            return None
    _refuse_changes(stages[position], names[position], at, problems)
    stages[position] = load
    return position


def _refuse_changes(stage: Node, name: str, teacher_at: Position, problems: list[Problem]) -> None:
    """Note changes of the stage that is left out, if they are overrides, or written in the file that names the teacher.

    Other changes are from a recipe that is extended, which has them for its use without a teacher.

    Args:
        stage: the stage.
        name: its name.
        teacher_at: where the recipe names the teacher.
        problems: where problems are noted.
    """
    if not isinstance(stage.value, dict):
        return
    changes: dict[str, Position] = {}
    for options in stage.value.values():
        for keys, at in options.positions(("stages", name)):
            is_own = at.overridden or at.file == teacher_at.file
            if is_own and at.file != stage.at.file:
                option = ".".join(map(str, keys[:3]))
                changes.setdefault(option, at)
    for option, at in changes.items():
        text = (
            f"changes a stage that is left out, because the recipe's {TEACHER!r} is loaded in place of it. Expected no "
            "change of it."
        )
        problems.append(Problem(str(at), option, text))


def _start_from_model(stages: list[Node], position: int, problems: list[Problem]) -> None:
    """Let the stages behind ``load`` begin with the recipe's model, which is not the teacher.

    Args:
        stages: the stages, which are changed.
        position: that of the stage behind ``load``.
        problems: where problems are noted.
    """
    plain = [node.plain() for node in stages]
    names = [name for name, _ in stage_names(plain)]
    for number in range(position, len(stages)):
        if verb_of(plain[number])[1].get("from") == TEACHER:
            text = (
                "starts from the teacher, but the recipe compresses its own model. Expected 'from: pretrained', or no "
                "'model' to compress the teacher itself."
            )
            problems.append(Problem(str(stages[number].at), f"stages.{names[number]}.from", text))
    if position == len(stages):
        return
    stage = stages[position]
    verb, options = verb_of(plain[position])
    if not verb or options.get("from") is not None:
        return
    if isinstance(stage.value, str):
        stage.value = {verb: Node({}, stage.at)}
    holder = stage.value[verb]
    if holder.value is None:
        holder.value = {}
    if isinstance(holder.value, dict):  # else it is no stage, which is reported later
        holder.value["from"] = Node("pretrained", holder.at)


def _same_use(model: Node, teacher: Node) -> bool:
    """Tell whether a recipe names the same model twice."""
    try:
        return registry.use_of(model.plain(), "model") == registry.use_of(teacher.plain(), "model")
    except NasframeError:  # reported where the plugin is looked for
        return model.plain() == teacher.plain()
