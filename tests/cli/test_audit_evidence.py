"""keylatch audit --evidence: the answers of sql/audit as files, with a manifest, and no secret."""

import csv
import hashlib
import json
import re

import psycopg
import pytest

from cli.program import Program
from keylatch_cli.audit.evidence import questions
from stack import Database, People
from stack.tools import ROOT

KEY = re.compile(r"[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[1-9A-HJ-NP-Za-km-z]{36}")


def test_the_program_brings_every_question() -> None:
    files = sorted(path.name for path in (ROOT / "sql" / "audit").glob("*.sql"))
    assert [one.name for one in questions()] == files
    for one in questions():
        assert one.text.endswith("?")


def test_each_answer_is_a_file_that_the_manifest_describes(
    program: Program, database: Database, people: People
) -> None:
    owner = database.connect()
    texts = []
    for kind in ("secret", "publishable", "secret"):
        row = owner.execute("select id, key from keylatch.issue_key(%s, %s)", [People.a, kind])
        key_id, key = row.fetchall()[0]
        texts.append(key)
    # The triggers refuse a key in a label, so switch them off to write a label with a key.
    owner.execute("alter table keylatch_internal.keys disable trigger user")
    owner.execute("update keylatch.keys set label = %s where id = %s", [texts[-1], key_id])
    owner.execute("alter table keylatch_internal.keys enable trigger user")
    hashes = owner.execute("select encode(key_hash, 'hex') from keylatch_internal.keys").fetchall()
    installation = owner.execute("select id, modules from keylatch_internal.installation")
    ((installation_id, modules),) = installation.fetchall()

    audit = program.having(DATABASE_URL=database.url)
    shown = audit("audit", "--evidence", "evidence", code=1)
    assert "answers are in evidence" in shown.err
    assert [line for line in shown.err.splitlines() if "should have none" in line] == [
        "event_integrity.csv has 1 row, and should have none"
    ]
    directory = audit.directory / "evidence"
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["installation_id"] == str(installation_id)
    assert manifest["modules"] == sorted([*modules, "tenancy"])
    assert manifest["asked_by"] == "postgres"
    assert manifest["server_version"].split(".")[0] == str(owner.info.server_version // 10000)
    assert manifest["asked_at"].endswith("+00:00")
    named = {one["file"] for one in manifest["answers"]} | {"manifest.json"}
    assert named == {path.name for path in directory.iterdir()}
    assert len(manifest["answers"]) == len(questions())
    for one in manifest["answers"]:
        content = (directory / one["file"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["rows"] == len(list(csv.reader(content.decode().splitlines()))) - 1
        assert one["question"].endswith("?")
        assert not KEY.search(content.decode())
        assert not any(digest in content.decode() for (digest,) in hashes)
    by_file = {one["file"]: one["rows"] for one in manifest["answers"]}
    assert {one["file"] for one in manifest["answers"] if one["should_be_empty"]} == {
        "event_integrity.csv",
        "integrity.csv",
        "orphaned_keys.csv",
    }
    assert by_file["endless_keys.csv"] == 2
    assert (directory / "endless_keys.csv").read_text().count("wk_sk_live_...") >= 2


def test_a_missing_module_and_a_failed_question_are_named(program: Program, core: Database) -> None:
    with psycopg.connect(core.url) as owner:
        owner.execute("drop view keylatch.keys cascade")
    audit = program.having(DATABASE_URL=core.url)
    shown = audit("audit", "--evidence", "evidence", code=1)
    assert "endless_keys.sql failed: " in shown.err
    manifest = json.loads((audit.directory / "evidence" / "manifest.json").read_text())
    answers = {one["asked_with"]: one for one in manifest["answers"]}
    assert answers["sql/audit/events.sql"]["not_asked"] == "events is not installed"
    assert answers["sql/audit/events.sql"]["file"] is None
    assert answers["sql/audit/endless_keys.sql"]["failed"]
    assert answers["sql/audit/integrity.sql"]["rows"] == 0


@pytest.mark.one_server
def test_a_directory_with_something_in_it_is_refused(program: Program, core: Database) -> None:
    audit = program.having(DATABASE_URL=core.url)
    (audit.directory / "empty").mkdir()
    audit("audit", "--evidence", "empty")
    said = audit("audit", "--evidence", "empty", code=2).err
    assert "empty is not an empty directory" in said
    (audit.directory / "file").write_text("mine")
    assert "is not an empty directory" in audit("audit", "--evidence", "file", code=2).err
    assert (audit.directory / "file").read_text() == "mine"


def test_an_answer_that_should_be_empty_decides_the_exit_code(
    program: Program, database: Database
) -> None:
    owner = database.connect()
    owner.execute("select from keylatch.issue_key(gen_random_uuid(), 'secret')")
    audit = program.having(DATABASE_URL=database.url)
    audit("audit")
    shown = audit("audit", "--evidence", "evidence", "--json", code=1)
    problem = "orphaned_keys.csv has 1 row, and should have none"
    assert problem in shown.err
    found = json.loads(shown.out)
    assert (found["is_clean"], found["problems"]) == (False, [problem])
