"""Running a study: making the directories of all its runs, bringing them to their end, writing its report.

:func:`begin` lays everything out on disk and :func:`go_on` works from there alone, so that a study that was stopped at
any moment is resumed by the same code that runs it the first time.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nasframe.digests import file_digest
from nasframe.errors import NasframeError, UsageError, in_shell
from nasframe.recipe.yaml import dump, read
from nasframe.report.read import finished
from nasframe.running.cache import default_folder
from nasframe.running.cache_keys import chains
from nasframe.storage import refuse_unwritable
from nasframe.store import RunStore, write_text
from nasframe_studies.conditions import notice_line, notices
from nasframe_studies.file import Study, load_study
from nasframe_studies.metric_check import check_metric
from nasframe_studies.processors import other_machine_note
from nasframe_studies.results import FACTS, collect, network_of, run_rows, volatile
from nasframe_studies.settings import SETTINGS, SOURCE, Settings, StudyRun, missing, settings, write_settings
from nasframe_studies.workers import LOG, work_through

__all__ = [
    "FACTS", "SETTINGS", "FailedRun", "Settings", "Study", "StudyRun", "ablate", "begin", "collect", "finished",
    "go_on", "load_study", "missing", "network_of", "run_rows", "settings", "volatile",
]  # fmt: skip


@dataclass(frozen=True)
class FailedRun:
    """A run that failed.

    Args:
        run: the run.
        error: what went wrong.
    """

    run: StudyRun
    error: str

    def plain(self) -> dict[str, Any]:
        """Return the run's settings and its ``error`` as JSON-plain data."""
        return {**asdict(self.run), "error": self.error}


def silent(text: str) -> None:
    """Report nothing."""


def ablate(
    study: Study,
    *,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = silent,
) -> Path:
    """Run a study: every arm on every task with every seed, each distinct stage once.

    Args:
        study: the study, as :func:`load_study` returned it.
        out: the study's directory; default: ``runs/<study>/<time>``.
        cache: the folder of stage results that the runs share; default: ``NASFRAME_CACHE``, else ``~/.cache/nasframe``.
        jobs: processes; the CPU threads are divided between them.
        say: called with each line of progress, such as ``print``.

    Returns:
        The study's directory, with ``study.csv``, ``study.html`` and the runs. Runs that failed are reported through
        ``say`` and have no rows in the table; see :func:`missing`.

    Raises:
        UsageError: ``out`` is not empty, or a task lacks the metric that is compared.
    """
    directory = begin(study, out, cache, jobs)
    go_on(directory, say=say)
    return directory


# ---- making the directory


def begin(
    study: Study,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    jobs: int = 1,
    command: Sequence[str] | None = None,
) -> Path:
    """Make a study's directory with the directories of all its runs, and return it; :func:`go_on` runs them.

    Args:
        study: the study, as :func:`load_study` returned it.
        out: as for :func:`ablate`, like ``cache`` and ``jobs``.
        cache: the folder of stage results.
        jobs: processes.
        command: the command line to record; default: this process's.

    Raises:
        UsageError: the directory is not empty, it or the cache cannot be written, or a task lacks the metric that is
            compared.
    """
    home = Path(out or Path("runs") / study.name / time.strftime("%Y%m%d-%H%M%S"))
    cache_folder = Path(cache or default_folder()).expanduser()
    # All that may be refused comes before anything is written.
    _refuse_used(home)
    refuse_unwritable(home)
    refuse_unwritable(cache_folder)
    check_metric(study)
    record = Settings(
        study=study.name,
        description=study.description,
        source=str(study.source),
        source_digest=file_digest(study.source),
        command=list(command or sys.argv),
        overrides=list(study.overrides),
        smoke=study.smoke,
        arms=dict(study.arms),
        tasks=list(study.tasks),
        seeds=list(study.seeds),
        compare=study.compare,
        cache=str(cache_folder.resolve()),
        jobs=jobs,
        threads=threads_of(jobs),
    )
    # Everything is made under another name and then renamed: a kill leaves a whole study or none.
    draft = home.with_name(f".{home.name}.begun")
    shutil.rmtree(draft, ignore_errors=True)
    runs = []
    for planned, plan in study.runs():
        # The digests say which runs share a stage, by which the runs are ordered when they start.
        run = replace(planned, stages=chains(plan))
        runs.append(run)
        make_run(draft, run, record, plan.recipe)
        write_recipe(draft, run, plan.recipe)
    shutil.copyfile(study.source, draft / SOURCE)
    write_settings(draft, replace(record, runs=runs))
    os.replace(draft, home)
    return home


