"""Run directories that are damaged, moved or edited, disks that are full, kills in the middle of a write."""

import builtins
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_cache import TOY, run_of
from test_runner import Stop, facts

import nasframe as nf
from nasframe import registry, storage
from nasframe.cli import main
from nasframe.errors import RunError, UsageError
from nasframe.export import write as export
from nasframe.recipe.yaml import dump
from nasframe.running import runner
from nasframe.running.reopen import Finished
from nasframe.running.start import start_of
from nasframe.stages.inputs import RunInputs
from nasframe.store import RunStore, load_state, save_state
from nasframe.testing.toy import tiny_net

SHORT = ["~stages.tuned", "~stages.evaluate", "stages.search.trials=6"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped in its search, and the same run at its end."""
    home = tmp_path_factory.mktemp("damage")
    recipe = nf.load_recipe(TOY, SHORT)
    whole = run_of(recipe, out=home / "whole").directory
    known, calls = RunStore.add_trial, iter(range(100))

    def stop(self, *args):
        if next(calls) == 3:
            raise Stop
        known(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunStore, "add_trial", stop)
        with pytest.raises(Stop):
            run_of(recipe, out=home / "run")
    return home / "run", whole


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of the stopped run."""
    return Path(shutil.copytree(stopped[0], tmp_path / "run"))


@pytest.fixture
def finished(stopped, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(stopped[1], tmp_path / "whole"))


def resume(directory: Path) -> int:
    return main(["run", "--resume", str(directory), "--no-progress"])


def the(directory: Path, pattern: str) -> Path:
    return next(iter(sorted(directory.glob(pattern))))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_bytes(b"garbage " * 1000)


FILES = ["checkpoints/net-*.safetensors", "checkpoints/work-*.safetensors", "models/teacher/model.safetensors"]


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_named_at_resume(run, capsys, pattern, damage):
    victim = the(run, pattern)
    damage(victim)
    assert resume(run) == 1
    error = capsys.readouterr().err
    assert victim.name in error
    assert str(victim.parent) in error
    assert "unexpected" not in error


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", ["config.json", "arch.json"])
def test_other_files_of_a_model_count_too(run, damage, name):
    damage(run / "models" / "teacher" / name)
    with pytest.raises(RunError, match=f"teacher/{name}"):
        runner.resume(run)


def test_all_damaged_files_of_models_are_named_at_once(run):
    for name in ("teacher", "supernet"):
        cut(run / "models" / name / "model.safetensors")
    with pytest.raises(RunError, match=r"teacher/model[\s\S]*supernet/model"):
        runner.resume(run)


def test_a_card_or_a_table_beside_a_model_may_be_edited(run, stopped):
    (run / "models" / "teacher" / "README.md").write_text("mine")
    assert facts(runner.resume(run, report=False).directory) == facts(stopped[1])


@pytest.mark.slow
@pytest.mark.parametrize("damage", [empty, overwritten, cut, Path.unlink])
def test_a_damaged_database_is_named_by_every_command(run, finished, capsys, damage):
    commands = (
        ["run", "--resume", str(run)], ["report", str(run)], ["cache", "why", str(run), "teacher"],
        ["compare", str(run), str(finished)], ["deploy", str(run), "--out", str(run.parent / "out"), "params<=90%"],
        ["tabulate", str(run), "--archs", "2", "--out", str(run.parent / "table.json")],
    )  # fmt: skip
    damage(run / "run.db")
    for command in commands:
        assert main(command) in (1, 2), command
        error = capsys.readouterr().err
        assert str(run) in error, command
        assert "unexpected" not in error, command


def test_a_broken_value_in_the_database_is_named(run):
    db = sqlite3.connect(run / "run.db")
    db.execute("UPDATE run SET value = '{' WHERE key = 'data'")
    db.commit()
    db.close()
    with pytest.raises(RunError, match=r"run\.db"):
        runner.resume(run)


@pytest.mark.slow
def test_a_cut_checkpoint_can_be_deleted_and_the_stage_starts_again(stopped, tmp_path, monkeypatch):
    known = nf.store.Checkpoint.save

    def stop(self, state):
        known(self, state)
        if self.path.name.startswith("stage-supernet"):  # the first one: how many follow is a matter of time
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(nf.store.Checkpoint, "save", stop)
        with pytest.raises(Stop):
            run_of(nf.load_recipe(TOY, SHORT), out=tmp_path / "run")
    victim = the(tmp_path / "run", "checkpoints/stage-supernet*")
    cut(victim)
    with pytest.raises(RunError, match="Delete it") as caught:
        runner.resume(tmp_path / "run")
    assert str(victim) in str(caught.value)
    victim.unlink()
    assert facts(runner.resume(tmp_path / "run", report=False).directory) == facts(stopped[1])


def test_a_flipped_bit_of_a_state_is_found(tmp_path):
    place = tmp_path / "state"
    save_state(place, {"a": torch.arange(100.0), "n": 3})
    whole = place.read_bytes()
    for position in (len(whole) - 1, len(whole) - 200, whole.index(b'n\\"') + 0):
        data = bytearray(whole)
        data[position] ^= 1
        place.write_bytes(data)
        with pytest.raises(RunError, match="state"):
            load_state(place)


# ---- what may and may not change between a run and its resume


def test_an_edited_recipe_is_named(run, capsys):
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("trials: 6", "trials: 7"))
    assert resume(run) == 2
    assert str(recipe) in capsys.readouterr().err
    assert main(["report", str(run)]) == 2


