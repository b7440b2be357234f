"""Classification heads of Hugging Face networks: reads the head of a checkpoint, draws a new one, reorders outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UsageError
from nasframe.heads import ASK, Head
from nasframe.weights import Checkpoint

if TYPE_CHECKING:  # torch is imported when there is a network, as nasframe_basics.loop explains
    from torch import nn


def saved_head(path: str, net: Any, checkpoint: Checkpoint, names: Sequence[str] | None) -> Head | None:
    """Return the head that a checkpoint brings; only names and shapes of its weights are read.

    Args:
        path: a directory or a hub id.
        net: the network of its configuration, with a classification head and without values.
        checkpoint: the headers of its weights.
        names: the user's names of the head's outputs, in place of the configuration's.

    Returns:
        The head; ``None`` if the checkpoint has no weights of a classification head.

    Raises:
        UsageError: the names do not fit the weights.
    """
    output = output_layer(net)
    if output is None:
        raise UsageError(
            f"model {path!r}: its classification head cannot be told from its encoder. Expected a network "
            "whose encoder has the name that its base_model_prefix says."
        )
    weight = checkpoint.tensors.get(f"{output}.weight")
    if weight is None:
        if names is not None:
            raise UsageError(
                f"model.labels: model {path!r} brings no classification head whose outputs could be named."
            )
        return None
    count = weight.shape[0]
    if names is not None:
        if len(names) != count:
            raise UsageError(f"model.labels: {len(names)} names, but the head of model {path!r} has {count} outputs.")
        return Head(tuple(names), _kind(net.config), given=True, model=path)
    return _configured_head(path, net.config, count)


def _configured_head(path: str, config: Any, count: int) -> Head:
    """Return a head of ``count`` outputs with the names in its configuration."""
    if of_another_task(config):
        return Head(tuple(config.architectures), "other", model=path)
    kind = _kind(config)
    # transformers' rule, too: one output is a score.
    if count == 1 and kind == "classes":
        name = config.id2label.get(0, "LABEL_0")
        return Head((name,), "regression", model=path)
    if sorted(config.id2label) != list(range(count)):
        raise UsageError(
            f"model {path!r}: id2label in its configuration numbers {list(config.id2label)}, but its head has {count} "
            f"outputs. {ASK}"
        )
    labels = tuple(str(config.id2label[output]) for output in range(count))
    return Head(labels, kind, model=path)


def _kind(config: Any) -> Literal["classes", "multi_label"]:
    """Return whether the outputs of a head are classes, or say yes or no each."""
    return "multi_label" if config.problem_type == "multi_label_classification" else "classes"


def is_classifier(auto_class: str) -> bool:
    """Tell whether the networks of an auto class have one output for each class of whole examples.

    >>> is_classifier("AutoModelForImageClassification"), is_classifier("AutoModelForCausalLM")
    (True, False)
    """
    return auto_class in ("AutoModelForSequenceClassification", "AutoModelForImageClassification")


def of_another_task(config: Any) -> bool:
    """Tell whether a checkpoint's head is not for whole texts, though its weights may have the same names."""
    saved = config.architectures or []
    return any(name.endswith(("ForTokenClassification", "ForMultipleChoice")) for name in saved)


def output_layer(net: Any) -> str | None:
    """Return the name of the linear map that gives a network's logits: the last one outside of its encoder."""
    from torch import nn

    output = None
    for part_name, part in head_parts(net):
        for inner_name, module in part.named_modules():
            # A hidden layer of a head could be as wide by chance, but the logits' map comes last.
            if isinstance(module, nn.Linear) and module.out_features == net.config.num_labels:
                output = f"{part_name}.{inner_name}".rstrip(".")  # a part that is itself the map has no inner name
    return output


def head_parts(net: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a network outside of its encoder, by name; none if its encoder is not known."""
    children = dict(net.named_children())
    if net.base_model_prefix not in children:
        return
    for name, part in children.items():
        if name != net.base_model_prefix:
            yield name, part


def draw_head(net: Any, seed: int) -> None:
    """Draw the weights of a network's head again, as transformers draws those that a checkpoint lacks."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _, part in head_parts(net):
            for parameter in part.parameters():
                vars(parameter).pop("_is_hf_initialized", None)  # transformers skips tensors with this mark
            for module in part.modules():
                net._init_weights(module)


def reorder_outputs(net: Any, outputs: Sequence[int]) -> None:
    """Reorder the rows of a network's last linear map: its new output ``i`` is the old output ``outputs[i]``."""
    import torch

    name = output_layer(net)
    assert name is not None
    layer = net.get_submodule(name)
    with torch.no_grad():
        for parameter in layer.parameters():
            rows = parameter[list(outputs)].clone()  # weight and bias alike have a row for each output
            parameter.copy_(rows)
