"""Estimator ``predictor``: a cost that is measured on a few sub-networks, and predicted for all others.

A measurement of a latency takes as long as an evaluation, and a search asks for thousands of costs. So the cost of a
few dozen architectures is measured, and a regression on their choices predicts the others, as do the latency predictors
of HAT (Wang et al., ACL 2020, arXiv 2005.14187).

What is kept is what was measured, as plain JSON: the regression is fitted again from it, with the same result.
"""

from __future__ import annotations

import json
import statistics
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from nasframe import registry
from nasframe.errors import UsageError
from nasframe.interfaces import BoundedDomain, EstimatorTraits, MeasuredEstimator, ends_of, traits_of
from nasframe.notices import Notify, say
from nasframe.plugin_errors import use_noted
from nasframe.records import Arch, Count, EstimatorRef, arch_id
from nasframe_predictor.memory import Measurements, key_of, recall, remember
from nasframe_predictor.regression import Regression, features

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import SearchSpace

FEWEST = 8
"""Measured sub-networks below which no regression is fitted."""
TRIES = 50
"""Draws for each sub-network, to find one that was not drawn before."""

Model = Literal["ridge", "forest", "boosting"]


class Predictor:
    """Measure a cost on some sub-networks, and predict it for all others by a regression on their choices.

    It is fitted when the cost of a network's architecture is first asked for. A notice tells the error of its
    predictions, by five-fold cross-validation. Measurements are kept in nasframe's cache and are not repeated for a
    network of the same shape on the same machine. Predictions stay within the range of the measurements.

    Args:
        of: the cost to measure, such as ``latency`` with its options.
        samples: how many sub-networks are measured, the smallest and the largest among them.
        rounds: how often each is measured, in turns, so that a disturbance does not hit one of them alone; the median
            counts. A cost that is not measured is asked once.
        model: the regression: ``ridge`` is linear in the features, ``forest`` and ``boosting`` are sums of trees.
        counts: counted costs that are features besides the choices; those that cannot be counted are left out.
        remember: keep measurements in the cache, and use those that are there.
        notify: injected; receives the error of the predictions.
        probe_inputs: injected; measurements on batches of other shapes are other ones.
    """

    learned = True

    def __init__(
        self,
        of: EstimatorRef = "latency",
        samples: Annotated[int, Ge(FEWEST), Le(10_000)] = 48,
        rounds: Count = 3,
        model: Model = "ridge",
        counts: Sequence[EstimatorRef] = ("params", "macs"),
        remember: bool = True,
        notify: Notify = say,
        probe_inputs: Callable[[], Mapping[str, Any] | None] | None = None,
    ) -> None:
        inject = {"notify": notify, "probe_inputs": probe_inputs}
        # Defaults are names; what a recipe names was made already, and stays as it is.
        self.of: Any = registry.make("estimator", of, inject)
        self.samples = samples
        self.rounds = rounds
        self.model: Model = model
        self.counts: Sequence[Any] = [registry.make("estimator", use, inject) for use in counts]
        self.remember = remember
        self._probe_inputs = probe_inputs
        self.notify = notify
        self.unit: str = self.of.unit
        self.higher_is_better = traits_of(EstimatorTraits, self.of).higher_is_better
        self._measured: dict[str, Measurements] = {}  # by key: what is learned
        # One for each space: stages with spaces of their own share a network, but not the choices that are features.
        self._regressions: weakref.WeakKeyDictionary[nn.Module, list[_Fitted]] = weakref.WeakKeyDictionary()

    def estimate(self, space: SearchSpace | None, net: nn.Module, arch: Arch | None = None) -> float | None:
        """Return the predicted cost of an architecture.

        The network as it stands has the cost of its largest architecture. ``None`` for a network that is not loaded,
        one without a space, and one that is not the space's.
        """
        if space is None or not _is_loaded(net):
            return None
        if arch is None:
            if not isinstance(space.domain, BoundedDomain):
                return None
            arch = space.domain.largest()
            if self._known(space, net) is None and not _belongs(space, net, arch):
                return None
        return self._fitted(space, net).predict(arch)

    def state_dict(self) -> dict[str, Any]:
        """Return all measurements by the keys of their networks."""
        return {key: measurements.plain() for key, measurements in self._measured.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over measurements, besides those that were made already."""
        for key, plain in state.items():
            self._measured.setdefault(key, Measurements.of(plain))

    def _known(self, space: SearchSpace, net: Any) -> _Fitted | None:
        """Return the regression for a network and a space if there is one."""
        of_net = self._regressions.get(net, [])
        return next((fitted for fitted in of_net if fitted.space is space), None)

    def _fitted(self, space: SearchSpace, net: Any) -> _Fitted:
        """Return the regression for a network and a space, fitted when it is first asked for."""
        fitted = self._known(space, net)
        if fitted is None:
            archs = self._drawn(space.domain)
            key = key_of(net, archs, use_noted(self.of), self._shapes(), isinstance(self.of, MeasuredEstimator))
            measurements = self._measurements(key, space, net, archs)
            fitted = _Fitted(space, net, self.counts, measurements, self.model)
            self._regressions.setdefault(net, []).append(fitted)
            self._tell(measurements, fitted.regression)
        return fitted

    def _shapes(self) -> dict[str, list[int]]:
        """Return the shapes of the run's batches, on which a cost may be measured."""
        inputs = None if self._probe_inputs is None else self._probe_inputs()
        return {name: list(tensor.shape) for name, tensor in (inputs or {}).items()}

    def _measurements(self, key: str, space: SearchSpace, net: nn.Module, archs: Sequence[Arch]) -> Measurements:
        """Return the measurements of a network: those of this run, those in the cache, or new ones."""
        if key not in self._measured:
            # An estimator that was made in Python has no name by which its measurements could be told from others'.
            uses_cache = self.remember and use_noted(self.of) != ""
            known = recall(key, archs) if uses_cache else None
            if known is None:
                known = Measurements(list(archs), self._measured_values(space, net, archs))
                if uses_cache:
                    remember(key, known)
            self._measured[key] = known
        return self._measured[key]

    def _measured_values(self, space: SearchSpace, net: nn.Module, archs: Sequence[Arch]) -> list[float]:
        """Return the cost of each sub-network.

        Raises:
            UsageError: one of them cannot be measured.
        """
        if isinstance(self.of, MeasuredEstimator):
            rounds = []
            for _ in range(self.rounds):
                rounds.append([float(self.of.measure(space, net, arch, again=True)["median"]) for arch in archs])
            return [statistics.median(values) for values in zip(*rounds, strict=True)]
        costs = []
        for arch in archs:
            cost = self.of.estimate(space, net, arch)
            if cost is None:
                raise UsageError(f"predictor: {dict(arch)} has no cost to learn from. Expected another 'of'.")
            costs.append(float(cost))
        return costs

    def _drawn(self, domain: Any) -> list[Arch]:
        """Return distinct architectures, the ends of the domain first; fewer if the domain has no more.

        Raises:
            UsageError: there are too few to fit a regression.
        """
        import numpy as np

        rng = np.random.default_rng(0)  # the same ones in every run, so that measurements are found again
        distinct = {arch_id(arch): arch for arch in ends_of(domain)}
        for _ in range(TRIES * self.samples):
            if len(distinct) >= self.samples:
                break
            arch = domain.sample(rng)
            distinct.setdefault(arch_id(arch), arch)
        if len(distinct) < FEWEST:
            raise UsageError(
                f"predictor: the domain has only {len(distinct)} architectures. Expected {FEWEST} or more; measure so "
                "few directly."
            )
        return list(distinct.values())

    def _tell(self, measurements: Measurements, regression: Regression) -> None:
        """Tell how far predictions are off."""
        source = "in the cache" if measurements.is_recalled else "made now"
        text = f"predicted from {len(measurements.values)} measured sub-networks ({source}); cross-validated error "
        text += f"{regression.error:.1%} on average, {regression.worst:.1%} at most"
        if regression.rank_correlation is not None:
            text += f"; rank correlation {regression.rank_correlation:.2f}"
        use = use_noted(self.of)
        name = json.loads(use)["use"] if use else type(self.of).__name__
        self.notify("estimators", f"predictor of {name}: {text}.")


class _Fitted:
    """The regression of one network and one space.

    Args:
        space: the space of its sub-networks.
        net: the network; not kept.
        counts: counted costs that are features.
        measurements: what it is fitted to.
        model: the kind of regression.
    """

    def __init__(
        self, space: SearchSpace, net: nn.Module, counts: Sequence[Any], measurements: Measurements, model: Model
    ) -> None:
        self.space = space
        self._net = weakref.ref(net)
        self._counts = counts
        rows = [self._row(arch) for arch in measurements.archs]
        self.regression = Regression(rows, measurements.values, model)
        self._known: dict[str, float] = {}  # a search asks for the same architecture several times

    def predict(self, arch: Arch) -> float:
        """Return the predicted cost of an architecture."""
        key = arch_id(arch)
        if key not in self._known:
            self._known[key] = self.regression.predict(self._row(arch))
        return self._known[key]

    def _row(self, arch: Arch) -> list[float | None]:
        """Return the features of an architecture."""
        net: Any = self._net()
        counted = [estimator.estimate(self.space, net, arch) for estimator in self._counts]
        return features(self.space.domain, arch, counted)


def _is_loaded(net: Any) -> bool:
    """Tell whether a network has values; before a run there are only its sizes."""
    if not hasattr(net, "parameters"):  # an outline, which stands for it
        return False
    return all(parameter.device.type != "meta" for parameter in net.parameters())


def _belongs(space: SearchSpace, net: Any, largest: Arch) -> bool:
    """Tell whether a network is one that the space's sub-networks can be cut out of."""
    try:
        space.extract(net, largest)
    except (UsageError, IndexError, KeyError, AttributeError, RuntimeError, TypeError):
        return False
    return True
