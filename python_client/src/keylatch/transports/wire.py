"""Reads and writes JSON: the arguments and answers of calls, which may contain keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..errors import UnexpectedAnswer
from ..secret import Secret
from . import Rows

# A whole JSON string, or a character between values.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]')
# Stands for a value that Python cannot read. Every reader of `rows` refuses it.
_UNREADABLE = object()
# Members of an answer that are lists of rows.
_ROWS = ("keys", "lines", "probes")


def read_json(text: str) -> object:
    """Read JSON. If Python cannot read all of it (a number of 5,000 digits), read value by value.

    An unreadable value becomes a placeholder that every reader of `rows` refuses.
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
    """Split a JSON list or object into its members, at the commas of the first level."""
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
    """Turn any answer into rows, and wrap new keys before anything can fail and print them."""
    rows: list[dict[str, object]] = []
    for row in answer if isinstance(answer, list) else [answer]:
        # A function that returns nothing answers with an empty string.
        if row == "":
            continue
        if not isinstance(row, dict):
            raise UnexpectedAnswer(detail="the answer has a row that is not a JSON object")
        key, keys = row.get("key"), row.get("keys")
        if isinstance(keys, list):
            row = {**row, "keys": as_rows(keys)}
        rows.append({**row, "key": Secret(key)} if isinstance(key, str) else row)
    return rows


def plain(value: object) -> object:
    """Prepare an argument for the wire: a `Secret` becomes its text, all else stays as it is."""
    return value.reveal() if isinstance(value, Secret) else value


def dump_json(value: object) -> str:
    """Write a list or an object as JSON, with each `Secret` in plaintext."""
    return json.dumps(value, default=plain, allow_nan=False)
