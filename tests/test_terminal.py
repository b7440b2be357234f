"""Messages on a narrow terminal: words and commands stay whole."""

import io

import pytest

from nasframe import terminal
from nasframe.terminal import tell, wrapped

LONG = "recipe  task.metric  unknown metric 'f2'. Metrics: accuracy, f1, macro_f1, mcc."


class Screen(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


def test_lines_are_broken_between_words():
    lines = wrapped(LONG, 40).split("\n")
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).split() == LONG.split()


def test_a_command_to_copy_stays_on_one_line():
    text = "small: not empty. To go on with the one in it: nasframe compress --resume 'a folder with a long name'"
    lines = wrapped(text, 40).split("\n")
    assert lines[-1] == "nasframe compress --resume 'a folder with a long name'"
    assert lines[-2].endswith(":")


def test_a_command_in_a_column_of_its_own_stays_on_one_line():
    command = "nasframe export 'compressed/a long name/run' MODEL  (any other network)"
    assert wrapped(f"export  {command}", 40).split("\n") == ["export", command]


def test_short_lines_and_long_words_stay_as_they_are():
    path = "x" * 50
    assert wrapped("two\n  lines", 40) == "two\n  lines"
    assert wrapped(path, 40) == path


@pytest.mark.parametrize("is_terminal", [True, False])
def test_only_terminals_get_broken_lines(is_terminal, monkeypatch):
    screen = Screen(is_terminal)
    monkeypatch.setattr(terminal.sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "40")
    tell(LONG)
    assert ("\n" in screen.getvalue().rstrip("\n")) is is_terminal


def test_the_width_is_that_of_the_error_stream(monkeypatch):
    """Standard output may be a pipe, which has none."""
    screen = Screen(True)
    screen.fileno = lambda: 2
    monkeypatch.setattr(terminal.sys, "stderr", screen)
    monkeypatch.delenv("COLUMNS", raising=False)
    widths = {2: terminal.os.terminal_size((200, 9))}
    monkeypatch.setattr(terminal.os, "get_terminal_size", lambda stream: widths[stream])
    tell("word " * 39)
    assert screen.getvalue().count("\n") == 1
    widths[2] = terminal.os.terminal_size((30, 9))
    tell(LONG)
    assert screen.getvalue().count("\n") > 2
