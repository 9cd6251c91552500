-- Moves a plaintext column of your own table to hashes. `keylatch adopt` loads the files of this
-- folder when it starts and removes the schema when it is done. The files need no pgcrypto.
--
-- Almost every statement runs with the rights of the caller, who owns the table. A table is locked
-- exclusively only to change its definition, in short tries: while one session waits for an
-- exclusive lock, all other sessions wait behind this session.

-- The check is needed because PostgreSQL refuses "create schema if not exists" to an owner who may
-- not create schemas, even if an administrator has already created the schema.
do $$
begin
  if pg_catalog.to_regnamespace('keylatch_adoption') is null then
    create schema keylatch_adoption;
  end if;
end $$;
comment on schema keylatch_adoption is
  'Moves plaintext columns to hashes. keylatch adopt drops the schema when no adoption is running.';

create function keylatch_adoption.refuse(p_slug text, p_detail text, p_hint text)
returns void language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using
    errcode = case p_slug when 'invalid_argument' then 'PT400' else 'PT409' end,
    message = p_slug, detail = p_detail, hint = p_hint;
end $$;
comment on function keylatch_adoption.refuse is
  'Raises an error of an adoption: invalid_argument (PT400) or adoption_not_ready (PT409).';

create table keylatch_adoption.adoptions (
  relation regclass not null,
  key_column text not null,
  key_type regtype not null,
  hash_column text not null,
  form text not null,
  phase text not null default 'hashing',
  trigger_name text not null,
  function_name text not null,
  next_page bigint not null default 0,
  last_page bigint not null default 0,
  reads_before bigint not null default 0,
  reading_since timestamptz,
  started_at timestamptz not null default pg_catalog.now(),

  constraint adoptions_pkey primary key (relation, key_column),
  constraint adoptions_form_check check (form in ('hex', 'bytea')),
  constraint adoptions_phase_check check (phase in ('hashing', 'reading', 'emptying', 'dropped'))
);
comment on table keylatch_adoption.adoptions is 'The columns whose keys are being moved to hashes.';
comment on column keylatch_adoption.adoptions.relation is 'The table that has the plaintext keys.';
comment on column keylatch_adoption.adoptions.key_column is 'The column of plaintext keys.';
comment on column keylatch_adoption.adoptions.key_type is
  'The type of key_column. A uuid is hashed as PostgreSQL prints the uuid, a citext in lower case.';
comment on column keylatch_adoption.adoptions.hash_column is 'The column of the SHA-256 hashes.';
comment on column keylatch_adoption.adoptions.form is 'The format of the hashes: hex or bytea.';
comment on column keylatch_adoption.adoptions.phase is
  'hashing: a trigger hashes new keys, and hash_rows old keys. reading: the application reads by
the hash. emptying: the plaintext keys are set to null. dropped: the plaintext column was dropped.';
comment on column keylatch_adoption.adoptions.trigger_name is 'The trigger that hashes new keys.';
comment on column keylatch_adoption.adoptions.function_name is 'The function of the trigger.';
comment on column keylatch_adoption.adoptions.next_page is
  'The page of the table (8 kB) where the next call of hash_rows continues.';
comment on column keylatch_adoption.adoptions.last_page is
  'The page where hash_rows ends: the size of the table, in pages, when hash_rows began at page 0.';
comment on column keylatch_adoption.adoptions.reads_before is
  'How many fallback reads came before the last read_by_hash. prove_column subtracts this number.';
comment on column keylatch_adoption.adoptions.reading_since is 'When read_by_hash was last called.';
comment on column keylatch_adoption.adoptions.started_at is 'When phase 1 began.';

alter table keylatch_adoption.adoptions enable row level security;

