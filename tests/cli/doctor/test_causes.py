"""doctor reports the cause of damage to many objects first, in few findings."""

from dataclasses import dataclass

import pytest

from cli.doctor.examining import examined, only, run, summaries
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import CORE, Choice, shipped
from stack import Cluster, Database, People

pytestmark = pytest.mark.one_server

AFTER_RESTORE = "keylatch script after_restore"
# The effect of a restore that loses the triggers' modes, and of a restore without privileges.
ORDINARY_TRIGGERS = """
do $$ declare t record; begin
  for t in select tgname, tgrelid::regclass as relation from pg_trigger
    where not tgisinternal and tgenabled in ('A', 'R')
      and tgrelid::regclass::text like 'keylatch%' loop
    execute format('alter table %s enable trigger %I', t.relation, t.tgname);
  end loop; end $$
"""
LOST_GRANTS = """
do $$ declare r text; begin
  foreach r in array array['anon', 'authenticated', 'service_role', 'keylatch_resolver'] loop
    execute format('revoke all on all tables in schema keylatch, keylatch_internal from %I', r);
    execute format('revoke all on all functions in schema keylatch, keylatch_internal from %I', r);
    execute format('revoke all on schema keylatch, keylatch_internal from %I', r);
  end loop; end $$
"""
OPENED = "grant execute on all functions in schema keylatch, keylatch_internal to public"
NO_POLICIES = """
do $$ declare p record; begin
  for p in select polname, polrelid::regclass as relation from pg_policy loop
    execute format('drop policy %I on %s', p.polname, p.relation);
  end loop; end $$
"""
NO_COMMENTS = """
delete from pg_description where objoid in (
  select oid from pg_proc where pronamespace::regnamespace::text like 'keylatch%')
"""


@dataclass(frozen=True)
class Cause:
    """Damage to many objects, and what doctor's first finding must say."""

    done: tuple[str, ...]
    slug: str
    subject: str
    words: str
    fix: str
    most: int = 1


