"""Makes the table of a study out of runs that exist: finds them, and sorts them into arms, tasks and seeds.

The steps are those of :func:`as_study`: read every run, refuse copies, name the arms, set runs on other data apart, and
describe the result by the same records as a study's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe.store import RunStore
from nasframe_studies.arm_names import distinct_names, options_of
from nasframe_studies.checks import group_problems
from nasframe_studies.results import frame_of
from nasframe_studies.settings import FAMILIES, SETTINGS, SPLITS, Settings, StudyRun
from nasframe_studies.settings import settings as read_settings

if TYPE_CHECKING:
    import pandas as pd

OUTSIDE_ARMS = ("name", "description", "seed", "task", "observers")
"""Recipe keys that may differ within one arm. Exception: task options that differ between runs of one task make
different arms."""


@dataclass(frozen=True)
class Place:
    """A place as given: ``NAME=PATH``, or a path alone.

    Args:
        text: all of it.
        label: the name; empty if there is none.
        path: the path.
    """

    text: str
    label: str
    path: str

    @classmethod
    def read(cls, text: str) -> Place:
        """Split a name from a path; a path that exists may have a ``=`` of its own."""
        if Path(text).exists():
            return cls(text, "", text)
        label, _, path = text.rpartition("=")
        return cls(text, label, path)


@dataclass(frozen=True)
class Recorded:
    """What a run's directory holds of it; the defaults are those of a directory that is gone.

    Args:
        identity: a digest that copies of the run share.
        name: the recipe's name.
        recipe: the recipe.
        data: the fingerprint of the data, if known.
    """

    identity: str
    name: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None

    @property
    def arm_recipe(self) -> dict[str, Any]:
        """The recipe without what may differ within an arm."""
        return {key: value for key, value in self.recipe.items() if key not in OUTSIDE_ARMS}

    @property
    def task_options(self) -> dict[str, Any]:
        """The options of the recipe's task."""
        if "task" not in self.recipe:  # the run's directory is gone
            return {}
        return _task_options(self.recipe["task"])


@dataclass(frozen=True)
class FoundRun:
    """A run that was found in one of the places.

    Args:
        place: the place.
        run: the run's directory, absolute.
        recorded: what the directory holds.
        arm: the arm's name. Until :func:`_name_arms` has told arms apart it is the recipe's name, unless ``is_named``.
        is_named: the arm's name was given, or is a study's.
        task: the task's name.
        seed: the run's seed.
        study: the directory of the study that made the run, if any.
    """

    place: Place
    run: str
    recorded: Recorded
    arm: str
    is_named: bool
    task: str
    seed: int
    study: str | None = None

    def study_run(self) -> StudyRun:
        """Return the run as one of a study's."""
        return StudyRun(self.arm, self.task, self.seed, self.run)


def as_study(
    places: Sequence[str],
    against: str | None = None,
    metric: str | None = None,
    models: Sequence[str] | None = None,
    split: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    family: str | None = None,
) -> tuple[pd.DataFrame, Settings]:
    """Return the table of a study made out of runs that exist, with its settings.

    Runs of one recipe are one arm, whatever their seed, task and name. Arms whose recipes have the same name are named
    after the options in which they differ, including those of the task. If runs used different data at the same seed,
    they are listed as separate tasks, unless one study made them. Parts of one study, such as one part for each seed,
    are compared as the study compares them.

    Args:
        places: run directories, folders with run directories or studies in them, studies. ``NAME=PLACE`` names the
            arm, and the arms of a study ``NAME/arm``.
        against: the reference: an arm, or one of ``places``; default: the first arm.
        metric: the metric to compare; default: each task's primary metric.
        models: patterns of the models to compare.
        split: whose examples' scores to compare: ``dev``, ``select`` or ``train``; default: the study's, else ``dev``.
        groups: name → patterns of tasks whose models are compared with each other under that name.
        family: what Holm's adjustment counts together, ``task`` or ``page``; default: the study's, else ``task``.

    Returns:
        The table, as :func:`nasframe_studies.study.collect` returns it, and the settings of the study. Its run
        directories are absolute.

    Raises:
        UsageError: a place holds no run; two runs are the same arm, task and seed, or copies of one run; there is no
            such split or family; a group fits no task, or a task of another group.
    """
    _check_choices(split, family)
    found: list[FoundRun] = []
    for place in places:
        found += _find(Place.read(place))
    # In this order: the settings of a study are found by the names of its arms, and which runs are the same is only
    # known when arms have their names and runs on other data their tasks.
    _refuse_copies(found)
    found = _name_arms(found)
    study = _shared_settings(found)
    found, notes = _separate_data(found)
    _check_groups(groups or {}, found)
    _refuse_equal(found)

    options: dict[str, Any] = {
        "metric": metric,
        "against": _reference(against, found),
        "models": list(models or ()),
        "split": split,
        "groups": groups,
        "family": family,
    }
    present = {key: value for key, value in options.items() if value}  # all others stay as the study has them
    arms = list(dict.fromkeys(run.arm for run in found))
    study = replace(
        study,
        study=study.study or _title(arms),
        arms=study.arms or {arm: {} for arm in arms},
        compare=replace(study.compare, **present),
        runs=[run.study_run() for run in found],
        notes=notes,
    )
    frame = frame_of(Path(), study.runs, study.compare)
    if len(study.arms) > 1:
        return frame, study
    return _winners_and_baselines(frame, study)