-- The counter is not in adoptions, so that no step waits for the open transaction of a reader.
create table keylatch_adoption.fallbacks (
  relation regclass not null,
  key_column text not null,
  reads bigint not null default 0,
  last_read_at timestamptz,

  constraint fallbacks_pkey primary key (relation, key_column),
  constraint fallbacks_adoption_fkey foreign key (relation, key_column)
  references keylatch_adoption.adoptions (relation, key_column) on delete cascade
);
comment on table keylatch_adoption.fallbacks is
  'Reads of adopted_rows that found rows only by the plaintext key.';
comment on column keylatch_adoption.fallbacks.relation is 'The table that has the plaintext keys.';
comment on column keylatch_adoption.fallbacks.key_column is 'The column of plaintext keys.';
comment on column keylatch_adoption.fallbacks.reads is
  'The minimum number of reads: two reads at the same moment may count as one.';
comment on column keylatch_adoption.fallbacks.last_read_at is 'The time of the last counted read.';

alter table keylatch_adoption.fallbacks enable row level security;

create type keylatch_adoption.adoption as (
  table_name text, key_column text, hash_column text, phase text
);
comment on type keylatch_adoption.adoption is
  'A column of plaintext keys, with its table, the column of the hashes, and the adoption phase.';

create function keylatch_adoption.describe(p_adoption keylatch_adoption.adoptions)
returns keylatch_adoption.adoption language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return row(
    p_adoption.relation::text, p_adoption.key_column, p_adoption.hash_column, p_adoption.phase
  )::keylatch_adoption.adoption;
end $$;
comment on function keylatch_adoption.describe is 'Returns an adoption as a step returns it.';

create function keylatch_adoption.adoptable_table(p_table_name text)
returns regclass language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_table pg_catalog.pg_class;
  v_problem text;
  v_hint text := 'Pass an ordinary table of your own with its schema, for example public.sessions. '
    'Put double quotes around a name that is not lower case.';
begin
  begin
    select c.* into v_table from pg_catalog.pg_class as c where c.oid = to_regclass(p_table_name);
  exception
    when syntax_error or invalid_name or feature_not_supported then v_table := null;
  end;
  v_problem := case
    when v_table.oid is null then 'does not exist'
    when v_table.relispartition or v_table.relkind = 'p' then 'is a partition or has partitions'
    when v_table.relkind <> 'r' then 'is not a table'
    when v_table.relpersistence = 't' then 'is temporary'
    when v_table.relnamespace::regnamespace::text in (
      'keylatch', 'keylatch_internal', 'keylatch_adoption', 'pg_catalog', 'information_schema'
    ) then 'is not one of yours'
    when exists (select from pg_catalog.pg_inherits as h where h.inhparent = v_table.oid)
      then 'has tables that inherit from it'
  end;
  -- Members of the owner role and superusers are refused, too, because the owner's triggers,
  -- defaults and index functions would run with rights that the owner does not have.
  if v_problem is null and v_table.relowner <> to_regrole(quote_ident(current_user)) then
    v_problem := format('belongs to %s, and you are %s', v_table.relowner::regrole, current_user);
    v_hint := format('Connect as the owner, or run: set role %s;', v_table.relowner::regrole);
  -- Rows that a policy hides would get no hash, and prove_column would not count hidden rows.
  elsif v_problem is null and v_table.relforcerowsecurity and not exists (
    select from pg_catalog.pg_roles as r
    where r.rolname = current_user and (r.rolbypassrls or r.rolsuper)
  ) then
    v_problem := 'forces row security on you';
    v_hint := format('Run: alter table %s no force row level security;', v_table.oid::regclass);
  end if;
  if v_problem is not null then
    perform keylatch_adoption.refuse(
      'invalid_argument',
      format('The table %s %s.', coalesce(p_table_name, 'null'), v_problem), v_hint
    );
  end if;
  return v_table.oid;
end $$;
comment on function keylatch_adoption.adoptable_table is
  'Returns the table with this name. Refuses a table that cannot be adopted.';

create function keylatch_adoption.adoptable_type(p_relation regclass, p_column text)
returns regtype language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_column pg_catalog.pg_attribute;
  v_problem text;
