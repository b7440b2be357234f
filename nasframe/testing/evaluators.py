"""What every evaluator must do, as checks: subclass :class:`EvaluatorContract`, define ``make``, run pytest.

class TestMine(EvaluatorContract):
    def make(self, seed):
        return MyEvaluator(seed=seed)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from nasframe.errors import UsageError
from nasframe.interfaces import EvaluatorTraits, Rival, SearchJob, Work, member, traits_of
from nasframe.measures import formats_of, search_metrics
from nasframe.records import Arch, Evaluation, MetricFormat, Trial
from nasframe.stages.trials import Scorer
from nasframe.testing.kit import Contract, DoesNotApply, check, require, require_no_global_randomness
from nasframe.testing.nets import Snapshot, require_unchanged
from nasframe.testing.toy import PartialToyTask, ToySpace, tiny_net

FEW = 48
"""Examples of a subset."""


class Reads:
    """A task that notes which splits are read, also past the refusal of ``dev``.

    Args:
        task: the task.
        splits: where they are noted.
    """

    def __init__(self, task: Any, splits: set[str]) -> None:
        self._task = task
        self._splits = splits

    def __getattr__(self, name: str) -> Any:
        """Return a member of the task."""
        return getattr(self._task, name)

    def evaluate(self, forward: Any, split: str, examples: int | None = None) -> Evaluation:
        """Note the split, and measure."""
        self._splits.add(split)
        result: Evaluation = self._task.evaluate(forward, split, examples)
        return result


class Uncounted:
    """Stands for the counter of multiply-adds, which take long to count and are not what is checked here."""

    def evaluation(self, net: Any, arch: Any, result: Evaluation) -> float | None:
        """Return nothing."""
        return None


class EvaluatorContract(Contract):
    """The checks, on sub-networks of a tiny network, with a teacher saved as ``teacher``.

    Attributes:
        draws: how many architectures are drawn besides the ends of the domain.
    """

    kind = "evaluator"
    draws = 6

    def make(self, seed: int) -> Any:
        """Make the evaluator under test."""
        return self.registered(seed=seed)

    def task(self) -> Any:
        """Return the task; override it if your evaluator needs another one."""
        return PartialToyTask()

    def space(self) -> Any:
        """Return the space whose architectures are evaluated."""
        return ToySpace()

    def net(self) -> nn.Module:
        """Return the super-network."""
        return tiny_net()

    def archs(self, space: Any) -> list[Arch]:
        """Return the ends of the domain and some architectures drawn from it."""
        rng = np.random.default_rng(0)
        drawn = [space.domain.sample(rng) for _ in range(self.draws)]
        return [space.domain.smallest(), space.domain.largest(), *drawn]

    def scorer(self, task: Any = None, net: nn.Module | None = None, evaluator: Any = None) -> Scorer:
        """Return a search's part that calls the evaluator, as in a run."""
        work = Work(net or self.net(), None, task or self.task(), self.space(), models={"teacher": tiny_net(seed=1)})
        evaluator = self.make(0) if evaluator is None else evaluator
        objectives = [search_metrics(evaluator, work.task).default]
        job = SearchJob(objectives, 0, "search")
        counter: Any = Uncounted()
        return Scorer(evaluator, work, counter, job, "fp32", work.models.__getitem__)

    def examples(self) -> int | None:
        """Return the number of examples to ask for: a subset, if the evaluator reads any."""
        return FEW if traits_of(EvaluatorTraits, self.make(0)).reads_select else None

    @check
    def test_its_metrics_are_known_beforehand(self) -> None:
        """The metrics follow from those of the task, the one that a search maximises first, and are then measured."""
        task = self.task()
        evaluator = self.make(0)
        formats = evaluator.metrics(task.primary, formats_of(task))
        is_sound = isinstance(formats, Mapping) and len(formats) > 0
        is_sound = is_sound and all(isinstance(form, MetricFormat) for form in formats.values())
        require(is_sound, f"metrics returned {formats!r}; return metric → MetricFormat, the first is the score")
        scorer = self.scorer(task)
        for arch in self.archs(self.space())[:2]:
            result = scorer.score(arch, self.examples())
            require(
                isinstance(result, Evaluation), f"evaluate returned a {type(result).__name__}; return an Evaluation"
            )
            first = next(iter(formats))
            require(
                first in result.metrics,
                f"the first metric is {first!r}, but evaluate measured {sorted(result.metrics)}; measure it",
            )
            unknown = sorted(result.metrics.keys() - formats.keys())
            require(not unknown, f"evaluate measured {unknown}, which metrics does not name; add their formats")

    @check
    def test_scores_are_numbers_and_tell_architectures_apart(self) -> None:
        """Metrics are finite floats, and not the same for all architectures."""
        scorer = self.scorer()
        scores = []
        for arch in self.archs(self.space()):
            metrics = scorer.score(arch, self.examples()).metrics
            for name, value in metrics.items():
                is_number = isinstance(value, int | float) and math.isfinite(value)
                require(is_number, f"{name} of {arch} is {value!r}; return a finite float")
            scores.append(tuple(metrics.values()))
        require(len(set(scores)) > 1, "all architectures have the same metrics; measure the candidate's network")

    @check
    def test_the_same_scores_the_same(self) -> None:
        """An architecture has one score, whenever it is measured and whatever was measured before it."""
        archs = self.archs(self.space())[:4]
        first = self.scorer()
        second = self.scorer()
        scores = [first.score(arch, self.examples()).metrics for arch in archs]
        scores_again = [second.score(arch, self.examples()).metrics for arch in reversed(archs)]
        for arch, one, other in zip(archs, scores, reversed(scores_again), strict=True):
            require(
                _is_close(one, other),
                f"{arch} scores {dict(one)}, and in another order {dict(other)}; draw from the injected seed, and keep "
                "nothing of earlier candidates that changes a score",
            )

    @check
    def test_dev_is_never_read(self) -> None:
        """Nothing is selected on the split that results are reported on."""
        splits: set[str] = set()
        scorer = self.scorer(Reads(self.task(), splits))
        try:
            for arch in self.archs(self.space())[:2]:
                scorer.score(arch, self.examples())
        except UsageError as error:
            require("'dev'" not in str(error), f"{error} Measure on 'select', or on training batches")
            raise
        wrong = splits - {"select", "train"}
        require(not wrong, f"the evaluator reads {sorted(wrong)}; measure on 'select', or on training batches")

    @check
    def test_what_is_used_is_counted(self) -> None:
        """The evaluation says how many examples and tokens went through the network, so that the ledger is right."""
        scorer = self.scorer()
        for arch in self.archs(self.space())[:2]:
            result = scorer.score(arch, self.examples())
            sizes = f"{result.examples} examples and {result.tokens} tokens"
            is_sound = result.examples >= 0 and result.tokens >= 0
            require(is_sound, f"the evaluation counts {sizes}; count what went through the network")
            wanted = self.examples()
            is_whole = not traits_of(EvaluatorTraits, scorer.evaluator).reads_select or result.examples == wanted
            require(
                is_whole,
                f"asked for {wanted} examples, the evaluator used {result.examples}; use as many, or set reads_select "
                "to False if it does not measure on 'select'",
            )

    @check
    def test_a_candidate_that_may_win_is_measured_to_the_end(self) -> None:
        """An evaluation is broken off only if the candidate cannot win, and then on fewer examples than asked for."""
        scorer = self.scorer()
        if not traits_of(EvaluatorTraits, scorer.evaluator).reads_select:
            raise DoesNotApply
        archs = self.archs(self.space())
        sign = -1.0 if search_metrics(scorer.evaluator, scorer.work.task).default.startswith("-") else 1.0
        first = next(iter(search_metrics(scorer.evaluator, scorer.work.task).formats))
        results = {number: scorer.score(arch, None) for number, arch in enumerate(archs)}
        order = sorted(results, key=lambda number: sign * results[number].metrics[first])
        worst, best = order[0], order[-1]
        for number, result in results.items():
            require(
                not result.broken_off,
                f"{archs[number]} was broken off without rivals; measure a candidate without rivals to the end",
            )
        rival = Rival(Trial(archs[worst], 0.0, metrics=results[worst].metrics))
        result = scorer.score(archs[best], None, [rival])
        require(
            not result.broken_off,
            "the best architecture was broken off against the worst one; break off only what cannot win",
        )
        rival = Rival(Trial(archs[best], 0.0, metrics=results[best].metrics))
        result = scorer.score(archs[worst], None, [rival])
        if result.broken_off:
            size = scorer.work.task.sizes["select"]
            require(
                0 < result.examples < size,
                f"an evaluation that was broken off used {result.examples} of {size} examples; say how many it used",
            )
            estimate = sign * result.metrics[first]
            require(
                estimate <= sign * results[best].metrics[first],
                f"a candidate that cannot win is estimated at {estimate:g}, above its rival; keep it below",
            )

    @check
    def test_what_is_planned_is_not_refused(self) -> None:
        """``validate``, if there is one, accepts a search without data and network that the evaluator can do."""
        evaluator = self.make(0)
        validate = member(evaluator, "validate")
        if validate is None:
            return
        task = self.task()
        objectives = [search_metrics(evaluator, task).default]
        job = SearchJob(objectives, 0, "search")
        for known in (job, replace(job, task=task)):
            try:
                validate(known)
            except (UsageError, AttributeError, TypeError) as error:
                require(False, f"validate raised {error!r} for a search that works; before a run job.task is None")

    @check
    def test_the_network_is_left_alone(self) -> None:
        """Trials share the super-network, so that none may change it."""
        net = self.net()
        before = Snapshot.of(net)
        scorer = self.scorer(net=net)
        for arch in self.archs(self.space())[:3]:
            arch_before = copy.deepcopy(arch)
            scorer.score(arch, self.examples())
            require(arch == arch_before, "evaluate changed the architecture; change a copy")
            require_unchanged(net, before, "evaluate", "use candidate.model(), which is a copy", hooks=False)
            with_gradients = [name for name, parameter in net.named_parameters() if parameter.grad is not None]
            require(not with_gradients, "evaluate left gradients behind; use candidate.model(), which is a copy")

    @check
    def test_global_random_state_is_left_alone(self) -> None:
        """Evaluations draw nothing from the global random generators."""
        archs = self.archs(self.space())[:2]

        def metrics() -> list[Mapping[str, float]]:
            scorer = self.scorer()
            return [scorer.score(arch, self.examples()).metrics for arch in archs]

        def same(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> bool:
            return all(_is_close(one, other) for one, other in zip(first, second, strict=True))

        require_no_global_randomness(metrics, same, "the injected seed")


def _is_close(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Tell whether two measurements are the same up to the rounding of sums in another order."""
    return one.keys() == other.keys() and all(
        math.isclose(one[name], other[name], rel_tol=1e-5, abs_tol=1e-8) for name in one
    )
