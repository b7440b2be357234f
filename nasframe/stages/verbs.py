"""The verbs of a recipe, one function each: ``Work`` in, ``Work`` out; their keyword arguments are their options.

Every verb takes ``name`` (the stage's name), ``from`` (the network to start from: ``pretrained``, ``random`` or the
name of a saved one; default: the previous stage's) and, if it uses one, its own ``space``. :func:`perform` handles
these, and the ``task`` that a stage of some verbs may name for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nasframe import registry
from nasframe.declarations import (
    DECLARATIONS,
    LOADED_ON,
    TEACHER,
    Budgets,
    Declaration,
    budget_texts,
    budgeted_costs,
    matching,
)
from nasframe.errors import RunError
from nasframe.folders import model_folder
from nasframe.interfaces import CURRENT, Origin, TaskFactoryTraits, Work, traits_of, written_arch
from nasframe.measures import PRIMARY, search_metrics
from nasframe.options import Option, options_of
from nasframe.plan import models_of_task, own_task, searched_net, uses_supernet
from nasframe.records import (
    Arch,
    Count,
    EvaluatorRef,
    ExporterRef,
    ModifierRef,
    Positive,
    Ref,
    SamplerRef,
    TrainerRef,
    TrainOptions,
    Trial,
    summed,
)
from nasframe.search.winner import Rule, WinnerRule
from nasframe.stages import choose, measure, model_store
from nasframe.stages.drawings import keep_drawings
from nasframe.stages.examples import readable_examples
from nasframe.stages.fitting import Fitting, settled
from nasframe.stages.inputs import data_facts
from nasframe.stages.origins import renamed, with_supernet, without_reshaped
from nasframe.stages.reference import check_extracted, expected_outputs
from nasframe.stages.trials import (
    Divergence,
    Tally,
    agreement_use,
    mac_counter,
    stage_scorer,
    store_trial,
    stored_tally,
)
from nasframe.training.forward import forward_of

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Task
    from nasframe.records import LedgerEntry
    from nasframe.search.budgets import Budget
    from nasframe.search.loop import SearchResult
    from nasframe.stages.session import StageSession


def load(work: Work, stage: StageSession, *, save_as: str = TEACHER) -> Work:
    """Load the recipe's teacher as it stands, measure it on ``select`` and ``dev``, and go on with it.

    A recipe that names a ``teacher`` gets this stage in the place of the one that trains it, or as its first.

    Args:
        save_as: keep the teacher under this name.
    """
    net = stage.inputs.teacher_net
    assert net is not None
    if work.vocabulary is not None:
        # A transform has left out tokens, and the current tokenizer only has the others.
        from nasframe.nn.vocabulary import shrunk_net

        net = shrunk_net(net, work.vocabulary)
    origins = {name: origin for name, origin in work.origins.items() if name not in (CURRENT, save_as)}
    work = replace(work, net=net, models={**work.models, save_as: net}, origins=origins)
    measured = _Measured(stage, work, "fp32")
    began = time.monotonic()
    with stage.progress.bar(stage.name) as advance:
        for number, split in enumerate(LOADED_ON, start=1):
            measured.measure(save_as, net, split)
            advance(number, len(LOADED_ON), split)
    stage.add_ledger([measured.tally.ledger_entry(time.monotonic() - began)])
    model_store.save(stage, save_as, net, work.tokenizer)
    return work


def train(
    work: Work,
    stage: StageSession,
    *,
    options: TrainOptions,
    sampler: SamplerRef | Literal["shared"] | None = None,
    within: Mapping[str, list[Any]] | None = None,
    arch: str | Mapping[str, Any] | None = None,
    models: list[str] | None = None,
    modifiers: Sequence[ModifierRef] = (),
    trainer: TrainerRef = "loop",
    save_as: str | None = None,
) -> Work:
    """Train the network, the sub-networks that a sampler proposes, or stand-alone models.

    Args:
        options: how to train; see :class:`nasframe.records.TrainOptions`.
        sampler: proposes the sub-networks to train; ``shared`` is the recipe's own sampler; default: the whole network
            is trained.
        within: restrict the domain, as in ``{heads: [8, 12], layers: [12]}``.
        arch: train only this sub-network, given as the name of a found architecture or as sizes.
        models: train these models (``best@*``) one by one instead of the network.
        modifiers: act inside the training loop, in this order; null entries are skipped.
        trainer: runs the training loop.
        save_as: keep the trained network under this name, as a teacher or a starting point.
    """
    fitting = Fitting(stage, work, options, sampler, within, arch, modifiers, trainer)
    if models is not None:
        return _train_models(fitting, models)
    result = fitting.fit(work.net)
    stage.add_ledger(result.ledger)
    archs = dict(work.archs)
    saved = dict(work.models)
    origins = dict(work.origins)
    # A modifier such as a pruner may end with an architecture, which `extract` cuts out like that of a search.
    if result.arch is not None:
        archs[save_as or stage.name] = result.arch
    if save_as:
        saved[save_as] = result.net
        origins = renamed(origins, save_as)
        model_store.save(stage, save_as, result.net, work.tokenizer)
    return replace(work, net=result.net, archs=archs, models=saved, origins=origins)


def _train_models(fitting: Fitting, patterns: list[str]) -> Work:
    """Train stand-alone models one by one; the current network stays as it is."""
    stage = fitting.stage
    work = fitting.work
    nets: dict[str, nn.Module] = {}
    ledger: list[LedgerEntry] = []
    for name, net in _of_task(stage, work, patterns).items():
        result = fitting.fit(net, name)
        nets[name] = result.net
        ledger.extend(result.ledger)
    stage.add_ledger(summed(ledger))
    # Only when all are trained: a stage that is interrupted is repeated, from the models as they were.
    for name, net in nets.items():
        model_store.renew(stage, name, net, work)
    origins = without_reshaped(work.origins, work.models, {**work.models, **nets})
    return replace(work, models={**work.models, **nets}, origins=origins)


def transform(
    work: Work, stage: StageSession, *, use: Annotated[Any, Ref("transform")], save_as: str | None = None
) -> Work:
    """Change the weights between stages with a transform. Its options are written next to ``use``.

    Args:
        use: the transform's name.
        save_as: keep the changed network under this name.
    """
    with stage.progress.bar(stage.name):
        result: Work = stage.make("transform", use, auto_class=_auto_class(stage))(work)
        settled(result.net)
    changed = {name: net for name, net in result.models.items() if net is not work.models.get(name, net)}
    for net in changed.values():
        settled(net)
    if result.vocabulary != work.vocabulary:
        # The task has to tokenise its texts again, and the files of saved models have the old token ids.
        result = replace(result, task=stage.inputs.task_for(result.tokenizer, own_task(stage.planned)))
        changed = dict(result.models)
    for name, net in changed.items():
        model_store.renew(stage, name, net, result)
    result = replace(result, origins=without_reshaped(result.origins, work.models, result.models))
    if save_as:
        origins = renamed(result.origins, save_as)
        result = replace(result, models={**result.models, save_as: result.net}, origins=origins)
        model_store.save(stage, save_as, result.net, result.tokenizer)
    return result


def _auto_class(stage: StageSession) -> str:
    """Return the auto class of transformers that has the head of a stage's task."""
    name, _ = registry.use_of(own_task(stage.planned) or stage.plan.task)
    return traits_of(TaskFactoryTraits, registry.find("task", name).load()).auto_class


