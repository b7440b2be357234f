"""What a newcomer gets wrong with ``nasframe compress``: each is refused, or said, in the command's own words."""

import pandas
import pytest

from nasframe.cli import main
from nasframe.errors import UsageError
from nasframe_compress.table import choose_columns

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def init(*arguments):
    try:
        return int(main(["init", *arguments, "--out", "out", "--no-progress"]) or 0)
    except SystemExit as end:
        return int(end.code or 0)


def test_a_wrong_metric_is_refused_under_the_name_of_its_argument(user, capsys):
    assert init("tuned", "mails.csv", "--metric", "accurac") == 2
    said = capsys.readouterr().err
    assert "nasframe: --metric: unknown metric 'accurac'" in said
    assert "Did you mean 'accuracy'?" in said


def test_a_misspelt_suffix_is_recognised(user, capsys, monkeypatch):
    def no_such(source):
        raise ConnectionError("no such data set")

    monkeypatch.setattr("nasframe_compress.data._first_rows", no_such)
    assert init("tuned", "mails.cvs") == 2
    assert "no such data set. Did you mean 'mails.csv'?" in capsys.readouterr().err


def test_a_task_of_glue_is_refused_for_a_data_set_of_the_hub(user, capsys, monkeypatch):
    monkeypatch.setattr("nasframe_compress.data._first_rows", lambda source: pytest.fail("was loaded"))
    assert init("tuned", "stanfordnlp/sst2", "--task", "sst2") == 2
    assert "--task sst2: is for a folder of GLUE's files. Expected no data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("methods", "budget", "code", "problem"),
    [
        ("yoco_bert", "0.1%", 3, "out-yoco_bert: best@0.1%: "),
        ("magnitude", "1%", 2, "--budget '1%': with all its layers, the smallest network has"),
    ],
)
def test_a_budget_that_no_network_can_meet_leaves_no_files(user, capsys, methods, budget, code, problem):
    assert init("tuned", "mails.csv", "--methods", methods, "--budget", budget) == code
    assert problem.replace("out-", "mails-") in capsys.readouterr().err
    assert not (user / "out").exists()


def test_a_label_with_a_typing_error_is_said_with_what_was_meant(user, capsys):
    table = (user / "mails.csv").read_text(encoding="utf-8").splitlines()
    table[5] = table[5].rpartition(",")[0] + ",spma"
    (user / "typing.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    assert init("tuned", "typing.csv") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "only one example of class 'spma', which can be in one split only. Did you mean 'spam'?" in said


def test_a_preview_says_everything_once(user, capsys):
    assert main(["compress", "tuned", "mails.csv", "--dry-run", "--no-progress"]) in (0, None)
    screen = capsys.readouterr()
    both = screen.err + screen.out
    assert both.count("task.positive: ") == 1
    assert both.count("distinct texts") == 1
    assert "estimated time" in screen.out


@pytest.mark.parametrize(("suffix", "written", "noun"), [("csv", ";", "semicolons"), ("tsv", ",", "commas")])
def test_another_separator_is_recognised(user, capsys, suffix, written, noun):
    table = (user / "mails.csv").read_text(encoding="utf-8").replace(",", written)
    (user / f"other.{suffix}").write_text(table, encoding="utf-8")
    assert init("tuned", f"other.{suffix}") == 2
    said = capsys.readouterr().err
    assert f"so {noun} stand between the values. Expected" in said
    assert f"pandas.read_csv('other.{suffix}', sep={written!r})" in said


@pytest.mark.parametrize(
    ("content", "encoding", "problem"),
    [
        ("body,folder\ncafé au lait très bon,ham\n", "latin-1", "is no UTF-8. Expected a file in UTF-8"),
        (
            "body,folder\nword1 word2 word3,ham\nword4 word5 word6,ham\n",
            "utf-8",
            "column 'folder' has 'ham' in all of its 2 rows. Expected at least two different labels.",
        ),
    ],
    ids=["encoding", "one class"],
)
def test_a_table_that_cannot_be_learned_from_is_refused_with_the_reason(user, capsys, content, encoding, problem):
    (user / "other.csv").write_text(content, encoding=encoding)
    assert init("tuned", "other.csv") == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("odd", ["n/a", "NaN"])
def test_scores_with_a_few_other_values_do_not_become_classes(odd):
    values = [f"{number / 7:.2f}" for number in range(40)]
    values[3] = odd
    frame = pandas.DataFrame({"text": [f"one two three {value}" for value in range(40)], "score": values})
    with pytest.raises(UsageError, match=rf"'score' holds scores, but 1 of 40 values, as '{odd}', are no numbers"):
        choose_columns(frame, "scores.csv", (), (), "auto")
    assert choose_columns(frame, "scores.csv", (), (), "classification").kind == "classification"


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--minutes", "30"], "--minutes: "), (["tuned", "--seeds", "0"], "MODEL, --seeds: ")]
)
def test_what_has_no_effect_on_a_resumed_compression_is_refused(user, capsys, arguments, named):
    assert main(["compress", *arguments, "--resume", "out", "--no-progress"]) == 2
    assert f"nasframe: {named}--resume goes on with a compression as it is" in capsys.readouterr().err


