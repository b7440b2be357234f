"""The page on writing a plugin, followed to the letter by a new author: every file, every command, one environment."""

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from test_docs import ROOT, blocks_of

PAGE = ROOT / "docs/writing-a-plugin.md"
EXAMPLE = ROOT / "docs/examples/nasframe-hillclimb"


def code_of(text):
    """Return what follows the module's docstring and imports, up to the hook."""
    return text[text.index("class HillClimb") :].partition("\n\n\n@hookimpl")[0].strip()


def test_the_page_and_the_example_are_the_same():
    blocks = {block.argument: block.code for block in blocks_of(PAGE) if block.argument}
    for name in ("nasframe_hillclimb/__init__.py", "pyproject.toml"):
        assert blocks[f"nasframe-hillclimb/{name}"] == (EXAMPLE / name).read_text(encoding="utf-8"), name
    sampler = (EXAMPLE / "nasframe_hillclimb/sampler.py").read_text(encoding="utf-8")
    assert code_of(blocks["hillclimb.py"]) == code_of(sampler)


def test_the_example_keeps_its_contract(monkeypatch):
    from nasframe.testing import SamplerContract
    from nasframe.testing.kit import run_checks

    monkeypatch.syspath_prepend(str(EXAMPLE))
    from nasframe_hillclimb.sampler import HillClimb

    class Contract(SamplerContract):
        trials = 1000

        def make(self, domain, seed):
            return HillClimb(domain, seed)

    assert [outcome.message for outcome in run_checks(Contract) if not outcome.passed] == []


@pytest.mark.slow
def test_a_new_author_can_follow_the_page(tmp_path):
    """Python blocks run as scripts; dependencies are those installed here, seen through a .pth file."""
    binaries, folder = environment(tmp_path / "venv"), tmp_path / "author"
    folder.mkdir()
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "NASFRAME_PLUGINS")}
    outside |= {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    outside |= {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": "."}
    printed = ""
    for block in blocks_of(PAGE):
        path = folder / (block.argument if block.directive in ("file", "write") else f"block-{block.line}")
        if block.directive == "output":
            assert not [line for line in block.code.splitlines() if line not in printed.splitlines()], printed
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.code], cwd=folder, env=outside, text=True, capture_output=True
            )
            assert (done.returncode == 0) != (block.directive == "fails"), f"{block}\n{done.stdout}\n{done.stderr}"
            printed = done.stdout
        elif block.language in ("python", "yaml", "toml"):
            path.write_text(block.code, encoding="utf-8")
            if block.directive == "file" and block.argument == "hillclimb.py":
                code = block.code
            if not block.directive:
                subprocess.run([binaries / "python", path], cwd=folder, env=outside, check=True, capture_output=True)
        if block.code.startswith("nasframe new"):  # what the page says in words
            made = folder / "nasframe-hillclimb"
            sampler = code.partition("\n\n\n@hookimpl")[0].replace("from nasframe import hookimpl\n", "")
            (made / "nasframe_hillclimb/sampler.py").write_text(sampler + "\n", encoding="utf-8")
            tests = made / "tests/test_hillclimb.py"
            tests.write_text(tests.read_text().replace("HillclimbSampler", "HillClimb"), encoding="utf-8")


def environment(folder: Path) -> Path:
    """Make a virtual environment that sees the packages of this one; return where its commands lie."""
    venv.create(folder, with_pip=True)
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    for own in Path(site).glob("setuptools*"):  # an old one hides the one that is installed here
        shutil.rmtree(own)
    (Path(site) / "here.pth").write_text(sysconfig.get_path("purelib") + "\n" + f"{ROOT}\n{ROOT / 'plugins'}\n")
    for command in ("nasframe", "pytest"):
        (folder / "bin" / command).write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m {command} "$@"\n')
        (folder / "bin" / command).chmod(0o755)
    return folder / "bin"
