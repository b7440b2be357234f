"""The transforms ``rewire`` and ``svd``: work in, work out, and what came in stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nasframe.interfaces import Work
from nasframe.nn import importance
from nasframe.testing.toy import ToyTask, tiny_inputs, tiny_net
from nasframe_basics.rewire import Rewire
from nasframe_basics.svd import SVD


def work(family: str = "bert") -> Work:
    return Work(tiny_net(family), None, ToyTask(), archs={"a": {"layers": [0]}})


def state(net: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("score", ["magnitude", "taylor"])
def test_rewire_sorts_by_importance_and_keeps_the_function(score: Any, family: str) -> None:
    before = work(family)
    kept = state(before.net)
    after = Rewire(score=score, batches=2, seed=1)(before)
    assert after.net is not before.net
    assert all(torch.equal(tensor, kept[name]) for name, tensor in before.net.state_dict().items())
    assert any(not torch.equal(tensor, kept[name]) for name, tensor in after.net.state_dict().items())
    assert (after.archs, after.task) == (before.archs, before.task)
    with torch.no_grad():
        torch.testing.assert_close(
            after.net(**tiny_inputs()).logits, before.net(**tiny_inputs()).logits, rtol=0, atol=1e-6
        )
    if score == "magnitude":
        for layers in importance.magnitude(after.net).values():
            for values in layers.values():
                assert torch.all(values.diff() <= 1e-4)


def test_taylor_reads_training_data_drawn_from_the_seed() -> None:
    drawn = []

    class Spy(ToyTask):
        def train_batches(self, seed: int, epoch: int, batch_size: int) -> Any:
            drawn.append((seed, batch_size))
            return super().train_batches(seed, epoch, batch_size)

    def orders(seed: int) -> list[torch.Tensor]:
        net = Rewire("taylor", batches=1, batch_size=4, seed=seed)(Work(tiny_net(), None, Spy())).net
        return list(state(net).values())

    first, again = orders(1), orders(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    orders(2)
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][1] == 4


def test_svd_returns_a_factorised_copy() -> None:
    before = work()
    after = SVD(rank=4)(before)
    assert after.net.bert.embeddings.word_embeddings.rank == 4
    assert isinstance(before.net.bert.embeddings.word_embeddings, torch.nn.Embedding)
    assert after.archs == before.archs
