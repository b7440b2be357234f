"""Which formulas are valid, and the one form that equal formulas share.

The canonical form uses these identities, and no others: a double negation or transposition is none; signs and the
constants of ``scale`` move out of products and sums, and signs out of odd functions; transpositions move in, to the
inputs and normalised scores; sums have no order and no brackets, and opposite terms vanish.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from nasframe.errors import UsageError
from nasframe_autobert_zero.expression import (
    FEATURES,
    WORDS,
    Expression,
    inputs_of,
    nodes_of,
    parse,
    shape_of,
    text_of,
)

LONGEST = 64
"""Operations of a formula when it is written out, with shared nodes as often as they are read."""
ODD = frozenset({"softsign", "signed_sqrt"})
"""Functions with f(−x) = −f(x)."""
ELEMENTWISE = frozenset({"logsigmoid", "softsign", "sqrt", "signed_sqrt"})
KEEPS_ZEROS = frozenset({"neg", "scale", "softsign", "sqrt", "signed_sqrt"})
"""Operations after which a word that had no weight has none."""


class FormulaError(UsageError):
    """A formula that cannot be the attention of a layer.

    Args:
        reason: a word for the kind of fault, by which rejected formulas are counted.
        text: what is wrong, and what was expected.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


# ---- canonical form


class Term(NamedTuple):
    """A formula without what can stand outside of it.

    Attributes:
        core: the formula inside of signs and scales; its parts are canonical.
        scales: how often it is divided by √d.
        negative: whether its sign is changed.
    """

    core: Expression
    scales: int
    negative: bool

    def written(self) -> Expression:
        """Return the formula, with the sign outside."""
        expression = self.core
        for _ in range(self.scales):
            expression = ("scale", expression)
        return ("neg", expression) if self.negative else expression

    def negated(self, negative: bool = True) -> Term:
        """Return the formula with the other sign; itself if ``negative`` is false."""
        return self._replace(negative=self.negative != negative)


def canonical(expression: Expression) -> Expression:
    """Return the form that equal formulas share.

    Args:
        expression: a formula whose shapes fit.

    Raises:
        FormulaError: it is zero, whatever its inputs are.

    >>> text_of(canonical(parse("transpose(add(neg(k), neg(q)))")))
    'neg(add(transpose(k), transpose(q)))'
    """
    return _term(expression, turned=False).written()


def _term(expression: Expression, turned: bool) -> Term:
    """Return a formula, or with ``turned`` its transpose, in canonical parts."""
    if isinstance(expression, str):
        core = ("transpose", expression) if turned else expression
        return Term(core, 0, False)
    operation, *arguments = expression
    if operation == "transpose":
        return _term(arguments[0], not turned)
    if operation == "neg":
        return _term(arguments[0], turned).negated()
    if operation == "scale":
        inner = _term(arguments[0], turned)
        return inner._replace(scales=inner.scales + 1)
    if operation == "add":
        return _sum(_summands(expression, turned))
    if operation == "matmul":
        return _product(arguments[0], arguments[1], turned)
    if operation in ELEMENTWISE:
        inner = _term(arguments[0], turned)
        if operation in ODD:
            return Term((operation, inner.negated(inner.negative).written()), 0, inner.negative)
        return Term((operation, inner.written()), 0, False)
    if operation == "softmax":  # along the last axis, so that its transpose is no softmax
        core = ("softmax", _term(arguments[0], turned=False).written())
        return Term(("transpose", core) if turned else core, 0, False)
    first, second = arguments  # cosine and euclidean compare each row of one with each row of the other
    if turned:
        first, second = second, first
    return Term((operation, _term(first, False).written(), _term(second, False).written()), 0, False)


def _product(first: Expression, second: Expression, turned: bool) -> Term:
    """Return a matrix product: (A B)ᵀ = Bᵀ Aᵀ; signs and scales go outside."""
    left, right = (second, first) if turned else (first, second)
    a = _term(left, turned)
    b = _term(right, turned)
    core = ("matmul", a._replace(scales=0, negative=False).written(), b._replace(scales=0, negative=False).written())
    return Term(core, a.scales + b.scales, a.negative != b.negative)


