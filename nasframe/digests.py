"""Digests of files and folders; a file that did not change is not read again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

SKIPPED = frozenset({"__pycache__", ".git", ".cache"})
"""Folders whose content does not count."""

Stamp: TypeAlias = tuple[int, ...]


def stamp(path: str | Path) -> Stamp:
    """Return time, size and inode of a file, which change when it does; an empty tuple if there is no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; a file that did not change is not read again."""
    return _file_digest(path, *stamp(path))


@lru_cache(maxsize=100_000)
def _file_digest(path: Path, *_: int) -> str:
    # The stamp is only part of the cache's key.
    return fresh_digest(path)


def fresh_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, always read from the disk, because damage does not change its times."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(place: Path, pattern: str = "*") -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder in order, each with its path inside the folder; for a single file that is empty.

    Run directories are left out, because they change while their runs go on.
    """
    if place.is_file():
        yield "", place
        return
    runs = {database.parent for database in place.rglob("run.db")}
    for file in sorted(place.rglob(pattern)):
        inside = file.relative_to(place)
        if file.is_file() and SKIPPED.isdisjoint(inside.parts) and runs.isdisjoint(file.parents):
            yield inside.as_posix(), file


def tree_digest(path: Path, pattern: str = "*") -> str:
    """Return the digest of a file, or of the files below a folder that match, with their names."""
    if path.is_file():
        return file_digest(path)
    digests = [(name, file_digest(file)) for name, file in files_below(path, pattern)]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()
