"""Loads plugins, and calls their hooks one plugin at a time.

Plugins are the modules that installed packages name under the entry-point group ``nasframe``, and the files that a
recipe names under ``plugins:``. Files belong to the recipe: while it is checked or run, :func:`file_plugins` lets its
own files be found and no others. A plugin that fails to load is kept with its cause and breaks nothing else. The
environment variable ``NASFRAME_PLUGINS`` restricts loading to the entry points it lists (commas; empty: none).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pluggy

from nasframe import hookspecs
from nasframe.errors import UsageError, suggestion
from nasframe.plugin_errors import described

GROUP = "nasframe"
"""The group of entry points that plugins are installed under."""
VARIABLE = "NASFRAME_PLUGINS"
"""The environment variable that lists the plugins to load."""
MOVED = {"table": "bench"}
"""Name of a plugin that is gone → the plugin that has what it registered."""
INSTALLED_ONLY = ("register_commands", "check_file", "file_kind")
"""Hooks that are called before any recipe names its one-file plugins."""
_FILES: ContextVar[frozenset[str] | None] = ContextVar("nasframe_file_plugins", default=None)
"""The names of the one-file plugins that may be found; ``None`` outside of recipes, for all that were loaded."""


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from: an installed package with its version, or a file."""

    package: str
    version: str = ""
    file: str = ""

    def __str__(self) -> str:
        name = f"{self.package} {self.version}".strip()
        return f"{name} ({self.file})" if self.file else name


@dataclass(frozen=True)
class Failure:
    """A plugin, or one of its names, that cannot be used, and why."""

    plugin: str
    source: Source
    cause: str


@dataclass
class Plugins:
    """The plugin manager, where each plugin comes from, and what failed."""

    manager: pluggy.PluginManager
    sources: dict[str, Source] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


@functools.cache
def plugins() -> Plugins:
    """Load the installed plugins, once; ``plugins.cache_clear()`` forgets them."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    loaded = Plugins(manager)
    wanted = wanted_names()
    installed = _installed()
    for entry, source in installed:
        if wanted is None or entry.name in wanted:
            _add(loaded, entry.name, source, entry.load)
    names = {entry.name for entry, _ in installed}
    for name in sorted((wanted or set()) - names):
        hint = f" It is now part of {MOVED[name]!r}." if name in MOVED else suggestion(name, names)
        cause = f"no such plugin is installed.{hint}"
        loaded.failures.append(Failure(name, Source(VARIABLE), cause))
    return loaded


def wanted_names() -> set[str] | None:
    """Return the entry points that ``NASFRAME_PLUGINS`` lists; ``None`` if it is not set."""
    listed = os.environ.get(VARIABLE)
    if listed is None:
        return None
    names = {name.strip() for name in listed.split(",")}
    return names - {""}


def _installed() -> list[tuple[metadata.EntryPoint, Source]]:
    """Return the installed plugins by package and name; one that is found twice on the path counts once."""
    installed = {}  # by name, because an editable install and a folder on PYTHONPATH may name the same plugin
    for entry in metadata.entry_points(group=GROUP):
        source = Source(entry.value)
        if entry.dist:
            source = Source(entry.dist.name, entry.dist.version)
        installed[source.package, entry.name] = (entry, source)
    return [installed[key] for key in sorted(installed)]


def plugin_manager() -> pluggy.PluginManager:
    """Return the pluggy manager, for observer hooks and for tests that register a plugin of their own."""
    return plugins().manager


def _add(loaded: Plugins, name: str, source: Source, load: Callable[[], Any]) -> None:
    """Load and register one plugin; whatever goes wrong becomes a failure."""
    if name in loaded.sources:  # two packages use the same entry point; both are loaded
        name = f"{name} ({source.package})"
    manager = loaded.manager
    try:
        plugin = load()
        _check_version(getattr(plugin, "PLUGIN_API", hookspecs.PLUGIN_API), source)
        manager.register(plugin, name=name)
        _check_hooks(manager, plugin)  # after registering, because pluggy finds the hooks
    except (Exception, SystemExit) as error:
        if manager.has_plugin(name):
            manager.unregister(name=name)
        loaded.failures.append(Failure(name, source, _cause(error)))
    else:
        loaded.sources[name] = source


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Refuse a plugin with a hook that nasframe does not have, unless it is marked as optional."""
    for hook in manager.get_hookcallers(plugin) or []:
        is_optional = all(implementation.optionalhook for implementation in hook.get_hookimpls())
        if not hook.has_spec() and not is_optional:
            known = [name for name in vars(manager.hook) if hasattr(hookspecs, name)]
            raise UsageError(f"unknown hook {hook.name!r}.{suggestion(hook.name, known)}")


def _cause(error: BaseException) -> str:
    """Say why a plugin could not be loaded."""
    if isinstance(error, UsageError):
        return str(error)
    text = described(error)
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "nasframe":
        text += f". Was the plugin made for another version? This is plugin API {hookspecs.PLUGIN_API}."
    return text


def _check_version(version: Any, source: Source) -> None:
    """Refuse a plugin that was made for a newer plugin API, or for one that is not read any more."""
    current = hookspecs.PLUGIN_API
    is_version = isinstance(version, int) and not isinstance(version, bool)
    if is_version and hookspecs.OLDEST_PLUGIN_API <= version <= current:
        return
    remedy = f"upgrade {source.package}"
    if isinstance(version, int) and version > current:
        remedy = f"upgrade nasframe (pip install --upgrade nasframe), or install an older {source.package}"
    raise UsageError(f"made for plugin API {version!r}, but this nasframe has {current}; {remedy}")


