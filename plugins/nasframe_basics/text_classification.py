"""Task ``text_classification``: your own texts, one or two a row, from files or the Hugging Face hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasframe.errors import UsageError
from nasframe.heads import Head
from nasframe.measures import measures
from nasframe.notices import Notice, Notify, say
from nasframe.records import Count, Label, MaxLength, MetricFormat, Portion
from nasframe_basics.cells import class_name, label_notices
from nasframe_basics.classes import chosen_class, ordered, positive_class, same_looking, seem_scores
from nasframe_basics.metrics import formats
from nasframe_basics.rows import (
    Row,
    find_column,
    located,
    missing_columns,
    read,
    read_header,
    read_hub,
    read_labels,
)
from nasframe_basics.splits import Split, carve
from nasframe_basics.summary import Source, data_notices, split_notices
from nasframe_basics.text import ClassWeights, TextTask, refuse_length

CLASSES = ("accuracy", "macro_f1", "mcc", "f1")
SCORES = ("pearson", "spearman", "negative_rmse")


def measured(options: Mapping[str, Any], space: Any = None) -> dict[str, MetricFormat]:
    """Return the metrics of classes or of scores, or both; ``f1`` depends on the data, too."""
    if "regression" not in options:
        return formats((*CLASSES, *SCORES))
    return formats(SCORES if options["regression"] else CLASSES)


@measures(measured)
def text_classification(
    train: Path | str | None = None,
    dev: Path | str | None = None,
    hub: str | None = None,
    config: str | None = None,
    text: str | list[str] = "text",
    label: str = "label",
    regression: bool = False,
    metric: str | None = None,
    positive: Label | None = None,
    class_weights: ClassWeights | None = None,
    max_length: MaxLength | None = None,
    select: Portion = "10%",
    dev_share: Portion = "20%",
    train_limit: Count | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    base: Path | None = None,
    saved_head: Head | None = None,
    notify: Notify = say,
) -> TextTask:
    """Classify texts, or pairs of texts, or score them, from CSV, TSV, JSONL or Parquet files or a hub data set.

    CSV and TSV files begin with a header; TSV quotes nothing. Classes are the labels that occur in the training
    data, in the order of a checkpoint that brings its head, else numbers by value and then texts alphabetically. They
    are measured by ``accuracy``, ``macro_f1`` and ``mcc``, and two classes, or a ``positive`` one, by ``f1``; a
    regression by ``pearson``, ``spearman`` and ``negative_rmse``; the first is the primary metric.
    Labels are read without spaces around them. Rows of one text stay in one split.

    Args:
        train: the training file; with ``hub`` the name of the training split (default ``train``).
        dev: the file, or the hub split, to report on; without it ``dev_share`` is carved out of the training data.
        hub: a data set of the Hugging Face hub instead of files (needs the extra ``hub``).
        config: the hub data set's configuration.
        text: the column of the text, or a list of two columns.
        label: the column of the label.
        regression: labels are numbers to come close to.
        metric: the primary metric, where it is not the first.
        positive: the class that ``f1`` is about; default: of two classes the one called 1, true, yes or positive, else
            the rarer one of the training data.
        class_weights: class → weight in the training loss, 1 for those that are not named; ``balanced`` makes all
            classes count alike. Metrics are not weighted.
        max_length: tokens after which a text, or a pair together, is cut; default: 128, or what the network can read
            if that is less.
        select: a share or number of training examples, carved out by ``seed``, for choosing; none is in ``train``.
        dev_share: a share or number of the examples for ``dev``, where no ``dev`` is given.
        train_limit: keep at most so many training examples; a share for ``select`` is then of this number.
        tokenizer: injected.
        seed: injected; draws the splits.
        base: injected; the folder against which file names are read.
        saved_head: injected; the checkpoint's head, whose order of classes is taken over.
        notify: injected; hears what the task decides by itself.

    Raises:
        UsageError: a file, a column, a row or a label is not as expected; the message names file and row.
    """
    columns = [text] if isinstance(text, str) else list(text)
    if len(columns) not in (1, 2):
        raise UsageError(f"text: {len(columns)} columns. Expected one or two.")
    if len({*columns, label}) <= len(columns):
        raise UsageError(f"text: {columns}, label: {label!r}. Expected a column of its own for each.")
    tables = [_with_columns(table, columns, label) for table in _tables(train, dev, hub, config, base)]
    classes = None if regression else _counts(tables[0].rows, label)
    labels = None if classes is None else ordered(set(classes))
    known = None if labels is None else {name: i for i, name in enumerate(labels)}
    sources = [_source(table, columns, label, known) for table in tables]
    for notice in data_notices(sources, labels):
        notify(notice.place, notice.text)
    splits = {source.split: source.data for source in sources}
    if "dev" not in splits:
        splits["train"], splits["dev"] = carve(splits["train"], dev_share, None, seed, "dev")
    splits["train"], splits["select"] = carve(splits["train"], select, train_limit, seed)
    chosen = None if classes is None or labels is None else _positive(positive, classes, labels, notify)
    metrics: Sequence[str] = SCORES
    if classes is None:
        if positive is not None:
            raise UsageError("positive: a regression has no classes. Expected none.")
    else:
        metrics = CLASSES if chosen is not None else tuple(name for name in CLASSES if name != "f1")
        _odd_classes(classes, tables[0].name, notify)
    for notice in split_notices(splits, labels):
        notify(notice.place, notice.text)
    counts = [source.counts for source in sources]
    return TextTask(
        splits, labels, metrics, metric or metrics[0], tokenizer, max_length, seed, counts, notify=notify,
        saved_head=saved_head, positive=chosen, class_weights=class_weights,
    )  # fmt: skip


def _on_plan(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a written ``max_length`` that does not fit the network or the texts."""
    if options.get("max_length") is not None:
        columns = 1 if isinstance(options.get("text", ""), str) else len(options["text"])
        refuse_length(options["max_length"], columns, tokenizer)


