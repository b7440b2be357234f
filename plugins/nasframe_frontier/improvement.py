"""How much an architecture is expected to improve on what is known, where its errors are predicted or exact."""

from __future__ import annotations

import math

import numpy as np

WINDOW = 16  # steps of the front, from a candidate's cost on, that count
DIRECTIONS = 64  # in which the volume is measured where it has no closed form
ELITE = 12  # how many of the best a search with one objective follows
_AT = np.linspace(-8.0, 8.0, 4001)
_NORMAL = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in _AT])


class Warp:
    """Turns errors into standardised logarithms, so that what is almost best is told apart finely.

    Args:
        errors: ``(points, kinds)``, to be minimised.
        best: ``(kinds,)``, the smallest known.
    """

    def __init__(self, errors: np.ndarray, best: np.ndarray) -> None:
        middle = np.sort(errors, axis=0)[len(errors) // 2]
        self.floor = best - 0.7 * (middle - best) - 1e-9 * (1 + abs(best))
        logs = np.log(errors - self.floor)
        self.center, self.width = logs.mean(0), logs.std(0) + 1e-12
        self.targets = (logs - self.center) / self.width

    def errors(self, targets: np.ndarray) -> np.ndarray:
        """Return the errors that targets stand for."""
        return self.floor + np.exp(self.center + targets * self.width)


class Gain:
    """Says how far candidates are expected to push the front outward.

    Args:
        warp: of the predicted errors.
        predicted: which errors are predicted; the others are exact.
        front: ``(points, errors)`` that none dominates; of one error, the best.
        reference: ``(errors,)``, what no error of interest exceeds.
        rng: draws directions where there is no closed form.
    """

    def __init__(
        self, warp: Warp, predicted: list[int], front: np.ndarray, reference: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.warp, self.predicted, self.front, self.reference = warp, predicted, front, reference
        self.closed = len(predicted) == 1 and front.shape[1] <= 2
        if not self.closed:
            directions = abs(rng.standard_normal((DIRECTIONS, front.shape[1]))) + 1e-3
            self.directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
            self.luck = rng.standard_normal((DIRECTIONS, 1, len(predicted)))

    def __call__(self, errors: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Return ``(rows,)`` expected improvements.

        Args:
            errors: ``(rows, errors)``; of the predicted ones the guess.
            mean: ``(rows, predicted)`` warped.
            deviation: ``(rows, predicted)``.
        """
        if not self.closed:
            draws = np.repeat(errors[None], DIRECTIONS, axis=0)
            draws[:, :, self.predicted] = self.warp.errors(mean + deviation * self.luck)
            return scalarised_volume(draws, self.front, self.reference, self.directions)
        mean, deviation, score = mean[:, 0], deviation[:, 0], self.predicted[0]
        if len(self.reference) == 1:
            best = np.full((len(errors), 1), self.front.min())
            return expected_improvement(best, mean, deviation, self.warp)[:, 0]
        order = [score, 1 - score]
        return expected_area(
            errors[:, order[1]], mean, deviation, self.warp, self.front[:, order], self.reference[order]
        )

    def believe(self, error: np.ndarray) -> None:
        """Take an error as if it had been measured."""
        self.front = np.concatenate([self.front, error[None]])[undominated(self.front, error)]


def expected_improvement(levels: np.ndarray, mean: np.ndarray, deviation: np.ndarray, warp: Warp) -> np.ndarray:
    """Return by how much an error is expected to be below ``levels``, its logarithm being normal.

    ``E[max(0, t − e)] = (t − f)·Φ(u) − exp(μ + σ²/2)·Φ(u − σ)`` where ``e = f + exp(N(μ, σ²))`` and
    ``u = (ln(t − f) − μ) / σ``.

    Args:
        levels: ``(rows, levels)`` to improve on.
        mean: ``(rows,)``, of the warped error.
        deviation: ``(rows,)``.
        warp: of this one error.

    Returns:
        ``(rows, levels)``.
    """
    mu, sigma = (warp.center + mean * warp.width)[:, None], (deviation * warp.width)[:, None]
    room = np.maximum(levels - warp.floor, 1e-300)
    u = (np.log(room) - mu) / sigma
    return np.maximum(room * normal_cdf(u) - np.exp(mu + sigma * sigma / 2) * normal_cdf(u - sigma), 0.0)


def expected_area(
    costs: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    warp: Warp,
    front: np.ndarray,
    reference: np.ndarray,
) -> np.ndarray:
    """Return the expected hypervolume improvement for an error that is predicted and a cost that is known.

    The front is a staircase, so this is a sum over its steps: the width of the step from the candidate's cost on, times
    the expected improvement on the step's level.

    Args:
        costs: ``(rows,)``, exact.
        mean: ``(rows,)``, of the warped error.
        deviation: ``(rows,)``.
        warp: of the error.
        front: ``(points, 2)`` errors and costs that none dominates.
        reference: ``(2,)`` error and cost, none of the front beyond.

    Returns:
        ``(rows,)``.
    """
    front = front[np.argsort(front[:, 1], kind="stable")]
    levels = np.concatenate([reference[:1], front[:, 0], np.full(WINDOW, front[-1, 0])])
    ends = np.concatenate([front[:, 1], np.full(WINDOW + 1, max(reference[1], front[-1, 1]))])
    steps = np.searchsorted(front[:, 1], costs, side="right")[:, None] + np.arange(WINDOW)
    right = ends[steps]
    left = np.concatenate([costs[:, None], right[:, :-1]], axis=1)
    gains = expected_improvement(levels[steps], mean, deviation, warp)
    return (np.maximum(right - left, 0.0) * gains).sum(1)


def scalarised_volume(
    errors: np.ndarray, front: np.ndarray, reference: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Return the hypervolume improvement, but for a constant, averaged over random directions.

    A hypervolume is the mean over directions of the best ``min_j (y_j / λ_j)^m`` (Zhang and Golovin, 2020).

    Args:
        errors: ``(directions, rows, m)``, one draw for each direction.
        front: ``(points, m)``.
        reference: ``(m,)``.
        directions: ``(directions, m)``, positive, of length 1.

    Returns:
        ``(rows,)``.
    """
    power, directions = len(reference), directions * (reference - front.min(0) + 1e-30)
    reached = (np.maximum(reference - errors, 0.0) / directions[:, None]).min(2) ** power
    known = ((np.maximum(reference - front, 0.0) / directions[:, None]).min(2) ** power).max(1)
    return np.maximum(reached - known[:, None], 0.0).mean(0)


def undominated(front: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return which points of a front remain when one more, the last, comes: those that none dominates.

    Of one error the best ``ELITE`` remain.
    """
    if len(error) == 1:
        return np.argsort(np.append(front[:, 0], error), kind="stable")[:ELITE]
    if (front <= error).all(1).any():
        return np.arange(len(front))
    return np.append(np.flatnonzero(~(front >= error).all(1)), len(front))


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Return the standard normal's distribution function, to 1e-6.

    >>> normal_cdf(np.array([0.0, 1.96])).round(3).tolist()
    [0.5, 0.975]
    """
    return np.interp(x, _AT, _NORMAL)
