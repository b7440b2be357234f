"""The search loop: one for every sampler, so that none has to know about constraints, repeats, failures or resumes.

Ask → canonical form → answer repeats from the archive → screen by cost → evaluate → store → tell. Counting costs is
cheap and evaluating is not: nothing infeasible is ever evaluated, and nothing twice. The sampler is told repeats, too;
they are counted, but not stored.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nasframe.errors import RunError
from nasframe.interfaces import EnumerableDomain, SamplerTraits, ends_of, size_of, start_sampler, traits_of
from nasframe.records import Arch, Trial, arch_id
from nasframe.search import constraints
from nasframe.search.answers import Answerer, Archive, Evaluate, Penalty
from nasframe.search.budgets import Budget, BudgetBounds, Costs, check_reachable, named_budgets, shortfall
from nasframe.search.constraints import CostValues, Limits, Screen, penalised
from nasframe.search.pareto import pareto_front
from nasframe.search.restrict import restrict
from nasframe.search.winner import Choice, WinnerRule, choose, ranked

if TYPE_CHECKING:
    from nasframe.interfaces import Domain, Sampler

MEMORY = 100_000  # architectures whose costs are remembered: about 100 MB at most
STALE = 20  # proposals in a row that bring nothing new before all that can be evaluated is listed
LISTABLE = 20_000  # architectures of the largest domain that is listed; listing screens each of them
EXTREME_DRAWS = 200  # draws that stand for the smallest and the largest costs of a domain without ends


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Args:
        trials: every proposal but repeats, in order, then the finalists.
        winners: name → the chosen trial within that budget.
        front: the evaluated trials that no other one dominates in objectives and bounded costs.
        evaluated: the number of evaluations that were spent.
        repeats: proposals that were answered before.
        failures: evaluations that failed.
        broken_off: evaluations that ended early, because the architecture could no longer win.
        ended: why the search ended before all trials were spent; empty if they were.
        choices: name → how that winner was chosen.
    """

    trials: list[Trial]
    winners: dict[str, Trial]
    front: list[Trial]
    evaluated: int = 0
    repeats: int = 0
    failures: int = 0
    broken_off: int = 0
    ended: str = ""
    choices: dict[str, Choice] = field(default_factory=dict)


