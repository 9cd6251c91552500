-- The indexes on the hash column, the check of all hashes, phases 2 and 3, and the undo of phase 1.

create function keylatch_adoption.twin_statement(
  p_index pg_catalog.pg_index, p_key int2, p_hash_column text
)
returns text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_name constant text := (
    select c.relname from pg_catalog.pg_class as c where c.oid = p_index.indexrelid
  );
  v_columns constant text[] := array(
    select case
      when p_index.indkey[g.n - 1] = p_key then quote_ident(p_hash_column)
      else pg_get_indexdef(p_index.indexrelid, g.n, false)
    end
    from generate_series(1, p_index.indnatts::integer) as g (n)
    order by g.n
  );
begin
  return format(
    'create unique index concurrently %I on %s (%s)%s%s%s',
    keylatch_adoption.short_name(v_name || '_' || p_hash_column), p_index.indrelid::regclass,
    array_to_string(v_columns[:p_index.indnkeyatts], ', '),
    ' include (' || nullif(array_to_string(v_columns[p_index.indnkeyatts + 1:], ', '), '') || ')',
    case when p_index.indnullsnotdistinct then ' nulls not distinct' end,
    ' where ' || pg_get_expr(p_index.indpred, p_index.indrelid)
  );
end $$;
comment on function keylatch_adoption.twin_statement is
  'Returns the statement that copies an index, with the hash column for the plaintext column.';

create function keylatch_adoption.key_indexes(p_adoption keylatch_adoption.adoptions)
returns table (
  index_oid oid, is_primary boolean, is_portable boolean, leads boolean, twin oid, statement text
) language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return query
  select
    i.indexrelid, i.indisprimary,
    i.indisunique and i.indimmediate and not e.uses_key
    and not exists (
      select from unnest(i.indcollation) as u (oid)
      inner join pg_catalog.pg_collation as c on u.oid = c.oid
      where not c.collisdeterministic
    ),
    i.indkey[0] = k.attnum and i.indpred is null,
    (
      select min(j.indexrelid)
      from pg_catalog.pg_index as j
      where j.indrelid = i.indrelid and j.indisunique and j.indisvalid
        and j.indkey::int2[] = array_replace(i.indkey::int2[], k.attnum, h.attnum)
        and (j.indnkeyatts, j.indnullsnotdistinct) = (i.indnkeyatts, i.indnullsnotdistinct)
        and pg_get_expr(j.indexprs, j.indrelid)
        is not distinct from pg_get_expr(i.indexprs, i.indrelid)
        and pg_get_expr(j.indpred, j.indrelid)
        is not distinct from pg_get_expr(i.indpred, i.indrelid)
    ),
    keylatch_adoption.twin_statement(i, k.attnum, h.attname)
  from pg_catalog.pg_index as i
  inner join pg_catalog.pg_attribute as k
    on i.indrelid = k.attrelid and k.attname = p_adoption.key_column
  inner join pg_catalog.pg_attribute as h
    on i.indrelid = h.attrelid and h.attname = p_adoption.hash_column
  -- No catalog function returns the columns of an expression, so the query searches its node tree.
  cross join lateral (
    select concat(i.indexprs, i.indpred) ~ format(':varattno (0|%s) ', k.attnum) as uses_key
  ) as e
  where i.indrelid = p_adoption.relation and i.indisvalid
    and (i.indisunique or i.indisexclusion)
    and (k.attnum = any (i.indkey) or e.uses_key);
end $$;
comment on function keylatch_adoption.key_indexes is
  'Returns the unique indexes that need the plaintext column. twin: the same index on the hash
column. statement: the SQL that creates the twin. An index that is not portable has no twin.';

create function keylatch_adoption.index_statements(table_name text, key_column text)
returns setof text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_adoption constant keylatch_adoption.adoptions := keylatch_adoption.get_adoption(
    index_statements.table_name, index_statements.key_column,
    array['hashing', 'reading', 'emptying', 'dropped'], false
  );
