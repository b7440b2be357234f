"""Tables of architectures: what is drawn, what is written, and going on with a file that was begun."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.records import arch_id
from nasframe.running.reopen import Finished
from nasframe.search.domain import Choices
from nasframe_bench import tabulate as module
from nasframe_bench.table_file import read_table
from nasframe_bench.tabulate import drawn, tabulate

RECIPE = Path(__file__).parents[1] / "data" / "toy.yaml"
STAGES = "stages=[{train: {save_as: net, sampler: random, max_steps: 2}}, {search: {sampler: random, trials: 12}}]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return nf.run(nf.load_recipe(RECIPE, [STAGES]), out=tmp_path_factory.mktemp("table") / "run").directory


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["json", "csv"])
def test_rows_are_what_the_super_network_measures_and_the_estimators_count(finished, tmp_path, ending):
    path = tmp_path / f"archs.{ending}"
    assert main(["tabulate", str(finished), "--archs", "9", "--out", str(path), "--no-progress"]) == 0
    table, run = read_table(path), Finished(finished)
    assert len({arch_id(row["arch"]) for row in table.rows}) == 9
    assert {"params", "encoder_params", "macs", "flops", "size"} <= set(table.costs)
    assert "latency" not in table.costs
    assert (table.metrics[0], table.about["split"]) == ("accuracy", "select")
    assert table.domain().size == run.space.domain.size
    assert table.domain().rules == run.space.domain.rules
    for row in table.rows[::4]:
        assert row["metrics"] == dict(run.evaluate(row["arch"]).metrics)
        for name in ("params", "macs"):
            assert row["costs"][name] == run.estimator(name).estimate(run.space, run.net, row["arch"])


def test_a_second_call_goes_on(finished, tmp_path, monkeypatch):
    whole = tabulate(finished, 12)
    path, evaluated, saves = tmp_path / "archs.csv", [], []
    measure, write = Finished.evaluate, module.write_table

    def counted(self, arch, examples=None):
        if len(evaluated) == 7:
            raise KeyboardInterrupt
        evaluated.append(arch_id(arch))
        return measure(self, arch, examples)

    monkeypatch.setattr(Finished, "evaluate", counted)
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(module, "write_table", lambda table, path: (saves.append(len(table.rows)), write(table, path)))
    with pytest.raises(KeyboardInterrupt):
        tabulate(finished, 12, out=path)
    assert saves == [1, 2, 3, 4, 5, 6, 7]
    evaluated.clear()
    tabulate(finished, 12, out=path)
    assert len(evaluated) == 5
    assert read_table(path).rows == whole.rows
    assert not list(tmp_path.glob("*.tmp"))


def test_another_table_is_not_gone_on_with(finished, tmp_path, capsys):
    path = tmp_path / "archs.json"
    tabulate(finished, 2, out=path)
    before = path.read_text()
    with pytest.raises(UsageError, match="holds another table"):
        tabulate(finished, 3, out=path, seed=1)
    assert path.read_text() == before
    assert main(["tabulate", str(finished), "--archs", "0"]) == 2
    capsys.readouterr()
    assert main(["tabulate", str(finished), "--archs", "2", "--no-progress"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == json.loads(before)["rows"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("archs.txt", r"Expected \.json"), ("gone/archs.json", r"cannot be written \(No such folder\)")],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(finished, tmp_path, monkeypatch, name, reason):
    monkeypatch.setattr(Finished, "evaluate", None)
    with pytest.raises(UsageError, match=reason):
        tabulate(finished, 3, out=tmp_path / name)


LAYERS = [[0], [0, 1], [0, 1, 2]]
KNOBS = {"layers": LAYERS} | {f"ffn.{i}": [3, 6, 9, 12, 15, 18, 21, 24] for i in range(3)}
DOMAIN = Choices(KNOBS, {"ffn.1": ("layers", LAYERS[1:]), "ffn.2": ("layers", LAYERS[2:])})


def cost(arch):
    return {"macs": float(sum(value for knob, value in arch.items() if knob != "layers"))}


def test_costs_spread_evenly_and_more_begin_with_the_same():
    many = list(drawn(DOMAIN, cost, 33, "spread", 0))
    assert many[:2] == [DOMAIN.smallest(), DOMAIN.largest()]
    assert list(drawn(DOMAIN, cost, 10, "spread", 0)) == many[:10]
    assert list(drawn(DOMAIN, cost, 10, "spread", 1)) != many[:10]
    values = np.sort([cost(arch)["macs"] for arch in many])
    even = np.linspace(values[0], values[-1], len(values))
    assert np.abs(values - even).max() <= 0.12 * (values[-1] - values[0])
    uniform = np.sort([cost(arch)["macs"] for arch in drawn(DOMAIN, cost, 33, "uniform", 0)])
    assert np.abs(uniform - even).max() > 0.12 * (values[-1] - values[0])


@pytest.mark.parametrize("draw", ["spread", "uniform"])
def test_a_small_space_is_given_whole(draw):
    small = Choices({"a": [1, 2, 3], "b": [0, 5]})
    found = list(drawn(small, lambda arch: {"macs": float(sum(arch.values()))}, 50, draw, 0))
    assert len(found) == 6
    assert all(x != y for x, y in itertools.combinations(found, 2))
