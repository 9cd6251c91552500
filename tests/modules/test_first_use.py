"""Keys with a hash that PostgreSQL cannot compute: the code of sql/docs/first_use.md."""

import asyncio
import hashlib
import hmac
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from argon2 import PasswordHasher
from fastapi import Depends, FastAPI
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from core.racing import Connection, Outcome, System, attempt, together
from keylatch import Keylatch
from keylatch.errors import InvalidArgument
from keylatch.fastapi import require_key
from keylatch.keys import hash_key
from modules.test_import import import_, line, resolves
from modules.test_upgrade import pbkdf2
from stack import HANG_SECONDS, Database, People, until
from stack.tools import ROOT
from tools.pages import blocks

pytestmark = pytest.mark.one_server

PAGE = (ROOT / "sql" / "docs" / "first_use.md").read_text("utf-8")
TABLE = PAGE.partition('"""')[2].partition('"""')[0]
REVOKE_OLD, REVOKE_OURS = next(
    block.text for block in blocks(PAGE) if block.language == "sql"
).split("\n", 1)
ARGON2 = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)


def key_of(number: int) -> str:
    return f"shop_{number:08}_Uw7Kq2Xb9TzLm4Rc"


KEY = key_of(1)


def scrypt(text: str, salt: bytes = b"a salt of the old system") -> str:
    return hashlib.scrypt(text.encode(), salt=salt, n=1024, r=8, p=1).hex()


HASHES: dict[str, Callable[[str], str]] = {"argon2": ARGON2.hash, "scrypt": scrypt}


class Shop:
    """The old table beside an installation, and the functions of the guide."""

    def __init__(self, system: System) -> None:
        self.system, self.url = system, system.database.url
        self.old = ConnectionPool(self.url, open=True, max_size=8)
        self.pool = ConnectionPool(self.url, open=True, max_size=8)
        self.kl = Keylatch.from_psycopg(self.pool)
        self.code: dict[str, Any] = {"old": self.old, "kl": self.kl, "__name__": "page"}
        for block in blocks(PAGE):
            if "def import_old_key" in block.text or "class WithOldKeys" in block.text:
                text = block.text.partition("\nassert ")[0]
                exec(compile(text, "first_use.md", "exec"), self.code)  # noqa: S102
        system.owner.execute(TABLE.encode())

    def add(self, number: int = 1, hash_: Callable[[str], str] = ARGON2.hash, **row: Any) -> None:
        key = key_of(number)
        row = {"id": number, "prefix": key[:13], "hash": hash_(key), "label": "shop", **row}
        row.setdefault("workspace_id", People.a)
        names, places = ", ".join(row), ", ".join(["%s"] * len(row))
        self.system.owner.execute(
            f"insert into old_keys ({names}) values ({places})".encode(), list(row.values())
        )

    def use(self, text: str = KEY) -> bool:
        return bool(self.code["import_old_key"](self.kl, self.old, text))

    def no_slow_hash(self) -> None:
        """Fail the test if the code computes a slow hash from now on."""
        self.code["matches"] = lambda *_: pytest.fail("a slow hash")

    def rows(self) -> list[Any]:
        return self.system.owner.execute("select id, status from keylatch.keys").fetchall()


@pytest.fixture
def shop(database: Database, people: People) -> Iterator[Shop]:
    shop = Shop(System(database, people))
    with shop.old, shop.pool:
        yield shop


@pytest.mark.parametrize("library", HASHES)
def test_the_first_use_imports_a_key_and_the_second_asks_the_old_table_no_more(
    shop: Shop, library: str
) -> None:
    if library == "scrypt":
        shop.code["matches"] = lambda text, kept: hmac.compare_digest(scrypt(text), kept)
    shop.add(1, HASHES[library], label="the shop", expires_at="2999-01-31")
    shop.add(2, HASHES[library])
    assert resolves(shop.system, KEY) is None
    for wrong in (f"{KEY[:-1]}x", KEY.swapcase(), key_of(3), key_of(2)[:13] + KEY[13:-1], "", "x"):
        assert not shop.use(wrong)
    assert shop.rows() == []
    assert shop.use()
    key_id = resolves(shop.system, KEY)
    assert key_id is not None
    kept = shop.system.owner.execute(
        "select k.id, k.label, k.expires_at::date::text, k.metadata, i.key_hash, g.source"
        " from keylatch.keys as k join keylatch_internal.keys as i on k.id = i.id"
        " join keylatch.imported_keys as g on k.id = g.key_id"
    ).fetchall()
    # The imported key is a native key: its row has the hash of its text.
    native = hash_key(KEY)
    assert kept == [(key_id, "the shop", "2999-01-31", {"old_id": 1}, native, "old_keys")]
    shop.no_slow_hash()
    assert shop.use()
    shop.system.owner.execute("drop table old_keys")
    assert resolves(shop.system, KEY) == key_id


