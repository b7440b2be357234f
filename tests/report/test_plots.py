from __future__ import annotations

import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from nasframe.report import plots
from nasframe.report.read import read_run
from nasframe.report.records import LayerRow
from run_directory import make_run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return read_run(make_run(tmp_path_factory.mktemp("runs") / "demo", trials=12))


def test_pareto_shows_every_scored_trial(report):
    (search,) = report.searches
    axes = plots.pareto(report, search, "encoder_params").axes[0]
    dots = sum(len(c.get_offsets()) for c in axes.collections)
    assert dots == len(search.points) + len(report.models)


def test_layers_has_a_panel_a_winner(report):
    titles = [axes.get_title() for axes in plots.layers(report).axes]
    assert titles == ["best@75%", "best@50%", "best@30%"]
    texts = [text.get_text() for text in plots.layers(report).axes[2].texts]
    assert texts.count("dropped") == 3


@pytest.mark.slow
def test_models_of_one_shape_share_a_panel_and_whole_networks_have_none(report):
    models = {model.name: model for model in report.models}
    small, other = models["best@30%"].layers, models["best@75%"].layers
    whole = [LayerRow(layer, kept=True, heads=12, ffn=1536) for layer in range(6)]
    named = {"pruned": small, "tuned": small, "other": other, "quantised": whole}
    shown = [replace(models["best@30%"], name=name, role="model", layers=rows) for name, rows in named.items()]
    drawn = plots.layers(replace(report, models=[models["teacher"], *shown]))
    assert [axes.get_title() for axes in drawn.axes] == ["pruned, tuned", "other"]
    assert "layers" not in plots.figures(replace(report, models=[models["teacher"], shown[-1]]))


def test_training_has_a_panel_for_what_each_stage_logged_and_no_holes(report):
    loss, score = [[0, 0.7], [1, 0.6]], [[1, 0.8], [2, 0.9]]
    stages = {"teacher": {"loss": loss, "select_accuracy": score}, "sparse": {"loss": loss}, "one": {"loss": loss[:1]}}
    drawn = plots.curves(replace(report, curves=stages | {"tuned": {"loss": loss}}))
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert titles == ["teacher: loss", "teacher: metrics", "sparse: loss", "tuned: loss"]
    assert all(axes.get_visible() and axes.lines for axes in drawn.axes)


def test_the_time_of_a_stage_is_that_of_all_its_roles(report):
    texts = [text.get_text() for text in plots.ledger(report).axes[0].texts]
    assert [text.rpartition(" · ")[2] for text in texts] == ["40.0 s", "49.0 s", "24.0 s"]


def test_nothing_to_draw_draws_nothing(report):
    empty = replace(report, searches=[], models=[], curves={}, ledger=[])
    assert plots.figures(empty) == {}


def test_no_window_system_is_asked_for(report, tmp_path):
    plots.save(plots.ledger(report), tmp_path / "ledger", "ledger")
    assert "matplotlib.pyplot" not in sys.modules


def test_inline_ink_follows_the_page(report, tmp_path):
    svg = plots.save(plots.ledger(report), tmp_path / "ledger", "cost & ledger")
    assert "currentColor" in svg
    assert plots.INK not in svg
    assert 'aria-label="cost &amp; ledger"' in svg


def test_a_figures_file_is_a_picture_on_white(report, tmp_path):
    svg = plots.save(plots.ledger(report), tmp_path / "ledger", "ledger")
    root = ElementTree.parse(tmp_path / "ledger.svg").getroot()
    assert next(iter(root)).attrib == {"width": "100%", "height": "100%", "fill": "white"}
    assert plots.INK in (tmp_path / "ledger.svg").read_text("utf-8")
    assert 'fill="white"' not in svg
    assert (tmp_path / "ledger.png").read_bytes()[:4] == b"\x89PNG"
