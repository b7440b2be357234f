"""Plugins of every other kind that each break one promise of their contract."""

from __future__ import annotations

import contextlib
import copy
import random
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import Modifier
from nasframe.nn.elastic import FamilyRow, Map
from nasframe.nn.row_family import RowFamily
from nasframe.records import CostTable, MetricFormat
from nasframe.search.domain import Choices
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net, tiny_tokenizer

NARROW = {"layers": [0, 2], "heads.0": 2, "heads.2": 2, "ffn.0": 16, "ffn.2": 16}


def changed(cls: type, **methods: Any) -> Callable[..., Any]:
    """Return a factory of ``cls`` with other methods."""
    return type(f"Broken{cls.__name__}", (cls,), methods)


# --- spaces ---------------------------------------------------------------------------------------------------------


def space_with(domain):
    space = ToySpace()
    space.domain = domain(space.domain)
    return space


def whole_view(self, net, arch):
    return net


def copied_view(self, net, arch):
    return self.extract(net, arch)


def eval_view(self, net, arch):
    model = ToySpace.extract(self, net, arch)
    parameters = dict(net.named_parameters())
    inner = ToySpace.view(self, net, arch)

    def forward(**inputs):
        training = net.training
        net.eval()
        try:
            return inner(**inputs)
        finally:
            net.train(training)

    return forward if parameters and model else inner


def hooked_view(self, net, arch):
    net.register_forward_hook(lambda module, inputs, outputs: None)
    return ToySpace.view(self, net, arch)


def shared_extract(self, net, arch):
    model = ToySpace.extract(self, net, arch)
    model.classifier = net.classifier
    return model


def noisy_extract(self, net, arch):
    torch.rand(())
    return ToySpace.extract(self, net, arch)


def spoiling_extract(self, net, arch):
    found = ToySpace.extract(self, net, arch)
    arch["seen"] = True
    return found


SPACES = {
    "the_domain_has_something_to_choose": (
        lambda: space_with(lambda domain: Choices({k: v[-1:] for k, v in domain.knobs.items()})), "several choices",
    ),
    "view_equals_extract": (changed(ToySpace, view=whole_view), "make both from one map of slices"),
    "architectures_differ_in_what_they_compute": (changed(ToySpace, view=whole_view), "view' return the whole network"),
    "a_view_changes_nothing": (changed(ToySpace, view=hooked_view), "view left hooks behind"),
    "a_view_shares_the_weights": (changed(ToySpace, view=copied_view), "slice its parameters, do not copy them"),
    "a_view_follows_train_and_eval": (changed(ToySpace, view=eval_view), "no dropout in train mode; read net.train"),
    "extract_stands_alone": (changed(ToySpace, extract=shared_extract), "shares memory .*clone what you slice"),
    "params_equals_count": (changed(ToySpace, sizes=lambda self, arch: {}), "'sizes' must name the kept"),
    "architectures_are_left_untouched": (changed(ToySpace, extract=spoiling_extract), "changed the architecture"),
    "global_random_state_is_left_alone": (changed(ToySpace, extract=noisy_extract), "generator was changed"),
}  # fmt: skip


# --- estimators -----------------------------------------------------------------------------------------------------


class Params:
    unit = "parameters"

    def estimate(self, space, net, arch=None):
        return float(sum(p.numel() for p in (net if arch is None else space.extract(net, arch)).parameters()))


class Hoarder(Params):
    seen: ClassVar[list] = []

    def estimate(self, space, net, arch=None):
        self.seen.append(net)
        return super().estimate(space, net, arch)


class Forgetful(Params):
    count = 0

    def estimate(self, space, net, arch=None):
        Forgetful.count += 1
        return super().estimate(space, net, arch) + Forgetful.count


class Switcher(Params):
    def estimate(self, space, net, arch=None):
        return super().estimate(space, net.eval(), arch)


def rough_table(self, space, net):
    return CostTable(0.0, {knob: [1.0] * len(values) for knob, values in space.domain.knobs.items()})


