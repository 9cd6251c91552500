"""Adding modules and upgrading while keys are in use: what a resolve waits for."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from cli.install.project import NEXT, Project, next_release
from keylatch.errors import KeylatchError
from keylatch_cli.install import project as install
from keylatch_cli.install.apply import _PAUSES, apply, read_database
from keylatch_cli.install.migrations import Choice, Release, shipped
from stack import HANG_SECONDS, Database, push_migrations, until

ALL = Choice(all=True)
RESOLVE = b"select count(*) from keylatch.resolve_key(%s)"
# A reader of the keys waits for this lock mode, and for no weaker mode.
LOCKED = """
select l.relation::regclass::text from pg_locks as l
where l.pid = pg_backend_pid() and l.mode = 'AccessExclusiveLock' and l.granted
  and l.relation = any (%s)
"""
READ = "select c.oid from pg_class as c where c.relnamespace::regnamespace::text ~ '^keylatch'"
ADDS_A_COLUMN = (
    "alter table keylatch_internal.keys add column note text;\n"
    "comment on column keylatch_internal.keys.note is 'A note.';\n"
)


@pytest.fixture
def installed(empty: Database) -> Database:
    """A database with the core and keylatch's own workspaces."""
    apply(empty.connect(), Choice(only=("core",)), "keylatch")
    return empty


def strongest_locks(database: Database, release: Release, choice: Choice) -> list[str]:
    """Return the existing relations that are locked against readers after a plan has run."""
    with psycopg.connect(database.url) as owner:
        there = [oid for (oid,) in owner.execute(READ.encode())]
        with database.connect() as other:
            state = read_database(other)
        for migration in release.plan(state, choice, None):
            owner.execute(migration.text.encode())
        locked = [name for (name,) in owner.execute(LOCKED.encode(), [there])]
        owner.rollback()
    return sorted(locked)


def test_adding_every_module_locks_nothing_against_readers(installed: Database) -> None:
    assert strongest_locks(installed, shipped(), ALL) == []


def test_an_upgrade_locks_only_what_it_changes(installed: Database) -> None:
    apply(installed.connect(), ALL)
    assert strongest_locks(installed, next_release(), ALL) == ["keylatch.workspaces"]
    with_column = next_release(ADDS_A_COLUMN)
    assert strongest_locks(installed, with_column, ALL) == ["keylatch_internal.keys"]


def upgrader(database: Database) -> psycopg.Connection[Any]:
    """Open a connection for an upgrade that fails instead of hanging if it waits for a lock."""
    connection = database.connect()
    connection.execute(f"set statement_timeout = '{HANG_SECONDS // 2}s'")
    return connection


def longest(took: list[float]) -> str:
    """Return the longest wait as text. The wait depends on the machine, so no test asserts it."""
    return f"{max(took) * 1000:.1f} ms of {len(took)}"


@contextmanager
def resolving(database: Database) -> Iterator[list[float]]:
    """Resolve a key in a loop, as a service does, and yield the seconds that each call takes."""
    owner = database.connect()
    row = owner.execute("select key from keylatch.issue_key(gen_random_uuid(), 'secret')")
    (key,) = row.fetchone() or (None,)
    took: list[float] = []
    ended = threading.Event()

    def resolve() -> None:
        service = database.connect("keylatch_resolver")
        # A resolve that waits longer for a lock fails, and so does the test.
        service.execute(f"set statement_timeout = '{HANG_SECONDS // 2}s'")
        while not ended.is_set():
            start = time.perf_counter()
            assert service.execute(RESOLVE, [key]).fetchone() == (1,)
            took.append(time.perf_counter() - start)

    with ThreadPoolExecutor() as pool:
        done = pool.submit(resolve)
        try:
            yield took
        finally:
            ended.set()
            done.result()


@pytest.mark.parametrize("way", ["apply", "install and push"])
def test_keys_resolve_while_modules_are_added_and_an_upgrade_runs(
    installed: Database,
    project: Project,
    record_property: Callable[[str, object], None],
    way: str,
) -> None:
    if way != "apply":
        install.write(project.path, install.prepare(project.path, ALL, "keylatch"))
        installed.connect().execute("drop schema keylatch, keylatch_internal cascade")
        push_migrations(installed.url, project.path)
    with resolving(installed) as took:
        until(lambda: len(took) >= 300)
        before = len(took)
        if way == "apply":
            apply(installed.connect(), ALL)
            apply(installed.connect(), release=next_release())
        else:
            plan = install.prepare(project.path, release=next_release())
            install.write(project.path, plan)
            push_migrations(installed.url, project.path)
    found = read_database(installed.connect())
    assert found is not None
    assert (found.version, found.modules) == (NEXT, frozenset(shipped().modules))
    assert len(took) > before
    figures = {"way": way, "idle": longest(took[:before]), "meanwhile": longest(took[before:])}
    record_property("resolves", figures)
    print(json.dumps(figures))


def test_an_upgrade_that_has_to_wait_does_not_make_others_wait(
    installed: Database, record_property: Callable[[str, object], None]
) -> None:
    release = next_release(ADDS_A_COLUMN + f"-- {NEXT}\n")
    with installed.connect(autocommit=False) as reader, ThreadPoolExecutor() as pool:
        # Like a backup, or a transaction that somebody forgot to end.
        reader.execute("select count(*) from keylatch_internal.keys")
        with resolving(installed) as took:
            upgrade = pool.submit(apply, upgrader(installed), release=release)
            until(lambda: len(took) >= 500)
            assert not upgrade.done()
            reader.rollback()
            assert len(upgrade.result()) == 1
        figures = {"way": "behind a reader", "meanwhile": longest(took)}
        record_property("resolves", figures)
        print(json.dumps(figures))


def test_an_upgrade_gives_up_with_a_hint_and_nothing_is_changed(
    installed: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{apply.__module__}._PAUSES", _PAUSES[:2])
    with installed.connect(autocommit=False) as reader:
        reader.execute("select count(*) from keylatch_internal.keys")
        with pytest.raises(KeylatchError, match="lock timeout") as refused:
            apply(upgrader(installed), release=next_release(ADDS_A_COLUMN))
        assert (refused.value.slug, refused.value.sqlstate) == ("migration_failed", "55P03")
        assert "pg_stat_activity" in str(refused.value.hint)
    found: Any = read_database(installed.connect())
    assert found.version == shipped().version
