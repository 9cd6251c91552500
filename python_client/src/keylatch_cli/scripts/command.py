"""The command that prints a script for the owner of keylatch: script."""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import Annotated

import typer

from keylatch.errors import KeylatchError


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
    keylatch script after_restore | psql --single-transaction
    """
    directory = files("keylatch_cli").joinpath("sql", "ops")
    names = sorted(one.name.removesuffix(".sql") for one in directory.iterdir())
    if name is None:
        sys.stdout.writelines(f"{one}\n" for one in names)
    elif name.removesuffix(".sql") in names:
        file = directory.joinpath(f"{name.removesuffix('.sql')}.sql")
        sys.stdout.write(file.read_text(encoding="utf-8"))
    else:
        raise KeylatchError(
            "usage", detail="no script has this name", hint=f"The names: {', '.join(names)}"
        )
    sys.stdout.flush()
