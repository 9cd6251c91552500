"""`make audit`: run every query of sql/audit on a database, and print the answers.

The database is that of `DATABASE_URL`, else that of the stack that `make up` started. The queries
run in transactions that cannot write.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

from stack import detached
from stack.tools import ROOT

QUESTIONS = ROOT / "sql" / "audit"


@dataclass(frozen=True, slots=True)
class Question:
    """One file of sql/audit: a question and its query.

    Attributes:
        path: The file.
        text: The question, which is the file's first line.
        columns: The columns that the file's comment explains, in order.
        statement: The whole file.
    """

    path: Path
    text: str
    columns: tuple[str, ...]
    statement: str


def questions() -> list[Question]:
    """Read all files, in the order of their names."""
    return [_read(path) for path in sorted(QUESTIONS.glob("*.sql"))]


def _read(path: Path) -> Question:
    statement = path.read_text()
    comment = [line.removeprefix("--") for line in statement.splitlines() if line[:2] == "--"]
    columns: list[str] = []
    for line in comment[1:]:
        # `-- name, other  meaning`: two spaces end the names of columns.
        names, gap, _ = line.removeprefix(" ").partition("  ")
        if gap and all(map(str.isidentifier, names.split(", "))):
            columns += names.split(", ")
    return Question(path, comment[0].strip(), tuple(columns), statement)


def _database() -> str | None:
    if url := os.environ.get("DATABASE_URL"):
        return url
    lines = (detached.status() or "").splitlines()
    return dict(line.split("=", 1) for line in lines).get("DATABASE_URL")


def ask(url: str) -> None:
    """Ask a database all questions and print the answers."""
    console = Console(highlight=False)
    with psycopg.connect(url) as connection:
        connection.read_only = True
        for question in questions():
            console.print(f"\n[bold]{question.text}[/]  [dim]{question.path.name}[/]")
            try:
                cursor = connection.execute(question.statement.encode())
                rows = cursor.fetchall()
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
                # The database lacks the module or the tenancy that the file needs.
                console.print("not installed", style="dim")
                continue
            finally:
                connection.rollback()
            if not rows:
                console.print("none", style="dim")
                continue
            table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
            for column in cursor.description or ():
                table.add_column(column.name, overflow="fold")
            for row in rows:
                table.add_row(*("" if value is None else str(value) for value in row))
            console.print(table)


def main() -> int:
    """Ask, and return the exit code: 1 if there is no database to ask."""
    url = _database()
    if url is None:
        print("no database to ask: run `make up`, or set DATABASE_URL", file=sys.stderr)
        return 1
    ask(url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
