"""A stranger's space over a stranger's network on a stranger's task: pixels in, no logits out, costs of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import nasframe as nf
from nasframe.cli import main
from nasframe.errors import RecipeError, UnsatisfiableError, UsageError
from nasframe.recipe import preflight
from nasframe.running.dry_run import dry_run
from nasframe.running.runner import resume
from nasframe.stages.session import StageSession
from nasframe.store import RunStore
from nasframe_basics.loop import Loop

PLUGIN = str(Path(__file__).parents[1] / "own_network_plugin.py")
WIDTH, PIXELS, LAYERS = 8, 16, 2
OP_PARAMS = {"skip": 0, "narrow": 2 * 2 * 8 + 2 + 8, "wide": 2 * 8 * 16 + 16 + 8}
OP_MACS = {"skip": 0, "narrow": 2 * 2 * 8, "wide": 2 * 8 * 16}
OP_SECONDS = {"skip": 1.0, "narrow": 3.0, "wide": 7.0}
TRUNK_PARAMS = 2 * PIXELS * WIDTH + WIDTH * WIDTH  # reading, drawing, and one matrix that is used twice
TRUNK_MACS = 2 * PIXELS * WIDTH + 2 * WIDTH * WIDTH


def params_of(arch: dict[str, str]) -> float:
    return TRUNK_PARAMS + sum(OP_PARAMS[kind] for kind in arch.values())


def macs_of(arch: dict[str, str]) -> float:
    return TRUNK_MACS + sum(OP_MACS[kind] for kind in arch.values())


def seconds_of(arch: dict[str, str]) -> float:
    return sum(OP_SECONDS[kind] for kind in arch.values())


LARGEST = {"op.0": "wide", "op.1": "wide"}
TEACHER = {"train": {"save_as": "teacher", "space": None, "max_steps": 3, "batch_size": 8}}
SUPERNET = {"train": {"name": "supernet", "save_as": "supernet", "sampler": "random", "max_steps": 5, "batch_size": 8}}
SEARCH = {"search": {"sampler": "random", "trials": 6}}
COSTS = ["params", "macs", "size", "latency", "op_seconds", "encoder_params"]
AFTER: list[dict[str, Any]] = [
    {"extract": {}},
    {"train": {"name": "tune", "models": ["best@*"], "max_steps": 2, "batch_size": 8}},
    {"evaluate": {"costs": COSTS}},
]


def recipe(*stages: dict[str, Any], space: str = "ops", **more: Any) -> Any:
    content = {
        "nasframe": 1,
        "name": "own",
        "seed": 0,
        "plugins": [PLUGIN],
        "model": "own_model",
        "task": "stripes",
        "space": space,
        "estimators": {"latency": {"use": "latency", "repeats": 3, "warmup": 1}},
        "stages": list(stages),
        **more,
    }
    return nf.load_recipe(content)


BUDGETS = {"budgets": {"params": ["80%"], "macs": ["60%"]}, "constraints": {"op_seconds": "<= 12"}}


@pytest.fixture
def whole() -> Any:
    return recipe(TEACHER, SUPERNET, SEARCH, *AFTER, **BUDGETS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = nf.run(recipe(TEACHER, SUPERNET, SEARCH, *AFTER, **BUDGETS), out=tmp_path_factory.mktemp("own") / "run")
    return run.directory


def rows(directory: Path, table: str) -> list[dict[str, Any]]:
    store = RunStore(directory, shared=True)
    found = store.rows(table)
    store.close()
    return found


def report(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return found


def test_trials_and_models_have_the_same_exact_costs(finished: Path) -> None:
    trials = [row for row in rows(finished, "trial") if row["state"] == "done"]
    assert len(trials) == 6
    for trial in trials:
        arch = trial["arch"]
        assert trial["costs"]["params"] == params_of(arch)
        assert trial["costs"]["macs"] == macs_of(arch)
        assert trial["costs"]["op_seconds"] == seconds_of(arch)
    models = {row["name"]: row for row in rows(finished, "model")}
    winners = {name: model for name, model in models.items() if name.startswith("best@")}
    assert set(winners) == {"best@params=80%", "best@macs=60%"}
    for model in winners.values():
        arch, costs = model["arch"], model["costs"]
        assert (costs["params"], costs["macs"]) == (params_of(arch), macs_of(arch))
        assert costs["size"] == 4 * params_of(arch)
        assert costs["op_seconds"] == seconds_of(arch)  # asked with the architecture, after the model was fine-tuned
        assert costs["latency"] > 0
        assert costs["encoder_params"] is None
    assert winners["best@params=80%"]["costs"]["params"] <= 0.8 * params_of(LARGEST)  # not of all operations together
    assert winners["best@macs=60%"]["costs"]["macs"] <= 0.6 * macs_of(LARGEST)
    # The teacher has no architecture; its costs are those of the network without operations.
    assert models["teacher"]["costs"]["params"] == TRUNK_PARAMS
    assert models["teacher"]["costs"]["op_seconds"] is None


def test_the_ledger_counts_what_was_run(finished: Path) -> None:
    ledger = {(row["stage"], row["role"]): row for row in rows(finished, "ledger")}
    teacher = ledger["teacher", "student"]
    assert (teacher["examples"], teacher["tokens"]) == (24, 24)
    assert teacher["forward_macs"] == 24 * TRUNK_MACS
    assert teacher["backward_macs"] == 2 * teacher["forward_macs"]
    supernet = ledger["supernet", "student"]
    assert 40 * TRUNK_MACS <= supernet["forward_macs"] <= 40 * macs_of(LARGEST)
    done = [row for row in rows(finished, "trial") if row["state"] == "done"]
    expected = sum(12 * macs_of(row["arch"]) for row in done)  # 12 examples of select each
    assert ledger["search", "evaluation"]["forward_macs"] == pytest.approx(expected)


def test_reports_show_a_dash_and_what_percentages_are_of(finished: Path) -> None:
    facts = report(finished)
    rendered = (finished / "report.md").read_text(encoding="utf-8")
    assert "Percentages refer to the super-network's largest architecture" in rendered
    assert f"macs {macs_of(LARGEST):.0f}, params {params_of(LARGEST):.0f}" in rendered
    line = next(line for line in rendered.splitlines() if line.startswith("| best@params=80%"))
    assert "–" in line
    assert any("cannot be counted" in notice["text"] for notice in facts["notices"])


def test_the_supernet_is_made_once(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    jobs: list[tuple[str, str, Any]] = []
    fit = Loop.fit

    def recording(self: Loop, job: Any) -> Any:
        jobs.append((job.stage, type(job.net).__name__, job.space and type(job.space).__name__))
        return fit(self, job)

    monkeypatch.setattr(Loop, "fit", recording)
    from nasframe.stages import inputs, supernets

    make = supernets.made_supernet

    def counting(space: Any, net: Any, *rest: Any) -> Any:
        made.append(type(net).__name__)
        return make(space, net, *rest)

    monkeypatch.setattr(supernets, "made_supernet", counting)
    assert inputs is not None
    nf.run(whole, out=tmp_path / "run")
    # Once of the network that the checks before the run look at, and once of the trained one.
    assert made == ["Plain", "Plain"]
    assert jobs[:2] == [("teacher", "Plain", None), ("supernet", "Mixed", "Ops")]
    assert {(net, space) for _, net, space in jobs[2:]} == {("Chain", None)}


def test_training_without_a_sampler_is_on_the_supernet_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[tuple[str, str, bool]] = []
    fit = Loop.fit

    def recording(self: Loop, job: Any) -> Any:
        jobs.append((job.stage, type(job.net).__name__, job.space is not None))
        return fit(self, job)

    monkeypatch.setattr(Loop, "fit", recording)
    warm = {"train": {"name": "warm", "max_steps": 2, "batch_size": 8}}
    again = {"train": {"name": "again", "max_steps": 2, "batch_size": 8}}
    nf.run(recipe(warm, again), out=tmp_path / "run")
    assert jobs == [("warm", "Mixed", True), ("again", "Mixed", True)]


def facts_of(directory: Path) -> dict[str, Any]:
    """All of a run that must not depend on when it was stopped."""
    facts: dict[str, Any] = {}
    for row in rows(directory, "trial"):
        facts["trial", row["stage"], row["number"]] = (row["arch"], row["score"], row["costs"], row["state"])
    for row in rows(directory, "model"):
        costs = {name: cost for name, cost in row["costs"].items() if "latency" not in name}
        facts["model", row["name"]] = (row["arch"], row["blueprint"], row["metrics"], costs)
    for row in rows(directory, "ledger"):
        facts["ledger", row["stage"], row["role"]] = (row["steps"], row["forward_macs"], row["backward_macs"])
    return facts


@pytest.mark.parametrize("stopped_at", ["supernet", "search", "extract", "tune", "evaluate"])
def test_a_run_goes_on_wherever_it_was_stopped(
    stopped_at: str, whole: Any, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = StageSession.add_ledger if stopped_at not in ("extract",) else None
    if add is None:
        from nasframe.stages import measure

        def stop_measuring(*arguments: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(measure, "check_budget", stop_measuring)
    else:

        def stop(self: StageSession, entries: Any) -> None:
            if self.name == stopped_at:
                raise KeyboardInterrupt
            add(self, entries)

        monkeypatch.setattr(StageSession, "add_ledger", stop)
    with pytest.raises(KeyboardInterrupt):
        nf.run(whole, out=tmp_path / "run")
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert facts_of(tmp_path / "run") == facts_of(finished)


def test_a_second_run_comes_from_the_cache(whole: Any, tmp_path: Path) -> None:
    nf.run(whole, out=tmp_path / "first", cache=tmp_path / "cache")
    nf.run(whole, out=tmp_path / "second", cache=tmp_path / "cache")
    stages = report(tmp_path / "second")["stages"]
    assert all(stage["cached"] for stage in stages)
    assert facts_of(tmp_path / "second") == facts_of(tmp_path / "first")


def test_a_search_without_training_fits_each_candidate(tmp_path: Path) -> None:
    fit = {"max_steps": 3, "batch_size": 8, "learning_rate": 1e-2, "modifiers": ["halves"]}
    search = {"search": {"sampler": "random", "trials": 5, "fit": fit}}
    run = nf.run(recipe(search, {"extract": {}}), out=tmp_path / "run")
    trials = [row for row in rows(run.directory, "trial") if row["state"] == "done"]
    scores = {row["score"] for row in trials}
    assert len(scores) == len(trials) == 5  # every architecture has a score of its own
    (ledger,) = [row for row in rows(run.directory, "ledger") if row["stage"] == "search"]
    trained = sum(24 * macs_of(row["arch"]) for row in trials)
    assert ledger["backward_macs"] == pytest.approx(2 * trained)
    assert ledger["forward_macs"] == pytest.approx(trained + sum(12 * macs_of(row["arch"]) for row in trials))


def test_modifiers_of_fit_are_checked() -> None:
    wrong = {"search": {"sampler": "random", "fit": {"max_steps": 1, "modifiers": ["halve"]}}}
    with pytest.raises(RecipeError, match=r"fit\.modifiers\.0 +unknown modifier 'halve'.*Did you mean 'halves'"):
        nf.resolve(recipe(wrong))
    endless = {"search": {"sampler": "random", "fit": {"batch_size": 8}}}
    with pytest.raises(RecipeError, match="how long to train each candidate is missing"):
        nf.resolve(recipe(endless))
    teacher = {"search": {"sampler": "random", "fit": {"max_steps": 1, "modifiers": ["kd"]}}}
    with pytest.raises(RecipeError, match=r"fit\.modifiers\.0.*teacher"):
        nf.resolve(recipe(teacher))


OTHER_SEARCH = {"search": {"sampler": "random", "trials": 2, "space": "agreeing_view"}}
PRETRAINED = {**OTHER_SEARCH["search"], "from": "pretrained", "fit": {"max_steps": 1}}
EXTRACTED = {"train": {"name": "again", "from": "best", "sampler": "random", "max_steps": 1}}
OUTSIDE = {"search": {"sampler": "random", "trials": 2, "save_as": "best"}}


@pytest.mark.parametrize(
    ("stages", "place", "words"),
    [
        ([SUPERNET, OTHER_SEARCH], "stages.search.space", "is already the super-network of space 'ops'"),
        ([TEACHER, SUPERNET, {"search": {**OTHER_SEARCH["search"], "from": "supernet"}}], "stages.search", "'ops'"),
        ([SUPERNET, OUTSIDE, {"extract": {}}, EXTRACTED], "stages.again.from", "a model that was extracted"),
        ([SUPERNET, {"search": PRETRAINED}], None, ""),
        ([TEACHER, SUPERNET, {"search": {**PRETRAINED, "from": "teacher"}}], None, ""),
        (
            [SUPERNET, OUTSIDE, {"extract": {}}, {"train": {"name": "again", "from": "best", "max_steps": 1}}],
            None,
            None,
        ),
    ],
)
def test_another_spaces_network_is_refused_before_work(
    stages: list[dict[str, Any]], place: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check refuses, the stage would refuse, and what it lets through runs."""
    plan = recipe(*stages)
    if place is None:
        nf.run(plan, out=tmp_path / "run")
        return
    with pytest.raises(RecipeError) as caught:
        nf.resolve(plan)
    (problem,) = caught.value.problems
    assert problem.path.startswith(place)
    assert words in problem.text
    monkeypatch.setattr(preflight, "supernet_faults", lambda plan: ())
    with pytest.raises(UsageError, match=words):
        nf.run(plan, out=tmp_path / "run")


