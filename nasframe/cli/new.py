"""``nasframe new``: a plugin distribution to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    kind: Annotated[
        str,
        typer.Argument(
            help=(
                "sampler, space, domain, estimator, evaluator, modifier, transform, task, trainer, model, family, "
                "exporter or observer."
            )
        ),
    ],
    name: Annotated[str, typer.Argument(help="The plugin's name in recipes.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to make; default: nasframe-NAME in the current one.")
    ] = None,
) -> None:
    """Write a complete plugin distribution: a working implementation, its registration, tests, README, tox.ini."""
    from nasframe import scaffold

    folder = scaffold.new(kind, name, out)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(path)
    print(f"\nNext: pip install -e {folder}, then: nasframe plugins check {scaffold.registered_as(kind)}/{name}")
