"""Two recipes on real data without a download: a vision transformer on digits, a language model on docstrings.

Their pipelines run here with ``smoke=true``; with their own numbers they run behind the marker ``slow``, and have to
meet what docs/results.md says of them.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import nasframe as nf
from in_process import InProcess
from nasframe.export import write as export
from nasframe.report.page import build

ROOT = Path(__file__).resolve().parents[1]
DIGITS = str(ROOT / "recipes/vit/digits.yaml")
DECODER = str(ROOT / "recipes/decoder/docs-decoder.yaml")
BEST = "models/best-50"


def run(recipe, folder, *overrides):
    return nf.run(nf.load_recipe(recipe, list(overrides)), out=folder, progress=False, report=False).directory


def rows_of(directory):
    report = build(directory)
    return {model["name"]: model for model in report["models"]}


def score(row):
    return row["score"]


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(export, "Verifier", InProcess)


def test_digits_smoke(in_this_process, tmp_path):
    directory = run(DIGITS, tmp_path / "run", "smoke=true")
    report = json.loads((directory / BEST / "export_report.json").read_text())
    assert report["verified"]
    assert report["logits"] == [8, 10]
    arch = json.loads((directory / BEST / "arch.json").read_text())
    assert arch["blueprint"]["model"] == "ViTForImageClassification"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hspg=true", "dynabert=true"])
def test_other_methods_on_digits_smoke(in_this_process, tmp_path, method):
    directory = run(DIGITS, tmp_path / "run", "smoke=true", method)
    assert json.loads((directory / BEST / "export_report.json").read_text())["verified"]


def test_decoder_smoke(in_this_process, tmp_path):
    directory = run(DECODER, tmp_path / "run", "smoke=true", "task.packages=[numpy]")
    report = json.loads((directory / BEST / "export_report.json").read_text())
    assert report["verified"]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The classes of exports are registered in this process; a fresh one needs trust_remote_code=True.
    model = AutoModelForCausalLM.from_pretrained(directory / BEST)
    tokenizer = AutoTokenizer.from_pretrained(directory / BEST)
    inputs = tokenizer("Return the", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert tokens.shape == (1, inputs["input_ids"].shape[1] + 5)
    assert tokenizer.decode(tokens[0]).startswith("Return the")
    again = AutoTokenizer.from_pretrained(directory / "models/teacher")
    assert again.get_vocab() == tokenizer.get_vocab(), "one tokenizer for all models of the run"


def fresh(code):
    """Run code in a process that cannot import nasframe, and return what it prints as JSON."""
    blocker = f"import sys; sys.path.insert(0, {str(ROOT / 'nasframe/export')!r})\nimport reload\n"
    blocker += "sys.meta_path.insert(0, reload.Blocker()); sys.path.pop(0)\n"
    script = blocker + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["seed=0", "hspg=true", "dynabert=true"])
def test_digits(tmp_path, method):
    directory = run(DIGITS, tmp_path / "run", method)
    rows = rows_of(directory)
    teacher, small = rows["teacher"], rows["best@50%"]
    assert score(teacher) >= 0.95
    assert score(small) >= score(teacher) - 0.02
    assert small["costs"]["encoder_params"] <= 0.5 * teacher["costs"]["encoder_params"]
    shape = fresh(f"""
        import json, torch
        from transformers import AutoModelForImageClassification

        path = {str(directory / BEST)!r}
        model = AutoModelForImageClassification.from_pretrained(path, trust_remote_code=True)
        with torch.no_grad():
            print(json.dumps(list(model(pixel_values=torch.zeros(2, 1, 8, 8)).logits.shape)))
    """)
    assert shape == [2, 10]


@pytest.mark.slow
def test_decoder(tmp_path):
    directory = run(DECODER, tmp_path / "run")
    scratch = run(DECODER, tmp_path / "scratch", "scratch=true")
    rows = rows_of(directory)
    teacher, small = rows["teacher"], rows["best@50%"]
    from_scratch = rows_of(scratch)["best@50%"]
    assert score(small) <= 1.15 * score(teacher)
    assert score(small) < score(from_scratch)
    for cost in ("params", "encoder_params", "macs"):
        assert small["costs"][cost] == from_scratch["costs"][cost], "the same size"
    text = fresh(f"""
        import json
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = {str(directory / BEST)!r}
        model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
        tokens = model.generate(**tokenizer("Return the", return_tensors="pt"), max_new_tokens=10, do_sample=False)
        print(json.dumps(tokenizer.decode(tokens[0])))
    """)
    assert text.startswith("Return the")
    assert len(text) > len("Return the") + 10
