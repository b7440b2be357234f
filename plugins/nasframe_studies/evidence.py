"""What a comparison reads in the run directories: fronts, curves of the searches, predictions, ledgers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.declarations import budget_of
from nasframe.errors import UsageError
from nasframe.report.read import AXES as AXES_OF_COST
from nasframe.report.read import gather
from nasframe.search.constraints import Bounds, parse_bounds
from nasframe.search.pareto import coverage, hypervolume
from nasframe_studies import stats
from nasframe_studies.conditions import OTHER_EXAMPLES, conditions
from nasframe_studies.run_facts import RunFacts

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

AXES = {"evaluations": "evaluations", "macs": "training and evaluation MACs", "seconds": "seconds of search"}
TRAINING = {"macs": "training MACs", "seconds": "seconds of training"}
GRID = 60
ROLES = {"student": ("student",), "teacher": ("teacher", "augmentation"), "evaluation": ("evaluation",)}
"""Columns of the ledger, and the roles that a run's own has for each: who augments texts is a teacher too."""


def read_runs(directory: Path, found: pd.DataFrame, settings: Mapping[str, Any]) -> list[RunFacts]:
    """Read the runs that compared models come from; those that are gone are left out."""
    facts = []
    for key, rows in found.groupby(["arm", "task", "seed", "run"], sort=False):
        arm, task, seed, run = map(str, key)
        if not (directory / run / "run.db").is_file():
            continue
        report = gather(directory / run)
        slots = dict(zip(rows["model"], rows["slot"], strict=True))
        searches = [search for search in report["searches"] if slots.keys() & set(search["winners"])]
        full = {
            name: model["costs"][name] / share
            for model in report["models"] for name, share in model["relative"].items() if share
        }  # fmt: skip
        ledger = {who: _macs(row for row in report["ledger"] if row["role"] in roles) for who, roles in ROLES.items()}
        metric = str(rows["metric"].iloc[0])
        curves = dict(_training(report, metric))
        for search in searches:
            curves |= _search(report, search, {slots[name]: name for name in search["winners"] if name in slots}, full)
        front = [
            (p["score"], *(p["costs"][cost] for cost in search["costs"]))
            for search in searches for p in search["points"] if p["front"]
        ]  # fmt: skip
        cost = ", ".join(searches[0]["costs"]) if searches else ""
        aim = next((search["aim"] for search in searches if search["aim"]), metric)
        data, surroundings, formats = report["data"], conditions(report), report["formats"]
        facts.append(
            RunFacts(
                arm,
                task,
                int(seed),
                ledger,
                front,
                full,
                metric,
                aim,
                cost,
                curves,
                data,
                surroundings,
                formats,
            )
        )
    return facts


def _macs(rows: Iterator[Mapping[str, Any]]) -> float:
    return float(sum(row["forward_macs"] + row["backward_macs"] for row in rows))


def _search(
    report: Mapping[str, Any], search: Mapping[str, Any], winners: Mapping[str, str], full: Mapping[str, float]
) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """Trace the scores of a search's feasible trials, for each budget that it answered."""
    stages = [stage["name"] for stage in report["stages"]]
    earlier = stages[: stages.index(search["stage"])]
    training = _macs(row for row in report["ledger"] if row["stage"] in earlier and row["role"] != "evaluation")
    spent = _macs(row for row in report["ledger"] if row["stage"] == search["stage"])
    trials = [row for row in report["trials"] if row["stage"] == search["stage"] and row["origin"] == "search"]
    done = [row for row in trials if row["state"] == "done" and row["score"] is not None]
    fidelity = done[0]["examples"] if done else None  # finalists are scored again on more: another measure
    limits = {slot: _limit(name, search["costs"], full) for slot, name in winners.items()}
    curves: dict[tuple[str, str], tuple[list[float], list[float]]] = {
        (slot, axis): ([], []) for slot in limits for axis in AXES
    }
    seconds, count = 0.0, 0
    for row in trials:
        seconds += row["trial_seconds"] or 0.0
        if row["state"] != "done" or row["examples"] != fidelity or row["score"] is None:
            continue
        count += 1
        at = {"evaluations": count, "macs": training + spent * count / len(done), "seconds": seconds}
        for slot, (cost, bounds) in limits.items():
            fits = not row["violation"] and (not cost or bounds.violation(row["costs"].get(cost, 0.0)) == 0)
            for axis, x in at.items():
                xs, ys = curves[slot, axis]
                if fits:
                    ys.append(row["score"])
                    xs.append(x)
                elif ys:
                    ys.append(max(ys))
                    xs.append(x)
    return {key: curve for key, curve in curves.items() if curve[0]}


