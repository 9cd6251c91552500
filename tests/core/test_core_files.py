"""Rules for the text of the migrations and for the objects that they create."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from core.fingerprint import fingerprint
from stack import Cluster, Database, MissingTool, migrations
from stack.checks import libpq
from stack.modules import MIGRATIONS

# A comment, a quoted name, an E'' literal with its next lines, or a plain literal. The text between
# dollar quotes is read like the rest.
_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?\*/|"[^"]*"
    |(?<![a-z0-9_])[eE]'(?:[^'\\]|\\.|'')*'(?:[ ]*\n\s*'(?:[^'\\]|\\.|'')*')*
    |'(?:[^']|'')*'""",
    re.S | re.X,
)
# Settings that differ from PostgreSQL's defaults.
ODD_SESSION = {
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Pacific/Kiritimati",
    "bytea_output": "escape",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "search_path": "pg_temp",
}


def plain_literals(text: str) -> Iterator[str]:
    """The literals of SQL that are not E'' literals."""
    return (token for token in _TOKEN.findall(text) if token.startswith("'"))


@pytest.mark.parametrize("file", sorted(path.name for path in MIGRATIONS.glob("*.sql")))
def test_a_literal_with_a_backslash_says_that_it_has_escapes(file: str) -> None:
    """Threat: a session with `standard_conforming_strings = off` reads a plain one otherwise."""
    text = (MIGRATIONS / file).read_text()
    assert [literal for literal in plain_literals(text) if "\\" in literal] == []
    # `plain_literals` itself tells the literals apart, also in a function's body.
    text = "\n".join((r"""select E'a\'b', 'c''d', $$ 'e\f' $$ -- 'g'""", r"E'\\h'", r"  'i\\'"))
    assert list(plain_literals(text)) == [
        "'c''d'",
        r"'e\f'",
    ]


@pytest.mark.one_server
@pytest.mark.parametrize("file", sorted(path.name for path in MIGRATIONS.glob("*.sql")))
def test_each_function_with_the_owners_rights_says_why(file: str) -> None:
    text = (MIGRATIONS / file).read_text()
    heads = re.findall(r"\bsecurity definer\b.*?\bas \$", text, re.S)
    assert len(heads) == len(re.findall(r"^[^-]*security definer( rows \d+)?$", text, re.M))
    assert all("-- definer because" in head for head in heads), heads


def test_the_core_is_the_same_whatever_the_session_that_installs_it_has_set(
    core: Database, empty: Database
) -> None:
    options = " ".join(f"-c {name}={value}" for name, value in ODD_SESSION.items())
    with psycopg.connect(empty.url, options=options) as owner:
        assert owner.execute("show standard_conforming_strings").fetchone() == ("off",)
        for file in migrations():
            owner.execute(file.read_bytes())
    assert fingerprint(empty.url) == fingerprint(core.url)


@pytest.mark.one_server  # a dump needs a program of the server's version
def test_the_core_is_the_same_after_it_was_dumped_and_restored(
    server: Cluster, core: Database
) -> None:
    """The text that PostgreSQL writes for a trigger's condition must survive a restore."""
    programs = shutil.which("pg_dump"), shutil.which("psql")
    if None in programs:
        raise MissingTool("pg_dump")
    pg_dump, psql = map(str, programs)
    before = fingerprint(core.url)
    conditions = triggers(core)
    assert any("WHEN" in line for line in conditions)
    dumped = core
    for number in (1, 2):
        schemas = ("--schema=keylatch", "--schema=keylatch_internal")
        dump = subprocess.run(
            [pg_dump, *schemas], env=libpq(dumped), capture_output=True, check=True, text=True
        ).stdout
        restored = Database(server, f"{core.name}_{number}")
        server.install_platform(restored.name)
        subprocess.run(
            [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "-1"],
            input=dump,
            env=libpq(restored),
            capture_output=True,
            check=True,
            text=True,
        )
        assert triggers(restored) == conditions
        assert sorted(fingerprint(restored.url)) == sorted(before)
        dumped = restored


def triggers(database: Database) -> list[str]:
    """The definition and the mode of each trigger of the keys."""
    with psycopg.connect(database.url) as owner:
        rows = owner.execute(
            "select pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text from pg_trigger as t"
            " where t.tgrelid = 'keylatch_internal.keys'::regclass and not t.tgisinternal"
            " order by t.tgname"
        ).fetchall()
    return [row[0] for row in rows]


def test_each_error_that_a_function_raises_is_in_the_table_and_the_other_way_round(
    database: Database,
) -> None:
    with psycopg.connect(database.url) as owner:
        sources = owner.execute(
            "select p.prosrc from pg_proc as p"
            " where p.pronamespace::regnamespace::text in ('keylatch', 'keylatch_internal')"
        ).fetchall()
        latched = owner.execute(
            "select encode(t.tgargs, 'escape') from pg_trigger as t where t.tgnargs = 1"
            " and t.tgfoid = 'keylatch_internal.hold_latch'::regproc"
        ).fetchall()
        known = {row[0] for row in owner.execute("select slug from keylatch_internal.errors")}
    raised = {slug.removesuffix(r"\000") for (slug,) in latched}
    for (source,) in sources:
        raised |= set(re.findall(r"keylatch_internal\.refuse\(\s*'([a-z_]+)'", source))
    assert raised == known


def test_an_error_that_is_in_no_table_is_still_an_error(core: Database) -> None:
    with psycopg.connect(core.url) as owner, pytest.raises(psycopg.Error) as refused:
        owner.execute("select keylatch_internal.refuse('no_such_slug', 'why')")
    assert (refused.value.sqlstate, refused.value.diag.message_primary) == ("P0001", "no_such_slug")


def test_with_the_core_alone_everything_of_the_core_works(core: Database) -> None:
    """No call of the core needs a module or the tenancy."""
    with psycopg.connect(core.url, autocommit=True) as owner:
        assert owner.execute("select (keylatch.installation()).modules").fetchone() == ([],)
        workspace = owner.execute("select gen_random_uuid()").fetchone()
        assert workspace is not None
        made = owner.execute(
            "select id, key from keylatch.issue_key(%s, 'secret')", workspace
        ).fetchone()
        assert made is not None
        verdict = "select verdict from keylatch.explain_key(%s)"
        assert owner.execute(verdict, ["wk_sk_live_" + "1" * 36]).fetchone() != ("valid",)
        assert owner.execute(verdict, [made[1]]).fetchone() == ("valid",)
        owner.execute("select keylatch.rotate_key(%s, '1 hour')", [made[0]])
        owner.execute("select keylatch.suspend_key(%s)", [made[0]])
        owner.execute("select keylatch.unsuspend_key(%s)", [made[0]])
        revoked = owner.execute(
            "select also_revoked from keylatch.revoke_key(%s, 'x', true)", made[:1]
        )
        assert len(revoked.fetchone()[0]) == 1  # type: ignore[index]
        owner.execute("create table public.teams (id uuid primary key)")
        owner.execute(
            "create trigger t after delete on public.teams for each row"
            " execute function keylatch_internal.revoke_workspace_keys()"
        )
        owner.execute("insert into public.teams values (%s)", workspace)
        made = owner.execute(
            "select id, key from keylatch.issue_key(%s, 'secret')", workspace
        ).fetchone()
        assert made is not None
        owner.execute("delete from public.teams")
        assert owner.execute(verdict, [made[1]]).fetchone() == ("revoked",)
