"""What a plan names, loaded: model, tokenizer, task, network, space."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.digests import Stamp, files_below, stamp
from nasframe.errors import UsageError, listing, suggestion
from nasframe.heads import Head, match
from nasframe.interfaces import Work, files_of
from nasframe.measures import formats_of, objective_fault
from nasframe.notices import Notices
from nasframe.processes import device
from nasframe.reads import Recorder
from nasframe.seeds import stream_seed
from nasframe.training.optim import forward_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from nasframe.interfaces import Estimator, Model, SearchSpace, Task
    from nasframe.plan import Plan


GLANCE = 16  # examples, of which a task that does not say so tells what its metrics are called


class Material:
    """What stages work on; each part is loaded when it is first asked for.

    Args:
        plan: the resolved recipe.
        tokenizer: in place of the model's own.
    """

    def __init__(self, plan: Plan, tokenizer: Any = None) -> None:
        self.plan, self._tokenizer = plan, tokenizer
        self.notices = Notices()
        self.reads = Recorder()
        self._stamps: dict[Path, Stamp] = {}

    @cached_property
    def model(self) -> Model | None:
        """The model, from which networks are loaded; ``None`` where the recipe's space stands without a network."""
        use = self.plan.model
        if not use:
            return None
        with self.reads:
            found: Model = registry.make("model", use, {"base": self.plan.base, "notify": self.notices})
        return found

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        with self.reads:
            return self._tokenizer or (self.model and self.model.tokenizer())

    @cached_property
    def bare_space(self) -> Any:
        """The recipe's space where it stands without a network, else ``None``."""
        if self.model:
            return None
        with self.reads:
            return registry.make("space", self.plan.space, {"notify": self.notices})

    @cached_property
    def estimators(self) -> Mapping[str, Estimator]:
        """Every cost that the plan can name."""
        if self.bare_space is not None:
            found: Mapping[str, Estimator] = self.bare_space.estimators
            return found
        inject = {"notify": self.notices}
        with self.reads:
            return {name: registry.make("estimator", use, inject) for name, use in self.plan.estimators.items()}

    @cached_property
    def task(self) -> Task:
        """The task, its splits drawn from the run's ``split`` stream."""
        return self.task_for(self.tokenizer)

    @cached_property
    def saved_head(self) -> Head | None:
        """The classification head that the model's checkpoint brings, if the model can tell."""
        if self.model is None or not hasattr(self.model, "head"):
            return None
        with self.reads:
            head: Head | None = self.model.head()
        return head

    def task_for(self, tokenizer: Any) -> Task:
        """Make the task with a tokenizer; it takes over the order of classes of the checkpoint's head.

        Raises:
            UsageError: the outputs of the checkpoint's head may be the task's classes, but do not say which is which.
        """
        seed = stream_seed(self.plan.seed, "split")
        inject = {"tokenizer": tokenizer, "seed": seed, "base": self.plan.base, "space": self.bare_space}
        inject |= {"notify": self.notices, "saved_head": self.saved_head}
        self._refuse_changes()
        with self.reads:
            task: Task = registry.make("task", self.plan.task, inject)
        name, _ = registry.use_of(self.plan.task)
        factory = registry.find("task", name).load()
        if "saved_head" not in inspect.signature(factory).parameters and task.labels is not None:
            match(self.saved_head, task.labels)  # what it refuses is refused for a task that does not ask, too
        return task

    def _refuse_changes(self) -> None:
        """Make sure that what was loaded before is not loaded differently, in the middle of a run.

        Raises:
            UsageError: a file has changed since; names them all.
        """
        files = [file for _, place in self.declared_by("model") for _, file in files_below(place)]
        for file in files:
            self._stamps.setdefault(file, stamp(file))
        changed = [file for file, seen in self._stamps.items() if stamp(file) != seen]
        changed += [file for file in self.reads.changed_files() if file not in changed]
        if changed:
            names = ", ".join(map(str, changed))
            raise UsageError(f"{names}: changed since the run began. Expected model and data to stay as they are.")

    def net(self, random: bool = False) -> nn.Module:
        """Load the model's network anew, its head (or all of it) drawn from the run's ``init`` stream."""
        assert self.model is not None
        self._refuse_changes()
        labels, seed = self.task.labels, stream_seed(self.plan.seed, "init")
        with self.reads:
            net = self.model.load(labels, seed, random=random)
        return net.to(device())

    def space(self, net: nn.Module, use: Any = None) -> SearchSpace | None:
        """Make the space ``use``, or the recipe's own if it has one, for a network."""
        use = use or self.plan.space
        if not use:
            return None
        with self.reads:
            found: SearchSpace = registry.make("space", use, {"config": net.config, "notify": self.notices})
        return found

    def load(self) -> None:
        """Load everything, so that what does not fit is refused before any work."""
        _ = self.work

    def _ask_estimators(self, net: nn.Module) -> None:
        """Let the costs that have ``on_plan`` refuse the network, or tell what they make of it."""
        for name, estimator in self.estimators.items():
            if not hasattr(estimator, "on_plan"):
                continue
            try:
                estimator.on_plan(net)
            except UsageError as error:
                raise UsageError(f"estimators.{name}: {error}") from error

    @cached_property
    def work(self) -> Work:
        """What the first stage starts from."""
        task, net = self.task, self.net() if self.model else None
        if net is not None:
            self._ask_estimators(net)
        self._check_objectives(task, net)
        return Work(net, self.tokenizer, task, self.bare_space if net is None else self.space(net))  # type: ignore[arg-type]

    def declared(self) -> Iterator[tuple[str, Path]]:
        """Yield the files and folders that model and task say they read, each with a name for it."""
        yield from self.declared_by("model")
        yield from self.declared_by("task")

    def declared_by(self, kind: str) -> Iterator[tuple[str, Path]]:
        """Yield the files and folders that the model or the task says it reads."""
        places = files_of(getattr(self, kind))
        for number, place in enumerate(places, start=1):
            yield kind if len(places) == 1 else f"{kind} {number}", place

    def _check_objectives(self, task: Task, net: nn.Module | None) -> None:
        """Refuse aims of searches that the task does not measure, as its data show; a task that does not tell is tried.

        Raises:
            UsageError: every such aim.
        """
        costs, problems = set(self.estimators), []
        for stage in self.plan.stages:
            aims = (stage.options.get("objectives") or self.plan.objectives or []) if stage.verb == "search" else []
            for aim in aims:
                name = aim.removeprefix("-")
                known = name in costs or aim == task.primary
                fault = "" if known else self._fault(aim, task, net)
                if fault:
                    problems.append(f"stages.{stage.name}.objectives: {fault}")
        if problems:
            raise UsageError("\n".join(problems))

    def _fault(self, aim: str, task: Task, net: nn.Module | None) -> str:
        metrics = formats_of(task)
        if not metrics and net is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about numbers of so few examples, which nobody reads
                found = task.evaluate(forward_of(net, net, "fp32"), "select", GLANCE).metrics
            name = aim.removeprefix("-")
            if name in found:
                return ""
            costs = registry.factories("estimator").keys() | self.estimators.keys()
            hint = suggestion(name, costs | found.keys())
            return f"unknown metric or cost {name!r}. Metrics: {listing(found)}; costs: {listing(costs)}.{hint}"
        return objective_fault(aim, metrics, self.estimators) if metrics else ""


def plain_summary(task: Task) -> dict[str, Any] | None:
    """Return what a task says of its data, JSON-plain, or ``None`` where it says nothing."""
    summary = getattr(task, "summary", None)
    return None if summary is None else asdict(summary)


def same_data(task: Task, known: Mapping[str, Any]) -> bool:
    """Tell whether a task has the data that a run was made with, its classes in the same order.

    Args:
        task: the task.
        known: what the run keeps of its data.
    """
    labels = None if task.labels is None else list(task.labels)
    return bool(known["fingerprint"] == task.fingerprint and known.get("labels", labels) == labels)
