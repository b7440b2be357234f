"""Optimisers and precision: the import path that documents name."""

from nasframe.training.optim import (
    MOMENTUM,
    autocast,
    average,
    clip,
    finite_outputs,
    keep_freed_memory,
    learning_rate,
    make_optimizer,
    native_bf16,
    non_finite,
    param_groups,
    return_freed_memory,
    seed_torch,
    set_learning_rate,
    total_steps,
)

__all__ = [
    "MOMENTUM",
    "autocast",
    "average",
    "clip",
    "finite_outputs",
    "keep_freed_memory",
    "learning_rate",
    "make_optimizer",
    "native_bf16",
    "non_finite",
    "param_groups",
    "return_freed_memory",
    "seed_torch",
    "set_learning_rate",
    "total_steps",
]
