import numpy as np
import pytest
import torch
from transformers import BertConfig, LlamaConfig, ResNetConfig

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import SearchSpace
from nasframe.nn import count
from nasframe.nn.blueprint import blueprint
from nasframe.nn.factorize import factorize_embedding
from nasframe.notices import Notices
from nasframe.testing.toy import tiny_images, tiny_inputs, tiny_net
from nasframe_basics.width_depth import WidthDepth


def test_knobs_follow_the_kept_layers():
    space = WidthDepth(layers=[1, 3], heads=[4, 2], ffn=[16, 64])
    assert isinstance(space, SearchSpace)
    assert space.domain.knobs["layers"] == ([0], [0, 1, 2])
    assert space.domain.knobs["heads.2"] == (2, 4)
    assert space.domain.smallest() == {"layers": [0], "heads.0": 2, "ffn.0": 16}
    assert space.domain.size == 4 + 4**3


@pytest.mark.parametrize(
    ("depth", "kept"),
    [
        ("first", [[0, 1, 2], list(range(6)), list(range(12))]),
        ("spread", [[0, 4, 8], [0, 2, 4, 6, 8, 10], list(range(12))]),
    ],
)
def test_first_and_spread_layers(depth, kept):
    space = WidthDepth(layers=[12, 3, 6], heads=[1], ffn=[1], depth=depth, config=BertConfig())
    assert list(space.domain.knobs["layers"]) == kept
    # DynaBERT keeps layer floor(i / m) at depth multiplier m = k / L
    assert kept[0] == ([0, 1, 2] if depth == "first" else [int(i / (3 / 12)) for i in range(3)])


def test_shares_and_defaults_are_of_the_network():
    config = BertConfig(hidden_size=32, num_hidden_layers=6, num_attention_heads=4, intermediate_size=63)
    space = WidthDepth(layers=["50%", 6], heads=["25%", 4], ffn=["33%", "100%"], config=config)
    assert space.domain.knobs["layers"] == ([0, 1, 2], [0, 1, 2, 3, 4, 5])
    assert space.domain.knobs["heads.0"] == (1, 4)
    assert space.domain.knobs["ffn.0"] == (21, 63)
    assert WidthDepth(config=config).domain.size == 1


def test_lists_of_layers_and_empty_widths():
    space = WidthDepth(layers=[[0, 2], [1], [0, 1, 2]], heads=[0, 2], ffn=[0, 5])
    assert space.domain.knobs["layers"] == ([1], [0, 2], [0, 1, 2])
    net = tiny_net()
    arch = {"layers": [1], "heads.1": 0, "ffn.1": 5}
    assert space.domain.contains(arch)
    assert blueprint(space.extract(net, arch))["layers"] == [{"heads": 0, "ffn": 5}]


def test_views_and_extracts_of_drawn_and_of_any_sizes():
    net = tiny_net()
    space = WidthDepth(layers=[1, 2, 3], heads=[1, 4], ffn=["25%", 64], config=net.config)
    rng = np.random.default_rng(0)
    archs = [space.domain.sample(rng) for _ in range(5)] + [{"layers": [2], "heads.2": 3, "ffn.2": 17}]
    assert space.supernet(net) is net
    for arch in archs:
        small = space.extract(net, arch)
        assert torch.equal(space.view(net, arch)(**tiny_inputs()).logits, small(**tiny_inputs()).logits)
    two = space.view(net, {"layers": 2, "heads.0": 1})(**tiny_inputs()).logits
    assert torch.equal(two, space.view(net, {"layers": [0, 1], "heads.0": 1})(**tiny_inputs()).logits)
    with pytest.raises(UsageError, match="layers: 5 names 0"):
        space.view(net, {"layers": 5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": [5]}, r"heads: \[5\] are not all sizes"),
        ({"ffn": [-1]}, "ffn"),
        ({"layers": [0]}, "layers"),
        ({"layers": [4]}, "layers"),
        ({"layers": [[0, 3]]}, r"layers: \[0, 3\] is not in a network of 3 layers"),
        ({"layers": [[1, 0]]}, r"layers: \[1, 0\] cannot be kept"),
        ({"layers": [[]]}, "layers"),
        ({"heads": ["half"]}, "'half' is not a size"),
        ({"heads": []}, "heads"),
    ],
)
def test_sizes_beyond_the_network_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        WidthDepth(**options, config=tiny_net().config)


