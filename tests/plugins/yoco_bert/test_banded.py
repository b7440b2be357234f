"""Sampler ``banded_sng``: its walk, what it learns, what it proposes for a budget."""

from collections import Counter

import numpy as np
import pytest

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.search.constraints import Screen, parse_bounds
from nasframe.search.domain import Choices
from nasframe_yoco_bert.banded import BandedSNG
from nasframe_yoco_bert.examples import sized_domain


def trained(sampler, total, loss=None):
    """Walk through a training; probes are answered by ``loss``. Return the proposals."""
    sampler.start("train", total, "train")
    archs = []
    for _ in range(total):
        archs += sampler.ask(1)
        sampler.tell([nf.Trial(archs[-1], -1.0, origin="train")])
        probe = sampler.probe()
        if probe and loss is not None:
            sampler.hear(probe, [loss(arch) for arch in probe])
    return archs


def shape(arch):
    return str({name: value for name, value in arch.items() if name != "size"})


def test_steps_are_divided_evenly_or_by_pace():
    even = Counter(arch["size"] for arch in trained(BandedSNG(sized_domain(), bands=5, between=0), 500))
    assert set(even.values()) == {100}
    sampler = BandedSNG(sized_domain(), bands=["10%", "40%"], between=0, pace=1.0)
    paced = Counter(arch["size"] for arch in trained(sampler, 500))
    assert paced == {10.0: 400, 40.0: 100}


def test_coverage_takes_every_choice_in_turn():
    archs = trained(BandedSNG(sized_domain(), bands=2, coverage=1.0, learning=0.0), 36)
    counts = Counter((arch["size"], shape(arch)) for arch in archs)
    assert len(counts) == 18
    assert set(counts.values()) == {2}


def test_concentration_trains_one_choice_a_band():
    sampler = BandedSNG(sized_domain(), bands=3, coverage=0.2, learning=0.2, between=0)
    archs = trained(sampler, 300, lambda arch: len(arch["layers"]))
    last = {(arch["size"], shape(arch)) for arch in archs[120:]}
    assert len(last) == 3
    assert all("[0]" in name for _, name in last)  # one layer has the smallest loss


def test_some_steps_train_sizes_between_the_bands():
    sampler = BandedSNG(sized_domain(), bands=["10%", "100%"], coverage=0.0, learning=0.0, between=0.25)
    sizes = Counter(arch["size"] for arch in trained(sampler, 2000))
    between = sum(count for size, count in sizes.items() if size not in (10.0, 100.0))
    assert between == pytest.approx(2000 * 0.25 * 3 / 5, rel=0.2)  # three of the five sizes


def test_probes_compare_networks_of_one_size_and_move_theta():
    sampler = BandedSNG(sized_domain(), bands=3, coverage=0.0, learning=1.0)
    sampler.start("train", 100, "train")
    probe = sampler.probe()
    assert len({arch["size"] for arch in probe}) == 1
    assert len({shape(arch) for arch in probe}) == len(probe) == 8
    sampler.hear(probe, [abs(arch["tilt"] - 0.5) for arch in probe])
    moved = sampler.theta
    assert moved[10.0]["tilt"][2] > moved[40.0]["tilt"][2] > 1 / 3  # the neighbour follows at half the step
    assert moved[100.0]["tilt"] == pytest.approx([1 / 3] * 3)


def test_theta_finds_the_better_choice_under_noise():
    rng = np.random.default_rng(0)
    wins = 0
    for seed in range(10):
        sampler = BandedSNG(sized_domain(), seed=seed, bands=3, coverage=0.0, learning=0.6)
        trained(sampler, 100, lambda arch: 0.5 * (len(arch["layers"]) != 2) + 0.5 * rng.standard_normal())
        wins += sum(np.argmax(table["layers"]) == 1 for table in sampler.theta.values())
    assert wins >= 24  # of 30; a draw would give 10