ESTIMATORS = {
    "the_unit_is_named": (changed(Params, unit=""), "set it to what is counted"),
    "its_names_are_texts": (changed(Params, heading=None), "set it to a text such as 'params'"),
    "costs_are_numbers": (changed(Params, estimate=lambda self, *a: float("nan")), "return a finite float, 0 or more"),
    "the_table_agrees_with_the_estimate": (changed(Params, table=rough_table), "return None from table"),
    "an_architecture_costs_what_its_model_costs": (
        changed(Params, estimate=lambda self, space, net, arch=None: 1.0 + (arch is None)), "would disagree",
    ),
    "the_same_costs_the_same": (Forgetful, "return the same number for the same architecture"),
    "the_network_is_left_alone": (Switcher, "estimate changed train/eval mode of the network"),
    "networks_are_not_kept_alive": (Hoarder, "WeakKeyDictionary"),
    "global_random_state_is_left_alone": (
        changed(Params, estimate=lambda self, *a: float(torch.rand(()))), "a generator of your own",
    ),
}  # fmt: skip


# --- evaluators -----------------------------------------------------------------------------------------------------


class Sharpness:
    """Scores by the task's loss, and draws nothing."""

    def metrics(self, primary, of_task):
        return {"loss": MetricFormat(higher_is_better=False), "accuracy": MetricFormat(percent=True)}

    def start(self, job):
        self.job = job

    def evaluate(self, candidate, examples):
        return self.job.task.evaluate(candidate.forward, "select", examples)


def on_dev(self, candidate, examples):
    return self.job.task.evaluate(candidate.forward, "dev", examples)


def constant(self, candidate, examples):
    return replace(Sharpness.evaluate(self, candidate, examples), metrics={"loss": 1.0, "accuracy": 0.5})


def growing(self, candidate, examples):
    self.count = getattr(self, "count", 0) + 1
    found = Sharpness.evaluate(self, candidate, examples)
    return replace(found, metrics={**found.metrics, "loss": found.metrics["loss"] + self.count})


def uncounted(self, candidate, examples):
    return replace(Sharpness.evaluate(self, candidate, examples), examples=0)


def impatient(self, candidate, examples):
    found = Sharpness.evaluate(self, candidate, examples)
    return replace(found, broken_off=bool(candidate.rivals))


def needs_data(self, job):
    job.task.sizes["select"]


def in_the_net(self, candidate, examples):
    found = Sharpness.evaluate(self, candidate, examples)
    with torch.no_grad():
        self.job.net.classifier.bias.add_(1.0)
    return found


def noisy_score(self, candidate, examples):
    found = Sharpness.evaluate(self, candidate, examples)
    return replace(found, metrics={**found.metrics, "loss": found.metrics["loss"] + float(torch.rand(()))})


EVALUATORS = {
    "its_metrics_are_known_beforehand": (
        changed(Sharpness, metrics=lambda self, *a: {"sharpness": MetricFormat()}), "the first metric is 'sharpness'",
    ),
    "scores_are_numbers_and_tell_architectures_apart": (changed(Sharpness, evaluate=constant), "have the same metrics"),
    "the_same_scores_the_same": (changed(Sharpness, evaluate=growing), "keep nothing of earlier candidates"),
    "dev_is_never_read": (changed(Sharpness, evaluate=on_dev), "Measure on 'select', or on training batches"),
    "what_is_used_is_counted": (changed(Sharpness, evaluate=uncounted), "asked for 48 examples, the evaluator used 0"),
    "a_candidate_that_may_win_is_measured_to_the_end": (
        changed(Sharpness, evaluate=impatient), "break off only what cannot win",
    ),
    "what_is_planned_is_not_refused": (changed(Sharpness, validate=needs_data), "before a run job.task is None"),
    "the_network_is_left_alone": (changed(Sharpness, evaluate=in_the_net), r"evaluate changed weights .*candidate"),
    "global_random_state_is_left_alone": (changed(Sharpness, evaluate=noisy_score), "draw from the injected seed"),
}  # fmt: skip


