"""Both clients under a type checker: signatures, results and refused calls."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_server

# With --strict, a `type: ignore` that hides no error is an error: each of these calls is refused.
CALLS = """
from typing import Any, assert_type
from uuid import UUID

import psycopg
from keylatch import AsyncKeylatch, Keylatch
from keylatch.models import IssuedKey, Key, ResolvedKey, Revocation


def blocking(kl: Keylatch, id: UUID, connection: psycopg.Connection[Any]) -> None:
    assert_type(kl.issue(id, label="x", scopes=["read"]), IssuedKey)
    assert_type(kl.issue_many(id, labels=["x"]), tuple[IssuedKey, ...])
    assert_type(kl.list(str(id)), tuple[Key, ...])
    assert_type(kl.revoke(id, reason=None, wait_for_replicas=True), Revocation)
    assert_type(kl.resolve("text", origin=None), ResolvedKey | None)
    assert_type(Keylatch.from_psycopg(connection, claims={}), Keylatch)
    kl.issue(id, lable="x")  # type: ignore[call-arg]
    kl.issue(id, "secret")  # type: ignore[call-arg]
    kl.revoke(5)  # type: ignore[arg-type]
    AsyncKeylatch.from_psycopg(connection)  # type: ignore[arg-type]


async def awaited(kl: AsyncKeylatch, id: UUID, connection: psycopg.AsyncConnection[Any]) -> None:
    assert_type(await kl.issue(id), IssuedKey)
    assert_type(await kl.resolve_many(["text"]), tuple[ResolvedKey | None, ...])
    assert_type(AsyncKeylatch.from_psycopg(connection), AsyncKeylatch)
    await kl.resolve()  # type: ignore[call-arg]
    Keylatch.from_psycopg(connection)  # type: ignore[arg-type]
"""


def test_mypy_infers_the_signature_and_the_result_of_every_kind_of_call(tmp_path: Path) -> None:
    path = tmp_path / "calls.py"
    path.write_text(CALLS)
    cache = Path(__file__).parents[1] / ".mypy_cache" / "typing"
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={cache}", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.startswith("Success"), ran.stdout + ran.stderr
