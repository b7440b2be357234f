"""The recipe at the published scale, on a network of its twelve layers and other sizes."""

import json
import random

import pytest
import torch
import yaml
from transformers import AutoModel, BertConfig, BertModel, BertTokenizer

import nasframe as nf
from stand_in import SPECIAL

WORDS = [*SPECIAL, *(f"word{number}" for number in range(40))]


@pytest.mark.slow
def test_it_runs_to_verified_exports_that_plain_transformers_load(tmp_path):
    config = BertConfig(
        num_hidden_layers=12, hidden_size=32, num_attention_heads=4, intermediate_size=64, vocab_size=len(WORDS)
    )
    BertModel(config).save_pretrained(tmp_path / "net")
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(tmp_path / "net")
    draw = random.Random(0)
    rows = []
    for _ in range(160):
        text = " ".join(draw.choices(WORDS[len(SPECIAL) :], k=draw.randint(4, 10)))
        rows.append(json.dumps({"text": text, "label": len(text) % 2}))
    (tmp_path / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    recipe = {
        "extends": "autobert_zero/bert-base",
        "name": "tiny",
        "model": {"use": "hf", "path": str(tmp_path / "net")},
        "task": {"use": "text_classification", "train": str(tmp_path / "texts.jsonl"), "text": "text"}
        | {"label": "label", "max_length": 24},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run = nf.run(nf.load_recipe(path, ["smoke=true"]), out=tmp_path / "run", report=False, progress=False)
    for name in ("best", "published"):
        folder = run.directory / "models" / name
        assert (folder / "modeling_nasframe.py").exists()
        assert {"network.py", "expression.py"} <= {file.name for file in folder.iterdir()}
        loaded = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        ids = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            again = loaded(
                input_ids=torch.nn.functional.pad(ids, (0, 4)),
                attention_mask=torch.nn.functional.pad(torch.ones_like(ids), (0, 4)),
            ).logits
        assert (logits - again).abs().max() < 1e-5
