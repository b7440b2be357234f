"""What ``nasframe check`` finds in the file of a study: the problems of every arm, as written and made small."""

from __future__ import annotations

from collections.abc import Sequence

from nasframe.errors import Problem, RecipeError
from nasframe.recipe.loading import find_recipe
from nasframe.recipe.yaml import read
from nasframe_studies.file import load_study

STUDY_KEYS = {"study", "arms", "axes"}


def check_study(source: str, overrides: Sequence[str]) -> list[Problem] | None:
    """Return every problem of a study, arm by arm; ``None`` if the file is not a study.

    Args:
        source: a file, or the name of a packaged one.
        overrides: of the study, or of the recipe below every arm.
    """
    if not is_study(source):
        return None
    problems: list[Problem] = []
    for smoke in (False, True):
        try:
            load_study(source, overrides, smoke)
        except RecipeError as error:
            problems += error.problems
    return list(dict.fromkeys(problems))


def is_study(source: str) -> bool:
    """Tell whether a file is a study."""
    path = find_recipe(source)
    if path is None or not path.is_file():
        return False
    root = read(path, str(path))[0]
    return root is not None and isinstance(root.value, dict) and not STUDY_KEYS.isdisjoint(root.value)
