"""What every exporter must do, as checks: subclass :class:`ExporterContract`, define ``make``, run pytest.

class TestMine(ExporterContract):
    def make(self):
        return MyExporter()
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasframe.errors import UsageError, VerificationError
from nasframe.export.write import export, probe
from nasframe.interfaces import ExportContent, ExporterTraits, Loading, member, traits_of
from nasframe.testing.kit import Contract, DoesNotApply, check, is_plain, require
from nasframe.testing.nets import Snapshot, require_unchanged
from nasframe.testing.toy import tiny_net, tiny_tokenizer

ARCH = {"layers": [0, 2], "heads.0": 3, "heads.2": 1, "ffn.0": 17, "ffn.2": 48}
"""An architecture whose layers differ, which many formats cannot express."""


class ExporterContract(Contract):
    """The checks, on a tiny encoder as it is, and on a sub-network whose layers differ in size.

    An exporter may refuse a network: ``validate`` then raises ``UsageError`` before any file is written. At least one
    of the two networks has to be accepted; override :meth:`networks` for an exporter of other networks.
    """

    kind = "exporter"
    seconds = 300.0  # a fresh process imports transformers, which takes long on a busy machine

    def make(self) -> Any:
        """Make the exporter under test."""
        return self.registered()

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks to export by name."""
        from nasframe.nn.slices import extract

        whole = tiny_net()
        return {"whole": whole, "narrow": extract(whole, ARCH)}

    def reference(self, net: nn.Module) -> dict[str, Any]:
        """Return the probe ``inputs`` and ``outputs`` of a network; override it for networks of other inputs."""
        return probe(net)

    def accepted(self) -> dict[str, nn.Module]:
        """Return the networks that the exporter does not refuse."""
        validate = member(self.make(), "validate")
        networks = self.networks()
        if validate is None:
            return networks
        accepted = {}
        for name, net in networks.items():
            try:
                validate(net)
            except UsageError:
                continue
            accepted[name] = net
        return accepted

    @check
    def test_some_network_is_accepted(self) -> None:
        """``validate`` accepts at least one of the contract's networks."""
        names = ", ".join(self.networks())
        require(self.accepted(), f"validate refuses all of: {names}; override networks() to give one that it accepts")

    @check
    def test_networks_without_values_are_judged_alike(self) -> None:
        """``validate`` says the same of a network on the meta device, where shapes are but no values."""
        validate = member(self.make(), "validate")
        if validate is None:
            raise DoesNotApply
        accepted = self.accepted()
        for name, net in self.networks().items():
            bare = copy.deepcopy(net).to("meta")
            try:
                validate(bare)
                is_accepted = True
            except UsageError:
                is_accepted = False
            except (AttributeError, RuntimeError, KeyError) as error:
                require(False, f"validate of {name!r} without values raises {error}; read shapes, not values")
            same = is_accepted is (name in accepted)
            require(same, f"validate judges {name!r} otherwise without values; read shapes alone")

    @check
    def test_it_says_how_to_load(self) -> None:
        """``write`` returns a ``Loading`` whose code is a file without nasframe, and whose arguments are JSON-plain."""
        for name, net in self.accepted().items():
            with tempfile.TemporaryDirectory() as folder:
                directory = Path(folder)
                loading = self.written(net, directory)
                require(isinstance(loading, Loading), f"write returned a {type(loading).__name__}; return a Loading")
                files = [path for path in directory.rglob("*") if path.is_file()]
                require(files, f"no file was written for {name!r}; write into the directory that is given")
                code = Path(loading.code)
                require(code.is_file(), f"Loading.code is {str(code)!r}; name a Python file that defines load")
                require(is_plain(dict(loading.arguments)), f"arguments {loading.arguments!r} are not JSON-plain")

    def written(self, net: nn.Module, directory: Path) -> Any:
        """Write a network."""
        reference = self.reference(net)
        content = ExportContent("model", tiny_tokenizer(), None, reference["inputs"])
        return self.make().write(net, directory, content)

    @check
    def test_the_network_is_left_alone(self) -> None:
        """Writing changes no weight and no mode of the network."""
        for net in self.accepted().values():
            before = Snapshot.of(net)
            with tempfile.TemporaryDirectory() as folder:
                self.written(net, Path(folder))
            require_unchanged(net, before, "write", "write a copy of what has to change")

    @check
    def test_a_fresh_process_computes_the_same(self) -> None:
        """A process without nasframe loads the directory, and its outputs are those of the network."""
        accepted = self.accepted()
        for name, net in list(accepted.items())[:1]:  # a fresh process takes seconds
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "model"
                try:
                    report = export(net, tiny_tokenizer(), target, mode=self.make(), expected=self.reference(net))
                except VerificationError as error:
                    require(False, f"{name!r}: {error}")
                require(report["verified"], "the export was not verified")

    @check
    def test_a_wrong_file_is_noticed(self) -> None:
        """The tolerance is small enough that a changed weight shows."""
        exporter = self.make()
        tolerance = traits_of(ExporterTraits, exporter).tolerance
        require(0 <= tolerance < 1, f"tolerance is {tolerance}; give a share of the largest output, well below 1")
        for net in self.accepted().values():
            original = self.reference(net)
            changed = copy.deepcopy(net)
            with torch.no_grad():
                for parameter in changed.parameters():
                    parameter.mul_(1.5)
            outputs = self.reference(changed)["outputs"]
            for name, tensor in original["outputs"].items():
                largest = max(1.0, float(tensor.abs().max()))
                difference = float((tensor - outputs[name]).abs().max())
                shows = difference > tolerance * largest
                require(shows, f"a tolerance of {tolerance} hides that all weights are half more; lower it")
