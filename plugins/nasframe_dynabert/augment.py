"""Augmentation by a masked language model (TinyBERT, Jiao et al., arXiv 1909.10351, §3.2), which DynaBERT uses.

The labels of formulas are our own; README.md lists them.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import Batch, Natural, Share, Size

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    import torch

    from nasframe.interfaces import Step

TOKENS = 4096
"""Tokens of one batch of masked texts, which bounds its memory: each token has a logit for every word."""
WORDS = """
a about above after again against ain all am an and any are aren as at be because been before being below
between both but by can couldn d did didn do does doesn doing don down during each few for from further had
hadn has hasn have haven having he her here hers herself him himself his how i if in into is isn it its itself
just ll m ma me mightn more most mustn my myself needn no nor not now o of off on once only or other our ours
ourselves out over own re s same shan she should shouldn so some such t than that the their theirs them
themselves then there these they this those through to too under until up ve very was wasn we were weren what
when where which while who whom why will with won wouldn y you your yours yourself yourselves
"""
STOP = frozenset(WORDS.split())
"""Function words, which are never replaced."""


class Augment(Modifier):
    """Replace words of the training texts by words that a masked language model predicts in their place.

    The replacements are drawn each time an example is visited: once in N + 1 times it is unchanged, otherwise each word
    is replaced with probability p by one of the language model's M likeliest words there. Instead of copies of the data
    there are more passes over it: ``epochs: 3 * (N + 1)`` corresponds to three epochs over the examples and N copies of
    each. All sub-networks and the teacher of a step see the same words. Function words, numbers, and words of several
    pieces are never replaced.

    Args:
        model: a directory or hub id of a model with a language-modelling head over the net's own WordPiece vocabulary.
        probability: p, the probability that a word is replaced; published: 0.4.
        candidates: M, the number of likeliest words to draw from; published: 15.
        copies: N, the number of augmented copies for each original; published: 30 for small tasks, 10 to 20 for large
            ones.
        base: injected; the folder to which a relative ``model`` belongs.

    Raises:
        UsageError: on use, if the model or its vocabulary does not fit, or ``teacher_cache: run`` would mix up
            examples.
    """

    reads_space = False

    def __init__(
        self,
        model: Path | str,
        probability: Share = 0.4,
        candidates: Size = 15,
        copies: Natural = 20,
        base: Path | None = None,
    ) -> None:
        if not 0 <= probability <= 1 or candidates < 1 or copies < 0:
            raise UsageError("augment: expected 0 <= probability <= 1, candidates >= 1 and copies >= 0.")
        local = Path(base or ".") / Path(model).expanduser()
        self.model = str(local if local.is_dir() else model)
        self.p = probability
        self.m = candidates
        self.n = copies
        self.replacements: dict[int, dict[int, torch.Tensor]] = {}  # example → position → words it may become
        self.counted: set[int] = set()  # examples in the ledger
        self.last: tuple[Batch | None, Batch | None] = (None, None)  # a batch and its augmentation

    def on_start(self, job: TrainJob) -> None:
        """Load the language model and classify its vocabulary."""
        if job.options.teacher_cache == "run":
            raise UsageError("augment: teacher_cache 'run' keeps logits by example, but examples change here.")
        net: Any = job.net
        self.lm = load(self.model).to(next(net.parameters()).device)
        size = self.lm.config.vocab_size
        net_size = net.config.vocab_size
        if size != net_size or job.tokenizer.mask_token_id is None:
            raise UsageError(f"augment: {self.model} has {size} tokens, the net {net_size}. Expected one vocabulary.")
        self.mask_id = job.tokenizer.mask_token_id
        self._classify(job.tokenizer, size)

    def _classify(self, tokenizer: Any, size: int) -> None:
        """Store which tokens continue a word, which may be a replacement, and which may be replaced."""
        import torch

        tokens = list(range(len(tokenizer)))
        words = [str(word) for word in tokenizer.convert_ids_to_tokens(tokens)]
        if any(word.startswith("Ġ") for word in words):
            raise UsageError("augment: expected a WordPiece vocabulary, as BERT, ELECTRA and DistilBERT have.")
        words += [""] * (size - len(words))  # a model may have more embeddings than its tokenizer has words
        special = set(tokenizer.all_special_ids)
        is_word = []
        is_content = []
        for token, word in enumerate(words):
            lower = word.lower()
            is_of_letters = re.fullmatch("[a-z]+", lower) is not None
            is_word.append(bool(word) and token not in special)
            is_content.append(is_of_letters and lower not in STOP)
        self.piece = torch.tensor([word.startswith("##") for word in words])
        self.whole = ~self.piece & torch.tensor(is_word)
        self.open = torch.tensor(is_content)

    def on_batch(self, step: Step) -> None:
        """Give every sub-network of the micro-batch the same augmented batch."""
        batch, augmented = self.last
        # The loop calls this for each sub-network, with the same batch object each time.
        if batch is not step.batch or augmented is None:
            augmented = self.augmented(step)
            self.last = (step.batch, augmented)
        step.batch = augmented

    def augmented(self, step: Step) -> Batch:
        """Return a batch with replaced words."""
        import torch

        from nasframe.nn.inputs import token_input
        from nasframe.nn.positions import real_tokens

        token_ids = token_input(step.job.net, step.batch.inputs, "augment")
        ids = step.batch.inputs[token_ids].clone()
        # All draws come first, from torch's generator as the loop has seeded it: a resumed run makes the same ones.
        stays = torch.rand(len(ids)) * (self.n + 1) < 1  # (D8)
        changes = torch.rand(ids.shape) < self.p  # (D6)
        choice = torch.rand(ids.shape)
        examples = step.batch.ids.tolist()
        lengths = real_tokens(step.batch).sum(1).tolist()
        for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
            if example not in self.replacements:
                # After a resume the words are computed again, but the ledger has counted them.
                is_new = example not in self.counted
                self.replacements[example] = self.candidates(ids[row, :length], step, is_new)
                self.counted.add(example)
            if stays[row]:
                continue
            for position, words in self.replacements[example].items():
                if changes[row, position]:
                    drawn = int(choice[row, position] * len(words))
                    ids[row, position] = words[drawn]
        inputs = {**step.batch.inputs, token_ids: ids}
        return replace(step.batch, inputs=inputs)

    def candidates(self, ids: torch.Tensor, step: Step, is_new: bool) -> dict[int, torch.Tensor]:
        """Return the language model's M likeliest words at each open position of one text.

        As published, the model reads the text with the word masked, then the whole text as a second segment.

        Args:
            ids: ``(length,)``.
            step: the step, whose ledger counts the costs.
            is_new: whether the ledger has not counted this text yet.
        """
        import torch

        from nasframe.nn.count import forward_macs

        began = time.perf_counter()
        text = ids.cpu()
        ledger = step.passes.ledger
        longest = self.lm.config.max_position_embeddings
        both = torch.cat([text, text[1:]])[:longest]  # the second segment has no [CLS] of its own
        positions = self._open_positions(text)
        positions = positions[positions < longest]
        rows_at_once = max(1, TOKENS // len(both))
        words_at: dict[int, torch.Tensor] = {}
        for part in positions.split(rows_at_once):
            logits = self._logits(both, part, len(text), ids.device)
            number = min(self.m, logits.shape[-1])
            likeliest = logits.topk(number).indices.cpu()  # (D7)
            for position, tokens in zip(part.tolist(), likeliest, strict=True):
                words = tokens[self.whole[tokens]]
                if len(words) == 0:  # only pieces of words are likely here, so the word stays
                    words = text[position : position + 1]
                words_at[position] = words
            if is_new:
                shape = (len(part), len(both))
                macs = forward_macs(self.lm, None, *shape)
                ledger.add("augmentation", tokens=math.prod(shape), forward_macs=macs)
        ledger.add("augmentation", examples=int(is_new), seconds=time.perf_counter() - began)
        return words_at

    def _open_positions(self, text: torch.Tensor) -> torch.Tensor:
        """Return the positions of content words that are one token."""
        import torch

        word_goes_on = torch.cat([self.piece[text[1:]], torch.tensor([False])])
        return torch.nonzero(self.open[text] & ~word_goes_on).flatten()

    def _logits(self, both: torch.Tensor, positions: torch.Tensor, length: int, device: torch.device) -> torch.Tensor:
        """Return the language model's logits at positions, ``(positions, vocabulary)``, each masked in its own copy.

        Args:
            both: the text twice.
            positions: of the masked words.
            length: of the first segment.
            device: where the model is.
        """
        import torch

        rows = torch.arange(len(positions))
        masked = both.repeat(len(positions), 1)
        masked[rows, positions] = self.mask_id
        inputs = {self.lm.main_input_name: masked, "attention_mask": torch.ones_like(masked)}
        if self.lm.config.model_type != "distilbert":
            segments = (torch.arange(len(both)) >= length).long()
            inputs["token_type_ids"] = segments.expand_as(masked)
        inputs_there = {name: tensor.to(device) for name, tensor in inputs.items()}
        with torch.no_grad():
            logits = self.lm(**inputs_there).logits
        return logits[rows, positions]

    def state_dict(self) -> dict[str, Any]:
        """Return which examples the ledger has counted; their replacements are computed again, exactly."""
        return {"counted": sorted(self.counted)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.counted = set(state["counted"])


def load(model: str) -> Any:
    """Load a masked language model in eval mode.

    Args:
        model: a directory or hub id.

    Raises:
        UsageError: there is none, or it is not whole: its head is needed too.
    """
    from transformers import AutoModelForMaskedLM

    from nasframe import weights

    try:
        return weights.load(AutoModelForMaskedLM, weights.Source(model), head=False).net.eval()
    except (OSError, ValueError, UsageError) as error:
        text = f"augment: model {model!r}: {weights.reason(error)}. Expected a masked language model."
        raise UsageError(text) from error
