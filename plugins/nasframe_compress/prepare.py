"""From a request to the files that will be run: looks at model and data, chooses, and writes recipes and studies."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.errors import UnsatisfiableError, UsageError, in_shell
from nasframe.folders import folder_name
from nasframe.progress import SILENT, Progress
from nasframe.recipe.loading import load_recipe
from nasframe.recipe.resolve import resolve
from nasframe.recipe.yaml import dump
from nasframe.running.feasibility import unreachable
from nasframe.storage import refuse_unwritable
from nasframe.store import write_text
from nasframe_compress.compose import (
    FULL,
    Effort,
    Lengths,
    Setup,
    Target,
    compose,
    model_names,
    recipe_text,
    share_notes,
)
from nasframe_compress.data import Ask, Data, find_data
from nasframe_compress.look import Look, format_inputs, look, task_with_metric
from nasframe_compress.methods import Method, find_method, layers_left, refuse_unfit
from nasframe_compress.request import Budget, Request, budget_text
from nasframe_compress.sizes import ShareFinder, format_within
from nasframe_studies.file import load_study

RECIPE = "recipe.yaml"
STUDY = "study.yaml"
METHODS = "methods"
RECORD = "compress.json"
FORMAT = 1
"""Of the record."""


@dataclass(frozen=True)
class Prepared:
    """Everything that a request became, before any of it is written.

    Args:
        request: the request.
        folder: where everything will lie.
        data: the data.
        look: model and data, loaded.
        setup: what all recipes share.
        methods: the methods, in the order of the request.
        targets: method → its budgets.
        lengths: how long the methods train.
        effort: how much is measured.
    """

    request: Request
    folder: Path
    data: Data
    look: Look
    setup: Setup
    methods: Sequence[Method]
    targets: Mapping[str, Sequence[Target]]
    lengths: Mapping[str, Lengths]
    effort: Effort = FULL

    def record(self) -> dict[str, Any]:
        """Return what going on needs to know, JSON-plain."""
        targets = {}
        for name, method_targets in self.targets.items():
            targets[name] = [{"budget": dict(target.budget), "model": target.model} for target in method_targets]
        return {
            "format": FORMAT,
            "request": self.request.plain(),
            "is_study": self.is_study,
            "targets": targets,
            "exporters": {method.name: method.exporter for method in self.methods},
        }

    @property
    def is_study(self) -> bool:
        """Whether several runs are compared."""
        return is_study(self.request)

    def recipe(self, method: Method) -> dict[str, Any]:
        """Return a method's recipe, as its file has it."""
        targets = self.targets[method.name]
        return compose(self.setup, method, targets, self.lengths[method.name], self.effort)

    def mean_share(self, method: Method) -> float:
        """Return the share of the network that a method's sub-networks have on average: about that of its budgets."""
        percents = [target.share.percent for target in self.targets[method.name] if target.share is not None]
        return float(np.mean(percents)) / 100 if percents else 1.0


def is_study(request: Request) -> bool:
    """Tell whether several runs are compared."""
    return len(request.methods) > 1 or len(request.seeds) > 1


def prepare(request: Request, folder: Path, ask: Ask | None = None, progress: Progress = SILENT) -> Prepared:
    """Look at model and data, and choose everything that a request leaves open. Writes nothing.

    Args:
        request: the request.
        folder: where everything will lie.
        ask: asks which columns are meant if that is not obvious; ``None`` refuses instead.
        progress: shows that model and data are read.

    Raises:
        UsageError: an argument does not fit model or data, or a budget is out of reach.
    """
    methods = [find_method(name) for name in request.methods]
    refuse_unfit(methods, request.budgets)
    data = find_data(request, ask)
    with progress.bar("model and data"):
        seen = look(request, data)
    setup = Setup(
        name=_plain_name(data.name),
        model=seen.model,
        task=task_with_metric(data.task, seen.metric),
        is_teacher=seen.is_teacher,
        width=seen.sizes["width"],
        folder=folder / METHODS if is_study(request) else folder,
        seed=request.seeds[0],
        examples=seen.inputs.task.sizes["train"],
    )
    finder = ShareFinder(seen.inputs)  # one for all methods, because measuring takes seconds
    targets = {method.name: _targets(method, request, seen, data, finder) for method in methods}
    lengths = {method.name: Lengths(method=_factor(method, methods, request)) for method in methods}
    return Prepared(request, folder, data, seen, setup, methods, targets, lengths)


