"""Attention formulas as text, such as ``matmul(softmax(scale(matmul(q, transpose(k)))), v)``, and their shapes.

An expression is an input's name, or a tuple of an operation and its arguments. Equal parts of a formula are one node of
its graph. Exported models carry this file, so that it needs nothing but Python.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

Expression = Any
"""An input's name, or ``(operation, argument)`` or ``(operation, argument, argument)``."""
Shape = tuple[str, str]
"""The two axes of a matrix: ``words`` (S) or ``features`` (d, the columns of one head)."""

WORDS, FEATURES = "words", "features"
INPUTS = ("q", "k", "v")
"""Queries, keys and values: linear maps of the layer's input, ``[S, d]`` in each head."""
UNARY = ("neg", "transpose", "scale", "softmax", "logsigmoid", "softsign", "sqrt", "signed_sqrt")
BINARY = ("add", "matmul", "cosine", "euclidean")
ARITY: Mapping[str, int] = {**dict.fromkeys(UNARY, 1), **dict.fromkeys(BINARY, 2)}
STANDARD = "matmul(softmax(scale(matmul(q, transpose(k)))), v)"
"""The attention of Transformers."""
DEEPEST = 200
"""Brackets inside brackets that are read; no formula of a search has as many."""


def parse(text: str) -> Expression:
    """Read a formula.

    Raises:
        ValueError: it is no formula; the message says where.

    >>> parse("add(q, neg(k))")
    ('add', 'q', ('neg', 'k'))
    """
    reader = _Reader(text)
    expression = reader.expression()
    reader.end()
    return expression


class _Reader:
    """Reads a formula from left to right.

    Args:
        text: the formula.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0

    def expression(self) -> Expression:
        """Read an input, or an operation and its arguments."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} brackets inside each other")
        word = self.word()
        if word in INPUTS:
            self.depth -= 1
            return word
        if word not in ARITY:
            raise ValueError(f"{word!r} is neither an input nor an operation. {_expected(word)}")
        self.sign("(")
        arguments = [self.expression()]
        while len(arguments) < ARITY[word]:
            self.sign(",")
            arguments.append(self.expression())
        self.sign(")")
        self.depth -= 1
        return (word, *arguments)

    def word(self) -> str:
        """Read a name."""
        match = re.compile(r"\s*([a-z_]+)").match(self.text, self.position)
        if match is None:
            raise ValueError(f"a name is missing {self.place()}. Expected an input or an operation")
        self.position = match.end()
        return match[1]

    def sign(self, sign: str) -> None:
        """Read a bracket or a comma."""
        match = re.compile(r"\s*" + re.escape(sign)).match(self.text, self.position)
        if match is None:
            raise ValueError(f"{sign!r} is missing {self.place()}")
        self.position = match.end()

    def end(self) -> None:
        """Make sure that nothing is left."""
        rest = self.text[self.position :].strip()
        if rest:
            raise ValueError(f"{rest!r} follows the formula. Expected nothing after it")

    def place(self) -> str:
        """Return where the reader is, in words."""
        before = self.text[: self.position].strip()
        return f"after {before!r}" if before else "at the start"


def _expected(word: str) -> str:
    """Say which words a formula may have, and which one may have been meant."""
    known = (*INPUTS, *ARITY)
    close = difflib.get_close_matches(word, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Expected one of {', '.join(known)}.{hint}"


def text_of(expression: Expression) -> str:
    """Return a formula as text; :func:`parse` reads it."""
    if isinstance(expression, str):
        return expression
    arguments = ", ".join(text_of(argument) for argument in expression[1:])
    return f"{expression[0]}({arguments})"


def nodes_of(expression: Expression) -> list[Expression]:
    """Return the nodes of a formula's graph, arguments before the nodes that read them; inputs are no nodes.

    >>> nodes_of(parse("add(neg(k), transpose(neg(k)))"))[:2]
    [('neg', 'k'), ('transpose', ('neg', 'k'))]
    """
    nodes: dict[Expression, None] = {}

    def visit(part: Expression) -> None:
        if isinstance(part, str) or part in nodes:
            return
        for argument in part[1:]:
            visit(argument)
        nodes[part] = None

    visit(expression)
    return list(nodes)


def inputs_of(expression: Expression) -> set[str]:
    """Return the inputs that a formula reads."""
    return set(leaves_of(expression))


def leaves_of(expression: Expression) -> Iterator[str]:
    """Yield the inputs of a formula, as often as they are written."""
    if isinstance(expression, str):
        yield expression
        return
    for argument in expression[1:]:
        yield from leaves_of(argument)


def shape_of(expression: Expression) -> Shape:
    """Return the axes of what a formula computes.

    Raises:
        ValueError: shapes do not fit, or two features would be compared with each other, which sums over all words.

    >>> shape_of(parse("matmul(q, transpose(k))"))
    ('words', 'words')
    """
    if isinstance(expression, str):
        return (WORDS, FEATURES)
    operation = expression[0]
    shapes = [shape_of(argument) for argument in expression[1:]]
    if operation == "transpose":
        rows, columns = shapes[0]
        return (columns, rows)
    if ARITY[operation] == 1:
        return shapes[0]
    first, second = shapes
    if operation == "add":
        if first != second:
            raise ValueError(f"add: {_named(first)} and {_named(second)}. Expected equal shapes")
        return first
    if operation == "matmul":
        if first[1] != second[0]:
            raise ValueError(f"matmul: {_named(first)} and {_named(second)}. Expected [a, b] and [b, c]")
        shape = (first[0], second[1])
    else:
        for axes in shapes:
            if axes != (WORDS, FEATURES):
                raise ValueError(f"{operation}: {_named(axes)}. Expected [S, d] twice")
        shape = (WORDS, WORDS)
    if shape == (FEATURES, FEATURES):
        raise ValueError(f"{operation}: the result is [d, d], a sum over all words, padding too. Expected another one")
    return shape


def _named(shape: Shape) -> str:
    """Return a shape as papers write it."""
    letters = {WORDS: "S", FEATURES: "d"}
    return f"[{letters[shape[0]]}, {letters[shape[1]]}]"
