"""A page as data: sections of text, tables and figures.

The templates ``sections.html`` and ``sections.md`` write them, so that the HTML and the Markdown of a report have one
source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: what it says.
        pill: a label below the text, which is also the class of the style sheet that colours it.
        aside: a small text below.
        tone: the class of the style sheet that colours the aside.
        bar: a share from 0 to 1 that a page draws as a bar.
    """

    text: str
    pill: str = ""
    aside: str = ""
    tone: str = ""
    bar: float | None = None

    def __str__(self) -> str:
        """Return the cell in one line, as Markdown has it.

        >>> str(Cell("best@50%", pill="winner", aside="over budget")), str(Cell("61 %"))
        ('best@50% (winner, over budget)', '61 %')
        """
        notes = [note for note in (self.pill, self.aside) if note and note != self.text]
        return f"{self.text} ({', '.join(notes)})" if notes else self.text


@dataclass(frozen=True)
class Row:
    """A row of a table; ``kind`` names the classes of the style sheet that it has."""

    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        heading: of the columns.
        rows: from the top.
        left: how many columns are text; the others are numbers.
        kind: the classes of the style sheet that it has: ``models`` becomes cards on a narrow screen.
    """

    heading: Sequence[str]
    rows: Sequence[Row]
    left: int = 1
    kind: str = ""

    @property
    def texts(self) -> list[list[str]]:
        """The rows as text."""
        return [[str(cell) for cell in row.cells] for row in self.rows]


@dataclass(frozen=True)
class Picture:
    """A figure; ``content`` is an ``<svg>`` element in HTML, a file's path in Markdown."""

    title: str
    caption: str
    content: Any


@dataclass(frozen=True)
class Highlight:
    """A number that HTML shows large above all sections; Markdown has it in its tables alone.

    Args:
        title: what it is about.
        value: the number as text.
        about: what the number is.
        lines: pairs of a bold beginning and the rest of a line; a line without a beginning is a warning.
    """

    title: str
    value: str
    about: str
    lines: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Section:
    """A part of a page; what it does not have is left out.

    Args:
        title: its heading.
        text: a paragraph.
        grid: a table.
        pairs: names and texts, as provenance has them.
        notes: paragraphs below.
        pictures: figures.
        source: a text to show as it is, in the language ``yaml``; HTML folds it.
    """

    title: str = ""
    text: str = ""
    grid: Grid | None = None
    pairs: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    source: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        kind: what it is, in small letters above the title.
        title: its name.
        summary: a line below the title.
        warnings: what a reader must know first.
        highlights: the numbers that matter most.
        sections: in order.
    """

    kind: str
    title: str
    summary: str
    warnings: Sequence[str]
    highlights: Sequence[Highlight]
    sections: Sequence[Section]


def plain_grid(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, kind: str = "") -> Grid:
    """Return a table of texts.

    >>> plain_grid(["model", "params"], [["teacher", "10.6M"]]).texts
    [['teacher', '10.6M']]
    """
    laid = [Row([Cell(text) for text in row]) for row in rows]
    return Grid(heading, laid, left, kind)
