import gc
import weakref

import numpy as np
import pytest
import torch

import nasframe as nf
from nasframe.errors import RecipeError
from nasframe.nn.slices import extract
from nasframe.notices import Notices
from nasframe.search.costs import cost_function, table_cost
from nasframe.testing.toy import tiny_inputs, tiny_net
from nasframe_basics import estimators
from nasframe_basics.latency import Latency
from nasframe_basics.width_depth import WidthDepth

NAMES = ["params", "backbone_params", "encoder_params", "macs", "flops", "size"]


class Whole:
    """A space that does not slice: architectures are numbers of layers."""

    def extract(self, net, arch):
        return extract(net, {"layers": list(range(arch["n"]))})


@pytest.fixture
def space():
    return WidthDepth(layers=[[0, 2], [0, 1, 2]], heads=[1, 4], ffn=[0, 16, 64])


@pytest.mark.parametrize("name", NAMES)
def test_table_estimate_and_extracted_network_agree(space, name):
    net, rng = tiny_net(), np.random.default_rng(0)
    estimator = getattr(estimators, name)()
    quick = table_cost(estimator.table(space, net), space.domain.knobs)
    costs = cost_function({name: estimator, "latency": Latency(repeats=1, length=4)}, space, net)
    for arch in [space.domain.sample(rng) for _ in range(10)]:
        cost = estimator.estimate(space, net, arch)
        assert cost == quick(arch) == costs(arch)[name] == estimator.estimate(space, extract(net, arch))
    odd = {"layers": [1], "heads.1": 3, "ffn.1": 17}
    assert costs(odd)[name] == estimator.estimate(None, extract(net, odd)) > 0
    assert costs(odd)["latency"] > 0


def test_relations_between_the_costs():
    net = tiny_net()
    cost = {name: getattr(estimators, name)().estimate(None, net) for name in NAMES}
    assert cost["flops"] == 2 * cost["macs"]
    assert cost["size"] == 4 * cost["params"]
    assert cost["encoder_params"] < cost["backbone_params"] < cost["params"]
    assert estimators.macs(batch=2).estimate(None, net) == 2 * cost["macs"]
    assert estimators.macs(length=64).estimate(None, net) < cost["macs"] / 2
    assert estimators.macs(count="torchprofile").estimate(None, net) == cost["macs"] + 128 * (7 * 32 + 1)


def test_partial_tables():
    net = tiny_net()
    space = WidthDepth(layers=[3], heads=[4], ffn=[16, 64])
    table = estimators.params().table(space, net)
    assert table.choices["ffn.0"] == [16 * 65, 64 * 65]
    fixed = {"ffn.0": [16, 64]}
    from nasframe.nn.count import params

    alone = table_cost(params(net).table(fixed), fixed)
    assert alone({"ffn.0": 16}) == params(net).of({"ffn.0": 16})


def test_spaces_that_do_not_slice_are_counted_after_extraction():
    net, estimator = tiny_net(), estimators.params()
    assert estimator.table(Whole(), net) is None
    assert estimator.estimate(Whole(), net, {"n": 1}) == sum(p.numel() for p in tiny_net(layers=1).parameters())
    assert cost_function({"params": estimator}, Whole(), net)({"n": 1}) == {
        "params": estimator.estimate(Whole(), net, {"n": 1})
    }


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_latency_adapts_to_a_short_network_and_says_so(family):
    net, notices = tiny_net(family, pad_token_id=1), Notices()
    record = Latency(repeats=1, warmup=0, notify=notices).measure(None, net)
    assert record["how"]["length"] == (38 if family == "roberta" else 40)
    assert [notice.place for notice in notices] == ["latency.length"]
    wide = tiny_net(family, layers=1, max_position_embeddings=200)
    assert Latency(repeats=1, warmup=0, notify=notices).measure(None, wide)["how"]["length"] == 128
    assert len(list(notices)) == 1


