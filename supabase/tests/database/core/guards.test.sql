-- Each constraint, row policy and row security of the core's tables alone, with nothing before it
-- that refuses already.
begin;
\ir ../people.psql
select plan(32);

select pg_temp.make('old');
select pg_temp.make('new', null, format($$ keylatch.rotate_key(%L, '1 hour') $$, pg_temp.id('old')));
set constraints all immediate;

-- Constraints, without the triggers that check earlier.

-- The constraint that refuses a copy of a good row with these values.
create function pg_temp.refusing(p_table regclass, p_changes jsonb) returns text language plpgsql as
$$
declare
  v_constraint text;
  v_columns constant text := (
    select string_agg(quote_ident(a.attname), ', ') from pg_attribute as a
    where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  );
begin
  execute format('alter table %s disable trigger user', p_table);
  execute format(
    'insert into %1$s (%2$s) '
    'select %2$s from (select (jsonb_populate_record(t, $1)).* from %1$s as t '
    'order by to_jsonb(t) ->> ''rotated_from'' limit 1) as changed', p_table, v_columns
  ) using p_changes;
  raise sqlstate 'UNDO0';
exception
  when integrity_constraint_violation then
    get stacked diagnostics v_constraint = constraint_name;
    return v_constraint;
  when sqlstate 'UNDO0' then
    return 'none';
end
$$;

-- In bad_rows, `keeps` is a column that keeps the value of the good row.
create temporary table bad_rows (
  of_table text, refusing text, changes jsonb, keeps text default ''
) on commit drop;
-- Values that a copy of a row needs, so that only the tested value is wrong.
create temporary table fresh (of_table text primary key, changes jsonb) on commit drop;
insert into fresh values
('keylatch_internal.errors', '{"slug": "new"}'),
('keylatch_internal.keys', jsonb_build_object(
  'id', gen_random_uuid(), 'key_hash', sha256('another'), 'rotated_from', null
));
insert into bad_rows values
('keylatch_internal.errors', 'errors_code_check', '{"code": "PT40"}'),
('keylatch_internal.installation', 'installation_only_row_check', '{"only_row": false}'),
('keylatch_internal.installation', 'installation_pkey', '{}'),
('keylatch_internal.keys', 'keys_environment_check', '{"environment": "staging"}'),
('keylatch_internal.keys', 'keys_key_hash_check', '{"key_hash": "\\x00"}'),
('keylatch_internal.keys', 'keys_kind_check', '{"kind": "public"}'),
('keylatch_internal.keys', 'keys_public_key_check', '{"public_key": "in plaintext"}'),
('keylatch_internal.keys', 'keys_public_key_check', '{"kind": "publishable"}'),
('keylatch_internal.keys', 'keys_public_key_check',
  '{"kind": "publishable", "public_key": "not of that hash"}'),
('keylatch_internal.keys', 'keys_revoked_check', '{"revoke_reason": "leaked"}'),
('keylatch_internal.keys', 'keys_revoked_check', jsonb_build_object('revoked_by', pg_temp.a())),
('keylatch_internal.keys', 'keys_rotated_from_fkey', jsonb_build_object(
  'rotated_from', gen_random_uuid()
)),
('keylatch_internal.keys', 'keys_superseded_check', jsonb_build_object(
  'superseded_at', now(), 'expires_at', null
)),
('keylatch_internal.keys', 'keys_times_check', '{"expires_at": "infinity"}'),
('keylatch_internal.keys', 'keys_times_check', '{"expires_at": "9999-01-01 00:00:01Z"}'),
('keylatch_internal.keys', 'keys_times_check', '{"expires_at": "0001-01-01 00:00Z"}'),
('keylatch_internal.keys', 'keys_times_check', '{"suspended_at": "-infinity"}'),
('keylatch_internal.keys', 'keys_times_check',
  '{"superseded_at": "infinity", "expires_at": "2999-01-01Z"}'),
('keylatch_internal.keys', 'keys_times_check', '{"revoked_at": "infinity"}'),
('keylatch_internal.keys', 'keys_times_check', '{"created_at": "infinity"}'),
('keylatch_internal.workspace_latches', 'workspace_latches_pkey', '{}');
insert into bad_rows values
('keylatch_internal.errors', 'errors_pkey', '{}', 'slug'),
('keylatch_internal.keys', 'keys_key_hash_key', '{}', 'key_hash'),
('keylatch_internal.keys', 'keys_pkey', '{}', 'id'),
('keylatch_internal.keys', 'keys_rotated_from_key', '{}', 'rotated_from');
select is(
  pg_temp.refusing(b.of_table::regclass, b.changes), b.refusing,
  format('%s refuses %s', b.refusing, b.changes - '{id,key_hash,rotated_from}'::text[])
)
from (
  select
    r.of_table,
    r.refusing,
    coalesce(f.changes - r.keeps, '{}') || r.changes as changes
  from bad_rows as r left join fresh as f on r.of_table = f.of_table
) as b;
select set_eq(
  'select refusing from bad_rows',
  $$
    select c.conname from pg_constraint as c
    where c.conrelid in (select r.of_table::regclass from bad_rows as r)
      and c.contype in ('c', 'f', 'p', 'u', 'x')
  $$,
  'each constraint of these tables is tested'
);
select ok(
  not :'core_alone'::boolean or array(
    select c.oid::regclass::text from pg_class as c
    where c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
      and c.relkind = 'r'
    order by 1
  ) = array(select distinct r.of_table from bad_rows as r order by 1),
  'with the core alone, these are all tables'
);

-- Row security, and policies for statements without columns: then only their own policy applies.

-- Whether anon sees no row of a table with rows, even after a grant.
create function pg_temp.is_hidden(p_table regclass) returns boolean language plpgsql as
$$
declare
  v_rows bigint;
  v_seen bigint;
begin
  execute format(
    'grant usage on schema keylatch_internal to anon; grant select on %s to anon', p_table
  );
  execute format('select count(*) from %s', p_table) into v_rows;
  perform pg_temp.act_as('anon');
  execute format('select count(*) from %s', p_table) into v_seen;
  perform pg_temp.act_as('owner');
  return v_rows > 0 and v_seen = 0;
end
$$;

select ok(
  pg_temp.is_hidden(t.of_table::regclass), format('a grant alone shows nothing of %s', t.of_table)
)
from (select distinct r.of_table from bad_rows as r order by 1) as t;
-- The trigger that makes keys checks again, with a snapshot of its own.
alter table keylatch_internal.keys disable trigger user;
select is(
  pg_temp.outcome('bob', 'insert into keylatch.keys (workspace_id) values (pg_temp.a())'), '42501',
  'the policy alone refuses a key in another workspace'
);

select * from finish();
rollback;
