"""What plugins refuse before any work: each sees its stage as planned, with the network's sizes but no weights.

A refusal is a fault, as ``nasframe.options`` has it: a path in the recipe, or in a stage, and a text.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.errors import NasframeError, PluginError, RecipeError
from nasframe.interfaces import (
    CheckpointModel,
    FileCheckingTaskFactory,
    LocalTokenizerModel,
    OutlinedModel,
    SearchJob,
    SkeletonModel,
    TaskFactoryTraits,
    TrainJob,
    member,
    traits_of,
    written_arch,
)
from nasframe.measures import PRIMARY
from nasframe.options import Fault
from nasframe.outline import Outline, sizes_suffice
from nasframe.plan import PlannedStage, distils, needs_space, same_shape, uses_supernet
from nasframe.plugin_errors import naming_plugins
from nasframe.recipe.supernets import makes_supernet, supernet_faults
from nasframe.recipe.yaml import KeyPath
from nasframe.records import TrainOptions
from nasframe.search.restrict import restrict
from nasframe.stages.teachers import EXPECTED
from nasframe.stages.trials import split_fit

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from nasframe.plan import Plan


def input_refusals(
    model: Mapping[str, Any] | None,
    teacher: Mapping[str, Any] | None,
    task: Mapping[str, Any] | None,
    estimators: Mapping[str, Mapping[str, Any] | None],
    base: Path,
) -> Iterator[Fault]:
    """Ask a recipe's model, teacher, task and costs that have ``validate`` whether they go together.

    Nothing is fetched: only configurations, headers of files and tokenizers that are at hand are read.

    Args:
        model: the resolved ``use`` of the model; ``None`` for a recipe without one, or if its options have problems.
        teacher: that of the teacher, or ``None`` likewise.
        task: that of the task, or ``None`` likewise.
        estimators: those of the costs that the recipe may ask for, by name.
        base: the recipe's folder.

    Yields:
        Where in the recipe something does not fit, and why.
    """
    if model is None:
        return
    try:
        source = _sound_model(model, task, base)
    except NasframeError as error:
        # A checkpoint that cannot be loaded has no tokenizer and no sizes to ask the others about.
        yield from _texts(("teacher" if model == teacher else "model",), error)
        return
    if teacher is not None:
        yield from _teacher_refusals(teacher, task, base)
    if task is not None:
        yield from _task_refusals(source, task)
    for name, use in estimators.items():
        if use:
            yield from _estimator_refusals(source, name, use)


def _sound_model(model: Mapping[str, Any], task: Mapping[str, Any] | None, base: Path) -> Any:
    """Make a model, and let it judge its own files.

    Raises:
        NasframeError: they cannot be loaded.
    """
    source: Any = registry.make_model(model, task, {"base": base, "notify": _unheard})
    validate = member(source, "validate")
    if validate is not None:
        with naming_plugins():
            validate()
    return source


def _teacher_refusals(teacher: Mapping[str, Any], task: Mapping[str, Any] | None, base: Path) -> Iterator[Fault]:
    """Ask a recipe's teacher whether its checkpoint can be loaded, and brings every weight."""
    try:
        source = _sound_model(teacher, task, base)
        if isinstance(source, CheckpointModel):
            with naming_plugins():
                fault = source.untrained(local=True)
            if fault:
                yield ("teacher",), f"{fault}. {EXPECTED}"
    except NasframeError as error:
        yield from _texts(("teacher",), error)


def _task_refusals(model: Any, task: Mapping[str, Any]) -> Iterator[Fault]:
    """Ask the task's factory whether its options go with the model's tokenizer."""
    # The factory is asked, not a task: making a task would read its data.
    entry = registry.find("task", task["use"])
    factory = entry.load()
    validate = member(factory, "validate")
    if validate is None:
        return
    tokenizer = _tokenizer(model, factory)
    if tokenizer is not None:
        yield from _refusal(("task",), f"{entry}: validate", validate, _options_of(task), tokenizer)


