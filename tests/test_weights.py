"""Checkpoints: only a head may be new; what else does not fit is refused, by headers where they show it."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, BertForMaskedLM

from nasframe.errors import UsageError
from nasframe.nn.elastic import FAMILIES
from nasframe.testing.toy import ENCODERS, tiny_net
from nasframe.weights import Source, find_files, fit, load, quiet, read_headers

AUTO = AutoModelForSequenceClassification
DEPTH = {name: FAMILIES[name].depth for name in ENCODERS}
WIDTH = {name: FAMILIES[name].ffn for name in ENCODERS}
LAYERS = {name: f"{name}.{FAMILIES[name].layers}" for name in ENCODERS}
WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Family → a directory with its net, and the tensors in it."""
    found = {}
    for family in ENCODERS:
        folder = tmp_path_factory.mktemp("saved") / family
        with quiet():
            tiny_net(family).save_pretrained(folder)
        found[family] = (folder, load_file(folder / "model.safetensors"))
    return found


def changed(saved, tmp_path, family="bert", tensors=None, **config) -> Path:
    """Write a family's directory with other tensors, or another configuration."""
    folder, own = saved[family]
    target = tmp_path / "changed"
    shutil.copytree(folder, target)
    if tensors is not None:
        save_file({**tensors(own)}, target / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(settings))
    return target


def by_headers(folder):
    """What the headers alone show to be wrong."""
    config = AutoConfig.from_pretrained(folder)
    return fit(AUTO._model_mapping[type(config)], config, read_headers(find_files(Source(str(folder))))).problems


def refused(folder, *words, headers=True):
    """Loading is refused with all the words, and the headers show the same."""
    with pytest.raises(UsageError) as error:
        load(AUTO, Source(str(folder)))
    for word in words:
        assert word in str(error.value)
    assert bool(by_headers(folder)) is headers
    if headers:
        assert str(error.value) == "\n".join(by_headers(folder))


@pytest.mark.parametrize("family", ENCODERS)
def test_a_whole_checkpoint_is_loaded_as_it_is(saved, family):
    folder, own = saved[family]
    loaded = load(AUTO, Source(str(folder)))
    assert not loaded.fit.new_head
    assert not loaded.fit.unused
    assert all(torch.equal(own[name], tensor) for name, tensor in loaded.net.state_dict().items())


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("prefix", ["module.", "student.", "bart."])
def test_another_prefix_is_refused_and_named(saved, tmp_path, family, prefix):
    folder = changed(saved, tmp_path, family, lambda own: {prefix + name: value for name, value in own.items()})
    first = f"{family}.embeddings.LayerNorm.bias"
    refused(folder, f"model.safetensors: lacks {first} (32,)", f"save it without {prefix!r}")


def test_another_familys_prefix_is_refused(saved, tmp_path):
    def renamed(own):
        return {name.replace("bert.", "roberta."): value for name, value in own.items()}

    refused(changed(saved, tmp_path, "bert", renamed), "lacks bert.embeddings", "without 'roberta.'")


@pytest.mark.slow
@pytest.mark.parametrize("family", ENCODERS)
def test_layers_that_are_missing_or_left_over_are_refused(saved, tmp_path, family):
    deep = changed(saved, tmp_path / "deep", family, **{DEPTH[family]: 5})
    refused(deep, f"lacks {LAYERS[family]}.3.", "config.json says 5 layers, the file has 3")
    flat = changed(saved, tmp_path / "flat", family, **{DEPTH[family]: 2})
    refused(flat, f"has 3 layers ({LAYERS[family]}.2.", "config.json says 2")


def test_left_over_layers_are_found_without_the_familys_prefix(saved, tmp_path):
    def bare(own):
        return {name.removeprefix("bert."): value for name, value in own.items() if name.startswith("bert.")}

    refused(changed(saved, tmp_path, "bert", bare, num_hidden_layers=2), "has 3 layers (encoder.layer.2.")


@pytest.mark.parametrize("family", ENCODERS)
def test_other_shapes_are_refused_with_both(saved, tmp_path, family):
    wide = changed(saved, tmp_path / "wide", family, **{WIDTH[family]: 48})
    refused(wide, f"{LAYERS[family]}.0.", "(64, 32) in the file, (48, 32) by config.json", "and 6 more")
    words = changed(saved, tmp_path / "words", family, vocab_size=120)
    refused(words, f"{family}.{WORDS} is (97, 32) in the file, (120, 32) by config.json", "vocab_size")
    places = changed(saved, tmp_path / "places", family, max_position_embeddings=50)
    refused(places, "position_embeddings.weight is (40, 32) in the file, (50, 32) by config.json")


