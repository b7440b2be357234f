"""Reads all that a report shows out of a run directory, as typed records; ``docs/report.md`` describes the fields.

:func:`read_run` is the way in: it reads the files, then derives the models' roles and budgets, the searches' fronts and
the curves. Nothing of the run is needed but its directory: no plugin, and no model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from nasframe.declarations import KnownNames, budgeted_costs, budgets_of, declaration_of, stages_of
from nasframe.errors import RunError
from nasframe.folders import model_folder
from nasframe.records import CostFormat, Drawing, plus
from nasframe.report.budgets import bounds_of, over_budget
from nasframe.report.details import with_examples
from nasframe.report.format import PLAIN_COST, cost_formats, is_about_measurement, metric_formats, with_search_metrics
from nasframe.report.predictions import ReadExamples
from nasframe.report.recommend import recommendations
from nasframe.report.records import (
    ChoiceRow,
    FullSize,
    LayerRow,
    LedgerRow,
    LedgerTotal,
    ModelRow,
    Point,
    Role,
    RunReport,
    SearchRow,
    StageRow,
    TrialRow,
)
from nasframe.search.pareto import pareto_front
from nasframe.search.winner import in_words
from nasframe.store import RunStore

FORMAT_VERSION = 1
CURVE_POINTS = 400
"""About how many points of a long curve a report keeps."""
AXES = ("encoder_params", "backbone_params", "params", "macs", "flops", "size", "latency")
"""The costs to draw against if no budget names one: the first that is there."""
ROLES: tuple[Role, ...] = ("teacher", "winner", "model", "baseline")
"""The order of models under one budget."""
STATES = ("done", "repeat", "screened", "failed")
"""What may become of a proposal of a search."""

Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""Rows of a table of the database."""
CostFormats: TypeAlias = Mapping[str, CostFormat]
Curve: TypeAlias = list[list[float]]
"""``[step, value]`` for each logged value."""


@dataclass(frozen=True)
class _Database:
    """The content of a run's database; JSON columns are read, and a stage's ``result`` is never ``None``."""

    stages: Rows
    trials: Rows
    logged: Rows
    ledger: Rows
    models: Rows
    facts: Mapping[str, Any]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """The results of the stages, in their order."""
        return [stage["result"] for stage in self.stages]


def gather(run_dir: Path | str, examples: bool = True) -> dict[str, Any]:
    """Return the JSON-plain content of ``report.json``; see :func:`read_run`."""
    return asdict(read_run(run_dir, examples))


def read_run(run_dir: Path | str, examples: bool = True) -> RunReport:
    """Read all that a report shows; nothing is written.

    Args:
        run_dir: a run directory, of a finished run or of one under way.
        examples: whether to read the models' predictions too, for intervals and what is shown class by class.

    Raises:
        UsageError: there is no run in the directory, or its recipe was changed since.
        RunError: the run's database or another file is damaged; names it.
    """
    directory = Path(run_dir)
    database = _database(directory)
    recipe_text = _text(directory / "recipe.yaml")
    recipe = _recipe(recipe_text)
    environment = _environment(directory / "env.json")
    untrained = _untrained(recipe)  # searches that give the baselines

    places = _in_table_order(_places(database, untrained))
    data = dict(with_search_metrics(database.facts.get("data") or {}, database.results))
    formats = _formats_of_searches(database) | metric_formats(data)
    data.pop("metrics", None)  # the report has the formats by themselves
    costs = cost_formats(database.facts.get("costs"))
    metric = data.get("primary") or _first_metric(places)
    split = _split(places)
    full = _full(places)
    stages = [stage["name"] for stage in database.stages]
    run_seconds = sum(stage["run_seconds"] or 0.0 for stage in database.stages)
    searches = _searches(database, recipe, costs)
    searches.sort(key=lambda search: search.stage in untrained)  # those of the baselines come last
    report = RunReport(
        format_version=FORMAT_VERSION,
        name=recipe.get("name") or directory.resolve().name,
        description=_description(recipe),
        seed=recipe.get("seed"),
        finished=bool(database.facts.get("finished")),
        metric=metric,
        formats=formats,
        cost_formats=costs,
        split=split,
        full=full,
        models=_models(places, database.results, metric, split, full.layers, costs, directory),
        removal_errors=_removal_errors(database.stages, database.logged),
        searches=searches,
        curves=_curves(database.logged, stages),
        ledger=[LedgerRow(**row) for row in database.ledger],
        ledger_total=_totals(database.ledger, database.stages),
        stages=[_stage(row) for row in database.stages],
        notices=database.facts.get("notices") or [],
        run_seconds=run_seconds,
        command=database.facts.get("command"),
        data=data,
        failure=database.facts.get("failure"),
        environment=environment,
        environments=database.facts.get("environments") or [environment],
        recipe=recipe_text,
        trials=[_trial(row) for row in database.trials],
        drawings=_drawings(database.stages),
    )
    if examples:
        report = with_examples(report, directory, _read_examples(database))
    return replace(report, recommendations=recommendations(report))


