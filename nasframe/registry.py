"""Finds plugins, and makes what they register: kind and name in, object out.

Plugins are the modules that installed packages name under the entry-point group ``nasframe``, and the files that a
recipe names under ``plugins:``. Files belong to the recipe: while it is checked or run, :func:`file_plugins` lets its
own files be found and no others. A plugin that fails to load is kept with its cause and breaks nothing else. The
environment variable ``NASFRAME_PLUGINS`` restricts loading to the entry points it lists (commas; empty: none).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from nasframe import hookspecs
from nasframe.errors import NasframeError, PluginError, UsageError, listing, suggestion
from nasframe.notices import say
from nasframe.plugin_errors import Note, described, note
from nasframe.storage import disk_problem

if TYPE_CHECKING:
    import typer

    from nasframe.errors import Problem
    from nasframe.records import FileKind

GROUP = "nasframe"
KINDS = ("space", "sampler", "trainer", "estimator", "modifier", "transform", "task", "model")
RESERVED = {"sampler": ("join",)}
"""Options that the framework itself understands on every plugin of a kind."""
PATHS = {"model": "hf"}
"""The plugin that is meant where a path stands in place of a name: it takes the path as its option ``path``."""
_FILES: ContextVar[frozenset[str] | None] = ContextVar("nasframe_file_plugins", default=None)
"""The names of the one-file plugins that may be found; ``None``, outside of all recipes: whatever was loaded."""


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from: an installed package with its version, or a file."""

    package: str
    version: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"{self.package} {self.version}".strip() + (f" ({self.file})" if self.file else "")


@dataclass(frozen=True)
class Failure:
    """A plugin, or one of its names, that cannot be used, and why."""

    plugin: str
    source: Source
    cause: str


@dataclass(frozen=True)
class Registered:
    """One registered name: ``target`` is ``"module:Object"`` or the factory itself."""

    kind: str
    name: str
    target: Any
    plugin: str
    source: Source
    example: Any = None

    @property
    def package(self) -> str:
        """The package that registers it."""
        return self.source.package

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.source.package} {self.source.version}".rstrip() + ")"

    def load(self) -> Callable[..., Any]:
        """Import the factory.

        Raises:
            UsageError: if it cannot be imported, with the cause.
        """
        return self._imported(self.target)  # type: ignore[no-any-return]

    def load_example(self) -> Any:
        """Return options to try the plugin with, or the contract that prepares them; see ``nasframe plugins check``.

        Raises:
            UsageError: if it cannot be imported, with the cause.
        """
        return self._imported(self.example) if self.example is not None else {}

    def _imported(self, target: Any) -> Any:
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
            return found
        except (Exception, SystemExit) as error:
            cause = described(error)
            raise UsageError(f"{self.kind} {self.name!r} of {self.source} cannot be loaded: {cause}") from error


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
    found = Plugins(manager)
    listed = os.environ.get("NASFRAME_PLUGINS")
    wanted = None if listed is None else {name.strip() for name in listed.split(",") if name.strip()}
    installed = {}
    for entry in metadata.entry_points(group=GROUP):
        source = Source(entry.dist.name, entry.dist.version) if entry.dist else Source(entry.value)
        installed[entry.name, source.package] = (entry, source)
    for entry, source in sorted(installed.values(), key=lambda pair: (pair[1].package, pair[0].name)):
        if wanted is None or entry.name in wanted:
            _add(found, entry.name, source, entry.load)
    for name in sorted((wanted or set()) - {entry.name for entry, _ in installed.values()}):
        near = suggestion(name, {entry.name for entry, _ in installed.values()})
        found.failures.append(Failure(name, Source("NASFRAME_PLUGINS"), f"no such plugin is installed.{near}"))
    return found


def plugin_manager() -> pluggy.PluginManager:
    """Return the pluggy manager, for observer hooks and for tests that register a plugin of their own."""
    return plugins().manager


