"""Local search: steepest ascent with restarts."""

from copy import deepcopy

import numpy as np

STATE = ("top", "best", "queue", "waiting")


class LocalSearch:
    """Score all neighbours of an architecture and move to the best; if none is better, start again at a random one.

    In domains of knobs, neighbours differ in one knob. Of several objectives it improves the first.

    Args:
        domain: injected; what to propose from.
        seed: injected; draws the starts and the order of the neighbours.
        draws: mutations that make up a neighbourhood in domains without knobs.
    """

    def __init__(self, domain, seed: int = 0, draws: int = 32):
        self.domain, self.draws = domain, draws
        self.rng = np.random.default_rng(seed)
        self.start("", 0)

    def start(self, stage, total):
        """Forget the climb: a training loss and an accuracy cannot be compared."""
        self.top, self.best = None, None  # [score, arch] of the climb, and of the best answer since its last step
        self.queue, self.waiting = [], []  # neighbours to propose, and proposals without an answer

    def ask(self, n=1, within=None):
        """Propose up to n neighbours of the climb's top, or else a random architecture."""
        domain = self.domain if within is None else within
        if not self.queue and not self.waiting:
            self.step(domain)
        proposals = []
        while self.queue and len(proposals) < n:
            neighbour = self.queue.pop()
            if domain.contains(neighbour):
                proposals.append(neighbour)
        proposals = proposals or [domain.sample(self.rng)]
        self.waiting.extend(deepcopy(proposals))
        return proposals

    def step(self, domain):
        """Move to the best neighbour, or give up the climb if no neighbour is better than its top."""
        if self.best == self.top:
            self.top, self.best = None, None
            return
        self.top = self.best
        neighbours = [other for other in self.around(self.top[1], domain) if other != self.top[1]]
        self.queue = [neighbours[i] for i in self.rng.permutation(len(neighbours))]

    def around(self, arch, domain):
        """Yield the neighbours of arch, and arch itself for knobs without an effect."""
        if not hasattr(domain, "encode"):
            yield from (domain.mutate(arch, self.rng) for _ in range(self.draws))
            return
        position = domain.encode(arch)
        for dimension, size in enumerate(domain.shape):
            for value in range(size):
                yield domain.decode([*position[:dimension], value, *position[dimension + 1 :]])

    def tell(self, trials):
        """Remember the best answer since the last step."""
        for trial in trials:
            if trial.arch in self.waiting:
                self.waiting.remove(trial.arch)
            if trial.score is not None and (self.best is None or trial.score > self.best[0]):
                self.best = [trial.score, trial.arch]

    def state_dict(self):
        """Return all that the next proposals depend on."""
        return deepcopy({"rng": self.rng.bit_generator.state, **{name: getattr(self, name) for name in STATE}})

    def load_state_dict(self, state):
        """Go on where state_dict was taken."""
        self.rng.bit_generator.state = state["rng"]
        for name in STATE:
            setattr(self, name, deepcopy(state[name]))
