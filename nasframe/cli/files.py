"""Files that commands are given: recipes, and files that belong to a plugin, such as studies."""

from __future__ import annotations


def require_recipe(source: str) -> None:
    """Make sure that a file is not of a plugin's own kind; anything else is left to the recipe's checks.

    Args:
        source: a file, or the name of a packaged recipe.

    Raises:
        UsageError: the file is of a plugin's kind; says of which, and which command runs it.
    """
    from nasframe import registry
    from nasframe.errors import UsageError

    kind = registry.file_kind(source)
    if kind is not None:
        raise UsageError(f"{source} is {kind.name}, not a recipe. Run it with: nasframe {kind.command} {source}")
