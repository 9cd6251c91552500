-- A column of keys in clear, in any table, adopted: what is known of it, and who may ask what.
--
-- Your own tables are changed here, so every statement runs with the rights of who calls, who has
-- to own both the table and keylatch. All names go through regclass and quoting. A busy table is
-- locked for as long as it takes to change the catalog, and waited for in short tries: behind one
-- who waits for an exclusive lock everybody else waits, too.

create table keylatch_internal.adoptions (
  relation regclass not null,
  key_column text not null,
  hash_column text not null,
  form text not null,
  phase text not null default 'hashing',
  next_page bigint not null default 0,
  last_page bigint not null default 0,
  fallback_reads bigint not null default 0,
  last_fallback_at timestamptz,
  started_at timestamptz not null,

  constraint adoptions_pkey primary key (relation, key_column),
  constraint adoptions_form_check check (form in ('hex', 'bytea')),
  constraint adoptions_phase_check check (phase in ('hashing', 'reading', 'emptying', 'dropped')),
  constraint adoptions_next_page_check check (next_page >= 0)
);

comment on table keylatch_internal.adoptions is
  'The columns of keys in clear that are being moved, or were, to a hash beside them.';
comment on column keylatch_internal.adoptions.relation is 'The table.';
comment on column keylatch_internal.adoptions.key_column is 'Its column that holds keys in clear.';
comment on column keylatch_internal.adoptions.hash_column is 'The column that holds their SHA-256.';
comment on column keylatch_internal.adoptions.form is 'hex: 64 lower-case characters; or bytea.';
comment on column keylatch_internal.adoptions.phase is
  'hashing: both columns are kept in step and the old rows are hashed. reading: the application
reads by hash. emptying: nothing in clear is kept any more. dropped: the column is gone.';
comment on column keylatch_internal.adoptions.next_page is
  'How far the pass over the table has come, in pages of 8 kB.';
comment on column keylatch_internal.adoptions.last_page is
  'Where the pass ends: where the table did when it began.';
comment on column keylatch_internal.adoptions.fallback_reads is
  'Reads since the last step that found rows by the key in clear alone; at least so many.';
comment on column keylatch_internal.adoptions.last_fallback_at is 'When the last of them was.';
comment on column keylatch_internal.adoptions.started_at is 'When phase 1 began.';

revoke all on table keylatch_internal.adoptions
from public, anon, authenticated, service_role;

alter table keylatch_internal.adoptions enable row level security;

create type keylatch.adoption as (
  table_name text,
  key_column text,
  hash_column text,
  phase text,
  index_statement text
);
comment on type keylatch.adoption is
  'An adopted column: its table, the column of its hashes, the phase that it is in, and the
statement that makes the index on the hashes. Run that outside of any transaction.';

create function keylatch_internal.adoptable_table(p_table_name text)
returns regclass
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_table pg_catalog.pg_class;
  v_problem pg_catalog.text;
begin
  begin
    select c.* into v_table from pg_catalog.pg_class as c where c.oid = to_regclass(p_table_name);
  exception
    when syntax_error or invalid_name or feature_not_supported then
      v_table := null;
  end;

  v_problem := case
    when v_table.oid is null then 'does not exist'
    when v_table.relispartition or v_table.relkind = 'p' then 'is a partition, or has some'
    when v_table.relkind <> 'r' then 'is not a table'
    when v_table.relpersistence = 't' then 'is temporary'
    when v_table.relnamespace::pg_catalog.regnamespace::pg_catalog.text
      in ('keylatch', 'keylatch_internal', 'pg_catalog', 'information_schema')
      then 'is not one of yours'
    when exists (select 1 from pg_catalog.pg_inherits as h where h.inhparent = v_table.oid)
      then 'has tables that inherit from it'
    when not pg_has_role(v_table.relowner, 'usage') then 'is not owned by you'
    -- Rows that a policy hides would have no hash, and no proof would count them.
    when v_table.relforcerowsecurity and not exists (
      select 1
      from pg_catalog.pg_roles as r
      where r.rolname = current_user and (r.rolbypassrls or r.rolsuper)
    ) then 'forces row security on you'
  end;
  if v_problem is not null then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = format('The table %s %s.', coalesce(p_table_name, 'null'), v_problem),
      hint = 'Name an ordinary table of yours with its schema, as in public.sessions; double '
        || 'quotes around what is not lower case.';
  end if;
  return v_table.oid;
