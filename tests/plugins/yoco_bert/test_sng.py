"""Sampler ``sng``: its proposals, the mixture, costs, regions, its state, and options of earlier versions."""

import numpy as np
import pytest
from asking import check_that_a_state_goes_on, told

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.domain import Choices
from nasframe.search.loop import search
from nasframe.testing.samplers import SamplerContract, costs_of, flat_domain, layered_domain, size_of
from nasframe_yoco_bert.mixture import exploit_probability
from nasframe_yoco_bert.sng import SNG
from nasframe_yoco_bert.sng_published import PublishedSNG


class TestDefault(SamplerContract):
    trials = 800

    def make(self, domain, seed):
        return SNG(domain, seed, warm_up=1)


class TestMatchedCosts(SamplerContract):
    trials = 300

    def make(self, domain, seed):
        return SNG(domain, seed, costs=costs_of, warm_up=1)


class TestResidual(SamplerContract):
    trials = 300

    def make(self, domain, seed):
        return SNG(domain, seed, costs=costs_of, match="residual", cost_targets="explore", warm_up=0)


# ---- groups and the mixture


def test_same_batch_rounds_an_ask_up_to_whole_groups():
    sampler = SNG(flat_domain(), lam=4)
    assert [len(sampler.ask(n)) for n in (1, 4, 5)] == [4, 4, 8]
    assert [len(SNG(flat_domain(), lam=4, same_batch=False).ask(n)) for n in (1, 4, 5)] == [1, 4, 5]


def test_explore_averaged_does_not_see_layers_that_settled_differently():
    names, shape = ["layers", "layer.0", "layer.1"], np.array([4, 12, 12])
    theta = np.zeros((3, 12))
    theta[0, :4] = 0.25
    theta[1, 0] = theta[2, 1] = 1.0
    most = np.log(4) + np.log(12)
    assert exploit_probability(theta, names, shape, "averaged") == pytest.approx((np.log(4) + np.log(2)) / most)
    assert exploit_probability(theta, names, shape, "per_layer") == pytest.approx(np.log(4) / most)
    assert exploit_probability(theta, names, shape, 0.3) == pytest.approx(0.7)
    uniform = np.where(np.arange(12) < shape[:, None], 1 / shape[:, None], 0)
    assert exploit_probability(uniform, names, shape, "averaged") == pytest.approx(1)


def test_explore_is_the_share_of_uniform_draws_in_training_and_none_in_search():
    sampler = SNG(flat_domain(), explore=0.25, warm_up=0)
    sampler.distribution = np.tile([1.0, 0.0, 0.0], (6, 1))
    for origin, share in (("train", 0.25), ("search", 0.0)):
        sampler.start("stage", 1000, origin)
        drawn = sampler.ask(2000)
        others = [any(arch.values()) for arch in drawn]
        assert np.mean(others) == pytest.approx(share, abs=0.04)


def test_the_mixture_follows_theta_every_twentieth_of_a_stage():
    sampler = SNG(flat_domain(), lam=2, delta=0.1)
    sampler.start("train", 100, "train")
    sampler.distribution = np.tile([0.98, 0.01, 0.01], (6, 1))
    for step in range(1, 6):
        assert sampler.exploit == 1.0
        told(sampler, [flat_domain().smallest()] * 2, [-1.0, -1.0], "train")
        assert (sampler.exploit < 1) == (step == 5)
    sampler.start("next", 100, "train")
    assert sampler.exploit == 1.0


# ---- costs


def grouped(sampler, count, within=None):
    domain = sampler.domain
    low, high = size_of(domain.smallest()), size_of(domain.largest())
    archs = [arch for _ in range(count) for arch in sampler.ask(sampler.lam, within=within)]
    return (costs_of(archs)[:, 0] - low).reshape(count, -1) / (high - low)


def deep_domain():
    return layered_domain(6).joined("layer")


def test_groups_are_drawn_in_one_band_of_cost():
    sampler = SNG(deep_domain(), 0, costs=costs_of, band=0.1, warm_up=0)
    loose = SNG(deep_domain(), 0, costs=costs_of, match="none", warm_up=0)
    for each in (sampler, loose):
        each.start("train", 1000, "train")
    matched, unmatched = grouped(sampler, 150), grouped(loose, 150)
    assert np.quantile(np.ptp(matched, axis=1), 0.9) <= 0.1
    assert np.median(np.ptp(unmatched, axis=1)) > 0.15


@pytest.mark.parametrize(("targets", "power"), [("all", 1.0), ("all", 2.0), ("explore", 1.0), ("none", 1.0)])
def test_proposals_spread_over_cost_where_they_aim_at_it(targets, power):
    sampler = SNG(deep_domain(), 0, costs=costs_of, cost_targets=targets, cost_power=power, explore=0.5, warm_up=0)
    sampler.start("train", 10_000, "train")
    counts = np.histogram(grouped(sampler, 300)[:, 0], 5, (0, 1))[0] / 300
    if targets == "all":
        expected = np.diff(np.linspace(0, 1, 6) ** (1 / power))  # P(u^power <= c) = c^(1/power)
        assert counts == pytest.approx(expected, abs=0.07)
    else:
        assert counts[4] < (0.15 if targets == "explore" else 0.05)  # uniform over knobs is rarely at the ends
    sampler.start("search", 10_000, "search")
    assert np.histogram(grouped(sampler, 100)[:, 0], 5, (0, 1))[0][4] < 5  # a search draws from θ as it is


