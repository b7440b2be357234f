"""Reading recipes: places of problems, extends, switches, overrides, stages by name."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasframe as nf
from nasframe.errors import RecipeError
from nasframe.recipe.loading import load_recipe, packaged_recipes, read_recipe
from nasframe.recipe.resolve import check_recipe
from nasframe.recipe.stage_list import stage_names
from nasframe.recipe.yaml import Position, dump, parse
from nasframe_studies.file import load_study

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(text, name="r.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return put


def problems(source, *overrides):
    return [str(problem) for problem in read_recipe(source, overrides)[1]]


# ---- YAML


def value(text):
    node, found = parse(f"a: {text}", Position("f", 1, 1))
    assert not found, found
    return node.plain()["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2e-5", 2e-5), ("1E3", 1000.0), ("-.5", -0.5), ("3", 3), ("012", 12), ("1_000", "1_000"), ("yes", "yes"),
        ("off", "off"), ("True", True), ("~", None), ("", None), ("66M", "66M"), ("75%", "75%"), ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"), ("'2e-5'", "2e-5"), (".inf", ".inf"), ("[1, {b: 2}]", [1, {"b": 2}]),
    ],
)  # fmt: skip
def test_values_are_read_without_surprises(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs", "Cc"]))
    | st.from_regex(r"[-+0-9.eE%MGx_:~]{1,6}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("ab1~.<", min_size=1, max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.text("abc~0", min_size=1, max_size=4), plain, max_size=4))
def test_what_is_dumped_is_read_back(data):
    node, found = parse(dump(data), Position("f", 1, 1))
    assert not found
    assert node.plain() == data


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from(list("ab:- \n\t[]{}'\"&*!|>#,?%@\x07é1.")), max_size=40))
def test_no_text_breaks_the_reader(text):
    node, found = parse(text, Position("f", 1, 1))
    assert node is not None or found
    assert all(str(problem).startswith("f:") for problem in found)


def test_what_is_done_to_one_reading_is_not_in_the_next():
    text, at = "stages: [{train: {epochs: 1}}]\nstages: 1", Position("a.yaml", 1, 1)
    first, told = parse(text, at)
    before = first.plain()
    assert before
    assert len(told) == 1
    first.value.clear()
    told.clear()
    again, told = parse(text, at)
    assert (again.plain(), len(told)) == (before, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: 1\nb:\n  c: 1\n  c: 2\na: 3",
            ["r.yaml:4:3  b.c  duplicate key, first on line 3", "r.yaml:5:1  a  duplicate"],
        ),
        ("a:\n\tb: 1", ["r.yaml:2:1  a tab in the indentation. Expected spaces."]),
        ("", ["r.yaml:1:1  the file is empty. Expected 'key: value'"]),
        ("# only a comment\n", ["r.yaml:1:1  the file is empty"]),
        ("- a\n- b", ["r.yaml:1:1  the file is not a mapping"]),
        ("just text", ["r.yaml:1:1  the file is not a mapping"]),
        ("a: [1", ["r.yaml:1:6  not YAML"]),
        ("a: b: c", ["r.yaml:1:5  not YAML"]),
        (b"a: 1\nb: \xff", ["r.yaml:2:4  byte 0xff is not UTF-8"]),
        ("a: \x07", ["r.yaml:1:4  not YAML: character U+0007"]),
        ("a: !!python/name:os.system ''", ["r.yaml:1:4  a  unknown tag"]),
        ("a: !mine 1", ["r.yaml:1:4  a  unknown tag"]),
        ("a: &x [*x]", ["r.yaml:1:4  a.0  an anchor that contains itself"]),
        ("[" * 3000, ["not a recipe: nested too deeply"]),
        ("a: 1\n---\nb: 1", ["r.yaml:2:1  not YAML"]),
        ("a: 1e999", ["r.yaml:1:4  a  '1e999' is not a valid float"]),
        ("? [a]\n: 1", ["a key that is not text"]),
    ],
)
def test_problems_have_file_line_and_column(write, text, expected):
    found = problems(write(text))
    assert len(found) == len(expected), found
    for line, part in zip(found, expected, strict=True):
        assert part in line


def test_anchors_and_merge_keys_work(write):
    recipe = nf.load_recipe(write("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\n"))
    assert recipe.data["b"] == {"p": 1, "q": 3}


def test_a_missing_file_and_a_folder_are_told(write, tmp_path):
    assert "no such file, and no packaged recipe" in problems("nothing.yaml")[0]
    assert "Did you mean 'quickstart'?" in problems("quikstart")[0]
    (problem,) = read_recipe("mrpc")[1]
    assert len(problem.text) < 300
    assert 1 <= len(re.findall(r"'[\w/-]*mrpc[\w/-]*'", problem.text)) <= 5
    assert "Did you mean" not in problems("zzzzzzzz")[0]
    assert "is a directory" in problems(str(tmp_path))[0]
    with pytest.raises(RecipeError) as error:
        nf.load_recipe("nothing.yaml")
    assert error.value.exit_code == 2


def test_positions_follow_every_value(write):
    recipe = nf.load_recipe(write("a: 1\nb:\n  - c: 2\n    d: [5, 6]\n"), ["b.0.c=9"])
    assert recipe.place(("a",)) == ("r.yaml", 1, 1)
    assert recipe.place(("b", 0, "d", 1)) == ("r.yaml", 4, 12)
    assert str(recipe.place(("b", 0, "c"))) == "override 'b.0.c=9'"
    assert recipe.place(("b", 7, "x")) == ("r.yaml", 2, 1)


# ---- extends


def test_extends_merges_mappings_and_replaces_lists(write):
    write("a: {x: 1, y: [1, 2]}\ntask: {use: glue, name: cola}\nsampler: random\n", "base/one.yaml")
    write("extends: one.yaml\na: {z: 5}\nb: 2\n", "base/two.yaml")
    recipe = nf.load_recipe(
        write("extends: [base/two.yaml]\na: {y: [3], x: null}\ntask: {name: sst2}\nsampler: {join: layer}\n")
    )
    assert recipe.data == {
        "a": {"x": None, "y": [3], "z": 5}, "b": 2, "task": {"use": "glue", "name": "sst2"},
        "sampler": {"use": "random", "join": "layer"},
    }  # fmt: skip
    assert recipe.place(("b",)).file == str(Path("base/two.yaml"))
    assert recipe.place(("task", "use")) == (str(Path("base/one.yaml")), 2, 8)


def test_later_files_win_and_another_plugin_drops_the_options_of_the_old_one(write):
    write("sampler: {use: sng, rate: 1, join: layer}\nk: 1\n", "one.yaml")
    write("k: 2\n", "two.yaml")
    data = nf.load_recipe(write("extends: [one.yaml, two.yaml]\nsampler: {use: random}\n")).data
    assert data == {"sampler": {"use": "random", "join": "layer"}, "k": 2}


def test_another_task_or_space_drops_all_options_of_the_old_one(write):
    write("task: {use: glue, name: cola, select: 5%}\nspace: {use: table, name: x, from: y, save_as: z}\n", "base.yaml")
    data = nf.load_recipe(write("extends: base.yaml\ntask: {use: package_docs}\nspace: {use: nm_bits}\n")).data
    assert data == {"task": {"use": "package_docs"}, "space": {"use": "nm_bits"}}
    assert nf.load_recipe("base.yaml", ["task.use=package_docs"]).data["task"] == {"use": "package_docs"}


def test_a_fragment_s_options_are_of_the_plugin_that_extends_it(write):
    write("task: {limit: 5}\nestimators: {latency: {batch: 2}, fast: {use: latency, batch: 2}}\n", "base.yaml")
    text = "extends: base.yaml\ntask: {use: package_docs}\nestimators: {latency: {use: flops}, fast: {use: latency}}\n"
    assert nf.load_recipe(write(text)).data == {
        "task": {"limit": 5, "use": "package_docs"},
        "estimators": {"latency": {"use": "flops"}, "fast": {"use": "latency", "batch": 2}},
    }


SWITCHED = """
task: {use: package_docs}
model: minilm-l6
sampler: {use: sandwich, inner: {use: sng, lam: 2, join: layer}}
stages: [{train: {save_as: teacher, epochs: 1}}, {search: {trials: 5}}]
set: {task.limit: 3, stages.teacher.epochs: 2, +sampler.biggest: 1}
switches:
  smoke: {task.limit: 5, stages.search.trials: 1, stages.teacher.epochs: 2, seed: 3}
  other: {task.use: glue, task.name: cola}
