"""What a process reads, as the cache sees it: files, names of folders, what is missing, and what does not count."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from test_cache import TOY, cached, numbers, run_of

import nasframe as nf
from nasframe import registry
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.plan import Plan
from nasframe.reads import MISSING, Recorder, state
from nasframe.running import sources, start
from nasframe.stages.inputs import RunInputs
from nasframe.store import RunStore
from nasframe_basics.models import HF
from stand_in import write_net, write_reviews


def recorded(act, hidden=()):
    with Recorder() as recorder:
        act()
    return recorder.states(hidden)


def test_what_is_opened_is_recorded_with_its_content(tmp_path):
    place = tmp_path / "words.txt"
    place.write_text("good")
    states, changed = recorded(place.read_text)
    assert (states, changed) == ({place: state(place)}, [])
    place.write_text("bad!")
    assert states[place] != state(place)


def test_a_file_looked_for_in_vain_is_recorded_as_missing(tmp_path):
    def act():
        with pytest.raises(FileNotFoundError):
            (tmp_path / "extra.txt").read_text()

    assert recorded(act)[0] == {tmp_path / "extra.txt": MISSING}


@pytest.mark.parametrize("listing", [os.listdir, lambda p: list(os.scandir(p)), lambda p: list(p.glob("*.txt"))])
def test_the_names_in_a_folder_are_recorded(tmp_path, listing):
    (tmp_path / "a.txt").write_text("a")
    states, _ = recorded(lambda: listing(tmp_path))
    (tmp_path / "a.txt").write_text("other content")
    assert states == {tmp_path: state(tmp_path)}
    (tmp_path / "b.txt").write_text("b")
    assert states[tmp_path] != state(tmp_path)


def test_a_file_that_changes_after_it_was_read_has_no_state(tmp_path):
    place = tmp_path / "words.txt"
    place.write_text("good")

    def act():
        place.read_text()
        place.write_text("other")

    assert recorded(act) == ({}, [place])


def test_a_run_that_begins_in_a_listed_folder_is_no_change(tmp_path):
    recorder = Recorder()
    with recorder:
        os.listdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    assert recorder.states([tmp_path / "runs" / "one"])[1] == []
    (tmp_path / "new.txt").write_text("")
    assert recorder.states([tmp_path / "runs" / "one"]) == ({}, [tmp_path])


def own_product(folder):
    (folder / "memo.txt").write_text("mine")
    (folder / "memo.txt").read_text()


def renamed_product(folder):
    (folder / "memo.tmp").write_text("mine")
    os.replace(folder / "memo.tmp", folder / "memo.txt")
    (folder / "memo.txt").read_text()


def temporary_file(folder):
    made = tempfile.mkdtemp()
    subprocess.run(["touch", f"{made}/x"], check=True)  # nobody here wrote it
    Path(made, "x").read_text()
    os.remove(f"{made}/x")


def pythons_own(folder):
    Path(os.__file__).read_text()
    Path("/proc/self/status").read_text()


@pytest.mark.parametrize("act", [own_product, renamed_product, temporary_file, pythons_own])
def test_what_does_not_count_is_not_recorded(tmp_path, act):
    assert recorded(lambda: act(tmp_path)) == ({}, [])


def test_places_of_the_run_itself_are_hidden_also_as_names(tmp_path):
    home = tmp_path / "base"
    (home / "runs" / "one").mkdir(parents=True)
    (home / "runs" / "one" / "log.txt").write_text("x")
    act = lambda: (os.listdir(home), (home / "runs" / "one" / "log.txt").read_text())  # noqa: E731
    states, _ = recorded(act, [home / "runs" / "one"])
    (home / "runs").rename(tmp_path / "elsewhere")
    assert states == {home: state(home)}


def test_nothing_is_recorded_outside(tmp_path):
    (tmp_path / "a").write_text("a")
    with Recorder() as recorder, recorder:
        pass
    (tmp_path / "a").read_text()
    assert recorder.stamps == {}


READER = """\
from pathlib import Path

import torch

from nasframe import hookimpl


class Nudge:
    '''Add what files say to the classifier's bias.

    Args:
        words: a file, read from the recipe's folder.
        parts: more of them.
        nested: and more.
    '''

    def __init__(self, words: str = "", parts: list[str] = (), nested: dict = {}, base: Path = Path()):
        self.named = [base / name for name in [words, *parts, *nested.get("deep", ())] if name]
        self.base = base

    def __call__(self, work):
        net = work.net
        unnamed = self.base / "unnamed.txt"
        texts = [place.read_text() for place in [*self.named, unnamed]]
        try:
            texts.append((self.base / "optional.txt").read_text())
        except FileNotFoundError:
            pass
        with torch.no_grad():
            net.classifier.bias.add_(sum(map(len, texts)))
        return work


