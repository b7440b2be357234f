"""Task ``package_docs``: real English that needs no download. Given a docstring, name the package it is from.

The texts are the first paragraphs of the docstrings of the running Python's standard library and of nine packages
that nasframe requires, read from the installed source files, which are parsed and never imported. Names that give
the answer away are masked. The same installed versions give the same data, whatever the seed of the run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import itertools
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.heads import Head
from nasframe.measures import measures
from nasframe.notices import Notify, say
from nasframe.records import Count, MaxLength
from nasframe.seeds import generator
from nasframe_basics.metrics import formats
from nasframe_basics.splits import Split
from nasframe_basics.text import TextTask, refuse_length

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "python", "scipy", "sklearn", "sympy", "torch", "transformers")
METRICS = ("accuracy", "macro_f1")
PER_CLASS = {"dev": 120, "select": 60, "train": 420}
WORDS = (6, 60)  # shorter says nothing, longer is cut
LARGEST = 100_000  # bytes
DEFAULT_LENGTH = 48  # tokens
NEAR = 0.5  # two texts that share this part of their word pairs are near copies

# The names of packages and of what they are commonly imported as; whole dotted paths that begin with one; words
# that contain a name. "python" and "transformer" are masked too, which also hides honest uses of these words.
NAMES = "torch|transformers?|scipy|scikit|sklearn|pandas|numpy|matplotlib|pyplot|sympy|networkx|python|hugging ?face"
ALIASES = "np|pd|plt|mpl|nx|sp|hf|aten|c10|axes_grid1|mplot3d|pylab"
MASKED = re.compile(rf"\w*(?:{NAMES})\w*(?:[.-]\w+)*|\b(?:{ALIASES})\b(?:\.\w+)*", re.IGNORECASE)
MASK = "_"
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
SKIPPED = {"site-packages", "dist-packages", "tests", "test", "testing", "lib2to3", "_vendor", "externals", "extern"}


@measures(lambda options, space: formats(METRICS))
def package_docs(
    limit: Count | None = None,
    max_length: MaxLength | None = None,
    tokenizer: Any = None,
    saved_head: Head | None = None,
    notify: Notify = say,
) -> TextTask:
    """Tell which of ten Python packages a docstring is from; 600 a package, no two of them near copies.

    Near copies are texts that share at least half of their pairs of consecutive words (Jaccard similarity of the
    sets, after masking, letters only); one of each is kept, so train, select and dev share none.

    Args:
        limit: training examples to keep, for a quick try; ``select`` and ``dev`` shrink in proportion.
        max_length: tokens after which a text is cut; default: 48, or what the network can read if that is less.
        tokenizer: injected.
        saved_head: injected; the checkpoint's head, whose order of classes is taken over.
        notify: injected; hears what the task decides by itself.

    Returns:
        The task: 4,200 train, 600 select, 1,200 dev, ten classes of one size; primary metric ``accuracy``.

    Raises:
        UsageError: a package's sources are missing or hold too few docstrings.
    """
    share = 1.0 if limit is None else min(1.0, limit / (PER_CLASS["train"] * len(PACKAGES)))
    sizes = {name: max(1, round(size * share)) for name, size in PER_CLASS.items()}
    wanted = sum(sizes.values())
    seen = NearCopies(NEAR)
    splits: dict[str, list[tuple[str, int]]] = {name: [] for name in PER_CLASS}
    for label, package in enumerate(PACKAGES):
        texts = list(itertools.islice((text for text in masked_docs(package) if seen.add(text)), wanted))
        if len(texts) < wanted:
            raise UsageError(f"package_docs: {package} has {len(texts)} usable docstrings here. Expected {wanted}.")
        order, start = generator(0, "package_docs", package).permutation(wanted), 0
        for name, size in sizes.items():
            splits[name] += [(texts[i], label) for i in order[start : start + size]]
            start += size
    data = {name: Split([(text,) for text, _ in rows], np.array([c for _, c in rows])) for name, rows in splits.items()}
    return TextTask(
        data, PACKAGES, METRICS, METRICS[0], tokenizer, max_length, default_length=DEFAULT_LENGTH, notify=notify,
        saved_head=saved_head,
    )  # fmt: skip


def _on_plan(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a written ``max_length`` that does not fit the network."""
    if options.get("max_length") is not None:
        refuse_length(options["max_length"], 1, tokenizer)


package_docs.on_plan = _on_plan  # type: ignore[attr-defined]
package_docs.sizes_suffice = True  # type: ignore[attr-defined]


def masked_docs(package: str) -> Iterator[str]:
    """Yield the usable first paragraphs of a package's docstrings, names masked, file by file in a fixed order."""
    for path in source_files(package):
        for text in first_paragraphs(path.read_bytes()):
            words = MASKED.sub(MASK, " ".join(text.split()[: WORDS[1]])).split()
            if len(words) - words.count(MASK) >= WORDS[0]:
                yield " ".join(words)


def source_files(package: str) -> list[Path]:
    """List a package's source files, shuffled by the hash of their path so that any few are a fair sample.

    The largest come last: they are slow to parse and would fill a class from one corner of its package.
    """
    if package == "python":
        root = Path(sysconfig.get_path("stdlib"))
    else:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise UsageError(f"package_docs: the package {package} is not installed. nasframe's requirements hold it.")
        root = Path(found.submodule_search_locations[0])
    names = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    names = [name for name in names if SKIPPED.isdisjoint(name.split("/"))]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    return sorted((root / name for name in names), key=lambda path: path.stat().st_size > LARGEST)


def first_paragraphs(source: bytes) -> list[str]:
    """Return the first paragraph of every docstring in a source file, white space collapsed.

    >>> first_paragraphs(b'def f():\\n    "Open the door."\\n')
    ['Open the door.']
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of stray backslashes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    docs = (ast.get_docstring(node, clean=False) for node in documented(tree))
    return [" ".join(inspect.cleandoc(doc).split("\n\n")[0].split()) for doc in docs if doc]


def documented(tree: ast.Module) -> Iterator[Documented]:
    """Yield a module, its classes and its functions, however deep; expressions, most of a tree, are passed by."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Documented):
            yield node
        for block in ("finalbody", "orelse", "handlers", "cases", "body"):
            waiting += reversed(getattr(node, block, ()))


class NearCopies:
    """Remembers texts and refuses near copies of them.

    >>> seen = NearCopies(0.5)
    >>> seen.add("Return the sum of all the values."), seen.add("Return the sum of all values.")
    (True, False)
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._holders: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._sizes: list[int] = []

    def add(self, text: str) -> bool:
        """Remember ``text`` and answer true, unless it is a near copy of one remembered."""
        words = re.findall("[a-z]+", text.lower())
        pairs = set(itertools.pairwise(words))
        shared = Counter(itertools.chain.from_iterable(self._holders[pair] for pair in pairs))
        for other, common in shared.items():
            if common >= self.threshold * (len(pairs) + self._sizes[other] - common):
                return False
        for pair in pairs:
            self._holders[pair].append(len(self._sizes))
        self._sizes.append(len(pairs))
        return True
