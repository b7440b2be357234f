"""Neural architecture search and model compression with pluggable strategies.

>>> import nasframe as nf
>>> nf.Trial(arch={"layers": [0, 1]}, score=0.9).state
'done'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nasframe.version import __version__

if TYPE_CHECKING:
    from nasframe.hookspecs import PLUGIN_API, hookimpl
    from nasframe.nn.custom import Described
    from nasframe.recipe.loading import load_recipe
    from nasframe.recipe.resolve import resolve
    from nasframe.records import Trial
    from nasframe.registry import make
    from nasframe.running.runner import Run, run

__all__ = [
    "PLUGIN_API",
    "Described",
    "Run",
    "Trial",
    "__version__",
    "hookimpl",
    "load_recipe",
    "make",
    "resolve",
    "run",
]

# Where each public name is defined, below nasframe.
_HOME = {
    "PLUGIN_API": "hookspecs",
    "Described": "nn.custom",
    "Run": "running.runner",
    "Trial": "records",
    "hookimpl": "hookspecs",
    "load_recipe": "recipe.loading",
    "make": "registry",
    "resolve": "recipe.resolve",
    "run": "running.runner",
}
# Names of earlier versions → where they are now, so that an old import says what to write instead.
_MOVED = {"deploy": "nasframe_deploy.deploy.deploy", "study": "nasframe_studies.study"}
# Packages of earlier versions. The module that has the name now says where the parts went.
_MOVED_PACKAGES = ("bench", "reports", "studies")


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: ``import nasframe`` stays quick."""
    if name in _HOME:
        return getattr(import_module(f"nasframe.{_HOME[name]}"), name)
    if name in _MOVED:
        raise ImportError(f"nasframe.{name} is now {_MOVED[name]}.")
    if name in _MOVED_PACKAGES:
        import_module(f"nasframe.{name}")  # raises
    raise AttributeError(f"module 'nasframe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
