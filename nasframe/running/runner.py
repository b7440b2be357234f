"""Runs a plan: stages in order, each result stored before the next begins, so that a kill loses one stage at most.

In a distributed run every process trains; what is not training is done by the first process alone, and the others
read its stored result.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.errors import NasframeError, RunError, UsageError
from nasframe.interfaces import Work
from nasframe.measures import formats_of
from nasframe.notices import Notice, say
from nasframe.plan import Plan, PlannedStage
from nasframe.plugin_errors import described, naming_plugins
from nasframe.processes import device, distributed, join_processes, leader, processor, told_by_leader
from nasframe.progress import Progress
from nasframe.reads import UNKNOWN, Recorder
from nasframe.recipe.resolve import resolve
from nasframe.recipe.yaml import dump
from nasframe.records import canonical_json
from nasframe.report.data_table import data_text
from nasframe.running.cache import Cache, CachedRun, own_places
from nasframe.running.cache_keys import Names, Start, start_of
from nasframe.running.readiness import preflight
from nasframe.stages.context import StageContext
from nasframe.stages.inputs import Material, plain_summary, same_data
from nasframe.stages.session import Session
from nasframe.stages.verbs import perform
from nasframe.storage import disk_problem, refuse_unwritable, writing
from nasframe.store import RunStore, load_state, refuse_existing, save_state, write_text

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

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
        rows = store.db.execute("SELECT name, path FROM model WHERE path IS NOT NULL ORDER BY rowid").fetchall()
        store.close()
        return {name: self.directory / path for name, path in rows}

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
        """Write ``report.json``, ``.md``, ``.html`` and the figures anew and return the first."""
        from nasframe.report.page import build

        return build(self.directory)


@naming_plugins()
def run(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    progress: bool | None = None,
    cache: str | Path | None = None,
    report: bool = True,
) -> Run:
    """Run a recipe in a fresh directory.

    Args:
        recipe: what :func:`nasframe.load_recipe` returned.
        out: the run directory; default ``runs/<name>/<time>-<hash>``.
        progress: show bars; default on a terminal only.
        cache: a folder of stage results, to take from and to add to; default: every stage is run.
        report: write the report at the end; :meth:`Run.report` writes it at any time.

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
    plan = resolve(recipe)
    if cache is not None and distributed():
        raise UsageError("a cache serves runs of one process. Expected no cache under torchrun or accelerate.")
    join_processes()
    digest = hashlib.sha256(canonical_json(plan.recipe).encode()).hexdigest()[:8]
    directory = Path(out or Path("runs") / plan.name / f"{time.strftime('%Y%m%d-%H%M%S')}-{digest}")
    store, parts = None, Material(plan)
    if leader():
        refuse_existing(directory)
        refuse_unwritable(directory)
        if cache is not None:
            refuse_unwritable(Cache(Path(cache)).root)
        with Progress(progress).bar("model and data"), plan.file_plugins():
            parts.load()
            preflight(parts)
        facts = {"command": sys.argv, "base": str(plan.base)}
        facts |= {"cache": str(Path(cache).expanduser().resolve())} if cache is not None else {}
        store = RunStore(directory, create=True, recipe=dump(plan.recipe), facts=facts)
    directory = Path(told_by_leader(str(store.directory if store else "")))
    return execute(plan, store, directory, progress, report, parts)


