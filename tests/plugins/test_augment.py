"""Augmentation: which words change, into what, the same for all sub-networks, and the same again after a kill."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from nasframe.errors import UsageError
from nasframe.interfaces import Modifier, TrainJob
from nasframe.nn.count import forward_macs
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe_basics.loop import Loop
from nasframe_dynabert.augment import Augment

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "un", "##do", "12", *(f"word{chr(97 + i)}" for i in range(21))]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("augment") / "lm"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = BertForMaskedLM(BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, **sizes))
        torch.nn.init.normal_(net.bert.embeddings.word_embeddings.weight)
        net.save_pretrained(folder)
    return folder


class Texts(ToyTask):
    """Each text: [CLS] the word word 12 un ##do word [SEP], with random words; positions 2, 3 and 7 may change."""

    def __init__(self) -> None:
        super().__init__(train=12, length=9)
        for rows in self.data.values():
            rows[:] = rows % 15 + 9
            rows[:, [0, 1, 4, 5, 6, 8]] = [2, 5, 8, 6, 7, 3]


class Spy(Modifier):
    """Remembers the batches that sub-networks saw."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_loss(self, step: Any, loss: Any) -> Any:
        self.seen.append(step.batch.inputs["input_ids"].clone())
        step.teacher()
        return loss


class Both:
    """A sampler of two equal architectures: two passes over each batch."""

    def ask(self, n: int = 1, within: Any = None) -> list[Any]:
        return [{}, {}]

    def tell(self, trials: Any) -> None: ...
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def job(modifiers: Any, **options: Any) -> TrainJob:
    plan = TrainOptions(**{"max_steps": 6, "batch_size": 4, "precision": "fp32", **options})
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    net, teacher = (tiny_net(layers=1, vocab_size=len(WORDS)) for _ in range(2))
    space = SimpleNamespace(view=lambda net, arch: net, domain=None)
    models = {"teacher": teacher}
    return TrainJob(
        net, Texts(), tokenizer, plan, 0, "t", space=space, sampler=Both(), modifiers=modifiers, models=models
    )


def run(lm: Path, **options: Any) -> tuple[list[torch.Tensor], Any, Augment]:
    spy, augment = Spy(), Augment(lm, **options)
    result = Loop().fit(job([augment, spy]))
    return spy.seen, {entry.role: entry for entry in result.ledger}, augment


def test_words_change_and_nothing_else(lm: Path) -> None:
    seen, _, augment = run(lm, probability=1.0, candidates=3, copies=1000)
    texts = torch.as_tensor(Texts().data["train"])
    for ids in seen:
        assert torch.equal(ids[:, [0, 1, 4, 5, 6, 8]], texts[: len(ids), [0, 1, 4, 5, 6, 8]])
    assert {position for known in augment.replacements.values() for position in known} == {2, 3, 7}
    assert len(augment.replacements) == 12


def test_candidates_are_the_language_models_likeliest_whole_words(lm: Path) -> None:
    _, _, augment = run(lm, candidates=4)
    net = BertForMaskedLM.from_pretrained(lm).eval()
    text = torch.as_tensor(Texts().data["train"][5])
    masked = torch.cat([text, text[1:]])
    masked[3] = 4
    segments = (torch.arange(17) >= 9).long()
    with torch.no_grad():
        logits = net(input_ids=masked[None], token_type_ids=segments[None]).logits[0, 3]
    likeliest = [i for i in logits.argsort(descending=True)[:4].tolist() if i not in (0, 1, 2, 3, 4, 7)]
    assert augment.replacements[5][3].tolist() == (likeliest or [int(text[3])])


def test_every_sub_network_and_the_teacher_see_the_same_words(lm: Path) -> None:
    seen, ledger, _ = run(lm)
    assert len(seen) == 12
    assert all(torch.equal(*seen[i : i + 2]) for i in range(0, 12, 2))
    assert ledger["teacher"].steps == 6  # computed once a batch, though two sub-networks asked


@pytest.mark.slow
def test_replacements_are_drawn_anew_from_the_seed_and_some_texts_stay(lm: Path) -> None:
    seen, _, _ = run(lm)
    again, _, _ = run(lm)
    assert all(torch.equal(a, b) for a, b in zip(seen, again, strict=True))
    texts = {tuple(row) for row in Texts().data["train"].tolist()}
    assert {tuple(row) for ids in run(lm, copies=0)[0] for row in ids.tolist()} <= texts
    assert {tuple(row) for ids in run(lm, probability=0.0)[0] for row in ids.tolist()} <= texts
    often = [tuple(row) in texts for ids in run(lm, probability=1.0, copies=1)[0] for row in ids.tolist()]
    assert 0.2 < sum(often) / len(often) < 0.9


def test_a_resumed_stage_sees_the_same_words_and_counts_each_text_once(lm: Path) -> None:
    class Killed(Exception):
        pass

    class Memory:
        state: Any = None

        def load(self) -> Any:
            return copy.deepcopy(self.state)

        def save(self, state: Any) -> None:
            self.state = copy.deepcopy(state)

    class Kill(Spy):
        def on_update(self, step: Any) -> None:
            if step.index == 3:
                raise Killed

    memory, whole = Memory(), run(lm)
    broken = job([Augment(lm), Kill()], checkpoint_every=0.0)
    broken.checkpoint = memory
    with pytest.raises(Killed):
        Loop().fit(broken)
    spy = Spy()
    rest = job([Augment(lm), spy], checkpoint_every=0.0)
    rest.checkpoint = memory
    result = Loop().fit(rest)
    left = len(spy.seen)
    assert left in (6, 8, 10)  # how often there is time for a checkpoint depends on the machine
    assert all(torch.equal(a, b) for a, b in zip(spy.seen, whole[0][-left:], strict=True))
    entry = next(entry for entry in result.ledger if entry.role == "augmentation")
    net = BertForMaskedLM.from_pretrained(lm)
    assert entry.examples == 12
    assert entry.forward_macs == whole[1]["augmentation"].forward_macs == 12 * forward_macs(net, None, 3, 17)


def test_what_does_not_fit_is_said(lm: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="probability"):
        Augment(lm, probability=1.5)
    with pytest.raises(UsageError, match="Expected a masked language model"):
        Augment(tmp_path).on_start(job([]))
    tiny_net(layers=1).bert.save_pretrained(tmp_path / "encoder")
    with pytest.raises(UsageError, match=r"lacks cls\.predictions"):
        Augment(tmp_path / "encoder").on_start(job([]))
    with pytest.raises(UsageError, match="teacher_cache"):
        Augment(lm).on_start(job([], teacher_cache="run"))
    other = job([])
    other.net = tiny_net(layers=1)
    with pytest.raises(UsageError, match="has 30 tokens, the net 97"):
        Augment(lm).on_start(other)
