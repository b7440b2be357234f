"""What differs between arms beside what is compared is refused or told: teachers, machines, data, budgets."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from test_compare import ROWS, frame, settings

from nasframe.errors import UsageError
from nasframe.store import RunStore
from nasframe_studies import compare, conditions, runs, study
from nasframe_studies import plots as study_plots
from nasframe_studies import report as study_report
from nasframe_studies import tables as study_tables
from nasframe_studies.run_facts import RunFacts
from run_directory import make_run
from study_directory import change, make_study


def analysed(made, **changes):
    return compare.analyse("/nowhere", made, settings(made, **changes))


def budgets(shares=("50%", "30%"), rows=ROWS):
    """One frame with a winner under each budget."""
    parts = []
    for share in shares:
        size = float(share.rstrip("%")) / 100
        costs = {"encoder_params": 1e7 * size, "encoder_params_relative": size}
        part = frame(rows, **{"model": f"best@{share}", "budget": share} | costs)
        parts.append(part.assign(score=part["score"] - (1 - size) / 10))
    return pd.concat(parts, ignore_index=True)


def with_larger_teacher(made, arm="b", factor=2.0):
    """Give an arm the same shares of a network of another size."""
    made = made.copy()
    made.loc[made["arm"] == arm, "encoder_params"] *= factor
    return made


# ---- teachers


def test_shares_of_different_networks_are_never_set_side_by_side():
    made = with_larger_teacher(budgets())
    report = analysed(made)
    assert report.absolute == ["encoder_params"]
    described = [row for table in report.tables for row in table.arms]
    assert all("encoder_params_relative" not in row.costs for row in described)
    (note,) = [line for line in report.notes if line.startswith("TEACHERS DIFFER on t")]
    assert "10M (a, c), 20M (b)" in note.replace(".0M", "M")
    assert "30%, 50%" in note
    heading, *rows = study_tables.costs(report)
    assert heading[3:] == ["encoder"]
    assert {row[2]: row[3] for row in rows if row[1] == "50%"} == {"a": "5.00M", "b": "10.0M", "c": "5.00M"}
    figure = study_plots.fronts(report)
    assert figure.axes[0].get_xlabel() == "encoder params, absolute"
    ends = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_label() == "b"]
    assert max(ends[0]) == pytest.approx(1e7, rel=0.02)
    assert "In absolute numbers" in study_tables.costs_caption(report)


def test_fronts_of_different_networks_are_measured_in_one_unit():
    """An arm whose models are equal in size and score has an equal front, whatever its teacher's size is."""
    made = budgets(rows=[(arm, "t", seed, 0.5 + seed / 50) for arm in "ab" for seed in range(3)])
    small = made["arm"] == "b"
    made.loc[small, "encoder_params_relative"] = made.loc[small, "encoder_params"] / 5e6  # of half the size
    report = analysed(made)
    (front,) = report.fronts
    a, b = front.arms
    assert a.mean == pytest.approx(b.mean, rel=1e-12)


def test_an_arm_without_a_teacher_is_compared_in_absolute_numbers_too():
    made = budgets()
    made.loc[made["arm"] == "c", "encoder_params_relative"] = None
    report = analysed(made)
    assert (report.absolute, report.cost) == (["encoder_params"], "encoder_params")
    assert any("unknown, without a teacher (c)" in line for line in report.notes)


def test_equal_teachers_keep_their_shares_however_they_are_rounded():
    made = budgets()
    made["encoder_params_relative"] *= 1 + 1e-13
    made["latency"], made["latency_relative"], made["latency_spread"] = 3.0, made["score"], 0.1  # measured: noise
    report = analysed(made)
    assert report.absolute == []
    assert not any("TEACHERS" in line for line in report.notes)


def test_a_measured_cost_is_absolute_if_a_counted_one_is():
    made = with_larger_teacher(budgets())
    made["latency"], made["latency_relative"], made["latency_spread"] = 3.0, 0.5, 0.1
    assert analysed(made).absolute == ["encoder_params", "latency"]


