"""How much an architecture is expected to improve on the front, when its errors are predicted or exact.

An *error* is an objective that is to be minimised. Predicted errors are modelled by their logarithms, so that small
differences near the best count. The formulas have labels of our own; README.md lists them with their sources.
"""

from __future__ import annotations

import math

import numpy as np

WINDOW = 16  # steps of the front that count, from a candidate's cost on
DIRECTIONS = 64  # in which the volume is measured if it has no closed form
ELITE = 12  # number of the best that a search with one objective follows
_CDF_POINTS = np.linspace(-8.0, 8.0, 4001)
_CDF_VALUES = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in _CDF_POINTS])


class Warp:
    """Turns errors into standardised logarithms, which resolve small differences among the best.

    Args:
        errors: ``(points, kinds)``, to be minimised.
        best: ``(kinds,)``, the smallest known.
    """

    def __init__(self, errors: np.ndarray, best: np.ndarray) -> None:
        middle = len(errors) // 2
        median = np.sort(errors, axis=0)[middle]
        rounding = 1e-9 * (1 + abs(best))  # keeps the logarithm finite if all errors are equal
        self.floor = best - 0.7 * (median - best) - rounding  # (F6)
        logs = np.log(errors - self.floor)
        self.center = logs.mean(axis=0)
        self.width = logs.std(axis=0) + 1e-12
        self.targets = (logs - self.center) / self.width

    def errors(self, targets: np.ndarray) -> np.ndarray:
        """Return the errors of targets, the inverse of the transformation."""
        return self.floor + np.exp(self.center + targets * self.width)


