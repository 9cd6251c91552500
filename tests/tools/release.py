"""`make release VERSION=…`: check the release, write the version, build the packages and tag.

The command refuses a tree with uncommitted changes, a failed test, a change of a released upgrade,
an upgrade whose result differs from a fresh installation, and packages that differ from a build of
the commit alone. It pushes nothing: check the commit, the tag and the packages, then push them
yourself.
"""

from __future__ import annotations

import argparse
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

from core.fingerprint import fingerprint
from keylatch.errors import KeylatchError
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice, Tenancy, shipped
from stack import Database, Janitor, People, Server
from stack.tools import ROOT
from tools.bill import Unlocked, write_bill

UPGRADES = "sql/upgrades"
# The sources of the schema. A change in them needs a new schema version and an upgrade to it.
SCHEMA = ("supabase/migrations", "sql/modules.toml")
# The installations that are upgraded: the largest and the smallest.
KINDS: tuple[tuple[tuple[str, ...], Choice, Tenancy], ...] = (
    (("--all",), Choice(all=True), "keylatch"),
    (("--only", "core"), Choice(only=("core",)), "own"),
)
CHANGELOG = ROOT / "CHANGELOG.md"
INIT = ROOT / "python_client" / "src" / "keylatch" / "__init__.py"
GIT = shutil.which("git") or "git"
PACKAGES = ROOT / "python_client" / "dist"
UNRELEASED = "## Unreleased\n"
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
# The rows that an upgrade must keep.
KEPT = """
select to_jsonb(k) from keylatch_internal.keys as k order by k.id
"""
PROGRAM = "from keylatch_cli import main; main()"
# Typical calls of a program that uses a release.
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
    """The release is refused; the message is the reason."""


