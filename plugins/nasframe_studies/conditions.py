"""Differences between the arms of a comparison other than the compared one: teachers, machines, data, budgets.

Each function looks for one such difference and words it as notes for the page. A difference that leaves nothing to
compare is rejected by :func:`check_metrics` or :func:`check_directions`; all others are shown, since they may be
intended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.measures import sign_of
from nasframe.records import CostFormat, MetricFormat
from nasframe.report import tables
from nasframe.report.read import AXES
from nasframe.store import RunStore
from nasframe_studies.grouping import distinct_by
from nasframe_studies.pairs import Directions, agree, direction_of, group_of, relative_costs
from nasframe_studies.processors import CONDITIONS, processors
from nasframe_studies.records import OTHER_EXAMPLES, ExamplePair, Notice, format_in
from nasframe_studies.run_facts import RunFacts, by_task
from nasframe_studies.settings import Settings
from nasframe_studies.wording import grouped, plural

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 9
"""Significant digits to which costs of equal full networks agree: they are quotients of floats."""


def _differ(values: Mapping[str, Sequence[Any]]) -> bool:
    """Tell whether arms, or runs of one arm, have different values."""
    distinct = set().union(*values.values())
    return len(distinct) > 1


def _differing(facts_of_runs: Iterable[tuple[str, Mapping[str, Sequence[str]]]]) -> dict[str, str]:
    """Return the facts in which runs differ, each with its values and the arms that have them.

    Args:
        facts_of_runs: for each run its arm and its facts: name → values. A fact without values is not known, and
            differs from nothing.
    """
    pairs_of: dict[str, list[tuple[str, str]]] = {}
    for arm, facts in facts_of_runs:
        for name, values in facts.items():
            pairs = pairs_of.setdefault(name, [])
            for value in values:
                pairs.append((arm, value))
    differing = {}
    for name, pairs in pairs_of.items():
        values_of = distinct_by(pairs)
        if _differ(values_of):
            differing[name] = grouped(values_of)
    return differing


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
    counted = []
    measured = []
    for cost in relative_costs(map(str, compared)):
        if f"{cost}_spread" in compared:  # only measurements have a spread
            measured.append(cost)
        else:
            counted.append(cost)
    unlike = []
    for task, rows in compared.groupby("task", sort=False):
        of_task = []
        for cost in counted:
            full = _full_costs(rows, cost)
            if _differ(full):
                of_task.append(UnlikeCost(str(task), cost, full))
        # Two measurements of one network differ by noise, so only a counted cost can tell that the networks do.
        if of_task:
            for cost in measured:
                of_task.append(UnlikeCost(str(task), cost, {}))
        unlike += of_task
    return unlike


def _full_costs(rows: pd.DataFrame, cost: str) -> dict[str, list[float | None]]:
    """Return arm → the distinct costs of its runs' full networks."""
    full: list[tuple[str, float | None]] = []
    with_cost = rows[rows[cost].notna()]  # a cost that a model lacks differs from nothing
    columns = with_cost[["arm", cost, f"{cost}_relative"]]
    for arm, value, share in columns.itertuples(index=False, name=None):
        whole = None
        is_known = share == share  # NaN, which is the share of a run without a teacher, is not equal to itself
        if is_known and share:
            whole = float(f"{value / share:.{DIGITS}g}")
        full.append((str(arm), whole))
    return distinct_by(full)


def absolute_costs(unlike: Sequence[UnlikeCost]) -> list[str]:
    """Name the costs that are compared in absolute numbers, since shares of different networks are not comparable."""
    return list(dict.fromkeys(each.cost for each in unlike))


def teacher_notes(
    unlike: Sequence[UnlikeCost], compared: pd.DataFrame, format_of: Callable[[str], CostFormat]
) -> Iterator[str]:
    """Name the tasks on which the arms' teachers differ, with the difference in the cost that readers know best.

    Args:
        unlike: the costs in which the teachers differ.
        compared: the compared models.
        format_of: returns how a cost reads.
    """
    shares = sorted({slot for slot in compared["slot"] if "%" in slot})
    costs_of: dict[str, list[UnlikeCost]] = {}
    for cost in unlike:
        costs_of.setdefault(cost.task, []).append(cost)
    # Teachers are often the same networks on all tasks: tasks with one difference share a note.
    tasks_of: dict[str, list[str]] = {}
    for task, costs in costs_of.items():
        tasks_of.setdefault(_difference(costs, shares, format_of), []).append(task)
    for difference, tasks in tasks_of.items():
        yield f"TEACHERS DIFFER on {', '.join(tasks)}: {difference}"


