"""A surrogate-assisted evolutionary sampler for constrained and multi-objective search.

What an architecture costs is known exactly and before it is evaluated; only its score has to be predicted. So children
of the best architectures are made by the hundred, and the one whose score is expected to push the front outward most at
its exact cost is proposed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nasframe.domain import DomainError
from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.types import Arch, Count, Trial
from nasframe_frontier.codes import Codes
from nasframe_frontier.improvement import Gain, Warp
from nasframe_frontier.region import Region
from nasframe_frontier.surrogate import Surrogate

AHEAD = 64  # evaluations after which two proposals come from one prediction, then three, up to twelve
SHORT = 16  # candidates that are looked at again for the second and later of several asked for at once
RECENT = 500  # at most so many evaluations are taken in at once
DRAWS = 50  # attempts at something new before a domain counts as exhausted
SMALL = 2000  # a domain of at most so many architectures is looked through for the last new ones


class FrontierSampler:
    """Proposes the child of the front that is expected to improve it most, and nothing twice.

    A Gaussian process predicts the scores, costs are exact. One objective: expected improvement on the best within the
    bounds. Two of which one is a cost: expected hypervolume improvement in closed form. Other objectives: the same by
    random scalarisation. Meant for searches: where nothing new is left it proposes nothing.

    Args:
        domain: what to propose from; it has knobs.
        seed: draws designs and candidates.
        costs: exact costs, archs to ``(archs, costs)``.
        start: random architectures before the model is asked; default: knobs + 2.
        candidates: how many are compared for a proposal.
        memory: how many evaluated architectures the model holds at most.

    Raises:
        UsageError: a domain without knobs, or an option out of range.

    >>> from nasframe.domain import Choices
    >>> sampler = FrontierSampler(Choices({"a": [0, 1, 2], "b": [0, 1, 2]}), seed=0, start=2)
    >>> for _ in range(6):
    ...     sampler.tell([Trial(arch, score=arch["a"] - arch["b"]) for arch in sampler.ask()])
    >>> {"a": 2, "b": 0} in map(sampler.codes.arch, sampler.rows)
    True
    """

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        costs: Callable[[Sequence[Arch]], Any] | None = None,
        start: Count | None = None,
        candidates: Count = 64,
        memory: Count = 96,
    ) -> None:
        if not (2 <= candidates <= 2000 and memory >= 16):
            raise UsageError("sampler 'frontier': expected 2 <= candidates <= 2000 and memory >= 16")
        self.domain, self.codes, self.rng = domain, Codes(domain), np.random.default_rng(seed)
        self.costs = costs or (lambda archs: np.zeros((len(archs), 0)))
        self.first = start or len(self.codes.sizes) + 2
        self.candidates, self.capacity = candidates, memory
        self.table = np.zeros((0, 0))  # what each value of each knob costs
        self.additive = False  # whether that is all there is to costs
        self.start("", 0)

    def start(self, stage: str, total: int) -> None:
        """Forget everything: a loss on a batch and a metric on a split are not comparable."""
        self.rows: list[np.ndarray] = []  # what was evaluated, in order
        self.errors: list[list[float]] = []  # objectives, to be minimised
        self.violations: list[float] = []
        self.seen: dict[bytes, int] = {}  # all that was proposed or told → its position in rows, or -1
        self.queue: list[np.ndarray] = []
        self.held: list[int] = []  # positions of what the model holds
        self.block = self.heard = 0  # how many of these it took at once, how many evaluations it has seen
        self.refit = 0
        self.exact: dict[int, tuple[int, float]] | None = None
        self.model = Surrogate(self.codes, self.capacity)
        self.regions: list[tuple[Region, int]] = []  # with how many evaluations each has followed

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Propose up to ``n`` new architectures of ``within``."""
        region = self._region(self.domain if within is None else within)
        archs: list[Arch] = []
        while len(archs) < n:
            if not self.queue:
                ahead = min(len(self.rows) // AHEAD, 11) if region.within.keep is None else 0
                self.queue = self._propose(region, n - len(archs), ahead)
            if not self.queue:
                break
            row = self.queue.pop(0)
            if row.tobytes() not in self.seen and region.contains(row):
                self.seen[row.tobytes()] = -1
                archs.append(self.codes.arch(row))
        if region.within.keep is not None:
            self.queue = []
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from what was evaluated; remember the rest, so that it is not proposed again."""
        for trial in trials:
            try:
                row = self.codes.row(trial.arch)
            except DomainError:
                continue
            position = self.seen.setdefault(row.tobytes(), -1)
            errors = [math.nan if value is None else -value for value in trial.objectives or (trial.score,)]
            if trial.state in ("done", "repeat") and all(map(math.isfinite, [*errors, trial.violation])):
                if self.errors and len(self.errors[0]) != len(errors):  # another kind of search
                    seen = dict.fromkeys(self.seen, -1)
                    self.start("", 0)
                    self.seen, position = seen, -1
                self._note(row, position, errors, trial.violation)
            elif trial.state != "screened" and position < 0 and self.errors:  # failed: to be avoided like a violation
                self._note(row, position, [0.0] * len(self.errors[0]), 1.0)

    def _note(self, row: np.ndarray, position: int, errors: list[float], violation: float) -> None:
        if position < 0:
            self.seen[row.tobytes()] = len(self.rows)
            self.rows.append(row)
            self.errors.append(errors)
            self.violations.append(violation)
        elif self.errors[position] != errors or self.violations[position] != violation:
            self.errors[position], self.violations[position] = errors, violation
            self.regions = []  # to be followed anew

    def state_dict(self) -> dict[str, Any]:
        """Return what was evaluated, what was proposed, the model's memory and the generator's state."""
        return {
            "rng": self.rng.bit_generator.state,
            "seen": [np.frombuffer(key, int).tolist() for key in self.seen],
            "place": list(self.seen.values()),
            "errors": [list(errors) for errors in self.errors],
            "violations": list(self.violations),
            "queue": [row.tolist() for row in self.queue],
            "held": list(self.held),
            "block": self.block,
            "heard": self.heard,
            "refit": self.refit,
            "kernel": dict(self.model.params),
            "exact": None if self.exact is None else [[j, *pair] for j, pair in self.exact.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.start("", 0)
        self.rng.bit_generator.state = state["rng"]
        seen = [np.array(row) for row in state["seen"]]
        self.seen = {row.tobytes(): place for row, place in zip(seen, state["place"], strict=True)}
        told = {place: row for row, place in zip(seen, state["place"], strict=True)}
        self.errors, self.violations = [list(errors) for errors in state["errors"]], list(state["violations"])
        self.rows = [told[place] for place in range(len(self.errors))]
        self.queue = [np.array(row) for row in state["queue"]]
        self.held, self.block, self.heard, self.refit = (state[k] for k in ("held", "block", "heard", "refit"))
        self.held = list(self.held)
        self.exact = None if state["exact"] is None else {j: (k, sign) for j, k, sign in state["exact"]}
        self.model.params = dict(state["kernel"])
        if self.held:
            self.model.hold(np.array([self.rows[i] for i in self.held[: self.block]]))
            for i in self.held[self.block :]:
                self.model.append(self.rows[i])

    def _region(self, within: Any) -> Region:
        region = next((region for region, _ in self.regions if region.within is within), None)
        done = next((done for known, done in self.regions if known is region), 0)
        if region is None:
            region = Region(within, self.codes)
        region.follow(self.rows[done:], self.errors[done:], self.violations[done:])
        others = [pair for pair in self.regions if pair[0] is not region]
        self.regions = [*others[-15:], (region, len(self.rows))]
        return region

    def _propose(self, region: Region, count: int, ahead: int) -> list[np.ndarray]:
        try:
            if len(self.rows) < self.first or not len(region.best):
                return self._spread(region) or self._rest(region)
            return self._improve(region, count, ahead) or self._rest(region)
        except UnsatisfiableError:
            return []

    def _spread(self, region: Region) -> list[np.ndarray]:
        """Draw four, keep the one that is farthest from all that was proposed."""
        rows = [row for row in (self._draw(region, self.rng) for _ in range(4)) if row is not None]
        seen = np.array([np.frombuffer(key, int) for key in list(self.seen)[-100:]] or rows)
        return [max(rows, key=lambda row: (row != seen).sum(1).min())] if rows else []

    def _rest(self, region: Region) -> list[np.ndarray]:
        """Look for anything new: a domain counts as exhausted where many draws find nothing."""
        rng = np.random.default_rng(len(self.seen))
        for _ in range(DRAWS):
            if (row := self._draw(region, rng)) is not None:
                return [row]
        for arch in region.within.enumerate() if region.within.size <= SMALL else ():
            if (row := self.codes.row(arch)).tobytes() not in self.seen:
                return [row]
        return []

    def _draw(self, region: Region, rng: np.random.Generator) -> np.ndarray | None:
        row = self.codes.row(region.within.sample(rng))
        return None if row.tobytes() in self.seen else row

    def _improve(self, region: Region, count: int, ahead: int) -> list[np.ndarray]:
        """Make candidates, predict them, and pick ``count`` that are expected to improve most, one after the other.

        The next best follow, ``ahead`` of them, to be handed out without another prediction.
        """
        gain = self._learn(region)
        rows = self._candidates(region)
        flags = self.codes.flags(rows)
        mean, variance, white = self.model.predict(flags)
        errors = np.empty((len(rows), region.front.shape[1]))
        errors[:, gain.predicted] = gain.warp.errors(mean)
        if self.exact and len(rows):
            costs = flags @ self.table if self.additive else self._costs(rows)
            for objective, (column, sign) in self.exact.items():
                errors[:, objective] = sign * costs[:, column]
        picked: list[np.ndarray] = []
        while len(rows):
            gains = gain(errors, mean, np.sqrt(variance[:, None] * self.model.scale))
            best = (i for i in np.lexsort((-variance, -gains)) if region.contains(rows[i]))
            if len(picked) == count - 1:  # the last, and what is handed out later
                return picked + [rows[i] for i in itertools.islice(best, 1 + ahead)]
            short = list(itertools.islice(best, 1 + SHORT))
            rows, flags, errors, mean, variance, white = (
                a[short] for a in (rows, flags, errors, mean, variance, white)
            )
            if short:
                picked.append(rows[0])
                gain.believe(errors[0])  # the prediction, to see what is left to gain
                covariance = self.model.shared(flags, white, 0)
                variance = np.maximum(variance - covariance**2 / (variance[0] + self.model.params["noise"]), 1e-9)
                rows, flags, errors, mean, variance, white = (
                    a[1:] for a in (rows, flags, errors, mean, variance, white)
                )
        return picked

    def _candidates(self, region: Region) -> np.ndarray:
        """Return new rows: children of the best, and what the additive part of the model holds best at some cost."""
        wide = self.candidates // 4
        effects = self.model.effects()
        mixed = effects @ self.rng.dirichlet(np.ones(effects.shape[1]))
        doubt = 0.3 * math.sqrt(self.model.scale.mean() / len(self.codes.sizes))
        values = mixed + doubt * self.rng.standard_normal((wide, len(mixed)))
        if self.table.shape[1]:  # a Lagrangian, its multipliers drawn
            weight = mixed.std() * np.exp(self.rng.uniform(-3, 3, (wide, 1)))
            shares = self.rng.dirichlet(np.ones(self.table.shape[1]), wide)
            values += weight * (shares @ (self.table / (self.table.std(0) + 1e-30)).T)
        rows = np.concatenate([region.children(self.candidates - wide, self.rng), region.least(values, self.rng)])
        first = {row.tobytes(): i for i, row in enumerate(rows)}
        return rows[[i for key, i in first.items() if key not in self.seen]]

    def _learn(self, region: Region) -> Gain:
        """Bring the model up to date; return the measure of improvement in this region."""
        if not len(self.table):
            self._tabulate_costs()
        new = list(range(max(self.heard, len(self.rows) - RECENT), len(self.rows)))
        self.heard = len(self.rows)
        if len(self.held) + len(new) > self.capacity:
            self.held, new = self._worth_holding([*self.held, *new], region), []
            self.block = len(self.held)
            self.model.hold(np.array([self.rows[i] for i in self.held]))
        for i in new:
            self.model.append(self.rows[i])
        self.held += new
        if self.exact is None:
            self.exact = self._find_exact()
        errors = self._errors(self.held, region)
        predicted = [objective for objective in range(errors.shape[1]) if objective not in self.exact]
        warp = Warp(errors[:, predicted], np.minimum(errors.min(0), region.front.min(0))[predicted])
        if len(self.rows) >= self.refit:
            self.model.fit(warp.targets)
            self.block, self.refit = len(self.held), 2 * len(self.rows)
        self.model.learn(warp.targets)
        return Gain(warp, predicted, region.front, self._reference(region, errors), self.rng)

    def _reference(self, region: Region, errors: np.ndarray) -> np.ndarray:
        """Return the errors beyond which nothing counts: outliers, and the largest costs of the region."""
        low, high = np.sort(errors, axis=0)[[len(errors) // 4, 3 * len(errors) // 4]]
        reference = np.maximum(high + 1.5 * (high - low), region.front.max(0))
        for objective, (column, sign) in (self.exact or {}).items():
            least, most = region.front[:, objective].min(), region.worst[objective]
            if region.within.keep is None:
                most = max(most, *(sign * self._extremes(region)[:, column]))
            reference[objective] = most + 0.1 * (most - least) * (region.within.keep is not None)
        return reference

    def _errors(self, held: Sequence[int], region: Region) -> np.ndarray:
        """Return the errors of evaluations; what failed or violates a constraint is as bad as the worst."""
        errors = np.array([self.errors[i] for i in held])
        broken = np.array([self.violations[i] > 0 for i in held])
        if broken.any():
            errors[broken] = np.concatenate([errors[~broken], region.front]).max(0)
        return errors

    def _worth_holding(self, held: list[int], region: Region) -> list[int]:
        """Choose two thirds of the memory: 60 % nearest the front, 20 % recent, 20 % random."""
        errors = self._errors(held, region)
        if errors.shape[1] == 1:  # the best at any cost
            errors = np.concatenate([errors, self.codes.flags(np.array([self.rows[i] for i in held])) @ self.table], 1)
        errors = (errors - errors.min(0)) / (np.ptp(errors, axis=0) + 1e-12)
        gap = (errors[:, None] - errors).min(2).max(1)
        size = 2 * self.capacity // 3
        order = np.argsort(gap, kind="stable")
        near, others = order[: 3 * size // 5], np.sort(order[3 * size // 5 :])
        lucky = self.rng.permutation(others[: -(size // 5)])[: size - len(near) - size // 5]
        return [held[i] for i in np.sort(np.concatenate([near, others[-(size // 5) :], lucky]))]

    def _extremes(self, region: Region) -> np.ndarray:
        if region.extremes is None:
            region.extremes = np.asarray(self.costs([region.within.smallest(), region.within.largest()]), dtype=float)
        return region.extremes

    def _tabulate_costs(self) -> None:
        """Read an additive table out of random architectures; a quarter of them tell whether it is exact."""
        rng, count = np.random.default_rng(0), min(2 * int(self.codes.sizes.sum()) + 20, 2000)
        rows = np.array([self.codes.row(self.domain.sample(rng)) for _ in range(count)])
        flags, costs, part = self.codes.flags(rows), self._costs(rows), 3 * count // 4
        self.table = np.linalg.lstsq(flags[:part], costs[:part], rcond=None)[0]
        self.additive = bool(np.allclose(flags @ self.table, costs, rtol=1e-9))

    def _find_exact(self) -> dict[int, tuple[int, float]]:
        """Find out which objectives are costs: objective → (column, sign). One at least is predicted."""
        found: dict[int, tuple[int, float]] = {}
        known = [i for i in self.held if self.violations[i] == 0]
        errors = np.array([self.errors[i] for i in known])
        if not known or errors.shape[1] == 1:
            return found
        costs = self._costs(np.array([self.rows[i] for i in known]))
        for objective, column, sign in itertools.product(range(errors.shape[1]), range(costs.shape[1]), (1.0, -1.0)):
            if (
                np.allclose(sign * costs[:, column], errors[:, objective], rtol=1e-9)
                and len(found) < errors.shape[1] - 1
            ):
                found.setdefault(objective, (column, sign))
        return found

    def _costs(self, rows: np.ndarray) -> np.ndarray:
        archs = [self.codes.arch(row) for row in rows]
        return np.asarray(self.costs(archs), dtype=float).reshape(len(archs), -1)
