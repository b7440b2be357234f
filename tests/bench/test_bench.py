"""Samplers compared on a table, against figures computed here by other means."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from nasframe import hookimpl, registry
from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe.search.domain import Choices
from nasframe.search.pareto import hypervolume
from nasframe_bench.arena import Arena, arena_of, play, play_all
from nasframe_bench.contest import Contest, made, opponents, sampler_use
from nasframe_bench.records import Difference, play_json, read_play, result_text
from nasframe_bench.report import anytime, quality_rows, summarise, waste_rows
from nasframe_bench.surrogate import TREES
from nasframe_bench.table_file import ArchTable, write_table
from nasframe_studies.stats import t_interval

KNOBS = {f"k{i}": [0, 1, 2] for i in range(4)}


def score(arch):
    return 60.0 + sum((i + 1) * value for i, value in enumerate(arch.values())) + (arch["k0"] == arch["k1"])


def cost(arch):
    return 10.0 + sum(value**2 for value in arch.values())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rows = [
        {"arch": arch, "metrics": {"accuracy": score(arch)}, "costs": {"flops": cost(arch)}}
        for arch in Choices(KNOBS).enumerate()
    ]
    path = tmp_path_factory.mktemp("bench") / "table.json"
    write_table(ArchTable(KNOBS, {}, ["accuracy"], [], ["flops"], rows), path)
    return path


def contest(file, **changes):
    written = {"space": {"use": "table", "path": str(file)}, "objectives": ("accuracy", "-flops"), "budget": 20}
    return Contest(**written | changes)


def played(contest, use="random", seed=0):
    return play(contest, sampler_use(use), seed)


def test_the_truth_of_a_table(file):
    arena = Arena(contest(file, bounds={"flops": "<= 15"}, reference={"accuracy": 60}))
    allowed = [arch for arch in Choices(KNOBS).enumerate() if cost(arch) <= 15]
    assert sorted(arena.points.tolist()) == sorted([score(arch), -cost(arch)] for arch in allowed)
    assert arena.reference == [60.0, -15.0]


def test_a_play_holds_what_was_evaluated_in_order(file):
    record = played(contest(file, bounds={"flops": "<= 15"}, raw=True))
    assert len(record.points) == 20
    assert record.proposals == 20 + record.repeat + record.screened == record.asks
    assert all(-flops <= 15 for _, flops in record.points)
    assert record.raw.proposals == 20
    assert record.raw.infeasible > 0
    again = played(contest(file, bounds={"flops": "<= 15"}, raw=True))
    assert again.points == record.points != played(contest(file, bounds={"flops": "<= 15"}), seed=1).points


@pytest.mark.parametrize("raw", [False, True])
def test_a_play_is_read_as_it_was_written(file, raw):
    record = played(contest(file, raw=raw, budget=5))
    content = json.loads(json.dumps(play_json(record)))
    assert read_play(content) == record
    assert ("raw" in content) == raw
    assert list(content)[:9] == [
        "points", "proposals", "ended", "asks", "repeat", "screened", "failed", "ask_seconds", "tell_seconds",
    ]  # fmt: skip


def test_curves_are_what_they_say(file):
    plan = contest(file, reference={"accuracy": 60})
    arena = arena_of(plan)
    records = {"random": [played(plan, seed=seed) for seed in range(3)]}
    curves = anytime(arena, records)["random"]
    best = max(score(arch) for arch in Choices(KNOBS).enumerate())
    whole = hypervolume([[score(a), -cost(a)] for a in Choices(KNOBS).enumerate()], (60, -26))
    for row, record in enumerate(records["random"]):
        for n in (1, 7, 20):
            seen = record.points[:n]
            assert curves["regret"][row, n - 1] == pytest.approx(best - max(p[0] for p in seen))
            assert curves["hypervolume"][row, n - 1] == pytest.approx(hypervolume(seen, (60, -26)) / whole)


def test_a_play_that_ends_early_keeps_its_last_value(file):
    plan = contest(file, budget=100)
    record = played(plan, "random,replace=false")
    curves = anytime(arena_of(plan), {"x": [record]})["x"]
    assert len(record.points) == 81
    assert curves["hypervolume"][0, -1] == pytest.approx(1.0)
    assert curves["regret"][0, -1] == 0.0
    none = anytime(arena_of(plan), {"x": [dataclasses.replace(record, points=[])]})["x"]
    assert np.isnan(none["regret"]).all()
    assert not none["hypervolume"].any()


def test_where_nothing_beats_the_reference_point_all_is_found_at_once(file):
    plan = contest(file, reference={"accuracy": 1000}, budget=3)
    curves = anytime(arena_of(plan), {"x": [played(plan)]})["x"]
    assert curves["hypervolume"].tolist() == [[1.0, 1.0, 1.0]]


def test_differences_are_paired_over_the_seeds(file):
    plan = contest(file, objectives=("accuracy",), bounds={"flops": "<= 20"})
    uses = {name: sampler_use(name) for name in ("evolution,population=4", "random")}
    plays = play_all(plan, uses, range(6))
    result = summarise(arena_of(plan), uses, plays, range(6), [5, 20])
    curves = anytime(arena_of(plan), plays)
    for row in result.differences:
        one, two = (curves[name]["regret"][:, row.at - 1] for name in uses)
        mean, low, high = t_interval(one - two)
        assert (row.mean, row.low, row.high) == pytest.approx((mean, low, high))
    row = result.samplers[1]
    assert row.at["regret"][20].mean == pytest.approx(curves["random"]["regret"][:, 19].mean())
    assert row.found[20] == pytest.approx((curves["random"]["regret"][:, 19] == 0).mean())
    assert row.infeasible == 0
    proposals = sum(play.proposals for play in plays["random"])
    assert row.repeats == pytest.approx(sum(play.repeat for play in plays["random"]) / proposals)
    assert len(quality_rows(result)) == len(waste_rows(result)) == 3


def test_the_file_of_a_result_has_these_keys(file):
    plan = contest(file, objectives=("accuracy",), budget=5)
    uses = {"random": {"use": "random"}}
    result = summarise(arena_of(plan), uses, play_all(plan, uses, range(1)), range(1), [5])
    content = json.loads(result_text(result))
    assert list(content) == ["format", "contest", "table", "seeds", "at", "machine", "samplers", "differences"]
    assert list(content["table"]) == ["rows", "knobs", "reference", "truth", "feasible", "best"]
    sampler = content["samplers"][0]
    assert list(sampler) == [
        "name", "use", "evaluations", "proposals_per_evaluation", "repeats", "infeasible", "failed", "ask_ms",
        "tell_ms", "ended", "at", "found", "curves",
    ]  # fmt: skip
    assert sampler["at"]["regret"]["5"] == {**sampler["at"]["regret"]["5"], "sd": None, "low": None, "high": None}


def test_verdicts_follow_the_intervals():
    def row(measure, low, high):
        mean = (low + high) / 2
        return Difference(sampler="a", other="b", measure=measure, at=5, seeds=3, mean=mean, low=low, high=high)

    rows = [row(*args) for args in itertools.product(("hypervolume", "regret"), (-2.0, -1.0), (1.0, -0.5, 3.0))]
    expected = ["open", "behind", "open"] * 2 + ["open", "ahead", "open"] * 2
    assert [row.verdict for row in rows] == expected


def test_plays_are_kept_and_found_again_until_the_sampler_changes(file, tmp_path):
    plan, seen = contest(file), []

    class Counting:
        def __init__(self, domain, seed=0, step: int = 1):
            self.domain, self.left = domain, list(domain.enumerate())[::step]

        def ask(self, n=1, within=None):
            return [self.left.pop()] if self.left else []

        def tell(self, trials):
            seen.extend(trials)

    class Plugin:
        @hookimpl
        def register_samplers(self, register):
            register("counting", Counting)

    plugin = Plugin()
    registry.plugin_manager().register(plugin)
    try:
        for uses, more in ((["counting"], 40), (["counting"], 0), (["counting", "counting,step=2"], 40)):
            before = len(seen)
            plays = play_all(plan, {use: sampler_use(use) for use in uses}, range(2), folder=tmp_path)
            assert len(seen) - before == more
            assert all(len(record.points) == 20 for records in plays.values() for record in records)
    finally:
        registry.plugin_manager().unregister(plugin)


def test_several_processes_play_the_same(file):
    uses = {"random": {"use": "random"}}
    alone = play_all(contest(file), uses, range(2))
    together = play_all(contest(file), uses, range(2), jobs=2)
    assert [r.points for r in alone["random"]] == [r.points for r in together["random"]]


def test_wrong_samplers_are_all_told_before_any_play(file):
    uses = {text: sampler_use(text) for text in ("randm", "evolution,populaton=3", "random")}
    with pytest.raises(UsageError) as caught:
        play_all(contest(file), uses, range(2))
    assert "Did you mean 'random'?" in str(caught.value)
    assert "Did you mean 'population'?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("evolution", {"use": "evolution"}),
        ("grid,tie=[[op]],points=2", {"use": "grid", "tie": [["op"]], "points": 2}),
        ("{use: sandwich, inner: {use: evolution, population: 4}}",
         {"use": "sandwich", "inner": {"use": "evolution", "population": 4}}),
        ("optuna,sampler=TPESampler,group=true", {"use": "optuna", "sampler": "TPESampler", "group": True}),
    ],
)  # fmt: skip
def test_samplers_are_named_on_a_line(text, use, tmp_path):
    assert sampler_use(text) == use
    (tmp_path / "sampler.json").write_text(json.dumps(use))
    assert sampler_use(str(tmp_path / "sampler.json")) == use


@pytest.mark.parametrize("text", ["", "evolution,population", "[a, b]", "{population: 3}", "{use: evolution"])
def test_what_names_no_sampler_is_refused(text):
    with pytest.raises(UsageError):
        sampler_use(text)


def test_a_contest_from_words(file):
    space = {"use": "table", "path": str(file)}
    assert made(space).objectives == ("accuracy", "-flops")
    capped = made(space, None, ["flops>=12,<=20k"], 50, "accuracy=60,flops=1e3")
    assert (capped.objectives, capped.bounds) == (("accuracy",), {"flops": ">=12,<=20k"})
    assert capped.reference == {"accuracy": 60.0, "flops": 1000.0}
    twice = made(space, None, ["flops>=12", "flops<=20k"])
    assert twice.bounds == capped.bounds
    for wrong in (["flops"], ["<=3"]):
        with pytest.raises(UsageError, match="expected COST<=NUMBER"):
            made(space, None, wrong)
    for changes, text in (
        ({"objectives": ("acuracy",)}, "Did you mean 'accuracy'"),
        ({"bounds": {"macs": "<= 3"}}, "no cost 'macs'"),
        ({"bounds": {"flops": "<= 3"}}, "no architecture of the table meets"),
        ({"reference": {"speed": 1.0}}, "no objective 'speed'"),
    ):
        with pytest.raises(UsageError, match=text):
            Arena(contest(file, **changes))


def test_where_a_model_answers_the_best_is_the_best_found(file, tmp_path, monkeypatch):
    monkeypatch.setitem(TREES, "n_estimators", 40)
    content = json.loads(file.read_text())
    content["rows"] = content["rows"][::3]
    (tmp_path / "part.json").write_text(json.dumps(content))
    plan = contest(
        tmp_path / "part.json", space={"use": "table", "path": str(tmp_path / "part.json"), "missing": "model"}
    )
    arena, uses = arena_of(plan), {"random": {"use": "random"}}
    plays = play_all(plan, uses, range(2))
    result = summarise(arena, uses, plays, range(2), [20])
    assert result.table.truth == "the best that any play found"
    assert "a fitted model predicts" in result.table.model
    assert min(curve[-1] for curve in anytime(arena, plays)["random"]["regret"]) == 0


def test_who_refuses_when_asked_is_refused_before_any_play(file, tmp_path):
    uses = {text: sampler_use(text) for text in ("random", "every,limit=80")}  # the table has 81 rows
    with pytest.raises(UsageError, match=r"every,limit=80: .*more than 80 architectures") as caught:
        play_all(contest(file), uses, range(2), folder=tmp_path)
    assert "random" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_opponents_are_those_installed(monkeypatch):
    def available():
        return opponents(Choices({"width": [1, 2]}), refusal=lambda use: None).names

    assert {"random", "evolution"} <= set(available())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not any(name.startswith("optuna") for name in available())


def test_opponents_that_refuse_the_table_are_left_out_and_told(file, monkeypatch, capsys):
    monkeypatch.setattr("nasframe_bench.contest.OPPONENTS", ("every,limit=80", "random"))
    words = ["bench", "sampler", "evolution", "--table", str(file), "--seeds", "1", "--budget", "5", "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert [sampler["name"] for sampler in json.loads(printed.out)["samplers"]] == ["evolution", "random"]
    assert "left out: every,limit=80: sampler 'every': more than 80 architectures" in " ".join(printed.err.split())


def test_a_sampler_that_is_random_all_along_is_told(file, capsys):
    words = ["bench", "sampler", "evolution", "--table", str(file), "--seeds", "1", "--json", "--against", "random"]
    assert main([*words, "--budget", "16"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "evolution: its first 16 proposals are random, and there are only 16 evaluations." in told
    assert main([*words, "--budget", "17"]) == 0
    assert "proposals are random" not in capsys.readouterr().err


# --- command line ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_page_figure_and_result(file, tmp_path, capsys):
    words = ["bench", "sampler", "evolution,population=4", "--table", str(file), "--seeds", "3", "--budget", "12"]
    words += ["--against", "random; evolution,population=8", "--objectives", "accuracy,-flops", "--cap", "flops<=20"]
    assert main([*words, "--raw", "--out", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in result["samplers"]] == ["evolution,population=4", "random", "evolution,population=8"]
    assert result["at"] == [4, 12]
    assert json.loads((tmp_path / "out/bench.json").read_text()) == result
    page = (tmp_path / "out/bench.html").read_text()
    assert "evolution,population=8" in page
    assert "<svg" in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "bench.html", "bench.json", "bench.md", "bench.png", "bench.svg", "plays",
    }  # fmt: skip
    assert main([*words, "--at", "6", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "@6" in shown
    assert "bench.html" in shown


def test_the_command_against_nobody(file, capsys):
    words = ["bench", "sampler", "random", "--table", str(file), "--seeds", "2", "--budget", "5", "--against", "none"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["differences"] == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--at", "0"], "expected numbers from 1 to the budget"),
        (["--at", "five"], "expected numbers from 1 to the budget"),
        (["--cap", "flops"], "expected COST<=NUMBER"),
        (["--columns", "[a]"], "expected a mapping"),
        (["--missing", "guess"], "missing: 'guess' does not fit"),
        (["--against", "randm"], "Did you mean 'random'?"),
        (["--plugins", "none.py"], "none.py"),
    ],
)
def test_wrong_words_end_with_usage_errors(file, words, text, capsys):
    base = ["bench", "sampler", "random", "--table", str(file), "--seeds", "1", "--budget", "9", "--against", "none"]
    assert main([*base, *words]) == 2
    assert text in capsys.readouterr().err


def test_a_missing_table(tmp_path, capsys):
    assert main(["bench", "sampler", "random", "--table", str(tmp_path / "none.json")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_sampler_in_a_file_plays(file, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from nasframe import hookimpl\n\n"
        "class First:\n"
        "    '''Propose in order.'''\n"
        "    def __init__(self, domain, seed: int = 0): self.left = list(domain.enumerate())\n"
        "    def ask(self, n=1, within=None): return [self.left.pop(0)]\n"
        "    def tell(self, trials): pass\n\n"
        "@hookimpl\ndef register_samplers(register): register('first', First)\n"
    )
    words = ["--table", str(file), "--plugins", str(tmp_path / "mine.py"), "--seeds", "2", "--budget", "5"]
    try:
        assert main(["bench", "sampler", "first", *words, "--against", "random", "--json"]) == 0
    finally:
        registry.plugins.cache_clear()
    assert json.loads(capsys.readouterr().out)["samplers"][0]["evaluations"] == 5
