"""Extending a study: what is added runs, what is there stays, and nothing that would change it is accepted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe_studies import study
from nasframe_studies.extension import extend
from nasframe_studies.settings import SOURCE, write_settings

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"
STUDY = """\
study: small
base: toy.yaml                    # beside the study
arms:
  evolution: {}
  random: {stages.search.sampler: {use: random}}
seeds: [0]
compare: {metric: accuracy}
"""
QUICK = [
    "task.train=32", "stages.teacher.max_steps=2", "stages.supernet.max_steps=1", "stages.search.trials=4",
    "~stages.tuned", "~stages.transform",
]  # fmt: skip
MORE = ["seeds=[0,1]", "+arms.wide={stages.search.trials: 3}"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with a study's file and its base, the study as ``nasframe ablate`` ran it, and its cache."""
    home = tmp_path_factory.mktemp("begun")
    plugin = str(TOY.parent.parent / "toy_plugin.py")
    (home / "toy.yaml").write_text(TOY.read_text().replace("../toy_plugin.py", plugin))
    (home / "small.yaml").write_text(STUDY)
    places = ["--out", str(home / "out"), "--cache", str(home / "cache")]
    assert main(["ablate", str(home / "small.yaml"), *QUICK, *places]) == 0
    return home


@pytest.fixture
def home(begun, tmp_path):
    """A copy of the study, whose files and cache lie beside it and may be changed."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    source, cache = tmp_path / "small.yaml", tmp_path / "cache"
    facts = replace(study.settings(tmp_path / "out"), source=str(source), cache=str(cache))
    write_settings(tmp_path / "out", facts)
    return tmp_path / "out"


def contents(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file() and path.name != ".lock"}


def stable(home: Path) -> str:
    frame = study.collect(home)
    return frame[[name for name in frame if not study.volatile(name)]].to_csv()


def without_base(home: Path) -> list[study.StudyRun]:
    """The runs of a study, but for the folders from which their recipes were read."""
    return [replace(run, base="") for run in study.settings(home).runs]


@pytest.mark.slow
def test_an_extended_study_is_the_one_that_would_have_begun_with_all_of_it(home, tmp_path, capsys):
    before = contents(home / "runs")
    assert main(["ablate", "--resume", str(home), *MORE]) == 0
    shown = capsys.readouterr().err
    assert f"4 new runs, 2 kept, in {home}" in shown
    assert "3/6  " in shown
    assert "6/6  " in shown
    after = contents(home / "runs")
    assert {path: after[path] for path in before} == before
    report = json.loads((home / "study.json").read_text())
    assert (report["arms"], report["seeds"]) == (["evolution", "random", "wide"], [0, 1])
    assert "wide" in (home / "study.html").read_text()

    places = ["--out", str(tmp_path / "whole"), "--cache", str(tmp_path / "cache")]
    assert main(["ablate", str(home.parent / "small.yaml"), *QUICK, *MORE, *places]) == 0
    assert stable(home) == stable(tmp_path / "whole")
    assert without_base(home) == without_base(tmp_path / "whole")

    # A plain resume goes on with the extended study, and another extension adds to that.
    shutil.rmtree(home / "runs/wide/seed-1")
    (home.parent / "small.yaml").unlink()
    assert main(["ablate", "--resume", str(home)]) == 0
    assert stable(home) == stable(tmp_path / "whole")
    assert main(["ablate", "--resume", str(home), "seeds=[0,1,2]", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "kept: 6 runs, 6 of them finished" in out
    assert "new: 3 runs (evolution: seed 2; random: seed 2; wide: seed 2)" in out


@pytest.mark.slow
def test_a_study_that_was_killed_after_it_was_extended_goes_on(home):
    """``extend`` itself makes no run: its last step is the study's file, and a resume makes the rest."""
    assert [run.run for run in extend(home, MORE).new] == [
        "runs/wide/seed-0", "runs/evolution/seed-1", "runs/random/seed-1", "runs/wide/seed-1",
    ]  # fmt: skip
    assert not (home / "runs/wide").exists()
    assert main(["ablate", "--resume", str(home)]) == 0
    assert len(study.collect(home)["run"].unique()) == 6


