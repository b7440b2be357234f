"""Runs that exist, as the table of a study: which are one arm, one task, one seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

OUTSIDE_ARMS = ("name", "description", "seed", "task")
"""Keys of a recipe in which runs of one arm may differ."""


def as_study(
    places: Sequence[str], against: str | None = None, metric: str | None = None, models: Sequence[str] | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Make the table of a study out of runs that exist.

    Runs of one recipe are one arm, whatever their seed, task and name; arms of one name are told apart by the options
    in which they differ. Runs on other data, at equal seed, are another task.

    Args:
        places: run directories, folders with run directories in them, studies; ``NAME=PLACE`` names the arm.
        against: the reference: an arm, or one of ``places``; default: the first arm.
        metric: what to compare; default: each task's primary metric.
        models: patterns of the models to compare.

    Returns:
        A frame and settings for :func:`nasframe.studies.compare.analyse`, run directories absolute.

    Raises:
        UsageError: a place holds no run, or two runs are the same arm, task and seed.
    """
    import pandas as pd

    from nasframe.studies import study

    whole = study.settings(places[0]) if len(places) == 1 and (Path(places[0]) / study.SETTINGS).is_file() else {}
    entries = [entry for place in places for entry in _entries(place)]
    _name_arms(entries)
    notes = _tell_data_apart(entries)
    named = next((entry["arm"] for entry in entries if against and entry["place"] == against.rstrip("/")), against)
    changes = {"metric": metric, "against": named, "models": list(models or ())}
    compare = {"metric": None, "split": "dev"} | whole.get("compare", {}) | {k: v for k, v in changes.items() if v}
    seen: dict[tuple[Any, ...], str] = {}
    rows = []
    for entry in entries:
        key = tuple(entry[name] for name in ("arm", "task", "seed"))
        if key in seen:
            raise UsageError(
                f"{entry['run']}: the same arm {key[0]!r}, task {key[1]!r} and seed {key[2]} as {seen[key]}."
                f" Expected runs that differ; name them apart: nasframe compare first={seen[key]} second={entry['run']}"
            )
        seen[key] = entry["run"]
        if study.finished(Path(entry["run"])):
            place = {name: entry[name] for name in ("arm", "task", "seed", "run")}
            rows += [place | row for row in study.run_rows(entry["run"], compare["metric"], compare["split"])]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*study.FACTS, *(column for row in rows for column in row)])))
    arms = list(dict.fromkeys(entry["arm"] for entry in entries))
    settings = whole | {
        "study": whole.get("study") or (" and ".join(arms) if len(arms) < 3 else f"{len(arms)} arms"),
        "arms": whole.get("arms") or {arm: {} for arm in arms},
        "compare": compare,
        "runs": [{name: entry[name] for name in ("arm", "task", "seed", "run")} for entry in entries],
        "notes": notes,
    }
    return (frame, settings) if len(settings["arms"]) > 1 else _winners_and_baselines(frame, settings)


