"""Moving a plaintext column to hashes: each step, the way back, and the needed rights."""

import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from stack import HANG_SECONDS, Cluster, Database
from stack.cluster import SUPERUSER
from stack.tools import ROOT, MissingTool

Connection = psycopg.Connection[tuple[Any, ...]]
TABLE, COLUMN = 'app."Odd ""T"', "the 'k"
NAMES = [TABLE, COLUMN]
COUNT = 3000
SETTINGS = ("lock_timeout", "session_replication_role", "keylatch.hashing")
FILES = ROOT / "sql" / "adoption"
TRIGGER_ON = """
alter table app."Odd ""T" enable always trigger "zz_keylatch_hash_the 'k"
"""
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
-- As a project may have it: whatever is made is everybody's.
alter default privileges grant all on schemas to anon, authenticated, service_role;
alter default privileges grant all on tables to anon, authenticated, service_role;
alter default privileges grant all on functions to anon, authenticated, service_role;
"""
# The whole definition of a table, without dropped columns.
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
def owner(empty: Database) -> Iterator[Connection]:
    with psycopg.connect(empty.url, autocommit=True) as owner:
        owner.execute(MADE)
        load(owner)
        yield owner


def load(connection: Connection) -> None:
    """Load the schema, as `keylatch adopt hash` does."""
    with connection.transaction():
        for path in sorted(FILES.glob("[0-9]*.sql")):
            connection.execute(path.read_bytes())


def remove(connection: Connection) -> None:
    """Remove the schema, as `keylatch adopt drop` and `revert` do at the end."""
    connection.execute((FILES / "remove.sql").read_bytes())


def left(connection: Connection) -> list[Any]:
    """Return every schema, function, trigger, relation and comment that mentions keylatch."""
    return connection.execute(
        """
        select 'schema', nspname from pg_namespace where nspname ~ 'keylatch'
        union all select 'function', proname from pg_proc
        where proname ~ 'keylatch' or prosrc ~ 'keylatch'
        union all select 'trigger', tgname from pg_trigger where tgname ~ 'keylatch'
        union all select 'relation', relname from pg_class where relname ~ 'keylatch'
        union all select 'comment', description from pg_description where description ~ 'keylatch'
        """
    ).fetchall()


def call(connection: Connection, name: str, *more: object, names: list[str] = NAMES) -> Any:
    """Call a step, and return its row by column name."""
    marks = ", ".join(["%s"] * (len(names) + len(more)))
    cursor = connection.execute(
        f"select * from keylatch_adoption.{name}({marks})".encode(), [*names, *more]
    )
    row = cursor.fetchone()
    assert row is not None
    assert cursor.description is not None
    return dict(zip((column.name for column in cursor.description), row, strict=True))


def refusal(connection: Connection, name: str, *more: object, names: list[str] = NAMES) -> str:
    """Call a step that is refused, and return the slug and detail of the error."""
    with pytest.raises(psycopg.Error) as caught:
        call(connection, name, *more, names=names)
    return f"{caught.value.diag.message_primary}: {caught.value.diag.message_detail}"


def hash_all(connection: Connection, names: list[str] = NAMES) -> None:
    while not call(connection, "hash_rows", names=names)["is_done"]:
        pass


def adopt(connection: Connection, form: str = "hex") -> None:
    """Run the whole phase 1."""
    call(connection, "adopt_column", None, form)
    hash_all(connection)
    make_indexes(connection)


def indexes(connection: Connection, names: list[str] = NAMES) -> list[str]:
    """Return the statements that create the missing indexes."""
    asked = "select * from keylatch_adoption.index_statements(%s, %s)"
    return [row[0] for row in connection.execute(asked, names)]


def make_indexes(connection: Connection, names: list[str] = NAMES) -> None:
    for statement in indexes(connection, names):
        connection.execute(statement.encode())
    assert indexes(connection, names) == []


def grant_reads(owner: Connection) -> None:
    """Grant the application the functions that the guide names."""
    owner.execute("grant usage on schema keylatch_adoption to service_role")
    owner.execute(
        "grant execute on function keylatch_adoption.adopted_rows,"
        " keylatch_adoption.find_reading, keylatch_adoption.count_fallback to service_role"
    )


def find(connection: Connection, key: str | None) -> list[int]:
    asked = 'select id from keylatch_adoption.adopted_rows(null::app."Odd ""T", %s, %s) order by id'
    return [row[0] for row in connection.execute(asked, [COLUMN, key])]


def rows(connection: Connection) -> list[Any]:
    return connection.execute('select * from app."Odd ""T" order by id').fetchall()


def kept(form: str, key: str) -> object:
    hashed = hashlib.sha256(key.encode())
    return hashed.hexdigest() if form == "hex" else hashed.digest()


@pytest.mark.parametrize("form", ["hex", "bytea"])
def test_a_table_goes_all_the_way_from_plaintext_to_hashes_alone(
    owner: Connection, form: str
) -> None:
    adopt(owner, form)
    proof = call(owner, "prove_column")
    counted = [proof[name] for name in ("rows", "keys", "hashed", "missing", "wrong")]
    assert counted == [COUNT, COUNT, COUNT, 0, 0]
    assert proof["is_clean"]
    assert call(owner, "read_by_hash")["phase"] == "reading"
    assert find(owner, "key 7") == [7]
    assert find(owner, str(kept("hex", "key 7"))) == []
    assert find(owner, "key") == find(owner, "") == find(owner, None) == []
    assert call(owner, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "emptying"
    # A key that an application still writes is hashed, and its plaintext is emptied, too.
    owner.execute('insert into app."Odd ""T" values (0, \'a new one\', 1)')
    assert find(owner, "a new one") == [0]
    assert call(owner, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "emptying"
    assert "in phase emptying" in refusal(owner, "revert_column")
    hash_all(owner)
    emptied = owner.execute('select count("the \'k"), count("the \'k_hash") from app."Odd ""T"')
    assert emptied.fetchone() == (0, COUNT + 1)
    for _ in range(2):
        assert call(owner, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "dropped"
    assert rows(owner)[7] == (7, 0, None, kept(form, "key 7"))
    assert find(owner, "key 7") == [7]
    assert call(owner, "prove_column")["is_clean"]
    assert "in phase dropped" in refusal(owner, "revert_column")
    remove(owner)
    assert left(owner) == []
    assert rows(owner)[7] == (7, 0, None, kept(form, "key 7"))
    # The index stays with the table.
    found = owner.execute(
        "select indexrelid::regclass::text from pg_index where indrelid = %s::regclass", [TABLE]
    )
    assert any("hash" in row[0] for row in found.fetchall())


@pytest.mark.parametrize(("mode", "hashing"), [("origin", "on"), ("replica", "")])
def test_every_row_written_after_phase_1_began_is_hashed(
    owner: Connection, mode: str, hashing: str
) -> None:
    call(owner, "adopt_column")
    call(owner, "hash_rows", 1)
    # hash_rows sets both settings to skip the trigger. One setting alone does not skip it.
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
    call(owner, "revert_column")
    remove(owner)
    assert left(owner) == []
    assert (owner.execute(CATALOG, {"table": TABLE}).fetchall(), rows(owner)) == before


def test_no_step_before_the_proof_is_clean(owner: Connection) -> None:
    call(owner, "adopt_column")
    assert "3000 have no hash and 0 a wrong one" in refusal(owner, "read_by_hash")
    assert "in phase hashing" in refusal(owner, "drop_plaintext", "drop plaintext", True, 0)
    hash_all(owner)
    assert "the index is missing" in refusal(owner, "read_by_hash")
    make_indexes(owner)
    owner.execute('alter table app."Odd ""T" disable trigger all')
    owner.execute('update app."Odd ""T" set "the \'k_hash" = \'wrong\' where id = 5')
    said = refusal(owner, "read_by_hash")
    assert "0 have no hash and 1 a wrong one; the index is ready, the trigger is missing" in said
    owner.execute(TRIGGER_ON)
    hash_all(owner)
    call(owner, "read_by_hash")
    for confirm in (None, "", "yes", "DROP PLAINTEXT"):
        assert "confirm must be" in refusal(owner, "drop_plaintext", confirm)
    owner.execute('create view app.seen as select "the \'k" from app."Odd ""T"')
    assert "These need the plaintext column" in refusal(
        owner, "drop_plaintext", "drop plaintext", True, 0
    )
    assert "view app.seen" in refusal(owner, "drop_plaintext", "drop plaintext", True, 0)
    owner.execute("drop view app.seen")
    assert call(owner, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "emptying"


def test_reads_that_fall_back_to_plaintext_are_counted_and_keep_the_column(
    owner: Connection,
) -> None:
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
    owner.execute(TRIGGER_ON)
    hash_all(owner)
    assert "1 reads fell back to plaintext" in refusal(
        owner, "drop_plaintext", "drop plaintext", True, 0
    )
    call(owner, "read_by_hash")
    assert call(owner, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "emptying"


def test_the_last_step_wants_a_backup_and_days_without_a_fallback(owner: Connection) -> None:
    """Report 003: the last step cannot be undone, so it needs a backup and a week of watching."""
    adopt(owner)
    call(owner, "read_by_hash")
    drop = ("drop_plaintext", "drop plaintext")
    for more in ((), (False, 0), (None, 0)):
        assert "backup_taken must be true" in refusal(owner, *drop, *more)
    for days in (-1, 366, None):
        assert "days must be from 0 to 365" in refusal(owner, *drop, True, days)
    assert "7 days without a plaintext read are needed: 7.0 are left" in refusal(owner, *drop, True)
    owner.execute(
        "update keylatch_adoption.adoptions set reading_since = now() - interval '60 hours'"
    )
    assert "7 days without a plaintext read are needed: 4.5 are left" in refusal(owner, *drop, True)
    assert "plaintext read are needed: 0.5 are left" in refusal(owner, *drop, True, 3)
    with pytest.raises(psycopg.Error) as early:
        call(owner, *drop, True, 7)
    # The greatest number of days that would not be refused now.
    assert str(early.value.diag.message_hint).endswith("--days 2")
    assert call(owner, "prove_column")["phase"] == "reading"
    assert call(owner, *drop, True, 2)["phase"] == "emptying"


def test_a_read_that_cannot_count_or_would_have_to_wait_is_answered(
    owner: Connection, empty: Database
) -> None:
    call(owner, "adopt_column")
    grant_reads(owner)
    with owner.transaction(), empty.connect("service_role") as service:
        owner.execute("select from keylatch_adoption.fallbacks for update")
        owner.execute("select from keylatch_adoption.adoptions for update")
        service.execute("set statement_timeout = '60s'")
        assert find(service, "key 3") == [3]
        service.execute("set default_transaction_read_only = on")
        assert find(service, "key 3") == [3]
    assert call(owner, "prove_column")["fallback_reads"] == 0


def test_a_read_whose_snapshot_is_older_than_another_count_is_answered(
    owner: Connection, empty: Database
) -> None:
    call(owner, "adopt_column")
    with psycopg.connect(empty.url) as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select 1 from pg_class limit 1")
        assert find(owner, "key 3") == [3]
        assert find(reader, "key 3") == [3]
    assert call(owner, "prove_column")["fallback_reads"] == 1


def test_no_step_waits_for_a_reader_that_was_counted(owner: Connection, empty: Database) -> None:
    adopt(owner)
    owner.execute('alter table app."Odd ""T" disable trigger all')
    owner.execute('update app."Odd ""T" set "the \'k_hash" = null where id = 9')
    owner.execute(TRIGGER_ON)
    with psycopg.connect(empty.url) as reader:
        assert find(reader, "key 9") == [9]
        owner.execute("set lock_timeout = '60s'")
        hash_all(owner)
        assert call(owner, "read_by_hash")["fallback_reads"] == 0
    assert call(owner, "prove_column")["fallback_reads"] == 1


@pytest.mark.parametrize("form", ["hex", "bytea"])
def test_a_stored_hash_is_no_key_even_where_it_stands_among_the_keys(
    owner: Connection, form: str
) -> None:
    call(owner, "adopt_column", None, form)
    stolen = str(kept("hex", "key 1"))
    hash_all(owner)
    owner.execute('alter table app."Odd ""T" disable trigger all')
    # As after a manual migration: hashes in the plaintext column, and no hash beside them.
    owner.execute(
        'insert into app."Odd ""T" values (5000, %s), (5001, %s)', [stolen, stolen.upper()]
    )
    assert find(owner, stolen) == find(owner, stolen.upper()) == []


def test_a_row_that_somebody_holds_is_done_by_a_later_pass(
    owner: Connection, empty: Database
) -> None:
    call(owner, "adopt_column")
    with psycopg.connect(empty.url) as holder:
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
    # The end of a pass is fixed when the pass begins: rows that the pass wrote lie behind it.
    assert second["pages"] == first["pages"]
    hash_all(owner)
    assert owner.execute(hashed).fetchone() == (COUNT + 100_000,)


def test_a_table_in_use_is_not_waited_for_for_long(owner: Connection, empty: Database) -> None:
    with (
        psycopg.connect(empty.url) as reader,
        empty.connect("service_role") as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        reader.execute('select from app."Odd ""T" limit 1')
        waiting = pool.submit(call, owner, "adopt_column")
        writer.execute("set lock_timeout = '60s'")
        for n in range(20):
            writer.execute('update app."Odd ""T" set other = %s where id = 1', [n])
            time.sleep(0.02)
        assert not waiting.done()
        reader.rollback()
        assert waiting.result(HANG_SECONDS)["phase"] == "hashing"


ODD = """
create table app.parted (k text) partition by list (k);
create table app.part partition of app.parted for values in ('a');
create view app.view as select 'a'::text as k;
create collation app.folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create domain app.citext as text;
create extension hstore with schema app;
create table app.shapes (
    id integer primary key, number integer, fixed char(10), folded text collate app.folded,
    made text generated always as ('a') stored, own app.citext,
    pairs app.hstore
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
        ("app.parted", "k", "is a partition or has partitions."),
        ("app.part", "k", "is a partition or has partitions."),
        ("app.view", "k", "The table app.view is not a table."),
        ("pg_temp.passing", "k", "is temporary."),
        ("pg_catalog.pg_authid", "rolpassword", "is not one of yours."),
        ("app.shapes", "nothing", "The column nothing of app.shapes does not exist."),
        ("app.shapes", None, "The column null of app.shapes does not exist."),
        ("app.shapes", '"made"', "does not exist."),
        ("app.shapes", "ctid", "does not exist."),
        ("app.shapes", "made", "is a generated column."),
        ("app.shapes", "number", "has a type other than text, varchar, citext and uuid."),
        ("app.shapes", "fixed", "has a type other than text, varchar, citext and uuid."),
        ("app.shapes", "folded", "has a collation that treats different texts as equal."),
        ("app.shapes", "own", "has a type other than text, varchar, citext and uuid."),
        ("app.shapes", "pairs", "has a type other than text, varchar, citext and uuid."),
        ("keylatch_adoption.adoptions", "key_column", "is not one of yours."),
        ("app.child", "number", "has a type other than text, varchar, citext and uuid."),
        ("app.parent", "k", "has tables that inherit from it."),
        ("app.heir", "k", "is inherited."),
    ],
)
def test_a_column_that_cannot_be_adopted_is_refused(
    owner: Connection, table: str, column: str, said: str
) -> None:
    owner.execute(ODD)
    refused = refusal(owner, "adopt_column", names=[table, column])
    assert refused.startswith("invalid_argument: ")
    assert said in refused


