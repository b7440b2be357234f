"""What a comparison shows besides tables of scores: fronts, curves of the searches, predictions, and ledgers.

Each part has one public function, which takes the compared models and the facts of their runs
(:mod:`nasframe_studies.run_facts`) and returns records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.folders import model_folder, predictions_file
from nasframe.measures import objective_in, sign_of
from nasframe.records import CostFormat, plus
from nasframe.report.example_stats import are_whole, metric_difference
from nasframe.report.format import PLAIN_COST
from nasframe.report.predictions import PROBABILITY, equal_examples, hold_sets, set_column
from nasframe.report.read import AXES
from nasframe.search.pareto import hypervolume
from nasframe_studies import stats
from nasframe_studies.grouping import distinct_by
from nasframe_studies.pairs import MORE_IS_BETTER, Directions, direction_of, relative_costs, tables
from nasframe_studies.records import (
    OTHER_EXAMPLES,
    AnytimeCurves,
    Curve,
    ExamplePair,
    ExampleScores,
    FrontTable,
    LedgerRow,
)
from nasframe_studies.run_facts import EFFORTS, TRAINING, CurveKey, RunFacts, Trace, by_task, cost_formats

if TYPE_CHECKING:
    import pandas as pd

SEARCH_TITLES = {
    "evaluations": "evaluations",
    "macs": "training and evaluation MACs",
    "seconds": "seconds of search",
}
BUDGET = "training_and_search_macs"
"""The column in which arms with equal budgets agree."""
TRAINING_TITLES = {"macs": "training MACs", "seconds": "seconds of training"}
GRID = 60
"""Points of the grid that curves are averaged on, besides their own ends."""

RunKey = tuple[str, str, int]
"""Arm, task and seed."""
Fronts = Mapping[RunKey, Sequence[tuple[float, ...]]]
"""Run → points to maximise: scores and costs, negative if less of them is better."""


# ---- the best score so far


def anytime(runs: Sequence[RunFacts], arms: Sequence[str], models: Sequence[str]) -> list[AnytimeCurves]:
    """Average the best score so far over seeds, on a grid that all arms share.

    An arm's curve begins at the latest beginning of its seeds' curves and ends at their earliest end. Searches that
    aimed at different metrics have no scale in common: :func:`unlike_aims` names the tasks that are left out. Curves of
    a metric of which less is better are of its negative, as the scores of searches are.

    Args:
        runs: as :func:`nasframe_studies.run_facts.read_runs` returns.
        arms: in order.
        models: the budgets, in order.

    Returns:
        One entry for each task, budget (or ``training``) and measure of effort.
    """
    charts = []
    unlike = unlike_aims(runs)
    for task, of_task in by_task(runs).items():
        for key in _curve_keys(of_task, models):
            what, effort = key
            # Curves of training are of the compared metric, so they share a scale whatever the searches aimed at.
            if task in unlike and what != TRAINING:
                continue
            drawn = [run for run in of_task if key in run.curves]
            curves = _mean_curves(drawn, arms, key)
            if not any(curve.x for curve in curves.values()):  # no arm's seeds overlap
                continue
            # All of these runs have one metric, and one aim if the task is not among the unlike ones.
            if what == TRAINING:
                title = TRAINING_TITLES[effort]
                metric = objective_in(drawn[0].formats, drawn[0].metric)
            else:
                title = SEARCH_TITLES[effort]
                metric = drawn[0].aim
            charts.append(AnytimeCurves(task=task, metric=metric, model=what, axis=effort, title=title, arms=curves))
    return charts


def _curve_keys(runs: Sequence[RunFacts], models: Sequence[str]) -> list[CurveKey]:
    """Return the curves that some run has: budgets in order, training last."""
    present = set().union(*(run.curves for run in runs))
    keys = []
    for what in [*models, TRAINING]:
        keys += [(what, effort) for effort in EFFORTS if (what, effort) in present]
    return keys


def unlike_aims(runs: Sequence[RunFacts]) -> dict[str, list[str]]:
    """Return the tasks whose runs searched for different metrics, with those metrics."""
    # A run without a search aimed at nothing: its `aim` is only the compared metric.
    aims = distinct_by((run.task, run.aim) for run in runs if run.searched)
    return {task: metrics for task, metrics in aims.items() if len(metrics) > 1}


def _mean_curves(runs: Sequence[RunFacts], arms: Sequence[str], key: CurveKey) -> dict[str, Curve]:
    """Average one curve over seeds, for each arm that has it; all of the runs have it."""
    traces: dict[str, list[Trace]] = {}
    for arm in arms:
        own = [run.curves[key] for run in runs if run.arm == arm]
        if own:
            traces[arm] = own
    ends = []
    for own in traces.values():
        for trace in own:
            ends += [trace.x[0], trace.x[-1]]
    even = np.linspace(min(ends), max(ends), GRID)
    # With the ends on the grid no curve loses its last score between two points.
    grid = np.unique(np.append(even, ends))
    return {arm: _mean_curve(own, grid) for arm, own in traces.items()}


def _mean_curve(traces: Sequence[Trace], grid: np.ndarray) -> Curve:
    values = stats.step_curves(traces, grid)
    # Only where every seed's curve has begun and none has ended: a mean over fewer seeds would jump
    # where a seed comes or goes, though no score changed there.
    complete = ~np.isnan(values).any(0)
    mean, low, high = stats.t_interval(values[:, complete])
    return Curve(
        x=grid[complete].tolist(),
        mean=mean.tolist(),
        low=[_number(value) for value in low],
        high=[_number(value) for value in high],
        n=len(traces),
    )


# ---- fronts


def cost_axis(compared: pd.DataFrame, runs: Sequence[RunFacts], absolute: Sequence[str] = ()) -> str | None:
    """Choose the cost to draw against: that of the searches' budgets, else the first that all models have.

    Args:
        compared: the compared models.
        runs: as :func:`nasframe_studies.run_facts.read_runs` returns.
        absolute: the costs that are compared in absolute numbers.
    """
    shared = set()
    for cost in relative_costs(map(str, compared)):
        column = compared[axis_column(cost, absolute)]
        # A model without the cost would be missing from the figure and from its front.
        if column.notna().all():
            shared.add(cost)
    wanted = [run.cost for run in runs]
    for cost in [*wanted, *AXES]:
        if cost in shared:
            return cost
    return None


def axis_column(cost: str, absolute: Sequence[str]) -> str:
    """Name the column of a cost that arms are compared by: its share of the teacher's, unless teachers differ.

    >>> axis_column("macs", []), axis_column("macs", ["macs"])
    ('macs_relative', 'macs')
    """
    return cost if cost in absolute else f"{cost}_relative"


def fronts(
    compared: pd.DataFrame,
    runs: Sequence[RunFacts],
    arms: Sequence[str],
    against: str,
    absolute: Sequence[str] = (),
    directions: Directions = MORE_IS_BETTER,
) -> list[FrontTable]:
    """Compare the fronts of score and cost by their hypervolume, paired like a score.

    Fronts are those of the finished models over the budgets, and those of the searches' archives. The hypervolume is
    measured from the worst score and the worst cost that any arm's front of that task has. Costs are shares of the
    full network's; if the arms' full networks differ, all arms of a task are measured by the largest of them.

    Args:
        compared: the compared models.
        runs: as :func:`nasframe_studies.run_facts.read_runs` returns.
        arms: in order.
        against: the reference.
        absolute: the costs in which the arms' full networks differ.
        directions: of the compared scores; those of archives are to be maximised already.

    Returns:
        One table for each kind of front and task, and for their mean.
    """
    units = _Units.of_runs(runs, absolute)
    front_tables = []
    formats = cost_formats(runs)
    cost = cost_axis(compared, runs, absolute)
    if cost is not None:
        sign = sign_of(formats.get(cost, PLAIN_COST))
        model_fronts = _model_fronts(compared, cost, sign, units, directions)
        front_tables += _front_tables("finished models", cost, model_fronts, arms, against)
    archives = [run for run in runs if run.front]
    bounded_costs = {run.cost for run in archives}
    if len(bounded_costs) == 1:  # fronts of different costs span different volumes
        unlike = unlike_aims(runs)
        archive_fronts = {}
        for run in archives:
            if run.task not in unlike:
                archive_fronts[run.arm, run.task, run.seed] = _archive_front(run, units, formats)
        front_tables += _front_tables("search archive", archives[0].cost, archive_fronts, arms, against)
    return front_tables


@dataclass(frozen=True)
class _Units:
    """What costs are divided by, so that the fronts of all arms of a task are measured alike.

    Args:
        absolute: the costs in which the arms' full networks differ.
        largest: (task, cost) → the cost of the largest full network that any arm of the task has.
    """

    absolute: Sequence[str]
    largest: Mapping[tuple[str, str], float]

    @classmethod
    def of_runs(cls, runs: Sequence[RunFacts], absolute: Sequence[str]) -> _Units:
        """Find the largest full networks among the runs."""
        largest: dict[tuple[str, str], float] = {}
        for run in runs:
            for cost, value in run.full.items():
                key = (run.task, cost)
                largest[key] = max(value, largest.get(key, value))
        return cls(absolute, largest)

    def of_task(self, task: str, cost: str) -> float:
        """Return the unit of an absolute cost; 1 if no run knows its full network's."""
        return self.largest.get((task, cost), 1.0)


