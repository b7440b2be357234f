"""Comparing arms: which models stand against each other, the tables of their scores, and what these do not show.

:func:`analyse` turns the table of a study (:func:`nasframe.studies.study.collect`) into the plain data of
``study.json``; :func:`nasframe.studies.runs.as_study` makes such a table of runs that were not made by a study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe.studies import stats
from nasframe.studies.comparable import why_nothing

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
MEAN = "mean of tasks"


def analyse(directory: str | Path, frame: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the arms of a study with its reference.

    Args:
        directory: what the frame's ``run`` column is read from; runs that are gone leave out what only they know.
        frame: one row for each arm, task, seed and model, as :func:`nasframe.studies.study.collect` returns.
        settings: as :func:`nasframe.studies.study.settings` returns.

    Returns:
        The JSON-plain content of ``study.json``; ``docs/statistics.md`` describes the fields.

    Raises:
        UsageError: there is nothing to compare, or no arm of the reference's name.
    """
    from nasframe.studies import evidence, verdicts

    options = settings["compare"]
    found = compared(frame, options.get("models"), options.get("groups"))
    if found.empty:
        raise UsageError(why_nothing(Path(directory), settings["runs"], options))
    arms = [arm for arm in settings["arms"] if arm in set(frame["arm"])]
    against = options.get("against") or arms[0]
    if against not in settings["arms"]:
        raise UsageError(
            f"--against: no arm {against!r}. Expected one of {listing(settings['arms'])}."
            + suggestion(against, settings["arms"])
        )
    tasks, metrics = list(dict.fromkeys(found["task"])), list(dict.fromkeys(found["metric"]))
    runs = evidence.read_runs(Path(directory), found, settings)
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
        "cost": evidence.cost_axis(found, runs),
        "confidence": stats.CONFIDENCE,
        "alpha": stats.ALPHA,
        "power": stats.POWER,
        "resamples": stats.RESAMPLES,
        "tables": tables(found, arms, against),
        "teachers": teachers(frame[frame["metric"].isin(metrics)], arms, tasks),
    }
    report["fronts"] = evidence.fronts(found, runs, arms, against)
    report["anytime"] = evidence.anytime(runs, arms, report["models"])
    report["examples"] = evidence.examples(Path(directory), found, arms, against)
    report["ledger"] = evidence.ledger(found, runs, arms, against)
    report["missing"] = _missing(Path(directory), settings, frame)
    report["notes"] = [*settings.get("notes", ()), *map(_aims, evidence.unlike_aims(runs).items())]
    return report | verdicts.verdicts(report)


