"""All rows of the table of families, with the heads that transformers gives them."""

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nasframe import hf
from nasframe.nn import importance
from nasframe.nn.blueprint import blueprint, load
from nasframe.nn.count import macs, params, size
from nasframe.nn.elastic import FAMILIES, Conv1D, base_of, layers_of
from nasframe.nn.groups import Grouped, encoder_groups, zeros_last
from nasframe.nn.rewire import rewire
from nasframe.nn.slices import SliceError, extract, view
from nasframe.records import Batch
from nasframe.testing.toy import tiny_config, tiny_images, tiny_inputs, tiny_net

IMAGES = ("vit", "deit")
GROUPED = ("llama", "qwen2")
EAGER = ("mpnet", "deberta-v2")  # no other attention in transformers
HEADS = (
    "AutoModel",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
)


def heads_of(family: str) -> list[str]:
    """Return the auto classes that know a family, and for DeiT the class that the auto class cannot choose."""
    import transformers

    config = type(tiny_config(family))
    heads = []
    for name in HEADS:
        classes = getattr(transformers, name)._model_mapping.get(config, None)
        if isinstance(classes, tuple):
            heads += [cls.__name__ for cls in classes]
        elif classes is not None:
            heads.append(name)
    return heads


LIKE_BERT = ("roberta", "xlm-roberta", "camembert", "ernie", "data2vec-text", "electra")
LIKE_OTHERS = (*LIKE_BERT, "deit", "qwen2")
"""Families whose row is that of another one: most tests of them are slow ones."""
QUICK = ("AutoModelForSequenceClassification", "DeiTForImageClassification")


def _parameters() -> Iterator[Any]:
    for family in FAMILIES:
        for head in heads_of(family):
            is_quick = family not in LIKE_OTHERS or head in QUICK
            yield pytest.param(family, head, marks=() if is_quick else pytest.mark.slow)


ROWS = list(_parameters())
ALL = [pytest.param(family, marks=pytest.mark.slow if family in LIKE_OTHERS else ()) for family in FAMILIES]


@functools.cache
def _net(family: str, head: str = "", attention: str = "eager") -> torch.nn.Module:
    decodes = head.endswith("CausalLM") and not FAMILIES[family].causal
    extra = {"is_decoder": True} if decodes else {}
    if family not in EAGER:
        extra["attn_implementation"] = attention
    return tiny_net(family, head=head, **extra)


def net_of(family: str, head: str = "", attention: str = "eager") -> torch.nn.Module:
    return copy.deepcopy(_net(family, head, attention))


