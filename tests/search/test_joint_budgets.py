"""Budgets that bound several costs together: one winner meets them all, from the recipe's text to the report."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nasframe as nf
from nasframe.cli import main
from nasframe.declarations import bounds_in, outcomes, winners
from nasframe.errors import UnsatisfiableError
from nasframe.folders import model_folder
from nasframe.recipe.resolve import check_recipe
from nasframe.report.read import gather
from nasframe.running.dry_run import dry_run
from nasframe.search.budgets import Budget, JointBudget, check_reachable, known_budgets, named_budgets, parse_limits
from nasframe.search.constraints import Bounds
from nasframe.search.domain import Choices
from nasframe.search.loop import search
from nasframe_basics.samplers import EverySampler
from nasframe_deploy.deploy import deploy
from nasframe_studies.run_facts import _Limit
from stand_in import write_net, write_reviews

TOY = Path(__file__).parents[1] / "data" / "toy.yaml"
DOMAIN = Choices({"a": list(range(6)), "b": list(range(6))})
JOINT = [{"encoder_params": "80%", "macs": "75 %"}, {"encoder_params": "60%"}]
STAGES = [
    {"train": {"save_as": "teacher", "max_steps": 2}},
    {"train": {"save_as": "supernet", "sampler": "random", "max_steps": 2}},
    {"search": {"trials": 12}},
    {"extract": {}},
    {"evaluate": {"costs": ["encoder_params", "macs"]}},
]
NAMES = ["best@encoder_params=80%,macs=75%", "best@encoder_params=60%"]


def costs(arch):
    return {"first": float(arch["a"]), "second": float(arch["b"])}


def score(arch, examples):
    return {"accuracy": arch["a"] + 2.0 * arch["b"]}


def test_the_winner_is_the_best_of_those_that_meet_all_bounds():
    wanted = [JointBudget({"first": "3", "second": "2"}, {"first": Bounds(high=3), "second": Bounds(high=2)})]
    wanted.append(JointBudget({"second": "4"}, {"second": Bounds(high=4)}))
    found = search(EverySampler(DOMAIN), DOMAIN, score, costs, trials=36, budgets=wanted)
    best = {}
    for joint in wanted:
        archs = [dict(zip("ab", pair, strict=True)) for pair in itertools.product(range(6), range(6))]
        fitting = [arch for arch in archs if all(costs(arch)[cost] <= b.high for cost, b in joint.bounds.items())]
        label = ",".join(f"{cost}={text}" for cost, text in joint.texts.items())
        best[f"best@{label}"] = max(fitting, key=lambda arch: arch["a"] + 2 * arch["b"])
    assert {name: dict(trial.arch) for name, trial in found.winners.items()} == best


def test_bounds_that_are_reachable_one_by_one_only_are_refused_with_the_nearest():
    def linked(arch):
        return {"first": float(arch["a"]), "second": 5.0 - arch["a"]}

    wanted = [JointBudget({"first": "2", "second": "2"}, {"first": Bounds(high=2), "second": Bounds(high=2)})]
    with pytest.raises(UnsatisfiableError, match="best@first=2,second=2: no architecture has first <= 2; second <= 2"):
        search(EverySampler(DOMAIN), DOMAIN, score, linked, trials=5, budgets=wanted)


names = st.sampled_from(["macs", "latency", "params.x", "encoder_params"])
texts = st.sampled_from(["50%", "12ms", "<= 4M", ">= 1k, <= 3k", "< 8"])


@given(st.lists(st.dictionaries(names, texts, min_size=1, max_size=3), min_size=1, max_size=4, unique_by=str))
def test_names_tell_winners_apart_and_hold_their_bounds(budgets):
    found = winners("best", budgets)
    assert len({winner.name for winner in found}) == len({json.dumps(b, sort_keys=True) for b in budgets})
    for winner in found:
        in_name = {
            cost or next(iter(winner.texts)): text.replace(" ", "") for cost, text in bounds_in(winner.name).items()
        }
        assert in_name == {cost: text.replace(" ", "") for cost, text in winner.texts.items()}


def test_a_list_of_one_cost_means_what_the_mapping_does():
    full = {"macs": 10.0}
    as_list = named_budgets("net", *parse_limits({}, [{"macs": "50%"}, {"macs": "30%"}], full))
    as_mapping = named_budgets("net", *parse_limits({}, {"macs": ["50%", "30%"]}, full))
    assert as_list == as_mapping


def test_constraints_hold_beside_joint_budgets_and_unknown_costs_count_in_the_names():
    budgets = [{"macs": "50%", "latency": "12ms"}]
    (found,) = known_budgets("best", {"macs": ">= 2"}, budgets, {"macs": 10.0})
    assert found.name == "best@macs=50%,latency=12ms"
    assert dict(found.bounds) == {"macs": Bounds(2.0, 5.0)}


@pytest.mark.parametrize(
    ("budgets", "place", "text"),
    [
        ([{"encoder_params": ["50%", "30%"]}], "budgets.0.encoder_params", "has several bounds"),
        ([{"encoder_parms": "50%"}], "budgets.0.encoder_parms", "Did you mean 'encoder_params'?"),
        ([{"encoder_params": "12ms"}], "budgets.0.encoder_params", "12ms"),
        ([{}], "budgets.0", "bounds nothing"),
        ([{"macs": "50%"}, {"macs": "50%"}], "budgets.1", "is listed twice"),
        (["50%"], "budgets", "does not fit"),
    ],
)
def test_what_cannot_be_meant_is_refused(budgets, place, text):
    _, found = check_recipe(TOY, [f"budgets={json.dumps(budgets)}"])
    assert [problem for problem in found if problem.path.startswith(place) and text in problem.text], found


def test_check_finds_bounds_that_cannot_be_met_together(tmp_path, capsys):
    write_net(tmp_path / "net", num_hidden_layers=3, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    model = f"model={{use: hf, path: {tmp_path / 'net'}}}"
    task = f"task={write_reviews(tmp_path)}"
    alone = "budgets=[{encoder_params: '<= 60%'}, {macs: '>= 90%'}]"
    together = "budgets=[{encoder_params: '<= 60%', macs: '>= 90%'}]"
    assert main(["check", "methods/uniform", model, task, alone]) == 0
    assert main(["check", "methods/uniform", model, task, together]) == 2
    assert "best@encoder_params=<=60%,macs=>=90%: no architecture has" in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = nf.load_recipe(TOY, [f"budgets={json.dumps(JOINT)}", f"stages={json.dumps(STAGES)}"])
    return recipe, nf.run(recipe, out=tmp_path_factory.mktemp("joint") / "run").directory


def test_a_run_finds_reports_and_keeps_one_model_for_each(finished):
    recipe, directory = finished
    report = gather(directory)
    found = [name for outcome in outcomes(nf.resolve(recipe).recipe) for name in outcome.finds]
    assert [name for name in found if name.startswith("best@")] == NAMES
    models = {model["name"]: model for model in report["models"]}
    full = models["teacher"]["costs"]
    for name, bounds in zip(NAMES, JOINT, strict=True):
        for cost, text in bounds.items():
            share = float(text.rstrip(" %")) / 100
            assert models[name]["costs"][cost] <= share * full[cost], (name, cost)
    assert models[NAMES[0]]["budget"] == "encoder_params=80%,macs=75%"
    assert report["searches"][0]["costs"] == ["encoder_params", "macs"]
    folders = [model_folder(directory, name) for name in NAMES]
    assert [folder.name for folder in folders] == ["best-encoder_params-80-macs-75", "best-encoder_params-60"]
    assert all((folder / "predictions.csv").is_file() for folder in folders)


def test_a_dry_run_judges_bounds_together(finished):
    recipe, _ = finished
    rows = dry_run(nf.resolve(recipe))["limits"]
    assert [(row["cost"], row["text"], row["reachable"]) for row in rows] == [
        ("encoder_params", "80%", True), ("macs", "75 %", True), ("encoder_params", "60%", True),
    ]  # fmt: skip


def test_a_deployment_takes_bounds_together(finished, tmp_path):
    _, directory = finished
    request = ["encoder_params<=75%,macs<=90%"]
    found = deploy(directory, budgets=request, out=tmp_path / "out", search=0, progress=False)
    assert [model["name"] for model in found["models"]] == ["best@encoder_params=75%,macs=90%"]


def test_a_studys_curve_of_a_joint_budget_needs_all_bounds():
    limit = _Limit.of_winner("best@macs=50%,params=8", ["macs", "params"], {"macs": 10.0})
    assert limit.allows({"macs": 5.0, "params": 8.0})
    assert not limit.allows({"macs": 5.0, "params": 9.0})
    assert not limit.allows({"macs": 6.0, "params": 8.0})


def test_a_budget_that_is_hard_to_draw_but_reachable_is_not_refused(monkeypatch):
    """Drawing may fail where a descent succeeds: an architecture that was found proves that there is one."""

    def undrawable(region, keep):
        raise UnsatisfiableError("nothing was drawn")

    monkeypatch.setattr("nasframe.search.budgets.restrict", undrawable)
    domain = Choices({"a": list(range(9)), "b": list(range(9))})

    def costs(arch):
        return {"sum": arch["a"] + arch["b"], "product": arch["a"] * arch["b"]}

    reachable = Budget("best@1", {"sum": Bounds(high=3.0), "product": Bounds(high=2.0)})
    check_reachable([reachable], domain, costs)
    unreachable = Budget("best@2", {"sum": Bounds(high=-1.0)})
    with pytest.raises(UnsatisfiableError, match=r"best@2: no architecture has .*nearest reachable is sum = 0"):
        check_reachable([reachable, unreachable], domain, costs)
