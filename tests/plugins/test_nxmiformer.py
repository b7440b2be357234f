from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import AutoModelForSequenceClassification

import nasframe as nf
from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.interfaces import TrainJob, Work
from nasframe.nn import formats
from nasframe.nn.formats import Format, encoder_matrices, parse_format, record_of, shown
from nasframe.nn.patterns import Pattern, project
from nasframe.nn.storage import account, summary
from nasframe.records import TrainOptions
from nasframe.report.page import build
from nasframe.seeds import stream_seed
from nasframe.testing import EstimatorContract, SpaceContract
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net
from nasframe.training.step import Step
from nasframe_basics.fake_quant import FakeQuant
from nasframe_basics.loop import Loop
from nasframe_nxmiformer.admm import ADMM
from nasframe_nxmiformer.assign import POLICIES, AssignBits, fisher
from nasframe_nxmiformer.estimators import Bits
from nasframe_nxmiformer.examples import AssignBits as AssignBitsWork
from nasframe_nxmiformer.policies import exact, greedy
from nasframe_nxmiformer.space import NMBits
from stand_in import write_net, write_reviews

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


# The contracts of `admm` and `assign_bits` with their examples are in tests/testing/test_registered.py.


class TestNMBits(SpaceContract):
    draws = 3

    def make(self, config: Any) -> Any:
        return NMBits(config=config)


@pytest.mark.slow
class TestBits(EstimatorContract):
    def make(self) -> Any:
        return Bits("all")


@pytest.mark.slow
class TestBitsOfFormats(EstimatorContract):
    def make(self) -> Any:
        return Bits("encoder", indices=False)

    def space(self) -> Any:
        return NMBits(config=self.net().config)  # type: ignore[arg-type]


# ---- ADMM


