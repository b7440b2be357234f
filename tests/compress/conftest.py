"""A folder as a user's: a small model, the same one fine-tuned, and tables."""

import contextlib
import io
import random

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BertModel

from stand_in import SPECIAL, write_net

WORDS = [*SPECIAL, *(f"word{number}" for number in range(40))]
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
RARE = 36
"""The number of the first word that makes a mail spam."""


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Models without a head (``base``), with a random one (``untrained``), and one that tells spam; ``mails.csv``."""
    home = tmp_path_factory.mktemp("material")
    write_net(home / "base", WORDS, BertModel, **SIZES)
    write_net(home / "untrained", WORDS, **SIZES)
    write_mails(home)
    write_tuned(home)
    return home


@pytest.fixture
def user(material, tmp_path, monkeypatch):
    """A folder of the user's own, beside the material, as the working directory."""
    (tmp_path / "home").mkdir()
    for path in material.iterdir():
        (tmp_path / "home" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("NASFRAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def write_mails(home):
    """Write mails, of which about 6 % are spam: those with a rare word."""
    draw = random.Random(0)
    lines = ["number,body,folder"]
    for number in range(300):
        words = draw.choices(WORDS[len(SPECIAL) : len(SPECIAL) + RARE], k=7)
        is_spam = draw.random() < 0.06
        if is_spam:
            words[draw.randrange(7)] = draw.choice(WORDS[len(SPECIAL) + RARE :])
        lines.append(f"{number},{' '.join(words)},{'spam' if is_spam else 'ham'}")
    (home / "mails.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tuned(home):
    """Write a model that tells spam, its labels in another order and spelling than the table's."""
    names = {0: "SPAM", 1: "HAM"}
    write_net(home / "tuned", WORDS, **SIZES)
    net = BertForSequenceClassification.from_pretrained(home / "tuned")
    net.config.id2label = names
    net.config.label2id = {name: output for output, name in names.items()}
    with contextlib.suppress(StopIteration):
        train(net, home)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        net.save_pretrained(home / "tuned")


def train(net, home):
    rows = [line.split(",") for line in (home / "mails.csv").read_text(encoding="utf-8").splitlines()[1:]]
    ids = torch.tensor([[2, *(WORDS.index(word) for word in body.split()), 3] for _, body, _ in rows])
    labels = torch.tensor([0 if folder == "spam" else 1 for _, _, folder in rows])
    weight = torch.tensor([15.0, 1.0])
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(150):
        batch = torch.randint(len(ids), (32,), generator=generator)
        logits = net(input_ids=ids[batch]).logits
        torch.nn.functional.cross_entropy(logits, labels[batch], weight=weight).backward()
        optimizer.step()
        optimizer.zero_grad()


def load(directory):
    """Load an export with its own classes."""
    return AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=True)
