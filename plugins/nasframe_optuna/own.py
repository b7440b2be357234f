"""Any nasframe sampler as an Optuna sampler, for studies of the user's own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial

from nasframe import registry
from nasframe.errors import UsageError
from nasframe_optuna.proposer import Parameters, Proposer

LARGEST = 1000  # values a number may have to count as a choice


class NasframeSampler(BaseSampler):
    """Let a nasframe sampler propose the parameters of an Optuna study, single- or multi-objective.

    It proposes all categorical and integer parameters, and floats with a step. Other floats are drawn at random, and so
    is the first trial if ``knobs`` are not given. Failed and pruned trials are told as failed; constraints that the
    objective sets with ``trial.set_constraint`` are told as violations. The sampler's knowledge is rebuilt from the
    study, so that a stored study goes on, and what the study has is not proposed again while there is something new.
    One object serves all threads of ``study.optimize(…, n_jobs=…)``.

    Args:
        use: the sampler's name, or a mapping ``{"use": name, option: value}``.
        knobs: parameter → its values, or its Optuna distribution; default: those that all finished trials share.
        active: parameter → (parent, values of the parent at which it is suggested), for conditional parameters.
        keep: returns whether a mapping of parameters may be proposed, for constraints known beforehand.
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
        keep: Callable[[Parameters], bool] | None = None,
        costs: Callable[[Sequence[Parameters]], Any] | None = None,
        seed: int = 0,
    ) -> None:
        name, _ = registry.use_of(use)
        registry.find("sampler", name)  # a misspelt name is an error here, not in the middle of the study
        self.use = use
        self.active = dict(active or {})
        self.keep = keep
        self.costs = costs
        self.seed = seed
        self.space: dict[str, BaseDistribution] = {}
        for name, value in (knobs or {}).items():
            distribution = value if isinstance(value, BaseDistribution) else CategoricalDistribution(value)
            if _values(distribution) is None:
                raise UsageError(f"knobs: {name!r} has no list of values. Expected choices, integers or a step.")
            self.space[name] = distribution
        self.shared = IntersectionSearchSpace()
        self.independent = RandomSampler(seed=seed % 2**32)
        self.lock = threading.Lock()
        self.process = os.getpid()
        self.proposer: Proposer | None = None  # made when the parameters are known

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the knobs, or the parameters with a list of values that all finished trials share."""
        if self.space:
            return dict(self.space)
        with self.lock:  # it remembers which trials it has seen
            shared = self.shared.calculate(study)
        space = {}
        for name, distribution in shared.items():
            if _values(distribution) is not None and not distribution.single():
                space[name] = distribution
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Tell the sampler of the trials that have finished, then ask it."""
        enqueued = trial.system_attrs.get("fixed_params", {})
        if search_space.keys() <= enqueued.keys():  # nothing is left to propose
            return {}
        values = {name: _values(distribution) or [] for name, distribution in search_space.items()}
        with self.lock:
            proposer = self.proposer
            if proposer is None or proposer.values != values:
                proposer = self.begin(values)
            proposer.hear(study)
            return proposer.propose(trial.number)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Draw a parameter at random that the nasframe sampler does not propose."""
        with self.lock:
            return self.independent.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        """Take a fresh seed in a new process; Optuna also calls this before each trial of a thread."""
        if self.process == os.getpid():  # a thread: it shares the sampler, which must not begin again
            return
        self.process = os.getpid()
        self.independent.reseed_rng()
        self.seed = int(np.random.default_rng().integers(2**62))
        self.proposer = None

    def begin(self, values: dict[str, list[Any]]) -> Proposer:
        """Make a new nasframe sampler for these parameters."""
        self.proposer = Proposer(self.use, values, self.active, self.keep, self.costs, self.seed)
        return self.proposer


def _values(distribution: BaseDistribution) -> list[Any] | None:
    """Return the values of a distribution, or ``None`` if they are too many to be choices."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        integers = range(distribution.low, distribution.high + 1, distribution.step)
        if len(integers) <= LARGEST:
            return list(integers)
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        low = distribution.low
        step = distribution.step
        count = round((distribution.high - low) / step) + 1
        if count <= LARGEST:
            return [low + i * step for i in range(count)]
    return None
