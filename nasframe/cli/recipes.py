"""``nasframe recipes``: list the packaged recipes, or copy one to change it."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from nasframe.terminal import tell

app = typer.Typer(help="List the packaged recipes, or copy one.", invoke_without_command=True)


@app.callback()
def recipes(
    context: typer.Context, json_: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False
) -> None:
    """List the recipes and studies that come with nasframe; each runs by its name."""
    if context.invoked_subcommand:
        return
    rows = [_Row(name, _title(path), _command(name)) for name, path in _packaged().items()]
    if json_:
        import json

        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    for row in rows:
        note = "" if row.command == "run" else f" (nasframe {row.command} {row.name})"
        table.add_row(row.name, Text(row.title + note))
    Console().print(table)


@dataclass(frozen=True)
class _Row:
    """One packaged file.

    Args:
        name: the name by which commands find it.
        title: its first comment, up to the first full stop.
        command: the command that runs it.
    """

    name: str
    title: str
    command: str


def _packaged() -> dict[str, Path]:
    from nasframe.recipe.loading import packaged_recipes

    return packaged_recipes()


def _command(name: str) -> str:
    """Return the command that runs a packaged file: ``run`` for a recipe, a plugin's for a file of its own."""
    from nasframe import registry

    kind = registry.file_kind(name)
    return "run" if kind is None else kind.command


def _title(path: Path) -> str:
    """Return the comment that a recipe opens with, up to its first full stop."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        # An indented line is an example of a command, not part of the sentence.
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
    from nasframe.storage import refuse_unwritable

    targets = _targets(name, destination)
    # All files are looked at before one is written: half a copy would be hard to undo.
    existing = [str(target) for target in targets.values() if target.exists()]
    if existing:
        raise UsageError(f"already there: {', '.join(existing)}. Nothing was copied.")
    for target in targets.values():
        refuse_unwritable(target.parent)
    for file, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        print(os.path.relpath(target))
    command = _command(name)
    if command != "run":
        copied = os.path.relpath(next(iter(targets.values())))
        tell(f"Run it with: nasframe {command} {copied}")


def _targets(name: str, destination: Path) -> dict[Path, Path]:
    """Return where a packaged recipe and each fragment that it extends are to be copied, the recipe first."""
    from nasframe.errors import UsageError
    from nasframe.recipe.loading import extended_files, recipes_root, similar_name

    known = _packaged()
    if name not in known:
        raise UsageError(f"no packaged recipe {name!r}; 'nasframe recipes' lists them.{similar_name(name, known)}")
    source = known[name]
    files = extended_files(source)
    # A path that does not exist yet is a file's if it has an ending, as in mine.yaml.
    is_folder = destination.is_dir() or not destination.suffix
    if len(files) == 1:
        return {source: destination / source.name if is_folder else destination}
    if not is_folder:
        raise UsageError(f"{name} extends other files. Expected a folder to copy them to, not a file's name.")
    # Folders are kept, because recipes name the files that they extend by relative paths.
    root = recipes_root()
    return {file: destination / file.relative_to(root) for file in files}
