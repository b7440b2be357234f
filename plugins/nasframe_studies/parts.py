"""Joins the parts of a study: directories that hold some of its arms, tasks and seeds, perhaps from several machines.

Runs are joined by arm, task and seed. What cannot be joined without a choice is refused with the reason: arms of one
name that are other recipes, results that differ for one arm, task and seed, settings of which only one can be followed.
What is chosen without asking is said in a note: of copies one counts, and of two runs the one that is finished.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

from nasframe.errors import UsageError, in_shell, listing
from nasframe.records import canonical_json
from nasframe_studies.arm_names import options_of
from nasframe_studies.found import FoundRun, Place
from nasframe_studies.settings import CompareOptions, Settings
from nasframe_studies.settings import settings as read_settings
from nasframe_studies.wording import plural

SHOWN = 3
"""Options, runs and seeds that an error or a note names; it counts the others."""
SWITCHES = {"groups": "group"}
"""Setting of a comparison → the switch of the command line that chooses it, if that has another name."""

Key = tuple[str, str, int]
"""What identifies a run in a comparison: arm, task and seed."""


def home_of(run: FoundRun) -> str:
    """Return the directory of a run's study, or that of a run of no study."""
    return run.study or run.run


def _together(runs: Iterable[FoundRun]) -> dict[Key, list[FoundRun]]:
    """Group runs by arm, task and seed."""
    groups: dict[Key, list[FoundRun]] = {}
    for run in runs:
        groups.setdefault(run.study_run().key, []).append(run)
    return groups


def _shown(runs: Sequence[FoundRun]) -> str:
    """Name the first of some runs."""
    names = [f"{run.arm} {run.task} seed {run.seed}" for run in runs[:SHOWN]]
    more = len(runs) - len(names)
    if more:
        names.append(f"{more} more")
    return ", ".join(names)


def _counted(noun: str, count: int) -> str:
    return f"{count} {plural(noun, count)}"


# ---- runs that are there more than once


def refuse_copies(found: Sequence[FoundRun]) -> None:
    """Make sure that no run stands for two arms, and that none is given twice; parts of studies may share copies.

    Raises:
        UsageError: a run is given twice, or a directory is a copy of another one's run.
    """
    firsts: dict[str, FoundRun] = {}
    for run in found:
        first = firsts.setdefault(run.recorded.identity, run)
        if first is run:
            continue
        are_parts = None not in (first.study, run.study) and first.study != run.study
        if are_parts and first.study_run().key == run.study_run().key:
            continue
        reason = "given twice" if first.run == run.run else f"a copy of {first.run}"
        raise UsageError(f"{run.run}: {reason}. Expected every run once.")


def without_duplicates(found: Sequence[FoundRun], prefer: str | None = None) -> tuple[list[FoundRun], list[str]]:
    """Leave one run for each arm, task and seed as far as it is clear which; the others stay, for an error.

    Args:
        found: the runs, whose arms have their names.
        prefer: the place whose runs count if others are the same arm, task and seed.

    Returns:
        The runs, and a note on each choice.

    Raises:
        UsageError: ``prefer`` is none of the places.
    """
    preferred = _preferred_place(found, prefer)
    dropped: dict[tuple[str, str, str], list[FoundRun]] = {}  # why, the directory that counts, their own directory
    for runs in _together(found).values():
        kept = _choice(runs, preferred)
        if kept is None:
            continue
        for run in runs:
            if run is not kept:
                why = _why(run, kept)
                dropped.setdefault((why, home_of(kept), home_of(run)), []).append(run)
    notes = []
    for (why, home, other), runs in dropped.items():
        count = _counted("run", len(runs))
        notes.append(f"Left out of {other}, counted in {home}: {count} ({why}): {_shown(runs)}.")
    left_out = {run.run for runs in dropped.values() for run in runs}
    return [run for run in found if run.run not in left_out], notes


def _preferred_place(found: Sequence[FoundRun], prefer: str | None) -> str | None:
    """Return the place that is preferred, as it was given."""
    if prefer is None:
        return None
    places = dict.fromkeys(run.place.text for run in found)
    for place in places:
        if prefer.rstrip("/") in (place.rstrip("/"), Place.read(place).path.rstrip("/")):
            return place
    raise UsageError(f"--prefer: {prefer!r} is none of the places. Expected one of {listing(places)}.")


