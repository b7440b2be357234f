"""How ``nasframe plugins check`` tests the table plugins: on a small file, with the checks that need no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasframe import registry
from nasframe.records import Arch
from nasframe.testing import Contract, SpaceContract
from nasframe.testing.kit import check, prepared, require
from nasframe_bench.table_file import ArchTable, write_table

WIDTHS = (1, 2, 4)


class Space(SpaceContract):
    """A table of 27 architectures; the checks of networks are skipped, because it has none."""

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Write the table."""
        return {"path": str(write(folder))}

    @check
    def test_metrics_and_costs_are_the_file_s(self) -> None:
        """A view gives the metrics of its row, the estimators its costs."""
        space = self.make(None)
        for arch in self.archs(space):
            measured = space.view(None, arch)()
            expected = metrics(arch)
            require(measured == expected, f"the view of {arch} gives {measured}, the file {expected}")
            cost = space.estimators["params"].estimate(space, None, arch)
            expected_cost = params(arch)
            require(cost == expected_cost, f"{arch} costs {cost}, in the file {expected_cost}")


class Task(Contract):
    """A task that reads its metrics from the space."""

    kind = "task"

    def options(self, folder: Path) -> Mapping[str, Any]:
        """Choose the metric."""
        return {"metric": "accuracy"}

    def space(self) -> Any:
        """Make the space of the table."""
        return registry.make("space", {"use": "table", **prepared(Space)})

    def make(self) -> Any:
        """Make the task."""
        return self.registered(space=self.space())

    @check
    def test_it_says_what_it_is(self) -> None:
        """Metric and fingerprint are there, and the same table has the same fingerprint."""
        task = self.make()
        require(task.primary == "accuracy", f"the primary metric is {task.primary!r}")
        require(task.fingerprint == self.make().fingerprint, "two tasks on one table have different fingerprints")

    @check
    def test_evaluation_reads_the_table(self) -> None:
        """The metrics are those of the architecture's row."""
        task = self.make()
        space = self.space()
        for arch in space.archs:
            view = space.view(None, arch)
            measured = task.evaluate(view, "select").metrics
            expected = metrics(arch)
            require(measured == expected, f"{arch} scores {measured}, in the file {expected}")


def metrics(arch: Arch) -> dict[str, float]:
    """Return the metrics of an architecture in the table."""
    return {"accuracy": sum(arch.values()) / 12}  # at most 1, as three widths are at most 4 each


def params(arch: Arch) -> float:
    """Return the cost of an architecture in the table."""
    return 100.0 * sum(arch.values())


def write(folder: Path) -> Path:
    """Write the table."""
    knobs = {"width.0": WIDTHS, "width.1": WIDTHS, "width.2": WIDTHS}
    table = ArchTable(knobs, metrics=["accuracy"], costs=["params"])
    for arch in table.domain().enumerate():
        table.rows.append({"arch": arch, "metrics": metrics(arch), "costs": {"params": params(arch)}})
    path = folder / "table.json"
    write_table(table, path)
    return path
