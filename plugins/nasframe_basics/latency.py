"""Estimator ``latency``: a cost that is measured, not counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from weakref import WeakKeyDictionary

from annotated_types import Ge, Le

from nasframe.errors import UsageError
from nasframe.notices import Notify, say
from nasframe.outline import Outline, longest_input
from nasframe.records import Arch, Natural, Size, arch_id, sequence_length
from nasframe.weights import refusal

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nasframe.interfaces import SearchSpace

Measurement: TypeAlias = dict[str, Any]
"""What :meth:`Latency.measure` returns."""
LENGTH = 128
"""Tokens in a sequence, unless the recipe says otherwise or the network can read fewer."""


class Latency:
    """Measure the wall-clock time of a forward pass of the extracted network: the median of repeats after a warm-up.

    Each architecture of a network is measured once, and the measurement is kept.

    Args:
        batch: number of sequences.
        length: number of tokens in each, if the inputs are sequences of tokens; default: 128 or, if that is less, what
            the network can read. A network that does not say how much it can read is measured at the length of the
            run's own batches.
        repeats: timed forward passes.
        warmup: forward passes before them.
        threads: CPU threads; default: torch's setting.
        notify: injected; receives a notice if the network reads less than the default length.
        probe_inputs: injected; returns the inputs of the run's probe batch, which networks are measured on.

    >>> from nasframe.testing.toy import tiny_net
    >>> Latency(repeats=3, length=8).estimate(None, tiny_net()) > 0
    True
    """

    unit = "ms"
    heading = "latency"
    highlight = "latency"
    sizes_suffice = True
    reads_weights = True  # what is measured is the finished model itself

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
        # Network → id of the sub-network → its measurement.
        self._records: WeakKeyDictionary[nn.Module, dict[str, Measurement]] = WeakKeyDictionary()

    def estimate(self, space: SearchSpace, net: nn.Module, arch: Arch | None = None) -> float:
        """Return the median in milliseconds."""
        return self.measure(space, net, arch)["median"]

    def measure(self, space: SearchSpace, net: nn.Module, arch: Arch | None = None, again: bool = False) -> Measurement:
        """Return a measurement with its conditions.

        Args:
            space: the architecture's space.
            net: the network.
            arch: a sub-network, or ``None`` for the network as it stands.
            again: measure again what was measured before.

        Returns:
            ``median`` and ``spread`` (between the quartiles) in milliseconds, and ``how``: ``repeats``, ``batch``,
            ``length``, ``threads`` and ``device``.
        """
        records = self._records.setdefault(net, {})  # forgotten with the network
        key = "" if arch is None else arch_id(arch)
        if again or key not in records:
            extracted = net if arch is None else space.extract(net, arch)
            records[key] = self._time(extracted)
        return dict(records[key])

    def validate(self, net: nn.Module | Outline) -> None:
        """Refuse a length in the recipe that the network cannot read; notify if it cannot read the default length.

        Args:
            net: the network, with or without values, or its outline.

        Raises:
            RecipeError: with the option ``length``.
        """
        self._length_for(net)

    def _length_for(self, net: nn.Module | Outline) -> int | None:
        """Return the tokens in a sequence: the recipe's number, or the default as far as the network can read it.

        ``None`` is the length of the run's own batches, of a network that does not say what it can read.
        """
        longest = longest_input(net)
        if longest is None:
            return self.length
        length = LENGTH if self.length is None else self.length
        if length <= longest:
            return length
        if self.length is not None:  # what a recipe says is refused, what is assumed is adapted
            text = f"{length} tokens are more than the network can read. Expected at most {longest}."
            raise refusal("length", [text])
        self._notify("latency.length", f"latency is measured at {longest} tokens, all that the network can read.")
        return longest

    def _time(self, net: nn.Module) -> Measurement:
        import torch

        from nasframe.nn.timing import timings

        inputs = self._inputs(net)
        device = next(net.parameters()).device
        own_inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        threads = self.threads or torch.get_num_threads()
        calls = {"": lambda: net(**own_inputs)}
        timing = timings(calls, [net], device, self.repeats, self.warmup, threads)[""]
        how = {
            "repeats": self.repeats,
            "batch": self.batch,
            "length": sequence_length(inputs),
            "threads": threads,
            "device": str(device),
        }
        return {"median": timing.median, "spread": timing.spread, "how": how}

    def _inputs(self, net: nn.Module) -> Mapping[str, torch.Tensor]:
        """Return the inputs to measure on: those of the run, or outside of a run invented tokens.

        Raises:
            UsageError: there are none, or they have no sequences although the recipe gives a length.
        """
        from nasframe.nn.inputs import invented, resized

        length = self._length_for(net)
        inputs = None if self._probe_inputs is None else self._probe_inputs()
        if inputs is None:
            inputs = invented(net, self.batch, length or LENGTH)
            if inputs is None:
                raise UsageError(
                    f"latency: a {type(net).__name__} is measured on a run's own batches, and there are none. Expected "
                    "probe_inputs, a function that returns its inputs."
                )
            return inputs
        if self.length is None and sequence_length(inputs) is None:
            length = None
        return resized(inputs, self.batch, length)
