"""What the stages of one run share: its plan, where results are kept, what it started from, its shared sampler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.observers import Observers
from nasframe.plan import aimed_costs
from nasframe.seeds import stream_seed

if TYPE_CHECKING:
    from nasframe.interfaces import Work
    from nasframe.plan import Plan
    from nasframe.progress import Progress
    from nasframe.stages.inputs import Material
    from nasframe.store import RunStore


class Session:
    """What lasts for a whole run, as its stages see it.

    Args:
        plan: the resolved recipe.
        store: where results are kept.
        progress: where progress is shown.
        parts: model, task and costs, loaded.
    """

    def __init__(self, plan: Plan, store: RunStore, progress: Progress, parts: Material) -> None:
        self.plan, self.store, self.progress, self.parts = plan, store, progress, parts
        self.hooks = Observers(parts.notices)
        self.sampler: Any = None

    def shared_sampler(self, work: Work) -> Any:
        """Return the recipe's own sampler, which several stages teach; it is made when a stage first needs it."""
        if self.sampler is None:
            assert work.space is not None
            seed = stream_seed(self.plan.seed, "sampler", "shared")
            inject = {"domain": work.space.domain, "seed": seed, "costs": self.cost_rows(work)}
            self.sampler = registry.make("sampler", self.plan.sampler, inject)
        return self.sampler

    def cost_rows(self, work: Work, bounded: Iterable[str] = ()) -> Any:
        """Make the costs that samplers get: those bounded, or else those that the recipe bounds or aims at."""
        from nasframe.search.costs import cost_rows

        names = sorted({*bounded}) or aimed_costs(self.plan)
        return cost_rows(self.parts.estimators, names, work.space, work.net)
