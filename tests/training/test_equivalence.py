"""Taking zeros out is proved: what is compared, and what is refused."""

from __future__ import annotations

import pytest
import torch

from nasframe.errors import VerificationError
from nasframe.testing.trainers import toy_job
from nasframe.training.equivalence import without_zeros


def test_what_is_no_zero_cannot_be_taken_out():
    stage = toy_job(max_steps=1)
    whole = {"layers": [0, 1, 2], **{f"{unit}.{i}": n for i in range(3) for unit, n in (("heads", 4), ("ffn", 64))}}
    logged: dict[str, float] = {}
    stage.log = lambda step, values: logged.update(values)
    with pytest.raises(VerificationError, match=r"the network without its zeros differs by .* Expected 1e-05 or less"):
        without_zeros(stage, lambda: whole | {"ffn.1": 60})
    assert not logged
    layer = stage.net.bert.encoder.layer[1]
    with torch.no_grad():
        layer.output.dense.weight[:, 60:] = 0
    assert without_zeros(stage, lambda: whole | {"ffn.1": 60})["ffn.1"] == 60
    assert logged["removal_error"] <= 1e-5


def test_a_change_while_zeros_are_taken_out_is_seen():
    """It is the network before folding and reordering that what is left is compared with."""
    stage = toy_job(max_steps=1)

    def broken():
        with torch.no_grad():
            stage.net.classifier.weight.mul_(1.01)
        return {"layers": [0, 1, 2]}

    with pytest.raises(VerificationError):
        without_zeros(stage, broken)