class Gain:
    """Computes how far candidates are expected to push the front outward.

    Args:
        warp: of the predicted errors.
        predicted: which errors are predicted; the others are exact.
        front: ``(points, errors)`` that none dominates; with one error, the best few.
        reference: ``(errors,)`` beyond which an improvement does not count.
        rng: draws directions if there is no closed form.
    """

    def __init__(
        self, warp: Warp, predicted: list[int], front: np.ndarray, reference: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.warp = warp
        self.predicted = predicted
        self.front = front
        self.reference = reference
        kinds = front.shape[1]
        self.closed_form = len(predicted) == 1 and kinds <= 2
        if not self.closed_form:
            normal = rng.standard_normal((DIRECTIONS, kinds))
            directions = abs(normal) + 1e-3  # none has a 0, because volumes are divided by them
            lengths = np.linalg.norm(directions, axis=1, keepdims=True)
            self.directions = directions / lengths
            self.luck = rng.standard_normal((DIRECTIONS, 1, len(predicted)))  # one draw for each direction

    def __call__(self, errors: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return ``(rows,)`` expected improvements.

        Args:
            errors: ``(rows, errors)``; the predicted ones are best guesses.
            mean: ``(rows, predicted)``, warped.
            deviation: ``(rows, predicted)``.
        """
        if not self.closed_form:
            draws = np.repeat(errors[None], DIRECTIONS, axis=0)
            targets = mean + deviation * self.luck
            draws[:, :, self.predicted] = self.warp.errors(targets)
            return scalarised_volume(draws, self.front, self.reference, self.directions)

        mean = mean[:, 0]
        deviation = deviation[:, 0]
        if len(self.reference) == 1:
            best = np.full((len(errors), 1), self.front.min())
            return expected_improvement(best, mean, deviation, self.warp)[:, 0]

        score = self.predicted[0]
        cost = 1 - score  # of two errors, the one that is not predicted
        order = [score, cost]
        front = self.front[:, order]
        reference = self.reference[order]
        return expected_area(errors[:, cost], mean, deviation, self.warp, front, reference)

    def believe(self, error: np.ndarray) -> None:
        """Add an error to the front as if it had been measured."""
        candidates = np.concatenate([self.front, error[None]])
        kept = undominated(self.front, error)
        self.front = candidates[kept]


def expected_improvement(levels: np.ndarray, mean: np.ndarray, deviation: np.ndarray, warp: Warp) -> np.ndarray:
    """Return by how much an error with normal logarithm is expected to be below each of some levels.

    ``E[max(0, t − e)] = (t − f)·Φ(u) − exp(μ + σ²/2)·Φ(u − σ)`` with ``e = f + exp(N(μ, σ²))`` and
    ``u = (ln(t − f) − μ) / σ``.

    Args:
        levels: ``(rows, levels)``, the t to improve on.
        mean: ``(rows,)``, of the warped error.
        deviation: ``(rows,)``.
        warp: of this one error; its floor is f.

    Returns:
        ``(rows, levels)``.
    """
    mu = (warp.center + mean * warp.width)[:, None]
    sigma = (deviation * warp.width)[:, None]
    room = np.maximum(levels - warp.floor, 1e-300)
    u = (np.log(room) - mu) / sigma
    at_level = room * normal_cdf(u)
    below_level = np.exp(mu + sigma * sigma / 2) * normal_cdf(u - sigma)
    return np.maximum(at_level - below_level, 0.0)  # (F7)


def expected_area(
    costs: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    warp: Warp,
    front: np.ndarray,
    reference: np.ndarray,
) -> np.ndarray:
    """Return the expected hypervolume improvement for an error that is predicted and a cost that is known.

    The front is a staircase, so this is a sum over its steps: the part of the step's width that lies beyond the
    candidate's cost, times the expected improvement on the step's level.

    Args:
        costs: ``(rows,)``, exact.
        mean: ``(rows,)``, of the warped error.
        deviation: ``(rows,)``.
        warp: of the error.
        front: ``(points, 2)`` errors and costs that none dominates.
        reference: ``(2,)`` error and cost; no point of the front is beyond.

    Returns:
        ``(rows,)``.
    """
    by_cost = np.argsort(front[:, 1], kind="stable")
    front_errors, front_costs = front[by_cost].T
    # Step i has the level of the i-th point, and ends at the cost of the next. Step 0, left of all points, has the
    # reference error as its level; the last step ends at the reference cost, and empty steps fill the window.
    reference_error, reference_cost = reference
    last_end = max(reference_cost, front_costs[-1])
    padding = np.full(WINDOW, front_errors[-1])
    levels = np.concatenate([[reference_error], front_errors, padding])
    ends = np.append(front_costs, np.full(WINDOW + 1, last_end))

    # The steps from each candidate's cost on; its own cost cuts the first of them short.
    first_step = np.searchsorted(front_costs, costs, side="right")
    steps = first_step[:, None] + np.arange(WINDOW)
    right = ends[steps]
    left = np.column_stack([costs, right[:, :-1]])
    widths = np.maximum(right - left, 0.0)
    gains = expected_improvement(levels[steps], mean, deviation, warp)
    return (widths * gains).sum(axis=1)  # (F8)


def scalarised_volume(
    errors: np.ndarray, front: np.ndarray, reference: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Return the hypervolume improvement, up to a constant, averaged over random directions.

    A hypervolume is the mean over directions of the best ``min_j (y_j / λ_j)^m`` (Zhang and Golovin, 2020).

    Args:
        errors: ``(directions, rows, m)``, one draw for each direction.
        front: ``(points, m)``.
        reference: ``(m,)``.
        directions: ``(directions, m)``, positive, of length 1.

    Returns:
        ``(rows,)``.
    """
    extent = reference - front.min(axis=0) + 1e-30  # objectives have different units
    scaled = (directions * extent)[:, None]

    def reached(points: np.ndarray) -> np.ndarray:
        ratios = np.maximum(reference - points, 0.0) / scaled
        return ratios.min(axis=2) ** len(reference)  # (F9)

    on_front = reached(front).max(axis=1)
    beyond_front = np.maximum(reached(errors) - on_front[:, None], 0.0)
    return beyond_front.mean(axis=0)


def undominated(front: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return which points of a front remain when one more, the last, joins them: those that none dominates.

    With one error, the best ``ELITE`` remain.
    """
    newcomer = len(front)  # its position
    if len(error) == 1:
        errors = np.append(front[:, 0], error)
        best_first = np.argsort(errors, kind="stable")
        return best_first[:ELITE]
    is_dominated = (front <= error).all(axis=1).any()
    if is_dominated:
        return np.arange(newcomer)
    dominated = (front >= error).all(axis=1)
    return np.append(np.flatnonzero(~dominated), newcomer)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Return the standard normal distribution function, to 1e-6.

    It interpolates a table, which is faster than computing the error function for arrays without SciPy.

    >>> normal_cdf(np.array([0.0, 1.96])).round(3).tolist()
    [0.5, 0.975]
    """
    return np.interp(x, _CDF_POINTS, _CDF_VALUES)
