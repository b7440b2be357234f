"""Gates: they scale a head's context and a neuron's activation, fold into what reads them, and cut exactly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrize

from nasframe.errors import UsageError
from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import family_of, layers_of
from nasframe.nn.gates import add_gates, compact, fold_gates
from nasframe.nn.quantize import RowQuantizer
from nasframe.nn.slices import extract
from nasframe.testing.toy import ENCODERS, tiny_inputs, tiny_net


def scaled_in_place(net: Any, gates: Any) -> list[Any]:
    """Scale contexts and activations themselves, by hooks on what reads them: an independent way to gate."""
    family, handles = family_of(net), []
    for unit, layer, gamma, _ in gates:
        path = family.merge if unit == "heads" else family.shrink
        factor = gamma.detach().repeat_interleave(8 if unit == "heads" else 1)
        reader = layers_of(net)[layer].get_submodule(path)
        handles.append(reader.register_forward_pre_hook(lambda _, inputs, by=factor: (inputs[0] * by,)))
    return handles


def drawn(gates: Any, seed: int, zeros: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, _, gamma, _ in gates:
        keep = torch.rand(gamma.shape, generator=generator) >= zeros
        gamma.data = torch.randn(gamma.shape, generator=generator) * keep


@pytest.mark.parametrize("family", ENCODERS)
def test_a_gate_scales_the_context_or_the_activation(family: str) -> None:
    plain = tiny_net(family)
    net = copy.deepcopy(plain)
    gates = add_gates(net)
    assert [len(g.gamma) for g in gates] == [4, 64] * 3
    torch.testing.assert_close(net(**tiny_inputs()).logits, plain(**tiny_inputs()).logits)
    drawn(gates, 0, 0.3)
    scaled_in_place(plain, gates)
    torch.testing.assert_close(net(**tiny_inputs()).logits, plain(**tiny_inputs()).logits)


@settings(deadline=None, max_examples=12)
@given(
    family=st.sampled_from(sorted(ENCODERS)),
    seed=st.integers(0, 99),
    zeros=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    bits=st.sampled_from([None, 8]),
)
def test_zero_gates_become_a_smaller_model_that_computes_the_same(
    family: str, seed: int, zeros: float, bits: Any
) -> None:
    net = tiny_net(family, seed=seed)
    gates = add_gates(net)
    drawn(gates, seed, zeros)
    if bits:  # a quantiser sees the product, and zero columns are on every grid
        for gated in gates:
            parametrize.register_parametrization(gated.reader, "weight", RowQuantizer(bits))
    with torch.no_grad():
        sparse = net(**tiny_inputs()).logits
        kept = {f"{g.unit}.{g.layer}": int((g.gamma != 0).sum()) for g in gates}
        fold_gates(gates)
        arch = compact(net, gates)
        small = extract(net, arch)
        assert (net(**tiny_inputs()).logits - sparse).abs().max() <= 1e-5
        assert (small(**tiny_inputs()).logits - sparse).abs().max() <= 1e-5
    assert arch == {"layers": [0, 1, 2], **kept}
    assert [layer | {} for layer in blueprint(small)["layers"]] == [
        {"heads": kept[f"heads.{i}"], "ffn": kept[f"ffn.{i}"]} for i in range(3)
    ]
    assert not any("parametrizations" in name for name in net.state_dict())


def test_some_units_only_and_layers_without_any() -> None:
    net = extract(tiny_net(), {"heads.1": 0, "ffn.2": 0})
    assert [(g.unit, g.layer) for g in add_gates(copy.deepcopy(net))] == [
        ("heads", 0), ("ffn", 0), ("ffn", 1), ("heads", 2),
    ]  # fmt: skip
    gates = add_gates(net, ["ffn"])
    assert [(g.unit, g.layer) for g in gates] == [("ffn", 0), ("ffn", 1)]
    drawn(gates, 0, 0.5)
    fold_gates(gates)
    arch = compact(net, gates)
    assert (arch["heads.0"], arch["heads.1"], arch["heads.2"], arch["ffn.2"]) == (4, 0, 4, 0)


def test_the_gradient_of_a_gate_is_that_of_its_factor() -> None:
    net = tiny_net()
    gates = add_gates(net)
    net(**tiny_inputs()).logits.square().sum().backward()
    gamma, reader = gates[0].gamma, gates[0].reader
    before = gamma.grad.clone()
    step = 1e-3
    for i in range(2):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                gamma[i] += sign * step
                values.append(float(net(**tiny_inputs()).logits.double().square().sum()))
                gamma[i] -= sign * step
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(before[i]), rel=0.02, abs=1e-4)
    assert reader.parametrizations.weight.original.grad is not None


def test_what_cannot_be_gated_is_refused() -> None:
    net = tiny_net()
    reader = layers_of(net)[1].get_submodule(family_of(net).shrink)
    parametrize.register_parametrization(reader, "weight", RowQuantizer(8))
    with pytest.raises(UsageError, match=r"layer 1, output.dense: its weight is parametrised already"):
        add_gates(net)
    net = tiny_net()
    layers_of(net)[2].set_submodule("output.dense", torch.nn.Sequential())
    with pytest.raises(UsageError, match=r"layer 2, output.dense: a Sequential has no gates"):
        add_gates(net)
