"""``nasframe plugins check``: what is printed, as text and as JSON, and the exit codes."""

import json

import pytest

from nasframe import registry
from nasframe.cli import main

FILE = """
from nasframe import hookimpl
from nasframe.testing.toy import tiny_net


class Good:
    unit = "tensors"

    def estimate(self, space, net, arch=None):
        return float(len(list((net if arch is None else space.extract(net, arch)).parameters())))


class Bad(Good):
    def __init__(self, unit: str): self.unit = unit


@hookimpl
def register_estimators(register):
    register("good", Good)
    register("bad", Bad)
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    registry.plugins.cache_clear()
    registry.add_file(tmp_path / "mine.py")

    def call(*arguments):
        code = main(["plugins", "check", *arguments])
        return code, *capsys.readouterr()

    yield call
    registry.plugins.cache_clear()


def test_a_plugin_that_keeps_its_promises(call):
    code, out, err = call("estimator/good")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("estimator/good  mine.py (")
    assert out.count("  ok      ") == len(out.splitlines()) - 1 == 9


@pytest.mark.slow
def test_a_failure_says_what_to_do_and_exits_with_4(call):
    code, out, err = call("bad", "unit=''")
    assert code == 4
    assert "  FAILED  the unit is named\n          unit is ''; set it to what is counted, such as 'parameters'\n" in out
    assert err == "nasframe: 1 of 1 fail: estimator/bad.\n"


@pytest.mark.slow
def test_json_has_every_check(call):
    code, out, _ = call("good", "bad", "--json")
    good, bad = json.loads(out)
    assert code == 4
    assert (good["kind"], good["name"], good["package"], good["passed"]) == ("estimator", "good", "mine.py", True)
    assert len(good["checks"]) == 9
    assert all(check["passed"] and check["seconds"] >= 0 and not check["message"] for check in good["checks"])
    assert not bad["passed"]
    assert [check["check"] for check in bad["checks"]] == ["it can be made"]
    assert "cannot be made without 'unit'. Register it with an example" in bad["checks"][0]["message"]
    assert "nasframe plugins check estimator/bad unit=..." in bad["checks"][0]["message"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["godo"], "unknown plugin 'godo'"),
        (["sampler/good"], "'good' is an estimator"),
        (["bad", "unti=x"], "there is no option 'unti'. Options: unit. Did you mean 'unit'?"),
        (["bad", "unit=3"], "unit: 3 does not fit. Expected text."),
        (["bad", "unit=[1"], "option 'unit'"),
        (["gone.py"], "the plugin cannot be loaded"),
    ],
)
def test_wrong_usage_is_2(call, arguments, text):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert text in err