def test_a_hash_of_the_old_table_is_no_key(shop: Shop) -> None:
    """Threat: a stored hash, presented as a key or in an import, authenticates."""
    shop.add()
    row = shop.system.owner.execute("select hash from old_keys").fetchone()
    assert row is not None
    assert not shop.use(row[0])
    for alg in ("argon2", "argon2id", "scrypt"):
        given = line(alg=alg, hash=row[0], hash_encoding="base64")
        (refused,) = import_(shop.system.owner, given)["lines"]
        assert refused["outcome"] == "refused"
        assert "sql/docs/first_use.md" in refused["hint"]
    assert shop.rows() == []


def test_a_key_that_is_revoked_in_keylatch_stays_so_and_costs_no_slow_hash(shop: Shop) -> None:
    shop.add()
    assert shop.use()
    shop.kl.revoke(str(resolves(shop.system, KEY)))
    shop.no_slow_hash()
    shop.use()
    assert resolves(shop.system, KEY) is None
    # An import of the plaintext key does not reactivate the key either.
    report = shop.kl.import_keys([{"workspace_id": People.a, "key": KEY}])
    assert (report.existing, report.imported) == (1, 0)
    assert [status for _, status in shop.rows()] == ["revoked"]
    assert resolves(shop.system, KEY) is None


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_key_that_is_inactive_in_the_old_table_is_never_active(shop: Shop, column: str) -> None:
    row: dict[str, Any] = {column: "2024-01-01"}
    shop.add(**row)
    shop.use()
    assert resolves(shop.system, KEY) is None
    shop.system.owner.execute("update old_keys set revoked_at = null, expires_at = null")
    shop.no_slow_hash()
    shop.use()
    assert resolves(shop.system, KEY) is None


def test_a_key_that_the_old_system_changed_meanwhile_is_not_imported(shop: Shop) -> None:
    shop.add()
    matches = shop.code["matches"]

    def changed(text: str, kept: str) -> bool:
        shop.system.owner.execute("update old_keys set hash = 'another'")
        return bool(matches(text, kept))

    shop.code["matches"] = changed
    assert not shop.use()
    assert shop.rows() == []


def test_two_first_uses_at_once_give_one_key(shop: Shop) -> None:
    numbers = range(20)
    for number in numbers:
        shop.add(number)

    def used(key: str) -> Outcome:
        return Outcome("done", (shop.use(key), resolves_by(shop, key)))

    for number in numbers:
        key = key_of(number)
        came = together([partial(used, key), partial(used, key)])
        assert came[0] == came[1]
        assert came[0].row[0] is True
        assert came[0].row[1] is not None
    assert len(shop.rows()) == len(numbers)


def resolves_by(shop: Shop, key: str) -> UUID | None:
    found = shop.kl.resolve(key)
    return found.key_id if found else None


def revoke(shop: Shop, number: int) -> Outcome:
    """Run the guide's two statements that revoke a key, in a new session."""
    with psycopg.connect(shop.url, autocommit=True) as owner:
        attempt(owner, REVOKE_OLD.replace("id = 1", f"id = {number}"))
        return attempt(owner, REVOKE_OURS.replace('"old_id": 1', f'"old_id": {number}'))


def test_a_revocation_at_the_same_moment_wins(shop: Shop) -> None:
    """Threat: a first use that has read the old row before its revocation."""
    for number in range(20):
        shop.add(number)
        key = key_of(number)
        first_use = partial(lambda text: Outcome(str(shop.use(text))), key)
        came = together([first_use, partial(revoke, shop, number)])
        assert came[1].word == "done"
        shop.use(key)
        assert resolves(shop.system, key) is None


