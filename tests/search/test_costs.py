import numpy as np

from nasframe.search.costs import cost_rows
from nasframe.testing.toy import tiny_net
from nasframe_basics.estimators import encoder_params, macs, params
from nasframe_basics.latency import Latency
from nasframe_basics.width_depth import WidthDepth


def test_samplers_get_the_counted_costs_in_order_of_their_names():
    space, net = WidthDepth(layers=[2, 3], heads=[2, 4], ffn=[32, 64]), tiny_net()
    estimators = {"params": params(), "encoder_params": encoder_params(), "macs": macs(), "latency": Latency()}
    archs = [space.domain.smallest(), space.domain.largest()]
    rows = cost_rows(estimators, ["macs", "latency", "encoder_params"], space, net)(archs)
    expected = [[estimators[name].estimate(space, net, a) for name in ("encoder_params", "macs")] for a in archs]
    np.testing.assert_array_equal(rows, expected)  # and nothing was measured


def test_where_nothing_counted_is_named_params_stand_in_or_nothing():
    space, net = WidthDepth(layers=[3], heads=[2, 4], ffn=[64]), tiny_net()
    small = space.domain.smallest()
    rows = cost_rows({"params": params(), "latency": Latency()}, ["latency"], space, net)
    np.testing.assert_array_equal(rows([small]), [[params().estimate(space, net, small)]])
    assert cost_rows({"latency": Latency()}, ["latency"], space, net) is None
    assert cost_rows({}, [], space, None) is None
