"""The search loop: one for every sampler, so that none has to know of constraints, repeats, failures or resumes.

Ask → canonical form → answer repeats from the archive → screen by cost → evaluate → store → tell. Costs are exact and
free, evaluations are not: nothing infeasible and nothing twice is ever evaluated. Repeats are told to the sampler and
counted, but not stored.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nasframe.errors import NasframeError, RunError, UsageError, listing
from nasframe.interfaces import start_sampler
from nasframe.plugin_errors import described, plugin_error
from nasframe.records import Arch, Trial, arch_id
from nasframe.search import constraints
from nasframe.search.budgets import Costs, Goal, check_reachable, goals, shortfall
from nasframe.search.constraints import Bounds, Screen, penalised
from nasframe.search.pareto import pareto_front
from nasframe.search.restrict import restrict

if TYPE_CHECKING:
    from nasframe.interfaces import Domain, Sampler

Evaluate = Callable[[Arch, int | None], Mapping[str, float]]
MAX_FAILURES = 20  # evaluations that fail one after the other before the search gives up
MEMORY = 100_000  # costs kept, so that a measured one is the same whenever it is asked for
STALE = 20  # proposals in a row that bring nothing new before what is left to evaluate is listed
LISTABLE = 20_000  # architectures of the largest domain that is listed
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        trials: every proposal but repeats, in order, then the finalists.
        winners: name → the best trial within that budget.
        front: the evaluated trials that none beats in every objective and every bounded cost.
        evaluated: how many of the asked trials were evaluated.
        repeats: proposals that were answered before.
        failures: evaluations that failed.
        ended: why the search ended before all trials were spent; empty if they were.
    """

    trials: list[Trial]
    winners: dict[str, Trial]
    front: list[Trial]
    evaluated: int = 0
    repeats: int = 0
    failures: int = 0
    ended: str = ""


def search(
    sampler: Sampler,
    domain: Domain,
    evaluate: Evaluate,
    costs: Costs,
    *,
    objectives: Sequence[str] = ("accuracy",),
    trials: int = 100,
    within: Domain | None = None,
    bounds: Mapping[str, Bounds] | None = None,
    budgets: Mapping[str, Mapping[str, Bounds]] | None = None,
    examples: int | None = None,
    finalists: int = 10,
    remeasure: Costs | None = None,
    violation: Literal["screen"] | Mapping[str, float] = "screen",
    max_rejections: int = 1000,
    batch: int = 1,
    prefix: str = "best",
    done: Iterable[Trial] = (),
    known: Iterable[Trial] = (),
    on_trial: Callable[[int, Trial, float], None] = lambda number, trial, seconds: None,
    stage: str = "search",
) -> SearchResult:
    """Look for the best architecture under every budget.

    The budgets share one archive and take turns: each ask is confined to the next budget's region, for without that
    nearly all proposals would lie just below the loosest one. A trial made for one budget counts for every other
    that it meets.

    Args:
        sampler: who proposes.
        domain: what is proposed from.
        evaluate: (architecture, examples or ``None`` for all) → metrics by name.
        costs: architecture → costs by name; asked often.
        objectives: names of metrics or costs, ``-`` before what is to be minimised. The first is the score.
        trials: evaluations to spend; repeated, screened and failed proposals are free.
        within: the part of the domain to search.
        bounds: cost → bounds that every winner must meet.
        budgets: cost → {the budget's name: bounds}; each budget gets a winner.
        examples: score on so many examples, and the best again on all.
        finalists: how many of the best a budget are scored again, and measured again, before the winner is chosen.
        remeasure: measures the costs of a finalist anew, for costs that are noisy.
        violation: ``screen``, or ``{"penalise": p}`` to evaluate everything and lower scores by the published soft
            penalty, see :func:`nasframe.search.constraints.penalised`.
        max_rejections: end after so many free proposals in a row.
        batch: how many to ask for at once.
        prefix: the winners' first name: ``best``, ``best@50%``, or ``best@params=50%`` if several costs have budgets.
        done: the stored trials of an interrupted search, in order. Its proposals are asked for again, which brings
            the sampler to where it was, and answered from here. Repeats among them are passed over.
        known: what earlier searches evaluated on the same network. The sampler is told of it, proposals that are
            among it are repeats, and it may win.
        on_trial: stores a new trial: (number, trial, seconds); repeats are none.
        stage: the name the sampler is started with.

    Returns:
        All trials, the winners, the front, and how the search ended.

    Raises:
        UnsatisfiableError: no architecture can meet the bounds; names the nearest reachable values.
        RunError: every evaluation fails, or 20 in a row do; the stored trials are another search's; or no trial meets
            a budget.
        UsageError: an objective that is neither metric nor cost.
    """
    region = domain if within is None else within
    wanted = goals(prefix, bounds or {}, budgets or {})
    costs = _memoised(costs)
    check_reachable(wanted, region, costs)
    regions = [restrict(region, keep=Screen(goal.bounds, costs)) if goal.bounds else region for goal in wanted]
    penalty = None
    if violation != "screen":
        form: Any = getattr(sampler, "penalty", "monotone")  # a sampler may want it as it was published
        power, extremes = float(violation["penalise"]), _extremes(domain, costs)  # type: ignore[index]
        penalty = functools.partial(penalised, extremes=extremes, power=power, form=form)
    judge = _Judge(region, evaluate, costs, wanted, objectives, examples, penalty)
    book = _Book(on_trial, judge.archive)
    book.replay(done)
    start_sampler(sampler, stage, trials, "search")
    if earlier := [judge.recalled(trial) for trial in known if trial.state == "done"]:
        sampler.tell(earlier)
    if penalty is not None:
        regions = [region] * len(wanted)
    evaluated, ended = _explore(
        sampler, judge, book, domain.canonical, regions, trials, max_rejections, batch, listable=remeasure is None
    )
    failures = sum(trial.state == "failed" for trial in book.trials)
    if failures and not any(trial.state == "done" for trial in judge.archive.values()):
        raise RunError(f"all {failures} evaluations failed{judge.first_cause()}.")
    winners = {goal.name: _winner(goal, judge, book, finalists, remeasure) for goal in wanted}
    return SearchResult(book.trials, winners, _front(judge, book), evaluated, book.repeats, failures, ended)


