"""Reads the rows of a CSV or JSON Lines file, and detects its encoding and separator."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

from keylatch.errors import KeylatchError

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
ENCODINGS = ("utf-8", "utf-16", "cp1252", "latin-1")
"""The values that `--encoding` accepts."""


class Row(NamedTuple):
    """A row of the file.

    Attributes:
        number: The line number in the file, from 1. For a CSV record of several lines, the last.
        cells: The values by column name; `None` if the row cannot be read.
        problem: Why the row cannot be read.
    """

    number: int
    cells: dict[str, Any] | None = None
    problem: str = ""


def read_rows(file: BinaryIO, form: str, encoding: str | None = None) -> Iterator[Row]:
    """Read a file row by row.

    Args:
        file: The file, open for reading bytes.
        form: `csv` (the first line has the column names; the separator is a comma, a semicolon or
            a tab) or `jsonl` (one JSON object per line).
        encoding: The encoding of the file; `None` to detect UTF-8 or UTF-16.

    Yields:
        The rows, without empty rows. An unreadable row has a `problem`.
    """
    bytes_ = file if hasattr(file, "peek") else io.BufferedReader(file)  # type: ignore[type-var]
    encoding = encoding or _encoding(bytes_.peek(4)[:4])
    # If a byte is not UTF-8, only its line is refused.
    text = io.TextIOWrapper(bytes_, encoding, errors="surrogateescape", newline="")
    try:
        yield from (_csv if form == "csv" else _jsonl)(text)
    finally:
        # The file is the caller's to close, and may be closed by now.
        if not bytes_.closed:
            text.detach()


def _encoding(start: bytes) -> str:
    if start[:2] in _UTF_16:
        return "utf-16"
    # Without a mark: every second byte of ASCII in UTF-16 is zero.
    if len(start) == 4 and start[1] == start[3] == 0 != start[0]:
        return "utf-16-le"
    if len(start) == 4 and start[0] == start[2] == 0 != start[1]:
        return "utf-16-be"
    return "utf-8-sig"


def _jsonl(text: io.TextIOWrapper) -> Iterator[Row]:
    decode = json.JSONDecoder().raw_decode  # half the time of json.loads for a short line
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        if not line.isascii() and _is_undecoded(line):
            yield Row(number=number, problem=_undecoded(line))
            continue
        try:
            line = line.strip(" \t\r\n")
            cells, end = decode(line)
        # The error does not repeat the line, because the line may contain a key.
        except (ValueError, RecursionError):
            end = -1
        if end != len(line):
            yield Row(number=number, problem="the line is not JSON")
            continue
        if isinstance(cells, dict):
            yield Row(number=number, cells=cells)
        else:
            yield Row(number=number, problem="the line is not a JSON object")


def _csv(text: io.TextIOWrapper) -> Iterator[Row]:
    first = text.readline()
    if _is_undecoded(first):
        raise KeylatchError("usage", detail=f"line 1: {_undecoded(first)}")
    separator = max(",;\t", key=first.count)
    rows: Any = csv.reader(chain([first], text), strict=True, delimiter=separator)
    names: list[str] | None = None
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield Row(number=rows.line_num, problem="the line is not CSV")
            continue
        if names is None:
            names = [name.strip() for name in row]
        elif len(row) > len(names):
            yield Row(number=rows.line_num, problem="the line has more cells than the first line")
        elif any(row):
            joined = "".join(row)
            if joined.isascii() or not _is_undecoded(joined):
                yield Row(number=rows.line_num, cells=dict(zip(names, row, strict=False)))
            else:
                yield Row(number=rows.line_num, problem=_undecoded(separator.join(row)))


def _is_undecoded(line: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in line)


def _undecoded(line: str) -> str:
    place, character = next(
        (place, one) for place, one in enumerate(line, 1) if "\udc80" <= one <= "\udcff"
    )
    return (
        f"character {place} is not UTF-8 (byte {ord(character) - 0xDC00:02x}). "
        "If the file was saved as Windows-1252, add --encoding cp1252"
    )
