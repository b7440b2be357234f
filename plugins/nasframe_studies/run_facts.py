"""Reads what each run adds to a comparison besides its scores: fronts, curves, ledgers, conditions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from nasframe.declarations import bounds_in
from nasframe.errors import UsageError
from nasframe.measures import sign_of
from nasframe.records import CostFormat, MetricFormat, plus
from nasframe.report.format import metric_format
from nasframe.report.read import gather
from nasframe.search.constraints import Bounds, parse_bounds

if TYPE_CHECKING:
    import pandas as pd

EFFORTS = ("evaluations", "macs", "seconds")
"""What the curves of searches are drawn against."""
TRAINING = "training"
"""The curve of what training stages measured; the others are named after budgets."""
ROLES = {"student": ("student",), "teacher": ("teacher", "augmentation"), "evaluation": ("evaluation",)}
"""Columns of a comparison's ledger → roles of a run's: a network that augments texts counts as a teacher."""
VERSIONS = ("torch", "transformers", "tokenizers", "numpy")
"""Packages whose versions are compared between runs."""

CurveKey = tuple[str, str]
"""The budget, or :data:`TRAINING`, and the measure of effort."""


class Trace(NamedTuple):
    """A curve of one run: efforts ascending, and the scores seen there, as numbers to maximise."""

    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class RunFacts:
    """What one run adds to a comparison besides its scores.

    Args:
        arm: of the run.
        task: of the run.
        seed: of the run.
        ledger: role, a key of :data:`ROLES` → MACs.
        front: of the searches' archives: score on ``select``, then the costs named by ``costs``.
        full: cost → that of the full network, if it is known.
        metric: of the scores, and of the curves of training.
        aim: the metric that the searches maximised, so that of ``front`` and the searches' curves.
        costs: those that the searches' budgets bound.
        curves: by budget and effort.
        data: the task's fingerprint, sizes, labels and primary metric.
        conditions: name → values: machine, threads, versions, precision; several if the run went on elsewhere.
        formats: metric → how it reads.
        cost_formats: cost → how it reads.
        kinds: the kinds of processor that it was made on.
    """

    arm: str
    task: str
    seed: int
    ledger: Mapping[str, float | None]
    front: Sequence[tuple[float, ...]]
    full: Mapping[str, float]
    metric: str
    aim: str
    costs: Sequence[str]
    curves: Mapping[CurveKey, Trace]
    data: Mapping[str, Any]
    conditions: Mapping[str, Sequence[str]]
    formats: Mapping[str, MetricFormat] = field(default_factory=dict)
    cost_formats: Mapping[str, CostFormat] = field(default_factory=dict)
    kinds: Sequence[str] = ()

    @property
    def cost(self) -> str:
        """The costs that the searches' budgets bound, with commas between."""
        return ", ".join(self.costs)

    @property
    def searched(self) -> bool:
        """Whether the run has a front or curves of a search."""
        subjects = {subject for subject, _ in self.curves}
        return bool(self.front) or bool(subjects - {TRAINING})


