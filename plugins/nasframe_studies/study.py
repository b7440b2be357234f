"""Studies: arms × tasks × seeds of recipes, run to one table of results."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.digests import file_digest
from nasframe.errors import NasframeError, UsageError
from nasframe.recipe.yaml import dump, read
from nasframe.records import arch_id
from nasframe.report.read import finished
from nasframe.running.cache import default_folder
from nasframe.running.cache_keys import chains
from nasframe.storage import refuse_unwritable
from nasframe.store import RunStore
from nasframe_studies.conditions import notice_line, notices
from nasframe_studies.file import Study, load_study
from nasframe_studies.settings import FORMAT_VERSION, SETTINGS, missing, recipe_of, settings
from nasframe_studies.study_checks import check_metric
from nasframe_studies.workers import LOG, work_through

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Study", "ablate", "begin", "collect", "go_on", "load_study", "missing", "run_rows", "settings", "volatile"]

FACTS = (
    "arm", "task", "seed", "run", "model", "role", "budget", "network", "over_budget", "metric", "score",
    "select_score", "training_macs", "evaluations", "run_seconds", "cached_seconds", "cached_stages",
)  # fmt: skip
"""Columns that every table of a study has; costs follow, by name, and ``<cost>_relative``."""


def ablate(
    study: Study,
    *,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Run a study: every arm on every task with every seed, each distinct stage once.

    Args:
        study: what :func:`load_study` returned.
        out: the study's directory; default: ``runs/<study>/<time>``.
        cache: the folder of stage results that the runs share; default: ``NASFRAME_CACHE``, else ``~/.cache/nasframe``.
        jobs: processes; the CPU threads are divided between them.
        say: told what happens, a line at a time.

    Returns:
        The study's directory, with ``study.csv``, ``study.html`` and the runs. Runs that failed are told by ``say``
        and lack in the table; see :func:`missing`.

    Raises:
        UsageError: ``out`` is not empty, or a task lacks the metric that is compared.
    """
    directory = begin(study, out, cache, jobs)
    go_on(directory, say=say)
    return directory


def begin(
    study: Study, out: str | Path | None = None, cache: str | Path | None = None, jobs: int = 1, command: Any = None
) -> Path:
    """Make a study's directory with those of all its runs, or nothing; :func:`go_on` runs them."""
    home = Path(out or Path("runs") / study.name / time.strftime("%Y%m%d-%H%M%S"))
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        there = (home / SETTINGS).exists()
        hint = f" To go on with the study in it: nasframe ablate --resume {home}" if there else ""
        raise UsageError(f"{home}: not empty; a study is never overwritten.{hint}")
    refuse_unwritable(home)
    refuse_unwritable(Path(cache or default_folder()).expanduser())
    check_metric(study)
    facts: dict[str, Any] = {
        "format_version": FORMAT_VERSION, "study": study.name, "description": study.description,
        "source": str(study.source), "source_digest": file_digest(study.source),
        "command": command or sys.argv, "arms": dict(study.arms),
        "tasks": list(study.tasks), "seeds": list(study.seeds), "compare": dict(study.compare),
        "cache": str(Path(cache or default_folder()).expanduser().resolve()), "jobs": jobs,
        "threads": threads_of(jobs), "runs": [],
    }  # fmt: skip
    draft = home.with_name(f".{home.name}.begun")
    shutil.rmtree(draft, ignore_errors=True)
    for run, plan in study.runs():
        facts["runs"].append(run | {"base": str(plan.base), "stages": chains(plan)})
        make_run(draft, facts["runs"][-1], facts, plan.recipe)
        recipe = draft / recipe_of(run)
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(dump(plan.recipe), encoding="utf-8")
    (draft / SETTINGS).write_text(dump(facts), encoding="utf-8")
    os.replace(draft, home)
    return home


