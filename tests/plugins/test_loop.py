from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nasframe.errors import DivergedError, RunError, UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe.nn.count import forward_macs
from nasframe.notices import Notices
from nasframe.records import TrainOptions
from nasframe.seeds import stream_seed
from nasframe.store import Checkpoint
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe_basics.fake_quant import FakeQuant
from nasframe_basics.kd import KD
from nasframe_basics.kd_hidden import KDHidden
from nasframe_basics.loop import Loop
from nasframe_basics.samplers import RandomSampler
from nasframe_basics.width_depth import WidthDepth


class Cut:
    """A space of one knob: how many layers of the toy run. Its views skip the other layers."""

    def __init__(self) -> None:
        self.domain = self

    def smallest(self) -> dict[str, Any]:
        return {"layers": [0]}

    def largest(self) -> dict[str, Any]:
        return {"layers": [0, 1, 2]}

    def view(self, net: Any, arch: Any) -> Callable[..., Any]:
        def forward(**inputs: Any) -> Any:
            layers = net.bert.encoder.layer
            net.bert.encoder.layer = torch.nn.ModuleList(layers[i] for i in arch["layers"])
            try:
                return net(**inputs)
            finally:
                net.bert.encoder.layer = layers

        return forward


class Draw:
    """A sampler that draws a depth and remembers what it was told."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.told: list[list[Any]] = []

    def ask(self, n: int = 1, within: Any = None) -> list[Any]:
        return [{"layers": list(range(int(self.rng.integers(1, 4))))} for _ in range(n)]

    def tell(self, trials: Any) -> None:
        self.told += [[len(trial.arch["layers"]), trial.score, trial.origin] for trial in trials]

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "told": copy.deepcopy(self.told)}

    def load_state_dict(self, state: Any) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.told = copy.deepcopy(state["told"])


class Memory:
    """A checkpoint store that keeps copies."""

    def __init__(self) -> None:
        self.state: Any = None

    def load(self) -> Any:
        return copy.deepcopy(self.state)

    def save(self, state: Any) -> None:
        self.state = copy.deepcopy(state)


def job(net: Any = None, task: Any = None, **fields: Any) -> TrainJob:
    names = TrainOptions.__dataclass_fields__
    options = {"precision": "fp32", "max_steps": 6, "batch_size": 8, "learning_rate": 1e-3}
    options |= {name: fields.pop(name) for name in list(fields) if name in names}
    net = tiny_net() if net is None else net
    return TrainJob(net, task or ToyTask(), None, TrainOptions(**options), seed=0, stage="t", **fields)


def weights(net: Any) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in net.state_dict().values()]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.mark.slow
def test_learns_the_toy_task() -> None:
    task = ToyTask(train=256)
    net = tiny_net()
    Loop().fit(job(net, task, max_steps=None, epochs=12, batch_size=16, learning_rate=2e-3))
    assert task.evaluate(net, "dev").metrics["accuracy"] > 0.85
    assert not net.training


def test_one_step_is_what_it_says() -> None:
    """One step equals plain torch: mean loss over archs and the batch, clipping, AdamW with its two groups."""
    net = tiny_net(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    plain, task, space = copy.deepcopy(net).train(), ToyTask(), Cut()
    stage = job(net, task, space=space, sampler=Draw(), archs_per_step=2, max_steps=1, warmup_ratio=0.0)
    Loop().fit(stage)
    batch = task.train_batches(stream_seed(0, "data", "t"), 0, 8)[0]
    archs = Draw().ask(2)
    for arch in archs:
        (task.loss(space.view(plain, arch)(**batch.inputs), batch) / 2).backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    matrices = [p for p in plain.parameters() if p.ndim > 1]
    vectors = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.01).step()
    for mine, its in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=2e-6)


def test_micro_batches_give_the_same_weights() -> None:
    nets = [tiny_net(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0) for _ in range(2)]
    task = ToyTask(train=30)
    ledgers = [
        Loop().fit(job(net, task, batch_size=7, accumulate=micro, max_steps=7)).ledger
        for net, micro in zip(nets, (1, 3), strict=True)
    ]
    for mine, its in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=2e-5)
    assert [ledgers[0][0].examples, ledgers[0][0].tokens] == [ledgers[1][0].examples, ledgers[1][0].tokens]
    assert ledgers[0][0].forward_macs == pytest.approx(ledgers[1][0].forward_macs)


def test_ledger_counts_students_teachers_and_evaluations() -> None:
    task = ToyTask()
    stage = job(
        task=task, models={"teacher": tiny_net(seed=1)}, modifiers=[KD(weight=0.5)], space=Cut(), sampler=Draw(),
        archs_per_step=2, max_steps=4, eval_every=2,
    )  # fmt: skip
    rows = {entry.role: entry for entry in Loop().fit(stage).ledger}
    depths = [depth for depth, *_ in stage.sampler.told]
    student, teacher, evaluation = rows["student"], rows["teacher"], rows["evaluation"]
    assert (student.steps, student.examples, student.tokens) == (4, 2 * 4 * 8, 2 * 4 * 8 * 8)
    expected = sum(forward_macs(stage.net, {"layers": list(range(depth))}, 8, 8) for depth in depths)
    assert student.forward_macs == pytest.approx(expected)
    assert student.backward_macs == 2 * student.forward_macs
    assert (teacher.steps, teacher.examples, teacher.backward_macs) == (4, 32, 0)  # once a batch, not once an arch
    assert (evaluation.evaluations, evaluation.examples) == (4, 4 * task.sizes["select"])
    assert min(student.seconds, teacher.seconds, evaluation.seconds) > 0


def test_tells_the_sampler_negative_losses() -> None:
    stage = job(space=Cut(), sampler=Draw(), archs_per_step=3, max_steps=2)
    lines: list[Any] = []
    stage.log = lambda step, values: lines.append((step, dict(values)))
    Loop().fit(stage)
    assert len(stage.sampler.told) == 6
    assert all(origin == "train" and score < 0 for _, score, origin in stage.sampler.told)
    means = [-sum(score for _, score, _ in stage.sampler.told[i : i + 3]) / 3 for i in (0, 3)]
    assert [values["loss"] for _, values in lines] == pytest.approx(means)


class Crash(Exception):
    pass


class Fuse(Modifier):
    """Raises in a chosen step; also keeps a state of its own and draws random numbers at every moment."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.sum = at, 0.0

    def on_batch(self, step: Any) -> None:
        self.sum += float(torch.rand(()))

    def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss * (1 + 0.1 * torch.rand(()))

    def on_update(self, step: Any) -> None:
        self.sum += float(torch.rand(()))
        if step.index == self.at:
            raise Crash

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum}

    def load_state_dict(self, state: Any) -> None:
        self.sum = state["sum"]


