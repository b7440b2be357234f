"""Tells observers what happens in a run.

There are two ways to observe. A plugin that implements hooks such as ``stage_finished`` hears every run. An object that
a plugin registers as an observer has methods of the same names, and hears the runs whose recipes name it. Both are
listeners here, and are treated alike. Whatever a listener does, the run goes on as if nobody watched: one that raises
is reported and switched off, what it draws from global random generators is restored, what it reads does not become an
input of a stage, and it gets copies that it may change.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nasframe import hookspecs, registry
from nasframe.errors import UsageError, listing, suggestion
from nasframe.notices import Notice
from nasframe.plugin_errors import described
from nasframe.reads import unrecorded
from nasframe.records import RunInfo
from nasframe.seeds import unchanged_generators

if TYPE_CHECKING:
    from nasframe.notices import Notify
    from nasframe.records import StoredModel, Trial

OBSERVED = (
    "run_started", "stage_started", "metrics_logged", "trial_finished", "model_stored", "stage_finished",
    "run_finished",
)  # fmt: skip
"""The hooks that observe a run, in the order of their calls."""
SHARED = ("run", "error")
"""Arguments that listeners get as they are: a frozen record of their own, and the error that others will raise."""


@dataclass
class Listener:
    """Somebody who hears what happens.

    Args:
        name: shown in notices, such as ``observer 'tensorboard' (nasframe 0.1.0)``.
        calls: hook → what calls it with keyword arguments, for the hooks that it hears.
        run: the run, as this listener sees it; set by :class:`Observers`.
    """

    name: str
    calls: Mapping[str, Callable[..., Any]]
    run: RunInfo | None = field(default=None, repr=False)

    def hear(self, hook: str, arguments: Mapping[str, Any]) -> None:
        """Call a hook with all arguments of its specification, if this listener has it."""
        call = self.calls.get(hook)
        if call is not None:
            call(**arguments)


def listener_of(observer: Any, name: str) -> Listener:
    """Return the listener of an object whose methods have the names of hooks.

    Args:
        observer: the object. Each method gets those arguments of the hook that it names.
        name: its name in errors and notices.

    Raises:
        UsageError: it has none of these methods, or one requires an argument that the hook does not have.

    >>> class Stages:
    ...     def stage_finished(self, stage, seconds):
    ...         print(f"{stage}: {seconds:.0f} s")
    >>> listener_of(Stages(), "stages").hear("stage_finished", {"stage": "search", "seconds": 2.0, "cached": False})
    search: 2 s
    """
    methods = {hook: getattr(observer, hook) for hook in OBSERVED if callable(getattr(observer, hook, None))}
    if not methods:
        raise UsageError(f"{name}: it hears nothing. Expected a method among {listing(OBSERVED)}.")
    faults = [fault for hook, method in methods.items() for fault in _unknown_arguments(hook, method)]
    if faults:
        raise UsageError("\n".join(f"{name}: {fault}" for fault in faults))
    return Listener(name, {hook: _by_name(method) for hook, method in methods.items()})


@functools.cache
def arguments_of(hook: str) -> tuple[str, ...]:
    """Return the names of a hook's arguments.

    >>> arguments_of("metrics_logged")
    ('run', 'stage', 'step', 'values')
    """
    return tuple(inspect.signature(getattr(hookspecs, hook)).parameters)


def _unknown_arguments(hook: str, method: Callable[..., Any]) -> list[str]:
    """Say which arguments of a method no call would give, if any."""
    known = arguments_of(hook)
    faults = []
    for parameter in inspect.signature(method).parameters.values():
        is_required = parameter.default is parameter.empty
        is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        is_unreachable = parameter.kind is parameter.POSITIONAL_ONLY
        is_unknown = is_named and parameter.name not in known
        if is_required and (is_unreachable or is_unknown):
            hint = suggestion(parameter.name, known)
            faults.append(
                f"{hook} has an argument {parameter.name!r}. Expected some of {', '.join(known)}, by name.{hint}"
            )
    return faults


def _by_name(method: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that passes a method those of its keyword arguments that the method names."""
    parameters = inspect.signature(method).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def call(**arguments: Any) -> None:
        taken = {name: value for name, value in arguments.items() if takes_all or name in parameters}
        method(**taken)

    return call