def _title(arms: Sequence[str]) -> str:
    """Return a name for a comparison that is of no study."""
    if len(arms) > 2:
        return f"{len(arms)} arms"
    return " and ".join(arms)


def _check_choices(split: str | None, family: str | None) -> None:
    """Make sure that split and family are ones that exist, if they are given."""
    if split is not None and split not in SPLITS:
        raise UsageError(f"split {split!r} is not known. Expected {listing(SPLITS)}.{suggestion(split, SPLITS)}")
    if family is not None and family not in FAMILIES:
        hint = suggestion(family, FAMILIES)
        raise UsageError(f"family {family!r} is not known. Expected one of {listing(FAMILIES)}.{hint}")


def _check_groups(groups: Mapping[str, Sequence[str]], found: Sequence[FoundRun]) -> None:
    tasks = dict.fromkeys(run.task for run in found)
    problems = []
    for name, problem in group_problems(groups, tasks):
        problems.append(f"--group {name}: {problem}")
    if problems:
        raise UsageError("\n".join(problems))


def _reference(against: str | None, found: Sequence[FoundRun]) -> str | None:
    """Return the arm that ``against`` names, itself or by its place."""
    if against:
        for run in found:
            if run.place.text.rstrip("/") == against.rstrip("/"):
                return run.arm
    return against


# ---- reading runs


def _find(place: Place) -> list[FoundRun]:
    """Return the runs of a place: first those of its studies, then all others."""
    folder = Path(place.path)
    homes = sorted(file.parent for file in folder.rglob(SETTINGS))
    runs = {}
    for home in homes:
        for run in read_settings(home).runs:
            directory = (home / run.run).resolve()
            runs[directory] = _of_study(place, directory, home, run)
    # Below a study's directory its settings say which runs there are: others are none of it.
    others = []
    for file in folder.rglob("run.db"):
        is_in_study = any(home in file.parents for home in homes)
        if not is_in_study:
            others.append(file.parent.resolve())
    for directory in sorted(others):
        runs[directory] = _of_no_study(place, directory)
    if not runs:
        raise UsageError(
            f"{place.path}: no run here. Expected a run directory, a folder of runs, or a study's directory."
        )
    return list(runs.values())


def _of_study(place: Place, directory: Path, home: Path, run: StudyRun) -> FoundRun:
    arm = run.arm
    if place.label:
        arm = f"{place.label}/{arm}"
    return FoundRun(
        place=place,
        run=str(directory),
        recorded=_recorded(directory),
        arm=arm,
        is_named=True,
        task=run.task,
        seed=run.seed,
        study=str(home),
    )


def _of_no_study(place: Place, directory: Path) -> FoundRun:
    recorded = _recorded(directory)
    return FoundRun(
        place=place,
        run=str(directory),
        recorded=recorded,
        arm=place.label or recorded.name,
        is_named=bool(place.label),
        task=_task_name(recorded.recipe.get("task")),
        seed=int(recorded.recipe.get("seed") or 0),
    )


def _recorded(directory: Path) -> Recorded:
    import yaml

    from nasframe.report.read import gather

    if not (directory / "run.db").is_file():  # a study's run whose directory is gone: reported as missing later
        return Recorded(identity=str(directory))
    report = gather(directory, examples=False)
    recipe = yaml.safe_load(report["recipe"])
    if not isinstance(recipe, dict):
        recipe = {}
    store = RunStore(directory, shared=True)
    identity = store.outcome_digest()
    store.close()
    return Recorded(
        identity=identity or str(directory),  # nothing ran, so that it is no copy of anything
        name=report["name"],
        recipe=recipe,
        data=report["data"].get("fingerprint"),
    )


