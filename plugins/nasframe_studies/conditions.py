"""Differences between the arms of a comparison other than the compared one: teachers, machines, data, budgets.

Each function looks for one such difference and words it as notes for the page. A difference that leaves nothing to
compare is rejected by :func:`check_metrics` or :func:`check_directions`; all others are shown, since they may be
intended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.records import MetricFormat
from nasframe.report import tables
from nasframe.report.read import AXES
from nasframe.store import RunStore
from nasframe_studies.pairs import group_of, relative_costs
from nasframe_studies.processors import CONDITIONS, processors
from nasframe_studies.records import OTHER_EXAMPLES, ExamplePair, Notice
from nasframe_studies.run_facts import RunFacts, by_task
from nasframe_studies.settings import Settings
from nasframe_studies.wording import grouped, plural

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 9
"""Significant digits to which costs of equal full networks agree: they are quotients of floats."""
TIMES_AND_NUMBERS = "Scores and times may depend on that."


def _by_arm(values: Iterable[tuple[str, Iterable[str]]]) -> dict[str, list[str]]:
    """Collect the distinct values of each arm from pairs of an arm and the values that one of its runs has."""
    distinct: dict[str, dict[str, None]] = {}
    for arm, of_run in values:
        of_arm = distinct.setdefault(arm, {})
        for value in of_run:
            of_arm[value] = None
    return {arm: list(of_arm) for arm, of_arm in distinct.items()}


def _differ(values: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether arms, or runs of one arm, have different values."""
    distinct = set().union(*values.values())
    return len(distinct) > 1


# ---- teachers


@dataclass(frozen=True)
class UnlikeCost:
    """A cost in which the full networks of a task's arms differ.

    Args:
        task: the task.
        cost: the cost.
        full: arm → the costs of its full networks, rounded; ``None`` if its runs have no teacher.
    """

    task: str
    cost: str
    full: Mapping[str, Sequence[float | None]]

    @property
    def familiarity(self) -> int:
        """The place of the cost among those that readers know, the best known first."""
        if self.cost not in AXES:
            return len(AXES)
        return AXES.index(self.cost)


def unlike_costs(compared: pd.DataFrame) -> list[UnlikeCost]:
    """Find the costs whose shares of the teacher's mean different sizes in different arms.

    Measured costs differ with every measurement. They count as unlike if a counted cost of that task is.

    Args:
        compared: the compared models, with ``<cost>`` and ``<cost>_relative``.
    """
    unlike = []
    counted = []
    measured = []
    for cost in relative_costs(map(str, compared)):
        if f"{cost}_spread" in compared:  # only measurements have a spread
            measured.append(cost)
        else:
            counted.append(cost)
    for task, rows in compared.groupby("task", sort=False):
        of_task = []
        for cost in counted:
            full = _full_costs(rows, cost)
            distinct = set().union(*full.values())
            if len(distinct) > 1:
                of_task.append(UnlikeCost(str(task), cost, full))
        if of_task:
            of_task += [UnlikeCost(str(task), cost, {}) for cost in measured]
        unlike += of_task
    return unlike


def _full_costs(rows: pd.DataFrame, cost: str) -> dict[str, list[float | None]]:
    """Return arm → the distinct costs of its runs' full networks."""
    full: dict[str, dict[float | None, None]] = {}
    measured = rows[rows[cost].notna()]  # a cost that was not measured differs from nothing
    for arm, value, share in measured[["arm", cost, f"{cost}_relative"]].itertuples(index=False, name=None):
        whole = None
        if share == share and share:
            whole = float(f"{value / share:.{DIGITS}g}")
        full.setdefault(str(arm), {})[whole] = None
    return {arm: list(values) for arm, values in full.items()}


def absolute_costs(unlike: Sequence[UnlikeCost]) -> list[str]:
    """Name the costs that are compared in absolute numbers, since shares of different networks are not comparable."""
    return list(dict.fromkeys(each.cost for each in unlike))


