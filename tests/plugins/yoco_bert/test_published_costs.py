"""The published costs and the published size of the space, exactly."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from nasframe_basics.estimators import backbone_params, flops
from nasframe_basics.width_depth import WidthDepth


@pytest.fixture(scope="module")
def base():
    with torch.device("meta"):
        return BertForSequenceClassification(BertConfig()).eval()


@pytest.fixture(scope="module")
def space():
    return WidthDepth(layers=[6, 8, 10, 12], heads=[4, 8, 12], ffn=[512, 768, 1024, 3072])


def test_costs_are_the_published_ones(base, space):
    params, operations = backbone_params(), flops(count="torchprofile")
    six_full = space.arch({"layers": 6})
    assert params.estimate(space, base) == 109_482_240
    assert operations.estimate(space, base) == 22_353_349_888
    assert params.estimate(space, base, six_full) == 66_955_008
    assert operations.estimate(space, base, six_full) == 11_177_364_736
    assert params.estimate(space, base, space.domain.smallest()) == 33_900_288
    assert round(operations.estimate(space, base, space.domain.smallest()) / 1e9, 2) == 2.52


def test_the_space_has_the_published_size_joined_and_plain(space):
    exact = sum(12**depth for depth in (6, 8, 10, 12))
    assert exact == pytest.approx(8.98e12, rel=1e-3)
    assert space.domain.size == exact  # knobs of dropped layers are not counted
    joined = space.domain.joined("layer")
    assert joined.size == exact
    assert joined.shape == (4, *[12] * 12)
    assert joined.encode(space.arch({"layers": 12, "heads": 8, "ffn": 1024}))[1] == 3 * 2 + 1  # 3 · FFN + heads
