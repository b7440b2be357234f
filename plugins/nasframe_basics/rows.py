"""Reads tables of text from files or the Hugging Face hub; every error names its file and row."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from nasframe import progress
from nasframe.errors import UsageError, suggestion
from nasframe.notices import Notice
from nasframe_basics.cells import MOST_DIGITS, Row, class_name, label_number

TakesPlace: TypeAlias = Callable[[str], None]
"""Takes the place of a row, as ``train.csv:17``."""
Fields: TypeAlias = tuple[int, list[str]]
"""The number of a row's first line, and the row's fields."""
Item = TypeVar("Item")
SHOWN_EVERY = 5_000
"""Rows after which progress is shown."""
BLOCK = 2**24
"""Bytes that are read at once to count lines."""
LONGEST_FIELD = 2**31 - 1
"""Characters of a CSV field. Python's own limit is 131,072; a longer text would be cut by ``max_length`` anyway."""


def read_tsv(path: Path, columns: Sequence[str] = (), skip_short: TakesPlace | None = None) -> list[Row]:
    """Read a TSV file in GLUE's layout: quotes are ordinary characters, one line a row.

    Args:
        path: the file; UTF-8, a byte-order mark allowed.
        columns: the names of the columns if the file has no header.
        skip_short: leave out rows that lack columns, and call this with the place of each.

    Raises:
        UsageError: the file is missing, is not UTF-8, names a column twice, or a row has more or fewer fields than
            columns.
    """
    return _listed(path, _named(path, _tsv_rows(path), columns, skip_short))


