"""What a model card says: the front matter that the hub reads, and the facts of a run as tables.

Nothing of this machine is in it: of files only their names are written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.report.format import metric_format, metric_formats, titled

if TYPE_CHECKING:
    from nasframe.records import MetricFormat

PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
"""End of a class's name → the hub's name of what its models do."""
TAGS = ("nasframe", "neural-architecture-search", "compression")
DATA_OPTIONS = ("hub", "name", "train", "path")
"""Options of tasks that say which data they read; the first that is there names the data set."""
OF_HUB = ("perplexity",)
"""Metrics of which less is better that the hub knows; others, such as the loss, are in the card's table alone."""
NO_TASK = "other"
"""What the hub calls a task that it has no name for."""


def pipeline_of(model: str) -> str | None:
    """Return the hub's name of what a model does.

    Args:
        model: the name of its class.

    >>> pipeline_of("BertForSequenceClassification")
    'text-classification'
    """
    for ending, tag in PIPELINES.items():
        if model.endswith(ending):
            return tag
    return None


def public(value: Any) -> Any:
    """Return options without the folders of this machine: of a local path only the last part stays.

    >>> public({"use": "text_classification", "train": "/home/me/data/reviews.csv", "label": "stars"})
    {'use': 'text_classification', 'train': 'reviews.csv', 'label': 'stars'}
    >>> public(["../a/b.tsv", 3])
    ['b.tsv', 3]
    """
    if isinstance(value, Mapping):
        return {key: _public_option(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if not isinstance(value, str) or not _looks_local(value):
        return value
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1]


def _public_option(key: str, value: Any) -> Any:
    """Return one option's value without folders of this machine; ids of plugins and of the hub may have a slash."""
    if key == "use" or (key == "hub" and not _is_local_folder(value)):
        return value
    return public(value)


def _looks_local(text: str) -> bool:
    """Tell whether a text is a path that means something on this machine only; a hub id has one slash and no file."""
    has_ending = bool(os.path.splitext(text)[1])
    return _is_local_folder(text) or ("/" in text and has_ending)


def _is_local_folder(text: Any) -> bool:
    """Tell whether a text is the path of a folder, as the option ``hub`` may have, and not an id of the hub."""
    if not isinstance(text, str):
        return False
    if text.startswith(("/", "~", ".")) or "\\" in text or text.count("/") > 1:
        return True
    return "/" in text and os.path.exists(text)


def data_set(task: Any) -> dict[str, str]:
    """Return how the hub's records name a task's data: ``type``, ``name`` and perhaps ``config``.

    Args:
        task: the recipe's task, with its options, or its name.

    >>> data_set({"use": "text_classification", "train": "/home/me/reviews.csv"})
    {'type': 'reviews', 'name': 'reviews.csv'}
    >>> data_set({"use": "glue", "name": "sst2", "path": "/data/glue"})
    {'type': 'glue', 'name': 'glue sst2', 'config': 'sst2'}
    >>> data_set("package_docs")
    {'type': 'package_docs', 'name': 'package_docs'}
    """
    options: Mapping[str, Any] = task if isinstance(task, Mapping) else {"use": str(task or NO_TASK)}
    use = str(options.get("use", NO_TASK))
    for option in DATA_OPTIONS:
        value = options.get(option)
        if not isinstance(value, str):
            continue
        if option == "hub" and not _is_local_folder(value):
            config = options.get("config")
            return {"type": value, "name": value} | ({"config": str(config)} if config else {})
        if option == "name":
            return {"type": use, "name": f"{use} {value}", "config": value}
        name = str(public(value)).rpartition("/")[2]
        stem = os.path.splitext(name)[0]
        return {"type": re.sub(r"[^\w.-]+", "-", stem) or use, "name": name}
    return {"type": use, "name": use}


def front_matter(name: str, sizes: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """Return the YAML with which a card begins, by huggingface_hub's own classes: tags, licence and ``model-index``.

    Args:
        name: the model's name.
        sizes: the summary of the network.
        card: see :func:`nasframe.export.files.card_text`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    pipeline = pipeline_of(sizes["model"])
    formats = metric_formats(card.get("data") or {})
    metrics = card.get("metrics") or {}
    of_hub = []
    for metric in sorted(metrics):
        is_known = metric.rpartition(" ")[2] in OF_HUB
        if is_known or metric_format(formats, metric).higher_is_better:
            of_hub.append(metric)
    task = card.get("task")
    data = data_set(task)
    results = []
    for metric in of_hub:
        split, _, bare = metric.rpartition(" ")  # a deployment measures on another split, and says so
        result = EvalResult(
            task_type=pipeline or NO_TASK,
            dataset_type=data["type"],
            dataset_name=data["name"],
            dataset_config=data.get("config"),
            dataset_split=split or card.get("split") or "dev",
            metric_type=bare,
            metric_name=titled(metric, metric_format(formats, metric)),
            metric_value=round(float(metrics[metric]), 6),
        )
        results.append(result)
    base = card.get("base") or {}
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "license": base.get("license"),
        "license_name": base.get("license_name"),
        "license_link": base.get("license_link"),
        "base_model": base.get("name"),
        "tags": [*TAGS, sizes["family"]],
        "pipeline_tag": pipeline,
        "metrics": of_hub or None,
    }
    if isinstance(task, Mapping) and "hub" in task and not _is_local_folder(task["hub"]):
        fields["datasets"] = [data["type"]]
    if results:  # without results there is no model-index, which a name alone would begin
        fields |= {"model_name": name, "eval_results": results}
    text: str = ModelCardData(**fields).to_yaml(line_break="\n")
    return f"{text.rstrip()}\n"


def result_rows(card: Mapping[str, Any]) -> list[list[str]]:
    """Return the card's table of results, its heading first; empty without metrics.

    The teacher's columns are there if the teacher was measured.
    """
    formats = metric_formats(card.get("data") or {})
    metrics = card.get("metrics") or {}
    if not metrics:
        return []
    teacher = card.get("teacher") or {}
    rows = [["metric", "this model"] + (["the teacher", "difference"] if teacher else [])]
    for metric, value in metrics.items():
        form = metric_format(formats, metric)
        row = [titled(metric, form), _number(form, value)]
        if teacher:
            reference = teacher.get(metric)
            row.append("–" if reference is None else _number(form, reference))
            row.append("–" if reference is None else _gap(form, value - reference))
        rows.append(row)
    return rows


def _number(form: MetricFormat, value: float) -> str:
    return f"{100 * value:.2f} %" if form.percent else f"{value:.4g}"


def _gap(form: MetricFormat, value: float) -> str:
    text = f"{100 * value:+.2f} points" if form.percent else f"{value:+.4g}"
    return text.replace("-", "−")


def origin_rows(card: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    """Return what a card says about where a model comes from, without folders of this machine."""
    rows = []
    for key in ("name", "model", "task"):
        value = card.get(key)
        if value:
            rows.append((key, public(value)))
    return rows
