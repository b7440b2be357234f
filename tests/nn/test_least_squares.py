from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from nasframe.nn.elastic import family_of, layers_of
from nasframe.nn.reconstruct import LeastSquares, reconstruct
from nasframe.nn.slices import extract
from nasframe.records import Batch
from nasframe.testing.toy import ENCODERS, tiny_inputs, tiny_net

SIZES = {"layers": [0, 1, 2], "heads.0": 2, "ffn.0": 16, "heads.1": 1, "ffn.1": 32, "ffn.2": 16}
PATHS = {"attention": "merge", "ffn": "shrink"}


def strong_net(family: str = "bert", **config: Any) -> Any:
    """A network whose layers add as much to the hidden states as there is."""
    return tiny_net(family, initializer_range=0.3, **config)


def batches(count: int = 3) -> list[Batch]:
    made = []
    for seed in range(count):
        inputs = tiny_inputs(batch=16, length=6 + seed % 5, seed=seed)
        made.append(Batch(inputs, torch.zeros(16), torch.arange(16)))
    return made


def norms_of(layer: Any) -> list[Any]:
    return [module for module in layer.modules() if isinstance(module, torch.nn.LayerNorm)]


def read_by(net: Any, module: Any, data: list[Batch]) -> np.ndarray:
    """What a module reads for all real tokens of whole forward passes, in float64."""
    rows: list[torch.Tensor] = []

    def hook(_: Any, args: Any) -> None:
        rows.append(args[0].detach()[mask])

    handle = module.register_forward_pre_hook(hook)
    for batch in data:
        mask = batch.inputs["attention_mask"].bool()
        with torch.no_grad():
            net(**batch.inputs)
    handle.remove()
    return torch.cat(rows).double().numpy()


