"""Modifier ``resort``: order heads and neurons again while sub-networks are trained, by their own gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import Share, ShareBelowOne
from nasframe_basics.used import UsedSizes, require_subnetworks

if TYPE_CHECKING:  # torch is imported when training begins, as nasframe_basics.loop explains
    import torch

    from nasframe.interfaces import Step
    from nasframe.nn.importance import StepEffects


class Resort(Modifier):
    """Once in a stage, bring the most important heads and neurons of each layer to the front again.

    Sub-networks keep the first heads and neurons of a layer. ``transform: rewire`` sorts them before training, by the
    gradients of the whole network; what matters in narrow networks may differ, and changes while they are trained. This
    modifier sorts by the gradients of the sub-networks themselves, which training computes anyway: the score of a head
    or neuron is ``|Σ W · ∂L/∂W|`` over the weights that read it (Michel et al., arXiv 1905.10650, eq. 3), averaged over
    the last steps in which it took part. Those that took part in none come last.

    The whole network computes the same as before, and the optimiser's moments move with the weights. Sub-networks
    change, so there should be enough steps left to train them.

    Args:
        at: share of the stage's steps after which it sorts.
        window: share of the stage's steps before that whose gradients count.
    """

    reads_space = False

    def __init__(self, at: ShareBelowOne = 0.5, window: Share = 0.1) -> None:
        self.at = at
        self.window = window
        self.effects: StepEffects | None = None
        self.loaded: Mapping[str, Any] = {}  # a state to go on from, until there are sums to take it
        self.used = UsedSizes()
        self.pending: list[torch.Tensor] = []  # this step's effects, until it is known to count

    def validate(self, job: TrainJob) -> None:
        """Refuse stages that train no sub-networks, and stages in which heads and neurons cannot be reordered.

        Raises:
            UsageError: it says which.
        """
        from nasframe.training.selection import free_to_reorder

        why = (
            "whose order of heads and neurons means nothing. Expected a stage with a sampler; transform: rewire sorts "
        )
        require_subnetworks(job, "resort", why + "between stages.")
        if job.net is not None:
            free_to_reorder(job, "resort", within=True)

    def on_start(self, job: TrainJob) -> None:
        """Begin with sums of zero."""
        from nasframe.nn.importance import StepEffects

        self.validate(job)
        self.effects = StepEffects(job.net)
        self.restore()

    def on_batch(self, step: Step) -> None:
        """Note the sizes of the sub-network."""
        self.used.note(step)

    def on_gradients(self, step: Step) -> None:
        """Read the effects of this step, before gradients are clipped."""
        first = self.position(step) - max(1, round(self.window * step.total))
        if first < step.index + 1 <= self.position(step):
            assert self.effects is not None
            self.pending = self.effects.of_step(self.used.units)
        self.used = UsedSizes()

    def on_update(self, step: Step) -> None:
        """Add the effects unless the step was skipped, and sort when it is time."""
        assert self.effects is not None
        if self.pending and not step.skipped:
            self.effects.add(self.pending)
        self.pending = []
        if step.index + 1 == self.position(step):
            self.sort(step)

    def position(self, step: Step) -> int:
        """Return the number of steps after which it sorts, at least one."""
        return max(1, round(self.at * step.total))

    def sort(self, step: Step) -> None:
        """Reorder the network, in all processes alike."""
        from nasframe.nn.importance import ranked
        from nasframe.nn.rewire import rewire

        assert self.effects is not None
        scores = self.effects.scores()
        moved = 0
        total = 0
        for layers in scores.values():
            for layer, values in layers.items():
                layers[layer] = step.job.reduce(values)
        orders = ranked(scores)
        for unit_orders in orders.values():
            for order in unit_orders.values():
                stays = order == order.sort().values
                moved += int((~stays).sum())
                total += len(order)
        rewire(step.job.net, orders, step.optimizer)
        step.job.log(step.index, {"moved": moved / total})

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        assert self.effects is not None
        return {"sums": self.effects.sums, "uses": self.effects.uses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned."""
        self.loaded = state
        self.restore()

    def restore(self) -> None:
        """Take over a loaded state as soon as there are sums to take it."""
        if self.effects is None or not self.loaded:
            return
        for name, tensors in (("sums", self.effects.sums), ("uses", self.effects.uses)):
            for tensor, stored in zip(tensors, self.loaded[name], strict=True):
                tensor.copy_(stored)
        self.loaded = {}
