"""Comparisons: what stands against what, pairs on common seeds, tables equal to values worked out directly."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from nasframe.errors import UsageError
from nasframe.recipe.yaml import dump
from nasframe.search.pareto import hypervolume
from nasframe.store import RunStore
from nasframe_studies import compare, evidence, findings, run_facts, runs, stats, study
from nasframe_studies.records import Processors, SeedProcessors
from study_directory import change, make_study


def frame(rows, **more):
    """A hand-made frame: ``(arm, task, seed, score)`` each, one model at 50 %."""
    names = ["arm", "task", "seed", "score"]
    made = pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows])
    fixed = {
        "model": "best@50%", "role": "winner", "budget": "50%", "metric": "accuracy", "select_score": 0.5,
        "training_macs": 9e11, "training_and_search_macs": 1e12, "evaluations": 10, "run_seconds": 1.0,
        "cached_seconds": 0.0, "cached_stages": "",
        "encoder_params": 5e6, "encoder_params_relative": 0.5,
    }  # fmt: skip
    return made.assign(run=made["arm"] + made["task"] + made["seed"].astype(str), **fixed | more)


def settings(made, **changes):
    rows = made[["arm", "task", "seed", "run"]].drop_duplicates().to_dict("records")
    facts = {"study": "s", "arms": {arm: {} for arm in made["arm"]}, "runs": rows, "compare": {"split": "dev"}}
    return facts | changes


def analysed(rows, **more):
    made = frame(rows, **more)
    return compare.analyse("/nowhere", made, settings(made))


def test_teachers_are_averaged_over_tasks_within_a_seed():
    made = frame([("a", task, seed, 0.6 + 0.1 * seed) for task in "tu" for seed in (0, 1)])
    scores = [0.8, 0.84, 0.7, 0.78]
    top = made.assign(model="teacher", role="teacher", budget=None, score=scores)
    found = compare.teachers(pd.concat([made, top, top.iloc[:1].assign(arm="b")]), ["a", "b"], ["t", "u"])
    assert [(row.task, row.arm, row.n) for row in found] == [
        ("mean of tasks", "a", 2), ("t", "a", 2), ("t", "b", 1), ("u", "a", 2),
    ]  # fmt: skip
    assert found[0].mean == pytest.approx(np.mean(scores), abs=1e-12)
    assert found[0].sd == pytest.approx(np.std([0.75, 0.81], ddof=1), abs=1e-12)


GONE = "its run directory is gone: deleted, or never copied here"
SCORES = {"a": [0.61, 0.64, 0.60, 0.66], "b": [0.63, 0.67, 0.61, 0.70], "c": [0.60, 0.66, 0.59, 0.65]}
ROWS = [(arm, "t", seed, score) for arm, scores in SCORES.items() for seed, score in enumerate(scores)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"), arms=("random", "evolution", "greedy"), seeds=3, trials=14)


@pytest.fixture(scope="module")
def report(home):
    return compare.analyse(home, study.collect(home), study.settings(home))


# ---- tables


def test_a_table_equals_values_computed_directly():
    (table,) = analysed(ROWS).tables
    assert [row.arm for row in table.arms] == ["a", "b", "c"]
    assert [row.mean for row in table.arms] == pytest.approx([np.mean(s) for s in SCORES.values()], rel=1e-12)
    assert [row.rank for row in table.arms] == [2.25, 1.0, 2.75]
    b, c = table.comparisons
    for row, arm in ((b, "b"), (c, "c")):
        test = scipy_stats.ttest_rel(SCORES[arm], SCORES["a"])
        assert (row.t, row.p_t) == pytest.approx((test.statistic, test.pvalue), rel=1e-12)
    assert b.p_t_holm == pytest.approx(min(1, 2 * b.p_t), rel=1e-12)
    assert c.p_t_holm == pytest.approx(max(b.p_t_holm, c.p_t), rel=1e-12)
    assert b.seeds == [0, 1, 2, 3]


def test_pairs_are_on_common_seeds_only_and_it_says_so():
    found = analysed([row for row in ROWS if row[:3] not in {("b", "t", 1), ("a", "t", 3)}])
    (table,) = found.tables
    b = next(row for row in table.comparisons if row.arm == "b")
    assert (b.seeds, b.n, b.left_out) == ([0, 2], 2, [1, 3])
    assert b.mean == pytest.approx(np.mean([0.63 - 0.61, 0.61 - 0.60]))
    assert any("Seeds 1, 3 not on both sides: left out of the pairs of b" in line for line in found.limits)
    assert table.ranked_seeds == [0, 2]


def test_tasks_are_averaged_within_a_seed_and_a_seed_lacking_one_is_left_out():
    rows = [("a", "t", s, 0.5 + s / 100) for s in range(3)] + [("a", "u", s, 0.7) for s in range(3)]
    rows += [("b", "t", s, 0.6) for s in range(3)] + [("b", "u", s, 0.7 + s / 50) for s in range(2)]
    tables = analysed(rows).tables
    assert [table.task for table in tables] == [compare.MEAN, "t", "u"]
    first = tables[0].arms
    assert list(first[0].scores.values()) == pytest.approx([0.6, 0.605, 0.61])
    assert list(first[1].scores) == ["0", "1"]
    assert tables[0].comparisons[0].seeds == [0, 1]
    assert tables[1].comparisons[0].n == 3


def test_budgets_are_never_pooled_and_holm_spans_them():
    rows = frame(ROWS)
    both = pd.concat([rows, rows.assign(model="best@30%", budget="30%", score=rows["score"] ** 2)], ignore_index=True)
    found = compare.analyse("/nowhere", both, settings(both))
    assert [table.model for table in found.tables] == ["50%", "30%"]
    comparisons = [row for table in found.tables for row in table.comparisons]
    assert [row.n for row in comparisons] == [4] * 4
    assert [row.p_t_holm for row in comparisons] == stats.holm([row.p_t for row in comparisons])
    assert {table.family for table in found.tables} == {4}


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (None, {"tuned@50%": "50%", "best@30%": "30%"}),
        ("*@50%", {"tuned@50%": "tuned@50%", "best@50%": "best@50%", "sliced@50%": "sliced@50%"}),
        (["supernet", "best@30%"], {"supernet": "supernet", "best@30%": "30%"}),
    ],
)
def test_which_models_stand_against_each_other(models, expected):
    names = {"teacher": "teacher", "supernet": "model", "tuned@50%": "model", "best@50%": "winner"}
    names |= {"sliced@50%": "baseline", "best@30%": "winner"}
    rows = [
        frame([("a", "t", 0, 0.5)], model=name, role=role, budget=name.partition("@")[2] or None)
        for name, role in names.items()
    ]
    found = compare.compared(pd.concat(rows, ignore_index=True), models)
    assert dict(zip(found["model"], found["slot"], strict=True)) == expected


def two_sizes():
    """Arms a and b on two tasks at two sizes: b's models have names of their own, and no budget."""
    parts = []
    for place, size in enumerate(("half", "quarter")):
        rows = [
            (arm, f"{task}-{size}", seed, 0.5 + 0.1 * place + 0.03 * (arm == "b") * (seed + 1) + 0.01 * (task == "u"))
            for arm in "ab" for task in "tu" for seed in range(3)
        ]  # fmt: skip
        part = frame(rows, model=f"best@{size}", budget=size)
        part.loc[part["arm"] == "b", ["model", "role", "budget"]] = ["sparse", "model", None]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_models_of_a_group_of_tasks_stand_against_each_other_and_are_averaged_over_it():
    made, groups = two_sizes(), {"small": ["*-half"], "least": ["t-quarter", "u-quarter"]}
    apart = compare.analyse("/nowhere", made, settings(made))
    assert "b shares no task, model and seed with a: described, not compared." in apart.limits
    found = compare.analyse("/nowhere", made, settings(made, compare={"split": "dev", "groups": groups}))
    mean = [table for table in found.tables if table.task == compare.MEAN]
    assert [(table.model, table.tasks) for table in mean] == [
        ("small", ["t-half", "u-half"]), ("least", ["t-quarter", "u-quarter"]),
    ]  # fmt: skip
    for table in mean:
        (row,) = table.comparisons
        scores = made[made["task"].isin(table.tasks)].groupby(["seed", "arm"])["score"].mean().unstack()
        test = scipy_stats.ttest_rel(scores["b"], scores["a"])
        assert (row.n, row.mean) == (3, pytest.approx((scores["b"] - scores["a"]).mean(), abs=1e-12))
        assert row.p_t == pytest.approx(test.pvalue, rel=1e-9)
        assert table.family == 2
    assert {t.model for t in found.tables if t.task == "u-quarter"} == {"least"}


