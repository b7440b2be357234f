"""Task ``package_docs``: real English that needs no download. Given a docstring, tell which package it is from.

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
"""Split → texts of each package."""
WORDS = (6, 60)
"""Shorter texts say nothing and are left out; longer ones are cut."""
LARGEST = 100_000
"""Bytes of a source file above which it is read last."""
DEFAULT_LENGTH = 48
"""Tokens after which a text is cut by default."""
NEAR = 0.5
"""Two texts that share this part of their word pairs are near copies."""

# The names of packages and their usual abbreviations, whole dotted paths that begin with one, and words that contain a
# name. "python" and "transformer" are masked too, which also hides honest uses of these words.
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
    """Tell from which of ten Python packages a docstring is; 600 for each package, no two of them near copies.

    Near copies are texts that share at least half of their pairs of consecutive words (Jaccard similarity of the
    sets, after masking, letters only). One of each is kept, so that train, select and dev share none.

    Args:
        limit: training examples to keep, for a quick try; ``select`` and ``dev`` shrink in proportion.
        max_length: tokens after which a text is cut; default: 48, or what the network can read if that is less.
        tokenizer: injected.
        saved_head: injected; the checkpoint's head, whose order of classes the task takes over.
        notify: injected; receives what the task decides by itself.

    Returns:
        The task: 4,200 train, 600 select, 1,200 dev, ten classes of one size; primary metric ``accuracy``.

    Raises:
        UsageError: a package's sources are missing or have too few docstrings.
    """
    share = 1.0
    if limit is not None:
        train_size = PER_CLASS["train"] * len(PACKAGES)
        share = min(1.0, limit / train_size)
    sizes = {}
    for split, size in PER_CLASS.items():
        sizes[split] = max(1, round(size * share))
    per_package = sum(sizes.values())
    texts: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    near_copies = NearCopies(NEAR)  # one for all packages, so that no text is in two classes
    for package in PACKAGES:
        package_texts = _texts(package, per_package, near_copies)
        # The seed of the run is not used: the same packages give the same data.
        order = generator(0, "package_docs", package).permutation(per_package)
        start = 0
        for split, size in sizes.items():
            end = start + size
            for i in order[start:end]:
                texts[split].append((package_texts[i],))
            start = end
    splits = {}
    for split, size in sizes.items():
        labels = np.repeat(np.arange(len(PACKAGES)), size)  # in the order in which the texts were added
        splits[split] = Split(texts[split], labels)
    return TextTask(
        splits,
        PACKAGES,
        METRICS,
        primary=METRICS[0],
        tokenizer=tokenizer,
        max_length=max_length,
        default_length=DEFAULT_LENGTH,
        notify=notify,
        saved_head=saved_head,
    )


def _texts(package: str, count: int, near_copies: NearCopies) -> list[str]:
    """Return ``count`` texts of a package that are no near copies of one another, or of earlier texts."""
    texts: list[str] = []
    for text in masked_docs(package):
        if len(texts) == count:
            return texts
        if near_copies.add(text):
            texts.append(text)
    if len(texts) < count:
        raise UsageError(f"package_docs: {package} has {len(texts)} usable docstrings here. Expected {count}.")
    return texts


def _validate(options: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a ``max_length`` in the recipe that does not fit the network."""
    refuse_length(options.get("max_length"), 1, tokenizer)


package_docs.validate = _validate  # type: ignore[attr-defined]
package_docs.sizes_suffice = True  # type: ignore[attr-defined]


def masked_docs(package: str) -> Iterator[str]:
    """Yield the usable first paragraphs of a package's docstrings, names masked, file by file in a fixed order."""
    shortest, longest = WORDS
    for path in source_files(package):
        for paragraph in first_paragraphs(path.read_bytes()):
            text = " ".join(paragraph.split()[:longest])
            words = MASKED.sub(MASK, text).split()
            if len(words) - words.count(MASK) >= shortest:
                yield " ".join(words)


def source_files(package: str) -> list[Path]:
    """List a package's source files, shuffled by the hash of their path so that any few are a fair sample.

    The largest come last: they are slow to parse, and one of them would fill a class from one corner of its package.
    """
    if package == "python":
        root = Path(sysconfig.get_path("stdlib"))
    else:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(f"package_docs: the package {package} is not installed. nasframe's requirements hold it.")
        root = Path(spec.submodule_search_locations[0])
    names = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        if SKIPPED.isdisjoint(name.split("/")):
            names.append(name)
    names.sort(key=_digest)
    files = [root / name for name in names]
    return sorted(files, key=_is_large)  # stable: otherwise the order stays


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _is_large(path: Path) -> bool:
    return path.stat().st_size > LARGEST


def first_paragraphs(source: bytes) -> list[str]:
    """Return the first paragraph of every docstring in a source file, white space collapsed.

    >>> first_paragraphs(b'def f():\\n    "Open the door."\\n')
    ['Open the door.']
    """
    paragraphs = []
    for docstring in docstrings_of(source):
        first, _, _ = docstring.partition("\n\n")
        paragraphs.append(" ".join(first.split()))
    return paragraphs


def docstrings_of(source: bytes) -> Iterator[str]:
    """Yield the docstrings of a source file, without their indentation."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of stray backslashes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # templates, and sources of other versions of Python
        return
    for node in documented(tree):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield inspect.cleandoc(docstring)


def documented(tree: ast.Module) -> Iterator[Documented]:
    """Yield a module, its classes and its functions at any depth; expressions, most of a tree, are not visited."""
    waiting: list[Any] = [tree]  # a stack; reversed, so that blocks come in the order of the source
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
        """Remember ``text``, unless it is a near copy of a remembered one; return whether it was added."""
        words = re.findall("[a-z]+", text.lower())
        pairs = set(itertools.pairwise(words))
        # Only texts that share a pair are compared, found by an index from pairs to texts.
        shared: Counter[int] = Counter()  # earlier text → pairs in common
        for pair in pairs:
            shared.update(self._holders[pair])
        for other, common in shared.items():
            union = len(pairs) + self._sizes[other] - common
            if common >= self.threshold * union:  # Jaccard similarity, without dividing by 0
                return False
        for pair in pairs:
            self._holders[pair].append(len(self._sizes))
        self._sizes.append(len(pairs))
        return True
