"""Compress once, deploy on N devices: table and figure of a study of recipes/studies/devices.yaml.

    python benchmarks/devices.py runs/devices --out runs/devices-table   # devices.md, devices.png and devices.svg
    python benchmarks/devices.py --rates runs/device-rates               # the study of learning rates, on `select`
    python benchmarks/devices.py --write                                 # writes the recipes of recipes/devices again

An arm's score for N devices is the mean over their N networks. It also prints whether the arms' compute was equal.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from device_recipes import BUDGETS, DEVICES, percent, winner, write

from nasframe.recipe.yaml import read
from nasframe.report.tables import markdown_table
from nasframe.store import RunStore
from nasframe_studies import stats, study
from nasframe_studies.pairs import MEAN
from nasframe_studies.wording import p_is

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nasframe_studies.settings import Settings

REFERENCE = "yoco-bert"
LATER = "afterwards"
"""The column of budgets that were named after training for 4 devices."""
COLUMNS = (*DEVICES, LATER)
HEADS = [f"N = {devices}" for devices in DEVICES]
TOLERANCE = 0.05
"""Compute may differ from the reference's by this share."""
FROM_DATA = ("taylor", "fisher", "accumulated")
"""The scores of ``rewire`` that run the network."""
FULL_PASSES = 3
"""Forward and backward, as passes forward."""

Column = int | str
"""A number of devices, or :data:`LATER`."""
Scores = dict[tuple[str, str, Column], dict[int, float]]
"""Arm, task and column → seed → score."""


@dataclass(frozen=True)
class Cost:
    """What an arm's run cost after its teacher, in multiply-adds.

    Args:
        arm: the arm.
        task: the task, without devices.
        devices: how many devices it was for.
        seed: the seed.
        macs: of training and search; a cached teacher's outputs count once.
    """

    arm: str
    task: str
    devices: int
    seed: int
    macs: float


# ---- scores


def divided(task: str) -> tuple[str, int]:
    """Return a task of the study as the task of GLUE and the number of devices.

    >>> divided("sst2-16")
    ('sst2', 16)
    """
    name, _, devices = task.rpartition("-")
    return name, int(devices)


def scores_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Scores, list[str]]:
    """Return the mean score of each run over its networks, and what is missing.

    Args:
        rows: ``arm``, ``task``, ``seed``, ``model`` and ``score`` of each measured network.
    """
    networks: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in rows:
        networks.setdefault((row["arm"], row["task"], row["seed"]), {})[row["model"]] = row["score"]
    scores: Scores = {}
    missing = []
    for (arm, task, seed), of_model in networks.items():
        name, devices = divided(task)
        columns: dict[Column, list[str]] = {devices: [winner(budget) for budget in BUDGETS[devices]]}
        if devices == 4:
            columns[LATER] = afterwards(of_model)
        for column, models in columns.items():
            absent = [model for model in models if model not in of_model]
            # A mean over fewer networks would be of other sizes, so the run is left out.
            if absent:
                missing.append(f"{arm} on {task}, seed {seed}, has no {', '.join(absent)}.")
            else:
                scores.setdefault((arm, name, column), {})[seed] = mean(of_model[model] for model in models)
    return scores, missing


def afterwards(models: Iterable[str]) -> list[str]:
    """Return the network that each of 16 devices gets, if they come after training for 4.

    A super-network was searched for them. Without one each gets the nearest smaller network that was saved.
    """
    is_searched = any(model.startswith("later@") for model in models)
    names = []
    for budget in BUDGETS[16]:
        if is_searched:
            names.append(f"later@{percent(budget)}")
        else:
            largest = max(saved for saved in BUDGETS[4] if saved <= budget)
            names.append(winner(largest))
    return names


def tasks_of(scores: Scores) -> list[str]:
    """Return the tasks in order."""
    return list(dict.fromkeys(task for _, task, _ in scores))


def with_mean(scores: Scores) -> Scores:
    """Add the mean of the tasks, within each seed that all tasks have, before the tasks."""
    tasks = tasks_of(scores)
    if len(tasks) < 2:
        return scores
    means: Scores = {}
    for arm, _, column in scores:
        of_tasks = [scores.get((arm, task, column), {}) for task in tasks]
        common = set(of_tasks[0])
        for by_seed in of_tasks[1:]:
            common &= by_seed.keys()
        if common:
            by_seed = {seed: mean(of_task[seed] for of_task in of_tasks) for seed in sorted(common)}
            means[arm, MEAN, column] = by_seed
    return {**means, **scores}


