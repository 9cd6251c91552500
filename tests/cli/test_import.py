"""Imports by the command line: files of every kind, and the tables of two teams' reports."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
from typing import Any
from uuid import UUID, uuid4

import bcrypt
import psycopg
import pytest

from cli.program import Program, Result
from cli.system import System
from stack import HANG_SECONDS, Database, People, until
from stack.tools import ROOT, MissingTool

pytestmark = pytest.mark.one_server

A = str(People.a)
UNDO = r"Import [0-9a-f-]{36}\. To undo this import before a key is used, see .*\n"
UNPROVEN = "Nobody has shown yet that these keys work. Try some: keylatch import verify KEYS\n"


@pytest.fixture
def fresh(database: Database, people: People) -> System:
    """A separate database for each test that looks at all keys."""
    return System(database, None, people)  # type: ignore[arg-type]


def owner(system: System) -> psycopg.Connection[Any]:
    return psycopg.connect(system.database.url, autocommit=True)


def resolves(system: System, key: str, origin: str | None = None) -> bool:
    with owner(system) as connection:
        asked = "select key_id from keylatch.resolve_key(%s, %s)"
        return connection.execute(asked, [key, origin]).fetchone() is not None


def summary_of(done: Result) -> str:
    """Return the program's summary of the lines, without the id of the import."""
    said, count = re.subn(UNDO, "", done.err)
    assert count == 1
    return said


def jsonl(*lines: object) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize("connection", ["rest", "database"])
def test_a_csv_file_is_imported_and_its_bad_lines_are_named(
    program: Program, system: System, connection: str
) -> None:
    service = system.acting_as(program, connection, "service")
    key = f"wid_{uuid4().hex}"
    (program.directory / "old.csv").write_text(
        "\ufeffworkspace_id,key,kind,label,allowed_origins,scopes,metadata,expires_at\n"
        f'{A},{key},publishable,"a, b",https://a.example https://b.example,read write,'
        '"{""plan"": ""pro""}",2999-01-31\n'
        f"{A},x{key},,,,,{{,\n"
        "\n"
        f"{A},y{key},,,,,,,,,\n"
        f"7,z{key},,,,,,\n",
        encoding="utf-8",
    )
    done = service("import", "old.csv", code=1)
    assert done.out.splitlines() == [
        "line 3: invalid_argument: metadata is not JSON",
        "line 5: invalid_argument: the line has more cells than the first line",
        "line 6: invalid_argument: workspace_id must be a UUID. "
        "(Give the id of the workspace of the key. created_by may be left out.)",
    ]
    assert summary_of(done) == f"Lines: 1 imported, 3 refused\n{UNPROVEN}"
    assert key not in done.out
    for origin in ("https://a.example", "https://b.example"):
        assert resolves(system, key, origin)
    again = service("import", "old.csv", "--json", code=1)
    summary = json.loads(again.out.splitlines()[-1])
    assert UUID(summary.pop("import_id"))
    assert summary == {
        "imported": 0,
        "waiting": 0,
        "changed": 0,
        "moved": 0,
        "exists": 1,
        "refused": 3,
        "deleted": 0,
        "dry_run": False,
    }


def test_lines_come_from_stdin_with_fields_for_all_of_them(
    sql_owner: Program, system: System
) -> None:
    keys = [f"old key {uuid4()}" for _ in range(3)]
    lines = jsonl({"key": keys[0]}, {"key": keys[1], "label": "own"}, {"key": keys[2]})
    options = ("--format", "jsonl", "--set", f"workspace_id={A}", "--set", "label=all")
    would = sql_owner("import", "-", *options, "--dry-run", stdin=lines)
    assert would.err == f"Lines of the dry run: 3 imported, 0 refused\n{UNPROVEN}"
    assert not resolves(system, keys[0])
    sql_owner("import", "-", *options, "--from-line", "2", stdin=lines)
    assert [resolves(system, key) for key in keys] == [False, True, True]
    with owner(system) as connection:
        found = connection.execute(
            "select label from keylatch.keys where label in ('all', 'own') order by label"
        ).fetchall()
    assert found == [("all",), ("own",)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "the line is not JSON"),
        (b"[" * 100_000, "the line is not JSON"),
        (b"\xff\xfe", "the line is not JSON"),
        (b"7", "the line is not a JSON object"),
        (b'{"key": "a\\u0000b"}', "a NUL character"),
        (b'{"key": "\\ud800"}', "cannot"),
        (b'{"key": {"a": 1}}', "key"),
        (b'{"scopes": [{}]}', "scopes"),
    ],
)
def test_a_line_that_is_nothing_of_the_kind_is_refused_with_its_number(
    sql_owner: Program, text: bytes, said: str
) -> None:
    done = sql_owner("import", "-", "--format", "jsonl", stdin=b"\n" + text + b"\n", code=1)
    assert done.out.startswith("line 2: invalid_argument: ")
    assert done.err == "Lines: 0 imported, 1 refused\n"


