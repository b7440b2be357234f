"""Arrays that took long to prepare, kept in the cache: processes map their files into memory, and share them.

``<cache>/prepared/<key>/`` holds a file of plain numbers for each array, and ``entry.json``, which says their types,
lengths and digests. An entry is written under another name and renamed, so that one that can be found is complete. What
is kept must follow from the key alone, since nothing else is compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nasframe.digests import fresh_digest
from nasframe.reads import unrecorded
from nasframe.terminal import tell

FORMAT = 1
ENTRY = "entry.json"

Arrays = Mapping[str, np.ndarray]


@dataclass
class _File:
    """An array's file while it is written."""

    file: BinaryIO
    dtype: np.dtype[Any]
    count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class ArrayWriter:
    """Writes arrays part by part, so that they need not be in memory as a whole.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}

    def append(self, name: str, part: np.ndarray) -> None:
        """Add a part, ``(numbers,)``, to an array; its first part gives the type of all."""
        if name not in self._files:
            file = (self._folder / f"{name}.bin").open("wb")
            self._files[name] = _File(file, part.dtype)
        array = self._files[name]
        content = np.ascontiguousarray(part, dtype=array.dtype).tobytes()
        array.file.write(content)
        array.digest.update(content)
        array.count += len(part)

    def finish(self) -> None:
        """Close the files and describe them."""
        arrays = {}
        for name, array in self._files.items():
            array.file.close()
            arrays[name] = {"dtype": array.dtype.str, "count": array.count, "sha256": array.digest.hexdigest()}
        content = json.dumps({"format": FORMAT, "arrays": arrays})
        (self._folder / ENTRY).write_text(content, encoding="utf-8")

    def close(self) -> None:
        """Close the files, whether they are whole or not."""
        for array in self._files.values():
            array.file.close()


class Prepared:
    """The prepared arrays of a cache, shared by any number of processes.

    Args:
        cache: the cache's folder; made when it is first written to.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = Path(cache).expanduser().resolve()
        self.root = self._cache / "prepared"

    def arrays(self, key: str, write: Callable[[ArrayWriter], None], noun: str) -> Arrays:
        """Return the arrays of a key, mapped into memory; they are made if they are missing or damaged.

        Of several processes that need them one makes them, and the others wait.

        Args:
            key: the digest of everything that the arrays follow from.
            write: makes the arrays.
            noun: what they are, for messages.

        Raises:
            OSError: the cache cannot be written.
        """
        from filelock import FileLock, Timeout

        with unrecorded():  # they follow from what the key is a digest of
            kept = self.read(key)
            if kept is not None:
                return kept
            locks = self._cache / "locks"
            locks.mkdir(parents=True, exist_ok=True)
            lock = FileLock(locks / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                tell(f"nasframe: waiting for another process that makes {noun}")
                lock.acquire()
            try:
                kept = self.read(key)  # another process may have made them meanwhile
                if kept is None:
                    self._make(key, write)
                    kept = self.read(key)
            finally:
                lock.release()
        if kept is None:
            raise OSError(f"{self.root / key}: cannot be read back")
        return kept

    def read(self, key: str) -> Arrays | None:
        """Return the arrays of a key, ``None`` if there are none; damaged ones are removed, with a warning."""
        folder = self.root / key
        if not folder.is_dir():
            return None
        arrays = _read(folder)
        if arrays is None:
            # One that is gone by now was dropped by another process: it is missing, not damaged.
            if folder.is_dir():
                warnings.warn(f"{folder}: damaged in the cache; it is made again.", stacklevel=2)
                shutil.rmtree(folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):  # a cache may be readable only
            os.utime(folder)
        return arrays

    def entries(self) -> dict[str, tuple[float, int]]:
        """Return when each entry was last used, and its bytes; the least recently used first."""
        entries = {}
        for folder in self.root.glob("*"):
            try:
                used_at = folder.stat().st_mtime
                size = sum(file.stat().st_size for file in folder.iterdir())
            except OSError:  # dropped by another process meanwhile
                continue
            entries[folder.name] = (used_at, size)
        return dict(sorted(entries.items(), key=lambda item: item[1][0]))

    def drop(self, key: str) -> None:
        """Remove an entry; processes that have mapped it keep what they have."""
        shutil.rmtree(self.root / key, ignore_errors=True)

    def _make(self, key: str, write: Callable[[ArrayWriter], None]) -> None:
        """Write an entry under another name, then rename it."""
        temporary = self.root / f"{key}.{uuid.uuid4().hex}.new"
        temporary.mkdir(parents=True)
        writer = ArrayWriter(temporary)
        try:
            write(writer)
            writer.finish()
            temporary.rename(self.root / key)
        except BaseException:
            writer.close()
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _read(folder: Path) -> Arrays | None:
    """Map an entry's files, ``None`` if they are not as they were written."""
    # An entry may be cut off or edited in any way, so it counts as damaged whatever goes wrong.
    try:
        facts = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            return None
        return dict(_mapped(folder, facts["arrays"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _mapped(folder: Path, facts: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays by name.

    Raises:
        ValueError: a file's content is not what was written.
    """
    for name, fact in facts.items():
        path = folder / f"{name}.bin"
        if fresh_digest(path) != fact["sha256"]:
            raise ValueError(f"{path}: damaged")
        dtype = np.dtype(fact["dtype"])
        count = int(fact["count"])
        if count == 0:  # no file of length 0 can be mapped
            yield name, np.empty(0, dtype)
        else:
            yield name, np.memmap(path, dtype, "r", shape=(count,))
