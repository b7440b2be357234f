import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from nasframe.nn.count import forward_macs, macs, params, size
from nasframe.nn.elastic import layers_of
from nasframe.nn.factorize import factorize_embedding
from nasframe.nn.slices import SliceError, extract
from nasframe.testing.toy import ENCODERS, tiny_net

CLOSED_FORM = {"params": 109_482_240, "flops": 22_353_349_888, "six layers": 11_177_364_736, "smallest": 33_900_288}


def sdpa_flop_count(query, key, value, *_, out_shape=None, **__):
    return 2 * query[:3].numel() * key[2] * (query[3] + value[3])


def counted(net, batch, length):
    ids = torch.ones(batch, length, dtype=torch.long)
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop_count}  # torch's table lacks it
    with FlopCounterMode(display=False, custom_mapping=fused) as counter, torch.no_grad():
        net(input_ids=ids)
    return counter.get_total_flops() / 2


def random_arch(rng, layers=3):
    kept = sorted(rng.choice(layers, rng.integers(0, layers + 1), replace=False).tolist())
    sizes = {"layers": kept}
    for i in kept:
        sizes |= {f"heads.{i}": int(rng.integers(0, 5)), f"ffn.{i}": int(rng.choice([0, 1, 13, 64]))}
    return sizes


@pytest.mark.slow
def test_random_architectures_are_counted_exactly():
    rng = np.random.default_rng(0)
    nets = {
        name: tiny_net(name, layers=2, attn_implementation=("eager", "sdpa")[k % 2]) for k, name in enumerate(ENCODERS)
    }
    costs = {name: (params(net), macs(net, 2, 5), size(net)) for name, net in nets.items()}
    names = list(nets)
    for number in range(60):  # benchmarks/counts.py counts a thousand
        name, arch = names[number % 4], random_arch(rng, 2)
        small = extract(nets[name], arch)
        weights, products, stored = (cost.of(arch) for cost in costs[name])
        assert weights == sum(p.numel() for p in small.parameters())
        assert stored == 4 * weights
        if number < 40:
            assert products == counted(small, 2, 5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 3), length=st.integers(1, 9))
def test_macs_at_any_batch_and_length(seed, batch, length):
    net, arch = tiny_net(labels=3), random_arch(np.random.default_rng(seed))
    expected = counted(extract(net, arch), batch, length)
    assert macs(net, batch, length).of(arch) == expected == forward_macs(net, arch, batch, length)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ENCODERS)
def test_macs_of_every_family(family, attention):
    extra = {"embedding_size": 16} if family == "electra" else {}
    net = tiny_net(family, attn_implementation=attention, **extra)
    assert macs(net, 2, 7).of() == counted(net, 2, 7)
    assert forward_macs(net, None, 2, 7) == counted(net, 2, 7)


def test_published_figures_of_bert_base():
    with torch.device("meta"):
        net = BertForSequenceClassification(BertConfig())
    assert params(net, "backbone").of() == CLOSED_FORM["params"]
    traced = macs(net, count="torchprofile")
    assert 2 * traced.of() == CLOSED_FORM["flops"]
    assert 2 * traced.of({"layers": list(range(6))}) == CLOSED_FORM["six layers"]
    smallest = {"layers": list(range(6)), "heads": dict.fromkeys(range(6), 4), "ffn": dict.fromkeys(range(6), 512)}
    assert params(net, "backbone").of(smallest) == CLOSED_FORM["smallest"]


@pytest.mark.parametrize("family", ENCODERS)
def test_parts_of_the_parameters(family):
    net = tiny_net(family)
    total = sum(p.numel() for p in net.parameters())
    assert params(net).of() == total
    assert params(net, "backbone").of() == sum(p.numel() for p in net.base_model.parameters()) < total
    assert params(net, "encoder").of() == sum(p.numel() for p in layers_of(net).parameters())
    assert params(net, "encoder").of({"layers": []}) == 0


def test_tied_factorised_parametrised_and_half_precision_weights():
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    tied = BertForMaskedLM(config)
    assert params(tied).of() == sum(p.numel() for p in tied.parameters())
    assert macs(tied, 1, 6).of() == counted(tied, 1, 6)
    net = tiny_net()
    assert size(copy.deepcopy(net).half()).of() == 2 * params(net).of()
    thin = factorize_embedding(net, 4)
    assert params(thin).of() == sum(p.numel() for p in thin.parameters()) != params(tiny_net()).of()
    assert macs(thin, 1, 6).of() == counted(thin, 1, 6)
    plain, arch = tiny_net(), {"heads.0": 3, "ffn.0": 5}
    bent = tiny_net()
    parametrize.register_parametrization(layers_of(bent)[0].intermediate.dense, "weight", torch.nn.Tanh())
    assert params(bent).of(arch) == params(plain).of(arch)


def test_the_quick_way_checks_sizes_too():
    net = tiny_net()
    arch = {"layers": [0], "heads.0": 3, "ffn.0": 4}
    cost = params(net)
    first = cost.of(arch)
    assert cost.of(arch) == first  # the second time on the quick way
    for wrong in ({"heads.0": 5}, {"ffn.0": -1}, {"layers": [3]}, {"layers": [0, 0]}, {"heads.7": 1}):
        with pytest.raises(SliceError):
            cost.of(arch | wrong)
