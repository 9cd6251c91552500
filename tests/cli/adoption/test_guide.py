"""The guide for moving a plaintext column, run as it stands."""

import re
import shlex
from pathlib import Path

import psycopg
import pytest

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
                for line in text.splitlines():
                    words = shlex.split(line)
                    assert words[0] == "keylatch"
                    said = program(*words[1:])
                    assert "fallback reads" not in said.out or "fallback reads  0" in said.out
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
        left = owner.execute("select from pg_namespace where nspname ~ 'keylatch'").fetchall()
        assert left == []
