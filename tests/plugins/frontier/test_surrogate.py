"""The model and the measures of improvement against scipy, scikit-learn and plain sampling."""

import math

import numpy as np
import pytest
from scipy import integrate, linalg, stats
from sklearn.linear_model import Ridge

from nasframe.search.domain import Choices
from nasframe.search.pareto import hypervolume
from nasframe.testing.samplers import flat_domain, layered_domain
from nasframe_frontier.codes import Codes
from nasframe_frontier.improvement import (
    Gain,
    Warp,
    expected_area,
    expected_improvement,
    normal_cdf,
    scalarised_volume,
    undominated,
)
from nasframe_frontier.surrogate import GRID, Kernel, Surrogate, misfit

DOMAINS = [flat_domain(), layered_domain(3), layered_domain(3).joined("layer")]


def sampled(domain, count, seed=0):
    rng = np.random.default_rng(seed)
    return [domain.sample(rng) for _ in range(count)]


@pytest.mark.parametrize("domain", DOMAINS, ids=range(3))
def test_rows_stand_for_architectures(domain):
    codes, plain = Codes(domain), domain.joined({})
    archs = sampled(domain, 30)
    rows = np.array([codes.row(arch) for arch in archs])
    assert [codes.arch(row) for row in rows] == archs
    for arch, row in zip(archs, rows, strict=True):
        assert (plain.active(arch) == (row < codes.sizes)).all()
        assert (np.where(plain.active(arch), row, 0) == plain.encode(arch)).all()
    assert (codes.rows(codes.flags(rows)) == rows).all()
    dirty = np.where(rows < codes.sizes, rows, 0)  # equal networks, written differently
    assert (codes.settled(dirty) == rows).all()


def distance(codes, a, b, order):
    """Compute the distance between two rows knob by knob."""
    total = 0.0
    for i, j, size in zip(a, b, codes.sizes, strict=True):
        x, y = (0.0 if v == size or size == 1 else v / (size - 1) for v in (i, j))
        total += (1 - order) * (i != j) + order * abs(x - y)
    return total / len(a)


def posterior(codes, hyper, held, targets, asked):
    """Solve for the posterior directly."""

    def kernel(left, right):
        far = np.array([[distance(codes, a, b, hyper.order) for b in right] for a in left])
        return hyper.linear * (1 - far) + (1 - hyper.linear) * np.exp(-far / hyper.length)

    noisy = kernel(held, held) + hyper.noise * np.eye(len(held))
    across = kernel(asked, held)
    covariance = kernel(asked, asked) - across @ linalg.solve(noisy, across.T, assume_a="pos")
    return noisy, across @ linalg.solve(noisy, targets, assume_a="pos"), covariance


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS, ids=range(3))
def test_the_posterior_is_that_of_a_direct_solution(domain):
    codes = Codes(domain)
    rows = np.array([codes.row(arch) for arch in sampled(domain, 50)])
    targets = np.random.default_rng(1).standard_normal((30, 2))
    for start in (0, 10, 30):  # appended one by one, some at once, all at once
        model = Surrogate(codes, 40)
        model.kernel = Kernel(linear=0.3, length=0.2, noise=1e-2, order=0.5)
        model.hold(rows[:start])
        for row in rows[start:30]:
            model.append(row)
        model.learn(targets)
        mean, variance, white = model.predict(codes.flags(rows[30:]))
        noisy, right_mean, right_covariance = posterior(codes, model.kernel, rows[:30], targets, rows[30:])
        np.testing.assert_allclose(mean, right_mean, atol=1e-9)
        np.testing.assert_allclose(variance, np.maximum(np.diag(right_covariance), 1e-9), atol=1e-9)
        shared = model.covariance_with(3, codes.flags(rows[30:]), white)
        np.testing.assert_allclose(shared, right_covariance[3], atol=1e-9)
        right_scale = (targets * linalg.solve(noisy, targets)).mean(0)
        np.testing.assert_allclose(model.scale, right_scale, rtol=1e-9)