def test_a_task_outside_all_groups_keeps_its_models_names():
    found = compare.compared(two_sizes(), groups={"small": ["*-half"]})
    named = found.groupby("task")["slot"].unique().map(sorted).to_dict()
    assert named == {
        "t-half": ["small"], "u-half": ["small"],
        "t-quarter": ["quarter", "sparse"], "u-quarter": ["quarter", "sparse"],
    }  # fmt: skip


def test_runs_without_budgets_are_compared_by_their_models_and_teachers_only_alone():
    names = {"teacher": "teacher", "student": "model"}
    rows = [frame([("a", "t", 0, 0.5)], model=name, role=role, budget=None) for name, role in names.items()]
    assert compare.compared(pd.concat(rows, ignore_index=True))["slot"].tolist() == ["student"]
    assert compare.compared(rows[0])["slot"].tolist() == ["teacher"]


def test_tasks_of_two_metrics_are_averaged_and_drawn_each_in_its_own():
    from nasframe_studies import plots as study_plots

    both = pd.concat([frame(ROWS), frame([(a, "u", s, x) for a, _, s, x in ROWS], metric="mcc")], ignore_index=True)
    found = compare.analyse("/nowhere", both, settings(both))
    assert (found.metric, [t.metric for t in found.tables]) == (
        "mean of accuracy, mcc", ["accuracy, mcc", "accuracy", "mcc"],
    )  # fmt: skip
    labels = [axes.get_xlabel() for axes in study_plots.differences(found).axes]
    assert labels[1:] == ["dev accuracy less that of a, points", "dev mcc less that of a"]


