-- The proof, and phases 2 and 3 of moving a column of keys in clear to hashes; and the way back.

create type keylatch.adoption_proof as (
  table_name text,
  key_column text,
  phase text,
  rows bigint,
  keys bigint,
  hashed bigint,
  missing bigint,
  wrong bigint,
  index_is_ready boolean,
  trigger_is_ready boolean,
  fallback_reads bigint,
  last_fallback_at timestamptz,
  is_clean boolean
);
comment on type keylatch.adoption_proof is
  'Of an adopted column: how many rows there are, with a key in clear, with a hash, with a key and
no hash, with a hash that is not of the key; whether index and trigger are there; reads that still went
by the key in clear; and whether all of it allows the next step.';

create function keylatch.prove_column(table_name text, key_column text)
returns keylatch.adoption_proof
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_adoption constant keylatch_internal.adoptions := keylatch_internal.adoption_in(
    prove_column.table_name, prove_column.key_column,
    array['hashing', 'reading', 'emptying', 'dropped'], false
  );
  v_key constant pg_catalog.text := case v_adoption.phase
    when 'dropped' then 'null::pg_catalog.text' else format('t.%I', v_adoption.key_column)
  end;
  v_proof keylatch.adoption_proof;
begin
  execute format(
    'select count(*), count(%1$s), count(t.%2$I),'
    ' count(*) filter (where %1$s is not null and t.%2$I is null),'
    ' count(*) filter (where t.%2$I is not null and t.%2$I is distinct from %3$s)'
    ' from only %4$s as t',
    v_key, v_adoption.hash_column, keylatch_internal.hash_expression(v_adoption.form, v_key),
    v_adoption.relation
  )
  into v_proof.rows, v_proof.keys, v_proof.hashed, v_proof.missing, v_proof.wrong;

  v_proof.table_name := v_adoption.relation::pg_catalog.text;
  v_proof.key_column := v_adoption.key_column;
  v_proof.phase := v_adoption.phase;
  v_proof.fallback_reads := v_adoption.fallback_reads;
  v_proof.last_fallback_at := v_adoption.last_fallback_at;
  v_proof.index_is_ready := exists (
    select 1
    from pg_catalog.pg_index as i
    inner join pg_catalog.pg_attribute as a
      on i.indrelid = a.attrelid and i.indkey[0] = a.attnum
    where i.indrelid = v_adoption.relation
      and a.attname = v_adoption.hash_column
      and i.indisvalid
      and i.indpred is null
  );
  v_proof.trigger_is_ready := exists (
    select 1
    from pg_catalog.pg_trigger as g
    where g.tgrelid = v_adoption.relation
      and g.tgname
      = (keylatch_internal.adoption_names(v_adoption.relation, v_adoption.key_column))[1]
      and g.tgenabled = 'A'
  );
  if v_adoption.phase in ('emptying', 'dropped') then
    -- Hashes stand alone now: there is nothing left to compare them with.
    v_proof.wrong := 0;
    v_proof.is_clean := v_proof.keys = 0;
  else
    v_proof.is_clean := v_proof.missing + v_proof.wrong = 0
      and v_proof.index_is_ready
      and v_proof.trigger_is_ready;
  end if;
  return v_proof;
end;
$$;

comment on function keylatch.prove_column(text, text) is
  'Counts, over the whole table, whether each key in clear has its hash, and nothing else has one.

It reads all rows, and locks none. Errors: invalid_argument (400); adoption_not_ready (409).';

