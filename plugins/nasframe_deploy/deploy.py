"""Compress once, deploy everywhere: models for new constraints from a finished run, without training.

:class:`nasframe_deploy.deployer.Deployer` chooses the architectures. Here the models are extracted, written, loaded
again in one fresh process, and compared with the super-network's view.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.export.verify import Verifier
from nasframe.folders import folder_name
from nasframe.plugin_errors import naming_plugins
from nasframe.progress import Progress
from nasframe.records import CostFormat, MetricFormat
from nasframe.report.format import PLAIN_COST, cost_formats, cost_heading, metric_format, metric_formats, titled
from nasframe.report.tables import cost, markdown_table, metric
from nasframe.running.reopen import Finished
from nasframe.search.budgets import Budget, named_budgets, parse_limits
from nasframe.storage import refuse_unwritable
from nasframe.store import write_text
from nasframe_deploy.deployer import Choice, DeployedModel, Deployer
from nasframe_deploy.request import Request, read_request

if TYPE_CHECKING:
    from nasframe.running.runner import Run

FORMAT = 1
"""Of ``deploy.json``."""


@dataclass(frozen=True)
class Deployment:
    """The content of ``deploy.json``; ``docs/deploy.md`` describes it."""

    format: int
    run: str
    stage: str
    net: str
    mode: str
    split: str
    objective: str
    metric: MetricFormat
    cost_formats: Mapping[str, CostFormat]
    evaluations: int
    models: Sequence[DeployedModel]
    seconds: Mapping[str, float]


@naming_plugins()
def deploy(
    run: str | Path | Run,
    constraints: Sequence[str] = (),
    *,
    out: str | Path,
    budgets: Sequence[str] = (),
    search: int | None = None,
    mode: Any = "hetero",
    sampler: Any = None,
    stage: str | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Write models for new constraints from a finished run: choose, extract, write and verify; nothing is trained.

    Architectures are scored on ``select``; ``dev`` is never read.

    Args:
        run: a finished run, or its directory.
        constraints: bounds that every model must meet, as ``"encoder_params<=60%"`` or ``"latency<=12ms"``. The
            recipe's own constraints hold too, except for costs that are named here.
        out: a new or empty directory for the models and ``deploy.json``.
        budgets: one model each, as ``"encoder_params=80%,60%,40%"``; or one model within several bounds, as
            ``"encoder_params<=60%,latency<=12ms"``.
        search: evaluations a budget in a search on the super-network; 0 uses the archive alone. Default: 40 if the
            archive has few architectures near the budget, else none.
        mode: the exporter, see :func:`nasframe.export.write.export`.
        sampler: proposes architectures in that search. Default: the run's own sampler, with all that it has learned, if
            its search used it (``sampler: shared``); else ``evolution``.
        stage: the search whose super-network and archive are used; default: the run's last.
        progress: show bars; default on a terminal only.

    Returns:
        The content of ``deploy.json``; see ``docs/deploy.md``.

    Raises:
        UsageError: the constraints cannot be read (lists all of them), the run is not finished, or ``out`` is not
            empty.
        UnsatisfiableError: nothing meets some constraint; names the nearest reachable value.
        VerificationError: a written model does not load, or computes something else.
    """
    clock = _Clock()
    directory = Path(run if isinstance(run, str | Path) else run.directory)
    target = Path(out)
    _check_target(target)  # before any work
    if isinstance(mode, str):
        registry.find("exporter", mode)
    bars = Progress(progress)
    with Verifier() as verifier, ExitStack() as scope:  # its process imports while this one works
        with bars.bar("run"):
            finished = Finished(directory, stage)
            scope.enter_context(finished.plan.file_plugins())
            request = read_request(finished.plan, constraints, budgets)
            wanted = _budgets_of(finished, request)
            deployer = Deployer(finished, wanted, verifier)
        clock.lap("load")
        with bars.bar("search") as advance:
            deployer.search(search, sampler, advance)
        clock.lap("search")
        with bars.bar("choose") as advance:
            choices = deployer.choose_all(advance)
        # One choice a budget, but several budgets may choose the same architecture: each gets its own model.
        models = {}
        for name, choice in choices.items():
            models[name] = finished.space.extract(finished.net, choice.trial.arch)
        with bars.bar("measure") as advance:
            choices = deployer.measure_again(choices, models, advance)
        clock.lap("choose")
        with bars.bar("write and verify"):
            _write(finished, choices, models, deployer.over_budget(choices), target, mode, verifier)
    clock.lap("write")

    deployed = []
    for budget in wanted:
        difference = _difference(target / folder_name(budget.name))
        deployed.append(deployer.describe(budget, choices[budget.name], difference))
    score = finished.objective.removeprefix("-")  # with a minus, the search minimised it
    deployment = Deployment(
        format=FORMAT,
        run=str(directory.resolve()),
        stage=finished.stage.name,
        net=finished.net_name,
        mode=mode,
        split="select",
        objective=finished.objective,
        metric=metric_format(metric_formats(finished.data), score),
        cost_formats=deployer.cost_formats(),
        evaluations=deployer.evaluations,
        models=deployed,
        seconds=clock.seconds(),
    )
    facts = asdict(deployment)
    write_text(target / "deploy.json", json.dumps(facts, indent=1) + "\n")
    write_text(target / "deploy.md", markdown_table(*rows(facts, costs_of(facts))) + "\n")
    return facts


