"""Expected costs: what a distribution over architectures costs, as a tensor that a loss can contain.

A differentiable search learns the probabilities of choices together with the weights. The cost that it has to keep down
is then an expectation (the expected latency of ProxylessNAS, Cai et al., ICLR 2019, arXiv 1812.00332; the
efficiency loss of AdaBERT, Chen et al., IJCAI 2020, arXiv 2001.04246), and with an additive table it is a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nasframe.errors import UsageError, listing
from nasframe.interfaces import ConditionalDomain
from nasframe.records import CostTable


def expected_cost(table: CostTable, domain: Any, probabilities: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the expected cost of architectures whose knobs are drawn independently of each other.

    ``base + Σ_k P(k has an effect) · Σ_v p_kv · cost_kv``. A conditional knob has an effect with the probability that
    the knob that it depends on has one of the right values, and has an effect itself.

    Args:
        table: what each choice costs, from :meth:`nasframe.interfaces.TrainJob.table`.
        domain: the domain of the space, for the values of knobs and the rules of conditional ones.
        probabilities: knob → the probabilities of its values, ``(values,)``, which add up to 1. Gradients flow back to
            them.

    Returns:
        A scalar, in the unit of the cost.

    Raises:
        UsageError: the probabilities of a knob are missing, or are not as many as its values.

    >>> from nasframe.search.domain import Choices
    >>> domain = Choices({"layers": [[0], [0, 1]], "width.1": [8, 16]}, {"width.1": ("layers", [[0, 1]])})
    >>> table = CostTable(10.0, {"layers": [0.0, 4.0], "width.1": [2.0, 6.0]})
    >>> half = torch.tensor([0.5, 0.5])
    >>> float(expected_cost(table, domain, {"layers": half, "width.1": half}))
    14.0
    """
    _check(table, probabilities)
    # Each knob once, however many depend on it.
    effective: dict[str, torch.Tensor | float] = {}
    total: torch.Tensor | float = table.base
    for knob, costs in table.choices.items():
        chances = probabilities[knob]
        # In the type and on the device of the probabilities: costs of large networks are rounded, not their gradients.
        of_choice = torch.as_tensor(costs, dtype=chances.dtype, device=chances.device)
        total = total + _chance_of_effect(knob, domain, probabilities, effective) * (chances * of_choice).sum()
    return torch.as_tensor(total)


def _chance_of_effect(
    knob: str, domain: Any, probabilities: Mapping[str, torch.Tensor], effective: dict[str, torch.Tensor | float]
) -> torch.Tensor | float:
    """Return the probability that a knob has an effect."""
    if knob not in effective:
        rules = domain.rules if isinstance(domain, ConditionalDomain) else {}
        if knob not in rules:
            effective[knob] = 1.0
        else:
            parent, values = rules[knob]
            active_at = [_plain(value) for value in values]
            mask = [_plain(value) in active_at for value in domain.knobs[parent]]
            chances = probabilities[parent]
            of_parent = chances[torch.tensor(mask, device=chances.device)].sum()
            effective[knob] = of_parent * _chance_of_effect(parent, domain, probabilities, effective)
    return effective[knob]


def _plain(value: Any) -> Any:
    """Return a value in a form that is equal for lists and tuples."""
    return tuple(value) if isinstance(value, list) else value


def _check(table: CostTable, probabilities: Mapping[str, torch.Tensor]) -> None:
    """Make sure that every knob of a table has a probability for each of its values."""
    for knob, costs in table.choices.items():
        if knob not in probabilities:
            raise UsageError(f"knob {knob!r} has no probabilities. There are: {listing(probabilities)}.")
        shape = tuple(probabilities[knob].shape)
        if shape != (len(costs),):
            raise UsageError(f"the probabilities of {knob!r} have the shape {shape}. Expected ({len(costs)},).")