MANY = "".join(f"words number {row} here,{'ham' if row % 3 else 'spam'}\n" for row in range(60))
"""Sixty rows of a text and a class."""
MANY_LINES = "".join(f'{{"body": "some words {row}", "folder": "{row % 2}"}}\n' for row in range(60))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("twice.csv", "body,body\n" + MANY, "twice.csv:1: more than one column 'body'. Expected each name once."),
        ("bare.csv", "", "bare.csv: empty. Expected a header and at least one example."),
        (
            "semicolons.csv",  # of which a text has commas, so that pandas cannot parse its rows
            "body;folder\n" + MANY.replace(",", ";") + "one, two, three and, four;ham\n",
            "its only column is 'body;folder', so semicolons stand between the values. Expected commas",
        ),
        (
            "short.csv",
            "body,folder\n" + "".join(MANY.splitlines(True)[:6]),
            "short.csv: 6 examples. Expected at least 20",
        ),
        ("odd.jsonl", MANY_LINES + '{"body": "x", "folder": no}\n', "odd.jsonl:61: not JSON ("),
        ("lists.jsonl", '["some words", "ham"]\n' * 60, "lists.jsonl:1: a JSON list. Expected one object a line."),
        (
            "gaps.csv",
            "body,folder\n" + MANY + ",ham\n" * 70,
            "no column looks like texts. Expected --text COLUMN; there are: 'body' (70 of 130 empty), 'folder'.",
        ),
    ],
    ids=lambda value: value if value.endswith(("csv", "jsonl")) and " " not in value else "",
)
def test_a_table_that_cannot_be_read_is_refused_with_its_place_and_what_was_expected(
    user, capsys, name, content, problem
):
    (user / name).write_text(content, encoding="utf-8")
    arguments = ["--label", "folder"] if name == "short.csv" else []
    assert init("tuned", name, *arguments) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "data", "problem"),
    [
        ("mails.csv", "tuned", "mails.csv: a file, not a model. Expected the model first, then the data"),
        ("base", "tuned", "tuned: a model, not data. Expected the model first, then the data"),
    ],
)
def test_model_and_data_in_the_wrong_order_are_recognised(user, capsys, model, data, problem):
    assert init(model, data) == 2
    assert problem in capsys.readouterr().err


def test_a_folder_is_not_suggested_in_its_own_place(user, capsys, monkeypatch):
    def no_data(source):
        raise FileNotFoundError("no data files")

    monkeypatch.setattr("nasframe_compress.data._first_rows", no_data)
    (user / "nothing").mkdir()
    assert init("tuned", "nothing") == 2
    said = capsys.readouterr().err
    assert "no data files" in said
    assert "Did you mean" not in said


def test_numbers_among_labels_and_as_texts_are_said():
    frame = pandas.DataFrame({"text": [str(10**9 + row) for row in range(40)], "label": ["up", 1] * 20})
    said = choose_columns(frame, "odd.jsonl", ("text",), ("label",), "auto").said
    assert said == (
        "'text' has only numbers as texts",
        "'label' has numbers among its texts (20 of 40 cells, as 1), which are taken for classes, too",
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--dev", "mails.csv"], "--dev mails.csv: is the file of the data itself, so every example to report on"),
        (["--dev", "./mails.csv"], "--dev ./mails.csv: is the file of the data itself"),
        (["--out", "mails.csv/new"], "mails.csv: cannot be written (Not a directory). A file lies where a folder"),
        (["--out", "mails.csv/new/deep"], "mails.csv: cannot be written (Not a directory)"),
    ],
)
def test_a_report_on_the_training_data_and_a_folder_below_a_file_are_refused_before_loading(
    user, capsys, monkeypatch, arguments, problem
):
    monkeypatch.setattr("nasframe_compress.look.import_libraries", lambda: pytest.fail("the model was loaded"))
    assert main(["compress", "tuned", "mails.csv", "--no-progress", *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_a_folder_without_rights_is_refused_before_loading(user, capsys, monkeypatch):
    monkeypatch.setattr("nasframe_compress.look.import_libraries", lambda: pytest.fail("the model was loaded"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert init("tuned", "mails.csv") == 2
    assert "out: cannot be written (Permission denied)" in capsys.readouterr().err


def test_a_separator_that_stands_in_no_cell_is_refused():
    cells = ["bug;urgent", "bug", "urgent", "bug;urgent"] * 10
    frame = pandas.DataFrame({"text": [f"some words {row}" for row in range(40)], "tags": cells})
    with pytest.raises(
        UsageError, match=r"--separator ';;': stands in no cell of 'tags' in t\.csv.*Did you mean ';'\?"
    ):
        choose_columns(frame, "t.csv", (), ("tags",), "auto", separator=";;")
    assert choose_columns(frame, "t.csv", (), ("tags",), "auto", separator=";").kind == "multi_label"


@pytest.mark.parametrize("budget", ["70%", "67%", "macs<=90%"])
def test_a_share_above_what_layers_leave_is_refused_before_training(user, capsys, budget):
    """Of three layers, rosita keeps two, which are less than these budgets before anything else is pruned."""
    assert init("tuned", "mails.csv", "--methods", "rosita", "--budget", budget) == 2
    said = capsys.readouterr().err
    assert "--methods rosita: it first leaves 2 of 3 layers, 66.7% of the encoder" in said
    assert f"as --budget {budget!r} asks. Expected a smaller budget" in said
    assert not (user / "out").exists()


def test_a_share_below_what_layers_leave_is_written(user):
    assert init("tuned", "mails.csv", "--methods", "rosita", "--budget", "66%") == 0
