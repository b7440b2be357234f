"""Digests of files and folders; a file that is as it was is not read again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

SKIPPED = frozenset({"__pycache__", ".git", ".cache"})
"""Folders inside of others that hold no content of their own."""

Stamp: TypeAlias = tuple[int, ...]


def stamp(path: str | Path) -> Stamp:
    """Return what differs once a file does, without reading it; nothing if there is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; a file that is as it was is not read again."""
    return _file_digest(path, *stamp(path))


@lru_cache(maxsize=100_000)
def _file_digest(path: Path, *_: int) -> str:
    return fresh_digest(path)


def fresh_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as they are on the disk now: damage leaves a file's times as they were."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(place: Path, pattern: str = "*") -> Iterator[tuple[str, Path]]:
    """Yield the files of a place with their names in it, in order; of a single file the name is empty.

    Run directories inside of it are left out: they change while their runs go on.
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
    """Digest a file, or those files below a folder that match, with their names."""
    if path.is_file():
        return file_digest(path)
    listed = [(name, file_digest(file)) for name, file in files_below(path, pattern)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
