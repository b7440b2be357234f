"""Chooses architectures for new bounds from a finished run: from its archive, and by a short search if that is thin.

Measured costs, such as a latency, are predicted to sort the candidates; the best candidate is measured first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.errors import RunError
from nasframe.folders import folder_name
from nasframe.interfaces import MeasuredEstimator, SamplerTraits, traits_of
from nasframe.records import Arch, CostFormat, CostTable, Trial, arch_id
from nasframe.report.budgets import over_budget, plain_bounds
from nasframe.report.format import cost_formats
from nasframe.search.budgets import Budget, check_reachable
from nasframe.search.constraints import Bounds, violation
from nasframe.search.loop import subset
from nasframe.search.winner import Choice as RuleChoice
from nasframe.search.winner import choose, in_words, ranked
from nasframe.stages.inputs import cost_facts
from nasframe_deploy.latency_model import MeasuredCost, check_measured

if TYPE_CHECKING:
    from nasframe.export.verify import Verifier
    from nasframe.progress import Advance
    from nasframe.running.reopen import Finished
    from nasframe.search.budgets import Costs

DEFAULT_SAMPLER = "evolution"  # of runs whose search had no sampler of its own that learned in training
FROM_TABLES = 1  # evaluations a budget, if the sampler computes its proposals from tables
TRIALS = 40  # evaluations a budget, if the archive is thin
ENOUGH = 10  # architectures near a budget from which on the archive answers alone
NEAR = 0.85  # the share of a budget from which on a cost is near it
TURNS = 3  # measurements of each finished model; the median counts
MAX_REJECTIONS = 50  # proposals without a new architecture after which a search ends
COMMON_COSTS = ("encoder_params", "params", "macs", "size")
"""The costs that every deployed model is described by."""


@dataclass(frozen=True)
class Choice(RuleChoice):
    """The architecture chosen for a budget, with its costs, and the seconds that it took to find."""

    costs: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class DeployedModel:
    """A written model: its entry in ``deploy.json``."""

    name: str
    path: str
    asked: str
    arch: Arch
    origin: str
    score: float
    metrics: Mapping[str, float]
    examples: int | None
    costs: Mapping[str, float]
    shares: Mapping[str, float]
    over_budget: str | None
    max_abs_difference: float
    seconds: float
    chosen_by: str


class Deployer:
    """Answers budgets from an archive that a search may add to.

    Args:
        finished: the run.
        budgets: one model each.
        verifier: the process that loads models again; while latencies are measured it must be idle.

    Raises:
        UnsatisfiableError: nothing meets some budget; names the nearest reachable value.
    """

    def __init__(self, finished: Finished, budgets: Sequence[Budget], verifier: Verifier) -> None:
        self.finished = finished
        self.budgets = budgets
        # As in the run's search: the part of the examples that it scored on, and how many it scored again on all.
        self.examples = subset(finished.stage.options.get("examples"), finished.data["sizes"].get("select"))
        self.rule = finished.winner_rule()
        self.finalists = self.rule.finalists
        self.metric = finished.objective.removeprefix("-")

        self.counted: list[str] = []
        noisy: list[str] = []
        for name in _bounded_costs(budgets):
            if isinstance(finished.estimator(name), MeasuredEstimator):
                noisy.append(name)
            else:
                self.counted.append(name)
        features = ("params", "macs")  # what measured costs are predicted from
        counted_names = dict.fromkeys([*self.counted, *features])
        self.counted_costs: Costs = finished.costs(list(counted_names))
        # Counted bounds first: whether they can be met is known without a measurement.
        counted_budgets = [_of_costs(budget, self.counted) for budget in budgets]
        check_reachable(counted_budgets, finished.region, self.counted_costs)
        if noisy:
            verifier.wait()
        self.measured = {name: MeasuredCost(name, finished, self.counted_costs) for name in noisy}
        check_measured(budgets, self.measured)
        self.loose_budgets = {budget.name: self._loosened(budget) for budget in budgets}

        archive = list(finished.archive())
        self.archived = {arch_id(trial.arch) for trial in archive}
        # The run may not have counted the costs that are asked for now.
        self.trials = [replace(trial, costs=self.costs(trial.arch)) for trial in archive]
        self.evaluations = 0
        self.search_seconds: dict[str, float] = {}

    def costs(self, arch: Arch) -> dict[str, float]:
        """Return the counted costs of an architecture, and predictions of the measured ones."""
        costs = dict(self.counted_costs(arch))
        for name, measured in self.measured.items():
            costs[name] = measured.predict(arch)
        return costs

    # ---- search

    def search(self, trials: int | None, sampler: Any, advance: Advance) -> None:
        """Search for the budgets that the archive may have no good answer to.

        Args:
            trials: evaluations for each budget; ``None`` searches only if few architectures are near a budget.
            sampler: proposes architectures; ``None`` is the run's own, or evolution if it did not keep one.
            advance: shows progress.
        """
        for budget in self.budgets:
            if trials is not None:
                evaluations = trials
            elif self._from_tables(sampler) is not None:
                # Its first proposal is its best, and what the archive has was the best within other bounds.
                evaluations = FROM_TABLES
            elif self.has_enough(budget):
                evaluations = 0
            else:
                evaluations = TRIALS
            if evaluations == 0:
                continue
            began = time.monotonic()
            self._search(budget, evaluations, sampler, advance)
            self.search_seconds[budget.name] = time.monotonic() - began

    def _search(self, budget: Budget, trials: int, sampler: Any, advance: Advance) -> None:
        """Search within the bounds of one budget, beginning with the known trials."""
        from nasframe.registry import make
        from nasframe.search import loop
        from nasframe.search.guarded import GuardedSampler
        from nasframe.search.restrict import joined
        from nasframe.seeds import stream_seed

        finished = self.finished
        before = self.evaluations

        def evaluate(arch: Arch, examples: int | None) -> Mapping[str, float]:
            self.evaluations += 1
            done = self.evaluations - before
            advance(min(done, trials), trials, budget.name)  # finalists are evaluated on top of the trials
            return finished.evaluate(arch, examples).metrics

        # A new one for each budget, so that one budget gets the same proposals whatever else is asked for.
        from_tables = self._from_tables(sampler)
        proposer = finished.shared_sampler() if sampler is None and from_tables is None else None
        domain, region = finished.space.domain, finished.region
        if proposer is not None:  # it may join knobs, and its proposals lie in a domain that joins them, too
            domain, region = joined(domain, finished.plan.sampler), joined(region, finished.plan.sampler)
        else:
            seed = stream_seed(finished.plan.seed, "deploy", str(budget))
            use = sampler or from_tables or DEFAULT_SAMPLER
            inject = {"domain": region, "seed": seed, "tables": self._tables()}
            proposer = GuardedSampler(lambda: make("sampler", use, inject), joined(region, use))
        result = loop.search(
            proposer,
            domain,
            evaluate,
            self.costs,
            objectives=[finished.objective],
            trials=trials,
            within=region,
            bounds=self.loose_budgets[budget.name].bounds,
            examples=self.examples,
            finalists=self.finalists,
            rule=self.rule,
            known=self.trials,
            max_rejections=MAX_REJECTIONS,
        )
        self.trials += [trial for trial in result.trials if trial.state == "done"]

    def _from_tables(self, sampler: Any) -> Any:
        """Return the sampler that is used if it computes its proposals from tables; ``None`` for any other one.

        Args:
            sampler: the one that was asked for; ``None`` is the run's own.
        """
        use = self.finished.stage.options.get("sampler") if sampler is None else sampler
        if use is None or use == "shared":
            return None
        name, _ = registry.use_of(use)
        traits = traits_of(SamplerTraits, registry.find("sampler", name).load())
        return use if traits.from_tables else None

    def _tables(self) -> Callable[[str], CostTable | None]:
        """Return the tables of the run's costs, for samplers that compute with them."""
        from nasframe.search.costs import tables

        finished = self.finished
        for name in _bounded_costs(self.budgets):
            finished.estimator(name)  # a cost that the recipe does not name
        return tables(finished.inputs.estimators, finished.space, finished.net)

    def has_enough(self, budget: Budget) -> bool:
        """Return whether enough known architectures meet a budget and are near its upper bounds."""
        # The best architectures use up their budget, so those far below it say little about what it allows.
        loose = self.loose_budgets[budget.name]
        near = {}
        for name, bound in loose.bounds.items():
            if bound.high < math.inf:
                near[name] = NEAR * bound.high
        archs = set()
        for trial in self._meeting(loose):
            if trial.examples != self.examples:  # a score on other examples does not compare
                continue
            is_near = any(trial.costs[name] >= low for name, low in near.items())
            if is_near or not near:
                archs.add(arch_id(trial.arch))
        return len(archs) >= ENOUGH

    # ---- choice

    def choose_all(self, advance: Advance) -> dict[str, Choice]:
        """Return the choice for each budget, by its name.

        Args:
            advance: shows progress.
        """
        choices = {}
        for number, budget in enumerate(self.budgets):
            advance(number, len(self.budgets), budget.name)
            choices[budget.name] = self.choose(budget)
        return choices

    def choose(self, budget: Budget) -> Choice:
        """Return the known architecture that the search's own rule chooses; candidates are measured as it asks.

        Raises:
            RunError: none meets the budget.
        """
        # Best first, so the first candidate that meets the budget when it is measured is the answer.
        began = time.monotonic()
        candidates = _Candidates(self, budget)
        for group in self._groups(self.loose_budgets[budget.name]):
            choice = choose(group, self.rule, self._worth, list(budget.bounds), candidates.meets)
            if choice is not None:
                seconds = time.monotonic() - began + self.search_seconds.get(budget.name, 0.0)
                costs = candidates.costs[arch_id(choice.trial.arch)]
                return Choice(choice.trial, choice.rule, choice.within, choice.error, costs, seconds)
        hints = [f" The least {name} measured was {value:,.4g}." for name, value in candidates.nearest.items()]
        raise RunError(
            f"{budget.name}: nothing in the archive has {budget}.{''.join(hints)} Expected more trials: --search N."
        )

    def _loosened(self, budget: Budget) -> Budget:
        """Widen the bounds of predicted costs, because only a measurement may rule an architecture out."""
        bounds = dict(budget.bounds)
        for name, bound in budget.bounds.items():
            if name in self.measured:
                slack = self.measured[name].slack
                bounds[name] = Bounds(bound.low / slack, bound.high * slack)
        return replace(budget, bounds=bounds)

    def _meeting(self, budget: Budget) -> list[Trial]:
        """Return the known trials within a budget's bounds."""
        return [trial for trial in self.trials if violation(trial.costs, budget.bounds) == 0]

    def _groups(self, budget: Budget) -> list[list[Trial]]:
        """Return the trials that meet a budget in groups to choose from, best first, as the search ranks them.

        If the search scored on a part of the examples, its best few, scored on all of them, come before the others.
        """
        whole: dict[str, Trial] = {}
        partial: dict[str, Trial] = {}
        for trial in self._meeting(budget):
            if trial.examples is None:
                whole[arch_id(trial.arch)] = trial
            if trial.examples == self.examples:
                partial[arch_id(trial.arch)] = trial
        bounded = list(budget.bounds)
        if self.examples is None:
            return [ranked(list(whole.values()), self.rule, self._worth, bounded)]

        order = ranked(list(partial.values()), self.rule, self._worth, bounded)
        finalists = []
        for trial in order[: self.finalists]:
            key = arch_id(trial.arch)
            if key in whole:  # a search for other bounds may have had other finalists
                finalists.append(whole[key])
        placed = {arch_id(trial.arch) for trial in finalists}
        rest = [trial for trial in order if arch_id(trial.arch) not in placed]
        return [finalists, rest]

    def _worth(self, trial: Trial) -> float:
        """Return what the run's search maximised."""
        value = trial.metrics[self.metric]
        if self.finished.objective.startswith("-"):
            return -value
        return value

    # ---- finished models

    def measure_again(
        self, choices: Mapping[str, Choice], models: Mapping[str, Any], advance: Advance
    ) -> dict[str, Choice]:
        """Return the choices with costs measured again on the finished models.

        A choice was taken because its measurement was low, so that measurement is biased. Models are measured in turns,
        so that a disturbance of the machine hits all of them alike.
        """
        costs = {name: dict(choice.costs) for name, choice in choices.items()}
        for cost, measured in self.measured.items():
            values: dict[str, list[float]] = {name: [] for name in models}
            done = 0
            for _ in range(TURNS):
                for name, model in models.items():
                    advance(done, TURNS * len(models), name)
                    measurement = measured.of_model(model, choices[name].trial.arch)
                    values[name].append(measurement["median"])
                    done += 1
            for name in models:
                costs[name][cost] = sorted(values[name])[TURNS // 2]  # the median of the turns
        return {name: replace(choice, costs=costs[name]) for name, choice in choices.items()}

    def over_budget(self, choices: Mapping[str, Choice]) -> dict[str, str]:
        """Return by which costs each model is over its budget; empty if it meets its bounds."""
        bounds = {budget.name: plain_bounds(budget.bounds) for budget in self.budgets}
        formats = self.cost_formats()
        return {name: over_budget(choice.costs, bounds[name], formats) for name, choice in choices.items()}

    def cost_formats(self) -> dict[str, CostFormat]:
        """Return cost → how it reads, of the costs that were asked for or counted."""
        return cost_formats(cost_facts(self.finished.inputs))

    def describe(self, budget: Budget, choice: Choice, max_abs_difference: float) -> DeployedModel:
        """Return the entry of a model in ``deploy.json``.

        Args:
            budget: what it was made for.
            choice: the chosen architecture.
            max_abs_difference: how far the written model's logits are from the super-network's.
        """
        finished = self.finished
        trial = choice.trial
        names = dict.fromkeys([*budget.bounds, *COMMON_COSTS])
        counted = [name for name in names if name not in self.measured]
        costs: dict[str, float] = dict(finished.costs(counted)(trial.arch))  # one that cannot be counted is left out
        for name in self.measured:
            costs[name] = choice.costs[name]
        full = finished.full_costs(costs)
        shares = {name: value / full[name] for name, value in costs.items() if full.get(name)}
        is_archived = arch_id(trial.arch) in self.archived
        return DeployedModel(
            name=budget.name,
            path=folder_name(budget.name),
            asked=str(budget),
            arch=dict(trial.arch),
            origin="archive" if is_archived else "search",
            score=trial.metrics[self.metric],
            metrics=dict(trial.metrics),
            examples=trial.examples,
            costs=costs,
            shares=shares,
            over_budget=self.over_budget({budget.name: choice})[budget.name] or None,
            max_abs_difference=max_abs_difference,
            seconds=choice.seconds,
            chosen_by=in_words(choice.rule, choice.within, choice.error),
        )


def _bounded_costs(budgets: Sequence[Budget]) -> list[str]:
    """Return the costs that budgets bound, each once."""
    names: dict[str, None] = {}
    for budget in budgets:
        names.update(dict.fromkeys(budget.bounds))
    return list(names)


class _Candidates:
    """Tells which candidates meet a budget, by counted costs and, only if these do, by measured ones.

    Args:
        deployer: counts and measures.
        budget: the bounds.

    Attributes:
        costs: architecture's id → its costs, for the candidates that were looked at.
        nearest: measured cost → its least value among the candidates that break the budget by it.
    """

    def __init__(self, deployer: Deployer, budget: Budget) -> None:
        self.deployer = deployer
        self.budget = budget
        self.costs: dict[str, dict[str, float]] = {}
        self.nearest: dict[str, float] = {}
        self._counted_bounds = _of_costs(budget, deployer.counted).bounds

    def meets(self, trial: Trial) -> bool:
        """Return whether a candidate meets the budget."""
        costs = self.deployer.costs(trial.arch)
        self.costs[arch_id(trial.arch)] = costs
        if violation(costs, self._counted_bounds):
            return False
        broken = self._measure(trial.arch, costs)
        if broken is None:
            return True
        self.nearest[broken] = min(self.nearest.get(broken, math.inf), costs[broken])
        return False

    def _measure(self, arch: Arch, costs: dict[str, float]) -> str | None:
        """Replace predictions in ``costs`` by measurements; return the first cost that then breaks the budget."""
        for name, measured in self.deployer.measured.items():
            costs[name] = measured.measure(arch)
            if name in self.budget.bounds and self.budget.bounds[name].violation(costs[name]):
                return name  # the other measurements are not needed
        return None


def _of_costs(budget: Budget, names: Sequence[str]) -> Budget:
    """Return a budget with its bounds on these costs alone."""
    bounds = {name: bound for name, bound in budget.bounds.items() if name in names}
    return replace(budget, bounds=bounds)
