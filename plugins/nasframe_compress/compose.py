"""Make a method's recipe for somebody's model, data and budgets, as plain data and as a commented file."""

from __future__ import annotations

import copy
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.declarations import TEACHER, winners
from nasframe.options import options_of
from nasframe.recipe.yaml import dump
from nasframe.records import TrainOptions
from nasframe_compress.methods import FOLDER, Method, Repeat, stage_name
from nasframe_compress.request import Budget, budget_text
from nasframe_compress.sizes import Share

BATCH_SIZE = TrainOptions().batch_size
LEAST_STEPS = 40
"""Every training has at least this many steps."""
WIDE = 768
"""From this width on, networks are trained with a third of the packaged recipes' learning rates."""
LEAST_BAND = "25%"
"""The band that is trained besides the budgets', so that smaller budgets can be served later."""


@dataclass(frozen=True)
class Target:
    """A budget, with what it is called and what it means for the network.

    Args:
        budget: cost → bound.
        model: the name of the network that it gets.
        share: the share of the encoder that meets it; ``None`` for a budget of bits.
        number_format: the number format that meets a budget of bits.
    """

    budget: Budget
    model: str
    share: Share | None = None
    number_format: str = ""


@dataclass(frozen=True)
class Setup:
    """What all recipes of a request share.

    Args:
        name: of the data, for the recipes' names.
        model: the model's use.
        task: the task's use.
        is_teacher: whether the model is fine-tuned for the task, and so is the teacher as it stands.
        width: the network's width, on which learning rates depend.
        folder: where the recipes will lie; paths below it, or beside it, are written relative to it.
        seed: the seed of a single run.
        examples: how many examples there are to train on.
    """

    name: str
    model: Mapping[str, Any]
    task: Mapping[str, Any]
    is_teacher: bool
    width: int
    folder: Path
    seed: int = 0
    examples: int = 10**6


@dataclass(frozen=True)
class Lengths:
    """How long everything trains, compared with the packaged recipes.

    Args:
        teacher: factor of the teacher's epochs.
        method: factor of the epochs of all other trainings.
    """

    teacher: float = 1.0
    method: float = 1.0


@dataclass(frozen=True)
class Effort:
    """How much is measured, as shares of what recipes and data say.

    Args:
        select: of the examples of ``select``.
        dev: of those of ``dev``.
        trials: of the networks that a search evaluates.
        probes: of the batches on which importance is measured.
    """

    select: float = 1.0
    dev: float = 1.0
    trials: float = 1.0
    probes: float = 1.0

    def trials_of(self, trials: int) -> int:
        """Return how many networks a search evaluates, of as many that its recipe says.

        >>> Effort(trials=0.3).trials_of(24), Effort(trials=0.01).trials_of(24), Effort(trials=0.5).trials_of(1)
        (7, 2, 1)
        """
        return min(trials, max(LEAST_TRIALS, round(self.trials * trials)))

    def batches_of(self, batches: int) -> int:
        """Return on how many batches importance is measured, of as many that the recipe says.

        >>> Effort(probes=0.25).batches_of(32), Effort(probes=0.1).batches_of(2)
        (8, 1)
        """
        return min(batches, max(1, round(self.probes * batches)))


FULL = Effort()
"""Everything is measured as recipes and data say."""
LEAST_TRIALS = 2
"""A search evaluates at least as many networks, if its recipe says as many."""


@dataclass(frozen=True)
class ProbeUse:
    """A plugin of a stage that measures the importance of heads and neurons on training batches.

    Args:
        use: as the stage writes it; may be changed in place.
        batches: how many batches.
        batch_size: examples in each.
    """

    use: dict[str, Any]
    batches: int
    batch_size: int


PROBES = {"transform": "rewire", "modifier": "importance_prior"}
"""Kind of plugin → the one that measures importance."""


@functools.cache
def search_default(option: str) -> Any:
    """Return what a search does if its recipe does not say.

    >>> search_default("finalists")
    10
    """
    from nasframe.stages.verbs import VERBS

    return VERBS["search"].options[option].default


