"""Labels of which several may hold for one example, and how they stand in a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SEPARATORS = (";", "|", ",")
"""What may stand between the labels of a text, if nobody says."""


class IndependentLabels(tuple[str, ...]):
    """Names of labels of which several, or none, may hold for one example; a task's ``labels`` if that is so.

    Each output of the network is then a yes or no of its own, not one of several classes.

    >>> labels = IndependentLabels(["fun", "sad"])
    >>> labels == ("fun", "sad"), are_independent(labels), are_independent(["fun", "sad"])
    (True, True, False)
    """

    __slots__ = ()


def are_independent(labels: Sequence[str] | None) -> bool:
    """Tell whether labels are answered by themselves, see :class:`IndependentLabels`."""
    return isinstance(labels, IndependentLabels)


def same_kind(names: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
    """Return names as labels of the same kind as others: independent, or classes.

    >>> are_independent(same_kind(["b", "a"], IndependentLabels(["a", "b"])))
    True
    """
    return IndependentLabels(names) if are_independent(labels) else list(names)


def obvious_separator(values: Iterable[str]) -> str | None:
    """Return the separator of a column that holds several labels in a cell without doubt, ``None`` if it does not.

    Its parts have to be fewer than its different values, and some value has to be a part by itself.

    Args:
        values: texts, one a row.

    >>> obvious_separator(["fun;sad", "fun", "sad", "odd;fun", "sad;odd"])
    ';'
    >>> obvious_separator(["Home, Garden", "Arts, Crafts"]) is None
    True
    """
    distinct = {value.strip() for value in values if value.strip()}
    for separator in SEPARATORS:
        parts: set[str] = set()
        for value in distinct:
            parts.update(part.strip() for part in value.split(separator) if part.strip())
        if separator == "," and all(part.isdecimal() for part in parts):
            continue  # in half of the world these are numbers with fractions
        joined = {value for value in distinct if separator in value.strip(separator)}
        alone = distinct & parts
        if joined and alone and len(parts) < len(distinct):
            return separator
    return None
