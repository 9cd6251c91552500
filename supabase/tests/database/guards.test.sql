-- What guards the tables by itself: each constraint, the row policies and row security, where
-- nothing before them has refused already.
begin;
\ir people.psql
select plan(90);

select pg_temp.make('old');
select pg_temp.make('new', null, format($$ keylatch.rotate_key(%L, '1 hour') $$, pg_temp.id('old')));
-- One sound row in each table.
insert into keylatch_internal.permits values ('claim', 'x', now(), 1);
insert into keylatch_internal.adoptions (relation, key_column, hash_column, form, started_at)
values ('keylatch.workspaces', 'name', 'name_hash', 'hex', now());
insert into keylatch_internal.key_usage values (pg_temp.id('new'), pg_temp.a(), now(), 1);
insert into keylatch_internal.key_usage_days values (pg_temp.id('new'), '2026-01-01', pg_temp.a(), 1);
insert into keylatch_internal.foreign_hashes
values (pg_temp.id('new'), pg_temp.a(), 'bcrypt', 'x', '', now());
insert into keylatch_internal.sessions values (
  gen_random_uuid(), sha256('x'), pg_temp.a(), pg_temp.id('new'), 'https://a.example', 'x', now(),
  now() + interval '1 hour'
);
insert into keylatch.session_settings values (pg_temp.a(), '1 day');
set constraints all immediate;

-- Constraints.

-- Which constraint refuses a copy of a sound row with these values, where no trigger asks first.
create function pg_temp.refusing(p_table regclass, p_changes jsonb) returns text language plpgsql as
$$
declare
  v_constraint text;
