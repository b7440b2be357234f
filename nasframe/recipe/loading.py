"""A recipe as it was written: files joined by ``extends``, switches and overrides applied, every value with its place.

Nothing here knows what an option means; ``nasframe.recipe.resolve`` does. ``nasframe.recipe.merge`` puts one file over
another, and ``nasframe.recipe.overrides`` applies overrides.
"""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasframe.errors import LONGEST_WORD, Problem, RecipeError, suggestion
from nasframe.recipe.merge import merge
from nasframe.recipe.overrides import Override, change
from nasframe.recipe.teacher import write_out_teacher
from nasframe.recipe.yaml import KeyPath, Node, Position, read

FORMAT = 1
MOST_NAMES = 5
"""How many packaged recipes are suggested for a name that none of them has."""
MOST_FILES = 100
"""Most files that a recipe is put together from. A file that is read twice counts twice."""
NEAR, NEARER = 0.6, 0.85
"""How alike a packaged recipe's name must be to be suggested, and to be suggested alone."""
NEAR_WITHOUT_FOLDER = 0.75


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was written.

    Args:
        data: its content, JSON-plain.
        positions: path → where the value at that path was written.
        path: the file, or ``None`` for a recipe that was given as a mapping.
        base: the folder against which relative paths are read.
    """

    data: dict[str, Any]
    positions: Mapping[KeyPath, Position] = field(default_factory=dict)
    path: Path | None = None
    base: Path = Path()

    def place(self, path: Sequence[Any]) -> Position:
        """Return where the value at a path was written, or the nearest one that holds it."""
        # From the whole path to the empty one: an option that is missing has the place of the mapping that lacks it.
        for length in reversed(range(len(path) + 1)):
            position = self.positions.get(tuple(path[:length]))
            if position is not None:
                return position
        return Position(str(self.path or "recipe"))


def load_recipe(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, base: str | Path | None = None
) -> Recipe:
    """Read a recipe.

    Args:
        source: a file, the name of a packaged recipe (``quickstart``), or a recipe as a mapping.
        overrides: ``key=value``, ``+key=value`` or ``~key``, applied in order.
        base: the folder against which relative paths are read; default: the file's own.

    Returns:
        The recipe, not yet checked against the plugins; :func:`nasframe.resolve` does that.

    Raises:
        RecipeError: every problem, with file, line and column.

    >>> load_recipe({"name": "demo", "seed": 0}, ["seed=3"]).data
    {'name': 'demo', 'seed': 3}
    """
    recipe, problems = read_recipe(source, overrides, base=base)
    if problems or recipe is None:
        raise RecipeError(problems)
    return recipe


def read_recipe(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str | Override] = (),
    *,
    base: str | Path | None = None,
) -> tuple[Recipe | None, list[Problem]]:
    """Read a recipe as far as it can be read, with every problem; ``None`` if there is nothing to check."""
    problems: list[Problem] = []
    root: Node | None
    if isinstance(source, Mapping):
        path = None
        home = Path()
        root = _wrap(source, Position("recipe"))
    else:
        path = find_recipe(source)
        if path is None:
            text = "no such file, and no packaged recipe of that name; 'nasframe recipes' lists them."
            hint = similar_name(source, packaged_recipes())
            return None, [Problem(str(source), "", text + hint)]
        home = path.parent
        root = _load(path, (), problems, [])
    if root is None:
        return None, problems
    change(root, overrides, problems)
    write_out_teacher(root, functools.partial(_is_example, root), problems)
    if base is not None:
        home = Path(base)
    return Recipe(root.plain(), dict(root.positions(())), path, home), problems


def _is_example(root: Node, model: Node) -> bool:
    """Tell whether the model of a recipe comes from a packaged recipe, and its teacher does not."""
    teacher = root.value["teacher"]
    return _is_packaged(model.at) and not _is_packaged(teacher.at)


def _is_packaged(at: Position) -> bool:
    """Tell whether something is written in a packaged recipe."""
    return bool(at.line) and Path(at.file).resolve().is_relative_to(recipes_root().resolve())


def _wrap(value: Any, at: Position) -> Node:
    """Give every part of a plain value the same position."""
    if isinstance(value, Mapping):
        return Node({str(key): _wrap(item, at) for key, item in value.items()}, at)
    if isinstance(value, list | tuple):
        return Node([_wrap(item, at) for item in value], at)
    return Node(value, at)


# ---- files


def recipes_root() -> Path:
    """Return the folder of the packaged recipes: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """List the packaged recipes by name; fragments, whose folder begins with ``_``, are left out."""
    root = recipes_root()
    recipes = {}
    for path in sorted(root.rglob("*.yaml")):
        name = path.relative_to(root).with_suffix("").as_posix()
        is_fragment = any(part.startswith("_") for part in name.split("/"))
        if not is_fragment:
            recipes[name] = path
    return recipes


