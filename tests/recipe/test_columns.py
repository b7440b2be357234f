"""Columns that a data file does not have are found by ``check``, with the option and what was probably meant."""

import json

import pandas as pd
import pytest

from nasframe.recipe.resolve import check_recipe
from stand_in import write_net

ROWS = [{"review": f"text {i}", "stars": "xy"[i % 2], "": ""} for i in range(4)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    write_net(folder / "net", **sizes)
    frame = pd.DataFrame(ROWS)
    frame.to_csv(folder / "a.csv", index=False)
    frame.rename(columns={"stars": " stars"}).to_csv(folder / "spaced.csv", index=False)
    frame.to_csv(folder / "a.tsv", index=False, sep="\t")
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "empty.csv").write_text("")
    (folder / "latin.csv").write_bytes(b"caf\xe9,stars\n")
    return folder


def problems(home, file, **options):
    task = {"use": "text_classification", "train": str(home / file), **options}
    recipe = {"nasframe": 1, "model": {"use": "hf", "path": str(home / "net")}, "task": task}
    recipe["stages"] = [{"train": {"max_steps": 1, "save_as": "teacher"}}]
    return check_recipe(recipe)[1]


@pytest.mark.parametrize("file", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_every_missing_column_is_found_by_check(home, file):
    if file == "a.parquet":
        pytest.importorskip("pyarrow", reason="needs the extra hub")
        pd.DataFrame(ROWS).to_parquet(home / file)
    text, label = problems(home, file, text="reviews", label="star")
    assert (text.path, label.path) == ("task.text", "task.label")
    assert "Did you mean 'review'?" in text.text
    assert str(home / file) in label.text


@pytest.mark.parametrize("file", ["a.csv", "spaced.csv", "empty.csv", "latin.csv"])
def test_what_a_header_does_not_say_is_left_to_the_run(home, file):
    assert problems(home, file, text="review", label="stars") == []