def make_run(home: Path, run: Mapping[str, Any], facts: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Make the directory of a run that has not begun."""
    said = {"command": facts["command"], "base": run["base"], "cache": facts["cache"], "study": facts["study"]}
    RunStore(home / run["run"], create=True, recipe=dump({**recipe, "seed": run["seed"]}), facts=said).close()


def make_missing(home: Path, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the runs anew whose directories are gone; return those that cannot be made, each with the reason."""
    lost = []
    for run in facts["runs"]:
        if (home / run["run"] / "run.db").is_file():
            continue
        recipe, problems = read(home / recipe_of(run), str(home / recipe_of(run)))
        try:
            if recipe is None:
                raise UsageError(f"{home / run['run']}: no run here, and no recipe to make it from: {problems[0]}")
            make_run(home, run, facts, recipe.plain())
        except UsageError as error:
            lost.append({**run, "error": str(error)})
    return lost


def threads_of(jobs: int) -> int:
    """Return the CPU threads of each of so many processes; a single one has as many as torch takes by itself."""
    if jobs == 1:
        import torch

        return torch.get_num_threads()
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, int(os.environ.get("OMP_NUM_THREADS") or here or 1) // jobs)


def go_on(
    directory: str | Path, jobs: int | None = None, say: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Bring the runs of a study that are not finished to their end, then write its report.

    Args:
        directory: the study's.
        jobs: processes; default: as the study began. The threads of each stay what they were: numbers depend on them.
        say: told what happens, a line at a time.

    Returns:
        The runs that failed, each with what went wrong as ``error``.

    Raises:
        UsageError: no study lies there, or another process works on it.
    """
    from filelock import FileLock, Timeout

    home, facts = Path(directory), settings(directory)
    try:
        with FileLock(home / ".lock", timeout=0):
            if changed(facts):
                say(f"{facts['source']}: changed since; the study goes on as it began.")
            failures = _run_all(home, facts, jobs or facts["jobs"], say)
            report(home, say)
    except Timeout:
        raise UsageError(f"{home}: another process is working on this study. Expected it to be free.") from None
    return failures


def changed(facts: Mapping[str, Any]) -> bool:
    """Tell whether the file that a study was read from is there and says something else by now."""
    source, digest = Path(facts.get("source", "")), facts.get("source_digest")
    return digest is not None and source.is_file() and file_digest(source) != digest


def _run_all(home: Path, facts: Mapping[str, Any], jobs: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    failures = make_missing(home, facts)
    for run in failures:
        say(f"{run_name(run, facts)}: FAILED, the others go on: {run['error']}")
    lost = {run["run"] for run in failures}
    there = [run for run in facts["runs"] if run["run"] not in lost]
    left = [run for run in there if not finished(home / run["run"])]
    states = [(run, stage, how) for run in there for stage, how in stage_states(home / run["run"]).items()]
    done = {run["stages"][stage] for run, stage, how in states if how == "done"}
    total, ended, began = len(facts["runs"]), len(facts["runs"]) - len(left), time.monotonic()

    def note(run: Mapping[str, Any], error: str | None) -> None:
        nonlocal ended
        ended += 1
        if error:
            failures.append({**run, "error": error})
            keep_failure(home / run["run"], error)
            how = f"FAILED, the others go on: {error} (see {home / run['run'] / LOG})"
        else:
            taken = run_facts(home / run["run"])
            how = f"done in {taken['run_seconds']:.1f} s"
            how += f", {taken['cached']} of {taken['stages']} stages from the cache" if taken["cached"] else ""
        say(f"{ended}/{total}  {run_name(run, facts)}: {how}  [{time.monotonic() - began:.0f} s]")

    def warned(run: Mapping[str, Any], text: str) -> None:
        say(f"{run_name(run, facts)}: {text}")

    work_through(home, left, done, jobs, facts["threads"], note, warned)
    if failures:
        say(f"{len(failures)} of {total} runs failed: {', '.join(run_name(run, facts) for run in failures)}.")
        say(f"To try them again: nasframe ablate --resume {home}")
    return failures


def keep_failure(directory: Path, error: str) -> None:
    """Keep what ended a run whose process died before it could do so itself."""
    try:
        store = RunStore(directory, shared=True)
    except NasframeError:  # the directory is gone or damaged, which the study says of the run anyway
        return
    try:
        if store.get("failure") is None:
            states = dict(store.db.execute("SELECT name, state FROM stage").fetchall())
            stage = next((name for name, state in states.items() if state != "done"), None)
            store.put("failure", {"stage": stage, "text": error, "interrupted": False, "exit_code": 1})
    finally:
        store.close()


def run_name(run: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Name a run for a reader."""
    return " ".join([run["arm"], *([run["task"]] if facts["tasks"] else []), f"seed {run['seed']}"])


def report(directory: Path, say: Callable[[str], None]) -> None:
    """Write the study's table, statistics and pages from what is finished."""
    from nasframe_studies import report as study_report

    facts = settings(directory)
    try:
        study_report.write(directory, collect(directory), facts)
    except UsageError as error:
        say(str(error))
    for notice in notices(directory, facts):
        say(notice_line(notice, list(dict.fromkeys(run["arm"] for run in facts["runs"]))))


def stage_states(directory: Path) -> dict[str, str]:
    """Return the state of every stage that a run began."""
    store = RunStore(directory, shared=True)
    found = dict(store.db.execute("SELECT name, state FROM stage").fetchall())
    store.close()
    return found


def run_facts(directory: Path) -> dict[str, Any]:
    """Return a run's number of ``stages``, how many of them were ``cached``, and its ``run_seconds``."""
    store = RunStore(directory, shared=True)
    rows = store.db.execute("SELECT run_seconds, result LIKE '%\"cached\":%' FROM stage").fetchall()
    store.close()
    return {"stages": len(rows), "cached": sum(row[1] for row in rows), "run_seconds": sum(row[0] for row in rows)}


def collect(directory: str | Path) -> pd.DataFrame:
    """Gather the finished runs of a study in one table: a row for each arm, task, seed and model.

    ============================  =========================================================================
    ``arm, task, seed``           the run; ``task`` is a name of ``tasks:``, else the name of the recipe's task
    ``run``                       its directory, read from the study's
    ``model, role, budget``       as in the run's report; roles: ``teacher``, ``winner``, ``model``, ``baseline``
    ``network``                   equal for models of a run that are one network: one architecture, equal scores
    ``over_budget``               by which final costs the model is over its budget, or nothing
    ``metric, score``             the compared metric on the compared split; higher is better
    ``select_score``              what the search that found it saw on ``select``, else its ``select`` metric
    ``beside.<metric>``           what stands beside it in every table, as MNLI's ``accuracy_mismatched``
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
    from nasframe.report.format import BESIDE, of_run
    from nasframe.report.read import gather

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
    measured = {name for model in report["models"] for name in model["metrics"].get(split, {})}
    beside = [name for name in sorted(measured - {metric}) if of_run(report, name).companion]
    for model in report["models"]:
        score = model["metrics"].get(split, {}).get(metric)
        if score is None:
            continue
        row = {key: model[key] for key in ("role", "budget", "over_budget")}
        row |= {"model": model["name"], "metric": metric, "network": network_of(model)}
        select = found.get(model["name"], model["metrics"].get("select", {}).get(metric))
        row |= {"score": score, "select_score": select}
        row |= {f"{BESIDE}{name}": model["metrics"].get(split, {}).get(name) for name in beside}
        row |= model["costs"] | {f"{name}_relative": share for name, share in model["relative"].items()}
        rows.append(row | whole)
    return rows


def network_of(model: Mapping[str, Any]) -> str | None:
    """Name the network of a model of a run's report, ``None`` if it was not extracted at an architecture.

    Models of one architecture and with equal scores on every split are one network, under whatever names.
    """
    if model["arch"] is None:
        return None
    return arch_id({"arch": model["arch"], "metrics": model["metrics"]})


def volatile(column: str) -> bool:
    """Tell whether a column may differ between equal studies: times, and what came from the cache.

    >>> volatile("run_seconds"), volatile("latency"), volatile("score")
    (True, True, False)
    """
    return column.endswith(("_seconds", "_at")) or column.startswith(("latency", "cached", "over_budget"))
