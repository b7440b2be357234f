"""What a plan names, loaded: model, tokenizer, task, network, space and costs.

Whatever is loaded is also watched: :class:`RunInputs` knows which files were read, and refuses to load a second time
from files that have changed.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from nasframe import registry
from nasframe.digests import Stamp, files_below, stamp
from nasframe.errors import UsageError, listing, suggestion
from nasframe.heads import Head, match
from nasframe.interfaces import (
    HeadedModel,
    ModelTraits,
    PlannedEvaluator,
    SearchJob,
    SkeletonModel,
    StatefulEstimator,
    TaskTraits,
    TextSource,
    TokenizerMaker,
    Work,
    cost_format,
    files_of,
    member,
    traits_of,
)
from nasframe.measures import PRIMARY, SearchMetrics, formats_of, loss_fault, objective_fault, search_metrics
from nasframe.notices import Notices
from nasframe.plan import own_task
from nasframe.processes import device
from nasframe.reads import Recorder
from nasframe.records import MetricFormat, canonical_json
from nasframe.seeds import stream_seed
from nasframe.stages.supernets import require_storable
from nasframe.stages.teachers import require_same_tokens, require_trained
from nasframe.training.forward import forward_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from nasframe.interfaces import Estimator, Model, SearchSpace, Task
    from nasframe.plan import Plan, PlannedStage

GLANCE = 16
"""How many examples are evaluated to learn the names of a task's metrics, if the task does not declare them."""


