"""The contracts of ``banded_sng`` and of the modifiers that it learns from, on domains that have the knob ``size``."""

from __future__ import annotations

from typing import Any

from nasframe import registry
from nasframe.search.domain import Choices
from nasframe.testing import ModifierContract, SamplerContract
from nasframe.testing.toy import tiny_net


def sized_domain() -> Choices:
    """Return a domain of five sizes with two choices of each."""
    return Choices(
        {"size": [10.0, 20.0, 40.0, 70.0, 100.0], "layers": [[0], [0, 1], [0, 1, 2]], "tilt": [-0.5, 0.0, 0.5]}
    )


class Banded(SamplerContract):
    """The checks of a sampler, on domains that have the knob ``size``."""

    def domains(self) -> list[Any]:
        """Return a domain of sizes, and one of very few architectures."""
        return [sized_domain(), Choices({"size": [50.0, 100.0], "tilt": [0.0, 0.5]})]


class Learning(ModifierContract):
    """The checks of a modifier, in a stage whose sampler learns from it."""

    steps = 6  # the sampler learns in the middle of a stage

    def shapes(self) -> list[dict[str, Any]]:
        """Return the fields of a stage that trains sub-networks of a few sizes."""
        space = registry.make("space", "compound", inject={"config": tiny_net().config})
        sampler = registry.make("sampler", "banded_sng", inject={"domain": space.domain, "seed": 0})
        return [{"space": space, "sampler": sampler}]


class Probing(Learning):
    """The same, with probes of as few examples as a toy batch has."""

    def make(self) -> Any:
        """Make the modifier so that it probes in every step in which the sampler learns."""
        return registry.make("modifier", {"use": "probes", "examples": 4, "share": 4.0})
