"""Writes the answers to the questions of sql/audit for an auditor, as CSV with a manifest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from keylatch import __version__
from keylatch.errors import KeylatchError
from keylatch.secret import mask_keys
from keylatch.transports.sql import failure_of

from ..sql_files import sql_texts

_SITE = """
select
  pg_catalog.current_database(), pg_catalog.current_setting('server_version'), current_user,
  i.id::text, i.modules || case
    when pg_catalog.to_regclass('keylatch.workspaces') is null then '{}' else '{tenancy}'::text[]
  end
from keylatch_internal.installation as i
"""
_NEEDS = "-- Needs: "
_SHOULD_BE_EMPTY = "-- An empty answer is good"


@dataclass(frozen=True, slots=True)
class Question:
    """One file of sql/audit.

    Attributes:
        name: The name of the file.
        text: The first line of the file: the question in words.
        needs: The module that the question is about, or `tenancy`; `None` if it is about the core.
        should_be_empty: Whether each row of the answer is a problem.
        statement: The whole file.
    """

    name: str
    text: str
    needs: str | None
    should_be_empty: bool
    statement: str


def questions() -> list[Question]:
    """Read the questions of this version, sorted by name."""
    return [_question(name, text) for name, text in sql_texts("audit").items()]


def _question(name: str, statement: str) -> Question:
    lines = statement.splitlines()
    needs = next((one[len(_NEEDS) :] for one in lines if one.startswith(_NEEDS)), None)
    should_be_empty = any(one.startswith(_SHOULD_BE_EMPTY) for one in lines)
    return Question(name, lines[0].removeprefix("--").strip(), needs, should_be_empty, statement)


def require_empty(directory: Path) -> None:
    """Refuse a directory that is not empty, so that the files of two audits are never mixed.

    Args:
        directory: The directory for the files, which need not exist yet.

    Raises:
        KeylatchError: `usage`.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise KeylatchError(
            "usage",
            detail=f"{directory} is not an empty directory",
            hint="Name a directory that does not exist yet.",
        )


def write(connection: psycopg.Connection[Any], directory: Path) -> tuple[int, list[str]]:
    """Answer every question in one read-only snapshot, and write the answers.

    Args:
        connection: As the owner of keylatch, outside a transaction.
        directory: An empty directory, or a directory that does not exist yet.

    Returns:
        How many questions were answered, and a sentence for each answer that shows a problem.

    Raises:
        KeylatchError: The database did not answer, or a file cannot be written.
    """
    require_empty(directory)
    try:
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            name, version, role, installation, modules = connection.execute(_SITE).fetchall()[0]
            asked_at = datetime.now(UTC)
            answers = [(one, _answer(connection, one, modules)) for one in questions()]
    except psycopg.Error as problem:
        failure: KeylatchError = failure_of(problem)
    else:
        entries = [_entry(one, answer) for one, answer in answers]
        manifest = {
            "database": name,
            "server_version": version,
            "installation_id": installation,
            "keylatch_version": __version__,
            "asked_at": asked_at.isoformat(timespec="seconds"),
            "asked_by": role,
            "modules": sorted(modules),
            "answers": entries,
        }
        texts = {
            f"{one.name[:-4]}.csv": answer[0]
            for one, answer in answers
            if isinstance(answer, tuple)
        }
        texts["manifest.json"] = json.dumps(manifest, indent=2) + "\n"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for file, text in texts.items():
                (directory / file).write_bytes(text.encode())
        except OSError as problem:
            raise KeylatchError(
                "usage", detail=f"{directory} cannot be written: {problem.strerror}"
            ) from None
        return len(texts) - 1, [text for one, answer in answers for text in _problem(one, answer)]
    raise failure


def _answer(
    connection: psycopg.Connection[Any], question: Question, modules: list[str]
) -> tuple[str, int] | KeylatchError | None:
    """Return the answer as CSV with its number of rows.

    Returns:
        `None` if the module that the question needs is missing; the error if the question failed.
    """
    if question.needs is not None and question.needs not in modules:
        return None
    try:
        # If one question fails, the others are still answered: a damaged database needs evidence.
        with connection.transaction():
            cursor = connection.execute(question.statement.encode())
            rows = cursor.fetchall()
    except psycopg.Error as problem:
        if problem.sqlstate is None:
            raise
        return failure_of(problem)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in cursor.description or ())
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue(), len(rows)


def _problem(question: Question, answer: tuple[str, int] | KeylatchError | None) -> Iterator[str]:
    if isinstance(answer, KeylatchError):
        yield f"{question.name} failed: {answer.detail or answer.slug}"
    elif answer is not None and question.should_be_empty and answer[1]:
        rows = f"{answer[1]:,} row{'s' * (answer[1] != 1)}"
        yield f"{question.name[:-4]}.csv has {rows}, and should have none"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, list):
        return mask_keys(", ".join(map(str, value)))
    # A label or a reason is a user's text, which may contain a key.
    return mask_keys(str(value))


def _entry(question: Question, answer: tuple[str, int] | KeylatchError | None) -> dict[str, object]:
    entry: dict[str, object] = {
        "question": question.text,
        "asked_with": f"sql/audit/{question.name}",
    }
    if answer is None:
        return {**entry, "file": None, "not_asked": f"{question.needs} is not installed"}
    if isinstance(answer, KeylatchError):
        return {**entry, "file": None, "failed": answer.detail or answer.slug}
    text, count = answer
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {
        **entry,
        "file": f"{question.name[:-4]}.csv",
        "rows": count,
        "should_be_empty": question.should_be_empty,
        "sha256": digest,
    }
