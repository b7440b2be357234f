"""The space of a table: a domain, and the metrics and costs of its architectures. There is no network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nasframe.errors import UsageError
from nasframe.records import Arch, Forward
from nasframe_bench.layouts import read
from nasframe_bench.rows import Rows
from nasframe_bench.surrogate import TableModel

log = logging.getLogger(__name__)


class TableSpace:
    """Architectures whose metrics and costs are in a file.

    A recipe with this space has no ``model``; its task is ``table``, its costs are the table's, and the "full
    network" that percentages refer to is the costliest row.

    Args:
        path: a JSON or CSV file, as ``nasframe tabulate`` writes it, or in another layout that the page on tables
            describes.
        missing: how architectures of the domain that the table lacks are treated: ``screen`` takes them out of the
            space, as if they broke a constraint; ``model`` predicts them with a model fitted to the table.
        columns: names for the columns of a table made elsewhere, ``{acc: metric.accuracy, ms: cost.size, note: ""}``;
            a column with an empty name is left out, all others are knobs.

    Raises:
        UsageError: the file or a row of it cannot be used; the message names both.
    """

    needs_net = False

    def __init__(
        self,
        path: Path,
        missing: Literal["screen", "model"] = "screen",
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.table = read(Path(path), columns)
        self.missing = missing
        if not self.table.rows:
            raise UsageError(f"{path}: no rows. Expected at least one.")
        if not self.table.metrics:
            raise UsageError(f"{path}: no metrics. Expected at least one.")
        if self.table.listed and missing == "model":
            raise UsageError(
                f"{path}: lists whole architectures, which leaves none to predict. Expected missing: screen."
            )
        domain: Any = self.table.domain()
        self.domain = domain
        archs = [row["arch"] for row in self.table.rows]
        # A search does little but look up rows, so the key must be cheap: repr costs much less than a digest.
        self.rows = {repr(row["arch"]): row for row in self.table.rows}
        self.complete = len(self.rows) == self.domain.size
        self.model: Any = None
        if not self.complete and missing == "model":
            self.model = TableModel(self.table, self.domain)
            log.warning("%s: %s", path, self.model.about)
        elif not self.complete:
            # Screening every draw would take very many draws if the table has a small part of the domain.
            self.domain = Rows(self.domain, archs)
        self.estimators = {name: TableCost(self, name) for name in self.table.costs}

    @property
    def archs(self) -> list[Arch] | None:
        """Every architecture of the space; ``None`` if a model predicts those that the table lacks."""
        if self.model is not None:
            return None
        return [row["arch"] for row in self.table.rows]

    def row(self, arch: Arch) -> Mapping[str, Mapping[str, float]]:
        """Return the metrics and costs of an architecture; one that is unknown has no metrics, and NaN as its costs."""
        row = self.rows.get(repr(arch))  # most architectures come in their canonical form
        if row is not None:
            return row
        if self.table.listed and not self.domain.contains(arch):
            return {"metrics": {}, "costs": dict.fromkeys(self.table.costs, np.nan)}
        canonical = self.domain.canonical(arch)
        row = self.rows.get(repr(canonical))
        if row is not None:
            return row
        if self.model is not None:
            predicted: Mapping[str, Mapping[str, float]] = self.model(canonical)
            return predicted
        return {"metrics": {}, "costs": dict.fromkeys(self.table.costs, np.nan)}

    def supernet(self, net: Any) -> Any:
        """Return ``net``: there is no network to make elastic."""
        return net

    def view(self, net: Any, arch: Arch) -> Forward:
        """Return a function that ignores its inputs and returns the architecture's metrics."""
        return lambda **inputs: self.row(arch)["metrics"]

    def extract(self, net: Any, arch: Arch) -> Any:
        """Raise UsageError: a table has no weights."""
        raise UsageError("space 'table' has no network to extract from. Take the architecture to the run it is from.")


@dataclass
class TableCost:
    """One cost of a table, as an estimator.

    Args:
        space: the table's space.
        name: the cost.
    """

    space: TableSpace
    name: str
    unit: str = ""  # the file does not say it, so that bounds are plain numbers

    def estimate(self, space: Any, net: Any, arch: Arch | None = None) -> float:
        """Return the cost of an architecture, or of the costliest row."""
        if arch is None:
            costs = [row["costs"][self.name] for row in self.space.table.rows]
            return max(costs)
        row = self.space.row(arch)
        return float(row["costs"][self.name])
