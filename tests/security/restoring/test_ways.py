"""Each way of restoring: what works by itself, and what after_restore.sql repairs."""

import psycopg
import pytest

from cli.program import Program
from core.fingerprint import fingerprint
from keylatch_cli.audit.matrix import audit
from keylatch_cli.doctor.examination import examine
from keylatch_cli.doctor.report import Level
from security.restoring.ground import Ground, psql, repair, run, with_role
from security.restoring.story import Model, connected, faults, rows, use_every_call
from security.restoring.ways import (
    WAYS,
    Way,
    clean,
    migrated,
    plain,
    schema_only,
    without_owner_and_privileges,
    without_role,
)
from stack import Database
from stack.tools import ROOT

pytestmark = [pytest.mark.one_server, pytest.mark.long]

# An audit takes seconds, and finds the same if catalog and roles are the same. So three ways are
# enough: one that keeps all, one that loses the grants, and one that loses the role.
AUDITED = (plain, without_owner_and_privileges, without_role)
DISABLED = "select from pg_trigger where tgenabled = 'D'"
# `pg_restore --data-only --disable-triggers` does this first, and undoes it only at its end.
DISABLE = """
do $$
declare
  v_table regclass;
begin
  for v_table in
    select c.oid from pg_catalog.pg_class as c
    where c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal', 'public')
      and c.relkind = 'r'
  loop
    execute format('alter table %s disable trigger {}', v_table);
  end loop;
end $$;
"""


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.restore.__name__)
def test_a_restored_database_is_whole_or_after_restore_makes_it_so(
    ground: Ground, model: Model, way: Way
) -> None:
    with_role(ground.target, exists=way.has_role)
    with way.restore(ground) as restored:
        assert tuple(faults(restored, model, ground.story)) == way.lost
        # The members of a role belong to the cluster, so the doctor reports no error for them.
        is_broken = bool(set(way.lost) - {"members of the role"})
        assert bool(findings(restored, Level.ERROR)) == is_broken
        said = repair(restored, way.owner)
        assert way.lost or not [line for line in said if line.startswith("Repaired")]
        assert faults(restored, model, ground.story) == []
        assert fingerprint(restored.superuser_url) == model.catalog
        assert findings(restored, Level.ERROR) == []
        # The copy is complete but was made elsewhere, so revoked keys may be active again.
        warned = findings(restored, Level.WARNING)
        assert warned == [f"installed_elsewhere installation {installation_id(restored)}"]
        # The rows are the same as before: no trigger wrote an event for a restored key.
        found = rows(restored)
        for name, before in ground.story.rows.items():
            if name.startswith("keylatch"):
                assert found[name] == before, name
        if way.restore in AUDITED:
            with psycopg.connect(restored.superuser_url) as owner:
                assert audit(owner).differences == ()
        use_every_call(restored, ground.story)
        at = Program(ground.directory, {"DATABASE_URL": restored.superuser_url}, is_preloaded=True)
        assert at("installation", "renew").out == f"{installation_id(restored)}\n"
        assert findings(restored, Level.WARNING) == []


