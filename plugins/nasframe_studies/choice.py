"""The rule by which one of several arms is recommended, and the sentence that says so.

Studies and ``nasframe compress`` share it. Arms are compared by their scores on ``select``, and so are the seeds of an
arm: a choice by the scores that are reported would make the chosen network look better than it is. The reported scores,
mostly those on ``dev``, only say what the choice is worth: how far the network is from its teacher, and whether its
lead over the runner-up is more than chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nasframe.measures import sign_of
from nasframe.records import MetricFormat
from nasframe.report import tables as report_tables
from nasframe.report.format import titled
from nasframe.report.recommend import against_teacher, opening
from nasframe.report.records import Measure
from nasframe_studies import stats
from nasframe_studies.wording import mean_and_sd

Basis = Literal["select", "split", "only"]
"""What decided between arms: their scores on ``select``, those on the reported split, or nothing, as there is one."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that an arm made for a budget.

    Args:
        seed: of the run.
        run: the run's directory.
        model: the network's name in the run.
        select: its score on ``select`` as a number to maximise; ``None`` if it has none.
        score: its score on the reported split.
        teacher: its teacher's score there; ``None`` if it has none.
        over: what it is over its budget by; empty if it is within.
    """

    seed: int
    run: str
    model: str
    select: float | None
    score: float
    teacher: float | None = None
    over: str = ""


@dataclass(frozen=True)
class Arm:
    """An arm with its networks for one budget.

    Args:
        name: the arm's.
        networks: one for each seed.
    """

    name: str
    networks: Sequence[Network]

    @property
    def scores(self) -> dict[int, float]:
        """Seed → score on the reported split."""
        return {network.seed: network.score for network in self.networks}

    @property
    def mean(self) -> float:
        """The mean score on the reported split."""
        return float(np.mean(list(self.scores.values())))

    @property
    def sd(self) -> float | None:
        """The standard deviation of the scores over seeds; ``None`` with one seed."""
        if len(self.networks) < 2:
            return None
        return float(np.std(list(self.scores.values()), ddof=1))

    @property
    def over_budget(self) -> int:
        """0 if all networks are within the budget, 1 if some are, 2 if none is."""
        over = sum(bool(network.over) for network in self.networks)
        if over == 0:
            return 0
        return 1 if over < len(self.networks) else 2

    @property
    def network(self) -> Network:
        """The network to ship: of those within the budget, if there are any, the best on ``select``.

        If none has a score there, it is the first.
        """
        within = [network for network in self.networks if not network.over]
        return max(within or self.networks, key=_select_or_lowest)

    @property
    def has_select(self) -> bool:
        """Whether the network to ship was compared with the others on ``select``."""
        return any(network.select is not None for network in self.networks)

    def against_teachers(self) -> stats.Paired | None:
        """Compare the networks with their teachers, seed by seed; ``None`` if they have none."""
        pairs = [(network.score, network.teacher) for network in self.networks if network.teacher is not None]
        if not pairs:
            return None
        return stats.paired([own for own, _ in pairs], [teacher for _, teacher in pairs])


def _select_or_lowest(network: Network) -> float:
    return -np.inf if network.select is None else network.select


@dataclass(frozen=True)
class Choice:
    """The arms of one budget, ranked.

    Args:
        ranked: all arms, the best first. Arms that are over the budget in some run come after those that are not, and
            those that always are come last.
        basis: what decided between the first arms.
    """

    ranked: Sequence[Arm]
    basis: Basis

    @property
    def arm(self) -> Arm:
        """The recommended arm."""
        return self.ranked[0]

    @property
    def candidates(self) -> Sequence[Arm]:
        """The arms that keep the budget as often as the recommended one, which is the first of them."""
        return [arm for arm in self.ranked if arm.over_budget == self.arm.over_budget]

    @property
    def runner_up(self) -> Arm | None:
        """The candidate that comes second."""
        candidates = self.candidates
        return candidates[1] if len(candidates) > 1 else None

    def chosen_on(self, split: str) -> str:
        """Name the split whose scores decided; empty if there was nothing to decide.

        Args:
            split: the reported split.
        """
        return {"select": "select", "split": split, "only": ""}[self.basis]


def choose(arms: Sequence[Arm], form: MetricFormat) -> Choice:
    """Rank the arms of one budget.

    The score of an arm is its mean over the seeds that all candidates have, or over its own if they have none in
    common. It is that on ``select``; only if some candidate has no scores there, they are ranked by the reported split.

    Args:
        arms: at least one; of equal ones the first wins.
        form: how the metric reads.
    """
    fewest = min(arm.over_budget for arm in arms)
    candidates = [arm for arm in arms if arm.over_budget == fewest]
    ranked, basis = _ranked(candidates, form)
    others, _ = _ranked([arm for arm in arms if arm.over_budget > fewest], form)
    others.sort(key=lambda arm: arm.over_budget)
    return Choice([*ranked, *others], "only" if len(ranked) == 1 else basis)


def _ranked(arms: Sequence[Arm], form: MetricFormat) -> tuple[list[Arm], Basis]:
    """Return arms with the best first, and what decided."""
    on_select = {}
    on_split = {}
    for arm in arms:
        scored = [network for network in arm.networks if network.select is not None]
        on_select[arm.name] = {network.seed: network.select for network in scored}
        on_split[arm.name] = {network.seed: sign_of(form) * network.score for network in arm.networks}
    basis: Basis = "select" if all(on_select.values()) else "split"
    means = _means(on_select if basis == "select" else on_split)
    return sorted(arms, key=lambda arm: -means[arm.name]), basis


def _means(scores: Mapping[str, Mapping[int, float | None]]) -> dict[str, float]:
    """Return arm → mean score over the seeds that all have, if there are any."""
    if not scores:
        return {}
    shared = set.intersection(*(set(by_seed) for by_seed in scores.values()))
    means = {}
    for arm, by_seed in scores.items():
        counted = [by_seed[seed] for seed in sorted(shared or by_seed)]
        means[arm] = float(np.mean(np.asarray(counted, float)))
    return means


# ---- is the lead more than chance


@dataclass(frozen=True)
class Lead:
    """How the recommended arm stands against the runner-up on the reported split, seed by seed.

    Args:
        over: the runner-up.
        difference: the mean difference, as a number to maximise.
        p: of the paired t test, after Holm's adjustment; ``None`` if it could not be made.
        tests: how many tests the adjustment counts.
    """

    over: str
    difference: float | None
    p: float | None
    tests: int

    @property
    def resolved(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p is not None and self.p < stats.ALPHA


def leads(choices: Sequence[Choice], form_of: Sequence[MetricFormat]) -> list[Lead | None]:
    """Test each recommended arm against the other candidates, as one family of tests.

    The runner-up was not named before the scores were known: it is the closest of several. So all candidates count.
    The same two arms with the same scores under two budgets are one network each, and one test.

    Args:
        choices: of the family.
        form_of: of each choice, how its metric reads.

    Returns:
        The lead over each choice's runner-up; ``None`` if it has none.
    """
    differences: list[stats.Paired | None] = []
    places: dict[object, int] = {}
    of_choice: list[dict[str, int]] = []
    for choice in choices:
        own: dict[str, int] = {}
        for other in choice.candidates[1:]:
            key = (choice.arm.name, other.name, _frozen(choice.arm.scores), _frozen(other.scores))
            if key not in places:
                places[key] = len(differences)
                differences.append(_difference(choice.arm, other))
            own[other.name] = places[key]
        of_choice.append(own)
    p_values = [None if pair is None else pair.p_t for pair in differences]
    adjusted = stats.holm(p_values)
    tests = sum(p is not None for p in p_values)
    found: list[Lead | None] = []
    for choice, form, own in zip(choices, form_of, of_choice, strict=True):
        second = choice.runner_up
        if second is None:
            found.append(None)
            continue
        place = own[second.name]
        pair = differences[place]
        mean = None if pair is None else sign_of(form) * pair.mean
        found.append(Lead(second.name, mean, adjusted[place], tests))
    return found


def _frozen(scores: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(scores.items()))


def _difference(first: Arm, second: Arm) -> stats.Paired | None:
    """Compare two arms on the seeds that both have; ``None`` if there are none."""
    seeds = sorted(first.scores.keys() & second.scores.keys())
    if not seeds:
        return None
    return stats.paired([first.scores[seed] for seed in seeds], [second.scores[seed] for seed in seeds])


# ---- in words


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What a recommendation is called by.

    Args:
        budget: the budget.
        place: where, as `` on mrpc``, if there are several places.
        metric: the metric.
        form: how it reads.
        split: the reported split.
        noun: what an arm is called.
    """

    budget: str
    place: str = ""
    metric: str
    form: MetricFormat
    split: str
    noun: str = "arm"


