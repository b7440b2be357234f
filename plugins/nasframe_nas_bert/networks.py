"""Networks that are chains of sub-layers: attention, feed-forward, separable convolution, a linear map.

Every sub-layer has the same form, a residual sum followed by a normalisation, as in BERT. Sub-layers stand in blocks.
All of a block have one width; between blocks, a linear map leads from one width to the next. An
:class:`OperatorChain` has one chain, a :class:`ChainLibrary` has all candidates of every block.

Operations are written as words: ``mha`` attention with as many heads as fit the width, ``ffn`` with a multiple of the
width as neurons, ``conv3`` a separable convolution over 3 tokens, ``linear`` one map of each token, ``-`` nothing. A
number behind a slash divides: ``mha/2`` has half of the heads, ``ffn/4`` a quarter of the neurons.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput

from nasframe.nn.custom import Described

NOTHING = "-"
"""The word for a sub-layer that is left out."""


class Attention(nn.Module):
    """Attention of all tokens to all tokens.

    Args:
        width: of the tokens' states.
        heads: number of heads.
        head_size: numbers of each head.
    """

    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_size
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, dropout: float) -> torch.Tensor:
        """Return ``(batch, length, width)``; ``mask`` is true for tokens and false for padding."""
        query, key, value = (self._heads_of(map(states)) for map in (self.query, self.key, self.value))
        is_seen = mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=is_seen, dropout_p=dropout)
        joined = mixed.transpose(1, 2).flatten(2)
        output: torch.Tensor = self.output(joined)
        return output

    def _heads_of(self, states: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, heads, length, head size)``."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear maps with an activation between them.

    Args:
        width: of the tokens' states.
        neurons: numbers between the maps.
    """

    def __init__(self, width: int, neurons: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, neurons)
        self.down = nn.Linear(neurons, width)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, dropout: float) -> torch.Tensor:
        """Return ``(batch, length, width)``."""
        output: torch.Tensor = self.down(functional.gelu(self.up(states)))
        return output


class SeparableConvolution(nn.Module):
    """A convolution of each channel over neighbouring tokens, then a linear map of each token's channels.

    Args:
        width: of the tokens' states.
        kernel: tokens that the convolution reads; an odd number.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.pointwise = nn.Linear(width, width)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, dropout: float) -> torch.Tensor:
        """Return ``(batch, length, width)``; padding counts as zeros, as beyond the ends."""
        visible = states * mask[..., None].to(states.dtype)
        near = self.depthwise(visible.transpose(1, 2)).transpose(1, 2)
        output: torch.Tensor = self.pointwise(functional.gelu(near))
        return output


class LinearMap(nn.Module):
    """One linear map of each token.

    Args:
        width: of the tokens' states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, dropout: float) -> torch.Tensor:
        """Return ``(batch, length, width)``."""
        output: torch.Tensor = self.map(states)
        return output


