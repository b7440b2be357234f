"""Comparing arms: which models stand against each other, the tables of their scores, and what these do not show.

:func:`analyse` turns the table of a study (:func:`nasframe_studies.study.collect`) into the plain data of
``study.json``; :func:`nasframe_studies.runs.as_study` makes such a table of runs that were not made by a study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.errors import UsageError, listing, suggestion
from nasframe.records import MetricFormat, canonical_json
from nasframe.report.format import BESIDE, merged
from nasframe_studies import conditions, stats
from nasframe_studies.checks import why_nothing
from nasframe_studies.missing import missing_runs

if TYPE_CHECKING:
    import pandas as pd

    from nasframe_studies.evidence import RunFacts

FORMAT_VERSION = 1
MEAN = "mean of tasks"


def analyse(directory: str | Path, frame: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the arms of a study with its reference.

    Args:
        directory: what the frame's ``run`` column is read from; runs that are gone leave out what only they know.
        frame: one row for each arm, task, seed and model, as :func:`nasframe_studies.study.collect` returns.
        settings: as :func:`nasframe_studies.study.settings` returns.

    Returns:
        The JSON-plain content of ``study.json``; ``docs/statistics.md`` describes the fields.

    Raises:
        UsageError: there is nothing to compare, or no arm of the reference's name.
    """
    import pandas as pd

    from nasframe_studies import evidence
    from nasframe_studies import findings as verdicts

    options = settings["compare"]
    found = compared(frame, options.get("models"), options.get("groups"))
    if found.empty:
        raise UsageError(why_nothing(Path(directory), settings["runs"], options))
    conditions.check_metrics(found, options)
    whole = frame[(frame["role"] == "teacher") & frame["metric"].isin(set(found["metric"]))]
    finite_teachers = np.isfinite(whole["score"].astype(float))
    usable = np.isfinite(found["score"].astype(float))
    invalid = pd.concat([found[~usable], whole[~finite_teachers]])
    found, whole = found[usable].reset_index(drop=True), whole[finite_teachers]
    if found.empty:
        raise UsageError(f"nothing to compare: no score is a finite number. {' '.join(map(_invalid, _rows(invalid)))}")
    arms = [arm for arm in settings["arms"] if arm in set(frame["arm"])]
    against = options.get("against") or arms[0]
    if against not in settings["arms"]:
        raise UsageError(
            f"--against: no arm {against!r}. Expected one of {listing(settings['arms'])}."
            + suggestion(against, settings["arms"])
        )
    tasks, metrics = list(dict.fromkeys(found["task"])), list(dict.fromkeys(found["metric"]))
    runs = evidence.read_runs(Path(directory), found, settings)
    formats = _formats(runs)
    conditions.check_directions(found, formats)
    unlike = conditions.unlike_costs(found)
    absolute = conditions.absolute_costs(unlike)
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": settings["study"],
        "description": settings.get("description") or "",
        "metric": metrics[0] if len(metrics) == 1 else f"mean of {', '.join(metrics)}",
        "split": options.get("split", "dev"),
        "against": against,
        "arms": arms,
        "tasks": tasks,
        "seeds": sorted(set(frame["seed"].tolist())),
        "models": list(dict.fromkeys(found["slot"])),
        "cost": evidence.cost_axis(found, runs, absolute),
        "absolute": absolute,
        "confidence": stats.CONFIDENCE,
        "alpha": stats.ALPHA,
        "power": stats.POWER,
        "resamples": stats.RESAMPLES,
        "formats": formats,
        "tables": tables(found, arms, against, absolute),
        "teachers": teachers(whole, arms, tasks),
    }
    report["fronts"] = evidence.fronts(found, runs, arms, against, absolute)
    report["anytime"] = evidence.anytime(runs, arms, report["models"])
    report["examples"] = evidence.examples(Path(directory), found, arms, against, runs)
    report["ledger"] = evidence.ledger(found, runs, arms, against)
    report["family"] = options.get("family") or "task"
    adjust(families(report["tables"], report["fronts"], report["family"]))
    report["missing"] = missing_runs(Path(directory), settings, frame)
    report["notices"] = conditions.notices(directory, settings)
    report["notes"] = [
        *settings.get("notes", ()),
        *conditions.teacher_notes(unlike, found),
        *conditions.budget_notes(runs, found),
        *conditions.over_budget_notes(found),
        *conditions.data_notes(runs, report["split"], metrics),
        *conditions.example_notes(report["examples"], against),
        *conditions.condition_notes(runs),
        *map(_invalid, _rows(invalid)),
        *conditions.group_notes(found, options.get("groups") or {}),
        *map(_aims, evidence.unlike_aims(runs).items()),
    ]
    report |= verdicts.verdicts(report)
    report["limits"] += conditions.network_notes(found)
    return report


