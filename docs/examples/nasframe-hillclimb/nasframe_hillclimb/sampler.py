"""Hill climbing with restarts."""

import math

import numpy as np


class HillClimb:
    """Propose neighbours of the best architecture of the climb, and begin another climb where none is better.

    Args:
        domain: injected; what to propose from.
        seed: injected; draws the proposals.
        patience: answers in a row without a gain before a new climb begins.
    """

    def __init__(self, domain, seed: int = 0, patience: int = 30):
        self.domain, self.patience = domain, patience
        self.rng = np.random.default_rng(seed)
        self.start("", 0)

    def start(self, stage, total):
        """Forget the climb: a training loss and an accuracy cannot be compared."""
        self.score, self.arch, self.stuck = -math.inf, None, 0

    def ask(self, n=1, within=None):
        """Propose n architectures of within."""
        domain = self.domain if within is None else within
        return [self.propose(domain) for _ in range(n)]

    def propose(self, domain):
        """Draw the first architecture of a climb, then neighbours."""
        return domain.sample(self.rng) if self.arch is None else domain.mutate(self.arch, self.rng)

    def tell(self, trials):
        """Climb where it goes up; give up where it has not gone up for long."""
        for trial in trials:
            if trial.score is None:
                continue
            if trial.score > self.score:
                self.score, self.arch, self.stuck = trial.score, trial.arch, 0
            else:
                self.stuck += 1
            if self.stuck >= self.patience:
                self.start("", 0)

    def state_dict(self):
        """Return all that the next proposals depend on."""
        rng = self.rng.bit_generator.state
        return {"rng": rng, "score": self.score, "arch": self.arch, "stuck": self.stuck}

    def load_state_dict(self, state):
        """Go on where state_dict was taken."""
        self.rng.bit_generator.state = state["rng"]
        self.score, self.arch, self.stuck = state["score"], state["arch"], state["stuck"]
