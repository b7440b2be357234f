"""The table of a study's results: a row for each measured model of each finished run.

:func:`collect` reads it from a study's directory, :func:`frame_of` from any runs, :func:`run_rows` from one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.records import arch_id
from nasframe.report.read import finished
from nasframe.store import RunStore, StageRecord
from nasframe_studies.settings import CompareOptions, StudyRun, settings

if TYPE_CHECKING:
    import pandas as pd

FACTS = (
    "arm", "task", "seed", "run", "model", "role", "budget", "network", "over_budget", "metric", "score",
    "select_score", "training_macs", "training_and_search_macs", "evaluations", "run_seconds", "cached_seconds",
    "cached_stages",
)  # fmt: skip
"""Columns that every table of a study has; costs follow, by name, and ``<cost>_relative``."""


def collect(directory: str | Path) -> pd.DataFrame:
    """Return the finished runs of a study as one table: a row for each arm, task, seed and model.

    ============================  =========================================================================
    ``arm, task, seed``           the run; ``task`` is a name of ``tasks:``, else the name of the recipe's task
    ``run``                       its directory, relative to the study's
    ``model, role, budget``       as in the run's report; roles: ``teacher``, ``winner``, ``model``, ``baseline``
    ``network``                   equal for models of a run that are one network: one architecture, equal scores
    ``over_budget``               the final costs by which the model is over its budget, or nothing
    ``metric, score``             the compared metric on the compared split
    ``select_score``              the compared metric on ``select``, else the score in the search that found it, if
                                  that is of the same metric; as a number to maximise: negative if less is better
    ``beside.<metric>``           a metric that every table shows with the score, as MNLI's ``accuracy_mismatched``
    ``<cost>``                    ``encoder_params``, ``params``, ``macs``, ``size``, ``latency`` … as evaluated
    ``<cost>_relative``           the same as a share of the teacher's
    ``latency_cached``            1 if the latency was measured in another run
    ``training_macs``             of the whole run, from its ledger; stages from the cache count in full
    ``training_and_search_macs``  the same with what its searches cost; evaluations that only report do not count
    ``evaluations``               sub-networks that its searches evaluated
    ``run_seconds``               spent in this run; ``cached_seconds``: spent elsewhere on its cached stages
    ``cached_stages``             names of the stages that came from the cache, separated by spaces
    ============================  =========================================================================

    Args:
        directory: the study's directory, as ``nasframe ablate`` made it.

    Returns:
        The table, with arms, tasks and seeds in the order of the study. A run that failed or is not finished has no
        rows: compare with ``runs`` of :func:`nasframe_studies.settings.settings`. The columns that :func:`volatile`
        names depend on how the study went.

    Raises:
        UsageError: there is no study in the directory.
    """
    study = settings(directory)
    return frame_of(Path(directory), study.runs, study.compare)


def frame_of(directory: Path, runs: Iterable[StudyRun], compare: CompareOptions) -> pd.DataFrame:
    """Return the results of runs as :func:`collect` describes them.

    Args:
        directory: the folder to which relative run directories are relative.
        runs: the runs; those that are not finished have no rows.
        compare: the metric and split of the scores.
    """
    import pandas as pd

    rows = []
    for run in runs:
        place = directory / run.run
        if finished(place):
            rows += [run.columns | row for row in run_rows(place, compare.metric, compare.split)]
    # Runs may differ in costs, and a table without rows still has its columns.
    columns = dict.fromkeys(FACTS)
    for row in rows:
        columns |= dict.fromkeys(row)
    return pd.DataFrame(rows, columns=list(columns))


def run_rows(directory: str | Path, metric: str | None = None, split: str = "dev") -> list[dict[str, Any]]:
    """Return one row for each measured model of a run, as :func:`collect` describes, without arm, task and seed.

    Args:
        directory: a run directory.
        metric: the metric that ``score`` is; default: the task's primary metric.
        split: the split that ``score`` was measured on.
    """
    from nasframe.report.format import BESIDE
    from nasframe.report.read import gather

    report = gather(directory, examples=False)
    metric = metric or report["metric"]
    store = RunStore(Path(directory), shared=True)
    stages = store.stages()
    store.close()
    select_scores = _select_scores(report, stages, metric)
    totals = _totals(report, stages)
    companions = _companions(report, metric, split)

    rows = []
    for model in report["models"]:
        scores = model["metrics"].get(split, {})
        score = scores.get(metric)
        if score is None:
            continue  # evaluated on other splits, or by other metrics, only
        row: dict[str, Any] = {
            "role": model["role"],
            "budget": model["budget"],
            "over_budget": model["over_budget"],
            "model": model["name"],
            "metric": metric,
            "network": network_of(model),
            "score": score,
            "select_score": select_scores[model["name"]],
        }
        for name in companions:
            row[f"{BESIDE}{name}"] = scores.get(name)
        row |= model["costs"]
        for cost, share in model["relative"].items():
            row[f"{cost}_relative"] = share
        rows.append(row | totals)
    return rows


def _select_scores(report: Mapping[str, Any], stages: Iterable[StageRecord], metric: str) -> dict[str, float | None]:
    """Return model → its score on ``select`` by the compared metric, as a number to maximise."""
    from nasframe.measures import sign_of
    from nasframe.report.format import metric_format

    sign = sign_of(metric_format(report["formats"], metric))
    scores = {}
    # Arms are chosen by these scores. What an evaluation measured is measured alike in all arms; a search's own score
    # may be of other weights, and is of the primary metric.
    if metric == report["metric"]:
        for stage in stages:
            if stage.verb == "search":
                for name, winner in stage.result.get("winners", {}).items():
                    scores[name] = winner.get("score")
    for model in report["models"]:
        value = model["metrics"].get("select", {}).get(metric)
        if value is not None:
            scores[model["name"]] = sign * value
        else:
            scores.setdefault(model["name"], None)
    return scores


def _totals(report: Mapping[str, Any], stages: Iterable[StageRecord]) -> dict[str, Any]:
    """Return the columns that all models of a run have in common: what the whole run cost."""
    # The ledger counts final evaluations as well, which are no part of a search.
    searches = {stage["name"] for stage in report["stages"] if stage["verb"] == "search"}
    evaluations = 0
    for entry in report["ledger"]:
        if entry["stage"] in searches:
            evaluations += entry["evaluations"]
    cached = {stage.name: stage.result["cached"] for stage in stages if "cached" in stage.result}
    return {
        "training_macs": report["ledger_total"]["training_macs"],
        "training_and_search_macs": report["ledger_total"]["training_and_search_macs"],
        "evaluations": evaluations,
        "run_seconds": report["run_seconds"],
        "cached_seconds": sum(origin["run_seconds"] for origin in cached.values()),
        "cached_stages": " ".join(cached),
    }


def _companions(report: Mapping[str, Any], metric: str, split: str) -> list[str]:
    """Return the metrics that are shown with the compared one."""
    from nasframe.report.format import metric_format

    names: set[str] = set()
    for model in report["models"]:
        names.update(model["metrics"].get(split, {}))
    names.discard(metric)
    return [name for name in sorted(names) if metric_format(report["formats"], name).companion]


def network_of(model: Mapping[str, Any]) -> str | None:
    """Return a name for the network of a model, ``None`` if it was not extracted at an architecture.

    Models of one architecture with equal scores on every split are one network, whatever their names.

    Args:
        model: one of ``models`` in a run's report.
    """
    if model["arch"] is None:
        return None
    # The architecture alone is not enough: a model trained on from a winner has the same one.
    return arch_id({"arch": model["arch"], "metrics": model["metrics"]})


def volatile(column: str) -> bool:
    """Return whether a column may differ between equal studies: times, and what came from the cache.

    >>> volatile("run_seconds"), volatile("latency"), volatile("score")
    (True, True, False)
    """
    # Whether a model is over a budget of latency depends on times as well.
    return column.endswith(("_seconds", "_at")) or column.startswith(("latency", "cached", "over_budget"))
