"""The ways of restoring a database, and what each way loses."""

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg import sql

from security.restoring.ground import (
    SCHEMAS,
    Ground,
    pg_restore,
    psql,
    run,
    supabase_roles,
    supabase_schema,
)
from stack import Database, until
from stack.modules import migrations, module_names

REPLICA = "set session_replication_role = replica;\n"
# Rows that the migrations wrote would conflict with the same rows of a dump.
EMPTY = """
do $$
declare
  v_tables text;
begin
  select string_agg(c.oid::regclass::text, ', ') into v_tables
  from pg_catalog.pg_class as c
  where c.relnamespace = 'keylatch_internal'::regnamespace
    and c.relname in ('errors', 'installation')
    or c.relnamespace = 'keylatch_internal'::regnamespace
    and c.relname ~ '_(settings|limits)$' and c.relkind = 'r';
  execute 'truncate ' || v_tables;
end $$;
"""


@dataclass(frozen=True)
class Way:
    """A way of restoring.

    Attributes:
        title: The name of the way in the guide's table.
        restore: Restores the source and returns the new database.
        lost: What the way loses, as `story.faults` names it; empty if it works by itself.
        has_role: Whether the cluster has the role keylatch_resolver before the restore.
        owner: The role that owns keylatch afterwards and runs after_restore.sql.
    """

    title: str
    restore: Callable[[Ground], Database]
    lost: tuple[str, ...] = ()
    has_role: bool = True
    owner: str = "supabase_admin"


def plain(ground: Ground) -> Database:
    database = ground.database()
    psql(database, ground.dump(), atomic=False)
    return database


def custom(ground: Ground, *options: str, jobs: int = 1, fails: bool = False) -> Database:
    file = ground.file("custom.dump")
    ground.dump("--format=custom", f"--file={file}")
    database = ground.database()
    pg_restore(database, file, *options, f"--jobs={jobs}", fails=fails)
    return database


def parallel(ground: Ground) -> Database:
    return custom(ground, jobs=2)


def without_owner_and_privileges(ground: Ground) -> Database:
    """Restore keylatch alone. With the platform, the platform's grants would be lost, too."""
    file = ground.file("bare.dump")
    ground.dump("--format=custom", f"--file={file}", *SCHEMAS)
    database = seeded(ground)
    pg_restore(database, file, "--no-owner", "--no-privileges", user="postgres")
    return database


def without_role(ground: Ground) -> Database:
    """pg_restore sends all grants of an object at once, so one missing role loses them all."""
    return custom(ground, fails=True)


def clean(ground: Ground) -> Database:
    """Restore yesterday's dump over today's database."""
    database = custom(ground)
    with psycopg.connect(database.superuser_url) as today:
        later = ground.story.ids["later"]
        today.execute("select keylatch.revoke_key(%s)", [later])
    pg_restore(database, ground.file("custom.dump"), "--clean", "--if-exists")
    return database


def by_owner(ground: Ground) -> Database:
    """Restore as `postgres`, which is no superuser, into a project that has the platform."""
    file = ground.file("owner.dump")
    ground.dump("--format=custom", f"--file={file}", *SCHEMAS, user="postgres")
    database = seeded(ground)
    pg_restore(database, file, "--no-owner", user="postgres")
    return database


def selected_schemas(ground: Ground) -> Database:
    database = seeded(ground)
    psql(database, ground.dump(*SCHEMAS))
    return database


def seeded(ground: Ground) -> Database:
    """Return a project with the platform and the users."""
    database = ground.database(platform=True)
    psql(database, ground.dump("--data-only", "--table=auth.users"))
    return database


def three_parts(ground: Ground) -> Database:
    """Restore schema and data in one transaction, as Supabase documents. The roles exist."""
    database = seeded(ground)
    schema, data = (
        ground.dump(part, *SCHEMAS) + ground.dump(part, "--table=public.orders")
        for part in ("--schema-only", "--data-only")
    )
    psql(database, schema + REPLICA + data, user="postgres")
    return database


def supabase_files(ground: Ground) -> Database:
    """Restore the three files of `supabase db dump`: roles, schema and data."""
    excluded = ["--exclude-schema", "auth|extensions", "--quote-all-identifiers"]
    roles = supabase_roles(
        run(
            "pg_dumpall",
            ground.source,
            "--roles-only",
            "--no-comments",
            "--quote-all-identifiers",
            "--no-role-passwords",
        )
    )
    schema = supabase_schema(ground.dump("--schema-only", "--role=postgres", *excluded))
    data = ground.dump("--data-only", *excluded)
    database = seeded(ground)
    psql(database, roles + "\n" + schema + "\n" + REPLICA + data, user="postgres")
    return database


def migrated(ground: Ground) -> Database:
    database = seeded(ground)
    database.apply(migrations(*module_names(), tenancy=True))
    return database


def data_only(ground: Ground) -> Database:
    """Restore the data into a migrated database, like a seed.sql."""
    database = migrated(ground)
    psql(database, EMPTY + REPLICA + ground.dump("--data-only", *SCHEMAS), user="postgres")
    return database