# ---- what is said


def test_one_seed_is_described_and_not_tested():
    found = analysed([("a", "t", 0, 0.5), ("b", "t", 0, 0.6)])
    (row,) = found.tables[0].comparisons
    assert (row.verdict, row.p_t_holm) == ("one seed", None)
    assert found.findings == []
    assert any(line.startswith("One seed: no interval and no test") for line in found.limits)


def test_two_seeds_say_what_two_seeds_are():
    found = analysed([("a", "t", 0, 0.5), ("b", "t", 0, 0.6), ("a", "t", 1, 0.5), ("b", "t", 1, 0.62)])
    assert any("cannot go below p = 0.5" in line for line in found.limits)
    assert any("12.7 standard errors" in line for line in found.limits)


def test_equal_arms_are_neither_better_nor_proven_equal():
    found = analysed([(arm, "t", seed, 0.5 + seed / 10) for arm in "ab" for seed in range(5)])
    assert found.tables[0].comparisons[0].verdict == "no spread"
    assert any("both score the same at every seed" in line for line in found.limits)
    assert found.findings == []


def test_an_open_difference_names_the_seeds_it_needs():
    found = analysed(
        [("a", "t", s, 0.5) for s in range(5)]
        + [("b", "t", s, 0.5 + d) for s, d in enumerate([0.02, -0.01, 0.03, -0.02, 0.01])]
    )
    (row,) = found.tables[0].comparisons
    assert row.more_seeds == stats.seeds_needed(row.d_z) - 5
    assert any(f"about {row.more_seeds} more seeds to resolve a difference of this size" in x for x in found.limits)


def test_open_differences_are_told_in_one_line_an_arm():
    """With twenty of them nobody would read a line each."""
    parts = []
    for share in (50, 75):
        rows = [(arm, "t", s, (share + s + (arm != "a") * (-1) ** s) / 100) for arm in "abc" for s in range(5)]
        costs = {"encoder_params": 1e5 * share, "encoder_params_relative": share / 100}
        parts.append(frame(rows, **{"model": f"best@{share}%", "budget": f"{share}%"} | costs))
    both = pd.concat(parts, ignore_index=True)
    lines = [line for line in compare.analyse("/nowhere", both, settings(both)).limits if "is not resolved" in line]
    assert [line.partition(" is")[0] for line in lines] == ["b against a", "c against a"]
    for line in lines:
        once = ("50% +0.20 [", "75% +0.20 [", "more seeds to resolve a difference of this size")
        assert [line.count(part) for part in once] == [1, 1, 1]
        assert line.count(" more") == 2


def test_a_large_steady_difference_is_found():
    found = analysed(
        [("a", "t", s, 0.5 + s / 100) for s in range(6)] + [("b", "t", s, 0.55 + s / 90) for s in range(6)]
    )
    assert found.tables[0].comparisons[0].verdict == "higher"
    (line,) = found.findings
    assert line.startswith("50%: b is higher than a by +5.")
    assert "‡" not in line


