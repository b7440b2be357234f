import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe_basics import package_docs as module
from nasframe_basics.package_docs import MASK, PACKAGES, NearCopies, first_paragraphs, package_docs


@pytest.fixture(scope="module")
def task():
    return package_docs()


def pairs(text):
    words = re.findall("[a-z]+", text.lower())
    return set(itertools.pairwise(words))


@pytest.mark.slow
def test_ten_balanced_classes_and_a_dev_of_a_thousand(task):
    assert dict(task.sizes) == {"train": 4200, "select": 600, "dev": 1200}
    assert list(task.labels) == list(PACKAGES)
    for split in task._splits.values():
        assert set(np.bincount(split.labels)) == {len(split) // 10}


@pytest.mark.slow
def test_no_text_gives_the_package_away_by_name(task):
    names = re.compile(
        r"torch|scipy|sklearn|scikit|pandas|numpy|matplotlib|sympy|networkx|transformers|\b(np|pd|plt)\.", re.I
    )
    texts = [text for split in task._splits.values() for (text,) in split.texts]
    assert not [text for text in texts if names.search(text)]
    masked = sum(MASK in text.split() for text in texts)
    assert 0 < masked < len(texts) / 2
    assert all(len(set(text.split()) - {MASK}) >= 2 for text in texts)


@pytest.mark.slow
def test_no_two_texts_are_near_copies(task):
    """Checked the slow way round, every pair of a sample against all others."""
    texts = [pairs(text) for split in task._splits.values() for (text,) in split.texts]
    for i in range(0, len(texts), 60):
        for j, other in enumerate(texts):
            assert i == j or 2 * len(texts[i] & other) < len(texts[i] | other)


@pytest.mark.slow
def test_the_same_packages_give_the_same_data_and_a_limit_a_part_of_it(task):
    small, again = package_docs(limit=240), package_docs(limit=240)
    assert small.fingerprint == again.fingerprint != task.fingerprint
    assert dict(small.sizes) == {"train": 240, "select": 30, "dev": 70}
    everything = {text for split in task._splits.values() for text in split.texts}
    assert all(set(split.texts) <= everything for split in small._splits.values())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=2, max_size=8), min_size=1, max_size=12))
def test_what_is_kept_is_never_near(texts):
    seen = NearCopies(0.5)
    kept = [pairs(" ".join(text)) for text in texts if seen.add(" ".join(text))]
    for i, one in enumerate(kept):
        assert all(len(one & two) < 0.5 * len(one | two) for two in kept[:i])
    assert kept


def test_docstrings_are_found_wherever_they_stand_and_cut_at_the_first_paragraph():
    source = b'''"""Module.

More."""
class A:
    """A class
    over lines."""
    def f(self):
        "Method."
if True:
    async def g():
        "Under a condition."
else:
    def h():
        "Otherwise."
try:
    pass
except ValueError:
    def i():
        r"Raw \\d."
match 1:
    case 1:
        def j():
            "In a case."
def none():
    return "not a docstring"
'''
    found = ["Module.", "A class over lines.", "Method.", "Under a condition.", "Otherwise.", r"Raw \d.", "In a case."]
    assert sorted(first_paragraphs(source)) == sorted(found)
    assert first_paragraphs(b"def broken(:") == []
    assert first_paragraphs(b"x = '\0'") == []


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Call torch.nn.Linear here", "Call _ here"),
        ("A PyTorch tensor, as np.ndarray", "A _ tensor, as _"),
        ("the scikit-learn API of Hugging Face", "the _ API of _"),
        ("see is_torch_available and `pd.DataFrame`", "see _ and `_`"),
        ("input and output npz happen", "input and output npz happen"),
    ],
)
def test_names_are_masked_whole(text, masked):
    assert module.MASKED.sub(MASK, text) == masked
