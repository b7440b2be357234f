"""What a study's directory keeps of the study: its settings, and the runs that it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.recipe.yaml import Position, parse

if TYPE_CHECKING:
    import pandas as pd


FORMAT_VERSION = 1


SETTINGS = "study.yaml"
"""The study as it was resolved, in the study's directory; all that is needed to go on with it."""


def settings(directory: str | Path) -> dict[str, Any]:
    """Return a study's settings.

    Returns:
        ``study`` (its name), ``description``, ``source`` (the file, of which ``source_digest`` is the SHA-256),
        ``command``, ``arms`` (name → ``base`` and ``changes``, its overrides by dotted path), ``tasks`` (names),
        ``seeds``, ``compare`` (``metric``, ``split``, ``against``, ``budgets``, ``models``, ``groups``, ``family``),
        ``cache`` (its folder),
        ``threads`` (of each run) and ``runs``: for each its ``arm``, ``task``, ``seed`` and ``run`` (the directory,
        read from the study's).

    Raises:
        UsageError: there is no study in the directory.
    """
    path = Path(directory) / SETTINGS
    node = parse(path.read_text(encoding="utf-8"), Position(str(path), 1, 1))[0] if path.is_file() else None
    found = node.plain() if node else None
    if not isinstance(found, dict) or found.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{directory}: no study here. Expected a directory that 'nasframe ablate' made.")
    return found


def missing(facts: Mapping[str, Any], frame: pd.DataFrame) -> list[dict[str, Any]]:
    """List the runs of :func:`settings` that a table lacks."""
    there: set[Sequence[Any]] = set(zip(frame["arm"], frame["task"], frame["seed"], strict=True))
    return [run for run in facts["runs"] if (run["arm"], run["task"], run["seed"]) not in there]


def recipe_of(run: Mapping[str, Any]) -> str:
    """Name the file of a run's resolved recipe, read from the study's directory: its arm's, on its task.

    >>> recipe_of({"run": "runs/random/mrpc/seed-0"})
    'recipes/random/mrpc.yaml'
    """
    return "/".join(["recipes", *Path(run["run"]).parts[1:-1]]) + ".yaml"
