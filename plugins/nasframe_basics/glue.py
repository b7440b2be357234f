"""Task ``glue``: the nine tasks of the GLUE benchmark (Wang et al. 2019, arXiv 1804.07461) and their metrics."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nasframe.digests import stamp
from nasframe.errors import UsageError
from nasframe.heads import Head
from nasframe.measures import measures
from nasframe.notices import Notify, say
from nasframe.records import Count, MaxLength, MetricFormat, Portion
from nasframe_basics.labelled import ClassWeights, mismatched
from nasframe_basics.metrics import formats
from nasframe_basics.rows import Row, located, read_hub, read_labels, read_texts, read_tsv
from nasframe_basics.splits import Split
from nasframe_basics.summary import Source, data_notices, pass_on
from nasframe_basics.text import TextTask, refuse_length, task_with_select
from nasframe_basics.unlabelled import NAME as UNLABELLED
from nasframe_basics.unlabelled import read_unlabelled, unlabelled_faults

ENTAILMENT = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")


@dataclass(frozen=True)
class Layout:
    """The files of a GLUE task, and its data set on the hub.

    Args:
        folder: the task's folder in GLUE's own layout.
        labels: the class names; ``None`` for regression.
        texts: the columns of the texts.
        label: the column of the label.
        metrics: its metrics, the primary one first.
        mean: the one of them that is the mean of two others, as GLUE's leaderboard scores the task.
        hub_texts: the columns of the texts on the hub, if they are others.
        numbered: whether the TSV files hold class indices.
        header: the columns of TSV files without a header.
        skip_short: whether the published file has broken rows, which every loader leaves out.
        dev: the names of the development sets.
    """

    folder: str
    labels: tuple[str, ...] | None
    texts: tuple[str, ...] = PAIR
    label: str = "label"
    metrics: tuple[str, ...] = ("accuracy",)
    mean: str = ""
    hub_texts: tuple[str, ...] = ()
    numbered: bool = False
    header: tuple[str, ...] = ()
    skip_short: bool = False
    dev: tuple[str, ...] = ("dev",)


# The order of the classes is that of the hub's data set. The outputs of checkpoints that only number them are read in
# this order.
TASKS = {
    "cola": Layout(
        folder="CoLA",
        labels=("unacceptable", "acceptable"),
        texts=("sentence",),
        metrics=("mcc", "accuracy"),
        numbered=True,
        header=("source", "label", "mark", "sentence"),  # the mark is the source's own, such as *
    ),
    "sst2": Layout(
        folder="SST-2",
        labels=("negative", "positive"),
        texts=("sentence",),
        numbered=True,
    ),
    "mrpc": Layout(
        folder="MRPC",
        labels=("not_equivalent", "equivalent"),
        texts=("#1 String", "#2 String"),
        label="Quality",
        metrics=("accuracy", "f1", "accuracy_f1"),
        mean="accuracy_f1",
        hub_texts=PAIR,
        numbered=True,
    ),
    "stsb": Layout(
        folder="STS-B",
        labels=None,
        label="score",
        metrics=("spearman", "pearson", "pearson_spearman"),
        mean="pearson_spearman",
    ),
    "qqp": Layout(
        folder="QQP",
        labels=("not_duplicate", "duplicate"),
        texts=("question1", "question2"),
        label="is_duplicate",
        metrics=("accuracy", "f1", "accuracy_f1"),
        mean="accuracy_f1",
        numbered=True,
        skip_short=True,
    ),
    "mnli": Layout(
        folder="MNLI",
        labels=("entailment", "neutral", "contradiction"),
        label="gold_label",
        hub_texts=("premise", "hypothesis"),
        dev=("dev_matched", "dev_mismatched"),
    ),
    "qnli": Layout(folder="QNLI", labels=ENTAILMENT, texts=("question", "sentence")),
    "rte": Layout(folder="RTE", labels=ENTAILMENT),
    # The other way round than in QNLI and RTE: WNLI's files hold indices, and 1 is entailment.
    "wnli": Layout(folder="WNLI", labels=("not_entailment", "entailment"), numbered=True),
}


def measured(options: Mapping[str, Any], space: Any = None) -> dict[str, MetricFormat]:
    """Return the metrics of the named task, or those of all nine."""
    name = options.get("name")
    layouts = [TASKS[name]] if name in TASKS else list(TASKS.values())
    all_formats: dict[str, MetricFormat] = {}
    for layout in layouts:
        positive = layout.labels[1] if layout.labels else None  # F1's class in both tasks that have one
        task_formats = formats(layout.metrics, positive)
        if len(layout.dev) > 1:
            task_formats |= mismatched(task_formats)
        for metric, metric_format in task_formats.items():
            # MRPC and QQP share the name f1, with different positive classes.
            all_formats.setdefault(metric, metric_format)
    return all_formats


@measures(measured)
def glue(
    name: Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"],
    path: Path | None = None,
    hub: str = "nyu-mll/glue",
    max_length: MaxLength | None = None,
    select: Portion = "10%",
    train_limit: Count | None = None,
    class_weights: ClassWeights | None = None,
    unlabelled: Path | None = None,
    score: Literal["first", "mean"] = "first",
    tokenizer: Any = None,
    seed: int = 0,
    base: Path | None = None,
    saved_head: Head | None = None,
    notify: Notify = say,
) -> TextTask:
    """Load a GLUE task from TSV files in GLUE's own layout, or else from the Hugging Face hub.

    The primary metric is Matthews correlation for CoLA, Spearman correlation for STS-B, accuracy for all others.
    MRPC and QQP also give ``f1`` (of ``equivalent`` and ``duplicate``) and GLUE's mean ``accuracy_f1``; STS-B gives
    ``pearson`` and ``pearson_spearman``; MNLI's dev gives ``accuracy`` (matched) and ``accuracy_mismatched``. GLUE's
    test labels are not public. Classes are in GLUE's order, or in that of a checkpoint that brings its head.

    Args:
        name: the task.
        path: the folder with ``train.tsv`` and ``dev.tsv``, or the folder that holds all of GLUE's folders.
        hub: the data set on the hub (needs the extra ``hub``), which is read if no ``path`` is given.
        max_length: tokens after which a text, or a pair together, is cut; default: 128, or what the network can read
            if that is less.
        select: share or number of training examples that are set aside, by ``seed``, for making choices; none of them
            is in ``train``.
        train_limit: keep at most this many training examples; a share for ``select`` then refers to this number.
        class_weights: class → weight in the training loss, 1 for classes that are not named; ``balanced`` makes all
            classes count equally. Metrics are not weighted.
        unlabelled: a file of further texts, in columns called as in the task's ``train.tsv``. Only trainings that learn
            from a teacher use them; to the loss of the labels, a mean over all examples, they add nothing.
        score: the primary metric: the ``first`` of the task, or the ``mean`` of its two, as GLUE's leaderboard has it,
            if it has two.
        tokenizer: injected.
        seed: injected; draws ``select`` and the limit.
        base: injected; the folder that a relative ``path`` belongs to.
        saved_head: injected; the checkpoint's head, whose order of classes the task takes over.
        notify: injected; receives what the task decides by itself.

    Raises:
        UsageError: a file, a row or a label is not in GLUE's layout; the message names file and row.
    """
    if name not in TASKS:
        raise UsageError(f"glue: unknown task {name!r}. Expected one of {', '.join(TASKS)}.")
    layout = TASKS[name]
    if path:
        sources = _from_folder(located(path, base), layout)
    else:
        sources = _from_hub(hub, name, layout, base)
    pass_on(data_notices(sources, layout.labels), notify)
    splits = {source.split: source.data for source in sources}
    return task_with_select(
        splits,
        layout.labels,
        layout.metrics,
        select,
        train_limit,
        sources=sources,
        primary=_primary(layout, score),
        tokenizer=tokenizer,
        max_length=max_length,
        seed=seed,
        notify=notify,
        saved_head=saved_head,
        published=True,
        class_weights=class_weights,
        unlabelled=None if unlabelled is None else read_unlabelled(unlabelled, layout.texts, base),
    )


def _primary(layout: Layout, score: Literal["first", "mean"]) -> str:
    """Return the primary metric of a task.

    >>> _primary(TASKS["mrpc"], "mean"), _primary(TASKS["rte"], "mean")
    ('accuracy_f1', 'accuracy')
    """
    if score == "mean" and layout.mean:
        return layout.mean
    return layout.metrics[0]


def _validate(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a ``max_length`` in the recipe that does not fit the network or the texts."""
    layout = TASKS.get(options["name"])
    if layout is not None:  # an unknown name is a problem of its own, which is reported elsewhere
        refuse_length(options.get("max_length"), len(layout.texts), tokenizer)


