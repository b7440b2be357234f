"""The published network computes what an independent implementation of the figure's formulas computes."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from nasframe.errors import UsageError
from nasframe.testing.toy import tiny_inputs, tiny_net
from nasframe_autobert_zero.domain import KERNELS
from nasframe_autobert_zero.expression import STANDARD
from nasframe_autobert_zero.published import mixes
from nasframe_autobert_zero.space import ExpressionGraphSpace

D = 8


def bert(layers=12):
    config = BertConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64, vocab_size=97,
        max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval()


def space_of(net, **options):
    options = {"primitives": ["neg", "transpose", "scale", "softmax", "logsigmoid", "softsign", "add", "matmul",
                              "sqrt", "signed_sqrt", "cosine", "euclidean"], **options}  # fmt: skip
    return ExpressionGraphSpace(config=net.config, **options)


def supernet_of(space, net):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        supernet = space.supernet(net)
        for layer in supernet.net.bert.encoder.layer:  # weights large enough to tell formulas apart
            convolution = layer.attention.self.convolution
            nn.init.normal_(convolution.widen.weight, std=0.3)
            nn.init.normal_(convolution.merge.weight, std=0.3)
            nn.init.normal_(convolution.kernels)
    return supernet


# ---- an independent implementation, word by word, from the figure


def attention_by_hand(layer_number, layer, x, mask, reading):
    """Z = softmax(A / √d) B, with A and B as the figure draws them for each even layer."""
    branch = layer.attention.self.attention
    q, k, v = (
        linear(x).view(*x.shape[:2], 4, D).permute(0, 2, 1, 3) for linear in (branch.query, branch.key, branch.value)
    )

    def log_sigmoid(t):
        return torch.log(1 / (1 + torch.exp(-t)))

    def softsign(t):
        return t / (1 + abs(t))

    root = {"scale": lambda t: t / math.sqrt(D), "signed_sqrt": lambda t: torch.sign(t) * torch.sqrt(abs(t))}[reading]
    if layer_number == 2:
        right, b = -log_sigmoid(-k), q + k
    elif layer_number == 4:
        right, b = -log_sigmoid(log_sigmoid(q) + (q + k)), q
    elif layer_number in (6, 8):
        right, b = -log_sigmoid(k), q
    elif layer_number == 10:
        right, b = root(k) + (softsign(softsign(k) / math.sqrt(D)) + v), v
    else:
        right, b = root(k) + v, v
    a = torch.einsum("bhqd,bhkd->bhqk", q, right) / math.sqrt(D)
    weights = torch.exp(a) * mask[:, None, None, :]  # padding has no weight as a key
    z = torch.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdim=True), b)
    return branch.merge(z.permute(0, 2, 1, 3).reshape(x.shape))


def convolution_by_hand(kernel, layer, x, mask):
    """A gated linear unit, then each word as the weighted mean of its neighbours, a kernel for eight columns."""
    branch = layer.attention.self.convolution
    value, gate = branch.widen(x).chunk(2, dim=-1)
    gated = value * torch.sigmoid(gate) * mask[..., None]
    cut = (branch.kernels.shape[1] - kernel) // 2
    weights = functional.softmax(branch.kernels[:, cut : cut + kernel], dim=-1)
    mixed = torch.zeros_like(gated)
    for word in range(x.shape[1]):
        for offset in range(kernel):
            other = word + offset - kernel // 2
            if 0 <= other < x.shape[1]:
                for head in range(4):
                    columns = slice(8 * head, 8 * head + 8)
                    mixed[:, word, columns] += weights[head, offset] * gated[:, other, columns]
    return branch.merge(mixed)


def logits_by_hand(supernet, ids, mask, reading):
    net = supernet.net
    x = net.bert.embeddings(ids)
    for number, layer in enumerate(net.bert.encoder.layer, start=1):
        if number % 2:
            mixed = convolution_by_hand((65, 9, 3, 7, 7, 3)[number // 2], layer, x, mask)
        else:
            mixed = attention_by_hand(number, layer, x, mask, reading)
        x = layer.attention.output.LayerNorm(mixed + x)
        x = layer.output.LayerNorm(layer.output.dense(functional.gelu(layer.intermediate.dense(x))) + x)
    return net.classifier(net.bert.pooler(x))


@pytest.mark.parametrize("reading", ["scale", "signed_sqrt"])
@torch.no_grad()
def test_the_published_network_is_the_figures(reading):
    net = bert()
    space = space_of(net)
    supernet = supernet_of(space, net)
    arch = space.arch({"published": reading})
    assert [layer["mix"] for layer in arch["layers"]][::2] == ["conv65", "conv9", "conv3", "conv7", "conv7", "conv3"]
    inputs = tiny_inputs()
    expected = logits_by_hand(supernet, inputs["input_ids"], inputs["attention_mask"], reading)
    model = space.extract(supernet, arch)
    assert (model(**inputs).logits - expected).abs().max() < 3e-4 * expected.abs().max()
    assert (space.view(supernet, arch)(**inputs).logits - model(**inputs).logits).abs().max() < 1e-6
    reads_values = [
        layer.attention.self.value is not None
        for layer in model.net.bert.encoder.layer[1::2]  # type: ignore[index]
    ]
    assert reads_values == [False, False, False, False, True, True]


def test_the_figures_root_can_be_a_root_and_is_then_refused_by_its_numbers():
    net = bert()
    with pytest.raises(UsageError, match=r"layers.9: .*values that are not finite"):
        space_of(net).arch({"published": "sqrt"})
    assert len(mixes("sqrt")) == 12


# ---- the super-network


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "vit"])
@torch.no_grad()
def test_with_the_standard_attention_it_is_the_network(family):
    from nasframe.testing.toy import tiny_images

    net = tiny_net(family)
    inputs = tiny_images() if family == "vit" else tiny_inputs()
    space = space_of(net, ffn=["50%", "100%"], skip=True)
    supernet = space.supernet(net)
    expected = net(**inputs).logits
    assert (supernet(**inputs).logits - expected).abs().max() < 1e-5
    whole = space.domain.largest()
    assert (space.view(supernet, whole)(**inputs).logits - expected).abs().max() < 1e-5
    model = space.extract(supernet, whole)
    assert (model(**inputs).logits - expected).abs().max() < 1e-5
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in net.parameters())
    mixed = space.arch({"layers": [{"mix": "conv3", "ffn": 32}, None, STANDARD.replace("q,", "softsign(q),")]})
    assert (
        space.view(supernet, mixed)(**inputs).logits - space.extract(supernet, mixed)(**inputs).logits
    ).abs().max() < 1e-6


@pytest.mark.parametrize("family", ["deberta-v2", "mpnet", "modernbert", "llama", "gpt2"])
def test_networks_of_another_kind_are_refused_before_work(family):
    net = tiny_net(family, num_labels=2)
    with pytest.raises(UsageError, match=r"Expected an encoder with separate maps of queries"):
        ExpressionGraphSpace(config=net.config)


@torch.no_grad()
def test_a_small_kernel_is_the_middle_of_the_largest_and_the_maps_do_not_depend_on_the_formula():
    net = bert(layers=1)
    space = space_of(net)
    supernet = supernet_of(space, net)
    branches = supernet.net.bert.encoder.layer[0].attention.self
    for kernel in KERNELS:
        model = space.extract(supernet, space.arch({"mix": f"conv{kernel}"}))
        mixer = model.net.bert.encoder.layer[0].attention.self
        cut = (65 - kernel) // 2
        assert torch.equal(mixer.kernels, branches.convolution.kernels[:, cut : 65 - cut])
    for formula in (STANDARD, "matmul(softmax(cosine(q, k)), add(q, v))", "add(q, k)"):
        mixer = space.extract(supernet, space.arch({"mix": formula})).net.bert.encoder.layer[0].attention.self
        assert torch.equal(mixer.query.weight, branches.attention.query.weight)
        assert torch.equal(mixer.merge.weight, branches.attention.merge.weight)
        assert (mixer.value is None) == ("v" not in formula.replace("conv", ""))


def test_padding_changes_nothing():
    net = bert()
    space = space_of(net)
    model = space.extract(supernet_of(space, net), space.arch({"published": "scale"}))
    ids = torch.tensor([[2, 11, 12, 13, 3]])
    padded = torch.tensor([[2, 11, 12, 13, 3, 0, 0, 0]])
    with torch.no_grad():
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        beside = model(input_ids=padded, attention_mask=(padded > 0).long()).logits
    assert (alone - beside).abs().max() < 1e-5


def test_what_a_recipe_writes_wrongly_is_refused():
    net = bert(layers=2)
    space = space_of(net)
    with pytest.raises(UsageError, match=r"layers: 1 of them. Expected 2"):
        space.arch({"layers": ["conv3"]})
    with pytest.raises(UsageError, match=r"layers.1: 'conv4': no such convolution.*Did you mean"):
        space.arch({"layers": ["conv3", "conv4"]})
    with pytest.raises(UsageError, match=r"layers.0: left out, but the space keeps all layers"):
        space.arch({"layers": [None, "conv3"]})
    with pytest.raises(UsageError, match=r"ffn: 65. Expected one of 64"):
        space.arch({"layers": [{"mix": "conv3", "ffn": 65}, "conv3"]})
    with pytest.raises(UsageError, match=r"layer: not known.*Did you mean 'layers'"):
        space.arch({"layer": []})
    with pytest.raises(UsageError, match=r"published: 'root'. Expected one of"):
        space.arch({"published": "root"})
    with pytest.raises(UsageError, match=r"cosine is not among the space's primitives"):
        ExpressionGraphSpace(config=net.config).arch({"mix": "matmul(softmax(cosine(q, k)), v)"})
    for options, fault in (
        ({"kernels": [3, 4]}, "4 is even"),
        ({"kernels": []}, "kernels: none"),
        ({"primitives": ["matmull"]}, "Did you mean 'matmul'"),
        ({"primitives": ["matmul", "softmax"]}, "without transpose no formula mixes words"),
        ({"ffn": [65]}, "ffn: 65"),
    ):
        with pytest.raises(UsageError, match=fault):
            ExpressionGraphSpace(config=net.config, **options)


@torch.no_grad()
def test_products_of_scores_are_counted_at_every_length():
    """They cost the cube of the length, which a polynomial of degree 2 would miss."""
    from nasframe.nn.traced import forward_macs, weightless
    from nasframe.training.macs import MacCounter

    net = bert(layers=1)
    space = space_of(net)
    twice = "matmul(matmul(softmax(matmul(q, transpose(k))), softmax(matmul(k, transpose(q)))), v)"
    model = space.extract(supernet_of(space, net), space.arch({"mix": twice}))

    def batch(length):
        ids = torch.ones(2, length, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    class Texts:
        def train_batches(self, seed, epoch, batch_size):
            from nasframe.records import Batch

            return [Batch(batch(8), torch.zeros(2), torch.arange(2))]

    told = []
    counter = MacCounter(Texts(), None, lambda place, text: told.append(text), "stages.tune")
    for length in (5, 13, 30):
        expected = forward_macs(weightless(model), batch(length)) / 2
        assert counter.macs(model, None, 3, length) == pytest.approx(3 * expected, rel=1e-6)
    assert told == []
