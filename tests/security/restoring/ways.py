"""The ways in which people restore a database, and what is expected of each."""

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
# What the migrations wrote into a database is in the way of the same rows of a dump.
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
        title: As the table says it.
        restore: Does it, and gives the restored database.
        lost: What it loses, as `story.faults` names it; nothing where it works by itself.
        has_role: Whether the cluster has the role keylatch_resolver before.
        owner: Who owns keylatch afterwards, and runs after_restore.sql.
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
    """Of keylatch alone: with the platform, its grants would be lost, too."""
    file = ground.file("bare.dump")
    ground.dump("--format=custom", f"--file={file}", *SCHEMAS)
    database = seeded(ground)
    pg_restore(database, file, "--no-owner", "--no-privileges", user="postgres")
    return database


def without_role(ground: Ground) -> Database:
    """pg_restore sends all grants of an object at once: one missing role, and all are lost."""
    return custom(ground, fails=True)


def clean(ground: Ground) -> Database:
    """Yesterday's dump over today's database."""
    database = custom(ground)
    with psycopg.connect(database.superuser_url) as today:
        later = ground.story.ids["later"]
        today.execute("select keylatch.revoke_key(%s)", [later])
    pg_restore(database, ground.file("custom.dump"), "--clean", "--if-exists")
    return database


def by_owner(ground: Ground) -> Database:
    """By `postgres`, who is no superuser, into a project that has the platform."""
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
    """A project with the platform and the users."""
    database = ground.database(platform=True)
    psql(database, ground.dump("--data-only", "--table=auth.users"))
    return database


def three_parts(ground: Ground) -> Database:
    """Roles, schema and data in one transaction: what Supabase documents."""
    database = seeded(ground)
    schema, data = (
        ground.dump(part, *SCHEMAS) + ground.dump(part, "--table=public.orders")
        for part in ("--schema-only", "--data-only")
    )
    psql(database, schema + REPLICA + data, user="postgres")
    return database


def supabase_files(ground: Ground) -> Database:
    """The three files of `supabase db dump`, each as it writes them."""
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
    """The data into a database that the migrations made, as a seed.sql does it."""
    database = migrated(ground)
    psql(database, EMPTY + REPLICA + ground.dump("--data-only", *SCHEMAS), user="postgres")
    return database


def disabled_triggers(ground: Ground) -> Database:
    """What pg_dump itself suggests for data alone."""
    database = migrated(ground)
    psql(database, EMPTY + ground.dump("--data-only", "--disable-triggers", *SCHEMAS))
    return database


def schema_only(ground: Ground) -> Database:
    """A copy of the schema alone, for a developer; there are no rows."""
    database = seeded(ground)
    psql(database, ground.dump("--schema-only", *SCHEMAS))
    return database


def template(ground: Ground) -> Database:
    """A copy on the same server."""
    first = custom(ground)
    copy = ground.database()
    with psycopg.connect(ground.target.superuser_url("postgres"), autocommit=True) as connection:
        names = sql.Identifier(copy.name), sql.Identifier(first.name)
        connection.execute(sql.SQL("drop database {}").format(names[0]))
        connection.execute(sql.SQL("create database {} template {}").format(*names))
        connection.execute(sql.SQL("drop database {}").format(names[1]))
    return copy


def logical_replication(ground: Ground) -> Database:
    """The move to a newer server without a pause: replicate, wait, and cut over."""
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
    """The ways as a page of the guide shows them."""
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
You can restore data without its schema into a migrated database only in replication mode. First
empty the tables that the migrations fill: errors, installation, settings and limits in
`keylatch_internal`.

Until you run the script, "open functions" means that everybody may execute internal functions,
but these functions refuse to answer (`restore_incomplete`). "Latch in replica mode" means that a
session which sets `session_replication_role` to `replica` can reactivate a revoked key.

| way of restoring | works | what is lost before the script |
|---|---|---|
"""