def search(
    sampler: Sampler,
    domain: Domain,
    evaluate: Evaluate,
    costs: Costs,
    *,
    objectives: Sequence[str] = ("accuracy",),
    trials: int = 100,
    within: Domain | None = None,
    bounds: Limits | None = None,
    budgets: BudgetBounds | None = None,
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
    rule: WinnerRule | None = None,
) -> SearchResult:
    """Look for the best architecture under every budget.

    The budgets share one archive and take turns. Each ask is confined to the next budget's region, because otherwise
    nearly all proposals would lie just below the loosest budget. A trial made for one budget counts for every other
    one that it meets.

    Args:
        sampler: proposes architectures.
        domain: the domain that the sampler proposes from.
        evaluate: (architecture, examples or ``None`` for all) → metrics by name; or an object with ``score``, which
            also gets the trials that the architecture has to beat, and may stop early.
        costs: architecture → costs by name; called often.
        objectives: names of metrics or costs, ``-`` before those to minimise. The first is the score.
        trials: evaluations to spend; repeated, screened and failed proposals are free.
        within: the part of the domain to search.
        bounds: cost → bounds that every winner must meet.
        budgets: cost → {the budget's text: bounds}, or a list of joint budgets; each budget gets a winner.
        examples: the number of examples to score on; the best are scored again on all. ``None``: all from the start.
        finalists: how many of the best for each budget are scored and measured again before the winner is chosen.
        remeasure: measures the costs of a finalist again, if costs are noisy.
        violation: ``screen``, or ``{"penalise": p}`` to evaluate everything and lower scores by the published soft
            penalty, see :func:`nasframe.search.constraints.penalised`.
        max_rejections: the search ends after this many free proposals in a row.
        batch: how many proposals to ask for at once.
        prefix: the first part of the winners' names: ``best``, ``best@50%``, or ``best@params=50%`` if several costs
            have budgets.
        done: the stored trials of an interrupted search, in order. The sampler is asked for the same proposals again,
            which brings it to where it was, and they are answered from here. Repeats among them are passed over.
        known: the trials that earlier searches evaluated on the same network. The sampler is told them, a proposal
            that is among them is a repeat, and they may win.
        on_trial: stores a new trial: (number, trial, seconds); not called for repeats.
        stage: the name that the sampler is started with.
        rule: chooses the winners among the finalists; default: the best score.

    Returns:
        All trials, the winners, the front, and how the search ended.

    Raises:
        UnsatisfiableError: no architecture can meet the bounds; the text names the nearest reachable values.
        RunError: every evaluation fails, or 20 in a row do; the stored trials are another search's; or no trial meets
            a budget.
        UsageError: an objective is neither a metric nor a cost.
    """
    region = domain if within is None else within
    wanted = named_budgets(prefix, bounds or {}, budgets or {})
    costs = _memoised(costs)
    check_reachable(wanted, region, costs)  # before the sampler starts: evaluations would only be wasted
    penalty = None
    if not isinstance(violation, str):
        penalty = _penalty(sampler, domain, costs, violation["penalise"])
    rule = WinnerRule() if rule is None else rule
    is_final = examples is None and remeasure is None  # else the best are scored again
    contenders = 1 if is_final else max(finalists, 1)
    answerer = Answerer(region, evaluate, costs, wanted, objectives, examples, penalty, rule, contenders)
    archive = Archive(on_trial, answerer.archive)
    archive.replay(done)

    start_sampler(sampler, stage, trials, "search")
    recalled = [answerer.recall(trial) for trial in _successful(known)]
    if recalled:
        sampler.tell(recalled)
    exploration = _Exploration(
        sampler, answerer, archive, domain.canonical, trials, max_rejections, batch, listable=remeasure is None
    )
    ended = exploration.run(turns(region, wanted, costs, confined=penalty is None))

    failures = _failures(answerer, archive)
    choices = {}
    for budget in wanted:
        choices[budget.name] = _winner(budget, answerer, archive, finalists, remeasure, rule)
    winners = {name: choice.trial for name, choice in choices.items()}
    front = _front(answerer, archive)
    return SearchResult(
        trials=archive.trials,
        winners=winners,
        front=front,
        evaluated=exploration.spent,
        repeats=archive.repeats,
        failures=failures,
        broken_off=len(answerer.broken_off),
        ended=ended,
        choices=choices,
    )


def subset(examples: int | None, size: int | None) -> int | None:
    """Return how many examples of a split to score on, ``None`` for all of it.

    >>> subset(256, 1000), subset(256, 200)
    (256, None)
    """
    if examples is None:
        return None
    if size is not None and examples >= size:
        return None
    return examples


