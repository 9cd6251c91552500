"""Examples of keys on which Python and SQL must agree, from `tests/client/vectors.json`."""

import json
from pathlib import Path
from typing import TypedDict


class KeyVector(TypedDict):
    """A key, its parts, and its hash in hex."""

    key: str
    prefix: str
    kind: str
    environment: str
    check: str
    hash: str


class TextVector(TypedDict):
    """A text that is not a key, the reason, and its hash in hex."""

    text: str
    form: str
    hash: str


_content = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
KEYS: list[KeyVector] = _content["keys"]
TEXTS: list[TextVector] = _content["texts"]
"""Texts that UTF-8 can encode."""
SECRET = next(vector["key"] for vector in KEYS if vector["kind"] == "secret")
"""A well-formed secret key that no database ever issued."""


def mistyped(key: str) -> str:
    """Return the key with another last character, so that its checksum is wrong."""
    return key[:-1] + ("2" if key[-1] == "1" else "1")
