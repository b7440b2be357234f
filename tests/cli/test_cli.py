"""The command line: exit codes, what goes to stdout, what to stderr, narrow terminals, no tracebacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasframe import __version__, errors, registry
from nasframe.cli import main
from nasframe.recipe.loading import load_recipe, packaged_recipes
from nasframe.running import runner
from nasframe.running.runner import Run

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NASFRAME_TRACEBACK", raising=False)
    yield
    registry.plugins.cache_clear()


def call(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_version_and_help(capsys):
    assert call(capsys, "--version") == (0, f"{__version__}\n", "")
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(verb in out for verb in ("run", "check", "plugins", "recipes", "report", "schema", "doctor"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["rnu"],
        ["run", "--nothing"],
        ["run"],
        ["check"],
        ["run", "quikstart"],
        ["report", "."],
        ["run", "--resume", "gone"],
        ["run", "quickstart", "--resume", "gone"],
        ["plugins", "show", "randm"],
        ["recipes", "copy", "x"],
        ["plugins", "show", "sampler/kd"],
    ],
)
def test_wrong_usage_is_2_with_a_message_on_stderr_only(capsys, arguments):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.strip()


# ---- check


@pytest.mark.slow
def test_check_counts_and_is_recursive(capsys, tmp_path):
    good = Path("good.yaml")
    good.write_text("extends: quickstart\nname: good\n")
    Path("deep/er").mkdir(parents=True)
    Path("deep/er/also.yml").write_text("extends: quickstart\n")
    Path("deep/_base").mkdir()
    Path("deep/_base/fragment.yaml").write_text("seed: 1\n")
    assert call(capsys, "check", "good.yaml", "deep")[:2] == (0, "2 recipes checked, no problems\n")
    Path("deep/bad.yaml").write_text("extends: quickstart\nsede: 1\nbudgets: {parms: 5}\n")
    code, out, err = call(capsys, "check", ".")
    assert (code, out) == (2, "3 recipes checked, 1 with problems\n")
    assert [line.split("  ")[0] for line in err.splitlines()] == ["deep/bad.yaml:2:1", "deep/bad.yaml:3:11"]
    code, out, _ = call(capsys, "check", ".", "--json")
    rows = json.loads(out)
    assert code == 2
    assert {row["recipe"]: len(row["problems"]) for row in rows} == {
        "good.yaml": 0,
        "deep/bad.yaml": 2,
        "deep/er/also.yml": 0,
    }
    assert rows[0]["problems"][0].keys() == {"place", "path", "text"}


@pytest.mark.slow
def test_check_takes_overrides_and_tries_every_switch(capsys):
    assert call(capsys, "check", "quickstart", "seed=7", "~budgets", "+budgets.macs=50%")[0] == 0
    code, _, err = call(capsys, "check", "quickstart", "stages.search.trils=7")
    assert code == 2
    assert err.startswith("override 'stages.search.trils=7'  stages.search.trils  ")
    Path("r.yaml").write_text("extends: quickstart\nswitches: {fast: {stages.search.trils: 2}}\n")
    code, _, err = call(capsys, "check", "r.yaml")
    assert code == 2
    assert err.startswith("r.yaml:2:19  stages.search.trils  ")


def test_check_without_recipes_is_an_error(capsys):
    Path("empty").mkdir()
    code, _, err = call(capsys, "check", "empty")
    assert code == 2
    assert "no recipes" in err


# ---- plugins, recipes, schema, doctor


def test_plugins_lists_what_is_there_and_what_failed(capsys, monkeypatch):
    monkeypatch.setenv("NASFRAME_PLUGINS", "basics,missing")
    registry.plugins.cache_clear()
    code, out, err = call(capsys, "plugins")
    assert code == 0
    assert "width_depth" in out
    assert "failed: missing of NASFRAME_PLUGINS: no such plugin" in err
    content = json.loads(call(capsys, "plugins", "--json")[1])
    assert {"kind": "sampler", "name": "random"}.items() <= next(
        p for p in content["plugins"] if p["name"] == "random"
    ).items()
    assert content["failures"][0]["plugin"] == "missing"


def test_plugins_show(capsys):
    code, out, _ = call(capsys, "plugins", "show", "modifier/kd")
    assert code == 0
    assert "temperature" in out
    assert "nasframe" in out
    facts = json.loads(call(capsys, "plugins", "show", "kd", "--json")[1])
    assert facts["package"] == "nasframe"
    options = {option["name"]: option for option in facts["options"]}
    assert options["temperature"]["type"] == "float above 0 and at most 1e9"
    assert options["temperature"]["default"] == 1.0
    assert "Did you mean 'kd'?" not in call(capsys, "plugins", "show", "zzz")[2]
    assert "Did you mean 'random'?" in call(capsys, "plugins", "show", "randm")[2]


def test_recipes_lists_every_packaged_one(capsys):
    code, out, _ = call(capsys, "recipes")
    assert code == 0
    assert all(name in out for name in packaged_recipes())
    assert {row["name"] for row in json.loads(call(capsys, "recipes", "--json")[1])} == packaged_recipes().keys()


def test_recipes_copy_never_overwrites_and_brings_the_fragments(capsys):
    assert call(capsys, "recipes", "copy", "quickstart")[:2] == (0, "quickstart.yaml\n")
    code, out, err = call(capsys, "recipes", "copy", "quickstart")
    assert (code, out) == (2, "")
    assert "already there: quickstart.yaml" in err
    assert call(capsys, "recipes", "copy", "quickstart", "new/mine.yaml")[:2] == (0, "new/mine.yaml\n")
    code, out, _ = call(capsys, "recipes", "copy", "baselines/sst2", "mine")
    assert out.splitlines()[0] == "mine/baselines/sst2.yaml"
    assert load_recipe("mine/baselines/sst2.yaml").data == load_recipe("baselines/sst2").data
    assert call(capsys, "recipes", "copy", "baselines/sst2", "one.yaml")[0] == 2
    assert call(capsys, "check", "mine", "quickstart.yaml")[:2] == (0, "2 recipes checked, no problems\n")


def test_schema_goes_to_stdout_or_a_file(capsys):
    code, out, _ = call(capsys, "schema")
    assert code == 0
    assert json.loads(out)["title"] == "nasframe recipe"
    assert call(capsys, "schema", "-o", "s.json")[:2] == (0, "")
    assert Path("s.json").read_text() == out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["schema", "--output", "gone/x"], "gone/x: cannot be written (No such folder). Expected a file in"),
        (["schema", "--output", "file/x"], "file: cannot be written (Not a directory)"),
        (["schema", "--output", "."], ".: cannot be written (Is a directory)"),
        (["new", "sampler", "climb", "--out", "file/x"], "file: cannot be written (Not a directory)"),
        (["recipes", "copy", "quickstart", "file/x"], "file: cannot be written (Not a directory)"),
        (["recipes", "copy", "quickstart", "file/x.yaml"], "file: cannot be written (Not a directory)"),
        (["run", TOY, "--out", "file/x"], "file: cannot be written (Not a directory)"),
        (["run", TOY, "--cache", "file/x"], "file: cannot be written (Not a directory)"),
        (["cache", "prune", "--max-size", "0", "--cache", "file/x"], "file: cannot be written (Not a directory)"),
        (["compare", "runs", "--out", "file/x"], "file: cannot be written (Not a directory)"),
        (["ablate", "studies/samplers", "--out", "file/x"], "file: cannot be written (Not a directory)"),
        (["bench", "sampler", "random", "--table", "t.json", "--out", "file/x"], "cannot be written (Not a directory)"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(capsys, arguments, reason):
    Path("file").write_text("mine")
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_the_schema_may_go_to_a_device(capsys):
    assert call(capsys, "schema", "--output", os.devnull) == (0, "", "")
    assert not Path(os.devnull).is_file()


def test_doctor_says_that_there_are_no_plugins(capsys, monkeypatch):
    monkeypatch.setenv("NASFRAME_PLUGINS", "")
    registry.plugins.cache_clear()
    assert "plugins    none\n" in call(capsys, "doctor")[1]
    assert json.loads(call(capsys, "doctor", "--json")[1])["plugins"] == {}


def test_doctor_says_what_is_there_and_what_a_recipe_misses(capsys):
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    assert all(word in out for word in ("torch", "threads", "bfloat16", "basics", "extras"))
    Path("r.yaml").write_text(
        "extends: quickstart\ntask: {use: text_classification, train: gone.csv, text: a, label: b}\n"
    )
    code, out, err = call(capsys, "doctor", "r.yaml")
    assert code == 2
    assert "gone.csv" in err
    content = json.loads(call(capsys, "doctor", "--json")[1])
    assert content["problems"] == []
    assert content["packages"]["torch"]


# ---- run


@pytest.fixture
def finished(monkeypatch):
    """Stand in for the runner and the report."""
    calls = []

    def run(plan, *, out=None, progress=None, cache=None):  # what was resolved once, to find every problem
        calls.append({"seed": plan.seed, "out": out, "progress": progress})
        return Run(Path("runs/x"))

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "resume", lambda directory, *, progress=None: calls.append(directory) or Run(directory))
    monkeypatch.setattr("nasframe.cli.report.show", lambda directory, as_json: print(directory))
    return calls


def test_run_hands_its_options_on(capsys, finished):
    assert call(capsys, "run", TOY, "seed=3", "--out", "o", "--no-progress")[:2] == (0, "runs/x\n")
    assert call(capsys, "run", TOY, "--seed", 5)[0] == 0
    assert call(capsys, "run", "--resume", "runs/x")[0] == 0
    assert finished == [
        {"seed": 3, "out": Path("o"), "progress": False}, {"seed": 5, "out": None, "progress": None}, Path("runs/x"),
    ]  # fmt: skip


def test_a_wrong_recipe_never_reaches_the_runner(capsys, finished):
    code, _, err = call(capsys, "run", TOY, "seed=x", "stages.search.trils=1")
    assert code == 2
    assert "override 'seed=x'" in err
    assert "trils" in err
    assert finished == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(errors.RunError("diverged"), 1), (errors.UsageError("no"), 2), (errors.UnsatisfiableError("too small"), 3),
     (errors.VerificationError("differs"), 4), (ValueError("surprise"), 1)],
)  # fmt: skip
def test_exit_codes(capsys, finished, monkeypatch, error, code):
    def fail(recipe, **options):
        raise error

    monkeypatch.setattr(runner, "run", fail)
    found, out, err = call(capsys, "run", TOY)
    assert (found, out) == (code, "")
    assert str(error) in err
    assert ("--traceback" in err) is isinstance(error, ValueError)
    monkeypatch.setenv("NASFRAME_TRACEBACK", "1")
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="surprise"):
            main(["run", str(TOY)])


@pytest.mark.parametrize("cache", [True, False])
def test_a_stage_that_fails_is_named_and_how_to_go_on(capsys, monkeypatch, cache):
    def fail(work, stage):
        raise errors.UsageError(f"{stage.name}: no.")

    monkeypatch.setattr(runner, "perform", fail)
    monkeypatch.delenv("NASFRAME_CACHE", raising=False)
    words = ["run", TOY, "stages.search.trials=17", "--out", "o", "--no-progress"]  # with fewer, a remark is made
    code, out, err = call(capsys, *words, *(["--cache", "c"] if cache else []))
    assert (code, out) == (2, "")
    said = err[err.index("nasframe: ") :].splitlines()
    name = said[0].removeprefix("nasframe: ").removesuffix(": no.")
    assert said[1] == f"Stage {name!r} failed. Go on with: nasframe run --resume o"
    assert [line for line in said[2:] if "run it again" in line] == said[2:]
    assert len(said) == (3 if cache else 2)


def test_an_interrupt_is_130_and_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(work, stage):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "perform", interrupt)
    code, out, err = call(capsys, "run", TOY, "--out", "o", "--no-progress")
    assert (code, out) == (130, "")
    assert "nasframe run --resume o" in err


def test_a_dry_run_shows_the_plan_and_fails_with_3_where_a_bound_cannot_be_met(capsys, monkeypatch):
    found = {
        "stages": [{"name": "teacher", "verb": "train", "what": "100 steps", "seconds": 61.0}],
        "costs": {"params": {"smallest": 1e6, "largest": 2e6, "full": 2e6, "unit": "parameters"}},
        "limits": [{"cost": "params", "text": "<= 3M", "reachable": True, "nearest": 2e6}],
        "data": None,
        "notices": [],
        "seconds": 61.0,
    }
    monkeypatch.setattr("nasframe.running.dry_run.dry_run", lambda plan: found)
    code, out, _ = call(capsys, "run", TOY, "--dry-run")
    assert code == 0
    assert all(word in out for word in ("teacher", "100 steps", "1 min 1 s", "2.00M", "params <= 3M: reachable"))
    assert json.loads(call(capsys, "run", TOY, "--dry-run", "--json")[1]) == found
    found["limits"][0]["reachable"] = False
    code, out, _ = call(capsys, "run", TOY, "--dry-run")
    assert code == 3
    assert "cannot be met, nearest 2.00M" in out
    assert not Path("runs").exists()


# ---- the terminal


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["plugins"], ["plugins", "show", "evolution"], ["recipes"]]
)
def test_sixty_columns_are_enough(arguments):
    environment = {**os.environ, "COLUMNS": "60", "NO_COLOR": "1"}
    script = "import sys; from nasframe.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback():
    script = "import sys; from nasframe.cli import main; sys.exit(main(['schema']))"
    command = f'{sys.executable} -c "{script}" | head -c 10'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_old_names_in_a_recipe_are_told_once_each(tmp_path):
    options = "{use: hspg, target: 50%, until: 70%, least: 20%}"
    text = TOY.read_text().replace("../toy_plugin.py", str(TOY.parents[1] / "toy_plugin.py"))
    (tmp_path / "r.yaml").write_text(text.replace("{use: kd, teacher: teacher}", options))
    command = [sys.executable, "-m", "nasframe", "check", "r.yaml"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "deprecated" in line]
    assert lines == [
        "nasframe: modifier 'hspg': until is deprecated; it is 'ramp_end' now.",
        "nasframe: modifier 'hspg': least is deprecated; it is 'min_kept' now.",
    ]