begin
  -- An interrupted "create index concurrently" leaves an invalid index, which must be dropped.
  return query
  select format('drop index concurrently %s', i.indexrelid::regclass)
  from pg_catalog.pg_index as i
  inner join pg_catalog.pg_attribute as h on i.indrelid = h.attrelid
  where i.indrelid = v_adoption.relation and h.attname = v_adoption.hash_column
    and h.attnum = any (i.indkey) and not i.indisvalid;

  return query
  select k.statement from keylatch_adoption.key_indexes(v_adoption) as k
  where k.is_portable and k.twin is null;

  return query
  select format(
    'create index concurrently %I on %s (%I)',
    keylatch_adoption.short_name(format('%s_%s_idx', c.relname, v_adoption.hash_column)),
    v_adoption.relation, v_adoption.hash_column
  )
  from pg_catalog.pg_class as c
  where c.oid = v_adoption.relation
    and not exists (
      select from keylatch_adoption.key_indexes(v_adoption) as k where k.is_portable and k.leads
    )
    and not exists (
      select from pg_catalog.pg_index as i
      inner join pg_catalog.pg_attribute as h
        on i.indrelid = h.attrelid and i.indkey[0] = h.attnum
      where i.indrelid = v_adoption.relation and h.attname = v_adoption.hash_column
        and i.indisvalid and i.indpred is null
    );
end $$;
comment on function keylatch_adoption.index_statements is
  'Returns the statements that create the missing indexes on the hash column. None blocks writers.

Run each statement outside of a transaction. The statements create an index for reading, and a copy
on the hash column of each unique index on the plaintext column. If all indexes exist, the answer
has no row. Errors: invalid_argument (400), adoption_not_ready (409).';

create type keylatch_adoption.proof as (
  table_name text, key_column text, phase text, rows bigint, keys bigint, hashed bigint,
  missing bigint, wrong bigint, index_is_ready boolean, trigger_is_ready boolean,
  fallback_reads bigint, last_fallback_at timestamptz, is_clean boolean, reading_since timestamptz
);
comment on type keylatch_adoption.proof is
  'The result of prove_column: the number of rows, of rows with a key, with a hash, with a key but
no hash (missing), and with a hash of something else (wrong); whether all indexes and the trigger
exist; how many reads fell back to plaintext since read_by_hash; is_clean: whether the next step is
allowed; and when read_by_hash was last called.';

create function keylatch_adoption.prove_column(table_name text, key_column text)
returns keylatch_adoption.proof language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_adoption constant keylatch_adoption.adoptions := keylatch_adoption.get_adoption(
    prove_column.table_name, prove_column.key_column,
    array['hashing', 'reading', 'emptying', 'dropped'], false
  );
  v_key constant text := case v_adoption.phase
    when 'dropped' then 'null::text' else format('t.%I', v_adoption.key_column)
  end;
  v_proof keylatch_adoption.proof;
