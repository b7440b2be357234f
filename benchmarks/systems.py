"""The table of the published systems that do not slice, of a study of recipes/studies/published_systems.yaml.

    python benchmarks/systems.py runs/published-systems --out runs/systems-table   # systems.md

Compute is counted in passes: one is the multiply-adds of a forward of the whole network over the task's training
examples. What a system pays once a seed, before it trains the network that is reported, has a column of its own.
Stages with a task of their own do not depend on the study's tasks, which share them: each gets its part of their cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from devices import Scores, Stage, cell_text, cells_of, importance, stages_of, table_lines, whole_of_example, with_mean

from nasframe.store import RunStore
from nasframe_studies import study

REFERENCE = "uniform"
NETWORK = "best@25%"
FINAL = ("tune", "fine-tuning", "uptraining")
"""Stages that train the reported network. A run without one, of a super-network, has no part that is paid before."""
FINE_TUNING, LARGEST_BEFORE = 7.0, 21.0
"""Passes: the protocol's for training, and at most three times as many before it."""
TOLERANCE = 0.05


@dataclass(frozen=True)
class Passes:
    """What a run cost after its teacher, in forward passes over the training data.

    Args:
        before: for what is paid once a seed; a part, if tasks share it.
        fine_tuning: for training the reported network; without such a stage, for all training and search.
    """

    before: float
    fine_tuning: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.before + self.fine_tuning


def passes_of(ledger: Sequence[Mapping[str, Any]], stages: Sequence[Stage], examples: int, tasks: int) -> Passes:
    """Return what a run cost.

    Args:
        ledger: its rows, of stages and roles.
        stages: the stages of its recipe.
        examples: training examples of its task.
        tasks: among which stages with a task of their own are shared.

    Raises:
        ValueError: the compute of a row is unknown.
    """
    by_name = {stage.name: stage for stage in stages}
    whole = whole_of_example(ledger)
    has_final = any(name in FINAL for name in by_name)
    before = importance(stages, whole, examples) if has_final else 0.0
    fine_tuning = 0.0 if has_final else importance(stages, whole, examples)
    for row in ledger:
        stage = by_name[row["stage"]]
        if not stage.counts:
            continue
        if row["forward_macs"] is None or row["backward_macs"] is None:
            raise ValueError(f"stage {stage.name!r}: the multiply-adds of {row['role']} are unknown")
        macs = row["forward_macs"] + row["backward_macs"]
        if stage.name in FINAL or not has_final:
            fine_tuning += macs
        elif "task" in stage.options:
            before += macs / tasks
        else:
            before += macs
    of_pass = whole * examples
    return Passes(before / of_pass, fine_tuning / of_pass)


def passes_of_run(directory: Path, tasks: int) -> Passes:
    """Return what the run in a directory cost."""
    store = RunStore(directory, shared=True)
    ledger = store.rows("ledger")
    examples = store.get("data")["sizes"]["train"]
    store.close()
    return passes_of(ledger, stages_of(directory), examples, tasks)


def scores_of(rows: Iterable[Mapping[str, Any]]) -> Scores:
    """Return arm, task and one column → seed → score of the network.

    Args:
        rows: ``arm``, ``task``, ``seed``, ``model`` and ``score`` of each measured network.
    """
    scores: Scores = {}
    for row in rows:
        if row["model"] == NETWORK:
            scores.setdefault((row["arm"], row["task"], 1), {})[row["seed"]] = row["score"]
    return scores


def spread(values: Sequence[float]) -> str:
    """Write a mean, and the range if there is one.

    >>> spread([6.9, 7.1]), spread([7.0])
    ('7.0 (6.9 to 7.1)', '7.0')
    """
    text = f"{mean(values):.1f}"
    if f"{min(values):.1f}" != f"{max(values):.1f}":
        text += f" ({min(values):.1f} to {max(values):.1f})"
    return text


