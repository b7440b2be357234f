"""The network that AutoBERT-Zero found, as the paper's figure shows it (arXiv 2107.07445).

Convolutions and attention alternate. Every attention is Z = softmax(scale(A)) B with A and B of its own. The figure's
``sqrt`` of K in the last two is ambiguous: it may be the root, or the division by √d as an unofficial port reads it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Reading: TypeAlias = Literal["scale", "sqrt", "signed_sqrt"]
"""How the figure's ``sqrt`` is read: x / √d, √x, or sign(x) √|x|."""
READINGS: tuple[Reading, ...] = get_args(Reading)

KERNELS = (65, 9, 3, 7, 7, 3)
"""The convolutions of the odd layers, counted from 1."""


def attention(a: str, b: str) -> str:
    """Return the formula of a layer: softmax(scale(A)) B.

    >>> attention("matmul(q, transpose(k))", "v")
    'matmul(softmax(scale(matmul(q, transpose(k)))), v)'
    """
    return f"matmul(softmax(scale({a})), {b})"


def formulas(reading: Reading = "scale") -> list[str]:
    """Return the formulas of the even layers, from the second to the twelfth.

    Args:
        reading: of the figure's ``sqrt``.
    """
    second = "matmul(q, neg(transpose(logsigmoid(neg(k)))))"
    fourth = "matmul(q, neg(transpose(logsigmoid(add(logsigmoid(q), add(q, k))))))"
    sixth = "matmul(q, neg(transpose(logsigmoid(k))))"
    tenth = f"matmul(q, transpose(add({reading}(k), add(softsign(scale(softsign(k))), v))))"
    twelfth = f"matmul(q, transpose(add({reading}(k), v)))"
    return [
        attention(second, "add(q, k)"),
        attention(fourth, "q"),
        attention(sixth, "q"),
        attention(sixth, "q"),
        attention(tenth, "v"),
        attention(twelfth, "v"),
    ]


def mixes(reading: Reading = "scale") -> list[str]:
    """Return what each of the twelve layers mixes words with.

    >>> mixes()[0], len(mixes())
    ('conv65', 12)
    """
    layers = []
    for kernel, formula in zip(KERNELS, formulas(reading), strict=True):
        layers += [f"conv{kernel}", formula]
    return layers
