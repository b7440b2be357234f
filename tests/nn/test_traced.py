"""Counts without values: exact, tied weights once, remembered, and never an error of the network's."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasframe.nn import slices
from nasframe.nn.traced import Traced, UncountableError, forward_macs, parameters, weightless
from nasframe.testing.toy import tiny_inputs, tiny_net


class Unsaid:
    """Slices of an encoder, without ``sizes``."""

    def __init__(self) -> None:
        self.extracted = 0

    def view(self, net, arch):
        return slices.view(net, arch)

    def extract(self, net, arch):
        self.extracted += 1
        return slices.extract(net, arch)


ARCHS = [{"layers": [0, 2], "heads.0": 2, "ffn.2": 16}, {"layers": [1]}, {"layers": []}, None]


def flops_of(net, inputs) -> float:
    """Count a real forward pass of a network with eager attention, whose products torch sees."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(**inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("arch", ARCHS)
def test_numbers_are_those_of_the_extracted_model(arch):
    net = tiny_net(attn_implementation="eager")
    inputs = tiny_inputs(batch=3, length=7)
    space = Unsaid()
    model = net if arch is None else slices.extract(net, arch)
    expected = flops_of(model, inputs)
    traced = Traced()
    assert traced.macs(space, net, arch, inputs) == expected
    count = traced.of_model("macs", lambda small: forward_macs(small, inputs), space, net, arch)
    assert count == expected
    exact = sum(parameter.numel() for parameter in model.parameters())
    assert traced.of_model("params", parameters, space, net, arch) == exact


def convolutions() -> nn.Module:
    """Return a network that normalises and activates in all the ways that the count answers by itself."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.InstanceNorm2d(6, affine=True),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.LayerNorm(64),
        nn.GELU(),
        nn.RMSNorm(64),
        nn.Linear(64, 2),
    ).eval()


def test_shortcuts_change_no_count():
    net = convolutions()
    inputs = {"input": torch.ones(2, 3, 8, 8)}
    assert flops_of(net, inputs) > 2 * 64 * 2
    assert forward_macs(weightless(net), inputs) == flops_of(net, inputs)


@pytest.mark.parametrize(
    ("place", "module"),
    [
        (1, nn.InstanceNorm2d(5, affine=True)),
        (4, nn.BatchNorm2d(5)),
        (8, nn.LayerNorm(63)),
        (10, nn.RMSNorm(65)),
        (11, nn.Linear(63, 2)),
    ],
)
def test_a_module_that_does_not_fit_is_not_counted(place, module):
    net = convolutions()
    net[place] = module.eval()
    with pytest.raises((ValueError, RuntimeError)):
        net(torch.ones(2, 3, 8, 8))
    with pytest.raises(UncountableError):
        forward_macs(weightless(net), {"input": torch.ones(2, 3, 8, 8)})


def test_tied_weights_count_once_even_when_a_space_moves_them():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

    class Moves:
        def extract(self, net, arch):
            return Tied().to(next(net.parameters()).device)

    copied = weightless(Tied())
    assert copied.second.weight is copied.first.weight
    assert copied.first.weight.is_meta
    assert Traced().of_model("params", parameters, Moves(), Tied(), {"any": 1}) == 16


def test_each_architecture_is_counted_once():
    space, net, traced = Unsaid(), tiny_net(), Traced()
    for _ in range(3):
        for arch in ARCHS[:2]:
            traced.of_model("params", parameters, space, net, dict(arch))
    assert space.extracted == 2


def test_what_looks_at_values_says_why_and_is_not_tried_again():
    class Peeks(nn.Linear):
        tried = 0

        def forward(self, x):
            Peeks.tried += 1
            return super().forward(x) if float(x.sum()) > 0 else x

    net, traced = Peeks(2, 2), Traced()
    for _ in range(2):
        with pytest.raises(UncountableError, match="RuntimeError"):
            traced.macs(None, net, None, {"x": torch.ones(1, 2)})
    assert Peeks.tried == 1


def test_a_space_that_looks_at_values_extracts_the_real_network():
    class Peeks(Unsaid):
        def extract(self, net, arch):
            assert float(next(net.parameters()).abs().sum()) >= 0
            return super().extract(net, arch)

    net = tiny_net()
    arch = {"layers": [1]}
    expected = sum(parameter.numel() for parameter in slices.extract(net, arch).parameters())
    assert Traced().of_model("params", parameters, Peeks(), net, arch) == expected


def test_the_network_is_neither_changed_nor_kept():
    net, traced = tiny_net().train(), Traced()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    traced.macs(None, net, None, tiny_inputs())
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    reference = weakref.ref(net)
    del net
    gc.collect()
    assert reference() is None
