"""The command line, with one file for each verb. Results, which programs may read, go to stdout, messages to stderr.

Verbs import what they need when they are called, so that help and completion do not wait for torch.

Exit codes: 0 done, 1 the run failed, 2 wrong usage or recipe, 3 a constraint cannot be met, 4 a verification failed,
130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from nasframe.cli import cache, check, doctor, new, plugins, recipes, report, run, schema
from nasframe.cli.left_out import CommandGroup
from nasframe.cli.plugin_commands import add_commands
from nasframe.errors import NasframeError, PluginError
from nasframe.plugin_errors import described, plugin_error
from nasframe.terminal import tell
from nasframe.version import __version__

SEE_WHERE = "Run again as 'nasframe --traceback ...' to see where."

app = typer.Typer(
    name="nasframe",
    cls=CommandGroup,
    help="Neural architecture search and model compression with pluggable strategies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.run)
app.command()(check.check)
app.add_typer(plugins.app, name="plugins")
app.add_typer(recipes.app, name="recipes")
app.command()(new.new)
app.command()(report.report)
app.add_typer(cache.app, name="cache")
app.command()(schema.schema)
app.command()(doctor.doctor)
# Last, so that the commands of plugins stand below ours in the help.
add_commands(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show Python's traceback of an unexpected error.")
    ] = False,
) -> None:
    """Neural architecture search and model compression with pluggable strategies."""
    if traceback:
        os.environ["NASFRAME_TRACEBACK"] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows ``nasframe``; default: the process's own.

    Returns:
        The exit code.
    """
    words = None if arguments is None else list(arguments)
    if words is None and not sys.warnoptions:  # whoever calls this function, or sets Python's option, decides alone
        _show_deprecations()
    try:
        return _code(app(args=words, prog_name="nasframe"))
    except KeyboardInterrupt:
        _say("interrupted.")
        return 130
    except BrokenPipeError:
        # The reader went away, as `head` does. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, SystemExit) as error:
        return _failed(error)


def _failed(error: Exception | SystemExit) -> int:
    """Say what went wrong, and return the exit code. Users see messages, not tracebacks."""
    if isinstance(error, PluginError):
        return _of_plugin(error, error.__cause__)
    if isinstance(error, NasframeError):
        _say(_with_notes(str(error), error))
        return error.exit_code
    # Plugins before anything else, since their errors may be of any class, and they may call `sys.exit`.
    by_plugin = plugin_error(error)
    if by_plugin is not None:
        return _of_plugin(by_plugin, error)
    if isinstance(error, SystemExit):  # typer's own way out, usage errors included
        return _code(error.code)
    if os.environ.get("NASFRAME_TRACEBACK"):
        raise error
    _say(_with_notes(_unexpected(error), error))
    return 1


def _show_deprecations() -> None:
    """Print warnings of old names in recipes and plugins, each once: Python hides them from users of a program."""
    warnings.filterwarnings("default", category=DeprecationWarning, module=r"nasframe\b")
    show_others = warnings.showwarning
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        text = str(message)
        if not issubclass(category, DeprecationWarning):
            show_others(message, category, *place, **more)
        elif text not in shown:
            shown.add(text)
            _say(text)

    warnings.showwarning = show


def _unexpected(error: Exception) -> str:
    """Describe an error that no check foresaw; if it is about the disk, say what can be done."""
    from nasframe.storage import disk_problem

    if isinstance(error, OSError):
        problem = disk_problem(error)
        if problem is not None:
            return problem
    return f"unexpected {described(error)}\n{SEE_WHERE}"


def _of_plugin(error: PluginError, cause: BaseException | None) -> int:
    """Say which plugin raised what."""
    if os.environ.get("NASFRAME_TRACEBACK"):
        raise error from cause
    _say(_with_notes(f"{error}\n{SEE_WHERE}", error))
    return error.exit_code


def _code(value: object) -> int:
    """Return the exit code that a command's result, or the argument of ``sys.exit``, stands for."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    return 1  # `sys.exit("text")` is a failure


def _with_notes(text: str, error: Exception) -> str:
    """Append the notes of an error: which stage of which run failed, and how to go on."""
    return "\n".join([text, *getattr(error, "__notes__", ())])


def _say(text: str) -> None:
    tell(f"nasframe: {text}")
