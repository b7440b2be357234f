from __future__ import annotations

from typing import Any

from nasframe_nxmiformer.admm import ADMM
from nasframe_nxmiformer.estimators import Bits
from nasframe_nxmiformer.examples import AssignBits as AssignBitsWork
from nasframe_nxmiformer.space import NMBits

from nasframe.testing import EstimatorContract, ModifierContract, SpaceContract


class TestADMM(ModifierContract):
    def make(self) -> Any:
        return ADMM(every=1, tune=0.5)


class TestNMBits(SpaceContract):
    draws = 3

    def make(self, config: Any) -> Any:
        return NMBits(config=config)


class TestBits(EstimatorContract):
    def make(self) -> Any:
        return Bits("all")


class TestBitsOfFormats(EstimatorContract):
    def make(self) -> Any:
        return Bits("encoder", indices=False)

    def space(self) -> Any:
        return NMBits(config=self.net().config)  # type: ignore[arg-type]


class TestAssignBits(AssignBitsWork):
    use = {"use": "assign_bits", "archs": {"assigned": "15%"}, "batches": 2, "batch_size": 8}
