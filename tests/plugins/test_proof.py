"""What is proven to fit without transformers does fit, and usual models are proven."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForPreTraining, BertForPreTraining

from nasframe import outline
from nasframe.errors import NasframeError
from nasframe.nn import count
from nasframe.nn.positions import usable_positions
from nasframe.testing.toy import ENCODERS, tiny_net, tiny_tokenizer
from nasframe.weights import quiet
from nasframe_basics import models
from nasframe_basics.models import HF
from nasframe_basics.proof import CONFIGURATIONS, TOKENIZER_OPTIONS, TOKENIZERS, prove

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "new")


def write_encoder(folder: Path, family: str, **config: Any) -> Path:
    with quiet():
        tiny_net(family, **config).base_model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Family → the directory of an encoder without a head, and its tokenizer."""
    home = tmp_path_factory.mktemp("encoders")
    for family in ENCODERS:
        write_encoder(home / family, family)
    return home


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def changed(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | values))


def slow_problems(folder: Path) -> list[str]:
    """What the loading by transformers finds."""
    source = models.Source(str(folder), local=True)
    model = HF(str(folder))
    problems = list(models._examine(source, False, models._stamps(source)))
    try:
        if not problems and (head := model._saved_head(source)) is not None:
            problems.append(f"there is a head: {head}")
    except NasframeError as error:
        problems.append(str(error))
    return problems


def require_same(found: outline.Outline, folder: Path) -> None:
    """The outline says what network and tokenizer say."""
    model = HF(str(folder))
    net, tokenizer = model.skeleton(), model.local_tokenizer()
    assert net is not None
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    assert found.shapes() == shapes
    assert found.longest == usable_positions(net) == tokenizer.model_max_length == found.tokenizer.model_max_length
    for pair in (False, True):
        assert found.tokenizer.num_special_tokens_to_add(pair=pair) == tokenizer.num_special_tokens_to_add(pair=pair)


# --- what is proven ------------------------------------------------------------------------------------------------


def test_the_table_has_all_families_that_can_be_sliced() -> None:
    assert outline.FAMILIES.keys() == CONFIGURATIONS.keys() == TOKENIZERS.keys()


