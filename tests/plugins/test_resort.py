"""Modifier ``resort``: what it scores, that nothing but the order changes, and what it refuses."""

import copy

import pytest
import torch
from in_turn import InTurn

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.nn.elastic import layers_of
from nasframe.nn.slices import view
from nasframe.testing.toy import ToySpace, tiny_inputs, tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_basics.resort import Resort

ARCHS = (
    {"layers": [0, 1, 2], "heads.0": 2, "heads.1": 2, "heads.2": 2, "ffn.0": 32, "ffn.1": 32, "ffn.2": 32},
    {"layers": [0, 2], "heads.0": 4, "heads.2": 2, "ffn.0": 16, "ffn.2": 64},
)


class Snapshot(Modifier):
    """Keep copies of the network before and after each step's modifiers, and of its gradients."""

    def __init__(self):
        self.before, self.gradients, self.archs = [], [], []

    def on_batch(self, step):
        self.before.append(copy.deepcopy(step.job.net))
        self.archs.append(step.arch)

    def on_gradients(self, step):
        rows = {name: p.grad.clone() for name, p in step.job.net.named_parameters() if p.grad is not None}
        self.gradients.append(rows)


def trained(*modifiers):
    job = toy_job(net=tiny_net(), modifiers=list(modifiers), space=ToySpace(), sampler=InTurn(*ARCHS), max_steps=6)
    nf.make("trainer", "loop").fit(job)
    return job


def expected_scores(watch, steps, unit, layer):
    """Mean of |Σ W ∂L/∂W| over the steps that used the unit, from copies, one head or neuron at a time."""
    path = "attention.output.dense" if unit == "heads" else "output.dense"
    count, width = (4, 8) if unit == "heads" else (64, 1)
    values = []
    for index in range(count):
        found = []
        for at in steps:
            arch = watch.archs[at]
            if layer not in arch["layers"] or index >= arch[f"{unit}.{layer}"]:
                continue
            weight = layers_of(watch.before[at])[layer].get_submodule(path).weight.detach()
            gradient = watch.gradients[at][f"bert.encoder.layer.{layer}.{path}.weight"]
            columns = slice(index * width, (index + 1) * width)
            found.append(float((weight * gradient)[:, columns].sum().abs()))
        values.append(sum(found) / len(found) if found else 0.0)
    return torch.tensor(values)


def test_heads_and_neurons_are_sorted_by_their_effect_in_the_sub_networks_that_had_them():
    watch = Snapshot()
    resort = Resort(at=0.5, window=0.5)
    trained(watch, resort)
    for unit in ("heads", "ffn"):
        for layer in range(3):
            scores = resort.effects.scores()[unit][layer]
            assert torch.allclose(scores, expected_scores(watch, range(3), unit, layer), rtol=1e-4, atol=1e-7)
    assert float(resort.effects.scores()["ffn"][1][32:].sum()) == 0  # no sub-network had these


class Compare(Modifier):
    """Stands before and after resort in a stage: outputs of the whole network and of a sub-network."""

    def __init__(self):
        self.whole, self.small = [], []

    def on_update(self, step):
        step.job.net.eval()
        with torch.no_grad():
            self.whole.append(step.job.net(**tiny_inputs()).logits)
            self.small.append(view(step.job.net, {"heads.0": 1, "ffn.1": 8})(**tiny_inputs()).logits)
        step.job.net.train()


def test_the_whole_network_stays_and_sub_networks_change():
    before, after = Compare(), Compare()
    trained(before, Resort(at=0.5), after)
    apart = [float((a - b).abs().max()) for a, b in zip(before.whole, after.whole, strict=True)]
    assert max(apart) < 1e-5
    small = [float((a - b).abs().max()) for a, b in zip(before.small, after.small, strict=True)]
    assert sum(value > 1e-4 for value in small) == 1  # in one step only


def test_moments_of_the_optimiser_move_with_the_weights():
    class Moments(Modifier):
        def __init__(self):
            self.pairs = []

        def on_update(self, step):
            weight = layers_of(step.job.net)[0].intermediate.dense.weight
            self.pairs.append((weight.detach().clone(), step.optimizer.state[weight]["exp_avg"].clone()))

    before, after = Moments(), Moments()
    trained(before, Resort(at=0.5), after)
    moved = 0
    for (weight, moment), (new_weight, new_moment) in zip(before.pairs, after.pairs, strict=True):
        order = [int((weight == row).all(1).nonzero()[0]) for row in new_weight]
        moved += order != sorted(order)
        assert torch.equal(moment[order], new_moment)
    assert moved == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [("ema", "ema, whose state belongs to single weights"), ("admm", "admm, whose state")],
)
def test_state_of_single_weights_is_refused(other, message):
    options = {"use": other, "pattern": "2:4"} if other == "admm" else other
    with pytest.raises(UsageError, match=message):
        trained(Resort(), nf.make("modifier", options))


def test_one_network_has_nothing_to_sort():
    with pytest.raises(UsageError, match="trains one network"):
        nf.make("trainer", "loop").fit(toy_job(net=tiny_net(), modifiers=[Resort()]))


def test_steps_without_finite_gradients_do_not_count():
    class Broken(Modifier):
        def on_gradients(self, step):
            if step.index == 1:
                for parameter in step.job.net.parameters():
                    if parameter.grad is not None:
                        parameter.grad.fill_(float("inf"))

    resort = Resort(at=0.5, window=0.5)
    trained(Broken(), resort)
    for total in resort.effects.sums:
        assert torch.isfinite(total).all()
