"""Finds the plugin that an error came from, and the method of it that the framework called.

The registry notes every object that it makes. When an error leaves a run, the innermost frame of a noted object in its
traceback belongs to the plugin at fault. So no call of a plugin has to be wrapped, and none can be forgotten.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from nasframe.errors import NasframeError, PluginError
from nasframe.storage import disk_problem

CORE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Note:
    """The origin of an object that the registry made.

    Args:
        plugin: the plugin's name in errors, ``sampler 'climb' (climb.py)``.
        source: the package or file that it comes from, ``climb.py``.
        home: the top-level module of its code.
        built_in: whether it is part of nasframe.
        use: its name and options as JSON; notes of one plugin are equal whatever its options.
    """

    plugin: str
    source: str
    home: str
    built_in: bool
    use: str = field(default="", compare=False)


_notes: dict[int, tuple[weakref.ref[Any], Note]] = {}  # by the id of the object, or of a function's code


def note(made: Any, about: Note) -> None:
    """Remember the plugin of an object, as long as the object lives."""
    key = id(getattr(made, "__code__", made))  # a traceback shows a function only by its code
    try:
        # The note goes with its object: a later object may get the same id, and would be taken for it.
        reference = weakref.ref(made, lambda _: _notes.pop(key, None))
    except TypeError:  # a number, for example, which raises nothing
        return
    _notes[key] = (reference, about)


def use_noted(made: Any) -> str:
    """Return the name and the options that the registry made an object with, as JSON; empty for other objects."""
    reference, about = _notes.get(id(getattr(made, "__code__", made)), (None, None))
    if reference is None or about is None or reference() is None:
        return ""
    return about.use


def plugin_error(error: BaseException) -> PluginError | None:
    """Name the plugin that an error came from.

    Args:
        error: the error.

    Returns:
        An error that names the plugin and its method, or ``None`` if no plugin raised.
    """
    calls = [_Call(frame) for frame, _ in traceback.walk_tb(error.__traceback__)]  # outermost first
    homes = _homes()
    # Libraries that a plugin called lie further in; they raised, but on the plugin's account.
    last = _last(calls, lambda call: call.note is not None or call.home in homes)
    if last < 0:
        return None
    entered = _last(calls[:last], lambda call: call.is_core) + 1  # where the framework last called a plugin
    place = _last(calls[: last + 1], lambda call: call.note is not None)
    about = calls[place].note if place >= 0 else None
    family = homes.get(calls[last].home, set())
    # A noted object further out than the framework's last call only led there: code without an object raised, such as
    # a batch. It still belongs to that object's plugin if its package or file has no other.
    if about is None or (place < entered and family != {about}):
        return _error_of_helper(calls[entered : last + 1], family, error)
    if about.built_in and any(call.is_core for call in calls[last + 1 :]):  # the framework failed, in its own code
        return None
    return PluginError(f"{about.plugin}: {calls[_moment(calls, place)].name} raised {described(error)}")


@contextmanager
def naming_plugins(moment: str = "") -> Iterator[None]:
    """Turn an error that a plugin raises inside the block into one that names it; errors of nasframe stay as they are.

    ``SystemExit`` counts as an error, because no plugin may end the process. An interrupt stays an interrupt.

    Args:
        moment: the plugin and its method, if it is not a method of a noted object:
            ``task 'mine' (mine.py): validate``.

    Raises:
        PluginError: a plugin raised; the original is its cause.
    """
    try:
        yield
    except NasframeError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and disk_problem(error):  # a full disk is not the plugin's fault
            raise
        named = plugin_error(error)
        if named is None and moment:
            named = PluginError(f"{moment} raised {described(error)}")
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
    """One frame of a traceback: its function, its package, and the noted object that it belongs to, if any."""

    def __init__(self, frame: FrameType) -> None:
        self.name = frame.f_code.co_name
        self.home = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        self.note: Note | None = None
        for thing in (frame.f_code, frame.f_locals.get("self")):  # a function, or a method of a noted object
            reference, about = _notes.get(id(thing), (None, None))
            if reference is not None and reference() is not None:
                self.note = about

    @property
    def is_core(self) -> bool:
        """Whether it is the framework's own code."""
        return self.home == CORE and self.note is None


def _homes() -> dict[str, set[Note]]:
    """Return the notes of all living objects by package or file, except the framework's own."""
    homes: dict[str, set[Note]] = {}
    for _, about in list(_notes.values()):
        if about.home != CORE:
            homes.setdefault(about.home, set()).add(about)
    return homes


def _last(calls: Sequence[_Call], is_meant: Callable[[_Call], bool]) -> int:
    """Return the place of the innermost call for which ``is_meant`` is true, -1 if there is none."""
    places = [place for place, call in enumerate(calls) if is_meant(call)]
    return places[-1] if places else -1


def _moment(calls: Sequence[_Call], place: int) -> int:
    """Return the place of the method by which the plugin at ``place`` was called from outside."""
    about = calls[place].note
    moment = place
    for outer in range(place - 1, -1, -1):
        if calls[outer].note is about:
            moment = outer
        elif calls[outer].note is not None or calls[outer].is_core:
            break
    return moment


def _error_of_helper(calls: Sequence[_Call], family: set[Note], error: BaseException) -> PluginError | None:
    """Name the plugin of code that belongs to no noted object, such as a task's batches.

    Args:
        calls: from the framework's call to the one that raised.
        family: the notes of its package or file.
        error: the error.
    """
    if not family or any(about.built_in for about in family):
        return None
    names = {about.plugin for about in family}
    name = names.pop() if len(names) == 1 else f"a plugin of {next(iter(family)).source}"
    first = next(call for call in calls if call.home == calls[-1].home)
    return PluginError(f"{name}: {first.name} raised {described(error)}")