def _plain_name(name: str) -> str:
    """Return a name of letters, digits, hyphens and underscores."""
    letters = [letter if letter.isalnum() or letter in "-_" else "-" for letter in name]
    return "".join(letters).strip("-") or "data"


def _targets(method: Method, request: Request, seen: Look, data: Data, finder: ShareFinder) -> list[Target]:
    """Return the budgets of a method, with what they mean for the network."""
    names = model_names(request.budgets)
    targets = []
    if not method.has_budgets:
        inputs = format_inputs(seen, data, request)
        for budget, name in zip(request.budgets, names, strict=True):
            # It is saved by a training stage, whose names are plainer than those of winners.
            targets.append(Target(budget, folder_name(name), number_format=format_within(inputs, budget)))
        return targets
    shapes_are_known = method.repeat is None or method.repeat.exact
    for budget, name in zip(request.budgets, names, strict=True):
        if method.repeat is not None and method.repeat.keeps_layers:
            finder.require_reach(budget)
        share = finder.share(budget, shapes_are_known)
        if method.repeat is not None:
            _refuse_more_than_left(method, budget, share.percent, seen.sizes["layers"])
        targets.append(Target(budget, name, share=share))
    return targets


def _refuse_more_than_left(method: Method, budget: Budget, percent: float, layers: int) -> None:
    """Refuse a share that a method has fallen below before it prunes to it, because whole layers go first.

    Its pruning would have nothing to remove, which its stage would refuse only after the trainings before it.
    """
    left = layers_left(method, layers)
    largest = 100 * left / layers  # all layers of an encoder have the same size
    if left == layers or percent < largest:
        return
    raise UsageError(
        f"--methods {method.name}: it first leaves {left} of {layers} layers, {largest:.1f}% of the encoder, and so "
        f"cannot prune to {percent:g}%, as --budget {budget_text(budget)!r} asks. Expected a smaller budget, or "
        "another method."
    )


def _factor(method: Method, methods: Sequence[Method], request: Request) -> float:
    """Return how much longer than its recipe a method trains, so that compared methods train equally long.

    Methods that prune train once for each budget. One training that serves all budgets then gets as much.
    """
    if len(methods) == 1 or not method.searches:
        return 1.0
    return float(len(request.budgets))


def sets_dev_aside(task: Mapping[str, Any]) -> bool:
    """Tell whether ``dev`` is a part of the data that the task sets aside, and no table of its own."""
    return task["use"] == "text_classification" and "dev" not in task and "hub" not in task


def fitted(prepared: Prepared, lengths: Mapping[str, Lengths], effort: Effort) -> Prepared:
    """Return a request with other lengths and another effort.

    What is no longer set aside for measuring is trained on. An epoch is longer then, so there are fewer of them: the
    number of steps is the one that was fitted.

    Args:
        prepared: the request.
        lengths: method → how long it trains.
        effort: how much is measured.
    """
    sizes = prepared.look.inputs.task.sizes
    task = dict(prepared.setup.task)
    freed = 0
    if effort.select < 1:
        task["select"] = math.ceil(effort.select * sizes["select"])
        freed += sizes["select"] - task["select"]
    if effort.dev < 1:
        task["dev_share"] = math.ceil(effort.dev * sizes["dev"])
        freed += sizes["dev"] - task["dev_share"]
    examples = sizes["train"] + freed
    shorter = sizes["train"] / examples
    scaled = {}
    for name, length in lengths.items():
        scaled[name] = Lengths(teacher=shorter * length.teacher, method=shorter * length.method)
    setup = replace(prepared.setup, task=task, examples=examples)
    return replace(prepared, setup=setup, lengths=scaled, effort=effort)


# ---- files


@dataclass(frozen=True)
class Settings:
    """How a compression is run, which going on needs to know.

    Args:
        cache: the folder of stage results; ``None``: a study's default, and none for a single run.
        jobs: processes of a study; ``None``: one.
        device: where networks are computed; ``None``: a GPU if there is one.
    """

    cache: str | None = None
    jobs: int | None = None
    device: str | None = None


DEFAULT = Settings()


