"""Writes new plugin distributions: complete, installable, and tested against the contract of their kind."""

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
from nasframe.storage import refuse_unwritable
from nasframe.version import __version__

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
TEMPLATES = Path(__file__).parent / "templates" / "new"


@dataclass(frozen=True)
class Kind:
    """The values of a kind in the templates.

    Args:
        injected: arguments of the contract's ``make``.
        usage: the part of a recipe that names the plugin.
        registers: the kind that it is registered as, if that is another one: no recipe names domains, but spaces that
            have one.
    """

    injected: tuple[str, ...]
    usage: str
    registers: str = ""


KINDS = {
    "space": Kind(("config",), "space: {{use: {name}, smallest: 2}}"),
    "domain": Kind((), "space: {{use: {name}, smallest: 2}}", registers="space"),
    "sampler": Kind(("domain", "seed"), "stages:\n  - search: {{sampler: {{use: {name}, restart: 0.2}}}}"),
    "trainer": Kind((), "trainer: {{use: {name}, clip: 0.5}}"),
    "estimator": Kind((), "budgets: {{{name}: 50%}}"),
    "evaluator": Kind(
        ("seed",), "stages:\n  - search: {{sampler: random, evaluator: {{use: {name}, batch_size: 64}}}}"
    ),
    "modifier": Kind((), "stages:\n  - train: {{epochs: 1, modifiers: [{{use: {name}, strength: 1e-4}}]}}"),
    "transform": Kind(("seed",), "stages:\n  - transform: {{use: {name}, digits: 10}}"),
    "task": Kind(("tokenizer", "seed"), "task: {{use: {name}, size: 512}}"),
    "model": Kind((), "model: {{use: {name}, layers: 6}}"),
    "family": Kind((), "plugins: []  # no recipe names families: installed, {name} takes care of its networks"),
    "observer": Kind((), "observers: [{{use: {name}, file: stages.txt}}]"),
    "exporter": Kind((), "stages:\n  - export: {{mode: {{use: {name}, precision: bfloat16}}}}"),
}
OWN = {"transform": ()}
"""Kind → the arguments of its template's factory, if they are fewer than those of the contract's ``make``."""


def new(kind: str, name: str, out: Path | None = None) -> Path:
    """Write a distribution with a working plugin.

    Args:
        kind: ``sampler``, ``estimator`` …, see :data:`KINDS`.
        name: the plugin's name in recipes.
        out: the new folder; default: ``nasframe-NAME`` in the current one.

    Returns:
        The folder.

    Raises:
        UsageError: the kind is unknown, the name is not allowed or already registered, or the folder exists.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of plugin {kind!r}. Kinds: {listing(KINDS)}.{suggestion(kind, KINDS)}")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a plugin. Expected small letters and digits, - or _ between them: 'my_sampler'."
        )
    registered_kind = registered_as(kind)
    registered = registry.factories(registered_kind).get(name)
    if registered is not None:
        raise UsageError(
            f"{registered_kind} {name!r} is already registered, by {registered.source}. Choose another name."
        )
    folder = Path(out) if out is not None else Path(f"nasframe-{name.replace('_', '-')}")
    if os.path.lexists(folder):
        raise UsageError(f"{folder}: exists already. Expected a new folder; choose another with --out.")
    refuse_unwritable(folder)
    files = rendered(kind, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name first, so that a failure leaves no half of a folder.
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        for path, text in files.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_text(text, encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        os.rename(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder


def registered_as(kind: str) -> str:
    """Return the kind that a new plugin is registered as.

    >>> registered_as("sampler"), registered_as("domain")
    ('sampler', 'space')
    """
    return KINDS[kind].registers or kind


def rendered(kind: str, name: str) -> dict[str, str]:
    """Return the files of a distribution, path → text."""
    import jinja2

    words = re.split(r"[-_]", name)
    module = "_".join(words)
    package = f"nasframe_{module}"
    facts = KINDS[kind]
    registered = registered_as(kind)
    values = {
        "kind": kind,
        "registered": registered,
        "hook": f"register_{registry.plural(registered)}",
        "registered_cls": _class_name(words, registered),
        "space_cls": _class_name(words, "space"),
        "name": name,
        "package": package,
        "distribution": package.replace("_", "-"),
        "cls": _class_name(words, kind),
        "contract": f"{kind.capitalize()}Contract",
        "version": __version__,
        "api": PLUGIN_API,
        "injected": "".join(f", {argument}" for argument in facts.injected),
        "arguments": ", ".join(f"{argument}={argument}" for argument in OWN.get(kind, facts.injected)),
        "usage": facts.usage.format(name=name),
    }
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "tox.ini": "tox.ini",
        f"{package}/__init__.py": "init.py",
        f"{package}/{kind}.py": f"{kind}.py",
        f"tests/test_{module}.py": "test_domain.py" if kind == "domain" else "test.py",
    }
    loader = jinja2.FileSystemLoader(TEMPLATES)
    # StrictUndefined: a misspelled name in a template fails here, and not as a hole in somebody's new package.
    templates = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    texts = {}
    for path, source in sources.items():
        texts[path] = templates.get_template(f"{source}.j2").render(values)
    return texts


def _class_name(words: list[str], kind: str) -> str:
    """Return the name of the plugin's class, which ends in its kind.

    >>> _class_name(["my", "climb"], "sampler"), _class_name(["my", "sampler"], "sampler")
    ('MyClimbSampler', 'MySampler')
    """
    parts = words if words[-1] == kind else [*words, kind]
    return "".join(part[:1].upper() + part[1:] for part in parts)