@dataclass(frozen=True)
class Cell:
    """An arm's score in a column, and its difference from the reference.

    Args:
        mean: over seeds.
        low: lower end of the 95 % t interval; NaN below two seeds.
        high: its upper end.
        pair: the paired difference to the reference; ``None`` for the reference.
        p: its p-value after Holm's adjustment within its task; ``None`` if there is no test.
    """

    mean: float
    low: float
    high: float
    pair: stats.Paired | None = None
    p: float | None = None


Cells = dict[tuple[str, str, Column], Cell]
"""Arm, task and column → cell."""


def cells_of(scores: Scores, arms: Sequence[str], reference: str = REFERENCE) -> Cells:
    """Return mean, interval and paired difference of each arm, task and column; one family for Holm a task."""
    pairs = {}
    for (arm, task, column), by_seed in scores.items():
        others = scores.get((reference, task, column), {})
        seeds = sorted(by_seed.keys() & others.keys())
        if arm != reference and seeds:
            own = [by_seed[seed] for seed in seeds]
            pairs[arm, task, column] = stats.paired(own, [others[seed] for seed in seeds])
    adjusted: dict[tuple[str, str, Column], float | None] = {}
    for task in tasks_of(scores):
        family = [key for key in pairs if key[1] == task]
        p_values = stats.holm([pairs[key].p_t for key in family])
        adjusted |= zip(family, p_values, strict=True)
    cells = {}
    for key, by_seed in scores.items():
        if key[0] in arms:
            level, low, high = map(float, stats.t_interval(list(by_seed.values())))
            cells[key] = Cell(level, low, high, pairs.get(key), adjusted.get(key))
    return cells


# ---- where the curves cross


def crossings(levels: Mapping[int, float], rival: Mapping[int, float]) -> list[tuple[float, bool]]:
    """Return where two curves cross, by linear interpolation in log N, and whether the first is ahead from there on.

    >>> crossings({1: 0.0, 4: 2.0}, {1: 1.0, 4: 1.0})
    [(2.0, True)]
    """
    counts = sorted(levels.keys() & rival.keys())
    places = []
    ahead: tuple[int, float] | None = None  # the last number of devices at which one is ahead, and by how much
    for count in counts:
        gap = levels[count] - rival[count]
        if gap == 0:  # curves that only touch do not cross
            continue
        if ahead is not None and (gap > 0) != (ahead[1] > 0):
            start, before = ahead
            part = before / (before - gap)  # of the way, at which the gap is 0
            place = start * (count / start) ** part
            places.append((place, gap > 0))
        ahead = (count, gap)
    return places


def sentence(reference: str, rival: str, levels: Mapping[int, float], others: Mapping[int, float]) -> str:
    """Say where two curves cross, or that they do not."""
    counts = sorted(levels.keys() & others.keys())
    differences = [levels[count] - others[count] for count in counts]
    gaps = []
    for count, difference in zip(counts, differences, strict=True):
        gaps.append(f"{100 * difference:+.1f} for {count}")
    places = crossings(levels, others)
    if places:
        parts = []
        for place, is_ahead in places:
            side = "ahead of" if is_ahead else "behind"
            parts.append(f"{side} {rival} from N = {place:.1f} on")
        verdict = f"{reference} is {', then '.join(parts)} (linear interpolation in log N)"
    else:
        side = "equal to"
        if max(differences) > 0:  # without a crossing all that are not 0 have one sign
            side = "ahead of"
        elif min(differences) < 0:
            side = "behind"
        verdict = f"{reference} is {side} {rival} for every number of devices"
    return f"{verdict}: {', '.join(gaps)}."


# ---- compute


@dataclass(frozen=True)
class Stage:
    """A stage of a run's resolved recipe."""

    name: str
    verb: str
    options: Mapping[str, Any]

    @property
    def caches(self) -> bool:
        """Whether it keeps its teacher's outputs."""
        return self.options.get("teacher_cache") == "run"

    @property
    def counts(self) -> bool:
        """Whether its compute counts: not the teacher's training, reports, or a search for budgets named later."""
        return self.verb in ("train", "search") and self.name not in ("teacher", "search-later")