def whole_way(owner: Connection, table: str, column: str = "k") -> None:
    """Run all steps of the adoption for a small table."""
    names = [table, column]
    call(owner, "adopt_column", names=names)
    hash_all(owner, names)
    make_indexes(owner, names)
    call(owner, "read_by_hash", names=names)
    call(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)
    hash_all(owner, names)
    assert (
        call(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)["phase"] == "dropped"
    )
    assert indexes(owner, names) == []


def test_a_key_that_is_unique_has_a_hash_that_is(owner: Connection) -> None:
    owner.execute("create table app.single (k text unique)")
    owner.execute("insert into app.single values ('one')")
    whole_way(owner, "app.single")
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner.execute("insert into app.single values (%s)", [kept("hex", "one")])
    found = owner.execute(
        "select count(*) from pg_index where indrelid = 'app.single'::regclass"
    ).fetchone()
    assert found == (1,)


SEVERAL = """
create table app.several (
    id integer, tenant text, "K" varchar(80), deleted_at timestamptz,
    constraint per_tenant unique (tenant, "K")
);
create unique index kept_rows on app.several ("K", lower(tenant)) where deleted_at is null;
create unique index with_nulls on app.several (id desc, "K") include (tenant) nulls not distinct;
create unique index carried on app.several (id) include ("K") where id > 0;
create index plain on app.several (tenant, "K");
insert into app.several values (1, 'a', 'one'), (2, 'b', 'one');
"""