class RunInputs:
    """What the stages of a run work on. Each part is loaded when it is first asked for.

    Args:
        plan: the resolved recipe.
        tokenizer: used instead of the model's own.
    """

    def __init__(self, plan: Plan, tokenizer: Any = None) -> None:
        self.plan = plan
        self.notices = Notices()
        self.reads = Recorder()
        self.reads_of_tasks: dict[str, Recorder] = {}
        """What tasks read, by their uses: stages of other tasks do not depend on it."""
        self._models: dict[str, Model] = {}  # those of stages' own tasks, by the tasks' uses
        self._tasks: dict[str, Task] = {}
        self._works: dict[str, Work] = {}
        self.probe_task: Task | None = None  # the current task, if a transform has changed it
        self._probe: tuple[Task, Mapping[str, Any]] | None = None  # a task, and the inputs of its probe batch
        self._supernets: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
        self._tokenizer = tokenizer
        self._stamps: dict[Path, Stamp] = {}  # of the model's files, as they were when they were first loaded

    @cached_property
    def model(self) -> Model | None:
        """The model, from which networks are loaded; ``None`` if the recipe's space needs no network."""
        if not self.plan.model:
            return None
        inject = {"base": self.plan.base, "notify": self.notices}
        with self.reads:
            model: Model = registry.make_model(self.plan.model, self.plan.task, inject)
        return model

    def model_for(self, use: Mapping[str, Any]) -> Model | None:
        """Return the model whose networks have the head that a task needs; the recipe's own for the recipe's task."""
        if self.model is None or use == self.plan.task:
            return self.model
        key = canonical_json(use)
        if key not in self._models:
            inject = {"base": self.plan.base, "notify": self.notices}
            with self.reads:
                self._models[key] = registry.make_model(self.plan.model, use, inject)
        return self._models[key]

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or the one given in its place; ``None`` without a model."""
        # A finished run that is opened again brings the tokenizer that lies next to its network.
        if self._tokenizer:
            return self._tokenizer
        if self.model is None:
            return None
        if isinstance(self.model, TokenizerMaker) and self.model.makes_tokenizer():
            return self._made_tokenizer(self.model)
        with self.reads:
            return self.model.tokenizer()

    def _made_tokenizer(self, model: TokenizerMaker) -> Any:
        """Return the tokenizer that a model makes from the training texts, so that nothing of ``dev`` is in it.

        Raises:
            UsageError: the task has no texts.
        """
        # Without a tokenizer the task has read and split its texts, which is all that is needed here.
        task = self.task_for(None)
        if not isinstance(task, TextSource):
            name, _ = registry.use_of(self.plan.task)
            raise UsageError(
                f"model: its tokenizer would be made from the texts of task {name!r}, which gives none. "
                "Expected a task of texts."
            )
        with self.reads:
            return model.make_tokenizer(task.training_texts())

    @cached_property
    def teacher(self) -> Model | None:
        """The model that the recipe's teacher is loaded from; ``None`` if the recipe names none."""
        if self.plan.teacher is None:
            return None
        if self.plan.teacher == self.plan.model:
            return self.model

        def notify(place: str, text: str) -> None:
            self.notices("teacher" if place == "model" else place, text)

        with self.reads:
            teacher: Model = registry.make_model(
                self.plan.teacher, self.plan.task, {"base": self.plan.base, "notify": notify}
            )
        return teacher

    @cached_property
    def bare_space(self) -> Any:
        """The recipe's space if it needs no network, else ``None``."""
        if self.model:
            return None
        with self.reads:
            return registry.make("space", self.plan.space, {"notify": self.notices})

    @cached_property
    def estimators(self) -> Mapping[str, Estimator]:
        """Every cost that the plan can name."""
        if self.bare_space is not None:  # there is no network whose costs could be counted or measured
            of_space: Mapping[str, Estimator] = self.bare_space.estimators
            return of_space
        with self.reads:
            return {name: self.estimator(use) for name, use in self.plan.estimators.items()}

    def estimator(self, use: Any) -> Estimator:
        """Make an estimator, which counts and measures on this run's own batches."""
        inject = {"notify": self.notices, "probe_inputs": self.probe}
        estimator: Estimator = registry.make("estimator", use, inject)
        return estimator

    def learned(self) -> dict[str, Any]:
        """Return what the run's estimators have learned so far, by cost; those that learn nothing are left out."""
        states = {}
        for name, estimator in self.estimators.items():
            if isinstance(estimator, StatefulEstimator):
                state = estimator.state_dict()
                if state:
                    states[name] = state
        return states

    def restore_learned(self, result: Mapping[str, Any]) -> None:
        """Give the run's estimators what they had learned when a stage ended.

        Args:
            result: what the stage reported about itself.
        """
        for name, state in (result.get("learned") or {}).items():
            estimator = self.estimators.get(name)
            if isinstance(estimator, StatefulEstimator):
                estimator.load_state_dict(state)

    def load_plugins(self) -> None:
        """Import the plugins that the plan names, so that their own classes of networks are known."""
        for key, kind in (("model", "model"), ("teacher", "model"), ("space", "space"), ("task", "task")):
            use = getattr(self.plan, key)
            if use:
                name, _ = registry.use_of(use)
                registry.find(kind, name).load()
        for stage in self.plan.stages:
            use = own_task(stage)
            if use is not None:
                registry.find("task", use["use"]).load()

    def is_of_former_api(self, cost: str) -> bool:
        """Tell whether a cost's estimator was made for plugin API 1, which estimated finished models by themselves."""
        use = self.plan.estimators.get(cost)
        if use is None:
            return False
        name, _ = registry.use_of(use)
        return registry.find("estimator", name).api < 2

    def probe(self) -> Mapping[str, Any] | None:
        """Return the inputs of the run's probe batch, ``None`` if its data are not read: when a recipe is checked."""
        from nasframe.training.macs import probe_inputs

        task = self.probe_task
        if task is None:
            # While a recipe is checked, the work is set in advance and has no task.
            task = self.work.task if "work" in self.__dict__ else self.task
        if task is None:
            return None
        # Estimators ask for each architecture, and making a batch takes longer than looking a count up.
        if self._probe is None or self._probe[0] is not task:
            self._probe = (task, probe_inputs(task))
        return self._probe[1]

    @cached_property
    def task(self) -> Task:
        """The task, its splits drawn from the run's ``split`` stream."""
        return self.task_for(self.tokenizer)

    def task_of(self, stage: PlannedStage) -> Task:
        """Return a stage's own task, or else the recipe's."""
        use = own_task(stage)
        if use is None:
            return self.task
        key = canonical_json(use)
        if key not in self._tasks:
            self._tasks[key] = self.task_for(self.tokenizer, use)
        return self._tasks[key]

    @cached_property
    def saved_head(self) -> Head | None:
        """The classification head whose order of classes the task takes over: the teacher's, or else the model's."""
        # A teacher's head is trained for the task, and that of another model may well be new.
        return self._head_of(self.model if self.teacher is None else self.teacher)

    def _head_of(self, source: Any) -> Head | None:
        """Return the classification head of a model's checkpoint, if there is one."""
        if not isinstance(source, HeadedModel):
            return None
        with self.reads:
            return source.head()

    def _config_for(self, use: Mapping[str, Any]) -> Any:
        """Return the configuration of the model's network for a task, if it is known before loading; else ``None``."""
        model = self.model_for(use)
        if not isinstance(model, SkeletonModel):
            return None
        name, _ = registry.use_of(use)
        factory = registry.find("task", name).load()
        if "config" not in inspect.signature(factory).parameters:  # to build the network takes time
            return None
        with self.reads:
            net = model.skeleton()
        return getattr(net, "config", None)

    def task_for(self, tokenizer: Any, use: Mapping[str, Any] | None = None) -> Task:
        """Return a task with a tokenizer. Its classes are in the order of the checkpoint's head, if there is one.

        Args:
            tokenizer: the tokenizer; ``None`` makes a task that only knows its texts.
            use: a stage's own task; default: the recipe's.

        Raises:
            UsageError: the outputs of the checkpoint's head may be the task's classes, but do not say which is which.
        """
        inject = {
            "tokenizer": tokenizer,
            "seed": stream_seed(self.plan.seed, "split"),  # the same each time: a second task has the same splits
            "base": self.plan.base,
            "space": self.bare_space,
            "notify": self.notices,
            "saved_head": self.saved_head if use is None else self._head_of(self.model_for(use)),
            "config": self._config_for(use or self.plan.task),
        }
        self._refuse_changes()
        use = use or self.plan.task
        with self.reads_of(use):
            task: Task = registry.make("task", use, inject)
        name, _ = registry.use_of(use)
        factory = registry.find("task", name).load()
        if "saved_head" not in inspect.signature(factory).parameters and task.labels is not None:
            # A task that does not ask for the head must not silently train another order of classes into it.
            match(inject["saved_head"], task.labels)
        return task

    def reads_of(self, use: Mapping[str, Any]) -> Recorder:
        """Return the recorder of what a task reads."""
        return self.reads_of_tasks.setdefault(canonical_json(use), Recorder())

    def net(self, random: bool = False, stage: PlannedStage | None = None) -> nn.Module:
        """Load the model's network again.

        Args:
            random: draw all weights from the run's ``init`` stream, not only those of the head.
            stage: the stage whose task the head is for; default: the recipe's task.
        """
        use = None if stage is None else own_task(stage)
        model = self.model if use is None else self.model_for(use)
        assert model is not None
        self._refuse_changes()
        # The task is made before the network, whose head must fit it.
        labels = self.task.labels if stage is None else self.task_of(stage).labels
        # The same seed each time: a stage that starts "from: pretrained" gets the head that the run began with.
        seed = stream_seed(self.plan.seed, "init")
        with self.reads:
            net = model.load(labels, seed, random=random)
        require_storable(net, "model")
        return net.to(device())

    @cached_property
    def teacher_net(self) -> nn.Module | None:
        """The recipe's teacher as it stands; ``None`` if the recipe names none.

        Raises:
            UsageError: its weights are not all from its checkpoint, or it does not read the model's tokens.
        """
        if self.teacher is None:
            return None
        if self.teacher is self.model:
            require_trained(self.teacher, self.task.labels)
            own: nn.Module = self.work.net
            return own
        self._refuse_changes()
        with self.reads:
            require_trained(self.teacher, self.task.labels)
            texts = traits_of(TaskTraits, self.task).texts_per_example
            require_same_tokens(self.teacher.tokenizer(), self.tokenizer, self.plan.task.get("max_length"), texts)
            net = self.teacher.load(self.task.labels, stream_seed(self.plan.seed, "init"))
        require_storable(net, "teacher")
        return net.to(device())

    def space(self, net: nn.Module, use: Any = None) -> SearchSpace | None:
        """Return a space on a network.

        Args:
            net: the network.
            use: the space's name and options; default: the recipe's own space, if it has one.
        """
        use = use or self.plan.space
        if not use:
            return None
        inject = {"config": getattr(net, "config", None), "notify": self.notices}
        with self.reads:
            space: SearchSpace = registry.make("space", use, inject)
        return space

    def supernet(self, space: SearchSpace, use: Any, net: nn.Module) -> nn.Module:
        """Return a space's super-network of a network: the same one each time, however often it is asked for.

        Args:
            space: the space.
            use: its name and options; default: the recipe's own space.
            net: the network, which stays as it is. That may be the super-network, if the space keeps it.
        """
        from nasframe.stages.supernets import made_supernet

        name, options = registry.use_of(use or self.plan.space)
        key = canonical_json({"use": name, **options})
        made = self._supernets.setdefault(net, {})
        if key not in made:
            supernet = made_supernet(space, net, self.plan.seed, name)
            if supernet is net:  # kept by itself it would never be forgotten
                return net
            made[key] = supernet
        supernet_of_net: nn.Module = made[key]
        return supernet_of_net

    @cached_property
    def work(self) -> Work:
        """What the first stage starts from."""
        task = self.task
        net: Any = self.net() if self.model else None
        if net is not None:
            self._ask_estimators(net)
        self._check_searches(task, net)
        space = self.bare_space if net is None else self.space(net)
        return Work(net, self.tokenizer, task, space)

    def work_for(self, stage: PlannedStage) -> Work:
        """Return what a stage would start from if it were the first: the model's network with the head of its task.

        That is known before a run, when the recipe as a whole is judged.
        """
        use = own_task(stage)
        work = self.work
        is_planned = work.task is None and work.net is not None  # set in advance, without data and weights
        if use is None or work.net is None or is_planned:
            return work
        key = canonical_json(use)
        if key not in self._works:
            net = self.net(stage=stage)
            self._works[key] = Work(net, self.tokenizer, self.task_of(stage), self.space(net))
        return self._works[key]

    def load(self) -> None:
        """Load everything, so that inputs that do not fit together are refused before any work."""
        _ = self.work
        _ = self.teacher_net

    def declared(self) -> Iterator[tuple[str, Path]]:
        """Yield the files and folders that model, teacher and task declare, each after a name for it."""
        yield from self.declared_by("model")
        if self.teacher is not self.model:
            yield from self.declared_by("teacher")
        yield from self.declared_by("task")

    def declared_by_task(self, stage: PlannedStage) -> Iterator[tuple[str, Path]]:
        """Yield the files and folders that a stage's own task declares, each after a name for it."""
        yield from _numbered("own task", files_of(self.task_of(stage)))

    def declared_by(self, kind: str) -> Iterator[tuple[str, Path]]:
        """Yield the files and folders that the ``model``, the ``teacher`` or the ``task`` declares."""
        yield from _numbered(kind, files_of(getattr(self, kind)))

    def _refuse_changes(self) -> None:
        """Make sure that files which are about to be loaded again have not changed since they were first loaded.

        Raises:
            UsageError: files have changed; names them all.
        """
        for kind in ("model", "teacher"):
            for _, place in self.declared_by(kind):
                for _, file in files_below(place):
                    self._stamps.setdefault(file, stamp(file))
        # Files that native code opens are known because the model declares them, others because they were recorded.
        changed = [file for file, seen in self._stamps.items() if stamp(file) != seen]
        for reads in (self.reads, *self.reads_of_tasks.values()):
            changed += [file for file in reads.changed_files() if file not in changed]
        if changed:
            names = ", ".join(map(str, changed))
            raise UsageError(f"{names}: changed since the run began. Expected model and data to stay as they are.")

    def _ask_estimators(self, net: nn.Module) -> None:
        """Let each cost that has ``validate`` refuse the network, or say how it treats it."""
        for name, estimator in self.estimators.items():
            validate = member(estimator, "validate")
            if validate is None:
                continue
            try:
                validate(net)
            except UsageError as error:
                raise UsageError(f"estimators.{name}: {error}") from error

    def _check_searches(self, task: Task, net: nn.Module | None) -> None:
        """Make sure that every search can measure what it maximises and chooses by, as the task's data show.

        Raises:
            UsageError: some searches cannot; says of each what is wrong.
        """
        problems = []
        recipes_own = task, net
        for stage in self.plan.stages:
            if stage.verb != "search":
                continue
            task, net = recipes_own
            if own_task(stage) is not None:
                # The metrics of its task are known from its formats alone: its network is not made yet.
                task, net = self.task_of(stage), None
            for option, fault in self._search_faults(stage, task, net):
                problems.append(f"stages.{stage.name}.{option}: {fault}")
        if problems:
            raise UsageError("\n".join(problems))

    def _search_faults(self, stage: PlannedStage, task: Task, net: nn.Module | None) -> Iterator[tuple[str, str]]:
        """Yield the options of a search that do not fit the task, and why."""
        evaluator = self._evaluator(stage)
        try:
            measured = search_metrics(evaluator, task)
            objectives = measured.named(stage.options.get("objectives") or self.plan.objectives or [PRIMARY])
            if isinstance(evaluator, PlannedEvaluator):
                job = SearchJob(objectives, self.plan.seed, stage.name, task=task, estimators=self.estimators)
                evaluator.validate(job)
        except UsageError as error:
            yield "evaluator", str(error)
            return
        for objective in objectives:
            fault = self._objective_fault(objective, measured, task, net)
            if fault:
                yield "objectives", fault
        if stage.options.get("winner") == "loss":
            fault = self._loss_fault(measured, task, net)
            if fault:
                yield "winner", fault

    def _evaluator(self, stage: PlannedStage) -> Any:
        """Return an evaluator like a search's, to be asked before the search begins."""
        inject = {"seed": stream_seed(self.plan.seed, "evaluator", stage.name), "notify": self.notices}
        return registry.make("evaluator", stage.options.get("evaluator", "metric"), inject)

    def _objective_fault(self, objective: str, measured: SearchMetrics, task: Task, net: nn.Module | None) -> str:
        """Say why an objective cannot be maximised; nothing if it can, or if that cannot be known yet."""
        name = objective.removeprefix("-")
        if name in self.estimators or objective == measured.default:
            return ""
        if formats_of(task) or name in measured.formats:
            return objective_fault(objective, measured.formats, self.estimators)
        if net is None:
            return ""  # without a network there is nothing to try the task on
        metrics = {**_glance(task, net), **measured.formats}
        if name in metrics:
            return ""
        costs = registry.factories("estimator").keys() | self.estimators.keys()
        hint = suggestion(name, costs | metrics.keys())
        return f"unknown metric or cost {name!r}. Metrics: {listing(metrics)}; costs: {listing(costs)}.{hint}"

    def _loss_fault(self, measured: SearchMetrics, task: Task, net: nn.Module | None) -> str:
        """Say why a search cannot choose its winner by the loss; nothing if it can, or if that cannot be known yet."""
        if formats_of(task) or "loss" in measured.formats:
            return loss_fault(measured.formats)
        if net is None:
            return ""
        # Of metrics without formats only the name is known, which is clear enough for a loss.
        return loss_fault({name: MetricFormat(higher_is_better=name != "loss") for name in _glance(task, net)})