def _task_name(task: Any) -> str:
    """Return the name of a recipe's task: its ``name``, or else its file or its plugin.

    >>> _task_name({"use": "glue", "name": "sst2"}), _task_name({"use": "text", "train": "d/reviews.csv"})
    ('sst2', 'reviews')
    """
    if not isinstance(task, Mapping):
        return str(task or "task")
    return str(task.get("name") or Path(str(task.get("train") or task.get("use"))).stem)


def _task_options(task: Any) -> dict[str, Any]:
    """Return the options of a recipe's task, without its name and the places of its files.

    >>> _task_options({"use": "glue", "name": "sst2", "path": "/data/SST-2", "max_length": 32})
    {'use': 'glue', 'max_length': 32}
    """
    written = task if isinstance(task, Mapping) else {"use": task}
    options = {}
    for key, value in written.items():
        # The same data may lie elsewhere on another machine; whether they are the same is up to their fingerprint.
        is_place = isinstance(value, str) and os.path.isabs(value)
        if key != "name" and not is_place:
            options[key] = value
    return options


# ---- refusing


def _refuse_copies(found: Sequence[FoundRun]) -> None:
    """Make sure that every run is there once.

    Raises:
        UsageError: a run is given twice, or a directory is a copy of another one's run.
    """
    first_places: dict[str, str] = {}
    for run in found:
        identity = run.recorded.identity
        if identity in first_places:
            first = first_places[identity]
            reason = "given twice" if first == run.run else f"a copy of {first}"
            raise UsageError(f"{run.run}: {reason}. Expected every run once.")
        first_places[identity] = run.run


def _refuse_equal(found: Sequence[FoundRun]) -> None:
    """Make sure that no two runs are the same arm, task and seed."""
    firsts: dict[tuple[str, str, int], FoundRun] = {}
    for run in found:
        first = firsts.setdefault(run.study_run().key, run)
        if first is run:
            continue
        # The shortest advice that tells them apart: the places as given, or the runs if both are of one place.
        one, other = first.place.path, run.place.path
        if one == other:
            one, other = first.run, run.run
        raise UsageError(
            f"{run.run}: the same arm {run.arm!r}, task {run.task!r} and seed {run.seed} as {first.run}."
            f" Expected runs that differ; name them apart: nasframe compare first={one} second={other}"
        )


# ---- settings


def _shared_settings(found: Sequence[FoundRun]) -> Settings:
    """Return the settings of the study that all runs are of, or what its parts have in common; else empty ones."""
    homes = dict.fromkeys(run.study for run in found)
    if None in homes:
        return Settings()
    first, *others = [read_settings(home) for home in homes if home is not None]
    # With a label an arm is called NAME/arm.
    if any(run.arm not in first.arms for run in found):
        return Settings()
    if not others:
        return first
    common = _common(first)
    # Parts that differ in more than their seeds are of different studies.
    if any(_common(other) != common for other in others):
        return Settings()
    return common


def _common(study: Settings) -> Settings:
    """Return the settings that parts of one study have in common: all but their seeds and runs, and how they ran."""
    return Settings(
        study=study.study, description=study.description, arms=study.arms, tasks=study.tasks, compare=study.compare
    )


def _winners_and_baselines(frame: pd.DataFrame, study: Settings) -> tuple[pd.DataFrame, Settings]:
    """Make the winners of a single arm one side and its own baselines the other, if it has both.

    A single arm then has something to be compared with.
    """
    sides = frame[frame["role"].isin(["winner", "baseline"])]
    if sides["role"].nunique() < 2 or study.compare.models:
        return frame, study
    arm = next(iter(study.arms))
    runs = []
    for side in ("baseline", "winner"):
        runs += [replace(run, arm=side) for run in study.runs]
    note = f"One arm, {arm}: its winners are compared with its own baselines."
    study = replace(
        study,
        arms={"baseline": {}, "winner": {}},
        compare=replace(study.compare, against="baseline"),
        runs=runs,
        notes=[*study.notes, note],
    )
    return sides.assign(arm=sides["role"]).reset_index(drop=True), study


# ---- arms


