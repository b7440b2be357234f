"""A cheap test of a formula: on random numbers, are its values finite, and does it learn from all its inputs?"""

from __future__ import annotations

from functools import lru_cache

from nasframe_autobert_zero.expression import inputs_of, parse

HEADS, LENGTH, HEAD_SIZE = 2, 8, 16
"""Heads, words and columns of the random numbers."""
LEAST = 1e-4
"""The least norm of an input's gradient, as a share of the norm of the output's gradient."""


@lru_cache(maxsize=200_000)
def numerical_fault(formula: str) -> str:
    """Return what is wrong with the numbers of a formula: ``not finite``, ``vanishing`` or an empty text.

    Args:
        formula: a valid formula.

    >>> numerical_fault("matmul(softmax(matmul(q, transpose(k))), q)")
    ''
    >>> numerical_fault("matmul(softmax(matmul(q, transpose(sqrt(k)))), q)")  # of negative numbers
    'not finite'
    """
    import torch  # when a formula is first tried: reading a recipe needs none

    from nasframe_autobert_zero.network import computed

    draw = torch.Generator().manual_seed(0)
    expression = parse(formula)
    inputs = {}
    for name in sorted(inputs_of(expression)):
        values = torch.randn(1, HEADS, LENGTH, HEAD_SIZE, generator=draw, device="cpu")
        inputs[name] = values.requires_grad_()
    with torch.enable_grad():
        output = computed(expression, inputs)
        direction = torch.randn(output.shape, generator=draw, device="cpu")
        gradients = torch.autograd.grad(output, list(inputs.values()), direction, allow_unused=True)
    if not bool(output.isfinite().all()):
        return "not finite"
    for gradient in gradients:
        if gradient is None:
            return "vanishing"
        share = float(gradient.norm() / direction.norm())  # (Z6)
        if not share < float("inf"):
            return "not finite"
        if share < LEAST:
            return "vanishing"
    return ""