end;
$$;

comment on function keylatch_internal.adoptable_table(text) is
  'The table of this name, as SQL writes it, if a column of it can be adopted.';

revoke all on function keylatch_internal.adoptable_table(text)
from public, anon, authenticated, service_role;

create function keylatch_internal.check_adoptable_column(p_relation regclass, p_column text)
returns void
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_column pg_catalog.pg_attribute;
  v_problem pg_catalog.text;
begin
  select a.*
  into v_column
  from pg_catalog.pg_attribute as a
  where a.attrelid = p_relation and a.attname = p_column and a.attnum > 0 and not a.attisdropped;

  v_problem := case
    when not found then 'does not exist'
    when v_column.attgenerated <> '' then 'is a generated one'
    when v_column.atttypid not in (
      'pg_catalog.text'::pg_catalog.regtype, 'pg_catalog.varchar'::pg_catalog.regtype
    ) then 'is neither text nor varchar'
    when v_column.attinhcount > 0 then 'is inherited'
    when exists (
      select 1
      from pg_catalog.pg_index as i
      where i.indrelid = p_relation and i.indisprimary and v_column.attnum = any (i.indkey)
    ) then 'is of the primary key'
  end;
  if v_problem is not null then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = format('The column %s of %s %s.', coalesce(p_column, 'null'), p_relation, v_problem),
      hint = 'Name the column that holds the keys in clear, without quotes.';
  end if;
end;
$$;

comment on function keylatch_internal.check_adoptable_column(regclass, text) is
  'Refuses a column that cannot be adopted.';

