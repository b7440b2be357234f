"""Reference outputs: what an extracted or exported model must compute on fixed inputs.

They are the logits, or every tensor of the outputs if a network has no logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nasframe.training.macs import probe_inputs

LOGITS = "logits"

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nasframe.interfaces import Work
    from nasframe.records import Arch, Forward
    from nasframe.stages.session import StageSession


def check_extracted(stage: StageSession, name: str, model: nn.Module, arch: Arch, work: Work) -> None:
    """Prove that an extracted model computes the same as its view, and keep the view's outputs for exports.

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
    inputs = probe_inputs(work.task)
    view = work.space.view(work.net.eval(), arch)
    view_forward = forward_of(view, work.net, "fp32")
    expected = _outputs(view_forward, inputs)
    model_forward = forward_of(model.eval(), model, "fp32")
    actual = _outputs(model_forward, inputs)
    difference = equivalence.same_outputs(f"{name}: the extracted model, compared with its view,", actual, expected)
    stage.result.setdefault("extract_error", {})[name] = difference
    stage.store.checkpoint(f"expected-{name}").save(_reference(inputs, expected))


def expected_outputs(stage: StageSession, name: str, net: nn.Module, work: Work) -> dict[str, Any]:
    """Return inputs, and the outputs of them that an export of a model must reproduce.

    Returns:
        ``inputs`` and ``outputs`` (name → tensor), and the ``logits`` by themselves if there are any: those kept for
        the model, or else what it computes now.
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

    inputs = probe_inputs(work.task)
    forward = forward_of(net.eval(), net, "fp32")
    return _reference(inputs, _outputs(forward, inputs))


def _reference(inputs: dict[str, Any], outputs: dict[str, Tensor]) -> dict[str, Any]:
    """Return inputs and outputs as they are kept."""
    reference: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    if LOGITS in outputs:
        reference[LOGITS] = outputs[LOGITS]
    return reference


def _outputs(forward: Forward, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Return the outputs that count in a comparison, by name, on the CPU."""
    import torch

    from nasframe.nn.outputs import compared

    with torch.no_grad():
        outputs = compared(forward(**inputs))
    return {name: tensor.cpu() for name, tensor in outputs.items()}
