"""What differs between the arms of a comparison beside what is compared: teachers, machines, data, budgets.

Each function looks for one such difference and words it as notes for the page. A difference that leaves nothing to
compare is refused by :func:`check_metrics`; all others are shown, since a user may have meant them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.report import tables
from nasframe.report.read import AXES

if TYPE_CHECKING:
    import pandas as pd

    from nasframe_studies.run_facts import RunFacts

DIGITS = 9
"""Costs of full networks are equal if they agree to so many significant digits: they are quotients of floats."""
VERSIONS = ("torch", "transformers", "tokenizers", "numpy")
"""Packages whose versions are compared between runs."""
TIMES_AND_NUMBERS = "Scores and times may depend on that."


# ---- teachers


@dataclass(frozen=True)
class UnlikeCost:
    """A cost in which the full networks of a task's arms differ.

    Args:
        task: the task.
        cost: the cost.
        full: arm → the cost of its full network, rounded; ``None`` if its runs have no teacher.
    """

    task: str
    cost: str
    full: Mapping[str, Sequence[float | None]]


def unlike_costs(found: pd.DataFrame) -> list[UnlikeCost]:
    """Find the costs whose shares of the teacher's mean different sizes in different arms.

    Measured costs differ with every measurement. They count as unlike if a counted cost of that task is.

    Args:
        found: the compared models, with ``<cost>`` and ``<cost>_relative``.
    """
    unlike = []
    names = [name.removesuffix("_relative") for name in map(str, found) if name.endswith("_relative")]
    counted = [name for name in names if f"{name}_spread" not in found]
    measured = [name for name in names if name not in counted]
    for task, rows in found.groupby("task", sort=False):
        own = [UnlikeCost(str(task), cost, _full_costs(rows, cost)) for cost in counted]
        own = [each for each in own if len({value for values in each.full.values() for value in values}) > 1]
        unlike += own
        if own:
            unlike += [UnlikeCost(str(task), cost, {}) for cost in measured]
    return unlike


def _full_costs(rows: pd.DataFrame, cost: str) -> dict[str, list[float | None]]:
    """Return arm → the distinct costs of its runs' full networks."""
    full: dict[str, dict[float | None, None]] = {}
    for arm, value, share in rows[["arm", cost, f"{cost}_relative"]].itertuples(index=False, name=None):
        if value != value:
            continue  # not measured, so that there is nothing to compare
        whole = float(f"{value / share:.{DIGITS}g}") if share == share and share else None
        full.setdefault(str(arm), {})[whole] = None
    return {arm: list(values) for arm, values in full.items()}


def absolute_costs(unlike: Sequence[UnlikeCost]) -> list[str]:
    """Name the costs that are compared in absolute numbers, since shares of different networks are not comparable."""
    return list(dict.fromkeys(each.cost for each in unlike))


def teacher_notes(unlike: Sequence[UnlikeCost], found: pd.DataFrame) -> Iterator[str]:
    """Say on which tasks the arms' teachers differ, by the cost that readers know best."""
    slots = sorted({slot for slot in found["slot"] if "%" in slot})
    tasks: dict[str, list[str]] = {}
    for task in dict.fromkeys(each.task for each in unlike):
        difference = _difference([each for each in unlike if each.task == task], slots)
        tasks.setdefault(difference, []).append(task)
    for difference, own in tasks.items():
        yield f"TEACHERS DIFFER on {', '.join(own)}: {difference}"


def _difference(costs: Sequence[UnlikeCost], slots: Sequence[str]) -> str:
    """Say how the full networks of a task differ, and what follows from it."""
    first = min((each for each in costs if each.full), key=_familiarity)
    sizes = _grouped({arm: [_size(first.cost, value) for value in values] for arm, values in first.full.items()})
    others = [each.cost for each in costs if each is not first]
    also = f" (also in {', '.join(others)})" if others else ""
    text = f"the full network has {first.cost} {sizes}{also}."
    text += " Costs are compared in absolute numbers, for shares of different networks have no common measure."
    if slots and all(None not in values for values in first.full.values()):
        text += f" Budgets that are shares ({', '.join(slots)}) allow the arms different sizes."
    return text


def _familiarity(unlike: UnlikeCost) -> int:
    return AXES.index(unlike.cost) if unlike.cost in AXES else len(AXES)


