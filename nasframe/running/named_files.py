"""Files that options name: their content as a part of keys, and names for them that are the same on every machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.digests import file_digest, files_below, tree_digest
from nasframe.plan import own_task
from nasframe.reads import is_below
from nasframe.records import canonical_json

if TYPE_CHECKING:
    from nasframe.stages.inputs import RunInputs


def contents(value: Any, base: Path = Path()) -> Any:
    """Return options in which every file or folder that they name is replaced by, or gets, a digest of its content.

    The place of an absolute path does not matter, only its content. A relative path may be a word that happens to be
    a file's name, so it stays, next to the digest.

    Args:
        value: options, however deeply nested.
        base: the recipe's folder, against which relative paths are read.
    """
    if isinstance(value, Mapping):
        replaced = {}
        for key, item in value.items():
            if key == "use":  # it names a plugin, even if a file next to the recipe has that name
                replaced[key] = item
            else:
                replaced[key] = contents(item, base)
        return replaced
    if isinstance(value, list | tuple):
        return [contents(item, base) for item in value]
    place = named_place(value, base)
    if place is None:
        return value
    digest = tree_digest(place)
    if os.path.isabs(value):
        return {"content": digest}
    return {"path": value, "content": digest}


def named_place(value: Any, base: Path) -> Path | None:
    """Return the file or folder that an option's value names, if it names one.

    A word without a separator may name a file, but no folder: folders are often called like a stage, a split or a
    plugin. A folder that contains the recipe's own does not count either: runs may lie in it.
    """
    if not isinstance(value, str) or not value:
        return None
    place = base / os.path.expanduser(value)
    if os.path.isfile(place):
        return place
    is_path = os.sep in value or value.startswith((".", "~"))
    if not is_path or not os.path.isdir(place):
        return None
    if is_below(base, [os.path.realpath(place)]):
        return None
    return place


def named_places(value: Any, base: Path, at: str = "") -> Iterator[tuple[str, Path]]:
    """Yield every file or folder that options name, after the dotted path of the option.

    >>> list(named_places({"task": {"parts": [__file__]}}, Path()))[0][0]
    'task.parts.0'
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != "use":
                option = f"{at}.{key}" if at else str(key)
                yield from named_places(item, base, option)
        return
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from named_places(item, base, f"{at}.{number}")
        return
    place = named_place(value, base)
    if place is not None:
        yield at, place


def without_places(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without absolute paths: keys hold the content of a task's data and a model's files anyway."""
    kept = {}
    for key, value in options.items():
        is_place = isinstance(value, str) and os.path.isabs(value) and os.path.exists(value)
        if not is_place:
            kept[key] = value
    return kept


def declared_files(inputs: RunInputs) -> dict[str, str]:
    """Return the digests of all files that model, teacher and task declare, also of those in declared folders.

    A name begins with its owner, as in ``model/config.json``, wherever the files lie.
    """
    return file_digests(inputs.declared())


def file_digests(declared: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """Return the digests of declared files, also of those in declared folders; each place stands after its name."""
    digests = {}
    # By owner and path inside, so that equal files in another folder give equal keys.
    for name, place in declared:
        for inside, file in files_below(place):
            full_name = f"{name}/{inside}" if inside else name  # a declared file has nothing inside
            digests[full_name] = file_digest(file)
    return digests


class FileNames:
    """Names for files that are the same wherever a project lies, and the files that they mean in a run.

    A file that an option of model or task leads to is named by the option, ``<task.path>/train.tsv``; one that they
    declare by its owner, ``<model>/config.json``; one below the recipe's folder by its path from there; any other by
    its full path.

    Args:
        inputs: what the run's plan names.
    """

    def __init__(self, inputs: RunInputs) -> None:
        plan = inputs.plan
        self.base = plan.base
        options = {"model": plan.model, "teacher": plan.teacher, "task": plan.task}
        for stage in plan.stages:
            use = own_task(stage)
            if use is not None:  # by what it is: recipes may call the stages that share it differently
                options[f"task {digest_of(use)}"] = use
        self.places = dict(named_places(options, plan.base))
        self.places.update(inputs.declared())

    def name(self, path: Path) -> str:
        """Return the name of a file."""
        # Options first: data may lie below the recipe's folder on one machine and elsewhere on another.
        for option, place in self.places.items():
            if not is_below(path, [os.path.realpath(place)]):
                continue
            inside = _inside(path, place)
            if not inside:  # the option names the file itself
                return f"<{option}>"
            return f"<{option}>/{inside}"
        if is_below(path, [os.path.realpath(self.base)]):
            return _inside(path, self.base) or "."
        return str(path)

    def place(self, name: str) -> Path:
        """Return the file that a name means in this run."""
        if not name.startswith("<"):
            return self.base / name
        option, _, inside = name[1:].partition(">")
        # An option that this run does not have means no file, which then counts as changed.
        place = self.places.get(option, self.base / name)
        if not inside:
            return place
        return place / inside.removeprefix("/")


def digest_of(use: Mapping[str, Any]) -> str:
    """Return a short digest of a plugin's name and options, wherever the files lie that they name."""
    text = canonical_json(without_places(use))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _inside(path: Path, place: Path) -> str:
    """Return a path relative to a place that it lies in; empty if it is the place itself."""
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(place))
    if relative == ".":
        return ""
    return Path(relative).as_posix()
