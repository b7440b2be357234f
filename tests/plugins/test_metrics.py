import numpy as np
import pytest

from nasframe_basics.metrics import METRICS, formats


def measured(name, labels, guesses, **needed):
    return METRICS[name].function(labels, guesses, **needed)


def test_metrics_agree_with_their_definitions():
    labels, guesses = np.array([0, 1, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 1, 1])
    assert measured("f1", labels, guesses) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert measured("accuracy_f1", labels, guesses) == pytest.approx((4 / 6 + 0.75) / 2)
    assert measured("mcc", labels, guesses) == pytest.approx(np.corrcoef(labels, guesses)[0, 1])
    assert measured("macro_f1", labels, guesses) == pytest.approx((0.75 + 0.5) / 2)
    constant = np.ones(6)
    assert measured("f1", labels, np.zeros(6, int)) == 0
    assert measured("mcc", labels, np.ones(6, int)) == 0
    assert measured("pearson_spearman", labels.astype(float), constant) == 0


def test_f1_is_that_of_the_positive_class_whatever_its_index():
    labels, guesses = np.array([0, 1, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 1, 1])
    for name in ("f1", "accuracy_f1"):
        assert measured(name, labels, guesses) == measured(name, 1 - labels, 1 - guesses, positive=0)
    assert measured("f1", labels, guesses, positive=0) == pytest.approx(0.5)


def test_classes_that_only_the_network_knows_do_not_count_in_the_mean():
    labels, guesses = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    assert measured("macro_f1", labels, guesses, classes=[0, 1]) == pytest.approx((1 + 2 / 3) / 2)


def test_each_metric_says_how_it_reads():
    found = formats(list(METRICS), "good")
    of_labels = {"micro_f1", "subset_accuracy", "label_accuracy"}
    shares = {"accuracy", "f1", "accuracy_f1", "macro_f1"} | of_labels
    assert {name for name, form in found.items() if form.percent} == shares
    assert {name for name, form in found.items() if not form.higher_is_better} == {"loss"}
    assert {name for name, form in found.items() if form.positive == "good"} == {"f1", "accuracy_f1"}
