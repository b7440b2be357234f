"""Errors that a user can cause, each with the exit code of the command line."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST_WORD = 100
"""Longer words are never taken for misspelled ones, because comparing them takes time by the square of their length."""


@dataclass(frozen=True)
class Problem:
    """One fault in a recipe.

    Args:
        place: ``file:line:column`` or ``override 'a.b=1'``; empty if there is none.
        path: the dotted path of the option, or empty.
        text: the fault, what was expected, and what may have been meant.
    """

    place: str
    path: str
    text: str

    def __post_init__(self) -> None:
        for name in ("place", "path", "text"):  # each may quote the user's input, which may be a whole file
            object.__setattr__(self, name, shortened(getattr(self, name)))

    @property
    def order(self) -> tuple[str, int, int]:
        """The key to sort by: file, line and column; overrides, which have none of these, come last."""
        file, line, column = [*self.place.rsplit(":", 2), "", ""][:3]
        if line.isdigit() and column.isdigit():
            return file, int(line), int(column)
        return "\U0010ffff", 0, 0  # the last character of Unicode sorts behind every path

    def __str__(self) -> str:
        parts = (self.place, self.path, self.text)
        return "  ".join(part for part in parts if part)


def shortened(text: str, longest: int = 1000) -> str:
    """Return a text without its middle if it is too long, for example because it quotes a whole file.

    The end is kept, too: it usually says what was expected.

    >>> shortened("abcdefghij", 6)
    'abcde … j'
    """
    if len(text) <= longest:
        return text
    end = longest // 5
    return f"{text[: longest - end]} … {text[len(text) - end :]}"


class NasframeError(Exception):
    """An error that a user can mend; its text says where it is, what is wrong and what was expected."""

    exit_code = 1
    resumable = True
    """Whether the run can go on as it is."""


class RunError(NasframeError):
    """A run failed."""


class PluginError(RunError):
    """A plugin raised; the text names the plugin and its method, and the original exception is the cause."""


class DivergedError(RunError):
    """Loss, gradients or weights are no longer finite; a resume would only repeat that."""

    resumable = False


class UsageError(NasframeError):
    """A command, an option or a value was used wrongly."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe has problems; ``problems`` lists all of them."""

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
    """Return a sentence that names the known word that was probably meant, or an empty text.

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
    """Return the known words in order, as one text for an error.

    >>> listing(["random", "grid"])
    'grid, random'
    """
    return ", ".join(sorted(known)) or "none"


def in_shell(place: object) -> str:
    """Return a path or a name as a command that an error advises has to write it.

    >>> in_shell("runs/mine"), in_shell("my runs/best@50%")
    ('runs/mine', "'my runs/best@50%'")
    """
    return shlex.quote(str(place))
