"""Signatures, results and refused calls of both clients, for a type checker: `make lint` runs it.

In mypy's strict mode, a `type: ignore` without an error is an error itself. So mypy refuses each
call that is marked with `type: ignore` here.
"""

from typing import Any, assert_type
from uuid import UUID

import psycopg

from keylatch import AsyncKeylatch, Keylatch
from keylatch.models import IssuedKey, Key, ResolvedKey, Revocation


def blocking(kl: Keylatch, key: UUID, connection: psycopg.Connection[Any]) -> None:
    assert_type(kl.issue(key, label="x", scopes=["read"]), IssuedKey)
    assert_type(kl.issue_many(key, labels=["x"]), tuple[IssuedKey, ...])
    assert_type(kl.list(str(key)), tuple[Key, ...])
    assert_type(kl.revoke(key, reason=None, wait_for_replicas=True), Revocation)
    assert_type(kl.resolve("text", origin=None), ResolvedKey | None)
    assert_type(Keylatch.from_psycopg(connection, claims={}), Keylatch)
    kl.issue(key, lable="x")  # type: ignore[call-arg]
    kl.issue(key, "secret")  # type: ignore[call-arg]
    kl.revoke(5)  # type: ignore[arg-type]
    AsyncKeylatch.from_psycopg(connection)  # type: ignore[arg-type]


async def awaited(kl: AsyncKeylatch, key: UUID, connection: psycopg.AsyncConnection[Any]) -> None:
    assert_type(await kl.issue(key), IssuedKey)
    assert_type(await kl.resolve_many(["text"]), tuple[ResolvedKey | None, ...])
    assert_type(AsyncKeylatch.from_psycopg(connection), AsyncKeylatch)
    await kl.resolve()  # type: ignore[call-arg]
    Keylatch.from_psycopg(connection)  # type: ignore[arg-type]
