"""The cache of stages: what hits, what misses, what a run from it leaves, and what happens when it is damaged."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from test_runner import facts

import nasframe as nf
from nasframe import registry
from nasframe.errors import UsageError
from nasframe.recipe.resolve import resolve
from nasframe.report.read import gather
from nasframe.running import cache, cached_run, environment, named_files, runner, sources, start
from nasframe.running import cache_keys as keys
from nasframe.running.cache import Cache, CacheEntry, nearest
from nasframe.running.cache_keys import differences
from nasframe.stages.inputs import RunInputs
from nasframe.store import RunStore

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"
RECIPE = """\
nasframe: 1
name: keyed
plugins: [{folder}/keyed_plugin.py]
model: keyed_toy
task: {{use: text_classification, train: {folder}/train.csv, select: 4, dev_share: 4}}
space: {{use: width_depth, layers: [1, 2], heads: [1, 2, 4], ffn: [8, 64]}}
sampler: {{use: sandwich, inner: random}}
estimators: {{latency: {{repeats: 2}}}}
budgets: {{encoder_params: ["75%"]}}
stages:
  - train: {{save_as: teacher, max_steps: 1, learning_rate: 1e-3}}
  - train: {{name: supernet, sampler: shared, max_steps: 1}}
  - search: {{sampler: {{use: evolution, population: 4}}, trials: 3}}
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The keys of the recipe as it is, written elsewhere."""
    home = tmp_path_factory.mktemp("before") / "home"
    write(home)
    return keys_of(home)


@pytest.fixture
def place(tmp_path):
    """A folder with a recipe, its data and its plugin."""
    write(tmp_path / "home")
    return tmp_path / "home"


def write(folder: Path) -> None:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    rows = [f"w{2 + i % 7} w{3 + i % 5},{'yes' if i % 3 else 'no'}" for i in range(40)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    text = (Path(__file__).parents[1] / "toy_plugin.py").read_text()
    (folder / "keyed_plugin.py").write_text(text.replace('register("toy"', 'register("keyed_toy"'))


def keys_of(folder: Path, *overrides: str) -> dict[str, str]:
    registry.plugins.cache_clear()
    plan = resolve(nf.load_recipe(folder / "recipe.yaml", overrides))
    found = keys.stage_keys(plan, start.materials(RunInputs(plan)))
    registry.plugins.cache_clear()
    return {stage.name: keys.digest(parts) for stage, parts in zip(plan.stages, found, strict=True)}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


STAGES = ["teacher", "supernet", "search"]
MISSES = {
    "an option of a stage": (["stages.teacher.learning_rate=2e-3"], STAGES),
    "an option with a default": (["stages.teacher.weight_decay=0.5"], STAGES),
    "a later stage": (["stages.search.trials=4"], STAGES[2:]),
    "another plugin": (["stages.search.sampler=random"], STAGES[2:]),
    "the seed": (["seed=1"], STAGES),
    "a modifier": (["stages.supernet.modifiers=[{use: kd, teacher: teacher}]"], STAGES[1:]),
    "the space": (["space.ffn=[16, 64]"], STAGES[1:]),
    "the shared sampler": (["sampler=random"], STAGES[1:]),
    "a cost's options": (["estimators.latency.repeats=3"], STAGES[1:]),
    "a budget": (["budgets.encoder_params=50%"], STAGES[2:]),
    "a constraint": (["constraints.encoder_params=< 1M"], STAGES[2:]),
    "another cost with a budget": (["+budgets.macs=50%"], STAGES[1:]),
    "another cost with a bound": (["constraints.macs=< 1G"], STAGES[1:]),
    "another cost to aim at": (["objectives=[accuracy, -macs]"], STAGES[1:]),
    "the model": (["model.layers=2"], STAGES),
    "the task's options": (["task.max_length=3"], STAGES),
    "the split": (["task.select=5"], STAGES),
    "that it is the last search": (["+stages.3={search: {name: again, save_as: again, trials: 3}}"], STAGES[2:]),
    "a name": (["stages.teacher.save_as=other", "+stages.other.name=teacher"], STAGES),
}


@pytest.mark.parametrize(("overrides", "stages"), MISSES.values(), ids=MISSES)
def test_each_setting_changed_alone_misses_where_it_matters(before, place, overrides, stages):
    after = keys_of(place, *overrides)
    assert [name for name in before if before[name] != after[name]] == stages


def other_data(place, monkeypatch):
    edit(place / "train.csv", "w3 w4,yes", "w3 w5,yes")


def other_plugin_source(place, monkeypatch):
    edit(place / "keyed_plugin.py", "class ToyModel:", "# changed\nclass ToyModel:")


def other_core_source(place, monkeypatch):
    known = sources.source_digest
    core = Path(sources.__file__).parents[1]
    monkeypatch.setattr(sources, "source_digest", lambda p: "other" if p == core else known(p))


def other_basics_source(place, monkeypatch):
    known = sources.source_digest
    monkeypatch.setattr(sources, "source_digest", lambda p: "other" if p.name == "nasframe_basics" else known(p))


def other_weights(place):
    edit(place / "keyed_plugin.py", "return net", "net.classifier.bias.data[0] += 1e-3\n        return net")


def other_tokenizer(place):
    edit(place / "keyed_plugin.py", 'f"w{i}"', 'f"v{i}"')


def other_threads(place, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)


def other_processor(place, monkeypatch):
    monkeypatch.setattr(environment, "processor", lambda: "abacus")


def other_version(package):
    def change(place, monkeypatch):
        known = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == package else known(name))

    return change


WORLD = [other_data, other_plugin_source, other_core_source, other_basics_source, other_threads, other_processor]
VERSIONS = [pytest.param(other_version(name), id=name) for name in ("torch", "transformers", "tokenizers", "numpy")]


@pytest.mark.slow
@pytest.mark.parametrize("change", [*WORLD, *VERSIONS])
def test_each_change_of_data_code_and_machine_misses_everywhere(before, place, monkeypatch, change):
    change(place, monkeypatch)
    after = keys_of(place)
    assert not set(before.values()) & set(after.values())


@pytest.mark.parametrize("change", [other_weights, other_tokenizer])
def test_other_weights_and_tokens_miss_whatever_the_source_says(place, monkeypatch, change):
    hidden = keys.sources
    monkeypatch.setattr(keys, "sources", lambda names: {**hidden(names), "keyed_plugin.py": "same"})
    before = keys_of(place)
    change(place)
    assert not set(before.values()) & set(keys_of(place).values())


def comment(place):
    edit(place / "recipe.yaml", "stages:", "# a remark\nstages:  # and another")


def order_of_keys(place):
    edit(place / "recipe.yaml", "save_as: teacher, max_steps: 1", "max_steps: 1, save_as: teacher")
    edit(place / "recipe.yaml", "name: keyed\n", "")
    with (place / "recipe.yaml").open("a") as file:
        file.write("name: keyed\n")


def another_way_to_write_it(place):
    edit(place / "recipe.yaml", "model: keyed_toy", "model: {use: keyed_toy, layers: 3}")
    edit(place / "recipe.yaml", "1e-3", "0.001")


def name_and_description(place):
    edit(place / "recipe.yaml", "name: keyed\n", "name: other\ndescription: for a talk\n")


def moved_data(place):
    (place / "elsewhere").mkdir()
    (place / "train.csv").rename(place / "elsewhere" / "data.csv")
    edit(place / "recipe.yaml", "/train.csv", "/elsewhere/data.csv")


def moved_plugin(place):
    (place / "elsewhere").mkdir()
    (place / "keyed_plugin.py").rename(place / "elsewhere" / "keyed_plugin.py")
    edit(place / "recipe.yaml", "/keyed_plugin.py", "/elsewhere/keyed_plugin.py")


HITS = [comment, order_of_keys, another_way_to_write_it, name_and_description, moved_data, moved_plugin]


@pytest.mark.parametrize("change", HITS)
def test_what_cannot_change_a_number_hits(before, place, change):
    change(place)
    assert keys_of(place) == before


def test_a_file_that_an_option_names_counts_by_its_content(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    (tmp_path / "c").write_text("y")
    same, other = (named_files.contents({"path": [str(tmp_path / name)]}) for name in "bc")
    assert named_files.contents({"path": [str(tmp_path / "a")]}) == same != other


def test_calling_a_tokenizer_leaves_its_digest(place):
    plan = resolve(nf.load_recipe(place / "recipe.yaml"))
    tokenizer = RunInputs(plan).tokenizer
    before = start.tokenizer_digest(tokenizer)
    tokenizer(["w3 w4", "w3"], truncation=True, max_length=1, padding=True)
    assert start.tokenizer_digest(tokenizer) == before
    registry.plugins.cache_clear()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A run that filled a cache, and the same run without one."""
    home = tmp_path_factory.mktemp("cache")
    run = run_of(nf.load_recipe(TOY), out=home / "run", cache=home / "cache")
    return home, run, run_of(nf.load_recipe(TOY), out=home / "plain")


