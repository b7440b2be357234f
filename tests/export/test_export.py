from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer

import nasframe.export
import nasframe.hf
from nasframe.errors import UsageError, VerificationError
from nasframe.export import files as model_files
from nasframe.export import reload
from nasframe.export import write as export
from nasframe.nn.blueprint import blueprint
from nasframe.nn.factorize import factorize_embedding
from nasframe.nn.formats import encoder_matrices, note, parse_format, shown
from nasframe.nn.slices import extract, view
from nasframe.testing.toy import tiny_inputs, tiny_net
from nasframe.testing.toy_network import ToyNet
from nasframe.weights import quiet

FAMILIES = ("bert", "roberta", "electra", "distilbert")
ARCH = {"layers": [0, 2], "heads.0": 3, "ffn.0": 17, "heads.2": 0, "ffn.2": 64}
LABELS = {0: "no", 1: "yes"}


def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


def net(family="bert", **config):
    return tiny_net(family, id2label=LABELS, label2id={v: k for k, v in LABELS.items()}, **config)


def expected_of(net, arch):
    inputs = tiny_inputs()
    with torch.no_grad():
        return {"inputs": inputs, "logits": view(net, arch)(**inputs).logits}


def outputs_of(model):
    inputs = tiny_inputs()
    with torch.no_grad():
        return {"inputs": inputs, "outputs": model(**inputs)}