def sentence(choice: Choice, lead: Lead | None, wording: Wording, interval: Measure | None = None) -> str:
    """Write a recommendation in plain words.

    Args:
        choice: the choice.
        lead: over the runner-up.
        wording: the names in it.
        interval: of the difference from the teacher over examples, for a single seed.
    """
    arm = choice.arm
    network = arm.network
    text = opening(wording.budget, f"{network.model} of {arm.name}", wording.place)
    if len(arm.networks) > 1:
        text += f", seed {network.seed} ({'its best on select' if arm.has_select else 'its first'})"
    else:
        text += f", seed {network.seed}"
    text += _reason(choice, wording)
    text += f" It has {_score(arm, wording)}"
    loss = _loss(arm, wording.form, interval)
    text += f", {loss}." if loss else "."
    if lead is not None:
        text += f" {_lead_text(lead, wording)}"
    if arm.over_budget == 2:
        text += f" Every {wording.noun} is over this budget in every run."
    elif arm.over_budget == 1:
        text += f" Every {wording.noun} is over this budget in some run."
    return text


def _reason(choice: Choice, wording: Wording) -> str:
    """Say why an arm was chosen."""
    arm = choice.arm.name
    fewer = len(choice.candidates) < len(choice.ranked)
    if choice.basis == "only":
        return f": only {arm} is within the budget." if fewer and not choice.arm.over_budget else "."
    best = "best" if wording.form.higher_is_better else "best (lowest)"
    name = titled(wording.metric, wording.form)
    among = f" of the {wording.noun}s within the budget" if fewer else ""
    return f": {arm} has the {best} {name} on {choice.chosen_on(wording.split)}{among}."