begin
  execute format(
    'select count(*), count(%1$s), count(t.%2$I),'
    ' count(*) filter (where %1$s is not null and t.%2$I is null),'
    ' count(*) filter (where t.%2$I is not null and t.%2$I is distinct from %3$s)'
    ' from only %4$s as t',
    v_key, v_adoption.hash_column, keylatch_adoption.hash_expression(v_adoption, v_key),
    v_adoption.relation
  )
  into v_proof.rows, v_proof.keys, v_proof.hashed, v_proof.missing, v_proof.wrong;

  v_proof.table_name := v_adoption.relation::text;
  v_proof.key_column := v_adoption.key_column;
  v_proof.phase := v_adoption.phase;
  v_proof.reading_since := v_adoption.reading_since;
  select f.reads - v_adoption.reads_before,
    case when f.reads > v_adoption.reads_before then f.last_read_at end
  into v_proof.fallback_reads, v_proof.last_fallback_at
  from keylatch_adoption.fallbacks as f
  where f.relation = v_adoption.relation and f.key_column = v_adoption.key_column;
  v_proof.index_is_ready := not exists (
    select from keylatch_adoption.index_statements(
      prove_column.table_name, prove_column.key_column
    )
  );
  v_proof.trigger_is_ready := exists (
    select from pg_catalog.pg_trigger as g
    where g.tgrelid = v_adoption.relation and g.tgname = v_adoption.trigger_name
      and g.tgenabled = 'A'
  );
  if v_adoption.phase in ('emptying', 'dropped') then
    -- After phase 3 began, a row has no plaintext key to compare its hash with.
    v_proof.wrong := 0;
    v_proof.is_clean := v_proof.keys = 0
      and (v_proof.trigger_is_ready or v_adoption.phase = 'dropped');
  else
    v_proof.is_clean := v_proof.missing + v_proof.wrong = 0
      and v_proof.index_is_ready and v_proof.trigger_is_ready;
  end if;
  return v_proof;
end $$;
comment on function keylatch_adoption.prove_column is
  'Checks in the whole table that each plaintext key has its hash, and no other row has a hash.

The call reads all rows and locks none. Errors: invalid_argument (400), adoption_not_ready (409).';

create function keylatch_adoption.require_clean(p_proof keylatch_adoption.proof)
returns void language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if not p_proof.is_clean then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format(
        'Of %s rows %s have no hash and %s a wrong one; the index is %s, the trigger is %s.',
        p_proof.rows, p_proof.missing, p_proof.wrong,
        case when p_proof.index_is_ready then 'ready' else 'missing' end,
        case when p_proof.trigger_is_ready then 'ready' else 'missing or off' end
      ),
      'Run: keylatch adopt hash TABLE COLUMN. The command hashes the rows and makes the indexes.'
    );
  end if;
end $$;
comment on function keylatch_adoption.require_clean is
  'Refuses the next step if the result of prove_column is not clean.';

create function keylatch_adoption.read_by_hash(table_name text, key_column text)
returns keylatch_adoption.proof language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_adoption constant keylatch_adoption.adoptions := keylatch_adoption.get_adoption(
    read_by_hash.table_name, read_by_hash.key_column, array['hashing', 'reading'], true
  );
begin
  perform keylatch_adoption.require_clean(
    keylatch_adoption.prove_column(read_by_hash.table_name, read_by_hash.key_column)
  );
  update keylatch_adoption.adoptions as a
  set phase = 'reading', reads_before = f.reads, reading_since = clock_timestamp()
  from keylatch_adoption.fallbacks as f
  where (a.relation, a.key_column) = (v_adoption.relation, v_adoption.key_column)
    and (f.relation, f.key_column) = (a.relation, a.key_column);
  return keylatch_adoption.prove_column(read_by_hash.table_name, read_by_hash.key_column);
end $$;
comment on function keylatch_adoption.read_by_hash is
  'Phase 2: the application reads by the hash, through adopted_rows or by the hash column itself.

The count of reads that fell back to plaintext begins again at 0, also if the call is repeated.
Errors: invalid_argument (400), adoption_not_ready (409) while prove_column is not clean.';