def test_exporters_are_asked_about_what_is_extracted_before_work(tmp_path: Path) -> None:
    plan = nf.resolve(recipe(SUPERNET, OUTSIDE, {"extract": {}}, {"export": {"mode": "only_plain"}}))
    with pytest.raises(UsageError, match=r"stages\.export\.mode: only plain networks can be written, not Chain"):
        nf.run(plan, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_view_that_forgets_its_architecture_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"space 'whole_view': .* but their views compute exactly the same"):
        nf.run(recipe(SUPERNET, SEARCH, space="whole_view"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    nf.run(recipe(SUPERNET, SEARCH, space="agreeing_view"), out=tmp_path / "run")  # it says so


@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        ({"op_seconds": "<= 1"}, r"none of \d+ sampled architectures has op_seconds <= 1. .* op_seconds = 2"),
        ({"params": "<= 100"}, r"none of \d+ sampled architectures has params <= 100"),
        ({"macs": "10%"}, r"of the largest|none of \d+ sampled architectures has macs"),
        ({"op_seconds": "50%"}, None),
    ],
)
def test_costs_without_a_table_are_checked_before_work(
    constraints: dict[str, str], words: str | None, tmp_path: Path
) -> None:
    plan = recipe(SUPERNET, SEARCH, constraints=constraints)
    if words is None:
        nf.run(plan, out=tmp_path / "run")
        return
    with pytest.raises(UnsatisfiableError, match=words):
        nf.run(plan, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_counted_is_a_dash_with_one_notice(tmp_path: Path) -> None:
    train = {"train": {"name": "supernet", "sampler": "random", "max_steps": 3, "batch_size": 8}}
    directory = nf.run(recipe(train, SEARCH, space="uncountable"), out=tmp_path / "run").directory
    for row in rows(directory, "ledger"):
        assert row["forward_macs"] is None
        assert row["examples"] > 0
    facts = report(directory)
    assert facts["ledger_total"]["training_macs"] is None
    notices = [notice for notice in facts["notices"] if "multiply-adds" in notice["text"]]
    assert [notice["place"] for notice in notices] == ["stages.supernet", "stages.search"]
    assert "Training took – multiply-accumulates" in (directory / "report.md").read_text(encoding="utf-8")


def test_a_dry_run_describes_it(whole: Any) -> None:
    facts = dry_run(nf.resolve(whole))
    assert facts["costs"]["params"]["full"] == facts["costs"]["params"]["largest"] == params_of(LARGEST)
    assert facts["costs"]["params"]["smallest"] == TRUNK_PARAMS
    assert facts["costs"]["op_seconds"] == {"smallest": 2.0, "largest": 14.0, "full": 14.0, "unit": "ms"}
    assert facts["seconds"] > 0
    limits = {row["cost"]: row["reachable"] for row in facts["limits"]}
    assert limits == {"params": True, "macs": True, "op_seconds": True}


def test_losses_that_need_logits_say_so(tmp_path: Path) -> None:
    distil = {"train": {"name": "kd", "space": None, "modifiers": ["kd"], "max_steps": 1, "batch_size": 8}}
    with pytest.raises(UsageError, match=r"kd: needs the network's logits, but its outputs are picture"):
        nf.run(recipe(TEACHER, distil), out=tmp_path / "run")


def test_the_command_line_runs_and_resumes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.yaml"
    stages = json.dumps([TEACHER, SUPERNET, SEARCH, {"extract": {}}])
    path.write_text(
        f"nasframe: 1\nname: own\nplugins: [{PLUGIN}]\nmodel: own_model\ntask: stripes\nspace: ops\nstages: {stages}\n",
        encoding="utf-8",
    )
    assert main(["check", str(path)]) == 0
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("space: ops", "space: ops\nconstraints: {op_seconds: <= 1}"), encoding="utf-8")
    assert main(["run", str(path), "--out", str(tmp_path / "other")]) != 0
    assert "none of" in capsys.readouterr().err


def test_tied_weights_stay_tied(finished: Path, tmp_path: Path) -> None:
    from nasframe.running.reopen import Finished

    net: Any = Finished(finished).net
    assert type(net).__name__ == "Mixed"
    assert net.again.weight is net.mirror.weight
    with torch.no_grad():
        net.mirror.weight.zero_()
        assert float(net.again.weight.abs().sum()) == 0
