"""Pages of pure noise: how often does one show a false arrow, by what Holm's adjustment counts as one family?

    python benchmarks/false_arrows.py --tasks 8 --arms 2 --seeds 5 --pages 20000

Every arm scores the same but for noise, task by task and seed by seed, so that each arrow of a page is false. A page
has a table for each task and one for the mean of tasks; arms are compared with the first by the paired t test.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats as scipy_stats

from nasframe_studies.file import FAMILIES
from nasframe_studies.pairs import MEAN, adjust
from nasframe_studies.records import Difference, PairTable


def page_tables(p_values: np.ndarray, seeds: int) -> list[PairTable]:
    """Make the tables of one page, as far as the adjustment reads them, from p-values ``(tasks + 1, arms - 1)``."""
    tables = []
    for number, of_task in enumerate(p_values):
        comparisons = []
        for arm, p in enumerate(of_task):
            comparisons.append(Difference(arm=str(arm), n=seeds, mean=1.0, p_t=float(p)))
        task = MEAN if number == 0 else f"task {number}"
        tables.append(
            PairTable(
                task=task, tasks=[], model="50%", metric="score", arms=[], ranked_seeds=[], comparisons=comparisons
            )
        )
    return tables


def noise(tasks: int, arms: int, seeds: int, pages: int, seed: int) -> np.ndarray:
    """Draw the p-values of pages of noise: ``(pages, tasks + 1, arms - 1)``, the mean of tasks first."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((pages, tasks, arms, seeds))
    scores = np.concatenate([scores.mean(1, keepdims=True), scores], axis=1)
    differences = scores[:, :, 1:] - scores[:, :, :1]
    return scipy_stats.ttest_1samp(differences, 0, axis=-1).pvalue


def false_pages(tasks: int, arms: int, seeds: int, pages: int, seed: int = 0) -> dict[str, float]:
    """Return by family the share of pages that show at least one arrow."""
    shares = dict.fromkeys(FAMILIES, 0.0)
    for p_values in noise(tasks, arms, seeds, pages, seed):
        tables = page_tables(p_values, seeds)
        for family in FAMILIES:
            differences = [row for table in adjust(tables, family) for row in table.comparisons]
            if any(row.resolved for row in differences):
                shares[family] += 1 / pages
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tasks", 8), ("arms", 2), ("seeds", 5), ("pages", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    for family, share in false_pages(options.tasks, options.arms, options.seeds, options.pages).items():
        print(f"family {family}: {100 * share:.1f} % of the pages show a false arrow")


if __name__ == "__main__":
    main()
