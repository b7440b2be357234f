"""What plugins refuse before any work: each sees its stage as planned, with the network's sizes but no weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.errors import NasframeError, PluginError, RecipeError
from nasframe.interfaces import TrainJob, member
from nasframe.outline import Outline, sizes_suffice
from nasframe.plan import same_shape
from nasframe.plugin_errors import naming_plugins

Refusal = tuple[tuple[Any, ...], str]
"""Where in a recipe, or in a stage, something cannot work, and why."""

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from nasframe.plan import Plan, PlannedStage


def material_refusals(
    model: Mapping[str, Any] | None,
    task: Mapping[str, Any] | None,
    estimators: Mapping[str, Mapping[str, Any] | None],
    base: Path,
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Ask a recipe's model, task and costs that have ``on_plan`` whether they go together.

    Only what is at hand is looked at: configurations, headers of files, tokenizers; nothing is fetched.

    Args:
        model: the resolved ``use`` of the model; ``None`` for a recipe without one, or if its options have problems.
        task: that of the task, or ``None`` likewise.
        estimators: those of the costs that the recipe may ask for, by name.
        base: the recipe's folder.

    Yields:
        Where in the recipe something does not fit, and why.
    """
    if model is None:
        return
    try:
        made: Any = registry.make("model", model, {"base": base, "notify": _unheard})
        if hasattr(made, "on_plan"):
            with naming_plugins():
                made.on_plan()
    except NasframeError as error:
        yield from _texts(("model",), error)
        return
    if task is not None:
        entry = registry.find("task", task["use"])
        factory = entry.load()
        asked = getattr(factory, "on_plan", None)
        tokenizer = None if asked is None else _tokenizer(made, factory)
        if tokenizer is not None:
            options = {key: value for key, value in task.items() if key != "use"}
            yield from _refusal(("task",), f"{entry}: on_plan", asked, options, tokenizer)
    for name, use in estimators.items():
        if not use or not _has_on_plan("estimator", use):
            continue
        entry = registry.find("estimator", use["use"])
        net = _network(made, entry.load())
        if net is not None:
            estimator = registry.make("estimator", use, {"notify": _unheard})
            yield from _refusal(("estimators", name), f"{entry}: on_plan", estimator.on_plan, net)


def _outline(model: Any, factories: Iterable[Any]) -> Outline | None:
    """Return a model's outline, if it has one and it suffices for all plugins of these factories."""
    outline: Outline | None = model.outline() if hasattr(model, "outline") else None
    return outline if all(map(sizes_suffice, factories)) else None


def _network(model: Any, factory: Any) -> Outline | nn.Module | None:
    """Return what stands for a model's network: its outline if that suffices, or else a copy without values."""
    found: Outline | nn.Module | None = _outline(model, [factory])
    if found is None and hasattr(model, "skeleton"):
        found = model.skeleton()
    return found


def _tokenizer(model: Any, factory: Any) -> Any:
    """Return what stands for a model's tokenizer: its outline if that suffices, or else the tokenizer itself."""
    outline = _outline(model, [factory])
    if outline is not None:
        return outline.tokenizer
    return model.local_tokenizer() if hasattr(model, "local_tokenizer") else None


def _unheard(place: str, text: str) -> None:
    """Take a notice and do nothing: the run gives it again."""


def _has_on_plan(kind: str, use: Mapping[str, Any]) -> bool:
    """Tell whether a plugin's factory is a class with ``on_plan``."""
    return hasattr(registry.find(kind, use["use"]).load(), "on_plan")