CAUSES = {
    "a schema was dropped": Cause(
        ("drop schema keylatch cascade",),
        *("incomplete", "core of keylatch", "schema keylatch is missing", AFTER_RESTORE),
    ),
    "the other schema was dropped": Cause(
        ("drop schema keylatch_internal cascade",),
        *("incomplete", "core of keylatch", "schema keylatch_internal is missing"),
        "drop schema if exists",
    ),
    "the table of keys was dropped": Cause(
        ("drop table keylatch_internal.keys cascade",),
        *("incomplete", "core of keylatch", "objects are missing", "drop schema if exists"),
    ),
    "a module was dropped in part": Cause(
        (
            "drop table keylatch_internal.key_events, keylatch_internal.key_event_checkpoints,"
            " keylatch_internal.event_settings cascade",
            "drop function keylatch.seal_events, keylatch.verify_events",
        ),
        *("incomplete", "part events of keylatch", "objects are missing", "keylatch sql --all"),
        3,
    ),
    "triggers were restored as ordinary ones": Cause(
        (ORDINARY_TRIGGERS,),
        *("restore_incomplete", "restored database", "do not fire in replication mode"),
        AFTER_RESTORE,
    ),
    "grants were lost": Cause(
        (LOST_GRANTS,),
        *("restore_incomplete", "restored database", "objects are missing", AFTER_RESTORE),
        2,
    ),
    "grants were lost and functions are open": Cause(
        (LOST_GRANTS, OPENED),
        *("open_to_everybody", "restored database", "everyone may execute", AFTER_RESTORE),
        2,
    ),
    "triggers, grants and rows were lost": Cause(
        (LOST_GRANTS, ORDINARY_TRIGGERS, "delete from keylatch_internal.errors"),
        *("restore_incomplete", "restored database", "rows of keylatch_internal.errors"),
        AFTER_RESTORE,
        2,
    ),
    "the row of the installation was lost": Cause(
        ("delete from keylatch_internal.installation",),
        *("restore_incomplete", "restored database", "keylatch_internal.installation are missing"),
        AFTER_RESTORE,
    ),
    "a settings row was lost": Cause(
        ("delete from keylatch_internal.session_limits",),
        *("restore_incomplete", "restored database", "session_limits are missing", AFTER_RESTORE),
    ),
    "a module is not in the row": Cause(
        ("update keylatch_internal.installation set modules = array_remove(modules, 'usage')",),
        *("restore_incomplete", "restored database", "does not name the modules usage"),
        AFTER_RESTORE,
    ),
    "every function is open": Cause(
        (OPENED,),
        *("open_to_everybody", "restored database", "keylatch.resolve_key", AFTER_RESTORE),
    ),
    "every policy was dropped": Cause(
        (NO_POLICIES,),
        *("object_missing", "policies", "are missing", "create policy"),
        2,
    ),
    "every comment was lost": Cause(
        (NO_COMMENTS,), "comment_changed", "functions", "another comment", "comment on function"
    ),
    "everything has another owner in part": Cause(
        tuple(
            f"alter function keylatch.{name} owner to supabase_admin"
            for name in ("issue_key", "rotate_key", "revoke_key", "list_keys", "hash_key")
        ),
        *("owner_differs", "5 functions", "belong", "owner to postgres"),
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_one_cause_is_one_finding(database: Database, people: People, name: str) -> None:
    cause = CAUSES[name]
    with database.connect() as owner:
        owner.execute("select keylatch.issue_key(%s, 'secret')", [people.a])
    run(database, *cause.done)
    findings = examined(database).findings
    assert findings
    first = findings[0]
    assert (first.slug, first.subject.endswith(cause.subject)) == (cause.slug, True), first
    assert cause.words in first.what
    assert cause.fix in first.fix
    assert len(findings) <= cause.most, summaries(findings)


def test_a_core_that_stopped_half_way_is_named_once(bare: Database) -> None:
    text = shipped().parts[CORE].text
    run(bare, text[: text.index("create function keylatch.issue_key")])
    report = examined(bare)
    assert summaries(report.findings) == [
        ("error", "open_to_everybody", "core of keylatch"),
        ("error", "incomplete", "core of keylatch"),
    ]
    assert "supabase migration repair --status reverted" in report.findings[1].fix
    run(bare, report.findings[0].fix)
    assert only(examined(bare)).slug == "incomplete"
    assert "keys, tenancy, API" in [one.subject for one in report.unchecked]


def test_functions_open_in_half_a_core_are_named_before_it(bare: Database) -> None:
    apply(bare.connect(), Choice(only=("core",)), "own")
    run(bare, "drop schema keylatch cascade", OPENED.replace("keylatch, ", ""))
    slugs = [one.slug for one in examined(bare).findings]
    assert slugs == ["open_to_everybody", "incomplete"]


def test_an_empty_database_is_told_what_installs_keylatch_there(
    bare: Database, server: Cluster
) -> None:
    assert "supabase db push" in only(examined(bare)).fix
    with Database(server, "plain") as plain:
        finding = only(examined(plain))
        assert finding.slug == "not_installed"
        assert finding.fix.startswith("keylatch apply --platform")
        assert "supabase" not in finding.fix


def test_a_schema_that_is_exposed_before_it_is_there_is_an_outage(bare: Database) -> None:
    where = f"alter role authenticator in database {bare.name}"
    run(bare, f"{where} set pgrst.db_schemas = 'public, keylatch'")
    findings = examined(bare).findings
    assert [one.slug for one in findings] == ["not_installed", "exposed_too_early"]
    assert "then expose" in findings[1].fix


def test_a_stopped_subscription_is_named_and_a_database_without_one_is_whole(
    database: Database, people: People
) -> None:
    run(
        database,
        "create subscription moved connection 'dbname=nowhere' publication p"
        " with (connect = false, enabled = false, slot_name = none)",
        "insert into pg_subscription_rel (srsubid, srrelid, srsubstate) select oid,"
        " 'keylatch_internal.keys'::regclass, 'r' from pg_subscription where subname = 'moved'",
    )
    finding = only(examined(database))
    assert summaries([finding]) == [("warning", "subscription_stopped", "subscription moved")]
    run(database, *(finding.fix.splitlines()[-3:]))
    assert examined(database).findings == ()