def test_what_needs_a_network():
    with pytest.raises(UsageError, match="'50%' is a share"):
        WidthDepth(layers=[1], heads=["50%"], ffn=[1])
    with pytest.raises(UsageError, match="heads: no values"):
        WidthDepth(layers=[1], ffn=[1])
    with pytest.raises(UsageError, match="resnet: not a family"):
        WidthDepth(config=ResNetConfig())


def test_the_rank_of_a_factorised_embedding_is_a_knob_or_a_size():
    net = factorize_embedding(tiny_net(), 12)
    space = WidthDepth(embedding_rank=[4, 12], heads=[2, 4], config=net.config)
    assert list(space.domain.knobs["embedding_rank"]) == [4, 12]
    rng = np.random.default_rng(0)
    for arch in (space.domain.sample(rng) for _ in range(5)):
        small = space.extract(net, arch)
        assert small.bert.embeddings.word_embeddings.rank == arch["embedding_rank"]
        for cost in (count.params(net), count.macs(net, 2, 9)):
            table = cost.table(space.domain.knobs)
            listed = sum(table.choices[k][list(space.domain.knobs[k]).index(v)] for k, v in arch.items())
            assert table.base + listed == cost.of(arch)
        assert count.params(net).of(arch) == sum(p.numel() for p in small.parameters())
    plain = WidthDepth(config=net.config)
    arch = plain.arch({"layers": 3, "embedding_rank": 5})
    assert plain.extract(net, arch).bert.embeddings.word_embeddings.rank == 5
    with pytest.raises(UsageError, match="Expected numbers of at least 1"):
        WidthDepth(embedding_rank=[0, 4], config=net.config)


def test_query_heads_are_kept_in_whole_groups():
    config = LlamaConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, intermediate_size=64
    )
    space = WidthDepth(layers=[1, 2], heads=[0, "40%", "100%"], ffn=["50%"], config=config)
    assert space.domain.knobs["heads.0"] == (0, 3, 6)  # 40 % are 2.4 heads, and 3 of them share keys and values
    assert WidthDepth(heads=["1%"], config=config).domain.knobs["heads.1"] == (3,)
    message = r"4 heads are not whole groups of 3.*Expected one of 0, 3, 6\."
    with pytest.raises(UsageError, match=rf"^heads: {message}"):
        WidthDepth(heads=[3, 4], config=config)
    with pytest.raises(UsageError, match=rf"^heads\.1: {message}"):
        space.arch({"layers": 2, "heads.1": 4})
    assert space.arch({"layers": 1, "heads": 3}) == {"layers": [0], "heads.0": 3, "ffn.0": 32}


@pytest.mark.parametrize("family", ["vit", "gpt2", "llama"])
def test_spaces_of_other_families(family):
    net = tiny_net(family)
    inputs = tiny_images() if family == "vit" else tiny_inputs()
    space = WidthDepth(layers=[2, 3], heads=["50%", "100%"], ffn=["25%", "100%"], config=net.config)
    smallest = space.domain.smallest()
    assert smallest == {"layers": [0, 1], "heads.0": 2, "ffn.0": 16, "heads.1": 2, "ffn.1": 16}
    assert torch.equal(space.view(net, smallest)(**inputs).logits, space.extract(net, smallest)(**inputs).logits)


def test_the_former_name_says_the_new_one():
    notices = Notices()
    for _ in range(2):
        space = registry.make("space", "bert_width_depth", {"notify": notices}, layers=[1], heads=[2], ffn=[4])
    assert type(space) is WidthDepth
    assert [str(notice) for notice in notices] == [
        "space: bert_width_depth is now called width_depth, because it is for other families, too."
    ]
