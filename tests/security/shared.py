"""A system for all tests of a file that leave it unchanged, and answers that can be compared."""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg

from security.system import System, make_system
from stack import Cluster, Database, Janitor, People, Rest, Tokens

NOWHERE = "00000000-0000-4000-8000-000000000000"
# The headers that could reveal something, besides the status and the body.
TELLING_HEADERS = ("content-range", "content-type", "location", "preference-applied", "allow")


@contextlib.contextmanager
def open_system(
    server: Cluster, template: str, tokens: Tokens, janitor: Janitor, name: str
) -> Iterator[System]:
    """Open a database with keys in every state, and its API, for a whole file."""
    with Database(server, name, template) as database:
        People.seed(database.url)
        with Rest(database, tokens, janitor=janitor) as rest:
            yield make_system(database, rest, People(tokens))


@dataclass(frozen=True)
class Target:
    """What an attacker may know of a key: its id, text, masked key and label."""

    id: str
    key: str
    masked_key: str
    label: str

    def plain(self, text: str) -> str:
        """Return the text without this key's own values, so that two targets can be compared."""
        # The fingerprint of the caller's own text is no secret.
        fingerprint = hashlib.sha256(self.key.encode()).hexdigest()[:8]
        own = {
            self.id: "ID",
            self.key: "KEY",
            self.masked_key: "MASKED",
            fingerprint: "FINGERPRINT",
        }
        for value, name in own.items():
            text = text.replace(value, name)
        return re.sub(rf"\b{self.label}\b", "LABEL", text)


def answer(response: httpx.Response, target: Target) -> tuple[Any, ...]:
    """Return all that an HTTP answer shows, comparable between targets."""
    headers = {name: response.headers.get(name) for name in TELLING_HEADERS}
    shown = target.plain(f"{headers} {response.text}")
    return response.status_code, shown


def outcome(
    connection: psycopg.Connection[Any], statement: str, target: Target
) -> tuple[str | None, ...]:
    """Return a statement's rows, or each field of its error, comparable between targets."""
    try:
        cursor = connection.execute(statement.encode())
        rows = cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        connection.rollback()
        said = error.diag
        fields = (said.message_primary, said.message_detail, said.message_hint)
        return (
            error.sqlstate,
            *(target.plain(field) if field else None for field in fields),
            # The context shows the source of functions, where "revoked" is not a label.
            (said.context or "").replace(target.id, "ID").replace(target.key, "KEY"),
        )
    return None, target.plain(f"{cursor.rowcount} {rows}")
