"""A score without training: how much the loss of one batch depends on the weights (SNIP, Lee et al., ICLR 2019)."""

from nasframe.types import Evaluation, MetricFormat


class Snip:
    """Score an architecture by the saliency of its weights on one training batch, the sum of ``|w ∂L/∂w|``.

    Args:
        batch_size: examples in the batch.
        seed: injected; draws the batch, which is the same for all architectures.
    """

    reads_select = False  # nothing is measured on that split, so a search with "examples" is refused

    def __init__(self, batch_size: int = 32, seed: int = 0):
        self.batch_size = batch_size
        self.seed = seed

    def metrics(self, primary, of_task):
        """Return what is measured: a number of which more is better."""
        return {"saliency": MetricFormat()}

    def start(self, job):
        """Draw the batch of a search."""
        self.task = job.task
        self.batch = job.task.train_batches(self.seed, 0, self.batch_size)[0]

    def evaluate(self, candidate, examples):
        """Measure a candidate on the batch; its model is a copy, so that gradients touch nothing else."""
        model = candidate.model()
        model.zero_grad()
        self.task.loss(model(**self.batch.inputs), self.batch).backward()
        weights = [weight for weight in model.parameters() if weight.grad is not None]
        saliency = sum((weight * weight.grad).abs().sum().item() for weight in weights)  # connection sensitivity
        return Evaluation({"saliency": saliency}, {}, len(self.batch), self.batch.tokens)
