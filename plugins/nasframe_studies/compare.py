"""Compares the arms of a study: which models stand against each other, and the record of all that follows.

:func:`analyse` turns the table of a study (:func:`nasframe_studies.study.collect`) into a
:class:`~nasframe_studies.records.Comparison`; :func:`nasframe_studies.runs.as_study` makes such a table of runs that
no study made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasframe.declarations import matching
from nasframe.errors import UsageError, listing, suggestion
from nasframe.records import MetricFormat
from nasframe.report.format import merged
from nasframe_studies import conditions, evidence, findings, processors, run_facts, stats
from nasframe_studies.missing import missing_runs, why_nothing
from nasframe_studies.pairs import (
    MEAN,
    MORE_IS_BETTER,
    Directions,
    adjust,
    agree,
    companions_of,
    group_of,
    scores_by_seed,
    tables,
    views,
)
from nasframe_studies.recommend import recommendations
from nasframe_studies.records import Comparison, FrontTable, TeacherScores
from nasframe_studies.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from nasframe_studies.run_facts import RunFacts

RUN = ["arm", "task", "seed"]
"""The columns that name a run."""
PRECEDENCE = {"model": 0, "winner": 1, "baseline": 2, "teacher": 3}
"""Role → place in the order of which model of a budget is compared: one trained on from a winner first."""


def analyse(directory: str | Path, frame: pd.DataFrame, settings: Settings | Mapping[str, Any]) -> Comparison:
    """Compare the arms of a study with its reference.

    Args:
        directory: what the frame's ``run`` column is read from. If a run's directory is gone, what only it knows is
            left out.
        frame: one row for each arm, task, seed and model, as :func:`nasframe_studies.study.collect` returns.
        settings: as :func:`nasframe_studies.study.settings` returns, or the same as plain data.

    Raises:
        UsageError: there is nothing to compare, no arm has the reference's name, or the scores are of metrics that
            cannot be compared.
    """
    home = Path(directory)
    study = Settings.of(settings)
    rows = _select(home, frame, study)
    models = rows.compared
    # In the order of the study; arms of which no run is finished have no place in the tables.
    with_results = set(frame["arm"])
    arms = [arm for arm in study.arms if arm in with_results]
    against = study.compare.against or arms[0]
    # An arm of the study that has no results may be the reference: the others are then described, not compared.
    if against not in study.arms:
        hint = suggestion(against, study.arms)
        raise UsageError(f"--against: no arm {against!r}. Expected one of {listing(study.arms)}.{hint}")
    tasks = list(dict.fromkeys(models["task"]))
    budgets = list(dict.fromkeys(models["slot"]))

    runs = run_facts.read_runs(home, models)
    conditions.check_directions(runs)
    formats = _formats(runs)
    directions = conditions.directions_of(models, formats)
    metrics = list(dict.fromkeys(models["metric"]))
    metric = ", ".join(metrics)
    if len(metrics) > 1 and agree(tasks, directions):  # tasks differ in it, as in GLUE
        metric = f"mean of {metric}"
    unlike = conditions.unlike_costs(models)  # shares of different networks are not comparable
    absolute = conditions.absolute_costs(unlike)
    score_tables = tables(models, arms, against, absolute, directions)
    front_tables = evidence.fronts(models, runs, arms, against, absolute, directions)
    # Scores and fronts together, since the family may be the page.
    adjusted = adjust([*score_tables, *front_tables], study.compare.family)
    score_tables = [table for table in adjusted if not isinstance(table, FrontTable)]
    front_tables = [table for table in adjusted if isinstance(table, FrontTable)]
    examples = evidence.examples(home, models, arms, against, runs, study.compare.split)
    ledger = evidence.ledger(models, runs, arms, against)

    comparison = Comparison(
        name=study.study,
        description=study.description,
        metric=metric,
        split=study.compare.split,
        against=against,
        arms=arms,
        tasks=tasks,
        seeds=sorted(set(frame["seed"].tolist())),
        models=budgets,
        cost=evidence.cost_axis(models, runs, absolute),
        absolute=absolute,
        confidence=stats.CONFIDENCE,
        alpha=stats.ALPHA,
        power=stats.POWER,
        resamples=stats.RESAMPLES,
        formats=formats,
        tables=score_tables,
        teachers=teachers(rows.teachers, arms, tasks, directions),
        fronts=front_tables,
        anytime=evidence.anytime(runs, arms, budgets),
        examples=examples,
        ledger=ledger,
        family=study.compare.family,
        missing=missing_runs(home, study, frame),
        notices=conditions.notices(home, study),
        notes=[],
        equal_macs=findings.equal_macs(ledger, against),
        cost_formats=run_facts.cost_formats(runs),
        processors=processors.processors(runs),
    )
    # The sentences are last: they are worded from the rest of the record.
    limits = [*findings.limits(comparison), *conditions.network_notes(models)]
    recommended = recommendations(comparison, models, rows.teachers)
    notes = list(_notes(comparison, rows, runs, unlike, study))
    if recommended.note is not None:
        notes.append(recommended.note)
    return replace(
        comparison,
        notes=notes,
        findings=list(findings.findings(comparison)),
        shipped=recommended.shipped,
        limits=limits,
    )


@dataclass(frozen=True)
class _Rows:
    """The rows of a study's table that a comparison is made of.

    Args:
        compared: the compared models, with ``slot``.
        teachers: the teachers whose scores are of the compared metrics.
        invalid: those of either whose scores are no finite numbers; they are in neither.
    """

    compared: pd.DataFrame
    teachers: pd.DataFrame
    invalid: pd.DataFrame


def _select(directory: Path, frame: pd.DataFrame, study: Settings) -> _Rows:
    """Select the rows to compare.

    Raises:
        UsageError: there are none, or the scores of one task are of different metrics.
    """
    import pandas as pd

    models = compared(frame, study.compare.models, study.compare.groups)
    if models.empty:
        raise UsageError(why_nothing(directory, study.runs, study.compare))
    conditions.check_metrics(models)
    is_teacher = frame["role"] == "teacher"
    has_metric = frame["metric"].isin(set(models["metric"]))
    full = frame[is_teacher & has_metric]
    # A score that is not finite would make every mean and test of its arm so.
    usable = np.isfinite(models["score"].astype(float))
    usable_teachers = np.isfinite(full["score"].astype(float))
    invalid = pd.concat([models[~usable], full[~usable_teachers]])
    if not usable.any():
        reasons = " ".join(conditions.number_notes(invalid))
        raise UsageError(f"nothing to compare: no score is a finite number. {reasons}")
    return _Rows(
        compared=models[usable].reset_index(drop=True),
        teachers=full[usable_teachers],
        invalid=invalid,
    )


def _formats(runs: Sequence[RunFacts]) -> dict[str, dict[str, MetricFormat]]:
    """Return task → metric → how it reads in all of the task's runs."""
    forms_of: dict[str, dict[str, list[MetricFormat]]] = {}
    for run in runs:
        of_task = forms_of.setdefault(run.task, {})
        for name, form in run.formats.items():
            of_task.setdefault(name, []).append(form)
    # Arms may give a task other options, and these may change how a metric reads: of which class it is, say.
    formats: dict[str, dict[str, MetricFormat]] = {}
    for task, metrics in forms_of.items():
        if metrics:
            formats[task] = {name: merged(forms) for name, forms in metrics.items()}
    return formats


