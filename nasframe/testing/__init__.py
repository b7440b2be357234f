"""The conformance kit: one contract class for each kind of plugin, and a toy network, task and space to try plugins on.

>>> from nasframe.testing import SamplerContract
>>> SamplerContract.checks()[0]
'test_some_domain_is_accepted'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasframe.testing.domains import DomainContract
    from nasframe.testing.estimators import EstimatorContract
    from nasframe.testing.evaluators import EvaluatorContract
    from nasframe.testing.exporters import ExporterContract
    from nasframe.testing.families import FamilyContract
    from nasframe.testing.kit import Contract, ContractError, run_checks
    from nasframe.testing.models import ModelContract
    from nasframe.testing.modifiers import ModifierContract
    from nasframe.testing.observers import ObserverContract
    from nasframe.testing.samplers import SamplerContract
    from nasframe.testing.spaces import SpaceContract
    from nasframe.testing.tasks import TaskContract
    from nasframe.testing.trainers import TrainerContract
    from nasframe.testing.transforms import TransformContract

__all__ = [
    "Contract",
    "ContractError",
    "DomainContract",
    "EstimatorContract",
    "EvaluatorContract",
    "ExporterContract",
    "FamilyContract",
    "ModelContract",
    "ModifierContract",
    "ObserverContract",
    "SamplerContract",
    "SpaceContract",
    "TaskContract",
    "TrainerContract",
    "TransformContract",
    "run_checks",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a contract when it is first used: most of them need torch, those of samplers do not."""
    if name not in __all__:
        raise AttributeError(f"module 'nasframe.testing' has no attribute {name!r}")
    if name in ("Contract", "ContractError", "run_checks"):
        home = "kit"
    else:
        from nasframe.registry import plural

        kind = name.removesuffix("Contract").lower()
        home = plural(kind)
    module = import_module(f"nasframe.testing.{home}")
    return getattr(module, name)