def search(
    work: Work,
    stage: StageSession,
    *,
    sampler: SamplerRef | Literal["shared"] = "random",
    evaluator: EvaluatorRef = "metric",
    trials: Count = 100,
    objectives: list[str] | None = None,
    constraints: Mapping[str, Any] | None = None,
    budgets: Mapping[str, Any] | list[Mapping[str, Any]] | None = None,
    within: Mapping[str, list[Any]] | None = None,
    examples: Count | None = None,
    finalists: Count = 10,
    winner: Rule = "score",
    teacher: str = "teacher",
    fit: Mapping[str, Any] | None = None,
    violation: Literal["screen"] | Mapping[str, Positive] = "screen",
    max_rejections: Count = 1000,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    save_as: str = "best",
) -> Work:
    """Look for the best sub-network under every budget, on the ``select`` split.

    Args:
        sampler: proposes the architectures; ``shared`` is the recipe's own sampler, with what it has learned so far.
        evaluator: measures what trials are scored by; default: the task's metrics.
        trials: how many architectures to evaluate; repeated and screened proposals do not count.
        objectives: what to maximise, as in ``[accuracy, -flops]``, with ``-`` before a cost and before a metric that is
            better when it is smaller; ``primary``, the default, is the evaluator's first metric in its better
            direction: the task's primary one, unless ``evaluator`` has another.
        constraints: bounds that every winner must meet; for the costs that they name, they replace the recipe's.
        budgets: bounds that each get their own winner, or a list of mappings of bounds to meet together; they replace
            the recipe's.
        within: restrict the domain, as in ``{heads: [8, 12], layers: [12]}``.
        examples: score on a fixed subset of this many examples.
        finalists: how many of the best trials are scored again on all of ``select`` if ``examples`` is given; also the
            largest number that ``agreement`` compares with the teacher.
        winner: ``score`` takes the best score, and the cheapest among equal ones. Among the finalists within one
            standard error of the best score, ``loss`` takes the one with the smallest loss and ``agreement`` the one
            whose outputs are closest to the teacher's; if several are equal, both take the largest network.
        teacher: the saved network that ``agreement`` compares with.
        fit: training options with which a copy of each candidate is trained before it is scored, with ``modifiers`` and
            a ``trainer`` as a training has them.
        violation: ``screen`` never evaluates an architecture that breaks a constraint; ``{penalise: p}`` evaluates it
            and lowers its score.
        max_rejections: end the search after this many repeated or screened proposals in a row.
        precision: ``auto`` is bfloat16 autocast if the device computes it natively.
        save_as: winners are named ``<save_as>``, or ``<save_as>@<budget>``.
    """
    from nasframe.plan import limits_of
    from nasframe.search import loop
    from nasframe.search.budgets import named_budgets, parse_limits
    from nasframe.search.costs import full_costs

    assert work.space is not None
    space = work.space
    net = work.net
    if net is not None:  # a table of architectures has none
        net.eval()
    measured = search_metrics(stage.make("evaluator", evaluator), work.task)
    objectives = measured.named(objectives or stage.plan.objectives or [PRIMARY])
    constraints, wanted = limits_of(stage.plan, {"constraints": constraints, "budgets": budgets})
    # The sampler gets the costs that decide: those with bounds, and those among the objectives.
    limited = {*constraints, *budgeted_costs(wanted)}
    aims = {objective.removeprefix("-") for objective in objectives}
    sought = limited | (aims & stage.estimators.keys())
    shown = {"params", "macs"} & stage.estimators.keys()  # reports show these of every trial

    costs = measure.cost_function(stage, space, net, sorted(sought | shown))
    proposer = choose.sampler(stage, sampler, work, sought)
    # A bound of 50 % is half of what the super-network's largest architecture costs.
    full = full_costs({name: stage.estimators[name] for name in limited}, space, net)
    bounds, bounds_of_budgets = parse_limits(constraints, wanted, full)
    score_by = partial(stage_scorer, stage, work, objectives=objectives, fit=fit, precision=precision)
    scorer = score_by(evaluator, tally=stored_tally(stage))
    divergence = None
    if winner == "agreement":
        divergence = Divergence(score_by(agreement_use(teacher), tally=Tally()))
    rule = WinnerRule(
        name=winner,
        error=measured.error_kind(objectives[0]),
        examples=work.task.sizes.get("select"),
        divergence=divergence,
        finalists=finalists,
    )
    subset = loop.subset(examples, work.task.sizes.get("select"))
    began = time.monotonic()
    with stage.progress.bar(stage.name) as advance:
        # Each trial is stored at once, so that a search that is interrupted goes on after its last one.
        def store(number: int, trial: Trial, seconds: float) -> None:
            store_trial(stage, number, trial, seconds, scorer.tally)
            advance(scorer.tally.evaluations, trials, "")

        result = loop.search(
            proposer,
            choose.domain(stage, space, sampler, None),  # the one that the sampler was made for; "within" is part of it
            scorer,
            costs,
            objectives=objectives,
            trials=trials,
            within=choose.domain(stage, space, sampler, within),
            bounds=bounds,
            budgets=bounds_of_budgets,
            examples=subset,
            finalists=finalists,
            remeasure=measure.remeasure(stage, space, net, limited),
            violation=violation,
            max_rejections=max_rejections,
            prefix=save_as,
            done=stage.store.trials(stage.name),
            on_trial=store,
            stage=stage.name,
            rule=rule,
        )
    stage.add_ledger(_search_ledger(scorer.tally, divergence, time.monotonic() - began))
    model_store.save_searched(stage, net, work)
    stage.result["objectives"] = list(objectives)
    if own_task(stage.planned) is not None:
        stage.result["data"] = data_facts(work.task)  # of the recipe's task the run itself keeps them
    own_metrics = measured.besides(work.task)
    if own_metrics:
        stage.result["metrics"] = own_metrics
    referred = [name for name in sorted(limited) if _has_percentage(name, constraints, wanted)]
    if referred:
        stage.result["full"] = {name: full[name] for name in referred}
    _record_search(stage, trials, subset, result, named_budgets(save_as, bounds, bounds_of_budgets))
    _notify_of_shortfall(stage, trials, result)
    _notify_of_unknown_error(stage, result, objectives[0])
    winners = {name: trial.arch for name, trial in result.winners.items()}
    keep_drawings(stage, space.domain, winners)
    return replace(work, archs={**work.archs, **winners})