def operation(word: str, width: int, head_size: int, expansion: float) -> nn.Module:
    """Return the operation that a word means.

    Args:
        word: see the module.
        width: of the tokens' states.
        head_size: of attention.
        expansion: neurons for each number of the width.

    Raises:
        ValueError: no operation has this name, or it cannot be divided so.

    >>> operation("ffn/2", 8, 4, 4.0).up
    Linear(in_features=8, out_features=16, bias=True)
    """
    kind, _, divisor = word.partition("/")
    part = int(divisor) if divisor else 1
    if kind == "mha":
        heads = width // head_size
        if width % head_size or heads % part:
            raise ValueError(f"{word}: {width} numbers are no {heads / part:g} heads of {head_size}.")
        return Attention(width, heads // part, head_size)
    if kind == "ffn":
        neurons = round(expansion * width)
        if neurons % part:
            raise ValueError(f"{word}: {neurons} neurons cannot be divided by {part}.")
        return FeedForward(width, neurons // part)
    if divisor:
        raise ValueError(f"{word}: only mha and ffn can be divided.")
    if kind == "linear":
        return LinearMap(width)
    kernel = kind.removeprefix("conv")
    if kind.startswith("conv") and kernel.isdigit() and int(kernel) % 2:
        return SeparableConvolution(width, int(kernel))
    raise ValueError(f"{word}: no such operation. Expected mha, ffn, conv3, conv5, conv7 or linear.")


class SubLayer(nn.Module):
    """An operation, a residual sum and a normalisation.

    Args:
        word: the operation.
        width: of the tokens' states.
        head_size: of attention.
        expansion: neurons for each number of the width.
        dropout: of the operation's output, and of attention, while training.
        epsilon: of the normalisation.
    """

    def __init__(self, word: str, width: int, head_size: int, expansion: float, dropout: float, epsilon: float) -> None:
        super().__init__()
        self.operation = operation(word, width, head_size, expansion)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.dropout = dropout

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, length, width)``."""
        dropout = self.dropout if self.training else 0.0
        change = self.operation(states, mask, dropout)
        output: torch.Tensor = self.norm(states + functional.dropout(change, dropout))
        return output


class Embedding(nn.Module):
    """The sum of word, position and type embeddings, normalised.

    Args:
        vocabulary: number of tokens.
        positions: number of positions.
        types: number of token types; 0 for none.
        pad: the padding token.
        size: numbers of each embedding.
        dropout: of the sum, while training.
        epsilon: of the normalisation.
        counts_from_pad: whether positions begin behind the padding token's number, as in RoBERTa.
    """

    def __init__(
        self,
        vocabulary: int,
        positions: int,
        types: int,
        pad: int,
        size: int,
        dropout: float,
        epsilon: float,
        counts_from_pad: bool = False,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, size, padding_idx=pad)
        # In RoBERTa's way of counting, the row of the padding token's number is that of padding.
        self.position_embeddings = nn.Embedding(positions, size, padding_idx=pad if counts_from_pad else None)
        self.types = nn.Embedding(types, size) if types else None
        self.norm = nn.LayerNorm(size, eps=epsilon)
        self.dropout = dropout
        self.pad = pad
        self.counts_from_pad = counts_from_pad

    def forward(self, ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
        """Return ``(batch, length, size)``."""
        if self.counts_from_pad:
            is_token = ids.ne(self.pad).long()
            places = is_token.cumsum(1) * is_token + self.pad
        else:
            places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        total = self.words(ids) + self.position_embeddings(places)
        if self.types is not None:
            total = total + self.types(torch.zeros_like(ids) if types is None else types)
        dropout = self.dropout if self.training else 0.0
        return functional.dropout(self.norm(total), dropout)


ACTIVATIONS: dict[str, Any] = {"gelu": functional.gelu, "tanh": torch.tanh, "relu": functional.relu}


class TokenHead(nn.Module):
    """Predicts a token at each position, as BERT does: a map, an activation, a normalisation, then the vocabulary.

    Args:
        width: of the states.
        size: numbers behind the first map.
        vocabulary: number of tokens.
        epsilon: of the normalisation.
    """

    def __init__(self, width: int, size: int, vocabulary: int, epsilon: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, size)
        self.norm = nn.LayerNorm(size, eps=epsilon)
        self.decoder = nn.Linear(size, vocabulary)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, length, vocabulary)``."""
        logits: torch.Tensor = self.decoder(self.norm(functional.gelu(self.dense(states))))
        return logits


class ClassHead(nn.Module):
    """Classifies a text by the state of its first token: a map, an activation, the classes.

    Args:
        width: of the states.
        labels: number of outputs.
        activation: ``tanh``, ``gelu`` or ``relu``.
        dropout: before the last map, while training.
    """

    def __init__(self, width: int, labels: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.output = nn.Linear(width, labels)
        self.activation = activation
        self.dropout = dropout

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, labels)``."""
        pooled = ACTIVATIONS[self.activation](self.dense(states[:, 0]))
        dropout = self.dropout if self.training else 0.0
        logits: torch.Tensor = self.output(functional.dropout(pooled, dropout))
        return logits


def make_head(head: dict[str, Any], vocabulary: int, dropout: float, epsilon: float) -> nn.Module:
    """Return a head from its description.

    Args:
        head: ``kind`` (``tokens`` or ``classes``) and ``width``; of ``tokens`` also ``size``, and of ``classes`` also
            ``labels`` and ``activation``.
        vocabulary: number of tokens.
        dropout: while training.
        epsilon: of normalisations.
    """
    if head["kind"] == "tokens":
        return TokenHead(head["width"], head["size"], vocabulary, epsilon)
    return ClassHead(head["width"], head["labels"], head["activation"], dropout)


def outputs_of(head: Any, states: torch.Tensor, hidden: Sequence[torch.Tensor] | None) -> Any:
    """Return a head's logits as transformers would.

    Args:
        head: the head.
        states: the last states.
        hidden: the states at the borders of blocks, if they were asked for.
    """
    logits = head(states)
    kept = None if hidden is None else tuple(hidden)
    if isinstance(head, TokenHead):
        return MaskedLMOutput(logits=logits, hidden_states=kept)
    return SequenceClassifierOutput(logits=logits, hidden_states=kept)


class HeadAlone(Described):
    """A head that is counted by itself.

    Args:
        head: the head.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(states)
        return logits

    def counted(self) -> nn.Module:
        """Return nothing of a head of tokens, which only pre-training needs."""
        return nn.ModuleList() if isinstance(self.head, TokenHead) else self.head


def seen(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return which tokens are no padding, ``(batch, length)`` booleans."""
    return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()


class OperatorChain(Described):
    """A network that is one chain of sub-layers, in blocks.

    Args:
        words: ``vocabulary``, ``positions``, ``types``, ``pad`` and ``counts_from_pad``, see :class:`Embedding`.
        embedding: size of the embedding.
        blocks: of each block its ``width`` and its ``operations``, words as in the module's description.
        head: see :func:`make_head`.
        head_size: of attention.
        expansion: neurons of ``ffn`` for each number of the width.
        joins: for each border, the one behind the embedding first and the one before the head last, whether there is a
            map; default: where the widths differ.
        tied: whether the head of tokens shares its matrix with the embedding of words.
        dropout: while training.
        epsilon: of the normalisations.
    """

    def __init__(
        self,
        words: dict[str, Any],
        embedding: int,
        blocks: Sequence[dict[str, Any]],
        head: dict[str, Any],
        head_size: int,
        expansion: float = 4.0,
        joins: Sequence[bool] | None = None,
        tied: bool = False,
        dropout: float = 0.1,
        epsilon: float = 1e-12,
    ) -> None:
        super().__init__()
        borders = [embedding, *(block["width"] for block in blocks), head["width"]]
        differing = [before != after for before, after in itertools.pairwise(borders)]
        self.joins = differing if joins is None else list(joins)
        self.sizes: dict[str, Any] = {
            "words": words,
            "embedding": embedding,
            "blocks": [dict(block) for block in blocks],
        }
        self.settings: dict[str, Any] = {
            "head": dict(head),
            "head_size": head_size,
            "expansion": expansion,
            "tied": tied,
            "dropout": dropout,
            "epsilon": epsilon,
        }

        self.embedding = Embedding(**words, size=embedding, dropout=dropout, epsilon=epsilon)
        self.maps = nn.ModuleList()
        for (before, after), has_map in zip(itertools.pairwise(borders), self.joins, strict=True):
            self.maps.append(nn.Linear(before, after) if has_map else nn.Identity())
        self.blocks = nn.ModuleList()
        for block in blocks:
            layers = [
                SubLayer(word, block["width"], head_size, expansion, dropout, epsilon) for word in block["operations"]
            ]
            self.blocks.append(nn.ModuleList(layers))
        self.head = make_head(head, words["vocabulary"], dropout, epsilon)
        self.apply(draw)
        if tied:
            self.head.decoder.weight = self.embedding.words.weight  # type: ignore[union-attr]

    def describe(self) -> dict[str, Any]:
        """Return the sizes."""
        return {**self.sizes, **self.settings, "joins": list(self.joins)}

    def counted(self) -> nn.Module:
        """Return what is deployed: everything but a head of tokens, which only pre-training needs."""
        if isinstance(self.head, TokenHead):
            return nn.ModuleList([self.embedding, self.maps, self.blocks])
        return self

    def part(self, name: str) -> Sequence[nn.Module] | None:
        """Return the blocks and the maps between them, and as the backbone also the embedding."""
        encoder = [self.maps, self.blocks]
        return encoder if name == "encoder" else [self.embedding, *encoder]

    def for_task(self, auto_class: str, labels: Sequence[str] | None) -> OperatorChain:
        """Return the same chain with copies of its weights, and a new head for classes or tokens.

        Args:
            auto_class: ``AutoModelForSequenceClassification`` or ``AutoModelForMaskedLM``.
            labels: the classes; ``None`` is one output, for regression.
        """
        width = self.sizes["blocks"][-1]["width"]
        if auto_class == "AutoModelForMaskedLM":
            head = {"kind": "tokens", "width": width, "size": self.sizes["embedding"]}
        else:
            outputs = 1 if labels is None else len(labels)
            head = {"kind": "classes", "width": width, "labels": outputs, "activation": "tanh"}
        # The new head reads the last block's own width, so there is no map before it.
        joins = [*self.joins[:-1], False]
        tied = auto_class == "AutoModelForMaskedLM"
        net = OperatorChain(**{**self.describe(), "head": head, "joins": joins, "tied": tied})
        for part, own in ((net.embedding, self.embedding), (net.blocks, self.blocks)):
            part.load_state_dict(own.state_dict())
        for map, own_map in zip(list(net.maps)[:-1], self.maps, strict=False):
            map.load_state_dict(own_map.state_dict())
        return net

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Any:
        """Return logits; and on demand the states behind the embedding and behind each block."""
        mask = seen(input_ids, attention_mask)
        states = self.embedding(input_ids, token_type_ids)
        hidden = [states]
        blocks: Any = self.blocks
        for map, block in zip(self.maps, blocks, strict=False):
            states = map(states)
            for layer in block:
                states = layer(states, mask)
            hidden.append(states)
        states = self.maps[-1](states)
        return outputs_of(self.head, states, hidden if output_hidden_states else None)


class ChainLibrary(Described):
    """All candidates of every block, next to each other: the super-network of a space of chains.

    Each position of a block has a sub-layer of its own for every operation at every width. Linear maps lead from the
    teacher's width into each width and back, so that any candidate can stand in for its block of the teacher. The head
    is the teacher's.

    Args:
        words: see :class:`OperatorChain`.
        width: the teacher's, which all blocks read and return.
        embeddings: sizes of the embedding.
        widths: widths of blocks.
        slots: words of the operations at each position of a block.
        blocks: number of blocks.
        head: the teacher's, see :func:`make_head`.
        head_size: of attention.
        expansion: neurons of ``ffn`` for each number of the width.
        dropout: while training.
        epsilon: of the normalisations.
        losses: part → candidate → how far its output is from the teacher's, for the candidates that are left. A part is
            ``embedding`` or ``block.0``, ``block.1`` …
        measured: the measured times of operations, and how they were measured.
    """

    def __init__(
        self,
        words: dict[str, Any],
        width: int,
        embeddings: Sequence[int],
        widths: Sequence[int],
        slots: Sequence[Sequence[str]],
        blocks: int,
        head: dict[str, Any],
        head_size: int,
        expansion: float = 4.0,
        dropout: float = 0.1,
        epsilon: float = 1e-12,
        losses: dict[str, dict[str, float]] | None = None,
        measured: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.measured = measured
        self.losses = {part: dict(of_part) for part, of_part in (losses or {}).items()}
        self.arguments: dict[str, Any] = {
            "words": words,
            "width": width,
            "embeddings": list(embeddings),
            "widths": list(widths),
            "slots": [list(slot) for slot in slots],
            "blocks": blocks,
            "head": dict(head),
            "head_size": head_size,
            "expansion": expansion,
            "dropout": dropout,
            "epsilon": epsilon,
        }
        self.embeddings = nn.ModuleDict()
        self.embedding_maps = nn.ModuleDict()
        for size in embeddings:
            self.embeddings[str(size)] = Embedding(**words, size=size, dropout=dropout, epsilon=epsilon)
            self.embedding_maps[str(size)] = map_between(size, width)
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            self.blocks.append(CandidateBlock(width, widths, slots, head_size, expansion, dropout, epsilon))
        self.head = make_head(head, words["vocabulary"], dropout, epsilon)
        self.apply(draw)

    def describe(self) -> dict[str, Any]:
        """Return the sizes, the candidates that are left with their losses, and measured times."""
        return {**self.arguments, "losses": self.losses, "measured": self.measured}

    def embed(self, size: int, ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
        """Return what an embedding of a size gives in place of the teacher's, ``(batch, length, width)``."""
        states: torch.Tensor = self.embedding_maps[str(size)](self.embeddings[str(size)](ids, types))
        return states

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        embedding: int | None = None,
        chains: Sequence[Any] | None = None,
    ) -> Any:
        """Return the logits of one network: an embedding's size, and of each block a width and operations.

        By default it is the largest: the last size, and at each position the operation that is listed first.
        """
        mask = seen(input_ids, attention_mask)
        size = embedding if embedding is not None else self.arguments["embeddings"][-1]
        if chains is None:
            first_words = [slot[0] for slot in self.arguments["slots"]]
            chains = [(self.arguments["widths"][-1], first_words)] * len(self.blocks)
        states = self.embed(size, input_ids, token_type_ids)
        hidden = [states]
        for block, (width, operations) in zip(self.blocks, chains, strict=True):
            states = block(states, mask, width, operations)
            hidden.append(states)
        return outputs_of(self.head, states, hidden if output_hidden_states else None)


class CandidateBlock(nn.Module):
    """All candidates of one block.

    Args:
        outer: the width that the block reads and returns.
        widths: those that it may have inside.
        slots: words of the operations at each position.
        head_size: of attention.
        expansion: neurons of ``ffn`` for each number of the width.
        dropout: while training.
        epsilon: of the normalisations.
    """

    def __init__(
        self,
        outer: int,
        widths: Sequence[int],
        slots: Sequence[Sequence[str]],
        head_size: int,
        expansion: float,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.maps_in = nn.ModuleDict({str(width): map_between(outer, width) for width in widths})
        self.maps_out = nn.ModuleDict({str(width): map_between(width, outer) for width in widths})
        self.layers = nn.ModuleDict()
        for width in widths:
            positions = nn.ModuleList()
            for slot in slots:
                words = [word for word in slot if word != NOTHING]
                layers = {key_of(word): SubLayer(word, width, head_size, expansion, dropout, epsilon) for word in words}
                positions.append(nn.ModuleDict(layers))
            self.layers[str(width)] = positions

    def layer(self, width: int, position: int, word: str) -> SubLayer:
        """Return the sub-layer of an operation."""
        layer: SubLayer = self.layers[str(width)][position][key_of(word)]  # type: ignore[index]
        return layer

    def forward(self, states: torch.Tensor, mask: torch.Tensor, width: int, operations: Sequence[str]) -> torch.Tensor:
        """Return what a candidate gives in place of the teacher's block, ``(batch, length, outer)``."""
        states = self.maps_in[str(width)](states)
        for position, word in enumerate(operations):
            if word != NOTHING:
                states = self.layer(width, position, word)(states, mask)
        output: torch.Tensor = self.maps_out[str(width)](states)
        return output


def key_of(word: str) -> str:
    """Return a word as the name of a module, in which no dot or slash may stand.

    >>> key_of("ffn/2")
    'ffn_2'
    """
    return word.replace("/", "_")


def map_between(before: int, after: int) -> nn.Module:
    """Return a linear map between two widths; there is none between equal ones."""
    return nn.Identity() if before == after else nn.Linear(before, after)


def draw(module: nn.Module) -> None:
    """Draw the weights of a module as BERT does."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        if isinstance(module, nn.Conv1d):  # a channel reads a few tokens only, so that 0.02 would leave nothing of it
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
        else:
            nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
