"""Finds what plugins register, and makes it: kind and name in, object out.

:mod:`nasframe.plugin_loading` loads the plugins; its functions are reached through this module. Every function here
asks the loaded plugins again, so that it sees the one-file plugins of the current recipe and those of no other.
``nasframe.options`` is imported inside functions: it needs pydantic, and names alone can be listed without.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import hookspecs
from nasframe.errors import NasframeError, PluginError, UsageError, listing, suggestion
from nasframe.interfaces import JoinableDomain, SamplerTraits, TaskFactoryTraits, traits_of
from nasframe.notices import say
from nasframe.plugin_errors import Note, described, naming_plugins, note
from nasframe.plugin_loading import (
    Failure,
    Implementation,
    Source,
    add_file,
    all_files,
    file_plugins,
    implementations,
    is_visible,
    plugin_manager,
    plugins,
    visible_files,
)
from nasframe.storage import disk_problem

if TYPE_CHECKING:
    from torch import nn

    from nasframe.errors import Problem
    from nasframe.records import FileKind

__all__ = [
    "KINDS",
    "Failure",
    "Implementation",
    "Registered",
    "Source",
    "add_file",
    "check_file",
    "clash",
    "factories",
    "failures",
    "file_faults",
    "file_kind",
    "file_plugins",
    "find",
    "implementations",
    "is_visible",
    "make",
    "make_model",
    "model_facts",
    "plugin_manager",
    "plugins",
    "plural",
    "refuse_domain",
    "registrations",
    "reserved_faults",
    "use_of",
    "visible_files",
]  # fmt: skip

KINDS = (
    "space", "sampler", "trainer", "estimator", "evaluator", "modifier", "transform", "task", "model", "exporter",
    "family", "observer",
)  # fmt: skip
PLURALS = {"family": "families"}
RESERVED = {"sampler": ("join",)}
"""Options that the framework itself understands on every plugin of a kind."""
PATHS = {"model": "hf"}
"""Kind → the plugin that loads a path written in place of a name: it takes the path as its option ``path``."""


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
    def api(self) -> int:
        """The version of the plugin API that its plugin was made for."""
        plugin = plugin_manager().get_plugin(self.plugin)
        version: int = getattr(plugin, "PLUGIN_API", hookspecs.PLUGIN_API)
        return version

    @property
    def package(self) -> str:
        """The package that registers it."""
        return self.source.package

    def __str__(self) -> str:
        package = f"{self.source.package} {self.source.version}".rstrip()
        return f"{self.kind} {self.name!r} ({package})"

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
        """Return what a target names; one that is no text is the thing itself."""
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        try:
            item: Any = importlib.import_module(module)
            for name in attribute.split("."):  # "Class.method" is allowed
                item = getattr(item, name)
            return item
        except (Exception, SystemExit) as error:
            cause = described(error)
            if self.source.file and module == Path(self.source.file).stem:
                cause += f". A one-file plugin registers the object itself: register({self.name!r}, {attribute})."
            raise UsageError(f"{self.kind} {self.name!r} of {self.source} cannot be loaded: {cause}") from error


def file_faults(path: Path) -> list[str]:
    """List what is wrong with the names of a one-file plugin: hooks that raise, names that another plugin has too."""
    faults = []
    for kind in KINDS:
        for entry in registrations(kind):
            if isinstance(entry, Failure) and entry.source.file == str(path):
                faults.append(entry.cause)
        for name, entries in _clashes(kind).items():
            sources = [entry.source for entry in entries]
            if any(source.file == str(path) for source in sources):
                faults.append(clash(kind, name, sources))
    return faults


def registrations(kind: str) -> Iterator[Registered | Failure]:
    """Ask every plugin that may be found for its names of a kind; a plugin whose hook raises yields a failure."""
    hook = f"register_{plural(kind)}"
    for implementation in implementations(hook):
        entries: list[Registered] = []
        try:
            implementation.call(register=_register_into(entries, kind, implementation))
        except (Exception, SystemExit) as error:
            yield Failure(implementation.plugin, implementation.source, f"{hook}: {described(error)}")
        yield from entries  # the names that came before the error are good


def plural(kind: str) -> str:
    """Return the plural of a kind, as hooks and modules of contracts are named.

    >>> plural("space"), plural("family")
    ('spaces', 'families')
    """
    return PLURALS.get(kind, f"{kind}s")


def _register_into(entries: list[Registered], kind: str, implementation: Implementation) -> hookspecs.Register:
    """Return the function ``register`` that a hook is given; it adds to ``entries``."""

    def register(name: str, factory: Any, example: Mapping[str, Any] | str | None = None) -> None:
        entries.append(Registered(kind, name, factory, implementation.plugin, implementation.source, example))

    return register


def check_file(source: str, overrides: Sequence[str]) -> Sequence[Problem] | None:
    """Return the problems that a plugin finds in a file of its own; ``None`` if no plugin knows such files.

    Raises:
        PluginError: a plugin raised; the text names it.
    """
    for implementation in implementations("check_file"):
        with naming_plugins(f"{implementation}: check_file"):
            problems: Sequence[Problem] | None = implementation.call(source=source, overrides=overrides)
        if problems is not None:
            return problems
    return None


def model_facts(net: nn.Module) -> dict[str, Any]:
    """Return the facts that plugins add about a network, for reports and model cards.

    Args:
        net: the network.

    Returns:
        Name → a JSON-plain value.

    Raises:
        PluginError: a plugin raised, returned a value that JSON does not have, or a name that another one uses, too.
    """
    facts: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for implementation in implementations("model_facts"):
        with naming_plugins(f"{implementation}: model_facts"):
            rows = implementation.call(net=net)
        for row in rows:  # pluggy leaves out None
            for name, value in _plain_facts(row, implementation).items():
                if name in facts:
                    text = f"model_facts: {name!r} is said by both {sources[name]} and {implementation.source}"
                    raise PluginError(f"{text}; rename or remove one")
                facts[name] = value
                sources[name] = implementation.source
    return facts


def _plain_facts(row: Any, implementation: Implementation) -> dict[str, Any]:
    """Return facts as JSON writes them."""
    expected = "Expected a mapping from names to text, numbers, lists or mappings of them"
    has_names = isinstance(row, Mapping) and all(isinstance(name, str) for name in row)
    if not has_names:
        raise PluginError(f"{implementation}: model_facts returned {row!r}. {expected}, or None.")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(row), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PluginError(f"{implementation}: model_facts: {error}. {expected}.") from error
    return plain


def file_kind(source: str) -> FileKind | None:
    """Return a plugin's description of a file that is not a recipe, ``None`` if no plugin knows such files.

    Raises:
        PluginError: a plugin raised; the text names it.
    """
    for implementation in implementations("file_kind"):
        with naming_plugins(f"{implementation}: file_kind"):
            kind: FileKind | None = implementation.call(source=source)
        if kind is not None:
            return kind
    return None


def factories(kind: str) -> dict[str, Registered]:
    """Return the registered plugins of a kind, by name; a name that two plugins claim is left out.

    Args:
        kind: one of ``KINDS``.
    """
    unique = {}
    for name, entries in sorted(_claims(kind).items()):
        if len(entries) == 1:  # of two, nobody can tell which one a recipe means
            unique[name] = entries[0]
    return unique


def _claims(kind: str) -> dict[str, list[Registered]]:
    """Return all registrations of each name of a kind."""
    if kind not in KINDS:
        raise UsageError(f"unknown kind of plugin {kind!r}. Kinds: {listing(KINDS)}.{suggestion(kind, KINDS)}")
    claims: dict[str, list[Registered]] = {}
    for entry in registrations(kind):
        if isinstance(entry, Registered):
            claims.setdefault(entry.name, []).append(entry)
    return claims


def _clashes(kind: str) -> dict[str, list[Registered]]:
    """Return the registrations of each name of a kind that more than one plugin claims."""
    return {name: entries for name, entries in _claims(kind).items() if len(entries) > 1}


def failures() -> list[Failure]:
    """List everything that cannot be used: plugins that did not load, hooks that raise, names claimed twice."""
    failed = list(plugins().failures)
    for kind in KINDS:
        failed += [entry for entry in registrations(kind) if isinstance(entry, Failure)]
        for name, entries in _clashes(kind).items():
            text = clash(kind, name, [entry.source for entry in entries])
            failed.append(Failure(entries[0].plugin, entries[0].source, text))
    return failed


def clash(kind: str, name: str, sources: Iterable[Source]) -> str:
    """Return a text that says that a name of a kind is claimed more than once.

    >>> clash("task", "reviews", [Source("first", "1.0"), Source("second", "0.2")])
    "task 'reviews' is registered by both first 1.0 and second 0.2; rename or remove one"
    """
    both = " and ".join(map(str, sources))
    return f"{kind} {name!r} is registered by both {both}; rename or remove one"


def find(kind: str, name: str) -> Registered:
    """Look up one name.

    Raises:
        UsageError: no plugin or more than one registers it; the text lists the known names and the nearest one.
    """
    entries = _claims(kind).get(name, [])
    if len(entries) == 1:
        return entries[0]
    if entries:
        raise UsageError(clash(kind, name, [entry.source for entry in entries]))
    known = factories(kind)
    hint = _where_it_may_be(kind, name) or suggestion(name, known)
    raise UsageError(f"unknown {kind} {name!r}. There are: {listing(known)}.{hint}")


def _where_it_may_be(kind: str, name: str) -> str:
    """Return a sentence on where an unknown name of a kind exists, empty if it exists nowhere."""
    other_kinds = [other for other in KINDS if other != kind and name in factories(other)]
    if kind in PATHS and not other_kinds:
        near = suggestion(name, factories(kind))
        return (
            f"{near} A directory is written as a path, ./{name}; a name of the hub as "
            f"{{use: {PATHS[kind]}, path: {name}}}."
        )
    file = _unnamed_file(kind, name)
    if file is not None:
        return f" {file} registers it, but 'plugins:' does not name that file here."
    if other_kinds:
        article = "an" if other_kinds[0][0] in "aeiou" else "a"
        return f" {name!r} is {article} {other_kinds[0]}."
    return ""


def _unnamed_file(kind: str, name: str) -> str | None:
    """Find a one-file plugin of another recipe that registers a name."""
    with all_files():
        entries = _claims(kind).get(name, [])
    return entries[0].source.file if entries else None


def reserved_faults(kind: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Check the options that the framework itself understands on every plugin of a kind.

    Args:
        kind: the plugin's kind.
        options: the options in the recipe; ``None`` switches one off.

    Yields:
        Each option that does not fit, and why.

    >>> [name for name, _ in reserved_faults("sampler", {"join": ""})], list(reserved_faults("sampler", {"join": None}))
    (['join'], [])
    """
    expected = "Expected a name such as layer, a mapping of names to lists of knobs, or null for none."
    for name in RESERVED.get(kind, ()):
        value = options.get(name)
        if value is not None and not _names_groups(value):
            yield name, f"{value!r} does not fit. {expected}"


