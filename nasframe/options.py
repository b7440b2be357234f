"""A factory's signature is its options: their types, defaults and meaning, as a pydantic model.

Strict, as YAML and JSON mean it: a number in quotes is not a number, a list may fill a tuple, a whole number may
fill a float.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union

import pydantic
from annotated_types import DocInfo

from nasframe.errors import listing, suggestion
from nasframe.records import Ref

INJECTED = frozenset({"domain", "seed", "costs", "config", "tokenizer", "base", "space", "saved_head", "notify"})
"""Arguments that the framework gives to factories; see ``nasframe.interfaces``."""
DATA_FILES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt"})

Fault = tuple[tuple[Any, ...], str]
"""Where in the options something is wrong, and what."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a factory.

    Args:
        name: as a recipe writes it.
        annotation: its type.
        default: its default, ``inspect.Parameter.empty`` where it must be given.
        doc: what the docstring says of it.
        group: the parameter of a dataclass type that this option is a field of, or ``None``.
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
    found: dict[str, Option] = {}
    hints, docs = _hints(factory), arguments_doc(factory)
    for parameter in list(inspect.signature(factory).parameters.values())[positional:]:
        if parameter.name in skip or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = hints.get(parameter.name, Any)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            found |= _fields(annotation, parameter.name)
            continue
        name = parameter.name.rstrip("_")
        found[name] = Option(name, annotation, parameter.default, docs.get(parameter.name, ""), None, parameter.name)
    return found


def _fields(cls: type, group: str) -> dict[str, Option]:
    return {name: dataclasses.replace(option, group=group) for name, option in options_of(cls, skip=()).items()}


def takes_any(factory: Callable[..., Any]) -> bool:
    """Tell whether a factory takes further keyword arguments, whatever their names."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Resolve annotations; one that names what is only imported for type checking counts as ``Any``."""
    function: Any = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    function = inspect.unwrap(getattr(function, "__func__", function))
    names = getattr(function, "__globals__", {})
    found: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            found |= typing.get_type_hints(holder, globalns=names, include_extras=True)
        except NameError:
            found[name] = Any
    return found


def arguments_doc(factory: Callable[..., Any]) -> dict[str, str]:
    """Read what a docstring's ``Args:`` section says of each argument.

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
    own = inspect.getdoc(factory) or ""
    initial = inspect.getdoc(factory.__init__) or "" if isinstance(factory, type) else ""  # type: ignore[misc]
    found: dict[str, str] = {}
    for text in (initial, own):
        section = re.search(r"^Args:\n((?:[ ]{4,}.*\n?|\n)+)", text, re.MULTILINE)
        body = section.group(1) if section else ""
        for match in re.finditer(r"^ {4}(\w[\w, ]*?)(?: \([^)]*\))?: (.*(?:\n {5,}.*)*)", body, re.MULTILINE):
            for name in match.group(1).split(","):
                found[name.strip()] = " ".join(match.group(2).split())
    return found


def summary(factory: Callable[..., Any]) -> str:
    """Return the first sentence-line of a docstring."""
    return (inspect.getdoc(factory) or "").partition("\n")[0]


@functools.lru_cache(maxsize=1000)
def _model_of(factory: Callable[..., Any], skip: frozenset[str], positional: int) -> type[pydantic.BaseModel]:
    return _model(options_of(factory, skip, positional), takes_any(factory), getattr(factory, "__name__", "options"))


def _model(options: Mapping[str, Option], loose: bool, name: str) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {}
    for option in options.values():
        default = ... if option.required else option.default
        described = pydantic.Field(default, alias=option.name, description=option.doc or None)
        fields[_field(option.name)] = (checkable(option.annotation), described)
    config = pydantic.ConfigDict(
        extra="allow" if loose else "forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )
    return pydantic.create_model(name, __config__=config, **fields)


def _field(name: str) -> str:
    """Name the model's field: pydantic refuses ``_x`` and names of its own methods; users only see the alias."""
    return f"option_{name}" if name.startswith("_") or hasattr(pydantic.BaseModel, name) else name


def checkable(annotation: Any) -> Any:
    """Keep what pydantic can check; a class it knows nothing of counts as ``Any``."""
    try:
        pydantic.TypeAdapter(annotation)
    except pydantic.errors.PydanticSchemaGenerationError:
        return Any
    return annotation


