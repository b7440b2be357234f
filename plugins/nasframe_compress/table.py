"""A first look at a table of texts: which columns hold texts and labels, and what kind of labels these are.

Only columns that are obvious are chosen. The task reads the data again, row by row, with errors that name the row.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UsageError, suggestion
from nasframe.labels import obvious_separator

if TYPE_CHECKING:
    import pandas as pd

PEEK = 20_000
"""Rows that are looked at, the first ones."""
MOST_CLASSES = 20
"""Integer labels with more values than this are scores."""
NEARLY = 0.9
"""Share of numbers, from which on a column was meant to hold scores."""
WORDS = 3.0
"""Words on average, from which on a column of strings is a text."""
DISTINCT = 0.5
"""Share of distinct values, from which on a column of strings is a text, and below which it may be a label."""

LABELS = (
    "label",
    "labels",
    "tags",
    "class",
    "target",
    "category",
    "sentiment",
    "stars",
    "rating",
    "score",
    "intent",
    "y",
)
"""Names that a column of labels usually has, the most usual first."""
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question", "passage"),
    ("query", "document"),
)
"""Names that two columns of a pair of texts usually have."""
IDS = ("id", "idx", "index", "guid", "uid", "unnamed: 0")

SEPARATORS = {".csv": "commas in a .csv file", ".tsv": "tabs in a .tsv file"}
"""What stands between the values of each kind of file."""
QUOTING: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ","},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
"""How the standard library reads each of them."""
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
"""What may stand there instead, as spreadsheets of some countries write it."""

Kind = Literal["classification", "regression", "multi_label"]


@dataclass(frozen=True)
class Columns:
    """The columns that a task reads.

    Args:
        text: of the texts, one or two.
        label: of the labels: one, or one for each label.
        kind: what the labels are.
        said: what was chosen without being asked for, a sentence each.
    """

    text: tuple[str, ...]
    label: tuple[str, ...]
    kind: Kind
    said: tuple[str, ...] = ()


class Ambiguous(UsageError):
    """Columns that are not obvious.

    Args:
        option: the option that says which.
        message: what is not clear.
        choices: the columns that it may be.
    """

    def __init__(self, option: str, message: str, choices: Sequence[str]) -> None:
        super().__init__(message)
        self.option = option
        self.choices = tuple(choices)


def peek(path: Path) -> pd.DataFrame:
    """Return the first rows of a table, values as they are written.

    Args:
        path: a CSV, TSV, JSONL or Parquet file.

    Raises:
        UsageError: the file is missing, has another format, no columns or no rows.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Expected a table of texts.")
    reader = READERS.get(path.suffix)
    if reader is None:
        known = ", ".join(READERS)
        hint = suggestion(path.suffix, READERS)
        raise UsageError(f"{path}: unknown kind of file {path.suffix!r}. Expected {known}.{hint}")
    try:
        if path.suffix in SEPARATORS:  # before the rows, which pandas cannot parse if the separator is another one
            _check_header(path)
        frame = reader(path)
    except ImportError:
        raise UsageError(f"{path}: reading Parquet needs pyarrow. Expected: pip install 'nasframe[hub]'.") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: byte {error.start:,} is no UTF-8. Expected a file in UTF-8, as spreadsheets save it under "
            "'CSV UTF-8'."
        ) from None
    except UsageError:
        raise
    except (ValueError, OSError, csv.Error) as error:  # the bases of pandas' and pyarrow's errors
        if path.suffix == ".jsonl":
            _refuse_odd_line(path)
        raise UsageError(f"{path}: cannot be read ({_first_line(error)}).") from None
    if frame.empty:
        raise UsageError(f"{path}: no rows. Expected a header and at least one example.")
    if path.suffix == ".jsonl" and not all(isinstance(name, str) for name in frame.columns):
        _refuse_odd_line(path)  # pandas numbers the columns if the lines are lists
    frame.columns = [str(name) for name in frame.columns]
    return frame


