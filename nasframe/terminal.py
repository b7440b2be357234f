"""Messages on the error stream, broken between words if a terminal shows them.

A terminal breaks a long line anywhere, also within a word. Text that goes to a file or a pipe stays as it is, one line
for each message, because programs read it.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap

COMMAND = re.compile(r"(?<=: |  )(?=nasframe [a-z]|pip install )")
"""Where a command begins that the text advises: after a colon, or in a column of its own.

It is never broken, so that it can be copied.
"""


USUAL_WIDTH = 80
"""Columns of a terminal that does not say how many it has."""


def tell(text: object) -> None:
    """Print a message to the error stream.

    Args:
        text: the message, of one line or several.
    """
    shown = str(text)
    if sys.stderr.isatty():
        shown = wrapped(shown, _columns())
    print(shown, file=sys.stderr, flush=True)


def _columns() -> int:
    """Return the width of the terminal behind the error stream; standard output may be a pipe."""
    written = os.environ.get("COLUMNS", "")
    if written.isdigit() and int(written) > 0:
        return int(written)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_WIDTH
    except (OSError, ValueError):  # a stream that only says that it is a terminal
        return USUAL_WIDTH


def wrapped(text: str, width: int) -> str:
    """Break the lines of a text that are too long between words; commands that it advises get a line of their own.

    Args:
        text: the text.
        width: columns of the terminal.

    >>> print(wrapped("b1: not empty. Go on with: nasframe compress --resume b1", 40))
    b1: not empty. Go on with:
    nasframe compress --resume b1
    """
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= width:
            lines.append(line)
            continue
        prose, *commands = COMMAND.split(line)
        lines += _prose(prose, width)
        lines += commands
    return "\n".join(lines)


def _prose(line: str, width: int) -> list[str]:
    """Break a line between words; what stands before its text, as of a list, stays in place."""
    indent = re.match(r" *", line)
    assert indent is not None  # it matches nothing, too
    return textwrap.wrap(
        line.rstrip(),
        width,
        subsequent_indent=indent.group(),
        break_long_words=False,
        break_on_hyphens=False,
    )