# --- transforms -----------------------------------------------------------------------------------------------------


class Halve:
    """Halves the word embedding, in a copy."""

    keeps_function = False

    def __call__(self, work):
        net = copy.deepcopy(work.net)
        with torch.no_grad():
            net.get_input_embeddings().weight.mul_(0.5)
        return replace(work, net=net)


def in_place(self, work):
    with torch.no_grad():
        work.net.classifier.weight.zero_()
    return work


def noisy(self, work):
    net = copy.deepcopy(work.net)
    with torch.no_grad():
        net.classifier.weight.add_(torch.randn(net.classifier.weight.shape, generator=torch.Generator().manual_seed(
            random.SystemRandom().getrandbits(30))))  # fmt: skip
    return replace(work, net=net)


def globally(self, work):
    net = copy.deepcopy(work.net)
    nn.init.normal_(net.classifier.weight)
    return replace(work, net=net)


def cut(self, work):
    from nasframe.nn.slices import extract

    return replace(work, net=extract(work.net, NARROW))


def not_a_number(self, work):
    net = copy.deepcopy(work.net)
    with torch.no_grad():
        net.classifier.bias.fill_(float("nan"))
    return replace(work, net=net)


def unknown_part(self, work):
    net = copy.deepcopy(work.net)
    net.classifier = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 2)).apply(
        lambda m: [nn.init.constant_(p, 0.1) for p in m.parameters()]
    )
    return replace(work, net=net)


def reads_values(self, net):
    net.classifier.weight.sum().item()


TRANSFORMS = {
    "work_in_work_out": (changed(Halve, __call__=lambda self, work: replace(work, archs={})), "carry on archs"),
    "what_is_planned_is_not_refused": (changed(Halve, validate=reads_values), "given a network without values, raised"),
    "what_came_in_stays_as_it_was": (changed(Halve, __call__=in_place), "change a copy"),
    "the_same_seed_gives_the_same": (changed(Halve, __call__=noisy), "draw only from the injected seed"),
    "the_function_is_kept_where_claimed": (
        changed(Halve, keeps_function=True),
        "correct the transform, or set it to false",
    ),
    "sizes_are_kept_where_claimed": (changed(Halve, reshapes=False, __call__=cut), "sizes changed; set it to true"),
    "the_network_still_works": (changed(Halve, __call__=not_a_number), "outputs are not finite"),
    "the_network_can_be_saved_and_loaded": (changed(Halve, __call__=unknown_part), "does not take the weights"),
    "global_random_state_is_left_alone": (changed(Halve, __call__=globally), "draw from the injected seed"),
}


# --- tasks ----------------------------------------------------------------------------------------------------------


class Split(ToyTask):
    """The toy task with larger splits, whose subsets are cut at random or whose evaluation is altered."""


def unseeded(self, seed, epoch, batch_size):
    return ToyTask.train_batches(self, random.SystemRandom().getrandbits(30), epoch, batch_size)


def short(self, seed, epoch, batch_size):
    return ToyTask.train_batches(self, seed, epoch, batch_size)[1:]


def leaking(self, seed=0):
    ToyTask.__init__(self, seed)
    self.data["dev"][:3] = self.data["train"][:3]


def unseeded_splits(self, seed=0):
    ToyTask.__init__(self, random.SystemRandom().getrandbits(30))
    self.fingerprint = "toy"


def summed(self, outputs, batch):
    return ToyTask.loss(self, outputs, batch) * len(batch)


def with_gradients(self, forward, split, examples=None):
    with torch.enable_grad():
        forward(**self.batch(split, np.arange(2)).inputs)
    return ToyTask.evaluate(self, forward, split, examples)


