"""A table to try the estimator with, for ``nasframe plugins check``."""

import csv
import json

from nasframe.testing import EstimatorContract


class LookupContract(EstimatorContract):
    def options(self, folder):
        """Write a table for the space of the contract: a value costs its place among the values of its knob."""
        path = folder / "millis.csv"
        rows = [("knob", "value", "cost"), ("base", "", 0.5)]
        for knob, values in self.space().domain.knobs.items():
            rows += [(knob, json.dumps(value), place / 4) for place, value in enumerate(values)]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
        return {"path": path}