def add_file(path: Path) -> None:
    """Load a one-file plugin; a second time does nothing, unless the file was changed.

    Raises:
        UsageError: if the file cannot be loaded or registers nothing, with the cause.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():  # a pipe or a device may have no end
        raise UsageError(f"{path}: the plugin cannot be loaded: it is not a regular file.")
    loaded = plugins()
    name = str(path)
    module_name = _module_name(path)
    current = loaded.manager.get_plugin(name)
    if current is not None:  # a long process, such as a notebook, may run the file again after an edit
        if current.__name__ == module_name:
            return
        loaded.manager.unregister(name=name)
        del loaded.sources[name]
    failures_before = len(loaded.failures)
    _add(loaded, name, Source(path.name, file=name), lambda: _load_file(path, module_name))
    if len(loaded.failures) > failures_before:  # whoever named the file hears of it; it concerns nobody else
        failure = loaded.failures.pop()
        raise UsageError(f"{path}: the plugin cannot be loaded: {failure.cause}")


def _module_name(path: Path) -> str:
    """Name the module of a file by its path and content, so that a changed file is another module."""
    content = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(str(path).encode() + content).hexdigest()[:8]
    return f"{path.stem}_{digest}"


def _load_file(path: Path, module_name: str) -> Any:
    """Import a one-file plugin, which must have a hook that files can have."""
    module = _import_file(path, module_name)
    hooks = []
    for name, item in vars(module).items():
        options = getattr(item, "nasframe_impl", None)  # the mark that nasframe.hookimpl leaves on a function
        if options is not None:
            hooks.append(options["specname"] or name)
    for hook in hooks:
        if hook in INSTALLED_ONLY:
            raise UsageError(
                f"{hook}: a one-file plugin is loaded after nasframe has asked for this. Expected it in an installed "
                "package, as 'nasframe new' writes one."
            )
    if not hooks:
        raise UsageError(
            "it registers nothing. Expected a function such as register_samplers(register), decorated with "
            "nasframe.hookimpl."
        )
    return module


@contextmanager
def file_plugins(paths: Iterable[str | Path]) -> Iterator[None]:
    """Let these one-file plugins be found inside the block, and no others; what is not loaded yet is loaded.

    Args:
        paths: the files that a recipe names.

    Raises:
        UsageError: a file cannot be loaded, with the cause.
    """
    names = frozenset(str(Path(path).resolve()) for path in paths)
    for name in sorted(names):
        if not plugins().manager.has_plugin(name):
            add_file(Path(name))
    token = _FILES.set(names)
    try:
        yield
    finally:
        _FILES.reset(token)


def is_visible(name: str) -> bool:
    """Tell whether a plugin, by its name in the manager, may be found here: all may, except other recipes' files."""
    files = _FILES.get()
    source = plugins().sources.get(name)
    if files is None or source is None or not source.file:
        return True
    return name in files


def visible_files() -> dict[str, str]:
    """Return the one-file plugins that may be found here: path → module name, which changes with the content."""
    loaded = plugins()
    modules = {}
    for name in sorted(loaded.sources):
        if loaded.sources[name].file and is_visible(name):
            modules[name] = loaded.manager.get_plugin(name).__name__  # type: ignore[union-attr]
    return modules


@contextmanager
def all_files() -> Iterator[None]:
    """Let every one-file plugin that was loaded be found inside the block, whichever recipe names it."""
    token = _FILES.set(None)
    try:
        yield
    finally:
        _FILES.reset(token)


class _SourceLoader(SourceFileLoader):
    """Loads the source itself: bytecode may be of an older version that was changed within the same second."""

    def path_stats(self, path: Any) -> Any:
        """Raise, as if there were nothing to compare bytecode with: it is then neither read nor written."""
        raise OSError


def _import_file(path: Path, module_name: str) -> Any:
    """Run a file as a module of this name."""
    spec = importlib.util.spec_from_file_location(module_name, path, loader=_SourceLoader(module_name, str(path)))
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # before it runs, as dataclasses and pickle look modules up there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, ModuleNotFoundError) and _is_beside(path, error.name):
            raise UsageError(
                f"it imports {error.name}.py, the file beside it, which a one-file plugin cannot. Expected one file, "
                "or an installed package, as 'nasframe new' writes one."
            ) from error
        raise
    return module


def _is_beside(path: Path, module: str | None) -> bool:
    """Tell whether a module is another file, or a folder, in a file's folder."""
    if not module or "." in module:
        return False
    return path.with_name(f"{module}.py").is_file() or path.with_name(module).is_dir()


@dataclass(frozen=True)
class Implementation:
    """One plugin's implementation of a hook.

    Args:
        plugin: the plugin's name in the manager.
        source: where it comes from.
        call: calls the hook of this plugin alone.
    """

    plugin: str
    source: Source
    call: Callable[..., Any]

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} ({self.source})"


def implementations(hook: str) -> Iterator[Implementation]:
    """Yield the implementations of a hook by the plugins that may be found here."""
    loaded = plugins()
    manager = loaded.manager
    caller = getattr(manager.hook, hook)
    implementing = [implementation.plugin for implementation in caller.get_hookimpls()]
    for name, plugin in manager.list_name_plugin():
        if plugin is None or plugin not in implementing or not is_visible(name):
            continue
        # pluggy can only call a hook without some plugins, so all others are left out.
        others = [other for other in manager.get_plugins() if other is not plugin]
        source = loaded.sources.get(name, Source(name))
        yield Implementation(name, source, manager.subset_hook_caller(hook, others))