def _estimator_refusals(model: Any, name: str, use: Mapping[str, Any]) -> Iterator[Fault]:
    """Ask a cost whether it can count or measure the model's network."""
    entry = registry.find("estimator", use["use"])
    factory = entry.load()
    # Asked of the class first, so that neither network nor estimator is made in vain.
    if member(factory, "validate") is None:
        return
    net = _network(model, factory)
    if net is not None:
        estimator = registry.make("estimator", use, {"notify": _unheard})
        yield from _refusal(("estimators", name), f"{entry}: validate", member(estimator, "validate"), net)


def _options_of(use: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a resolved ``use``, without the plugin's name."""
    return {key: value for key, value in use.items() if key != "use"}


def _outline(model: Any, factories: Iterable[Any]) -> Outline | None:
    """Return a model's outline, if it has one and it suffices for all plugins of these factories."""
    if not isinstance(model, OutlinedModel):
        return None
    outline: Outline | None = model.outline()
    suffices = all(sizes_suffice(factory) for factory in factories)
    return outline if suffices else None


def _network(model: Any, factory: Any) -> Outline | nn.Module | None:
    """Return what stands for a model's network: its outline if that suffices, or else a copy without values."""
    # The outline first, since a copy without values needs torch.
    outline = _outline(model, [factory])
    if outline is None and isinstance(model, SkeletonModel):
        return model.skeleton()
    return outline


def _tokenizer(model: Any, factory: Any) -> Any:
    """Return what stands for a model's tokenizer: its outline if that suffices, or else the tokenizer itself."""
    outline = _outline(model, [factory])
    if outline is not None:
        return outline.tokenizer
    if isinstance(model, LocalTokenizerModel):
        return model.local_tokenizer()
    return None


def _unheard(place: str, text: str) -> None:
    """Take a notice and do nothing: the run gives it again."""


def _refusal(place: KeyPath, moment: str, validate: Callable[..., None], *arguments: Any) -> Iterator[Fault]:
    """Ask one plugin; ``moment`` names it and its method, empty if the registry made it and knows its name."""
    try:
        with naming_plugins(moment):
            validate(*arguments)
    except NasframeError as error:
        yield from _texts(place, error)


def _error_of(act: Callable[..., Any], *arguments: Any) -> str:
    """Call a function for the error that it raises, and return the text of it; empty if it raises none."""
    try:
        act(*arguments)
    except NasframeError as error:
        return str(error)
    return ""


def _texts(place: KeyPath, error: NasframeError) -> Iterator[Fault]:
    """Yield each problem of an error, below the option that it names."""
    if not isinstance(error, RecipeError):
        yield place, str(error)
        return
    for problem in error.problems:
        option = tuple(problem.path.split(".")) if problem.path else ()
        yield (*place, *option), problem.text


def refusals(plan: Plan) -> Iterator[Fault]:
    """Ask the task about its files, and transforms and modifiers that have ``validate`` whether their stage can work.

    Args:
        plan: the plan; nothing of it is loaded but the sizes of its network, and these only if a plugin asks.

    Yields:
        Where in the recipe a plugin stands that refuses, and why it does.
    """
    for option, text in _file_refusals(plan):
        yield ("task", *option), text
    yield from _unlabelled_refusals(plan)
    yield from supernet_faults(plan)
    # After a transform that cuts the network, its sizes are not known until the stage has run.
    of_known_shape = {stage.name for stage in same_shape(plan)}
    seen: set[Fault] = set()  # the recipe's own space is wrong once, however many stages use it
    for number, stage in enumerate(plan.stages):
        # Models that a stage trains one by one were extracted, so they are smaller than the network.
        sized = stage.name in of_known_shape and stage.options.get("models") is None
        if stage.verb == "transform":
            of_plugins = _transform_refusals(plan, stage, sized)
        elif stage.verb == "search":
            of_plugins = itertools.chain(_fit_refusals(plan, stage, sized), _evaluator_refusals(plan, stage))
        elif stage.verb == "export":
            of_plugins = _export_refusals(plan, stage)
        else:
            of_plugins = _modifier_refusals(plan, stage, sized)
        for place, text in of_plugins:
            yield ("stages", number, stage.verb, *place), text
        for refusal in _space_refusals(plan, number, stage, sized):
            if refusal not in seen:
                seen.add(refusal)
                yield refusal


def _space_refusals(plan: Plan, number: int, stage: PlannedStage, sized: bool) -> Iterator[Fault]:
    """Compare a stage with its space, if the sizes of its network are at hand."""
    if not sized or not needs_space(stage.verb, stage.options):
        return
    own_space = stage.options.get("space")
    use = own_space or plan.space
    # A space may be of networks that nasframe does not know: their descriptions stand in for configurations.
    net = stand_in(plan, [("space", use)]) or _own_skeleton(plan)
    if net is None:
        return
    in_stage: KeyPath = ("stages", number, stage.verb)
    of_space = (*in_stage, "space") if own_space else ("space",)
    inject = {"seed": plan.seed, "costs": None, "notify": _unheard}
    try:
        space = registry.make("space", use, {**inject, "config": getattr(net, "config", None)})
    except NasframeError as error:
        yield of_space, str(error)
        return
    for place, text in misfits(plan, stage, space, inject):
        yield (*in_stage, *place), text


def misfits(plan: Plan, stage: PlannedStage, space: Any, inject: Mapping[str, Any]) -> Iterator[Fault]:
    """Find what in a stage does not fit its space: the part of the domain, its sampler, written architectures.

    Args:
        plan: the plan.
        stage: a stage that uses a space.
        space: its space.
        inject: what its sampler is given besides the domain.

    Yields:
        Where in the stage it stands, and what is wrong.
    """
    options = stage.options
    texts: dict[KeyPath, str] = {}
    within = options.get("within")
    if within:
        texts[("within",)] = _error_of(restrict, space.domain, within)
    sampler = options.get("sampler")
    if sampler is not None:
        use = plan.sampler if sampler == "shared" else sampler
        # Samplers have no `validate`: whether one can work in a domain shows when it is made.
        texts[("sampler",)] = _error_of(registry.make, "sampler", use, {**inject, "domain": space.domain})
    for place, arch in _written_archs(stage).items():
        if isinstance(arch, Mapping):  # else the name of one that will be found
            texts[place] = _error_of(written_arch, space, arch)
    for place, text in texts.items():
        if text:
            yield place, text


def _written_archs(stage: PlannedStage) -> dict[KeyPath, Any]:
    """Return the architectures that a stage names or writes out, by their places in it."""
    archs = stage.options.get("archs")
    if stage.verb != "extract" or not isinstance(archs, Mapping):
        return {("arch",): stage.options.get("arch")}
    return {("archs", name): sizes for name, sizes in archs.items()}


def _file_refusals(plan: Plan) -> Iterator[Fault]:
    """Ask the task's factory, if it has ``on_files``, what does not fit the headers of the files that are at hand."""
    if not plan.task:
        return
    entry = registry.find("task", plan.task["use"])
    factory = entry.load()
    if not isinstance(factory, FileCheckingTaskFactory):
        return
    try:
        with naming_plugins(f"{entry}: on_files"):
            # As a list, because a generator would raise only after this block, where nobody names the plugin.
            faults = list(factory.on_files(_options_of(plan.task), plan.base))
    except PluginError as error:
        yield (), str(error)
        return
    for option, text in faults:
        yield (option,), text


def _unlabelled_refusals(plan: Plan) -> Iterator[Fault]:
    """Refuse examples without labels in a recipe of which no stage could use them."""
    if not plan.task:
        return
    option = traits_of(TaskFactoryTraits, registry.find("task", plan.task["use"]).load()).unlabelled
    if option and plan.task.get(option) is not None and not any(distils(stage) for stage in plan.stages):
        text = "only distillation uses examples without labels. Expected a training with a modifier that has a teacher."
        yield ("task", option), text


def _transform_refusals(plan: Plan, stage: PlannedStage, sized: bool) -> Iterator[Fault]:
    """Ask the transform of a stage."""
    transform = registry.make("transform", stage.options["use"], {"seed": plan.seed, "base": plan.base})
    validate = member(transform, "validate")
    if not sized or validate is None:
        return
    net = skeleton(plan)
    if net is not None:
        yield from _refusal((), "", validate, net)


def _export_refusals(plan: Plan, stage: PlannedStage) -> Iterator[Fault]:
    """Ask the exporter of a stage about the recipe's network; about smaller ones it is asked when they are there.

    If a space makes a network of its own, models are of that one's class, and a run asks about these before its stages.
    """
    spaces = [other.options.get("space") or plan.space for other in plan.stages if other.verb == "extract"]
    if any(space and makes_supernet(space) for space in spaces):
        return
    use = stage.options.get("mode", "hetero")
    exporter = registry.make("exporter", use, {"base": plan.base, "notify": _unheard})
    validate = member(exporter, "validate")
    if validate is None:
        return
    net = stand_in(plan, [("exporter", use)])
    if net is not None:
        yield from _refusal(("mode",), "", validate, net)


def _modifier_refusals(plan: Plan, stage: PlannedStage, sized: bool) -> Iterator[Fault]:
    """Ask the modifiers of a stage, each of which sees all of them."""
    modifiers = _modifiers_of(plan, stage)
    yield from _rival_archs(stage, modifiers)
    yield from _asked(plan, stage, modifiers, "validate", sized, None)
    training: TrainOptions | None = stage.options.get("options")
    if training is not None and training.max_steps is not None:  # steps of epochs are known with the data
        yield from length_refusals(plan, stage, sized, training.max_steps)


def length_refusals(plan: Plan, stage: PlannedStage, sized: bool, total: int) -> Iterator[Fault]:
    """Ask the modifiers of a training whether it has enough steps for them.

    Args:
        plan: the plan.
        stage: one of its training stages.
        sized: whether its network has the model's own sizes.
        total: its optimiser steps.

    Yields:
        Where in the stage a modifier stands that refuses, and why it does.
    """
    yield from _asked(plan, stage, _modifiers_of(plan, stage), "validate_length", sized, total)


def _modifiers_of(plan: Plan, stage: PlannedStage) -> dict[int, Any]:
    """Make the modifiers of a stage, by their numbers in the recipe."""
    inject = {"seed": plan.seed, "base": plan.base}
    modifiers = {}
    for number, use in enumerate(stage.options.get("modifiers") or ()):
        if use is not None:  # null switches a modifier off
            modifiers[number] = registry.make("modifier", use, inject)
    return modifiers


def _asked(
    plan: Plan, stage: PlannedStage, modifiers: Mapping[int, Any], method: str, sized: bool, total: int | None
) -> Iterator[Fault]:
    """Call an optional method of modifiers with the planned job."""
    checks: dict[int, Any] = {}  # by their numbers in the recipe
    for number, modifier in modifiers.items():
        check = member(modifier, method)
        if check is not None:
            checks[number] = check
    if not checks:  # the job needs a network, which takes torch
        return
    net = skeleton(plan) if sized else None
    job = planned_job(plan, stage, list(modifiers.values()), net)
    if total is not None:
        job.total = total
    for number, check in checks.items():
        yield from _refusal(("modifiers", number), "", check, job)


def _fit_refusals(plan: Plan, stage: PlannedStage, sized: bool) -> Iterator[Fault]:
    """Ask the modifiers with which a search trains its candidates: each is a training of one architecture."""
    fit = stage.options.get("fit")
    if not fit:
        return
    training, plugins = split_fit(fit)
    uses = plugins.get("modifiers") or ()
    for number, use in enumerate(uses):
        if use is not None and member(registry.find("modifier", use["use"]).load(), "returns_arch", False):
            text = f"{use['use']} answers with an architecture, but a candidate has its own. Expected another modifier."
            yield ("fit", "modifiers", number), text
            return
    options: dict[str, Any] = {"options": TrainOptions(**training), "modifiers": uses, "arch": {}}
    if stage.options.get("space"):
        options["space"] = stage.options["space"]
    for place, text in _modifier_refusals(plan, PlannedStage(stage.name, "train", options), sized):
        yield ("fit", *place), text


def _evaluator_refusals(plan: Plan, stage: PlannedStage) -> Iterator[Fault]:
    """Ask the evaluator of a search."""
    evaluator = registry.make("evaluator", stage.options.get("evaluator", "metric"), {"seed": plan.seed})
    validate = member(evaluator, "validate")
    if validate is None:
        return
    objectives = stage.options.get("objectives") or plan.objectives or [PRIMARY]
    job = SearchJob(objectives, plan.seed, stage.name)
    yield from _refusal(("evaluator",), "", validate, job)


def _rival_archs(stage: PlannedStage, modifiers: Mapping[int, Any]) -> Iterator[Fault]:
    """Refuse all modifiers of a stage but the first that return an architecture: the stage can only have one."""
    uses = stage.options.get("modifiers") or ()
    returning = [number for number, modifier in modifiers.items() if member(modifier, "returns_arch", False)]
    names = {number: uses[number]["use"] for number in returning}
    for number in returning[1:]:
        both = f"{names[returning[0]]} and {names[number]}"
        text = f"stage {stage.name!r}: {both} both answer with an architecture. Expected one such modifier in a stage."
        yield ("modifiers", number), text


def planned_job(plan: Plan, stage: PlannedStage, modifiers: Sequence[Any], net: nn.Module | None) -> TrainJob:
    """Make the job that a training stage will be, as far as that is known.

    Args:
        plan: the plan.
        stage: one of its training stages.
        modifiers: of the stage.
        net: its network without values; ``None`` if the sizes are not known.
    """
    options = stage.options
    arch = options.get("arch")
    use = options.get("space") or plan.space
    space = None
    if net is not None and use and uses_supernet("train", options):
        try:
            space = registry.make("space", use, {"config": getattr(net, "config", None)})
            if isinstance(arch, Mapping):
                arch = written_arch(space, arch)
        except NasframeError:
            net = space = None  # they do not go together, which `_space_refusals` reports
    if space is not None and use is not None and makes_supernet(use):
        net = _supernet_skeleton(plan, space, use, net)
    if isinstance(arch, str):
        arch = {}  # the name of one that is still to be found
    estimators = {name: registry.make("estimator", cost) for name, cost in plan.estimators.items()}
    training: TrainOptions = options["options"]
    unknown: Any = None
    return TrainJob(
        net=net if net is not None else unknown,
        task=unknown,
        tokenizer=None,
        options=training,
        seed=plan.seed,
        stage=stage.name,
        space=space,
        sampler=options.get("sampler"),
        arch=arch,
        modifiers=modifiers,
        estimators=estimators,
        total=training.max_steps or 1,  # steps of epochs are not known without data
    )


def _supernet_skeleton(plan: Plan, space: Any, use: Mapping[str, Any], net: Any) -> nn.Module | None:
    """Return the super-network that a space makes of a network without values; ``None`` if it needs values."""
    from nasframe.stages.supernets import made_supernet

    try:
        return made_supernet(space, net, plan.seed, use["use"])
    except Exception:  # of a space of somebody's own, which may look at weights; the run will say what is wrong
        return None


def _own_skeleton(plan: Plan) -> nn.Module | None:
    """Return the plan's network without values, of whatever family it is; ``None`` if its model does not give it."""
    if not plan.model:
        return None
    model = registry.make_model(plan.model, plan.task, {"base": plan.base})
    if not isinstance(model, SkeletonModel):
        return None
    with naming_plugins():
        return model.skeleton()


def skeleton(plan: Plan) -> nn.Module | None:
    """Return the plan's network without values, or ``None`` if its sizes are not at hand."""
    if not plan.model:
        return None
    from nasframe.nn.elastic import stock_class

    model = registry.make_model(plan.model, plan.task, {"base": plan.base})
    if not isinstance(model, SkeletonModel):
        return None
    net = model.skeleton()
    if net is None:
        return None
    try:
        stock_class(net)
    except TypeError:  # of no family that nasframe knows: what can be done with it shows when it is loaded
        return None
    return net


def stand_in(plan: Plan, plugins: Iterable[tuple[str, Any]]) -> Outline | nn.Module | None:
    """Return what stands for the plan's network: its outline if that suffices, or else a copy without values.

    Args:
        plan: the plan.
        plugins: kind and ``use`` of those that are given it.

    Returns:
        One of the two; ``None`` if the sizes are not at hand.
    """
    if not plan.model:
        return None
    factories = []
    for kind, use in plugins:
        name, _ = registry.use_of(use)
        factories.append(registry.find(kind, name).load())
    model = registry.make_model(plan.model, plan.task, {"base": plan.base})
    return _outline(model, factories) or skeleton(plan)