def _limit(winner: str, costs: Sequence[str], full: Mapping[str, float]) -> tuple[str, Bounds]:
    """Read the budget out of a winner's name: ``best@50%``, ``best@macs=50%``."""
    cost, text = budget_of(winner)
    cost = cost or (costs[0] if costs else "")
    try:
        return (cost, parse_bounds(text, full.get(cost))) if text else ("", Bounds())
    except UsageError:
        return "", Bounds()


def _training(
    report: Mapping[str, Any], metric: str
) -> Iterator[tuple[tuple[str, str], tuple[list[float], list[float]]]]:
    """Trace what training stages measured on ``select``, against all that was trained so far."""
    macs = seconds = 0.0
    traces: dict[str, tuple[list[float], list[float]]] = {axis: ([], []) for axis in TRAINING}
    for stage in report["stages"]:
        rows = [row for row in report["ledger"] if row["stage"] == stage["name"] and row["role"] != "evaluation"]
        steps, spent = max((row["steps"] for row in rows), default=0), _macs(iter(rows))
        points = report["curves"].get(stage["name"], {}).get(f"select_{metric}", ())
        for step, value in points if stage["name"] != "teacher" else ():
            share = step / max(steps, step, 1)
            for axis, x in (("macs", macs + share * spent), ("seconds", seconds + share * stage["run_seconds"])):
                traces[axis][0].append(x)
                traces[axis][1].append(value)
        macs, seconds = macs + spent, seconds + (stage["run_seconds"] if steps else 0.0)
    yield from ((("training", axis), curve) for axis, curve in traces.items() if len(set(curve[0])) > 1)


def anytime(runs: Sequence[RunFacts], arms: Sequence[str], models: Sequence[str]) -> list[dict[str, Any]]:
    """Average the best score so far over seeds, on a grid that all arms share.

    An arm's curve runs from where the last of its seeds has begun to where the first has ended. Searches that aimed at
    different metrics have no scale in common: :func:`unlike_aims` names the tasks that are left out.

    Args:
        runs: what was read.
        arms: in order.
        models: the budgets, in order.

    Returns:
        One row for each task, budget (or ``training``) and axis: ``arms`` maps an arm to ``x``, ``mean``, ``low``,
        ``high`` and ``n``, its number of seeds.
    """
    import numpy as np

    rows = []
    there, order = {(run.task, *key) for run in runs for key in run.curves}, [*models, "training"]
    tasks, unlike = dict.fromkeys(run.task for run in runs), unlike_aims(runs)
    keys = [(t, what, axis) for t in tasks for what in order for axis in AXES if (t, what, axis) in there]
    for task, what, axis in keys:
        if task in unlike and what != "training":
            continue
        curves = {
            arm: [r.curves[what, axis] for r in runs if (r.arm, r.task) == (arm, task) and (what, axis) in r.curves]
            for arm in arms
        }
        ends = [x for found in curves.values() for xs, _ in found for x in (xs[0], xs[-1])]
        grid = np.unique(np.append(np.linspace(min(ends), max(ends), GRID), ends))
        traced = {arm: _mean_curve(found, grid) for arm, found in curves.items() if found}
        if any(trace["x"] for trace in traced.values()):
            title = (TRAINING if what == "training" else AXES)[axis]
            metric = next(run.metric if what == "training" else run.aim for run in runs if run.task == task)
            head = {"task": task, "metric": metric, "model": what, "axis": axis, "title": title}
            rows.append(head | {"arms": traced})
    return rows


def unlike_aims(runs: Sequence[RunFacts]) -> dict[str, list[str]]:
    """Return the tasks whose runs searched for different metrics, with those metrics."""
    aims: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.front or any(what != "training" for what, _ in run.curves):
            aims.setdefault(run.task, {})[run.aim] = None
    return {task: list(found) for task, found in aims.items() if len(found) > 1}


