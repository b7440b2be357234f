"""Runs that exist, as the table of a study: which are one arm, one task, one seed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe_studies.checks import group_faults
from nasframe_studies.results import frame_of
from nasframe_studies.settings import FAMILIES, SETTINGS, SPLITS, Settings, StudyRun
from nasframe_studies.settings import settings as read_settings

if TYPE_CHECKING:
    import pandas as pd

OUTSIDE_ARMS = ("name", "description", "seed", "task")
"""Keys of a recipe in which runs of one arm may differ; of the task, options in which runs of one task do tell arms."""


def as_study(
    places: Sequence[str],
    against: str | None = None,
    metric: str | None = None,
    models: Sequence[str] | None = None,
    split: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    family: str | None = None,
) -> tuple[pd.DataFrame, Settings]:
    """Make the table of a study out of runs that exist.

    Runs of one recipe are one arm, whatever their seed, task and name; arms of one name are told apart by the options
    in which they differ, those of the task among them. Runs on other data, at equal seed, are another task, unless a
    study made them. Parts of one study, say one a seed, are compared as it compares them.

    Args:
        places: run directories, folders with run directories or studies in them, studies; ``NAME=PLACE`` names the
            arm, and those of a study ``NAME/arm``.
        against: the reference: an arm, or one of ``places``; default: the first arm.
        metric: what to compare; default: each task's primary metric.
        models: patterns of the models to compare.
        split: which examples' scores to compare, one of ``dev``, ``select``, ``train``; default: the study's, else
            ``dev``.
        groups: name → patterns of tasks, whose models stand against each other under that name.
        family: what Holm's adjustment counts together, ``task`` or ``page``; default: the study's, else ``task``.

    Returns:
        A frame and settings for :func:`nasframe_studies.compare.analyse`, run directories absolute.

    Raises:
        UsageError: a place holds no run, two runs are the same arm, task and seed or copies of one run, there is no
            such split or family, or a group fits no task or one of another group.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"split {split!r} is not known. Expected {listing(SPLITS)}.{suggestion(split, SPLITS)}")
    if family is not None and family not in FAMILIES:
        hint = suggestion(family, FAMILIES)
        raise UsageError(f"family {family!r} is not known. Expected one of {listing(FAMILIES)}.{hint}")
    entries = [entry for place in places for entry in _entries(place)]
    _refuse_copies(entries)
    _name_arms(entries)
    whole = _whole(entries)
    notes = _tell_data_apart(entries)
    misfits = group_faults(groups or {}, dict.fromkeys(entry["task"] for entry in entries))
    if told := [f"--group {name}: {fault}" for name, fault in misfits]:
        raise UsageError("\n".join(told))
    named = next((entry["arm"] for entry in entries if against and entry["place"] == against.rstrip("/")), against)
    changes: dict[str, Any] = {"metric": metric, "against": named, "models": list(models or ()), "split": split}
    changes |= {"groups": groups, "family": family}
    compare = replace(whole.compare, **{k: v for k, v in changes.items() if v})
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in entries:
        key = tuple(entry[name] for name in ("arm", "task", "seed"))
        if key in seen:
            first, second = (
                other["path" if entry["path"] != seen[key]["path"] else "run"] for other in (seen[key], entry)
            )
            raise UsageError(
                f"{entry['run']}: the same arm {key[0]!r}, task {key[1]!r} and seed {key[2]} as {seen[key]['run']}."
                f" Expected runs that differ; name them apart: nasframe compare first={first} second={second}"
            )
        seen[key] = entry
    arms = list(dict.fromkeys(entry["arm"] for entry in entries))
    settings = replace(
        whole,
        study=whole.study or (" and ".join(arms) if len(arms) < 3 else f"{len(arms)} arms"),
        arms=whole.arms or {arm: {} for arm in arms},
        compare=compare,
        runs=[StudyRun(entry["arm"], entry["task"], entry["seed"], entry["run"]) for entry in entries],
        notes=notes,
    )
    frame = frame_of(Path(), settings.runs, compare)
    return (frame, settings) if len(settings.arms) > 1 else _winners_and_baselines(frame, settings)