def test_a_weak_key_is_imported_with_force_and_the_reason_is_said(
    sql_owner: Program, system: System
) -> None:
    lines = jsonl({"workspace_id": A, "key": "undefined"})
    options = ("--format", "jsonl")
    refused = sql_owner("import", "-", *options, stdin=lines, code=1)
    assert "placeholder" in refused.out
    forced = sql_owner("import", "-", *options, "--force", "a device in the field", stdin=lines)
    assert forced.out == "line 1: imported: Imported by force: a device in the field\n"
    assert resolves(system, "undefined")


def test_a_line_that_moves_a_key_says_what_it_did(sql_owner: Program, system: System) -> None:
    key = f"old key {uuid4()}"
    given = ({"workspace_id": A, "key": key}, {"revoked_at": "2024-01-01"})
    sql_owner("import", "-", "--format", "jsonl", stdin=jsonl(given[0]))
    done = sql_owner("import", "-", "--format", "jsonl", stdin=jsonl(given[0] | given[1]))
    assert done.out == "line 1: moved: The key is revoked now.\n"
    assert done.err == "Lines: 0 imported, 1 revoked, suspended or expiring earlier, 0 refused\n"
    assert not resolves(system, key)


def test_a_wrong_file_is_told_before_all_of_it_is_read(sql_owner: Program) -> None:
    done = sql_owner("import", "-", "--format", "csv", stdin="name\n" + "x\n" * 20_000, code=1)
    assert "every line of the first batch was refused" in done.err
    assert "1,000 refused" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "old.txt"), "does not end in"),
        (("import", "nothing.csv"), "No such file"),
        (("import", "-", "--format", "csv", "--set", "wk_sk_live_x"), "NAME=VALUE"),
        (("explain", "--old", "x.csv"), "--workspace"),
        (("explain", "--workspace", "7"), "UUID"),
    ],
)
def test_a_wrong_command_line_is_explained(
    sql_owner: Program, arguments: tuple[str, ...], said: str
) -> None:
    done = sql_owner(*arguments, code=None)
    assert done.code in (1, 2)
    assert said in done.err
    assert "wk_sk_live_x" not in done.err


def test_an_admin_may_not_import(sql_alice: Program) -> None:
    lines = jsonl({"workspace_id": A, "key": "an old key of ours"})
    assert (
        "permission_denied"
        in sql_alice("import", "-", "--format", "jsonl", stdin=lines, code=3).err
    )


