"""The trainer ``loop``; what it does step by step is in :mod:`nasframe_basics.fitting`.

``nasframe check`` reads the signature of every plugin that a recipe names. Plugins that most recipes name import torch
only when they work, since importing it takes longer than the whole check.
"""

from __future__ import annotations

from nasframe.interfaces import TrainJob, TrainResult
from nasframe.notices import Notify, say


class Loop:
    """Trains a network, or the sub-networks that a sampler proposes.

    In each step the sampler is asked for ``archs_per_step`` architectures; if it returns more, all are used. Each
    architecture gets a forward and a backward pass on each micro-batch. Then the gradients are averaged over the
    processes and clipped, and the optimiser makes one step.

    With ``eval_every``, ``keep: best`` or ``early_stop`` the ``select`` split is measured: with the whole network, with
    ``arch``, or, if there is a sampler, as the mean of the smallest and the largest sub-network of the stage's domain,
    so that neither end is improved at the other's expense. ``max_steps`` takes precedence over ``epochs``.

    A step with a loss or gradient that is not finite changes no weights. Training has diverged after 20 such steps in a
    row, if its last step is one, or if a weight is not finite; the last good checkpoint then stays as it is.
    """

    returns_arch = False  # only modifiers return architectures

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