def _formats(runs: Sequence[RunFacts]) -> dict[str, dict[str, Any]]:
    """Return task → metric → how it reads in all of the task's runs."""
    forms: dict[str, dict[str, list[MetricFormat]]] = {}
    for run in runs:
        for name, form in run.formats.items():
            forms.setdefault(run.task, {}).setdefault(name, []).append(MetricFormat(**form))
    return {task: {name: asdict(merged(every)) for name, every in metrics.items()} for task, metrics in forms.items()}


def compared(
    frame: pd.DataFrame,
    models: str | Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Keep the models that stand against each other and say in ``slot`` which do: those of one budget.

    For each budget that is a model made from a winner where there is one (``tuned@50%``), else the winner, else the
    baseline; beside them winners without a budget. Runs without either are compared by all models but the teacher.

    Args:
        frame: as :func:`nasframe_studies.study.collect` returns.
        models: patterns of names, to choose otherwise.
        groups: name → patterns of tasks, whose models stand against each other under that name, whatever theirs is.
    """
    run = ["arm", "task", "seed"]
    if frame.empty:
        return frame.assign(slot=[])
    if models:
        patterns = [models] if isinstance(models, str) else models
        found = frame[[any(fnmatch(name, pattern) for pattern in patterns) for name in frame["model"]]].copy()
    else:
        order = {"model": 0, "winner": 1, "baseline": 2, "teacher": 3}
        rank, of_run = frame["role"].map(order), [frame[key] for key in run]
        best = rank == rank.groupby([*of_run, frame["budget"].fillna("")]).transform("min")
        stands = best & (frame["budget"].notna() | (frame["role"] == "winner"))
        others = ~stands.groupby(of_run).transform("any")
        alone = frame["role"].groupby(of_run).transform("nunique") == 1
        found = frame[stands | (others & ((frame["role"] != "teacher") | alone))].copy()
    slot = found["task"].map(lambda task: group_of(task, groups or {}))
    slot = slot.fillna(found["budget"]).fillna(found["model"])
    twice = slot.groupby([found[key] for key in run] + [slot]).transform("size") > 1
    return found.assign(slot=slot.where(~twice, found["model"])).reset_index(drop=True)


def group_of(task: str, groups: Mapping[str, Sequence[str]]) -> str | None:
    """Name the group of a task.

    >>> group_of("mrpc-50%", {"half": ["*-50%"], "quarter": ["*-25%"]})
    'half'
    """
    return next((name for name, patterns in groups.items() if any(fnmatch(task, p) for p in patterns)), None)


def tables(
    found: pd.DataFrame, arms: Sequence[str], against: str, absolute: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Make one table for each task (and for their mean) and each slot; :func:`adjust` adds Holm's adjustment.

    The mean is over the tasks that have the slot, where these are several.

    Args:
        found: rows with ``arm``, ``task``, ``seed``, ``slot``, ``metric``, ``score``, and costs.
        arms: in order.
        against: the reference.
        absolute: costs whose shares are left out, since they are of different networks.
    """
    made = []
    names = list(dict.fromkeys(found["task"]))
    for task in [*([MEAN] if len(names) > 1 else []), *names]:
        rows = found if task == MEAN else found[found["task"] == task]
        metrics = list(dict.fromkeys(rows["metric"]))
        for slot in dict.fromkeys(rows["slot"]):
            part = rows[rows["slot"] == slot]
            over = list(dict.fromkeys(part["task"]))
            scores = _by_seed(part, len(over))
            if task == MEAN and (len(over) == 1 or not {against} < set(scores)):
                continue  # nothing was measured on all tasks that could be compared
            head = {"task": task, "tasks": over, "model": slot, "metric": ", ".join(metrics)}
            made.append(head | _table(scores, part, [arm for arm in arms if arm in scores], against, absolute))
    return made


def families(
    scores: Sequence[dict[str, Any]], fronts: Sequence[dict[str, Any]], family: str
) -> list[list[dict[str, Any]]]:
    """Group the tables of a page by what Holm's adjustment counts together.

    Args:
        scores: the tables of scores.
        fronts: the tables of hypervolumes.
        family: one of :data:`nasframe_studies.file.FAMILIES`.
    """
    if family == "page":
        return [[*scores, *fronts]]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for table in scores:
        groups.setdefault(("scores", table["task"]), []).append(table)
    for table in fronts:
        groups.setdefault((table["model"], table["task"]), []).append(table)
    return list(groups.values())


def adjust(groups: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Adjust the p-values of each group of tables by Holm's method, and set the verdicts that rest on them.

    If the same networks answer two budgets of a task on both sides, there is one test, which counts once: the later
    budget names the first as ``same_as``.

    Args:
        groups: tables as :func:`tables` makes them; each group is one family of comparisons.
    """
    for group in groups:
        comparisons, copies = _tests(group)
        for kind in ("p_t", "p_wilcoxon"):
            adjusted = stats.holm([row[kind] if row["n"] > 1 else None for row in comparisons])
            for row, p in zip(comparisons, adjusted, strict=True):
                row[f"{kind}_holm"] = p
        for copy, first in copies:
            copy |= {kind: first[kind] for kind in ("p_t_holm", "p_wilcoxon_holm")}
        for row in [*comparisons, *(copy for copy, _ in copies)]:
            row |= {"verdict": _verdict(row), "more_seeds": _more(row)}
        size = sum(row["p_t"] is not None for row in comparisons)
        for table in group:
            table["family"] = size


def _tests(group: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Split the comparisons of a family into those that are tests of their own, and repetitions with their first.

    A comparison repeats an earlier one of its task and arm if it is of the same networks, under another budget.
    """
    tests: list[dict[str, Any]] = []
    copies: list[tuple[dict[str, Any], dict[str, Any]]] = []
    firsts: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {}
    for table in group:
        for row in table["comparisons"]:
            networks = row.pop("networks", None)
            row["same_as"] = None
            if networks is None:
                tests.append(row)
                continue
            model, first = firsts.setdefault((table["task"], row["arm"], networks), (table["model"], row))
            if first is row:
                tests.append(row)
            else:
                row["same_as"] = model
                copies.append((row, first))
    return tests, copies


def teachers(frame: pd.DataFrame, arms: Sequence[str], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Average the scores of the teachers: the full networks that the arms' runs begin with.

    Args:
        frame: as :func:`nasframe_studies.study.collect` returns.
        arms: in order.
        tasks: in order; those of several are averaged within a seed first.
    """
    rows, made = frame[frame["role"] == "teacher"], []
    for task in [*([MEAN] if len(tasks) > 1 else []), *tasks]:
        part = rows if task == MEAN else rows[rows["task"] == task]
        scores = _by_seed(part, len(tasks) if task == MEAN else 1)
        for arm in arms:
            if scores.get(arm):
                own = asdict(stats.summary(list(scores[arm].values())))
                beside = _beside(part[part["arm"] == arm])
                made.append({"task": task, "arm": arm} | {key: own[key] for key in ("n", "mean", "sd")} | beside)
    return made


def _verdict(row: Mapping[str, Any]) -> str:
    """Say what the paired t test after Holm's adjustment leaves to say."""
    if row["n"] == 1:
        return "one seed"
    if row["p_t"] is None:
        return "no spread"
    if row["p_t_holm"] < stats.ALPHA:
        return "higher" if row["mean"] > 0 else "lower"
    return "not after Holm" if row["p_t"] < stats.ALPHA else "not resolved"


def _more(row: Mapping[str, Any]) -> int | None:
    """Return how many more seeds would resolve a difference of the size found."""
    return None if row["seeds_needed"] is None else max(0, row["seeds_needed"] - row["n"])


def _by_seed(rows: pd.DataFrame, tasks: int) -> dict[str, dict[int, float]]:
    """Return arm → seed → score, tasks averaged; a seed that lacks a task is left out."""
    scores: dict[str, dict[int, float]] = {}
    for arm, own in rows.groupby("arm", sort=False):
        for seed in sorted(set(own["seed"].tolist())):
            part = own[own["seed"] == seed]
            if part["task"].nunique() == tasks and part["score"].notna().all():
                scores.setdefault(str(arm), {})[seed] = float(part["score"].mean())
    return scores


def _table(
    scores: Mapping[str, Mapping[int, float]],
    rows: pd.DataFrame,
    arms: Sequence[str],
    against: str,
    absolute: Sequence[str],
) -> dict[str, Any]:
    """Describe each arm and compare it with the reference on the seeds that both have."""
    complete = sorted(set.intersection(*(set(scores[arm]) for arm in arms))) if arms else []
    ranks: list[float | None] = [None] * len(arms)
    if complete and len(arms) > 1:
        ranks = stats.mean_ranks([[scores[arm][seed] for arm in arms] for seed in complete]).tolist()
    described, comparisons = [], []
    for arm, rank in zip(arms, ranks, strict=True):
        seeds = sorted(scores[arm])
        own = asdict(stats.summary([scores[arm][seed] for seed in seeds]))
        mine = rows[rows["arm"] == arm]
        costs = mine.select_dtypes("number").mean()
        shares = [f"{cost}_relative" for cost in absolute]
        names = [name for name in _costs(rows) if name in costs and name not in shares]
        shown = {name: float(costs[name]) for name in names if np.isfinite(costs[name])}
        values = {str(seed): scores[arm][seed] for seed in seeds}
        row = {"rank": rank, "scores": values, "costs": shown, "over_budget": _over_budget(mine)}
        described.append({"arm": arm} | own | row | _beside(mine))
        common = [seed for seed in seeds if seed in scores.get(against, ())]
        if arm != against and common:
            first, second = ([scores[side][seed] for seed in common] for side in (arm, against))
            pair = asdict(stats.paired(first, second))
            lost = sorted(set(seeds) ^ set(scores[against]))
            networks = _networks(rows, (arm, against), common)
            comparisons.append({"arm": arm, "seeds": common, "left_out": lost, "networks": networks} | pair)
    return {"arms": described, "ranked_seeds": complete, "comparisons": comparisons}


def _networks(rows: pd.DataFrame, sides: Sequence[str], seeds: Sequence[int]) -> str | None:
    """Digest which networks a comparison is of; ``None`` if some of them cannot be told from others."""
    if "network" not in rows:
        return None
    part = rows[rows["arm"].isin(sides) & rows["seed"].isin(seeds)]
    if part["network"].isna().any():
        return None
    return canonical_json(sorted(part[["arm", "task", "seed", "network"]].values.tolist()))


def _over_budget(rows: pd.DataFrame) -> list[int]:
    """Return the seeds at which a model is over its budget by its final costs."""
    if "over_budget" not in rows:
        return []
    return sorted(set(rows.loc[rows["over_budget"].notna(), "seed"].tolist()))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _invalid(row: Mapping[str, Any]) -> str:
    """Say that a score is no number."""
    return (
        f"NO NUMBER: {row['metric']} of {row['model']} is {row['score']} in {row['arm']} on {row['task']}, seed"
        f" {row['seed']}; left out."
    )


def _beside(rows: pd.DataFrame) -> dict[str, Any]:
    """Average the metrics that stand beside the compared one, if all rows have them."""
    names = [name for name in map(str, rows) if name.startswith(BESIDE) and rows[name].notna().all()]
    if not names or rows["task"].nunique() > 1:
        return {}
    averages = {}
    for name in names:
        own = asdict(stats.summary(rows[name].tolist()))
        averages[name.removeprefix(BESIDE)] = {key: own[key] for key in ("mean", "sd")}
    return {"beside": averages}


def _costs(rows: pd.DataFrame) -> list[str]:
    """Name the costs of a frame: what has a share of the teacher's, and the shares."""
    names = [name.removesuffix("_relative") for name in rows.columns if name.endswith("_relative")]
    return [column for name in names for column in (name, f"{name}_relative")]


def _aims(unlike: tuple[str, Sequence[str]]) -> str:
    task, aims = unlike
    return f"{task}: the searches aimed at {' and '.join(aims)}, so their curves and fronts are not set side by side."
