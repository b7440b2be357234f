"""The option ``size`` of the sparse optimisers: a share of the encoder's parameters, in place of one of the groups."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.nn import count
from nasframe.nn.slices import extract
from nasframe.testing.toy import tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_hspg.stage import GroupModifier


def encoder(net):
    return count.params(net, "encoder").of()


@pytest.mark.parametrize("name", ["hspg", "dhspg", "hesso"])
@pytest.mark.parametrize("size", ["30%", "50%", "77%"])
def test_what_is_cut_out_is_just_within_the_size(name, size):
    net = tiny_net()
    modifier = nf.make("modifier", {"use": name, "size": size})
    job = toy_job(net=net, modifiers=[modifier], max_steps=10)
    arch = nf.make("trainer", "loop").fit(job).arch
    share = encoder(extract(net, arch)) / encoder(tiny_net())
    wanted = float(size.removesuffix("%")) / 100
    assert wanted - 0.03 < share <= wanted


def test_heads_that_share_keys_and_values_count_as_one_group():
    net = tiny_net("llama", num_key_value_heads=2)
    modifier = nf.make("modifier", {"use": "dhspg", "size": "50%"})
    arch = nf.make("trainer", "loop").fit(toy_job(net=net, modifiers=[modifier], max_steps=10)).arch
    share = encoder(extract(net, arch)) / encoder(tiny_net("llama", num_key_value_heads=2))
    assert 0.4 < share <= 0.5


def test_rounding_up_keeps_within_the_size():
    net = tiny_net()
    modifier = nf.make("modifier", {"use": "dhspg", "size": "50%", "divisible": 8})
    arch = nf.make("trainer", "loop").fit(toy_job(net=net, modifiers=[modifier], max_steps=10)).arch
    assert all(arch[f"ffn.{layer}"] % 8 == 0 for layer in range(3))
    assert encoder(extract(net, arch)) <= 0.5 * encoder(tiny_net())


@settings(deadline=None, max_examples=30)
@given(size=st.integers(10, 95), layers=st.integers(1, 4))
def test_the_share_is_the_largest_within_the_size(size, layers):
    net = tiny_net(layers=layers)
    part = GroupModifier(None, size=f"{size}%").target_within(net, ["heads", "ffn"])

    def counted(part):
        """The encoder with that share of heads and of neurons, by hand: all layers of the toy are equal."""
        whole, base = count.params(net, "encoder"), {"layers": list(range(layers))}
        empty = whole.of(base | {f"{unit}.{i}": 0 for unit in ("heads", "ffn") for i in range(layers)})
        head = whole.of(base | {"heads.0": 1, "ffn.0": 0}) - whole.of(base | {"heads.0": 0, "ffn.0": 0})
        neuron = whole.of(base | {"heads.0": 0, "ffn.0": 1}) - whole.of(base | {"heads.0": 0, "ffn.0": 0})
        return empty + round(part * 4 * layers) * head + round(part * 64 * layers) * neuron

    assert counted(part) <= size / 100 * encoder(net)
    assert counted(part + 0.001) > size / 100 * encoder(net)


def test_a_size_that_cannot_be_met_is_refused_before_work():
    modifier = nf.make("modifier", {"use": "hspg", "size": "1%"})
    with pytest.raises(UsageError, match=r"size 1\.0%: what always stays is"):
        modifier.validate(toy_job(net=tiny_net(), modifiers=[modifier]))


@pytest.mark.parametrize("other", ["target", "caps"])
def test_target_or_caps_and_size_exclude_each_other(other):
    with pytest.raises(UsageError, match="Expected one of them"):
        nf.make("modifier", {"use": "hspg", "size": "50%", other: "50%"})
