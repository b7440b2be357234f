"""Task ``text_classification``: your own texts, one or two a row, from files or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe_basics.rows import Row, located, read, read_hub, read_labels
from nasframe_basics.text import Split, TextTask, carve


def text_classification(
    train: Path | str | None = None,
    dev: Path | str | None = None,
    hub: str | None = None,
    config: str | None = None,
    text: str | list[str] = "text",
    label: str = "label",
    regression: bool = False,
    metric: str | None = None,
    max_length: int = 128,
    select: str | float = "10%",
    dev_share: str | float = "20%",
    train_limit: int | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    base: Path | None = None,
) -> TextTask:
    """Classify texts, or pairs of texts, or score them, from CSV, TSV, JSONL or Parquet files or a hub data set.

    CSV and TSV files begin with a header; TSV quotes nothing. Classes are the labels that occur in the training
    data, sorted, numbers by value. They are measured by ``accuracy`` and ``macro_f1`` (two classes: also ``f1`` of
    the second), a regression by ``pearson``, ``spearman`` and ``negative_rmse``; the first is the primary metric.

    Args:
        train: the training file; with ``hub`` the name of the training split (default ``train``).
        dev: the file, or the hub split, to report on; without it ``dev_share`` is carved out of the training data.
        hub: a data set of the Hugging Face hub instead of files (needs the extra ``hub``).
        config: the hub data set's configuration.
        text: the column of the text, or a list of two columns.
        label: the column of the label.
        regression: labels are numbers to come close to.
        metric: the primary metric, where it is not the first.
        max_length: tokens after which a text, or a pair together, is cut.
        select: a share or number of training examples, carved out by ``seed``, for choosing; none is in ``train``.
        dev_share: a share or number of the examples for ``dev``, where no ``dev`` is given.
        train_limit: keep at most so many training examples; a share for ``select`` is then of this number.
        tokenizer: injected.
        seed: injected; draws the splits.
        base: injected; the folder against which file names are read.

    Raises:
        UsageError: a file, a column, a row or a label is not as expected; the message names file and row.
    """
    columns = [text] if isinstance(text, str) else list(text)
    if len(columns) not in (1, 2):
        raise UsageError(f"text: {len(columns)} columns. Expected one or two.")
    sources = _sources(train, dev, hub, config, base)
    known = None if regression else _classes(sources["train"], label)
    splits = {name: _split(rows, columns, label, known) for name, rows in sources.items()}
    if "dev" not in splits:
        splits["train"], splits["dev"] = carve(splits["train"], dev_share, None, seed, "dev")
    splits["train"], splits["select"] = carve(splits["train"], select, train_limit, seed)
    if known is None:
        metrics: Sequence[str] = ("pearson", "spearman", "negative_rmse")
    else:
        metrics = ("accuracy", "macro_f1", "f1") if len(known) == 2 else ("accuracy", "macro_f1")
    labels = None if known is None else list(known)
    return TextTask(splits, labels, metrics, metric or metrics[0], tokenizer, max_length, seed)


def _sources(
    train: Path | str | None, dev: Path | str | None, hub: str | None, config: str | None, base: Path | None
) -> dict[str, list[Row]]:
    if hub is not None:
        names = {"train": str(train or "train")} | ({"dev": str(dev)} if dev else {})
        sources = {split: (f"{hub}/{name}", read_hub(hub, config, name, base)) for split, name in names.items()}
    elif train is not None:
        paths = {"train": located(train, base)} | ({"dev": located(dev, base)} if dev else {})
        sources = {split: (str(path), read(path)) for split, path in paths.items()}
    else:
        raise UsageError("text_classification: no data. Expected train: FILE, or hub: NAME.")
    for place, rows in sources.values():
        if not rows:
            raise UsageError(f"{place}: no rows. Expected at least one example.")
    return {split: rows for split, (_, rows) in sources.items()}


def _classes(rows: list[Row], label: str) -> dict[str, int]:
    names = {str(row.get(label)) for row in rows}
    try:
        ordered = sorted(names, key=float)
    except ValueError:
        ordered = sorted(names)
    if len(ordered) < 2:
        raise UsageError(f"{rows[0].place}: all labels in {label!r} are {ordered[0]!r}. Expected two classes or more.")
    return {name: i for i, name in enumerate(ordered)}


def _split(rows: list[Row], columns: list[str], label: str, known: dict[str, int] | None) -> Split:
    labels: np.ndarray = read_labels(rows, label, known)
    return Split([tuple(row.text(column) for column in columns) for row in rows], labels)
