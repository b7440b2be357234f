"""Errors that a user can cause, each with the exit code of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST_WORD = 100
"""Letters of a word that may be a known one with a typing mistake."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe.

    Args:
        place: ``file:line:column`` or ``override 'a.b=1'``; empty where there is none.
        path: the dotted path of the option, or empty.
        text: what is wrong, what was expected, what may have been meant.
    """

    place: str
    path: str
    text: str

    def __post_init__(self) -> None:
        for name in ("place", "path", "text"):
            object.__setattr__(self, name, shortened(getattr(self, name)))

    @property
    def order(self) -> tuple[str, int, int]:
        """Where it sorts: by file, line and column; overrides, which have none of these, come last."""
        file, line, column = ([*self.place.rsplit(":", 2), "", ""])[:3]
        return (file, int(line), int(column)) if line.isdigit() and column.isdigit() else ("\U0010ffff", 0, 0)

    def __str__(self) -> str:
        return "  ".join(part for part in (self.place, self.path, self.text) if part)


def shortened(text: str, longest: int = 1000) -> str:
    """Leave the middle of a long text out, as of one that quotes a whole file.

    >>> shortened("abcdefghij", 6)
    'abcde … j'
    """
    if len(text) <= longest:
        return text
    end = longest // 5
    return f"{text[: longest - end]} … {text[len(text) - end :]}"


class NasframeError(Exception):
    """Something a user can mend; its text says where, what is wrong and what was expected."""

    exit_code = 1
    resumable = True
    """Whether it makes sense to go on with the run as it is."""


class RunError(NasframeError):
    """A run failed."""


class PluginError(RunError):
    """A plugin raised what no user should see; the text names the plugin and its moment, the original is the cause."""


class DivergedError(RunError):
    """Loss, gradients or weights of a training are no longer finite. A resume would only repeat it."""

    resumable = False


class UsageError(NasframeError):
    """A command, an option or a value was used wrongly."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe has problems, all of them in ``problems``."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


class UnsatisfiableError(NasframeError):
    """No architecture can meet a constraint."""

    exit_code = 3


class VerificationError(NasframeError):
    """A result is not what it claims to be."""

    exit_code = 4


def suggestion(word: object, known: Iterable[str]) -> str:
    """Say which known word was probably meant, as a sentence to append, or nothing.

    >>> suggestion("randm", ["random", "grid"])
    " Did you mean 'random'?"
    >>> suggestion("zebra", ["random", "grid"])
    ''
    """
    text = str(word)
    if len(text) > LONGEST_WORD:
        return ""
    near = difflib.get_close_matches(text, sorted(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def listing(known: Iterable[str]) -> str:
    """Write the known words as one list for an error's text.

    >>> listing(["random", "grid"])
    'grid, random'
    """
    return ", ".join(sorted(known)) or "none"