def _size(cost: str, value: float | None) -> str:
    return "unknown, without a teacher" if value is None else tables.cost(cost, {cost: value})


def _grouped(values: Mapping[str, Sequence[str]]) -> str:
    """Write which arms have which value.

    >>> _grouped({"a": ["1"], "b": ["2"], "c": ["1", "2"]})
    '1 (a, c), 2 (b, c)'
    """
    arms: dict[str, list[str]] = {}
    for arm, own in values.items():
        for value in own:
            arms.setdefault(value, []).append(arm)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in arms.items())


# ---- budgets


def budget_notes(runs: Sequence[RunFacts], found: pd.DataFrame) -> Iterator[str]:
    """Say where one name of a budget bounds different costs in different arms."""
    budgets = set(found["budget"].dropna())
    for task in dict.fromkeys(run.task for run in runs):
        costs: dict[str, dict[str, None]] = {}
        for run in runs:
            if run.task == task and run.cost:
                costs.setdefault(run.arm, {})[run.cost] = None
        if budgets and len({cost for own in costs.values() for cost in own}) > 1:
            bounded = _grouped({arm: list(own) for arm, own in costs.items()})
            text = f"BUDGETS OF ONE NAME bound different costs on {task}: {bounded}."
            yield f"{text} They allow the arms different sizes."


def network_notes(found: pd.DataFrame) -> Iterator[str]:
    """Say in which arms one network of a run answers several budgets, and how that is counted."""
    if "network" not in found:
        return
    runs = found.groupby("arm", sort=False)[["task", "seed"]].apply(lambda own: len(own.drop_duplicates()))
    shared: dict[str, dict[str, int]] = {}
    known = found[found["network"].notna()]
    for (arm, _, _, _), rows in known.groupby(["arm", "task", "seed", "network"], sort=False):
        if len(rows) > 1:
            models = " = ".join(rows["model"])
            counts = shared.setdefault(str(arm), {})
            counts[models] = counts.get(models, 0) + 1
    if shared:
        arms = []
        for arm, counts in shared.items():
            pairs = ", ".join(f"{models} in {count} of {runs[arm]} runs" for models, count in counts.items())
            arms.append(f"{arm}: {pairs}")
        yield (
            f"One network answers several budgets ({'; '.join(arms)}): their rows are not independent. It is one point"
            " of its run's front, and two budgets with the same networks on both sides at every seed are one test."
        )


def over_budget_notes(found: pd.DataFrame) -> Iterator[str]:
    """Say which compared models are over their budgets by their final costs."""
    if "over_budget" not in found:
        return
    broken = found[found["over_budget"].notna()]
    for (arm, task, slot), rows in broken.groupby(["arm", "task", "slot"], sort=False):
        every = found[(found["arm"] == arm) & (found["task"] == task) & (found["slot"] == slot)]
        each = "; ".join(f"seed {seed}: {text}" for seed, text in zip(rows["seed"], rows["over_budget"], strict=True))
        yield f"OVER BUDGET: {arm}, {slot} on {task}, in {len(rows)} of {len(every)} runs ({each})."


