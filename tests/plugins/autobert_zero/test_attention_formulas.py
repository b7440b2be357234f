"""Which formulas are valid, and that equal ones share a form. Values are compared with formulas computed as written."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nasframe_autobert_zero.domain import PRIMITIVES, ExpressionGraphs, _with_inputs, operations_of
from nasframe_autobert_zero.expression import ARITY, nodes_of, parse, shape_of, text_of
from nasframe_autobert_zero.formulas import FormulaError, canonical, checked
from nasframe_autobert_zero.guard import numerical_fault
from nasframe_autobert_zero.network import computed

ALL = tuple(ARITY)


def inputs(words=5, size=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, 3, words, size, generator=draw, dtype=torch.float64) for name in "qkv"}


def as_written(expression, values):
    """Compute a formula by recursion, independently of the package."""
    if isinstance(expression, str):
        return values[expression]
    operation, *parts = expression
    x, *rest = [as_written(part, values) for part in parts]
    y = rest[0] if rest else None
    d = values["q"].shape[-1]
    return {
        "neg": lambda: -1 * x,
        "transpose": lambda: x.swapaxes(2, 3),
        "scale": lambda: x * d**-0.5,
        "softmax": lambda: x.exp() / x.exp().sum(-1, keepdim=True),
        "logsigmoid": lambda: -(1 + (-x).exp()).log(),
        "softsign": lambda: x / (1 + x.abs()),
        "sqrt": lambda: x**0.5,
        "signed_sqrt": lambda: x.sign() * x.abs() / (x.abs() + 1e-6).sqrt(),  # smoothed at 0, so that it has a slope
        "add": lambda: x + y,
        "matmul": lambda: torch.einsum("bhij,bhjk->bhik", x, y),
        "cosine": lambda: functional.cosine_similarity(x[..., :, None, :], y[..., None, :, :], dim=-1),
        "euclidean": lambda: (x[..., :, None, :] - y[..., None, :, :]).norm(dim=-1),
    }[operation]()


@st.composite
def expressions(draw, kind=None):
    """Draw a formula whose shapes fit, by the domain's own grammar."""
    domain = ExpressionGraphs(1, primitives=ALL)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = kind or draw(st.sampled_from(["[S,d]", "[d,S]", "[S,S]"]))
    depth = draw(st.integers(1, 4))
    expression = None
    while expression is None:  # many have one input only, too many for Hypothesis to filter out
        expression = _with_inputs(domain._grown(kind, depth, rng), rng)
    return expression


def rewritten(expression, rng):
    """Return an equal formula: with signs, transpositions and sums turned round at random."""
    if isinstance(expression, str):
        return expression
    operation, *parts = expression
    new = (operation, *[rewritten(part, rng) for part in parts])
    if operation == "add" and rng.random() < 0.5:
        new = ("add", new[2], new[1])
    if operation == "add" and not isinstance(new[2], str) and new[2][0] == "add":
        new = ("add", ("add", new[1], new[2][1]), new[2][2])
    if operation == "matmul" and rng.random() < 0.5:
        new = ("transpose", ("matmul", ("transpose", new[2]), ("transpose", new[1])))
    if operation == "matmul" and new[0] == "matmul" and rng.random() < 0.5:
        new = ("matmul", ("neg", new[1]), ("neg", new[2]))
    if operation == "softsign" and rng.random() < 0.5:
        new = ("neg", ("softsign", ("neg", new[1])))
    if operation in ("logsigmoid", "softsign") and new[0] == operation and rng.random() < 0.5:
        new = ("transpose", (operation, ("transpose", new[1])))
    if rng.random() < 0.2:
        new = ("neg", ("neg", new))
    return new


@settings(max_examples=150, deadline=None)
@given(expressions(), st.integers(0, 2**32))
def test_equal_formulas_share_a_form(expression, seed):
    other = rewritten(expression, np.random.default_rng(seed))
    assume(len(text_of(other)) < 5000)
    try:
        form = canonical(expression)
    except FormulaError:  # zero for all inputs
        with pytest.raises(FormulaError):
            canonical(other)
        return
    assert canonical(other) == form


@settings(max_examples=150, deadline=None)
@given(expressions())
def test_the_form_is_final_and_computes_the_same(expression):
    try:
        form = canonical(expression)
    except FormulaError:
        return
    assert canonical(form) == form
    assert parse(text_of(form)) == form
    assert shape_of(form) == shape_of(expression)
    before = as_written(expression, inputs())
    after = computed(form, inputs())
    assume(bool(before.isfinite().all()))
    scale = max(1.0, float(before.abs().max()))
    assert float((before - after).abs().max()) < 3e-3 * scale  # a root in a root makes much of a rounding error


