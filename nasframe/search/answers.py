"""Answers a sampler's proposals: from the archive, by cost alone, or by evaluating them.

:class:`Answerer` knows bounds, objectives and penalties; :class:`Archive` keeps the trials in order and replays those
of an interrupted search.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

from nasframe.errors import NasframeError, RunError, UsageError, listing
from nasframe.interfaces import Rival
from nasframe.plugin_errors import described, plugin_error
from nasframe.records import Arch, Evaluation, Trial, arch_id
from nasframe.search import constraints
from nasframe.search.budgets import Budget, Costs
from nasframe.search.constraints import CostValues, Limits
from nasframe.search.winner import WinnerRule, tolerance


@runtime_checkable
class Scorer(Protocol):
    """Measures architectures, and may stop early when one cannot win any more."""

    def score(self, arch: Arch, examples: int | None, rivals: Sequence[Rival], measured: Sequence[Trial]) -> Evaluation:
        """Measure an architecture.

        Args:
            arch: the architecture.
            examples: the number of examples to measure on; ``None`` for all.
            rivals: what it has to beat, see :class:`nasframe.interfaces.Candidate`.
            measured: the trials that were measured to the end on as many examples, the oldest first.
        """
        ...


Evaluate: TypeAlias = Callable[[Arch, int | None], Mapping[str, float]] | Scorer
"""(architecture, number of examples or ``None`` for all) → metrics by name; or an object with ``score``."""

Penalty = Callable[[float, CostValues, Limits], float]
"""(score, costs, bounds) → the score that the sampler gets."""

Key = tuple[str, int | None]
"""An evaluation: the architecture's id and the number of examples; scores on other subsets are other evaluations."""

MAX_FAILURES = 20  # failed evaluations in a row before the search gives up: the architectures are hardly the cause then
log = logging.getLogger(__name__)


