"""Reads all that a report shows out of a run directory, as plain data; ``docs/report.md`` describes the fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.declarations import KnownNames, declaration_of, stages_of
from nasframe.errors import RunError
from nasframe.report.budgets import bounds_of, over_budget
from nasframe.report.format import told
from nasframe.search.pareto import pareto_front
from nasframe.store import RunStore

if TYPE_CHECKING:
    pass

FORMAT_VERSION = 1
CURVE_POINTS = 400
AXES = ("encoder_params", "backbone_params", "params", "macs", "flops", "size", "latency")
ROLES = ("teacher", "winner", "model", "baseline")


def gather(run_dir: Path | str) -> dict[str, Any]:
    """Read all that a report shows; nothing is written.

    Args:
        run_dir: a run directory, of a finished run or of one under way.

    Returns:
        The JSON-plain content of ``report.json``.

    Raises:
        UsageError: there is no run in the directory, or its recipe was changed since.
        RunError: the run's database or another file is damaged; names it.
    """
    directory = Path(run_dir)
    store = RunStore(directory, shared=True)
    try:
        store.check()
        if (directory / "recipe.yaml").is_file():  # packed records of runs may have none
            store.check_recipe()
        rows = {name: store.rows(name) for name in ("stage", "trial", "metric", "ledger", "model")}
        facts = store.facts()
    finally:
        store.close()
    recipe_text = _text(directory / "recipe.yaml")
    recipe = _recipe(recipe_text)
    untrained = _untrained(recipe)
    models = _models(rows["model"], rows["stage"], untrained)
    data = dict(facts.get("data") or {})
    formats = told(data)
    data.pop("metrics", None)
    name = data.get("primary") or _first_metric(models)
    split = "dev" if any("dev" in model["metrics"] for model in models) else "select"
    _compare(models, name, split)
    _add_stored(models, rows["stage"])
    _add_over_budget(models, rows["stage"])
    full = _full(models)
    environment = _environment(directory / "env.json")
    for model in models:
        model["layers"] = _layers(model, full["layers"])
        files = sorted(directory.glob(f"models/{model['name']}/predictions*.csv"))
        model["predictions"] = [path.relative_to(directory).as_posix() for path in files]
    return {
        "format_version": FORMAT_VERSION,
        "name": recipe.get("name") or directory.resolve().name,
        "description": _described(recipe),
        "seed": recipe.get("seed"),
        "finished": bool(facts.get("finished")),
        "metric": name,
        "formats": formats,
        "split": split,
        "full": full,
        "models": models,
        "removal_errors": _removal_errors(rows["stage"], rows["metric"]),
        "searches": sorted(_searches(rows, recipe), key=lambda search: search["stage"] in untrained),
        "curves": _curves(rows["metric"], [row["name"] for row in rows["stage"]]),
        "ledger": rows["ledger"],
        "ledger_total": _totals(rows["ledger"]),
        "stages": [_stage(row) for row in rows["stage"]],
        "notices": facts.get("notices") or [],
        "run_seconds": sum(row["run_seconds"] or 0.0 for row in rows["stage"]),
        "command": facts.get("command"),
        "data": data,
        "failure": facts.get("failure"),
        "environment": environment,
        "environments": facts.get("environments") or [environment],
        "recipe": recipe_text,
        "trials": [{key: value for key, value in row.items() if key != "finished_at"} for row in rows["trial"]],
    }


def _stage(row: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a stage; ``cached`` is the run that made its result, where it came from the cache."""
    facts = {key: row[key] for key in ("name", "verb", "state", "run_seconds")}
    return facts | {"cached": (row["result"] or {}).get("cached", {}).get("run")}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _environment(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(_text(path) or "{}")
    except ValueError as error:
        raise RunError(
            f"{path}: damaged ({error}). Put a copy of it back, or delete it: the report then lacks it."
        ) from None
    return facts


def _recipe(text: str) -> dict[str, Any]:
    import yaml

    loaded = yaml.safe_load(text)
    return loaded if isinstance(loaded, dict) else {}


def _described(recipe: Mapping[str, Any]) -> str:
    """Return the recipe's description, or say its model, task and space in a line."""
    if recipe.get("description"):
        return str(recipe["description"])
    parts = []
    for key in ("model", "task", "space"):
        part = recipe.get(key)
        if isinstance(part, Mapping):
            words = [part.get("use"), part.get("name") or part.get("path") if key != "space" else None]
            parts.append(" ".join(str(word) for word in words if word))
        elif part:
            parts.append(str(part))
    return " · ".join(parts)


def _untrained(recipe: Mapping[str, Any]) -> set[str]:
    """Name the searches over weights that were never trained as a super-network, where others are over such.

    Their winners are the baselines: what the same search finds without super-network training.
    """
    elastic = False  # whether the current network was trained as a super-network
    elastic_nets = {"pretrained": False, "random": False}
    searches: dict[str, bool] = {}
    for stage in stages_of(recipe):
        elastic = elastic_nets.get(stage.options.get("from", ""), elastic)
        if stage.verb == "train":
            elastic = elastic or stage.options.get("sampler") is not None
        elif stage.verb == "search":
            searches[stage.name] = elastic
        declaration = declaration_of(stage.verb)
        if declaration.replaces_net:
            for name in declaration.saves(stage, KnownNames()):
                elastic_nets[name] = elastic
    if not any(searches.values()):
        return set()
    return {name for name, trained in searches.items() if not trained}


def _models(
    rows: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]], untrained: set[str]
) -> list[dict[str, Any]]:
    """Bring the models into the order of the table: the teacher, others without a budget, then budget by budget."""
    verbs = {row["name"]: row["verb"] for row in stages}
    searched = {name: row["name"] for row in stages for name in (row["result"] or {}).get("winners", ())}
    models = []
    for row in rows:
        model: dict[str, Any] = {key: row[key] for key in ("name", "stage", "path", "arch", "blueprint")}
        model |= {"budget": row["budget"] or row["name"].partition("@")[2] or None, "role": "model"}
        model |= {"metrics": row["metrics"] or {}, "costs": row["costs"] or {}}
        if row["name"] == "teacher":
            model["role"] = "teacher"
        elif row["name"] in searched:
            model["role"] = "baseline" if searched[row["name"]] in untrained else "winner"
        elif model["budget"] and verbs.get(row["stage"]) == "extract":
            model["role"] = "baseline"
        models.append(model)
    budgets = list(dict.fromkeys(model["budget"] for model in models if model["budget"]))
    models.sort(
        key=lambda m: (
            m["role"] != "teacher",
            budgets.index(m["budget"]) if m["budget"] else -1,
            ROLES.index(m["role"]),
        )
    )
    for model, following in zip(models, [*models[1:], None], strict=False):
        model["last_of_budget"] = following is None or model["budget"] != following["budget"]
    return models


