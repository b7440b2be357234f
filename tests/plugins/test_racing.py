"""Races over examples: what is dropped could not have won, and the rest is measured to the end."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import t as student

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import Candidate, Rival, SearchJob
from nasframe.records import Evaluation, Trial, arch_id
from nasframe.search.constraints import parse_bounds
from nasframe.search.domain import Choices
from nasframe.search.loop import search
from nasframe.search.winner import WinnerRule
from nasframe_basics.racing import MOST_KNOWN, Racing, expected_gain

DOMAIN = Choices({"k": list(range(24))})
BUDGETS = {"c": {"60%": parse_bounds("<= 14"), "90%": parse_bounds("<= 21")}}


def mcc(truth, predicted):
    """Return the Matthews correlation, quicker than scikit-learn's."""
    table = np.bincount(2 * truth + predicted, minlength=4).reshape(2, 2).astype(float)
    scale = np.sqrt(np.prod(table.sum(0)) * np.prod(table.sum(1)))
    return float(np.linalg.det(table) / scale) if scale else 0.0


class Answers:
    """A task whose 'networks' are rows of predictions."""

    labels = ("no", "yes")

    def __init__(self, seed, size, primary="accuracy", spread=0.25):
        rng = np.random.default_rng(seed)
        self.primary = primary
        self.sizes = {"select": size}
        self.truth = rng.integers(0, 2, size)
        hard = rng.random(size)  # some examples are hard for all
        skill = 0.55 + spread * rng.random(24) + 0.01 * np.arange(24)
        noise = rng.normal(0, 0.15, (24, size))
        right = hard + noise < skill[:, None]
        self.predictions = np.where(right, self.truth, 1 - self.truth)
        self.read = 0
        self.asked = []

    def order(self, split):
        assert split == "select"
        return list(range(self.sizes["select"]))

    def evaluate_at(self, forward, split, ids):
        ids = list(ids)
        self.read += len(ids)
        self.asked.append(ids)
        predicted = forward()[ids]
        truth = self.truth[ids]
        columns = {
            "id": ids,
            "label": truth.tolist(),
            "prediction": predicted.tolist(),
            "loss": (predicted != truth).astype(float).tolist(),
        }
        return Evaluation(self.metrics_of(columns), columns, len(ids), len(ids))

    def metrics_of(self, columns):
        truth, predicted = np.array(columns["label"]), np.array(columns["prediction"])
        return {
            "accuracy": float((truth == predicted).mean()),
            "mcc": mcc(truth, predicted),
            "loss": float(np.mean(columns["loss"])),
        }


class Runs:
    """What a stage's scorer does: candidates with rivals, for a race or for measuring all."""

    def __init__(self, task, evaluator, objective):
        self.task, self.evaluator = task, evaluator
        self.counted = []
        if evaluator is not None:
            job = SearchJob(
                net=None,
                task=task,
                space=None,
                objectives=[objective],
                seed=0,
                stage="search",
                candidate=self.candidate,
                count=lambda candidate, result: self.counted.append(result.examples),
            )
            evaluator.start(job)

    def candidate(self, arch, rivals=(), measured=()):
        return Candidate(arch, lambda: self.task.predictions[arch["k"]], lambda: None, rivals=rivals, measured=measured)

    def score(self, arch, examples, rivals, measured=()):
        candidate = self.candidate(arch, rivals, measured)
        if self.evaluator is not None:
            return self.evaluator.evaluate(candidate, examples)
        return self.task.evaluate_at(candidate.forward, "select", range(examples or self.task.sizes["select"]))


def found(task, evaluator, objective, seed=0, rule=None, done=(), **options):
    runs = Runs(task, evaluator, objective)
    result = search(
        registry.make("sampler", {"use": "random", "replace": False}, {"domain": DOMAIN, "seed": seed}),
        DOMAIN, runs, lambda arch: {"c": float(arch["k"])}, objectives=[objective], trials=24, budgets=BUDGETS,
        rule=rule, done=done, **options,
    )  # fmt: skip
    return result, runs


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**20),
    st.integers(40, 120),
    st.sampled_from(["accuracy", "mcc", "-loss"]),
    st.sampled_from(["score", "loss"]),
)
def test_an_exact_race_finds_what_measuring_all_finds(seed, size, objective, rule_name):
    task = Answers(seed, size)
    rule = WinnerRule(rule_name, "share", size)
    whole, _ = found(task, None, objective, seed, rule)
    spent = task.read
    task.read = 0
    raced, _ = found(task, Racing(bound="exact", start=8), objective, seed, rule)
    assert {n: (t.arch, t.score) for n, t in raced.winners.items()} == {
        n: (t.arch, t.score) for n, t in whole.winners.items()
    }
    assert task.read <= spent
    assert raced.evaluated == whole.evaluated


