"""Reads a factory's options from its signature and docstring, and checks values against them with pydantic.

Checks are strict in the sense of YAML and JSON: a number in quotes is not a number, a list may stand for a tuple, and a
whole number for a float.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import pydantic
from annotated_types import DocInfo

from nasframe.errors import listing, suggestion
from nasframe.interfaces import FaultFinder, OptionTranslator
from nasframe.records import Ref, Translation

INJECTED = frozenset(
    {
        "domain",
        "seed",
        "costs",
        "tables",
        "config",
        "tokenizer",
        "base",
        "space",
        "saved_head",
        "notify",
        "probe_inputs",
        "auto_class",
    }
)
"""Arguments that the framework gives to factories; see ``nasframe.interfaces``."""
DATA_FILES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt"})
"""Endings by which a text that may be a path is known to be one."""

Fault = tuple[tuple[Any, ...], str]
"""The place of a fault in the options, and a text on it."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a factory.

    Args:
        name: as a recipe writes it.
        annotation: its type.
        default: its default, ``inspect.Parameter.empty`` if it is required.
        doc: its description in the docstring.
        group: the parameter, of a dataclass type, that this option is a field of; ``None`` for a plain parameter.
        parameter: the parameter's name in Python (``from_`` for ``from``).
    """

    name: str
    annotation: Any
    default: Any
    doc: str
    group: str | None
    parameter: str

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    @property
    def type_name(self) -> str:
        """Its type, as short as a reader needs it."""
        return type_name(self.annotation)


def options_of(factory: Callable[..., Any], skip: Iterable[str] = INJECTED, positional: int = 0) -> dict[str, Option]:
    """List a factory's options by name.

    Args:
        factory: a class or a function.
        skip: parameters that are not options.
        positional: how many leading parameters are not options.
    """
    return dict(_options_of(factory, frozenset(skip), positional))


@functools.lru_cache(maxsize=1000)  # a study asks the same of the same factories for every arm
def _options_of(factory: Callable[..., Any], skip: frozenset[str], positional: int) -> dict[str, Option]:
    options: dict[str, Option] = {}
    annotations = _hints(factory)
    docs = arguments_doc(factory)
    parameters = list(inspect.signature(factory).parameters.values())
    for parameter in parameters[positional:]:
        is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.name in skip or is_variadic:
            continue
        annotation = annotations.get(parameter.name, Any)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            # In a recipe its fields stand beside the other options; `registry.make` puts them into one object.
            options |= _fields(annotation, parameter.name)
            continue
        name = parameter.name.rstrip("_")  # from_ is the option from
        doc = docs.get(parameter.name, "")
        options[name] = Option(name, annotation, parameter.default, doc, None, parameter.name)
    return options


def _fields(cls: type, group: str) -> dict[str, Option]:
    """Return the fields of a dataclass as options of the factory that has a parameter of this type."""
    options = options_of(cls, skip=())
    return {name: dataclasses.replace(option, group=group) for name, option in options.items()}


def takes_any(factory: Callable[..., Any]) -> bool:
    """Tell whether a factory takes further keyword arguments of any name."""
    parameters = inspect.signature(factory).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Resolve annotations; one that names a type which is only imported for type checking counts as ``Any``."""
    function: Any = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    # Names in annotations are those of the module of the innermost function, not of a decorator's.
    function = inspect.unwrap(getattr(function, "__func__", function))
    module_names = getattr(function, "__globals__", {})
    annotations = getattr(function, "__annotations__", {})
    hints: dict[str, Any] = {}
    for name, annotation in annotations.items():
        # One at a time, so that a missing name spoils no other annotation.
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, globalns=module_names, include_extras=True)
        except NameError:
            hints[name] = Any
    return hints