@pytest.mark.slow
def test_one_name_of_a_budget_that_bounds_two_costs_is_told(tmp_path):
    home = make_study(tmp_path, arms=("random", "evolution"), tasks=("sst2",), seeds=2, trials=4)
    recipe = home / "runs/evolution/sst2/seed-0/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("budgets: {encoder_params", "budgets: {macs"))
    report = compare.analyse(home, study.collect(home), study.settings(home))
    (note,) = [line for line in report.notes if line.startswith("BUDGETS OF ONE NAME")]
    assert "encoder_params (random), macs (evolution)" in note


# ---- one network, two budgets


def test_the_same_networks_under_two_budgets_are_one_test():
    made = budgets(("75%", "50%", "30%"))
    rows = made.assign(network=made["arm"] + made["seed"].astype(str) + made["budget"])
    same = rows.copy()
    largest = same["budget"] == "75%"
    half = same[same["budget"] == "50%"]
    same.loc[largest, ["network", "score"]] = half[["network", "score"]].to_numpy()
    report = analysed(same)
    copies = [(table.model, row.same_as) for table in report.tables for row in table.comparisons]
    assert copies == [("75%", None), ("75%", None), ("50%", "75%"), ("50%", "75%"), ("30%", None), ("30%", None)]
    assert {table.family for table in report.tables} == {4}
    first, second = (report.tables[number].comparisons[0] for number in (0, 1))
    assert first.p_t_holm == second.p_t_holm < analysed(rows).tables[0].comparisons[0].p_t_holm
    (note,) = [line for line in report.limits if line.startswith("One network answers several budgets")]
    assert "a: best@75% = best@50% in 4 of 4 runs" in note
    lines = [line for line in report.limits if line.startswith("b against a is not resolved")]
    assert all("50%" not in line for line in lines)


def test_networks_that_agree_at_some_seeds_alone_are_two_tests():
    made = budgets(("75%", "50%"))
    made["network"] = made["arm"] + made["seed"].astype(str) + made["budget"]
    made.loc[made["seed"] == 0, "network"] = made["arm"] + "0"
    report = analysed(made)
    assert {row.same_as for table in report.tables for row in table.comparisons} == {None}
    assert any("a: best@75% = best@50% in 1 of 4 runs" in line for line in report.limits)


def test_a_network_under_two_budgets_is_one_point_of_the_front():
    """Each arm has three models, of which one is there twice: its hypervolume is that of two points."""
    made = budgets(("75%", "50%", "30%"), [("a", "t", 0, 0.6), ("b", "t", 0, 0.65)])
    a, b = made["arm"] == "a", made["arm"] == "b"
    made.loc[a, "score"] = [0.6, 0.6, 0.5]
    made.loc[a, "encoder_params_relative"] = [0.5, 0.5, 0.2]
    made.loc[b, "score"] = [0.65, 0.65, 0.4]
    made.loc[b, "encoder_params_relative"] = [0.4, 0.4, 0.3]
    made["encoder_params"] = 1e7 * made["encoder_params_relative"]
    (front,) = analysed(made).fronts
    assert front.references == {"t": [0.4, -0.5]}
    first, second = front.arms
    assert first.mean == pytest.approx((0.5 - 0.4) * (0.5 - 0.2), rel=1e-12)
    assert second.mean == pytest.approx((0.65 - 0.4) * (0.5 - 0.4), rel=1e-12)


def test_models_of_a_run_are_one_network_if_architecture_and_scores_are(tmp_path):
    make_run(tmp_path / "run", trials=2)
    store = RunStore(tmp_path / "run")
    best = store.model("best@50%")
    store.put_model("best@75%", arch=best["arch"], metrics=best["metrics"])
    store.close()
    rows = {row["model"]: row["network"] for row in study.run_rows(tmp_path / "run")}
    assert rows["best@75%"] == rows["best@50%"] != rows["best@30%"]
    assert rows["teacher"] is None


def test_a_group_whose_tasks_have_several_models_says_so():
    report = analysed(budgets(), compare={"split": "dev", "groups": {"all": ["t"]}})
    (note,) = [line for line in report.notes if line.startswith("Group all")]
    assert "best@50%, best@30%" in note


# ---- over budget


def test_models_over_their_budgets_are_told_and_marked_on_every_page():
    made = budgets()
    made["over_budget"] = None
    made.loc[(made["arm"] == "b") & (made["budget"] == "50%") & (made["seed"] < 2), "over_budget"] = "12.4 ms > 12 ms"
    report = analysed(made)
    (note,) = [line for line in report.notes if line.startswith("OVER BUDGET: b, 50% on t, in 2 of 4 runs")]
    assert "seed 1: 12.4 ms > 12 ms" in note
    marked = [
        (table.model, row.arm)
        for table in report.tables
        for row in study_tables.rows(report, table)
        if row.score.endswith("†")
    ]
    assert marked == [("50%", "b")]
    assert "†" in study_report.markdown(report)
    assert "†: over budget" in study_report.html(report, {}, {})
    assert r"$\dagger$" in study_report.latex(report)
    row = next(row for row in report.tables[0].arms if row.arm == "b")
    assert row.over_budget == [0, 1]


# ---- scores


def test_scores_of_two_metrics_on_one_task_are_refused():
    made = frame(ROWS)
    made.loc[made["arm"] == "b", "metric"] = "f1"
    with pytest.raises(UsageError, match=r"t: the arms are scored by different metrics: accuracy \(a, c\), f1 \(b\)"):
        analysed(made)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_left_out_and_told(value):
    made = frame(ROWS)
    made.loc[(made["arm"] == "b") & (made["seed"] == 1), "score"] = value
    report = analysed(made)
    (line,) = [line for line in report.notes if line.startswith("NO NUMBER")]
    assert f"is {value} in b on t, seed 1" in line
    b = next(row for row in report.tables[0].comparisons if row.arm == "b")
    assert b.seeds == [0, 2, 3]
    study_report.as_json(report)


def test_a_comparison_without_a_finite_score_is_refused():
    with pytest.raises(UsageError, match="no score is a finite number"):
        analysed(frame(ROWS).assign(score=float("nan")))


@pytest.fixture
def two(tmp_path):
    """Two arms of two seeds on one task; ``edit(arm, seed, **data)`` changes what a run keeps of its data."""
    home = make_study(tmp_path / "study", arms=("random", "evolution", "rest"), tasks=("sst2",), seeds=2, trials=2)
    facts = study.settings(home).plain()
    facts["runs"] = [run for run in facts["runs"] if run["arm"] != "rest" and run["seed"] == 0]

    def edit(arm, key="data", **changes):
        store = RunStore(home / f"runs/{arm}/sst2/seed-0")
        store.put(key, {**(store.get(key) or {}), **changes})
        store.close()

    def notes():
        frame = study.collect(home)
        told = compare.analyse(home, frame[(frame["arm"] != "rest") & (frame["seed"] == 0)], facts).notes
        # These runs were made without scores on select, which a recommendation says of its own.
        return [note for note in told if "no scores on select" not in note]

    return home, edit, notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sizes": {"dev": 399}}, "dev examples: 400 (random), 399 (evolution)"),
        ({"labels": ["c", "a"]}, "classes: a, b (random), a, c (evolution)"),
    ],
)
def test_scores_of_other_examples_classes_or_definitions_are_told(two, changes, expected):
    _, edit, notes = two
    assert notes() == []
    edit("random", labels=["a", "b"])
    edit("evolution", **{"labels": ["a", "b"]} | changes)
    (note,) = notes()
    assert note.startswith("SCORES ARE NOT OF THE SAME EXAMPLES OR CLASSES on sst2")
    assert expected in note


