"""The bits that a network takes, with or without the places of its weights and the scales of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from nasframe.interfaces import FormatSpace
from nasframe.records import Arch, CostTable

if TYPE_CHECKING:
    from torch import nn


class Bits:
    """Count the bits of a network: compressed matrices as they are stored, and 32 bits for every other weight.

    Args:
        part: the ``matrices`` of the encoder's layers, which methods compress; the ``encoder``, including its biases
            and normalisation; or ``all``, including embeddings, pooler and head.
        indices: whether to count the positions of the weights that an n:m pattern keeps, ``⌈log₂ m⌉`` bits each.
        scales: whether to count a scale of 32 bits for each row of integers.

    >>> from nasframe.testing.toy import tiny_net
    >>> Bits().estimate(None, tiny_net()) == 32 * 3 * (4 * 32 * 32 + 2 * 32 * 64)
    True
    """

    unit = "bits"
    heading = "bits"
    reads_weights = True  # a finished model keeps a record of its own formats

    def __init__(
        self,
        part: Literal["matrices", "encoder", "all"] = "matrices",
        indices: bool = True,
        scales: bool = True,
    ) -> None:
        self.part = part
        self.indices = indices
        self.scales = scales

    def estimate(self, space: Any, net: nn.Module, arch: Arch | None = None) -> float:
        """Return the bits of a network by its own record, or those of one of its architectures."""
        from nasframe.nn.formats import record_of
        from nasframe.nn.storage import account

        if arch is None:
            return self._sum(account(net))
        if isinstance(space, FormatSpace):
            # Counted without building the model: the record keeps what the space does not choose.
            formats = {**record_of(net), **space.formats(net, arch)}
            return self._sum(account(net, formats))
        return self._sum(account(space.extract(net, arch)))

    def table(self, space: Any, net: nn.Module) -> CostTable | None:
        """Return the bits of each choice of a space of formats; ``None`` for other spaces."""
        has_formats = isinstance(space, FormatSpace)
        if not has_formats:
            return None
        from nasframe.nn.formats import encoder_matrices, parse_format
        from nasframe.nn.storage import stored_bits
        from nasframe_nxmiformer.space import by_knob

        grouped = by_knob(space.family, dict(encoder_matrices(net)))
        choices = {}
        for knob, values in space.domain.knobs.items():
            modules: list[Any] = grouped.get(knob, [])  # two if the matrix is factorised
            totals = []
            for text in values:
                form = parse_format(text)
                total = 0.0
                for module in modules:
                    bits = stored_bits(module.out_features, module.in_features, form)
                    total += bits.total(self.indices, self.scales)
                totals.append(total)
            choices[knob] = totals
        # The base is the bits that do not depend on the choices: matrices without a knob, and the rest of the part.
        smallest = space.domain.smallest()
        in_choices = sum(choices[knob][0] for knob in smallest)
        return CostTable(self.estimate(space, net, smallest) - in_choices, choices)

    def _sum(self, bits: dict[str, Any]) -> float:
        """Return the sum of those parts of an account that this estimator counts."""
        parts = ["weights"]
        if self.indices:
            parts.append("indices")
        if self.scales:
            parts.append("scales")
        if self.part != "matrices":
            parts.append("encoder_rest")
        if self.part == "all":
            parts.append("outside")
        return float(sum(bits[part] for part in parts))