def test_a_refused_resume_leaves_a_finished_run_finished(finished):
    (finished / "recipe.yaml").write_text((finished / "recipe.yaml").read_text() + "# edited\n")
    with pytest.raises(UsageError):
        runner.resume(finished)
    store = RunStore(finished, shared=True)
    assert store.get("failure") is None
    store.close()


def finish_with(directory: Path, recipe: str) -> None:
    """Make a run one that finished with this recipe."""
    (directory / "recipe.yaml").write_text(recipe)
    store = RunStore(directory)
    store.put("recipe_digest", hashlib.sha256(recipe.encode()).hexdigest())
    store.put("finished", True)
    store.close()


def test_a_finished_run_of_an_earlier_version_is_read(run):
    data = yaml.safe_load((run / "recipe.yaml").read_text())
    (search,) = (stage["search"] for stage in data["stages"] if "search" in stage)
    search["sampler"] = {"use": "sng", "reference_compat": False, "lam": None, "match": "band", "objective": "loss"}
    finish_with(run, dump(data))
    with pytest.warns(DeprecationWarning, match="sampler 'sng'"):
        plan = Finished(run).plan
    (search,) = (stage.options for stage in plan.stages if stage.verb == "search")
    assert search["sampler"]["match"] == "none"
    assert not {"reference_compat", "objective"} & search["sampler"].keys()


def test_a_recipe_that_this_nasframe_does_not_read_says_what_can_be_done(run, capsys):
    text = (run / "recipe.yaml").read_text()
    finish_with(run, text.replace("use: evolution", "use: evolution\n      former: true"))
    for command in (["run", "--resume", run], ["tabulate", run, "--archs", "2"]):
        assert main([str(word) for word in command]) == 2
        err = capsys.readouterr().err
        assert "stages.search.sampler.former" in err
        assert "The recipe was sound when the run began" in err
        assert str(run / "env.json") in err


def test_a_renamed_recipe_is_named(run, capsys):
    (run / "recipe.yaml").rename(run / "mine.yaml")
    assert resume(run) == 2
    assert str(run / "recipe.yaml") in capsys.readouterr().err


def test_a_run_directory_may_be_moved(run, stopped):
    run.rename(run.with_name("elsewhere"))
    assert facts(runner.resume(run.with_name("elsewhere"), report=False).directory) == facts(stopped[1])


def test_the_folder_of_the_recipe_need_not_be_there_if_nothing_is_read_from_it(run, stopped):
    store = RunStore(run)
    store.put("base", "/nowhere/at/all")
    store.close()
    assert facts(runner.resume(run, report=False).directory) == facts(stopped[1])


READS = """
    def files(self):
        from pathlib import Path
        return [Path(__file__).with_name("weights")]

    def load("""


