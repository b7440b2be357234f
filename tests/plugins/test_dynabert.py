"""DynaBERT: the layers of a depth, what learns from what, one step over all sub-networks, a function that stays."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from nasframe.errors import UsageError
from nasframe.interfaces import TrainJob, Work
from nasframe.nn.slices import extract
from nasframe.records import Batch, TrainOptions
from nasframe.seeds import stream_seed
from nasframe.testing.toy import ToyTask, tiny_inputs, tiny_net
from nasframe.training.step import Ledger, Passes, Step
from nasframe_basics.loop import Loop
from nasframe_basics.rewire import Rewire
from nasframe_basics.samplers import GridSampler
from nasframe_basics.width_depth import WidthDepth
from nasframe_dynabert.distil import DynaBERT, full_depth, matched_states

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SMALL = {"layers": [0, 1], "heads.0": 2, "ffn.0": 16, "heads.1": 2, "ffn.1": 16}


def space() -> WidthDepth:
    """The toy's twelve sub-networks are here six: depths 2 and 3, widths of a quarter, a half and all."""
    return WidthDepth(layers=[2, 3], heads=[1, 2, 4], ffn=[16, 32, 64], depth="spread", config=tiny_net().config)


def sampler(of: WidthDepth) -> GridSampler:
    return GridSampler(of.domain, tie=[["heads", "ffn"]], cycle=True)


def job(modifier: DynaBERT | None, **fields: Any) -> TrainJob:
    options = {"precision": "fp32", "max_steps": 1, "optimizer": "sgd", "learning_rate": 0.1, "warmup_ratio": 0.0}
    names = TrainOptions.__dataclass_fields__
    options |= {"archs_per_step": 6} | {key: fields.pop(key) for key in list(fields) if key in names}
    of = space()
    fields = {"space": of, "sampler": sampler(of), "models": {"teacher": tiny_net(seed=1, **NO_DROPOUT)}} | fields
    net = fields.pop("net", None) or tiny_net(**NO_DROPOUT)
    modifiers = [modifier] if modifier else []
    task = fields.pop("task", None) or ToyTask()
    return TrainJob(net, task, None, TrainOptions(**options), 0, "t", modifiers=modifiers, **fields)


def step(modifier: DynaBERT, arch: Any, task: Any = None, **fields: Any) -> Step:
    stage = job(modifier, task=task, **fields)
    modifier.on_start(stage)
    batch = Batch(tiny_inputs(), torch.tensor([0, 1, 0]), torch.arange(3))
    passes = Passes(stage, torch.device("cpu"), Ledger())
    one = Step(stage, passes, 0, 1, 0.1, batch, arch, torch.optim.SGD(stage.net.parameters()))
    one.outputs = one.forward()
    return one


def mean_squares(student: Any, teacher: Any, pairs: list[tuple[int, int]], mask: torch.Tensor) -> list[torch.Tensor]:
    real = mask.bool()
    return [functional.mse_loss(student.hidden_states[i][real], teacher.hidden_states[j][real]) for i, j in pairs]


@pytest.mark.parametrize(
    ("depth", "kept"),
    [(6, [0, 2, 4, 6, 8, 10]), (9, [0, 1, 2, 4, 5, 6, 8, 9, 10]), (12, list(range(12)))],
)
def test_the_layers_of_a_depth_and_what_they_learn_from(depth: int, kept: list[int]) -> None:
    """Of 12 layers m_d keeps floor(i / m_d): 0.75 drops 3, 7 and 11; the last state learns from the last."""
    twelve = WidthDepth(layers=["50%", "75%", "100%"], depth="spread", config=tiny_net(layers=12).config)
    assert twelve.sizes({"layers": depth})["layers"] == kept
    assert matched_states(kept, 12) == [*zip(range(depth), kept, strict=True), (depth, 12)]


@pytest.mark.parametrize("width", ["same", "full"])
@pytest.mark.parametrize("arch", [SMALL, {"layers": [0, 2], "heads.0": 1, "ffn.0": 32, "heads.2": 1, "ffn.2": 32}])
def test_the_loss_is_that_of_the_paper(arch: Any, width: Any) -> None:
    modifier = DynaBERT(lambda1=0.7, lambda2=0.3, width=width)
    one = step(modifier, arch)
    alone = extract(one.job.net, arch)(**one.batch.inputs, output_hidden_states=True)
    teacher = one.job.models["teacher"]
    if width == "same":  # the teacher's sub-network of this width, all its layers kept
        heads, ffn = arch["heads.0"], arch["ffn.0"]
        teacher = extract(teacher, {f"{unit}.{i}": n for unit, n in (("heads", heads), ("ffn", ffn)) for i in range(3)})
    target = teacher(**one.batch.inputs, output_hidden_states=True)
    pairs = [(0, 0), (1, arch["layers"][1]), (2, 3)]
    predicted = -(target.logits.softmax(-1) * alone.logits.log_softmax(-1)).sum(-1).mean()
    terms = mean_squares(alone, target, pairs, one.batch.inputs["attention_mask"])
    torch.testing.assert_close(modifier.on_loss(one, torch.tensor(99.0)), 0.7 * predicted + 0.3 * sum(terms))
    modifier.embeddings = False
    torch.testing.assert_close(modifier.on_loss(one, torch.tensor(99.0)), 0.7 * predicted + 0.3 * sum(terms[1:]))


