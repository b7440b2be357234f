"""A finished run, opened again: its super-network, its space, and the trials of its searches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.errors import RecipeError, UsageError, in_shell, listing, suggestion
from nasframe.folders import model_folder
from nasframe.interfaces import SearchJob, Work
from nasframe.measures import PRIMARY, objective_in
from nasframe.plan import changes_later, kept_net, searched_net
from nasframe.records import Arch, Evaluation, Trial
from nasframe.report.format import metric_format, metric_formats, with_search_metrics
from nasframe.search.loop import subset
from nasframe.store import SHARED_SAMPLER, RunStore, load_state

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Task
    from nasframe.plan import Plan, PlannedStage
    from nasframe.search.budgets import Costs
    from nasframe.search.winner import WinnerRule
    from nasframe.stages.inputs import RunInputs
    from nasframe.stages.trials import Divergence, Scorer


class Finished:
    """A finished run. Nothing of it is changed, and each part is loaded when it is first asked for.

    Args:
        directory: the run directory.
        stage: the search whose super-network and trials are meant; default: the last one.

    Raises:
        UsageError: no finished run lies there, its recipe was changed, it has no such search, or it did not keep its
            super-network.
        RunError: its database or its super-network is damaged; names the file.
    """

    def __init__(self, directory: Path | str, stage: str | None = None) -> None:
        self.directory = Path(directory)
        store = RunStore(self.directory, shared=True)
        try:
            if not store.get("finished"):
                go_on = f"nasframe run --resume {in_shell(directory)}"
                raise UsageError(f"{self.directory}: the run is not finished. Go on with it first: {go_on}")
            # The directory may have been edited, or copied in part, since the run finished.
            store.check()
            self.data: Mapping[str, Any] = store.get("data") or {}
            self.plan = kept_plan(store)
            self.stage = _search(self.plan, stage, self.directory)
            self.net_name, self.net_directory = self._net_place()
            result = store.stage_result(self.stage.name)
            self._is_supernet = result.get("supernet") == "kept"
            self._objectives: list[str] = result.get("objectives") or []
            of_task = result.get("data") or self.data  # of the search's own task, if it has one
            self.data = with_search_metrics(of_task, [result])
            self._results = [store.stage_result(stage.name) for stage in self.plan.stages]
            if self.net_directory is not None:
                store.check_files(self.net_directory.name)
            self.trials: list[Trial] = []
            for search in _searches_alike(self.plan, self.stage):
                self.trials += store.trials(search.name)
        finally:
            store.close()

    def _net_place(self) -> tuple[str, Path | None]:
        """Return the name of the super-network, and the folder that it lies in unless the model loads it.

        Raises:
            UsageError: no stage kept it.
        """
        name = searched_net(self.plan, self.stage)
        # Both are drawn or loaded from the model with the run's seed, so no copy of them was kept.
        if name in ("pretrained", "random"):
            return name, None
        folder = model_folder(self.directory, name or kept_net(self.stage))
        if not (folder / "arch.json").is_file():
            raise UsageError(
                f"{self.directory}: the super-network of stage {self.stage.name!r} was not kept. Expected {folder}. "
                "Give the stage that trained it a 'save_as', and run again."
            )
        return name or self.stage.name, folder

    @cached_property
    def inputs(self) -> RunInputs:
        """What the recipe names, with the tokenizer from the super-network's folder, if there is one.

        Estimators that learn know what they knew at the end of the run.
        """
        from nasframe.stages.inputs import RunInputs

        inputs = RunInputs(self.plan, self._own_tokenizer())
        for result in self._results:
            inputs.restore_learned(result)
        return inputs

    def _own_tokenizer(self) -> Any:
        """Return the tokenizer from the super-network's folder, if there is one."""
        if self.net_directory is None or not (self.net_directory / "tokenizer.json").is_file():
            return None
        from transformers import AutoTokenizer

        import nasframe.hf  # noqa: F401  (transformers would ask whether to run the export's own code)

        return AutoTokenizer.from_pretrained(self.net_directory, trust_remote_code=False)

    @cached_property
    def task(self) -> Task:
        """The task of the search: its own, or else the recipe's."""
        return self.inputs.task_of(self.stage)

    @cached_property
    def _started_from(self) -> nn.Module:
        """The network that the search started from, in eval mode."""
        from nasframe.export.files import read_net
        from nasframe.processes import device

        if self.net_directory is None:
            return self.inputs.net(random=self.net_name == "random", stage=self.stage).eval()
        self.inputs.load_plugins()  # a network of a plugin's own is known once its module is imported
        return read_net(self.net_directory).to(device()).eval()

    @cached_property
    def net(self) -> nn.Module:
        """The super-network, in eval mode."""
        if self._is_supernet:
            return self._started_from
        return self.inputs.supernet(self.space, self.stage.options.get("space"), self._started_from).eval()

    @cached_property
    def space(self) -> Any:
        """The space that was searched."""
        # A space that makes a super-network of its own was made on the model's network, and so it is here.
        net = self.inputs.work_for(self.stage).net if self._is_supernet else self._started_from
        return self.inputs.space(net, self.stage.options.get("space"))

    @cached_property
    def region(self) -> Any:
        """The part of the domain that was searched."""
        from nasframe.running.feasibility import region_of

        return region_of(self.space, self.stage)

    def shared_sampler(self) -> Any:
        """Return the run's own sampler with all that it has learned, ``None`` if the search had another one.

        Runs of earlier versions did not keep it, either.
        """
        from nasframe.stages.session import new_shared_sampler

        path = self.directory / SHARED_SAMPLER
        if self.stage.options.get("sampler") != "shared" or not path.is_file():
            return None
        sampler = new_shared_sampler(self.inputs, self.space, self.net)
        sampler.load_state_dict(load_state(path))
        return sampler

    @cached_property
    def objective(self) -> str:
        """The first objective of the search."""
        # Searches of earlier versions did not record it, and had no evaluator.
        objectives = self._objectives or self.stage.options.get("objectives") or self.plan.objectives
        if objectives and objectives[0] != PRIMARY:
            first: str = objectives[0]
            return first
        primary = str(self.data["primary"])
        return objective_in({primary: metric_format(metric_formats(self.data), primary)}, primary)

    def estimator(self, name: str) -> Any:
        """Return the estimator of a cost, with the recipe's options if it has some."""
        # A deployment may ask for costs that the recipe does not name.
        if name not in self.inputs.estimators:
            self.inputs.estimators[name] = self.inputs.estimator(name)  # type: ignore[index]
        return self.inputs.estimators[name]

    def full_costs(self, names: Iterable[str]) -> dict[str, float]:
        """Return the costs that percentages refer to: those of the super-network's largest architecture."""
        from nasframe.search.costs import full_costs

        return full_costs({name: self.estimator(name) for name in names}, self.space, self.net)

    def costs(self, names: list[str]) -> Costs:
        """Return a function from an architecture to its costs by name."""
        from nasframe.search.costs import cost_function

        return cost_function({name: self.estimator(name) for name in names}, self.space, self.net)

    def evaluate(self, arch: Arch, examples: int | None = None) -> Evaluation:
        """Measure an architecture on ``select`` as the search did.

        Args:
            arch: the architecture.
            examples: the size of the fixed subset to use; default: all of ``select``.

        Raises:
            UsageError: the data is not what the run was made with.
        """
        self._check_data()
        return self._scorer.score(arch, examples)

    @cached_property
    def _scorer(self) -> Scorer:
        """Scores architectures as the search did."""
        return self._new_scorer(self.stage.options.get("evaluator", "metric"))

    def _new_scorer(self, use: Any) -> Scorer:
        """Return what scores architectures by an evaluator.

        Args:
            use: the evaluator's name and options.
        """
        from nasframe import registry
        from nasframe.seeds import stream_seed
        from nasframe.stages.trials import Scorer
        from nasframe.training.macs import MacCounter

        task = self.task
        seed = self.plan.seed
        inject = {"seed": stream_seed(seed, "evaluator", self.stage.name), "base": self.plan.base}
        work = Work(self.net, self.inputs.tokenizer, task, self.space)
        job = SearchJob([self.objective], seed, self.stage.name, estimators=self.inputs.estimators)
        precision = self.stage.options.get("precision", "auto")
        evaluator = registry.make("evaluator", use, inject)
        return Scorer(evaluator, work, MacCounter(task, self.space), job, precision, self._saved_net)

    def _saved_net(self, name: str) -> nn.Module:
        """Return a network that the search could name, as it was then.

        Raises:
            UsageError: the run did not keep it so.
        """
        from nasframe.export.files import read_net
        from nasframe.processes import device

        self._check_saved(name)
        return read_net(model_folder(self.directory, name)).to(device()).eval()

    def _check_saved(self, name: str) -> None:
        """Make sure that the run has a saved network as it was at the search."""
        folder = model_folder(self.directory, name)
        if not folder.is_dir() or changes_later(self.plan, self.stage, name):
            raise UsageError(
                f"{self.directory}: the teacher {name!r} of stage {self.stage.name!r} was not kept as it was, and "
                f"candidates are compared with it. Expected {folder}."
            )

    def _check_data(self) -> None:
        """Refuse other data: what is measured on it could not be compared with the run's trials."""
        from nasframe.stages.inputs import brief_facts, same_data

        if not same_data(self.task, self.data):
            raise UsageError(
                f"{self.directory}: the data is not what the run was made with. Expected {brief_facts(self.data)}."
            )

    def winner_rule(self) -> WinnerRule:
        """Return the rule by which the search chose its winners, for its first objective."""
        from nasframe.search.winner import WinnerRule

        options = self.stage.options
        name = options.get("winner", "score")  # searches of earlier versions had no other rule
        return WinnerRule(
            name=name,
            error=metric_format(metric_formats(self.data), self.objective.removeprefix("-")).error_kind,
            examples=self.data["sizes"].get("select"),
            divergence=self._divergence if name == "agreement" else None,
            finalists=options.get("finalists", 10),
        )

    @cached_property
    def _divergence(self) -> Divergence:
        """Compares architectures with the teacher of the search, as the search did.

        Raises:
            UsageError: the run does not have the teacher as it was, or the data is not what the run was made with.
        """
        from nasframe.stages.trials import Divergence, agreement_use

        teacher = self.stage.options["teacher"]
        self._check_saved(teacher)
        self._check_data()
        return Divergence(self._new_scorer(agreement_use(teacher)))

    def archive(self) -> Iterator[Trial]:
        """Yield the evaluated trials of the super-network as it is, each architecture once at each subset's size."""
        # A score on a subset is another measurement than one on all examples, so both are yielded. Costs are dropped,
        # since a deployment counts its own.
        yielded = set()
        for trial in self.trials:
            examples = subset(trial.examples, self.data["sizes"].get("select"))
            key = (str(trial.arch), examples)
            if trial.state == "done" and key not in yielded:
                yielded.add(key)
                yield replace(trial, costs={}, examples=examples)


