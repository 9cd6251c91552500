"""Random statements of random roles on keys, for the tests of the latch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

SOON = ("clock_timestamp() + interval '15 ms'", "clock_timestamp() + interval '1 hour'")
TIMES = (
    "null",
    "clock_timestamp() - interval '1 hour'",
    *SOON,
    "clock_timestamp() + interval '2 hours'",
    "'infinity'",
    "'-infinity'",
    "'9999-12-31 23:59Z'",
    "'10000-01-02Z'",
)
# The values that an update writes, as SQL, so that times come from the server's clock.
VALUES: Mapping[str, tuple[str, ...]] = {
    "revoked_at": TIMES,
    "expires_at": (*TIMES, *SOON),
    "superseded_at": TIMES,
    "suspended_at": TIMES,
    "created_at": TIMES,
    "revoked_by": ("null", "%(b)s", "gen_random_uuid()"),
    "revoke_reason": ("null", "'rotated'", "'another'", "repeat('x', 501)", "e'\\x01'"),
    "scopes": ("'{}'", "'{read}'", "'{READ}'", "null"),
    "allowed_origins": ("'{}'", "'{https://a.example}'", "'{https://b.example}'", "'{*}'"),
    "label": ("'another'", "null", "repeat('x', 201)"),
    "metadata": ("""'{"a": 1}'""", "'[]'", "null"),
    "id": ("gen_random_uuid()", "%(other)s", "null"),
    "workspace_id": ("%(a)s", "%(b)s", "gen_random_uuid()", "null"),
    "kind": ("'publishable'", "'secret'", "'both'"),
    "environment": ("'live'", "'test'", "'neither'"),
    "key_hash": ("sha256('x')", "keylatch.hash_key(%(fresh)s)", "'x'", "null"),
    "public_key": ("null", "%(fresh)s"),
    "masked_key": ("'another'", "null"),
    "rotated_from": ("null", "%(other)s"),
    "created_by": ("null", "%(b)s"),
    "imported_at": ("null", "clock_timestamp()"),
    "updated_at": TIMES,
}
LATCHED = ("revoked_at", "expires_at", "superseded_at", "suspended_at", "revoke_reason", "scopes")
ANY_COLUMN = (*VALUES, *LATCHED, *LATCHED)
REPLICAS = ("superuser in replication mode", "postgres in replication mode")
ACTORS = ("alice", "alice", "bob", "service_role", "postgres", "superuser", *REPLICAS)
# The owner inserts a key of another system, with its hash.
IMPORT = """
    insert into keylatch_internal.keys (
      id, workspace_id, kind, key_hash, masked_key, created_at, updated_at, imported_at, expires_at
    )
    values (
      {id}, %(workspace)s, 'secret', keylatch.hash_key(%(fresh)s), '...', clock_timestamp(),
      clock_timestamp(), clock_timestamp(), {time}
    )
    """


@dataclass(frozen=True)
class Step:
    """A statement of one role; `key` selects its `%(key)s`, `%(other)s` and `%(workspace)s`."""

    actor: str
    statement: str
    key: int
    late: bool
    """Run it in a transaction that began before the short-lived keys expired."""


def one(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts)


@st.composite
def changes(draw: st.DrawFn, columns: Sequence[str]) -> str:
    """Draw assignments to one or two of the columns."""
    names = draw(st.lists(st.sampled_from(columns), min_size=1, max_size=2, unique=True))
    # A key that is not superseded yet needs both columns.
    if names == ["superseded_at"] and draw(st.booleans()):
        names.append("expires_at")
    return ", ".join(f"{name} = {draw(one(*VALUES[name]))}" for name in names)


@st.composite
def updates(draw: st.DrawFn, columns: Sequence[str]) -> str:
    """Draw a statement that updates a row, in one of the ways that SQL has."""
    change = draw(changes(columns))
    view = "keylatch_internal.keys" if "key_hash" in change else "keylatch.keys"
    return draw(
        one(
            f"update {view} set {change} where id = %(key)s",
            f"update keylatch_internal.keys set {change} where id = %(key)s",
            f"update keylatch_internal.keys set {change} where workspace_id = %(workspace)s",
            f"{IMPORT.format(id='%(key)s', time='null')} on conflict (id) do update set {change}",
            "insert into keylatch_internal.keys (id, workspace_id) values (%(key)s, %(workspace)s) "
            f"on conflict (id) do update set {change}",
            "merge into keylatch_internal.keys as k using (select %(key)s::uuid as id) as s "
            f"on k.id = s.id when matched then update set {change}",
        )
    )


@st.composite
def calls(draw: st.DrawFn) -> str:
    """Draw a call or an insert that an admin makes."""
    time = draw(one(*TIMES[:5]))
    kind = draw(one("secret", "publishable', allowed_origins => '{https://a.example}"))
    issue = f"select key, id from keylatch.issue_key(%(workspace)s, '{kind}', expires_at => {time})"
    grace = draw(one("0", "1 second", "1 hour", "30 days", "31 days", "-1 second"))
    return draw(
        one(
            issue,
            issue,
            issue,
            f"select key, id from keylatch.rotate_key(%(key)s, '{grace}', {time})",
            f"select key, id from keylatch.rotate_key(%(key)s, '{grace}')",
            "select keylatch.revoke_key(%(key)s, 'leaked')",
            "select keylatch.revoke_key(%(key)s, null, true)",
            "select keylatch.retire_workspace(%(workspace)s, 1)",
            "select keylatch.suspend_key(%(key)s)",
            "select keylatch.unsuspend_key(%(key)s)",
            "insert into keylatch.keys (workspace_id, rotated_from) "
            "values (%(workspace)s, %(key)s)",
            f"insert into keylatch.keys (workspace_id, kind, expires_at) "
            f"values (%(workspace)s, 'secret', {time})",
            IMPORT.format(id="gen_random_uuid()", time=time)
            + " returning id, %(fresh)s::text as key",
        )
    )


REMOVALS = one(
    "delete from keylatch.keys",
    "delete from keylatch_internal.keys where id = %(key)s",
    "delete from keylatch_internal.keys where workspace_id = %(workspace)s",
    "merge into keylatch_internal.keys as k using (select %(key)s::uuid as id) as s "
    "on k.id = s.id when matched then delete",
    "truncate keylatch_internal.keys",
    "truncate keylatch_internal.keys cascade",
    "truncate keylatch.workspaces cascade",
    "update keylatch.keys set status = 'active' where id = %(key)s",
    "delete from keylatch.workspaces where id = %(workspace)s",
    "insert into keylatch.workspaces (id, name) values (%(workspace)s, 'again')",
)


def stories(columns: Sequence[str]) -> st.SearchStrategy[list[Step]]:
    """Draw calls, removals and, most of all, updates of these columns."""
    changed = [updates(columns)] * 3 if columns else []
    return st.lists(
        st.builds(
            Step,
            actor=st.sampled_from(ACTORS),
            statement=st.one_of(calls(), calls(), *changed, REMOVALS),
            key=st.integers(0, 11),
            late=st.sampled_from((False, False, False, False, True)),
        ),
        min_size=20,
        max_size=30,
    )
