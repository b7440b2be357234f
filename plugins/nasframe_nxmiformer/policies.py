"""Three policies that assign a format to each matrix, so that all together stay within a number of bits.

Matrix l in format c takes ``bits[l, c]`` and does damage ``loss[l, c]``; damages are assumed to add up. The labels of
formulas are our own; README.md lists them.
"""

from __future__ import annotations

import math

import numpy as np

GRAIN = 2**17
"""How many different totals the exact policy distinguishes if sizes have no large common divisor."""


def greedy(bits: np.ndarray, loss: np.ndarray, most: float) -> np.ndarray | None:
    """Start from the largest formats, and make the move of the least damage for each bit saved until all fits.

    Then exchange formats: make the single move, or pair of moves, that lowers the damage most and still fits, as long
    as there is one.

    Args:
        bits: ``(matrices, formats)``.
        loss: ``(matrices, formats)``.
        most: the bits available.

    Returns:
        ``(matrices,)`` positions of formats, or ``None`` if nothing fits.

    >>> bits, loss = np.array([[4.0, 8.0], [4.0, 8.0]]), np.array([[0.3, 0.0], [0.1, 0.0]])
    >>> greedy(bits, loss, most=12).tolist()
    [1, 0]
    """
    rows = np.arange(len(bits))
    largest_first = np.lexsort((loss, -bits), axis=1)  # of equals the least harmful first
    chosen = largest_first[:, 0]
    while bits[rows, chosen].sum() > most:
        saved = bits[rows, chosen][:, None] - bits
        harm = loss - loss[rows, chosen][:, None]
        # Moves that save nothing have an infinite rate; a negative one, less damage in fewer bits, comes first.
        rate = np.divide(harm, saved, out=np.full(bits.shape, np.inf), where=saved > 0)
        matrix, form = np.unravel_index(rate.argmin(), rate.shape)  # (N9)
        if not np.isfinite(rate[matrix, form]):
            return None
        chosen[matrix] = form
    while _exchange(bits, loss, most, chosen):  # it ends, because each exchange lowers the damage
        pass
    return chosen


def _exchange(bits: np.ndarray, loss: np.ndarray, most: float, chosen: np.ndarray) -> bool:
    """Make the best single or double move that fits, in place; tell whether there was one.

    A move is a position in the flattened table. "Staying" is a move, too; paired with another one it is a single move.
    """
    rows = np.arange(len(bits))
    count, forms = bits.shape
    chosen_bits = bits[rows, chosen]
    chosen_loss = loss[rows, chosen]
    room = most - chosen_bits.sum()
    growth = (bits - chosen_bits[:, None]).ravel()
    gain = (chosen_loss[:, None] - loss).ravel()
    if count == 1:  # nothing to pair a move with: only the diagonal counts
        fits = np.eye(forms, dtype=bool) & (growth <= room)
        gains = np.where(fits, gain, -np.inf)
    else:
        owner = np.repeat(rows, forms)
        fits = growth[:, None] + growth <= room
        differ = owner[:, None] != owner  # a matrix can make one move only
        gains = np.where(fits & differ, gain[:, None] + gain, -np.inf)
    first, second = np.unravel_index(gains.argmax(), gains.shape)
    # A gain within rounding error could be exchanged back and forth for ever.
    rounding = 1e-12 * max(1.0, np.abs(loss).max())
    if not gains[first, second] > rounding:
        return False
    for move in (first, second):
        chosen[move // forms] = move % forms
    return True


def exact(bits: np.ndarray, loss: np.ndarray, most: float) -> np.ndarray | None:
    """Find the assignment of least damage that fits, by dynamic programming (Nemhauser and Ullmann's lists).

    It goes through the matrices and keeps a list of totals of bits. After each matrix only those totals stay that no
    smaller total beats. The unit of totals is the greatest common divisor of all sizes, or ``most / 2^17`` if that is
    larger; sizes are then rounded up. So the result always fits, and is optimal within that rounding.

    Args:
        bits: ``(matrices, formats)``, whole numbers.
        loss: ``(matrices, formats)``.
        most: the bits available.

    Returns:
        ``(matrices,)`` positions of formats, or ``None`` if nothing fits.

    >>> bits, loss = np.array([[4.0, 8.0], [4.0, 8.0]]), np.array([[0.3, 0.0], [0.1, 0.0]])
    >>> exact(bits, loss, most=12).tolist()
    [1, 0]
    """
    divisor = math.gcd(*bits.astype(np.int64).ravel().tolist())
    unit = max(divisor, math.ceil(most / GRAIN), 1)
    sizes = np.ceil(bits / unit).astype(np.int64)
    room = int(most // unit)
    smallest = sizes.min(axis=1)
    from_the_end = np.cumsum(smallest[::-1])[::-1]
    least = np.append(from_the_end, 0)  # that the matrices from each position on take

    totals = np.zeros(1, np.int64)  # rising; damages falls with it
    damages = np.zeros(1)
    back: list[tuple[np.ndarray, np.ndarray]] = []  # for each matrix and total: the total before, and the format
    for matrix, row in enumerate(sizes):
        new_totals = (totals[:, None] + row).ravel()
        new_damages = (damages[:, None] + loss[matrix]).ravel()
        order = np.lexsort((new_damages, new_totals))
        # A total is of no use if even the smallest formats of the remaining matrices exceed the room.
        can_end_well = new_totals[order] + least[matrix + 1] <= room
        order = order[can_end_well]
        if not len(order):
            return None
        best = np.minimum.accumulate(new_damages[order])
        improves = np.append(True, best[1:] < best[:-1])
        order = order[improves]  # (N10)
        totals = new_totals[order]
        damages = new_damages[order]
        back.append(np.divmod(order, len(row)))

    chosen = np.zeros(len(bits), np.int64)
    state = len(totals) - 1  # the largest total has the least damage
    for matrix in reversed(range(len(bits))):
        before, forms = back[matrix]
        chosen[matrix] = forms[state]
        state = before[state]
    return chosen


def uniform(bits: np.ndarray, loss: np.ndarray, most: float) -> np.ndarray | None:
    """Give all matrices the one format that fits and does the least damage; ``None`` if none fits."""
    fitting = np.flatnonzero(bits.sum(axis=0) <= most)
    if not len(fitting):
        return None
    damages = loss.sum(axis=0)[fitting]
    best = fitting[damages.argmin()]
    return np.full(len(bits), best)
