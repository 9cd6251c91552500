"""Opens files with keys of other systems, and reads the options that describe such a file."""

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
        help="The format of the file. Default: by the ending of its name.",
        show_default=False,
    ),
]
"""The option `--format`, for commands that read a file with keys of another system."""

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A value for lines without this field: alg=bcrypt. Repeatable.",
        show_default=False,
    ),
]
"""The option `--set`, for commands that read a file with keys of another system."""


def form_of(file: str, given: str | None) -> str:
    """Find out the format of a file.

    Args:
        file: The path of the file.
        given: The value of `--format`, or `None`.

    Returns:
        `csv` or `jsonl`.

    Raises:
        KeylatchError: `usage` if neither the path nor `--format` names a known format.
    """
    form = given or Path(file).suffix.lower().removeprefix(".")
    if form in ("csv", "jsonl"):
        return form
    if form in ("tsv", "ndjson"):
        return {"tsv": "csv", "ndjson": "jsonl"}[form]
    raise KeylatchError(
        "usage",
        detail="the name of the file does not end in .csv, .tsv, .jsonl or .ndjson",
        hint="Give --format csv or --format jsonl.",
    )


def defaults_of(given: list[str]) -> dict[str, str]:
    """Read the options `--set`.

    Args:
        given: The options, each written `NAME=VALUE`.

    Returns:
        The values by name.

    Raises:
        InvalidArgument: An option is not `NAME=VALUE`. The error does not repeat the option,
            because the text may be a key.
    """
    fields = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise InvalidArgument.of(
                "set", "is not NAME=VALUE", "Write, for example, --set alg=bcrypt."
            )
        fields[name] = value
    return fields


def zone_of(name: str | None) -> tzinfo | None:
    """Read the option `--zone`.

    Args:
        name: A name such as `Europe/Berlin`, or `UTC`.

    Returns:
        The time zone; `None` if the option was not given.

    Raises:
        InvalidArgument: No time zone has this name.
    """
    if name is None:
        return None
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument.of(
            "zone", "is not the name of a time zone", "Write UTC, or a name such as Europe/Berlin."
        ) from None


def workspaces_of(file: str | None) -> dict[str, str] | None:
    """Read the file of the option `--workspace-map`.

    Args:
        file: The path of a CSV file. A line has a tenant id of the old system and a workspace id.

    Returns:
        The workspace ids by tenant id; `None` without a file.

    Raises:
        InvalidArgument: A line does not have a tenant id and a workspace id.
        OSError: The file cannot be opened.
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
                    f"has no tenant id and workspace id in line {number}",
                    "Write each line as in this example: 42,00000000-0000-4000-8000-00000000000a",
                )
    return found


@contextmanager
def opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Open a file of keys.

    Args:
        file: The path of the file; `-` for stdin.

    Yields:
        The open file, and its size in bytes; `None` if the size is unknown.

    Raises:
        OSError: The file cannot be opened.
    """
    if file == "-":
        yield sys.stdin.buffer, None
        return
    with Path(file).open("rb") as stream:
        yield stream, os.fstat(stream.fileno()).st_size or None
