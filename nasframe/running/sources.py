"""The code that a stage's result depends on: nasframe itself, the packages of plugins, and what these require."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.digests import file_digest, tree_digest
from nasframe.running.environment import versions


def names_in(value: Any) -> set[str]:
    """Return the names of all plugins that resolved options use.

    >>> sorted(names_in({"sampler": {"use": "sandwich", "inner": {"use": "random"}}}))
    ['random', 'sandwich']
    """
    names = set()
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
        if isinstance(value.get("use"), str):
            names.add(value["use"])
    elif isinstance(value, list | tuple):
        items = value
    for item in items:
        names |= names_in(item)
    return names


def sources(names: Iterable[str]) -> dict[str, Any]:
    """Return digests of nasframe's source and of the packages whose plugins are named.

    A name counts whatever its kind. A package of another distribution than nasframe also brings its requirements'
    versions, a one-file plugin the files that it imports from its own folder.
    """
    # Without the kind, because options do not tell it. A name too many costs a cache miss at worst.
    entries = entries_of(names)
    digests: dict[str, Any] = {"nasframe": source_digest(Path(__file__).parents[1])}
    for entry in entries:
        is_installed = bool(entry.source.version)  # a one-file plugin has no version
        if is_installed and entry.package != "nasframe":
            digests[str(entry.source)] = versions(_required_packages(entry.source.package))
    # Under names, not paths: the same code may lie elsewhere on another machine.
    for name, of_name in _plugin_digests(entries).items():
        digests[name] = of_name[0] if len(of_name) == 1 else sorted(of_name)
    return digests


def _required_packages(package: str) -> Iterator[str]:
    """Yield the names of the packages that a package requires, without versions and markers."""
    for requirement in metadata.requires(package) or ():
        name = re.match(r"[\w.-]+", requirement)
        if name:
            yield name.group()


def _plugin_digests(entries: Iterable[registry.Registered]) -> dict[str, list[str]]:
    """Return digests of the code of plugins by name. Several one-file plugins may have one name."""
    # A set, because most plugins of a package share its code.
    places: set[Path] = set()
    for entry in entries:
        places.update(homes(entry))
    digests: dict[str, list[str]] = {}
    for place in places:
        digests.setdefault(place.name, []).append(source_digest(place))
        if not place.is_file():
            continue
        for name, file in imported_beside(place):
            digests.setdefault(f"{place.name}: {name}", []).append(source_digest(file))
    return digests


def entries_of(names: Iterable[str]) -> list[registry.Registered]:
    """Return what is registered under some names, whatever its kind."""
    wanted = {*names, "loop"}  # a search may train its candidates with the loop, which the recipe need not name
    entries = []
    for kind in registry.KINDS:
        for entry in registry.factories(kind).values():
            if entry.name in wanted:
                entries.append(entry)
    return entries


def homes(entry: registry.Registered) -> Iterator[Path]:
    """Yield the package or file that a plugin's code lies in."""
    if entry.source.file:
        yield Path(entry.source.file)
        return
    if isinstance(entry.target, str):  # not imported yet: "module:name"
        module = entry.target.partition(":")[0]
    else:
        module = entry.target.__module__
    # The whole top-level package, because any of its modules may change a number.
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec and spec.origin:
        origin = Path(spec.origin)
        yield origin.parent if origin.name == "__init__.py" else origin


def imported_beside(plugin: Path) -> list[tuple[str, Path]]:
    """Return the files that a one-file plugin imports from its own folder, directly or not, after their names in it."""
    # The finder reads code without running it, and excludes nasframe, whose source counts by itself.
    finder = ModuleFinder(path=[str(plugin.parent)], excludes=["nasframe"])
    finder.run_script(str(plugin))
    modules: Iterable[Any] = finder.modules.values()
    files = []
    for module in modules:
        if module.__file__ and Path(module.__file__) != plugin:
            file = Path(module.__file__)
            files.append((file.relative_to(plugin.parent).as_posix(), file))
    return sorted(files)


def source_digest(home: Path) -> str:
    """Return the digest of a package's or file's code, as it was when this process first asked for it.

    A process keeps running the code that it imported, whatever happens to the files. Only a one-file plugin is loaded
    again after a change, so its file counts as it is now.
    """
    one_file_plugins = {source.file for source in registry.plugins().sources.values()}
    if home.is_file() and str(home) in one_file_plugins:
        return file_digest(home)
    return _first_digest(home)


@functools.cache
def _first_digest(home: Path) -> str:
    return tree_digest(home, "*.py")
