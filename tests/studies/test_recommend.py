"""Which models a comparison recommends: the arm with the best mean, and of its runs the one that was best on select."""

from __future__ import annotations

import pytest

from nasframe.report.sections import Section
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


def test_the_best_arm_is_recommended_with_its_loss(home, frame):
    chosen = shipped(home, frame)
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


def test_the_seed_is_chosen_on_select_and_never_on_dev(home, frame):
    own = (frame["arm"] == "sng") & (frame["budget"] == "50%")
    for seed in (0, 1, 2):
        changed = frame.copy()
        changed["select_score"] = changed["select_score"].astype(float)
        changed.loc[own, "select_score"] = 0.1
        changed.loc[own & (frame["seed"] == seed), "select_score"] = 0.9
        assert shipped(home, changed)["50%"].seed == seed


def test_an_arm_over_its_budget_is_not_recommended_if_another_is_within(home, frame):
    changed = frame.copy()
    own = (frame["arm"] == "sng") & (frame["budget"] == "50%")
    changed["over_budget"] = changed["over_budget"].astype(object)
    changed.loc[own, "over_budget"] = "12.4 ms > 12 ms"
    chosen = shipped(home, changed)
    assert (chosen["50%"].arm, chosen["30%"].arm) == ("random", "sng")
    assert "accuracy of the arms within the budget, " in chosen["50%"].text
    assert "Its lead over" not in chosen["50%"].text  # nobody may ship the only other arm
    both = changed.copy()
    both.loc[(frame["budget"] == "50%"), "over_budget"] = "12.4 ms > 12 ms"
    assert "over this budget in some run" in shipped(home, both)["50%"].text
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
    assert "Its lead over random is not resolved, so random may be as good." in shipped(home, same)["50%"].text


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