@hookimpl
def register_transforms(register):
    register("nudge", Nudge)
"""


NAMED = "words: words.txt, parts: [part.txt], nested: {deep: [./deep.txt]}, "


@pytest.fixture
def project(tmp_path):
    """A folder with a recipe whose transform reads files; the run's other stages are one step each."""
    home = tmp_path / "project"
    home.mkdir()
    (home / "reader.py").write_text(READER)
    for name in ("words", "unnamed", "part", "deep"):
        (home / f"{name}.txt").write_text(name)
    (home / "recipe.yaml").write_text(
        "nasframe: 1\n"
        f"plugins: [{TOY.parents[1]}/toy_plugin.py, reader.py]\n"
        "model: toy\ntask: toy\n"
        "stages:\n"
        "  - train: {save_as: teacher, max_steps: 1}\n"
        f"  - transform: {{name: transform, use: nudge, {NAMED}save_as: nudged}}\n"
        "  - evaluate: {costs: [params]}\n"
    )
    yield home
    registry.plugins.cache_clear()


def run_in(project, name, **options):
    return run_of(nf.load_recipe(project / "recipe.yaml"), out=project.parent / name, **options).directory


CHANGES = ["words.txt", "part.txt", "deep.txt", "unnamed.txt", "optional.txt"]


@pytest.mark.parametrize("name", CHANGES)
def test_a_stage_is_not_served_after_a_file_that_it_read_has_changed(project, name):
    cache = project.parent / "cache"
    run_in(project, "first", cache=cache)
    (project / name).write_text("something longer than it was")
    again = run_in(project, "again", cache=cache)
    assert list(cached(again)) == ["teacher"]  # nor are the stages that go on from it
    third = run_in(project, "third", cache=cache)
    assert list(cached(third)) == ["teacher", "transform", "evaluate"]
    assert numbers(third) == numbers(again)


@pytest.mark.slow
def test_a_stage_that_is_run_again_is_the_stage_without_a_cache(project):
    run_in(project, "first", cache=project.parent / "cache")
    (project / "unnamed.txt").write_text("something longer than it was")
    again = run_in(project, "again", cache=project.parent / "cache")
    assert numbers(again) == numbers(run_in(project, "plain"))


def test_a_copy_of_the_project_is_served(project):
    cache = project.parent / "cache"
    first = run_in(project, "first", cache=cache)
    copy = project.with_name("copy")
    subprocess.run(["cp", "-r", str(project), str(copy)], check=True)
    registry.plugins.cache_clear()
    again = run_in(copy, "again", cache=cache)
    assert list(cached(again)) == ["teacher", "transform", "evaluate"]
    assert numbers(again) == numbers(first)


@pytest.mark.slow
def test_why_names_the_file(project, capsys):
    cache = project.parent / "cache"
    run_in(project, "first", cache=cache)
    (project / "unnamed.txt").write_text("longer than it was")
    again = run_in(project, "again", cache=cache)
    assert main(["cache", "why", str(again), "transform", "--json"]) == 0
    (changed,) = json.loads(capsys.readouterr().out)["changed"]
    assert changed["file"] == "unnamed.txt"
    assert changed["now"] != changed["then"]
    assert main(["cache", "why", str(again), "transform"]) == 0
    assert "unnamed.txt" in capsys.readouterr().out


@pytest.mark.slow
def test_a_file_that_changes_while_a_stage_runs_keeps_it_out_of_the_cache(project, capsys):
    text = READER.replace(
        "        return work\n", "        unnamed.write_text(unnamed.read_text() + '.')\n        return work\n"
    )
    (project / "reader.py").write_text(text)
    cache = project.parent / "cache"
    first = run_in(project, "first", cache=cache)
    assert "unnamed.txt" in capsys.readouterr().err
    store = RunStore(first, shared=True)
    assert [notice["place"] for notice in store.get("notices")] == ["unnamed.txt"]
    store.close()
    again = run_in(project, "again", cache=cache)
    assert list(cached(again)) == ["teacher"]