def disabled_triggers(ground: Ground) -> Database:
    """Restore the data alone with the option that pg_dump suggests."""
    database = migrated(ground)
    psql(database, EMPTY + ground.dump("--data-only", "--disable-triggers", *SCHEMAS))
    return database


def schema_only(ground: Ground) -> Database:
    """Restore the schema without rows, as a developer's copy."""
    database = seeded(ground)
    psql(database, ground.dump("--schema-only", *SCHEMAS))
    return database


def template(ground: Ground) -> Database:
    """Copy a restored database on the same server."""
    first = custom(ground)
    copy = ground.database()
    with psycopg.connect(ground.target.superuser_url("postgres"), autocommit=True) as connection:
        names = sql.Identifier(copy.name), sql.Identifier(first.name)
        connection.execute(sql.SQL("drop database {}").format(names[0]))
        connection.execute(sql.SQL("create database {} template {}").format(*names))
        connection.execute(sql.SQL("drop database {}").format(names[1]))
    return copy


def logical_replication(ground: Ground) -> Database:
    """Move to a newer server without a pause: replicate, wait, and cut over."""
    database = ground.database()
    psql(database, ground.dump("--schema-only"))
    slot = database.name
    with psycopg.connect(ground.source.superuser_url, autocommit=True) as publisher:
        publisher.execute(f"create publication {slot} for all tables")
        with psycopg.connect(database.superuser_url, autocommit=True) as subscriber:
            subscriber.execute(
                sql.SQL("create subscription {0} connection {1} publication {0}").format(
                    sql.Identifier(slot), sql.Literal(ground.source.inner_url)
                )
            )

            def has_arrived() -> bool:
                states = subscriber.execute(
                    "select count(*) from pg_subscription_rel where srsubstate <> 'r'"
                ).fetchone()
                return states == (0,)

            until(has_arrived, "the first copy did not end")
            subscriber.execute(f"drop subscription {slot}")
        publisher.execute(f"drop publication {slot}")
    return database


WAYS = [
    Way("pg_dump, then psql", plain),
    Way("pg_dump -Fc, then pg_restore", custom),
    Way("pg_restore -j 2", parallel),
    Way("pg_restore --clean --if-exists over today's database", clean),
    Way(
        "pg_restore --no-owner --no-privileges",
        without_owner_and_privileges,
        lost=("grants", "open functions"),
        owner="postgres",
    ),
    Way(
        "pg_restore into a cluster without the role keylatch_resolver",
        without_role,
        lost=("grants", "open functions", "role"),
        has_role=False,
    ),
    Way("pg_restore --no-owner by postgres, no superuser", by_owner, owner="postgres"),
    Way("pg_dump -n keylatch -n keylatch_internal", selected_schemas, owner="postgres"),
    Way("schema, then data in replication mode, one transaction", three_parts, owner="postgres"),
    Way(
        "the three files of supabase db dump",
        supabase_files,
        lost=("members of the role",),
        has_role=False,
        owner="postgres",
    ),
    Way("data alone into a migrated database, in replication mode", data_only, owner="postgres"),
    Way(
        "data alone with --disable-triggers",
        disabled_triggers,
        lost=("triggers", "latch in replica mode"),
        owner="postgres",
    ),
    Way("create database … template", template),
    Way("logical replication with a cut-over", logical_replication),
]


def table() -> str:
    """Return the page of the guide that lists the ways."""
    lines = [_HEAD]
    for way in WAYS:
        cell = "by itself" if not way.lost else "after `sql/ops/after_restore.sql`"
        lines.append(f"| {way.title} | {cell} | {', '.join(way.lost) or 'nothing'} |\n")
    return "".join(lines)


_HEAD = """\
<!-- begins with: nothing -->
# Ways of restoring

`make generate` makes this page from tests/security/restoring. The tests run each way of restoring
on PostgreSQL 15, and from 15 to 17 (`create database … template` on both). Do not edit this page.

Some ways need the script `sql/ops/after_restore.sql`, as the table says. After each way, and after
the script, the tests check that a key which was revoked before the dump stays revoked, even in
replication mode; that the catalog equals a fresh installation; that the seals of the events verify;
that no event was added; that each call answers; and that `keylatch audit` and `keylatch doctor`
report no error. `doctor` warns that the installation was made elsewhere, until you run
`keylatch installation renew`.

A dump does not contain later revocations: keys that were revoked after the dump are active again.
You can restore data without its schema into a migrated database only in replication mode or with
`--disable-triggers`. First empty the tables that the migrations fill: errors, installation,
settings and limits in `keylatch_internal`.

Until you run the script, "open functions" means that everybody may execute internal functions,
but these functions refuse to answer (`restore_incomplete`). "Latch in replica mode" means that a
session which sets `session_replication_role` to `replica` can reactivate a revoked key.

| way of restoring | works | what is lost before the script |
|---|---|---|
"""
