"""Networks of one's own in exports: which source files travel along, what becomes of their imports, what is refused."""

import importlib.util
import sys
import textwrap

import pytest
import torch

from nasframe.errors import UsageError
from nasframe.export import described
from nasframe.testing.toy_network import ToyNet


def module(folder, name, text):
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write modules; they are forgotten after the test."""
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name, text: module(tmp_path, name, text)


NET = """
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from {home} import Described{alias}
from exp_blocks import Block

if TYPE_CHECKING:
    from nasframe.records import Arch


class Mine({base}):
    def __init__(self, width):
        super().__init__()
        self.block = Block(width)

    def describe(self):
        return {{"width": self.block.map.in_features}}

    @classmethod
    def sources(cls):
        from pathlib import Path

        return [Path(__file__), Path(__file__).with_name("exp_blocks.py")]

    def forward(self, x):
        return self.block(x)
"""
BLOCKS = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, 2)

    def forward(self, x):
        return self.map(x)
"""


@pytest.mark.parametrize(("home", "alias", "base"), [
    ("nasframe", "", "Described"), ("nasframe.nn.custom", " as Base", "Base"),
])  # fmt: skip
def test_imports_lead_into_the_directory(own, home, alias, base):
    own("exp_blocks", BLOCKS)
    mine = own("exp_mine", NET.format(home=home, alias=alias, base=base))
    texts = described.exported_sources(mine.Mine(3))
    assert texts.keys() == {"exp_mine.py", "exp_blocks.py", "described_nasframe.py", "modeling_nasframe.py"}
    lines = texts["exp_mine.py"].splitlines()
    assert f"from .described_nasframe import Described{alias}" in lines
    assert "from .exp_blocks import Block" in lines
    assert "    from nasframe.records import Arch" not in lines
    assert "import math" in lines
    assert texts["exp_blocks.py"] == textwrap.dedent(BLOCKS)
    for text in texts.values():
        compile(text, "exported", "exec")


@pytest.mark.parametrize(("line", "fault"), [
    ("from nasframe.records import Arch", "imports Arch from nasframe.records"),
    ("import pandas", "imports pandas"),
    ("from nasframe import Described, make", "imports Described, make from nasframe"),
    ("from . import nowhere", r"imports nowhere from \."),
])  # fmt: skip
def test_what_an_exported_model_cannot_have_is_refused_with_its_line(own, line, fault):
    own("exp_blocks", BLOCKS)
    text = NET.format(home="nasframe", alias="", base="Described")
    mine = own("exp_mine", text)
    path = described.sources_of(mine.Mine(3))[0]
    path.write_text(path.read_text() + f"\n\ndef helper():\n    {line}\n")
    number = len(path.read_text().splitlines())
    with pytest.raises(UsageError, match=rf"exp_mine\.py:{number}: {fault}, which an exported model cannot have"):
        described.exported_sources(mine.Mine(3))


def test_a_file_with_the_name_of_an_exported_one_is_refused(own):
    own("exp_blocks", BLOCKS)
    mine = own("modeling_nasframe", NET.format(home="nasframe", alias="", base="Described"))
    with pytest.raises(UsageError, match="exports have a file of this name already"):
        described.exported_sources(mine.Mine(3))


def test_tied_tensors_are_written_once():
    net = ToyNet(4)
    tensors = described.written_tensors(net)
    assert "net.mirror.weight" in tensors
    assert "net.mirror_again.weight" not in tensors
    assert tensors["net.mirror.weight"].data_ptr() != net.mirror.weight.data_ptr(), "a copy"
    total = sum(tensor.numel() for tensor in tensors.values())
    assert total == sum(parameter.numel() for parameter in net.parameters())
    assert torch.equal(tensors["net.out.weight"], net.out.weight)


def test_the_configuration_names_class_and_sizes():
    fields = described.config_fields(ToyNet(5))
    assert fields["sizes"] == {"width": 5, "words": 97, "labels": 2}
    assert fields["auto_map"]["AutoModel"] == "modeling_nasframe.NasframeToyNet"
    assert fields["model_type"] == "nasframe-toy-net"