def ridge_solution(x: np.ndarray, missing: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """The change of weights and bias, by the singular values of the stacked system and not its normal equations."""
    weights = np.sqrt(ridge * (x**2).sum(0).mean()) * np.eye(x.shape[1])
    top = np.hstack([x, np.ones((len(x), 1))])
    bottom = np.hstack([weights, np.zeros((x.shape[1], 1))])
    stacked = np.vstack([missing, np.zeros((x.shape[1], missing.shape[1]))])
    change = np.linalg.lstsq(np.vstack([top, bottom]), stacked, rcond=None)[0]
    return change[:-1].T, change[-1]


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
@pytest.mark.parametrize("family", ENCODERS)
def test_every_matrix_is_the_solution_for_what_lies_below_it(family: str, ridge: float) -> None:
    full, data = strong_net(family), batches()
    small: Any = extract(full, SIZES)
    fitted = copy.deepcopy(small)
    fits = reconstruct(fitted, full, [0, 1, 2], data, ridge)
    current = copy.deepcopy(small)  # fitted matrix by matrix here, too, but by whole passes and numpy
    for fit in fits:
        layer, full_layer = layers_of(current)[fit.layer], layers_of(full)[fit.layer]
        path = family_of(full).maps[PATHS[fit.part]].path
        number = 0 if fit.part == "attention" else 1
        target = read_by(full, norms_of(full_layer)[number], data)
        missing = target - read_by(current, norms_of(layer)[number], data)
        x = read_by(current, layer.get_submodule(path), data)
        weight, bias = ridge_solution(x, missing, ridge)
        linear: Any = layer.get_submodule(path)
        with torch.no_grad():
            linear.weight += torch.as_tensor(weight).float()
            linear.bias += torch.as_tensor(bias).float()
        mine: Any = layers_of(fitted)[fit.layer].get_submodule(path)
        torch.testing.assert_close(mine.weight, linear.weight, rtol=1e-3, atol=2e-4)
        torch.testing.assert_close(mine.bias, linear.bias, rtol=1e-3, atol=2e-4)
        left = target - read_by(current, norms_of(layer)[number], data)
        assert fit.before == pytest.approx((missing**2).sum() / (target**2).sum(), rel=1e-3)
        assert fit.after == pytest.approx((left**2).sum() / (target**2).sum(), rel=1e-3)
        assert fit.after < fit.before


@pytest.mark.parametrize("family", ENCODERS)
def test_an_equal_model_stays_as_it_is(family: str) -> None:
    full = strong_net(family)
    small = extract(full, {})
    fits = reconstruct(small, full, [0, 1, 2], batches())
    assert all(fit.before == fit.after == 0 for fit in fits)
    for mine, its in zip(small.parameters(), full.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("layers", [[0, 2], [1], [0, 1], [2], [1, 2]])
def test_where_layers_were_dropped_the_next_kept_layer_gets_its_state(layers: list[int]) -> None:
    """With as many neurons as tokens any state can be fitted, so that the outputs become the reference's."""
    full = strong_net(intermediate_size=256)
    data = batches(1)
    small = extract(full, {"layers": layers})
    before = small(**data[0].inputs).logits
    reconstruct(small, full, layers, data, 1e-9)
    expected = full(**data[0].inputs).logits
    torch.testing.assert_close(small(**data[0].inputs).logits, expected, rtol=0, atol=2e-3)
    assert (before - expected).abs().max() > 0.05
    states = [net(**data[0].inputs, output_hidden_states=True).hidden_states for net in (small, full)]
    real = data[0].inputs["attention_mask"].bool()
    for number, end in enumerate([*layers[1:], 3]):
        torch.testing.assert_close(states[0][number + 1][real], states[1][end][real], rtol=0, atol=5e-3)


def test_a_sliced_model_comes_closer_on_other_data() -> None:
    full = strong_net()
    data = batches(40)
    train, test = data[:30], data[30:]
    for sizes in (SIZES, {"layers": [0, 2], "ffn.0": 16}, {"layers": [1], "heads.1": 2}):
        layers: Any = sizes["layers"]
        small = extract(full, sizes)
        fitted = copy.deepcopy(small)
        reconstruct(fitted, full, layers, train)
        gaps = []
        for net in (small, fitted):
            errors = [
                net(**batch.inputs, output_hidden_states=True).hidden_states[-1]
                - full(**batch.inputs, output_hidden_states=True).hidden_states[-1]
                for batch in test
            ]
            gaps.append(sum(float(error.detach().square().mean()) for error in errors))
        assert gaps[1] < 0.9 * gaps[0]


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_layers_without_heads_or_neurons_get_biases(family: str) -> None:
    full = strong_net(family)
    small = extract(full, {"heads.0": 0, "ffn.1": 0})
    fits = reconstruct(small, full, [0, 1, 2], batches())
    assert fits[0].after < fits[0].before
    assert fits[3].after < fits[3].before


def test_one_part_alone() -> None:
    full = strong_net()
    small = extract(full, SIZES)
    before = copy.deepcopy(small)
    reconstruct(small, full, [0, 1, 2], batches(), parts=["ffn"])
    changed = {
        name for (name, mine), its in zip(small.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(mine, its)
    }  # fmt: skip
    expected = {f"bert.encoder.layer.{i}.output.dense.{kind}" for i in range(3) for kind in ("weight", "bias")}
    assert changed == expected


def test_the_reference_and_hooks_stay_as_they_were() -> None:
    full = strong_net()
    before = copy.deepcopy(full)
    small = extract(full, SIZES)
    reconstruct(small, full, [0, 1, 2], batches())
    for mine, its in zip(full.parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, its)
    for net in (full, small):
        paths = [item.path for item in family_of(net).maps.values()]
        assert not any(layer.get_submodule(path)._forward_hooks for layer in layers_of(net) for path in paths)
        assert all(parameter.requires_grad for parameter in net.parameters())


def test_dead_neurons_and_useless_systems_change_nothing() -> None:
    system = LeastSquares(2, 1)
    system.add(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0], [2.0]]))
    weight, _, error = system.solve(1e-9)
    assert weight[0, 1] == 0
    assert error < 1e-6 * system.error
    system.add(torch.tensor([[float("nan"), 0.0]]), torch.tensor([[1.0]]))
    weight, bias, _ = system.solve(1e-3)
    assert not weight.any()
    assert not bias.any()
