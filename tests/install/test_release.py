"""`make release`, simulated: what it refuses and writes, and the upgrade after it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from release import changed_migrations, released
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

GIT = shutil.which("git") or "git"
NEXT = "supabase/migrations/20270101000000_keylatch_next.sql"
CHANGE = """
alter table keylatch_internal.keys add column note text;
comment on column keylatch_internal.keys.note is 'A note.';
update keylatch_internal.installation set schema_version = '0.2.0';
"""


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
            [sys.executable, "tests/release.py", version],
            cwd=self.directory,
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "1000"},
        )
        return done.returncode, done.stdout + done.stderr[-2000:]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield Tree(tmp_path / "project")
    shutil.rmtree(tmp_path / "project")


def test_no_released_migration_was_changed() -> None:
    assert changed_migrations() == []
    assert released() == {} or len(released()) > 10


def test_it_refuses_what_is_not_ready(tree: Tree) -> None:
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
    assert "The schema says that it is 0.1.0" in tree.release("0.3.0")[1]
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
    assert len(tree.read("supabase/released.sha256").splitlines()) > 10
    assert "is not newer than v0.1.0" in tree.release("0.1.0")[1]

    # The next one changes the schema; both say so.
    changelog = tree.read("CHANGELOG.md")
    tree.write("CHANGELOG.md", changelog.replace("Unreleased\n", "Unreleased\n\n- A note.\n", 1))
    tree.write(NEXT, CHANGE)
    manifest = "python_client/src/keylatch/manifest.json"
    text = tree.read(manifest)
    assert text.count('"schema_version": "0.1.0"') == 1
    tree.write(manifest, text.replace('"schema_version": "0.1.0"', '"schema_version": "0.2.0"'))

    # What was released is what databases have run.
    path = sorted((tree.directory / "supabase" / "migrations").glob("*.sql"))[3]
    name = str(path.relative_to(tree.directory))
    text = tree.read(name)
    tree.write(name, f"{text}\n")
    assert f"Released migrations were changed: {path.name}" in tree.release("0.2.0")[1]
    tree.write(name, text)
    early = "supabase/migrations/20261120000101_keylatch_early.sql"
    tree.write(early, "select 1;\n")
    assert "A migration stands before released ones" in tree.release("0.2.0")[1]
    tree.git("rm", "--quiet", early)
    tree.git("commit", "--quiet", "--message", "Not so early")

    code, said = tree.release("0.2.0")
    assert code == 0, said
    assert "upgraded from v0.1.0: the same, 3 keys kept, its client works" in said
    assert '__version__ = "0.2.0"' in tree.read("python_client/src/keylatch/__init__.py")