def _numbered(kind: str, places: list[Path]) -> Iterator[tuple[str, Path]]:
    """Yield files or folders after a name for each: their owner's, with a number if there are several."""
    if len(places) == 1:
        yield kind, places[0]
        return
    for number, place in enumerate(places, start=1):
        yield f"{kind} {number}", place


def _glance(task: Task, net: nn.Module) -> Mapping[str, float]:
    """Evaluate a task that does not declare its metrics on a few examples, which shows their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few examples may have one class only; nobody reads the numbers
        return task.evaluate(forward_of(net, net, "fp32"), "select", GLANCE).metrics


def plain_summary(task: Task) -> dict[str, Any] | None:
    """Return a task's summary of its data, JSON-plain, or ``None`` if it has none."""
    summary = traits_of(TaskTraits, task).summary
    if summary is None:
        return None
    return asdict(summary)


def data_facts(task: Task) -> dict[str, Any]:
    """Return the facts that a run keeps about its data, JSON-plain."""
    return {
        "fingerprint": task.fingerprint,
        "primary": task.primary,
        "sizes": dict(task.sizes),
        "labels": None if task.labels is None else list(task.labels),
        "summary": plain_summary(task),
        "metrics": {name: asdict(form) for name, form in formats_of(task).items()},
    }


def cost_facts(inputs: RunInputs) -> dict[str, Any]:
    """Return the facts that a run keeps about its costs, JSON-plain: name → how the cost reads."""
    facts = {}
    for name, estimator in inputs.estimators.items():
        use = inputs.plan.estimators.get(name)  # none for the costs that a space brings
        renamed = use is not None and registry.use_of(use)[0] != name
        facts[name] = asdict(cost_format(estimator, renamed))
    return facts


