"""Search in a table of architectures."""

import json
import math

import numpy as np
import pytest

import nasframe as nf
from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.recipe.resolve import check_recipe
from nasframe.running.runner import resume
from nasframe.search.domain import Choices
from nasframe.search.loop import search
from nasframe.testing.samplers import SamplerContract, layered_domain
from nasframe_bench.rows import Rows
from nasframe_bench.surrogate import TREES, Additive, TableModel, Trees
from nasframe_bench.table_file import ArchTable, read_table, write_table
from nasframe_bench.table_space import TableSpace
from nasframe_bench.table_task import TableTask

KNOBS = {"layers": [[0], [0, 1]], "heads.0": [1, 2, 4], "heads.1": [1, 2, 4], "ffn.0": [8, 16], "ffn.1": [8, 16]}
ACTIVE = {"heads.1": ("layers", [[0, 1]]), "ffn.1": ("layers", [[0, 1]])}


def measured(arch):
    cost = sum(value for knob, value in arch.items() if knob != "layers")
    return {"accuracy": math.log(cost) + 0.1 * (arch["heads.0"] == 2), "loss": 1 / cost}, {"size": 3.0 + 7 * cost}


def table_of(archs):
    rows = [dict(zip(("arch", "metrics", "costs"), (arch, *measured(arch)), strict=True)) for arch in archs]
    return ArchTable(KNOBS, ACTIVE, ["accuracy", "loss"], ["loss"], ["size"], rows)


@pytest.fixture
def archs():
    return list(Choices(KNOBS, ACTIVE).enumerate())


@pytest.fixture
def file(archs, tmp_path):
    write_table(table_of(archs), tmp_path / "whole.json")
    return tmp_path / "whole.json"


@pytest.fixture
def part(archs, tmp_path):
    chosen = np.random.default_rng(0).permutation(len(archs))[:20]
    write_table(table_of([archs[i] for i in sorted(chosen)]), tmp_path / "part.json")
    return tmp_path / "part.json"


def test_a_whole_table_answers_what_it_holds(file, archs):
    space = TableSpace(file)
    task = TableTask(space)
    assert (space.complete, space.domain.size, space.archs) == (True, 42, archs)
    assert task.primary == "accuracy"
    for arch in archs:
        metrics, costs = measured(arch)
        found = task.evaluate(space.view(None, dict(reversed(arch.items()))), "select", 5)
        assert found.metrics == metrics
        assert space.estimators["size"].estimate(space, None, arch) == costs["size"]
    assert space.estimators["size"].estimate(space, None) == max(measured(arch)[1]["size"] for arch in archs)


def test_what_a_table_lacks_is_out_of_the_space(part):
    space, rng = TableSpace(part), np.random.default_rng(0)
    listed = [row["arch"] for row in space.table.rows]
    drawn = [space.domain.sample(rng) for _ in range(200)]
    assert all(arch in listed for arch in drawn)
    assert all(space.domain.mutate(arch, rng) in listed for arch in drawn[:20])
    assert len({str(arch) for arch in drawn}) == 20
    other = next(arch for arch in Choices(KNOBS, ACTIVE).enumerate() if arch not in listed)
    assert not space.domain.contains(other)
    assert space.row(other)["metrics"] == {}
    assert math.isnan(space.row(other)["costs"]["size"])


def test_a_search_in_part_of_a_table_stays_there(part):
    space = TableSpace(part)
    task = TableTask(space)
    found = search(
        nf.make("sampler", "evolution", domain=Choices(KNOBS, ACTIVE), seed=1),
        space.domain,
        lambda arch, count: task.evaluate(space.view(None, arch), "select").metrics,
        lambda arch: space.row(arch)["costs"],
        trials=20,
    )
    listed = [row["arch"] for row in space.table.rows]
    assert sum(trial.state == "done" for trial in found.trials) == 20
    assert all(trial.arch in listed for trial in found.trials if trial.state == "done")


def test_rows_far_apart_are_reached_by_every_step():
    """One in ten thousand million: no draw of values would hit a row."""
    domain, rng = Choices({f"k{i}": list(range(10)) for i in range(10)}), np.random.default_rng(1)
    listed = [domain.sample(rng) for _ in range(50)]
    rows, allowed = Rows(domain, listed), [arch for arch in listed if arch["k0"] >= 5]
    part = rows.restrict({"k0": list(range(5, 10))}, keep=lambda arch: arch["k1"] < 9)
    expected = [arch for arch in allowed if arch["k1"] < 9]
    assert list(part.enumerate()) == expected
    assert (rows.size, part.size) == (50, len(expected))
    for draw in (part.sample, lambda rng: part.mutate(listed[0], rng), lambda rng: part.crossover(*listed[:2], rng)):
        assert all(draw(rng) in expected for _ in range(50))
    distances = [sum(a != b for a, b in zip(arch.values(), listed[0].values(), strict=True)) for arch in listed]
    near = {str(rows.mutate(listed[0], rng)) for _ in range(300)}
    assert near <= {str(arch) for arch, far in zip(listed, distances, strict=True) if 0 < far <= sorted(distances)[8]}
    assert len(near) >= 8
    assert rows.joined({"pair": ["k0", "k1"]}).sample(rng) in listed
    with pytest.raises(UnsatisfiableError):
        rows.restrict(keep=lambda arch: False).sample(rng)


