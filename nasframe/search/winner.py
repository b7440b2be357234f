"""The choice of a winner among the candidates that meet its bounds, for searches and deployments alike.

Scores on a small split are uncertain, and so is the order of candidates whose scores lie within their error. The rules
``loss`` and ``agreement`` therefore decide among all candidates within one standard error of the best score, as the
one-standard-error rule of Breiman, Friedman, Olshen and Stone (Classification and Regression Trees, 1984, §3.4.3)
does. That rule takes the simplest of them; these take the one with the smallest loss, or nearest to a teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nasframe.errors import UsageError, listing
from nasframe.records import Arch, ErrorKind, Trial

Rule: TypeAlias = Literal["score", "loss", "agreement"]
LOSS = "loss"
"""The metric that the rule ``loss`` reads."""
ROUNDING = 1e-12
"""Difference of scores that floating point alone may cause."""


@dataclass(frozen=True)
class WinnerRule:
    """How a winner is chosen.

    Args:
        name: ``score`` takes the best score. Within one standard error of it, ``loss`` takes the smallest loss and
            ``agreement`` the smallest divergence from a teacher; among equal ones both take the largest network.
        error: how the standard error of the score is computed; see :func:`standard_error`.
        examples: the size of the split, for trials that were scored on all of it; ``None`` if it is unknown.
        divergence: architecture → its divergence from the teacher, for the rule ``agreement``.
        finalists: the largest number of candidates whose divergence is computed.
    """

    name: Rule = "score"
    error: ErrorKind = "unknown"
    examples: int | None = None
    divergence: Callable[[Arch], float] | None = None
    finalists: int = 10


@dataclass(frozen=True)
class Choice:
    """A winner, and the choice that there was.

    Args:
        trial: the winner.
        rule: the name of the rule.
        within: how many candidates lay within one standard error of the best score, the best one included. If the
            error is unknown: how many had exactly the best score.
        error: the standard error of the best score; ``None`` if it is unknown.
    """

    trial: Trial
    rule: Rule
    within: int
    error: float | None


Score: TypeAlias = Callable[[Trial], float]
"""Trial → the number to maximise."""


def standard_error(kind: ErrorKind, score: float, examples: int | None) -> float | None:
    """Return the standard error of a score, ``None`` if it is unknown.

    A share of ``n`` independent examples has the error ``√(s(1 − s)/n)``, that of a binomial proportion (Wald). For
    an F1, and for its mean with the accuracy, the same is an approximation. A correlation has ``(1 − r²)/√n``, the
    large-sample error of Pearson's coefficient (Bowley, The standard deviation of the correlation coefficient, JASA
    23, 1928). The Matthews correlation is Pearson's of two binary variables, and Spearman's is that of ranks.

    Args:
        kind: ``share``, ``correlation`` or ``unknown``.
        score: the metric; the sign that an objective gives it does not matter.
        examples: how many it was measured on.

    >>> standard_error("share", 0.9, 100), standard_error("correlation", 0.5, 225), standard_error("share", 1.5, 10)
    (0.03, 0.05, None)
    """
    size = abs(score)
    # A share that is written in per cent, say, is beyond 1: its error would be computed of the wrong number.
    if kind == "unknown" or not examples or not size <= 1:
        return None
    if kind == "share":
        return math.sqrt(size * (1 - size) / examples)
    return (1 - size**2) / math.sqrt(examples)


def tolerance(rule: WinnerRule, score: float, trial: Trial) -> float:
    """Return how far below a trial's score another one may stay and still be chosen instead of it.

    Args:
        rule: the rule; ``score`` leaves no room.
        score: the trial's score.
        trial: the trial.
    """
    if rule.name == "score":
        return 0.0
    error = standard_error(rule.error, score, trial.examples or rule.examples)
    return (error or 0.0) + ROUNDING


def ranked(trials: Sequence[Trial], rule: WinnerRule, score: Score, bounded: Sequence[str]) -> list[Trial]:
    """Return candidates from the best score downwards; with ``examples`` the first of them become finalists.

    Among equal scores the rule ``score`` has the cheapest first; the others have the smallest loss, if the task
    measures one, and then the largest network first.

    Args:
        trials: the candidates.
        rule: the rule that will choose among them.
        score: what is maximised.
        bounded: the bounded costs.
    """

    def rank(trial: Trial) -> tuple[float, ...]:
        if rule.name == "score":
            bounded_costs = [trial.costs[name] for name in bounded]
            return -score(trial), *bounded_costs
        # As the rule itself would decide, so that of many equal scores the likely winners are finalists. A divergence
        # would cost a pass over the split for each trial, so the loss stands for it.
        loss = _finite(trial.metrics.get(LOSS, 0.0))
        return -score(trial), loss, *_smallness(trial, bounded)

    return sorted(trials, key=rank)


def choose(
    trials: Sequence[Trial],
    rule: WinnerRule,
    score: Score,
    bounded: Sequence[str],
    meets: Callable[[Trial], bool] = lambda trial: True,
) -> Choice | None:
    """Choose the winner among candidates that were scored on the same examples.

    Args:
        trials: the candidates, as :func:`ranked` returns them; those known to break a bound are left out.
        rule: decides.
        score: what is maximised.
        bounded: the bounded costs, by which networks are compared in size.
        meets: confirms that a candidate meets its bounds, for costs that are measured only when they matter. It is
            asked about as few candidates as possible.

    Returns:
        The choice; ``None`` if no candidate meets its bounds.
    """
    # Again, because finalists were ranked by their scores on fewer examples.
    order = sorted(trials, key=score, reverse=True)
    # The band hangs from the best candidate that can win, so that one must be confirmed first.
    while order and not meets(order[0]):
        order.pop(0)
    if not order:
        return None
    best = order[0]
    examples = best.examples or rule.examples
    error = standard_error(rule.error, score(best), examples)
    lowest = score(best) - (error or 0.0) - ROUNDING
    band = [trial for trial in order if score(trial) >= lowest]
    winner = best
    if rule.name != "score":
        # The best is among the preferred ones, whatever the rule, so that there is always a winner.
        preferred = _preferred(band, rule, bounded)
        winner = next(trial for trial in preferred if trial is best or meets(trial))
    return Choice(winner, rule.name, len(band), error)


def _preferred(band: Sequence[Trial], rule: WinnerRule, bounded: Sequence[str]) -> list[Trial]:
    """Sort the candidates within the error by the rule's own measure; among equal ones the largest comes first."""
    if rule.name == "agreement":
        # Each divergence is a pass over the whole split, so that only the best few get one.
        band = band[: max(rule.finalists, 1)]

    def preference(trial: Trial) -> tuple[float, ...]:
        return _measure(trial, rule), *_smallness(trial, bounded)

    return sorted(band, key=preference)


