"""Sampler ``milp``: the best architectures by an additive score within any bounds, by mixed-integer programming.

The search of Puzzle (Bercovich et al. 2024, arXiv 2411.19146, section 4): every choice has a score of its own, scores
add up, and so do costs. A solver then finds the best choice under all bounds at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasframe.errors import RunError, UsageError
from nasframe.interfaces import EnumerableDomain, size_of
from nasframe.records import Arch, CostTable, Positive, Trial, arch_id
from nasframe.search.costs import table_cost
from nasframe_basics.additive_problem import AdditiveProblem, Tables, problem_of, refuse_domain

MOST = 100_000
"""Values of all knobs together that are given to the solver."""
LISTABLE = 20_000
"""Architectures of the largest domain that is listed in place of being solved."""
INFEASIBLE = 2
"""The status of scipy's solver for a problem without a solution."""


class MilpSampler:
    """Propose architectures in the order of an additive score, the best first, within the bounds of the search.

    The proposals follow from tables alone, so the first is the best that the score knows. A search with more trials
    evaluates the next best ones, too, and its own objective decides among them.

    Args:
        score: the cost to optimise, as an objective: after ``-`` if less is better. It must be a sum over choices.
        seconds: time for each proposal, after which the best solution so far is proposed, with no promise.
        domain: injected.
        tables: injected; gives the tables of costs.
        seed: injected; unused, nothing is random.

    Raises:
        UsageError: on use, if the score or a bounded cost is no sum over choices.
    """

    from_tables = True
    needs = ("knobs",)

    def __init__(
        self, domain: Any, score: str, seconds: Positive = 60.0, tables: Tables | None = None, seed: int = 0
    ) -> None:
        refuse_domain(domain, "milp")
        self.domain = domain
        self.score = score
        self.seconds = seconds
        self.tables = tables
        self.known: dict[str, Arch] = {}
        self._lists: list[tuple[Any, list[dict[str, Any]]]] = []  # small domain → its architectures, the best first

    def start(self, stage: str, total: int) -> None:
        """Forget the proposals of an earlier stage."""
        self.known.clear()
        self._lists.clear()

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the best ``n`` architectures that were neither proposed nor told; fewer if there are no more."""
        domain = self.domain if within is None else within
        problem = problem_of(domain, self.score, self.tables, "milp")
        if isinstance(domain, EnumerableDomain) and size_of(domain) <= LISTABLE:
            return self._from_list(n, domain, problem)
        model = _Model(problem)
        for arch in self.known.values():
            model.forbid(arch)
        archs: list[Arch] = []
        while len(archs) < n:
            solution = model.solve(self.seconds)
            if solution is None:
                break
            model.forbid(solution)
            # The solver meets bounds up to rounding, and does not know conditions of other kinds.
            if domain.contains(solution):
                archs.append(solution)
                self.known[arch_id(solution)] = copy.deepcopy(solution)
        return archs

    def _from_list(self, n: int, domain: Any, problem: AdditiveProblem) -> list[Arch]:
        """Return the best architectures of a small domain, which need no solver."""
        archs: list[Arch] = []
        for arch in self._listed(domain, problem):
            name = arch_id(arch)
            if name in self.known:
                continue
            self.known[name] = arch
            archs.append(copy.deepcopy(arch))
            if len(archs) == n:
                break
        return archs

    def _listed(self, domain: Any, problem: AdditiveProblem) -> list[dict[str, Any]]:
        """Return all architectures of a small domain, the best first; a search asks for the same domains again."""
        for region, archs in self._lists:
            if region is domain:
                return archs
        score = table_cost(problem.score, problem.knobs)
        scored = [(score(arch), number, arch) for number, arch in enumerate(domain.enumerate())]
        archs = [arch for value, _, arch in sorted(scored) if math.isfinite(value)]
        self._lists.append((domain, archs))
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Note what needs no further proposal."""
        for trial in trials:
            self.known[arch_id(trial.arch)] = copy.deepcopy(dict(trial.arch))

    def state_dict(self) -> dict[str, Any]:
        """Return the known architectures."""
        return {"known": [dict(arch) for arch in self.known.values()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.known = {arch_id(arch): arch for arch in state["known"]}


@dataclass(frozen=True)
class _Row:
    """A linear constraint: the weighted sum of some variables lies in an interval."""

    weights: Mapping[int, float]
    low: float
    high: float


class _Model:
    """A problem in the form of the solver: a variable for each value of each knob, 1 if it is chosen.

    Costs of pairs have a variable for each two kinds, which the constraints make 1 exactly if both kinds are chosen.
    """

    def __init__(self, problem: AdditiveProblem) -> None:
        self.problem = problem
        self.variables: dict[tuple[str, int], int] = {}  # knob and position of a value → number
        for part in problem.parts:
            for position in part.values:
                self.variables[part.name, int(position)] = len(self.variables)
        if len(self.variables) > MOST:
            raise UsageError(
                f"milp: {len(self.variables):,} values of knobs are too many. Expected at most {MOST:,}: a space that "
                "training has narrowed down, or 'within'."
            )
        self.whole = len(self.variables)  # those of values; the others follow from them
        self.pairs: dict[Any, dict[tuple[int, int], int]] = {}
        self.rows: list[_Row] = []
        self._choose_one_each()
        self.objective = self._weights(problem.score)  # (P3): the best sum of scores, one value of each knob
        for limit in problem.limits:
            self._limit(limit.table, limit.bounds.low, limit.bounds.high)

    def _choose_one_each(self) -> None:
        """Make each knob have one value if it counts, and none if it does not."""
        for part in self.problem.parts:
            weights = {self.variables[part.name, int(position)]: 1.0 for position in part.values}
            if not part.parent:
                self.rows.append(_Row(weights, 1.0, 1.0))
                continue
            for position in part.active_at:
                variable = self.variables.get((part.parent, position))
                if variable is not None:
                    weights[variable] = -1.0
            self.rows.append(_Row(weights, 0.0, 0.0))

    def _weights(self, table: CostTable) -> dict[int, float]:
        """Return what each variable adds to a sum."""
        weights = {}
        for part in self.problem.parts:
            costs = table.choices[part.name]
            for position in part.values:
                weights[self.variables[part.name, int(position)]] = float(costs[position])
        for pair in table.pairs:
            for (i, j), variable in self._pair_variables(pair).items():
                weights[variable] = weights.get(variable, 0.0) + float(pair.costs[i][j])
        return weights

    def _pair_variables(self, pair: Any) -> dict[tuple[int, int], int]:
        """Return the variables of a pair of knobs, kind by kind; tables with the same kinds share them."""
        key = (pair.first, pair.second, tuple(pair.kinds[0]), tuple(pair.kinds[1]))
        if key in self.pairs:
            return self.pairs[key]
        sides = []  # of each knob: kind → the variables of its values
        for knob, kinds in zip((pair.first, pair.second), pair.kinds, strict=True):
            of_kinds: dict[int, list[int]] = {}
            part = next(part for part in self.problem.parts if part.name == knob)
            if part.parent:
                raise UsageError(f"milp: {knob!r} has costs in pairs and depends on another knob. Expected one only.")
            for position in part.values:
                of_kinds.setdefault(int(kinds[position]), []).append(self.variables[knob, int(position)])
            sides.append(of_kinds)
        first = self.whole + sum(map(len, self.pairs.values()))
        cells = [(i, j) for i in sides[0] for j in sides[1]]
        numbered = {cell: first + number for number, cell in enumerate(cells)}
        self.pairs[key] = numbered
        for side, of_kinds in enumerate(sides):
            for kind, values in of_kinds.items():
                weights = dict.fromkeys(values, -1.0)
                weights |= {variable: 1.0 for cell, variable in numbered.items() if cell[side] == kind}
                self.rows.append(_Row(weights, 0.0, 0.0))
        return numbered

    def _limit(self, table: CostTable, low: float, high: float) -> None:
        """Bound a sum, in units of its bound, since the solver's tolerance is absolute."""
        weights = self._weights(table)
        bounds = [bound - table.base for bound in (low, high) if math.isfinite(bound)]
        scale = max((abs(bound) for bound in bounds), default=1.0) or 1.0
        scaled = {variable: weight / scale for variable, weight in weights.items()}
        self.rows.append(_Row(scaled, (low - table.base) / scale, (high - table.base) / scale))

    def forbid(self, arch: Arch) -> None:
        """Exclude an architecture: not all of its values may be chosen together."""
        weights = {}
        for knob, value in arch.items():
            position = list(self.problem.knobs[knob]).index(value)
            variable = self.variables.get((knob, position))
            if variable is None:  # it is out of this region anyway
                return
            weights[variable] = 1.0
        self.rows.append(_Row(weights, -math.inf, len(weights) - 1.0))

    def solve(self, seconds: float) -> dict[str, Any] | None:
        """Return the best architecture, ``None`` if there is none.

        Raises:
            RunError: the solver found none in time, without a proof that there is none.
        """
        from scipy.optimize import Bounds as VariableBounds
        from scipy.optimize import LinearConstraint, milp
        from scipy.sparse import csr_array

        count = self.whole + sum(map(len, self.pairs.values()))
        rows: list[int] = []
        columns: list[int] = []
        weights: list[float] = []
        for number, row in enumerate(self.rows):
            rows += [number] * len(row.weights)
            columns += row.weights.keys()
            weights += row.weights.values()
        matrix = csr_array((weights, (rows, columns)), shape=(len(self.rows), count))
        objective = np.zeros(count)
        objective[list(self.objective)] = list(self.objective.values())
        # Those of pairs follow from the others. But told so, the solver called a worse solution the best one, in 3 of
        # 4,000 small problems (HiGHS in scipy 1.17).
        integrality = np.ones(count)
        scale = float(np.abs(objective).max()) or 1.0
        result = milp(
            objective / scale,
            integrality=integrality,
            bounds=VariableBounds(0, 1),
            constraints=LinearConstraint(
                matrix,
                [row.low for row in self.rows],
                [row.high for row in self.rows],  # type: ignore[arg-type]
            ),
            options={"mip_rel_gap": 0.0, "time_limit": seconds},
        )
        if result.status == INFEASIBLE:
            return None
        if result.x is None:
            raise RunError(f"milp: no solution in {seconds:g} seconds ({result.message}). Expected more 'seconds'.")
        chosen = {}
        for (knob, position), variable in self.variables.items():
            if result.x[variable] > 0.5:
                chosen[knob] = position
        return self.problem.arch(chosen)