def _refusal(
    place: tuple[Any, ...], moment: str, on_plan: Any, *arguments: Any
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Ask one plugin; ``moment`` names it and what it is asked."""
    if on_plan is None:
        return
    try:
        with naming_plugins(moment):
            on_plan(*arguments)
    except NasframeError as error:
        yield from _texts(place, error)


def _texts(place: tuple[Any, ...], error: NasframeError) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield each problem of an error, below the option that it names."""
    if not isinstance(error, RecipeError):
        yield place, str(error)
        return
    for problem in error.problems:
        option = tuple(problem.path.split(".")) if problem.path else ()
        yield (*place, *option), problem.text


def refusals(plan: Plan) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Ask the task about its files, and transforms and modifiers that have ``on_plan`` whether their stage can work.

    Args:
        plan: the plan; nothing of it is loaded but the sizes of its network, and these only if a plugin asks.

    Yields:
        Where in the recipe a plugin stands that refuses, and why it does.
    """
    for option, text in _task(plan):
        yield ("task", *option), text
    known = [stage.name for stage in same_shape(plan)]
    seen: set[Refusal] = set()  # the recipe's own space is wrong once, however many stages use it
    for number, stage in enumerate(plan.stages):
        sized = stage.name in known and stage.options.get("models") is None
        asked = _transform if stage.verb == "transform" else _modifiers
        for place, text in asked(plan, stage, sized):
            yield ("stages", number, stage.verb, *place), text
        for path, text in _misfits(plan, number, stage, sized):
            if (path, text) not in seen:
                seen.add((path, text))
                yield path, text


def _misfits(plan: Plan, number: int, stage: PlannedStage, sized: bool) -> Iterator[Refusal]:
    """Compare a stage with its space, if the sizes of its network are at hand."""
    if not needs_space(stage) or not sized:
        return
    own = stage.options.get("space")
    use = own or plan.space
    net = stand_in(plan, [("space", use)])
    if net is None:
        return
    inject = {"seed": plan.seed, "costs": None, "notify": _unheard}
    try:
        space = registry.make("space", use, {**inject, "config": net.config})
    except NasframeError as error:
        yield (("stages", number, stage.verb, "space") if own else ("space",)), str(error)
        return
    for place, text in misfits(plan, stage, space, inject):
        yield ("stages", number, stage.verb, *place), text


def needs_space(stage: PlannedStage) -> bool:
    """Tell whether a stage uses its space."""
    options = stage.options
    if stage.verb == "train":
        return options.get("sampler") is not None or options.get("arch") is not None
    return stage.verb in ("search", "extract")


def misfits(plan: Plan, stage: PlannedStage, space: Any, inject: Mapping[str, Any]) -> Iterator[Refusal]:
    """Find what in a stage does not fit its space: the part of the domain, its sampler, written architectures.

    Args:
        plan: the plan.
        stage: a stage that uses a space.
        space: its space.
        inject: what its sampler is given besides the domain.

    Yields:
        Where in the stage it stands, and what is wrong.
    """
    options, domain = stage.options, space.domain
    within, sampler = options.get("within"), options.get("sampler")
    if within:
        try:
            domain.restrict(within)
        except NasframeError as error:
            yield ("within",), str(error)
    if sampler is not None:
        use = plan.sampler if sampler == "shared" else sampler
        try:
            registry.make("sampler", use, {**inject, "domain": domain})
        except NasframeError as error:
            yield ("sampler",), str(error)
    written: dict[tuple[Any, ...], Any] = {("arch",): options.get("arch")}
    if stage.verb == "extract" and isinstance(options.get("archs"), Mapping):
        written = {("archs", name): sizes for name, sizes in options["archs"].items()}
    for place, sizes in written.items():
        if isinstance(sizes, Mapping):
            try:
                getattr(space, "arch", domain.canonical)(sizes)
            except NasframeError as error:
                yield place, str(error)


def _task(plan: Plan) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Ask the task's factory, if it has ``on_files``, what does not fit the headers of the files that are at hand."""
    if not plan.task:
        return
    options = {key: value for key, value in plan.task.items() if key != "use"}
    entry = registry.find("task", plan.task["use"])
    factory = entry.load()
    if not hasattr(factory, "on_files"):
        return
    try:
        with naming_plugins(f"{entry}: on_files"):
            faults = list(factory.on_files(options, plan.base))
    except PluginError as error:
        yield (), str(error)
        return
    for option, text in faults:
        yield (option,), text


def _transform(plan: Plan, stage: PlannedStage, sized: bool) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Ask the transform of a stage."""
    transform = registry.make("transform", stage.options["use"], {"seed": plan.seed, "base": plan.base})
    net = skeleton(plan) if sized and hasattr(transform, "on_plan") else None
    if net is None:
        return
    try:
        with naming_plugins():
            transform.on_plan(net)
    except NasframeError as error:
        yield (), str(error)


def _modifiers(plan: Plan, stage: PlannedStage, sized: bool) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Ask the modifiers of a stage, each of which sees all of them."""
    refs = stage.options.get("modifiers") or ()
    made = {}
    for place, ref in enumerate(refs):
        if ref is not None:
            made[place] = registry.make("modifier", ref, {"seed": plan.seed, "base": plan.base})
    answering = [place for place, modifier in made.items() if member(modifier, "returns_arch", False)]
    for place in answering[1:]:
        both = f"{refs[answering[0]]['use']} and {refs[place]['use']}"
        yield (
            ("modifiers", place),
            f"stage {stage.name!r}: {both} both answer with an architecture. Expected one such modifier in a stage.",
        )
    if not any(hasattr(modifier, "on_plan") for modifier in made.values()):
        return
    job = planned_job(plan, stage, list(made.values()), skeleton(plan) if sized else None)
    for place, modifier in made.items():
        if not hasattr(modifier, "on_plan"):
            continue
        try:
            with naming_plugins():
                modifier.on_plan(job)
        except NasframeError as error:
            yield ("modifiers", place), str(error)


def planned_job(plan: Plan, stage: PlannedStage, modifiers: Sequence[Any], net: nn.Module | None) -> TrainJob:
    """Make the job that a training stage will be, as far as that is known.

    Args:
        plan: the plan.
        stage: one of its training stages.
        modifiers: of the stage.
        net: its network without values; ``None`` if the sizes are not known.
    """
    options, space = stage.options, None
    arch, sampler, use = options.get("arch"), options.get("sampler"), options.get("space") or plan.space
    if net is not None and use and (arch is not None or sampler is not None):
        try:
            space = registry.make("space", use, {"config": net.config})
            if isinstance(arch, Mapping):
                arch = dict(getattr(space, "arch", space.domain.canonical)(arch))
        except NasframeError:
            net = space = None  # they do not go together, which `_misfits` reports
    if isinstance(arch, str):
        arch = {}  # one that will have been found
    unknown: Any = None
    return TrainJob(
        net=net if net is not None else unknown, task=unknown, tokenizer=None, options=options["options"],
        seed=plan.seed, stage=stage.name, space=space, sampler=sampler, arch=arch, modifiers=modifiers,
        estimators={name: registry.make("estimator", cost) for name, cost in plan.estimators.items()},
        total=options["options"].max_steps or 1,
    )  # fmt: skip


def skeleton(plan: Plan) -> nn.Module | None:
    """Return the plan's network without values, or ``None`` if its sizes are not at hand."""
    if not plan.model:
        return None
    from nasframe.nn.elastic import stock_class

    made: Any = registry.make("model", plan.model, {"base": plan.base})
    found: nn.Module | None = made.skeleton() if hasattr(made, "skeleton") else None
    try:
        return found if found is not None and stock_class(found) else None
    except TypeError:
        return None  # of no family that nasframe knows: what can be done with it shows when it is loaded


def stand_in(plan: Plan, plugins: Iterable[tuple[str, Any]]) -> Outline | nn.Module | None:
    """Return what stands for the plan's network: its outline if that suffices, or else a copy without values.

    Args:
        plan: the plan.
        plugins: kind and ``use`` of those that are given it.

    Returns:
        One of the two; ``None`` where the sizes are not at hand.
    """
    if not plan.model:
        return None
    factories = [registry.find(kind, registry.use_of(use)[0]).load() for kind, use in plugins]
    made: Any = registry.make("model", plan.model, {"base": plan.base})
    return _outline(made, factories) or skeleton(plan)