def _difference(costs: Sequence[UnlikeCost], shares: Sequence[str], format_of: Callable[[str], CostFormat]) -> str:
    """Describe how the full networks of a task differ, and what follows from it."""
    counted = [cost for cost in costs if cost.full]  # what is measured has no exact size to name
    first = min(counted, key=lambda cost: cost.familiarity)
    sizes: dict[str, list[str]] = {}
    for arm, values in first.full.items():
        sizes[arm] = [_size(format_of(first.cost), first.cost, value) for value in values]
    text = f"the full network has {first.cost} {grouped(sizes)}"
    others = [cost.cost for cost in costs if cost is not first]
    if others:
        text += f" (also in {', '.join(others)})"
    text += ". Costs are compared in absolute numbers, for shares of different networks have no common measure."
    # An arm without a teacher has no size that a share could be of.
    all_have_teachers = all(None not in values for values in first.full.values())
    if shares and all_have_teachers:
        text += f" Budgets that are shares ({', '.join(shares)}) are of each arm's own super-network."
    return text


def _size(form: CostFormat, cost: str, value: float | None) -> str:
    if value is None:
        return "unknown, without a teacher"
    return tables.cost(form, cost, {cost: value})


# ---- budgets


def budget_notes(runs: Sequence[RunFacts], compared: pd.DataFrame) -> Iterator[str]:
    """Name the tasks on which one name of a budget bounds different costs in different arms."""
    if compared["budget"].isna().all():  # the searches' budgets chose none of the compared models
        return
    for task, of_task in by_task(runs).items():
        costs = distinct_by((run.arm, run.cost) for run in of_task if run.cost)
        if _differ(costs):
            text = f"BUDGETS OF ONE NAME bound different costs on {task}: {grouped(costs)}."
            yield f"{text} They allow the arms different sizes."


def network_notes(compared: pd.DataFrame) -> Iterator[str]:
    """Say in which arms one network of a run answers several budgets, and how that is counted."""
    if "network" not in compared:
        return
    shared: dict[str, Counter[str]] = {}  # arm → models that are one network → in how many runs
    extracted = compared[compared["network"].notna()]
    for (arm, _, _, _), rows in extracted.groupby(["arm", "task", "seed", "network"], sort=False):
        if len(rows) > 1:
            models = " = ".join(rows["model"])
            shared.setdefault(str(arm), Counter())[models] += 1
    if not shared:
        return
    arms = []
    for arm, counts in shared.items():
        runs = compared.loc[compared["arm"] == arm, ["task", "seed"]].drop_duplicates()
        parts = [f"{models} in {count} of {len(runs)} runs" for models, count in counts.items()]
        arms.append(f"{arm}: {', '.join(parts)}")
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
    over = compared[compared["over_budget"].notna()]
    for (arm, task, slot), rows in over.groupby(groups, sort=False):
        seeds = zip(rows["seed"], rows["over_budget"], strict=True)
        listed = "; ".join(f"seed {seed}: {text}" for seed, text in seeds)
        yield f"OVER BUDGET: {arm}, {slot} on {task}, in {len(rows)} of {runs[arm, task, slot]} runs ({listed})."


