"""Reference outputs: the logits on fixed inputs that an extracted or exported model must reproduce."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nasframe.interfaces import Work
    from nasframe.records import Arch, Forward
    from nasframe.stages.session import StageSession

EXAMPLES = 8
"""How many training examples models are compared on; a wrong slice shows on any input."""


def check_extracted(stage: StageSession, name: str, model: nn.Module, arch: Arch, work: Work) -> None:
    """Prove that an extracted model computes the same as its view, and keep the view's logits for exports.

    Args:
        stage: the stage that extracts.
        name: the model's name.
        model: the extracted model.
        arch: the architecture it was extracted at.
        work: whose network it was extracted from.

    Raises:
        VerificationError: the two differ.
    """
    from nasframe.training import equivalence
    from nasframe.training.forward import forward_of

    assert work.space is not None
    # In fp32, whatever the run trains in: rounding to bfloat16 would hide a wrong slice.
    inputs = _probe_inputs(work)
    view = work.space.view(work.net.eval(), arch)
    view_forward = forward_of(view, work.net, "fp32")
    expected = _logits(view_forward, inputs)
    model_forward = forward_of(model.eval(), model, "fp32")
    actual = _logits(model_forward, inputs)
    difference = equivalence.same(f"{name}: the extracted model, compared with its view,", actual, expected)
    stage.result.setdefault("extract_error", {})[name] = difference
    stage.store.checkpoint(f"expected-{name}").save({"inputs": inputs, "logits": expected})


def expected_outputs(stage: StageSession, name: str, net: nn.Module, work: Work) -> dict[str, Any]:
    """Return the inputs and logits that an export of a model must reproduce.

    Returns:
        ``inputs`` (name → tensor) and ``logits``: those kept for the model, or else what it computes now.
    """
    # Those of the extraction if there are any, so that an export is compared with the network that was searched.
    kept = stage.store.checkpoint(f"expected-{name}").load()
    if kept is not None:
        return kept
    return _outputs_now(net, work)


def renew_expected(stage: StageSession, name: str, net: nn.Module, work: Work) -> None:
    """Replace the outputs that are kept for a model, because its weights have changed."""
    stage.store.checkpoint(f"expected-{name}").save(_outputs_now(net, work))


def _outputs_now(net: nn.Module, work: Work) -> dict[str, Any]:
    from nasframe.training.forward import forward_of

    inputs = _probe_inputs(work)
    forward = forward_of(net.eval(), net, "fp32")
    return {"inputs": inputs, "logits": _logits(forward, inputs)}


def _logits(forward: Forward, inputs: dict[str, Any]) -> Tensor:
    import torch

    with torch.no_grad():
        logits: Tensor = forward(**inputs).logits.cpu()
    return logits


def _probe_inputs(work: Work) -> dict[str, Any]:
    """Return the inputs on which models are compared: the task's first training batch, the same in every process."""
    batch = next(iter(work.task.train_batches(0, 0, EXAMPLES)))
    return dict(batch.inputs)