@pytest.fixture
def project(tmp_path):
    """A recipe whose model declares a folder of files and opens another."""
    text = (TOY.parents[1] / "toy_plugin.py").read_text()
    opened = '__import__("pathlib").Path(__file__).with_name("note.txt").read_text()\n        return net'
    text = (
        text.replace("    def load(", READS.lstrip("\n")).replace("return net", opened).replace('"toy"', '"declared"')
    )
    (tmp_path / "plugin.py").write_text(text)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "note.txt").write_text("a")
    (tmp_path / "recipe.yaml").write_text(
        "nasframe: 1\nplugins: [plugin.py]\nmodel: declared\ntask: declared\nstages:\n"
        "  - train: {save_as: teacher, max_steps: 1}\n  - train: {name: second, max_steps: 1}\n"
    )
    yield tmp_path
    registry.plugins.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights/tokenizer_config.json", "note.txt"])
def test_files_of_a_model_that_changed_since_are_named(project, monkeypatch, name):
    ended, recipe = RunStore.end_stage, nf.load_recipe(project / "recipe.yaml")

    def stop(self, stage, *args):
        if stage == "second":
            raise Stop
        ended(self, stage, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "end_stage", stop)
        with pytest.raises(Stop):
            run_of(recipe, out=project / "run")
    before = (project / name).read_text()
    (project / name).write_text("{ }")
    with pytest.raises(UsageError, match="began with") as caught:
        runner.resume(project / "run")
    assert str(project / name) in str(caught.value)
    (project / name).write_text(before)
    runner.resume(project / "run", report=False)


def test_declared_files_are_part_of_a_key(project):
    def first_key():
        registry.plugins.cache_clear()
        inputs = RunInputs(runner.resolve(nf.load_recipe(project / "recipe.yaml")))
        return start_of(inputs).digests

    before = first_key()
    assert before == first_key()
    (project / "weights" / "more.json").write_text("{}")
    assert list(first_key()["files"]) == ["model/more.json", "model/tokenizer_config.json"]


# ---- disks and locks


def refusing(number):
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number), str(args[0]))

    return refuse


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize(("owner", "name"), [(os, "replace"), (Path, "write_text"), (Path, "mkdir")])
def test_a_disk_that_refuses_a_write_is_named(tmp_path, monkeypatch, number, owner, name):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refusing(number))
        with pytest.raises((RunError, UsageError), match=os.strerror(number)) as caught:
            run_of(nf.load_recipe(TOY, SHORT), out=tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)