def _summands(expression: Expression, turned: bool) -> list[Term]:
    """Return the terms of a sum, with those of sums inside of it; of anything else, itself."""
    operation = "" if isinstance(expression, str) else expression[0]
    if operation == "add":
        return [*_summands(expression[1], turned), *_summands(expression[2], turned)]
    if operation == "neg":
        return [term.negated() for term in _summands(expression[1], turned)]
    if operation == "scale":
        return [term._replace(scales=term.scales + 1) for term in _summands(expression[1], turned)]
    if operation == "transpose":
        return _summands(expression[1], not turned)
    return [_term(expression, turned)]


def _sum(terms: list[Term]) -> Term:
    """Return a sum: in one order, without opposite terms, common scales outside, the first term positive."""
    left: list[Term] = []
    for term in terms:
        opposite = term.negated()
        if opposite in left:
            left.remove(opposite)
        else:
            left.append(term)
    if not left:
        raise FormulaError("vanishing", "a sum whose terms cancel is 0 for all inputs. Expected other terms.")
    if len(left) == 1:
        return left[0]
    scales = min(term.scales for term in left)
    ordered = sorted(left, key=lambda term: (text_of(term.core), term.scales, term.negative))
    negative = ordered[0].negative
    total: Expression = None
    for term in ordered:
        part = Term(term.core, term.scales - scales, term.negative != negative).written()
        total = part if total is None else ("add", total, part)
    return Term(total, scales, negative)


# ---- validity


@lru_cache(maxsize=200_000)
def checked(text: str, most: int) -> str:
    """Return the canonical form of a formula that can be a layer's attention, as text.

    Args:
        text: the formula.
        most: operations that its graph may have.

    Raises:
        FormulaError: it is no formula; shapes do not fit; the result is not ``[S, d]``; it does not read both q and k;
            words would be summed without normalised weights; or it is too long.

    >>> checked("matmul(softmax(matmul(neg(q), neg(transpose(k)))), q)", 12)
    'matmul(softmax(matmul(q, transpose(k))), q)'
    """
    try:
        expression = parse(text)
    except ValueError as error:
        raise FormulaError("syntax", f"{text!r}: {error}.") from None
    require_short(expression)
    shape = _checked_shape(expression)
    if shape != (WORDS, FEATURES):
        rows, columns = ("S" if axis == WORDS else "d" for axis in shape)
        raise FormulaError("shape", f"{text}: the result is [{rows}, {columns}]. Expected [S, d].")
    expression = canonical(expression)
    missing = {"q", "k"} - inputs_of(expression)
    if missing:
        raise FormulaError("inputs", f"{text}: {' and '.join(sorted(missing))} has no effect. Expected both q and k.")
    normalised(expression)
    require_short(expression)
    count = len(nodes_of(expression))
    if count > most:
        raise FormulaError("size", f"{text}: its graph has {count} operations. Expected at most {most}.")
    return text_of(expression)


def _checked_shape(expression: Expression) -> tuple[str, str]:
    try:
        return shape_of(expression)
    except ValueError as error:
        raise FormulaError("shape", f"{text_of(expression)}: {error}.") from None


def require_short(expression: Expression) -> None:
    """Raise FormulaError if a formula is too long to be written out."""
    if length_of(expression) > LONGEST:
        raise FormulaError("size", f"the formula has more than {LONGEST} operations when it is written out.")


def length_of(expression: Expression) -> int:
    """Return the number of operations of a formula, with shared nodes as often as they are read."""
    lengths: dict[Expression, int] = {}
    for node in nodes_of(expression):  # arguments come first
        lengths[node] = 1 + sum(lengths.get(argument, 0) for argument in node[1:])
    return lengths.get(expression, 0)


def normalised(expression: Expression) -> bool:
    """Tell whether the columns of a matrix are words whose weights were normalised, and 0 for padding.

    Args:
        expression: a formula whose shapes fit.

    Raises:
        FormulaError: words are summed by a product whose left factor is not normalised.
    """
    if isinstance(expression, str):
        return False
    operation, *arguments = expression
    flags = [normalised(argument) for argument in arguments]
    if operation == "softmax":
        return shape_of(arguments[0])[1] == WORDS
    if operation == "matmul":
        sums_words = shape_of(arguments[0])[1] == WORDS
        if sums_words and not flags[0]:
            raise FormulaError(
                "unnormalised",
                f"{text_of(expression)}: sums words with weights that no softmax normalised. Expected softmax(…) on "
                "the left.",
            )
        return sums_words and all(flags)
    if operation in KEEPS_ZEROS or operation == "add":
        return all(flags)
    return False
