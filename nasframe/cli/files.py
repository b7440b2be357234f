"""Files that commands are given: recipes, and files that belong to a plugin, such as studies."""

from __future__ import annotations


def require_recipe(source: str) -> None:
    """Make sure that a file is not one of a plugin's own; anything else is left to the recipe's checks.

    Args:
        source: a file, or the name of a packaged recipe.

    Raises:
        UsageError: it is, which says what the file is and which command runs it.
    """
    from nasframe import registry
    from nasframe.errors import UsageError

    kind = registry.file_kind(source)
    if kind is not None:
        raise UsageError(f"{source} is {kind.name}, not a recipe. Run it with: nasframe {kind.command} {source}")