LIMITED = """
import resource, signal, sys
from nasframe.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("most", [2_000, 100_000, 200_000, 400_000])
def test_files_that_may_not_grow_are_named_and_the_run_goes_on_later(stopped, tmp_path, most):
    out = tmp_path / "run"
    arguments = ["run", str(TOY), *SHORT, "--out", str(out), "--no-progress"]
    done = subprocess.run([sys.executable, "-c", LIMITED, str(most), *arguments], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert str(out) in done.stderr
    assert "unexpected" not in done.stderr
    assert not list(out.rglob("*.tmp"))
    if (out / "run.db").exists():
        assert facts(runner.resume(out, report=False).directory) == facts(stopped[1])


@pytest.mark.slow
def test_an_error_of_a_plugin_on_a_full_disk_is_named(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "memo.txt")

    monkeypatch.setattr("nasframe.search.loop.search", full)
    assert main(["run", str(TOY), *SHORT, "--out", str(tmp_path / "run"), "--no-progress"]) == 1
    error = capsys.readouterr().err
    assert "memo.txt" in error
    assert "unexpected" not in error
    assert "--resume" in error


@pytest.mark.slow
def test_a_full_cache_costs_the_cache_only(stopped, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nasframe.running.cache.copy_or_link", refusing(errno.ENOSPC))
    run = run_of(nf.load_recipe(TOY, SHORT), out=tmp_path / "run", cache=tmp_path / "cache")
    assert facts(run.directory) == facts(stopped[1]) | {"stage": facts(run.directory)["stage"]}
    assert str(tmp_path / "cache") in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--cache"])
@pytest.mark.parametrize("below", ["", "sub"])
def test_a_file_in_the_way_is_refused_before_work(tmp_path, monkeypatch, capsys, option, below):
    monkeypatch.setattr(runner, "preflight", None)  # the first work
    (tmp_path / "file").write_text("mine")
    options = {"--out": str(tmp_path / "run")} | {option: str(tmp_path / "file" / below)}
    assert main(["run", str(TOY), *(word for pair in options.items() for word in pair)]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("option", ["--out", "--cache"])
def test_a_place_without_permission_is_refused_before_work(tmp_path, monkeypatch, capsys, option):
    monkeypatch.setattr(runner, "preflight", None)
    known = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and known(path, mode))
    (tmp_path / "locked").mkdir()
    options = {"--out": str(tmp_path / "run")} | {option: str(tmp_path / "locked" / "new")}
    assert main(["run", str(TOY), *(word for pair in options.items() for word in pair)]) == 2
    assert str(tmp_path / "locked") in capsys.readouterr().err


def test_a_cache_that_is_a_file_is_refused_by_its_own_command(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["cache", "list", "--cache", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with pytest.raises(UsageError, match="no locks") as caught:
        RunStore(tmp_path / "run", create=True)
    assert str(tmp_path / "run" / ".lock") in str(caught.value)


def test_a_folder_in_the_place_of_the_lock_is_named(run):
    (run / ".lock").unlink()
    (run / ".lock").mkdir()
    with pytest.raises(UsageError, match=r"\.lock"):
        runner.resume(run)


LOCK = """
import sys, time
from pathlib import Path
from nasframe.store import RunStore
held = RunStore(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_lock_of_a_process_that_died_does_not_hold(run, stopped):
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match="another process"):
            RunStore(run)
        holder.kill()
    assert facts(runner.resume(run, report=False).directory) == facts(stopped[1])


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOTDIR, "folder is expected"), (errno.ENOSPC, "full"), (12345, "can be written")]
)
def test_a_problem_says_what_can_be_done(number, words):
    assert words in storage.write_problem(Path("x"), OSError(number, "reason"))


READ, WRITE = "allow this user to read it.", "allow this user to write there, or choose another place."
EITHER = "allow this user to read and write there, or choose another place."


@pytest.mark.parametrize(
    ("name", "allowed", "remedy"),
    [
        ("data.csv", "w", READ),
        ("data.csv", "r", WRITE),
        ("data.csv", "", EITHER),
        ("new.csv", "rx", WRITE),
        ("new.csv", "", EITHER),
        (None, "", EITHER),
    ],
)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_missing_permission_is_that_to_read_or_to_write(tmp_path, monkeypatch, number, name, allowed, remedy):
    (tmp_path / "data.csv").write_text("text,label\n")
    modes = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}
    monkeypatch.setattr(os, "access", lambda path, mode: mode in [modes[letter] for letter in allowed])
    filename = None if name is None else str(tmp_path / name)
    error = OSError(number, "Permission denied", filename)
    problem = storage.disk_problem(error)
    assert problem == f"{filename or 'a file'}: Permission denied. Permission is missing: {remedy}"
    assert WRITE in storage.write_problem(tmp_path / "data.csv", error)


# ---- kills


class Killer:
    """Ends a process, as far as the disk can tell, at the n-th write: what comes after does not happen either."""

    def __init__(self, patch: pytest.MonkeyPatch, moment: int, below: Path) -> None:
        self.left, self.below = moment, str(below)
        patch.setattr(shutil, "rmtree", self.wrap(shutil.rmtree))
        patch.setattr(os, "replace", self.wrap(os.replace))
        patch.setattr("safetensors.torch.save_file", self.wrap(__import__("safetensors.torch").torch.save_file))
        patch.setattr(Path, "write_text", self.wrap(Path.write_text))
        patch.setattr(builtins, "open", self.wrap(builtins.open))

    def wrap(self, function):
        def call(*args, **options):
            if any(self.below in str(arg) for arg in args[:2]):
                self.left -= 1
                if self.left < 0:
                    raise Stop
            return function(*args, **options)

        return call


def whole(model: Path) -> bool:
    return {"config.json", "model.safetensors", "arch.json"} <= {path.name for path in model.iterdir()}


