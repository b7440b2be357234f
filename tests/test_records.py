"""Runs behind the tables of docs/results.md: each packed database is one that its study names."""

import tarfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

ARCHIVES = sorted((Path(__file__).parents[1] / "benchmarks" / "records").glob("*.tar.xz"))


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