@dataclass
class Answerer:
    """Answers proposals.

    Args:
        region: the domain; architectures outside of it are screened.
        evaluate: measures an architecture.
        costs: architecture → costs by name.
        budgets: the budgets that need a winner.
        objectives: names of metrics and costs, ``-`` before those to minimise; the first is the score.
        examples: the number of examples that proposals are scored on, ``None`` for all.
        penalty: lowers the score of an architecture that breaks a bound; if it is ``None``, such an architecture is
            never evaluated.
        rule: chooses the winners; says how far below the best score an architecture can still win.
        contenders: how many of the best under each budget can still win: one, or as many as are scored again.
        archive: the evaluated trials, failures included.
        screened: the trials that were answered by cost alone, by architecture id.
        broken_off: the trials whose evaluation ended early, because they could no longer win, by architecture id.
    """

    region: Any
    evaluate: Evaluate
    costs: Costs
    budgets: Sequence[Budget]
    objectives: Sequence[str]
    examples: int | None
    penalty: Penalty | None
    rule: WinnerRule = field(default_factory=WinnerRule)
    contenders: int = 1
    archive: dict[Key, Trial] = field(default_factory=dict)
    screened: dict[str, Trial] = field(default_factory=dict)
    broken_off: dict[str, Trial] = field(default_factory=dict)
    causes: list[BaseException] = field(default_factory=list)  # of the failures since the last success
    first: BaseException | None = None
    _best: dict[str, list[Trial]] = field(default_factory=dict)  # name of a budget → its contenders, the best first
    _complete: list[Trial] = field(default_factory=list)  # measured to the end on ``examples``, the oldest first
    _ranked: int = 0  # how many trials of the archive were considered for it

    def answer_from_archive(self, arch: Arch, budget: Budget) -> Trial | None:
        """Return the answer to an architecture that was proposed before, ``None`` for a new one."""
        name = arch_id(arch)
        earlier = self.archive.get((name, self.examples)) or self.broken_off.get(name)
        if earlier is None:
            return self.screened.get(name)
        if earlier.state == "failed":
            return earlier
        return self.scored(replace(earlier, state="repeat"), budget)  # again, because a penalty depends on the budget

    def answer(self, arch: Arch, budget: Budget) -> Trial:
        """Answer a new architecture: screen it by its costs, or evaluate it."""
        unscored = self.unscored(arch, self.costs(arch), self.examples)
        breaks_all_budgets = unscored.violation > 0  # a trial for one budget may still win another
        is_outside = not self.region.contains(arch)
        if is_outside or (breaks_all_budgets and self.penalty is None):
            return replace(unscored, state="screened")
        rivals = self.rivals(unscored) if isinstance(self.evaluate, Scorer) else ()
        return self.measured(unscored, budget, rivals)

    def rivals(self, unscored: Trial) -> list[Rival]:
        """Return what a trial has to beat under the budgets that it meets, empty if it may be the first under one.

        A trial that meets no budget cannot win, whatever its score is; a penalty needs the score all the same.
        """
        rivals: dict[str, Rival] = {}
        for budget in self.budgets:
            if constraints.violation(unscored.costs, budget.bounds) > 0:
                continue
            rival = self._rival(budget)
            if rival is None:
                return []
            rivals[arch_id(rival.arch)] = Rival(rival, tolerance(self.rule, self.unpenalised_score(rival), rival))
        return list(rivals.values())

    def _rival(self, budget: Budget) -> Trial | None:
        """Return the trial that must be beaten to win under a budget; ``None`` while there are too few."""
        self._rank_new()
        best = self._best.get(budget.name, [])
        return best[-1] if len(best) == self.contenders else None

    def _rank_new(self) -> None:
        """Rank what came into the archive since the last call: a search of many trials looks at each of them once."""
        for (_, examples), trial in itertools.islice(self.archive.items(), self._ranked, None):
            if trial.state != "done" or examples != self.examples:
                continue
            self._complete.append(trial)
            for budget in self.budgets:
                if constraints.violation(trial.costs, budget.bounds) == 0:
                    best = self._best.setdefault(budget.name, [])
                    bisect.insort(best, trial, key=lambda other: -self.unpenalised_score(other))
                    del best[self.contenders :]
        self._ranked = len(self.archive)

    def final(self, trial: Trial, budget: Budget, remeasure: Costs | None) -> Trial:
        """Score a trial on all examples, with its noisy costs measured again."""
        costs = dict(trial.costs)
        if remeasure is not None:
            costs |= remeasure(trial.arch)
        unscored = self.unscored(trial.arch, costs, None)
        earlier = self.archive.get((arch_id(trial.arch), None))
        if earlier is not None:  # the metrics are known, but the costs are those measured just now
            return self.scored(replace(unscored, metrics=earlier.metrics), budget)
        return self.measured(unscored, budget)

    def recall(self, trial: Trial) -> Trial:
        """Take an earlier search's trial into the archive, with this search's costs, budgets and objectives."""
        costs = self.costs(trial.arch)
        unscored = self.unscored(trial.arch, costs, trial.examples)
        measured = replace(unscored, metrics=trial.metrics)
        # A penalty depends on the budget. The first stands for all until the architecture is proposed again.
        recalled = self.scored(measured, self.budgets[0])
        self.archive[arch_id(trial.arch), trial.examples] = recalled
        return recalled

    def unscored(self, arch: Arch, costs: CostValues, examples: int | None) -> Trial:
        """Return a trial without a score; its violation is that of the budget it comes nearest to."""
        violations = [constraints.violation(costs, budget.bounds) for budget in self.budgets]
        return Trial(arch, None, costs=dict(costs), violation=min(violations), examples=examples)

    def measured(self, unscored: Trial, budget: Budget, rivals: Sequence[Rival] = ()) -> Trial:
        """Evaluate an architecture. An exception, or a number that is not finite, makes a failed trial.

        Raises:
            UsageError: the objectives are wrong, so that every other evaluation would fail, too.
            RunError: :data:`MAX_FAILURES` evaluations in a row failed.
        """
        try:
            trial = self.scored(self._evaluated(unscored, rivals), budget)
            require_finite(trial)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # whatever a task or a plugin raises costs one trial, not the search
            self._note_failure(unscored.arch, error)
            return replace(unscored, state="failed")
        self.causes.clear()
        return trial

    def _evaluated(self, unscored: Trial, rivals: Sequence[Rival]) -> Trial:
        """Return a trial with its metrics, and with the examples that it was evaluated on if that broke off."""
        examples = unscored.examples
        if isinstance(self.evaluate, Scorer):
            self._rank_new()
            result = self.evaluate.score(unscored.arch, examples, rivals, tuple(self._complete))
            metrics = result.metrics
            if result.broken_off:
                examples = result.examples
        else:
            metrics = self.evaluate(unscored.arch, examples)
        plain_metrics = {name: float(value) for name, value in metrics.items()}
        return replace(unscored, metrics=plain_metrics, examples=examples)

    def _note_failure(self, arch: Arch, error: BaseException) -> None:
        """Log a failed evaluation, and give up if too many failed in a row."""
        log.warning("evaluation failed: %s, at %s", _cause(error), dict(arch))
        self.causes.append(error)
        if self.first is None:
            self.first = error
        if len(self.causes) >= MAX_FAILURES:
            first = self.causes[0]
            count = f"{len(self.causes)} evaluations failed one after the other"
            raise RunError(f"{count}, the first with {_cause(first)}") from first

    def first_cause(self) -> str:
        """Return the cause of the first failure as the end of a sentence; empty if none failed."""
        if self.first is None:  # failed trials of an interrupted search are stored without their causes
            return ""
        return f", the first with {_cause(self.first)}"

    def scored(self, trial: Trial, budget: Budget) -> Trial:
        """Return a trial with its score and, if there are several, its objectives."""
        values = tuple(self.value(name, trial) for name in self.objectives)
        score = values[0]
        if self.penalty is not None:
            score = self.penalty(score, trial.costs, budget.bounds)
        objectives = values if len(values) > 1 else ()
        return replace(trial, score=score, objectives=objectives)

    def value(self, objective: str, trial: Trial) -> float:
        """Return an objective's value, to be maximised.

        Raises:
            UsageError: it is neither a metric nor a cost.
        """
        name = objective.removeprefix("-")
        numbers = {**trial.costs, **trial.metrics}  # a metric wins over a cost of the same name
        if name not in numbers:
            raise UsageError(f"objective {objective!r} is neither a metric nor a cost. There are: {listing(numbers)}.")
        return -numbers[name] if objective.startswith("-") else numbers[name]

    def unpenalised_score(self, trial: Trial) -> float:
        """Return the first objective as it was measured: winners meet their bounds, so nothing is taken off."""
        return self.value(self.objectives[0], trial)


