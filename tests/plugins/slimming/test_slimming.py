"""Slimming: the published step of the gates, dual ascent to a budget, exact zeros, cuts that change nothing."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.nn import count
from nasframe.nn.slices import extract
from nasframe.testing.toy import ToySpace, tiny_inputs, tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_basics.fake_quant import FakeQuant
from nasframe_basics.kd import KD
from nasframe_basics.loop import Loop
from nasframe_slimming.adversary import Adversary
from nasframe_slimming.budget import sinking
from nasframe_slimming.slimming import Slimming


class Watch(Modifier):
    """Stands behind slimming and writes down the gates, their gradients and ρ of every step."""

    def __init__(self, slimming: Slimming) -> None:
        self.slimming = slimming
        self.gates: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        self.logits: Any = None

    def on_gradients(self, step: Any) -> None:
        self.gradients.append(torch.cat([gates.gamma.grad for gates in self.slimming.gates]))

    def on_update(self, step: Any) -> None:
        self.gates.append(torch.cat([gates.gamma.detach() for gates in self.slimming.gates]).clone())

    def on_finish(self, job: Any) -> None:
        with torch.no_grad():
            self.logits = job.net.eval()(**tiny_inputs()).logits


def fit(slimming: Slimming, *others: Modifier, **fields: Any) -> tuple[Any, Watch]:
    watch = Watch(slimming)
    job = toy_job(**{"max_steps": 20, "modifiers": [slimming, *others, watch], **fields})
    return Loop().fit(job), watch


def largest_apart(net: Any, logits: torch.Tensor) -> float:
    with torch.no_grad():
        return float((net.eval()(**tiny_inputs()).logits - logits).abs().max())


# ---- the step


def test_the_gates_make_the_published_step() -> None:
    """μ-momentum SGD, then sign γ · max(|γ| − α ρ c_g, 0) with α of the schedule, in numpy and gate by gate."""
    slimming = Slimming(target=None, rho=40.0, learning_rate=0.02, momentum=0.5, weights="equal", tune=0.25)
    _, watch = fit(slimming, max_steps=8, schedule="linear", warmup_ratio=0.25, learning_rate=1e-3)
    rates = 0.02 * np.array([0.5, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    n = 3 * (4 + 64)
    gamma, m, kept = np.ones(n), np.zeros(n), np.ones(n)
    for t, alpha in enumerate(rates):
        m = 0.5 * m + watch.gradients[t].double().numpy()
        gamma = gamma - np.clip(
            alpha * m * n, -0.05, 0.05
        )  # c_g = 1 / n: each gate's rate is α / c_g, so its threshold α / c_g · ρ c_g
        if t < 6:
            gamma = np.sign(gamma) * np.maximum(np.abs(gamma) - alpha * 40.0, 0)
        if t == 5:
            kept = gamma != 0
        gamma = gamma * kept
        np.testing.assert_allclose(watch.gates[t].numpy(), gamma, rtol=1e-4, atol=1e-5)
    assert 0 < kept.sum() < n or (watch.gates[5] == 0).any()


def test_the_penalty_is_never_in_the_gradient() -> None:
    runs = [fit(Slimming(target=None, rho=rho, learning_rate=0.01), max_steps=1)[1] for rho in (1.0, 1000.0)]
    assert torch.equal(runs[0].gradients[0], runs[1].gradients[0])
    assert not torch.equal(runs[0].gates[0], runs[1].gates[0])


def test_costs_weigh_the_penalty_where_wanted() -> None:
    """A head of the toy has 4 · 32 · 8 + 24 weights, a neuron 65; macs weigh otherwise."""
    slimming = Slimming(learning_rate=0.01)
    fit(slimming, max_steps=1)
    head, neuron = slimming.c[0], slimming.c[4]
    assert float(head / neuron) == pytest.approx((4 * 32 * 8 + 24) / 65)
    assert float(slimming.c.sum()) == pytest.approx(1.0)
    other = Slimming(cost="macs", learning_rate=0.01)
    fit(other, max_steps=1)
    whole, less = (count.macs(tiny_net()).of({"heads.0": n}) for n in (4, 3))
    assert float(other.each[0]) == pytest.approx(whole - less)
    equal = Slimming(weights="equal", learning_rate=0.01)
    fit(equal, max_steps=1)
    assert len(equal.c.unique()) == 1


def test_folding_and_reordering_is_proved_and_logged() -> None:
    logged: dict[str, float] = {}
    fit(Slimming(learning_rate=0.02), log=lambda step, values: logged.update(values))
    assert 0 <= logged["removal_error"] <= 1e-5


# ---- the budget


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=8), st.integers(0, 99))
def test_sinking_is_the_least_threshold_that_meets_a_budget(gates: list[tuple[int, int]], part: int) -> None:
    size = torch.tensor([float(g) for g, _ in gates])
    each = torch.tensor([float(c) for _, c in gates])
    excess = float(part % (int(each.sum()) + 1))
    found = float(sinking(size, each, excess))
    gone = [t for t in sorted({0.0, *size.tolist()}) if float(each[size <= t].sum()) >= excess]
    assert found == (gone[0] if excess > 0 else 0.0)


@pytest.mark.slow
@settings(deadline=None, max_examples=5)
@given(
    target=st.sampled_from(["80%", "50%", "25%"]),
    cost=st.sampled_from(["encoder_params", "macs"]),
    seed=st.integers(0, 9),
)
def test_the_budget_is_met_within_one_unit_and_cutting_changes_nothing(target: str, cost: str, seed: int) -> None:
    slimming = Slimming(target=target, cost=cost, learning_rate=0.01)
    result, watch = fit(slimming, net=tiny_net(seed=seed), max_steps=8)
    small = extract(result.net, result.arch)
    additive = {"encoder_params": lambda net: count.params(net, "encoder"), "macs": count.macs}[cost]
    full, left = additive(tiny_net()).of(), additive(small).of()
    share = float(target[:-1]) / 100
    assert left <= share * full * (1 + 1e-6)
    assert left > share * full - float(slimming.each.max())
    assert largest_apart(result.net, watch.logits) <= 1e-5
    assert largest_apart(small, watch.logits) <= 1e-5
    zeros = int((watch.gates[-1] == 0).sum())
    assert zeros == len(watch.gates[-1]) - sum(v for k, v in result.arch.items() if k != "layers")


@pytest.mark.slow
def test_dual_ascent_brings_the_gates_down_in_time() -> None:
    """Gates that gradients hold need a larger ρ: without dual ascent the last step has to cut far deeper."""

    class Hold(Modifier):
        def on_gradients(self, step: Any) -> None:
            for gates in slimming.gates:  # what resists most of the initial pressure
                gates.gamma.grad = torch.full_like(gates.gamma, -0.7 * float(slimming.start) / 68)

    depths = {}
    for rate in (0.0, 10.0):
        slimming = Slimming(weights="equal", dual_rate=rate, learning_rate=1e-3, momentum=0.0)
        _, watch = fit(slimming, Hold(), max_steps=40, net=tiny_net(layers=1))
        before = watch.gates[slimming.steps - 2]
        depths[rate] = float(sinking(before, slimming.each, slimming.excess))
    assert depths[0.0] > 0.6
    assert depths[10.0] < 0.1
    assert float(slimming.state["rho"]) > 2 * float(slimming.start)


def test_the_structure_stays_and_the_weights_go_on_while_fine_tuning() -> None:
    slimming = Slimming(target="50%", learning_rate=0.01, tune=0.5)
    _, watch = fit(slimming)
    settled = watch.gates[9]
    assert all(torch.equal(gates == 0, settled == 0) for gates in watch.gates[9:])
    assert not torch.equal(watch.gates[-1], settled)
    assert 0 < int((settled == 0).sum()) < len(settled)


def test_fixed_rho_without_a_budget_takes_what_comes() -> None:
    slimming = Slimming(target=None, rho=30.0, learning_rate=1e-2)
    result, watch = fit(slimming)
    assert float(slimming.state["rho"]) == 30.0
    assert int((watch.gates[-1] == 0).sum()) > 0
    assert largest_apart(extract(result.net, result.arch), watch.logits) <= 1e-5


# ---- the three ingredients together


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_the_joint_loop_of_all_three_cuts_exactly(family: str) -> None:
    others = [KD(temperature=2.0, weight=0.7), FakeQuant(bits=8), Adversary(weight=0.1)]
    teacher = {"models": {"teacher": tiny_net(family, seed=1)}}
    slimming = Slimming(target="50%", learning_rate=0.01)
    result, watch = fit(slimming, *others, net=tiny_net(family), max_steps=5, **teacher)
    assert largest_apart(extract(result.net, result.arch), watch.logits) <= 1e-5
    assert not any("parametrizations" in name for name in result.net.state_dict())
    weight = extract(result.net, result.arch).state_dict()
    matrix = next(tensor for name, tensor in weight.items() if "layer.1" in name and tensor.ndim == 2)
    assert all(len(row.unique()) <= 255 for row in matrix)


def test_the_quantiser_sees_gated_weights() -> None:
    """What comes out is on the grid of W · diag γ, not a scaled grid of W."""
    slimming = Slimming(target="50%", learning_rate=0.01)
    result, _ = fit(slimming, FakeQuant(bits=4), max_steps=5)
    reader = result.net.bert.encoder.layer[0].output.dense.weight
    assert all(len(row.unique()) <= 15 for row in reader)


# ---- the adversary


def test_the_adversary_plays_least_squares_in_turns() -> None:
    """The student's term has no gradient for θ, and θ's step is Adam's on ½ ((D(t) − 1)² + D(s)²)."""
    adversary, seen = Adversary(weight=0.3, width=8, learning_rate=1e-3), {}

    class Look(Modifier):
        def on_batch(self, step: Any) -> None:
            seen["before"] = copy.deepcopy(adversary.theta)

        def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
            seen["loss"], seen["student"] = loss, step.outputs.hidden_states[-1][:, 0]
            seen["teacher"] = step.teacher().hidden_states[-1][:, 0]
            seen["plain"] = step.job.task.loss(step.outputs, step.batch)
            return loss

        def on_gradients(self, step: Any) -> None:
            assert all(parameter.grad is None for parameter in adversary.theta.parameters())

    Loop().fit(toy_job(max_steps=1, modifiers=[adversary, Look()]))
    theta, student, teacher = seen["before"], seen["student"].detach(), seen["teacher"]
    term = (theta(student) - 1).square().mean()
    torch.testing.assert_close(seen["loss"].detach(), (seen["plain"] + 0.3 * term).detach())
    adam = torch.optim.Adam(theta.parameters(), lr=1e-3, betas=(0.5, 0.999))
    (((theta(teacher) - 1).square().mean() + theta(student).square().mean()) / 2).backward()
    adam.step()
    for mine, its in zip(theta.parameters(), adversary.theta.parameters(), strict=True):
        torch.testing.assert_close(mine, its)


