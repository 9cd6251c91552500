"""What goes over the wire in JSON: arguments with keys in them, and answers that may have some."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..errors import UnexpectedAnswer
from ..secret import Secret
from . import Rows

# A text of JSON as a whole, or one of the marks between values.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]')
# What readers of every kind refuse; it stands for a value that Python cannot read.
_UNREADABLE = object()
# Members of an answer that are rows themselves.
_ROWS = ("keys", "lines", "probes")
VOID = ("/declare_scheme",)
"""How the addresses of functions end that return nothing."""


def read_json(text: str) -> object:
    """Read JSON, each value for itself where Python cannot read all: a number of 5,000 digits.

    No reader of `rows` accepts what then stands for an unreadable value.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        return _read_rows(text)


def _read_rows(text: str) -> object:
    text = text.strip()
    if text.startswith("["):
        return [_read_rows(part) for part in _parts(text)]
    if not text.startswith("{"):
        return _UNREADABLE
    row: dict[str, object] = {}
    for member in _parts(text):
        member = member.strip()
        name, end = json.JSONDecoder().raw_decode(member)
        value = member[end:].lstrip().removeprefix(":")
        try:
            row[name] = json.loads(value)
        except (ValueError, RecursionError):
            row[name] = _read_rows(value) if name in _ROWS else _UNREADABLE
    return row


def _parts(text: str) -> Iterator[str]:
    """Give the members of a JSON list or object, by the commas of its first level."""
    depth = start = 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in ("[", "{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in ("]", "}"):
            depth -= 1
        if (depth == 1 and mark == ",") or depth == 0:
            yield text[start : token.start()]
            start = token.end()


def as_rows(answer: object) -> Rows:
    """Give any answer as rows, and hide a new key in it before anything can fail over it."""
    rows: list[dict[str, object]] = []
    for row in answer if isinstance(answer, list) else [answer]:
        # A function that returns nothing answers with an empty text.
        if row == "":
            continue
        if not isinstance(row, dict):
            raise UnexpectedAnswer(detail="the answer is not made of JSON objects")
        key, keys = row.get("key"), row.get("keys")
        if isinstance(keys, list):
            row = {**row, "keys": as_rows(keys)}
        rows.append({**row, "key": Secret(key)} if isinstance(key, str) else row)
    return rows


def plain(value: object) -> object:
    """Give an argument as the wire takes it: a `Secret` as its text, all else as it is."""
    return value.reveal() if isinstance(value, Secret) else value


def dump_json(value: object) -> str:
    """Give a `Batch` or an object as JSON, with the text of each `Secret` in it."""
    return json.dumps(value, default=plain, allow_nan=False)
