"""Cells of a table: reads texts, class names and numbers, and refuses other values with their file and row."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasframe.errors import UsageError, suggestion
from nasframe.notices import Notice

NOT_A_NUMBER = frozenset({"nan", "<na>", "nat"})
"""What pandas writes for a missing value; nobody gives a class such a name."""

PERHAPS_MISSING = frozenset({"none", "null", "na", "n/a", "-", "?"})
"""What others write for a missing value; it may also be a class."""

MOST_DIGITS = 308
"""Integers with more digits are too large for floating point, and neither classes nor scores."""


@dataclass(frozen=True)
class Row:
    """One row: its values by column, and its place (``train.csv:17``)."""

    place: str
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """Return a column's text.

        Raises:
            UsageError: the column is missing in this row, or holds something other than text.
        """
        return check_text(self.place, column, self.get(column))

    def get(self, column: str) -> Any:
        """Return a column's value; ``None`` is refused like a missing one."""
        value = self.values.get(column)
        if value is None:  # readers write gaps, such as JSON's null, as None
            if column in self.values:
                raise UsageError(f"{self.place}: {column!r} is empty (null). Expected a value in each row.")
            names = ", ".join(map(repr, self.values))
            hint = suggestion(column, map(str, self.values))
            raise UsageError(f"{self.place}: no {column!r}. Expected a value in each row; the row has {names}.{hint}")
        return value


def check_text(place: str, column: str, value: Any) -> str:
    """Return a cell's text.

    Args:
        place: file and row.
        column: the cell's column.
        value: the cell.

    Raises:
        UsageError: it is not text, or holds characters that no tokenizer can read.

    >>> check_text("reviews.csv:2", "text", "A fine film.")
    'A fine film.'
    """
    if not isinstance(value, str):
        raise UsageError(f"{place}: {column!r} is {reprlib.repr(value)}. Expected text.")
    if "\0" in value:
        raise UsageError(f"{place}: {column!r} holds a NUL character. Expected text.")
    if has_lone_surrogate(value):
        raise UsageError(f"{place}: {column!r} holds half of a surrogate pair, which is no character. Expected text.")
    return value


def has_lone_surrogate(text: str) -> bool:
    """Tell whether a string holds half of a surrogate pair, as JSON's ``"\\ud800"`` does.

    >>> has_lone_surrogate("\\ud83d"), has_lone_surrogate("naïve")
    (True, False)
    """
    if text.isascii():  # without a pass over the text: Python remembers it
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def class_name(row: Row, column: str) -> str:
    """Return the class that a row's label names, without spaces around it; 3.0 and 3 are one class.

    Raises:
        UsageError: the label is missing, empty, not a number, or of a type that names no class.

    >>> class_name(Row("a.csv:2", {"label": " good "}), "label"), class_name(Row("a.jsonl:1", {"label": 3.0}), "label")
    ('good', '3')
    """
    value = row.get(column)
    if isinstance(value, str):
        name = check_text(row.place, column, value).strip()
    elif isinstance(value, bool):  # before the integers, of which it is one
        name = str(value)
    elif isinstance(value, numbers.Integral):
        name = str(int(value))  # numpy's integers from Parquet, too
    elif isinstance(value, numbers.Real):
        name = _number_name(row, column, float(value))
    else:
        kind = type(value).__name__
        several = ", or multi_label: true for several labels in a row" if kind in ("list", "ndarray") else ""
        raise UsageError(
            f"{row.place}: label {reprlib.repr(value)} in {column!r} is a {kind}. Expected text or a number{several}."
        )
    if not name:
        raise UsageError(f"{row.place}: the label in {column!r} is empty. Expected the name of a class in each row.")
    if name.lower() in NOT_A_NUMBER:
        raise UsageError(f"{row.place}: the label in {column!r} is {name!r}, a missing value. Expected a class's name.")
    # Text files refuse what JSON files do, see rows.py.
    digits = name.lstrip("+-")
    if len(digits) > MOST_DIGITS and digits.isdigit():
        raise UsageError(f"{row.place}: the label in {column!r} is an integer of {len(name)} digits. Expected a class.")
    return name


def _number_name(row: Row, column: str, value: float) -> str:
    """Return a floating-point label as text; JSON and Parquet write 1 as 1.0 if the column has fractions or gaps."""
    if not math.isfinite(value):
        raise UsageError(f"{row.place}: the label in {column!r} is {value}. Expected the name of a class in each row.")
    if value.is_integer():
        return str(int(value))
    return str(value)


def label_number(row: Row, column: str) -> float:
    """Return a row's label as a finite number.

    Raises:
        UsageError: it is missing or not a finite number, as ``true`` and ``1_000`` are not.
    """
    value = row.get(column)
    has_underscore = "_" in str(value)[:MOST_DIGITS]
    number = math.nan
    if not isinstance(value, bool) and not has_underscore:  # these are numbers for Python, but for no user
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{row.place}: label {reprlib.repr(value)} in {column!r}. Expected a finite number.")
    return number


def label_notices(rows: Sequence[Row], column: str) -> Iterator[Notice]:
    """Yield oddities of labels: spaces, names that may mean "missing", integers that are written as floats.

    Args:
        rows: the rows, whose labels :func:`class_name` accepts.
        column: the column of the labels.
    """
    spaced: list[Row] = []
    floats: list[Row] = []
    perhaps_missing: dict[str, list[Row]] = {}
    for row in rows:
        value = row.values.get(column)
        if isinstance(value, str):
            name = value.strip()
            if name != value:
                spaced.append(row)
            if name.lower() in PERHAPS_MISSING:
                perhaps_missing.setdefault(name, []).append(row)
            continue
        if isinstance(value, numbers.Integral):  # every integer is a real number, too
            continue
        if isinstance(value, numbers.Real) and float(value).is_integer():
            floats.append(row)
    if spaced:
        example = spaced[0].values[column]
        more = f" and {len(spaced) - 1:,} more" if len(spaced) > 1 else ""
        yield Notice(spaced[0].place, f"Labels are read without the spaces around them: {example!r}{more}.")
    if floats:
        example = float(floats[0].values[column])
        name = class_name(floats[0], column)
        text = f"{example} is {name!r} ({_rows(len(floats))} written so)"
        yield Notice(floats[0].place, f"Whole numbers are classes without a decimal point: {text}.")
    for name, its_rows in perhaps_missing.items():
        text = f"The label {name!r} ({_rows(len(its_rows))}) is a class, not a missing value."
        yield Notice(its_rows[0].place, text)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
