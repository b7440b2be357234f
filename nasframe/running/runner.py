"""Runs a plan: stages in order, each result stored before the next begins, so that a kill loses one stage at most.

In a distributed run every process trains. All other work is done by the first process alone, and the others read the
results that it stores.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import RunError, UsageError
from nasframe.notices import Notice, say
from nasframe.plan import Plan
from nasframe.plugin_errors import naming_plugins
from nasframe.processes import distributed, from_leader, join_processes, leader
from nasframe.progress import Progress
from nasframe.reads import UNKNOWN, Recorder
from nasframe.recipe.resolve import resolve
from nasframe.recipe.yaml import dump
from nasframe.records import StoredModel, canonical_json
from nasframe.report.data_table import data_text
from nasframe.running.cache import Cache
from nasframe.running.cached_run import CachedRun
from nasframe.running.environment import write_environment
from nasframe.running.failures import advising, keeping_failure
from nasframe.running.readiness import preflight
from nasframe.running.reopen import kept_plan
from nasframe.running.snapshots import Snapshots
from nasframe.running.start import Start, begin
from nasframe.stages.inputs import RunInputs
from nasframe.stages.model_store import keep_models
from nasframe.stages.session import Session, StageSession
from nasframe.stages.verbs import perform
from nasframe.storage import refuse_unwritable, writing
from nasframe.store import RunStore, refuse_existing
from nasframe.terminal import tell

if TYPE_CHECKING:
    import pandas as pd

    from nasframe.interfaces import Work
    from nasframe.plan import PlannedStage
    from nasframe.recipe.loading import Recipe


@dataclass(frozen=True)
class Run:
    """A finished run, read from its directory.

    Args:
        directory: the run directory, as :func:`run` made it.
    """

    directory: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory))

    @property
    def models(self) -> dict[str, Path]:
        """Name → Hugging Face directory of every model that was written."""
        store = RunStore(self.directory, shared=True)
        paths = store.model_paths()
        store.close()
        return paths

    @property
    def trials(self) -> pd.DataFrame:
        """Every trial of every search, one row each, JSON columns spread out."""
        from nasframe.report.page import trials_frame

        return trials_frame(self.directory)

    @property
    def front(self) -> pd.DataFrame:
        """The trials that no other one beats in the score and in every cost of the budgets or objectives."""
        from nasframe.report.page import front_frame

        return front_frame(self.directory)

    def report(self) -> dict[str, Any]:
        """Write ``report.json``, ``.md``, ``.html`` and the figures again, and return the first."""
        from nasframe.report.page import build

        return build(self.directory)


@naming_plugins()
def run(
    recipe: Recipe | Plan,
    *,
    out: str | Path | None = None,
    progress: bool | None = None,
    cache: str | Path | None = None,
    report: bool = True,
    shows_data: bool = True,
) -> Run:
    """Run a recipe in a fresh directory.

    Args:
        recipe: what :func:`nasframe.load_recipe` returned, or the plan that :func:`nasframe.resolve` made of it.
        out: the run directory; default ``runs/<name>/<time>-<hash>``.
        progress: show bars; default on a terminal only.
        cache: a folder of stage results, to take from and to add to; default: every stage is run.
        report: write the report at the end; :meth:`Run.report` writes it at any time.
        shows_data: print the table of the data before the first stage.

    Returns:
        The finished run.

    Raises:
        RecipeError: the recipe cannot work; nothing was written.
        UsageError: ``out`` is not empty, ``out`` or ``cache`` cannot be written, or several processes were to share
            a cache.
        RunError: the disk or the database failed on the way; names the file.
        UnsatisfiableError: no architecture can meet a budget; nothing was written.
        PluginError: a plugin raised; the text names it and its moment, the original is the cause.
    """
    plan = recipe if isinstance(recipe, Plan) else resolve(recipe)
    # If the first process took a training from the cache, the others would wait in it for ever.
    if cache is not None and distributed():
        raise UsageError("a cache serves runs of one process. Expected no cache under torchrun or accelerate.")
    join_processes()
    directory = _fresh_directory(plan) if out is None else Path(out)
    inputs = RunInputs(plan)
    store = _new_store(inputs, directory, cache, progress) if leader() else None
    # The default name has the time in it, which differs between processes.
    directory = Path(from_leader(str(store.directory if store else "")))
    return execute(inputs, store, directory, progress, report, shows_data)


def _fresh_directory(plan: Plan) -> Path:
    """Return the default run directory of a plan."""
    digest = hashlib.sha256(canonical_json(plan.recipe).encode()).hexdigest()
    return Path("runs") / plan.name / f"{time.strftime('%Y%m%d-%H%M%S')}-{digest[:8]}"


def _new_store(inputs: RunInputs, directory: Path, cache: str | Path | None, progress: bool | None) -> RunStore:
    """Make a run directory, after everything is checked that can be checked before the first stage."""
    # In the order of effort, and the directory last: a run that is refused leaves nothing behind.
    plan = inputs.plan
    refuse_existing(directory)
    refuse_unwritable(directory)
    if cache is not None:
        refuse_unwritable(Cache(Path(cache)).root)
    with Progress(progress).bar("model and data"), plan.file_plugins():
        inputs.load()
        preflight(inputs)
    # Absolute, because a resume may be given in another folder than the run was.
    facts = {"command": sys.argv, "base": str(plan.base.absolute())}
    if cache is not None:
        facts["cache"] = str(Path(cache).expanduser().resolve())
    return RunStore(directory, create=True, recipe=dump(plan.recipe), facts=facts)


@naming_plugins()
def resume(directory: str | Path, *, progress: bool | None = None, report: bool = True) -> Run:
    """Go on with a run that was stopped: finished stages are kept, the interrupted one continues.

    The directory must be as the run left it, with its recipe, database, states and models. So must be the inputs of the
    run: data, weights, and all files that model and task were read from.

    Args:
        directory: the run directory.
        progress: show bars; default on a terminal only.
        report: write the report at the end.

    Raises:
        UsageError: no run lies there, another process works on it, or its recipe or data changed since.
        RunError: something in the directory is damaged; names the file and says what can be done.
        PluginError: a plugin raised; the text names it and its moment, the original is the cause.
    """
    join_processes()
    directory = Path(directory)
    store = RunStore(directory) if leader() else None  # takes the lock
    from_leader(directory.name)  # the others wait until the first process holds the lock
    reader = store or RunStore(directory, shared=True)
    try:
        with keeping_failure(reader):
            reader.check_recipe()
            if store:
                _put_in_order(store)
            plan = kept_plan(reader)
            inputs = RunInputs(plan)
            # A study makes the directories of its runs in advance, so one that has not begun has not been checked.
            if store and all(store.stage_state(stage.name) == "new" for stage in plan.stages):
                with plan.file_plugins(), naming_plugins():
                    preflight(inputs)
    except BaseException:
        reader.close()
        raise
    return execute(inputs, store, directory, progress, report)


def _put_in_order(store: RunStore) -> None:
    """Remove what a killed process left half-written, and make sure that all else is as it was written."""
    from nasframe.export import write as export

    with writing(store.directory):
        store.clear_rests()
        export.clear_rests(store.directory / "models")
    store.check_files()
    cache = store.get("cache")
    if cache is not None:
        refuse_unwritable(Path(cache))


def execute(
    inputs: RunInputs,
    store: RunStore | None,
    directory: Path,
    progress: bool | None,
    report: bool,
    shows_data: bool = True,
) -> Run:
    """Run the stages that are not done yet.

    Args:
        inputs: what the plan names.
        store: the run's; ``None`` in all processes but the first.
        directory: the run directory.
        progress: show bars; default on a terminal only.
        report: write the report at the end.
        shows_data: print the table of the data if the run is new.
    """
    plan = inputs.plan
    reader = store or RunStore(directory, shared=True)
    try:
        with keeping_failure(reader, plan), _plugins_of(plan):
            is_new = reader.get("data") is None
            stages = StageRunner(inputs, reader, Progress(progress if store else False))
            if is_new and shows_data and store and not reader.get("study"):
                show_data(reader.get("data")["summary"])
        with stages.telling_of_the_end(), advising(reader, plan):
            with _plugins_of(plan):
                stages.run_all(leads=store is not None)
            if store:
                stages.snapshots.keep_sampler(plan.stages[-1].name)
                # Before the report: if that fails, the run is finished all the same.
                store.put("finished", True)
                if report:
                    with stages.session.progress.bar("report"):
                        Run(directory).report()
                # Last, since all else may still fail, and a resume would need them.
                store.clear_checkpoints()
    finally:
        reader.close()
    return Run(directory)


@contextmanager
def _plugins_of(plan: Plan) -> Iterator[None]:
    """Let a plan's own plugins be found inside the block, and name the plugin that raises there."""
    with plan.file_plugins(), naming_plugins():
        yield