def in_formats():
    """A network whose matrices are 2:4 and int8, the word embedding int8 alone, and which says so."""
    whole = net()
    for (name, module), form in zip(encoder_matrices(whole), itertools.cycle(["2:4 int8", "int4", "1:4 int4"])):
        with torch.no_grad():
            module.weight.copy_(shown(module.weight, parse_format(form)))
        note(whole, name, **parse_format(form)._asdict())
    return whole


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One fresh process for all: four families of true sizes, padded ones, a stock one, a factorised one."""
    folder = tmp_path_factory.mktemp("exports")
    models, archs, expected, modes = {}, {}, {}, {}
    for family in FAMILIES:
        whole = net(family)
        for mode in ("hetero", "padded"):
            name = f"{family}-{mode}@50%"
            models[name], archs[name], modes[name] = extract(whole, ARCH), ARCH, mode
            expected[name] = expected_of(whole, ARCH)
    whole = net()
    models["stock"], modes["stock"] = extract(whole, {"layers": [1]}), "stock"
    for mode in ("hetero", "padded"):
        models[f"rank-{mode}"], modes[f"rank-{mode}"] = factorize_embedding(net(), 6), mode
    for mode, sizes in (("hetero", {"layers": [0, 2], "ffn.0": 24}), ("padded", {"ffn.1": 20}), ("stock", {})):
        models[f"formats-{mode}"], modes[f"formats-{mode}"] = extract(in_formats(), sizes), mode
    models["own"], modes["own"] = ToyNet(4).eval(), "hetero"
    expected["own"] = outputs_of(models["own"])
    (folder / "bert-hetero@50%").mkdir()
    (folder / "bert-hetero@50%" / "predictions.csv").write_text("id,label\n")
    card = {"task": "toy", "metrics": {"accuracy": 0.5}, "models": {"stock": {"metrics": {"accuracy": 0.75}}}}
    directories = {name: folder / name for name in models}
    reports = export.export_all(
        models, tokenizer(), directories, mode=modes, expected=expected, card=card, archs=archs
    )  # fmt: skip
    return folder, models, expected, reports


def test_every_export_agrees_with_the_view(exported):
    _, models, _, reports = exported
    assert reports.keys() == models.keys()
    for name, report in reports.items():
        assert report["verified"] is True, name
        assert report["max_abs_difference"] <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["hetero", "padded"])
def test_loads_without_the_flag_once_registered(exported, family, mode):
    folder, models, expected, _ = exported
    name = f"{family}-{mode}@50%"
    model = AutoModelForSequenceClassification.from_pretrained(folder / name).eval()
    with torch.no_grad():
        logits = model(**expected[name]["inputs"]).logits
    assert torch.allclose(logits, expected[name]["logits"], atol=1e-6)
    assert model.config.id2label == LABELS
    same = blueprint(model) == blueprint(models[name])
    assert same is (mode == "hetero")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("own", [True, False], ids=["its own code", "nasframe's"])
def test_the_encoder_alone_loads_too(exported, family, own, monkeypatch):
    folder, models, expected, _ = exported
    name = f"{family}-hetero@50%"
    named = json.loads((folder / name / "config.json").read_text())["auto_map"]["AutoModel"]
    auto = AutoModel
    if own:  # transformers itself would take the registered class; a fresh process has loaded the other in the fixture
        module, _, name_of_class = named.partition(".")
        spec = importlib.util.spec_from_file_location("carried", folder / name / f"{module}.py")
        carried = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "carried", carried)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)  # other tests list the directory's files
        spec.loader.exec_module(carried)
        auto = getattr(carried, name_of_class)
    with quiet():
        encoder = auto.from_pretrained(folder / name).eval()
    assert type(encoder).__module__.startswith("nasframe") is not own
    inputs = expected[name]["inputs"]
    with torch.no_grad():
        found = encoder(**inputs).last_hidden_state
        wanted = models[name].base_model.eval()(**inputs).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_network_of_few_positions_is_exported():
    assert export.probe(tiny_net("roberta", max_position_embeddings=8))["inputs"]["input_ids"].shape == (4, 7)


def test_true_sizes_are_smaller_and_padded_says_it_is_not(exported):
    folder, models, _, _ = exported
    sizes = {}
    for mode in ("hetero", "padded"):
        state = load_file(folder / f"bert-{mode}@50%" / "model.safetensors")
        sizes[mode] = sum(tensor.numel() for tensor in state.values())
    assert sizes["hetero"] == sum(p.numel() for p in models["bert-hetero@50%"].parameters())
    assert sizes["padded"] > sizes["hetero"]
    config = json.loads((folder / "bert-padded@50%" / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["nasframe"]["layer_heads"] == [3, 0]
    assert "not smaller" in config["nasframe"]["note"]
    assert "Not smaller" in (folder / "bert-padded@50%" / "README.md").read_text()


def test_configuration_records_the_sizes(exported):
    folder, *_ = exported
    config = AutoConfig.from_pretrained(folder / "bert-hetero@50%")
    assert (config.layer_heads, config.layer_ffn, config.head_size) == ([3, 0], [17, 64], 8)
    assert (config.kept_layers, config.embedding_rank) == ([0, 2], None)
    arch = json.loads((folder / "bert-hetero@50%" / "arch.json").read_text())
    assert arch["arch"] == ARCH
    assert arch["blueprint"]["layers"] == [{"heads": 3, "ffn": 17}, {"heads": 0, "ffn": 64}]


def test_a_network_of_ones_own_brings_its_files(exported):
    folder, _, expected, reports = exported
    files = {path.name for path in (folder / "own").iterdir()}
    assert {"toy_network.py", "described_nasframe.py", "modeling_nasframe.py", "config.json"} <= files
    assert not any("import nasframe" in path.read_text() for path in (folder / "own").glob("*.py"))
    assert reports["own"]["outputs"] == {"logits": [3, 2]}
    again = model_files.read_net(folder / "own")
    assert type(again) is ToyNet
    assert again.mirror_again.weight is again.mirror.weight, "tied by the constructor, and stored once"
    assert sum("mirror" in name for name in load_file(folder / "own" / "model.safetensors")) == 3
    with torch.no_grad():
        logits = again(**expected["own"]["inputs"])["logits"]
    assert torch.equal(logits, expected["own"]["outputs"]["logits"])


def test_tokenizer_and_card_travel_along(exported):
    folder, *_ = exported
    loaded = AutoTokenizer.from_pretrained(folder / "distilbert-hetero@50%")
    assert loaded("good bad")["input_ids"] == [2, 5, 6, 3]
    text = (folder / "stock" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "transformers"
    assert "nasframe" in head["tags"]
    assert head["metrics"] == ["accuracy"]
    assert "| accuracy | 75.00 % |" in text
    assert "license" not in head


@pytest.mark.parametrize("mode", ["hetero", "padded"])
def test_factorised_embedding_keeps_or_loses_its_rank(exported, mode):
    folder, models, _, _ = exported
    loaded = AutoModelForSequenceClassification.from_pretrained(folder / f"rank-{mode}").eval()
    assert blueprint(loaded)["embedding_rank"] == (6 if mode == "hetero" else None)
    inputs = tiny_inputs()
    with torch.no_grad():
        logits = [model(**inputs).logits for model in (loaded, models[f"rank-{mode}"])]
    assert torch.allclose(*logits, atol=1e-6)


@pytest.mark.parametrize("mode", ["hetero", "padded", "stock"])
def test_formats_are_recorded_verified_and_loaded_again(exported, mode):
    folder, models, _, reports = exported
    name = f"formats-{mode}"
    loaded = AutoModelForSequenceClassification.from_pretrained(folder / name)
    record = blueprint(models[name])["quantised"]
    assert blueprint(loaded)["quantised"] == record
    assert len(record) == 6 * len(models[name].bert.encoder.layer)
    report = reports[name]
    assert (report["stored"]["violations"], report["stored"]["rows_off_grid"], report["stored"]["missing"]) == (0, 0, 0)
    assert report["stored"]["groups"] > 0
    assert "| 0.attention.self.query | 8 | 2:4 |" in (folder / name / "README.md").read_text()
    if mode != "padded":
        assert blueprint(model_files.read_net(folder / name)) == blueprint(models[name])


def test_a_network_that_is_not_what_it_says_is_not_written(tmp_path, monkeypatch):
    whole = in_formats()
    with torch.no_grad():
        whole.bert.encoder.layer[0].attention.self.query.weight[0, :4] = 1.0
    monkeypatch.setattr(export, "_reload", lambda exports, *_: {"model": exports[0].reference["outputs"]})
    with pytest.raises(VerificationError, match="1 groups and 1 rows of the written matrices are not as"):
        export.export(whole, None, tmp_path / "model", mode="stock")
    assert list(tmp_path.iterdir()) == []


def test_report_names_every_file(exported):
    folder, *_ = exported
    directory = folder / "bert-hetero@50%"
    report = json.loads((directory / "export_report.json").read_text())
    present = {path.name for path in directory.iterdir()} - {"export_report.json", "predictions.csv"}
    assert present == report["files"].keys()
    for name, record in report["files"].items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == record["sha256"]
    assert report["mode"] == "hetero"
    assert not any(path.name.startswith(".") for path in folder.iterdir())
    assert {path.suffix for path in directory.iterdir()} <= {".json", ".safetensors", ".md", ".py", ".csv", ".txt"}


def test_other_files_of_the_directory_stay(exported):
    folder, *_ = exported
    assert (folder / "bert-hetero@50%" / "predictions.csv").read_text() == "id,label\n"


@pytest.mark.parametrize(
    "wrong", [lambda logits: logits + 1e-3, lambda logits: logits[:, :1], lambda logits: logits / 0]
)
def test_a_mismatch_is_refused_and_leaves_nothing(tmp_path, monkeypatch, wrong):
    whole = net()
    expected = expected_of(whole, ARCH)
    monkeypatch.setattr(export, "_reload", lambda *_: {"model": {"logits": wrong(expected["logits"])}})
    with pytest.raises(VerificationError, match="differ by") as caught:
        export.export(extract(whole, ARCH), None, tmp_path / "model", expected=expected)
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_needs_nasframe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "modeling_source", lambda stock: "import nasframe\n")
    with pytest.raises(VerificationError, match="without nasframe"):
        export.export(extract(net(), ARCH), None, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nasframe", "nasframe.nn.elastic", "nasframe_basics"])
def test_blocker_blocks(name):
    with pytest.raises(ImportError, match="without nasframe"):
        reload.Blocker().find_spec(name)
    assert reload.Blocker().find_spec("torch") is None


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ({"layers": [0], "heads.0": 3}, "layer 0 has 3 heads, but hidden size / head size is 4"),
        ({"layers": [0, 1], "ffn.1": 5}, "layer 1 has 5 neurons, layer 0 has 64"),
    ],
)
def test_stock_says_why_it_cannot(tmp_path, arch, words):
    with pytest.raises(UsageError, match=words) as caught:
        export.export(extract(net(), arch), None, tmp_path / "model", mode="stock")
    assert "hetero" in str(caught.value)


def test_a_model_is_not_overwritten_unless_asked(tmp_path):
    target = tmp_path / "model"
    assert export.write(net(), tokenizer(), target) == "stock"
    with pytest.raises(UsageError, match="lies there already"):
        export.write(net(), None, target)
    assert export.write(extract(net(), ARCH), None, target, replace=True) == "hetero"
    assert AutoModelForSequenceClassification.from_pretrained(target).config.layer_heads == [3, 0]


def test_a_loaded_export_can_be_cut_and_written_again(tmp_path):
    export.write(extract(net(), ARCH), None, tmp_path / "first")
    again = extract(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "first"), {"layers": [0], "heads.0": 2}
    )
    export.write(again, None, tmp_path / "second")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "second")
    assert blueprint(loaded)["layers"] == [{"heads": 2, "ffn": 17}]


def test_the_package_offers_what_the_documents_name():
    assert nasframe.export.export is export.export
    for name in ("export_all", "update_card", "clear_rests"):
        assert not hasattr(nasframe.export, name)
