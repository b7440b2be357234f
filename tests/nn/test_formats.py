from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.nn import formats
from nasframe.nn.blueprint import blueprint, load
from nasframe.nn.factorize import factorize_embedding
from nasframe.nn.formats import Format, encoder_matrices, note, parse_format, record_of, saved_name, settle, shown
from nasframe.nn.patterns import Pattern, project
from nasframe.nn.quantize import fits_grid, levels
from nasframe.nn.rewire import rewire
from nasframe.nn.slices import extract
from nasframe.nn.storage import account, stored_bits, summary
from nasframe.testing.toy import tiny_net

forms = st.tuples(st.sampled_from([32, 8, 4, 3, 2]), st.sampled_from([(1, 1), (2, 4), (1, 4), (4, 8), (1, 2)])).map(
    lambda pair: Format(pair[0], *pair[1])
)


def compressed(family: str = "bert") -> Any:
    net, form = tiny_net(family), Format(8, 2, 4)
    for name, module in encoder_matrices(net):
        with torch.no_grad():
            module.weight.copy_(shown(module.weight, form))
        note(net, name, **form._asdict())
    return net


@settings(deadline=None, max_examples=40)
@given(forms, st.integers(0, 50))
def test_a_shown_matrix_is_what_its_format_says(form: Format, seed: int) -> None:
    weight = torch.randn(4, 24, generator=torch.Generator().manual_seed(seed))
    found = shown(weight, form)
    row = formats.inspect({"w": found}, {"w": form})["w"]
    assert (row["violations"], row["rows_off_grid"]) == (0, 0)
    assert row["zeros"] >= 1 - form.n / form.m
    assert torch.all(found[project(weight, form.pattern) == 0] == 0)
    assert parse_format(str(form)) == form
    torch.testing.assert_close(shown(found, form), found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_gradient_reaches_what_the_pattern_keeps(bits: int) -> None:
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    shown(weight, Format(bits, 2, 4)).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, (project(weight, Pattern(2, 4)) != 0).float())


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_rows_off_every_grid_are_found(bits: int) -> None:
    draw = torch.Generator().manual_seed(0)
    end = levels(bits)
    rows = torch.randint(-end, end + 1, (5, 32), generator=draw) * torch.tensor([[0.3], [1e-4], [7.0], [0.0], [1.0]])
    assert fits_grid(rows, bits).all()
    cut = torch.where(rows.abs() == rows.abs().amax(1, keepdim=True), 0.0, rows)  # the largest entries are gone
    assert fits_grid(cut, bits).all()
    rows[2, 3] += 1.7
    assert fits_grid(rows, bits).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("bits", [2, 3, 5, 8, 11, 12, 13, 16])
def test_what_is_rounded_is_seen_to_be_on_its_grid_or_is_no_format(bits: int) -> None:
    weight = torch.randn(400, 384, generator=torch.Generator().manual_seed(0)) * 0.04
    try:
        form = parse_format(f"int{bits}")
    except UsageError:
        assert bits > 12
        return
    assert fits_grid(shown(weight, form), bits).all()
    assert not fits_grid(weight, bits).any()


@pytest.mark.parametrize(
    "text", ["int0", "int1", "int13", "int17", "int", "fp16", "2:4", "5:4 int8", "0:4 int8", "8", ""]
)
def test_what_is_no_format_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Expected"):
        parse_format(text)


@settings(deadline=None, max_examples=40)
@given(forms, st.integers(1, 9), st.integers(1, 40))
def test_bits_are_counted_weight_by_weight(form: Format, rows: int, columns: int) -> None:
    weights = indices = 0
    for _ in range(rows):
        for start in range(0, columns, form.m):
            for _ in range(form.n):
                weights += form.bits
                indices += math.ceil(math.log2(form.m)) if form.n < form.m else 0
            assert start < columns
    found = stored_bits(rows, columns, form)
    assert tuple(found) == (weights, indices, 32 * rows if form.bits < 32 else 0)
    assert found.total() - found.total(indices=False) == indices


@pytest.mark.parametrize(("form", "saved", "plain"), [("2:4 int8", 0.84375, 0.875), ("2:4 int4", 0.90625, 0.9375)])
def test_the_published_ratios(form: str, saved: float, plain: float) -> None:
    found = stored_bits(768, 3072, parse_format(form))._replace(scales=0)
    assert 1 - found.total() / (32 * 768 * 3072) == saved
    assert 1 - found.total(indices=False) / (32 * 768 * 3072) == plain


def test_the_account_adds_up() -> None:
    net = compressed()
    found = account(net)
    assert found["matrices_fp32"] == 32 * 3 * (4 * 32 * 32 + 2 * 32 * 64)
    assert found["weights"] * 8 == found["matrices_fp32"]
    assert found["indices"] * 4 == found["weights"]
    assert found["scales"] == 32 * 3 * (5 * 32 + 64)
    everything = found["matrices_fp32"] + found["encoder_rest"] + found["outside_fp32"]
    assert everything == 32 * sum(p.numel() for p in net.parameters())
    assert found["outside"] == found["outside_fp32"]
    note(net, "embeddings.word_embeddings", bits=8)
    assert account(net)["outside_fp32"] - account(net)["outside"] == 97 * 32 * 24 - 97 * 32
    rank = factorize_embedding(tiny_net(), 4)
    note(rank, "embeddings.word_embeddings.table", bits=8)
    assert account(rank)["outside_fp32"] - account(rank)["outside"] == 97 * 4 * 24 - 97 * 32


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_record_goes_through_blueprint_slices_and_files(family: str) -> None:
    net = compressed(family)
    sizes = blueprint(net)
    assert len(sizes["quantised"]) == 18
    again = load(net.config.to_dict(), sizes, net.state_dict())
    assert blueprint(again) == sizes
    small = extract(net, {"layers": [0, 2], "heads.2": 3, "ffn.2": 24})
    record = record_of(small)
    assert {name.partition(".")[0] for name in record} == {"0", "1"}
    found = summary(formats.matrices(small, record), record, account(small))
    assert (found["violations"], found["rows_off_grid"], found["missing"]) == (0, 0, 0)
    assert record_of(settle(small)) == record
    assert all(saved_name(net, name) in net.state_dict() for name in record_of(net))
    assert "quantised" not in blueprint(tiny_net(family))


def test_what_is_no_longer_true_leaves_the_record() -> None:
    net = compressed()
    rewire(net, {"ffn": {0: torch.randperm(64, generator=torch.Generator().manual_seed(0))}})
    with torch.no_grad():
        weight = dict(encoder_matrices(net))["1.output.dense"].weight
        weight[0, weight[0].nonzero()[0]] += 0.123
        dict(encoder_matrices(net))["2.output.dense"].weight.copy_(torch.randn(32, 64))
    record = record_of(settle(net))
    assert record["0.output.dense"] == Format(8)  # columns were reordered: no groups are left, but the grid is
    assert record["0.intermediate.dense"] == Format(8, 2, 4)
    assert record["1.output.dense"].bits == 32
    assert "2.output.dense" not in record
    found = summary(formats.matrices(net, record), record, account(net))
    assert (found["violations"], found["rows_off_grid"]) == (0, 0)