def _search_ledger(tally: Tally, divergence: Divergence | None, seconds: float) -> list[LedgerEntry]:
    """Return what a search's evaluations cost, those of its agreement with a teacher included."""
    entries = [tally.ledger_entry(seconds)]
    if divergence is not None:
        entries.append(divergence.scorer.tally.ledger_entry(0.0))  # its time is part of the search's
    return summed(entries)


def _has_percentage(cost: str, constraints: Mapping[str, Any], budgets: Budgets) -> bool:
    """Tell whether some of a cost's bounds are percentages."""
    bounds = [str(constraints.get(cost))]
    bounds += [texts[cost] for texts in budget_texts(budgets) if cost in texts]
    return any("%" in bound for bound in bounds)


def _record_search(
    stage: StageSession, trials: int, examples: int | None, result: SearchResult, budgets: Sequence[Budget]
) -> None:
    """Keep the winners of a search, their bounds and its counts in the stage's result."""
    from nasframe.report.budgets import plain_bounds

    winners = {}
    for name, trial in result.winners.items():
        choice = result.choices[name]
        facts = {"rule": choice.rule, "within": choice.within, "standard_error": choice.error}
        winners[name] = {"arch": dict(trial.arch), "score": trial.score, "choice": facts}
    stage.result["winners"] = winners
    stage.result["bounds"] = {budget.name: plain_bounds(budget.bounds) for budget in budgets}
    stage.result["search"] = {
        "trials": trials,
        "examples": examples,
        "evaluated": result.evaluated,
        "broken_off": result.broken_off,
        "repeats": result.repeats,
        "failures": result.failures,
        "ended": result.ended,
    }