def _add(found: Plugins, name: str, source: Source, load: Callable[[], Any]) -> None:
    """Load and register one plugin; whatever goes wrong becomes a failure."""
    name = name if name not in found.sources else f"{name} ({source.package})"
    try:
        plugin = load()
        _check_version(getattr(plugin, "PLUGIN_API", hookspecs.PLUGIN_API), source)
        found.manager.register(plugin, name=name)
        for hook in found.manager.get_hookcallers(found.manager.get_plugin(name)) or []:
            optional = all(call.optionalhook for call in hook.get_hookimpls())
            if not hook.has_spec() and not optional:
                hooks = [known for known in vars(found.manager.hook) if hasattr(hookspecs, known)]
                raise UsageError(f"unknown hook {hook.name!r}.{suggestion(hook.name, hooks)}")
    except (Exception, SystemExit) as error:
        if found.manager.has_plugin(name):
            found.manager.unregister(name=name)
        text = str(error) if isinstance(error, UsageError) else described(error)
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "nasframe":
            text += f". Was the plugin made for another version? This is plugin API {hookspecs.PLUGIN_API}."
        found.failures.append(Failure(name, source, text))
    else:
        found.sources[name] = source


def _check_version(version: Any, source: Source) -> None:
    """Refuse a plugin that was made for a plugin API that is not here any more, or not yet."""
    here = hookspecs.PLUGIN_API
    if version == here:
        return
    mend = f"upgrade {source.package}"
    if isinstance(version, int) and version > here:
        mend = f"upgrade nasframe (pip install --upgrade nasframe), or install an older {source.package}"
    raise UsageError(f"made for plugin API {version!r}, but this nasframe has {here}; {mend}")


