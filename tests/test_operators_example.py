"""A stranger's operations, from the example distribution: trained, found, extracted, exported, loaded, deployed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasframe as nf
from nasframe import registry
from nasframe.cli import main
from nasframe.plugin_loading import plugin_manager
from nasframe.testing.kit import run_checks
from nasframe.testing.registered import contract_of

EXAMPLE = Path(__file__).parents[1] / "docs/examples/nasframe-operators"
RECIPE = EXAMPLE / "recipes/digits.yaml"
WIDTH, LENGTH, FEATURES, CLASSES = 32, 8, 8, 10

LOAD = """
import sys
sys.modules["nasframe"] = None  # an import of it fails
import json
import torch
from transformers import AutoModel

torch.manual_seed(0)
rows = torch.rand(3, 8, 8)
for path in sys.argv[1:]:
    model = AutoModel.from_pretrained(path, trust_remote_code=True).eval()
    with torch.no_grad():
        print(json.dumps(model(rows=rows).logits.tolist()))
"""


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Register the example as if it were installed, for this file's tests alone."""
    sys.path.insert(0, str(EXAMPLE))
    import nasframe_operators

    manager = plugin_manager()
    is_installed = manager.is_registered(nasframe_operators)
    if not is_installed:
        manager.register(nasframe_operators, "nasframe_operators")
    yield
    if not is_installed:
        manager.unregister(nasframe_operators)
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def finished(installed, tmp_path_factory):
    """The recipe's stages with almost no training, exports included."""
    return nf.run(nf.load_recipe(str(RECIPE), ["smoke=true"]), out=tmp_path_factory.mktemp("operators") / "run")


def report_of(run):
    return json.loads((run.directory / "report.json").read_text(encoding="utf-8"))


def macs_of(operations):
    """Multiply-adds of a network for one picture, from the formulas of its layers."""
    matrix = WIDTH * WIDTH * LENGTH
    each = {
        "identity": 0,
        "convolution": 3 * WIDTH * LENGTH + matrix,
        "attention": 3 * matrix + 2 * LENGTH * LENGTH * WIDTH + matrix,
        "mlp": 8 * matrix,
    }
    return FEATURES * WIDTH * LENGTH + sum(each[name] for name in operations) + WIDTH * CLASSES


def params_of(operations):
    """Parameters of a network, from the formulas of its layers."""
    norm = 2 * WIDTH
    each = {
        "identity": 0,
        "convolution": norm + 3 * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH,
        "attention": norm + 4 * (WIDTH * WIDTH + WIDTH),
        "mlp": norm + 8 * WIDTH * WIDTH + 5 * WIDTH,
    }
    ends = FEATURES * WIDTH + WIDTH + LENGTH * WIDTH + norm + WIDTH * CLASSES + CLASSES
    return ends + sum(each[name] for name in operations)


@pytest.mark.parametrize(("kind", "name"), [("space", "operators"), ("task", "digit_rows"), ("model", "row_reader")])
def test_it_keeps_the_contracts(kind, name):
    assert [outcome for outcome in run_checks(contract_of(registry.find(kind, name))) if not outcome.passed] == []


def test_a_run_finds_networks_within_their_budgets(finished):
    report = report_of(finished)
    winners = {model["name"]: model for model in report["models"] if model["role"] == "winner"}
    assert set(winners) == {"best@60%", "best@30%"}
    largest = macs_of(["mlp"] * 6)
    for name, share in {"best@60%": 0.6, "best@30%": 0.3}.items():
        operations = list(winners[name]["arch"].values())
        assert winners[name]["costs"]["macs"] == macs_of(operations) <= share * largest
        assert winners[name]["costs"]["params"] == params_of(operations)


def test_a_report_of_ones_own_network_has_no_empty_columns(finished):
    report = report_of(finished)
    for model in report["models"]:
        assert not {"encoder_params", "backbone_params"} & set(model["costs"])
    assert not [notice for notice in report.get("notices", []) if "cannot be counted" in str(notice)]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(["identity", "convolution", "attention", "mlp"]), min_size=1, max_size=5))
def test_a_view_is_its_extracted_model_and_both_train(operations):
    import torch
    from nasframe_operators.network import Reader
    from nasframe_operators.space import Operators

    torch.manual_seed(len(operations))
    net = Reader(WIDTH)
    space = Operators(net.config, layers=len(operations))
    supernet = space.supernet(net)
    arch = {f"op.{layer}": name for layer, name in enumerate(operations)}
    model = space.extract(supernet, arch)
    rows = torch.rand(2, LENGTH, FEATURES)
    outputs = space.view(supernet, arch)(rows=rows).logits
    assert torch.equal(outputs, model(rows=rows).logits)
    assert sum(parameter.numel() for parameter in model.parameters()) == params_of(operations)
    outputs.sum().backward()
    trained = {name for name, parameter in supernet.named_parameters() if parameter.grad is not None}
    chosen = [f"layers.{layer}.{name}." for layer, name in enumerate(operations)]
    assert all(name.startswith(tuple(chosen)) for name in trained if name.startswith("layers."))


def test_models_load_without_nasframe_and_are_deployed_for_another_budget(finished, tmp_path):
    import torch
    from nasframe_operators.network import ChosenReader
    from safetensors.torch import load_file

    out = tmp_path / "deployed"
    assert main(["deploy", str(finished.directory), "macs<=45%", "--no-search", "--out", str(out)]) == 0
    (record,) = json.loads((out / "deploy.json").read_text(encoding="utf-8"))["models"]
    assert record["costs"]["macs"] == macs_of(record["arch"].values()) <= 0.45 * macs_of(["mlp"] * 6)

    winners = {model["name"]: model for model in report_of(finished)["models"] if model["role"] == "winner"}
    folders = {
        finished.directory / "models/best-60": winners["best@60%"]["arch"],
        finished.directory / "models/best-30": winners["best@30%"]["arch"],
        out / record["path"]: record["arch"],
    }
    paths = [str(folder) for folder in folders]
    done = subprocess.run([sys.executable, "-I", "-c", LOAD, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = [json.loads(line) for line in done.stdout.splitlines()]
    torch.manual_seed(0)
    rows = torch.rand(3, 8, 8)
    for (folder, arch), logits in zip(folders.items(), loaded, strict=True):
        model = ChosenReader(list(arch.values()), width=WIDTH)
        model.load_state_dict(
            {name.removeprefix("net."): value for name, value in load_file(folder / "model.safetensors").items()}
        )
        assert torch.allclose(model(rows=rows).logits, torch.tensor(logits), atol=1e-6)
