"""Networks that describe themselves as Hugging Face directories: their own source files, and a class around them.

The directory loads with ``trust_remote_code=True`` in a process without nasframe. Each source file is copied with its
imports of nasframe and of the other source files replaced; a file that needs more than torch and transformers is
refused.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasframe.errors import UsageError, listing
from nasframe.nn import custom
from nasframe.nn.custom import Described

MODELING = "modeling_nasframe.py"
BASE = "described_nasframe"
"""The module in an exported directory that stands for nasframe's ``Described``."""
ALLOWED = frozenset({"numpy", "safetensors", "torch", "transformers"})
EXPECTED = "Expected torch, transformers, numpy, the standard library, nasframe's Described, or a file in sources()."
HOMES = frozenset({"nasframe", "nasframe.nn", "nasframe.nn.custom"})
"""Modules of nasframe from which a network may import ``Described``."""


@dataclass(frozen=True)
class Edit:
    """Lines of a source file to replace.

    Args:
        first: the first line, from 1.
        last: the last line.
        text: what stands there instead.
    """

    first: int
    last: int
    text: str


def sources_of(net: Described) -> list[Path]:
    """Return the files that a network is made from, that of its own class first."""
    own = Path(inspect.getfile(type(net))).resolve()
    others = [path.resolve() for path in map(Path, net.sources())]
    return [own, *(path for path in others if path != own)]


def exported_sources(net: Described) -> dict[str, str]:
    """Return the files that an exported directory needs to build a network: name → text.

    Raises:
        UsageError: a source file needs more than torch and transformers; names every place.

    >>> from nasframe.testing.toy_network import ToyNet
    >>> sorted(exported_sources(ToyNet(4)))
    ['described_nasframe.py', 'modeling_nasframe.py', 'toy_network.py']
    """
    paths = sources_of(net)
    modules = {path.stem: path for path in paths}
    if len(modules) < len(paths):
        raise UsageError(f"{type(net).__name__}: two of its source files have one name. Expected different names.")
    taken = modules.keys() & {BASE, Path(MODELING).stem}
    if taken:
        raise UsageError(f"{modules[min(taken)]}: exports have a file of this name already. Expected another name.")
    texts = {}
    problems: list[str] = []
    for path in paths:
        text, faults = self_contained(path, modules)
        texts[path.name] = text
        problems += faults
    if problems:
        raise UsageError("\n".join(problems))
    texts[f"{BASE}.py"] = DESCRIBED
    texts[MODELING] = _modeling_source(net, paths[0].stem)
    return texts


def _modeling_source(net: Described, module: str) -> str:
    """Return the module that defines the configuration and the model of transformers."""
    name = type(net).__name__
    inputs = list(inspect.signature(type(net).forward).parameters)[1:]
    return MODEL.format(name=name, module=module, kind=model_type(net), first_input=inputs[0] if inputs else "inputs")


DESCRIBED = '''"""What a network's own files need of nasframe."""

from types import SimpleNamespace

from torch import nn


class Described(nn.Module):
    """A network that says with which arguments it was made."""

    @property
    def config(self):
        """The arguments as attributes."""
        return SimpleNamespace(**self.describe(), to_dict=self.describe)

    def describe(self):
        """Return the constructor's arguments."""
        raise NotImplementedError

    def counted(self):
        """Return the network."""
        return self
'''

MODEL = '''"""The network {name} as a model of transformers; made by nasframe."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .{module} import {name}


class Nasframe{name}Config(PreTrainedConfig):
    """The sizes of the network: the arguments that build it."""

    model_type = "{kind}"

    def __init__(self, sizes=None, **fields):
        self.sizes = dict(sizes or {{}})
        super().__init__(**fields)


class Nasframe{name}(PreTrainedModel):
    """The network, built from its sizes."""

    config_class = Nasframe{name}Config
    base_model_prefix = "net"
    main_input_name = "{first_input}"

    def __init__(self, config):
        super().__init__(config)
        # On the CPU, because values that a constructor computes would be lost on the meta device.
        with torch.device("cpu"):
            self.net = {name}(**config.sizes)
        self._tied_weights_keys = _tied(self)
        self.post_init()

    def _init_weights(self, module):
        """Leave the weights as the constructor made them."""

    def forward(self, *args, **inputs):
        """Return what the network returns."""
        return self.net(*args, **inputs)


def _tied(model):
    """Return the names of tensors that share their values with one that was named before: name → first name."""
    first = {{}}
    tied = {{}}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return tied
'''