class StageRunner:
    """Runs the stages of one run, stores what each leaves, and goes on where an earlier process stopped.

    Args:
        inputs: what the plan names; loaded here, before any stage.
        store: the run directory.
        progress: where progress is shown.

    Raises:
        UsageError: what the run starts from is not what it began with.
    """

    def __init__(self, inputs: RunInputs, store: RunStore, progress: Progress) -> None:
        self.inputs = inputs
        self.plan = inputs.plan
        self.store = store
        self.session = Session(self.plan, store, progress, inputs)
        self.snapshots = Snapshots(self.session)
        self.cached: CachedRun | None = None
        self.has_started = False
        # Listening first, because loading the model and the data already gives notices.
        inputs.notices.listen(self._keep_notice)
        with progress.bar("model and data"):
            start = begin(inputs, store)
            if start is not None and store.get("cache") is not None:
                self.cached = self._open_cache(start)

    def _open_cache(self, start: Start) -> CachedRun:
        """Return the run's view of its cache; report if no result of this run can be kept there."""
        cached = CachedRun(Cache(Path(self.store.get("cache"))), self.store, self.inputs, start)
        for name, state in start.opened.items():
            if state == UNKNOWN:
                text = "changed while model and data were loaded, so no result of this run is kept in the cache."
                self.inputs.notices(name, text)
        return cached

    def _keep_notice(self, notice: Notice) -> None:
        """Keep a notice for the report, and print it if the run has not printed it before."""
        known = self.store.get("notices", [])
        entry = asdict(notice)
        if entry in known or not leader():
            return
        self.store.put("notices", [*known, entry])
        if not self.store.get("study"):  # a study has many such runs, and shows their notices together
            say(notice.place, notice.text)

    def run_all(self, leads: bool) -> None:
        """Run the stages that are not done yet.

        Args:
            leads: whether this is the first process; any other one only joins it in training.
        """
        if leads:
            self.store.put("failure", None)  # why an earlier process ended
            write_environment(self.plan, self.store)
            # Earlier versions did not keep that a run started, only what came of it.
            resumed = self.store.get("started", False) or bool(self.store.stage_states())
            # Before observers hear it: if the process is killed in between, they hear of a run that goes on.
            self.store.put("started", True)
            self.has_started = True
            self.session.observers.run_started(resumed)
        work: Work | None = None
        for position, stage in enumerate(self.plan.stages):
            if self.store.stage_state(stage.name) == "done":
                self.inputs.restore_learned(self.store.stage_result(stage.name))
                continue
            if leads:
                work = self._next(position, work)
                continue
            if stage.verb == "train":  # until we join it, the first process cannot get past this stage
                perform(self._work_before(position), StageSession(self.session, stage))
            self._wait_for(stage)
        # A study has many runs, whose models its cache keeps once.
        if leads and not self.store.get("study"):
            before = self._models()
            self._keep_models(work)
            self._tell_of_models(before)

    @contextmanager
    def telling_of_the_end(self) -> Iterator[None]:
        """Tell observers how the block ended, if they have heard that the run started."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self.has_started:
                self.session.observers.run_finished(error)

    def _models(self) -> dict[str, str]:
        """Return what the run keeps of each model, its files included, as a text that changes with any of it."""
        files = self.store.files()
        models = {}
        for row in self.store.rows("model"):
            models[row["name"]] = canonical_json([row, files.get(row["name"])])
        return models

    def _tell_of_models(self, before: Mapping[str, str]) -> None:
        """Tell observers of the models that are new or changed.

        Args:
            before: as :meth:`_models` returned it.
        """
        for name, text in self._models().items():
            if before.get(name) == text:
                continue
            row = self.store.model(name)
            record = StoredModel(
                stage=row["stage"],
                directory=self.store.directory / row["path"] if row["path"] else None,
                arch=row["arch"],
                budget=row["budget"],
                metrics=row["metrics"],
                costs=row["costs"],
            )
            self.session.observers.model_stored(name, record)

    def _keep_models(self, work: Work | None) -> None:
        """Write the extracted models that no stage has written, so that any model of a finished run can be exported.

        Args:
            work: what the last stage left; ``None`` if that is on disk only.
        """
        last = self.plan.stages[-1]
        if all(row["path"] or row["arch"] is None for row in self.store.rows("model")):
            return
        if work is None:
            if not self.store.checkpoint(f"work-{last.name}").path.is_file():  # the run was finished before
                return
            work = self.snapshots.load(last.name)
        keep_models(StageSession(self.session, last), work)

    def _work_before(self, position: int) -> Work:
        """Return the work that the stages before a position left, from the disk."""
        if position == 0:
            return self.inputs.work
        return self.snapshots.load(self.plan.stages[position - 1].name)

    def _next(self, position: int, work: Work | None) -> Work | None:
        """Take a stage's result from the cache, or run the stage.

        Args:
            position: the stage's in the plan.
            work: what the stage before left; ``None`` if that is on disk only.

        Returns:
            What the stage left; ``None`` if that is on disk only.
        """
        if self.cached is None:
            return self._execute(position, work)
        before = self._models()
        was_begun = self._was_begun(position)
        if not self.cached.adopt(position):
            with self.cached.building(position):
                # Another process may have built it while we waited for the right to build.
                if not self.cached.adopt(position):
                    return self._execute(position, work)
        stage = self.plan.stages[position]
        # The notices of the stage are as true of this run as of the one that made the entry.
        for notice in self.store.stage_result(stage.name).get("notices", ()):
            self.inputs.notices(**notice)
        self.inputs.restore_learned(self.store.stage_result(stage.name))
        self._say(position, "from the cache")
        # Its metrics and trials were told of when it was run, in another run.
        self.session.observers.stage_started(stage.name, stage.verb, resumed=was_begun)
        self._tell_of_models(before)
        self._finish(stage, seconds=0.0, cached=True)
        return None  # read from the disk only if a later stage is run: it may come from the cache as well

    def _execute(self, position: int, work: Work | None) -> Work:
        """Run one stage and store its result."""
        stage = self.plan.stages[position]
        if work is None:
            work = self._work_before(position)
        before = self._models()
        was_begun = self._was_begun(position)
        self.store.start_stage(stage.name, position, stage.verb)
        self._say(position)
        self.session.observers.stage_started(stage.name, stage.verb, resumed=was_begun)
        part = StageSession(self.session, stage)
        # Those that the run had before do not belong to this stage's result.
        earlier_notices = set(self.inputs.notices)
        reads = Recorder()
        began = time.monotonic()
        try:
            with reads:
                work = perform(work, part)
        except BaseException:
            with suppress(RunError):  # the disk may be full, which the error itself says
                self.store.end_stage(stage.name, "failed", time.monotonic() - began)
            raise
        # Stored before the stage counts as done: a kill in between runs it again, and never skips it.
        self.snapshots.save(stage.name, work)
        # The cache keeps a stage's notices with its result. An observer is no part of the stage.
        earlier_notices.update(self.session.observers.reported)
        notices = [asdict(notice) for notice in self.inputs.notices if notice not in earlier_notices]
        if notices:
            part.result["notices"] = notices
        learned = self.inputs.learned()
        if learned:
            part.result["learned"] = learned
        seconds = time.monotonic() - began
        # Before the stage counts as done: after that, a kill would leave it out of the cache for good.
        if self.cached is not None:
            for notice in self.cached.keep(stage, seconds, part.result, reads):
                self.inputs.notices(notice.place, notice.text)
        self.store.end_stage(stage.name, "done", seconds, part.result)
        self._tell_of_models(before)
        self._finish(stage, seconds, cached=False)
        return work

    def _was_begun(self, position: int) -> bool:
        """Tell whether an earlier process began a stage."""
        return self.store.stage_state(self.plan.stages[position].name) != "new"

    def _finish(self, stage: PlannedStage, seconds: float, cached: bool) -> None:
        """Drop states that only earlier stages needed, and tell observers that a stage is done."""
        self.snapshots.drop_others(stage.name)
        self.session.observers.stage_finished(stage.name, seconds, cached)

    def _say(self, position: int, text: str = "") -> None:
        """Print which stage is reached, if bars are shown."""
        line = f"{position + 1}/{len(self.plan.stages)} {self.plan.stages[position].name}"
        self.session.progress.say(f"{line}: {text}" if text else line)

    def _wait_for(self, stage: PlannedStage) -> None:
        """Wait until the first process has stored a stage.

        The database is asked, not the process group, whose waits time out during a long search.

        Raises:
            RunError: the stage failed there.
        """
        while True:
            state = self.store.stage_state(stage.name)
            if state == "done":
                return
            if state == "failed":
                raise RunError(f"stage {stage.name} failed on the first process.")
            time.sleep(0.1)


def show_data(summary: dict[str, Any] | None) -> None:
    """Print the table of the data to the error stream, whether bars are shown or not."""
    if summary is not None:
        tell(data_text(summary))
