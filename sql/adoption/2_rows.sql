-- Phase 1 of an adoption, and adopted_rows, with which an application reads in phases 1 and 2.

create function keylatch_adoption.adopt_column(
  table_name text, key_column text, hash_column text default null, form text default 'hex'
)
returns keylatch_adoption.adoption language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_new keylatch_adoption.adoptions;
  v_adoption keylatch_adoption.adoptions;
begin
  v_new.relation := keylatch_adoption.adoptable_table(adopt_column.table_name);
  v_new.key_type := keylatch_adoption.adoptable_type(v_new.relation, adopt_column.key_column);
  v_new.hash_column := coalesce(adopt_column.hash_column, adopt_column.key_column || '_hash');
  if adopt_column.form is null or adopt_column.form not in ('hex', 'bytea') then
    perform keylatch_adoption.refuse(
      'invalid_argument', 'form must be hex or bytea.', 'Leave form out to use hex.'
    );
  end if;
  insert into keylatch_adoption.adoptions as a
    (relation, key_column, key_type, hash_column, form, trigger_name, function_name)
  values (
    v_new.relation, adopt_column.key_column, v_new.key_type, v_new.hash_column, adopt_column.form,
    -- Triggers fire in the order of their names, so zz_… sees the changes of all other triggers.
    keylatch_adoption.short_name('zz_keylatch_hash_' || adopt_column.key_column),
    keylatch_adoption.short_name(format('hash %s.%I', v_new.relation, adopt_column.key_column))
  )
  on conflict on constraint adoptions_pkey do nothing
  returning a.* into v_adoption;
  if v_adoption.relation is not null then
    perform keylatch_adoption.add_hash_column(v_adoption);
    return keylatch_adoption.describe(v_adoption);
  end if;

  -- The column is already adopted: a repeated call changes nothing.
  v_adoption := keylatch_adoption.get_adoption(
    adopt_column.table_name, adopt_column.key_column, array['hashing', 'reading'], false
  );
  if (v_adoption.hash_column, v_adoption.form) <> (v_new.hash_column, adopt_column.form) then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('The column %s of %s is adopted already, with hash_column %s and form %s.',
        v_adoption.key_column, v_adoption.relation, v_adoption.hash_column, v_adoption.form),
      'Pass the same hash_column and form, or call revert_column first.'
    );
  end if;
  return keylatch_adoption.describe(v_adoption);
end $$;
comment on function keylatch_adoption.adopt_column is
  'Phase 1: adds a column of hashes to a table, and the trigger that hashes new and changed keys.

Only for the owner of the table. table_name is written as in SQL, with its schema. hash_column is a
new column, by default key_column with _hash at its end. form is hex or bytea. Then hash_rows hashes
the old rows, and index_statements returns the indexes to create. The table is locked for a moment.
Repeating the call is safe. Errors: invalid_argument (400), adoption_not_ready (409).';

create function keylatch_adoption.add_hash_column(p_adoption keylatch_adoption.adoptions)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if octet_length(p_adoption.hash_column) not between 1 and 63 or exists (
    select from pg_catalog.pg_attribute as a
    where a.attrelid = p_adoption.relation and a.attname = p_adoption.hash_column
      and not a.attisdropped
  ) then
    perform keylatch_adoption.refuse(
      'invalid_argument',
      format('hash_column %s exists already, or its name is empty or too long.',
        p_adoption.hash_column),
      'Name a new column: revert_column could not restore the values of an existing column.'
    );
  end if;
  insert into keylatch_adoption.fallbacks (relation, key_column)
  values (p_adoption.relation, p_adoption.key_column);
  perform keylatch_adoption.lock_shortly(p_adoption.relation);
  execute format(
    'alter table %s add column %I %s', p_adoption.relation, p_adoption.hash_column,
    case p_adoption.form when 'hex' then 'varchar(64)' else 'bytea' end
  );
  perform keylatch_adoption.make_hash_trigger(p_adoption);
end $$;
comment on function keylatch_adoption.add_hash_column is 'Adds the hash column and the trigger.';

create function keylatch_adoption.batch_statement(
  p_adoption keylatch_adoption.adoptions, p_skip_locked boolean
)
returns text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_hash constant text := keylatch_adoption.hash_expression(
    p_adoption, format('t.%I', p_adoption.key_column)
  );
  v_rows constant text := 't.ctid >= $1 and t.ctid < $2 and ' || case p_adoption.phase
    when 'emptying' then format('t.%I is not null', p_adoption.key_column)
    -- "is distinct from" would compute a hash even for a row whose hash column is null.
    else format(
      '(t.%1$I is null and t.%2$I is not null or t.%1$I <> %3$s'
      ' or t.%1$I is not null and t.%2$I is null)',
      p_adoption.hash_column, p_adoption.key_column, v_hash
    )
  end;
