"""Exports in other programs: what people do with a model in a fresh process that has no nasframe, without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from in_process import InProcess
from nasframe.export import write as export
from nasframe.nn.slices import extract
from nasframe.testing.toy import tiny_net, tiny_tokenizer

ARCH = {"layers": [0, 2], "heads.0": 3, "ffn.0": 17, "ffn.2": 40}
LABELS = {0: "no", 1: "yes"}
BEGINNING = """
import sys, warnings
for package in ("nasframe", "nasframe_basics"):
    sys.modules[package] = None  # importing it fails
import torch, transformers
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline
transformers.utils.logging.disable_progress_bar()
warnings.simplefilter("error")
path, out = sys.argv[1:]
remote = {"trust_remote_code": True}
model = AutoModelForSequenceClassification.from_pretrained(path, **remote).eval()
tokenizer = AutoTokenizer.from_pretrained(path, **remote)
inputs = tokenizer(["good", "bad day"], padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
def near(other, tolerance=1e-5):
    assert torch.allclose(other.float(), logits, atol=tolerance), (other, logits)
"""
USES = {
    "the lines of the card": """
with open(path + "/README.md") as file:
    card = file.read()
lines = card.split("```python\\n")[1].split("```")[0].replace("path/to/this/directory", path)
names = {}
exec(lines, names)
near(names["model"].eval()(**names["tokenizer"](["good", "bad day"], padding=True, return_tensors="pt")).logits)
""",
    "pipeline": """
classify = pipeline("text-classification", model=path, **remote)
answers = classify(["good", "bad day"])
for answer, row in zip(answers, logits.softmax(-1)):
    assert answer["label"] == model.config.id2label[int(row.argmax())]
    assert abs(answer["score"] - float(row.max())) < 1e-4
""",
    "AutoModel": """
transformers.utils.logging.set_verbosity_error()  # it lists the head that is left out, as of any classifier
base = AutoModel.from_pretrained(path, **remote).eval()
transformers.utils.logging.set_verbosity_warning()
assert base(**inputs).last_hidden_state.shape[:2] == inputs["input_ids"].shape
""",
    "half precision": """
for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
    half = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype, **remote).eval()
    assert half.dtype == dtype
    near(half(**inputs).logits, tolerance)
""",
    "dynamic int8": """
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch announces another module for it
    int8 = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
near(int8(**inputs).logits, 0.2)
""",
    "saving again": """
model.save_pretrained(out)
tokenizer.save_pretrained(out)
again = AutoModelForSequenceClassification.from_pretrained(out, **remote).eval()
same = AutoTokenizer.from_pretrained(out, **remote)
near(again(**same(["good", "bad day"], padding=True, return_tensors="pt")).logits)
""",
    "Trainer": """
from transformers import Trainer, TrainingArguments
rows = [{**tokenizer("good"), "labels": 1}, {**tokenizer("bad"), "labels": 0}] * 4
arguments = TrainingArguments(out, max_steps=2, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True)
trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
before = model.classifier.weight.detach().clone()
trainer.train()
assert not torch.equal(before, model.classifier.weight)
assert trainer.predict(rows).predictions.shape == (8, 2)
""",
    "torch.export": """
words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own about its tracer
    program = torch.export.export(model, (), words)
near(program.module()(**words).logits)
""",
}
QUICK = ("the lines of the card", "pipeline", "AutoModel", "half precision", "dynamic int8")


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """One network in the modes that transformers loads."""
    folder = tmp_path_factory.mktemp("elsewhere")
    net = tiny_net(id2label=LABELS, label2id={name: number for number, name in LABELS.items()})
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 40
    models = {"hetero": extract(net, ARCH), "padded": extract(net, ARCH), "stock": extract(net, {"layers": [0, 2]})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "Verifier", InProcess)
        directories = {mode: folder / f"{mode}-50" for mode in models}
        export.export_all(models, tokenizer, directories, mode={mode: mode for mode in models})
    return directories


def run_elsewhere(directory: Path, out: Path, uses: list[str]) -> None:
    """Run uses of a model in one fresh process that cannot ask anything, and whose libraries must not complain."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TRANSFORMERS_VERBOSITY")
    }
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(out / "modules")}
    script = BEGINNING + "\n".join(USES[use] for use in uses)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(directory), str(out / "saved")],
        env=environment, cwd=out, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("arning", "[transformers]", "not recommended", "Do you wish"):
        assert word not in done.stdout + done.stderr, done.stdout + done.stderr


TOKENIZER = """
import sys
import transformers
path = sys.argv[1]
asked = []
def refuse(*arguments, **options):
    asked.append(arguments)
    raise AssertionError("a question")
import builtins
builtins.input = refuse
tokenizers = [
    transformers.AutoTokenizer.from_pretrained(path, tokenizer_type="bert"),
    transformers.BertTokenizer.from_pretrained(path),
]
assert not asked
own = tokenizers[0]
assert type(own) is transformers.BertTokenizer, type(own)
for other in tokenizers:
    assert other("good bad day").data == own("good bad day").data
    assert other.model_max_length == own.model_max_length == 40
assert not [name for name in sys.modules if name.startswith("transformers_modules.")]  # none of its code ran
for load in (transformers.AutoModel, transformers.AutoModelForSequenceClassification):
    try:
        load.from_pretrained(path, trust_remote_code=False)
    except ValueError as error:  # and never the stock classes
        assert "trust_remote_code=True" in str(error), error
    else:
        raise AssertionError(load)
"""


def test_the_tokenizer_of_an_export_asks_nothing_and_runs_no_code(exports, tmp_path):
    """The ways that documents and cards name; without the flag AutoTokenizer asks, as it reads config.json first."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", TOKENIZER, str(exports["hetero"])],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("arning", "[transformers]", "Do you wish"):
        assert word not in done.stdout + done.stderr, done.stdout + done.stderr
    card = (exports["hetero"] / "README.md").read_text(encoding="utf-8")
    assert 'tokenizer = BertTokenizer.from_pretrained("path/to/this/directory")' in card


def test_an_export_is_used_without_a_question_or_a_warning(exports, tmp_path):
    run_elsewhere(exports["hetero"], tmp_path, list(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hetero", "padded", "stock"])
@pytest.mark.parametrize("use", USES)
def test_each_use_of_each_mode(exports, tmp_path, mode, use):
    run_elsewhere(exports[mode], tmp_path, [use])
