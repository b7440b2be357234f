"""Any nasframe sampler as an Optuna sampler, for studies of the user's own."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import start_sampler
from nasframe.records import Arch, Trial, arch_id
from nasframe.search.domain import SCAN, Choices

LARGEST = 1000  # values a number may have to count as a choice
TRIES = 100  # asks for something new, beyond one for each trial that the study has
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class NasframeSampler(BaseSampler):
    """Let a nasframe sampler propose the parameters of an Optuna study, single- or multi-objective.

    It proposes all categorical and integer parameters, and floats with a step; other floats are drawn at random, and so
    is the first trial where ``knobs`` are not given. Failed and pruned trials are told as failed; constraints that the
    objective sets with ``trial.set_constraint`` are told as violations. The sampler's knowledge is rebuilt from the
    study, and what the study has is not proposed again while there is something new, so that a stored study goes on.
    One object serves all threads of ``study.optimize(…, n_jobs=…)``.

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
        self.lock, self.process = threading.Lock(), os.getpid()
        self.values: dict[str, list[Any]] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the knobs, or what all finished trials share and has a list of values."""
        if self.space:
            return dict(self.space)
        with self.lock:
            shared = self.shared.calculate(study)
        return {name: found for name, found in shared.items() if _values(found) is not None and not found.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Tell the sampler what has finished, then ask it."""
        enqueued = trial.system_attrs.get("fixed_params", {})
        if search_space.keys() <= enqueued.keys():  # nothing is left to propose
            return {}
        with self.lock:
            values = {name: _values(found) or [] for name, found in search_space.items()}
            if values != self.values:
                self._begin(values)
            self._hear(study)
            arch = self._proposal()
            self.asked[trial.number] = arch
            self.known.setdefault(arch_id(arch), None)
            return self._params(arch)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Draw at random what the nasframe sampler does not propose."""
        with self.lock:
            return self.independent.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        """Take a fresh seed in another process than before; Optuna calls this before each trial of a thread, too."""
        if self.process == os.getpid():
            return
        self.process = os.getpid()
        self.independent.reseed_rng()
        self.seed, self.values = int(np.random.default_rng().integers(2**62)), {}

    def _begin(self, values: dict[str, list[Any]]) -> None:
        """Make the sampler anew for these parameters; knobs hold positions, since any value may be a choice."""
        rules = {
            name: (parent, [values[parent].index(value) for value in on])
            for name, (parent, on) in self.active.items()
            if name in values and parent in values
        }
        self.values, self.told = values, set[int]()
        self.asked: dict[int, Arch] = {}  # by the number of the trial that is to evaluate it
        self.known: dict[str, Trial | None] = {}  # all that the study has or will have; None: without an answer yet
        self.waiting = deque[Arch]()  # what the sampler proposed beyond the one that it was asked for
        self.domain = Choices({name: list(range(len(found))) for name, found in values.items()}, rules)
        keep, costs = self.keep, self.costs
        self.within = self.domain if keep is None else self.domain.restrict(keep=lambda arch: keep(self._params(arch)))
        self.listed: Iterator[Arch] = self.within.enumerate()
        self.unseen: Arch | None = None  # the first of those listed that the study does not have
        inject = {"domain": self.domain, "seed": self.seed, "costs": None}
        if costs is not None:
            inject["costs"] = lambda archs: costs([self._params(arch) for arch in archs])
        self.sampler = registry.make("sampler", self.use, inject)
        self.rng = np.random.default_rng(self.seed)
        start_sampler(self.sampler, "study", 0, "search")

    def _hear(self, study: Study) -> None:
        """Tell the sampler of the trials that finished since, in their order."""
        news = []
        for trial in study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING)):
            if trial.number in self.told:
                continue
            if trial.state is TrialState.RUNNING:  # perhaps in another process
                if trial.number not in self.asked and (arch := self._arch(trial)) is not None:
                    self.known.setdefault(arch_id(arch), None)
                continue
            self.told.add(trial.number)
            answer = self._trial(trial, study.directions)
            if answer is not None:
                news.append(answer)
                self.known[arch_id(answer.arch)] = answer
        if news:
            self.sampler.tell(news)

    def _proposal(self) -> Arch:
        """Ask for something that the study does not have; repeats are answered from it, as a search does."""
        arch = None
        for _ in range(len(self.known) + TRIES):
            arch = self._next()
            if arch is None or arch_id(arch) not in self.known or not self._has_more():
                break
            answer = self.known[arch_id(arch)]
            if answer is not None:
                repeat = replace(answer, state="repeat") if answer.state == "done" else answer
                self.sampler.tell([repeat])
        return self._drawn() if arch is None else arch  # exhausted: Optuna wants a proposal all the same

    def _drawn(self) -> Arch:
        """Draw something that the study does not have, or, if it has everything, anything."""
        if self._has_more():
            for _ in range(TRIES):
                arch = self.within.sample(self.rng)
                if arch_id(arch) not in self.known:
                    return arch
        return self.within.sample(self.rng) if self.unseen is None else self.unseen

    def _next(self) -> Arch | None:
        """Return the sampler's next proposal; it may answer an ask with several, or with none when it has no more."""
        if not self.waiting:
            self.waiting.extend(self.sampler.ask(1, within=self.within))
        return self.waiting.popleft() if self.waiting else None

    def _has_more(self) -> bool:
        """Tell whether there is something that the study does not have; if not, everything may come again.

        What ``keep`` leaves of a domain is known by listing it, as far as the study has it and no further. A domain
        that is too large for that counts as a whole.
        """
        if self.domain.size > SCAN:
            return len(self.known) < self.domain.size
        while self.unseen is None or arch_id(self.unseen) in self.known:
            self.unseen = next(self.listed, None)
            if self.unseen is None:
                return False
        return True

    def _trial(self, trial: FrozenTrial, directions: Sequence[StudyDirection]) -> Trial | None:
        """Read the answer to what a trial evaluated; ``None`` for parameters that are not of these knobs."""
        asked, arch = self.asked.pop(trial.number, None), self._arch(trial)
        if asked is not None and (arch is None or self._is_answer(trial, asked)):
            arch = asked
        if asked is not None and arch is not None and arch_id(arch) != arch_id(asked):  # it was given other values
            self.known.pop(arch_id(asked), None)
            self.waiting.append(asked)
        if arch is None:
            return None
        if trial.state is not TrialState.COMPLETE:
            return Trial(arch, None, state="failed")
        signs = [1.0 if direction is StudyDirection.MAXIMIZE else -1.0 for direction in directions]
        goals = tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
        excess = sum(max(value, 0.0) for value in trial.constraints.values())
        return Trial(arch, goals[0], goals if len(goals) > 1 else (), violation=excess)

    def _arch(self, trial: FrozenTrial) -> Arch | None:
        """Read the architecture that a trial's parameters are, if they are of these knobs."""
        try:
            positions = {n: _position(self.values[n], v) for n, v in trial.params.items() if n in self.values}
            return self.domain.canonical(positions)
        except (ValueError, UsageError):
            return None

    def _is_answer(self, trial: FrozenTrial, asked: Arch) -> bool:
        """Tell whether a trial has the values that it was asked to evaluate."""
        wanted = self._params(asked)
        return all(name in trial.params and trial.params[name] == value for name, value in wanted.items())

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
