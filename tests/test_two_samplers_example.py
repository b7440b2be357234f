"""The example distribution with two samplers: short, sound, and of use in a search and in a benchmark."""

import itertools
import json
import sys

import pytest

from nasframe import registry
from nasframe.cli import main
from nasframe.domain import Choices
from nasframe.plugin_loading import plugin_manager
from nasframe.search import search
from nasframe.testing.kit import run_checks
from nasframe.testing.registered import contract_of
from test_docs import ROOT

EXAMPLE = ROOT / "docs/examples/nasframe-two-samplers"
NAMES = ("local_search", "predicted")


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Register the example as if it were installed, for this file's tests alone."""
    sys.path.insert(0, str(EXAMPLE))
    import nasframe_two_samplers

    manager = plugin_manager()
    is_installed = manager.is_registered(nasframe_two_samplers)
    if not is_installed:
        manager.register(nasframe_two_samplers, "nasframe_two_samplers")
    yield
    if not is_installed:
        manager.unregister(nasframe_two_samplers)
    sys.path.remove(str(EXAMPLE))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_short(name):
    lines = (EXAMPLE / f"nasframe_two_samplers/{name}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_each_keeps_its_contract(name):
    contract = contract_of(registry.find("sampler", name))
    contract.trials = 200
    contract.seconds = 240.0  # a regression is fitted for every ask, which takes long on a busy machine
    assert [outcome.message for outcome in run_checks(contract) if not outcome.passed] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_search_finds_the_best_architecture_within_its_bounds(name):
    domain = Choices({f"width.{i}": [1, 2, 4, 8] for i in range(4)})

    def evaluate(arch, examples):
        return {"accuracy": float(sum(arch.values()))}

    allowed = domain.restrict(keep=lambda arch: arch["width.0"] <= 2)
    sampler = registry.find("sampler", name).load()(domain, seed=0)
    result = search(sampler, domain, evaluate, costs=lambda arch: {}, trials=60, within=allowed)
    assert result.winners["best"].arch == {"width.0": 2, "width.1": 8, "width.2": 8, "width.3": 8}


def test_they_are_benchmarked_side_by_side(tmp_path, capsys):
    lines = ["a,b,c,metric.accuracy,cost.params"]
    for widths in itertools.product([1, 2, 4, 8], repeat=3):
        lines.append(",".join(map(str, [*widths, sum(widths), 100 * widths[0]])))
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["bench", "sampler", *NAMES, "random", "--table", str(table), "--objectives", "accuracy"]
    assert main([*command, "--seeds", "2", "--budget", "40", "--against", "none", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(NAMES) <= {row["name"] for row in result["samplers"]}
