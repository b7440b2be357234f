"""Trainings are fitted to a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe_compress.compose import LEAST_STEPS, Lengths
from nasframe_compress.timing import LEAST, MOST, SLACK, MethodTime, Training, fit_lengths, total_seconds

TEACHER = Training("teacher", 3.0, 100, 0.2, 0.0)


def method(name, epochs, step, fixed=10.0, teacher=TEACHER):
    return MethodTime(name, teacher, [Training("tune", epochs, 100, step, 0.0)], fixed)


def test_a_training_pays_for_its_teacher_in_the_first_epoch_only():
    training = Training("tune", 2.0, 100, 0.5, 0.1)
    assert training.seconds(1.0) == pytest.approx(100 * 0.5 + 100 * 0.4)
    assert training.seconds(0.5) == pytest.approx(100 * 0.5)


def test_a_short_training_still_has_its_least_steps():
    assert Training("tune", 1.0, 100, 1.0, 0.0).seconds(0.01) == LEAST_STEPS


def test_methods_share_their_teacher():
    lengths = {"a": Lengths(), "b": Lengths()}
    both = total_seconds([method("a", 1, 0.1), method("b", 1, 0.1)], lengths, seeds=2, networks=0)
    assert both == pytest.approx(2 * (10 + 10 + 10 + 10 + 60))


@given(st.floats(150, 2000), st.floats(0.5, 8), st.floats(0.5, 8), st.integers(1, 3))
def test_the_time_is_used_and_not_passed(seconds, first, second, seeds):
    times = [method("a", first, 0.1), method("b", second, 0.3)]
    lengths = {"a": Lengths(), "b": Lengths(method=2.0)}
    seconds *= seeds
    try:
        fitted = fit_lengths(times, lengths, seconds, seeds, networks=2)
    except UsageError:
        shortest = {name: Lengths(LEAST, LEAST * length.method) for name, length in lengths.items()}
        assert total_seconds(times, shortest, seeds, 2) > SLACK * seconds
        return
    needed = total_seconds(times, fitted, seeds, 2)
    assert needed <= SLACK * seconds
    # All methods by the same factor, and the teacher never longer than its recipe says.
    assert fitted["b"].method == pytest.approx(2 * fitted["a"].method)
    assert fitted["a"].teacher == pytest.approx(min(1.0, fitted["a"].method))
    is_longest = fitted["a"].method == pytest.approx(MOST)
    assert is_longest or needed >= 0.9 * SLACK * seconds


def test_a_time_that_is_too_short_is_refused_with_the_time_that_is_needed():
    times = [method("a", 1, 0.1)]
    lengths = {"a": Lengths()}
    with pytest.raises(UsageError, match=r"--minutes 1: too short.*Expected --minutes 2 or more") as error:
        fit_lengths(times, lengths, 60.0, 1, 1, spent=50.0)
    assert "took 50.0 s" in str(error.value)
    fit_lengths(times, lengths, 120.0, 1, 1, spent=50.0)
