import pytest
import torch

from nasframe.errors import UsageError
from nasframe.interfaces import TrainJob
from nasframe.nn.losses import distillation
from nasframe.records import TrainOptions
from nasframe.testing.toy import ToyTask, tiny_net
from nasframe_basics.loop import Loop
from nasframe_basics.samplers import SandwichSampler
from nasframe_basics.width_depth import WidthDepth
from nasframe_yoco_bert.in_place import InPlaceKD


class Spy(InPlaceKD):
    """Notes each architecture's loss before and after, and its logits."""

    def on_loss(self, step, loss):
        mixed = super().on_loss(step, loss)
        self.seen = [*getattr(self, "seen", []), (dict(step.arch), step.outputs.logits.detach(), loss, mixed)]
        return mixed


def job(sampler, space, modifier):
    options = TrainOptions(max_steps=2, batch_size=8, archs_per_step=3, precision="fp32")
    return TrainJob(tiny_net(), ToyTask(), None, options, 0, "t", space, sampler, modifiers=[modifier])


@pytest.fixture
def space():
    return WidthDepth(layers=[2, 3], heads=[2, 4], ffn=[32, 64])


def test_the_largest_teaches_the_others_of_its_step(space):
    spy = Spy(temperature=2.0, weight=0.25)
    Loop().fit(job(SandwichSampler(space.domain, 0), space, spy))
    assert len(spy.seen) == 6
    for largest, *others in (spy.seen[:3], spy.seen[3:]):
        assert largest[0] == space.domain.largest()
        assert torch.equal(largest[2], largest[3])
        for _, logits, plain, mixed in others:
            expected = 0.75 * plain + 0.25 * distillation(logits, largest[1], 2.0)
            torch.testing.assert_close(mixed, expected)


def test_with_weight_0_nobody_is_taught(space):
    spy = Spy(weight=0)
    Loop().fit(job(SandwichSampler(space.domain, 0, largest=False), space, spy))
    assert all(torch.equal(plain, mixed) for _, _, plain, mixed in spy.seen)


def test_without_a_largest_first_it_says_what_it_needs(space):
    with pytest.raises(UsageError, match="largest first"):
        Loop().fit(job(SandwichSampler(space.domain, 0, largest=False), space, InPlaceKD()))
    with pytest.raises(UsageError, match="needs a sampler"):
        Loop().fit(job(None, space, InPlaceKD()))
