"""The study of published systems: sizes and lengths of its arms, and its table of scores and compute."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from nasframe.running.cache_keys import chains
from nasframe_studies.file import load_study

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
systems = importlib.import_module("systems")
Stage = importlib.import_module("devices").Stage
sys.path.remove(str(ROOT / "benchmarks"))

SYSTEMS = ("nas_bert", "puzzle", "autobert_zero", "adabert")
FINAL = {"nas_bert": "fine-tuning", "puzzle": "uptraining", "autobert_zero": "tune", "adabert": "tune"}


@pytest.fixture(scope="module")
def plans():
    return load_study("studies/published_systems").plans


def options_of(plan):
    return {stage.name: stage.options for stage in plan.stages}


# ---- recipes


@pytest.mark.parametrize("task", ["sst2", "cola"])
def test_all_arms_have_the_same_budget_and_teacher(plans, task):
    teachers = set()
    for (arm, of_task), plan in plans.items():
        if of_task != task:
            continue
        assert "25%" in str(plan.budgets), arm
        teachers.add(options_of(plan)["teacher"]["options"])
    assert len(teachers) == 1


@pytest.mark.parametrize("arm", ["scratch-distilled", "first-layers-distilled"])
def test_rivals_without_a_search_have_just_under_a_quarter_of_the_encoder(plans, arm):
    """Counted from BERT's layers: attention, the two maps behind it, and their norms."""
    (archs,) = options_of(plans[arm, "cola"])["extract"]["archs"].values()
    width, head = 384, 32
    of_layer = 3 * archs["heads"] * head * (width + 1) + (archs["heads"] * head + 1) * width
    of_layer += archs["ffn"] * (width + 1) + (archs["ffn"] + 1) * width + 4 * width
    layers = len(archs.get("layers", range(6)))
    whole = 6 * (4 * width * (width + 1) + 1536 * (width + 1) + 1537 * width + 4 * width)
    assert 0.249 < layers * of_layer / whole <= 0.25


@pytest.mark.parametrize("arm", [*SYSTEMS, "scratch-distilled", "first-layers-distilled"])
def test_fine_tuning_a_quarter_takes_seven_passes(plans, arm):
    final = options_of(plans[arm, "cola"])[FINAL.get(arm, "tune")]
    assert final["options"].teacher_cache == "run"  # so that the teacher takes one of the seven
    assert 3 * 0.25 * final["options"].epochs + 1 == pytest.approx(systems.FINE_TUNING, rel=0.01)


@pytest.mark.parametrize("arm", SYSTEMS)
def test_the_row_of_equal_total_compute_is_shorter_everywhere(plans, arm):
    whole = options_of(plans[arm, "cola"])
    short = options_of(plans[f"{arm}-total", "cola"])
    assert list(whole) == list(short)
    for name, options in whole.items():
        if "options" in options and name != "teacher":
            long, less = options["options"], short[name]["options"]
            assert (less.epochs or less.max_steps) < (long.epochs or long.max_steps), name


# ---- the table


def entry(stage, role, macs, examples=100, evaluations=0):
    return {
        "stage": stage,
        "role": role,
        "forward_macs": macs / 3 if role == "student" else macs,
        "backward_macs": 2 * macs / 3 if role == "student" else 0.0,
        "examples": examples,
        "evaluations": evaluations,
    }


LEDGER = [
    entry("teacher", "student", 3_000.0),  # 10 for an example, forward
    entry("language", "student", 8_000.0),
    entry("library", "evaluation", 1_000.0),
    entry("search", "evaluation", 500.0),
    entry("tune", "student", 3_000.0),
    entry("tune", "teacher", 1_000.0),
    entry("evaluate", "evaluation", 99_000.0),
]
STAGES = [
    Stage("teacher", "train", {}),
    Stage("language", "train", {"task": {"use": "masked_lm"}}),
    Stage("library", "train", {}),
    Stage("search", "search", {}),
    Stage("tune", "train", {"teacher_cache": "run"}),
    Stage("evaluate", "evaluate", {}),
]


