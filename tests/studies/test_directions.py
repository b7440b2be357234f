"""Metrics of which less is better: the comparison of a loss is that of its negative, of which more is better."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from test_compare import frame, settings

from nasframe.records import MetricFormat
from nasframe.store import StageRecord
from nasframe_studies import compare, evidence, plots, report, results, run_facts, runs, study, tables
from nasframe_studies.run_facts import RunFacts

HERE = Path(__file__).parents[1]
LESS = MetricFormat(higher_is_better=False)
MIRRORED = {"higher": "lower", "lower": "higher"}

# Losses by arm: better than the reference "a" at every seed, worse at every seed, now better and now worse.
LOSSES = {
    "a": [0.50, 0.55, 0.52, 0.58, 0.51, 0.53],
    "better": [0.40, 0.46, 0.42, 0.47, 0.41, 0.42],
    "worse": [0.61, 0.65, 0.62, 0.69, 0.61, 0.64],
    "open": [0.52, 0.53, 0.50, 0.60, 0.52, 0.51],
}
BUDGETS = {"75%": 0.0, "50%": 0.1, "30%": 0.3}
"""Budget → what it adds to every loss."""


def losses(task="t"):
    """A hand-made frame of losses, with a winner under each budget."""
    parts = []
    for budget, more in BUDGETS.items():
        share = float(budget.rstrip("%")) / 100
        rows = [(arm, task, seed, loss + more) for arm, of_arm in LOSSES.items() for seed, loss in enumerate(of_arm)]
        costs = {"encoder_params": 1e7 * share, "encoder_params_relative": share}
        parts.append(frame(rows, model=f"best@{budget}", budget=budget, metric="loss", **costs))
    made = pd.concat(parts, ignore_index=True)
    mean_of = made["arm"].map({arm: float(np.mean(of_arm)) for arm, of_arm in LOSSES.items()})
    return made.assign(select_score=-mean_of - 0.01 * made["seed"])  # of the first seeds best


def negated(made):
    return made.assign(metric="gain", score=-made["score"])


def analysed(made):
    return compare.analyse("/nowhere", made, settings(made))


@pytest.fixture(scope="module")
def of_loss():
    return analysed(losses())


@pytest.fixture(scope="module")
def of_gain():
    return analysed(negated(losses()))


def assert_mirrored(of_loss, of_gain):
    """Differences and verdicts have the other sign, and whatever says which is better is the same."""
    assert len(of_loss.tables) == len(of_gain.tables) > 0
    for table, other in zip(of_loss.tables, of_gain.tables, strict=True):
        assert [row.rank for row in table.arms] == [row.rank for row in other.arms]
        assert [row.mean for row in table.arms] == pytest.approx([-row.mean for row in other.arms], rel=1e-12)
        for pair, mirror in zip(table.comparisons, other.comparisons, strict=True):
            assert (pair.arm, pair.mean) == (mirror.arm, pytest.approx(-mirror.mean, rel=1e-9, abs=1e-12))
            assert pair.verdict == MIRRORED.get(mirror.verdict, mirror.verdict)
            assert pair.standing(LESS) == mirror.standing(MetricFormat())
            if pair.p_t is not None:
                assert pair.p_t_holm == pytest.approx(mirror.p_t_holm, rel=1e-9)
                assert (pair.t_low, pair.t_high) == pytest.approx((-mirror.t_high, -mirror.t_low), rel=1e-9)
    for front, other in zip(of_loss.fronts, of_gain.fronts, strict=True):
        assert front.references.keys() == other.references.keys()
        for task, point in front.references.items():
            assert point == pytest.approx(other.references[task], rel=1e-12)
        assert [row.mean for row in front.arms] == pytest.approx([row.mean for row in other.arms], rel=1e-9)
        assert [pair.verdict for pair in front.comparisons] == [pair.verdict for pair in other.comparisons]
    of_both = zip(of_loss.shipped, of_gain.shipped, strict=True)
    for entry, mirror in of_both:
        assert replace(entry, text="", p_holm=None, chosen_on="") == replace(mirror, text="", p_holm=None, chosen_on="")
        assert entry.p_holm == pytest.approx(mirror.p_holm)
    assert len(of_loss.anytime) == len(of_gain.anytime)
    for chart, other in zip(of_loss.anytime, of_gain.anytime, strict=True):
        assert chart.arms == other.arms


def test_the_comparison_of_a_loss_is_that_of_its_negative(of_loss, of_gain):
    assert_mirrored(of_loss, of_gain)
    assert of_loss.fronts
    assert of_loss.shipped


def test_a_comparison_of_losses_equals_values_computed_directly(of_loss):
    table = next(table for table in of_loss.tables if table.model == "50%")
    arms = list(LOSSES)
    by_seed = np.array([LOSSES[arm] for arm in arms]).T
    places = by_seed.argsort(axis=1).argsort(axis=1) + 1.0  # no two losses of a seed are equal but those below
    ties = by_seed[:, arms.index("a")] == by_seed[:, arms.index("open")]
    assert not ties.any()
    assert {row.arm: row.rank for row in table.arms} == pytest.approx(dict(zip(arms, places.mean(0), strict=True)))
    gap = np.mean(LOSSES["better"]) - np.mean(LOSSES["a"])
    found = {row.arm: row for row in table.comparisons}
    assert found["better"].mean == pytest.approx(gap, rel=1e-9)
    assert gap < 0
    assert {arm: row.verdict for arm, row in found.items()} == {
        "better": "lower", "worse": "higher", "open": "not resolved",
    }  # fmt: skip
    assert {arm: row.standing(LESS) for arm, row in found.items()} == {"better": "better", "worse": "worse", "open": ""}
    assert {(entry.arm, entry.seed) for entry in of_loss.shipped} == {("better", 0)}


def test_the_hypervolume_of_losses_is_the_area_below_the_worst(of_loss):
    (front,) = of_loss.fronts
    worst = max(LOSSES["worse"]) + BUDGETS["30%"]
    assert front.references == {"t": pytest.approx([-worst, -0.75])}
    for row in front.arms:
        loss = LOSSES[row.arm][0]
        # Stairs: the model of 30 % alone down to 50 %, then that of 50 % down to 75 %, where the axis ends.
        area = (worst - loss - BUDGETS["30%"]) * 0.2 + (worst - loss - BUDGETS["50%"]) * 0.25
        assert row.scores["0"] == pytest.approx(area, rel=1e-9)


def printed(found, width=150):
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    for part in report.terminal(found, width):
        console.print(part)
    return console.export_text(styles=True)


def test_tables_and_sentences_say_that_less_is_better(of_loss, of_gain):
    line = next(line for line in of_loss.findings if line.startswith("50%: better"))
    assert "better is lower (better) than a by −0.1017 [" in line
    assert any("worse is higher (worse) than a by +0.1050 [" in line for line in of_loss.findings)
    assert "(better)" not in "".join(of_gain.findings)
    assert tables.about(of_loss, of_loss.tables).startswith("s: dev loss, less is better (t), against a")
    assert "Less is better of loss." in tables.overview_caption(of_loss)
    assert "less is better" not in tables.overview_caption(of_gain).lower()
    cells = {row[1]: row[2] for row in tables.overview(of_loss)[1:]}
    assert cells["better"].endswith(" ↓")
    assert cells["worse"].endswith(" ↑")
    text = of_loss.shipped[0].text
    assert "better has the best (lowest) loss on select. It has 0.530 ± 0.0283 loss on dev over 6 seeds" not in text
    assert "better has the best (lowest) loss on select. It has 0.430 ± 0.0283 loss on dev over 6 seeds" in text
    assert "Its lead over open is resolved (p = " in text


def test_the_runner_up_has_the_second_lowest_loss():
    made = losses()
    found = analysed(made[made["arm"] != "better"])
    assert {entry.arm for entry in found.shipped} == {"open"}
    assert all("Its lead over a is not resolved, so a may be as good (p = " in entry.text for entry in found.shipped)


def test_scores_on_select_are_numbers_to_maximise():
    """What was evaluated there comes first; a winner that was not has its search's score, if that is of the metric."""
    models = [
        {"name": "baseline", "metrics": {"select": {"loss": 0.4}}},
        {"name": "best@50%", "metrics": {"dev": {"loss": 0.5}}},
        {"name": "best@30%", "metrics": {"select": {"loss": 0.6}}},
    ]
    measured = {"models": models, "formats": {"loss": {"higher_is_better": False}}, "metric": "loss"}
    winners = {"best@50%": {"score": -0.3}, "best@30%": {"score": -0.2}}
    search = StageRecord("search", "search", "done", None, None, 1.0, {"winners": winners})
    scores = results._select_scores(measured, [search], "loss")
    assert scores == {"baseline": -0.4, "best@50%": -0.3, "best@30%": -0.6}
    scores = results._select_scores(measured, [search], "accuracy")
    assert scores == {"baseline": None, "best@50%": None, "best@30%": None}