def costs_of(facts: Mapping[str, Any]) -> list[str]:
    """Return the costs that some model of a deployment has, in order: models may have those of their own budget only.

    Args:
        facts: as :func:`deploy` returns them.
    """
    names: dict[str, None] = {}  # a set in order
    for model in facts["models"]:
        names.update(dict.fromkeys(model["costs"]))
    return list(names)


def rows(facts: Mapping[str, Any], costs: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of a deployment.

    If some model is over its budget, the last column says by what.

    Args:
        facts: as :func:`deploy` returns them.
        costs: those that get a column.
    """
    models = facts["models"]
    form = MetricFormat(**facts["metric"])
    formats = cost_formats(facts["cost_formats"])
    cost_headings = [cost_heading(name, formats.get(name, PLAIN_COST)) for name in costs]
    heading = ["model", f"select {titled(facts['objective'], form)}", *cost_headings, "origin"]
    with_budgets = any(model["over_budget"] for model in models)
    if with_budgets:
        heading.append("budget")
    lines = []
    for model in models:
        line = [model["name"], metric(form, model["score"])]
        line += [_cost_text(formats.get(name, PLAIN_COST), name, model) for name in costs]
        line.append(model["origin"])
        if with_budgets:
            broken = model["over_budget"]
            line.append(f"over budget: {broken}" if broken else "met")
        lines.append(line)
    return heading, lines


def _cost_text(form: CostFormat, name: str, model: Mapping[str, Any]) -> str:
    """Return a cost, and its share of the full network's if there is one."""
    text = cost(form, name, model["costs"])
    share = model["shares"].get(name)
    if share is None:
        return text
    return f"{text} ({share:.0%})"


class _Clock:
    """Measures how long the parts of a deployment take."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._last = self._began
        self._laps: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Note the end of a part."""
        now = time.monotonic()
        self._laps[part] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part, and of all up to the end of the last."""
        return {**self._laps, "total": self._last - self._began}


def _check_target(target: Path) -> None:
    """Make sure that models can be written to a folder.

    Raises:
        UsageError: it is not empty, or cannot be written to.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: not empty; it is never overwritten. Expected a new or empty directory.")
    refuse_unwritable(target)


def _budgets_of(finished: Finished, request: Request) -> list[Budget]:
    """Turn a request into budgets; percentages refer to the super-network's largest architecture."""
    full = finished.full_costs(request.costs)
    constraints, budgets = parse_limits(request.constraints, request.budgets, full)
    return named_budgets("best", constraints, budgets)


def _difference(folder: Path) -> float:
    """Return how far a written model's logits are from the super-network's."""
    report = json.loads((folder / "export_report.json").read_text(encoding="utf-8"))
    difference: float = report["max_abs_difference"]
    return difference


def _write(
    finished: Finished,
    choices: Mapping[str, Choice],
    models: Mapping[str, Any],
    over_budget: Mapping[str, str],
    target: Path,
    mode: Any,
    verifier: Verifier,
) -> None:
    """Write and verify all models.

    Args:
        finished: the run.
        choices: name → choice.
        models: name → extracted network.
        over_budget: name → by which costs it is over its budget.
        target: the folder of the models.
        mode: how they are written.
        verifier: loads them again.
    """
    from nasframe.export import write as export
    from nasframe.export.files import image_processor_of

    plan = finished.plan
    # A written model must compute what was scored: the super-network's view, not only what the extracted one computes.
    inputs = _probe_inputs(finished)
    expected = {}
    entries = {}
    for name, choice in choices.items():
        expected[name] = {"inputs": inputs, "outputs": _view_outputs(finished, choice, inputs)}
        metrics = {f"select {metric}": value for metric, value in choice.trial.metrics.items()}
        entries[name] = {"metrics": metrics, "over_budget": over_budget[name]}
    export.export_all(
        models,
        finished.inputs.tokenizer,
        {name: target / folder_name(name) for name in models},
        mode=mode,
        expected=expected,
        card={
            "model": plan.model,
            "task": plan.task,
            "data": finished.data,
            "image_processor": image_processor_of(finished.inputs.task),
            "models": entries,
        },
        archs={name: choice.trial.arch for name, choice in choices.items()},
        verifier=verifier,
    )


def _probe_inputs(finished: Finished) -> dict[str, Any]:
    """Return inputs on which models are compared: invented token ids, or else examples of the run's task."""
    from nasframe.export.write import invented_inputs
    from nasframe.training.macs import probe_inputs

    inputs = invented_inputs(finished.net)  # without the run's data, which a deployment may not have
    if inputs is not None:
        return inputs
    return probe_inputs(finished.task)


def _view_outputs(finished: Finished, choice: Choice, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of the super-network's view of an architecture by name, on the CPU."""
    import torch

    from nasframe.nn.outputs import compared

    net = finished.net
    device = next(net.parameters()).device
    view = finished.space.view(net, choice.trial.arch)
    on_device = {name: value.to(device) for name, value in inputs.items()}
    with torch.no_grad():
        outputs = compared(view(**on_device))
    return {name: tensor.float().cpu() for name, tensor in outputs.items()}
