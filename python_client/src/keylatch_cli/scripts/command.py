"""The command that prints a script for the owner of keylatch: script."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from keylatch.errors import KeylatchError

from ..sql_files import sql_texts


def script(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The script. Without it: the names.", show_default=False
        ),
    ] = None,
) -> None:
    """Print a script of sql/ops, such as after_restore, for psql.

    The first lines of a script say what it does, who may run it, and how. For example:

    \b
    keylatch script after_restore | psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -1
    """  # noqa: D301
    scripts = {file.removesuffix(".sql"): text for file, text in sql_texts("ops").items()}
    if name is None:
        sys.stdout.writelines(f"{one}\n" for one in scripts)
    elif name in scripts:
        sys.stdout.write(scripts[name])
    else:
        raise KeylatchError(
            "usage", detail="no script has this name", hint=f"The names: {', '.join(scripts)}"
        )
    sys.stdout.flush()