def _notes(
    comparison: Comparison,
    rows: _Rows,
    runs: Sequence[RunFacts],
    unlike: Sequence[conditions.UnlikeCost],
    study: Settings,
) -> Iterator[str]:
    """Word the warnings of a comparison, in the order of the page."""
    models = rows.compared
    metrics = list(dict.fromkeys(models["metric"]))
    # From what makes numbers incomparable to what only explains them.
    yield from study.notes
    yield from conditions.direction_notes(models, conditions.directions_of(models, comparison.formats))
    yield from conditions.teacher_notes(unlike, models, comparison.cost_format)
    yield from conditions.budget_notes(runs, models)
    yield from conditions.over_budget_notes(models)
    yield from conditions.data_notes(runs, comparison.split, metrics)
    yield from conditions.example_notes(comparison.examples, comparison.against)
    yield from processors.notes(comparison.processors)
    yield from conditions.condition_notes(runs)
    yield from conditions.number_notes(rows.invalid)
    yield from conditions.group_notes(models, study.compare.groups or {})
    yield from conditions.aim_notes(evidence.unlike_aims(runs))


def compared(
    frame: pd.DataFrame,
    models: str | Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Return the models that stand against each other, with ``slot``: those of one slot are compared.

    For each budget of a run that is the model that was made from a winner if there is one (``tuned@50%``), else the
    winner, else the baseline; winners without a budget are compared as well. Runs without any of these are compared by
    all their models but the teacher.

    Args:
        frame: as :func:`nasframe_studies.study.collect` returns.
        models: patterns of names, to choose otherwise.
        groups: name → patterns of tasks, whose models stand against each other under that name, whatever theirs is.
    """
    if frame.empty:
        return frame.assign(slot=[])
    if models:
        patterns = [models] if isinstance(models, str) else models
        names = matching(set(frame["model"]), patterns)
        chosen = frame[frame["model"].isin(names)].copy()
    else:
        chosen = frame[_best_of_budgets(frame)].copy()
    # The slot is the task's group, else the budget, else the model's name.
    slot = chosen["task"].map(lambda task: group_of(task, groups or {}))
    slot = slot.fillna(chosen["budget"])
    slot = slot.fillna(chosen["model"])
    run = [chosen[key] for key in RUN]
    # Several models of a run under one slot would be averaged: each keeps its own name instead.
    several = slot.groupby([*run, slot]).transform("size") > 1
    slot = slot.where(~several, chosen["model"])
    return chosen.assign(slot=slot).reset_index(drop=True)


def _best_of_budgets(frame: pd.DataFrame) -> pd.Series:
    """Tell of each row whether its model is compared if nothing else was chosen."""
    run = [frame[key] for key in RUN]
    has_budget = frame["budget"].notna()
    budget = frame["budget"].fillna("")  # groupby would leave rows without a budget out
    rank = frame["role"].map(PRECEDENCE)
    best = rank == rank.groupby([*run, budget]).transform("min")
    searched = best & (has_budget | (frame["role"] == "winner"))
    # A run that only trains is compared by its models, and by its teacher if it has nothing else: then the
    # teacher is what the run is about.
    without_search = ~searched.groupby(run).transform("any")
    one_role = frame["role"].groupby(run).transform("nunique") == 1
    others = without_search & ((frame["role"] != "teacher") | one_role)
    return searched | others


def teachers(
    frame: pd.DataFrame, arms: Sequence[str], tasks: Sequence[str], directions: Directions = MORE_IS_BETTER
) -> list[TeacherScores]:
    """Average the scores of the teachers: the full networks that the arms' runs begin with.

    Args:
        frame: as :func:`nasframe_studies.study.collect` returns.
        arms: in order.
        tasks: in order; those of several are averaged within a seed first.
        directions: of the scores; those of different directions are not averaged.
    """
    described = []
    for task, rows in views(frame[frame["role"] == "teacher"], tasks, directions):
        covered = len(tasks) if task == MEAN else 1
        scores = scores_by_seed(rows, covered)
        for arm in arms:
            if arm not in scores:  # it begins with no teacher, or no seed has one on every task
                continue
            summary = stats.summary(list(scores[arm].values()))
            teacher = TeacherScores(
                task=task,
                arm=arm,
                n=summary.n,
                mean=summary.mean,
                sd=summary.sd,
                beside=companions_of(rows[rows["arm"] == arm]),
            )
            described.append(teacher)
    return described
