"""Classification heads of Hugging Face checkpoints: what a checkpoint brings, and a network's head drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nasframe.errors import UsageError
from nasframe.heads import ASK, Head
from nasframe.weights import Checkpoint

if TYPE_CHECKING:  # torch is imported when a network is at hand, as nasframe_basics.loop explains
    from torch import nn


def saved_head(path: str, net: Any, checkpoint: Checkpoint, names: Sequence[str] | None) -> Head | None:
    """Read what head a checkpoint brings; of its weights only names and shapes.

    Args:
        path: a directory or a hub id.
        net: the network of its configuration, with a classification head and without values.
        checkpoint: the headers of its weights.
        names: what the user calls the head's outputs, in place of the configuration's names.

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
    config, weight = net.config, checkpoint.tensors.get(f"{output}.weight")
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
        return Head(tuple(names), "classes", True, path)
    if of_another_task(config):
        return Head(tuple(config.architectures), "other", False, path)
    if count == 1 and config.problem_type != "multi_label_classification":
        return Head((config.id2label.get(0, "LABEL_0"),), "regression", False, path)
    if sorted(config.id2label) != list(range(count)):
        raise UsageError(
            f"model {path!r}: id2label in its configuration numbers {list(config.id2label)}, but its head has {count} "
            f"outputs. {ASK}"
        )
    labels = tuple(str(config.id2label[output]) for output in range(count))
    several = config.problem_type == "multi_label_classification"
    return Head(labels, "multi_label" if several else "classes", False, path)


def of_another_task(config: Any) -> bool:
    """Tell whether a checkpoint's head is not for whole texts, though its weights may have the same names."""
    saved = config.architectures or []
    return any(name.endswith(("ForTokenClassification", "ForMultipleChoice")) for name in saved)


def output_layer(net: Any) -> str | None:
    """Name the linear map that gives a network's logits: the last outside of its encoder."""
    from torch import nn

    layers = [
        f"{name}.{inner}".rstrip(".")
        for name, part in head_parts(net)
        for inner, module in part.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == net.config.num_labels
    ]
    return layers[-1] if layers else None


def head_parts(net: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield what a network has beside its encoder."""
    children = dict(net.named_children())
    if net.base_model_prefix not in children:
        return  # what is its encoder is not known
    for name, part in children.items():
        if name != net.base_model_prefix:
            yield name, part


def draw_head(net: Any, seed: int) -> None:
    """Draw a network's head, all that lies beside its encoder, as where a checkpoint brings none."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _, part in head_parts(net):
            for parameter in part.parameters():
                vars(parameter).pop("_is_hf_initialized", None)  # transformers leaves alone what it has loaded
            for module in part.modules():
                net._init_weights(module)


def reorder_outputs(net: Any, outputs: Sequence[int]) -> None:
    """Move the rows of a network's last linear map: its output ``i`` becomes what ``outputs[i]`` was."""
    import torch

    name = output_layer(net)
    assert name is not None
    layer = net.get_submodule(name)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter[list(outputs)].clone())
