"""A file in the run directory with the best trials of each search so far."""


class Leaderboard:
    """Write the best trials of each search to a file in the run directory.

    Args:
        top: how many trials to list.
    """

    def __init__(self, top: int = 3):
        self.top = top
        self.trials = []

    def stage_started(self):
        self.trials = []

    def trial_finished(self, run, stage, number, trial):
        if trial.score is None:  # it breaks a constraint, or its evaluation failed
            return
        self.trials.append((trial.score, number))
        best = sorted(self.trials, reverse=True)[: self.top]
        lines = [f"{score:.4f}  trial {number}" for score, number in best]
        (run.directory / f"best-{stage}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