@pytest.mark.parametrize("cache", ["step", "run"])
@pytest.mark.parametrize("at", [0, 1, 5, 8, 13])
def test_resume_is_exact(at: int, cache: str) -> None:
    def stage(fuse: Fuse, memory: Memory) -> TrainJob:
        made = job(
            task=ToyTask(train=44), space=Cut(), sampler=Draw(), archs_per_step=2, max_steps=14, batch_size=8,
            models={"teacher": tiny_net(seed=3)}, modifiers=[KD(temperature=2.0), fuse], keep="best", eval_every=3,
            checkpoint=memory, checkpoint_every=0.0, teacher_cache=cache, learning_rate=5e-3,
        )  # fmt: skip
        return made

    whole, broken = stage(Fuse(), Memory()), stage(Fuse(at), memory := Memory())
    expected = Loop().fit(whole)
    torch.manual_seed(at)  # a resumed process has another generator
    with pytest.raises(Crash):
        Loop().fit(broken)
    assert at == 0 or 0 < memory.state["at"]["step"] <= at  # the crash comes after some checkpoint
    resumed = stage(Fuse(), memory)
    result = Loop().fit(resumed)
    assert same(expected.net, result.net)
    assert resumed.sampler.told == whole.sampler.told
    assert resumed.modifiers[1].sum == whole.modifiers[1].sum
    for mine, its in zip(result.ledger, expected.ledger, strict=True):
        assert (mine.role, mine.steps, mine.examples, mine.forward_macs) == (
            its.role, its.steps, its.examples, its.forward_macs,
        )  # fmt: skip
    again = Loop().fit(stage(Fuse(0), memory))  # the last checkpoint is the end: nothing is run again
    assert same(expected.net, again.net)