def _choice(runs: Sequence[FoundRun], preferred: str | None) -> FoundRun | None:
    """Return which of several runs of an arm, task and seed counts; ``None`` if there is one, or it is not clear."""
    if len(runs) == 1:
        return None
    finished = [run for run in runs if run.recorded.is_finished]
    candidates = finished or runs  # whoever prefers a place does not want its gaps
    of_preferred = [run for run in candidates if run.place.text == preferred]
    if len(of_preferred) == 1:
        return of_preferred[0]
    has_one_result = len({run.recorded.identity for run in candidates}) == 1
    return candidates[0] if has_one_result or not finished else None


def _why(run: FoundRun, kept: FoundRun) -> str:
    """Say why another run counts in place of one."""
    if not kept.recorded.is_finished:
        return "not finished in either"
    if not run.recorded.is_finished:
        return "not finished in the former"
    if run.recorded.identity == kept.recorded.identity:
        return "copies"
    return "other results; the latter is preferred"


def refuse_equal(found: Sequence[FoundRun]) -> None:
    """Make sure that no two runs are the same arm, task and seed.

    Raises:
        UsageError: some are; names them, and the ways out.
    """
    both = []
    for runs in _together(found).values():
        for other in runs[1:]:
            both.append((runs[0], other))
    if not both:
        return
    first, other = both[0]
    # The shortest advice that tells them apart: the places as given, or the runs if both are of one place.
    one, two = first.place.path, other.place.path
    choice = ""
    if one == two:
        one, two = first.run, other.run
    else:
        choice = f"; or choose whose runs count: --prefer {in_shell(first.place.text)}"
    more = ""
    if len(both) > 1:
        more = f" {_counted('more pair', len(both) - 1)} likewise."
    raise UsageError(
        f"{other.run}: the same arm {other.arm!r}, task {other.task!r} and seed {other.seed} as {first.run}.{more}"
        f" Expected runs that differ; name them apart: nasframe compare first={one} second={two}{choice}"
    )


# ---- arms that are not the same


def refuse_unlike_arms(found: Sequence[FoundRun]) -> None:
    """Make sure that arms of one name are one recipe in all studies; seeds, tasks and places of files may differ.

    Raises:
        UsageError: an arm is another recipe in another study; names the options.
    """
    homes = dict.fromkeys(run.study for run in found if run.study is not None)
    studies = {home: read_settings(home) for home in homes}
    firsts: dict[str, dict[tuple[str, str], FoundRun]] = {}  # arm → study and task → the first run
    for run in found:
        # Whoever gives two places one name means their arms to be the same.
        if run.study is not None and run.recorded.recipe and not run.place.label:
            firsts.setdefault(run.arm, {}).setdefault((run.study, run.task), run)
    lines: dict[tuple[str, str, str], str] = {}  # one for each arm and pair of studies
    for arm, runs in firsts.items():
        for one, other in combinations(runs.values(), 2):
            pair = (arm, str(one.study), str(other.study))
            changes = _differences(one, other, studies) if one.study != other.study and pair not in lines else []
            if changes:
                lines[pair] = (
                    f"arm {arm!r} is another recipe in {other.study} than in {one.study}: {'; '.join(changes)}."
                    " Expected parts of one study; name them apart: nasframe compare "
                    f"first={in_shell(one.place.path)} second={in_shell(other.place.path)}"
                )
    if lines:
        raise UsageError("\n".join(lines.values()))


def _differences(first: FoundRun, other: FoundRun, studies: Mapping[str, Settings]) -> list[str]:
    """Return the options in which two runs of one arm differ, as texts; of different tasks, those that the arm sets."""
    if first.task == other.task:
        options = options_of(portable({**first.recorded.arm_recipe, "task": first.recorded.task_options}))
        others = options_of(portable({**other.recorded.arm_recipe, "task": other.recorded.task_options}))
    else:  # a study's tasks may change its recipes, so only what the arm itself changes is the same
        assert first.study is not None
        assert other.study is not None
        options = _changes(studies[first.study], first.arm)
        others = _changes(studies[other.study], other.arm)
    texts = []
    for path in dict.fromkeys([*options, *others]):
        before, after = options.get(path), others.get(path)
        if canonical_json(before) != canonical_json(after):
            texts.append(f"{path} {_written(after)} instead of {_written(before)}")
    if len(texts) > SHOWN:
        texts[SHOWN:] = [f"and {len(texts) - SHOWN} more"]
    return texts