def warnings(arm: str, costs: Sequence[Passes]) -> list[str]:
    """Say where an arm's compute is more than the protocol allows: by its name, in all, or in parts."""
    lines = []
    fine_tuning = max(cost.fine_tuning for cost in costs)
    before = max(cost.before for cost in costs)
    total = max(cost.total for cost in costs)
    if arm.endswith("-total"):
        if total > FINE_TUNING * (1 + TOLERANCE):
            lines.append(f"WARNING: {arm}: {total:.1f} passes in all, more than {FINE_TUNING:g}.")
        return lines
    if fine_tuning > FINE_TUNING * (1 + TOLERANCE):
        lines.append(f"WARNING: {arm}: {fine_tuning:.1f} passes of fine-tuning, more than {FINE_TUNING:g}.")
    if before > LARGEST_BEFORE * (1 + TOLERANCE):
        lines.append(f"WARNING: {arm}: {before:.1f} passes before, more than {LARGEST_BEFORE:g}.")
    return lines


def sizes_of(rows: Iterable[Mapping[str, Any]], cost: str) -> dict[str, list[float]]:
    """Return arm → a cost of each of its networks, in percent of its teacher's."""
    teachers: dict[tuple[str, str, int], float] = {}
    networks: list[tuple[tuple[str, str, int], float]] = []
    for row in rows:
        run = (row["arm"], row["task"], row["seed"])
        if row["model"] == "teacher":
            teachers[run] = row[cost]
        elif row["model"] == NETWORK:
            networks.append((run, row[cost]))
    sizes: dict[str, list[float]] = {}
    for run, value in networks:
        if run in teachers:
            sizes.setdefault(run[0], []).append(100 * value / teachers[run])
    return sizes


def page_of(rows: Sequence[Mapping[str, Any]], costs: Mapping[str, Sequence[Passes]], arms: Sequence[str]) -> str:
    """Return the table in Markdown.

    Args:
        rows: of the measured networks.
        costs: arm → what each of its runs cost.
        arms: in order.
    """
    scores = with_mean(scores_of(rows))
    tasks = list(dict.fromkeys(task for _, task, _ in scores))
    cells = cells_of(scores, arms, REFERENCE)
    params = sizes_of(rows, "encoder_params")
    macs = sizes_of(rows, "macs")
    lines = []
    notes = []
    for arm in arms:
        if arm not in costs:
            continue
        of_arm = costs[arm]
        texts = [cell_text(cells.get((arm, task, 1))) for task in tasks]
        texts += [spread(params[arm]) if arm in params else "–", spread(macs[arm]) if arm in macs else "–"]
        texts.append(spread([cost.fine_tuning for cost in of_arm]))
        texts.append(spread([cost.before for cost in of_arm]))
        texts.append(spread([cost.total for cost in of_arm]))
        lines.append([f"`{arm}`", *texts])
        notes += warnings(arm, of_arm)
    seeds = len({row["seed"] for row in rows})
    noun = "seed" if seeds == 1 else "seeds"
    columns = [*tasks, "encoder parameters, %", "MACs, %", "fine-tuning, passes", "once before, passes", "in all"]
    text = [
        f"Dev score x 100 with 95 % t intervals over {seeds} {noun}; behind the semicolon the paired difference to "
        f"`{REFERENCE}`, its interval, and its p after Holm within a task. Sizes and passes: mean (range) over runs.",
        "",
        *table_lines(columns, lines),
        "",
        *notes,
    ]
    return "\n".join(text).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, help="folder of systems.md; default: the study's")
    options = parser.parse_args()
    settings = study.settings(options.study)
    tasks = len({run.task for run in settings.runs})
    costs: dict[str, list[Passes]] = {}
    for run in settings.runs:
        if study.finished(options.study / run.run):
            costs.setdefault(run.arm, []).append(passes_of_run(options.study / run.run, tasks))
    if not costs:
        sys.exit(f"{options.study}: no finished runs.")
    rows = study.collect(options.study).to_dict("records")
    page = page_of(rows, costs, list(settings.arms))
    print(page)
    out = options.out or options.study
    out.mkdir(parents=True, exist_ok=True)
    (out / "systems.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
