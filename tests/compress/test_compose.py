"""The recipes that are written: every method, for one budget and for several, checked on a model."""

import pytest
import yaml

from nasframe.errors import UsageError
from nasframe.recipe.loading import load_recipe
from nasframe_compress.compose import Lengths, Setup, Target, compose, model_names, probe_uses, recipe_budgets
from nasframe_compress.methods import find_method, method_names
from nasframe_compress.prepare import prepare, write
from nasframe_compress.request import Request, read_budgets
from nasframe_compress.sizes import Share

SIZE_METHODS = [name for name in method_names() if find_method(name).has_budgets]


def prepared(user, method, *budgets, model="base", **options):
    request = Request(model, "mails.csv", methods=(method,), budgets=read_budgets(budgets), **options)
    return prepare(request, user / "out")


@pytest.mark.parametrize("method", SIZE_METHODS)
def test_a_recipe_for_two_budgets_is_checked_and_finds_a_network_for_each(user, method):
    path = write(prepared(user, method, "60%", "macs<=55%"))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    written = yaml.safe_load(text)
    assert written["model"]["path"] == "../base"
    assert written["task"]["train"] == "../mails.csv"
    assert "export" not in {verb for stage in written["stages"] for verb in stage}
    plan_of = load_recipe(path)
    assert plan_of.data["budgets"] == {"encoder_params": ["60%"], "macs": ["55%"]}
    if not find_method(method).searches:
        extracted = [stage["extract"].get("archs") for stage in written["stages"] if "extract" in stage]
        names = [name for archs in extracted if archs for name in archs]
        assert {"best@encoder_params=60%", "best@macs=55%"} <= set(names)


def test_nxmiformer_chooses_the_largest_format_within_the_bits(user):
    path = write(prepared(user, "nxmiformer", "bits<=50%", "bits<=20%", "encoder_bits<=17%"))
    stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    trained = {options["save_as"]: options["modifiers"] for stage in stages for options in stage.values()
               if options.get("save_as", "").startswith("best")}  # fmt: skip
    assert list(trained) == ["best-bits-50", "best-bits-20", "best-encoder_bits-17"]
    plugins = [[modifier["use"] for modifier in modifiers] for modifiers in trained.values()]
    assert plugins[0] == ["kd", "fake_quant"]
    assert plugins[1] == ["kd", "fake_quant", "admm"]


@pytest.mark.parametrize(
    ("method", "budget", "problem"),
    [
        ("nxmiformer", "50%", "changes the bits of weights and no other cost.*yoco_bert"),
        ("hspg", "bits<=50%", "leaves the bits of each weight as they are.*Expected nxmiformer"),
        ("hspg", "encoder_params<=1", "even .* of the encoder has encoder_params"),
        ("nxmiformer", "bits<=1%", "even 2:4 int4 has bits"),
    ],
)
def test_a_method_that_cannot_meet_a_budget_is_refused(user, method, budget, problem):
    with pytest.raises(UsageError, match=problem):
        prepared(user, method, budget)
    assert not (user / "out").exists()


def test_an_unknown_method_is_refused_with_a_suggestion(user):
    with pytest.raises(UsageError, match=r"--methods 'yocobert'.*Did you mean 'yoco_bert'"):
        prepared(user, "yocobert", "50%")


def test_a_share_that_excludes_its_bound_is_met_below_it(user):
    ready = prepared(user, "magnitude", "encoder_params<50%")
    (target,) = ready.targets["magnitude"]
    inputs = ready.look.inputs
    space = inputs.work.space
    params = inputs.estimators["encoder_params"]
    full = params.estimate(space, inputs.work.net, space.arch({"size": 100}))
    own = params.estimate(space, inputs.work.net, space.arch({"size": target.share.percent}))
    assert 0.48 * full <= own < 0.5 * full


def test_a_share_meets_another_cost_and_the_next_one_does_not(user):
    ready = prepared(user, "magnitude", "macs<=40%")
    (target,) = ready.targets["magnitude"]
    inputs = ready.look.inputs
    space = inputs.work.space
    macs = inputs.estimators["macs"]
    full = macs.estimate(space, inputs.work.net, space.arch({"size": 100}))

    def share_of(percent):
        return macs.estimate(space, inputs.work.net, space.arch({"size": percent})) / full

    assert share_of(target.share.percent) <= 0.4 < share_of(target.share.percent + 2)


def test_joint_budgets_are_written_as_a_list_and_named_together():
    budgets = read_budgets(["50%,macs<=40%", "30%"])
    assert recipe_budgets(budgets) == [{"encoder_params": "50%", "macs": "40%"}, {"encoder_params": "30%"}]
    assert len(set(model_names(budgets))) == 2


def test_a_fine_tuned_model_is_loaded_as_the_teacher(user):
    path = write(prepared(user, "hspg", "50%", model="tuned"))
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert written["teacher"] == written["model"]
    assert written["stages"][0] == {"load": {"name": "load-teacher", "save_as": "teacher"}}


def test_a_head_that_only_guesses_is_trained_again(user):
    ready = prepared(user, "hspg", "50%", model="untrained", labels=("spam", "ham"))
    assert not ready.look.is_teacher
    assert "no better than chance" in ready.look.head


def test_a_head_without_names_is_refused_with_the_flags_to_add(user):
    with pytest.raises(UsageError, match=r"'LABEL_0', 'LABEL_1'.* Expected --labels .*, or --new-head"):
        prepared(user, "hspg", "50%", model="untrained")
    assert not prepared(user, "hspg", "50%", model="untrained", new_head=True).look.is_teacher


def test_wide_networks_train_with_a_third_of_the_rate(tmp_path):
    method = find_method("hspg")
    targets = [Target({"encoder_params": "50%"}, "best@50%", Share(50.0, exact=True))]
    rates = []
    for width in (384, 768):
        setup = Setup("x", {"use": "hf", "path": "m"}, {"use": "t"}, False, width, tmp_path)
        stages = compose(setup, method, targets, Lengths())["stages"]
        rates.append(next(stage["train"]["learning_rate"] for stage in stages if "train" in stage))
    assert rates == [1e-4, pytest.approx(3.3e-5)]


def test_a_folder_that_is_used_is_not_overwritten(user):
    ready = prepared(user, "hspg", "50%")
    write(ready)
    with pytest.raises(UsageError, match=r"not empty.*nasframe compress --resume"):
        write(ready)


def test_defaults_are_those_of_the_plugins():
    from nasframe_basics.rewire import Rewire
    from nasframe_yoco_bert.evidence import ImportancePrior

    rewire, prior = Rewire(score="taylor"), ImportancePrior()
    [of_rewire] = probe_uses({"transform": {"use": "rewire", "score": "taylor"}})
    [of_prior] = probe_uses({"train": {"modifiers": ["kd", {"use": "importance_prior"}]}})
    assert (of_rewire.batches, of_rewire.batch_size) == (rewire.batches, rewire.batch_size)
    assert (of_prior.batches, of_prior.batch_size) == (prior.batches, prior.batch_size)
    assert probe_uses({"transform": {"use": "rewire"}}) == []  # by magnitude
