"""Latency: measured, not counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

from annotated_types import Ge, Le

from nasframe.notices import Notify, say
from nasframe.outline import Outline
from nasframe.records import Arch, Natural, Size, arch_id
from nasframe.weights import refusal

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import SearchSpace

LENGTH = 128
"""Tokens that are measured if nothing is written and the network can read as many."""


class Latency:
    """Measure the wall-clock time of a forward: the median of repeats, after a warm-up, of the extracted network.

    A measurement is made once for each architecture of a network and then kept.

    Args:
        batch: sequences.
        length: tokens in each; default: 128, or what the network can read if that is less.
        repeats: timed forwards.
        warmup: forwards before them.
        threads: CPU threads; default as torch is set.
        notify: injected; hears if the network reads less than the default length.

    >>> from nasframe.testing.toy import tiny_net
    >>> Latency(repeats=3, length=8).estimate(None, tiny_net()) > 0
    True
    """

    unit = "ms"
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
        self.batch, self.length, self.repeats, self.warmup, self.threads = batch, length, repeats, warmup, threads
        self._notify = notify
        self._records: WeakKeyDictionary[nn.Module, dict[str, dict[str, Any]]] = WeakKeyDictionary()

    def estimate(self, space: SearchSpace, net: nn.Module, arch: Arch | None = None) -> float:
        """Return the median in milliseconds."""
        return self.measure(space, net, arch)["median"]

    def measure(
        self, space: SearchSpace, net: nn.Module, arch: Arch | None = None, again: bool = False
    ) -> dict[str, Any]:
        """Return the whole record of a measurement.

        Args:
            space: the architecture's space.
            net: the network.
            arch: a sub-network, or ``None`` for the network as it stands.
            again: measure anew what was measured before.

        Returns:
            ``median`` and ``spread`` (between the quartiles) in milliseconds, and ``how``: ``repeats``, ``batch``,
            ``length``, ``threads`` and ``device``.
        """
        known, key = self._records.setdefault(net, {}), "" if arch is None else arch_id(arch)
        if again or key not in known:
            known[key] = self._time(net if arch is None else space.extract(net, arch))
        return dict(known[key])

    def on_plan(self, net: nn.Module | Outline) -> None:
        """Refuse a written length that the network cannot read, and tell if it cannot read the default length.

        Args:
            net: the network, with or without values, or its outline.

        Raises:
            RecipeError: with the option ``length``.
        """
        self._length_for(net)

    def _length_for(self, net: nn.Module | Outline) -> int:
        """Return how many tokens are measured: what was written, or what the network can read of the default."""
        length = LENGTH if self.length is None else self.length
        longest = _longest(net)
        if longest is None or length <= longest:
            return length
        if self.length is not None:
            text = f"{length} tokens are more than the network can read. Expected at most {longest}."
            raise refusal("length", [text])
        self._notify("latency.length", f"latency is measured at {longest} tokens, all that the network can read.")
        return longest

    def _time(self, net: nn.Module) -> dict[str, Any]:
        import torch

        from nasframe.nn.elastic import base_of

        device, training, threads = next(net.parameters()).device, net.training, torch.get_num_threads()
        length = self._length_for(net)
        ids = torch.randint(1, 100, (self.batch, length), generator=torch.Generator().manual_seed(0)).to(device)
        ids %= base_of(net).config.vocab_size
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        seconds = []
        torch.set_num_threads(self.threads or threads)
        net.eval()
        try:
            with torch.inference_mode():
                for _ in range(self.warmup + self.repeats):
                    wait()
                    began = time.perf_counter()
                    net(**inputs)
                    wait()
                    seconds.append(time.perf_counter() - began)
        finally:
            torch.set_num_threads(threads)
            net.train(training)
        low, median, high = (
            1000 * float(q) for q in torch.tensor(seconds[self.warmup :]).quantile(torch.tensor([0.25, 0.5, 0.75]))
        )
        how = {"repeats": self.repeats, "batch": self.batch, "length": length, "threads": self.threads or threads}
        return {"median": median, "spread": high - low, "how": how | {"device": str(device)}}


def _longest(net: nn.Module | Outline) -> int | None:
    """Return how many tokens a network can read; ``None`` if there is no limit."""
    if isinstance(net, Outline):
        return net.longest
    from nasframe.nn.positions import usable_positions

    return usable_positions(net)