def _successful(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that were evaluated and have a score."""
    return [trial for trial in trials if trial.state == "done"]


def turns(region: Any, wanted: Sequence[Budget], costs: Costs, confined: bool) -> list[Any]:
    """Return the part of the domain that the sampler is asked for in each budget's turn.

    Args:
        region: the domain.
        wanted: the budgets.
        costs: architecture → costs by name.
        confined: whether proposals are confined to the bounds; not if architectures out of bounds are evaluated too.
    """
    if not confined:
        return [region] * len(wanted)
    return [_within(region, budget, costs) for budget in wanted]


def _within(region: Any, budget: Budget, costs: Costs) -> Any:
    """Return the part of a region that meets a budget's bounds."""
    if not budget.bounds:
        return region
    return restrict(region, keep=Screen(budget.bounds, costs))


def _failures(answerer: Answerer, archive: Archive) -> int:
    """Return the number of failed evaluations.

    Raises:
        RunError: none succeeded, so that there is nothing to choose a winner from.
    """
    failures = sum(trial.state == "failed" for trial in archive.trials)
    if failures and not _successful(answerer.archive.values()):
        raise RunError(f"all {failures} evaluations failed{answerer.first_cause()}.")
    return failures


def _penalty(sampler: Sampler, domain: Domain, costs: Costs, power: float) -> Penalty:
    """Return the soft penalty in the form that the sampler asks for: some want it as it was published."""
    form = traits_of(SamplerTraits, sampler).penalty
    extremes = _extremes(domain, costs)
    return functools.partial(penalised, extremes=extremes, power=float(power), form=form)


@dataclass
class _Exploration:
    """Asks, answers and tells until the trials are spent or nothing new comes.

    Args:
        sampler: proposes architectures.
        answerer: answers proposals.
        archive: keeps the answers.
        canonical: the canonical form of an architecture.
        trials: evaluations to spend.
        max_rejections: the search ends after this many free proposals in a row.
        batch: how many proposals to ask for at once.
        listable: whether the architectures within bounds may be listed; not if costs are measured, because listing
            would measure them all.
    """

    sampler: Sampler
    answerer: Answerer
    archive: Archive
    canonical: Callable[[Arch], Arch]
    trials: int
    max_rejections: int
    batch: int
    listable: bool
    spent: int = 0
    rejected: int = 0  # free proposals since the last evaluation
    silent: int = 0  # asks in a row without a proposal
    answered: set[str] = field(default_factory=set)  # ids of the architectures that were evaluated
    admissible: set[str] | None = None  # ids of all architectures that can be evaluated, after they were listed

    def run(self, regions: Sequence[Any]) -> str:
        """Explore: the budgets take turns.

        Args:
            regions: each budget's part of the domain.

        Returns:
            Why the search ended before its trials were spent; empty if they were.
        """
        rounds = zip(self.answerer.budgets, regions, strict=True)
        for budget, region in itertools.cycle(rounds):
            self._take_turn(budget, region)
            if self.spent >= self.trials:
                return ""
            if self.listable and self.rejected >= STALE:  # late, because most searches end long before
                self.admissible = _listed(regions)
                self.listable = False
            reason = self._why_nothing_is_left(len(regions))
            if reason:
                return reason
        return "there was nothing to search for"

    def _take_turn(self, budget: Budget, region: Any) -> None:
        """Ask for proposals within one budget's region, answer them, and tell the answers."""
        wanted = max(min(self.batch, self.trials - self.spent), 1)  # one at least, if there are no trials to spend
        proposals = self.sampler.ask(wanted, within=region)
        self.silent = 0 if proposals else self.silent + 1
        answers = []
        for arch in map(self.canonical, proposals):
            if self.spent >= self.trials or self.rejected >= self.max_rejections:
                break
            answers.append(self._answer(arch, budget))
        if answers:
            self.sampler.tell(answers)

    def _answer(self, arch: Arch, budget: Budget) -> Trial:
        """Answer one proposal, and count it."""
        name = arch_id(arch)
        trial = self.answerer.answer_from_archive(arch, budget)
        if trial is not None:
            self.archive.repeats += 1
        else:
            answer = functools.partial(self.answerer.answer, arch, budget)
            trial = self.archive.add(arch, answer)
            if trial.state == "screened":
                self.answerer.screened[name] = trial
            elif trial.state == "done" and trial.examples != self.answerer.examples:
                self.answerer.broken_off[name] = trial
        if trial.state != "screened":  # compared with all that can be evaluated, and a screened one cannot
            self.answered.add(name)
        if trial.state == "done":
            self.spent += 1
            self.rejected = 0
        else:
            self.rejected += 1
        return trial

    def _why_nothing_is_left(self, budgets: int) -> str:
        """Return the reason why going on is of no use, an empty text if it may be."""
        all_answered = self.admissible is not None and self.admissible <= self.answered
        if all_answered or len(self.answered) >= size_of(self.answerer.region):
            return "every architecture that is within bounds was evaluated"
        if self.silent >= budgets:  # each budget's region is exhausted, not only one of them
            return "the sampler had nothing left to propose"
        if self.rejected >= self.max_rejections:
            return f"{self.rejected:,} proposals in a row were repeats, out of bounds, or failed (max_rejections)"
        return ""


def _listed(regions: Sequence[Any]) -> set[str] | None:
    """Return the ids of all architectures of some regions, ``None`` if they cannot be listed."""
    distinct_regions = {id(region): region for region in regions}.values()  # with a penalty all are the same one
    names: set[str] = set()
    for region in distinct_regions:
        if not isinstance(region, EnumerableDomain) or size_of(region) > LISTABLE:
            return None
        names.update(map(arch_id, region.enumerate()))
    return names


def _winner(
    budget: Budget, answerer: Answerer, archive: Archive, finalists: int, remeasure: Costs | None, rule: WinnerRule
) -> Choice:
    """Choose among the trials that meet a budget, scored on all examples, with noisy costs measured again.

    Finalists are taken from the best downwards, a group at a time. If none of a group meets the budget after its costs
    were measured again, the next group follows. Without anything to do again, all trials are finalists.

    Raises:
        RunError: no trial meets the budget.
    """
    candidates = [trial for trial in archive.evaluated.values() if trial.examples == answerer.examples]
    feasible = [trial for trial in candidates if _meets(trial, budget)]
    score, bounded = answerer.unpenalised_score, list(budget.bounds)
    order = ranked(feasible, rule, score, bounded)
    is_final = answerer.examples is None and remeasure is None
    group_size = max(len(order) if is_final else finalists, 1)
    for start in range(0, len(order), group_size):
        group = order[start : start + group_size]
        if not is_final:
            group = [archive.finalist(trial, budget, answerer, remeasure) for trial in group]
        still_feasible = [trial for trial in group if _meets(trial, budget)]
        choice = choose(still_feasible, rule, score, bounded)
        if choice is not None:
            return choice
    raise RunError(f"{budget.name}: {_shortage(budget, archive)} Allow more trials.")


def _meets(trial: Trial, budget: Budget) -> bool:
    """Tell whether a trial was evaluated and meets a budget's bounds."""
    return trial.state == "done" and constraints.violation(trial.costs, budget.bounds) == 0


def _shortage(budget: Budget, archive: Archive) -> str:
    """Return a text that says that no evaluated architecture meets a budget, and which comes nearest."""
    evaluated = _successful(archive.evaluated.values())
    if not evaluated:
        return "no architecture was evaluated."
    count = f"none of {len(evaluated)} evaluated architectures has {budget or 'a score'}."
    if not budget.bounds:
        return count

    def excess(trial: Trial) -> float:
        return constraints.violation(trial.costs, budget.bounds)

    nearest = min(evaluated, key=excess)
    return f"{count} The nearest has {shortfall(budget, nearest.costs)}."


def _front(answerer: Answerer, archive: Archive) -> list[Trial]:
    """Return the trials that no other one dominates."""
    # Only trials that were scored on the same examples can be compared: the finalists if there are any.
    comparable = [trial for trial in archive.trials if trial.examples == answerer.examples]
    pool = _successful(list(archive.finals.values()) or comparable)
    axes = list(answerer.objectives)
    for budget in answerer.budgets:
        for cost in budget.bounds:
            if f"-{cost}" not in axes:
                axes.append(f"-{cost}")
    points = []
    for trial in pool:
        points.append([answerer.value(axis, trial) for axis in axes])
    return [pool[position] for position in pareto_front(points)]


def _extremes(domain: Any, costs: Costs) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of each cost in a domain, from its ends or from random draws."""
    archs = ends_of(domain)
    if not archs:
        rng = np.random.default_rng(0)
        archs = [domain.sample(rng) for _ in range(EXTREME_DRAWS)]
    rows = [costs(arch) for arch in archs]
    extremes = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        extremes[name] = (min(values), max(values))
    return extremes


def _memoised(costs: Costs) -> Costs:
    """Return a function that remembers the costs of architectures, so that a measured cost does not change."""
    memory: dict[str, CostValues] = {}

    def remember(arch: Arch) -> CostValues:
        key = str(arch)  # quicker than its id; two spellings of one architecture only count it twice
        if key in memory:
            return memory[key]
        if len(memory) >= MEMORY:
            memory.clear()  # counted costs are soon counted again, and nobody measures this many
        memory[key] = costs(arch)
        return memory[key]

    return remember