begin
  select a.*
  into v_column
  from pg_catalog.pg_attribute as a
  where a.attrelid = p_relation and a.attname = p_column and a.attnum > 0 and not a.attisdropped;
  v_problem := case
    when not found then 'does not exist'
    when v_column.attgenerated <> '' then 'is a generated column'
    when v_column.attinhcount > 0 then 'is inherited'
    when v_column.atttypid not in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype)
      -- The check looks for the extension citext, because anybody may name a type citext.
      and not exists (
        select
        from pg_catalog.pg_depend as d
        inner join pg_catalog.pg_extension as e on d.refobjid = e.oid
        where d.classid = 'pg_type'::regclass and d.objid = v_column.atttypid
          and d.deptype = 'e' and e.extname = 'citext'
      ) then 'has a type other than text, varchar, citext and uuid'
    when exists (
      select from pg_catalog.pg_collation as c
      where c.oid = v_column.attcollation and not c.collisdeterministic
    ) then 'has a collation that treats different texts as equal'
  end;
  if v_problem is not null then
    perform keylatch_adoption.refuse(
      'invalid_argument',
      format('The column %s of %s %s.', coalesce(p_column, 'null'), p_relation, v_problem),
      'Pass the name of the column of plaintext keys, without quotes.'
    );
  end if;
  return v_column.atttypid;
end $$;
comment on function keylatch_adoption.adoptable_type is
  'Returns the type of a column. Refuses a column that cannot be adopted.';

create function keylatch_adoption.get_adoption(
  p_table_name text, p_column text, p_phases text[], p_lock boolean
)
returns keylatch_adoption.adoptions language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_relation constant regclass := keylatch_adoption.adoptable_table(p_table_name);
  v_adoption keylatch_adoption.adoptions;
begin
  if p_lock then
    perform from keylatch_adoption.adoptions as a
    where a.relation = v_relation and a.key_column = p_column
    for update;
  end if;
  select a.*
  into v_adoption
  from keylatch_adoption.adoptions as a
  where a.relation = v_relation and a.key_column = p_column;
  if v_adoption.relation is null then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('The column %s of %s is not adopted.', p_column, v_relation),
      'Begin with adopt_column: keylatch adopt hash TABLE COLUMN'
    );
  elsif v_adoption.phase <> all (p_phases) then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('The column %s of %s is in phase %s.', p_column, v_relation, v_adoption.phase),
      format('This step is for phase %s.', array_to_string(p_phases, ' or '))
    );
  end if;
  return v_adoption;
end $$;
comment on function keylatch_adoption.get_adoption is
  'Returns the adoption of a column. Refuses a phase that is not in p_phases. Can lock the row.';

create function keylatch_adoption.lock_shortly(p_relation regclass)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_given constant text := current_setting('lock_timeout');
begin
  for v_try in 1 .. 100 loop
    begin
      perform set_config('lock_timeout', '50ms', true);
      execute format('lock table %s in access exclusive mode', p_relation);
      perform set_config('lock_timeout', v_given, true);
      return;
    exception
      when lock_not_available then
        -- The sleep lets the sessions run that wait behind this session.
        perform pg_sleep(0.1);
    end;
  end loop;
  perform keylatch_adoption.refuse(
    'adoption_not_ready',
    format('The table %s was in use all the time.', p_relation),
    'Find the long transaction in pg_stat_activity, and try again when the transaction has ended.'
  );
end $$;
comment on function keylatch_adoption.lock_shortly is
  'Locks a table until the end of the transaction. Tries up to 100 times, for 50 ms each.';

create function keylatch_adoption.short_name(p_name text)
returns text language plpgsql immutable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when octet_length(p_name) <= 63 then p_name
    -- The cast to name shortens the text to at most 63 bytes and never cuts within a character.
    else substr((repeat('-', 9) || p_name)::name::text, 10) || '_'
      || left(encode(sha256(convert_to(p_name, 'UTF8')), 'hex'), 8)
  end;
