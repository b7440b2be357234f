"""Whether the names in a stage point back at what earlier stages saved or found, one function for each kind of name.

Each yields faults: where in the stage a name stands, and what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasframe.declarations import WITH_OWN_TASK, KnownNames, Stage, declaration_of, gives_head, matching
from nasframe.errors import listing, suggestion
from nasframe.options import Fault
from nasframe.plan import asks_teacher
from nasframe.stages.verbs import VERBS

ALWAYS_THERE = ("pretrained", "random")
"""Networks that a stage can start from although no stage saved them."""


@dataclass(frozen=True)
class CheckedStage:
    """One stage while it is checked.

    Args:
        verb: its verb.
        name: its name.
        written: its options as the recipe gives them, of any type.
        options: all of them with their defaults; those that do not fit their types are left out.
    """

    verb: str
    name: str
    written: Mapping[str, Any]
    options: Mapping[str, Any]


def reference_faults(stage: CheckedStage, known: KnownNames, costs: Collection[str]) -> Iterator[Fault]:
    """Find the names in a stage that point at nothing.

    Args:
        stage: the stage.
        known: names that earlier stages gave.
        costs: every cost that the recipe can name.
    """
    yield from start_faults(stage, known)
    yield from teacher_faults(stage, known)
    yield from arch_faults(stage, known)
    yield from model_faults(stage, known)
    yield from cost_faults(stage, costs)
    yield from head_faults(stage, known)


def start_faults(stage: CheckedStage, known: KnownNames) -> Iterator[Fault]:
    """``from`` names a network that was saved or extracted, or one that is always there."""
    start = stage.options.get("from")
    networks = {*ALWAYS_THERE, *known.models}
    if isinstance(start, str) and start not in networks:
        yield ("from",), missing("network", start, networks)


def teacher_faults(stage: CheckedStage, known: KnownNames) -> Iterator[Fault]:
    """The ``teacher`` of a modifier, an evaluator or a search names a network that was saved or extracted."""
    for place, modifier in _modifiers(stage):
        if not asks_teacher(modifier):
            continue
        teacher = modifier["teacher"]
        if teacher not in known.models:
            yield (*place, "teacher"), missing("saved network", teacher, known.models)
    evaluator = stage.options.get("evaluator")
    if stage.verb == "search" and isinstance(evaluator, Mapping) and asks_teacher(evaluator):
        teacher = evaluator["teacher"]
        if teacher not in known.models:
            yield ("evaluator", "teacher"), missing("saved network", teacher, known.models)
    if stage.verb == "search" and stage.options.get("winner") == "agreement":
        teacher = stage.options.get("teacher")
        if isinstance(teacher, str) and teacher not in known.models:
            yield ("teacher",), missing("saved network", teacher, known.models)


def _modifiers(stage: CheckedStage) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the modifiers of a training, or of a search that trains its candidates, by their places."""
    for number, modifier in enumerate(stage.options.get("modifiers") or []):
        yield ("modifiers", number), modifier
    fit = stage.options.get("fit")
    if isinstance(fit, Mapping):
        for number, modifier in enumerate(fit.get("modifiers") or []):
            yield ("fit", "modifiers", number), modifier


def arch_faults(stage: CheckedStage, known: KnownNames) -> Iterator[Fault]:
    """``arch`` and ``archs`` name architectures that were found; ``archs`` of ``extract`` may hold patterns."""
    arch = stage.options.get("arch")
    if isinstance(arch, str) and arch not in known.archs:
        yield ("arch",), missing("architecture", arch, known.archs)
    if stage.verb != "extract":
        return
    archs = stage.options.get("archs")
    if isinstance(archs, Mapping):
        for name, sizes in archs.items():
            if isinstance(sizes, str) and sizes not in known.archs:
                yield ("archs", name), missing("architecture", sizes, known.archs)
    elif archs:
        yield from pattern_faults("archs", archs, known.archs)


def model_faults(stage: CheckedStage, known: KnownNames) -> Iterator[Fault]:
    """``models`` holds patterns of networks that were saved or extracted."""
    patterns = stage.options.get("models")
    is_of_verb = "models" in VERBS[stage.verb].options  # and not of a plugin that the stage uses
    if is_of_verb and patterns:
        yield from pattern_faults("models", patterns, known.models)


def head_faults(stage: CheckedStage, known: KnownNames) -> Iterator[Fault]:
    """The networks of a stage have the head that its task needs: its own task's, or else the recipe's."""
    options = stage.options
    if gives_head(stage.verb, options):
        return
    head = known.head_of_stage(options)
    patterns = options.get("models")
    if patterns is not None and isinstance(patterns, list):
        yield from _model_head_faults(stage, known, patterns)
    elif stage.verb == "export":  # of all extracted models; without any there is another fault
        extracted = sorted(known.extracted)
        if extracted and known.extracted.isdisjoint(known.of_stage(options)):
            yield (), _other_head(extracted, known)
    elif stage.verb in WITH_OWN_TASK or (stage.verb == "evaluate" and not known.of_stage(options)):
        start = options.get("from")
        if start in ALWAYS_THERE:
            return
        start_head = known.current or known.head
        if isinstance(start, str):
            start_head = known.head_of_model(start)
        if start_head != head:
            place = ("from",) if start is not None else ()
            whose = f"network {start!r}" if start is not None else "the network that the stage begins with"
            yield place, f"{whose} has the head of another task ({_task_name(start_head)}). {_EXPECTED_HEAD}"
    for place, modifier in _modifiers(stage):
        if asks_teacher(modifier):
            yield from _teacher_head_faults((*place, "teacher"), modifier["teacher"], known, head)
    if stage.verb == "search" and options.get("winner") == "agreement":
        yield from _teacher_head_faults(("teacher",), options.get("teacher"), known, head)