def subset(examples: int | None, size: int | None) -> int | None:
    """Return how many examples of a split to score on, ``None`` for all of it.

    >>> subset(256, 1000), subset(256, 200)
    (256, None)
    """
    if examples is None or (size is not None and examples >= size):
        return None
    return examples


@dataclass
class _Judge:
    """Answers proposals: from the archive, by their costs, or by evaluating them."""

    region: Any
    evaluate: Evaluate
    costs: Costs
    goals: Sequence[Goal]
    objectives: Sequence[str]
    examples: int | None
    penalty: Callable[[float, Mapping[str, float], Mapping[str, Bounds]], float] | None
    archive: dict[tuple[str, int | None], Trial] = field(default_factory=dict)
    screened: dict[str, Trial] = field(default_factory=dict)
    causes: list[BaseException] = field(default_factory=list)
    first: BaseException | None = None

    def repeated(self, arch: Arch, goal: Goal) -> Trial | None:
        """Return the answer to what was proposed before, or ``None`` for something new."""
        name = arch_id(arch)
        known = self.archive.get((name, self.examples))
        if known is None:
            return self.screened.get(name)
        return known if known.state == "failed" else self.scored(replace(known, state="repeat"), goal)

    def answer(self, arch: Arch, goal: Goal) -> Trial:
        blank = self.blank(arch, self.costs(arch), self.examples)
        if not self.region.contains(arch) or (blank.violation > 0 and self.penalty is None):
            return replace(blank, state="screened")
        return self.measured(blank, goal)

    def final(self, trial: Trial, goal: Goal, remeasure: Costs | None) -> Trial:
        """Score a trial on all examples and measure its costs again."""
        costs = {**trial.costs, **(remeasure(trial.arch) if remeasure else {})}
        blank = self.blank(trial.arch, costs, None)
        if known := self.archive.get((arch_id(trial.arch), None)):
            return self.scored(replace(blank, metrics=known.metrics), goal)
        return self.measured(blank, goal)

    def recalled(self, trial: Trial) -> Trial:
        """Take an earlier search's trial into the archive, at this one's costs, goals and objectives."""
        blank = self.blank(trial.arch, self.costs(trial.arch), trial.examples)
        found = self.scored(replace(blank, metrics=trial.metrics), self.goals[0])
        self.archive[arch_id(trial.arch), trial.examples] = found
        return found

    def blank(self, arch: Arch, costs: Mapping[str, float], examples: int | None) -> Trial:
        excess = min(constraints.violation(costs, goal.bounds) for goal in self.goals)
        return Trial(arch, None, costs=dict(costs), violation=excess, examples=examples)

    def measured(self, blank: Trial, goal: Goal) -> Trial:
        """Evaluate, and turn an exception or a number that is not finite into a failed trial."""
        try:
            metrics = {name: float(value) for name, value in self.evaluate(blank.arch, blank.examples).items()}
            trial = self.scored(replace(blank, metrics=metrics), goal)
            if not all(map(math.isfinite, (trial.score or 0.0, *trial.objectives))):
                raise ArithmeticError(f"not finite: {metrics}")
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            log.warning("evaluation failed: %s, at %s", _cause(error), dict(blank.arch))
            self.causes.append(error)
            self.first = self.first or error
            if len(self.causes) >= MAX_FAILURES:
                first = self.causes[0]
                text = f"{len(self.causes)} evaluations failed one after the other, the first with"
                raise RunError(f"{text} {_cause(first)}") from first
            return replace(blank, state="failed")
        self.causes.clear()
        return trial

    def first_cause(self) -> str:
        """Say with what the first evaluation of this sitting failed."""
        return f", the first with {_cause(self.first)}" if self.first else ""

    def scored(self, trial: Trial, goal: Goal) -> Trial:
        values = tuple(self.value(name, trial) for name in self.objectives)
        score = values[0]
        if self.penalty is not None:
            score = self.penalty(score, trial.costs, goal.bounds)
        return replace(trial, score=score, objectives=values if len(values) > 1 else ())

    def value(self, objective: str, trial: Trial) -> float:
        name, known = objective.removeprefix("-"), {**trial.costs, **trial.metrics}
        if name not in known:
            raise UsageError(f"objective {objective!r} is neither a metric nor a cost. There are: {listing(known)}.")
        return -known[name] if objective.startswith("-") else known[name]

    def worth(self, trial: Trial) -> float:
        """Return the first objective as it was measured, without a penalty."""
        return self.value(self.objectives[0], trial)