@settings(max_examples=100, deadline=None)
@given(expressions("[S,d]"))
def test_what_is_valid_does_not_read_padding(expression):
    """Words have the same result, whatever lies behind them."""
    try:
        text = checked(text_of(expression), 20)
    except FormulaError:
        return
    values = inputs(words=5)
    longer = {name: torch.cat([x, 9 * torch.ones(2, 3, 4, 4, dtype=x.dtype)], 2) for name, x in values.items()}
    is_word = (torch.arange(9) < 5)[None, None, None, :].expand(2, 1, 1, 9)
    short = computed(parse(text), values)
    long = computed(parse(text), longer, is_word)[:, :, :5]
    if bool(short.isfinite().all()):
        torch.testing.assert_close(short, long, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "reason", "fault"),
    [
        ("softmaks(q)", "syntax", "Did you mean 'softmax'"),
        ("matmul(q, k", "syntax", r"'\)' is missing after 'matmul\(q, k'"),
        ("add(q, k) q", "syntax", "'q' follows the formula"),
        ("", "syntax", "a name is missing at the start"),
        ("neg(" * 300 + "q" + ")" * 300, "syntax", "more than 200 brackets"),
        ("matmul(q, k)", "shape", r"matmul: \[S, d\] and \[S, d\]"),
        ("add(q, transpose(k))", "shape", r"add: \[S, d\] and \[d, S\]. Expected equal shapes"),
        ("matmul(q, transpose(k))", "shape", r"the result is \[S, S\]. Expected \[S, d\]"),
        ("matmul(q, matmul(transpose(k), v))", "shape", r"\[d, d\], a sum over all words"),
        ("cosine(q, transpose(k))", "shape", r"cosine: \[d, S\]. Expected \[S, d\] twice"),
        ("softmax(q)", "inputs", "k has no effect"),
        ("add(q, add(k, neg(k)))", "inputs", "k has no effect"),
        ("matmul(matmul(q, transpose(k)), v)", "unnormalised", "no softmax normalised"),
        ("matmul(transpose(softmax(matmul(q, transpose(k)))), v)", "unnormalised", "no softmax"),
        ("matmul(logsigmoid(softmax(matmul(q, transpose(k)))), v)", "unnormalised", "no softmax"),
        ("add(q, neg(q))", "vanishing", "terms cancel"),
        ("add(k, " + "neg(softmax(" * 7 + "q" + "))" * 7 + ")", "size", "15 operations. Expected at most 12"),
    ],
)
def test_what_is_wrong_is_said(text, reason, fault):
    with pytest.raises(FormulaError, match=fault) as error:
        checked(text, 12)
    assert error.value.reason == reason


def test_a_formula_that_doubles_at_each_step_is_refused():
    text = "add(q, k)"
    for _ in range(12):
        text = f"softsign(add({text}, softmax({text})))" if len(text) < 3000 else text
    with pytest.raises(FormulaError, match=r"more than 64 operations"):
        checked(text, 100)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("matmul(softmax(scale(matmul(q, transpose(k)))), v)", ""),
        ("matmul(softmax(scale(matmul(q, transpose(sqrt(k))))), v)", "not finite"),
        # Scores that are the same for all words: k is read, and has no effect.
        ("matmul(softmax(matmul(softmax(q), softmax(transpose(k)))), v)", ""),
        ("softmax(matmul(softmax(matmul(q, transpose(k))), add(q, k)))", ""),
        ("add(q, matmul(softmax(scale(scale(scale(scale(scale(scale(scale(matmul(q, transpose(q)))))))))), k))", ""),
    ],
)
def test_the_guard(text, fault):
    assert numerical_fault(checked(text, 14)) == fault


def test_the_guard_sees_a_gradient_that_vanishes():
    """Values beside numbers that are a million times smaller: √d divides them again and again."""
    small = "k"
    for _ in range(9):
        small = f"scale({small})"
    assert numerical_fault(checked(f"add(q, {small})", 12)) == "vanishing"
    share = 1 / math.sqrt(16) ** 9
    assert share < 1e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_drawn_and_changed_formulas_are_valid(seed):
    rng = np.random.default_rng(seed)
    domain = ExpressionGraphs(2, kernels=[3, 5], ffn=[8, 16], skip=True)
    arch = domain.sample(rng)
    for _ in range(4):
        arch = domain.mutate(arch, rng)
        assert domain.contains(arch)
        assert domain.canonical(arch) == arch
        for layer in arch["layers"]:
            if layer is not None and not layer["mix"].startswith("conv"):
                expression = parse(layer["mix"])
                assert len(nodes_of(expression)) <= domain.most
                assert {node[0] for node in nodes_of(expression)} <= set(PRIMITIVES)
                assert shape_of(expression) == ("words", "features")


def test_places_and_operations():
    domain = ExpressionGraphs(2, kernels=[3], ffn=[8])
    arch = domain.canonical(
        {"layers": [{"mix": "conv3", "ffn": 8}, {"mix": "matmul(softmax(matmul(q, transpose(k))), q)", "ffn": 8}]}
    )
    assert operations_of(arch) == {"1.0": "transpose", "1.1": "matmul", "1.2": "softmax", "1.3": "matmul"}
    drawing = domain.drawing(arch)
    assert drawing.nodes["0.conv"] == "convolution 3"
    assert ("1.2", "1.3") in drawing.edges
    assert drawing.edges[-1] == ("1", "out")


def test_rejected_formulas_are_counted_and_said():
    told = []
    domain = ExpressionGraphs(2, kernels=[3], ffn=[8], report=told.append)
    rng = np.random.default_rng(0)
    while not told:
        domain.formula(rng)
    assert sum(told[0].values()) == 1000
    assert set(told[0]) <= {"shape", "inputs", "size", "unnormalised", "vanishing", "not finite"}
    assert domain.rejected.total() >= 1000


def test_a_bare_set_of_primitives_still_mixes_words():
    domain = ExpressionGraphs(1, primitives=["transpose", "softmax", "matmul"], most=6)
    assert "softmax" in domain.formula(np.random.default_rng(0))
