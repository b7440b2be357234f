"""NAS-BERT and Puzzle: the space of chains, its exact tables, block-wise training, shrinking, and whole runs."""

import itertools
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import nasframe as nf
from nasframe.errors import RecipeError, UsageError
from nasframe.interfaces import TrainJob
from nasframe.records import TrainOptions
from nasframe.report.read import gather
from nasframe.search.constraints import Bounds, Screen
from nasframe.search.costs import table_cost, tables
from nasframe.testing.toy import tiny_inputs, tiny_net, tiny_tokenizer
from nasframe_basics.dynamic import DynamicSampler
from nasframe_basics.estimators import macs, params, size
from nasframe_basics.masked_lm import masked_lm
from nasframe_basics.milp import MilpSampler
from nasframe_nas_bert.chains import NOTHING, Shape, read
from nasframe_nas_bert.estimators import BlockLoss, OperatorLatency
from nasframe_nas_bert.examples import tiny_library, tiny_space, tiny_teacher
from nasframe_nas_bert.networks import OperatorChain
from nasframe_nas_bert.shrinking import Settings, Survivors, bins_of
from nasframe_nas_bert.space import OperatorChains
from nasframe_nas_bert.trainer import Blockwise

PUBLISHED = ["mha", "ffn", "conv3", "conv5", "conv7"]
PATTERN = [["mha", "mha/2", "linear", "-"], ["ffn", "ffn/4", "linear", "-"]]


# ---- the space


def test_the_published_block_has_97650_architectures():
    """Five operations at five widths, six positions, identities at the end: 5 · (5 + 5² + … + 5⁶)."""
    shape = Shape([128, 192, 256, 384, 512], [PUBLISHED] * 6, free=True)
    chains = shape.candidates()
    assert shape.count() == len(chains) == len(set(map(str, chains))) == 97_650
    by_hand = {
        (width, operations)
        for length in range(1, 7)
        for operations in itertools.product(PUBLISHED, repeat=length)
        for width in shape.widths
    }
    assert {(chain.width, chain.operations) for chain in chains} == by_hand


def test_bert_bases_space_is_the_published_one():
    config = tiny_net(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=64).config
    space = OperatorChains(blocks=4, widths=[128, 192, 256, 384, 512], embeddings=[64, 512], config=config)
    assert space.domain.size == 2 * 97_650**4
    assert space.head_size == 64
    assert len(space._piece_names) == 25