ARGS_SECTION = re.compile(r"^Args:\n((?:[ ]{4,}.*\n?|\n)+)", re.MULTILINE)
"""The indented lines, or empty ones, below ``Args:``."""
ARGS_ENTRY = re.compile(r"^ {4}(\w[\w, ]*?)(?: \([^)]*\))?: (.*(?:\n {5,}.*)*)", re.MULTILINE)
"""``name: text``, ``name, other: text`` or ``name (type): text``, over several lines."""


def arguments_doc(factory: Callable[..., Any]) -> dict[str, str]:
    """Return the description of each argument in a docstring's ``Args:`` section.

    >>> def f(a, b):
    ...     '''Do.
    ...
    ...     Args:
    ...         a: the first,
    ...             at length.
    ...         b: the second.
    ...     '''
    >>> arguments_doc(f)
    {'a': 'the first, at length.', 'b': 'the second.'}
    """
    # Both are read, and the class's own text, which comes last, wins.
    texts = [inspect.getdoc(factory) or ""]
    if isinstance(factory, type):
        texts.insert(0, inspect.getdoc(factory.__init__) or "")  # type: ignore[misc]
    docs: dict[str, str] = {}
    for text in texts:
        section = ARGS_SECTION.search(text)
        if section is None:
            continue
        for entry in ARGS_ENTRY.finditer(section.group(1)):
            names, description = entry.groups()
            for name in names.split(","):
                docs[name.strip()] = " ".join(description.split())
    return docs


def summary(factory: Callable[..., Any]) -> str:
    """Return the first sentence-line of a docstring."""
    return (inspect.getdoc(factory) or "").partition("\n")[0]


@functools.lru_cache(maxsize=1000)
def _model_of(factory: Callable[..., Any], skip: frozenset[str], positional: int) -> type[pydantic.BaseModel]:
    """Return the pydantic model of a factory's options."""
    fields: dict[str, Any] = {}
    for option in options_of(factory, skip, positional).values():
        default = ... if option.required else option.default
        field = pydantic.Field(default, alias=option.name, description=option.doc or None)
        fields[_field(option.name)] = (checkable(option.annotation), field)
    name = getattr(factory, "__name__", "options")
    config = pydantic.ConfigDict(
        extra="allow" if takes_any(factory) else "forbid",
        arbitrary_types_allowed=True,  # Python code may pass objects, such as a sampler that is made already
        protected_namespaces=(),
        allow_inf_nan=False,  # YAML can write both, and nothing that a recipe says can mean them
    )
    return pydantic.create_model(name, __config__=config, **fields)


def _field(name: str) -> str:
    """Name the model's field: pydantic refuses ``_x`` and names of its own methods; users only see the alias."""
    is_refused = name.startswith("_") or hasattr(pydantic.BaseModel, name)
    return f"option_{name}" if is_refused else name


def checkable(annotation: Any) -> Any:
    """Return a type that pydantic can check: ``Any`` in place of a class that it does not know."""
    try:
        pydantic.TypeAdapter(annotation)
    except pydantic.errors.PydanticSchemaGenerationError:
        return Any
    return annotation


def unknown_option(name: str, known: Iterable[str], owner: str = "", hint: str = "") -> str:
    """Return a text that says that an option does not exist, which ones do, and which may have been meant.

    Args:
        name: the option.
        known: the names of the options that exist.
        owner: the plugin or stage without such an option, if the reader does not see it.
        hint: a sentence about where it belongs; default: the known option that was probably meant.

    >>> unknown_option("sahpe", ["shape", "stride"], "transform 'conv'")
    "transform 'conv' has no option 'sahpe'. Options: shape, stride. Did you mean 'shape'?"
    """
    names = list(known)
    subject = f"{owner} has" if owner else "there is"
    options = f"Options: {listing(names)}." if names else "There are no options."
    return f"{subject} no option {name!r}. {options}{hint or suggestion(name, names)}"


