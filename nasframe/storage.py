"""Writes to disks and databases, with errors that name the file and a remedy."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nasframe.errors import NasframeError, RunError, UsageError

REMEDIES = {
    errno.ENOSPC: "The disk is full: make room on it.",
    errno.EDQUOT: "Your quota on this disk is used up: make room on it.",
    errno.EROFS: "The disk is read-only: make it writable, or choose a place on another one.",
    errno.EACCES: "Permission is missing: allow this user to write there, or choose another place.",
    errno.EPERM: "Permission is missing: allow this user to write there, or choose another place.",
    errno.EFBIG: "A file may not become so large here: raise the limit (ulimit -f), or choose another disk.",
    errno.EIO: "The disk failed: check it, or choose another one.",
    errno.ENOTDIR: "A file lies where a folder is expected: move it, or choose another place.",
    errno.EEXIST: "A file lies where a folder is expected: move it, or choose another place.",
    errno.EISDIR: "A folder lies where a file is expected: move it away.",
    errno.ENOENT: "The folder that it belongs to is gone: put it back.",
    errno.ENAMETOOLONG: "Its name is too long: choose a shorter one.",
    errno.ELOOP: "Its links lead in a circle: mend them.",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n).",
}
DISK = frozenset(REMEDIES) - {errno.ENOENT}
"""Errors that only the user can mend, so that a plugin that meets one is not at fault. ENOENT may be a plugin's bug."""


@contextmanager
def writing(path: Path, kind: type[NasframeError] = RunError) -> Iterator[None]:
    """Turn errors of the disk inside the block into errors that name the file.

    Args:
        path: the file or folder that the block writes.
        kind: the class of the error; :class:`UsageError` before any work.

    Raises:
        RunError: it cannot be written; says why, and what can be done.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (FileNotFoundError, TimeoutError):  # a missing input or a lock that is held: not the disk's fault
        raise
    except OSError as error:
        raise kind(write_problem(path, error)) from error
    except SafetensorError as error:
        raise kind(write_problem(path, _as_os_error(error))) from error


@contextmanager
def removed_on_error(temporary: Path) -> Iterator[None]:
    """Remove a half-written file if writing it fails: on a full disk it would take the room that is left."""
    try:
        yield
    except Exception:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path), removed_on_error(temporary):
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)


def write_problem(path: Path, error: OSError) -> str:
    """Return a text that names a file that cannot be written, the reason, and a remedy.

    >>> write_problem(Path("run/env.json"), OSError(errno.ENOSPC, "No space left on device"))
    'run/env.json: cannot be written (No space left on device). The disk is full: make room on it.'
    """
    place = path
    # For these, the system names the folder above that is in the way, which says more than the file.
    if isinstance(error.filename, str) and error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        place = Path(error.filename)
    reason = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0, "Expected a place that can be written.")
    return f"{place}: cannot be written ({reason}). {remedy}"


def disk_problem(error: OSError) -> str | None:
    """Return a text on what is wrong with a disk, ``None`` if the error is about something else.

    >>> disk_problem(OSError(errno.ENOSPC, "No space left on device", "memo.txt"))
    'memo.txt: No space left on device. The disk is full: make room on it.'
    """
    if error.errno not in DISK:
        return None
    remedy = REMEDIES[error.errno]
    if error.errno in (errno.EACCES, errno.EPERM):
        remedy = _permission_remedy(error.filename)
    return f"{error.filename or 'a file'}: {error.strerror}. {remedy}"


def _permission_remedy(name: object) -> str:
    """Say which permission is missing, by what this user may do: an error does not tell a read from a write."""
    readable = writable = True
    if isinstance(name, str) and os.path.lexists(name):
        readable = os.access(name, os.R_OK)
        writable = os.access(name, os.W_OK)
    elif isinstance(name, str):  # reading a missing file is another error, if its folder can be looked into
        readable = os.access(os.path.dirname(name) or os.curdir, os.X_OK)
        writable = False
    if readable == writable:
        return "Permission is missing: allow this user to read and write there, or choose another place."
    return REMEDIES[errno.EACCES] if readable else "Permission is missing: allow this user to read it."


def _as_os_error(error: Exception) -> OSError:
    """Read the system's number out of the text of an error of safetensors."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(0, str(error))
    code = int(number.group(1))
    return OSError(code, os.strerror(code))


