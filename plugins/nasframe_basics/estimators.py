"""Costs that are counted, not measured: parameters, multiply-adds, bytes.

Networks whose sub-networks are slices have exact tables. Any other architecture is extracted once from a copy without
values, and counted on that: multiply-adds by one forward pass on the shapes of the run's probe batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

from nasframe.interfaces import SizedSpace, SpaceTraits, traits_of
from nasframe.nn.additive import Additive, SliceError
from nasframe.notices import Notify, say
from nasframe.outline import Outline
from nasframe.records import Arch, CostTable, Size, sequence_length

if TYPE_CHECKING:
    from torch import nn

    from nasframe.interfaces import SearchSpace


Counting: TypeAlias = Literal["matmul", "torchprofile"]
Part: TypeAlias = Literal["all", "backbone", "encoder"]
ProbeInputs: TypeAlias = Callable[[], Mapping[str, Any] | None]
"""Returns the inputs of the run's probe batch, ``None`` while a recipe is checked without its data."""
LENGTH = 128
"""Tokens in a sequence, unless the recipe says otherwise."""


@dataclass(frozen=True)
class Counted:
    """A counted cost: a sum over the layers, heads and neurons that an architecture keeps, if it is made of these.

    Args:
        unit: its unit.
        count: returns the additive cost (``nasframe.nn.additive.Additive``) of a network, or of its outline.
        factor: multiplies the count.
        heading: the heading of its column in tables.
        highlight: its name in a sentence, if reports show it first.
        trace: returns the cost of a sub-network that is no slice, ``None`` if it cannot be counted; by default the
            extracted model is counted.
    """

    unit: str
    count: Callable[[nn.Module], Any]
    factor: float = 1.0
    heading: str = ""
    highlight: str = ""
    trace: Callable[[Callable[[Any], Additive], Any, nn.Module, Arch | None], float | None] | None = None
    _additive_costs: WeakKeyDictionary[Any, Any] = field(default_factory=WeakKeyDictionary)  # by network

    def estimate(self, space: SearchSpace | None, net: nn.Module, arch: Arch | None = None) -> float | None:
        """Return the cost of a sub-network of any sizes, or of the network as it is; ``None`` if it cannot be counted.

        The costs of a network's layers, heads and neurons are counted once; use a new estimator if its sizes were
        changed in place. If the network or the space does not slice, each architecture is counted once.
        """
        # A search asks for millions, and isinstance(space, SizedSpace) would take longer than the sum.
        sizes = getattr(space, "sizes", None)
        if arch is None or sizes is None:
            return self._estimate_once(space, net, arch)
        additive = self._additive(net)
        if additive is None:
            return self._estimate_once(space, net, arch)
        return self.factor * float(additive.of(sizes(arch)))

    def _estimate_once(self, space: SearchSpace | None, net: nn.Module, arch: Arch | None) -> float | None:
        """Return the cost of a network as it is, or of a sub-network that is no slice."""
        if arch is None and _slices(net):
            return self.factor * float(self.count(net).of())
        if isinstance(net, Outline):  # sizes alone do not say what an architecture is made of
            return None
        if self.trace is None:
            model = net if arch is None or space is None else space.extract(net, arch)
            return self.factor * float(self.count(model).of())
        cost = self.trace(self.count, space, net, arch)
        return None if cost is None else self.factor * cost

    def table(self, space: SearchSpace, net: nn.Module) -> CostTable | None:
        """Return the cost of every choice of the space's domain; ``None`` if choices have no cost of their own."""
        if not isinstance(space, SizedSpace) or not traits_of(SpaceTraits, space).additive:
            return None
        additive = self._additive(net)
        if additive is None:
            return None
        try:
            table = additive.table(space.domain.knobs)  # type: ignore[attr-defined]
        except (IndexError, SliceError):
            # The domain is of a larger network than this one, as if it had been extracted before: architectures that it
            # does have are still estimated one by one.
            return None
        choices = {}
        for knob, costs in table.choices.items():
            choices[knob] = [self.factor * cost for cost in costs]
        return CostTable(self.factor * table.base, choices)

    def _additive(self, net: nn.Module) -> Any:
        """Return the costs of a network's layers, heads and neurons; ``None`` if its sub-networks are no slices."""
        additive = self._additive_costs.get(net)
        if additive is None and _slices(net):
            additive = self.count(net)
            self._additive_costs[net] = additive
        return additive


