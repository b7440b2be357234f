"""How many packages ``pip install nasframe`` resolves to on a CPU, nasframe itself included; nothing is installed.

    python benchmarks/packages.py
    python benchmarks/packages.py --index https://download.pytorch.org/whl/cpu     # torch's builds without CUDA

pip resolves in a fresh virtual environment. Where its index gives torch's CUDA build, the packages that only that
build needs are listed and not counted. The exit code is 1 above the target. Needs a package index.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = 60
CUDA = ("nvidia-", "cuda-", "triton")


def resolved(requirement: str, index: str | None) -> dict[str, str]:
    """Return name → version of everything that pip would install for a requirement."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        report = Path(folder) / "report.json"
        binaries = Path(folder) / ("Scripts" if sys.platform == "win32" else "bin")
        command = [binaries / "python", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", report, *(["--extra-index-url", index] if index else [])]
        command += ["--constraint", ROOT / "constraints.txt", requirement]
        subprocess.run([*map(str, command)], check=True)
        found = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in found}


def main() -> int:
    """Print the packages and how many they are."""
    parser = argparse.ArgumentParser(description="Count the packages that nasframe resolves to.")
    parser.add_argument("--index", help="a package index beside the configured ones")
    found = resolved(str(ROOT), parser.parse_args().index)
    cuda = {name for name in found if name.startswith(CUDA)}
    for name, version in sorted(found.items()):
        print(f"{name} {version}{'  (CUDA build only)' if name in cuda else ''}")
    count = len(found) - len(cuda)
    verdict = "ok" if count <= TARGET else "MISSED"
    print(f"{count} packages{f' and {len(cuda)} for CUDA' if cuda else ''}, target {TARGET}: {verdict}")
    return int(count > TARGET)


if __name__ == "__main__":
    sys.exit(main())