def teacher_notes(unlike: Sequence[UnlikeCost], compared: pd.DataFrame) -> Iterator[str]:
    """Name the tasks on which the arms' teachers differ, with the difference in the cost that readers know best."""
    shares = sorted({slot for slot in compared["slot"] if "%" in slot})
    costs: dict[str, list[UnlikeCost]] = {}
    for cost in unlike:
        costs.setdefault(cost.task, []).append(cost)
    tasks: dict[str, list[str]] = {}
    for task, of_task in costs.items():
        tasks.setdefault(_difference(of_task, shares), []).append(task)
    for difference, names in tasks.items():
        yield f"TEACHERS DIFFER on {', '.join(names)}: {difference}"


def _difference(costs: Sequence[UnlikeCost], shares: Sequence[str]) -> str:
    """Describe how the full networks of a task differ, and what follows from it."""
    known = [cost for cost in costs if cost.full]  # those of measured costs are not
    first = min(known, key=lambda cost: cost.familiarity)
    sizes: dict[str, list[str]] = {}
    for arm, values in first.full.items():
        sizes[arm] = [_size(first.cost, value) for value in values]
    text = f"the full network has {first.cost} {grouped(sizes)}"
    others = [cost.cost for cost in costs if cost is not first]
    if others:
        text += f" (also in {', '.join(others)})"
    text += ". Costs are compared in absolute numbers, for shares of different networks have no common measure."
    all_have_teachers = all(None not in values for values in first.full.values())
    if shares and all_have_teachers:
        text += f" Budgets that are shares ({', '.join(shares)}) allow the arms different sizes."
    return text


def _size(cost: str, value: float | None) -> str:
    if value is None:
        return "unknown, without a teacher"
    return tables.cost(cost, {cost: value})


# ---- budgets


def budget_notes(runs: Sequence[RunFacts], compared: pd.DataFrame) -> Iterator[str]:
    """Name the tasks on which one name of a budget bounds different costs in different arms."""
    if compared["budget"].isna().all():
        return
    for task, of_task in by_task(runs).items():
        costs = _by_arm((run.arm, [run.cost]) for run in of_task if run.cost)
        if _differ(costs):
            text = f"BUDGETS OF ONE NAME bound different costs on {task}: {grouped(costs)}."
            yield f"{text} They allow the arms different sizes."


def network_notes(compared: pd.DataFrame) -> Iterator[str]:
    """Say in which arms one network of a run answers several budgets, and how that is counted."""
    if "network" not in compared:
        return
    shared: dict[str, dict[str, int]] = {}
    known = compared[compared["network"].notna()]
    for (arm, _, _, _), rows in known.groupby(["arm", "task", "seed", "network"], sort=False):
        if len(rows) > 1:
            models = " = ".join(rows["model"])
            counts = shared.setdefault(str(arm), {})
            counts[models] = counts.get(models, 0) + 1
    if not shared:
        return
    arms = []
    for arm, counts in shared.items():
        runs = compared.loc[compared["arm"] == arm, ["task", "seed"]].drop_duplicates()
        listed = ", ".join(f"{models} in {count} of {len(runs)} runs" for models, count in counts.items())
        arms.append(f"{arm}: {listed}")
    yield (
        f"One network answers several budgets ({'; '.join(arms)}): their rows are not independent. It is one point"
        " of its run's front, and two budgets with the same networks on both sides at every seed are one test."
    )


def over_budget_notes(compared: pd.DataFrame) -> Iterator[str]:
    """Name the compared models that are over their budgets by their final costs."""
    if "over_budget" not in compared:
        return
    groups = ["arm", "task", "slot"]
    runs = compared.groupby(groups).size().to_dict()
    broken = compared[compared["over_budget"].notna()]
    for (arm, task, slot), rows in broken.groupby(groups, sort=False):
        seeds = zip(rows["seed"], rows["over_budget"], strict=True)
        listed = "; ".join(f"seed {seed}: {text}" for seed, text in seeds)
        yield f"OVER BUDGET: {arm}, {slot} on {task}, in {len(rows)} of {runs[arm, task, slot]} runs ({listed})."


