"""``nasframe new``: what it writes is sound, installs, passes its own tests, and is found by name."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib

import pytest

from nasframe import registry, scaffold
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.testing import Contract
from nasframe.testing.kit import run_checks

KINDS = tuple(scaffold.KINDS)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TRAINING = {
    "domain",
    "modifier",
    "trainer",
    "transform",
    "estimator",
    "space",
    "task",
    "exporter",
}  # their contracts take seconds each
SOME_KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in TRAINING else kind for kind in KINDS]


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_what_is_written_keeps_its_contract(kind, tmp_path, monkeypatch):
    folder = scaffold.new(kind, f"tried-{kind}", tmp_path / "made")
    monkeypatch.syspath_prepend(str(folder))
    module = load(folder / f"tests/test_tried_{kind}.py")
    contracts = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Contract) and c.use is None]
    contracts = [contract for contract in contracts if contract.__module__ == module.__name__]
    outcomes = []
    for contract in contracts:  # a domain comes with a space
        contract.trials = 300
        outcomes += run_checks(contract)
    assert [(outcome.check, outcome.message) for outcome in outcomes if not outcome.passed] == []
    assert len(outcomes) >= 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_distribution_is_complete(kind, tmp_path):
    folder = scaffold.new(kind, "my_own", tmp_path / "made")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    package = "nasframe_my_own"
    assert names == {
        "pyproject.toml", "README.md", "tox.ini", f"{package}/__init__.py", f"{package}/{kind}.py",
        "tests/test_my_own.py",
    }  # fmt: skip
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "nasframe-my-own"
    assert project["entry-points"]["nasframe"] == {"my_own": package}
    assert (
        f'register("my_own", "{package}.{kind}:MyOwn{scaffold.registered_as(kind).capitalize()}")'
        in (folder / package / "__init__.py").read_text()
    )
    assert not [path for path in folder.rglob("*") if path.is_file() and "{{" in path.read_text(encoding="utf-8")]


def test_every_kind_can_be_written():
    assert {scaffold.registered_as(kind) for kind in KINDS} == set(registry.KINDS)


@pytest.mark.parametrize("name", ["", "My", "1st", "a b", "../x", "a--b", "a_", "é", "a.b", "-x"])
def test_bad_names_are_refused(name, tmp_path):
    with pytest.raises(UsageError, match="cannot name a plugin"):
        scaffold.new("sampler", name, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_the_command_and_its_refusals(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "sampler", "mine"]) == 0
    assert "nasframe-mine/pyproject.toml" in capsys.readouterr().out
    for arguments, text in [
        (["sampler", "mine"], "nasframe-mine: exists already"),
        (["sampler", "random"], "already registered, by nasframe"),
        (["sampel", "mine"], "Did you mean 'sampler'?"),
        (["sampler", "Mine"], "cannot name a plugin"),
        (["sampler"], "Missing argument"),
    ]:
        assert main(["new", *arguments]) == 2
        assert text in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["nasframe-mine"]
    assert main(["new", "task", "mine", "--out", "deep/er"]) == 0
    assert (tmp_path / "deep/er/nasframe_mine/task.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_installs_and_passes_its_own_tests(kind, tmp_path):
    folder, target = scaffold.new(kind, "newborn", tmp_path / "made"), tmp_path / "site"
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def run(*words):
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python = sys.executable
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-t", str(target), str(folder))
    run(python, "-m", "pytest", "-q", "-c", str(folder / "pyproject.toml"), str(folder / "tests"))
    kind = scaffold.registered_as(kind)
    listed = json.loads(run(python, "-m", "nasframe", "plugins", "--json"))
    assert {"kind": kind, "name": "newborn", "package": "nasframe-newborn"}.items() <= next(
        row for row in listed["plugins"] if row["name"] == "newborn"
    ).items()
    assert "newborn" in json.dumps(json.loads(run(python, "-m", "nasframe", "schema"))["$defs"][kind])
    run(python, "-m", "nasframe", "plugins", "check", f"{kind}/newborn")
