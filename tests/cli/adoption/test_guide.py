"""Runs every block of the guide for moving a plaintext column, in order."""

import re
import runpy
import shlex
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from alembic.migration import MigrationContext
from alembic.operations import Operations

from cli.program import Program
from stack import Database
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

GUIDE = ROOT / "sql" / "docs" / "adoption.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_of_the_guide_runs_in_order(empty: Database, tmp_path: Path) -> None:
    program = Program(tmp_path).having(DATABASE_URL=empty.url)
    ran: list[str] = []
    with psycopg.connect(empty.url, autocommit=True) as owner:
        for language, text in BLOCK.findall(GUIDE.read_text("utf-8")):
            ran.append(language)
            if language == "sh":
                for line in text.replace("\\\n", "").splitlines():
                    words = shlex.split(line)
                    assert words[0] == "keylatch"
                    said = program(*words[1:])
                    assert "fallback reads" not in said.out or "fallback reads  0" in said.out
                continue
            if language == "python":
                (tmp_path / "revision.py").write_text(text)
                continue
            assert language == "sql"
            if "select id" in text:
                with empty.connect("service_role") as service:
                    assert service.execute(text.encode()).fetchall() == [(1,)]
            else:
                owner.execute(text.encode())
        assert ran.count("sh") == 3
        assert ran.count("sql") == 5
        columns = owner.execute("select * from public.sessions").description or ()
        assert [column.name for column in columns] == ["id", "tenant", "owner_api_key_hash"]
        with pytest.raises(psycopg.errors.UniqueViolation):
            owner.execute(
                "insert into public.sessions select 3, tenant, owner_api_key_hash"
                " from public.sessions where id = 1"
            )
        left = "select from pg_namespace where nspname ~ 'keylatch'"
        assert owner.execute(left.encode()).fetchall() == []
        owner.execute(
            "create table public.assistants (id integer, owner_api_key text unique);"
            "insert into public.assistants values (1, 'key-one')"
        )
        revise(empty, tmp_path / "revision.py", "upgrade")
        wanted = (
            "select owner_api_key_hash = encode(sha256('key-one'), 'hex') from public.assistants"
        )
        assert owner.execute(wanted.encode()).fetchone() == (True,)
        said = program("adopt", "read", "public.assistants", "owner_api_key")
        assert "clean           yes" in said.out
        revise(empty, tmp_path / "revision.py", "downgrade")
        assert owner.execute(left.encode()).fetchall() == []


def revise(database: Database, file: Path, step: str) -> None:
    """Run a step of a revision as Alembic does."""
    engine = sqlalchemy.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"transactional_ddl": True})
        with context.begin_transaction(), Operations.context(context):
            names = runpy.run_path(str(file))
            names[step]()
    engine.dispose()
