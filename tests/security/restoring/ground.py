"""The programs that dump and restore, and the databases that they work on."""

import itertools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg

from security.restoring.story import Story
from stack import Cluster, Database
from stack.cluster import SUPERUSER
from stack.tools import ROOT, MissingTool

AFTER_RESTORE = ROOT / "sql" / "ops" / "after_restore.sql"
SCHEMAS = ("-n", "keylatch", "-n", "keylatch_internal")
_numbers = itertools.count(1)
# What `supabase db dump` leaves out, and how it rewrites the rest. Its dump_schema.sh and
# dump_role.sh do more, which does not matter here.
_SUPABASE_OWN = "information_schema|pg_*|auth|extensions|supabase_migrations|storage|realtime"
_SUPABASE_ROLES = "anon|authenticated|authenticator|postgres|service_role|supabase_.*"
_REWRITTEN = (
    (r'^CREATE (SCHEMA|TABLE|SEQUENCE) "', r'CREATE \1 IF NOT EXISTS "'),
    (r'^CREATE (VIEW|FUNCTION|TRIGGER) "', r'CREATE OR REPLACE \1 "'),
    (r'^(COMMENT ON EXTENSION |ALTER DEFAULT PRIVILEGES FOR ROLE "supabase_admin")', r"-- \g<0>"),
    (rf'^(GRANT|REVOKE) (.+) ON (.+) "({_SUPABASE_OWN})"', r"-- \g<0>"),
)


@dataclass
class Ground:
    """The source database, and the cluster to restore it into.

    Attributes:
        source: The database with the story, on PostgreSQL 15.
        target: The cluster to restore into. It is not the cluster of the source.
        story: The contents of the source.
        directory: The directory for the dump files.
    """

    source: Database
    target: Cluster
    story: Story
    directory: Path

    def database(self, *, platform: bool = False) -> Database:
        """Return a new database of the target, empty or with the platform of Supabase."""
        database = Database(self.target, f"restored_{next(_numbers)}")
        if platform:
            self.target.install_platform(database.name)
        return database

    def file(self, name: str) -> Path:
        """Return the path of a dump file."""
        return self.directory / name

    def dump(self, *options: str, source: Database | None = None, user: str = SUPERUSER) -> str:
        """Run pg_dump. Return its output, which is empty if the options name a file."""
        return run("pg_dump", source or self.source, *options, user=user)


def run(
    program: str,
    database: Database,
    *options: object,
    user: str = SUPERUSER,
    text: str | None = None,
    is_allowed_to_fail: bool = False,
) -> str:
    """Run a program of PostgreSQL against a database, and return its output."""
    path = shutil.which(program)
    if path is None:
        raise MissingTool(program)
    server = database.server
    done = subprocess.run(
        [path, *map(str, options)],
        env={
            **os.environ,
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": user,
            "PGPASSWORD": server.passwords[user],
            "PGDATABASE": database.name,
        },
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or is_allowed_to_fail, done.stderr[-3000:]
    return done.stdout + (done.stderr if is_allowed_to_fail else "")


def psql(database: Database, text: str, *, user: str = SUPERUSER, atomic: bool = True) -> None:
    """Run a script: in one transaction that the first error ends, or statement by statement."""
    options = ["--single-transaction", "--set=ON_ERROR_STOP=1"] if atomic else []
    run("psql", database, "--no-psqlrc", "-q", *options, user=user, text=text)


def pg_restore(
    database: Database, file: Path, *options: str, user: str = SUPERUSER, fails: bool = False
) -> str:
    """Restore a dump in the custom or the directory format."""
    arguments = ("--dbname", database.name, *options, file)
    return run("pg_restore", database, *arguments, user=user, is_allowed_to_fail=fails)


def repair(database: Database, user: str = SUPERUSER) -> list[str]:
    """Run after_restore.sql, and return its notices."""
    notices: list[str] = []
    with psycopg.connect(database.server.url(database.name, user)) as owner:
        owner.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        owner.execute(AFTER_RESTORE.read_bytes())
    return notices


def supabase_schema(text: str) -> str:
    """Rewrite a dump of the schema like `supabase db dump`."""
    for pattern, replacement in _REWRITTEN:
        text = re.sub(pattern, replacement, text, flags=re.M)
    return text


def supabase_roles(text: str) -> str:
    """Rewrite a dump of a cluster's roles like `supabase db dump --role-only`."""
    own = re.compile(
        rf'^(CREATE|ALTER) ROLE "({_SUPABASE_ROLES})"|^GRANT ".*" TO "({_SUPABASE_ROLES})"'
    )
    kept = [line for line in text.splitlines() if line and not own.match(line)]
    kept = [line for line in kept if not line.startswith(("--", "SET", "GRANT SET", "\\"))]
    # Only superusers may set these. On hosted Supabase, an extension lets postgres set the last.
    return re.sub(" (NO)?(SUPERUSER|REPLICATION|BYPASSRLS)", "", "\n".join(kept))


def with_role(cluster: Cluster, *, exists: bool) -> None:
    """Create keylatch_resolver in a cluster, as a dump of its roles would, or drop it."""
    with psycopg.connect(cluster.superuser_url("postgres"), autocommit=True) as connection:
        connection.execute("drop role if exists keylatch_resolver")
        if exists:
            connection.execute("create role keylatch_resolver noinherit")
            connection.execute("grant keylatch_resolver to authenticator, postgres")