def test_classes_in_another_order_are_told_only_if_a_score_depends_on_it(two):
    home, edit, notes = two
    edit("random", labels=["a", "b"])
    edit("evolution", labels=["b", "a"])
    for path in (home / "runs/evolution/sst2/seed-0/models").glob("*/predictions.csv"):
        table = pd.read_csv(path)
        table.assign(label=1 - table["label"], prediction=1 - table["prediction"]).to_csv(path, index=False)
    assert notes() == []
    runs = [facts_of_run("random", ["a", "b"]), facts_of_run("evolution", ["b", "a"])]
    (note,) = conditions.data_notes(runs, "dev", ["f1"])
    assert "classes: a, b (random), b, a (evolution)" in note


def facts_of_run(arm, labels):
    """Return what a comparison knows of a run that records its classes, and not of which one its ``f1`` is."""
    return RunFacts(arm, "t", 0, {}, (), {}, "f1", "f1", [], {}, {"labels": labels}, {})


def form_of(**changes):
    return {
        "percent": True,
        "higher_is_better": True,
        "positive": None,
        "companion": False,
        "dev_only": False,
    } | changes


def test_other_positive_classes_are_told_if_the_compared_metric_is_about_one(two):
    _, edit, notes = two
    edit("random", metrics={"accuracy": form_of(positive="a")})
    edit("evolution", metrics={"accuracy": form_of(positive="b")})
    assert any("positive class: a (random), b (evolution)" in note for note in notes())


