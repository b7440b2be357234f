"""Any Optuna sampler as a nasframe sampler: define-by-run over the domain's dimensions, one Optuna trial a proposal."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nasframe.errors import RunError, UnsatisfiableError, UsageError, listing, suggestion
from nasframe.options import Fault, validate
from nasframe.records import Arch, Natural, Trial, arch_id

GIVEN = ("seed", "constraints_func")
"""What this wrapper gives to Optuna's samplers."""
OWN = ("sampler", "knobs", "tries", "repeats", "constraints")
QUIET = ("warn_independent_sampling", "warn_asynchronous_seeding")
MUTANTS = 20  # drawn to find one that was not proposed before
MISSING = "needs Optuna. Expected: pip install 'nasframe[optuna]'."


class OptunaSampler:
    """Proposes what one of Optuna's samplers suggests.

    Options of the Optuna sampler stand beside these and are checked against its signature. What it suggests outside
    ``within`` is told to it as violating a constraint, where it knows constraints, and asked for again, and so is, in
    a search, what it suggested before; after ``tries`` of them the last is mended by mutation. Optuna's samplers cannot
    be saved: the state is what was asked and told, and loading it asks and tells again, which takes the time it took.

    Args:
        domain: what to propose from; it has knobs.
        seed: seeds the Optuna sampler.
        sampler: a class of ``optuna.samplers``, such as ``TPESampler``, ``NSGAIISampler`` or ``GPSampler``.
        knobs: suggest values as ``categorical``, or as ``ordinal`` by their positions, small to large.
        tries: suggestions that are of no use before one is mended; 0 proposes whatever Optuna suggests, and leaves it
            to the search to screen it and to answer repeats.
        repeats: ``tell`` the sampler again what is known of what it suggested before, or let it ``forget`` that it did.
        constraints: tell the sampler of proposals outside ``within``; else it forgets them.
        options: of the Optuna sampler.

    Raises:
        UsageError: Optuna is not installed, the sampler or an option is unknown, or the domain has no knobs.
    """

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
        if found := self.faults({"sampler": sampler, **options}):
            raise UsageError("\n".join(f"sampler 'optuna': {'.'.join(map(str, at))}: {text}" for at, text in found))
        if not hasattr(domain, "decode"):
            raise UsageError(f"sampler 'optuna' needs a domain of knobs, but got {type(domain).__name__}")
        self.domain, self.seed, self.knobs, self.tries = domain, seed, knobs, tries
        self.constraints, self.repeats, self.name, self.options = constraints, repeats, sampler, options
        self.sizes = dict(zip(domain.dims, domain.shape, strict=True))
        self.rules = _rules(domain)
        self.order = sorted(self.sizes, key=lambda dim: dim in self.rules)  # parents before what depends on them
        self.rng, self.training = np.random.default_rng(seed), False
        self.reset(1)

    @staticmethod
    def faults(options: Mapping[str, Any]) -> list[Fault]:
        """List what is wrong with a choice of sampler and its options."""
        try:
            import optuna
        except ImportError:
            return [(("sampler",), MISSING)]
        classes = {name: getattr(optuna.samplers, name) for name in optuna.samplers.__all__ if name.endswith("Sampler")}
        names = [name for name, found in classes.items() if not inspect.isabstract(found)]
        if (name := options.get("sampler", "TPESampler")) not in names:
            hint = suggestion(name, names)
            return [(("sampler",), f"Optuna has no sampler {name!r}. It has {listing(names)}.{hint}")]
        own = {key: value for key, value in options.items() if key not in OWN}
        given = [((key,), f"not an option of {name}: nasframe gives it.") for key in GIVEN if own.pop(key, None)]
        found = validate(own, classes[name], skip=GIVEN)[1]
        return [*given, *((at, f"{text} ({name})") for at, text in found if at != ("search_space",))]

    def reset(self, goals: int) -> None:
        """Begin a new study of so many objectives."""
        import optuna

        self.goals, self.told, self.exhausted = goals, 0, False
        self.log: list[list[Any]] = []  # all that was asked and told, from which another study can be brought here
        self.open: dict[str, list[int]] = {}  # proposals under way: architecture → Optuna's trials
        self.trials: dict[int, Any] = {}
        self.seen: dict[str, list[float] | None] = {}  # what was proposed or told, and its values where they are known
        self.worst = [math.inf] * goals
        logger = logging.getLogger("optuna")
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            self.study = optuna.create_study(directions=["maximize"] * goals, sampler=self._make(goals))
        finally:
            logger.setLevel(level)
        self.study.stop = self._stop  # type: ignore[method-assign]

    def start(self, stage: str, total: int, origin: str = "search") -> None:
        """Forget everything: a loss on a batch and a metric on a split are not comparable."""
        self.training = origin == "train"
        self.reset(1)

    def ask(self, n: int = 1, within: Any = None) -> list[Arch]:
        """Propose up to ``n`` architectures; fewer where the sampler or ``within`` has no more."""
        domain = self.domain if within is None else within
        archs: list[Arch] = []
        try:
            while len(archs) < n and not self.exhausted:
                number, arch = self._useful(domain)
                self.open.setdefault(arch_id(arch), []).append(number)
                self.seen.setdefault(arch_id(arch), None)
                archs.append(arch)
        except UnsatisfiableError:
            pass
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        """Finish Optuna's trials; what was never proposed is added to the study."""
        for trial in trials:
            values = [math.nan if value is None else float(value) for value in trial.objectives or (trial.score,)]
            good = trial.state in ("done", "repeat") and all(map(math.isfinite, values))
            if good and len(values) != self.goals and not self.told:
                self._regoal(len(values))
            good = good and len(values) == self.goals
            waiting = self.open.get(arch_id(trial.arch), [])
            if waiting:
                number = waiting.pop(0)
            elif good and self.domain.contains(trial.arch):
                number = self._ask(self._positions(trial.arch))[0]
            else:
                continue
            if good:
                self.seen[arch_id(trial.arch)] = values
            excess = trial.violation if math.isfinite(trial.violation) else 1.0
            self._tell(number, values if good else None, excess if good or trial.state == "screened" else 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return all that was asked and told, and the generator's state."""
        waiting = {name: list(numbers) for name, numbers in self.open.items() if numbers}
        return {"seed": self.seed, "goals": self.goals, "log": [list(entry) for entry in self.log], "open": waiting,
                "seen": dict(self.seen), "training": self.training, "rng": self.rng.bit_generator.state}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Ask and tell again all that was asked and told.

        Raises:
            RunError: Optuna suggests something else than it did.
        """
        self.seed = state["seed"]
        self.reset(state["goals"])
        for kind, *entry in state["log"]:
            if kind == "ask":
                fixed, positions = entry
                self._ask(fixed)
                if (found := self.log[-1][2]) != positions:
                    change = f"{self.name} suggests {found} where it suggested {positions}"
                    raise RunError(f"{change}: another version of Optuna?")
            else:
                self._tell(*entry)
        self.open = {name: list(numbers) for name, numbers in state["open"].items()}
        self.seen, self.training = dict(state["seen"]), state["training"]
        self.rng.bit_generator.state = state["rng"]

    def _make(self, goals: int) -> Any:
        import optuna

        factory = getattr(optuna.samplers, self.name)
        known = inspect.signature(factory).parameters
        options: dict[str, Any] = {name: False for name in QUIET if name in known and known[name].default is True}
        options |= self.options
        if "search_space" in known and "search_space" not in options:
            options["search_space"] = {dim: list(range(size)) for dim, size in self.sizes.items()}
        if "seed" in known:  # a study begun anew, once the objectives are counted, must not repeat the first proposals
            options["seed"] = (self.seed + goals - 1) % 2**32
        self.knows_constraints = self.constraints and "constraints_func" in known
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an option is experimental
            try:
                return factory(**options)
            except (TypeError, ValueError) as error:
                raise UsageError(f"sampler 'optuna': {self.name}: {error}") from None

    def _stop(self) -> None:
        self.exhausted = True

    def _regoal(self, goals: int) -> None:
        """Begin a study of the right number of objectives, with the proposals under way."""
        asked = {number: positions for number, (_, _, positions) in enumerate(e for e in self.log if e[0] == "ask")}
        waiting, seen = self.open, self.seen
        self.reset(goals)
        self.seen = seen
        for name, numbers in waiting.items():
            self.open[name] = [self._ask(asked[number])[0] for number in numbers]

    def _useful(self, domain: Any) -> tuple[int, Arch]:
        """Ask until a proposal is inside ``domain`` and new, or mend the last."""
        allowed = getattr(domain, "allowed", [])
        fixed = {dim: int(left[0]) for dim, left in zip(self.sizes, allowed, strict=False) if len(left) == 1}
        keep: Any = getattr(domain, "keep", None)
        repeat = self.training or len(self.seen) >= getattr(domain, "size", math.inf)  # nothing new can be asked for
        number, arch = self._ask(fixed)
        for attempt in range(self.tries):
            inside = domain.contains(arch)
            if inside and (repeat or arch_id(arch) not in self.seen):
                return number, arch
            if inside:
                self._tell(number, self.seen[arch_id(arch)] if self.repeats == "tell" else None, 0.0)
            else:
                excess = float(keep.violation(arch)) if hasattr(keep, "violation") else 1.0
                self._tell(number, None, excess if 0 < excess < math.inf else 1.0)
            if self.exhausted:
                raise UnsatisfiableError(f"{self.name} has no more proposals")
            if attempt + 1 < self.tries:
                number, arch = self._ask(fixed)
            else:
                number, arch = self._ask(self._positions(self._mended(arch, domain)))
        return number, arch

    def _mended(self, arch: Arch, domain: Any) -> Arch:
        """Mutate into ``domain``, to something new where that is near."""
        for _ in range(MUTANTS):
            arch = domain.mutate(arch, self.rng)
            if self.training or arch_id(arch) not in self.seen:
                break
        return arch

    def _ask(self, fixed: Mapping[str, int]) -> tuple[int, Arch]:
        """Open a trial of Optuna's, with some dimensions fixed, and read its architecture."""
        fixed = {dim: position for dim, position in fixed.items() if self.sizes[dim] > 1}
        if fixed:
            self.study.enqueue_trial(dict(fixed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a dimension is sampled independently, which conditional ones are
            try:
                trial = self.study.ask()
            except ImportError as error:
                raise UsageError(f"sampler 'optuna': {self.name} needs: pip install {error.name}") from None
            positions = dict.fromkeys(self.sizes, 0)
            for dim in self.order:
                parent, on = self.rules.get(dim, ("", ()))
                if self.sizes[dim] > 1 and (not parent or positions[parent] in on):
                    positions[dim] = self._suggest(trial, dim)
        self.trials[trial.number] = trial
        self.log.append(["ask", dict(fixed), dict(positions)])
        return trial.number, self.domain.decode(positions.values())

    def _suggest(self, trial: Any, dim: str) -> int:
        if self.knobs == "ordinal":
            return int(trial.suggest_int(dim, 0, self.sizes[dim] - 1))
        return int(trial.suggest_categorical(dim, range(self.sizes[dim])))

    def _tell(self, number: int, values: Sequence[float] | None, excess: float) -> None:
        """Finish a trial: with values, as violating a constraint, or as failed."""
        from optuna.trial import TrialState

        self.log.append(["tell", number, None if values is None else list(values), excess])
        trial = self.trials.pop(number)
        if values is not None:
            self.told += 1
            self.worst = [min(pair) for pair in zip(self.worst, values, strict=True)]
        elif excess > 0 and self.knows_constraints:  # whoever knows constraints does not compare what violates them
            values = [value if math.isfinite(value) else 0.0 for value in self.worst]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.knows_constraints and values is not None:
                trial.set_constraint("within", excess)
            self.study.tell(trial, values, state=TrialState.FAIL if values is None else None)

    def _positions(self, arch: Arch) -> dict[str, int]:
        """Return the positions of the dimensions that have an effect."""
        pairs = zip(self.sizes, self.domain.encode(arch), self.domain.active(arch), strict=True)
        return {dim: int(position) for dim, position, active in pairs if active}


def _rules(domain: Any) -> dict[str, tuple[str, frozenset[int]]]:
    """Return dimension → (the dimension it depends on, the positions of that at which it has an effect)."""
    rules = {}
    names = list(domain.dims)
    for parent, size in zip(names, domain.shape, strict=True):
        at = [dict.fromkeys(names, 0) | {parent: position} for position in range(size)]
        archs = [domain.decode(positions.values()) for positions in at]
        for dim, (knob, *_) in domain.dims.items():
            on = frozenset(position for position, arch in enumerate(archs) if knob in arch)
            if 0 < len(on) < size:
                rules[dim] = (parent, on)
    return rules