def _on_files(options: Mapping[str, Any], base: Path) -> Iterator[tuple[str, str]]:
    """Yield ``path`` with each of the task's files that its folder lacks."""
    layout = TASKS.get(options["name"])
    if layout is None:
        return
    yield from unlabelled_faults(options.get("unlabelled"), layout.texts, base)
    if not options.get("path"):
        return
    for path in _paths(located(options["path"], base), layout).values():
        if not path.is_file():
            yield "path", f"{path}: no such file. Expected the task's {path.name} in GLUE's own layout."


glue.validate = _validate  # type: ignore[attr-defined]
glue.on_files = _on_files  # type: ignore[attr-defined]
glue.sizes_suffice = True  # type: ignore[attr-defined]
glue.unlabelled = UNLABELLED  # type: ignore[attr-defined]


def _paths(folder: Path, layout: Layout) -> dict[str, Path]:
    """Return split → TSV file, in the task's own folder or in its folder below one that holds all tasks."""
    task_folder = folder / layout.folder
    if not (folder / "train.tsv").is_file() and task_folder.is_dir():
        folder = task_folder
    return {split: folder / f"{name}.tsv" for split, name in _files(layout).items()}


def _from_folder(folder: Path, layout: Layout) -> list[Source]:
    """Read the task's TSV files from its own folder, or from the folder that holds all tasks."""
    sources = []
    for split, path in _paths(folder, layout).items():
        source = _from_file(split, path, layout, *stamp(path))
        sources.append(source)
    return sources


