"""The table of the data: for terminals before training, for dry runs and for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from nasframe.report.tables import short

if TYPE_CHECKING:
    from rich.table import Table

ORDER = ("train", "select", "dev")
CLASSES = 12
"""Classes that a terminal shows one by one."""
NAME = 18
"""Letters of a class's name that a terminal shows."""
OPTIONAL = {
    "near copies": "near",
    "text also in train": "in_train",
    "near copy in train": "near_train",
    "several labels": "conflicting",
}
"""Title → field of the rows that are left out if they are zero in every split; a leak into ``train`` always shows."""


def data_rows(summary: Mapping[str, Any], most_classes: int | None = None) -> list[list[str]]:
    """Return a summary as rows of text, the heading first; most rows that are zero in every split are left out.

    Args:
        summary: a :class:`nasframe.records.DataSummary` as plain data.
        most_classes: if there are more classes, the most frequent ones are shown, and the others together.

    >>> from dataclasses import asdict
    >>> from nasframe.records import DataSummary, SplitSummary
    >>> dev = SplitSummary("dev", 20, 18, 0, 1, 0, 0, [12, 8], longest=31, cut=0.05, measured=20)
    >>> for row in data_rows(asdict(DataSummary([], [dev], ["no", "yes"], max_length=24))):
    ...     print(*row, sep=": ")
    : dev
    rows: 20
    distinct texts: 18
    text also in train: 1
    class no: 12
    class yes: 8
    cut at 24 tokens: 5.0 %
    longest, in tokens: 31
    """
    splits = sorted(summary["splits"], key=_position)
    rows = [["", *(split["name"].replace("_", " ") for split in splits)]]
    rows.append(["rows", *_counts(splits, "rows")])
    rows.append(["distinct texts", *_counts(splits, "texts")])
    for title, key in OPTIONAL.items():
        if key == "in_train" or any(split[key] for split in splits):
            rows.append([title, *_counts(splits, key)])
    if summary["labels"] is not None:
        rows += _class_rows(summary["labels"], [split["classes"] for split in splits], most_classes)
    if any(split["longest"] is not None for split in splits):
        rows.append([f"cut at {summary['max_length']} tokens", *map(_share, splits)])
        rows.append(["longest, in tokens", *_counts(splits, "longest")])
    return rows


def data_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences that explain the table's numbers."""
    splits = summary["splits"]
    lines = []
    files = [_source_text(source) for source in summary["sources"]]
    if files:
        lines.append(f"Read: {', '.join(files)}.")
    if summary["unused"]:
        lines.append(f"Not used: {summary['unused']:,} rows beyond the limit of training examples.")
    repeats = sum(split["rows"] - split["texts"] for split in splits)
    if repeats:
        subject = "1 row repeats" if repeats == 1 else f"{repeats:,} rows repeat"
        lines.append(f"{subject} another row's text. Repeats stay together in one split; none is dropped.")
    if any(split["near"] or split["near_train"] for split in splits):
        lines.append("Near copies differ in case, spaces, punctuation or Unicode form only.")
    if any(_is_estimated(split) for split in splits):
        most = max(split["measured"] for split in splits)
        lines.append(f"≈: lengths of the longest and of other texts, {most:,} of a split.")
    return lines


def _source_text(source: Mapping[str, Any]) -> str:
    """Name a file with its folder, and count its rows."""
    name = "/".join(PurePath(source["name"]).parts[-2:])
    rows = f"{source['rows']:,} rows"
    if source["left_out"]:
        rows += f", {source['left_out']:,} broken ones left out"
    return f"{name} ({rows})"


def data_table(summary: Mapping[str, Any]) -> Table:
    """Return the table for a terminal; it fits 60 columns."""
    from rich import box
    from rich.table import Table

    heading, *rows = data_rows(summary, CLASSES)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("data", no_wrap=True)
    for name in heading[1:]:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def data_text(summary: Mapping[str, Any], width: int | None = None) -> str:
    """Return the table and its sentences as plain text.

    Args:
        summary: a :class:`nasframe.records.DataSummary` as plain data.
        width: characters across; default: the terminal's.
    """
    import io
    import textwrap

    from rich.console import Console

    columns = width or Console(stderr=True).width
    console = Console(file=io.StringIO(), width=columns, color_system=None)
    with console.capture() as capture:
        console.print(data_table(summary))
    table = "\n".join(line.rstrip() for line in capture.get().splitlines())
    wrapped = [textwrap.fill(line, columns, break_on_hyphens=False) for line in data_lines(summary)]
    return "\n".join([table, *wrapped]) + "\n"


def _position(split: Mapping[str, Any]) -> int:
    name = split["name"]
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _counts(splits: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return ["–" if split[key] is None else f"{split[key]:,}" for split in splits]


def _class_rows(labels: Sequence[str], columns: Sequence[Sequence[int]], most: int | None) -> list[list[str]]:
    """Count each class; of too many for a terminal only the most frequent ones, in the order of the labels.

    Args:
        labels: names of the classes.
        columns: for each split the rows of each class.
        most: rows that may be shown; ``None`` shows all classes with their full names.
    """
    shown = set(range(len(labels)))
    if most is not None and len(labels) > most:
        totals = [sum(counts) for counts in zip(*columns, strict=True)]
        by_frequency = sorted(range(len(labels)), key=lambda label: (-totals[label], label))
        shown = set(by_frequency[: most - 1])  # one row is left for the others
    rows = []
    others = [0] * len(columns)
    for label, name in enumerate(labels):
        counts = [column[label] for column in columns]
        if label not in shown:
            others = [total + count for total, count in zip(others, counts, strict=True)]
            continue
        if most is not None:
            name = short(name, NAME)
        rows.append([f"class {name}", *_texts(counts)])
    if len(shown) < len(labels):
        rows.append([f"{len(labels) - len(shown):,} other classes", *_texts(others)])
    return rows


def _texts(counts: Sequence[int]) -> list[str]:
    return [f"{count:,}" for count in counts]


def _is_estimated(split: Mapping[str, Any]) -> bool:
    """Return whether only a part of the texts was tokenised."""
    return split["cut"] is not None and split["measured"] < split["rows"]


def _share(split: Mapping[str, Any]) -> str:
    if split["cut"] is None:
        return "–"
    percent = 100 * split["cut"]
    text = "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"
    return f"≈ {text}" if _is_estimated(split) else text