class TestEvolutionOnRows(SamplerContract):
    """A domain of rows is a domain like others."""

    trials = 300

    def make(self, domain, seed):
        return nf.make("sampler", "evolution", domain=domain, seed=seed)

    def domains(self):
        domain, rng = layered_domain(), np.random.default_rng(0)
        return [Rows(domain, [domain.sample(rng) for _ in range(40)])]


def test_a_model_answers_for_what_a_table_lacks(part, archs, caplog, monkeypatch):
    monkeypatch.setitem(TREES, "n_estimators", 60)
    space = TableSpace(part, missing="model")
    assert space.archs is None
    assert "20 of 42 architectures are in the table" in caplog.text
    assert "size (exact, additive)" in caplog.text
    for arch in archs:
        assert space.row(arch)["costs"]["size"] == pytest.approx(measured(arch)[1]["size"])
    for row in space.table.rows:
        assert space.row(row["arch"]) == row
    truth = [measured(arch)[0]["accuracy"] for arch in archs]
    assert np.corrcoef([space.row(arch)["metrics"]["accuracy"] for arch in archs], truth)[0, 1] > 0.8


def test_trees_predict_what_scikit_learn_does():
    from sklearn.ensemble import GradientBoostingRegressor

    rng = np.random.default_rng(0)
    x = rng.integers(-1, 4, (60, 5)).astype(float)
    y = x[:, 0] * x[:, 1] + np.sin(x[:, 2])
    trees, fitted = Trees(x, y), GradientBoostingRegressor(**TREES).fit(x, y)
    new = rng.integers(-1, 4, (40, 5)).astype(float)
    assert [trees(row) for row in new] == pytest.approx(fitted.predict(new))


def test_additive_costs_are_recovered_with_knobs_that_are_absent():
    domain = Choices(KNOBS, ACTIVE)
    model = TableModel.__new__(TableModel)
    model.domain = domain
    archs = list(domain.enumerate())
    x = np.array([model.features(arch) for arch in archs])
    y = np.array([measured(arch)[1]["size"] for arch in archs])
    some = np.random.default_rng(0).permutation(len(x))[:30]
    fit = Additive(x[some], y[some], domain.shape)
    assert [fit(row) for row in x] == pytest.approx(y)


def test_the_layout_of_nas_bench_macro_is_known(tmp_path):
    record = {"test_acc": [90.0, 92.0, 91.0], "mean_acc": 91.0, "std": 0.8, "params": 10, "flops": 20}
    words = {a + b: record | {"mean_acc": 90.0 + int(a) + int(b)} for a in "012" for b in "012"}
    (tmp_path / "macro.json").write_text(json.dumps(words))
    space = TableSpace(tmp_path / "macro.json")
    assert (space.table.metrics, space.table.costs) == (["accuracy"], ["params", "flops"])
    assert space.domain.knobs == {"op.0": (0, 1, 2), "op.1": (0, 1, 2)}
    assert space.row({"op.0": 2, "op.1": 1}) == {
        "arch": {"op.0": 2, "op.1": 1}, "metrics": {"accuracy": 93.0}, "costs": {"params": 10.0, "flops": 20.0},
    }  # fmt: skip


def test_columns_of_tables_made_elsewhere(tmp_path):
    (tmp_path / "other.csv").write_text("width,note,acc,ms\n2,a,0.5,1.5\n4,b,0.75,2.5\n")
    space = TableSpace(tmp_path / "other.csv", columns={"acc": "metric.accuracy", "ms": "cost.latency", "note": ""})
    assert space.domain.knobs == {"width": (2, 4)}
    assert space.row({"width": 4})["costs"] == {"latency": 2.5}
    with pytest.raises(UsageError, match=r"no column 'accc'.*Did you mean 'acc'\?"):
        TableSpace(tmp_path / "other.csv", columns={"accc": "metric.accuracy"})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("width,cost.ms\n2,1.5\n", "no metrics"),
        ("width,metric.acc\n", "no rows"),
        ("width,metric.acc\n2,0.5\n2,0.6\n", "row 2: the same architecture again"),
        ("width,metric.acc\n2,0.5\n4,\n", "row 2: 'acc' is None"),
        ("width,metric.acc\n2,0.5\n4,inf\n", "row 2: 'acc' is inf"),
    ],
)
def test_what_is_wrong_is_named_by_its_row(tmp_path, text, error):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UsageError, match=r"bad\.csv") as caught:
        TableSpace(tmp_path / "bad.csv")
    assert error in str(caught.value)


