"""Why runs of a comparison have no results: what their directories say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe_studies.settings import Settings, missing

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 240
"""Characters of an error that a line about its run repeats; the page has the whole error."""
UNSATISFIABLE = 3  # exit code


@dataclass(frozen=True)
class Reason:
    """Why a run has no results.

    Args:
        what: what became of the run, such as ``failed in search``.
        error: what it failed with, or nothing.
    """

    what: str
    error: str = ""

    def __str__(self) -> str:
        line = self.error.partition("\n")[0]
        shortened = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
        return f"{self.what}: {shortened}" if shortened else self.what


@dataclass(frozen=True)
class MissingRun:
    """A run without results, as ``study.json`` lists it.

    Args:
        arm: the arm's name.
        task: the task's name.
        seed: the run's seed.
        run: the run's directory.
        why: the reason, in a line.
        error: the whole error that it failed with, if any.
    """

    arm: str
    task: str
    seed: int
    run: str
    why: str
    error: str | None


def missing_runs(directory: Path, settings: Settings | Mapping[str, Any], frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the runs without results, each with the reason, as ``study.json`` lists them.

    Args:
        directory: the folder to which the runs' directories are relative.
        settings: as :func:`nasframe_studies.study.settings` returns, or the same as plain data.
        frame: as :func:`nasframe_studies.study.collect` returns.
    """
    study = Settings.of(settings)
    rows = []
    for run in missing(study, frame):
        reason = why_missing(directory / run.run, study.compare.metric, study.compare.split)
        row = MissingRun(**run.columns, why=str(reason), error=reason.error or None)
        rows.append(asdict(row))
    return rows


def why_missing(place: Path, metric: str | None = None, split: str = "dev") -> Reason:
    """Say why a run has no results.

    Args:
        place: the run's directory.
        metric: what was to be compared; ``None`` for the task's primary metric.
        split: which examples' scores were.
    """
    from nasframe.report.read import gather

    if not (place / "run.db").is_file():
        return Reason("its run directory is gone: deleted, or never copied here")
    report = gather(place)
    if report["finished"]:
        return Reason(f"finished, but without {metric or report['metric']} on {split}")
    if is_locked(place):
        return Reason("still running")
    if report["failure"] is not None:
        return _failed(report["failure"])
    stopped = next((stage for stage in report["stages"] if stage["state"] != "done"), None)
    if stopped is not None and stopped["state"] == "failed":
        return Reason(f"failed in {stopped['name']}", "its error was not kept")
    if stopped is not None:
        return Reason(f"interrupted in {stopped['name']}")
    if report["stages"]:
        return Reason(f"interrupted after {report['stages'][-1]['name']}")
    return Reason("never started")


def _failed(failure: Mapping[str, Any]) -> Reason:
    where = f"in {failure['stage']}" if failure["stage"] else "before its first stage"
    if failure["interrupted"]:
        return Reason(f"interrupted {where}")
    if failure["exit_code"] == UNSATISFIABLE:
        return Reason("unsatisfiable budget (exit 3)", failure["text"])
    return Reason(f"failed {where}", failure["text"])


def is_locked(place: Path) -> bool:
    """Tell whether a process works on a run."""
    from filelock import FileLock, Timeout

    if not (place / ".lock").exists():
        return False
    try:
        with FileLock(place / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written to
        return False
