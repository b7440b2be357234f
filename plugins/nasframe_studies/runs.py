"""Makes the table of a study out of runs that exist: sorts them into arms, tasks and seeds.

The steps are those of :func:`as_study`: find every run, name the arms, join parts of studies, set runs on other data
apart, and describe the result by the same records as a study's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe_studies.arm_names import distinct_names, options_of
from nasframe_studies.checks import group_problems
from nasframe_studies.found import FoundRun, Place, find_runs
from nasframe_studies.parts import (
    joined_settings,
    refuse_copies,
    refuse_equal,
    refuse_unlike_arms,
    without_duplicates,
)
from nasframe_studies.results import frame_of
from nasframe_studies.settings import FAMILIES, SPLITS, Settings

if TYPE_CHECKING:
    import pandas as pd


def as_study(
    places: Sequence[str],
    against: str | None = None,
    metric: str | None = None,
    models: Sequence[str] | None = None,
    split: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    family: str | None = None,
    prefer: str | None = None,
) -> tuple[pd.DataFrame, Settings]:
    """Return the table of a study made out of runs that exist, with its settings.

    Runs of one recipe are one arm, whatever their seed, task and name. Arms whose recipes have the same name are named
    after the options in which they differ, including those of the task. If runs used different data at the same seed,
    they are listed as separate tasks, unless one study made them. Parts of one study, with some of its arms, tasks or
    seeds each, are joined and compared as the study compares them; notes say what was joined and chosen.

    Args:
        places: run directories, folders with run directories or studies in them, studies. ``NAME=PLACE`` names the
            arm, and the arms of a study ``NAME/arm``.
        against: the reference: an arm, or one of ``places``; default: the first arm.
        metric: the metric to compare; default: each task's primary metric.
        models: patterns of the models to compare.
        split: whose examples' scores to compare: ``dev``, ``select`` or ``train``; default: the study's, else ``dev``.
        groups: name → patterns of tasks whose models are compared with each other under that name.
        family: what Holm's adjustment counts together, ``task`` or ``page``; default: the study's, else ``task``.
        prefer: one of ``places``, whose runs count if others are the same arm, task and seed.

    Returns:
        The table, as :func:`nasframe_studies.study.collect` returns it, and the settings of the study. Its run
        directories are absolute.

    Raises:
        UsageError: a place holds no run; two runs are the same arm, task and seed, or copies of one run; parts of a
            study do not fit together; there is no such split or family; a group fits no task, or a task of another
            group.
    """
    _check_choices(split, family)
    found: list[FoundRun] = []
    for place in places:
        found += find_runs(Place.read(place))
    options: dict[str, Any] = {
        "metric": metric,
        "models": list(models or ()),
        "split": split,
        "groups": groups,
        "family": family,
    }
    given = {key: value for key, value in options.items() if value}  # all others stay as the study has them
    # In this order: the settings of a study are found by the names of its arms, and which runs are the same is only
    # known when arms have their names and runs on other data their tasks.
    found = _name_arms(found)
    refuse_copies(found)
    refuse_unlike_arms(found)
    study, notes = joined_settings(found, [*given, "against"] if against else given)
    found, choices = without_duplicates(found, prefer)
    found, separations = _separate_data(found)
    notes += [*choices, *separations]
    _check_groups(groups or {}, found)
    refuse_equal(found)
    if against:
        given["against"] = _reference(against, found)
    arms = list(dict.fromkeys(run.arm for run in found))
    study = replace(
        study,
        study=study.study or _title(arms),
        arms=study.arms or {arm: {} for arm in arms},
        compare=replace(study.compare, **given),
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


def _reference(against: str, found: Sequence[FoundRun]) -> str:
    """Return the arm that ``against`` names, itself or by its place."""
    for run in found:
        if run.place.text.rstrip("/") == against.rstrip("/"):
            return run.arm
    return against


# ---- settings


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
