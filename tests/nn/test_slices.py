import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrize
from transformers import BertConfig, BertForMaskedLM

from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import FAMILIES, layers_of
from nasframe.nn.slices import SliceError, extract, kept_layers, view
from nasframe.testing.toy import ENCODERS, tiny_inputs, tiny_net

SMALL = {"layers": [0, 2], "heads.0": 3, "ffn.0": 17, "heads.2": 1, "ffn.2": 40}
EMPTY = {"heads.0": 0, "ffn.1": 0, "heads.2": 0, "ffn.2": 0}


@st.composite
def archs(draw):
    layers = sorted(draw(st.sets(st.integers(0, 2))))
    sizes = {f"heads.{i}": draw(st.integers(0, 4)) for i in layers}
    return {"layers": layers} | sizes | {f"ffn.{i}": draw(st.sampled_from([0, 1, 13, 64])) for i in layers}


def gradients(net, *runs, autograd=False):
    net.zero_grad()
    for arch, seed in runs:
        view(net, arch, autograd)(**tiny_inputs(seed=seed)).logits.square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters()}


def assert_same(ours, theirs):
    for name, expected in theirs.items():
        assert (ours[name] is None) == (expected is None), name
        if expected is not None:
            assert torch.equal(ours[name], expected), name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ENCODERS)
@settings(deadline=None, max_examples=12)
@given(arch=archs())
def test_view_equals_extract(family, attention, arch):
    net = tiny_net(family, attn_implementation=attention)
    small = extract(net, arch)
    seen, own = (f(**tiny_inputs(), output_hidden_states=True) for f in (view(net, arch), small))
    assert torch.equal(seen.logits, own.logits)
    assert small.config.num_hidden_layers == len(arch["layers"])
    if arch["layers"]:  # with no layer at all, transformers returns no hidden states
        assert len(seen.hidden_states) == len(arch["layers"]) + 1
    assert all(torch.equal(a, b) for a, b in zip(seen.hidden_states, own.hidden_states, strict=True))
    assert kept_layers(small, {}) == [(j, arch[f"heads.{i}"], arch[f"ffn.{i}"]) for j, i in enumerate(arch["layers"])]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ENCODERS)