def test_a_search_proposes_the_best_guesses_that_fill_the_budget():
    domain = sized_domain()
    sampler = BandedSNG(domain, bands=5, top=2)
    trained(sampler, 200, lambda arch: -len(arch["layers"]))
    sampler.start("search", 10, "search")
    costs = lambda arch: {"size": arch["size"] + 0.1 * len(arch["layers"])}  # noqa: E731
    region = domain.restrict(keep=Screen({"size": parse_bounds("<= 45", 100)}, costs))
    first, second = sampler.ask(5, within=region)
    assert first["size"] == second["size"] == 40.0
    assert first["layers"] == [0, 1, 2]
    assert sampler.ask(5, within=region) == []
    assert sampler.ask(1, within=domain.restrict({"size": [20.0]}))[0]["size"] == 20.0


def test_a_prior_is_half_of_the_start_and_all_of_the_control():
    mass = lambda arch: float(len(arch["layers"]))  # noqa: E731
    learned, control = BandedSNG(sized_domain()), BandedSNG(sized_domain(), choose="prior")
    for sampler in (learned, control):
        sampler.set_prior(mass)
    half, whole = learned.theta[10.0]["layers"], control.theta[10.0]["layers"]
    assert half == pytest.approx([(1 / 3 + share) / 2 for share in whole])
    assert whole == sorted(whole)
    assert sum(whole) == pytest.approx(1)
    assert control.probe() == []


def test_random_choices_stay_the_same():
    archs = trained(BandedSNG(sized_domain(), choose="random", between=0, bands=4), 200)
    assert len({(arch["size"], shape(arch)) for arch in archs[100:]}) == 4


def test_a_random_choice_is_searched_for_in_the_shape_that_was_trained():
    domain = sized_domain().restrict(keep=lambda arch: arch["size"] < 50 or len(arch["layers"]) > 1)
    for seed in range(5):
        sampler = BandedSNG(domain, seed=seed, choose="random", between=0, bands=["40%"], top=1)
        last = trained(sampler, 50)[-1]
        sampler.start("search", 1, "search")
        [found] = sampler.ask(1, within=domain.restrict({"size": [40.0]}))
        assert found == last
        sampler.start("search", 1, "search")
        [larger] = sampler.ask(1, within=domain.restrict({"size": [100.0]}))  # has fewer choices
        assert larger["tilt"] == last["tilt"]
        assert larger["layers"] == last["layers"] or len(last["layers"]) == 1


def test_a_region_with_a_lower_bound_is_searched_too():
    domain = sized_domain()
    sampler = BandedSNG(domain)
    region = domain.restrict(keep=lambda arch: 65 <= arch["size"] <= 80)
    assert {arch["size"] for arch in sampler.ask(5, within=region)} == {70.0}


def test_a_prior_that_nobody_gave_is_refused_and_missing_evidence_is_told_once():
    with pytest.raises(UsageError, match="importance_prior"):
        trained(BandedSNG(sized_domain(), choose="prior"), 20)
    notices = []
    sampler = BandedSNG(sized_domain(), notify=lambda place, text: notices.append((place, text)))
    trained(sampler, 40)
    assert [place for place, _ in notices] == ["sampler"]
    assert "probes" in notices[0][1]
    notices.clear()
    sampler.set_prior(lambda arch: 1.0)
    trained(sampler, 40)
    assert notices == []


def test_a_state_goes_on_with_the_same_tail():
    one, two = BandedSNG(sized_domain(), seed=3), BandedSNG(sized_domain(), seed=3)
    one.start("train", 100, "train")
    for _ in range(30):
        one.tell([nf.Trial(one.ask(1)[0], 0.0)])
        probe = one.probe()
        if probe:
            one.hear(probe, list(range(len(probe))))
    two.start("train", 100, "train")
    two.load_state_dict(one.state_dict())
    assert [one.ask(1) for _ in range(20)] == [two.ask(1) for _ in range(20)]
    assert one.probe() == two.probe()


@pytest.mark.parametrize(
    ("domain", "options", "text"),
    [
        (Choices({"k": [1, 2]}), {}, "knob 'size'"),
        (sized_domain(), {"bands": ["5%"]}, "5%"),
        (sized_domain(), {"coverage": 0.7, "learning": 0.7}, "1.4 of the training"),
    ],
)
def test_what_cannot_work_is_refused(domain, options, text):
    with pytest.raises(UsageError, match=text):
        BandedSNG(domain, **options)
