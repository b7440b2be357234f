"""The trials of a search stage: how architectures are scored, what scoring costs, and how trials are stored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.interfaces import Candidate, SearchJob, TrainJob
from nasframe.records import LedgerEntry, ModifierRef, TrainerRef, TrainOptions, arch_id, plus
from nasframe.training.forward import forward_of
from nasframe.training.macs import MacCounter

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import Evaluator, Rival, Task, TrainResult, Work
    from nasframe.records import Arch, Evaluation, Trial
    from nasframe.stages.session import StageSession


@dataclass
class Tally:
    """What evaluations cost so far.

    Args:
        evaluations: how many there were.
        examples: how many examples they used, all together.
        tokens: token positions that went through networks, padding included.
        macs: forward MACs.
        backward_macs: of the candidates that were trained before they were scored, and of gradients that were their
            score.
    """

    evaluations: int = 0
    examples: int = 0
    tokens: int = 0
    macs: float | None = 0.0
    backward_macs: float | None = 0.0

    def add(self, result: Evaluation, macs: float | None) -> None:
        """Count one evaluation; ``macs`` is ``None`` if they cannot be counted."""
        self.evaluations += 1
        self.examples += result.examples
        self.tokens += result.tokens
        self.macs = plus(self.macs, macs)
        if result.backward:
            self.backward_macs = plus(self.backward_macs, None if macs is None else 2 * macs)

    def add_training(self, entries: Iterable[LedgerEntry]) -> None:
        """Count the training of a candidate, which is a part of its evaluation."""
        for entry in entries:
            self.examples += entry.examples
            self.tokens += entry.tokens
            self.macs = plus(self.macs, entry.forward_macs)
            self.backward_macs = plus(self.backward_macs, entry.backward_macs)

    def ledger_entry(self, seconds: float) -> LedgerEntry:
        """Return the tally as an entry of the ledger."""
        return LedgerEntry(
            role="evaluation",
            examples=self.examples,
            tokens=self.tokens,
            forward_macs=self.macs,
            backward_macs=self.backward_macs,
            evaluations=self.evaluations,
            seconds=seconds,
        )


def stored_tally(stage: StageSession) -> Tally:
    """Return the tally of a search, with what it did before it was interrupted."""
    return Tally(**stage.store.get(f"tally {stage.name}", {}))


def store_trial(stage: StageSession, number: int, trial: Trial, seconds: float, tally: Tally) -> None:
    """Store a trial together with the tally up to it, then tell observers."""
    # In one transaction: a search that is resumed then counts neither too few evaluations nor one of them twice.
    with stage.store.transaction():
        stage.store.add_trial(stage.name, number, trial, seconds)
        stage.store.put(f"tally {stage.name}", asdict(tally))
    stage.session.observers.trial_finished(stage.name, number, trial)


def mac_counter(stage: StageSession, work: Work) -> MacCounter:
    """Return what counts a stage's forward passes for the ledger."""
    return MacCounter(work.task, work.space, stage.notify, f"stages.{stage.name}")


@dataclass(frozen=True)
class FitPlugins:
    """What trains a candidate before it is scored, besides the options of the training.

    Args:
        modifiers: act inside the training loop, in this order; null entries are skipped. Each candidate gets new ones.
        trainer: runs the training loop.
    """

    modifiers: Sequence[ModifierRef] = ()
    trainer: TrainerRef = "loop"


