"""Estimator ``latency``: a cost that is measured, not counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from weakref import WeakKeyDictionary

from annotated_types import Ge, Le

from nasframe.notices import Notify, say
from nasframe.outline import Outline
from nasframe.records import Arch, Natural, Size, arch_id
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
        length: number of tokens in each; default: 128, or what the network can read if that is less.
        repeats: timed forward passes.
        warmup: forward passes before them.
        threads: CPU threads; default: torch's setting.
        notify: injected; receives a notice if the network reads less than the default length.

    >>> from nasframe.testing.toy import tiny_net
    >>> Latency(repeats=3, length=8).estimate(None, tiny_net()) > 0
    True
    """

    unit = "ms"
    heading = "latency"
    highlight = "latency"
    sizes_suffice = True

    def __init__(
        self,
        batch: Size = 1,
        length: Size | None = None,
        repeats: Size = 20,
        warmup: Natural = 3,
        threads: Annotated[int, Ge(1), Le(1024)] | None = None,
        notify: Notify = say,
    ) -> None:
        self.batch = batch
        self.length = length
        self.repeats = repeats
        self.warmup = warmup
        self.threads = threads
        self._notify = notify
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

    def _length_for(self, net: nn.Module | Outline) -> int:
        """Return the tokens in a sequence: the recipe's number, or the default as far as the network can read it."""
        length = LENGTH if self.length is None else self.length
        longest = _longest(net)
        if longest is None or length <= longest:
            return length
        if self.length is not None:  # what a recipe says is refused, what is assumed is adapted
            text = f"{length} tokens are more than the network can read. Expected at most {longest}."
            raise refusal("length", [text])
        self._notify("latency.length", f"latency is measured at {longest} tokens, all that the network can read.")
        return longest

    def _time(self, net: nn.Module) -> Measurement:
        import torch

        length = self._length_for(net)
        threads_before = torch.get_num_threads()
        threads = self.threads or threads_before
        was_training = net.training
        torch.set_num_threads(threads)  # of the whole process, so it is set back
        net.eval()
        try:
            seconds = self._seconds(net, length)
        finally:
            torch.set_num_threads(threads_before)
            net.train(was_training)
        # The median and the quartiles, since other programs delay single passes by any amount.
        shares = torch.tensor([0.25, 0.5, 0.75])
        quartiles = torch.tensor(seconds).quantile(shares)
        low, median, high = [1000 * quartile for quartile in quartiles.tolist()]
        how = {
            "repeats": self.repeats,
            "batch": self.batch,
            "length": length,
            "threads": threads,
            "device": str(next(net.parameters()).device),
        }
        return {"median": median, "spread": high - low, "how": how}

    def _seconds(self, net: nn.Module, length: int) -> list[float]:
        """Time forward passes on random tokens."""
        import torch

        from nasframe.nn.elastic import base_of

        device = next(net.parameters()).device
        generator = torch.Generator().manual_seed(0)  # torch's own is left as it was
        ids = torch.randint(1, 100, (self.batch, length), generator=generator)
        ids %= base_of(net).config.vocab_size  # tiny networks of tests have fewer words
        ids = ids.to(device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        seconds = []
        with torch.inference_mode():
            for _ in range(self.warmup + self.repeats):
                _wait_for(device)
                began = time.perf_counter()
                net(**inputs)
                _wait_for(device)
                seconds.append(time.perf_counter() - began)
        return seconds[self.warmup :]  # the first passes also allocate memory


def _wait_for(device: torch.device) -> None:
    """Wait for a GPU, which runs behind the program."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _longest(net: nn.Module | Outline) -> int | None:
    """Return how many tokens a network can read; ``None`` if there is no limit."""
    if isinstance(net, Outline):
        return net.longest
    from nasframe.nn.positions import usable_positions

    return usable_positions(net)
