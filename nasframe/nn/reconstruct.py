"""Least-squares reconstruction: fit the output matrices of a small encoder to the hidden states of a larger one.

A layer of these families (post-norm) has two matrices that write to its hidden states: ``merge`` out of the heads, and
``shrink`` out of the neurons. Each is the last linear map before a normalisation, so that the weights with which the
normalised sum comes closest to the reference's are the solution of a linear system. Layers are fitted from the bottom
up, each on what the fitted layers below it return, so that later ones also correct the errors of earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from nasframe.nn.elastic import FamilyRow, base_of, family_of, layers_of
from nasframe.nn.positions import real_tokens
from nasframe.records import Batch

PARTS = ("attention", "ffn")

LayerCall: TypeAlias = Callable[[nn.Module, torch.Tensor], Any]
"""Calls a layer on hidden states as the encoder does, with the attention mask of one batch."""


@dataclass(frozen=True)
class Fit:
    """The outcome for one matrix.

    Args:
        layer: the layer of the small network.
        part: ``attention`` (matrix ``merge``) or ``ffn`` (``shrink``).
        before: squared difference of the sums before normalisation, as a share of the reference's squared sums.
        after: the same with the fitted matrix; never more than ``before``.
    """

    layer: int
    part: str
    before: float
    after: float


@torch.no_grad()
def reconstruct(
    net: nn.Module,
    reference: nn.Module,
    layers: Sequence[int],
    batches: Sequence[Batch],
    ridge: float = 1e-3,
    parts: Collection[str] = PARTS,
) -> list[Fit]:
    """Fit a network's output matrices, in place, to a reference's hidden states.

    Let ``r`` be the residual that a matrix's output is added to, ``X`` the matrix's inputs, and ``S`` the sum that the
    reference has in the same place. ``W`` and ``b`` minimise ``‖r + X W + b − S‖² + λ ‖W − W₀‖²`` over all real tokens,
    where ``W₀`` are the weights so far and ``λ`` is ``ridge`` times the mean diagonal entry of ``XᵀX``.

    The place of a layer's attention is the attention of the reference's layer that it comes from. Its FFN has to
    return what the next kept layer expects, so its place is the FFN of the last reference layer before that one: where
    layers were dropped, it stands for these, too. The normalisation behind each place is the reference's; it is copied.

    Sums are accumulated in float64. At most seven hidden states of all tokens are in memory at a time.

    Args:
        net: the small network.
        reference: a network of the same family and hidden size; both are in eval mode.
        layers: the reference's layer that each layer of ``net`` comes from, ascending.
        batches: unlabelled inputs, on the networks' device.
        ridge: how strongly weights are held where they are, above 0.
        parts: which matrices are fitted, of :data:`PARTS`.

    Returns:
        The errors before and after, in the order in which matrices were fitted.

    >>> from nasframe.nn.slices import extract
    >>> from nasframe.testing.toy import ToyTask, tiny_net
    >>> full = tiny_net()
    >>> small = extract(full, {"layers": [0, 2], "ffn.0": 32})
    >>> fits = reconstruct(small, full, [0, 2], ToyTask().train_batches(0, 0, 32))
    >>> [(fit.layer, fit.part, fit.after <= fit.before) for fit in fits]
    [(0, 'attention', True), (0, 'ffn', True), (1, 'attention', True), (1, 'ffn', True)]
    """
    small = _Stream(net, batches)
    full = _Stream(reference, batches)
    fits = []
    next_layers = [*layers, len(full.layers)]
    for dropped in range(next_layers[0]):  # before the first kept layer
        full.advance(dropped)
    for number, position in enumerate(layers):
        last = next_layers[number + 1] - 1  # of the reference's layers that this one stands for
        targets = _targets(full, position, last)
        sources = {"attention": full.layers[position], "ffn": full.layers[last]}
        for part in PARTS:  # in the order of the forward pass: the FFN reads what attention writes
            if part not in parts:
                continue
            norm = _norm(small.family, small.layers[number], part)
            norm.load_state_dict(_norm(full.family, sources[part], part).state_dict())
            before, after = _fit(small, number, part, targets[part], ridge)
            fits.append(Fit(number, part, before, after))
        small.advance(number)
    return fits


@dataclass(frozen=True)
class _Trace:
    """What one layer computed for one batch.

    Args:
        output: its hidden states.
        inputs: part → the inputs of its output matrix.
        sums: part → residual plus the matrix's output, which the layer then normalises.
    """

    output: torch.Tensor
    inputs: Mapping[str, torch.Tensor]
    sums: Mapping[str, torch.Tensor]


class _Stream:
    """The hidden states of all batches between two layers of a network.

    Args:
        net: the network.
        batches: the inputs.
    """

    def __init__(self, net: nn.Module, batches: Sequence[Batch]) -> None:
        self.family = family_of(net)
        self.layers = list(layers_of(net))
        self.states: list[torch.Tensor] = []
        self.masks: list[torch.Tensor] = []
        self.calls: list[LayerCall] = []  # by batch, as states and masks
        for batch in batches:
            state, call = _first_call(net, self.family, batch)
            self.states.append(state)
            self.calls.append(call)
            self.masks.append(real_tokens(batch))

    def traces(self, number: int) -> Iterator[_Trace]:
        """Run a layer on the states of each batch."""
        for state, call in zip(self.states, self.calls, strict=True):
            yield _traced(self.family, self.layers[number], state, call)

    def advance(self, number: int) -> None:
        """Replace the states by a layer's outputs."""
        self.states = [trace.output for trace in self.traces(number)]