@pytest.mark.slow
def test_a_later_stage_is_not_served_with_what_an_earlier_one_read_before(project, monkeypatch):
    """The file is as it was when the entry was made, but the run's own earlier stage read something else."""
    cache = project.parent / "cache"
    run_in(project, "first", cache=cache)
    (project / "unnamed.txt").write_text("something longer")
    ended = RunStore.end_stage

    def restore(self, name, *args):
        ended(self, name, *args)
        if name == "transform":
            (project / "unnamed.txt").write_text("unnamed")

    monkeypatch.setattr(RunStore, "end_stage", restore)
    again = run_in(project, "again", cache=cache)
    assert list(cached(again)) == ["teacher"]


def test_what_a_one_file_plugin_imports_from_beside_it_is_part_of_its_source(tmp_path):
    (tmp_path / "plugin.py").write_text("import one\n\ndef later():\n    from package import two\n    import torch\n")
    (tmp_path / "one.py").write_text("import three\n")
    (tmp_path / "three.py").write_text("")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "two.py").write_text("")
    (tmp_path / "stranger.py").write_text("")
    found = [name for name, _ in sources.imported_beside(tmp_path / "plugin.py")]
    assert found == ["one.py", "package/__init__.py", "package/two.py", "three.py"]


HELPED = """\
import helper

from nasframe import hookimpl


class Nudge:
    def __call__(self, work):
        work.net.classifier.bias.data.add_(helper.AMOUNT)
        return work


@hookimpl
def register_transforms(register):
    register("nudge", Nudge)
"""


def test_a_helper_that_changed_misses(project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    (project / "reader.py").write_text(HELPED)
    recipe = project / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(NAMED, ""))
    digests = []
    for amount in ("1", "2.5"):
        (project / "helper.py").write_text(f"AMOUNT = {amount}\n")
        sys.modules.pop("helper", None)
        registry.plugins.cache_clear()
        sources._first_digest.cache_clear()  # as in a new process
        nf.resolve(nf.load_recipe(recipe))
        digests.append(sources.sources(["nudge"])["reader.py: helper.py"])
    assert digests[0] != digests[1]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A directory that ``save_pretrained`` wrote; texts lie beside it."""
    place = tmp_path_factory.mktemp("encoder") / "net"
    write_net(place, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    write_reviews(place.parent)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "model.safetensors", "extra/notes.txt"])
def test_every_file_of_a_model_directory_is_part_of_a_key(encoder, tmp_path, name):
    data, copy = encoder.parent / "reviews.csv", tmp_path / "copy"
    before = digests_of(encoder, data)
    subprocess.run(["cp", "-r", str(encoder), str(copy)], check=True)
    assert digests_of(copy, data) == before
    (copy / name).parent.mkdir(exist_ok=True)
    if name.endswith("safetensors"):  # bytes that no tensor holds
        save_file(load_file(copy / name), copy / name, {"format": "pt", "note": "other"})
    else:
        with (copy / name).open("a") as file:
            file.write("\n")
    assert digests_of(copy, data)["files"] != before["files"]


def digests_of(model: Path, data: Path) -> dict:
    return start.input_digests(RunInputs(plan_of(model, data)))


def plan_of(model: Path, data: Path) -> Plan:
    use, task = {"use": "hf", "path": str(model)}, {"use": "text_classification", "train": str(data)}
    stages = [{"train": {"max_steps": 1}}]
    return nf.resolve(nf.load_recipe({"model": use, "task": task, "stages": stages}))


@pytest.mark.parametrize("what", ["model.safetensors", "reviews.csv"])
def test_what_changed_is_not_loaded_again_in_the_middle_of_a_run(encoder, tmp_path, what):
    home = Path(shutil.copytree(encoder.parent, tmp_path / "home"))
    victim = home / "net" / what if what.startswith("model") else home / what
    inputs = RunInputs(plan_of(home / "net", home / "reviews.csv"))
    inputs.work  # noqa: B018
    inputs.net()
    victim.write_bytes(victim.read_bytes() + b" ")
    for again in (inputs.net, lambda: inputs.task_for(inputs.tokenizer)):
        with pytest.raises(UsageError, match="changed since") as caught:
            again()
        assert str(victim) in str(caught.value)


def test_a_hub_model_declares_its_folder_in_the_hubs_cache(encoder, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--org--net" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(encoder)
    (tmp_path / "models--org--net" / "refs").mkdir()
    (tmp_path / "models--org--net" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert HF("org/net").files() == [snapshot]
    assert HF("org/other").files() == []
    assert HF("no hub id at all!").files() == []
