"""``nasframe check``: every problem of one recipe or many, without running anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nasframe.errors import Problem
    from nasframe.plan import Plan


def check(
    recipes: Annotated[
        list[str],
        typer.Argument(help="Recipes, folders of them, and overrides for all.", metavar="RECIPE... [KEY=VALUE]..."),
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
) -> None:
    """Check recipes against the installed plugins: every problem at once, with its place."""
    from nasframe.errors import UsageError

    overrides: list[str] = []
    files: list[str] = []
    for text in recipes:
        if is_override(text):
            overrides.append(text)
        else:
            files += files_of(text)
    if not files:
        raise UsageError("no recipes. Expected files, names of packaged recipes, or folders that hold some.")
    problems = {file: problems_of(file, overrides) for file in files}
    if json_:
        _print_json(problems)
    else:
        _print_text(problems)
    if any(problems.values()):
        raise typer.Exit(2)


def _print_json(problems: Mapping[str, Sequence[Problem]]) -> None:
    import json

    rows = []
    for file, problems_of_file in problems.items():
        rows.append({"recipe": file, "problems": [vars(problem) for problem in problems_of_file]})
    print(json.dumps(rows, indent=2))


def _print_text(problems: Mapping[str, Sequence[Problem]]) -> None:
    from nasframe.terminal import tell

    for problems_of_file in problems.values():
        for problem in problems_of_file:
            tell(problem)
    wrong = sum(1 for problems_of_file in problems.values() if problems_of_file)
    count = "1 recipe" if len(problems) == 1 else f"{len(problems)} recipes"
    outcome = f"{wrong} with problems" if wrong else "no problems"
    print(f"{count} checked, {outcome}")


def is_override(text: str) -> bool:
    """Tell whether an argument is an override; a file may have ``=`` in its name."""
    from nasframe.recipe.loading import exists

    if text.startswith(("+", "~")):
        return True
    return "=" in text and not exists(Path(text))


def files_of(source: str) -> list[str]:
    """List the recipes below a folder, without fragments in folders that begin with ``_``; or the one that is named."""
    from nasframe.recipe.loading import exists

    folder = Path(source)
    if not exists(folder) or not folder.is_dir():
        return [source]
    files = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_fragment = any(part.startswith("_") for part in parts)
        if path.suffix in (".yaml", ".yml") and not is_fragment:
            files.append(str(path))
    return files


def problems_of(source: str, overrides: Sequence[str] = ()) -> list[Problem]:
    """Return every problem of a recipe, of the overrides and of each switch; plugins check files of their own."""
    from nasframe import registry
    from nasframe.cli.left_out import why_unread
    from nasframe.errors import Problem
    from nasframe.recipe.resolve import check_recipe

    problems_by_plugin = registry.check_file(source, overrides)
    if problems_by_plugin is not None:
        return list(problems_by_plugin)
    plan, problems = check_recipe(source, overrides)
    if plan is None:
        unread = why_unread(source)
        if unread is not None:  # the problems are those of a recipe, which the file is not
            return [Problem("", "", unread)]
        return problems
    problems += _unreachable(plan, source, overrides)
    # Each switch alone: nobody promises that any two of them go together.
    for name in _switches(source):
        _, of_switch = check_recipe(source, [*overrides, f"{name}=true"])
        problems += of_switch
    return problems


def _unreachable(plan: Plan, source: str, overrides: Sequence[str]) -> list[Problem]:
    """Return problems for the budgets of a sound recipe that no sub-network meets, as far as sizes alone show it."""
    from nasframe.recipe.checks import Checker
    from nasframe.recipe.loading import read_recipe
    from nasframe.running.feasibility import unreachable

    # Read again for the places of values, which a plan does not keep.
    recipe, _ = read_recipe(source, overrides)
    assert recipe is not None
    check = Checker(recipe)
    with plan.file_plugins():
        for path, text in unreachable(plan):
            check.problem(path, text)
    return check.problems


def _switches(source: str) -> list[str]:
    """Return the names of a recipe's switches."""
    from nasframe.recipe.loading import read_recipe

    recipe, _ = read_recipe(source)
    if recipe is None:
        return []
    return list(recipe.data.get("switches") or {})
