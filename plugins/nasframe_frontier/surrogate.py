"""A Gaussian process on the distance between architectures, small enough to answer in a tenth of a millisecond.

One kernel serves all targets. With h the mean over knobs of the distance between two values, it is

    k(h) = a·(1 − h) + (1 − a)·exp(−h / l)             (F1)

an additive part and a part that lets knobs interact. The inverse of its Cholesky factor L is kept, so that a prediction
is two matrix products, and one more architecture is one more row. The formulas have labels of our own; README.md lists
them with their sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nasframe_frontier.codes import Codes

GRID = {  # hyperparameters tried, one after the other
    "linear": (0.3, 0.6, 0.85, 0.95),  # a: the share of the kernel that is additive over knobs
    "length": (0.1, 0.2, 0.4, 0.8),  # l: how far the other part reaches, as a share of all knobs
    "noise": (1e-4, 1e-3, 1e-2, 1e-1),  # its variance, in units of the kernel's
    "order": (0.0, 0.5, 0.9),  # b: how much the order of a knob's values means
}


@dataclass(frozen=True)
class Kernel:
    """The kernel's hyperparameters, as :data:`GRID` describes them."""

    linear: float = 0.6
    length: float = 0.4
    noise: float = 1e-2
    order: float = 0.5

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """Return the kernel at some mean distances over knobs, without the noise."""
        additive = 1 - distance
        interacting = np.exp(-distance / self.length)
        return self.linear * additive + (1 - self.linear) * interacting  # (F1)


class Surrogate:
    """Predicts standardised targets from the architectures it holds.

    Args:
        codes: the domain.
        capacity: how many architectures it can hold.
    """

    def __init__(self, codes: Codes, capacity: int) -> None:
        self.codes = codes
        knobs = len(codes.sizes)
        self.tables = {order: codes.distances(order) / knobs for order in GRID["order"]}
        self.kernel = Kernel()
        self.flags = np.zeros((capacity, codes.width))
        self.near = np.zeros((codes.width, capacity))  # distance from each value of each knob to what is held
        self.inverse = np.zeros((capacity, capacity))  # L⁻¹, where L Lᵀ is the kernel with its noise
        self.size = 0

    def hold(self, rows: np.ndarray) -> None:
        """Hold these architectures and no others; cubic in their number."""
        n = len(rows)
        self.size = n
        self.flags[:n] = self.codes.flags(rows)
        flags = self.flags[:n]
        self.near[:, :n] = self._table @ flags.T
        similarity = self.kernel(flags @ self.near[:, :n])
        factor = _noisy_factor(similarity, self.kernel)
        inverse = np.linalg.inv(factor)
        self.inverse[:n, :n] = np.tril(inverse)  # without what rounding leaves above the diagonal

    def append(self, row: np.ndarray) -> None:
        """Hold one more; the factor grows by a row, at quadratic cost."""
        n = self.size
        flags = self.codes.flags(row[None])[0]
        inverse = self.inverse[:n, :n]
        similarity = self.kernel(flags @ self.near[:, :n])
        across = inverse @ similarity
        pivot_squared = 1 + self.kernel.noise - across @ across  # k(0) = 1
        pivot = math.sqrt(max(pivot_squared, 1e-10))  # positive, whatever rounding did
        self.inverse[n, :n] = -(across @ inverse) / pivot  # (F2)
        self.inverse[n, n] = 1 / pivot
        self.flags[n] = flags
        self.near[:, n] = self._table @ flags
        self.size += 1

    def learn(self, targets: np.ndarray) -> None:
        """Take the targets of all that is held, ``(held, targets)``, with mean 0."""
        inverse = self.inverse[: self.size, : self.size]
        white = inverse @ targets
        self.scale = np.maximum((white * white).mean(0), 1e-12)  # (F3) the amplitude of highest likelihood
        self.weights = inverse.T @ white

    def predict(self, flags: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict the targets of architectures.

        Args:
            flags: ``(rows, width)``.

        Returns:
            Posterior means ``(rows, targets)``; variances ``(rows,)``, to be multiplied by ``scale``; and L⁻¹k of each
            row, ``(rows, held)``, for :meth:`covariance_with`.
        """
        distance = flags @ self.near[:, : self.size]
        similarity = self.kernel(distance)
        inverse = self.inverse[: self.size, : self.size]
        white = similarity @ inverse.T
        mean = similarity @ self.weights
        variance = 1 - (white * white).sum(1)  # (F4)
        return mean, np.maximum(variance, 1e-9), white

    def covariance_with(self, one: int, flags: np.ndarray, white: np.ndarray) -> np.ndarray:
        """Return ``(rows,)`` posterior covariances with one of the rows, to be multiplied by ``scale``."""
        distance = flags @ (self._table @ flags[one])
        return self.kernel(distance) - white @ white[one]

    def effects(self) -> np.ndarray:
        """Return ``(width, targets)``: what each value of each knob adds, by the additive part of the kernel."""
        near = self.near[:, : self.size]
        return -self.kernel.linear * (near @ self.weights)

    def fit(self, targets: np.ndarray) -> None:
        """Choose the kernel by its likelihood, one hyperparameter after the other."""
        flags = self.flags[: self.size]
        distances = {order: flags @ table @ flags.T for order, table in self.tables.items()}
        best = misfit(self.kernel, distances, targets)
        for name, values in GRID.items():
            for value in values:
                kernel = replace(self.kernel, **{name: value})
                kernel_misfit = misfit(kernel, distances, targets)
                if kernel_misfit < best - 1e-9:  # more than rounding
                    best = kernel_misfit
                    self.kernel = kernel
        self.hold(self.codes.rows(flags))  # again, because all that was computed with the old kernel is wrong

    @property
    def _table(self) -> np.ndarray:
        return self.tables[self.kernel.order]


def misfit(kernel: Kernel, distances: Mapping[float, np.ndarray], targets: np.ndarray) -> float:
    """Return twice the negative log likelihood, up to a constant, at the amplitude that suits best.

    Args:
        kernel: the hyperparameters.
        distances: ``order`` → the distances between all architectures.
        targets: ``(architectures, targets)``.
    """
    size, kinds = targets.shape
    factor = _noisy_factor(kernel(distances[kernel.order]), kernel)
    white = np.linalg.solve(factor, targets)
    amplitudes = np.log((white * white).mean(0) + 1e-12).sum()
    log_determinant = 2 * kinds * np.log(np.diag(factor)).sum()
    return float(size * amplitudes + log_determinant)  # (F5)


def _noisy_factor(similarity: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Return L, where L Lᵀ is the kernel of some architectures with its noise."""
    noise = kernel.noise * np.eye(len(similarity))
    return np.linalg.cholesky(similarity + noise)
