"""A tiny encoder, tokenizer, task and space, so that whole pipelines run in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.records import Arch, Batch, Evaluation, Forward, MetricFormat
from nasframe.search.domain import Choices

if TYPE_CHECKING:
    import torch
    from torch import nn


def tiny_net(family: str = "bert", seed: int = 0, labels: int = 2, layers: int = 3, **config: Any) -> nn.Module:
    """Build a random encoder of 4 heads of 8 and 64 neurons a layer, in eval mode.

    Args:
        family: ``bert``, ``roberta``, ``electra`` or ``distilbert``.
        seed: draws the weights; the global generator is left as it was.
        labels: outputs of the head.
        layers: encoder layers.
        config: further fields of the family's configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 64}
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "electra":
        sizes["embedding_size"] = 32
    settings = (
        {"vocab_size": 97, "max_position_embeddings": 40, "num_labels": labels, "pad_token_id": 0} | sizes | config
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():  # fresh biases and norms are constant, which would hide a wrong slice
        noise = torch.Generator().manual_seed(seed)
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return net.eval()


def tiny_inputs(batch: int = 3, length: int = 7, seed: int = 0, words: int = 97) -> dict[str, torch.Tensor]:
    """Make random token ids below ``words`` with a ragged attention mask, ``(batch, length)`` each."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, words, (batch, length), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, length - row % length :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def tiny_tokenizer() -> Any:
    """Make a tokenizer of single characters whose ids fit :func:`tiny_net`; different texts stay different.

    >>> tiny_tokenizer()("Ab!")["input_ids"]
    [2, 5, 32, 77, 3]
    """
    from transformers import BertTokenizer

    letters, rest = "abcdefghijklmnopqrstuvwxyz", "0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *rest]
    words += [f"##{digit}" for digit in rest] + list("!?.,;:-'()")
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


class ToySpace:
    """One or all layers of a tiny encoder, and in each layer a quarter, half or all of its heads and neurons.

    Args:
        layers: the layers of the network.
    """

    def __init__(self, layers: int = 3) -> None:
        depths = [list(range(n)) for n in range(1, layers + 1)]
        knobs: dict[str, Sequence[Any]] = {"layers": depths}
        for i in range(layers):
            knobs |= {f"heads.{i}": [1, 2, 4], f"ffn.{i}": [16, 32, 64]}
        rules = {knob: ("layers", [d for d in depths if int(knob[-1]) in d]) for knob in knobs if "." in knob}
        self.domain = Choices(knobs, rules)

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the network as it is."""
        return net

    def sizes(self, arch: Arch) -> Arch:
        """Return the architecture, which says its sizes by itself."""
        return arch

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return a slice of the network."""
        from nasframe.nn import slices

        return slices.view(net, arch)

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return a slice of the network as a model of its own."""
        from nasframe.nn import slices

        return slices.extract(net, arch)


class ToyTask:
    """Tell whether the token 5 occurs more often than the token 6: learnable in seconds, no files.

    Args:
        seed: draws the examples.
        train: training examples; ``select`` and ``dev`` get a quarter each.
        length: tokens an example.
    """

    primary = "accuracy"
    labels: Sequence[str] | None = ("no", "yes")
    metrics: Mapping[str, MetricFormat] = {"accuracy": MetricFormat(percent=True)}

    def __init__(self, seed: int = 0, train: int = 64, length: int = 8) -> None:
        rng = np.random.default_rng(seed)
        self.sizes = {"train": train, "select": max(train // 4, 4), "dev": max(train // 4, 4)}
        self.data = {name: rng.integers(1, 12, (size, length)) for name, size in self.sizes.items()}
        self.fingerprint = f"toy-{seed}-{train}-{length}"

    def batch(self, split: str, index: Any) -> Batch:
        """Gather the examples at ``index`` of a split."""
        import torch

        ids = torch.as_tensor(self.data[split][index])
        labels = ((ids == 5).sum(1) > (ids == 6).sum(1)).long()
        return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels, torch.as_tensor(index))

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        """Return one epoch, shuffled by ``(seed, epoch)``."""
        order = np.random.default_rng([seed, epoch]).permutation(self.sizes["train"])
        return [self.batch("train", order[i : i + batch_size]) for i in range(0, len(order), batch_size)]

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy."""
        import torch

        return torch.nn.functional.cross_entropy(outputs.logits.float(), batch.labels)

    def chunks(self, split: str, examples: int | None) -> Iterator[Batch]:
        """Split the first ``examples`` examples into batches of 32."""
        size = min(examples or self.sizes[split], self.sizes[split])
        for start in range(0, size, 32):
            yield self.batch(split, np.arange(start, min(start + 32, size)))

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Accuracy on a split."""
        import torch

        labels, predictions, ids, tokens = [], [], [], 0
        with torch.no_grad():
            for batch in self.chunks(split, examples):
                predictions += forward(**batch.inputs).logits.argmax(-1).tolist()
                labels += batch.labels.tolist()
                ids += batch.ids.tolist()
                tokens += batch.tokens
        accuracy = float(np.mean(np.array(labels) == np.array(predictions)))
        columns = {"id": ids, "label": labels, "prediction": predictions}
        return Evaluation({"accuracy": accuracy}, columns, len(ids), tokens)