def _mean_curve(found: Sequence[tuple[list[float], list[float]]], grid: np.ndarray) -> dict[str, Any]:
    import numpy as np

    values = stats.step_curves(found, grid)
    there = ~np.isnan(values).any(0)
    mean, low, high = stats.t_interval(values[:, there])
    columns = {"x": grid[there], "mean": mean, "low": low, "high": high}
    return {key: [_plain(v) for v in column] for key, column in columns.items()} | {"n": len(found)}


def cost_axis(found: pd.DataFrame, runs: Sequence[RunFacts], absolute: Sequence[str] = ()) -> str | None:
    """Choose the cost to draw against: what the searches' budgets were of, else the first that all models have.

    Args:
        found: the compared models.
        runs: what was read.
        absolute: the costs that are compared in absolute numbers.
    """
    shared = [
        name.removesuffix("_relative")
        for name in map(str, found)
        if name.endswith("_relative") and found[axis_column(name.removesuffix("_relative"), absolute)].notna().all()
    ]
    return next((name for name in [*(run.cost for run in runs), *AXES_OF_COST] if name in shared), None)


def axis_column(cost: str, absolute: Sequence[str]) -> str:
    """Name the column of a cost that arms are compared by: its share of the teacher's, unless teachers differ.

    >>> axis_column("macs", []), axis_column("macs", ["macs"])
    ('macs_relative', 'macs')
    """
    return cost if cost in absolute else f"{cost}_relative"


