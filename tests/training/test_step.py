from __future__ import annotations

from typing import Any

import pytest
import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe.training.step import Ledger, Passes, Step, saved_model


class Wants(Modifier):
    needs = frozenset({"hidden_states"})


def step(modifiers: Any = (), cache: str = "step", **fields: Any) -> Step:
    teacher = tiny_net(seed=1).train()
    options = TrainOptions(precision="fp32", teacher_cache=cache)  # type: ignore[arg-type]
    job = TrainJob(
        tiny_net().train(), ToyTask(), None, options, 0, "t", modifiers=modifiers, models={"teacher": teacher}
    )
    passes = Passes(job, torch.device("cpu"), Ledger())
    batch = job.task.train_batches(0, 0, 8)[0]
    optimizer = torch.optim.SGD(job.net.parameters(), lr=0.1)
    return Step(job, passes, 0, 1, 0.1, batch, None, optimizer, **fields)


def calls(net: torch.nn.Module) -> list[int]:
    seen: list[int] = []
    net.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_teacher_speaks_once_a_batch_in_eval_mode_without_gradients() -> None:
    one = step()
    net = one.job.models["teacher"]
    seen = calls(net)
    first = one.teacher()
    assert one.teacher() is first
    assert len(seen) == 1
    assert not first.logits.requires_grad
    assert not net.training
    torch.testing.assert_close(first.logits, net(**one.batch.inputs).logits)
    one.batch = one.job.task.train_batches(0, 0, 8)[1]
    assert one.teacher() is not first


def test_teacher_may_be_run_at_an_arch() -> None:
    one = step()

    class Space:
        def view(self, net: Any, arch: Any) -> Any:
            return lambda **inputs: (net, arch, inputs["input_ids"])

    one.job.space = Space()  # type: ignore[assignment]
    net, arch, ids = one.teacher(arch={"layers": [0]})
    assert (net, arch) == (one.job.models["teacher"], {"layers": [0]})
    assert ids is one.batch.inputs["input_ids"]
    assert one.teacher(arch={"layers": [0, 1]})[1] == {"layers": [0, 1]}


def test_remembered_logits_are_found_by_example() -> None:
    one = step(cache="run")
    seen = calls(one.job.models["teacher"])
    before = {int(i): row for i, row in zip(one.batch.ids, one.teacher().logits, strict=True)}
    one.batch = one.batch.part(1, 2)
    for i, row in zip(one.batch.ids, one.teacher().logits, strict=True):
        assert torch.equal(row, before[int(i)])
    assert len(seen) == 1
    other = step(cache="run")
    other.passes.load_state_dict(one.passes.state_dict())
    assert torch.equal(other.teacher().logits, torch.stack(list(before.values())))
    one.batch = one.job.task.train_batches(0, 0, 8)[1]
    one.teacher()
    assert len(seen) == 2


def test_needs_reach_students_and_teachers() -> None:
    assert step().forward().hidden_states is None
    one = step([Wants()], cache="run")
    assert len(one.forward().hidden_states) == len(one.teacher().hidden_states) == 4


def test_forward_runs_once_more_on_what_it_is_given() -> None:
    one = step()
    one.job.net.eval()
    other = one.job.task.train_batches(0, 0, 8)[1]
    torch.testing.assert_close(one.forward(batch=other).logits, one.job.net(**other.inputs).logits)
    mask = torch.ones_like(one.batch.inputs["attention_mask"])
    mask[:, 2:] = 0
    expected = one.job.net(input_ids=one.batch.inputs["input_ids"], attention_mask=mask).logits
    torch.testing.assert_close(one.forward(attention_mask=mask).logits, expected)


def test_passes_are_counted() -> None:
    one = step()
    one.forward()
    with torch.no_grad():
        one.forward()
    one.teacher()
    rows = {entry.role: entry for entry in one.passes.ledger.entries()}
    assert (rows["student"].examples, rows["teacher"].examples) == (16, 8)
    assert rows["student"].backward_macs == rows["student"].forward_macs > 0  # one of two passes took gradients
    assert rows["teacher"].backward_macs == 0


def test_missing_teachers_are_named() -> None:
    with pytest.raises(UsageError, match=r"'teecher'.*teacher\. Did you mean 'teacher'\?"):
        saved_model(step().job, "teecher")
