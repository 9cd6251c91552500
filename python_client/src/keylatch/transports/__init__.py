"""What carries a call to the database: one method, in a sync and an async form."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..errors import UnexpectedAnswer
from ..secret import Secret

Rows = Sequence[Mapping[str, object]]

VIEWS = frozenset({"keys", "key_usage", "unclaimed_keys"})
"""What is read where a function would be called: an argument is the value of a column."""


class Batch(list[Any]):
    """A list that is sent as JSON, and not as an array of SQL."""


class Transport(Protocol):
    """Carries calls and waits for the answer."""

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """Call a function of schema `keylatch`.

        Args:
            function: Its name, or one of `VIEWS`.
            arguments: Its arguments by name: JSON values, and a `Secret` where a key goes.

        Returns:
            The rows of the answer by column, values as JSON has them; a key in them is a
            `Secret`.

        Raises:
            KeylatchError: Whatever went wrong; never an error of a library.
        """


class AsyncTransport(Protocol):
    """Carries calls without blocking the event loop."""

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""


def as_rows(answer: object) -> Rows:
    """Give any answer as rows, and hide a new key in it before anything can fail over it.

    Args:
        answer: One object, or a list of objects.

    Returns:
        The rows.

    Raises:
        UnexpectedAnswer: It is neither.
    """
    rows: list[dict[str, object]] = []
    for row in answer if isinstance(answer, list) else [answer]:
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


def is_one_of(value: object, *names: str) -> bool:
    """Tell whether a value is an instance of a class in a library that need not be installed.

    Args:
        value: What the caller gave.
        names: Module and class: `psycopg.Connection`.

    Returns:
        Whether it is. A library that was never imported has no instances, so none is imported.
    """
    for name in names:
        module, _, kind = name.rpartition(".")
        found = getattr(sys.modules.get(module), kind, None)
        if isinstance(found, type) and isinstance(value, found):
            return True
    return False


def expect(value: object, wanted: Sequence[str], other: Sequence[str], use_for_other: str) -> None:
    """Refuse what a client cannot work with, and say what can.

    Args:
        value: What the caller gave.
        wanted: The classes that this client takes.
        other: The classes that its sync or async twin takes.
        use_for_other: What to call for those.

    Raises:
        TypeError: The value is of none of the wanted classes.
    """
    if is_one_of(value, *wanted):
        return
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if is_one_of(value, *other):
        raise TypeError(f"for a {kind} use {use_for_other}")
    raise TypeError(f"expected {' or '.join(wanted)}, not {kind}")
