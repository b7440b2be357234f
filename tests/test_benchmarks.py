"""The scripts in ``benchmarks/`` measure what a run does: they leave the precision to what a run would choose."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_script_chooses_a_precision_of_its_own(script):
    fixed = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "torch.autocast",
            "torch.bfloat16",
            "torch.float16",
        ):
            fixed.append(ast.unparse(node))
        if isinstance(node, ast.keyword) and node.arg in ("bf16", "fp16") and isinstance(node.value, ast.Constant):
            fixed.append(ast.unparse(node))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "autocast" and node.args:
            fixed += [ast.unparse(node)] if ast.unparse(node.args[0]) != "'auto'" else []
    assert fixed == []


@pytest.mark.slow
def test_views_ends_on_every_processor():
    script = next(script for script in SCRIPTS if script.stem == "views")
    subprocess.run([sys.executable, script, "--pairs", "1", "--threads", "1"], check=True, timeout=300)
