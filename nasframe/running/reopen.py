"""A finished run, opened again: its super-network, its space and what its searches evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe.plan import kept_net, searched_net
from nasframe.records import Arch, Evaluation, Trial
from nasframe.search.loop import subset
from nasframe.store import RunStore

if TYPE_CHECKING:
    from torch import nn

    from nasframe.plan import Plan, PlannedStage
    from nasframe.search.budgets import Costs
    from nasframe.stages.inputs import Material


class Finished:
    """What a finished run left behind; nothing of it is changed, and each part is loaded when it is asked for.

    Args:
        directory: the run directory.
        stage: the search whose super-network and archive are meant; default: the last one.

    Raises:
        UsageError: no finished run lies there, its recipe was changed, it has no such search, or it did not keep its
            super-network.
        RunError: its database or its super-network is damaged; names the file.
    """

    def __init__(self, directory: Path | str, stage: str | None = None) -> None:
        from nasframe.recipe.loading import load_recipe
        from nasframe.recipe.resolve import resolve

        self.directory = Path(directory)
        store = RunStore(self.directory, shared=True)
        try:
            if not store.get("finished"):
                raise UsageError(
                    f"{self.directory}: the run is not finished. Go on with it first: nasframe run --resume {directory}"
                )
            store.check()
            self.data: Mapping[str, Any] = store.get("data") or {}
            self.plan: Plan = resolve(load_recipe(store.check_recipe(), base=Path(store.get("base", "."))))
            self.stage = self._search(stage)
            self.net_name, self.net_directory = self._net()
            if self.net_directory is not None:
                store.check_files(self.net_directory.name)
            self.trials = [trial for other in self._alike() for trial in store.trials(other.name)]
        finally:
            store.close()

    @cached_property
    def parts(self) -> Material:
        """What the recipe names, with the tokenizer that lies beside the super-network, if one does."""
        from nasframe.stages.inputs import Material

        tokenizer = None
        if self.net_directory is not None and (self.net_directory / "tokenizer.json").is_file():
            from transformers import AutoTokenizer

            import nasframe.hf  # noqa: F401  (transformers would ask whether to run the export's own code)

            tokenizer = AutoTokenizer.from_pretrained(self.net_directory, trust_remote_code=False)
        return Material(self.plan, tokenizer)

    @cached_property
    def net(self) -> nn.Module:
        """The super-network, in eval mode."""
        from nasframe.export.files import read_net
        from nasframe.processes import device

        if self.net_directory is None:
            return self.parts.net(random=self.net_name == "random").eval()
        return read_net(self.net_directory).to(device()).eval()

    @cached_property
    def space(self) -> Any:
        """The space that was searched."""
        return self.parts.space(self.net, self.stage.options.get("space"))

    @cached_property
    def region(self) -> Any:
        """The part of the domain that was searched."""
        within = self.stage.options.get("within")
        return self.space.domain.restrict(within) if within else self.space.domain

    @cached_property
    def objective(self) -> str:
        """What the search maximised first."""
        named = self.stage.options.get("objectives") or self.plan.objectives
        return named[0] if named else str(self.data["primary"])

    def estimator(self, name: str) -> Any:
        """Return the estimator of a cost, with the recipe's options if it has some."""
        from nasframe import registry

        if name not in self.parts.estimators:
            self.parts.estimators[name] = registry.make("estimator", name)  # type: ignore[index]
        return self.parts.estimators[name]

    def costs(self, names: list[str]) -> Costs:
        """Make a function from an architecture to its costs by name."""
        from nasframe.search.costs import cost_function

        return cost_function({name: self.estimator(name) for name in names}, self.space, self.net)

    def evaluate(self, arch: Arch, examples: int | None = None) -> Evaluation:
        """Measure an architecture on ``select`` as the search did.

        Raises:
            UsageError: the data is not what the run was made with.
        """
        from nasframe.stages.inputs import same_data
        from nasframe.training.optim import forward_of

        if not same_data(self.parts.task, self.data):
            expected = {key: value for key, value in self.data.items() if key not in ("summary", "metrics")}
            raise UsageError(f"{self.directory}: the data is not what the run was made with. Expected {expected}.")
        precision = self.stage.options.get("precision", "auto")
        forward = forward_of(self.space.view(self.net, arch), self.net, precision)
        return self.parts.task.evaluate(forward, "select", examples)

    def archive(self) -> Iterator[Trial]:
        """Yield what was evaluated of the super-network as it is; what was trained before it was scored is not."""
        seen = set()
        for trial in self.trials:
            examples = subset(trial.examples, self.data["sizes"].get("select"))
            key = (str(trial.arch), examples)
            if trial.state == "done" and key not in seen:
                seen.add(key)
                yield replace(trial, costs={}, examples=examples)

    def _search(self, name: str | None) -> PlannedStage:
        found = {stage.name: stage for stage in self.plan.stages if stage.verb == "search"}
        if not found:
            raise UsageError(f"{self.directory}: the run has no search. Expected one, with a super-network.")
        if not self.plan.model:
            raise UsageError(f"{self.directory}: the run's space has no network, so there is none to extract from.")
        if name is not None and name not in found:
            raise UsageError(f"stage: no search {name!r}. There are: {listing(found)}.{suggestion(name, found)}")
        return found[name] if name else list(found.values())[-1]

    def _net(self) -> tuple[str, Path | None]:
        name = searched_net(self.plan, self.stage)
        if name in ("pretrained", "random"):
            return name, None
        kept = self.directory / "models" / (name or kept_net(self.stage))
        if not (kept / "arch.json").is_file():
            raise UsageError(
                f"{self.directory}: the super-network of stage {self.stage.name!r} was not kept. Expected {kept}. "
                "Give the stage that trained it a 'save_as', and run again."
            )
        return name or self.stage.name, kept

    def _alike(self) -> list[PlannedStage]:
        """Return the searches on the same network and space that scored it as it is."""
        mine = (searched_net(self.plan, self.stage), self.stage.options.get("space"))
        searches = [stage for stage in self.plan.stages if stage.verb == "search" and not stage.options.get("fit")]
        alike = [s for s in searches if mine[0] and (searched_net(self.plan, s), s.options.get("space")) == mine]
        return alike or [stage for stage in searches if stage is self.stage]
