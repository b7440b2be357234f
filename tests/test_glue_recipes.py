"""Every packaged recipe of GLUE can be pointed at any of the nine tasks by ``task.name`` and ``task.path``."""

import pytest

import nasframe as nf
from nasframe.recipe.loading import packaged_recipes, read_recipe
from nasframe.recipe.resolve import check_recipe
from nasframe_basics.glue import TASKS
from stand_in import WORDS, write_net


def names_of_glue_recipes():
    names = []
    for name, path in packaged_recipes().items():
        recipe, _ = read_recipe(path)
        task = recipe.data.get("task") if recipe else None
        if isinstance(task, dict) and task.get("use") == "glue" and "stages" in recipe.data:
            names.append(name)
    return names


RECIPES = names_of_glue_recipes()
NAMES = list(TASKS)


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """A folder that holds all of GLUE's folders, with a few rows each."""
    home = tmp_path_factory.mktemp("glue")
    for layout in TASKS.values():
        columns = layout.header or (*layout.texts, layout.label)
        labels = ["0.5", "3.25"]
        if layout.labels is not None:
            labels = [str(number) for number in range(2)] if layout.numbered else list(layout.labels)
        rows = []
        for number in range(60):
            words = [WORDS[5 + (number + shift) % 8] for shift in (0, 1, 3)]
            cells = dict.fromkeys(columns, "x") | dict.fromkeys(layout.texts, " ".join([*words, str(number)]))
            cells[layout.label] = labels[number % len(labels)]
            rows.append("\t".join(cells[column] for column in columns))
        header = [] if layout.header else ["\t".join(columns)]
        (home / layout.folder).mkdir()
        for split in ("train", *layout.dev):
            (home / layout.folder / f"{split}.tsv").write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")
    return home


def problems(name, task, glue):
    _, found = check_recipe(name, [f"task.name={task}", f"task.path={glue}"])
    return [str(problem) for problem in found]


def test_there_are_recipes_of_every_method():
    assert {name.partition("/")[0] for name in RECIPES} >= {"baselines", "dynabert", "hspg", "nxmiformer", "rosita"}
    assert len(RECIPES) > 60


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_each_recipe_fits_one_task_of_each_kind(glue, number):
    """Each recipe is checked once; the slow test has all pairs."""
    for position, name in enumerate(RECIPES):
        if position % len(NAMES) == number:
            task = NAMES[(position // len(NAMES) + number) % len(NAMES)]
            assert problems(name, task, glue) == [], (name, task)


@pytest.mark.slow
@pytest.mark.parametrize("task", NAMES)
def test_every_recipe_fits_every_task(glue, task):
    for name in RECIPES:
        assert problems(name, task, glue) == [], name


@pytest.mark.parametrize(("task", "outputs"), [("mnli", 3), ("stsb", 1)])
def test_the_head_and_the_metrics_follow_the_task(glue, tmp_path, task, outputs):
    from nasframe.stages.inputs import RunInputs

    write_net(tmp_path / "net", hidden_size=24, num_attention_heads=4, intermediate_size=64, num_hidden_layers=6)
    overrides = [f"task.name={task}", f"task.path={glue}", f"model={{use: hf, path: {tmp_path / 'net'}, head: new}}"]
    inputs = RunInputs(nf.resolve(nf.load_recipe("yoco_bert/minilm", [*overrides, "task.max_length=12"])))
    assert inputs.work.net.config.num_labels == outputs
    assert inputs.task.primary == TASKS[task].metrics[0]
    sizes = inputs.task.sizes
    assert sizes["dev"] == 60
    assert ("dev_mismatched" in sizes) == (task == "mnli")


def test_the_mean_of_two_metrics_is_selected_by_where_there_are_two(glue):
    from nasframe_basics.glue import glue as make

    primary = {name: make(name, path=glue, score="mean", notify=lambda place, text: None).primary for name in NAMES}
    assert primary["mrpc"] == primary["qqp"] == "accuracy_f1"
    assert primary["stsb"] == "pearson_spearman"
    assert {primary[name] for name in ("sst2", "mnli", "qnli", "rte", "wnli")} == {"accuracy"}
    assert primary["cola"] == "mcc"


def test_primary_is_the_tasks_own_metric(glue, tmp_path):
    from nasframe.store import RunStore

    write_net(tmp_path / "net", hidden_size=16, num_attention_heads=4, intermediate_size=32, num_hidden_layers=2)
    for task, expected in (("stsb", "spearman"), ("cola", "mcc")):
        recipe = {
            "model": {"use": "hf", "path": str(tmp_path / "net"), "head": "new"},
            "task": {"use": "glue", "name": task, "path": str(glue), "max_length": 12},
            "space": {"use": "width_depth", "layers": [1, 2], "heads": [2, 4], "ffn": [16, 32]},
            "stages": [{"search": {"trials": 3, "objectives": ["primary", "-encoder_params"]}}],
        }
        run = nf.run(nf.load_recipe(recipe), out=tmp_path / task, report=False, progress=False)
        store = RunStore(run.directory, shared=True)
        assert store.stage_result("search")["objectives"] == [expected, "-encoder_params"]
        store.close()
