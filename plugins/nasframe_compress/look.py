"""Look at model and data before anything is written: what they are, and whether the model is already the teacher."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.errors import Problem, UsageError
from nasframe.heads import ASK, match
from nasframe.labels import are_independent
from nasframe.measures import CORRELATIONS, LEAST_CORRELATION, formats_of
from nasframe.recipe.resolve import check_recipe
from nasframe.report.data_table import data_text
from nasframe.report.tables import human
from nasframe.stages.inputs import RunInputs, plain_summary
from nasframe.training.forward import forward_of
from nasframe_compress.data import LARGE, Data
from nasframe_compress.request import FURTHER_COSTS, Request
from nasframe_compress.sizes import FORMATS

if TYPE_CHECKING:
    from nasframe.plan import Plan
    from nasframe.records import Evaluation

GLANCE = 256
"""How many examples a head is tried on, to see that it was trained for these labels."""


@dataclass(frozen=True)
class Look:
    """What model and data are.

    Args:
        inputs: both, loaded, with the space ``compound``.
        model: the model's use.
        family: its kind of network.
        sizes: of the network: layers, heads, ffn, width, params.
        is_teacher: whether it is fine-tuned for these labels.
        head: a sentence on its head.
        metric: the primary metric, if it is not the task's own choice.
        said: what was chosen, a sentence each.
        load_seconds: what loading model and data took.
        import_seconds: what importing the libraries took before.
    """

    inputs: RunInputs
    model: Mapping[str, Any]
    family: str
    sizes: Mapping[str, int]
    is_teacher: bool
    head: str
    metric: str | None
    said: tuple[str, ...]
    load_seconds: float = 0.0
    import_seconds: float = 0.0


def model_use(request: Request) -> dict[str, Any]:
    """Return the use of the model that a request names: a registered one, a directory, or an id of the hub.

    Raises:
        UsageError: the directory does not exist.
    """
    name = request.model
    path = Path(name).expanduser()
    use: dict[str, Any]
    if path.is_dir():
        use = {"use": "hf", "path": str(path.absolute())}
    elif name in registry.factories("model"):
        use = {"use": name}
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(f"{name}: no such directory. Expected one that save_pretrained wrote, or an id of the hub.")
    else:
        use = {"use": "hf", "path": name}
    if request.labels:
        use["labels"] = list(request.labels)
    if request.new_head:
        use["head"] = "new"
    return use


def look(request: Request, data: Data) -> Look:
    """Load model and data, and find out what they are.

    Raises:
        RecipeError: model and task do not fit together.
        UsageError: a file of either is not as expected; the message names it, and the row.
    """
    began = time.monotonic()
    import_libraries()
    import_seconds = time.monotonic() - began
    began = time.monotonic()
    model = model_use(request)
    inputs = RunInputs(_plan(model, data.task, "compound", request))
    try:
        inputs.load()
    except UsageError as error:
        # A head whose names do not say which output is which: the error names options of recipes.
        if ASK not in str(error):
            raise
        expected = "Expected --labels with the classes in the order of the head's outputs, or --new-head."
        raise UsageError(str(error).replace(ASK, expected)) from None
    load_seconds = time.monotonic() - began
    net: Any = inputs.work.net
    config = net.config
    space: Any = inputs.work.space
    sizes = {
        "layers": space.network.layers,
        "heads": space.network.heads * space.network.group,
        "ffn": space.network.ffn,
        "width": _width(config),
        "params": sum(parameter.numel() for parameter in net.parameters()),
    }
    is_teacher, head = _head(inputs)
    metric, why = _metric(request, inputs)
    said = [*data.said]
    if why:
        said.append(why)
    return Look(
        inputs,
        model,
        str(config.model_type),
        sizes,
        is_teacher,
        head,
        metric,
        tuple(said),
        load_seconds,
        import_seconds,
    )


def import_libraries() -> None:
    """Import what loading a model needs, so that it can be timed apart: a process does it once, for all its runs."""
    import torch  # noqa: F401
    import transformers.modeling_utils  # noqa: F401


def format_inputs(look: Look, data: Data, request: Request) -> RunInputs:
    """Return model and data with the space of number formats."""
    space = {"use": "nm_bits", "formats": [*FORMATS, "fp32"]}
    return RunInputs(_plan(look.model, data.task, space, request))


def _plan(model: Mapping[str, Any], task: Mapping[str, Any], space: Any, request: Request) -> Plan:
    """Return the plan of a recipe with model, task, space and the costs of the budgets, that does next to nothing."""
    costs = {cost: FURTHER_COSTS.get(cost, {"use": cost}) for budget in request.budgets for cost in budget}
    if "latency" in costs:
        costs["latency"] = {"use": "latency", "repeats": 10}
    recipe = {
        "model": dict(model),
        "task": dict(task),
        "space": space,
        "estimators": costs,
        "stages": [{"evaluate": {"split": "select", "costs": []}}],
    }
    plan, problems = check_recipe(recipe)
    if plan is None:
        raise UsageError("\n".join(_as_argument(problem) for problem in problems))
    return plan


FLAGS = {"task.metric": "--metric", "task.positive": "--positive", "task.max_length": "--max-length"}
"""Options of the recipe that arguments stand for."""


def _as_argument(problem: Problem) -> str:
    """Return a problem under the name of the argument that it is about: nobody has seen a recipe yet."""
    flag = FLAGS.get(problem.path)
    return str(problem) if flag is None else f"{flag}: {problem.text}"


def _width(config: Any) -> int:
    """Return the width of a network."""
    for name in ("hidden_size", "dim", "n_embd", "d_model"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return 0


def _head(inputs: RunInputs) -> tuple[bool, str]:
    """Tell whether a model's head is trained for the task's labels, and say so in a sentence."""
    task = inputs.task
    head = inputs.saved_head
    if head is None:
        return False, "it has no trained head, so a teacher is trained first"
    if task.labels is None:
        fits = head.kind == "regression"
    else:
        # The task has judged a head whose outputs are only numbered, and has taken over its order.
        # A head of classes was trained to choose one, a head of several labels to answer each.
        kind = "multi_label" if are_independent(task.labels) else "classes"
        fits = head.kind == kind and match(head, task.labels, published=True).kept
    if not fits:
        return False, "its head is not for these labels, so a teacher is trained first"
    glance = _glance(inputs)
    tried = f"{glance.metric} {glance.value:.2f} on {glance.examples} training examples"
    if glance.value <= glance.chance:
        return False, f"its head fits these labels, but does no better than chance ({tried}), so it is trained first"
    return True, f"its head is trained for these labels ({tried}): it is the teacher"


@dataclass(frozen=True)
class _Glance:
    """How a head does on a few examples.

    Args:
        metric: what was measured.
        value: its value.
        chance: what guessing reaches.
        examples: how many were tried.
    """

    metric: str
    value: float
    chance: float
    examples: int


def _glance(inputs: RunInputs) -> _Glance:
    """Evaluate a head on a few training examples: no choice among networks rests on them."""
    net = inputs.work.net.eval()
    result = inputs.task.evaluate(forward_of(net, net, "fp32"), "train", GLANCE)
    labels = list(result.predictions["label"])
    for name in CORRELATIONS:
        if name in result.metrics:
            return _Glance(name, result.metrics[name], LEAST_CORRELATION, len(labels))
    if are_independent(inputs.task.labels):
        return _Glance("micro_f1", result.metrics["micro_f1"], _chance_of_sets(result), len(labels))
    largest = max(labels.count(label) for label in set(labels)) / len(labels)
    return _Glance("accuracy", result.metrics["accuracy"], largest, len(labels))


def _chance_of_sets(result: Evaluation) -> float:
    """Return what a trained head exceeds: a little more than the micro F1 of the same guesses on other examples."""
    labels = [set(outputs) for outputs in result.predictions["label"]]
    guesses = [set(outputs) for outputs in result.predictions["prediction"]]
    holding = sum(map(len, labels)) + sum(map(len, guesses))
    if not holding:
        return 0.0
    found = 0.0
    for output in set().union(*labels):
        share = sum(output in guess for guess in guesses) / len(guesses)
        found += share * sum(output in label for label in labels)
    chance = 2 * found / holding
    return chance + LEAST_CORRELATION * (1 - chance)


def _metric(request: Request, inputs: RunInputs) -> tuple[str | None, str]:
    """Choose the primary metric: accuracy says little if nearly all examples are of one class."""
    counts = _class_counts(inputs)
    has_sets = are_independent(inputs.task.labels)  # their counts are not shares of the examples
    if request.metric is not None or not counts or has_sets or "macro_f1" not in formats_of(inputs.task):
        return request.metric, ""
    largest = max(counts) / sum(counts)
    if largest < LARGE:
        return None, ""
    why = f"{largest:.0%} of the examples are of one class, so macro F1 is measured first (--metric chooses another)"
    return "macro_f1", why


def _class_counts(inputs: RunInputs) -> list[int]:
    summary = plain_summary(inputs.task)
    if summary is None:
        return []
    train = next(split for split in summary["splits"] if split["name"] == "train")
    return list(train["classes"] or [])


def described(look: Look, width: int, with_notices: bool) -> Iterator[str]:
    """Yield what was seen, line by line, for a terminal.

    Args:
        look: model and data.
        width: of the terminal.
        with_notices: whether to say what model and task decided by themselves; a run says so, too.
    """
    sizes = look.sizes
    name = look.model.get("path", look.model["use"])
    yield (
        f"model  {name}: {look.family}, {sizes['layers']} layers of {sizes['heads']} heads and {sizes['ffn']} neurons, "
        f"{human(sizes['params'])} parameters;"
    )
    yield f"       {look.head}."
    for sentence in look.said:
        yield f"data   {sentence}."
    summary = plain_summary(look.inputs.task)
    if summary is not None:
        yield data_text(summary, width)
    if with_notices:
        for notice in look.inputs.notices:
            yield f"{notice.place}: {notice.text}"


def task_with_metric(task: Mapping[str, Any], metric: str | None) -> dict[str, Any]:
    """Return a task's use with a primary metric.

    >>> task_with_metric({"use": "text_classification"}, "macro_f1")
    {'use': 'text_classification', 'metric': 'macro_f1'}
    """
    return {**task, "metric": metric} if metric is not None else dict(task)