end $$;
comment on function keylatch_adoption.short_name is
  'Returns a name of at most 63 bytes: a longer name is cut and gets a digest at its end. No name
has an oid or a column number, because both numbers change in a restored dump.';

create function keylatch_adoption.hash_expression(
  p_adoption keylatch_adoption.adoptions, p_value text
)
returns text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_text constant text := case
    when p_adoption.key_type in ('text'::regtype, 'varchar'::regtype) then p_value
    -- p_value is a stored uuid or the plaintext that a client presents.
    when p_adoption.key_type = 'uuid'::regtype then format('(%s)::text', p_value)
    -- Two equal values of citext must have the same hash.
    else format('lower((%s)::text collate "default")', p_value)
  end;
  v_hash constant text := format('sha256(convert_to(%s, ''UTF8''))', v_text);
begin
  return case p_adoption.form when 'hex' then format('encode(%s, ''hex'')', v_hash) else v_hash end;
end $$;
comment on function keylatch_adoption.hash_expression is
  'Returns the SQL expression that computes the value of the hash column from a plaintext key.';

create function keylatch_adoption.drop_hash_trigger(p_adoption keylatch_adoption.adoptions)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  execute format('drop trigger if exists %I on %s', p_adoption.trigger_name, p_adoption.relation);
  execute format('drop function if exists keylatch_adoption.%I()', p_adoption.function_name);
end $$;
comment on function keylatch_adoption.drop_hash_trigger is
  'Drops the trigger of an adopted column, and the function of the trigger.';

create function keylatch_adoption.make_hash_trigger(p_adoption keylatch_adoption.adoptions)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_key constant text := format('new.%I', p_adoption.key_column);
  v_hash constant text := format('new.%I', p_adoption.hash_column);
  v_value constant text := keylatch_adoption.hash_expression(p_adoption, v_key);
  v_empties constant boolean := p_adoption.phase = 'emptying';
begin
  perform keylatch_adoption.drop_hash_trigger(p_adoption);
  -- The trigger function is generated, because a generic function would need jsonb for each row.
  execute format(
    'create function keylatch_adoption.%I() returns trigger language plpgsql'
    ' set search_path = pg_catalog, pg_temp as %L',
    p_adoption.function_name,
    format(
      'begin %s := %s; %s return new; end', v_hash, v_value,
      case when v_empties then format('%s := null;', v_key) else '' end
    )
  );
  execute format(
    'revoke all on function keylatch_adoption.%I() from public', p_adoption.function_name
  );
  execute format(
    'comment on function keylatch_adoption.%I() is %L', p_adoption.function_name,
    format('Writes %s.%I.', p_adoption.relation, p_adoption.hash_column)
  );
  -- Every insert and update fires the trigger, because an update may move a row behind the page of
  -- hash_rows. The condition is cheaper than a call of the function that changes nothing.
  execute format(
    'create trigger %I before insert or update on %s for each row when (%s)'
    ' execute function keylatch_adoption.%I()',
    p_adoption.trigger_name, p_adoption.relation,
    case
      when v_empties then format('%s is not null', v_key)
      -- hash_rows already writes the hash, and a second computation would cost a tenth of the time.
      -- Only a session that may disable triggers can meet this condition and bypass the trigger.
      else format(
        'not (current_setting(''session_replication_role'') = ''replica'''
        ' and coalesce(current_setting(''keylatch.hashing'', true), '''') = ''on'')'
        ' and %s is distinct from %s',
        v_hash, v_value
      )
    end,
    p_adoption.function_name
  );
  execute format(
    'alter table %s enable always trigger %I', p_adoption.relation, p_adoption.trigger_name
  );
  execute format(
    'comment on trigger %I on %s is %L', p_adoption.trigger_name, p_adoption.relation,
    'Writes the hash of each new or changed key until keylatch adopt is done.'
  );
end $$;
comment on function keylatch_adoption.make_hash_trigger is
  'Creates the trigger of an adopted column, and its trigger function, for the present phase.';
