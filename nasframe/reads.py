"""Records which files a process reads, as far as Python can tell.

Python reports every file that it opens, and every folder that it lists, as an audit event. An audit hook cannot be
removed, so there is one for the whole process, and recorders are switched on and off. Files that native code opens
(safetensors, tokenizers, Parquet) raise no event: models and tasks name them with ``files()``.

Not recorded: Python's own files and installed packages, whose versions are part of a key; nasframe itself; files that
were written before they were read; temporary files that no longer exist at the end; and the folders of the operating
system whose content changes by itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import site
import stat
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from nasframe.digests import Stamp, file_digest, stamp

MISSING = "missing"
"""The state of a file that was looked for and does not exist."""
UNKNOWN = "unknown"
"""The state of a file that changed while it was read; it equals no other, so that nothing comes from the cache."""
NAMES = "names "
"""The beginning of a folder's state."""
MACHINE = ("/proc", "/sys", "/dev", "/run", "/etc")
"""Folders of the operating system: their content may change at any time, and changes no result."""

PYTHON = ("stdlib", "platstdlib", "purelib", "platlib", "include", "scripts")
"""Python's own folders, as ``sysconfig`` calls them."""

METADATA = os.path.join("importlib", "metadata")
# Files of the standard library whose calls look for code rather than read data.
IMPORTS = ("importlib._bootstrap", METADATA, "zipimport", "pkgutil.py")
ABOUT_CODE = (METADATA, "linecache.py")


class Recorder:
    """Records the files that are read inside its ``with`` statements, which may be nested and repeated.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "words.txt"
    >>> _ = place.write_text("good bad")
    >>> with Recorder() as recorder:
    ...     _ = place.read_text()
    >>> [Path(path).name for path in recorder.stamps]
    ['words.txt']
    """

    def __init__(self) -> None:
        self.stamps: dict[str, Stamp] = {}  # file → its stamp when it was first read
        self.names: dict[str, list[str]] = {}  # folder → its content when it was first listed
        self.written: set[str] = set()

    def __enter__(self) -> Recorder:
        _install()
        _active.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _active.reverse()
        _active.remove(self)  # the innermost entry of this recorder
        _active.reverse()

    def read(self, path: str, current: Stamp) -> None:
        """Note that a file is opened for reading, unless it was written here before."""
        if path not in self.written:  # a run's own results follow from its other inputs
            self.stamps.setdefault(path, current)  # the first stamp: a later one would hide a change in between

    def listed(self, path: str, names: list[str]) -> None:
        """Note that a folder is listed."""
        self.names.setdefault(path, names)

    def wrote(self, path: str) -> None:
        """Note that a file is opened for writing, or renamed to this path."""
        self.written.add(path)

    def states(self, hidden: Iterable[str | Path] = ()) -> tuple[dict[Path, str], list[Path]]:
        """Return the states of the files and folders that were read.

        Args:
            hidden: places of the run itself, which do not count.

        Returns:
            Path → :func:`state`, and the paths that changed after they were read, so that their state is unknown.
        """
        own = [os.path.realpath(place) for place in hidden]
        states: dict[Path, str] = {}
        changed: list[Path] = []
        changed_files = set(self.changed_files())
        for path in self._counting(self.stamps, own):
            if path in changed_files:
                changed.append(path)
            else:
                states[path] = state(path)
        for path in self._counting(self.names, own):
            first_names = _counting_names(path, self.names[str(path)], own)
            first_digest = _names_digest(first_names)
            if state(path, own) == first_digest:
                states[path] = first_digest
            else:
                changed.append(path)
        return states, changed

    def changed_files(self) -> list[Path]:
        """Return the files that changed since they were first read."""
        return [Path(name) for name, first in self.stamps.items() if first != stamp(name)]

    def _counting(self, names: Iterable[str], own: Sequence[str]) -> Iterator[Path]:
        """Yield the paths that count: not those of the run itself, nor temporary files that no longer exist."""
        for name in names:
            path = Path(name)
            existed = self.stamps.get(name) != ()  # the stamp of a file that does not exist
            was_temporary = existed and not path.exists() and _is_temporary(path)
            if not was_temporary and not is_below(path, own):
                yield path


def state(path: Path, hidden: Sequence[str] = ()) -> str:
    """Return the digest of a file's content, or of the names in a folder; ``missing`` if the path does not exist.

    Args:
        path: the file or folder.
        hidden: real paths that do not count as names in a folder, and neither do folders that lead to them.
    """
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        return MISSING
    return _names_digest(_counting_names(path, os.listdir(path), hidden))


def _names_digest(names: Sequence[str]) -> str:
    return NAMES + hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _counting_names(folder: Path, names: Iterable[str], hidden: Sequence[str]) -> list[str]:
    """Return the names in a folder, in order, without those of runs and those that lead to hidden places."""
    home = os.path.realpath(folder)
    counting = [name for name in names if not _leads_to(os.path.join(home, name), hidden)]
    return sorted(counting)


def is_below(path: Path, places: Iterable[str]) -> bool:
    """Tell whether a path, or the target of a link, is one of some real paths or lies below one."""
    absolute = os.path.abspath(path)
    real = os.path.realpath(path)
    return any(_lies_in(absolute, place) or _lies_in(real, place) for place in places)


