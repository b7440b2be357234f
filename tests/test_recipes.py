"""Every recipe in the tree passes `nasframe check`: recursive, and counted."""

from pathlib import Path

from nasframe.cli.check import files_of, is_study, problems_of
from nasframe.recipe.loading import extended_files

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for suffix in ("*.yaml", "*.yml") for path in (ROOT / "recipes").rglob(suffix))


def test_every_recipe_passes_and_none_is_left_out():
    checked: set[Path] = set()
    for recipe in files_of(str(ROOT / "recipes")):
        assert [str(problem) for problem in problems_of(recipe)] == []
        checked |= {path.resolve() for path in extended_files(Path(recipe))}  # fragments are checked through these
    assert len(FILES) >= 4
    assert sorted(checked) == FILES


def test_every_recipe_opens_with_a_comment_that_says_how_to_run_it():
    for recipe in files_of(str(ROOT / "recipes")):
        text = Path(recipe).read_text(encoding="utf-8")
        name = Path(recipe).relative_to(ROOT / "recipes").with_suffix("").as_posix()
        assert text.startswith("# "), recipe
        verb = "ablate" if is_study(recipe) else "run"
        assert f"nasframe {verb} {name}" in text or f"nasframe {verb} recipes/{name}.yaml" in text, recipe
