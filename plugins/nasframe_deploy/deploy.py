"""Compress once, deploy everywhere: models for new constraints from a finished run, without training.

The archive of the run's search answers first; where it holds few architectures near a budget, a short search on the
trained super-network, confined to the budget, adds to it. Every model is loaded again in one fresh process and compared
with the super-network's view.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import RunError, UsageError
from nasframe.export.verify import Verifier
from nasframe.plugin_errors import naming_plugins
from nasframe.progress import Progress
from nasframe.records import Arch, MetricFormat, Trial, arch_id
from nasframe.report.budgets import over_budget, plain_bounds
from nasframe.report.format import of_run, titled, told
from nasframe.report.tables import cost, markdown_table, metric
from nasframe.running.reopen import Finished
from nasframe.search.budgets import Goal, check_reachable, goals, parse_limits
from nasframe.search.constraints import Bounds, violation
from nasframe.search.loop import subset
from nasframe.storage import refuse_unwritable
from nasframe.store import write_text
from nasframe_deploy.latency_model import Measured, check_measured
from nasframe_deploy.request import Asked

if TYPE_CHECKING:
    from nasframe.export.files import Mode
    from nasframe.progress import Advance
    from nasframe.running.runner import Run
    from nasframe.search.budgets import Costs

FORMAT = 1
TRIALS = 40  # evaluations a budget, where the archive is thin
ENOUGH = 10  # architectures near a budget with which the archive answers
NEAR = 0.85  # the share of a budget that is near it
TURNS = 3  # measurements of each finished model; the median counts
IN_VAIN = 50  # proposals without a new architecture after which a search ends


@naming_plugins()
def deploy(
    run: str | Path | Run,
    constraints: Sequence[str] = (),
    *,
    out: str | Path,
    budgets: Sequence[str] = (),
    search: int | None = None,
    mode: Mode = "hetero",
    sampler: Any = "evolution",
    stage: str | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Make models for new constraints out of a finished run: choose, extract, write and verify; nothing is trained.

    Architectures are scored on ``select``; ``dev`` is never read.

    Args:
        run: a finished run, or its directory.
        constraints: what every model must meet, as ``"encoder_params<=60%"`` or ``"latency<=12ms"``. The recipe's own
            constraints hold too, but for the costs that are named here.
        out: a new or empty directory for the models and ``deploy.json``.
        budgets: one model each, as ``"encoder_params=80%,60%,40%"``.
        search: evaluations a budget in a search on the super-network; 0 answers from the archive alone. Default:
            40 where the archive has few architectures near the budget, else none.
        mode: how models are written, see :func:`nasframe.export.write.export`.
        sampler: who proposes in that search.
        stage: the search whose super-network and archive are used; default: the run's last.
        progress: show bars; default on a terminal only.

    Returns:
        The content of ``deploy.json``; see ``docs/deploy.md``.

    Raises:
        UsageError: the constraints cannot be read (all are told), the run is not finished, or ``out`` is not empty.
        UnsatisfiableError: nothing meets some constraint; names the nearest reachable value.
        VerificationError: a written model does not load, or computes something else.
    """
    began = time.monotonic()
    directory = Path(run if isinstance(run, str | Path) else run.directory)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: not empty; it is never overwritten. Expected a new or empty directory.")
    refuse_unwritable(target)
    bars = Progress(progress)
    with Verifier() as verifier, ExitStack() as scope:  # it imports while we do
        with bars.bar("run"):
            finished = Finished(directory, stage)
            scope.enter_context(finished.plan.file_plugins())
            wanted = _goals(finished, Asked(finished.plan).read(constraints, budgets))
            desk = _Desk(finished, wanted, verifier)
        loaded = time.monotonic()
        with bars.bar("search") as advance:
            desk.search(search, sampler, advance)
        searched = time.monotonic()
        with bars.bar("choose") as advance:
            chosen = {}
            for number, goal in enumerate(wanted):
                advance(number, len(wanted), goal.name)
                chosen[goal.name] = desk.choose(goal)
        models = {name: finished.space.extract(finished.net, choice.trial.arch) for name, choice in chosen.items()}
        with bars.bar("measure") as advance:
            chosen = desk.measure_again(chosen, models, advance)
        picked = time.monotonic()
        with bars.bar("write and verify"):
            _write(finished, chosen, models, desk.over_budget(chosen), target, mode, verifier)
    ended = time.monotonic()
    seconds = {"load": loaded - began, "search": searched - loaded, "choose": picked - searched}
    seconds |= {"write": ended - picked, "total": ended - began}
    form = of_run({"formats": told(finished.data)}, finished.objective.removeprefix("-"))
    facts = {"format": FORMAT, "run": str(directory.resolve()), "stage": finished.stage.name, "net": finished.net_name}
    facts |= {"mode": mode, "split": "select", "objective": finished.objective, "metric": asdict(form)}
    facts["evaluations"] = desk.evaluations
    facts |= {"models": [desk.describe(goal, chosen[goal.name], target) for goal in wanted], "seconds": seconds}
    write_text(target / "deploy.json", json.dumps(facts, indent=1) + "\n")
    write_text(target / "deploy.md", markdown_table(*rows(facts)) + "\n")
    return facts