def _changes(study: Settings, arm: str) -> dict[str, Any]:
    changes: dict[str, Any] = portable(study.arms.get(arm, {}).get("changes", {}))
    return changes


def _written(value: Any) -> str:
    return "nothing" if value is None else str(value)


def portable(value: Any) -> Any:
    """Return an option's value with the last parts of absolute paths in their place: files lie elsewhere elsewhere.

    >>> portable({"plugins": ["/home/me/x.py"], "epochs": 2})
    {'plugins': ['…/x.py'], 'epochs': 2}
    """
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str) and os.path.isabs(value):
        return f"…/{Path(value).name}"
    return value


# ---- settings


def joined_settings(found: Sequence[FoundRun], given: Iterable[str] = ()) -> tuple[Settings, list[str]]:
    """Return the settings of the study that all runs are of, or what its parts have in common; else empty ones.

    Args:
        found: the runs.
        given: the settings of the comparison that the user gives, which need not agree.

    Returns:
        The settings, and notes on what was joined.

    Raises:
        UsageError: the parts of a study are to be compared in different ways.
    """
    homes = dict.fromkeys(run.study for run in found)
    if None in homes:
        return Settings(), []
    studies = {home: read_settings(home) for home in homes if home is not None}
    # With a label an arm is called NAME/arm.
    if any(run.arm not in studies[run.study].arms for run in found if run.study is not None):
        return Settings(), []
    first, *others = studies.values()
    if not others:
        return first, []
    names = dict.fromkeys(study.study for study in studies.values())
    if len(names) > 1:
        text = (
            f"These are runs of different studies ({', '.join(names)}), so that no study's settings are followed: "
            "the reference is the first arm unless --against names another one."
        )
        return Settings(), [text]
    _refuse_unlike_settings(studies, set(given))
    arms: dict[str, Mapping[str, Any]] = {}
    tasks: dict[str, None] = {}
    for study in studies.values():
        arms = {**study.arms, **arms}
        tasks |= dict.fromkeys(study.tasks)
    in_order = dict.fromkeys(arm for study in studies.values() for arm in study.arms)
    joined = Settings(
        study=first.study,
        description=first.description,
        arms={arm: arms[arm] for arm in in_order},
        tasks=list(tasks),
        compare=first.compare,
    )
    return joined, [_parts_note(found)]


def _parts_note(found: Sequence[FoundRun]) -> str:
    """Say which directories were joined."""
    counts = Counter(home_of(run) for run in found)
    places = [f"{home} ({_counted('run', count)})" for home, count in counts.items()]
    return f"Joined by arm, task and seed from {len(counts)} directories: {', '.join(places)}."


def _refuse_unlike_settings(studies: Mapping[str, Settings], given: set[str]) -> None:
    """Make sure that the parts of a study are to be compared in one way, as far as the user does not choose it.

    Raises:
        UsageError: they are not; names each setting with its values, and the switch that chooses one.
    """
    lines = list(_unlike_settings(studies, given))
    if lines:
        raise UsageError("\n".join(lines))


def _unlike_settings(studies: Mapping[str, Settings], given: set[str]) -> Iterator[str]:
    for option in fields(CompareOptions):
        # Budgets are part of every recipe, and recipes of an arm are compared by themselves.
        if option.name in given or option.name == "budgets":
            continue
        values = {home: getattr(study.compare, option.name) for home, study in studies.items()}
        if option.name == "against":  # the default is the first arm
            values = {home: value or next(iter(studies[home].arms), None) for home, value in values.items()}
        if len({canonical_json(value) for value in values.values()}) > 1:
            shown = ", ".join(f"{_written(value)} in {home}" for home, value in values.items())
            switch = SWITCHES.get(option.name, option.name)
            yield f"compare.{option.name} differs between the parts: {shown}. Expected one; choose it with --{switch}."