def unknown_option(name: str, known: Iterable[str], owner: str = "", hint: str = "") -> str:
    """Say that there is no option of this name, which there are, and which may have been meant.

    Args:
        name: the option.
        known: the names of those that there are.
        owner: what has no such option, if the reader does not see it.
        hint: a sentence about where it belongs; default: which of the others has nearly this name.

    >>> unknown_option("sahpe", ["shape", "stride"], "transform 'conv'")
    "transform 'conv' has no option 'sahpe'. Options: shape, stride. Did you mean 'shape'?"
    """
    names = list(known)
    subject = f"{owner} has" if owner else "there is"
    options = f"Options: {listing(names)}." if names else "There are no options."
    return f"{subject} no option {name!r}. {options}{hint or suggestion(name, names)}"


def validate(
    options: Mapping[str, Any],
    factory: Callable[..., Any],
    skip: Iterable[str] = INJECTED,
    positional: int = 0,
    unknown: Callable[[str, Iterable[str]], str] = unknown_option,
) -> tuple[dict[str, Any], list[Fault]]:
    """Check options against a factory's signature.

    Args:
        options: as they are given.
        factory: a class or a function.
        skip: parameters that are not options.
        positional: how many leading parameters are not options.
        unknown: (name, names of the options) → what to say of an option that the factory does not have.

    Returns:
        the checked options as given (defaults not filled in), typed, and every fault found.
    """
    known = options_of(factory, skip, positional)
    loose = takes_any(factory)
    faults: list[Fault] = []
    if not loose:
        for name in options:
            if name not in known:
                faults.append(((name,), unknown(name, known)))
    given = {name: value for name, value in options.items() if name in known or loose}
    if own := getattr(factory, "faults", None):  # what the signature cannot say
        faults += own(given)
    model = _model_of(factory, frozenset(skip), positional)
    try:
        checked = _check(model, given)
    except pydantic.ValidationError as error:
        return {}, faults + _faults(error, given, known)
    values = {name: getattr(checked, _field(name) if name in known else name) for name in given}
    return values, faults


def _check(model: type[pydantic.BaseModel], given: Mapping[str, Any]) -> pydantic.BaseModel:
    try:
        text = json.dumps(given, default=_json_plain)
    except (TypeError, ValueError):  # holds objects, which only Python code can give
        return model.model_validate(given)
    return model.model_validate_json(text, strict=True)


def _json_plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, Iterator):
        return list(value)
    raise TypeError(type(value).__name__)


def _faults(error: pydantic.ValidationError, given: Mapping[str, Any], known: Mapping[str, Option]) -> list[Fault]:
    """One fault an option: a union's branches would otherwise each complain."""
    found: dict[str, Fault] = {}
    entries = error.errors(include_url=False, include_context=False)
    keys = {at[0]: at[-2] for at in (entry["loc"] for entry in entries) if at[-1:] == ("[key]",)}  # that do not fit
    for entry in entries:
        name = str(entry["loc"][0]) if entry["loc"] else ""
        if name in found:
            continue
        option = known.get(name)
        place: tuple[Any, ...] = (name,)
        if entry["type"] == "missing" and len(entry["loc"]) == 1 and option:
            text = f"missing. Expected {option.type_name}" + (f": {option.doc}" if option.doc else ".")
        elif option:
            text = f"{_shown(given.get(name))} does not fit. Expected {option.type_name}."
            deepest = max((_inside(given, other["loc"]) for other in entries if other["loc"][:1] == (name,)), key=len)
            if len(deepest) > 1:
                place = deepest
                if name not in keys:
                    text = f"{_shown(_value_at(given, deepest))} does not fit. Expected {option.type_name} in {name!r}."
            text += suggestion(keys.get(name, given.get(name)), _words(option.annotation))
            if given.get(name) is None and name in given and not option.required:
                text += " Leave it out for its default; '~' before its path takes away what another recipe gives."
            if entry["type"] in ("value_error", "assertion_error"):
                text = entry["msg"]
        else:
            text = entry["msg"]
        found[name] = (place, text)
    return list(found.values())


