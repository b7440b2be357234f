"""Writes the directory of an invented study, and folders of runs, for tests of what compares them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.recipe.yaml import dump
from nasframe.store import RunStore
from run_directory import BUDGETS, RECIPE, make_run

GAINS = {"random": 0.0, "evolution": 0.004, "sng": 0.03, "greedy": -0.02}
TASKS = ("sst2", "mrpc")


def change(directory: Path, arm: str, task: str, seed: int, examples: int = 400, data: str | None = None) -> None:
    """Give an invented run the scores, trials, predictions and recipe of an arm, a task and a seed."""
    noise = np.random.default_rng(list(f"{task}{seed}".encode()))  # what the arms of a seed share
    own = np.random.default_rng(list(f"{arm}{task}{seed}".encode()))
    gain = GAINS.get(arm, 0.0) + 0.02 * noise.standard_normal() + 0.006 * own.standard_normal()
    store = RunStore(directory)
    store.db.execute("PRAGMA synchronous = OFF")
    store.db.execute("BEGIN")
    easy, labels = noise.random(examples), noise.integers(2, size=examples)
    for name, text in store.db.execute("SELECT name, metrics FROM model").fetchall():
        metrics = json.loads(text)
        level = metrics["dev"]["accuracy"] + 0.2 + (gain if name.startswith("best") else 0.0)
        right = 0.7 * easy + 0.3 * own.random(examples) < level
        metrics["dev"] = {"accuracy": float(right.mean()), "macro_f1": float(right.mean()) - 0.01}
        store.put_model(name, metrics=metrics)
        folder = directory / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        rows = zip(range(examples), labels, np.where(right, labels, 1 - labels), strict=True)
        (folder / "predictions.csv").write_text("id,label,prediction\n" + "".join(f"{i},{y},{p}\n" for i, y, p in rows))
    store.db.execute(
        "UPDATE trial SET score = score + ? WHERE score IS NOT NULL", (gain + 0.005 * own.standard_normal(),)
    )
    store.put("data", {"fingerprint": data or f"{task}-{seed}", "primary": "accuracy", "sizes": {"dev": examples}})
    store.db.execute("COMMIT")
    store.close()
    recipe = RECIPE.replace("package_docs", f"glue, name: {task}").replace("seed: 3", f"seed: {seed}")
    (directory / "recipe.yaml").write_text(recipe.replace("name: search}", f"name: search, sampler: {arm}}}"))


def make_study(home: Path, arms: Any = GAINS, tasks: Any = TASKS, seeds: int = 5, trials: int = 40) -> Path:
    """Write a whole study but for one run that failed and one that was not started, and return its directory."""
    runs = [
        {"arm": arm, "task": task, "seed": seed, "run": f"runs/{arm}/{task}/seed-{seed}"}
        for arm in arms
        for task in tasks
        for seed in range(seeds)
    ]
    pattern = make_run(home / "pattern", trials=trials)
    for run in runs:
        last = (run["task"], run["seed"]) == (tasks[-1], seeds - 1)
        if run["arm"] == "greedy" and last:
            continue
        shutil.copytree(pattern, home / run["run"])
        change(home / run["run"], run["arm"], run["task"], run["seed"])
        if run["arm"] == "evolution" and last:
            store = RunStore(home / run["run"])
            store.put("finished", False)
            store.end_stage("search", "failed", 0.0)
            store.close()
    shutil.rmtree(pattern)
    facts = {
        "format_version": 1, "study": "samplers", "description": "four samplers over one super-network a seed",
        "source": "samplers.yaml", "command": ["nasframe", "ablate", "samplers.yaml"],
        "arms": {arm: {"base": "x.yaml", "changes": {}} for arm in arms}, "tasks": list(tasks),
        "seeds": list(range(seeds)), "threads": 1, "cache": "cache",
        "compare": {"metric": None, "split": "dev", "against": "random", "budgets": {"encoder_params": list(BUDGETS)},
                    "models": None},
        "runs": runs,
    }  # fmt: skip
    (home / "study.yaml").write_text(dump(facts))
    return home