def base_facts(inputs: RunInputs) -> dict[str, str]:
    """Return what a run's models are made from, as far as it is published: its hub id and its licence.

    Returns:
        Of ``name``, ``license``, ``license_name`` and ``license_link`` those that are known: a model of a plugin may
        name its hub id, and a checkpoint's own card names its licence and the model that it was made from.
    """
    if inputs.model is None:
        return {}
    facts: dict[str, str] = {}
    for place in files_of(inputs.model):
        facts |= _card_facts(place / "README.md")
    hub_id = traits_of(ModelTraits, inputs.model).hub_id
    if hub_id is not None:
        facts["name"] = hub_id
    return facts


def _card_facts(path: Path) -> dict[str, str]:
    """Return what the front matter of a model card says about the base model and the licence."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        data = ModelCard.load(path).data.to_dict()
    except (OSError, ValueError, YAMLError):  # there is none, or it is not in the hub's form
        return {}
    keys = {"base_model": "name", "license": "license", "license_name": "license_name", "license_link": "license_link"}
    return {keys[key]: value for key, value in data.items() if key in keys and isinstance(value, str)}


def brief_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the :func:`data_facts` that identify the data, without the long descriptions."""
    return {key: value for key, value in facts.items() if key not in ("summary", "metrics")}


def same_data(task: Task, facts: Mapping[str, Any]) -> bool:
    """Tell whether a task has the data that a run was made with, its classes in the same order.

    Args:
        task: the task.
        facts: what the run keeps about its data, as :func:`data_facts` returns it.
    """
    labels = None if task.labels is None else list(task.labels)
    # Runs of earlier versions did not keep labels.
    return bool(facts["fingerprint"] == task.fingerprint and facts.get("labels", labels) == labels)