def _model_fronts(compared: pd.DataFrame, cost: str, sign: float, units: _Units, directions: Directions) -> Fronts:
    """Return each run's finished models as points to maximise, if it has one under every budget of several."""
    budgets = compared["slot"].nunique()
    if budgets < 2:
        return {}
    column = axis_column(cost, units.absolute)
    points = {}
    for key, rows in compared.groupby(["arm", "task", "seed"]):
        arm, task, seed = map(str, key)
        if len(rows) != budgets:  # a front that lacks a budget has less volume for that alone
            continue
        unit = 1.0  # of a share
        if cost in units.absolute:
            unit = units.of_task(task, cost)
        direction = direction_of(task, directions)
        models = []
        for score, size in rows[["score", column]].to_numpy():
            share = float(size) / unit
            models.append((direction * float(score), sign * share))
        points[arm, task, int(seed)] = models
    return points


def _archive_front(run: RunFacts, units: _Units, formats: Mapping[str, CostFormat]) -> list[tuple[float, ...]]:
    """Return a search's front as points to maximise: score, and signed costs in one unit for all arms of the task."""
    divisors = []  # with the sign of the cost's direction
    for cost in run.costs:
        # Archives hold absolute costs. They become shares of the run's own full network, unless the arms have
        # different ones or the run does not know it.
        if cost in units.absolute or cost not in run.full:
            divisor = units.of_task(run.task, cost)
        else:
            divisor = run.full[cost]
        divisors.append(sign_of(formats.get(cost, PLAIN_COST)) * divisor)
    points = []
    for score, *costs in run.front:
        shares = [cost / divisor for cost, divisor in zip(costs, divisors, strict=True)]
        points.append((score, *shares))
    return points