text_classification.on_plan = _on_plan  # type: ignore[attr-defined]
text_classification.sizes_suffice = True  # type: ignore[attr-defined]


def _on_files(options: Mapping[str, Any], base: Path) -> Iterator[tuple[str, str]]:
    """Yield the options that name columns which a file at hand does not have, and why.

    Args:
        options: of the task.
        base: the recipe's folder.
    """
    texts = options.get("text", "text")
    texts = [texts] if isinstance(texts, str) else list(texts)
    label = options.get("label", "label")
    files = [options[name] for name in ("train", "dev") if options.get(name)]
    if options.get("hub") is not None:
        return
    for file in files:
        header = read_header(located(file, base))
        if header is not None:
            for column, problem in missing_columns(header, [*texts, label]):
                yield "label" if column == label else "text", problem


text_classification.on_files = _on_files  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Table:
    """What one file, or one split of a hub data set, holds."""

    split: str
    name: str
    rows: list[Row]
    notices: Sequence[Notice] = ()


def _tables(
    train: Path | str | None, dev: Path | str | None, hub: str | None, config: str | None, base: Path | None
) -> list[Table]:
    if hub is not None:
        names = {"train": str(train or "train")} | ({"dev": str(dev)} if dev else {})
        tables = [Table(split, f"{hub}/{name}", read_hub(hub, config, name, base)) for split, name in names.items()]
    elif train is not None:
        paths = {"train": located(train, base)} | ({"dev": located(dev, base)} if dev else {})
        tables = [Table(split, str(path), read(path)) for split, path in paths.items()]
    else:
        raise UsageError("text_classification: no data. Expected train: FILE, or hub: NAME.")
    for table in tables:
        if not table.rows:
            raise UsageError(f"{table.name}: no rows. Expected at least one example.")
    return tables


def _with_columns(table: Table, texts: Sequence[str], label: str) -> Table:
    """Give the columns that a recipe names these names, where a file has spaces around them."""
    names: dict[str, str] = {}
    notices: list[Notice] = []
    for wanted in (*texts, label):
        name, remarks = find_column(table.rows, wanted)
        notices += remarks
        if name != wanted:
            names[name] = wanted
    if not names:
        return table
    rows = [Row(row.place, {names.get(key, key): value for key, value in row.values.items()}) for row in table.rows]
    return Table(table.split, table.name, rows, notices)


def _counts(rows: list[Row], label: str) -> Counter[str]:
    """Count the rows of each class.

    Raises:
        UsageError: there is one class only, or as many as rows.
    """
    counts = Counter(class_name(row, label) for row in rows)
    if len(counts) < 2:
        only = next(iter(counts))
        raise UsageError(f"{rows[0].place}: all labels in {label!r} are {only!r}. Expected two classes or more.")
    why = seem_scores(counts)
    if why and len(counts) == len(rows):
        raise UsageError(
            f"{rows[0].place}: label {label!r}: {why}. Expected classes that repeat, or regression: true for scores."
        )
    return counts


def _positive(wanted: Label | None, counts: Mapping[str, int], classes: list[str], notify: Notify) -> str | None:
    """Return the class that ``f1`` is about, and say so if nobody chose it; ``None`` for several classes."""
    if wanted is not None:
        return chosen_class(wanted, classes)
    if len(classes) > 2:
        return None
    found = positive_class(counts, classes)
    notify("task.positive", f"f1 is that of the class {found!r}; the option positive: chooses another.")
    return found


def _odd_classes(counts: Mapping[str, int], file: str, notify: Notify) -> None:
    """Say what looks odd about the classes."""
    for names in same_looking(list(counts)):
        listed = " and ".join(repr(name) for name in names)
        notify(file, f"The classes {listed} look like spellings of one. They are kept apart.")
    why = seem_scores(counts)
    if why:
        notify(file, f"The label column looks like scores: {why}. If it holds scores, say regression: true.")


def _source(table: Table, columns: list[str], label: str, known: dict[str, int] | None) -> Source:
    labels = read_labels(table.rows, label, known)
    data = Split([tuple(row.text(column) for column in columns) for row in table.rows], labels)
    notices = list(table.notices)
    if known is not None:
        notices += label_notices(table.rows, label)
    return Source(table.split, table.name, data, [row.place for row in table.rows], notices=notices)