@pytest.mark.parametrize("growth", [1.01, 1.5, 2.0, 3.7])
def test_each_part_has_some_examples_and_the_last_ends_with_all(growth):
    racing = Racing(start=8, growth=growth)
    for total in range(1, 300):
        rungs = list(racing._rungs(total, races=True))
        assert rungs == sorted(set(rungs)), total
        assert rungs[-1] == total
        assert list(racing._rungs(total, races=False)) == [total]


def test_a_paired_race_saves_most_of_the_examples_and_finds_the_best():
    shares, gaps = [], []
    for seed in range(4):
        task = Answers(seed, 500)
        whole, _ = found(task, None, "accuracy", seed)
        spent, task.read = task.read, 0
        raced, _ = found(task, Racing(), "accuracy", seed)
        shares.append(task.read / spent)
        gaps += [whole.winners[name].score - raced.winners[name].score for name in whole.winners]
        assert raced.broken_off > 0
        for trial in raced.trials:
            if trial.examples is not None:
                assert 0 < trial.examples < 500
                assert trial.score <= max(t.score for t in raced.winners.values())
        winners = {arch_id(trial.arch) for trial in raced.winners.values()}
        assert not winners & {arch_id(t.arch) for t in raced.trials if t.examples is not None}
        assert all(trial.examples is None for trial in raced.front)
    assert np.mean(shares) < 0.6  # 6 of 24 are measured to the end before any is dropped
    assert max(gaps) < 0.005


def measured(runs, ks):
    """Return the trials of architectures that were measured to the end."""
    return [Trial({"k": k}, 0.0, metrics=runs.score({"k": k}, None, ()).metrics) for k in ks]


def by_skill(task):
    """Return the numbers of the networks, the best first, and their accuracies."""
    scores = (task.predictions == task.truth).mean(axis=1)
    return [int(k) for k in np.argsort(-scores, kind="stable")], scores


def test_the_examples_on_which_networks_disagree_are_read_first():
    task = Answers(3, 400)
    order, _ = by_skill(task)
    runs = Runs(task, Racing(start=50, growth=2), "accuracy")
    trials = measured(runs, order[:6])
    right = np.array([task.predictions[trial.arch["k"]] == task.truth for trial in trials])
    share = right.mean(axis=0)
    task.asked.clear()
    runs.score({"k": order[-1]}, None, [Rival(trials[0])], trials)
    first = task.asked[0]
    assert len(first) == 50
    disagreement = share * (1 - share)
    assert disagreement[first].min() >= np.sort(disagreement)[-50]
    assert disagreement[first].tolist() == sorted(disagreement[first], reverse=True)


def test_a_dropped_candidate_is_estimated_from_its_answers_and_those_of_others():
    task = Answers(3, 400)
    order, scores = by_skill(task)
    runs = Runs(task, Racing(start=50, growth=2), "accuracy")
    trials = measured(runs, order[:6])
    best, worst = trials[0], {"k": order[-1]}
    result = runs.score(worst, None, [Rival(best)], trials)
    assert result.broken_off
    read = [place for part in task.asked[-int(np.log2(result.examples / 50)) - 1 :] for place in part]
    assert len(read) == result.examples
    ours = (task.predictions[order[-1]] == task.truth)[read].sum()
    # The unread answers are those of the six, in turns: an average over turns lies within their extremes.
    unread = np.setdiff1d(np.arange(400), read)
    theirs = (task.predictions[order[:6]] == task.truth)[:, unread]
    assert theirs.min(axis=0).sum() <= result.metrics["accuracy"] * 400 - ours <= theirs.max(axis=0).sum()
    assert result.metrics["accuracy"] < scores[order[0]]
    # The rival is behind under another budget: the candidate may win there, and is measured to the end.
    weak = measured(runs, order[-1:])[0]
    middle = {"k": order[12]}
    assert not runs.score(middle, None, [Rival(best), Rival(weak)], trials).broken_off
    # Room for a rule that chooses among all within one standard error keeps it in the race, too.
    assert not runs.score(worst, None, [Rival(best, tolerance=1.0)], trials).broken_off
    assert runs.counted == []


def test_numbers_without_losses_are_read_in_the_order_of_the_task():
    class Numbers(Answers):
        labels = None

        def evaluate_at(self, forward, split, ids):
            self.asked.append(list(ids))
            columns = {"id": list(ids), "value": forward()[list(ids)].tolist()}
            return Evaluation(self.metrics_of(columns), columns, len(ids), len(ids))

        def metrics_of(self, columns):
            values, ids = np.array(columns["value"]), np.array(columns["id"])
            return {"agreement": float((values == self.truth[ids]).mean())}

    task = Numbers(3, 400)
    order, _ = by_skill(task)
    runs = Runs(task, Racing(start=50, growth=2), "agreement")
    trials = measured(runs, order[:6])
    task.asked.clear()
    result = runs.score({"k": order[-1]}, None, [Rival(trials[0])], trials)
    assert task.asked[0] == list(range(50))
    assert result.broken_off


