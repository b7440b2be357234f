"""What every family must do, as checks: subclass :class:`FamilyContract`, define ``make`` and ``net``, run pytest.

class TestMine(FamilyContract):
    def make(self):
        return MyFamily()

    def net(self):
        return MyNetwork(width=8)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasframe.interfaces import ExampleFamily, SliceableFamily
from nasframe.nn.outputs import tensors_of
from nasframe.testing.kit import Contract, ContractError, DoesNotApply, check, require
from nasframe.testing.nets import Snapshot, require_unchanged
from nasframe.testing.toy import tiny_inputs


class FamilyContract(Contract):
    """The checks, on one network of the family.

    The family brings it with ``example()``, or :meth:`net` is overridden, and :meth:`inputs` if it reads no tokens.
    """

    kind = "family"

    def make(self) -> Any:
        """Make the family under test."""
        return self.registered()

    def family(self) -> Any:
        """Make the family, and make its rows known as if it were registered."""
        family = self.make()
        if isinstance(family, SliceableFamily):
            _make_known(family.rows)
        return family

    def net(self) -> nn.Module:
        """Return a small network of the family, in eval mode."""
        family = self.family()
        if not isinstance(family, ExampleFamily):
            raise NotImplementedError(
                f"{type(self).__name__}: override 'net' to return a small network of the family, or give the family a "
                "method 'example'"
            )
        net, _ = family.example()
        return net.eval()

    def inputs(self) -> Mapping[str, torch.Tensor]:
        """Return inputs of the network by name, of at least two examples."""
        family = self.family()
        if isinstance(family, ExampleFamily):
            _, inputs = family.example()
            return inputs
        return tiny_inputs(batch=2, length=5)

    def again(self, net: nn.Module) -> nn.Module:
        """Return the network that the family makes of a description that was written and read."""
        family = self.family()
        description = json.loads(json.dumps(family.describe(net)))
        built: nn.Module = family.build(description, "cpu")
        return built.eval()

    @check
    def test_it_matches_its_networks_and_no_others(self) -> None:
        """A family that matches everything would take over the networks of others."""
        family = self.family()
        require(family.matches(self.net()) is True, "matches(net) is not True for its own network")
        require(family.matches(nn.Linear(2, 2)) is False, "matches(net) is not False for a torch.nn.Linear")

    @check
    def test_a_description_is_plain(self) -> None:
        """Runs store descriptions as JSON, and reports write two of their entries."""
        description = self.family().describe(self.net())
        require(isinstance(description, dict), f"describe returned {type(description).__name__}; return a dict")
        try:
            json.dumps(description, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ContractError(f"describe returned something that JSON does not have: {error}") from error
        for name in ("family", "model"):
            value = description.get(name)
            require(isinstance(value, str) and value, f"the description has no text {name!r}; name the network there")

    @check
    def test_the_network_that_is_built_is_the_same(self) -> None:
        """With the weights of the first, the second computes the same, in a process that has only the description."""
        net = self.net()
        built = self.again(net)
        expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
        require(
            shapes == expected, "build(describe(net)) has other tensors than net; describe everything that it needs"
        )
        built.load_state_dict(net.state_dict())
        with torch.no_grad():
            seen = built(**self.inputs())
            expected_outputs = net(**self.inputs())
        # Another attention implementation, which no configuration keeps, rounds differently.
        require_equal(seen, expected_outputs, "build(describe(net)) computes something else", tolerance=1e-5)
        ours = sum(parameter.numel() for parameter in net.parameters())
        theirs = sum(parameter.numel() for parameter in built.parameters())
        require(ours == theirs, "build(describe(net)) ties other weights than net")

    @check
    def test_a_built_network_is_described_the_same(self) -> None:
        """Otherwise a network would change each time that it is stored."""
        net = self.net()
        family = self.family()
        first = json.loads(json.dumps(family.describe(net)))
        second = json.loads(json.dumps(family.describe(self.again(net))))
        require(first == second, "describe(build(describe(net))) differs from describe(net)")

    @check
    def test_describing_leaves_the_network_alone(self) -> None:
        """A run describes networks that it goes on to train."""
        net = self.net()
        before = Snapshot.of(net)
        self.family().describe(net)
        require_unchanged(net, before, "describe", "only read from the network")

    @check
    def test_sources_are_files(self) -> None:
        """An export copies them."""
        for path in self.family().sources(self.net()):
            require(Path(path).is_file(), f"sources: {path} is no file")

    # --- families whose sub-networks are slices

    def sliceable(self) -> SliceableFamily:
        """Return the family if its networks can be sliced; the checks below do not concern others."""
        family = self.family()
        if not isinstance(family, SliceableFamily):
            raise DoesNotApply
        return family

    def archs(self, net: nn.Module) -> list[dict[str, Any]]:
        """Return sub-networks: odd sizes, no heads, no neurons, and if the family allows it, other first layers."""
        from nasframe.nn.blueprint import blueprint
        from nasframe.nn.elastic import family_of

        layers = blueprint(net)["layers"]
        group = blueprint(net).get("group", 1)
        last = len(layers) - 1
        some_heads = max(layers[0]["heads"] // group - 1, 0) * group
        some_neurons = max(layers[0]["ffn"] // 2 - 1, 0)
        archs: list[dict[str, Any]] = [
            {"heads.0": some_heads, "ffn.0": some_neurons},
            {"heads.0": 0, f"ffn.{last}": 0},
            {"layers": [0], "heads.0": some_heads},
        ]
        if last and not family_of(net).keeps_first:
            archs.append({"layers": [last], f"ffn.{last}": some_neurons})
        return archs

    @check
    def test_a_view_is_the_extracted_model(self) -> None:
        """A row that forgets a tensor, or slices it along another dimension, shows here."""
        from nasframe.nn.slices import extract, view

        self.sliceable()
        net = self.net()
        inputs = self.inputs()
        with torch.no_grad():
            require_equal(view(net, {})(**inputs), net(**inputs), "the full size is not the untouched network")
            for arch in self.archs(net):
                small = extract(net, arch)
                with running(f"the view at {arch}"):
                    seen = view(net, arch)(**inputs)
                require_equal(seen, small(**inputs), f"the view at {arch} is not the extracted model")

    @check
    def test_removed_parts_are_those_whose_readers_are_zero(self) -> None:
        """A sub-network is the network in which the columns that read the removed heads and neurons are zero."""
        from nasframe.nn.elastic import family_of, layers_of, slices_of
        from nasframe.nn.slices import view

        self.sliceable()
        net = self.net()
        zeroed = copy.deepcopy(net)
        layer = layers_of(zeroed)[0]
        arch = self.archs(net)[0]
        sizes = {"heads": arch["heads.0"], "ffn": arch["ffn.0"]}
        with torch.no_grad():
            for part in slices_of(family_of(net), layer):
                if not part.outputs and part.name == "weight":
                    weight: Any = layer.get_submodule(part.path).weight
                    units = weight.shape[part.dim] // part.length(1)
                    full = _full(net, part.unit)
                    kept = sizes[part.unit] * units // full
                    weight.narrow(part.dim, part.length(kept), part.length(units - kept)).zero_()
            expected = zeroed(**self.inputs())
            with running(f"the view at {arch}"):
                seen = view(net, arch)(**self.inputs())
        message = "a sub-network is not the network without its last heads and neurons"
        require_equal(seen, expected, message, tolerance=1e-5)

    @check
    def test_counts_are_exact(self) -> None:
        """Parameters and multiply-adds of sub-networks are those of the extracted models."""
        from nasframe.nn.count import macs, params
        from nasframe.nn.slices import extract

        self.sliceable()
        net = self.net()
        inputs = dict(self.inputs())
        batch, length = next(iter(inputs.values())).shape[:2]
        for arch in self.archs(net):
            small = extract(net, arch)
            own = sum(parameter.numel() for parameter in small.parameters())
            counted = params(net).of(arch)
            require(counted == own, f"{arch}: {counted} parameters are counted, the extracted model has {own}")
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                small(**inputs)
            products = macs(net, batch, length).of(arch)
            traced = counter.get_total_flops() / 2
            require(
                products == traced, f"{arch}: {products} multiply-adds are counted, the extracted model has {traced}"
            )

    @check
    def test_reordering_keeps_the_outputs(self) -> None:
        """Heads and neurons may be sorted by importance only if every tensor of theirs moves along."""
        from nasframe.nn import importance
        from nasframe.nn.rewire import rewire

        self.sliceable()
        net = self.net()
        with torch.no_grad():
            expected = net(**self.inputs())
            with running("sorting heads and neurons"):
                rewire(net, importance.ranked(importance.magnitude(net)))
                seen = net(**self.inputs())
        message = "the outputs change when heads and neurons are reordered"
        require_equal(seen, expected, message, tolerance=1e-5)


@contextmanager
def running(what: str) -> Iterator[None]:
    """Name what cannot run inside the block because of a wrong row.

    Raises:
        ContractError: shapes inside the block do not fit.
    """
    try:
        yield
    except (RuntimeError, TypeError) as error:
        raise ContractError(f"{what} does not run ({error}); is a map of the row missing or wrong?") from error


_CHECKED_ROWS: dict[str, Any] = {}
"""The rows of the family that is checked, by type of model."""


def _checked_rows() -> Mapping[str, Any]:
    return _CHECKED_ROWS


def _make_known(rows: Mapping[str, Any]) -> None:
    """Add rows to the table of families, in place of those of an earlier check."""
    from nasframe.nn import elastic

    if _checked_rows not in elastic.ROW_SOURCES:
        elastic.ROW_SOURCES.insert(0, _checked_rows)
    _CHECKED_ROWS.clear()
    _CHECKED_ROWS.update(rows)


def _full(net: nn.Module, unit: str) -> int:
    """Return the size of a unit in the first layer."""
    from nasframe.nn.blueprint import blueprint

    size: int = blueprint(net)["layers"][0][unit]
    return size


def require_equal(outputs: Any, expected: Any, message: str, tolerance: float = 0.0) -> None:
    """Require that two networks' outputs have the same tensors, at least one."""
    ours = tensors_of(outputs)
    theirs = tensors_of(expected)
    require(theirs, f"{message}: the network's outputs hold no tensors, so that nothing can be compared")
    require(ours.keys() == theirs.keys(), f"{message}: outputs {sorted(ours)} and {sorted(theirs)}")
    for name, tensor in theirs.items():
        same_shape = ours[name].shape == tensor.shape
        require(same_shape, f"{message}: {name} is {tuple(ours[name].shape)} and {tuple(tensor.shape)}")
        difference = float((ours[name].double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
        scale = max(1.0, float(tensor.double().abs().max())) if tensor.numel() else 1.0
        require(difference <= tolerance * scale, f"{message}: {name} differs by {difference:.3g}")
