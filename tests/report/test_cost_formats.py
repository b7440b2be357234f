"""A cost reads as its estimator says, in every table; the run records it, so that no report needs the plugin."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import RecipeError
from nasframe.interfaces import cost_format
from nasframe.records import CostFormat
from nasframe.report import page as report
from nasframe.report import plots, tables
from nasframe.report.budgets import over_budget
from nasframe.report.format import EARLIER_COSTS
from nasframe.report.read import _front, read_run
from nasframe.report.records import Point
from nasframe.store import RunStore
from nasframe_basics import estimators
from nasframe_basics.latency import Latency
from nasframe_studies import compare, study
from nasframe_studies import tables as study_tables
from nasframe_studies.records import as_json, from_json
from run_directory import make_run
from study_directory import change

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"
TOY = Path(__file__).parents[1] / "toy_plugin.py"
PLUGIN = '''
from nasframe import hookimpl

def weights(space, net, arch):
    model = net if arch is None or space is None else space.extract(net, arch)
    return sum(p.numel() for p in model.parameters())

class Energy:
    """The energy of a forward pass, which a stranger measures in millijoules."""

    unit = "mJ"

    def estimate(self, space, net, arch=None):
        return weights(space, net, arch) / 1000

class Throughput:
    """Sequences a second: the more, the better."""

    unit = "sequences/s"
    heading = "seq/s"
    higher_is_better = True

    def estimate(self, space, net, arch=None):
        return 1e6 / weights(space, net, arch)

@hookimpl
def register_estimators(register):
    register("energy", Energy)
    register("throughput", Throughput)
'''
STAGES = """
stages=[
{train: {save_as: teacher, max_steps: 1, checkpoint_every: 0}},
{train: {name: supernet, sampler: random, max_steps: 1, checkpoint_every: 0}},
{search: {sampler: random, trials: 4, examples: 8}},
{extract: {}},
{evaluate: {costs: [params, energy, throughput, macs_of_16]}},
]
""".strip().replace("\n", " ")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "stranger.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture(scope="module")
def overrides(plugin):
    macs = "+estimators.macs_of_16={use: macs, length: 16}"
    return [f"plugins=[{TOY}, {plugin}]", "budgets={energy: ['80%']}", macs, STAGES]


@pytest.fixture(scope="module")
def run_dir(overrides, tmp_path_factory):
    """Return the directory of a run with a stranger's costs, whose plugin is gone."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    nf.run(nf.load_recipe(RECIPE, overrides), out=directory)
    return directory


def texts(directory):
    """Return the report's pages and its summary, as a terminal and a page show them."""
    found = read_run(directory)
    table = tables.summary_table(found, 200)
    columns = [str(column.header) for column in table.columns]
    cells = [str(cell) for column in table.columns for cell in column.cells]
    return [report.markdown(found), report.html(found, {}), " ".join([*columns, *cells])]


def test_a_stranger_s_cost_is_shown_by_its_name_with_its_unit(run_dir):
    found = read_run(run_dir)
    energy = next(model for model in found.models if model.name == "teacher").costs["energy"]
    for text in texts(run_dir):
        assert "energy" in text
        assert f"{tables.human(energy)} mJ" in text


def test_a_declared_heading_says_the_unit(run_dir):
    columns = tables.summary_columns(read_run(run_dir))
    assert columns == {"params": "params", "energy": "energy", "macs_of_16": "macs of 16", "throughput": "seq/s"}
    for text in texts(run_dir):
        assert "seq/s" in text
        assert "sequences/s" not in text


def test_a_cost_that_the_recipe_renamed_has_no_heading_of_another(run_dir):
    found = read_run(run_dir)
    assert found.cost_format("macs_of_16") == CostFormat("MACs")
    macs = found.models[0].costs["macs_of_16"]
    assert f"{tables.human(macs)} MACs" in report.markdown(found)


def test_a_report_needs_no_plugin(run_dir, plugin):
    before = texts(run_dir)
    plugin.rename(plugin.with_suffix(".away"))
    try:
        assert texts(run_dir) == before
    finally:
        plugin.with_suffix(".away").rename(plugin)


def test_the_axis_of_a_figure_has_the_unit(run_dir):
    found = read_run(run_dir)
    search = found.searches[0]
    assert plots.pareto(found, search, "energy").axes[0].get_xlabel() == "energy, mJ"


def test_the_table_of_costs_that_evaluate_measures_has_the_unit(overrides, tmp_path, capsys):
    short = "stages=[{train: {save_as: a, max_steps: 1}}, {evaluate: {costs: [energy]}}]"
    words = [*overrides[:1], "~budgets", short]
    assert main(["run", str(RECIPE), *words, "--out", str(tmp_path / "run"), "--no-progress"]) == 0
    assert " mJ" in capsys.readouterr().out


