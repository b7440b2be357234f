"""Multiply-adds of forward passes for the ledger: of any network, on any batches, and never an error."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from nasframe.interfaces import SizedSpace, sizes_of
from nasframe.notices import Notify, say
from nasframe.records import Arch, Evaluation, arch_id, sequence_length

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nasframe.interfaces import SearchSpace, Task

PROBE_EXAMPLES = 8
"""Examples of the probe batch; a wrong slice shows on any input, and shapes are the same for any number."""


NEAR = 1e-6
"""Relative difference up to which two counts are equal."""


def _nodes(present: int) -> tuple[int, ...]:
    """Return four lengths that a network accepts if it reads the probe batch: its length, and quarters of it."""
    return (present, 3 * present // 4, present // 2, present // 4) if present >= 4 else (1, 2, 3, 4)


def probe_inputs(task: Task) -> dict[str, torch.Tensor]:
    """Return a task's probe batch: the inputs of its first training batch, the same in every process.

    It shows the shapes that networks are counted and measured on, and models are compared on it.
    """
    batch = next(iter(task.train_batches(0, 0, PROBE_EXAMPLES)))
    return dict(batch.inputs)


class MacCounter:
    """Counts forward passes.

    A network with exact tables is counted at the length of each batch. Any other one is run for each architecture
    without values, on the task's probe batch. Sequences of other lengths are counted by the polynomial of degree 3
    through four lengths, which is exact for linear maps, attention over all tokens, and products of its scores. Whether
    it is exact is tried out on the whole network; if it is not, multiply-adds are scaled with the tokens, and a notice
    says so.

    Args:
        task: its first training batch is the probe batch.
        space: the space that architectures are from; ``None`` if there are none.
        notify: told once if a network cannot be counted.
        place: what the notice is about.

    >>> from nasframe.testing.toy import ToyTask, tiny_net
    >>> counter = MacCounter(ToyTask(), None)
    >>> counter.macs(tiny_net(), None, examples=2, length=5) == 2 * counter.macs(tiny_net(), None, 1, length=5)
    True
    """

    def __init__(self, task: Task, space: SearchSpace | None, notify: Notify = say, place: str = "ledger") -> None:
        from nasframe.nn.traced import Traced

        self.task = task
        self.space = space
        self.notify = notify
        self.place = place
        self._traced = Traced()
        self._tables: WeakKeyDictionary[nn.Module, dict[int, Any]] = WeakKeyDictionary()  # by length
        self._is_polynomial: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
        self._told = False

    @functools.cached_property
    def probe(self) -> Mapping[str, torch.Tensor]:
        """The inputs of the probe batch."""
        return probe_inputs(self.task)

    def evaluation(self, net: nn.Module | None, arch: Arch | None, result: Evaluation) -> float | None:
        """Return the forward multiply-adds of an evaluation; ``None`` if they cannot be counted.

        Args:
            net: what was evaluated.
            arch: the sub-network of it; ``None`` is the whole network.
            result: how many examples and tokens went through.
        """
        # A task reports tokens and examples, not the length of each batch, so all count as of the mean length.
        mean_length = max(1, round(result.tokens / max(result.examples, 1)))
        length = mean_length if result.tokens > result.examples else None
        return self.macs(net, arch, result.examples, length)

    def macs(
        self, net: nn.Module | None, arch: Arch | None, examples: float, length: int | None = None
    ) -> float | None:
        """Return the multiply-adds of a forward pass; ``None`` if it cannot be counted.

        Args:
            net: the network; without one there are no multiply-adds.
            arch: the sub-network; ``None`` is the whole network.
            examples: how many examples go through.
            length: tokens in each, padding included; ``None`` if they are no sequences.
        """
        if net is None:
            return 0.0
        if self.space is None:
            arch = None
        try:
            return examples * self._of_example(net, arch, length)
        except Exception as error:  # a count is a remark on the work, and never a reason to end it
            self._tell(net, arch, str(error))
            return None

    def _of_example(self, net: nn.Module, arch: Arch | None, length: int | None) -> float:
        from nasframe.nn.traced import has_table

        if has_table(net) and (arch is None or isinstance(self.space, SizedSpace)):
            if length is None:
                length = sequence_length(self.probe) or 1
            macs: float = self._table(net, length).of(sizes_of(self.space, arch))
            return macs
        present = sequence_length(self.probe)
        if length is None or present is None:
            return self._traced_example(net, arch, present)
        if length in _nodes(present):
            return self._traced_example(net, arch, length)
        if self._follows_length(net, present, length):
            return self._interpolated(net, arch, present, length)
        return self._traced_example(net, arch, present) * length / present

    def _traced_example(self, net: nn.Module, arch: Arch | None, length: int | None) -> float:
        """Run one example of the probe batch without values, at a length of its sequences."""
        from nasframe.nn.inputs import resized

        inputs = self.probe if length == sequence_length(self.probe) else resized(self.probe, length=length)
        in_batch = len(next(iter(inputs.values())))
        return self._traced.macs(self.space, net, arch, inputs) / in_batch

    def _interpolated(self, net: nn.Module, arch: Arch | None, present: int, length: int) -> float:
        """Return the value at a length of the polynomial of degree 3 through four lengths (Lagrange's form)."""
        lengths = _nodes(present)
        total = 0.0
        for node in lengths:
            weight = 1.0
            for other in lengths:
                if other != node:
                    weight *= (length - other) / (node - other)
            total += weight * self._traced_example(net, arch, node)
        return float(round(total))  # multiply-adds are whole numbers

    def _follows_length(self, net: nn.Module, present: int, length: int) -> bool:
        """Tell whether the whole network's multiply-adds are a polynomial of degree 3 of the length, by a trial."""
        from nasframe.nn.traced import UncountableError

        if net not in self._is_polynomial:
            try:
                expected = self._interpolated(net, None, present, length)
                actual = self._traced_example(net, None, length)
                self._is_polynomial[net] = abs(expected - actual) <= NEAR * actual
            except UncountableError:  # it may accept one length alone
                self._is_polynomial[net] = False
            if not self._is_polynomial[net]:
                self.notify(
                    self.place,
                    f"the multiply-adds of {type(net).__name__} do not follow from the length of its sequences. The "
                    f"ledger counts {present} tokens, as in the first batch, and scales with the number of tokens.",
                )
        return self._is_polynomial[net]

    def _table(self, net: nn.Module, length: int) -> Any:
        """Return the exact costs of one sequence. They are counted once: sizes do not change during a stage."""
        from nasframe.nn import count

        tables = self._tables.setdefault(net, {})
        if length not in tables:
            tables[length] = count.macs(net, 1, length)
        return tables[length]

    def _tell(self, net: nn.Module, arch: Arch | None, reason: str) -> None:
        """Report that something cannot be counted, the first time only: the others would have the same reason."""
        if self._told:
            return
        self._told = True
        what = type(net).__name__
        if arch is not None:
            what += f" at {arch_id(arch)}"
        self.notify(
            self.place,
            f"the multiply-adds of {what} cannot be counted without values ({reason}). The ledger shows – for them.",
        )
