"""Task ``text_classification``: your own texts, one or two a row, from files or the Hugging Face hub.

The way of the data: files or hub splits become tables of rows, tables become sources (texts with labels read), sources
become splits, and splits become a ``TextTask``. What the task decides or notices on the way goes to ``notify``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasframe.errors import UsageError
from nasframe.heads import Head
from nasframe.labels import IndependentLabels
from nasframe.measures import measures
from nasframe.notices import Notice, Notify, say
from nasframe.records import Count, Label, MaxLength, MetricFormat, Portion
from nasframe_basics.cells import class_name, label_notices
from nasframe_basics.classes import (
    SENTIMENTS,
    chosen_class,
    ordered,
    positive_class,
    refuse_no_label,
    same_looking,
    seem_scores,
)
from nasframe_basics.label_sets import (
    answers,
    found_separator,
    indicators,
    joined_classes,
    labels_of,
    names_of,
    set_notices,
)
from nasframe_basics.labelled import THRESHOLD, ClassWeights
from nasframe_basics.metrics import formats
from nasframe_basics.rows import (
    Row,
    located,
    missing_columns,
    read,
    read_header,
    read_hub,
    read_labels,
    read_texts,
    renamed_columns,
)
from nasframe_basics.splits import Split, carve
from nasframe_basics.summary import Source, data_notices, pass_on
from nasframe_basics.text import TextTask, refuse_length, task_with_select
from nasframe_basics.unlabelled import NAME as UNLABELLED
from nasframe_basics.unlabelled import read_unlabelled, unlabelled_faults

CLASSES = ("accuracy", "macro_f1", "mcc", "f1")
SCORES = ("pearson", "spearman", "negative_rmse")
SETS = ("micro_f1", "macro_f1", "subset_accuracy", "label_accuracy")


def measured(options: Mapping[str, Any], space: Any = None) -> dict[str, MetricFormat]:
    """Return the metrics of classes, of labels or of scores; whether there is an ``f1`` depends on the data, too."""
    if "regression" not in options:
        return formats(tuple(dict.fromkeys((*CLASSES, *SETS, *SCORES))))
    if options["regression"]:
        return formats(SCORES)
    if _has_sets(options.get("label", "label"), options.get("multi_label", False)):
        return formats(SETS)
    return formats(CLASSES)


@measures(measured)
def text_classification(
    train: Path | str | None = None,
    dev: Path | str | None = None,
    hub: str | None = None,
    config: str | None = None,
    text: str | list[str] = "text",
    label: str | list[str] = "label",
    regression: bool = False,
    multi_label: bool = False,
    separator: str | None = None,
    metric: str | None = None,
    positive: Label | None = None,
    class_weights: ClassWeights | None = None,
    max_length: MaxLength | None = None,
    select: Portion = "10%",
    dev_share: Portion = "20%",
    train_limit: Count | None = None,
    unlabelled: Path | str | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    base: Path | None = None,
    saved_head: Head | None = None,
    notify: Notify = say,
) -> TextTask:
    """Classify, label or score texts or pairs of texts, from CSV, TSV, JSONL or Parquet files or a hub data set.

    CSV and TSV files begin with a header; TSV has no quoting. The classes are the labels that occur in the training
    data. They are in the order of the checkpoint's head if it brings one, otherwise numbers by value and then texts
    alphabetically. Classes are measured by ``accuracy``, ``macro_f1`` and ``mcc``, and also by ``f1`` if there are two
    of them or a ``positive`` one; a regression by ``pearson``, ``spearman`` and ``negative_rmse``. The first is the
    primary metric. Spaces around labels are ignored. Rows with the same text stay in one split.

    With ``multi_label``, or with several columns as ``label``, any number of labels may hold for a text. A label is
    predicted if its probability is above 0.5. The metrics are ``micro_f1``, ``macro_f1``, ``subset_accuracy`` (all
    labels of a text are right) and ``label_accuracy`` (the share of right labels).

    Args:
        train: the training file; with ``hub`` the name of the training split (default ``train``).
        dev: the file, or the hub split, to report on; without it, ``dev_share`` of the training data is set aside.
        hub: a data set of the Hugging Face hub instead of files (needs the extra ``hub``).
        config: the hub data set's configuration.
        text: the column of the text, or a list of two columns.
        label: the column of the label; or a list of columns, one for each label, that hold 1 or 0, true or false.
        regression: whether labels are numbers to predict instead of classes.
        multi_label: whether the column holds several labels, or none: a list, or names with a separator between them.
        separator: what stands between labels; default: the one of ``;``, ``|`` and ``,`` that occurs.
        metric: the primary metric, if it is not the first.
        positive: the class that ``f1`` describes; default: of two classes, the one called 1, true, yes or positive,
            otherwise the one that is rarer in the training data.
        class_weights: class → weight in the training loss, 1 for classes that are not named; ``balanced`` makes all
            classes count equally. If several labels may hold, it is the weight of the texts for which the label does.
            Metrics are not weighted.
        max_length: tokens after which a text, or a pair together, is cut; default: 128, or what the network can read
            if that is less.
        select: share or number of training examples that are set aside, by ``seed``, for making choices; none of them
            is in ``train``.
        dev_share: share or number of the examples set aside for ``dev``, if no ``dev`` is given.
        train_limit: keep at most this many training examples; a share for ``select`` then refers to this number.
        unlabelled: a file, or with ``hub`` a split, of further texts in the same columns. Only trainings that learn
            from a teacher use them; to the loss of the labels, a mean over all examples, they add nothing.
        tokenizer: injected.
        seed: injected; draws the splits.
        base: injected; the folder that relative file names belong to.
        saved_head: injected; the checkpoint's head, whose order of classes the task takes over.
        notify: injected; receives what the task decides by itself.

    Raises:
        UsageError: a file, a column, a row or a label is not as expected; the message names file and row.
    """
    _refuse_mixed(label, regression, multi_label, separator)
    label_columns = _as_list(label)
    columns = _text_columns(text, label_columns)
    tables = _tables(train, dev, hub, config, base)
    tables = [_with_columns(table, columns, label_columns) for table in tables]
    # Classes come from the training data alone: one that only dev has cannot be learned, and is an error there.
    counts = None
    labels: Sequence[str] | None = None
    if _has_sets(label, multi_label):
        metrics = list(SETS)
        labels, sources = _set_sources(tables, columns, label, separator)
    elif regression:
        metrics = list(SCORES)
        sources = [_source(table, columns, label_columns[0], None) for table in tables]
    else:
        metrics = list(CLASSES)
        counts = _class_counts(tables[0].rows, label_columns[0])
        labels = ordered(set(counts))
        sources = [_source(table, columns, label_columns[0], labels) for table in tables]
    pass_on(data_notices(sources, labels), notify)

    splits = {source.split: source.data for source in sources}
    if "dev" not in splits:
        # Carved before `select`, so that `dev` is the same whatever `select` and `train_limit` are.
        rest, dev_data = carve(splits["train"], dev_share, None, seed, "dev")
        splits = {"train": rest, "dev": dev_data}

    f1_class = _f1_class(positive, counts, labels, notify)
    if counts is not None:
        if f1_class is None:
            metrics.remove("f1")
        _notify_odd_classes(counts, tables[0].name, notify)
    return task_with_select(
        splits,
        labels,
        metrics,
        select,
        train_limit,
        sources=sources,
        primary=metric,
        tokenizer=tokenizer,
        max_length=max_length,
        seed=seed,
        notify=notify,
        saved_head=saved_head,
        positive=f1_class,
        class_weights=class_weights,
        unlabelled=None if unlabelled is None else read_unlabelled(unlabelled, columns, base, hub, config),
    )


def _validate(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a ``max_length`` in the recipe that does not fit the network or the texts."""
    texts = _as_list(options.get("text", ""))
    refuse_length(options.get("max_length"), len(texts), tokenizer)


