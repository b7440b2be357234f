"""Networks other than encoders: they describe themselves, so that runs can store, count and resume them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn


class Described(nn.Module):
    """A network that is built from its sizes alone: ``type(net)(**net.sizes())`` has the same tensors.

    A subclass is known by its name from the moment its module is imported. Its forward takes the inputs of its task's
    batches by keyword and returns something with ``logits``. Runs train, extract, evaluate and resume it with a
    trainer, a space and a task that understand it; views of slices and verified export are for encoders.

    >>> class Line(Described):
    ...     def __init__(self, width):
    ...         super().__init__()
    ...         self.map = nn.Linear(width, 1)
    ...     def sizes(self):
    ...         return {"width": self.map.in_features}
    >>> rebuilt({"family": "Line", "sizes": {"width": 3}}, Line(3).state_dict())
    Line(
      (map): Linear(in_features=3, out_features=1, bias=True)
    )
    """

    kinds: ClassVar[dict[str, type[Described]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Described.kinds[cls.__name__] = cls

    @property
    def config(self) -> Any:
        """The sizes, in place of a transformers configuration."""
        return SimpleNamespace(**self.sizes(), to_dict=self.sizes)

    def sizes(self) -> dict[str, Any]:
        """Return the arguments that make a network of the same shapes, JSON-plain."""
        raise NotImplementedError

    def counted(self) -> nn.Module:
        """Return the part whose parameters and bytes count as the network's costs."""
        return self

    def forward_macs(self, batch: int) -> float:
        """Return the multiply-adds of one forward of the counted part."""
        return 0.0


def rebuilt(blueprint: dict[str, Any], state: dict[str, torch.Tensor]) -> nn.Module:
    """Return the network of a description with the given weights, in eval mode on the CPU."""
    with torch.random.fork_rng(devices=[]):
        net = Described.kinds[blueprint["family"]](**blueprint["sizes"])
    net.load_state_dict(state)
    return net.eval()