def test_unique_rules_over_several_columns_outlive_the_plaintext_column(owner: Connection) -> None:
    owner.execute(SEVERAL)
    names = ["app.several", "K"]
    whole_way(owner, *names)
    found = owner.execute(
        "select pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid = 'app.several'::regclass order by 1"
    )
    assert [row[0].partition(" ON app.several USING btree ")[2] for row in found] == [
        '("K_hash")',
        '(id) INCLUDE ("K_hash") WHERE (id > 0)',
        '("K_hash", lower(tenant)) WHERE (deleted_at IS NULL)',
        '(tenant, "K_hash")',
        '(id, "K_hash") INCLUDE (tenant) NULLS NOT DISTINCT',
    ]
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner.execute(
            'insert into app.several (tenant, "K_hash") values (%s, %s)', ["a", kept("hex", "one")]
        )


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("create unique index lost on app.held (tenant, lower(k))", "index app.lost, which has no"),
        ("create unique index lost on app.held (k) where k is not null", "index app.lost, which"),
        ("alter table app.held add constraint lost unique (k) deferrable", "index app.lost, which"),
        ("alter table app.held add constraint lost exclude (k with =)", "constraint lost on table"),
        ("alter table app.held add constraint lost check (k <> '')", "constraint lost on table"),
        (
            "alter table app.held add constraint lost check (k is not null or tenant is not null)",
            "constraint lost on table",
        ),
        (
            "alter table app.held add constraint lost foreign key (k) references app.others",
            "lost on",
        ),
        ("alter table app.held add made text generated always as (k || '!') stored", "column made"),
        (
            "alter table app.held add constraint held_k_key unique (k);"
            "create table app.child (k text references app.held (k))",
            "constraint child_k_fkey on table app.child",
        ),
        (
            "create unique index lost on app.held (k);"
            "alter table app.held replica identity using index lost",
            "replica identity, which is index app.lost",
        ),
        ("create policy lost on app.held using (k = 'a')", "policy lost on table app.held"),
        ("create statistics app.kept on tenant, k from app.held", None),
    ],
)
def test_objects_that_would_be_lost_with_the_column_are_named_before(
    owner: Connection, made: str, said: str | None
) -> None:
    owner.execute(
        "create table app.others (k text primary key); insert into app.others values ('a')"
    )
    owner.execute("create table app.held (tenant text, k text not null)")
    owner.execute("insert into app.held values ('t', 'a')")
    owner.execute(made)
    names = ["app.held", "k"]
    call(owner, "adopt_column", names=names)
    hash_all(owner, names)
    make_indexes(owner, names)
    call(owner, "read_by_hash", names=names)
    if said is None:
        call(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)
        return
    refused = refusal(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)
    assert refused.startswith(
        "adoption_not_ready: These need the plaintext column, or would be lost"
    )
    assert said in refused
    assert call(owner, "prove_column", names=names)["phase"] == "reading"


