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
        lam: λ, the number of scores in each update.
        delta: δ, the length of a step in the Fisher metric.
        explore: ``per_layer`` explores more often as the dimensions' mean entropy falls; a number is the probability
            of exploring.
        same_batch: compare only scores from the same batch; an ask is then rounded up to whole groups of ``lam``.
            ``false`` compares scores as they come, across batches.
        match: how costs are matched: ``band`` proposes the ``lam`` architectures of a group at nearly one cost,
            ``residual`` compares the residuals of a running fit of scores on costs, ``none`` compares scores regardless
            of cost.
        band: width of that band, as a share of the domain's range of costs.
        cost_targets: which proposals in training aim at a randomly drawn cost: ``all``, only those that ``explore``
            (the others come directly from θ), or ``none``.
        cost_power: each target cost lies between the cheapest (0) and the most expensive (1) at a uniform random number
            raised to this power. 1 is uniform; more than 1 prefers cheap ones, which also cost less to train.
        warm_up: number of updates, at the start of training, in which θ does not move and all proposals explore.

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
