"""``nasframe check``: every problem of one recipe or many, without running anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nasframe.errors import Problem
    from nasframe.plan import Plan


def check(
    recipes: Annotated[
        list[str],
        typer.Argument(help="Recipes, folders of them, and overrides for all.", metavar="RECIPE... [KEY=VALUE]..."),
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check recipes against the installed plugins: every problem at once, with its place."""
    from nasframe.recipe.loading import exists

    overrides = [text for text in recipes if text[:1] in "+~" or ("=" in text and not exists(Path(text)))]
    sources = [text for text in recipes if text not in overrides]
    from nasframe.errors import UsageError

    files = [file for source in sources for file in files_of(source)]
    if not files:
        raise UsageError("no recipes. Expected files, names of packaged recipes, or folders that hold some.")
    found = {file: problems_of(file, overrides) for file in files}
    wrong = sum(bool(problems) for problems in found.values())
    if json_:
        import json

        rows = [
            {"recipe": file, "problems": [vars(problem) for problem in problems]} for file, problems in found.items()
        ]
        print(json.dumps(rows, indent=2))
    else:
        for problem in [problem for problems in found.values() for problem in problems]:
            print(problem, file=sys.stderr)
        total = "1 recipe" if len(found) == 1 else f"{len(found)} recipes"
        print(f"{total} checked, {wrong} with problems" if wrong else f"{total} checked, no problems")
    if wrong:
        raise typer.Exit(2)


def files_of(source: str) -> list[str]:
    """List the recipes below a folder, without fragments in folders that begin with ``_``; or the one that is named."""
    from nasframe.recipe.loading import exists

    folder = Path(source)
    if not exists(folder) or not folder.is_dir():
        return [source]
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml"))
    return [str(path) for path in files if not any(part.startswith("_") for part in path.relative_to(folder).parts)]


def problems_of(source: str, overrides: Sequence[str] = ()) -> list[Problem]:
    """Return every problem of a recipe, of the overrides and of each switch; plugins check files of their own."""
    from nasframe import registry
    from nasframe.recipe.resolve import check_recipe

    problems_by_plugin = registry.check_file(source, overrides)
    if problems_by_plugin is not None:
        return list(problems_by_plugin)
    plan, problems = check_recipe(source, overrides)
    if plan is None:
        return problems
    problems += _unreachable(plan, source, overrides)
    for name in _switches(source):
        problems += check_recipe(source, [*overrides, f"{name}=true"])[1]
    return problems


def _unreachable(plan: Plan, source: str, overrides: Sequence[str]) -> list[Problem]:
    """Return the budgets of a sound recipe that no sub-network meets, as far as sizes alone show it."""
    from nasframe.recipe.checks import Checker
    from nasframe.recipe.loading import read_recipe
    from nasframe.running.feasibility import unreachable

    recipe, _ = read_recipe(source, overrides)
    assert recipe is not None
    check = Checker(recipe)
    with plan.file_plugins():
        for path, text in unreachable(plan):
            check.problem(path, text)
    return check.problems


def _switches(source: str) -> list[Any]:
    from nasframe.recipe.loading import read_recipe

    recipe, _ = read_recipe(source)
    return list(recipe.data.get("switches") or {}) if recipe else []