def _inside(given: Mapping[str, Any], place: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take out of pydantic's place of an error what names a part of the value; the rest names branches of its type."""
    value: Any = given
    path: list[Any] = []
    for part in place:
        in_mapping = isinstance(value, Mapping) and part in value
        in_list = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        if in_mapping or in_list:
            path.append(part)
            value = value[part]
    return tuple(path)


def _value_at(given: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        given = given[part]
    return given


def _words(annotation: Any) -> list[str]:
    """Return the words that a type allows, those of a mapping's keys too.

    >>> _words(dict[typing.Literal["heads", "ffn"], float] | None)
    ['heads', 'ffn']
    """
    if typing.get_origin(annotation) is typing.Literal:
        return [word for word in typing.get_args(annotation) if isinstance(word, str)]
    return [word for part in typing.get_args(annotation) for word in _words(part)]


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


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
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if annotation is Any:
        return "any"
    if origin is Annotated:
        ref = next((m for m in inner[1:] if isinstance(m, Ref)), None)
        if ref is not None:
            return f"{ref.kind} plugin"
        words = [mark.documentation for mark in inner[1:] if isinstance(mark, DocInfo)]
        return words[0] if words else type_name(inner[0]) + _bounds_name(inner[1:])
    if origin is typing.Literal:
        return " or ".join(repr(value) for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(part) for part in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        keys = f" {{{', '.join(words)}}}" if (words := _words(inner[0])) else ""
        return f"mapping{keys} of {type_name(inner[1])}"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"list of {type_name(inner[0])}"
    if annotation is bool:
        return "true or false"
    return {str: "text", Path: "path"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


@dataclasses.dataclass(frozen=True)
class NumberBounds:
    """The bounds of a numeric type, ``None`` for those that it does not have.

    Args:
        least: the smallest number allowed.
        above: a number that all allowed ones are above.
        most: the largest number allowed.
        below: a number that all allowed ones are below.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None


def number_bounds(marks: Iterable[Any]) -> NumberBounds:
    """Read the bounds off what ``Annotated`` says beside a number; the last one of a kind counts.

    >>> from annotated_types import Ge, Lt
    >>> number_bounds([Ge(0), Lt(1)])
    NumberBounds(least=0, above=None, most=None, below=1)
    """
    values: dict[str, float | None] = {}
    for mark in marks:
        for field, attribute in (("least", "ge"), ("above", "gt"), ("most", "le"), ("below", "lt")):
            value = getattr(mark, attribute, None)
            if value is not None:
                values[field] = value
    return NumberBounds(**values)


def _bounds_name(marks: Iterable[Any]) -> str:
    bounds = number_bounds(marks)
    low = high = ""
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
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{number:g}")


def map_refs(annotation: Any, value: Any, visit: Callable[[str, Any, tuple[Any, ...]], Any], at: tuple = ()) -> Any:
    """Replace every plugin reference inside an option's value by ``visit(kind, value, path)``.

    A reference is marked by ``Annotated[Any, Ref(kind)]``, possibly inside a list, a mapping or an optional type.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        ref = next((m for m in inner[1:] if isinstance(m, Ref)), None)
        return visit(ref.kind, value, at) if ref and value is not None else map_refs(inner[0], value, visit, at)
    if origin in (Union, types.UnionType):
        for part in inner:
            value = map_refs(part, value, visit, at)
        return value
    if isinstance(origin, type) and isinstance(value, Mapping) and issubclass(origin, Mapping):
        return {key: map_refs(inner[1], item, visit, (*at, key)) for key, item in value.items()}
    if isinstance(origin, type) and isinstance(value, list) and issubclass(origin, Iterable) and inner:
        return [map_refs(inner[0], item, visit, (*at, number)) for number, item in enumerate(value)]
    return value


def groups_of(factory: Callable[..., Any]) -> dict[str, type]:
    """Return the parameters of a dataclass type, whose fields are options, with the dataclass."""
    hints = _hints(factory)
    names = inspect.signature(factory).parameters.keys() & hints.keys()
    return {name: hints[name] for name in names if dataclasses.is_dataclass(hints[name])}


def is_path(annotation: Any) -> bool:
    """Tell whether an option is a file or folder, possibly optional, or a text that may be one.

    >>> is_path(Path | None), is_path(Path | str), is_path(str)
    (True, True, False)
    """
    return Path in _parts(annotation)


def must_exist(annotation: Any, value: str) -> bool:
    """Tell whether a path has to be there: always, or if it may be another text, where it looks like a path.

    >>> must_exist(Path, "data"), must_exist(Path | str, "org/name"), must_exist(Path | str, "a.csv")
    (True, False, True)
    """
    return str not in _parts(annotation) or Path(value).suffix in DATA_FILES or looks_like_path(value)


def looks_like_path(text: str) -> bool:
    """Tell whether a text can only be a path: no name, and no hub id, which has one slash at most.

    >>> [looks_like_path(text) for text in ("./net", "/data/net", "~/net", "a/b/c", "org/name", "name")]
    [True, True, True, True, False, False]
    """
    starts = text.startswith((".", "/", "~")) or text.endswith("/")
    return not text or starts or text.count("/") > 1 or "\\" in text


def _parts(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def plain_default(option: Option) -> Any:
    """Return an option's default as YAML can write it, ``None`` where there is none or it cannot.

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
    found: list[str] = []
    map_refs(annotation, "", lambda kind, value, at: found.append(kind))
    return found[0] if found else ""
