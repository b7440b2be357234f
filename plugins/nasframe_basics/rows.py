"""Read tables of text from files or the Hugging Face hub; whatever is wrong is named with its file and row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.errors import UsageError


@dataclass(frozen=True)
class Row:
    """One row: its values by column, and where it stands (``train.csv:17``)."""

    place: str
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """Return a column's text.

        Raises:
            UsageError: the column is missing in this row, or holds something else than text.
        """
        value = self.get(column)
        if not isinstance(value, str):
            raise UsageError(f"{self.place}: {column!r} is {value!r}. Expected text.")
        return value

    def get(self, column: str) -> Any:
        """Return a column's value; ``None`` is refused like a missing one."""
        if self.values.get(column) is None:
            near = ", ".join(map(repr, self.values))
            raise UsageError(f"{self.place}: no {column!r}. Expected a value in each row; the row has {near}.")
        return self.values[column]


def read_tsv(path: Path, columns: Sequence[str] = (), skip_short: bool = False) -> list[Row]:
    """Read a TSV file in GLUE's layout: quotes are ordinary characters, one line a row.

    Args:
        path: the file; UTF-8, a byte-order mark allowed.
        columns: the names of the columns where the file has no header.
        skip_short: leave out rows that lack columns.

    Raises:
        UsageError: the file is missing, is not UTF-8, or a row has more or fewer fields than columns.
    """
    lines = enumerate(decoded(path).split("\n"), start=1)
    rows = ((number, line.removesuffix("\r").split("\t")) for number, line in lines if line.strip("\r"))
    return list(_named(path, rows, columns, skip_short))


def read_csv(path: Path) -> list[Row]:
    """Read a CSV file with a header; quoted fields may span lines."""
    return list(_named(path, _csv_rows(path), (), False))


def read_jsonl(path: Path) -> list[Row]:
    """Read a file of one JSON object a line."""
    rows = []
    for number, line in enumerate(decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number}: not JSON ({error}). Expected one object a line.") from None
        if not isinstance(values, dict):
            raise UsageError(f"{path}:{number}: a JSON {type(values).__name__}. Expected one object a line.")
        rows.append(Row(f"{path}:{number}", values))
    return rows


def read_parquet(path: Path) -> list[Row]:
    """Read a Parquet file; needs ``pyarrow``, which the extra ``hub`` brings."""
    import pandas as pd

    present(path)
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise UsageError(f"{path}: reading Parquet needs pyarrow. Expected: pip install 'nasframe[hub]'.") from None
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise UsageError(f"{path}: not a Parquet file ({error}).") from None
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [Row(f"{path}:{number}", {str(k): v for k, v in r.items()}) for number, r in enumerate(records, start=1)]


READERS: Mapping[str, Callable[[Path], list[Row]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def read(path: Path) -> list[Row]:
    """Read a table by the ending of its name."""
    if path.suffix not in READERS:
        raise UsageError(f"{path}: unknown kind of file {path.suffix!r}. Expected {', '.join(READERS)}.")
    return READERS[path.suffix](path)


def read_hub(name: str, config: str | None, split: str, base: Path | None = None) -> list[Row]:
    """Read a split of a data set of the Hugging Face hub, or of a local directory in a hub data set's layout.

    Class indices become the names that the data set gives them.
    """
    try:
        import datasets
    except ImportError:
        raise UsageError(f"{name}: hub data sets need datasets. Expected: pip install 'nasframe[hub]'.") from None
    local = located(name, base)
    try:
        table = datasets.load_dataset(str(local) if local.is_dir() else name, config, split=split)
    except Exception as error:  # datasets has no base class for what can go wrong on the way
        raise UsageError(f"hub data set {name!r}, split {split!r}: {error}") from error
    names = {column: kind.names for column, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)}
    rows = []
    for number, record in enumerate(table, start=1):
        for column, classes in names.items():
            record[column] = classes[record[column]] if record[column] is not None else None
        rows.append(Row(f"{name}/{split}:{number}", record))
    return rows


def read_labels(rows: list[Row], column: str, known: Mapping[str, int] | None) -> np.ndarray:
    """Read the label of each row: a class index by its name in ``known``, or a finite number where that is ``None``.

    Raises:
        UsageError: a label is unknown or no number; the message names the row.
    """
    if known is not None:
        return np.array([_class(row, column, known) for row in rows], dtype=np.int64)
    return np.array([_number(row, column) for row in rows], dtype=np.float64)


def located(path: str | Path, base: str | Path | None) -> Path:
    """Read a relative path against ``base``, the recipe's folder, or else the current one."""
    path = Path(path).expanduser()
    candidate = Path(base or ".") / path
    return candidate if candidate.exists() or not path.exists() else path


def present(path: Path) -> Path:
    """Return ``path`` if it is a file.

    Raises:
        UsageError: it is not.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Expected a table of texts.")
    return path


def decoded(path: Path) -> str:
    """Read a UTF-8 file, without its byte-order mark.

    Raises:
        UsageError: the file is missing or some line is not UTF-8.
    """
    data = present(path).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8. Expected UTF-8 text.") from None


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(decoded(path), newline=""), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(f"{path}:{start}: unreadable row ({error}).") from None
        if fields:
            yield start, fields


def _named(
    path: Path, rows: Iterator[tuple[int, list[str]]], columns: Sequence[str], skip_short: bool
) -> Iterator[Row]:
    if not columns:
        _, columns = next(rows, (0, []))
    for number, fields in rows:
        if skip_short and len(fields) < len(columns):
            continue
        if len(fields) != len(columns):
            raise UsageError(f"{path}:{number}: unreadable row: {len(fields)} fields. Expected {len(columns)}.")
        yield Row(f"{path}:{number}", dict(zip(columns, fields, strict=True)))


def _class(row: Row, column: str, known: Mapping[str, int]) -> int:
    value = str(row.get(column))
    if value not in known:
        raise UsageError(f"{row.place}: unknown label {value!r} in {column!r}. Expected one of {', '.join(known)}.")
    return known[value]


def _number(row: Row, column: str) -> float:
    try:
        value = float(row.get(column))
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise UsageError(f"{row.place}: label {row.get(column)!r} in {column!r}. Expected a finite number.")
    return value
