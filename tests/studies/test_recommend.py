"""Which models a comparison recommends: the arm that is best on select, and of its runs the one that is best there."""

from __future__ import annotations

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nasframe.records import MetricFormat
from nasframe.report.sections import Section
from nasframe_studies.choice import Arm, Network, choose, leads
from nasframe_studies.commands.compare import say_export
from nasframe_studies.compare import analyse
from nasframe_studies.report import shipped_sections
from nasframe_studies.study import collect, settings
from study_directory import make_study


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_study(
        tmp_path_factory.mktemp("study") / "s", arms=("random", "sng"), tasks=("sst2",), seeds=3, trials=4
    )


@pytest.fixture
def frame(home):
    return collect(home)


def shipped(home, frame):
    return {entry.budget: entry for entry in analyse(home, frame, settings(home)).shipped}


def with_select(frame, **scores):
    """Return the table with scores on select, by arm; NaN for an arm that has none."""
    return frame.assign(select_score=frame["arm"].map(scores).astype(float))


def test_the_best_arm_is_recommended_with_its_loss(home, frame):
    chosen = shipped(home, with_select(frame, random=0.7, sng=0.8))
    assert chosen.keys() == {"75%", "50%", "30%"}
    rows = frame[(frame["budget"] == "50%") & (frame["role"] == "winner")]
    means = rows.groupby("arm")["score"].mean()
    half = chosen["50%"]
    assert half.arm == means.idxmax() == "sng"
    teachers = frame[(frame["role"] == "teacher") & (frame["arm"] == "sng")]["score"].mean()
    points = abs(100 * (means["sng"] - teachers))
    side = "below" if means["sng"] < teachers else "above"
    assert f"{points:.1f} points {side} the teacher (95 % interval over seeds" in half.text
    assert half.text.startswith("For 50%, ship best@50% of sng, seed ")
    assert (half.chosen_on, half.runner_up) == ("select", "random")


def test_the_arm_is_chosen_on_select_and_never_on_dev(home, frame):
    for better, worse in (("random", "sng"), ("sng", "random")):
        changed = with_select(frame, **{better: 0.8, worse: 0.7})
        entry = shipped(home, changed)["50%"]
        assert (entry.arm, entry.runner_up) == (better, worse)
        assert f"{better} has the best accuracy on select." in entry.text
        # Whatever the scores on dev are.
        changed["score"] = changed["arm"].map({better: 0.1, worse: 0.9}) + 0.01 * changed["seed"]
        entry = shipped(home, changed)["50%"]
        assert entry.arm == better
        assert f"On dev the runner-up {worse} is better by 80.0 points, which is not resolved" in entry.text


def test_without_scores_on_select_the_fall_back_is_said_once(home, frame):
    changed = with_select(frame, random=0.9, sng=float("nan"))
    found = analyse(home, changed, settings(home))
    assert {entry.arm for entry in found.shipped} == {"sng"}  # the best on dev
    assert {entry.chosen_on for entry in found.shipped} == {"dev"}
    (note,) = [note for note in found.notes if "scores on select" in note]
    assert note.startswith("For 75%, 50%, 30%, some arm has no scores on select, so the recommendation rests on dev")
    assert all("the best accuracy on dev." in entry.text and "(its first)" in entry.text for entry in found.shipped)
    found = analyse(home, with_select(frame, random=0.9, sng=0.8), settings(home))
    assert not [note for note in found.notes if "scores on select" in note]


def arm(name, scores, select=None, over=""):
    networks = []
    for seed, score in enumerate(scores):
        networks.append(Network(seed=seed, run="", model="m", select=select, score=score, over=over))
    return Arm(name, networks)


FIRST = [0.80, 0.82, 0.81, 0.84]
OTHERS = {"b": [0.79, 0.80, 0.80, 0.82], "c": [0.70, 0.73, 0.70, 0.71], "d": [0.5, 0.6, 0.7, 0.4]}


def test_the_lead_over_the_runner_up_is_adjusted_for_all_that_it_was_chosen_among():
    arms = [arm("a", FIRST, 0.9)]
    arms += [arm(name, scores, 0.8 - 0.1 * place) for place, (name, scores) in enumerate(OTHERS.items())]
    choice = choose(arms, MetricFormat())
    (lead,) = leads([choice], [MetricFormat()])
    p_values = {name: scipy.stats.ttest_rel(FIRST, scores).pvalue for name, scores in OTHERS.items()}
    # Holm: the p-values in order times how many are left, and none below the one before.
    expected = 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.get)):
        expected = max(expected, (3 - place) * p_values[name])
        if name == "b":
            break
    assert lead.over == "b"
    assert lead.p == pytest.approx(expected)
    assert lead.p > p_values["b"]
    assert lead.tests == 3
    # The same networks under another budget make no further tests.
    again, other = leads([choice, choice], [MetricFormat()] * 2)
    assert (again, other) == (lead, lead)