def test_colours_follow_the_direction(of_loss, of_gain):
    green, red = "\x1b[32m", "\x1b[31m"
    for found in (of_loss, of_gain):
        lines = printed(found).splitlines()
        of_better = [line for line in lines if "  better" in line]
        of_worse = [line for line in lines if "  worse" in line]
        assert len(of_better) == len(of_worse) == len(BUDGETS)
        assert all(green in line and red not in line for line in of_better)
        assert all(red in line and green not in line for line in of_worse)
    page = report.html(of_loss, {}, settings(losses()))
    assert "dev loss, less is better. Pairs are seeds" in page
    assert '<span class="pill teacher">lower (better)</span>' in page
    assert '<span class="pill baseline">higher (worse)</span>' in page
    assert "loss, less is better" in report.markdown(of_loss)
    assert "loss, less is better" in report.latex(of_loss)


def test_axes_say_that_less_is_better(of_loss):
    assert plots.fronts(of_loss).axes[0].get_ylabel() == "dev loss, less is better"
    assert plots.differences(of_loss).axes[-1].get_xlabel() == "dev loss less that of a (negative is better)"


def test_tasks_of_different_directions_have_no_mean():
    made = pd.concat([losses("text"), negated(losses("words")), negated(losses("more"))], ignore_index=True)
    found = analysed(made)
    assert [table.task for table in found.tables] == ["text"] * 3 + ["words"] * 3 + ["more"] * 3
    assert found.metric == "loss, gain"
    (note,) = [note for note in found.notes if note.startswith("NO MEAN OF TASKS")]
    assert "more is better of gain (words, more), less of loss (text). " in note
    assert note.endswith("about the first task, text.")
    top = made.assign(role="teacher", budget=None, model="teacher", score=0.9)
    directions = {"text": -1.0, "words": 1.0, "more": 1.0}
    described = compare.teachers(top, list(LOSSES), list(directions), directions)
    assert {row.task for row in described} == set(directions)