def require_finite(trial: Trial) -> None:
    """Raise ArithmeticError if a trial's score or one of its objectives is not finite."""
    numbers = (trial.score or 0.0, *trial.objectives)  # one objective alone is the score
    if not all(map(math.isfinite, numbers)):
        raise ArithmeticError(f"not finite: {trial.metrics}")


def _cause(error: BaseException) -> str:
    """Return the cause of a failed evaluation; errors other than nasframe's own name the plugin that raised them."""
    if isinstance(error, NasframeError):
        return described(error)
    return str(plugin_error(error) or described(error))


@dataclass
class Archive:
    """All trials in order, and those of an interrupted search that are still to be replayed.

    Args:
        on_trial: stores a new trial: (number, trial, seconds).
        evaluated: the answerer's archive.
    """

    on_trial: Callable[[int, Trial, float], None]
    evaluated: dict[Key, Trial]
    trials: list[Trial] = field(default_factory=list)
    finals: dict[str, Trial] = field(default_factory=dict)  # finalists by architecture id
    repeats: int = 0
    _stored: Iterator[Trial] = field(default_factory=lambda: iter(()))
    _passed_over: int = 0

    def replay(self, done: Iterable[Trial]) -> None:
        """Take the trials of an interrupted search.

        Earlier versions stored repeats, too. They are passed over, as are further answers to a rejected architecture.
        """
        stored: list[Trial] = []
        rejected: set[Key] = set()
        for trial in done:
            key = (arch_id(trial.arch), trial.examples)
            if trial.state == "repeat" or key in rejected:
                self._passed_over += 1
                continue
            if trial.state in ("screened", "failed"):
                rejected.add(key)
            stored.append(trial)
        self._stored = iter(stored)

    def add(self, arch: Arch, answer: Callable[[], Trial]) -> Trial:
        """Keep the stored answer to an architecture if there is one, otherwise a new answer, which is stored.

        Raises:
            RunError: the next stored trial is of another architecture.
        """
        began = time.monotonic()
        trial = next(self._stored, None)
        if trial is None:
            trial = answer()
            number = len(self.trials) + self._passed_over  # after all stored ones, so that none is overwritten
            self.on_trial(number, trial, time.monotonic() - began)
        elif arch_id(trial.arch) != arch_id(arch):  # the sampler is not where it was, so no stored answer would fit
            raise RunError(
                f"cannot go on: trial {len(self.trials)} was {dict(trial.arch)}, but now it would be {dict(arch)}. "
                "The recipe, the sampler or what it learned before has changed. Start a new run."
            )
        if trial.state in ("done", "failed"):
            self.evaluated[arch_id(trial.arch), trial.examples] = trial
        self.trials.append(trial)
        return trial

    def finalist(self, trial: Trial, budget: Budget, answerer: Answerer, remeasure: Costs | None) -> Trial:
        """Return a trial scored as a finalist. Each architecture is scored once for all budgets."""
        name = arch_id(trial.arch)
        if name not in self.finals:
            answer = functools.partial(answerer.final, trial, budget, remeasure)
            self.finals[name] = self.add(trial.arch, answer)
        return self.finals[name]