revoke all on function keylatch.prove_column(text, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.require_clean(p_proof keylatch.adoption_proof)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if not p_proof.is_clean then
    perform keylatch_internal.refuse_adoption(
      format(
        'Of %s rows %s have no hash and %s a wrong one; the index is %s, the trigger is %s.',
        p_proof.rows, p_proof.missing, p_proof.wrong,
        case when p_proof.index_is_ready then 'ready' else 'missing' end,
        case when p_proof.trigger_is_ready then 'ready' else 'missing or off' end
      ),
      'Call hash_rows until it is done, make the index, and look at prove_column.'
    );
  end if;
end;
$$;

comment on function keylatch_internal.require_clean(keylatch.adoption_proof) is
  'Refuses the next step where the proof is not clean.';

revoke all on function keylatch_internal.require_clean(keylatch.adoption_proof)
from public, anon, authenticated, service_role;

create function keylatch.read_by_hash(table_name text, key_column text)
returns keylatch.adoption_proof
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_adoption constant keylatch_internal.adoptions := keylatch_internal.adoption_in(
    read_by_hash.table_name, read_by_hash.key_column, array['hashing', 'reading'], true
  );
begin
  perform keylatch_internal.require_clean(
    keylatch.prove_column(read_by_hash.table_name, read_by_hash.key_column)
  );
  update keylatch_internal.adoptions as a
  set phase = 'reading', fallback_reads = 0, last_fallback_at = null
  where a.relation = v_adoption.relation and a.key_column = v_adoption.key_column;
  return keylatch.prove_column(read_by_hash.table_name, read_by_hash.key_column);
end;
$$;

comment on function keylatch.read_by_hash(text, text) is
  'Phase 2: the application reads by the hash, best through adopted_rows.

The counter of reads that went by the key in clear begins anew; the same call again does that alone.
Errors: invalid_argument (400); adoption_not_ready (409), where the proof is not clean.';

revoke all on function keylatch.read_by_hash(text, text)
from public, anon, authenticated, service_role;

create function keylatch.adopted_rows(row_type anyelement, key_column text, key text)
returns setof anyelement
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_relation constant pg_catalog.regclass := (
    select nullif(t.typrelid, 0::pg_catalog.oid)
    from pg_catalog.pg_type as t
    where t.oid = pg_typeof(adopted_rows.row_type)
  );
  v_adoption constant keylatch_internal.adoptions :=
    keylatch_internal.adopted_column(v_relation, adopted_rows.key_column, false);
  v_hash constant pg_catalog.bytea := sha256(convert_to(adopted_rows.key, 'UTF8'));
begin
  if v_adoption.relation is null then
    raise sqlstate 'PT409' using
      message = 'adoption_not_ready',
      detail = format('The column %s of %s is not adopted.', adopted_rows.key_column,
        pg_typeof(adopted_rows.row_type)),
      hint = 'Call it with a row of the table, as in adopted_rows(null::public.sessions, …).';
  end if;
  return query execute format(
    'select t.* from %s as t where t.%I = %s', v_relation, v_adoption.hash_column,
    case v_adoption.form when 'hex' then 'pg_catalog.encode($1, ''hex'')' else '$1' end
  ) using v_hash;
  if found or v_adoption.phase in ('emptying', 'dropped') then
    return;
  end if;

  -- A hash that got into the column of keys opens nothing.
  return query execute format(
    'select t.* from %1$s as t where t.%2$I = $1'
    ' and not exists (select 1 from %1$s as h where h.%3$I = %4$s)',
    v_relation, v_adoption.key_column, v_adoption.hash_column,
    case v_adoption.form
      when 'hex' then 'lower($1)'
      else 'case when $1 ~* ''^[0-9a-f]{64}$'' then pg_catalog.decode($1, ''hex'') end'
    end
  ) using adopted_rows.key;
  if found then
    perform keylatch_internal.adopted_column(v_relation, adopted_rows.key_column, true);
  end if;
end;
$$;

comment on function keylatch.adopted_rows(anyelement, text, text) is
  'The rows that hold a key: select * from adopted_rows(null::public.sessions, ''k'', $1).

It looks by the hash, with the caller''s own rights to the table. In phases 1 and 2 it falls back to
the column in clear, and counts that: prove_column shows how often. A hash opens nothing. Grant it
and keylatch_internal.adopted_column to the role of your application, if it is another one. Errors: adoption_not_ready (409).';

revoke all on function keylatch.adopted_rows(anyelement, text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch.adopted_rows(anyelement, text, text) to service_role;

create function keylatch.drop_plaintext(table_name text, key_column text, confirm text)
returns keylatch.adoption
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_adoption keylatch_internal.adoptions;
  v_blocking pg_catalog.text;
begin
  if drop_plaintext.confirm is distinct from 'drop plaintext' then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'confirm must be: drop plaintext.',
      hint = 'There is no way back from this step. Have a backup, and say it in these words.';
  end if;
  v_adoption := keylatch_internal.adoption_in(
    drop_plaintext.table_name, drop_plaintext.key_column,
    array['reading', 'emptying', 'dropped'], true
  );

  if v_adoption.phase = 'reading' then
    perform keylatch_internal.require_clean(
      keylatch.prove_column(drop_plaintext.table_name, drop_plaintext.key_column)
    );
    if v_adoption.fallback_reads > 0 then
      perform keylatch_internal.refuse_adoption(
        format('%s reads went by the key in clear, the last at %s.',
          v_adoption.fallback_reads, v_adoption.last_fallback_at),
        'Find out which, then let read_by_hash count anew.'
      );
    end if;
    select string_agg(pg_describe_object(d.classid, d.objid, d.objsubid), ', ')
    into v_blocking
    from pg_catalog.pg_depend as d
    inner join pg_catalog.pg_attribute as a
      on d.refobjid = a.attrelid and d.refobjsubid = a.attnum
    where d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      and d.refobjid = v_adoption.relation
      and a.attname = v_adoption.key_column
      and d.deptype = 'n'
      and d.objid not in (
        select g.oid
        from pg_catalog.pg_trigger as g
        where g.tgrelid = v_adoption.relation
          and g.tgname
          = (keylatch_internal.adoption_names(v_adoption.relation, v_adoption.key_column))[1]
      );
    if v_blocking is not null then
      perform keylatch_internal.refuse_adoption(
        format('This needs the column in clear: %s.', v_blocking), 'Change or drop it first.'
      );
    end if;

    v_adoption.phase := 'emptying';
    v_adoption.next_page := 0;
    perform keylatch_internal.lock_shortly(v_adoption.relation);
    execute format(
      'alter table %s alter column %I drop not null', v_adoption.relation, v_adoption.key_column
    );
    perform keylatch_internal.make_hash_trigger(v_adoption);
  elsif v_adoption.phase = 'emptying' and not (
    -- No key comes after this was seen: the trigger empties whatever is written.
    keylatch.prove_column(drop_plaintext.table_name, drop_plaintext.key_column)
  ).is_clean then
    v_adoption.phase := 'emptying';
  elsif v_adoption.phase = 'emptying' then
    v_adoption.phase := 'dropped';
    perform keylatch_internal.lock_shortly(v_adoption.relation);
    perform keylatch_internal.drop_hash_trigger(v_adoption);
    execute format(
      'alter table %s drop column %I', v_adoption.relation, v_adoption.key_column
    );
    raise warning 'Older copies may still hold the keys in clear.'
    using hint = 'Dead rows: vacuum full, or pg_repack, the table. WAL archives, base backups, dumps '
      'and snapshots of replicas: let them expire, or delete them. Logs: look.';
  end if;

  update keylatch_internal.adoptions as a
  set phase = v_adoption.phase, next_page = v_adoption.next_page
  where a.relation = v_adoption.relation and a.key_column = v_adoption.key_column;
  return row(
    v_adoption.relation::pg_catalog.text, v_adoption.key_column, v_adoption.hash_column,
    v_adoption.phase, null::pg_catalog.text
  );
end;
$$;

comment on function keylatch.drop_plaintext(text, text, text) is
  'Phase 3, with no way back: the keys in clear are emptied, then their column is dropped.

Call it with confirm ''drop plaintext'', then hash_rows until it is done, and it again, until the
phase is dropped. It needs a clean
proof, no read by the key in clear since read_by_hash, and nothing else that needs the column. Dead
rows, WAL, backups, dumps and replicas'' snapshots may still hold the keys: vacuum full the table, and
let the others expire. Errors: invalid_argument (400); adoption_not_ready (409).';

revoke all on function keylatch.drop_plaintext(text, text, text)
from public, anon, authenticated, service_role;

create function keylatch.revert_column(table_name text, key_column text)
returns keylatch.adoption
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_adoption constant keylatch_internal.adoptions := keylatch_internal.adoption_in(
    revert_column.table_name, revert_column.key_column, array['hashing', 'reading'], true
  );
begin
  perform keylatch_internal.lock_shortly(v_adoption.relation);
  perform keylatch_internal.drop_hash_trigger(v_adoption);
  begin
    execute format(
      'alter table %s drop column %I', v_adoption.relation, v_adoption.hash_column
    );
  exception
    when dependent_objects_still_exist then
      perform keylatch_internal.refuse_adoption(
        format('Something of yours needs the column %s.', v_adoption.hash_column),
        'Drop it first: a view, a policy, a function.'
      );
  end;
  delete from keylatch_internal.adoptions as a
  where a.relation = v_adoption.relation and a.key_column = v_adoption.key_column;
  return row(
    v_adoption.relation::pg_catalog.text, v_adoption.key_column, v_adoption.hash_column,
    'reverted'::pg_catalog.text, null::pg_catalog.text
  );
end;
$$;

comment on function keylatch.revert_column(text, text) is
  'Takes back phases 1 and 2: the table is as it was before adopt_column.

Errors: invalid_argument (400); adoption_not_ready (409), also from phase 3 on.';

revoke all on function keylatch.revert_column(text, text)
from public, anon, authenticated, service_role;