def chosen_listeners(uses: Sequence[Any], inject: Mapping[str, Any]) -> list[Listener]:
    """Make the observers that a recipe names.

    Args:
        uses: as a resolved recipe writes them; null entries are skipped.
        inject: arguments from the framework, such as ``base`` and ``notify``.

    Raises:
        UsageError: one cannot be made, or has no usable methods.
    """
    listeners = []
    for use in uses:
        if use is not None:
            name, _ = registry.use_of(use)
            entry = registry.find("observer", name)
            listeners.append(listener_of(registry.make("observer", use, inject), str(entry)))
    return listeners


def hook_listeners() -> list[Listener]:
    """Return the plugins that implement observing hooks, as far as they may be found here; in the order of pluggy."""
    manager = registry.plugin_manager()
    calls: dict[str, dict[str, Callable[..., Any]]] = {}
    for hook in OBSERVED:
        implementations = getattr(manager.hook, hook).get_hookimpls()
        # pluggy lists implementations in reverse order of their calls; one plugin may have several.
        for plugin in dict.fromkeys(implementation.plugin for implementation in reversed(implementations)):
            name = str(manager.get_name(plugin))
            if registry.is_visible(name):
                # Only this plugin is called, so that an error names it and the others still hear.
                others = [other for other in manager.get_plugins() if other is not plugin]
                calls.setdefault(name, {})[hook] = manager.subset_hook_caller(hook, others)
    sources = registry.plugins().sources
    return [Listener(f"plugin {sources.get(name) or name}", of_plugin) for name, of_plugin in calls.items()]


class Observers:
    """Those who observe one run. Each event is a method, with the arguments that only its place knows.

    Args:
        run: the run.
        notify: called with what observers report, and when one raises.
    """

    def __init__(self, run: RunInfo, notify: Notify) -> None:
        self.run = run
        self.notify = notify
        self.reported: list[Notice] = []
        """What was reported so far. It is no part of any stage's result."""
        self.listeners: list[Listener] = []

    def add(self, listeners: Sequence[Listener]) -> None:
        """Let more listeners hear what happens from now on."""
        for listener in listeners:
            own = replace(self.run, recipe=copy.deepcopy(dict(self.run.recipe)))
            self.listeners.append(replace(listener, run=own))

    def report(self, place: str, text: str) -> None:
        """Pass a notice of an observer on to the user."""
        self.reported.append(Notice(place, text))
        self.notify(place, text)

    def run_started(self, resumed: bool) -> None:
        """Tell that the run begins or goes on."""
        self._tell("run_started", resumed=resumed)

    def stage_started(self, stage: str, verb: str, resumed: bool) -> None:
        """Tell that a stage begins or goes on."""
        self._tell("stage_started", stage=stage, verb=verb, resumed=resumed)

    def metrics_logged(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Tell what a training measured."""
        self._tell("metrics_logged", stage=stage, step=step, values=dict(values))

    def trial_finished(self, stage: str, number: int, trial: Trial) -> None:
        """Tell of a trial that is stored."""
        self._tell("trial_finished", stage=stage, number=number, trial=trial)

    def model_stored(self, name: str, record: StoredModel) -> None:
        """Tell of a model that a stage made, measured or wrote."""
        self._tell("model_stored", name=name, record=record)

    def stage_finished(self, stage: str, seconds: float, cached: bool) -> None:
        """Tell that a stage's result is stored."""
        self._tell("stage_finished", stage=stage, seconds=seconds, cached=cached)

    def run_finished(self, error: BaseException | None) -> None:
        """Tell that the run ends."""
        self._tell("run_finished", error=error)

    def _tell(self, hook: str, **facts: Any) -> None:
        """Call a hook of every listener; one that raises hears nothing more."""
        for listener in list(self.listeners):
            if hook not in listener.calls:  # copies and generators take time, and a training logs often
                continue
            arguments = self._arguments(listener, hook, facts)
            try:
                with unrecorded(), unchanged_generators():
                    listener.hear(hook, arguments)
            except KeyboardInterrupt:  # the user's, who wants to end the run and not the observer
                raise
            except BaseException as error:
                self._switch_off(listener, hook, error)

    def _arguments(self, listener: Listener, hook: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return a hook's arguments for one listener, which may change what it gets."""
        run = listener.run
        assert run is not None
        everything = {"run": run, "directory": run.directory, "recipe": run.recipe, **facts}
        arguments = {}
        for name in arguments_of(hook):
            value = everything[name]
            arguments[name] = value if name in SHARED else copy.deepcopy(value)
        return arguments

    def _switch_off(self, listener: Listener, hook: str, error: BaseException) -> None:
        self.listeners.remove(listener)
        self.report(listener.name, f"{hook} raised {described(error)}. It hears nothing more of this run.")
