"""`make release`, simulated: what it refuses and writes, and the upgrade after it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keylatch_cli.install.migrations import shipped
from stack.tools import ROOT
from tools.release import changed_upgrades

pytestmark = pytest.mark.one_server

GIT = shutil.which("git") or "git"
# What the next release adds to the core.
NOTE = """
alter table keylatch_internal.keys add column note text;
comment on column keylatch_internal.keys.note is 'A note.';
"""
# A waiting key has the columns of the keys: a new installation copies them.
BOTH_NOTES = f"""-- module: legacy
alter table keylatch_internal.legacy_keys add column note text;
comment on column keylatch_internal.legacy_keys.note is 'A note.';
-- module: core{NOTE}"""
UPGRADE = "sql/upgrades/0.1.0--0.2.0.sql"


class Tree:
    """A clone of this project, whose tests are said to be green."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        subprocess.run([GIT, "clone", "--quiet", ROOT, directory], check=True)
        for name in (".venv", "tests/node_modules"):
            (directory / name).symlink_to(ROOT / name)
        self.git("config", "user.name", "A founder")
        self.git("config", "user.email", "founder@example.com")
        (directory / ".git" / "info" / "exclude").write_text(".venv\nnode_modules\ndist\n")
        self.tests("true")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            [GIT, "-C", self.directory, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", name)

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def tests(self, command: str) -> None:
        """Let `make test` be that."""
        self.write("Makefile", f"test:\n\t@{command}\n")

    def release(self, version: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tools.release", version],
            cwd=self.directory,
            capture_output=True,
            text=True,
            # The client of the clone, and not of this project.
            env={
                **os.environ,
                "COLUMNS": "1000",
                "PYTHONPATH": os.pathsep.join(
                    str(self.directory / name) for name in ("python_client/src", "tests")
                ),
            },
        )
        return done.returncode, done.stdout + done.stderr[-2000:]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield Tree(tmp_path / "project")
    shutil.rmtree(tmp_path / "project")


def test_no_released_upgrade_was_changed() -> None:
    assert changed_upgrades() == []


def test_a_release_that_is_not_ready_is_refused(tree: Tree) -> None:
    for version in ("1", "v1.0.0", "1.0", "1.0.0-rc.1", "01.0.0"):
        assert tree.release(version)[1].startswith(f"No release: {version} is not a version")
    (tree.directory / "README.md").write_text("changed")
    assert tree.release("0.1.0") == (
        1,
        "No release: The tree has changes that are not committed.\n",
    )
    tree.git("checkout", "README.md")
    tree.tests("false")
    assert "No release: A test is red." in tree.release("0.1.0")[1]
    tree.tests("true")
    assert f"The schema says that it is {shipped().version}" in tree.release("0.3.0")[1]
    tree.write("CHANGELOG.md", "# Changelog\n\n## Unreleased\n\n## 0.0.1\n\nIt began.\n")
    assert "says nothing under Unreleased" in tree.release("0.1.0")[1]
    assert tree.git("tag") == ""


def test_a_release_and_the_upgrade_to_the_next_one(tree: Tree) -> None:
    code, said = tree.release("0.1.0")
    assert code == 0, said
    assert "v0.1.0 is tagged" in said
    assert tree.git("tag") == "v0.1.0\n"
    assert tree.git("status", "--porcelain") == ""
    files = {path.name for path in (tree.directory / "python_client" / "dist").iterdir()}
    assert files == {"keylatch-0.1.0.tar.gz", "keylatch-0.1.0-py3-none-any.whl"}
    assert "## Unreleased\n\n## 0.1.0 - 20" in tree.read("CHANGELOG.md")
    assert "is not newer than v0.1.0" in tree.release("0.1.0")[1]

    # The next one changes the schema.
    changelog = tree.read("CHANGELOG.md")
    tree.write("CHANGELOG.md", changelog.replace("Unreleased\n", "Unreleased\n\n- A note.\n", 1))
    migrations = tree.directory / "supabase" / "migrations"
    first, last = (
        str(next(migrations.glob(f"*_keylatch_{name}.sql")).relative_to(tree.directory))
        for name in ("base", "resolve")
    )
    tree.write(last, tree.read(last) + NOTE)
    assert "The schema says that it is 0.1.0" in tree.release("0.2.0")[1]
    base = tree.read(first)
    assert base.count("values ('0.1.0')") == 1
    tree.write(first, base.replace("values ('0.1.0')", "values ('0.2.0')"))
    manifest = "python_client/src/keylatch_cli/doctor/manifest.json"
    text = tree.read(manifest)
    assert text.count('"schema_version": "0.1.0"') == 1
    tree.write(manifest, text.replace('"schema_version": "0.1.0"', '"schema_version": "0.2.0"'))
    assert "no_upgrade" in tree.release("0.2.0")[1]
    # The upgrade forgets the comment.
    tree.write(UPGRADE, BOTH_NOTES.rpartition("comment")[0])
    assert "An upgrade from v0.1.0 ends elsewhere: comment" in tree.release("0.2.0")[1]
    tree.write(UPGRADE, BOTH_NOTES)
    code, said = tree.release("0.2.0")
    assert code == 0, said
    assert said.count("upgraded from v0.1.0: the same, every key kept, its client works") == 2
    assert '__version__ = "0.2.0"' in tree.read("python_client/src/keylatch/__init__.py")

    # What was released is what databases have run.
    tree.write("CHANGELOG.md", changelog.replace("Unreleased\n", "Unreleased\n\n- More.\n", 1))
    tree.write(UPGRADE, f"{BOTH_NOTES}\n")
    assert f"Released upgrades were changed: {UPGRADE}" in tree.release("0.3.0")[1]
