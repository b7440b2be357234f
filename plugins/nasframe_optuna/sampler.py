"""Any Optuna sampler as a nasframe sampler: define-by-run over the domain's dimensions, one Optuna trial a proposal.

Optuna's samplers cannot be saved, so everything that is asked and told is logged, and a state is loaded by doing it all
again. What a study's trials suggest are positions, in the order of each dimension's values.
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nasframe import registry
from nasframe.errors import RunError, UnsatisfiableError, UsageError, listing, suggestion
from nasframe.options import Fault, validate
from nasframe.records import Arch, Natural, Trial, arch_id

GIVEN = ("seed", "constraints_func")
"""Options of Optuna's samplers that this wrapper gives."""
OWN = ("sampler", "knobs", "tries", "repeats", "constraints")
"""Options of this wrapper; all others are the Optuna sampler's."""
QUIET = ("warn_independent_sampling", "warn_asynchronous_seeding")
"""Options that warn of the way in which this wrapper has to use Optuna."""
MUTANTS = 20  # drawn to find one that was not proposed before
MISSING = "needs Optuna. Expected: pip install 'nasframe[optuna]'."


class OptunaSampler:
    """Proposes what one of Optuna's samplers suggests.

    Options of the Optuna sampler stand next to these and are checked against its signature. A suggestion outside
    ``within`` is told to it as violating a constraint, if it knows constraints, and it is asked again. In a search the
    same is done with a suggestion that it made before. After ``tries`` of them the last one is mutated until it is of
    use. Optuna's samplers cannot be saved: the state lists all that was asked and told, and loading it asks and tells
    again, which takes as long as it took before.

    Args:
        domain: the domain to propose from; it has knobs.
        seed: seeds the Optuna sampler.
        sampler: a class of ``optuna.samplers``, such as ``TPESampler``, ``NSGAIISampler`` or ``GPSampler``.
        knobs: suggest values as ``categorical``, or as ``ordinal`` by their positions, small to large.
        tries: number of unusable suggestions after which one is mutated. 0 proposes whatever Optuna suggests, and
            leaves screening and repeats to the search.
        repeats: ``tell`` the sampler the known values of a repeated suggestion again, or let it ``forget`` the
            repetition.
        constraints: tell the sampler about suggestions outside ``within``; if false, it forgets them.
        options: options of the Optuna sampler.

    Raises:
        UsageError: Optuna is not installed, the sampler or an option is unknown, or the domain has no knobs.
    """

    needs = ("encode", "conditions")

    def __init__(
        self,
        domain: Any,
        seed: int = 0,
        sampler: str = "TPESampler",
        knobs: Literal["categorical", "ordinal"] = "categorical",
        tries: Natural = 10,
        repeats: Literal["tell", "forget"] = "tell",
        constraints: bool = True,
        **options: Any,
    ) -> None:
        faults = self.faults({"sampler": sampler, **options})
        if faults:
            lines = []
            for place, text in faults:
                key = ".".join(map(str, place))
                lines.append(f"sampler 'optuna': {key}: {text}")
            raise UsageError("\n".join(lines))
        registry.refuse_domain("sampler 'optuna'", domain, self.needs)
        self.domain = domain
        self.seed = seed
        self.name = sampler
        self.knobs = knobs
        self.tries = tries
        self.repeats = repeats
        self.constraints = constraints
        self.options = options
        self.sizes = dict(zip(domain.dims, domain.shape, strict=True))
        self.rules = _rules(domain)
        self.order = sorted(self.sizes, key=self._depth)  # parents before those that depend on them
        self.rng = np.random.default_rng(seed)
        self.training = False
        self.reset(1)

    @staticmethod
    def faults(options: Mapping[str, Any]) -> list[Fault]:
        """Return the faults of a choice of sampler and its options."""
        try:
            import optuna
        except ImportError:
            return [(("sampler",), MISSING)]
        classes = {}
        for class_name in optuna.samplers.__all__:
            factory = getattr(optuna.samplers, class_name)
            if class_name.endswith("Sampler") and not inspect.isabstract(factory):
                classes[class_name] = factory
        names = list(classes)
        name = options.get("sampler", "TPESampler")
        if name not in classes:
            hint = suggestion(name, names)
            return [(("sampler",), f"Optuna has no sampler {name!r}. It has {listing(names)}.{hint}")]
        optuna_options = {key: value for key, value in options.items() if key not in OWN}
        faults: list[Fault] = []
        for key in GIVEN:
            if optuna_options.pop(key, None):
                faults.append(((key,), f"not an option of {name}: nasframe gives it."))
        _, misfits = validate(optuna_options, classes[name], skip=GIVEN)
        for place, text in misfits:
            if place != ("search_space",):  # required by GridSampler; it is made from the domain
                faults.append((place, f"{text} ({name})"))
        return faults

    def reset(self, goals: int) -> None:
        """Begin a new study with this number of objectives."""
        import optuna

        self.goals = goals
        self.told = 0  # trials with values
        self.exhausted = False
        self.log: list[list[Any]] = []  # all that was asked and told, to bring another study to the same point
        self.open: dict[str, list[int]] = {}  # proposals under way: architecture → numbers of Optuna's trials
        self.trials: dict[int, Any] = {}  # those under way, by number
        self.seen: dict[str, list[float] | None] = {}  # architectures proposed or told → their values, if known
        self.worst = [math.inf] * goals
        directions: list[Literal["maximize", "minimize"]] = ["maximize"] * goals
        sampler = self._make(goals)
        logger = logging.getLogger("optuna")
        level = logger.level
        logger.setLevel(logging.WARNING)  # a new study is news to Optuna, but an implementation detail here
        try:
            self.study = optuna.create_study(directions=directions, sampler=sampler)
        finally:
            logger.setLevel(level)
        self.study.stop = self._stop  # type: ignore[method-assign]

    def start(self, stage: str, total: int, origin: str = "search") -> None:
        """Forget everything, because a loss on a batch and a metric on a split are not comparable."""
        self.training = origin == "train"
        self.reset(1)

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Propose up to ``n`` architectures, fewer if the sampler or ``within`` has no more."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        try:
            while len(archs) < n and not self.exhausted:
                number, arch = self._useful(domain)
                name = arch_id(arch)
                self.open.setdefault(name, []).append(number)
                self.seen.setdefault(name, None)
                archs.append(arch)
        except UnsatisfiableError:
            pass  # what was found so far is the answer
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Finish Optuna's trials; architectures that were never proposed are added to the study."""
        for trial in trials:
            values = self._comparable_values(trial)
            number = self._trial_of(trial.arch, add=values is not None)
            if number is None:
                continue
            if values is not None:
                self.seen[arch_id(trial.arch)] = values
            excess = 0.0
            if values is not None or trial.state == "screened":
                excess = trial.violation if math.isfinite(trial.violation) else 1.0
            self._tell(number, values, excess)

    def _comparable_values(self, trial: Trial) -> list[float] | None:
        """Return a trial's values, ``None`` if it has none or another number of them than the study."""
        values = _values(trial)
        if values is None:
            return None
        if len(values) != self.goals and not self.told:
            self._regoal(len(values))  # the first answer shows how many objectives there are
        return values if len(values) == self.goals else None

    def _trial_of(self, arch: Arch, add: bool) -> int | None:
        """Return the number of the Optuna trial that waits for an architecture.

        Args:
            arch: the architecture.
            add: add a trial if none waits for it.
        """
        waiting = self.open.get(arch_id(arch), [])
        if waiting:
            return waiting.pop(0)
        if add and self.domain.contains(arch):
            number, _ = self._ask(self._positions(arch))
            return number
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return all that was asked and told, and the generator's state."""
        return {
            "seed": self.seed,
            "goals": self.goals,
            "log": [list(entry) for entry in self.log],
            "open": {name: list(numbers) for name, numbers in self.open.items() if numbers},
            "seen": dict(self.seen),
            "training": self.training,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Ask and tell again all that was asked and told.

        Raises:
            RunError: Optuna does not suggest the same as before.
        """
        self.seed = state["seed"]
        self.reset(state["goals"])
        for kind, *entry in state["log"]:
            if kind == "ask":
                fixed, positions = entry
                self._ask(fixed)
                _, _, now = self.log[-1]
                if now != positions:
                    change = f"{self.name} suggests {now} and suggested {positions} before"
                    raise RunError(f"{change}: another version of Optuna?")
            else:
                self._tell(*entry)
        self.open = {name: list(numbers) for name, numbers in state["open"].items()}
        self.seen = dict(state["seen"])
        self.training = state["training"]
        self.rng.bit_generator.state = state["rng"]

    def _make(self, goals: int) -> Any:
        """Make Optuna's sampler for a study of this number of objectives."""
        import optuna

        factory = getattr(optuna.samplers, self.name)
        parameters = inspect.signature(factory).parameters
        options: dict[str, Any] = {}
        for name in QUIET:
            if name in parameters and parameters[name].default is True:
                options[name] = False
        options |= self.options
        self.is_grid = "search_space" in parameters
        if self.is_grid and "search_space" not in options:
            options["search_space"] = {dim: list(range(size)) for dim, size in self.sizes.items()}
        if "seed" in parameters:  # it differs in the study with more objectives, which must not repeat the first one
            options["seed"] = (self.seed + goals - 1) % 2**32
        self.knows_constraints = self.constraints and "constraints_func" in parameters
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of options that are experimental
            try:
                return factory(**options)
            except (TypeError, ValueError) as error:
                raise UsageError(f"sampler 'optuna': {self.name}: {error}") from None

    def _stop(self) -> None:
        self.exhausted = True

    def _regoal(self, goals: int) -> None:
        """Begin a study of the right number of objectives, with the proposals under way."""
        asked = []  # positions, by the number of the trial
        for kind, *entry in self.log:
            if kind == "ask":
                _, positions = entry
                asked.append(positions)
        waiting = self.open
        seen = self.seen
        self.reset(goals)
        self.seen = seen
        for name, numbers in waiting.items():
            self.open[name] = []
            for number in numbers:
                new_number, _ = self._ask(asked[number])
                self.open[name].append(new_number)

    def _useful(self, domain: Any) -> tuple[int, Arch]:
        """Ask until a proposal is inside ``domain`` and new, or mutate the last one until it is."""
        fixed = self._fixed(domain)
        nothing_new = len(self.seen) >= getattr(domain, "size", math.inf)
        may_repeat = self.training or nothing_new
        number, arch = self._ask(fixed)
        for attempt in range(self.tries):
            is_inside = domain.contains(arch)
            if is_inside and (may_repeat or arch_id(arch) not in self.seen):
                return number, arch
            if not is_inside:
                self._tell(number, None, _excess(arch, domain))
            elif self.repeats == "tell":
                self._tell(number, self.seen[arch_id(arch)], 0.0)
            else:
                self._tell(number, None, 0.0)
            if self.exhausted:
                raise UnsatisfiableError(f"{self.name} has no more proposals")
            is_last = attempt + 1 == self.tries
            if is_last:
                mutant = self._mended(arch, domain)
                number, arch = self._ask(self._positions(mutant))
            else:
                number, arch = self._ask(fixed)
        return number, arch

    def _fixed(self, domain: Any) -> dict[str, int]:
        """Return the dimensions of which ``domain`` allows one position only: they need no suggestion."""
        fixed: dict[str, int] = {}
        if self.is_grid:  # it suggests whole points only
            return fixed
        for dim, positions in zip(self.sizes, getattr(domain, "allowed", []), strict=False):
            if len(positions) == 1:
                fixed[dim] = int(positions[0])
        return fixed

    def _mended(self, arch: Arch, domain: Any) -> Arch:
        """Return a mutant in ``domain``, a new one if there is one nearby."""
        for _ in range(MUTANTS):
            arch = domain.mutate(arch, self.rng)
            if self.training or arch_id(arch) not in self.seen:
                break
        return arch

    def _ask(self, fixed: Mapping[str, int]) -> tuple[int, Arch]:
        """Open an Optuna trial with some dimensions fixed; return its number and its architecture."""
        fixed = {dim: position for dim, position in fixed.items() if self.sizes[dim] > 1}
        if fixed:
            self.study.enqueue_trial(dict(fixed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dimensions sampled independently, as conditional ones are
            try:
                trial = self.study.ask()
            except ImportError as error:
                raise UsageError(f"sampler 'optuna': {self.name} needs: pip install {error.name}") from None
            positions = dict.fromkeys(self.sizes, 0)
            for dim in self.order:
                if self.sizes[dim] > 1 and self._has_effect(dim, positions):
                    positions[dim] = self._suggest(trial, dim)
        self.trials[trial.number] = trial
        self.log.append(["ask", dict(fixed), dict(positions)])
        return trial.number, self.domain.decode(positions.values())

    def _depth(self, dim: str) -> int:
        """Return on how many other dimensions the effect of a dimension depends."""
        depth = 0
        while dim in self.rules:
            dim, _ = self.rules[dim]
            depth += 1
        return depth

    def _has_effect(self, dim: str, positions: Mapping[str, int]) -> bool:
        """Tell whether a dimension has an effect at these positions of those that others depend on."""
        while dim in self.rules:  # up the chain, since a parent may have no effect itself
            parent, active_at = self.rules[dim]
            if positions[parent] not in active_at:
                return False
            dim = parent
        return True

    def _suggest(self, trial: Any, dim: str) -> int:
        if self.knobs == "ordinal":
            return int(trial.suggest_int(dim, 0, self.sizes[dim] - 1))
        return int(trial.suggest_categorical(dim, range(self.sizes[dim])))

    def _tell(self, number: int, values: Sequence[float] | None, excess: float) -> None:
        """Finish a trial: with values, as violating a constraint, or as failed."""
        from optuna.trial import TrialState

        entry: list[Any] = ["tell", number, values, excess]
        if values is not None:
            entry[2] = list(values)
            self.told += 1
            self.worst = list(map(min, self.worst, values))
        elif excess > 0 and self.knows_constraints:  # values are required, but not compared if a constraint is violated
            values = [_finite_or_zero(value) for value in self.worst]
        self.log.append(entry)
        trial = self.trials.pop(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of features that are experimental
            if values is None:
                self.study.tell(trial, state=TrialState.FAIL)
                return
            if self.knows_constraints:
                trial.set_constraint("within", excess)
            self.study.tell(trial, values)

    def _positions(self, arch: Arch) -> dict[str, int]:
        """Return the positions of the dimensions that have an effect."""
        encoded = self.domain.encode(arch).tolist()
        active = self.domain.active(arch)
        positions = {}
        for dim, position, is_active in zip(self.sizes, encoded, active, strict=True):
            if is_active:
                positions[dim] = position
        return positions


def _values(trial: Trial) -> list[float] | None:
    """Return the values to maximise, or ``None`` if a trial was not evaluated or one of them is not finite."""
    if trial.state not in ("done", "repeat"):
        return None
    values = []
    for value in trial.objectives or (trial.score,):
        if value is None or not math.isfinite(value):
            return None
        values.append(float(value))
    return values


def _finite_or_zero(value: float) -> float:
    """Return a value that Optuna accepts; before the first result the worst one is infinite."""
    return value if math.isfinite(value) else 0.0


def _excess(arch: Arch, domain: Any) -> float:
    """Return by how much an architecture violates a domain's condition, 1 if it cannot be said."""
    keep: Any = getattr(domain, "keep", None)
    if not hasattr(keep, "violation"):
        return 1.0
    excess = float(keep.violation(arch))
    return excess if 0 < excess < math.inf else 1.0


def _rules(domain: Any) -> dict[str, tuple[str, frozenset[int]]]:
    """Return dimension → (the dimension it depends on, the positions of that at which it has an effect)."""
    rules = {}
    names = list(domain.dims)
    for dim, condition in zip(names, domain.conditions(), strict=True):
        if condition is not None:
            parent, active_at = condition
            rules[dim] = (names[parent], frozenset(active_at.nonzero()[0].tolist()))
    return rules