def _measure(trial: Trial, rule: WinnerRule) -> float:
    """Return what a rule minimises."""
    if rule.name == "agreement":
        assert rule.divergence is not None
        return _finite(rule.divergence(trial.arch))
    if LOSS not in trial.metrics:
        raise UsageError(f"winner: {rule.name} needs the metric {LOSS!r}. The task measures {listing(trial.metrics)}.")
    return _finite(trial.metrics[LOSS])


def _finite(value: float) -> float:
    """Return a number that can be compared: one that is not finite is worse than all others."""
    return value if math.isfinite(value) else math.inf


def _smallness(trial: Trial, bounded: Sequence[str]) -> list[float]:
    """Return numbers that sort larger networks first: by the bounded costs, then by parameters."""
    names = [*bounded, "params"]
    return [-trial.costs[name] for name in names if name in trial.costs]


def in_words(rule: str, within: int, error: float | None) -> str:
    """Describe a choice in half a sentence, for reports.

    >>> in_words("loss", 7, 0.02)
    'smallest loss of 7 candidates within one standard error of the best score'
    >>> in_words("score", 1, 0.02)
    'best score; no other candidate within one standard error of it'
    >>> in_words("agreement", 3, None)
    'closest to the teacher of 3 candidates with the best score, whose standard error is unknown'
    """
    known = error is not None
    if rule == "score":
        others = "no other candidate"
        if within > 1:
            others = f"{within - 1} more {_candidates(within - 1)}"
        place = "within one standard error of it" if known else "with the same one"
        return f"best score; {others} {place}"
    measure = {"loss": "smallest loss", "agreement": "closest to the teacher"}[rule]
    place = "within one standard error of the best score"
    if not known:
        place = "with the best score, whose standard error is unknown"
    return f"{measure} of {within} {_candidates(within)} {place}"


def _candidates(count: int) -> str:
    return "candidate" if count == 1 else "candidates"
