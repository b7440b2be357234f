"""Predictions of several labels are compared example by example, whatever the order of each run's outputs."""

import numpy as np
import pandas as pd
import pytest

from nasframe_basics.metrics import micro_f1
from nasframe_studies.evidence import _in_order, _pair

LABELS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]] * 10)
WORSE = np.where(np.arange(40)[:, None] % 4 == 3, 0, LABELS)


def table(names, labels, predictions):
    """Return a file of predictions whose outputs are in the order of some of ``abc``."""
    order = ["abc".index(name) for name in names]
    columns = {"id": range(len(labels))}
    columns["label"] = [str(np.flatnonzero(row[order]).tolist()) for row in labels]
    columns["prediction"] = [str(np.flatnonzero(row[order]).tolist()) for row in predictions]
    columns |= {f"p_{name}": 0.5 for name in names}
    return pd.DataFrame(columns)


def test_sets_are_compared_in_one_order_of_the_labels():
    own = table("abc", LABELS, LABELS)
    other = _in_order(table("cab", LABELS, WORSE), list("cab"), list("abc"))
    assert other["prediction"].tolist() == table("abc", LABELS, WORSE)["prediction"].tolist()
    scores = _pair(own, other, "micro_f1")
    assert (scores.only_arm, scores.only_reference) == (10, 0)
    assert scores.difference == pytest.approx(micro_f1(LABELS, LABELS) - micro_f1(LABELS, WORSE))
    assert scores.low <= scores.difference <= scores.high


def test_a_metric_that_predictions_do_not_give_has_no_interval():
    same = table("abc", LABELS, LABELS)
    scores = _pair(same, same, "label_accuracy")
    assert scores.difference is None
    assert scores.p == 1.0
