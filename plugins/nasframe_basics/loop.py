"""The trainer ``loop``; what it does step by step is in :mod:`nasframe_basics.fitting`.

``nasframe check`` reads the signature of every plugin that a recipe names. Plugins that most recipes name import torch
only when they work, since importing it takes longer than the whole check.
"""

from __future__ import annotations

from nasframe.interfaces import TrainJob, TrainResult
from nasframe.notices import Notify, say


class Loop:
    """Trains a network, or the sub-networks that a sampler proposes.

    In each step the sampler proposes ``archs_per_step`` architectures (it may answer with more: all are used). Each
    gets a forward and a backward pass on each micro-batch, then gradients are averaged over the processes, clipped,
    and one optimiser step is made. With ``eval_every``, ``keep: best`` or ``early_stop`` the ``select`` split is
    measured: with the whole network, with ``arch``, or, where a sampler proposes, as the mean of the smallest and the
    largest sub-network of the stage's domain, so that neither end is bought with the other. ``max_steps`` goes
    before ``epochs`` where both are given.

    A step whose loss or gradient is not finite changes no weights. Training has diverged when 20 such steps come in a
    row, when it ends with such a step, or when a weight is not finite; the last good checkpoint then stays as it is.
    """

    returns_arch = False  # architectures come from modifiers alone

    def __init__(self, notify: Notify = say) -> None:
        self.notify = notify

    def fit(self, job: TrainJob) -> TrainResult:
        """Train ``job.net`` in place; torch's global generators are left as they were.

        Raises:
            UsageError: the options do not say how long to train.
            DivergedError: loss, gradients or weights are no longer finite.
            RunError: there is no training data, or the sampler proposes nothing.
        """
        from nasframe_basics.fitting import fit

        return fit(job, self.notify)
