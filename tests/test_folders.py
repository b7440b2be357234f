"""Folders of models: names that load without warnings, one for each model."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.dynamic_module_utils import _sanitize_module_name

import nasframe as nf
from nasframe.errors import RecipeError
from nasframe.folders import folder_name, model_folder, shared_folder
from nasframe.recipe.names import name_fault


@given(st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=,@% <>-]{0,40}"), fullmatch=True))
def test_every_name_of_a_model_gives_a_module_that_python_can_import(name):
    if name_fault(name.replace(" ", "_").replace("<", "_").replace(">", "_"), rich=True):
        return
    assert _sanitize_module_name(folder_name(name)).isidentifier()


@given(st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}[A-Za-z0-9]"), fullmatch=True))
def test_a_name_that_loads_as_it_is_stays(name):
    assert folder_name(name) in (name, f"{name}-model")


def test_the_folder_of_an_earlier_version_is_found(tmp_path):
    assert model_folder(tmp_path, "best@50%") == tmp_path / "models" / "best-50"
    (tmp_path / "models" / "best@50%").mkdir(parents=True)
    assert model_folder(tmp_path, "best@50%") == tmp_path / "models" / "best@50%"


def test_two_models_never_share_a_folder():
    assert shared_folder(["teacher", "best@50%", "best@30%"]) is None
    assert shared_folder(["teacher", "best@50%", "best-50"]) == ("best@50%", "best-50")
    assert shared_folder(["../up", "../up"]) is None  # which has a fault of its own


def test_a_recipe_whose_models_would_share_a_folder_is_refused():
    changes = ["stages.teacher.save_as=best-50"]
    with pytest.raises(RecipeError, match="'best-50' and 'best@50%' would share a folder"):
        nf.resolve(nf.load_recipe("quickstart", changes))
