"""What happens between one nasframe sampler and one Optuna study: proposals in one direction, answers in the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.records import Arch, Trial, arch_id
from nasframe.search.domain import SCAN, Choices
from nasframe.search.guarded import GuardedSampler
from nasframe.search.restrict import joined

TRIES = 100  # asks for something new, beyond one for each trial that the study has
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

Parameters = Mapping[str, Any]
"""Name of a parameter → its value, as Optuna has them."""


class Proposer:
    """Asks a nasframe sampler for a study's parameters, and tells it what became of its proposals.

    Architectures have the positions of values instead of the values, because any value may be a choice.

    Args:
        use: the sampler's name, or a mapping with its options.
        values: parameter → its values.
        active: parameter → (parent, values of the parent at which it is suggested).
        keep: returns whether parameters may be proposed.
        costs: exact costs of parameters, ``(mappings, costs)``.
        seed: seeds the sampler and the random draws.
    """

    def __init__(
        self,
        use: str | Mapping[str, Any],
        values: dict[str, list[Any]],
        active: Mapping[str, tuple[str, Sequence[Any]]],
        keep: Callable[[Parameters], bool] | None,
        costs: Callable[[Sequence[Parameters]], Any] | None,
        seed: int,
    ) -> None:
        self.values = values
        self.told: set[int] = set()  # numbers of the trials that the sampler was told of
        self.asked: dict[int, Arch] = {}  # by the number of the trial that is to evaluate it
        self.known: dict[str, Trial | None] = {}  # all that the study has or will have; None: without an answer yet
        self.waiting: deque[Arch] = deque()  # what the sampler proposed beyond the one that it was asked for

        rules = {}
        for name, (parent, parent_values) in active.items():
            if name in values and parent in values:
                positions = [values[parent].index(value) for value in parent_values]
                rules[name] = (parent, positions)
        knobs = {name: range(len(choices)) for name, choices in values.items()}
        self.domain = Choices(knobs, rules)
        self.within = self.domain
        if keep is not None:
            self.within = self.domain.restrict(keep=lambda arch: keep(self.params(arch)))
        self.listed: Iterator[Arch] = self.within.enumerate()
        self.unseen: Arch | None = None  # the first of those listed that the study does not have

        inject: dict[str, Any] = {"domain": self.domain, "seed": seed, "costs": None}
        if costs is not None:

            def costs_of_archs(archs: Sequence[Arch]) -> Any:
                mappings = [self.params(arch) for arch in archs]
                return costs(mappings)

            inject["costs"] = costs_of_archs
        self.sampler = GuardedSampler(lambda: registry.make("sampler", use, inject), joined(self.domain, use))
        self.rng = np.random.default_rng(seed)
        self.sampler.start("study", 0, "search")

    def params(self, arch: Arch) -> dict[str, Any]:
        """Return the parameters of an architecture."""
        return {name: self.values[name][position] for name, position in arch.items()}

    def hear(self, study: Study) -> None:
        """Tell the sampler of the trials that finished since the last call, in their order."""
        answers = []
        for trial in study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING)):
            if trial.number in self.told:
                continue
            if trial.state is TrialState.RUNNING:
                self._note_running(trial)
                continue
            self.told.add(trial.number)
            answer = self._answer(trial, study.directions)
            if answer is not None:
                answers.append(answer)
                self.known[arch_id(answer.arch)] = answer
        if answers:
            self.sampler.tell(answers)

    def propose(self, number: int) -> dict[str, Any]:
        """Return the parameters that the trial with this number is to evaluate."""
        arch = self.proposal()
        self.asked[number] = arch
        self.known.setdefault(arch_id(arch), None)
        return self.params(arch)

    def proposal(self) -> Arch:
        """Ask for something that the study does not have; repeats are answered from it, as a search does."""
        for _ in range(len(self.known) + TRIES):
            arch = self._next()
            if arch is None:
                break
            name = arch_id(arch)
            if name not in self.known or not self._has_more():
                return arch
            answer = self.known[name]
            if answer is not None:
                self.sampler.tell([_repeated(answer)])
        return self._drawn()  # the sampler has nothing new, but Optuna wants a proposal all the same

    def _drawn(self) -> Arch:
        """Draw something that the study does not have, or, if it has everything, anything."""
        if self._has_more():
            for _ in range(TRIES):
                arch = self.within.sample(self.rng)
                if arch_id(arch) not in self.known:
                    return arch
        if self.unseen is not None:
            return self.unseen
        return self.within.sample(self.rng)

    def _next(self) -> Arch | None:
        """Return the sampler's next proposal; it may answer an ask with several, or with none when it has no more."""
        if not self.waiting:
            self.waiting.extend(self.sampler.ask(1, within=self.within))
        if not self.waiting:
            return None
        return self.waiting.popleft()

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

    def _note_running(self, trial: FrozenTrial) -> None:
        """Note what a trial evaluates that was asked for elsewhere, perhaps in another process."""
        if trial.number in self.asked:
            return
        arch = self._arch(trial)
        if arch is not None:
            self.known.setdefault(arch_id(arch), None)

    def _answer(self, trial: FrozenTrial, directions: Sequence[StudyDirection]) -> Trial | None:
        """Return what a trial evaluated, or ``None`` if its parameters are not of these knobs."""
        arch = self._evaluated(trial)
        if arch is None:
            return None
        if trial.state is not TrialState.COMPLETE:
            return Trial(arch, None, state="failed")
        objectives = []
        for direction, value in zip(directions, trial.values, strict=True):
            objectives.append(value if direction is StudyDirection.MAXIMIZE else -value)
        excess = sum(max(value, 0.0) for value in trial.constraints.values())  # Optuna's are met at 0 and below
        several = tuple(objectives) if len(objectives) > 1 else ()
        return Trial(arch, objectives[0], several, violation=excess)

    def _evaluated(self, trial: FrozenTrial) -> Arch | None:
        """Return the architecture that a trial evaluated; one that it got no chance to evaluate is proposed again."""
        arch = self._arch(trial)
        asked = self.asked.pop(trial.number, None)
        if asked is None:
            return arch
        if arch is None or self._is_answer(trial, asked):
            return asked
        if arch_id(arch) != arch_id(asked):  # it was given other values
            self.known.pop(arch_id(asked), None)
            self.waiting.append(asked)
        return arch

    def _arch(self, trial: FrozenTrial) -> Arch | None:
        """Return the architecture of a trial's parameters, if they are of these knobs."""
        try:
            positions = {}
            for name, value in trial.params.items():
                if name in self.values:
                    positions[name] = _position(self.values[name], value)
            return self.domain.canonical(positions)
        except (ValueError, UsageError):
            return None

    def _is_answer(self, trial: FrozenTrial, asked: Arch) -> bool:
        """Tell whether a trial has the values that it was asked to evaluate; it may have others besides."""
        return self.params(asked).items() <= trial.params.items()


def _repeated(answer: Trial) -> Trial:
    """Return an answer as it is told again; failed ones stay failed."""
    if answer.state != "done":
        return answer
    return replace(answer, state="repeat")


def _position(values: list[Any], value: Any) -> int:
    """Return the position of a value; a float may differ in its last digits."""
    if value not in values and isinstance(value, float):
        value = min(values, key=lambda other: abs(other - value))
    return values.index(value)