def test_every_kind_of_file_holds_the_same(file, tmp_path):
    table = read_table(file)
    write_table(table, tmp_path / "whole.csv")
    assert TableSpace(tmp_path / "whole.csv").rows == TableSpace(file).rows
    with pytest.raises(UsageError, match=r"unknown kind of table '\.parquet'\. Expected \.json or \.csv"):
        write_table(table, tmp_path / "whole.parquet")


def test_tasks_say_what_they_need(file):
    with pytest.raises(UsageError, match="needs the space 'table'"):
        TableTask()
    with pytest.raises(UsageError, match=r"no metric 'acuracy'.*Did you mean 'accuracy'\?"):
        TableTask(TableSpace(file), metric="acuracy")
    with pytest.raises(UsageError, match="less of it is better"):
        TableTask(TableSpace(file), metric="loss")
    for refuse in (lambda: TableSpace(file).extract(None, {}), lambda: TableTask(TableSpace(file)).loss(None, None)):
        with pytest.raises(UsageError, match="no "):
            refuse()


# --- recipes without a network ---------------------------------------------------------------------------------------


def recipe(file, **changes):
    stages = [{"search": {"sampler": {"use": "evolution", "population": 6}, "trials": 30}}]
    base = {"space": {"use": "table", "path": str(file)}, "task": {"use": "table"}, "stages": stages}
    return base | {"constraints": {"size": "<= 80%"}, "seed": 1} | changes


def test_a_run_of_a_table(file, archs, tmp_path):
    run = nf.run(nf.load_recipe(recipe(file)), out=tmp_path / "run")
    largest = max(measured(arch)[1]["size"] for arch in archs)
    allowed = [arch for arch in archs if measured(arch)[1]["size"] <= 0.8 * largest]
    best = max(measured(arch)[0]["accuracy"] for arch in allowed)
    done = run.trials[run.trials["state"] == "done"]
    assert done["score"].max() == best
    assert (done["cost.size"] <= 0.8 * largest).all()
    assert (tmp_path / "run/report.html").is_file()
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["data"]["primary"] == "accuracy"


@pytest.mark.slow
def test_a_run_of_a_table_goes_on_and_can_be_repeated(file, tmp_path):
    whole = nf.run(nf.load_recipe(recipe(file)), out=tmp_path / "whole")
    again = nf.run(nf.load_recipe(tmp_path / "whole/recipe.yaml"), out=tmp_path / "again")
    columns = ["arch_id", "state", "score"]
    assert again.trials[columns].equals(whole.trials[columns])
    resume(tmp_path / "whole")
    file.write_text(file.read_text().replace('"accuracy": 2', '"accuracy": 3', 1))
    with pytest.raises(UsageError, match="the data is not what the run began with"):
        resume(tmp_path / "again")


@pytest.mark.slow
def test_budgets_and_several_objectives(file, tmp_path):
    changes = {"constraints": {}, "budgets": {"size": ["60%", "90%"]}, "objectives": ["accuracy", "-size"]}
    run = nf.run(nf.load_recipe(recipe(file, **changes)), out=tmp_path / "run")
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert {f"objective.{i}" for i in (0, 1)} <= set(run.trials.columns)
    assert report["searches"][0]["points"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "minilm-l6"}, "model  space 'table' has no network"),
        ({"estimators": {"params": {}}}, "estimators  space 'table' has no network"),
        ({"constraints": {"sizes": "<= 3"}}, "constraints.sizes  unknown cost. Costs: size. Did you mean 'size'?"),
        ({"stages": [{"extract": {}}]}, "stages.extract  needs a network"),
        ({"stages": [{"search": {"fit": {"max_steps": 1}}}]}, "stages.search  needs a network"),
        ({"stages": [{"search": {"from": "random"}}]}, "stages.search  needs a network"),
        ({"space": None}, "model  missing"),
    ],
)
def test_what_does_not_fit_a_table_is_told_before_any_work(file, changes, problem):
    _, problems = check_recipe(recipe(file, **changes))
    assert any(problem in str(found) for found in problems), list(map(str, problems))


def test_a_missing_or_broken_file_is_a_problem_of_the_recipe(tmp_path):
    assert "no such file" in str(check_recipe(recipe(tmp_path / "none.json"))[1][0])
    (tmp_path / "bad.csv").write_text("width,metric.acc\n2,0.5\n2,0.6\n")
    assert "row 2: the same architecture" in str(check_recipe(recipe(tmp_path / "bad.csv", constraints={}))[1][0])
