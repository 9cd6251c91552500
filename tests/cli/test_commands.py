"""Every command over both connections: its effect, and its output for people and programs."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import bcrypt
import pytest
from psycopg.types.json import Jsonb

from cli.program import Program
from cli.system import System
from client.vectors import mistyped
from keylatch import fingerprint, parse_key

pytestmark = pytest.mark.one_server

SITE = "https://client.example"


def columns_of(system: System, type_name: str) -> list[str]:
    """The columns of a view or a composite type of the schema, in their order."""
    found = system.database.connect().execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 "
        "order by attnum",
        [f"keylatch.{type_name}"],
    )
    return [name for (name,) in found]


def new_key(program: Program, system: System, *options: str) -> dict[str, str]:
    """Issue a secret key in workspace A."""
    issued: dict[str, str] = program.ok("issue", system.people.a, "--kind", "secret", *options)
    return issued


def about(time: str) -> timedelta:
    """Return how far a time of an answer is ahead of now."""
    return datetime.fromisoformat(time) - datetime.now(UTC)


def test_issue_passes_everything_on(alice: Program, system: System) -> None:
    issued = alice.ok(
        *("issue", system.people.a, "--label", "Bücher & “Läden”", "--environment", "test"),
        *("--origin", SITE, "--origin", "http://localhost:*", "--scope", "read", "--scope", "b:*"),
        *("--metadata", '{"plan": ["pro", 7]}', "--prefix", "acme", "--expires", "90d"),
    )
    assert list(issued) == columns_of(system, "issued_key")
    parsed = parse_key(issued["key"])
    assert (parsed.prefix, parsed.kind, parsed.environment) == ("acme", "publishable", "test")
    assert issued["label"] == "Bücher & “Läden”"
    assert issued["allowed_origins"] == [SITE, "http://localhost:*"]
    assert (issued["scopes"], issued["metadata"]) == (["read", "b:*"], {"plan": ["pro", 7]})
    assert timedelta(days=89) < about(issued["expires_at"]) < timedelta(days=90)
    assert UUID(issued["created_by"]) == system.people.alice


def test_issue_shows_people_the_key_and_says_that_it_is_the_last_time(
    sql_alice: Program, system: System
) -> None:
    shown = sql_alice("issue", system.people.a, "--kind", "secret", "--label", "backend")
    assert parse_key(shown.out.split()[1]).kind == "secret"
    assert "backend" in shown.out
    assert shown.err == "This is the only time that the key is shown: store it now.\n"


def test_issue_says_when_no_page_can_use_the_key(sql_alice: Program, system: System) -> None:
    assert "No page can use the key" in sql_alice("issue", system.people.a).err
    assert sql_alice("issue", system.people.a, "--origin", SITE).err == ""


def test_issue_takes_the_workspace_from_the_environment_or_a_file(
    sql_alice: Program, system: System
) -> None:
    workspace = str(system.people.a)
    found = sql_alice.having(KEYLATCH_WORKSPACE_ID=workspace).ok("issue")
    assert found["workspace_id"] == workspace
    (sql_alice.directory / ".env").write_text(f"KEYLATCH_WORKSPACE_ID={workspace}\n")
    assert sql_alice.ok("issue")["workspace_id"] == workspace


@pytest.mark.parametrize("command", ["issue", "rotate"])
def test_key_only_prints_the_key_alone(sql_alice: Program, system: System, command: str) -> None:
    subject = system.people.a if command == "issue" else new_key(sql_alice, system)["id"]
    shown = sql_alice(command, subject, "--key-only")
    # Only issue makes a publishable key here. Without an origin, nobody can use this key.
    assert ("it has no allowed origin" in shown.err) == (command == "issue")
    assert shown.out.endswith("\n")
    assert parse_key(shown.out.removesuffix("\n"))


def test_list_gives_the_rows_of_the_view_newest_first(alice: Program, system: System) -> None:
    first, second = new_key(alice, system), new_key(alice, system)
    listed = alice.ok("list", system.people.a)
    assert list(listed[0]) == columns_of(system, "keys")
    assert [key["id"] for key in listed[:2]] == [second["id"], first["id"]]
    assert {key["workspace_id"] for key in listed} == {str(system.people.a)}


def test_list_can_be_kept_to_one_status(sql_alice: Program, system: System) -> None:
    old, new = new_key(sql_alice, system)["id"], new_key(sql_alice, system)["id"]
    sql_alice("revoke", old)
    revoked = {key["id"] for key in sql_alice.ok("list", system.people.a, "--status", "revoked")}
    active = {key["id"] for key in sql_alice.ok("list", system.people.a, "--status", "active")}
    assert old in revoked - active
    assert new in active - revoked


def test_list_fits_eighty_columns_and_breaks_no_id(sql_alice: Program, system: System) -> None:
    issued = new_key(sql_alice, system, "--label", "a label " * 20, "--expires", "30d")
    sql_alice("rotate", issued["id"], "--grace", "1h")
    lines = sql_alice("list", system.people.a).out.splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [line for line in lines if line.startswith(issued["id"])]
    assert line.split()[1] == "superseded"
    assert issued["masked_key"] in lines[lines.index(line) + 1]


def test_list_of_a_foreign_or_empty_workspace_is_empty(sql_alice: Program, system: System) -> None:
    assert sql_alice.ok("list", system.people.b) == []
    shown = sql_alice("list", uuid4())
    assert shown.out == ""
    assert shown.err.startswith("no keys:")


def test_list_of_a_row_that_python_cannot_read_says_so_and_lists_the_others(
    sql_owner: Program, system: System
) -> None:
    workspace, id_ = uuid4(), uuid4()
    sql_owner("issue", workspace)
    system.database.connect().execute(
        """
        insert into keylatch_internal.keys
          (id, workspace_id, kind, key_hash, masked_key, metadata, created_at, updated_at)
        values (%s, %s, 'secret', sha256(%s), '...', %s, now(), now())
        """,
        [id_, workspace, id_.bytes, f'{{"n": {"9" * 5000}}}'],
    )
    result = sql_owner("list", workspace, "--json")
    assert [key["metadata"] for key in result.json] == [None, {}]
    assert result.err.startswith(f"unreadable_row: metadata of the Key {id_} cannot be read")
    assert str(id_) in sql_owner("list", workspace).out


def test_show_returns_one_row_of_the_view(alice: Program, system: System) -> None:
    issued = alice.ok("issue", system.people.a, "--origin", SITE, "--label", "shop")
    found = alice.ok("show", issued["id"])
    assert list(found) == columns_of(system, "keys")
    assert (found["public_key"], found["status"]) == (issued["key"], "active")
    assert found in alice.ok("list", system.people.a)
    shown = alice("show", issued["id"]).out
    assert {issued["key"], SITE, "shop", "active"} <= set(shown.split())


def test_show_of_a_secret_key_shows_its_masked_key_and_fingerprint(
    sql_alice: Program, system: System
) -> None:
    issued = new_key(sql_alice, system)
    assert sql_alice.ok("show", issued["id"])["public_key"] is None
    shown = sql_alice("show", issued["id"]).out
    assert issued["masked_key"] in shown
    assert fingerprint(issued["key"]) in shown


def test_rotate_with_grace_keeps_the_old_key_for_that_long(
    alice: Program, resolver: Program, system: System
) -> None:
    old = new_key(alice, system)
    new = alice.ok("rotate", old["id"], "--grace", "1d12h", "--expires", "2100-01-31")
    assert new["rotated_from"] == old["id"]
    assert new["expires_at"] == "2100-01-31T00:00:00+00:00"
    assert resolver.ok("resolve", stdin=new["key"])["key_id"] == new["id"]
    ends = resolver.ok("resolve", stdin=old["key"])["expires_at"]
    assert timedelta(hours=35) < about(ends) < timedelta(hours=36)


def test_rotate_without_grace_ends_the_old_key(
    sql_alice: Program, sql_owner: Program, system: System
) -> None:
    old = new_key(sql_alice, system)
    sql_alice("rotate", old["id"])
    sql_owner("resolve", stdin=old["key"], code=1)


def test_revoke_ends_a_key_and_may_be_repeated(alice: Program, system: System) -> None:
    issued = new_key(alice, system)
    first = alice.ok("revoke", issued["id"], "--reason", "leaked")
    assert list(first) == columns_of(system, "revocation")
    assert (first["already_revoked"], first["also_revoked"]) == (False, [])
    assert "already" in alice("revoke", issued["id"]).out
    assert alice.ok("show", issued["id"])["revoke_reason"] == "leaked"


def test_revoke_with_cascade_names_the_family(sql_alice: Program, system: System) -> None:
    old = new_key(sql_alice, system)
    new = sql_alice.ok("rotate", old["id"], "--grace", "1h")
    assert sql_alice.ok("revoke", old["id"], "--cascade")["also_revoked"] == [new["id"]]
    later = new_key(sql_alice, system)
    newest = sql_alice.ok("rotate", later["id"], "--grace", "1h")
    assert newest["id"] in sql_alice("revoke", later["id"], "--cascade").out


def test_end_sessions_revokes_the_key_and_ends_what_it_opened(
    alice: Program, system: System
) -> None:
    page = alice.ok("issue", system.people.a, "--origin", "https://shop.example")
    anon = system.database.connect("anon")
    anon.execute(
        """select set_config('request.headers', '{"origin":"https://shop.example"}', false)"""
    )
    token = anon.execute("select token from keylatch.open_session(%s)", [page["key"]]).fetchone()
    service = system.database.connect("service_role")

    def is_open() -> bool:
        return bool(service.execute("select keylatch.resolve_session(%s)", token).fetchall())

    alice("revoke", page["id"])
    assert is_open()
    done = alice.ok("end-sessions", page["id"], "--reason", "abused")
    assert list(done) == columns_of(system, "session_ending")
    assert (done["already_revoked"], done["ended"]) == (True, 1)
    assert not is_open()
    assert "sessions ended  0" in alice("end-sessions", page["id"]).out


def test_end_sessions_asks_at_a_terminal(sql_alice: Program, system: System) -> None:
    issued = new_key(sql_alice, system)
    result = sql_alice.at_a_terminal("end-sessions", issued["id"], typed="n")
    assert (result.code, result.out) == (1, "")
    assert "for good, and end the sessions of its visitors? [y/N]: " in result.err
    assert sql_alice.ok("show", issued["id"])["status"] == "active"


def test_retire_revokes_every_key_of_a_workspace_in_steps(
    sql_owner: Program, system: System
) -> None:
    workspace = uuid4()
    for _ in range(3):
        sql_owner("issue", workspace)
    assert sql_owner.at_a_terminal("retire", workspace, typed="n").code == 1
    result = sql_owner("retire", workspace, "--limit", "2", "--json")
    assert result.json == {"revoked": 3, "is_done": True}
    assert result.err == "2 keys revoked so far\n"
    assert {key["status"] for key in sql_owner.ok("list", workspace)} == {"revoked"}
    again = sql_owner("retire", workspace)
    assert again.out.split() == ["revoked", "0"]
    assert "no active keys" in again.err
    refused = sql_owner("retire", "Shop", code=2)
    assert "Give the id of the workspace, not its name." in refused.err
    refused = sql_owner("retire", workspace, "--limit", "0", code=2)
    assert refused.err.startswith("invalid_argument: limit must be")


def salted_key(system: System, key: str) -> str:
    """Import a key with a salted hash into workspace A, and return its id."""
    salted = bcrypt.hashpw(key.encode(), bcrypt.gensalt(4)).decode()
    line = {"workspace_id": str(system.people.a), "alg": "bcrypt", "hash": salted, "label": key[:8]}
    owner = system.database.connect()
    found = owner.execute(
        "select l.outcome, l.key_id from keylatch.import_keys(%s) as r, unnest(r.lines) as l",
        [Jsonb([line])],
    ).fetchone()
    assert found is not None
    assert found[0] == "waiting"
    return str(found[1])


def test_legacy_lists_the_keys_that_wait_and_upgrade_is_their_first_use(
    alice: Program, resolver: Program, system: System
) -> None:
    key = f"old-system-{uuid4().hex}"
    waiting = salted_key(system, key)
    (listed,) = [one for one in alice.ok("legacy", system.people.a) if one["id"] == waiting]
    assert (listed["status"], listed["scheme"]) == ("waiting", "bcrypt")
    lines = alice("legacy", system.people.a).out.splitlines()
    (line,) = [line for line in lines if line.startswith(waiting)]
    assert line.split()[1:3] == ["waiting", "bcrypt"]
    assert max(map(len, lines)) <= 80

    resolver("resolve", stdin=key, code=1)
    refused = resolver("upgrade", "--workspace", system.people.b, stdin=key, code=1)
    assert refused.err.startswith("not_resolved: ")
    found = resolver.ok("upgrade", "--workspace", system.people.a, stdin=key)
    assert list(found) == columns_of(system, "resolved_key")
    assert found["workspace_id"] == str(system.people.a)
    assert resolver.ok("resolve", stdin=key) == found
    (listed,) = [one for one in alice.ok("legacy", system.people.a) if one["id"] == waiting]
    assert (listed["status"], listed["key_id"]) == ("upgraded", found["key_id"])


def test_revoke_of_a_legacy_key_ends_it_before_its_first_use(
    sql_alice: Program, sql_owner: Program, system: System
) -> None:
    key = f"old-system-{uuid4().hex}"
    waiting = salted_key(system, key)
    assert sql_alice.at_a_terminal("revoke", waiting, "--legacy", typed="n").code == 1
    done = sql_alice.ok("revoke", waiting, "--legacy", "--reason", "leaked")
    assert (done["id"], done["already_revoked"]) == (waiting, False)
    sql_owner("upgrade", "--workspace", system.people.a, stdin=key, code=1)
    assert sql_alice.ok("show", waiting)["status"] == "revoked"


def test_legacy_of_a_foreign_or_empty_workspace_is_empty(
    sql_alice: Program, system: System
) -> None:
    assert sql_alice.ok("legacy", system.people.b) == []
    shown = sql_alice("legacy", uuid4())
    assert shown.out == ""
    assert shown.err.startswith("no legacy keys: ")


def test_revoke_that_cannot_wait_for_replicas_says_so_and_revokes(
    sql_alice: Program, system: System
) -> None:
    issued = new_key(sql_alice, system)
    refused = sql_alice("revoke", issued["id"], "--wait-for-replicas", code=2)
    assert refused.err.startswith("invalid_argument: There is no synchronous standby.")
    assert sql_alice.ok("show", issued["id"])["status"] == "revoked"


@pytest.mark.parametrize(("typed", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_revoke_asks_at_a_terminal(
    sql_alice: Program, system: System, typed: str, code: int
) -> None:
    issued = new_key(sql_alice, system, "--label", "laptop")
    result = sql_alice.at_a_terminal("revoke", issued["id"], "--json", typed=typed)
    assert f"Revoke {issued['masked_key']} (laptop) for good? [y/N]: " in result.err
    assert result.code == code
    assert (sql_alice.ok("show", issued["id"])["status"] == "revoked") is (code == 0)
    if code:
        assert result.out == ""
        assert result.err.endswith("aborted: nothing was changed\n")
    else:
        assert result.json["id"] == issued["id"]


def test_revoke_with_yes_does_not_ask(sql_alice: Program, system: System) -> None:
    issued = new_key(sql_alice, system)
    result = sql_alice.at_a_terminal("revoke", issued["id"], "--yes", typed="n")
    assert (result.code, result.err) == (0, "")
    assert sql_alice.ok("show", issued["id"])["status"] == "revoked"


def test_suspend_and_unsuspend_answer_with_the_key(
    alice: Program, resolver: Program, system: System
) -> None:
    issued = new_key(alice, system)
    suspended = alice.ok("suspend", issued["id"])
    assert list(suspended) == columns_of(system, "keys")
    assert suspended["status"] == "suspended"
    resolver("resolve", stdin=issued["key"], code=1)
    assert "active" in alice("unsuspend", issued["id"]).out
    resolver("resolve", stdin=issued["key"])


def test_resolve_reads_the_key_from_stdin_with_or_without_the_end_of_its_line(
    alice: Program, resolver: Program, system: System
) -> None:
    issued = new_key(alice, system, "--scope", "read", "--metadata", '{"a": 1}')
    for end in ("", "\n", "\r\n"):
        found = resolver.ok("resolve", stdin=issued["key"] + end)
        assert list(found) == columns_of(system, "resolved_key")
        assert (found["key_id"], found["scopes"]) == (issued["id"], ["read"])
    assert issued["id"] in resolver("resolve", stdin=issued["key"]).out
    for wrong in (f" {issued['key']}", f"{issued['key']} ", f"{issued['key']}\n\n"):
        resolver("resolve", stdin=wrong, code=1)


def test_resolve_passes_the_origin_on_an_empty_one_too(
    sql_alice: Program, sql_owner: Program, system: System
) -> None:
    page, server = (
        sql_alice.ok("issue", system.people.a, "--origin", SITE),
        new_key(sql_alice, system),
    )
    assert sql_owner.ok("resolve", "--origin", SITE, stdin=page["key"])["key_id"] == page["id"]
    for arguments, key in (
        ((), page),
        (("--origin", ""), page),
        (("--origin", "https://evil.example"), page),
        (("--origin", SITE), server),
        (("--origin", ""), server),
    ):
        sql_owner("resolve", *arguments, stdin=key["key"], code=1)


@pytest.mark.parametrize(
    "text",
    ["nonsense", "\0", "ß" * 30, b"\xff\xfe", b"x" * 1_000_000, "wk_sk_live_" + "1" * 36],
    ids=["nonsense", "NUL", "letters", "bytes", "a megabyte", "unknown"],
)
def test_a_bad_key_does_not_resolve_and_gives_nothing_on_stdout(
    sql_owner: Program, text: str | bytes
) -> None:
    for form in ((), ("--json",)):
        refused = sql_owner("resolve", *form, stdin=text, code=1)
        assert refused.out == ""
        assert refused.err.startswith("not_resolved: ")


def test_control_c_at_the_prompt_ends_it(sql_owner: Program) -> None:
    result = sql_owner.at_a_terminal("resolve", typed="\x03", prompt="Key: ")
    assert (result.code, result.out) == (130, "")


def test_explain_says_why_and_what_to_do(alice: Program, system: System) -> None:
    issued = new_key(alice, system)
    why = alice.ok("explain", stdin=issued["key"])
    assert list(why) == columns_of(system, "explanation")
    assert (why["verdict"], why["key_id"]) == ("valid", issued["id"])
    shown = alice("explain", "--origin", SITE, stdin=issued["key"], code=1)
    assert "secret_in_browser" in shown.out
    assert fingerprint(issued["key"]) in shown.out
    assert "what to do" in shown.out
    assert shown.err == ""
    typo = alice("explain", "--json", stdin=mistyped(issued["key"]), code=1)
    assert typo.json["verdict"] == "checksum_failed"


@pytest.mark.parametrize("command", ["resolve", "explain"])
def test_a_key_is_asked_for_at_a_terminal_without_echo(
    sql_alice: Program, sql_owner: Program, system: System, command: str
) -> None:
    issued = new_key(sql_alice, system)
    program = sql_alice if command == "explain" else sql_owner
    result = program.at_a_terminal(command, "--json", typed=issued["key"], prompt="Key: ")
    assert result.json["key_id"] == issued["id"]
    assert issued["key"] not in result.screen + result.err