def test_killed_in_the_middle_and_run_again_nothing_is_lost_and_nothing_doubled(
    fresh: System, program: Program
) -> None:
    count = 40_000
    service = fresh.acting_as(program, "database", "service")
    file = program.directory / "old.jsonl"
    with file.open("w") as lines:
        for n in range(count):
            kept = hashlib.sha256(b"%d" % n).hexdigest()
            line = {"workspace_id": A, "alg": "sha256", "hash": kept, "hash_encoding": "hex"}
            lines.write(json.dumps(line) + "\n")
    running = subprocess.Popen(
        service.command("import", "old.jsonl"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **service.surroundings(),
    )
    with owner(fresh) as connection:
        counted = "select count(*), count(distinct key_hash) from keylatch_internal.keys"

        def has_begun() -> bool:
            assert running.poll() is None
            return connection.execute(counted).fetchone() != (0, 0)

        until(has_begun)
        running.send_signal(signal.SIGKILL)
        running.wait(HANG_SECONDS)
        # Wait until the server has finished or cancelled the killed client's statement.
        busy = (
            "select 1 from pg_stat_activity where datname = current_database()"
            " and query ~ 'import_keys' and state = 'active' and pid <> pg_backend_pid()"
        )
        until(lambda: not connection.execute(busy).fetchone())
        before = connection.execute(counted).fetchone()
        assert before is not None
        assert 0 < before[0] < count
        done = service("import", "old.jsonl")
        assert f"{count - before[0]:,} imported, {before[0]:,} unchanged" in done.err
        assert connection.execute(counted).fetchone() == (count, count)
        events = "select count(*), count(distinct key_id) from keylatch.key_events"
        assert connection.execute(events).fetchone() == (count, count)


# The tables of two teams' reports, and the import of their rows.

TABLES = """
    create table public.tenant_settings (
        tenant_id uuid not null, key text not null, value text not null,
        updated_at timestamptz not null default now(), primary key (tenant_id, key)
    );
    create table public.maas_api_keys (
        id uuid primary key default gen_random_uuid(), user_id uuid not null,
        key_hash text not null unique, key_prefix text, is_active boolean default true,
        expires_at timestamptz, last_used timestamptz, created_at timestamptz default now()
    );
    create table public.stored_api_keys (
        id uuid primary key default gen_random_uuid(), name text not null,
        encrypted_value text not null unique, key_type text, environment text,
        organization_id uuid not null, project_id uuid, created_by uuid,
        status text default 'active', access_level text, expires_at timestamptz,
        last_used_at timestamptz, created_at timestamptz default now(),
        updated_at timestamptz default now()
    );
"""
ORIGIN = "https://client.example"


def lines_of(system: System, recipe: str) -> str:
    psql = shutil.which("psql")
    if psql is None:
        raise MissingTool("psql")
    form = ["--no-psqlrc", "-qtA", "--set=ON_ERROR_STOP=1"]
    file = ROOT / "sql" / "import" / f"{recipe}.sql"
    done = subprocess.run(
        [psql, *form, f"--file={file}", system.database.url],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def verdicts(program: Program, workspace: object, lines: str) -> list[str]:
    options = ("--workspace", workspace, "--old", "-", "--format", "jsonl", "--json")
    return [one["verdict"] for one in program("explain", *options, stdin=lines, code=None).json]


def test_report_000_keys_without_their_hash_or_with_a_wrong_one_validate_again(
    fresh: System, program: Program
) -> None:
    service = fresh.acting_as(program, "database", "service")
    keys = {state: f"wid_{uuid4().hex}" for state in ("missing", "wrong", "right")}
    tenants = {"missing": People.a, "wrong": People.b, "right": uuid4()}
    with owner(fresh) as connection:
        connection.execute(TABLES)
        for state, key in keys.items():
            hashed = key if state == "right" else "another key"
            salt = b"0123456789abcdef"
            kept = {
                "alg": "pbkdf2_sha256",
                "hash": hashlib.pbkdf2_hmac("sha256", hashed.encode(), salt, 200_000).hex(),
                "iter": 200_000,
                "salt": salt.hex(),
                "created_at": "2025-11-22T11:56:32Z",
            }
            settings = {"WIDGET_API_KEY": key, "WIDGET_ORIGINS": json.dumps([ORIGIN])}
            if state != "missing":
                settings["WIDGET_API_KEY_HASH"] = json.dumps(kept)
            for name, value in settings.items():
                connection.execute(
                    "insert into public.tenant_settings (tenant_id, key, value)"
                    " values (%s, %s, %s)",
                    [tenants[state], name, value],
                )
    lines = lines_of(fresh, "tenant_settings")
    assert {state: verdicts(service, tenants[state], lines) for state in keys} == {
        "missing": ["hash_missing"],
        "wrong": ["hash_wrong"],
        "right": ["plaintext"],
    }
    shown = service(
        "explain", "--workspace", A, "--old", "-", "--format", "jsonl", stdin=lines, code=1
    )
    assert "The key was saved without a hash" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert not any(key in shown.out for key in keys.values())
    done = service("import", "-", "--format", "jsonl", stdin=lines)
    assert "3 imported" in done.err
    for key in keys.values():
        assert resolves(fresh, key, ORIGIN)
        assert not resolves(fresh, key, "https://evil.example")


def test_report_004_bcrypt_and_hex_become_one_hash_and_keep_status_and_expiry(
    fresh: System, program: Program
) -> None:
    service = fresh.acting_as(program, "database", "service")
    names = ("live", "inactive", "expired")
    ours = {state: f"sk_prod_{uuid4().hex}" for state in names}
    stored = {state: f"internal {uuid4().hex}" for state in ("active", "deprecated", "expired")}
    with owner(fresh) as connection:
        connection.execute(TABLES)
        for state, key in ours.items():
            connection.execute(
                "insert into public.maas_api_keys (user_id, key_hash, key_prefix, is_active,"
                " expires_at) values (%s, %s, 'sk_prod_', %s, %s)",
                [
                    People.a,
                    bcrypt.hashpw(key.encode(), bcrypt.gensalt(4)).decode(),
                    state != "inactive",
                    "2024-01-01" if state == "expired" else "2999-01-01",
                ],
            )
        for state, key in stored.items():
            connection.execute(
                "insert into public.stored_api_keys (name, encrypted_value, key_type,"
                " environment, organization_id, status) values (%s, %s, 'api_key', 'production',"
                " %s, %s)",
                [state, hashlib.sha256(key.encode()).hexdigest(), People.b, state],
            )
    theirs = lines_of(fresh, "maas_api_keys")
    assert sorted(verdicts(service, A, theirs)) == ["expired", "hash_salted", "suspended"]
    hexed = lines_of(fresh, "stored_api_keys")
    assert sorted(verdicts(service, People.b, hexed)) == ["expired", "revoked", "valid"]
    done = service("import", "-", "--format", "jsonl", stdin=theirs)
    assert summary_of(done) == f"Lines: 0 imported, 3 waiting for first use, 0 refused\n{UNPROVEN}"
    assert "3 imported" in service("import", "-", "--format", "jsonl", stdin=hexed).err

    # A SHA-256 hash resolves at once, bcrypt from the first use on, and an inactive key never.
    assert [resolves(fresh, key) for key in stored.values()] == [True, False, False]
    assert not any(resolves(fresh, key) for key in ours.values())
    with owner(fresh) as connection:
        asked = "select status from keylatch.legacy_keys order by status"
        statuses = [row[0] for row in connection.execute(asked)]
        assert statuses == ["expired", "suspended", "waiting"]
        upgrade = "select key_id from keylatch.upgrade_key(%s, %s)"
        upgraded = {
            state: connection.execute(upgrade, [key, A]).fetchone() for state, key in ours.items()
        }
        row = connection.execute(
            "select expires_at::date::text from keylatch.keys where id = %s", upgraded["live"]
        ).fetchone()
    assert [state for state, found in upgraded.items() if found] == ["live"]
    assert resolves(fresh, ours["live"])
    assert row == ("2999-01-01",)


def test_a_workspace_is_explained_key_by_key(sql_alice: Program, system: System) -> None:
    issued = sql_alice.ok("issue", A, "--kind", "secret", "--label", "to explain")
    found = {
        one["id"]: one for one in sql_alice("explain", "--workspace", A, "--json", code=None).json
    }
    assert found[issued["id"]]["verdict"] == "valid"
    sql_alice("revoke", issued["id"])
    shown = sql_alice("explain", "--workspace", A, code=1)
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "for good" in shown.out


def test_a_waiting_key_is_explained_once(
    sql_alice: Program, sql_owner: Program, system: System
) -> None:
    lines = [
        {
            "workspace_id": A,
            "alg": "bcrypt",
            "hash": bcrypt.hashpw(label.encode(), bcrypt.gensalt(4)).decode(),
            "label": label,
            "suspended_at": suspended_at,
        }
        for label, suspended_at in (("explain me waiting", None), ("explain me not", "2024-01-01"))
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    sql_owner("import", "-", "--format", "jsonl", stdin=text)
    ids = {
        one["label"]: one["id"] for one in sql_owner.ok("list", A) if "explain me" in one["label"]
    }
    found = sql_alice("explain", "--workspace", A, "--json", code=1).json
    by_id = {one["id"]: one for one in found}
    assert len(by_id) == len(found)
    assert by_id[ids["explain me waiting"]]["verdict"] == "waiting"
    suspended = by_id[ids["explain me not"]]
    assert suspended["hint"] == f"Run: keylatch unsuspend {suspended['id']}"