def test_none_is_dropped_before_enough_are_known():
    task = Answers(3, 400)
    order, _ = by_skill(task)
    runs = Runs(task, Racing(start=50, known=4), "accuracy")
    trials = measured(runs, order[:4])
    worst = {"k": order[-1]}
    assert not runs.score(worst, None, [Rival(trials[0])], trials[:3]).broken_off
    assert runs.score(worst, None, [Rival(trials[0])], trials).broken_off


def test_what_is_dropped_is_expected_to_gain_too_little_given_how_wrong_guesses_are():
    """Guesses and errors computed once more, network by network, and the integral of the expected improvement."""
    size, count, gain = 300, 60, 0.004
    task = Answers(1, size)
    order, scores = by_skill(task)
    runs = Runs(task, Racing(start=count, growth=100, gain=gain), "accuracy")
    known = order[2:8]
    trials = measured(runs, known)
    right = (task.predictions == task.truth).astype(float)

    def guess(k, others):
        share = right[others].mean(axis=0)
        places = sorted(range(size), key=lambda place: (-round(share[place] * (1 - share[place]), 9), place))
        total = right[k][places[:count]].sum()
        for turn, place in enumerate(places[count:]):
            total += right[others[turn % len(others)]][place]
        return total / size

    errors = [scores[k] - guess(k, [other for other in known if other != k]) for k in known]
    deviation = np.sqrt(np.mean(np.square(errors)))
    outcomes = set()
    for k in range(24):
        if k in known:
            continue
        mean = guess(k, known) - scores[known[0]]
        density = student(len(known), loc=mean, scale=deviation).pdf
        expected, _ = quad(lambda x, density=density: x * density(x), 0, np.inf, limit=200)
        dropped = runs.score({"k": k}, None, [Rival(trials[0])], trials).broken_off
        assert dropped == (expected < gain)
        outcomes.add(dropped)
    assert outcomes == {True, False}


@settings(deadline=None, max_examples=30)
@given(st.floats(-3, 3), st.floats(0.01, 3), st.integers(3, 30))
def test_the_expected_gain_is_its_integral(mean, deviation, freedom):
    density = student(freedom, loc=mean, scale=deviation).pdf
    integral, _ = quad(lambda x: x * density(x), 0, np.inf, limit=500)
    assert expected_gain(mean, deviation, freedom) == pytest.approx(integral, abs=1e-6, rel=1e-4)


def test_the_answers_of_few_networks_are_kept():
    task = Answers(2, 200)
    order, _ = by_skill(task)
    evaluator = Racing()
    runs = Runs(task, evaluator, "accuracy")
    trials = measured(runs, order)
    runs.score({"k": order[-1]}, None, [Rival(trials[0])], trials)
    assert len(evaluator._answers) == MOST_KNOWN


def test_a_search_that_goes_on_ends_as_if_it_had_not_stopped():
    task = Answers(5, 300)
    whole, _ = found(task, Racing(), "accuracy", 5)
    for cut in (3, 9, 20):
        again, runs = found(task, Racing(), "accuracy", 5, done=whole.trials[:cut])
        assert again.trials == whole.trials
        assert again.winners == whole.winners
        if again.broken_off and cut < 20:
            assert runs.counted, "rivals of before the stop answer once more, and that is counted"


def test_finalists_are_as_many_as_without_a_race():
    """With a subset first, an architecture is dropped only if it can no longer be among those that are scored again."""
    task = Answers(7, 400)
    raced, _ = found(task, Racing(), "accuracy", 7, examples=200, finalists=3)
    finals = [trial for trial in raced.trials if trial.examples is None]
    assert len({arch_id(t.arch) for t in finals}) >= 3
    for name in raced.winners:
        assert raced.winners[name].examples is None


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({"objectives": ["accuracy", "-macs"]}, "a search for accuracy, -macs looks for more than that"),
        ({"objectives": ["-macs"], "estimators": {"macs": None}}, "'macs' is a cost. Expected a metric"),
        ({"task": SimpleNamespace(labels=None)}, "needs a task that is measured part by part"),
    ],
)
def test_what_cannot_be_raced_is_refused(job, text):
    fields = {"task": Answers(0, 10), "objectives": ["accuracy"], "estimators": {}, **job}
    with pytest.raises(UsageError, match=text):
        Racing().validate(SearchJob(net=None, space=None, seed=0, stage="search", **fields))


def test_an_exact_race_needs_classes():
    task = Answers(0, 10)
    task.labels = None
    job = SearchJob(net=None, space=None, seed=0, stage="search", task=task, objectives=["accuracy"])
    with pytest.raises(UsageError, match="'bound: exact' needs a task with classes"):
        Racing(bound="exact").validate(job)
    Racing().validate(job)
