"""Sampler ``sng``: YOCO-BERT's natural gradient with the published algorithm's defects mended."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge

from nasframe.records import Count, Natural, Positive, Share
from nasframe_yoco_bert.coordinates import Costs
from nasframe_yoco_bert.costs import Match, Matching, Targets
from nasframe_yoco_bert.former import translate_options
from nasframe_yoco_bert.sampler import NaturalGradientSampler, Parts


class SNG(NaturalGradientSampler):
    """Learns a distribution over sub-networks by its stochastic natural gradient, in training and in search.

    Every ``lam`` answers move each knob's distribution θ towards the best and away from the worst. In a training
    stage draws explore with a probability that rises as θ loses entropy; in a search they all come from θ. The
    algorithm as it was published (arXiv 2106.02435) is sampler ``sng_published``.

    Args:
        domain: the domain to propose from; it has knobs. ``join: layer`` gives heads and FFN of a layer one
            distribution.
        seed: draws the proposals.
        costs: injected; without them costs are not looked at.
        lam: λ, answers an update.
        delta: δ, the length of a step in the Fisher metric.
        explore: ``per_layer`` explores more often as the dimensions' mean entropy falls; a number is the probability
            of exploring.
        same_batch: compare only what was told together; an ask is then rounded up to whole groups of ``lam``.
            ``false`` compares answers as they come, over batches.
        match: how costs are matched: ``band`` proposes the ``lam`` of a group at nearly one cost, ``residual`` compares
            what is left of the score after a running fit on cost, ``none`` compares scores whatever they cost.
        band: width of that band, as a share of the domain's range of costs.
        cost_targets: which proposals of a training aim at a cost drawn at random: ``all``, those that ``explore`` (the
            others come from θ as it is), or ``none``.
        cost_power: a cost aimed at is this power of a uniform number, on the way from the cheapest to the dearest: 1 is
            uniform, more than 1 aims at cheap ones more often, which also cost less to train.
        warm_up: updates in training in which θ rests and all proposals explore.

    Raises:
        UsageError: a domain without knobs, fewer than two answers an update, or a probability that is none.

    >>> from nasframe.records import Trial
    >>> from nasframe.search.domain import Choices
    >>> sampler = SNG(Choices({"k": [1, 2, 3]}), seed=0)
    >>> sampler.tell([Trial({"k": k}, score=k / 3) for k in (3, 1, 2, 1)])
    >>> sampler.mode()
    {'k': 3}
    """

    translate_options = staticmethod(translate_options)

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        costs: Costs | None = None,
        lam: Annotated[Count, Ge(2)] = 4,
        delta: Positive = 0.1,
        explore: Literal["per_layer"] | Share = "per_layer",
        same_batch: bool = True,
        match: Match = "band",
        band: Positive = 0.05,
        cost_targets: Targets = "all",
        cost_power: Positive = 2.0,
        warm_up: Natural = 50,
    ) -> None:
        parts = Parts(
            explore=explore,
            batches="together" if same_batch else "apart",
            objective=Matching(match, cost_targets, band, cost_power),
        )
        super().__init__(domain, seed, costs, lam, delta, warm_up, parts)
