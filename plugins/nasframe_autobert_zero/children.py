"""A sampler that stays with one architecture for some steps of a training, as a search of trained children needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nasframe import registry
from nasframe.interfaces import keeps_state, start_sampler
from nasframe.notices import Notify, say
from nasframe.records import Arch, Count, SamplerRef, Trial


class Children:
    """Proposes each of another sampler's architectures for several steps in a row: a child, which is trained so long.

    In a training stage the other sampler hears only of children that were measured, as the modifier ``biws`` does it;
    losses of single steps are not passed on. If nothing measured the first child, a notice says so when the second one
    has begun. In a search this sampler is the other one.

    Args:
        domain: the domain to propose from.
        seed: passed to the inner sampler.
        inner: the sampler that proposes children.
        steps: optimiser steps of a child.
        notify: told once in a stage if no child is measured.
    """

    started = 0
    """Children so far; the modifier sees by it when another one begins."""

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        inner: SamplerRef = "random",
        steps: Count = 40,
        notify: Notify = say,
    ) -> None:
        self.domain = domain
        self.steps = steps
        self.notify = notify
        self.inner = registry.make("sampler", inner, {"domain": domain, "seed": seed})
        self.keeps_state = keeps_state(self.inner)
        self.training = False
        self.child: Arch | None = None
        self.left = 0  # steps of this child that are still to come
        self.started = 0
        self.awaits_scores = True  # until a child is measured, or the notice is out that none is

    def start(self, stage: str, total: int, origin: Literal["train", "search"] = "search") -> None:
        """Start again, and so does the inner sampler."""
        self.training = origin == "train"
        self.child = None
        self.left = 0
        self.started = 0
        self.awaits_scores = True
        start_sampler(self.inner, stage, total, origin)

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Return the current child; in a search, ``n`` architectures."""
        if not self.training:
            return list(self.inner.ask(n, within=within))
        is_inside = within is None or (self.child is not None and within.contains(self.child))
        if self.child is None or self.left == 0 or not is_inside:
            proposals = self.inner.ask(1, within=within)
            if not proposals:
                return []
            self.child = proposals[0]
            self.left = self.steps
            self.started += 1
        self.left -= 1
        return [self.child]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Pass on trials; in a training stage those that have metrics, because children were measured then."""
        if self.training:
            trials = [trial for trial in trials if trial.metrics]
            self._expect_scores(trials)
        self.inner.tell(trials)

    def _expect_scores(self, measured: Sequence[Trial]) -> None:
        """Say so if the second child is being trained and the first one was not measured."""
        if measured:
            self.awaits_scores = False
        elif self.awaits_scores and self.started > 1:
            self.awaits_scores = False
            self.notify(
                "sampler",
                "No modifier of the stage measures the children, so the sampler inside 'children' hears no scores and "
                "learns nothing. Expected the modifier 'biws'.",
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the current child, its steps, and the inner sampler's state."""
        return {
            "training": self.training,
            "child": None if self.child is None else dict(self.child),
            "left": self.left,
            "started": self.started,
            "awaits_scores": self.awaits_scores,
            "inner": self.inner.state_dict() if self.keeps_state else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.training = state["training"]
        self.child = state["child"]
        self.left = state["left"]
        self.started = state["started"]
        self.awaits_scores = state["awaits_scores"]
        if self.keeps_state:
            self.inner.load_state_dict(state["inner"])
