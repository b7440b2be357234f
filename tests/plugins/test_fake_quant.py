from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from nasframe.interfaces import Modifier, TrainJob
from nasframe.nn.factorize import factorize_embedding
from nasframe.nn.formats import encoder_matrices, word_tables
from nasframe.nn.quantize import RowQuantizer, levels
from nasframe.nn.slices import extract, view
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToyTask, tiny_inputs, tiny_net
from nasframe_basics.fake_quant import FakeQuant
from nasframe_basics.loop import Loop


def fit(net: Any, *modifiers: Modifier, **fields: Any) -> Any:
    options = TrainOptions(max_steps=4, batch_size=8, learning_rate=1e-3, precision="fp32")
    return Loop().fit(TrainJob(net, ToyTask(), None, options, 0, "t", modifiers=modifiers, **fields)).net


def on_grid(weight: torch.Tensor, bits: int) -> bool:
    return all(len(row.unique()) <= 2 * levels(bits) + 1 for row in weight) and torch.allclose(
        RowQuantizer(bits)(weight), weight, rtol=1e-5, atol=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_what_comes_out_is_a_plain_model_on_the_grid(family: str, bits: Any) -> None:
    plain = tiny_net(family)
    net = fit(copy.deepcopy(plain), FakeQuant(bits=bits, embeddings=8))
    assert net.state_dict().keys() == plain.state_dict().keys()
    matrices = [module.weight for _, module in encoder_matrices(net)]
    assert len(matrices) == 3 * 6
    assert all(on_grid(weight, bits) for weight in matrices)
    assert on_grid(next(word_tables(net))[1].weight, 8)
    assert not on_grid(net.classifier.weight, 2)
    assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))
    assert isinstance(matrices[0], torch.nn.Parameter)


def test_training_sees_the_rounded_weights() -> None:
    seen = []

    class Look(Modifier):
        def on_loss(self, step: Any, loss: torch.Tensor) -> torch.Tensor:
            seen.append(next(encoder_matrices(step.job.net))[1].weight.detach().clone())
            return loss

    fit(tiny_net(), FakeQuant(bits=4), Look())
    assert len(seen) == 4
    assert all(on_grid(weight, 4) for weight in seen)


def test_factors_of_an_embedding_are_rounded_both() -> None:
    net = fit(factorize_embedding(tiny_net(), 8), FakeQuant(embeddings=4))
    assert [on_grid(module.weight, 4) for _, module in word_tables(net)] == [True, True]


@pytest.mark.parametrize("ranges", ["batch", "running"])
def test_activations_are_rounded_while_training_only(ranges: Any) -> None:
    net = tiny_net()
    job = TrainJob(net, ToyTask(), None, TrainOptions(max_steps=1), 0, "t")
    quant = FakeQuant(activations=4, ranges=ranges)
    plain = net(**tiny_inputs()).logits.detach()
    net.train()
    quant.on_start(job)
    inputs: list[torch.Tensor] = []
    hook = net.bert.encoder.layer[1].intermediate.dense.register_forward_hook(lambda m, i, o: inputs.append(i[0]))
    net(**tiny_inputs())
    net.eval()
    rounded = net(**tiny_inputs()).logits
    hook.remove()
    assert all(len(tensor.unique()) <= 15 for tensor in inputs)
    assert not torch.equal(rounded, plain)
    assert bool(quant.largest) == (ranges == "running")
    other = FakeQuant(activations=4, ranges=ranges)
    other.load_state_dict(quant.state_dict())
    assert other.largest == quant.largest
    quant.on_finish(job)
    inputs.clear()
    hook = net.bert.encoder.layer[1].intermediate.dense.register_forward_hook(lambda m, i, o: inputs.append(i[0]))
    net(**tiny_inputs())
    hook.remove()
    assert len(inputs[0].unique()) > 15


def test_running_ranges_follow_slowly() -> None:
    quant = FakeQuant(activations=8, ranges="running")
    module = torch.nn.Linear(2, 2).train()
    quant._round_input("a", module, (torch.tensor([1.0, 0.0]),))
    quant._round_input("a", module, (torch.tensor([2.0, 0.0]),))
    assert float(quant.largest["a"]) == pytest.approx(1.01)
    (clipped,) = quant._round_input("a", module.eval(), (torch.tensor([9.0, 0.0]),))
    assert clipped.tolist() == pytest.approx([1.01, 0.0])


def test_sub_networks_are_rounded_too() -> None:
    net, arch = tiny_net(), {"layers": [0, 2], "heads.0": 2, "ffn.2": 16}
    job = TrainJob(net, ToyTask(), None, TrainOptions(max_steps=1), 0, "t")
    quant = FakeQuant(bits=4, activations=4)
    quant.on_start(job)
    inputs: list[torch.Tensor] = []
    hook = net.bert.encoder.layer[2].output.dense.register_forward_hook(lambda m, i, o: inputs.append(i[0]))
    through_view = view(net, arch)(**tiny_inputs()).logits
    hook.remove()
    assert inputs[0].shape[-1] == 16
    assert len(inputs[0].unique()) <= 15
    for removed in quant.hooks:
        removed.remove()
    rounded_weights = view(net, arch)(**tiny_inputs()).logits
    assert not torch.equal(through_view, rounded_weights)
    quant.on_finish(job)
    torch.testing.assert_close(extract(net, arch)(**tiny_inputs()).logits, rounded_weights)


def test_layers_without_heads_or_neurons_go_through() -> None:
    net = extract(tiny_net(), {"heads.0": 0, "ffn.1": 0})
    trained = fit(net, FakeQuant(activations=8))
    assert torch.isfinite(trained(**tiny_inputs()).logits).all()


def test_queries_keys_and_values_read_one_rounded_tensor() -> None:
    """What three matrices read is rounded once a layer, and what they read is what each would round by itself."""
    seen: dict[str, list[torch.Tensor]] = {}

    class Look(Modifier):
        def on_start(self, job: Any) -> None:
            for name, module in encoder_matrices(job.net):
                hook = module.register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, []).append(i[0]))
                self.hooks = [*getattr(self, "hooks", []), hook]

        def on_finish(self, job: Any) -> None:
            for hook in self.hooks:
                hook.remove()

    fit(tiny_net(), FakeQuant(activations=8), Look())
    query, key, widen = (
        seen[name][0] for name in ("0.attention.self.query", "0.attention.self.key", "0.intermediate.dense")
    )
    assert query is key
    assert widen is not key
    assert all(len((tensor / tensor.abs().max() * 127).round().unique()) <= 255 for tensor in (query, widen))
