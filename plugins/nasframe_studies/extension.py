"""Extending a study: arms, tasks and seeds are added to one that exists, and no run that it has is changed.

:func:`extended` reads the study again, from the copy of its file that its directory keeps, under the overrides that it
began with and the new ones. The result is the study that would have begun if all of them had been given at the start.
It is accepted if every run that exists would come out of it with the same seed and the same resolved recipe.
:func:`extend` then writes it to the directory, where :func:`nasframe_studies.study.go_on` runs what is new.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nasframe as nf
from nasframe.errors import Problem, RecipeError
from nasframe.plan import Plan
from nasframe.records import canonical_json
from nasframe.running.cache_keys import chains
from nasframe_studies.arm_names import options_of
from nasframe_studies.file import LABELS, Study, load_study
from nasframe_studies.grouping import distinct_by
from nasframe_studies.metric_check import check_metric
from nasframe_studies.preview import Preview, preview
from nasframe_studies.settings import SETTINGS, SOURCE, Settings, StudyRun, settings, write_settings
from nasframe_studies.study import locked, stage_states, write_recipe
from nasframe_studies.wording import plural

SHOWN = 3
"""Options that an error shows of a recipe that would change."""
NOTHING_CHANGED = "Expected them as they are; a variant is an arm of its own: '+arms.NAME={dotted.path: value}'."
CHANGED_SINCE = (
    "a file of its recipes changed since the study began, so that new arms and tasks could not be compared with those"
    " that exist. Expected the file as it was. It"
)
UNKNOWN_OVERRIDES = (
    "a file of its recipes changed since the study began, or an override is missing: an earlier version began the study"
    " and kept none of them. Expected the file as it was, and all overrides that the study began with. Without them it"
)

ArmOnTask = tuple[str, str]
"""An arm and a task; the task is ``""`` if the study has none."""


@dataclass(frozen=True)
class Extension:
    """A study that exists, with what is added to it.

    Args:
        study: all of it.
        settings: what its ``study.yaml`` becomes.
        kept: the runs that exist.
        new: the runs that are added.
        remarks: what the user should know.
    """

    study: Study
    settings: Settings
    kept: Sequence[StudyRun]
    new: Sequence[StudyRun]
    remarks: Sequence[str] = ()

    def recipe_of(self, run: StudyRun) -> dict[str, Any]:
        """Return the resolved recipe of a run's arm on its task."""
        return self.study.plans[_place(self.settings, run)].recipe


def extend(directory: str | Path, overrides: Sequence[str]) -> Extension:
    """Extend the study in a directory; :func:`nasframe_studies.study.go_on` then runs what is new.

    Args:
        directory: the study's directory.
        overrides: of the study, as for :func:`nasframe_studies.file.load_study`.

    Raises:
        UsageError: there is no study in the directory, another process works on it, or a task lacks the metric that is
            compared.
        RecipeError: the overrides are wrong, or would change or drop runs that exist.
    """
    home = Path(directory)
    with locked(home):
        extension = extended(home, overrides)
        check_metric(extension.study)
        kept_recipes = {run.recipe for run in extension.kept}
        for run in extension.new:
            if run.recipe not in kept_recipes:
                write_recipe(home, run, extension.recipe_of(run))
        if not (home / SOURCE).exists():
            shutil.copyfile(extension.study.source, home / SOURCE)
        # Last and at once: a kill before it leaves the study as it was, a kill after it the extended one, whose new
        # runs are then made like runs whose directories are gone.
        write_settings(home, extension.settings)
    return extension


def extended(directory: str | Path, overrides: Sequence[str] = ()) -> Extension:
    """Return what a study becomes under more overrides; nothing is written.

    Args:
        directory: the study's directory.
        overrides: as for :func:`extend`; without any, the study as it is.

    Raises:
        UsageError: there is no study in the directory.
        RecipeError: the overrides are wrong, or would change or drop runs that exist.
    """
    home = Path(directory)
    kept = settings(home)
    begun = _as_begun(home, kept)
    if not overrides:
        return Extension(begun, kept, kept.runs, new=[])
    study = _read(home, kept, overrides)
    remarks = []
    losses = _losses(begun, study)
    if losses:
        adds_places = not study.plans.keys() <= begun.plans.keys()
        _refuse_losses(home, losses, _causes(home, kept, begun, overrides), adds_places)
        remarks.append(f"{home}: files of its recipes changed since; the arms go on as they began.")
    # Arms that exist keep their recipes, whatever became of the files that these were made from.
    study = replace(study, plans={**study.plans, **begun.plans})
    existing = {run.key: run for run in kept.runs}
    runs = []
    new = []
    for planned, plan in study.runs():
        run = existing.get(planned.key)
        if run is None:
            run = replace(planned, stages=chains(plan))
            new.append(run)
        runs.append(run)
    record = replace(
        kept,
        description=study.description,
        overrides=study.overrides,
        arms=dict(study.arms),
        tasks=study.tasks,
        seeds=study.seeds,
        compare=study.compare,
        runs=runs,
    )
    return Extension(study, record, kept.runs, new, remarks)


def preview_extension(directory: str | Path, extension: Extension) -> Preview:
    """Return what is kept of a study that is extended, and what is still to do.

    Args:
        directory: the study's directory.
        extension: as :func:`extended` returned it.
    """
    home = Path(directory)
    done = {}
    for run in extension.kept:
        states = {}
        if (home / run.run / "run.db").is_file():  # else its directory is gone, and it begins again
            states = stage_states(home / run.run)
        done[run.key] = [stage for stage, state in states.items() if state == "done"]
    record = extension.settings
    return preview(extension.study, record.cache, record.threads, done)


