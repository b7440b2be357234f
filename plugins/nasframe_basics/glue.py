"""Task ``glue``: the nine tasks of the GLUE benchmark (Wang et al. 2019, arXiv 1804.07461) and their metrics."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nasframe.digests import stamp
from nasframe.errors import UsageError
from nasframe.heads import Head
from nasframe.measures import measures
from nasframe.notices import Notify, say
from nasframe.records import Count, MaxLength, MetricFormat, Portion
from nasframe_basics.metrics import formats
from nasframe_basics.rows import Row, located, read_hub, read_labels, read_tsv
from nasframe_basics.splits import Split, carve
from nasframe_basics.summary import Source, data_notices, split_notices
from nasframe_basics.text import ClassWeights, TextTask, mismatched, refuse_length


@dataclass(frozen=True)
class Layout:
    """How a GLUE task lies on disk and on the hub; its first metric is the primary one."""

    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    hub_texts: tuple[str, ...] = ()
    numbered: bool = False  # the TSV files hold class indices
    header: tuple[str, ...] = ()  # where the TSV files have none
    skip_short: bool = False  # the published file has broken rows, which every loader leaves out
    dev: tuple[str, ...] = ("dev",)


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    "cola": Layout(
        "CoLA", ("sentence",), "label", ("unacceptable", "acceptable"), ("mcc", "accuracy"),
        numbered=True, header=("source", "label", "mark", "sentence"),
    ),
    "sst2": Layout("SST-2", ("sentence",), "label", ("negative", "positive"), ("accuracy",), numbered=True),
    "mrpc": Layout(
        "MRPC", ("#1 String", "#2 String"), "Quality", ("not_equivalent", "equivalent"),
        ("accuracy", "f1", "accuracy_f1"), hub_texts=PAIR, numbered=True,
    ),
    "stsb": Layout("STS-B", PAIR, "score", None, ("spearman", "pearson", "pearson_spearman")),
    "qqp": Layout(
        "QQP", ("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate"),
        ("accuracy", "f1", "accuracy_f1"), numbered=True, skip_short=True,
    ),
    "mnli": Layout(
        "MNLI", PAIR, "gold_label", ("entailment", "neutral", "contradiction"), ("accuracy",),
        hub_texts=("premise", "hypothesis"), dev=("dev_matched", "dev_mismatched"),
    ),
    "qnli": Layout("QNLI", ("question", "sentence"), "label", ENTAILMENT, ("accuracy",)),
    "rte": Layout("RTE", PAIR, "label", ENTAILMENT, ("accuracy",)),
    "wnli": Layout("WNLI", PAIR, "label", ("not_entailment", "entailment"), ("accuracy",), numbered=True),
}  # fmt: skip


def measured(options: Mapping[str, Any], space: Any = None) -> dict[str, MetricFormat]:
    """Return the metrics of the named task, or those of all nine."""
    name = options.get("name")
    layouts = [TASKS[name]] if name in TASKS else list(TASKS.values())
    found: dict[str, MetricFormat] = {}
    for layout in layouts:
        own = formats(layout.metrics, layout.labels[1] if layout.labels else None)
        if len(layout.dev) > 1:
            own |= mismatched(own)
        found |= {metric: form for metric, form in own.items() if metric not in found}
    return found


@measures(measured)
def glue(
    name: Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"],
    path: Path | None = None,
    hub: str = "nyu-mll/glue",
    max_length: MaxLength | None = None,
    select: Portion = "10%",
    train_limit: Count | None = None,
    class_weights: ClassWeights | None = None,
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
        hub: the data set on the hub (needs the extra ``hub``), read where no ``path`` is given.
        max_length: tokens after which a text, or a pair together, is cut; default: 128, or what the network can read
            if that is less.
        select: a share or number of training examples, carved out by ``seed``, for choosing; none is in ``train``.
        train_limit: keep at most so many training examples; a share for ``select`` is then of this number.
        class_weights: class → weight in the training loss, 1 for those that are not named; ``balanced`` makes all
            classes count alike. Metrics are not weighted.
        tokenizer: injected.
        seed: injected; draws ``select`` and the limit.
        base: injected; the folder against which ``path`` is read.
        saved_head: injected; the checkpoint's head, whose order of classes is taken over.
        notify: injected; hears what the task decides by itself.

    Raises:
        UsageError: a file, a row or a label is not as GLUE lays them out; the message names file and row.
    """
    if name not in TASKS:
        raise UsageError(f"glue: unknown task {name!r}. Expected one of {', '.join(TASKS)}.")
    layout = TASKS[name]
    sources = _from_folder(located(path, base), layout) if path else _from_hub(hub, name, layout, base)
    for notice in data_notices(sources, layout.labels):
        notify(notice.place, notice.text)
    splits = {source.split: source.data for source in sources}
    splits["train"], splits["select"] = carve(splits["train"], select, train_limit, seed)
    for notice in split_notices(splits, layout.labels):
        notify(notice.place, notice.text)
    counts = [source.counts for source in sources]
    return TextTask(
        splits, layout.labels, layout.metrics, layout.metrics[0], tokenizer, max_length, seed, counts, notify=notify,
        saved_head=saved_head, published=True, class_weights=class_weights,
    )  # fmt: skip


def _on_plan(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a written ``max_length`` that does not fit the network or the texts."""
    layout = TASKS.get(options["name"])
    if layout is not None and options.get("max_length") is not None:
        refuse_length(options["max_length"], len(layout.texts), tokenizer)


glue.on_plan = _on_plan  # type: ignore[attr-defined]
glue.sizes_suffice = True  # type: ignore[attr-defined]


def _from_folder(folder: Path, layout: Layout) -> list[Source]:
    if not (folder / "train.tsv").is_file() and (folder / layout.folder).is_dir():
        folder = folder / layout.folder
    paths = {split: folder / f"{file}.tsv" for split, file in _files(layout).items()}
    return [_from_file(split, path, layout, *stamp(path)) for split, path in paths.items()]


@functools.lru_cache(maxsize=4)  # a study's runs, one after the other in a process, read the same files
def _from_file(split: str, path: Path, layout: Layout, *_: int) -> Source:
    names = layout.labels
    known = {str(i): i for i in range(len(names))} if names and layout.numbered else _index(names)
    broken: list[str] = []
    rows = read_tsv(path, layout.header, broken.append if layout.skip_short else None)
    return _source(split, path, rows, layout.texts, layout.label, known, broken)


def _from_hub(hub: str, name: str, layout: Layout, base: Path | None) -> list[Source]:
    sources = []
    for split, file in _files(layout).items():
        rows = read_hub(hub, name, file.replace("dev", "validation"), base)
        texts = layout.hub_texts or layout.texts
        sources.append(_source(split, Path(hub) / file, rows, texts, "label", _index(layout.labels)))
    return sources


def _files(layout: Layout) -> dict[str, str]:
    """Split → file: ``dev`` is the first of the development sets."""
    return {"train": "train"} | dict(zip(("dev", "dev_mismatched"), layout.dev, strict=False))


def _index(names: tuple[str, ...] | None) -> dict[str, int] | None:
    return None if names is None else {name: i for i, name in enumerate(names)}


def _source(
    split: str,
    file: Path,
    rows: list[Row],
    texts: tuple[str, ...],
    label: str,
    known: Mapping[str, int] | None,
    broken: Sequence[str] = (),
) -> Source:
    if not rows:
        raise UsageError(f"{file}: no rows. Expected at least one example.")
    data = Split([tuple(row.text(column) for column in texts) for row in rows], read_labels(rows, label, known))
    return Source(split, str(file), data, [row.place for row in rows], broken)