def fronts(
    found: pd.DataFrame, runs: Sequence[RunFacts], arms: Sequence[str], against: str, absolute: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Compare the fronts of score and cost: hypervolume as a score of its own, and the C-metric against the reference.

    Fronts are those of the finished models over the budgets, and those of the searches' archives. The hypervolume is
    measured from the lowest score and the highest cost that any arm's front of that task has. Costs are shares of the
    full network's; if the arms' full networks differ, all arms of a task are measured by the largest of them.

    Args:
        found: the compared models.
        runs: what was read.
        arms: in order.
        against: the reference.
        absolute: the costs in which the arms' full networks differ.

    Returns:
        One row for each kind of front, as :func:`nasframe_studies.compare.tables` makes them, with ``cost``,
        ``references`` (task → point) and ``coverage``.
    """
    import pandas as pd

    from nasframe_studies.pairs import tables

    cost = cost_axis(found, runs, absolute)
    largest = _largest_networks(runs)
    kinds: dict[str, tuple[str, dict[tuple[str, str, int], Any]]] = {}
    if cost and found["slot"].nunique() > 1:
        column = axis_column(cost, absolute)
        points = {}
        for key, rows in found.groupby(["arm", "task", "seed"]):
            arm, task, seed = _key(key)
            unit = largest.get((task, cost), 1.0) if cost in absolute else 1.0
            points[arm, task, seed] = [(float(s), -float(c) / unit) for s, c in rows[["score", column]].to_numpy()]
        whole = found["slot"].nunique()
        kinds["finished models"] = cost, {k: p for k, p in points.items() if len(p) == whole}
    unlike = unlike_aims(runs)
    archives = {
        (run.arm, run.task, run.seed): _scaled_front(run, absolute, largest)
        for run in runs
        if run.front and run.task not in unlike
    }
    if archives and len({run.cost for run in runs if run.front}) == 1:
        kinds["search archive"] = next(run.cost for run in runs if run.front), archives
    made = []
    for kind, (name, fronts_of) in kinds.items():
        if not fronts_of:
            continue
        references = {
            task: [min(column) for column in zip(*(p for k, ps in fronts_of.items() if k[1] == task for p in ps))]  # noqa: B905
            for task in dict.fromkeys(key[1] for key in fronts_of)
        }
        volumes = [
            dict(zip(("arm", "task", "seed"), key, strict=True))
            | {"slot": kind, "metric": "hypervolume", "score": hypervolume(points, references[key[1]])}
            for key, points in fronts_of.items()
        ]
        for table in tables(pd.DataFrame(volumes), arms, against):
            covered = _coverage(fronts_of, arms, against, table["task"])
            made.append(table | {"cost": name, "references": references, "coverage": covered})
    return made


def _largest_networks(runs: Sequence[RunFacts]) -> dict[tuple[str, str], float]:
    """Return (task, cost) → the cost of the largest full network that any arm of the task has."""
    largest: dict[tuple[str, str], float] = {}
    for run in runs:
        for cost, value in run.full.items():
            key = run.task, cost
            largest[key] = max(value, largest.get(key, value))
    return largest


def _scaled_front(
    run: RunFacts, absolute: Sequence[str], largest: Mapping[tuple[str, str], float]
) -> list[tuple[float, ...]]:
    """Return a search's front as points to maximise: score, and negative costs in one unit for all arms of the task."""
    costs = run.cost.split(", ")
    units = [
        largest.get((run.task, cost), 1.0) if cost in absolute or cost not in run.full else run.full[cost]
        for cost in costs
    ]
    points = []
    for score, *values in run.front:
        shares = [-value / unit for value, unit in zip(values, units, strict=True)]
        points.append((score, *shares))
    return points


def _key(key: Any) -> tuple[str, str, int]:
    arm, task, seed = key
    return str(arm), str(task), int(seed)


def _coverage(fronts_of: Mapping[Any, Any], arms: Sequence[str], against: str, task: str) -> list[dict[str, Any]]:
    """Average both directions of the C-metric over the runs that an arm shares with the reference."""
    from nasframe_studies.pairs import MEAN

    rows = []
    for arm in arms:
        shared = [k for k in fronts_of if k[0] == arm and (against, *k[1:]) in fronts_of and task in (MEAN, k[1])]
        if arm != against and shared:
            # a network that answers two budgets is one point
            pairs = [(sorted(set(fronts_of[key])), sorted(set(fronts_of[against, *key[1:]]))) for key in shared]
            there, back = (sum(coverage(*way) or 0.0 for way in ways) for ways in (pairs, [p[::-1] for p in pairs]))
            rows.append({"arm": arm, "n": len(pairs), "covers": there / len(pairs), "covered": back / len(pairs)})
    return rows


def examples(
    directory: Path, found: pd.DataFrame, arms: Sequence[str], against: str, runs: Sequence[RunFacts] = ()
) -> list[dict[str, Any]]:
    """Compare saved predictions example by example, at equal task, budget and seed: McNemar and paired bootstrap.

    Two finished models are compared here, not two methods: the training's own noise is not in these intervals.
    Predictions are numbers of outputs. If the heads of two runs have the same classes in different orders, the
    reference's numbers are translated into the arm's order.

    Returns:
        One row for each pair; ``only_arm`` and ``only_reference`` count the examples that one side alone has right;
        without a p-value for real-valued predictions. ``note`` says why a pair could not be compared.
    """
    rows = []
    keys = ["task", "slot", "seed"]
    by_run = {(run.arm, run.task, run.seed): run for run in runs}
    reference = {tuple(row[k] for k in keys): row for row in found[found["arm"] == against].to_dict("records")}
    for arm in arms:
        for row in found[found["arm"] == arm].to_dict("records") if arm != against else ():
            other = reference.get(tuple(row[key] for key in keys))
            if other is not None:
                first, second = (_predictions(directory / s["run"] / "models" / s["model"]) for s in (row, other))
                if first is not None and second is not None:
                    task, seed = row["task"], int(row["seed"])
                    head = {"task": task, "model": row["slot"], "seed": seed, "arm": arm}
                    run, reference_run = by_run.get((arm, task, seed)), by_run.get((against, task, seed))
                    positive = None if run is None else positive_output(run)
                    second = _in_order(second, _labels(reference_run), _labels(run))
                    rows.append(head | {"metric": row["metric"]} | _pair(first, second, row["metric"], positive))
    return rows


def _predictions(model: Path) -> pd.DataFrame | None:
    import pandas as pd

    path = model / "predictions.csv"
    return pd.read_csv(path) if path.is_file() else None


def _labels(run: RunFacts | None) -> Sequence[str] | None:
    """Return the classes of a run's head in the order of its outputs, if the run recorded them."""
    return None if run is None else run.data.get("labels")


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
    if len(set(own)) < len(own) or sorted(own) != sorted(wanted):
        return predictions
    positions = {output: wanted.index(name) for output, name in enumerate(own)}
    columns = [name for name in ("label", "prediction") if name in predictions]
    if not predictions[columns].isin(list(positions)).all(axis=None):
        return predictions
    return predictions.assign(**{name: predictions[name].map(positions) for name in columns})


def positive_output(run: RunFacts) -> int | None:
    """Return the index of the class that a run's ``f1`` is about, if its task told."""
    positive, labels = run.formats.get("f1", {}).get("positive"), run.data.get("labels")
    return labels.index(positive) if positive is not None and labels is not None else None


def _pair(arm: pd.DataFrame, reference: pd.DataFrame, metric: str, positive: int | None = None) -> dict[str, Any]:
    """Compare two models' predictions of the same examples; ``positive`` is the class that ``f1`` is about."""
    import numpy as np

    empty = dict.fromkeys(("only_arm", "only_reference", "p", "difference", "low", "high", "note"))
    columns = {"id", "label", "prediction"}
    if not columns <= set(arm) or not columns <= set(reference):
        return empty | {"n": 0, "note": "predictions without id, label and prediction"}
    a, b = (side.sort_values("id", kind="stable") for side in (arm, reference))
    if a["id"].tolist() != b["id"].tolist() or a["label"].tolist() != b["label"].tolist():
        return empty | {"n": 0, "note": OTHER_EXAMPLES}
    labels, first, second = (np.asarray(column) for column in (a["label"], a["prediction"], b["prediction"]))
    found: dict[str, Any] = empty | {"n": len(labels)}
    if all(np.asarray(column == np.round(column)).all() for column in (labels, first, second)):
        names = ("only_arm", "only_reference", "p")
        found |= dict(zip(names, stats.mcnemar(first == labels, second == labels), strict=True))
    if metric == "f1" and positive is not None:
        labels, first, second = (np.asarray(column == positive, int) for column in (labels, first, second))
    if metric == "macro_f1" and not set(first) | set(second) <= set(labels):
        return found  # whether a class that the examples lack counts in the mean, predictions do not say
    function = metric if metric in stats.CONFUSION_METRICS and found["p"] is not None else REAL_METRICS.get(metric)
    if function is not None:
        names = ("difference", "low", "high")
        found |= dict(zip(names, stats.example_bootstrap(labels, first, second, function), strict=True))
    return found


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlate along the last axis; 0 where one side is constant, as the task's metric."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    below = (x**2).sum(-1) * (y**2).sum(-1)
    return (x * y).sum(-1) / (below + (below == 0)) ** 0.5


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return _pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def _negative_rmse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -(((x - y) ** 2).mean(-1) ** 0.5)


REAL_METRICS = {"pearson": _pearson, "spearman": _spearman, "negative_rmse": _negative_rmse}


def ledger(found: pd.DataFrame, runs: Sequence[RunFacts], arms: Sequence[str], against: str) -> list[dict[str, Any]]:
    """Average what each arm's runs cost.

    ``ratio`` is training MACs over the reference's, at the tasks and seeds where both have runs of their own;
    ``ratios`` are the same task by task.
    """
    whole = found.drop_duplicates(["arm", "task", "seed"])
    keys = list(whole[["arm", "task", "seed"]].itertuples(index=False, name=None))
    macs = dict(zip(keys, whole["training_macs"].astype(float), strict=True))
    places = dict(zip(keys, whole["run"], strict=True))
    rows = []
    for arm in arms:
        own = whole[whole["arm"] == arm]
        if own.empty:
            continue
        shared = [
            key[1:] for key in macs if key[0] == arm and places[key] != places.get((against, *key[1:]), places[key])
        ]
        ratios = {task: _ratio(macs, arm, against, [k for k in shared if k[0] == task]) for task, _ in shared}
        row: dict[str, Any] = {"arm": arm, "runs": len(own)}
        for role in ROLES:
            of_role = [run.ledger[role] for run in runs if run.arm == arm]
            row[f"{role}_macs"] = sum(of_role) / len(of_role) if of_role else None
        for column in ("training_macs", "evaluations", "run_seconds", "cached_seconds"):
            row[column] = _plain(own[column].mean()) if column in own else None
        rows.append(row | {"ratio": _ratio(macs, arm, against, shared), "ratios": ratios})
    return rows


def _ratio(macs: Mapping[Any, float], arm: str, against: str, shared: Sequence[tuple[str, int]]) -> float | None:
    reference = sum(macs[against, *key] for key in shared)
    return sum(macs[arm, *key] for key in shared) / reference if reference else None


def _plain(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