def rows(facts: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of what :func:`deploy` returned.

    If some model is over its budget, the last column says by what.
    """
    costs = list(dict.fromkeys(name for model in facts["models"] for name in model["costs"]))
    found, form = [], MetricFormat(**facts["metric"])
    for model in facts["models"]:
        score = metric(form, model["score"])
        found.append([model["name"], score, *(_shown(name, model) for name in costs), model["origin"]])
    heading = ["model", f"select {titled(facts['objective'], form)}", *costs, "origin"]
    broken = [model["over_budget"] for model in facts["models"]]
    if not any(broken):
        return heading, found
    verdicts = [f"over budget: {text}" if text else "met" for text in broken]
    return [*heading, "budget"], [[*row, verdict] for row, verdict in zip(found, verdicts, strict=True)]


def _advance(advance: Advance, most: int, name: str, done: int) -> None:
    advance(min(done, most), most, name)


def _shown(name: str, model: Mapping[str, Any]) -> str:
    share = model["shares"].get(name)
    return cost(name, model["costs"]) + (f" ({share:.0%})" if share is not None else "")


def _goals(finished: Finished, asked: Asked) -> list[Goal]:
    """Read bounds against the full network, and make sure that they can be met."""
    full = {n: finished.estimator(n).estimate(finished.space, finished.net, None) for n in asked.names}
    return goals("best", *parse_limits(asked.constraints, asked.budgets, full))


@dataclass(frozen=True)
class _Choice:
    """One answer: the trial, its costs, and what it took to find it."""

    trial: Trial
    costs: Mapping[str, float]
    seconds: float


class _Desk:
    """Answers goals from an archive that a search may add to.

    Measured costs are guessed from counted ones to sort candidates, and measured best candidate first.
    """

    def __init__(self, finished: Finished, wanted: Sequence[Goal], verifier: Verifier) -> None:
        self.finished, self.wanted = finished, wanted
        self.examples = subset(finished.stage.options.get("examples"), finished.data["sizes"].get("select"))
        self.finalists: int = finished.stage.options.get("finalists", 10)
        bounded = list(dict.fromkeys(name for goal in wanted for name in goal.bounds))
        noisy = [name for name in bounded if hasattr(finished.estimator(name), "measure")]
        self.counted = [name for name in bounded if name not in noisy]
        counted: Costs = finished.costs(list(dict.fromkeys([*self.counted, "params", "macs"])))
        exact = [replace(g, bounds={n: b for n, b in g.bounds.items() if n in self.counted}) for g in wanted]
        check_reachable(exact, finished.region, counted)
        if noisy:
            verifier.wait()  # it must not compete with what is timed
        self.measured = {name: Measured(name, finished, counted) for name in noisy}
        check_measured(wanted, self.measured)
        self.costs: Costs = lambda arch: {**counted(arch), **{n: m.guess(arch) for n, m in self.measured.items()}}
        self.loose = {goal.name: self._loosened(goal) for goal in wanted}
        self.stored = list(finished.archive())
        self.known = {arch_id(trial.arch) for trial in self.stored}
        self.trials = [replace(trial, costs=self.costs(trial.arch)) for trial in self.stored]
        self.evaluations = 0
        self.search_seconds: dict[str, float] = {}

    def search(self, trials: int | None, sampler: Any, advance: Advance) -> None:
        """Search for those goals whose answer the archive may lack."""
        for goal in self.wanted:
            budget = trials if trials is not None else 0 if self._enough(goal) else TRIALS
            if budget:
                began = time.monotonic()
                self._search(goal, budget, sampler, partial(_advance, advance, budget, goal.name))
                self.search_seconds[goal.name] = time.monotonic() - began

    def _search(self, goal: Goal, trials: int, sampler: Any, advance: Callable[[int], None]) -> None:
        """Search within one goal's bounds, beginning with what is known."""
        from nasframe.registry import make
        from nasframe.search import loop
        from nasframe.seeds import stream_seed

        finished, before = self.finished, self.evaluations

        def evaluate(arch: Arch, count: int | None) -> Mapping[str, float]:
            self.evaluations += 1
            advance(self.evaluations - before)
            return finished.evaluate(arch, count).metrics

        inject = {"domain": finished.region, "seed": stream_seed(finished.plan.seed, "deploy", str(goal))}
        result = loop.search(
            make("sampler", sampler, inject), finished.space.domain, evaluate, self.costs,
            objectives=[finished.objective], trials=trials, within=finished.region,
            bounds=self.loose[goal.name].bounds, examples=self.examples, finalists=self.finalists, known=self.trials,
            max_rejections=IN_VAIN,
        )  # fmt: skip
        self.trials += [trial for trial in result.trials if trial.state == "done"]

    def choose(self, goal: Goal) -> _Choice:
        """Return the best known architecture that meets a goal; what is measured is measured in that order."""
        began = time.monotonic()
        nearest: dict[str, float] = {}
        for trial in self._ranked(self.loose[goal.name]):
            costs = dict(self.costs(trial.arch))
            if violation(costs, {name: goal.bounds[name] for name in self.counted if name in goal.bounds}):
                continue
            for name, measured in self.measured.items():
                costs[name] = measured.measure(trial.arch)
                if name in goal.bounds and goal.bounds[name].violation(costs[name]):
                    nearest[name] = min(nearest.get(name, costs[name]), costs[name])
                    break
            else:
                spent = time.monotonic() - began + self.search_seconds.get(goal.name, 0.0)
                return _Choice(trial, costs, spent)
        least = "".join(f" The least {name} measured was {value:,.4g}." for name, value in nearest.items())
        raise RunError(f"{goal.name}: nothing in the archive has {goal}.{least} Expected more trials: --search N.")

    def measure_again(
        self, chosen: Mapping[str, _Choice], models: Mapping[str, Any], advance: Advance
    ) -> dict[str, _Choice]:
        """Measure the finished models, in turns, so that what is said of them is not the luck of being chosen."""
        costs: dict[str, dict[str, float]] = {name: dict(choice.costs) for name, choice in chosen.items()}
        for measure, measured in self.measured.items():
            turns: dict[str, list[float]] = {name: [] for name in models}
            for turn in range(TURNS):
                for number, (name, model) in enumerate(models.items()):
                    advance(turn * len(models) + number, TURNS * len(models), name)
                    turns[name].append(measured.estimator.measure(None, model, again=True)["median"])
            for name, values in turns.items():
                costs[name][measure] = sorted(values)[TURNS // 2]
        return {name: replace(choice, costs=costs[name]) for name, choice in chosen.items()}

    def over_budget(self, chosen: Mapping[str, _Choice]) -> dict[str, str]:
        """Say by which costs models are over their budgets; nothing of one that meets its own."""
        bounds = {goal.name: plain_bounds(goal.bounds) for goal in self.wanted}
        return {name: over_budget(choice.costs, bounds[name]) for name, choice in chosen.items()}

    def describe(self, goal: Goal, choice: _Choice, target: Path) -> dict[str, Any]:
        """Say of one model what it is: the row of ``deploy.json``."""
        finished, trial = self.finished, choice.trial
        names = [*goal.bounds, "encoder_params", "params", "macs", "size"]
        costs = {**finished.costs(list(dict.fromkeys(n for n in names if n not in self.measured)))(trial.arch)}
        costs |= {name: choice.costs[name] for name in self.measured}
        full = {name: finished.estimator(name).estimate(finished.space, finished.net, None) for name in costs}
        report = json.loads((target / goal.name / "export_report.json").read_text(encoding="utf-8"))
        return {
            "name": goal.name, "path": goal.name, "asked": str(goal),
            "arch": dict(trial.arch), "origin": "archive" if arch_id(trial.arch) in self.known else "search",
            "score": trial.metrics[finished.objective.removeprefix("-")], "metrics": dict(trial.metrics),
            "examples": trial.examples, "costs": costs, "shares": {n: v / full[n] for n, v in costs.items() if full[n]},
            "over_budget": self.over_budget({goal.name: choice})[goal.name] or None,
            "max_abs_difference": report["max_abs_difference"], "seconds": choice.seconds,
        }  # fmt: skip

    def _loosened(self, goal: Goal) -> Goal:
        """Widen the bounds of guessed costs: an architecture is let go for what was measured of it alone."""
        slack = {name: self.measured[name].slack for name in goal.bounds if name in self.measured}
        wide = {n: Bounds(b.low / slack[n], b.high * slack[n]) if n in slack else b for n, b in goal.bounds.items()}
        return replace(goal, bounds=wide)

    def _meeting(self, goal: Goal) -> list[Trial]:
        return [trial for trial in self.trials if violation(trial.costs, goal.bounds) == 0]

    def _enough(self, goal: Goal) -> bool:
        """Tell whether the archive has enough that meets a goal and is near its upper bounds."""
        goal = self.loose[goal.name]
        near = {name: bound.high * NEAR for name, bound in goal.bounds.items() if bound.high < float("inf")}
        found = {
            arch_id(trial.arch)
            for trial in self._meeting(goal)
            if trial.examples == self.examples and (not near or any(trial.costs[n] >= low for n, low in near.items()))
        }
        return len(found) >= ENOUGH

    def _ranked(self, goal: Goal) -> Iterable[Trial]:
        """Sort what meets a goal, best first: like the search, which scores its finalists on all examples."""
        sign = -1 if self.finished.objective.startswith("-") else 1
        name = self.finished.objective.removeprefix("-")

        def worth(trial: Trial) -> float:
            return sign * trial.metrics[name]

        met = self._meeting(goal)
        whole = {arch_id(trial.arch): trial for trial in met if trial.examples is None}
        if self.examples is None:
            return sorted(whole.values(), key=worth, reverse=True)
        part = {arch_id(trial.arch): trial for trial in met if trial.examples == self.examples}
        order = sorted(part.values(), key=lambda trial: (-worth(trial), *(trial.costs[name] for name in goal.bounds)))
        head = [whole[key] for trial in order[: self.finalists] if (key := arch_id(trial.arch)) in whole]
        heads = {arch_id(trial.arch) for trial in head}
        rest = [trial for trial in order if arch_id(trial.arch) not in heads]
        return [*sorted(head, key=worth, reverse=True), *rest]


def _write(
    finished: Finished,
    chosen: Mapping[str, _Choice],
    models: Mapping[str, Any],
    broken: Mapping[str, str],
    target: Path,
    mode: Mode,
    verifier: Verifier,
) -> None:
    """Write and verify all models; ``broken`` says by which costs they are over budget."""
    import torch

    from nasframe.export import write as export

    net, space = finished.net, finished.space
    inputs, expected = export.probe(net)["inputs"], {}
    where = next(net.parameters()).device
    for name, choice in chosen.items():
        with torch.no_grad():
            logits = space.view(net, choice.trial.arch)(**{k: v.to(where) for k, v in inputs.items()}).logits
        expected[name] = {"inputs": inputs, "logits": logits.float().cpu()}
    plan = finished.plan
    own = {}
    for name, choice in chosen.items():
        metrics = {f"select {metric}": value for metric, value in choice.trial.metrics.items()}
        own[name] = {"metrics": metrics, "over_budget": broken[name]}
    card = {"model": plan.model, "task": plan.task, "data": finished.data, "models": own}
    export.export_all(
        models, finished.inputs.tokenizer, {name: target / name for name in models}, mode=mode, expected=expected,
        card=card, archs={name: choice.trial.arch for name, choice in chosen.items()}, verifier=verifier,
    )  # fmt: skip