def _notify_of_unknown_error(stage: StageSession, result: SearchResult, objective: str) -> None:
    """Tell the user if a rule had only exact ties to decide, because the error of the score is unknown."""
    for choice in result.choices.values():
        if choice.rule != "score" and choice.error is None:
            text = (
                f"The standard error of {objective!r} is unknown, so {choice.rule} decides between equal scores only."
            )
            stage.notify(f"stages.{stage.name}.winner", text)
            return  # once, however many winners there are


def _notify_of_shortfall(stage: StageSession, trials: int, result: SearchResult) -> None:
    """Tell the user if a search made fewer evaluations than it was asked for, or if some failed."""
    place = f"stages.{stage.name}"
    if result.ended:
        count = f"{result.evaluated} of {trials} evaluations"
        stage.notify(f"{place}.trials", f"The search ended after {count}: {result.ended}.")
    if result.failures:
        attempts = result.evaluated + result.failures
        stage.notify(place, f"{result.failures} of {attempts} evaluations failed and count for nothing.")


def extract(work: Work, stage: StageSession, *, archs: list[str] | Mapping[str, Any] | None = None) -> Work:
    """Copy found sub-networks out of the super-network as stand-alone models.

    Args:
        archs: names of found architectures (``best@*``), or ``{name: sizes}``, with sizes written out or the name of a
            found architecture; default: all that were found and are not extracted yet.
    """
    assert work.space is not None
    chosen = _archs_to_extract(work, archs)
    if not chosen:
        raise RunError(f"stage {stage.name}: nothing to extract. Expected an architecture from a search or in 'archs'.")
    use = stage.planned.options.get("space") or stage.plan.space
    models = {}
    origins = dict(work.origins)
    for name, arch in chosen.items():
        models[name] = settled(work.space.extract(work.net, arch))
        origins[name] = Origin(work.space, use or {}, work.net, arch)
    for name, model in models.items():
        check_extracted(stage, name, model, chosen[name], work)
        measure.check_budget(stage, name, work.net, chosen[name], work)
        model_store.describe(stage, name, model, arch=chosen[name])
    keep_drawings(stage, work.space.domain, chosen)
    return replace(work, archs={**work.archs, **chosen}, models={**work.models, **models}, origins=origins)