def test_a_finding_with_pairs_of_different_processors_is_marked():
    found = analysed(
        [("a", "t", s, 0.5 + s / 100) for s in range(6)] + [("b", "t", s, 0.55 + s / 90) for s in range(6)]
    )
    seed = SeedProcessors(task="t", seed=2, arms={"a": ["A"], "b": ["B"]}, unlike=True)
    kinds = Processors(kinds={"A": "Xeon", "B": "EPYC"}, seeds=[seed])
    (line,) = findings.findings(replace(found, processors=kinds))
    assert "] ‡ on 6 seeds" in line


def test_what_the_fronts_show_is_found_too():
    """No budget alone differs by enough to be told, the area under all of them does."""
    parts = []
    for share, ahead in ((25, [0, 1]), (50, [1, 0]), (75, [0, 0])):  # b of a, by how many hundredths, in turns
        rows = [
            (arm, "t", s, (share + 2 * s + (arm == "b") * ahead[s % 2] * (1 + s / 50)) / 100)
            for arm in "ab" for s in range(6)
        ]  # fmt: skip
        costs = {"encoder_params": 1e5 * share, "encoder_params_relative": share / 100}
        parts.append(frame(rows, **{"model": f"best@{share}%", "budget": f"{share}%"} | costs))
    both = pd.concat(parts, ignore_index=True)
    found = compare.analyse("/nowhere", both, settings(both))
    told = {row.verdict for table in found.tables for row in table.comparisons}
    assert told == {"not resolved", "no spread"}
    (line,) = found.findings
    assert line.startswith("hypervolume, finished models: b is higher than a by +0.002")


def test_unequal_budgets_are_said_loudly():
    rows = frame(ROWS)
    rows.loc[rows["arm"] == "c", "training_and_search_macs"] = 1.2e12
    found = compare.analyse("/nowhere", rows, settings(rows))
    assert (found.equal_macs.equal, found.equal_macs.ratios) == (
        False, {"b": {"t": 1.0}, "c": {"t": pytest.approx(1.2)}},
    )  # fmt: skip
    assert any(line.startswith("NOT equal budgets") for line in found.limits)
    assert analysed(ROWS).equal_macs.equal is True


def test_budgets_are_equal_on_every_task_or_not_equal():
    rows = frame([(arm, task, seed, 0.5) for arm in "ab" for task in "tu" for seed in (0, 1)])
    rows.loc[(rows["arm"] == "b") & (rows["task"] == "t"), "training_and_search_macs"] = 1.3e12
    rows.loc[(rows["arm"] == "b") & (rows["task"] == "u"), "training_and_search_macs"] = 0.7e12
    found = compare.analyse("/nowhere", rows, settings(rows))
    assert found.ledger[1].ratio == pytest.approx(1.0)
    assert found.equal_macs.ratios == {"b": {"t": pytest.approx(1.3), "u": pytest.approx(0.7)}}
    assert "everywhere but b (t: 1.3 times, u: 0.7 times)" in found.equal_macs.text


def test_runs_without_winners_stand_beside_those_with_them():
    made = frame([("a", "t", 0, 0.6), ("b", "t", 0, 0.7)])
    made.loc[made["arm"] == "b", ["model", "role", "budget"]] = ["plain", "model", None]
    top = made.assign(model="teacher", role="teacher", budget=None, score=0.9)
    found = compare.compared(pd.concat([made, top]))
    assert found[["arm", "slot"]].values.tolist() == [["a", "50%"], ["b", "plain"]]


def test_what_few_seeds_cannot_show_is_said_of_the_arms_that_have_few():
    rows = [("a", "t", s, 0.5 + s / 50) for s in range(5)] + [("b", "t", s, 0.6 + s / 40) for s in range(5)]
    limits = analysed([*rows, ("c", "t", 0, 0.4)]).limits
    assert any(line.startswith("c: One seed") for line in limits)
    assert any(line.startswith("b: With 5 seeds the exact Wilcoxon") for line in limits)
    assert "50%: ranks rest on 1 of 5 seeds, those that all arms have." in limits
    assert not any("ranks rest" in line or line.startswith("b:") for line in analysed(rows).limits)


