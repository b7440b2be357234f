"""Samplers that each break one promise of their contract; the first is sound."""

from __future__ import annotations

import itertools
import time

import numpy as np

from nasframe.errors import UnsatisfiableError, UsageError
from nasframe.records import arch_id


class Sound:
    """Draws from what it is given, mutating the best it was told."""

    def __init__(self, domain, seed):
        self.domain, self.rng, self.best = domain, np.random.default_rng(seed), None

    def ask(self, n=1, within=None):
        domain = within or self.domain
        try:
            return [self.propose(domain) for _ in range(n)]
        except UnsatisfiableError:
            return []

    def propose(self, domain):
        if self.best is None or self.rng.random() < 0.3 or not self.domain.contains(self.best[1]):
            return domain.sample(self.rng)
        return domain.mutate(self.best[1], self.rng)

    def tell(self, trials):
        for trial in trials:
            if trial.score is not None and (self.best is None or trial.score > self.best[0]):
                self.best = (trial.score, self.domain.canonical(trial.arch) if self.knows(trial.arch) else {})

    def knows(self, arch):
        return self.domain.contains(arch)

    def state_dict(self):
        return {"rng": self.rng.bit_generator.state, "best": self.best}

    def load_state_dict(self, state):
        self.rng.bit_generator.state, self.best = state["rng"], state["best"]


class Refuses(Sound):
    def ask(self, n=1, within=None):
        raise UsageError("not today")


class Unseeded(Sound):
    def __init__(self, domain, seed):
        super().__init__(domain, None)


class NumpyNumbers(Sound):
    def propose(self, domain):
        arch = super().propose(domain)
        return {knob: np.int64(value) if isinstance(value, int) else value for knob, value in arch.items()}


class Outside(Sound):
    def propose(self, domain):
        return {**super().propose(domain), "extra": 1}


class NotCanonical(Sound):
    """Keeps knobs that have no effect."""

    def propose(self, domain):
        arch = super().propose(domain)
        return {knob: arch.get(knob, values[0]) for knob, values in self.domain.knobs.items()}


class IgnoresWithin(Sound):
    def ask(self, n=1, within=None):
        return super().ask(n)


class ForgetsGenerator(Sound):
    def state_dict(self):
        return {"best": self.best}

    def load_state_dict(self, state):
        self.best = state["best"]


class HoldsObjects(Sound):
    def state_dict(self):
        return {"rng": self.rng, "best": self.best}


class LiveState(Sound):
    def __init__(self, domain, seed):
        super().__init__(domain, seed)
        self.names = []

    def tell(self, trials):
        self.names += [arch_id(trial.arch) for trial in trials]

    def state_dict(self):
        return super().state_dict() | {"names": self.names}


class NeedsScores(Sound):
    def tell(self, trials):
        self.best = max((trial.score + 0.0, self.domain.smallest()) for trial in trials) if trials else self.best


class Shaken(Sound):
    """Proposes nonsense once a trial has failed."""

    has_failed = False

    def tell(self, trials):
        super().tell(trials)
        self.has_failed = self.has_failed or any(trial.state == "failed" for trial in trials)

    def propose(self, domain):
        return {"k": -1} if self.has_failed else super().propose(domain)


class NeverGivesUp(Sound):
    """Looks for what it has not proposed yet, for ever."""

    def __init__(self, domain, seed):
        super().__init__(domain, seed)
        self.seen = set()

    def propose(self, domain):
        while arch_id(arch := domain.sample(self.rng)) in self.seen:
            pass
        self.seen.add(arch_id(arch))
        return arch


class Optimist(Sound):
    """Falls back on the smallest architecture where nothing is acceptable."""

    def ask(self, n=1, within=None):
        return super().ask(n, within) or [self.domain.smallest()]


class OneOff(Sound):
    """Changes one knob of what it drew."""

    def propose(self, domain):
        arch = super().propose(domain)
        return {**arch, "b": 1} if "b" in arch else arch


class DrawsGlobally(Sound):
    def propose(self, domain):
        return domain.sample(np.random.default_rng(int(np.random.random() * 1e6)))


class SeedsGlobally(Sound):
    def ask(self, n=1, within=None):
        np.random.seed(7)
        return super().ask(n, within)


class SpoilsTrials(Sound):
    def tell(self, trials):
        for trial in trials:
            trial.costs["seen"] = 1.0


class StagesLeadAstray(Sound):
    """Proposes nonsense once a second stage has begun."""

    started = 0

    def start(self, stage, total):
        self.started += 1

    def propose(self, domain):
        return {"k": -1} if self.started > 1 else super().propose(domain)


class Slow(Sound):
    def ask(self, n=1, within=None):
        until = time.process_time() + 0.005
        while time.process_time() < until:
            pass
        return super().ask(n, within)


class ReadsHistory(Sound):
    """Goes through all pairs of earlier trials at each ask."""

    def __init__(self, domain, seed):
        super().__init__(domain, seed)
        self.history = []

    def ask(self, n=1, within=None):
        for _ in itertools.combinations(self.history, 2):
            pass
        return super().ask(n, within)

    def tell(self, trials):
        self.history += [trial.score for trial in trials]


class Picky(Sound):
    """Refuses domains without knobs, but does not say so in ``needs``."""

    def __init__(self, domain, seed):
        if not hasattr(domain, "knobs"):
            raise UsageError("no knobs")
        super().__init__(domain, seed)
