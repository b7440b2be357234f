"""Verbs that plugins add to the command line: added, kept apart, and refused with a reason."""

import shlex

import pytest
import typer

import nasframe as nf
from nasframe import cli, registry
from nasframe.cli.plugin_commands import add_commands
from nasframe.errors import PluginError, UsageError


@pytest.fixture(autouse=True)
def fresh():
    registry.plugins.cache_clear()
    yield
    registry.plugins.cache_clear()


class Greeter:
    """Adds the verb ``greet`` and the group ``letters`` with the verb ``write``."""

    @nf.hookimpl
    def register_commands(self, app):
        letters = typer.Typer(help="Letters.")

        @app.command()
        def greet(name: str = "world"):
            """Greet."""
            print(f"hello {name}")

        @letters.command("write")
        def write_one():
            """Write."""
            print("dear reader")

        app.add_typer(letters, name="letters")


class Raises:
    @nf.hookimpl
    def register_commands(self, app):
        app.command("half")(lambda: None)
        raise ValueError("no verbs today")


class TakesRun:
    @nf.hookimpl
    def register_commands(self, app):
        app.command("run")(lambda: print("not nasframe's"))


class SetsCallback:
    @nf.hookimpl
    def register_commands(self, app):
        app.callback()(lambda: None)


class Unbuildable:
    @nf.hookimpl
    def register_commands(self, app):
        @app.command()
        def odd(thing: "Nowhere"):  # noqa: F821
            """Take an argument of a type that does not resolve."""


def application(**plugins):
    """Return an application with the verb ``run``, to which these plugins may add theirs."""
    for name, plugin in plugins.items():
        registry.plugin_manager().register(plugin, name=name)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command("run")(lambda: print("nasframe's"))
    add_commands(app)
    return app


def use(app, line):
    return app(shlex.split(line), standalone_mode=False)


def test_commands_and_groups_are_added(capsys):
    app = application(greeter=Greeter())
    use(app, "greet --name you")
    use(app, "letters write")
    assert capsys.readouterr().out == "hello you\ndear reader\n"
    assert registry.failures() == []


def test_the_wings_add_theirs():
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert {"run", "check", "ablate", "compare", "deploy"} <= names


@pytest.mark.parametrize(
    ("plugin", "cause"),
    [
        (Raises(), "register_commands: ValueError: no verbs today"),
        (TakesRun(), "register_commands: 'run' is a command of nasframe; give it another name"),
        (SetsCallback(), "register_commands: the callback of the application is nasframe's own."),
        (Unbuildable(), "register_commands: NameError: name 'Nowhere' is not defined"),
    ],
)
def test_a_plugin_that_fails_adds_nothing_and_breaks_nothing(capsys, plugin, cause):
    app = application(bad=plugin, greeter=Greeter())
    use(app, "greet")
    use(app, "run")
    assert capsys.readouterr().out == "hello world\nnasframe's\n"
    (failure,) = registry.failures()
    assert failure.plugin == "bad"
    assert failure.cause.startswith(cause)
    names = {command.name for command in app.registered_commands}
    assert "half" not in names
    assert cli.main(["plugins"]) == 0
    assert f"failed: bad of bad: {cause}" in capsys.readouterr().err


def test_a_verb_that_two_plugins_add_is_refused_with_both_names(capsys):
    app = application(first=Greeter(), second=Greeter())
    expected = r"command 'greet' is registered by both first and second; rename or remove one"
    with pytest.raises(UsageError, match=expected):
        use(app, "greet --name you")
    causes = {failure.cause for failure in registry.failures()}
    assert causes == {expected, expected.replace("greet", "letters")}
    use(app, "run")
    assert capsys.readouterr().out == "nasframe's\n"


# ---- files of a plugin's own


class Knows:
    @nf.hookimpl
    def check_file(self, source, overrides):
        return [nf.errors.Problem(source, "", "seen")] if source.endswith(".poem") else None


class Fails:
    @nf.hookimpl
    def check_file(self, source, overrides):
        raise KeyError("rhyme")


def test_a_plugin_checks_its_own_files():
    registry.plugin_manager().register(Knows(), name="poet")
    assert [problem.text for problem in registry.check_file("a.poem", [])] == ["seen"]
    assert registry.check_file("a.yaml", []) is None


def test_a_check_that_raises_names_the_plugin():
    registry.plugin_manager().register(Fails(), name="poet")
    with pytest.raises(PluginError, match=r"plugin 'poet' \(poet\): check_file raised KeyError: 'rhyme'"):
        registry.check_file("a.poem", [])