@pytest.mark.slow
def test_a_supernet_resumes_exactly_too(tmp_path: Path) -> None:
    """The real space, sampler and file, with rounded weights and hidden states."""

    def stage(memory: Any, fuse: Fuse) -> TrainJob:
        space = WidthDepth(layers=[2, 3], heads=[1, 4], ffn=[16, 64], config=tiny_net().config)
        return job(
            space=space, sampler=RandomSampler(space.domain, seed=1), archs_per_step=2, max_steps=8, keep="best",
            eval_every=4, models={"teacher": tiny_net(seed=3)}, checkpoint=memory, checkpoint_every=0.0,
            modifiers=[FakeQuant(bits=8, activations=8, ranges="running"), KDHidden(), fuse],
        )  # fmt: skip

    expected, memory = Loop().fit(stage(None, Fuse())), Checkpoint(tmp_path / "state.safetensors")
    with pytest.raises(Crash):
        Loop().fit(stage(memory, Fuse(5)))
    result = Loop().fit(stage(memory, Fuse()))
    assert same(expected.net, result.net)
    counts = [[(row.role, row.steps, row.forward_macs) for row in each.ledger] for each in (expected, result)]
    assert counts[0] == counts[1]


def test_keeps_the_best_weights_and_stops_early() -> None:
    scores = iter([0.1, 0.9, 0.5, 0.5, 0.5, 0.5])
    kept: list[Any] = []

    class Scripted(ToyTask):
        def evaluate(self, forward: Any, split: str, examples: int | None = None) -> Any:
            result = super().evaluate(forward, split, examples)
            kept.append(weights(stage.net))
            assert not stage.net.training
            return type(result)({"accuracy": next(scores)}, {}, result.examples, result.tokens)

    stage = job(task=Scripted(), max_steps=40, eval_every=2, keep="best", early_stop=2)
    result = Loop().fit(stage)
    assert len(kept) == 4
    assert result.ledger[0].steps == 8
    assert all(torch.equal(a, b) for a, b in zip(weights(result.net), kept[1], strict=True))


def test_epochs_may_be_fractions() -> None:
    assert Loop().fit(job(max_steps=None, epochs=1.5, batch_size=8)).ledger[0].steps == 12


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Loop().fit(job())
    assert torch.equal(torch.get_rng_state(), before)


def test_same_noise_whatever_ran_before() -> None:
    first, second = tiny_net(), tiny_net()
    Loop().fit(job(first))
    torch.manual_seed(99)
    Loop().fit(job(second))
    assert same(first, second)


def test_trains_one_given_sub_network() -> None:
    net = tiny_net()
    old, new = copy.deepcopy(net).bert.encoder.layer, net.bert.encoder.layer
    Loop().fit(job(net, space=Cut(), arch={"layers": [0]}))
    assert torch.equal(new[2].output.dense.weight, old[2].output.dense.weight)
    assert not torch.equal(new[0].output.dense.weight, old[0].output.dense.weight)


def test_moments_run_in_order_and_one_modifier_may_answer() -> None:
    seen: list[str] = []

    class Spy(Modifier):
        def __init__(self, name: str) -> None:
            self.name = name

        def __getattribute__(self, attribute: str) -> Any:
            if attribute.startswith("on_"):
                seen.append(f"{attribute} {object.__getattribute__(self, 'name')}")
            return object.__getattribute__(self, attribute)

    class Answer(Spy):
        def on_finish(self, job: TrainJob) -> Any:
            return {"layers": [0]}

    result = Loop().fit(job(modifiers=[Spy("a"), Answer("b")], max_steps=1))
    moments = ["on_start", "on_batch", "on_loss", "on_gradients", "on_update"]
    assert seen == [f"{moment} {name}" for moment in moments for name in "ab"] + ["on_finish b", "on_finish a"]
    assert result.arch == {"layers": [0]}
    with pytest.raises(UsageError, match="2 modifiers"):
        Loop().fit(job(modifiers=[Answer("a"), Answer("b")], max_steps=1))