def _winners_and_baselines(frame: pd.DataFrame, settings: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Set the winners of a single arm against its own baselines, where it has both."""
    sides = frame[frame["role"].isin(["winner", "baseline"])]
    if sides["role"].nunique() < 2 or settings["compare"].get("models"):
        return frame, settings
    note = f"One arm, {next(iter(settings['arms']))}: its winners are compared with its own baselines."
    changed = {
        "arms": {"baseline": {}, "winner": {}},
        "compare": settings["compare"] | {"against": "baseline"},
        "runs": [run | {"arm": side} for side in ("baseline", "winner") for run in settings["runs"]],
        "notes": [*settings["notes"], note],
    }
    return sides.assign(arm=sides["role"]).reset_index(drop=True), settings | changed


def _entries(place: str) -> list[dict[str, Any]]:
    """Find the runs of a place, with what their recipes say."""
    from nasframe.reports.gather import gather
    from nasframe.studies import study

    label, _, path = place.rpartition("=") if not Path(place).exists() else ("", "", place)
    folder = Path(path)
    known = {}
    if (folder / study.SETTINGS).is_file():
        known = {str((folder / run["run"]).resolve()): run for run in study.settings(folder)["runs"]}
    found = [Path(run) for run in known] or sorted(file.parent.resolve() for file in folder.rglob("run.db"))
    if not found:
        raise UsageError(f"{path}: no run here. Expected a run directory, a folder of runs, or a study's directory.")
    entries = []
    for run in found:
        entry = dict(known.get(str(run), {}))
        if (run / "run.db").is_file():
            report = gather(run)
            recipe = _plain_recipe(report["recipe"])
            entry.setdefault("task", _task_name(recipe.get("task")))
            entry.setdefault("seed", int(recipe.get("seed") or 0))
            entry |= {"recipe": recipe, "data": report["data"].get("fingerprint")}
            entry["name"] = entry.get("arm") or label or report["name"]
            entry["same"] = json.dumps({k: v for k, v in recipe.items() if k not in OUTSIDE_ARMS}, sort_keys=True)
            entry["fixed"] = bool(entry.get("arm") or label)
        elif entry:
            entry |= {"recipe": {}, "data": None, "name": entry["arm"], "same": "", "fixed": True}
        entries.append(entry | {"run": str(run), "place": place.rstrip("/")})
    return entries


def _plain_recipe(text: str) -> dict[str, Any]:
    import yaml

    loaded = yaml.safe_load(text)
    return loaded if isinstance(loaded, dict) else {}


def _task_name(task: Any) -> str:
    """Name a recipe's task: its plugin, and its name or file.

    >>> _task_name({"use": "glue", "name": "sst2"}), _task_name({"use": "text", "train": "d/reviews.csv"})
    ('sst2', 'reviews')
    """
    if not isinstance(task, Mapping):
        return str(task or "task")
    return str(task.get("name") or Path(str(task.get("train") or task.get("use"))).stem)


def _name_arms(entries: Sequence[dict[str, Any]]) -> None:
    """Give each entry its arm: the recipe's name, and where recipes of one name differ, in what."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for entry in entries:
        groups.setdefault(entry["name"], {}).setdefault("" if entry["fixed"] else entry["same"], []).append(entry)
    for name, recipes in groups.items():
        flat = {same: dict(_leaves(rows[0]["recipe"])) for same, rows in recipes.items()}
        keys = dict.fromkeys(key for leaves in flat.values() for key in leaves)
        differ = [key for key in keys if len({str(leaves.get(key)) for leaves in flat.values()}) > 1]
        for same, rows in recipes.items():
            words = [_change(key, flat[same], differ) for key in differ[:2]] + ["…"] * (len(differ) > 2)
            about = ", ".join(words) if len(groups) == 1 else f"{name} ({', '.join(words)})"
            for entry in rows:
                entry["arm"] = name if len(recipes) == 1 else about


def _change(key: str, options: Mapping[str, Any], differ: Sequence[str]) -> str:
    """Write an option and its value, by its last name where that is enough.

    >>> _change("stages.search.sampler.use", {"stages.search.sampler.use": "grid"}, ["stages.search.sampler.use"])
    'sampler=grid'
    """
    names = [name.removesuffix(".use").removeprefix("stages.") for name in (key, *differ)]
    lasts = [name.rpartition(".")[2] for name in names]
    short = lasts[0] if lasts[1:].count(lasts[0]) == 1 else names[0]
    return f"{short}={options[key]}" if key in options else f"without {short}"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """List the options of a recipe by dotted path, stages by name, what belongs to no arm left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if path or key not in OUTSIDE_ARMS:
                yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and path == "stages":
        for stage in value:
            for verb, options in stage.items():
                name = (options or {}).get("name") or (options or {}).get("save_as") or verb
                yield from _leaves(options or {}, f"stages.{name}")
    else:
        yield path, value


def _tell_data_apart(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Rename the task of arms that have other data at equal seed; return what was found."""
    notes: list[str] = []
    groups: dict[str, dict[str, dict[int, Any]]] = {}
    for entry in entries:
        arms = groups.setdefault(entry["task"], {})
        arms.setdefault(entry["arm"], {}).update({entry["seed"]: entry["data"]} if entry["data"] else {})
    for task, arms in groups.items():
        clusters: list[dict[int, Any]] = []
        for arm, data in arms.items():
            same = (i for i, known in enumerate(clusters) if all(known.get(seed, d) == d for seed, d in data.items()))
            place = next(same, len(clusters))
            if place == len(clusters):
                clusters.append({})
            clusters[place] |= data
            if place:
                other = f"{task}, other data {next(iter(data.values()))}"
                notes.append(f"{arm} has other data of {task} at equal seeds: shown as {other!r}, and not compared.")
                for entry in entries:
                    if (entry["arm"], entry["task"]) == (arm, task):
                        entry["task"] = other
    return notes