def _lies_in(path: str, place: str) -> bool:
    return path == place or path.startswith(place + os.sep)


def _leads_to(path: str, hidden: Iterable[str]) -> bool:
    """Tell whether a path is a run's directory, or leads to a hidden place."""
    if os.path.isfile(os.path.join(path, "run.db")):
        return True
    return any(_lies_in(place, path) for place in hidden)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Record nothing that this thread reads in the block: no result depends on it, or it follows from other files."""
    was_busy = getattr(_busy, "now", False)
    _busy.now = True
    try:
        yield
    finally:
        _busy.now = was_busy


# ---- the hook

_active: list[Recorder] = []
_busy = threading.local()  # set during our own reading, whose events must not count
_installed = False


def _install() -> None:
    """Install the audit hook, once."""
    global _installed
    if not _installed:
        _own_places()  # now, because computing them inside the hook would raise events
        sys.addaudithook(_hook)
        _installed = True


def _hook(event: str, args: tuple[Any, ...]) -> None:
    """Pass an audit event on to the active recorders; an error here must not break the user's own ``open``."""
    if not _active or getattr(_busy, "now", False):
        return
    with suppress(OSError, ValueError, TypeError):
        if event == "open":
            _opened(args[0], args[1], args[2], sys._getframe(1))
        elif event in ("os.listdir", "os.scandir"):
            _listed(args[0], sys._getframe(1))
        elif event == "os.rename":
            _renamed(args[1])


def _opened(path: Any, mode: str | None, flags: int, caller: FrameType) -> None:
    """Note a file that is opened: by ``open`` if there is a mode, by ``os.open`` if there is none."""
    if isinstance(path, int):  # a file descriptor: its file was noted when it was opened
        return
    plain = os.fsdecode(path)
    if mode is None and not os.path.isabs(plain):  # it may be relative to a folder that is open, which we cannot know
        return
    name = _source_of(os.path.abspath(plain))
    if name.startswith(_own_places()):
        return
    if _writes(mode, flags):
        for recorder in _active:
            recorder.wrote(name)
    elif _counts_as_read(name, mode, caller):
        for recorder in _active:
            recorder.read(name, stamp(name))


def _writes(mode: str | None, flags: int) -> bool:
    """Tell whether a file is opened for writing."""
    if mode is None:
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return any(letter in mode for letter in "wax")


def _counts_as_read(name: str, mode: str | None, caller: FrameType) -> bool:
    """Tell whether a file that is opened for reading may change a result; so may one that does not exist."""
    try:
        status = os.stat(name)
    except OSError:
        return mode is not None and not _looks_for_modules(caller)
    return stat.S_ISREG(status.st_mode) and not _asks_about_code(caller)


def _listed(path: Any, caller: FrameType) -> None:
    """Note a folder that is listed, with its content."""
    if isinstance(path, int) or _looks_for_modules(caller):
        return
    name = os.path.abspath(os.fsdecode(path or "."))
    if name.startswith(_own_places()) or not os.path.isdir(name):
        return
    if all(name in recorder.names for recorder in _active):  # only the first listing of a folder counts
        return
    _busy.now = True  # our own listing raises an event, too
    try:
        names = os.listdir(name)
    finally:
        _busy.now = False
    for recorder in _active:
        recorder.listed(name, names)


def _renamed(target: Any) -> None:
    """Note the target of a rename: the file was written under another name first."""
    if not isinstance(target, int):
        for recorder in _active:
            recorder.wrote(os.path.abspath(os.fsdecode(target)))


def _looks_for_modules(caller: FrameType) -> bool:
    """Tell whether an import, or a search for installed packages, looks through folders."""
    return _called_by(caller, IMPORTS)


def _asks_about_code(caller: FrameType) -> bool:
    """Tell whether the version of an installed package, or the source of a function, is looked up."""
    return _called_by(caller, ABOUT_CODE)


def _called_by(caller: FrameType, parts: Sequence[str]) -> bool:
    """Tell whether the standard library led to an event by a file with one of these parts in its path."""
    files = " ".join(_library_files(caller))
    return any(part in files for part in parts)


def _library_files(caller: FrameType) -> Iterator[str]:
    """Yield the files of the calls inside of Python's own library that led to an event."""
    library = sysconfig.get_path("stdlib")
    frame: FrameType | None = caller
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(("<frozen", library)):
            return
        yield file
        frame = frame.f_back


def _source_of(name: str) -> str:
    """Return the source of a bytecode file, because the bytecode of equal sources may differ."""
    if name.endswith(".pyc") and "__pycache__" in name:
        return importlib.util.source_from_cache(name)
    return name


@cache
def _own_places() -> tuple[str, ...]:
    """Return the beginnings of paths that are never recorded: the machine's, Python's, and nasframe's."""
    folders = [sysconfig.get_path(name) for name in PYTHON]
    folders += site.getsitepackages()
    folders.append(site.getusersitepackages())
    folders.append(str(Path(__file__).parents[1]))
    folders += MACHINE
    # A file may be opened by the path that a link leads to.
    folders += [os.path.realpath(folder) for folder in folders]
    return tuple(os.path.join(folder, "") for folder in dict.fromkeys(folders))


def _is_temporary(path: Path) -> bool:
    return is_below(path, [os.path.realpath(tempfile.gettempdir())])