def git(*arguments: str, **variables: str) -> str:
    """The output of git in this repository."""
    done = subprocess.run(
        [GIT, "-C", ROOT, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def changed_upgrades() -> list[str]:
    """The released upgrades that were changed; databases may have run the old text."""
    last = last_release()
    if last is None:
        return []
    found = git("diff", "--name-only", "--diff-filter=a", last, "--", f"{UPGRADES}/*.sql")
    return found.splitlines()


def is_schema_changed(last: str | None) -> bool:
    """Whether the schema differs from the schema of the last release."""
    return last is None or git("diff", "--name-only", last, "--", *SCHEMA) != ""


def last_release() -> str | None:
    """The tag of the newest release."""
    tags = git("tag", "--list", "v*", "--sort=-version:refname").splitlines()
    return tags[0] if tags else None


def check(version: str) -> None:
    """Refuse a release for all reasons that are visible before any test runs."""
    last = last_release()
    if not VERSION.fullmatch(version):
        raise Refused(f"{version} is not a version such as 1.2.3.")
    if last and numbers(version) <= numbers(last[1:]):
        raise Refused(f"{version} is not newer than {last}.")
    if git("status", "--porcelain"):
        raise Refused("The tree has changes that are not committed.")
    if changed := changed_upgrades():
        raise Refused(f"Released upgrades were changed: {', '.join(changed)}.")
    if is_schema_changed(last) and shipped().version != version:
        raise Refused(
            f"The schema says that it is {shipped().version}: write {version} into the first "
            "migration, where it inserts into keylatch_internal.installation."
        )
    if not notes():
        raise Refused("CHANGELOG.md says nothing under Unreleased.")


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, to compare."""
    return tuple(int(part) for part in version.split("."))


def notes() -> str:
    """The text of the changelog about this release."""
    _, _, rest = CHANGELOG.read_text().partition(UNRELEASED)
    return rest.partition("\n## ")[0].strip()


def prove_upgrade() -> str:
    """Compare a fresh install with the last release after its upgrade; return a description."""
    last = last_release()
    janitor = Janitor()
    said = []
    with Server(janitor=janitor) as server, TemporaryDirectory() as directory:
        if last:
            unpack(last, Path(directory))
        for options, choice, tenancy in KINDS:
            with Database(server, "fresh") as fresh:
                server.install_platform(fresh.name)
                apply(fresh.connect(), choice, tenancy)
                lines = fingerprint(fresh.url)
                assert len(lines) > 100, "the catalog was not read"
            said.append(f"{len(lines):,} lines of catalog with {' '.join(options)}")
            if last:
                with Database(server, "upgraded") as upgraded:
                    server.install_platform(upgraded.name)
                    upgrade(upgraded, last, Path(directory), (*options, "--tenancy", tenancy))
                    if differ := sorted(set(fingerprint(upgraded.url)) ^ set(lines)):
                        raise Refused(f"An upgrade from {last} ends elsewhere: {differ[0]}")
                said.append(f"upgraded from {last}: the same, every key kept, its client works")
    janitor.close()
    return "; ".join(said)


def unpack(last: str, directory: Path) -> None:
    """Extract the files that install and use a release into a directory."""
    archive = subprocess.run(
        [GIT, "-C", ROOT, "archive", last, "sql", "supabase", "python_client"],
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")


def upgrade(database: Database, last: str, old: Path, options: tuple[str, ...]) -> None:
    """Install the last release with its own program, use it, upgrade it, and use it again."""
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute(python(PROGRAM, old / "python_client" / "src", "sql", *options).encode())
        for kind in ("secret", "secret", "publishable"):
            owner.execute(
                "select from keylatch.issue_key(%s, %s, allowed_origins => %s)",
                [People.a, kind, ["https://a.example"] if kind == "publishable" else []],
            )
        owner.execute("select from keylatch.keys, keylatch.revoke_key(id) limit 1")
        before = owner.execute(KEPT).fetchall()
        if is_schema_changed(last):
            client_knows_an_old_schema(database)
        apply(owner)
        after = owner.execute(KEPT).fetchall()
    lost = [
        old for (old,), (new,) in zip(before, after, strict=True) if not old.items() <= new.items()
    ]
    if lost or len(before) != 3:
        raise Refused(f"The upgrade from {last} does not keep every key.")
    try:
        source = old / "python_client" / "src"
        python(PREVIOUS_CLIENT, source, str(People.a), DATABASE_URL=database.url)
    except subprocess.CalledProcessError as failed:
        said = failed.stderr[-300:]
        raise Refused(f"The client of {last} does not work on this schema: {said}") from None


def python(program: str, source: Path, *arguments: str, **variables: str) -> str:
    """Run a program with the client in a directory, and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(source), **variables}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def client_knows_an_old_schema(database: Database) -> None:
    """Refuse the release unless `keylatch doctor` says that the schema is older than the client."""
    environment = {**os.environ, "DATABASE_URL": database.url}
    environment["PYTHONPATH"] = str(INIT.parents[1])
    doctor = subprocess.run(
        [sys.executable, "-c", PROGRAM, "doctor"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if "is older than this client" not in " ".join(doctor.stdout.split()):
        raise Refused("keylatch doctor does not say that the schema is older than the client.")


def write(version: str) -> None:
    """Write the version and the changelog's heading; build; commit and tag."""
    now = datetime.now(UTC)
    text = CHANGELOG.read_text()
    CHANGELOG.write_text(
        text.replace(UNRELEASED, f"{UNRELEASED}\n## {version} - {now:%Y-%m-%d}\n", 1)
    )
    INIT.write_text(
        re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', INIT.read_text(), count=1)
    )
    git("add", "--all")
    epoch = int(now.timestamp())
    build_twice(epoch)
    # A build of the tag with the time of its commit makes the same packages.
    git("commit", "--message", f"Release {version}", GIT_COMMITTER_DATE=f"{epoch} +0000")
    git("tag", "--annotate", f"v{version}", "--message", f"keylatch {version}")


def build_twice(epoch: int) -> None:
    """Build here and from the committed files alone; refuse packages that differ."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    with TemporaryDirectory() as directory:
        git("checkout-index", "--all", f"--prefix={directory}/")
        clean = build(Path(directory) / "python_client", epoch)
        ours = build(PACKAGES.parent, epoch)
        for name in sorted(ours | clean):
            if ours.get(name) != clean.get(name):
                raise Refused(f"{name} is another one when it is built from the commit alone.")
    wheel, sdist = (PACKAGES / name for name in sorted(ours))
    write_bill(wheel, sdist, epoch)


def build(source: Path, epoch: int) -> dict[str, bytes]:
    """Build the wheel and the sdist, and return their bytes by name."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", source / PACKAGES.name],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Refused(f"The packages are not built: {done.stderr}")
    return {path.name: path.read_bytes() for path in (source / PACKAGES.name).iterdir()}


def main() -> int:
    """Make a release, or print why it is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    version: str = parser.parse_args().version
    console = Console(highlight=False)
    try:
        check(version)
        if subprocess.run([shutil.which("make") or "make", "test"], cwd=ROOT).returncode:
            raise Refused("A test is red.")
        console.print(prove_upgrade())
        write(version)
    except (Refused, Unlocked, KeylatchError) as reason:
        console.print(f"No release: {reason}", markup=False)
        return 1
    console.print(
        f"v{version} is tagged. In python_client/dist are its packages, which were built twice "
        "to the same bytes, and their SBOM. Push all of it.",
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