def test_an_index_that_is_made_in_phase_2_or_3_needs_its_twin_before_the_column_goes(
    owner: Connection,
) -> None:
    owner.execute("create table app.late (tenant text, k text)")
    names = ["app.late", "k"]
    call(owner, "adopt_column", names=names)
    make_indexes(owner, names)
    call(owner, "read_by_hash", names=names)
    owner.execute("create unique index late_one on app.late (tenant, k)")
    assert "the index is missing" in refusal(
        owner, "drop_plaintext", "drop plaintext", True, 0, names=names
    )
    # The first step may run again in phase 2. make_indexes then creates the missing index.
    assert call(owner, "adopt_column", names=names)["phase"] == "reading"
    make_indexes(owner, names)
    call(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)
    owner.execute("create unique index late_two on app.late (k, tenant)")
    refused = refusal(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)
    assert "index app.late_two, which has no twin" in refused
    make_indexes(owner, names)
    assert (
        call(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)["phase"] == "dropped"
    )


def test_a_primary_key_of_keys_becomes_one_of_hashes(owner: Connection) -> None:
    owner.execute("create table app.tokens (key varchar(40) primary key, user_id integer)")
    owner.execute("insert into app.tokens select 'token ' || n, n from generate_series(1, 9) as n")
    owner.execute("create table app.uses (token text references app.tokens)")
    with pytest.raises(psycopg.Error, match="adoption_not_ready"):
        whole_way(owner, "app.tokens", "key")
    names = ["app.tokens", "key"]
    assert "uses_token_fkey" in refusal(
        owner, "drop_plaintext", "drop plaintext", True, 0, names=names
    )
    owner.execute("drop table app.uses")
    owner.execute("create view app.grouped as select key_hash from app.tokens group by key")
    assert "view app.grouped" in refusal(
        owner, "drop_plaintext", "drop plaintext", True, 0, names=names
    )
    owner.execute("drop view app.grouped")
    call(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)
    owner.execute("insert into app.tokens values ('token 10', 10)")
    hash_all(owner, names)
    call(owner, "drop_plaintext", "drop plaintext", True, 0, names=names)
    found = owner.execute(
        "select conname, pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = 'app.tokens'::regclass and contype = 'p'"
    )
    assert found.fetchall() == [("tokens_pkey", "PRIMARY KEY (key_hash)")]
    hashes = owner.execute("select key_hash from app.tokens order by user_id").fetchall()
    assert hashes == [(kept("hex", f"token {n}"),) for n in range(1, 11)]


