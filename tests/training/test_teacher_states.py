from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nasframe.errors import RunError, UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import Batch, TrainOptions
from nasframe.states import Checkpoint
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe.testing.trainers import Crash, Fuse
from nasframe.training import teacher_states
from nasframe.training.teacher_states import TeacherBatch, TeacherStates
from nasframe_basics.kd import KD
from nasframe_basics.kd_hidden import KDHidden
from nasframe_basics.loop import Loop


class Padded(ToyTask):
    """The toy with examples of three to eight tokens; a batch is as long as its longest one."""

    def batch(self, split: str, index: Any) -> Batch:
        full = super().batch(split, index)
        lengths = 3 + full.ids % 6
        longest = int(lengths.max())
        mask = (torch.arange(longest) < lengths[:, None]).long()
        inputs = {"input_ids": full.inputs["input_ids"][:, :longest] * mask, "attention_mask": mask}
        return Batch(inputs, full.labels, full.ids)


class Watched(Modifier):
    """Keeps what the teacher said about each example, in every epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[Batch, Any]] = []

    def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
        self.seen.append((step.batch, step.teacher()))
        return loss


def job(*modifiers: Modifier, **options: Any) -> TrainJob:
    fields = {"checkpoint": options.pop("checkpoint", None), "models": {"teacher": tiny_net(seed=3)}}
    settings = {"max_steps": 12, "batch_size": 8, "precision": "fp32", "learning_rate": 5e-3, **options}
    task = Padded(train=44)  # six batches an epoch, the last one short
    return TrainJob(tiny_net(), task, None, TrainOptions(**settings), 0, "t", modifiers=list(modifiers), **fields)


def trained(*modifiers: Modifier, **options: Any) -> tuple[TrainJob, Any]:
    stage = job(*modifiers, **options)
    return stage, Loop().fit(stage)


def gap(first: Any, second: Any) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize(("kept", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3), ("bf16", 2e-2)])
def test_kept_states_are_the_teachers_on_real_tokens(kept: Any, tolerance: float) -> None:
    watch = Watched()
    stage, _ = trained(KDHidden(), watch, teacher_cache="run", teacher_states=kept)
    net = stage.models["teacher"]
    assert len(watch.seen) == 12  # two epochs
    for batch, outputs in watch.seen:
        with torch.no_grad():
            expected = net(**batch.inputs, output_hidden_states=True)
        real = batch.inputs["attention_mask"].bool()
        torch.testing.assert_close(outputs.logits, expected.logits, rtol=0, atol=1e-5)
        for state, original in zip(outputs.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(state[real], original[real], rtol=tolerance, atol=tolerance)
            assert not state[~real].any()
            assert state.dtype == torch.float32


def test_kept_in_fp32_the_training_is_the_one_without_a_cache() -> None:
    """Exactly in the first epoch; later ones pad differently, which moves last bits of the teacher only."""
    for steps, most in ((6, 0.0), (12, 1e-4)):
        options = {"max_steps": steps, "optimizer": "sgd", "learning_rate": 1e-2}
        _, plain = trained(KD(), KDHidden(), **options)
        _, cached = trained(KD(), KDHidden(), teacher_cache="run", teacher_states="fp32", **options)
        assert gap(plain.net, cached.net) <= most
    _, rounded = trained(KD(), KDHidden(), teacher_cache="run", teacher_states="bf16", **options)
    assert 0 < gap(plain.net, rounded.net) < 1e-2


def test_every_example_goes_through_the_teacher_once() -> None:
    for options, examples in (({}, 88), ({"teacher_states": "fp16"}, 44)):
        _, result = trained(KD(), KDHidden(), teacher_cache="run", **options)
        rows = {row.role: row for row in result.ledger}
        assert rows["teacher"].examples == examples
        assert rows["student"].examples == 88


def test_the_option_changes_no_training_that_needs_no_hidden_states() -> None:
    stages = [trained(KD(), teacher_cache="run", **options)[1] for options in ({}, {"teacher_states": "bf16"})]
    assert gap(stages[0].net, stages[1].net) == 0


@pytest.mark.parametrize("limit", [2**30, 2000])
@pytest.mark.parametrize("at", [3, 8])
def test_a_resume_gets_the_same_states(at: int, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_states, "MEMORY_LIMIT", limit)
    options = {"teacher_cache": "run", "teacher_states": "bf16", "checkpoint_every": 0.0, "accumulate": 2}
    _, whole = trained(KD(), KDHidden(), Fuse(), **options)
    checkpoint: Any = Checkpoint(tmp_path / "state.safetensors")
    with pytest.raises(Crash):
        trained(KD(), KDHidden(), Fuse(at), checkpoint=checkpoint, **options)
    assert checkpoint.path.stat().st_size < 500_000  # no hidden states
    _, resumed = trained(KD(), KDHidden(), Fuse(), checkpoint=checkpoint, **options)
    assert gap(whole.net, resumed.net) == 0
    for mine, its in zip(whole.ledger, resumed.ledger, strict=True):
        assert (mine.role, mine.examples, mine.forward_macs) == (its.role, its.examples, its.forward_macs)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]  # no file of states is left


def random_batch(ids: list[int], length: int, rng: np.random.Generator) -> Batch:
    mask = torch.zeros(len(ids), length, dtype=torch.long)
    for row, number in enumerate(ids):
        mask[row, : 1 + number % length] = 1
    return Batch({"input_ids": mask.clone(), "attention_mask": mask}, torch.zeros(len(ids)), torch.tensor(ids))


@pytest.mark.parametrize("limit", [2**30, 0, 300])
@pytest.mark.parametrize("kept", ["fp32", "bf16", "fp16"])
def test_states_come_back_in_any_batch(kept: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_states, "MEMORY_LIMIT", limit)
    rng = np.random.default_rng(0)
    store = TeacherStates(kept, tmp_path)
    originals: dict[int, list[torch.Tensor]] = {}
    for ids in ([0, 1, 2, 3], [4, 5, 6]):
        batch = random_batch(ids, 4, rng)
        states = [torch.as_tensor(rng.normal(size=(len(ids), 4, 5))).float() for _ in range(3)]
        store.keep(TeacherBatch("x", "x", None, batch), states)
        for row, number in enumerate(ids):
            originals[number] = [state[row, : 1 + number % 4] for state in states]
    tokens = sum(1 + number % 4 for number in range(7))
    assert store.bytes == tokens * 3 * 5 * (4 if kept == "fp32" else 2)
    order = [6, 0, 3, 5]
    wider = random_batch(order, 4, rng)
    wider.inputs["attention_mask"] = torch.nn.functional.pad(wider.inputs["attention_mask"], (0, 2))
    for position, state in enumerate(store.of("x", wider)):
        assert state.shape == (4, 6, 5)
        for row, number in enumerate(order):
            expected = originals[number][position].to(store.dtype).float()
            assert torch.equal(state[row, : len(expected)], expected)
            assert not state[row, len(expected) :].any()


def test_states_too_large_for_the_format_are_refused() -> None:
    batch = random_batch([0], 2, np.random.default_rng(0))
    with pytest.raises(RunError, match="too large for fp16"):
        TeacherStates("fp16").keep(TeacherBatch("x", "x", None, batch), [torch.full((1, 2, 3), 1e6)])
    TeacherStates("bf16").keep(TeacherBatch("x", "x", None, batch), [torch.full((1, 2, 3), 1e6)])


def test_other_outputs_are_not_kept() -> None:
    attends = Modifier()
    attends.needs = frozenset({"attentions", "hidden_states"})
    with pytest.raises(UsageError, match="also needs attentions"):
        trained(attends, teacher_cache="run", teacher_states="fp16")
    trained(copy.copy(attends), teacher_cache="run", max_steps=1)
