"""Augmentation by a masked language model (TinyBERT, Jiao et al., arXiv 1909.10351, §3.2), which DynaBERT trains on."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.nn.count import forward_macs
from nasframe.step import Step
from nasframe.types import Batch, Natural, Share, Size, TrainJob

TOKENS = 4096  # of masked texts that go through the language model at once: its logits are wide
WORDS = """
a about above after again against ain all am an and any are aren as at be because been before being below
between both but by can couldn d did didn do does doesn doing don down during each few for from further had
hadn has hasn have haven having he her here hers herself him himself his how i if in into is isn it its itself
just ll m ma me mightn more most mustn my myself needn no nor not now o of off on once only or other our ours
ourselves out over own re s same shan she should shouldn so some such t than that the their theirs them
themselves then there these they this those through to too under until up ve very was wasn we were weren what
when where which while who whom why will with won wouldn y you your yours yourself yourselves
"""
STOP = frozenset(WORDS.split())  # function words stay


class Augment(Modifier):
    """Replace words of the training texts by what a masked language model would say in their place.

    Each visit of an example draws anew: once in N + 1 times it stays as it is, else each word is replaced with
    probability p by one of the language model's M likeliest words there. Passes over the data take the place of
    copies of it: ``epochs: 3 * (N + 1)`` is three epochs over the examples and N copies of each. All sub-networks and
    the teacher of a step see the same words. Function words, numbers, and words of several pieces stay.

    Args:
        model: a directory or hub id of a model with a language-modelling head over the net's own WordPiece vocabulary.
        probability: p; published: 0.4.
        candidates: M; published: 15.
        copies: N; published: 30 for small tasks, 10 to 20 for large ones.
        base: injected; the folder against which a relative ``model`` is read.

    Raises:
        UsageError: on use, where the model or its vocabulary does not fit, or ``teacher_cache: run`` would mix examples
            up.
    """

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
        self.p, self.m, self.n = probability, candidates, copies
        self.known: dict[int, dict[int, torch.Tensor]] = {}  # example → position → the words it may become
        self.counted: set[int] = set()  # in the ledger
        self.last: tuple[Batch | None, Batch | None] = (None, None)

    def on_start(self, job: TrainJob) -> None:
        """Load the language model and sort its vocabulary."""
        if job.options.teacher_cache == "run":
            raise UsageError("augment: teacher_cache 'run' keeps logits by example, but examples change here.")
        net: Any = job.net
        self.lm = load(self.model).to(next(net.parameters()).device)
        size, mine = self.lm.config.vocab_size, net.config.vocab_size
        if size != mine or job.tokenizer.mask_token_id is None:
            raise UsageError(f"augment: {self.model} has {size} tokens, the net {mine}. Expected one vocabulary.")
        self.mask_id = job.tokenizer.mask_token_id
        words = [str(word) for word in job.tokenizer.convert_ids_to_tokens(list(range(len(job.tokenizer))))]
        if any(word.startswith("Ġ") for word in words):
            raise UsageError("augment: expected a WordPiece vocabulary, as BERT, ELECTRA and DistilBERT have.")
        words += [""] * (size - len(words))
        special = set(job.tokenizer.all_special_ids)
        self.piece = torch.tensor([word.startswith("##") for word in words])
        self.whole = ~self.piece & torch.tensor([bool(word) and i not in special for i, word in enumerate(words)])
        self.open = torch.tensor([bool(re.fullmatch("[a-z]+", w.lower())) and w.lower() not in STOP for w in words])

    def on_batch(self, step: Step) -> None:
        """Give every sub-network of the micro-batch the same augmented batch."""
        if self.last[0] is not step.batch:
            self.last = (step.batch, self.augmented(step))
        assert self.last[1] is not None
        step.batch = self.last[1]

    def augmented(self, step: Step) -> Batch:
        """Replace words of a batch; all draws come first, from torch's generator as the loop has seeded it."""
        ids = step.batch.inputs["input_ids"].clone()
        stays = torch.rand(len(ids)) * (self.n + 1) < 1
        changes, choice = torch.rand(ids.shape) < self.p, torch.rand(ids.shape)
        lengths = step.batch.inputs["attention_mask"].sum(1).tolist()
        for row, (example, length) in enumerate(zip(step.batch.ids.tolist(), lengths, strict=True)):
            if example not in self.known:
                self.known[example] = self.candidates(ids[row, :length], step, new=example not in self.counted)
                self.counted.add(example)
            for position, words in self.known[example].items():
                if changes[row, position] and not stays[row]:
                    ids[row, position] = words[int(choice[row, position] * len(words))]
        return replace(step.batch, inputs={**step.batch.inputs, "input_ids": ids})

    @torch.no_grad()
    def candidates(self, ids: torch.Tensor, step: Step, new: bool) -> dict[int, torch.Tensor]:
        """Ask the language model for the M likeliest words at each open position of one text, ``(length,)`` ids.

        As published it reads the text with the word masked, then the whole text as a second segment.
        """
        began, text = time.perf_counter(), ids.cpu()
        follows = torch.cat([self.piece[text[1:]], torch.tensor([False])])  # the word goes on
        positions = torch.nonzero(self.open[text] & ~follows).flatten()
        longest = self.lm.config.max_position_embeddings
        both = torch.cat([text, text[1:]])[:longest]
        segments = (torch.arange(len(both)) >= len(text)).long()
        found: dict[int, torch.Tensor] = {}
        rows = max(1, TOKENS // len(both))
        for part in positions[positions < longest].split(rows):
            masked = both.repeat(len(part), 1)
            masked[torch.arange(len(part)), part] = self.mask_id
            inputs = {"input_ids": masked, "attention_mask": torch.ones_like(masked)}
            if self.lm.config.model_type != "distilbert":
                inputs["token_type_ids"] = segments.expand_as(masked)
            logits = self.lm(**{name: tensor.to(ids.device) for name, tensor in inputs.items()}).logits
            best = logits[torch.arange(len(part)), part].topk(min(self.m, logits.shape[-1])).indices.cpu()
            for position, words in zip(part.tolist(), best, strict=True):
                words = words[self.whole[words]]
                found[position] = words if len(words) else text[position : position + 1]
            cost = {"tokens": masked.numel(), "forward_macs": forward_macs(self.lm, None, *masked.shape)}
            step.passes.ledger.add("augmentation", **(cost if new else {}))
        step.passes.ledger.add("augmentation", examples=int(new), seconds=time.perf_counter() - began)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return which examples the ledger has counted; what became of them is found again, exactly."""
        return {"counted": sorted(self.counted)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.counted = set(state["counted"])


def load(model: str) -> Any:
    """Load a masked language model in eval mode.

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