def test_tasks_of_one_direction_have_a_mean():
    found = analysed(pd.concat([losses("t"), losses("u")], ignore_index=True))
    assert found.tables[0].task == compare.MEAN
    assert found.tables[0].comparisons[0].standing(LESS) == "better"
    assert [row.rank for row in found.tables[0].arms] == [row.rank for row in found.tables[-3].arms]
    assert not any(note.startswith("NO MEAN") for note in found.notes)


def test_curves_of_training_show_the_least_loss_so_far():
    measured = [[1, 0.9], [2, 0.5], [3, 0.7]]
    trained = {
        "stages": [{"name": "train", "run_seconds": 3.0}],
        "ledger": [{"stage": "train", "role": "student", "steps": 3, "forward_macs": 3.0, "backward_macs": 6.0}],
        "curves": {"train": {"select_loss": measured}},
        "formats": {"loss": {"higher_is_better": False}},
    }
    traces = run_facts._training_curves(trained, "loss")
    run = RunFacts("a", "t", 0, {}, (), {}, "loss", "loss", [], traces, {}, {}, formats={"loss": LESS})
    charts = evidence.anytime([run], ["a"], [])
    assert {chart.metric for chart in charts} == {"-loss"}
    for chart in charts:
        curve = chart.arms["a"]
        assert (curve.mean[0], curve.mean[-1], max(curve.mean)) == (-0.9, -0.5, -0.5)


# ---- a study


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A study of a task whose primary metric is its loss, and its pages."""
    home = tmp_path_factory.mktemp("ran")
    plugins = f"[{HERE / 'toy_plugin.py'}, {HERE / 'toy_losses.py'}]"
    arms = "evolution: {}\n  random: {stages.search.sampler: {use: random}}"
    text = f"study: losses\nbase: {HERE / 'data' / 'toy.yaml'}\narms:\n  {arms}\nseeds: [0]\n"
    (home / "study.yaml").write_text(f"{text}compare: {{metric: loss}}\n")
    changes = [
        f"plugins={plugins}", "task={use: toy_mirrored, train: 32}", "stages.teacher.max_steps=2",
        "stages.supernet.max_steps=3", "stages.supernet.eval_every=1", "stages.search.trials=4", "~stages.tuned",
        "~stages.transform",
    ]  # fmt: skip
    loaded = study.load_study(home / "study.yaml", changes)
    return study.ablate(loaded, out=home / "out", cache=home / "cache", say=lambda line: None)


def test_a_study_compares_by_a_loss(ran):
    of_loss, of_gain = (
        compare.analyse(Path(), *runs.as_study([str(ran)], metric=m)) for m in ("loss", "negative_loss")
    )
    assert_mirrored(of_loss, of_gain)
    assert {chart.metric for chart in of_loss.anytime} == {"-loss"}
    assert {chart.metric for chart in of_gain.anytime if chart.model == "training"} == {"negative_loss"}
    assert any(chart.model == "training" for chart in of_loss.anytime)
    assert {table.model for table in of_loss.fronts} == {"finished models", "search archive"}
    by_loss = runs.as_study([str(ran)], metric="loss")[0]
    by_gain = runs.as_study([str(ran)], metric="negative_loss")[0]
    assert (by_loss["select_score"].dropna() < 0).all()
    # The searches' scores are of the loss, which is no score of the other metric.
    assert by_gain["select_score"].isna().all()
    text = (ran / "study.html").read_text()
    assert "dev loss, less is better" in text
    assert "the negative is drawn" in text
    assert "best (lowest) loss on select" in text
