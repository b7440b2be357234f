"""Budgets as the command line writes them."""

import pytest

from nasframe.errors import UsageError
from nasframe_compress.request import Request, budget_text, read_budgets


@pytest.mark.parametrize(
    ("texts", "budgets"),
    [
        (["50%"], ({"encoder_params": "50%"},)),
        (["12.5 %"], ({"encoder_params": "12.5 %"},)),
        (["latency<=12ms"], ({"latency": "12ms"},)),
        (["params < 10M"], ({"params": "< 10M"},)),
        (["50%,latency<=12 ms"], ({"encoder_params": "50%", "latency": "12 ms"},)),
        (["encoder_params<=40%, macs<=30%", "bits<=50%"], ({"encoder_params": "40%", "macs": "30%"}, {"bits": "50%"})),
        (["50%", "encoder_params<=50%"], ({"encoder_params": "50%"},)),
    ],
)
def test_budgets_are_read(texts, budgets):
    assert read_budgets(texts) == budgets


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("50", r"'50' is no budget\. .*Did you mean '50%'\?"),
        ("latncy<=3ms", r"unknown cost 'latncy'.*Did you mean 'latency'"),
        ("latency<=3 MB", r"'3 MB' is a size"),
        ("latency>=3ms", r"is no budget.*Expected a share such as '50%'"),
        ("50%,40%", r"two bounds for 'encoder_params'"),
        ("150%", r"'150%' is out of range\. Expected more than 0, and at most 100%"),
        ("0%", r"'0%' is out of range"),
        ("", r"is no budget"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused_with_what_was_expected(text, problem):
    with pytest.raises(UsageError, match=f"--budget {text!r}: .*{problem}"):
        read_budgets([text])


def test_all_problems_are_told_at_once():
    with pytest.raises(UsageError) as error:
        read_budgets(["x", "50%", "y"])
    assert str(error.value).count("--budget") == 2


@pytest.mark.parametrize("text", ["50%", "latency<=12ms", "params<10M", "encoder_params<=50%,latency<=12ms"])
def test_a_budget_is_written_as_it_is_read(text):
    (budget,) = read_budgets([text])
    assert budget_text(budget) == text


def test_a_request_comes_back_from_json():
    request = Request("m", "d.csv", text=("a", "b"), budgets=read_budgets(["50%", "macs<=3G"]), seeds=(0, 1))
    assert Request.from_plain(request.plain()) == request
