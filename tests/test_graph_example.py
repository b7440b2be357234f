"""A stranger's graphs, from the example distribution: trained, found, extracted, reported, tabulated, benchmarked."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasframe as nf
from nasframe import registry
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.plugin_loading import plugin_manager
from nasframe.report.graphs import layout
from nasframe.testing import DomainContract
from nasframe.testing.kit import run_checks
from nasframe.testing.registered import contract_of

EXAMPLE = Path(__file__).parents[1] / "docs/examples/nasframe-graphs"
RECIPE = EXAMPLE / "recipes/digits.yaml"
SMALL = ["stages.supernet.epochs=2", "stages.search.trials=12", "stages.tune.epochs=1", "stages.search.examples=128"]


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Register the example as if it were installed, for this file's tests alone."""
    sys.path.insert(0, str(EXAMPLE))
    import nasframe_graphs

    manager = plugin_manager()
    is_installed = manager.is_registered(nasframe_graphs)
    if not is_installed:
        manager.register(nasframe_graphs, "nasframe_graphs")
    yield
    if not is_installed:
        manager.unregister(nasframe_graphs)
    sys.path.remove(str(EXAMPLE))


def graphs(most=5):
    from nasframe_graphs.domain import Graphs

    return Graphs(most)


@pytest.fixture(scope="module")
def finished(installed, tmp_path_factory):
    content = nf.load_recipe(str(RECIPE), [*SMALL, "~stages.export"])
    return nf.run(content, out=tmp_path_factory.mktemp("graphs") / "run")


def test_it_keeps_the_contracts():
    class Domain(DomainContract):
        def make(self):
            return graphs()

    sampler = contract_of(registry.find("sampler", "foresight"))
    sampler.trials = 200
    for contract in (Domain, sampler, contract_of(registry.find("space", "graphs"))):
        assert [outcome for outcome in run_checks(contract) if not outcome.passed] == []


def formula_of(nodes):
    """Return the set of formulas of a graph, computed from its definition alone."""
    texts = ["x"]
    for node in nodes:
        texts.append(f"{node['op']}({' '.join(sorted({texts[source] for source in node['inputs']}))})")
    return frozenset(texts)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_graphs_that_compute_the_same_have_one_form(seed):
    rng = np.random.default_rng(seed)
    domain = graphs()
    arch = domain.sample(rng)
    nodes = arch["nodes"]
    # The nodes in another order, with each one written twice.
    order = sorted(range(len(nodes)), key=lambda number: (max(nodes[number]["inputs"]) > 0, rng.random()))
    shuffled, place = [], {0: 0}
    waiting = list(order)
    while waiting:
        number = next(n for n in waiting if all(source in place for source in nodes[n]["inputs"]))
        waiting.remove(number)
        inputs = [place[source] for source in nodes[number]["inputs"]][::-1]
        shuffled += [{"op": nodes[number]["op"], "inputs": inputs}] * 2
        place[number + 1] = len(shuffled)
    other = {"nodes": shuffled}
    assert domain.canonical(other) == arch
    assert domain.contains(other)
    assert formula_of(other["nodes"]) == formula_of(nodes)
    mutant = domain.mutate(arch, rng)
    assert formula_of(mutant["nodes"]) != formula_of(nodes)


def test_a_run_finds_and_reports_graphs(finished):
    report = json.loads((finished.directory / "report.json").read_text(encoding="utf-8"))
    winners = {model["name"]: model for model in report["models"] if model["role"] == "winner"}
    assert set(winners) == {"best@60%", "best@25%"}
    largest = {"nodes": [{"op": "conv3", "inputs": [number]} for number in range(5)]}
    space = registry.make("space", "graphs", {"config": finished_config()})
    net = space.supernet(finished_stem())
    full = sum(parameter.numel() for parameter in space.extract(net, largest).parameters())
    for name, share in {"best@60%": 0.6, "best@25%": 0.25}.items():
        arch = winners[name]["arch"]
        assert graphs().contains(arch)
        params = sum(parameter.numel() for parameter in space.extract(net, arch).parameters())
        assert winners[name]["costs"]["params"] == params <= share * full
        nodes = report["drawings"][name]["nodes"]
        assert len(nodes) == len(arch["nodes"]) + 2
    assert (finished.directory / "figures/graphs.svg").is_file()
    page = (finished.directory / "report.html").read_text(encoding="utf-8")
    assert "each box reads the boxes that lines lead from" in page
    trials = finished.trials
    assert all(isinstance(json.loads(cell), list) for cell in trials["arch.nodes"])