def _front_tables(kind: str, cost: str, points: Fronts, arms: Sequence[str], against: str) -> list[FrontTable]:
    """Compare the hypervolumes of the runs' fronts."""
    import pandas as pd

    if not points:
        return []
    points_of: dict[str, list[tuple[float, ...]]] = {}
    for (_, task, _), front in points.items():
        points_of.setdefault(task, []).extend(front)
    # One point for all arms of a task, since volumes above different points cannot be compared.
    references = {}
    for task, of_task in points_of.items():
        references[task] = np.min(of_task, axis=0).tolist()
    # As scores of one model, so that volumes are paired and tested in the same way as scores.
    volumes = []
    for (arm, task, seed), front in points.items():
        volume = hypervolume(front, references[task])
        volumes.append({"arm": arm, "task": task, "seed": seed, "score": volume})
    frame = pd.DataFrame(volumes).assign(slot=kind, metric="hypervolume")
    front_tables = []
    for table in tables(frame, arms, against):
        front_tables.append(FrontTable(**vars(table), cost=cost, references=references))
    return front_tables


# ---- predictions, example by example


def examples(
    directory: Path,
    compared: pd.DataFrame,
    arms: Sequence[str],
    against: str,
    runs: Sequence[RunFacts] = (),
    split: str = "dev",
) -> list[ExamplePair]:
    """Compare saved predictions example by example, at equal task, budget and seed: McNemar and paired bootstrap.

    Two finished models are compared here, not two methods: the noise of training is not in these intervals.
    Predictions are numbers of outputs. If the heads of two runs have the same classes in different orders, the
    reference's numbers are translated into the arm's order.

    Args:
        directory: what the frame's ``run`` column is read from.
        compared: the compared models.
        arms: in order.
        against: the reference.
        runs: as :func:`nasframe_studies.run_facts.read_runs` returns; they know the classes of their heads.
        split: the split whose examples are compared.
    """
    facts = {(run.arm, run.task, run.seed): run for run in runs}
    reference = {}
    for row in _records(compared, against):
        reference[row["task"], row["slot"], row["seed"]] = row
    pairs = []
    for arm in arms:
        if arm == against:
            continue
        for row in _records(compared, arm):
            task, slot, seed = row["task"], row["slot"], row["seed"]
            reference_row = reference.get((task, slot, seed))
            if reference_row is None:
                continue
            own = _predictions(directory, row, split)
            other = _predictions(directory, reference_row, split)
            if own is None or other is None:  # the runs may be gone, or copied without their models
                continue
            run = facts.get((arm, task, seed))
            other_run = facts.get((against, task, seed))
            other = _in_order(other, _labels(other_run), _labels(run))
            metric = row["metric"]
            scores = _pair(own, other, metric, positive_output(run))
            pair = ExamplePair(**vars(scores), task=task, model=slot, seed=int(seed), arm=arm, metric=metric)
            pairs.append(pair)
    return pairs


