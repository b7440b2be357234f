"""Labels of which several, or none, may hold for one row: a list in one cell, or a yes or no in a column for each.

A cell is a list of JSON or Parquet, a list written as text, or names with a separator between them.
"""

from __future__ import annotations

import ast
import json
import numbers
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nasframe.errors import UsageError, listing, suggestion
from nasframe.labels import SEPARATORS, IndependentLabels, obvious_separator
from nasframe.notices import Notice
from nasframe_basics.cells import Row, class_name
from nasframe_basics.classes import ordered

YES = frozenset({"1", "true", "yes", "1.0"})
NO = frozenset({"0", "false", "no", "0.0"})


def labels_of(row: Row, column: str, separator: str | None) -> list[str]:
    """Return the labels in one cell, each once.

    >>> labels_of(Row("a.csv:2", {"tags": "fun; sad"}), "tags", ";")
    ['fun', 'sad']
    >>> labels_of(Row("a.csv:3", {"tags": ""}), "tags", ";")
    []
    >>> labels_of(Row("a.jsonl:1", {"tags": ["sad", 3]}), "tags", None)
    ['sad', '3']
    """
    parts = _parts(row, column, separator)
    if None in parts:
        raise UsageError(
            f"{row.place}: a label in the list in {column!r} is missing; of class indices, -1 means that. Expected "
            "only labels that hold."
        )
    names = [class_name(Row(row.place, {column: part}), column) for part in parts]
    return list(dict.fromkeys(names))


def _parts(row: Row, column: str, separator: str | None) -> Sequence[Any]:
    """Return what a cell holds, part by part."""
    if row.values.get(column, "") is None:
        raise UsageError(f"{row.place}: no value in {column!r}. Expected a list of labels, [] if none holds.")
    value = row.get(column)
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, np.ndarray):  # Parquet
        return list(value.tolist())
    if not isinstance(value, str):
        return [value]
    if _is_written_list(value):
        return _written_list(row, column, value)
    texts = [value] if separator is None else value.split(separator)
    return [text for text in texts if text.strip()]  # nothing stands behind a last separator


def _is_written_list(text: str) -> bool:
    return text.lstrip().startswith("[") and text.rstrip().endswith("]")


def _written_list(row: Row, column: str, text: str) -> list[Any]:
    """Read a list that is written as text: in JSON, or in Python, as pandas writes lists to CSV."""
    for read in (json.loads, ast.literal_eval):
        try:
            values = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(values, list):
            return values
    raise UsageError(f'{row.place}: {reprlib.repr(text)} in {column!r} is no list. Expected labels such as ["a", "b"].')


def found_separator(rows: Sequence[Row], column: str) -> str | None:
    """Return the separator that occurs in a column's texts, ``None`` if none does.

    Raises:
        UsageError: several occur.
    """
    places: dict[str, Row] = {}
    for row in rows:
        value = row.values.get(column)
        if not isinstance(value, str) or _is_written_list(value):
            continue
        for separator in SEPARATORS:
            if separator in value:
                places.setdefault(separator, row)
    if len(places) > 1:
        seen = " and ".join(f"{separator!r} ({row.place})" for separator, row in places.items())
        first = next(iter(places))
        raise UsageError(f"separator: {column!r} has {seen} in its texts. Expected the one between labels: {first!r}.")
    return next(iter(places), None)


def is_yes(row: Row, column: str) -> bool:
    """Return a cell that says whether a label holds: 1 or 0, true or false, yes or no.

    >>> is_yes(Row("a.csv:2", {"fun": "1"}), "fun"), is_yes(Row("a.jsonl:1", {"fun": False}), "fun")
    (True, False)
    """
    value = row.get(column)
    text = str(value).strip().lower()
    if isinstance(value, numbers.Real | str | np.bool_):
        if text in YES:
            return True
        if text in NO:
            return False
    raise UsageError(
        f"{row.place}: {reprlib.repr(value)} in the label column {column!r}. Expected 1 or 0, true or false, or yes or "
        "no, as several label columns hold."
    )


def names_of(sets: Sequence[Sequence[str]], place: str, column: str) -> IndependentLabels:
    """Return the labels that occur, in order.

    Args:
        sets: each row's labels.
        place: the file, for messages.
        column: the column of the labels.

    Raises:
        UsageError: there are less than two.
    """
    names = {name for labels in sets for name in labels}
    if len(names) < 2:
        seen = f"only {next(iter(names))!r}" if names else "none"
        raise UsageError(f"{place}: labels in {column!r}: {seen}. Expected two labels or more.")
    return IndependentLabels(ordered(names))


def indicators(rows: Sequence[Row], sets: Sequence[Sequence[str]], column: str, labels: Sequence[str]) -> np.ndarray:
    """Return 0 or 1 for each row and label, ``(rows, labels)``.

    Raises:
        UsageError: a label is unknown; the message names the row.
    """
    position = {name: place for place, name in enumerate(labels)}
    values = np.zeros((len(rows), len(labels)), dtype=np.int8)
    for number, names in enumerate(sets):
        for name in names:
            if name not in position:
                hint = suggestion(name, labels)
                place = rows[number].place
                expected = f"Expected some of {listing(labels)}.{hint}"
                raise UsageError(f"{place}: unknown label {name!r} in {column!r}. {expected}")
            values[number, position[name]] = 1
    return values


def answers(rows: Sequence[Row], columns: Sequence[str]) -> np.ndarray:
    """Return 0 or 1 for each row and column, ``(rows, columns)``."""
    values = [[is_yes(row, column) for column in columns] for row in rows]
    return np.array(values, dtype=np.int8).reshape(len(rows), len(columns))


def set_notices(values: np.ndarray, labels: Sequence[str], place: str) -> Iterator[Notice]:
    """Yield what a user should know about a table's labels: those that hold for all rows, or for none.

    Args:
        values: ``(rows, labels)``, 0 or 1.
        labels: their names.
        place: the file.
    """
    counts = np.count_nonzero(values, axis=0)
    for count, what in ((0, "no row"), (len(values), "every row")):
        names = [labels[label] for label in np.flatnonzero(counts == count).tolist()]
        if names:
            noun = "label" if len(names) == 1 else "labels"
            verb = "holds" if len(names) == 1 else "hold"
            yield Notice(place, f"The {noun} {listing(names)} {verb} for {what}, so nothing can be learned of it.")
    several = int(np.count_nonzero(values.sum(axis=1) > 1))
    if not several:
        yield Notice(place, "No row has more than one label. If one is always true, leave out multi_label.")


def joined_classes(counts: Mapping[str, int]) -> str:
    """Return a remark on classes that look like several labels each; empty if they do not.

    Args:
        counts: class → rows.
    """
    separator = obvious_separator(counts)
    if separator is None:
        return ""
    parts = Counter(part.strip() for name in counts for part in name.split(separator))
    example = next(name for name in counts if separator in name)
    return (
        f"Labels such as {example!r} look like several labels of {len(parts)}. They are read as {len(counts)} classes; "
        "multi_label: true reads several labels in a cell."
    )
