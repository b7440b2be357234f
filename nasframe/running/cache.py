"""Results of stages, kept by their keys: a stage that was run once is not run again, in whatever run.

``<cache>/stages/<key>.json`` says what a stage left. Its files lie in ``blobs/`` under the digest of their content, so
that equal ones are kept once, and are checked against it whenever they are read. ``prepared/`` holds arrays such as
tokens, see :mod:`nasframe.running.prepared`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nasframe.digests import file_digest
from nasframe.running.cache_keys import differences, digest
from nasframe.running.prepared import Prepared
from nasframe.storage import writing
from nasframe.terminal import tell

FORMAT = 1
VARIABLE = "NASFRAME_CACHE"
ROWS = "rows.json"
"""The name, among an entry's files, of the one with the stage's rows of the run's database."""


def default_folder() -> Path:
    """Return the folder in which studies keep their cache: ``NASFRAME_CACHE``, else ``~/.cache/nasframe``."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(VARIABLE) or home / "nasframe")


@dataclass(frozen=True)
class CacheEntry:
    """What one stage left.

    Args:
        key: the digest of ``parts``.
        parts: what the result depends on.
        run: the directory of the run that made it.
        run_seconds: how long the stage took there.
        result: what the stage reported about itself.
        opened: the files that this stage and those before it opened, by name, with their states.
        files: the digests of its files, by their paths in a run directory, and of its rows.
        made_at: when it was kept, in seconds since 1970.
    """

    key: str
    parts: dict[str, Any]
    run: str
    run_seconds: float
    result: dict[str, Any]
    opened: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    made_at: float = 0.0


class Cache:
    """A folder of stage results, shared by any number of processes.

    Args:
        root: the folder; made when it is first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser().resolve()
        self.prepared = Prepared(self.root)

    def entries(self) -> dict[str, CacheEntry]:
        """Return all entries by key, the least recently used first; entries that cannot be read are left out."""
        used_at = {path: stat.st_mtime for path, stat in _stats(self.root.glob("stages/*.json"))}
        entries = {}
        for path in sorted(used_at, key=used_at.__getitem__):
            entry = _read_manifest(path)
            if entry is not None:
                entries[path.stem] = entry
        return entries

    def holds(self, key: str) -> bool:
        """Tell whether there is an entry, sound or not."""
        return self._manifest(key).exists()

    def read(self, key: str) -> CacheEntry | None:
        """Return an entry whose files are all as they were written; drop one that is corrupt, with a warning."""
        manifest = self._manifest(key)
        if not manifest.exists():
            return None
        entry = _read_manifest(manifest)
        if entry is None:
            corrupt = [manifest]
        else:
            blobs = [self.blob(name) for name in entry.files.values()]
            corrupt = [blob for blob in blobs if not _sound(blob)]
        if not corrupt:
            return entry
        # A manifest that is gone by now was dropped by another process: the entry is missing, not corrupt.
        if not manifest.exists():
            return None
        name = corrupt[0].name[:12]
        warnings.warn(f"{manifest}: corrupt in the cache ({name}); the stage is run again.", stacklevel=2)
        # The corrupt files go as well: other entries that share them would only find them corrupt again.
        for path in {manifest, *corrupt}:
            path.unlink(missing_ok=True)
        return None

    def write(
        self, entry: CacheEntry, rows: Mapping[str, Any], files: Mapping[str, Path], shared: bool = False
    ) -> None:
        """Keep an entry with its files.

        Args:
            entry: without files and time, which are added.
            rows: the stage's rows of the run's database.
            files: the files by their paths in the run directory.
            shared: link models instead of copying them, as is always done with states.

        Raises:
            OSError: the cache cannot be written.
        """
        # Before the lock, since digests of large files take time.
        text = json.dumps(rows)
        names = {path: file_digest(file) for path, file in files.items()}
        with self.guard():
            for path, file in files.items():
                blob = self.blob(names[path])
                if not blob.exists():  # stages share the networks that they leave as they are
                    copy_or_link(file, blob, link=shared or path.startswith("checkpoints/"))
                    blob.chmod(0o444)  # it may be a link to a file of the run, which must not be written in place
            # The manifest comes last: an entry that can be found is complete.
            names[ROWS] = self._write_blob(text)
            complete = asdict(replace(entry, files=names, made_at=time.time())) | {"format": FORMAT}
            manifest = self._manifest(entry.key)
            manifest.parent.mkdir(exist_ok=True)
            # The digest of the manifest itself shows later whether it is as it was written.
            _write_text(manifest, json.dumps({**complete, "check": digest(complete)}))

    def touch(self, key: str) -> None:
        """Note that an entry was used just now.

        Raises:
            FileNotFoundError: another process has dropped it.
        """
        os.utime(self._manifest(key))

    def blob(self, name: str) -> Path:
        """Return the path of the file with a digest."""
        return self.root / "blobs" / name[:2] / name

    def size(self, entry: CacheEntry) -> int:
        """Return the bytes of an entry's files; other entries may share them."""
        blobs = [self.blob(name) for name in set(entry.files.values())]
        return sum(stat.st_size for _, stat in _stats(blobs))

    def total(self) -> int:
        """Return the bytes of all files."""
        prepared = sum(size for _, size in self.prepared.entries().values())
        return prepared + sum(self._blob_sizes().values())

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Keep writing and pruning apart."""
        from filelock import FileLock

        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            yield

    @contextmanager
    def building(self, key: str, news: str) -> Iterator[None]:
        """Hold the right to build an entry. If another process has it, print ``news`` and wait.

        The operating system takes the right back from a process that dies.
        """
        from filelock import FileLock, Timeout

        folder = self.root / "locks"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{key}.lock")
            # Tried once without waiting, so that the user learns why nothing happens.
            try:
                lock.acquire(timeout=0)
            except Timeout:
                tell(news)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def prune(self, max_bytes: float) -> list[str]:
        """Drop the least recently used entries until all files together have at most this size.

        Returns:
            The keys of the stages' entries that were dropped. Prepared arrays, which take less time to make again than
            a stage, go first.
        """
        with self.guard():
            entries = self.entries()
            prepared = self.prepared.entries()
            sizes = self._blob_sizes()
            # A file goes with the last entry that uses it.
            users: Counter[str] = Counter()
            for entry in entries.values():
                users.update(sizes.keys() & set(entry.files.values()))
            total = sum(sizes[name] for name in users) + sum(size for _, size in prepared.values())
            for key, (_, size) in prepared.items():
                if total <= max_bytes:
                    break
                self.prepared.drop(key)
                total -= size
            dropped = []
            for key, entry in entries.items():
                if total <= max_bytes:
                    break
                self._manifest(key).unlink(missing_ok=True)
                dropped.append(key)
                for name in sizes.keys() & set(entry.files.values()):
                    users[name] -= 1
                    if not users[name]:
                        total -= sizes[name]
            # Also files without any entry, which a process that was killed while writing left behind.
            for name in sizes:
                if not users[name]:
                    self.blob(name).unlink(missing_ok=True)
        return dropped

    def _manifest(self, key: str) -> Path:
        return self.root / "stages" / f"{key}.json"

    def _blob_sizes(self) -> dict[str, int]:
        return {path.name: stat.st_size for path, stat in _stats(self.root.glob("blobs/*/*"))}

    def _write_blob(self, text: str) -> str:
        """Keep a text as a file and return its digest."""
        temporary = self.root / "blobs" / f"new-{uuid.uuid4().hex}"
        temporary.parent.mkdir(exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        name = file_digest(temporary)  # of the file, as for all others: line ends may differ from the text's
        self.blob(name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, self.blob(name))
        return name


def nearest(cache: Cache, parts: Mapping[str, Any]) -> tuple[CacheEntry | None, str, list[tuple[str, Any, Any]]]:
    """Find the other entry of the same stage that differs in the least.

    Args:
        cache: the cache.
        parts: the parts of the stage's key.

    Returns:
        The entry, or ``None``; the stage at which the two chains first differ; and their differences there.
    """
    entries = cache.entries()
    own_key = digest(parts)
    closest: CacheEntry | None = None
    differing: list[tuple[str, Any, Any]] = []
    for key, entry in entries.items():
        if key == own_key or entry.parts["stage"] != parts["stage"]:
            continue
        its_differences = list(differences(parts, entry.parts))
        if closest is None or len(its_differences) < len(differing):
            closest = entry
            differing = its_differences
    if closest is None:
        return None, "", []
    mine, other = parts, closest.parts
    # If only the stages before differ, the reason is further back in the chain.
    while [path for path, _, _ in differing] == ["upstream"]:
        _, my_key, other_key = differing[0]
        my_entry, other_entry = entries.get(str(my_key)), entries.get(str(other_key))
        if my_entry is None or other_entry is None:
            break
        mine, other = my_entry.parts, other_entry.parts
        differing = list(differences(mine, other))
    return closest, mine["stage"], differing


def copy_or_link(source: Path, target: Path, link: bool = False) -> None:
    """Copy a file whole or not at all; ``link`` is for files that are never written in place on either side."""
    # A name of its own each time, because other processes may copy to the same target.
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    if not link or not _linked(source, temporary):
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _linked(source: Path, target: Path) -> bool:
    """Make a hard link, if the file system can."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _read_manifest(path: Path) -> CacheEntry | None:
    """Return an entry, or ``None`` if its manifest is not what was written, or is of another format."""
    # A manifest may be cut off or edited in any way, so it counts as missing whatever goes wrong.
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check = facts.pop("check")
        if facts.get("format") != FORMAT or check != digest(facts):
            return None
        del facts["format"]
        return CacheEntry(**facts)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _stats(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield files with their sizes and times; files that another process drops meanwhile are left out."""
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        yield path, stat


def _write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; an error stays the system's, since a run can do without its cache."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _sound(blob: Path) -> bool:
    return blob.is_file() and file_digest(blob) == blob.name