def test_the_cost_of_a_score_does_not_move_theta_where_costs_are_matched():
    """Scores that are nothing but cost: the published objective runs to the largest, matched ones stay."""
    shares = {}
    for how in ("loss", "band", "residual"):
        options = {"match": "none", "cost_targets": "none"} if how == "loss" else {"match": how, "band": 0.02}
        sampler = SNG(deep_domain(), 1, costs=costs_of, warm_up=0, delta=0.1, **options)
        sampler.start("train", 1000, "train")
        for _ in range(150):
            archs = sampler.ask(4)
            told(sampler, archs, costs_of(archs)[:, 0] / 100, "train")
        shares[how] = float(sampler.theta[0][-1])
    assert shares["loss"] > 0.6  # of five depths, the largest
    assert shares["band"] < 0.45
    assert shares["residual"] < 0.45


def test_what_is_better_at_equal_cost_is_found():
    """Heads help, FFN neurons of the same cost do not: θ learns it from groups of one cost."""
    domain = Choices({f"{kind}.{i}": [0, 1, 2] for kind in ("good", "idle") for i in range(4)})
    sampler = SNG(domain, 0, costs=lambda archs: np.array([[sum(arch.values())] for arch in archs]), band=0.01)
    sampler.start("train", 1000, "train")
    for _ in range(300):
        archs = sampler.ask(4)
        good = [sum(v for k, v in arch.items() if k.startswith("good")) for arch in archs]
        told(sampler, archs, [g - 0.5 * sum(a.values()) for g, a in zip(good, archs, strict=True)], "train")
    mode = sampler.mode()
    assert all(mode[f"good.{i}"] == 2 and mode[f"idle.{i}"] == 0 for i in range(4))


def test_without_costs_it_does_without():
    sampler = SNG(deep_domain(), 0)
    sampler.start("train", 10, "train")
    archs = sampler.ask(4)
    assert len(archs) == 4


def test_warm_up_explores_and_lets_theta_rest():
    sampler = SNG(flat_domain(), 0, warm_up=3, explore=0.0)
    sampler.distribution = np.tile([1.0, 0.0, 0.0], (6, 1))
    sampler.start("train", 100, "train")
    for update in range(5):
        archs = sampler.ask(4)
        assert (costs_of(archs) > 0).any() == (update < 3)
        before = sampler.theta
        told(sampler, archs, [-1.0, -2.0, -3.0, -4.0], "train")
        if update < 3:
            assert (np.array(before) == np.array(sampler.theta)).all()


# ---- regions


def test_a_restriction_renormalises_and_what_it_fixes_does_not_move():
    domain = flat_domain()
    sampler = SNG(domain, 0, lam=2, warm_up=0, explore=0.0)
    sampler.distribution = np.tile([0.8, 0.15, 0.05], (6, 1))
    within = domain.restrict({"k0": [1, 2], "k1": [2]})
    sampler.start("train", 100, "train")
    drawn = [arch for _ in range(2000) for arch in sampler.ask(2, within=within)]
    assert np.mean([arch["k0"] == 1 for arch in drawn]) == pytest.approx(0.75, abs=0.03)
    assert {arch["k1"] for arch in drawn} == {2}
    before = sampler.theta
    for _ in range(20):
        told(sampler, sampler.ask(2, within=within), [-1.0, -2.0], "train")
    moved = [bool((old != new).any()) for old, new in zip(before, sampler.theta, strict=True)]
    assert moved == [True, False, True, True, True, True]


def test_mode_is_the_most_likely_inside_a_region():
    domain = deep_domain()
    sampler = SNG(domain, 0, costs=costs_of)
    sampler.distribution[:] = sampler.at.valid * np.arange(1, sampler.at.valid.shape[1] + 1)
    sampler.distribution /= sampler.distribution.sum(1, keepdims=True)
    assert sampler.mode() == domain.largest()
    assert sampler.mode(domain.restrict({"layers": [2, 3]}))["layers"] == [0, 1, 2]
    small = Screen({"size": Bounds(high=0.3 * size_of(domain.largest()))}, lambda arch: {"size": size_of(arch)})
    assert small(sampler.mode(domain.restrict(keep=small)))


def test_regions_that_theta_hardly_reaches_are_met():
    domain = deep_domain()
    sampler = SNG(domain, 0, costs=costs_of)
    tight = Screen({"size": Bounds(high=size_of(domain.smallest()) * 1.05)}, lambda arch: {"size": size_of(arch)})
    within = domain.restrict(keep=tight)
    archs = sampler.ask(8, within=within)
    assert len(archs) == 8
    assert all(map(within.contains, archs))


