"""A column of keys in clear becomes one of hashes: each step, the way back, and who may."""

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from stack import Database

Connection = psycopg.Connection[tuple[Any, ...]]
TABLE, COLUMN = 'app."Odd ""T"', "the 'k"
NAMES = [TABLE, COLUMN]
COUNT = 3000
MADE = """
create schema app;
grant usage on schema app to service_role;
create table app."Odd ""T" (
    id integer primary key, "the 'k" text not null, other integer, updated_at timestamptz
);
create index on app."Odd ""T" ("the 'k");
create function app.touch() returns trigger language plpgsql as
    'begin new.updated_at := now(); return new; end';
create trigger touch before update on app."Odd ""T" for each row execute function app.touch();
insert into app."Odd ""T" select n, 'key ' || n, 0 from generate_series(1, 3000) as n;
grant select, insert, update on app."Odd ""T" to service_role;
"""
# All that a table is, but for columns that were dropped.
CATALOG = """
select 'column', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attacl::text,
    pg_get_expr(d.adbin, d.adrelid)
from pg_attribute as a
left join pg_attrdef as d on (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
where a.attrelid = {table} and not a.attisdropped
union all
select 'index', pg_get_indexdef(i.indexrelid), null, i.indisvalid, null, null
from pg_index as i where i.indrelid = {table}
union all
select 'trigger', pg_get_triggerdef(g.oid), g.tgenabled::text, null, null, null
from pg_trigger as g where g.tgrelid = {table} and not g.tgisinternal
union all
select 'constraint', c.conname, pg_get_constraintdef(c.oid), null, null, null
from pg_constraint as c where c.conrelid = {table}
union all
select 'function', p.proname, p.prosrc, null, p.proacl::text, null
from pg_proc as p where p.pronamespace = 'app'::regnamespace
union all
select 'table', c.relname, c.relacl::text, c.relrowsecurity, obj_description(c.oid), null
from pg_class as c where c.oid = {table}
order by 1, 2
""".replace("{table}", "%(table)s::regclass")


@pytest.fixture
def owner(database: Database) -> Iterator[Connection]:
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute(MADE)
        yield owner


def call(connection: Connection, name: str, *more: object, names: list[str] = NAMES) -> Any:
    """What a step answers, by column."""
    marks = ", ".join(["%s"] * (len(names) + len(more)))
    cursor = connection.execute(f"select * from keylatch.{name}({marks})".encode(), [*names, *more])
    row = cursor.fetchone()
    assert row is not None
    assert cursor.description is not None
    return dict(zip((column.name for column in cursor.description), row, strict=True))


def refusal(connection: Connection, name: str, *more: object, names: list[str] = NAMES) -> str:
    """The slug and the sentence of a step that is refused."""
    with pytest.raises(psycopg.Error) as caught:
        call(connection, name, *more, names=names)
    return f"{caught.value.diag.message_primary}: {caught.value.diag.message_detail}"


def hash_all(connection: Connection) -> None:
    while not call(connection, "hash_rows")["is_done"]:
        pass


def adopt(connection: Connection, form: str = "hex") -> None:
    """Phase 1, whole."""
    statement = call(connection, "adopt_column", None, form)["index_statement"]
    hash_all(connection)
    connection.execute(statement.encode())


def find(connection: Connection, key: str | None) -> list[int]:
    asked = 'select id from keylatch.adopted_rows(null::app."Odd ""T", %s, %s) order by id'
    return [row[0] for row in connection.execute(asked, [COLUMN, key])]


def rows(connection: Connection) -> list[Any]:
    return connection.execute('select * from app."Odd ""T" order by id').fetchall()


def kept(form: str, key: str) -> object:
    hashed = hashlib.sha256(key.encode())
    return hashed.hexdigest() if form == "hex" else hashed.digest()


@pytest.mark.parametrize("form", ["hex", "bytea"])
def test_all_the_way_from_keys_in_clear_to_hashes_alone(owner: Connection, form: str) -> None:
    adopt(owner, form)
    proof = call(owner, "prove_column")
    counted = [proof[name] for name in ("rows", "keys", "hashed", "missing", "wrong")]
    assert counted == [COUNT, COUNT, COUNT, 0, 0]
    assert proof["is_clean"]
    assert call(owner, "read_by_hash")["phase"] == "reading"
    assert find(owner, "key 7") == [7]
    assert find(owner, str(kept("hex", "key 7"))) == []
    assert find(owner, "key") == find(owner, "") == find(owner, None) == []
    assert call(owner, "drop_plaintext", "drop plaintext")["phase"] == "emptying"
    # An application that still writes keys loses nothing, and leaves none behind.
    owner.execute('insert into app."Odd ""T" values (0, \'a new one\', 1)')
    assert find(owner, "a new one") == [0]
    assert call(owner, "drop_plaintext", "drop plaintext")["phase"] == "emptying"
    hash_all(owner)
    emptied = owner.execute('select count("the \'k"), count("the \'k_hash") from app."Odd ""T"')
    assert emptied.fetchone() == (0, COUNT + 1)
    for _ in range(2):
        assert call(owner, "drop_plaintext", "drop plaintext")["phase"] == "dropped"
    assert rows(owner)[7] == (7, 0, None, kept(form, "key 7"))
    assert find(owner, "key 7") == [7]
    assert call(owner, "prove_column")["is_clean"]
    assert "in phase dropped" in refusal(owner, "revert_column")
    left = owner.execute("select proname from pg_proc where pronamespace = 'app'::regnamespace")
    assert left.fetchall() == [("touch",)]