def translated(options: Mapping[str, Any], factory: Callable[..., Any]) -> Translation:
    """Return options by the names and values of today, with a ``DeprecationWarning`` for each piece of advice."""
    if not isinstance(factory, OptionTranslator):
        return Translation(options)
    translation = factory.translate_options(options)
    for sentence in dict.fromkeys(translation.advice):
        warnings.warn(sentence, DeprecationWarning, stacklevel=2)
    return translation


def renamed(owner: str, options: Mapping[str, Any], names: Mapping[str, str]) -> Translation:
    """Translate options that have other names now. If an option is given by both names, neither hides the other.

    Args:
        owner: the plugin, for the advice.
        options: the options as a recipe has them.
        names: old name → the name of today.

    >>> translation = renamed("modifier 'shrink'", {"until": "50%"}, {"until": "ramp_end"})
    >>> translation.options, translation.advice
    ({'ramp_end': '50%'}, ("modifier 'shrink': until is deprecated; it is 'ramp_end' now.",))
    >>> renamed("modifier 'shrink'", {"until": 1, "ramp_end": 2}, {"until": "ramp_end"}).faults
    {'until': "is the old name of 'ramp_end', which is given, too. Expected only 'ramp_end'."}
    """
    today = {name: value for name, value in options.items() if name not in names}
    advice: list[str] = []
    faults: dict[str, str] = {}
    former: dict[str, str] = {}
    for old, new in names.items():
        if old not in options:
            continue
        if new in today:
            faults[old] = f"is the old name of {new!r}, which is given, too. Expected only {new!r}."
        else:
            today[new] = options[old]
            former[new] = old
            advice.append(f"{owner}: {old} is deprecated; it is {new!r} now.")
    return Translation(today, tuple(advice), faults, former)


def validate(
    options: Mapping[str, Any],
    factory: Callable[..., Any],
    skip: Iterable[str] = INJECTED,
    positional: int = 0,
    unknown: Callable[[str, Iterable[str]], str] = unknown_option,
) -> tuple[dict[str, Any], list[Fault]]:
    """Check options against a factory's signature.

    Args:
        options: option → value, as a recipe has them; those of earlier versions are translated.
        factory: a class or a function.
        skip: parameters that are not options.
        positional: how many leading parameters are not options.
        unknown: (name, names of the options) → the text about an option that the factory does not have.

    Returns:
        The checked options in their types, without defaults, and every fault, by the names that were written.
    """
    known = options_of(factory, skip, positional)
    loose = takes_any(factory)
    translation = translated(options, factory)
    options = translation.options
    faults: list[Fault] = [((name,), text) for name, text in translation.faults.items()]
    usable: dict[str, Any] = {}
    for name, value in options.items():
        if name in known or loose:
            usable[name] = value
        else:  # reported here with suggestions, which pydantic does not make
            faults.append(((name,), unknown(name, known)))
    if isinstance(factory, FaultFinder):  # it knows more than its signature says
        faults += factory.faults(usable)
    model = _model_of(factory, frozenset(skip), positional)
    values: dict[str, Any] = {}
    try:
        checked = _check(model, usable)
    except pydantic.ValidationError as error:
        faults += _faults(error, usable, known)
    else:
        for name in usable:
            field = _field(name) if name in known else name
            values[name] = getattr(checked, field)
    return values, [(translation.as_written(place), text) for place, text in faults]


def _check(model: type[pydantic.BaseModel], options: Mapping[str, Any]) -> pydantic.BaseModel:
    """Validate options as JSON, whose strict mode is YAML's: lists fill tuples, but text is no number."""
    try:
        text = json.dumps(options, default=_json_plain)
    except (TypeError, ValueError):  # objects, which only Python code can pass: they are checked as they are
        return model.model_validate(options)
    return model.model_validate_json(text, strict=True)