def test_an_excess_has_the_unit_of_its_cost():
    formats = {"energy": CostFormat("mJ"), "latency_of_8": CostFormat("ms"), "params": EARLIER_COSTS["params"]}
    costs = {"energy": 3.2, "latency_of_8": 12.04, "params": 5_300_100}
    bounds = {"energy": [None, 3.0], "latency_of_8": [None, 12.0], "params": [None, 5_300_000]}
    text = "energy 3.2 mJ > 3 mJ; latency_of_8 12.04 ms > 12 ms; params 5,300,100 > 5,300,000"
    assert over_budget(costs, bounds, formats) == text
    assert over_budget({"latency": 12.4}, {"latency": [None, 12.0]}) == "12.4 ms > 12 ms"


def test_a_measured_cost_of_any_name_has_its_spread_beside_it():
    costs = {"energy": 3.14, "energy_spread": 0.2, "energy_cached": 1}
    assert tables.cost(CostFormat("mJ"), "energy", costs) == "3.14 ± 0.2 mJ, cached"
    memory = {"memory": 3e6, "memory_spread": 2e4}
    assert tables.cost(CostFormat("bytes"), "memory", memory) == "3.00 MB ± 20.0 kB"


def point(number, score, value):
    return Point(number, str(number), score, 0.0, None, {"throughput": value}, False)


def test_a_front_prefers_more_of_what_is_better_when_it_is_more():
    points = [point(0, 0.8, 100.0), point(1, 0.9, 50.0), point(2, 0.7, 40.0)]
    assert _front(points, ["throughput"], {}) == {"1", "2"}
    more = {"throughput": CostFormat(higher_is_better=True)}
    assert _front(points, ["throughput"], more) == {"0", "1"}


@pytest.mark.parametrize(
    ("objective", "fault"),
    [
        ("throughput", ""),
        ("-throughput", "more of it is better. Expected 'throughput'"),
        ("-energy", ""),
        ("energy", "less of a cost is better. Expected '-energy'"),
    ],
)
def test_an_objective_has_the_direction_of_its_cost(overrides, objective, fault):
    words = [*overrides, f"+objectives=[accuracy, {objective}]"]
    recipe = nf.load_recipe(RECIPE, words)
    if not fault:
        nf.resolve(recipe)
        return
    with pytest.raises(RecipeError, match=fault):
        nf.resolve(recipe)


def test_runs_from_before_estimators_told_read_as_they_did(tmp_path):
    columns = tables.summary_columns(read_run(make_run(tmp_path / "run", trials=8)))
    assert list(columns.values()) == ["params", "backbone", "encoder", "MACs", "size", "latency"]


def test_nasframe_s_own_costs_read_as_they_did():
    own = {name: cost_format(getattr(estimators, name)()) for name in EARLIER_COSTS if name != "latency"}
    assert own | {"latency": cost_format(Latency())} == EARLIER_COSTS


@pytest.fixture
def comparison(tmp_path):
    """Return a comparison of two arms whose full networks differ in a stranger's cost."""
    entries = []
    make_run(tmp_path / "pattern", trials=8)
    for arm, scale in (("random", 1.0), ("sng", 2.0)):
        for seed in range(3):
            place = f"{arm}/{seed}"
            shutil.copytree(tmp_path / "pattern", tmp_path / place)
            change(tmp_path / place, arm, "mnli", seed)
            store = RunStore(tmp_path / place)
            store.put("costs", {"energy": asdict(CostFormat("mJ")), "throughput": asdict(CostFormat("1/s", "seq/s"))})
            for name, params in store.db.execute("SELECT name, json_extract(costs, '$.params') FROM model").fetchall():
                store.put_model(name, costs={"energy": scale * params / 1e6, "throughput": 1e8 / params})
            store.close()
            entries.append({"arm": arm, "task": "mnli", "seed": seed, "run": place})
    rows = [entry | row for entry in entries for row in study.run_rows(tmp_path / entry["run"], None)]
    settings = {
        "study": "s", "arms": {"random": {}, "sng": {}}, "runs": entries,
        "compare": {"metric": None, "split": "dev", "against": "random"},
    }  # fmt: skip
    return compare.analyse(tmp_path, pd.DataFrame(rows), settings)


def test_a_comparison_has_the_units_and_headings(comparison):
    found = from_json(as_json(comparison))
    heading, first, *_ = study_tables.costs(found)
    assert heading == ["task", "model", "arm", "energy", "seq/s"]
    assert found.absolute == ["energy"]
    assert first[3].endswith(" mJ")
    assert "mJ" in found.notes[0]
