"""ROSITA: the published sizes and schedule, the score since the last cut, moments, depth, resume and refusals."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrize
from transformers import BertConfig, BertForSequenceClassification

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.nn import count
from nasframe.nn.factorize import factorize_embedding
from nasframe.nn.quantize import RowQuantizer
from nasframe.nn.slices import extract, view
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net
from nasframe.testing.trainers import toy_job
from nasframe_basics.estimators import params
from nasframe_basics.kd import KD
from nasframe_basics.loop import Loop
from nasframe_basics.width_depth import WidthDepth
from nasframe_rosita.prune import ScheduledPrune
from nasframe_rosita.schedule import all_sizes, default_times, lowered, sizes_within

BERT = {"layers": list(range(8)), "embedding_rank": 768}
BERT |= {f"{unit}.{i}": n for i in range(8) for unit, n in (("heads", 12), ("ffn", 3072))}
PUBLISHED = {"layers": 8, "heads": 2, "ffn": 512, "embedding_rank": 128}


def job(*modifiers: Modifier, net: Any = None, **fields: Any) -> Any:
    fields = {"space": ToySpace(), "arch": {}, "max_steps": 10, "batch_size": 8} | fields
    return toy_job(net or tiny_net(), modifiers=modifiers, **fields)


class Seen(Modifier):
    """Writes down every step's architecture, and the optimiser's state before the step."""

    def __init__(self) -> None:
        self.archs: list[Any] = []
        self.fresh: list[bool] = []
        self.scores: list[Any] = []

    def on_batch(self, step: Any) -> None:
        self.archs.append(step.arch)
        self.fresh.append(not step.optimizer.state)


def meta_bert(layers: int = 12) -> Any:
    with torch.device("meta"):
        return BertForSequenceClassification(BertConfig(num_hidden_layers=layers, num_labels=2))


def test_the_published_model_has_exactly_its_number_of_parameters() -> None:
    """BERT-base at 8 layers, 2 heads, 512 neurons and an embedding of rank 128: 14,474,754 with two labels."""
    net = meta_bert()
    full = factorized_meta(net)
    space = WidthDepth(config=net.config)
    arch = lowered(all_sizes(full, {}), PUBLISHED, 1.0)
    assert params().estimate(space, full, arch) == 14_474_754
    small = space.extract(full, arch)
    assert sum(p.numel() for p in small.parameters()) == 14_474_754
    whole = params().estimate(None, net)
    assert whole == 109_483_778
    assert 7.5 < whole / 14_474_754 < 7.6


def factorized_meta(net: Any) -> Any:
    from nasframe.nn.blueprint import blueprint, build

    return build(net.config, blueprint(net) | {"embedding_rank": 768})


def test_the_schedule_is_the_published_one() -> None:
    """At cut t of 10: 12 − t heads, 3072 − 256 t neurons, rank 768 − 64 t, in all layers at once."""
    assert default_times(BERT, PUBLISHED) == 10
    for t in range(11):
        arch = lowered(BERT, PUBLISHED, t / 10)
        assert arch == {
            "layers": list(range(8)), "embedding_rank": 768 - 64 * t,
            **{f"heads.{i}": 12 - t for i in range(8)}, **{f"ffn.{i}": 3072 - 256 * t for i in range(8)},
        }  # fmt: skip
    depth = {
        **BERT,
        "layers": list(range(12)),
        **{f"{u}.{i}": BERT[f"{u}.0"] for u in ("heads", "ffn") for i in range(12)},
    }
    assert default_times(depth, {"layers": 8}) == 4
    kept = [lowered(depth, {"layers": 8}, t / 4)["layers"] for t in range(5)]
    assert kept == [list(range(n)) for n in (12, 11, 10, 9, 8)]  # the top layers go
    assert default_times(BERT, {"ffn": 512}) == 10


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(1, 3072), st.integers(1, 20))
def test_any_schedule_goes_down_to_its_goal(layers: int, heads: int, ffn: int, times: int) -> None:
    goal = {"layers": layers, "heads": heads, "ffn": ffn}
    archs = [lowered(BERT, goal, t / times) for t in range(times + 1)]
    assert archs[0] == BERT
    assert (len(archs[-1]["layers"]), archs[-1]["heads.0"], archs[-1]["ffn.0"]) == (layers, heads, ffn)
    for one, other in itertools.pairwise(archs):
        assert all(other[knob] <= one[knob] for knob in other)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.99), st.integers(1, 3))
def test_a_target_is_met_from_below_within_one_neuron_a_layer(target: float, layers: int) -> None:
    net = tiny_net()
    full, cost = all_sizes(net, {}), count.params(net, "encoder")
    start = {"layers": list(range(layers))}
    least = {f"{unit}.{i}": 1 for unit in ("heads", "ffn") for i in range(layers)}
    if not cost.of(start | least) <= target * cost.of() < cost.of(start):
        with pytest.raises(UsageError, match="Expected at least"):
            sizes_within(net, full, layers, target, net)
        return
    found = sizes_within(net, full, layers, target, net)
    arch = lowered(full, {"layers": layers} | found, 1.0)
    assert cost.of(arch) <= target * cost.of()
    more = {**arch, **{f"ffn.{i}": found["ffn"] + 1 for i in range(layers)}}
    assert found["ffn"] == 64 or cost.of(more) > target * cost.of()


def test_the_view_shrinks_and_the_stage_answers_with_the_last_one() -> None:
    seen = Seen()
    modifier = ScheduledPrune(layers=2, heads=2, ffn=32, times=2, over=0.4)
    stage = job(modifier, seen)
    result = Loop().fit(stage)
    sizes = [(len(a["layers"]), a["heads.0"], a["ffn.0"]) for a in seen.archs]
    assert sizes == [(3, 4, 64)] * 2 + [(2, 3, 48)] * 2 + [(2, 2, 32)] * 6
    assert result.arch == seen.archs[-1]
    assert [i for i, fresh in enumerate(seen.fresh) if fresh] == [0, 2, 4]  # as published: moments begin anew
    macs = [3 * 8 * count.macs(stage.net, 1, 8).of(arch) for arch in seen.archs]
    student = next(entry for entry in result.ledger if entry.role == "student")
    assert student.forward_macs + student.backward_macs == pytest.approx(sum(macs))


def test_the_extracted_network_is_the_trained_one() -> None:
    result = Loop().fit(job(ScheduledPrune(layers=2, heads=1, ffn=20, over=0.5), KD(weight=1.0)))
    with torch.no_grad():
        expected = view(result.net, result.arch)(**tiny_inputs()).logits
        got = extract(result.net, result.arch)(**tiny_inputs()).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_a_cut_keeps_the_best_since_the_last_one() -> None:
    """Gradients written out by hand: |w| times their mean size, heads from W_o, neurons from W_1 and W_2."""
    sums: list[Any] = []

    class Gradients(Modifier):
        def on_gradients(self, step: Any) -> None:
            layer = step.job.net.bert.encoder.layer[0]
            maps = (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense)
            if step.index < 4:
                sums.append([m.weight.grad.abs() for m in maps])
            if step.index == 3:
                with torch.no_grad():
                    sums.append(copy.deepcopy(step.job.net))

        def on_update(self, step: Any) -> None:
            if step.index == 3:
                self.before = copy.deepcopy(step.job.net.bert.encoder.layer[0])

        def on_batch(self, step: Any) -> None:
            if step.index == 4:
                self.after = copy.deepcopy(step.job.net.bert.encoder.layer[0])

    watch = Gradients()
    Loop().fit(job(ScheduledPrune(heads=2, ffn=32, times=1, over=0.4), watch))
    steps = [entry for entry in sums if isinstance(entry, list)]
    mean = [sum(step[k] for step in steps) / 4 for k in range(3)]
    layer = watch.before
    w_o, w_1, w_2 = (
        m.weight.detach().abs() for m in (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense)
    )
    heads = torch.stack([(w_o * mean[0])[:, 8 * h : 8 * h + 8].sum() for h in range(4)])
    neurons = (w_1 * mean[1]).sum(1) + (w_2 * mean[2]).sum(0)
    order = neurons.argsort(descending=True)
    assert torch.equal(watch.after.intermediate.dense.weight, layer.intermediate.dense.weight[order])
    assert torch.equal(watch.after.output.dense.weight, layer.output.dense.weight[:, order])
    rows = (heads.argsort(descending=True)[:, None] * 8 + torch.arange(8)).flatten()
    assert torch.equal(watch.after.attention.self.value.weight, layer.attention.self.value.weight[rows])


def test_moments_are_kept_and_sorted_along_where_wanted() -> None:
    taken: dict[int, Any] = {}

    class Moments(Modifier):
        def on_update(self, step: Any) -> None:
            if step.index == 1:
                taken[1] = self.state(step)

        def on_batch(self, step: Any) -> None:
            if step.index == 2:
                taken[2] = self.state(step)

        def state(self, step: Any) -> Any:
            dense = step.job.net.bert.encoder.layer[0].intermediate.dense
            state = step.optimizer.state[dense.weight]
            return dense.weight.detach().clone(), state["exp_avg"].clone()

    Loop().fit(job(ScheduledPrune(ffn=32, heads=2, times=1, over=0.2, moments="keep"), Moments()))
    (before, moments), (after, moved) = taken[1], taken[2]
    order = [int((before == row).all(1).nonzero()[0]) for row in after]
    assert order != sorted(order)
    assert torch.equal(moved, moments[order])


@pytest.mark.parametrize("lower", ["truncate", "svd"])
def test_the_embedding_loses_its_last_columns(lower: Any) -> None:
    cuts: list[Any] = []

    class Words(Modifier):
        def on_update(self, step: Any) -> None:
            self.before = copy.deepcopy(step.job.net.bert.embeddings.word_embeddings)

        def on_batch(self, step: Any) -> None:
            if step.index == 5:
                cuts.append((self.before, copy.deepcopy(step.job.net.bert.embeddings.word_embeddings)))

    result = Loop().fit(
        job(
            ScheduledPrune(embedding_rank=4, times=1, over=0.5, lower=lower),
            Words(),
            net=factorize_embedding(tiny_net(), 12),
            learning_rate=1e-2,
        )
    )
    before, after = cuts[0]
    ids = torch.arange(97)
    product, turned = before(ids).detach(), after(ids).detach()
    torch.testing.assert_close(turned, product, rtol=0, atol=1e-5)
    best = torch.linalg.svdvals(product.double())[4:].norm()
    lost = (after.table.weight[:, :4] @ after.project.weight[:, :4].T - product).detach().norm()
    if lower == "svd":
        torch.testing.assert_close(lost.double(), best, rtol=1e-4, atol=1e-6)
    else:
        assert torch.equal(after.table.weight, before.table.weight)
        assert lost > best * 1.0001
    assert result.arch["embedding_rank"] == 4
    assert extract(result.net, result.arch).bert.embeddings.word_embeddings.rank == 4


def test_only_the_last_networks_weights_can_be_the_best() -> None:
    """``keep: best`` compares scores of one architecture: a larger network's score before a cut does not count."""
    scores = iter([0.9, 0.9, 0.2, 0.3, 0.1])
    measured: list[Any] = []

    class Rated(ToyTask):
        def evaluate(self, forward: Any, split: str, examples: int | None = None) -> Any:
            found = super().evaluate(forward, split, examples)
            return type(found)({"accuracy": next(scores)}, found.predictions, found.examples, found.tokens)

    class Weights(Modifier):
        def on_update(self, step: Any) -> None:
            measured.append((len(step.job.arch["layers"]), step.job.net.classifier.weight.detach().clone()))

    options = {"keep": "best", "eval_every": 2, "task": Rated()}
    net = Loop().fit(job(ScheduledPrune(layers=2, over=0.4), Weights(), **options)).net
    assert [depth for depth, _ in measured] == [3] * 4 + [2] * 6
    assert torch.equal(net.classifier.weight, measured[7][1])  # the evaluation that gave 0.3


