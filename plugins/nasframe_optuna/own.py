"""Any nasframe sampler as an Optuna sampler, for studies of the user's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasframe import registry
from nasframe.domain import Choices
from nasframe.errors import UsageError
from nasframe.interfaces import start_sampler
from nasframe.types import Trial

LARGEST = 1000  # values a number may have to count as a choice
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class NasframeSampler(BaseSampler):
    """Let a nasframe sampler propose the parameters of an Optuna study, single- or multi-objective.

    It proposes all categorical and integer parameters, and floats with a step; other floats are drawn at random, and so
    is the first trial where ``knobs`` are not given. Failed and pruned trials are told as failed; constraints that the
    objective sets with ``trial.set_constraint`` are told as violations. The sampler's knowledge is rebuilt from the
    study, so that a stored study goes on.

    Args:
        use: the sampler's name, or a mapping ``{"use": name, option: value}``.
        knobs: parameter → its values, or its Optuna distribution; default: those that all finished trials share.
        active: parameter → (parent, values of the parent at which it is suggested), for conditional parameters.
        keep: tells of a mapping of parameters whether it may be proposed, for constraints known beforehand.
        costs: a function from a list of such mappings to an array ``(mappings, costs)`` of exact costs.
        seed: seeds the sampler and the random draws.

    >>> import optuna
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> sampler = NasframeSampler("evolution", {"depth": [2, 4, 6], "width": [64, 128]}, seed=1)
    >>> study = optuna.create_study(sampler=sampler)
    >>> study.optimize(lambda t: t.suggest_categorical("depth", [2, 4, 6]) / t.suggest_categorical("width", [64, 128]),
    ...                n_trials=30)
    >>> study.best_params
    {'depth': 2, 'width': 128}
    """

    def __init__(
        self,
        use: str | Mapping[str, Any] = "evolution",
        knobs: Mapping[str, Sequence[Any] | BaseDistribution] | None = None,
        *,
        active: Mapping[str, tuple[str, Sequence[Any]]] | None = None,
        keep: Callable[[Mapping[str, Any]], bool] | None = None,
        costs: Callable[[Sequence[Mapping[str, Any]]], Any] | None = None,
        seed: int = 0,
    ) -> None:
        registry.find("sampler", registry.use_of(use)[0])
        self.use, self.active, self.keep, self.costs, self.seed = use, dict(active or {}), keep, costs, seed
        self.space = {
            name: value if isinstance(value, BaseDistribution) else CategoricalDistribution(value)
            for name, value in (knobs or {}).items()
        }
        if wrong := [name for name, distribution in self.space.items() if _values(distribution) is None]:
            raise UsageError(f"knobs: {wrong[0]!r} has no list of values. Expected choices, integers or a step.")
        self.shared = IntersectionSearchSpace()
        self.independent = RandomSampler(seed=seed % 2**32)
        self.lock = threading.Lock()
        self.values: dict[str, list[Any]] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the knobs, or what all finished trials share and has a list of values."""
        if self.space:
            return dict(self.space)
        shared = self.shared.calculate(study)
        return {name: found for name, found in shared.items() if _values(found) is not None and not found.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Tell the sampler what has finished, then ask it."""
        if not search_space:
            return {}
        with self.lock:
            values = {name: _values(found) or [] for name, found in search_space.items()}
            if values != self.values:
                self._begin(values)
            self._hear(study)
            asked = self.sampler.ask(1, within=self.within)
            if not asked:  # exhausted: Optuna wants a proposal all the same
                asked = [self.within.sample(self.rng)]
            self.asked[trial.number] = asked[0]
            return self._params(asked[0])

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Draw at random what the nasframe sampler does not propose."""
        return self.independent.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        """Take a fresh seed, as processes that share a study must."""
        self.independent.reseed_rng()
        self.seed, self.values = int(np.random.default_rng().integers(2**62)), {}

    def _begin(self, values: dict[str, list[Any]]) -> None:
        """Make the sampler anew for these parameters; knobs hold positions, since any value may be a choice."""
        rules = {
            name: (parent, [values[parent].index(value) for value in on])
            for name, (parent, on) in self.active.items()
            if name in values and parent in values
        }
        self.values, self.told, self.asked = values, set[int](), dict[int, Any]()
        self.domain = Choices({name: list(range(len(found))) for name, found in values.items()}, rules)
        keep, costs = self.keep, self.costs
        self.within = self.domain if keep is None else self.domain.restrict(keep=lambda arch: keep(self._params(arch)))
        inject = {"domain": self.domain, "seed": self.seed, "costs": None}
        if costs is not None:
            inject["costs"] = lambda archs: costs([self._params(arch) for arch in archs])
        self.sampler = registry.make("sampler", self.use, inject)
        self.rng = np.random.default_rng(self.seed)
        start_sampler(self.sampler, "study", 0, "search")

    def _hear(self, study: Study) -> None:
        """Tell the sampler of the trials that finished since, in their order."""
        finished = study.get_trials(deepcopy=False, states=FINISHED)
        news = [self._trial(trial, study.directions) for trial in finished if trial.number not in self.told]
        self.told |= {trial.number for trial in finished}
        if told := [trial for trial in news if trial is not None]:
            self.sampler.tell(told)

    def _trial(self, trial: FrozenTrial, directions: Sequence[StudyDirection]) -> Trial | None:
        arch = self.asked.pop(trial.number, None)
        if arch is None:  # made by another process, another sampler, or before this one began
            try:
                positions = {n: _position(self.values[n], v) for n, v in trial.params.items() if n in self.values}
                arch = self.domain.canonical(positions)
            except (ValueError, UsageError):
                return None
        if trial.state is not TrialState.COMPLETE:
            return Trial(arch, None, state="failed")
        signs = [1.0 if direction is StudyDirection.MAXIMIZE else -1.0 for direction in directions]
        goals = tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
        excess = sum(max(value, 0.0) for value in trial.constraints.values())
        return Trial(arch, goals[0], goals if len(goals) > 1 else (), violation=excess)

    def _params(self, arch: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.values[name][position] for name, position in arch.items()}


def _position(values: Sequence[Any], value: Any) -> int:
    """Find a value; a float is found where only its last digits differ."""
    if value not in values and isinstance(value, float):
        value = min(values, key=lambda other: abs(other - value))
    return list(values).index(value)


def _values(distribution: BaseDistribution) -> list[Any] | None:
    """List the values of a distribution, if it has so few that they are choices."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        found: list[Any] = list(range(distribution.low, distribution.high + 1, distribution.step))
        return found if len(found) <= LARGEST else None
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        count = round((distribution.high - distribution.low) / distribution.step) + 1
        found = [distribution.low + i * distribution.step for i in range(count)]
        return found if count <= LARGEST else None
    return None
