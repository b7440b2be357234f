import copy

import numpy as np
import pytest
import torch

from nasframe.nn import importance
from nasframe.nn.elastic import FAMILIES, layers_of, slices_of
from nasframe.nn.factorize import factorize_linears
from nasframe.nn.importance import magnitude, taylor
from nasframe.nn.rewire import rewire
from nasframe.testing.toy import ENCODERS, ToyTask, tiny_net


def loss(outputs, batch):
    return torch.nn.functional.cross_entropy(outputs.logits, batch.labels)


def loss_with_mask(net, batch, unit, position, index, mask):
    """The loss with the input of one output map multiplied by ``mask`` at one head or neuron."""
    row = FAMILIES[net.config.model_type]
    linear = layers_of(net)[position].get_submodule(row.merge if unit == "heads" else row.shrink)
    columns = slice(8 * index, 8 * index + 8) if unit == "heads" else slice(index, index + 1)

    def scale(module, args):
        factor = torch.ones(args[0].shape[-1], dtype=args[0].dtype)
        factor[columns] = mask
        return (args[0] * factor,)

    handle = linear.register_forward_pre_hook(scale)
    value = loss(net(**batch.inputs), batch)
    handle.remove()
    return value


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(("unit", "index"), [("heads", 2), ("ffn", 11)])
def test_taylor_is_the_mean_absolute_mask_gradient(family, unit, index):
    net, task = tiny_net(family).double(), ToyTask(train=24)
    batches = task.train_batches(0, 0, 8)
    expected = []
    for batch in batches:
        low, high = (loss_with_mask(net, batch, unit, 1, index, 1 + e).item() for e in (-1e-5, 1e-5))
        expected.append(abs(high - low) / 2e-5)
    found = taylor(net, batches, loss)[unit][1][index]
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-4, abs=1e-8)


