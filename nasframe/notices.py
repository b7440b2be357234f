"""What nasframe decided by itself, or noticed in a user's input: shown once, and kept for the report.

A plugin whose factory has an argument ``notify`` is given a function ``notify(place, text)``. Everything that a plugin
decides without being asked goes there: a new head, texts that are cut, a class chosen as the positive one. The run
prints each notice once, ``--dry-run`` lists them, and reports repeat them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

Notify: TypeAlias = Callable[[str, str], None]
"""``notify(place, text)``: pass a notice on."""


@dataclass(frozen=True)
class Notice:
    """One thing that a user should know about.

    Args:
        place: the option or the file that it concerns, such as ``task.max_length`` or ``reviews.csv:12``.
        text: what was decided or noticed, in one sentence or two.

    >>> print(Notice("model", "The classification head is new."))
    model: The classification head is new.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Notices:
    """Collects notices, each once, in order, and passes them on to a listener.

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
        """Add a notice, unless it is there already."""
        notice = Notice(place, text)
        if notice in self._notices:
            return
        self._notices.append(notice)
        if self._listener is not None:
            self._listener(notice)

    def __iter__(self) -> Iterator[Notice]:
        return iter(list(self._notices))

    def listen(self, listener: Callable[[Notice], None]) -> None:
        """Pass all notices on to ``listener``: those so far, and every later one as it comes."""
        self._listener = listener
        for notice in self:
            listener(notice)


def say(place: str, text: str) -> None:
    """Print a notice to the error stream: what ``notify`` is where no run collects notices."""
    print(f"nasframe: {Notice(place, text)}", file=sys.stderr)
