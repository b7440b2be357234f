"""Runs behind the tables of the documents: each packed database is one that its study names, and can be read again."""

import importlib
import sys
import tarfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

from nasframe.report.read import read_run
from nasframe.store import RunStore, text_digest
from run_directory import RECIPE, make_run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
records = importlib.import_module("records")
sys.path.remove(str(BENCHMARKS))
ARCHIVES = sorted((BENCHMARKS / "records").glob("*.tar.xz"))


@pytest.mark.slow
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def test_packed_runs_are_those_of_their_studies(archive: Path) -> None:
    with tarfile.open(archive) as packed:
        names = [PurePosixPath(name) for name in packed.getnames()]
        studies = [name.parent for name in names if name.name == "study.yaml"]
        named = {
            study / run["run"]
            for study in studies
            for run in yaml.safe_load(packed.extractfile(str(study / "study.yaml")))["runs"]
        }
    found = {name.parent for name in names if name.name == "run.db"}
    assert studies
    assert found
    assert found <= named
    assert all(study.parts[0] == archive.name.partition(".")[0] for study in studies)


@pytest.mark.slow
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def test_packed_runs_can_be_read(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    runs = sorted(database.parent for database in tmp_path.rglob("run.db"))
    for run in (runs[0], runs[-1]):
        assert read_run(run).models


def test_a_run_is_packed_without_local_paths_and_can_be_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    recipe = RECIPE + "description: made of /home/me/GLUE/CoLA\n"
    (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
    store = RunStore(run)
    store.put("recipe_digest", text_digest(recipe))
    store.close()
    records.copy_run(run, tmp_path / "packed")
    assert "made of CoLA" in (tmp_path / "packed/recipe.yaml").read_text(encoding="utf-8")
    packed, own = read_run(tmp_path / "packed"), read_run(run)
    assert packed.models == own.models
