"""Studies: arms × tasks × seeds of recipes, as one table of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.nodes import Position, parse
from nasframe.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
SETTINGS = "study.yaml"
"""The study as it was resolved, in the study's directory; all that is needed to go on with it."""
FACTS = (
    "arm", "task", "seed", "run", "model", "role", "budget", "metric", "score", "select_score",
    "training_macs", "evaluations", "run_seconds", "cached_seconds", "cached_stages",
)  # fmt: skip
"""Columns that every table of a study has; costs follow, by name, and ``<cost>_relative``."""


def collect(directory: str | Path) -> pd.DataFrame:
    """Gather the finished runs of a study in one table: a row for each arm, task, seed and model.

    ============================  =========================================================================
    ``arm, task, seed``           the run; ``task`` is a name of ``tasks:``, else the name of the recipe's task
    ``run``                       its directory, read from the study's
    ``model, role, budget``       as in the run's report; roles: ``teacher``, ``winner``, ``model``, ``baseline``
    ``metric, score``             the compared metric on the compared split; higher is better
    ``select_score``              what the search that found it saw on ``select``, else its ``select`` metric
    ``<cost>``                    ``encoder_params``, ``params``, ``macs``, ``size``, ``latency`` … as evaluated
    ``<cost>_relative``           the same as a share of the teacher's
    ``latency_cached``            1 where the latency was measured in another run
    ``training_macs``             of the whole run, from its ledger; stages from the cache count in full
    ``evaluations``               sub-networks that its searches evaluated
    ``run_seconds``               spent in this run; ``cached_seconds``: spent elsewhere on its cached stages
    ``cached_stages``             names of the stages that came from the cache, with spaces between
    ============================  =========================================================================

    Args:
        directory: the study's directory, as ``nasframe ablate`` made it.

    Returns:
        The table, arms, tasks and seeds in the order of the study. A run that failed or is not finished has no rows:
        compare with ``runs`` of :func:`settings`. What :func:`volatile` names depends on how the study went.

    Raises:
        UsageError: there is no study in the directory.
    """
    import pandas as pd

    home, facts = Path(directory), settings(directory)
    compare, rows = facts["compare"], []
    for run in facts["runs"]:
        if finished(home / run["run"]):
            place = {key: run[key] for key in ("arm", "task", "seed", "run")}
            rows += [place | row for row in run_rows(home / run["run"], compare.get("metric"), compare["split"])]
    columns = dict.fromkeys([*FACTS, *(column for row in rows for column in row)])
    return pd.DataFrame(rows, columns=list(columns))


def run_rows(directory: str | Path, metric: str | None = None, split: str = "dev") -> list[dict[str, Any]]:
    """Return one row for each measured model of a run, as :func:`collect` describes, without arm, task and seed.

    Args:
        directory: a run directory.
        metric: what ``score`` is; default: the task's primary metric.
        split: which examples ``score`` was measured on.
    """
    from nasframe.gather import gather

    report, store = gather(directory), RunStore(Path(directory), shared=True)
    results = {stage["name"]: store.stage_result(stage["name"]) for stage in report["stages"]}
    store.close()
    searches = [stage["name"] for stage in report["stages"] if stage["verb"] == "search"]
    found = {name: row.get("score") for stage in searches for name, row in results[stage].get("winners", {}).items()}
    cached = {name: result["cached"] for name, result in results.items() if "cached" in result}
    metric = metric or report["metric"]
    whole = {
        "training_macs": report["ledger_total"]["training_macs"],
        "evaluations": sum(row["evaluations"] for row in report["ledger"] if row["stage"] in searches),
        "run_seconds": report["run_seconds"],
        "cached_seconds": sum(entry["run_seconds"] for entry in cached.values()),
        "cached_stages": " ".join(cached),
    }
    rows = []
    for model in report["models"]:
        score = model["metrics"].get(split, {}).get(metric)
        if score is None:
            continue
        row = {key: model[key] for key in ("role", "budget")} | {"model": model["name"], "metric": metric}
        select = found.get(model["name"], model["metrics"].get("select", {}).get(metric))
        row |= {"score": score, "select_score": select}
        row |= model["costs"] | {f"{name}_relative": share for name, share in model["relative"].items()}
        rows.append(row | whole)
    return rows


def volatile(column: str) -> bool:
    """Tell whether a column may differ between equal studies: times, and what came from the cache.

    >>> volatile("run_seconds"), volatile("latency"), volatile("score")
    (True, True, False)
    """
    return column.endswith(("_seconds", "_at")) or column.startswith(("latency", "cached"))


def settings(directory: str | Path) -> dict[str, Any]:
    """Return a study's settings.

    Returns:
        ``study`` (its name), ``description``, ``source`` (the file), ``command``, ``arms`` (name → ``base`` and
        ``changes``, its overrides by dotted path), ``tasks`` (names), ``seeds``, ``compare`` (``metric``, ``split``,
        ``against``, ``budgets``, ``models``), ``cache`` (its folder), ``threads`` (of each run) and ``runs``:
        for each its ``arm``, ``task``, ``seed`` and ``run`` (the directory, read from the study's).

    Raises:
        UsageError: there is no study in the directory.
    """
    path = Path(directory) / SETTINGS
    node = parse(path.read_text(encoding="utf-8"), Position(str(path), 1, 1))[0] if path.is_file() else None
    found = node.plain() if node else None
    if not isinstance(found, dict) or found.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{directory}: no study here. Expected a directory that 'nasframe ablate' made.")
    return found


def finished(directory: Path) -> bool:
    """Tell whether a run is complete."""
    if not (directory / "run.db").is_file():
        return False
    store = RunStore(directory, shared=True)
    try:
        return bool(store.get("finished"))
    finally:
        store.close()


def missing(facts: Mapping[str, Any], frame: pd.DataFrame) -> list[dict[str, Any]]:
    """List the runs of :func:`settings` that a table lacks."""
    there: set[Sequence[Any]] = set(zip(frame["arm"], frame["task"], frame["seed"], strict=True))
    return [run for run in facts["runs"] if (run["arm"], run["task"], run["seed"]) not in there]
