"""Finds the runs in places that a user names, and reads what tells them apart: arm, task, seed, recipe, data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasframe.errors import UsageError
from nasframe.report.read import finished
from nasframe.store import RunStore
from nasframe_studies.settings import SETTINGS, StudyRun
from nasframe_studies.settings import settings as read_settings

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
        is_finished: whether all of its stages are done.
    """

    identity: str
    name: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    is_finished: bool = False

    @property
    def arm_recipe(self) -> dict[str, Any]:
        """The recipe without what may differ within an arm."""
        return {key: value for key, value in self.recipe.items() if key not in OUTSIDE_ARMS}

    @property
    def task_options(self) -> dict[str, Any]:
        """The options of the recipe's task."""
        if "task" not in self.recipe:  # the run's directory is gone
            return {}
        return task_options_of(self.recipe["task"])


@dataclass(frozen=True)
class FoundRun:
    """A run that was found in one of the places.

    Args:
        place: the place.
        run: the run's directory, absolute.
        recorded: what the directory holds.
        arm: the arm's name. Until arms are told apart it is the recipe's name, unless ``is_named``.
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


def find_runs(place: Place) -> list[FoundRun]:
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
        recorded=recorded_of(directory),
        arm=arm,
        is_named=True,
        task=run.task,
        seed=run.seed,
        study=str(home),
    )


def _of_no_study(place: Place, directory: Path) -> FoundRun:
    recorded = recorded_of(directory)
    return FoundRun(
        place=place,
        run=str(directory),
        recorded=recorded,
        arm=place.label or recorded.name,
        is_named=bool(place.label),
        task=_task_name(recorded.recipe.get("task")),
        seed=int(recorded.recipe.get("seed") or 0),
    )


def recorded_of(directory: Path) -> Recorded:
    """Read what a run's directory holds of it."""
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
        is_finished=finished(directory),
    )


def _task_name(task: Any) -> str:
    """Return the name of a recipe's task: its ``name``, or else its file or its plugin.

    >>> _task_name({"use": "glue", "name": "sst2"}), _task_name({"use": "text", "train": "d/reviews.csv"})
    ('sst2', 'reviews')
    """
    if not isinstance(task, Mapping):
        return str(task or "task")
    return str(task.get("name") or Path(str(task.get("train") or task.get("use"))).stem)


def task_options_of(task: Any) -> dict[str, Any]:
    """Return the options of a recipe's task, without its name and the places of its files.

    >>> task_options_of({"use": "glue", "name": "sst2", "path": "/data/SST-2", "max_length": 32})
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
