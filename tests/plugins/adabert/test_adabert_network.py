"""AdaBERT's networks: operations, padding, pairs of texts, and the super-network beside its derived networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nasframe.errors import UsageError
from nasframe.nn.traced import part_parameters
from nasframe.testing.toy import tiny_inputs, tiny_net
from nasframe_adabert.network import (
    EDGES,
    AdaBert,
    BatchNorm,
    Convolution,
    MaxPool,
    MeanPool,
    Morphological,
    make_operation,
    operation_names,
    second_text,
)
from nasframe_adabert.space import AdaBertSpace, arch_of, built, cell_domain, position_table
from nasframe_adabert.supernet import Sampled

NODES = [
    [[0, "conv3"], [1, "max_pool3"]],
    [[1, "dilated5"], [2, "identity"]],
    [[0, "avg_pool3"], [3, "zero"]],
]


def random_sequence(batch=3, width=4, length=9, seed=0):
    """Return a sequence that ends in padding, and its mask."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([length, length - 2, 3])[:batch]
    mask = (torch.arange(length) < lengths[:, None]).unsqueeze(1).float()
    return torch.randn(batch, width, length, generator=draw) * mask, mask


def supernet(family="bert", labels=2, **options):
    net = tiny_net(family, labels=labels)
    space = AdaBertSpace(**{"most": 3, "width": 8, "config": net.config, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = space.supernet(net)
        for parameter in made.parameters():  # of values that no two parts share
            if parameter.ndim == 1:
                parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return space, made.eval()


# ---- operations


@pytest.mark.parametrize("dilation", ["convolution", "morphological"])
@pytest.mark.parametrize("name", operation_names())
def test_operations_keep_shapes_and_padding(name, dilation):
    torch.manual_seed(0)
    operation = make_operation(name, 4, dilation).eval()
    hidden, mask = random_sequence()
    alone = operation(hidden, mask)
    assert alone.shape == hidden.shape
    assert not (alone * (1 - mask)).any()
    longer = functional.pad(hidden, (0, 5)), functional.pad(mask, (0, 5))
    torch.testing.assert_close(operation(*longer)[..., :9], alone)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2), (7, 2)])
def test_a_convolution_is_the_sum_over_its_taps(kernel, dilation):
    torch.manual_seed(0)
    operation = Convolution(4, kernel, dilation).eval()
    hidden, mask = random_sequence()
    weight = operation.convolution.weight
    expected = torch.zeros_like(hidden)
    for batch, place in np.ndindex(hidden.shape[0], hidden.shape[2]):
        for tap in range(kernel):
            source = place + dilation * (tap - kernel // 2)
            if 0 <= source < hidden.shape[2]:
                expected[batch, :, place] += weight[:, :, tap] @ hidden[batch, :, source].relu()
    expected = expected / (1 + 1e-5) ** 0.5 * mask  # statistics of 0 and 1
    torch.testing.assert_close(operation(hidden, mask), expected)


def test_morphological_dilation_is_a_maximum_of_sums():
    torch.manual_seed(0)
    operation = Morphological(4, 5).eval()
    hidden, mask = random_sequence()
    expected = torch.zeros_like(hidden)
    for batch, channel, place in np.ndindex(hidden.shape):
        if not mask[batch, 0, place]:
            continue
        sums = []
        for tap in range(5):
            source = place + tap - 2
            if 0 <= source < hidden.shape[2] and mask[batch, 0, source]:
                sums.append(hidden[batch, channel, source].relu() + operation.weight[channel, tap])
        expected[batch, channel, place] = max(sums)
    expected = expected / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(operation(hidden, mask), expected)


@pytest.mark.parametrize(
    ("pool", "function"), [(MaxPool(), max), (MeanPool(), lambda values: sum(values) / len(values))]
)
def test_pools_leave_padding_out(pool, function):
    hidden, mask = random_sequence()
    expected = torch.zeros_like(hidden)
    for batch, channel, place in np.ndindex(hidden.shape):
        if mask[batch, 0, place]:
            around = [p for p in (place - 1, place, place + 1) if 0 <= p < 9 and mask[batch, 0, p]]
            expected[batch, channel, place] = function([hidden[batch, channel, p] for p in around])
    torch.testing.assert_close(pool(hidden, mask), expected)


def test_batch_normalisation_counts_words_alone():
    norm = BatchNorm(4).train()
    reference = torch.nn.BatchNorm1d(4).train()
    hidden, mask = random_sequence()
    words = hidden.transpose(1, 2)[mask[:, 0].bool()]
    torch.testing.assert_close(norm(hidden, mask).transpose(1, 2)[mask[:, 0].bool()], reference(words))
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var)


# ---- pairs of texts


def test_a_pair_is_two_inputs_whose_positions_start_anew():
    _, net = supernet()
    embedding = net.embedding
    pair = torch.tensor([[2, 7, 8, 3, 9, 10, 3]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    first, second, mask = embedding(pair, None, types)
    alone = embedding(torch.tensor([[9, 10, 3]]), None, None)[0]
    torch.testing.assert_close(second[..., :3], alone)
    assert not second[..., 3:].any()
    torch.testing.assert_close(first[..., :4], embedding(pair[:, :4], None, None)[0])
    assert mask[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0]
    without_types = embedding(pair, None, None)
    torch.testing.assert_close(without_types[1], second)  # the first separator ends the first text


@given(first=st.integers(1, 6), second=st.integers(0, 6), padding=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_separators_say_what_token_types_say(first, second, padding):
    separator, pad = 3, 0
    ids = [2, *[9] * first, separator, *([8] * second + [separator] if second else []), *[pad] * padding]
    kinds = [0] * (first + 2) + ([1] * (second + 1) if second else []) + [0] * padding
    tokens, types = torch.tensor([ids]), torch.tensor([kinds])
    assert torch.equal(second_text(tokens, tokens != pad), second_text(tokens, tokens != pad, types))


def test_a_single_text_is_both_inputs():
    _, net = supernet()
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 7, 3, 0, 0]])
    first, second, mask = net.embedding(ids, (ids != 0).long(), None)
    assert torch.equal(first, second)
    assert torch.equal(mask[:, 0].bool(), ids != 0)


