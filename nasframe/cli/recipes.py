"""``nasframe recipes``: list the packaged recipes, or copy one to change it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List the packaged recipes, or copy one.", invoke_without_command=True)


@app.callback()
def recipes(
    context: typer.Context, json_: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False
) -> None:
    """List the recipes that come with nasframe; each runs by its name."""
    if context.invoked_subcommand:
        return
    from nasframe.recipe.loading import packaged_recipes

    found = {name: _title(path) for name, path in packaged_recipes().items()}
    if json_:
        import json

        print(json.dumps([{"name": name, "title": title} for name, title in found.items()], indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    for name, title in found.items():
        table.add_row(name, Text(title))
    Console().print(table)


def _title(path: Path) -> str:
    """Return the comment that a recipe opens with, up to its first full stop."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#   "):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(lines).partition(". ")[0].rstrip(".")


@app.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help="A packaged recipe's name.")],
    destination: Annotated[Path, typer.Argument(help="A folder, or the new file.")] = Path(),
) -> None:
    """Copy a packaged recipe and the fragments it extends; nothing is ever overwritten."""
    from nasframe.errors import UsageError
    from nasframe.recipe.loading import extended_files, packaged_recipes, recipes_root, similar_name

    known = packaged_recipes()
    if name not in known:
        raise UsageError(f"no packaged recipe {name!r}; 'nasframe recipes' lists them.{similar_name(name, known)}")
    source = known[name]
    files = extended_files(source)
    folder = destination if destination.is_dir() or not destination.suffix else destination.parent
    if len(files) == 1:
        target = destination if folder != destination else folder / source.name
        plan = {source: target}
    elif folder != destination:
        raise UsageError(f"{name} extends other files. Expected a folder to copy them to, not a file's name.")
    else:  # the files' places relative to each other stay
        root = recipes_root()
        plan = {file: folder / file.relative_to(root) for file in files}
    if there := [str(target) for target in plan.values() if target.exists()]:
        raise UsageError(f"already there: {', '.join(there)}. Nothing was copied.")
    for file, target in plan.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        print(os.path.relpath(target))