def _as_begun(home: Path, kept: Settings) -> Study:
    """Return a study as its directory holds it, without reading any other file."""
    plans: dict[ArmOnTask, Plan] = {}
    for run in kept.runs:
        place = _place(kept, run)
        if place not in plans:
            plans[place] = nf.resolve(nf.load_recipe(home / run.recipe, base=run.base))
    return Study(
        name=kept.study,
        description=kept.description,
        source=Path(kept.source),
        arms=kept.arms,
        tasks=kept.tasks,
        seeds=kept.seeds,
        compare=kept.compare,
        plans=plans,
        overrides=kept.overrides,
        smoke=kept.smoke,
    )


def _place(study: Settings, run: StudyRun) -> ArmOnTask:
    if study.tasks:
        return run.arm, run.task
    return run.arm, ""


def _read(home: Path, kept: Settings, overrides: Sequence[str]) -> Study:
    """Read a study again under the overrides that it began with and some more."""
    copy = home / SOURCE
    path = copy if copy.is_file() else kept.source  # studies of earlier versions hold no copy, and no overrides
    return load_study(path, [*kept.overrides, *overrides], kept.smoke, copy_of=kept.source)


# ---- what would be lost


@dataclass(frozen=True)
class _Loss:
    """Something of a study that exists which overrides, or changed files, would drop or change.

    Args:
        path: where in the study's file.
        what: the loss.
        expected: what to do instead, if an override is its cause.
    """

    path: str
    what: str
    expected: str = "Expected all arms, tasks and seeds that have runs."


def _losses(begun: Study, study: Study) -> list[_Loss]:
    """Return what a study would drop or change of the one that began."""
    losses: dict[_Loss, None] = {}  # an arm that is dropped is dropped on each task, and reported once
    seeds = [str(seed) for seed in begun.seeds if seed not in study.seeds]
    if seeds:
        losses[_Loss("seeds", f"drops {plural('seed', len(seeds))} {', '.join(seeds)}.")] = None
    for place, plan in begun.plans.items():
        loss = _loss(place, plan, study)
        if loss is not None:
            losses[loss] = None
    return list(losses)


def _loss(place: ArmOnTask, plan: Plan, study: Study) -> _Loss | None:
    arm, task = place
    if place in study.plans:
        difference = _difference(plan, study.plans[place])
        if not difference:
            return None
        path = f"arms.{arm}.tasks.{task}" if task else f"arms.{arm}"
        return _Loss(path, f"changes the recipe of runs that exist: {difference}.", NOTHING_CHANGED)
    if arm not in study.arms:
        return _Loss(f"arms.{arm}", "drops the arm.")
    if task:
        return _Loss(f"tasks.{task}", "drops the task.")
    return _Loss("tasks", "drops the runs that are of no task.")


def _difference(plan: Plan, other: Plan) -> str:
    """List the options in which two recipes differ; empty if they make the same runs."""
    recipe, other_recipe = _without_labels(plan), _without_labels(other)
    if canonical_json(recipe) == canonical_json(other_recipe):
        return ""
    options, other_options = options_of(recipe), options_of(other_recipe)
    changes = []
    for path in {**options, **other_options}:
        before, after = options.get(path), other_options.get(path)
        if before != after:
            changes.append(f"{path} from {before} to {after}")
    if not changes:  # options are compared by the names of their stages
        return "the order of its stages"
    if len(changes) > SHOWN:
        changes[SHOWN:] = [f"and {len(changes) - SHOWN} more"]
    return ", ".join(changes)


def _without_labels(plan: Plan) -> dict[str, Any]:
    return {key: value for key, value in plan.recipe.items() if key not in LABELS and key != "seed"}


def _refuse_losses(home: Path, losses: Sequence[_Loss], causes: Mapping[_Loss, str | None], adds_places: bool) -> None:
    """Raise an error for what overrides drop or change, or for changed files if an arm or a task is added.

    It returns if only files changed and only seeds are added: these need no file but the kept recipes.

    Args:
        home: the study's directory.
        losses: what is dropped or changed.
        causes: as :func:`_causes` returns them.
        adds_places: whether an arm or a task is added.
    """
    if not adds_places and all(causes[loss] is None for loss in losses):
        return
    of_files = CHANGED_SINCE if (home / SOURCE).is_file() else UNKNOWN_OVERRIDES
    paths: list[tuple[tuple[str, str], str]] = []
    for loss in losses:
        override = causes[loss]
        if override is not None:
            place = f"override {override!r}"
            text = f"{loss.what} {loss.expected}"
        else:
            place = str(home / SETTINGS)
            text = f"{of_files} {loss.what}"
        paths.append(((place, text), loss.path))
    # Arms and tasks with the same loss share a line.
    problems = []
    for (place, text), names in distinct_by(paths).items():
        problems.append(Problem(place, ", ".join(names), text))
    raise RecipeError(problems)


def _causes(home: Path, kept: Settings, begun: Study, overrides: Sequence[str]) -> dict[_Loss, str | None]:
    """Return the override that causes each loss; ``None`` if files do.

    The overrides are laid on one after the other: the first under which a loss shows is its cause. A loss that shows
    without any comes from files.
    """
    causes: dict[_Loss, str | None] = {}
    for count in range(len(overrides) + 1):
        try:
            partial = _read(home, kept, overrides[:count])
        except RecipeError:  # only more of them make a study that can be read
            continue
        last = overrides[count - 1] if count else None
        for loss in _losses(begun, partial):
            causes.setdefault(loss, last)
    return causes