def test_a_primary_key_of_several_columns_keeps_the_others(owner: Connection) -> None:
    owner.execute("create table app.tokens (tenant text, k text, primary key (tenant, k))")
    owner.execute("insert into app.tokens values ('a', 'one'), ('b', 'one')")
    whole_way(owner, "app.tokens")
    found = owner.execute(
        "select pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = 'app.tokens'::regclass and contype = 'p'"
    )
    assert found.fetchall() == [("PRIMARY KEY (tenant, k_hash)",)]


def test_a_uuid_is_found_as_postgresql_writes_it(owner: Connection) -> None:
    key = "0b5ad3e0-5f1c-4a57-9a52-7f2f3fd2a001"
    owner.execute("create table app.ids (k uuid unique)")
    owner.execute("insert into app.ids values (%s)", [key])
    asked = "select k_hash from keylatch_adoption.adopted_rows(null::app.ids, 'k', %s)"
    call(owner, "adopt_column", names=["app.ids", "k"])
    assert owner.execute(asked, [key]).fetchall() == [(None,)]
    hash_all(owner, ["app.ids", "k"])
    assert owner.execute(asked, [key]).fetchall() == [(kept("hex", key),)]
    for other in ("", "x", key.upper(), f"{{{key}}}", key[:-1], None, kept("hex", key)):
        assert owner.execute(asked, [other]).fetchall() == []
    call(owner, "revert_column", names=["app.ids", "k"])
    whole_way(owner, "app.ids")
    assert owner.execute("select * from app.ids").fetchall() == [(kept("hex", key),)]
    assert owner.execute(asked, [key]).fetchall() == [(kept("hex", key),)]


def test_equal_citexts_have_one_hash(owner: Connection) -> None:
    owner.execute("create extension citext with schema extensions")
    owner.execute("create table app.folded (k extensions.citext unique)")
    owner.execute("insert into app.folded values ('Key-ONE'), (null)")
    asked = "select k_hash from keylatch_adoption.adopted_rows(null::app.folded, 'k', %s)"
    call(owner, "adopt_column", names=["app.folded", "k"])
    assert owner.execute(asked, ["KEY-one"]).fetchall() == [(None,)]
    hash_all(owner, ["app.folded", "k"])
    assert owner.execute(asked, ["KEY-one"]).fetchall() == [(kept("hex", "key-one"),)]
    assert call(owner, "prove_column", names=["app.folded", "k"])["wrong"] == 0
    call(owner, "revert_column", names=["app.folded", "k"])
    whole_way(owner, "app.folded")
    assert owner.execute(asked, ["kEY-oNe"]).fetchall() == [(kept("hex", "key-one"),)]
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner.execute("insert into app.folded values (%s)", [kept("hex", "key-one")])


