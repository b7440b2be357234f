"""Results of stages, kept by their keys: a stage that was run once is not run again, in whatever run.

``<cache>/stages/<key>.json`` says what a stage left; its files lie in ``blobs/`` under the digest of their content,
so that equal ones are kept once, and are checked against it whenever they are read.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.digests import file_digest
from nasframe.notices import Notice
from nasframe.reads import UNKNOWN, Recorder, is_below, state
from nasframe.running.cache_keys import (
    Names,
    Start,
    declared_files,
    definition,
    differences,
    digest,
    named_places,
    stage_keys,
)
from nasframe.storage import write_problem, writing
from nasframe.store import RunStore

if TYPE_CHECKING:
    from nasframe.plan import PlannedStage
    from nasframe.stages.inputs import Material

FORMAT = 1
VARIABLE = "NASFRAME_CACHE"
ROWS = "rows.json"


def default_folder() -> Path:
    """Return where studies keep their cache: ``NASFRAME_CACHE``, else ``~/.cache/nasframe``."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(VARIABLE) or home / "nasframe")


class Cache:
    """A folder of stage results, shared by any number of processes.

    Args:
        root: the folder; made when it is first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser().resolve()

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return what is kept, by key, the least recently used first; what cannot be read is left out."""
        used = {path: stat.st_mtime for path, stat in _stats(self.root.glob("stages/*.json"))}
        found = {path.stem: _manifest(path) for path in sorted(used, key=used.__getitem__)}
        return {key: entry for key, entry in found.items() if entry}

    def holds(self, key: str) -> bool:
        """Tell whether there is an entry, sound or not."""
        return (self.root / "stages" / f"{key}.json").exists()

    def read(self, key: str) -> dict[str, Any] | None:
        """Return an entry whose files are all as they were written; drop one that is corrupt, with a warning."""
        path = self.root / "stages" / f"{key}.json"
        if not path.exists():
            return None
        entry = _manifest(path)
        wrong = [blob for blob in map(self.blob, entry["files"].values()) if not _sound(blob)] if entry else [path]
        if not wrong:
            return entry
        if not path.exists():  # pruned meanwhile
            return None
        warnings.warn(f"{path}: corrupt in the cache ({wrong[0].name[:12]}); the stage is run again.", stacklevel=2)
        for broken in {path, *wrong}:
            broken.unlink(missing_ok=True)
        return None

    def write(
        self, key: str, entry: Mapping[str, Any], rows: Mapping[str, Any], files: Mapping[str, Path], shared: bool
    ) -> None:
        """Keep an entry, its database rows and its files; ``shared``: models are linked, as states always are.

        Raises:
            OSError: the cache cannot be written.
        """
        text = json.dumps(rows)
        names = {name: file_digest(path) for name, path in files.items()}
        with self.guard():
            for name, path in files.items():
                if not self.blob(names[name]).exists():
                    _copy(path, self.blob(names[name]), link=shared or name.startswith("checkpoints/"))
                    self.blob(names[name]).chmod(0o444)
            names[ROWS] = self._text_blob(text)
            entry = {**entry, "format": FORMAT, "key": key, "made_at": time.time(), "files": names}
            path = self.root / "stages" / f"{key}.json"
            path.parent.mkdir(exist_ok=True)
            _write(path, json.dumps({**entry, "check": digest(entry)}))

    def _text_blob(self, text: str) -> str:
        path = self.root / "blobs" / f"new-{uuid.uuid4().hex}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        name = file_digest(path)
        self.blob(name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, self.blob(name))
        return name

    def blob(self, name: str) -> Path:
        """Return where the file of a digest lies."""
        return self.root / "blobs" / name[:2] / name

    def size(self, entry: Mapping[str, Any]) -> int:
        """Return the bytes of an entry's files; others may share them."""
        return sum(stat.st_size for _, stat in _stats(self.blob(name) for name in set(entry["files"].values())))

    def total(self) -> int:
        """Return the bytes of all files."""
        return sum(stat.st_size for _, stat in _stats(self.root.glob("blobs/*/*")))

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Keep writing and pruning apart."""
        from filelock import FileLock

        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            yield

    @contextmanager
    def building(self, key: str, news: str) -> Iterator[None]:
        """Hold the right to build an entry; where another process has it, print ``news`` and wait.

        The operating system takes the right back from a process that dies.
        """
        from filelock import FileLock, Timeout

        folder = self.root / "locks"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(news, file=sys.stderr, flush=True)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def prune(self, max_bytes: float) -> list[str]:
        """Drop the least recently used entries until the files together are no larger; return their keys."""
        with self.guard():
            entries, dropped = self.entries(), []
            sizes = {path.name: stat.st_size for path, stat in _stats(self.root.glob("blobs/*/*"))}
            users = {name: sum(name in e["files"].values() for e in entries.values()) for name in sizes}
            total = sum(size for name, size in sizes.items() if users[name])
            for key, entry in entries.items():
                if total <= max_bytes:
                    break
                (self.root / "stages" / f"{key}.json").unlink(missing_ok=True)
                dropped.append(key)
                for name in set(entry["files"].values()) & users.keys():
                    users[name] -= 1
                    total -= 0 if users[name] else sizes[name]
            for name in (name for name, count in users.items() if not count):
                self.blob(name).unlink(missing_ok=True)
        return dropped


class CachedRun:
    """One run's way to the cache.

    Args:
        cache: the cache.
        store: the run's directory.
        parts: what its recipe names, loaded.
        start: what that was read from.
    """

    def __init__(self, cache: Cache, store: RunStore, parts: Material, start: Start) -> None:
        self.cache, self.store, self.plan, self.material = cache, store, parts.plan, parts
        self.shared = bool(store.get("study"))  # to save room
        self.parts = stage_keys(self.plan, start.material)
        self.keys = [digest(parts) for parts in self.parts]
        self.names = Names(parts)
        self.loaded = start.opened

    def adopt(self, position: int) -> bool:
        """Take a stage's result over from the cache, if it is there and made from files that are as they were."""
        began, stage = time.monotonic(), self.plan.stages[position]
        self.store.put(f"key {stage.name}", self.parts[position])
        entry = self.cache.read(self.keys[position])
        if entry is None:
            return False
        changed = self._changed(position, entry["opened"])
        self.store.put(f"changed {stage.name}", changed)
        if changed:
            return False
        try:
            rows = json.loads(self.cache.blob(entry["files"][ROWS]).read_text(encoding="utf-8"))
            with writing(self.store.directory):
                self._place(entry["files"])
        except FileNotFoundError:  # pruned meanwhile
            return False
        origin = {"key": self.keys[position], "run": entry["run"], "run_seconds": entry["run_seconds"]}
        result = {**entry["result"], "cached": origin}
        self.store.put(f"opened {stage.name}", entry["opened"])
        self.store.put_stage(stage.name, position, stage.verb, rows, time.monotonic() - began, result)
        with suppress(FileNotFoundError):  # pruned meanwhile
            os.utime(self.cache.root / "stages" / f"{self.keys[position]}.json")
        return True

    def _changed(self, position: int, opened: Mapping[str, str]) -> list[tuple[str, str, str]]:
        """Return the files of an entry that are not what they were: name, state then, state now.

        What earlier stages of this run read must be what the entry's own earlier stages had read. Either may have read
        less than the other, since a process need not open again what it has read for another run.
        """
        before, hidden = self._opened_before(position), self._hidden()
        current = {name: state(self.names.place(name), hidden) for name in opened} | before
        names = [name for name in opened if opened[name] != current[name]]
        names += [name for name, known in before.items() if known == UNKNOWN and name not in names]
        return [(name, opened.get(name, UNKNOWN), current[name]) for name in names]

    def _opened_before(self, position: int) -> dict[str, str]:
        """Return what was opened before a stage, by the earlier ones and by the loading of model and data."""
        if position == 0:
            return dict(self.loaded)
        opened: dict[str, str] = self.store.get(f"opened {self.plan.stages[position - 1].name}", {})
        return self.loaded | opened

    def _states(self, reads: Recorder, covered: Sequence[str]) -> dict[str, str]:
        """Return what was read, by name, without what lies below covered places."""
        states, changed = reads.states(self._hidden())
        states |= dict.fromkeys(changed, UNKNOWN)
        return {self.names.name(path): found for path, found in states.items() if not is_below(path, covered)}

    def _hidden(self) -> list[str]:
        return own_places(self.store)

    def _place(self, files: Mapping[str, str]) -> None:
        """Bring the run's files to what they were after the stage; those of a study's runs are shared."""
        for model in self.store.files():
            self.store.put_files(model, None)
        for name, blob in files.items():
            target = self.store.directory / name
            if name != ROWS and not (target.exists() and file_digest(target) == blob):
                _copy(self.cache.blob(blob), target, link=self.shared or not name.startswith("models/"))
        for path in _results(self.store.directory):
            if path.relative_to(self.store.directory).as_posix() not in files:
                path.unlink()
        for model, digests in _models(files).items():
            self.store.put_files(model, digests)

    def keep(self, stage: PlannedStage, seconds: float, result: Mapping[str, Any], reads: Recorder) -> list[Notice]:
        """Keep the result of a stage that was just run: its rows, the models, and what the next stage needs.

        Args:
            stage: the stage.
            seconds: how long it took.
            result: what it found.
            reads: what was read while it ran.

        Returns:
            why nothing was kept, if nothing was: the disk is full, or files changed while the stage ran, or while an
            earlier one did, so that nobody knows what was read.
        """
        from nasframe.store import load_state

        home, position = self.store.directory, self.plan.stages.index(stage)
        before = self._opened_before(position)
        states = self._states(reads, self._covered(position))
        states |= dict.fromkeys(self._changed_covered(position), UNKNOWN)
        changed = [name for name, found in states.items() if UNKNOWN in (found, before.get(name))]
        changed += [name for name, found in states.items() if before.get(name, found) != found]
        opened = before | states | dict.fromkeys(changed, UNKNOWN)
        self.store.put(f"opened {stage.name}", opened)
        if UNKNOWN in opened.values():
            text = f"changed while stage {stage.name} ran, so its result is not kept in the cache."
            return [Notice(name, text) for name in sorted(set(changed))]
        work = self.store.checkpoint(f"work-{stage.name}").path
        nets = [self.store.checkpoint(name).path for name in load_state(work)["nets"].values()]
        paths = [work, *nets, *_results(home)]
        entry = {"parts": self.parts[position], "run": str(home.resolve()), "run_seconds": seconds, "result": result}
        entry["opened"] = opened
        files = {path.relative_to(home).as_posix(): path for path in paths}
        rows = self.store.stage_rows(stage.name)
        try:
            self.cache.write(self.keys[position], entry, rows, files, self.shared)
        except OSError as error:
            text = f"{write_problem(self.cache.root, error)} Results of stages are not kept."
            return [Notice("cache", text)]
        return []

    def _changed_covered(self, position: int) -> list[str]:
        """Return what of a stage's key would be another by now, because a file has changed since it was made."""
        now = {**definition(self.plan, position), "files": declared_files(self.material)}
        then = {**self.parts[position], "files": self.parts[position]["material"]["files"]}
        return [name for name, _, _ in differences(now, {key: then[key] for key in now})]

    def _covered(self, position: int) -> list[str]:
        """Return the real paths of the files and folders that a stage's key knows by content, wherever they lie."""
        stages = self.plan.recipe["stages"][: position + 1]
        options = [stages, self.plan.space, self.plan.sampler, self.plan.estimators]
        places = [place for _, place in named_places(options, self.plan.base)]
        places += [place for _, place in self.material.declared()]
        return [os.path.realpath(place) for place in places]

    def building(self, position: int) -> Any:
        """Hold the right to build a stage of this run."""
        name = self.plan.stages[position].name
        news = f"{self.store.directory}: stage {name}: another process is building it; waiting for its result."
        return self.cache.building(self.keys[position], news)


