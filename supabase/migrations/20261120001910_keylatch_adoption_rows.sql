-- Phase 1 of moving a column of keys in clear to hashes, and the pass over the rows that are there.
--
-- Phase 1: adopt_column; hash_rows until it is done; the index. Phase 2: read_by_hash, with
-- adopted_rows for the application's reads. Phase 3: drop_plaintext; hash_rows until it is done;
-- drop_plaintext again. Before each step prove_column has to be clean. `keylatch adopt` drives it.

create function keylatch.adopt_column(
  table_name text,
  key_column text,
  hash_column text default null,
  form text default 'hex'
)
returns keylatch.adoption
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_adoption keylatch_internal.adoptions;
begin
  if adopt_column.form is null or adopt_column.form not in ('hex', 'bytea') then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'form must be hex or bytea.',
      hint = 'Leave it out for 64 characters of hex.';
  end if;
  v_adoption.relation := keylatch_internal.adoptable_table(adopt_column.table_name);
  perform keylatch_internal.check_adoptable_column(v_adoption.relation, adopt_column.key_column);
  v_adoption.key_column := adopt_column.key_column;
  v_adoption.hash_column := coalesce(adopt_column.hash_column, adopt_column.key_column || '_hash');
  v_adoption.form := adopt_column.form;
  v_adoption.phase := 'hashing';

  -- The same again, as after an interruption, changes nothing.
  if exists (
    select 1
    from keylatch_internal.adoptions as a
    where a.relation = v_adoption.relation
      and a.key_column = v_adoption.key_column
      and (a.hash_column, a.form, a.phase)
      = (v_adoption.hash_column, v_adoption.form, v_adoption.phase)
  ) then
    return row(
      v_adoption.relation::pg_catalog.text, v_adoption.key_column, v_adoption.hash_column,
      v_adoption.phase, keylatch_internal.index_statement(v_adoption)
    );
  elsif exists (
    select 1
    from keylatch_internal.adoptions as a
    where a.relation = v_adoption.relation and a.key_column = v_adoption.key_column
  ) then
    perform keylatch_internal.refuse_adoption(
      format('The column %s of %s is adopted already, in another way or phase.',
        v_adoption.key_column, v_adoption.relation),
      'Go on with the next step, or revert_column first.'
    );
  elsif octet_length(v_adoption.hash_column) not between 1 and 63 or exists (
    select 1
    from pg_catalog.pg_attribute as a
    where a.attrelid = v_adoption.relation
      and a.attname = v_adoption.hash_column
      and not a.attisdropped
  ) then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = format('hash_column %s is there already, or too long.', v_adoption.hash_column),
      hint = 'Give the name of a new column: whatever stood in the old one could not be brought '
        || 'back by revert_column.';
  end if;

  perform keylatch_internal.lock_shortly(v_adoption.relation);
  execute format(
    'alter table %s add column %I %s', v_adoption.relation, v_adoption.hash_column,
    case v_adoption.form when 'hex' then 'pg_catalog.varchar(64)' else 'pg_catalog.bytea' end
  );
  perform keylatch_internal.make_hash_trigger(v_adoption);
  insert into keylatch_internal.adoptions (relation, key_column, hash_column, form, started_at)
  values (
    v_adoption.relation, v_adoption.key_column, v_adoption.hash_column, v_adoption.form,
    clock_timestamp()
  );
  return row(
    v_adoption.relation::pg_catalog.text, v_adoption.key_column, v_adoption.hash_column,
    v_adoption.phase, keylatch_internal.index_statement(v_adoption)
  );
end;
$$;

comment on function keylatch.adopt_column(text, text, text, text) is
  'Phase 1 of moving keys in clear to hashes: a column of hashes beside theirs, kept in step.

For the owner of both the table and keylatch; table_name as SQL writes it, with its schema. hash_column
is a new one, key_column and _hash if left out; form is hex or bytea. From now on a trigger hashes
whatever is written; hash_rows does the old rows, the statement in the answer makes the index. The
table is taken for a moment, in tries of 50 ms. The same call again changes nothing.
Errors: invalid_argument (400); adoption_not_ready (409).';

revoke all on function keylatch.adopt_column(text, text, text, text)
from public, anon, authenticated, service_role;

create type keylatch.adoption_progress as (
  pages_done bigint,
  pages bigint,
  rows_written bigint,
  is_done boolean
);
comment on type keylatch.adoption_progress is
  'How far a pass over a table is, in pages of 8 kB, how many rows this call wrote, and whether the
pass is done.';