def test_names_are_those_of_table_and_column_however_long_they_are(owner: Connection) -> None:
    # Each pair differs only in its last character, after 60 or 58 bytes.
    tables, columns = (["ä" * 30 + end for end in "ab"], ["ö" * 29 + end for end in "cd"])
    for schema in ("long_a", "long_b"):
        owner.execute(f"create schema {schema}")
        for table in tables:
            owner.execute(
                f'create table {schema}."{table}" ("{columns[0]}" text, "{columns[1]}" text unique)'
            )
            for column in columns:
                names = [f'{schema}."{table}"', column]
                call(owner, "adopt_column", f"h_{column[-1]}", names=names)
                make_indexes(owner, names)
                assert call(owner, "prove_column", names=names)["is_clean"]
    adopted = "select count(*), count(distinct function_name) from keylatch_adoption.adoptions"
    assert owner.execute(adopted).fetchone() == (8, 8)
    call(owner, "adopt_column")
    of_odd = (
        "select trigger_name, function_name from keylatch_adoption.adoptions where key_column = %s"
    )
    assert owner.execute(of_odd, [COLUMN]).fetchone() == (
        "zz_keylatch_hash_the 'k",
        'hash app."Odd ""T"."the \'k"',
    )


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
    for pages in (0, -1, 100_001, None):
        assert "pages must be" in refusal(owner, "hash_rows", pages)
    owner.execute('create view app.seen as select hidden from app."Odd ""T"')
    assert "needs the column hidden" in refusal(owner, "revert_column")
    with pytest.raises(psycopg.errors.DatabaseError, match="adoption_not_ready"):
        owner.execute("select * from keylatch_adoption.adopted_rows(null::app.seen, 'k', 'k')")
    with pytest.raises(psycopg.errors.DatabaseError, match="adoption_not_ready"):
        owner.execute("select * from keylatch_adoption.adopted_rows(1, 'k', 'k')")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_nobody_but_the_owner_takes_a_step(owner: Connection, empty: Database, role: str) -> None:
    call(owner, "adopt_column")
    with empty.connect(role) as other:
        for step, more in (
            ("adopt_column", ()),
            ("hash_rows", ()),
            ("prove_column", ()),
            ("read_by_hash", ()),
            ("drop_plaintext", ("drop plaintext", True, 0)),
            ("revert_column", ()),
        ):
            assert "permission denied" in refusal(other, step, *more)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute("select from keylatch_adoption.adoptions")
    # Each object is closed, whatever the default privileges are. Nobody calls trigger functions.
    allowed = owner.execute(
        """
        select nspname from pg_namespace
        where nspname = 'keylatch_adoption' and has_schema_privilege(%(role)s, oid, 'usage, create')
        union all
        select proname from pg_proc
        where pronamespace = 'keylatch_adoption'::regnamespace
            and prorettype <> 'trigger'::regtype
            and has_function_privilege(%(role)s, oid, 'execute')
        union all
        select relname from pg_class
        where relnamespace = 'keylatch_adoption'::regnamespace and relkind = 'r'
            and has_table_privilege(%(role)s, oid, 'select, insert, update, delete, truncate')
        """,
        {"role": role},
    )
    assert allowed.fetchall() == []


def test_a_table_that_you_do_not_own_is_not_yours_to_adopt(
    owner: Connection, empty: Database
) -> None:
    with psycopg.connect(empty.superuser_url, autocommit=True) as superuser:
        superuser.execute("create table app.theirs (k text)")
        belongs = f"belongs to {SUPERUSER}, and you are postgres."
        assert belongs in refusal(owner, "adopt_column", names=["app.theirs", "k"])
        # A superuser is refused, too.
        with pytest.raises(psycopg.Error) as caught:
            call(superuser, "adopt_column")
        assert caught.value.diag.message_hint == (
            "Connect as the owner, or run: set role postgres;"
        )
        superuser.execute("set role postgres")
        assert call(superuser, "adopt_column")["phase"] == "hashing"


# The owner of this table logs who writes, with a trigger that fires in every mode.
LESSER = """
create role lesser;
grant lesser to postgres;
create schema of_lesser authorization lesser;
set role lesser;
create table of_lesser.seen (by_whom name, mode text);
create table of_lesser.keys (k text);
create function of_lesser.look() returns trigger language plpgsql as $$
begin
    insert into of_lesser.seen values (current_user, current_setting('session_replication_role'));
    return new;
end $$;
create trigger look after insert or update on of_lesser.keys
    for each row execute function of_lesser.look();
alter table of_lesser.keys enable always trigger look;
insert into of_lesser.keys values ('one');
delete from of_lesser.seen;
"""


@pytest.fixture
def lesser(empty: Database) -> Iterator[Connection]:
    """A superuser's transaction with a table of a role with fewer rights. It is rolled back."""
    with psycopg.connect(empty.superuser_url) as superuser:
        superuser.execute(LESSER)
        superuser.execute("reset role")
        yield superuser
        superuser.rollback()