def stages_of(directory: Path) -> list[Stage]:
    """Return the stages of a run."""
    path = directory / "recipe.yaml"
    node, problems = read(path, str(path))
    if node is None:
        raise ValueError(str(problems[0]))
    stages = []
    for written in node.plain()["stages"]:
        ((verb, options),) = written.items()
        stages.append(Stage(options.get("name", verb), verb, options))
    return stages


def cost_of(directory: Path, arm: str, task: str, seed: int) -> Cost:
    """Return what a run cost after its teacher: from its ledger, with importance that ledgers do not have.

    A cached teacher's outputs are the same in every stage. A run that has many stages counts them once, although each
    stage computed them again: whoever trains for several devices would keep them.
    """
    store = RunStore(directory, shared=True)
    ledger = store.rows("ledger")
    examples = store.get("data")["sizes"]["train"]
    store.close()
    stages = stages_of(directory)
    by_name = {stage.name: stage for stage in stages}

    total = 0.0
    cached = 0.0
    teacher_of_example = 0.0
    for row in ledger:
        stage = by_name[row["stage"]]
        macs = row["forward_macs"] + row["backward_macs"]
        if not stage.counts:
            continue
        if row["role"] == "teacher" and stage.caches:
            cached += macs
            teacher_of_example = max(teacher_of_example, macs / row["examples"])
        else:
            total += macs
    # Batches pad differently, so an example's share of the teacher differs by stage: the largest is the safe side.
    total += min(cached, teacher_of_example * examples)
    total += importance(stages, whole_of_example(ledger), examples)
    name, devices = divided(task)
    return Cost(arm, name, devices, seed, total)


def whole_of_example(ledger: Iterable[Mapping[str, Any]]) -> float:
    """Return the multiply-adds of a forward of the whole network over one example, from the teacher's training."""
    for row in ledger:
        if row["stage"] == "teacher" and row["role"] == "student":
            return row["forward_macs"] / row["examples"]
    raise ValueError("the ledger has no training of a stage 'teacher', which the cost of importance follows from")


def importance(stages: Iterable[Stage], whole: float, examples: int) -> float:
    """Return what ``rewire`` spent on scores of importance."""
    total = 0.0
    for stage in stages:
        if stage.verb == "transform" and stage.options.get("score") in FROM_DATA:
            batches = stage.options.get("batches", 32)
            batch_size = stage.options.get("batch_size", 32)
            total += FULL_PASSES * min(examples, batches * batch_size) * whole
    return total


def relative_costs(costs: Iterable[Cost], reference: str = REFERENCE) -> dict[tuple[str, str, int], float]:
    """Return arm, task and devices → the mean over seeds of its compute over the reference's."""
    macs = {(cost.arm, cost.task, cost.devices, cost.seed): cost.macs for cost in costs}
    shares: dict[tuple[str, str, int], list[float]] = {}
    for (arm, task, devices, seed), value in macs.items():
        other = macs.get((reference, task, devices, seed))
        if other:
            shares.setdefault((arm, task, devices), []).append(value / other)
    return {key: mean(values) for key, values in shares.items()}


def warnings(shares: Mapping[tuple[str, str, int], float]) -> list[str]:
    """Name the arms whose compute differs too much from the reference's."""
    lines = []
    for (arm, task, devices), share in shares.items():
        if abs(share - 1) > TOLERANCE:
            lines.append(f"WARNING: {arm} on {task} for {devices}: {share:.2f} of the compute of {REFERENCE}.")
    return lines


# ---- table and figure


