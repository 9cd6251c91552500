"""Real dumps: encodings, separators, times, lists, damage. Probing keys, and the cutover."""

import base64
import csv
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from cli.program import Program
from cli.system import System
from stack import Cluster, Database, People

pytestmark = pytest.mark.one_server

A, B = str(People.a), str(People.b)


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def ask(system: System, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(system.database.url, autocommit=True) as owner:
        return owner.execute(statement.encode(), values).fetchall()


def row_of(system: System, key: str) -> dict[str, Any]:
    ((row,),) = ask(
        system,
        "select to_jsonb(k) from keylatch.keys as k where id = keylatch_internal.find_key(%s)",
        key,
    )
    return dict(row)


def resolves(system: System, key: str) -> bool:
    return bool(ask(system, "select from keylatch.resolve_key(%s)", key))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("utf-8", ()),
        ("utf-8-sig", ()),
        ("utf-16", ()),
        ("utf-16-le", ()),
        ("utf-16-be", ()),
        ("cp1252", ("--encoding", "cp1252")),
    ],
)
def test_a_file_of_any_encoding_and_separator_is_read(
    sql_owner: Program, system: System, separator: str, encoding: str, options: tuple[str, ...]
) -> None:
    key = f"old key {uuid4()}"
    text = separator.join(("Workspace_ID", "ALG", "Hash", "label")) + "\r\n"
    text += separator.join((A, "sha256", digest(key).hex(), "Büro")) + "\r\n"
    (sql_owner.directory / "old.csv").write_bytes(text.encode(encoding))
    sql_owner("import", "old.csv", *options)
    assert row_of(system, key)["label"] == "Büro"


def test_a_byte_that_is_not_utf_8_costs_its_line_and_says_what_to_do(
    sql_owner: Program, system: System
) -> None:
    key = f"old key {uuid4()}"
    text = f"workspace_id,key,label\n{A},{key},fine\n{A},x{key},Büro\n"
    (sql_owner.directory / "old.csv").write_bytes(text.encode("cp1252"))
    done = sql_owner("import", "old.csv", code=1)
    assert done.out.startswith("line 3: invalid_argument: character ")
    assert "is not UTF-8 (byte fc)" in done.out
    assert "--encoding cp1252" in done.out
    assert resolves(system, key)
    (sql_owner.directory / "old.jsonl").write_bytes(b'{"label": "B\xfcro"}\n')
    assert "(byte fc)" in sql_owner("import", "old.jsonl", code=1).out


@pytest.mark.parametrize(
    "write",
    [
        lambda kept: kept.hex(),
        lambda kept: kept.hex().upper(),
        lambda kept: f"\\x{kept.hex()}",
        lambda kept: base64.b64encode(kept).decode(),
        lambda kept: base64.b64encode(kept).decode().rstrip("="),
        lambda kept: base64.urlsafe_b64encode(kept).decode().rstrip("="),
    ],
)
def test_a_hash_is_read_however_its_bytes_are_written(
    sql_owner: Program, system: System, write: Callable[[bytes], str]
) -> None:
    key = f"old key {uuid4()}"
    line = {"workspace_id": A, "alg": "sha256", "hash": write(digest(key))}
    sql_owner("import", "-", "--format", "jsonl", stdin=json.dumps(line))
    assert resolves(system, key)


TIMES = [
    ("2026-01-31T09:30:00Z", (), "2026-01-31T09:30:00+00:00"),
    ("2026-01-31 09:30:00.123456789+02", (), "2026-01-31T07:30:00.123456+00:00"),
    ("2026-01-31 09:30:00.1234567 +02:00", (), "2026-01-31T07:30:00.123456+00:00"),
    ("2026-01-31 09:30:00 UTC", (), "2026-01-31T09:30:00+00:00"),
    ("2026-01-31 09:30", ("--zone", "Europe/Berlin"), "2026-01-31T08:30:00+00:00"),
    ("2026-07-31T09:30:00,5", ("--zone", "Europe/Berlin"), "2026-07-31T07:30:00.5+00:00"),
    ("2026-01-31", (), "2026-01-31T00:00:00+00:00"),
    ("1769851800", (), "2026-01-31T09:30:00+00:00"),
    ("1769851800123", (), "2026-01-31T09:30:00.123+00:00"),
    ("1769851800123456", (), "2026-01-31T09:30:00.123456+00:00"),
]