def test_heads_that_older_transformers_pruned_are_refused(saved, tmp_path):
    def pruned(own):
        layer = "bert.encoder.layer.1.attention"
        found = dict(own)
        for name in ("query", "key", "value"):
            for part in ("weight", "bias"):
                found[f"{layer}.self.{name}.{part}"] = own[f"{layer}.self.{name}.{part}"][:16].clone()
        found[f"{layer}.output.dense.weight"] = own[f"{layer}.output.dense.weight"][:, :16].clone()
        return found

    folder = changed(saved, tmp_path, "bert", pruned, pruned_heads={"1": [2, 3]})
    refused(folder, "bert.encoder.layer.1.attention.", "in the file", "pruned")


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [f"bert.{WORDS}", "classifier.bias"])
def test_values_that_are_not_finite_are_refused_by_loading(saved, tmp_path, value, name):
    def broken(own):
        tensor = own[name].clone()
        tensor.view(-1)[1] = value
        return {**own, name: tensor}

    folder = changed(saved, tmp_path, "bert", broken)
    refused(folder, f"{folder}/model.safetensors: {name}", "1 value that is not finite", headers=False)


def test_a_number_too_large_for_float32_is_refused(saved, tmp_path):
    def large(own):
        return {**own, "bert.pooler.dense.bias": torch.full((32,), 1e300, dtype=torch.float64)}

    refused(changed(saved, tmp_path, "bert", large), "bert.pooler.dense.bias", "not finite", headers=False)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_computed_in_float32(saved, tmp_path, kind):
    folder = changed(saved, tmp_path, "bert", lambda own: {name: value.to(kind) for name, value in own.items()})
    net = load(AUTO, Source(str(folder))).net
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    own = saved["bert"][1]
    assert all(torch.equal(net.state_dict()[name], value.to(kind).float()) for name, value in own.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_codes_are_refused(saved, tmp_path, kind):
    folder = changed(saved, tmp_path, "bert", lambda own: {**own, f"bert.{WORDS}": own[f"bert.{WORDS}"].to(kind)})
    refused(folder, f"bert.{WORDS} is of {str(kind).removeprefix('torch.')}", "Expected float16")


def test_quantised_configurations_are_refused(saved, tmp_path):
    folder = changed(saved, tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UsageError, match="quantization_config"):
        load(AUTO, Source(str(folder)), AutoConfig.from_pretrained(folder))


def test_a_head_may_be_new_or_of_another_size(saved, tmp_path):
    folder = changed(saved, tmp_path)
    config = AutoConfig.from_pretrained(folder, num_labels=5)
    assert load(AUTO, Source(str(folder)), config).fit.new_head == ["classifier.bias", "classifier.weight"]


def test_what_a_masked_language_model_lacks_and_has_besides_is_told(tmp_path):
    with quiet():
        BertForMaskedLM(tiny_net("bert").config).save_pretrained(tmp_path)
    found = load(AUTO, Source(str(tmp_path)))
    assert found.fit.new_head == ["classifier.bias", "classifier.weight"]
    assert found.fit.new_pooler == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
    new, unused = found.fit.notices(found.place)
    assert "the pooler is new" in new
    assert "does not use: cls.predictions.bias" in unused
    assert f"{tmp_path}/model.safetensors" in unused


def test_a_pooler_of_another_size_is_refused(saved, tmp_path):
    def small(own):
        return {**own, "bert.pooler.dense.weight": own["bert.pooler.dense.weight"][:16].clone()}

    refused(changed(saved, tmp_path, "bert", small), "bert.pooler.dense.weight is (16, 32) in the file, (32, 32)")


def test_positions_that_older_transformers_kept_are_no_news(saved, tmp_path):
    def older(own):
        return {**own, "bert.embeddings.position_ids": torch.arange(40)[None]}

    found = load(AUTO, Source(str(changed(saved, tmp_path, "bert", older))))
    assert not found.fit.unused
    assert not found.fit.problems


def test_older_names_of_tensors_are_understood(saved, tmp_path):
    def older(own):
        names = {name: name.replace("LayerNorm.weight", "LayerNorm.gamma") for name in own}
        return {name.replace("LayerNorm.bias", "LayerNorm.beta"): own[key] for key, name in names.items()}

    folder = changed(saved, tmp_path, "bert", older)
    assert "bert.embeddings.LayerNorm.gamma" in load_file(folder / "model.safetensors")
    net = load(AUTO, Source(str(folder))).net
    assert all(torch.equal(net.state_dict()[name], value) for name, value in saved["bert"][1].items())
    assert by_headers(folder) == []


def test_a_language_model_needs_its_head(saved, tmp_path):
    with quiet():
        BertForMaskedLM(tiny_net("bert").config).save_pretrained(tmp_path / "whole")
    assert not load(AutoModelForMaskedLM, Source(str(tmp_path / "whole")), head=False).fit.new_head
    with pytest.raises(UsageError, match=r"lacks cls\.predictions.*Expected every tensor\."):
        load(AutoModelForMaskedLM, Source(str(saved["bert"][0])), head=False)


# --- files -----------------------------------------------------------------------------------------------------------


def emptied(saved, tmp_path) -> Path:
    folder = changed(saved, tmp_path)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("content", [b"", b"hello" * 30, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_files_that_hold_no_weights_are_refused(saved, tmp_path, content, name):
    folder = emptied(saved, tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=name):
        read_headers(find_files(Source(str(folder))))


@pytest.mark.parametrize("left", [0.5, 0.99])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_files_that_are_cut_off_are_refused(saved, tmp_path, left, name):
    folder, own = emptied(saved, tmp_path), saved["bert"][1]
    if name == "pytorch_model.bin":
        torch.save(own, folder / name)
    else:
        save_file(own, folder / name)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(left * len(content))])
    with pytest.raises(UsageError, match=name):
        read_headers(find_files(Source(str(folder))))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_tensors_are_read(saved, tmp_path, zipped):
    folder, own = emptied(saved, tmp_path), saved["bert"][1]
    torch.save(own, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert by_headers(folder) == []
    net = load(AUTO, Source(str(folder))).net
    assert all(torch.equal(net.state_dict()[name], value) for name, value in own.items())


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("bare", [True, False])
def test_pickles_are_never_executed(saved, tmp_path, bare):
    folder, sprung = emptied(saved, tmp_path), tmp_path / "sprung"
    if bare:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save({**saved["bert"][1], "more": Trap(sprung)}, folder / "pytorch_model.bin")
    for attempt in (lambda: by_headers(folder), lambda: load(AUTO, Source(str(folder)))):
        with pytest.raises(UsageError, match=r"pytorch_model\.bin: cannot be read as weights"):
            attempt()
    assert not sprung.exists()


@pytest.mark.parametrize("content", [{"state_dict": {"a": torch.zeros(1)}}, [1, 2], {}])
def test_pickles_of_other_things_are_refused(saved, tmp_path, content):
    folder = emptied(saved, tmp_path)
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"pytorch_model\.bin"):
        read_headers(find_files(Source(str(folder))))


def sharded(saved, tmp_path) -> Path:
    folder = emptied(saved, tmp_path)
    with quiet():
        tiny_net("bert").save_pretrained(folder, max_shard_size="30KB")
    return folder


def test_a_checkpoint_in_several_files_is_one(saved, tmp_path):
    folder = sharded(saved, tmp_path)
    assert len(find_files(Source(str(folder)))) > 1
    assert by_headers(folder) == []
    loaded = load(AUTO, Source(str(folder)))
    assert loaded.place == str(folder)
    assert all(torch.equal(loaded.net.state_dict()[name], value) for name, value in saved["bert"][1].items())


def test_the_file_of_several_is_named(saved, tmp_path):
    folder = sharded(saved, tmp_path)
    name = "bert.encoder.layer.2.output.dense.bias"
    place = next(file for file in find_files(Source(str(folder))) if name in load_file(file))
    tensors = load_file(place)
    tensors[name][0] = float("nan")
    save_file(tensors, place, metadata={"format": "pt"})
    refused(folder, f"{place}: {name}", headers=False)


def test_a_missing_file_of_several_is_refused(saved, tmp_path):
    folder = sharded(saved, tmp_path)
    lost = find_files(Source(str(folder)))[1]
    lost.unlink()
    with pytest.raises(UsageError, match=f"{lost.name} is missing, which holds bert"):
        find_files(Source(str(folder)))


@pytest.mark.parametrize("content", ["{}", "not json", "[]", '{"weight_map": {}}'])
def test_a_broken_index_is_refused(saved, tmp_path, content):
    folder = emptied(saved, tmp_path)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UsageError, match=r"model\.safetensors\.index\.json.*weight_map"):
        find_files(Source(str(folder)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax"), ("adapter_model.safetensors", "adapter"),
        ("pytorch_modle.bin", "Did you mean 'pytorch_model.bin'"), ("weights.pt", "weights.pt"),
    ],
)  # fmt: skip
def test_other_weights_are_named(saved, tmp_path, name, words):
    folder = emptied(saved, tmp_path)
    (folder / name).write_bytes(b"content")
    with pytest.raises(UsageError, match=r"no weights\. Expected model\.safetensors") as error:
        find_files(Source(str(folder)))
    assert words in str(error.value)


def test_an_adapter_is_no_model_even_beside_one(saved, tmp_path):
    folder = changed(saved, tmp_path)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    with pytest.raises(UsageError, match=r"adapter_config\.json: the directory holds an adapter"):
        find_files(Source(str(folder)))


@pytest.mark.slow
def test_nothing_is_asked_at_a_terminal():
    """transformers asks whether to run a model's own code unless it is told."""
    root = Path(__file__).parents[1]
    for path in [*root.glob("nasframe/**/*.py"), *root.glob("plugins/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                names = {keyword.arg for keyword in node.keywords}
                assert names & {"trust_remote_code", "state_dict"}, f"{path}:{node.lineno}"
