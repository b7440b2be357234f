"""Predictor-guided search: a regression proposes what it expects to be best, of several objectives a random mix."""

import json

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern


class Predicted:
    """Propose the mutants of good architectures that a regression on their features expects to be best.

    Args:
        domain: injected; what to propose from.
        seed: injected; draws candidates and weights.
        initial: random architectures before the first prediction.
        candidates: architectures that are compared for an ask.
        memory: answers that the regression is fitted to, the newest.
    """

    needs = ("features",)

    def __init__(self, domain, seed: int = 0, initial: int = 10, candidates: int = 64, memory: int = 100):
        self.domain, self.initial, self.candidates, self.memory = domain, initial, candidates, memory
        self.rng = np.random.default_rng(seed)
        self.start("", 0)

    def start(self, stage, total):
        """Forget all answers: a training loss and an accuracy cannot be compared."""
        self.answers = {}  # key of an architecture -> [objectives, arch, features], the newest last

    def ask(self, n=1, within=None):
        """Propose the n candidates of within that are expected to be best."""
        domain = self.domain if within is None else within
        if len(self.answers) < self.initial:
            return [domain.sample(self.rng) for _ in range(n)]
        newest = next(reversed(self.answers.values()))
        known = [answer for answer in self.answers.values() if len(answer[0]) == len(newest[0])]  # of the same search
        objectives, archs, features = (list(column) for column in zip(*known, strict=True))
        losses = (np.max(objectives, axis=0) - objectives) / np.maximum(np.ptp(objectives, axis=0), 1e-12)
        weights = self.rng.dirichlet(np.ones(losses.shape[1]))
        parents = [archs[i] for i in np.argsort(np.max(weights * losses, axis=1))[:8]]
        candidates = self.draw(domain, parents, max(n, self.candidates))
        model = GaussianProcessRegressor(Matern(2.0, nu=2.5), alpha=1e-4, optimizer=None, normalize_y=True)
        model.fit(features, losses)
        expected = model.predict([self.domain.features(arch) for arch in candidates]).reshape(len(candidates), -1)
        return [candidates[i] for i in np.argsort(np.max(weights * expected, axis=1))[:n]]

    def draw(self, domain, parents, number):
        """Return candidates that have no answer yet: mutants of mutants of the parents."""
        candidates = {}
        for _ in range(number):
            arch = parents[self.rng.integers(len(parents))]
            for _ in range(self.rng.geometric(0.6)):
                arch = domain.mutate(arch, self.rng)
            candidates[key(arch)] = arch
        return [arch for name, arch in candidates.items() if name not in self.answers] or list(candidates.values())

    def tell(self, trials):
        """Note the answers, and forget the oldest."""
        for trial in trials:
            if trial.score is not None:
                objectives, features = list(trial.objectives or [trial.score]), list(self.domain.features(trial.arch))
                self.answers[key(trial.arch)] = [objectives, trial.arch, features]
        while len(self.answers) > self.memory:
            del self.answers[next(iter(self.answers))]

    def state_dict(self):
        """Return all that the next proposals depend on."""
        return {"rng": self.rng.bit_generator.state, "answers": list(self.answers.items())}

    def load_state_dict(self, state):
        """Go on where state_dict was taken."""
        self.rng.bit_generator.state, self.answers = state["rng"], dict(state["answers"])


def key(arch):
    """Return the text that tells an architecture from others."""
    return json.dumps(arch, sort_keys=True)
