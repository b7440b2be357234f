"""The example distribution with a look-up table and an observer: short, sound, installable, and of use in a run."""

import csv
import json
import os
import subprocess
import sys

import pytest

import nasframe as nf
from nasframe import registry
from nasframe.store import RunStore
from nasframe.testing.kit import run_checks
from test_docs import ROOT, blocks_of

EXAMPLE = ROOT / "docs/examples/nasframe-lookup"
TOY = ROOT / "tests/data/toy.yaml"


@pytest.fixture
def installed(monkeypatch):
    """Make the distribution's plugins known, as if it was installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    registry.plugins.cache_clear()
    import nasframe_lookup

    registry.plugin_manager().register(nasframe_lookup, name="lookup")
    yield
    registry.plugins.cache_clear()


def test_each_plugin_is_short():
    for name in ("estimator.py", "score.py", "observer.py"):
        lines = (EXAMPLE / "nasframe_lookup" / name).read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 60, name


def test_the_page_shows_the_same_observer():
    block = next(b for b in blocks_of(ROOT / "docs/observers.md") if b.argument == "leaderboard.py")
    observer = (EXAMPLE / "nasframe_lookup/observer.py").read_text(encoding="utf-8")
    shown = block.code[block.code.index("class Leaderboard") :].partition("\n\n\n@hookimpl")[0]
    assert shown.strip() == observer[observer.index("class Leaderboard") :].strip()


def test_they_keep_their_contracts(installed):
    from nasframe.testing.registered import contract_of

    for kind, name in (("estimator", "lookup"), ("evaluator", "snip"), ("observer", "leaderboard")):
        contract = contract_of(registry.find(kind, name))
        contract.draws = 2
        assert [outcome.message for outcome in run_checks(contract) if not outcome.passed] == []


def test_a_run_is_bounded_by_the_table_and_reports_what_it_searched_by(installed, tmp_path):
    space = nf.resolve(nf.load_recipe(TOY)).space
    domain = nf.make("space", space).domain
    rows = [("knob", "value", "cost"), ("base", "", 1.0)]
    for knob, values in domain.knobs.items():
        rows += [(knob, json.dumps(value), place + 1) for place, value in enumerate(values)]
    table = tmp_path / "millis.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    stages = [
        {"train": {"save_as": "teacher", "max_steps": 1}},
        {"search": {"sampler": "random", "trials": 6}},
        {"extract": {}},
        {"evaluate": {"models": ["best@*"], "costs": ["millis"]}},
    ]
    toy = nf.load_recipe(TOY)
    changes = {"stages": stages, "budgets": {"millis": ["<= 20"]}, "observers": ["leaderboard"]}
    estimators = {"millis": {"use": "lookup", "path": str(table)}}
    recipe = nf.load_recipe({**toy.data, **changes, "estimators": estimators}, base=toy.base)
    run = nf.run(recipe, out=tmp_path / "run", report=False)
    store = RunStore(run.directory, shared=True)
    trials, best = store.trials("search"), store.model("best@<= 20")
    store.close()
    costs = {(row[0], row[1]): float(row[2]) for row in rows[1:]}
    expected = 1.0 + sum(costs[knob, json.dumps(value)] for knob, value in best["arch"].items())
    assert best["costs"]["millis"] == expected
    found = [trial.costs["millis"] for trial in trials if trial.arch == best["arch"]]
    assert found == [expected]
    lines = (run.directory / "best-search.txt").read_text(encoding="utf-8").splitlines()
    scores = sorted((trial.score for trial in trials if trial.score is not None), reverse=True)[:3]
    assert [float(line.partition(" ")[0]) for line in lines] == pytest.approx(scores, abs=1e-4)


@pytest.mark.slow
def test_it_installs_and_passes_its_own_tests(tmp_path):
    target = tmp_path / "site"
    python = sys.executable
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])}

    def run(*words):
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(EXAMPLE), str(copy)], check=True)
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-t", str(target), str(copy))
    run(python, "-m", "pytest", "-q", "-c", str(copy / "pyproject.toml"), str(copy / "tests"))
    run(python, "-m", "nasframe", "plugins", "check", "estimator/lookup", "evaluator/snip", "observer/leaderboard")