create function keylatch_adoption.check_droppable(p_adoption keylatch_adoption.adoptions)
returns void language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_key constant int2 := (
    select a.attnum from pg_catalog.pg_attribute as a
    where a.attrelid = p_adoption.relation and a.attname = p_adoption.key_column
  );
  v_blocking constant text := (
    select string_agg(distinct b.what, '; ')
    from (
      -- pg_depend lists views, policies, foreign keys of other tables, triggers, generated columns.
      select pg_describe_object(d.classid, d.objid, d.objsubid) as what
      from pg_catalog.pg_depend as d
      left join pg_catalog.pg_attrdef as f on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid
      left join pg_catalog.pg_trigger as g on d.classid = 'pg_trigger'::regclass and g.oid = d.objid
      where d.refclassid = 'pg_class'::regclass and d.refobjid = p_adoption.relation
        and d.refobjsubid = v_key and (d.deptype = 'n' or f.adnum <> v_key)
        and g.tgname is distinct from p_adoption.trigger_name
      union all
      select pg_describe_object('pg_constraint'::regclass, c.oid, 0)
      from pg_catalog.pg_constraint as c
      where c.conrelid = p_adoption.relation and v_key = any (c.conkey)
        and c.contype in ('c', 'f', 'x')
      union all
      select format('index %s, which has no twin on the hash column', k.index_oid::regclass)
      from keylatch_adoption.key_indexes(p_adoption) as k
      where not k.is_portable or k.twin is null
      union all
      select format('replica identity, which is index %s', i.indexrelid::regclass)
      from pg_catalog.pg_index as i
      where i.indrelid = p_adoption.relation and i.indisreplident and v_key = any (i.indkey)
    ) as b
  );
begin
  if v_blocking is not null then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('These need the plaintext column, or would be lost with it: %s.', v_blocking),
      'Change the objects to use the hash column, or drop them. keylatch adopt hash copies indexes.'
    );
  end if;
end $$;
comment on function keylatch_adoption.check_droppable is
  'Refuses to drop the plaintext column while objects depend on it, and names these objects.';

create function keylatch_adoption.check_unused(p_adoption keylatch_adoption.adoptions)
returns void language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_roles text;
  v_objects text;
begin
  -- The schema keylatch_adoption stays while another adopted column needs the schema.
  if exists (
    select from keylatch_adoption.adoptions as a
    inner join pg_catalog.pg_class as c on a.relation = c.oid
    where a.phase <> 'dropped'
      and (a.relation, a.key_column) <> (p_adoption.relation, p_adoption.key_column)
  ) then
    return;
  end if;
  select string_agg(case x.grantee when 0 then 'public' else x.grantee::regrole::text end, ', ')
  into v_roles
  from pg_catalog.pg_proc as p
  cross join lateral aclexplode(p.proacl) as x
  where p.oid = 'keylatch_adoption.adopted_rows(anyelement,text,text)'::regprocedure
    and x.grantee <> p.proowner;
  if v_roles is not null then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('This step removes adopted_rows, and %s may still call it.', v_roles),
      'Let the application read the hash column, then run: revoke execute on function '
      || format('keylatch_adoption.adopted_rows from %s;', v_roles)
    );
  end if;

  with ours as (
    select 'pg_proc'::regclass::oid as class, p.oid from pg_catalog.pg_proc as p
    where p.pronamespace = 'keylatch_adoption'::regnamespace
    union all
    select 'pg_type'::regclass, t.oid from pg_catalog.pg_type as t
    where t.typnamespace = 'keylatch_adoption'::regnamespace
    union all
    select 'pg_class'::regclass, c.oid from pg_catalog.pg_class as c
    where c.relnamespace = 'keylatch_adoption'::regnamespace
    union all
    select 'pg_constraint'::regclass, n.oid from pg_catalog.pg_constraint as n
    where n.connamespace = 'keylatch_adoption'::regnamespace
  )
  select string_agg(distinct pg_describe_object(d.classid, d.objid, d.objsubid), '; ')
  into v_objects
  from pg_catalog.pg_depend as d
  inner join ours as o on d.refclassid = o.class and d.refobjid = o.oid
  where d.deptype = 'n' and d.classid <> 'pg_trigger'::regclass
    and (d.classid, d.objid) not in (select w.class, w.oid from ours as w);
  if v_objects is not null then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('This step removes the schema keylatch_adoption, and these need it: %s.', v_objects),
      'Change these objects to use your table itself, or drop the objects.'
    );
  end if;
end $$;
comment on function keylatch_adoption.check_unused is
  'Refuses to end the last adoption while your own objects need the schema keylatch_adoption.';