def _name_arms(found: Sequence[FoundRun]) -> list[FoundRun]:
    """Give each run its arm: the recipe's name, and if recipes of one name differ, the options in which they do."""
    by_name: dict[str, list[FoundRun]] = {}
    for run in found:
        by_name.setdefault(run.arm, []).append(run)
    is_alone = len(by_name) == 1
    arms: dict[str, str] = {}
    for name, runs in by_name.items():
        arms |= _arms_of(name, runs, is_alone)
    return [replace(run, arm=arms[run.run]) for run in found]


def _arms_of(name: str, runs: Sequence[FoundRun], alone: bool) -> dict[str, str]:
    """Return run directory → arm, for runs whose arms have the same name so far."""
    unnamed = [run for run in runs if not run.is_named]
    varying = _varying_task_options(unnamed)
    members: dict[str, list[FoundRun]] = {}  # the recipe, as text → its runs
    recipes: list[dict[str, Any]] = []
    for run in runs:
        task_options = {}
        for key, value in run.recorded.task_options.items():
            if key in varying:
                task_options[f"task.{key}"] = value
        recipe_key = ""
        if not run.is_named:  # whoever named runs meant them to be one arm, whatever their recipes
            recipe_key = json.dumps([run.recorded.arm_recipe, task_options], sort_keys=True)
        if recipe_key not in members:
            members[recipe_key] = []
            recipes.append(options_of(run.recorded.arm_recipe) | task_options)
        members[recipe_key].append(run)
    arms = {}
    names = distinct_names(name, recipes, alone)
    for of_recipe, distinct in zip(members.values(), names, strict=True):
        for run in of_recipe:
            arms[run.run] = name if run.is_named else distinct
    return arms


def _varying_task_options(runs: Sequence[FoundRun]) -> set[str]:
    """Return the task options that differ between runs of one task; between tasks they may differ within an arm."""
    first_values: dict[tuple[str, str], str] = {}
    varying = set()
    for run in runs:
        for key, value in run.recorded.task_options.items():
            first = first_values.setdefault((run.task, key), str(value))
            if str(value) != first:
                varying.add(key)
    return varying


# ---- data


def _separate_data(found: Sequence[FoundRun]) -> tuple[list[FoundRun], list[str]]:
    """Rename the task of arms that used other data at the same seeds; return the runs, and a note on each such arm.

    The arms of one study stay together: they may be variants of the training data, which the study compares.
    """
    # task → side → its runs
    sides_of: dict[str, dict[str, list[FoundRun]]] = {}
    for run in found:
        side = f"the study {run.study}" if run.study else run.arm
        sides_of.setdefault(run.task, {}).setdefault(side, []).append(run)
    notes = []
    tasks = {run.run: run.task for run in found}
    for task, sides in sides_of.items():
        # Sides are sorted into sets of data one by one: each joins the first set that it agrees with, or begins one.
        data_sets: list[dict[int, set[str]]] = []
        for side, runs in sides.items():
            data = _data_by_seed(runs)
            number = _matching_data_set(data_sets, data)
            if number == len(data_sets):
                data_sets.append({})
            for seed, fingerprints in data.items():
                data_sets[number].setdefault(seed, set()).update(fingerprints)
            if number == 0:  # the data of the first side: its task keeps the name
                continue
            # Named by one fingerprint of its first seed. There is one: sides without any agree with the first set.
            known = [fingerprints for fingerprints in data.values() if fingerprints]
            other = f"{task}, other data {min(known[0])}"
            for run in runs:
                tasks[run.run] = other
            notes.append(
                f"{side} has other data of {task} at equal seeds: shown as {other!r}, and not compared."
                " All splits count, because runs do not record each split by itself."
            )
    return [replace(run, task=tasks[run.run]) for run in found], notes


def _data_by_seed(runs: Sequence[FoundRun]) -> dict[int, set[str]]:
    """Return seed → the fingerprints of the data at that seed, as far as they are known."""
    data: dict[int, set[str]] = {}
    for run in runs:
        fingerprints = data.setdefault(run.seed, set())
        if run.recorded.data:
            fingerprints.add(run.recorded.data)
    return data


def _matching_data_set(data_sets: Sequence[Mapping[int, set[str]]], data: Mapping[int, set[str]]) -> int:
    """Return the number of the first data set that agrees with ``data`` at every seed, or of a new one."""
    for number, data_set in enumerate(data_sets):
        if all(_agree(data_set.get(seed), fingerprints) for seed, fingerprints in data.items()):
            return number
    return len(data_sets)


def _agree(one: set[str] | None, other: set[str]) -> bool:
    """Return whether data may be the same: they share a fingerprint, or nothing is known of one."""
    return not one or not other or bool(one & other)