text_classification.validate = _validate  # type: ignore[attr-defined]
text_classification.sizes_suffice = True  # type: ignore[attr-defined]


def _on_files(options: Mapping[str, Any], base: Path) -> Iterator[tuple[str, str]]:
    """Yield the options that name columns missing from a local file, each with its problem.

    Args:
        options: the task's options.
        base: the recipe's folder.
    """
    if options.get("hub") is not None:
        return  # reading a hub data set may take a download
    labels = _as_list(options.get("label", "label"))
    texts = _as_list(options.get("text", "text"))
    columns = [*texts, *labels]
    for name in ("train", "dev"):
        if not options.get(name):
            continue
        path = located(options[name], base)
        header = read_header(path)
        if header is None:
            continue
        for column, problem in missing_columns(header, columns):
            option = "label" if column in labels else "text"
            yield option, problem
    yield from unlabelled_faults(options.get("unlabelled"), texts, base)


text_classification.on_files = _on_files  # type: ignore[attr-defined]
text_classification.unlabelled = UNLABELLED  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Table:
    """The rows of one file, or of one split of a hub data set.

    Args:
        split: the task's split that they belong to.
        name: the file, or the hub data set and its split.
        rows: the rows as read.
        notices: what was odd about the file.
    """

    split: str
    name: str
    rows: list[Row]
    notices: Sequence[Notice] = ()