@pytest.mark.slow
def test_searches_for_different_metrics_share_no_axis(home):
    frame_of = study.collect(home)
    read = run_facts.read_runs(home, compare.compared(frame_of))
    assert {run.aim for run in read} == {"accuracy"}
    assert evidence.unlike_aims(read) == {}
    mixed = [replace(run, aim="mcc") if (run.arm, run.task) == ("evolution", "sst2") else run for run in read]
    assert evidence.unlike_aims(mixed) == {"sst2": ["accuracy", "mcc"]}
    curves = evidence.anytime(mixed, ["random", "evolution"], ["50%"])
    drawn = {row.task for row in curves if row.model != "training"}
    assert drawn == {"mrpc"}
    volumes = evidence.fronts(compare.compared(frame_of), mixed, ["random", "evolution"], "random")
    assert {table.task for table in volumes if table.model == "search archive"} == {"mrpc"}


def test_a_reference_that_failed_leaves_descriptions():
    made = frame(ROWS[4:])
    facts = settings(made) | {"arms": {arm: {} for arm in "abc"}, "compare": {"split": "dev", "against": "a"}}
    facts["runs"] = [{"arm": "a", "task": "t", "seed": 0, "run": "at0"}, *facts["runs"]]
    found = compare.analyse("/nowhere", made, facts)
    assert found.tables[0].comparisons == []
    assert any("reference a has no results" in line for line in found.limits)
    (lost,) = found.missing
    assert (lost.arm, lost.task, lost.seed, lost.run) == ("a", "t", 0, "at0")
    assert lost.why.startswith("its run directory is gone")


def test_mistakes_are_told():
    made = frame(ROWS)
    with pytest.raises(UsageError, match=r"no arm 'bb'.*a, b, c.*Did you mean 'b'"):
        compare.analyse("/nowhere", made, settings(made, compare={"against": "bb"}))
    with pytest.raises(UsageError, match="nothing to compare"):
        compare.analyse("/nowhere", made[:0], settings(made))


# ---- what is read in the run directories


@pytest.mark.slow
def test_a_study_with_a_failed_and_a_missing_run(report):
    assert [(run.arm, run.task, run.seed, run.why) for run in report.missing] == [
        ("evolution", "mrpc", 2, "failed in search: its error was not kept"), ("greedy", "mrpc", 2, GONE),
    ]  # fmt: skip
    assert {row.arm: row.n for row in report.tables[0].comparisons} == {"evolution": 2, "greedy": 2}


def test_curves_are_the_best_so_far_of_what_fits_the_budget(home, report):
    (row,) = (r for r in report.anytime if (r.task, r.model, r.axis) == ("sst2", "50%", "evaluations"))
    curve = row.arms["random"]
    ends = []
    for seed in range(3):
        store = RunStore(home / f"runs/random/sst2/seed-{seed}", shared=True)
        full = json.loads(store.db.execute("SELECT costs FROM model WHERE name = 'teacher'").fetchone()[0])
        fit = [
            t.score
            for t in store.trials("search")
            if t.state == "done" and t.costs["encoder_params"] <= full["encoder_params"] / 2
        ]
        store.close()
        ends.append(max(fit))
    assert curve.mean[-1] == pytest.approx(np.mean(ends), rel=1e-12)
    assert (curve.n, curve.mean == sorted(curve.mean)) == (3, True)
    assert curve.x[-1] == 12  # of 14 trials one was screened and one failed


def test_hypervolume_is_that_of_the_finished_models(report):
    table = next(t for t in report.fronts if t.model == "finished models" and t.task == "sst2")
    reference = table.references["sst2"]
    arm = table.arms[0]
    models = [row for t in report.tables if t.task == "sst2" for row in t.arms if row.arm == arm.arm]
    points = [(model.scores["0"], -model.costs["encoder_params_relative"]) for model in models]
    assert arm.scores["0"] == pytest.approx(hypervolume(points, reference), rel=1e-9)
    assert {t.model for t in report.fronts} == {"finished models", "search archive"}


def test_predictions_are_compared_by_example(home, report):
    row = next(r for r in report.examples if (r.arm, r.task, r.model, r.seed) == ("greedy", "sst2", "30%", 1))
    sides = [
        pd.read_csv(home / f"runs/{arm}/sst2/seed-1/models/best@30%/predictions.csv") for arm in ("greedy", "random")
    ]
    right = [(side["label"] == side["prediction"]).to_numpy() for side in sides]
    only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert (row.only_arm, row.only_reference) == only
    assert row.p == pytest.approx(scipy_stats.binomtest(only[0], sum(only)).pvalue, rel=1e-12)
    assert row.difference == pytest.approx(right[0].mean() - right[1].mean(), rel=1e-12)
    assert row.low <= row.difference <= row.high


