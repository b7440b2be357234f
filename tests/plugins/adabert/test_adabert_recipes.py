"""AdaBERT's recipes: checked before work, run to a verified export, at MiniLM's shape and at the published scale."""

from __future__ import annotations

import json

import pytest

import nasframe as nf
from nasframe.cli.check import problems_of
from nasframe.recipe.resolve import check_recipe
from nasframe.store import RunStore
from stand_in import write_net, write_reviews


def run_small(folder, recipe, layers, *changes):
    """Run a recipe's smoke on a small network of as many layers, and return the run's directory."""
    sizes = {"hidden_size": 24, "num_attention_heads": 12, "max_position_embeddings": 40, "intermediate_size": 48}
    model = write_net(folder / "net", num_hidden_layers=layers, **sizes)
    task = write_reviews(folder)
    settings = ["smoke=true", f"model={model}", f"task={task}", "space.width=8", *changes]
    plan = nf.load_recipe(recipe, settings)
    return nf.run(plan, out=folder / "run", cache=folder / "cache", progress=False, report=True).directory


def test_a_run_ends_with_a_network_within_half_of_the_encoder_and_its_operations(tmp_path):
    directory = run_small(tmp_path, "adabert/sst2-minilm", 6)
    store = RunStore(directory, shared=True)
    rows = {row["name"]: row for row in store.rows("model")}
    store.close()
    assert set(rows) == {"teacher", "probes", "best@50%"}
    costs = {name: row["costs"] for name, row in rows.items()}
    assert 0 < costs["best@50%"]["encoder_params"] <= 0.5 * costs["teacher"]["encoder_params"]
    exported = directory / "models" / "best-50"
    assert json.loads((exported / "export_report.json").read_text())["verified"]
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "| operations | " in card
    assert "| cells | " in card
    source = (exported / "network.py").read_text(encoding="utf-8")
    assert "from .described_nasframe import Described" in source
    assert "class AdaBert(Described):" in source


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), ("as-code=true",), ("sgd=true",)])
def test_the_published_scale_runs_on_tiny_data(tmp_path, changes):
    directory = run_small(tmp_path, "adabert/mrpc", 12, *changes)
    assert (directory / "models/adabert/export_report.json").is_file()


def test_recipes_say_what_the_papers_settings_are():
    plan, problems = check_recipe("adabert/mrpc")
    assert problems == []
    stages = {stage.name: stage.options for stage in plan.stages}
    assert plan.space.items() >= {"use": "adabert_cells", "most": 8, "fewest": 0, "width": 128}.items()
    cells = stages["cells"]
    assert (cells["options"].max_steps, cells["options"].batch_size) == (1960, 128)
    assert round(cells["modifiers"][0]["decay"] * 1960) == 1568
    assert stages["tune"]["options"].max_steps == 30


def test_the_search_without_its_space_is_refused_before_work():
    found = [str(problem) for problem in problems_of("adabert/sst2-minilm", ["space=width_depth"])]
    assert len(found) >= 1
    assert "Expected the super-network of the space adabert_cells." in "\n".join(found)


def test_the_search_on_the_plain_network_is_refused_before_work():
    found = [str(problem) for problem in problems_of("adabert/sst2-minilm", ["stages.cells.space=null"])]
    assert "trains BertForSequenceClassification. Expected the super-network" in "\n".join(found)
