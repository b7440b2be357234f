"""What stages work with: the session that lasts for a whole run, and each stage's own part of it.

A verb gets a :class:`StageSession`. The other modules of this package hold functions that take it: those for models,
for costs, and for the choices in a stage's options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.observers import Observers, chosen_listeners, hook_listeners
from nasframe.plan import aimed_costs
from nasframe.processes import leader
from nasframe.records import RunInfo
from nasframe.search.guarded import GuardedSampler
from nasframe.search.restrict import joined
from nasframe.seeds import stream_seed
from nasframe.stages.regions import regions_of

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Estimator, SearchSpace, Work
    from nasframe.plan import Plan, PlannedStage
    from nasframe.progress import Progress
    from nasframe.records import LedgerEntry
    from nasframe.stages.inputs import RunInputs
    from nasframe.store import Checkpoint, RunStore

Log = Callable[[int, Mapping[str, float]], None]


class Session:
    """What all stages of a run share.

    Args:
        plan: the resolved recipe.
        store: where results are kept.
        progress: where progress is shown.
        inputs: what the recipe names: model, task, space and costs.
    """

    def __init__(self, plan: Plan, store: RunStore, progress: Progress, inputs: RunInputs) -> None:
        self.plan = plan
        self.store = store
        self.progress = progress
        self.inputs = inputs
        self.observers = _observers(plan, store, inputs)
        self.sampler: Any = None  # made when a stage first needs it, which may be after a transform

    def shared_sampler(self, work: Work) -> Any:
        """Return the recipe's own sampler, which several stages teach. It is made when a stage first needs it."""
        if self.sampler is None:
            assert work.space is not None
            self.sampler = new_shared_sampler(self.inputs, work.space, work.net)
        return self.sampler

    def cost_rows(self, work: Work, bounded: Iterable[str] = ()) -> Any:
        """Return the cost function that a sampler gets.

        Args:
            work: whose space and network are counted.
            bounded: the costs to count; without any, those that the recipe as a whole bounds or aims at.
        """
        from nasframe.search.costs import cost_rows

        names = sorted(set(bounded)) or aimed_costs(self.plan)
        return cost_rows(self.inputs.estimators, names, work.space, work.net)


def _observers(plan: Plan, store: RunStore, inputs: RunInputs) -> Observers:
    """Return those who observe a run: the plugins that hear every run, and the observers that its recipe names."""
    run = RunInfo(store.directory, plan.recipe, plan.name, tuple(stage.name for stage in plan.stages))
    observers = Observers(run, inputs.notices)
    if leader():  # every process trains, but the run is told of once
        observers.add(hook_listeners())
        observers.add(chosen_listeners(plan.observers, {"base": plan.base, "notify": observers.report}))
    return observers


def new_shared_sampler(inputs: RunInputs, space: SearchSpace, net: nn.Module) -> Any:
    """Make a recipe's own sampler, which has learned nothing yet."""
    from nasframe.search.costs import cost_rows, tables

    plan = inputs.plan
    # Of no stage's name, so that a stage put before the others does not change what it proposes.
    seed = stream_seed(plan.seed, "sampler", "shared")
    costs = cost_rows(inputs.estimators, aimed_costs(plan), space, net)
    inject = {"domain": space.domain, "seed": seed, "costs": costs, "tables": tables(inputs.estimators, space, net)}
    make = partial(registry.make, "sampler", plan.sampler, inject)
    return GuardedSampler(make, joined(space.domain, plan.sampler), regions_of(inputs, space, net))


@dataclass(frozen=True)
class StageSession:
    """One stage's part of a run's session.

    Args:
        session: what the run's stages share.
        planned: the stage, as the plan has it.
        result: what the stage reports about itself, JSON-plain; the run's database keeps it when the stage ends.
    """

    session: Session
    planned: PlannedStage
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.planned.name

    @property
    def plan(self) -> Plan:
        """The run's plan."""
        return self.session.plan

    @property
    def store(self) -> RunStore:
        """The run's directory."""
        return self.session.store

    @property
    def progress(self) -> Progress:
        """Where progress is shown."""
        return self.session.progress

    @property
    def inputs(self) -> RunInputs:
        """What the recipe names, loaded."""
        return self.session.inputs

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.session.plan.seed

    @property
    def estimators(self) -> Mapping[str, Estimator]:
        """Every cost that the recipe can name."""
        return self.session.inputs.estimators

    def make(self, kind: str, use: Any, **inject: Any) -> Any:
        """Return a new plugin, seeded for this stage.

        Args:
            kind: the plugin's kind, as in ``sampler``.
            use: its name and options, as a resolved recipe writes them.
            inject: further arguments that the framework gives to the factory.
        """
        injected: dict[str, Any] = {
            # Named after kind and stage, so that a further stage does not change the numbers of the others.
            "seed": stream_seed(self.seed, kind, self.name),
            "base": self.plan.base,
            "notify": self.inputs.notices,
        }
        injected.update(inject)
        return registry.make(kind, use, injected)

    def notify(self, place: str, text: str) -> None:
        """Report to the user what the stage decided or noticed."""
        self.inputs.notices(place, text)

    def checkpoint(self, model: str = "") -> Checkpoint:
        """Return the checkpoint in which a training loop keeps its state.

        Args:
            model: the model that is trained, in a stage that trains several one by one.
        """
        return self.store.checkpoint(f"stage-{self.name} {model}".rstrip())

    def logger(self, model: str = "") -> Log:
        """Return the function that a training loop logs with.

        Args:
            model: the model that is trained, in a stage that trains several one by one; names then begin with it.
        """
        prefix = f"{model} " if model else ""

        def log(step: int, values: Mapping[str, float]) -> None:
            if leader():  # every process trains, but only the first one writes
                named = {f"{prefix}{name}": value for name, value in values.items()}
                self.store.log(self.name, step, named)
                self.session.observers.metrics_logged(self.name, step, named)

        return log

    def add_ledger(self, entries: Sequence[LedgerEntry]) -> None:
        """Keep what the stage cost, one entry for each role."""
        if leader():  # the entries already count what all processes did
            self.store.add_ledger(self.name, entries)
