"""The task of a table: its metrics are read instead of measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from nasframe.errors import UsageError, listing, suggestion
from nasframe.records import Evaluation, Forward, MetricFormat, canonical_json


class TableTask:
    """Scores architectures by their metrics in a table.

    Args:
        space: the space ``table`` of the recipe.
        metric: the metric that a search maximises; default: the table's first one that is not minimised.

    Raises:
        UsageError: a space without a table, or a metric that the table does not have.
    """

    labels: Sequence[str] | None = None
    sizes = {"select": 1}  # noqa: RUF012 (the split that a search scores on; a look-up has no examples to count)

    @staticmethod
    def measures(options: Mapping[str, Any], space: Any = None) -> dict[str, MetricFormat] | None:
        """Return the metrics of the space's table."""
        table = getattr(space, "table", None)
        if table is None:  # before a recipe's space is made, or with another space
            return None
        return formats(table)

    def __init__(self, space: Any = None, metric: str | None = None) -> None:
        table = getattr(space, "table", None)
        if table is None:
            raise UsageError("task 'table' needs the space 'table'. Expected 'space: {use: table, path: FILE}'.")
        if metric is not None and metric not in table.metrics:
            hint = suggestion(metric, table.metrics)
            raise UsageError(f"task 'table': no metric {metric!r}. The table has {listing(table.metrics)}.{hint}")
        if metric in table.minimise:
            raise UsageError(f"task 'table': a search looks for the largest {metric!r}, but less of it is better.")
        maximised = [name for name in table.metrics if name not in table.minimise]
        candidates = maximised or list(table.metrics)
        self.primary = metric or candidates[0]
        self.metrics = formats(table)
        # The data of this task are the table's content, not its path, and the treatment of architectures it lacks.
        content = canonical_json([table.head(), table.rows, space.missing])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> Any:
        """Raise UsageError: there is no training data."""
        raise UsageError("task 'table' has no training data.")

    def loss(self, outputs: Any, batch: Any) -> Any:
        """Raise UsageError: there is no training."""
        raise UsageError("task 'table' has no loss.")

    def evaluate(self, forward: Forward, split: str, examples: int | None = None) -> Evaluation:
        """Return the metrics in the table of the architecture behind ``forward``."""
        metrics = forward()  # the view of a table's space ignores inputs, see TableSpace.view
        return Evaluation(metrics, {}, 1, 0)


def formats(table: Any) -> dict[str, MetricFormat]:
    """Return how a table's metrics read."""
    formats = {}
    for name in table.metrics:
        formats[name] = MetricFormat(
            percent=name in table.percent,
            higher_is_better=name not in table.minimise,
            standard_error="unknown",  # a table does not say how many examples its metrics were measured on
        )
    return formats
