"""Rewrite the parts of the documents that repeat what the code says: options, commands, tables, module lists.

Run ``python docs/regenerate.py`` after a change of options; ``tests/test_docs.py`` fails while a part is out of date.
A part lies between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the text around it is written by hand.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TITLES = {
    "space": "Search spaces", "sampler": "Samplers", "trainer": "Trainers", "estimator": "Estimators",
    "evaluator": "Evaluators", "modifier": "Modifiers", "transform": "Transforms", "task": "Tasks", "model": "Models",
    "exporter": "Exporters", "family": "Families", "observer": "Observers",
}  # fmt: skip


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Write a Markdown table."""
    lines = [list(header), *([escaped(str(cell)) for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def escaped(text: str) -> str:
    """Write text into a table's cell; ``<`` outside of code would begin a tag."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|").replace("\n", " "))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def option_table(options: dict[str, Any]) -> str:
    """Write the options of a plugin or verb."""
    if not options:
        return "No options.\n"
    rows = [
        (f"`{o.name}`", o.type_name, "required" if o.required else f"`{shown(o.default)}`", plain(o.doc))
        for o in options.values()
    ]
    return table(("option", "type", "default", "meaning"), rows)


def shown(default: Any) -> str:
    """Write a default as YAML reads it."""
    words = {None: "null", True: "true", False: "false", (): "[]"}
    if default is None or (isinstance(default, bool | tuple) and default in words):
        return words[default]
    return str(list(default)).replace("'", "") if isinstance(default, list | tuple) else str(default)


def plain(doc: str) -> str:
    """Turn docstring markup into Markdown."""
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", doc).replace("``", "`")


def first_paragraph(thing: Any) -> str:
    """Return the first paragraph of a docstring on one line."""
    return plain(" ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()))


def plugins() -> str:
    """List every built-in plugin with its options."""
    from nasframe import registry
    from nasframe.measures import described, possible_metrics
    from nasframe.options import options_of

    parts = []
    for kind, title in TITLES.items():
        parts.append(f"## {title}\n")
        for name, entry in sorted(registry.factories(kind).items()):
            if entry.package != "nasframe":
                continue  # another distribution's
            factory = entry.load()
            metrics = possible_metrics(factory, {})
            measured = f"\nMetrics: {described(metrics)}.\n" if metrics else ""
            parts.append(f"### `{name}`\n\n{first_paragraph(factory)}\n\n{option_table(options_of(factory))}{measured}")
    return "\n".join(parts)


def optional_members() -> str:
    """List what the plugins of each kind may have besides the methods of their kind."""
    from nasframe.interfaces import OPTIONAL

    parts = []
    for kind, interfaces in OPTIONAL.items():
        rows = []
        for interface in interfaces:
            name = f"[`{interface.__name__}`](reference/nasframe.md#nasframe.interfaces.{interface.__name__})"
            about = f"{name}: {whole_doc(interface)}"
            for member, meaning in members_of(interface):
                rows.append((f"`{member}`", meaning, about))
                about = name  # described once, in the row of its first member
        title = kind[0].upper() + kind[1:]
        parts.append(f"#### {title}\n\n{table(('member', 'meaning', 'interface'), rows)}")
    return "\n".join(parts)


def members_of(interface: type) -> list[tuple[str, str]]:
    """Return the signature and the meaning of each member that a Protocol or a record of attributes names."""
    if dataclasses.is_dataclass(interface):
        from nasframe.options import options_of

        options = options_of(interface, skip=())
        return [(f"{o.name} = {o.default!r}", plain(o.doc)) for o in options.values()]
    members = []
    for name, value in vars(interface).items():
        if isinstance(value, property):
            members.append((name, whole_doc(value)))
        elif inspect.isfunction(value) and (not name.startswith("_") or name == "__call__"):
            members.append((signature_of(value), whole_doc(value)))
    return members


def signature_of(method: Callable[..., Any]) -> str:
    """Write a method's name and arguments, without types."""
    arguments = []
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        has_default = parameter.default is not parameter.empty
        arguments.append(f"{parameter.name}={parameter.default}" if has_default else parameter.name)
    return f"{method.__name__}({', '.join(arguments)})"


def whole_doc(thing: Any) -> str:
    """Return a docstring on one line, without the list of arguments."""
    text = (inspect.getdoc(thing) or "").partition("\nArgs:")[0]
    return plain(" ".join(text.split()))


def keys() -> str:
    """List the keys of a recipe."""
    from nasframe.options import options_of
    from nasframe.recipe.top_level import TopLevel

    return table(("key", "meaning"), ((f"`{o.name}`", plain(o.doc)) for o in options_of(TopLevel, skip=()).values()))


def stages() -> str:
    """List every verb with its options."""
    from nasframe.stages.verbs import VERBS

    sections = []
    for verb, entry in VERBS.items():
        options = option_table(entry.options)
        sections.append(f"### `{verb}`\n\n{first_paragraph(entry.function)}\n\n{options}")
    return "\n".join(sections)


def run_tables() -> str:
    """List the tables of run.db with their columns."""
    from nasframe.store import SCHEMA

    found = re.findall(r"CREATE TABLE (\w+) \((.*?)\);", SCHEMA, re.DOTALL)
    rows = []
    for name, body in found:
        names = [part.split()[0] for part in re.sub(r"PRIMARY KEY \(.*?\)", "", body).split(",") if part.strip()]
        rows.append((f"`{name}`", ", ".join(f"`{column}`" for column in names)))
    return table(("table", "columns"), rows)


def commands() -> str:
    """List every command of the CLI with its arguments and options."""
    from typer.main import get_command

    from nasframe.cli import app

    parts: dict[str, str] = {}

    def describe(command: Any, path: str) -> None:
        for name, sub in getattr(command, "commands", {}).items():
            describe(sub, f"{path} {name}")
        rows = [
            (
                " ".join(f"`{o}`" for o in (*p.opts, *p.secondary_opts))
                if p.param_type_name == "option"
                else p.name.upper(),
                getattr(p, "help", "") or "",
            )
            for p in command.params
            if not getattr(p, "hidden", False) and p.name not in ("install_completion", "show_completion")
        ]
        text = " ".join((command.help or "").split("\f")[0].split())
        parts[path] = f"## `{path}`\n\n{text}\n\n" + (table(("argument", "meaning"), rows) if rows else "")

    describe(get_command(app), "nasframe")
    return "\n".join(parts[path] for path in sorted(parts))


def recipes() -> str:
    """List the recipes that the package carries, with the first line of each."""
    from nasframe.recipe.loading import packaged_recipes

    lines = {name: path.read_text(encoding="utf-8").splitlines()[0] for name, path in packaged_recipes().items()}
    return table(("recipe", "what it does"), ((f"`{name}`", line.lstrip("# ")) for name, line in lines.items()))


RE_EXPORTS = {
    ROOT / "nasframe" / f"{name}.py"
    for name in (
        "types",
        "domain",
        "streams",
        "step",
        "nn/optim",
        "nn/checkpoints",
        "nn/feed",
        "studies",
        "bench",
        "reports",
    )
}
"""Import paths that stay, and those that say where a package went: the reference shows the modules themselves."""


def modules(folder: str, package: str) -> str:
    """List a package's public modules for the API reference."""
    names = [package]
    for path in sorted((ROOT / folder).rglob("*.py")):
        inside = path.relative_to(ROOT / folder).with_suffix("")
        if path.name.startswith("_") or path in RE_EXPORTS or inside.parts[0] in ("cli", "commands", "nn", "templates"):
            continue
        names.append(".".join((package, *inside.parts)))
    return "".join(f"\n::: {name}\n" for name in names) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "plugins": plugins,
    "optional-members": optional_members,
    "keys": keys,
    "stages": stages,
    "run-tables": run_tables,
    "commands": commands,
    "recipes": recipes,
    "modules-nasframe": lambda: modules("nasframe", "nasframe"),
    "modules-nn": lambda: modules("nasframe/nn", "nasframe.nn"),
    "modules-basics": lambda: modules("plugins/nasframe_basics", "nasframe_basics"),
    "modules-studies": lambda: modules("plugins/nasframe_studies", "nasframe_studies"),
    "modules-bench": lambda: modules("plugins/nasframe_bench", "nasframe_bench"),
    "modules-deploy": lambda: modules("plugins/nasframe_deploy", "nasframe_deploy"),
}


def regenerated(text: str) -> str:
    """Return a document with its generated parts made anew."""
    return PART.sub(lambda m: f"{m[1]}\n{PARTS[m[2]]().strip()}\n\n{m[3]}", text)


def main() -> None:
    """Rewrite every document that changed."""
    for path in sorted(DOCS.rglob("*.md")):
        old = path.read_text(encoding="utf-8")
        if (new := regenerated(old)) != old:
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
