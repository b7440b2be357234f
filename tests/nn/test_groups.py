"""Groups: at zero they contribute nothing, sums over them are those of slices, and what is left computes the same."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from nasframe.errors import UsageError
from nasframe.nn.channels import channel_groups, removable_groups, without
from nasframe.nn.elastic import FAMILIES
from nasframe.nn.groups import Grouped, dot, encoder_groups, square, tensor_of, zeros_last
from nasframe.nn.slices import extract
from nasframe.testing.toy import ENCODERS, tiny_inputs, tiny_net


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def part(net: nn.Module, member, k: int) -> torch.Tensor:
    """What group k owns of a tensor, by definition."""
    return tensor_of(net, member.name).narrow(member.dim, k * member.width, member.width)


def spoil(net: nn.Module, group, k: int, value: float) -> None:
    for member in group.members:
        part(net, member, k).fill_(value)


@pytest.mark.parametrize("family", ENCODERS)
def test_a_zero_group_contributes_nothing_and_nothing_less_does(family):
    """With a group at zero, the network is the one without it: whatever its other tensors were."""
    net = tiny_net(family, layers=1)
    for group in encoder_groups(net):
        small = copy.deepcopy(net)
        spoil(small, group, 1, 0.0)
        expected = small(**tiny_inputs()).logits
        zero = torch.arange(group.count) == 1
        arch = zeros_last(small, {group.unit: {group.layer: zero}})
        assert arch[f"{group.unit}.{group.layer}"] == group.count - 1
        torch.testing.assert_close(extract(small, arch)(**tiny_inputs()).logits, expected, rtol=0, atol=1e-6)
        reader = group.members[-1]  # where the reader alone is left, zero rows and biases give zero all the same
        assert reader.dim == 1
        if group.unit == "heads":
            part(small := copy.deepcopy(net), group.members[4], 1).zero_(), part(small, group.members[5], 1).zero_()
            torch.testing.assert_close(small(**tiny_inputs()).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_heads_and_neurons_own_their_biases(family):
    row = FAMILIES[family]
    names = {u: {m.name.split("layer.0.")[1] for m in encoder_groups(tiny_net(family, layers=1), [u])[0].members}
             for u in ("heads", "ffn")}  # fmt: skip
    both = lambda path: {f"{path}.weight", f"{path}.bias"}  # noqa: E731
    assert names["heads"] == set.union(*map(both, row.writers("heads"))) | {f"{row.merge}.weight"}
    assert names["ffn"] == both(row.writers("ffn")[0]) | {f"{row.shrink}.weight"}


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_rows_over_groups_are_those_of_their_parts(seed):
    net = tiny_net("distilbert", layers=2, seed=seed % 7)
    groups = encoder_groups(net)
    x = Grouped(net, groups)
    draw = torch.Generator().manual_seed(seed)
    others = [torch.randn(t.shape, generator=draw) for t in x.tensors]
    by_name = dict(zip([m.name for g in groups for m in g.members], others, strict=True))
    pairs = [
        [(part(net, m, k), by_name[m.name].narrow(m.dim, k * m.width, m.width)) for m in g.members]
        for g in groups
        for k in range(g.count)
    ]
    torch.testing.assert_close(x.squares(), torch.stack([sum((a * a).sum() for a, _ in p) for p in pairs]))
    torch.testing.assert_close(
        x.dots(x.views, x.cut(others)),
        torch.stack([sum((a * b).sum() for a, b in p) for p in pairs]),
        rtol=1e-4,
        atol=1e-4,
    )
    assert x.sizes.tolist() == [sum(a.numel() for a, _ in p) for p in pairs]
    factors = torch.rand(len(pairs), generator=draw)
    expected = [[a * f - f * b for a, b in p] for p, f in zip(pairs, factors, strict=True)]
    x.scale_(factors)
    made = lambda a, b, f: [square(a.addcmul_(b, f, value=-1)), dot(a, b)]  # noqa: E731
    squares, dots = x.sums(made, x.views, x.cut(others), x.each(factors))
    torch.testing.assert_close(squares, x.squares())
    torch.testing.assert_close(dots, x.dots(x.views, x.cut(others)))
    for p, e in zip(pairs, expected, strict=True):
        for (a, _), b in zip(p, e, strict=True):
            torch.testing.assert_close(a, b)
    which = torch.rand(len(pairs), generator=draw) < 0.3
    kept = x.squares()
    x.clear_(which)
    torch.testing.assert_close(x.squares(), torch.where(which, 0, kept), rtol=0, atol=0)


def test_a_parametrised_tensor_is_reached_behind_its_parametrisation():
    net = tiny_net(layers=1)
    linear = net.bert.encoder.layer[0].output.dense
    parametrize.register_parametrization(linear, "weight", nn.Identity())
    x = Grouped(net, encoder_groups(net, ["ffn"]))
    x.scale_(torch.zeros(64))
    assert x.zero().all()
    assert (linear.weight == 0).all()


def test_the_last_places_are_for_the_zeros():
    net = tiny_net()
    groups = encoder_groups(net)
    x = Grouped(net, groups)
    gone = torch.rand(len(x.sizes), generator=torch.Generator().manual_seed(1)) < 0.5
    x.scale_((~gone).float())
    expected = net(**tiny_inputs()).logits
    masks: dict = {}
    for g, mask in x.layers(gone):
        masks.setdefault(g.unit, {})[g.layer] = mask
    arch = zeros_last(net, masks)
    torch.testing.assert_close(net(**tiny_inputs()).logits, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(extract(net, arch)(**tiny_inputs()).logits, expected, rtol=0, atol=1e-6)
    assert sum(v for k, v in arch.items() if k != "layers") == int((~gone).sum())


def test_kinds_that_are_not_there_are_refused():
    with pytest.raises(UsageError, match=r"no groups 'channels'\. Expected some of ffn, heads"):
        removable_groups(tiny_net(), ["channels"])
    with pytest.raises(UsageError, match=r"no groups 'heads'\. Expected some of channels"):
        removable_groups(pictures(), ["heads"])
    with pytest.raises(UsageError, match="the list is empty"):
        encoder_groups(tiny_net(), [])
    with pytest.raises(UsageError, match="none of its channels can be removed"):
        removable_groups(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


class Residual(nn.Module):
    """Two convolutions around a shortcut, and a hidden linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.hidden, self.head = nn.Linear(6 * 4, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = torch.relu(self.bn(self.first(x)))
        x = x + self.outer(torch.relu(self.inner(x)))
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(torch.tanh(self.hidden(x)))


def pictures() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 3),
    )  # fmt: skip