def test_a_regression_learns_from_hidden_states_alone() -> None:
    class Score(ToyTask):
        labels = None

    modifier = DynaBERT(lambda1=5.0, lambda2=1.0)
    teacher = tiny_net(seed=1, labels=1)
    one = step(modifier, None, Score(), net=tiny_net(labels=1), models={"teacher": teacher})
    target = teacher(**one.batch.inputs, output_hidden_states=True)
    pairs = [(i, i) for i in range(4)]
    terms = mean_squares(one.outputs, target, pairs, one.batch.inputs["attention_mask"])
    torch.testing.assert_close(modifier.on_loss(one, torch.tensor(99.0)), sum(terms))


def test_the_teacher_has_to_fit() -> None:
    with pytest.raises(UsageError, match="no network was saved as 'nobody'"):
        DynaBERT(teacher="nobody").on_start(job(None))
    with pytest.raises(UsageError, match="lambda1 and lambda2 are both 0"):
        DynaBERT(lambda1=0.0, lambda2=0.0)
    stage = job(None)
    stage.task = SimpleNamespace(labels=None)  # type: ignore[assignment]
    with pytest.raises(UsageError, match="learns nothing"):
        DynaBERT(lambda2=0.0).on_start(stage)
    for teacher in (tiny_net(layers=1), tiny_net(hidden_size=16, intermediate_size=32, num_attention_heads=2)):
        modifier = DynaBERT()
        with pytest.raises(UsageError, match="does not have the student's layers"):
            modifier.on_loss(step(modifier, SMALL, models={"teacher": teacher}), torch.tensor(0.0))


def test_a_width_at_full_depth() -> None:
    assert full_depth(SMALL, 3) == {
        "layers": [0, 1, 2], "heads.0": 2, "ffn.0": 16, "heads.1": 2, "ffn.1": 16, "heads.2": 2, "ffn.2": 16,
    }  # fmt: skip


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_one_step_is_over_all_sub_networks_and_clips_their_sum(clip: float) -> None:
    """The step's gradient is the mean of the sub-networks' own; clipping it at c / n is clipping their sum at c."""
    modifier = DynaBERT(lambda2=1.0, width="same")
    stage = job(modifier, max_grad_norm=clip / 6, weight_decay=0.0)
    before, alone = copy.deepcopy(stage.net), copy.deepcopy(stage.net).train()
    batch = stage.task.train_batches(stream_seed(0, "data", "t"), 0, 32)[0]
    archs = sampler(space()).ask(6)
    assert len({tuple(arch["layers"]) for arch in archs}) == 2
    separate = job(modifier, net=alone)
    passes = Passes(separate, torch.device("cpu"), Ledger())
    for arch in archs:
        one = Step(separate, passes, 0, 1, 0.1, batch, arch, torch.optim.SGD(alone.parameters()))
        one.outputs = one.forward()
        modifier.on_loss(one, torch.tensor(0.0)).backward()
    summed = {name: p.grad for name, p in alone.named_parameters() if p.grad is not None}
    if clip:
        norm = torch.nn.utils.clip_grad_norm_(alone.parameters(), clip)
        assert norm > 2 * clip
    Loop().fit(stage)
    old = dict(before.named_parameters())
    for name, parameter in stage.net.named_parameters():
        moved = (old[name] - parameter) / 0.1
        torch.testing.assert_close(6 * moved, summed.get(name, torch.zeros(())).expand_as(moved), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("width", "forwards"), [("same", 3), ("full", 1)])
def test_the_teacher_runs_once_a_width(width: Any, forwards: int) -> None:
    ledger = Loop().fit(job(DynaBERT(width=width), max_steps=2)).ledger
    steps = {entry.role: entry.steps for entry in ledger}
    assert steps == {"student": 2, "teacher": 2 * forwards}


def test_rewiring_leaves_the_function_and_moves_what_matters_to_the_front() -> None:
    before = tiny_net()
    after = Rewire("taylor", neurons="both", batches=2, seed=1)(Work(before, None, ToyTask())).net
    with torch.no_grad():
        torch.testing.assert_close(after(**tiny_inputs()).logits, before(**tiny_inputs()).logits, rtol=0, atol=1e-6)
    old, new = (net.bert.encoder.layer[0].output.dense.weight for net in (before, after))
    assert not torch.equal(old, new)


@pytest.mark.slow
def test_the_losses_of_all_widths_fall() -> None:
    logged: list[float] = []
    stage = job(DynaBERT(lambda2=1.0), max_steps=25, optimizer="adamw", learning_rate=2e-3, batch_size=16)
    stage.log = lambda index, values: logged.append(values["loss"])
    Loop().fit(stage)
    assert sum(logged[-5:]) < 0.8 * sum(logged[:5])
