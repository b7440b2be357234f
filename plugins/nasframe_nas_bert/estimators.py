"""Costs of operator chains that are sums over their parts: the time of each operation, and the loss of each block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

from annotated_types import Ge, Le

from nasframe.notices import Notify, say
from nasframe.outline import Outline, longest_input
from nasframe.records import Arch, CostTable, Natural, Size
from nasframe.weights import refusal

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nasframe_nas_bert.pieces import Conditions, Times


LENGTH = 128
"""Tokens in a sequence, unless the recipe says otherwise or the network can read fewer."""


class OperatorLatency:
    """Add up the measured times of a chain's parts: each operation at each width, embeddings, and maps between blocks.

    Every part is measured once on this machine, and a network is the sum of its parts (NAS-BERT, section 3.3). The
    trainer ``blockwise`` stores the times with its library, so that later stages and deployments go by the same ones.
    A head for tokens, which only pre-training needs, counts as nothing.

    Args:
        batch: number of sequences.
        length: tokens in each; default: 128, or what the network can read if that is less.
        repeats: timed passes of each part, of which the median counts.
        warmup: passes before them.
        threads: CPU threads; default: torch's setting.
        notify: injected; receives how far the times of a part spread.
        probe_inputs: injected; returns the inputs of the run's probe batch.
    """

    unit = "ms"
    heading = "sum of latencies"

    def __init__(
        self,
        batch: Size = 1,
        length: Size | None = None,
        repeats: Size = 20,
        warmup: Natural = 3,
        threads: Annotated[int, Ge(1), Le(1024)] | None = None,
        notify: Notify = say,
        probe_inputs: Callable[[], Mapping[str, torch.Tensor] | None] | None = None,
    ) -> None:
        self.batch = batch
        self.length = length
        self.repeats = repeats
        self.warmup = warmup
        self.threads = threads
        self._notify = notify
        self._probe_inputs = probe_inputs
        self._measured: WeakKeyDictionary[nn.Module, dict[Any, Times]] = WeakKeyDictionary()

    def validate(self, net: nn.Module | Outline) -> None:
        """Refuse a length in the recipe that the network, whose positions the chains have too, cannot read.

        Args:
            net: the network that the library is made of, with or without values, or its outline.

        Raises:
            RecipeError: with the option ``length``.
        """
        longest = longest_input(net)
        if self.length is not None and longest is not None and self.length > longest:
            text = f"{self.length} tokens are more than the network can read. Expected at most {longest}."
            raise refusal("length", [text])

    def estimate(self, space: Any, net: Any, arch: Arch | None = None) -> float | None:
        """Return the sum in milliseconds; ``None`` for a network that is no library of chains."""
        from nasframe.search.costs import table_cost

        if arch is None:
            return None
        table = self.table(space, net)
        if table is None:
            return None
        return table_cost(table, space.domain.knobs)(arch)

    def table(self, space: Any, net: Any) -> CostTable | None:
        """Return the times of all choices; ``None`` for other spaces, and while there is nothing to measure on."""
        times = self.times(space, net)
        return None if times is None else space.priced(times.median)

    def times(self, space: Any, net: Any) -> Times | None:
        """Return the times of a library's pieces: those that it keeps, or those that are measured now."""
        from nasframe_nas_bert.networks import ChainLibrary
        from nasframe_nas_bert.pieces import stored_times

        if not isinstance(net, ChainLibrary):
            return None
        inputs = self._inputs(net)
        if inputs is None:
            return None
        how = self._conditions(net, inputs)
        kept = stored_times(net, how)
        if kept is not None:
            return kept
        return self._times(net, space, inputs, how)

    def _inputs(self, net: nn.Module) -> dict[str, torch.Tensor] | None:
        """Return the inputs to measure on; ``None`` before a run, and for a network without values."""
        parameter = next(net.parameters())
        probe = None if self._probe_inputs is None else self._probe_inputs()
        if probe is None or parameter.is_meta or "input_ids" not in probe:
            return None
        return {name: tensor.to(parameter.device) for name, tensor in probe.items()}

    def _conditions(self, net: Any, inputs: Mapping[str, torch.Tensor]) -> Conditions:
        from nasframe.nn.positions import usable_positions
        from nasframe_nas_bert.pieces import conditions

        # The same whatever the task's batches are, so that all stages go by the same times.
        length = self.length or min(LENGTH, usable_positions(net) or LENGTH)
        return conditions(inputs, self.batch, length, self.repeats, self.warmup, self.threads)

    def _times(self, net: nn.Module, space: Any, inputs: Any, how: Conditions) -> Times:
        """Return measured times; a network is measured once under the same conditions."""
        from nasframe_nas_bert.pieces import measured

        by_conditions = self._measured.setdefault(net, {})
        if how not in by_conditions:
            times = measured(space.pieces(net), inputs, how)
            by_conditions[how] = times
            self._tell(times)
        return by_conditions[how]

    def _tell(self, times: Times) -> None:
        """Report how far the times of a part spread."""
        shares = []
        for name, median in times.median.items():
            if median > 0:
                shares.append(times.spread[name] / median)
        if not shares:
            return
        shares.sort()
        middle = shares[len(shares) // 2]
        text = (
            f"{len(shares)} parts were measured ({times.how['batch']} × {times.how['length']} tokens, "
            f"{times.how['threads']} threads, {times.how['repeats']} passes). Half of a part's passes lie within "
            f"{middle:.0%} of its median (of the least steady part: {shares[-1]:.0%})."
        )
        self._notify("estimators.operator_latency", text)


class BlockLoss:
    """Add up the losses that the trainer ``blockwise`` has measured for the candidates of each block.

    Only candidates that are left after its shrinking have a loss, so a search that bounds this cost, or a sampler whose
    score it is, stays among them.
    """

    unit = "loss"
    heading = "sum of block losses"

    def estimate(self, space: Any, net: Any, arch: Arch | None = None) -> float | None:
        """Return the sum; ``None`` if a candidate has no loss, and for a network that is no library of chains."""
        losses = getattr(net, "losses", None)
        if not losses or arch is None:
            return None
        total = 0.0
        for part, value in arch.items():  # (N6): the loss of a network is the sum of its blocks' losses
            loss = losses[part].get(str(value))
            if loss is None:
                return None
            total += loss
        return total

    def table(self, space: Any, net: Any) -> CostTable | None:
        """Return the losses of all choices, NaN for those that have none; ``None`` before the training."""
        losses = getattr(net, "losses", None)
        if not losses or not hasattr(space, "parts"):
            return None
        choices = {}
        for part, values in space.domain.knobs.items():
            of_part = losses[part]
            choices[part] = [of_part.get(str(value), math.nan) for value in values]
        return CostTable(0.0, choices)
