"""A run directory loses nothing: atomic writes, exact states, one owner at a time."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import RunError, UsageError
from nasframe.records import LedgerEntry, Trial
from nasframe.store import RunStore, load_state, save_state

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
)


@pytest.mark.slow
@given(state=st.dictionaries(st.text(), plain))
@settings(max_examples=60, deadline=None)
def test_plain_states_come_back_with_their_types(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "s.safetensors"
    save_state(path, state)
    assert load_state(path) == state


def test_tensors_and_arrays_come_back_exactly(tmp_path):
    shared = torch.randn(4, 3)
    state = {
        "view": shared[:, 1:], "again": shared, "half": torch.ones(2, dtype=torch.bfloat16), "empty": torch.zeros(0, 3),
        "array": np.arange(3), "moments": {7: torch.tensor(2.5)}, "flag": torch.tensor([True]),
    }  # fmt: skip
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    for key in ("view", "again", "half", "empty", "flag"):
        assert torch.equal(back[key], state[key])
        assert back[key].dtype == state[key].dtype
    assert isinstance(back["array"], np.ndarray)
    assert back["moments"][7].item() == 2.5


def test_objects_are_refused_and_leave_the_old_state(tmp_path):
    save_state(tmp_path / "s", {"a": 1})
    with pytest.raises(TypeError, match="set"):
        save_state(tmp_path / "s", {"a": {1, 2}})
    assert load_state(tmp_path / "s") == {"a": 1}


def test_a_torn_state_is_named(tmp_path):
    save_state(tmp_path / "s", {"a": torch.zeros(100)})
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:50])
    with pytest.raises(RunError, match="not a readable state"):
        load_state(tmp_path / "s")


def test_a_full_directory_is_refused_and_untouched(tmp_path):
    (tmp_path / "precious").write_text("keep")
    with pytest.raises(UsageError, match="not empty") as caught:
        RunStore(tmp_path, create=True)
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_a_run_is_refused_with_the_hint(tmp_path):
    RunStore(tmp_path / "run", create=True).close()
    with pytest.raises(UsageError, match="--resume"):
        RunStore(tmp_path / "run", create=True)


def test_the_second_process_is_refused(tmp_path):
    store = RunStore(tmp_path / "run", create=True)
    code = f"from nasframe.store import RunStore; from pathlib import Path; RunStore(Path({str(tmp_path / 'run')!r}))"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process" in second.stderr
    store.close()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_trials_come_back_in_order(tmp_path):
    store = RunStore(tmp_path / "run", create=True)
    trials = [
        Trial({"layers": [0, i]}, 0.5 + i, (0.5, -1.0), {"accuracy": 0.5}, {"params": 3.0}, 0.25, "done", "search", 8)
        for i in range(3)
    ]
    for number in (2, 0, 1):
        store.add_trial("search", number, trials[number], 0.1)
    assert store.trials("search") == trials
    assert len(store.frame("trial")) == 3


def test_a_failed_transaction_leaves_nothing(tmp_path):
    store = RunStore(tmp_path / "run", create=True)

    def fail():
        with store.transaction():
            store.put("a", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.get("a") is None


def test_stages_add_up_their_sittings(tmp_path):
    store = RunStore(tmp_path / "run", create=True)
    assert store.stage_state("x") == "new"
    store.start_stage("x", 0, "train")
    store.end_stage("x", "failed", 2.0)
    store.start_stage("x", 0, "train")
    store.end_stage("x", "done", 3.0, {"k": 1})
    assert (store.stage_state("x"), store.stage_result("x")) == ("done", {"k": 1})
    assert store.frame("stage")["run_seconds"].item() == 5.0


def test_models_and_ledger_are_kept_by_name(tmp_path):
    store = RunStore(tmp_path / "run", create=True)
    store.put_model("best@50%", stage="extract", arch={"layers": [0]}, budget="50%")
    store.put_model("best@50%", metrics={"dev": {"accuracy": 0.5}})
    row = store.model("best@50%")
    assert (row["arch"], row["stage"], row["metrics"]["dev"]["accuracy"]) == ({"layers": [0]}, "extract", 0.5)
    entry = LedgerEntry("student", 3, 96, 960, 1e9, 2e9, 0, 1.5)
    store.add_ledger("train", [entry])
    store.add_ledger("train", [entry])
    assert len(store.frame("ledger")) == 1
    store.log("train", 1, {"loss": float("nan"), "lr": 0.1})
    assert json.loads(store.frame("metric").to_json(orient="records"))[0]["value"] is None
