"""Sampler ``dynamic``: the best architectures by an additive score within upper bounds, by dynamic programming.

NAS-BERT (Xu et al. 2021, arXiv 2105.14444, section 3.3) adds up the losses and the costs of blocks, and takes the best
combinations that meet all bounds. Here they are found without going through all of them. Knob by knob, only those
beginnings of an architecture are kept that no other one beats in score and in all bounded costs at once. From these,
the exact score of the best completion of any ending is known, and architectures are completed from their end, the most
promising first, so that they come out in the order of their scores.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nasframe.errors import UsageError
from nasframe.records import Arch, CostTable, Trial, arch_id
from nasframe_basics.additive_problem import AdditiveProblem, Tables, bounded_below, problem_of, refuse_domain

CHUNK = 512
"""Rows that are compared with a front at once."""
ROUNDING = 1e-9
"""How far a sum may be over its bound here, relative to it; the domain itself has the last word."""


class DynamicSampler:
    """Propose architectures in the order of an additive score, the best first, within the bounds of the search.

    As ``milp``, for domains whose knobs all count and that are bounded from above only, with costs of pairs between
    neighbouring knobs at most. There it gives the same proposals, and many of them sooner.

    Args:
        score: the cost to optimise, as an objective: after ``-`` if less is better. It must be a sum over choices.
        domain: injected.
        tables: injected; gives the tables of costs.
        seed: injected; unused, nothing is random.

    Raises:
        UsageError: on use, if the score or a bounded cost is no sum over choices, or has a lower bound.
    """

    from_tables = True
    needs = ("knobs",)

    def __init__(self, domain: Any, score: str, tables: Tables | None = None, seed: int = 0) -> None:
        refuse_domain(domain, "dynamic")
        if getattr(domain, "rules", None):
            raise UsageError("dynamic: some knobs depend on others. Expected the sampler milp.")
        self.domain = domain
        self.score = score
        self.tables = tables
        self.known: set[str] = set()
        self._orders: list[tuple[Any, Iterator[dict[str, Any]]]] = []  # region → its architectures in order

    def start(self, stage: str, total: int) -> None:
        """Forget the proposals of an earlier stage."""
        self.known.clear()
        self._orders.clear()

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the best ``n`` architectures that were neither proposed nor told; fewer if there are no more."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        for arch in self._order(domain):
            name = arch_id(arch)
            if name in self.known or not domain.contains(arch):
                continue
            self.known.add(name)
            archs.append(arch)
            if len(archs) == n:
                break
        return archs

    def _order(self, domain: Any) -> Iterator[dict[str, Any]]:
        """Return the architectures of a region that were not looked at yet, in order."""
        for region, order in self._orders:
            if region is domain:
                return order
        problem = problem_of(domain, self.score, self.tables, "dynamic")
        order = iter(in_order(problem))
        self._orders.append((domain, order))
        return order

    def tell(self, trials: Sequence[Trial]) -> None:
        """Note what needs no further proposal."""
        self.known.update(arch_id(trial.arch) for trial in trials)

    def state_dict(self) -> dict[str, Any]:
        """Return the known architectures."""
        return {"known": sorted(self.known)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.known = set(state["known"])
        self._orders.clear()


def in_order(problem: AdditiveProblem) -> Iterator[dict[str, Any]]:
    """Yield the architectures that meet all bounds, from the best score on.

    Raises:
        UsageError: a lower bound, or costs of pairs of knobs that are no neighbours.
    """
    for limit in problem.limits:
        if bounded_below(limit):
            raise UsageError(f"dynamic: {limit.cost} has a lower bound. Expected upper bounds, or the sampler milp.")
    if any(len(part.values) == 0 for part in problem.parts):
        return
    sums = _Sums(problem)
    fronts = sums.fronts()
    last = len(problem.parts) - 1
    # An ending is a tuple of numbers of values, of the last knobs; it waits with the score of its best completion.
    waiting: list[tuple[float, int, tuple[int, ...]]] = []
    counter = itertools.count()  # equal scores in the order in which they were found

    def add(start: int, endings: list[tuple[int, ...]], bounds: np.ndarray) -> None:
        for ending, bound in zip(endings, bounds, strict=True):
            if np.isfinite(bound):
                heapq.heappush(waiting, (float(bound), next(counter), ending))

    firsts: list[tuple[int, ...]] = [(value,) for value in range(len(problem.parts[last].values))]
    add(last, firsts, sums.completed(fronts, last, firsts))
    while waiting:
        _, _, ending = heapq.heappop(waiting)
        start = len(problem.parts) - len(ending)
        if start == 0:
            positions = {}
            for part, value in zip(problem.parts, ending, strict=True):
                positions[part.name] = int(part.values[value])
            yield problem.arch(positions)
            continue
        longer = [(value, *ending) for value in range(len(problem.parts[start - 1].values))]
        add(start - 1, longer, sums.completed(fronts, start - 1, longer))


class _Sums:
    """The score and the bounded costs of a problem as arrays, one row for each value of a knob.

    Args:
        problem: the problem.
    """

    def __init__(self, problem: AdditiveProblem) -> None:
        self.problem = problem
        tables = [problem.score, *(limit.table for limit in problem.limits)]
        self.base = np.array([table.base for table in tables])
        self.high = np.array([limit.bounds.high * (1 + ROUNDING) for limit in problem.limits])
        self.own: list[np.ndarray] = []  # (values, sums) of each knob
        for part in problem.parts:
            columns = [np.asarray(table.choices[part.name], dtype=float)[part.values] for table in tables]
            self.own.append(np.stack(columns, axis=1))
        self.kinds: list[tuple[np.ndarray, np.ndarray]] = []  # of each knob, towards the one before and after it
        self.pairs: list[np.ndarray] = []  # (kinds, kinds of the next knob, sums) of each knob with the next
        self._read_pairs(tables)
        # What the knobs from a position on cost at least: an ending that is dearer than that leaves no room.
        rest = np.zeros((len(problem.parts) + 1, len(tables) - 1))
        for number in reversed(range(len(problem.parts))):
            least = self.own[number][:, 1:].min(axis=0)
            if number:
                least = least + self.pairs[number - 1][:, :, 1:].min(axis=(0, 1))
            rest[number] = rest[number + 1] + least
        self.rest = rest

    def _read_pairs(self, tables: Sequence[CostTable]) -> None:
        """Read the costs of neighbouring knobs."""
        parts = self.problem.parts
        number_of = {part.name: number for number, part in enumerate(parts)}
        before = [np.zeros(len(part.values), dtype=int) for part in parts]
        after = [np.zeros(len(part.values), dtype=int) for part in parts]
        cells: dict[int, np.ndarray] = {}
        for column, table in enumerate(tables):
            for pair in table.pairs:
                number = number_of[pair.first]
                if number_of[pair.second] != number + 1:
                    raise UsageError(
                        f"dynamic: {pair.first} and {pair.second} cost something together, and are no neighbours. "
                        "Expected the sampler milp."
                    )
                costs = np.asarray(pair.costs, dtype=float)
                kinds = (np.asarray(pair.kinds[0])[parts[number].values], np.asarray(pair.kinds[1]))
                kinds = (kinds[0], kinds[1][parts[number + 1].values])
                if number in cells:
                    is_same = np.array_equal(after[number], kinds[0]) and np.array_equal(before[number + 1], kinds[1])
                    if not is_same:
                        raise UsageError(
                            "dynamic: costs of a pair fall into different kinds. Expected the sampler milp."
                        )
                else:
                    cells[number] = np.zeros((*costs.shape, len(tables)))
                    after[number], before[number + 1] = kinds
                cells[number][:, :, column] += costs
        self.kinds = list(zip(before, after, strict=True))
        for number in range(len(parts) - 1):
            shape = (1, 1, len(tables))
            self.pairs.append(cells.get(number, np.zeros(shape)))

    def fronts(self) -> list[dict[int, np.ndarray]]:
        """Return, for each knob but the last, the sums of the beginnings up to it that none beats, by its kind."""
        fronts: list[dict[int, np.ndarray]] = []
        for number in range(len(self.problem.parts) - 1):
            before, after = self.kinds[number]
            beginnings: dict[int, list[np.ndarray]] = {}
            for value, own in enumerate(self.own[number]):
                if number == 0:
                    rows = (self.base + own)[None]
                else:
                    joined = []
                    # (N7): every beginning that none beats, with every choice of the next block
                    for kind, front in fronts[-1].items():
                        joined.append(front + self.pairs[number - 1][kind, before[value]] + own)
                    rows = np.concatenate(joined) if joined else np.empty((0, len(self.base)))
                beginnings.setdefault(int(after[value]), []).append(rows)
            front_of = {}
            for kind, parts in beginnings.items():
                rows = self._affordable(np.concatenate(parts), number + 1)
                if len(rows):
                    front_of[kind] = undominated(rows)
            fronts.append(front_of)
        return fronts

    def _affordable(self, rows: np.ndarray, following: int) -> np.ndarray:
        """Leave out beginnings that no completion can keep within the bounds."""
        fits = (rows[:, 1:] + self.rest[following] <= self.high).all(axis=1)
        affordable: np.ndarray = rows[fits]
        return affordable

    def completed(
        self, fronts: Sequence[Mapping[int, np.ndarray]], start: int, endings: Sequence[tuple[int, ...]]
    ) -> np.ndarray:
        """Return the score of the best architecture with each ending; infinity if none meets the bounds.

        Args:
            fronts: from :meth:`fronts`.
            start: the number of the first knob of the endings.
            endings: numbers of values, of this knob and all behind it; they differ in the first one only.
        """
        tail = np.zeros(len(self.base))
        rest = endings[0][1:]
        for number, value in enumerate(rest, start + 1):
            tail = tail + self.own[number][value]
            if number > start + 1:
                tail = tail + self._pair(number - 1, rest[number - start - 2], value)
        heads = np.array([ending[0] for ending in endings])
        sums = self.own[start][heads] + tail
        if rest:
            kinds = self.kinds[start][1][heads]
            sums = sums + self.pairs[start][kinds, self.kinds[start + 1][0][rest[0]]]
        if start == 0:
            sums = sums + self.base
            within = (sums[:, 1:] <= self.high).all(axis=1)
            return np.where(within, sums[:, 0], np.inf)
        best = np.full(len(endings), np.inf)
        before = self.kinds[start][0][heads]
        for kind, front in fronts[start - 1].items():
            total = sums + self.pairs[start - 1][kind, before]
            # (endings, beginnings): the best affordable beginning of each ending
            fits = np.ones((len(endings), len(front)), dtype=bool)
            for column in range(1, front.shape[1]):
                fits &= total[:, None, column] + front[None, :, column] <= self.high[column - 1]
            scores = np.where(fits, front[None, :, 0], np.inf).min(axis=1)
            best = np.minimum(best, scores + total[:, 0])
        return best

    def _pair(self, number: int, value: int, following: int) -> np.ndarray:
        """Return what a value and the next knob's value cost together."""
        first = self.kinds[number][1][value]
        second = self.kinds[number + 1][0][following]
        cell: np.ndarray = self.pairs[number][first, second]
        return cell


def undominated(rows: np.ndarray) -> np.ndarray:
    """Return the rows that no other row equals or undercuts in every column; of equal ones, one.

    Args:
        rows: ``(rows, columns)``.

    >>> undominated(np.array([[1.0, 5.0], [2.0, 4.0], [2.0, 6.0], [1.0, 5.0]])).tolist()
    [[1.0, 5.0], [2.0, 4.0]]
    """
    rows = np.asarray(
        np.unique(rows, axis=0)
    )  # sorted by the first column: no later row can undercut an earlier one in all
    front = np.empty((0, rows.shape[1]))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        if len(front):
            beaten = np.zeros(len(chunk), dtype=bool)
            for first in range(0, len(front), CHUNK):
                part = front[first : first + CHUNK]
                undercuts: np.ndarray = (part[None, :, :] <= chunk[:, None, :]).all(axis=2)  # type: ignore[assignment]
                beaten |= undercuts.any(axis=1)
            chunk = chunk[~beaten]
        below: np.ndarray = (chunk[None, :, :] <= chunk[:, None, :]).all(axis=2)  # type: ignore[assignment]
        np.fill_diagonal(below, False)
        front = np.concatenate([front, chunk[~below.any(axis=1)]])
    return front
