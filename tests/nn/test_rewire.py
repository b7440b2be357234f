import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.nn.elastic import FAMILIES, layers_of
from nasframe.nn.rewire import rewire
from nasframe.nn.slices import view
from nasframe.testing.toy import ENCODERS, tiny_inputs, tiny_net


def random_order(rng, layers=3):
    return {
        "heads": {i: rng.permutation(4).tolist() for i in range(layers)},
        "ffn": {i: torch.as_tensor(rng.permutation(64)) for i in range(layers)},
    }


@pytest.mark.parametrize("family", ENCODERS)
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_outputs_stay_and_kept_units_come_first(family, seed):
    net, row = tiny_net(family), FAMILIES[family]
    order = random_order(np.random.default_rng(seed))
    sorted_net = copy.deepcopy(net)
    rewire(sorted_net, order)
    expected = net(**tiny_inputs()).logits
    torch.testing.assert_close(sorted_net(**tiny_inputs()).logits, expected, rtol=0, atol=2e-6)
    assert not torch.equal(
        layers_of(net)[0].get_submodule(row.shrink).weight, layers_of(sorted_net)[0].get_submodule(row.shrink).weight
    )
    with torch.no_grad():  # what the order puts last is zeroed where it was
        for i, layer in enumerate(layers_of(net)):
            for head in order["heads"][i][2:]:
                layer.get_submodule(row.merge).weight[:, 8 * head : 8 * head + 8] = 0
            layer.get_submodule(row.shrink).weight[:, order["ffn"][i][20:]] = 0
        expected = net(**tiny_inputs()).logits
        sizes = {f"heads.{i}": 2 for i in range(3)} | {f"ffn.{i}": 20 for i in range(3)}
        torch.testing.assert_close(view(sorted_net, sizes)(**tiny_inputs()).logits, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.AdamW(p, 0.01), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)]
)
def test_training_goes_on_as_if_nothing_had_happened(make):
    nets = [tiny_net(), tiny_net()]
    optimizers = [make(net.parameters()) for net in nets]
    order = random_order(np.random.default_rng(0))
    for step in range(4):
        if step == 2:
            rewire(nets[1], order, optimizers[1])
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(**tiny_inputs(seed=step)).logits.square().sum().backward()
            optimizer.step()
    ours, theirs = (net(**tiny_inputs()).logits for net in nets)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_gradients_move_along():
    net = tiny_net()
    weight = layers_of(net)[1].intermediate.dense.weight
    net(**tiny_inputs()).logits.sum().backward()
    before = weight.grad.clone()
    rewire(net, {"ffn": {1: list(reversed(range(64)))}})
    assert torch.equal(weight.grad, before.flip(0))


def test_what_is_no_permutation_changes_nothing():
    net = tiny_net()
    before = copy.deepcopy(net.state_dict())
    for wrong in ([0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 4]):
        with pytest.raises(ValueError, match=r"heads\.1: the order is not a permutation of 4 positions"):
            rewire(net, {"heads": {0: [1, 0, 2, 3], 1: wrong}})
    torch.nn.utils.parametrize.register_parametrization(layers_of(net)[2].output.dense, "weight", torch.nn.Tanh())
    with pytest.raises(ValueError, match=r"layer 2, output\.dense\.weight: a parametrised"):
        rewire(net, {"ffn": {0: list(reversed(range(64))), 2: list(range(64))}})
    after = net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name in after)
