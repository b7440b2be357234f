"""Before a run, only plugins that say so are given a network's outline; all others see what a run gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasframe.cli.check import problems_of
from nasframe.errors import UsageError
from nasframe.nn.elastic import FAMILIES
from nasframe.outline import sizes_suffice
from nasframe.recipe.resolve import check_recipe
from nasframe.testing.toy import tiny_config, tiny_net, tiny_tokenizer
from nasframe.weights import quiet

PLUGIN = """
from nasframe_basics.width_depth import WidthDepth
from nasframe_basics.estimators import Counted
from nasframe_basics.latency import Latency
from nasframe_basics.package_docs import package_docs

import nasframe
import nasframe.interfaces
from nasframe.errors import UsageError


def told(what):
    names = ", ".join(cls.__name__ for cls in type(what).__mro__)
    raise UsageError(f"was given {names}")


class Space(WidthDepth):
    def __init__(self, layers=None, config=None):
        if config is not None:
            told(config)
        super().__init__(layers, config=config)


class Cost(Latency):
    def validate(self, net):
        told(net)


class Sizes(Cost):
    sizes_suffice = True


class Bounded(Counted):
    def table(self, space, net):
        told(net)


def bounded():
    return Bounded("parameters", lambda net: None)


class Transform:
    reshapes = False

    def __call__(self, work):
        return work

    def validate(self, net):
        told(net)


class Modifier(nasframe.interfaces.Modifier):
    def validate(self, job):
        told(job.net)


def task(tokenizer=None, max_length: int = 8):
    return package_docs(max_length=max_length, tokenizer=tokenizer)


task.validate = lambda options, tokenizer: told(tokenizer)


@nasframe.hookimpl
def register_spaces(register):
    register("probe", Space)


@nasframe.hookimpl
def register_estimators(register):
    register("probe_cost", Cost)
    register("probe_sizes", Sizes)
    register("probe_bounded", bounded)


@nasframe.hookimpl
def register_transforms(register):
    register("probe_transform", Transform)


@nasframe.hookimpl
def register_modifiers(register):
    register("probe_modifier", Modifier)


@nasframe.hookimpl
def register_tasks(register):
    register("probe_task", task)
"""

RECIPE = """
nasframe: 1
plugins: [probe.py]
model: ./encoder
task: {use: package_docs, max_length: 8}
space: {use: width_depth, layers: [1, 2], heads: [2, 4], ffn: [16, 64]}
estimators: {latency: {length: 8}}
budgets: {encoder_params: [50%], macs: ["75%"]}
stages:
  - train: {max_steps: 1, sampler: random}
  - search: {trials: 2}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("outline")
    with quiet():
        tiny_net().base_model.save_pretrained(home / "encoder")
    tiny_tokenizer().save_pretrained(home / "encoder")
    (home / "probe.py").write_text(PLUGIN)
    (home / "recipe.yaml").write_text(RECIPE)
    return home


def problem(home: Path, *overrides: str) -> str:
    """Return the one problem of the recipe."""
    (found,) = check_recipe(home / "recipe.yaml", overrides)[1]
    return found.text


def test_the_recipe_is_sound(home: Path) -> None:
    assert check_recipe(home / "recipe.yaml")[1] == []


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ("space={use: probe, layers: [1]}", "PreTrainedConfig"),
        ("+stages.search.space={use: probe, layers: [1]}", "PreTrainedConfig"),
        ("estimators.latency={use: probe_cost, length: 8}", "Module"),
        ("task={use: probe_task}", "PreTrainedTokenizerBase"),
        ("stages=[{transform: {use: probe_transform}}]", "Module"),
        ("stages=[{train: {max_steps: 1, modifiers: [probe_modifier]}}]", "Module"),
        ("estimators.latency={use: probe_sizes, length: 8}", "Outline"),
    ],
)
def test_what_plugins_are_given(home: Path, change: str, given: str) -> None:
    text = problem(home, change)
    assert "was given" in text
    assert given in text.removesuffix(".").split("was given ")[1].split(", ")


def test_a_bounded_cost_of_another_package_counts_on_the_network(home: Path) -> None:
    with pytest.raises(UsageError, match="was given BertForSequenceClassification"):
        problems_of(str(home / "recipe.yaml"), ["budgets={probe_bounded: 50%}"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("task.max_length=41", "41 is more than the network can read. Expected at most 40."),
        ("estimators.latency.length=41", "41 tokens are more than the network can read. Expected at most 40."),
        ("space.heads=[5]", "[5] are not all sizes of the network"),
        ("stages.search.within={layers: [3]}", "layers"),
        ("budgets={encoder_params: 1%}", "The nearest reachable is encoder_params"),
        ("model={use: hf, path: ./encoder, labels: [a, b]}", "brings no classification head"),
    ],
)
def test_built_in_plugins_refuse_by_sizes_what_they_refuse_by_the_network(
    home: Path, monkeypatch: pytest.MonkeyPatch, change: str, words: str
) -> None:
    by_sizes = problems_of(str(home / "recipe.yaml"), [change])
    monkeypatch.setattr("nasframe_basics.models.HF.outline", lambda model: None)
    assert by_sizes == problems_of(str(home / "recipe.yaml"), [change])
    assert len(by_sizes) == 1
    assert words in by_sizes[0].text


def test_a_subclass_does_not_inherit_the_claim() -> None:
    class Base:
        sizes_suffice = True

    class Derived(Base):
        pass

    class Own(Base):
        sizes_suffice = True

    assert [sizes_suffice(factory) for factory in (Base, Derived, Own, len)] == [True, False, True, False]


IMAGES = {"vit", "deit"}
IMAGE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "num_channels",
)


@pytest.fixture(scope="module")
def every_row(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of each family that can be sliced and reads texts."""
    home = tmp_path_factory.mktemp("rows")
    for family in FAMILIES:
        if family in IMAGES:
            continue
        # The tokenizer's ids, which a configuration must not contradict.
        ids = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
        with quiet():
            tiny_net(family, layers=2, **(ids if family == "modernbert" else {})).save_pretrained(home / family)
        tiny_tokenizer().save_pretrained(home / family)
    return home


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"heads": [5]}, "[5] are not all sizes of the network"),
        ({"ffn": [65]}, "[65] are not all sizes of the network"),
        ({"layers": [3]}, "[3] are not all sizes of the network"),
        ({"heads": [2, 4], "ffn": [16, 64]}, None),
    ],
)
def test_sizes_of_every_family_are_known_before_its_weights_are_read(
    every_row: Path, monkeypatch: pytest.MonkeyPatch, family: str, sizes: dict[str, list[int]], words: str | None
) -> None:
    """Four families have an outline; of all others a network without values tells the sizes that its row names."""
    images = family in IMAGES
    fields = tiny_config(family, layers=2).to_dict()
    configuration = {key: fields[key] for key in IMAGE_FIELDS} if images else {}
    model = (
        {"use": "from_config", "type": family, "configuration": configuration}
        if images
        else {"use": "hf", "path": str(every_row / family), "head": "new"}
    )
    monkeypatch.setattr("nasframe_basics.models.HF.load", None)
    recipe = {
        "nasframe": 1,
        "model": model,
        "task": {"use": "image_classification", "sklearn": "digits"} if images else "package_docs",
        "space": {"use": "width_depth", **sizes},
        "stages": [{"train": {"max_steps": 1, "sampler": "random"}}],
    }
    problems = check_recipe(recipe)[1]
    if words is None:
        assert problems == []
    else:
        assert [words in problem.text for problem in problems] == [True], problems