def add_file(path: Path) -> None:
    """Load a one-file plugin; a second time does nothing, unless the file was changed.

    Raises:
        UsageError: if the file cannot be loaded or registers nothing, with the cause.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():  # a pipe or a device may have no end
        raise UsageError(f"{path}: the plugin cannot be loaded: it is not a regular file.")
    found, name = plugins(), str(path)
    before, known = len(found.failures), found.manager.get_plugin(name)

    def load() -> Any:
        module = _import_file(path, f"{path.stem}_{digest}")
        if not any(hasattr(item, "nasframe_impl") for item in vars(module).values()):
            raise UsageError(
                "it registers nothing. Expected a function such as register_samplers(register), decorated with "
                "nasframe.hookimpl."
            )
        return module

    digest = hashlib.sha256(name.encode() + (path.read_bytes() if path.is_file() else b"")).hexdigest()[:8]
    if known is not None:
        if known.__name__ == f"{path.stem}_{digest}":
            return
        found.manager.unregister(name=name)
        del found.sources[name]
    _add(found, name, Source(path.name, file=name), load)
    if len(found.failures) > before:
        raise UsageError(f"{path}: the plugin cannot be loaded: {found.failures.pop().cause}")


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
    """Tell whether a plugin, by its name in the manager, may be found here: all do, but files of other recipes."""
    files = _FILES.get()
    source = plugins().sources.get(name)
    return files is None or source is None or not source.file or name in files


def visible_files() -> dict[str, str]:
    """Return the one-file plugins that may be found here: path → name of the module, which changes with the content."""
    found = plugins()
    files = [name for name, source in found.sources.items() if source.file and is_visible(name)]
    return {name: found.manager.get_plugin(name).__name__ for name in sorted(files)}  # type: ignore[union-attr]


def file_faults(path: Path) -> list[str]:
    """List what is wrong with the names of a one-file plugin: hooks that raise, names that another plugin has too."""
    faults = []
    for kind in KINDS:
        for entry in registrations(kind):
            if isinstance(entry, Failure) and entry.source.file == str(path):
                faults.append(entry.cause)
        for name, entries in _claims(kind).items():
            if len(entries) > 1 and str(path) in [entry.source.file for entry in entries]:
                faults.append(_clash(kind, name, entries))
    return faults


class _SourceLoader(SourceFileLoader):
    """Loads the source itself: bytecode beside it may be of a version that was changed within the same second."""

    def path_stats(self, path: Any) -> Any:
        """Say that there is nothing to compare bytecode with; it is then neither read nor written."""
        raise OSError


def _import_file(path: Path, module_name: str) -> Any:
    spec = importlib.util.spec_from_file_location(module_name, path, loader=_SourceLoader(module_name, str(path)))
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def registrations(kind: str) -> Iterator[Registered | Failure]:
    """Ask every plugin that may be found for its names of a kind; a plugin whose hook raises yields a failure."""
    found = plugins()
    for name, plugin in found.manager.list_name_plugin():
        if plugin is None or not is_visible(name):
            continue
        others = [other for other in found.manager.get_plugins() if other is not plugin]
        source = found.sources.get(name, Source(name))
        collected: list[Registered] = []

        def register(
            name: str, factory: Any, example: Any = None, *, into: list = collected, plugin_name: str = name,
            source: Source = source,
        ) -> None:  # fmt: skip
            into.append(Registered(kind, name, factory, plugin_name, source, example))

        try:
            found.manager.subset_hook_caller(f"register_{kind}s", others)(register=register)
        except (Exception, SystemExit) as error:
            yield Failure(name, source, f"register_{kind}s: {described(error)}")
        yield from collected


def add_commands(app: typer.Typer) -> None:
    """Let every installed plugin add its verbs to the command line; one whose hook raises adds none, and is told."""
    loaded = plugins()
    for name, plugin in loaded.manager.list_name_plugin():
        others = [other for other in loaded.manager.get_plugins() if other is not plugin]
        try:
            loaded.manager.subset_hook_caller("register_commands", others)(app=app)
        except (Exception, SystemExit) as error:
            loaded.failures.append(Failure(name, loaded.sources[name], f"register_commands: {described(error)}"))


def check_file(source: str, overrides: Sequence[str]) -> Sequence[Problem] | None:
    """Ask the plugins for the problems of a file that is not a recipe; ``None`` if none of them knows such files."""
    problems: Sequence[Problem] | None = plugins().manager.hook.check_file(source=source, overrides=overrides)
    return problems


def file_kind(source: str) -> FileKind | None:
    """Ask the plugins what a file is that is not a recipe; ``None`` if none of them knows such files."""
    kind: FileKind | None = plugins().manager.hook.file_kind(source=source)
    return kind


def factories(kind: str) -> dict[str, Registered]:
    """Return what is registered of a kind, by name; a name that two plugins claim is left out.

    Args:
        kind: one of ``KINDS``.
    """
    claims = _claims(kind)
    return {name: entries[0] for name, entries in sorted(claims.items()) if len(entries) == 1}


def _claims(kind: str) -> dict[str, list[Registered]]:
    if kind not in KINDS:
        raise UsageError(f"unknown kind of plugin {kind!r}. Kinds: {listing(KINDS)}.{suggestion(kind, KINDS)}")
    claims: dict[str, list[Registered]] = {}
    for entry in registrations(kind):
        if isinstance(entry, Registered):
            claims.setdefault(entry.name, []).append(entry)
    return claims


def failures() -> list[Failure]:
    """List everything that cannot be used: plugins that did not load, hooks that raise, names claimed twice."""
    found = list(plugins().failures)
    for kind in KINDS:
        found += [entry for entry in registrations(kind) if isinstance(entry, Failure)]
        for name, entries in _claims(kind).items():
            if len(entries) > 1:
                found.append(Failure(entries[0].plugin, entries[0].source, _clash(kind, name, entries)))
    return found


def _clash(kind: str, name: str, entries: list[Registered]) -> str:
    sources = " and ".join(str(entry.source) for entry in entries)
    return f"{kind} {name!r} is registered by both {sources}; rename or remove one"


def find(kind: str, name: str) -> Registered:
    """Look up one name.

    Raises:
        UsageError: if nobody or more than one plugin registers it; says what there is and what was probably meant.
    """
    entries = _claims(kind).get(name, [])
    if len(entries) == 1:
        return entries[0]
    if entries:
        raise UsageError(_clash(kind, name, entries))
    known = factories(kind)
    elsewhere = [other for other in KINDS if other != kind and name in factories(other)]
    if kind in PATHS and not elsewhere:
        raise UsageError(
            f"unknown {kind} {name!r}. There are: {listing(known)}.{suggestion(name, known)} A directory is written as "
            f"a path, ./{name}; a name of the hub as {{use: {PATHS[kind]}, path: {name}}}."
        )
    article = "an" if elsewhere and elsewhere[0][0] in "aeiou" else "a"
    hint = f" {name!r} is {article} {elsewhere[0]}." if elsewhere else suggestion(name, known)
    if (file := _unnamed_file(kind, name)) is not None:
        hint = f" {file} registers it, but 'plugins:' does not name that file here."
    raise UsageError(f"unknown {kind} {name!r}. There are: {listing(known)}.{hint}")


def _unnamed_file(kind: str, name: str) -> str | None:
    """Find a one-file plugin of another recipe that registers a name."""
    token = _FILES.set(None)
    try:
        entries = _claims(kind).get(name, [])
    finally:
        _FILES.reset(token)
    return entries[0].source.file if entries else None


def reserved_faults(kind: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Check the options that the framework itself understands on every plugin of a kind.

    Args:
        kind: the plugin's kind.
        options: what was given; ``None`` switches an option off.

    Yields:
        Each option that does not fit, and why.

    >>> [name for name, _ in reserved_faults("sampler", {"join": ""})], list(reserved_faults("sampler", {"join": None}))
    (['join'], [])
    """
    expected = "Expected a name such as layer, a mapping of names to lists of knobs, or null for none."
    for name in RESERVED.get(kind, ()):
        value = options.get(name)
        groups = value.values() if isinstance(value, Mapping) else []
        lists = all(
            isinstance(knobs, Sequence) and not isinstance(knobs, str) and all(isinstance(knob, str) for knob in knobs)
            for knobs in groups
        )
        if value is None or (isinstance(value, str | Mapping) and value and lists):
            continue
        yield name, f"{value!r} does not fit. {expected}"


