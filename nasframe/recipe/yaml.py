"""YAML text to values that know where they were written, and plain values back to YAML.

The dialect is the core of YAML 1.2, without surprises: ``2e-5`` is a number; ``yes``, ``off`` and dates are text; tags
that build Python objects are refused. Every problem names its file, line and column.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nasframe.errors import Problem

KeyPath = tuple[Any, ...]
"""The path of a value in a recipe: keys of mappings, and numbers of list items."""
STANDARD = "tag:yaml.org,2002:"
LARGEST = 300_000
"""Most bytes of a recipe's file; the largest that comes with nasframe has four thousand."""
MOST_VALUES = 10_000
"""Most values of a recipe, with those that aliases repeat: nested aliases multiply ("billion laughs")."""
DEEPEST = 100
"""How many mappings and lists may lie inside each other, well below Python's limit of recursion."""
NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"


class Position(NamedTuple):
    """Where a value was written; ``line`` is 0 for an override, and for a mapping in Python."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    @property
    def overridden(self) -> bool:
        """Whether an override wrote it."""
        return not self.line and self.file.startswith("override ")


@dataclass
class Node:
    """A value and where it was written; mappings and lists hold nodes."""

    value: Any
    at: Position

    def plain(self) -> Any:
        """Return the value without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def copy(self) -> Node:
        """Copy the whole tree, so that a change of the copy leaves this one alone."""
        if isinstance(self.value, dict):
            return Node({key: node.copy() for key, node in self.value.items()}, self.at)
        if isinstance(self.value, list):
            return Node([node.copy() for node in self.value], self.at)
        return Node(self.value, self.at)

    def positions(self, path: KeyPath) -> Iterator[tuple[KeyPath, Position]]:
        """Yield the path and the position of this node, which is at ``path``, and of all below it."""
        yield path, self.at
        items: Iterable[tuple[Any, Node]] = ()
        if isinstance(self.value, dict):
            items = self.value.items()
        elif isinstance(self.value, list):
            items = enumerate(self.value)
        for key, node in items:
            yield from node.positions((*path, key))


class _TooMuch(Exception):
    """A recipe with more values, or nested more deeply, than any that a person writes."""

    def __init__(self, mark: Any, path: KeyPath, text: str) -> None:
        super().__init__(text)
        self.mark = mark
        self.path = path
        self.text = text


class _Loader(yaml.SafeLoader):
    # PyYAML's own resolvers are of YAML 1.1, where "no" is false and "2e-5" is text.
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012
    composed = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """Count keys and values while they are read: reading takes longer than all that follows."""
        self.composed += 1
        if self.composed > 2 * MOST_VALUES:  # each value may have a key
            raise _TooMuch(self.peek_event().start_mark, (), f"more than {MOST_VALUES:,} values.")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Write out ``<<``; of a key that several mappings give only the last is kept, or aliases would multiply."""
        super().flatten_mapping(node)
        last: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else id(key)
            last[name] = (key, value)
        node.value = list(last.values())


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True  # equal values are written out each time, since a resolved recipe is read by people


RESOLVERS = {
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "int": (r"^[-+]?[0-9]+$", "-+0123456789"),
    "float": (f"^{NUMBER}$", "-+0123456789."),
    "merge": (r"^<<$", "<"),
}
"""Tag of plain text → its pattern, and the characters that it may begin with (an empty one: it may be empty)."""

for _tag, (_pattern, _first) in RESOLVERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{STANDARD}{_tag}", re.compile(_pattern), list(_first))


def dump(data: Any) -> str:
    """Write plain data as YAML that :func:`parse` reads back to the same data.

    >>> dump({"rate": 2e-05, "share": "75%", "odd": "12e3"})
    "rate: 2.0e-05\\nshare: 75%\\nodd: '12e3'\\n"
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def read(path: Path, shown: str) -> tuple[Node | None, list[Problem]]:
    """Read a YAML file.

    Args:
        path: the file.
        shown: how problems name it.
    """
    try:
        fault = _file_fault(path)
        if fault:
            return None, [Problem(shown, "", fault)]
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        before = error.object[: error.start].decode("latin-1")  # in which every byte is one character
        at = _end_of(before, shown)
        return None, [Problem(str(at), "", f"byte 0x{byte:02x} is not UTF-8. Expected UTF-8 text.")]
    except OSError as error:
        return None, [Problem(shown, "", f"cannot be read: {error.strerror}.")]
    return parse(text, Position(shown, 1, 1))


def _end_of(text: str, file: str) -> Position:
    """Return the position right behind a text with which a file begins."""
    return Position(file, text.count("\n") + 1, len(text) - text.rfind("\n"))


def _file_fault(path: Path) -> str:
    """Say why a path is no recipe's file, without opening it: a pipe or a device may have no end."""
    size = path.stat().st_size
    if path.is_dir():
        return "is a directory. Expected a YAML file."
    if not path.is_file():
        return "is not a file. Expected a YAML file."
    if size > LARGEST:
        return f"{size:,} bytes are too many. Expected a recipe of at most {LARGEST:,}."
    return ""


def parse(text: str, origin: Position) -> tuple[Node | None, list[Problem]]:
    """Parse YAML text.

    Args:
        text: what was written.
        origin: the file with line 1, or an override, which lends its place to everything.

    Returns:
        the root node (``None`` if the text is not YAML), and every problem.
    """
    root, problems = _parsed(text, origin)
    # A copy, because overrides change nodes in place, and the original is kept for the next reader of the same text.
    return None if root is None else root.copy(), list(problems)