def test_the_full_architecture_is_the_untouched_model(family, attention):
    net = tiny_net(family, attn_implementation=attention)
    before = copy.deepcopy(net.state_dict())
    expected = net(**tiny_inputs()).logits
    assert torch.equal(view(net, {})(**tiny_inputs()).logits, expected)
    assert torch.equal(extract(net, {})(**tiny_inputs()).logits, expected)
    view(net, SMALL)(**tiny_inputs())
    assert torch.equal(net(**tiny_inputs()).logits, expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("family", ENCODERS)
def test_a_view_is_the_network_with_the_rest_zeroed(family):
    net, row = tiny_net(family), FAMILIES[family]
    zeroed = copy.deepcopy(net)
    with torch.no_grad():
        for i, layer in enumerate(layers_of(zeroed)):
            layer.get_submodule(row.merge).weight[:, 8 * (4 - i) :] = 0
            layer.get_submodule(row.shrink).weight[:, 13 * i :] = 0
        arch = {f"heads.{i}": 4 - i for i in range(3)} | {f"ffn.{i}": 13 * i for i in range(3)}
        expected = zeroed(**tiny_inputs()).logits
        torch.testing.assert_close(view(net, arch)(**tiny_inputs()).logits, expected, rtol=0, atol=2e-6)


@settings(deadline=None, max_examples=12)
@given(first=archs(), second=archs())
def test_gradients_are_those_of_narrow(first, second):
    net = tiny_net()
    runs = [(first, 0), (second, 1)]
    expected = gradients(copy.deepcopy(net), *runs, autograd=True)
    assert_same(gradients(net, *runs), expected)
    net.zero_grad(set_to_none=False)
    again = gradients(net, *runs)
    assert_same(again, expected)


def test_gradients_after_any_zeroing_and_none_in_dropped_layers():
    net = tiny_net()
    kept = gradients(net, ({}, 3))
    values = {name: grad.clone() for name, grad in kept.items()}
    ours = gradients(net, (SMALL, 0))
    assert all(p.grad is None for p in layers_of(net)[1].parameters())
    assert_same(ours, gradients(copy.deepcopy(net), (SMALL, 0), autograd=True))
    held = {name: None if grad is None else grad.clone() for name, grad in ours.items()}
    gradients(net, (SMALL, 5), ({}, 6))
    assert_same(ours, held)  # what a caller still holds is not written over
    assert_same(kept, values)
    for grad in held.values():
        if grad is not None:
            grad.zero_()
    net.zero_grad()
    outputs = view(net, SMALL)(**tiny_inputs())
    net.zero_grad()  # between forward and backward, as many loops do
    outputs.logits.square().sum().backward()
    expected = gradients(copy.deepcopy(net), (SMALL, 0), autograd=True)
    assert_same({name: p.grad for name, p in net.named_parameters()}, expected)


def test_gradients_by_autograd_alone():
    net = tiny_net()
    weight = net.bert.encoder.layer[0].intermediate.dense.weight
    loss = view(net, SMALL, autograd=True)(**tiny_inputs()).logits.square().sum()
    (grad,) = torch.autograd.grad(loss, weight)
    assert torch.equal(grad, gradients(net, (SMALL, 0))["bert.encoder.layer.0.intermediate.dense.weight"])
    loss = view(net, SMALL)(**tiny_inputs()).logits.square().sum()
    with pytest.raises(RuntimeError, match="autograd=True"):
        loss.backward(create_graph=True)
    seen = []
    weight.register_hook(seen.append)
    gradients(net, (SMALL, 0))
    assert len(seen) == 1


def test_frozen_parameters_stay_without_gradient():
    net = tiny_net()
    frozen = net.bert.encoder.layer[0].intermediate.dense.weight
    gradients(net, (SMALL, 0))
    net.zero_grad()
    frozen.requires_grad_(False)
    assert gradients(net, (SMALL, 0))["bert.encoder.layer.0.intermediate.dense.weight"] is None
    frozen.requires_grad_(True)
    assert gradients(net, (SMALL, 0))["bert.encoder.layer.0.intermediate.dense.weight"] is not None


def test_a_view_follows_mode_dropout_attention_weights_and_moves():
    net = tiny_net(hidden_dropout_prob=0.5)
    forward = view(net, SMALL)
    calm = forward(**tiny_inputs()).logits
    net.train()
    torch.manual_seed(0)
    noisy = forward(**tiny_inputs()).logits
    torch.manual_seed(0)
    assert torch.equal(noisy, extract(net, SMALL)(**tiny_inputs()).logits)
    assert not torch.equal(noisy, calm)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    net.bert.encoder.layer[0].attention.self.dropout.p = 0.0
    torch.testing.assert_close(forward(**tiny_inputs()).logits, calm)
    net.eval().set_attn_implementation("eager")
    assert len(forward(**tiny_inputs(), output_attentions=True).attentions) == 2
    net.double()
    assert torch.equal(forward(**tiny_inputs()).logits, extract(net, SMALL)(**tiny_inputs()).logits)
    with torch.no_grad():
        net.bert.encoder.layer[0].intermediate.dense.weight.mul_(2)
    assert torch.equal(forward(**tiny_inputs()).logits, extract(net, SMALL)(**tiny_inputs()).logits)


def test_inference_mode_first_then_training():
    net = tiny_net()
    with torch.inference_mode():
        view(net, SMALL)(**tiny_inputs())
    assert_same(gradients(net, (SMALL, 0)), gradients(copy.deepcopy(net), (SMALL, 0), autograd=True))


class Double(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_effective_weights_are_sliced():
    net, plain = tiny_net(), tiny_net()
    for path in ("intermediate.dense", "attention.self.query", "output.dense"):
        parametrize.register_parametrization(layers_of(net)[0].get_submodule(path), "weight", Double())
        layers_of(plain)[0].get_submodule(path).weight.data.mul_(2)
    parametrize.register_parametrization(net.classifier, "weight", Double())
    plain.classifier.weight.data.mul_(2)
    assert torch.equal(view(net, {})(**tiny_inputs()).logits, net(**tiny_inputs()).logits)
    seen = view(net, SMALL)(**tiny_inputs()).logits
    assert torch.equal(seen, extract(net, SMALL)(**tiny_inputs()).logits)
    assert torch.equal(seen, view(plain, SMALL)(**tiny_inputs()).logits)
    seen.square().sum().backward()
    original = layers_of(net)[0].intermediate.dense.parametrizations.weight.original
    expected = gradients(plain, (SMALL, 0))["bert.encoder.layer.0.intermediate.dense.weight"]
    torch.testing.assert_close(original.grad, 2 * expected)


def test_parametrised_after_the_view_was_first_made():
    net = tiny_net()
    before = view(net, SMALL)(**tiny_inputs()).logits
    parametrize.register_parametrization(layers_of(net)[0].intermediate.dense, "weight", Double())
    after = view(net, SMALL)(**tiny_inputs()).logits
    assert not torch.equal(before, after)
    assert torch.equal(after, extract(net, SMALL)(**tiny_inputs()).logits)


def test_tied_heads_stay_tied():
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    net = BertForMaskedLM(config).eval()
    small = extract(net, {"layers": [1], "heads.1": 3})
    assert small.cls.predictions.decoder.weight is small.bert.embeddings.word_embeddings.weight
    assert torch.equal(small(**tiny_inputs()).logits, view(net, {"layers": [1], "heads.1": 3})(**tiny_inputs()).logits)
    arch = {"layers": [1], "ffn.1": 3}
    assert_same(gradients(net, (arch, 0)), gradients(copy.deepcopy(net), (arch, 0), autograd=True))


def test_base_models_and_sub_networks_of_sub_networks():
    net = tiny_net()
    base = view(net.bert, SMALL)(**tiny_inputs()).last_hidden_state
    assert torch.equal(base, extract(net.bert, SMALL)(**tiny_inputs()).last_hidden_state)
    middle = extract(net, {"heads.0": 3, "ffn.2": 40, "heads.2": 2})
    arch = {"layers": [0, 2], "heads.0": 0, "ffn.0": 9, "heads.2": 1, "ffn.2": 11}
    assert torch.equal(view(middle, arch)(**tiny_inputs()).logits, view(net, arch)(**tiny_inputs()).logits)
    assert torch.equal(extract(middle, arch)(**tiny_inputs()).logits, view(net, arch)(**tiny_inputs()).logits)
    with pytest.raises(SliceError, match=r"heads\.0: 4 is not in the network\. Expected 0 … 3"):
        view(middle, {"heads.0": 4})


def test_hooks_see_views_and_capture_does_not_double():
    net = tiny_net(attn_implementation="eager")
    seen = []
    layers_of(net)[0].intermediate.register_forward_hook(lambda module, args, out: seen.append(out.shape[-1]))
    for _ in range(2):
        output = view(net, SMALL)(**tiny_inputs(), output_hidden_states=True, output_attentions=True)
        assert len(output.hidden_states) == 3
        assert [a.shape[1] for a in output.attentions] == [3, 1]
    assert seen == [17, 17]
    assert len(net(**tiny_inputs(), output_hidden_states=True).hidden_states) == 4
    only = view(net, SMALL)(**tiny_inputs(), output_hidden_states=[-1]).hidden_states
    assert torch.equal(only[2], output.hidden_states[2])


def test_two_views_alive_at_once_do_not_mix():
    net = tiny_net()
    one, two = view(net, SMALL), view(net, EMPTY)
    expected = [extract(net, arch)(**tiny_inputs()).logits for arch in (SMALL, EMPTY, SMALL)]
    assert all(torch.equal(f(**tiny_inputs()).logits, e) for f, e in zip((one, two, one), expected, strict=True))


@pytest.mark.slow
def test_nothing_keeps_a_network_alive():
    net = tiny_net()
    gradients(net, (SMALL, 0))
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": [0, 3]}, "layers: .* ascending"),
        ({"layers": [1, 0]}, "layers"),
        ({"layers": [0, 0]}, "layers"),
        ({"heads.0": 5}, r"heads\.0: 5 is not in the network\. Expected 0 … 4"),
        ({"ffn.1": -1}, r"ffn\.1"),
        ({"ffn.1": 3.5}, r"ffn\.1"),
        ({"fnn.1": 3}, r"fnn\.1: .*Did you mean 'ffn\.1'"),
        ({"heads": {3: 1}}, r"heads\.3: not a size of a network with 3 layers"),
    ],
)
def test_sizes_that_are_not_there(sizes, message):
    with pytest.raises(SliceError, match=message):
        kept_layers(tiny_net(), sizes)


def test_what_cannot_be_sliced_is_refused_with_a_reason():
    net = tiny_net().train()
    getattr(net, "activation_checkpointing_enable", net.gradient_checkpointing_enable)()
    with pytest.raises(SliceError, match="gradient checkpointing: it runs a layer again"):
        view(net, SMALL)
    net = tiny_net()
    net.bert.encoder.layer[0].intermediate.dense = torch.nn.Identity()
    with pytest.raises((SliceError, AttributeError)):
        view(net, SMALL)
    net = tiny_net()
    net.extra = torch.nn.Linear(2, 2)
    with pytest.raises(SliceError, match=r"extra\.weight: \(2, 2\) has no place in a stock BertForSequence"):
        extract(net, {})


def test_blueprints_of_extracted_networks_build_them_again():
    rng = np.random.default_rng(0)
    net = tiny_net()
    for _ in range(3):
        arch = {f"heads.{i}": int(rng.integers(5)) for i in range(3)}
        assert [layer["heads"] for layer in blueprint(extract(net, arch))["layers"]] == list(arch.values())
