"""What a study would do, without doing it: its runs, which stages they share or find in the cache, costs and time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.records import canonical_json
from nasframe.running import dry_run as dryrun
from nasframe.running.cache import Cache, default_folder
from nasframe.running.cache_keys import digest, material, stage_keys
from nasframe.stages.inputs import Material
from nasframe_studies.metric_check import check_metric

if TYPE_CHECKING:
    from nasframe.plan import Plan
    from nasframe_studies.file import Study


def preview(study: Study, cache: str | Path | None = None, threads: int | None = None) -> dict[str, Any]:
    """Describe what a study would do.

    Loads the data of every task and seed, since keys come from it, and times a few training steps; writes nothing.

    Args:
        study: the study.
        cache: the folder of stage results; default as for :func:`nasframe_studies.study.ablate`.
        threads: CPU threads of each run; default: as torch finds them.

    Returns:
        ``stages``: for each arm, task and stage how many seeds would ``run`` it, find it ``shared`` with a run before
        or ``cached``, which ``seeds`` these are, what it does and the estimated seconds of one; ``costs`` and
        ``limits`` of each arm and task, as :func:`nasframe.running.dry_run.dry_run` gives them; and in all ``runs``,
        distinct ``stages_to_run`` and ``seconds``, on one process.

    Raises:
        UsageError: a task lacks the metric that is compared.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    check_metric(study)
    folder, looks = Cache(Path(cache or default_folder())), _Looks()
    seen: set[str] = set()
    seeds: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    for run, plan in study.runs():
        with plan.file_plugins():
            keys = stage_keys(plan, looks.start(plan))
        for stage, parts in zip(plan.stages, keys, strict=True):
            key = digest(parts)
            how = "cached" if folder.holds(key) else "shared" if key in seen else "run"
            seen.add(key)
            place = (run.arm, run.task, stage.name)
            seeds.setdefault(place, {"run": [], "shared": [], "cached": []})[how].append(run.seed)
    rows, arms = [], []
    for run, plan in ((run, plan) for run, plan in study.runs() if run.seed == study.seeds[0]):
        head = {"arm": run.arm, "task": run.task}
        facts = looks.look(plan)
        arms.append(head | {key: facts[key] for key in ("costs", "limits")})
        for row in facts["stages"]:
            found = seeds[run.arm, run.task, row["name"]]
            rows.append(head | row | {how: len(those) for how, those in found.items()} | {"seeds": found})
    totals = {"runs": len(study.seeds) * len(study.plans), "stages_to_run": sum(row["run"] for row in rows)}
    return {"stages": rows, "arms": arms, **totals, "seconds": sum(row["run"] * row["seconds"] for row in rows)}


class _Looks:
    """Loads and measures what several runs have in common once."""

    def __init__(self) -> None:
        self.starts: dict[str, dict[str, Any]] = {}
        self.speeds: dict[str, float] = {}

    def start(self, plan: Plan) -> dict[str, Any]:
        """Digest what a run starts from."""
        key = canonical_json([*_origin(plan), plan.seed, plan.model or plan.space])
        if key not in self.starts:
            self.starts[key] = material(Material(plan))
        return self.starts[key]

    def look(self, plan: Plan) -> dict[str, Any]:
        """Return the stages, costs and limits of a run."""
        with plan.file_plugins():
            return self._look(plan)

    def _look(self, plan: Plan) -> dict[str, Any]:
        parts = Material(plan)
        work, key = parts.work, canonical_json(_origin(plan))
        if key not in self.speeds:
            self.speeds[key] = dryrun.forward_seconds(work) if work.net is not None else 0.0
        share = dryrun.mean_share(work) if work.net is not None else 1.0
        stages = [dryrun.describe(stage, work, self.speeds[key], share) for stage in plan.stages]
        return {"stages": stages, "costs": dryrun.ranges(parts), "limits": list(dryrun.limit_rows(parts))}


def _origin(plan: Plan) -> list[Any]:
    """Return what a plan's model and data are made from; their plugins may be the recipe's own files."""
    return [plan.model, plan.task, str(plan.base), plan.recipe.get("plugins", [])]
