"""The shipped manifest has every object that the migrations install, equal on every server."""

import json
from collections.abc import Mapping
from dataclasses import replace

import psycopg
import pytest

from keylatch_cli.doctor.catalog import Entry, Name, read_catalog, read_manifest
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice, Tenancy, shipped
from stack import Cluster, Database
from stack.modules import module_names
from tools.manifest import FILE, manifest

# All objects in the schemas, except those that another object creates: array types, the row type of
# a table or view, and the relation of a composite type.
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


def test_the_manifest_is_what_the_migrations_install_on_this_server(server: Cluster) -> None:
    assert manifest(server) == FILE.read_text(), "run: make generate"


@pytest.mark.one_server
@pytest.mark.parametrize("tenancy", ["keylatch", "own"])
@pytest.mark.parametrize("modules", [(), *((name,) for name in module_names()), module_names()])
def test_the_parts_of_every_installation_add_up_to_its_objects(
    bare: Database, modules: tuple[str, ...], tenancy: Tenancy
) -> None:
    apply(bare.connect(), Choice(only=tuple(modules) or ("core",)), tenancy)
    with bare.connect(autocommit=False) as connection:
        live = read_catalog(connection)
    read = read_manifest()
    installed = ["core", *(["tenancy"] if tenancy == "keylatch" else []), *modules]
    parts = read.installed(live, shipped().with_needs(modules))
    assert set(installed) <= set(parts)
    assert read.installed(live, None) == parts, "the same without asking the database"
    expected = read.expected(parts).entries
    assert {key: replace(one, owner=None) for key, one in live.items()} == expected


def test_the_manifest_names_every_object_that_the_server_has_in_the_schemas(
    database: Database,
) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute("set search_path = ''")
        members = connection.execute(MEMBERS).fetchall()
    names = {name for _, name in everything()}
    assert len(members) > 30
    missing = [one for one in members if one[1].replace("pg_catalog.", "") not in names]
    assert missing == []


def everything() -> Mapping[Name, Entry]:
    read = read_manifest()
    return read.expected(read.parts).entries


def test_the_manifest_has_a_line_for_each_object_of_each_part() -> None:
    text = FILE.read_text()
    parts = json.loads(text)["parts"]
    assert list(parts) == list(shipped().parts)
    assert len(text.splitlines()) == 2 + sum(len(objects) + 2 for objects in parts.values())
    for objects in parts.values():
        assert objects == sorted(objects, key=lambda one: (one["kind"], one["name"]))
    assert len(text) < 200_000


def test_no_role_is_in_it_but_those_of_the_platform() -> None:
    grantees = {line.partition(": ")[0] for one in everything().values() for line in one.grants}
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
    assert found[0].keys() == everything().keys()
