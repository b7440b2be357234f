"""A teacher that has learned nothing is said to have, because everything is compared with it."""

from dataclasses import replace

import pytest

from nasframe.report.read import read_run
from nasframe.report.recommend import recommendations, teacher_doubt
from run_directory import make_run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return read_run(make_run(tmp_path_factory.mktemp("run") / "r"))


def with_teacher(report, **metrics):
    models = []
    for row in report.models:
        is_teacher = row.role == "teacher"
        models.append(replace(row, metrics={report.split: metrics}) if is_teacher else row)
    return replace(report, models=models)


def test_a_teacher_below_the_most_frequent_class_is_doubted(report):
    doubt = teacher_doubt(with_teacher(report, accuracy=0.52))
    assert doubt.startswith("The teacher does no better than chance: 52.0 % accuracy on dev, where 'a' for every")
    assert "train a better one first" in recommendations(with_teacher(report, accuracy=0.52))[0].text
    assert teacher_doubt(with_teacher(report, accuracy=0.53)) == ""


@pytest.mark.parametrize("metric", ["mcc", "pearson"])
def test_a_correlation_decides_if_there_is_one(report, metric):
    """Accuracy below that of the largest class is no reason for doubt if rare classes are found."""
    assert "no better than chance" in teacher_doubt(with_teacher(report, accuracy=0.9, **{metric: 0.02}))
    assert teacher_doubt(with_teacher(report, accuracy=0.5, **{metric: 0.4})) == ""


def test_a_good_teacher_is_not_doubted(report):
    assert teacher_doubt(report) == ""
