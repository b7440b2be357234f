"""Evaluator ``gradients``: proxies that need no training, from the gradients of a few training batches.

The scores are two of those that Abdelfattah, Mehrotra, Dudziak and Lane compare (Zero-Cost Proxies for Lightweight NAS,
ICLR 2021, arXiv 2101.08134): the norm of the gradient, and the saliency of SNIP (Lee, Ajanthan and Torr, ICLR 2019,
arXiv 1810.02340) summed over all weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from nasframe.interfaces import Candidate, SearchJob
from nasframe.records import Batch, Count, Evaluation, MetricFormat, Size

if TYPE_CHECKING:
    import torch
    from torch import nn


class Gradients:
    """Score architectures by the gradients of the loss on a few training batches, without training or evaluating them.

    ``snip`` is ``Σ |θ · ∂L/∂θ|`` over all weights: how much the loss would change, to first order, if each weight were
    left out. ``grad_norm`` is ``‖∂L/∂θ‖₂``. More counts as better, which is meant for networks that are not trained:
    search ``from: random``, or from the pre-trained network. Either score grows with the size of the network, so it
    is of use within budgets.

    Args:
        score: the proxy.
        batch_size: examples in a batch.
        batches: number of batches; gradients are averaged over them.
        seed: injected; draws the batches, which are the same for all architectures.
    """

    reads_select = False
    needs_net = True

    def __init__(
        self,
        score: Literal["snip", "grad_norm"] = "snip",
        batch_size: Size = 32,
        batches: Count = 1,
        seed: int = 0,
    ) -> None:
        self.score = score
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed

    def metrics(self, primary: str, of_task: Mapping[str, MetricFormat]) -> Mapping[str, MetricFormat]:
        """Return the proxy, the only thing that is measured."""
        return {self.score: MetricFormat()}

    def start(self, job: SearchJob) -> None:
        """Take the task."""
        self.task = job.task

    def evaluate(self, candidate: Candidate, examples: int | None) -> Evaluation:
        """Return the proxy's value."""
        import torch

        model = candidate.model()  # in eval mode: dropout would only add noise
        device = next(model.parameters()).device
        model.requires_grad_(True)
        chosen = self._batches()
        with torch.enable_grad():
            for batch in chosen:
                on_device = batch.to(device)
                loss = self.task.loss(model(**on_device.inputs), on_device)
                (loss / len(chosen)).backward()
        value = float(_proxy(model, self.score))
        used = sum(len(batch) for batch in chosen)
        tokens = sum(batch.tokens for batch in chosen)
        return Evaluation({self.score: value}, {}, used, tokens, backward=True)

    def _batches(self) -> list[Batch]:
        """Return the first training batches; all of them, if there are fewer."""
        epoch = self.task.train_batches(self.seed, 0, self.batch_size)
        return [epoch[position] for position in range(min(self.batches, len(epoch)))]


def _proxy(model: nn.Module, score: str) -> torch.Tensor:
    """Return a proxy's value from the gradients that a network's weights have."""
    import torch

    terms = []
    for parameter in model.parameters():
        if parameter.grad is None:  # a weight that this loss does not depend on
            continue
        gradient = parameter.grad.double()
        if score == "snip":
            terms.append((gradient * parameter.detach()).abs().sum())  # SNIP's saliency, not normalised
        else:
            terms.append(gradient.square().sum())
    total = torch.stack(terms).sum()
    return total if score == "snip" else total.sqrt()
