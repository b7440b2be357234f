"""The step of θ against the published code's own numbers and against a second computation, written differently."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.records import Trial
from nasframe.search.domain import Choices
from nasframe_yoco_bert.natural_gradient import fisher_norm, lower_bound, natural_gradient, step, utility
from nasframe_yoco_bert.sng_published import PublishedSNG

SHARED = Path(os.environ.get("NASFRAME_SHARED", Path(__file__).resolve().parents[4] / "shared"))
VECTORS = SHARED / "vectors/sng.json"


def flat(sizes):
    return Choices({f"k{d}": list(range(size)) for d, size in enumerate(sizes)})


def updated(theta, samples, losses, delta):
    """One published update in plain Python: rows of lists, the norm in K − 1 free coordinates of each row."""
    lam, mu = len(losses), math.ceil(len(losses) / 4)
    ranked = sorted(range(lam), key=lambda j: losses[j])
    worth = dict.fromkeys(ranked, 0.0)
    for j in ranked[:mu]:
        worth[j] += 1 / mu
    for j in ranked[lam - mu :]:
        worth[j] -= 1 / mu
    gradient = [
        [sum(worth[j] * ((samples[j][d] == k) - p) for j in ranked) / lam for k, p in enumerate(row)]
        for d, row in enumerate(theta)
    ]
    norm = 0.0
    for g, row in zip(gradient, theta, strict=True):  # gᵀ F g, F the Fisher matrix of the first K − 1 probabilities
        free, last = np.array(g[:-1]), row[-1]
        norm += free @ (np.diag(1 / np.array(row[:-1])) + np.ones((len(free), len(free))) / last) @ free
    result = []
    for g, row in zip(gradient, theta, strict=True):
        bound = 1 / (len(theta) * (len(row) - 1))
        moved = [max(p + delta * slope / (math.sqrt(norm) + 1e-8), bound) for p, slope in zip(row, g, strict=True)]
        excess, room = sum(moved) - 1, sum(moved) - bound * len(row)
        moved = [p - excess * (p - bound) / room for p in moved]
        result.append([p / sum(moved) for p in moved])
    return result


@pytest.mark.skipif(not VECTORS.is_file(), reason=f"no {VECTORS}: set NASFRAME_SHARED to the folder of shared data")
def test_every_update_is_the_published_codes():
    for case in json.loads(VECTORS.read_text())["cases"]:
        domain = flat(case["categories"])
        sampler = PublishedSNG(domain, lam=case["lam"], delta=case["delta"])
        for record in case["steps"]:
            archs = [domain.decode(choice) for choice in record["choices"]]
            sampler.tell([Trial(arch, score) for arch, score in zip(archs, record["objective"], strict=True)])
            for mine, published in zip(sampler.theta, record["theta"], strict=True):
                np.testing.assert_allclose(mine, published, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("sizes", "lam", "delta"), [([4] + [12] * 12, 2, 1.0), ([3, 4, 4, 5], 4, 0.3), ([6] * 4, 7, 1)]
)
def test_every_update_is_a_second_computations(sizes, lam, delta):
    rng, domain = np.random.default_rng(5), flat(sizes)
    sampler = PublishedSNG(domain, lam=lam, delta=delta)
    theta = [[1 / size] * size for size in sizes]
    for _ in range(30):
        samples = [[int(rng.integers(size)) for size in sizes] for _ in range(lam)]
        losses = rng.random(lam).tolist()
        sampler.tell([Trial(domain.decode(c), -f) for c, f in zip(samples, losses, strict=True)])
        theta = updated(theta, samples, losses, delta)
        for mine, other in zip(sampler.theta, theta, strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_theta_stays_a_distribution_above_its_bound(data):
    shape = np.array(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    lam = data.draw(st.integers(2, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    delta = data.draw(st.sampled_from([0.01, 0.3, 1.0, 5.0]))
    theta = (np.arange(shape.max()) < shape[:, None]) / shape[:, None]
    for _ in range(20):
        c = (rng.random((lam, len(shape))) * shape).astype(int)
        mask = rng.random(c.shape) < 0.7
        g = natural_gradient(theta, c, utility(rng.integers(3, size=lam) * 1.0), mask)
        moved = step(theta, g, delta, shape)
        still = ~mask.any(0)
        np.testing.assert_array_equal(moved[still], theta[still])
        theta = moved
        np.testing.assert_allclose(theta.sum(1), 1, atol=1e-12)
        valid = np.arange(shape.max()) < shape[:, None]
        assert (theta[valid] >= (lower_bound(shape) * valid)[valid] - 1e-12).all()
        assert (theta[~valid] == 0).all()


def test_a_step_is_delta_long_in_the_fisher_metric():
    theta, shape = np.full((3, 4), 0.25), np.array([4, 4, 4])
    g = natural_gradient(theta, np.array([[0, 1, 2], [3, 1, 0]]), np.array([1.0, -1.0]), np.ones((2, 3), bool))
    moved = step(theta, g, 0.01, shape)
    assert fisher_norm(theta, moved - theta) == pytest.approx(0.01, rel=1e-6)
    np.testing.assert_array_equal(moved[1], theta[1])  # both chose alike
    assert moved[0, 0] > 0.25 > moved[0, 3]


def test_the_bound_is_the_published_one():
    bound = lower_bound(np.array([4] + [12] * 12))
    assert bound[0, 0] == pytest.approx(1 / 39)
    assert bound[1, 0] == pytest.approx(1 / 143)


@pytest.mark.parametrize(
    ("losses", "absolute", "relative"),
    [
        ([0.5, 0.5], [0, 0], [0, 0]),
        ([-0.5, -0.5], [0, 0], [1, -1]),  # the published test never holds for f ≤ 0
        ([0.0, 0.0], [0, 0], [1, -1]),
        ([1e6, 1e6 * (1 + 1e-15)], [1, -1], [0, 0]),
        ([2.0, 1.0, 1.0, 3.0], [0, 0.5, 0.5, -1], [0, 0.5, 0.5, -1]),
    ],
)
def test_what_ties(losses, absolute, relative):
    assert utility(np.array(losses), "absolute").tolist() == absolute
    assert utility(np.array(losses), "relative").tolist() == relative
