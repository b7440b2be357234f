"""``nasframe schema``: the JSON Schema of recipes, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")] = None,
) -> None:
    """Print the JSON Schema of recipes, made from the installed plugins."""
    import json

    from nasframe.errors import UsageError
    from nasframe.recipe.schema import recipe_schema
    from nasframe.storage import refuse_unwritable_file, writing

    text = json.dumps(recipe_schema(), indent=2) + "\n"
    if output is None:
        print(text, end="")
    else:
        refuse_unwritable_file(output)
        # Written in place, not renamed into place, because the file may be a device such as /dev/stdout.
        with writing(output, UsageError):
            output.write_text(text, encoding="utf-8")