revoke all on function keylatch_internal.check_adoptable_column(regclass, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.refuse_adoption(p_detail text, p_hint text)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  raise sqlstate 'PT409' using
    message = 'adoption_not_ready', detail = p_detail, hint = p_hint;
end;
$$;

comment on function keylatch_internal.refuse_adoption(text, text) is
  'Says why a step of an adoption cannot be done yet, or not any more.';

revoke all on function keylatch_internal.refuse_adoption(text, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.adoption_in(
  p_table_name text, p_column text, p_phases text[], p_lock boolean
)
returns keylatch_internal.adoptions
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_relation constant pg_catalog.regclass := keylatch_internal.adoptable_table(p_table_name);
  v_adoption keylatch_internal.adoptions;
begin
  if p_lock then
    select a.*
    into v_adoption
    from keylatch_internal.adoptions as a
    where a.relation = v_relation and a.key_column = p_column
    for update;
  else
    select a.*
    into v_adoption
    from keylatch_internal.adoptions as a
    where a.relation = v_relation and a.key_column = p_column;
  end if;

  if v_adoption.relation is null then
    perform keylatch_internal.refuse_adoption(
      format('The column %s of %s is not adopted.', p_column, v_relation),
      'Begin with adopt_column.'
    );
  elsif v_adoption.phase <> all (p_phases) then
    perform keylatch_internal.refuse_adoption(
      format('The column %s of %s is in phase %s.', p_column, v_relation, v_adoption.phase),
      format('This step is for phase %s.', array_to_string(p_phases, ' or '))
    );
  end if;
  return v_adoption;
end;
$$;

comment on function keylatch_internal.adoption_in(text, text, text [], boolean) is
  'What is known of an adopted column, if it is in one of these phases; locked for a step.';

revoke all on function keylatch_internal.adoption_in(text, text, text [], boolean)
from public, anon, authenticated, service_role;

create function keylatch_internal.lock_shortly(p_relation regclass)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_given constant pg_catalog.text := current_setting('lock_timeout');
begin
  for v_try in 1 .. 100 loop
    begin
      perform set_config('lock_timeout', '50ms', true);
      execute format('lock table %s in access exclusive mode', p_relation);
      perform set_config('lock_timeout', v_given, true);
      return;
    exception
      when lock_not_available then
        -- Whoever queued up behind this one goes first.
        perform pg_sleep(0.1);
    end;
  end loop;
  perform keylatch_internal.refuse_adoption(
    format('The table %s was in use all the time.', p_relation),
    'Try again when no long transaction holds it; pg_stat_activity shows them.'
  );
end;
$$;

comment on function keylatch_internal.lock_shortly(regclass) is
  'Takes a table for the rest of the transaction, in tries of 50 ms, so that nobody is kept waiting
behind one that itself waits.';

revoke all on function keylatch_internal.lock_shortly(regclass)
from public, anon, authenticated, service_role;

create function keylatch_internal.hash_expression(p_form text, p_value text)
returns text
language plpgsql
immutable
security invoker
set search_path = ''
as $$
declare
  v_hash constant pg_catalog.text :=
    format('pg_catalog.sha256(pg_catalog.convert_to(%s, ''UTF8''))', p_value);
begin
  return case p_form when 'hex' then format('pg_catalog.encode(%s, ''hex'')', v_hash) else v_hash end;
end;
$$;

comment on function keylatch_internal.hash_expression(text, text) is
  'The SQL that makes of a value in clear what stands in the hash column.';

revoke all on function keylatch_internal.hash_expression(text, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.adoption_names(p_relation regclass, p_column text)
returns text []
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_schema pg_catalog.text;
  v_number pg_catalog.int2;
begin
  select c.relnamespace::pg_catalog.regnamespace::pg_catalog.text, a.attnum
  into v_schema, v_number
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid
  where c.oid = p_relation and a.attname = p_column;
  -- Triggers fire in the order of their names: this one sees what all others made of the row.
  return array[
    format('zz_keylatch_hash_%s', v_number),
    format('%s.keylatch_hash_%s_%s', v_schema, p_relation::pg_catalog.oid, v_number),
    format('keylatch_hash_%s_%s_idx', p_relation::pg_catalog.oid, v_number),
    v_schema
  ];
end;
$$;

comment on function keylatch_internal.adoption_names(regclass, text) is
  'Of an adopted column the trigger, its function, the index and the schema, as SQL writes them.';

revoke all on function keylatch_internal.adoption_names(regclass, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.drop_hash_trigger(p_adoption keylatch_internal.adoptions)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_names constant pg_catalog.text [] :=
    keylatch_internal.adoption_names(p_adoption.relation, p_adoption.key_column);
begin
  execute format('drop trigger if exists %I on %s', v_names[1], p_adoption.relation);
  execute format('drop function if exists %s()', v_names[2]);
end;
$$;

comment on function keylatch_internal.drop_hash_trigger(keylatch_internal.adoptions) is
  'Drops the trigger of an adopted column, and its function.';

revoke all on function keylatch_internal.drop_hash_trigger(keylatch_internal.adoptions)
from public, anon, authenticated, service_role;

create function keylatch_internal.make_hash_trigger(p_adoption keylatch_internal.adoptions)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_names constant pg_catalog.text [] :=
    keylatch_internal.adoption_names(p_adoption.relation, p_adoption.key_column);
  v_key constant pg_catalog.text := format('new.%I', p_adoption.key_column);
  v_hash constant pg_catalog.text := format('new.%I', p_adoption.hash_column);
  v_value constant pg_catalog.text := keylatch_internal.hash_expression(p_adoption.form, v_key);
  v_empties constant pg_catalog.bool := p_adoption.phase = 'emptying';
begin
  perform keylatch_internal.drop_hash_trigger(p_adoption);
  -- Written out for the table, because a generic one costs a detour through jsonb for each row.
  execute format(
    'create function %s() returns trigger language plpgsql set search_path = '''' as %L',
    v_names[2],
    format(
      'begin %s := %s; %s return new; end', v_hash, v_value,
      case when v_empties then format('%s := null;', v_key) else '' end
    )
  );
  execute format('revoke all on function %s() from public', v_names[2]);
  execute format(
    'comment on function %s() is %L', v_names[2],
    format('Keeps %s.%I as keylatch.adopt_column says.', p_adoption.relation, p_adoption.hash_column)
  );
  -- Whatever is written, so that a row that moves while the old ones are hashed is not missed; and
  -- a condition, because it is cheaper than the call of a function that finds nothing to do.
  execute format(
    'create trigger %I before insert or update on %s for each row when (%s)'
    ' execute function %s()',
    v_names[1], p_adoption.relation,
    case when v_empties then format('%s is not null', v_key)
      -- What hash_rows writes is the hash. Nobody passes who may not switch triggers off at all.
      else format(
        'not (pg_catalog.current_setting(''session_replication_role'') = ''replica'''
        ' and coalesce(pg_catalog.current_setting(''keylatch.hashing'', true), '''') = ''on'')'
        ' and %s is distinct from %s',
        v_hash, v_value
      )
    end,
    v_names[2]
  );
  execute format('alter table %s enable always trigger %I', p_adoption.relation, v_names[1]);
end;
$$;

comment on function keylatch_internal.make_hash_trigger(keylatch_internal.adoptions) is
  'Makes the trigger of an adopted column, and its function, for the phase that it is in.';

revoke all on function keylatch_internal.make_hash_trigger(keylatch_internal.adoptions)
from public, anon, authenticated, service_role;

create function keylatch_internal.index_statement(p_adoption keylatch_internal.adoptions)
returns text
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  -- Where no two rows may have the same key, none may have the same hash: the constraint goes with
  -- the column in the end.
  v_unique constant pg_catalog.text := case
    when exists (
      select 1
      from pg_catalog.pg_index as i
      inner join pg_catalog.pg_attribute as a
        on i.indrelid = a.attrelid and i.indkey[0] = a.attnum
      where i.indrelid = p_adoption.relation
        and a.attname = p_adoption.key_column
        and i.indisunique
        and i.indnkeyatts = 1
        and i.indpred is null
    ) then 'unique index' else 'index'
  end;
begin
  return format(
    'create %s concurrently if not exists %I on %s (%I)', v_unique,
    (keylatch_internal.adoption_names(p_adoption.relation, p_adoption.key_column))[3],
    p_adoption.relation, p_adoption.hash_column
  );
end;
$$;

comment on function keylatch_internal.index_statement(keylatch_internal.adoptions) is
  'The statement that makes the index on the hashes without stopping those who write.';

revoke all on function keylatch_internal.index_statement(keylatch_internal.adoptions)
from public, anon, authenticated, service_role;

create function keylatch_internal.adopted_column(
  p_relation regclass, p_column text, p_fell_back boolean
)
returns keylatch_internal.adoptions
language plpgsql
volatile
-- definer because: an application that reads need not see what else is adopted, nor write there.
security definer
set search_path = ''
as $$
declare
  v_adoption keylatch_internal.adoptions;
begin
  -- A replica cannot count, and no read waits for another to be counted.
  if p_fell_back and current_setting('transaction_read_only') = 'off' then
    update keylatch_internal.adoptions as a
    set fallback_reads = a.fallback_reads + 1, last_fallback_at = clock_timestamp()
    where (a.relation, a.key_column) in (
      select f.relation, f.key_column
      from keylatch_internal.adoptions as f
      where f.relation = p_relation and f.key_column = p_column
      for update skip locked
    );
  end if;
  select a.*
  into v_adoption
  from keylatch_internal.adoptions as a
  where a.relation = p_relation and a.key_column = p_column;
  return v_adoption;
end;
$$;

comment on function keylatch_internal.adopted_column(regclass, text, boolean) is
  'What is known of an adopted column, null of any other; and counts a read that found rows by the
key in clear alone.';

revoke all on function keylatch_internal.adopted_column(regclass, text, boolean)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.adopted_column(regclass, text, boolean) to service_role;