@functools.lru_cache(maxsize=4)  # the runs of a study, which share a process, read the same files
def _from_file(split: str, path: Path, layout: Layout, *_: int) -> Source:
    """Read one TSV file; its stamp is only a part of the cache's key."""
    names = layout.labels
    if names is not None and layout.numbered:
        names = tuple(map(str, range(len(names))))
    left_out: list[str] = []
    rows = read_rows(path, layout, left_out)
    return _source(split, path, rows, layout.texts, layout.label, names, left_out)


def read_rows(path: Path, layout: Layout, left_out: list[str] | None = None) -> list[Row]:
    """Read the rows of one of a task's TSV files.

    Args:
        path: the file.
        layout: the task's.
        left_out: gets the places of broken rows, if the published file has some.
    """
    places = [] if left_out is None else left_out
    return read_tsv(path, layout.header, places.append if layout.skip_short else None)


def _from_hub(hub: str, name: str, layout: Layout, base: Path | None) -> list[Source]:
    texts = layout.hub_texts or layout.texts
    sources = []
    for split, file in _files(layout).items():
        hub_split = file.replace("dev", "validation")
        rows = read_hub(hub, name, hub_split, base)
        # The hub names every task's column of labels alike, and read_hub returns names, not indices.
        place = Path(hub) / file
        sources.append(_source(split, place, rows, texts, "label", layout.labels))
    return sources


def _files(layout: Layout) -> dict[str, str]:
    """Return split → file; ``dev`` is the first of the development sets."""
    files = {"train": "train", "dev": layout.dev[0]}
    if len(layout.dev) > 1:
        files["dev_mismatched"] = layout.dev[1]
    return files


def _source(
    split: str,
    file: Path,
    rows: list[Row],
    texts: tuple[str, ...],
    label: str,
    names: Sequence[str] | None,
    left_out: Sequence[str] = (),
) -> Source:
    if not rows:
        raise UsageError(f"{file}: no rows. Expected at least one example.")
    examples = read_texts(rows, texts)
    data = Split(examples, read_labels(rows, label, names))
    places = [row.place for row in rows]
    return Source(split, str(file), data, places, left_out)