def other_subset(self, forward, split, examples=None):
    found = ToyTask.evaluate(self, forward, split, examples)
    ids = [i + random.SystemRandom().randrange(1000, 9000) for i in found.predictions["id"]]
    return replace(found, predictions={**found.predictions, "id": ids if examples else found.predictions["id"]})


def float_labels(self, seed, epoch, batch_size):
    return [replace(b, labels=b.labels.float()) for b in ToyTask.train_batches(self, seed, epoch, batch_size)]


def globally_ordered(self, seed, epoch, batch_size):
    return ToyTask.train_batches(self, seed + random.randrange(2**20), epoch, batch_size)


TASKS = {
    "it_says_what_it_is": (changed(ToyTask, primary=""), "name the metric that a search maximises"),
    "an_epoch_has_every_example_once": (changed(ToyTask, train_batches=short), "expected each of 0 … 63 once"),
    "the_same_epoch_is_the_same": (changed(ToyTask, train_batches=unseeded), "draw from seed and epoch"),
    "splits_are_disjoint": (changed(ToyTask, __init__=leaking), "3 of 16 examples of 'dev' are in 'train', too"),
    "splits_are_deterministic": (changed(ToyTask, __init__=unseeded_splits), "differs for one seed"),
    "the_loss_is_the_mean_over_a_batch": (changed(ToyTask, loss=summed), "return the mean over examples"),
    "evaluation_is_complete": (changed(ToyTask, evaluate=with_gradients), r"under torch.no_grad\(\)"),
    "a_subset_is_fixed_and_part_of_the_whole": (changed(ToyTask, evaluate=other_subset), "draw it once, from the seed"),
    "labels_fit": (changed(ToyTask, train_batches=float_labels), "make them int64 class indices"),
    "global_random_state_is_left_alone": (changed(ToyTask, train_batches=globally_ordered), "a global random generat"),
}


# --- trainers -------------------------------------------------------------------------------------------------------


class Loop:
    """The built-in loop, called with an altered job."""

    def fit(self, job):
        return registry.make("trainer", "loop").fit(job)


class NoEval(Loop):
    def fit(self, job):
        result = super().fit(job)
        result.net.train()
        return result


class NoSampler(Loop):
    def fit(self, job):
        job.sampler.tell = lambda trials: None
        return super().fit(job)


class NoModifiers(Loop):
    def fit(self, job):
        job.modifiers = [m for m in job.modifiers if not hasattr(m, "moments")]
        return super().fit(job)


class NoClaims(Loop):
    def fit(self, job):
        for modifier in job.modifiers:
            modifier.claims = lambda net: []
        return super().fit(job)


class NoAnswer(Loop):
    def fit(self, job):
        return replace(super().fit(job), arch=None)


class NoCheckpoint(Loop):
    """Saves, and does not read."""

    def fit(self, job):
        if job.checkpoint is not None:
            job.checkpoint.load = lambda: None
            job.seed += 1
        return super().fit(job)


class Global(Loop):
    def fit(self, job):
        with torch.no_grad():
            job.net.classifier.bias.normal_()
        return super().fit(job)


class Cuts(Loop):
    def fit(self, job):
        from nasframe.nn.slices import extract

        return replace(super().fit(job), net=extract(job.net, NARROW))


TRAINERS = {
    "it_trains": (NoEval, r"call net.eval\(\)"),
    "the_same_job_gives_the_same_weights": (Global, "torch.random.fork_rng"),
    "an_interrupted_stage_ends_the_same": (NoCheckpoint, "save weights, optimiser, position"),
    "the_sampler_hears_of_every_proposal": (NoSampler, "12 archs were proposed, but 0 told"),
    "modifiers_are_called_at_their_moments": (NoModifiers, "a modifier was called at "),
    "what_modifiers_claim_is_left_alone": (NoClaims, r"leave modifier.claims\(net\) out"),
    "a_modifier_may_answer_with_an_architecture": (
        NoAnswer,
        "a modifier returned an architecture, but the result has None",
    ),
    "sizes_stay_as_they_are": (Cuts, "train views of the network"),
}