@pytest.mark.parametrize("family", ENCODERS)
def test_a_saved_encoder_is_proven_and_its_outline_is_true(encoders: Path, family: str) -> None:
    found = prove(encoders / family)
    assert found is not None
    assert slow_problems(encoders / family) == []
    require_same(found, encoders / family)


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "roberta"])
def test_costs_of_an_outline_are_those_of_the_network(tmp_path: Path, family: str) -> None:
    wide = {"embedding_size": 16} if family == "electra" else {}
    net = tiny_net(family, **wide)
    found = prove(write_encoder(tmp_path / family, family, **wide))
    assert found is not None
    assert found.shapes() == {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    archs: list[Any] = [None, {"layers": [0, 2], "heads.0": 1, "ffn.0": 16, "heads.2": 4, "ffn.2": 0}, {"layers": []}]
    for arch in archs:
        for part in ("all", "backbone", "encoder"):
            assert found.params(part).of(arch) == count.params(net, part).of(arch), part  # type: ignore[arg-type]
        for how in ("matmul", "torchprofile"):
            costs = count.macs(net, 2, 9, how)  # type: ignore[arg-type]
            assert found.macs(2, 9, how).of(arch) == costs.of(arch), how


@pytest.mark.skipif(importlib.util.find_spec(models.MINILM_PACKAGE) is None, reason="needs the extra quickstart")
def test_minilm_is_proven() -> None:
    model = models.minilm_l6()
    found = model.outline()
    assert found is not None
    assert slow_problems(Path(model.path)) == []
    require_same(found, Path(model.path))


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_heads_of_pre_training_and_half_precision_are_no_obstacle(tmp_path: Path, family: str) -> None:
    write_encoder(tmp_path / "net", family)
    net = AutoModelForPreTraining.from_config(tiny_net(family).config)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        state = {name: value.to(dtype).clone() for name, value in net.state_dict().items()}
        save_file(state, tmp_path / "net" / "model.safetensors", metadata={"format": "pt"})
        found = prove(tmp_path / "net")
        assert (found is None) == (family != "bert")  # other families' are left to transformers
        assert slow_problems(tmp_path / "net") == []
    assert isinstance(net, BertForPreTraining) == (family == "bert")


def test_the_class_names_of_older_tokenizers_are_known(encoders: Path, tmp_path: Path) -> None:
    for family, names in TOKENIZERS.items():
        for name in names:
            folder = copied(encoders / family, tmp_path / f"{family}-{name}")
            changed(folder / "tokenizer_config.json", tokenizer_class=name)
            found = prove(folder)
            assert found is not None
            assert slow_problems(folder) == []
            require_same(found, folder)


# --- what is not ---------------------------------------------------------------------------------------------------


def test_what_is_no_plain_encoder_is_left_to_transformers(encoders: Path, tmp_path: Path) -> None:
    bert = encoders / "bert"

    def broken(name: str) -> Path:
        return copied(bert, tmp_path / name)

    with_head = tmp_path / "head"
    tiny_net().save_pretrained(with_head)
    tiny_tokenizer().save_pretrained(with_head)
    assert prove(with_head) is None
    assert prove(tmp_path / "nowhere") is None
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        missing, empty, cut = (broken(f"{file}-{kind}") for kind in ("missing", "empty", "cut"))
        (missing / file).unlink()
        (empty / file).write_bytes(b"")
        (cut / file).write_bytes((bert / file).read_bytes()[:-5])
        assert [prove(folder) for folder in (missing, empty, cut)] == [None] * 3
    for file in ("adapter_config.json", "added_tokens.json", "modeling_own.py", "tokenizer.model"):
        folder = broken(file)
        (folder / file).write_text("{}")
        assert prove(folder) is None
    for key, value in (("quantization_config", {}), ("auto_map", {}), ("num_labels", 3), ("hidden_size", 64)):
        folder = broken(key)
        changed(folder / "config.json", **{key: value})
        assert prove(folder) is None


def test_a_model_is_judged_again_after_its_files_changed(encoders: Path, tmp_path: Path) -> None:
    model = HF(str(copied(encoders / "bert", tmp_path / "net")))
    assert model.outline() is not None
    changed(tmp_path / "net" / "config.json", num_hidden_layers=30)
    assert model.outline() is None
    with pytest.raises(NasframeError, match=r"config\.json says 30 layers, the file has 3"):
        model.validate()


def test_remote_code_and_names_of_a_head_are_left_to_transformers(encoders: Path) -> None:
    folder = str(encoders / "bert")
    assert HF(folder, trust_remote_code=True).outline() is None
    with pytest.raises(NasframeError, match="brings no classification head whose outputs could be named"):
        HF(folder, labels=["a", "b"]).validate()


NUMBERS = (-1, 0, 1, 2, 3, 4, 8, 16, 31, 32, 33, 40, 64, 96, 97, 98, 10**9, 0.0, 0.1, 0.99, 1.0, 1e-12)
TEXTS = ("", "gelu", "relu", "gelu_new", "float32", "float16", "absolute", "first", *WORDS)
VALUES = st.sampled_from([None, True, False, *NUMBERS, *TEXTS, [], ["X"], {}, {"a": 1}])


class Folder:
    """A copy of a model's files, each of which can be changed at random."""

    def __init__(self, draw: Any, home: Path) -> None:
        self.draw, self.home = draw, home

    def json(self, name: str, keys: list[str]) -> None:
        """Set or remove a key of a JSON file."""
        file = self.home / name
        content = json.loads(file.read_text()) if file.exists() else {}
        key = self.draw(st.sampled_from(sorted({*keys, *content, "other"})))
        if key in content and self.draw(st.booleans()):
            del content[key]
        else:
            content[key] = self.draw(VALUES)
        file.write_text(json.dumps(content))

    def config(self) -> None:
        """Change the configuration."""
        self.json(
            "config.json", [*CONFIGURATIONS["bert"], "id2label", "num_labels", "mask_token_id", "tokenizer_class"]
        )

    def tokenizer_config(self) -> None:
        """Change the tokenizer's options."""
        self.json("tokenizer_config.json", [*TOKENIZER_OPTIONS, "bos_token", "extra_special_tokens", "padding_side"])

    def special_tokens(self) -> None:
        """Write the older file of special tokens."""
        self.json("special_tokens_map.json", ["cls_token", "pad_token", "bos_token", "additional_special_tokens"])

    def tokenizer(self) -> None:
        """Change the tokenizer's own file."""
        file = self.home / "tokenizer.json"
        content = json.loads(file.read_text())
        vocabulary, added = content["model"]["vocab"], content["added_tokens"]
        word, number = self.draw(st.sampled_from(WORDS)), self.draw(st.sampled_from([0, 1, 5, 95, 96, 97, 200]))
        change = self.draw(
            st.sampled_from(["set", "drop", "add", "unk", "normalizer", "truncation", "padding", "post"])
        )
        if change == "set":
            vocabulary[word] = number
        elif change == "drop":
            vocabulary.pop(word, None)
        elif change == "add":
            added.append({**added[0], "content": word, "id": number})
        elif change == "unk":
            content["model"]["unk_token"] = word
        elif change == "normalizer":
            content["normalizer"] = self.draw(st.sampled_from([None, {"type": "Lowercase"}]))
        elif change == "post":
            content["post_processor"] = None
        else:
            tokenizer = Tokenizer.from_file(str(file))
            with contextlib.suppress(ValueError):  # a stride as long as the texts; tokenizers takes none
                tokenizer.enable_truncation(number, stride=self.draw(st.integers(0, 3)))
            if change == "padding":
                tokenizer.enable_padding(pad_id=number, pad_token=word, length=self.draw(st.sampled_from([None, 7])))
            content = json.loads(tokenizer.to_str())
        file.write_text(json.dumps(content))

    def weights(self) -> None:
        """Change the tensors."""
        file = self.home / "model.safetensors"
        state, metadata = load_file(file), {"format": "pt"}
        name = self.draw(st.sampled_from(sorted(state)))
        value = state[name]
        change = self.draw(st.sampled_from(["drop", "rename", "add", "shape", "type", "prefix", "all", "metadata"]))
        if change == "drop":
            del state[name]
        elif change == "rename":
            state[f"{self.draw(st.sampled_from(['bert', 'module', 'electra']))}.{name}"] = state.pop(name)
        elif change == "add":
            names = ["embeddings.position_ids", "classifier.weight", "cls.predictions.bias", "encoder.layer.3.x", "y"]
            kind = self.draw(st.sampled_from([torch.float32, torch.int64]))
            state[self.draw(st.sampled_from(names))] = torch.zeros(1, self.draw(st.sampled_from([40, 41])), dtype=kind)
        elif change == "shape":
            state[name] = self.draw(st.sampled_from([value[:-1], value.unsqueeze(0), value.flatten()])).clone()
        elif change == "type":
            state[name] = value.to(
                self.draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float64, torch.int8]))
            )
        elif change == "all":
            state = {key: tensor.to(torch.bfloat16) for key, tensor in state.items()}
        elif change == "prefix":
            prefix = self.draw(st.sampled_from(["bert", "roberta", "electra", "distilbert", "module"]))
            state = {f"{prefix}.{key}": tensor for key, tensor in state.items()}
        else:
            metadata = self.draw(st.sampled_from([{}, {"format": "tf"}, {"format": "pt", "more": "x"}]))
        save_file(state, file, metadata=metadata)


