"""A network of one's own through search, export and deployment; a fresh process loads what was written."""

import json

import pytest

import nasframe as nf
from nasframe.nn import custom
from nasframe_deploy.deploy import deploy

PLUGIN = """
import torch

from nasframe import hookimpl
from nasframe.search.domain import Choices
from nasframe.testing.toy import ToyTask
from nasframe.testing.toy_network import ToyNet

PLUGIN_API = 2


class Model:
    def tokenizer(self):
        return None

    def load(self, labels, seed, random=False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ToyNet(8, labels=len(labels)).eval()


class Widths:
    keeps_net = True

    def __init__(self, config=None):
        self.domain = Choices({"width": [2, 4, 6, 8]})

    def supernet(self, net):
        return net

    def view(self, net, arch):
        return self.extract(net, arch)

    def extract(self, net, arch):
        with torch.random.fork_rng(devices=[]):
            small = ToyNet(**{**net.describe(), "width": arch["width"]})
        state = net.state_dict()
        for name, tensor in small.state_dict().items():
            tensor.copy_(state[name][tuple(slice(length) for length in tensor.shape)])
        return small.train(net.training)


@hookimpl
def register_models(register):
    register("own", Model)


@hookimpl
def register_spaces(register):
    register("widths", Widths)


@hookimpl
def register_tasks(register):
    register("toy", ToyTask)
"""
RECIPE = """
nasframe: 1
name: own
plugins: [./own.py]
model: own
task: toy
space: widths
budgets: {params: ["90%"]}
stages:
  - search: {trials: 4, sampler: grid}
  - extract: {}
  - export: {}
"""


@pytest.mark.slow
def test_a_network_of_ones_own_is_exported_and_deployed(tmp_path):
    (tmp_path / "own.py").write_text(PLUGIN)
    (tmp_path / "own.yaml").write_text(RECIPE)
    run = nf.run(nf.load_recipe(str(tmp_path / "own.yaml")), out=tmp_path / "run", progress=False, report=False)
    facts = deploy(run.directory, ["params<=87%"], out=tmp_path / "out", search=0, progress=False)
    folders = [run.directory / "models/best-90", *(tmp_path / "out" / model["path"] for model in facts["models"])]
    for folder in folders:
        report = json.loads((folder / "export_report.json").read_text())
        assert report["verified"]
        assert "toy_network.py" in report["files"]
        assert json.loads((folder / "config.json").read_text())["auto_map"]["AutoModel"].endswith("NasframeToyNet")
    assert custom.Described.kinds["ToyNet"]