def test_an_arm_over_the_budget_is_no_candidate_however_good():
    arms = [arm("a", FIRST, 0.5), arm("b", OTHERS["b"], 0.9, over="too large"), arm("c", OTHERS["c"], 0.6)]
    choice = choose(arms, MetricFormat())
    assert [entry.name for entry in choice.ranked] == ["c", "a", "b"]
    assert choice.runner_up.name == "a"
    (lead,) = leads([choice], [MetricFormat()])
    assert lead.tests == 1


def test_arms_are_compared_on_the_seeds_that_all_have():
    easy = Network(seed=7, run="", model="m", select=1.0, score=1.0)
    first = arm("a", FIRST, 0.7)
    second = arm("b", OTHERS["b"], 0.6)
    assert choose([first, Arm("b", [*second.networks, easy])], MetricFormat()).arm.name == "a"
    assert choose([first, Arm("b", [easy])], MetricFormat()).arm.name == "b"  # none in common


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=5), st.randoms())
def test_scores_on_dev_never_decide_between_arms(pairs, draw):
    arms = [arm(f"arm-{place}", [score], select) for place, (select, score) in enumerate(pairs)]
    shuffled = [score for _, score in pairs]
    draw.shuffle(shuffled)
    changed = [arm(f"arm-{place}", [score], pairs[place][0]) for place, score in enumerate(shuffled)]
    names = [entry.name for entry in choose(arms, MetricFormat()).ranked]
    assert [entry.name for entry in choose(changed, MetricFormat()).ranked] == names


def test_the_seed_is_chosen_on_select_and_never_on_dev(home, frame):
    own = (frame["arm"] == "sng") & (frame["budget"] == "50%")
    for seed in (0, 1, 2):
        changed = frame.copy()
        changed["select_score"] = changed["select_score"].astype(float)
        changed.loc[own, "select_score"] = 0.1
        changed.loc[own & (frame["seed"] == seed), "select_score"] = 0.9
        assert shipped(home, changed)["50%"].seed == seed


def test_an_arm_over_its_budget_is_not_recommended_if_another_is_within(home, frame):
    changed = with_select(frame, random=0.7, sng=0.8)
    own = (frame["arm"] == "sng") & (frame["budget"] == "50%")
    changed["over_budget"] = changed["over_budget"].astype(object)
    changed.loc[own, "over_budget"] = "12.4 ms > 12 ms"
    chosen = shipped(home, changed)
    assert (chosen["50%"].arm, chosen["30%"].arm) == ("random", "sng")
    assert ": only random is within the budget. " in chosen["50%"].text
    assert "Its lead over" not in chosen["50%"].text  # nobody may ship the only other arm
    both = changed.copy()
    both.loc[(frame["budget"] == "50%"), "over_budget"] = "12.4 ms > 12 ms"
    assert "Every arm is over this budget in every run." in shipped(home, both)["50%"].text
    for seed in (0, 1, 2):  # of such an arm a run that is within the budget, if there is one
        one = both.copy()
        one.loc[(frame["budget"] == "50%") & (frame["seed"] == seed), "over_budget"] = None
        assert shipped(home, one)["50%"].seed == seed


def test_a_lead_that_is_not_resolved_is_no_lead(home, frame):
    same = frame.copy()
    for seed in (0, 1, 2):
        rows = (frame["budget"] == "50%") & (frame["seed"] == seed)
        same.loc[rows & (frame["arm"] == "sng"), "score"] = 0.8 + 0.01 * seed
        same.loc[rows & (frame["arm"] == "random"), "score"] = 0.79 + 0.012 * ((seed * 2) % 3)
    same = with_select(same, random=0.7, sng=0.8)
    text = shipped(home, same)["50%"].text
    assert "Its lead over random is not resolved, so random may be as good (p = " in text


def test_the_page_has_sections_on_them(home, frame):
    comparison = analyse(home, frame, settings(home))
    sections = shipped_sections(home, comparison)
    assert all(isinstance(section, Section) for section in sections)
    gone = shipped_sections(home / "elsewhere", comparison)
    assert gone == []


def test_the_command_for_them_is_named(home, frame, capsys):
    comparison = analyse(home, frame, settings(home))
    say_export(comparison, home)
    assert capsys.readouterr().err == f"export  nasframe export {home}\n"
    say_export(comparison)
    lines = capsys.readouterr().err.splitlines()
    assert all("nasframe export runs/sng/sst2/seed-" in line for line in lines)