class _Recorder(nn.Module):
    """Stands for all layers of an encoder, and records how they are called."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.hidden_states = hidden_states
        self.args = args
        self.kwargs = kwargs
        return hidden_states


def _first_call(net: nn.Module, family: FamilyRow, batch: Batch) -> tuple[torch.Tensor, LayerCall]:
    """Return the embeddings' output for a batch, and a function that calls a layer as the encoder would."""
    # The encoder makes attention masks and other arguments in its own way, so it is asked and not imitated.
    base = base_of(net)
    layers = base.get_submodule(family.layers)
    recorder = _Recorder()
    base.set_submodule(family.layers, nn.ModuleList([recorder]))
    try:
        base(**batch.inputs)
    finally:
        base.set_submodule(family.layers, layers)
    args, kwargs = recorder.args, recorder.kwargs
    return recorder.hidden_states, lambda layer, state: layer(state, *args, **kwargs)


def _traced(family: FamilyRow, layer: nn.Module, state: torch.Tensor, call: LayerCall) -> _Trace:
    """Run a layer on hidden states ``(batch, length, width)``, and record what its output matrices read and write."""
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def record(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            inputs[path] = args[0]
            outputs[path] = output

        return hook

    (widen,) = family.writers("ffn")
    paths = (family.merge, widen, family.shrink)
    handles = [layer.get_submodule(path).register_forward_hook(record(path)) for path in paths]
    try:
        result = call(layer, state)
    finally:
        for handle in handles:
            handle.remove()
    output = result[0] if isinstance(result, tuple) else result
    # The FFN's residual is what the neurons read: the normalised output of attention.
    sums = {"attention": state + outputs[family.merge], "ffn": inputs[widen] + outputs[family.shrink]}
    return _Trace(output, {"attention": inputs[family.merge], "ffn": inputs[family.shrink]}, sums)


def _targets(full: _Stream, position: int, last: int) -> dict[str, list[torch.Tensor]]:
    """Return part → the reference's sums for each batch, and advance the reference behind layer ``last``."""
    targets: dict[str, list[torch.Tensor]] = {"attention": [], "ffn": []}
    for layer in range(position, last + 1):
        outputs = []
        for trace in full.traces(layer):  # one at a time: a trace is several times larger than what is kept of it
            if layer == position:
                targets["attention"].append(trace.sums["attention"])
            if layer == last:
                targets["ffn"].append(trace.sums["ffn"])
            outputs.append(trace.output)
        full.states = outputs
    return targets


def _fit(small: _Stream, number: int, part: str, targets: Sequence[torch.Tensor], ridge: float) -> tuple[float, float]:
    """Fit one matrix in place, and return its relative errors before and after."""
    path = small.family.merge if part == "attention" else small.family.shrink
    linear: Any = small.layers[number].get_submodule(path)
    system = LeastSquares(linear.in_features, linear.out_features, linear.weight.device)
    scale = 0.0
    for trace, target, is_real in zip(small.traces(number), targets, small.masks, strict=True):
        wanted = target[is_real].double()
        # The change of the output is fitted, so that networks that agree differ by exactly 0.
        missing = wanted - trace.sums[part][is_real].double()
        system.add(trace.inputs[part][is_real], missing)
        scale += float(wanted.square().sum())
    weight, bias, error = system.solve(ridge)
    linear.weight.add_(weight.to(linear.weight.dtype))
    linear.bias.add_(bias.to(linear.bias.dtype))
    return system.error / scale, error / scale


class LeastSquares:
    """A linear least-squares problem ``X Δ + δ ≈ E``, summed up batch by batch in float64.

    Args:
        inputs: columns of ``X``.
        outputs: columns of ``E``.
        device: where the sums lie.

    >>> system = LeastSquares(1, 1)
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> system.add(x, 3 * x + 1)
    >>> weight, bias, error = system.solve(1e-12)
    >>> round(float(weight), 6), round(float(bias), 6), round(error, 6)
    (3.0, 1.0, 0.0)
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        size = inputs + 1  # the last column is the bias's
        self.gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.cross = torch.zeros(size, outputs, dtype=torch.float64, device=device)
        self.error = 0.0  # ‖E‖², the error if nothing changes

    def add(self, x: torch.Tensor, missing: torch.Tensor) -> None:
        """Add rows of ``X`` ``(tokens, inputs)`` and of ``E`` ``(tokens, outputs)``."""
        ones = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
        x = torch.cat([x.double(), ones], dim=1)
        missing = missing.double()
        self.gram += x.T @ x
        self.cross += x.T @ missing
        self.error += float(missing.square().sum())

    def solve(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Return ``Δᵀ`` ``(outputs, inputs)``, ``δ`` and the error that is left; ``‖Δ‖²`` counts by ``ridge``.

        The change is 0 if rounding errors keep the solution from being better than none.
        """
        system = self.gram.clone()
        weights = system.diagonal()[:-1]
        if len(weights):
            weights += ridge * weights.mean()
        # If all inputs are 0, so is what the ridge adds: their equations are made 0 = 0.
        is_empty = system.diagonal() == 0
        system.diagonal()[is_empty] = 1.0
        change = torch.linalg.solve(system, self.cross)
        # ‖X Δ − E‖² = ‖E‖² + ⟨Δ, XᵀX Δ − 2 XᵀE⟩
        error = self.error + float((change * (self.gram @ change - 2 * self.cross)).sum())
        if not error <= self.error:  # written so that NaN is refused, too
            change = torch.zeros_like(change)
            error = self.error
        return change[:-1].T, change[-1], max(error, 0.0)


def _norm(family: FamilyRow, layer: nn.Module, part: str) -> nn.Module:
    """Return the normalisation that follows a part."""
    after_attention, after_ffn = family.norms
    return layer.get_submodule(after_attention if part == "attention" else after_ffn)