def _names_groups(value: Any) -> bool:
    """Tell whether a value of ``join`` is a name, or a mapping of names to lists of knobs."""
    if isinstance(value, Mapping):
        return bool(value) and all(_is_list_of_names(knobs) for knobs in value.values())
    return isinstance(value, str) and value != ""


def _is_list_of_names(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and all(isinstance(item, str) for item in value)


def use_of(value: Any, kind: str = "") -> tuple[str, dict[str, Any]]:
    """Split ``"name"`` or ``{use: name, option: value}`` into name and options.

    Args:
        value: the plugin as a recipe names it.
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

    may_be_path = kind in PATHS and "path" not in options
    if may_be_path and ("/" in name or looks_like_path(name)):
        return PATHS[kind], {"path": name, **options}
    return name, options


def make(kind: str, use: Any, /, inject: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Make a plugin's object from its name and options.

    Args:
        kind: ``space``, ``sampler``, ``trainer``, ``estimator``, ``evaluator``, ``modifier``, ``transform``, ``task``,
            ``model``, ``exporter``, ``family`` or ``observer``.
        use: the plugin's name, or ``{"use": name, option: value}``; an object is returned as it is.
        inject: arguments from the framework, for a factory that asks for them by name (``domain``, ``seed`` …).
        options: the plugin's options; injected arguments may be given here too.

    Returns:
        What the plugin's factory returns.

    Raises:
        UsageError: for an unknown name or option, or a value of the wrong type.
        PluginError: the factory raised something else; it is the cause.
    """
    if not isinstance(use, str | Mapping):
        return use
    name, inline = use_of(use, kind)
    entry = find(kind, name)
    factory = entry.load()
    remaining = {**inline, **options}
    # Both take out of the options what the factory does not get as an option, so the rest can be checked.
    injected = _injected(factory, inject or {}, remaining)
    if kind == "sampler":
        if "domain" in injected:
            refuse_domain(f"sampler {name!r}", injected["domain"], traits_of(SamplerTraits, factory).needs)
        _join_knobs(name, injected, remaining)
    checked = _checked(f"{kind} {name!r}", factory, injected, remaining)
    arguments = _arguments(factory, injected, checked)
    plugin = _called(entry, factory, arguments)
    # Noted with the module of the factory's code: an error in a helper of that package is this plugin's, too.
    home, _, _ = str(getattr(factory, "__module__", "")).partition(".")
    made_with = json.dumps({"use": name, **checked}, sort_keys=True, default=str)
    note(plugin, Note(str(entry), entry.package, home, entry.package == "nasframe", made_with))
    return plugin


def make_model(model: Any, task: Any, inject: Mapping[str, Any]) -> Any:
    """Make a recipe's model, with the head that the recipe's task needs.

    Args:
        model: the model, as a recipe names it.
        task: the task likewise; ``None`` if it is not known.
        inject: further arguments from the framework.
    """
    name = use_of(task)[0] if task else ""
    traits = TaskFactoryTraits()
    if name in factories("task"):
        traits = traits_of(TaskFactoryTraits, find("task", name).load())
    return make("model", model, {"auto_class": traits.auto_class, **inject})


def _injected(factory: Callable[..., Any], inject: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return what the framework gives to a factory, and take out of ``options`` what Python code gives in its place."""
    from nasframe.options import INJECTED

    injected = {"notify": say, **inject}
    for name in inspect.signature(factory).parameters:
        if name in INJECTED and name in options:
            injected[name] = options.pop(name)
    return injected


def refuse_domain(sampler: str, domain: Any, needs: Iterable[str]) -> None:
    """Make sure that a domain has the optional members that a sampler needs.

    Args:
        sampler: the sampler in a sentence, ``sampler 'grid'``.
        domain: what it is to propose from.
        needs: names of members of domains.

    Raises:
        UsageError: the domain lacks some of them; names the samplers that would work with it.
    """
    lacking = [name for name in needs if not hasattr(domain, name)]
    if not lacking:
        return
    members = " and ".join(map(repr, lacking))
    sentence = f"{sampler} needs a domain with {members}, which {type(domain).__name__} does not have."
    raise UsageError(f"{sentence} Samplers for this domain: {listing(_samplers_for(domain)) or 'none'}.")


def _samplers_for(domain: Any) -> list[str]:
    """Return the names of the samplers that need nothing that a domain lacks."""
    names = []
    for name, entry in factories("sampler").items():
        try:
            needs = traits_of(SamplerTraits, entry.load()).needs
        except UsageError:  # of a library that is not installed
            continue
        if all(hasattr(domain, member) for member in needs):
            names.append(name)
    return names


def _join_knobs(name: str, injected: dict[str, Any], options: dict[str, Any]) -> None:
    """Replace a sampler's domain by the joined one if the options have ``join``, which the framework understands."""
    groups = options.pop("join", None)
    for option, text in reserved_faults("sampler", {"join": groups}):
        raise UsageError(f"sampler {name!r}: {option}: {text}")
    if groups is None or "domain" not in injected:
        return
    domain = injected["domain"]
    if not isinstance(domain, JoinableDomain):
        text = f"{type(domain).__name__} cannot join knobs. Expected a space whose domain has 'joined', or no 'join'."
        raise UsageError(f"sampler {name!r}: join: {text}")
    injected["domain"] = domain.joined(groups)


def _checked(
    plugin: str, factory: Callable[..., Any], injected: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options in the factory's types.

    Raises:
        UsageError: an option does not fit, or an injected argument is missing; lists every fault.
    """
    from nasframe.options import INJECTED, validate

    checked, faults = validate(options, factory, INJECTED | injected.keys())
    for parameter in inspect.signature(factory).parameters.values():
        is_missing = parameter.name in INJECTED and parameter.name not in injected
        if is_missing and parameter.default is parameter.empty:
            text = "missing. The framework gives it in a run; in Python pass it here."
            faults.append(((parameter.name,), text))
    if faults:
        lines = [f"{plugin}: {'.'.join(map(str, place))}: {text}" for place, text in faults]
        raise UsageError("\n".join(lines))
    return checked


def _arguments(factory: Callable[..., Any], injected: Mapping[str, Any], checked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a factory's arguments: nested plugins are made, and options of a dataclass are put into one."""
    from nasframe.options import INJECTED, groups_of, map_refs, options_of

    parameters = inspect.signature(factory).parameters
    groups = groups_of(factory)
    fields: dict[str, dict[str, Any]] = {name: {} for name in groups}
    arguments = {name: value for name, value in injected.items() if name in parameters}
    options = options_of(factory, INJECTED | injected.keys())

    def made(kind: str, use: Any, place: tuple[Any, ...]) -> Any:
        return make(kind, use, inject=injected)

    for name, value in checked.items():
        option = options.get(name)
        if option is None:  # the factory takes any keyword
            arguments[name] = value
            continue
        holder = arguments if option.group is None else fields[option.group]
        holder[option.parameter] = map_refs(option.annotation, value, made)
    for name, cls in groups.items():
        arguments[name] = cls(**fields[name])
    return arguments


def _called(entry: Registered, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a factory.

    Raises:
        PluginError: it raised something that is not meant for users; it is the cause.
    """
    try:
        return factory(**arguments)
    except NasframeError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and disk_problem(error):  # a full disk is not the plugin's fault
            raise
        raise PluginError(f"{entry}: making it raised {described(error)}") from error
