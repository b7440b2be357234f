import itertools

import numpy as np
import pytest

from nasframe.domain import Choices


def elastic(layers=4, depths=(1, 2, 4), heads=(1, 2, 4), ffn=(8, 16)):
    knobs = {"layers": [list(range(n)) for n in depths]}
    knobs |= {f"heads.{i}": list(heads) for i in range(layers)} | {f"ffn.{i}": list(ffn) for i in range(layers)}
    active = {
        name: ("layers", [kept for kept in knobs["layers"] if int(name.split(".")[1]) in kept])
        for name in knobs
        if "." in name
    }
    return Choices(knobs, active)


def test_size_counts_inactive_knobs_once():
    domain = elastic(12, (6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072))
    assert domain.size == domain.joined("layer").size == 12**6 + 12**8 + 12**10 + 12**12


def test_enumerate_yields_each_canonical_arch_once():
    domain = elastic(2, (1, 2))
    archs = list(domain.enumerate())
    assert len(archs) == domain.size == 6 + 36
    assert all(a != b for a, b in itertools.combinations(archs, 2))
    assert all(domain.canonical(arch) == arch and domain.contains(arch) for arch in archs)


@pytest.mark.parametrize("domain", [elastic(), elastic().joined("layer")])
def test_encode_and_decode_are_inverse(domain):
    rng = np.random.default_rng(0)
    for _ in range(50):
        arch = domain.sample(rng)
        assert domain.decode(domain.encode(arch)) == arch
