"""A cost that is the sum of measurements, one for each choice that an architecture makes."""

import csv
import json
from pathlib import Path

from nasframe.errors import UsageError
from nasframe.types import CostTable


class Lookup:
    """Look the cost of each choice up in a CSV file with the columns ``knob``, ``value`` (as JSON) and ``cost``.

    Args:
        path: the file; the cost of its knob ``base`` is always counted.
        unit: the unit of the costs.
    """

    def __init__(self, path: Path, unit: str = "ms"):
        self.path = path
        self.unit = unit
        self.base = 0.0
        self.costs = {}
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["knob"] == "base":
                    self.base = float(row["cost"])
                else:
                    self.costs[row["knob"], _key(json.loads(row["value"]))] = float(row["cost"])

    def estimate(self, space, net, arch=None):
        """Return the sum of the architecture's choices; a network that belongs to no architecture has no such cost."""
        if arch is None:
            return None
        return self.base + sum(self._cost(knob, value) for knob, value in arch.items())

    def table(self, space, net):
        """Return the cost of every choice, so that a search counts many architectures at once."""
        choices = {}
        for knob, values in space.domain.knobs.items():
            choices[knob] = [self._cost(knob, value) for value in values]
        return CostTable(self.base, choices)

    def _cost(self, knob, value):
        if (knob, _key(value)) not in self.costs:
            raise UsageError(f"{self.path}: no cost of {knob} = {value}. Expected a row for each value of each knob.")
        return self.costs[knob, _key(value)]


def _key(value):
    return json.dumps(value)