def test_runs_that_disagree_on_the_direction_of_a_metric_are_refused(two):
    _, edit, notes = two
    edit("random", metrics={"accuracy": form_of(higher_is_better=False)})
    edit("evolution", metrics={"accuracy": form_of()})
    expected = r"sst2: the runs disagree on whether more or less of 'accuracy' is better: less \(random\), more \(evol"
    with pytest.raises(UsageError, match=expected):
        notes()
    edit("evolution", metrics={"accuracy": form_of(higher_is_better=False)})
    assert notes() == []


def test_other_data_at_equal_seeds_are_told_in_a_study_too(two):
    _, edit, notes = two
    edit("evolution", fingerprint="elsewhere")
    (note,) = notes()
    assert note.startswith("sst2: evolution had other data than random at equal seeds")


def test_predictions_of_other_examples_are_told(two):
    home, _, notes = two
    for path in (home / "runs/evolution/sst2/seed-0/models").glob("*/predictions.csv"):
        path.write_text(path.read_text().replace("\n0,", "\n1000,", 1))
    (note,) = notes()
    assert note.startswith("evolution and random WERE SCORED ON DIFFERENT EXAMPLES OR LABELS (sst2, seed 0)")


# ---- machines


@pytest.mark.slow
def test_runs_on_different_machines_threads_precisions_and_versions_are_told(two):
    home, _, notes = two
    place = home / "runs/evolution/sst2/seed-0"
    environment = json.loads((place / "env.json").read_text())
    changed = {"processor": "new", "threads": 4, "versions": {"torch": "2.14.0", "nasframe": "0.1.0"}}
    (place / "env.json").write_text(json.dumps(environment | changed))
    recipe = place / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: supernet,", "name: supernet, precision: bf16,"))
    other = home / "runs/random/sst2/seed-0/recipe.yaml"
    other.write_text(other.read_text().replace("name: supernet,", "name: supernet, precision: fp32,"))
    store = RunStore(home / "runs/random/sst2/seed-0")
    store.put("environments", [environment | {"processor": "old"}])
    store.close()
    kinds, pairs, note = notes()
    assert pairs.startswith("PAIRS ARE NOT LIKE FOR LIKE")
    assert kinds.startswith("RUNS WERE MADE ON DIFFERENT KINDS OF PROCESSOR: A is old")
    assert note.startswith("RUNS HAD DIFFERENT CONDITIONS: threads 2 (random)")
    for part in (
        "4 (evolution)",
        "torch 2.13.0 (random), 2.14.0 (evolution)",
        "precision of train fp32 (random), bf16",
    ):
        assert part in note