@dataclass
class _Book:
    """All trials in order, and those stored by an interrupted search that are still to come."""

    on_trial: Callable[[int, Trial, float], None]
    archive: dict[tuple[str, int | None], Trial]
    stored: Iterator[Trial] = field(default_factory=lambda: iter(()))
    passed_over: int = 0
    trials: list[Trial] = field(default_factory=list)
    finals: dict[str, Trial] = field(default_factory=dict)
    repeats: int = 0

    def replay(self, done: Iterable[Trial]) -> None:
        """Take the trials of an interrupted search; repeats, which earlier versions stored too, are passed over."""
        kept: list[Trial] = []
        rejected: set[tuple[str, int | None]] = set()
        for trial in done:
            key = (arch_id(trial.arch), trial.examples)
            if trial.state == "repeat" or key in rejected:
                self.passed_over += 1
                continue
            if trial.state in ("screened", "failed"):
                rejected.add(key)
            kept.append(trial)
        self.stored = iter(kept)

    def add(self, arch: Arch, answer: Callable[[], Trial]) -> Trial:
        """Take the stored answer where there is one, else a new one; keep it."""
        began = time.monotonic()
        trial = next(self.stored, None)
        if trial is None:
            trial = answer()
            self.on_trial(len(self.trials) + self.passed_over, trial, time.monotonic() - began)
        elif arch_id(trial.arch) != arch_id(arch):
            raise RunError(
                f"cannot go on: trial {len(self.trials)} was {dict(trial.arch)}, but now it would be {dict(arch)}. "
                "The recipe, the sampler or what it learned before has changed. Start a new run."
            )
        if trial.state in ("done", "failed"):
            self.archive[arch_id(trial.arch), trial.examples] = trial
        self.trials.append(trial)
        return trial


def _explore(
    sampler: Sampler,
    judge: _Judge,
    book: _Book,
    canonical: Callable[[Arch], Arch],
    regions: Sequence[Any],
    trials: int,
    max_rejections: int,
    batch: int,
    listable: bool,
) -> tuple[int, str]:
    """Ask, answer and tell, a goal's turn after the other's, until the trials are spent or nothing new comes.

    Returns:
        How many architectures were evaluated, and why no more were: empty if all trials are spent.
    """
    spent = rejected = silent = 0
    answered: set[str] = set()
    left: set[str] | None = None  # what is still to be evaluated, once it is listed
    size = getattr(judge.region, "size", math.inf)
    for goal, within in itertools.cycle(zip(judge.goals, regions, strict=True)):
        asked = sampler.ask(max(min(batch, trials - spent), 1), within=within)
        silent = 0 if asked else silent + 1
        told = []
        for arch in map(canonical, asked):
            if spent >= trials or rejected >= max_rejections:
                break
            trial = judge.repeated(arch, goal)
            if trial is None:
                trial = book.add(arch, functools.partial(judge.answer, arch, goal))
                if trial.state == "screened":
                    judge.screened[arch_id(arch)] = trial
            else:
                book.repeats += 1
            told.append(trial)
            if trial.state != "screened":
                answered.add(arch_id(arch))
            spent, rejected = (spent + 1, 0) if trial.state == "done" else (spent, rejected + 1)
        if told:
            sampler.tell(told)
        if spent >= trials:
            return spent, ""
        if listable and rejected >= STALE:
            left, listable = _listed(regions), False
        if len(answered) >= size or (left is not None and left <= answered):
            return spent, "every architecture that is within bounds was evaluated"
        if silent >= len(regions):
            return spent, "the sampler had nothing left to propose"
        if rejected >= max_rejections:
            return spent, f"{rejected:,} proposals in a row were repeats, out of bounds, or failed (max_rejections)"
    return spent, "there was nothing to search for"