def _slices(net: nn.Module | Outline) -> bool:
    """Tell whether a network's sub-networks have exact tables."""
    if isinstance(net, Outline):
        return True
    from nasframe.nn.traced import has_table

    return has_table(net)


Table: TypeAlias = Callable[[Any], Additive]
"""Returns the exact costs of a network whose sub-networks are slices."""


class Tracing:
    """What networks without tables cost, counted once for each architecture.

    Args:
        notify: told once if something cannot be counted.
        probe_inputs: returns the inputs of the run's probe batch.
    """

    def __init__(self, notify: Notify, probe_inputs: ProbeInputs | None = None) -> None:
        self.notify = notify
        self.probe_inputs = probe_inputs
        self._told = False

    @cached_property
    def traced(self) -> Any:
        """The copies without values, and the numbers that are known."""
        from nasframe.nn.traced import Traced

        return Traced()

    def params(self, part: Part, table: Table, space: Any, net: nn.Module, arch: Arch | None) -> float | None:
        """Count parameters; the parts of a network without tables are those that it names itself."""

        def count(model: nn.Module) -> float:
            from nasframe.nn.traced import parameters, part_parameters

            return parameters(model) if part == "all" else part_parameters(model, part)

        return self._counted(part, count, table, space, net, arch)

    def size(self, table: Table, space: Any, net: nn.Module, arch: Arch | None) -> float | None:
        """Count bytes."""
        from nasframe.nn.traced import size

        return self._counted("size", size, table, space, net, arch)

    def macs(
        self,
        batch: int,
        length: int | None,
        how: Counting,
        table: Table,
        space: Any,
        net: nn.Module,
        arch: Arch | None,
    ) -> float | None:
        """Count multiply-adds on the shapes of the run's probe batch."""
        from nasframe.nn.inputs import resized
        from nasframe.nn.traced import UncountableError, forward_macs, shapes_of

        if self.probe_inputs is None:  # outside of a run
            inputs = None
        else:
            inputs = self.probe_inputs()
            if inputs is None:  # a recipe is checked without its data
                return None
            inputs = resized(inputs, batch, length or _default_length(net, inputs))

        def count(model: nn.Module) -> float:
            if how != "matmul":
                raise UncountableError(f"count: {how} is for encoders alone")
            if inputs is None:
                raise UncountableError("outside of a run it has no batches")
            return forward_macs(model, inputs)

        what = ("macs", () if inputs is None else shapes_of(inputs))
        return self._counted(what, count, table, space, net, arch)

    def _counted(
        self,
        what: Hashable,
        count: Callable[[nn.Module], float],
        table: Table,
        space: Any,
        net: nn.Module,
        arch: Arch | None,
    ) -> float | None:
        """Count a sub-network's model, by tables if it has some; ``None`` with a notice if it cannot be counted."""
        from nasframe.nn.traced import UncountableError, has_table

        def cost(model: nn.Module) -> float:
            return float(table(model).of()) if has_table(model) else count(model)

        try:
            number: float = self.traced.of_model(what, cost, space, net, arch)
        except UncountableError as error:
            if not self._told:
                self._told = True
                name = what if isinstance(what, str) else what[0]  # type: ignore[index]
                self.notify("estimators", f"{name} of {type(net).__name__} cannot be counted: {error}. Reports show –.")
            return None
        return number


def _default_length(net: nn.Module, inputs: Mapping[str, Any]) -> int | None:
    """Return the tokens of a sequence if a recipe does not say how many, ``None`` for the length of the inputs.

    They are as many as for encoders, so that different networks of one run can be compared; at most what the network
    can read, as for the latency.
    """
    from nasframe.nn.positions import usable_positions

    longest = usable_positions(net)
    if longest is None or sequence_length(inputs) is None:
        return None
    return min(LENGTH, longest)


