"""Makes the docstrings' examples, tables and references Markdown for the API reference; loaded by ``mkdocs.yml``."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(?:>>>.*(?:\n(?!\s*$).*)*\n?)", re.MULTILINE)
TABLE = re.compile(r"^=+(?: +=+)+\n(?:.*\n)*?=+(?: +=+)+\n(?:(?:.*\n)*?=+(?: +=+)+$)?", re.MULTILINE)
ROLE = re.compile(r":\w+:`(?:~[\w.]*\.)?([^`]+)`")


def markdown(text: str) -> str:
    """Rewrite one docstring."""
    text = ROLE.sub(r"`\1`", text)
    text = TABLE.sub(lambda match: f"```text\n{match[0].rstrip()}\n```\n", text)
    return EXAMPLE.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