def test_identities_stand_at_the_end_and_mean_nothing():
    space = tiny_space()
    ends = {"block.1": "16: mha", "block.2": "32: ffn mha"}
    first = space.arch({"block.0": {"width": 16, "operations": ["mha", "-"]}, **ends})
    second = space.arch({"block.0": "16: - mha", **ends})
    assert first == second
    assert first["block.0"] == "16: mha"
    assert first["embedding"] == 32


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("17: mha", "no such width"),
        ("16: mha mha mha", "has 3 operations"),
        ("16: mga", "Did you mean 'mha'"),
        ({"width": 16, "operations": []}, "has 0 operations"),
    ],
)
def test_a_block_that_does_not_exist_is_refused(block, said):
    with pytest.raises(UsageError, match=said):
        tiny_space().arch({"block.0": block, "block.1": "16: mha", "block.2": "16: mha"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": 2}, "2 blocks of 3 layers"),
        ({"blocks": 3, "operations": ["mha", "pool"]}, "no such operation"),
        ({"blocks": 3, "operations": ["conv4"]}, "no such operation"),
        ({"blocks": 3, "widths": [12]}, "heads of 8"),
        ({"blocks": 3, "pattern": PATTERN, "operations": ["mha"]}, "has no effect on a pattern"),
        ({"blocks": 3, "widths": [16], "start": "teacher"}, "only operations of the network's width"),
        ({"blocks": 1, "length": 9}, "candidates of a block"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        OperatorChains(**options, config=tiny_teacher().config)


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(UsageError, match="vit"):
        OperatorChains(blocks=3, config=tiny_net("vit").config)


@pytest.mark.parametrize(
    "estimator", [params(), size(), macs(probe_inputs=tiny_inputs)], ids=["params", "size", "macs"]
)
def test_tables_are_exact(estimator):
    """The table's sum is what the extracted network has, for equal and differing widths, the teacher's among them."""
    space = tiny_space()
    library = tiny_library()
    cost = table_cost(estimator.table(space, library), space.domain.knobs)
    rng = np.random.default_rng(0)
    for arch in [space.domain.smallest(), space.domain.largest(), *(space.domain.sample(rng) for _ in range(12))]:
        assert cost(arch) == estimator.estimate(space, library, arch)


def test_chains_narrower_than_the_teacher_are_priced_with_maps_from_and_to_its_width():
    teacher = tiny_net(head="AutoModelForMaskedLM")
    width = teacher.config.hidden_size
    space = OperatorChains(
        blocks=3, widths=["25%", "50%"], embeddings=["50%"], operations=["mha", "ffn"], config=teacher.config
    )
    assert width not in space.shape.widths
    pieces = space.pieces(space.supernet(teacher))
    prices = {name: sum(map(torch.numel, piece.module.parameters())) for name, piece in pieces.items()}
    for name in space.block_names:
        for chain, cost in zip(space.chains, space.alone(prices)[name], strict=True):
            maps = 2 * width * chain.width + chain.width + width
            operations = sum(prices[f"{word}@{chain.width}"] for word in chain.operations if word != NOTHING)
            assert cost == maps + operations


def test_params_are_those_of_the_extracted_network():
    """Counted by hand, without the head of tokens, which is not deployed."""
    space = tiny_space()
    arch = space.arch({"embedding": 16, "block.0": "16: mha", "block.1": "32: ffn", "block.2": "16: conv3"})
    model = space.extract(tiny_library(), arch)
    by_hand = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head."))
    assert params().estimate(space, tiny_library(), arch) == by_hand
    norm = 2 * 16
    embedding = (97 + 40 + 2) * 16 + norm
    attention = 4 * (16 * 16 + 16) + norm
    feed_forward = 2 * 32 * 64 + 64 + 32 + 2 * 32
    convolution = 16 * 3 + 16 + 16 * 16 + 16 + norm
    maps = (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + (16 * 32 + 32)
    assert by_hand == embedding + attention + feed_forward + convolution + maps


def test_two_maps_in_a_row_become_one():
    """An extracted chain has one map between neighbours, and none where both have the teacher's width."""
    space = tiny_space()
    library = tiny_library()
    arch = space.arch({"embedding": 32, "block.0": "32: mha", "block.1": "32: ffn", "block.2": "16: ffn"})
    model = space.extract(library, arch)
    assert [isinstance(map, torch.nn.Linear) for map in model.maps] == [False, False, True, True]
    inputs = tiny_inputs()
    with torch.no_grad():
        difference = (model(**inputs).logits - space.view(library, arch)(**inputs).logits).abs().max()
    assert float(difference) < 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
@pytest.mark.parametrize("head", ["AutoModelForMaskedLM", "AutoModelForSequenceClassification"])
def test_a_space_that_begins_with_the_layers_has_the_network_itself(family, head):
    """With all heads and neurons, the chain computes what the teacher computes."""
    teacher = tiny_net(family, head=head)
    space = OperatorChains(blocks=3, pattern=PATTERN, start="teacher", config=teacher.config)
    library = space.supernet(teacher).eval()
    model = space.extract(library, space.whole())
    inputs = tiny_inputs()
    if family == "roberta":
        inputs["input_ids"] = inputs["input_ids"].clamp(min=2)
    with torch.no_grad():
        expected = teacher(**inputs).logits
        is_real = inputs["attention_mask"].bool()
        difference = model(**inputs).logits - expected
    if head == "AutoModelForMaskedLM":
        difference = difference[is_real]
    assert float(difference.abs().max()) < 1e-5


def test_smaller_embeddings_begin_with_the_main_directions():
    """The nearest table of that rank: its error is that of the singular values that are left out."""
    library = tiny_library()
    teacher = tiny_teacher()
    words = teacher.bert.embeddings.word_embeddings.weight
    embedding = library.embeddings["16"]
    restored = embedding.words.weight @ library.embedding_maps["16"].weight.T
    centre = words.mean(0)
    directions = library.embedding_maps["16"].weight
    error = ((words - centre) - (words - centre) @ directions @ directions.T).square().sum()
    values = torch.linalg.svdvals((words - centre).double())
    assert error.item() == pytest.approx(values[16:].square().sum().item(), rel=1e-3)
    assert restored.shape == words.shape


def test_convolutions_do_not_see_padding():
    from nasframe_nas_bert.networks import SeparableConvolution

    torch.manual_seed(0)
    layer = SeparableConvolution(4, 5)
    states = torch.randn(1, 6, 4)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    other = states.clone()
    other[:, 4:] = 99.0
    assert torch.equal(layer(states, mask, 0.0)[:, :4], layer(other, mask, 0.0)[:, :4])


# ---- shrinking


def test_bins_agree_on_parameters_and_latency():
    """p_{b-1} < p <= p_b and the same for latencies, with p_b = b / B of the largest; others are left out."""
    parameters = np.array([1.0, 4.9, 5.0, 5.1, 10.0])
    latencies = np.array([5.0, 1.0, 9.0, 6.0, 10.0])
    bins = bins_of([parameters, latencies], 2)
    assert bins.tolist() == [1, 1, -1, 2, 2]


def test_each_round_drops_the_worse_half_of_those_looked_at():
    losses = np.arange(40.0)
    survivors = Survivors(np.repeat([1, 2], 20), Settings(bins=2, sample=10, keep=3))
    looked_at = []

    def loss(candidate):
        looked_at.append(candidate)
        return losses[candidate]

    assert survivors.shrink(loss, np.random.default_rng(0)) == 20
    dropped = set(range(40)) - set(survivors.left.tolist())
    assert len(dropped) == 10
    for candidates in (range(20), range(20, 40)):
        seen = [candidate for candidate in looked_at if candidate in candidates]
        worse = sorted(seen)[5:]
        assert dropped & set(candidates) == set(worse)


def test_shrinking_ends_with_the_best_of_each_bin():
    """If all are looked at, what is left are exactly the best ``keep`` of each bin."""
    losses = np.random.default_rng(1).permutation(60).astype(float)
    bins = np.repeat([1, 2, 3], 20)
    survivors = Survivors(bins, Settings(bins=3, sample=100, keep=4))
    rng = np.random.default_rng(0)
    rounds = 0
    while not survivors.done:
        survivors.shrink(lambda candidate: losses[candidate], rng)
        rounds += 1
    kept, _ = survivors.finish(lambda candidate: losses[candidate], rng)
    for number in (1, 2, 3):
        members = np.flatnonzero(bins == number)
        best = sorted(members, key=lambda candidate: losses[candidate])[:4]
        assert set(best) == {candidate for candidate in kept if bins[candidate] == number}
    assert rounds == 3  # 20, 10, 5, 4
    assert Survivors(bins, Settings(3, 100, 4)).by_bin()[2].tolist() == list(range(20, 40))


# ---- block-wise training


def texts_task(tmp_path):
    words = [letter * 2 for letter in "bcdfghkm"]
    lines = [" ".join(words[(i * k) % 8] for k in range(1, 7)) + f" {i}" for i in range(60)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    return masked_lm(
        train=tmp_path / "texts.txt", documents="line", length=16, select=10, dev_share=10, tokenizer=tiny_tokenizer()
    )


def job(tmp_path, library=None, steps=4, **fields):
    vocabulary = len(tiny_tokenizer())
    teacher = tiny_net(seed=1, head="AutoModelForMaskedLM", vocab_size=vocabulary)
    space = OperatorChains(
        blocks=3, widths=["50%", "100%"], embeddings=["50%"], operations=["mha", "conv3"], config=teacher.config
    )
    if library is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            library = space.supernet(teacher)
    return TrainJob(
        net=library,
        task=texts_task(tmp_path),
        tokenizer=tiny_tokenizer(),
        options=TrainOptions(max_steps=steps, batch_size=4, learning_rate=1e-2, precision="fp32"),
        seed=0,
        stage="library",
        space=space,
        models={"teacher": teacher},
        estimators={"params": params()},
        **fields,
    )


def trained(tmp_path, parts=None, steps=4, **options):
    """Train a library, or only some of its parts."""
    from nasframe_nas_bert.trainer import _Fit

    this_job = job(tmp_path, steps=steps)
    trainer = Blockwise(bins=0, costs=["params"], batches=1, notify=lambda place, text: None, **options)
    with torch.random.fork_rng():
        fit = _Fit(trainer, this_job, torch.device("cpu"))
        if parts is not None:
            fit.own = parts
        return fit.run().net


def test_blocks_are_independent(tmp_path):
    """A block trained by itself ends with the very weights that it has when all are trained."""
    together = trained(tmp_path)
    alone = trained(tmp_path, parts=["block.1"])
    for own, other in zip(together.blocks[1].parameters(), alone.blocks[1].parameters(), strict=True):
        assert torch.equal(own, other)
    assert alone.losses["block.1"] == together.losses["block.1"]
    untrained = job(tmp_path).net
    for own, other in zip(untrained.blocks[0].parameters(), alone.blocks[0].parameters(), strict=True):
        assert torch.equal(own, other)


def test_training_brings_blocks_nearer_to_the_teacher(tmp_path):
    before = trained(tmp_path, steps=1).losses
    after = trained(tmp_path, steps=60).losses
    for part in ("embedding", "block.0", "block.1", "block.2"):
        assert np.mean(list(after[part].values())) < 0.9 * np.mean(list(before[part].values()))


@pytest.mark.parametrize("parts", [None, ["block.1"]])
def test_the_teacher_runs_once_a_step_for_all_blocks(tmp_path, parts):
    from nasframe_nas_bert.trainer import _Fit

    this_job = job(tmp_path, steps=5)
    calls = []
    with torch.random.fork_rng():
        fit = _Fit(Blockwise(bins=0, batches=1, notify=lambda place, text: None), this_job, torch.device("cpu"))
        fit.own = parts or fit.own
        fit.teacher.register_forward_hook(lambda *_: calls.append(fit.step))
        fit.run()
    assert calls == [0, 1, 2, 3, 4]


def test_the_loss_is_that_of_the_formula(tmp_path):
    """(N2) computed from hidden states of the teacher, for one candidate."""
    from nasframe_nas_bert.trainer import _Fit

    this_job = job(tmp_path)
    fit = _Fit(Blockwise(bins=0, batches=1, notify=lambda place, text: None), this_job, torch.device("cpu"))
    fit.net.eval()
    inputs, states = fit.examined[0]
    teacher = this_job.models["teacher"].eval()
    with torch.no_grad():
        hidden = teacher(**inputs, output_hidden_states=True).hidden_states
    for state, expected in zip(states, hidden, strict=True):
        assert torch.equal(state, expected)
    chain = this_job.space.chains[3]
    with torch.no_grad():
        mask = inputs["attention_mask"].bool()
        output = fit.net.blocks[2](hidden[2], mask, chain.width, chain.operations)
        expected_loss = (output - hidden[3]).square().mean()
        loss = fit.loss("block.2", 3, inputs, states)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)


def puzzle_fit(tmp_path):
    """Return the training of Puzzle's library, before its first step."""
    from nasframe_nas_bert.trainer import _Fit

    this_job = job(tmp_path)
    teacher = this_job.models["teacher"]
    space = OperatorChains(blocks=3, pattern=PATTERN, start="teacher", config=teacher.config)
    this_job.space = space
    this_job.net = space.supernet(teacher)
    trainer = Blockwise(bins=0, batches=1, score="replace", notify=lambda place, text: None)
    return _Fit(trainer, this_job, torch.device("cpu"))


def test_a_layer_that_is_left_out_has_nothing_to_learn(tmp_path):
    """Its candidate is drawn as the others are, has no weights, and costs nothing."""
    fit = puzzle_fit(tmp_path)
    nothing = [str(chain) for chain in fit.space.chains].index("32: - -")
    for name in fit.space.block_names:
        fit.survivors[name].left = np.array([nothing])  # so that all steps draw it
    before = {name: value.clone() for name, value in fit.net.blocks.state_dict().items()}
    entries = {entry.role: entry for entry in fit.run().ledger}
    assert all(torch.equal(before[name], value) for name, value in fit.net.blocks.state_dict().items())
    assert set(fit.net.losses["block.0"]) == {"32: - -"}
    embedding = sum(3 * count for count in fit.macs["embedding"])
    assert entries["student"].forward_macs + entries["student"].backward_macs == pytest.approx(
        float(embedding) * entries["student"].tokens
    )


def test_measuring_the_teacher_with_a_block_replaced_is_in_the_ledger(tmp_path):
    """The candidate, the teacher's layers behind it, and the head: counted by hooks on what really ran."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fit = puzzle_fit(tmp_path)
    fit.net.eval()
    first = fit.space.block_names[0]
    candidate = [str(chain) for chain in fit.space.chains].index("32: mha ffn")
    fit.divergence(first, candidate)  # builds and counts, once, what the counter below should not see
    before = {entry.role: entry.forward_macs for entry in fit.ledger.entries()}["evaluation"]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # torch counts no other on CPUs
        fit.divergence(first, candidate)
    after = {entry.role: entry.forward_macs for entry in fit.ledger.entries()}["evaluation"]
    with FlopCounterMode(display=False) as of_head, torch.no_grad():
        for _, states in fit.examined:
            fit.parent.head(states[-1])  # on the teacher's own states, which need not be computed for each candidate
    assert after - before == pytest.approx((counter.get_total_flops() - of_head.get_total_flops()) / 2, rel=0.02)


def test_the_whole_block_of_the_teacher_changes_nothing(tmp_path):
    """Puzzle's score of the teacher's own block is 0, and that of leaving a block out is not."""
    fit = puzzle_fit(tmp_path)
    space = fit.space
    fit.net.eval()
    names = [str(chain) for chain in space.chains]
    whole = names.index("32: mha ffn")
    nothing = names.index("32: - -")
    for part in space.block_names:
        assert fit.divergence(part, whole) == pytest.approx(0, abs=1e-6)
        assert fit.divergence(part, nothing) > 1e-5


def test_costs_that_the_recipe_lacks_are_refused_before_work(tmp_path):
    with pytest.raises(UsageError, match="operator_latency"):
        Blockwise().validate(job(tmp_path))
    wide = OperatorChains(blocks=1, operations=PUBLISHED, config=tiny_teacher().config)
    planned = SimpleNamespace(options=TrainOptions(), estimators={}, space=wide, stage="library")
    with pytest.raises(UsageError, match="without bins"):
        Blockwise(bins=0).validate(planned)


def test_operations_are_not_measured_beyond_what_the_network_reads():
    with pytest.raises(UsageError, match=r"length  41 tokens are more than the network can read. Expected at most 40"):
        OperatorLatency(length=41).validate(tiny_teacher())
    OperatorLatency(length=40).validate(tiny_teacher())
    OperatorLatency().validate(tiny_teacher())


# ---- selection


def test_selection_by_both_samplers_is_the_best_of_all():
    """Over all architectures of a small library, within bounds on parameters and operations at once."""
    space = tiny_space()
    library = tiny_library(losses=True)
    rng = np.random.default_rng(4)
    for part, of_part in library.losses.items():
        library.losses[part] = {value: float(rng.uniform(0, 1)) for value in of_part}
    estimators = {"params": params(), "macs": macs(probe_inputs=tiny_inputs), "block_loss": BlockLoss()}
    table_of = tables(estimators, space, library)
    costs = {name: table_cost(table_of(name), space.domain.knobs) for name in estimators}
    drawn = [space.domain.sample(rng) for _ in range(200)]
    bounds = {
        name: Bounds(high=float(np.quantile([costs[name](arch) for arch in drawn], 0.3))) for name in ("params", "macs")
    }
    region = space.domain.restrict(keep=Screen(bounds, lambda arch: {name: costs[name](arch) for name in bounds}))
    best = min(costs["block_loss"](arch) for arch in space.domain.enumerate() if region.contains(arch))
    for sampler in (DynamicSampler, MilpSampler):
        (arch,) = sampler(space.domain, "-block_loss", tables=table_of).ask(1, within=region)
        assert costs["block_loss"](arch) == pytest.approx(best)


def test_selection_at_the_published_size_takes_under_a_second():
    """4 blocks × 100 candidates that are left, and a budget of parameters and operations."""
    config = tiny_net(
        head="AutoModelForMaskedLM",
        hidden_size=96,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=64,
    )
    space = OperatorChains(
        blocks=4, widths=[16, 24, 48, 64, 96], embeddings=[24, 48, 96], operations=PUBLISHED, config=config.config
    )
    library = space.supernet(config)
    rng = np.random.default_rng(0)
    for part in space.parts:
        values = space.domain.knobs[part]
        chosen = rng.choice(len(values), size=min(len(values), 100), replace=False)
        library.losses[part] = {str(values[i]): float(rng.uniform(0, 1)) for i in chosen}
    estimators = {"params": params(), "macs": macs(probe_inputs=tiny_inputs), "block_loss": BlockLoss()}
    table_of = tables(estimators, space, library)
    costs = {name: table_cost(table_of(name), space.domain.knobs) for name in estimators}
    largest = {name: costs[name](space.domain.largest()) for name in ("params", "macs")}
    bounds = {name: Bounds(high=0.4 * value) for name, value in largest.items()}
    region = space.domain.restrict(keep=Screen(bounds, lambda arch: {name: costs[name](arch) for name in bounds}))
    began = time.process_time()
    archs = DynamicSampler(space.domain, "-block_loss", tables=table_of).ask(1, within=region)
    seconds = time.process_time() - began
    assert len(archs) == 1
    (milp,) = MilpSampler(space.domain, "-block_loss", tables=table_of).ask(1, within=region)
    assert costs["block_loss"](milp) == pytest.approx(costs["block_loss"](archs[0]))
    print(f"selection took {seconds:.2f} s of processor time")


# ---- whole runs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nas-bert")
    tokenizer = tiny_tokenizer()
    tiny_net(vocab_size=len(tokenizer)).bert.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    words = [letter * 2 for letter in "bcdfghkm"]
    lines = [" ".join(words[(i * k) % 8] for k in range(1, 7)) for i in range(60)]
    (folder / "texts.txt").write_text("\n".join(f"{line} {i}" for i, line in enumerate(lines)))
    rows = [f"{line} {i},{'yes' if i % 2 else 'no'}" for i, line in enumerate(lines)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]))
    return folder


def small(home, name):
    """A packaged recipe for any model, on the tiny model and tiny data."""
    own = {
        "use": "masked_lm",
        "train": str(home / "texts.txt"),
        "documents": "line",
        "length": 16,
        "select": 10,
        "dev_share": 10,
    }
    data = {
        "extends": name,
        "model": str(home / "model"),
        "task": {"use": "text_classification", "train": str(home / "train.csv"), "select": 10, "dev_share": 10},
    }
    data["task"]["max_length"] = 32
    file = home / f"{name.replace('/', '-')}.yaml"
    file.write_text(yaml.safe_dump(data))
    recipe = nf.load_recipe(file, ["smoke=true"])
    for stage in recipe.data["stages"]:
        (options,) = stage.values()
        if options.get("task"):
            options["task"] = own
    return recipe


@pytest.fixture(scope="module")
def run(home):
    plan = nf.resolve(small(home, "methods/nas_bert"))
    directory = home / "run"
    nf.run(plan, out=directory, progress=False)
    return directory


def test_a_run_makes_networks_that_load_elsewhere(run, home):
    """In a process without nasframe, with equal logits; the file of the network is the one that a person reads."""
    report = gather(run)
    winners = [model for model in report["models"] if model["name"].startswith("best@")]
    assert winners
    assert all("accuracy" in model["metrics"]["dev"] for model in winners)
    folder = next((run / "models").glob("best-*"))
    verified = json.loads((folder / "export_report.json").read_text())
    assert verified["max_abs_difference"] <= 1e-5
    assert (folder / "networks.py").read_text().startswith('"""Networks that are chains of sub-layers')
    program = (
        "import sys; sys.modules['nasframe'] = None\n"
        "from transformers import AutoModel\n"
        f"net = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        "print(type(net).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=home, check=False)
    assert done.stdout.strip().endswith("NasframeOperatorChain"), done.stderr


def test_the_final_network_is_as_published(run):
    """Maps only where widths differ, and a head of classes on the last block."""
    from nasframe.export.files import read_net

    for folder in (run / "models").glob("best-*"):
        net = read_net(folder)
        assert isinstance(net, OperatorChain)
        widths = [net.sizes["embedding"], *(block["width"] for block in net.sizes["blocks"])]
        expected = [before != after for before, after in itertools.pairwise(widths)]
        assert net.joins == [*expected, False]
        assert net.settings["head"]["kind"] == "classes"


def test_a_new_budget_is_answered_from_tables(run):
    from nasframe_deploy.deploy import deploy

    deployed = deploy(run, ["encoder_params<=40%"], out=run.parent / "deployed", progress=False)
    (model,) = deployed["models"]
    assert model["max_abs_difference"] <= 1e-5
    assert model["shares"]["encoder_params"] <= 0.4
    assert deployed["evaluations"] == 1


def test_puzzle_runs_as_a_whole(home):
    plan = nf.resolve(small(home, "methods/puzzle"))
    directory = home / "puzzle"
    nf.run(plan, out=directory, progress=False)
    report = gather(directory)
    (winner,) = [model for model in report["models"] if model["name"].startswith("best@")]
    assert "accuracy" in winner["metrics"]["dev"]
    arch = json.loads((next((directory / "models").glob("best-*")) / "arch.json").read_text())["arch"]
    assert {read(value).width for name, value in arch.items() if name.startswith("block.")} == {32}


def test_a_sampler_has_no_place_in_the_loop(home):
    recipe = small(home, "methods/nas_bert")
    for stage in recipe.data["stages"]:
        options = stage.get("train") or {}
        if options.get("save_as") == "library":
            options["sampler"] = "random"
    with pytest.raises(RecipeError, match="no place in the loop"):
        nf.resolve(recipe)


def test_what_a_chain_cannot_keep_is_refused_at_its_place(tmp_path):
    from nasframe.cli.check import problems_of

    path = tmp_path / "recipe.yaml"
    path.write_text("extends: nas_bert/cola-minilm\nset: {task.path: CoLA, stages.from-scratch.keep: embeddings}\n")
    found = [str(problem) for problem in problems_of(str(path)) if "from-scratch" in str(problem)]
    assert len(found) == 1
    assert "recipe.yaml:2:" in found[0]
    assert "stages.from-scratch.keep" in found[0]
    assert "Did you mean 'embedding'?" in found[0]
