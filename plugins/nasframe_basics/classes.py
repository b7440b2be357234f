"""The classes of a label column: their order, the positive one, and signs that they are not what they seem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby

from nasframe.errors import UsageError, listing, suggestion
from nasframe.heads import number

POSITIVE_NAMES = ("1", "true", "yes", "positive")
NO_LABEL = "-1"
"""What data sets of class indices write for a row without a label."""
MANY = 10
"""With more classes than this, fractional numbers look like scores."""


def ordered(names: set[str]) -> list[str]:
    """Order classes: numbers by value, then texts alphabetically; spellings of one number in the order of their text.

    >>> ordered({"b", "10", "7", "007", "a", "nan"})
    ['007', '7', '10', 'a', 'b', 'nan']
    """
    return sorted(names, key=_order)


def _order(name: str) -> tuple[int, Decimal, str]:
    """Return a key to sort by; the text comes last, so that the order does not depend on that of the rows."""
    value = number(name)
    if value is None:
        return (1, Decimal(0), name)
    return (0, value, name)


def same_looking(classes: Sequence[str]) -> Iterator[list[str]]:
    """Yield classes that look like spellings of one: equal numbers, or texts that differ only in case.

    >>> list(same_looking(["1", "1.0", "Yes", "no", "yes"]))
    [['1', '1.0'], ['Yes', 'yes']]
    """
    in_groups = sorted(classes, key=_meaning)  # groupby only joins neighbours
    for _, group in groupby(in_groups, key=_meaning):
        names = sorted(group)
        if len(names) > 1:
            yield names


def _meaning(name: str) -> str:
    """Return what spellings of one class have in common."""
    value = number(name)
    if value is None:
        return name.casefold()
    return str(value.normalize())


def seem_scores(counts: Mapping[str, int]) -> str:
    """Return the reason why a label column looks like scores rather than classes; empty if it does not.

    Args:
        counts: class → rows.

    >>> seem_scores({"0.1": 1, "0.25": 1, "0.3": 1})
    'each of its 3 rows has a label of its own'
    """
    rows = sum(counts.values())
    if len(counts) == rows and rows > 2:
        return f"each of its {rows} rows has a label of its own"
    values = []
    for name in counts:
        value = number(name)
        if value is None:  # texts are no scores
            return ""
        values.append(value)
    # Ratings, such as 1 to 5, are numbers too, but each stands in many rows.
    single = list(counts.values()).count(1)
    if 2 * single > len(counts) and len(counts) > 2:
        return f"its labels are numbers, and {single} of {len(counts)} stand in one row alone"
    is_fractional = any(value != value.to_integral_value() for value in values)
    if is_fractional and len(counts) > MANY:
        return f"its labels are {len(counts)} numbers, not all of them whole"
    return ""


SENTIMENTS = frozenset({NO_LABEL, "0", "1"})
"""Classes of which a table may mean negative, neutral and positive."""


def refuse_no_label(names: Sequence[str], places: Sequence[str], column: str, sentiments: bool = False) -> None:
    """Refuse −1 among class indices, which means that a row has no label.

    Without the indices from 0 on, −1 is a class like others, as in −1 and 1.

    Args:
        names: the classes of the training data, label by label.
        places: file and row of each.
        column: where the labels stand.
        sentiments: whether −1, 0 and 1 may be three classes.

    Raises:
        UsageError: with the first such row.

    >>> refuse_no_label(["-1", "1"], ["a.csv:2", "a.csv:3"], "label")
    >>> refuse_no_label(["0", "-1", "1"], ["a.csv:2", "a.csv:3", "a.csv:4"], "label")
    Traceback (most recent call last):
    nasframe.errors.UsageError: a.csv:3: label -1 in 'label', beside the class indices 0 to 1, means ...
    """
    others = set(names) - {NO_LABEL}
    indices = {str(index) for index in range(len(others))}
    if NO_LABEL not in names or len(others) < 2 or others != indices:
        return
    if sentiments and set(names) == SENTIMENTS:
        return
    place = places[list(names).index(NO_LABEL)]
    raise UsageError(
        f"{place}: label -1 in {column!r}, beside the class indices 0 to {len(others) - 1}, means that the row has no "
        "label. Expected rows with labels; if -1 is a class, names in place of numbers."
    )


def positive_class(counts: Mapping[str, int], classes: Sequence[str]) -> str:
    """Return the class that ``f1`` is about: one called 1, true, yes or positive, else the rarer, else the second.

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
    first, second = classes
    return first if counts[first] < counts[second] else second


def chosen_class(wanted: str | int | float, classes: Sequence[str]) -> str:
    """Return the class that the option ``positive`` names.

    Raises:
        UsageError: there is none, or several could be meant.

    >>> chosen_class(True, ["False", "True"])
    'True'
    """
    name = str(wanted)
    if name in classes:
        return name
    # YAML reads `yes` and `true` as a truth value, which is written "True" here whatever the file says.
    same_but_for_case = [label for label in classes if label.casefold() == name.casefold()]
    if len(same_but_for_case) == 1:
        return same_but_for_case[0]
    hint = suggestion(name, classes)
    raise UsageError(f"positive: no class {name!r}. Expected one of {listing(classes)}.{hint}")