def _records(compared: pd.DataFrame, arm: str) -> list[dict[Any, Any]]:
    return compared[compared["arm"] == arm].to_dict("records")


def _predictions(directory: Path, row: Mapping[str, Any], split: str) -> pd.DataFrame | None:
    import pandas as pd

    path = model_folder(directory / row["run"], row["model"]) / predictions_file(split)
    if not path.is_file():
        return None
    return pd.read_csv(path)


def _labels(run: RunFacts | None) -> Sequence[str] | None:
    """Return the classes of a run's head in the order of its outputs, if the run recorded them."""
    if run is None:
        return None
    return run.data.get("labels")


def _in_order(predictions: pd.DataFrame, own: Sequence[str] | None, wanted: Sequence[str] | None) -> pd.DataFrame:
    """Return predictions with their outputs numbered in another order of the same classes.

    They come back as they are if one of the orders is not recorded, if the classes differ, or if a column does not
    hold numbers of outputs.

    Args:
        predictions: with ``label`` and ``prediction``.
        own: the classes in the order that these predictions have.
        wanted: the classes in the order to return.
    """
    if own is None or wanted is None or list(own) == list(wanted):
        return predictions
    # With other classes, or one name twice, no output of one head can be said to be an output of the other.
    has_repeated_class = len(set(own)) < len(own)
    if has_repeated_class or sorted(own) != sorted(wanted):
        return predictions
    positions = {output: wanted.index(name) for output, name in enumerate(own)}
    columns = [name for name in ("label", "prediction") if name in predictions]
    if columns and all(hold_sets(predictions[name].tolist()) for name in columns):
        translated_sets = {name: [_translated(value, positions) for value in predictions[name]] for name in columns}
        return predictions.assign(**translated_sets)
    # Anything else than a number of an output has no position: map() would turn it into NaN.
    if not predictions[columns].isin(list(positions)).all(axis=None):
        return predictions
    translated = {name: predictions[name].map(positions) for name in columns}
    return predictions.assign(**translated)


def _translated(outputs: str, positions: Mapping[int, int]) -> str:
    """Return a list of outputs, as a file of predictions has it, in another order of the classes."""
    return str(sorted(positions[output] for output in json.loads(outputs)))


def positive_output(run: RunFacts | None) -> int | None:
    """Return the index of the class that a run's ``f1`` is about, if its task names one."""
    labels = _labels(run)
    if run is None or labels is None:
        return None
    form = run.formats.get("f1")
    if form is None or form.positive is None:
        return None
    return labels.index(form.positive)


def _pair(arm: pd.DataFrame, reference: pd.DataFrame, metric: str, positive: int | None = None) -> ExampleScores:
    """Compare two models' predictions of the same examples; ``positive`` is the class that ``f1`` is about."""
    columns = {"id", "label", "prediction"}
    if not columns <= set(arm) or not columns <= set(reference):
        return ExampleScores(note="predictions without id, label and prediction")
    # By id, since the order in a file says nothing.
    own = arm.sort_values("id", kind="stable")
    other = reference.sort_values("id", kind="stable")
    same_ids = own["id"].tolist() == other["id"].tolist()
    same_labels = own["label"].tolist() == other["label"].tolist()
    if not same_ids or not same_labels:
        return ExampleScores(note=OTHER_EXAMPLES)
    labels, first, second = _sides(own, other)
    scores = ExampleScores(n=len(labels))
    # Real-valued predictions are never exactly right, so McNemar's test has nothing to count.
    of_classes = are_whole(labels) and are_whole(first) and are_whole(second)
    if of_classes:
        test = stats.mcnemar(equal_examples(first, labels), equal_examples(second, labels))
        scores = replace(scores, only_arm=test.only_first, only_reference=test.only_second, p=test.p)
    gap = metric_difference(labels, first, second, metric, positive)
    if gap is None:
        return scores
    return replace(scores, difference=gap.difference, low=gap.low, high=gap.high)