def _as_list(text: str | list[str]) -> list[str]:
    """Return the option ``text`` or ``label`` as a list of columns."""
    return [text] if isinstance(text, str) else list(text)


def _has_sets(label: str | list[str], multi_label: bool) -> bool:
    """Tell whether several labels may hold for a text."""
    return multi_label or isinstance(label, list)


def _refuse_mixed(label: str | list[str], regression: bool, multi_label: bool, separator: str | None) -> None:
    """Refuse options about labels that do not go together."""
    has_sets = _has_sets(label, multi_label)
    if isinstance(label, list) and len(label) < 2:
        raise UsageError(f"label: {len(label)} columns in a list. Expected two or more, or the name of one column.")
    if has_sets and regression:
        raise UsageError("regression: several labels in a row are no scores. Expected regression or multi_label.")
    if separator is None:
        return
    if not has_sets or isinstance(label, list):
        raise UsageError("separator: stands between the labels of one column. Expected it with multi_label: true.")
    if not separator:
        raise UsageError("separator: is empty. Expected what stands between the labels, such as ';'.")


def _text_columns(text: str | list[str], labels: Sequence[str]) -> list[str]:
    """Return the columns of the texts.

    Raises:
        UsageError: there are too many or none, or one column has two uses.
    """
    columns = _as_list(text)
    if len(columns) not in (1, 2):
        raise UsageError(f"text: {len(columns)} columns. Expected one or two.")
    distinct = {*columns, *labels}  # a label among the texts would give the answer away
    if len(distinct) != len(columns) + len(labels):
        label = labels[0] if len(labels) == 1 else list(labels)
        raise UsageError(f"text: {columns}, label: {label!r}. Expected a different column for each.")
    return columns


def _tables(
    train: Path | str | None, dev: Path | str | None, hub: str | None, config: str | None, base: Path | None
) -> list[Table]:
    """Read the training data, and ``dev`` if it is given.

    Raises:
        UsageError: no data are named, or a table has no rows.
    """
    tables = []
    if hub is not None:
        # The options then name splits of the data set, not files.
        names = {"train": str(train or "train")}
        if dev:
            names["dev"] = str(dev)
        for split, name in names.items():
            rows = read_hub(hub, config, name, base)
            tables.append(Table(split, f"{hub}/{name}", rows))
    elif train is not None:
        paths = {"train": located(train, base)}
        if dev:
            paths["dev"] = located(dev, base)
        for split, path in paths.items():
            rows = read(path)
            tables.append(Table(split, str(path), rows))
    else:
        raise UsageError("text_classification: no data. Expected train: FILE, or hub: NAME.")
    for table in tables:
        if not table.rows:
            raise UsageError(f"{table.name}: no rows. Expected at least one example.")
    return tables


def _with_columns(table: Table, texts: Sequence[str], labels: Sequence[str]) -> Table:
    """Rename columns that differ from the recipe's only by spaces around the name."""
    rows, notices = renamed_columns(table.rows, (*texts, *labels))
    return replace(table, rows=rows, notices=notices)


def _class_counts(rows: list[Row], label: str) -> Counter[str]:
    """Count the rows of each class.

    Raises:
        UsageError: there is only one class, or there are as many as rows, or some rows have no label.
    """
    names = [class_name(row, label) for row in rows]
    refuse_no_label(names, [row.place for row in rows], label, sentiments=True)
    counts = Counter(names)
    if len(counts) < 2:
        only = next(iter(counts))  # tables without rows were refused, so there is one
        raise UsageError(f"{rows[0].place}: all labels in {label!r} are {only!r}. Expected two classes or more.")
    # Scores with a few repeats are only noticed, see _notify_odd_classes: many classes may be meant.
    why_scores = seem_scores(counts)
    if why_scores and len(counts) == len(rows):
        raise UsageError(
            f"{rows[0].place}: label {label!r}: {why_scores}. Expected classes that repeat, or regression: true for "
            "scores."
        )
    return counts


