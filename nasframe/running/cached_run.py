"""One run's use of the cache: taking stages over from it, and adding those that were run.

Two things decide whether an entry may be taken over. Its key stands for what is known before the stage runs. And the
files that the stage opened while it ran, which an entry lists, must be as they were then.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.digests import file_digest
from nasframe.folders import MODELS, folder_name
from nasframe.notices import Notice
from nasframe.plan import own_task
from nasframe.reads import UNKNOWN, Recorder, is_below, state
from nasframe.running.cache import ROWS, Cache, CacheEntry, copy_or_link
from nasframe.running.cache_keys import definition, differences, digest, stage_keys
from nasframe.running.named_files import FileNames, declared_files, file_digests, named_places
from nasframe.running.start import materials, opened_by_tasks, own_places
from nasframe.storage import write_problem, writing

if TYPE_CHECKING:
    from nasframe.plan import PlannedStage
    from nasframe.running.start import Start
    from nasframe.stages.inputs import RunInputs
    from nasframe.store import RunStore

Change = tuple[str, str, str]
"""A file that is not as it was: its name, its state then, its state now."""


MODEL_NAME = 0
"""The column of a model's name in the rows of an entry, which have the order of the table."""


class CachedRun:
    """One run's use of the cache.

    Args:
        cache: the cache.
        store: the run directory.
        inputs: what the run's recipe names, loaded.
        start: what the run starts from.
    """

    def __init__(self, cache: Cache, store: RunStore, inputs: RunInputs, start: Start) -> None:
        self.cache = cache
        self.store = store
        self.inputs = inputs
        self.plan = inputs.plan
        self.is_of_study = bool(store.get("study"))  # its many runs share files with the cache, to save disk space
        self.parts = stage_keys(self.plan, materials(inputs, start.digests))
        self.keys = [digest(parts) for parts in self.parts]
        self.file_names = FileNames(inputs)
        self.own_places = own_places(store)
        # Its own tasks are loaded by now, because their fingerprints are in the keys.
        of_own_tasks = opened_by_tasks(inputs, self.own_places)
        self.opened_at_start = start.opened | of_own_tasks
        self.opened_by_own_tasks = start.opened_by_model | of_own_tasks

    def adopt(self, position: int) -> bool:
        """Take a stage's result over from the cache, if it is there and the files it was made from are unchanged."""
        began = time.monotonic()
        stage = self.plan.stages[position]
        key = self.keys[position]
        self.store.put(f"key {stage.name}", self.parts[position])  # for "nasframe cache why"
        entry = self.cache.read(key)
        if entry is None:
            return False
        # Equal keys are not enough: a plugin may have read a file that no option names.
        changed = self._changes(position, entry.opened)
        self.store.put(f"changed {stage.name}", changed)
        if changed:
            return False
        try:
            rows = json.loads(self.cache.blob(entry.files[ROWS]).read_text(encoding="utf-8"))
            with writing(self.store.directory):
                self._place(entry.files, [row[MODEL_NAME] for row in rows["model"]])
        except FileNotFoundError:  # another process dropped the entry meanwhile: run the stage
            return False
        # What the stage cost when it was run stays visible: reports and ledgers are about the work, not this process.
        origin = {"key": key, "run": entry.run, "run_seconds": entry.run_seconds}
        result = {**entry.result, "cached": origin}
        self.store.put(f"opened {stage.name}", entry.opened)
        self.store.put_stage(stage.name, position, stage.verb, rows, time.monotonic() - began, result)
        with suppress(FileNotFoundError):
            self.cache.touch(key)  # the least recently used entries are dropped first
        return True

    def keep(self, stage: PlannedStage, seconds: float, result: Mapping[str, Any], reads: Recorder) -> list[Notice]:
        """Add the result of a stage that was just run: its rows, the models, and what the next stage needs.

        Args:
            stage: the stage.
            seconds: how long it took.
            result: what it reported about itself.
            reads: what was read while it ran.

        Returns:
            Reasons, if nothing was added: the disk is full, or files changed while this stage or an earlier one ran,
            so that it is unknown which content was read.
        """
        position = self.plan.stages.index(stage)
        opened, changed = self._opened(position, reads)
        self.store.put(f"opened {stage.name}", opened)
        if UNKNOWN in opened.values():
            text = f"changed while stage {stage.name} ran, so its result is not kept in the cache."
            return [Notice(name, text) for name in changed]
        entry = CacheEntry(
            key=self.keys[position],
            parts=self.parts[position],
            run=str(self.store.directory.resolve()),
            run_seconds=seconds,
            result=dict(result),
            opened=opened,
        )
        try:
            self.cache.write(entry, self.store.stage_rows(stage.name), self._files(stage), self.is_of_study)
        # A cache only saves time: a run does not fail because of it.
        except OSError as error:
            text = f"{write_problem(self.cache.root, error)} Results of stages are not kept."
            return [Notice("cache", text)]
        return []

    def building(self, position: int) -> AbstractContextManager[None]:
        """Hold the right to build a stage of this run."""
        name = self.plan.stages[position].name
        news = f"{self.store.directory}: stage {name}: another process is building it; waiting for its result."
        return self.cache.building(self.keys[position], news)

    # ---- which files were opened, and are they as they were?

    def _changes(self, position: int, opened: Mapping[str, str]) -> list[Change]:
        """Return the files of an entry that are not as they were.

        Files that earlier stages of this run read must be as the entry's own earlier stages had read them. Either may
        have read fewer files than the other, since a process need not open a file again that it has read for another
        run.
        """
        before = self._opened_before(position)
        now = {name: state(self.file_names.place(name), self.own_places) for name in opened}
        now |= before  # what was read counts, even if the file has changed again since
        changes = []
        for name, then in opened.items():
            if then != now[name]:
                changes.append((name, then, now[name]))
        for name, earlier in before.items():
            if earlier == UNKNOWN and name not in opened:
                changes.append((name, UNKNOWN, UNKNOWN))
        return changes

    def _opened_before(self, position: int) -> dict[str, str]:
        """Return the files opened before a stage: while model and data were loaded, and by earlier stages."""
        # What the recipe's task has read does not matter to a stage that it has nothing to do with.
        at_start = self.opened_by_own_tasks if self._is_of_own_tasks(position) else self.opened_at_start
        if position == 0:
            return dict(at_start)
        previous = self.plan.stages[position - 1].name
        opened: dict[str, str] = self.store.get(f"opened {previous}", {})
        return at_start | opened

    def _is_of_own_tasks(self, position: int) -> bool:
        """Tell whether a stage and all before it have tasks of their own, so that the recipe's does not matter."""
        return all(own_task(stage) is not None for stage in self.plan.stages[: position + 1])

    def _opened(self, position: int, reads: Recorder) -> tuple[dict[str, str], list[str]]:
        """Return the files opened up to the end of a stage, by name, with their states.

        Args:
            position: the stage's in the plan.
            reads: what was read while it ran.

        Returns:
            Name → state, unknown for a file that changed meanwhile; and the names of those that changed during this
            stage.
        """
        before = self._opened_before(position)
        states = self._states(reads, self._covered(position))
        states |= dict.fromkeys(self._changed_parts(position), UNKNOWN)
        # If a file differs from what an earlier stage read, the result depends on both contents, so on neither alone.
        changed = set()
        for name, current in states.items():
            earlier = before.get(name, current)
            if UNKNOWN in (current, earlier) or current != earlier:
                changed.add(name)
        opened = before | states | dict.fromkeys(changed, UNKNOWN)
        return opened, sorted(changed)

    def _states(self, reads: Recorder, covered: Sequence[str]) -> dict[str, str]:
        """Return what was read, by name, without files below covered places."""
        states, changed = reads.states(self.own_places)
        states |= dict.fromkeys(changed, UNKNOWN)
        by_name = {}
        for path, current in states.items():
            if not is_below(path, covered):
                by_name[self.file_names.name(path)] = current
        return by_name

    def _covered(self, position: int) -> list[str]:
        """Return the real paths of the files and folders whose content is in a stage's key, wherever they lie."""
        stages = self.plan.recipe["stages"][: position + 1]
        options = [stages, self.plan.space, self.plan.sampler, self.plan.estimators]
        places = [*named_places(options, self.plan.base), *self.inputs.declared()]
        for stage in self.plan.stages[: position + 1]:
            if own_task(stage) is not None:
                places += self.inputs.declared_by_task(stage)
        # Real paths, since a dataset is often reached by a link.
        return [os.path.realpath(place) for _, place in places]

    def _changed_parts(self, position: int) -> list[str]:
        """Return the parts of a stage's key that would differ by now, because a file in it has changed since."""
        parts = self.parts[position]
        now = definition(self.plan, position)
        then = {name: parts[name] for name in now}
        now["files"] = self._declared_now(position)
        then["files"] = parts["material"]["files"]
        return [name for name, _, _ in differences(now, then)]

    def _declared_now(self, position: int) -> dict[str, str]:
        """Return the digests of the declared files in a stage's key, as they are now."""
        files = declared_files(self.inputs)
        stage = self.plan.stages[position]
        if own_task(stage) is None:
            return files
        others = {name: digest for name, digest in files.items() if not name.startswith("task")}
        return others | file_digests(self.inputs.declared_by_task(stage))

    # ---- the files of results

    def _files(self, stage: PlannedStage) -> dict[str, Path]:
        """Return the files of a stage's result, by their paths in the run directory."""
        from nasframe.store import load_state

        run = self.store.directory
        snapshot = self.store.checkpoint(f"work-{stage.name}").path
        paths = [snapshot, *_results(run)]
        for name in load_state(snapshot)["nets"].values():
            paths.append(self.store.checkpoint(name).path)
        return {path.relative_to(run).as_posix(): path for path in paths}

    def _place(self, files: Mapping[str, str], names: Sequence[str]) -> None:
        """Make the run's files what they were after a stage.

        Args:
            files: path in the run directory → digest of the content.
            names: those of the run's models after the stage.
        """
        run = self.store.directory
        # Digests are gone until all is in place: a kill must not leave those of other files.
        for model in self.store.files():
            self.store.put_files(model, None)
        for name, blob in files.items():
            if name == ROWS:
                continue
            target = run / name
            if not target.exists() or file_digest(target) != blob:
                link = self.is_of_study or not name.startswith("models/")  # a user may edit a run's models
                copy_or_link(self.cache.blob(blob), target, link=link)
        # Models that the run does not have at this stage may be left from an earlier attempt.
        for path in _results(run):
            if path.relative_to(run).as_posix() not in files:
                path.unlink()
        for model, digests in _by_model(files, names).items():
            self.store.put_files(model, digests)


def _results(run: Path) -> list[Path]:
    """Return the files of a run's models, and those that its exports will be compared with."""
    paths = [*run.glob("models/**/*"), *run.glob("checkpoints/expected-*")]
    return [path for path in paths if path.is_file()]


def _by_model(files: Mapping[str, str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the files of models by model, out of all files of an entry.

    Args:
        files: path in a run directory → digest of the content.
        names: those of models whose folders may be called otherwise.

    >>> _by_model({"models/a-50/config.json": "12", "checkpoints/work-a": "34"}, ["a@50%"])
    {'a@50%': {'config.json': '12'}}
    """
    owners = {folder_name(name): name for name in names}
    by_model: dict[str, dict[str, str]] = {}
    for path, content in files.items():
        folder, _, rest = path.partition("/")
        model, _, inside = rest.partition("/")
        if folder == MODELS and inside:
            # Entries of earlier versions have folders that are called like the models.
            owner = owners.get(model, model)
            by_model.setdefault(owner, {})[inside] = content
    return by_model