def _refuse_used(home: Path) -> None:
    """Raise an error if something lies where a study is to begin."""
    if not home.exists() or (home.is_dir() and not any(home.iterdir())):
        return
    hint = ""
    if (home / SETTINGS).exists():
        hint = f" To go on with the study in it: nasframe ablate --resume {in_shell(home)}"
    raise UsageError(f"{home}: not empty; a study is never overwritten.{hint}")


def make_run(home: Path, run: StudyRun, study: Settings, recipe: Mapping[str, Any]) -> None:
    """Make the directory of a run that has not begun."""
    facts = {"command": study.command, "base": run.base, "cache": study.cache, "study": study.study}
    text = dump({**recipe, "seed": run.seed})
    RunStore(home / run.run, create=True, recipe=text, facts=facts).close()


def write_recipe(home: Path, run: StudyRun, recipe: Mapping[str, Any]) -> None:
    """Keep the resolved recipe of a run's arm on its task, from which the run can be made again."""
    path = home / run.recipe
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, dump(recipe))


def make_missing(home: Path, study: Settings) -> list[FailedRun]:
    """Make runs whose directories are gone again; return those that cannot be made, each with the reason."""
    failures = []
    for run in study.runs:
        if (home / run.run / "run.db").is_file():
            continue
        # From the recipe that the study keeps: the files that it was made from may have changed since.
        path = home / run.recipe
        recipe, problems = read(path, str(path))
        try:
            if recipe is None:
                raise UsageError(f"{home / run.run}: no run here, and no recipe to make it from: {problems[0]}")
            make_run(home, run, study, recipe.plain())
        except UsageError as error:
            failures.append(FailedRun(run, str(error)))
    return failures