def _first_metric(models: Iterable[Mapping[str, Any]]) -> str:
    return next((name for model in models for found in model["metrics"].values() for name in found), "score")


def _compare(models: list[dict[str, Any]], name: str, split: str) -> None:
    """Set each model's score, its gain over the teacher and over its budget's baseline, its costs as shares."""
    teacher = next((model for model in models if model["role"] == "teacher"), None)
    for model in models:
        model["score"] = model["metrics"].get(split, {}).get(name)
    baselines = {model["budget"]: model["score"] for model in models if model["role"] == "baseline"}
    for model in models:
        other = baselines.get(model["budget"]) if model["role"] == "winner" else None
        model["gain"] = _minus(model["score"], teacher["score"] if teacher else None)
        model["gain_over_baseline"] = _minus(model["score"], other)
        whole = teacher["costs"] if teacher else {}
        model["relative"] = {
            key: value / whole[key]
            for key, value in model["costs"].items()
            if isinstance(value, int | float) and whole.get(key) and not key.startswith("latency_")
        }


def _add_stored(models: Sequence[dict[str, Any]], stages: Sequence[Mapping[str, Any]]) -> None:
    """Set what plugins say about each model; of compressed ones what is stored, and how kernels ran at the export."""
    results = [row["result"] or {} for row in stages]
    facts = {name: found for result in results for name, found in result.get("facts", {}).items()}
    stored = {name: found for result in results for name, found in result.get("stored", {}).items()}  # of older runs
    exports = {name: found for result in results for name, found in result.get("exports", {}).items()}
    for model in models:
        compressed = bool((model["blueprint"] or {}).get("quantised"))
        model["facts"] = facts.get(model["name"], {})
        model["stored"] = model["facts"].pop("stored", stored.get(model["name"])) if compressed else None
        model["kernels"] = exports.get(model["name"], {}).get("kernels") if compressed else None


def _add_over_budget(models: Sequence[dict[str, Any]], stages: Sequence[Mapping[str, Any]]) -> None:
    """Set by which costs each model is over the budget that it is named after, or ``None``."""
    results = [row["result"] or {} for row in stages]
    for model in models:
        model["over_budget"] = over_budget(model["costs"], bounds_of(model["name"], results)) or None