def findings(database: Database, level: Level) -> list[str]:
    """Return the doctor's findings of this level."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        found = examine(connection).findings
    return [f"{one.slug} {one.subject}" for one in found if one.level is level]


def installation_id(database: Database) -> str:
    with connected(database.superuser_url) as owner:
        [row] = owner.execute("select id from keylatch_internal.installation").fetchall()
    return str(row.id)


def test_a_script_that_finds_nothing_to_mend_changes_nothing(ground: Ground, model: Model) -> None:
    with_role(ground.target, exists=True)
    with migrated(ground) as database:
        said = run(
            "psql", database, "-q", "-f", ROOT / "sql/ops/after_restore.sql", user="postgres"
        )
        assert said == ""
        assert fingerprint(database.superuser_url) == model.catalog


def test_a_restore_that_ended_early_leaves_no_trigger_disabled(
    ground: Ground, model: Model
) -> None:
    with_role(ground.target, exists=True)
    with migrated(ground) as database, connected(database.superuser_url) as superuser:

        def disabled() -> int:
            return len(superuser.execute(DISABLED).fetchall())

        superuser.execute(DISABLE.format("user").encode())
        assert disabled() > 30
        said = repair(database, "postgres")
        assert disabled() == 0
        assert any(line.startswith("Repaired trigger, ") for line in said)
        assert said[-1].startswith("keylatch is whole.\n")
        assert all(len(line) < 80 for line in said[-1].splitlines())
        assert fingerprint(database.superuser_url) == model.catalog

        # Only a superuser can disable or enable the triggers of foreign keys.
        superuser.execute(DISABLE.format("all").encode())
        before = disabled()
        with pytest.raises(psycopg.Error, match="not whole: postgres may not enable the trigger"):
            repair(database, "postgres")
        assert disabled() == before
        repair(database)
        assert disabled() == 0
        assert fingerprint(database.superuser_url) == model.catalog


def test_the_script_is_for_the_owner_and_for_its_own_release(ground: Ground) -> None:
    with_role(ground.target, exists=True)
    with migrated(ground) as database:
        script = (ROOT / "sql/ops/after_restore.sql").read_bytes()
        with (
            database.connect("service_role") as stranger,
            pytest.raises(psycopg.Error, match="is not the owner of keylatch"),
        ):
            stranger.execute(script)
        with psycopg.connect(database.url) as owner:
            owner.execute("update keylatch_internal.installation set schema_version = '9.0.0'")
            with pytest.raises(psycopg.Error, match="another release"):
                owner.execute(script)


def test_yesterdays_dump_brings_back_what_was_revoked_today(ground: Ground) -> None:
    with_role(ground.target, exists=True)
    with clean(ground) as restored, connected(restored.superuser_url) as owner:
        later = owner.execute(
            "select * from keylatch.resolve_key(%s)", [ground.story.keys["later"]]
        ).fetchone()
        assert later, "if this holds one day, the guide and after_restore.sql say too much"


def test_data_alone_in_ordinary_mode_is_refused_and_the_hint_names_the_mode(
    ground: Ground,
) -> None:
    with_role(ground.target, exists=True)
    data = ground.dump("--data-only", "--table=keylatch_internal.key_events")
    with migrated(ground) as database, pytest.raises(AssertionError) as refused:
        psql(database, data, user="postgres")
    assert "events_are_kept" in str(refused.value)
    assert "set session_replication_role = replica;" in str(refused.value)


def test_a_copy_of_the_schema_alone_names_the_script_and_works_after_it(ground: Ground) -> None:
    with_role(ground.target, exists=True)
    with schema_only(ground) as copy:
        with psycopg.connect(copy.url) as owner, pytest.raises(psycopg.Error) as refused:
            owner.execute("select keylatch.installation()")
        assert refused.value.diag.message_primary == "restore_incomplete"
        assert "after_restore.sql" in str(refused.value.diag.message_hint)
        repair(copy, "postgres")
        with connected(copy.url) as owner:
            row = owner.execute("select * from keylatch.installation()").fetchone()
            assert row and set(row.modules) == set(_modules(ground))
            sizes = {name: len(content) for name, content in rows(copy).items()}
        # The copy has no keys that could be active again, so the doctor does not warn.
        assert findings(copy, Level.WARNING) == []
    for name in ("errors", "installation", "event_settings", "session_limits", "legacy_settings"):
        table = f"keylatch_internal.{name}"
        assert sizes[table] == len(ground.story.rows[table])


def _modules(ground: Ground) -> list[str]:
    with connected(ground.source.url) as owner:
        row = owner.execute("select * from keylatch.installation()").fetchone()
    assert row
    return list(row.modules)


def test_an_adoption_goes_on_after_a_restore_of_a_table_that_had_dropped_a_column(
    ground: Ground,
) -> None:
    with Database(ground.source.server, "adopting") as first:
        with connected(first.url) as owner:
            owner.execute(
                "create table public.tenants (gone text, id integer primary key, api_key text);"
                "create index on public.tenants (api_key);"
                "insert into public.tenants (id, api_key) select n, 'key ' || n"
                " from generate_series(1, 300) as n;"
                "alter table public.tenants drop column gone"
            )
            for path in sorted((ROOT / "sql" / "adoption").glob("[0-9]*.sql")):
                owner.execute(path.read_bytes())
            owner.execute("select keylatch_adoption.adopt_column('public.tenants', 'api_key')")
        dump = ground.dump(source=first)
    with ground.database() as restored:
        psql(restored, dump, atomic=False)
        names = ["public.tenants", "api_key"]
        with connected(restored.url) as owner:
            owner.execute("insert into public.tenants values (301, 'key 301')")
            is_done = False
            while not is_done:
                [progress] = owner.execute(
                    "select * from keylatch_adoption.hash_rows(%s, %s)", names
                ).fetchall()
                is_done = progress.is_done
            for (statement,) in owner.execute(
                "select keylatch_adoption.index_statements(%s, %s)", names
            ).fetchall():
                owner.execute(statement)
            owner.execute("select keylatch_adoption.read_by_hash(%s, %s)", names)
            found = owner.execute(
                "select t.id from keylatch_adoption.adopted_rows("
                "null::public.tenants, 'api_key', 'key 301') as t"
            ).fetchone()
            assert found and found.id == 301
