"""Writes sql/ops/after_restore.sql: the grants, triggers and rows of the migrations.

`make generate` runs this program. With --check it writes nothing, and exits with 1 if the file in
the tree is out of date.
"""

from __future__ import annotations

import re
import sys
from itertools import count
from pathlib import Path

from stack.modules import migrations, parts
from stack.tools import ROOT

FILE = ROOT / "sql" / "ops" / "after_restore.sql"

HEAD = """\
-- Repairs what a restore can lose of keylatch: the role keylatch_resolver and its members, grants,
-- triggers that are disabled or do not fire in replication mode, and rows of the migrations.
--
-- Made from supabase/migrations by `make generate`; do not edit. Plain SQL for any client. Run it
-- as the owner of keylatch, after every restore. It prints what it repaired. Repeating is harmless.
--
--   psql --no-psqlrc -v ON_ERROR_STOP=1 --single-transaction --file sql/ops/after_restore.sql
--
-- Go on only if the last notice says that keylatch is whole. After an error, no later step runs.
-- Without ON_ERROR_STOP, psql ends with exit code 0 even if this file has failed.
--
-- It removes your own grants to public, anon, authenticated and service_role on objects of
-- keylatch. It does not know which keys were revoked after the dump was made.

do $$ begin perform pg_catalog.set_config('keylatch.step', '0', false); end $$;
create or replace function pg_temp.keylatch_step(p_number integer)
returns void language plpgsql set search_path = pg_catalog as $$
begin
  -- An error rolls the setting back, so that each later step is refused.
  if current_setting('keylatch.step') <> (p_number - 1)::text then
    raise exception 'step % of after_restore.sql was not run, because an earlier step failed',
      p_number using hint = 'Correct the first error of this output, and run the file again.';
  end if;
  perform set_config('keylatch.step', p_number::text, false);
end $$;

do $$
begin
  if pg_catalog.to_regnamespace('keylatch_internal') is null then
    raise exception 'the database % has no keylatch', pg_catalog.current_database()
      using hint = 'Restore the schemas keylatch and keylatch_internal first.';
  elsif not (
    select pg_catalog.pg_has_role(n.nspowner, 'usage')
    from pg_catalog.pg_namespace as n where n.nspname = 'keylatch_internal'
  )
  then
    raise exception '% is not the owner of keylatch', current_user
      using hint = 'Connect as the owner of the schema keylatch_internal.';
  elsif exists (
    select from keylatch_internal.installation as i where i.schema_version <> '@VERSION@'
  )
  then
    raise exception 'the database has another release of keylatch than @VERSION@'
      using hint = 'Take this file from the release that installation() names.';
  end if;
end $$;

-- The state that a restore can lose. The end of this file compares the state with this one.
create or replace function pg_temp.keylatch_state()
returns table (kind text, name text, state text) language sql stable
set search_path = pg_catalog as $$
  select 'trigger', t.tgname || ' on ' || t.tgrelid::regclass, t.tgenabled::text
  from pg_trigger as t
  union all
  select 'grants of the function', p.oid::regprocedure::text, o.grants
  from pg_proc as p
  cross join lateral (
    select string_agg(a::text, ' ' order by a::text) as grants
    from unnest(coalesce(p.proacl, acldefault('f', p.proowner))) as a
  ) as o
  where p.pronamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
  union all
  select 'grants of the table, view or sequence', c.oid::regclass::text, o.grants || t.grants
  from pg_class as c
  cross join lateral (
    select coalesce(string_agg(a::text, ' ' order by a::text), '') as grants
    from unnest(coalesce(
      c.relacl, acldefault(case c.relkind when 'S' then 's'::"char" else 'r' end, c.relowner)
    )) as a
  ) as o
  cross join lateral (
    select coalesce(string_agg(a.attname || a.attacl::text, ' ' order by a.attnum), '') as grants
    from pg_attribute as a where a.attrelid = c.oid
  ) as t
  where c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
    and c.relkind in ('r', 'v', 'S')
  union all
  select 'grants of the schema', n.nspname::text, o.grants
  from pg_namespace as n
  cross join lateral (
    select string_agg(a::text, ' ' order by a::text) as grants
    from unnest(coalesce(n.nspacl, acldefault('n', n.nspowner))) as a
  ) as o
  where n.nspname in ('keylatch', 'keylatch_internal')
  union all
  select 'member of keylatch_resolver', m.member::regrole::text, 'member'
  from pg_auth_members as m where m.roleid = to_regrole('keylatch_resolver')::oid
$$;
create temporary table keylatch_before as
select s.kind, s.name, s.state from pg_temp.keylatch_state() as s;

"""

