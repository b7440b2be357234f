"""Runs on networks of other families: sliced, of transformers as they are, and a stranger's own."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import nasframe as nf
from nasframe import families
from nasframe.cli import main
from nasframe.errors import RunError, UsageError
from nasframe.export.files import read_net
from nasframe.report.read import read_run
from nasframe.testing.toy import tiny_inputs, tiny_net
from toy_plugin import ToyModel

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"

STRANGER = '''
import torch
from nasframe import hookimpl
from nasframe.testing.toy import ToyTask


class Mean(torch.nn.Module):
    """Averages of embedded tokens, mapped twice by one weight."""

    def __init__(self, width, labels):
        super().__init__()
        self.embed = torch.nn.Embedding(97, width)
        self.map = torch.nn.Linear(width, width)
        self.again = torch.nn.Linear(width, width)
        self.again.weight = self.map.weight
        self.out = torch.nn.Linear(width, labels)

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids).mean(1)
        return {{"logits": self.out(self.again(self.map(x).relu()).relu())}}


class Means:
    """What {name} says of its networks."""

    def matches(self, net):
        return type(net).__name__ == "Mean"

    def describe(self, net):
        return {{"family": "means", "model": "Mean", "width": net.map.in_features, "labels": net.out.out_features}}

    def build(self, description, device):
        with torch.device(device):
            return Mean(description["width"], description["labels"])

    def sources(self, net):
        return [__file__]


class Model:
    def tokenizer(self):
        return None

    def load(self, labels, seed, random=False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**31)
            return Mean(8, len(labels)).eval()


class Task(ToyTask):
    def loss(self, outputs, batch):
        return torch.nn.functional.cross_entropy(outputs["logits"], batch.labels)

    def evaluate(self, forward, split, examples=None):
        from types import SimpleNamespace
        return super().evaluate(lambda **inputs: SimpleNamespace(**forward(**inputs)), split, examples)


def task(seed: int = 0):
    return Task(seed=seed % 1000)


@hookimpl
def register_families(register):
    register("{name}", Means)


@hookimpl
def register_models(register):
    register("mean", Model)


@hookimpl
def register_tasks(register):
    register("means", task)
'''
RECIPE = """
nasframe: 1
name: stranger
seed: 0
plugins: [./stranger.py]
model: mean
task: means
stages:
  - train: {save_as: teacher, max_steps: 3, learning_rate: 1e-2}
  - train: {name: student, save_as: student, max_steps: 3, modifiers: [{use: kd, teacher: teacher}]}
  - evaluate: {models: [teacher, student], costs: [params, macs, size]}
"""


WHOLE = """
nasframe: 1
name: whole
seed: 0
plugins: [{plugin}]
model: {{use: toy, family: albert}}
task: toy
stages:
  - train: {{save_as: teacher, max_steps: 2}}
  - train:
      name: student
      save_as: student
      max_steps: 2
      modifiers: [{{use: kd, teacher: teacher}}, {{use: kd_hidden, teacher: teacher}}]
  - evaluate: {{models: [teacher, student], costs: [params, macs, size]}}
