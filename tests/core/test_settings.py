"""No setting of a caller's session changes what a rule means.

Each setting is tried in new sessions, because PostgreSQL reads the text of a function under the
settings of the session that first runs the function.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from stack import Cluster, Database, People, Tokens

UNSAYABLE = "the client encoding has no word for it"
SCHEMAS_FIRST = "pg_temp, public, keylatch, keylatch_internal, pg_catalog"
SETTINGS = [
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("DateStyle", "SQL, DMY"),
    ("DateStyle", "Postgres, MDY"),
    ("DateStyle", "German"),
    ("IntervalStyle", "sql_standard"),
    ("IntervalStyle", "postgres_verbose"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "Pacific/Kiritimati"),
    ("TimeZone", "America/Adak"),
    ("TimeZone", "a clock change of a week"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
    ("search_path", SCHEMAS_FIRST),
    ("search_path", ""),
    ("client_encoding", "LATIN1"),
    ("default_transaction_isolation", "serializable"),
    ("enable_indexscan", "off"),
    ("plan_cache_mode", "force_generic_plan"),
]

KEY = "wk_sk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V"
ISSUE = "select 'issued' from keylatch.issue_key(%(a)s, {})"
# The caller, the statements (separated by ;;; the last returns one text), and their parameters.
RULES: list[tuple[str, str, Mapping[str, object]]] = [
    *(
        ("alice", ISSUE.format(f"{name} => %(value)s{cast}"), {"value": value})
        for name, cast, values in (
            ("label", "", ["good", "", "a\x07b", "a\nb", "a\u202eb", "\\x", "x" * 201, KEY]),
            ("prefix", "", ["acme", "a\\", "ac\\d", "A", "1a", "a" * 13]),
            ("scopes", "::text[]", [["a:b"], ["A"], ["a\\"], ["a", "a"], ["a b"], ["null"], []]),
            (
                "allowed_origins",
                "::text[]",
                [
                    ["https://a.example"],
                    ["https://*.a.example"],
                    ["https://*a.example"],
                    ["https://a@b.example"],
                    ["https://a\\.example"],
                    ["https://aXexample"],
                    ["https://1.2.3.4"],
                    ["https://1.2.3.4x"],
                    ["https://01.2.3.4"],
                    ["https://[::1]"],
                    ["https://[::1"],
                    ["https://[1:2:3:4:5:6:7:8]"],
                    ["https://[0:0:0:0:0:0:0:1]"],
                    ["http://localhost:*"],
                    ["https://*.1.2.3.4"],
                    [None],
                    ["*"],
                ],
            ),
            (
                "metadata",
                "::jsonb",
                [
                    '{"a": 1}',
                    "[]",
                    '{"a": 1e308}',
                    '{"a": 1e309}',
                    '{"a": -1e309}',
                    '{"a": 1e5000}',
                    '{"a": ' + "9" * 5000 + "}",
                    f'{{"a": "{KEY}"}}',
                    '{"a":' * 16 + "1" + "}" * 16,
                    '{"a":' * 17 + "1" + "}" * 17,
                    '{"a": "' + "x" * 8183 + '"}',
                    '{"a": "' + "x" * 8184 + '"}',
                ],
            ),
            (
                "expires_at",
                "::timestamptz",
                [
                    "2099-01-02 00:00Z",
                    "9998-12-31 23:59Z",
                    "9999-01-01 00:00Z",
                    "9999-12-31 23:59-15:59",
                    "2001-02-03 00:00Z",
                    "infinity",
                    "-infinity",
                ],
            ),
        )
        for value in values
    ),
    *(
        (
            "alice",
            "select keylatch.rotate_key(%(secret)s, %(grace)s::interval);;"
            " select (extract(epoch from expires_at - superseded_at) <= 720 * 3600)::text"
            " from keylatch.keys where id = %(secret)s",
            {"grace": grace},
        )
        for grace in ("1 hour", "30 days", "720 hours", "720:00:01", "31 days", "-1 second")
    ),
    *(
        (
            "alice",
            f"update keylatch.keys set {change} where id = %(revoked)s returning 'changed'",
            {},
        )
        for change in (
            "revoked_at = null", "expires_at = null", "scopes = array['a']", "label = 'x'"
        )
    ),
    (
        "alice",
        "update keylatch.keys set revoked_at = now(), revoke_reason = %(value)s"
        " where id = %(secret)s returning revoke_reason",
        {"value": f"leaked: {KEY} \\1 C:\\x"},
    ),
    *(
        (
            "alice", "select 'revoked' from keylatch.revoke_key(%(secret)s, %(value)s)",
            {"value": value},
        )
        for value in ("a\x07", "x" * 501, "a\nb")
    ),
    (
        "alice", "update keylatch.keys set revoked_by = %(a)s where id = %(secret)s returning 'x'",
        {},
    ),
    *(
        (
            "service_role", "select count(*)::text from keylatch.resolve_key(%(key)s, %(origin)s)",
            {"key": key, "origin": origin},
        )
        for key, origin in (
            ("star", "https://a.client.example"),
            ("star", "https://a.b.client.example"),
            ("star", "https://client.example"),
            ("star", "https://a@b.client.example"),
            ("star", "https://a\\b.client.example"),
            ("star", "https://aXclient.example"),
            ("star", ""),
            ("star", None),
            ("secret", None),
            ("secret", ""),
            ("revoked", None),
        )
    ),
    *(
        (
            "alice",
            "select concat_ws(' ', verdict, fingerprint)"
            " from keylatch.explain_key(%(key)s, %(origin)s)",
            {"key": key, "origin": origin},
        )
        for key, origin in (
            ("star", "https://a@b.client.example"), ("secret", None), ("revoked", None),
            (KEY, None), (KEY + "\\", None), ("x", None),
        )
    ),
    ("alice", "select encode(keylatch.hash_key(%(value)s), 'hex')", {"value": "ü\\"}),
    ("alice", "select count(*)::text from keylatch.list_keys(%(a)s)", {}),
    # The prefix and three dots: a LATIN1 client could not read an ellipsis character.
    ("alice", "select left(masked_key, 14) from keylatch.keys where id = %(secret)s", {}),
    ("alice", "select count(*)::text from keylatch.keys where workspace_id = %(b)s", {}),
    ("bob", "select 'seen' from keylatch.revoke_key(%(secret)s)", {}),
    ("bob", "select verdict from keylatch.explain_key(%(key)s)", {"key": "secret"}),
    ("mia", "select 'issued' from keylatch.issue_key(%(a)s)", {}),
    ("alice", "select (keylatch.installation()).schema_version", {}),
]  # fmt: skip


class Rules:
    """A database with a few keys, and the answers of an ordinary session."""

    def __init__(self, database: Database, people: People) -> None:
        self.database = database
        self.people = people
        with database.connect("authenticated", people.claims("alice")) as alice:
            made = {
                name: alice.execute(
                    "select id, key from keylatch.issue_key(%s, %s, allowed_origins => %s)",
                    [people.a, kind, origins],
                ).fetchone()
                for name, kind, origins in (
                    ("star", "publishable", ["https://*.client.example"]),
                    ("secret", "secret", []),
                    ("revoked", "secret", []),
                )
            }
            alice.execute("select keylatch.revoke_key(%s)", [made["revoked"][0]])  # type: ignore[index]
        self.ids = {name: row[0] for name, row in made.items() if row}
        self.keys = {name: row[1] for name, row in made.items() if row}
        self.usual = self.ask(None, "")

    def ask(self, setting: str | None, value: str) -> list[str]:
        """The outcome of each rule in sessions with this setting."""
        sessions: dict[str, psycopg.Connection[Any]] = {}
        try:
            for who in ("alice", "bob", "mia", "service_role"):
                claims = None if who == "service_role" else self.people.claims(who)
                session = self.database.connect(who if claims is None else None, claims)
                if setting is not None:
                    session.execute("select set_config(%s, %s, false)", [setting, value])
                sessions[who] = session
            return [self._one(sessions[who], said, given) for who, said, given in RULES]
        finally:
            for session in sessions.values():
                session.close()

    def _one(
        self, session: psycopg.Connection[Any], statement: str, given: Mapping[str, object]
    ) -> str:
        values = {"a": self.people.a, "b": self.people.b, **self.ids, **given}
        if "key" in given:
            values["key"] = self.keys.get(str(given["key"]), given["key"])
        try:
            with session.transaction(force_rollback=True):
                for part in statement.split(";;"):
                    row = session.execute(part.encode(), values).fetchone()
        except psycopg.Error as error:
            state = str(error.sqlstate)
            return str(error.diag.message_primary) if state.startswith("PT") else state
        except UnicodeEncodeError:
            return UNSAYABLE
        return "nothing" if row is None else str(row[0])


@pytest.fixture(scope="module")
def rules(server: Cluster, template: str, tokens: Tokens) -> Iterator[Rules]:
    with Database(server, "settings", template) as database:
        people = People(tokens)
        people.seed(database.url)
        yield Rules(database, people)


def clock_change_of_a_week() -> str:
    """A time zone in which the clocks are set forward by a week, ten days from now."""
    day = datetime.now(UTC) + timedelta(days=10)
    return f"AAA0BBB-167,J{int(day.strftime('%j'))}/0,J{(int(day.strftime('%j')) + 99) % 365 + 1}/0"


def test_the_probe_values_both_pass_and_break_the_rules(rules: Rules) -> None:
    """The rules below give all kinds of outcomes, and no statement has a syntax error."""
    said = dict.fromkeys(rules.usual)
    assert {"issued", "invalid_argument", "revoked_is_final", "true", "0", "1"} <= set(said)
    assert not {"42601", "42703", "42883", "42P18", "42804", "22P02"} & set(said), said


@pytest.mark.parametrize(("setting", "value"), SETTINGS, ids=lambda part: str(part))
def test_no_setting_of_a_session_changes_a_rule(rules: Rules, setting: str, value: str) -> None:
    """Threat: `standard_conforming_strings = off`, and its kind."""
    if value.startswith("a clock change"):
        value = clock_change_of_a_week()
        with rules.database.connect() as owner:
            owner.execute("select set_config('timezone', %s, false)", [value])
            longer = owner.execute("select now() + '30 days' <> now() + '720 hours'").fetchone()
            assert longer == (True,), "in this time zone thirty days are not 720 hours"
    found = rules.ask(setting, value)
    different = [
        (statement, given, usual, now)
        for (_, statement, given), usual, now in zip(RULES, rules.usual, found, strict=True)
        if now not in (usual, UNSAYABLE)
    ]
    assert different == []


def test_without_row_security_a_session_is_refused_and_nothing_else(rules: Rules) -> None:
    """Threat: `row_security = off` means an error where a policy would have said no, or yes."""
    found = rules.ask("row_security", "off")
    for (who, statement, _), usual, now in zip(RULES, rules.usual, found, strict=True):
        assert now in (usual, "42501"), (who, statement, usual, now)