def _json_plain(value: Any) -> Any:
    """Return a value that JSON does not have as one that it has, as ``json.dumps`` asks for it."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, Iterator):  # reading an iterator would use it up
        return list(value)
    raise TypeError(type(value).__name__)


def _faults(error: pydantic.ValidationError, options: Mapping[str, Any], known: Mapping[str, Option]) -> list[Fault]:
    """Return one fault for each option: pydantic lists several for a union, one for each of its branches."""
    entries_by_option: dict[str, list[Any]] = {}
    for entry in error.errors(include_url=False, include_context=False):
        name = str(entry["loc"][0]) if entry["loc"] else ""
        entries_by_option.setdefault(name, []).append(entry)
    faults: list[Fault] = []
    for name, entries in entries_by_option.items():
        option = known.get(name)
        if option is None:
            faults.append(((name,), entries[0]["msg"]))
        else:
            faults.append(_fault(option, entries, options))
    return faults


def _fault(option: Option, entries: Sequence[Any], options: Mapping[str, Any]) -> Fault:
    """Describe what is wrong with an option by pydantic's entries about it, of which the first one counts most."""
    name = option.name
    first = entries[0]
    if first["type"] == "missing" and len(first["loc"]) == 1:
        description = f": {option.doc}" if option.doc else "."
        return (name,), f"missing. Expected {option.type_name}{description}"
    # The branch of a union that got farthest into the value is the one that was meant.
    places = [_inside(options, entry["loc"]) for entry in entries]
    place = max(places, key=len)
    if len(place) <= 1:
        place = (name,)
    if first["type"] in ("value_error", "assertion_error"):  # the type has its own check, whose text says more
        return place, first["msg"]
    return place, _mismatch(option, entries, options, place)


def _mismatch(option: Option, entries: Sequence[Any], options: Mapping[str, Any], place: tuple[Any, ...]) -> str:
    """Say that a value, or the part of it at ``place``, is not of the option's type."""
    name = option.name
    value = options.get(name)
    # A wrong key of a mapping has the path (…, key, "[key]"); then the whole mapping is shown, not a value in it.
    locations = [entry["loc"] for entry in entries]
    wrong_keys = [location[-2] for location in locations if location[-1:] == ("[key]",)]
    if len(place) > 1 and not wrong_keys:
        part = _value_at(options, place)
        text = f"{_shown(part)} does not fit. Expected {option.type_name} in {name!r}."
    else:
        text = f"{_shown(value)} does not fit. Expected {option.type_name}."
    misspelled = wrong_keys[-1] if wrong_keys else value
    text += suggestion(misspelled, _words(option.annotation))
    if value is None and name in options and not option.required:
        text += " Leave it out for its default; '~' before its path takes away what another recipe gives."
    return text