def _refuse_copies(entries: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that every run is there once.

    Raises:
        UsageError: a run is given twice, or a directory is a copy of another one's run.
    """
    places: dict[str, str] = {}
    for entry in entries:
        run, identity = entry["run"], entry["identity"]
        if identity in places:
            what = "given twice" if places[identity] == run else f"a copy of {places[identity]}"
            raise UsageError(f"{run}: {what}. Expected every run once.")
        places[identity] = run


def _whole(entries: Sequence[Mapping[str, Any]]) -> Settings:
    """Return the settings of the study that all runs are of, or what its parts have in common; else nothing."""
    homes = dict.fromkeys(entry["study"] for entry in entries)
    if None in homes:
        return Settings()
    first, *others = map(read_settings, homes)
    renamed = any(entry["arm"] not in first.arms for entry in entries)
    common = _common(first)
    if renamed or any(_common(other) != common for other in others):
        return Settings()
    return common if others else first


def _common(study: Settings) -> Settings:
    """Return the settings that parts of one study have in common: all but its runs and where it ran."""
    return Settings(
        study=study.study, description=study.description, arms=study.arms, tasks=study.tasks, compare=study.compare
    )


def _winners_and_baselines(frame: pd.DataFrame, settings: Settings) -> tuple[pd.DataFrame, Settings]:
    """Set the winners of a single arm against its own baselines, where it has both."""
    sides = frame[frame["role"].isin(["winner", "baseline"])]
    if sides["role"].nunique() < 2 or settings.compare.models:
        return frame, settings
    note = f"One arm, {next(iter(settings.arms))}: its winners are compared with its own baselines."
    runs = [replace(run, arm=side) for side in ("baseline", "winner") for run in settings.runs]
    changed = replace(
        settings,
        arms={"baseline": {}, "winner": {}},
        compare=replace(settings.compare, against="baseline"),
        runs=runs,
        notes=[*settings.notes, note],
    )
    return sides.assign(arm=sides["role"]).reset_index(drop=True), changed


def _entries(place: str) -> list[dict[str, Any]]:
    """Find the runs of a place, with what their recipes say, and the studies that they are of."""
    from nasframe.report.read import gather

    label, _, path = place.rpartition("=") if not Path(place).exists() else ("", "", place)
    folder = Path(path)
    homes = sorted(file.parent for file in folder.rglob(SETTINGS))
    known = {(home / run.run).resolve(): (home, asdict(run)) for home in homes for run in read_settings(home).runs}
    loose = [file.parent for file in folder.rglob("run.db") if not any(home in file.parents for home in homes)]
    found = [*known, *sorted(run.resolve() for run in loose)]
    if not found:
        raise UsageError(f"{path}: no run here. Expected a run directory, a folder of runs, or a study's directory.")
    entries = []
    for run in found:
        home, said = known.get(run, (None, {}))
        entry = dict(said)
        arm = f"{label}/{entry['arm']}" if label and entry else entry.get("arm") or label
        entry |= {"recipe": {}, "options": {}, "data": None, "name": arm, "fixed": bool(arm)}
        if (run / "run.db").is_file():
            report = gather(run)
            recipe = _plain_recipe(report["recipe"])
            entry.setdefault("task", _task_name(recipe.get("task")))
            entry.setdefault("seed", int(recipe.get("seed") or 0))
            entry |= {"recipe": {key: value for key, value in recipe.items() if key not in OUTSIDE_ARMS}}
            entry |= {"options": _task_options(recipe.get("task")), "data": report["data"].get("fingerprint")}
            entry["name"] = arm or report["name"]
        entry["identity"] = _identity(run)
        entry |= {"run": str(run), "place": place.rstrip("/"), "path": path, "study": str(home) if home else None}
        entries.append(entry)
    return entries


def _identity(run: Path) -> str:
    """Digest what no two runs share: when their stages and trials ended, and what came out.

    Where a run lies does not matter, so that a copy has the identity of the run it was made from.
    """
    from nasframe.store import RunStore

    if not (run / "run.db").is_file():
        return str(run)
    store = RunStore(run, shared=True)
    try:
        outcome = store.outcome_digest()
    finally:
        store.close()
    return outcome or str(run)  # nothing ran, so that there is nothing to be a copy of


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


def _task_options(task: Any) -> dict[str, Any]:
    """Return what a recipe says of its task, but for its name and where its files lie.

    >>> _task_options({"use": "glue", "name": "sst2", "path": "/data/SST-2", "max_length": 32})
    {'use': 'glue', 'max_length': 32}
    """
    options = task if isinstance(task, Mapping) else {"use": task}
    return {k: v for k, v in options.items() if k != "name" and not (isinstance(v, str) and os.path.isabs(v))}


def _name_arms(entries: Sequence[dict[str, Any]]) -> None:
    """Give each entry its arm: the recipe's name, and where recipes of one name differ, in what."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(entry["name"], []).append(entry)
    for name, rows in groups.items():
        varied = _varied([entry for entry in rows if not entry["fixed"]])
        recipes: dict[str, list[dict[str, Any]]] = {}
        flat: dict[str, dict[str, Any]] = {}
        for entry in rows:
            own = {f"task.{key}": value for key, value in entry["options"].items() if key in varied}
            same = "" if entry["fixed"] else json.dumps([entry["recipe"], own], sort_keys=True)
            recipes.setdefault(same, []).append(entry)
            flat.setdefault(same, dict(_leaves(entry["recipe"])) | own)
        for arm, same in zip(_names(name, list(flat.values()), len(groups) == 1), recipes, strict=True):
            for entry in recipes[same]:
                entry["arm"] = name if entry["fixed"] else arm


def _varied(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """Name the options in which runs of one task differ; those of two tasks may, and be one arm all the same."""
    found: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        for key, value in entry["options"].items():
            found.setdefault((entry["task"], key), set()).add(str(value))
    return {key for (_, key), values in found.items() if len(values) > 1}


def _names(name: str, recipes: Sequence[Mapping[str, Any]], alone: bool) -> list[str]:
    """Name recipes by two of the options in which they differ, by more where two names are then equal.

    Those of a plugin come last where the plugins differ: they follow from it.

    >>> _names("r", [{"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 2}, {"a": 2, "b": 2, "c": 1}], True)
    ['a=1, b=1, c=1', 'a=1, b=1, c=2', 'a=2, b=2, c=1']
    >>> _names("r", [{"sampler.use": "grid", "sampler.size": 3, "lr": 1}, {"sampler.use": "random", "lr": 1}], True)
    ['sampler=grid, …', 'sampler=random, …']
    """
    if len(recipes) == 1:
        return [name]
    keys = dict.fromkeys(key for options in recipes for key in options)
    differ = [key for key in keys if len({str(options.get(key)) for options in recipes}) > 1]
    inside = {key: f"{key.removesuffix('.use')}." for key in differ}
    within = [key for key in differ if any(key.startswith(inside[other]) for other in differ if other != key)]
    differ = [key for key in differ if key not in within] + within
    made: list[str] = []
    for count in range(min(2, len(differ) - len(within)), len(differ) + 1):
        rest = ["…"] * (len(differ) > count)
        texts = [", ".join([*(_change(key, own, differ) for key in differ[:count]), *rest]) for own in recipes]
        made = texts if alone else [f"{name} ({text})" for text in texts]
        if len(set(made)) == len(made):
            return made
    return [f"{text} #{number}".strip() for number, text in enumerate(made, 1)]


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
    """List the options of a recipe by dotted path, stages and plugins in lists by name.

    >>> dict(_leaves({"modifiers": [{"use": "hspg", "eps": 0}, {"use": "kd"}]}))
    {'modifiers': 'hspg + kd', 'modifiers.hspg.eps': 0}
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and path == "stages":
        for stage in value:
            for verb, options in stage.items():
                name = (options or {}).get("name") or (options or {}).get("save_as") or verb
                yield from _leaves(options or {}, f"stages.{name}")
    elif names := _distinct_plugins(value):
        yield path, " + ".join(names)
        for item in value:
            yield from _leaves({key: inner for key, inner in item.items() if key != "use"}, f"{path}.{item['use']}")
    else:
        yield path, value


def _distinct_plugins(value: Any) -> list[str]:
    """Return the plugins of a list of plugins, none if one is there twice: their options are then one value.

    >>> _distinct_plugins([{"use": "hspg"}, {"use": "kd"}]), _distinct_plugins([{"use": "kd"}, {"use": "kd"}])
    (['hspg', 'kd'], [])
    """
    if not isinstance(value, list) or not all(isinstance(item, Mapping) and "use" in item for item in value):
        return []
    names = [item["use"] for item in value]
    return names if len(set(names)) == len(names) else []


def _tell_data_apart(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Rename the task of arms that have other data at equal seed; return what was found.

    What a study compares is compared: its arms may be variants of the training data.
    """
    notes: list[str] = []
    tasks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for entry in entries:
        sides = tasks.setdefault(entry["task"], {})
        sides.setdefault(f"the study {entry['study']}" if entry["study"] else entry["arm"], []).append(entry)
    for task, sides in tasks.items():
        clusters: list[dict[int, set[str]]] = []
        for side, rows in sides.items():
            data: dict[int, set[str]] = {}
            for entry in rows:
                data.setdefault(entry["seed"], set()).update({entry["data"]} if entry["data"] else ())
            same = (n for n, known in enumerate(clusters) if all(_shared(known, seed, d) for seed, d in data.items()))
            place = next(same, len(clusters))
            if place == len(clusters):
                clusters.append({})
            for seed, found in data.items():
                clusters[place].setdefault(seed, set()).update(found)
            if place:
                other = f"{task}, other data {min(next(found for found in data.values() if found))}"
                notes.append(
                    f"{side} has other data of {task} at equal seeds: shown as {other!r}, and not compared."
                    " All splits count, for runs do not record each split by itself."
                )
                for entry in rows:
                    entry["task"] = other
    return notes


def _shared(known: Mapping[int, set[str]], seed: int, data: set[str]) -> bool:
    """Tell whether data of a seed are among those known, as far as either is known."""
    return not data or not known.get(seed) or bool(known[seed] & data)
