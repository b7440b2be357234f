"""Racing over examples: are the winners those of measuring everything, and how many examples does it take?

Trains one teacher and one super-network for each task and seed, and then searches them several times with the same
sampler and seed: ``metric`` on all of ``select``; ``racing`` with the paired and with the exact bound; and a fixed
subset with finalists. All stages before the search come from a cache, so that they are trained once.

    python benchmarks/racing.py --cola path/to/CoLA --seeds 0 1 2 3 4 --out runs/racing
    python benchmarks/racing.py --rows benchmarks/records/racing.json    # the table of finished searches

Prints a table and writes ``racing.json``: for each task and way the examples that were read, as a share of those of
``metric``, and how far the winners' scores are below those of ``metric``, on ``select`` and on ``dev``, in points. The
sampler hears of estimates, so that searches soon propose different architectures, and their winners differ in both
directions. What a race itself loses is told apart: how far its winners are below the best of its own proposals, of
which the dropped ones are measured to the end afterwards.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t

import nasframe as nf
from nasframe.report.budgets import over_budget
from nasframe.running.reopen import Finished
from nasframe.store import RunStore

WAYS: Mapping[str, Mapping[str, Any]] = {
    "metric": {"evaluator": "metric"},
    "racing": {"evaluator": "racing"},
    "racing, exact": {"evaluator": {"use": "racing", "bound": "exact"}},
    "subset and finalists": {"evaluator": "metric", "examples": 192, "finalists": 3},
}
"""Name → options of the search."""


RECIPES = {"quickstart": "quickstart", "cola": "yoco_bert/minilm"}
"""Task → the packaged recipe that trains its super-network. The quickstart's steps would not be enough for CoLA."""
TRAININGS = {"quickstart": ("teacher", "by-taylor", "supernet"), "cola": ("teacher", "transform", "supernet")}
"""Task → the stages of the recipe before its search."""


@dataclass(frozen=True)
class Row:
    """One search.

    Args:
        task: ``quickstart`` or ``cola``.
        seed: of the run.
        way: a key of :data:`WAYS`.
        examples: how many examples all its evaluations read.
        broken_off: evaluations that ended early.
        seconds: how long the search took.
        select: the winners' scores on all of ``select``, by budget.
        dev: the same on ``dev``, which no search read.
        missed: how far the winners' scores on ``select`` are below the best of what the same search proposed.
    """

    task: str
    seed: int
    way: str
    examples: int
    broken_off: int
    seconds: float
    select: Mapping[str, float]
    dev: Mapping[str, float]
    missed: Mapping[str, float]


def recipe(task: str, seed: int, way: str, cola: Path | None, trials: int) -> Any:
    """Return a packaged recipe up to its super-network, and then one search by evolution, done in a certain way."""
    packaged = nf.load_recipe(RECIPES[task])
    data = json.loads(json.dumps(packaged.data))
    data.pop("switches", None)
    by_name = {}
    for stage in data["stages"]:
        ((verb, options),) = stage.items()
        by_name[(options or {}).get("name") or (options or {}).get("save_as") or verb] = stage
    kept = [by_name[name] for name in TRAININGS[task]]
    kept += [{"search": {"sampler": "evolution", "trials": trials, **WAYS[way]}}, {"extract": {}}]
    for split in ("select", "dev"):
        kept.append({"evaluate": {"name": f"on-{split}", "split": split, "models": ["best@*"], "costs": []}})
    data["stages"] = kept
    data["seed"] = seed
    if task == "cola":
        data["task"] |= {"name": "cola", "path": str(cola)}
    return nf.load_recipe(data)


def measured(task: str, seed: int, way: str, cola: Path | None, trials: int, out: Path) -> Row:
    """Run one search, or read it if it was run before."""
    directory = out / f"{task}-{seed}-{way.replace(', ', '-').replace(' ', '-')}"
    if not directory.exists():
        nf.run(recipe(task, seed, way, cola, trials), out=directory, cache=out / "cache", progress=False, report=False)
    store = RunStore(directory, shared=True)
    try:
        result = store.stage_result("search")
        (ledger,) = [dict(row) for row in store.rows("ledger") if row["stage"] == "search"]
        metric = store.get("data")["primary"]
        names = list(result["winners"])
        scores = {split: {n: store.model(n)["metrics"][split][metric] for n in names} for split in ("select", "dev")}
    finally:
        store.close()
    return Row(
        task=task,
        seed=seed,
        way=way,
        examples=ledger["examples"],
        broken_off=result["search"]["broken_off"],
        seconds=ledger["run_seconds"],
        select=scores["select"],
        dev=scores["dev"],
        missed=missed(directory, result["bounds"]),
    )


