"""Trains a network for a training stage: a copy of it, with the stage's sampler, modifiers and trainer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasframe.errors import DivergedError
from nasframe.interfaces import TrainJob, distilled_task
from nasframe.plan import distils
from nasframe.stages import choose
from nasframe.stages.origins import stands_alone

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import TrainResult, Work
    from nasframe.progress import Advance
    from nasframe.records import TrainOptions
    from nasframe.stages.session import StageSession


@dataclass(frozen=True)
class Fitting:
    """What a training stage does with each of its networks; the options are those of the verb ``train``.

    Args:
        stage: the stage.
        work: what the stage before left.
        options: how to train.
        sampler: proposes sub-networks; ``None`` if ``arch`` or the whole network is trained.
        within: the part of the domain that it proposes from.
        arch: the one sub-network to train, by name or sizes.
        modifiers: act inside the loop; ``None`` stands for one that is switched off.
        trainer: runs the loop.
    """

    stage: StageSession
    work: Work
    options: TrainOptions
    sampler: Any
    within: Mapping[str, list[Any]] | None
    arch: str | Mapping[str, Any] | None
    modifiers: Sequence[Any]
    trainer: Any

    def fit(self, net: nn.Module, name: str = "") -> TrainResult:
        """Train a copy of a network.

        Args:
            net: the network.
            name: its name, in a stage that trains several models one by one.

        Raises:
            DivergedError: the training diverged.
        """
        net = trainable_copy(net)
        title = f"{self.stage.name} {name}".rstrip()
        with self.stage.progress.bar(title) as advance:
            job = self.job(net, name, advance)
            # A new one for each model, so that no state goes from one training to the next.
            trainer = self.stage.make("trainer", self.trainer)
            try:
                result: TrainResult = trainer.fit(job)
            except DivergedError as error:
                if name:
                    error.add_note(f"It happened to model {name!r}.")
                raise
            # The trainer may be a plugin that does not look at its weights, or that fills pruned entries again.
            require_finite_weights(title, result.net)
            settled(result.net)
        return result

    def job(self, net: nn.Module, name: str, advance: Advance) -> TrainJob:
        """Return the job of training a network."""
        stage, work = self.stage, self.work
        is_alone = bool(name) or stands_alone(work, {"sampler": self.sampler, "arch": self.arch})
        sampler, region = None, None
        if self.sampler is not None:
            sampler = choose.sampler(stage, self.sampler, work)
            region = choose.domain(stage, work.space, self.sampler, self.within)
        arch = choose.arch(stage, self.arch, work)
        # A recipe that extends another one switches a modifier off with null.
        modifiers = [stage.make("modifier", modifier) for modifier in self.modifiers if modifier is not None]
        return TrainJob(
            net=net,
            task=distilled_task(work.task) if distils(stage.planned) else work.task,
            tokenizer=work.tokenizer,
            options=self.options,
            seed=stage.seed,
            stage=stage.name,
            space=None if is_alone else work.space,
            sampler=sampler,
            within=region,
            arch=arch,
            modifiers=modifiers,
            models=work.models,
            estimators=stage.estimators,
            log=stage.logger(name),
            checkpoint=stage.checkpoint(name),
            progress=advance,
        )


def trainable_copy(net: nn.Module) -> nn.Module:
    """Return a copy to train, so that earlier stages' networks stay unchanged.

    Its compression record is cleared, because training invalidates it.
    """
    from nasframe.nn.formats import set_record

    net = copy.deepcopy(net)
    set_record(net, {})
    return net


def settled(net: nn.Module) -> nn.Module:
    """Drop entries that no longer hold from the network's compression record, and return the network."""
    from nasframe.nn.formats import settle

    return settle(net)


def require_finite_weights(name: str, net: nn.Module) -> None:
    """Make sure that a trained network has only finite weights, whichever trainer it comes from.

    Args:
        name: what was trained, for the error.
        net: the trained network.

    Raises:
        DivergedError: some weights are not finite.
    """
    from nasframe.training.optim import non_finite

    names = non_finite(net)
    if names:
        raise DivergedError(
            f"stage {name!r}: training diverged: {len(names)} weight tensors are not finite, {names[0]} among them. "
            "The network is not kept. A lower learning_rate may help."
        )