def test_taylor_leaves_the_network_as_it_was():
    net, task = tiny_net().train(), ToyTask()
    net.bert.encoder.layer[0].requires_grad_(False)
    net.classifier.bias.grad = torch.ones(2)
    before = copy.deepcopy(net.state_dict())
    scores = taylor(net, task.train_batches(0, 0, 16), task.loss)
    assert [len(scores["heads"][i]) for i in range(3)] == [4] * 3
    assert scores["ffn"][0].shape == (64,)
    assert net.training
    assert not any(p.requires_grad for p in net.bert.encoder.layer[0].parameters())
    assert all(p.requires_grad for p in net.bert.encoder.layer[1].parameters())
    assert [name for name, p in net.named_parameters() if p.grad is not None] == ["classifier.bias"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(ValueError, match="batches"):
        taylor(net, [], task.loss)


def test_taylor_sees_through_parametrisations():
    net, plain, task = tiny_net(), tiny_net(), ToyTask()
    dense = layers_of(net)[0].output.dense
    torch.nn.utils.parametrize.register_parametrization(dense, "weight", torch.nn.Tanh())
    layers_of(plain)[0].output.dense.weight.data.tanh_()
    ours, theirs = (taylor(n, task.train_batches(0, 0, 16), task.loss) for n in (net, plain))
    torch.testing.assert_close(ours["ffn"][0], theirs["ffn"][0])


@pytest.mark.parametrize("family", ENCODERS)
def test_magnitude_finds_what_was_shrunk_and_follows_a_permutation(family):
    net, row = tiny_net(family), FAMILIES[family]
    layer = layers_of(net)[1]
    with torch.no_grad():
        for part in slices_of(row, layer):
            tensor = getattr(layer.get_submodule(part.path), part.name)
            tensor.narrow(part.dim, 16 if part.unit == "heads" else 5, 8 if part.unit == "heads" else 1).mul_(0.01)
    scores = magnitude(net)
    assert int(scores["heads"][1].argmin()) == 2
    assert int(scores["ffn"][1].argmin()) == 5
    assert int(scores["heads"][0].argmin()) >= 0
    parts = [part for part in slices_of(row, layer) if part.unit == "heads"]
    total = sum(getattr(layer.get_submodule(part.path), part.name).abs().sum() for part in parts)
    torch.testing.assert_close(scores["heads"][1].sum(), total.detach())
    rewire(net, {"heads": {1: [3, 1, 0, 2]}})
    torch.testing.assert_close(magnitude(net)["heads"][1], scores["heads"][1][[3, 1, 0, 2]])


def test_taylor_of_both_sides_adds_the_incoming_weights_and_bias():
    """DynaBERT's neuron score: |sum of w1 g + b1 g| + |sum of w2 g|, each absolute for each batch, gradients fresh."""
    net, task = tiny_net(), ToyTask(train=24)
    batches = task.train_batches(0, 0, 8)
    expected, layer = 0, layers_of(net)[1]
    for batch in batches:
        net.zero_grad()
        loss(net(**batch.inputs), batch).backward()
        w1, b1, w2 = layer.intermediate.dense.weight, layer.intermediate.dense.bias, layer.output.dense.weight
        into = ((w1 * w1.grad).sum(1) + b1 * b1.grad).abs()
        expected = expected + (into + (w2 * w2.grad).sum(0).abs()) / len(batches)
    net.zero_grad()
    both = taylor(net, batches, loss, neurons="both")
    torch.testing.assert_close(both["ffn"][1], expected.detach())
    torch.testing.assert_close(both["heads"][1], taylor(net, batches, loss)["heads"][1])


def test_fisher_is_the_mean_square_of_the_masks_gradients() -> None:
    net, task = tiny_net(), ToyTask()
    batches = task.train_batches(0, 0, 8)[:3]
    found = importance.fisher(net, batches, task.loss)
    squares = [importance.taylor(net, [batch], task.loss) for batch in batches]
    for unit, layers in found.items():
        for layer, values in layers.items():
            torch.testing.assert_close(values, sum(one[unit][layer].square() for one in squares) / 3)


def test_accumulated_is_the_weight_times_the_mean_absolute_gradient() -> None:
    """Written out for layer 1: heads from W_o's columns, neurons from W_1's rows and W_2's columns, no biases."""
    net, task = tiny_net(), ToyTask()
    batches = task.train_batches(0, 0, 8)[:3]
    found = importance.accumulated(net, batches, task.loss)
    layer = net.bert.encoder.layer[1]
    w_o, w_1, w_2 = (m.weight for m in (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense))
    mean = [torch.zeros_like(w) for w in (w_o, w_1, w_2)]
    for batch in batches:
        net.zero_grad()
        task.loss(net(**batch.inputs), batch).backward()
        for total, w in zip(mean, (w_o, w_1, w_2), strict=True):
            total += w.grad.abs() / 3
    with torch.no_grad():
        heads = [(w_o * mean[0]).abs()[:, 8 * i : 8 * i + 8].sum() for i in range(4)]
        neurons = [(w_1 * mean[1]).abs()[i].sum() + (w_2 * mean[2]).abs()[:, i].sum() for i in range(64)]
    torch.testing.assert_close(found["heads"][1], torch.stack(heads))
    torch.testing.assert_close(found["ffn"][1], torch.stack(neurons))
    assert importance.ranked(found)["heads"][1][0] == int(torch.stack(heads).argmax())


def test_accumulated_wants_gradients() -> None:
    sums = importance.Accumulated(tiny_net())
    with pytest.raises(ValueError, match="no gradients were added"):
        sums.scores()
    sums.add([None] * len(sums.sums))
    assert not any(values.any() for layers in sums.scores().values() for values in layers.values())
    sums.add([torch.ones_like(weight) for weight in sums.weights()])
    sums.reset()
    assert (sums.steps, float(sum(total.sum() for total in sums.sums))) == (0, 0.0)


def test_scores_of_products_read_the_factor_that_holds_the_unit() -> None:
    """At full rank the masks' gradients, and with them Taylor's and Fisher's scores, are those of the whole maps."""
    net, task = tiny_net(), ToyTask()
    batches = task.train_batches(0, 0, 8)[:2]
    product = factorize_linears(net, "100%")
    for score in (importance.taylor, importance.fisher):
        whole, parts = (score(one, batches, task.loss) for one in (net, product))
        for unit in whole:
            for layer in whole[unit]:
                torch.testing.assert_close(parts[unit][layer], whole[unit][layer], rtol=1e-3, atol=1e-6)
    assert importance.accumulated(product, batches, task.loss)["ffn"][0].shape == (64,)
