"""The manifest that is shipped: what the migrations install, on every server alike, all of it."""

import json

import psycopg

from keylatch.doctor.catalog import read_catalog, read_manifest
from keylatch.migrations import shipped
from manifest import FILE, manifest
from stack import Database

# What PostgreSQL counts to a schema, but for what comes with a table: its row type, and that of its
# arrays.
MEMBERS = """
select distinct i.type, i.identity
from pg_depend as d
cross join pg_identify_object(d.classid, d.objid, 0) as i
where d.refclassid = 'pg_namespace'::regclass
  and d.refobjid::regnamespace::text in ('keylatch', 'keylatch_internal')
  and not exists (
    select 1 from pg_type as t left join pg_class as c on c.oid = t.typrelid
    where d.classid = 'pg_type'::regclass and t.oid = d.objid
      and (t.typelem <> 0 or c.relkind <> 'c')
  )
  and not exists (select 1 from pg_class as c
    where d.classid = 'pg_class'::regclass and c.oid = d.objid and c.relkind = 'c')
"""


def test_it_is_what_the_migrations_install_on_this_server(bare: Database) -> None:
    assert manifest(bare.url) == FILE.read_text(), "run: make manifest"


def test_it_names_every_object_that_the_server_counts_to_the_schemas(database: Database) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute("set search_path = ''")
        members = connection.execute(MEMBERS).fetchall()
    names = {name for _, name in read_manifest().entries}
    assert len(members) > 30
    missing = [one for one in members if one[1].replace("pg_catalog.", "") not in names]
    assert missing == []


def test_it_has_a_line_for_each_object_and_the_migration_that_made_it() -> None:
    first, *lines, last = FILE.read_text().splitlines()
    assert (first[:19], last) == ('{"schema_version": ', "]}")
    objects = [json.loads(line.rstrip(",")) for line in lines]
    assert objects == sorted(objects, key=lambda one: (one["kind"], one["name"]))
    assert {one["migration"] for one in objects} == {one.name for one in shipped()}


def test_no_role_is_in_it_but_those_of_the_platform() -> None:
    grantees = {
        line.partition(": ")[0] for one in read_manifest().entries.values() for line in one.grants
    }
    platform = {"anon", "authenticated", "service_role", "keylatch_resolver"}
    assert grantees == {"the owner", *platform}


def test_reading_depends_on_no_setting_of_the_session(database: Database) -> None:
    found = []
    for settings in (
        "set search_path = public",
        "set search_path = keylatch, keylatch_internal, extensions; set timezone = 'Asia/Tokyo';"
        " set datestyle = 'german'; set intervalstyle = 'iso_8601'; set quote_all_identifiers = on",
    ):
        with psycopg.connect(database.url) as connection:
            connection.execute(settings.encode())
            found.append(read_catalog(connection))
    assert found[0] == found[1]
    assert found[0].keys() == read_manifest().entries.keys()