def is_waiting(connection: Connection, words: str) -> bool:
    look = "select from pg_stat_activity where wait_event_type = 'Lock' and query ~ %s"
    return connection.execute(look, [words]).rowcount > 0


@pytest.mark.parametrize("first", ["the revocation", "the first use"])
def test_the_old_row_is_locked_from_the_check_until_the_key_is_there(
    shop: Shop, first: str
) -> None:
    shop.add()
    watcher = shop.system.database.connect(superuser=True)
    holder = shop.system.database.connect(autocommit=False)
    with ThreadPoolExecutor(2) as pool:
        if first == "the revocation":
            holder.execute(REVOKE_OLD.encode())
            using = pool.submit(shop.use)
            until(lambda: is_waiting(watcher, "from old_keys where id"))
            holder.commit()
            revoking = None
        else:
            # This lock stops the import after the import has locked the old row.
            holder.execute("lock table keylatch_internal.legacy_settings in exclusive mode")
            using = pool.submit(shop.use)
            until(lambda: is_waiting(watcher, "import_keys"))
            revoking = pool.submit(revoke, shop, 1)
            until(lambda: is_waiting(watcher, "update old_keys"))
            holder.commit()
        assert using.result(HANG_SECONDS)
        if revoking is not None:
            assert revoking.result(HANG_SECONDS).row
    assert [status for _, status in shop.rows()] == ["revoked"]
    assert resolves(shop.system, KEY) is None


def test_a_weak_key_is_refused_aloud(shop: Shop) -> None:
    weak = "0" * 20
    row = [1, People.a, weak[:13], ARGON2.hash(weak)]
    shop.system.owner.execute(
        "insert into old_keys (id, workspace_id, prefix, hash) values (%s, %s, %s, %s)", row
    )
    with pytest.raises(InvalidArgument, match="6 different"):
        shop.use(weak)
    assert shop.rows() == []


@pytest.mark.parametrize("is_revoked", [False, True])
def test_a_salted_key_that_waits_in_the_workspace_is_compared_with_it(
    shop: Shop, is_revoked: bool
) -> None:
    """Threat: a dead imported key that lives again by a second import."""
    text = KEY if is_revoked else "a salted key of the shop"
    fields = {"revoked_at": "2024-01-01"} if is_revoked else {}
    assert import_(shop.system.owner, line(**pbkdf2(text, "hex", "hex"), **fields))["waiting"] == 1
    shop.add()
    assert shop.use()
    assert (resolves(shop.system, KEY) is None) == is_revoked


def test_with_fastapi_the_origin_still_counts(shop: Shop) -> None:
    """Threat: the way over the old table accepts a secret key from a page."""
    for number in range(2):
        shop.add(number)

    async def ask() -> list[int]:
        async with AsyncConnectionPool(shop.url, open=False) as pool:
            client = shop.code["WithOldKeys"].from_psycopg(
                pool, claims={"role": "keylatch_resolver"}
            )
            app = FastAPI()
            app.get("/orders", dependencies=[Depends(require_key(client))])(lambda: "fine")
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
                asked: list[dict[str, str]] = [
                    {"x-api-key": key_of(0), "origin": "https://a.example"},
                    {"x-api-key": key_of(0)},
                    {"x-api-key": key_of(1)},
                    {"x-api-key": key_of(1)},
                    {"x-api-key": key_of(1), "origin": "https://a.example"},
                    {"x-api-key": f"{key_of(1)}x"},
                ]
                return [(await http.get("/orders", headers=one)).status_code for one in asked]

    assert asyncio.run(ask()) == [401, 200, 200, 200, 401, 401]
    assert len(shop.rows()) == 2


def test_a_known_prefix_computes_no_more_than_two_hashes_at_once(shop: Shop) -> None:
    """Threat: wrong keys with a known prefix take the memory of the service."""
    shop.add()
    lock, running, most = threading.Lock(), 0, 0

    def matches(_text: str, _kept: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1
        return False

    shop.code["matches"] = matches
    with ThreadPoolExecutor(8) as pool:
        tries = [f"{KEY[:13]}_wrong_key_{number}" for number in range(24)]
        assert not any(pool.map(shop.use, tries))
    assert most == 2
