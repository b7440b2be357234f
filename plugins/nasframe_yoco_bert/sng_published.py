"""Sampler ``sng_published``: YOCO-BERT's natural gradient as the published code computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge

from nasframe.errors import UsageError, listing, suggestion
from nasframe.records import Count, Natural, Positive
from nasframe_yoco_bert.coordinates import Costs
from nasframe_yoco_bert.costs import UNMATCHED
from nasframe_yoco_bert.sampler import NaturalGradientSampler, Parts

Part = Literal["explore", "inactive", "batches", "ties", "weights", "objective"]
OURS = Parts()
PUBLISHED = Parts(
    explore="averaged",
    inactive="random",
    batches="apart",
    ties="relative",
    weights="equal",
    objective=UNMATCHED,
)


class PublishedSNG(NaturalGradientSampler):
    """Learns a distribution over sub-networks as the published YOCO-BERT does, defects included.

    After each update the distribution is the published code's to 1e-9. ``mend`` replaces parts of the algorithm by
    those of sampler ``sng``, one by one.

    Args:
        domain: the domain to propose from; it has knobs. ``join: layer`` gives heads and FFN of a layer one
            distribution.
        seed: draws the proposals.
        costs: injected; only the part ``objective`` of ``sng`` looks at them.
        lam: λ, the number of scores in each update.
        delta: δ, the length of a step in the Fisher metric.
        warm_up: number of updates, at the start of training, in which θ does not move and all proposals explore;
            published: none.
        mend: parts to replace by those of ``sng``. ``explore``: the mean of the layers' entropies decides how often to
            explore, not the entropy of their mean. ``inactive``: knobs without effect do not move. ``batches``: the
            members of an update are scored on one batch. ``ties``: scores are equal if they differ by at most 1e-12.
            ``weights``: samples that explored count by how likely θ was to propose them. ``objective``: members are
            compared at nearly one cost, and training aims at target costs.

    Raises:
        UsageError: a domain without knobs, fewer than two answers an update, or an unknown part.

    >>> from nasframe.records import Trial
    >>> from nasframe.search.domain import Choices
    >>> sampler = PublishedSNG(Choices({"k": [1, 2, 3]}), seed=0, mend=["ties"])
    >>> sampler.tell([Trial({"k": 3}, score=0.9), Trial({"k": 1}, score=0.5)])
    >>> sampler.mode()
    {'k': 3}
    """

    use = "sng_published"
    penalty = "published"
    forgets = False

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        costs: Costs | None = None,
        lam: Annotated[Count, Ge(2)] = 2,
        delta: Positive = 1.0,
        warm_up: Natural = 0,
        mend: Sequence[Part] = (),
    ) -> None:
        names = get_args(Part)
        for part in mend:
            if part not in names:
                expected = f"Expected of: {listing(names)}.{suggestion(part, names)}"
                raise UsageError(f"sampler 'sng_published': mend has no part {part!r}. {expected}")
        mended = {part: getattr(OURS, part) for part in mend}
        super().__init__(domain, seed, costs, lam, delta, warm_up, replace(PUBLISHED, **mended))