create function keylatch_adoption.move_primary_key(p_adoption keylatch_adoption.adoptions)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_constraint text;
  v_twin text;
begin
  select c.conname, t.relname
  into v_constraint, v_twin
  from keylatch_adoption.key_indexes(p_adoption) as k
  inner join pg_catalog.pg_constraint as c on k.index_oid = c.conindid and c.contype = 'p'
  inner join pg_catalog.pg_class as t on k.twin = t.oid
  where k.is_primary;
  if v_constraint is not null then
    execute format('alter table %s drop constraint %I', p_adoption.relation, v_constraint);
    execute format(
      'alter table %s add constraint %I primary key using index %I',
      p_adoption.relation, v_constraint, v_twin
    );
  end if;
end $$;
comment on function keylatch_adoption.move_primary_key is
  'Makes the hash column part of the primary key in place of the plaintext column. PostgreSQL reads
the whole table once to check that no hash is null.';

create function keylatch_adoption.begin_emptying(
  p_adoption keylatch_adoption.adoptions, p_days integer
)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_proof constant keylatch_adoption.proof := keylatch_adoption.prove_column(
    p_adoption.relation::text, p_adoption.key_column
  );
  v_days constant numeric :=
    extract(epoch from clock_timestamp() - p_adoption.reading_since)::numeric / 86400;
begin
  perform keylatch_adoption.require_clean(v_proof);
  if v_proof.fallback_reads > 0 then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('%s reads fell back to plaintext, the last at %s.',
        v_proof.fallback_reads, v_proof.last_fallback_at),
      'Find these reads, then call read_by_hash to count again: keylatch adopt read TABLE COLUMN'
    );
  end if;
  if v_days < p_days then
    perform keylatch_adoption.refuse(
      'adoption_not_ready',
      format('%s days without a plaintext read are needed: %s are left.',
        p_days, round(p_days - v_days, 1)),
      format('Wait, or set fewer days: keylatch adopt drop TABLE COLUMN --days %s', floor(v_days))
    );
  end if;
  perform keylatch_adoption.check_droppable(p_adoption);
  perform keylatch_adoption.check_unused(p_adoption);
  perform keylatch_adoption.lock_shortly(p_adoption.relation);
  perform keylatch_adoption.move_primary_key(p_adoption);
  execute format(
    'alter table %s alter column %I drop not null', p_adoption.relation, p_adoption.key_column
  );
  p_adoption.phase := 'emptying';
  perform keylatch_adoption.make_hash_trigger(p_adoption);
end $$;
comment on function keylatch_adoption.begin_emptying is
  'Begins phase 3: the trigger now sets each new plaintext key to null.';

create function keylatch_adoption.drop_plaintext(
  table_name text, key_column text, confirm text, backup_taken boolean default false,
  days integer default 7
)
returns keylatch_adoption.adoption language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_adoption keylatch_adoption.adoptions;
begin
  if drop_plaintext.confirm is distinct from 'drop plaintext' then
    perform keylatch_adoption.refuse(
      'invalid_argument', 'confirm must be: drop plaintext.',
      'Nobody can undo drop_plaintext. Take a backup, then pass: drop plaintext.'
    );
  elsif drop_plaintext.backup_taken is distinct from true then
    perform keylatch_adoption.refuse(
      'invalid_argument', 'backup_taken must be true, because this step cannot be undone.',
      'Take a backup, test its restore, then pass --backup-taken.'
    );
  elsif drop_plaintext.days is null or drop_plaintext.days not between 0 and 365 then
    perform keylatch_adoption.refuse(
      'invalid_argument', 'days must be from 0 to 365.',
      'Leave days out to use 7 days without a read that falls back to plaintext.'
    );
  end if;
  v_adoption := keylatch_adoption.get_adoption(
    drop_plaintext.table_name, drop_plaintext.key_column,
    array['reading', 'emptying', 'dropped'], true
  );
  if v_adoption.phase = 'reading' then
    perform keylatch_adoption.begin_emptying(v_adoption, drop_plaintext.days);
    v_adoption.phase := 'emptying';
    v_adoption.next_page := 0;
  -- After prove_column no plaintext key can appear, because the trigger empties every new value.
  elsif v_adoption.phase = 'emptying' and (
    keylatch_adoption.prove_column(drop_plaintext.table_name, drop_plaintext.key_column)
  ).is_clean then
    perform keylatch_adoption.check_droppable(v_adoption);
    perform keylatch_adoption.lock_shortly(v_adoption.relation);
    perform keylatch_adoption.drop_hash_trigger(v_adoption);
    execute format(
      'alter table %s drop column %I', v_adoption.relation, v_adoption.key_column
    );
    v_adoption.phase := 'dropped';
  end if;

  update keylatch_adoption.adoptions as a
  set phase = v_adoption.phase, next_page = v_adoption.next_page
  where (a.relation, a.key_column) = (v_adoption.relation, v_adoption.key_column);
  return keylatch_adoption.describe(v_adoption);