@pytest.mark.parametrize("member", ["postgres", SUPERUSER])
def test_code_of_a_tables_owner_never_runs_with_other_rights(
    lesser: Connection, member: str
) -> None:
    lesser.execute(f"set role {member}")
    load(lesser)
    assert "belongs to lesser" in refusal_within(lesser, "adopt_column", ["of_lesser.keys", "k"])
    # The same holds if the table gets another owner during an adoption.
    lesser.execute("set role postgres")
    lesser.execute("reset role; alter table of_lesser.keys owner to postgres")
    lesser.execute("drop schema keylatch_adoption cascade; set role postgres")
    load(lesser)
    call(lesser, "adopt_column", names=["of_lesser.keys", "k"])
    lesser.execute("reset role; alter table of_lesser.keys owner to lesser; set role postgres")
    for step in ("hash_rows", "prove_column", "read_by_hash", "revert_column"):
        assert "belongs to lesser" in refusal_within(lesser, step, ["of_lesser.keys", "k"])
    lesser.execute("reset role")
    assert lesser.execute("select * from of_lesser.seen").fetchall() == []


def refusal_within(connection: Connection, name: str, names: list[str]) -> str:
    """Return the refusal of a step, and keep the transaction usable."""
    connection.execute("savepoint before")
    said = refusal(connection, name, names=names)
    connection.execute("rollback to before")
    return said


def test_an_owner_without_other_rights_adopts_in_a_schema_that_was_made_for_them(
    lesser: Connection,
) -> None:
    names = ["of_lesser.keys", "k"]
    lesser.execute("savepoint before; set role lesser")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        load(lesser)
    lesser.execute("rollback to before")
    lesser.execute("create schema keylatch_adoption authorization lesser; set role lesser")
    load(lesser)
    call(lesser, "adopt_column", names=names)
    hash_all(lesser, names)
    # This role may not switch ordinary triggers off, so the trigger saw the mode origin.
    assert lesser.execute("select * from of_lesser.seen").fetchall() == [("lesser", "origin")]
    assert call(lesser, "prove_column", names=names)["missing"] == 0
    call(lesser, "revert_column", names=names)
    remove(lesser)
    assert left(lesser) == []


def test_ordinary_triggers_fire_only_where_the_owner_may_not_switch_them_off(
    owner: Connection, lesser: Connection
) -> None:
    adopt(owner)
    assert {row[3] for row in rows(owner)} == {None}
    lesser.execute("alter table of_lesser.keys enable trigger look")
    lesser.execute("drop schema if exists keylatch_adoption cascade")
    lesser.execute("create schema keylatch_adoption authorization lesser; set role lesser")
    load(lesser)
    call(lesser, "adopt_column", names=["of_lesser.keys", "k"])
    hash_all(lesser, ["of_lesser.keys", "k"])
    assert lesser.execute("select * from of_lesser.seen").fetchall() == [("lesser", "origin")]


def test_hash_rows_leaves_the_settings_of_the_transaction_as_they_were(owner: Connection) -> None:
    call(owner, "adopt_column")
    with owner.transaction():
        owner.execute("set local lock_timeout = '7s'")
        assert call(owner, "hash_rows")["rows_written"] > 0
        found = [owner.execute(f"show {name}").fetchone() for name in SETTINGS]
    assert found == [("7s",), ("origin",), ("",)]


def test_the_schema_stays_while_another_adoption_is_under_way(owner: Connection) -> None:
    owner.execute("create table app.single (k text)")
    adopt(owner)
    whole_way(owner, "app.single")
    remove(owner)
    # The finished adoption can still be read and proved.
    assert call(owner, "prove_column", names=["app.single", "k"])["phase"] == "dropped"
    asked = "select * from keylatch_adoption.adopted_rows(null::app.single, 'k', 'a')"
    assert owner.execute(asked).fetchall() == []
    owner.execute('drop table app."Odd ""T"')
    remove(owner)
    assert [kind for kind, _ in left(owner)] == []


