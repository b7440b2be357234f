"""Parts of a study, from several directories and machines: joined by arm, task and seed, or refused with the reason."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from test_processors import EPYC, XEON

from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.recipe.yaml import dump
from nasframe.store import RunStore
from nasframe_studies import compare, runs, study
from nasframe_studies.parts import portable
from study_directory import make_study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of two arms, two tasks and two seeds."""
    home = tmp_path_factory.mktemp("whole") / "study"
    make_study(home, arms=("random", "sng"), tasks=("sst2", "mrpc"), seeds=2, trials=2)
    return home


def part(whole, home, keep, **changes):
    """Write the part of a study that holds some of its runs, as if it had been made for these alone."""
    facts = study.settings(whole).plain()
    kept = [run for run in facts["runs"] if keep(run)]
    for run in kept:
        shutil.copytree(whole / run["run"], home / run["run"])
    arms = {run["arm"]: facts["arms"][run["arm"]] for run in kept}
    tasks = list(dict.fromkeys(run["task"] for run in kept))
    seeds = sorted({run["seed"] for run in kept})
    said = facts | {"runs": kept, "arms": arms, "tasks": tasks, "seeds": seeds} | changes
    (home / study.SETTINGS).write_text(dump(said))
    return str(home)


def rows(frame):
    return sorted(map(tuple, frame[["arm", "task", "seed", "model", "score"]].itertuples(index=False)))


def in_store(directory, **facts):
    store = RunStore(directory)
    for key, value in facts.items():
        store.put(key, value)
    store.close()


def ran_again(directory):
    """Change a run as if it had been made a second time."""
    with closing(sqlite3.connect(Path(directory) / "run.db")) as db:
        db.execute("UPDATE stage SET finished_at = finished_at + 1")
        db.commit()


DIVISIONS = {
    "seeds": [lambda run: run["seed"] == 0, lambda run: run["seed"] == 1],
    "arms": [lambda run: run["arm"] == "sng", lambda run: run["arm"] == "random"],
    "tasks": [lambda run: run["task"] == "sst2", lambda run: run["task"] == "mrpc"],
    "corners": [
        lambda run: (run["arm"], run["seed"]) == ("random", 0),
        lambda run: (run["arm"], run["seed"]) != ("random", 0),
    ],
}


@pytest.mark.parametrize("division", DIVISIONS)
def test_parts_are_the_whole(whole, tmp_path, division):
    places = [part(whole, tmp_path / str(n), keep) for n, keep in enumerate(DIVISIONS[division])]
    frame, joined = runs.as_study(places)
    assert rows(frame) == rows(study.collect(whole))
    assert (joined.study, joined.compare.against) == ("samplers", "random")
    assert set(joined.arms) == {"random", "sng"}
    assert set(joined.tasks) == {"sst2", "mrpc"}
    (note,) = joined.notes
    assert note.startswith("Joined by arm, task and seed from 2 directories:")
    assert all(place in note for place in places)
    report = compare.analyse(Path(), frame, joined)
    alone = compare.analyse(whole, study.collect(whole), study.settings(whole))
    tables = {(table.task, table.model): [row.mean for row in table.comparisons] for table in report.tables}
    assert tables == {(table.task, table.model): [row.mean for row in table.comparisons] for table in alone.tables}
    assert report.missing == []
    assert note in report.notes