def _tsv_rows(path: Path) -> Iterator[Fields]:
    """Yield the fields of each line that is not empty, with its number."""
    # splitlines would also break lines at characters that stand in texts, such as form feeds and U+2028.
    lines = decoded(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip("\r"):
            yield number, line.removesuffix("\r").split("\t")


def read_csv(path: Path) -> list[Row]:
    """Read a CSV file with a header; quoted fields may span lines."""
    return _listed(path, _named(path, _csv_rows(path)))


def read_jsonl(path: Path) -> list[Row]:
    """Read a file of one JSON object a line."""
    return _listed(path, _jsonl_rows(path))


def _jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield the row of each line that is not empty."""
    lines = decoded(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=_object, parse_int=_integer)
        except ValueError as error:
            raise UsageError(f"{path}:{number}: not JSON ({error}). Expected one object a line.") from None
        except RecursionError:  # a few thousand brackets are enough
            raise UsageError(f"{path}:{number}: JSON nested too deeply. Expected an object of texts.") from None
        if not isinstance(values, dict):
            raise UsageError(f"{path}:{number}: a JSON {type(values).__name__}. Expected one object a line.")
        yield Row(f"{path}:{number}", values)


def read_parquet(path: Path) -> list[Row]:
    """Read a Parquet file; needs ``pyarrow``, which the extra ``hub`` brings."""
    import pandas as pd

    present(path)
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise UsageError(f"{path}: reading Parquet needs pyarrow. Expected: pip install 'nasframe[hub]'.") from None
    except (OSError, ValueError, TypeError, NotImplementedError, KeyError) as error:  # the bases of pyarrow's errors
        raise UsageError(f"{path}: not a Parquet file ({error}).") from None
    _check_names(f"{path}", map(str, frame.columns))  # pandas allows numbers as names
    # pandas writes missing values as NaN or NaT, which would pass for values. As objects, columns can hold None.
    with_none = frame.astype(object).where(frame.notna(), None)
    records = with_none.to_dict("records")
    rows = []
    for number, record in _shown(records, path.name, len(records)):
        values = {str(column): value for column, value in record.items()}
        rows.append(Row(f"{path}:{number}", values))
    return rows


def _listed(path: Path, rows: Iterator[Row]) -> list[Row]:
    """Return a text file's rows, and show how far reading is: by the file's lines, of which a row may have several."""
    lines = 0
    if path.is_file():
        with path.open("rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))
    return [row for _, row in _shown(rows, path.name, lines)]


def _shown(items: Iterable[Item], name: str, total: int) -> Iterator[tuple[int, Item]]:
    """Yield items with their numbers from 1 on, and show how many have been read.

    Args:
        items: what is read.
        name: of the file, or of the split.
        total: how many there are, at most.
    """
    with progress.phase(f"reading {name}") as advance:
        for number, item in enumerate(items, start=1):
            yield number, item
            if number % SHOWN_EVERY == 0:
                advance(number, max(total, number), "")


READERS: Mapping[str, Callable[[Path], list[Row]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def read(path: Path) -> list[Row]:
    """Read a table; the suffix of its name gives the format."""
    if path.suffix not in READERS:
        raise UsageError(f"{path}: unknown kind of file {path.suffix!r}. Expected {', '.join(READERS)}.")
    return READERS[path.suffix](path)


SAVED_TO_DISK = ("state.json", "dataset_dict.json")
"""The file of a directory that ``save_to_disk`` wrote: for one table, and for several splits."""


def read_hub(name: str, config: str | None, split: str, base: Path | None = None) -> list[Row]:
    """Read a split of a data set of the Hugging Face hub, or of a local directory.

    The directory has a hub data set's layout, or was written by ``save_to_disk``. Class indices, also those in lists,
    become the data set's names of the classes; -1, which means "no label", becomes ``None``.

    Raises:
        UsageError: the data set cannot be read, or a class index has no name; the message names row and column.
    """
    table = _hub_table(name, config, split, base)
    names_by_column = _class_names(table.features)
    rows = []
    for number, record in _shown(table, f"{name}, {split}", len(table)):
        place = f"{name}/{split}:{number}"
        for column, names in names_by_column.items():
            record[column] = _with_names(record[column], names, place, column)
        rows.append(Row(place, record))
    return rows


def _hub_table(name: str, config: str | None, split: str, base: Path | None) -> Any:
    """Return a split as ``datasets`` reads it, from the hub or from a local directory."""
    try:
        import datasets
    except ImportError:
        raise UsageError(f"{name}: hub data sets need datasets. Expected: pip install 'nasframe[hub]'.") from None
    local = located(name, base)  # a name may be that of a folder beside the recipe
    source = str(local) if local.is_dir() else name
    try:
        if local.is_dir() and any((local / file).is_file() for file in SAVED_TO_DISK):
            return _saved_split(datasets.load_from_disk(source), split)
        return datasets.load_dataset(source, config, split=split)
    except Exception as error:  # datasets has no base class for its errors and those of its requirements
        raise UsageError(f"hub data set {name!r}, split {split!r}: {error}") from error


def _class_names(features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Return column → names of its classes, for the columns that hold class indices, or lists of them."""
    import datasets

    names_by_column = {}
    for column, kind in features.items():
        inner = getattr(kind, "feature", kind)  # of a list
        if isinstance(inner, datasets.ClassLabel):
            names_by_column[column] = inner.names
    return names_by_column


def _with_names(value: Any, names: Sequence[str], place: str, column: str) -> Any:
    """Return the class that an index names, or the classes that a list of indices names; ``None`` for no label."""
    if isinstance(value, list | tuple):
        return [_with_names(index, names, place, column) for index in value]
    if value is None or value == -1:
        return None
    if not 0 <= value < len(names):
        raise UsageError(f"{place}: class index {value} in {column!r}. Expected 0 to {len(names) - 1}.")
    return names[value]


def _saved_split(saved: Any, split: str) -> Any:
    """Return a split of what ``save_to_disk`` wrote: a table, or a mapping of tables by split."""
    if not isinstance(saved, Mapping):
        if split != "train":
            raise ValueError("the directory holds one table without splits. Expected train, and no dev.")
        return saved
    if split not in saved:
        raise ValueError(f"no such split. There are: {', '.join(saved)}.")
    return saved[split]


def read_texts(rows: Sequence[Row], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Read the texts of each row, one or two.

    Raises:
        UsageError: a value is missing or not text; the message names the row.
    """
    texts = []
    for row in rows:
        texts.append(tuple(row.text(column) for column in columns))
    return texts


def read_labels(rows: Sequence[Row], column: str, names: Sequence[str] | None) -> np.ndarray:
    """Read the label of each row, ``(rows,)``.

    Args:
        rows: the rows.
        column: the column of the labels.
        names: the classes as the rows name them, in the order of their indices; ``None`` for scores, which are finite
            numbers.

    Raises:
        UsageError: a label is unknown or not a number; the message names the row.
    """
    if names is None:
        scores = [label_number(row, column) for row in rows]
        return np.array(scores, dtype=np.float64)
    index_of = {name: index for index, name in enumerate(names)}
    indices = [_class_index(row, column, index_of) for row in rows]
    return np.array(indices, dtype=np.int64)


def read_header(path: Path) -> Row | None:
    """Read the columns of a table without its rows.

    Returns:
        A row without values in the place of the header; ``None`` if the file does not exist or cannot be read. The
        error is then reported when the whole file is read.
    """
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            schema = parquet.read_schema(path)
            return Row(f"{path}", dict.fromkeys(schema.names))
        number, names = _text_header(path)
    except (OSError, ValueError, TypeError, RecursionError, ImportError, csv.Error, StopIteration):
        return None
    return Row(f"{path}:{number}", dict.fromkeys(names))


def _text_header(path: Path) -> tuple[int, list[str]]:
    """Return the columns of a text file, and the number of the line where they stand."""
    if path.suffix not in READERS:
        raise ValueError(f"{path}: unknown kind of file {path.suffix!r}.")
    # Like the readers, this skips empty lines in front of the header, and leaves line ends inside of CSV fields alone.
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            reader = csv.reader(file, strict=True)
            names = next(fields for fields in reader if fields)
            return reader.line_num, names
        number = 1
        line = next(file)
        while not line.strip("\r\n"):
            number += 1
            line = next(file)
    if path.suffix == ".tsv":
        return number, line.rstrip("\r\n").split("\t")
    return number, list(json.loads(line))  # the columns of the first row stand for those of all


def missing_columns(header: Row, wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the columns that a header lacks, each with a description of the problem and a suggestion."""
    for column in wanted:
        name, _ = find_column([header], column)
        if name not in header.values:
            names = ", ".join(map(repr, header.values))
            hint = suggestion(column, header.values)
            yield column, f"{header.place}: no column {column!r}. There are: {names}.{hint}"


def find_column(rows: Sequence[Row], wanted: str) -> tuple[str, list[Notice]]:
    """Find a column by its name; spaces around the name in the file do not count.

    Args:
        rows: a table; the first row's columns are looked at.
        wanted: the name in the recipe.

    Returns:
        The name as it is in the file, or ``wanted`` if no name matches; and notices about it.
    """
    names = list(rows[0].values)
    matches = []
    for name in names:
        if isinstance(name, str) and name.strip() == wanted.strip():
            matches.append(name)
    if wanted in names or len(matches) != 1:
        return wanted, []  # with several matches, either could be meant: the column is then reported as missing
    file = rows[0].place.rpartition(":")[0]
    notice = Notice(file, f"The column {matches[0]!r} is read as {wanted!r}.")
    return matches[0], [notice]


def renamed_columns(rows: list[Row], wanted: Sequence[str]) -> tuple[list[Row], list[Notice]]:
    """Rename columns that differ from the recipe's only by spaces around the name; return the rows, and notices."""
    new_names: dict[str, str] = {}
    notices: list[Notice] = []
    for column in wanted:
        name, remarks = find_column(rows, column)
        notices += remarks
        if name != column:
            new_names[name] = column
    if not new_names:
        return rows, notices  # the usual case, in which no row has to be copied
    renamed = []
    for row in rows:
        values = {}
        for name, value in row.values.items():
            values[new_names.get(name, name)] = value
        renamed.append(Row(row.place, values))
    return renamed, notices


def located(path: str | Path, base: str | Path | None) -> Path:
    """Return a path; a relative one belongs to ``base``, the recipe's folder, or else to the current folder."""
    path = Path(path).expanduser()
    in_base = Path(base or ".") / path
    if not in_base.exists() and path.exists():
        return path
    return in_base  # even if neither exists: errors then name the recipe's folder


def present(path: Path) -> Path:
    """Return ``path`` if it is a file.

    Raises:
        UsageError: it is not a file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Expected a table of texts.")
    return path


def decoded(path: Path) -> str:
    """Read a UTF-8 file, without its byte-order mark.

    Raises:
        UsageError: the file is missing, or a line is not UTF-8 or holds a NUL, as files in UTF-16 do.
    """
    data = present(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"{data[error.start]:#04x}"
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        hint = " It looks like UTF-16." if is_utf16 else ""
        raise UsageError(f"{path}:{line}: byte {byte} is not UTF-8. Expected UTF-8 text.{hint}") from None
    # Without a byte-order mark, UTF-16 of plain English is valid UTF-8 with a NUL beside each letter.
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise UsageError(f"{path}:{line}: a NUL character. Expected UTF-8 text.")
    return text


def _csv_rows(path: Path) -> Iterator[Fields]:
    """Yield the fields of each row that is not empty, with the number of its first line."""
    file = io.StringIO(decoded(path), newline="")  # leaves line ends in fields alone
    reader = csv.reader(file, strict=True)
    while True:
        start = reader.line_num + 1  # the reader only knows the last line of a row
        try:
            with _long_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(f"{path}:{start}: unreadable row ({error}).") from None
        if fields:
            yield start, fields


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Raise Python's limit of a CSV field while one row is read, since the limit is the whole process's."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _named(
    path: Path,
    rows: Iterator[Fields],
    columns: Sequence[str] = (),
    skip_short: TakesPlace | None = None,
) -> Iterator[Row]:
    """Yield rows with their columns, which are the first row's fields if no ``columns`` are given."""
    if not columns:
        number, columns = next(rows, (0, []))  # an empty file has no columns, and the caller refuses it for its rows
        _check_names(f"{path}:{number}", columns)
    for number, fields in rows:
        place = f"{path}:{number}"
        if skip_short is not None and len(fields) < len(columns):
            skip_short(place)
            continue
        if len(fields) != len(columns):
            raise UsageError(f"{place}: unreadable row: {len(fields)} fields. Expected {len(columns)}.")
        values = dict(zip(columns, fields, strict=True))
        yield Row(place, values)


def _check_names(place: str, names: Iterable[str]) -> None:
    """Refuse a header that names a column twice, since one would be lost; several may have no name."""
    counts = Counter(name.strip() for name in names)
    doubled = []
    for name, count in counts.items():
        if name and count > 1:
            doubled.append(repr(name))
    if doubled:
        raise UsageError(f"{place}: more than one column {', '.join(doubled)}. Expected each name once.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; refuse two values under one name, since one would be lost."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"two values for {name!r}")
        values[name] = value
    return values


def _integer(digits: str) -> int:
    """Read a JSON integer; refuse one that is too large for floating point: it is neither class nor score."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _class_index(row: Row, column: str, index_of: Mapping[str, int]) -> int:
    name = class_name(row, column)
    if name not in index_of:
        expected = ", ".join(index_of)
        raise UsageError(f"{row.place}: unknown label {name!r} in {column!r}. Expected one of {expected}.")
    return index_of[name]
