"""Progress bars on the terminal, with rate and time left; nothing is printed if the output is no terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int, str], None]


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
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(title, total=None, note="", rate="")

            def advance(done: int, total: int, note: str = "") -> None:
                speed = bars.tasks[0].finished_speed or bars.tasks[0].speed
                rate = f"{speed:.1f}/s" if speed else ""
                bars.update(task, completed=done, total=total, note=note, rate=rate)

            yield advance

    def say(self, text: str) -> None:
        """Print a line to the error stream, if bars are shown."""
        if self.visible:
            print(text, file=sys.stderr)


def _silent(done: int, total: int, note: str = "") -> None:
    """Show nothing."""
