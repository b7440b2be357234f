"""The verbs of a recipe, one function each: ``Work`` in, ``Work`` out; their keyword arguments are their options.

Every verb takes ``name`` (the stage's name), ``from`` (which network to start from: ``pretrained``, ``random`` or the
name of a saved one; default the previous stage's) and, where it uses one, its own ``space``; the runner resolves these.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nasframe.declarations import COSTS, DECLARATIONS, Declaration, matching
from nasframe.errors import DivergedError, RunError
from nasframe.interfaces import TrainJob, TrainResult, Work, sizes_of
from nasframe.options import Option, options_of
from nasframe.records import (
    Arch,
    Count,
    LedgerEntry,
    ModifierRef,
    Positive,
    Ref,
    SamplerRef,
    TrainerRef,
    TrainOptions,
    Trial,
    summed,
)
from nasframe.training.optim import forward_of

if TYPE_CHECKING:
    from torch import nn

    from nasframe.search.loop import SearchResult
    from nasframe.stages.context import StageContext


def train(
    work: Work,
    run: StageContext,
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
    """Train the network, the sub-networks that a sampler proposes, or models that stand alone.

    Args:
        options: how to train; see :class:`nasframe.records.TrainOptions`.
        sampler: who proposes sub-networks, ``shared`` for the recipe's own; without one the whole network is trained.
        within: restrict the domain, ``{heads: [8, 12], layers: [12]}``.
        arch: train this one sub-network: a found one's name, or its sizes.
        models: train these models (``best@*``) in place of the network, each for itself.
        modifiers: what acts inside the loop, in order; one that is null is switched off.
        trainer: who runs the loop.
        save_as: keep the trained network under this name, as a teacher or a starting point.
    """
    space = work.space if sampler is not None or arch is not None else None

    def fit(net: nn.Module, name: str = "") -> TrainResult:
        net = trainable(net)
        if space is not None:
            net = space.supernet(net)
        with run.progress.bar(f"{run.name} {name}".rstrip()) as advance:
            job = TrainJob(
                net=net, task=work.task, tokenizer=work.tokenizer, options=options, seed=run.seed, stage=run.name,
                space=space, sampler=run.sampler(sampler, work) if sampler is not None else None,
                within=run.domain(space, sampler, within) if space is not None and sampler is not None else None,
                arch=run.arch(arch, work),
                modifiers=[run.make("modifier", ref) for ref in modifiers if ref is not None],
                models=work.models, estimators=run.estimators, log=run.logger(name), checkpoint=run.checkpoint(name),
                progress=advance,
            )  # fmt: skip
            try:
                result: TrainResult = run.make("trainer", trainer).fit(job)
            except DivergedError as error:
                if name:
                    error.add_note(f"It happened to model {name!r}.")
                raise
            require_finite_weights(f"{run.name} {name}".rstrip(), result.net)
            settled(result.net)
            return result

    if models is not None:
        trained = {name: fit(net, name) for name, net in _chosen(work.models, models).items()}
        run.ledger(summed([entry for result in trained.values() for entry in result.ledger]))
        for name, result in trained.items():
            run.renew(name, result.net, work)
        return replace(work, models={**work.models, **{name: result.net for name, result in trained.items()}})
    result = fit(work.net)
    run.ledger(result.ledger)
    archs = work.archs if result.arch is None else {**work.archs, save_as or run.name: result.arch}
    kept = {**work.models, save_as: result.net} if save_as else work.models
    if save_as:
        run.save_net(save_as, result.net, work.tokenizer)
    return replace(work, net=result.net, archs=archs, models=kept)


def transform(
    work: Work, run: StageContext, *, use: Annotated[Any, Ref("transform")], save_as: str | None = None
) -> Work:
    """Change the weights between stages with a transform, whose options stand beside ``use``.

    Args:
        use: the transform's name.
        save_as: keep the changed network under this name.
    """
    with run.progress.bar(run.name):
        result = run.make("transform", use)(work)
        settled(result.net)
    if result.vocabulary != work.vocabulary:  # the texts are tokenised anew, and what is kept of models is renewed
        result = replace(result, task=run.run.parts.task_for(result.tokenizer))
        for name, net in result.models.items():
            run.renew(name, net, result)
    if save_as:
        result = replace(result, models={**result.models, save_as: result.net})
        run.save_net(save_as, result.net, result.tokenizer)
    return result


def search(
    work: Work,
    run: StageContext,
    *,
    sampler: SamplerRef | Literal["shared"] = "random",
    trials: Count = 100,
    objectives: list[str] | None = None,
    constraints: Mapping[str, Any] | None = None,
    budgets: Mapping[str, Any] | None = None,
    within: Mapping[str, list[Any]] | None = None,
    examples: Count | None = None,
    finalists: Count = 10,
    fit: Mapping[str, Any] | None = None,
    violation: Literal["screen"] | Mapping[str, Positive] = "screen",
    max_rejections: Count = 1000,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    save_as: str = "best",
) -> Work:
    """Look for the best sub-network under every budget, on the ``select`` split.

    Args:
        sampler: who proposes, ``shared`` for the recipe's own, with what it learned so far.
        trials: evaluations to spend; repeats and screened proposals are free.
        objectives: what to maximise, ``[accuracy, -flops]``; ``-`` stands before costs and before metrics of which less
            is better; default: the task's primary metric.
        constraints: bounds every answer must meet, over the recipe's own.
        budgets: bounds that each get a winner of their own, in place of the recipe's.
        within: restrict the domain.
        examples: score on a fixed subset of so many examples.
        finalists: how many of the best are scored again on all of ``select`` where ``examples`` is given.
        fit: training options with which a copy of each candidate is trained before it is scored.
        violation: ``screen`` never evaluates what breaks a constraint; ``{penalise: p}`` evaluates it and lowers
            its score.
        max_rejections: end after so many free proposals in a row.
        precision: ``auto`` is bfloat16 autocast where the device computes it natively.
        save_as: the winners are ``<save_as>``, or ``<save_as>@<budget>``.
    """
    from nasframe.plan import limits_of
    from nasframe.report.budgets import plain_bounds
    from nasframe.search import loop
    from nasframe.search.budgets import goals, parse_limits

    assert work.space is not None
    space, net = work.space, work.net and work.net.eval()
    objectives = objectives or run.plan.objectives or [work.task.primary]
    limits, budgets = limits_of(run.plan, {"constraints": constraints, "budgets": budgets})
    aims = {objective.removeprefix("-") for objective in objectives}
    names = {*limits, *budgets, *(aims & run.estimators.keys())}
    costs = run.costs(space, net, sorted(names | {"params", "macs"} & run.estimators.keys()))
    full = {name: run.estimators[name].estimate(space, net, None) for name in {*limits, *budgets}}
    proposer = run.sampler(sampler, work, names)
    domain = run.domain(space, sampler, None)
    examples = loop.subset(examples, work.task.sizes.get("select"))
    tally, began = run.tally(), time.monotonic()

    def evaluate(arch: Arch, count: int | None) -> Mapping[str, float]:
        subject = net if fit is None else _fitted(work, run, arch, fit)
        result = work.task.evaluate(forward_of(space.view(subject, arch), net, precision), "select", count)
        tally["evaluations"] += 1
        tally["examples"] += result.examples
        tally["tokens"] += result.tokens
        tally["macs"] += run.macs(subject, sizes_of(space, arch), result)
        return result.metrics

    with run.progress.bar(run.name) as advance:

        def keep(number: int, trial: Trial, seconds: float) -> None:
            run.trial(number, trial, seconds, tally)
            advance(int(tally["evaluations"]), trials, "")

        bounds, shares = parse_limits(limits, budgets, full)
        result = loop.search(
            proposer, domain, evaluate, costs, objectives=objectives, trials=trials,
            within=run.domain(space, sampler, within), bounds=bounds, budgets=shares, examples=examples,
            finalists=finalists, remeasure=run.remeasure(space, net, {*limits, *budgets}), violation=violation,
            max_rejections=max_rejections, prefix=save_as, done=run.stored_trials(), on_trial=keep, stage=run.name,
        )  # fmt: skip
    shown, tokens, evaluations = (int(tally[name]) for name in ("examples", "tokens", "evaluations"))
    seconds = time.monotonic() - began
    run.ledger([LedgerEntry("evaluation", 0, shown, tokens, tally["macs"], 0.0, evaluations, seconds)])
    run.keep_searched(net, work)
    run.result["winners"] = {name: {"arch": dict(t.arch), "score": t.score} for name, t in result.winners.items()}
    run.result["objectives"] = list(objectives)
    run.result["bounds"] = {goal.name: plain_bounds(goal.bounds) for goal in goals(save_as, bounds, shares)}
    run.result["search"] = {
        "trials": trials, "evaluated": result.evaluated, "repeats": result.repeats, "failures": result.failures,
        "ended": result.ended,
    }  # fmt: skip
    tell_how_it_ended(run, trials, result)
    return replace(work, archs={**work.archs, **{name: trial.arch for name, trial in result.winners.items()}})


def tell_how_it_ended(run: StageContext, trials: int, result: SearchResult) -> None:
    """Pass on that a search made fewer evaluations than it was asked for, or that some failed."""
    place = f"stages.{run.name}"
    if result.ended:
        count = f"{result.evaluated} of {trials} evaluations"
        run.notify(f"{place}.trials", f"The search ended after {count}: {result.ended}.")
    if result.failures:
        attempts = result.evaluated + result.failures
        run.notify(place, f"{result.failures} of {attempts} evaluations failed and count for nothing.")


def extract(work: Work, run: StageContext, *, archs: list[str] | Mapping[str, Any] | None = None) -> Work:
    """Copy found sub-networks out of the super-network as stand-alone models.

    Args:
        archs: names of found architectures (``best@*``); or ``{name: sizes}``, written out or as the name of a found
            architecture; default: all that were found and not yet extracted.
    """
    if isinstance(archs, Mapping):
        chosen = {n: work.archs[s] if isinstance(s, str) else run.sizes(s, work) for n, s in archs.items()}
    else:
        unextracted = [name for name in work.archs if name not in work.models]
        chosen = {name: work.archs[name] for name in matching(unextracted, archs or None)}
    if not chosen:
        raise RunError(f"stage {run.name}: nothing to extract. Expected an architecture from a search or in 'archs'.")
    assert work.space is not None
    nets = {name: settled(work.space.extract(work.net, arch)) for name, arch in chosen.items()}
    for name, net in nets.items():
        run.check_view(name, work.net, chosen[name], net, work)
        run.check_budget(name, work.net, chosen[name], work)
        run.describe(name, net, arch=chosen[name])
    return replace(work, archs={**work.archs, **chosen}, models={**work.models, **nets})


def evaluate(
    work: Work,
    run: StageContext,
    *,
    split: Literal["train", "select", "dev"] = "dev",
    models: list[str] | None = None,
    costs: list[str] | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
) -> Work:
    """Measure models on a split, with their costs, and save their predictions.

    Args:
        split: ``dev`` is for reporting; nothing is ever selected on it.
        models: which, by name (``best@*``); default: all, or the current network where none was named.
        costs: what to estimate of each; default: parameters of all, backbone and encoder, MACs, size and latency.
        precision: of the forward passes.
    """
    chosen = _chosen(work.models or {run.name: work.net}, models)
    began, shown, tokens, macs = time.monotonic(), 0, 0, 0.0
    with run.progress.bar(run.name) as advance:
        for done, (name, net) in enumerate(chosen.items()):
            advance(done, len(chosen), name)
            result = work.task.evaluate(forward_of(net.eval(), net, precision, f"model {name!r}"), split)
            shown, tokens = shown + result.examples, tokens + result.tokens
            macs += run.macs(net, None, result)
            run.describe(name, net)
            run.scores(name, split, result.metrics)
            run.predictions(name, split, result.predictions)
            advance(done + 1, len(chosen), name)
    with run.progress.bar(f"{run.name}: costs") as advance:
        run.measure(chosen, COSTS if costs is None else costs, advance)
    run.tell_over_budget(chosen)
    run.ledger([LedgerEntry("evaluation", 0, shown, tokens, macs, 0.0, len(chosen), time.monotonic() - began)])
    return work


def export(
    work: Work,
    run: StageContext,
    *,
    mode: Literal["stock", "padded", "hetero"] = "hetero",
    models: list[str] | None = None,
) -> Work:
    """Write extracted models as Hugging Face directories, and prove in a fresh process that they load and agree.

    Args:
        mode: ``hetero`` keeps the true sizes, ``padded`` fills up with zeros so that stock classes load it, ``stock``
            is for what a plain configuration can express.
        models: which, by name (``best@*``); default: all that were extracted.
    """
    from nasframe.export import write as writer

    chosen = _chosen(work.models, models or [name for name in work.archs if name in work.models])
    targets = {name: run.model_directory(name) for name in chosen}
    expected = {name: run.expected(name, net, work) for name, net in chosen.items()}
    with run.progress.bar(run.name) as advance:
        advance(0, len(chosen), "")
        with run.writing_model(*chosen):
            run.result["exports"] = writer.export_all(
                chosen, work.tokenizer, targets, mode=mode, expected=expected, card=run.card(chosen),
                archs={name: work.archs.get(name) for name in chosen}, replace=True,
            )  # fmt: skip
        advance(len(chosen), len(chosen), "")
    for name, path in targets.items():
        run.store.put_model(name, path=run.relative(path))
    return work


POSITIONAL = 2
"""Leading parameters of a verb's function that are not options: ``work`` and ``run``."""


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
    "train": Verb(train, DECLARATIONS["train"]),
    "transform": Verb(transform, DECLARATIONS["transform"]),
    "search": Verb(search, DECLARATIONS["search"]),
    "extract": Verb(extract, DECLARATIONS["extract"]),
    "evaluate": Verb(evaluate, DECLARATIONS["evaluate"]),
    "export": Verb(export, DECLARATIONS["export"]),
}