@functools.cache
def _probe_defaults(kind: str) -> Mapping[str, Any]:
    """Return option → default of the plugin that measures importance."""
    options = options_of(registry.find(kind, PROBES[kind]).load())
    return {name: options[name].default for name in ("score", "batches", "batch_size")}


def probe_uses(stage: Mapping[str, Any]) -> list[ProbeUse]:
    """Return what in a stage measures importance on data.

    >>> probe_uses({"transform": {"use": "rewire", "score": "taylor"}})[0].batches
    32
    >>> probe_uses({"transform": {"use": "rewire", "score": "magnitude"}})
    []
    """
    verb, options = next(iter(stage.items()))
    kind = "transform" if verb == "transform" else "modifier"
    uses = [options] if kind == "transform" else (options or {}).get("modifiers") or []
    found = []
    for use in uses:
        if not isinstance(use, dict) or use.get("use") != PROBES[kind]:
            continue
        complete = {**_probe_defaults(kind), **use}
        if complete["score"] != "magnitude":
            found.append(ProbeUse(use, complete["batches"], complete["batch_size"]))
    return found


def model_names(budgets: Sequence[Budget]) -> list[str]:
    """Return the name of the network of each budget, as searches name their winners.

    >>> model_names([{"encoder_params": "50%"}, {"encoder_params": "25%"}])
    ['best@50%', 'best@25%']
    >>> model_names([{"encoder_params": "50%"}, {"macs": "40%"}])
    ['best@encoder_params=50%', 'best@macs=40%']
    """
    names = {}
    for winner in winners("best", recipe_budgets(budgets)):
        names[frozenset(winner.texts.items())] = winner.name
    return [names[frozenset(budget.items())] for budget in budgets]


def recipe_budgets(budgets: Sequence[Budget]) -> Any:
    """Return budgets as a recipe writes them: by cost, or as a list if some have several bounds."""
    if any(len(budget) > 1 for budget in budgets):
        return [dict(budget) for budget in budgets]
    by_cost: dict[str, list[str]] = {}
    for budget in budgets:
        cost, bound = next(iter(budget.items()))
        by_cost.setdefault(cost, []).append(bound)
    return by_cost


def compose(
    setup: Setup, method: Method, targets: Sequence[Target], lengths: Lengths, effort: Effort = FULL
) -> dict[str, Any]:
    """Return a method's recipe for a request, as a recipe's file would write it.

    Args:
        setup: model and data.
        method: the method.
        targets: the budgets.
        lengths: how long to train.
        effort: how much to measure.
    """
    budgets = [target.budget for target in targets]
    recipe: dict[str, Any] = {
        "extends": f"{FOLDER}{method.name}",
        "name": f"{setup.name}-{method.name}",
        "seed": setup.seed,
        "model": _with_paths(setup.model, setup.folder),
    }
    if setup.is_teacher:
        recipe["teacher"] = _with_paths(setup.model, setup.folder)
    recipe["task"] = _with_paths(setup.task, setup.folder)
    if method.has_budgets:
        recipe["budgets"] = recipe_budgets(budgets)
    if method.has_bands:
        recipe["sampler"] = {"bands": _bands(targets)}
        recipe["space"] = {"smallest": f"{_smallest(targets):g}%"}
    stages = [_adapted(stage, setup, lengths) for stage in _stages(method, targets)]
    recipe["stages"] = [_measuring(stage, effort) for stage in stages]
    return recipe


