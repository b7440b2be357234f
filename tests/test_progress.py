"""What is read or tokenised shows in a row of the open bar, and nowhere else."""

import contextlib
import io
import sys

import pytest
import rich.console

from nasframe.progress import Progress, phase
from nasframe.testing.toy import tiny_tokenizer
from nasframe_basics.kept_tokens import token_chunks
from nasframe_basics.rows import read


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in place of the error stream."""
    stream = io.StringIO()
    plain = rich.console.Console
    monkeypatch.setattr(
        rich.console, "Console", lambda **options: plain(file=stream, force_terminal=True, width=100, color_system=None)
    )
    return stream


def work(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "a b,1\n" * 12_000, encoding="utf-8")
    assert len(read(path)) == 12_000
    list(token_chunks(tiny_tokenizer(), [("a b",)] * 9_000, 8))


def test_reading_and_tokenising_show_below_the_open_bar(tmp_path, terminal):
    with Progress(True).bar("model and data"):
        work(tmp_path)
    shown = terminal.getvalue()
    assert "reading reviews.csv" in shown
    assert "tokenising 9,000 texts" in shown


@pytest.mark.parametrize("visible", [True, False])
def test_without_an_open_bar_or_with_none_wanted_nothing_is_shown(tmp_path, terminal, visible):
    with Progress(False).bar("model and data"):
        work(tmp_path)
    with Progress(visible).bar("short"):
        pass
    work(tmp_path)
    assert "reading" not in terminal.getvalue()


def test_bars_go_on_while_the_error_stream_is_redirected(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    terminal, hidden = sys.stderr, io.StringIO()
    with Progress(True).bar("rehearsing"), contextlib.redirect_stderr(hidden), phase("reading"):
        pass
    assert "reading" in terminal.getvalue()
    assert hidden.getvalue() == ""


def test_a_row_goes_with_its_phase(terminal):
    with Progress(True).bar("stage") as advance:
        with pytest.raises(ValueError, match="no"):
            fail_inside()
        with phase("tokenising") as inner:
            inner(1, 2, "")
            advance(1, 3, "")
    last_frame = terminal.getvalue().rpartition("stage")[2]
    assert "reading" not in last_frame


def fail_inside():
    with phase("reading") as inner:
        inner(1, 2, "")
        raise ValueError("no")