def group_notes(found: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Say where the tasks of a group have several models a run, which then keep names of their own."""
    from nasframe_studies.pairs import group_of

    for task, rows in found.groupby("task", sort=False):
        group = group_of(str(task), groups)
        apart = rows[rows["slot"] != group]
        if group is not None and len(apart):
            models = ", ".join(dict.fromkeys(apart["slot"]))
            yield (
                f"Group {group}: runs of {task} have several models ({models}), which are compared each under its own"
                " name. Expected one model a run in a group; choose it with 'models'."
            )


# ---- metrics and data


def check_metrics(found: pd.DataFrame, compare: Mapping[str, Any]) -> None:
    """Make sure that the scores of a task are of one metric.

    Raises:
        UsageError: arms are scored by different metrics on one task.
    """
    for task, rows in found.groupby("task", sort=False):
        if rows["metric"].nunique() < 2:
            continue
        metrics = {str(arm): list(dict.fromkeys(own["metric"])) for arm, own in rows.groupby("arm", sort=False)}
        raise UsageError(
            f"{task}: the arms are scored by different metrics: {_grouped(metrics)}. Expected one metric a task:"
            " --metric NAME, or 'compare: {metric: NAME}' in the study."
        )


def data_notes(runs: Sequence[RunFacts], split: str, metrics: Sequence[str]) -> Iterator[str]:
    """Say where arms of one task and seed have different data, labels, or other definitions of their scores.

    Args:
        runs: what was read.
        split: what scores are of.
        metrics: the compared ones.
    """
    for task in dict.fromkeys(run.task for run in runs):
        own = [run for run in runs if run.task == task and run.data]
        facts = {
            f"{split} examples": lambda run: (run.data.get("sizes") or {}).get(split),
            "classes": lambda run: _classes(run, metrics),
            "positive class": lambda run: _positive_class(run, metrics),
        }
        scored = []
        for name, read in facts.items():
            values = _by_arm(own, lambda run, read=read: _text(read(run)))
            if _differ(values):
                scored.append(f"{name}: {_grouped(values)}")
        if scored:
            yield f"SCORES ARE NOT OF THE SAME EXAMPLES OR CLASSES on {task}. {'; '.join(scored)}."
        unlike = _unlike_data(own)
        if unlike and not scored:
            yield (
                f"{task}: {', '.join(unlike)} had other data than {own[0].arm} at equal seeds. Runs record one"
                " fingerprint of all splits, so it may be the training data alone."
            )


def _classes(run: RunFacts, metrics: Sequence[str]) -> Sequence[str] | None:
    """Return a run's classes, in an order of their own: that of its head changes no score.

    Only if ``f1`` is compared and the run does not say of which class it is, the head's order decides that.
    """
    labels: Sequence[str] | None = run.data.get("labels")
    if labels is None or ("f1" in metrics and _positive_class(run, ["f1"]) is None):
        return labels
    return sorted(labels)


def _positive_class(run: RunFacts, metrics: Sequence[str]) -> str | None:
    """Return the class that the compared metrics of a run are about, if they are about one."""
    for metric in metrics:
        positive: str | None = (run.formats.get(metric) or {}).get("positive")
        if positive is not None:
            return positive
    return None


def check_directions(found: pd.DataFrame, formats: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Make sure that more is better of every compared metric, as tables, tests and arrows take it to be.

    Args:
        found: the compared scores.
        formats: task → metric → how it reads.

    Raises:
        UsageError: less is better of one.
    """
    for task, metric in dict.fromkeys(zip(found["task"], found["metric"], strict=True)):
        form = formats.get(task, {}).get(metric)
        if form is not None and not form["higher_is_better"]:
            raise UsageError(f"compare.metric: less is better of {metric!r} on {task}. Expected a score to maximise.")


def _unlike_data(runs: Sequence[RunFacts]) -> list[str]:
    """Name the arms whose data differ from the first arm's at a seed that both have."""
    if not runs:
        return []
    first = {run.seed: run.data.get("fingerprint") for run in runs if run.arm == runs[0].arm}
    unlike = [run.arm for run in runs if run.seed in first and run.data.get("fingerprint") != first[run.seed]]
    return list(dict.fromkeys(unlike))


def example_notes(examples: Sequence[Mapping[str, Any]], against: str) -> Iterator[str]:
    """Say which pairs of models were scored on different examples, by their stored predictions."""
    pairs: dict[tuple[str, str], dict[int, None]] = {}
    for row in examples:
        if row["note"] == OTHER_EXAMPLES:
            pairs.setdefault((row["arm"], row["task"]), {})[row["seed"]] = None
    for (arm, task), seeds in pairs.items():
        noun = "seed" if len(seeds) == 1 else "seeds"
        where = f"{task}, {noun} {', '.join(map(str, seeds))}"
        text = f"{arm} and {against} WERE SCORED ON DIFFERENT EXAMPLES OR LABELS ({where})."
        yield f"{text} Their scores differ by that too."


OTHER_EXAMPLES = "other examples or labels"
"""The note of a pair of models whose stored predictions are of different examples."""


# ---- machines, versions, precision


def condition_notes(runs: Sequence[RunFacts]) -> Iterator[str]:
    """Say in one note in which conditions the runs differ: processor, threads, precision, versions."""
    differing = []
    for name in dict.fromkeys(name for run in runs for name in run.conditions):
        values = _by_arm(runs, lambda run, name=name: run.conditions.get(name, ()))
        if _differ(values):
            differing.append(f"{name} {_grouped(values)}")
    if differing:
        yield f"RUNS HAD DIFFERENT CONDITIONS: {'; '.join(differing)}. {TIMES_AND_NUMBERS}"


def conditions(report: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return under which conditions a run took place, by name; several values if it went on under others.

    Args:
        report: what :func:`nasframe.report.read.gather` returned.
    """
    values: dict[str, dict[str, None]] = {}
    for environment in report["environments"]:
        versions = environment.get("versions") or {}
        facts = {
            "processor": environment.get("processor"),
            "device": environment.get("device"),
            "accelerator": environment.get("accelerator"),
            "threads": environment.get("threads"),
            "processes": environment.get("processes"),
            **{name: versions.get(name) for name in VERSIONS},
            "python": environment.get("python"),
            "nasframe": environment.get("nasframe"),
            "nasframe's commit": _commit(environment.get("git")),
            **_precisions(report["recipe"], environment.get("bf16")),
        }
        for name, value in facts.items():
            if value is not None:
                values.setdefault(name, {})[str(value)] = None
    return {name: tuple(own) for name, own in values.items()}


def _commit(text: str | None) -> str | None:
    """Shorten a commit, and keep the mark of files that differ from it.

    >>> _commit("9765dc77b928277d109b8850910249a23ad16b9b-dirty")
    '9765dc77-dirty'
    """
    if text is None:
        return None
    commit, dash, mark = text.partition("-")
    return f"{commit[:8]}{dash}{mark}"


def _precisions(recipe: str, native: bool | None) -> dict[str, str]:
    """Return the precision of training, search and evaluation; ``auto`` as the machine took it, if that is known."""
    import yaml

    loaded = yaml.safe_load(recipe)
    stages = loaded.get("stages") or [] if isinstance(loaded, dict) else []
    auto = {True: "bf16 (auto)", False: "fp32 (auto)", None: "auto"}[native]
    precisions: dict[str, dict[str, None]] = {}
    for stage in stages:
        for verb, options in stage.items():
            precision = (options or {}).get("precision")
            if precision is not None:
                text = auto if precision == "auto" else str(precision)
                precisions.setdefault(f"precision of {verb}", {})[text] = None
    return {name: " and ".join(sorted(values)) for name, values in precisions.items()}


def _by_arm(runs: Sequence[RunFacts], read: Any) -> dict[str, list[str]]:
    """Return arm → the distinct values that its runs have."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        own = values.setdefault(run.arm, {})
        own |= dict.fromkeys(read(run))
    return {arm: list(own) for arm, own in values.items()}


def _differ(values: Mapping[str, Sequence[str]]) -> bool:
    return len({value for own in values.values() for value in own}) > 1


def _text(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value),)


# ---- notices


def notices(directory: Any, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Collect what the runs of a comparison noticed or decided by themselves, each once, with the arms it concerns.

    Args:
        directory: what the runs' places are read from.
        settings: as :func:`nasframe_studies.study.settings` returns.
    """
    from pathlib import Path

    from nasframe.store import RunStore

    collected: dict[tuple[str, str], dict[str, None]] = {}
    for run in settings["runs"]:
        place = Path(directory) / run["run"]
        if not (place / "run.db").is_file():
            continue
        store = RunStore(place, shared=True)
        try:
            kept = store.get("notices", [])
        finally:
            store.close()
        for notice in kept:
            collected.setdefault((notice["place"], notice["text"]), {})[run["arm"]] = None
    return [{"place": place, "text": text, "arms": list(arms)} for (place, text), arms in collected.items()]


def notice_line(notice: Mapping[str, Any], arms: Sequence[str]) -> str:
    """Write a notice with the arms that it concerns.

    >>> notice_line({"place": "model", "text": "The head is new.", "arms": ["a"]}, ["a", "b"])
    'model: The head is new. (a)'
    """
    whom = "all arms" if set(notice["arms"]) == set(arms) else ", ".join(notice["arms"])
    suffix = "" if len(arms) == 1 else f" ({whom})"
    return f"{notice['place']}: {notice['text']}{suffix}"
