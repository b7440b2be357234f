"""Makes the docstrings' examples, tables and references Markdown for the API reference; loaded by ``mkdocs.yml``."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(?:>>>.*(?:\n(?!\s*$).*)*\n?)", re.MULTILINE)
TABLE = re.compile(r"^(=+(?: +=+)+)\n(.*)\n\1\n((?:.*\n)+?)\1$", re.MULTILINE)
ROLE = re.compile(r":\w+:`(?:~[\w.]*\.)?([^`]+)`")


def markdown(text: str) -> str:
    """Rewrite one docstring."""
    text = ROLE.sub(r"`\1`", text)
    text = TABLE.sub(table, text)
    return EXAMPLE.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)


def table(match: re.Match[str]) -> str:
    """Rewrite a table of columns under ``====`` as a Markdown table; a row that begins empty goes on with the last."""
    starts = [column.start() for column in re.finditer("=+", match[1])]
    rows: list[list[str]] = []
    for line in [match[2], *match[3].splitlines()]:
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    rows.insert(1, ["---"] * len(starts))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
