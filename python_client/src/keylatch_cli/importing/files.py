"""Files with keys of other systems: where they are, their form, and what is added to them."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, BinaryIO, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from keylatch.errors import InvalidArgument, KeylatchError

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

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
    if form in ("tsv", "ndjson"):
        return {"tsv": "csv", "ndjson": "jsonl"}[form]
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


def zone_of(name: str | None) -> tzinfo | None:
    """Read the option `--zone`.

    Args:
        name: A name such as `Europe/Berlin`, or `UTC`.

    Returns:
        The zone; `None` for none.

    Raises:
        InvalidArgument: There is no such zone.
    """
    if name is None:
        return None
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument.of(
            "zone", "is not the name of a time zone", "Write UTC, or for example Europe/Berlin."
        ) from None


def workspaces_of(file: str | None) -> dict[str, str] | None:
    """Read the file of the option `--workspace-map`.

    Args:
        file: Its path: a CSV file of the old system's name for a tenant and the workspace's id.

    Returns:
        The ids by the names; `None` for no file.

    Raises:
        InvalidArgument: A line has no name, or no id of a workspace.
        OSError: It cannot be opened.
    """
    if file is None:
        return None
    found: dict[str, str] = {}
    with Path(file).open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if len(row) == 2 and row[0].strip() and _UUID.fullmatch(row[1].strip()):
                found[row[0].strip()] = row[1].strip()
            elif any(row) and number > 1:  # the first line may be a header
                raise InvalidArgument.of(
                    "workspace-map",
                    f"has a line {number} that is not a name and the id of a workspace",
                    "Write for example: 42,00000000-0000-4000-8000-00000000000a",
                )
    return found


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
