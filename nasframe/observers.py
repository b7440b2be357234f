"""Calls the hooks that observe a run, one plugin at a time.

An observer that raises is reported and switched off: a run of hours must not fail because of somebody who only watches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.notices import Notice
from nasframe.plugin_errors import described

if TYPE_CHECKING:
    from nasframe.notices import Notify


class Observers:
    """The observers of one run: those of installed plugins, and of the files that the run's recipe names.

    Every hook is a method, with the arguments of its specification: ``observers.stage_finished(directory=…)``.

    Args:
        notify: called when an observer raises.
    """

    def __init__(self, notify: Notify) -> None:
        self.notify = notify
        self.failed: set[str] = set()
        self.reported: list[Notice] = []

    def __getattr__(self, hook: str) -> Callable[..., None]:
        """Return the function that calls a hook."""
        if hook.startswith("_"):
            raise AttributeError(hook)
        return partial(self._call, hook)

    def _call(self, hook: str, **arguments: Any) -> None:
        manager = registry.plugin_manager()
        implementations = getattr(manager.hook, hook).get_hookimpls()
        # pluggy lists implementations in reverse order of their calls; one plugin may have several.
        plugins = dict.fromkeys(implementation.plugin for implementation in reversed(implementations))
        for plugin in plugins:
            name = str(manager.get_name(plugin))
            if name in self.failed or not registry.is_visible(name):
                continue
            # Only this plugin is called, so that an error names it and the others still hear.
            others = [other for other in manager.get_plugins() if other is not plugin]
            try:
                manager.subset_hook_caller(hook, others)(**arguments)
            except (Exception, SystemExit) as error:
                self._switch_off(name, hook, error)

    def _switch_off(self, name: str, hook: str, error: BaseException) -> None:
        source = registry.plugins().sources.get(name)
        notice = Notice(
            f"plugin {source or name}",
            f"{hook} raised {described(error)}. Its observers are switched off for the rest of the run.",
        )
        self.failed.add(name)
        self.reported.append(notice)
        self.notify(notice.place, notice.text)
