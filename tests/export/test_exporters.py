"""Exporters as plugins: a stranger's stands behind the same door as the built-in ones, and is verified like them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel

import nasframe as nf
from in_process import InProcess
from nasframe import registry
from nasframe.cli import main
from nasframe.errors import PluginError, UsageError, VerificationError
from nasframe.export import write as export
from nasframe.interfaces import Loading
from nasframe.nn.slices import extract
from nasframe.recipe.resolve import check_recipe
from nasframe.testing import ExporterContract
from nasframe.testing.kit import run_checks
from nasframe.testing.toy import tiny_images, tiny_net
from nasframe_deploy.ship import export_models

ARCH = {"layers": [0], "heads.0": 2, "ffn.0": 5}
CODE = '''
def load(directory, words):
    """Return a network of numpy: the mean of the embeddings of its words, mapped once."""
    import numpy as np

    arrays = np.load(f"{directory}/arrays.npz")

    def forward(input_ids):
        return {"scores": arrays["table"][np.asarray(input_ids)].mean(1) + words}

    return forward
'''


class Table(nf.Described):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(9, 4)

    def describe(self):
        return {}

    def forward(self, input_ids):
        return {"scores": self.table(input_ids).mean(1)}


class Numpy:
    """Write an embedding as an array of numpy, for a runtime without torch."""

    tolerance = 1e-6

    def __init__(self, shift: float = 0.0):
        self.shift = shift

    def validate(self, net):
        if not isinstance(net, Table):
            raise UsageError(f"{type(net).__name__} is no table. Expected a Table.")

    def write(self, model, directory, content):
        (directory / "data").mkdir()
        np.savez(directory / "arrays.npz", table=model.table.weight.detach().numpy())
        (directory / "data" / "inputs.json").write_text(json.dumps(sorted(content.inputs)))
        code = directory / "load.py"
        code.write_text(CODE)
        return Loading(code, {"words": self.shift}, snippet="import numpy", remarks="For numpy.")


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(export, "Verifier", InProcess)


def reference(net):
    inputs = {"input_ids": torch.tensor([[1, 2], [3, 4]])}
    with torch.no_grad():
        return {"inputs": inputs, "outputs": net(**inputs)}


def test_a_strangers_format_is_written_and_verified(in_this_process, tmp_path):
    net = Table()
    report = export.export(net, None, tmp_path / "model", mode=Numpy(), expected=reference(net))
    assert report["verified"]
    assert report["mode"] == "Numpy"
    assert report["max_abs_difference"] < 1e-6
    assert report["outputs"] == {"scores": [2, 4]}
    names = {"arrays.npz", "load.py", "data/inputs.json", "arch.json", "README.md"}
    assert report["files"].keys() == names
    assert json.loads((tmp_path / "model/data/inputs.json").read_text()) == ["input_ids"]
    card = (tmp_path / "model/README.md").read_text()
    assert "For numpy." in card
    assert "import numpy" in card
    with pytest.raises(UsageError, match="a model lies there already"):
        export.export(net, None, tmp_path / "model", mode=Numpy(), expected=reference(net))


def test_other_outputs_are_refused_and_leave_nothing(in_this_process, tmp_path):
    net = Table()
    with pytest.raises(VerificationError, match=r"model: the exported model's scores differ by 0\.01"):
        export.export(net, None, tmp_path / "model", mode=Numpy(shift=0.01), expected=reference(net))
    assert list(tmp_path.iterdir()) == []


def test_what_it_refuses_is_refused_before_any_file(in_this_process, tmp_path):
    models = {"a": Table(), "b": tiny_net()}
    targets = {name: tmp_path / name for name in models}
    with pytest.raises(UsageError, match=r"b: BertForSequenceClassification is no table"):
        export.export_all(models, None, targets, mode=Numpy(), expected={"a": reference(models["a"])})
    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_says_nothing_is_named(in_this_process, tmp_path):
    class Silent(Numpy):
        def write(self, model, directory, content):
            super().write(model, directory, content)

    net = Table()
    with pytest.raises(PluginError, match=r"write returned a NoneType. Expected a nasframe.interfaces.Loading"):
        export.export(net, None, tmp_path / "model", mode=Silent(), expected=reference(net))


def test_inputs_that_cannot_be_invented_have_to_be_given(tmp_path):
    with pytest.raises(UsageError, match=r"reads no token ids that could be invented\. Expected inputs"):
        export.export(tiny_net("vit"), None, tmp_path / "model", mode="hetero")


@pytest.mark.parametrize("mode", ["hetero", "padded", "stock"])
def test_built_in_exporters_keep_the_contract(mode):
    contract = type("Contract", (ExporterContract,), {"use": mode})
    contract.test_a_fresh_process_computes_the_same = lambda self: None  # test_export.py starts one for all
    failed = [(outcome.check, outcome.message) for outcome in run_checks(contract) if not outcome.passed]
    assert failed == []


@pytest.mark.parametrize("mode", ["hetero", "padded", "stock"])
def test_a_class_that_no_auto_class_loads_is_refused_before_any_work(mode):
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with torch.device("meta"):
        net = T5EncoderModel(config)
    with pytest.raises(UsageError, match="T5EncoderModel: no auto class of transformers loads it"):
        registry.make("exporter", mode).validate(net)


def test_a_contract_of_a_wrong_exporter_says_what_to_do():
    class Careless(Numpy):
        tolerance = 0.9

        def validate(self, net):
            """Accept everything."""

        def write(self, model, directory, content):
            model.train()
            return "loaded somehow"

    contract = type("Contract", (ExporterContract,), {"make": lambda self: Careless()})
    contract.test_a_fresh_process_computes_the_same = lambda self: None
    messages = {outcome.check: outcome.message for outcome in run_checks(contract)}
    assert "return a Loading" in messages["it says how to load"]
    assert "write changed" in messages["the network is left alone"]
    assert "hides that all weights are half more" in messages["a wrong file is noticed"]


def test_images_are_probed_on_images(in_this_process, tmp_path):
    whole = tiny_net("vit")
    small = extract(whole, ARCH)
    with torch.no_grad():
        expected = {"inputs": tiny_images(), "logits": small(**tiny_images()).logits}
    report = export.export(small, None, tmp_path / "model", mode="hetero", expected=expected)
    assert report["logits"] == [3, 2]


# ---- recipes and the command line


PLUGIN = """
from nasframe import hookimpl
from nasframe.errors import UsageError
from nasframe.interfaces import Loading


