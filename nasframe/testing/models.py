"""What every model must do, as checks: subclass :class:`ModelContract`, say how to make yours, run pytest.

class TestMine(ModelContract):
    def make(self):
        return MyModel()
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasframe.testing.kit import Contract, check, require, require_no_global_randomness
from nasframe.testing.nets import same_weights

TEXTS = ["a fine film", "dull, and far too long for what it has to say"]


class ModelContract(Contract):
    """The checks. Where the model's files can be got without a network, it must load without one."""

    kind = "model"

    def make(self) -> Any:
        """Make the model under test."""
        return self.registered(base=Path.cwd())

    @check
    def test_it_loads_offline(self) -> None:
        """Runs may happen where no network is: nothing is fetched to load tokenizer and network."""
        with no_network() as tried:
            model = self.make()
            model.tokenizer()
            model.load(["no", "yes"], seed=0)
        require(not tried, f"it connected to {tried[:1]}; read files that are installed or were fetched before")

    @check
    def test_the_network_runs_on_the_tokenizer(self) -> None:
        """What the tokenizer makes of texts, the network takes."""
        model = self.make()
        net = self.loaded(model, ["no", "yes"])
        inputs = model.tokenizer()(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            logits = net(**inputs).logits
        require(logits.shape == (2, 2), f"two texts and two labels give logits of shape {tuple(logits.shape)}")
        require(bool(torch.isfinite(logits).all()), "the logits are not finite")

    @check
    def test_the_head_fits_the_labels(self) -> None:
        """As many outputs as labels, one for regression; the configuration names them."""
        model = self.make()
        labels = ["bad", "fair", "good"]
        net = self.loaded(model, labels)
        require(net.config.num_labels == 3, f"three labels give a head of {net.config.num_labels} outputs")
        named = [net.config.id2label[i] for i in range(3)]
        require(named == labels, f"config.id2label names {named}; it should name {labels}")
        single = self.loaded(model, None).config.num_labels
        require(single == 1, f"labels=None, regression, gives {single} outputs; expected one")

    @check
    def test_the_seed_draws_the_weights(self) -> None:
        """The same seed gives the same network; with ``random`` another seed gives all others."""
        for random in (False, True):
            first, second = (self.loaded(self.make(), ["no", "yes"], 1, random) for _ in range(2))
            require(same_weights(first, second), f"load(seed=1, random={random}) differs from call to call")
        other = self.loaded(self.make(), ["no", "yes"], 2, True)
        matrices = [(a, b) for a, b in zip(second.parameters(), other.parameters(), strict=True) if a.ndim > 1]
        same = sum(torch.equal(a, b) for a, b in matrices)
        require(same == 0, f"with random=True {same} of {len(matrices)} matrices do not depend on the seed; draw all")

    @check
    def test_it_is_ready_to_use(self) -> None:
        """In eval mode, in float32, every parameter trainable."""
        net = self.loaded(self.make(), ["no", "yes"])
        require(not net.training, "the network is in train mode; return net.eval()")
        types = {parameter.dtype for parameter in net.parameters()}
        require(types == {torch.float32}, f"parameters are {types}; load in float32, training chooses its precision")
        frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
        require(not frozen, f"parameters are frozen ({frozen[:1]}); modifiers decide what is trained")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Weights come from the seed."""

        def result() -> nn.Module:
            return self.loaded(self.make(), ["no", "yes"], 5)

        require_no_global_randomness(
            result, same_weights, "torch.random.fork_rng and torch.manual_seed(seed) inside it"
        )

    def loaded(self, model: Any, labels: Any, seed: int = 0, random: bool = False) -> Any:
        """Load the network."""
        net = model.load(labels, seed, random)
        require(isinstance(net, nn.Module), f"load gave {type(net).__name__}; return an nn.Module")
        return net


@contextmanager
def no_network() -> Iterator[list[Any]]:
    """Refuse every connection to another machine for a while, and note what was tried."""
    tried: list[Any] = []
    connect = socket.socket.connect

    def refuse(self: Any, address: Any) -> None:
        if self.family == getattr(socket, "AF_UNIX", None):
            return connect(self, address)
        tried.append(address)
        raise OSError(f"no network here: {address}")

    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    try:
        yield tried
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]