begin
  return format(
    'update %s as t set %I = %s%s where %s', p_adoption.relation, p_adoption.hash_column, v_hash,
    case p_adoption.phase
      when 'emptying' then format(', %I = null', p_adoption.key_column) else ''
    end,
    case when p_skip_locked then format(
      't.ctid = any (array(select t.ctid from %s as t where %s for update skip locked))',
      p_adoption.relation, v_rows
    ) else v_rows end
  );
end $$;
comment on function keylatch_adoption.batch_statement is
  'Returns the UPDATE that hashes, or empties, the rows with a ctid from $1 to before $2.';

create function keylatch_adoption.write_batch(
  p_adoption keylatch_adoption.adoptions, p_first tid, p_end tid
)
returns bigint language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_role constant text := current_setting('session_replication_role');
  v_timeout constant text := current_setting('lock_timeout');
  v_count bigint;
begin
  -- In replica mode, ordinary triggers of the table do not fire, for example for updated_at.
  if v_role <> 'replica' and has_parameter_privilege('session_replication_role', 'set') then
    perform
      set_config('session_replication_role', 'replica', true),
      set_config('keylatch.hashing', 'on', true);
  end if;
  -- 20 ms is shorter than any deadlock_timeout, so that in a deadlock this session gives way.
  perform set_config('lock_timeout', '20ms', true);
  begin
    execute keylatch_adoption.batch_statement(p_adoption, false) using p_first, p_end;
    get diagnostics v_count = row_count;
  exception
    when lock_not_available then
      -- The trigger hashes a locked row if the other session updates the row, else the next pass.
      execute keylatch_adoption.batch_statement(p_adoption, true) using p_first, p_end;
      get diagnostics v_count = row_count;
  end;
  perform set_config('lock_timeout', v_timeout, true);
  if current_setting('session_replication_role') <> v_role then
    perform
      set_config('session_replication_role', v_role, true),
      set_config('keylatch.hashing', '', true);
  end if;
  return v_count;
end $$;
comment on function keylatch_adoption.write_batch is
  'Hashes, or empties, the rows of some pages, except locked rows. Returns how many rows changed.';

create type keylatch_adoption.progress as (
  pages_done bigint, pages bigint, rows_written bigint, is_done boolean
);
comment on type keylatch_adoption.progress is
  'The result of hash_rows: how many pages (of 8 kB) are done, how many pages there are, how many
rows the call changed, and whether all pages are done.';

create function keylatch_adoption.hash_rows(
  table_name text, key_column text, pages integer default 64
)
returns keylatch_adoption.progress language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_adoption constant keylatch_adoption.adoptions := keylatch_adoption.get_adoption(
    hash_rows.table_name, hash_rows.key_column, array['hashing', 'reading', 'emptying'], true
  );
  v_size constant bigint :=
    pg_relation_size(v_adoption.relation) / current_setting('block_size')::bigint;
  -- A pass ends where the table ended when the pass began, because the trigger hashes later rows.
  v_pages constant bigint := case v_adoption.next_page
    when 0 then v_size else least(v_adoption.last_page, v_size)
  end;
  v_end constant bigint := least(v_adoption.next_page + hash_rows.pages, v_pages);
  v_progress keylatch_adoption.progress;
begin
  if hash_rows.pages is null or hash_rows.pages not between 1 and 100000 then
    perform keylatch_adoption.refuse(
      'invalid_argument', 'pages must be from 1 to 100000.',
      'Leave pages out to use 64. A call locks the rows of all its pages at once.'
    );
  end if;
  v_progress.rows_written := keylatch_adoption.write_batch(
    v_adoption, format('(%s,0)', v_adoption.next_page)::tid, format('(%s,0)', v_end)::tid
  );
  v_progress.pages := v_pages;
  v_progress.pages_done := v_end;
  v_progress.is_done := v_end >= v_pages;
  update keylatch_adoption.adoptions as a
  set next_page = case when v_progress.is_done then 0 else v_end end, last_page = v_pages
  where a.relation = v_adoption.relation and a.key_column = v_adoption.key_column;
  return v_progress;
end $$;
comment on function keylatch_adoption.hash_rows is
  'Hashes the plaintext keys in the next pages of a table, or sets the keys to null in phase 3.

Repeat the call until is_done is true, each time in a new transaction (in psql with watch). A call
continues where the last call stopped. A call skips locked rows; prove_column counts skipped rows.
If you may set session_replication_role, only triggers enabled ALWAYS or REPLICA fire. If not, your
triggers fire as for any update.
Errors: invalid_argument (400), adoption_not_ready (409).';

