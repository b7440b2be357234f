"""The sampler keeps the contract of its kind, and is found when it is installed."""

from nasframe import registry
from nasframe.testing import SamplerContract
from nasframe_two_samplers.sampler import TwoSamplersSampler


class TestTwoSamplersSampler(SamplerContract):
    def make(self, domain, seed):
        return TwoSamplersSampler(domain=domain, seed=seed)


def test_it_is_registered():
    entry = registry.find("sampler", "two_samplers")
    assert entry.package == "nasframe-two-samplers"
    assert entry.load() is TwoSamplersSampler