_EXPECTED_HEAD = (
    "Expected 'from: pretrained', a network that was trained for this stage's task, 'task:' in the stage, or the "
    "transform 'new_head' before it."
)


def _model_head_faults(stage: CheckedStage, known: KnownNames, patterns: Sequence[Any]) -> Iterator[Fault]:
    """Each pattern matches a network with the stage's head, and each name is of one."""
    fitting = known.of_stage(stage.options)
    for number, pattern in enumerate(patterns):
        others = [name for name in matching(sorted(known.models), [pattern]) if name not in fitting]
        if others and not matching(fitting, [pattern]):
            yield ("models", number), _other_head(others, known)


def _other_head(models: Sequence[str], known: KnownNames) -> str:
    """Say that models have the head of another task than the stage's."""
    verb = "has" if len(models) == 1 else "have"
    task = _task_name(known.head_of_model(models[0]))
    return f"{listing(models)}: {verb} the head of another task ({task}). {_EXPECTED_HEAD}"


def _teacher_head_faults(place: tuple[Any, ...], teacher: Any, known: KnownNames, head: str) -> Iterator[Fault]:
    """A teacher has the head that the stage's task needs, since its outputs are compared."""
    if not isinstance(teacher, str) or teacher not in known.models:
        return  # reported already
    if known.head_of_model(teacher) != head:
        task = _task_name(known.head_of_model(teacher))
        yield place, f"{teacher!r} has the head of another task ({task}). Expected a teacher of the stage's task."


def _task_name(head: str) -> str:
    """Return a head in words: the task that it is for, or the auto class of transformers that has it."""
    if not head.startswith("{"):
        return head
    return str(json.loads(head)["use"])


def pattern_faults(option: str, patterns: Sequence[Any], names: Collection[str]) -> Iterator[Fault]:
    """Each pattern matches one name at least."""
    kind = option.removesuffix("s")
    # Each by itself: "best@*" matching something must not hide that "bset@50%" matches nothing.
    for number, pattern in enumerate(patterns):
        if not matching(names, [pattern]):
            yield (option, number), missing(kind, pattern, names)


def cost_faults(stage: CheckedStage, costs: Collection[str]) -> Iterator[Fault]:
    """``costs`` names costs that the recipe has."""
    for number, cost in enumerate(stage.options.get("costs") or []):
        if cost not in costs:
            yield ("costs", number), missing("cost", cost, costs)


def missing(kind: str, name: Any, known: Collection[str]) -> str:
    """Say that nothing of this name exists yet, which names do, and which may have been meant."""
    return f"no {kind} {name!r} at this point. There are: {listing(known)}.{suggestion(name, known)}"


# ---- what would be left with nothing to do


def idle_fault(stage: CheckedStage, known: KnownNames) -> str:
    """Say why a stage would have nothing to do with what earlier stages left, or nothing."""
    # As written, since an option without a value means everything that is there.
    if stage.verb == "export" and not stage.written.get("models") and not known.extracted:
        return "nothing to export: no earlier stage extracts a model. Expected one, or 'models'."
    if stage.verb != "extract":
        return ""
    archs = stage.written.get("archs")
    if not known.archs and not archs:
        return "nothing to extract: no earlier stage finds an architecture, and 'archs' has none."
    # Networks that were saved under an architecture's name look like that architecture, already extracted.
    taken = known.archs & known.models
    extracted = declaration_of(stage.verb).saves(Stage(stage.verb, stage.name, stage.options), known)
    if taken and not extracted and not isinstance(archs, Mapping):
        names = f"{listing(taken)} name both an architecture and a model"
        return f"nothing is left to extract: {names}. Expected 'archs: {{name: found}}'."
    return ""


# ---- names that a stage gives


def replaced_names(verb: str, saves: Collection[str], finds: Collection[str], known: KnownNames) -> list[str]:
    """Return the names of a stage's results that would replace what an earlier stage gave them to.

    A network may be saved again, as in a ``repeat``. Extracted models and architectures are never replaced.
    """
    # `extract` may not even replace a saved network; others may save one again, but not an extracted model.
    taken_models = known.models if verb == "extract" else known.extracted
    replaced = set(saves) & taken_models
    # An extracted model has the name of its architecture, so both in one stage are one thing.
    only_archs = set(finds) - set(saves)
    replaced |= only_archs & (known.archs | known.models)
    return sorted(replaced)