@pytest.mark.slow
def test_a_dry_run_shows_what_is_kept_and_what_is_new_and_writes_nothing(home, capsys):
    before = contents(home)
    assert main(["ablate", "--resume", str(home), *MORE, "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    states = {(run["arm"], run["seed"]): run["state"] for run in shown["resumed"]}
    assert states == {
        ("evolution", 0): "finished", ("random", 0): "finished", ("wide", 0): "new",
        ("evolution", 1): "new", ("random", 1): "new", ("wide", 1): "new",
    }  # fmt: skip
    stages = {(row["arm"], row["name"]): row for row in shown["stages"]}
    assert stages["evolution", "search"]["seeds"] == {"kept": [0], "run": [1], "shared": [], "cached": []}
    assert stages["wide", "teacher"]["seeds"] == {"kept": [], "run": [], "shared": [1], "cached": [0]}
    assert main(["ablate", "--resume", str(home), "--dry-run"]) == 0
    assert "kept: 2 runs, 2 of them finished\nnew: no runs" in capsys.readouterr().out
    assert contents(home) == before


LIKE_THEY_ARE = "Expected them as they are; a variant is an arm of its own"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seeds=[1,2]"], "override 'seeds=[1,2]'  seeds  drops seed 0. Expected all arms, tasks and seeds that have"),
        (["~arms.random"], "override '~arms.random'  arms.random  drops the arm."),
        (["+tasks.a={}"], "override '+tasks.a={}'  tasks  drops the runs that are of no task."),
        (
            ["+arms.wide={stages.search.trials: 3}", "arms.random.stages.search.trials=9"],
            "override 'arms.random.stages.search.trials=9'  arms.random  changes the recipe of runs that exist:"
            f" stages.search.trials from 4 to 9. {LIKE_THEY_ARE}",
        ),
        (["seeds=[0,1]", "stages.search.trials=9"], "override 'stages.search.trials=9'  arms.evolution, arms.random"),
        (["compare.budgets={encoder_params: [50%]}"], "budgets.encoder_params from ['75%', '40%'] to ['50%']"),
        (["+arms.random={}"], "'random' exists already. To change it, leave out the '+'."),
        (["+arms.again={}"], "arms.again  the same recipe as arm 'evolution'."),
        (["arms.wide={}"], "no arm 'wide'. Arms: evolution, random."),
        (["small.yaml"], "override 'small.yaml'  not an override."),
        (["compare.metric=acuracy"], "no metric 'acuracy' on 'dev'. Metrics: accuracy. Did you mean 'accuracy'?"),
    ],
)
def test_what_would_change_a_run_that_exists_is_refused_and_nothing_is_lost(home, capsys, overrides, expected):
    before = contents(home)
    assert main(["ablate", "--resume", str(home), *overrides]) == 2
    assert expected in capsys.readouterr().err
    assert contents(home) == before


def test_every_loss_is_told_at_once(home, capsys):
    assert main(["ablate", "--resume", str(home), "seeds=[2]", "~arms.random", "stages.search.trials=9"]) == 2
    shown = capsys.readouterr().err
    for part in ("seeds  drops seed 0", "arms.random  drops", "arms.evolution  changes the recipe"):
        assert part in shown


def test_a_changed_base_changes_no_arm_and_gets_no_new_one(home, capsys):
    base = home.parent / "toy.yaml"
    base.write_text(base.read_text().replace("seed: ", "constraints: {encoder_params: '<= 90%'}\nseed: "))
    before = contents(home)
    assert main(["ablate", "--resume", str(home), *MORE]) == 2
    shown = capsys.readouterr().err
    assert f"{home / 'study.yaml'}  arms.evolution, arms.random  a file of its recipes changed since the" in shown
    assert "It changes the recipe of runs that exist: constraints.encoder_params from None to <= 90%" in shown
    assert contents(home) == before
    # New seeds need no file but the kept recipes.
    extension = extend(home, ["seeds=[0,1]"])
    assert extension.remarks == [f"{home}: files of its recipes changed since; the arms go on as they began."]
    assert "constraints" not in extension.recipe_of(extension.new[0])
    assert main(["ablate", "--resume", str(home), "stages.search.trials=9"]) == 2
    assert "override 'stages.search.trials=9'" in capsys.readouterr().err


def test_a_study_of_an_earlier_version_is_extended_by_its_file_and_all_overrides(home, capsys):
    (home / SOURCE).unlink()
    write_settings(home, replace(study.settings(home), overrides=[]))
    assert main(["ablate", "--resume", str(home), *MORE]) == 2
    assert "or an override is missing: an earlier version began the study" in capsys.readouterr().err
    extend(home, [*QUICK, *MORE])
    assert (home / SOURCE).read_text() == STUDY
    assert study.settings(home).overrides == [*QUICK, *MORE]


def test_a_study_at_work_is_not_extended(home):
    with FileLock(home / ".lock"), pytest.raises(UsageError, match="another process"):
        extend(home, MORE)


def test_a_folder_without_a_study_is_not_extended(tmp_path):
    with pytest.raises(UsageError, match="no study here"):
        extend(tmp_path, MORE)
    assert not list(tmp_path.iterdir())
