"""Estimator ``encoder_nonzeros``: element-wise methods reduce the number of nonzero weights, not shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasframe.records import Arch

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import SearchSpace


class EncoderNonzeros:
    """Count the weights of the encoder's layers that are not exactly zero.

    >>> from nasframe.testing.toy import tiny_net
    >>> net = tiny_net(layers=1)
    >>> whole = EncoderNonzeros().estimate(None, net)
    >>> net.bert.encoder.layer[0].output.dense.weight.data.zero_()[0, 0].item()
    0.0
    >>> whole - EncoderNonzeros().estimate(None, net)
    2048.0
    """

    unit = "parameters"
    reads_weights = True  # training and pruning change how many there are
    heading = "encoder nonzeros"

    def estimate(self, space: SearchSpace | None, net: nn.Module, arch: Arch | None = None) -> float:
        """Return the number of nonzero weights of a network as it stands, or of a sub-network of it."""
        from nasframe.nn.elastic import layers_of
        from nasframe.nn.slices import weights

        if arch is not None and space is not None:
            net = space.extract(net, arch)
        total = 0
        for _, module, key in weights(layers_of(net)):
            total += int(getattr(module, key).count_nonzero())
        return float(total)