def model_type(net: Described) -> str:
    """Return the name of a network's kind in transformers.

    >>> from nasframe.testing.toy_network import ToyNet
    >>> model_type(ToyNet(4))
    'nasframe-toy-net'
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(net).__name__)
    return f"nasframe-{words.replace('_', '-').lower()}"


def self_contained(path: Path, modules: Mapping[str, Path]) -> tuple[str, list[str]]:
    """Return a source file with imports that work in an exported directory, and why that is not possible.

    Args:
        path: the file.
        modules: all source files by the names of their modules.

    Returns:
        The text, and problems that name file and line.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    edits: list[Edit] = []
    problems = []
    for node in _imports(ast.parse(text)):
        if isinstance(node, ast.If):  # imports for type checkers alone, which nothing needs at run time
            indent = _indent(lines[node.lineno - 1])
            edits.append(Edit(node.lineno, node.end_lineno or node.lineno, f"{indent}pass"))
            continue
        outside = _outside(node, modules)
        if outside:
            problems.append(f"{path}:{node.lineno}: imports {outside}, which an exported model cannot have. {EXPECTED}")
            continue
        module = _exported_module(node, modules)
        if isinstance(node, ast.ImportFrom) and module is not None:
            indent = _indent(lines[node.lineno - 1])
            text = f"{indent}from .{module} import {_names(node)}"
            edits.append(Edit(node.lineno, node.end_lineno or node.lineno, text))
    for edit in sorted(edits, key=lambda edit: edit.first, reverse=True):
        lines[edit.first - 1 : edit.last] = [edit.text]
    return "\n".join(lines) + "\n", problems


def _imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom | ast.If]:
    """Yield the imports of a module at any depth; blocks for type checkers as a whole."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not node.orelse:
            yield node
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        waiting += ast.iter_child_nodes(node)


def _outside(node: ast.Import | ast.ImportFrom, modules: Mapping[str, Path]) -> str:
    """Return what an import needs that an exported directory does not have, in words; empty if there is nothing."""
    if isinstance(node, ast.Import):
        missing = [alias.name for alias in node.names if not _is_available(alias.name)]
        return listing(missing) if missing else ""
    if _is_installed(node) or _exported_module(node, modules) is not None:
        return ""
    dots = "." * node.level
    return f"{_names(node)} from {dots}{node.module or ''}"


def _exported_module(node: ast.Import | ast.ImportFrom, modules: Mapping[str, Path]) -> str | None:
    """Return the module of the exported directory that an import has to name, ``None`` if there is none."""
    if isinstance(node, ast.Import) or _is_installed(node):
        return None
    imported = {alias.name for alias in node.names}
    if node.level == 0 and node.module in HOMES and imported == {"Described"}:
        return BASE
    own = (node.module or "").rpartition(".")[2]
    return own if own in modules else None


def _is_installed(node: ast.ImportFrom) -> bool:
    """Tell whether the module of a ``from`` import is there wherever transformers is."""
    return node.level == 0 and _is_available(node.module or "")


def _names(node: ast.ImportFrom) -> str:
    """Return what stands after ``import``."""
    return ", ".join(ast.unparse(alias) for alias in node.names)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _is_available(module: str) -> bool:
    """Tell whether a module is there wherever transformers is."""
    package = module.partition(".")[0]
    return package in ALLOWED or package in sys.stdlib_module_names


def config_fields(net: Described) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    name = type(net).__name__
    module = Path(MODELING).stem
    return {
        "architectures": [f"Nasframe{name}"],
        "auto_map": {"AutoConfig": f"{module}.Nasframe{name}Config", "AutoModel": f"{module}.Nasframe{name}"},
        "dtype": "float32",
        "model_type": model_type(net),
        "sizes": custom.described(net)["sizes"],
        "tie_word_embeddings": True,  # transformers ties weights, whatever they are, only if this is true
    }


def written_tensors(net: Described) -> dict[str, Any]:
    """Return the tensors to write, each once, under the names of the class around the network."""
    tensors: dict[str, Any] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in net.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and key in seen:  # tied: the constructor ties it again
            continue
        seen.add(key)
        tensors[f"net.{name}"] = tensor.detach().cpu().clone().contiguous()
    return tensors


def is_exported(names: Sequence[str]) -> bool:
    """Tell whether tensors have the names of an exported directory, not those of the network itself."""
    return bool(names) and all(name.startswith("net.") for name in names)