def test_claimed_parameters_are_left_alone() -> None:
    net = tiny_net()
    claimed = net.classifier.weight
    before = claimed.detach().clone()

    gradients = []

    class Claim(Modifier):
        def claims(self, net: Any) -> Any:
            return [claimed]

        def on_gradients(self, step: Any) -> None:
            gradients.append(claimed.grad.clone())

    Loop().fit(job(net, modifiers=[Claim()]))
    assert torch.equal(claimed, before)
    assert len(gradients) == 6
    assert max(gradient.norm() for gradient in gradients) < 3 * min(gradient.norm() for gradient in gradients)


def test_steps_without_finite_gradients_are_skipped_and_many_are_an_error() -> None:
    class Spoil(Modifier):
        def __init__(self, until: int) -> None:
            self.until, self.skipped = until, 0

        def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss * math.nan if step.index < self.until else loss

        def on_update(self, step: Any) -> None:
            self.skipped += step.skipped

    net, spoil = tiny_net(), Spoil(3)
    sampler = Draw()
    Loop().fit(job(net, modifiers=[spoil], space=Cut(), sampler=sampler, max_steps=5))
    assert spoil.skipped == 3
    assert [score is None for _, score, _ in sampler.told] == [True] * 3 + [False] * 2
    assert all(torch.isfinite(tensor).all() for tensor in weights(net))
    with pytest.raises(DivergedError, match="steps 1 to 20 of 50: the loss is nan"):
        Loop().fit(job(modifiers=[Spoil(99)], max_steps=50))


class Spoil(Modifier):
    """Makes something of every step from ``at`` on infinite: the loss, the gradients alone, or the weights."""

    def __init__(self, what: str, at: int) -> None:
        self.what, self.at = what, at

    def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
        if step.index < self.at or self.what not in ("loss", "constant"):
            return loss
        return loss * math.inf if self.what == "loss" else loss + math.nan  # a constant leaves gradients finite

    def on_gradients(self, step: Any) -> None:
        if step.index >= self.at and self.what == "gradients":
            step.job.net.classifier.weight.grad.fill_(3e38)  # whose norm overflows

    def on_update(self, step: Any) -> None:
        if step.index >= self.at and self.what == "weights":
            step.job.net.classifier.weight.data[0] = math.inf


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("what", ["loss", "constant", "gradients", "weights"])
def test_a_stage_that_ends_diverged_is_an_error(what: str, keep: str) -> None:
    lines: list[Any] = []
    stage = job(modifiers=[Spoil(what, 5)], keep=keep, max_steps=6, eval_every=3)
    stage.log = lambda step, values: lines.append((step, dict(values)))
    with pytest.raises(DivergedError) as caught:
        Loop().fit(stage)
    finite = 6 if what == "weights" else 5
    last = next(values["loss"] for step, values in lines if step == finite and "loss" in values)
    assert "step 6 of 6" in str(caught.value)
    assert f"The last finite loss is {last:.4g}, of step {finite}" in str(caught.value)
    assert (caught.value.exit_code, caught.value.resumable) == (1, False)


@pytest.mark.slow
def test_the_sub_network_that_diverged_is_named() -> None:
    class Deep(Modifier):
        def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss * math.nan if len(step.arch["layers"]) == 3 else loss

    with pytest.raises(DivergedError, match=r"the loss of sub-network .'layers': \[0, 1, 2\]. is nan"):
        Loop().fit(job(modifiers=[Deep()], space=Cut(), sampler=Draw(), archs_per_step=6, max_steps=50))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "weights"])
def test_a_diverged_state_never_replaces_a_checkpoint(what: str) -> None:
    memory = Memory()
    with pytest.raises(DivergedError):
        Loop().fit(job(modifiers=[Spoil(what, 3)], max_steps=50, checkpoint=memory, checkpoint_every=0.0))
    assert 0 < memory.state["at"]["step"] <= 3
    assert all(torch.isfinite(tensor).all() for tensor in memory.state["net"].values())
    result = Loop().fit(job(max_steps=50, checkpoint=memory))  # what was wrong is mended: it goes on from there
    assert result.ledger[0].steps == 50


