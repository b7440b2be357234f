"""Tables of architectures without knobs: as a domain, as files, and for samplers that need more than they offer."""

import json

import numpy as np
import pytest

from nasframe import registry
from nasframe.cli import main
from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.search.domain import DomainError
from nasframe.testing import DomainContract
from nasframe.testing.kit import run_checks
from nasframe_bench.listed import Listed, part_counts
from nasframe_bench.table_file import ArchTable, read_table, write_table

CHAINS = [{"nodes": [{"op": op} for op in ops]} for ops in ("a", "b", "ab", "ba", "aab", "abb", "bbb", "aaa", "aaaa")]


def table(features=True, crosses=False):
    made = ArchTable({}, metrics=["accuracy"], costs=["params"], listed="Chains", crosses=crosses)
    for number, arch in enumerate(CHAINS):
        row = {"arch": arch, "metrics": {"accuracy": number / 10}, "costs": {"params": len(arch["nodes"])}}
        if features:
            row["features"] = [float(len(arch["nodes"])), float(number)]
        made.rows.append(row)
    return made


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("crosses", [True, False])
def test_rows_are_a_domain_that_keeps_the_contract(features, crosses):
    class Rows(DomainContract):
        def make(self):
            return table(features, crosses).domain()

    assert [outcome for outcome in run_checks(Rows) if not outcome.passed] == []
    domain = Rows().make()
    assert (hasattr(domain, "features"), hasattr(domain, "crossover")) == (features, crosses)


def test_mutants_are_the_nearest_rows_and_children_lie_between_their_parents():
    archs = [{"place": place} for place in range(40)]
    domain = Listed(archs, features=[[place] for place in range(40)], crosses=True)
    rng = np.random.default_rng(0)
    mutants = {domain.mutate({"place": 20}, rng)["place"] for _ in range(200)}
    assert mutants == {16, 17, 18, 19, 21, 22, 23, 24}  # the eight nearest by hand
    children = {domain.crossover({"place": 10}, {"place": 14}, rng)["place"] for _ in range(200)}
    assert {11, 12, 13} < children <= set(range(7, 18))
    assert {domain.mutate({"place": 99}, rng)["place"] for _ in range(200)} > mutants  # not a row: a draw
    part = domain.restrict(keep=lambda arch: arch["place"] % 10 == 0)
    assert [arch["place"] for arch in part.enumerate()] == [0, 10, 20, 30]
    assert part.mutate({"place": 0}, rng)["place"] in (10, 20, 30)
    with pytest.raises(UnsatisfiableError):
        part.restrict(keep=lambda arch: False).sample(rng)
    with pytest.raises(UsageError, match="no knobs to restrict"):
        domain.restrict({"place": [1]})
    with pytest.raises(DomainError, match="does not list"):
        domain.canonical({"place": 41})


def test_parts_are_counted_wherever_they_stand():
    first = {"nodes": [{"op": "a", "inputs": [0]}, {"op": "b", "inputs": [1]}]}
    moved = {"nodes": [{"op": "b", "inputs": [1]}, {"op": "a", "inputs": [0]}]}
    other = {"nodes": [{"op": "a", "inputs": [0]}, {"op": "a", "inputs": [1]}]}
    counts = part_counts([first, moved, other])
    assert counts[0] == counts[1] != counts[2]


@pytest.mark.parametrize("ending", ["json", "csv"])
@pytest.mark.parametrize("features", [True, False])
def test_files_bring_everything_back(tmp_path, ending, features):
    path = tmp_path / f"chains.{ending}"
    made = table(features, crosses=True)
    write_table(made, path)
    read = read_table(path)
    assert (read.listed, read.crosses, read.metrics, read.costs) == ("Chains", True, ["accuracy"], ["params"])
    assert read.rows == made.rows
    assert read.head() == made.head()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda row: row.update(arch=[1]), r"row 2: 'arch' is \[1\]. Expected a whole architecture"),
        (lambda row: row.update(features=[1.0]), "row 2: 'features' is .* as many finite numbers as in row 1"),
        (lambda row: row.pop("features"), "row 2: 'features' is None"),
        (lambda row: row.update(arch=CHAINS[0]), "row 2: the same architecture again"),
    ],
)
def test_faulty_rows_are_named(tmp_path, change, text):
    path = tmp_path / "chains.json"
    write_table(table(), path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content["rows"][1])
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UsageError, match=text):
        read_table(path)


def test_nothing_is_predicted_beyond_the_rows(tmp_path):
    path = tmp_path / "chains.json"
    write_table(table(), path)
    with pytest.raises(UsageError, match=r"leaves none to predict\. Expected missing: screen"):
        registry.make("space", "table", path=path, missing="model")
    space = registry.make("space", "table", path=path)
    assert space.view(None, CHAINS[2])() == {"accuracy": 0.2}
    assert space.view(None, {"nodes": []})() == {}


def test_a_benchmark_leaves_out_who_needs_knobs_and_refuses_who_is_named(tmp_path, capsys):
    path = tmp_path / "chains.json"
    write_table(table(), path)
    words = ["bench", "sampler", "random", "--table", str(path), "--seeds", "2", "--budget", "6", "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert [sampler["name"] for sampler in json.loads(printed.out)["samplers"]] == ["random", "evolution"]
    assert "nasframe: left out: frontier" in printed.err
    assert main([*words, "--against", "grid"]) == 2
    assert "sampler 'grid' needs a domain with 'knobs', which Listed does not have" in capsys.readouterr().err


def test_columns_tell_conditions_below_conditions(tmp_path):
    path = tmp_path / "nested.csv"
    path.write_text(
        "op,kernel,dilation,metric.accuracy\nskip,,,0.1\nconv,1,,0.2\nconv,3,1,0.3\nconv,3,2,0.4\n", encoding="utf-8"
    )
    read = read_table(path)
    assert read.active == {"kernel": ("op", ["conv"]), "dilation": ("kernel", [3])}
    assert read.domain().size == 4