def test_an_interrupt_while_models_change_places_keeps_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "model"
    export.write(tiny_net(layers=1), None, target)
    old, replace = (target / "model.safetensors").read_bytes(), os.replace

    def interrupted(source, place):
        if Path(place) == target and Path(source).name == target.name:
            raise KeyboardInterrupt
        replace(source, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export.write(tiny_net(layers=2), None, target, replace=True)
    assert (target / "model.safetensors").read_bytes() == old


def test_a_plugin_that_meets_a_full_disk_is_not_to_blame(tmp_path):
    code = (
        "import errno\nfrom nasframe import hookimpl\n\nclass Full:\n    def __call__(self, work):\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device', 'memo.txt')\n\n"
        "@hookimpl\ndef register_transforms(register):\n    register('full', Full)\n"
    )
    (tmp_path / "full.py").write_text(code)
    plugins = f"plugins=[{TOY.parents[1] / 'toy_plugin.py'}, {tmp_path / 'full.py'}]"
    recipe = nf.load_recipe(TOY, [plugins, "~budgets", "stages=[{transform: {use: full}}]"])
    with pytest.raises(RunError, match=r"memo\.txt: No space left on device") as caught:
        nf.run(recipe, out=tmp_path / "run")
    assert "full.py" not in str(caught.value)


@pytest.mark.slow
def test_a_kill_at_any_write_of_an_export_leaves_no_half_of_a_model(tmp_path):
    old, new = tiny_net(layers=1), tiny_net(layers=2)
    for replace in (False, True):
        for moment in range(1000):
            home = tmp_path / f"{replace}-{moment}"
            target = home / "model"
            home.mkdir()
            if replace:
                export.write(old, None, target)
                (target / "predictions.csv").write_text("id\n")
            with pytest.MonkeyPatch.context() as patch:
                Killer(patch, moment, home)
                try:
                    export.write(new, None, target, replace=replace)
                    ended = True
                except Stop:
                    ended = False
            assert not target.exists() or whole(target)
            export.clear_rests(home)
            assert [path.name for path in home.iterdir()] in (["model"], [])
            assert target.exists() or not replace
            if replace:
                assert (target / "predictions.csv").read_text() == "id\n"
            if ended:
                break
        assert moment > 5


def test_a_resume_removes_what_a_kill_left(run, stopped):
    for rest in ("models/.export-x/best/config.json", "checkpoints/net-1.safetensors.tmp", "checkpoints/.tmpAbC"):
        (run / rest).parent.mkdir(parents=True, exist_ok=True)
        (run / rest).write_text("half")
    store = RunStore(run, shared=True)
    store.put("files teacher", None)  # as it is while the model is written
    store.close()
    again = runner.resume(run, report=False).directory
    assert facts(again) == facts(stopped[1])
    assert not list(again.glob("models/.export-*"))
    assert not [path for path in again.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".tmp")]


# ---- finished runs


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_super_network_is_named_by_a_deployment(finished, capsys, damage):
    victim = finished / "models" / "supernet" / "model.safetensors"
    damage(victim)
    assert main(["deploy", str(finished), "params<=90%", "--out", str(finished.parent / "out")]) == 1
    assert str(victim) in capsys.readouterr().err
    assert main(["tabulate", str(finished), "--archs", "2", "--out", str(finished.parent / "t.json")]) == 1
    assert str(victim) in capsys.readouterr().err


def test_a_report_names_a_broken_environment(finished, capsys):
    (finished / "env.json").write_text("{")
    assert main(["report", str(finished)]) == 1
    assert str(finished / "env.json") in capsys.readouterr().err


@pytest.mark.slow
def test_models_from_a_cache_are_remembered(tmp_path):
    recipe = nf.load_recipe(TOY, [*SHORT, "~stages.search", "~stages.extract"])
    for name in ("first", "second"):
        run_of(recipe, out=tmp_path / name, cache=tmp_path / "cache")
    kept = []
    for name in ("first", "second"):
        store = RunStore(tmp_path / name, shared=True)
        kept.append(store.files())
        store.close()
    assert kept[0] == kept[1]
    assert json.dumps(kept[0]).count("model.safetensors") == 2
    cut(tmp_path / "second" / "models" / "teacher" / "model.safetensors")
    with pytest.raises(RunError, match="teacher"):
        runner.resume(tmp_path / "second")
