"""Kinds of processor: runs of one study that were made on several are marked, seed by seed, wherever it is shown."""

import json
from pathlib import Path

import pytest

from nasframe.cli import main
from nasframe.processes import device, processor
from nasframe.running.environment import _accelerator
from nasframe.store import RunStore
from nasframe.training.optim import native_bf16
from nasframe_studies import compare, study
from nasframe_studies.processors import kind_here, notes, other_machine_note, processors
from nasframe_studies.records import Processors, as_json, from_json
from nasframe_studies.run_facts import processor_kinds
from study_directory import make_study

XEON = {"device": "cpu", "processor": "Xeon", "bf16": True}
EPYC = {"device": "cpu", "processor": "EPYC", "bf16": False}


def made_on(home: Path, arm: str, seed: int, *environments: dict[str, object]) -> None:
    """Record the machines of a run."""
    store = RunStore(home / f"runs/{arm}/sst2/seed-{seed}")
    store.put("environments", list(environments))
    store.close()


@pytest.fixture
def home(tmp_path):
    """A study of two arms and four seeds: two seeds on each of two kinds of processor."""
    home = make_study(tmp_path, arms=("random", "sng"), tasks=("sst2",), seeds=4, trials=4)
    for arm in ("random", "sng"):
        for seed in range(4):
            made_on(home, arm, seed, XEON if seed < 2 else EPYC)
    return home


def analysed(home: Path):
    return compare.analyse(home, study.collect(home), study.settings(home))


def test_one_kind_of_processor_is_not_mentioned(home):
    for arm in ("random", "sng"):
        for seed in range(4):
            made_on(home, arm, seed, XEON)
    report = analysed(home)
    assert report.processors == Processors()
    assert not any("PROCESSOR" in line for line in report.notes)


def test_seeds_of_another_kind_are_marked_once_and_visibly(home, capsys):
    report = analysed(home)
    assert report.processors.kinds == {"A": "Xeon with native bf16", "B": "EPYC without native bf16"}
    assert [(entry.seed, entry.marks, entry.unlike) for entry in report.processors.seeds] == [
        (0, ["A"], False), (1, ["A"], False), (2, ["B"], False), (3, ["B"], False),
    ]  # fmt: skip
    (note,) = [line for line in report.notes if "PROCESSOR" in line or "CONDITIONS" in line or "LIKE FOR" in line]
    assert note.startswith(
        "RUNS WERE MADE ON DIFFERENT KINDS OF PROCESSOR: A is Xeon with native bf16 (seeds 0, 1); B is EPYC without"
        " native bf16 (seeds 2, 3)."
    )
    assert from_json(as_json(report)).processors == report.processors
    assert main(["compare", str(home), "--out", str(home / "page")]) == 0
    shown = capsys.readouterr().out
    assert "KINDS OF PROCESSOR" in shown
    assert "‡" not in shown
    page = (home / "page" / "study.md").read_text()
    assert page.count("KINDS OF PROCESSOR") == 1
    assert "0 A, 1 A, 2 B, 3 B" in page
    assert (home / "page" / "study.html").read_text().count("KINDS OF PROCESSOR") == 1
    assert len(json.loads((home / "page" / "study.json").read_text())["processors"]["seeds"]) == 4


def test_a_seed_whose_arms_are_of_different_kinds_is_marked_more_strongly(home, capsys):
    made_on(home, "random", 2, XEON)
    made_on(home, "sng", 3, EPYC, XEON)  # it went on elsewhere
    report = analysed(home)
    assert [entry.seed for entry in report.processors.seeds if entry.unlike] == [2, 3]
    (note,) = [line for line in report.notes if line.startswith("PAIRS ARE NOT LIKE FOR LIKE")]
    assert "processor at seed 2 of sst2: A (random), B (sng); seed 3 of sst2: B (random, sng), A (sng). Diff" in note
    assert main(["compare", str(home), "--out", str(home / "page")]) == 0
    shown = capsys.readouterr().out
    assert "PAIRS ARE NOT LIKE FOR LIKE" in shown
    assert "] ‡" in shown
    for name in ("study.md", "study.html"):
        page = (home / "page" / name).read_text()
        assert "PAIRS ARE NOT LIKE FOR LIKE" in page
        assert "2 A≠B, 3 A≠B" in page
        assert "] ‡" in page
    assert r"$\ddagger$" in (home / "page" / "study.tex").read_text()


def test_other_pairs_of_the_seed_are_like_for_like(tmp_path):
    """A third arm on another machine does not touch the difference between the two others."""
    home = make_study(tmp_path, arms=("random", "sng", "greedy"), tasks=("sst2",), seeds=2, trials=4)
    for arm in ("random", "sng", "greedy"):
        made_on(home, arm, 0, EPYC if arm == "sng" else XEON)
    report = analysed(home)
    from nasframe_studies.tables import rows

    marked = {row.arm for row in rows(report, report.tables[0]) if row.difference.endswith("‡")}
    assert marked == {"sng"}


def test_a_study_that_goes_on_says_that_this_machine_is_another(home):
    runs = study.settings(home).runs
    note = other_machine_note(home, runs)
    assert note.startswith(
        f"This machine has another kind of processor ({kind_here()}) than the finished runs were made"
    )
    assert "(Xeon with native bf16, EPYC without native bf16)" in note
    assert other_machine_note(home, []) is None
    made_on(home, "sng", 3, _here())
    assert other_machine_note(home, runs) is None


def _here() -> dict[str, object]:
    """What a run on this machine records of it."""
    where = device()
    return {"processor": processor(), "accelerator": _accelerator(), "bf16": native_bf16(where), "device": str(where)}


def test_what_counts_as_a_kind():
    gpu = {"device": "cuda:0", "processor": "Xeon", "accelerator": "H200", "bf16": True}
    assert processor_kinds([gpu, gpu | {"processor": "EPYC", "device": "cuda:1"}]) == ["H200"]
    assert processor_kinds([{"device": "cpu", "processor": "Xeon"}, {"threads": 2}]) == ["Xeon"]
    assert processor_kinds([XEON, EPYC]) == ["Xeon with native bf16", "EPYC without native bf16"]
    assert processors([]) == Processors()
    assert list(notes(Processors())) == []