def score_table(cells: Cells, tasks: Sequence[str], arms: Sequence[str]) -> list[str]:
    """Return the table of scores, a part for each task: mean and interval, and the difference to the reference."""
    lines = []
    for task in tasks:
        rows = []
        for arm in arms:
            texts = [cell_text(cells.get((arm, task, column))) for column in COLUMNS]
            rows.append([f"`{arm}`", *texts])
        lines += [f"**{task}**", "", *table_lines([*HEADS, f"16, {LATER}"], rows), ""]
    return lines


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with a row for each arm."""
    return markdown_table(["arm", *columns], rows).splitlines()


def cell_text(cell: Cell | None) -> str:
    """Write a score x 100 with its interval, then the difference with its interval and p-value."""
    if cell is None:
        return "–"
    text = f"{100 * cell.mean:.1f}"
    if not math.isnan(cell.low):
        text += f" [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    pair = cell.pair
    if pair is None:
        return text
    text += f"; {100 * pair.mean:+.1f}"
    if pair.t_low is not None and pair.t_high is not None:
        text += f" [{100 * pair.t_low:+.1f}, {100 * pair.t_high:+.1f}]"
    if cell.p is not None:
        text += f", {p_is(cell.p)}"
    return text


def cost_table(shares: Mapping[tuple[str, str, int], float], arms: Sequence[str]) -> list[str]:
    """Return the table of compute: mean over tasks, and the range of the tasks."""
    tasks = list(dict.fromkeys(task for _, task, _ in shares))
    rows = []
    for arm in arms:
        texts = []
        for devices in DEVICES:
            values = [shares[arm, task, devices] for task in tasks if (arm, task, devices) in shares]
            text = "–"
            if values:
                text = f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            texts.append(text)
        rows.append([f"`{arm}`", *texts])
    return table_lines(HEADS, rows)


def curves_of(scores: Scores, task: str) -> dict[str, dict[int, float]]:
    """Return arm → devices → mean score of a task."""
    curves: dict[str, dict[int, float]] = {}
    for (arm, name, column), by_seed in scores.items():
        if name == task and isinstance(column, int):
            curves.setdefault(arm, {})[column] = mean(by_seed.values())
    return curves


def draw(cells: Cells, tasks: Sequence[str], arms: Sequence[str]) -> Figure:
    """Draw score against number of devices with t intervals over seeds: the mean of the tasks, then each task."""
    from matplotlib.ticker import NullLocator

    from nasframe.report.plots import INK, WIDTH, legend, panels

    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)  # rounded up
    figure, grid = panels(WIDTH * columns * 0.75, 0.7 + 2.5 * rows, len(tasks), columns)
    for axes, task in zip(grid, tasks, strict=True):
        for arm in arms:
            drawn = {count: cells[arm, task, count] for count in DEVICES if (arm, task, count) in cells}
            draw_curve(axes, arms, arm, drawn)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(DEVICES, [str(count) for count in DEVICES])
        axes.set_title(task, fontsize=9, loc="left", color=INK)
        axes.set_xlabel("devices, from the same compute in all")
        axes.set_ylabel("mean dev score x 100")
    legend(figure, *grid, names=arms)
    return figure


APART = 1.035
"""The ratio by which arms are set apart along N, so that intervals do not cover each other."""


def draw_curve(axes: Axes, arms: Sequence[str], arm: str, cells: Mapping[int, Cell]) -> None:
    """Draw an arm's scores with their intervals."""
    from nasframe.report.plots import PAPER
    from nasframe_studies.plots import look

    aside = APART ** (arms.index(arm) - (len(arms) - 1) / 2)
    style = look(arms, arm)
    axes.plot(
        [count * aside for count in cells],
        [100 * cell.mean for cell in cells.values()],
        color=style.color,
        marker=style.marker,
        ls=style.line,
        lw=2.0 if arm == REFERENCE else 1.2,
        ms=5,
        markeredgecolor=PAPER,
        mew=0.6,
        label=arm,
    )
    for count, cell in cells.items():
        if not math.isnan(cell.low):
            ends = [100 * cell.low, 100 * cell.high]
            axes.plot([count * aside] * 2, ends, color=style.color, lw=1.1, alpha=0.75)


# ---- the study of learning rates


@dataclass(frozen=True)
class OnSelect:
    """Score and loss of a network on ``select``, or their means."""

    score: float
    loss: float

    def __str__(self) -> str:
        return f"{100 * self.score:.1f}, loss {self.loss:.3f}"


def averaged(values: Sequence[OnSelect]) -> OnSelect:
    """Return the means."""
    return OnSelect(mean(value.score for value in values), mean(value.loss for value in values))


