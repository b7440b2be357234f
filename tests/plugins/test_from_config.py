"""Networks made from a configuration in the recipe: heads, tokenizers, and what is refused before any work."""

from typing import Any, ClassVar

import pytest
import torch

from nasframe.errors import UsageError
from nasframe.testing import ModelContract
from nasframe_basics.from_config import FromConfig
from nasframe_basics.models import HF

VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 8,
    "patch_size": 2, "num_channels": 1,
}  # fmt: skip
LLAMA = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 48,
}  # fmt: skip
IMAGES, TOKENS = "AutoModelForImageClassification", "AutoModelForCausalLM"


class TestVit(ModelContract):
    use: ClassVar[Any] = {"use": "from_config", "type": "vit", "configuration": VIT}
    auto_class = IMAGES


def refused(**options):
    with pytest.raises(UsageError) as caught:
        FromConfig(**options).validate()
    return str(caught.value)


def test_the_task_decides_on_the_head():
    net = FromConfig("llama", LLAMA, tokens="bpe", auto_class=TOKENS).load(None, seed=0)
    assert type(net).__name__ == "LlamaForCausalLM"
    assert (net.config.pad_token_id, net.config.bos_token_id, net.config.eos_token_id) == (0, 1, 2)
    net = FromConfig("llama", LLAMA, tokens="bpe").load(["a", "b", "c"], seed=0)
    assert net.score.out_features == 3
    net = FromConfig("vit", VIT, auto_class=IMAGES).load(["a", "b", "c"], seed=0)
    assert net.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert net.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"type": "lama"}, "transformers has no model_type 'lama'. Did you mean 'llama'"),
        (
            {"type": "vit", "configuration": {"hiden_size": 8}},
            "vit has no field 'hiden_size'. Did you mean 'hidden_size'",
        ),
        ({"type": "vit", "configuration": {**VIT, "num_attention_heads": "four"}}, "transformers refuses it for"),
        (
            {"type": "vit", "auto_class": TOKENS, "configuration": VIT},
            "transformers refuses it for AutoModelForCausalLM",
        ),
        ({"type": "llama", "configuration": LLAMA}, "missing: llama reads token ids. Expected bpe"),
        ({"type": "vit", "configuration": VIT, "tokens": "bpe"}, "vocab_size: missing"),
        (
            {"type": "bert", "tokens": "bpe", "configuration": {"vocab_size": 99}},
            "too few for a byte-level tokenizer",
        ),
    ],
)
def test_what_transformers_refuses_is_refused_before_work(options, text):
    auto = IMAGES if options["type"] == "vit" else "AutoModelForSequenceClassification"
    assert text in refused(**{"auto_class": auto, **options})


def test_fields_of_the_task_have_another_place():
    faults = dict(FromConfig.faults({"configuration": {"num_labels": 3, "model_type": "vit", "hidden_size": 4}}))
    assert faults.keys() == {("configuration", "num_labels"), ("configuration", "model_type")}


def test_a_tokenizer_is_made_of_the_training_texts():
    notices = []
    model = FromConfig("llama", LLAMA, tokens="bpe", auto_class=TOKENS, notify=lambda *notice: notices.append(notice))
    assert model.makes_tokenizer()
    assert len(model.tokenizer()) == 260, "bytes and special tokens"
    made = model.make_tokenizer(["the fish the fish the fish"])
    assert made.model_max_length == 48
    assert "Ġthe" in made.get_vocab()
    ((place, text),) = notices
    assert place == "model.tokens"
    assert f"The texts give {len(made)} tokens of 300" in text


def test_weights_come_from_the_seed_and_torch_is_left_alone():
    model = FromConfig("vit", VIT, auto_class=IMAGES)
    state = torch.get_rng_state()
    first, again, other = (model.load(["a", "b"], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [net.classifier.weight for net in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_type_with_two_classes_for_a_task_gets_the_plain_one():
    net = FromConfig("deit", VIT, auto_class=IMAGES).load(["a", "b", "c"], seed=0)
    assert type(net).__name__ == "DeiTForImageClassification"
    assert net.config.num_labels == 3


@pytest.mark.parametrize(("kind", "sizes", "auto"), [("vit", VIT, IMAGES), ("llama", LLAMA, TOKENS)])
def test_a_saved_network_is_loaded_by_hf_with_the_head_of_the_task(tmp_path, kind, sizes, auto):
    model = FromConfig(kind, sizes, tokens="bpe" if kind == "llama" else None, auto_class=auto)
    net = model.load(["a", "b"], seed=0)
    net.save_pretrained(tmp_path)
    if kind == "llama":
        model.make_tokenizer(["a fish"]).save_pretrained(tmp_path)
    loader = HF(tmp_path, auto_class=auto, notify=lambda *notice: None)
    loader.validate()
    loaded = loader.load(["a", "b"], seed=1)
    assert type(loaded) is type(net)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), loaded.parameters(), strict=True)), "head and all"
    assert (loader.tokenizer() is None) == (kind == "vit")
    assert (loader.head() is None) == (kind == "llama")


def test_a_language_model_has_no_head_to_name(tmp_path):
    with pytest.raises(UsageError, match="have no head for classes"):
        HF(tmp_path, labels=["a"], auto_class=TOKENS)