@pytest.mark.parametrize(("mode", "hashing"), [("origin", "on"), ("replica", "")])
def test_whatever_is_written_after_phase_1_began_is_hashed(
    owner: Connection, mode: str, hashing: str
) -> None:
    call(owner, "adopt_column")
    call(owner, "hash_rows", 1)
    # As hash_rows marks its own writes; but one of the two is not enough.
    owner.execute(f"set session_replication_role = {mode}")
    owner.execute(f"set keylatch.hashing = '{hashing}'")
    hashed = 'select "the \'k_hash" from app."Odd ""T" where id = %s'
    owner.execute('insert into app."Odd ""T" values (4000, \'inserted\', 1)')
    owner.execute('update app."Odd ""T" set "the \'k" = \'changed\' where id = 1')
    owner.execute('update app."Odd ""T" set other = 1 where id = 2')
    owner.execute('update app."Odd ""T" set "the \'k_hash" = \'forged\' where id = 3')
    for number, key in ((4000, "inserted"), (1, "changed"), (2, "key 2"), (3, "key 3")):
        assert owner.execute(hashed, [number]).fetchone() == (kept("hex", key),)


@pytest.mark.parametrize("phase", ["hashing", "reading"])
def test_revert_leaves_the_table_as_it_was(owner: Connection, phase: str) -> None:
    before = (owner.execute(CATALOG, {"table": TABLE}).fetchall(), rows(owner))
    assert len(before[0]) >= 10
    adopt(owner)
    if phase == "reading":
        call(owner, "read_by_hash")
    assert owner.execute(CATALOG, {"table": TABLE}).fetchall() != before[0]
    assert call(owner, "revert_column")["phase"] == "reverted"
    # Not even updated_at was touched.
    assert (owner.execute(CATALOG, {"table": TABLE}).fetchall(), rows(owner)) == before
    assert "is not adopted" in refusal(owner, "revert_column")
    adopt(owner)


def test_no_step_before_the_proof_is_clean(owner: Connection) -> None:
    index = call(owner, "adopt_column")["index_statement"]
    assert "3000 have no hash and 0 a wrong one" in refusal(owner, "read_by_hash")
    assert "in phase hashing" in refusal(owner, "drop_plaintext", "drop plaintext")
    hash_all(owner)
    assert "the index is missing" in refusal(owner, "read_by_hash")
    owner.execute(index.encode())
    owner.execute('alter table app."Odd ""T" disable trigger all')
    owner.execute('update app."Odd ""T" set "the \'k_hash" = \'wrong\' where id = 5')
    said = refusal(owner, "read_by_hash")
    assert "0 have no hash and 1 a wrong one; the index is ready, the trigger is missing" in said
    owner.execute('alter table app."Odd ""T" enable always trigger zz_keylatch_hash_2')
    hash_all(owner)
    call(owner, "read_by_hash")
    for confirm in (None, "", "yes", "DROP PLAINTEXT"):
        assert "confirm must be" in refusal(owner, "drop_plaintext", confirm)
    owner.execute('create view app.seen as select "the \'k" from app."Odd ""T"')
    assert "needs the column in clear" in refusal(owner, "drop_plaintext", "drop plaintext")
    assert "view app.seen" in refusal(owner, "drop_plaintext", "drop plaintext")
    owner.execute("drop view app.seen")
    assert call(owner, "drop_plaintext", "drop plaintext")["phase"] == "emptying"


def test_reads_by_the_key_in_clear_are_counted_and_keep_the_column(owner: Connection) -> None:
    adopt(owner)
    call(owner, "read_by_hash")
    assert find(owner, "key 9") == [9]
    assert call(owner, "prove_column")["fallback_reads"] == 0
    owner.execute('alter table app."Odd ""T" disable trigger all')
    owner.execute('update app."Odd ""T" set "the \'k_hash" = null where id = 9')
    assert find(owner, "key 9") == [9]
    proof = call(owner, "prove_column")
    assert (proof["fallback_reads"], proof["missing"]) == (1, 1)
    assert proof["last_fallback_at"] is not None
    owner.execute('alter table app."Odd ""T" enable always trigger zz_keylatch_hash_2')
    hash_all(owner)
    assert "1 reads went by the key" in refusal(owner, "drop_plaintext", "drop plaintext")
    call(owner, "read_by_hash")
    assert call(owner, "drop_plaintext", "drop plaintext")["phase"] == "emptying"