def _score(arm: Arm, wording: Wording) -> str:
    """Write an arm's score on the reported split."""
    unit = " %" if wording.form.percent else ""
    count = len(arm.networks)
    seeds = f" over {count} seeds" if count > 1 else ""
    name = titled(wording.metric, wording.form)
    return f"{mean_and_sd(wording.form, arm.mean, arm.sd)}{unit} {name} on {wording.split}{seeds}"


def _loss(arm: Arm, form: MetricFormat, interval: Measure | None) -> str:
    """Say how an arm compares with its teachers; empty if it has none."""
    gap = arm.against_teachers()
    if gap is None:
        return ""
    if gap.t_low is not None and gap.t_high is not None:
        over_seeds = Measure(gap.mean, gap.t_low, gap.t_high)
        return against_teacher(form, gap.mean, over_seeds, "over seeds")
    return against_teacher(form, gap.mean, interval if gap.n == 1 else None)


def _lead_text(lead: Lead, wording: Wording) -> str:
    """Say whether the recommended arm is better than the runner-up on the reported split."""
    name = lead.over
    tested = ""
    if lead.p is not None:
        adjusted = f" after Holm's adjustment for {lead.tests} tests" if lead.tests > 1 else ""
        tested = f" (p = {lead.p:.2g}{adjusted})"
    if lead.difference is not None and lead.difference < 0:
        size = report_tables.difference(wording.form, abs(lead.difference)).removeprefix("+")
        points = f"{size} points" if wording.form.percent else size
        certainty = "resolved" if lead.resolved else "not resolved"
        return (
            f"On {wording.split} the runner-up {name} is better by {points}, which is {certainty}{tested}; "
            f"no choice is made there."
        )
    if lead.resolved:
        return f"Its lead over {name} is resolved{tested}."
    return f"Its lead over {name} is not resolved, so {name} may be as good{tested}."


def fallback_note(budgets: Iterable[str], split: str, noun: str = "arm") -> str | None:
    """Say once that choices rest on the reported split for want of scores on ``select``; ``None`` if none do.

    Args:
        budgets: those whose choices do.
        split: the reported split.
        noun: what an arm is called.
    """
    names = ", ".join(dict.fromkeys(budgets))
    if not names or split == "select":
        return None
    return (
        f"For {names}, some {noun} has no scores on select, so the recommendation rests on {split}, which makes the "
        f"recommended {noun} look better than it is. To choose on select, measure the models there as well: "
        "evaluate: {split: select}."
    )