create function keylatch.hash_rows(
  table_name text, key_column text, milliseconds integer default 40
)
returns keylatch.adoption_progress
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_adoption constant keylatch_internal.adoptions := keylatch_internal.adoption_in(
    hash_rows.table_name, hash_rows.key_column, array['hashing', 'reading', 'emptying'], true
  );
  v_began constant pg_catalog.timestamptz := clock_timestamp();
  v_role constant pg_catalog.text := current_setting('session_replication_role');
  v_timeout constant pg_catalog.text := current_setting('lock_timeout');
  v_page pg_catalog.int8 := v_adoption.next_page;
  -- Where the table ended when the pass began: what is written since the trigger hashes.
  v_size constant pg_catalog.int8 := pg_relation_size(v_adoption.relation)
    / current_setting('block_size')::pg_catalog.int8;
  v_pages constant pg_catalog.int8 := case
    when v_adoption.next_page = 0 then v_size else least(v_adoption.last_page, v_size)
  end;
  v_hash constant pg_catalog.text := keylatch_internal.hash_expression(
    v_adoption.form, format('t.%I', v_adoption.key_column)
  );
  v_range constant pg_catalog.text := format(
    't.ctid >= $1 and t.ctid < $2 and %s',
    case v_adoption.phase
      when 'emptying' then format('t.%I is not null', v_adoption.key_column)
      -- Not "is distinct from": where there is no hash, none is computed to compare it with.
      else format(
        '(t.%1$I is null and t.%2$I is not null or t.%1$I <> %3$s'
        ' or t.%1$I is not null and t.%2$I is null)',
        v_adoption.hash_column, v_adoption.key_column, v_hash
      )
    end
  );
  v_update constant pg_catalog.text := case v_adoption.phase
    -- The trigger hashes the key once more before it empties it.
    when 'emptying' then format(
      'update %1$s as t set %2$I = t.%2$I where ', v_adoption.relation, v_adoption.key_column
    )
    else format(
      'update %s as t set %I = %s where ', v_adoption.relation, v_adoption.hash_column, v_hash
    )
  end;
  v_chunk pg_catalog.int8 := 16;
  v_last pg_catalog.timestamptz;
  v_count pg_catalog.int8;
  v_progress keylatch.adoption_progress;
begin
  if hash_rows.milliseconds is null or hash_rows.milliseconds not between 1 and 60000 then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'milliseconds must be from 1 to 60000.',
      hint = 'Leave it out for 40: rows stay locked for as long.';
  end if;
  -- Other triggers, of an updated_at or an audit, have nothing to do with this. Ours fires always,
  -- and need not hash once more what is hashed here.
  if has_parameter_privilege('session_replication_role', 'set') then
    perform
      set_config('session_replication_role', 'replica', true),
      set_config('keylatch.hashing', 'on', true);
  end if;
  -- Gives way before anybody's deadlock_timeout: whoever meets it is never the victim.
  perform set_config('lock_timeout', '20ms', true);

  v_progress.rows_written := 0;
  while v_page < v_pages loop
    v_last := clock_timestamp();
    begin
      execute v_update || v_range
      using format('(%s,0)', v_page)::pg_catalog.tid, format('(%s,0)', v_page + v_chunk)::pg_catalog.tid;
      get diagnostics v_count = row_count;
    exception
      when lock_not_available then
        -- A row that somebody holds is hashed if they change it, and else by the next pass.
        execute format(
          '%s t.ctid = any (array(select t.ctid from %s as t where %s for update skip locked))',
          v_update, v_adoption.relation, v_range
        )
        using format('(%s,0)', v_page)::pg_catalog.tid, format('(%s,0)', v_page + v_chunk)::pg_catalog.tid;
        get diagnostics v_count = row_count;
    end;
    v_progress.rows_written := v_progress.rows_written + v_count;
    v_page := v_page + v_chunk;
    if clock_timestamp() < v_last + interval '6 ms' then
      v_chunk := least(v_chunk * 2, 1024);
    elsif clock_timestamp() > v_last + interval '14 ms' then
      v_chunk := greatest(v_chunk / 2, 1);
    end if;
    -- Asked at the end, so that each call gets on, however slow the machine is.
    exit when clock_timestamp() >= v_began + hash_rows.milliseconds * interval '1 ms';
  end loop;

  perform set_config('session_replication_role', v_role, true)
  where current_setting('session_replication_role') <> v_role;
  perform
    set_config('lock_timeout', v_timeout, true),
    set_config('keylatch.hashing', '', true);
  v_progress.pages := v_pages;
  v_progress.pages_done := least(v_page, v_pages);
  v_progress.is_done := v_page >= v_pages;
  update keylatch_internal.adoptions as a
  set
    next_page = case when v_progress.is_done then 0 else v_page end,
    last_page = v_pages
  where a.relation = v_adoption.relation and a.key_column = v_adoption.key_column;
  return v_progress;
end;
$$;

comment on function keylatch.hash_rows(text, text, integer) is
  'Hashes old rows of an adopted column for so many milliseconds, or empties them in phase 3.

Call it, each time in a transaction of its own, until is_done: in psql with watch. It goes on where it
stopped, whatever happened meanwhile. A pass that met rows that somebody held leaves them to the next;
prove_column tells. Triggers of yours fire only where you may not set session_replication_role.
Errors: invalid_argument (400); adoption_not_ready (409).';

revoke all on function keylatch.hash_rows(text, text, integer)
from public, anon, authenticated, service_role;