def test_outputs_that_are_not_finite_have_no_score() -> None:
    """Not even the largest of two NaN, which is a class, nor the best of none."""

    class Blind(Modifier):
        def on_start(self, job: TrainJob) -> None:
            spoil = lambda module, inputs, outputs: outputs if module.training else outputs * math.nan  # noqa: E731
            job.net.classifier.register_forward_hook(spoil)

    lines: list[Any] = []
    stage = job(modifiers=[Blind()], eval_every=3)
    stage.log = lambda step, values: lines.append(values)
    Loop().fit(stage)
    scores = [values["select_accuracy"] for values in lines if "select_accuracy" in values]
    assert [math.isnan(score) for score in scores] == [True, True]
    with pytest.raises(RunError, match="no evaluation on select gave a finite accuracy"):
        Loop().fit(job(modifiers=[Blind()], keep="best"))


def test_what_was_skipped_is_told_at_the_end() -> None:
    class Rare(Modifier):
        def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss * math.nan if step.index in (1, 3) else loss

    notices = Notices()
    Loop(notify=notices).fit(job(modifiers=[Rare()]))
    assert [notice.place for notice in notices] == ["stages.t"]
    assert "2 of 6 steps" in str(next(iter(notices)))
    Loop(notify=notices).fit(job())
    assert len(list(notices)) == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_layers_may_be_left_out_of_a_step(optimizer: str) -> None:
    """A layer that had no gradient yet when others already have a momentum, and the other way round."""
    net = tiny_net(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    plain = copy.deepcopy(net).train()
    archs = [{"layers": [0, 1]}, {"layers": [0]}, {"layers": [0, 1, 2]}, {"layers": [0, 1]}]

    class Given(Draw):
        def ask(self, n: int = 1, within: Any = None) -> list[Any]:
            return [archs[len(self.told)]]

    task, space = ToyTask(), Cut()
    options = {"optimizer": optimizer, "max_steps": 4, "warmup_ratio": 0.0, "schedule": "constant"}
    options |= {"max_grad_norm": 0.0, "weight_decay": 0.0}
    Loop().fit(job(net, task, space=space, sampler=Given(), **options))
    groups = [{"params": list(plain.parameters()), "weight_decay": 0.0}]
    reference: Any = torch.optim.AdamW(groups, lr=1e-3)
    if optimizer == "sgd":
        reference = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
    batches = task.train_batches(stream_seed(0, "data", "t"), 0, 8)
    for arch, batch in zip(archs, batches, strict=False):
        reference.zero_grad()
        task.loss(space.view(plain, arch)(**batch.inputs), batch).backward()
        reference.step()
    for mine, its in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=2e-6)


class Two(Draw):
    """A sampler that has two sub-networks to propose."""

    def ask(self, n: int = 1, within: Any = None) -> list[Any]:
        return super().ask(min(n, 2 - len(self.told))) if len(self.told) < 2 else []


@pytest.mark.parametrize(("archs", "steps", "places"), [(1, 2, ["sampler"]), (3, 1, ["archs_per_step", "sampler"])])
def test_an_exhausted_sampler_ends_training(archs: int, steps: int, places: list[str]) -> None:
    notices = Notices()
    result = Loop(notify=notices).fit(job(space=Cut(), sampler=Two(), max_steps=9, archs_per_step=archs))
    assert result.ledger[0].steps == steps
    assert [notice.place for notice in notices] == [f"stages.t.{place}" for place in places]


def test_a_sampler_that_proposes_nothing_at_all_is_an_error() -> None:
    sampler = Two()
    sampler.told = [[1, 0.0, "train"]] * 2
    with pytest.raises(RunError, match="the sampler proposed no sub-network"):
        Loop().fit(job(space=Cut(), sampler=sampler))


def test_says_what_is_missing() -> None:
    with pytest.raises(UsageError, match="epochs or max_steps"):
        Loop().fit(job(max_steps=None))
    with pytest.raises(UsageError, match=r"no network was saved as 'teachr'.*Did you mean 'teacher'"):
        Loop().fit(job(modifiers=[KD("teachr")], models={"teacher": tiny_net()}))
    with pytest.raises(RunError, match="no training data"):
        Loop().fit(job(task=ToyTask(train=0)))