@naming_plugins()
def resume(directory: str | Path, *, progress: bool | None = None, report: bool = True) -> Run:
    """Go on with a run that was stopped: finished stages stand, the interrupted one continues.

    What lies in the directory must be as the run left it: the recipe, the database, states, models. What the run
    started from must be as it was: data, weights, and all files that model and task were read from.

    Args:
        directory: the run directory.
        progress: show bars; default on a terminal only.
        report: write the report at the end.

    Raises:
        UsageError: no run lies there, another process works on it, or its recipe or data changed since.
        RunError: something in the directory is damaged; names the file and says what can be done.
        PluginError: a plugin raised; the text names it and its moment, the original is the cause.
    """
    from nasframe.recipe.loading import load_recipe

    join_processes()
    directory = Path(directory)
    store = RunStore(directory) if leader() else None
    told_by_leader(directory.name)  # the others wait until the lock is held
    reader = store or RunStore(directory, shared=True)
    try:
        recipe = reader.check_recipe()
        if store:
            _put_in_order(store)
        plan = resolve(load_recipe(recipe, base=Path(reader.get("base", "."))))
        parts = Material(plan)
        if store and not any(store.stage_state(stage.name) != "new" for stage in plan.stages):
            with plan.file_plugins(), naming_plugins():
                preflight(parts)
    except BaseException as error:
        with suppress(RunError):  # of a database that cannot be read, which the error itself is about
            note_failure(reader, None, error)
        reader.close()
        raise
    return execute(plan, store, directory, progress, report, parts)


def _put_in_order(store: RunStore) -> None:
    """Remove what a killed process left half-written, and make sure that all else is as it was written."""
    from nasframe.export import write as export

    with writing(store.directory):
        store.clear_rests()
        export.clear_rests(store.directory / "models")
    store.check_files()
    folder = store.get("cache")
    if folder is not None:
        refuse_unwritable(Path(folder))


def execute(
    plan: Plan,
    store: RunStore | None,
    directory: Path,
    progress: bool | None,
    report: bool,
    parts: Material | None = None,
) -> Run:
    """Run the stages that are not done yet; ``store`` is ``None`` on all processes but the first."""
    own = store or RunStore(directory, shared=True)
    try:
        with plan.file_plugins(), naming_plugins():
            context = RunContext(plan, own, Progress(progress if store else False), parts)
    except BaseException as error:
        with suppress(RunError):  # of a database that cannot be written, which the error itself is about
            note_failure(own, plan, error)
        own.close()
        raise
    try:
        with plan.file_plugins(), naming_plugins():
            _run_stages(context, leads=store is not None)
        if store:
            store.put("finished", True)
            if report:
                with context.progress.bar("report"):
                    Run(directory).report()
            store.clear_checkpoints()
    except BaseException as error:
        failure = _named_failure(error)
        with suppress(RunError):  # of a database that cannot be read, which the error itself is about
            note_failure(own, plan, failure)
            for line in _how_to_go_on(plan, own, error):
                failure.add_note(line)
        if failure is error:
            raise
        raise failure from error
    finally:
        own.close()
    return Run(directory)


def _run_stages(context: RunContext, leads: bool) -> None:
    """Run the stages that are not done yet, as the process that leads or as one that joins it in training."""
    plan, store = context.plan, context.store
    if leads:
        store.put("failure", None)
        write_environment(context)
        context.hooks.run_started(directory=store.directory, recipe=plan.recipe)
    work: Work | None = None
    for position, stage in enumerate(plan.stages):
        if store.stage_state(stage.name) == "done":
            continue
        if leads:
            work = context.next_stage(position, stage, work)
            continue
        if stage.verb == "train":  # until we join it, the first process cannot get past this stage
            perform(context.restore(plan.stages[:position]), StageContext(context.session, stage))
        context.wait_for(stage)


def _named_failure(error: BaseException) -> BaseException:
    """Return an error of the disk that a library or a plugin met as one that names the file; others as they are."""
    problem = disk_problem(error) if isinstance(error, OSError) else None
    return error if problem is None else RunError(problem)


def note_failure(store: RunStore, plan: Plan | None, error: BaseException) -> None:
    """Keep why a run ended before its time, for the pages that show it.

    Args:
        store: the run's.
        plan: its plan, to name the stage; ``None`` if there is none yet.
        error: what ended it.
    """
    if not leader() or store.get("finished"):  # a refused resume does not undo a finished run
        return
    stages = [] if plan is None else [stage.name for stage in plan.stages if store.stage_state(stage.name) == "failed"]
    text = str(error) if isinstance(error, NasframeError) else described(error)
    failure: dict[str, Any] = {"stage": stages[0] if stages else None, "text": text}
    failure |= {"interrupted": not isinstance(error, Exception), "exit_code": getattr(error, "exit_code", 1)}
    store.put("failure", failure)


