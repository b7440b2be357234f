import numpy as np
import pytest
from nasframe_basics.metrics import METRICS


def test_metrics_agree_with_their_definitions():
    labels, guesses = np.array([0, 1, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 1, 1])
    assert METRICS["f1"](labels, guesses) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert METRICS["accuracy_f1"](labels, guesses) == pytest.approx((4 / 6 + 0.75) / 2)
    assert METRICS["mcc"](labels, guesses) == pytest.approx(np.corrcoef(labels, guesses)[0, 1])
    assert METRICS["macro_f1"](labels, guesses) == pytest.approx((0.75 + 0.5) / 2)
    constant = np.ones(6)
    assert METRICS["f1"](labels, np.zeros(6, int)) == 0
    assert METRICS["mcc"](labels, np.ones(6, int)) == 0
    assert METRICS["pearson_spearman"](labels.astype(float), constant) == 0