def test_seeds_of_other_hardware_are_marked_in_the_tables_and_as_json(whole, tmp_path, capsys):
    places = [part(whole, tmp_path / str(n), keep) for n, keep in enumerate(DIVISIONS["corners"])]
    for place, machine in zip(places, (XEON, EPYC), strict=True):
        for database in Path(place).rglob("run.db"):
            in_store(database.parent, environments=[machine])
    assert main(["compare", *places, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["processors"]["kinds"] == {"A": "Xeon with native bf16", "B": "EPYC without native bf16"}
    unlike = [(entry["task"], entry["seed"]) for entry in report["processors"]["seeds"] if entry["unlike"]]
    assert sorted(unlike) == [("mrpc", 0), ("sst2", 0)]
    assert any(note.startswith("PAIRS ARE NOT LIKE FOR LIKE") for note in report["notes"])
    assert any(note.startswith("Joined by arm, task and seed") for note in report["notes"])
    assert main(["compare", *places, "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "study.html").read_text(encoding="utf-8")
    assert "Joined by arm, task and seed" in page
    assert "0 A≠B" in page


# ---- runs that are in two parts


def test_copies_count_once_and_visibly(whole, tmp_path):
    first = part(whole, tmp_path / "first", lambda run: run["seed"] == 0)
    second = part(whole, tmp_path / "second", lambda run: True)
    frame, joined = runs.as_study([first, second])
    assert rows(frame) == rows(study.collect(whole))
    note = joined.notes[1]
    assert note.startswith(f"Left out of {second}, counted in {first}: 4 runs (copies): random sst2 seed 0,")
    assert note.endswith("1 more.")
    with pytest.raises(UsageError, match="given twice"):
        runs.as_study([first, first])


def test_the_finished_one_of_two_runs_counts_and_visibly(whole, tmp_path):
    places = [part(whole, tmp_path / name, lambda run: True) for name in ("one", "two")]
    for place, seed in zip(places, (0, 1), strict=True):
        for run in study.settings(place).runs:
            ran_again(Path(place) / run.run)
            if run.seed == seed:
                in_store(Path(place) / run.run, finished=False)
    shutil.rmtree(Path(places[1]) / "runs/sng/mrpc/seed-1")  # deleted is not finished either
    # What is left of seed 0 is finished in the second part alone, and the other way round.
    frame, joined = runs.as_study(places)
    assert rows(frame) == rows(study.collect(whole))
    assert {Path(run.run).parts[-5] for run in joined.runs if run.seed == 0} == {"two"}
    assert {Path(run.run).parts[-5] for run in joined.runs if run.seed == 1} == {"one"}
    assert [note.partition(": random")[0] for note in joined.notes[1:]] == [
        f"Left out of {places[0]}, counted in {places[1]}: 4 runs (not finished in the former)",
        f"Left out of {places[1]}, counted in {places[0]}: 4 runs (not finished in the former)",
    ]


def test_a_run_that_is_finished_nowhere_is_missing_once(whole, tmp_path):
    places = [part(whole, tmp_path / name, lambda run: run["task"] == "sst2") for name in ("one", "two")]
    for place in places:
        for run in study.settings(place).runs:
            in_store(Path(place) / run.run, finished=run.seed == 0)
            if run.seed == 1:
                ran_again(Path(place) / run.run) if place == places[0] else None
    frame, joined = runs.as_study(places)
    report = compare.analyse(Path(), frame, joined)
    assert sorted((run.arm, run.seed) for run in report.missing) == [("random", 1), ("sng", 1)]


def test_results_that_differ_are_refused_unless_one_place_is_preferred(whole, tmp_path, capsys):
    places = [part(whole, tmp_path / name, lambda run: run["seed"] == 0) for name in ("one", "two")]
    for run in study.settings(places[1]).runs:
        ran_again(Path(places[1]) / run.run)
    assert main(["compare", *places]) == 2
    error = capsys.readouterr().err
    assert "the same arm 'random', task 'sst2' and seed 0" in error
    assert "3 more pairs likewise." in error
    assert f"--prefer {places[0]}" in error
    assert main(["compare", *places, "--prefer", places[1], "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    left_out = [note for note in report["notes"] if note.startswith(f"Left out of {places[0]}, counted in {places[1]}")]
    assert "4 runs (other results; the latter is preferred)" in left_out[0]
    with pytest.raises(UsageError, match="--prefer: 'three' is none of the places"):
        runs.as_study(places, prefer="three")


# ---- parts that do not fit


def test_an_arm_of_another_recipe_is_refused_with_the_options(whole, tmp_path):
    places = [part(whole, tmp_path / str(n), keep) for n, keep in enumerate(DIVISIONS["seeds"])]
    for recipe in (tmp_path / "1").rglob("runs/sng/**/recipe.yaml"):
        recipe.write_text(recipe.read_text().replace("sampler: sng}", "sampler: sng, trials: 7}"))
    with pytest.raises(UsageError) as caught:
        runs.as_study(places)
    text = str(caught.value)
    assert text.startswith(f"arm 'sng' is another recipe in {places[1]} than in {places[0]}: stages.search.trials 7")
    assert "instead of nothing" in text
    assert text.count("\n") == 0  # once for the arm, not for each task and seed
    assert f"nasframe compare first={places[0]} second={places[1]}" in text
    assert len(runs.as_study([f"first={places[0]}", f"second={places[1]}"])[1].arms) == 4


def test_what_an_arm_changes_is_compared_if_parts_share_no_task(whole, tmp_path):
    places = [part(whole, tmp_path / "sst2", DIVISIONS["tasks"][0])]
    arms = {arm: {"base": "x.yaml", "changes": {"stages.search.trials": 9}} for arm in ("random", "sng")}
    places.append(part(whole, tmp_path / "mrpc", DIVISIONS["tasks"][1], arms=arms))
    with pytest.raises(UsageError, match=r"arm 'random' .*trials 9 instead of nothing") as caught:
        runs.as_study(places)
    assert str(caught.value).count("is another recipe") == 2


def test_files_may_lie_elsewhere(whole, tmp_path):
    places = [part(whole, tmp_path / str(n), keep) for n, keep in enumerate(DIVISIONS["seeds"])]
    for number, place in enumerate(places):
        for recipe in Path(place).rglob("recipe.yaml"):
            recipe.write_text(f"plugins: [/machine{number}/mine.py]\n{recipe.read_text()}")
    assert len(runs.as_study(places)[1].runs) == 8
    assert portable({"a": ["/x/y.py", "b"]}) == {"a": ["…/y.py", "b"]}


def test_parts_that_compare_differently_are_refused_unless_one_way_is_chosen(whole, tmp_path):
    options = study.settings(whole).plain()["compare"]
    places = [part(whole, tmp_path / "0", DIVISIONS["seeds"][0])]
    changed = options | {"against": "sng", "family": "page"}
    places.append(part(whole, tmp_path / "1", DIVISIONS["seeds"][1], compare=changed))
    with pytest.raises(UsageError) as caught:
        runs.as_study(places)
    first, second = str(caught.value).splitlines()
    assert first == (
        f"compare.against differs between the parts: random in {places[0]}, sng in {places[1]}."
        " Expected one; choose it with --against."
    )
    assert "compare.family" in second
    joined = runs.as_study(places, against="sng", family="task")[1]
    assert (joined.compare.against, joined.compare.family) == ("sng", "task")


def test_runs_of_different_studies_are_compared_with_a_note(whole, tmp_path):
    places = [part(whole, tmp_path / "0", DIVISIONS["arms"][0], study="one")]
    places.append(part(whole, tmp_path / "1", DIVISIONS["arms"][1], study="two"))
    frame, joined = runs.as_study(places)
    assert rows(frame) == rows(study.collect(whole))
    (note,) = joined.notes
    assert note.startswith("These are runs of different studies (one, two)")
    assert joined.compare.against is None
