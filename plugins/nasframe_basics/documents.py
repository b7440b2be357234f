"""Documents of text, for tasks that learn the language itself: from files, from docstrings, from GLUE's sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from nasframe.errors import UsageError, listing
from nasframe.notices import Notify
from nasframe.records import DataSource, Portion
from nasframe_basics.glue import TASKS, Layout, read_rows
from nasframe_basics.kept_docstrings import docstrings, kept_docstrings
from nasframe_basics.package_docs import PACKAGES
from nasframe_basics.rows import decoded, located, read_texts
from nasframe_basics.splits import Split, carve

Documents: TypeAlias = Literal["paragraph", "line", "file"]
Package: TypeAlias = Literal[
    "matplotlib", "networkx", "numpy", "pandas", "python", "scipy", "sklearn", "sympy", "torch", "transformers"
]
Files: TypeAlias = Path | str | list[Path | str]


@dataclass(frozen=True)
class Sources:
    """Where documents come from: files, packages, or a GLUE folder; the options of the tasks that read them.

    Args:
        train: a text file or a list of them, in UTF-8.
        dev: the text files to report on.
        packages: Python packages whose docstrings are the documents.
        glue: a folder with GLUE's own layout, whose training sentences are the documents.
        documents: what a document is in a file.
        limit: documents to read of each file or package.
        base: the folder that relative file names belong to.
    """

    train: Files | None = None
    dev: Files | None = None
    packages: Sequence[str] | None = None
    glue: Path | None = None
    documents: Documents = "paragraph"
    limit: int | None = None
    base: Path | None = None


@dataclass(frozen=True)
class Texts:
    """Documents by split, and where they were read.

    Args:
        splits: ``train``, ``select`` and ``dev``, an example being a document.
        sources: the files or packages, for the summary.
    """

    splits: Mapping[str, Split]
    sources: Sequence[DataSource]


def read_splits(sources: Sources, select: Portion, dev_share: Portion, seed: int, notify: Notify) -> Texts:
    """Read documents and split them; equal documents stay in one split.

    Args:
        sources: where they come from.
        select: share or number of training documents that are set aside for making choices.
        dev_share: share or number that is set aside for ``dev``, if the sources have none.
        seed: draws the splits.
        notify: receives what was decided.

    Raises:
        UsageError: a file cannot be read or holds no text; the message names it.
    """
    corpora = read_corpora(sources, notify)
    splits = {"train": joined(corpora, "train")}
    if sources.dev is None:
        # Carved before `select`, so that `dev` is the same whatever `select` is.
        rest, dev_data = carve(splits["train"], dev_share, None, seed, "dev")
        splits = {"train": rest, "dev": dev_data}
    else:
        splits["dev"] = joined(corpora, "dev")
        notify_shared(splits, notify)
    training, selection = carve(splits["train"], select, None, seed)
    splits = {"train": training, "select": selection, "dev": splits["dev"]}
    read = [DataSource(corpus.split, corpus.name, len(corpus.documents)) for corpus in corpora]
    return Texts(splits, read)


@dataclass(frozen=True)
class Corpus:
    """The documents of one file, or of one package.

    Args:
        split: the task's split that they belong to.
        name: the file or package.
        documents: the texts, in order.
    """

    split: str
    name: str
    documents: Sequence[str]


def source_faults(options: Mapping[str, Any], kinds: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield rules about the options of sources that types cannot express.

    Args:
        options: the task's.
        kinds: the options that a task has for its sources, of which a recipe gives one: ``train``, ``packages`` …
    """
    given = [kind for kind in kinds if options.get(kind) is not None]
    for kind in given[1:]:
        yield (kind,), f"the texts are named twice. Expected either {given[0]} or {kind}."
    if not given:
        others = {"packages": "packages whose docstrings to read", "glue": "a folder with GLUE's own layout"}
        expected = ["text files", *(others[kind] for kind in kinds if kind in others)]
        yield ("train",), f"missing. Expected {', or '.join(expected)}."
    if options.get("dev") is not None and options.get("train") is None:
        yield ("dev",), "needs train. Expected both, or dev_share."
    packages = options.get("packages")
    if isinstance(packages, list):
        repeated = sorted({str(name) for name in packages if packages.count(name) > 1})
        if repeated:
            yield ("packages",), f"{listing(repeated)} is named twice. Expected each package once."
        if not packages:
            yield ("packages",), f"none named. Expected some of {', '.join(PACKAGES)}."


def missing_files(options: Mapping[str, Any], base: Path) -> Iterator[tuple[str, str]]:
    """Yield the options that name files which are not there."""
    for name in ("train", "dev"):
        for path in _paths(options.get(name), base):
            if not path.is_file():
                yield name, f"{path}: no such file. Expected a text file."
    if options.get("glue") is not None:
        try:
            glue_files(located(options["glue"], base))
        except UsageError as error:
            yield "glue", str(error).removeprefix("glue: ")