end $$;
comment on function keylatch_adoption.drop_plaintext is
  'Phase 3, which cannot be undone: empties the plaintext keys, then drops their column.

Call drop_plaintext with confirm ''drop plaintext'' and backup_taken, then hash_rows until is_done
is true, then drop_plaintext again, which drops the column. drop_plaintext needs a clean result of
prove_column, "days" days since read_by_hash without a plaintext read, a copy of each unique index
on the hash column, and no other object that needs the column. Dead rows, WAL, backups, dumps and
snapshots may still have the keys: run vacuum full, and delete old copies.
Errors: invalid_argument (400), adoption_not_ready (409).';

create function keylatch_adoption.revert_column(table_name text, key_column text)
returns keylatch_adoption.adoption language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_adoption constant keylatch_adoption.adoptions := keylatch_adoption.get_adoption(
    revert_column.table_name, revert_column.key_column, array['hashing', 'reading'], true
  );
  v_answer keylatch_adoption.adoption := keylatch_adoption.describe(v_adoption);
begin
  perform keylatch_adoption.check_unused(v_adoption);
  perform keylatch_adoption.lock_shortly(v_adoption.relation);
  perform keylatch_adoption.drop_hash_trigger(v_adoption);
  begin
    execute format('alter table %s drop column %I', v_adoption.relation, v_adoption.hash_column);
  exception
    when dependent_objects_still_exist then
      perform keylatch_adoption.refuse(
        'adoption_not_ready',
        format('One of your own objects needs the column %s.', v_adoption.hash_column),
        'Drop the view, policy or function that needs the column first.'
      );
  end;
  delete from keylatch_adoption.adoptions as a
  where (a.relation, a.key_column) = (v_adoption.relation, v_adoption.key_column);
  v_answer.phase := 'reverted';
  return v_answer;
end $$;
comment on function keylatch_adoption.revert_column is
  'Undoes phases 1 and 2: drops the hash column and the trigger that adopt_column added.

Errors: invalid_argument (400), adoption_not_ready (409) from phase 3 on.';

-- Only the owner has rights here. You grant adopted_rows to an application yourself. These REVOKEs
-- also remove what default privileges on Supabase grant to its roles.
do $$
declare
  v_grantee text;
begin
  for v_grantee in
    select 'public' union all
    select quote_ident(r.rolname)
    from pg_catalog.pg_roles as r
    where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute pg_catalog.format('revoke all on schema keylatch_adoption from %s', v_grantee);
    execute pg_catalog.format(
      'revoke all on all tables in schema keylatch_adoption from %s', v_grantee
    );
    execute pg_catalog.format(
      'revoke all on all functions in schema keylatch_adoption from %s', v_grantee
    );
  end loop;
end $$;
