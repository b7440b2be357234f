from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from nasframe.errors import UsageError
from nasframe.export import write as export
from nasframe.export.files import read_net, stock_obstacle
from nasframe.nn import count, importance
from nasframe.nn.blueprint import blueprint, load
from nasframe.nn.elastic import FactorizedEmbedding, layers_of
from nasframe.nn.factorize import factorize_embedding, factorize_linears, factors, refactor_embedding, refactored
from nasframe.nn.rewire import rewire
from nasframe.nn.slices import extract, view
from nasframe.testing.toy import tiny_inputs, tiny_net


def test_factors_are_the_best_of_their_rank() -> None:
    matrix = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(matrix)
    for rank in (1, 3, 8):
        left, right = factors(matrix, rank)
        assert left.shape == (20, rank)
        error = (left @ right - matrix).square().sum()
        torch.testing.assert_close(error, singular[rank:].square().sum(), rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_full_rank_changes_nothing(family: str) -> None:
    net = tiny_net(family)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    small = factorize_embedding(net, 32)
    with torch.no_grad():
        expected, got = net(**tiny_inputs()).logits, small(**tiny_inputs()).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_lower_rank_is_smaller_and_may_be_lowered_again() -> None:
    net = tiny_net()
    once, twice = factorize_embedding(net, 12), factorize_embedding(factorize_embedding(net, 12), 5)
    words = twice.bert.embeddings.word_embeddings
    assert isinstance(words, FactorizedEmbedding)
    assert (words.table.weight.shape, words.project.weight.shape) == ((97, 5), (32, 5))
    assert words.table.padding_idx == 0
    assert [blueprint(model)["embedding_rank"] for model in (net, once, twice)] == [None, 12, 5]
    left = factorize_embedding(net, 5).bert.embeddings.word_embeddings
    ids = torch.arange(97)
    torch.testing.assert_close(words(ids), left(ids), rtol=0, atol=1e-5)  # truncating in two goes is truncating once


@pytest.mark.parametrize("rank", [0, 33, 1000])
def test_refuses_ranks_out_of_range(rank: int) -> None:
    with pytest.raises(UsageError, match="Expected 1 to 32"):
        factorize_embedding(tiny_net(), rank)


def inputs_logits(net: Any) -> torch.Tensor:
    with torch.no_grad():
        return net(**tiny_inputs()).logits


def noisy(net: Any, seed: int = 0) -> Any:
    """Train without a trainer: factors that are no SVD any more."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return net


def test_refactored_is_the_same_product_in_the_order_of_its_singular_values() -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(20, 6, generator=draw), torch.randn(6, 8, generator=draw)
    new_left, new_right = refactored(left, right)
    torch.testing.assert_close(new_left @ new_right, left @ right)
    singular = torch.linalg.svdvals(left @ right)[:6]
    torch.testing.assert_close(new_left.norm(dim=0) * new_right.norm(dim=1), singular)
    best = torch.linalg.matrix_norm(left @ right - new_left[:, :3] @ new_right[:3])
    torch.testing.assert_close(best, singular[3:].norm())
    table, _ = refactored(left, right, "table")
    torch.testing.assert_close(table.norm(dim=0), singular)
    wide = refactored(torch.randn(4, 6, generator=draw), torch.randn(6, 8, generator=draw))
    assert (wide[0].shape, wide[1].shape) == ((4, 6), (6, 8))  # more columns than the matrix has rank


def test_truncating_after_training_loses_more_than_a_new_svd() -> None:
    net = noisy(factorize_embedding(tiny_net(), 12))
    whole = net.bert.embeddings.word_embeddings(torch.arange(97)).detach()
    lost = {}
    for lower in ("svd", "truncate"):
        words = factorize_embedding(net, 5, lower=lower).bert.embeddings.word_embeddings
        lost[lower] = float((words(torch.arange(97)).detach() - whole).norm())
        if lower == "truncate":
            assert torch.equal(words.table.weight, net.bert.embeddings.word_embeddings.table.weight[:, :5])
    assert lost["svd"] < 0.99 * lost["truncate"]
    again = copy.deepcopy(net)
    changed = refactor_embedding(again)
    torch.testing.assert_close(inputs_logits(again), inputs_logits(net), rtol=0, atol=1e-5)
    assert [tuple(p.shape) for p in changed] == [(97, 12), (32, 12)]
    words = extract(again, {"embedding_rank": 5}).bert.embeddings.word_embeddings
    torch.testing.assert_close(float((words(torch.arange(97)).detach() - whole).norm()), lost["svd"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_full_rank_maps_change_nothing_and_lower_ones_are_the_best(family: str) -> None:
    net = tiny_net(family)
    torch.testing.assert_close(inputs_logits(factorize_linears(net, "100%")), inputs_logits(net), rtol=0, atol=1e-5)
    small = factorize_linears(net, 4, ["merge", "widen"])
    sizes = blueprint(small)["factorized"]
    assert len(sizes) == 6
    assert set(sizes.values()) == {4}
    path = next(name for name in sizes if name.startswith("1."))
    product, whole = (layers_of(one).get_submodule(path) for one in (small, net))
    error = product.expand.weight @ product.reduce.weight - whole.weight
    torch.testing.assert_close(error.norm(), torch.linalg.svdvals(whole.weight)[4:].norm(), rtol=1e-4, atol=1e-6)
    assert torch.equal(product.expand.bias, whole.bias)
    again = blueprint(factorize_linears(small, 2, ["widen"]))["factorized"]
    assert sorted(again.values()) == [2, 2, 2, 4, 4, 4]


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_products_are_viewed_extracted_counted_rewired_and_loaded(family: str) -> None:
    net = noisy(factorize_linears(factorize_embedding(tiny_net(family), 12), 6))
    sizes = {"layers": [0, 2], "heads": {0: 3, 2: 1}, "ffn": {0: 17, 2: 40}, "embedding_rank": 5}
    small = extract(net, sizes)
    seen = blueprint(small)
    assert seen["layers"] == [{"heads": 3, "ffn": 17}, {"heads": 1, "ffn": 40}]
    assert (seen["embedding_rank"], len(seen["factorized"])) == (5, 12)
    with torch.no_grad():
        viewed = view(net, sizes)(**tiny_inputs()).logits
    torch.testing.assert_close(viewed, inputs_logits(small), rtol=0, atol=1e-6)
    flat = {"layers": [0, 2], "heads.0": 3, "heads.2": 1, "ffn.0": 17, "ffn.2": 40, "embedding_rank": 5}
    assert count.params(net).of(flat) == count.params(small).of() == sum(p.numel() for p in small.parameters())
    assert count.macs(net, 2, 9).of(flat) == count.macs(small, 2, 9).of()
    again = load(small.config.to_dict(), json.loads(json.dumps(seen)), small.state_dict())
    assert torch.equal(inputs_logits(again), inputs_logits(small))
    before = inputs_logits(net)
    rewire(net, importance.ranked(importance.magnitude(net)))
    torch.testing.assert_close(inputs_logits(net), before, rtol=0, atol=1e-5)


def test_the_gradient_of_a_view_is_that_of_the_extracted_network() -> None:
    net = factorize_linears(factorize_embedding(tiny_net(), 12), 6)
    sizes = {"layers": [1], "heads.1": 2, "ffn.1": 9, "embedding_rank": 7}
    small = extract(net, sizes)
    for autograd in (False, True):
        net.zero_grad()
        view(net, sizes, autograd)(**tiny_inputs()).logits.square().sum().backward()
        small.zero_grad()
        small(**tiny_inputs()).logits.square().sum().backward()
        words, alone = net.bert.embeddings.word_embeddings, small.bert.embeddings.word_embeddings
        for factor in ("table", "project"):
            whole, part = (getattr(one, factor).weight.grad for one in (words, alone))
            torch.testing.assert_close(whole[:, :7], part)
            assert not whole[:, 7:].any()
        whole, part = (one.encoder.layer[i].intermediate.dense for one, i in ((net.bert, 1), (small.bert, 0)))
        torch.testing.assert_close(whole.expand.weight.grad[:9], part.expand.weight.grad)
        torch.testing.assert_close(whole.reduce.weight.grad, part.reduce.weight.grad)


def test_macs_of_products_are_those_of_the_flop_counter() -> None:
    net = factorize_linears(factorize_embedding(tiny_net(attn_implementation="eager"), 12), 6, ["query", "shrink"])
    with FlopCounterMode(display=False) as counter:
        net(input_ids=torch.ones(2, 9, dtype=torch.long))
    assert 2 * count.macs(net, 2, 9).of() == counter.get_total_flops()


def test_a_product_can_be_exported_in_every_way_that_says_its_sizes(tmp_path: Path) -> None:
    net = noisy(factorize_linears(factorize_embedding(tiny_net(), 12), 6))
    assert "rank" in str(stock_obstacle(net))
    again = read_net(Path(write_and_name(net, tmp_path / "hetero")))
    assert torch.equal(inputs_logits(again), inputs_logits(net))
    export.write(net, None, tmp_path / "padded", mode="padded")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "padded")
    torch.testing.assert_close(inputs_logits(stock), inputs_logits(net), rtol=0, atol=1e-5)


def write_and_name(net: Any, target: Path) -> Path:
    export.write(net, None, target, mode="hetero")
    assert json.loads((target / "config.json").read_text("utf-8"))["factorized"]
    return target


@pytest.mark.parametrize("rank", [0, 33, "0.5", "120%"])
def test_refuses_ranks_that_maps_do_not_have(rank: Any) -> None:
    with pytest.raises(UsageError, match=r"layer 0, query: rank .* Expected 1 to 32"):
        factorize_linears(tiny_net(), rank, ["query"])
    with pytest.raises(UsageError, match="there is no 'output'"):
        factorize_linears(tiny_net(), 4, ["output"])


def test_a_sub_network_has_no_more_columns_than_the_network() -> None:
    with pytest.raises(UsageError, match="of an embedding that is one matrix"):
        view(tiny_net(), {"embedding_rank": 4})
    with pytest.raises(UsageError, match="Expected 1 … 6"):
        extract(factorize_embedding(tiny_net(), 6), {"embedding_rank": 7})
