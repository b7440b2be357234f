"""What every model must do, as checks: subclass :class:`ModelContract`, define ``make``, run pytest.

class TestMine(ModelContract):
    def make(self):
        return MyModel()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasframe.testing.kit import Contract, check, no_internet, require, require_no_global_randomness
from nasframe.testing.nets import listed, same_weights

TEXTS = ["a fine film", "dull, and far too long for what it has to say"]


class ModelContract(Contract):
    """The checks. A model must load without an internet connection, from files that are installed or cached.

    Attributes:
        auto_class: the auto class of transformers whose head the model is asked for.
    """

    kind = "model"
    auto_class = "AutoModelForSequenceClassification"

    def make(self) -> Any:
        """Make the model under test."""
        return self.registered(base=Path.cwd(), auto_class=self.auto_class)

    @check
    def test_it_loads_offline(self) -> None:
        """Tokenizer and network load without a download, because runs may happen without internet."""
        # On use and not only on making, since models load late.
        with no_internet() as addresses:
            model = self.make()
            model.tokenizer()
            model.load(["no", "yes"], seed=0)
        require(not addresses, f"it connected to {addresses[:1]}; read files that are installed or already cached")

    @check
    def test_the_network_runs_on_the_tokenizer(self) -> None:
        """The network accepts the tokenizer's output, or images or inputs of its own if there is no tokenizer."""
        model = self.make()
        net = self.loaded(model, ["no", "yes"])
        inputs = self.inputs(model, net)
        with torch.no_grad():
            logits = net(**inputs).logits
        require(
            logits.shape == (2, 2),
            f"two examples and two labels give logits of shape {tuple(logits.shape)}; make one output for each label",
        )
        require(bool(torch.isfinite(logits).all()), "the logits are not finite; check how the weights are drawn")

    @check
    def test_the_head_fits_the_labels(self) -> None:
        """The head has an output for each label, and one for a regression; its configuration names the labels."""
        model = self.make()
        labels = ["bad", "fair", "good"]  # three, because two are the default of transformers
        net = self.loaded(model, labels)
        outputs = self.outputs(model, net)
        require(outputs == 3, f"three labels give a head of {outputs} outputs; make one for each label")
        if _names_labels(net):  # other networks have no configuration that names labels
            names = [net.config.id2label[i] for i in range(3)]
            require(names == labels, f"config.id2label names {names}; it should name {labels}")
        outputs = self.outputs(model, self.loaded(model, None))
        require(outputs == 1, f"labels=None, a regression, gives {outputs} outputs; make one")

    @check
    def test_the_seed_draws_the_weights(self) -> None:
        """The same seed gives the same network; with ``random=True`` another seed changes every matrix."""
        for random in (False, True):
            first, second = (self.loaded(self.make(), ["no", "yes"], 1, random) for _ in range(2))
            require(
                same_weights(first, second),
                f"load(seed=1, random={random}) differs from call to call; draw new weights from the seed alone",
            )
        other = self.loaded(self.make(), ["no", "yes"], 2, True)
        total = equal = 0
        for a, b in zip(second.parameters(), other.parameters(), strict=True):
            if a.ndim > 1:  # biases and norms may start at constants
                total += 1
                equal += torch.equal(a, b)
        require(
            equal == 0,
            f"with random=True {equal} of {total} matrices do not depend on the seed; draw all of them from it",
        )

    @check
    def test_it_is_ready_to_use(self) -> None:
        """The network is in eval mode and in float32, and every parameter can be trained."""
        net = self.loaded(self.make(), ["no", "yes"])
        require(not net.training, "the network is in train mode; return net.eval()")
        types = {parameter.dtype for parameter in net.parameters()}
        require(
            types == {torch.float32},
            f"parameters are {types}; load in float32, because the recipe chooses the precision of training",
        )
        # A frozen parameter would be left out of training without any message.
        frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
        require(not frozen, f"parameters are frozen ({listed(frozen)}); leave it to modifiers what is trained")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Weights are drawn from the seed alone."""

        def net() -> nn.Module:
            return self.loaded(self.make(), ["no", "yes"], 5)

        source = "torch.manual_seed(seed) inside torch.random.fork_rng()"
        require_no_global_randomness(net, same_weights, source)

    def inputs(self, model: Any, net: Any) -> dict[str, torch.Tensor]:
        """Return the inputs of two examples; override it for networks that read neither texts nor images."""
        tokenizer = model.tokenizer()
        if tokenizer is not None:
            return dict(tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt"))
        size = getattr(getattr(net, "config", None), "image_size", None)
        require(
            size is not None,
            "tokenizer() gives none, and no config.image_size says that the network reads images; register the model "
            "with an example: the name of a subclass of ModelContract whose inputs(model, net) returns inputs of two "
            "examples",
        )
        height, width = size if isinstance(size, list | tuple) else (size, size)
        generator = torch.Generator().manual_seed(0)
        return {"pixel_values": torch.randn(2, net.config.num_channels, height, width, generator=generator)}

    def outputs(self, model: Any, net: Any) -> int:
        """Count the outputs of a network's head for an example."""
        if _names_labels(net):
            return int(net.config.num_labels)
        with torch.no_grad():
            return int(net(**self.inputs(model, net)).logits.shape[-1])

    def loaded(self, model: Any, labels: Any, seed: int = 0, random: bool = False) -> Any:
        """Load the network."""
        net = model.load(labels, seed, random)
        require(isinstance(net, nn.Module), f"load gave {type(net).__name__}; return an nn.Module")
        return net


def _names_labels(net: nn.Module) -> bool:
    """Tell whether a network has a configuration that names labels, as every model of transformers has."""
    config = getattr(net, "config", None)
    return hasattr(config, "id2label") and hasattr(config, "num_labels")