def own_places(store: RunStore) -> list[str]:
    """Return the real paths of a run's directory and cache, which do not count as read."""
    places = [store.directory, store.get("cache")]
    return [os.path.realpath(place) for place in places if place is not None]


def _models(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the files of models by model, out of all files of an entry.

    >>> _models({"models/a/config.json": "12", "checkpoints/work-a": "34"})
    {'a': {'config.json': '12'}}
    """
    models: dict[str, dict[str, str]] = {}
    for path, digest_ in files.items():
        folder, _, rest = path.partition("/")
        model, _, inside = rest.partition("/")
        if folder == "models" and inside:
            models.setdefault(model, {})[inside] = digest_
    return models


def _results(home: Path) -> list[Path]:
    """List the files of a run's models, and those that its exports will be compared with."""
    return [
        path for pattern in ("models/**/*", "checkpoints/expected-*") for path in home.glob(pattern) if path.is_file()
    ]


def nearest(cache: Cache, parts: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str, list[tuple[str, Any, Any]]]:
    """Find the other entry of the same stage that differs in the least.

    Returns:
        the entry, or ``None``; the stage at which the two chains first differ; and in what it differs.
    """
    entries, own = cache.entries(), digest(parts)
    rivals = [e for key, e in entries.items() if key != own and e["parts"]["stage"] == parts["stage"]]
    if not rivals:
        return None, "", []
    best = min(rivals, key=lambda entry: len(list(differences(parts, entry["parts"]))))
    mine, other = parts, best["parts"]
    while (found := list(differences(mine, other)))[0][0] == "upstream" and len(found) == 1:
        before = [entries.get(str(key)) for key in found[0][1:]]
        if not (before[0] and before[1]):
            break
        mine, other = before[0]["parts"], before[1]["parts"]
    return best, mine["stage"], found


def _manifest(path: Path) -> dict[str, Any] | None:
    """Read an entry; ``None`` where it is not what was written."""
    try:
        entry: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check = entry.pop("check")
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return entry if entry.get("format") == FORMAT and check == digest(entry) else None


def _stats(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Ask the system about files; those that another process drops meanwhile are left out."""
    for path in paths:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        yield path, found


def _write(path: Path, text: str) -> None:
    """Write a text file whole or not at all; an error stays the system's: a run can do without its cache."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _sound(blob: Path) -> bool:
    return blob.is_file() and file_digest(blob) == blob.name


def _copy(source: Path, target: Path, link: bool = False) -> None:
    """Copy a file whole or not at all; ``link`` where neither side is ever written in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        if not link:
            raise OSError
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
