"""What a stage may ask of its run: plugins with the right seed, networks by name, places to put results."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe import registry
from nasframe.digests import files_below, fresh_digest
from nasframe.errors import RunError, UsageError
from nasframe.interfaces import Work
from nasframe.processes import leader
from nasframe.records import Arch, Evaluation, LedgerEntry, Trial
from nasframe.search.restrict import joined
from nasframe.seeds import stream_seed
from nasframe.storage import writing
from nasframe.store import Checkpoint, write_text

if TYPE_CHECKING:
    from torch import nn

    from nasframe.plan import PlannedStage
    from nasframe.progress import Advance
    from nasframe.stages.session import Session


class StageContext:
    """What one stage needs of its run, under short names.

    Args:
        run: the run.
        stage: the planned stage.
    """

    def __init__(self, run: Session, stage: PlannedStage) -> None:
        self.run, self.stage, self.name = run, stage, stage.name
        self.plan, self.store, self.progress = run.plan, run.store, run.progress
        self.seed, self.estimators = run.plan.seed, run.parts.estimators
        self.result: dict[str, Any] = {}

    def start(self, name: str, work: Work) -> nn.Module:
        """Return the network called ``pretrained``, ``random`` or by the name it was saved under."""
        if name in ("pretrained", "random"):
            net = self.run.parts.net(random=name == "random")
            if work.vocabulary is not None:
                from nasframe.nn.vocabulary import shrunk_net

                net = shrunk_net(net, work.vocabulary)
            return net
        return work.models[name]

    def make(self, kind: str, use: Any, **inject: Any) -> Any:
        """Make a plugin with this stage's seed."""
        seed = stream_seed(self.seed, kind, self.name)
        given = {"seed": seed, "base": self.plan.base, "notify": self.run.parts.notices}
        return registry.make(kind, use, {**given, **inject})

    def notify(self, place: str, text: str) -> None:
        """Pass on what the stage decides by itself, or notices."""
        self.run.parts.notices(place, text)

    def sampler(self, use: Any, work: Work, bounded: Iterable[str] = ()) -> Any:
        """Return the shared sampler, or make the stage's own, which may learn of the costs that are bounded."""
        if use == "shared":
            return self.run.shared_sampler(work)
        assert work.space is not None
        return self.make("sampler", use, domain=work.space.domain, costs=self.run.cost_rows(work, bounded))

    def domain(self, space: Any, use: Any, within: Mapping[str, list[Any]] | None) -> Any:
        """Return the domain in the coordinates of a sampler, restricted."""
        use = self.plan.sampler if use == "shared" else use
        domain = joined(space.domain, use)
        return domain.restrict(within) if within else domain

    def arch(self, arch: str | Mapping[str, Any] | None, work: Work) -> Arch | None:
        """Return an architecture by its name, or from sizes by knob or family."""
        if arch is None:
            return None
        if isinstance(arch, str):
            if arch not in work.archs:
                known = ", ".join(work.archs) or "none"
                raise RunError(f"stage {self.name}: no architecture {arch!r}. There are: {known}.")
            return work.archs[arch]
        return self.sizes(arch, work)

    def sizes(self, written: Mapping[str, Any], work: Work) -> Arch:
        """Return the architecture that written sizes mean; a space may read families and sizes beyond its domain."""
        assert work.space is not None
        return dict(getattr(work.space, "arch", work.space.domain.canonical)(written))

    def costs(self, space: Any, net: nn.Module, names: Sequence[str]) -> Callable[[Arch], dict[str, float]]:
        """Make a function from an architecture to its costs, from additive tables where an estimator has one."""
        from nasframe.search.costs import cost_function

        return cost_function({name: self.estimators[name] for name in names}, space, net)

    def macs(self, net: nn.Module, arch: Arch | None, result: Evaluation) -> float:
        """Forward MACs of an evaluation, at its mean length; none without a network."""
        if net is None:
            return 0.0
        from nasframe.nn.count import forward_macs

        length = max(round(result.tokens / max(result.examples, 1)), 1)
        return forward_macs(net, arch, 1, length) * result.examples

    def checkpoint(self, model: str = "") -> Checkpoint:
        """Where this stage's loop keeps its state, for one of several models where they are trained one by one."""
        return self.store.checkpoint(f"stage-{self.name} {model}".rstrip())

    def card(self, names: Iterable[str]) -> dict[str, Any]:
        """Collect what model cards say: the run's facts, and each model's own."""
        measured = {name: self.store.model(name).get("metrics") or {} for name in names}
        models = {
            name: {"metrics": splits.get("dev", {}), "over_budget": self.over_budget(name)}
            for name, splits in measured.items()
        }
        model, task = self.plan.model, self.plan.task
        return {"model": model, "task": task, "data": self.store.get("data"), "models": models}

    def over_budget(self, name: str) -> str:
        """Say by which of its costs, as they stand, a model is over the budget that it is named after."""
        from nasframe.report.budgets import bounds_of, over_budget

        results = [self.store.stage_result(stage.name) for stage in self.plan.stages]
        return over_budget(self.store.model(name).get("costs") or {}, bounds_of(name, [*results, self.result]))

    def tell_over_budget(self, names: Iterable[str]) -> None:
        """Say which models are over budget by their final costs, also in the model cards that are written already."""
        from nasframe.export.write import update_card

        for name in names:
            text = self.over_budget(name)
            if text:
                self.progress.say(f"{name}: over budget: {text}")
            path = self.store.model(name).get("path")
            if path:
                update_card(self.store.directory / path, text)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a step's metrics."""
        if leader():
            self.store.log(self.name, step, values)

    def logger(self, model: str = "") -> Callable[[int, Mapping[str, float]], None]:
        """Return where a loop logs to; the names begin with the model's where several are trained one by one."""
        if not model:
            return self.log
        return lambda step, values: self.log(step, {f"{model} {name}": value for name, value in values.items()})

    def renew(self, name: str, net: nn.Module, work: Work) -> None:
        """Bring what is kept of a model up to date: its weights have changed."""
        if not leader():
            return
        kept = self.store.checkpoint(f"expected-{name}")
        kept.path.unlink(missing_ok=True)
        kept.save(self.expected(name, net, work))
        if self.store.model(name).get("path"):
            self.save_net(name, net, work.tokenizer)

    def ledger(self, entries: Sequence[LedgerEntry]) -> None:
        """Keep what this stage cost."""
        if leader():
            self.store.add_ledger(self.name, entries)

    def stored_trials(self) -> list[Trial]:
        """Return the trials that an interrupted search already made."""
        return self.store.trials(self.name)

    def trial(self, number: int, trial: Trial, seconds: float, tally: Mapping[str, float]) -> None:
        """Store a trial and what evaluations cost up to it, then let observers know."""
        with self.store.transaction():
            self.store.add_trial(self.name, number, trial, seconds)
            self.store.put(f"tally {self.name}", dict(tally))
        self.run.hooks.trial_finished(directory=self.store.directory, stage=self.name, number=number, trial=trial)

    def tally(self) -> dict[str, float]:
        """Return what this stage's evaluations cost so far, over all sittings."""
        return dict(self.store.get(f"tally {self.name}", {"evaluations": 0, "examples": 0, "tokens": 0, "macs": 0.0}))

    def save_net(self, name: str, net: nn.Module, tokenizer: Any) -> None:
        """Keep a network as ``models/<name>``: a Hugging Face directory that loads as it is."""
        from nasframe.export import write as export

        self.describe(name, net)
        target = self.model_directory(name)
        with self.writing_model(name):
            export.write(net, tokenizer, target, mode="auto", card=self.card([name]), replace=True)
        self.store.put_model(name, path=self.relative(target))

    def keep_searched(self, net: nn.Module, work: Work) -> None:
        """Keep the network of the run's last search where no stage saved it: a finished run can then be deployed."""
        from nasframe.export import write as export
        from nasframe.plan import keeps_net, kept_net

        if net is not None and keeps_net(self.plan, self.stage):
            tokenizer = work.tokenizer if work.vocabulary is not None else None  # else the model's own is at hand
            name = kept_net(self.stage)
            with self.writing_model(name):
                export.write(net, tokenizer, self.model_directory(name), mode="auto", replace=True)

    @contextmanager
    def writing_model(self, *names: str) -> Iterator[None]:
        """Remember what the files of models are after they were written, so that a resume finds out about damage."""
        for name in names:
            self.store.put_files(name, None)
        yield
        for name in names:
            files = files_below(self.model_directory(name))
            self.store.put_files(name, {inside: fresh_digest(file) for inside, file in files})

    def model_directory(self, name: str) -> Path:
        """Return where a model lies.

        Raises:
            UsageError: the name, which a plugin may have given, leads out of the folder.
        """
        if name in ("", ".", "..") or Path(name).name != name:
            raise UsageError(f"{name!r} cannot name a model's folder. Expected a name without path.")
        return self.store.directory / "models" / name

    def relative(self, path: Path) -> str:
        """Name a path from the run directory."""
        return path.relative_to(self.store.directory).as_posix()

    def describe(self, name: str, net: nn.Module, arch: Arch | None = None) -> None:
        """Note a model's shape, and the architecture it was extracted at."""
        from nasframe.nn.blueprint import blueprint

        fields: dict[str, Any] = {"blueprint": blueprint(net)}
        if "quantised" in fields["blueprint"]:
            from nasframe.nn import formats
            from nasframe.nn import storage as bits

            record = formats.record_of(net)
            found = bits.summary(formats.matrices(net, record), record, bits.account(net))
            self.result.setdefault("stored", {})[name] = found
        if arch is not None:
            fields |= {"arch": dict(arch), "budget": name.partition("@")[2] or None}
        if not self.store.model(name).get("stage"):
            fields["stage"] = self.name
        self.store.put_model(name, **fields)

    def scores(self, name: str, split: str, metrics: Mapping[str, float]) -> None:
        """Note a model's metrics on a split."""
        known = self.store.model(name).get("metrics") or {}
        self.store.put_model(name, metrics={**known, split: dict(metrics)})

    def predictions(self, name: str, split: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write per-example predictions beside the model."""
        directory = self.model_directory(name)
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        path = directory / ("predictions.csv" if split == "dev" else f"predictions-{split}.csv")
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_text(path, text.getvalue())

    def measure(self, models: Mapping[str, nn.Module], names: Sequence[str], advance: Advance) -> None:
        """Note what models cost; measured costs are taken in turns, so that a drift of the machine hits all alike."""
        found: dict[str, dict[str, Any]] = {name: {} for name in models}
        for cost in names:
            estimator: Any = self.estimators[cost]
            if hasattr(estimator, "measure"):
                turns: list[dict[str, Any]] = [{}, {}, {}]
                for number, turn in enumerate(turns):
                    for name, net in models.items():
                        turn[name] = estimator.measure(None, net, again=True)
                        advance(number * len(models) + len(turn), len(turns) * len(models), name)
                for name in models:
                    middle = sorted((turn[name] for turn in turns), key=lambda record: record["median"])[1]
                    found[name] |= {cost: middle["median"], f"{cost}_spread": middle["spread"]}
                    self.store.put(f"measured {cost}", middle["how"])
            else:
                for name, net in models.items():
                    found[name][cost] = estimator.estimate(None, net, None)
        for name, costs in found.items():
            known = self.store.model(name).get("costs") or {}
            known = {key: value for key, value in known.items() if key.removesuffix("_cached") not in costs}
            self.store.put_model(name, costs=known | costs)

    def remeasure(self, space: Any, net: nn.Module, names: Iterable[str]) -> Callable[[Arch], dict[str, float]] | None:
        """Make a function that measures anew those of the named costs that are measured, if any is."""
        noisy: dict[str, Any] = {n: self.estimators[n] for n in names if hasattr(self.estimators[n], "measure")}
        if not noisy:
            return None
        return lambda arch: {n: e.measure(space, net, arch, again=True)["median"] for n, e in noisy.items()}

    def check_view(self, name: str, net: nn.Module, arch: Arch, model: nn.Module, work: Work) -> None:
        """Prove that an extracted model computes what the view does; keep the view's logits for exports.

        Raises:
            VerificationError: the two differ.
        """
        import torch

        from nasframe.training import equivalence as exact
        from nasframe.training.optim import forward_of

        assert work.space is not None
        inputs = probe(work)
        with torch.no_grad():
            view = forward_of(work.space.view(net.eval(), arch), net, "fp32")(**inputs).logits.cpu()
            alone = forward_of(model.eval(), model, "fp32")(**inputs).logits.cpu()
        found = exact.same(f"{name}: the extracted model, compared with its view,", alone, view)
        self.result.setdefault("extract_error", {})[name] = found
        self.store.checkpoint(f"expected-{name}").save({"inputs": inputs, "logits": view})

    def check_budget(self, name: str, net: nn.Module, arch: Arch, work: Work) -> None:
        """Say where a model that is named after a budget of the recipe is over it; measured costs are not asked."""
        from nasframe.report.budgets import plain_bounds
        from nasframe.search.budgets import known_goals, shortfall

        counted = {cost: e for cost in self.plan.budgets if not hasattr(e := self.estimators[cost], "measure")}
        full = {cost: e.estimate(work.space, net, None) for cost, e in counted.items()}
        costs = {cost: e.estimate(work.space, net, arch) for cost, e in counted.items()}
        for goal in known_goals(name.partition("@")[0], {}, self.plan.budgets, full):
            if goal.name != name:
                continue
            self.result.setdefault("bounds", {})[name] = plain_bounds(goal.bounds)
            if any(bound.violation(costs[cost]) > 0 for cost, bound in goal.bounds.items()):
                text = f"{name}: {shortfall(goal, costs)}. Expected {goal}, as its name says."
                self.progress.say(text)
                self.result.setdefault("over_budget", {})[name] = text

    def expected(self, name: str, net: nn.Module, work: Work) -> dict[str, Any]:
        """Return the inputs and logits that an export of a model must reproduce."""
        import torch

        from nasframe.training.optim import forward_of

        kept = self.store.checkpoint(f"expected-{name}").load()
        if kept is None:
            inputs = probe(work)
            with torch.no_grad():
                logits = forward_of(net.eval(), net, "fp32")(**inputs).logits.cpu()
            kept = {"inputs": inputs, "logits": logits}
        return kept


def probe(work: Work) -> dict[str, Any]:
    """Take the fixed inputs on which models are compared: the first training batch of eight."""
    batch = next(iter(work.task.train_batches(0, 0, 8)))
    return dict(batch.inputs)
