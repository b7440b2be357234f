"""What a model card says: values in the hub's own form, the loss against the teacher, and nothing of this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from nasframe.export.card import data_set, front_matter, public, result_rows
from nasframe.export.files import card_text
from nasframe.interfaces import Loading
from nasframe.records import MetricFormat
from nasframe.report.card_facts import card_facts
from nasframe.report.read import read_run
from nasframe.stages.inputs import base_facts
from nasframe.testing.toy import tiny_net
from run_directory import make_run

FORMATS = {"accuracy": MetricFormat(percent=True), "loss": MetricFormat(higher_is_better=False)}
CARD = {
    "model": {"use": "hf", "path": "/home/somebody/models/mine"},
    "task": {"use": "text_classification", "train": "/home/somebody/reviews.csv", "label": "stars"},
    "data": {"metrics": {name: asdict(form) for name, form in FORMATS.items()}},
    "metrics": {"accuracy": 0.75, "loss": 0.5},
    "teacher": {"accuracy": 0.8, "loss": 0.4},
    "loss": "Its accuracy is 5.0 points below the teacher (95 % interval −7.0 to −3.0).",
    "base": {"name": "google-bert/bert-base-uncased", "license": "apache-2.0"},
    "costs": [["params", "31.3k", "50 %"]],
    "limits": ["Measured on 16 examples."],
}


def text_of(card):
    return card_text("best@50%", tiny_net(), Loading(Path("load.py")), card)


def test_the_hub_reads_values_base_and_licence():
    data = ModelCard(text_of(CARD)).data
    assert data.license == "apache-2.0"
    assert data.base_model == "google-bert/bert-base-uncased"
    assert data.pipeline_tag == "text-classification"
    assert data.model_name == "best@50%"
    (result,) = data.eval_results  # the loss is no metric of the hub
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.75, "dev")
    assert (result.dataset_type, result.dataset_name) == ("reviews", "reviews.csv")


def test_the_hub_reads_a_metric_of_which_less_is_better():
    formats = {name: asdict(MetricFormat(higher_is_better=False)) for name in ("perplexity", "loss")}
    card = {"metrics": {"perplexity": 7.5, "loss": 2.0}, "data": {"metrics": formats}}
    (result,) = ModelCard(text_of(card)).data.eval_results
    assert (result.metric_type, result.metric_value) == ("perplexity", 7.5)


def test_people_read_the_loss_against_the_teacher_costs_and_limits():
    text = text_of(CARD)
    assert "# best@50%" in text
    assert "It was made from google-bert/bert-base-uncased." in text
    assert CARD["loss"] in text
    assert "| accuracy | 75.00 % | 80.00 % | −5.00 points |" in text
    assert "| loss | 0.5 | 0.4 | +0.1 |" in text
    assert "| params | 31.3k | 50 % |" in text
    assert "- Measured on 16 examples." in text


def test_no_folder_of_this_machine_is_named():
    text = text_of(CARD)
    assert "somebody" not in text
    assert "/home" not in text
    assert "reviews.csv" in text


def test_a_card_without_values_has_no_index():
    data = ModelCard(text_of({})).data.to_dict()
    assert "model-index" not in data
    assert "license" not in data
    assert result_rows({}) == []


@given(st.lists(st.text("abc.~", min_size=1, max_size=5), min_size=2, max_size=5))
def test_of_an_absolute_path_its_last_part_alone_stays(parts):
    assert "/" not in public("/" + "/".join(parts))


@pytest.mark.parametrize("name", ["google-bert/bert-base-uncased", "minilm-l6", "a label, or two"])
def test_what_is_no_path_stays(name):
    assert public({"use": "hf", "path": name}) == {"use": "hf", "path": name}


def test_a_data_set_of_the_hub_keeps_its_name():
    task = {"use": "text_classification", "hub": "nyu-mll/glue", "config": "sst2"}
    assert data_set(task) == {"type": "nyu-mll/glue", "name": "nyu-mll/glue", "config": "sst2"}
    head = front_matter("m", {"model": "BertModel", "family": "bert"}, {"task": task, "metrics": {"accuracy": 0.5}})
    assert "datasets:\n- nyu-mll/glue" in head


def test_a_saved_data_set_on_this_machine_is_no_data_set_of_the_hub():
    task = {"use": "text_classification", "hub": "../clients/acme", "train": "train"}
    assert public(task) == {"use": "text_classification", "hub": "acme", "train": "train"}
    assert data_set(task) == {"type": "acme", "name": "acme"}
    head = front_matter("m", {"model": "BertModel", "family": "bert"}, {"task": task, "metrics": {"accuracy": 0.5}})
    assert "clients" not in head
    assert "datasets:" not in head


def test_facts_come_from_the_report(tmp_path):
    report = read_run(make_run(tmp_path / "run", trials=3))
    facts = card_facts(report, ["best@50%", "teacher", "gone"])
    assert facts.keys() == {"best@50%", "teacher"}
    own = facts["best@50%"]
    assert own["title"] == "best@50%"
    assert own["teacher"]["accuracy"] == pytest.approx(0.624)
    assert own["loss"] == "Its accuracy is 4.1 points below the teacher."
    assert ["encoder params", "4.33M", "41 %"] in own["costs"]
    assert any("1,000 examples" in line for line in own["limits"])
    assert any("cut at 48 tokens" in line for line in own["limits"])
    assert any("latency was measured on one machine" in line for line in own["limits"])
    assert "loss" not in facts["teacher"]


def test_the_licence_of_the_base_is_read_from_its_own_card(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    inputs = SimpleNamespace(model=SimpleNamespace(files=lambda: [folder]))
    assert base_facts(inputs) == {}
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: me/base\n---\nMine.\n")
    assert base_facts(inputs) == {"name": "me/base", "license": "mit"}
    for unreadable in ("no front matter", "---\nlicense: [\n---\nNo YAML."):
        (folder / "README.md").write_text(unreadable)
        assert base_facts(inputs) == {}


def test_a_model_that_is_published_names_its_hub_id():
    model = SimpleNamespace(files=list, hub_id="me/published")
    assert base_facts(SimpleNamespace(model=model)) == {"name": "me/published"}
    assert base_facts(SimpleNamespace(model=None)) == {}