def test_the_schema_is_not_taken_from_those_who_use_it(owner: Connection) -> None:
    grant_reads(owner)
    adopt(owner)
    call(owner, "read_by_hash")
    for step, more in (("drop_plaintext", ("drop plaintext", True, 0)), ("revert_column", ())):
        refused = refusal(owner, step, *more)
        assert "This step removes adopted_rows, and service_role may still call it" in refused
    owner.execute("revoke execute on function keylatch_adoption.adopted_rows from service_role")
    owner.execute(
        "create view app.seen as select id from keylatch_adoption.adopted_rows("
        """null::app."Odd ""T", 'the ''k', 'key 1')"""
    )
    for step, more in (("drop_plaintext", ("drop plaintext", True, 0)), ("revert_column", ())):
        refused = refusal(owner, step, *more)
        assert "This step removes the schema keylatch_adoption, and these need it" in refused
        assert "view app.seen" in refused
    owner.execute("drop view app.seen")
    assert call(owner, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "emptying"
    # If the functions are granted again, the last step refuses, too.
    grant_reads(owner)
    hash_all(owner)
    with pytest.raises(psycopg.Error, match="adoption_not_ready"), owner.transaction():
        call(owner, "drop_plaintext", "drop plaintext", True, 0)
        remove(owner)
    assert call(owner, "prove_column")["phase"] == "emptying"


def test_the_plaintext_column_is_not_dropped_while_the_trigger_is_off(owner: Connection) -> None:
    adopt(owner)
    call(owner, "read_by_hash")
    call(owner, "drop_plaintext", "drop plaintext", True, 0)
    hash_all(owner)
    owner.execute('alter table app."Odd ""T" disable trigger "zz_keylatch_hash_the \'k"')
    assert call(owner, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "emptying"
    owner.execute(TRIGGER_ON)
    assert call(owner, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "dropped"


def test_every_object_of_the_schema_says_what_it_is_and_finds_nothing_planted(
    owner: Connection,
) -> None:
    call(owner, "adopt_column")
    found = owner.execute(
        """
        select 'function', p.proname from pg_proc as p
        where p.pronamespace = 'keylatch_adoption'::regnamespace and (
            obj_description(p.oid, 'pg_proc') is null
            or p.proconfig is distinct from '{"search_path=pg_catalog, pg_temp"}'
            or exists (select from pg_proc as o
                where o.pronamespace = p.pronamespace and o.proname = p.proname and o.oid <> p.oid)
        )
        union all
        select 'relation', c.relname from pg_class as c
        where c.relnamespace = 'keylatch_adoption'::regnamespace and c.relkind <> 'i'
            and obj_description(c.oid, 'pg_class') is null
            and not exists (select from pg_type as t where t.typrelid = c.oid
                and obj_description(t.oid, 'pg_type') is not null)
        union all
        select 'column', a.attname
        from pg_attribute as a inner join pg_class as c on a.attrelid = c.oid
        where c.relnamespace = 'keylatch_adoption'::regnamespace and c.relkind = 'r'
            and a.attnum > 0 and col_description(c.oid, a.attnum) is null
        union all
        select 'definer', p.proname from pg_proc as p
        where p.pronamespace = 'keylatch_adoption'::regnamespace and p.prosecdef
            and p.proname not in ('find_reading', 'count_fallback')
        """
    )
    assert found.fetchall() == []
    counted = owner.execute(
        "select count(*) from pg_proc where pronamespace = 'keylatch_adoption'::regnamespace"
    ).fetchone()
    assert counted is not None
    assert counted[0] > 20


def test_rows_that_a_policy_hides_are_not_left_without_a_hash(
    owner: Connection, empty: Database
) -> None:
    owner.execute('alter table app."Odd ""T" force row level security')
    with psycopg.connect(empty.superuser_url) as superuser:
        # postgres bypasses row security here, as on Supabase; on a plain cluster an owner does not.
        superuser.execute("alter role postgres nobypassrls")
        superuser.execute("set role postgres")
        refused = refusal(superuser, "adopt_column")
        superuser.rollback()
    assert "forces row security on you" in refused
    assert call(owner, "adopt_column")["phase"] == "hashing"


def test_the_application_reads_with_its_own_rights(owner: Connection, empty: Database) -> None:
    adopt(owner)
    with empty.connect("service_role") as service:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            find(service, "key 4")
        grant_reads(owner)
        assert find(service, "key 4") == [4]
        owner.execute('revoke select on app."Odd ""T" from service_role')
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            find(service, "key 4")
    stranger = empty.connect("authenticated")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        find(stranger, "key 4")


def run(program: str, *arguments: str, given: bytes = b"") -> bytes:
    """Run a program of PostgreSQL, and return its output."""
    path = shutil.which(program)
    if path is None:
        raise MissingTool(program)
    return subprocess.run([path, *arguments], input=given, capture_output=True, check=True).stdout


@pytest.mark.one_server
def test_an_adoption_goes_on_in_a_restored_dump(
    owner: Connection, empty: Database, server: Cluster
) -> None:
    # A restore changes oids, and the column numbers after a dropped column.
    owner.execute('alter table app."Odd ""T" drop column other')
    owner.execute('alter table app."Odd ""T" add column other integer default 0')
    adopt(owner)
    call(owner, "read_by_hash")
    dump = run("pg_dump", "--schema=app", "--schema=keylatch_adoption", empty.superuser_url)
    with Database(server, f"{empty.name}_restored") as restored:
        server.install_platform(restored.name)
        run("psql", "-q", "-v", "ON_ERROR_STOP=1", restored.superuser_url, given=dump)
        with psycopg.connect(restored.url, autocommit=True) as other:
            other.execute('insert into app."Odd ""T" (id, "the \'k") values (0, \'a new one\')')
            assert find(other, "a new one") == [0]
            assert call(other, "prove_column")["is_clean"]
            call(other, "drop_plaintext", "drop plaintext", True, 0)
            hash_all(other)
            assert call(other, "drop_plaintext", "drop plaintext", True, 0)["phase"] == "dropped"
            remove(other)
            assert left(other) == []
