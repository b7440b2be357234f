"""Notices: decisions that nasframe made by itself, and remarks on a user's input.

A plugin whose factory has an argument ``notify`` gets a function ``notify(place, text)``, for everything that it
decides without being asked: a new head, texts that are cut, a class chosen as the positive one. A run prints each
notice once, ``--dry-run`` lists them, and reports repeat them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from nasframe.terminal import tell

Notify: TypeAlias = Callable[[str, str], None]
"""``notify(place, text)``: pass a notice on."""


@dataclass(frozen=True)
class Notice:
    """One thing that a user should know about.

    Args:
        place: the option or the file that it concerns, such as ``task.max_length`` or ``reviews.csv:12``.
        text: the decision or the remark, in one sentence or two.

    >>> print(Notice("model", "The classification head is new."))
    model: The classification head is new.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Notices:
    """Collects notices in order, each once, and passes them on to a listener.

    >>> notices = Notices()
    >>> notices("model", "The head is new.")
    >>> notices("model", "The head is new.")
    >>> [str(notice) for notice in notices]
    ['model: The head is new.']
    """

    def __init__(self) -> None:
        self._notices: list[Notice] = []
        self._listener: Callable[[Notice], None] | None = None

    def __call__(self, place: str, text: str) -> None:
        """Add a notice, unless it was added before."""
        notice = Notice(place, text)
        if notice in self._notices:
            return
        self._notices.append(notice)
        if self._listener is not None:
            self._listener(notice)

    def __iter__(self) -> Iterator[Notice]:
        return iter(list(self._notices))  # a copy, because a listener may add notices

    def listen(self, listener: Callable[[Notice], None]) -> None:
        """Pass all notices on to ``listener``: those so far, and every later one as it comes."""
        self._listener = listener
        for notice in self:
            listener(notice)


def say(place: str, text: str) -> None:
    """Print a notice to the error stream; this is ``notify`` if no run collects notices."""
    tell(f"nasframe: {Notice(place, text)}")
