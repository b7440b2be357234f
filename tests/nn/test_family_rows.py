"""Rows of one's own: the one in docs/families.md keeps its promises, and a wrong one does not."""

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nasframe import families, registry
from nasframe.errors import UsageError
from nasframe.export.write import export
from nasframe.nn import elastic
from nasframe.nn.elastic import Map
from nasframe.nn.row_family import RowFamily
from nasframe.nn.slices import extract, view
from nasframe.testing import FamilyContract
from nasframe.testing.kit import run_checks
from nasframe.testing.toy import tiny_inputs, tiny_net
from nasframe_basics.width_depth import WidthDepth

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.fixture
def page(monkeypatch):
    """The code of the page, as a plugin that is registered while a test runs."""
    monkeypatch.setattr(elastic, "ROW_SOURCES", [families.rows])
    module = types.ModuleType("families_page")
    module.__file__ = str(PAGE)
    monkeypatch.setitem(sys.modules, "families_page", module)
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), vars(module))
    registry.plugin_manager().register(module, name="families_page")
    yield module
    registry.plugin_manager().unregister(module)


def failing(contract):
    return {outcome.check: outcome.message for outcome in run_checks(contract) if not outcome.passed}


def test_the_row_of_the_page_keeps_its_promises(page):
    assert failing(page.TestMistral) == {}


@pytest.mark.parametrize("family", ["vit", "gpt2", "modernbert"])
def test_built_in_rows_keep_them_too(family):
    class Of(FamilyContract):
        use = "sliceable"

        def net(self):
            return tiny_net(family, layers=2, attn_implementation="eager")

        def inputs(self):
            return {"pixel_values": torch.ones(2, 1, 8, 8)} if family == "vit" else tiny_inputs(batch=2, length=5)

    assert failing(Of) == {}


@pytest.mark.parametrize(
    ("name", "wrong", "check"),
    [
        ("gate", None, "a view is the extracted model"),
        ("key", Map("self_attn.k_proj", "heads"), "a view is the extracted model"),
        ("gate", Map("mlp.gate_proj", "ffn", blocks=2), "reordering keeps the outputs"),
        ("query", Map("self_attn.q_proj", "heads", blocks=2), "removed parts are those whose readers are zero"),
    ],
)
def test_a_wrong_row_is_found(page, name, wrong, check):
    maps = dict(page.MISTRAL.maps)
    if wrong is None:
        del maps[name]
    else:
        maps[name] = wrong
    row = replace(page.MISTRAL, maps=maps)
    registry.plugin_manager().unregister(name="families_page")
    contract = type("Wrong", (page.TestMistral,), {"make": lambda self: RowFamily({"mistral": row})})
    try:
        assert check in failing(contract)
    finally:
        registry.plugin_manager().register(page, name="families_page")


def test_spaces_runs_and_exports_know_the_row(page, tmp_path):
    net = page.TestMistral().net()
    space = WidthDepth(layers=[1, 2], heads=["50%", "100%"], ffn=["25%", "100%"], config=net.config)
    arch = space.domain.smallest()
    small = extract(net, arch)
    assert families.describe(small)["built_by"] == "mistral"
    again = families.build(families.describe(small), small.state_dict())
    inputs = tiny_inputs(batch=2, length=5)
    with torch.no_grad():
        logits = view(net, arch)(**inputs).logits
        torch.testing.assert_close(again(**inputs).logits, logits)
    expected = {"inputs": inputs, "logits": logits}
    report = export(small, None, tmp_path / "small", mode="hetero", expected=expected, arch=arch)
    assert report["verified"] is True
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small", trust_remote_code=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, logits)


def test_two_rows_of_one_type_are_refused(page):
    net = tiny_net()

    class Second:
        @staticmethod
        @registry.hookspecs.hookimpl
        def register_families(register):
            register("again", lambda: RowFamily({"bert": elastic.FAMILIES["bert"]}))

    registry.plugin_manager().register(Second, name="second")
    try:
        with pytest.raises(UsageError, match="both have a row of 'bert'"):
            WidthDepth(config=net.config)
    finally:
        registry.plugin_manager().unregister(name="second")