def _sides(own: pd.DataFrame, other: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the labels of examples and both models' predictions; of several labels 0 or 1 for each output."""
    columns = [own["label"], own["prediction"], other["prediction"]]
    if not hold_sets(own["label"].tolist()):
        labels, first, second = (column.to_numpy() for column in columns)
        return labels, first, second
    outputs = sum(name.startswith(PROBABILITY) for name in own.columns)
    labels, first, second = (set_column(column.tolist(), outputs) for column in columns)
    return labels, first, second


# ---- what the arms cost


def ledger(compared: pd.DataFrame, runs: Sequence[RunFacts], arms: Sequence[str], against: str) -> list[LedgerRow]:
    """Average what each arm's runs cost.

    Args:
        compared: the compared models; their runs count once each.
        runs: as :func:`nasframe_studies.run_facts.read_runs` returns; they know the MACs by role.
        arms: in order.
        against: the reference, which ratios of MACs are of.
    """
    # These columns are of the run and stand in the rows of all its models.
    whole = compared.drop_duplicates(["arm", "task", "seed"])
    reference = whole[whole["arm"] == against]
    rows = []
    for arm in arms:
        own = whole[whole["arm"] == arm]
        if own.empty:
            continue
        ratio, ratios = _budget_ratios(own, reference)
        rows.append(
            LedgerRow(
                arm=arm,
                runs=len(own),
                student_macs=_mean_of_role(runs, arm, "student"),
                teacher_macs=_mean_of_role(runs, arm, "teacher"),
                evaluation_macs=_mean_of_role(runs, arm, "evaluation"),
                training_macs=_mean_column(own, "training_macs"),
                training_and_search_macs=_mean_column(own, "training_and_search_macs"),
                evaluations=_mean_column(own, "evaluations"),
                run_seconds=_mean_column(own, "run_seconds"),
                cached_seconds=_mean_column(own, "cached_seconds"),
                ratio=ratio,
                ratios=ratios,
            )
        )
    return rows


def _budget_ratios(own: pd.DataFrame, reference: pd.DataFrame) -> tuple[float | None, dict[str, float | None]]:
    """Return an arm's MACs of training and search over the reference's, on the runs that both have, and by task.

    A run that is on both sides, as that of winners and baselines, is none of an arm's own.
    """
    columns = ["task", "seed", "run", BUDGET]
    # An inner merge: tasks and seeds that one side lacks would change the ratio though no budget differs.
    shared = own[columns].merge(reference[columns], on=["task", "seed"], suffixes=("", "_of_reference"))
    shared = shared[shared["run"] != shared["run_of_reference"]]
    ratios = {}
    for task, rows in shared.groupby("task", sort=False):
        ratios[str(task)] = _ratio(rows)
    return _ratio(shared), ratios


def _ratio(shared: pd.DataFrame) -> float | None:
    """Divide an arm's MACs by the reference's; ``None`` if no run is shared, or either side's MACs are unknown or 0."""
    macs = shared[BUDGET].astype(float).tolist()
    of_reference = shared[f"{BUDGET}_of_reference"].astype(float).tolist()
    total = sum(of_reference)
    if not total or math.isnan(total) or math.isnan(sum(macs)):  # NaN stands for MACs that could not be counted
        return None
    return sum(macs) / total


def _mean_of_role(runs: Sequence[RunFacts], arm: str, role: str) -> float | None:
    total: float | None = 0.0
    count = 0
    for run in runs:
        if run.arm == arm:
            total = plus(total, run.ledger[role])
            count += 1
    if total is None or not count:
        return None
    return total / count


def _mean_column(rows: pd.DataFrame, column: str) -> float | None:
    """Return the mean of a column, ``None`` if one of its numbers is unknown."""
    return _number(rows[column].astype(float).mean(skipna=False))


def _number(value: float) -> float | None:
    """Return a number, ``None`` for NaN, which JSON does not have."""
    if math.isnan(value):
        return None
    return float(value)