def by_task(runs: Iterable[RunFacts]) -> dict[str, list[RunFacts]]:
    """Group runs by task, in order."""
    tasks: dict[str, list[RunFacts]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    return tasks


def cost_formats(runs: Iterable[RunFacts]) -> dict[str, CostFormat]:
    """Return cost → how it reads. Its first run decides, since all arms share the columns of a table."""
    formats: dict[str, CostFormat] = {}
    for run in runs:
        for name, form in run.cost_formats.items():
            formats.setdefault(name, form)
    return formats


def read_runs(directory: Path, compared: pd.DataFrame) -> list[RunFacts]:
    """Read the runs that the compared models come from; those whose directories are gone are left out.

    Args:
        directory: what the frame's ``run`` column is read from.
        compared: as :func:`nasframe_studies.compare.compared` returns.
    """
    facts = []
    for key, rows in compared.groupby(["arm", "task", "seed", "run"], sort=False):
        arm, task, seed, run = map(str, key)
        if (directory / run / "run.db").is_file():
            report = gather(directory / run, examples=False)
            facts.append(_facts(report, rows, arm, task, int(seed)))
    return facts


def _facts(report: Mapping[str, Any], rows: pd.DataFrame, arm: str, task: str, seed: int) -> RunFacts:
    """Collect what a run's report says; ``rows`` are the compared models of the run."""
    metric = str(rows["metric"].iloc[0])
    slots = dict(zip(rows["model"], rows["slot"], strict=True))
    full = _full_costs(report["models"])
    curves = _training_curves(report, metric)
    searches = []
    front = []
    for search in report["searches"]:
        winners = {slots[name]: name for name in search["winners"] if name in slots}
        if not winners:  # none of its models are compared, so that its front would be of something else
            continue
        searches.append(search)
        # Shares in bounds are of the super-network, which need not have the teacher's size. Runs of earlier versions
        # did not record what theirs are of; in these the two were one network.
        curves |= _search_curves(report, search, winners, {**full, **search["full"]})
        front += _front(search)
    # One aim and one set of costs a run: those of its first search count.
    aims = [search["aim"] for search in searches if search["aim"]]
    aim = aims[0] if aims else metric
    costs = searches[0]["costs"] if searches else []
    formats = {name: MetricFormat(**form) for name, form in report["formats"].items()}
    cost_formats = {name: CostFormat(**form) for name, form in report["cost_formats"].items()}
    return RunFacts(
        arm=arm,
        task=task,
        seed=seed,
        ledger=_macs_by_column(report["ledger"]),
        front=front,
        full=full,
        metric=metric,
        aim=aim,
        costs=costs,
        curves=curves,
        data=report["data"],
        conditions=conditions(report),
        formats=formats,
        cost_formats=cost_formats,
        kinds=processor_kinds(report["environments"]),
    )


def _full_costs(models: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the costs of the full network, from the models' costs and their shares of it."""
    full = {}
    for model in models:
        for name, share in model["relative"].items():
            if share:  # the full network itself may not be among the models
                full[name] = model["costs"][name] / share
    return full


def _front(search: Mapping[str, Any]) -> list[tuple[float, ...]]:
    points = []
    for point in search["points"]:
        if point["front"]:
            costs = [point["costs"][cost] for cost in search["costs"]]
            points.append((point["score"], *costs))
    return points


def _macs(ledger: Iterable[Mapping[str, Any]]) -> float | None:
    """Add up the MACs of a ledger's rows; ``None`` if some could not be counted."""
    total: float | None = 0  # whole numbers stay exact
    for row in ledger:
        total = plus(total, plus(row["forward_macs"], row["backward_macs"]))
    return None if total is None else float(total)


def _macs_by_column(ledger: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    macs = {}
    for column, roles in ROLES.items():
        macs[column] = _macs(row for row in ledger if row["role"] in roles)
    return macs


def _training_rows(report: Mapping[str, Any], stages: Collection[str]) -> list[Mapping[str, Any]]:
    """Return what a run's ledger has of some stages, without evaluations."""
    return [row for row in report["ledger"] if row["stage"] in stages and row["role"] != "evaluation"]


# ---- curves


def _search_curves(
    report: Mapping[str, Any], search: Mapping[str, Any], winners: Mapping[str, str], full: Mapping[str, float]
) -> dict[CurveKey, Trace]:
    """Trace the scores of a search's trials against its efforts, for each budget that it answered.

    Trials that break a budget repeat the best score so far, so that a curve goes on until the search ends.

    Args:
        report: of the run.
        search: one of the report's searches.
        winners: slot → name of the search's winner.
        full: cost → that of the super-network's largest architecture.
    """
    limits = {slot: _Limit.of_winner(name, search["costs"], full) for slot, name in winners.items()}
    curves: dict[CurveKey, Trace] = {}
    best: dict[str, float] = {}
    for trial, efforts in _scored_trials(report, search["stage"]):
        for slot, limit in limits.items():
            score = best.get(slot)
            if not trial["violation"] and limit.allows(trial["costs"]):
                score = trial["score"]
                best[slot] = max(score, best.get(slot, score))
            if score is None:  # nothing within the budget was found yet: the curve begins later
                continue
            for effort, x in efforts.items():
                trace = curves.setdefault((slot, effort), Trace([], []))
                trace.x.append(x)
                trace.y.append(score)
    return curves


def _scored_trials(report: Mapping[str, Any], stage: str) -> Iterator[tuple[Mapping[str, Any], dict[str, float]]]:
    """Yield a search's trials, each with its effort so far: evaluations, MACs and seconds.

    Finalists are left out, since their scores are of more examples: another measure.
    """
    trials = [row for row in report["trials"] if row["stage"] == stage and row["origin"] == "search"]
    scored = [row for row in trials if _is_scored(row)]
    # A search's MACs are stored in one sum: they are spread evenly over its trials, on top of the training before it.
    before = _macs(_training_rows(report, _stages_before(report, stage)))
    spent = _macs(row for row in report["ledger"] if row["stage"] == stage)
    seconds = 0.0
    count = 0
    for trial in trials:
        seconds += trial["trial_seconds"] or 0.0  # trials that failed took time as well
        if _is_scored(trial) and trial["examples"] == scored[0]["examples"]:
            count += 1
            efforts = {"evaluations": count, "seconds": seconds}
            if before is not None and spent is not None:  # else there is no curve over MACs
                efforts["macs"] = before + spent * count / len(scored)
            yield trial, efforts


def _is_scored(trial: Mapping[str, Any]) -> bool:
    return trial["state"] == "done" and trial["score"] is not None


def _stages_before(report: Mapping[str, Any], stage: str) -> list[str]:
    names = [each["name"] for each in report["stages"]]
    return names[: names.index(stage)]


@dataclass(frozen=True)
class _Limit:
    """The budget of a search's winner.

    Args:
        bounds: cost → its bounds; empty if there are none.
    """

    bounds: Mapping[str, Bounds]

    @classmethod
    def of_winner(cls, name: str, costs: Sequence[str], full: Mapping[str, float]) -> _Limit:
        """Read the budget out of a winner's name: ``best@50%``, ``best@macs=50%``, ``best@macs=50%,latency=12ms``.

        Args:
            name: the winner's.
            costs: of the search; a budget that names none is of the first.
            full: cost → that of the super-network's largest architecture, which shares are of.
        """
        bounds = {}
        for named, text in bounds_in(name).items():
            cost = named or (costs[0] if costs else "")
            try:
                bounds[cost] = parse_bounds(text, full.get(cost))
            except UsageError:  # what follows the @ is no budget
                return cls({})
        return cls(bounds)

    def allows(self, costs: Mapping[str, float]) -> bool:
        """Tell whether costs are within the budget; one that a trial does not know is taken to be."""
        return all(bound.violation(costs[cost]) == 0 for cost, bound in self.bounds.items() if cost in costs)


def _training_curves(report: Mapping[str, Any], metric: str) -> dict[CurveKey, Trace]:
    """Trace what training stages measured on ``select`` against all training so far, in MACs and seconds.

    What is better when less is negative, as in the curves of searches.
    """
    sign = sign_of(metric_format(report["formats"], metric))
    by_macs = Trace([], [])
    by_seconds = Trace([], [])
    # Those of the stages before; MACs are unknown from the first stage on that could not count some.
    macs: float | None = 0.0
    seconds = 0.0
    for stage in report["stages"]:
        name = stage["name"]
        rows = _training_rows(report, [name])
        steps = max((row["steps"] for row in rows), default=0)
        spent = _macs(rows)
        curves = report["curves"].get(name, {})
        points = curves.get(f"select_{metric}", ())
        if name == "teacher":  # its scores are not the student's
            points = ()
        for step, value in points:
            share = step / max(steps, step, 1)  # of the stage's cost, which is spread evenly over its steps
            if macs is not None and spent is not None:
                by_macs.x.append(macs + share * spent)
                by_macs.y.append(sign * value)
            by_seconds.x.append(seconds + share * stage["run_seconds"])
            by_seconds.y.append(sign * value)
        macs = plus(macs, spent)
        if steps:  # other stages, such as evaluations, are no training
            seconds += stage["run_seconds"]
    traces: dict[CurveKey, Trace] = {}
    for effort, trace in (("macs", by_macs), ("seconds", by_seconds)):
        if len(set(trace.x)) > 1:  # a single point is no curve
            traces[TRAINING, effort] = trace
    return traces


# ---- machines, versions, precision


def conditions(report: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the conditions of a run, by name; one has several values if the run went on under others.

    Args:
        report: as :func:`nasframe.report.read.gather` returns.
    """
    # Mappings to nothing, because they keep their order, which sets do not.
    values: dict[str, dict[str, None]] = {}
    for environment in report["environments"]:
        facts = _environment_facts(environment, report["recipe"])
        for name, value in facts.items():
            if value is not None:
                values.setdefault(name, {})[str(value)] = None
    return {name: tuple(distinct) for name, distinct in values.items()}


def processor_kinds(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the kinds of processor that a run was made on; several if it went on elsewhere.

    Args:
        environments: as a run records them.

    >>> processor_kinds([{"processor": "Xeon", "bf16": True}, {"processor": "Xeon", "accelerator": "H200"}])
    ['Xeon with native bf16', 'H200']
    """
    names = []
    for environment in environments:
        # With an accelerator the processor of its host computes none of the numbers.
        name = environment.get("accelerator") or environment.get("processor")
        if name is None:  # a run that recorded no machine
            continue
        native = environment.get("bf16")
        if native is not None and not environment.get("accelerator"):
            name += " with native bf16" if native else " without native bf16"
        names.append(str(name))
    return list(dict.fromkeys(names))


def _environment_facts(environment: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    facts = {}
    for name in ("processor", "device", "accelerator", "threads", "processes"):
        facts[name] = environment.get(name)
    versions = environment.get("versions") or {}
    for name in VERSIONS:
        facts[name] = versions.get(name)
    for name in ("python", "nasframe"):
        facts[name] = environment.get(name)
    facts["nasframe's commit"] = _short_commit(environment.get("git"))
    return facts | _precisions(recipe, environment.get("bf16"))


def _short_commit(text: str | None) -> str | None:
    """Shorten a commit, and keep the mark of files that differ from it.

    >>> _short_commit("9765dc77b928277d109b8850910249a23ad16b9b-dirty")
    '9765dc77-dirty'
    """
    if text is None:
        return None
    commit, dash, mark = text.partition("-")
    return f"{commit[:8]}{dash}{mark}"


def _precisions(recipe: str, native: bool | None) -> dict[str, str]:
    """Return the precision of each verb of a recipe, such as ``precision of train``.

    Args:
        recipe: its text.
        native: whether the machine has bf16, which is what ``auto`` takes then; ``None`` if unknown.
    """
    loaded = yaml.safe_load(recipe)
    if not isinstance(loaded, dict):
        return {}
    auto = {True: "bf16 (auto)", False: "fp32 (auto)", None: "auto"}[native]
    precisions: dict[str, set[str]] = {}
    for stage in loaded.get("stages") or ():
        for verb, options in stage.items():
            precision = (options or {}).get("precision")
            if precision == "auto":
                precision = auto
            if precision is not None:
                precisions.setdefault(f"precision of {verb}", set()).add(str(precision))
    return {name: " and ".join(sorted(texts)) for name, texts in precisions.items()}