def _with_paths(use: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a use whose absolute paths are relative to the recipe's folder, if they are not far from it."""
    written = {}
    for key, value in use.items():
        if isinstance(value, str) and os.path.isabs(value):
            value = _nearby(value, folder)
        written[key] = value
    return written


def _nearby(path: str, folder: Path) -> str:
    """Return a path relative to a folder, with a ``./`` or ``../`` in front; as it is if it is far away."""
    relative = os.path.relpath(path, folder.absolute())
    if relative.count("../") > 2:
        return path
    return relative if relative.startswith("..") else f"./{relative}"


def _bands(targets: Sequence[Target]) -> list[str]:
    """Return the bands of cost that a sampler learns for: the budgets', and a small one for later budgets."""
    shares = {target.share.percent for target in targets if target.share is not None}
    if len(shares) == 1 and min(shares) > float(LEAST_BAND.removesuffix("%")):
        shares.add(float(LEAST_BAND.removesuffix("%")))
    return [f"{share:g}%" for share in sorted(shares)]


def _smallest(targets: Sequence[Target]) -> float:
    """Return the smallest size of the space: ten percent, or half of the smallest budget."""
    smallest = min(target.share.percent for target in targets if target.share is not None)
    return min(10.0, smallest / 2)


def _stages(method: Method, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Return a method's stages for some budgets: measured on ``select``, where choices are made, and on ``dev``."""
    # Without the export: the command writes those networks that it recommends.
    stages = [copy.deepcopy(dict(stage)) for stage in method.stages if "export" not in stage]
    if method.repeat is not None:
        stages = list(_repeated(stages, method.repeat, targets))
    elif not method.has_budgets:
        stages = list(_formatted(stages, targets))
    position = next(number for number, stage in enumerate(stages) if "evaluate" in stage)
    choose: dict[str, Any] = {"name": "choose", "split": "select", "costs": []}
    measured = (stages[position]["evaluate"] or {}).get("models")
    if measured is not None:  # a method may save networks that are no candidates
        choose["models"] = measured
    return [*stages[:position], {"evaluate": choose}, *stages[position:]]


def _repeated(stages: Sequence[dict[str, Any]], repeat: Repeat, targets: Sequence[Target]) -> Iterator[dict[str, Any]]:
    """Yield stages in which those that depend on the budget stand once for each budget."""
    block = [stage for stage in stages if stage_name(stage) in repeat.stages]
    for stage in stages:
        if stage is block[0]:
            for number, target in enumerate(targets):
                yield from _block_for(block, repeat, target, number)
        elif not any(stage is other for other in block):
            yield stage


def _block_for(
    block: Sequence[dict[str, Any]], repeat: Repeat, target: Target, number: int
) -> Iterator[dict[str, Any]]:
    """Yield the stages of a block for one budget, under names of their own from the second budget on."""
    assert target.share is not None
    suffix = f"-{number + 1}" if number else ""
    for written in block:
        verb, options = copy.deepcopy(next(iter(written.items())))
        options = dict(options or {})
        name = stage_name(written)
        if repeat.share[0] == name:
            _set(options, repeat.share[1:], target.share.text)
        if "archs" in options:  # name: what is extracted under it
            (source,) = options["archs"].values()
            if isinstance(source, str):
                source += suffix
            options["archs"] = {target.model: source}
        if suffix:
            options = {"name": f"{name}{suffix}", **{key: value for key, value in options.items() if key != "name"}}
            if verb == "train" and repeat.start is not None:
                options["from"] = repeat.start
        yield {verb: options}


def _set(options: Any, path: Sequence[str | int], value: Any) -> None:
    """Set a value deep in the options of a stage."""
    for key in path[:-1]:
        options = options[key]
    options[path[-1]] = value


def _formatted(stages: Sequence[dict[str, Any]], targets: Sequence[Target]) -> Iterator[dict[str, Any]]:
    """Yield the stages of a method that changes number formats, one training for each budget."""
    for stage in stages:
        options = stage.get("train") or {}
        modifiers = options.get("modifiers") or []
        quantised = any(isinstance(modifier, dict) and modifier.get("use") == "fake_quant" for modifier in modifiers)
        if not quantised:
            yield stage
            continue
        for number, target in enumerate(targets):
            trained = {**options, "save_as": target.model, "modifiers": _in_format(modifiers, target.number_format)}
            if number:
                trained["from"] = TEACHER
            yield {"train": trained}


def _in_format(modifiers: Sequence[dict[str, Any]], number_format: str) -> list[dict[str, Any]]:
    """Return modifiers that train for a number format, such as ``2:4 int8``."""
    pattern, _, integer = number_format.rpartition(" ")
    changed = []
    for modifier in modifiers:
        if modifier["use"] == "admm":
            if pattern:
                changed.append({**modifier, "pattern": pattern})
        elif modifier["use"] == "fake_quant":
            changed.append({**modifier, "bits": int(integer.removeprefix("int"))})
        else:
            changed.append(modifier)
    return changed


def _adapted(stage: dict[str, Any], setup: Setup, lengths: Lengths) -> dict[str, Any]:
    """Return a stage with the learning rate for the network's width and the wanted length; a teacher may be loaded."""
    verb, options = next(iter(stage.items()))
    if verb != "train":
        return stage
    if setup.is_teacher and stage_name(stage) == TEACHER:
        return {"load": {"name": "load-teacher", "save_as": TEACHER}}  # no switch of the method means this stage
    adapted = dict(options)
    if setup.width >= WIDE and "learning_rate" in adapted:
        adapted["learning_rate"] = float(f"{adapted['learning_rate'] / 3:.1e}")
    factor = lengths.teacher if stage_name(stage) == TEACHER else lengths.method
    if "epochs" in adapted:
        steps_in_epoch = math.ceil(setup.examples / adapted.get("batch_size", BATCH_SIZE))
        # Little data make short epochs, in which methods that cut step by step would find no steps for it.
        epochs = max(adapted["epochs"] * factor, LEAST_STEPS / steps_in_epoch)
        if epochs != adapted["epochs"]:
            adapted["epochs"] = float(f"{epochs:.3g}")
    return {verb: adapted}


def _measuring(stage: dict[str, Any], effort: Effort) -> dict[str, Any]:
    """Return a stage that evaluates fewer networks and measures importance on fewer batches, if it does either."""
    if effort == FULL:
        return stage
    verb, options = next(iter(copy.deepcopy(stage).items()))
    if verb == "search":
        trials = effort.trials_of(options.get("trials", search_default("trials")))
        options["trials"] = trials
        if options.get("finalists", search_default("finalists")) > trials:
            options["finalists"] = trials
    for probe in probe_uses({verb: options}):
        probe.use["batches"] = effort.batches_of(probe.batches)
    return {verb: options}


# ---- the file


REASONS = {
    "extends": "The method's packaged recipe: space, sampler and estimators; see 'nasframe recipes show'.",
    "model": "The network that is compressed.",
    "teacher": "It is fine-tuned for these labels, so it is the teacher as it stands, and is not trained again.",
    "task": "Data, loss and metrics.",
    "budgets": "One network for each.",
    "sampler": "Sizes that are trained the most.",
    "stages": "What happens, in order. Choices are made on 'select', a part of the training data; 'dev' only reports.",
}


def recipe_text(recipe: Mapping[str, Any], head: Sequence[str], notes: Mapping[str, str]) -> str:
    """Write a recipe as a file with comments.

    Args:
        recipe: as :func:`compose` returned it.
        head: the lines of the first comment.
        notes: further remarks by key.
    """
    lines = [f"# {line}".rstrip() for line in head]
    for key, value in recipe.items():
        for remark in (REASONS.get(key), notes.get(key)):
            if remark:
                lines.append(f"# {remark}")
        lines.append(dump({key: value}).rstrip())
    return "\n".join(lines) + "\n"


def share_notes(targets: Sequence[Target]) -> str:
    """Say what budgets on other costs became, for a method that prunes to shares; empty if there are none."""
    parts = []
    for target in targets:
        if target.share is not None and not target.share.exact:
            parts.append(f"{budget_text(target.budget)} is met at {target.share.text} of the encoder")
    return "; ".join(parts) + "." if parts else ""