def threads_of(jobs: int) -> int:
    """Return how many CPU threads each of a number of processes gets; a single one gets as many as torch takes."""
    if jobs == 1:  # as under ``nasframe run``, so that both can use the same cached stages
        import torch

        return torch.get_num_threads()
    usable = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # a container or a batch job may use only some of the CPUs
        usable = len(os.sched_getaffinity(0))
    threads = int(os.environ.get("OMP_NUM_THREADS") or usable)
    return max(1, threads // jobs)


# ---- running


def go_on(directory: str | Path, jobs: int | None = None, say: Callable[[str], None] = silent) -> list[FailedRun]:
    """Bring the unfinished runs of a study to their end, then write its report.

    Args:
        directory: the study's directory.
        jobs: processes; default: as the study began. The threads of each stay the same, because numbers depend on them.
        say: called with each line of progress, such as ``print``.

    Returns:
        The runs that failed.

    Raises:
        UsageError: there is no study in the directory, or another process works on it.
    """
    home = Path(directory)
    with locked(home) as study:
        if source_changed(study):
            say(f"{study.source}: changed since; the study goes on as it began.")
        failures = _run_all(home, study, jobs or study.jobs, say)
        report(home, say)
    return failures


@contextmanager
def locked(home: Path) -> Iterator[Settings]:
    """Keep other processes from working on a study inside the block, which gets the study's settings.

    Raises:
        UsageError: there is no study in the directory, or another process works on it.
    """
    from filelock import FileLock, Timeout

    settings(home)  # before the lock, which would leave a file in a folder without a study
    lock = FileLock(home / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(f"{home}: another process is working on this study. Expected it to be free.") from None
    try:
        yield settings(home)
    finally:
        lock.release()


def source_changed(study: Settings) -> bool:
    """Return whether the file that a study was read from still exists and has other content now."""
    source = Path(study.source)
    if study.source_digest is None or not source.is_file():
        return False
    return file_digest(source) != study.source_digest


def _run_all(home: Path, study: Settings, jobs: int, say: Callable[[str], None]) -> list[FailedRun]:
    """Run what is not finished; return the runs that failed."""
    failures = make_missing(home, study)
    for failure in failures:
        say(f"{study.run_name(failure.run)}: FAILED, the others go on: {failure.error}")
    lost = {failure.run.run for failure in failures}
    runs = [run for run in study.runs if run.run not in lost]
    unfinished = [run for run in runs if not finished(home / run.run)]
    if unfinished:
        note = other_machine_note(home, [run for run in runs if run not in unfinished])
        if note is not None:
            say(note)
    done = _stages_done(home, runs)
    # Runs that are lost have ended, too.
    ended = len(study.runs) - len(unfinished)
    progress = _Progress(home, study, ended, failures, say)
    work_through(home, unfinished, done, jobs, study.threads, ended=progress.ended, warned=progress.warned)
    if failures:
        names = ", ".join(study.run_name(failure.run) for failure in failures)
        say(f"{len(failures)} of {len(study.runs)} runs failed: {names}.")
        say(f"To try them again: nasframe ablate --resume {in_shell(home)}")
    return failures


def _stages_done(home: Path, runs: Sequence[StudyRun]) -> set[str]:
    """Return the digests of the stages that some run has already built."""
    digests = set()
    for run in runs:
        for stage, state in stage_states(home / run.run).items():
            if state == "done":
                digests.add(run.stages[stage])
    return digests


class _Progress:
    """Reports each run that ends, and keeps the failures."""

    def __init__(
        self, home: Path, study: Settings, done: int, failures: list[FailedRun], say: Callable[[str], None]
    ) -> None:
        self.home = home
        self.study = study
        self.done = done
        self.failures = failures
        self.say = say
        self.began = time.monotonic()

    def ended(self, run: StudyRun, error: str | None) -> None:
        """Report how a run ended."""
        self.done += 1
        place = self.home / run.run
        if error:
            self.failures.append(FailedRun(run, error))
            keep_failure(place, error)
            outcome = f"FAILED, the others go on: {error} (see {place / LOG})"
        else:
            outcome = _success(place)
        seconds = time.monotonic() - self.began
        self.say(f"{self.done}/{len(self.study.runs)}  {self.study.run_name(run)}: {outcome}  [{seconds:.0f} s]")

    def warned(self, run: StudyRun, text: str) -> None:
        """Report a warning of a run."""
        self.say(f"{self.study.run_name(run)}: {text}")


def _success(directory: Path) -> str:
    """Return how long a finished run took, and how much of it came from the cache."""
    store = RunStore(directory, shared=True)
    stages = store.stages()
    store.close()
    seconds = sum(stage.run_seconds for stage in stages)
    text = f"done in {seconds:.1f} s"
    cached = sum("cached" in stage.result for stage in stages)
    if cached:
        text += f", {cached} of {len(stages)} stages from the cache"
    return text


def keep_failure(directory: Path, error: str) -> None:
    """Record in a run's directory what ended it, if its process died before it could do so itself."""
    try:
        store = RunStore(directory, shared=True)
    except NasframeError:  # the directory is gone or damaged, which the study reports anyway
        return
    try:
        if store.get("failure") is None:  # what the run itself recorded is closer to the cause
            unfinished = [stage.name for stage in store.stages() if stage.state != "done"]
            stage = unfinished[0] if unfinished else None
            store.put("failure", {"stage": stage, "text": error, "interrupted": False, "exit_code": 1})
    finally:
        store.close()


def stage_states(directory: Path) -> dict[str, str]:
    """Return the state of every stage that a run began, by name."""
    store = RunStore(directory, shared=True)
    stages = store.stages()
    store.close()
    return {stage.name: stage.state for stage in stages}


# ---- reporting


def report(directory: Path, say: Callable[[str], None]) -> None:
    """Write the study's table, statistics and pages from the runs that are finished."""
    from nasframe_studies import report as study_report

    study = settings(directory)
    try:
        study_report.write(directory, collect(directory), study)
    except UsageError as error:  # there is nothing to compare; the notices are printed all the same
        say(str(error))
    arms = list(dict.fromkeys(run.arm for run in study.runs))
    for notice in notices(directory, study):
        say(notice_line(notice, arms))