"""


@pytest.mark.parametrize("between", ["base.yaml", "middle.yaml"])
def test_what_set_and_switches_change_in_a_replaced_plugin_goes_with_it(write, between):
    write(SWITCHED, "base.yaml")
    write("extends: base.yaml\nname: middle\n", "middle.yaml")
    text = f"extends: {between}\ntask: {{use: text_classification, text: a}}\nsampler: random\n"
    data = nf.load_recipe(write(text)).data
    assert data["task"] == {"use": "text_classification", "text": "a"}
    assert data["sampler"] == "random"
    assert data["switches"]["smoke"] == {"stages.search.trials": 1, "stages.teacher.epochs": 2, "seed": 3}
    assert data["switches"]["other"] == {"task.use": "glue", "task.name": "cola"}
    assert data["stages"][0]["train"]["epochs"] == 2
    data = nf.load_recipe(write(text), ["smoke=true"]).data
    assert data["task"] == {"use": "text_classification", "text": "a"}
    assert data["stages"][1]["search"]["trials"] == 1


def test_stages_that_are_replaced_take_what_switches_change_in_them_with_them(write):
    write(SWITCHED, "base.yaml")
    data = nf.load_recipe(write("extends: base.yaml\nstages: [{search: {trials: 7}}]\n"), ["smoke=true"]).data
    assert data["stages"] == [{"search": {"trials": 1}}]
    assert data["task"]["limit"] == 5


def test_a_switch_of_the_recipe_itself_must_fit_its_own_plugins(write):
    write(SWITCHED, "base.yaml")
    text = "extends: base.yaml\nstages: [{search: {trials: 7}}]\nswitches: {smoke: {stages.teacher.epochs: 3}}\n"
    with pytest.raises(RecipeError, match="no stage 'teacher'"):
        nf.load_recipe(write(text), ["smoke=true"])


@pytest.mark.slow
def test_an_arm_replaces_a_plugin_as_a_recipe_does_that_extends_another(write):
    write("extends: quickstart\nswitches: {none: {}}\n", "base.yaml")
    Path("reviews.csv").write_text("review,stars\ngood,1\nbad,2\n")
    task = "task: {use: text_classification, train: reviews.csv, text: review, label: stars}"
    arms = "arms: {a: {}, b: {sampler: {use: random, join: null}}}"
    write(f"base: base.yaml\n{arms}\ntasks: {{mine: {{{task}}}}}\nseeds: [0]\n", "study.yaml")
    for smoke in (False, True):
        plans = load_study("study.yaml", smoke=smoke).plans
        assert {plan.task["use"] for plan in plans.values()} == {"text_classification"}


def test_a_join_that_a_base_sets_is_switched_off(write):
    write(f"extends: {TOY}\nsampler: {{use: random, join: layer}}\n", "base.yaml")
    plan, problems = check_recipe(write("extends: base.yaml\nsampler: {join: null}\n"))
    assert problems == []
    assert plan is not None
    assert plan.sampler == {"use": "random", "replace": True}
    for wrong in ('""', "[a]", "3", "{}", "{a: b}", "{a: [1]}"):
        place = check_recipe(write(f"extends: base.yaml\nsampler: {{join: {wrong}}}\n"))[1]
        assert [problem.path for problem in place] == ["sampler.join"], wrong


def test_null_is_no_number_and_the_problem_says_how_to_have_the_default(write):
    (problem,) = check_recipe(write(f"extends: {TOY}\nset: {{stages.search.trials: null}}\n"))[1]
    assert (problem.place, problem.path) == ("r.yaml:2:7", "stages.search.trials")
    assert "Leave it out" in problem.text


def test_extends_finds_packaged_recipes(write):
    assert nf.load_recipe(write("extends: quickstart\nname: mine\n")).data["task"]["use"] == "package_docs"


def test_extends_refuses_circles_and_what_is_missing(write):
    write("extends: r.yaml\n", "other.yaml")
    found = problems(write("extends: [other.yaml, nothing.yaml, 5]\n"))
    assert "other.yaml:1:1  extends  a circle: r.yaml → other.yaml → r.yaml" in found[0]
    assert "r.yaml:1:23  extends  no such file 'nothing.yaml'" in found[1]
    assert "5 is not a file" in found[2]
    assert "a circle" in problems(write("extends: r.yaml\n"))[0]


def test_problems_of_extended_files_are_all_told(write):
    write("a: 1\na: 2\n", "base.yaml")
    found = problems(write("extends: base.yaml\nb: 1\nb: 2\n"))
    assert [line.split()[0] for line in found] == ["r.yaml:3:1", "base.yaml:2:1"]


# ---- overrides


BASE = {
    "seed": 0,
    "task": "glue",
    "stages": [
        {"train": {"save_as": "teacher", "epochs": 1, "modifiers": [{"use": "kd", "weight": 0.5}]}},
        {"search": {"sampler": {"use": "sng", "rate": 1, "join": "layer"}}},
        "extract",
        {"evaluate": None},
        {"evaluate": {"split": "select"}},
    ],
    "switches": {
        "smoke": {"stages.teacher.max_steps": 2, "seed": 5},
        "more": {"+stages.5": {"export": {"mode": "stock"}}, "~task": None},
    },
}


def changed(*overrides):
    return nf.load_recipe(BASE, overrides).data


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("seed=3", ("seed",), 3),
        ("seed=2e-5", ("seed",), 2e-5),
        ("task.path=a/b-1", ("task",), {"use": "glue", "path": "a/b-1"}),
        ("new.deep.key=[1, x]", ("new",), {"deep": {"key": [1, "x"]}}),
        ("+new={a: 1}", ("new",), {"a": 1}),
        ("~task", ("task",), None),
        ("stages.teacher.epochs=4", ("stages", 0, "train", "epochs"), 4),
        ("stages.0.epochs=4", ("stages", 0, "train", "epochs"), 4),
        ("stages.teacher.modifiers.0.weight=1", ("stages", 0, "train", "modifiers", 0, "weight"), 1),
        ("+stages.teacher.modifiers.1=kd_hidden", ("stages", 0, "train", "modifiers", 1), "kd_hidden"),
        ("~stages.teacher.modifiers.0", ("stages", 0, "train", "modifiers"), []),
        ("stages.search.sampler=random", ("stages", 1, "search", "sampler"), "random"),
        ("stages.search.sampler.use=random", ("stages", 1, "search", "sampler"), {"use": "random", "join": "layer"}),
        ("stages.extract.archs=[a]", ("stages", 2), {"extract": {"archs": ["a"]}}),
        ("~stages.extract", ("stages", 2), {"evaluate": None}),
        ("stages.search={trials: 3}", ("stages", 1), {"search": {"trials": 3}}),
        ("smoke=true", ("seed",), 5),
        ("smoke=true", ("stages", 0, "train", "max_steps"), 2),
        ("smoke=false", ("seed",), 0),
        ("more=true", ("stages", 5), {"export": {"mode": "stock"}}),
        ("more=true", ("task",), None),
    ],
)
def test_overrides(override, path, expected):
    found = changed(override)
    for key in path:
        found = found.get(key) if isinstance(found, dict) else found[key]
    assert found == expected


def test_a_switch_that_is_said_twice_is_one():
    assert changed("more=true", "more=true") == changed("more=true")
    assert changed("smoke=true", "smoke=false")["seed"] == 0


def test_overrides_apply_in_order_and_after_switches():
    assert changed("seed=1", "seed=2")["seed"] == 2
    assert changed("seed=1", "smoke=true")["seed"] == 1
    sampler = changed("stages.search.sampler.size=3", "stages.search.sampler.use=random")["stages"][1]["search"][
        "sampler"
    ]
    assert sampler == {"use": "random", "join": "layer", "size": 3}
    assert BASE["seed"] == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "Expected key=value, +key=value or ~key"),
        ("=3", "not an override"),
        ("~seed=3", "not an override"),
        ("a=[1,", "not YAML"),
        ("a={b: 1, b: 2}", "duplicate key"),
        ("+seed=1", "exists already. To change it, leave out the '+'"),
        ("+stages.4={export: {}}", "there is a stage '4' already. Expected +stages.5 for one more"),
        ("~sed", "there is no 'sed' to take away. Did you mean 'seed'?"),
        ("~task.a.b", "there is no 'a' to take away"),
        ("seed.x=1", "'seed' is 0, which has no options"),
        ("stages.serch.trials=1", "Stages: evaluate, evaluate-2, extract, search, teacher. Did you mean 'search'?"),
        ("stages.evaluate.split=dev", "several stages are called 'evaluate' only by their verb"),
        ("stages.evaluate-2.split=dev", "several stages are called 'evaluate' only by their verb"),
        ("stages.9.split=dev", "no item '9'. Expected a number from 0 to 4"),
        ("stages.teacher.modifiers.1.weight=1", "no item '1'"),
        ("+stages.teacher.modifiers.0=kd", "item 0 exists already. To change it, leave out the '+'"),
        ("smoke=3", "3 does not fit. Expected true or false"),
    ],
)  # fmt: skip
def test_an_override_of_nothing_is_refused_with_its_place(override, words):
    with pytest.raises(RecipeError) as error:
        changed(override)
    assert words in str(error.value)
    assert str(error.value).startswith(f"override '{override}'")


def test_all_wrong_overrides_are_told_at_once():
    with pytest.raises(RecipeError) as error:
        changed("seed", "~x", "stages.y.z=1")
    assert len(error.value.problems) == 3


# ---- stages


def test_stage_names():
    stages = [
        {"train": {"name": "a", "save_as": "b"}},
        {"train": {"save_as": "c"}},
        {"train": {}},
        "train",
        {"search": None},
    ]
    assert [name for name, _ in stage_names(stages)] == ["a", "c", "train", "train-2", "search"]


def test_repeat_writes_a_group_out():
    inner = [{"train": {"save_as": "s", "epochs": 1}}, "search", {"extract": {"from": "s"}}]
    data = {"stages": ["export", {"repeat": {"times": 2, "stages": inner}}]}
    stages = nf.load_recipe(data, ["stages.search-2.trials=4"]).data["stages"]
    assert [name for name, _ in stage_names(stages)] == [
        "export",
        "s-1",
        "search-1",
        "extract-1",
        "s-2",
        "search-2",
        "extract-2",
    ]
    assert stages[4]["train"] == {"save_as": "s-2", "epochs": 1, "name": "s-2"}
    assert stages[6]["extract"]["from"] == "s-2"
    assert stages[5]["search"] == {"name": "search-2", "trials": 4}
    assert len(nf.load_recipe(data, ["stages.repeat.times=3"]).data["stages"]) == 10


@pytest.mark.parametrize(
    "group", [None, {"times": 0, "stages": []}, {"times": True, "stages": []}, {"times": 2}, {"stages": 1}]
)
def test_a_wrong_repeat_is_told(group):
    with pytest.raises(RecipeError, match="Expected repeat:"):
        nf.load_recipe({"stages": [{"repeat": group}]})


def test_packaged_recipes_are_found_by_name():
    names = packaged_recipes()
    assert {"quickstart", "baselines/sst2"} <= names.keys()
    assert not any("_base" in name for name in names)
    assert nf.load_recipe("baselines/sst2").data["task"]["name"] == "sst2"
    assert math.isclose(nf.load_recipe("quickstart", ["a=1e-3"]).data["a"], 1e-3)


def test_set_reaches_into_an_extended_list_and_goes_before_switches(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "stages: [{train: {save_as: teacher, epochs: 1}}]\nset: {stages.teacher.epochs: 2, seed: 3}\n"
        "switches: {smoke: {stages.teacher.epochs: 9}}\n"
    )
    (tmp_path / "r.yaml").write_text("extends: base.yaml\nset: {stages.teacher.epochs: 4}\n")
    data = load_recipe(tmp_path / "r.yaml").data
    assert (data["stages"][0]["train"]["epochs"], data["seed"]) == (4, 3)
    assert "set" not in data
    assert load_recipe(tmp_path / "r.yaml", ["smoke=true"]).data["stages"][0]["train"]["epochs"] == 9
    (tmp_path / "r.yaml").write_text("extends: base.yaml\nset: {stages.techer.epochs: 4}\n")
    with pytest.raises(RecipeError, match=r"r.yaml:2:\d+ .*Did you mean 'teacher'"):
        load_recipe(tmp_path / "r.yaml")
