"""The table of the data: for terminals before training, for dry runs and for reports.

A summary is a :class:`nasframe.records.DataSummary` as plain data, since a run keeps it as JSON. :func:`data_rows`
makes the table and :func:`data_lines` the sentences below it; :func:`data_text` puts both together for a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

from nasframe.report.tables import short

if TYPE_CHECKING:
    from rich.table import Table

ORDER = ("train", "select", "dev")
"""The splits that come first; others, such as MNLI's mismatched set, follow as the task lists them."""
CLASSES = 12
"""Classes that a terminal shows one by one."""
NAME = 18
"""Letters of a class's name that a terminal shows."""
OPTIONAL = {
    "near copies": "near",
    "{noun} also in train": "in_train",
    "near copy in train": "near_train",
    "several labels": "conflicting",
}
"""Title → field of the rows that are left out if they are zero in every split; a leak into ``train`` always shows."""

Split: TypeAlias = Mapping[str, Any]
"""A :class:`nasframe.records.SplitSummary` as plain data."""


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
    names = [split["name"].replace("_", " ") for split in splits]
    noun = _noun(summary)
    rows = [["", *names]]
    rows.append([_rows_of(summary), *_counts(splits, "rows")])
    rows.append([f"distinct {noun}s", *_counts(splits, "texts")])
    rows += _rows_about_copies(splits, noun, _has_several_labels(summary))
    rows += _rows_about_labels(summary, splits, most_classes)
    rows += _rows_about_lengths(summary, splits)
    return rows


def _has_several_labels(summary: Mapping[str, Any]) -> bool:
    """Tell whether several labels may hold for an example; in runs of earlier versions none could."""
    return bool(summary.get("independent"))


def _rows_about_copies(splits: Sequence[Split], noun: str, has_several_labels: bool) -> list[list[str]]:
    rows = []
    for title, key in OPTIONAL.items():
        is_leak = key == "in_train"
        if key == "conflicting" and has_several_labels:
            title = "conflicting labels"  # several are the rule here
        if is_leak or _is_in_some(splits, key):
            rows.append([title.format(noun=noun), *_counts(splits, key)])
    return rows


def _rows_about_labels(
    summary: Mapping[str, Any], splits: Sequence[Split], most_classes: int | None
) -> list[list[str]]:
    rows = []
    has_several_labels = _has_several_labels(summary)
    labels = summary["labels"]
    if labels is not None:
        columns = [split["classes"] for split in splits]
        title = "label" if has_several_labels else "class"
        rows += _class_rows(labels, columns, most_classes, title)
    if has_several_labels:
        rows.append(["no label", *_counts(splits, "without_label")])
    return rows


def _rows_about_lengths(summary: Mapping[str, Any], splits: Sequence[Split]) -> list[list[str]]:
    rows = []
    if any(split["longest"] is not None for split in splits):  # there is a tokenizer
        shares = [_share_cut(split) for split in splits]
        rows.append([f"cut at {summary['max_length']} tokens", *shares])
        rows.append(["longest, in tokens", *_counts(splits, "longest")])
    if any(split.get("blocks") is not None for split in splits):
        rows.append(["tokens", *_counts(splits, "tokens")])
        rows.append([f"blocks of {summary['max_length']} tokens", *_counts(splits, "blocks")])
    return rows


def _noun(summary: Mapping[str, Any]) -> str:
    """Return what a row holds; runs of earlier versions had texts only."""
    return str(summary.get("noun", "text"))


def _rows_of(summary: Mapping[str, Any]) -> str:
    """Return the name of the rows: those of texts stand in tables."""
    noun = _noun(summary)
    return "rows" if noun == "text" else f"{noun}s"


def data_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences that explain the table's numbers."""
    splits = summary["splits"]
    lines = []
    if summary["sources"]:
        files = [_source_text(source, _rows_of(summary)) for source in summary["sources"]]
        lines.append(f"Read: {', '.join(files)}.")
    if summary["unused"]:
        unused = f"{summary['unused']:,} {_rows_of(summary)}"
        lines.append(f"Not used: {unused} beyond the limit of training examples.")
    lines += _lines_about_copies(splits, _noun(summary))
    if any(_is_estimated(split) for split in splits):
        most = max(split["measured"] for split in splits)
        lines.append(f"≈: lengths of the longest and of other texts, {most:,} of a split.")
    return lines