def _check_header(path: Path) -> None:
    """Refuse a text table without a header, with another separator, or with two columns of one name.

    pandas would call the second of these columns ``NAME.1``, a name that is not in the file.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, **QUOTING[path.suffix])
        header = next((fields for fields in rows if fields), None)
    if header is None:
        raise UsageError(f"{path}: empty. Expected a header and at least one example.")
    _refuse_other_separator(path, header)
    counts = Counter(name.strip() for name in header if name.strip())
    doubled = [repr(name) for name, count in counts.items() if count > 1]
    if doubled:
        raise UsageError(f"{path}:1: more than one column {', '.join(doubled)}. Expected each name once.")


def _refuse_odd_line(path: Path) -> None:
    """Refuse the first line of a JSONL file that is not a JSON object, if there is one."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                values = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{place}: not JSON ({error}). Expected one object a line.") from None
            if not isinstance(values, dict):
                raise UsageError(f"{place}: a JSON {type(values).__name__}. Expected one object a line.")


def _refuse_other_separator(path: Path, columns: Sequence[str]) -> None:
    """Refuse a table that reads as one column because something else stands between its values."""
    if path.suffix not in SEPARATORS or len(columns) != 1:
        return
    usual = SEPARATORS[path.suffix]
    for other, noun in OTHER_SEPARATORS.items():
        if other in columns[0]:
            raise UsageError(
                f"{path}: its only column is {columns[0]!r}, so {noun} stand between the values. Expected {usual}. "
                f"pandas rewrites it: pandas.read_csv({path.name!r}, sep={other!r}).to_csv('new.csv', index=False)"
            )


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(path, nrows=PEEK, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def _read_tsv(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(
        path, sep="\t", nrows=PEEK, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8-sig"
    )


def _read_jsonl(path: Path) -> pd.DataFrame:
    import pandas as pd

    # Numbers stay as they are written: pandas would make 1.0 of a 1 beside a missing value.
    return pd.read_json(path, lines=True, nrows=PEEK, dtype=False, encoding="utf-8")


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    from pyarrow import parquet

    batches = parquet.ParquetFile(path).iter_batches(batch_size=PEEK)
    first = next(batches, None)
    return pd.DataFrame() if first is None else first.to_pandas()


READERS: Mapping[str, Callable[[Path], Any]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def choose_columns(
    frame: pd.DataFrame, place: str, text: Sequence[str], label: Sequence[str], kind: str, separator: str | None = None
) -> Columns:
    """Choose the columns of texts and labels that are not given, if they are obvious.

    Args:
        frame: the first rows of the table.
        place: the table's name in messages.
        text: the columns of the texts, empty if not given.
        label: the column of the labels, or one for each label; empty if not given.
        kind: ``classification``, ``regression``, ``multi_label``, or ``auto``.
        separator: what stands between several labels of one column, if it is given.

    Raises:
        Ambiguous: a column is not given, and several or none could be meant.
        UsageError: a given column does not exist.
    """
    for name in (*text, *label):
        if name not in frame.columns:
            there = ", ".join(map(repr, frame.columns))
            raise UsageError(f"{place}: no column {name!r}. There are: {there}.{suggestion(name, list(frame.columns))}")
    said: list[str] = []
    if not text:
        text = _guessed_texts(frame, place, label)
        named = " and ".join(map(repr, text))
        said.append(f"texts are in column {named}" if len(text) == 1 else f"pairs of texts are in columns {named}")
    else:
        said += [f"{name!r} has only numbers as texts" for name in text if _has_only_numbers(frame[name])]
    if not label:
        label = (_guessed_label(frame, place, text),)
        said.append(f"labels are in column {label[0]!r}")
    chosen_kind, why = _kind_of(frame, place, label, kind, separator)
    if why:
        said.append(why)
    return Columns(tuple(text), tuple(label), chosen_kind, tuple(said))


# ---- texts


def _guessed_texts(frame: pd.DataFrame, place: str, label: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the texts, if there is no doubt."""
    by_name = {str(name).casefold(): str(name) for name in frame.columns if name not in label}
    for first, second in PAIRS:
        if first in by_name and second in by_name:
            return by_name[first], by_name[second]
    texts = [name for name in frame.columns if name not in label and _is_text(frame[name])]
    if len(texts) == 1:
        return (texts[0],)
    option = "--text"
    if not texts:
        names = ", ".join(_with_empty_cells(frame, name) for name in frame.columns)
        message = f"{place}: no column looks like texts. Expected {option} COLUMN; there are: {names}."
        raise Ambiguous(option, message, list(frame.columns))
    names = ", ".join(map(repr, texts))
    message = (
        f"{place}: several columns look like texts: {names}. Expected {option} COLUMN, or twice for a pair: "
        f"{option} {texts[0]} {option} {texts[1]}."
    )
    raise Ambiguous(option, message, texts)


def _with_empty_cells(frame: pd.DataFrame, name: str) -> str:
    """Return a column's name, with how many of its cells are empty if there are any."""
    empty = sum(_is_empty(value) for value in frame[name])
    return f"{name!r} ({empty:,} of {len(frame):,} empty)" if empty else repr(name)


def _is_text(column: pd.Series) -> bool:
    """Tell whether a column holds texts: strings of several words, most of them different."""
    values = [value for value in column if isinstance(value, str) and value.strip()]
    if len(values) < len(column) / 2 or any(_is_list(value) for value in values):
        return False
    words = sum(len(value.split()) for value in values) / len(values)
    distinct = len(set(values)) / len(values)
    return words >= WORDS and distinct >= DISTINCT


def _has_only_numbers(column: pd.Series) -> bool:
    """Tell whether a column of texts holds numbers only, as a column of row numbers does."""
    return all(_is_number(str(value)) for value in column if not _is_list(value))


# ---- labels


def _guessed_label(frame: pd.DataFrame, place: str, text: Sequence[str]) -> str:
    """Return the column of the labels, if there is no doubt."""
    others = [name for name in frame.columns if name not in text]
    named = [name for name in others if name.strip().casefold() in LABELS]
    if len(named) == 1:
        return str(named[0])
    candidates = named or [name for name in others if _may_be_label(frame[name], name)]
    if len(candidates) == 1:
        return str(candidates[0])
    if not candidates:
        _refuse_single_class(frame, place, others)
    names = ", ".join(map(repr, candidates or others))
    problem = "several columns may hold the labels" if candidates else "no column looks like labels"
    message = f"{place}: {problem}: {names}. Expected --label COLUMN."
    raise Ambiguous("--label", message, candidates or others)


def _refuse_single_class(frame: pd.DataFrame, place: str, columns: Sequence[str]) -> None:
    """Refuse a table whose only possible column of labels says the same in every row."""
    if len(columns) != 1 or len(frame) < 2:
        return
    column = frame[columns[0]]
    if all(value == column.iloc[0] for value in column):
        raise UsageError(
            f"{place}: column {columns[0]!r} has {column.iloc[0]!r} in all of its {len(column):,} rows. Expected at "
            "least two different labels."
        )


def _may_be_label(column: pd.Series, name: str) -> bool:
    """Tell whether a column may hold labels: it repeats its values, or holds numbers that are no row numbers."""
    if name.strip().casefold() in IDS:
        return False
    if any(_is_list(value) for value in column):
        return True
    values = [str(value) for value in column]
    distinct = len(set(values)) / len(values)
    return len(set(values)) > 1 and (distinct < DISTINCT or _are_fractions(values))


def _kind_of(
    frame: pd.DataFrame, place: str, label: Sequence[str], kind: str, separator: str | None
) -> tuple[Kind, str]:
    """Return what the labels are, and the reason if it was chosen here."""
    _refuse_unlike_options(label, kind, separator)
    if separator is not None:
        _refuse_absent_separator(frame, place, label[0], separator)
    if kind == "multi_label" or len(label) > 1 or separator is not None:
        return "multi_label", ""  # the task reads each cell, and refuses what is no yes or no
    (column,) = label
    values = [value for value in frame[column] if not _is_missing(value)]
    texts = [str(value).strip() for value in values]
    why_several = _why_several(values, column)
    if kind == "classification":
        if why_several and any(_is_list(value) for value in values):  # names with separators may be classes
            raise UsageError(f"{place}: {why_several}. Expected --task multi_label.")
        return "classification", ""
    if kind == "regression":
        if why_several:
            raise UsageError(f"{place}: {why_several}. Expected --task multi_label.")
        _refuse_other_than_numbers(texts, place, column)
        return "regression", ""
    if why_several:
        return "multi_label", why_several
    _refuse_nearly_scores(texts, place, column)
    if not all(_is_number(text) for text in texts):
        return "classification", _why_mixed(values, column)
    return _kind_of_numbers(texts, column)


def _why_mixed(values: Sequence[Any], label: str) -> str:
    """Return that a JSONL file has both numbers and texts as labels; empty if it has only one of them."""
    numbers = [value for value in values if not isinstance(value, str)]
    if not numbers or len(numbers) == len(values):
        return ""
    odd = f"{len(numbers):,} of {len(values):,} cells, as {numbers[0]!r}"
    return f"{label!r} has numbers among its texts ({odd}), which are taken for classes, too"


def _refuse_unlike_options(label: Sequence[str], kind: str, separator: str | None) -> None:
    """Refuse several columns, or a separator, for labels of which only one holds; and both together."""
    may_be_several = kind in ("auto", "multi_label")
    if len(label) > 1 and not may_be_several:
        raise UsageError(f"--label: {len(label)} columns, one for each label. Expected one column for --task {kind}.")
    if len(label) > 1 and separator is not None:
        raise UsageError("--separator: stands between the labels of one column. Expected one column as --label.")
    if separator is not None and not may_be_several:
        raise UsageError(f"--separator: stands between several labels. Expected none for --task {kind}.")


def _refuse_absent_separator(frame: pd.DataFrame, place: str, column: str, separator: str) -> None:
    """Refuse a separator that stands in no cell: each combination of labels would be a label of its own."""
    texts = [value for value in frame[column] if isinstance(value, str)]
    if any(separator in text for text in texts):
        return
    seen = obvious_separator(texts)
    hint = "" if seen is None else f" Did you mean {seen!r}?"
    raise UsageError(
        f"--separator {separator!r}: stands in no cell of {column!r} in {place}. Expected one that does.{hint}"
    )


def _refuse_other_than_numbers(texts: Sequence[str], place: str, column: str) -> None:
    """Refuse labels that are no numbers."""
    odd = next((text for text in texts if not _is_number(text)), None)
    if odd is not None:
        raise UsageError(f"{place}: label {odd!r} in {column!r} is no number. Expected numbers for --task regression.")


def _refuse_nearly_scores(texts: Sequence[str], place: str, label: str) -> None:
    """Refuse scores among which a few cells hold something else: as classes, each score would be one of its own."""
    numbers = [text for text in texts if _is_number(text)]
    others = [text for text in texts if not _is_number(text)]
    if not others or len(numbers) < NEARLY * len(texts) or _kind_of_numbers(numbers, label)[0] != "regression":
        return
    count = f"{len(others):,} of {len(texts):,} values"
    raise UsageError(
        f"{place}: {label!r} holds scores, but {count}, as {others[0]!r}, are no numbers. Expected a number in each "
        "row, so leave these rows out; or --task classification if they are classes."
    )


def _kind_of_numbers(texts: Sequence[str], label: str) -> tuple[Kind, str]:
    """Return what labels are that are all numbers, and the reason."""
    count = len(set(texts))
    if _are_fractions(texts):
        kind: Kind = "regression"
        seen = "has numbers with fractions, which are scores"
    elif count > MOST_CLASSES:
        kind = "regression"
        seen = f"has {count} whole numbers, which are taken for scores"
    else:
        kind = "classification"
        seen = f"has {count} whole numbers, which are taken for classes"
    other = "classification" if kind == "regression" else "regression"
    return kind, f"{label!r} {seen} (otherwise: --task {other})"


def _why_several(values: Sequence[Any], label: str) -> str:
    """Return why a column holds several labels in a row; empty if that is not obvious."""
    example = next((value for value in values if _is_list(value)), None)
    if example is not None:
        shown = example if isinstance(example, str) else list(example)
        return f"{label!r} has lists of labels, as in {shown!r}"
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values) or all(_is_number(text) for text in texts):
        return ""
    separator = obvious_separator(texts)
    if separator is None:
        return ""
    example = next(text for text in texts if separator in text)
    return f"{label!r} has several labels in a row, as in {example!r} (otherwise: --task classification)"


def _is_list(value: Any) -> bool:
    """Tell whether a cell is a list, or one written as text."""
    if isinstance(value, str):
        text = value.strip()
        return text.startswith("[") and text.endswith("]")
    return isinstance(value, list | tuple) or type(value).__name__ == "ndarray"  # as pyarrow gives lists


def _is_missing(value: Any) -> bool:
    if _is_list(value):
        return False
    return value is None or (isinstance(value, float) and value != value) or value == ""


def _is_empty(value: Any) -> bool:
    """Tell whether a cell is missing or has only white space."""
    return _is_missing(value) or (isinstance(value, str) and not value.strip())


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def _are_fractions(texts: Sequence[str]) -> bool:
    """Tell whether all texts are numbers, and some are not whole."""
    if not texts or not all(_is_number(text) for text in texts):
        return False
    return any(float(text) != int(float(text)) for text in texts)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