def similar_name(source: str | Path, known: Iterable[str]) -> str:
    """Say which packaged recipes may have been meant, at most five, as a sentence to append, or nothing.

    >>> similar_name("recipes/quikstart.yaml", ["quickstart"])
    " Did you mean 'quickstart'?"
    >>> similar_name("mrpc", ["hspg/mrpc", "rosita/mrpc-minilm", "quickstart"])
    " Did you mean 'hspg/mrpc' or 'rosita/mrpc-minilm'?"
    """
    # People write a path, a name with an ending, or a name without its folder.
    word = str(source).removeprefix("recipes/").removesuffix(".yaml")
    if not word or len(word) > LONGEST_WORD:  # comparing long words takes long
        return ""
    names = sorted(known)
    # A name that is very near is meant, and others would only distract.
    near = difflib.get_close_matches(word, names, n=MOST_NAMES, cutoff=NEARER)
    if not near:
        near = difflib.get_close_matches(word, names, n=MOST_NAMES, cutoff=NEAR)
    if "/" not in word:
        near += _similar_without_folder(word, names)
    meant = [repr(name) for name in dict.fromkeys(near)]
    return f" Did you mean {_either(meant[:MOST_NAMES])}?" if meant else ""


def _similar_without_folder(word: str, names: Sequence[str]) -> list[str]:
    """Return the names whose last part begins with a word, then those whose last part is near it."""
    last_parts = {name: name.rpartition("/")[2] for name in names}
    beginning = [name for name in names if last_parts[name].startswith(word)]
    close = difflib.get_close_matches(word, last_parts.values(), n=MOST_NAMES, cutoff=NEAR_WITHOUT_FOLDER)
    return beginning + [name for name in names if last_parts[name] in close]


def _either(words: Sequence[str]) -> str:
    """Join words as in ``a, b or c``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def find_recipe(source: str | Path, beside: Path | None = None) -> Path | None:
    """Find a recipe's file by its path, or by its name among the packaged ones.

    Args:
        source: a path or a name.
        beside: the folder against which a relative path is read; default: the current one.
    """
    path = (beside or Path()) / expanded(source)
    # Files of the user come before packaged recipes of the same name.
    if exists(path):
        return Path(os.path.normpath(path))
    for candidate in (recipes_root() / source, recipes_root() / f"{source}.yaml"):
        if exists(candidate) and candidate.is_file():
            return candidate
    return None


def expanded(source: str | Path) -> Path:
    """Return a path with ``~`` written out, if there is such a user."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def exists(path: Path) -> bool:
    """Tell whether there is a file or folder of this name; a name that the system refuses, as too long, has none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _load(path: Path, chain: Sequence[Path], problems: list[Problem], seen: list[Path]) -> Node | None:
    """Read a file and put it over the files that it extends.

    Args:
        path: the file.
        chain: the files that lead to it, each extending the next.
        problems: where problems are noted.
        seen: where every file that is read is noted.
    """
    seen.append(path)
    if len(seen) > MOST_FILES:
        if len(seen) == MOST_FILES + 1:  # reported once, however many more there are
            problems.append(Problem(str(path), "extends", f"more than {MOST_FILES} files extend each other."))
        return None
    root, problems_of_file = read(path, str(path))
    problems += problems_of_file
    if root is None:
        return None
    if not isinstance(root.value, dict):
        state = "is empty" if root.value is None else "is not a mapping"
        text = f"the file {state}. Expected 'key: value' lines, as in 'model: minilm-l6'."
        problems.append(Problem(str(root.at), "", text))
        return None
    # Taken out, so that the merged recipe does not extend anything.
    extends = root.value.pop("extends", None)
    items: list[Node] = []
    if extends is not None:
        items = extends.value if isinstance(extends.value, list) else [extends]
    layers: list[Node] = []
    for item in items:
        parent = _parent(item, path, [*chain, path.resolve()], problems, seen)
        if parent is not None:
            layers.append(parent)
    # Of several extended files, each later one is put over those before it, and this file over all of them.
    return functools.reduce(merge, [*layers, root])


def _parent(item: Node, path: Path, chain: Sequence[Path], problems: list[Problem], seen: list[Path]) -> Node | None:
    """Read a file that another one extends.

    Args:
        item: what stands in ``extends``.
        path: the file in which it stands.
        chain: that file, and those that lead to it.
        problems: where problems are noted.
        seen: where every file that is read is noted.
    """
    target, fault = _extended_file(item, path.parent, chain)
    if target is None:
        problems.append(Problem(str(item.at), "extends", fault))
        return None
    return _load(target, chain, problems, seen)


def _extended_file(item: Node, folder: Path, chain: Sequence[Path]) -> tuple[Path | None, str]:
    """Find the file that an item of ``extends`` names; ``None`` and the reason if it cannot be extended."""
    if not isinstance(item.value, str):
        return None, f"{item.plain()!r} is not a file. Expected a path or a list of paths."
    target = find_recipe(item.value, folder)
    if target is None or target.is_dir():
        neighbours = [os.path.relpath(file, folder) for file in folder.glob("../*/*.yaml")]
        return None, f"no such file {item.value!r}, read from {folder}/.{suggestion(item.value, neighbours)}"
    # Only the files above this one count: two branches may well extend the same file.
    resolved = target.resolve()
    if resolved in chain:
        circle = [*chain[chain.index(resolved) :], target]
        names = " → ".join(file.name for file in circle)
        return None, f"a circle: {names}."
    return target, ""


def extended_files(path: Path) -> list[Path]:
    """List a recipe's file and every file that it extends, however far.

    Raises:
        RecipeError: one of them cannot be read.
    """
    problems: list[Problem] = []
    files: list[Path] = []
    _load(path, (), problems, files)
    if problems:
        raise RecipeError(problems)
    normal = [Path(os.path.normpath(file)) for file in files]
    return list(dict.fromkeys(normal))  # two branches may extend the same file