# ---- networks


def test_a_derived_network_is_what_the_readme_says():
    """Against a computation of its own, text by text and without padding."""
    torch.manual_seed(0)
    net = AdaBert(97, 40, 8, 3, cells=2, nodes=NODES).eval()
    inputs = {**tiny_inputs(), "token_type_ids": torch.zeros(3, 7, dtype=torch.long)}
    logits = net(**inputs).logits
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        embedding = net.embedding
        hidden = embedding.word_embeddings.weight[inputs["input_ids"][row, :length]]
        hidden = hidden + embedding.position_embeddings.weight[:length]
        hidden = embedding.norm(hidden).T[None]
        mask = torch.ones(1, 1, length)
        states = [hidden.mean(2)]
        previous = [hidden, hidden]
        for cell in net.cells:
            values = list(previous)
            for edges, operations in zip(NODES, cell.operations, strict=True):
                values.append(sum(op(values[source], mask) for (source, _), op in zip(edges, operations, strict=True)))
            share = cell.weights.softmax(0)
            output = sum(share[node] * values[2 + node] for node in range(3))
            previous = [previous[1], output]
            states.append(output.mean(2))
        share = net.mix.softmax(0)
        read = torch.tanh(sum(share[number] * state for number, state in enumerate(states)))
        torch.testing.assert_close(logits[row], net.classifier(read)[0])


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "deberta-v2"])
def test_extracted_networks_compute_what_the_supernetwork_computes(family):
    space, net = supernet(family, labels=3)
    rng = np.random.default_rng(0)
    for arch in [space.domain.smallest(), space.domain.largest(), *(space.domain.sample(rng) for _ in range(4))]:
        view = space.view(net, arch)(**tiny_inputs()).logits
        torch.testing.assert_close(space.extract(net, arch)(**tiny_inputs()).logits, view, rtol=0, atol=1e-5)


def test_the_mixture_of_one_draw_is_the_network_that_was_drawn():
    """With zero on all edges but two of each node, the nine-edge mixture is a derived network."""
    space, net = supernet()
    arch = arch_of(2, NODES)
    operations = torch.zeros(len(EDGES), len(net.names))
    operations[:, net.names.index("zero")] = 1
    for node, edges in enumerate(NODES):
        for source, name in edges:
            operations[EDGES.index((source, node))] = functional.one_hot(torch.tensor(net.names.index(name)), 10)
    for module in net.modules():
        if isinstance(module, BatchNorm):  # in train mode only the draw counts, so the statistics have to stay
            module.eval()
    net.training = True
    net.sampled = Sampled(operations, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    outputs = net(**tiny_inputs())
    net.training = False
    view = space.view(net, arch)(**tiny_inputs()).logits
    torch.testing.assert_close(outputs.logits, view)
    torch.testing.assert_close(outputs.depth_logits[:, 2], view)


def test_parts_are_counted():
    space, net = supernet()
    model = space.extract(net, arch_of(2, NODES))
    cells = sum(p.numel() for p in model.cells.parameters())
    assert part_parameters(model, "encoder") == cells
    # conv3 and dilated5 of 8 channels with two vectors each, and the weights of the nodes, in each of two cells
    assert cells == 2 * (8 * 8 * 3 + 8 * 8 * 5 + 4 * 8 + 3)
    assert part_parameters(model, "backbone") == cells + sum(p.numel() for p in model.embedding.parameters())


def test_embeddings_stay_and_the_map_learns():
    _, net = supernet()
    net.train()(**tiny_inputs()).logits.sum().backward()
    assert net.embedding.word_embeddings.weight.grad is None
    assert net.embedding.narrow.weight.grad.abs().sum() > 0


def test_the_position_table_starts_at_position_0():
    for family in ("bert", "roberta"):
        net = tiny_net(family, pad_token_id=1)
        ids = torch.tensor([[5, 6, 7]])
        embeddings = net.base_model.embeddings
        seen = []
        hook = embeddings.position_embeddings.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        net(input_ids=ids)
        hook.remove()
        assert torch.equal(position_table(net)[:3], seen[0].reshape(3, -1)), family


# ---- the domain


def test_the_domain_has_every_cell_once():
    domain = cell_domain(0, 8)
    assert domain.size == 1 + 8 * (100 * 300 * 600)
    rng = np.random.default_rng(0)
    for _ in range(20):
        arch = domain.sample(rng)
        assert arch_of(*built(arch)) == arch
    assert domain.canonical({**domain.largest(), "cells": 0}) == {"cells": 0}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fewest": 5, "most": 4}, "fewest: 5 is more than most, 4. Expected at most 4."),
        ({"fewest": 4, "most": 4}, "leaves one depth. Expected less than most, 4."),
    ],
)
def test_depths_that_cannot_be_are_refused(options, text):
    with pytest.raises(UsageError, match=text):
        AdaBertSpace(**options)


def test_decoders_are_refused():
    net = tiny_net("gpt2")
    with pytest.raises(UsageError, match=r"GPT2ForSequenceClassification reads no pairs.*Expected an encoder"):
        AdaBertSpace(config=net.config).supernet(net)


def test_networks_that_read_no_words_are_refused():
    with pytest.raises(UsageError, match=r"ViTConfig reads no words\. Expected a network of transformers that reads"):
        AdaBertSpace(config=tiny_net("vit").config)
