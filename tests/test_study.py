"""Studies: their table of results, how they are written, what they refuse, how they run."""

import pytest
from run_directory import make_run

from nasframe import study
from nasframe.errors import UsageError
from nasframe.nodes import dump


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A study of two arms and three seeds, of which one arm lacks the last."""
    home = tmp_path_factory.mktemp("study")
    runs = [
        {"arm": arm, "task": "docs", "seed": seed, "run": f"runs/{arm}/seed-{seed}"} for arm in "ab" for seed in (0, 1)
    ]
    for run in runs:
        make_run(home / run["run"], trials=12)
    runs.append({"arm": "b", "task": "docs", "seed": 2, "run": "runs/b/seed-2"})
    make_run(home / "runs/b/seed-2", trials=4, finished=False)
    facts = {"format_version": 1, "study": "x", "compare": {"metric": None, "split": "dev"}, "runs": runs}
    (home / "study.yaml").write_text(dump(facts))
    return home


def test_the_table_of_a_study_has_a_row_for_each_model_of_each_finished_run(results):
    frame = study.collect(results)
    assert list(frame.columns[: len(study.FACTS)]) == list(study.FACTS)
    assert len(frame) == 4 * 8
    assert frame[["arm", "seed"]].drop_duplicates().values.tolist() == [["a", 0], ["a", 1], ["b", 0], ["b", 1]]
    row = frame[(frame["model"] == "best@50%") & (frame["arm"] == "a") & (frame["seed"] == 0)].iloc[0]
    assert (row["role"], row["budget"], row["metric"], row["score"]) == ("winner", "50%", "accuracy", 0.583)
    assert row["encoder_params_relative"] == pytest.approx(row["encoder_params"] / frame["encoder_params"].max())
    assert row["training_macs"] == 420 * 18e9 + 1.6e12
    assert (row["evaluations"], row["cached_stages"], row["cached_seconds"]) == (12, "", 0)
    assert [run["seed"] for run in study.missing(study.settings(results), frame)] == [2]


def test_a_metric_that_no_model_has_leaves_no_rows(results):
    assert study.run_rows(results / "runs/a/seed-0", "mcc") == []
    assert study.run_rows(results / "runs/a/seed-0", split="select") == []
    assert study.run_rows(results / "runs/a/seed-0", "macro_f1")[0]["score"] == pytest.approx(0.614)


def test_a_directory_without_a_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no study here"):
        study.collect(tmp_path)