def params(notify: Notify = say) -> Counted:
    """Count every weight that would be saved, tied ones once.

    Args:
        notify: injected; told if a network cannot be counted.

    >>> from nasframe.testing.toy import tiny_net
    >>> params().estimate(None, tiny_net()) == sum(p.numel() for p in tiny_net().parameters())
    True
    """
    trace = partial(Tracing(notify).params, "all")
    return Counted("parameters", partial(_params, part="all"), trace=trace, heading="params")


def backbone_params(notify: Notify = say) -> Counted:
    """Count the weights without the task head; BERT's pooler belongs to the backbone.

    Args:
        notify: injected; told if a network has no such part.
    """
    trace = partial(Tracing(notify).params, "backbone")
    return Counted("parameters", partial(_params, part="backbone"), trace=trace, heading="backbone")


def encoder_params(notify: Notify = say) -> Counted:
    """Count the weights of the encoder's layers only.

    Args:
        notify: injected; told if a network has no such part.
    """
    count_params = partial(_params, part="encoder")
    trace = partial(Tracing(notify).params, "encoder")
    return Counted("parameters", count_params, trace=trace, heading="encoder", highlight="encoder parameters")


def macs(
    batch: Size = 1,
    length: Size | None = None,
    count: Counting = "matmul",
    notify: Notify = say,
    probe_inputs: ProbeInputs | None = None,
) -> Counted:
    """Count the multiply-adds of the matrix products and convolutions in a forward pass.

    Args:
        batch: number of examples.
        length: number of tokens in each, if they are sequences; default: 128, or what the network can read if that is
            less. A network that does not say how much it can read is counted at the length of the run's probe batch.
        count: ``matmul`` counts like torch's FlopCounterMode; ``torchprofile`` also counts normalisation, like the
            counter behind YOCO-BERT's figures (arXiv 2106.02435).
        notify: injected; told if a network cannot be counted.
        probe_inputs: injected; returns the inputs of the run's probe batch.
    """
    count_macs = partial(_macs, batch=batch, length=length or LENGTH, how=count)
    trace = partial(Tracing(notify, probe_inputs).macs, batch, length, count)
    return Counted("MACs", count_macs, heading="MACs", highlight="MACs", trace=trace)


def flops(
    batch: Size = 1,
    length: Size | None = None,
    count: Counting = "matmul",
    notify: Notify = say,
    probe_inputs: ProbeInputs | None = None,
) -> Counted:
    """Count floating-point operations, two for each multiply-add of ``macs``.

    Args:
        batch: number of examples.
        length: see ``macs``.
        count: see ``macs``.
        notify: injected; told if a network cannot be counted.
        probe_inputs: injected; returns the inputs of the run's probe batch.
    """
    multiply_adds = macs(batch, length, count, notify, probe_inputs)
    return replace(multiply_adds, unit="FLOPs", factor=2.0, heading="FLOPs", highlight="")


def size(notify: Notify = say) -> Counted:
    """Count the bytes of the saved weights, in the types they have; headers and tokenizer are not counted.

    Args:
        notify: injected; told if a network cannot be counted.
    """
    return Counted("bytes", _size, heading="size", trace=Tracing(notify).size)


# Bytes depend on the types of the weights, which an outline does not have.
for _factory in (params, backbone_params, encoder_params, macs, flops):
    vars(_factory)["sizes_suffice"] = True


def _params(net: nn.Module | Outline, part: Part) -> Additive:
    """Count the parameters of a part of a network."""
    if isinstance(net, Outline):  # from its sizes, so that a check need not import torch
        return net.params(part)
    from nasframe.nn import count

    return count.params(net, part)


def _macs(net: nn.Module | Outline, batch: int, length: int, how: Counting) -> Additive:
    """Count the multiply-adds of a forward."""
    if isinstance(net, Outline):
        return net.macs(batch, length, how)
    from nasframe.nn import count

    return count.macs(net, batch, length, how)


def _size(net: nn.Module) -> Additive:
    """Count the bytes of a network's parameters."""
    from nasframe.nn import count

    return count.size(net)
