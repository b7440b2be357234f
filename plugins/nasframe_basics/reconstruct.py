"""Transform ``reconstruct``: fits the output matrices of extracted models to a larger network, without training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from nasframe.declarations import matching
from nasframe.errors import UsageError, listing
from nasframe.interfaces import Work, sizes_of
from nasframe.records import Batch, Count, Positive, Size
from nasframe.seeds import stream_seed

if TYPE_CHECKING:  # torch is imported when the transform works, as nasframe_basics.loop explains
    from torch import nn

    from nasframe.nn.reconstruct import Fit


class Reconstruct:
    """Fit the output matrices of extracted models to the network they come from, by least squares and without labels.

    Layer by layer from the bottom, the map out of the heads and the map out of the neurons, with their biases, are
    solved for, so that the sums before the layer's normalisations come closest to the reference's on unlabelled
    training inputs. Where layers were dropped, the kept layer before them is fitted to the state that the next kept
    layer gets in the reference. Normalisations are taken over from the reference. Weights are held near those so far,
    so that a model equal to its reference stays as it is, and no matrix's error increases on these inputs.

    It is meant for models cut out of a network that was not trained at their size. Sub-networks that were trained with
    their super-network are adapted to what they lack, and may lose by it: measure both.

    Kwon et al. (arXiv 2204.09656) fit scales of heads and neurons by least squares, and K-prune (arXiv 2308.03449)
    tunes weights sub-layer by sub-layer. Here the targets are the reference's sums, so that errors of lower layers are
    corrected, too.

    It takes a few forward passes of both networks over ``examples``, and one linear system for each matrix. Sizes and
    costs stay the same. ``train: {models: [...]}`` may follow.

    Args:
        models: patterns of the models that are fitted.
        reference: name of a saved network of the same family and hidden size, such as the teacher; default: the
            current network, which models are extracted from.
        examples: training examples whose inputs are used.
        batch_size: examples in each forward pass.
        ridge: how strongly weights are held at their values, relative to the mean square of a matrix's inputs.
        parts: the map out of the heads (``attention``), the map out of the neurons (``ffn``), or both.
        seed: draws the examples.

    Raises:
        UsageError: on use, if no model matches, if a model is quantised, sparse or factorised, or if it does not fit
            the reference.
    """

    reshapes = False

    def __init__(
        self,
        models: Sequence[str] = ("best@*",),
        reference: str | None = None,
        examples: Count = 1024,
        batch_size: Size = 32,
        ridge: Positive = 1e-3,
        parts: list[Literal["attention", "ffn"]] | None = None,
        seed: int = 0,
    ) -> None:
        self.models = models
        self.reference = reference
        self.examples = examples
        self.batch_size = batch_size
        self.ridge = ridge
        self.parts = parts
        self.seed = seed
        self.fits: dict[str, list[Fit]] = {}  # model → the errors of its matrices

    def __call__(self, work: Work) -> Work:
        """Return the work with fitted copies of the chosen models."""
        from nasframe.nn.reconstruct import PARTS, reconstruct

        reference = copy.deepcopy(self.referred(work)).eval()
        names = self.chosen(work)
        batches = self.batches(work, reference)
        fitted: dict[str, Any] = {}
        for name in names:
            layers = fitting_layers(name, work, reference)
            net = copy.deepcopy(work.models[name])
            was_training = net.training
            self.fits[name] = reconstruct(net.eval(), reference, layers, batches, self.ridge, self.parts or PARTS)
            fitted[name] = net.train(was_training)
        return replace(work, models={**work.models, **fitted})

    def referred(self, work: Work) -> nn.Module:
        """Return the network that models are fitted to."""
        if self.reference is None:
            return work.net
        if self.reference not in work.models:
            raise UsageError(
                f"reconstruct.reference: no network {self.reference!r}. There are: {listing(work.models)}."
            )
        return work.models[self.reference]

    def chosen(self, work: Work) -> list[str]:
        """Return the names of the models to fit."""
        names = [name for name in matching(work.models, self.models) if name != self.reference]
        if not names:
            raise UsageError(
                f"reconstruct.models: {list(self.models)} match no model to fit. There are: {listing(work.models)}."
            )
        return names

    def batches(self, work: Work, reference: nn.Module) -> list[Batch]:
        """Return the inputs, on the networks' device."""
        device = next(reference.parameters()).device
        batches = []
        left = self.examples
        for batch in work.task.train_batches(stream_seed(self.seed, "data", "reconstruct"), 0, self.batch_size):
            if left <= 0:
                break
            batches.append(batch.to(device))
            left -= len(batch)
        return batches


def fitting_layers(name: str, work: Work, reference: nn.Module) -> list[int]:
    """Return the reference's layer that each layer of a model comes from, after checking that the model can be fitted.

    Args:
        name: the model.
        work: has it, and the architecture of the same name if it was extracted.
        reference: the reference.

    Raises:
        UsageError: the model cannot be fitted to this reference.
    """
    from nasframe.nn.elastic import layers_of

    start = f"reconstruct: model {name!r}"
    require_plain_matrices(start, work.models[name], reference)
    depth = len(layers_of(work.models[name]))
    reference_depth = len(layers_of(reference))
    arch = sizes_of(work.space, work.archs.get(name))
    if arch is not None and "layers" in arch:
        layers = [int(layer) for layer in arch["layers"]]
        is_inside = max(layers, default=-1) < reference_depth
    else:  # without an architecture, layers can only be paired if none is missing
        layers = list(range(depth))
        is_inside = depth == reference_depth
    if len(layers) != depth or not is_inside:
        raise UsageError(
            f"{start} has {depth} layers, the reference {reference_depth}, and no architecture says which of them are "
            "the same. Expected a model that 'extract' made, or equal depths."
        )
    return layers


def require_plain_matrices(start: str, net: nn.Module, reference: nn.Module) -> None:
    """Refuse networks whose output matrices cannot be replaced.

    Args:
        start: the beginning of the error's text.
        net: the model.
        reference: the reference.

    Raises:
        UsageError: the two are of different kinds, or the model's matrices are compressed.
    """
    from nasframe.nn.elastic import FactorizedLinear, base_of, family_name, family_of, layers_of
    from nasframe.nn.formats import record_of

    try:
        is_same_family = family_name(net) == family_name(reference)
    except TypeError as error:
        raise UsageError(f"{start}: {error}") from error
    if not is_same_family or base_of(net).config.hidden_size != base_of(reference).config.hidden_size:
        raise UsageError(f"{start} and its reference differ in family or hidden size. Expected equal ones.")
    if not family_of(net).norms:
        raise UsageError(
            f"{start} is a {type(net).__name__}, whose layers normalise what they read and not their sums. Expected a "
            "family such as BERT: the errors are those of normalised sums."
        )
    if record_of(net):
        raise UsageError(
            f"{start} has quantised or n:m sparse matrices, which new weights would not obey. Expected reconstruct "
            "before they are compressed."
        )
    for path, module in layers_of(net).named_modules():
        if isinstance(module, FactorizedLinear):
            raise UsageError(f"{start}: {path} is a product of two matrices. Expected reconstruct before svd.")