@functools.lru_cache(maxsize=256)  # a file is read again for each recipe that extends it, and for each arm of a study
def _parsed(text: str, origin: Position) -> tuple[Node | None, list[Problem]]:
    if origin.line:
        tabs = _tabs_in_indentation(text, origin)
        if tabs:  # YAML's own message about them is hard to understand
            return None, tabs
    try:
        return _built(text, origin)
    except _TooMuch as error:
        return None, [Problem(str(_position(origin, error.mark)), dotted(error.path), error.text)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = _position(origin, mark) if mark else origin
        parts = (error.context, error.problem)
        reason = " ".join(part for part in parts if part)
        return None, [Problem(str(at), "", f"not YAML: {reason}.")]
    except yaml.reader.ReaderError as error:
        # This error has no line and column, only a position in the text.
        at = _end_of(text[: error.position], origin.file) if origin.line else origin
        return None, [Problem(str(at), "", f"not YAML: character U+{error.character:04X} is not allowed.")]
    except RecursionError:
        return None, [Problem(str(origin), "", "not a recipe: nested too deeply.")]


def _built(text: str, origin: Position) -> tuple[Node | None, list[Problem]]:
    """Read text as YAML and turn its nodes into ours."""
    loader = _Loader(text)
    root = loader.get_single_node()
    if root is None:
        return Node(None, origin), []
    builder = _Builder(loader, origin)
    node = builder.node(root, ())
    # By position, because a mapping's duplicates are found before the problems inside it.
    in_order = sorted(builder.problems, key=lambda pair: pair[0])
    return node, [problem for _, problem in in_order]


def _tabs_in_indentation(text: str, origin: Position) -> list[Problem]:
    """Find lines that are indented with tabs."""
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"[ ]*(?P<tab>\t)[ \t]*[^\s#]", line)
        if match:
            at = Position(origin.file, number, match.start("tab") + 1)
            problems.append(Problem(str(at), "", "a tab in the indentation. Expected spaces."))
    return problems


def _position(origin: Position, mark: Any) -> Position:
    if not origin.line:  # an override is one short line: all of it has the place of the override
        return origin
    return Position(origin.file, mark.line + 1, mark.column + 1)


class _Builder:
    """Turns YAML's nodes into ours and collects what is wrong with them."""

    def __init__(self, loader: yaml.SafeLoader, origin: Position) -> None:
        self.loader = loader
        self.origin = origin
        self.problems: list[tuple[Position, Problem]] = []
        self.open: list[yaml.Node] = []
        self.count = 0

    def problem(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        at = _position(self.origin, node.start_mark)
        self.problems.append((at, Problem(str(at), dotted(path), text)))

    def node(self, node: yaml.Node, path: KeyPath) -> Node:
        at = _position(self.origin, node.start_mark)
        # An alias is the same node as its anchor, so a node that is still open contains itself.
        if any(node is other for other in self.open):
            self.problem(node, path, "an anchor that contains itself.")
            return Node(None, at)
        self.count += 1
        if self.count > MOST_VALUES:
            text = f"with what its aliases repeat the recipe has more than {MOST_VALUES:,} values."
            raise _TooMuch(node.start_mark, path[:DEEPEST], text)
        if len(self.open) >= DEEPEST:
            text = f"nested too deeply. Expected at most {DEEPEST} mappings and lists inside each other."
            raise _TooMuch(node.start_mark, (), text)
        self.open.append(node)
        try:
            return Node(self.value(node, path), at)
        finally:
            self.open.pop()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return the value of a node, with our nodes inside; ``None`` if there is a problem."""
        kind = node.tag.removeprefix(STANDARD)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.node(item, (*path, number)) for number, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in SCALARS:
            return self.scalar(node, kind, path)
        self.problem(node, path, f"unknown tag {node.tag!r}. Expected plain YAML.")
        return None

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Node]:
        self._report_duplicates(node, path)
        self.loader.flatten_mapping(node)  # ``<<: *anchor``; what is written out stands after it and wins
        values: dict[Any, Node] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, path, "a key that is not text. Expected 'key: value'.")
                continue
            child = self.node(item, (*path, key.value))
            # At the key, not at its value: that is where a reader looks for an option.
            values[key.value] = Node(child.value, _position(self.origin, key.start_mark))
        return values

    def _report_duplicates(self, node: yaml.MappingNode, path: KeyPath) -> None:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value not in first:
                first[key.value] = key
                continue
            line = first[key.value].start_mark.line + 1
            place = f", first on line {line}" if self.origin.line else ""
            self.problem(key, (*path, key.value), f"duplicate key{place}. Expected every key once.")

    def scalar(self, node: yaml.ScalarNode, kind: str, path: KeyPath) -> Any:
        text = str(node.value)
        try:
            return SCALARS[kind](text)
        except (ValueError, KeyError):
            self.problem(node, path, f"{text!r} is not a valid {kind}.")
            return None


def _finite(text: str) -> float:
    number = float(text)  # "1e999" is read as infinity
    if not math.isfinite(number):
        raise ValueError
    return number


SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": _finite,
    "str": str,
    "merge": str,
}
"""Tag → what reads its text; raises ValueError or KeyError if the text does not fit."""


def dotted(path: KeyPath) -> str:
    """Write a path with dots.

    >>> dotted(("stages", 0, "train"))
    'stages.0.train'
    """
    return ".".join(str(part) for part in path)