def group_notes(compared: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Name the tasks of groups whose runs have several models, which then keep names of their own."""
    for task, rows in compared.groupby("task", sort=False):
        group = group_of(str(task), groups)
        apart = rows[rows["slot"] != group]
        if group is not None and len(apart):
            models = ", ".join(dict.fromkeys(apart["slot"]))
            yield (
                f"Group {group}: runs of {task} have several models ({models}), which are compared each under its own"
                " name. Expected one model a run in a group; choose it with 'models'."
            )


# ---- metrics and data


def check_metrics(compared: pd.DataFrame) -> None:
    """Make sure that the scores of a task are of one metric.

    Raises:
        UsageError: arms are scored by different metrics on one task.
    """
    for task, rows in compared.groupby("task", sort=False):
        if rows["metric"].nunique() < 2:
            continue
        metrics = {str(arm): rows["metric"].unique() for arm, rows in rows.groupby("arm", sort=False)}
        raise UsageError(
            f"{task}: the arms are scored by different metrics: {grouped(metrics)}. Expected one metric a task:"
            " --metric NAME, or 'compare: {metric: NAME}' in the study."
        )


def check_directions(compared: pd.DataFrame, formats: Mapping[str, Mapping[str, MetricFormat]]) -> None:
    """Make sure that more is better of every compared metric, as tables, tests and arrows take it to be.

    Args:
        compared: the compared models.
        formats: task → metric → how it reads.

    Raises:
        UsageError: less is better of one.
    """
    for task, metric in dict.fromkeys(zip(compared["task"], compared["metric"], strict=True)):
        form = formats.get(task, {}).get(metric)
        if form is not None and not form.higher_is_better:
            raise UsageError(f"compare.metric: less is better of {metric!r} on {task}. Expected a score to maximise.")


def number_notes(invalid: pd.DataFrame) -> Iterator[str]:
    """List the scores that are no finite numbers."""
    for row in invalid.to_dict("records"):
        yield (
            f"NO NUMBER: {row['metric']} of {row['model']} is {row['score']} in {row['arm']} on {row['task']}, seed"
            f" {row['seed']}; left out."
        )


def data_notes(runs: Sequence[RunFacts], split: str, metrics: Sequence[str]) -> Iterator[str]:
    """Name the tasks on which arms have other data at equal seeds, other labels, or other definitions of their scores.

    Args:
        runs: as :func:`nasframe_studies.run_facts.read_runs` returns.
        split: whose examples the scores are of.
        metrics: the compared ones.
    """
    for task, of_task in by_task(runs).items():
        described = [run for run in of_task if run.data]
        facts: dict[str, list[tuple[str, list[str]]]] = {}
        for run in described:
            for name, value in _data_facts(run, split, metrics).items():
                facts.setdefault(name, []).append((run.arm, _text(value)))
        differences = []
        for name, of_runs in facts.items():
            values = _by_arm(of_runs)
            if _differ(values):
                differences.append(f"{name}: {grouped(values)}")
        unlike = _unlike_data(described)
        if differences:
            yield f"SCORES ARE NOT OF THE SAME EXAMPLES OR CLASSES on {task}. {'; '.join(differences)}."
        elif unlike:
            yield (
                f"{task}: {', '.join(unlike)} had other data than {described[0].arm} at equal seeds. Runs record one"
                " fingerprint of all splits, so it may be the training data alone."
            )


def _data_facts(run: RunFacts, split: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Return what scores of a run depend on, by the name that a note gives it."""
    sizes = run.data.get("sizes") or {}
    return {
        f"{split} examples": sizes.get(split),
        "classes": _classes(run, metrics),
        "positive class": _positive_class(run, metrics),
    }


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
        form = run.formats.get(metric)
        if form is not None and form.positive is not None:
            return form.positive
    return None


def _text(value: Any) -> list[str]:
    """Write a fact of a run; nothing if it is not known."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [", ".join(map(str, value))]
    return [str(value)]


def _unlike_data(runs: Sequence[RunFacts]) -> list[str]:
    """Name the arms whose data differ from the first arm's at a seed that both have."""
    if not runs:
        return []
    first = {run.seed: run.data.get("fingerprint") for run in runs if run.arm == runs[0].arm}
    unlike: dict[str, None] = {}
    for run in runs:
        if run.seed in first and run.data.get("fingerprint") != first[run.seed]:
            unlike[run.arm] = None
    return list(unlike)


def example_notes(examples: Sequence[ExamplePair], against: str) -> Iterator[str]:
    """Name the pairs of models that were scored on different examples, by their stored predictions."""
    pairs: dict[tuple[str, str], dict[str, None]] = {}
    for pair in examples:
        if pair.note == OTHER_EXAMPLES:
            pairs.setdefault((pair.arm, pair.task), {})[str(pair.seed)] = None
    for (arm, task), seeds in pairs.items():
        noun = plural("seed", len(seeds))
        text = f"{arm} and {against} WERE SCORED ON DIFFERENT EXAMPLES OR LABELS ({task}, {noun} {', '.join(seeds)})."
        yield f"{text} Their scores differ by that too."


def aim_notes(unlike: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Name the tasks whose searches aimed at different metrics.

    Args:
        unlike: as :func:`nasframe_studies.evidence.unlike_aims` returns.
    """
    for task, aims in unlike.items():
        yield (
            f"{task}: the searches aimed at {' and '.join(aims)}, so their curves and fronts are not set side by side."
        )


# ---- machines, versions, precision


def condition_notes(runs: Sequence[RunFacts]) -> Iterator[str]:
    """List in one note the conditions in which the runs differ: processor, threads, precision, versions."""
    names: dict[str, None] = {}
    for run in runs:
        names |= dict.fromkeys(run.conditions)
    several_kinds = bool(processors(runs).kinds)
    differing = []
    for name in names:
        if several_kinds and name in CONDITIONS:  # a note of its own says so
            continue
        values = _by_arm((run.arm, run.conditions.get(name, ())) for run in runs)
        if _differ(values):
            differing.append(f"{name} {grouped(values)}")
    if differing:
        yield f"RUNS HAD DIFFERENT CONDITIONS: {'; '.join(differing)}. {TIMES_AND_NUMBERS}"


# ---- notices


def notices(directory: str | Path, settings: Settings | Mapping[str, Any]) -> list[Notice]:
    """Collect what the runs of a comparison noticed or decided by themselves, each once, with the arms it concerns.

    Args:
        directory: what the runs' places are read from.
        settings: as :func:`nasframe_studies.study.settings` returns, or the same as plain data.
    """
    arms: dict[tuple[str, str], dict[str, None]] = {}
    for run in Settings.of(settings).runs:
        home = Path(directory) / run.run
        if not (home / "run.db").is_file():
            continue
        store = RunStore(home, shared=True)
        try:
            stored = store.get("notices", [])
        finally:
            store.close()
        for notice in stored:
            arms.setdefault((notice["place"], notice["text"]), {})[run.arm] = None
    return [Notice(place=place, text=text, arms=list(names)) for (place, text), names in arms.items()]


def notice_line(notice: Notice, arms: Sequence[str]) -> str:
    """Write a notice with the arms that it concerns.

    >>> notice_line(Notice(place="model", text="The head is new.", arms=["a"]), ["a", "b"])
    'model: The head is new. (a)'
    """
    line = f"{notice.place}: {notice.text}"
    if len(arms) == 1:
        return line
    whose = "all arms" if set(notice.arms) == set(arms) else ", ".join(notice.arms)
    return f"{line} ({whose})"
