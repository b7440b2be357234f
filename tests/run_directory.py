"""Writes the run directory of an invented run, through the store, for tests of what reads one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nasframe.records import DataSource, DataSummary, LedgerEntry, SplitSummary, Trial
from nasframe.store import RunStore

RECIPE = """\
nasframe: 1
name: demo
seed: 3
model: minilm-l6
task: {use: package_docs}
space: {use: width_depth, layers: [3, 4, 5, 6], heads: [4, 8, 12], ffn: [256, 512, 1024, 1536]}
budgets: {encoder_params: ["75%", "50%", "30%"]}
stages:
- train: {name: teacher, save_as: teacher}
- search: {name: search-slices, save_as: magnitude}
- extract: {name: slices}
- train: {name: supernet, save_as: supernet, sampler: {use: sandwich}}
- search: {name: search}
- extract: {name: extract}
"""
LAYERS, HEADS, FFN = 6, 12, 1536
STAGES = {"teacher": "train", "search-slices": "search", "supernet": "train", "search": "search"}
BUDGETS = {"75%": 0.612, "50%": 0.583, "30%": 0.487}


def costs_of(arch: dict[str, Any]) -> dict[str, float]:
    """Count like an encoder of width 384 with 32 a head."""
    encoder = sum(4 * 384 * 32 * arch[f"heads.{i}"] + 2 * 384 * arch[f"ffn.{i}"] for i in arch["layers"])
    return {"encoder_params": encoder, "params": encoder + 11.9e6, "macs": 64.0 * encoder}


def random_arch(rng: np.random.Generator) -> dict[str, Any]:
    kept = list(range(int(rng.integers(3, 7))))
    sizes = {f"heads.{i}": int(rng.choice([4, 8, 12])) for i in kept}
    return {"layers": kept} | sizes | {f"ffn.{i}": int(rng.choice([256, 512, 1024, 1536])) for i in kept}


def put_model(
    store: RunStore, name: str, stage: str, arch: dict[str, Any] | None, score: float, latency: float
) -> None:
    shape = arch or {"layers": [*range(LAYERS)], **{f"heads.{i}": HEADS for i in range(LAYERS)}}
    layers = [{"heads": shape[f"heads.{i}"], "ffn": shape.get(f"ffn.{i}", FFN)} for i in shape["layers"]]
    sizes = {f"heads.{i}": row["heads"] for i, row in zip(shape["layers"], layers, strict=True)}
    sizes |= {f"ffn.{i}": row["ffn"] for i, row in zip(shape["layers"], layers, strict=True)}
    costs = costs_of({"layers": shape["layers"], **sizes})
    costs |= {"backbone_params": costs["params"] - 0.2e6, "size": 4 * costs["params"] + 31_000}
    fields: dict[str, Any] = {
        "blueprint": {"family": "bert", "layers": layers, "head_size": 32, "embedding_rank": None}
    }
    if arch:
        fields |= {"arch": arch, "budget": name.partition("@")[2] or None}
    store.put_model(
        name, stage=stage, path=f"models/{name}", metrics={"dev": {"accuracy": score, "macro_f1": score - 0.01}},
        costs=costs | {"latency": latency, "latency_spread": 0.03 * latency}, **fields,
    )  # fmt: skip


def add_trials(store: RunStore, rng: np.random.Generator, count: int) -> None:
    for number in range(count):
        arch = random_arch(rng)
        costs = costs_of(arch)
        score = 0.63 - 0.25 * float(np.exp(-costs["encoder_params"] / 4e6)) + 0.012 * float(rng.standard_normal())
        state = {7: "screened", 11: "failed"}.get(number, "done")
        score_ = None if state != "done" else score
        trial = Trial(arch, score_, (score_ or 0.0,), {"accuracy": score_} if score_ else {}, costs, 0.0, state)  # type: ignore[arg-type]
        store.add_trial("search", number, trial, 0.4)


def log_curves(store: RunStore, rng: np.random.Generator, stage: str, steps: int) -> None:
    with store.transaction():
        for step in range(1, steps + 1):
            store.log(stage, step, {"loss": 2.0 * np.exp(-step / 60) + 0.3 + 0.1 * rng.random(), "lr": 1e-4})
            if step % 60 == 0:
                store.log(stage, step, {"select_accuracy": 0.6 - 0.3 * float(np.exp(-step / 60))})


def make_run(directory: Path, trials: int = 60, finished: bool = True) -> Path:
    """Write a whole run and return its directory."""
    store, rng = RunStore(directory, create=True), np.random.default_rng(0)
    (directory / "recipe.yaml").write_text(RECIPE)
    environment = {
        "versions": {"python": "3.11.2", "torch": "2.13.0", "nasframe": "0.1.0"},
        "device": "cpu",
        "threads": 2,
    }
    (directory / "env.json").write_text(json.dumps(environment))
    store.put("command", ["nasframe", "run", "recipes/demo.yaml"])
    facts = {"fingerprint": "a3f1", "sizes": {"train": 3200, "dev": 1000}, "primary": "accuracy", "labels": ["a", "b"]}
    splits = [
        SplitSummary("train", 3200, 3190, 4, None, None, 0, [1600, 1600], 61, 0.02, 2000),
        SplitSummary("dev", 1000, 998, 0, 3, 1, 0, [520, 480], 48, 0.01, 1000),
    ]
    summary = DataSummary([DataSource("train", "data/reviews.csv", 4200)], splits, ["a", "b"], 0, 48)
    store.put("data", facts | {"summary": asdict(summary)})
    for position, (stage, verb) in enumerate(STAGES.items()):
        store.start_stage(stage, position, verb)
        prefix = "best" if stage == "search" else "magnitude"
        winners = {f"{prefix}@{budget}": {} for budget in BUDGETS} if verb == "search" else None
        store.end_stage(stage, "done", 40.0 + position, {"winners": winners} if winners else {})
    for stage, steps in (("teacher", 180), ("supernet", 240)):
        log_curves(store, rng, stage, steps)
        if stage == "supernet":
            store.log(stage, steps, {"removal_error": 0.0, "small removal_error": 1e-7})
        store.add_ledger(
            stage, [LedgerEntry("student", steps, 32 * steps, 1500 * steps, 6e9 * steps, 12e9 * steps, 3, 40.0)]
        )
    store.add_ledger("supernet", [LedgerEntry("teacher", 240, 7680, 360_000, 1.6e12, 0.0, 0, 9.0)])
    store.add_ledger("search", [LedgerEntry("evaluation", 0, 19_200, 900_000, 3.1e12, 0.0, trials, 24.0)])
    with store.transaction():
        add_trials(store, rng, trials)
    put_model(store, "teacher", "teacher", None, 0.624, 19.4)
    put_model(store, "supernet", "supernet", None, 0.619, 19.5)
    for stage, prefix, loss in (("extract", "best", 0.0), ("slices", "magnitude", 0.21)):
        store.start_stage(stage, 5, "extract")
        for depth, (budget, score) in zip((5, 4, 3), BUDGETS.items(), strict=True):
            kept = list(range(depth))
            arch = {"layers": kept} | {f"heads.{i}": (12, 8, 12, 4, 8)[i] for i in kept}
            arch |= {f"ffn.{i}": (1536, 512, 1024, 256, 1024)[i] for i in kept}
            put_model(store, f"{prefix}@{budget}", stage, arch, score - loss, 3.4 * depth)
        store.end_stage(stage, "done", 1.0, {"extract_error": {f"{prefix}@75%": 2.5e-7}})
    if finished:
        store.put("finished", True)
    store.close()
    return directory
