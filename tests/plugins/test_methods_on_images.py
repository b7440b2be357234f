"""The sparse optimiser and DynaBERT's modifier on a vision transformer: images have no tokens and no mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from nasframe.interfaces import TrainJob
from nasframe.nn.channels import removable_groups
from nasframe.nn.groups import Grouped
from nasframe.nn.slices import extract
from nasframe.records import Batch, TrainOptions
from nasframe.testing.toy import ToyTask, tiny_images, tiny_net
from nasframe.training.step import Ledger, Passes, Step
from nasframe_basics.loop import Loop
from nasframe_basics.width_depth import WidthDepth
from nasframe_dynabert.distil import DynaBERT
from nasframe_hspg.hspg import HSPG

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Stripes(ToyTask):
    """The task to tell whether the upper half of an image is brighter than the lower one."""

    def __init__(self, train: int = 64) -> None:
        super().__init__(train=train)
        rng = np.random.default_rng(0)
        self.data = {name: rng.standard_normal((size, 1, 8, 8)) for name, size in self.sizes.items()}

    def batch(self, split: str, index: Any) -> Batch:
        images = torch.as_tensor(self.data[split][index], dtype=torch.float32)
        labels = (images[:, :, :4].sum((1, 2, 3)) > images[:, :, 4:].sum((1, 2, 3))).long()
        return Batch({"pixel_values": images}, labels, torch.as_tensor(index))


def job(modifier: Any, net: Any = None, **fields: Any) -> TrainJob:
    names = TrainOptions.__dataclass_fields__
    options: dict[str, Any] = {"max_steps": 20, "learning_rate": 2e-3, "batch_size": 16, "precision": "fp32"}
    options |= {key: fields.pop(key) for key in list(fields) if key in names}
    network = net or tiny_net("vit", **NO_DROPOUT)
    task: Any = Stripes()
    return TrainJob(network, task, None, TrainOptions(**options), 0, "t", modifiers=[modifier], **fields)


def test_hspg_removes_half_and_what_is_left_computes_the_same() -> None:
    logged: dict[str, float] = {}
    stage = job(HSPG(target="50%", prox="10%"), weight_decay=0.1)
    stage.log = lambda step, values: logged.update(values)
    result = Loop().fit(stage)
    arch = dict(result.arch or {})
    kept = {unit: sum(arch[f"{unit}.{i}"] for i in range(3)) for unit in ("heads", "ffn")}
    assert kept == {"heads": 6, "ffn": 96}
    small = extract(result.net, arch)
    images = tiny_images()
    with torch.no_grad():
        difference = (small(**images).logits - result.net(**images).logits).abs().max()
    assert difference <= 1e-5
    zeros = Grouped(result.net, removable_groups(result.net)).zero()
    assert int(zeros.sum()) == 6 + 96
    assert sum(p.numel() for p in small.vit.parameters()) < sum(p.numel() for p in result.net.vit.parameters())


@pytest.mark.parametrize("width", ["same", "full"])
def test_dynabert_matches_the_states_of_all_patches(width: Any) -> None:
    arch = {"layers": [0, 2], "heads.0": 2, "ffn.0": 16, "heads.2": 2, "ffn.2": 16}
    modifier = DynaBERT(lambda1=0.7, lambda2=0.3, width=width)
    space = WidthDepth(layers=[2, 3], heads=[2, 4], ffn=[16, 64], depth="spread", config=tiny_net("vit").config)
    teacher = tiny_net("vit", seed=1, **NO_DROPOUT)
    stage = job(modifier, space=space, models={"teacher": teacher}, max_steps=1)
    modifier.on_start(stage)
    batch = Batch(tiny_images(), torch.tensor([0, 1, 0]), torch.arange(3))
    passes = Passes(stage, torch.device("cpu"), Ledger())
    one = Step(stage, passes, 0, 1, 0.1, batch, arch, torch.optim.SGD(stage.net.parameters()))
    one.outputs = one.forward()

    alone = extract(stage.net, arch)(**batch.inputs, output_hidden_states=True)
    if width == "same":
        teacher = extract(teacher, {f"{unit}.{i}": n for unit, n in (("heads", 2), ("ffn", 16)) for i in range(3)})
    target = teacher(**batch.inputs, output_hidden_states=True)
    predicted = -(target.logits.softmax(-1) * alone.logits.log_softmax(-1)).sum(-1).mean()
    terms = []
    for student_state, teacher_state in [(0, 0), (1, 2), (2, 3)]:  # layer 2 of the teacher reads state 2
        ours, theirs = alone.hidden_states[student_state], target.hidden_states[teacher_state]
        assert ours.shape == (3, 17, 32), "16 patches and the class token"
        terms.append(functional.mse_loss(ours, theirs))
    torch.testing.assert_close(modifier.on_loss(one, torch.tensor(99.0)), 0.7 * predicted + 0.3 * sum(terms))


def test_dynabert_trains_all_widths_of_images() -> None:
    from nasframe_basics.samplers import GridSampler

    space = WidthDepth(layers=[3], heads=[2, 4], ffn=[32, 64], config=tiny_net("vit").config)
    sampler = GridSampler(space.domain, tie=[["heads", "ffn"]], cycle=True)
    net, teacher = tiny_net("vit", **NO_DROPOUT), tiny_net("vit", seed=1, **NO_DROPOUT)
    images = tiny_images(batch=16)

    def losses(network: Any) -> list[float]:
        with torch.no_grad():
            target = teacher(**images).logits.softmax(-1)
            small = {f"{unit}.{i}": n for unit, n in (("heads", 2), ("ffn", 32)) for i in range(3)}
            found = [extract(network, sizes)(**images).logits.log_softmax(-1) for sizes in ({}, small)]
        return [float(-(target * logits).sum(-1).mean()) for logits in found]

    before = losses(net)
    stage = job(DynaBERT(lambda2=0.0), net, space=space, sampler=sampler, models={"teacher": teacher}, archs_per_step=2)
    after = losses(Loop().fit(stage).net)
    assert all(now < earlier for now, earlier in zip(after, before, strict=True))
