import copy
import json

import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from nasframe.nn.blueprint import blueprint, build
from nasframe.nn.elastic import FAMILIES, layers_of, resize
from nasframe.testing.toy import ENCODERS, tiny_inputs, tiny_net

UNEVEN = [{"heads": 0, "ffn": 0}, {"heads": 3, "ffn": 17}]


@pytest.mark.parametrize("family", ENCODERS)
def test_a_built_network_has_the_sizes_asked_for_and_runs(family):
    net = tiny_net(family)
    wanted = blueprint(net) | {"layers": UNEVEN, "embedding_rank": 5}
    assert json.loads(json.dumps(wanted)) == wanted
    small = build(net.config, wanted, "cpu")
    assert blueprint(small) == wanted
    assert blueprint(build(small.config, wanted)) == wanted  # from the small network's own configuration too
    output = small(**tiny_inputs(), output_hidden_states=True)
    assert output.logits.shape == (3, 2)
    assert len(output.hidden_states) == small.config.num_hidden_layers + 1 == 3
    output.logits.sum().backward()


@pytest.mark.parametrize("family", ENCODERS)
def test_no_heads_and_no_neurons_leave_the_biases(family):
    net = tiny_net(family)
    row = FAMILIES[family]
    zeroed = copy.deepcopy(net)
    with torch.no_grad():
        for layer in layers_of(zeroed):
            layer.get_submodule(row.merge).weight.zero_()
            layer.get_submodule(row.shrink).weight.zero_()
    none = blueprint(net) | {"layers": [{"heads": 0, "ffn": 0}] * 3}
    with torch.no_grad():
        expected = zeroed(**tiny_inputs()).logits
        torch.testing.assert_close(resize(net, none)(**tiny_inputs()).logits, expected, rtol=0, atol=1e-6)


def test_building_on_meta_draws_no_random_numbers():
    net = tiny_net()
    before = torch.random.get_rng_state()
    assert all(p.is_meta for p in build(net.config, blueprint(net)).parameters())
    assert torch.equal(before, torch.random.get_rng_state())


def test_resizing_keeps_the_first_heads_and_neurons():
    net = tiny_net(layers=1)
    first = net.bert.encoder.layer[0].attention.self.query.weight[:24].clone()
    resize(net, blueprint(net) | {"layers": [{"heads": 3, "ffn": 5}]})
    assert torch.equal(net.bert.encoder.layer[0].attention.self.query.weight, first)


def test_what_cannot_be_built_is_said():
    net = tiny_net(layers=1)
    with pytest.raises(ValueError, match="head_size: 4"):
        build(net.config, blueprint(net) | {"head_size": 4})
    with pytest.raises(ValueError, match="65 asked for"):
        resize(net, {"layers": [{"heads": 4, "ffn": 65}]})
    with pytest.raises(ValueError, match="1 layers, the blueprint 2"):
        resize(net, {"layers": UNEVEN})
    with pytest.raises(TypeError, match="ResNetModel: cannot be sliced"):
        blueprint(ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])))
