"""Says of an error from which plugin it came, and at which of the plugin's moments.

The registry notes every object that it makes. When an error leaves a run, its traceback tells the rest: the innermost
frame of a noted object is the plugin's, and the method that the framework called is the moment. So nobody who calls a
plugin has to wrap the call, and no call can be forgotten.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from nasframe.errors import NasframeError, PluginError

CORE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Note:
    """What is known of an object that the registry made.

    Args:
        plugin: the plugin as errors name it, ``sampler 'climb' (climb.py)``.
        source: where it comes from, ``climb.py``.
        home: the top-level module of its code.
        built_in: whether it is part of nasframe.
    """

    plugin: str
    source: str
    home: str
    built_in: bool


_notes: dict[int, tuple[weakref.ref[Any], Note]] = {}  # by the object's id, or by its code's where it is a function


def note(made: Any, about: Note) -> None:
    """Remember, as long as an object lives, which plugin it is."""
    key = id(getattr(made, "__code__", made))
    try:
        alive = weakref.ref(made, lambda _: _notes.pop(key, None))
    except TypeError:  # a number, say, which raises nothing
        return
    _notes[key] = (alive, about)


def plugin_error(error: BaseException) -> PluginError | None:
    """Name the plugin that an error came from.

    Args:
        error: what was raised.

    Returns:
        An error that says which plugin raised at which moment, or ``None`` where no plugin did.
    """
    calls = [_Call(frame) for frame, _ in traceback.walk_tb(error.__traceback__)]
    homes = _homes()
    ours = [place for place, call in enumerate(calls) if call.home == CORE or call.home in homes]
    inner = max((place for place in ours if calls[place].home != CORE), default=-1)
    if inner < 0:
        return None
    place = max((place for place in range(inner + 1) if calls[place].note), default=-1)
    same = homes[calls[inner].home]
    since = max((place for place in ours if place < inner and calls[place].home == CORE), default=-1)
    if place <= since and not (len(same) == 1 and place >= 0 and calls[place].note in same):
        return _of_helper(calls, since, inner, same, error)
    about = calls[place].note
    if about is None or (about.built_in and calls[ours[-1]].home == CORE):  # the framework failed, in its own code
        return None
    for outer in range(place - 1, -1, -1):  # to the method that was called from outside
        if calls[outer].note is about:
            place = outer
        elif calls[outer].note is not None or calls[outer].home == CORE:
            break
    return PluginError(f"{about.plugin}: {calls[place].name} raised {described(error)}")


@contextmanager
def naming_plugins() -> Iterator[None]:
    """Turn what a plugin raises inside the block into an error that names it; what it refuses is let through.

    ``SystemExit`` is an error there, since no plugin may end the process; an interrupt is the user's and stays one.

    Raises:
        PluginError: a plugin raised; the original is its cause.
    """
    try:
        yield
    except NasframeError:
        raise
    except (Exception, SystemExit) as error:
        named = plugin_error(error)
        if named is None:
            raise
        for line in getattr(error, "__notes__", ()):
            named.add_note(line)
        raise named from error


def described(error: BaseException) -> str:
    """Write an error's type and text.

    >>> described(ValueError("too small")), described(KeyError())
    ('ValueError: too small', 'KeyError')
    """
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class _Call:
    """One frame of a traceback: in which function, of which package, and of which noted object if of one."""

    def __init__(self, frame: FrameType) -> None:
        self.name = frame.f_code.co_name
        self.home = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        self.note: Note | None = None
        for thing in (frame.f_code, frame.f_locals.get("self")):
            alive, about = _notes.get(id(thing), (None, None))
            if alive is not None and alive() is not None:
                self.note = about


def _homes() -> dict[str, set[Note]]:
    """Return the packages and files of noted objects, each with what is noted of them."""
    found: dict[str, set[Note]] = {}
    for _, about in list(_notes.values()):
        found.setdefault(about.home, set()).add(about)
    return found


def _of_helper(
    calls: Sequence[_Call], since: int, inner: int, same: set[Note], error: BaseException
) -> PluginError | None:
    """Name the plugin of code that is no noted object's but was called by the framework, such as a task's batches.

    Args:
        calls: the traceback.
        since: the framework's last call before it.
        inner: where the code raised.
        same: what is noted of its package or file.
        error: what was raised.
    """
    if any(about.built_in for about in same):
        return None
    first = next(call for call in calls[since + 1 :] if call.home == calls[inner].home)
    names = {about.plugin for about in same}
    name = names.pop() if len(names) == 1 else f"a plugin of {next(iter(same)).source}"
    return PluginError(f"{name}: {first.name} raised {described(error)}")
