"""The classes of a label column: their order, the positive one, and what looks odd about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby

from nasframe.errors import UsageError, listing, suggestion
from nasframe.heads import number

POSITIVE_NAMES = ("1", "true", "yes", "positive")
MANY = 10  # classes of fractional numbers, beyond which they look like scores


def ordered(names: set[str]) -> list[str]:
    """Order classes: numbers by value, then texts alphabetically; spellings of one number in the order of their text.

    >>> ordered({"b", "10", "7", "007", "a", "nan"})
    ['007', '7', '10', 'a', 'b', 'nan']
    """
    return sorted(names, key=_place)


def _place(name: str) -> tuple[int, Decimal, str]:
    value = number(name)
    return (1, Decimal(0), name) if value is None else (0, value, name)


def same_looking(classes: Sequence[str]) -> Iterator[list[str]]:
    """Yield classes that look like spellings of one: equal numbers, or texts that differ in case alone.

    >>> list(same_looking(["1", "1.0", "Yes", "no", "yes"]))
    [['1', '1.0'], ['Yes', 'yes']]
    """

    def meaning(name: str) -> str:
        value = number(name)
        return name.casefold() if value is None else str(value.normalize())

    for _, group in groupby(sorted(classes, key=meaning), key=meaning):
        names = list(group)
        if len(names) > 1:
            yield sorted(names)


def seem_scores(counts: Mapping[str, int]) -> str:
    """Say why a label column looks like scores rather than classes, or nothing.

    Args:
        counts: class → rows.

    >>> seem_scores({"0.1": 1, "0.25": 1, "0.3": 1})
    'each of its 3 rows has a label of its own'
    """
    rows, values = sum(counts.values()), [number(name) for name in counts]
    if len(counts) == rows and rows > 2:
        return f"each of its {rows} rows has a label of its own"
    if any(value is None for value in values):
        return ""
    single = sum(count == 1 for count in counts.values())
    if 2 * single > len(counts) and len(counts) > 2:
        return f"its labels are numbers, and {single} of {len(counts)} stand in one row alone"
    fractional = any(value is not None and value != value.to_integral_value() for value in values)
    if fractional and len(counts) > MANY:
        return f"its labels are {len(counts)} numbers, not all of them whole"
    return ""


def positive_class(counts: Mapping[str, int], classes: Sequence[str]) -> str:
    """Choose the class that ``f1`` is about: one called 1, true, yes or positive, else the rarer, else the second.

    Args:
        counts: class → rows of the whole training file.
        classes: two classes, in order.

    >>> positive_class({"ham": 90, "spam": 10}, ["ham", "spam"])
    'spam'
    """
    for name in POSITIVE_NAMES:
        for label in classes:
            if label.casefold() == name or (name == "1" and number(label) == 1):
                return label
    return min(reversed(classes), key=lambda label: counts[label])


def chosen_class(wanted: str | int | float, classes: Sequence[str]) -> str:
    """Return the class that the option ``positive`` names.

    Raises:
        UsageError: there is none, or it is not clear which is meant.

    >>> chosen_class(True, ["False", "True"])
    'True'
    """
    name = str(wanted)
    if name in classes:
        return name
    near = [label for label in classes if label.casefold() == name.casefold()]
    if len(near) == 1:
        return near[0]
    raise UsageError(f"positive: no class {name!r}. Expected one of {listing(classes)}.{suggestion(name, classes)}")