# --- modifiers ------------------------------------------------------------------------------------------------------


class NotFinite(Modifier):
    def on_loss(self, step, loss):
        return loss * float("nan")


class Resizes(Modifier):
    def on_update(self, step):
        net = step.job.net
        net.pair = nn.Parameter(torch.zeros(2))


class LeavesHook(Modifier):
    def on_start(self, job):
        job.net.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output)


class Forgets(Modifier):
    count = 0

    def on_loss(self, step, loss):
        self.count += 1
        return loss * (1 + 0.1 * self.count)


class HoldsStep(Modifier):
    last: Any = None

    def on_update(self, step):
        self.last = step

    def state_dict(self):
        return {"last": self.last}


class ClaimsForeign(Modifier):
    def claims(self, net):
        return [parameter.detach() for parameter in net.parameters()]


class AnswersUnasked(Modifier):
    def on_finish(self, job):
        return {"layers": [0, 1]}


class AnswersSet(Modifier):
    def on_finish(self, job):
        return {"layers": {0, 1}}


class Shares(Modifier):
    counts: ClassVar[list] = [0]

    def on_loss(self, step, loss):
        self.counts[0] += 1
        return loss * (1 + 0.01 * self.counts[0] + random.random())


class PlansOtherwise(Modifier):
    def validate(self, job):
        raise UsageError("not with this one")


class Refuses(Modifier):
    def on_start(self, job):
        raise UsageError("not today")


MODIFIERS = {
    "some_stage_is_accepted": (Refuses, r"every stage is refused \(not today\)"),
    "what_is_planned_is_not_refused": (PlansOtherwise, r"validate, given a network without values, raised UsageError"),
    "it_goes_with_every_stage": (NotFinite, "on_loss returned a loss that is not finite"),
    "shapes_are_left_alone": (Resizes, r"the network has other tensors \(pair\); undo masks"),
    "hooks_are_removed": (LeavesHook, "remove in on_finish what on_start registered"),
    "an_interrupted_stage_ends_the_same": (Forgets, "put everything that changes by step into state_dict"),
    "the_state_is_plain": (HoldsStep, "without a pickle .*not Step"),
    "claims_are_parameters_of_the_network": (ClaimsForeign, "return parameters"),
    "an_answer_is_said_in_advance": (AnswersUnasked, "declare it in the class: returns_arch = True"),
    "an_answer_is_an_architecture": (AnswersSet, "return None or a JSON-plain mapping"),
    "two_stages_are_independent": (Shares, "a global random generator was changed"),
}


# --- models ---------------------------------------------------------------------------------------------------------


class Tiny:
    def tokenizer(self):
        return tiny_tokenizer()

    def load(self, labels, seed, random=False):
        net = tiny_net(seed=seed, labels=1 if labels is None else len(labels))
        names = dict(enumerate(labels or ["score"]))
        net.config.id2label, net.config.label2id = names, {name: i for i, name in names.items()}
        return net


class Fetches(Tiny):
    def tokenizer(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("192.0.2.1", 80), timeout=1)
        return super().tokenizer()


class OtherWords(Tiny):
    def tokenizer(self):
        from transformers import BertTokenizer

        return BertTokenizer(vocab={word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])})

    def load(self, labels, seed, random=False):
        net = super().load(["a", "b", "c"], seed)
        net.config.id2label = dict(enumerate(labels or ["score"]))
        return net


class NoNames(Tiny):
    def load(self, labels, seed, random=False):
        return tiny_net(seed=seed, labels=1 if labels is None else len(labels))


class IgnoresSeed(Tiny):
    def load(self, labels, seed, random=False):
        return super().load(labels, 0)


class InTraining(Tiny):
    def load(self, labels, seed, random=False):
        return super().load(labels, seed).train()


class Spills(Tiny):
    def load(self, labels, seed, random=False):
        torch.manual_seed(seed)
        return super().load(labels, seed)


