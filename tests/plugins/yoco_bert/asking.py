"""What the tests of both samplers share: telling scores, and going on from a stored state."""

import json

import numpy as np

from nasframe.records import Trial
from nasframe.testing.samplers import answered


def told(sampler, archs, scores, origin="search"):
    """Tell a sampler scores, and return its θ."""
    sampler.tell([Trial(arch, score, origin=origin) for arch, score in zip(archs, scores, strict=True)])
    return sampler.theta


def check_that_a_state_goes_on(whole, resumed):
    """Store the state of a sampler in the middle of an update, load it into another, and compare their next steps.

    Args:
        whole: a fresh sampler.
        resumed: another one of the same options, with another seed.
    """
    whole.start("train", 50, "train")
    for _ in range(7):
        whole.tell(answered(whole.ask(1), "train"))
    asked = whole.ask(1)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed.start("train", 50, "train")
    resumed.load_state_dict(state)
    assert json.loads(json.dumps(resumed.state_dict())) == state
    for sampler in (whole, resumed):
        sampler.tell(answered(asked, "train"))
    check_that_they_do_the_same(whole, resumed, 10)


def check_that_they_do_the_same(first, second, rounds):
    """Ask and tell two samplers in a training, and compare their proposals and then their θ."""
    for _ in range(rounds):
        archs = first.ask(1)
        assert second.ask(1) == archs
        for sampler in (first, second):
            sampler.tell(answered(archs, "train"))
    for mine, other in zip(first.theta, second.theta, strict=True):
        np.testing.assert_array_equal(mine, other)