def _formats_of_searches(database: _Database) -> dict[str, Any]:
    """Return the formats of the metrics that searches with tasks of their own went by."""
    formats: dict[str, Any] = {}
    for result in database.results:
        if "data" in result:
            formats |= metric_formats(result["data"])
    return formats


def _read_examples(database: _Database) -> ReadExamples:
    """Return the examples that the run keeps as a person reads them, of all of its evaluations."""
    kept = ReadExamples({})
    for result in database.results:
        if "examples" in result:
            kept = kept.joined(ReadExamples.of(result["examples"]))
    return kept


def finished(directory: Path) -> bool:
    """Return whether a run is complete."""
    if not (directory / "run.db").is_file():
        return False
    store = RunStore(directory, shared=True)
    try:
        return bool(store.get("finished"))
    finally:
        store.close()


# ---- files


def _database(directory: Path) -> _Database:
    store = RunStore(directory, shared=True)  # shared, since the run may still be under way
    try:
        store.check()
        if (directory / "recipe.yaml").is_file():  # packed records of runs may have none
            store.check_recipe()
        stages = [row | {"result": row["result"] or {}} for row in store.rows("stage")]
        return _Database(
            stages=stages,
            trials=store.rows("trial"),
            logged=store.rows("metric"),
            ledger=store.rows("ledger"),
            models=store.rows("model"),
            facts=store.facts(),
        )
    finally:
        store.close()


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8")


