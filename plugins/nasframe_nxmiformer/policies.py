"""Which format each matrix gets so that the whole stays within a number of bits: three policies.

Matrix l in format c takes ``bits[l, c]`` and does damage ``loss[l, c]``; damages are taken to add up.
"""

from __future__ import annotations

import math

import numpy as np

GRAIN = 2**17
"""How many different totals the exact policy tells apart where sizes have no common divisor."""


def greedy(bits: np.ndarray, loss: np.ndarray, most: float) -> np.ndarray | None:
    """Start from the largest formats and make the move of the least damage for each bit saved, until the rest fits.

    Then exchange: whatever single move, or pair of moves, lowers the damage and still fits is made, best first.

    Args:
        bits: ``(matrices, formats)``.
        loss: ``(matrices, formats)``.
        most: the bits there are.

    Returns:
        ``(matrices,)`` positions of formats, or ``None`` where nothing fits.

    >>> bits, loss = np.array([[4.0, 8.0], [4.0, 8.0]]), np.array([[0.3, 0.0], [0.1, 0.0]])
    >>> greedy(bits, loss, most=12).tolist()
    [1, 0]
    """
    rows = np.arange(len(bits))
    chosen = np.lexsort((loss, -bits), axis=1)[:, 0]  # the largest; of equals the least harmful
    while bits[rows, chosen].sum() > most:
        saved = bits[rows, chosen][:, None] - bits
        harm = loss - loss[rows, chosen][:, None]
        rate = np.divide(harm, saved, out=np.full(bits.shape, np.inf), where=saved > 0)
        matrix, form = np.unravel_index(rate.argmin(), rate.shape)
        if not np.isfinite(rate[matrix, form]):
            return None
        chosen[matrix] = form
    while _exchange(bits, loss, most, chosen):
        pass
    return chosen


def _exchange(bits: np.ndarray, loss: np.ndarray, most: float, chosen: np.ndarray) -> bool:
    """Make the best single or double move that fits, in place; tell whether there was one."""
    rows, (count, forms) = np.arange(len(bits)), bits.shape
    room = most - bits[rows, chosen].sum()
    more = (bits - bits[rows, chosen][:, None]).ravel()
    gain = (loss[rows, chosen][:, None] - loss).ravel()
    owner = np.repeat(rows, forms)
    fits = more[:, None] + more[None, :] <= room
    allowed = fits & (owner[:, None] != owner[None, :])
    pairs = np.where(allowed, gain[:, None] + gain[None, :], -np.inf)  # staying where one is pairs a single move
    if count == 1:
        pairs = np.where(np.eye(forms, dtype=bool) & (more <= room), gain, -np.inf)
    first, second = np.unravel_index(pairs.argmax(), pairs.shape)
    if not pairs[first, second] > 1e-12 * max(1.0, np.abs(loss).max()):
        return False
    for move in {int(first), int(second)}:
        chosen[move // forms] = move % forms
    return True


def exact(bits: np.ndarray, loss: np.ndarray, most: float) -> np.ndarray | None:
    """Find the least damage that fits by dynamic programming over the matrices (Nemhauser and Ullmann's lists).

    After each matrix only those totals are kept that no smaller total beats. Totals are counted in the greatest common
    divisor of all sizes, or in ``most / 2^17``, rounded up, where that is coarser: then the answer still fits, and is
    the best one within that rounding.

    Args:
        bits: ``(matrices, formats)``, whole numbers.
        loss: ``(matrices, formats)``.
        most: the bits there are.

    Returns:
        ``(matrices,)`` positions of formats, or ``None`` where nothing fits.

    >>> bits, loss = np.array([[4.0, 8.0], [4.0, 8.0]]), np.array([[0.3, 0.0], [0.1, 0.0]])
    >>> exact(bits, loss, most=12).tolist()
    [1, 0]
    """
    unit = max(math.gcd(*bits.astype(np.int64).ravel().tolist()), math.ceil(most / GRAIN), 1)
    sizes, room = np.ceil(bits / unit).astype(np.int64), int(most // unit)
    least = np.append(np.cumsum(sizes.min(1)[::-1])[::-1], 0)  # what the matrices from here on take at least
    total, damage = np.zeros(1, np.int64), np.zeros(1)
    back: list[tuple[np.ndarray, np.ndarray]] = []
    for matrix, row in enumerate(sizes):
        totals = (total[:, None] + row).ravel()
        damages = (damage[:, None] + loss[matrix]).ravel()
        order = np.lexsort((damages, totals))
        order = order[totals[order] + least[matrix + 1] <= room]
        best = np.minimum.accumulate(damages[order])
        order = order[np.append(True, best[1:] < best[:-1])[: len(order)]]
        if not len(order):
            return None
        total, damage = totals[order], damages[order]
        back.append((order // len(row), order % len(row)))
    chosen, state = np.zeros(len(bits), np.int64), len(total) - 1
    for matrix in reversed(range(len(bits))):
        before, forms = back[matrix]
        chosen[matrix], state = forms[state], before[state]
    return chosen


def uniform(bits: np.ndarray, loss: np.ndarray, most: float) -> np.ndarray | None:
    """Give all matrices the one format that fits and does the least damage; ``None`` where none fits."""
    fits = np.flatnonzero(bits.sum(0) <= most)
    return np.full(len(bits), fits[loss.sum(0)[fits].argmin()]) if len(fits) else None