def kept_plan(store: RunStore) -> Plan:
    """Return the plan of the recipe that a run keeps.

    Raises:
        UsageError: the recipe is missing, or was changed.
        RecipeError: plugins or nasframe have changed since the run began, and the recipe does not fit them.
    """
    from nasframe.recipe.loading import load_recipe
    from nasframe.recipe.resolve import resolve

    recipe = store.check_recipe()
    try:
        return resolve(load_recipe(recipe, base=Path(store.get("base", "."))))
    except RecipeError as error:
        # Its own advice is to edit the recipe, which a run directory does not allow.
        error.add_note(
            "The recipe was sound when the run began; nasframe or a plugin has changed since. Expected the versions of "
            f"then ({store.directory / 'env.json'}). Or change a copy of the recipe and run it by itself."
        )
        raise


def _search(plan: Plan, name: str | None, directory: Path) -> PlannedStage:
    """Return the search of a name, or the last one.

    Raises:
        UsageError: the plan has no such search, or none on a network.
    """
    searches = {stage.name: stage for stage in plan.stages if stage.verb == "search"}
    if not searches:
        raise UsageError(f"{directory}: the run has no search. Expected one, with a super-network.")
    if not plan.model:
        raise UsageError(f"{directory}: the run's space has no network, so there is none to extract from.")
    if name is None:
        return list(searches.values())[-1]
    if name not in searches:
        raise UsageError(f"stage: no search {name!r}. There are: {listing(searches)}.{suggestion(name, searches)}")
    return searches[name]


def _searches_alike(plan: Plan, stage: PlannedStage) -> list[PlannedStage]:
    """Return the searches on the same network and space as a search that scored the network as it is."""
    net, space = searched_net(plan, stage), stage.options.get("space")
    alike = []
    for other in plan.stages:
        # A search with "fit" trains its candidates, so its scores are not those of the network as it is.
        if other.verb != "search" or other.options.get("fit"):
            continue
        same_net = bool(net) and searched_net(plan, other) == net and other.options.get("space") == space
        if same_net or other is stage:
            alike.append(other)
    return alike