def test_shares_in_budgets_are_of_the_super_network_and_not_of_the_teacher(monkeypatch):
    """The teacher has 100 parameters, the super-network 300: half of it is 150."""
    trials = []
    for number, (params, score) in enumerate([(160.0, 0.9), (140.0, 0.7), (40.0, 0.5)]):
        facts = {"stage": "search", "origin": "search", "state": "done", "examples": 8, "trial_seconds": 1.0}
        trials.append({**facts, "number": number, "score": score, "violation": 0.0, "costs": {"params": params}})
    search = {
        "stage": "search",
        "aim": "accuracy",
        "costs": ["params"],
        "winners": ["best@50%"],
        "points": [],
        "full": {"params": 300.0},
    }
    report = {
        "models": [{"name": "teacher", "costs": {"params": 100.0}, "relative": {"params": 1.0}}],
        "stages": [{"name": "search", "verb": "search", "run_seconds": 3.0}],
        "searches": [search],
        "trials": trials,
        "ledger": [],
        "curves": {},
        "formats": {},
        "cost_formats": {},
        "environments": [],
        "data": {},
    }
    monkeypatch.setattr(run_facts, "conditions", lambda report: {})
    rows = pd.DataFrame([{"metric": "accuracy", "model": "best@50%", "slot": "50%"}])
    facts = run_facts._facts(report, rows, "a", "t", 0)
    trace = facts.curves["50%", "evaluations"]
    assert (trace.x, trace.y) == ([2, 3], [0.7, 0.5]), "140 of 300 fit, 160 do not, whatever the teacher has"
    assert facts.full == {"params": 100.0}, "shares in tables are of the teacher"


def test_curves_of_a_search_are_of_its_own_metric_beside_runs_without_a_search():
    shared = {
        "task": "t",
        "seed": 0,
        "ledger": {},
        "front": (),
        "full": {},
        "metric": "f1",
        "data": {},
        "conditions": {},
    }
    trained = {("training", "macs"): run_facts.Trace([1.0, 2.0], [0.1, 0.2])}
    searched = {("50%", "evaluations"): run_facts.Trace([1.0, 2.0], [0.5, 0.6])}
    plain = run_facts.RunFacts(**shared, arm="plain", aim="f1", costs=[], curves=trained)
    sng = run_facts.RunFacts(**shared, arm="sng", aim="accuracy", costs=["macs"], curves=searched)
    charts = evidence.anytime([plain, sng], ["plain", "sng"], ["50%"])
    assert {chart.model: chart.metric for chart in charts} == {"50%": "accuracy", "training": "f1"}


def test_predictions_are_those_of_the_compared_split(tmp_path):
    made = frame([("a", "t", 0, 0.5), ("b", "t", 0, 1.0)])
    for run, on_select in (("at0", [0, 1]), ("bt0", [0, 0])):
        folder = tmp_path / run / "models" / "best@50%"
        folder.mkdir(parents=True)
        table = pd.DataFrame({"id": [0, 1], "label": [0, 0]})
        table.assign(prediction=0).to_csv(folder / "predictions.csv", index=False)
        table.assign(prediction=on_select).to_csv(folder / "predictions-select.csv", index=False)
    for split, difference in (("dev", 0.0), ("select", 0.5)):
        (pair,) = compare.analyse(tmp_path, made, settings(made, compare={"split": split})).examples
        assert pair.difference == pytest.approx(difference)


def test_the_ledger_tells_students_from_teachers_and_evaluation(report):
    row = report.ledger[0]
    assert row.training_macs == pytest.approx(row.student_macs + row.teacher_macs)
    assert row.evaluation_macs == pytest.approx(3.1e12)
    assert row.training_and_search_macs == pytest.approx(row.training_macs + 3.1e12)


# ---- runs that no study made


@pytest.mark.slow
def test_runs_are_grouped_by_what_their_recipes_say(home):
    frame, facts = runs.as_study([str(home / "runs/random/sst2"), str(home / "runs/greedy/sst2")])
    assert list(facts.arms) == ["sampler=random", "sampler=greedy"]
    assert sorted(set(frame["seed"])) == [0, 1, 2]
    assert set(frame["task"]) == {"sst2"}
    report = compare.analyse(Path(), frame, facts)
    assert report.tables[0].comparisons[0].n == 3
    other = [f"a={home}/runs/random", f"b={home}/runs/evolution/sst2"]
    report = compare.analyse(Path(), *runs.as_study(other))
    assert any("b lacks some tasks: compared with a only on sst2" in line for line in report.limits)