def _environment(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(_text(path) or "{}")
    except ValueError as error:
        raise RunError(
            f"{path}: damaged ({error}). Put a copy of it back, or delete it: the report is then made without it."
        ) from None
    return facts


def _recipe(text: str) -> dict[str, Any]:
    import yaml

    loaded = yaml.safe_load(text)
    if not isinstance(loaded, dict):  # the file is missing or empty
        return {}
    return loaded


# ---- the recipe


def _description(recipe: Mapping[str, Any]) -> str:
    """Return the recipe's description, or a line with its model, task and space."""
    if recipe.get("description"):
        return str(recipe["description"])
    parts = []
    for key in ("model", "task", "space"):
        part = recipe.get(key)
        if isinstance(part, Mapping):
            words = [part.get("use")]
            if key != "space":
                words.append(part.get("name") or part.get("path"))
            named = [str(word) for word in words if word]
            parts.append(" ".join(named))
        elif part:
            parts.append(str(part))
    return " · ".join(parts)


def _untrained(recipe: Mapping[str, Any]) -> set[str]:
    """Return the searches over weights that were never trained as a super-network, if others are over such weights.

    Their winners are the baselines: they show what the same search finds without super-network training.
    """
    # The recipe is followed stage by stage, because a stage goes on with the last network unless `from` names another.
    elastic = False  # whether the current network was trained as a super-network
    elastic_nets = {"pretrained": False, "random": False}
    searches: dict[str, bool] = {}
    for stage in stages_of(recipe):
        elastic = elastic_nets.get(stage.options.get("from", ""), elastic)
        if stage.verb == "train":
            elastic = elastic or stage.options.get("sampler") is not None
        elif stage.verb == "search":
            searches[stage.name] = elastic
        declaration = declaration_of(stage.verb)
        if declaration.replaces_net:
            for name in declaration.saves(stage, KnownNames()):
                elastic_nets[name] = elastic
    if not any(searches.values()):  # the only searches of a recipe are no baselines of anything
        return set()
    return {name for name, trained in searches.items() if not trained}


# ---- stages and trials


def _stage(row: Mapping[str, Any]) -> StageRow:
    cached = row["result"].get("cached", {})
    return StageRow(row["name"], row["verb"], row["state"], row["run_seconds"], cached.get("run"))


def _trial(row: Mapping[str, Any]) -> TrialRow:
    fields = dict(row)
    del fields["finished_at"]  # of no use to a reader, and different each time
    return TrialRow(**fields)


# ---- models


@dataclass(frozen=True)
class _Place:
    """A model's row in the database, and where it belongs in the table."""

    row: Mapping[str, Any]
    budget: str | None
    role: Role

    @property
    def name(self) -> str:
        name: str = self.row["name"]
        return name

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        return self.row["metrics"] or {}

    @property
    def costs(self) -> Mapping[str, Any]:
        return self.row["costs"] or {}

    @property
    def arch(self) -> Mapping[str, Any]:
        return self.row["arch"] or {}

    @property
    def blueprint(self) -> Mapping[str, Any]:
        return self.row["blueprint"] or {}


def _places(database: _Database, untrained: set[str]) -> list[_Place]:
    """Find each model's budget and role, in the order in which the models were made.

    Args:
        database: the run's.
        untrained: the searches whose winners are baselines, as :func:`_untrained` finds them.
    """
    verbs = {}
    search_of = {}
    for stage in database.stages:
        verbs[stage["name"]] = stage["verb"]
        for winner in stage["result"].get("winners", ()):
            search_of[winner] = stage["name"]

    places = []
    for row in database.models:
        name = row["name"]
        budget = row["budget"] or name.partition("@")[2] or None
        role: Role = "model"
        if name == "teacher":
            role = "teacher"
        elif name in search_of:
            role = "baseline" if search_of[name] in untrained else "winner"
        elif budget and verbs.get(row["stage"]) == "extract":
            role = "baseline"  # written out in an extract stage: no search found it
        places.append(_Place(row, budget, role))
    return places


def _in_table_order(places: Sequence[_Place]) -> list[_Place]:
    """Sort models: the teacher, those without a budget, then budget by budget."""
    budgets = list(dict.fromkeys(place.budget for place in places if place.budget))

    def order(place: _Place) -> tuple[bool, int, int]:
        budget = -1
        if place.budget:
            budget = budgets.index(place.budget)
        is_below_teacher = place.role != "teacher"  # false sorts first
        return is_below_teacher, budget, ROLES.index(place.role)

    return sorted(places, key=order)


def _models(
    places: Sequence[_Place],
    results: Sequence[Mapping[str, Any]],
    metric: str,
    split: str,
    depth: int,
    costs: CostFormats,
    directory: Path,
) -> list[ModelRow]:
    """Compare models with the teacher and with the baseline of their budget.

    Args:
        places: the models in the order of the table.
        results: the results of the stages.
        metric: what is compared.
        split: where it was measured.
        depth: layers of the full network.
        costs: how each cost reads.
        directory: the run's.
    """
    facts = _joined(results, "facts")
    former_stored = _joined(results, "stored")  # older runs have it outside of the facts
    # First what the models are compared with, which may come after them in the table.
    scores: dict[str, float | None] = {}
    baseline_scores: dict[str | None, float | None] = {}
    teacher_score: float | None = None
    teacher_costs: Mapping[str, Any] = {}
    for place in places:
        score = place.metrics.get(split, {}).get(metric)
        scores[place.name] = score
        if place.role == "baseline":
            baseline_scores[place.budget] = score
        elif place.role == "teacher":
            teacher_score = score
            teacher_costs = place.costs

    models = []
    for number, place in enumerate(places):
        name, row = place.name, place.row
        is_last = number + 1 == len(places) or places[number + 1].budget != place.budget
        baseline_score = None
        if place.role == "winner":
            baseline_score = baseline_scores.get(place.budget)
        excess = over_budget(place.costs, bounds_of(name, results), costs)
        model_facts = dict(facts.get(name, {}))
        stored = None
        if place.blueprint.get("quantised"):  # the report has a table of its own for these
            stored = model_facts.pop("stored", former_stored.get(name))
        files = sorted(model_folder(directory, name).glob("predictions*.csv"))
        models.append(
            ModelRow(
                name=name,
                stage=row["stage"],
                path=row["path"],
                arch=row["arch"],
                blueprint=row["blueprint"],
                budget=place.budget,
                role=place.role,
                metrics=place.metrics,
                costs=place.costs,
                last_of_budget=is_last,
                score=scores[name],
                gain=_minus(scores[name], teacher_score),
                gain_over_baseline=_minus(scores[name], baseline_score),
                relative=_relative(place.costs, teacher_costs),
                facts=model_facts,
                stored=stored,
                over_budget=excess or None,
                layers=_layers(place, depth),
                predictions=[path.relative_to(directory).as_posix() for path in files],
            )
        )
    return models


def _split(places: Iterable[_Place]) -> str:
    """Return the split of the models' scores: ``dev`` if any model was evaluated there."""
    for place in places:
        if "dev" in place.metrics:
            return "dev"
    return "select"


def _first_metric(places: Iterable[_Place]) -> str:
    for place in places:
        for measured in place.metrics.values():
            for name in measured:
                return name
    return "score"


def _joined(results: Iterable[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Join what the results of several stages hold by model; later stages win."""
    joined: dict[str, Any] = {}
    for result in results:
        joined |= result.get(key, {})
    return joined


def _relative(costs: Mapping[str, Any], teacher_costs: Mapping[str, Any]) -> dict[str, float]:
    """Return costs as shares of the teacher's; facts about a measurement, such as its spread, have none."""
    shares = {}
    for name, value in costs.items():
        if not isinstance(value, int | float) or is_about_measurement(name, costs):
            continue
        if teacher_costs.get(name):
            shares[name] = value / teacher_costs[name]
    return shares


def _minus(value: float | None, other: float | None) -> float | None:
    if value is None or other is None:
        return None
    return value - other


def _full(places: Sequence[_Place]) -> FullSize:
    """Return the size of the full network: the teacher's; without a teacher, the largest sizes of all models."""
    shaped = [place for place in places if place.blueprint]
    teachers = [place for place in shaped if place.role == "teacher"]
    depth, heads, ffn = 0, 0, 0
    for place in teachers or shaped:
        layers = place.blueprint.get("layers", ())
        depth = max(depth, len(layers))
        for layer in layers:
            heads = max(heads, layer["heads"])
            ffn = max(ffn, layer["ffn"])
    # An architecture names its layers by their positions in the full network.
    for place in places:
        for position in _positions(place):
            depth = max(depth, position + 1)
    return FullSize(depth, heads, ffn)


def _positions(place: _Place) -> Sequence[int]:
    """Return which layers of the full network a model has; none if its architecture says something else of layers."""
    positions = place.arch.get("layers", ())
    are_positions = isinstance(positions, list) and all(isinstance(position, int) for position in positions)
    return positions if are_positions else ()


def _layers(place: _Place, depth: int) -> list[LayerRow]:
    """List every layer of the full network with what the model kept of it."""
    layers = place.blueprint.get("layers", ())
    if not layers:
        return []
    # The blueprint has the kept layers only; the architecture says which ones of the full network they are.
    kept = _positions(place) or range(len(layers))
    sizes = dict(zip(kept, layers, strict=False))
    rows = []
    for position in range(depth):
        size = sizes.get(position, {"heads": 0, "ffn": 0})
        rows.append(LayerRow(position, position in sizes, size["heads"], size["ffn"]))
    return rows


def _removal_errors(stages: Rows, logged: Rows) -> dict[str, float]:
    """Return how much removing parts changed logits, by stage or by model."""
    errors = {}
    for row in logged:
        model, _, name = row["name"].rpartition(" ")  # a stage that trains several models names them
        if name == "removal_error":
            errors[f"{row['stage']} {model}".rstrip()] = row["value"]
    for stage in stages:
        errors |= stage["result"].get("extract_error", {})
    return errors


def _drawings(stages: Rows) -> dict[str, Drawing]:
    """Return the drawings of architectures, by the names of winners and models."""
    drawings = {}
    for stage in stages:
        for name, drawing in stage["result"].get("drawings", {}).items():
            edges = [(source, target) for source, target in drawing["edges"]]
            drawings[name] = Drawing(drawing["nodes"], edges)
    return drawings


# ---- searches


def _searches(database: _Database, recipe: Mapping[str, Any], formats: CostFormats) -> list[SearchRow]:
    searches = []
    for stage in database.stages:
        trials = []
        for trial in database.trials:
            if trial["stage"] == stage["name"] and trial["origin"] == "search":
                trials.append(trial)
        if trials:
            searches.append(_search(stage, trials, recipe, formats))
    return searches


def _search(stage: Mapping[str, Any], trials: Rows, recipe: Mapping[str, Any], formats: CostFormats) -> SearchRow:
    """Describe a search.

    Args:
        stage: its row in the database.
        trials: its trials.
        recipe: whose budgets say which costs matter.
        formats: cost → how it reads.
    """
    result = stage["result"]
    costs = _cost_axes(recipe, trials)
    broken_off = _broken_off(trials, result)
    points = _points(trials, costs, formats, broken_off)
    states = dict.fromkeys(STATES, 0)
    for trial in trials:
        states[trial["state"]] += 1
    states["repeat"] += result.get("search", {}).get("repeats", 0)  # these are counted, not stored
    return SearchRow(
        stage=stage["name"],
        aim=result.get("objectives", [None])[0],
        costs=costs,
        split="select",
        states=states,
        best_score=max((point.score for point in points), default=None),
        run_seconds=stage["run_seconds"],
        points=points,
        winners=list(result.get("winners", ())),
        choices=_choices(result),
        full=result.get("full", {}),
        broken_off=len(broken_off),
    )


def _broken_off(trials: Rows, result: Mapping[str, Any]) -> set[int]:
    """Return the numbers of the trials that were not measured to the end, because they could no longer win."""
    counts = result.get("search", {})
    if not counts.get("broken_off"):  # searches of earlier versions measured all to the end
        return set()
    whole = (None, counts["examples"])
    return {trial["number"] for trial in trials if trial["state"] == "done" and trial["examples"] not in whole}


def _choices(result: Mapping[str, Any]) -> list[ChoiceRow]:
    """Describe how a search chose its winners; searches of earlier versions did not record it."""
    choices = []
    for name, winner in result.get("winners", {}).items():
        facts = winner.get("choice")
        if facts is not None:
            text = in_words(facts["rule"], facts["within"], facts["standard_error"])
            choices.append(ChoiceRow(winner=name, text=text, **facts))
    return choices


def _cost_axes(recipe: Mapping[str, Any], trials: Rows) -> list[str]:
    """Choose the costs to draw against: those with budgets, else the first usual one that the trials have."""
    counted: set[str] = set()
    for trial in trials:
        counted.update(trial["costs"])
    budgets = budgets_of({}, recipe.get("budgets"))
    bounded = [name for name in budgeted_costs(budgets) if name in counted]
    if bounded:
        return bounded
    by_familiarity = [*AXES, *sorted(counted)]
    usual = [name for name in by_familiarity if name in counted]
    return usual[:1]


def _points(trials: Rows, costs: Sequence[str], formats: CostFormats, broken_off: Collection[int]) -> list[Point]:
    """List each evaluated architecture once, and mark those on the front.

    Args:
        trials: the trials of a search.
        costs: the costs to draw against.
        formats: cost → how it reads.
        broken_off: the numbers of those whose score is an estimate, so that they are on no front.
    """
    latest: dict[str, Point] = {}
    for trial in trials:
        if trial["state"] != "done" or trial["score"] is None:
            continue
        # An architecture that was scored again, on more examples, counts with its last score.
        latest[trial["arch_id"]] = Point(
            number=trial["number"],
            arch_id=trial["arch_id"],
            score=trial["score"],
            violation=trial["violation"],
            examples=trial["examples"],
            costs={name: trial["costs"].get(name) for name in costs},
            front=False,
            broken_off=trial["number"] in broken_off,
        )
    points = list(latest.values())
    on_front = _front(points, costs, formats)
    return [replace(point, front=point.arch_id in on_front) for point in points]


def _front(points: Sequence[Point], costs: Sequence[str], formats: CostFormats) -> set[str]:
    """Name the feasible architectures that no other one equals or beats in everything and beats in something."""
    feasible = []
    values = []  # all to be maximised: the score, then each cost with the sign of its direction
    for point in points:
        if point.violation or point.broken_off or None in point.costs.values():
            continue
        row = [point.score]
        for name in costs:
            cost: float = point.costs[name]  # type: ignore[assignment]
            more_is_better = formats.get(name, PLAIN_COST).higher_is_better
            row.append(cost if more_is_better else -cost)
        feasible.append(point)
        values.append(row)
    return {feasible[position].arch_id for position in pareto_front(values)}


# ---- training


def _curves(logged: Rows, stages: Iterable[str]) -> dict[str, dict[str, Curve]]:
    """Group logged values by stage and name; long curves are thinned evenly."""
    grouped: dict[str, dict[str, Curve]] = {stage: {} for stage in stages}
    for row in logged:
        if row["value"] is None:  # it was not finite
            continue
        curves = grouped.setdefault(row["stage"], {})
        curve = curves.setdefault(row["name"], [])
        curve.append([row["step"], row["value"]])
    thinned = {}
    for stage, curves in grouped.items():
        if curves:
            thinned[stage] = {name: _thinned(points) for name, points in curves.items()}
    return thinned


def _thinned(points: Curve) -> Curve:
    """Return evenly spaced points of a long curve, and always its last."""
    stride = -(-len(points) // CURVE_POINTS)  # rounded up
    kept = points[::stride]
    last = len(points) - 1
    if last % stride:
        kept.append(points[last])
    return kept


def _totals(ledger: Rows, stages: Rows) -> LedgerTotal:
    searches = {stage["name"] for stage in stages if stage["verb"] == "search"}
    # Whole numbers stay exact, and a part that is unknown makes its sums unknown.
    training_macs: float | None = 0
    evaluation_macs: float | None = 0
    search_macs: float | None = 0
    tokens = evaluations = 0
    for row in ledger:
        tokens += row["tokens"]
        evaluations += row["evaluations"]
        macs = plus(row["forward_macs"], row["backward_macs"])  # some searches train their candidates
        if row["role"] != "evaluation":
            training_macs = plus(training_macs, macs)
            continue
        evaluation_macs = plus(evaluation_macs, macs)
        if row["stage"] in searches:
            search_macs = plus(search_macs, macs)
    both = plus(training_macs, search_macs)
    return LedgerTotal(training_macs, evaluation_macs, search_macs, both, tokens, evaluations)
