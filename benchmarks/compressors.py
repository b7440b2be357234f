"""The table of `studies/compressors`: scores, sizes, and how far each method is ahead of magnitude on the tasks' mean.

    python benchmarks/compressors.py runs/compressors/*

Arguments are directories of the study, say one a seed; a seed counts for a method whose runs of it, on both tasks, are
finished. Differences are paired by seed, with 95 % t intervals over seeds, not adjusted for the number of methods, and
in how many of the seeds a method is ahead; `nasframe compare` makes the comparisons task by task, adjusted.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from scipy import stats

from nasframe.studies import study

METHODS = ("magnitude", "hspg", "dhspg", "hesso", "slimming", "rosita", "obprox", "nxmiformer", "yoco-bert", "dynabert")
COSTS = ("encoder_params", "encoder_nonzeros", "bits")
WITHOUT_BUDGET = ("sparse", "assigned")  # models of obprox and nxmiformer, whose stages meet the target themselves


class Result(NamedTuple):
    """A model's dev accuracy and its costs, both in percent, and the accuracy of its teacher."""

    score: float
    teacher: float
    sizes: list[float]


def result(database: Path, budget: str) -> Result:
    """Read the model of a run that answers a budget such as "50%"."""
    with closing(sqlite3.connect(database)) as db:
        rows = db.execute("SELECT name, budget, metrics, costs FROM model").fetchall()
    scores = {name: json.loads(metrics)["dev"]["accuracy"] * 100 for name, _, metrics, _ in rows}
    costs = {name: json.loads(text) for name, _, _, text in rows}
    [name] = [name for name, met, _, _ in rows if met == budget or name in WITHOUT_BUDGET]
    return Result(scores[name], scores["teacher"], [100 * costs[name][cost] / costs["teacher"][cost] for cost in COSTS])


def load(homes: list[Path], budget: str) -> dict[str, dict[str, dict[str, Result]]]:
    """Read the seeds that a method finished on both tasks: method -> task -> seed -> result."""
    found: dict[str, dict[str, dict[str, Result]]] = {method: {"sst2": {}, "mrpc": {}} for method in METHODS}
    for home in homes:
        for method, tasks in found.items():
            for seed in sorted(run.name for run in (home / "runs" / method / f"sst2-{budget}").glob("seed-*")):
                runs = {task: home / "runs" / method / f"{task}-{budget}" / seed for task in tasks}
                if all(study.finished(run) for run in runs.values()):
                    for task, run in runs.items():
                        tasks[task][seed] = result(run / "run.db", budget)
    return found


def spread(values: list[float]) -> str:
    """Write a mean, and the standard deviation of more than one value.

    >>> spread([80.0, 82.0])
    '81.0 ± 1.4'
    """
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def means(tasks: dict[str, dict[str, Result]]) -> dict[str, float]:
    """Return the mean score of the tasks, seed by seed."""
    return {seed: statistics.fmean(seeds[seed].score for seeds in tasks.values()) for seed in tasks["sst2"]}


def difference(values: dict[str, float], reference: dict[str, float]) -> str:
    """Write a difference paired by seed with its interval, and in how many of the seeds it is above zero.

    >>> difference({"0": 81.0, "1": 82.0, "2": 84.0}, {"0": 80.0, "1": 80.0, "2": 81.0, "3": 0.0})
    '+2.0 [−0.5, 4.5], 3 of 3'
    """
    by_seed = [value - reference[seed] for seed, value in values.items() if seed in reference]
    text = f"{statistics.fmean(by_seed):+.1f}"
    if len(by_seed) > 1:
        low, high = stats.ttest_1samp(by_seed, 0).confidence_interval()
        text += f" [{low:.1f}, {high:.1f}], {sum(value > 0 for value in by_seed)} of {len(by_seed)}"
    return text.replace("-", "−")


def sizes(tasks: dict[str, dict[str, Result]]) -> str:
    """Write the mean sizes of a method's models, those of SST-2 and MRPC apart where they differ."""
    columns = []
    for place in range(len(COSTS)):
        both = [f"{statistics.fmean(found.sizes[place] for found in seeds.values()):.0f}" for seeds in tasks.values()]
        columns.append(", ".join(dict.fromkeys(both)))
    return " / ".join(columns)


def table(homes: list[Path], budget: str) -> str:
    """Return the Markdown table of one budget."""
    found = load(homes, budget)
    reference = found["magnitude"]
    found["teacher"] = {
        task: {seed: one._replace(score=one.teacher, sizes=[100.0] * len(COSTS)) for seed, one in seeds.items()}
        for task, seeds in reference.items()
    }
    lines = ["| method | SST-2 | MRPC | mean | against `magnitude` | sizes |", "|---|---|---|---|---|---|"]
    for method, tasks in found.items():
        scores = [spread([one.score for one in seeds.values()]) for seeds in tasks.values()]
        scores.append(spread([*means(tasks).values()]))
        ahead = "–" if method == "magnitude" else difference(means(tasks), means(reference))
        name = f"`{method}`" if method in METHODS else method
        lines.append(f"| {name} | {' | '.join(scores)} | {ahead} | {sizes(tasks)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables of both budgets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="+", type=Path)
    homes = parser.parse_args().study
    for budget in ("50%", "25%"):
        print(f"To {budget[:-1]} % of the encoder:\n\n{table(homes, budget)}\n")


if __name__ == "__main__":
    main()
