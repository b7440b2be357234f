"""Exports of every family that can be sliced, loaded in one fresh process that cannot see nasframe."""

import itertools

import pytest
import torch
import transformers

import nasframe.hf  # noqa: F401  (registers the classes of exports)
from nasframe.export import write as export
from nasframe.export.files import read_net
from nasframe.nn.blueprint import blueprint
from nasframe.nn.elastic import FAMILIES
from nasframe.nn.factorize import factorize_embedding, factorize_linears
from nasframe.nn.rewire import rewire
from nasframe.nn.slices import extract, view
from nasframe.testing.toy import tiny_images, tiny_inputs, tiny_net

HEADS = {
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
    "qwen2": "AutoModelForTokenClassification",
    "modernbert": "AutoModelForMaskedLM",
    "ernie": "AutoModelForTokenClassification",
    "vit": "AutoModelForImageClassification",
    "deit": "DeiTForImageClassification",
}
AUTO = {"deit": "AutoModelForImageClassification"}  # it has two classes of this kind for DeiT
ARCH = {"layers": [0, 2], "heads.0": 2, "ffn.0": 17, "heads.2": 4, "ffn.2": 5}
EMPTY = {"layers": [0, 1], "heads.0": 0, "ffn.1": 0}
OTHERS = ("bert", "roberta", "electra", "distilbert", "xlm-roberta", "camembert", "data2vec-text", "ernie")
"""Families that test_export.py tests, or whose row is that of one that it tests."""


def chosen(which):
    return [family for family in FAMILIES if (family in OTHERS) == (which == "others")]


@pytest.fixture(scope="module", params=["new", pytest.param("others", marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    models, archs, expected, modes = {}, {}, {}, {}
    for family, mode in itertools.product(chosen(request.param), ("hetero", "padded")):
        whole = tiny_net(family, head=HEADS.get(family, "AutoModelForSequenceClassification"))
        inputs = tiny_images() if family in ("vit", "deit") else tiny_inputs()
        if family == "mpnet":
            whole.mpnet.encoder.relative_attention_bias.weight.data.mul_(50)
            rewire(whole, {"heads": {0: [2, 0, 3, 1], 2: [3, 2, 1, 0]}})
        for arch in (ARCH, EMPTY):
            name = f"{family}-{mode}-{len(models)}"
            with torch.no_grad():
                expected[name] = {"inputs": inputs, "logits": view(whole, arch)(**inputs).logits}
            models[name], archs[name], modes[name] = extract(whole, arch), arch, mode
    if request.param == "new":  # a head that asks the auto class for its base, which is resized then, too
        thin = tiny_net("llama", head="AutoModelForSequenceClassification")
        thin = factorize_linears(factorize_embedding(thin, 8), 4, ["gate", "query"])
        name = "llama_classifier-hetero-thin"
        expected[name] = {"inputs": tiny_inputs(), "logits": thin(**tiny_inputs()).logits.detach()}
        models[name], modes[name] = thin, "hetero"
    directories = {name: folder / name for name in models}
    reports = export.export_all(models, None, directories, mode=modes, expected=expected, archs=archs)
    return folder, models, expected, reports


def test_every_export_agrees_with_the_view(exported):
    _, models, _, reports = exported
    assert reports.keys() == models.keys()
    for name, report in reports.items():
        assert report["verified"] is True, name
        assert report["max_abs_difference"] <= 1e-5, name


def test_exports_load_here_without_the_flag(exported):
    folder, models, expected, _ = exported
    for name in models:
        family, _, mode = name.rpartition("-")[0].rpartition("-")
        auto = getattr(transformers, AUTO.get(family) or HEADS.get(family, "AutoModelForSequenceClassification"))
        model = auto.from_pretrained(folder / name).eval()
        with torch.no_grad():
            logits = model(**expected[name]["inputs"]).logits
        torch.testing.assert_close(logits, expected[name]["logits"], rtol=0, atol=3e-6, msg=name)
        assert (blueprint(model) == blueprint(models[name])) is (mode == "hetero"), name
        again = read_net(folder / name) if mode == "hetero" else model
        assert (blueprint(again) == blueprint(models[name])) is (mode == "hetero"), name


def test_an_exported_decoder_generates_as_the_network_did(exported):
    folder, models, _, _ = exported
    for name in models:
        if name.startswith(("gpt2-", "llama-")):
            model = transformers.AutoModelForCausalLM.from_pretrained(folder / name).eval()
            prompt = {key: value[:1] for key, value in tiny_inputs().items()}
            settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            assert torch.equal(model.generate(**prompt, **settings), models[name].generate(**prompt, **settings))


def test_padded_heads_are_where_the_stock_class_looks_for_them(exported):
    folder, models, _, _ = exported
    name = next((name for name in models if name.startswith("mpnet-padded")), None)
    if name is None:
        pytest.skip("MPNet is not among the others")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder / name)
    heads = []
    for layer in loaded.mpnet.encoder.layer:
        sizes = layer.attention.attn.q.weight.view(4, -1).abs().sum(1)
        heads.append(sizes.nonzero().flatten().tolist())
    assert heads == [[0, 2], [0, 1, 2, 3]]  # of the order 2, 0, 3, 1 the first two