def test_conditioning_on_a_pick_is_holding_it():
    codes = Codes(flat_domain())
    rows = np.array([codes.row(arch) for arch in sampled(codes.domain, 30)])
    model = Surrogate(codes, 40)
    model.hold(rows[:10])
    flags = codes.flags(rows[10:])
    model.learn(np.zeros((10, 1)))
    _, variance, white = model.predict(flags)
    reduced = variance - model.covariance_with(0, flags, white) ** 2 / (variance[0] + model.kernel.noise)
    model.append(rows[10])
    model.learn(np.zeros((11, 1)))
    np.testing.assert_allclose(model.predict(flags)[1], reduced, atol=1e-9)


def test_the_additive_part_is_ridge_regression_on_one_hot_knobs():
    domain = flat_domain()
    codes = Codes(domain)
    archs = sampled(domain, 40)
    rows = np.array([codes.row(arch) for arch in archs])
    targets = np.random.default_rng(2).standard_normal(40)
    model = Surrogate(codes, 40)
    model.kernel = Kernel(linear=1.0, length=0.2, noise=0.1, order=0.0)
    model.hold(rows)
    model.learn(targets[:, None])
    flags, knobs = codes.flags(rows), len(codes.sizes)
    ridge = Ridge(alpha=0.1, fit_intercept=False).fit(flags / math.sqrt(knobs), targets)
    asked = codes.flags(np.array([codes.row(arch) for arch in sampled(domain, 20, seed=9)]))
    mean = model.predict(asked)[0][:, 0]
    np.testing.assert_allclose(mean, ridge.predict(asked / math.sqrt(knobs)), atol=1e-9)
    sums = asked @ model.effects()[:, 0]
    np.testing.assert_allclose(sums - sums[0], mean - mean[0], atol=1e-9)


def test_the_kernel_is_chosen_by_likelihood():
    domain = Choices({f"k{i}": list(range(4)) for i in range(6)})
    codes, rng = Codes(domain), np.random.default_rng(3)
    rows = np.array([codes.row(arch) for arch in sampled(domain, 60)])
    model = Surrogate(codes, 60)
    model.hold(rows)
    distances = {order: model.flags @ table @ model.flags.T for order, table in model.tables.items()}
    targets = rng.standard_normal((60, 1))
    for kernel in (model.kernel, Kernel(linear=0.3, length=0.1, noise=0.1, order=0.0)):
        noisy, *_ = posterior(codes, kernel, rows, targets, rows[:1])
        amplitude = float(targets[:, 0] @ linalg.solve(noisy, targets[:, 0])) / 60
        right = -2 * stats.multivariate_normal(np.zeros(60), amplitude * noisy).logpdf(targets[:, 0])
        constant = 60 * (math.log(2 * math.pi) + 1)
        assert misfit(kernel, distances, targets) + constant == pytest.approx(right, abs=1e-6)
    smooth = -np.array([sum(row) for row in rows], float)[:, None]  # additive, in the order of the values, no noise
    model.fit(smooth - smooth.mean())
    assert model.kernel.order == max(GRID["order"])
    assert model.kernel.noise == min(GRID["noise"])
    model.fit(targets)  # pure noise
    assert model.kernel.noise == max(GRID["noise"])


def example(seed=0):
    rng = np.random.default_rng(seed)
    errors = rng.gamma(2.0, 1.0, (40, 1)) + 3
    warp = Warp(errors, errors.min(0))
    return rng, errors, warp


def test_the_warp_can_be_undone():
    _, errors, warp = example()
    np.testing.assert_allclose(warp.errors(warp.targets), errors)
    assert warp.targets.mean() == pytest.approx(0, abs=1e-9)
    assert warp.targets.std() == pytest.approx(1)
    assert (np.argsort(errors[:, 0]) == np.argsort(warp.targets[:, 0])).all()
    flat = Warp(np.ones((5, 1)), np.ones(1))
    assert (flat.targets == 0).all()


def test_the_normal_distribution_function():
    x = np.linspace(-9, 9, 500)
    np.testing.assert_allclose(normal_cdf(x), stats.norm.cdf(x), atol=2e-6)


