"""A sampler for any domain with features: predict the scores of many neighbours, propose the most promising one."""

import numpy as np


class Foresight:
    """Predict scores from features by ridge regression; of several mutants of good graphs, propose the best.

    Args:
        domain: injected; what to propose from.
        seed: injected; draws the proposals.
        start: random architectures before the first prediction.
        parents: how many of the best are mutated.
        mutants: candidates of each proposal.
    """

    needs = ("features",)  # domains without them are refused before any work

    def __init__(self, domain, seed: int = 0, start: int = 10, parents: int = 5, mutants: int = 16):
        self.domain = domain
        self.first, self.parents, self.mutants = start, parents, mutants
        self.rng = np.random.default_rng(seed)
        self.start("", 0)

    def start(self, stage, total):
        """Forget everything: a loss on a batch and an accuracy cannot be compared."""
        self.scored = []  # a score, an architecture and its features; the best first

    def ask(self, n=1, within=None):
        """Propose n architectures of within."""
        domain = self.domain if within is None else within
        return [self.propose(domain) for _ in range(n)]

    def propose(self, domain):
        """Draw at random until there is something to learn from; then take the best of some mutants."""
        if len(self.scored) < self.first:
            return domain.sample(self.rng)
        known = [arch for _, arch, _ in self.scored]
        candidates = []
        for _ in range(self.mutants):
            parent = known[int(self.rng.integers(min(self.parents, len(known))))]
            mutant = domain.mutate(parent, self.rng)
            if mutant not in known and mutant not in candidates:
                candidates.append(mutant)
        if not candidates:
            return domain.sample(self.rng)
        return candidates[int(np.argmax(self.predict(candidates)))]

    def predict(self, archs):
        """Return the expected score of each architecture."""
        features = np.array([known for _, _, known in self.scored], float)
        scores = np.array([score for score, _, _ in self.scored])
        mean, scale = features.mean(0), features.std(0) + 1e-9
        x = (features - mean) / scale
        weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (scores - scores.mean()))
        new = np.array([self.domain.features(arch) for arch in archs], float)
        return (new - mean) / scale @ weights

    def tell(self, trials):
        """Keep the 200 best scores and their architectures, the best first."""
        for trial in trials:
            if trial.score is not None:
                self.scored.append((trial.score, trial.arch, self.domain.features(trial.arch)))
        self.scored = sorted(self.scored, key=lambda entry: -entry[0])[:200]
