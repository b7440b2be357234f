"""How ``nasframe plugins check`` tries the plugins of this package: on domains with formulas, and with children."""

from __future__ import annotations

from typing import Any

from nasframe import registry
from nasframe.testing import ModifierContract, SamplerContract, SpaceContract
from nasframe.testing.toy import ToySpace
from nasframe_autobert_zero.domain import ExpressionGraphs


class Graphs(SpaceContract):
    """The checks of a space, with sizes and layers that may be left out."""

    def make(self, config: Any) -> Any:
        """Make the space with all that it can vary."""
        use = {"use": "expression_graphs", "kernels": [3, 7], "ffn": ["50%", "100%"], "skip": True, "most": 9}
        return registry.make("space", use, inject={"config": config})


class Priorities(SamplerContract):
    """The checks of a sampler, on domains with formulas."""

    milliseconds = 200.0  # a child is checked on random numbers before it is proposed
    trials = 300

    def domains(self) -> list[Any]:
        """Return a domain of all that can vary, one of the published kind, and those of all samplers."""
        return [
            *super().domains(),
            ExpressionGraphs(3, kernels=[3, 7], ffn=[16, 64], skip=True, most=8),
            ExpressionGraphs(2, kernels=[3, 5], ffn=[64], most=7),
        ]

    def make(self, domain: Any, seed: int) -> Any:
        """Make the sampler so that children follow soon."""
        use = {"use": "op_priority", "initial": 4, "parents": 2, "population": 8}
        return registry.make("sampler", use, inject={"domain": domain, "seed": seed})


class Sharing(ModifierContract):
    """The checks of a modifier, in a stage whose sampler stays with each architecture for two steps."""

    steps = 8

    def shapes(self) -> list[dict[str, Any]]:
        """Return the fields of a stage that trains four children."""
        space: Any = ToySpace()
        use = {"use": "children", "inner": "random", "steps": 2}
        sampler = registry.make("sampler", use, inject={"domain": space.domain, "seed": 0})
        return [{"space": space, "sampler": sampler}]

    def make(self) -> Any:
        """Make the modifier with two rounds."""
        return registry.make("modifier", {"use": "biws", "children": 2})