def test_a_read_that_cannot_count_or_would_have_to_wait_is_answered(
    owner: Connection, database: Database
) -> None:
    call(owner, "adopt_column")
    with owner.transaction(), database.connect("service_role") as service:
        call(owner, "prove_column")
        owner.execute("select from keylatch_internal.adoptions for update")
        service.execute("set statement_timeout = '5s'")
        assert find(service, "key 3") == [3]
        service.execute("set default_transaction_read_only = on")
        assert find(service, "key 3") == [3]


@pytest.mark.parametrize("form", ["hex", "bytea"])
def test_a_stored_hash_is_no_key_even_where_it_stands_among_the_keys(
    owner: Connection, form: str
) -> None:
    call(owner, "adopt_column", None, form)
    stolen = str(kept("hex", "key 1"))
    hash_all(owner)
    owner.execute('alter table app."Odd ""T" disable trigger all')
    # As a migration by hand left it: hashes in the column of keys, and nothing beside them.
    owner.execute(
        'insert into app."Odd ""T" values (5000, %s), (5001, %s)', [stolen, stolen.upper()]
    )
    assert find(owner, stolen) == find(owner, stolen.upper()) == []


def test_a_row_that_somebody_holds_is_done_by_a_later_pass(
    owner: Connection, database: Database
) -> None:
    call(owner, "adopt_column")
    with psycopg.connect(database.url) as holder:
        holder.execute('select from app."Odd ""T" where id in (1, 2000) for update')
        hash_all(owner)
        assert call(owner, "prove_column")["missing"] == 2
    hash_all(owner)
    assert call(owner, "prove_column")["missing"] == 0


def test_a_pass_goes_on_where_it_stopped(owner: Connection) -> None:
    owner.execute(
        'insert into app."Odd ""T" select n, md5(n::text) from generate_series(5001, 105000) as n'
    )
    call(owner, "adopt_column")
    first = call(owner, "hash_rows", 1)
    with pytest.raises(psycopg.errors.DivisionByZero), owner.transaction():
        call(owner, "hash_rows", 1)
        owner.execute("select 1 / 0")
    hashed = 'select count("the \'k_hash") from app."Odd ""T"'
    assert owner.execute(hashed).fetchone() == (first["rows_written"],)
    second = call(owner, "hash_rows", 1)
    assert first["pages_done"] < second["pages_done"] < second["pages"]
    # What the pass itself has written is behind its end.
    assert second["pages"] == first["pages"]
    hash_all(owner)
    assert owner.execute(hashed).fetchone() == (COUNT + 100_000,)


