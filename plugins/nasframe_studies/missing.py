"""Why runs of a comparison have no results, and why a comparison has none, as their directories show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.declarations import matching
from nasframe.errors import UnsatisfiableError, listing, suggestion
from nasframe_studies.records import MissingRun
from nasframe_studies.settings import CompareOptions, Settings, StudyRun, missing

if TYPE_CHECKING:
    import pandas as pd

    from nasframe.report.records import ModelRow, StageRow

LONGEST = 240
"""Characters of an error that a line about its run repeats; the page has the whole error."""


@dataclass(frozen=True)
class Reason:
    """Why a run has no results.

    Args:
        what: what became of the run, such as ``failed in search``.
        error: the error that it failed with, if any.
    """

    what: str
    error: str = ""

    def __str__(self) -> str:
        line = self.error.partition("\n")[0]  # it becomes a part of one line
        if not line:
            return self.what
        if len(line) > LONGEST:
            line = f"{line[: LONGEST - 1]}…"
        return f"{self.what}: {line}"


def missing_runs(directory: Path, study: Settings, frame: pd.DataFrame) -> list[MissingRun]:
    """Return the runs without results, each with the reason.

    Args:
        directory: the folder to which the runs' directories are relative.
        study: as :func:`nasframe_studies.study.settings` returns.
        frame: as :func:`nasframe_studies.study.collect` returns.
    """
    without_rows = []
    for run in missing(study, frame):
        reason = why_missing(directory / run.run, study.compare.metric, study.compare.split)
        without_rows.append(MissingRun(**run.columns, why=str(reason), error=reason.error or None))
    return without_rows


def why_missing(place: Path, metric: str | None = None, split: str = "dev") -> Reason:
    """Return why a run has no results.

    Args:
        place: the run's directory.
        metric: the compared metric; ``None`` for the task's primary metric.
        split: the split whose scores are compared.
    """
    from nasframe.report.read import read_run

    if not (place / "run.db").is_file():
        return Reason("its run directory is gone: deleted, or never copied here")
    report = read_run(place, examples=False)
    if report.finished:
        return Reason(f"finished, but without {metric or report.metric} on {split}")
    # Before the failure: a run that is tried again holds its last one until its stages begin.
    if is_locked(place):
        return Reason("still running")
    if report.failure is not None:
        return _failed(report.failure)
    return _stopped(report.stages)


def _failed(failure: Mapping[str, Any]) -> Reason:
    where = f"in {failure['stage']}" if failure["stage"] else "before its first stage"
    if failure["interrupted"]:  # its text says no more than that
        return Reason(f"interrupted {where}")
    if failure["exit_code"] == UnsatisfiableError.exit_code:
        return Reason("unsatisfiable budget (exit 3)", failure["text"])
    return Reason(f"failed {where}", failure["text"])


def _stopped(stages: Sequence[StageRow]) -> Reason:
    """Return how far a run came that recorded no failure."""
    # A process that is killed records nothing: the first stage that is not done is where it was.
    if not stages:
        return Reason("never started")
    for stage in stages:
        if stage.state == "failed":
            return Reason(f"failed in {stage.name}", "its error was not kept")
        if stage.state != "done":
            return Reason(f"interrupted in {stage.name}")
    return Reason(f"interrupted after {stages[-1].name}")


def is_locked(place: Path) -> bool:
    """Return whether a process works on a run."""
    from filelock import FileLock, Timeout

    # To take a lock makes its file, which asking about a run should not do.
    if not (place / ".lock").exists():
        return False
    try:
        with FileLock(place / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written to
        return False


def why_nothing(directory: Path, runs: Sequence[StudyRun], compare: CompareOptions) -> str:
    """Return why runs leave nothing to compare: what they measured, and what was wanted.

    Args:
        directory: the folder to which the runs' directories are relative.
        runs: the runs.
        compare: the metric, split and models that were wanted.
    """
    from nasframe.report.read import finished, read_run

    places = [directory / run.run for run in runs]
    reports = [read_run(place, examples=False) for place in places if finished(place)]
    if not reports:
        return "nothing to compare: no run is finished."
    models: list[ModelRow] = []
    for report in reports:
        models += report.models
    reasons = _unmeasured(models, compare)
    # The places of runs that no study made are absolute, and there is no directory that could be named.
    shown = directory if directory.name else "RUN…"
    advice = f"To compare something else: nasframe compare {shown} --metric … --split … --models …"
    return " ".join([f"nothing to compare on {compare.split!r}.", *reasons, advice])


def _unmeasured(models: Iterable[ModelRow], compare: CompareOptions) -> list[str]:
    """Return what of a comparison none of the models have: the split, the metric, or the models themselves."""
    splits: set[str] = set()
    metrics: set[str] = set()
    names: set[str] = set()
    for model in models:
        splits.update(model.metrics)
        # Only models on the compared split can be compared, so only their names and metrics are offered.
        if compare.split in model.metrics:
            names.add(model.name)
            metrics.update(model.metrics[compare.split])
    reasons = []
    if not names:
        reasons.append(f"The scores are on {listing(splits)}.")
    if compare.metric is not None and compare.metric not in metrics:
        hint = suggestion(compare.metric, metrics)
        reasons.append(f"No metric {compare.metric!r}. Metrics: {listing(metrics)}.{hint}")
    for pattern in compare.models or []:
        if not matching(names, [pattern]):
            reasons.append(f"No model {pattern!r}. Models: {listing(names)}.{suggestion(pattern, names)}")
    return reasons
