"""Networks of one's own: they describe themselves, so that runs can store, count, resume and report them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn

from nasframe.errors import RunError, UsageError, listing, suggestion


class Described(nn.Module):
    """A network of one's own: ``type(net)(**net.describe())`` has the same tensors, as yet without the trained values.

    Write the network as any other module of torch, inherit from this class, and return the constructor's arguments from
    :meth:`describe`. Runs then train, search, extract, evaluate, keep and resume it, whatever its forward takes and
    returns: keyword inputs with the names of the task's batches, and outputs that the task understands. Only losses
    and modifiers that work with logits ask for an output of that name.

    A parameter that is reached by several paths (tied weights) is one parameter: it is counted and stored once, and
    tied again when the constructor ties it.

    >>> class Line(Described):
    ...     def __init__(self, width):
    ...         super().__init__()
    ...         self.map = nn.Linear(width, 1)
    ...     def describe(self):
    ...         return {"width": self.map.in_features}
    >>> net = Line(3)
    >>> rebuilt(described(net), net.state_dict())
    Line(
      (map): Linear(in_features=3, out_features=1, bias=True)
    )
    """

    kinds: ClassVar[dict[str, dict[str, type[Described]]]] = {}
    """Name of a class → module → the class. A class is known from the moment its module is imported."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Described.kinds.setdefault(cls.__name__, {})[cls.__module__] = cls

    @property
    def config(self) -> Any:
        """The description, in place of a transformers configuration: its entries as attributes."""
        return SimpleNamespace(**self.describe(), to_dict=self.describe)

    def describe(self) -> dict[str, Any]:
        """Return the constructor's arguments that make a network of the same shapes, JSON-plain."""
        raise NotImplementedError(f"{type(self).__name__}: describe is missing. Expected the constructor's arguments.")

    @classmethod
    def sources(cls) -> Sequence[Path]:
        """Return the Python files that an export of the network carries: by default the file of its class.

        The files need torch and transformers only, apart from the import of this class.

        Raises:
            UsageError: the class was not read from a file, as in a notebook.
        """
        try:
            return [Path(inspect.getfile(cls))]
        except (OSError, TypeError) as error:
            raise UsageError(
                f"{cls.__name__}: its class is in no file, so that an export cannot carry it. Expected a module."
            ) from error

    def counted(self) -> nn.Module:
        """Return the part whose parameters and bytes count as the network's costs: by default all of it."""
        return self

    def part(self, name: str) -> Sequence[nn.Module] | None:
        """Return the modules of a part of the network, so that ``encoder_params`` and ``backbone_params`` count it.

        Args:
            name: ``encoder``, the layers between embeddings and head, or ``backbone``, all but the head.

        Returns:
            The modules; ``None``, the default, if the network has no such part.
        """
        return None


def described(net: Described) -> dict[str, Any]:
    """Return the description of a network, JSON-plain; :func:`rebuilt` makes a network of it.

    Raises:
        UsageError: ``describe`` returned something that JSON does not have.
    """
    cls = type(net)
    arguments = net.describe()
    try:
        plain = json.loads(json.dumps(arguments, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{cls.__name__}.describe: {error}. Expected numbers, text, lists and mappings.") from error
    if not isinstance(plain, dict):
        raise UsageError(f"{cls.__name__}.describe returned {arguments!r}. Expected a mapping of arguments.")
    return {"family": cls.__name__, "model": cls.__name__, "module": cls.__module__, "sizes": plain}


def class_of(description: Mapping[str, Any]) -> type[Described]:
    """Return the class of a described network.

    Raises:
        RunError: no module with it was imported, or several that may be meant.
    """
    name = description["family"]
    by_module = Described.kinds.get(name, {})
    module = description.get("module")
    if module in by_module:
        return by_module[module]
    # A one-file plugin may have been moved since, and its module is named after its place.
    if len(by_module) == 1:
        return next(iter(by_module.values()))
    if by_module:
        raise RunError(f"network {name!r}: several modules have such a class: {listing(by_module)}. Expected {module}.")
    hint = suggestion(name, Described.kinds)
    raise RunError(
        f"network {name!r}: its class is not known. Expected module {module} to be imported, by a plugin that the "
        f"recipe names.{hint}"
    )


def rebuilt(description: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return the network of a description with the given weights, in eval mode on the CPU.

    Raises:
        RunError: the class is not known, or its constructor makes other tensors than the description is of.
    """
    net = made(description)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(
            f"{type(net).__name__}: the network that describe() tells has other tensors than the one that was stored. "
            f"Expected the same: {error}"
        ) from error
    return net.eval()


def made(description: Mapping[str, Any], device: str = "cpu") -> Described:
    """Return the network of a description with the values that its constructor gives it.

    Args:
        description: from :func:`described`.
        device: the device that the constructor makes tensors on.

    Raises:
        RunError: the class is not known.
    """
    cls = class_of(description)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        return cls(**description["sizes"])


def check_described(net: Described) -> None:
    """Make sure that a network can be built again from what it says of itself.

    Raises:
        UsageError: the network that its description makes has other tensors.
    """
    description = described(net)
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):  # shapes are enough
                again = type(net)(**description["sizes"])
        except Exception:  # a constructor may compute with values
            again = type(net)(**description["sizes"])
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    shapes_again = {name: tuple(tensor.shape) for name, tensor in again.state_dict().items()}
    if shapes == shapes_again:
        return
    differing = [name for name in {**shapes, **shapes_again} if shapes.get(name) != shapes_again.get(name)]
    raise UsageError(
        f"{type(net).__name__}: describe() makes a network with other tensors ({listing(differing)}). Expected the "
        "constructor's arguments of this network as it is now."
    )
