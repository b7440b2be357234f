"""Trainings are fitted to a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.records import LedgerEntry
from nasframe.store import RunStore
from nasframe_compress.compose import FULL, LEAST_STEPS, Effort, Lengths
from nasframe_compress.methods import find_method, stage_name
from nasframe_compress.rehearsal import (
    STEPS,
    Measured,
    SampledTask,
    _laps,
    _refuse_other_tasks,
    _training,
    shortened,
    step_passes,
)
from nasframe_compress.timing import (
    EVALUATION_SHARE,
    EXPORT_SECONDS,
    LEAST,
    LEAST_DEV,
    LEAST_SELECT,
    MOST,
    REPORT_SECONDS,
    SLACK,
    Evaluations,
    MethodTime,
    SplitSizes,
    Surroundings,
    Training,
    fit,
    total_seconds,
)

TEACHER = Training("teacher", 3.0, 100, 0.2, 0.0)
NOTHING = Surroundings(seeds=1, networks=0, slowdown=0.0)
SIZES = SplitSizes(train=3200, select=1000, dev=4000)


def around(seeds=1, networks=0):
    """Only what the methods themselves take."""
    return Surroundings(seeds=seeds, networks=networks, slowdown=0.0)


NONE = Evaluations()


def method(name, epochs, step, fixed=10.0, teacher=TEACHER, evaluations=NONE):
    return MethodTime(name, teacher, [Training("tune", epochs, 100, step, 0.0)], fixed, evaluations)


def test_a_training_pays_for_its_teacher_in_the_first_epoch_only():
    training = Training("tune", 2.0, 100, 0.5, 0.1)
    assert training.seconds(1.0) == pytest.approx(100 * 0.5 + 100 * 0.4)
    assert training.seconds(0.5) == pytest.approx(100 * 0.5)


def test_a_short_training_still_has_its_least_steps():
    assert Training("tune", 1.0, 100, 1.0, 0.0).seconds(0.01) == LEAST_STEPS


def test_a_training_that_keeps_its_best_weights_is_measured_once_an_epoch():
    training = Training("teacher", 2.0, 100, 0.5, 0.0, evaluation_seconds=7.0)
    assert training.seconds(1.0) == pytest.approx(200 * 0.5 + 2 * 7.0)
    assert training.seconds(1.5, select=0.5) == pytest.approx(300 * 0.5 + 3 * 3.5)


def test_methods_share_their_teacher():
    lengths = {"a": Lengths(), "b": Lengths()}
    both = total_seconds([method("a", 1, 0.1), method("b", 1, 0.1)], lengths, around(seeds=2))
    assert both == pytest.approx(2 * (10 + 10 + 10 + 10 + 60))


def test_starts_reports_and_exports_take_time_and_more_on_a_busy_machine():
    busy = Surroundings(seeds=2, networks=3, start=4.0, once=9.0, slowdown=2.0)
    assert busy.seconds(runs=4) == pytest.approx(9 + 4 * (4 + 2 * REPORT_SECONDS) + 3 * 2 * EXPORT_SECONDS)


def test_what_is_measured_is_the_sum_of_its_parts():
    whole = Evaluations(select=20, dev=80, search=240, trials=24, probes=16)
    assert whole.seconds(FULL) == 20 + 80 + 240 + 16
    # A quarter of select, half of dev, 6 of 24 trials on that quarter, an eighth of the batches.
    assert whole.seconds(Effort(0.25, 0.5, 0.25, 0.125)) == 5 + 40 + 240 / 4 / 4 + 2


def test_never_less_is_measured_than_makes_sense():
    effort = SIZES.effort(0.0)
    assert effort.select * SIZES.select == pytest.approx(LEAST_SELECT)
    assert effort.dev * SIZES.dev == pytest.approx(LEAST_DEV)
    own_dev = SplitSizes(train=100, select=50, dev=4000, cuts_dev=False).effort(0.0)
    assert (own_dev.select, own_dev.dev) == (1.0, 1.0)  # there are fewer than the least; a table is not cut


@given(st.floats(150, 2000), st.floats(0.5, 8), st.floats(0.5, 8), st.integers(1, 3), st.floats(0, 500))
def test_the_time_is_used_and_not_passed(seconds, first, second, seeds, measuring):
    evaluations = Evaluations(select=measuring, dev=measuring, search=measuring, trials=24, probes=measuring)
    times = [method("a", first, 0.1, evaluations=evaluations), method("b", second, 0.3)]
    lengths = {"a": Lengths(), "b": Lengths(method=2.0)}
    seconds *= seeds
    try:
        fitted = fit(times, lengths, seconds, around(seeds), SIZES)
    except UsageError:
        shortest = {name: Lengths(LEAST, LEAST * length.method) for name, length in lengths.items()}
        assert total_seconds(times, shortest, around(seeds), SIZES.effort(0.0)) > SLACK * seconds
        return
    needed = total_seconds(times, fitted.lengths, around(seeds), fitted.effort)
    assert needed == pytest.approx(fitted.seconds)
    assert needed <= SLACK * seconds
    # All methods by the same factor, and the teacher never longer than its recipe says.
    longer = fitted.lengths
    assert longer["b"].method == pytest.approx(2 * longer["a"].method)
    assert longer["a"].teacher == pytest.approx(min(1.0, longer["a"].method))
    is_longest = longer["a"].method == pytest.approx(MOST)
    is_shortest = longer["a"].method == pytest.approx(LEAST)
    assert is_longest or is_shortest or needed >= 0.9 * SLACK * seconds
    # Evaluations are cut down only where they would take too large a part.
    if evaluations.seconds(FULL) * seeds <= EVALUATION_SHARE * SLACK * seconds and not is_shortest:
        assert fitted.effort == FULL


def test_evaluations_are_cut_to_their_part_of_the_time():
    many = Evaluations(select=100, dev=200, search=1200, trials=24, probes=50)
    times = [method("a", 4, 0.1, fixed=0.0, teacher=None, evaluations=many)]
    fitted = fit(times, {"a": Lengths()}, 1000.0, NOTHING, SIZES)
    assert fitted.effort.trials < 1
    measuring = many.seconds(fitted.effort)
    assert 0.9 * EVALUATION_SHARE * SLACK * 1000 <= measuring <= EVALUATION_SHARE * SLACK * 1000
    # What is left is for training.
    assert fitted.seconds - measuring == pytest.approx(times[0].trainings[0].seconds(fitted.lengths["a"].method))


def test_a_time_that_is_too_short_is_refused_with_the_time_that_is_needed():
    times = [method("a", 1, 0.1)]
    lengths = {"a": Lengths()}
    with pytest.raises(UsageError, match=r"--minutes 1: too short.*Expected --minutes 2 or more") as error:
        fit(times, lengths, 60.0, around(), SIZES, spent=50.0)
    assert "took 50.0 s" in str(error.value)
    fit(times, lengths, 120.0, around(), SIZES, spent=50.0)


class Task:
    """Measures nothing, and knows how many examples it was asked for."""

    sizes = {"select": 320, "dev": 20}  # noqa: RUF012

    def __init__(self):
        self.asked = []

    def evaluate(self, forward, split, examples=None):
        self.asked.append(examples)
        return split


def test_a_rehearsal_measures_on_few_examples_and_counts_all():
    inner = Task()
    task = SampledTask(inner)
    task.stage = "choose"
    assert task.sizes == inner.sizes
    assert task.evaluate(None, "select") == "select"
    task.evaluate(None, "select", 64)
    task.evaluate(None, "dev")
    assert inner.asked == [8, 8, 40, 8, 40, 8, 20]  # the first time once more, as it also imports
    assert [(entry.split, entry.asked, entry.taken) for entry in task.measured] == [
        ("select", 320, 40), ("select", 64, 40), ("dev", 20, 20)
    ]  # fmt: skip


def test_what_every_measurement_takes_is_not_multiplied_by_the_examples():
    fixed, of_example = 0.3, 0.01
    measured = Measured(
        "choose", "dev", seconds=fixed + 40 * of_example, asked=800, taken=40, few_seconds=fixed + 8 * of_example, few=8
    )
    assert measured.whole_seconds == pytest.approx(fixed + 800 * of_example)


def test_on_a_busy_machine_an_example_still_takes_some_time():
    interrupted = Measured("choose", "dev", seconds=0.4, asked=800, taken=40, few_seconds=2.0, few=8)
    assert interrupted.whole_seconds == pytest.approx(0.4 + 760 * 0.5 * 0.01)


def test_a_split_with_few_examples_takes_what_it_took():
    small = Measured("choose", "dev", seconds=0.2, asked=8, taken=8, few_seconds=0.3, few=8)
    assert small.whole_seconds == pytest.approx(0.2)


def test_a_rehearsal_has_few_steps_and_trains_the_teacher_for_one_method():
    stages = [
        {"train": {"save_as": "teacher", "epochs": 3, "keep": "best"}},
        {"transform": {"use": "rewire", "score": "taylor"}},
        {"search": {"trials": 24, "examples": 100}},
        {"evaluate": {"split": "dev"}},
    ]
    first = shortened(stages, {"stages.search.examples": 8}, is_first=True)
    assert first[0]["train"]["max_steps"] == 5
    assert first[0]["train"]["keep"] == "best"
    assert first[1]["transform"]["batches"] == 1
    assert first[2]["search"] == {"trials": 2, "finalists": 1}
    assert first[3]["evaluate"] == {"split": "dev"}
    later = shortened(stages, {}, is_first=False)
    assert later[0]["train"]["max_steps"] == 1
    assert "keep" not in later[0]["train"]
    assert later[3]["evaluate"]["costs"] == []
    assert stages[1]["transform"] == {"use": "rewire", "score": "taylor"}


def test_the_passes_of_a_step():
    assert step_passes({}, 0.5) == 3
    assert step_passes({"models": ["best@*"], "modifiers": [{"use": "kd", "teacher": "teacher"}]}, 0.5) == 2.5


def test_a_stage_without_a_place_for_modifiers_has_no_stopwatch_and_its_own_batches():
    puzzle = find_method("puzzle")
    stages = {stage_name(stage): next(iter(stage.values())) for stage in shortened(puzzle.stages, puzzle.smoke, True)}
    assert "modifiers" not in stages["library"]
    assert "batch_size" not in stages["library"]  # with fewer examples, steps would seem shorter than they are
    assert stages["library"]["max_steps"] == STEPS
    assert stages["uptraining"]["modifiers"][-1] == {"use": "stopwatch"}


def test_steps_without_a_stopwatch_have_the_time_of_the_ledger(tmp_path):
    store = RunStore(tmp_path / "run", create=True, recipe="nasframe: 1\n")
    store.start_stage("library", 0, "train")
    entries = [LedgerEntry("student", steps=4, seconds=6.0), LedgerEntry("teacher", steps=5, seconds=2.0)]
    store.add_ledger("library", [*entries, LedgerEntry("evaluation", evaluations=9, seconds=50.0)])
    assert _laps(store) == {"library": [[2.0, 2.0, 2.0]]}  # of four steps the first one has no time
    store.close()


def test_a_training_counted_in_steps_has_as_many():
    training = _training({"train": {"name": "language", "max_steps": 600}}, [[0.5]], 320, 0.1, 2.0, [])
    assert training.epochs * training.steps_in_epoch == pytest.approx(600)


def test_methods_with_a_task_of_their_own_cannot_be_fitted_to_a_time():
    _refuse_other_tasks([find_method("puzzle"), find_method("adabert")])
    with pytest.raises(UsageError, match="--minutes: nas_bert also trains for a task of its own"):
        _refuse_other_tasks([find_method("puzzle"), find_method("nas_bert")])
