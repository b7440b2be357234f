"""A surrogate-assisted evolutionary sampler for constrained and multi-objective search.

The cost of an architecture is known exactly, before it is evaluated; only its score has to be predicted. So the sampler
makes many children of the best architectures, and proposes the one whose score is expected to push the front outward
most at its exact cost. The formulas have labels of our own; README.md lists them with their sources.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from nasframe import registry
from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.records import Arch, Count, Trial
from nasframe.search.domain import DomainError
from nasframe_frontier.codes import Codes
from nasframe_frontier.costs import CostFunction, CostObjective, ExactCosts
from nasframe_frontier.improvement import Gain, Warp
from nasframe_frontier.region import Region
from nasframe_frontier.surrogate import Kernel, Surrogate

AHEAD = 64  # evaluations after which one prediction serves two proposals; after twice as many, three
MOST_AHEAD = 11  # proposals beyond the first that come from one prediction
SHORT = 16  # candidates that are considered again for the second and later proposal of one ask
RECENT = 500  # at most this many new evaluations are taken in at once
DRAWS = 50  # attempts to draw something new before a domain counts as exhausted
SMALL = 2000  # a domain of at most this many architectures is enumerated to find the last new ones
MOST_REGIONS = 16  # regions that are remembered
NOT_EVALUATED = -1  # in place of an evaluation's position


class FrontierSampler:
    """Proposes the child of the front that is expected to improve it most, and nothing twice.

    A Gaussian process predicts the scores; costs are exact. With one objective it maximises the expected improvement on
    the best within the bounds; with two of which one is a cost, the expected hypervolume improvement in closed form;
    with other objectives, the same by random scalarisation. It is meant for searches: when nothing new is left it
    proposes nothing.

    Args:
        domain: the domain to propose from; it has knobs.
        seed: draws architectures and candidates.
        costs: exact costs, a function from archs to ``(archs, costs)``.
        start: number of random architectures before the model is used; default: knobs + 2.
        candidates: number of candidates that are compared for a proposal.
        memory: largest number of evaluated architectures that the model holds.

    Raises:
        UsageError: the domain has no knobs, or an option is out of range.

    >>> from nasframe.search.domain import Choices
    >>> sampler = FrontierSampler(Choices({"a": [0, 1, 2], "b": [0, 1, 2]}), seed=0, start=2)
    >>> for _ in range(6):
    ...     sampler.tell([Trial(arch, score=arch["a"] - arch["b"]) for arch in sampler.ask()])
    >>> {"a": 2, "b": 0} in map(sampler.codes.arch, sampler.rows)
    True
    """

    needs = ("encode", "conditions", "joined")

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        costs: CostFunction | None = None,
        start: Count | None = None,
        candidates: Count = 64,
        memory: Count = 96,
    ) -> None:
        if not (2 <= candidates <= 2000 and memory >= 16):
            raise UsageError("sampler 'frontier': expected 2 <= candidates <= 2000 and memory >= 16")
        registry.refuse_domain("sampler 'frontier'", domain, self.needs)
        self.domain = domain
        self.codes = Codes(domain)
        self.rng = np.random.default_rng(seed)
        self.costs = ExactCosts(costs, domain, self.codes)
        self.first = start or len(self.codes.sizes) + 2
        self.candidates = candidates
        self.capacity = memory
        self.start("", 0)

    def start(self, stage: str, total: int) -> None:
        """Forget everything, because a loss on a batch and a metric on a split are not comparable."""
        # Evaluations, in order; the three lists have one entry for each.
        self.rows: list[np.ndarray] = []
        self.errors: list[list[float]] = []  # objectives, to be minimised
        self.violations: list[float] = []
        self.seen: dict[bytes, int] = {}  # all rows that were proposed or told: position in rows, or NOT_EVALUATED
        self.queue: list[np.ndarray] = []  # proposals of the last prediction, still to be handed out

        self.model = Surrogate(self.codes, self.capacity)
        self.held: list[int] = []  # positions of the evaluations that the model holds
        self.block = 0  # number of them that it took at once; the others were appended
        self.offered = 0  # number of evaluations that it was offered, whether it still holds them or not
        self.next_fit = 0  # number of evaluations at which its kernel is chosen again
        self.exact: dict[int, CostObjective] | None = None  # objectives that are costs, once it is known
        self.regions: list[Region] = []  # the last used comes last

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Propose up to ``n`` new architectures of ``within``."""
        region = self._region(self.domain if within is None else within)
        ahead = min(len(self.rows) // AHEAD, MOST_AHEAD)
        if region.conditional:  # its condition may belong to this ask only, so nothing is kept for later
            ahead = 0
        archs: list[Arch] = []
        while len(archs) < n:
            if not self.queue:
                self.queue = self._propose(region, n - len(archs), ahead)
            if not self.queue:
                break
            row = self.queue.pop(0)
            key = row.tobytes()
            if key not in self.seen and region.contains(row):
                self.seen[key] = NOT_EVALUATED
                archs.append(self.codes.arch(row))
        if region.conditional:
            self.queue = []
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from evaluated architectures; remember the rest, so that they are not proposed again."""
        for trial in trials:
            try:
                row = self.codes.row(trial.arch)
            except DomainError:
                continue
            self.seen.setdefault(row.tobytes(), NOT_EVALUATED)
            errors = _errors_of(trial)
            is_evaluated = trial.state in ("done", "repeat")
            is_finite = all(map(math.isfinite, [*errors, trial.violation]))
            if is_evaluated and is_finite:
                # Another number of objectives means another search, whose errors cannot be compared with these.
                if self.errors and len(self.errors[0]) != len(errors):
                    self._forget_evaluations()
                self._record(row, errors, trial.violation)
            elif trial.state != "screened":
                self._record_failure(row)

    def _record(self, row: np.ndarray, errors: list[float], violation: float) -> None:
        """Append an evaluation, or replace that of the same architecture."""
        key = row.tobytes()
        position = self.seen[key]
        if position == NOT_EVALUATED:
            self.seen[key] = len(self.rows)
            self.rows.append(row)
            self.errors.append(errors)
            self.violations.append(violation)
        elif self.errors[position] != errors or self.violations[position] != violation:
            self.errors[position] = errors
            self.violations[position] = violation
            self.regions = []  # their fronts are out of date

    def _record_failure(self, row: np.ndarray) -> None:
        """Record a failed trial like a violated constraint, so that the model leads away from it."""
        is_new = self.seen[row.tobytes()] == NOT_EVALUATED
        if is_new and self.errors:  # before the first evaluation the number of objectives is unknown
            unused = [0.0] * len(self.errors[0])  # a violation's errors are replaced by the worst
            self._record(row, unused, violation=1.0)

    def _forget_evaluations(self) -> None:
        """Start again, but propose nothing twice."""
        seen = dict.fromkeys(self.seen, NOT_EVALUATED)
        self.start("", 0)
        self.seen = seen

    def state_dict(self) -> dict[str, Any]:
        """Return what was evaluated, what was proposed, the model's memory and the generator's state."""
        exact = None
        if self.exact is not None:
            exact = [[objective, *cost] for objective, cost in self.exact.items()]
        return {
            "rng": self.rng.bit_generator.state,
            "seen": [np.frombuffer(key, int).tolist() for key in self.seen],
            "place": list(self.seen.values()),
            "errors": [list(errors) for errors in self.errors],
            "violations": list(self.violations),
            "queue": [row.tolist() for row in self.queue],
            "held": list(self.held),
            "block": self.block,
            "heard": self.offered,
            "refit": self.next_fit,
            "kernel": asdict(self.model.kernel),
            "exact": exact,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.start("", 0)
        self.rng.bit_generator.state = state["rng"]
        self._load_evaluations(state)
        self.queue = [np.array(row) for row in state["queue"]]
        if state["exact"] is not None:
            self.exact = {}
            for objective, column, sign in state["exact"]:
                self.exact[objective] = CostObjective(column, sign)
        self._load_model(state)

    def _load_evaluations(self, state: Mapping[str, Any]) -> None:
        row_at: dict[int, np.ndarray] = {}
        for values, position in zip(state["seen"], state["place"], strict=True):
            row = np.array(values)
            self.seen[row.tobytes()] = position
            row_at[position] = row
        self.errors = [list(errors) for errors in state["errors"]]
        self.violations = list(state["violations"])
        self.rows = [row_at[position] for position in range(len(self.errors))]

    def _load_model(self, state: Mapping[str, Any]) -> None:
        """Hold and append in the same order as before, so that every number is the same to the last bit."""
        self.held = list(state["held"])
        self.block = state["block"]
        self.offered = state["heard"]
        self.next_fit = state["refit"]
        self.model.kernel = Kernel(**state["kernel"])
        if self.held:
            self.model.hold(self._rows_at(self.held[: self.block]))
            for position in self.held[self.block :]:
                self.model.append(self.rows[position])

    def _region(self, within: Any) -> Region:
        """Return the region of a domain, up to date with the evaluations."""
        region = None
        others = []
        for known in self.regions:
            if known.within is within:
                region = known
            else:
                others.append(known)
        if region is None:
            region = Region(within, self.codes)
        region.follow(self.rows, self.errors, self.violations)
        latest = others[1 - MOST_REGIONS :]
        self.regions = [*latest, region]
        return region

    def _propose(self, region: Region, count: int, ahead: int) -> list[np.ndarray]:
        """Return new rows, the best first; none if nothing new is left."""
        is_starting = len(self.rows) < self.first or not len(region.best)
        try:
            if is_starting:
                rows = self._spread(region)
            else:
                rows = self._improve(region, count, ahead)
            return rows or self._anything_new(region)
        except UnsatisfiableError:
            return []

    def _spread(self, region: Region) -> list[np.ndarray]:
        """Draw four rows and return the one that is farthest from all recent proposals."""
        draws = [self._draw(region, self.rng) for _ in range(4)]
        rows = [row for row in draws if row is not None]
        if not rows:
            return []
        last_keys = itertools.islice(reversed(self.seen), 100)
        recent = [np.frombuffer(key, int) for key in last_keys]
        others = np.array(recent or rows)

        def distance(row: np.ndarray) -> int:
            """Return the number of knobs in which a row differs from the nearest other."""
            differences = (row != others).sum(axis=1)
            return int(differences.min())

        return [max(rows, key=distance)]

    def _anything_new(self, region: Region) -> list[np.ndarray]:
        """Return any new row, or none if the region counts as exhausted: a small domain is enumerated to be sure."""
        rng = np.random.default_rng(len(self.seen))
        for _ in range(DRAWS):
            row = self._draw(region, rng)
            if row is not None:
                return [row]
        if region.within.size <= SMALL:
            for arch in region.within.enumerate():
                row = self.codes.row(arch)
                if row.tobytes() not in self.seen:
                    return [row]
        return []

    def _draw(self, region: Region, rng: np.random.Generator) -> np.ndarray | None:
        """Draw a row; ``None`` if it is not new."""
        arch = region.within.sample(rng)
        row = self.codes.row(arch)
        if row.tobytes() in self.seen:
            return None
        return row

    def _improve(self, region: Region, count: int, ahead: int) -> list[np.ndarray]:
        """Return ``count`` candidates that are expected to improve most, each as if those before it had been measured.

        Up to ``ahead`` more follow, the next best of the same prediction, to be handed out later.
        """
        gain = self._learn(region)
        candidates = self._predict(self._candidates(region), gain)
        picked: list[np.ndarray] = []
        while len(candidates.rows):
            best = self._best_first(candidates, gain, region)
            is_last = len(picked) == count - 1
            wanted = ahead if is_last else SHORT
            shortlist = candidates.at(list(itertools.islice(best, 1 + wanted)))
            if is_last:
                return [*picked, *shortlist.rows]
            if not len(shortlist.rows):
                break
            picked.append(shortlist.rows[0])
            gain.believe(shortlist.errors[0])
            candidates = self._after_pick(shortlist)
        return picked

    def _best_first(self, candidates: _Candidates, gain: Gain, region: Region) -> Iterator[int]:
        """Yield positions of candidates by falling gain; of equals, the least certain first."""
        deviation = np.sqrt(candidates.variance[:, None] * self.model.scale)
        gains = gain(candidates.errors, candidates.mean, deviation)
        order = np.lexsort((-candidates.variance, -gains))  # the last key counts first
        for position in order:
            if region.contains(candidates.rows[position]):  # asked one by one: a condition may be expensive
                yield position

    def _predict(self, rows: np.ndarray, gain: Gain) -> _Candidates:
        """Predict the errors of candidates; those that are costs are exact."""
        flags = self.codes.flags(rows)
        mean, variance, white = self.model.predict(flags)
        kinds = gain.front.shape[1]
        errors = np.empty((len(rows), kinds))
        errors[:, gain.predicted] = gain.warp.errors(mean)
        if self.exact and len(rows):
            costs = self.costs.of_candidates(rows, flags)
            for objective, (column, sign) in self.exact.items():
                errors[:, objective] = sign * costs[:, column]
        return _Candidates(rows, flags, errors, mean, variance, white)

    def _after_pick(self, candidates: _Candidates) -> _Candidates:
        """Return all but the first candidate, with the variances that remain once the first is measured."""
        covariance = self.model.covariance_with(0, candidates.flags, candidates.white)
        variance = candidates.variance
        explained = covariance**2 / (variance[0] + self.model.kernel.noise)
        variance = np.maximum(variance - explained, 1e-9)  # (F10)
        return replace(candidates, variance=variance).at(slice(1, None))

    def _candidates(self, region: Region) -> np.ndarray:
        """Return new rows: children of the best, and the best architectures by the additive part of the model."""
        additive = self.candidates // 4
        valuations = self._valuations(additive)
        children = region.children(self.candidates - additive, self.rng)
        cheapest = region.cheapest(valuations, self.rng)
        rows = np.concatenate([children, cheapest])
        position_of = {}
        for position, row in enumerate(rows):
            key = row.tobytes()
            if key not in self.seen:
                position_of[key] = position  # of equal rows one is enough
        return rows[list(position_of.values())]

    def _valuations(self, count: int) -> np.ndarray:
        """Return what each value of each knob adds to the error, ``(count, width)``.

        The objectives are mixed at random, with noise for what the model does not know. Costs have random prices, as in
        a Lagrangian, so that the best architectures at all costs are among the candidates.
        """
        effects = self.model.effects()
        weights = self.rng.dirichlet(np.ones(effects.shape[1]))
        mixed = effects @ weights
        variance_of_a_knob = self.model.scale.mean() / len(self.codes.sizes)
        doubt = 0.3 * math.sqrt(variance_of_a_knob)
        valuations = mixed + doubt * self.rng.standard_normal((count, len(mixed)))
        table = self.costs.table
        kinds = table.shape[1]
        if kinds:
            price = mixed.std() * np.exp(self.rng.uniform(-3, 3, (count, 1)))
            shares = self.rng.dirichlet(np.ones(kinds), count)
            scaled_table = table / (table.std(axis=0) + 1e-30)  # costs have different units
            valuations += price * (shares @ scaled_table.T)
        return valuations

    def _learn(self, region: Region) -> Gain:
        """Bring the model up to date, and return the measure of improvement in this region."""
        self.costs.fit_table()
        self._hold_new_evaluations(region)
        if self.exact is None:
            self.exact = self._cost_objectives()
        errors = self._errors(self.held, region)
        kinds = errors.shape[1]
        predicted = [objective for objective in range(kinds) if objective not in self.exact]
        smallest = np.minimum(errors.min(axis=0), region.front.min(axis=0))
        warp = Warp(errors[:, predicted], smallest[predicted])
        if len(self.rows) >= self.next_fit:  # at growing intervals, because it is the most expensive step
            self.model.fit(warp.targets)
            self.block = len(self.held)
            self.next_fit = 2 * len(self.rows)
        self.model.learn(warp.targets)
        reference = self._reference(region, errors)
        return Gain(warp, predicted, region.front, reference, self.rng)

    def _hold_new_evaluations(self, region: Region) -> None:
        """Append new evaluations to the model; if its memory is full, choose which ones it holds from now on."""
        oldest = max(self.offered, len(self.rows) - RECENT)
        new = list(range(oldest, len(self.rows)))
        self.offered = len(self.rows)
        if len(self.held) + len(new) > self.capacity:
            self.held = self._worth_holding([*self.held, *new], region)
            self.block = len(self.held)
            self.model.hold(self._rows_at(self.held))
            return
        for position in new:
            self.model.append(self.rows[position])
        self.held += new

    def _reference(self, region: Region, errors: np.ndarray) -> np.ndarray:
        """Return the errors beyond which an improvement does not count: outliers, and the region's largest costs."""
        sorted_errors = np.sort(errors, axis=0)
        low = sorted_errors[len(errors) // 4]
        high = sorted_errors[3 * len(errors) // 4]
        without_outliers = high + 1.5 * (high - low)  # (F12)
        reference = np.maximum(without_outliers, region.front.max(axis=0))
        for objective, (column, sign) in (self.exact or {}).items():
            worst = region.worst[objective]
            if region.conditional:  # its largest cost is unknown: some room beyond the largest seen
                extent = worst - region.front[:, objective].min()
                reference[objective] = worst + 0.1 * extent
            else:
                extremes = sign * self._extreme_costs(region)[:, column]
                reference[objective] = max(worst, *extremes)
        return reference

    def _errors(self, positions: Sequence[int], region: Region) -> np.ndarray:
        """Return the errors of evaluations; those that failed or violate a constraint are as bad as the worst."""
        errors = np.array([self.errors[position] for position in positions])
        is_broken = np.array([self.violations[position] > 0 for position in positions])
        if is_broken.any():
            valid = np.concatenate([errors[~is_broken], region.front])
            errors[is_broken] = valid.max(axis=0)
        return errors

    def _worth_holding(self, positions: list[int], region: Region) -> list[int]:
        """Choose two thirds of the memory: 60 % nearest the front, 20 % recent, 20 % random."""
        size = 2 * self.capacity // 3
        nearest = 3 * size // 5
        recent = size // 5
        distances = self._distances_to_front(positions, region)
        order = np.argsort(distances, kind="stable")
        near = order[:nearest]
        others = np.sort(order[nearest:])  # oldest first
        older = self.rng.permutation(others[:-recent])
        lucky = older[: size - len(near) - recent]
        chosen = np.concatenate([near, others[-recent:], lucky])
        return [positions[i] for i in np.sort(chosen)]

    def _distances_to_front(self, positions: list[int], region: Region) -> np.ndarray:
        """Return how much each evaluation would have to improve to be undominated, where that is easiest."""
        errors = self._errors(positions, region)
        if errors.shape[1] == 1:  # with one objective, the best at any cost are near
            flags = self.codes.flags(self._rows_at(positions))
            costs = flags @ self.costs.table
            errors = np.concatenate([errors, costs], axis=1)
        extent = np.ptp(errors, axis=0) + 1e-12
        errors = (errors - errors.min(axis=0)) / extent  # objectives have different units
        # Against each other evaluation, one objective is enough: the one in which the least is missing.
        differences = errors[:, None] - errors
        missing = differences.min(axis=2)
        return missing.max(axis=1)

    def _extreme_costs(self, region: Region) -> np.ndarray:
        """Return the costs of the region's smallest and largest architecture."""
        if region.extremes is None:
            ends = [region.within.smallest(), region.within.largest()]
            region.extremes = self.costs.of_archs(ends)
        return region.extremes

    def _cost_objectives(self) -> dict[int, CostObjective]:
        """Return the objectives that are costs, as far as valid evaluations tell."""
        valid = [position for position in self.held if self.violations[position] == 0]
        errors = np.array([self.errors[position] for position in valid])
        return self.costs.objectives(self._rows_at(valid), errors)

    def _rows_at(self, positions: Sequence[int]) -> np.ndarray:
        return np.array([self.rows[position] for position in positions])


@dataclass(frozen=True)
class _Candidates:
    """Candidates and what the model says about them; all arrays have one row for each.

    Args:
        rows: the architectures.
        flags: their one-hot codes.
        errors: predicted or exact, ``(rows, objectives)``.
        mean: posterior means of the warped errors, ``(rows, predicted)``.
        variance: posterior variances, ``(rows,)``.
        white: L⁻¹k, from which covariances are computed.
    """

    rows: np.ndarray
    flags: np.ndarray
    errors: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    white: np.ndarray

    def at(self, index: list[int] | slice) -> _Candidates:
        """Return some of the candidates."""
        arrays = [getattr(self, field.name)[index] for field in fields(self)]
        return _Candidates(*arrays)


def _errors_of(trial: Trial) -> list[float]:
    """Return a trial's objectives, to be minimised; NaN for a missing one."""
    if trial.objectives:
        return [-value for value in trial.objectives]
    if trial.score is None:
        return [math.nan]
    return [-trial.score]
