"""The docstrings of a whole package, kept in nasframe's cache: thousands of source files take a minute to parse.

The key is a digest of the list of source files, with their sizes and times of change, and of the version of Python,
which decides what can be parsed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nasframe import progress
from nasframe.running.cache import default_folder
from nasframe.running.prepared import ArrayWriter, Prepared
from nasframe_basics.package_docs import docstrings_of, source_files

FORMAT = 1
"""Of the key; a change of what a docstring is makes all packages be read again."""
ARRAYS = {"bytes": np.uint8, "lengths": np.int64}
"""Array → the type of its numbers."""


def docstrings(package: str) -> Iterator[str]:
    """Yield the docstrings of a package, each text once, file by file in a fixed order."""
    seen: set[str] = set()
    for path in source_files(package):
        yield from _new_docstrings(path, seen)


def _new_docstrings(path: Path, seen: set[str]) -> Iterator[str]:
    """Yield the docstrings of a source file that were not seen before, and remember them."""
    for docstring in docstrings_of(path.read_bytes()):
        text = docstring.strip()
        if text and text not in seen and "\0" not in text:
            seen.add(text)
            yield text


def kept_docstrings(package: str) -> list[str]:
    """Return the docstrings of a package, from the cache if they were read before.

    Raises:
        UsageError: the package is not installed.
        OSError: the cache cannot be written.
    """

    def write(writer: ArrayWriter) -> None:
        for name in ("bytes", "lengths"):  # also of a package without docstrings
            writer.append(name, np.empty(0, ARRAYS[name]))
        files = source_files(package)
        seen: set[str] = set()
        with progress.phase(f"reading the docstrings of {package}") as advance:
            for number, path in enumerate(files, 1):
                for text in _new_docstrings(path, seen):
                    content = text.encode("utf-8", "surrogatepass")
                    writer.append("bytes", np.frombuffer(content, ARRAYS["bytes"]))
                    writer.append("lengths", np.array([len(content)], ARRAYS["lengths"]))
                advance(number, len(files), "")

    arrays = Prepared(default_folder()).arrays(_key(package), write, f"the docstrings of {package}")
    ends = np.cumsum(arrays["lengths"])
    content = arrays["bytes"].tobytes()
    texts = []
    start = 0
    for end in ends.tolist():
        texts.append(content[start:end].decode("utf-8", "surrogatepass"))
        start = end
    return texts


def _key(package: str) -> str:
    digest = hashlib.sha256(json.dumps(["docstrings", FORMAT, package, sys.version]).encode())
    for path in source_files(package):
        state = path.stat()
        digest.update(json.dumps([str(path), state.st_size, state.st_mtime_ns]).encode())
    return digest.hexdigest()