def perform(work: Work, run: StageContext) -> Work:
    """Run a stage's verb, from the network and with the space that the stage names.

    Args:
        work: what the stage before left.
        run: the stage.
    """
    options = dict(run.stage.options)
    start, space = options.pop("from_", None), options.pop("space", None)
    if start is not None:
        work = replace(work, net=run.start(start, work))
    if space is not None:
        work = replace(work, space=run.run.parts.space(work.net, space))
    return VERBS[run.stage.verb].function(work, run, **options)


def trainable(net: nn.Module) -> nn.Module:
    """Copy a network, for what earlier stages made stays as it was; what training undoes is no longer recorded."""
    from nasframe.nn.formats import set_record

    net = copy.deepcopy(net)
    set_record(net, {})
    return net


def settled(net: nn.Module) -> nn.Module:
    """Keep on a network's record, which compressed matrices it has, what is still true of it; return the network."""
    from nasframe.nn.formats import settle

    return settle(net)


def require_finite_weights(name: str, net: nn.Module) -> None:
    """Make sure, whatever trainer it comes from, that a trained network has only finite weights.

    Raises:
        DivergedError: it has others.
    """
    from nasframe.training.optim import non_finite

    names = non_finite(net)
    if names:
        raise DivergedError(
            f"stage {name!r}: training diverged: {len(names)} weight tensors are not finite, {names[0]} among them. "
            "The network is not kept. A lower learning_rate may help."
        )


def _fitted(work: Work, run: StageContext, arch: Arch, options: Mapping[str, Any]) -> nn.Module:
    """Train a copy of the super-network at ``arch`` alone, so that the candidate is scored at its own best."""
    job = TrainJob(
        net=copy.deepcopy(work.net), task=work.task, tokenizer=work.tokenizer, options=TrainOptions(**options),
        seed=run.seed, stage=f"{run.name}/fit", space=work.space, arch=arch, models=work.models,
    )  # fmt: skip
    result = run.make("trainer", "loop").fit(job)
    return result.net.eval()


def _chosen(models: Mapping[str, nn.Module], patterns: list[str] | None) -> dict[str, nn.Module]:
    chosen = {name: models[name] for name in matching(models, patterns)}
    if not chosen:
        raise RunError(f"no model matches {patterns}. There are: {', '.join(models) or 'none'}.")
    return chosen