def compared(
    frame: pd.DataFrame,
    models: str | Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Keep the models that stand against each other and say in ``slot`` which do: those of one budget.

    For each budget that is a model made from a winner where there is one (``tuned@50%``), else the winner, else the
    baseline; beside them winners without a budget. Runs without either are compared by all models but the teacher.

    Args:
        frame: as :func:`nasframe.studies.study.collect` returns.
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


def tables(found: pd.DataFrame, arms: Sequence[str], against: str) -> list[dict[str, Any]]:
    """Make one table for each task (and for their mean) and each slot; Holm over the comparisons of a task.

    The mean is over the tasks that have the slot, where these are several.

    Args:
        found: rows with ``arm``, ``task``, ``seed``, ``slot``, ``metric``, ``score``, and costs.
        arms: in order.
        against: the reference.
    """
    made = []
    names = list(dict.fromkeys(found["task"]))
    for task in [*([MEAN] if len(names) > 1 else []), *names]:
        rows = found if task == MEAN else found[found["task"] == task]
        metrics = list(dict.fromkeys(rows["metric"]))
        view = []
        for slot in dict.fromkeys(rows["slot"]):
            part = rows[rows["slot"] == slot]
            over = list(dict.fromkeys(part["task"]))
            scores = _by_seed(part, len(over))
            if task == MEAN and (len(over) == 1 or not {against} < set(scores)):
                continue  # nothing was measured on all tasks that could be compared
            head = {"task": task, "tasks": over, "model": slot, "metric": ", ".join(metrics)}
            view.append(head | _table(scores, part, [arm for arm in arms if arm in scores], against))
        comparisons = [row for table in view for row in table["comparisons"]]
        for kind in ("p_t", "p_wilcoxon"):
            adjusted = stats.holm([row[kind] if row["n"] > 1 else None for row in comparisons])
            for row, p in zip(comparisons, adjusted, strict=True):
                row[f"{kind}_holm"] = p
        for row in comparisons:
            row |= {"verdict": _verdict(row), "more_seeds": _more(row)}
        for table in view:
            table["family"] = sum(row["p_t"] is not None for row in comparisons)
        made += view
    return made


def teachers(frame: pd.DataFrame, arms: Sequence[str], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Average the scores of the teachers: the full networks that the arms' runs begin with.

    Args:
        frame: as :func:`nasframe.studies.study.collect` returns.
        arms: in order.
        tasks: in order; those of several are averaged within a seed first.
    """
    rows, made = frame[frame["role"] == "teacher"], []
    for task in [*([MEAN] if len(tasks) > 1 else []), *tasks]:
        scores = _by_seed(rows if task == MEAN else rows[rows["task"] == task], len(tasks) if task == MEAN else 1)
        for arm in arms:
            if scores.get(arm):
                own = asdict(stats.summary(list(scores[arm].values())))
                made.append({"task": task, "arm": arm} | {key: own[key] for key in ("n", "mean", "sd")})
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
    scores: Mapping[str, Mapping[int, float]], rows: pd.DataFrame, arms: Sequence[str], against: str
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
        costs = rows[rows["arm"] == arm].select_dtypes("number").mean()
        shown = {key: float(costs[key]) for key in _costs(rows) if key in costs and costs[key] == costs[key]}
        values = {str(seed): scores[arm][seed] for seed in seeds}
        described.append({"arm": arm} | own | {"rank": rank, "scores": values, "costs": shown})
        common = [seed for seed in seeds if seed in scores.get(against, ())]
        if arm != against and common:
            mine, other = ([scores[side][seed] for seed in common] for side in (arm, against))
            pair = asdict(stats.paired(mine, other))
            lost = sorted(set(seeds) ^ set(scores[against]))
            comparisons.append({"arm": arm, "seeds": common, "left_out": lost} | pair)
    return {"arms": described, "ranked_seeds": complete, "comparisons": comparisons}


def _costs(rows: pd.DataFrame) -> list[str]:
    """Name the costs of a frame: what has a share of the teacher's, and the shares."""
    names = [name.removesuffix("_relative") for name in rows.columns if name.endswith("_relative")]
    return [column for name in names for column in (name, f"{name}_relative")]


def _aims(unlike: tuple[str, Sequence[str]]) -> str:
    task, aims = unlike
    return f"{task}: the searches aimed at {' and '.join(aims)}, so their curves and fronts are not set side by side."


def _missing(directory: Path, settings: Mapping[str, Any], frame: pd.DataFrame) -> list[dict[str, Any]]:
    """List the runs without results, and where each stopped."""
    from nasframe.reports.gather import gather
    from nasframe.studies import study

    lost = []
    for run in study.missing(settings, frame):
        why = "not started"
        if (directory / run["run"] / "run.db").is_file():
            stages = gather(directory / run["run"])["stages"]
            stopped = next((stage for stage in stages if stage["state"] != "done"), None)
            done = "no score of this metric" if study.finished(directory / run["run"]) else "not finished"
            why = f"{'failed' if stopped['state'] == 'failed' else 'stopped'} in {stopped['name']}" if stopped else done
        lost.append({key: run[key] for key in ("arm", "task", "seed", "run")} | {"why": why})
    return lost
