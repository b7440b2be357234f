from __future__ import annotations

import pytest
import torch

from nasframe.errors import UsageError
from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import FactorizedEmbedding
from nasframe.nn.factorize import factorize_embedding, factors
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