def _archs_to_extract(work: Work, archs: list[str] | Mapping[str, Any] | None) -> dict[str, Arch]:
    chosen = {}
    if isinstance(archs, Mapping):
        assert work.space is not None
        for name, source in archs.items():
            if isinstance(source, str):  # another name of a found architecture
                chosen[name] = work.archs[source]
            else:
                chosen[name] = written_arch(work.space, source)
        return chosen
    # A network saved under an architecture's name counts as extracted: names of models are unique.
    unextracted = [name for name in work.archs if name not in work.models]
    for name in matching(unextracted, archs or None):
        chosen[name] = work.archs[name]
    return chosen


def evaluate(
    work: Work,
    stage: StageSession,
    *,
    split: Literal["train", "select", "dev"] = "dev",
    models: list[str] | None = None,
    costs: list[str] | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
) -> Work:
    """Measure models on a split, with their costs, and save their predictions.

    Args:
        split: ``dev`` is for reporting; nothing is ever selected on it.
        models: the models to measure, by name (``best@*``); default: all, or the current network if no model was saved
            or extracted.
        costs: the costs of each model to report; default: parameters (all, and those of backbone and encoder if the
            network has them), MACs, size and latency.
        precision: the number format of the forward passes; ``auto`` is bfloat16 if the device computes it natively.
    """
    fitting = models_of_task(stage.plan, stage.planned, work.models)
    chosen = _of_task(stage, work, models) if fitting else {stage.name: work.net}
    measured = _Measured(stage, work, precision)
    tally = measured.tally
    began = time.monotonic()
    predictions = {}
    with stage.progress.bar(stage.name) as advance:
        for name, net in chosen.items():
            advance(tally.evaluations, len(chosen), name)
            predictions[name] = measured.measure(name, net, split)
            advance(tally.evaluations, len(chosen), name)
    if split == "dev":
        examples = readable_examples(stage, work.task, predictions)
        if examples is not None:
            stage.result["examples"] = examples
    # After all metrics, because models take turns when a cost is measured, so all have to be there.
    with stage.progress.bar(f"{stage.name}: costs") as advance:
        names = measure.usual_costs(chosen.values()) if costs is None else costs
        measure.measure_models(stage, work, chosen, names, advance)
    model_store.report_over_budget(stage, chosen)
    stage.add_ledger([tally.ledger_entry(time.monotonic() - began)])
    return work


class _Measured:
    """Measures models on splits, and keeps their metrics and predictions.

    Args:
        stage: the stage.
        work: its task measures.
        precision: the number format of the forward passes.
    """

    def __init__(self, stage: StageSession, work: Work, precision: Literal["auto", "fp32", "bf16"]) -> None:
        self.stage = stage
        self.task = work.task
        self.precision: Literal["auto", "fp32", "bf16"] = precision
        self.tally = Tally()
        self._counter = mac_counter(stage, work)

    def measure(self, name: str, net: nn.Module, split: str) -> Mapping[str, Sequence[Any]]:
        """Measure one model on a split, and return its predictions."""
        forward = forward_of(net.eval(), net, self.precision, f"model {name!r}")
        result = self.task.evaluate(forward, split)
        self.tally.add(result, self._counter.evaluation(net, None, result))
        model_store.describe(self.stage, name, net)
        model_store.add_metrics(self.stage, name, split, result.metrics)
        model_store.write_predictions(self.stage, name, split, result.predictions)
        return result.predictions