def inputs_of(net: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    if base_of(net).config.model_type in IMAGES:
        inputs = tiny_images(seed=seed)
        if type(net).__name__.endswith("ForMaskedImageModeling"):
            inputs["bool_masked_pos"] = torch.ones(3, 16, dtype=torch.bool)
        return inputs
    inputs = tiny_inputs(seed=seed)
    if type(net).__name__.endswith("ForMultipleChoice"):
        return {name: torch.stack([tensor, tensor.flip(0)], dim=1) for name, tensor in inputs.items()}
    return inputs


def tensors(outputs: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def assert_equal(ours: Any, theirs: Any) -> None:
    ours, theirs = tensors(ours), tensors(theirs)
    assert ours.keys() == theirs.keys() != set()
    for name, expected in theirs.items():
        assert expected.isfinite().all(), name
        assert torch.equal(ours[name], expected), (name, float((ours[name] - expected).abs().max()))


def archs(family: str) -> list[dict[str, Any]]:
    """Return odd sizes, zero sizes, dropped layers; heads are whole groups."""
    odd = 2 if family in GROUPED else 3
    row = FAMILIES[family]
    special: list[dict[str, Any]] = []
    if not row.keeps_first:
        special.append({"layers": [1], "heads.1": 0, "ffn.1": 5})
    if not row.needs_layer:
        special.append({"layers": []})
    return [
        {"layers": [0, 2], "heads.0": odd, "ffn.0": 17, "heads.2": 4, "ffn.2": 1},
        {"layers": [0, 1, 2], "heads.0": 0, "ffn.1": 0, "heads.2": odd},
        {"layers": [0, 2], "heads.0": 0, "ffn.0": 0, "heads.2": 0, "ffn.2": 0},
        *special,
    ]


def counted(net: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(**inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(("family", "head"), ROWS)
def test_a_view_is_the_extracted_model_and_costs_what_the_tables_say(family: str, head: str) -> None:
    net = net_of(family, head)
    inputs = inputs_of(net)
    ids = inputs.get("input_ids", torch.zeros(3, 1))
    batch, length = ids.shape[:-1].numel(), ids.shape[-1]
    weights, products, stored = params(net), macs(net, batch, length), size(net)
    for arch in archs(family):
        small = extract(net, arch)
        with torch.no_grad():
            assert_equal(view(net, arch)(**inputs), small(**inputs))
        own = sum(parameter.numel() for parameter in small.parameters())
        assert (weights.of(arch), stored.of(arch)) == (own, 4 * own), arch
        assert products.of(arch) == counted(small, inputs), arch
    assert products.of() == counted(net, inputs)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ALL)
def test_the_full_size_is_the_untouched_model(family: str, attention: str) -> None:
    net = net_of(family, attention=attention)
    inputs = inputs_of(net)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        expected = net(**inputs)
        assert_equal(view(net, {})(**inputs), expected)
        assert_equal(extract(net, {})(**inputs), expected)
        for arch in archs(family):
            assert_equal(view(net, arch)(**inputs), extract(net, arch)(**inputs))
        assert_equal(net(**inputs), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def numbered(net: torch.nn.Module) -> torch.nn.Module:
    """Return a copy whose weights are their own positions, so that slices of it say where their entries come from."""
    copied = copy.deepcopy(net).double()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape))
    return copied


@pytest.mark.parametrize("autograd", [False, True])
@pytest.mark.parametrize("family", ALL)
def test_gradients_are_those_of_the_extracted_model_in_their_places(family: str, autograd: bool) -> None:
    net = net_of(family)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    arch = archs(family)[0]
    positions = {"0": "0", "1": "2"}  # layers of the sub-network and of the network
    small, places = extract(net, arch), extract(numbered(net), arch)
    expected: dict[str, torch.Tensor] = {}
    for seed in (0, 1):
        small.zero_grad()
        small(**inputs_of(net, seed)).logits.square().sum().backward()
        prefix = next(name for name, module in net.named_modules() if module is layers_of(net)) + "."
        for (name, parameter), place in zip(small.named_parameters(), places.parameters(), strict=True):
            if name.startswith(prefix):
                number, _, rest = name.removeprefix(prefix).partition(".")
                name = f"{prefix}{positions[number]}.{rest}"
            whole = net.get_parameter(name)
            if parameter.grad is not None:
                total = expected.setdefault(name, torch.zeros(whole.numel()))
                total.index_add_(0, place.detach().flatten().long(), parameter.grad.flatten())
        view(net, arch, autograd)(**inputs_of(net, seed)).logits.square().sum().backward()
    for parameter in net.parameters():
        name = names[id(parameter)]
        if name not in expected:
            assert parameter.grad is None, name
            continue
        torch.testing.assert_close(parameter.grad.flatten(), expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", ALL)
def test_a_view_is_the_network_with_the_rest_zeroed(family: str) -> None:
    net, row = net_of(family), FAMILIES[family]
    kept_heads, zeroed = [4, 2, 0], copy.deepcopy(net)
    with torch.no_grad():
        for i, layer in enumerate(layers_of(zeroed)):
            for path, first in ((row.merge, 8 * kept_heads[i]), (row.shrink, 13 * i)):
                linear = layer.get_submodule(path)
                columns = linear.weight.T if isinstance(linear, Conv1D) else linear.weight
                columns[:, first:] = 0
        arch = {f"heads.{i}": kept_heads[i] for i in range(3)} | {f"ffn.{i}": 13 * i for i in range(3)}
        expected = zeroed(**inputs_of(net)).logits
        torch.testing.assert_close(view(net, arch)(**inputs_of(net)).logits, expected, rtol=0, atol=3e-6)


def loss(outputs: Any, batch: Batch) -> torch.Tensor:
    return outputs.logits.square().mean()


@pytest.mark.parametrize("score", ["magnitude", "taylor"])
@pytest.mark.parametrize("family", ALL)
def test_rewiring_by_importance_keeps_the_function(family: str, score: str) -> None:
    net = net_of(family)
    inputs = inputs_of(net)
    batch = Batch(inputs, torch.zeros(3), torch.arange(3))
    measure = {"magnitude": importance.magnitude, "taylor": lambda net: importance.taylor(net, [batch], loss)}[score]
    with torch.no_grad():
        expected = net(**inputs).logits
    orders = importance.ranked(measure(net))
    rewire(net, orders)
    with torch.no_grad():
        torch.testing.assert_close(net(**inputs).logits, expected, rtol=0, atol=3e-6)
    moved = sum(not torch.equal(order, order.sort().values) for unit in orders.values() for order in unit.values())
    assert moved > 3
    for unit in measure(net).values():
        for values in unit.values():
            assert (values.diff() <= 1e-5 * values.max()).all()


@pytest.mark.parametrize("family", ALL)
def test_zeroed_groups_come_last_and_leave_without_a_trace(family: str) -> None:
    net = net_of(family)
    groups = Grouped(net, encoder_groups(net))
    rng = np.random.default_rng(0)
    chosen = torch.as_tensor(rng.random(sum(groups.counts)) < 0.5)
    with torch.no_grad():
        groups.clear_(chosen)
        assert torch.equal(groups.zero(), chosen)
        expected = net(**inputs_of(net)).logits
        masks: dict[str, dict[int, torch.Tensor]] = {"heads": {}, "ffn": {}}
        for entry, mask in groups.layers(chosen):
            masks[entry.unit][entry.layer] = mask
        arch = zeros_last(net, masks)
        small = extract(net, arch)
        torch.testing.assert_close(small(**inputs_of(net)).logits, expected, rtol=0, atol=3e-6)
    each = 2 if family in GROUPED else 1
    assert arch["heads.1"] == each * int((~masks["heads"][1]).sum())
    assert int(Grouped(small, encoder_groups(small)).zero().sum()) == 0


@pytest.mark.parametrize("family", ALL)
def test_blueprints_build_and_load_again(family: str) -> None:
    net = net_of(family, attention="sdpa")
    for arch in archs(family)[:3]:
        small = extract(net, arch)
        sizes = json.loads(json.dumps(blueprint(small)))
        again = load(json.loads(json.dumps(small.config.to_dict())), sizes, small.state_dict())
        assert blueprint(again) == sizes
        with torch.no_grad():
            assert_equal(again(**inputs_of(net)), small(**inputs_of(net)))
            inner = {"heads.0": 0, "ffn.1": sizes["layers"][1]["ffn"] // 2}
            assert_equal(view(again, inner)(**inputs_of(net)), extract(again, inner)(**inputs_of(net)))


@pytest.mark.parametrize("family", GROUPED)
def test_heads_are_whole_groups(family: str) -> None:
    net = net_of(family)
    assert blueprint(net)["group"] == 2
    with pytest.raises(SliceError, match=r"heads\.1: 3 heads are not whole groups of 2.*Expected one of 0, 2, 4\."):
        view(net, {"heads.1": 3})
    with pytest.raises(SliceError, match="whole groups"):
        params(net).of({"layers": [0], "heads.0": 1, "ffn.0": 3})
    with pytest.raises(ValueError, match="not a permutation of 2 positions"):
        rewire(net, {"heads": {0: [3, 2, 1, 0]}})
    table = params(net).table({"layers": [[0, 1, 2]], "heads.0": [0, 2, 4]})
    assert [table.base + sum(table.choices["layers"]) + cost for cost in table.choices["heads.0"]] == [
        params(net).of({"heads.0": heads}) for heads in (0, 2, 4)
    ]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("first_heads", [4, 0])
def test_generation_with_a_cache_is_that_without(family: str, first_heads: int) -> None:
    net = net_of(family, "AutoModelForCausalLM")
    arch = {"layers": [0, 2], "heads.0": first_heads, "ffn.2": 9}
    small = extract(net, arch)
    prompt = tiny_inputs(batch=1)
    settings = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = small.generate(**prompt, use_cache=True, **settings)
    assert torch.equal(cached, small.generate(**prompt, use_cache=False, **settings))
    assert cached.shape == (1, 16)
    with torch.no_grad():
        whole = small(input_ids=cached[:, :-1], use_cache=False).logits
        assert torch.equal(whole[:, 6:].argmax(-1), cached[:, 7:])
        assert_equal(
            {"logits": view(net, arch)(input_ids=cached, use_cache=True).logits},
            {"logits": small(input_ids=cached, use_cache=True).logits},
        )


def test_entries_by_layer_follow_the_layers() -> None:
    net = tiny_net("qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=1)
    assert net.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]
    plain = tiny_net("qwen2")
    for arch in ({"layers": [0, 2]}, {"layers": [1]}, {"layers": [0]}):
        small = extract(net, arch)
        assert small.config.layer_types == [net.config.layer_types[layer] for layer in arch["layers"]]
        with torch.no_grad():
            assert_equal(view(net, arch)(**tiny_inputs()), small(**tiny_inputs()))
            full = view(plain, arch)(**tiny_inputs()).logits
            assert torch.equal(full, small(**tiny_inputs()).logits) == (arch["layers"] == [0])


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "add_cross_attention", True),
        ("deberta-v2", "conv_kernel_size", 3),
    ],
)
def test_a_form_that_slices_would_change_is_refused(family: str, field: str, value: Any) -> None:
    net = tiny_net(family, **{field: value})
    with pytest.raises(TypeError, match=rf"cannot be sliced: {field} is {value}\. Expected (False|0)\."):
        view(net, {"layers": [1]})


def test_a_first_layer_of_its_own_kind_stays() -> None:
    net = net_of("modernbert")
    for use in (view, extract):
        with pytest.raises(SliceError, match=r"layers: \[1, 2\] leaves out layer 0.*Expected layer 0 among them"):
            use(net, {"layers": [1, 2]})


def test_auto_classes_load_every_head_of_every_row() -> None:
    for family, head in (parameter.values for parameter in ROWS):
        with torch.device("meta"):
            net = tiny_net(family, layers=1, head=head)
        names = hf.auto_classes(type(net))
        assert names
        assert not head.startswith("Auto") or head in names


def test_heads_take_their_columns_of_a_shared_table_along() -> None:
    net = net_of("mpnet")
    inputs = tiny_inputs()
    with torch.no_grad():
        net.mpnet.encoder.relative_attention_bias.weight.mul_(50)  # so that a wrong column shows
        expected = net(**inputs).logits
    order = {"heads": {0: [2, 0, 3, 1], 2: [3, 2, 1, 0]}}
    rewire(net, order)
    assert blueprint(net)["head_order"] == {"0.heads": [2, 0, 3, 1], "2.heads": [3, 2, 1, 0]}
    rewire(net, {"heads": {0: [1, 0, 2, 3]}})
    assert blueprint(net)["head_order"]["0.heads"] == [0, 2, 3, 1]
    with torch.no_grad():
        torch.testing.assert_close(net(**inputs).logits, expected, rtol=0, atol=3e-6)
        for arch in ({"layers": [0, 2], "heads.0": 2, "heads.2": 3}, {"layers": [2], "ffn.2": 3}):
            small = extract(copy.deepcopy(net), arch)
            assert_equal(view(net, arch)(**inputs), small(**inputs))
            sizes = json.loads(json.dumps(blueprint(small)))
            again = load(small.config.to_dict(), sizes, small.state_dict())
            assert blueprint(again) == sizes
            assert_equal(again(**inputs), small(**inputs))
            assert_equal(extract(small, {})(**inputs), small(**inputs))
    assert blueprint(small)["head_order"] == {"0.heads": [3, 2, 1, 0]}
    rewire(net, {"heads": {0: [0, 3, 1, 2], 2: [3, 2, 1, 0]}})  # back again
    assert "head_order" not in blueprint(net)


@pytest.mark.parametrize("kinds", [["c2p"], ["p2c"], ["p2c", "c2p"], None])
@pytest.mark.parametrize("shared", [True, False])
def test_positions_of_deberta_in_every_form(kinds: list[str] | None, shared: bool) -> None:
    net = tiny_net("deberta-v2", pos_att_type=kinds, share_att_key=shared, relative_attention=kinds is not None)
    inputs = tiny_inputs()
    for arch in ({}, {"layers": [0, 2], "heads.0": 3, "heads.2": 0}):
        small = extract(net, arch)
        with torch.no_grad():
            assert_equal(view(net, arch)(**inputs), small(**inputs))
        assert params(net).of(arch) == sum(parameter.numel() for parameter in small.parameters())
        assert macs(net, 3, 7).of(arch) == counted(small, inputs)
