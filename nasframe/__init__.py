"""Neural architecture search and model compression with pluggable strategies.

>>> import nasframe as nf
>>> nf.Trial(arch={"layers": [0, 1]}, score=0.9).state
'done'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasframe.finished.deployment import deploy
    from nasframe.hookspecs import PLUGIN_API, hookimpl
    from nasframe.recipe.loading import load_recipe
    from nasframe.recipe.resolution import resolve
    from nasframe.registry import make
    from nasframe.running.runner import Run, run
    from nasframe.studies import study
    from nasframe.types import Trial

__version__ = "0.1.0"
__all__ = ["PLUGIN_API", "Run", "Trial", "deploy", "hookimpl", "load_recipe", "make", "resolve", "run", "study"]

_HOME = {
    "PLUGIN_API": "hookspecs",
    "Run": "running.runner",
    "Trial": "types",
    "deploy": "finished.deployment",
    "hookimpl": "hookspecs",
    "load_recipe": "recipe.loading",
    "make": "registry",
    "resolve": "recipe.resolution",
    "run": "running.runner",
}
_MODULES = {"study": "studies.study"}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: ``import nasframe`` stays quick."""
    if name in _HOME:
        return getattr(import_module(f"nasframe.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"nasframe.{_MODULES[name]}")
    raise AttributeError(f"module 'nasframe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