@pytest.mark.parametrize("make", [Residual, pictures])
def test_channels_leave_with_all_that_reads_them(make):
    torch.manual_seed(0)
    net = make()
    net(torch.randn(16, 1, 4, 4))  # the normalisation gets statistics of its own
    net.eval()
    x = Grouped(net, channel_groups(net))
    gone = torch.rand(len(x.sizes), generator=torch.Generator().manual_seed(2)) < 0.4
    x.scale_((~gone).float())
    inputs = torch.randn(5, 1, 4, 4)
    small = without(net, x.groups, {g.layer: mask for g, mask in x.layers(gone)})
    torch.testing.assert_close(small(inputs), net(inputs), rtol=0, atol=1e-6)
    readers = {m: g for g in x.groups for m in g.along if "running" not in m.name}
    kept = {m.name: (~mask).sum() * m.width for g, mask in x.layers(gone) for m in g.members}
    kept |= {m.name + " read": (~mask).sum() * m.width for g, mask in x.layers(gone) for m in g.along}
    for name, tensor in small.named_parameters():  # rows are those of who makes them, columns of who reads
        whole = dict(net.named_parameters())[name]
        assert tensor.shape[0] == kept.get(name, whole.shape[0])
        assert tensor.ndim == 1 or tensor.shape[1] == kept.get(name + " read", whole.shape[1])
    assert len(readers) >= 2


def test_channels_of_a_shortcut_leave_together_and_unknown_operations_keep_theirs():
    both, inner, hidden = channel_groups(Residual())
    assert (both.count, inner.count, hidden.count) == (6, 5, 7)
    biased = lambda *names: {f"{name}.{key}" for name in names for key in ("weight", "bias")}  # noqa: E731
    assert {m.name for m in both.members} == biased("first", "bn", "outer")
    assert {m.name for m in both.along} == {"bn.running_mean", "bn.running_var", "inner.weight", "hidden.weight"}
    assert {m.name for m in hidden.members} == biased("hidden")

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, 1)
            self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(5, 2)

        def forward(self, x):
            x = self.b(self.b(self.norm(self.a(x))))  # mixes channels; is used twice
            return self.head(self.c(x).mean((2, 3)))

    assert [{m.name for m in g.members} for g in channel_groups(Odd())] == [{"c.weight", "c.bias"}]
