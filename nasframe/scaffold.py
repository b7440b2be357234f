"""New plugin distributions: complete, installable, tested against the contract of their kind."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nasframe import registry
from nasframe.errors import UsageError, listing, suggestion
from nasframe.hookspecs import PLUGIN_API
from nasframe.version import __version__

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
TEMPLATES = Path(__file__).parent / "templates" / "new"


@dataclass(frozen=True)
class Kind:
    """What the templates of a kind differ in.

    Args:
        injected: arguments of the contract's ``make``.
        usage: the piece of a recipe that names the plugin.
    """

    injected: tuple[str, ...]
    usage: str


KINDS = {
    "space": Kind(("config",), "space: {{use: {name}, smallest: 2}}"),
    "sampler": Kind(("domain", "seed"), "stages:\n  - search: {{sampler: {{use: {name}, restart: 0.2}}}}"),
    "trainer": Kind((), "trainer: {{use: {name}, clip: 0.5}}"),
    "estimator": Kind((), "budgets: {{{name}: 50%}}"),
    "modifier": Kind((), "stages:\n  - train: {{epochs: 1, modifiers: [{{use: {name}, strength: 1e-4}}]}}"),
    "transform": Kind(("seed",), "stages:\n  - transform: {{use: {name}, digits: 10}}"),
    "task": Kind(("tokenizer", "seed"), "task: {{use: {name}, size: 512}}"),
    "model": Kind((), "model: {{use: {name}, layers: 6}}"),
}
OWN = {"transform": ()}
"""Where the minimal implementation takes less than what the contract's ``make`` gets."""


def new(kind: str, name: str, out: Path | None = None) -> Path:
    """Write a distribution with a plugin that works.

    Args:
        kind: ``sampler``, ``estimator`` …, see ``nasframe.registry.KINDS``.
        name: the plugin's name in recipes.
        out: the folder to make; default ``nasframe-NAME`` here.

    Returns:
        The folder.

    Raises:
        UsageError: an unknown kind, a name that cannot be one or is taken, or the folder exists.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of plugin {kind!r}. Kinds: {listing(KINDS)}.{suggestion(kind, KINDS)}")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a plugin. Expected small letters and digits, - or _ between them: 'my_sampler'."
        )
    if taken := registry.factories(kind).get(name):
        raise UsageError(f"{kind} {name!r} is already registered, by {taken.source}. Choose another name.")
    folder = Path(out) if out is not None else Path(f"nasframe-{name.replace('_', '-')}")
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder}: exists already. Expected a folder to be made; choose another with --out.")
    files = rendered(kind, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        for path, text in files.items():
            (written / path).parent.mkdir(parents=True, exist_ok=True)
            (written / path).write_text(text, encoding="utf-8")
        written.chmod(0o755)
        os.rename(written, folder)
    except BaseException:
        shutil.rmtree(written, ignore_errors=True)
        raise
    return folder


def rendered(kind: str, name: str) -> dict[str, str]:
    """Return the files of a distribution, path → text."""
    import jinja2

    words = re.split(r"[-_]", name)
    package, facts = f"nasframe_{'_'.join(words)}", KINDS[kind]
    arguments = ", ".join(f"{a}={a}" for a in OWN.get(kind, facts.injected))
    values = {
        "kind": kind, "name": name, "package": package, "distribution": package.replace("_", "-"),
        "cls": "".join(word[:1].upper() + word[1:] for word in words) + kind.capitalize() * (words[-1] != kind),
        "contract": f"{kind.capitalize()}Contract", "version": __version__, "api": PLUGIN_API,
        "injected": "".join(f", {a}" for a in facts.injected), "arguments": arguments,
        "usage": facts.usage.format(name=name),
    }  # fmt: skip
    loader = jinja2.FileSystemLoader(TEMPLATES)
    templates = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    sources = {
        "pyproject.toml": "pyproject.toml", "README.md": "README.md", "tox.ini": "tox.ini",
        f"{package}/__init__.py": "init.py", f"{package}/{kind}.py": f"{kind}.py",
        f"tests/test_{'_'.join(words)}.py": "test.py",
    }  # fmt: skip
    return {path: templates.get_template(f"{source}.j2").render(values) for path, source in sources.items()}
