"""Sampler ``sng_published``: each defect of the published algorithm, and that each can be mended alone."""

from typing import get_args

import numpy as np
import pytest
from asking import check_that_a_state_goes_on, check_that_they_do_the_same, told

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.search.constraints import Bounds
from nasframe.search.domain import Choices
from nasframe.search.loop import search
from nasframe.testing.samplers import SamplerContract, costs_of, flat_domain, layered_domain
from nasframe_yoco_bert.mixture import importance
from nasframe_yoco_bert.sng import SNG
from nasframe_yoco_bert.sng_published import OURS, PUBLISHED, Part, PublishedSNG

PARTS = get_args(Part)


class TestPublished(SamplerContract):
    trials = 300

    def make(self, domain, seed):
        return PublishedSNG(domain, seed)


class TestMended(SamplerContract):
    trials = 300

    def make(self, domain, seed):
        return PublishedSNG(domain, seed, costs=costs_of, mend=PARTS)


def pair(domain):
    return [domain.smallest(), domain.largest()]


def sampler_of(*mend):
    """Make a sampler on six knobs, with these parts mended."""
    return PublishedSNG(flat_domain(), delta=0.1, mend=mend)


def test_nothing_is_mended_unless_asked_for():
    assert PublishedSNG(flat_domain()).parts == PUBLISHED
    for part in PARTS:
        assert getattr(OURS, part) != getattr(PUBLISHED, part)
        mended = PublishedSNG(flat_domain(), mend=[part]).parts
        for other in PARTS:
            assert getattr(mended, other) == getattr(OURS if other == part else PUBLISHED, other)


def test_with_all_parts_mended_it_draws_and_learns_as_sng_does():
    domain = layered_domain(4).joined("layer")
    published = PublishedSNG(domain, 3, costs=costs_of, lam=4, delta=0.1, warm_up=2, mend=PARTS)
    ours = SNG(domain, 3, costs=costs_of, warm_up=2)
    for sampler in (published, ours):
        sampler.start("train", 20, "train")
    check_that_they_do_the_same(ours, published, 20)


def test_inactive_knobs_stay_where_they_are():
    domain = layered_domain(4)
    archs = [domain.smallest(), {**domain.smallest(), "heads.0": 4}]  # two layers kept, 2 and 3 have no effect
    names = list(domain.dims)
    moved = {}
    for mend in ((), ("inactive",)):
        sampler = PublishedSNG(domain, mend=mend)
        before = sampler.theta
        after = told(sampler, archs, [0.1, 0.9])
        moved[mend] = {name for name, old, new in zip(names, before, after, strict=True) if (old != new).any()}
    assert moved["inactive",] == {"heads.0"}
    assert moved[()] & {"heads.2", "heads.3", "ffn.2", "ffn.3"}


def test_only_members_of_one_batch_are_compared():
    low, high = pair(flat_domain())
    published, mended = sampler_of(), sampler_of("batches")
    for sampler in (published, mended):
        sampler.start("train", 10, "train")
        before = sampler.theta
        told(sampler, [low], [-1.0], "train")
        after = told(sampler, [high], [-2.0], "train")
        assert (np.array(before) == np.array(after)).all() == (sampler is mended)
    before = mended.theta
    assert (np.array(told(mended, [low, high], [-1.0, -2.0], "train")) != np.array(before)).any()


def test_equal_rewards_do_not_move_theta():
    archs = pair(flat_domain())
    start = np.array(sampler_of().theta)
    assert (np.array(told(sampler_of("ties"), archs, [0.7, 0.7])) == start).all()
    assert (np.array(told(sampler_of(), archs, [0.7, 0.7])) != start).any()  # f = −0.7: never tied, as published


def test_a_sample_that_theta_would_hardly_draw_counts_less():
    p = np.tile([0.05, 0.05, 0.9], (6, 1))
    q = np.full((6, 3), 1 / 3)
    assert importance(0.5, p[:, 0], q[:, 0]) == pytest.approx(0.05**6 / (0.5 * 0.05**6 + 0.5 / 3**6))
    assert importance(0.5, p[:, 2], q[:, 2]) == pytest.approx(0.9**6 / (0.5 * 0.9**6 + 0.5 / 3**6))
    for mend, equal in (((), True), (("weights",), False)):
        sampler = PublishedSNG(flat_domain(), 1, lam=4, mend=mend)
        sampler.start("train", 100, "train")
        sampler.distribution = np.tile([0.05, 0.05, 0.9], (6, 1))
        sampler.exploit = 0.5
        archs = sampler.ask(4)
        equally = PublishedSNG(flat_domain(), lam=4)
        equally.distribution = sampler.distribution
        scores = [-1.0, -2.0, -3.0, -4.0]
        same = np.array(told(sampler, archs, scores, "train")) == np.array(told(equally, archs, scores))
        assert same.all() == equal


def test_what_a_stage_leaves_over_is_compared_with_the_next_one_as_published():
    low, high = pair(flat_domain())
    for sampler, moves in ((sampler_of(), True), (SNG(flat_domain(), lam=2, same_batch=False), False)):
        sampler.start("train", 10, "train")
        before = told(sampler, [low], [-1.0], "train")
        sampler.start("search", 10, "search")
        after = told(sampler, [high], [0.9])
        assert (np.array(before) != np.array(after)).any() == moves


@pytest.mark.parametrize(("kind", "rises"), [(SNG, False), (PublishedSNG, True)])
def test_the_published_penalty_raises_a_negative_score(kind, rises):
    domain = Choices({"k": [1, 2, 3, 4]})
    result = search(
        kind(domain, lam=2),
        domain,
        lambda arch, count: {"mcc": -0.5},
        lambda arch: {"size": arch["k"]},
        objectives=["mcc"],
        trials=4,
        bounds={"size": Bounds(high=2)},
        violation={"penalise": 2},
    )
    scores = {trial.arch["k"]: trial.score for trial in result.trials}
    assert scores[1] == scores[2] == -0.5
    beyond = [scores[k] for k in (3, 4) if k in scores]
    assert beyond
    assert all((score > -0.5) == rises for score in beyond)
    assert result.winners["best"].arch["k"] <= 2


def test_a_state_in_the_middle_of_an_update_goes_on():
    domain = layered_domain(6).joined("layer")
    check_that_a_state_goes_on(PublishedSNG(domain, 3), PublishedSNG(domain, 8))


def test_an_unknown_part_is_refused():
    with pytest.raises(UsageError, match=r"no part 'tie'.*Did you mean 'ties'"):
        PublishedSNG(flat_domain(), mend=["tie"])
    with pytest.raises(UsageError, match="'tie' does not fit"):
        nf.make("sampler", {"use": "sng_published", "mend": ["tie"]}, domain=flat_domain())
