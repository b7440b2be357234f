"""Transform ``new_head``: gives networks the head of another task, so that one pre-training serves many tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nasframe import families
from nasframe.declarations import matching
from nasframe.errors import UsageError, listing
from nasframe.interfaces import CURRENT, RetaskableNetwork, Work
from nasframe.seeds import stream_seed

if TYPE_CHECKING:
    from torch import nn

SEQUENCE = "AutoModelForSequenceClassification"


class NewHead:
    """Give networks a new head for the stage's task, drawn from the seed; all weights below the head stay.

    A network that was trained with ``task: masked_lm`` gets the recipe's classes this way. It works with all models of
    transformers whose class for the task has the same body, sliced ones too, and with networks of one's own that have
    the method ``for_task`` (:class:`nasframe.interfaces.RetaskableNetwork`).

    Args:
        models: patterns of the models that get a head; default: the current network does.
        auto_class: injected; the auto class of transformers that has the task's head.
        seed: injected; draws the heads.

    Raises:
        UsageError: on use, if no model matches, or a network cannot have such a head.
    """

    gives_head = True

    def __init__(self, models: list[str] | None = None, auto_class: str = SEQUENCE, seed: int = 0) -> None:
        self.models = models
        self.auto_class = auto_class
        self.seed = seed

    def __call__(self, work: Work) -> Work:
        """Return the work with new heads on copies of the chosen networks."""
        if self.models is None:
            net = self.with_head(work.net, CURRENT, work.task.labels)
            return replace(work, net=net)
        names = matching(list(work.models), self.models)
        if not names:
            raise UsageError(f"new_head.models: {listing(self.models)} match none of {listing(work.models)}.")
        made = {name: self.with_head(work.models[name], name, work.task.labels) for name in names}
        return replace(work, models={**work.models, **made})

    def with_head(self, net: nn.Module, name: str, labels: Sequence[str] | None) -> nn.Module:
        """Return a copy of a network with a new head.

        Args:
            net: the network.
            name: its name, of which its head's seed is made.
            labels: the task's classes, or ``None``.
        """
        import torch

        seed = stream_seed(self.seed, "head", name)
        device = next(net.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(net, RetaskableNetwork):
                made = net.for_task(self.auto_class, labels)
            else:
                made = with_transformers_head(net, self.auto_class, labels)
        return made.to(device).train(net.training)


def with_transformers_head(net: Any, auto_class: str, labels: Sequence[str] | None) -> nn.Module:
    """Return a model of transformers with another head, drawn from torch's generator, and the same body.

    Args:
        net: the model; of a family that can be sliced, its layers may have any sizes.
        auto_class: the auto class of transformers that has the head.
        labels: the task's classes, or ``None``.

    Raises:
        UsageError: transformers has no such class for the model, or one with another body.
    """
    import transformers

    from nasframe_basics.heads import draw_head, is_classifier
    from nasframe_basics.models import head_fields

    config = getattr(net, "config", None)
    mapping = getattr(transformers, auto_class)._model_mapping
    if type(config) not in mapping:
        raise UsageError(f"new_head: transformers has no {auto_class} with the body of a {type(net).__name__}.")
    description = families.describe(net)
    description["model"] = mapping[type(config)].__name__
    fields = dict(description["config"])
    for field in ("id2label", "label2id", "problem_type", "num_labels"):
        fields.pop(field, None)
    fields["architectures"] = [description["model"]]
    if is_classifier(auto_class):
        fields |= head_fields(labels)
    description["config"] = fields
    made: Any = families.build(description)
    body = body_of(net)
    new_body = body_of(made)
    loaded = new_body.load_state_dict(copy.deepcopy(body.state_dict()), strict=False)
    lost = [name for name in loaded.missing_keys if not name.startswith("pooler.")]
    if lost:
        raise UsageError(f"new_head: a {type(net).__name__} lacks {listing(lost[:3])} of a {type(made).__name__}.")
    if loaded.missing_keys:  # a pooler belongs to the head of a classifier, though it lies in the body
        redraw_weights(made, new_body.pooler)
    draw_head(made, int(_drawn_seed()))
    made.tie_weights()
    return made  # type: ignore[no-any-return]


def _drawn_seed() -> Any:
    """Return a seed that is drawn from torch's generator, for functions that seed it by themselves."""
    import torch

    return torch.randint(2**31, ())


def body_of(net: Any) -> Any:
    """Return a model of transformers without its head.

    Raises:
        UsageError: it does not name its body.
    """
    prefix = getattr(net, "base_model_prefix", "")
    if not prefix or not hasattr(net, prefix):
        raise UsageError(
            f"new_head: the head of a {type(net).__name__} cannot be told from its body. Expected a model of "
            "transformers, or a network of one's own with the method 'for_task'."
        )
    return getattr(net, prefix)


def redraw_weights(net: Any, part: nn.Module) -> None:
    """Draw the weights of a part of a model again, from torch's generator, as transformers draws new ones."""
    import torch

    with torch.no_grad():
        for parameter in part.parameters():
            vars(parameter).pop("_is_hf_initialized", None)  # transformers skips tensors with this mark
        for module in part.modules():
            net._init_weights(module)
