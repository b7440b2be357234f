"""A one-file plugin: the toy task with a loss, scored by it, with a metric of unknown error, and without a loss."""

import numpy as np
import torch

from nasframe import hookimpl
from nasframe.records import MetricFormat
from nasframe.testing.toy import ToyTask

LOSS = MetricFormat(higher_is_better=False)


class LossTask(ToyTask):
    """Measures the mean cross-entropy, too."""

    metrics = {**ToyTask.metrics, "loss": LOSS}  # noqa: RUF012

    @staticmethod
    def measures(options, space=None):
        return {"accuracy": MetricFormat(percent=True), "loss": LOSS}

    def __init__(self, seed: int = 0, train: int = 64) -> None:
        super().__init__(seed=seed % 1000, train=train)

    def evaluate(self, forward, split, examples=None):
        losses = []

        def recording(**inputs):
            outputs = forward(**inputs)
            log_p = outputs.logits.double().log_softmax(-1)
            ids = inputs["input_ids"]
            labels = ((ids == 5).sum(1) > (ids == 6).sum(1)).long()
            losses.extend((-log_p[torch.arange(len(labels)), labels]).tolist())
            return outputs

        result = super().evaluate(recording, split, examples)
        result.metrics["loss"] = float(np.mean(losses))
        return result


class MirroredTask(LossTask):
    """Is scored by its loss, and measures the negative of it, of which more is better."""

    primary = "loss"
    metrics = {"loss": LOSS, "negative_loss": MetricFormat(), **ToyTask.metrics}  # noqa: RUF012

    @staticmethod
    def measures(options, space=None):
        return MirroredTask.metrics

    def evaluate(self, forward, split, examples=None):
        result = super().evaluate(forward, split, examples)
        result.metrics["negative_loss"] = -result.metrics["loss"]
        return result


class UnknownTask(LossTask):
    """Does not say how the error of its accuracy is computed."""

    metrics = {"accuracy": MetricFormat(), "loss": LOSS}  # noqa: RUF012


class LosslessTask(LossTask):
    """Says before a run that it measures no loss."""

    @staticmethod
    def measures(options, space=None):
        return {"accuracy": MetricFormat(percent=True)}


@hookimpl
def register_tasks(register):
    register("toy_loss", LossTask)
    register("toy_mirrored", MirroredTask)
    register("toy_unknown", UnknownTask)
    register("toy_lossless", LosslessTask)