def test_compute_is_counted_in_passes_and_shared_stages_are_divided_among_tasks():
    """A pass over 100 examples costs 1,000: the whole network's forward from the teacher's training."""
    cost = systems.passes_of(LEDGER, STAGES, 100, tasks=2)
    assert cost.fine_tuning == pytest.approx(4)
    assert cost.before == pytest.approx(4 + 1 + 0.5)
    assert cost.total == pytest.approx(9.5)
    assert systems.passes_of(LEDGER, STAGES, 100, tasks=1).before == pytest.approx(9.5)


def test_scores_of_importance_are_paid_before():
    rewire = Stage("transform", "transform", {"score": "taylor", "batches": 1, "batch_size": 50})
    cost = systems.passes_of(LEDGER, [*STAGES, rewire], 100, tasks=2)
    assert cost.before == pytest.approx(5.5 + 3 * 50 / 100)
    without_search = [Stage("teacher", "train", {}), Stage("supernet", "train", {})]
    ledger = [LEDGER[0], entry("supernet", "student", 7_000.0)]
    assert systems.passes_of(ledger, without_search, 100, tasks=2) == systems.Passes(0.0, pytest.approx(7))


def test_unknown_compute_is_no_zero():
    ledger = [*LEDGER, entry("library", "student", 3.0) | {"forward_macs": None}]
    with pytest.raises(ValueError, match="stage 'library': the multiply-adds of student are unknown"):
        systems.passes_of(ledger, STAGES, 100, tasks=2)


def test_too_much_compute_is_said():
    allowed = systems.Passes(21, 7)
    assert systems.warnings("puzzle", [allowed]) == []
    assert "7" in systems.warnings("puzzle", [allowed, systems.Passes(0, 8)])[0]
    assert "passes before" in systems.warnings("puzzle", [systems.Passes(23, 7)])[0]
    assert "in all" in systems.warnings("puzzle-total", [allowed])[0]
    assert systems.warnings("puzzle-total", [systems.Passes(3, 4)]) == []


def row(arm, task, seed, model, score, params):
    named = {"arm": arm, "task": task, "seed": seed, "model": model}
    return named | {"score": score, "encoder_params": params, "macs": params}


def test_the_page_has_scores_sizes_and_both_columns_of_compute():
    rows = []
    for seed in (0, 1, 2):
        for task in ("sst2", "cola"):
            for arm, lead in (("uniform", 0.0), ("puzzle", 0.1 + seed / 100)):
                rows.append(row(arm, task, seed, "teacher", 0.9, 1000))
                rows.append(row(arm, task, seed, "best@25%", 0.5 + lead + seed / 100, 240))
    costs = {"uniform": [systems.Passes(0, 7)], "puzzle": [systems.Passes(20, 6.8)]}
    page = systems.page_of(rows, costs, ["uniform", "puzzle", "absent"])
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| `")}
    assert list(lines) == ["`uniform`", "`puzzle`"]
    cells = [cell.strip() for cell in lines["`puzzle`"].split("|")[2:-1]]
    assert [cell.partition(" ")[0] for cell in cells[:3]] == ["62.0", "62.0", "62.0"]  # the mean of tasks first
    half = 4.303 / 3**0.5  # Student's t of two degrees of freedom: differences of 10, 11 and 12
    assert f"+11.0 [{11 - half:+.1f}, {11 + half:+.1f}]" in cells[1]
    assert cells[3:] == ["24.0", "24.0", "6.8", "20.0", "26.8"]


def test_the_tasks_of_nas_bert_share_everything_about_language():
    digests = {task: chains(plan) for (_, task), plan in load_study("studies/nas_bert_tasks").plans.items()}
    assert set(digests) == {"sst2", "cola", "mrpc"}
    for name in ("language", "library", "search", "extract", "from-scratch", "pre-training"):
        assert len({of_task[name] for of_task in digests.values()}) == 1, name
    for name in ("teacher", "fine-tuning"):
        assert len({of_task[name] for of_task in digests.values()}) == 3, name