@pytest.mark.slow
def test_parts_of_one_study_are_compared_as_it_compares(home, tmp_path):
    shutil.copytree(home, tmp_path / "part")
    facts = study.settings(home).plain()
    for place, seeds in ((home, {0}), (tmp_path / "part", {1, 2})):
        kept = [run for run in facts["runs"] if run["seed"] in seeds]
        said = facts | {"runs": kept, "seeds": sorted(seeds), "compare": facts["compare"] | {"against": "greedy"}}
        (tmp_path / f"{min(seeds)}").mkdir()
        shutil.copytree(place / "runs", tmp_path / f"{min(seeds)}" / "runs")
        (tmp_path / f"{min(seeds)}" / study.SETTINGS).write_text(dump(said))
    shutil.rmtree(tmp_path / "part")
    parts = [str(tmp_path / "0"), str(tmp_path / "1")]
    frame, found = runs.as_study(parts)
    assert runs.as_study([str(tmp_path)])[1] == found
    assert (found.compare.against, found.study, set(frame["seed"])) == ("greedy", "samplers", {0, 1, 2})
    assert found.seeds == []  # those of one part are not those of all
    whole = study.collect(home)
    assert frame.groupby(["arm", "task", "seed"]).size().to_dict() == (
        whole.groupby(["arm", "task", "seed"]).size().to_dict()
    )
    shutil.copytree(tmp_path / "0" / "runs" / "greedy" / "sst2" / "seed-0", tmp_path / "alone")
    change(tmp_path / "alone", "sng", "sst2", 0)
    loose = runs.as_study([str(tmp_path)])[1]
    assert [run.arm for run in loose.runs if run.run == str(tmp_path / "alone")] == ["demo"]
    assert len(loose.runs) == len(found.runs) + 1
    assert runs.as_study([parts[0], f"other={parts[1]}"])[1].compare.against is None
    assert runs.as_study(parts, groups={"all": ["*"]})[1].compare.groups == {"all": ["*"]}


def test_arms_can_be_named_and_the_reference_be_a_place(home):
    places = [f"first={home}/runs/random/sst2", f"second={home}/runs/greedy/sst2"]
    _, facts = runs.as_study(places, against=places[1])
    assert (list(facts.arms), facts.compare.against) == (["first", "second"], "second")
    assert set(runs.as_study(places, metric="macro_f1")[0]["metric"]) == {"macro_f1"}
    with pytest.raises(UsageError, match=r"the same arm 'x'.*name them apart"):
        runs.as_study([f"x={home}/runs/random/sst2", f"x={home}/runs/greedy/sst2"])
    with pytest.raises(UsageError, match="no run here"):
        runs.as_study([str(home / "nothing")])


def test_one_arm_is_compared_with_its_own_baselines(home):
    frame, facts = runs.as_study([str(home / "runs/random/sst2")])
    report = compare.analyse(Path(), frame, facts)
    assert (report.arms, report.against) == (["baseline", "winner"], "baseline")
    assert [row.n for table in report.tables for row in table.comparisons] == [3, 3, 3]
    assert report.equal_macs.equal is None


@pytest.mark.slow
def test_scores_of_another_split_are_compared_when_asked_for(home, tmp_path):
    shutil.copytree(home / "runs", tmp_path / "runs")
    places = [str(tmp_path / "runs" / name / "sst2") for name in ("random", "greedy")]
    on_dev, _ = runs.as_study(places)
    for database in (tmp_path / "runs").rglob("run.db"):
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("""UPDATE model SET metrics = replace(metrics, '"dev"', '"select"')""")
    assert runs.as_study(places)[0].empty
    frame, facts = runs.as_study(places, split="select")
    assert facts.compare.split == "select"
    assert frame["score"].tolist() == on_dev["score"].tolist()
    assert not frame.empty


@pytest.mark.slow
def test_other_data_are_not_compared_silently(home, tmp_path):
    from run_directory import make_run

    for seed in range(2):
        make_run(tmp_path / f"{seed}", trials=4)
        change(tmp_path / f"{seed}", "sng", "sst2", seed, data=f"elsewhere-{seed}")
    frame, facts = runs.as_study([str(home / "runs/random/sst2"), f"sng={tmp_path}"])
    report = compare.analyse(Path(), frame, facts)
    assert report.tasks == ["sst2", "sst2, other data elsewhere-0"]
    assert all(table.comparisons == [] for table in report.tables)
    assert re.search("sng has other data of sst2", report.notes[0])
    assert any("sng shares no task, model and seed" in line for line in report.limits)