def test_a_run_that_went_on_elsewhere_has_both_conditions(two):
    home, _, notes = two
    store = RunStore(home / "runs/random/sst2/seed-0")
    store.put("environments", [{"threads": 2}, {"threads": 8}])
    store.close()
    (note,) = notes()
    assert "threads 2 (random, evolution), 8 (random)" in note


# ---- copies, notices, missing runs


def test_a_copy_of_a_run_does_not_count_as_another(tmp_path):
    make_run(tmp_path / "a", trials=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UsageError, match=r"b: a copy of .*a\. Expected every run once"):
        runs.as_study([f"first={tmp_path / 'a'}", f"second={tmp_path / 'b'}"])
    with pytest.raises(UsageError, match="given twice"):
        runs.as_study([f"first={tmp_path / 'a'}", f"second={tmp_path / 'a'}"])
    change(tmp_path / "b", "sng", "sst2", 0)
    assert len(runs.as_study([f"first={tmp_path / 'a'}", f"second={tmp_path / 'b'}"])[1].runs) == 2


@pytest.mark.slow
def test_notices_of_runs_are_shown_once_with_their_arms(two):
    home, _, _ = two
    for arm, texts in (("random", ["new head", "cut"]), ("evolution", ["new head"])):
        store = RunStore(home / f"runs/{arm}/sst2/seed-0")
        store.put("notices", [{"place": "model", "text": text} for text in texts])
        store.close()
    frame, facts = study.collect(home), study.settings(home).plain()
    facts["runs"] = [run for run in facts["runs"] if run["arm"] != "rest" and run["seed"] == 0]
    report = compare.analyse(home, frame[(frame["arm"] != "rest") & (frame["seed"] == 0)], facts)
    assert [conditions.notice_line(notice, report.arms) for notice in report.notices] == [
        "model: new head (all arms)",
        "model: cut (random)",
    ]
    for page in (study_report.markdown(report), study_report.html(report, {}, {})):
        assert "model: cut (random)" in page


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ({"stage": "search", "text": "boom\nmore"}, "failed in search: boom"),
        ({"stage": None, "text": "boom"}, "failed before its first stage: boom"),
        ({"stage": "search", "text": "KeyboardInterrupt", "interrupted": True}, "interrupted in search"),
        ({"stage": None, "text": "no arch", "exit_code": 3}, "unsatisfiable budget (exit 3): no arch"),
        (None, "failed in search: its error was not kept"),
    ],
)
def test_why_a_run_is_missing_is_told(two, failure, expected):
    home, _, _ = two
    store = RunStore(home / "runs/evolution/sst2/seed-1")
    store.put("failure", failure and {"interrupted": False, "exit_code": 1} | failure)
    store.put("finished", False)
    store.end_stage("search", "failed", 0.0)
    store.close()
    report = compare.analyse(home, study.collect(home), study.settings(home))
    row = next(row for row in report.missing if row.arm == "evolution")
    assert row.why == expected
    assert any(expected in line for line in report.limits)
    assert expected in study_report.markdown(report)


def test_a_run_that_never_started_or_goes_on_is_told_apart(two):
    from filelock import FileLock

    from nasframe_studies.missing import why_missing

    home, _, _ = two
    place = home / "runs/fresh"
    RunStore(place, create=True, recipe="{}", facts={}).close()
    assert str(why_missing(place)) == "never started"
    store = RunStore(place)
    store.start_stage("teacher", 0, "train")
    assert str(why_missing(place)) == "still running"
    store.close()
    assert str(why_missing(place)) == "interrupted in teacher"
    with FileLock(place / ".lock"):
        assert str(why_missing(place)) == "still running"
    shutil.rmtree(place)
    assert str(why_missing(place)).startswith("its run directory is gone")
