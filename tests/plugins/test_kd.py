from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from nasframe.errors import UsageError
from nasframe.interfaces import TrainJob
from nasframe.nn.losses import distillation
from nasframe.records import Batch, TrainOptions
from nasframe.testing.toy import ToyTask, tiny_inputs, tiny_net
from nasframe.training.step import Ledger, Passes, Step
from nasframe_basics.kd import KD
from nasframe_basics.kd_hidden import KDHidden, layer_pairs
from nasframe_basics.loop import Loop


def step(modifier: Any, teacher: Any, task: Any = None, arch: Any = None, **net: Any) -> Step:
    options = TrainOptions(precision="fp32")
    job = TrainJob(
        tiny_net(**net), task or ToyTask(), None, options, 0, "t", modifiers=[modifier], models={"teacher": teacher}
    )
    modifier.on_start(job)
    batch = Batch(tiny_inputs(), torch.tensor([0, 1, 0]), torch.arange(3))
    passes = Passes(job, torch.device("cpu"), Ledger())
    one = Step(job, passes, 0, 1, 0.1, batch, None, torch.optim.SGD(job.net.parameters()))
    one.outputs = one.forward()
    one.arch = arch
    return one


def test_kd_mixes_the_two_losses() -> None:
    teacher = tiny_net(seed=1)
    kd = KD(temperature=3.0, weight=0.25)
    one = step(kd, teacher)
    expected = 0.75 * 2.0 + 0.25 * distillation(one.outputs.logits, teacher(**one.batch.inputs).logits, 3.0)
    torch.testing.assert_close(kd.on_loss(one, torch.tensor(2.0)), expected)


@pytest.mark.parametrize("modifier", [KD, KDHidden])
@pytest.mark.parametrize("models", [{}, {"teacher": tiny_net(seed=1)}])
def test_a_distillation_of_weight_0_asks_no_teacher(modifier: Any, models: Any) -> None:
    nets = [tiny_net() for _ in range(2)]
    options = TrainOptions(max_steps=3, precision="fp32", batch_size=8)
    results = [
        Loop().fit(TrainJob(net, ToyTask(), None, options, 0, "t", modifiers=modifiers, models=models))
        for net, modifiers in zip(nets, ([modifier(weight=0)], []), strict=True)
    ]
    assert [entry.role for entry in results[0].ledger] == ["student"]
    assert results[0].ledger[0].forward_macs == results[1].ledger[0].forward_macs
    for mine, plain in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(mine, plain)


def test_kd_of_a_regression_compares_outputs() -> None:
    class Score(ToyTask):
        labels = None

    teacher, kd = tiny_net(seed=1, labels=1), KD(weight=1.0)
    one = step(kd, teacher, Score(), labels=1)
    expected = functional.mse_loss(one.outputs.logits, teacher(**one.batch.inputs).logits)
    torch.testing.assert_close(kd.on_loss(one, torch.tensor(2.0)), expected)


def test_kd_brings_the_student_to_the_teacher() -> None:
    teacher, net, task = tiny_net(seed=1), tiny_net(), ToyTask()
    batch = task.train_batches(0, 0, 64)[0]

    def gap() -> float:
        with torch.no_grad():
            return float(distillation(net(**batch.inputs).logits, teacher(**batch.inputs).logits))

    before = gap()
    options = TrainOptions(max_steps=40, learning_rate=1e-3, precision="fp32", batch_size=16)
    Loop().fit(TrainJob(net, task, None, options, 0, "t", modifiers=[KD(weight=1.0)], models={"teacher": teacher}))
    assert gap() < 0.2 * before


@pytest.mark.parametrize(
    ("layers", "depth", "arch", "pairs"),
    [
        ("uniform", 3, None, [(0, 0), (1, 2), (2, 4), (3, 6)]),
        ("skip", 4, None, [(0, 0), (1, 1), (2, 3), (3, 4), (4, 6)]),
        ("skip", 3, None, [(0, 0), (1, 2), (2, 4), (3, 6)]),
        ("last", 3, None, [(0, 0), (3, 6)]),
        ("kept", 3, {"layers": [0, 2, 5]}, [(0, 0), (1, 1), (2, 3), (3, 6)]),
        ([1, 3, 5], 3, None, [(0, 0), (1, 2), (2, 4), (3, 6)]),
    ],
)
def test_kd_hidden_compares_the_mapped_layers_on_real_tokens(layers: Any, depth: int, arch: Any, pairs: Any) -> None:
    teacher, modifier = tiny_net(seed=1, layers=6), KDHidden(layers=layers, weight=2.0)
    one = step(modifier, teacher, arch=arch, layers=depth)
    mine = one.outputs.hidden_states
    its = teacher(**one.batch.inputs, output_hidden_states=True).hidden_states
    real = one.batch.inputs["attention_mask"].bool()
    terms = [functional.mse_loss(mine[i][real], its[j][real]) for i, j in pairs]
    expected = 1.0 + 2.0 * torch.stack(terms).mean()
    torch.testing.assert_close(modifier.on_loss(one, torch.tensor(1.0)), expected)


def test_the_skipping_map_is_the_published_one() -> None:
    """12 to 8: the embedding's output and those of layers 1, 3, 4, 6, 7, 9, 10, 12; equal depths one to one."""
    assert [0, *(its for _, its in layer_pairs("skip", 8, 12, None))] == [0, 1, 3, 4, 6, 7, 9, 10, 12]
    assert layer_pairs("skip", 6, 12, None) == [(i, 2 * i) for i in range(1, 7)]
    assert layer_pairs("skip", 8, 8, None) == [(i, i) for i in range(1, 9)]
    for student in (9, 10, 11):
        assert [mine for mine, _ in layer_pairs("skip", student, 12, None)] == list(range(1, student + 1))
    with pytest.raises(UsageError, match="no map from 12 to 7 layers"):
        layer_pairs("skip", 7, 12, None)


def test_a_map_that_does_not_fit_is_refused_before_training() -> None:
    job = TrainJob(
        tiny_net(layers=5), ToyTask(), None, TrainOptions(max_steps=1), 0, "t", models={"teacher": tiny_net(layers=12)}
    )
    with pytest.raises(UsageError, match="no map from 12 to 5 layers"):
        KDHidden(layers="skip").on_start(job)
    job.arch = {"layers": [0, 1, 2, 3]}
    KDHidden(layers="skip").on_start(job)


def test_kd_hidden_may_leave_the_embeddings_out() -> None:
    assert len(layer_pairs("uniform", 6, 6, None)) == 6
    teacher = tiny_net(seed=1)
    losses = []
    for embeddings in (True, False):
        modifier = KDHidden(embeddings=embeddings)
        losses.append(modifier.on_loss(step(modifier, teacher), torch.tensor(0.0)).item())
    assert losses[0] != losses[1]


def test_kd_hidden_refuses_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="Expected 3 numbers from 0 to 5"):
        layer_pairs([0, 1], 3, 6, None)
    with pytest.raises(UsageError, match="Expected 2 numbers from 0 to 5"):
        layer_pairs([0, 6], 2, 6, None)
    narrow = tiny_net(hidden_size=16, intermediate_size=32, num_attention_heads=2)
    modifier = KDHidden()
    with pytest.raises(UsageError, match="hidden sizes differ"):
        modifier.on_loss(step(modifier, narrow), torch.tensor(0.0))
