"""Progress bars on the terminal, with rate and time left; nothing is printed if the output is no terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from nasframe.terminal import tell

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Advance = Callable[[int, int, str], None]
_open: ContextVar[Bars | None] = ContextVar("open bars", default=None)


class Progress:
    """Shows how far a stage is.

    Args:
        visible: force bars on or off; by default they are shown on terminals only.
    """

    def __init__(self, visible: bool | None = None) -> None:
        if visible is None:
            visible = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.visible = visible

    @contextmanager
    def bar(self, title: str) -> Iterator[Advance]:
        """Open a bar and yield the function ``advance(done, total, note)`` that moves it."""
        if not self.visible:
            yield _silent
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        # The stream as it is now, so that bars go on while what happens below them is kept from saying anything.
        console = Console(file=sys.stderr)
        with Bars(*columns, console=console, transient=True) as bars:
            opened = _open.set(bars)
            try:
                yield _row(bars, title)
            finally:
                _open.reset(opened)

    def say(self, text: str) -> None:
        """Print a line to the error stream, if bars are shown."""
        if self.visible:
            tell(text)


SILENT = Progress(False)
"""Shows nothing."""


@contextmanager
def phase(title: str) -> Iterator[Advance]:
    """Show a part of what the open bar is about in a row below it, and yield the function that moves it.

    Without an open bar nothing is shown, so that what reads or tokenises data need not know who waits for it.

    >>> with phase("reading") as advance:
    ...     advance(1, 2, "")
    """
    bars = _open.get()
    if bars is None:
        yield _silent
        return
    advance = _row(bars, title)
    row = bars.task_ids[-1]
    try:
        yield advance
    finally:
        bars.remove_task(row)


def _row(bars: Bars, title: str) -> Advance:
    """Add a row to open bars and return the function that moves it."""
    row = bars.add_task(title, total=None, note="", rate="")

    def advance(done: int, total: int, note: str = "") -> None:
        task = next(task for task in bars.tasks if task.id == row)
        speed = task.finished_speed or task.speed
        rate = f"{speed:.1f}/s" if speed else ""
        bars.update(row, completed=done, total=total, note=note, rate=rate)

    return advance


def _silent(done: int, total: int, note: str = "") -> None:
    """Show nothing."""