def finished_stem():
    return registry.make("model", "digit_stem").load(None, 0)


def finished_config():
    return finished_stem().config


def test_it_is_tabulated_and_benchmarked_offline(finished, tmp_path, capsys):
    table = tmp_path / "graphs.json"
    assert main(["tabulate", str(finished.directory), "--archs", "14", "--examples", "64", "--out", str(table)]) == 0
    assert main(["tabulate", str(finished.directory), "--archs", "16", "--examples", "64", "--out", str(table)]) == 0
    content = json.loads(table.read_text(encoding="utf-8"))
    assert content["domain"] == {"listed": "Graphs", "crossover": False}
    assert len(content["rows"]) == 16
    assert content["metrics"] == ["accuracy", "loss"]
    assert all(len(row["features"]) == 7 for row in content["rows"])
    capsys.readouterr()
    out = tmp_path / "bench"
    words = ["bench", "sampler", "foresight", "--table", str(table), "--seeds", "2", "--budget", "10"]
    assert main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "left out: frontier" in printed.err
    result = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    assert [sampler["name"] for sampler in result["samplers"]] == ["foresight", "random", "evolution"]
    assert "16 architectures, listed whole" in (out / "bench.md").read_text(encoding="utf-8")


def test_samplers_of_knobs_are_refused_with_those_that_would_do(tmp_path, capsys):
    assert main(["check", str(RECIPE), "stages.search.sampler=grid"]) == 2
    said = capsys.readouterr().err
    assert "stages.search.sampler" in said
    assert "sampler 'grid' needs a domain with 'knobs', which Graphs does not have" in said
    assert "evolution, foresight, op_priority, random, sandwich" in said
    assert main(["check", str(RECIPE), "stages.search.within={nodes: [1]}"]) == 2
    assert "cannot be restricted to values of knobs" in capsys.readouterr().err


def test_a_domain_that_would_spoil_a_run_is_refused_before_it(tmp_path, monkeypatch):
    from nasframe_graphs.domain import Graphs

    monkeypatch.setattr(Graphs, "sample", lambda self, rng: {"nodes": ({"op": "max3", "inputs": (0,)},)})
    content = nf.load_recipe(str(RECIPE), SMALL)
    with pytest.raises(UsageError, match=r"space 'graphs': its domain Graphs drew .* after it was stored"):
        nf.run(content, out=tmp_path / "run")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_drawings_have_every_edge_downwards_and_no_two_boxes_in_one_place(seed):
    domain = graphs(9)
    arch = domain.sample(np.random.default_rng(seed))
    drawing = domain.drawing(arch)
    made = layout(drawing)
    assert len(set(made.boxes.values())) == len(drawing.nodes)
    assert len(made.lines) == len(drawing.edges)
    for (source, target), line in zip(drawing.edges, made.lines, strict=True):
        assert line[0] == made.boxes[source]
        assert line[-1] == made.boxes[target]
        assert [y for _, y in line] == list(range(int(line[0][1]), int(line[-1][1]) + 1))
        assert not set(line[1:-1]) & set(made.boxes.values())  # lines pass between boxes


@pytest.mark.slow
def test_it_is_exported_and_deployed(installed, tmp_path):
    run = nf.run(nf.load_recipe(str(RECIPE), SMALL), out=tmp_path / "run")
    assert len(list((run.directory / "models").glob("best*/model.safetensors"))) == 2
    out = tmp_path / "deployed"
    assert main(["deploy", str(run.directory), "params<=20%", "--search", "6", "--out", str(out)]) == 0
    deployed = json.loads((out / "deploy.json").read_text(encoding="utf-8"))
    assert graphs().contains(deployed["models"][0]["arch"])
