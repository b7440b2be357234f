"""Space ``compound``: architectures of one size, counted against the networks themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.nn.blueprint import blueprint
from nasframe.testing.toy import tiny_inputs, tiny_net


def compound(family="bert", **options):
    return nf.make("space", {"use": "compound", **options}, config=tiny_net(family).config)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "vit", "gpt2", "llama"])
def test_its_arithmetic_is_that_of_the_estimator(family):
    net, space = tiny_net(family), compound(family)
    encoder_params = nf.make("estimator", "encoder_params")
    full = encoder_params.estimate(space, net)
    rng = np.random.default_rng(0)
    for _ in range(20):
        arch = space.domain.sample(rng)
        cost = encoder_params.estimate(space, net, arch)
        assert space.fill(arch) * arch["size"] / 100 * full == pytest.approx(cost, rel=1e-12)
        assert 0.98 * arch["size"] / 100 * full <= cost <= arch["size"] / 100 * full


@settings(max_examples=60, deadline=None)
@given(
    size=st.floats(12, 100),
    layers=st.sampled_from([[0, 1, 2], [0, 2], [1]]),
    attention=st.floats(0, 1),
    tilt=st.floats(-0.9, 0.9),
)
def test_every_choice_is_a_network(size, layers, attention, tilt):
    space = compound(layers=[[0, 1, 2], [0, 2], [1]])
    arch = {"size": size, "layers": layers, "attention": attention, "tilt": tilt}
    sizes = space.sizes(arch)
    assert sizes["layers"] == layers
    for layer in layers:
        assert 1 <= sizes[f"heads.{layer}"] <= 4
        assert 0 <= sizes[f"ffn.{layer}"] <= 64
    # What is left of the budget is less than one more neuron, unless all neurons and heads are there.
    is_full = all(sizes[f"heads.{layer}"] == 4 and sizes[f"ffn.{layer}"] == 64 for layer in layers)
    smallest = space.network.cost.fixed + space.network.cost.head
    if not is_full and size / 100 * space.network.total >= len(layers) * smallest:
        left = (1 - space.fill(arch)) * size / 100 * space.network.total
        assert left < max(space.network.cost.neuron, space.network.cost.head)


def test_widths_follow_tilt_and_attention():
    space = nf.make("space", {"use": "compound"}, config=tiny_net(num_attention_heads=8).config)
    flat = space.sizes(space.arch({"size": 50, "tilt": 0}))
    rising = space.sizes(space.arch({"size": 50, "tilt": 0.5}))
    assert max(flat[f"ffn.{i}"] for i in range(3)) - min(flat[f"ffn.{i}"] for i in range(3)) <= 1
    assert rising["ffn.0"] < rising["ffn.1"] < rising["ffn.2"]
    heads = [space.sizes(space.arch({"size": 50, "attention": share}))["heads.1"] for share in (0.2, 0.33, 0.5)]
    assert heads == sorted(heads)
    assert heads[0] < heads[-1]


def test_equal_networks_are_one_architecture():
    space = compound()
    networks = [tuple(sorted((k, str(v)) for k, v in space.sizes(arch).items())) for arch in space.domain.enumerate()]
    assert len(networks) > 100
    by_size = [(arch["size"], network) for arch, network in zip(space.domain.enumerate(), networks, strict=True)]
    assert len(set(by_size)) == len(by_size)


def test_both_ends_belong_to_the_domain():
    space = compound(smallest="20%")
    assert space.domain.contains(space.domain.smallest())
    assert space.domain.contains(space.domain.largest())
    assert space.sizes(space.domain.largest())["ffn.2"] == 64


def test_the_largest_size_is_the_whole_network_if_its_neurons_are_no_whole_blocks():
    config = tiny_net(intermediate_size=1003).config
    space = nf.make("space", {"use": "compound"}, config=config)
    sizes = space.sizes(space.domain.largest())
    assert [sizes[f"ffn.{layer}"] for layer in range(3)] == [1003] * 3
    assert space.fill(space.domain.largest()) == 1


def test_extracted_networks_have_the_widths():
    net, space = tiny_net(), compound(layers=[2, 3])
    arch = space.arch({"size": "40%", "layers": 2})
    extracted = space.extract(net, arch)
    sizes = space.sizes(arch)
    expected = [{"heads": sizes[f"heads.{i}"], "ffn": sizes[f"ffn.{i}"]} for i in sizes["layers"]]
    assert blueprint(extracted)["layers"] == expected
    inputs = tiny_inputs()
    assert (extracted(**inputs).logits - space.view(net, arch)(**inputs).logits).abs().max() < 1e-6


def test_recipes_write_sizes_or_widths():
    space = compound(layers=[2, 3])
    assert space.arch({"size": 25}) == {"size": 25.0, "layers": [0, 1, 2], "attention": 0.5, "tilt": 0.0}
    assert space.arch({"size": "25%", "layers": 2})["layers"] == [0, 1]
    assert space.arch({"heads": 2, "ffn": 8})["heads.0"] == 2


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"size": 120}, "120"),
        ({"size": "much"}, "not a share"),
        ({"size": 25, "heads": 2}, "heads: not a choice"),
        ({"size": 25, "tilt": 0.4}, "tilt"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(sizes, text):
    with pytest.raises(UsageError, match=text):
        compound().arch(sizes)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"smallest": "60%", "largest": "50%"}, "smallest ≤ largest"),
        ({"smallest": "1%", "largest": "1.001%"}, "no choice of layers fills"),
        ({"layers": [9]}, "layers"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, text):
    with pytest.raises(UsageError, match=text):
        compound(**options)


def test_costs_are_counted_one_by_one():
    space, net = compound(), tiny_net()
    assert nf.make("estimator", "params").table(space, net) is None
