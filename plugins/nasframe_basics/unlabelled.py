"""Texts without labels: read from a table, counted in the summary of the data, and used by distillation alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.notices import Notice
from nasframe.records import DataSource, DataSummary
from nasframe_basics.rows import located, missing_columns, read, read_header, read_hub, read_texts, renamed_columns
from nasframe_basics.splits import Split
from nasframe_basics.summary import Texts, summarise

NAME = "unlabelled"
"""The name of these examples beside the splits, in the table of the data."""


@dataclass(frozen=True)
class Unlabelled:
    """The texts of one table.

    Args:
        name: the file, or the hub data set and its split.
        texts: one or two texts an example.
        remarks: what was odd about the table.
    """

    name: str
    texts: Sequence[Texts]
    remarks: Sequence[Notice] = ()

    @property
    def counts(self) -> DataSource:
        """How many rows were read."""
        return DataSource(NAME, self.name, rows=len(self.texts), left_out=0)

    def notices(self, splits: Mapping[str, Split]) -> Iterator[Notice]:
        """Yield what a user should know: oddities of the table, and texts that are measured, too.

        Args:
            splits: the task's splits.
        """
        yield from self.remarks
        own = set(self.texts)
        for split, data in splits.items():
            shared = sum(texts in own for texts in data.texts)
            if split != "train" and shared:
                text = (
                    f"{shared:,} of {len(data):,} rows of {split} have a text that stands here too. They are kept, "
                    "but a teacher's answers to them are learned, so scores on them say little about new texts."
                )
                yield Notice(self.name, text)


def read_unlabelled(
    name: Path | str, columns: Sequence[str], base: Path | None, hub: str | None = None, config: str | None = None
) -> Unlabelled:
    """Read texts without labels.

    Args:
        name: the file, or with ``hub`` the name of a split.
        columns: those of the texts, one or two.
        base: the folder that a relative file name belongs to.
        hub: the hub data set.
        config: its configuration.

    Raises:
        UsageError: the table cannot be read, has no rows, or lacks a column; names file and row.
    """
    if hub is not None:
        place = f"{hub}/{name}"
        rows = read_hub(hub, config, str(name), base)
    else:
        path = located(name, base)
        place = str(path)
        rows = read(path)
    if not rows:
        raise UsageError(f"{place}: no rows. Expected at least one text.")
    rows, remarks = renamed_columns(rows, columns)
    return Unlabelled(place, read_texts(rows, columns), remarks)


def unlabelled_faults(name: Any, columns: Sequence[str], base: Path) -> Iterator[tuple[str, str]]:
    """Yield the problems of the option ``unlabelled`` that the header of its file shows.

    Args:
        name: the option's value.
        columns: the columns of the texts.
        base: the recipe's folder.
    """
    if not name:
        return
    header = read_header(located(name, base))
    if header is not None:
        for _, problem in missing_columns(header, columns):
            yield NAME, problem


def with_texts(fingerprint: str, texts: Sequence[Texts]) -> str:
    """Return the fingerprint of data to which texts without labels were added."""
    content = json.dumps([fingerprint, list(texts)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def add_unlabelled(summary: DataSummary, texts: Sequence[Texts], train: Split, tokenizer: Any) -> DataSummary:
    """Return a summary with a column for texts without labels.

    Args:
        summary: of the task's splits, and of all sources.
        texts: the texts.
        train: the training examples, of which some may be the same texts.
        tokenizer: measures lengths, if there is one.
    """
    splits = {"train": Split(train.texts, np.zeros(len(train))), NAME: Split(texts, np.zeros(len(texts)))}
    counted = summarise(splits, None, (), tokenizer, summary.max_length).splits[1]
    if summary.labels is not None:
        without_label = len(texts) if summary.independent else None
        counted = replace(counted, classes=[0] * len(summary.labels), without_label=without_label)
    # The summary of the splits counts these rows as read and not used.
    return replace(summary, splits=(*summary.splits, counted), unused=summary.unused - len(texts))