def _how_to_go_on(plan: Plan, store: RunStore, error: BaseException) -> Iterator[str]:
    """Say in which stage a run ended before its time, and what can be done about it."""
    left = [stage.name for stage in plan.stages if store.stage_state(stage.name) != "done"]
    verb = "failed" if isinstance(error, Exception) else "was stopped"
    where = f"Stage {left[0]!r} {verb}. " if left else ""
    cached = store.get("cache") is not None
    if not getattr(error, "resumable", True):
        reuse = "stages before the change come from the cache"
        if not cached:
            reuse = "--cache DIR keeps finished stages for that"
        yield f"{where}A resume would end in the same way. Change the recipe and run it again; {reuse}."
        return
    yield f"{where}Go on with: nasframe run --resume {store.directory}"
    if cached:
        yield "Or change the recipe and run it anew: stages before the change come from the cache."


class RunContext:
    """What lasts for a whole run: the plan, the store, the shared sampler, the estimators, files of networks.

    Args:
        plan: the resolved recipe.
        store: where all is kept.
        progress: where all is shown.
        parts: what the plan names, where it is loaded already.
    """

    def __init__(self, plan: Plan, store: RunStore, progress: Progress, parts: Material | None = None) -> None:
        self.plan, self.store, self.progress = plan, store, progress
        self.parts = parts or Material(plan)
        self.session = Session(plan, store, progress, self.parts)
        self.hooks = self.session.hooks
        self.files: dict[int, str] = {}
        self.kept: dict[str, Any] = {}  # keeps networks alive, so that their id stays theirs
        self.cached: CachedRun | None = None
        self.began_here = store.get("data") is None
        self.parts.notices.listen(self.hear)
        with progress.bar("model and data"):
            self.material = self.load_material()
            if (folder := store.get("cache")) is not None and leader():
                self.cached = CachedRun(Cache(Path(folder)), store, self.parts, self.start)
                for name, seen in self.start.opened.items():
                    if seen == UNKNOWN:
                        text = (
                            "changed while model and data were loaded, so no result of this run is kept in the cache."
                        )
                        self.parts.notices(name, text)
        if self.began_here and leader() and not store.get("study"):
            show_data(store.get("data")["summary"])

    def hear(self, notice: Notice) -> None:
        """Keep a notice for the report, and print it if the run has not printed it before."""
        kept = self.store.get("notices", [])
        entry = asdict(notice)
        if entry in kept or not leader():
            return
        self.store.put("notices", [*kept, entry])
        if not self.store.get("study"):  # a study has many such runs, and shows what they say together
            say(notice.place, notice.text)

    def load_material(self) -> Work:
        """Load tokenizer, task, network and space, before any stage; all must be what the run began with."""
        task, known = self.parts.task, self.store.get("data")
        if known is not None and not same_data(task, known):
            expected = {key: value for key, value in known.items() if key not in ("summary", "metrics")}
            raise UsageError(f"{self.store.directory}: the data is not what the run began with. Expected {expected}.")
        if known is None and leader():
            labels = list(task.labels) if task.labels is not None else None
            facts: dict[str, Any] = {"fingerprint": task.fingerprint, "primary": task.primary}
            facts |= {"sizes": dict(task.sizes), "labels": labels, "summary": plain_summary(task)}
            facts["metrics"] = {name: asdict(form) for name, form in formats_of(task).items()}
            self.store.put("data", facts)
        work = self.parts.work
        if leader():
            self.start = start_of(self.parts, own_places(self.store))
            self.check_start(self.start)
        return work

    def check_start(self, start: Start) -> None:
        """Keep what the run starts from, or make sure that it is what the run started from before.

        Raises:
            UsageError: it is not; names every file that changed.
        """
        known = self.store.get("start")
        if known is None:
            self.store.put("start", asdict(start))
            return
        changed = start.differences(Start(**known))
        if changed:
            names = Names(self.parts)
            places = ", ".join(name if name.startswith("the ") else str(names.place(name)) for name in changed)
            raise UsageError(
                f"{self.store.directory}: not what the run began with: {places}. Expected model and task as they were: "
                "undo the change, or start a new run."
            )

    def next_stage(self, position: int, stage: PlannedStage, work: Work | None) -> Work | None:
        """Run a stage, or take its result from the cache: ``None`` means that the work lies in the snapshot."""
        if self.cached is None:
            return self.execute_stage(position, stage, work or self.restore(self.plan.stages[:position]))
        if not self.cached.adopt(position):
            with self.cached.building(position):
                if not self.cached.adopt(position):
                    return self.execute_stage(position, stage, work or self.restore(self.plan.stages[:position]))
        for notice in self.store.stage_result(stage.name).get("notices", ()):
            self.parts.notices(**notice)
        self.progress.say(f"{position + 1}/{len(self.plan.stages)} {stage.name}: from the cache")
        self.prune(stage.name)
        self.hooks.stage_finished(directory=self.store.directory, stage=stage.name, seconds=0.0)
        return None

    def execute_stage(self, position: int, stage: PlannedStage, work: Work) -> Work:
        """Run one stage and store its result."""
        self.store.start_stage(stage.name, position, stage.verb)
        self.progress.say(f"{position + 1}/{len(self.plan.stages)} {stage.name}")
        context, began = StageContext(self.session, stage), time.monotonic()
        before, reads = set(self.parts.notices), Recorder()
        try:
            with reads:
                work = perform(work, context)
        except BaseException:
            with suppress(RunError):  # of a full disk, of which the error itself tells
                self.store.end_stage(stage.name, "failed", time.monotonic() - began)
            raise
        self.snapshot(stage.name, work)
        before |= {*self.hooks.reported}  # an observer is no part of the stage, whose notices go to the cache
        if fresh := [asdict(notice) for notice in self.parts.notices if notice not in before]:
            context.result["notices"] = fresh
        seconds = time.monotonic() - began
        if self.cached is not None:
            for notice in self.cached.keep(stage, seconds, context.result, reads):
                self.parts.notices(notice.place, notice.text)
        self.store.end_stage(stage.name, "done", seconds, context.result)
        self.prune(stage.name)
        self.hooks.stage_finished(directory=self.store.directory, stage=stage.name, seconds=seconds)
        return work

    def snapshot(self, stage: str, work: Work) -> None:
        """Store what the next stage needs; a network that is on disk already is only named."""
        nets = {n: self.keep_net(net) for n, net in {**work.models, "": work.net}.items() if net is not None}
        sampler = self.session.sampler.state_dict() if self.session.sampler is not None else None
        state = {"archs": {k: dict(v) for k, v in work.archs.items()}, "nets": nets, "sampler": sampler}
        state["vocabulary"] = None if work.vocabulary is None else list(work.vocabulary)
        save_state(self.store.checkpoint(f"work-{stage}").path, state)

    def keep_net(self, net: nn.Module) -> str:
        """Write a network once and return its file's name."""
        from nasframe.nn.blueprint import blueprint

        if id(net) not in self.files:
            name = f"net-{uuid.uuid4().hex}"
            config: Any = net.config
            state = {"config": config.to_dict(), "blueprint": blueprint(net), "state": net.state_dict()}
            self.store.checkpoint(name).save(state)
            self.files[id(net)], self.kept[name] = name, net
        return self.files[id(net)]

    def load_net(self, name: str) -> nn.Module:
        """Read a network that :meth:`keep_net` wrote."""
        from nasframe.nn.blueprint import load

        if name not in self.kept:
            state = load_state(self.store.checkpoint(name).path)
            net = load(state["config"], state["blueprint"], state["state"]).to(device()).eval()
            self.files[id(net)], self.kept[name] = name, net
        net_: nn.Module = self.kept[name]
        return net_

    def restore(self, done: Sequence[PlannedStage]) -> Work:
        """Return the work after the finished stages."""
        if not done:
            return self.material
        state = load_state(self.store.checkpoint(f"work-{done[-1].name}").path)
        if state["sampler"] is not None:
            self.session.shared_sampler(self.material).load_state_dict(state["sampler"])
        nets: dict[str, Any] = {name: self.load_net(file) for name, file in state["nets"].items()}
        work = replace(self.material, net=nets.pop("", None), archs=state["archs"], models=nets)
        return work if (kept := state["vocabulary"]) is None else self.with_vocabulary(work, kept)

    def with_vocabulary(self, work: Work, kept: Sequence[int]) -> Work:
        """Return work whose tokenizer and task have some of the tokens; its networks have them already."""
        from nasframe.nn.vocabulary import shrunk_tokenizer

        tokenizer = shrunk_tokenizer(self.parts.tokenizer, kept)
        return replace(work, tokenizer=tokenizer, task=self.parts.task_for(tokenizer), vocabulary=list(kept))

    def prune(self, stage: str) -> None:
        """Drop the states that only earlier stages needed."""
        work = self.store.checkpoint(f"work-{stage}").path
        needed = {work.name, *(f"{name}.safetensors" for name in load_state(work)["nets"].values())}
        for path in work.parent.glob("*.safetensors"):
            if path.name not in needed and not path.name.startswith("expected-"):
                path.unlink()
        self.kept = {name: net for name, net in self.kept.items() if f"{name}.safetensors" in needed}
        self.files = {key: name for key, name in self.files.items() if name in self.kept}

    def wait_for(self, stage: PlannedStage) -> None:
        """Wait until the first process stored a stage."""
        while (state := self.store.stage_state(stage.name)) != "done":
            if state == "failed":
                raise RunError(f"stage {stage.name} failed on the first process.")
            time.sleep(0.1)


