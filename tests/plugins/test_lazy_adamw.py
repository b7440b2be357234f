"""Modifier ``lazy_adamw``: each head and neuron is trained as if it had a torch AdamW of its own."""

import pytest
import torch
from in_turn import InTurn

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.nn.elastic import layers_of
from nasframe.testing.toy import ToySpace, tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_basics.lazy_adamw import LazyAdamW

STEPS = 8
DECAY = 0.1
SMALL = {"layers": [0, 2], "heads.0": 2, "heads.2": 4, "ffn.0": 16, "ffn.2": 64}
WIDE = {"layers": [0, 1, 2], "heads.0": 4, "heads.1": 2, "heads.2": 2, "ffn.0": 32, "ffn.1": 32, "ffn.2": 32}
WHOLE = {"layers": [0, 1, 2]} | {f"heads.{i}": 4 for i in range(3)} | {f"ffn.{i}": 64 for i in range(3)}


class Record(Modifier):
    """Keep the gradients, the rate and the architecture of each step."""

    def __init__(self):
        self.gradients, self.rates, self.archs = [], [], []

    def on_gradients(self, step):
        self.gradients.append(
            {name: p.grad.clone() for name, p in step.job.net.named_parameters() if p.grad is not None}
        )
        self.rates.append(step.lr)
        self.archs.append(step.arch)


def trained(*archs, modifiers=None, **options):
    record = Record()
    job = toy_job(
        net=tiny_net(),
        modifiers=[record, *([LazyAdamW()] if modifiers is None else modifiers)],
        space=ToySpace(),
        sampler=InTurn(*archs),
        max_steps=STEPS,
        max_grad_norm=0.0,  # recorded gradients are those before clipping
        weight_decay=DECAY,
        **options,
    )
    nf.make("trainer", "loop").fit(job)
    return job.net, record


def adamw(start, gradients, rates, decay):
    """What torch's own AdamW makes of a tensor in the steps that used it; ``None`` is a step that did not."""
    tensor = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([tensor], lr=1.0, weight_decay=decay)
    for gradient, rate in zip(gradients, rates, strict=True):
        if gradient is None:
            continue
        optimizer.param_groups[0]["lr"] = rate
        tensor.grad = gradient
        optimizer.step()
    return tensor.detach()


NAMES = "bert.encoder.layer.{}.{}"
ENTRIES = [  # tensor, its entries that one unit owns, layer, unit, the unit's number
    ("attention.self.key.weight", (slice(24, 32), slice(None)), 0, "heads", 3),
    ("attention.self.value.bias", (slice(16, 24),), 2, "heads", 2),
    ("attention.output.dense.weight", (slice(None), slice(16, 24)), 0, "heads", 2),
    ("intermediate.dense.weight", (slice(40, 41), slice(None)), 2, "ffn", 40),
    ("output.dense.weight", (slice(None), slice(20, 21)), 0, "ffn", 20),
    ("output.dense.bias", (slice(None),), 1, None, 0),
    ("output.LayerNorm.weight", (slice(None),), 1, None, 0),
]


@pytest.mark.parametrize(("name", "entries", "layer", "unit", "number"), ENTRIES)
def test_each_unit_is_trained_in_the_steps_that_used_it_and_rests_in_the_others(name, entries, layer, unit, number):
    net, record = trained(SMALL, WIDE, SMALL)
    full_name = NAMES.format(layer, name)
    gradients = []
    for arch, of_step in zip(record.archs, record.gradients, strict=True):
        is_used = layer in arch["layers"] and (unit is None or arch[f"{unit}.{layer}"] > number)
        gradients.append(of_step[full_name][entries] if is_used else None)
    assert None in gradients
    assert any(gradient is not None for gradient in gradients)
    start = tiny_net().get_parameter(full_name).detach()[entries]
    decay = DECAY if "bias" not in name and "LayerNorm" not in name else 0.0
    expected = adamw(start, gradients, record.rates, decay)
    assert torch.allclose(net.get_parameter(full_name).detach()[entries], expected, rtol=1e-5, atol=1e-7)


def test_with_the_whole_network_in_every_step_it_is_the_loops_adamw():
    lazy, _ = trained(WHOLE)
    plain, _ = trained(WHOLE, modifiers=[])
    for (name, ours), theirs in zip(lazy.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6), name


def test_what_no_step_uses_keeps_its_values_without_decay():
    net, _ = trained(SMALL)
    before = tiny_net()
    for ours, start in zip(layers_of(net)[1].parameters(), layers_of(before)[1].parameters(), strict=True):
        assert torch.equal(ours, start)
    key = "attention.self.key.weight"
    assert torch.equal(layers_of(net)[0].get_parameter(key)[16:], layers_of(before)[0].get_parameter(key)[16:])


def test_the_loops_adamw_moves_what_a_step_did_not_use():
    """The difference that the modifier makes."""
    net, _ = trained(WIDE, SMALL, modifiers=[])
    lazy, _ = trained(WIDE, SMALL)
    weight = NAMES.format(1, "intermediate.dense.weight")
    assert not torch.allclose(net.get_parameter(weight)[:32], lazy.get_parameter(weight)[:32], atol=1e-5)


def test_other_optimisers_and_single_networks_are_refused():
    with pytest.raises(UsageError, match=r"optimizer: sgd\. Expected adamw"):
        trained(SMALL, optimizer="sgd")
    with pytest.raises(UsageError, match="trains one network"):
        nf.make("trainer", "loop").fit(toy_job(net=tiny_net(), modifiers=[LazyAdamW()]))


def test_parametrised_layers_are_refused():
    with pytest.raises(UsageError, match="is parametrised"):
        trained(SMALL, modifiers=[nf.make("modifier", {"use": "fake_quant", "bits": 8}), LazyAdamW()])


def test_its_moments_would_not_follow_a_reordering():
    with pytest.raises(UsageError, match="lazyadamw, whose state belongs to single weights"):
        trained(SMALL, modifiers=[LazyAdamW(), nf.make("modifier", "resort")])