def refuse_unwritable(directory: Path) -> None:
    """Make sure, before any work, that a folder can be made, or written to if it exists.

    Raises:
        UsageError: it cannot; the text names the reason.
    """
    nearest = Path(os.path.abspath(directory))  # the folder itself, or the nearest one above it that exists
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        code = errno.ENOTDIR
    elif not os.access(nearest, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(nearest).f_flag & os.ST_RDONLY else errno.EACCES
    else:
        return
    place = nearest if code == errno.ENOTDIR else directory
    raise UsageError(write_problem(place, OSError(code, os.strerror(code))))


def refuse_unwritable_file(path: Path) -> None:
    """Make sure, before any work, that a file can be written. Its folder must exist.

    Raises:
        UsageError: it cannot; the text names the reason.
    """
    if os.path.isdir(path):
        raise UsageError(write_problem(path, OSError(errno.EISDIR, os.strerror(errno.EISDIR))))
    if not os.path.lexists(path.parent):
        raise UsageError(f"{path}: cannot be written (No such folder). Expected a file in a folder that exists.")
    # A file that exists may be in a folder that is not writable, as /dev/stdout is.
    if not os.path.exists(path):
        refuse_unwritable(path.parent)


# ---- databases


class Database(sqlite3.Connection):
    """A connection to a run's database whose errors name the file."""

    path = Path("run.db")

    def cursor(self, factory: Any = None) -> Any:
        """Return a cursor whose errors name the file."""
        return super().cursor(factory or _Cursor)

    def execute(self, *args: Any) -> Any:
        """Execute a statement with our cursor, which SQLite's own shortcut would not use."""
        return self.cursor().execute(*args)

    def executemany(self, *args: Any) -> Any:
        """Execute a statement once for each row of values."""
        return self.cursor().executemany(*args)

    def executescript(self, *args: Any) -> Any:
        """Execute several statements."""
        return self.cursor().executescript(*args)


def connect(path: Path) -> Database:
    """Open a database.

    Raises:
        RunError: it cannot be opened.
    """
    try:
        # No implicit transactions (``transaction`` begins them), and a minute's patience with another process's write.
        db = sqlite3.connect(path, isolation_level=None, timeout=60, factory=Database)
    except sqlite3.Error as error:
        raise RunError(database_problem(path, error)) from error
    db.path = path
    return db


def check_database(db: Database) -> None:
    """Read a database through once.

    Raises:
        RunError: it is damaged.
    """
    (answer,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise RunError(damaged_database(db.path, " ".join(str(answer).split())))


def database_problem(path: Path, error: sqlite3.Error) -> str:
    """Return a text on what is wrong with a database, with a remedy."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code; the higher bits tell details
    known = {
        sqlite3.SQLITE_FULL: errno.ENOSPC,
        sqlite3.SQLITE_READONLY: errno.EACCES,
        sqlite3.SQLITE_PERM: errno.EACCES,
        sqlite3.SQLITE_IOERR: errno.EIO,
    }
    if code in known:
        return write_problem(path, OSError(known[code], str(error)))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path}: another program holds the database ({error}). Close it, then go on."
    if code == sqlite3.SQLITE_CANTOPEN:
        return f"{path}: cannot be opened ({error}). Expected a file in a folder that this user may write to."
    return damaged_database(path, str(error))


def damaged_database(path: Path, reason: str) -> str:
    """Return a text that says that a run's database is damaged, with a remedy."""
    return (
        f"{path}: the run's database is damaged ({reason}). Put a copy of it back. Without one the run is lost: "
        f"start it again with another --out (nasframe run {path.parent / 'recipe.yaml'}); with a cache its stages "
        "are not run again."
    )


class _Cursor(sqlite3.Cursor):
    """Turns errors of SQLite into ones that name the file, whichever call raises them: SQLite reads rows late."""

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:  # a mistake in nasframe
            raise
        except sqlite3.DatabaseError as error:
            path = getattr(self.connection, "path", Path("run.db"))
            raise RunError(database_problem(path, error)) from error

    def execute(self, *args: Any) -> Any:
        with self._named():
            return super().execute(*args)

    def executemany(self, *args: Any) -> Any:
        with self._named():
            return super().executemany(*args)

    def executescript(self, *args: Any) -> Any:
        with self._named():
            return super().executescript(*args)

    def fetchone(self) -> Any:
        with self._named():
            return super().fetchone()

    def fetchmany(self, *args: Any, **options: Any) -> Any:
        with self._named():
            return super().fetchmany(*args, **options)

    def fetchall(self) -> Any:
        with self._named():
            return super().fetchall()

    def __next__(self) -> Any:
        with self._named():
            return super().__next__()
