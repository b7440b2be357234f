"""A tiny encoder, tokenizer, task and space, with which whole pipelines run in milliseconds.

torch and transformers are imported on use, so that samplers can be checked without them.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.records import Arch, Batch, Evaluation, Forward, MetricFormat
from nasframe.search.domain import Choices

if TYPE_CHECKING:
    import torch
    from torch import nn


ENCODERS = ("bert", "roberta", "electra", "distilbert")
"""Families that read words, classify and have one size of head, for tests of what is the same in all families."""


def tiny_config(family: str = "bert", labels: int = 2, layers: int = 3, **config: Any) -> Any:
    """Return the configuration of a network whose layers have 64 neurons and 4 heads of size 8.

    Llama and Qwen2 have two heads of keys and values, each for two query heads. Images are 8 x 8 pixels of one channel,
    in patches of 2 x 2.

    Args:
        family: a key of ``nasframe.nn.elastic.FAMILIES``.
        labels: number of outputs of the head.
        layers: number of layers.
        config: further fields of the family's configuration.
    """
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    words: dict[str, Any] = {"vocab_size": 97, "max_position_embeddings": 40, "pad_token_id": 0}
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 64}
    if family == "electra":
        sizes["embedding_size"] = 32  # by default it is 128, with a projection to the hidden size
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_inner": 64}
        words = {"vocab_size": 97, "n_positions": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    if family == "deberta-v2":  # its smallest checkpoints have relative positions; the bare defaults have none
        sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4}
        sizes |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "max_relative_positions": 8}
    if family == "modernbert":
        words |= {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4}
    if family in ("llama", "qwen2"):
        sizes["num_key_value_heads"] = 2
    if family in ("vit", "deit"):
        words = {"image_size": 8, "patch_size": 2, "encoder_stride": 2, "num_channels": 1}
    return AutoConfig.for_model(family, **{"num_labels": labels, **words, **sizes, **config})


def tiny_net(
    family: str = "bert", seed: int = 0, labels: int = 2, layers: int = 3, head: str = "", **config: Any
) -> nn.Module:
    """Return a random network in eval mode; each layer has 64 neurons and 4 heads of size 8.

    Args:
        family: a key of ``nasframe.nn.elastic.FAMILIES``.
        seed: draws the weights; the global generator is left as it was.
        labels: number of outputs of the head.
        layers: number of layers.
        head: the name of a class or auto class of transformers; by default one that classifies.
        config: further fields of the family's configuration.
    """
    import torch
    import transformers

    settings = tiny_config(family, labels, layers, **config)
    if not head:
        # Of DeiT, transformers has two classes with this head, and the auto class cannot tell which one is meant.
        images = {"vit": "ViTForImageClassification", "deit": "DeiTForImageClassification"}
        head = images.get(family, "AutoModelForSequenceClassification")
    network_class: Any = getattr(transformers, head)
    make = getattr(network_class, "from_config", network_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: nn.Module = make(settings)
    # Fresh biases and norms are constant, which would hide a wrong slice.
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return net.eval()


def tiny_images(batch: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random images for a network of :func:`tiny_net` that reads images, ``(batch, 1, 8, 8)``."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(batch, 1, 8, 8, generator=draw)}


def tiny_inputs(batch: int = 3, length: int = 7, seed: int = 0, words: int = 97) -> dict[str, torch.Tensor]:
    """Return random token ids below ``words`` and an attention mask, ``(batch, length)`` each.

    All rows but the first end in padding of different lengths, because full rows would hide a wrong mask.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, words, (batch, length), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        padding = row % length
        mask[row, length - padding :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def tiny_tokenizer() -> Any:
    """Return a tokenizer of single characters whose ids fit :func:`tiny_net`; different texts stay different.

    >>> tiny_tokenizer()("Ab!")["input_ids"]
    [2, 5, 32, 77, 3]
    """
    from transformers import BertTokenizer

    letters = list(string.ascii_lowercase)
    digits = list(string.digits)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *letters, *_continued(letters), *digits, *_continued(digits), *"!?.,;:-'()"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return BertTokenizer(vocab=vocabulary)


def _continued(characters: Sequence[str]) -> list[str]:
    """Return the tokens of characters inside a word, as WordPiece writes them."""
    return [f"##{character}" for character in characters]


class ToySpace:
    """The first layers of a tiny encoder, and in each of them a quarter, half or all of its heads and neurons.

    Args:
        layers: number of layers of the network.
    """

    keeps_net = True

    def __init__(self, layers: int = 3) -> None:
        depths = [list(range(depth)) for depth in range(1, layers + 1)]
        knobs: dict[str, Sequence[Any]] = {"layers": depths}
        rules: dict[str, Any] = {}
        for i in range(layers):
            # A layer's sizes count only if the layer is kept.
            depths_with_layer = [kept for kept in depths if i in kept]
            for knob, values in ((f"heads.{i}", [1, 2, 4]), (f"ffn.{i}", [16, 32, 64])):
                knobs[knob] = values
                rules[knob] = ("layers", depths_with_layer)
        self.domain = Choices(knobs, rules)

    def supernet(self, net: nn.Module) -> nn.Module:
        """Return the network unchanged."""
        return net

    def sizes(self, arch: Arch) -> Arch:
        """Return the architecture, whose knobs are sizes already."""
        return arch

    def view(self, net: nn.Module, arch: Arch) -> Forward:
        """Return a slice of the network as a function."""
        from nasframe.nn import slices

        return slices.view(net, arch)

    def extract(self, net: nn.Module, arch: Arch) -> nn.Module:
        """Return a slice of the network as a stand-alone model."""
        from nasframe.nn import slices

        return slices.extract(net, arch)


class ToyTask:
    """The task to tell whether token 5 occurs more often than token 6. It is learned in seconds and needs no files.

    Args:
        seed: draws the examples.
        train: number of training examples; ``select`` and ``dev`` have a quarter as many each.
        length: tokens of an example.
    """

    primary = "accuracy"
    labels: Sequence[str] | None = ("no", "yes")
    metrics: Mapping[str, MetricFormat] = {"accuracy": MetricFormat(percent=True)}

    def __init__(self, seed: int = 0, train: int = 64, length: int = 8) -> None:
        rng = np.random.default_rng(seed)
        quarter = max(train // 4, 4)
        self.sizes = {"train": train, "select": quarter, "dev": quarter}
        self.data = {}
        for name, size in self.sizes.items():
            self.data[name] = rng.integers(1, 12, (size, length))  # few tokens, so that 5 and 6 are frequent
        self.fingerprint = f"toy-{seed}-{train}-{length}"

    def batch(self, split: str, index: Any) -> Batch:
        """Return the examples at the positions ``index`` of a split as a batch."""
        import torch

        ids = torch.as_tensor(self.data[split][index])
        labels = ((ids == 5).sum(1) > (ids == 6).sum(1)).long()
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return Batch(inputs, labels, torch.as_tensor(index))

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        """Return the batches of one epoch, shuffled by ``(seed, epoch)``."""
        order = np.random.default_rng([seed, epoch]).permutation(self.sizes["train"])
        starts = range(0, len(order), batch_size)
        return [self.batch("train", order[start : start + batch_size]) for start in starts]

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy of a batch."""
        import torch

        return torch.nn.functional.cross_entropy(outputs.logits.float(), batch.labels)

    def chunks(self, split: str, examples: int | None) -> Iterator[Batch]:
        """Yield the first ``examples`` examples, by default all, in batches of 32."""
        size = self.sizes[split]
        if examples:
            size = min(examples, size)
        for start in range(0, size, 32):
            yield self.batch(split, np.arange(start, min(start + 32, size)))

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Return the accuracy on a split, with the prediction for each example."""
        import torch

        labels: list[int] = []
        predictions: list[int] = []
        ids: list[int] = []
        tokens = 0
        with torch.no_grad():
            for batch in self.chunks(split, examples):
                logits = forward(**batch.inputs).logits
                predictions += logits.argmax(-1).tolist()
                labels += batch.labels.tolist()
                ids += batch.ids.tolist()
                tokens += batch.tokens
        accuracy = float(np.mean(np.array(labels) == np.array(predictions)))
        columns = {"id": ids, "label": labels, "prediction": predictions}
        return Evaluation({"accuracy": accuracy}, columns, len(ids), tokens)


class PartialToyTask(ToyTask):
    """The toy task with a loss, measured part by part. Its splits are larger, so that networks differ in their metrics.

    Args:
        seed: draws the examples.
        train: number of training examples; ``select`` and ``dev`` have a quarter as many each.
        length: tokens of an example.
    """

    metrics: Mapping[str, MetricFormat] = {
        "accuracy": MetricFormat(percent=True),
        "loss": MetricFormat(higher_is_better=False),
    }

    def __init__(self, seed: int = 0, train: int = 512, length: int = 8) -> None:
        super().__init__(seed, train, length)

    def order(self, split: str) -> list[int]:
        """Return the positions of a split's examples, which are in random order already."""
        return list(range(self.sizes[split]))

    def evaluate_at(self, forward: Forward, split: str, ids: Sequence[int]) -> Evaluation:
        """Measure a network on the examples at some positions."""
        import torch
        from torch.nn import functional

        batch = self.batch(split, np.asarray(ids))
        with torch.no_grad():
            logits = forward(**batch.inputs).logits.double().cpu()
        columns = {
            "id": batch.ids.tolist(),
            "label": batch.labels.tolist(),
            "prediction": logits.argmax(-1).tolist(),
            "loss": functional.cross_entropy(logits, batch.labels, reduction="none").tolist(),
        }
        return Evaluation(self.metrics_of(columns), columns, len(batch), batch.tokens)

    def metrics_of(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Return the accuracy and the mean loss of rows of predictions."""
        is_right = np.array(columns["label"]) == np.array(columns["prediction"])
        return {"accuracy": float(is_right.mean()), "loss": float(np.mean(columns["loss"]))}

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Return accuracy and loss on a split."""
        return self.evaluate_at(forward, split, self.order(split)[:examples])