"""
CHECKED = """
nasframe: 1
name: groups
model: ./llama
task: {use: text_classification, train: train.csv, select: 4, dev_share: 4}
space: {use: width_depth, layers: [1, 2], heads: [2, 3, 6], ffn: ["50%"]}
stages:
  - train: {sampler: random, max_steps: 1}
  - search: {sampler: random, trials: 1}
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "stranger.py").write_text(STRANGER.format(name="means"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_whole_pipeline_on_a_decoder(family, tmp_path):
    text = TOY.read_text().replace("../toy_plugin.py", str(TOY.parents[1] / "toy_plugin.py"))
    text = text.replace("model: toy", f"model: {{use: toy, family: {family}}}").replace(
        "heads: [1, 2, 4]", "heads: [2, 4]"
    )
    text = text.replace("sampler: evolution", "sampler: sng")
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(text)
    out = nf.run(nf.load_recipe(recipe), out=tmp_path / "run").directory
    report = read_run(out)
    names = {row.name for row in report.models}
    assert {"teacher", "supernet", "best@75%", "best@40%", "tuned"} <= names
    (best,) = [row for row in report.models if row.name == "best@40%"]
    assert best.costs["encoder_params"] <= 0.4 * max(row.costs.get("encoder_params", 0) for row in report.models)
    assert all(row.forward_macs > 0 for row in report.ledger)
    tuned = read_net(out / "models" / "tuned")
    assert families.describe(tuned)["built_by"] == "sliceable"
    assert tuned(**tiny_inputs()).logits.shape == (3, 2)


def test_a_model_of_transformers_that_cannot_be_sliced_is_trained_and_kept(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(WHOLE.format(plugin=TOY.parents[1] / "toy_plugin.py"))
    first = nf.run(nf.load_recipe(recipe), out=tmp_path / "first", cache=tmp_path / "cache").directory
    student = AutoModelForSequenceClassification.from_pretrained(first / "models" / "student").eval()
    again = read_net(first / "models" / "student")
    assert families.describe(again)["built_by"] == "transformers"
    assert torch.equal(student(**tiny_inputs()).logits, again(**tiny_inputs()).logits)
    (row,) = [row for row in read_run(first).models if row.name == "student"]
    assert row.costs["params"] == sum(parameter.numel() for parameter in student.parameters())
    assert row.costs["macs"] > 0
    second = nf.run(nf.load_recipe(recipe), out=tmp_path / "second", cache=tmp_path / "cache").directory
    assert scores(second) == scores(first)


def test_check_names_the_heads_that_groups_allow(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(CHECKED)
    rows = [f"w{number} w{number + 1},{'yes' if number % 2 else 'no'}" for number in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows, ""]))
    net = tiny_net("llama", layers=2, hidden_size=48, num_attention_heads=6)
    net.save_pretrained(tmp_path / "llama")
    ToyModel().tokenizer().save_pretrained(tmp_path / "llama")
    assert main(["check", str(recipe)]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "heads: 2 heads are not whole groups of 3, which share keys and values. Expected one of 0, 3, 6." in text


def test_a_strangers_family_is_kept_resumed_and_cached(home):
    first = nf.run(nf.load_recipe(home / "recipe.yaml"), out=home / "first", cache=home / "cache").directory
    description = json.loads((first / "models" / "student" / "arch.json").read_text())["blueprint"]
    assert description == {"family": "means", "model": "Mean", "width": 8, "labels": 2, "built_by": "means"}
    student = read_net(first / "models" / "student")  # the file was loaded in this process
    assert student.again.weight is student.map.weight
    with pytest.raises(RunError, match=r"family 'meens': no plugin registers it.*Did you mean 'means'"):
        families.build(description | {"built_by": "meens"})
    report = read_run(first)
    (row,) = [row for row in report.models if row.name == "student"]
    assert row.costs["params"] == sum(parameter.numel() for parameter in student.parameters())
    second = nf.run(nf.load_recipe(home / "recipe.yaml"), out=home / "second", cache=home / "cache").directory
    assert scores(second) == scores(first)
    (home / "stranger.py").write_text(STRANGER.format(name="means") + "\n# another version\n")
    third = nf.run(nf.load_recipe(home / "recipe.yaml"), out=home / "third").directory
    assert scores(third) == scores(first)


def scores(directory):
    return {row.name: (row.metrics, row.costs) for row in read_run(directory).models}


def test_a_network_that_nobody_knows_is_refused_before_training(home):
    text = STRANGER.format(name="means").replace('register("means", Means)', "pass")
    (home / "stranger.py").write_text(text)
    with pytest.raises(UsageError, match=r"Mean: no family knows it.*register_families"):
        nf.run(nf.load_recipe(home / "recipe.yaml"), out=home / "run")


def test_two_strangers_may_not_claim_one_network(home):
    twice = 'register("means", Means)\n    register("others", Means)'
    (home / "stranger.py").write_text(STRANGER.format(name="means").replace('register("means", Means)', twice))
    with pytest.raises(UsageError, match=r"family 'means'.* and family 'others'.* both match it"):
        nf.run(nf.load_recipe(home / "recipe.yaml"), out=home / "run")


def test_former_descriptions_are_built_by_the_family_that_they_mean():
    net = tiny_net()
    description = families.describe(net)
    description.pop("built_by")
    again = families.build(description, net.state_dict())
    with torch.no_grad():
        assert torch.equal(again(**tiny_inputs()).logits, net(**tiny_inputs()).logits)
    before = torch.get_rng_state()
    families.build(families.describe(tiny_net("vit")))
    assert torch.equal(torch.get_rng_state(), before)