def run_of(recipe, **where):
    """Run without a report, which takes longer than all the rest."""
    return nf.run(recipe, report=False, **where)


def cached(directory: Path) -> dict[str, dict]:
    store = RunStore(directory, shared=True)
    found = {name: json.loads(text) for name, text in store.db.execute("SELECT name, result FROM stage")}
    store.close()
    return {name: result["cached"] for name, result in found.items() if "cached" in result}


def numbers(directory: Path) -> dict:
    """All of a run but where its stages came from."""
    found = facts(directory)
    store = RunStore(directory, shared=True)
    results = {name: json.loads(text) for name, text in store.db.execute("SELECT name, result FROM stage")}
    store.close()
    found["stage"] = {name: {k: v for k, v in row.items() if k != "cached"} for name, row in results.items()}
    return found


def test_a_run_that_fills_a_cache_is_the_run_without_one(built):
    home, run, plain = built
    assert facts(run.directory) == facts(plain.directory)
    assert not cached(run.directory)
    assert len(Cache(home / "cache").entries()) == 7


def test_a_run_from_the_cache_leaves_the_same_and_says_so(built, tmp_path):
    home, run, _ = built
    again = run_of(nf.load_recipe(TOY), out=tmp_path / "again", cache=home / "cache")
    assert numbers(again.directory) == numbers(run.directory)
    marks = cached(again.directory)
    assert len(marks) == 7
    assert marks["teacher"]["run"] == str(run.directory)
    assert marks["teacher"]["run_seconds"] > 0
    reports = [directory.report() for directory in (run, again)]
    for name in ("models", "ledger", "ledger_total", "curves", "trials", "metric", "split"):
        assert reports[0][name] == reports[1][name]
    assert "from the cache" in (again.directory / "report.md").read_text()
    assert not list(again.directory.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("trials", [5, 30])
def test_a_run_goes_on_from_where_the_cache_ends(built, tmp_path, trials):
    home, *_ = built
    changed = nf.load_recipe(TOY, [f"stages.search.trials={trials}"])
    run = run_of(changed, out=tmp_path / "run", cache=home / "cache")
    assert list(cached(run.directory)) == ["teacher", "transform", "supernet"]
    assert numbers(run.directory) == numbers(run_of(changed, out=tmp_path / "plain").directory)


@pytest.mark.slow
def test_a_stage_of_a_shared_sampler_restores_what_it_had_learned(tmp_path):
    recipe = {**nf.load_recipe(TOY).data, "sampler": {"use": "evolution", "population": 4}}
    changes = ["stages.search.sampler=shared", "~stages.tuned", "~stages.evaluate", "~stages.extract"]
    further = [
        *changes,
        "stages.search.name=first",
        "+stages.4={search: {name: second, save_as: second, sampler: shared, trials: 9}}",
    ]
    plain = run_of(nf.load_recipe(recipe, further, base=TOY.parent), out=tmp_path / "plain")
    run_of(nf.load_recipe(recipe, further[:-1], base=TOY.parent), out=tmp_path / "half", cache=tmp_path / "cache")
    run = run_of(nf.load_recipe(recipe, further, base=TOY.parent), out=tmp_path / "run", cache=tmp_path / "cache")
    assert list(cached(run.directory)) == ["teacher", "transform", "supernet", "first"]
    assert numbers(run.directory) == numbers(plain.directory)


QUICK = "estimators.latency={repeats: 2, length: 8}"


@pytest.mark.slow
def test_measured_costs_from_the_cache_are_marked_until_they_are_measured_anew(tmp_path):
    recipe = nf.load_recipe(TOY, ["stages.evaluate.costs=[params, latency]", QUICK, "~stages.tuned"])
    first = run_of(recipe, out=tmp_path / "first", cache=tmp_path / "cache")
    second = run_of(recipe, out=tmp_path / "second", cache=tmp_path / "cache")
    costs = [{m["name"]: m["costs"] for m in gather(run.directory)["models"]}["teacher"] for run in (first, second)]
    assert costs[1] == {**costs[0], "latency_cached": 1}
    more = [
        "stages.evaluate.costs=[params, latency]",
        QUICK,
        "stages.tuned.max_steps=1",
        "+stages.7={evaluate: {name: anew}}",
    ]
    third = run_of(nf.load_recipe(TOY, more), out=tmp_path / "third", cache=tmp_path / "cache")
    assert all("latency_cached" not in model["costs"] for model in gather(third.directory)["models"])


def entry_file(folder: Path, run: Path, stage: str) -> Path:
    store = RunStore(run, shared=True)
    key = keys.digest(store.get(f"key {stage}"))
    store.close()
    return folder / "stages" / f"{key}.json"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a flipped byte", "a lost file", "a cut entry", "a changed entry"])
def test_a_corrupt_entry_is_run_again_with_a_warning(built, tmp_path, damage):
    home, run, _ = built
    folder = tmp_path / "cache"
    subprocess.run(["cp", "-r", str(home / "cache"), str(folder)], check=True)
    entry = entry_file(folder, run.directory, "tuned")
    said = json.loads(entry.read_text())
    victim = Cache(folder).blob(said["files"]["models/tuned/model.safetensors"])
    if damage == "a flipped byte":
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.chmod(0o644)
        victim.write_bytes(data)
    elif damage == "a lost file":
        victim.unlink()
    elif damage == "a cut entry":
        entry.write_text(entry.read_text()[:-40])
    else:
        entry.write_text(json.dumps({**said, "run_seconds": 1e9}))
    with pytest.warns(UserWarning, match="corrupt"):
        again = run_of(nf.load_recipe(TOY), out=tmp_path / "again", cache=folder)
    assert "tuned" not in cached(again.directory)
    assert len(cached(again.directory)) == 6
    assert numbers(again.directory) == numbers(run.directory)
    third = run_of(nf.load_recipe(TOY), out=tmp_path / "third", cache=folder)
    assert len(cached(third.directory)) == 7


def test_an_edit_of_a_run_from_the_cache_does_not_reach_the_cache(built, tmp_path):
    home, run, _ = built
    again = run_of(nf.load_recipe(TOY), out=tmp_path / "again", cache=home / "cache")
    for path in again.directory.rglob("*.safetensors"):
        path.write_bytes(b"mine")
    third = run_of(nf.load_recipe(TOY), out=tmp_path / "third", cache=home / "cache")
    assert numbers(third.directory) == numbers(run.directory)


@pytest.mark.slow
def test_a_stopped_run_keeps_its_cache(built, tmp_path, monkeypatch):
    home = built[0]
    recipe = nf.load_recipe(TOY, ["stages.search.trials=13"])

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunStore, "end_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        run_of(recipe, out=tmp_path / "run", cache=home / "cache")
    monkeypatch.undo()
    runner.resume(tmp_path / "run", report=False)
    assert {"teacher", "transform", "supernet"} <= cached(tmp_path / "run").keys()
    assert len(Cache(home / "cache").entries()) >= 11


BUILD = """
import sys
from pathlib import Path
from nasframe.running.cache import Cache
with Cache(Path(sys.argv[1])).building("k", "waiting"):
    print("building", flush=True)
    sys.stdin.readline()
"""


def builder(folder: Path) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", BUILD, str(folder)], **pipes)


@pytest.mark.parametrize("end", ["done", "killed"])
def test_one_process_builds_and_the_other_says_that_it_waits(tmp_path, end):
    with builder(tmp_path) as first, builder(tmp_path) as second:
        lines = [first.stdout.readline(), second.stdout.readline()]
        assert sorted(lines) == ["building\n", "waiting\n"]
        holder, waiting = (first, second) if lines[0] == "building\n" else (second, first)
        if end == "done":
            holder.stdin.write("\n")
            holder.stdin.flush()
        else:
            holder.kill()
        assert waiting.stdout.readline() == "building\n"
        waiting.stdin.write("\n")


@pytest.mark.slow
def test_two_runs_at_once_build_every_stage_once(tmp_path):
    homes = [tmp_path / "a", tmp_path / "b"]
    command = "import sys; from test_cache import *; run_of(nf.load_recipe(TOY), out=sys.argv[1], cache=sys.argv[2])"
    running = [
        subprocess.Popen([sys.executable, "-c", command, str(home), str(tmp_path / "cache")], cwd=Path(__file__).parent)
        for home in homes
    ]
    assert [process.wait() for process in running] == [0, 0]
    built_here = [
        {"teacher", "transform", "supernet", "search", "extract", "evaluate", "tuned"} - cached(home).keys()
        for home in homes
    ]
    assert not built_here[0] & built_here[1]
    assert len(built_here[0] | built_here[1]) == 7
    assert numbers(homes[0]) == numbers(homes[1])


def test_pruning_drops_the_oldest_and_what_is_left_still_works(built, tmp_path):
    home, run, _ = built
    folder = tmp_path / "cache"
    subprocess.run(["cp", "-rp", str(home / "cache"), str(folder)], check=True)
    store = Cache(folder)
    size = lambda: sum(path.stat().st_size for path in folder.glob("blobs/*/*"))  # noqa: E731
    whole, order = size(), list(store.entries())
    dropped = store.prune(whole - 1)
    assert dropped == order[: len(dropped)] != []
    assert 0 < size() < whole
    assert len(store.entries()) == len(order) - len(dropped) > 0
    assert all(store.read(key) for key in store.entries())
    again = run_of(nf.load_recipe(TOY), out=tmp_path / "again", cache=folder)
    assert numbers(again.directory) == numbers(run.directory)
    store.prune(0)
    assert not store.entries()
    assert not list(folder.glob("blobs/*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["_sound", "_place"])
def test_pruning_while_a_run_reads_costs_nothing_but_work(built, tmp_path, monkeypatch, when):
    home, run, _ = built
    folder = tmp_path / "cache"
    subprocess.run(["cp", "-rp", str(home / "cache"), str(folder)], check=True)
    owner = cache if when == "_sound" else cached_run.CachedRun
    known = getattr(owner, when)

    def pruned(*args):
        answer = known(*args)
        Cache(folder).prune(0)
        return answer and when != "_sound"

    with monkeypatch.context() as patch:
        patch.setattr(owner, when, pruned)
        again = run_of(nf.load_recipe(TOY), out=tmp_path / "again", cache=folder)  # a warning would be an error
    assert numbers(again.directory) == numbers(run.directory)


def test_what_is_dropped_while_it_is_listed_is_left_out(tmp_path):
    (tmp_path / "there").write_text("12")
    assert [(path.name, stat.st_size) for path, stat in cache._stats([tmp_path / "gone", tmp_path / "there"])] == [
        ("there", 2)
    ]


def test_why_names_what_differs_and_goes_back_to_the_stage_where_it_began(built, tmp_path):
    home, run, _ = built
    store = RunStore(run.directory, shared=True)
    teacher, supernet = store.get("key teacher"), store.get("key supernet")
    store.close()
    changed = {**teacher, "options": {**teacher["options"], "batch_size": 5}}
    entry, stage, found = nearest(Cache(home / "cache"), changed)
    assert entry.parts == teacher
    assert (stage, found) == ("teacher", [("options.batch_size", 5, 32)])
    assert nearest(Cache(home / "cache"), {**teacher, "stage": "other"})[0] is None
    folder = Cache(tmp_path / "cache")
    for parts in (changed, teacher):
        key = keys.digest(parts)
        folder.write(CacheEntry(key, parts, "", 0.0, {}), {}, {})
        below = {**supernet, "upstream": key}
        folder.write(CacheEntry(keys.digest(below), below, "", 0.0, {}), {}, {})
    entry, stage, found = nearest(folder, below)
    assert (stage, found) == ("teacher", [("options.batch_size", 32, 5)])


def test_differences_of_lists_and_missing_keys():
    assert list(differences({"a": [1, 2], "b": 1}, {"a": [1, 3]})) == [("a.1", 2, 3), ("b", 1, None)]
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == [("a", [1], [1, 2])]


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NASFRAME_CACHE", str(tmp_path))
    assert cache.default_folder() == tmp_path
    monkeypatch.delenv("NASFRAME_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.default_folder() == Path("/x/nasframe")


def test_several_processes_share_no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        run_of(nf.load_recipe(TOY), out=tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()