create function keylatch_adoption.match_expression(p_adoption keylatch_adoption.adoptions)
returns text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_schema constant text := (
    select t.typnamespace::regnamespace
    from pg_catalog.pg_type as t
    where t.oid = p_adoption.key_type
  );
begin
  return format(
    't.%I operator(%s.=) %s', p_adoption.key_column, v_schema,
    case p_adoption.key_type
      when 'uuid'::regtype then
        'case when $1 ~ ''^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'' then $1::uuid end'
      else format('$1::%s', p_adoption.key_type)
    end
  );
end $$;
comment on function keylatch_adoption.match_expression is
  'Returns the SQL condition that finds the plaintext key $1 by an index on its column.';

create type keylatch_adoption.reading as (relation regclass, by_hash text, by_key text);
comment on type keylatch_adoption.reading is
  'Two queries for the rows of the key $1: by its hash, and by its plaintext (null in phase 3).';

create function keylatch_adoption.find_reading(p_row_type regtype, p_column text)
returns keylatch_adoption.reading language plpgsql stable security definer
-- definer because: an application may not read the table adoptions, which lists other columns.
set search_path = pg_catalog, pg_temp as $$
declare
  v_adoption keylatch_adoption.adoptions;
  v_by_hash text;
begin
  select a.*
  into v_adoption
  from keylatch_adoption.adoptions as a
  inner join pg_catalog.pg_type as t on t.typrelid = a.relation
  where t.oid = p_row_type and a.key_column = p_column;
  if v_adoption.relation is null then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('The column %s of %s is not adopted.', p_column, p_row_type),
      'Pass a row of the table, for example adopted_rows(null::public.sessions, ...).'
    );
  end if;
  v_by_hash := format(
    'select t.* from %s as t where t.%I = %s', v_adoption.relation, v_adoption.hash_column,
    keylatch_adoption.hash_expression(v_adoption, '$1')
  );
  return row(v_adoption.relation, v_by_hash, case
    when v_adoption.phase in ('hashing', 'reading') then format(
      -- A client must not be able to present a hash as a key, even if key_column contains the hash.
      'select t.* from %1$s as t where %2$s'
      ' and not exists (select from %1$s as h where h.%3$I = %4$s)',
      v_adoption.relation, keylatch_adoption.match_expression(v_adoption),
      v_adoption.hash_column, case v_adoption.form
        when 'hex' then 'lower($1)'
        else 'case when $1 ~* ''^[0-9a-f]{64}$'' then decode($1, ''hex'') end'
      end
    )
  end)::keylatch_adoption.reading;
end $$;
comment on function keylatch_adoption.find_reading is
  'Returns the two queries that adopted_rows runs. Refuses a column that is not adopted.';

create function keylatch_adoption.count_fallback(p_relation regclass, p_column text)
returns void language plpgsql volatile security definer
-- definer because: an application that reads a table may not write the counter in fallbacks.
set search_path = pg_catalog, pg_temp as $$
begin
  -- A read on a standby is not counted. "skip locked" keeps a read from waiting for another read.
  if current_setting('transaction_read_only') = 'off' then
    update keylatch_adoption.fallbacks as f
    set reads = f.reads + 1, last_read_at = clock_timestamp()
    where (f.relation, f.key_column) in (
      select g.relation, g.key_column
      from keylatch_adoption.fallbacks as g
      where g.relation = p_relation and g.key_column = p_column
      for update skip locked
    );
  end if;
exception
  -- The error means that another read was counted since this transaction began.
  when serialization_failure then null;
end $$;
comment on function keylatch_adoption.count_fallback is
  'Counts a read of adopted_rows that found rows only by the plaintext key.';

create function keylatch_adoption.adopted_rows(row_type anyelement, key_column text, key text)
returns setof anyelement language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_reading constant keylatch_adoption.reading := keylatch_adoption.find_reading(
    pg_typeof(adopted_rows.row_type), adopted_rows.key_column
  );
begin
  return query execute v_reading.by_hash using adopted_rows.key;
  if found or v_reading.by_key is null then
    return;
  end if;
  return query execute v_reading.by_key using adopted_rows.key;
  if found then
    perform keylatch_adoption.count_fallback(v_reading.relation, adopted_rows.key_column);
  end if;
end $$;
comment on function keylatch_adoption.adopted_rows is
  'Reads the rows that hold a key: select * from adopted_rows(null::public.sessions, ''k'', $1).

For an application in phases 1 and 2, with its own rights on the table. adopted_rows reads by the
hash. If no row has the hash, adopted_rows reads by the plaintext key, and prove_column counts the
read. A hash never works as a key. A role that does not own the table needs usage on the schema
keylatch_adoption, and execute on adopted_rows, find_reading and count_fallback. Before
drop_plaintext, let the application read the hash column itself: the last step drops adopted_rows.
Errors: adoption_not_ready (409).';
