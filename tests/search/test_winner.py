"""The rules that choose winners, against choices worked out from the rules' definitions."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasframe.errors import UsageError
from nasframe.measures import loss_fault
from nasframe.records import MetricFormat, Trial, arch_id
from nasframe.search.constraints import Bounds, parse_bounds
from nasframe.search.domain import Choices
from nasframe.search.loop import search
from nasframe.search.winner import WinnerRule, choose, ranked, standard_error
from nasframe_basics.metrics import METRICS
from nasframe_basics.samplers import EverySampler

BUDGET = 12.0
EXAMPLES = 64


def trial(number, score, loss=1.0, size=10.0, params=5.0, examples=None):
    metrics = {"accuracy": score, "loss": loss}
    return Trial({"k": number}, score, metrics=metrics, costs={"size": size, "params": params}, examples=examples)


def accuracy(trial):
    return trial.metrics["accuracy"]


def chosen(trials, name, meets=lambda trial: True, **options):
    """Return the number of the chosen trial, and how many lay within the error."""
    rule = WinnerRule(name, **{"error": "share", "examples": EXAMPLES} | options)
    choice = choose(ranked(trials, rule, accuracy, ["size"]), rule, accuracy, ["size"], meets)
    return choice.trial.arch["k"], choice.within


@pytest.mark.parametrize(
    ("kind", "score", "examples", "expected"),
    [
        ("share", 0.8, 64, 0.05),
        ("share", -0.2, 64, 0.05),  # an error rate, as an objective with "-" has it
        ("share", 1.0, 10, 0.0),
        ("share", 80.0, 64, None),  # written in per cent, so its error cannot be computed
        ("share", 0.8, None, None),
        ("correlation", 0.6, 64, 0.08),
        ("correlation", -0.6, 64, 0.08),
        ("correlation", 1.01, 64, None),
        ("unknown", 0.8, 64, None),
    ],
)
def test_standard_errors(kind, score, examples, expected):
    assert standard_error(kind, score, examples) == (None if expected is None else pytest.approx(expected))


def test_the_errors_of_the_text_tasks_metrics():
    kinds = {name: metric.format.error_kind for name, metric in METRICS.items()}
    correlations = dict.fromkeys(("mcc", "pearson", "spearman", "pearson_spearman"), "correlation")
    of_labels = ("micro_f1", "subset_accuracy", "label_accuracy")
    shares = dict.fromkeys(("accuracy", "f1", "accuracy_f1", "macro_f1", *of_labels), "share")
    assert kinds == correlations | shares | {"negative_rmse": "unknown"}
    assert MetricFormat(percent=True, standard_error="unknown").error_kind == "unknown"


def test_the_smallest_loss_within_one_error_of_the_best_wins():
    # The error of 0.8 on 64 examples is 0.05.
    trials = [trial(0, 0.80, 0.9), trial(1, 0.76, 0.5), trial(2, 0.75, 0.4), trial(3, 0.74, 0.1)]
    assert chosen(trials, "loss") == (2, 3)
    assert chosen(trials, "score") == (0, 3)
    assert chosen(trials, "loss", examples=EXAMPLES * 16) == (0, 1)
    assert chosen(trials, "loss", error="unknown") == (0, 1)
    assert chosen([replace(t, examples=16) for t in trials], "loss") == (3, 4)  # scored on fewer, so the error doubles


def test_equal_losses_go_to_the_larger_network():
    trials = [trial(0, 0.8, size=9, params=9), trial(1, 0.8, size=11, params=1), trial(2, 0.8, size=11, params=2)]
    assert chosen(trials, "loss")[0] == 2
    assert chosen(trials, "score")[0] == 0
    assert chosen(trials, "agreement", divergence=lambda arch: 0.5)[0] == 2
    unbounded = WinnerRule("loss")
    assert choose(trials, unbounded, accuracy, []).trial.arch["k"] == 0  # most parameters


def test_agreement_is_computed_of_the_finalists_only():
    asked = []
    trials = [trial(number, 0.8 - number / 1000) for number in range(9)]

    def divergence(arch):
        asked.append(arch["k"])
        return -arch["k"]

    assert chosen(trials, "agreement", divergence=divergence, finalists=4) == (3, 9)
    assert sorted(asked) == [0, 1, 2, 3]


def test_a_loss_that_is_not_finite_never_wins():
    trials = [trial(0, 0.8, math.nan), trial(1, 0.8, 2.0), trial(2, 0.8, math.inf)]
    assert chosen(trials, "loss")[0] == 1
    with pytest.raises(UsageError, match="needs the metric 'loss'"):
        chosen([Trial({"k": 0}, 0.8, metrics={"accuracy": 0.8}, costs={"size": 1.0})], "loss")


def test_the_error_is_that_of_the_best_that_meets_its_bounds():
    trials = [trial(0, 0.9, 0.5), trial(1, 0.8, 0.9), trial(2, 0.76, 0.2), trial(3, 0.7, 0.1)]
    measured = []

    def meets(trial):
        measured.append(trial.arch["k"])
        return trial.arch["k"] not in (0, 2)

    assert chosen(trials, "loss", meets) == (1, 2)
    assert measured == [0, 1, 2]  # the last one is too far away to be worth a measurement
    rule = WinnerRule("loss")
    assert choose(trials, rule, accuracy, ["size"], lambda trial: False) is None


# ---- any candidates

CANDIDATES = st.lists(
    st.tuples(
        st.integers(0, EXAMPLES),
        st.sampled_from([0.1, 0.2, 0.3, 0.5]),
        st.sampled_from([6.0, 9.0, 12.0, 15.0]),
        st.integers(1, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def expected(trials, name, divergence):
    """Choose by the definition of the rule, without sorting."""
    best = max(accuracy(t) for t in trials)
    error = math.sqrt(best * (1 - best) / EXAMPLES)
    band = [t for t in trials if accuracy(t) >= best - error - 1e-9]
    if name == "loss":
        measure = min(t.metrics["loss"] for t in band)
        closest = [t for t in band if t.metrics["loss"] == measure]
    else:
        measure = min(divergence(t.arch) for t in band)
        closest = [t for t in band if divergence(t.arch) == measure]
    largest = max((t.costs["size"], t.costs["params"]) for t in closest)
    return {t.arch["k"] for t in closest if (t.costs["size"], t.costs["params"]) == largest}, len(band)


@settings(deadline=None, max_examples=200)
@given(CANDIDATES, st.sampled_from(["loss", "agreement"]))
def test_any_choice_is_that_of_the_definition(rows, name):
    divergences = {number: row[1] for number, row in enumerate(rows)}
    trials = []
    for number, (hits, loss, size, params, meets) in enumerate(rows):
        trials.append(trial(number, hits / EXAMPLES, loss, size if meets else size + 100, params))
    feasible = [t for t in trials if t.costs["size"] <= BUDGET]

    def divergence(arch):
        return divergences[arch["k"]]

    rule = WinnerRule(name, "share", EXAMPLES, divergence, finalists=len(rows))
    order = ranked(trials, rule, accuracy, ["size"])
    choice = choose(order, rule, accuracy, ["size"], lambda t: t.costs["size"] <= BUDGET)
    if not feasible:
        assert choice is None
        return
    winners, _ = expected(feasible, name, divergence)
    assert choice.trial.arch["k"] in winners
    # Where all costs are known, as in a search, candidates out of bounds are no candidates at all.
    known = choose(ranked(feasible, rule, accuracy, ["size"]), rule, accuracy, ["size"])
    assert (known.trial.arch["k"] in winners, known.within) == (True, expected(feasible, name, divergence)[1])


# ---- in a search

DOMAIN = Choices({f"k{i}": [1, 2, 3, 4] for i in range(3)})


def costs(arch):
    return {"size": float(sum(arch.values())), "params": float(sum(arch.values()))}


def hashed(arch, examples):
    """Coarse scores, so that many are equal, and fine losses; both differ between subsets of the examples."""
    digits = int(arch_id(arch), 16) + 7919 * (examples or 0)
    return {"accuracy": (digits % 5) / 5, "loss": (digits // 5 % 1000) / 1000}


def searched(rule=None, budgets=("60%", "80%"), evaluate=hashed, **options):
    shares = {"size": {text: parse_bounds(text, full=12.0) for text in budgets}}
    sampler = EverySampler(DOMAIN)
    return search(sampler, DOMAIN, evaluate, costs, trials=64, budgets=shares, rule=rule, **options)


@pytest.mark.parametrize("options", [{}, {"examples": 8, "finalists": 6}, {"violation": {"penalise": 1}}])
def test_the_rule_score_is_what_searches_always_did(options):
    result = searched(**options)
    named = searched(WinnerRule("score", "share", EXAMPLES), **options)
    assert result.winners == named.winners
    assert result.trials == named.trials
    if "examples" not in options:
        for name, high in (("best@60%", 7.2), ("best@80%", 9.6)):
            feasible = [t for t in result.trials if t.costs["size"] <= high and t.state == "done"]
            first = min(feasible, key=lambda t: (-t.metrics["accuracy"], t.costs["size"]))
            assert result.winners[name].arch == first.arch


@pytest.mark.parametrize("name", ["loss", "agreement"])
@pytest.mark.parametrize("options", [{}, {"examples": 8, "finalists": 6}, {"violation": {"penalise": 1}}])
def test_winners_of_a_search_follow_the_rule(name, options):
    def divergence(arch):
        return int(arch_id(arch), 16) % 101

    rule = WinnerRule(name, "share", EXAMPLES, divergence, finalists=64)
    result = searched(rule, **options)
    for winner, high in (("best@60%", 7.2), ("best@80%", 9.6)):
        # The finalists of both budgets are stored together; those of this budget are the best that its subset saw.
        pool = [t for t in result.trials if t.costs["size"] <= high and t.state == "done"]
        if "examples" in options:
            partial = ranked([t for t in pool if t.examples == 8], rule, accuracy, ["size"])
            finalists = {arch_id(t.arch) for t in partial[:6]}
            pool = [t for t in pool if t.examples is None and arch_id(t.arch) in finalists]
        numbered = [replace(t, arch={"k": arch_id(t.arch)}) for t in pool]
        by_id = {arch_id(t.arch): divergence(t.arch) for t in pool}
        winners, within = expected(numbered, name, lambda arch, by_id=by_id: by_id[arch["k"]])
        choice = result.choices[winner]
        assert arch_id(choice.trial.arch) in winners
        assert (choice.within, choice.rule) == (within, name)
        assert choice.trial.costs["size"] <= high


def test_a_search_that_goes_on_ends_with_the_same_choice():
    rule = WinnerRule("loss", "share", EXAMPLES)
    stored = []
    whole = searched(rule, examples=8, finalists=6, on_trial=lambda number, trial, seconds: stored.append(trial))
    for done in (10, 60, len(stored) - 3):
        again = searched(rule, examples=8, finalists=6, done=stored[:done])
        assert (again.winners, again.choices) == (whole.winners, whole.choices)


def test_known_trials_and_several_objectives():
    known = [Trial(arch, 0.0, metrics={"accuracy": 0.8, "loss": -1.0}) for arch in ({"k0": 1, "k1": 1, "k2": 1},)]
    rule = WinnerRule("loss", "share", EXAMPLES)
    result = searched(rule, known=known, objectives=["accuracy", "-size"])
    assert result.winners["best@60%"].arch == known[0].arch
    assert result.front == searched(known=known, objectives=["accuracy", "-size"]).front


def test_noisy_costs_are_confirmed_before_a_winner_is_chosen():
    def remeasured(arch):
        return {"size": sum(arch.values()) + (arch["k0"] == 2) * 100.0}

    result = searched(WinnerRule("loss", "share", 16), remeasure=remeasured, finalists=5)
    for winner in result.winners.values():
        assert winner.arch["k0"] != 2


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["score", "loss"]), st.floats(4, 12), st.integers(1, 200), st.one_of(st.none(), st.just(8)))
def test_a_winner_always_meets_its_budget(name, high, size, examples):
    budgets = {"size": {"b": Bounds(high=high)}}
    sampler = EverySampler(DOMAIN)
    rule = WinnerRule(name, "share", size)
    result = search(
        sampler, DOMAIN, hashed, costs, trials=40, budgets=budgets, rule=rule, examples=examples, finalists=4
    )
    assert result.winners["best@b"].costs["size"] <= high


def test_a_task_without_a_loss_is_refused():
    assert loss_fault({"accuracy": MetricFormat(), "loss": MetricFormat(higher_is_better=False)}) == ""
    for form in (MetricFormat(), MetricFormat(higher_is_better=False, dev_only=True)):
        assert "chooses by the metric 'loss'" in loss_fault({"accuracy": MetricFormat(), "loss": form})