begin
  execute format('alter table %s disable trigger user', p_table);
  execute format(
    'insert into %1$s overriding system value '
    'select (jsonb_populate_record(t, $1)).* from %1$s as t '
    'order by to_jsonb(t) ->> ''rotated_from'' limit 1', p_table
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

-- In bad_rows `keeps` is a column that is left as in the sound row after all.
create temporary table bad_rows (
  of_table text, refusing text, changes jsonb, keeps text default ''
) on commit drop;
-- What a copy of a row of a table needs so that only what is tried is wrong with it.
create temporary table fresh (of_table text primary key, changes jsonb) on commit drop;
insert into fresh values
('keylatch_internal.keys', jsonb_build_object(
  'id', gen_random_uuid(), 'key_hash', sha256('another'), 'rotated_from', null
)),
('keylatch_internal.key_events', '{"id": 1000000}'),
('keylatch_internal.key_event_links', '{"number": 1000000, "event_id": 1000000}'),
('keylatch_internal.sessions', jsonb_build_object(
  'id', gen_random_uuid(), 'token_hash', sha256('another')
)),
('keylatch.workspaces', jsonb_build_object('id', gen_random_uuid()));
insert into bad_rows values
('keylatch.session_settings', 'session_settings_lifetime_check', '{"lifetime": "59 seconds"}'),
('keylatch.session_settings', 'session_settings_lifetime_check', '{"lifetime": "91 days"}'),
('keylatch.session_settings', 'session_settings_pkey', '{}'),
('keylatch.workspace_membership', 'workspace_membership_pkey', '{}'),
('keylatch.workspace_membership', 'workspace_membership_role_check', '{"role": "owner"}'),
('keylatch.workspace_membership', 'workspace_membership_user_id_fkey', jsonb_build_object(
  'user_id', gen_random_uuid()
)),
('keylatch.workspace_membership', 'workspace_membership_workspace_id_fkey', jsonb_build_object(
  'workspace_id', gen_random_uuid()
)),
('keylatch.workspaces', 'workspaces_name_check', '{"name": ""}'),
('keylatch.workspaces', 'workspaces_pkey', jsonb_build_object('id', pg_temp.b())),
('keylatch_internal.adoptions', 'adoptions_form_check', '{"form": "text"}'),
('keylatch_internal.adoptions', 'adoptions_next_page_check', '{"next_page": -1}'),
('keylatch_internal.adoptions', 'adoptions_phase_check', '{"phase": "done"}'),
('keylatch_internal.adoptions', 'adoptions_pkey', '{}'),
('keylatch_internal.foreign_hashes', 'foreign_hashes_algorithm_check', '{"algorithm": "md5"}'),
('keylatch_internal.foreign_hashes', 'foreign_hashes_pkey', '{}'),
('keylatch_internal.foreign_hashes', 'foreign_hashes_starts_with_check', jsonb_build_object(
  'starts_with', repeat('x', 33)
)),
('keylatch_internal.installation', 'installation_claim_limit_check', '{"claim_limit": 0}'),
('keylatch_internal.installation', 'installation_claim_limit_check', '{"claim_limit": 1001}'),
('keylatch_internal.installation', 'installation_only_row_check', '{"only_row": false}'),
('keylatch_internal.installation', 'installation_per_minute_check', '{"claims_per_minute": 0}'),
('keylatch_internal.installation', 'installation_per_minute_check', '{"sessions_per_minute": 0}'),
('keylatch_internal.installation', 'installation_per_minute_check', '{"sessions_per_address": 0}'),
('keylatch_internal.installation', 'installation_pkey', '{}'),
('keylatch_internal.installation', 'installation_trusted_address_header_check',
  '{"trusted_address_header": "X-Real-IP"}'),
('keylatch_internal.key_event_heads', 'key_event_heads_number_check', '{"number": -1}'),
('keylatch_internal.key_event_heads', 'key_event_heads_pkey', '{}'),
('keylatch_internal.key_event_links', 'key_event_links_hash_check', '{"hash": "\\x00"}'),
('keylatch_internal.key_event_links', 'key_event_links_number_check', '{"number": 0}'),
('keylatch_internal.key_events', 'key_events_event_check', '{"event": "deleted"}'),
('keylatch_internal.key_usage', 'key_usage_pkey', '{}'),
('keylatch_internal.key_usage', 'key_usage_uses_check', '{"uses": -1}'),
('keylatch_internal.key_usage_days', 'key_usage_days_pkey', '{}'),
('keylatch_internal.key_usage_days', 'key_usage_days_uses_check', '{"uses": -1}'),
('keylatch_internal.keys', 'keys_allowed_origins_check', '{"allowed_origins": ["a.example"]}'),
('keylatch_internal.keys', 'keys_environment_check', '{"environment": "staging"}'),
('keylatch_internal.keys', 'keys_hint_check', '{"hint": ""}'),
('keylatch_internal.keys', 'keys_imported_check', '{"key_hash": null}'),
('keylatch_internal.keys', 'keys_key_hash_check', '{"key_hash": "\\x00"}'),
('keylatch_internal.keys', 'keys_kind_check', '{"kind": "public"}'),
('keylatch_internal.keys', 'keys_label_check', '{"label": "a\nb"}'),
('keylatch_internal.keys', 'keys_metadata_check', '{"metadata": []}'),
('keylatch_internal.keys', 'keys_public_key_check', '{"public_key": "in clear"}'),
('keylatch_internal.keys', 'keys_public_key_check', '{"kind": "publishable"}'),
('keylatch_internal.keys', 'keys_public_key_check',
  '{"kind": "publishable", "public_key": "not of that hash"}'),
('keylatch_internal.keys', 'keys_revoke_reason_check', jsonb_build_object(
  'revoked_at', now(), 'revoke_reason', repeat('x', 501)
)),
('keylatch_internal.keys', 'keys_revoked_check', '{"revoke_reason": "leaked"}'),
('keylatch_internal.keys', 'keys_revoked_check', jsonb_build_object('revoked_by', pg_temp.a())),
('keylatch_internal.keys', 'keys_rotated_from_check', (
  select jsonb_build_object('rotated_from', f.changes -> 'id')
  from fresh as f where f.of_table = 'keylatch_internal.keys'
)),
('keylatch_internal.keys', 'keys_rotated_from_fkey', jsonb_build_object(
  'rotated_from', gen_random_uuid()
)),
('keylatch_internal.keys', 'keys_scopes_check', '{"scopes": ["two words"]}'),
('keylatch_internal.keys', 'keys_superseded_check', jsonb_build_object(
  'superseded_at', now(), 'expires_at', null
)),
('keylatch_internal.keys', 'keys_times_check', '{"expires_at": "infinity"}'),
('keylatch_internal.keys', 'keys_times_check', '{"expires_at": "10000-01-01 00:00Z"}'),
('keylatch_internal.keys', 'keys_times_check', '{"suspended_at": "-infinity"}'),
('keylatch_internal.keys', 'keys_times_check', '{"revoked_at": "infinity"}'),
('keylatch_internal.keys', 'keys_times_check', '{"created_at": "infinity"}'),
('keylatch_internal.keys', 'keys_times_check', '{"imported_at": "infinity"}'),
('keylatch_internal.permits', 'permits_pkey', '{}'),
('keylatch_internal.sessions', 'sessions_expires_at_check', '{"expires_at": "2000-01-01 00:00Z"}'),
('keylatch_internal.sessions', 'sessions_expires_at_check', '{"expires_at": "infinity"}'),
('keylatch_internal.sessions', 'sessions_subject_check', '{"subject": ""}'),
('keylatch_internal.sessions', 'sessions_subject_check', '{"subject": "a\tb"}'),
('keylatch_internal.sessions', 'sessions_token_hash_check', '{"token_hash": "\\x00"}');
insert into bad_rows values
('keylatch_internal.key_event_links', 'key_event_links_event_id_key', '{}', 'event_id'),
('keylatch_internal.key_event_links', 'key_event_links_pkey', '{}', 'number'),
('keylatch_internal.key_events', 'key_events_pkey', '{}', 'id'),
('keylatch_internal.keys', 'keys_key_hash_key', '{}', 'key_hash'),
('keylatch_internal.keys', 'keys_pkey', '{}', 'id'),
('keylatch_internal.keys', 'keys_rotated_from_key', '{}', 'rotated_from'),
('keylatch_internal.sessions', 'sessions_pkey', '{}', 'id'),
('keylatch_internal.sessions', 'sessions_token_hash_key', '{}', 'token_hash');
select is(
  pg_temp.refusing(b.of_table::regclass, b.changes), b.refusing,
  format('%s refuses %s', b.refusing, b.changes)
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
    where c.connamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
      and c.contype in ('c', 'f', 'p', 'u', 'x')
  $$,
  'each constraint is tried'
);

-- Row security, and the policies where a statement names no column: then only its own one is asked.

-- Whether anon sees nothing of a table that has rows, even when somebody grants it.
create function pg_temp.is_hidden(p_table regclass) returns boolean language plpgsql as
$$
declare
  v_rows bigint;
  v_seen bigint;
begin
  execute format('grant select on %s to anon', p_table);
  execute format('select count(*) from %s', p_table) into v_rows;
  perform pg_temp.act_as('anon');
  execute format('select count(*) from %s', p_table) into v_seen;
  perform pg_temp.act_as('owner');
  return v_rows > 0 and v_seen = 0;
end
$$;

select ok(pg_temp.is_hidden(c.oid), format('a grant alone shows nothing of %s', c.oid::regclass))
from pg_class as c
where c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal') and c.relkind = 'r'
order by c.relname;
select is(pg_temp.outcome('bob', v.statement), '0 rows', format('of nobody else: %s', v.statement))
from (values
  ('delete from keylatch.session_settings'),
  ('update keylatch.session_settings set lifetime = ''2 days'''),
  ('delete from keylatch_internal.sessions')
) as v (statement);
-- The trigger that makes keys asks again, with a snapshot of its own.
alter table keylatch_internal.keys disable trigger user;
select is(
  pg_temp.outcome('bob', 'insert into keylatch.keys (workspace_id) values (pg_temp.a())'), '42501',
  'the policy alone refuses a key in a foreign workspace'
);

select * from finish();
rollback;