# ---- state and use


@pytest.mark.parametrize("options", [{}, {"match": "residual", "same_batch": False}])
def test_a_state_in_the_middle_of_an_update_goes_on(options):
    whole, resumed = (SNG(deep_domain(), seed, costs=costs_of, warm_up=0, **options) for seed in (3, 8))
    check_that_a_state_goes_on(whole, resumed)


def test_theta_is_in_the_order_of_the_knobs():
    sampler = nf.make("sampler", {"use": "sng", "join": "layer"}, domain=layered_domain(3))
    assert [len(row) for row in sampler.theta] == [2, 9, 9, 9]
    assert [len(row) for row in SNG(layered_domain(3)).theta] == [2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("options", [{"lam": 1}, {"explore": 1.5}])
def test_options_that_cannot_be(options):
    with pytest.raises(UsageError, match="Expected"):
        SNG(flat_domain(), **options)


ALWAYS = {
    "reference_compat": False,
    "objective": "cost_matched",
    "mask_inactive": True,
    "ties": "absolute",
    "uniform_samples": "weight",
    "clear_buffer": True,
    "penalty": "monotone",
}
GONE = [
    ("reference_compat", True, "use: sng_published"),
    ("explore", "averaged", r"mend: \[inactive, batches, ties, weights, objective\]"),
    ("mask_inactive", False, r"mend: \[explore, batches, ties, weights, objective\]"),
    ("ties", "relative", r"mend: \[explore, inactive, batches, weights, objective\]"),
    ("uniform_samples", "use", r"mend: \[explore, inactive, batches, ties, objective\]"),
    ("uniform_samples", "skip", "nothing replaces it"),
    ("clear_buffer", False, "use: sng_published"),
    ("penalty", "published", "use: sng_published"),
]


def made(**options):
    return nf.make("sampler", {"use": "sng", **options}, domain=deep_domain(), seed=0, costs=costs_of)


@pytest.mark.parametrize(("name", "value"), [*ALWAYS.items(), *dict.fromkeys(ALWAYS).items()])
def test_a_former_option_that_says_what_is_done_anyway_is_read_with_a_warning(name, value):
    with pytest.warns(DeprecationWarning, match=f"{name} is deprecated; leave it out"):
        sampler = made(**{name: value})
    assert sampler.parts == SNG(deep_domain()).parts


@pytest.mark.parametrize("name", ["lam", "delta", "explore", "same_batch", "cost_targets", "warm_up"])
def test_a_former_null_means_the_default(name):
    with pytest.warns(DeprecationWarning, match=f"'{name}: null' is deprecated; leave it out"):
        sampler = made(**{name: None})
    default = SNG(deep_domain())
    assert sampler.parts == default.parts
    assert (sampler.lam, sampler.delta, sampler.warm_up) == (default.lam, default.delta, default.warm_up)


@pytest.mark.parametrize(("name", "value"), [("mask_inactive", 1), ("ties", "both"), ("objective", "cost")])
def test_a_former_option_of_a_value_that_it_never_had_is_refused(name, value):
    with pytest.raises(UsageError, match=f"{name}: '{name}: {value}' does not fit, and the option is gone"):
        made(**{name: value})


def test_the_former_objective_is_a_match():
    with pytest.warns(DeprecationWarning, match="objective is deprecated; write 'match: none'"):
        sampler = made(objective="loss")
    assert sampler.parts == made(match="none").parts


@pytest.mark.parametrize(("objective", "match"), [("loss", "band"), ("loss", "none"), ("cost_matched", "none")])
def test_the_former_objective_beside_match_is_refused(objective, match):
    with pytest.raises(UsageError, match="objective: is the old way to say what 'match' says, which is given, too"):
        made(objective=objective, match=match)


@pytest.mark.filterwarnings("ignore:sampler 'sng'")
def test_a_recipe_that_an_earlier_version_resolved_means_what_it_did():
    written_out = {"reference_compat": False, "match": "residual", "band": 0.1, "cost_power": 1.0}
    assert made(**written_out, objective="cost_matched").match == "residual"
    assert made(**written_out, objective="loss").match == "none"  # then `match` did not count


@pytest.mark.parametrize(("name", "value", "advice"), GONE)
def test_a_former_option_that_is_gone_says_where_it_went(name, value, advice):
    with pytest.raises(UsageError, match=rf"{name}: '{name}: \w+' is .*{advice}") as caught:
        made(**{name: value})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", [SNG, PublishedSNG])
def test_a_domain_without_knobs_is_refused(kind):
    with pytest.raises(UsageError, match=f"sampler '{kind.use}' needs a domain with 'encode'"):
        kind(object())


def test_it_finds_what_is_good():
    domain = flat_domain()
    sampler = SNG(domain, 0, lam=4, delta=0.3)
    result = search(
        sampler, domain, lambda arch, count: {"accuracy": size_of(arch)}, lambda arch: {"size": 1.0}, trials=150
    )
    assert sampler.mode() == domain.largest()
    assert result.winners["best"].arch == domain.largest()
