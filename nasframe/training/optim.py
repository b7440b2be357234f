"""The parts that every training loop shares: optimiser, schedule, precision, averaging over processes, clipping."""

from __future__ import annotations

import ctypes
import functools
import math
import platform
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from nasframe.errors import RunError, UsageError
from nasframe.interfaces import TrainJob
from nasframe.nn.outputs import tensors_of
from nasframe.records import TrainOptions

MOMENTUM = 0.9  # of SGD; no recipe changes it


def param_groups(net: nn.Module, weight_decay: float, without: Iterable[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: matrices, which decay, and vectors, which do not.

    Args:
        net: the network.
        weight_decay: decay of matrices; vectors (biases, normalisation) get none.
        without: parameters that a modifier optimises itself.

    Returns:
        Groups for a torch optimiser; an empty group is left out.

    >>> [group["weight_decay"] for group in param_groups(nn.Linear(2, 2), 0.01)]
    [0.01, 0.0]
    """
    excluded = {id(parameter) for parameter in without}  # by identity: tensors compare element by element
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in net.parameters():
        if not parameter.requires_grad or id(parameter) in excluded:
            continue
        if parameter.ndim > 1:
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    groups: list[dict[str, Any]] = []
    if matrices:
        groups.append({"params": matrices, "weight_decay": weight_decay})
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})
    return groups


def make_optimizer(
    net: nn.Module, options: TrainOptions, without: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Return AdamW in its fused form, or SGD with momentum 0.9.

    SGD is not fused: the fused form needs a momentum for every parameter as soon as one has it, and parameters of
    layers that were left out of all steps so far have none.

    Args:
        net: the network, already on its device.
        options: ``optimizer``, ``learning_rate`` and ``weight_decay`` are read.
        without: parameters that a modifier optimises itself.
    """
    groups = param_groups(net, options.weight_decay, without)
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)


def total_steps(job: TrainJob, epoch: int) -> int:
    """Return the number of optimiser steps of a stage.

    Args:
        job: the stage; ``max_steps`` wins if both it and ``epochs`` are given.
        epoch: steps in an epoch.

    Raises:
        RunError: there is no training data.
        UsageError: the options do not say how long to train.
    """
    if epoch == 0:
        raise RunError(f"stage {job.stage!r}: the task has no training data. Expected at least one batch.")
    if job.options.max_steps is not None:
        return job.options.max_steps
    if job.options.epochs is None:
        raise UsageError(f"stage {job.stage!r}: how long to train is not said. Expected epochs or max_steps.")
    return max(1, round(job.options.epochs * epoch))


def learning_rate(options: TrainOptions, step: int, total: int) -> float:
    """Return the rate of optimiser step ``step`` (from 0) of ``total``: a linear rise, then the schedule.

    >>> options = TrainOptions(learning_rate=1.0, warmup_ratio=0.5)
    >>> [learning_rate(options, step, 4) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = math.ceil(options.warmup_ratio * total)
    if step < warmup:  # step + 1: a first step at rate 0 would be wasted
        return options.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    match options.schedule:
        case "linear":
            factor = 1 - progress
        case "cosine":
            factor = (1 + math.cos(math.pi * progress)) / 2
        case _:
            factor = 1.0
    return options.learning_rate * factor


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def native_bf16(device: torch.device | str) -> bool:
    """Tell whether a device multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX on a CPU)."""
    kind = torch.device(device).type
    if kind == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.8
            return False
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def autocast(precision: str, device: torch.device | str) -> AbstractContextManager[Any]:
    """Return a context in which matrix products run in the chosen precision.

    Args:
        precision: ``fp32``, ``bf16``, or ``auto``: bfloat16 if :func:`native_bf16` says yes.
        device: where the network lies.
    """
    # Without hardware for it, a CPU emulates bfloat16 and is slower than in float32.
    enabled = precision == "bf16" or (precision == "auto" and native_bf16(device))
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks for the next step; with other C libraries it does nothing.

    By default glibc returns the memory of gradients and activations to the system, and each step has to fault all of
    their pages in again. That takes up to a quarter of a training step on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: below it, blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: free memory at the heap's end stays


def return_freed_memory() -> None:
    """Return the memory that :func:`keep_freed_memory` kept to the system, for a process that goes on."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def seed_torch(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed the generators that dropout on a device draws from; seeding every back-end would take longer."""
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(seed)


def average(tensors: Sequence[torch.Tensor], processes: int) -> None:
    """Average tensors over the processes, in place; every process passes the same shapes in the same order."""
    if processes == 1:
        return
    # All are sent before the first is waited for, so that the transfers overlap.
    waiting = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work, tensor in zip(waiting, tensors, strict=True):
        work.wait()
        tensor /= processes


def non_finite(net: nn.Module) -> list[str]:
    """Name the parameters of a network that hold an infinity or NaN.

    >>> layer = nn.Linear(2, 2)
    >>> layer.bias.data[0] = math.nan
    >>> non_finite(layer)
    ['bias']
    """
    names = []
    for name, parameter in net.named_parameters():
        if not torch.isfinite(parameter).all():
            names.append(name)
    return names


def finite_outputs(outputs: Any) -> bool:
    """Tell whether a network's logits are finite numbers; without logits, whether all numbers in its outputs are."""
    logits = getattr(outputs, "logits", None)
    if logits is not None:
        return bool(torch.isfinite(logits).all())
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(outputs).values())


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a norm over all of them, in place.

    Args:
        parameters: those without a gradient do not count.
        max_norm: 0 leaves the gradients as they are.

    Returns:
        The norm before. If it is not finite, the gradients are left alone.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients))
    # Scaling by an infinite norm would turn gradients into 0 or NaN and hide the divergence from the loop.
    if 0 < max_norm < norm < math.inf:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm
