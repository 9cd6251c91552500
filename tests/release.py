"""`make release VERSION=…`: check all that a release promises, write what it needs, and tag it.

It refuses on a tree that is not committed, on a red test, on a released migration that was
changed, and on an upgrade that does not end where a fresh installation does. Nothing leaves the
machine: look at the commit, the tag and the packages, and push them yourself.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from rich.console import Console

from database.fingerprint import access, fingerprint
from stack import Database, Janitor, People, Server, push_migrations
from stack.tools import ROOT

MIGRATIONS = ROOT / "supabase" / "migrations"
RELEASED = ROOT / "supabase" / "released.sha256"
CHANGELOG = ROOT / "CHANGELOG.md"
INIT = ROOT / "python_client" / "src" / "keylatch" / "__init__.py"
GIT = shutil.which("git") or "git"
PACKAGES = ROOT / "python_client" / "dist"
UNRELEASED = "## Unreleased\n"
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
# All that an upgrade has to keep, with what a key is known by.
KEPT = """
select to_jsonb(k) from keylatch_internal.keys as k order by k.id
"""
# What the program of a release does all day.
PREVIOUS_CLIENT = """
import os, sys, uuid
import psycopg
from keylatch import Keylatch

connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
admin = Keylatch.from_psycopg(connection)
workspace = uuid.UUID(sys.argv[1])
issued = admin.issue(workspace, kind="secret")
assert admin.resolve(issued.key).key_id == issued.id
successor = admin.rotate(issued.id)
assert admin.resolve(issued.key) is None
assert admin.explain(successor.key).verdict == "valid"
assert admin.revoke(successor.id).already_revoked is False
assert admin.resolve(successor.key) is None
assert {key.id for key in admin.list(workspace)} >= {issued.id, successor.id}
"""


class Refused(Exception):
    """Why there is no release, in a sentence."""


def git(*arguments: str) -> str:
    """What git says of this tree."""
    done = subprocess.run([GIT, "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def released() -> dict[str, str]:
    """The hash of each migration that was released, by its name."""
    if not RELEASED.exists():
        return {}
    pairs = (line.split("  ", 1) for line in RELEASED.read_text().splitlines())
    return {name: hashed for hashed, name in pairs}


def hashes() -> dict[str, str]:
    """The hash of each migration that there is, by its name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(MIGRATIONS.glob("*.sql"))
    }


def changed_migrations() -> list[str]:
    """The released migrations that are not what they were: a database has run the old ones."""
    now = hashes()
    return [name for name, hashed in released().items() if now.get(name) != hashed]


def last_release() -> str | None:
    """The tag of the newest release."""
    tags = git("tag", "--list", "v*", "--sort=-version:refname").splitlines()
    return tags[0] if tags else None


def check(version: str) -> None:
    """Refuse what can be seen without running anything."""
    last = last_release()
    if not VERSION.fullmatch(version):
        raise Refused(f"{version} is not a version such as 1.2.3.")
    if last and numbers(version) <= numbers(last[1:]):
        raise Refused(f"{version} is not newer than {last}.")
    if git("status", "--porcelain"):
        raise Refused("The tree has changes that are not committed.")
    if changed := changed_migrations():
        raise Refused(f"Released migrations were changed: {', '.join(changed)}.")
    early = [name for name in hashes() if released() and name < max(released())]
    if unknown := set(early) - released().keys():
        raise Refused(f"A migration stands before released ones: {', '.join(sorted(unknown))}.")
    if not notes():
        raise Refused("CHANGELOG.md says nothing under Unreleased.")


def numbers(version: str) -> tuple[int, ...]:
    """A version to compare with."""
    return tuple(int(part) for part in version.split("."))


def notes() -> str:
    """What the changelog says of this release."""
    _, _, rest = CHANGELOG.read_text().partition(UNRELEASED)
    return rest.partition("\n## ")[0].strip()


def prove_upgrade(version: str) -> str:
    """Install afresh; and the last release, and upgrade that. Give what was compared."""
    last = last_release()
    janitor = Janitor()
    with Server(janitor=janitor) as server, Database(server, "fresh") as fresh:
        fresh.migrate()
        lines = fingerprint(fresh.url) + access(fresh.url)
        assert len(lines) > 100, "the catalog was not read"
        with psycopg.connect(fresh.url) as owner:
            found = owner.execute("select schema_version from keylatch.installation()").fetchone()
        if found != (version,):
            raise Refused(
                f"The schema says that it is {found and found[0]}: let a migration set"
                f" schema_version in keylatch_internal.installation to {version}."
            )
        said = f"{len(lines):,} lines of catalog"
        if last:
            with TemporaryDirectory() as directory, Database(server, "upgraded") as upgraded:
                said = f"{said}; {_upgrade(upgraded, last, Path(directory), lines)}"
    janitor.close()
    return said


def _upgrade(database: Database, last: str, old: Path, expected: list[str]) -> str:
    archive = subprocess.run(
        [GIT, "-C", ROOT, "archive", last, "supabase", "python_client"],
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(old, filter="data")
    database.server.install_platform(database.name)
    push_migrations(database.url, old)
    People.seed(database.url)
    with psycopg.connect(database.url, autocommit=True) as owner:
        for kind in ("secret", "secret", "publishable"):
            owner.execute(
                "select from keylatch.issue_key(%s, %s, allowed_origins => %s)",
                [People.a, kind, ["https://a.example"] if kind == "publishable" else []],
            )
        owner.execute("select from keylatch.keys, keylatch.revoke_key(id) limit 1")
        before = owner.execute(KEPT).fetchall()
    client_knows_an_old_schema(database)
    push_migrations(database.url)
    with psycopg.connect(database.url) as owner:
        after = owner.execute(KEPT).fetchall()
    lost = [
        old for (old,), (new,) in zip(before, after, strict=True) if not old.items() <= new.items()
    ]
    if lost or len(before) != 3:
        raise Refused(f"The upgrade from {last} does not keep every key.")
    lines = fingerprint(database.url) + access(database.url)
    if differ := sorted(set(lines) ^ set(expected)):
        raise Refused(f"An upgrade from {last} ends elsewhere: {differ[0]}")
    environment = {**os.environ, "DATABASE_URL": database.url}
    environment["PYTHONPATH"] = str(old / "python_client" / "src")
    client = subprocess.run(
        [sys.executable, "-c", PREVIOUS_CLIENT, str(People.a)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if client.returncode:
        raise Refused(f"The client of {last} does not work on this schema: {client.stderr[-300:]}")
    return f"upgraded from {last}: the same, {len(before)} keys kept, its client works"


def client_knows_an_old_schema(database: Database) -> None:
    """Refuse a client whose doctor does not say that the schema is older than it."""
    environment = {**os.environ, "DATABASE_URL": database.url}
    environment["PYTHONPATH"] = str(INIT.parents[1])
    doctor = subprocess.run(
        [sys.executable, "-c", "from keylatch.cli import main; main()", "doctor"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if "is older than this client" not in " ".join(doctor.stdout.split()):
        raise Refused("keylatch doctor does not say that the schema is older than the client.")


def write(version: str) -> None:
    """Write the version, the changelog's heading and the hashes; build; commit and tag."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    text = CHANGELOG.read_text()
    CHANGELOG.write_text(text.replace(UNRELEASED, f"{UNRELEASED}\n## {version} - {today}\n", 1))
    INIT.write_text(
        re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', INIT.read_text(), count=1)
    )
    RELEASED.write_text("".join(f"{hashed}  {name}\n" for name, hashed in hashes().items()))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", PACKAGES],
        cwd=ROOT / "python_client",
        check=True,
        stdout=subprocess.DEVNULL,
    )
    git("add", "--all")
    git("commit", "--message", f"Release {version}")
    git("tag", "--annotate", f"v{version}", "--message", f"keylatch {version}")


def main() -> int:
    """Cut a release, or say why there is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    version: str = parser.parse_args().version
    console = Console(highlight=False)
    try:
        check(version)
        if subprocess.run([shutil.which("make") or "make", "test"], cwd=ROOT).returncode:
            raise Refused("A test is red.")
        console.print(prove_upgrade(version))
        write(version)
    except Refused as reason:
        console.print(f"No release: {reason}", markup=False)
        return 1
    console.print(f"v{version} is tagged; its packages are in python_client/dist. Push both.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
