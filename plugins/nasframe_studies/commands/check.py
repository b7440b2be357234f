"""Checks a study's file for ``nasframe check``: every arm, as it was written and as ``--smoke`` makes it."""

from __future__ import annotations

from collections.abc import Sequence

from nasframe.errors import Problem, RecipeError
from nasframe.recipe.loading import find_recipe
from nasframe.recipe.yaml import read
from nasframe_studies.file import load_study

STUDY_KEYS = {"study", "arms", "axes"}


def check_study(source: str, overrides: Sequence[str]) -> list[Problem] | None:
    """Return every problem of a study; ``None`` if the file is not a study.

    Args:
        source: a file, or the name of a packaged one.
        overrides: overrides of the study, or of the recipe below every arm.
    """
    if not is_study(source):
        return None
    # Under --smoke the arms are other recipes: a fault of the `smoke:` section shows in no other way.
    problems: list[Problem] = []
    for smoke in (False, True):
        try:
            load_study(source, overrides, smoke)
        except RecipeError as error:
            problems += error.problems
    return list(dict.fromkeys(problems))  # most problems are there in both forms


def is_study(source: str) -> bool:
    """Return whether a file is a study's: a mapping with a key that only studies have."""
    path = find_recipe(source)
    if path is None or not path.is_file():
        return False
    root, _ = read(path, str(path))
    if root is None or not isinstance(root.value, dict):
        return False
    return not STUDY_KEYS.isdisjoint(root.value)