def _paths(files: Files | None, base: Path | None) -> list[Path]:
    """Return the files that an option names."""
    if files is None:
        return []
    names = files if isinstance(files, list) else [files]
    return [located(name, base) for name in names]


def read_corpora(sources: Sources, notify: Notify) -> list[Corpus]:
    """Read the documents, file by file or package by package."""
    corpora = []
    for package in sources.packages or ():
        texts = _docstrings(package, sources.limit, notify)
        if not texts:
            raise UsageError(f"packages: {package} has no docstrings here. Expected its source files.")
        corpora.append(Corpus("train", package, texts))
    for split, files in (("train", sources.train), ("dev", sources.dev)):
        for path in _paths(files, sources.base):
            texts = read_documents(path, sources.documents)
            corpora.append(Corpus(split, str(path), texts[: sources.limit]))
    if sources.glue is not None:
        for layout, path in glue_files(located(sources.glue, sources.base)).items():
            texts = glue_sentences(TASKS[layout], path, sources.limit)
            corpora.append(Corpus("train", str(path), texts))
    return corpora


def _docstrings(package: str, limit: int | None, notify: Notify) -> list[str]:
    """Return the docstrings of a package, at most ``limit`` of them; all are kept in nasframe's cache."""
    if limit is not None:  # a few need not wait for all
        return list(itertools.islice(docstrings(package), limit))
    try:
        return kept_docstrings(package)
    except OSError as error:
        notify("task.packages", f"Docstrings are read each time, because nasframe's cache cannot keep them: {error}.")
        return list(docstrings(package))


def glue_files(folder: Path) -> dict[str, Path]:
    """Return GLUE task → its training file, of all tasks that a folder in GLUE's own layout has.

    Args:
        folder: one task's folder, or the folder that holds them.

    Raises:
        UsageError: there is none.
    """
    files = {}
    for name, layout in TASKS.items():
        places = [folder / layout.folder / "train.tsv"]
        if folder.name == layout.folder:
            places.append(folder / "train.tsv")
        for place in places:
            if place.is_file():
                files[name] = place
    if not files:
        folders = ", ".join(layout.folder for layout in TASKS.values())
        raise UsageError(f"glue: {folder}: no training file of GLUE. Expected train.tsv in one of {folders}.")
    return files


def glue_sentences(layout: Layout, path: Path, limit: int | None) -> list[str]:
    """Return the sentences of a GLUE training file, each text once, in order; labels are left out.

    Args:
        layout: the task's.
        path: its file.
        limit: the largest number of sentences.
    """
    rows = read_rows(path, layout)
    sentences: dict[str, None] = {}
    for texts in read_texts(rows, layout.texts):
        sentences.update(dict.fromkeys(text.strip() for text in texts if text.strip()))
    return list(itertools.islice(sentences, limit))


def read_documents(path: Path, unit: Documents) -> list[str]:
    """Read the documents of a text file.

    Args:
        path: the file; UTF-8, a byte-order mark allowed.
        unit: ``paragraph``, ``line`` or ``file``.

    Raises:
        UsageError: it is missing, is not UTF-8, or holds no text.
    """
    text = decoded(path).replace("\r\n", "\n").replace("\r", "\n")
    if unit == "file":
        parts = [text.strip("\n")]
    elif unit == "line":
        parts = text.split("\n")
    else:
        parts = _paragraphs(text)
    documents = [part for part in parts if part.strip()]
    if not documents:
        raise UsageError(f"{path}: no text. Expected at least one {unit}.")
    return documents


def _paragraphs(text: str) -> list[str]:
    """Return the parts of a text between empty lines.

    >>> _paragraphs("one\\ntwo\\n \\nthree\\n")
    ['one\\ntwo', 'three']
    """
    paragraphs: list[str] = []
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            paragraphs.append("\n".join(lines))
            lines = []
    return paragraphs


def joined(corpora: Iterable[Corpus], split: str) -> Split:
    """Return the documents of a split, labelled by file so that carved splits hold some of each."""
    texts: list[tuple[str, ...]] = []
    labels: list[int] = []
    chosen = [corpus for corpus in corpora if corpus.split == split]
    for number, corpus in enumerate(chosen):
        texts += [(text,) for text in corpus.documents]
        labels += [number] * len(corpus.documents)
    return Split(texts, np.array(labels, dtype=np.int64))


def notify_shared(splits: Mapping[str, Split], notify: Notify) -> None:
    """Report the documents of ``dev`` that are in the training files, too."""
    train_texts = set(splits["train"].texts)
    dev = splits["dev"].texts
    shared = sum(text in train_texts for text in dev)
    if shared:
        text = f"{shared:,} of {len(dev):,} documents stand in the training files too. They are kept."
        notify("task.dev", text)


def perplexity(loss: float) -> float:
    """Return the exponential of a mean loss in nats, infinity if that is too large for a number.

    >>> round(perplexity(math.log(8)), 6), perplexity(1e9)
    (8.0, inf)
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