def group_notes(compared: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Name the tasks of groups whose runs have several models, which then keep names of their own."""
    for task, rows in compared.groupby("task", sort=False):
        group = group_of(str(task), groups)
        apart = rows[rows["slot"] != group]  # as `compared` leaves them if they are several in a run
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
        metrics = distinct_by(zip(rows["arm"], rows["metric"], strict=True))
        if _differ(metrics):
            raise UsageError(
                f"{task}: the arms are scored by different metrics: {grouped(metrics)}. Expected one metric a task:"
                " --metric NAME, or 'compare: {metric: NAME}' in the study."
            )


def check_directions(runs: Sequence[RunFacts]) -> None:
    """Make sure that the runs of a task agree on whether more or less of the compared metric is better.

    Raises:
        UsageError: they do not, so that no order of their scores would be right.
    """
    for task, of_task in by_task(runs).items():
        better: list[tuple[str, str]] = []
        for run in of_task:
            form = run.formats.get(run.metric)
            if form is not None:  # a run from before tasks said how their metrics read contradicts nobody
                better.append((run.arm, "more" if form.higher_is_better else "less"))
        sides = distinct_by(better)
        if _differ(sides):
            raise UsageError(
                f"{task}: the runs disagree on whether more or less of {of_task[0].metric!r} is better:"
                f" {grouped(sides)}. Expected a metric that all of them declare alike."
            )


def directions_of(compared: pd.DataFrame, formats: Mapping[str, Mapping[str, MetricFormat]]) -> Directions:
    """Return the direction of each task's scores.

    Args:
        compared: the compared models.
        formats: task → metric → how it reads.
    """
    directions = {}
    for task, metric in dict.fromkeys(zip(compared["task"], compared["metric"], strict=True)):
        directions[task] = sign_of(format_in(formats, task, metric))
    return directions


def direction_notes(compared: pd.DataFrame, directions: Directions) -> Iterator[str]:
    """Say why there is no mean of tasks if more is better on some of them, and less on others."""
    metrics_of = distinct_by(zip(compared["task"], compared["metric"], strict=True))
    if agree(metrics_of, directions):
        return
    more: dict[str, Sequence[str]] = {}
    less: dict[str, Sequence[str]] = {}
    for task, metrics in metrics_of.items():
        side = more if direction_of(task, directions) > 0 else less
        side[task] = metrics
    yield (
        f"NO MEAN OF TASKS: more is better of {grouped(more)}, less of {grouped(less)}. What is found, and what cannot"
        f" be concluded, is about the first task, {next(iter(metrics_of))}."
    )


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
        with_data = [run for run in of_task if run.data]
        differing = _differing((run.arm, _data_facts(run, split, metrics)) for run in with_data)
        unlike = _unlike_data(with_data)
        # One note is enough, and the first says more: it names what differs.
        if differing:
            text = "; ".join(f"{name}: {values}" for name, values in differing.items())
            yield f"SCORES ARE NOT OF THE SAME EXAMPLES OR CLASSES on {task}. {text}."
        elif unlike:
            yield (
                f"{task}: {', '.join(unlike)} had other data than {with_data[0].arm} at equal seeds. Runs record one"
                " fingerprint of all splits, so it may be the training data alone."
            )


def _data_facts(run: RunFacts, split: str, metrics: Sequence[str]) -> dict[str, list[str]]:
    """Return what scores of a run depend on, by the name that a note gives it; without a value if it is not known."""
    facts: dict[str, list[str]] = {f"{split} examples": [], "classes": [], "positive class": []}
    sizes = run.data.get("sizes") or {}
    if split in sizes:
        facts[f"{split} examples"].append(str(sizes[split]))
    classes = _classes(run, metrics)
    if classes is not None:
        facts["classes"].append(", ".join(map(str, classes)))
    positive = _positive_class(run, metrics)
    if positive is not None:
        facts["positive class"].append(positive)
    return facts


def _classes(run: RunFacts, metrics: Sequence[str]) -> Sequence[str] | None:
    """Return a run's classes, in an order of their own: that of its head changes no score.

    Only if ``f1`` is compared and the run does not say of which class it is, the head's order decides that.
    """
    labels: Sequence[str] | None = run.data.get("labels")
    if labels is None:
        return None
    if "f1" in metrics and _positive_class(run, ["f1"]) is None:
        return labels
    return sorted(labels)


def _positive_class(run: RunFacts, metrics: Sequence[str]) -> str | None:
    """Return the class that the compared metrics of a run are about, if they are about one."""
    for metric in metrics:
        form = run.formats.get(metric)
        if form is not None and form.positive is not None:
            return form.positive
    return None


def _unlike_data(runs: Sequence[RunFacts]) -> list[str]:
    """Name the arms whose data differ from the first arm's at a seed that both have."""
    if not runs:
        return []
    # Seed by seed, since a task may draw its data by the seed: other seeds then have other fingerprints in one arm.
    first = {run.seed: run.data.get("fingerprint") for run in runs if run.arm == runs[0].arm}
    unlike: dict[str, None] = {}
    for run in runs:
        if run.seed in first and run.data.get("fingerprint") != first[run.seed]:
            unlike[run.arm] = None
    return list(unlike)


def example_notes(examples: Sequence[ExamplePair], against: str) -> Iterator[str]:
    """Name the pairs of models that were scored on different examples, by their stored predictions."""
    unlike = [pair for pair in examples if pair.note == OTHER_EXAMPLES]
    # A run has a pair for each of its models: its seed is named once.
    seeds_of = distinct_by(((pair.arm, pair.task), str(pair.seed)) for pair in unlike)
    for (arm, task), seeds in seeds_of.items():
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
    differing = _differing((run.arm, run.conditions) for run in runs)
    if processors(runs).kinds:  # they have a note of their own
        for name in CONDITIONS:
            differing.pop(name, None)
    if differing:
        text = "; ".join(f"{name} {values}" for name, values in differing.items())
        yield f"RUNS HAD DIFFERENT CONDITIONS: {text}. Scores and times may depend on that."


# ---- notices


def notices(directory: str | Path, settings: Settings | Mapping[str, Any]) -> list[Notice]:
    """Collect what the runs of a comparison noticed or decided by themselves, each once, with the arms it concerns.

    Args:
        directory: what the runs' places are read from.
        settings: as :func:`nasframe_studies.study.settings` returns, or the same as plain data.
    """
    noticed: list[tuple[tuple[str, str], str]] = []
    for run in Settings.of(settings).runs:
        home = Path(directory) / run.run
        if not (home / "run.db").is_file():
            continue
        store = RunStore(home, shared=True)  # without its lock, which a run holds while it goes on
        try:
            stored = store.get("notices", [])
        finally:
            store.close()
        for notice in stored:
            noticed.append(((notice["place"], notice["text"]), run.arm))
    collected = []
    for (place, text), arms in distinct_by(noticed).items():
        collected.append(Notice(place=place, text=text, arms=arms))
    return collected


def notice_line(notice: Notice, arms: Sequence[str]) -> str:
    """Write a notice with the arms that it concerns.

    >>> notice_line(Notice(place="model", text="The head is new.", arms=["a"]), ["a", "b"])
    'model: The head is new. (a)'
    """
    line = f"{notice.place}: {notice.text}"
    if len(arms) == 1:  # there is nobody else whose it could be
        return line
    if set(notice.arms) == set(arms):
        return f"{line} (all arms)"
    return f"{line} ({', '.join(notice.arms)})"
