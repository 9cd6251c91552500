"""Files with keys of other systems: where they are, their form, and what is added to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from keylatch.errors import InvalidArgument, KeylatchError

Format = Annotated[
    Literal["csv", "jsonl"] | None,
    typer.Option(
        "--format",
        metavar="csv|jsonl",
        help="What the file is, where its name does not say.",
        show_default=False,
    ),
]
"""The option `--format` of a command that reads such a file."""

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A field for the lines that do not have it: alg=bcrypt. May be given again.",
        show_default=False,
    ),
]
"""The option `--set` of a command that reads such a file."""


def form_of(file: str, given: str | None) -> str:
    """Decide what a file is.

    Args:
        file: Its path.
        given: What `--format` says.

    Returns:
        `csv` or `jsonl`.

    Raises:
        KeylatchError: `usage` where neither says it.
    """
    form = given or Path(file).suffix.lower().removeprefix(".")
    if form in ("csv", "jsonl"):
        return form
    raise KeylatchError(
        "usage",
        detail="the name of the file does not say what it is",
        hint="Give --format csv or --format jsonl.",
    )


def defaults_of(given: list[str]) -> dict[str, str]:
    """Read the options `--set`.

    Args:
        given: Each `NAME=VALUE`.

    Returns:
        The values by name.

    Raises:
        InvalidArgument: One is nothing of the kind; it is not repeated, for it may be a key.
    """
    fields = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise InvalidArgument.of(
                "set", "is not NAME=VALUE", "Write for example --set alg=bcrypt."
            )
        fields[name] = value
    return fields


@contextmanager
def opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Open a file of keys.

    Args:
        file: Its path; `-` for stdin.

    Yields:
        Its bytes, and how many there are where that is known.

    Raises:
        OSError: It cannot be opened.
    """
    if file == "-":
        yield sys.stdin.buffer, None
        return
    with Path(file).open("rb") as stream:
        yield stream, os.fstat(stream.fileno()).st_size or None