def export(
    work: Work,
    stage: StageSession,
    *,
    mode: ExporterRef = "hetero",
    models: list[str] | None = None,
) -> Work:
    """Write extracted models for other programs, and verify in a fresh process that they load and agree.

    Args:
        mode: the exporter: ``hetero`` keeps the true sizes; ``padded`` fills up with zeros, so that the stock class
            loads the model; ``stock`` is for models that a plain configuration can describe; or a plugin's.
        models: the models to write, by name (``best@*``); default: all extracted models.
    """
    from nasframe.export import write as writer

    extracted = [name for name in work.archs if name in work.models]  # others were saved when they were trained
    chosen = _of_task(stage, work, models or extracted)
    folders = {name: model_folder(stage.store.directory, name) for name in chosen}
    expected = {name: expected_outputs(stage, name, net, work) for name, net in chosen.items()}
    with stage.progress.bar(stage.name) as advance, model_store.recording_files(stage, *chosen):
        advance(0, len(chosen), "")
        stage.result["exports"] = writer.export_all(
            chosen,
            work.tokenizer,
            folders,
            mode=stage.make("exporter", mode),
            use=mode,
            expected=expected,
            card=model_store.card_facts(stage, chosen),
            archs={name: work.archs.get(name) for name in chosen},
            replace=True,
        )
        advance(len(chosen), len(chosen), "")
    for name in chosen:
        model_store.keep_path(stage, name)
    return work


def _of_task(stage: StageSession, work: Work, patterns: list[str] | None) -> dict[str, nn.Module]:
    """Return the models that patterns name and that have the head of the stage's task; all of them without patterns."""
    names = models_of_task(stage.plan, stage.planned, work.models)
    return choose.models({name: work.models[name] for name in names}, patterns)


POSITIONAL = 2
"""How many leading parameters of a verb's function are not options: ``work`` and ``stage``."""


@dataclass(frozen=True)
class Verb:
    """A verb of recipes.

    Args:
        function: runs a stage.
        declaration: what a stage saves, finds and measures, known before it runs.
    """

    function: Callable[..., Work]
    declaration: Declaration

    @property
    def options(self) -> dict[str, Option]:
        """The verb's own options by name."""
        return options_of(self.function, skip=(), positional=POSITIONAL)


VERBS: dict[str, Verb] = {
    "load": Verb(load, DECLARATIONS["load"]),
    "train": Verb(train, DECLARATIONS["train"]),
    "transform": Verb(transform, DECLARATIONS["transform"]),
    "search": Verb(search, DECLARATIONS["search"]),
    "extract": Verb(extract, DECLARATIONS["extract"]),
    "evaluate": Verb(evaluate, DECLARATIONS["evaluate"]),
    "export": Verb(export, DECLARATIONS["export"]),
}


def perform(work: Work, stage: StageSession) -> Work:
    """Run a stage's verb, from the network and with the space that the stage names.

    Args:
        work: what the stage before left.
        stage: the stage.
    """
    options = dict(stage.planned.options)
    start = options.pop("from_", None)
    space = options.pop("space", None)
    task = options.pop("task", None)
    recipes_own = work.space
    recipes_task = work.task
    if task is not None:
        work = replace(work, task=_own_task(stage, task, work))
    # The network before the space, which is made on it.
    if start is not None:
        net = choose.start_network(stage, start, work)
        work = replace(work, net=net, origins=renamed(work.origins, CURRENT, source=start))
    if space is not None:
        work = replace(work, space=choose.space(stage, space, work))
    elif "space" in stage.planned.options:  # it is null: the network as it was loaded
        work = replace(work, space=None)
    was_supernet = CURRENT in work.origins
    if uses_supernet(stage.planned.verb, stage.planned.options):
        work = with_supernet(work, stage, space or stage.plan.space or {})
    if stage.planned.verb == "search" and CURRENT in work.origins:
        # A deployment opens the network that an earlier stage saved, or the one that this search keeps.
        is_kept = was_supernet or searched_net(stage.plan, stage.planned) is None
        stage.result["supernet"] = "kept" if is_kept else "made"
    stage.inputs.probe_task = work.task
    result = VERBS[stage.planned.verb].function(work, stage, **options)
    stage.inputs.probe_task = result.task
    if "space" in stage.planned.options:  # a stage's own space is its own, as it would be after a resume
        result = replace(result, space=recipes_own)
    if task is not None:
        if result.vocabulary != work.vocabulary:  # the texts have to be split into the kept tokens
            recipes_task = stage.inputs.task_for(result.tokenizer)
        result = replace(result, task=recipes_task)
        stage.inputs.probe_task = recipes_task
    return result


def _own_task(stage: StageSession, use: Mapping[str, Any], work: Work) -> Task:
    """Return a stage's own task, with the tokenizer that a transform may have made smaller."""
    if work.vocabulary is None:
        return stage.inputs.task_of(stage.planned)
    return stage.inputs.task_for(work.tokenizer, use)