def show_data(summary: dict[str, Any] | None) -> None:
    """Print what happened to the data to the error stream, whether bars are shown or not."""
    if summary is not None:
        print(data_text(summary), file=sys.stderr)


def write_environment(context: RunContext) -> None:
    """Write what the numbers may depend on: versions, commit, device, threads, seed, command."""
    import torch

    from nasframe.training.optim import native_bf16

    known = context.store.get("data") or {}
    data = {key: value for key, value in known.items() if key not in ("summary", "metrics")}
    where = device()
    sources = {name: source for name, source in registry.plugins().sources.items() if registry.is_visible(name)}
    packages = [
        "torch",
        "transformers",
        "tokenizers",
        "accelerate",
        "numpy",
        "scipy",
        "pandas",
        "scikit-learn",
        "safetensors",
    ]
    facts = {
        "nasframe": metadata.version("nasframe"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "plugins": {name: str(source) for name, source in sources.items()},
        "git": git_commit(),
        "platform": platform.platform(),
        "processor": processor(),
        "device": str(where),
        "accelerator": torch.cuda.get_device_name(where) if where.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "bf16": native_bf16(where),
        "seed": context.plan.seed,
        "command": context.store.get("command"),
        "data": data,
    }
    write_text(context.store.directory / "env.json", json.dumps(facts, indent=2) + "\n")
    # a run may go on elsewhere; env.json then says where it ended
    environment = {name: value for name, value in facts.items() if name not in ("seed", "command", "data", "plugins")}
    kept = context.store.get("environments", [])
    if environment not in kept:
        context.store.put("environments", [*kept, environment])


def git_commit() -> str | None:
    """Return the commit of the checkout that nasframe runs from, marked where files differ from it."""
    where = Path(__file__).parents[1]
    if shutil.which("git") is None or not (where.parent / ".git").exists():
        return None
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=where,
        capture_output=True,
        text=True,
    )
    return answer.stdout.strip() or None