def test_a_table_in_use_is_not_waited_for_for_long(owner: Connection, database: Database) -> None:
    with (
        psycopg.connect(database.url) as reader,
        database.connect("service_role") as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        reader.execute('select from app."Odd ""T" limit 1')
        waiting = pool.submit(call, owner, "adopt_column")
        writer.execute("set lock_timeout = '1s'")
        for n in range(20):
            writer.execute('update app."Odd ""T" set other = %s where id = 1', [n])
            time.sleep(0.02)
        assert not waiting.done()
        reader.rollback()
        assert waiting.result(30)["phase"] == "hashing"


ODD = """
create table app.parted (k text) partition by list (k);
create table app.part partition of app.parted for values in ('a');
create view app.view as select 'a'::text as k;
create table app.shapes (
    id text primary key, number integer, fixed char(10), made text generated always as ('a') stored
);
create table app.child (number integer);
create table app.parent (k text);
create table app.heir () inherits (app.parent);
create temporary table passing (k text);
"""


@pytest.mark.parametrize(
    ("table", "column", "said"),
    [
        ("app.nothing", "k", "The table app.nothing does not exist."),
        ("shapes", "k", "The table shapes does not exist."),
        ('app."', "k", "does not exist."),
        ("a.b.c.d", "k", "does not exist."),
        (None, "k", "The table null does not exist."),
        ("app.shapes; drop table app.shapes", "k", "does not exist."),
        ("app.parted", "k", "is a partition, or has some."),
        ("app.part", "k", "is a partition, or has some."),
        ("app.view", "k", "The table app.view is not a table."),
        ("pg_temp.passing", "k", "is temporary."),
        ("keylatch_internal.keys", "label", "is not one of yours."),
        ("pg_catalog.pg_authid", "rolpassword", "is not one of yours."),
        ("app.shapes", "nothing", "The column nothing of app.shapes does not exist."),
        ("app.shapes", None, "The column null of app.shapes does not exist."),
        ("app.shapes", '"made"', "does not exist."),
        ("app.shapes", "ctid", "does not exist."),
        ("app.shapes", "made", "is a generated one."),
        ("app.shapes", "number", "is neither text nor varchar."),
        ("app.shapes", "fixed", "is neither text nor varchar."),
        ("app.shapes", "id", "is of the primary key."),
        ("app.child", "number", "is neither text nor varchar."),
        ("app.parent", "k", "has tables that inherit from it."),
        ("app.heir", "k", "is inherited."),
    ],
)
def test_what_cannot_be_adopted_is_refused(
    owner: Connection, table: str, column: str, said: str
) -> None:
    owner.execute(ODD)
    refused = refusal(owner, "adopt_column", names=[table, column])
    assert refused.startswith("invalid_argument: ")
    assert said in refused


def test_a_key_that_is_unique_has_a_hash_that_is(owner: Connection) -> None:
    owner.execute("create table app.single (k text unique)")
    owner.execute("insert into app.single values ('one')")
    names = ["app.single", "k"]
    statement = call(owner, "adopt_column", names=names)["index_statement"]
    call(owner, "hash_rows", names=names)
    owner.execute(statement.encode())
    call(owner, "read_by_hash", names=names)
    call(owner, "drop_plaintext", "drop plaintext", names=names)
    call(owner, "hash_rows", names=names)
    assert call(owner, "drop_plaintext", "drop plaintext", names=names)["phase"] == "dropped"
    hashed = hashlib.sha256(b"one").hexdigest()
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner.execute("insert into app.single values (%s)", [hashed])


def test_arguments_and_the_order_of_steps_are_checked(owner: Connection) -> None:
    for step in ("hash_rows", "prove_column", "read_by_hash", "revert_column"):
        assert refusal(owner, step).startswith("adoption_not_ready: ")
    for form in ("", "md5", None):
        assert "form must be" in refusal(owner, "adopt_column", None, form)
    for taken in ("other", "x" * 64, ""):
        assert "hash_column" in refusal(owner, "adopt_column", taken)
    call(owner, "adopt_column", "hidden")
    assert call(owner, "adopt_column", "hidden")["hash_column"] == "hidden"
    assert "adopted already" in refusal(owner, "adopt_column")
    assert "adopted already" in refusal(owner, "adopt_column", "hidden", "bytea")
    for milliseconds in (0, -1, 60_001, None):
        assert "milliseconds must be" in refusal(owner, "hash_rows", milliseconds)
    owner.execute('create view app.seen as select hidden from app."Odd ""T"')
    assert "needs the column hidden" in refusal(owner, "revert_column")
    with pytest.raises(psycopg.errors.DatabaseError, match="adoption_not_ready"):
        owner.execute("select * from keylatch.adopted_rows(null::app.seen, 'k', 'k')")
    with pytest.raises(psycopg.errors.DatabaseError, match="adoption_not_ready"):
        owner.execute("select * from keylatch.adopted_rows(1, 'k', 'k')")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "keylatch_resolver"])
def test_nobody_but_the_owner_takes_a_step(
    owner: Connection, database: Database, role: str
) -> None:
    call(owner, "adopt_column")
    with database.connect(role) as other:
        for step, more in (
            ("adopt_column", ()),
            ("hash_rows", ()),
            ("prove_column", ()),
            ("read_by_hash", ()),
            ("drop_plaintext", ("drop plaintext",)),
            ("revert_column", ()),
        ):
            assert "permission denied" in refusal(other, step, *more)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute("select from keylatch_internal.adoptions")


def test_a_table_that_you_do_not_own_is_not_yours_to_adopt(
    owner: Connection, database: Database
) -> None:
    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute("create table app.theirs (k text)")
        superuser.execute("alter table app.theirs owner to supabase_admin")
    assert "is not owned by you" in refusal(owner, "adopt_column", names=["app.theirs", "k"])


def test_rows_that_a_policy_hides_are_not_left_without_a_hash(
    owner: Connection, database: Database
) -> None:
    owner.execute('alter table app."Odd ""T" force row level security')
    with psycopg.connect(database.superuser_url) as superuser:
        # Of the owner it has the rights, and not the attribute that row policies do not bind.
        superuser.execute("create role adopter in role postgres")
        superuser.execute("set role adopter")
        assert "forces row security on you" in refusal(superuser, "adopt_column")
        superuser.rollback()
    assert call(owner, "adopt_column")["phase"] == "hashing"


def test_the_application_reads_with_its_own_rights(owner: Connection, database: Database) -> None:
    adopt(owner)
    with database.connect("service_role") as service:
        assert find(service, "key 4") == [4]
        owner.execute('revoke select on app."Odd ""T" from service_role')
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            find(service, "key 4")
    stranger = database.connect("authenticated")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        find(stranger, "key 4")