def test_a_good_adversary_tells_teacher_from_student() -> None:
    adversary = Adversary(weight=1e-6, learning_rate=2e-2)
    job = toy_job(max_steps=20, modifiers=[adversary], learning_rate=1e-6)
    Loop().fit(job)
    with torch.no_grad():
        nets = (job.models["teacher"].eval(), job.net.eval())
        states = [net(**tiny_inputs(), output_hidden_states=True).hidden_states[-1][:, 0] for net in nets]
        real, fake = (adversary.theta(state).mean() for state in states)
    assert real - fake > 0.5


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "100%"}, r"slimming.target: '100%' is out of range"),
        ({"target": "0%"}, r"slimming.target: '0%'"),
        ({"target": "half"}, r"slimming.target: 'half'"),
        ({"target": "130%"}, r"slimming.target: '130%'"),
        ({"target": None}, "neither target nor rho"),
        ({"units": []}, r"slimming.units: \[\]"),
        ({"units": ["neurons"]}, r"slimming.units: \['neurons'\]"),
        ({"tune": 1.0}, r"slimming.tune: 1.0"),
        ({"momentum": -0.1}, r"slimming.momentum"),
        ({"dual_rate": -1.0}, r"slimming.dual_rate"),
    ],
)
def test_bad_options_are_refused_when_it_is_made(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Slimming(**options)


@pytest.mark.parametrize(
    ("options", "fields", "text"),
    [
        ({"target": "1%"}, {}, r"1% of encoder_params is out of reach: the parts without gates are 2"),
        ({"cost": "latency"}, {}, "'latency' is not counted"),
        ({"cost": "encoder"}, {}, "encoder"),
        ({}, {"keep": "best"}, "has keep: best and may end"),
        ({}, {"early_stop": 2}, "has early_stop and may end"),
        ({}, {"space": ToySpace(), "arch": ToySpace().domain.smallest()}, "trains sub-networks"),
        ({"units": ["heads"]}, {"net": extract(tiny_net(layers=1), {"heads.0": 0})}, "has no heads to put gates on"),
    ],
)
def test_bad_stages_are_refused_before_training(options: Any, fields: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        fit(Slimming(**options), **fields)


def test_gates_come_before_a_quantiser() -> None:
    slimming = Slimming()
    with pytest.raises(UsageError, match="no modifier that parametrises weights before it"):
        Loop().fit(toy_job(modifiers=[FakeQuant(), slimming]))


def test_an_adversary_needs_a_teacher_that_fits() -> None:
    with pytest.raises(UsageError, match="no network was saved as 'nobody'"):
        Loop().fit(toy_job(modifiers=[Adversary(teacher="nobody")]))
    other = tiny_net(hidden_size=16, intermediate_size=32, num_attention_heads=2)
    with pytest.raises(UsageError, match="hidden sizes differ: 32 of the student, 16 of 'teacher'"):
        Loop().fit(toy_job(modifiers=[Adversary()], models={"teacher": other}))
    with pytest.raises(UsageError, match="beta1"):
        Adversary(beta1=1.0)
