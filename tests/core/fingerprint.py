"""The catalog of an installation as sorted lines: equal installations have equal lines."""

from typing import Any

import psycopg

# Each query returns lines that begin with the name of an object. %(schemas)s are the schemas to
# read. Every owner of keylatch is called "owner", and no line contains an object id.
_WHO = (
    "case a.{0} when 0 then 'public'"
    " when (select nspowner from pg_namespace where nspname = 'keylatch') then 'owner'"
    " else pg_get_userbyid(a.{0}) end"
)
_GRANTS = (
    f"{_WHO.format('grantee')} || ' ' || a.privilege_type || ' by ' || {_WHO.format('grantor')}"
    " || case when a.is_grantable then ' grantable' else '' end"
)
_OURS = "n.nspname = any (%(schemas)s)"

_SHAPE = {
    "schema": "select n.nspname from pg_namespace n where " + _OURS,
    "relation": f"""
        select c.oid::regclass || ' ' || concat_ws(
          ' ', c.relkind, c.relpersistence, c.reloptions::text, c.relreplident,
          'rls', c.relrowsecurity, c.relforcerowsecurity,
          case when c.relowner = n.nspowner then 'owner' else c.relowner::regrole::text end)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where {_OURS} and c.relkind not in ('i', 'I', 't')""",
    "column": f"""
        select c.oid::regclass || '.' || a.attname || ' ' || concat_ws(
          ' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
          a.attgenerated, pg_get_expr(d.adbin, d.adrelid))
        from pg_attribute a join pg_class c on c.oid = a.attrelid
        join pg_namespace n on n.oid = c.relnamespace
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where {_OURS} and a.attnum > 0 and not a.attisdropped and c.relkind not in ('i', 'I')""",
    "view": f"""
        select c.oid::regclass || ' ' || pg_get_viewdef(c.oid)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where {_OURS} and c.relkind = 'v'""",
    "constraint": f"""
        select o.conrelid::regclass || ' ' || o.conname || ' ' || concat_ws(
          ' ', pg_get_constraintdef(o.oid), o.convalidated, o.condeferrable)
        from pg_constraint o join pg_namespace n on n.oid = o.connamespace
        where {_OURS}""",
    "index": f"""
        select pg_get_indexdef(i.indexrelid) || ' ' || i.indisvalid || ' ' || i.indisready
        from pg_index i join pg_class c on c.oid = i.indexrelid
        join pg_namespace n on n.oid = c.relnamespace
        where {_OURS}""",
    "function": f"""
        select p.oid::regprocedure || ' ' || concat_ws(
          ' ', p.prokind, p.provolatile, p.proparallel, p.proisstrict, p.proleakproof,
          'definer', p.prosecdef, p.proretset, p.prorows, p.procost, p.proconfig::text,
          case when p.proowner = n.nspowner then 'owner' else p.proowner::regrole::text end,
          pg_get_function_result(p.oid), pg_get_function_arguments(p.oid), l.lanname, p.prosrc)
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        join pg_language l on l.oid = p.prolang
        where {_OURS}""",
    "trigger": f"""
        select t.tgrelid::regclass || ' ' || concat_ws(
          ' ', t.tgenabled, case when not t.tgisinternal then pg_get_triggerdef(t.oid) end,
          t.tgfoid::regprocedure, t.tgtype)
        from pg_trigger t join pg_class c on c.oid = t.tgrelid
        join pg_namespace n on n.oid = c.relnamespace
        where {_OURS}""",
    "policy": f"""
        select p.tablename || ' ' || concat_ws(
          ' ', p.policyname, p.permissive, p.roles::text, p.cmd, p.qual, 'check', p.with_check)
        from pg_policies p join pg_namespace n on n.nspname = p.schemaname
        where {_OURS}""",
    "comment": f"""
        select o.type || ' ' || o.identity || ' ' || d.description
        from pg_description d
        cross join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) o
        join pg_namespace n on n.nspname = coalesce(
          o.schema, case o.type when 'schema' then o.name
          else split_part(regexp_replace(o.identity, '^.* on ', ''), '.', 1) end)
        where {_OURS}""",
    "role": """
        select r.rolname || ' ' || concat_ws(
          ' ', r.rolcanlogin, r.rolinherit, r.rolsuper, r.rolcreaterole, r.rolbypassrls)
        from pg_roles r where r.rolname = 'keylatch_resolver'""",
}
_ACCESS = {
    "schema": f"""
        select n.nspname || ' ' || {_GRANTS} from pg_namespace n
        cross join aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a where {_OURS}""",
    "relation": f"""
        select c.oid::regclass || ' ' || {_GRANTS}
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        cross join aclexplode(coalesce(
          c.relacl, acldefault(case c.relkind when 'S' then 's'::"char" else 'r' end, c.relowner)
        )) a
        where {_OURS} and c.relkind in ('r', 'v', 'S')""",
    "column": f"""
        select c.oid::regclass || '.' || t.attname || ' ' || {_GRANTS}
        from pg_attribute t join pg_class c on c.oid = t.attrelid
        join pg_namespace n on n.oid = c.relnamespace
        cross join aclexplode(t.attacl) a where {_OURS}""",
    "function": f"""
        select p.oid::regprocedure || ' ' || {_GRANTS}
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where {_OURS}""",
    "type": f"""
        select t.oid::regtype || ' ' || {_GRANTS}
        from pg_type t join pg_namespace n on n.oid = t.typnamespace
        cross join aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) a where {_OURS}""",
}
SCHEMAS = ("keylatch", "keylatch_internal")


def access(url: str, *, is_whole: bool = True) -> list[str]:
    """The grants on every schema, table, view, column, function and type.

    Args:
        url: The URL of the database.
        is_whole: Whether each kind of object must have grants.
    """
    return _lines(url, _ACCESS, is_whole=is_whole)


def fingerprint(url: str) -> list[str]:
    """The whole catalog: tables, functions, guards, comments, and the lines of `access`."""
    return _lines(url, _SHAPE) + _lines(url, _ACCESS)


def _lines(url: str, queries: dict[str, str], *, is_whole: bool = True) -> list[str]:
    found: list[str] = []
    with psycopg.connect(url) as connection:
        connection.execute("set local search_path = pg_catalog")
        for kind, query in queries.items():
            rows: list[tuple[Any, ...]] = connection.execute(
                query.encode(), {"schemas": list(SCHEMAS)}
            ).fetchall()
            assert rows or not is_whole, f"no {kind} of keylatch: the query cannot be right"
            assert all(row[0] is not None for row in rows), f"a line of {kind} is null"
            found += sorted(f"{kind} {row[0]}" for row in rows)
    return found