def job_of(net: Any, *modifiers: Any, **fields: Any) -> TrainJob:
    options = {"max_steps": 6, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"} | fields.pop("options", {})
    return TrainJob(net, ToyTask(), None, TrainOptions(**options), 0, "t", modifiers=modifiers, **fields)  # type: ignore[arg-type]


def fit(net: Any, *modifiers: Any, **fields: Any) -> Any:
    return Loop().fit(job_of(net, *modifiers, **fields)).net


def reference_projection(matrix: np.ndarray, n: int, m: int) -> np.ndarray:
    found = np.zeros_like(matrix)
    for row in range(matrix.shape[0]):
        for start in range(0, matrix.shape[1], m):
            group = matrix[row, start : start + m]
            kept = sorted(range(len(group)), key=lambda j: -abs(group[j]))[:n]
            found[row, [start + j for j in kept]] = group[kept]
    return found


@pytest.mark.parametrize("dual", [1.0, 0.25])
def test_the_updates_are_those_of_the_augmented_lagrangian(dual: float) -> None:
    """Against the equations, written out in numpy, with made-up gradients and plain gradient descent."""
    net, rho, rng = tiny_net(), 0.3, np.random.default_rng(0)
    admm = ADMM(pattern="1:4", rho=rho, dual=dual, every=2, tune=0.4)
    job = job_of(net, admm)
    job.total = 10
    admm.on_start(job)
    module = dict(encoder_matrices(net))["1.output.dense"]
    w = module.weight.detach().numpy().astype(np.float64).copy()
    z, u = reference_projection(w, 1, 4), np.zeros_like(w)
    for index in range(10):
        given = rng.normal(size=w.shape) * 0.1
        for _, other in encoder_matrices(net):
            other.weight.grad = torch.zeros_like(other.weight)
        module.weight.grad = torch.tensor(given, dtype=torch.float32)
        step = Step(job, None, index, 10, 0.1, None, None, None)  # type: ignore[arg-type]
        admm.on_gradients(step)
        gradient = given + rho * (w - z + u) if index < 6 else given * (z != 0)
        assert np.allclose(module.weight.grad.numpy(), gradient, atol=1e-5)
        with torch.no_grad():
            module.weight -= 0.1 * module.weight.grad
        w = w - 0.1 * gradient
        admm.on_update(step)
        if index == 5:  # the dense phase ends: W = P(W), and the zeros stay
            w = z = reference_projection(w, 1, 4)
        elif index < 5 and (index + 1) % 2 == 0:
            z = reference_projection(w + u, 1, 4)
            u = u + dual * (w - z)
        assert np.allclose(module.weight.detach().numpy(), w, atol=1e-5)
    admm.on_finish(job)
    assert record_of(net)["1.output.dense"] == Format(n=1, m=4)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_with_rounding_every_group_and_every_row_obeys(family: str, order: int) -> None:
    modifiers = [FakeQuant(bits=4, activations=8), ADMM("2:4", every=2, tune=0.5)][::order]
    net = fit(tiny_net(family), *modifiers)
    record = record_of(net)
    assert set(record.values()) == {Format(4, 2, 4)}
    assert len(record) == 18
    found = summary(formats.matrices(net, record), record, account(net))
    assert (found["violations"], found["rows_off_grid"], found["missing"]) == (0, 0, 0)
    assert found["groups"] == 3 * (4 * 32 * 8 + 32 * 16 + 64 * 8)
    for name, module in encoder_matrices(net):  # scales are those of what the projection left
        torch.testing.assert_close(shown(module.weight, record[name]), module.weight.detach(), rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_a_strong_penalty_draws_the_weights_to_the_pattern() -> None:
    def residual(rho: float) -> float:
        seen: list[float] = []
        job = job_of(
            tiny_net(), ADMM(rho=rho, dual=0.1, every=5, tune=0.0), options={"max_steps": 26, "learning_rate": 5e-3},
            log=lambda step, values: seen.extend(v for k, v in values.items() if k == "admm_residual"),
        )  # fmt: skip
        Loop().fit(job)
        return seen[-1]

    assert residual(1.0) < 0.6 * residual(1e-6)


def test_one_shot_keeps_the_largest_of_the_start() -> None:
    net = tiny_net()
    start = {name: module.weight.detach().clone() for name, module in encoder_matrices(net)}
    for name, module in encoder_matrices(fit(net, ADMM("2:4", tune=1.0), options={"keep": "best"})):
        assert torch.equal(module.weight != 0, project(start[name], Pattern(2, 4)) != 0)
        assert not torch.equal(module.weight, project(start[name], Pattern(2, 4)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "5:4"}, "keeps 5 of 4"),
        ({"pattern": "0:4"}, "keeps 0 of 4"),
        ({"pattern": "half"}, "no n:m pattern"),
        ({"rho": 0.0}, "rho > 0"),
        ({"every": 0}, "every >= 1"),
        ({"tune": 1.5}, "tune <= 1"),
    ],
)
def test_bad_settings_are_refused_when_it_is_made(options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ADMM(**options)


def test_bad_settings_are_refused_before_the_first_step() -> None:
    with pytest.raises(UsageError, match=r"admm: .* keep: best and may end"):
        fit(tiny_net(), ADMM(), options={"keep": "best"})
    with pytest.raises(UsageError, match=r"0.attention.self.query: pattern 2:5 on 32 inputs: 5 does not divide 32"):
        fit(tiny_net(), ADMM("2:5"))
    record = record_of(fit(tiny_net(), ADMM("2:5", remainder="pad")))
    assert set(record.values()) == {Format(32, 2, 5)}
    with pytest.raises(UsageError, match="nm_bits: pattern 2:3 on 32 inputs"):
        NMBits(["2:3 int8"], config=tiny_net().config)
    with pytest.raises(UsageError, match="int0"):
        NMBits(["int0"], config=tiny_net().config)


def test_each_matrix_gets_the_format_of_the_architecture() -> None:
    net = tiny_net()
    space = NMBits(["2:4 int4", "int4", "int8", "fp32"], config=net.config)
    arch = space.arch({"query": "2:4 int4", "shrink.1": "1:4 int8", "widen": "int4", "merge": "fp32"})
    job = job_of(net, FakeQuant(), ADMM(every=1, tune=0.5), space=space, arch=arch)
    record = record_of(Loop().fit(job).net)
    assert record["2.attention.self.query"] == Format(4, 2, 4)
    assert record["1.output.dense"] == Format(8, 1, 4)
    assert "0.output.dense" not in record
    assert record["0.intermediate.dense"] == Format(4)
    assert "0.attention.output.dense" not in record
    found = summary(formats.matrices(net, record), record, account(net))
    assert (found["violations"], found["rows_off_grid"]) == (0, 0)
    small = space.extract(net, arch)  # what was trained for it is what a view of it shows
    inputs = tiny_inputs()
    torch.testing.assert_close(small(**inputs).logits, net(**inputs).logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match=r"querry: not a matrix.*Did you mean 'query'"):
        space.arch({"querry": "int8"})


# ---- assignments


tables = st.tuples(st.integers(1, 5), st.integers(2, 4)).flatmap(
    lambda shape: st.tuples(
        arrays(np.int64, shape, elements=st.integers(1, 30)).map(lambda a: a.astype(float)),
        arrays(np.float64, shape, elements=st.integers(-3, 40).map(float)),
    )
)


@settings(deadline=None, max_examples=50)
@given(tables, st.integers(1, 120))
def test_the_exact_policy_is_the_best_of_all_assignments(table: Any, most: int) -> None:
    bits, loss = table
    rows = np.arange(len(bits))
    everything = [np.array(c) for c in itertools.product(range(bits.shape[1]), repeat=len(bits))]
    fitting = [float(loss[rows, c].sum()) for c in everything if bits[rows, c].sum() <= most]
    answers = {name: policy(bits, loss, most) for name, policy in POLICIES.items()}
    if not fitting:
        assert all(answer is None for answer in answers.values())
        return
    for name, answer in answers.items():
        if answer is None:
            assert name == "uniform"
            continue
        assert bits[rows, answer].sum() <= most
        damage = loss[rows, answer].sum()
        assert damage >= min(fitting)
        assert name != "exact" or damage == min(fitting)
    if answers["uniform"] is not None:
        kept = range(bits.shape[1])
        assert loss[rows, answers["uniform"]].sum() == min(loss[:, c].sum() for c in kept if bits[:, c].sum() <= most)


def test_a_fine_grain_still_fits() -> None:
    rng = np.random.default_rng(0)
    bits, loss = rng.integers(1, 10**7, (12, 3)).astype(float) * 2 + 1, rng.random((12, 3))
    most = 1.5 * bits.min(1).sum()
    chosen, other = exact(bits, loss, most), greedy(bits, loss, most)
    rows = np.arange(12)
    assert chosen is not None
    assert other is not None
    assert bits[rows, chosen].sum() <= most
    assert loss[rows, chosen].sum() <= loss[rows, other].sum() + 1e-9


def work_of() -> Work:
    return AssignBitsWork().work()


@pytest.mark.parametrize("policy", ["exact", "greedy", "uniform"])
def test_an_assignment_keeps_within_its_bits(policy: Any) -> None:
    work = work_of()
    assign = AssignBits({"a": "14%", "b": "20%"}, policy=policy, batches=2, batch_size=8)
    archs = assign(work).archs
    whole = Bits().estimate(None, work.net)
    for name, share in (("a", 0.14), ("b", 0.20)):
        assert Bits().estimate(work.space, work.net, archs[name]) <= share * whole
        assert work.space is not None
        assert work.space.domain.contains(archs[name])
    assert policy != "uniform" or len(set(archs["a"].values())) == 1


def test_shares_are_of_the_uncompressed_matrices_of_a_network_that_is_stored_in_fewer_bits() -> None:
    work = work_of()
    expected = AssignBits({"a": "20%"}, batches=1)(work).archs["a"]
    for name, _ in encoder_matrices(work.net):
        formats.note(work.net, name, bits=8)
    assert AssignBits({"a": "20%"}, batches=1)(work).archs["a"] == expected


@pytest.mark.slow
def test_sensitivities_against_the_network_itself() -> None:
    work = work_of()
    space: Any = work.space
    assign = AssignBits({"a": "20%"}, sensitivity="loss", batches=1, batch_size=16)
    table = assign.damages(work)
    batch = next(iter(work.task.train_batches(stream_seed(0, "data", "assign_bits"), 0, 16)))
    module = dict(encoder_matrices(work.net))["1.attention.self.key"]
    weight = module.weight.detach().clone()
    with torch.no_grad():
        before = float(work.task.loss(work.net(**batch.inputs), batch))
        module.weight.copy_(shown(weight, parse_format(space.domain.knobs["key.1"][0])))
        after = float(work.task.loss(work.net(**batch.inputs), batch))
        module.weight.copy_(weight)
    assert table[list(space.domain.knobs).index("key.1"), 0] == pytest.approx(after - before, abs=1e-6)
    loss = work.task.loss(work.net(**batch.inputs), batch)
    (gradient,) = torch.autograd.grad(loss, [module.weight])
    changed = shown(weight, Format(4, 2, 4))
    measured = fisher(work.net, work.task, [batch])({id(module.weight): changed})
    assert measured == pytest.approx(0.5 * float((gradient.square() * (changed - weight).square()).sum()), rel=1e-4)


def test_what_no_assignment_meets_is_told_with_the_least() -> None:
    with pytest.raises(UnsatisfiableError, match=r"a: no exact assignment fits. The least is 12\.\d\d% of"):
        AssignBits({"a": "5%"}, batches=1)(work_of())
    with pytest.raises(UsageError, match="Expected space: nm_bits"):
        AssignBits({"a": "5%"})(replace(work_of(), space=ToySpace()))
    for bad in ({}, {"a": "0%"}, {"a": "100%"}, {"a": -3}):
        with pytest.raises(UsageError):
            AssignBits(bad)


def test_bits_of_a_network_and_of_an_architecture() -> None:
    net = tiny_net()
    space = NMBits(["2:4 int8", "int8"], config=net.config)
    arch = space.arch(dict.fromkeys(space.kinds, "2:4 int8"))
    small = space.extract(net, arch)
    full = 32 * 3 * (4 * 32 * 32 + 2 * 32 * 64)
    scales = 32 * 3 * (5 * 32 + 64)
    assert Bits().estimate(None, small) == Bits().estimate(space, net, arch) == full * 5 / 32 + scales
    assert Bits(indices=False, scales=False).estimate(None, small) == full / 8
    assert Bits("all").estimate(None, net) == 32 * sum(p.numel() for p in net.parameters())
    rest = 32 * 3 * (6 * 32 + 64 + 3 * 32)
    assert Bits("encoder").estimate(None, small) == Bits().estimate(None, small) + rest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sst2-minilm", "mrpc-minilm"])
def test_the_recipe_runs_and_says_what_is_stored(tmp_path: Any, name: str) -> None:
    sizes = {"hidden_size": 24, "num_attention_heads": 12, "max_position_embeddings": 160}
    model = write_net(tmp_path / "net", num_hidden_layers=2, intermediate_size=48, **sizes)
    changes = [
        "smoke=true", f"model={model}", f"task={write_reviews(tmp_path)}",
        "stages.assign.archs.assigned-90=18%", "estimators.latency={repeats: 1}",
    ]  # fmt: skip
    run = nf.run(nf.load_recipe(str(RECIPES / f"nxmiformer/{name}.yaml"), changes), out=tmp_path / "run")
    report = build(run.directory)
    models = {model["name"]: model for model in report["models"]}
    assert models["uniform-84"]["stored"]["formats"] == {"2:4 int8": 12}
    assert all(m["stored"]["violations"] == 0 for m in models.values() if m["stored"])
    assert models["assigned-90"]["costs"]["bits"] <= 0.18 * models["teacher"]["costs"]["bits"]
    assert "What is stored, in bits" in (run.directory / "report.md").read_text()
    again = AutoModelForSequenceClassification.from_pretrained(run.directory / "models" / "assigned-90")
    assert record_of(again) == {k: Format(**v) for k, v in models["assigned-90"]["blueprint"]["quantised"].items()}
