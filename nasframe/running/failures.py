"""Errors that end a run early: kept in its database for the report, and shown with advice on how to go on."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nasframe.errors import NasframeError, RunError, in_shell
from nasframe.plugin_errors import described
from nasframe.processes import leader
from nasframe.storage import disk_problem

if TYPE_CHECKING:
    from nasframe.plan import Plan
    from nasframe.store import RunStore


@contextmanager
def keeping_failure(store: RunStore, plan: Plan | None = None) -> Iterator[None]:
    """Keep the error that ends the block in a run's database, and let it through.

    Args:
        store: the run's.
        plan: its plan, to name the stage; ``None`` if there is none yet.
    """
    # BaseException, because reports show an interrupted run as such, too.
    try:
        yield
    except BaseException as error:
        with suppress(RunError):  # the database may be what the error is about
            keep_failure(store, plan, error)
        raise


@contextmanager
def advising(store: RunStore, plan: Plan) -> Iterator[None]:
    """Keep the error that ends the stages of a run, and add a note to it on how to go on.

    Raises:
        RunError: a library or a plugin met an error of the disk; names the file.
    """
    try:
        yield
    except BaseException as error:
        failure = _naming_file(error)
        with suppress(RunError):  # the database may be what the error is about
            keep_failure(store, plan, failure)
            for line in _advice(plan, store, error):
                failure.add_note(line)
        if failure is error:
            raise
        raise failure from error


def keep_failure(store: RunStore, plan: Plan | None, error: BaseException) -> None:
    """Keep why a run ended early.

    Args:
        store: the run's.
        plan: its plan, to name the stage; ``None`` if there is none yet.
        error: what ended it.
    """
    # Only the first process writes. And a resume that is refused does not undo a finished run.
    if not leader() or store.get("finished"):
        return
    text = str(error) if isinstance(error, NasframeError) else described(error)
    stage = None
    if plan is not None:
        stage = _first_stage(plan, store, {"failed"})
    failure: dict[str, Any] = {
        "stage": stage,
        "text": text,
        "interrupted": not isinstance(error, Exception),
        "exit_code": getattr(error, "exit_code", 1),
    }
    store.put("failure", failure)


def _first_stage(plan: Plan, store: RunStore, states: Container[str]) -> str | None:
    """Return the name of the first stage in one of some states, if there is one."""
    for stage in plan.stages:
        if store.stage_state(stage.name) in states:
            return stage.name
    return None


def _naming_file(error: BaseException) -> BaseException:
    """Return an error of the disk as one that names the file; return any other error as it is."""
    if not isinstance(error, OSError):
        return error
    problem = disk_problem(error)
    if problem is None:
        return error
    return RunError(problem)


def _advice(plan: Plan, store: RunStore, error: BaseException) -> Iterator[str]:
    """Yield lines that say in which stage a run ended, and what can be done about it."""
    stage = _first_stage(plan, store, {"new", "running", "failed"})
    place = ""
    if stage is not None:  # else the report failed
        verb = "failed" if isinstance(error, Exception) else "was stopped"
        place = f"Stage {stage!r} {verb}. "
    has_cache = store.get("cache") is not None
    if not getattr(error, "resumable", True):  # a budget is out of reach, and will be in a resume
        if has_cache:
            reuse = "stages before the change come from the cache"
        else:
            reuse = "--cache DIR keeps finished stages for that"
        yield f"{place}A resume would end in the same way. Change the recipe and run it again; {reuse}."
        return
    yield f"{place}Go on with: nasframe run --resume {in_shell(store.directory)}"
    if has_cache:
        yield "Or change the recipe and run it again: stages before the change come from the cache."
