"""What ``study.yaml`` in a study's directory holds, as records: the study as it was resolved, with its runs.

``nasframe ablate`` writes it before anything runs; it is all that is needed to go on with the study, and to compare its
arms. :func:`nasframe_studies.runs.as_study` makes the same records from runs that no study made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nasframe.declarations import Budgets
from nasframe.errors import UsageError
from nasframe.recipe.yaml import Position, dump, parse
from nasframe.store import write_text

if TYPE_CHECKING:
    import pandas as pd

Record = TypeVar("Record")

FORMAT_VERSION = 1
SETTINGS = "study.yaml"
"""The name of the file."""
SOURCE = "source.yaml"
"""The name of the copy of the file that the study was read from, which is needed to extend the study."""
SPLITS = ("dev", "select", "train")
FAMILIES = ("task", "page")
"""What Holm's adjustment counts as one family: the comparisons of each task's tables, or all those of the page."""


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: an arm, on a task, with a seed.

    Args:
        arm: the arm's name.
        task: the task's name.
        seed: the run's seed.
        run: the run's directory, relative to the study's; absolute if the runs are of no one study.
        base: the folder from which the run's recipe reads relative paths.
        stages: stage → digest of it and all stages before it. Runs share stages that have the same digest.

    >>> StudyRun("random", "mrpc", 0, "runs/random/mrpc/seed-0").recipe
    'recipes/random/mrpc.yaml'
    """

    arm: str
    task: str
    seed: int
    run: str
    base: str = ""
    stages: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the run in its study: arm, task and seed."""
        return self.arm, self.task, self.seed

    @property
    def recipe(self) -> str:
        """The file of the resolved recipe of its arm on its task, relative to the study's directory."""
        arm_and_task = Path(self.run).parts[1:-1]  # between "runs" and the seed; a study may have no tasks
        return "/".join(["recipes", *arm_and_task]) + ".yaml"

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of a study's table that say which run a row is of."""
        return {"arm": self.arm, "task": self.task, "seed": self.seed, "run": self.run}


@dataclass(frozen=True)
class CompareOptions:
    """The ``compare:`` section of a study.

    Args:
        metric: the metric to compare; ``None`` for each task's primary metric.
        split: whose examples' scores to compare, one of :data:`SPLITS`.
        against: the reference arm; ``None`` for the first.
        budgets: budgets of every arm's searches.
        models: patterns of the models to compare; ``None`` to choose them budget by budget.
        groups: name → patterns of tasks whose models are compared under that name.
        family: what Holm's adjustment counts together, one of :data:`FAMILIES`.
    """

    metric: str | None = None
    split: str = "dev"
    against: str | None = None
    budgets: Budgets | None = None
    models: Sequence[str] | None = None
    groups: Mapping[str, Sequence[str]] | None = None
    family: str = "task"


@dataclass(frozen=True)
class Settings:
    """A study as it was resolved, with its runs.

    Args:
        study: the study's name.
        description: the text of its report.
        source: the file that it was read from.
        source_digest: the SHA-256 of that file when the study began.
        command: the command line that began it.
        overrides: the overrides that it began with, and those that extended it since.
        smoke: whether it was made small.
        arms: name → ``base``, ``tasks`` and ``changes`` (overrides by dotted path), as written.
        tasks: names of the tasks; empty if the study has only the task of its recipes.
        seeds: the seeds, in order.
        compare: what is compared.
        cache: the folder of stage results.
        jobs: processes.
        threads: CPU threads of each run.
        runs: all runs, in the order in which they are started.
        notes: remarks for the report, about runs that no study made; not part of ``study.yaml``.
    """

    study: str = ""
    description: str = ""
    source: str = ""
    source_digest: str | None = None
    command: Sequence[str] = field(default_factory=list)
    overrides: Sequence[str] = field(default_factory=list)
    smoke: bool = False
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tasks: Sequence[str] = field(default_factory=list)
    seeds: Sequence[int] = field(default_factory=list)
    compare: CompareOptions = CompareOptions()
    cache: str = ""
    jobs: int = 1
    threads: int | None = None
    runs: Sequence[StudyRun] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)

    @classmethod
    def of(cls, plain: Settings | Mapping[str, Any]) -> Settings:
        """Return the record of settings that are plain data; keys that are missing keep their defaults."""
        if isinstance(plain, Settings):
            return plain
        values = _fields_of(cls, plain)
        # Plain data may hold records already, as when settings are changed with ``plain() | {...}``.
        runs = plain.get("runs") or []
        values["runs"] = [_record(StudyRun, run) for run in runs]
        values["compare"] = _record(CompareOptions, plain.get("compare") or {})
        return cls(**values)

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON-plain data, with the keys of ``study.yaml`` and ``notes``."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    def run_name(self, run: StudyRun) -> str:
        """Return the name of a run for a reader; the task is left out if there is only one.

        >>> Settings().run_name(StudyRun("random", "mrpc", 3, "runs/random/seed-3"))
        'random seed 3'
        """
        if self.tasks:
            return f"{run.arm} {run.task} seed {run.seed}"
        return f"{run.arm} seed {run.seed}"


def _record(kind: type[Record], plain: Record | Mapping[str, Any]) -> Record:
    """Return plain data as a record; records stay what they are."""
    if not isinstance(plain, Mapping):
        return plain
    return kind(**_fields_of(kind, plain))


def _fields_of(record: type[Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Pick a record's fields; a study of another version may have keys that this one does not know."""
    names = [item.name for item in fields(record)]
    return {name: plain[name] for name in names if name in plain}


def settings(directory: str | Path) -> Settings:
    """Return the settings of the study in a directory.

    Raises:
        UsageError: there is no study in the directory.
    """
    path = Path(directory) / SETTINGS
    plain = None
    if path.is_file():
        node, _ = parse(path.read_text(encoding="utf-8"), Position(str(path), 1, 1))
        if node is not None:
            plain = node.plain()
    # A study as users write it may have the same name; it has no version.
    if not isinstance(plain, dict) or plain.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{directory}: no study here. Expected a directory that 'nasframe ablate' made.")
    return Settings.of(plain)


def write_settings(directory: Path, study: Settings) -> None:
    """Write ``study.yaml``."""
    plain = study.plain()
    del plain["notes"]  # they are about one comparison
    write_text(directory / SETTINGS, dump(plain))


def missing(study: Settings, frame: pd.DataFrame) -> list[StudyRun]:
    """Return the runs of a study that have no row in a table.

    Args:
        study: as :func:`settings` returns.
        frame: as :func:`nasframe_studies.study.collect` returns.
    """
    keys = zip(frame["arm"], frame["task"], frame["seed"], strict=True)
    present = set(keys)
    return [run for run in study.runs if run.key not in present]