def _lines_about_copies(splits: Sequence[Split], noun: str) -> list[str]:
    lines = []
    repeats = 0
    for split in splits:
        repeats += split["rows"] - split["texts"]
    if repeats:
        subject = f"{repeats:,} rows repeat"
        if repeats == 1:
            subject = "1 row repeats"
        lines.append(f"{subject} another row's {noun}. Repeats stay together in one split; none is dropped.")
    if _is_in_some(splits, "near") or _is_in_some(splits, "near_train"):
        lines.append("Near copies differ in case, spaces, punctuation or Unicode form only.")
    if any(split["near"] is None for split in splits):
        lines.append("Near copies, which differ in case, spaces or punctuation only, are not counted in so many rows.")
    return lines


def _source_text(source: Mapping[str, Any], rows_of: str) -> str:
    """Name a file with its folder, and count its rows."""
    name = "/".join(PurePath(source["name"]).parts[-2:])
    rows = f"{source['rows']:,} {rows_of}"
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

    columns = width or Console(stderr=True).width  # standard output may be a pipe
    console = Console(file=io.StringIO(), width=columns, color_system=None)
    with console.capture() as capture:
        console.print(data_table(summary))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    for sentence in data_lines(summary):
        lines.append(textwrap.fill(sentence, columns, break_on_hyphens=False))
    return "\n".join(lines) + "\n"


def _position(split: Split) -> int:
    name = split["name"]
    if name in ORDER:
        return ORDER.index(name)
    return len(ORDER)


def _is_in_some(splits: Sequence[Split], key: str) -> bool:
    """Tell whether some split has a number other than zero there."""
    return any(split[key] for split in splits)


def _counts(splits: Sequence[Split], key: str) -> list[str]:
    counts = []
    for split in splits:
        count = split[key]
        counts.append("–" if count is None else f"{count:,}")
    return counts


def _class_rows(
    labels: Sequence[str], columns: Sequence[Sequence[int]], most: int | None, title: str
) -> list[list[str]]:
    """Count each class; of too many for a terminal only the most frequent ones, in the order of the labels.

    Args:
        labels: names of the classes.
        columns: for each split the rows of each class.
        most: rows that may be shown; ``None`` shows all classes with their full names.
        title: what a class is called: ``class`` or ``label``.
    """
    counts_of_classes = list(zip(*columns, strict=True))
    shown = set(range(len(labels)))
    if most is not None and len(labels) > most:
        shown = _most_frequent(counts_of_classes, most - 1)  # one row is left for the others
    rows = []
    others = [0] * len(columns)
    for label, counts in enumerate(counts_of_classes):
        if label not in shown:
            others = [total + count for total, count in zip(others, counts, strict=True)]
            continue
        name = labels[label]
        if most is not None:
            name = short(name, NAME)
        rows.append([f"{title} {name}", *_texts(counts)])
    left_out = len(labels) - len(shown)
    if left_out:
        plural = "classes" if title == "class" else f"{title}s"
        rows.append([f"{left_out:,} other {plural}", *_texts(others)])
    return rows


def _most_frequent(counts_of_classes: Sequence[Sequence[int]], number: int) -> set[int]:
    """Return the positions of the most frequent classes; of equally frequent ones the first count."""
    ranked = []
    for label, counts in enumerate(counts_of_classes):
        ranked.append((-sum(counts), label))
    ranked.sort()
    return {label for _, label in ranked[:number]}


def _texts(counts: Sequence[int]) -> list[str]:
    return [f"{count:,}" for count in counts]


def _is_estimated(split: Split) -> bool:
    """Return whether only a part of the texts was tokenised."""
    return split["cut"] is not None and split["measured"] < split["rows"]


def _share_cut(split: Split) -> str:
    """Write the share of the texts that are cut."""
    if split["cut"] is None:
        return "–"
    percent = 100 * split["cut"]
    text = f"{percent:.1f} %"
    if 0 < percent < 0.1:  # some are cut: 0.0 % would deny it
        text = "< 0.1 %"
    if _is_estimated(split):
        text = f"≈ {text}"
    return text
