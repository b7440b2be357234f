"""Optuna both ways."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")

from optuna.distributions import FloatDistribution, IntDistribution  # noqa: E402

from nasframe.errors import RunError, UsageError  # noqa: E402
from nasframe.recipe.resolve import check_recipe  # noqa: E402
from nasframe.records import Trial, arch_id  # noqa: E402
from nasframe.search.constraints import Bounds  # noqa: E402
from nasframe.search.domain import Choices  # noqa: E402
from nasframe.search.loop import search  # noqa: E402
from nasframe.testing.samplers import SamplerContract, answered, flat_domain, layered_domain, size_of  # noqa: E402
from nasframe_optuna.own import NasframeSampler  # noqa: E402
from nasframe_optuna.sampler import OptunaSampler  # noqa: E402


class Contract(SamplerContract):
    trials = 60  # Optuna goes through all trials at each ask, so that its time grows
    milliseconds = 1000.0
    rounds = 5


class TestRandomOfOptuna(Contract):
    def make(self, domain, seed):
        return OptunaSampler(domain, seed, sampler="RandomSampler")


@pytest.mark.slow
class TestTPE(Contract):
    def make(self, domain, seed):
        return OptunaSampler(domain, seed, multivariate=True, group=True, n_startup_trials=4, tries=2)

    @pytest.mark.slow
    def test_a_trial_costs_little_time(self):
        super().test_a_trial_costs_little_time()


@pytest.mark.slow
class TestUnivariateTPE(Contract):
    def make(self, domain, seed):
        return OptunaSampler(domain, seed, repeats="forget", knobs="ordinal")


@pytest.mark.slow
class TestNSGA2(Contract):
    def make(self, domain, seed):
        return OptunaSampler(domain, seed, sampler="NSGAIISampler", population_size=4, knobs="ordinal", tries=2)


def costs(arch):
    return {"size": size_of(arch)}


def accuracy(arch, examples=None):
    return {"accuracy": math.sin(size_of(arch))}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TPESampler", "NSGAIISampler", "QMCSampler", "RandomSampler"])
@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "-size")], ids=["one", "two"])
def test_a_capped_search_evaluates_nothing_twice_and_nothing_infeasible(name, objectives):
    domain, cap = layered_domain(), {"size": Bounds(high=150.0)}
    sampler = OptunaSampler(domain, 1, sampler=name)
    found = search(sampler, domain, accuracy, costs, objectives=objectives, trials=25, bounds=cap)
    done = [trial for trial in found.trials if trial.state == "done"]
    assert len(done) == 25 == len({arch_id(trial.arch) for trial in done})
    assert all(trial.costs["size"] <= 150 for trial in done)
    assert sampler.goals == len(objectives)
    values = [t.values for t in sampler.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])]
    assert {tuple(trial.objectives or (trial.score,)) for trial in done} <= set(map(tuple, values))


def test_tpe_finds_the_best_of_an_easy_domain():
    domain = Choices({f"k{i}": [0, 1, 2, 3] for i in range(4)})
    best = []
    for name in ("TPESampler", "RandomSampler"):
        scores = []
        for seed in range(5):
            sampler = OptunaSampler(domain, seed, sampler=name)
            found = search(sampler, domain, lambda arch, _: {"accuracy": sum(arch.values())}, costs, trials=40)
            scores.append(found.winners["best"].score)
        best.append(np.mean(scores))
    assert best[0] == 12 > best[1]


def test_constraints_reach_samplers_that_know_them():
    domain = flat_domain()
    within = domain.restrict(keep=lambda arch: arch["k0"] == 2)
    aware = OptunaSampler(domain, 0, n_startup_trials=3, tries=50)
    for _ in range(12):
        aware.tell(answered(aware.ask(1, within=within)))
    said = [trial.constraints for trial in aware.study.get_trials()]
    assert {"within": 1.0} in said
    assert {"within": 0.0} in said
    unaware = OptunaSampler(domain, 0, sampler="RandomSampler")
    unaware.tell(answered(unaware.ask(3, within=within)))
    assert not any(trial.constraints for trial in unaware.study.get_trials())


def test_conditional_knobs_are_suggested_only_where_they_have_an_effect():
    sampler = OptunaSampler(layered_domain(), 0, sampler="RandomSampler")
    archs = sampler.ask(20)
    sampler.tell(answered(archs))
    assert len({len(arch["layers"]) for arch in archs}) > 1
    for arch, trial in zip(archs, sampler.study.get_trials(), strict=True):
        assert trial.params.keys() == arch.keys()


def test_a_single_allowed_value_is_never_asked_for_in_vain():
    domain = flat_domain()
    sampler = OptunaSampler(domain, 0)
    archs = sampler.ask(5, within=domain.restrict({"k0": [2], "k3": [1]}))
    assert {(arch["k0"], arch["k3"]) for arch in archs} == {(2, 1)}
    assert len(sampler.study.trials) == 5


def test_loading_a_state_of_another_history_is_noticed():
    sampler = OptunaSampler(flat_domain(), 0)
    sampler.tell(answered(sampler.ask(3)))
    state = json.loads(json.dumps(sampler.state_dict()))
    state["log"][1][2]["k1"] = (state["log"][1][2]["k1"] + 1) % 3
    with pytest.raises(RunError, match="suggests"):
        OptunaSampler(flat_domain(), 0).load_state_dict(state)


def test_a_grid_is_searched_within_a_part_of_the_domain():
    domain = Choices({"a": [0, 1, 2], "b": [0, 1, 2], "c": [7]})
    sampler = OptunaSampler(domain, 0, sampler="GridSampler")
    within = domain.restrict({"a": [1]})
    archs = []
    for _ in range(3):
        answers = answered(sampler.ask(1, within=within))
        sampler.tell(answers)
        archs += [trial.arch for trial in answers]
    assert sorted(arch["b"] for arch in archs) == [0, 1, 2]
    assert {arch["a"] for arch in archs} == {1}


def test_exhausted_samplers_end():
    domain = Choices({"a": [0, 1], "b": [0, 1, 2]})
    for name in ("GridSampler", "BruteForceSampler"):
        sampler = OptunaSampler(domain, 0, sampler=name, tries=0)
        found = []
        while asked := sampler.ask(1):
            found += asked
            sampler.tell(answered(asked))
            assert len(found) < 20
        assert len({arch_id(arch) for arch in found}) == 6


def test_with_no_tries_optuna_is_left_alone():
    domain = Choices({"a": [0, 1], "b": [0, 1]})
    sampler = OptunaSampler(domain, 0, sampler="RandomSampler", tries=0)
    archs = sampler.ask(30, within=domain.restrict(keep=lambda arch: arch["a"] == 0))
    assert len(archs) == 30 == len(sampler.study.trials)
    assert any(arch["a"] == 1 for arch in archs)


def test_optuna_is_quiet(capfd, recwarn):
    warnings.simplefilter("always")
    sampler = OptunaSampler(layered_domain(), 0, multivariate=True, n_startup_trials=2)
    for _ in range(6):
        sampler.tell(answered(sampler.ask(1), objectives=2))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sampler": "TPESampelr"}, "Did you mean 'TPESampler'?"),
        ({"multivariat": True}, "Did you mean 'multivariate'?"),
        ({"n_startup_trials": "ten"}, "Expected int"),
        ({"seed": 3}, "nasframe gives it"),
        ({"sampler": "NSGAIISampler", "population_size": 1}, "population_size"),
    ],
)
def test_wrong_options_are_told_before_any_work(options, text):
    if "seed" not in options:
        with pytest.raises(UsageError, match="sampler 'optuna'") as caught:
            OptunaSampler(flat_domain(), 0, **options)
        assert text in str(caught.value)
    if "population_size" not in options:  # Optuna alone knows, when it is made
        _, problems = check_recipe({"stages": [{"search": {"sampler": {"use": "optuna", **options}}}]})
        assert any(text in problem.text for problem in problems), problems


def test_without_optuna_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'nasframe\[optuna\]'"):
        OptunaSampler(flat_domain(), 0)


# --- nasframe's samplers in a study ----------------------------------------------------------------------------------


def study_of(sampler, **options):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=sampler, **options)


def suggested(trial):
    return {
        "op": trial.suggest_categorical("op", ["conv", None, True, 2.5]),
        "depth": trial.suggest_int("depth", 2, 12, step=2),
        "rate": trial.suggest_float("rate", 0.1, 0.5, step=0.1),
    }


def value(params):
    return params["depth"] + 10 * params["rate"] + (params["op"] is not None)


def test_evolution_in_a_study_of_its_own():
    study = study_of(NasframeSampler("evolution", seed=1))
    study.optimize(lambda trial: value(suggested(trial)), n_trials=60)
    assert study.best_params == {"op": None, "depth": 2, "rate": 0.1}
    assert len({json.dumps(trial.params) for trial in study.trials}) == 60, "a repeat while there were new ones"
    again = study_of(NasframeSampler("evolution", seed=1))
    again.optimize(lambda trial: value(suggested(trial)), n_trials=60)
    assert [t.params for t in again.trials] == [t.params for t in study.trials]


def test_two_objectives_directions_and_continuous_floats():
    knobs = {"width": [1, 2, 3, 4], "depth": IntDistribution(1, 8)}
    study = study_of(NasframeSampler("evolution", knobs, seed=0), directions=["maximize", "minimize"])

    def objective(trial):
        width, depth = trial.suggest_categorical("width", [1, 2, 3, 4]), trial.suggest_int("depth", 1, 8)
        trial.suggest_float("free", 0, 1)
        return width * depth, width + depth

    study.optimize(objective, n_trials=32)
    pairs = {(w * d, w + d) for w in range(1, 5) for d in range(1, 9)}
    true = {p for p in pairs if not any(q[0] >= p[0] and q[1] <= p[1] and q != p for q in pairs)}
    assert {tuple(trial.values) for trial in study.best_trials} == true
    assert len({trial.params["free"] for trial in study.trials}) == 32


def test_failed_pruned_and_violating_trials_are_told_as_such():
    heard = []

    class Listening:
        def __init__(self, domain, seed=0):
            self.domain = domain

        def ask(self, n=1, within=None):
            return [self.domain.decode([len(heard) % 4])]

        def tell(self, trials):
            heard.extend(trials)

    sampler = NasframeSampler("random", {"k": [0, 1, 2, 3]})
    sampler.use = None
    study = study_of(sampler)
    make = sampler.begin

    def begin(values):
        sampler.use = "random"
        proposer = make(values)
        proposer.sampler = Listening(proposer.domain)
        return proposer

    sampler.begin = begin

    def objective(trial):
        k = trial.suggest_categorical("k", [0, 1, 2, 3])
        if k == 1:
            raise optuna.TrialPruned
        if k == 2:
            raise RuntimeError("diverged")
        trial.set_constraint("memory", 0.5 if k == 3 else -1.0)
        return float(k)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(objective, n_trials=5, catch=RuntimeError)
    assert [trial.state for trial in heard] == ["done", "failed", "failed", "done"]
    assert [trial.violation for trial in heard] == [0.0, 0.0, 0.0, 0.5]
    assert [trial.score for trial in heard] == [-0.0, None, None, -3.0]
    assert all(isinstance(trial, Trial) for trial in heard)


def test_conditional_parameters_and_conditions_known_beforehand():
    knobs = {"layers": [1, 2], "first": [8, 16], "second": [8, 16]}
    asked = []

    def keep(params):
        asked.append(dict(params))
        return sum(value for name, value in params.items() if name != "layers") <= 24

    sampler = NasframeSampler("evolution", knobs, active={"second": ("layers", [2])}, keep=keep, seed=3)

    def objective(trial):
        total = trial.suggest_categorical("first", [8, 16])
        if trial.suggest_categorical("layers", [1, 2]) == 2:
            total += trial.suggest_categorical("second", [8, 16])
        return total

    study = study_of(sampler, direction="maximize")
    study.optimize(objective, n_trials=12)
    assert study.best_value == 24
    assert all(trial.value <= 24 for trial in study.trials)
    assert any("second" not in params for params in asked)


def test_a_stored_study_goes_on_with_what_it_knows():
    study = study_of(NasframeSampler("evolution", {"k": list(range(30))}, seed=1))
    study.optimize(lambda trial: trial.suggest_categorical("k", list(range(30))), n_trials=15)
    study.sampler = NasframeSampler("evolution", {"k": list(range(30))}, seed=2)
    study.optimize(lambda trial: trial.suggest_categorical("k", list(range(30))), n_trials=15)
    assert len({trial.params["k"] for trial in study.trials}) == 30


KNOBS = {"a": [1, 2, 3, 4], "b": [0, 1, 2], "c": [5, 9]}


def total(trial):
    return sum(trial.suggest_categorical(name, values) for name, values in KNOBS.items())


def params_of(study):
    return [json.dumps(trial.params, sort_keys=True) for trial in study.trials]


@pytest.mark.parametrize(
    "use",
    ["random", {"use": "random", "replace": False}, "grid", "every", {"use": "sandwich", "inner": "random"},
     "evolution", "frontier", "sng"],
    ids=str,
)  # fmt: skip
def test_a_stored_study_goes_on_after_a_restart_and_repeats_nothing(use):
    storage = optuna.storages.InMemoryStorage()
    for _ in range(3):
        study = study_of(
            NasframeSampler(use, KNOBS, seed=3), direction="maximize", storage=storage, study_name="s",
            load_if_exists=True,
        )  # fmt: skip
        study.optimize(total, n_trials=8)
    assert len(set(params_of(study))) == 24


@pytest.mark.slow
def test_a_study_in_a_database_goes_on_too(tmp_path):
    for _ in range(2):
        study = study_of(
            NasframeSampler("grid", KNOBS), storage=f"sqlite:///{tmp_path}/s.db", study_name="s", load_if_exists=True
        )
        study.optimize(total, n_trials=12)
    assert len(set(params_of(study))) == 24


@pytest.mark.parametrize("use", ["random", "grid", "every", {"use": "sandwich", "inner": "random"}], ids=str)
def test_a_restart_changes_nothing_for_samplers_that_do_not_learn(use):
    whole = study_of(NasframeSampler(use, KNOBS, seed=3))
    whole.optimize(total, n_trials=20)
    cut = study_of(NasframeSampler(use, KNOBS, seed=3))
    for _ in range(4):
        cut.optimize(total, n_trials=5)
        cut.sampler = NasframeSampler(use, KNOBS, seed=3)
    assert params_of(cut) == params_of(whole)


@pytest.mark.parametrize("use", ["random", "grid", "every", "evolution"])
def test_threads_share_one_sampler_and_repeat_nothing(use):
    study = study_of(NasframeSampler(use, KNOBS, seed=3), direction="maximize")
    study.optimize(total, n_trials=24, n_jobs=4)
    assert len(set(params_of(study))) == 24


def test_a_trial_of_the_users_own_is_told_as_what_it_was_and_costs_no_proposal():
    sampler = NasframeSampler("grid", KNOBS)
    study = study_of(sampler, direction="maximize")
    study.enqueue_trial({"a": 4, "b": 2, "c": 9})
    study.enqueue_trial({"a": 3})
    study.optimize(total, n_trials=24)
    assert len(set(params_of(study))) == 24
    study.optimize(total, n_trials=1)
    known = sampler.proposer.known
    scores = {trial.score for trial in known.values() if trial is not None}
    assert scores == {float(sum(arch)) for arch in itertools.product(*KNOBS.values())}
    for trial in known.values():
        assert trial is None or trial.score == sum(sampler.proposer.params(trial.arch).values())


def test_when_all_was_proposed_proposals_come_again():
    study = study_of(NasframeSampler("grid", {"k": [1, 2]}))
    study.optimize(lambda trial: trial.suggest_categorical("k", [1, 2]), n_trials=5)
    assert len(study.trials) == 5


class Counting:
    """A sampler that counts how often another is asked."""

    def __init__(self, inner):
        self.inner, self.asks, self.tell = inner, 0, inner.tell

    def ask(self, n=1, within=None):
        self.asks += 1
        return self.inner.ask(n, within=within)


@pytest.mark.parametrize("use", ["random", "evolution", "grid", {"use": "random", "replace": False}], ids=str)
def test_a_restricted_domain_is_known_to_be_used_up(use):
    """Three of 24 may be proposed: what the study has of them is counted, not the whole domain."""
    sampler = NasframeSampler(use, KNOBS, keep=lambda params: params["a"] == 4 and params["c"] == 9, seed=3)
    study = study_of(sampler)
    study.enqueue_trial({"a": 1, "b": 0, "c": 5})  # one that the restriction does not leave
    study.optimize(total, n_trials=4)
    assert len(set(params_of(study))) == 4
    counting = sampler.proposer.sampler = Counting(sampler.proposer.sampler)
    study.optimize(total, n_trials=10)
    assert all(trial.params["a"] == 4 and trial.params["c"] == 9 for trial in study.trials[1:])
    assert counting.asks == 10  # one a trial


def test_while_something_is_left_of_a_restricted_domain_it_is_found():
    """A sampler that has no more, and one of 7,600 that is new: random draws would hardly find it."""
    knobs = {f"k{i}": list(range(20)) for i in range(3)}
    sampler = NasframeSampler("grid", knobs, keep=lambda params: params["k0"] != 5, seed=3)
    proposer = sampler.begin({name: list(values) for name, values in knobs.items()})
    left = {"k0": 0, "k1": 19, "k2": 18}
    proposer.known = {arch_id(arch): None for arch in proposer.within.enumerate() if arch != left}
    proposer.sampler = Counting(proposer.sampler)
    proposer.sampler.ask = lambda n=1, within=None: []
    assert proposer.proposal() == left
    proposer.known[arch_id(left)] = None
    assert proposer.within.contains(proposer.proposal())


def test_a_sampler_that_only_repeats_itself_does_not_keep_the_study_from_new_ones():
    sampler = NasframeSampler("grid", KNOBS, seed=3)
    proposer = sampler.begin({name: list(values) for name, values in KNOBS.items()})
    proposer.sampler.ask = lambda n=1, within=None: [{"a": 0, "b": 0, "c": 0}]
    proposer.sampler.tell = lambda trials: None
    study = study_of(sampler)
    study.optimize(total, n_trials=6)
    assert len(set(params_of(study))) == 6


def test_costs_are_given_in_parameters():
    seen = []
    sampler = NasframeSampler("random", {"k": ["a", "bb"]}, costs=lambda rows: seen.extend(rows) or [[0.0]])
    assert registered_costs(sampler)([{"k": 1}]) == [[0.0]]
    assert seen == [{"k": "bb"}]


def registered_costs(sampler):
    """Return what the nasframe sampler would be given as ``costs``."""
    given = {}

    class Taking:
        def __init__(self, domain, seed=0, costs=None):
            given["costs"] = costs

        def ask(self, n=1, within=None):
            return []

        def tell(self, trials):
            pass

    from nasframe import hookimpl, registry

    class Plugin:
        @hookimpl
        def register_samplers(self, register):
            register("taking costs", Taking)

    plugin = Plugin()
    registry.plugin_manager().register(plugin)
    try:
        sampler.use = "taking costs"
        sampler.begin({"k": ["a", "bb"]})
    finally:
        registry.plugin_manager().unregister(plugin)
    return given["costs"]


def test_what_cannot_be_a_choice_is_refused():
    with pytest.raises(UsageError, match="'x' has no list of values"):
        NasframeSampler("random", {"x": FloatDistribution(0, 1)})
    with pytest.raises(UsageError, match="evolution"):
        NasframeSampler("evoluton")