def test_expected_improvement_is_the_integral():
    _, errors, warp = example()
    mean, deviation = np.array([-1.0, 0.5]), np.array([0.3, 1.2])
    levels = np.quantile(errors, [[0.1, 0.5, 0.9]] * 2)
    found = expected_improvement(levels, mean, deviation, warp)
    for row in range(2):
        for column, level in enumerate(levels[row]):
            right = integrate.quad(
                lambda z, row=row, level=level: (
                    max(0.0, level - warp.errors(np.array([[mean[row] + deviation[row] * z]]))[0, 0])
                    * stats.norm.pdf(z)
                ),
                -8, 8, limit=200,
            )[0]  # fmt: skip
            assert found[row, column] == pytest.approx(right, abs=1e-4)


def staircase(rng, points):
    costs = np.sort(rng.uniform(1, 9, points))
    return np.stack([3 + 4 * np.sort(rng.uniform(0, 1, points))[::-1], costs], 1)


def gained(front, error, reference):
    before, after = (-hypervolume_of(points, reference) for points in (front, np.vstack([front, error])))
    return before - after


def hypervolume_of(points, reference):
    return hypervolume(-points, tuple(-reference))


def test_the_expected_area_is_the_mean_hypervolume_improvement():
    rng, _, warp = example()
    front, reference = staircase(rng, 8), np.array([8.0, 10.0])
    costs, mean, deviation = np.array([0.5, 3.0, 9.5, 11.0]), np.array([-0.5, 0.0, -1.0, -1.0]), np.full(4, 0.7)
    found = expected_area(costs, mean, deviation, warp, front[rng.permutation(8)], reference)
    draws = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    for i, cost in enumerate(costs):
        errors = warp.errors((mean[i] + deviation[i] * draws)[:, None])[:, 0]
        right = np.mean([gained(front, np.array([[error, cost]]), reference) for error in errors])
        assert found[i] == pytest.approx(right, rel=1e-2, abs=1e-9)
    assert found[3] == 0


@pytest.mark.parametrize("size", [2, 3])
def test_the_scalarised_volume_is_proportional_to_the_improvement(size):
    rng = np.random.default_rng(4)
    front = rng.uniform(0.3, 1.0, (30, size))
    front = front[[i for i in range(30) if not ((front <= front[i]).all(1) & (front < front[i]).any(1)).any()]]
    reference = np.full(size, 1.1)
    asked = np.concatenate([front[:3] - rng.uniform(0.02, 0.3, (3, size)), front[:1] + 0.05])
    directions = abs(rng.standard_normal((40_000, size)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = scalarised_volume(np.repeat(asked[None], len(directions), 0), front, reference, directions)
    span = np.prod(reference - front.min(0))
    constant = math.pi ** (size / 2) / (2**size * math.gamma(size / 2 + 1)) * span
    right = [gained(front, row[None], reference) for row in asked]
    np.testing.assert_allclose(constant * found, right, rtol=0.03, atol=1e-9)


def test_two_predicted_errors_are_drawn():
    rng = np.random.default_rng(5)
    errors = rng.gamma(2.0, 1.0, (40, 2))
    warp = Warp(errors, errors.min(0))
    front = errors[[i for i in range(40) if not ((errors <= errors[i]).all(1) & (errors < errors[i]).any(1)).any()]]
    gain = Gain(warp, [0, 1], front, errors.max(0), rng)
    mean = np.array([[-1.5, -1.5], [0.0, 0.0], [3.0, 3.0]])
    gains = gain(warp.errors(mean), mean, np.full((3, 2), 0.3))
    assert gains[0] > gains[1] >= gains[2] == 0
    gain.believe(warp.errors(mean)[0])
    assert gain(warp.errors(mean), mean, np.full((3, 2), 0.3))[0] < 0.8 * gains[0]


def test_what_remains_of_a_front():
    front = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert undominated(front, np.array([1.5, 1.5])).tolist() == [0, 2, 3]
    assert undominated(front, np.array([2.0, 2.0])).tolist() == [0, 1, 2]
    assert undominated(np.array([[3.0], [5.0]]), np.array([4.0])).tolist() == [0, 2, 1]
