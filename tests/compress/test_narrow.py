"""A terminal of 60 columns: no cell and no word is cut to bits."""

from __future__ import annotations

import re

import pytest

from nasframe_compress.recommend import Place, recommend
from nasframe_compress.show import table
from nasframe_studies.commands.ablate import show_preview
from nasframe_studies.preview import Preview, StagePreview, StageSeeds
from study_directory import make_study


def stage(name: str, what: str, run: int, shared: int = 0) -> StagePreview:
    return StagePreview("magnitude", "mrpc", name, "train", what, 90.0, 0, run, shared, 0, StageSeeds())


STAGES = [
    stage("load-teacher", "load the teacher, evaluate on select (24 examples) and dev (60 examples)", 1, 2),
    stage("supernet", "train, 67 steps of 32, sub-networks", 3),
]


@pytest.mark.parametrize("columns", [60, 120])
def test_a_preview_is_whole(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    show_preview(Preview(STAGES, [], 3, 4, 300.0), with_tasks=True, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    if columns == 60:
        assert "load the teacher, evaluate on select (24 examples) and dev (60 examples)" in text
        assert lines[0] == "magnitude on mrpc"
        assert "1 to run, 2 shared, 1 min 30 s each" in text
        assert "supernet: train, 67 steps of 32, sub-networks; 3 to run, 1 min 30 s each" in text


def test_what_was_compressed_fits(tmp_path, monkeypatch, capsys):
    """Numbers stand on one line, and so do their intervals."""
    from rich.console import Console

    home = make_study(tmp_path / "s", arms=("random", "sng"), tasks=("sst2",), seeds=2, trials=4)
    places = [Place(arm, seed, home / f"runs/{arm}/sst2/seed-{seed}") for arm in ("random", "sng") for seed in (0, 1)]
    target = [({"encoder_params": "50%"}, "best@50%")]
    (result,) = recommend(places, {"random": target, "sng": target})
    assert result.report is not None
    assert result.chosen_on == "dev"  # these runs measured nothing on select
    console = Console(width=60)
    console.print(table(result, result.report, console.width))
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 60
    assert "…" not in "".join(lines)
    for name in ("random", "sng"):
        (row,) = [line for line in lines if line.strip().startswith(name)]
        assert re.search(r"[+−][\d.]+ \[[+−][\d.]+, [+−][\d.]+\]", row), row
        shown = next(entry for entry in result.results if entry.method == name)
        assert f"{100 * shown.score:.1f}" in row
