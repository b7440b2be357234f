"""Processes that take runs in turn: one that dies costs its run, not the study.

``python -m nasframe_studies.workers`` is such a process: run directories come in as lines, and news go out as lines of
JSON. It ends as soon as its input does, so that nothing outlives a study that is killed.
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

import nasframe
from nasframe import registry
from nasframe.errors import NasframeError
from nasframe.hookspecs import hookimpl
from nasframe.terminal import tell
from nasframe_studies.settings import StudyRun

LOG = "log.txt"
OWN = (Path(nasframe.__file__).parent, Path(__file__).parent)
"""The folders of nasframe and of this package."""
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
        self.waiting = list(runs)
        self.running: list[StudyRun] = []
        self.done = set(done)
        self.stopped = False
        self.changed = threading.Condition()

    def take(self) -> StudyRun | None:
        """Return the next run whose next stage nobody is going to build; ``None`` when all are handed out."""
        with self.changed:
            while self.waiting:
                for run in self.waiting:
                    if not self._must_wait(run):
                        self.waiting.remove(run)
                        self.running.append(run)
                        return run
                # All that are left need a stage that is being built. Some run works on it, so that news will come.
                self.changed.wait()
            return None

    def _must_wait(self, run: StudyRun) -> bool:
        """Return whether a run would now begin a stage that a running one has in front of it too."""
        unbuilt = [stage for stage in run.stages.values() if stage not in self.done]
        if not unbuilt:
            return False
        return any(unbuilt[0] in other.stages.values() for other in self.running)

    def built(self, stage: str) -> None:
        """Note that a stage's result exists."""
        with self.changed:
            self.done.add(stage)
            self.changed.notify_all()

    def ended(self, run: StudyRun) -> None:
        """Note that a run ended, well or not."""
        with self.changed:
            self.running.remove(run)
            self.changed.notify_all()

    def stop(self) -> None:
        """Hand out no more runs."""
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
        home: the folder to which the runs' directories are relative.
        runs: the runs, whose directories exist.
        done: digests of the stages that are built already.
        jobs: processes.
        threads: CPU threads of each; default: as torch finds them.
        ended: called with each run that ended and its error, or ``None``; never by two threads at a time.
        warned: called with a run and the text of its warning.
    """
    schedule = Schedule(runs, done)
    lock = threading.Lock()  # for ``ended``, which keeps counts
    workers: list[Worker] = []

    def serve() -> None:
        """Give one process one run after the other, and begin a new process after one that died."""
        worker = None
        while True:
            run = schedule.take()
            if run is None:
                return
            if worker is None:  # only for a run: a thread that gets none needs no process
                worker = Worker(threads)
                workers.append(worker)
            error, is_alive = worker.do(home / run.run, _listener(schedule, run, warned))
            if not is_alive:
                worker = None
            if schedule.stopped:  # the study ended the process, so that the run did not fail
                return
            schedule.ended(run)
            with lock:
                ended(run, error)

    count = min(jobs, len(runs))
    # Daemons, because the threads wait for their processes and must not outlive an interrupted study.
    pool = [threading.Thread(target=serve, daemon=True) for _ in range(count)]
    for thread in pool:
        thread.start()
    try:
        for thread in pool:
            thread.join()
    finally:  # also when the study is interrupted
        schedule.stop()
        for worker in workers:
            worker.close()


def _listener(
    schedule: Schedule, run: StudyRun, warned: Callable[[StudyRun, str], None]
) -> Callable[[Mapping[str, str]], None]:
    """Return a function that takes the news of a run's stages and warnings."""

    def listen(news: Mapping[str, str]) -> None:
        if "stage" in news:
            schedule.built(run.stages[news["stage"]])
        else:
            warned(run, news["warning"])

    return listen


class Worker:
    """A process that does one run after the other.

    Args:
        threads: its CPU threads; default: as torch finds them.
    """

    def __init__(self, threads: int | None = None) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nasframe_studies.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # an interrupt reaches the study alone, which then ends the process
        )

    def do(self, directory: Path, listen: Callable[[Mapping[str, str]], None]) -> tuple[str | None, bool]:
        """Bring a run to its end.

        Args:
            directory: the run's directory.
            listen: called with ``{"stage": name}`` when a stage is done, with ``{"warning": text}`` on a warning.

        Returns:
            The error that ended the run, or ``None``; and whether the process is still alive.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the process is dead, so that its output ends at once
            self.process.stdin.write(f"{directory.resolve()}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            news = json.loads(line)
            if "error" in news:
                return news["error"], True
            listen(news)
        return _cause_of_death(self.process.wait()), False

    def close(self) -> None:
        """End the process, even in the middle of a run, which can be resumed from there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # at which the process ends itself
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def _cause_of_death(code: int) -> str:
    """Return how a process ended that could not report it.

    Args:
        code: its exit code; negative for the number of a signal.
    """
    if code >= 0:
        return f"its process ended with exit code {code}"
    number = -code
    name = f"signal {number}"
    if number in signal.valid_signals():
        name = signal.Signals(number).name
    # It is what Linux ends a process with when memory runs out.
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"its process was killed ({name}){hint}"


# ---- inside the process


class StageNotifier:
    """A plugin that sends news of every stage that is done."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        self.send = send

    @hookimpl
    def stage_finished(self, stage: str) -> None:
        """Send the name of the stage."""
        self.send({"stage": stage})


def main() -> None:
    """Do the runs that standard input names."""
    # Standard output itself goes to each run's log, so news are sent through a copy of it.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:

        def send(news: Mapping[str, Any]) -> None:
            output.write(json.dumps(news) + "\n")
            output.flush()

        jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
        while True:
            error = _attempt(Path(jobs.get()), send)
            _free_memory()
            send({"error": error})


def _read_jobs(jobs: queue.SimpleQueue[str]) -> None:
    """Queue the directories that come in; when the input ends, the study has ended, and so does this process."""
    for line in sys.stdin:
        jobs.put(line.rstrip("\n"))
    os._exit(0)  # from this thread, which cannot stop the main one in the middle of a run otherwise


def _attempt(directory: Path, send: Callable[[Mapping[str, Any]], None]) -> str | None:
    """Resume a run, with all that it prints in its log; return its error, if any."""
    from filelock import FileLock

    log = os.open(directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    registry.plugins.cache_clear()  # plugins of the last run's recipe
    registry.plugin_manager().register(StageNotifier(send))
    warnings.showwarning = _warning_sender(send)
    try:
        from nasframe.running import runner

        with FileLock(directory / ".lock", timeout=PATIENCE):
            pass  # only wait: the run itself takes the lock
        runner.resume(directory, progress=False, report=False)
    except NasframeError as error:
        tell(error)
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _warning_sender(send: Callable[[Mapping[str, Any]], None]) -> Callable[..., None]:
    """Return a function that writes warnings to the log, and sends nasframe's own to the study."""

    def show(message: Warning, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)
        if any(Path(filename).is_relative_to(folder) for folder in OWN):
            send({"warning": str(message)})

    return show


def _free_memory() -> None:
    """Return to the system the memory that a run has freed; otherwise the process grows with every run."""
    from nasframe.training import optim

    gc.collect()
    optim.return_freed_memory()


if __name__ == "__main__":
    main()
