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
from nasframe.records import MetricFormat
from nasframe.report.format import merged
from nasframe_studies import conditions, stats
from nasframe_studies.missing import missing_runs, why_nothing
from nasframe_studies.pairs import (
    MEAN,
    adjust,
    companions_of,
    families,
    group_of,
    invalid_network,
    scores_by_seed,
    tables,
)

if TYPE_CHECKING:
    import pandas as pd

    from nasframe_studies.run_facts import RunFacts

FORMAT_VERSION = 1


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
        raise UsageError(
            f"nothing to compare: no score is a finite number. {' '.join(map(invalid_network, _rows(invalid)))}"
        )
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
        *map(invalid_network, _rows(invalid)),
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
        scores = scores_by_seed(part, len(tasks) if task == MEAN else 1)
        for arm in arms:
            if scores.get(arm):
                own = asdict(stats.summary(list(scores[arm].values())))
                beside = companions_of(part[part["arm"] == arm])
                made.append({"task": task, "arm": arm} | {key: own[key] for key in ("n", "mean", "sd")} | beside)
    return made


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _aims(unlike: tuple[str, Sequence[str]]) -> str:
    task, aims = unlike
    return f"{task}: the searches aimed at {' and '.join(aims)}, so their curves and fronts are not set side by side."