MODELS = {
    "it_loads_offline": (Fetches, r"it connected to \[\('192.0.2.1', 80\)\]"),
    "the_network_runs_on_the_tokenizer": (OtherWords, r"two examples and two labels give logits of shape \(2, 3\)"),
    "the_head_fits_the_labels": (NoNames, "config.id2label names .* it should name"),
    "the_seed_draws_the_weights": (IgnoresSeed, "do not depend on the seed; draw all"),
    "it_is_ready_to_use": (InTraining, r"return net.eval\(\)"),
    "global_random_state_is_left_alone": (Spills, r"torch.manual_seed\(seed\) inside torch.random.fork_rng"),
}

# --- families -------------------------------------------------------------------------------------------------------


class Averages(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = torch.nn.Embedding(9, width)

    def forward(self, input_ids):
        return {"logits": self.embed(input_ids).mean(1)}


class Family:
    def matches(self, net):
        return isinstance(net, Averages)

    def describe(self, net):
        return {"family": "averages", "model": "Averages", "width": net.embed.embedding_dim}

    def build(self, description, device):
        return Averages(description["width"])

    def sources(self, net):
        return [__file__]

    def example(self):
        with torch.random.fork_rng(devices=[]):
            return Averages(4), {"input_ids": torch.tensor([[1, 2], [3, 4]])}


class MatchesAll(Family):
    def matches(self, net):
        return True


class NotPlain(Family):
    def describe(self, net):
        return super().describe(net) | {"weight": net.embed.weight}


class OtherWidth(Family):
    def build(self, description, device):
        return Averages(description["width"] + 1)


class Counting(Family):
    def describe(self, net):
        self.count = getattr(self, "count", 0) + 1
        return super().describe(net) | {"count": self.count}


class Freezes(Family):
    def describe(self, net):
        net.embed.weight.requires_grad_(False)
        return super().describe(net)


class NoSources(Family):
    def sources(self, net):
        return ["nowhere.py"]


MISTRAL = {
    "query": Map("self_attn.q_proj", "heads"),
    "key": Map("self_attn.k_proj", "heads", grouped=True),
    "value": Map("self_attn.v_proj", "heads", grouped=True),
    "merge": Map("self_attn.o_proj", "heads", reads=True),
    "gate": Map("mlp.gate_proj", "ffn"),
    "widen": Map("mlp.up_proj", "ffn"),
    "shrink": Map("mlp.down_proj", "ffn", reads=True),
}


class Sliced(RowFamily):
    def __init__(self, without="", words="embed_tokens", **changed):
        maps = {name: item for name, item in (MISTRAL | changed).items() if name != without}
        names = {"head_size": "head_dim", "head_size_field": "head_dim", "causal": True, "words": words}
        groups = {"group": "num_key_value_groups", "group_field": "num_key_value_heads"}
        row = FamilyRow(layers="layers", attention="self_attn", maps=maps, **names, **groups)
        super().__init__({"mistral": row})

    def example(self):
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = MistralConfig(vocab_size=97, num_key_value_heads=2, attn_implementation="eager", **sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return MistralForCausalLM(config), tiny_inputs(batch=2, length=5)


FAMILIES = {
    "it_matches_its_networks_and_no_others": (MatchesAll, "not False for a torch.nn.Linear"),
    "a_description_is_plain": (NotPlain, "JSON does not have"),
    "the_network_that_is_built_is_the_same": (OtherWidth, "has other tensors than net"),
    "a_built_network_is_described_the_same": (Counting, "differs from describe"),
    "describing_leaves_the_network_alone": (Freezes, "only read from the network"),
    "sources_are_files": (NoSources, "nowhere.py is no file"),
    "a_view_is_the_extracted_model": (lambda: Sliced(without="gate"), "does not run"),
    "removed_parts_are_those_whose_readers_are_zero": (
        lambda: Sliced(query=Map("self_attn.q_proj", "heads", blocks=2)), "the view at .* does not run",
    ),
    "counts_are_exact": (
        lambda: Sliced(gate=Map("mlp.gate_proj", "ffn", positions=True)), "multiply-adds are counted",
    ),
    "reordering_keeps_the_outputs": (
        lambda: Sliced(gate=Map("mlp.gate_proj", "ffn", blocks=2)), "sorting heads and neurons does not run",
    ),
}  # fmt: skip


class Lines:
    """Writes a line for each stage; what follows breaks one promise each."""

    def __init__(self):
        self.open = False

    def write(self, run, text):
        with (run.directory / "lines.txt").open("a") as file:
            file.write(f"{text}\n")

    def run_started(self, run):
        self.write(run, "started")

    def stage_finished(self, run, stage):
        self.write(run, stage)


class Misspelled(Lines):
    def metric_logged(self, run):
        """Wait in vain."""


class Eager(Lines):
    def __init__(self):
        super().__init__()
        with (Path(tempfile.gettempdir()) / "nasframe-eager.txt").open("w") as file:
            file.write("here I am")


class Greedy(Lines):
    def metrics_logged(self, values):
        self.total = values["f1"]


class Rounding(Lines):
    def trial_finished(self, trial):
        self.score = round(trial.score, 3)


class NeedsSuccess(Lines):
    def run_finished(self, error):
        assert error is None


class OnlyOnce(Lines):
    def run_started(self, run):
        (run.directory / "once.txt").touch(exist_ok=False)


class Curves(Lines):
    def stage_started(self, stage):
        self.losses = []

    def metrics_logged(self, values):
        self.losses.append(values["loss"])

    def stage_finished(self, stage, cached):
        if cached:
            self.last = self.losses[-1]


class OneAtATime(Lines):
    busy: ClassVar[set[str]] = set()

    def run_started(self, run):
        assert not self.busy
        self.busy.add(str(run.directory))

    def run_finished(self, run):
        self.busy.clear()


class Elsewhere(Lines):
    def write(self, run, text):
        with (run.directory.parent / "lines.txt").open("a") as file:
            file.write(text)


class Calls(Lines):
    def run_started(self, run):
        with socket.socket() as own:
            own.connect(("127.0.0.1", 9))


OBSERVERS = {
    "its_methods_are_hooks": (Misspelled, "metric_logged is no hook.*Did you mean 'metrics_logged'"),
    "making_it_writes_nothing": (Eager, "making it wrote .*nasframe-eager.txt"),
    "it_hears_a_whole_run": (Greedy, "metrics_logged with .* raised KeyError: 'f1'"),
    "it_hears_values_that_are_no_numbers": (Rounding, "trial_finished with .* raised TypeError"),
    "it_hears_a_run_that_fails": (NeedsSuccess, "run_finished with .* raised AssertionError"),
    "it_goes_on_after_a_kill": (OnlyOnce, "run_started with .* raised FileExistsError"),
    "it_hears_stages_from_the_cache": (Curves, "stage_finished with .* raised IndexError"),
    "two_runs_do_not_mix": (OneAtATime, "run_started with .* raised AssertionError"),
    "it_writes_below_the_run_directory_only": (Elsewhere, "lines.txt; write below run.directory only"),
    "it_connects_to_nobody": (Calls, "it connects to .*127.0.0.1"),
}  # fmt: skip

BROKEN = {
    "space": SPACES, "estimator": ESTIMATORS, "evaluator": EVALUATORS, "transform": TRANSFORMS,
    "task": TASKS, "trainer": TRAINERS, "modifier": MODIFIERS, "model": MODELS, "family": FAMILIES,
    "observer": OBSERVERS,
}  # fmt: skip
SOUND = {"space": ToySpace, "estimator": Params, "transform": Halve, "task": ToyTask, "trainer": Loop, "model": Tiny}
SOUND["evaluator"] = Sharpness
SOUND["modifier"] = Modifier
SOUND["family"] = Family
SOUND["observer"] = Lines