def test_a_stage_that_ends_early_is_cut_to_the_goal_all_the_same() -> None:
    result = Loop().fit(job(ScheduledPrune(heads=1, times=3, over=1.0), early_stop=1, eval_every=1, max_steps=9))
    assert {result.arch[f"heads.{i}"] for i in range(3)} == {1}


def test_a_target_is_a_share_of_a_saved_network() -> None:
    result = Loop().fit(job(ScheduledPrune(layers=2, target="25%", over=0.5)))
    cost = count.params(result.net, "encoder")
    assert 0.24 < cost.of(result.arch) / cost.of() <= 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to prune"),
        ({"target": "50%", "ffn": 3}, "not both"),
        ({"target": "100%"}, "is out of range. Expected a share"),
        ({"target": "0%"}, "is out of range. Expected a share"),
        ({"target": "half"}, "Expected a share"),
    ],
)
def test_bad_settings_are_refused_when_it_is_made(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ScheduledPrune(**options)
    with pytest.raises(UsageError, match=message):
        nf.make("modifier", {"use": "scheduled_prune", **options})


@pytest.mark.parametrize(
    "options", [{"layers": 0}, {"heads": 0}, {"ffn": -1}, {"over": 0.0, "heads": 1}, {"over": 1.5, "heads": 1}]
)
def test_impossible_numbers_are_no_options(options: Any) -> None:
    with pytest.raises(UsageError, match="does not fit"):
        nf.make("modifier", {"use": "scheduled_prune", **options})


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"heads": 2}, {"space": None}, "Expected a space, no sampler"),
        ({"heads": 5}, {}, "heads is to end with 5, there is 4"),
        ({"ffn": 65}, {}, "ffn is to end with 65, there is 64"),
        ({"layers": 4}, {}, "layers is to end with 4, there is 3"),
        ({"embedding_rank": 8}, {}, "one matrix, not a product"),
        ({"heads": 1}, {"max_steps": 20}, "3 cuts within 0.1 of 20 steps"),
        ({"target": "1%"}, {}, "Expected at least"),
        ({"layers": 1, "target": "50%"}, {}, "Expected at least"),
        ({"target": "50%", "of": "nobody"}, {}, "no network was saved as 'nobody'"),
    ],
)
def test_what_the_network_does_not_have_is_refused_before_training(options: Any, fields: Any, message: str) -> None:
    stage = job(ScheduledPrune(**options), **fields)
    before = copy.deepcopy(stage.net.state_dict())
    with pytest.raises(UsageError, match=message):
        Loop().fit(stage)
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage.net.state_dict().items())


def test_parametrised_layers_are_refused_before_the_first_step() -> None:
    class Rounds(Modifier):
        def on_start(self, job: Any) -> None:
            parametrize.register_parametrization(job.net.bert.encoder.layer[0].output.dense, "weight", RowQuantizer(8))

    with pytest.raises(UsageError, match="quantise in a later stage"):
        Loop().fit(job(ScheduledPrune(heads=2, over=1.0), Rounds()))
