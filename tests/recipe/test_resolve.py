"""Resolving: every problem at once with its place, and plans that re-run to themselves."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasframe as nf
from nasframe import registry
from nasframe.declarations import COSTS
from nasframe.errors import RecipeError
from nasframe.recipe.merge import kept_options
from nasframe.recipe.resolve import check_recipe, resolve
from nasframe.recipe.stages import COMMON
from nasframe.recipe.yaml import dump
from nasframe.records import SamplerRef, TrainOptions
from nasframe.stages.verbs import VERBS
from stand_in import write_net

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"


class Files:
    """A task with files."""

    def __init__(self, folder: Path, extra: Path | None = None, size: int = 1, base: Path | None = None): ...


class Wraps:
    """A sampler around another."""

    def __init__(self, domain, inner: SamplerRef = "random", rate: float = 0.5): ...


class Toys:
    @nf.hookimpl
    def register_tasks(self, register):
        register("files", Files)

    @nf.hookimpl
    def register_samplers(self, register):
        register("wraps", Wraps)


@pytest.fixture(autouse=True)
def toys():
    registry.plugins.cache_clear()
    registry.plugin_manager().register(Toys(), name="toys")
    yield
    registry.plugins.cache_clear()


def base(**changes):
    data = {
        "nasframe": 1,
        "model": "minilm-l6",
        "task": {"use": "files", "folder": str(Path.cwd())},
        "space": {"use": "width_depth", "layers": [3, 6], "heads": [4, 12], "ffn": [256, 1536]},
        "budgets": {"encoder_params": ["75%", "<= 4M"]},
        "stages": [
            {"train": {"save_as": "teacher", "epochs": 1}},
            {"search": {"sampler": "random", "trials": 5}},
            {"extract": {}},
            {"evaluate": {}},
        ],
    }
    return {**data, **changes}


def faults(data, *overrides):
    plan, problems = check_recipe(data, overrides)
    assert (plan is None) is bool(problems)
    return [str(problem) for problem in problems]


def stages(*extra):
    return base(stages=[*base()["stages"][:2], *extra])


def test_a_recipe_that_fits_becomes_a_plan():
    plan = resolve(nf.load_recipe(base(name="demo", seed=7)))
    assert (plan.name, plan.seed) == ("demo", 7)
    assert [(stage.name, stage.verb) for stage in plan.stages] == [
        ("teacher", "train"),
        ("search", "search"),
        ("extract", "extract"),
        ("evaluate", "evaluate"),
    ]
    options = plan.stages[0].options
    assert options["options"] == TrainOptions(epochs=1)
    assert options["save_as"] == "teacher"
    assert {"encoder_params", *COSTS} <= plan.estimators.keys()
    assert plan.model["use"] == "minilm-l6"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": "one"}, "seed  'one' does not fit. Expected int from 0"),
        ({"seed": True}, "seed  True does not fit"),
        ({"nasframe": 2}, "nasframe  unknown format 2. This nasframe reads format 1"),
        ({"name": "a/b"}, "name  'a/b' cannot name files"),
        ({"sede": 1}, "sede  unknown key. Expected one of budgets, constraints"),
        ({"sede": 1}, "Did you mean 'seed'?"),
        ({"trials": 5}, "trials  unknown key."),
        ({"trials": 5}, "Wrong level: it is an option of the stage search, as in stages.search.trials"),
        ({"population": 5}, "It belongs to sampler 'evolution'"),
        ({"model": None}, "model  missing"),
        ({"task": "glu"}, "task  unknown task 'glu'. There are: causal_lm, files, glue"),
        ({"task": {"use": "glu"}}, "task.use  unknown task 'glu'."),
        ({"task": {"name": "x"}}, "names no plugin"),
        ({"task": "random"}, "'random' is a sampler"),
        ({"task": {"use": "files"}}, "task.folder  missing. Expected path"),
        (
            {"task": {"use": "files", "folder": "nowhere/at/all"}},
            "task.folder  no such file or folder 'nowhere/at/all'",
        ),
        (
            {"task": {"use": "files", "folder": ".", "siez": 2}},
            "task.siez  task 'files' has no option 'siez'. Options: extra",
        ),
        (
            {"task": {"use": "files", "folder": ".", "base": "x"}},
            "task.base  not an option of task 'files': the framework gives it",
        ),
        ({"task": {"use": "files", "folder": ".", "max_length": 3}}, "It belongs to task 'glue'"),
        ({"task": {"use": "files", "folder": ".", "size": "3"}}, "task.size  '3' does not fit. Expected int."),
        ({"sampler": {"use": "wraps", "inner": {"use": "randm"}}}, "sampler.inner.use  unknown sampler 'randm'"),
        ({"sampler": {"use": "wraps", "inner": {"use": "wraps", "rate": "x"}}}, "sampler.inner.rate  'x' does not fit"),
        ({"sampler": {"use": "wraps", "join": 5}}, "sampler.join  5 does not fit"),
        ({"budgets": {"encoder_param": "50%"}}, "budgets.encoder_param  unknown cost. Costs: backbone_params"),
        ({"budgets": {"params": "50 apples"}}, "budgets.params  "),
        ({"budgets": {"params": [True]}}, "budgets.params.0  True is not a bound"),
        ({"constraints": {"params": ">= 60M, <= 40M"}}, "constraints.params  "),
        (
            {"task": "package_docs", "objectives": ["accuracy", "-flpos"]},
            "objectives.1  unknown metric or cost 'flpos'. Metrics: accuracy, loss, macro_f1; costs: backbone_params",
        ),
        ({"objectives": ["any", "macs"]}, "objectives.1  a search would look for the largest 'macs'"),
        ({"estimators": {"latency": {"threads": "x"}}}, "estimators.latency.threads  'x' does not fit"),
        ({"estimators": {"fast": {"use": "latenzy"}}}, "estimators.fast.use  unknown estimator 'latenzy'"),
        ({"plugins": ["nothing.py"]}, "plugins.0  no such file or folder 'nothing.py'"),
        ({"stages": "search"}, "stages  'search' does not fit"),
        (
            {"stages": ["serch"]},
            "unknown verb 'serch'. Verbs: evaluate, export, extract, load, repeat, search, train, transform",
        ),
        ({"stages": [{"train": {"epochs": 1}, "search": {}}]}, "is not a stage. Expected {verb: {option: value}}"),
        ({"stages": [{"train": 5}]}, "is not a stage"),
        ({"stages": [{"train": {}}]}, "Expected 'epochs' or 'max_steps'"),
        ({"stages": [{"train": {"epochs": 1, "save_as": "../up"}}]}, "'../up' cannot name files"),
        ({"space": None}, "stages.search  needs a space"),
    ],
)
def test_problems_of_the_recipe(changes, expected):
    found = faults(base(**changes))
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ({"train": {"epochs": 1, "learning_rat": 1}}, "stages.train.learning_rat  stage 'train' has no option"),
        ({"train": {"epochs": 1, "learning_rat": 1}}, "Did you mean 'learning_rate'?"),
        ({"train": {"epochs": 1, "trials": 1}}, "It belongs to the stage search"),
        ({"train": {"epochs": 1, "budgets": {}}}, "Wrong level: it belongs at the recipe's top level"),
        ({"train": {"epochs": 1, "temperature": 5}}, "modifier 'kd'"),
        (
            {"train": {"epochs": 1, "learning_rate": "fast"}},
            "stages.train.learning_rate  'fast' does not fit. Expected float",
        ),
        ({"train": {"epochs": 1, "keep": "bst"}}, "Did you mean 'best'?"),
        ({"train": {"epochs": 1, "sampler": "shared"}}, "there is no shared sampler"),
        (
            {"train": {"epochs": 1, "modifiers": [{"use": "kd", "teacher": "techer"}]}},
            "no saved network 'techer' at this point",
        ),
        (
            {"train": {"epochs": 1, "modifiers": [{"use": "kd", "temp": 1}]}},
            "stages.train.modifiers.0.temp  modifier 'kd' has no",
        ),
        ({"train": {"epochs": 1, "modifiers": ["kdd"]}}, "stages.train.modifiers.0  unknown modifier 'kdd'"),
        ({"train": {"epochs": 1, "modifiers": "kd"}}, "stages.train.modifiers  'kd' does not fit"),
        ({"train": {"epochs": 1, "from": "techer"}}, "stages.train.from  no network 'techer' at this point"),
        ({"train": {"epochs": 1, "arch": "best@30%"}}, "no architecture 'best@30%' at this point. There are: best@75%"),
        (
            {"transform": {"score": "taylor"}},
            "missing 'use'. Expected one of assign_bits, attach_probes",
        ),
        ({"transform": {"use": "rewire", "rank": 3}}, "stages.transform.rank  transform 'rewire' has no option 'rank'"),
        ({"transform": {"use": "rewire", "rank": 3}}, "It belongs to transform 'svd'"),
        ({"transform": {"use": "svd", "maps": ["query"]}}, "stages.transform  svd: nothing to factorise"),
        ({"search": {"name": "s", "budgets": {"parms": "50%"}}}, "stages.s.budgets.parms  unknown cost"),
        ({"search": {"name": "s", "fit": {"max_step": 3}}}, "stages.s.fit.max_step  there is no option 'max_step'"),
        (
            {"search": {"name": "s", "objectives": ["macs"]}},
            "stages.s.objectives.0  a search would look for the largest",
        ),
        ({"search": {"name": "teacher"}}, "a second stage is called 'teacher'"),
        ({"extract": {"archs": ["bst@*"]}}, "stages.extract.archs.0  no arch 'bst@*' at this point"),
        ({"extract": {"archs": {"mine": "bst"}}}, "stages.extract.archs.mine  no architecture 'bst' at this point"),
        (
            {"evaluate": {"models": ["best@*"]}},
            "stages.evaluate.models.0  no model 'best@*' at this point. There are: teacher",
        ),
        (
            {"evaluate": {"costs": ["parms"]}},
            "stages.evaluate.costs.0  no cost 'parms' at this point.",
        ),
        (
            {"evaluate": {"split": "test"}},
            "stages.evaluate.split  'test' does not fit. Expected 'train' or 'select' or 'dev'",
        ),
    ],
)
def test_problems_of_a_stage(stage, expected):
    found = faults(stages(stage))
    assert any(expected in line for line in found), found


HSPG = {"use": "hspg", "target": "50%"}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ([{"extract": {"archs": {"mine": "teacher"}}}], "stages.extract.archs.mine  no architecture 'teacher'"),
        ([{"train": {"name": "tune", "epochs": 1, "arch": "teacher"}}], "stages.tune.arch  no architecture 'teacher'"),
        (
            [{"train": {"save_as": "s", "epochs": 1, "modifiers": [HSPG]}}, {"extract": {"archs": ["s"]}}],
            "stages.extract  nothing is left to extract: s name",
        ),
        ([{"extract": {}}, {"extract": {"name": "again"}}], "stages.again  nothing is left to extract"),
        ([{"search": {"name": "more"}}], "stages.more.save_as  an earlier stage gave the name 'best@75%' to an arch"),
        (
            [{"extract": {"archs": {"teacher": "best@75%"}}}],
            "stages.extract.archs  an earlier stage gave the name 'teacher' to a model",
        ),
        (
            [{"extract": {}}, {"train": {"save_as": "best@75%", "epochs": 1}}],
            "stages.best@75%.save_as  an earlier stage gave the name 'best@75%' to a model",
        ),
        (
            [{"train": {"name": "t", "save_as": "pretrained", "epochs": 1}}],
            "stages.t.save_as  'pretrained' is the network",
        ),
        ([{"transform": {"use": "rewire", "save_as": "random"}}], "stages.random.save_as  'random' is a network"),
        ([{"export": {}}], "stages.export  nothing to export"),
        (
            [{"extract": {"archs": ["best@75%"]}}, {"train": {"epochs": 1, "from": "best@<= 4M"}}],
            "no network 'best@<= 4M' at this point",
        ),
        (
            [{"train": {"epochs": 1, "arch": "best@75%", "sampler": "random"}}],
            "stages.train.arch  names one sub-network, but a sampler",
        ),
        ([{"train": {"epochs": 1, "within": {"layers": [2]}}}], "stages.train.within  restricts what a sampler"),
        ([{"train": {"epochs": 1, "archs_per_step": 3}}], "stages.train.archs_per_step  counts what a sampler"),
        ([{"train": {"epochs": 1, "batch_size": 4, "accumulate": 5}}], "stages.train.accumulate  splits a batch of 4"),
        ([{"train": {"epochs": 1, "teacher_states": "fp16"}}], "stages.train.teacher_states  has no effect without"),
        ([{"search": {"name": "s", "trials": 0}}], "stages.s.trials  0 does not fit"),
        ([{"search": {"name": "s", "examples": 0}}], "stages.s.examples  0 does not fit"),
        ([{"search": {"name": "s", "finalists": 0}}], "stages.s.finalists  0 does not fit"),
    ],
)
def test_what_would_have_no_effect_or_another_is_refused(extra, expected):
    found = faults(stages(*extra))
    assert any(expected in line for line in found), found


def test_an_extract_with_nothing_found_before_is_refused():
    data = base(stages=[{"train": {"save_as": "teacher", "epochs": 1}}, {"extract": {}}])
    assert any("stages.extract  nothing to extract" in line for line in faults(data))


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        [{"extract": {}}, {"train": {"epochs": 1, "from": "best@75%"}}],
        [{"train": {"epochs": 1, "arch": "best@<= 4M"}}],
        [{"train": {"epochs": 1, "arch": {"layers": 3}}}],
        [{"train": {"max_steps": 3, "from": "random", "modifiers": ["kd"]}}],
        [
            {"search": {"name": "more", "save_as": "few", "budgets": {"params": "50%", "macs": ["30%", "20%"]}}},
            {"extract": {"archs": ["few@macs=30%", "few@params=*"]}},
        ],
        [{"train": {"name": "sparse", "epochs": 1, "modifiers": [HSPG]}}, {"extract": {"archs": {"a@50%": "sparse"}}}],
        [{"search": {"name": "all", "save_as": "all", "budgets": {}}}, {"extract": {"archs": ["all"]}}],
        [{"extract": {"archs": {"mine": {"layers": [0, 1]}}}}, {"evaluate": {"models": ["mine", "teacher"]}}],
        [{"transform": {"use": "rewire", "save_as": "wired"}}, {"train": {"epochs": 1, "from": "wired"}}],
        [{"train": {"epochs": 1, "sampler": "random", "space": {"use": "width_depth", "layers": [1, 2]}}}],
        [
            {
                "repeat": {
                    "times": 2,
                    "stages": [{"train": {"save_as": "x", "epochs": 1}}, {"train": {"from": "x", "epochs": 1}}],
                }
            }
        ],
        ["extract", {"evaluate": None}, {"export": {"mode": "padded"}}],
    ],
)
def test_references_that_point_back_are_fine(extra):
    assert faults(stages(*extra)) == []


def test_all_problems_are_told_at_once_with_their_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("model: minilm-l7\nspace: width_depth\n")
    (tmp_path / "r.yaml").write_text(
        "extends: base.yaml\nseed: one\nseed: two\nbudgets: {encoder_param: 50%}\nstages:\n"
        "  - transform: {use: svd, rnak: 64}\n  - search: {sampler: evolutoin, trials: 20}\n"
    )
    _, problems = check_recipe("r.yaml", ["task.use=glue", "stages.search.trails=3"])
    assert problems == sorted(problems, key=lambda problem: problem.order)
    places = {(problem.place, problem.path) for problem in problems}
    assert {
        ("r.yaml:3:1", "seed"),
        ("base.yaml:1:1", "model"),
        ("r.yaml:4:11", "budgets.encoder_param"),
        ("r.yaml:6:27", "stages.transform.rnak"),
        ("r.yaml:7:14", "stages.search.sampler"),
        ("override 'stages.search.trails=3'", "stages.search.trails"),
        ("override 'task.use=glue'", "task.name"),
    } <= places
    with pytest.raises(RecipeError):
        nf.load_recipe("r.yaml")


def test_an_override_that_sets_an_unwritten_option_is_checked():
    assert faults(base(), "stages.search.examples=64") == []
    (found,) = faults(base(), "stages.search.exmples=64")
    assert found.startswith("override 'stages.search.exmples=64'  stages.search.exmples")
    assert "Did you mean 'examples'?" in found


def with_modifiers(*modifiers):
    trained, *others = base()["stages"]
    trained["train"]["modifiers"] = list(modifiers)
    return base(stages=[trained, *others])


def test_old_names_of_options_are_warned_of_and_written_as_those_of_today():
    data = with_modifiers({"use": "dhspg", "until": None, "least": "20%"})
    with pytest.warns(DeprecationWarning, match="is deprecated") as caught:
        plan = resolve(nf.load_recipe(data))
    assert [str(warning.message) for warning in caught] == [
        "modifier 'dhspg': until is deprecated; it is 'ramp_end' now.",
        "modifier 'dhspg': least is deprecated; it is 'min_kept' now.",
    ]
    modifier = plan.recipe["stages"][0]["train"]["modifiers"][0]
    assert modifier == {**modifier, "ramp_end": None, "min_kept": "20%"}
    assert not {"until", "least"} & modifier.keys()


def test_an_old_name_beside_the_new_one_is_refused_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    modifier = "{use: hspg, target: 50%, ramp_end: 70%,\n    until: 60%}"
    text = dump(with_modifiers("MODIFIER")).replace("MODIFIER", modifier)
    Path("r.yaml").write_text(text)
    _, problems = check_recipe("r.yaml")
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "until" in line)
    expected = "is the old name of 'ramp_end', which is given, too. Expected only 'ramp_end'. (modifier 'hspg')"
    found = [str(problem) for problem in problems]
    assert found == [f"r.yaml:{line}:5  stages.teacher.modifiers.0.until  {expected}"]


def test_a_wrong_value_by_an_old_name_is_reported_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = dump(with_modifiers("MODIFIER")).replace("MODIFIER", "{use: hspg, target: 50%,\n    until: 150%}")
    Path("r.yaml").write_text(text)
    with pytest.warns(DeprecationWarning, match="until is deprecated"):
        _, problems = check_recipe("r.yaml")
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "until" in line)
    (found,) = map(str, problems)
    assert found.startswith(f"r.yaml:{line}:5  stages.teacher.modifiers.0.until  '150%' does not fit.")


def test_a_value_that_is_gone_is_reported_once():
    data = base()
    data["stages"][1]["search"]["sampler"] = {"use": "sng", "explore": "averaged"}
    (found,) = faults(data)
    assert "stages.search.sampler.explore  'explore: averaged' is how it was published" in found


@pytest.mark.slow
def test_paths_are_read_from_where_they_were_written(tmp_path, monkeypatch):
    for folder in ("recipes/data", "data", "here"):
        (tmp_path / folder).mkdir(parents=True)
    text = dump(base(task={"use": "files", "folder": "data"}))
    (tmp_path / "recipes/r.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert resolve(nf.load_recipe("recipes/r.yaml")).task["folder"] == str(tmp_path / "recipes/data")
    assert resolve(nf.load_recipe("recipes/r.yaml", ["task.folder=here"])).task["folder"] == str(tmp_path / "here")
    assert "no such file or folder 'gone'" in faults("recipes/r.yaml", "task.folder=gone")[0]
    (tmp_path / "elsewhere.yaml").write_text(dump(resolve(nf.load_recipe("recipes/r.yaml")).recipe))
    assert resolve(nf.load_recipe("elsewhere.yaml", base="recipes")).task["folder"] == str(tmp_path / "recipes/data")


@pytest.mark.slow
def test_a_text_that_may_be_a_file_is_one_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_net(tmp_path / "model")

    def read(path):
        return resolve(nf.load_recipe(base(model={"use": "hf", "path": path}))).model["path"]

    assert read("model") == str(tmp_path / "model")
    assert read("org/some-v1.5") == "org/some-v1.5"
    task = {"use": "text_classification", "train": "gone.csv"}
    assert any("task.train  no such file or folder 'gone.csv'" in line for line in faults(base(task=task)))
    assert faults(base(task={"use": "text_classification", "hub": "org/data", "train": "train"})) == []


def test_one_file_plugins_work_and_broken_ones_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/mine.py").write_text(
        "from nasframe import hookimpl\nclass Mine:\n    def __init__(self, domain): ...\n"
        "@hookimpl\ndef register_samplers(register): register('mine', Mine)\n"
    )
    (tmp_path / "sub/bad.py").write_text("import nothing_of_the_kind\n")
    recipe = base(sampler="mine", plugins=["mine.py"])
    (tmp_path / "sub/r.yaml").write_text(dump(recipe))
    plan, problems = check_recipe("sub/r.yaml")
    assert not problems
    assert plan.recipe["plugins"] == [str(tmp_path / "sub/mine.py")]
    told = faults("sub/r.yaml", "plugins=[sub/bad.py]")
    assert any("ModuleNotFoundError" in fault for fault in told)
    assert any("unknown sampler 'mine'" in fault for fault in told)  # its file is not named any more


def assert_rerunnable(plan):
    again = resolve(nf.load_recipe(plan.recipe, base=plan.base))
    assert again == plan
    assert resolve(nf.load_recipe(again.recipe, base=plan.base)) == plan


@pytest.mark.slow
@pytest.mark.parametrize("source", ["quickstart", "baselines/sst2", TOY])
def test_a_resolved_recipe_resolves_to_itself_through_its_file(source, tmp_path):
    plan = resolve(nf.load_recipe(source))
    assert_rerunnable(plan)
    (tmp_path / "recipe.yaml").write_text(dump(plan.recipe))
    assert resolve(nf.load_recipe(tmp_path / "recipe.yaml", base=plan.base)) == plan


train = st.fixed_dictionaries(
    {"epochs": st.integers(1, 3) | st.floats(0.5, 2)},
    optional={
        "learning_rate": st.floats(1e-6, 1e-2),
        "batch_size": st.integers(1, 64),
        "keep": st.sampled_from(["last", "best"]),
        "sampler": st.sampled_from(
            ["random", "shared", {"use": "sandwich", "inner": "every"}, {"use": "wraps", "rate": 1}]
        ),
        "modifiers": st.just([{"use": "kd", "temperature": 2}]),
        "within": st.just({"layers": [3]}),
        "from": st.sampled_from(["pretrained", "random", "teacher"]),
    },
)
search = st.fixed_dictionaries({}, optional={"trials": st.integers(1, 9), "objectives": st.just(["accuracy", "-macs"])})
stage = st.one_of(
    train.map(lambda o: {"train": o}),
    search.map(lambda o: {"search": o}),
    st.sampled_from(
        ["extract", {"evaluate": {"costs": ["size"]}}, {"transform": {"use": "rewire", "score": "taylor"}}]
    ),
)


def sensible(drawn):
    """Name searches apart, restrict only samplers, and extract only after a search."""
    found, fresh = [], False
    for number, stage in enumerate(drawn):
        if stage == "extract":
            if not fresh:
                continue
            fresh = False
        elif "search" in stage:
            stage = {"search": stage["search"] | {"save_as": f"more-{number}"}}
            fresh = True
        elif "train" in stage and "sampler" not in stage["train"]:
            stage = {"train": {key: value for key, value in stage["train"].items() if key != "within"}}
        found.append(stage)
    return found


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.lists(stage, max_size=4).map(sensible), st.integers(0, 99))
def test_any_plan_re_runs_to_itself(extra, seed):
    data = base(seed=seed, sampler={"use": "wraps", "join": "layer"}, stages=[*base()["stages"], *extra])
    assert_rerunnable(resolve(nf.load_recipe(data)))


def test_every_verb_and_kept_option_is_known():
    assert set(VERBS) == {"load", "train", "transform", "search", "extract", "evaluate", "export"}
    assert kept_options(("stages", "search")) == {"use", "save_as", *COMMON}
    assert kept_options(("stages", "search", "sampler")) == {"use", *registry.RESERVED["sampler"]}
    assert kept_options(("task",)) == {"use"}