@pytest.mark.slow
def test_a_study_is_taken_with_its_own_settings(home, report):
    frame, facts = runs.as_study([str(home)])
    assert sorted(zip(frame["arm"], frame["score"], strict=True)) == sorted(
        zip(study.collect(home)["arm"], study.collect(home)["score"], strict=True)
    )
    assert (facts.study, facts.compare.against, facts.notes) == ("samplers", "random", [])
    assert [run.why for run in report.missing] == ["failed in search: its error was not kept", GONE]
    assert runs.as_study([str(home)], against="greedy")[1].compare.against == "greedy"


def options_of_runs(home, recipes):
    """Write a folder of small runs, whose recipes and data are as given."""
    from run_directory import RECIPE, make_run

    for number, (seed, task, data) in enumerate(recipes):
        make_run(home / f"{number}", trials=1)
        change(home / f"{number}", "sng", "sst2", seed, data=data)
        (home / f"{number}" / "recipe.yaml").write_text(
            RECIPE.replace("package_docs", task).replace("seed: 3", f"seed: {seed}")
        )
    return str(home)


def test_arms_differ_in_name_however_many_options_it_takes(tmp_path):
    recipes = [(0, f"glue, name: sst2, a: {a}, b: {b}, c: {c}", "x") for a, b, c in [(1, 1, 1), (1, 1, 2), (2, 2, 1)]]
    _, facts = runs.as_study([options_of_runs(tmp_path, recipes)])
    assert list(facts.arms) == ["a=1, b=1, c=1", "a=1, b=1, c=2", "a=2, b=2, c=1"]


@pytest.mark.slow
def test_options_of_the_task_tell_arms_but_its_name_and_place_do_not(tmp_path):
    short, long = "max_length: 32, train_limit: 3200", "max_length: 128, train_limit: 12800"
    recipes = [(0, f"glue, name: sst2, {short}", "x"), (1, f"glue, name: sst2, {long}", "y")]
    _, facts = runs.as_study([options_of_runs(tmp_path / "lengths", recipes)])
    assert list(facts.arms) == ["max_length=32, train_limit=3200", "max_length=128, train_limit=12800"]
    recipes = [(0, "glue, name: sst2, path: /a, select: 5", "x"), (1, "glue, name: sst2, path: /b, select: 5", "y")]
    recipes += [(seed, "glue, name: mrpc, path: /a, select: 0.1", "z") for seed in (0, 1)]
    _, facts = runs.as_study([options_of_runs(tmp_path / "places", recipes)])
    assert facts.notes[0].startswith("One arm, demo:")


@pytest.mark.slow
def test_what_a_study_compares_is_compared_though_its_arms_differ_in_data(home, tmp_path):
    limits = make_study(tmp_path / "limits", arms=("random", "evolution"), tasks=("sst2",), seeds=2, trials=2)
    for run in study.settings(limits).runs:
        store = RunStore(limits / run.run)
        store.put("data", {**store.get("data"), "fingerprint": f"{run.arm}-{run.seed}"})
        store.put("finished", True)
        store.close()
    frame, facts = runs.as_study([str(limits)])
    assert (facts.notes, set(frame["task"])) == ([], {"sst2"})
    frame, facts = runs.as_study([f"old={home}", f"new={limits}"])
    assert [arm for arm in facts.arms if arm.startswith("new")] == ["new/random", "new/evolution"]
    assert {run.task for run in facts.runs if run.arm == "new/evolution"} == {"sst2, other data evolution-0"}
    (note,) = facts.notes
    assert note.startswith(f"the study {limits} has other data of sst2")
    assert "runs do not record each split by itself" in note


def run_again(home, target):
    """Copy a study as if it had been run a second time: its stages ended at other times."""
    shutil.copytree(home, target)
    for database in target.rglob("run.db"):
        with closing(sqlite3.connect(database)) as db:
            db.execute("UPDATE stage SET finished_at = finished_at + 1")
            db.commit()
    return str(target)


@pytest.mark.slow
def test_two_studies_are_told_apart_by_name(home, tmp_path):
    again = run_again(home, tmp_path / "again")
    with pytest.raises(UsageError, match=f"name them apart: nasframe compare first={home} second={re.escape(again)}"):
        runs.as_study([str(home), again])
    _, facts = runs.as_study([f"first={home}", f"second={again}"], against="second/greedy")
    assert {arm.partition("/")[0] for arm in facts.arms} == {"first", "second"}
    assert facts.notes == []