def _cause(error: BaseException) -> str:
    """Say why an evaluation failed; errors that are not nasframe's own name the plugin that they come from."""
    if isinstance(error, NasframeError):
        return described(error)
    return str(plugin_error(error) or described(error))


def _listed(regions: Sequence[Any]) -> set[str] | None:
    """Name all architectures of some regions, or return ``None`` if they cannot be listed."""
    names: set[str] = set()
    for region in {id(region): region for region in regions}.values():
        if not hasattr(region, "enumerate") or getattr(region, "size", math.inf) > LISTABLE:
            return None
        names |= {arch_id(arch) for arch in region.enumerate()}
    return names


def _winner(goal: Goal, judge: _Judge, book: _Book, finalists: int, remeasure: Costs | None) -> Trial:
    """Return the best trial that meets the goal, scored on all examples and measured again where that was asked."""
    scored = (trial for trial in book.archive.values() if trial.examples == judge.examples)
    met = [trial for trial in scored if trial.state == "done" and _meets(trial, goal)]
    met.sort(key=lambda trial: (-judge.worth(trial), *(trial.costs[name] for name in goal.bounds)))
    if judge.examples is None and remeasure is None and met:
        return met[0]
    for start in range(0, len(met), max(finalists, 1)):
        final = []
        for trial in met[start : start + max(finalists, 1)]:
            key = arch_id(trial.arch)
            if key not in book.finals:
                book.finals[key] = book.add(trial.arch, functools.partial(judge.final, trial, goal, remeasure))
            final.append(book.finals[key])
        if final := [trial for trial in final if trial.state == "done" and _meets(trial, goal)]:
            return max(final, key=judge.worth)
    raise RunError(f"{goal.name}: {_shortage(goal, judge, book)} Allow more trials.")


def _shortage(goal: Goal, judge: _Judge, book: _Book) -> str:
    """Say that no evaluated architecture meets a goal, and which comes nearest."""
    evaluated = [trial for trial in book.archive.values() if trial.state == "done"]
    if not evaluated:
        return "no architecture was evaluated."
    nearest = min(evaluated, key=lambda trial: constraints.violation(trial.costs, goal.bounds))
    costs = shortfall(goal, nearest.costs) if goal.bounds else ""
    count = f"none of {len(evaluated)} evaluated architectures has {goal or 'a score'}."
    return f"{count} The nearest has {costs}." if costs else count


def _meets(trial: Trial, goal: Goal) -> bool:
    return constraints.violation(trial.costs, goal.bounds) == 0


def _front(judge: _Judge, book: _Book) -> list[Trial]:
    """Return the trials that none beats, among those scored alike: the finalists where there are any."""
    pool = list(book.finals.values()) or list(book.trials)
    pool = [trial for trial in pool if trial.state == "done"]
    bounded = dict.fromkeys(name for goal in judge.goals for name in goal.bounds)
    names = [*judge.objectives, *(f"-{name}" for name in bounded if f"-{name}" not in judge.objectives)]
    return [pool[i] for i in pareto_front([[judge.value(name, trial) for name in names] for trial in pool])]


def _extremes(domain: Any, costs: Costs) -> dict[str, tuple[float, float]]:
    if hasattr(domain, "smallest"):
        archs = [domain.smallest(), domain.largest()]
    else:
        rng = np.random.default_rng(0)
        archs = [domain.sample(rng) for _ in range(200)]
    found = [costs(arch) for arch in archs]
    return {name: (min(c[name] for c in found), max(c[name] for c in found)) for name in found[0]}


def _memoised(costs: Costs) -> Costs:
    memory: dict[str, Mapping[str, float]] = {}

    def remember(arch: Arch) -> Mapping[str, float]:
        key = str(arch)
        if (found := memory.get(key)) is None:
            if len(memory) >= MEMORY:
                memory.clear()
            found = memory[key] = costs(arch)
        return found

    return remember
