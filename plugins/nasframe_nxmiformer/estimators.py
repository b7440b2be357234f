"""What a network takes in bits, with or without what it costs to say where its weights stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from nasframe.types import Arch, CostTable

if TYPE_CHECKING:
    from torch import nn


class Bits:
    """Count the bits of a network: those of matrices that are compressed, and 32 for each weight that is not.

    Args:
        part: the ``matrices`` of the encoder's layers, which methods compress; the ``encoder``, with its biases and
            normalisation; or ``all``, with embeddings, pooler and head.
        indices: count the places of the weights that an n:m pattern keeps, ``⌈log₂ m⌉`` bits each.
        scales: count a scale of 32 bits for each row of integers.

    >>> from nasframe.testing.toy import tiny_net
    >>> Bits().estimate(None, tiny_net()) == 32 * 3 * (4 * 32 * 32 + 2 * 32 * 64)
    True
    """

    unit = "bits"

    def __init__(
        self,
        part: Literal["matrices", "encoder", "all"] = "matrices",
        indices: bool = True,
        scales: bool = True,
    ) -> None:
        self.part, self.indices, self.scales = part, indices, scales

    def estimate(self, space: Any, net: nn.Module, arch: Arch | None = None) -> float:
        """Return the bits of a network as its record says, or of an architecture of it."""
        from nasframe.nn.bits import account
        from nasframe.nn.formats import record_of

        if arch is None:
            return self._sum(account(net))
        if hasattr(space, "formats"):
            return self._sum(account(net, record_of(net) | space.formats(net, arch)))
        return self._sum(account(space.extract(net, arch)))

    def table(self, space: Any, net: nn.Module) -> CostTable | None:
        """Return the bits of each choice of a space of formats; ``None`` for other spaces."""
        if not hasattr(space, "formats"):
            return None
        from nasframe.nn.bits import stored_bits
        from nasframe.nn.formats import encoder_matrices, parse_format
        from nasframe_nxmiformer.space import by_knob

        grouped = by_knob(space.family, dict(encoder_matrices(net)))
        choices = {}
        for knob, values in space.domain.knobs.items():
            modules: list[Any] = grouped.get(knob, [])
            shapes = [(module.out_features, module.in_features) for module in modules]
            forms = map(parse_format, values)
            choices[knob] = [
                float(sum(stored_bits(*shape, form).total(self.indices, self.scales) for shape in shapes))
                for form in forms
            ]
        smallest = space.domain.smallest()
        known = sum(choices[knob][0] for knob in smallest)
        return CostTable(self.estimate(space, net, smallest) - known, choices)

    def _sum(self, counts: dict[str, Any]) -> float:
        parts = ["weights", *["indices"] * self.indices, *["scales"] * self.scales]
        parts += {"matrices": [], "encoder": ["encoder_rest"], "all": ["encoder_rest", "outside"]}[self.part]
        return float(sum(counts[part] for part in parts))