def split_fit(fit: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the option ``fit`` of a search into training options and those of :class:`FitPlugins`.

    >>> split_fit({"epochs": 1, "modifiers": []})
    ({'epochs': 1}, {'modifiers': []})
    """
    names = {field.name for field in fields(FitPlugins)}
    training = {name: value for name, value in fit.items() if name not in names}
    plugins = {name: value for name, value in fit.items() if name in names}
    return training, plugins


class SelectionTask:
    """A task as evaluators see it: it refuses to read ``dev``, because nothing may be selected on that split.

    Args:
        task: the task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        """Return a member of the task; its functions that take a split refuse ``dev``."""
        value = getattr(self._task, name)
        if not callable(value) or name not in READING:
            return value

        def guarded(*arguments: Any, **named: Any) -> Any:
            splits = [*arguments, *named.values()]
            if any(isinstance(split, str) and split.startswith("dev") for split in splits):
                raise UsageError(f"an evaluator called {name} on 'dev', which is for reporting. Expected 'select'.")
            return value(*arguments, **named)

        return guarded


READING = frozenset({"evaluate", "evaluate_at", "order", "readable", "cut_examples", "batch", "chunks"})
"""Methods of tasks that read the examples of a split, those that some tasks have besides the protocol's among them."""


class Scorer:
    """Scores architectures by an evaluator, and counts what that costs.

    Args:
        evaluator: the plugin.
        work: whose network and space are searched.
        counter: counts multiply-adds.
        job: what the evaluator is told about the search, apart from candidates.
        precision: of the forward passes.
        saved: name → a network that an earlier stage saved.
        fitted: architecture → a copy of the network trained at it, if candidates are trained before they are scored.
        tally: what is counted so far.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        work: Work,
        counter: MacCounter,
        job: SearchJob,
        precision: str,
        saved: Callable[[str], nn.Module],
        fitted: Callable[[Arch, Tally], nn.Module] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.work = work
        self.counter = counter
        self.precision = precision
        self.tally = Tally() if tally is None else tally
        self._saved = saved
        self._fitted = fitted
        self._is_started = False
        self._job = replace(
            job,
            net=work.net,
            task=SelectionTask(work.task),
            space=work.space,
            candidate=self.candidate,
            saved=self.saved,
            count=self._count,
        )

    def score(
        self, arch: Arch, examples: int | None, rivals: Sequence[Rival] = (), measured: Sequence[Trial] = ()
    ) -> Evaluation:
        """Return the evaluator's measurement of an architecture; see :class:`nasframe.search.answers.Scorer`."""
        if not self._is_started:
            self.evaluator.start(self._job)
            self._is_started = True
        candidate = self.candidate(arch, rivals, measured)
        result = self.evaluator.evaluate(candidate, examples)
        self._count(candidate, result)
        return result

    def candidate(self, arch: Arch, rivals: Sequence[Rival] = (), measured: Sequence[Trial] = ()) -> Candidate:
        """Return an architecture as it is scored."""
        space: Any = self.work.space
        net = self.work.net if self._fitted is None else self._fitted(arch, self.tally)

        def model() -> nn.Module:
            if net is None:
                raise UsageError("the space has no network. Expected an evaluator that needs none.")
            extracted: nn.Module = space.extract(net, arch)
            return extracted.eval()

        return Candidate(
            arch=arch,
            forward=forward_of(space.view(net, arch), net, self.precision),
            model=model,
            # Counted on the network itself: that of a fitted copy costs the same, and would be counted again each time.
            macs=partial(self.counter.evaluation, self.work.net, arch),
            rivals=rivals,
            measured=measured,
        )

    def saved(self, name: str) -> Candidate:
        """Return a network that an earlier stage saved."""
        net = self._saved(name).eval()
        return Candidate(
            arch=None,
            forward=forward_of(net, net, self.precision, f"model {name!r}"),
            model=lambda: copy.deepcopy(net),
            macs=partial(self.counter.evaluation, net, None),
        )

    def _count(self, candidate: Candidate, result: Evaluation) -> None:
        """Add a measurement to the ledger."""
        self.tally.add(result, candidate.macs(result))


class Divergence:
    """Architecture → the divergence of its outputs from a saved network's, for the rule ``agreement`` of a search.

    Args:
        scorer: scores by the evaluator ``agreement``. It has its own tally: these passes are made when a search has
            ended, so that a resume repeats all of them.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._known: dict[str, float] = {}  # by architecture: several budgets may ask for one

    def __call__(self, arch: Arch) -> float:
        """Return the divergence of an architecture."""
        key = arch_id(arch)
        if key not in self._known:
            self._known[key] = self.scorer.score(arch, None).metrics["divergence"]
        return self._known[key]


def agreement_use(teacher: str) -> dict[str, str]:
    """Return the evaluator that the rule ``agreement`` compares finalists by, as a recipe writes it."""
    return {"use": "agreement", "teacher": teacher}


def stage_scorer(
    stage: StageSession,
    work: Work,
    use: Any,
    *,
    objectives: Sequence[str],
    fit: Mapping[str, Any] | None,
    precision: str,
    tally: Tally,
) -> Scorer:
    """Return what scores the candidates of a search stage.

    Args:
        stage: the search.
        work: whose network and space are searched.
        use: the evaluator's name and options.
        objectives: of the search.
        fit: training options, modifiers and trainer, if a copy of each candidate is trained before it is scored.
        precision: of the forward passes.
        tally: what was counted so far.
    """
    job = SearchJob(objectives, stage.seed, stage.name, estimators=stage.estimators)
    fitted = None if fit is None else partial(_fitted, stage, work, fit)
    counter = mac_counter(stage, work)
    return Scorer(stage.make("evaluator", use), work, counter, job, precision, work.models.__getitem__, fitted, tally)


def _fitted(stage: StageSession, work: Work, fit: Mapping[str, Any], arch: Arch, tally: Tally) -> nn.Module:
    """Return a copy of the super-network trained at one architecture alone, so that it is scored at its best."""
    training, plugins = split_fit(fit)
    chosen = FitPlugins(**plugins)
    # New ones for each candidate, so that no state goes from one training to the next.
    modifiers = [stage.make("modifier", use) for use in chosen.modifiers if use is not None]
    job = TrainJob(
        net=copy.deepcopy(work.net),  # every candidate starts from the same weights
        task=work.task,
        tokenizer=work.tokenizer,
        options=TrainOptions(**training),
        seed=stage.seed,
        stage=f"{stage.name}/fit",  # its own streams: the order of its batches is the same for every candidate
        space=work.space,
        arch=arch,
        modifiers=modifiers,
        models=work.models,
        estimators=stage.estimators,
    )
    result: TrainResult = stage.make("trainer", chosen.trainer).fit(job)
    tally.add_training(result.ledger)
    return result.net.eval()