@pytest.mark.parametrize(("written", "options", "meant"), TIMES)
def test_a_time_is_read_however_it_is_written(
    sql_owner: Program, system: System, written: str, options: tuple[str, ...], meant: str
) -> None:
    key = f"old key {uuid4()}"
    # An import accepts an expiry in the past, so the current time does not matter.
    line = {"workspace_id": A, "key": key, "expires_at": written}
    sql_owner("import", "-", "--format", "jsonl", *options, stdin=json.dumps(line))
    assert row_of(system, key)["expires_at"] == meant


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"created_at": "2026-01-31 09:30:00"}, "created_at has no time zone: add --zone"),
        ({"created_at": "yesterday"}, "created_at is not a time"),
        ({"created_at": "2026-02-31T09:30"}, "created_at has no time zone"),
        ({"scopes": "{a"}, "scopes is not a list"),
        ({"scopes": "[a"}, "scopes is not JSON"),
        ({"key": "1.23E+19"}, "key 1.23E+19 is a number that a spreadsheet has shortened"),
        ({"key": "1,23e+19"}, "is a number that a spreadsheet has shortened"),
        ({"key": "“a key of a text program”"}, "key has curly quotation marks"),
        ({"workspace_id": "7"}, "workspace_id must be a UUID"),
    ],
)
def test_a_wrong_cell_is_named_by_line_and_column(
    sql_owner: Program, cells: dict[str, str], said: str
) -> None:
    row = {"workspace_id": A, "key": "a key of the old system", "label": "“fine” 1E+5", **cells}
    with (sql_owner.directory / "old.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), delimiter=";")
        writer.writeheader()
        writer.writerow(row)
    done = sql_owner("import", "old.csv", code=1)
    assert done.out.startswith("line 2: invalid_argument: ")
    assert said in done.out


def test_hex_that_looks_like_a_number_is_no_damage(sql_owner: Program, system: System) -> None:
    key = f"13260e07.{uuid4()}"
    line = {"workspace_id": A, "alg": "sha256", "hash": digest(key).hex()}
    line |= {"starts_with": "13260e07"}
    sql_owner("import", "-", "--format", "jsonl", stdin=json.dumps(line))
    assert resolves(system, key)


def test_lists_of_postgresql_of_json_and_plain_words_are_one(
    sql_owner: Program, system: System
) -> None:
    for written in ("{orders:read,write}", '["orders:read", "write"]', "orders:read write"):
        key = f"old key {uuid4()}"
        line = {"workspace_id": A, "key": key, "scopes": written}
        sql_owner("import", "-", "--format", "jsonl", stdin=json.dumps(line))
        assert row_of(system, key)["scopes"] == ["orders:read", "write"]


def sanctum(directory: Path, *rows: Mapping[str, object]) -> None:
    with (directory / "tokens.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["tokenable_id", "name", "TOKEN", "abilities", "expires_at", "created_at"]
        )
        writer.writeheader()
        for row in rows:
            text = str(row["key"]).partition("|")[2]
            writer.writerow(
                {
                    "tokenable_id": row.get("owner", 1),
                    "name": row.get("name", "shop"),
                    "TOKEN": row.get("token", hashlib.sha256(text.encode()).hexdigest()),
                    "abilities": row.get("abilities", '["*"]'),
                    "expires_at": row.get("expires_at", ""),
                    "created_at": "2026-01-31 09:30:00",
                }
            )


FROM = ("import", "tokens.csv", "--from", "laravel-sanctum", "--workspace-map", "map.csv")


@pytest.fixture
def service(sql_owner: Program) -> Program:
    """The program, with a map of two tenants of the old system."""
    (sql_owner.directory / "map.csv").write_text(f"old,new\n1,{A}\n2,{B}\n")
    return sql_owner


def test_errors_name_the_column_of_the_file_and_owners_that_are_not_in_the_map(
    service: Program,
) -> None:
    sanctum(
        service.directory,
        {"key": "1|a", "token": "abcd"},
        {"key": "2|b", "owner": 3},
        {"key": "3|c", "abilities": '["Read Orders"]'},
    )
    out = service(*FROM, code=1).out.splitlines()
    assert out[0].startswith("line 2: invalid_argument: TOKEN: hash must be 32 bytes")
    assert out[1] == "line 3: invalid_argument: tokenable_id: 3 is not in the workspace map"
    assert out[2].startswith("line 4: invalid_argument: abilities: scopes ")
    # --without leaves out a field whose values keylatch refuses.
    lines = service(*FROM, "--without", "scopes", code=1).out.splitlines()
    assert len(lines) == 2
    (service.directory / "tokens.csv").write_text("id,secret\n1,2\n")
    wrong = service(*FROM, code=2)
    assert "no column token, which laravel-sanctum needs. It has: id, secret" in wrong.err
    assert "personal_access_tokens" in wrong.err


def test_a_tenant_is_found_by_its_external_id(sql_owner: Program, system: System) -> None:
    tenant = f"tenant {uuid4()}"
    with psycopg.connect(system.database.url, autocommit=True) as owner:
        owner.execute("update keylatch.workspaces set external_id = %s where id = %s", [tenant, B])
    key = f"1|{uuid4()}"
    sanctum(sql_owner.directory, {"key": key, "owner": tenant})
    sql_owner("import", "tokens.csv", "--from", "laravel-sanctum")
    assert row_of(system, key)["workspace_id"] == B


def test_importing_the_same_file_every_night_until_the_cutover_is_safe(
    service: Program, system: System
) -> None:
    keys = [f"{number}|{uuid4()}" for number in range(4)]
    rows: list[dict[str, object]] = [{"key": key} for key in keys]
    sanctum(service.directory, *rows[:3])
    source = ("--source", f"nightly {uuid4()}", "--complete")
    assert "Lines: 3 imported, 0 refused" in service(*FROM, *source).err
    # The next night: one key is new, one has another name, one has expired, one is missing.
    sanctum(
        service.directory,
        {"key": keys[0], "name": "another name"},
        {"key": keys[1], "expires_at": "2026-02-01 00:00:00"},
        {"key": keys[3]},
    )
    done = service(*FROM, *source, "--report", "report.csv")
    assert (
        "Lines: 1 imported, 1 changed (label or scopes), 1 revoked, suspended or expiring earlier, "
        "0 refused, 1 keys revoked because they are not in the file" in done.err
    )
    with (service.directory / "report.csv").open(newline="") as file:
        report = list(csv.DictReader(file))
    assert [(row["line"], row["outcome"]) for row in report] == [
        ("2", "changed"),
        ("3", "moved"),
        ("4", "imported"),
    ]
    assert all(UUID(row["key_id"]) for row in report)
    assert [resolves(system, key) for key in keys] == [True, False, False, True]
    # No key becomes active again, although the old table has them all as active.
    sanctum(service.directory, *rows)
    service(*FROM, *source)
    assert [resolves(system, key) for key in keys] == [True, False, False, True]


def test_a_file_with_refused_lines_is_not_the_whole_table(service: Program, system: System) -> None:
    keys = [f"{number}|{uuid4()}" for number in range(2)]
    sanctum(service.directory, *[{"key": key} for key in keys])
    source = ("--source", f"nightly {uuid4()}", "--complete")
    service(*FROM, *source)
    sanctum(service.directory, {"key": keys[0]}, {"key": keys[1], "owner": 3})
    done = service(*FROM, *source, code=1)
    assert "No missing keys were revoked" in done.err
    assert [resolves(system, key) for key in keys] == [True, True]
    sanctum(service.directory)
    empty = service(*FROM, *source, code=2).err
    assert "has no key, so --complete would revoke every key of its source" in empty
    assert [resolves(system, key) for key in keys] == [True, True]
    for wrong in (("--from-line", "3"),):
        assert "and no --from-line" in service(*FROM, *source, *wrong, code=2).err
    plain = ("import", "-", "--format", "jsonl", "--complete")
    assert "--complete needs --source" in service(*plain, code=2).err


def count(system: System) -> int:
    return int(ask(system, "select count(*) from keylatch_internal.keys")[0][0])


def test_real_keys_must_resolve_before_a_line_is_written(service: Program, system: System) -> None:
    keys = [f"{number}|{uuid4()}" for number in range(3)]
    sanctum(service.directory, *[{"key": key} for key in keys])
    (service.directory / "keys.txt").write_text(f"{keys[0]}\n{keys[1]}x\n")
    before = count(system)
    refused = service(*FROM, "--probe", "keys.txt", code=1)
    assert refused.err.splitlines() == [
        "No line matches key 2.",
        "1 of 2 keys resolve.",
        "Nothing was imported.",
    ]
    assert count(system) == before
    (service.directory / "keys.txt").write_text(f"{keys[0]}\n{keys[1]}\n")
    done = service(*FROM, "--probe", "keys.txt")
    assert "2 of 2 keys resolve." in done.err
    assert "Now check that" not in done.err
    assert not any(key in refused.err + done.err for key in keys)
    asked = ("import", "verify", "keys.txt")
    assert service(*asked).out == "key 1: valid\nkey 2: valid\n"
    (service.directory / "keys.txt").write_text(f"{keys[0]}\nno key of ours\n")
    assert service(*asked, code=1).out == "key 1: valid\nkey 2: malformed\n"
    assert service.having("--json")("import", "verify", stdin=keys[2]).json == ["valid"]


def test_a_key_to_try_is_asked_for_without_echo(service: Program, system: System) -> None:
    key = f"1|{uuid4()}"
    sanctum(service.directory, {"key": key})
    done = service.at_a_terminal(*FROM, "--probe", "-", typed=key, prompt="Key: ")
    assert "1 of 1 keys resolve." in done.err
    assert key not in done.screen
    assert resolves(system, key)


def test_a_probe_says_that_the_scheme_is_another(service: Program) -> None:
    key = f"1|{uuid4()}"
    sanctum(service.directory, {"key": key, "token": digest(key).hex()})
    (service.directory / "keys.txt").write_text(key)
    said = service(*FROM, "--probe", "keys.txt", code=1).err
    assert (
        "Key 1 was hashed with another algorithm: line 2 has the SHA256 of the whole key." in said
    )


def test_a_probe_says_that_the_secret_is_wrong(service: Program, system: System) -> None:
    key = uuid4().hex
    (service.directory / "api_keys.csv").write_text(
        f"user_id,key_prefix,key_hash\n1,{key[:6]},{digest('right' + key).hex()}\n"
    )
    (service.directory / "keys.txt").write_text(key)
    plausible = (
        *("import", "api_keys.csv", "--from", "plausible", "--probe", "keys.txt"),
        *("--workspace-map", "map.csv"),
    )
    missing = service(*plausible, code=2).err
    assert "has no secret named plausible" in missing
    assert "SECRET_KEY_BASE" in missing
    with psycopg.connect(system.database.url, autocommit=True) as owner:
        put = (
            "insert into keylatch_internal.legacy_secrets (name, secret) values ('plausible', %s)"
            " on conflict (name) do update set secret = excluded.secret"
        )
        owner.execute(put, ["wrong"])
        said = service(*plausible, code=1).err
        assert "Key 1 looks like line 2, but the hash differs" in said
        assert "the secret plausible is wrong" in said
        owner.execute(put, ["right"])
    assert "1 of 1 keys resolve." in service(*plausible).err
    assert resolves(system, key)


def test_a_salted_key_of_which_no_part_is_known_is_tried_in_its_workspace(
    service: Program, system: System
) -> None:
    key, salt = f"old key {uuid4()}", uuid4().hex
    (service.directory / "old.csv").write_text(
        f"user_id,hash,salt\n2,{digest(key + salt).hex()},{salt}\n"
    )
    (service.directory / "keys.txt").write_text(f"{key} {B}\n")
    options = ("--from", "salted-sha256", "--workspace-map", "map.csv", "--probe", "keys.txt")
    assert "1 of 1 keys resolve." in service("import", "old.csv", *options).err
    # Neither --probe nor verify is a first use: after a first use, the import cannot be undone.
    assert service("import", "verify", "keys.txt").out == "key 1: valid\n"
    assert not resolves(system, key)
    waiting = "select count(*) from keylatch.legacy_keys where masked_key = '...'"
    assert ask(system, f"{waiting} and upgraded_at is null and workspace_id = '{B}'")[0][0] >= 1
    service("upgrade", "--workspace", B, stdin=key)
    assert service("import", "verify", "keys.txt").out == "key 1: valid\n"
    assert resolves(system, key)


def test_a_scheme_is_declared_over_rest_as_well(program: Program, system: System) -> None:
    service = system.acting_as(program, "rest", "service")
    key = f"1|{uuid4()}"
    sanctum(service.directory, {"key": key})
    (service.directory / "keys.txt").write_text(key)
    (service.directory / "map.csv").write_text(f"1,{A}\n")
    service(*FROM, "--probe", "keys.txt", "--complete", "--source", f"rest {uuid4()}")
    assert resolves(system, key)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--from", "nothing"), "keylatch import --presets"),
        (("--zone", "Mars/Olympus"), "is not the name of a time zone"),
        (("--workspace-map", "bad.csv"), "in line 2"),
        (("--probe", "empty.txt"), "1 to 20 keys"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    sql_owner: Program, options: tuple[str, ...], said: str
) -> None:
    (sql_owner.directory / "bad.csv").write_text("old,new\n1,2\n")
    (sql_owner.directory / "empty.txt").write_text("\n")
    (sql_owner.directory / "old.csv").write_text("key\n")
    done = sql_owner("import", "old.csv", *options, code=2)
    assert said in done.err


def salted(rounds: int, digit: str, **fields: object) -> dict[str, object]:
    kept = {"alg": "pbkdf2_sha256", "hash": digit * 64, "salt": "x", "salt_encoding": "text"}
    return {**kept, "iter": rounds, **fields}


def test_each_bad_line_is_named_with_its_slug_before_anything_is_written(
    sql_owner: Program, system: System
) -> None:
    mixed = f"mixed{uuid4().hex[:8]}"
    ask(system, "select keylatch.declare_scheme(%s, %s)", mixed, '{"digest": "sha512"}')
    prefix = uuid4().hex[:8]
    lines: list[tuple[dict[str, object], str]] = [
        ({"scheme": mixed, "hash": hashlib.sha512(b"x" + prefix.encode()).hexdigest()}, ""),
        ({"alg": "sha256", "hash": digest(prefix).hex()}, ""),
        ({"scheme": "nowhere", "hash": "ab" * 32}, "scheme is not the name of a scheme"),
        # The hash belongs to another scheme than the line says.
        ({"scheme": mixed, "hash": digest(prefix).hex()}, "hash must be 64 bytes"),
        ({"scheme": mixed, "alg": "sha256", "hash": "ab" * 32}, "A line cannot have both"),
        # No call of upgrade_key could finish.
        (salted(1_200_001, "a"), "To compare all keys that may equal this key, upgrade_key would"),
        (salted(9_999_999, "b"), "To compare all keys that may equal this key, upgrade_key would"),
        # Two keys begin with the same part: comparing both is too slow.
        (salted(700_000, "c", starts_with=prefix), ""),
        (salted(700_000, "d", starts_with=prefix), "To compare all keys that may equal this key"),
        ({"alg": "argon2", "hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA"}, "alg must be"),
        ({"alg": "bcrypt", "hash": "$2b$16$" + "a" * 53}, "hash must be a bcrypt hash"),
    ]
    text = "".join(json.dumps({"workspace_id": A, **fields}) + "\n" for fields, _ in lines)
    before = count(system)
    said = sql_owner("import", "-", "--format", "jsonl", "--dry-run", stdin=text, code=1)
    told = said.out.splitlines()
    expected = [(place, words) for place, (_, words) in enumerate(lines, 1) if words]
    for one, (place, words) in zip(told, expected, strict=True):
        assert one.startswith(f"line {place}: invalid_argument: {words}"), one
    assert "see sql/docs/first_use.md" in told[3]
    assert count(system) == before


def test_a_ninth_scheme_is_refused_before_a_line_is_written(
    server: Cluster, template: str, people: People, program: Program
) -> None:
    with Database(server, f"ninth_{uuid4().hex[:8]}", template) as database:
        people.seed(database.url)
        system = System(database, None, people)  # type: ignore[arg-type]
        for number in range(8):
            recipe = json.dumps({"digest": "md5", "append": str(number)})
            ask(system, "select keylatch.declare_scheme(%s, %s)", f"scheme{number}", recipe)
        service = system.acting_as(program, "database", "service")
        sanctum(service.directory, {"key": "1|a key"})
        refused = service(*FROM[:4], "--set", f"workspace_id={A}", code=2).err
        assert refused.startswith("invalid_argument: There are eight schemes already")
        assert count(system) == 0


def test_a_probe_says_that_the_secret_may_be_wrong_where_no_part_of_the_key_is_known(
    service: Program, system: System
) -> None:
    key, name = uuid4().hex, f"rails{uuid4().hex[:8]}"
    put = "insert into keylatch_internal.legacy_secrets (name, secret) values (%s, %s) returning 1"
    ask(system, put, name, "wrong")
    kept = hmac.new(b"right", key.encode(), "sha256").hexdigest()
    (service.directory / "dump.csv").write_text(f"token_digest,user_id\n{kept},1\n")
    (service.directory / "keys.txt").write_text(key)
    options = ("--from", "rails-hmac", "--workspace-map", "map.csv", "--secret", name)
    said = service("import", "dump.csv", *options, "--probe", "keys.txt", code=1).err
    assert f"No line matches key 1: the secret {name} or the file is wrong." in said
    assert "Nothing was imported." in said