def write(prepared: Prepared, settings: Settings = DEFAULT) -> Path:
    """Write the recipe, or the study with a recipe for each method, after checking them; return the file to run.

    Args:
        prepared: the request.
        settings: how it will be run.

    Raises:
        UsageError: the folder cannot be written, or is not empty.
        RecipeError: a recipe cannot work on this model and these data.
        UnsatisfiableError: a search cannot meet a budget; the message has the nearest network.
    """
    folder = prepared.folder
    refuse_used(folder)
    refuse_unwritable(folder)
    with drafted(prepared, settings) as path:
        if folder.is_dir():
            folder.rmdir()  # it is empty
        path.parent.rename(folder)
    return folder / path.name


@contextmanager
def drafted(prepared: Prepared, settings: Settings = DEFAULT) -> Iterator[Path]:
    """Write and check everything under another name, which is gone after the block unless it was renamed there.

    Yields:
        The file to run.
    """
    # Beside the folder, so that relative paths are the same.
    draft = prepared.folder.with_name(f".{prepared.folder.name}.begun")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        path = draft / _write_files(prepared, settings, draft)
        _check(path)
        yield path
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def resume_command(folder: Path) -> str:
    """Return the command that goes on with a compression.

    >>> resume_command(Path("my mails"))
    "nasframe compress --resume 'my mails'"
    """
    return f"nasframe compress --resume {in_shell(folder)}"


def refuse_used(folder: Path) -> None:
    """Refuse a folder that is not empty, and say how to go on if a compression lies in it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    hint = ""
    if (folder / RECORD).is_file():
        hint = f" To go on with the one in it: {resume_command(folder)}"
    raise UsageError(f"{folder}: not empty. Expected a new folder: --out DIR.{hint}")


def _write_files(prepared: Prepared, settings: Settings, draft: Path) -> str:
    """Write the files to a folder; return the name of the one to run."""
    record = prepared.record() | {"settings": asdict(settings)}
    write_text(draft / RECORD, json.dumps(record, indent=1))
    if not prepared.is_study:
        write_text(draft / RECIPE, _recipe_file(prepared, prepared.methods[0], prepared.folder / RECIPE))
        return RECIPE
    (draft / METHODS).mkdir()
    places = {}
    for method in prepared.methods:
        place = f"{METHODS}/{method.name}.yaml"
        write_text(draft / place, _recipe_file(prepared, method, prepared.folder / place))
        places[method.name] = place
    write_text(draft / STUDY, _study_file(prepared, places))
    return STUDY


def _check(path: Path) -> None:
    """Check a recipe, or a study with all its recipes, and that their searches can meet the budgets."""
    if path.name == RECIPE:
        plans = [resolve(load_recipe(path))]
    else:
        load_study(str(path))
        plans = [resolve(load_recipe(recipe)) for recipe in sorted((path.parent / METHODS).iterdir())]
    problems = []
    for plan in plans:
        problems += [f"{plan.name}: {text}" for _, text in unreachable(plan)]
    if problems:
        raise UnsatisfiableError("\n".join(problems))


def _recipe_file(prepared: Prepared, method: Method, place: Path) -> str:
    """Return the text of a method's recipe, which will lie in a place."""
    targets = prepared.targets[method.name]
    budgets = ", ".join(budget_text(target.budget) for target in targets)
    head = [
        method.title,
        f"Compresses {prepared.setup.name} to {budgets}. Edit it as you like, then:",
        f"  nasframe run {place}",
    ]
    notes = {}
    shares = share_notes(targets)
    if shares:
        notes["sampler" if method.has_bands else "stages"] = shares
    return recipe_text(prepared.recipe(method), head, notes)


def _study_file(prepared: Prepared, places: Mapping[str, str]) -> str:
    """Return the text of the study that compares the methods."""
    names = [method.name for method in prepared.methods]
    study = {
        "study": prepared.setup.name,
        "description": f"{len(names)} methods on {prepared.setup.name}.",
        "arms": {name: {"base": places[name]} for name in names},
        "seeds": list(prepared.request.seeds),
        "compare": {"against": names[0]},
    }
    head = [
        f"# Compares {', '.join(names)} on {prepared.setup.name}. Each arm's recipe lies beside this file.",
        f"#   nasframe ablate {prepared.folder / STUDY}",
    ]
    return "\n".join(head) + "\n" + dump(study)
