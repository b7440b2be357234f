"""The study of devices: its recipes are what their generator writes, of equal compute, and its report reads them."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from nasframe.recipe.yaml import Position, dump, parse
from nasframe.records import LedgerEntry
from nasframe.store import RunStore
from nasframe_studies import stats
from run_directory import put_model

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
devices = importlib.import_module("devices")
generator = importlib.import_module("device_recipes")
sys.path.remove(str(ROOT / "benchmarks"))

RECIPES = {recipe.name: recipe for recipe in generator.recipes()}
N = generator.DEVICES


# ---- recipes


def test_the_recipes_are_those_that_the_generator_writes():
    texts = {f"{name}.yaml": generator.text_of(recipe) for name, recipe in RECIPES.items()}
    assert {file.name: file.read_text(encoding="utf-8") for file in generator.FOLDER.iterdir()} == texts


def trainings(name):
    """Return the options of the training stages after the teacher."""
    return [options for verb, options in RECIPES[name].stages if verb == "train" and "name" in options]


@pytest.mark.parametrize("devices", N)
def test_each_device_gets_an_equal_share_of_the_compute_of_a_method_that_trains_for_it(devices):
    compute = (generator.TOTAL - generator.TEACHER) / devices
    sizes = [budget / 100 for budget in generator.BUDGETS[devices]]
    for size, stage in zip(sizes, trainings(f"magnitude-{devices}"), strict=True):
        assert 3 * size * stage["epochs"] == pytest.approx(compute, rel=0.01)
    stages = trainings(f"dhspg-{devices}")
    for size, sparse, tune in zip(sizes, stages[::2], stages[1::2], strict=True):
        assert 3 * sparse["epochs"] + 3 * size * tune["epochs"] == pytest.approx(compute, rel=0.02)


@pytest.mark.parametrize("devices", N)
def test_the_chain_and_rosita_spend_the_whole_compute(devices):
    sizes = [1.0, *(budget / 100 for budget in generator.BUDGETS[devices])]
    spent = 0.0
    for before, after, stage in zip(sizes[:-1], sizes[1:], trainings(f"chain-{devices}"), strict=True):
        spent += 3 * stage["epochs"] * (0.15 * (before + after) + 0.7 * after)
    assert spent == pytest.approx(generator.TOTAL - generator.TEACHER, rel=0.01)
    depth, *widths = trainings(f"rosita-{devices}")
    spent = depth["epochs"] * (3 * (0.05 * (1 + 5 / 6) + 0.9 * 5 / 6) + 1)
    for size, stage in zip(sizes[1:], widths, strict=True):
        over = stage["modifiers"][0]["over"]
        spent += stage["epochs"] * (3 * (over * (5 / 6 + size) / 2 + (1 - over) * size) + 5 / 6)
    assert spent == pytest.approx(generator.TOTAL, rel=0.01)


@pytest.mark.parametrize("devices", N)
def test_every_cut_has_a_step_on_the_smallest_task(devices):
    for name in ("chain", "rosita"):
        for stage in trainings(f"{name}-{devices}"):
            pruning = stage["modifiers"][0]
            steps = round(stage["epochs"] * generator.SHORTEST_EPOCH)
            assert int(pruning["over"] * steps / pruning.get("times", 1)) >= 1


def test_written_values_are_read_as_they_were():
    for recipe in RECIPES.values():
        node, problems = parse(generator.text_of(recipe), Position(recipe.name))
        assert problems == []
        assert node.plain()["name"] == f"devices-{recipe.name}"
        if recipe.stages:
            assert [next(iter(stage)) for stage in node.plain()["stages"]] == [verb for verb, _ in recipe.stages]


# ---- scores


def rows(arm, task, seed, scores):
    return [{"arm": arm, "task": task, "seed": seed, "model": name, "score": score} for name, score in scores.items()]


def networks(count, prefix="best", score=0.5):
    return {f"{prefix}@{generator.percent(budget)}": score for budget in generator.BUDGETS[count]}


def test_a_score_is_the_mean_over_the_devices():
    scores, missing = devices.scores_of(rows("chain", "sst2-4", 0, {"best@50%": 0.8, "best@31%": 0.7, "teacher": 0.9}))
    assert scores == {}
    assert "best@19%, best@12%" in missing[0]
    four = {"best@50%": 0.8, "best@31%": 0.7, "best@19%": 0.6, "best@12%": 0.5, "teacher": 0.9}
    scores, missing = devices.scores_of(rows("chain", "sst2-4", 0, four))
    assert missing == []
    assert scores["chain", "sst2", 4] == {0: pytest.approx(0.65)}


def test_budgets_that_come_later_get_the_nearest_smaller_network_or_one_that_is_searched():
    four = {"best@50%": 0.8, "best@31%": 0.7, "best@19%": 0.6, "best@12%": 0.5}
    names = devices.afterwards(four)
    assert [names.count(name) for name in four] == [1, 5, 5, 5]
    scores, _ = devices.scores_of(rows("chain", "sst2-4", 3, four))
    assert scores["chain", "sst2", "afterwards"][3] == pytest.approx((0.8 + 5 * (0.7 + 0.6 + 0.5)) / 16)
    scores, _ = devices.scores_of(rows("uniform", "sst2-4", 3, four | networks(16, "later", 0.75)))
    assert scores["uniform", "sst2", "afterwards"][3] == pytest.approx(0.75)


def test_the_mean_of_tasks_is_over_seeds_that_all_tasks_have():
    scores = {("chain", "sst2", 1): {0: 0.8, 1: 0.9}, ("chain", "cola", 1): {1: 0.3}}
    assert devices.with_mean(scores)["chain", "mean of tasks", 1] == {1: pytest.approx(0.6)}
    assert devices.with_mean({("chain", "sst2", 1): {0: 0.8}}).keys() == {("chain", "sst2", 1)}


def test_differences_are_paired_and_adjusted_within_a_task():
    scores = {
        ("yoco-bert", "sst2", 1): {0: 0.80, 1: 0.82, 2: 0.81},
        ("chain", "sst2", 1): {0: 0.82, 1: 0.83, 2: 0.835, 9: 0.1},
        ("yoco-bert", "sst2", 4): {0: 0.80, 1: 0.82, 2: 0.81},
        ("chain", "sst2", 4): {0: 0.79, 1: 0.80, 2: 0.80},
    }
    cells = devices.cells_of(scores, ["yoco-bert", "chain"])
    pairs = [cells["chain", "sst2", count].pair for count in (1, 4)]
    assert pairs[0].n == 3
    assert pairs[0].mean == pytest.approx(0.055 / 3)
    assert [cells["chain", "sst2", count].p for count in (1, 4)] == stats.holm([pair.p_t for pair in pairs])
    mean, low, high = stats.t_interval([0.80, 0.82, 0.81])
    cell = cells["yoco-bert", "sst2", 1]
    assert (cell.mean, cell.low, cell.high, cell.pair) == (mean, low, high, None)
    assert devices.cell_text(cell) == "81.0 [78.5, 83.5]"


def test_curves_cross_between_two_numbers_of_devices_in_log_n():
    ours, rival = {1: 0.80, 4: 0.80, 16: 0.80}, {1: 0.83, 4: 0.81, 16: 0.77}
    ((place, ahead),) = devices.crossings(ours, rival)
    assert ahead
    assert place == pytest.approx(math.exp(math.log(4) + 0.25 * math.log(4)))
    text = devices.sentence("yoco-bert", "chain", ours, rival)
    assert text.startswith("yoco-bert is ahead of chain from N = 5.7 on (linear interpolation in log N): -3.0 for 1, ")
    assert "ahead of chain for every" in devices.sentence("yoco-bert", "chain", ours, {1: 0.7, 4: 0.7, 16: 0.7})
    assert "behind chain for every" in devices.sentence("yoco-bert", "chain", ours, {1: 0.9, 4: 0.9, 16: 0.8})
    touching = devices.crossings({1: 0.0, 4: 1.0, 16: 2.0}, {1: 1.0, 4: 1.0, 16: 1.0})
    assert touching == [(pytest.approx(4.0), True)]


# ---- a study's directory

STAGES = [
    {"train": {"name": "teacher", "save_as": "teacher"}},
    {"transform": {"name": "transform", "use": "rewire", "score": "taylor", "batches": 8}},
    {"train": {"name": "tune-1", "teacher_cache": "run"}},
    {"train": {"name": "tune-2", "teacher_cache": "run"}},
    {"train": {"name": "hidden"}},
    {"search": {"name": "search"}},
    {"search": {"name": "search-later"}},
    {"evaluate": {"name": "evaluate"}},
]


def make_run(directory: Path, scores: dict[str, float], macs: float = 1.0) -> None:
    """Write a run of 1,000 examples whose whole network costs 10 multiply-adds an example."""
    store = RunStore(directory, create=True)
    recipe = {"nasframe": 1, "name": "demo", "seed": 0, "model": "minilm-l6", "task": "glue", "stages": STAGES}
    (directory / "recipe.yaml").write_text(dump(recipe))
    (directory / "env.json").write_text(json.dumps({"versions": {}, "device": "cpu", "threads": 1}))
    facts = {"fingerprint": "a", "sizes": {"train": 1000, "dev": 100}, "primary": "accuracy", "labels": ["a", "b"]}
    store.put("data", facts)
    for position, stage in enumerate(STAGES):
        ((verb, options),) = stage.items()
        store.start_stage(options["name"], position, verb)
        store.end_stage(options["name"], "done", 1.0, {})
    for stage, role, examples, forward, backward in [
        ("teacher", "student", 3000, 3e4, 6e4),
        ("tune-1", "student", 800, 4e3 * macs, 8e3 * macs),
        ("tune-1", "teacher", 800, 8e3, 0.0),
        ("tune-2", "student", 800, 4e3 * macs, 8e3 * macs),
        ("tune-2", "teacher", 800, 8e3, 0.0),
        ("hidden", "teacher", 800, 8e3, 0.0),
        ("search", "evaluation", 100, 500.0, 0.0),
        ("search-later", "evaluation", 100, 700.0, 0.0),
        ("evaluate", "evaluation", 100, 900.0, 0.0),
    ]:
        rows = [row for row in store.rows("ledger") if row["stage"] == stage]
        entries = [
            LedgerEntry(row["role"], 0, row["examples"], 0, row["forward_macs"], row["backward_macs"]) for row in rows
        ]
        store.add_ledger(stage, [*entries, LedgerEntry(role, 0, examples, 0, forward, backward)])
    sizes = {"layers": [0, 1, 2, 3, 4, 5], **{f"heads.{i}": 6 for i in range(6)}, **{f"ffn.{i}": 766 for i in range(6)}}
    for name, score in scores.items():
        put_model(store, name, "evaluate", sizes if "@" in name else None, score, 1.0)
    store.put("finished", True)
    store.close()


def test_compute_counts_a_cached_teacher_once_and_importance_but_neither_teacher_nor_reports(tmp_path):
    make_run(tmp_path / "run", {"best@25%": 0.8})
    cost = devices.cost_of(tmp_path / "run", "chain", "sst2-1", 0)
    students, cached, hidden, search, importance = 24e3, 1000 * 10, 8e3, 500, 3 * 256 * 10
    assert cost.macs == students + cached + hidden + search + importance
    assert (cost.task, cost.devices) == ("sst2", 1)


def test_compute_that_differs_is_warned_of():
    costs = [devices.Cost("yoco-bert", "sst2", 1, 0, 100.0), devices.Cost("chain", "sst2", 1, 0, 104.0)]
    costs += [devices.Cost("yoco-bert", "cola", 1, 0, 100.0), devices.Cost("chain", "cola", 1, 0, 94.0)]
    shares = devices.relative_costs(costs)
    assert shares["chain", "sst2", 1] == pytest.approx(1.04)
    assert devices.warnings(shares) == ["WARNING: chain on cola for 1: 0.94 of the compute of yoco-bert."]
    assert devices.cost_table(shares, ["chain"])[-1] == "| `chain` | 0.99 (0.94 to 1.04) | – | – |"


def test_a_study_becomes_a_table_and_a_figure(tmp_path, capsys):
    runs = []
    for number, arm in enumerate(("yoco-bert", "chain")):
        for task in ("sst2", "cola"):
            for count in N:
                for seed in (0, 1):
                    run = f"runs/{arm}/{task}-{count}/seed-{seed}"
                    # Two networks more or less right: yoco-bert falls behind with one device and leads with sixteen.
                    score = 0.7 + 0.01 * seed + (0.02 if count == 1 else -0.03) * number
                    make_run(tmp_path / run, networks(count, score=score), macs=1 + 0.5 * number)
                    runs.append({"arm": arm, "task": f"{task}-{count}", "seed": seed, "run": run})
    facts = {
        "format_version": 1, "study": "devices", "source": "devices.yaml", "command": [], "seeds": [0, 1],
        "arms": {arm: {} for arm in ("yoco-bert", "chain")}, "tasks": [], "threads": 1, "cache": "cache",
        "compare": {"split": "dev", "against": "yoco-bert"}, "runs": runs,
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(dump(facts))
    devices.report(tmp_path, tmp_path / "out")
    page = (tmp_path / "out" / "devices.md").read_text()
    assert page in capsys.readouterr().out
    assert "**mean of tasks**" in page
    assert "yoco-bert is ahead of chain from N = 1.7 on" in page
    assert "WARNING: chain on sst2 for 16: 1.24 of the compute of yoco-bert." in page
    assert (tmp_path / "out" / "devices.svg").stat().st_size > 1000


def test_learning_rates_are_shown_with_their_losses():
    of_arm = rows("chain-1e-4", "sst2", 0, {"best@25%": 0.8, "teacher": 0.9}) + rows(
        "uniform-1e-4", "sst2", 0, {"flat@12%": 0.6, "flat@50%": 0.7}
    )
    losses = {(row["arm"], row["task"], row["seed"], row["model"]): 0.5 for row in of_arm}
    losses["uniform-1e-4", "sst2", 0, "flat@12%"] = 0.7
    *_, chain, uniform = devices.rate_table(of_arm, losses)
    assert chain == "| `chain-1e-4` | 80.0, loss 0.500 | 80.0, loss 0.500 |"
    assert uniform == "| `uniform-1e-4` | 65.0, loss 0.600 | 65.0, loss 0.600 |"
