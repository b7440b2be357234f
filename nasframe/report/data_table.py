"""What happened to the data, as a table: on the terminal before training, in a dry run, and in reports."""

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
"""Letters of a class's name that it shows."""


def data_rows(summary: Mapping[str, Any], most_classes: int | None = None) -> list[list[str]]:
    """Lay a summary out as rows of text, the heading first; what is zero everywhere is left out.

    Args:
        summary: a :class:`nasframe.records.DataSummary` as plain data.
        most_classes: of more classes than these the most frequent are shown, and the others together.

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
    optional = {
        "near copies": "near",
        "text also in train": "in_train",
        "near copy in train": "near_train",
        "several labels": "conflicting",
    }
    for title, key in optional.items():
        if key == "in_train" or any(split[key] for split in splits):
            rows.append([title, *_counts(splits, key)])
    if summary["labels"] is not None:
        rows += _class_rows(summary["labels"], [split["classes"] for split in splits], most_classes)
    if any(split["longest"] is not None for split in splits):
        rows.append([f"cut at {summary['max_length']} tokens", *map(_share, splits)])
        rows.append(["longest, in tokens", *_counts(splits, "longest")])
    return rows


def data_lines(summary: Mapping[str, Any]) -> list[str]:
    """Say in sentences what the table's numbers come from."""
    lines = []
    files = []
    for source in summary["sources"]:
        left_out = f", {source['left_out']:,} broken ones left out" if source["left_out"] else ""
        name = "/".join(PurePath(source["name"]).parts[-2:])
        files.append(f"{name} ({source['rows']:,} rows{left_out})")
    if files:
        lines.append(f"Read: {', '.join(files)}.")
    if summary["unused"]:
        lines.append(f"Not used: {summary['unused']:,} rows beyond the limit of training examples.")
    repeats = sum(split["rows"] - split["texts"] for split in summary["splits"])
    if repeats:
        verb = "1 row repeats" if repeats == 1 else f"{repeats:,} rows repeat"
        lines.append(f"{verb} another row's text. Repeats stay together in one split; none is dropped.")
    if any(split["near"] or split["near_train"] for split in summary["splits"]):
        lines.append("Near copies differ in case, spaces, punctuation or Unicode form only.")
    if any(_estimated(split) for split in summary["splits"]):
        most = max(split["measured"] for split in summary["splits"])
        lines.append(f"≈: lengths of the longest and of other texts, {most:,} of a split.")
    return lines


def data_table(summary: Mapping[str, Any]) -> Table:
    """Make the table for a terminal; it fits 60 columns."""
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
    """Write the table and its sentences as plain text.

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
    return ORDER.index(split["name"]) if split["name"] in ORDER else len(ORDER)


def _counts(splits: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return ["–" if split[key] is None else f"{split[key]:,}" for split in splits]


def _class_rows(labels: Sequence[str], columns: Sequence[Sequence[int]], most: int | None) -> list[list[str]]:
    """Count each class; where there are too many for a terminal, the most frequent ones, in their own order."""
    totals = [sum(counts) for counts in zip(*columns, strict=True)]
    frequent = sorted(range(len(labels)), key=lambda i: (-totals[i], i))
    shown = sorted(frequent if most is None or len(labels) <= most else frequent[: most - 1])
    rows = []
    for i in shown:
        name = labels[i] if most is None else short(labels[i], NAME)
        rows.append([f"class {name}", *(f"{counts[i]:,}" for counts in columns)])
    others = [i for i in range(len(labels)) if i not in shown]
    if others:
        sums = [sum(counts[i] for i in others) for counts in columns]
        rows.append([f"{len(others):,} other classes", *(f"{count:,}" for count in sums)])
    return rows


def _estimated(split: Mapping[str, Any]) -> bool:
    return split["cut"] is not None and split["measured"] < split["rows"]


def _share(split: Mapping[str, Any]) -> str:
    if split["cut"] is None:
        return "–"
    percent = 100 * split["cut"]
    text = "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"
    return f"≈ {text}" if _estimated(split) else text