def rate_table(rows: Iterable[Mapping[str, Any]], losses: Mapping[tuple[str, str, int, str], float]) -> list[str]:
    """Return a row for each method and rate: score and loss on ``select``, each task and their mean.

    Args:
        rows: as for :func:`scores_of`; arms are called ``METHOD-RATE``.
        losses: arm, task, seed and network → loss.
    """
    networks: dict[str, dict[str, list[OnSelect]]] = {}
    tasks: list[str] = []
    for row in rows:
        if not row["model"].startswith(("best@", "flat@")):
            continue
        loss = losses[row["arm"], row["task"], row["seed"], row["model"]]
        of_arm = networks.setdefault(row["arm"], {})
        of_arm.setdefault(row["task"], []).append(OnSelect(row["score"], loss))
        if row["task"] not in tasks:
            tasks.append(row["task"])
    table = []
    for arm, of_task in networks.items():
        if len(of_task) < len(tasks):  # not finished
            continue
        means = [averaged(of_task[task]) for task in tasks]
        means.append(averaged(means))
        table.append([f"`{arm}`", *map(str, means)])
    return table_lines([*tasks, MEAN], table)


def losses_of(home: Path, settings: Settings) -> dict[tuple[str, str, int, str], float]:
    """Return the loss on ``select`` of every network of a study."""
    losses = {}
    for run in settings.runs:
        if not study.finished(home / run.run):
            continue
        store = RunStore(home / run.run, shared=True)
        for model in store.rows("model"):
            if "select" in model["metrics"]:
                losses[run.arm, run.task, run.seed, model["name"]] = model["metrics"]["select"]["loss"]
        store.close()
    return losses


# ---- the command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, help="folder of table and figure; default: the study's")
    parser.add_argument("--rates", action="store_true", help="it is a study of learning rates")
    parser.add_argument("--write", action="store_true", help="write the recipes")
    options = parser.parse_args()
    if options.write:
        print(*write(), sep="\n")
    elif options.study is None:
        parser.error("expected a study's directory, or --write")
    elif options.rates:
        losses = losses_of(options.study, study.settings(options.study))
        print(*rate_table(rows_of(options.study), losses), sep="\n")
    else:
        report(options.study, options.out or options.study)


def rows_of(home: Path) -> list[Any]:
    """Return a row for each measured network of a study."""
    return study.collect(home).to_dict("records")


def report(home: Path, out: Path) -> None:
    """Print and write the table, and write the figure."""
    from nasframe.report import plots

    settings = study.settings(home)
    scores, missing = scores_of(rows_of(home))
    if not scores:
        sys.exit(f"{home}: no finished runs. {' '.join(missing)}")
    scores = with_mean(scores)
    finished = {arm for arm, _, _ in scores}
    arms = [arm for arm in settings.arms if arm in finished]
    costs = []
    for run in settings.runs:
        if study.finished(home / run.run):
            costs.append(cost_of(home / run.run, run.arm, run.task, run.seed))
    shares = relative_costs(costs)
    tasks = tasks_of(scores)
    cells = cells_of(scores, arms)
    curves = curves_of(scores, tasks[0])  # the mean of tasks, if there are several
    sentences = []
    for arm in arms:
        if arm != REFERENCE and REFERENCE in curves and arm in curves:
            sentences.append(f"- {sentence(REFERENCE, arm, curves[REFERENCE], curves[arm])}")
    seeds = len({cost.seed for cost in costs})
    text = [
        f"Dev score x 100, the mean over the networks of N devices, with 95 % t intervals over {seeds} seeds. Behind "
        f"the semicolon: the paired difference to `{REFERENCE}`, its interval, and its p after Holm within a task.",
        "",
        *score_table(cells, tasks, arms),
        *sentences,
        "",
        f"Multiply-adds of training and search, relative to `{REFERENCE}`: mean over tasks and seeds (range of tasks).",
        "",
        *cost_table(shares, arms),
        "",
        *warnings(shares),
        *missing,
    ]
    page = "\n".join(text).rstrip() + "\n"
    print(page)
    out.mkdir(parents=True, exist_ok=True)
    (out / "devices.md").write_text(page, encoding="utf-8")
    plots.save(draw(cells, tasks, arms), out / "devices", "mean score against number of devices")


if __name__ == "__main__":
    main()
