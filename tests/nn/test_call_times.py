"""The stopwatch, against a clock that is set by hand."""

import pytest
import torch
from torch import nn

from nasframe.nn import timing
from nasframe.nn.timing import timing_of, timings

CPU = torch.device("cpu")


def test_calls_take_turns_and_the_warmup_does_not_count(monkeypatch):
    """Each pass of ``a`` takes as many milliseconds as there were passes, each of ``b`` ten times as many."""
    clock = [0.0]
    order = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def call(name, milliseconds):
        def made():
            order.append(name)
            clock[0] += milliseconds * order.count(name) / 1000

        return made

    times = timings({"a": call("a", 1), "b": call("b", 10)}, [], CPU, repeats=3, warmup=2)
    assert order == ["a", "b"] * 5
    # Passes 3, 4 and 5 count: the quartiles are half-way between them.
    assert times["a"].median == pytest.approx(4.0)
    assert times["b"].median == pytest.approx(40.0)
    assert times["a"].spread == pytest.approx(1.0)


def test_modes_and_threads_are_set_back_even_after_an_error():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    net.train()
    net[1].eval()
    threads = torch.get_num_threads()
    seen = []

    def call():
        seen.append((net.training, torch.get_num_threads(), torch.is_inference_mode_enabled()))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        timings({"": call}, [net], CPU, repeats=1, warmup=0, threads=threads + 1)
    assert seen == [(False, threads + 1, True)]
    assert torch.get_num_threads() == threads
    assert [net.training, net[0].training, net[1].training] == [True, True, False]


def test_one_pass_has_no_spread():
    assert timing_of([0.25]) == timing.Timing(250.0, 0.0)
