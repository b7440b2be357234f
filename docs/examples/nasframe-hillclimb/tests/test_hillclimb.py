"""The sampler keeps the contract of its kind, climbs, and is found where it is installed."""

import numpy as np
from nasframe import Trial, registry
from nasframe.domain import Choices
from nasframe.testing import SamplerContract
from nasframe_hillclimb.sampler import HillClimb


class TestHillClimb(SamplerContract):
    def make(self, domain, seed):
        return HillClimb(domain, seed)


class TestImpatient(SamplerContract):
    def make(self, domain, seed):
        return HillClimb(domain, seed, patience=1)


def best_of(sampler, trials=150):
    """Return the best sum of knobs that a sampler finds."""
    best = 0
    for _ in range(trials):
        for arch in sampler.ask():
            best = max(best, sum(arch.values()))
            sampler.tell([Trial(arch, float(sum(arch.values())))])
    return best


def test_it_climbs():
    domain = Choices({f"width.{i}": [1, 2, 4, 8] for i in range(10)})
    found = [best_of(HillClimb(domain, seed)) for seed in range(5)]
    rng = np.random.default_rng(0)
    drawn = [max(sum(domain.sample(rng).values()) for _ in range(150)) for _ in range(5)]
    assert np.mean(found) > np.mean(drawn) + 5


def test_it_is_registered():
    entry = registry.find("sampler", "hillclimb")
    assert entry.package == "nasframe-hillclimb"
    assert entry.load() is HillClimb