def _f1_class(
    wanted: Label | None, counts: Mapping[str, int] | None, classes: Sequence[str] | None, notify: Notify
) -> str | None:
    """Return the class that ``f1`` is about, with a notice if the task chose it; ``None`` if there is no ``f1``.

    Args:
        wanted: the option ``positive``.
        counts: class → rows; ``None`` for regression, and if several labels may hold.
        classes: the classes in order; ``None`` for regression.
        notify: receives the notice.
    """
    if counts is None or classes is None:
        if wanted is not None:
            without = "a regression has no classes" if classes is None else "of several labels none is the positive one"
            raise UsageError(f"positive: {without}. Expected none.")
        return None
    if wanted is not None:
        return chosen_class(wanted, classes)
    if len(classes) > 2:
        return None  # macro_f1 is about all of them
    name = positive_class(counts, classes)
    notify("task.positive", f"f1 is that of the class {name!r}; the option positive: chooses another.")
    return name


def _notify_odd_classes(counts: Mapping[str, int], file: str, notify: Notify) -> None:
    """Pass on that classes look like spellings of one, or like scores."""
    for names in same_looking(list(counts)):
        listed = " and ".join(repr(name) for name in names)
        notify(file, f"The classes {listed} look like spellings of one. They are kept apart.")
    why_several = joined_classes(counts)
    if why_several:
        notify(file, why_several)
    why_scores = seem_scores(counts)
    if why_scores:
        notify(file, f"The label column looks like scores: {why_scores}. If it holds scores, say regression: true.")
    if set(counts) == SENTIMENTS:
        notify(file, "-1, 0 and 1 are three classes. If -1 means that a row has no label, leave such rows out.")


def _set_sources(
    tables: Sequence[Table], columns: list[str], label: str | list[str], separator: str | None
) -> tuple[IndependentLabels, list[Source]]:
    """Read the texts of tables, and the labels that hold for each.

    Args:
        tables: the training data first.
        columns: those of the texts.
        label: the column of the labels, or a column for each label.
        separator: what stands between labels in one column; ``None``: the one that occurs.

    Returns:
        The labels in the task's order, and the examples.
    """
    train = tables[0]
    said = [Notice("task", f"A label is predicted if its probability is above {THRESHOLD}.")]
    values = []
    if isinstance(label, list):
        labels = IndependentLabels(label)
        values = [answers(table.rows, label) for table in tables]
    else:
        if separator is None:
            separator = found_separator(train.rows, label)
            if separator is not None:
                said.append(Notice(train.name, f"The labels in {label!r} are read with {separator!r} between them."))
        sets = [[labels_of(row, label, separator) for row in table.rows] for table in tables]
        _refuse_no_label(train.rows, sets[0], label)
        labels = names_of(sets[0], train.name, label)
        for table, its_sets in zip(tables, sets, strict=True):
            values.append(indicators(table.rows, its_sets, label, labels))
    said += set_notices(values[0], labels, train.name)
    sources = []
    for table, its_values in zip(tables, values, strict=True):
        notices = [*table.notices, *(said if table is train else ())]
        places = [row.place for row in table.rows]
        data = Split(read_texts(table.rows, columns), its_values)
        sources.append(Source(table.split, table.name, data, places, notices=notices))
    return labels, sources


def _refuse_no_label(rows: Sequence[Row], sets: Sequence[Sequence[str]], column: str) -> None:
    """Refuse −1 in lists of class indices."""
    names: list[str] = []
    places: list[str] = []
    for row, its_labels in zip(rows, sets, strict=True):
        names += its_labels
        places += [row.place] * len(its_labels)
    refuse_no_label(names, places, column)


def _source(table: Table, columns: list[str], label: str, labels: Sequence[str] | None) -> Source:
    """Read a table's texts and labels.

    Args:
        table: the table.
        columns: those of the texts.
        label: the column of the labels.
        labels: the class names in the task's order; ``None`` for regression.
    """
    label_values = read_labels(table.rows, label, labels)
    texts = read_texts(table.rows, columns)
    notices = list(table.notices)
    if labels is not None:
        notices += label_notices(table.rows, label)
    places = [row.place for row in table.rows]
    data = Split(texts, label_values)
    return Source(table.split, table.name, data, places, notices=notices)