def _inside(options: Mapping[str, Any], place: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the parts of a place that name a part of the value; pydantic's others name branches of its type."""
    value: Any = options
    path: list[Any] = []
    for part in place:
        in_mapping = isinstance(value, Mapping) and part in value
        in_list = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        if in_mapping or in_list:
            path.append(part)
            value = value[part]
    return tuple(path)


def _value_at(options: Any, path: tuple[Any, ...]) -> Any:
    value = options
    for part in path:
        value = value[part]
    return value


def _words(annotation: Any) -> list[str]:
    """Return the words that a type allows, those of a mapping's keys too.

    >>> _words(dict[typing.Literal["heads", "ffn"], float] | None)
    ['heads', 'ffn']
    """
    if typing.get_origin(annotation) is typing.Literal:
        return [word for word in typing.get_args(annotation) if isinstance(word, str)]
    words = []
    for part in typing.get_args(annotation):
        words += _words(part)
    return words


def _shown(value: Any) -> str:
    """Write a value in at most 60 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


NAMED_TYPES: dict[Any, str] = {type(None): "null", Any: "any", bool: "true or false", str: "text", Path: "path"}
"""Types that a reader of YAML knows under other names."""


def type_name(annotation: Any) -> str:
    """Write a type as a user of YAML reads it.

    >>> type_name(float | None)
    'float or null'
    >>> type_name(typing.Literal["first", "spread"])
    "'first' or 'spread'"
    >>> type_name(list[int])
    'list of int'
    >>> type_name(dict[typing.Literal["heads", "ffn"], float])
    'mapping {heads, ffn} of float'
    >>> from annotated_types import Ge, Le, Lt
    >>> type_name(Annotated[int, Ge(1), Le(1000000)]), type_name(Annotated[float, Ge(0), Lt(1)])
    ('int from 1 to 1e6', 'float from 0 to below 1')
    """
    if isinstance(annotation, type) and annotation in NAMED_TYPES:
        return NAMED_TYPES[annotation]
    # `dict[str, int]` has the origin dict and the parts str and int; a plain class has neither.
    origin = typing.get_origin(annotation)
    parts = typing.get_args(annotation)
    if origin is Annotated:
        return _annotated_name(parts[0], parts[1:])
    if origin is typing.Literal:
        return " or ".join(map(repr, parts))
    if _is_union(annotation):
        return " or ".join(map(type_name, parts))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        words = _words(parts[0])
        keys = f" {{{', '.join(words)}}}" if words else ""
        return f"mapping{keys} of {type_name(parts[1])}"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"list of {type_name(parts[0])}"
    return getattr(annotation, "__name__", str(annotation))


def _annotated_name(annotation: Any, marks: Sequence[Any]) -> str:
    """Write a type with marks: a plugin, a type with words of its own, or a number with bounds."""
    ref = _ref_of(marks)
    if ref is not None:
        return f"{ref.kind} plugin"
    for mark in marks:
        if isinstance(mark, DocInfo):
            return mark.documentation
    return type_name(annotation) + _bounds_name(marks)


def _ref_of(marks: Iterable[Any]) -> Ref | None:
    """Return the mark that makes a type the name of a plugin."""
    return next((mark for mark in marks if isinstance(mark, Ref)), None)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


@dataclasses.dataclass(frozen=True)
class NumberBounds:
    """The bounds of a numeric type, ``None`` for those that it does not have.

    Args:
        least: the smallest number allowed.
        above: all allowed numbers are above this one.
        most: the largest number allowed.
        below: all allowed numbers are below this one.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None


def number_bounds(marks: Iterable[Any]) -> NumberBounds:
    """Return the bounds in the marks of an ``Annotated`` number; if there are two of one kind, the last one counts.

    >>> from annotated_types import Ge, Lt
    >>> number_bounds([Ge(0), Lt(1)])
    NumberBounds(least=0, above=None, most=None, below=1)
    """
    attributes = {"least": "ge", "above": "gt", "most": "le", "below": "lt"}  # of annotated_types.Ge, Gt, Le and Lt
    values: dict[str, float | None] = {}
    for mark in marks:
        for field, attribute in attributes.items():
            value = getattr(mark, attribute, None)
            if value is not None:
                values[field] = value
    return NumberBounds(**values)


def _bounds_name(marks: Iterable[Any]) -> str:
    """Write the bounds in a number's marks, as in `` from 0 to below 1``; empty if it has none."""
    bounds = number_bounds(marks)
    low = ""
    high = ""
    if bounds.least is not None:
        low = f" from {_short(bounds.least)}"
    if bounds.above is not None:
        low = f" above {_short(bounds.above)}"
    if bounds.most is not None:
        joint = "to" if bounds.above is None else "and at most"
        high = f" {joint} {_short(bounds.most)}"
    if bounds.below is not None:
        high = f" to below {_short(bounds.below)}"
    return low + high


def _short(number: float) -> str:
    """Write a bound as briefly as YAML reads it.

    >>> _short(0), _short(1024), _short(10**9)
    ('0', '1024', '1e9')
    """
    text = f"{number:g}"  # 1e9 is "1e+09"
    return re.sub(r"e\+?(-?)0*", r"e\1", text)


Visit = Callable[[str, Any, tuple[Any, ...]], Any]
"""(kind of plugin, reference as written, its path in the option) → what replaces the reference."""


def map_refs(annotation: Any, value: Any, visit: Visit, at: tuple = ()) -> Any:
    """Replace every plugin reference inside an option's value by ``visit(kind, value, path)``.

    A reference is marked by ``Annotated[Any, Ref(kind)]``, possibly inside a list, a mapping or an optional type.
    """
    origin = typing.get_origin(annotation)
    parts = typing.get_args(annotation)
    if origin is Annotated:
        ref = _ref_of(parts[1:])
        if ref is None or value is None:
            return map_refs(parts[0], value, visit, at)
        return visit(ref.kind, value, at)
    if _is_union(annotation):  # parts that do not fit leave the value as it is
        for part in parts:
            value = map_refs(part, value, visit, at)
        return value
    if isinstance(origin, type) and parts:
        return _map_items(origin, parts, value, visit, at)
    return value


def _map_items(origin: type, parts: Sequence[Any], value: Any, visit: Visit, at: tuple) -> Any:
    """Apply :func:`map_refs` to the items of a mapping or a list; a value of another type is left to validation."""
    if isinstance(value, Mapping) and issubclass(origin, Mapping):
        return {key: map_refs(parts[1], item, visit, (*at, key)) for key, item in value.items()}
    if isinstance(value, list) and issubclass(origin, Iterable):
        return [map_refs(parts[0], item, visit, (*at, number)) for number, item in enumerate(value)]
    return value


def groups_of(factory: Callable[..., Any]) -> dict[str, type]:
    """Return the parameters of a dataclass type, whose fields are options, with the dataclass."""
    parameters = inspect.signature(factory).parameters
    groups = {}
    for name, annotation in _hints(factory).items():
        is_group = isinstance(annotation, type) and dataclasses.is_dataclass(annotation)
        if name in parameters and is_group:
            groups[name] = annotation
    return groups


def is_path(annotation: Any) -> bool:
    """Tell whether an option is a path, or a text that may be one; it may be optional.

    >>> is_path(Path | None), is_path(Path | str), is_path(str)
    (True, True, False)
    """
    return Path in _parts(annotation)


def must_exist(annotation: Any, value: str) -> bool:
    """Tell whether a path must exist. If it may also be another text, it must exist if it looks like a path.

    >>> must_exist(Path, "data"), must_exist(Path | str, "org/name"), must_exist(Path | str, "a.csv")
    (True, False, True)
    """
    is_always_a_path = str not in _parts(annotation)
    return is_always_a_path or Path(value).suffix in DATA_FILES or looks_like_path(value)


def looks_like_path(text: str) -> bool:
    """Tell whether a text can only be a path: it is neither a name nor a hub id, which has one slash at most.

    >>> [looks_like_path(text) for text in ("./net", "/data/net", "~/net", "a/b/c", "org/name", "name")]
    [True, True, True, True, False, False]
    """
    if text.startswith((".", "/", "~")) or text.endswith("/"):
        return True
    return text == "" or text.count("/") > 1 or "\\" in text


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type itself."""
    return typing.get_args(annotation) if _is_union(annotation) else (annotation,)


def plain_default(option: Option) -> Any:
    """Return an option's default as YAML can write it, or ``None`` if there is none, or none that YAML can write.

    >>> plain_default(options_of(lambda shape=(1, 2): 0)["shape"])
    [1, 2]
    """
    if option.required:
        return None
    try:
        return json.loads(json.dumps(option.default, default=_json_plain))
    except (TypeError, ValueError):
        return None


def ref_kind(annotation: Any) -> str:
    """Return the kind of plugin that an option names, empty if it names none."""
    kinds: list[str] = []
    map_refs(annotation, "", lambda kind, value, at: kinds.append(kind))
    return kinds[0] if kinds else ""
