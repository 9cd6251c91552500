"""A simulated `make release`: its refusals, what it writes, and the upgrade to the next release."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema_rs
import pytest

from keylatch_cli.install.migrations import shipped
from stack.tools import ROOT
from tools.release import Refused, changed_upgrades, check

pytestmark = [pytest.mark.one_server, pytest.mark.long]

GIT = shutil.which("git") or "git"
CYCLONEDX = Path(cyclonedx.schema.__file__).parent / "_res"
# What the next release adds to the core.
NOTE = """
alter table keylatch_internal.keys add column note text;
comment on column keylatch_internal.keys.note is 'A note.';
"""
UPGRADE = "sql/upgrades/0.1.0--0.2.0.sql"


class Tree:
    """A clone of this project, whose `make test` is replaced by a command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        subprocess.run([GIT, "clone", "--quiet", ROOT, directory], check=True)
        for name in (".venv", "tests/node_modules"):
            (directory / name).symlink_to(ROOT / name)
        self.git("config", "user.name", "A founder")
        self.git("config", "user.email", "founder@example.com")
        (directory / ".git" / "info" / "exclude").write_text(".venv\nnode_modules\ndist\n_*.py\n")
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
        """Replace `make test` by this command."""
        self.write("Makefile", f"test:\n\t@{command}\n")

    def release(self, version: str) -> tuple[int, str]:
        return self.python("-m", "tools.release", version)

    def python(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            # PYTHONPATH selects the client of the clone, and not of this project.
            env={
                # Do not pass options such as -i on from the make that runs the tests.
                **{name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
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
    assert tree.release("1.0")[1].startswith("No release: 1.0 is not a version")
    for version in ("1", "v1.0.0", "1.0.0-rc.1", "01.0.0"):
        with pytest.raises(Refused, match=f"{version} is not a version"):
            check(version)
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


def packages_of(tree: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tree / "python_client" / "dist").iterdir()}


def built_from_the_tag(tree: Tree, tag: str, directory: Path) -> dict[str, bytes]:
    """Build the tag as CONTRIBUTING.md says, and return the packages."""
    tree.git("clone", "--quiet", "--branch", tag, str(tree.directory), str(directory))
    epoch = tree.git("log", "-1", "--format=%ct", tag).strip()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build"],
        cwd=directory / "python_client",
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        capture_output=True,
        check=True,
    )
    return packages_of(directory)


def assert_bill_is_of(bill: Any, packages: dict[str, bytes]) -> None:
    """Assert that the bill is valid CycloneDX, and lists the packages and their extras."""

    def schema(name: str) -> Any:
        return json.loads((CYCLONEDX / name.rpartition("/")[2]).read_text())

    jsonschema_rs.validator_for(schema("bom-1.6.SNAPSHOT.schema.json"), retriever=schema).validate(
        bill
    )
    product = bill["metadata"]["component"]
    assert product["purl"] == "pkg:pypi/keylatch@0.1.0"
    assert {one["name"]: one["hashes"][0]["content"] for one in product["components"]} == {
        name: sha256(text).hexdigest() for name, text in packages.items()
    }
    scopes = {one["name"]: one["scope"] for one in bill["components"]}
    assert set(scopes.values()) == {"optional"}
    # These libraries come from an extra, or from an extra of a library.
    assert {"psycopg", "psycopg-binary", "supabase", "fastapi", "typer"} <= scopes.keys()
    assert "pytest" not in scopes


def test_a_file_that_the_commit_lacks_is_not_released(tree: Tree) -> None:
    build = ("-c", "from tools.release import build_twice; build_twice(1800000000)")
    # git ignores this file, but hatchling packs it.
    (tree.directory / "python_client/src/keylatch/_left.py").write_text("")
    assert "keylatch-0.1.0-py3-none-any.whl is another one" in tree.python(*build)[1]


def test_a_release_and_the_upgrade_to_the_next_one(tree: Tree, tmp_path: Path) -> None:
    code, said = tree.release("0.1.0")
    assert code == 0, said
    assert "v0.1.0 is tagged" in said
    assert tree.git("tag") == "v0.1.0\n"
    assert tree.git("status", "--porcelain") == ""
    packages = packages_of(tree.directory)
    bill = json.loads(packages.pop("keylatch-0.1.0.cdx.json"))
    assert set(packages) == {"keylatch-0.1.0.tar.gz", "keylatch-0.1.0-py3-none-any.whl"}
    assert built_from_the_tag(tree, "v0.1.0", tmp_path / "tag") == packages
    assert_bill_is_of(bill, packages)
    assert "## Unreleased\n\n## 0.1.0 - 20" in tree.read("CHANGELOG.md")
    assert "is not newer than v0.1.0" in tree.release("0.1.0")[1]

    # The next release changes the schema.
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
    tree.write(UPGRADE, NOTE.rpartition("comment")[0])
    assert "An upgrade from v0.1.0 ends elsewhere: comment" in tree.release("0.2.0")[1]
    tree.write(UPGRADE, NOTE)
    code, said = tree.release("0.2.0")
    assert code == 0, said
    assert said.count("upgraded from v0.1.0: the same, every key kept, its client works") == 2
    assert '__version__ = "0.2.0"' in tree.read("python_client/src/keylatch/__init__.py")

    # A released upgrade must not change, because databases have already run it.
    tree.write("CHANGELOG.md", changelog.replace("Unreleased\n", "Unreleased\n\n- More.\n", 1))
    tree.write(UPGRADE, f"{NOTE}\n")
    assert f"Released upgrades were changed: {UPGRADE}" in tree.release("0.3.0")[1]