CHANGES = ("config", "tokenizer_config", "special_tokens", "tokenizer", "weights")


def require_no_false_proof(data: Any, encoders: Path) -> bool:
    """Change a model at random; tell whether it is still proven, and fail if that is wrong."""
    family = data.draw(st.sampled_from(sorted(ENCODERS)))
    with tempfile.TemporaryDirectory() as home:
        folder = Folder(data.draw, copied(encoders / family, Path(home) / "net"))
        for change in data.draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
            getattr(folder, change)()
        found = prove(folder.home)
        if found is None:
            return False
        assert slow_problems(folder.home) == []
        require_same(found, folder.home)
        return True


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_proven_transformers_takes_too(encoders: Path, data: Any) -> None:
    require_no_false_proof(data, encoders)


def test_numbers_that_are_no_json_prove_nothing(encoders: Path, tmp_path: Path) -> None:
    for number, text in enumerate(("NaN", "Infinity", "-Infinity", "1e400")):
        folder = copied(encoders / "bert", tmp_path / str(number))
        content = json.loads((folder / "config.json").read_text()) | {"layer_norm_eps": "HERE"}
        (folder / "config.json").write_text(json.dumps(content).replace('"HERE"', text))
        assert prove(folder) is None
    assert np.isnan(json.loads("NaN"))