def _removal_errors(stages: Sequence[Mapping[str, Any]], logged: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return by how much logits changed where parts were taken out: by stages, by name, and into models, by theirs."""
    found = {}
    for row in logged:
        model, _, name = row["name"].rpartition(" ")  # a stage that trains several models says which
        if name == "removal_error":
            found[f"{row['stage']} {model}".rstrip()] = row["value"]
    for row in stages:
        found |= (row["result"] or {}).get("extract_error", {})
    return found


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _full(models: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Size of the full network: the teacher's, or the largest of all where there is no teacher."""
    chosen = [m for m in models if m["role"] == "teacher" and m["blueprint"]] or [m for m in models if m["blueprint"]]
    rows = [layer for model in chosen for layer in model["blueprint"].get("layers", ())]
    indices = [i for m in models for i in (m["arch"] or {}).get("layers", ())]
    depth = max([len(m["blueprint"].get("layers", ())) for m in chosen] + [i + 1 for i in indices], default=0)
    return {"layers": depth} | {key: max((row[key] for row in rows), default=0) for key in ("heads", "ffn")}


def _layers(model: Mapping[str, Any], depth: int) -> list[dict[str, Any]]:
    """List every layer of the full network with what the model kept of it."""
    found = (model["blueprint"] or {}).get("layers", ())
    kept = (model["arch"] or {}).get("layers", range(len(found)))
    sizes = dict(zip(kept, found, strict=False))
    empty = {"heads": 0, "ffn": 0}
    return [
        {"layer": i, "kept": i in sizes} | {key: sizes.get(i, empty)[key] for key in empty}
        for i in range(depth if found else 0)
    ]


def _searches(rows: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    searches = []
    for stage in rows["stage"]:
        trials = [row for row in rows["trial"] if row["stage"] == stage["name"] and row["origin"] == "search"]
        if not trials:
            continue
        axes = _cost_axes(recipe, trials)
        latest: dict[str, dict[str, Any]] = {}
        for row in trials:  # an arch scored again, on more examples, counts with its last score
            if row["state"] == "done" and row["score"] is not None:
                latest[row["arch_id"]] = _point(row, axes)
        points = list(latest.values())
        _mark_front(points, axes)
        states = dict.fromkeys(("done", "repeat", "screened", "failed"), 0)
        for row in trials:
            states[row["state"]] += 1
        states["repeat"] += (stage["result"] or {}).get("search", {}).get("repeats", 0)  # counted, not stored
        best = max((point["score"] for point in points), default=None)
        result = stage["result"] or {}
        searches.append(
            {
                "stage": stage["name"],
                "aim": result.get("objectives", [None])[0],
                "costs": axes,
                "split": "select",
                "states": states,
                "best_score": best,
            }
            | {"run_seconds": stage["run_seconds"], "points": points}
            | {"winners": list(result.get("winners", ()))}
        )
    return searches


def _cost_axes(recipe: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Choose the costs to draw against: what the budgets are about, else the first known one that the trials have."""
    known = set().union(*(trial["costs"] for trial in trials))
    budgets = recipe.get("budgets")
    wanted = [name for name in (budgets if isinstance(budgets, Mapping) else ()) if name in known]
    return wanted or [name for name in (*AXES, *sorted(known)) if name in known][:1]


def _point(row: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    fields = ("number", "arch_id", "score", "violation", "examples")
    return {key: row[key] for key in fields} | {
        "costs": {name: row["costs"].get(name) for name in axes},
        "front": False,
    }


def _mark_front(points: Sequence[dict[str, Any]], axes: Sequence[str]) -> None:
    """Mark the feasible points that no other one equals or beats in everything and beats in something."""
    fit = [p for p in points if not p["violation"] and None not in p["costs"].values()]
    for place in pareto_front([[p["score"], *(-p["costs"][name] for name in axes)] for p in fit]):
        fit[place]["front"] = True


def _curves(rows: Sequence[Mapping[str, Any]], stages: Iterable[str]) -> dict[str, dict[str, list[list[float]]]]:
    """Group logged values by stage and name; long curves are thinned evenly."""
    grouped: dict[str, dict[str, list[list[float]]]] = {stage: {} for stage in stages}
    for row in rows:
        if row["value"] is not None:
            grouped.setdefault(row["stage"], {}).setdefault(row["name"], []).append([row["step"], row["value"]])
    for found in grouped.values():
        for name, points in found.items():
            stride = -(-len(points) // CURVE_POINTS)
            found[name] = points[::stride] if (len(points) - 1) % stride == 0 else [*points[::stride], points[-1]]
    return {stage: found for stage, found in grouped.items() if found}


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Add the ledger up; ``training_macs`` is what "equal budget" between methods compares."""
    training = [row for row in rows if row["role"] != "evaluation"]
    return {
        "training_macs": sum(row["forward_macs"] + row["backward_macs"] for row in training),
        "evaluation_macs": sum(row["forward_macs"] for row in rows if row["role"] == "evaluation"),
        "tokens": sum(row["tokens"] for row in rows),
        "evaluations": sum(row["evaluations"] for row in rows),
    }


def finished(directory: Path) -> bool:
    """Tell whether a run is complete."""
    if not (directory / "run.db").is_file():
        return False
    store = RunStore(directory, shared=True)
    try:
        return bool(store.get("finished"))
    finally:
        store.close()