def test_a_written_length_of_latency_is_never_changed():
    net = tiny_net()
    assert Latency(length=40, repeats=1, warmup=0).measure(None, net)["how"]["length"] == 40
    for ask in (Latency(length=41).validate, Latency(length=41).estimate):
        with pytest.raises(RecipeError) as error:
            ask(*([net] if ask.__name__ == "validate" else [None, net]))
        assert [problem.path for problem in error.value.problems] == ["length"]


def test_latency_is_measured_once_and_recorded(space, monkeypatch):
    net, latency = tiny_net().train(), Latency(batch=2, length=5, repeats=4, warmup=1, threads=1)
    threads = torch.get_num_threads()
    record = latency.measure(space, net, {"layers": [0, 2], "heads.0": 1})
    assert record.keys() == {"median", "spread", "how"}
    assert record["how"].keys() == {"repeats", "batch", "length", "threads", "device"}
    assert [record["how"][key] for key in ("batch", "length", "repeats", "threads")] == [2, 5, 4, 1]
    assert record["median"] > 0 <= record["spread"]
    assert net.training
    assert torch.get_num_threads() == threads
    calls = []
    monkeypatch.setattr(latency, "_time", lambda net: calls.append(net) or {"median": 7.0})
    assert latency.estimate(space, net, {"heads.0": 1, "layers": [0, 2]}) == record["median"]
    assert latency.estimate(space, net) == 7.0
    assert calls == [net]
    assert latency.measure(space, net, {"layers": [0, 2], "heads.0": 1}, again=True) == {"median": 7.0}


def test_estimators_do_not_keep_networks_alive(space):
    net, counted, latency = tiny_net(), estimators.params(), Latency(repeats=1, length=4)
    counted.estimate(space, net, {"layers": [0, 2]})
    latency.estimate(space, net)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_a_space_of_a_deeper_network_has_no_table_but_estimates():
    """A network may have been extracted before, so that the recipe's space is of more layers than it has."""
    net = tiny_net(layers=2)
    space = WidthDepth(layers=[1, 2, 3], heads=[2, 4], ffn=[16, 64])
    arch = space.arch({"layers": 2, "heads": 2, "ffn": 16})
    for name in NAMES:
        estimator = getattr(estimators, name)()
        assert estimator.table(space, net) is None
        costs = cost_function({name: estimator}, space, net)
        assert costs(arch) == {name: estimator.estimate(None, extract(net, arch))}


class Mean(nf.Described):
    """A network of one's own that reads words; it may say how many it can read, and which part is its encoder."""

    def __init__(self, positions):
        super().__init__()
        self.words = torch.nn.Embedding(97, 8)
        self.map = torch.nn.Linear(8, 8)
        if positions:
            self.position_embeddings = torch.nn.Embedding(positions, 8)

    def describe(self):
        return {"positions": self.position_embeddings.num_embeddings if hasattr(self, "position_embeddings") else 0}

    def part(self, name):
        return [self.map] if name == "encoder" else None

    def forward(self, input_ids, attention_mask=None):
        return self.map(self.words(input_ids))


@pytest.mark.parametrize(("positions", "length"), [(512, 128), (40, 40), (0, 7)])
def test_networks_without_tables_are_counted_at_the_length_of_those_with_some(positions, length):
    cost = nf.make("estimator", "macs", probe_inputs=lambda: tiny_inputs(batch=2, length=7))
    assert cost.estimate(None, Mean(positions)) == 8 * 8 * length


def test_a_network_of_ones_own_says_what_its_encoder_is():
    said = []
    costs = {
        name: nf.make("estimator", name, notify=lambda place, text: said.append(text))
        for name in ("encoder_params", "backbone_params")
    }
    assert costs["encoder_params"].estimate(None, Mean(0)) == 8 * 8 + 8
    assert costs["backbone_params"].estimate(None, Mean(0)) is None
    assert len(said) == 1
    assert "it has no part 'backbone' that is known" in said[0]
