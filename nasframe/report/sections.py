"""A page as data: sections of text, tables and figures.

A run's report and the page of a study are both laid out as a :class:`Page`. The templates ``sections.html`` and
``sections.md`` write any page, so that its HTML and its Markdown have one source.
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
        pill: a class of the style sheet; the text is then a coloured pill.
        label: a pill below the text; it is also the class that colours it.
        aside: a small text below.
        tone: the class of the style sheet that colours the aside.
        shade: a share from 0 to 1 by which a page shades the cell.
        bar: a share from 0 to 1 that a page draws as a bar.
    """

    text: str
    pill: str = ""
    label: str = ""
    aside: str = ""
    tone: str = ""
    bar: float | None = None
    shade: float | None = None

    def __str__(self) -> str:
        """Return the cell in one line, as Markdown has it.

        >>> str(Cell("best@50%", label="winner", aside="over budget")), str(Cell("61 %"))
        ('best@50% (winner, over budget)', '61 %')
        """
        # The teacher's role is its name: one of them is enough.
        notes = [note for note in (self.label, self.aside) if note and note != self.text]
        if not notes:
            return self.text
        return f"{self.text} ({', '.join(notes)})"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        cells: one for each column.
        kind: the classes of the style sheet that it has.
        spans: whether its only cell is a heading above the rows that follow.
    """

    cells: Sequence[Cell]
    kind: str = ""
    spans: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        heading: of the columns.
        rows: from the top.
        left: how many columns are text; the others are numbers.
        kind: the classes of the style sheet that it has: the rows of ``models`` become cards on a narrow screen.
        fold: the line that an HTML page hides the table behind, or ``""``.
    """

    heading: Sequence[str]
    rows: Sequence[Row]
    left: int = 1
    kind: str = ""
    fold: str = ""

    @property
    def texts(self) -> list[list[str]]:
        """The rows as text, a cell for each column."""
        rows = []
        for row in self.rows:
            texts = [str(cell) for cell in row.cells]
            if row.spans:
                empty = [""] * (len(self.heading) - 1)
                texts = [f"**{texts[0]}**", *empty]
            rows.append(texts)
        return rows


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        title: its heading.
        caption: the text below.
        content: an ``<svg>`` element in HTML, a file's path in Markdown.
        wide: whether it has a row of its own in HTML, which can be scrolled on a narrow screen.
    """

    title: str
    caption: str
    content: Any
    wide: bool = False


@dataclass(frozen=True)
class Remark:
    """A paragraph above all sections.

    Args:
        text: the paragraph.
        tone: the class of the style sheet that colours it, such as ``warn``.
        strong: whether it is bold in Markdown.
    """

    text: str
    tone: str = ""
    strong: bool = False


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
        lines: a list.
        grids: tables.
        pairs: names and texts, as provenance has them.
        notes: paragraphs below.
        pictures: figures.
        source: a text to show as it is, in the language ``yaml``.
        folded: whether an HTML page hides it behind its title.
    """

    title: str = ""
    text: str = ""
    lines: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    pairs: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    source: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        kind: what it is, in small letters above the title.
        title: its name.
        summary: a line below the title.
        remarks: what a reader must know first.
        sections: in order.
        highlights: the numbers that matter most.
        lead: the recommendation in plain words, which stands above all else.
    """

    kind: str
    title: str
    summary: str
    remarks: Sequence[Remark]
    sections: Sequence[Section]
    highlights: Sequence[Highlight] = ()
    lead: Sequence[str] = ()


def plain_rows(rows: Sequence[Sequence[str]]) -> list[Row]:
    """Return rows whose cells are texts alone."""
    plain = []
    for texts in rows:
        cells = [Cell(text) for text in texts]
        plain.append(Row(cells))
    return plain


def plain_grid(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, kind: str = "") -> Grid:
    """Return a table of texts.

    >>> plain_grid(["model", "params"], [["teacher", "10.6M"]]).texts
    [['teacher', '10.6M']]
    """
    return Grid(heading, plain_rows(rows), left, kind)