def use_of(value: Any, kind: str = "") -> tuple[str, dict[str, Any]]:
    """Split ``"name"`` or ``{use: name, option: value}`` into name and options.

    Args:
        value: what a recipe says.
        kind: the plugin's kind; a model's name may be a path or a hub id.

    >>> use_of({"use": "kd", "temperature": 5})
    ('kd', {'temperature': 5})
    >>> use_of("./bert", "model")
    ('hf', {'path': './bert'})
    """
    name, options = value, {}
    if isinstance(value, Mapping):
        name = value.get("use")
        options = {key: item for key, item in value.items() if key != "use"}
    if not isinstance(name, str):
        raise UsageError(f"{value!r} names no plugin. Expected a name, or a mapping with 'use: NAME' and options.")
    from nasframe.options import looks_like_path

    if kind in PATHS and "path" not in options and ("/" in name or looks_like_path(name)):
        return PATHS[kind], {"path": name, **options}
    return name, options


def make(kind: str, use: Any, /, inject: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Make a plugin's object from its name and options.

    Args:
        kind: ``space``, ``sampler``, ``trainer``, ``estimator``, ``modifier``, ``transform``, ``task`` or ``model``.
        use: the plugin's name, or ``{"use": name, option: value}``; an object is returned as it is.
        inject: what the framework gives to a factory that asks for it by name (``domain``, ``seed`` …).
        options: the plugin's options; injected arguments may be given here too.

    Returns:
        What the plugin's factory returns.

    Raises:
        UsageError: for an unknown name or option, or a value of the wrong type.
        PluginError: the factory raised something else; it is the cause.
    """
    from nasframe.options import INJECTED, groups_of, map_refs, options_of, validate

    if not isinstance(use, str | Mapping):
        return use
    name, inline = use_of(use, kind)
    options = inline | options
    entry = find(kind, name)
    factory = entry.load()
    parameters = inspect.signature(factory).parameters
    given = {"notify": say, **(inject or {})}
    given |= {key: options.pop(key) for key in INJECTED & options.keys() & parameters.keys()}
    join = options.pop("join", None) if kind == "sampler" else None
    for option, text in reserved_faults(kind, {"join": join}):
        raise UsageError(f"{kind} {name!r}: {option}: {text}")
    if join is not None and "domain" in given:
        given["domain"] = given["domain"].joined(join)
    skip = INJECTED | given.keys()
    checked, faults = validate(options, factory, skip)
    missing = [p for p in parameters.values() if p.name in INJECTED - given.keys() and p.default is p.empty]
    faults += [((p.name,), "missing. The framework gives it in a run; in Python pass it here.") for p in missing]
    if faults:
        raise UsageError("\n".join(f"{kind} {name!r}: {'.'.join(map(str, at))}: {text}" for at, text in faults))
    known = options_of(factory, skip)
    arguments = {key: value for key, value in given.items() if key in parameters}
    for key, value in checked.items():
        if key not in known:
            arguments[key] = value
            continue
        value = map_refs(known[key].annotation, value, lambda kind, use, at: make(kind, use, inject=given))
        group = known[key].group
        (arguments.setdefault(group, {}) if group else arguments)[known[key].parameter] = value
    for group, cls in groups_of(factory).items():
        arguments[group] = cls(**arguments.get(group, {}))
    try:
        made = factory(**arguments)
    except NasframeError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and disk_problem(error):
            raise
        raise PluginError(f"{entry}: making it raised {described(error)}") from error
    home = str(getattr(factory, "__module__", "")).partition(".")[0]
    note(made, Note(str(entry), entry.package, home, built_in=entry.package == "nasframe"))
    return made
