from __future__ import annotations

import math
import platform
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasframe.records import TrainOptions
from nasframe.testing.toy import tiny_net
from nasframe.training import optim


def test_biases_and_norms_do_not_decay() -> None:
    net = tiny_net()
    names = {id(p): name for name, p in net.named_parameters()}
    decayed, spared = optim.param_groups(net, 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(name.endswith(".bias") or "LayerNorm" in name for name in (names[id(p)] for p in spared["params"]))
    assert not any(name.endswith(".bias") or "LayerNorm" in name for name in (names[id(p)] for p in decayed["params"]))
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_frozen_and_claimed_parameters_are_left_out() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].weight.requires_grad_(False)
    groups = optim.param_groups(net, 0.1, without=[net[1].bias])
    assert [[tuple(p.shape) for p in group["params"]] for group in groups] == [[(2, 2)], [(2,)]]
    assert groups[1]["params"][0] is net[0].bias


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizers_move_weights(name: str, kind: type) -> None:
    net = nn.Linear(2, 2)
    before = net.weight.detach().clone()
    optimizer = optim.make_optimizer(net, TrainOptions(optimizer=name, learning_rate=0.1))  # type: ignore[arg-type]
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert isinstance(optimizer, kind)
    assert not torch.equal(net.weight, before)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(["linear", "cosine", "constant"]), st.integers(1, 200), st.floats(0, 1))
def test_schedules_rise_to_the_peak_and_never_pass_it(schedule: str, total: int, ratio: float) -> None:
    options = TrainOptions(learning_rate=2.0, warmup_ratio=ratio, schedule=schedule)  # type: ignore[arg-type]
    rates = [optim.learning_rate(options, step, total) for step in range(total)]
    peak = min(math.ceil(ratio * total), total - 1)
    assert all(0 < rate <= 2.0 for rate in rates)
    assert max(rates) == pytest.approx(2.0)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if schedule == "constant":
        assert set(rates[peak:]) == {2.0}


def test_bf16_is_used_where_asked() -> None:
    net = nn.Linear(4, 4)
    for precision, expected in [("fp32", torch.float32), ("bf16", torch.bfloat16)]:
        with optim.autocast(precision, "cpu"):
            assert net(torch.ones(1, 4)).dtype == expected
    with optim.autocast("auto", "cpu"):
        assert (net(torch.ones(1, 4)).dtype == torch.bfloat16) == optim.native_bf16("cpu")


def test_native_bf16_reads_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for able in ({}, {"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_bf16": False}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert optim.native_bf16("cpu") == any(able.values())


@pytest.mark.parametrize("limit", [0.0, 0.5, 100.0])
def test_clip_equals_torchs(limit: float) -> None:
    parameters = [nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(i))) for i in range(3)]
    parameters.append(nn.Parameter(torch.zeros(2)))  # has no gradient
    for parameter in parameters[:3]:
        parameter.grad = parameter.detach().clone()
    copies = [nn.Parameter(p.detach().clone()) for p in parameters[:3]]
    for parameter in copies:
        parameter.grad = parameter.detach().clone()
    expected = nn.utils.clip_grad_norm_(copies, limit or math.inf)
    assert optim.clip(parameters, limit) == pytest.approx(float(expected))
    for mine, its in zip(parameters, copies, strict=False):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-5, atol=1e-6)


def test_clip_leaves_what_is_not_finite() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([math.inf, 1.0])
    assert optim.clip([parameter], 1.0) == math.inf
    assert parameter.grad.tolist() == [math.inf, 1.0]
    assert optim.clip([nn.Parameter(torch.ones(2))], 1.0) == 0.0


def test_seed_torch_repeats_the_noise() -> None:
    with torch.random.fork_rng():
        draws = []
        for _ in range(2):
            optim.seed_torch(2**62 + 1)
            draws.append(torch.rand(3))
        assert torch.equal(*draws)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give memory back by themselves")
def test_freed_memory_stays_with_the_process_until_it_is_returned() -> None:
    """In a process of its own, since the setting lasts: 400 MB are freed, kept, and returned."""
    code = """
import torch
from nasframe.nn import optim

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) // 1024

optim.keep_freed_memory()
blocks = [torch.ones(10 * 2**18) for _ in range(40)]
full = resident()
del blocks
kept = resident()
optim.return_freed_memory()
print(full - kept, full - resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, returned = map(int, done.stdout.split())
    assert kept < 100
    assert returned > 300