class Paper:
    def __init__(self, copies: int = 1):
        self.copies = copies

    def validate(self, net):
        raise UsageError("paper holds no networks. Expected none.")

    def write(self, model, directory, content):
        return Loading(directory / "load.py")


@hookimpl
def register_exporters(register):
    register("paper", Paper)
"""


def test_a_recipe_names_exporters_like_other_plugins(tmp_path):
    (tmp_path / "paper.py").write_text(PLUGIN)
    file = tmp_path / "vit.yaml"
    file.write_text(RECIPE)

    def problems(mode):
        return [str(problem) for problem in check_recipe(str(file), [f"stages.export.mode={mode}"])[1]]

    assert problems("hetero") == []
    assert problems("{use: padded}") == []
    assert any("unknown exporter 'heteros'" in text and "Did you mean 'hetero'" in text for text in problems("heteros"))
    assert any("copies" in text for text in problems("{use: paper, copies: many}"))
    assert any("paper holds no networks" in text for text in problems("paper")), "before any work"


RECIPE = """
nasframe: 1
name: exporting
plugins: [./paper.py]
model:
  use: from_config
  type: vit
  configuration: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64, image_size: 8,
                  patch_size: 4, num_channels: 1}
task: {use: image_classification, sklearn: digits, train_limit: 32, select: 8}
space: {use: width_depth, heads: [2, 4], ffn: [16, 64]}
stages:
  - extract: {archs: {small: {heads: 2}}}
  - export: {}
"""


def test_a_run_exports_images_without_a_tokenizer(in_this_process, tmp_path):
    file = tmp_path / "vit.yaml"
    file.write_text(RECIPE.replace("plugins: [./paper.py]\n", ""))
    run = nf.run(nf.load_recipe(str(file)), out=tmp_path / "run", progress=False, report=False)
    folder = run.directory / "models/small"
    report = json.loads((folder / "export_report.json").read_text())
    assert report["verified"]
    assert report["mode"] == "hetero"
    assert not (folder / "tokenizer.json").exists()
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 8, "width": 8}
    assert len(settings["image_mean"]) == len(settings["image_std"]) == 1
    assert "AutoModelForImageClassification" in (folder / "README.md").read_text()
    (again,) = export_models(run.directory, ["small"], out=tmp_path / "again")
    assert json.loads((Path(again.directory) / "preprocessor_config.json").read_text()) == settings


def test_they_are_listed(capsys):
    assert main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["plugins"]
    names = {row["name"] for row in rows if row["kind"] == "exporter"}
    assert {"hetero", "padded", "stock"} <= names