def missed(directory: Path, bounds: Mapping[str, Any]) -> dict[str, float]:
    """Return how far winners are below the best architecture that their search proposed within their budget.

    All are compared as the search scored them, since an extracted network may round differently.

    Args:
        directory: of the run.
        bounds: winner → cost → the least and the largest value, ``None`` without a bound.
    """
    finished = Finished(directory)
    metric = finished.objective
    proposed = [trial for trial in finished.trials if trial.state == "done"]
    kept = dict.fromkeys(bounds, -math.inf)  # the best of those that were measured to the end
    best = dict.fromkeys(bounds, -math.inf)
    for trial in proposed:
        is_complete = trial.examples is None  # otherwise its score is an estimate, or that of a subset
        score = trial.metrics[metric] if is_complete else finished.evaluate(trial.arch).metrics[metric]
        for name, limits in bounds.items():
            if over_budget(trial.costs, limits):
                continue
            best[name] = max(best[name], score)
            if is_complete:
                kept[name] = max(kept[name], score)
    return {name: best[name] - kept[name] for name in bounds}


def table(rows: Sequence[Row]) -> str:
    """Return the table: a row for each task and way, over all seeds. Intervals are of the means over budgets."""
    header = "task | way | examples read | worst seed | missed | worst | best one kept | select, below | dev, below"
    lines = [header, "---|" * 9]
    for task in dict.fromkeys(row.task for row in rows):
        whole = {row.seed: row for row in rows if row.task == task and row.way == "metric"}
        for way in WAYS:
            chosen = [row for row in rows if row.task == task and row.way == way]
            if not chosen:
                continue
            shares = [row.examples / whole[row.seed].examples for row in chosen]
            lost = [100 * points for row in chosen for points in row.missed.values()]
            on_select = [_mean_loss(whole[row.seed].select, row.select) for row in chosen]
            on_dev = [_mean_loss(whole[row.seed].dev, row.dev) for row in chosen]
            lines.append(
                f"{task} | {way} | {statistics.mean(shares):.0%} | {max(shares):.0%} | "
                f"{statistics.mean(lost):.2f} | {max(lost):.2f} | {lost.count(0)} of {len(lost)} | "
                f"{_interval(on_select)} | {_interval(on_dev)}"
            )
    return "\n".join(lines)


def _mean_loss(reference: Mapping[str, float], scores: Mapping[str, float]) -> float:
    """Return how many points winners are below those of another search, in the mean over budgets."""
    return 100 * statistics.mean(reference[name] - score for name, score in scores.items())


def _interval(losses: Sequence[float]) -> str:
    """Write a mean over seeds, with the half-width of its 95 % t interval."""
    text = f"{statistics.mean(losses):+.2f}"
    if len(losses) > 1:
        error = statistics.stdev(losses) / math.sqrt(len(losses))
        text += f" ± {t.ppf(0.975, len(losses) - 1) * error:.2f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cola", type=Path, help="the folder with train.tsv and dev.tsv; without it only quickstart")
    parser.add_argument("--tasks", nargs="+", default=["quickstart", "cola"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--trials", type=int, default=60)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path)
    where.add_argument("--rows", type=Path, help="a racing.json whose table is printed; nothing is run")
    arguments = parser.parse_args()
    if arguments.rows is not None:
        print(table([Row(**row) for row in json.loads(arguments.rows.read_text())]))
        return
    cola = None if arguments.cola is None else arguments.cola.resolve()
    rows = []
    for task in arguments.tasks:
        if task == "cola" and cola is None:
            continue
        for seed in arguments.seeds:
            for way in dict.fromkeys(["metric", *arguments.ways]):
                rows.append(measured(task, seed, way, cola, arguments.trials, arguments.out))
                print(json.dumps(asdict(rows[-1])), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "racing.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