OTHERS = """\
-- Triggers that a restore has left disabled, also those of foreign keys.
do $$
declare
  v_trigger record;
begin
  for v_trigger in
    select t.tgname, t.tgrelid::regclass as relation
    from pg_catalog.pg_trigger as t
    inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
    inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
    where t.tgenabled = 'D' and (
      p.pronamespace::regnamespace::text in ('keylatch_internal', 'keylatch_adoption')
      or t.tgisinternal
      and c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
    )
  loop
    execute format('alter table %s enable trigger %I', v_trigger.relation, v_trigger.tgname);
  end loop;
exception when insufficient_privilege then
  raise exception 'keylatch is not whole: % may not enable the trigger % on %',
    current_user, v_trigger.tgname, v_trigger.relation
    using hint = 'Run this file as a superuser.';
end $$;

-- Triggers on your own tables that must also fire in replication mode.
do $$
declare
  v_trigger record;
begin
  for v_trigger in
    select t.tgname, t.tgrelid::regclass as relation
    from pg_catalog.pg_trigger as t
    inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
    where t.tgenabled = 'O' and (
      p.pronamespace::regnamespace::text = 'keylatch_adoption'
      or (p.oid = 'keylatch_internal.revoke_workspace_keys'::regproc and t.tgtype & 32 <> 0)
    )
  loop
    execute format(
      'alter table %s enable always trigger %I', v_trigger.relation, v_trigger.tgname
    );
  end loop;
end $$;

"""

TAIL = """\
do $$
declare
  v_repaired record;
begin
  for v_repaired in
    select
      n.kind, count(*) as number,
      array_to_string((array_agg(n.name order by n.name))[:3], ', ')
      || case when count(*) > 3 then ' and others' else '' end as names
    from pg_temp.keylatch_state() as n
    left join keylatch_before as b on n.kind = b.kind and n.name = b.name
    where n.state is distinct from b.state
    group by n.kind
    order by n.kind
  loop
    raise notice 'Repaired %, %: %', v_repaired.kind, v_repaired.number, v_repaired.names;
  end loop;
  raise notice E'keylatch is whole.\\n'
    'If this database was restored, keys that were revoked after the dump was made\\n'
    'are active again. To revoke these keys again, run:\\n'
    'keylatch revocations apply FILE';
end $$;
drop table keylatch_before;
drop function pg_temp.keylatch_state();
drop function pg_temp.keylatch_step(integer);
"""


def after_restore() -> str:
    """The text of the file."""
    base = migrations()[0].read_text()
    version = re.search(r"installation \(schema_version\) values \('(.*)'\)", base)
    assert version
    text = HEAD.replace("@VERSION@", version[1])
    text += "-- The role, as in the first migration.\n" + _role(base) + "\n"
    for title, _, files in parts():
        text += _part(title, files)
    return _numbered(text + OTHERS + TAIL)


def _numbered(text: str) -> str:
    """Let each block of SQL run only if the blocks before it have succeeded."""
    numbers = count(1)

    def number(block: re.Match[str]) -> str:
        # The handlers of the other blocks would roll the number back.
        if "\nexception" in block[0] and "raise exception" not in block[0]:
            return block[0]
        step = f"\nbegin\n  perform pg_temp.keylatch_step({next(numbers)});\n"
        return block[0].replace("\nbegin\n", step, 1)

    return re.sub(r"^do \$\$\n.*?^end \$\$;$", number, text, flags=re.M | re.S)


def _role(text: str) -> str:
    """The two blocks of SQL that create the role and its members."""
    start = text.index("do $$\nbegin\n  if pg_catalog.to_regrole('keylatch_resolver')")
    return text[start : text.index("\ncreate table keylatch_internal.errors")]


def _part(title: str, files: list[Path]) -> str:
    """The block of SQL that repairs one part of keylatch if the part is installed."""
    text = "".join(file.read_text() for file in files)
    made = re.search(r"^create (table|function) ([a-z_.]+)", text, re.M)
    assert made
    kind = "class" if made[1] == "table" else "proc"
    lines = [f"-- {title}.", "do $$", "declare", "  v_rows bigint;", "begin"]
    lines += [f"  if pg_catalog.to_reg{kind}('{made[2]}') is null then", "    return;", "  end if;"]
    for match in re.finditer(r"^insert into (keylatch_internal\.\w+).*?;$", text, re.M | re.S):
        lines.append(f"{match[0][:-1]}\non conflict do nothing;")
        lines += ["  get diagnostics v_rows = row_count;", "  if v_rows > 0 then"]
        lines += [f"    raise notice 'Repaired rows of {match[1]}, %', v_rows;", "  end if;"]
    for match in re.finditer(
        r"^(update keylatch_internal.installation set .*'(\w+)'\));", text, re.M
    ):
        lines.append(f"{match[1]}\nwhere '{match[2]}' <> all (modules);")
    # A line of a comment can begin with revoke or grant too, so `on` must follow.
    statements = (
        r"^(?:alter table [a-z_.]+\s+enable \w+ trigger|(?:revoke|grant)\s[a-z_,()\s]*?\bon)\s.*?;$"
    )
    lines += re.findall(statements, text, re.M | re.S)
    return "\n".join([*lines, "end $$;", "", ""])


def main(arguments: list[str]) -> int:
    """Write or compare the file."""
    text = after_restore()
    if arguments == ["--check"]:
        if FILE.read_text() == text:
            return 0
        print("after_restore.sql is not what the migrations say; run: make generate")
        return 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
