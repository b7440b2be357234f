"""Processes that take runs in turn: one that dies costs its run, not the study.

``python -m nasframe_studies.workers`` is such a process: run directories come in as lines, what happens goes out as
lines of JSON. It ends at once when its input does, so that nothing outlives a study that is killed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.errors import NasframeError
from nasframe.hookspecs import hookimpl
from nasframe_studies.settings import StudyRun

LOG = "log.txt"
OWN = Path(__file__).parents[1]
PATIENCE = 60.0  # seconds until the process of a killed study has let go of a run


class Schedule:
    """Hands out runs so that none waits for a stage that another one is building while there is other work.

    Args:
        runs: the runs, with the digests of their stages.
        done: digests of the stages that are built already.

    >>> first = StudyRun("a", "task", 0, "runs/a", stages={"teacher": "t", "search": "x"})
    >>> second = StudyRun("b", "task", 0, "runs/b", stages={"teacher": "t", "search": "y"})
    >>> other = StudyRun("c", "task", 0, "runs/c", stages={"teacher": "u", "search": "z"})
    >>> schedule = Schedule([first, second, other])
    >>> schedule.take().arm, schedule.take().arm
    ('a', 'c')
    >>> schedule.built("t")
    >>> schedule.take().arm
    'b'
    """

    def __init__(self, runs: Sequence[StudyRun], done: Iterable[str] = ()) -> None:
        self.waiting, self.running = list(runs), list[StudyRun]()
        self.done, self.stopped = set(done), False
        self.changed = threading.Condition()

    def take(self) -> StudyRun | None:
        """Return the next run whose next stage nobody is going to build; ``None`` when all are handed out."""
        with self.changed:
            while self.waiting:
                for run in self.waiting:
                    ahead = next((stage for stage in run.stages.values() if stage not in self.done), None)
                    if ahead is None or not any(ahead in other.stages.values() for other in self.running):
                        self.waiting.remove(run)
                        self.running.append(run)
                        return run
                self.changed.wait()
            return None

    def built(self, stage: str) -> None:
        """Note that a stage's result is there."""
        with self.changed:
            self.done.add(stage)
            self.changed.notify_all()

    def ended(self, run: StudyRun) -> None:
        """Note that a run ended, well or not."""
        with self.changed:
            self.running.remove(run)
            self.changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing any more."""
        with self.changed:
            self.stopped = True
            self.waiting.clear()
            self.changed.notify_all()


def work_through(
    home: Path,
    runs: Sequence[StudyRun],
    done: Iterable[str],
    jobs: int,
    threads: int | None,
    ended: Callable[[StudyRun, str | None], None],
    warned: Callable[[StudyRun, str], None],
) -> None:
    """Bring runs to their end, ``jobs`` at a time.

    Args:
        home: the folder against which each run's ``run`` is read.
        runs: as :class:`Schedule` takes them, their directories made.
        done: digests of the stages that are there already.
        jobs: processes.
        threads: CPU threads of each; default: as torch finds them.
        ended: called with each run and what went wrong, or ``None``.
        warned: called with a run and what it warns of.
    """
    schedule, lock = Schedule(runs, done), threading.Lock()
    workers: list[Worker] = []

    def serve() -> None:
        worker = None
        while (run := schedule.take()) is not None:
            if worker is None:
                worker = Worker(threads)
                workers.append(worker)
            error, alive = worker.do(home / run.run, _hearing(schedule, run, warned))
            worker = worker if alive else None
            if schedule.stopped:
                return
            schedule.ended(run)
            with lock:
                ended(run, error)

    servants = [threading.Thread(target=serve, daemon=True) for _ in range(min(jobs, len(runs)))]
    for servant in servants:
        servant.start()
    try:
        for servant in servants:
            servant.join()
    finally:
        schedule.stop()
        for worker in workers:
            worker.close()


def _hearing(
    schedule: Schedule, run: StudyRun, warned: Callable[[StudyRun, str], None]
) -> Callable[[Mapping[str, str]], None]:
    """Make what hears of a run's stages and warnings."""

    def hear(news: Mapping[str, str]) -> None:
        if "stage" in news:
            schedule.built(run.stages[news["stage"]])
        else:
            warned(run, news["warning"])

    return hear


class Worker:
    """A process that does one run after the other.

    Args:
        threads: its CPU threads; default: as torch finds them.
    """

    def __init__(self, threads: int | None = None) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if threads is not None:
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nasframe_studies.workers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment,
            start_new_session=True,  # an interrupt reaches the study alone, which then ends us
        )  # fmt: skip

    def do(self, directory: Path, hear: Callable[[Mapping[str, str]], None]) -> tuple[str | None, bool]:
        """Bring a run to its end.

        Args:
            directory: the run's.
            hear: called with ``{"stage": name}`` when its result is there, with ``{"warning": text}`` when it warns.

        Returns:
            what went wrong, or ``None``; and whether the process is still there.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{directory.resolve()}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            news = json.loads(line)
            if "error" in news:
                return news["error"], True
            hear(news)
        return _last_words(self.process.wait()), False

    def close(self) -> None:
        """End the process, in the middle of a run if there is one: it goes on from there when resumed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def _last_words(code: int) -> str:
    """Say how a process ended that did not say so itself."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"its process was killed ({name})" + (", perhaps for want of memory" if name == "SIGKILL" else "")


# ---- inside the process


class _Herald:
    """Tells the study of every stage."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self.tell = tell

    @hookimpl
    def stage_finished(self, stage: str) -> None:
        self.tell({"stage": stage})


def main() -> None:
    """Do the runs that standard input names."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:

        def tell(news: Mapping[str, Any]) -> None:
            answers.write(json.dumps(news) + "\n")
            answers.flush()

        jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
        while True:
            error = _attempt(Path(jobs.get()), tell)
            _tidy()
            tell({"error": error})


def _listen(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line.rstrip("\n"))
    os._exit(0)


def _attempt(directory: Path, tell: Callable[[Mapping[str, Any]], None]) -> str | None:
    """Go on with a run; whatever it prints goes to its log. Returns what went wrong."""
    from filelock import FileLock

    log = os.open(directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    registry.plugins.cache_clear()  # plugins of the last run's recipe
    registry.plugin_manager().register(_Herald(tell))
    warnings.showwarning = _telling(tell)
    try:
        from nasframe.running import runner

        with FileLock(directory / ".lock", timeout=PATIENCE):
            pass
        runner.resume(directory, progress=False, report=False)
    except NasframeError as error:
        print(error, file=sys.stderr)
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _telling(tell: Callable[[Mapping[str, Any]], None]) -> Callable[..., None]:
    """Show warnings in the log; nasframe's own are news for the study, too."""

    def show(message: Warning, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)
        if Path(filename).is_relative_to(OWN):
            tell({"warning": str(message)})

    return show


def _tidy() -> None:
    """Give back what the run has freed: training keeps it, and a heap that many runs leave holes in only grows."""
    from nasframe.training import optim

    gc.collect()
    optim.return_freed_memory()


if __name__ == "__main__":
    main()
