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
  perform pg_temp.keylatch_step(1);
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
    select from keylatch_internal.installation as i where i.schema_version <> '0.1.0'
  )
  then
    raise exception 'the database has another release of keylatch than 0.1.0'
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

-- The role, as in the first migration.
do $$
begin
  if pg_catalog.to_regrole('keylatch_resolver') is null then
    create role keylatch_resolver nologin noinherit;
    comment on role keylatch_resolver is
      'A role for services: resolves keylatch keys and sessions, but cannot issue or revoke keys.';
  end if;
exception when duplicate_object or unique_violation then null;
end $$;

do $$
begin
  if pg_catalog.to_regrole('authenticator') is null then
    raise notice 'There is no role "authenticator": PostgREST will not reach keylatch_resolver.';
  elsif not pg_catalog.pg_has_role('authenticator', 'keylatch_resolver', 'member') then
    grant keylatch_resolver to authenticator;
  end if;
  -- From version 16 on, the creator of a role may grant the role, but may not SET ROLE to it.
  if not pg_catalog.pg_has_role(
    'keylatch_resolver',
    case when pg_catalog.current_setting('server_version_num')::integer < 160000
      then 'member' else 'set' end
  ) then
    grant keylatch_resolver to current_user;
  end if;
exception
  when unique_violation then null;
  when insufficient_privilege then
    raise warning 'keylatch_resolver could not be granted to authenticator and %', current_user
      using hint = 'Let the owner of the role run: grant keylatch_resolver to <role>;';
end $$;

-- Core.
do $$
declare
  v_rows bigint;
begin
  perform pg_temp.keylatch_step(2);
  if pg_catalog.to_regclass('keylatch_internal.errors') is null then
    return;
  end if;
insert into keylatch_internal.errors (slug, code, hint) values
('invalid_argument', 'PT400', 'Correct the argument that the detail names.'),
('read_committed_required', '0A000', 'Run "set transaction isolation level read committed" first.'),
('too_many_requests', 'PT429', 'Wait for the number of seconds in Retry-After.'),
('restore_incomplete', 'PT500', 'As the owner of keylatch, run sql/ops/after_restore.sql.')
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.errors, %', v_rows;
  end if;
insert into keylatch_internal.installation (schema_version) values ('0.1.0')
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.installation, %', v_rows;
  end if;
insert into keylatch_internal.errors (slug, code, hint) values
('workspace_deleted', 'PT409', 'Create a workspace with a new id, and issue the key there.'),
('keys_are_kept', 'PT409', 'Call revoke_key instead.')
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.errors, %', v_rows;
  end if;
insert into keylatch_internal.errors (slug, code, hint) values
('column_is_immutable', 'PT409', 'Call issue_key or rotate_key instead.'),
('revoked_is_final', 'PT409', 'Call issue_key for a new key.'),
('expired_is_final', 'PT409', 'Call issue_key for a new key.'),
(
  'superseded_is_final', 'PT409',
  'Set an earlier expires_at, or let the caller use the successor of the key.'
)
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.errors, %', v_rows;
  end if;
insert into keylatch_internal.errors (slug, code, hint) values
('key_not_found', 'PT404', 'List the keys of the workspace with list_keys.'),
('key_already_rotated', 'PT409', 'Rotate the newer key, which has this key id in rotated_from.'),
('key_revoked', 'PT409', 'A revoked key stays revoked. Call issue_key for a new key.'),
('key_expired', 'PT409', 'An expired key stays expired. Call issue_key for a new key.'),
('key_suspended', 'PT409', 'Call unsuspend_key first, or call rotate_key with grace 0.')
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.errors, %', v_rows;
  end if;
revoke all on schema keylatch, keylatch_internal from public, anon, authenticated, service_role;
revoke all on table keylatch_internal.errors, keylatch_internal.installation
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.refuse, keylatch_internal.require_grants,
keylatch_internal.require_read_committed, keylatch_internal.expose_table,
keylatch_internal.current_place, keylatch_internal.describe_installation, keylatch.installation
from public, anon, authenticated, service_role;
grant usage on schema keylatch, keylatch_internal to authenticated, service_role, keylatch_resolver;
grant execute on function keylatch_internal.refuse, keylatch_internal.describe_installation,
keylatch.installation to authenticated, service_role, keylatch_resolver;
grant execute on function keylatch_internal.require_read_committed to service_role;
revoke all on table keylatch_internal.keys, keylatch_internal.active_keys, keylatch.keys
from public, anon, authenticated, service_role;
revoke all on function keylatch.hash_key, keylatch_internal.key_characters,
keylatch_internal.complete_key, keylatch_internal.key_form
from public, anon, authenticated, service_role;
grant
select (
  id, workspace_id, kind, environment, public_key, masked_key, fingerprint, label, metadata,
  allowed_origins, scopes, expires_at, suspended_at, superseded_at, revoked_at, revoked_by,
  revoke_reason, rotated_from, created_at, created_by, updated_at, imported_at
),
insert (
  id, workspace_id, kind, environment, public_key, masked_key, label, metadata,
  allowed_origins, scopes, expires_at, suspended_at, superseded_at, revoked_at, revoked_by,
  revoke_reason, rotated_from, created_at, created_by, updated_at, imported_at
),
update (
  id, workspace_id, kind, environment, public_key, masked_key, label, metadata,
  allowed_origins, scopes, expires_at, suspended_at, superseded_at, revoked_at, revoked_by,
  revoke_reason, rotated_from, created_at, created_by, updated_at, imported_at
)
on table keylatch_internal.keys, keylatch.keys to authenticated, service_role;
grant select on table keylatch.keys to authenticated, service_role;
grant execute on function keylatch.hash_key, keylatch_internal.key_characters,
keylatch_internal.complete_key, keylatch_internal.key_form to authenticated, service_role;
revoke all on function keylatch_internal.is_canonical_origin, keylatch_internal.is_origin_entry,
keylatch_internal.origin_matches, keylatch_internal.check_origins
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.is_canonical_origin, keylatch_internal.is_origin_entry,
keylatch_internal.origin_matches, keylatch_internal.check_origins to authenticated, service_role;
revoke all on table keylatch_internal.workspace_latches
from public, anon, authenticated, service_role;
revoke all on function keylatch.admin_workspace_ids, keylatch_internal.current_user_id,
keylatch_internal.share_workspaces, keylatch_internal.revoke_workspace,
keylatch_internal.revoke_workspace_keys from public, anon, authenticated, service_role;
grant execute on function keylatch.admin_workspace_ids, keylatch_internal.current_user_id
to authenticated, service_role;
alter table keylatch_internal.keys enable always trigger keys_update_immutable;
alter table keylatch_internal.keys enable always trigger keys_update_revoked_is_final;
alter table keylatch_internal.keys enable always trigger keys_update_expired_is_final;
alter table keylatch_internal.keys enable always trigger keys_update_superseded_is_final;
alter table keylatch_internal.keys enable always trigger keys_update_hold_expiry;
alter table keylatch_internal.keys enable always trigger keys_delete_keep;
alter table keylatch_internal.keys enable always trigger keys_truncate_keep;
alter table keylatch_internal.keys enable replica trigger keys_update_a_merge_revocation;
revoke all on function keylatch_internal.is_apply_worker, keylatch_internal.hold_latch,
keylatch_internal.hold_expiry, keylatch_internal.merge_revocation, keylatch_internal.stamp_update,
keylatch_internal.judge_update, keylatch_internal.check_metadata, keylatch_internal.check_key
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.is_apply_worker, keylatch_internal.check_metadata,
keylatch_internal.check_key to authenticated, service_role;
revoke all on function keylatch_internal.require_unrevoked, keylatch_internal.require_rotatable,
keylatch_internal.mint_key, keylatch_internal.insert_key, keylatch_internal.set_suspended,
keylatch.issue_key, keylatch.issue_keys, keylatch.rotate_key, keylatch.revoke_key,
keylatch.retire_workspace, keylatch.suspend_key, keylatch.unsuspend_key, keylatch.list_keys
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.require_unrevoked, keylatch_internal.require_rotatable,
keylatch_internal.insert_key, keylatch_internal.set_suspended, keylatch.issue_key,
keylatch.issue_keys, keylatch.rotate_key, keylatch.revoke_key, keylatch.retire_workspace,
keylatch.suspend_key, keylatch.unsuspend_key, keylatch.list_keys to authenticated, service_role;
revoke all on function keylatch_internal.other_hash, keylatch.resolve_key, keylatch.resolve_keys,
keylatch.explain_key, keylatch_internal.key_verdict, keylatch_internal.explain,
keylatch_internal.find_key, keylatch_internal.explain_for_resolver
from public, anon, authenticated, service_role;
grant execute on function keylatch.resolve_key, keylatch.resolve_keys
to service_role, keylatch_resolver;
grant execute on function keylatch_internal.find_key, keylatch_internal.explain,
keylatch_internal.key_verdict to authenticated, service_role;
grant execute on function keylatch_internal.explain_for_resolver to keylatch_resolver;
grant execute on function keylatch.explain_key to authenticated, service_role, keylatch_resolver;
end $$;

-- Tenancy.
do $$
declare
  v_rows bigint;
begin
  perform pg_temp.keylatch_step(3);
  if pg_catalog.to_regclass('keylatch.workspaces') is null then
    return;
  end if;
alter table keylatch.workspaces enable always trigger workspaces_truncate_keep;
revoke all on table keylatch.workspaces, keylatch.workspace_membership
from public, anon, authenticated, service_role;
grant select on table keylatch.workspaces, keylatch.workspace_membership to authenticated;
grant select, insert, update, delete
on table keylatch.workspaces, keylatch.workspace_membership to service_role;
end $$;

-- Module events.
do $$
declare
  v_rows bigint;
begin
  perform pg_temp.keylatch_step(4);
  if pg_catalog.to_regclass('keylatch_internal.key_events') is null then
    return;
  end if;
insert into keylatch_internal.errors (slug, code, hint) values
(
  'events_are_kept', 'PT409',
  'Leave events unchanged. To remove old events, run archive_events.sql, then compare_archive.sql.'
),
('admin_required', '42501', 'Ask an admin of a workspace to make the call.'),
('sealed_at_publisher', 'PT409', 'Call seal_events on the publisher. Checkpoints are replicated.'),
(
  'too_many_keys', 'PT409',
  'Let the owner raise keys_per_workspace in event_settings, or use another workspace.'
)
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.errors, %', v_rows;
  end if;
insert into keylatch_internal.event_settings default values
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.event_settings, %', v_rows;
  end if;
update keylatch_internal.installation set modules = array_append(modules, 'events')
where 'events' <> all (modules);
alter table keylatch_internal.key_events enable always trigger key_events_update_keep;
alter table keylatch_internal.key_events enable always trigger key_events_delete_keep;
alter table keylatch_internal.key_events enable always trigger key_events_truncate_keep;
alter table keylatch_internal.key_event_checkpoints
enable always trigger key_event_checkpoints_update_keep;
alter table keylatch_internal.key_event_checkpoints
enable always trigger key_event_checkpoints_delete_keep;
revoke all on table keylatch_internal.key_events, keylatch_internal.key_event_checkpoints,
keylatch_internal.event_settings, keylatch.key_events
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.keep_events, keylatch_internal.personal_digest
from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_events, keylatch.key_events
to authenticated, service_role;
grant select on table keylatch_internal.key_event_checkpoints to service_role;
alter table keylatch_internal.keys enable always trigger keys_update_record_events;
alter table keylatch_internal.keys enable always trigger keys_update_record_revocations;
revoke all on function keylatch_internal.clean_word, keylatch_internal.current_source,
keylatch_internal.metadata_change, keylatch_internal.limit_growth, keylatch_internal.key_changes,
keylatch_internal.record_new_key, keylatch_internal.record_change,
keylatch_internal.record_revocations, keylatch.list_events
from public, anon, authenticated, service_role;
grant execute on function keylatch.list_events to authenticated, service_role;
revoke all on function keylatch_internal.event_digest, keylatch_internal.digest_events,
keylatch_internal.seal_key_events, keylatch_internal.verify_checkpoints, keylatch.seal_events,
keylatch.verify_events from public, anon, authenticated, service_role;
grant execute on function keylatch.verify_events, keylatch_internal.verify_checkpoints
to authenticated, service_role;
grant execute on function keylatch.seal_events, keylatch_internal.seal_key_events to service_role;
end $$;

-- Module usage.
do $$
declare
  v_rows bigint;
begin
  perform pg_temp.keylatch_step(5);
  if pg_catalog.to_regclass('keylatch_internal.key_usage') is null then
    return;
  end if;
update keylatch_internal.installation set modules = array_append(modules, 'usage')
where 'usage' <> all (modules);
revoke all on table keylatch_internal.key_usage, keylatch_internal.key_days, keylatch.key_usage,
keylatch.key_usage_days, keylatch.key_refusals from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.read_usage, keylatch_internal.add_usage,
keylatch.record_usage from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_usage, keylatch_internal.key_days, keylatch.key_usage,
keylatch.key_usage_days, keylatch.key_refusals to authenticated, service_role;
grant execute on function keylatch_internal.add_usage, keylatch.record_usage
to service_role, keylatch_resolver;
end $$;

-- Module notify.
do $$
declare
  v_rows bigint;
begin
  perform pg_temp.keylatch_step(6);
  if pg_catalog.to_regproc('keylatch_internal.is_notify_stuck') is null then
    return;
  end if;
insert into keylatch_internal.errors (slug, code, hint) values
('replicas_behind', 'PT504', 'Call wait_for_replicas again. Your change is already committed.')
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.errors, %', v_rows;
  end if;
update keylatch_internal.installation set modules = array_append(modules, 'notify')
where 'notify' <> all (modules);
alter table keylatch_internal.keys enable always trigger keys_update_notify;
alter table keylatch_internal.keys enable always trigger keys_insert_notify;
revoke all on sequence keylatch_internal.notices_left_out
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.is_notify_stuck, keylatch_internal.notify_caches,
keylatch_internal.hold_extension, keylatch_internal.read_position, keylatch_internal.read_heartbeat,
keylatch_internal.await_replicas, keylatch.replay_position, keylatch.wait_for_replicas
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.read_position, keylatch_internal.await_replicas,
keylatch.replay_position, keylatch.wait_for_replicas
to authenticated, service_role, keylatch_resolver;
grant execute on function keylatch_internal.read_heartbeat to service_role, keylatch_resolver;
end $$;

-- Module request.
do $$
declare
  v_rows bigint;
begin
  perform pg_temp.keylatch_step(7);
  if pg_catalog.to_regproc('keylatch_internal.require_one_identity') is null then
    return;
  end if;
insert into keylatch_internal.errors (slug, code, hint) values
('invalid_api_key', 'PT401', 'Ask an admin of the workspace to call explain_key.')
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.errors, %', v_rows;
  end if;
update keylatch_internal.installation set modules = array_append(modules, 'request')
where 'request' <> all (modules);
revoke all on function keylatch_internal.require_one_identity, keylatch_internal.other_identity,
keylatch_internal.request_identity, keylatch.current_workspace_id, keylatch.current_key_id,
keylatch.has_scope, keylatch.key_metadata, keylatch.check_request
from public, anon, authenticated, service_role;
grant usage on schema keylatch, keylatch_internal to anon;
grant execute on function keylatch.current_workspace_id, keylatch.current_key_id,
keylatch.has_scope, keylatch.key_metadata to anon, authenticated, service_role;
grant execute on function keylatch_internal.request_identity, keylatch.check_request
to anon, authenticated, service_role, keylatch_resolver;
end $$;

-- Module sessions.
do $$
declare
  v_rows bigint;
begin
  perform pg_temp.keylatch_step(8);
  if pg_catalog.to_regclass('keylatch_internal.sessions') is null then
    return;
  end if;
insert into keylatch_internal.errors (slug, code, hint) values
('session_refused', 'PT401', 'Ask an admin of the workspace to call explain_key.'),
('invalid_session', 'PT401', 'Let the page open a new session.'),
('session_not_found', 'PT404', 'Let the page of the visitor open a new session.'),
('subject_is_final', 'PT409', 'Let the page open a new session for another visitor.')
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.errors, %', v_rows;
  end if;
insert into keylatch_internal.session_limits default values
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.session_limits, %', v_rows;
  end if;
update keylatch_internal.installation set modules = array_append(modules, 'sessions')
where 'sessions' <> all (modules);
revoke all on table keylatch_internal.sessions, keylatch_internal.session_endings,
keylatch_internal.session_limits, keylatch.sessions, keylatch.session_settings
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.delete_session, keylatch_internal.judge_session_settings,
keylatch_internal.limited_address, keylatch_internal.count_in_flight,
keylatch_internal.count_opened, keylatch_internal.count_session
from public, anon, authenticated, service_role;
grant select (id, workspace_id, key_id, origin, subject, created_at, expires_at)
on table keylatch_internal.sessions to authenticated, service_role;
grant select, insert (workspace_id, key_id) on table keylatch_internal.session_endings
to authenticated, service_role;
grant select, delete on table keylatch.sessions to authenticated, service_role;
grant select, insert (workspace_id, lifetime), update (workspace_id, lifetime)
on table keylatch.session_settings to authenticated, service_role;
revoke all on function keylatch_internal.session_expiry, keylatch_internal.start_session,
keylatch_internal.check_session_key, keylatch_internal.find_session,
keylatch_internal.change_session, keylatch_internal.end_workspace_sessions,
keylatch_internal.delete_old_sessions, keylatch.open_session, keylatch.resolve_session,
keylatch.close_session, keylatch.attach_subject, keylatch.end_sessions, keylatch.prune_sessions,
keylatch.current_session_id from public, anon, authenticated, service_role;
grant execute on function keylatch.current_session_id to anon, authenticated, service_role;
grant execute on function keylatch.open_session, keylatch_internal.start_session
to anon, authenticated;
grant execute on function keylatch.end_sessions to authenticated, service_role;
grant execute on function keylatch.resolve_session, keylatch.close_session, keylatch.attach_subject,
keylatch_internal.find_session, keylatch_internal.change_session to service_role, keylatch_resolver;
grant execute on function keylatch.prune_sessions, keylatch_internal.delete_old_sessions
to service_role;
end $$;

-- Module legacy.
do $$
declare
  v_rows bigint;
begin
  perform pg_temp.keylatch_step(9);
  if pg_catalog.to_regclass('keylatch_internal.legacy_secrets') is null then
    return;
  end if;
insert into keylatch_internal.legacy_settings default values
on conflict do nothing;
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    raise notice 'Repaired rows of keylatch_internal.legacy_settings, %', v_rows;
  end if;
update keylatch_internal.installation set modules = array_append(modules, 'legacy')
where 'legacy' <> all (modules);
revoke all on table keylatch_internal.legacy_secrets, keylatch_internal.legacy_schemes
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.read_bytes, keylatch_internal.read_secret,
keylatch_internal.scheme_digest, keylatch_internal.legacy_hash, keylatch_internal.scheme_hashes,
keylatch_internal.judge_scheme, keylatch_internal.keep_scheme, keylatch.declare_scheme,
keylatch_internal.move_scheme_end, keylatch.end_scheme, keylatch_internal.judge_slow_scheme
from public, anon, authenticated, service_role;
grant execute on function keylatch.declare_scheme, keylatch_internal.keep_scheme,
keylatch.end_scheme, keylatch_internal.move_scheme_end to service_role;
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_update_immutable;
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_update_upgraded;
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_delete_keep;
alter table keylatch_internal.legacy_schemes enable always trigger legacy_schemes_change_keep;
alter table keylatch_internal.legacy_schemes enable always trigger legacy_schemes_truncate_keep;
alter table keylatch_internal.legacy_texts enable always trigger legacy_texts_change_keep;
alter table keylatch_internal.legacy_keys
enable replica trigger legacy_keys_update_a_merge_first_use;
alter table keylatch_internal.legacy_texts
enable replica trigger legacy_texts_insert_merge_first_use;
revoke all on table keylatch_internal.legacy_keys, keylatch_internal.legacy_texts,
keylatch.legacy_keys, keylatch.imported_keys from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.keep_legacy, keylatch_internal.merge_first_use,
keylatch_internal.is_placeholder, keylatch.revoke_legacy_key
from public, anon, authenticated, service_role;
grant select (
  key_id, workspace_id, scheme, source, import_id, seen_by, last_used_at, rounds, upgraded_at
)
on table keylatch_internal.legacy_keys to authenticated, service_role;
grant select on table keylatch.legacy_keys, keylatch.imported_keys to authenticated, service_role;
grant execute on function keylatch.revoke_legacy_key to authenticated, service_role;
revoke all on table keylatch_internal.legacy_settings
from public, anon, authenticated, service_role;
revoke all on sequence keylatch_internal.legacy_attempts_seq
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.count_attempt, keylatch_internal.round_budget,
keylatch_internal.derive_pbkdf2, keylatch_internal.matches_verifier, keylatch_internal.clear_parts,
keylatch_internal.similar_keys, keylatch_internal.matching_keys,
keylatch_internal.upgrade_legacy_key, keylatch.upgrade_key
from public, anon, authenticated, service_role;
grant execute on function keylatch.upgrade_key, keylatch_internal.upgrade_legacy_key
to service_role, keylatch_resolver;
revoke all on table keylatch_internal.import_fields from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.read_import_fields, keylatch_internal.read_plaintext,
keylatch_internal.read_verifier, keylatch_internal.finish_reading,
keylatch_internal.read_legacy_hash, keylatch_internal.name_workspaces, keylatch_internal.read_import
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.share_import, keylatch_internal.insert_lines,
keylatch_internal.similar_rounds, keylatch_internal.limit_rounds, keylatch_internal.hold_lines,
keylatch_internal.must_hold, keylatch_internal.add_hashes, keylatch_internal.write_import,
keylatch_internal.move_key, keylatch_internal.settle_import
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.probe_import, keylatch_internal.report_import,
keylatch_internal.take_import, keylatch.import_keys, keylatch.finish_import
from public, anon, authenticated, service_role;
grant execute on function keylatch.import_keys, keylatch_internal.take_import,
keylatch.finish_import to service_role;
end $$;

-- Triggers that a restore has left disabled, also those of foreign keys.
do $$
declare
  v_trigger record;
begin
  perform pg_temp.keylatch_step(10);
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
  perform pg_temp.keylatch_step(11);
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

do $$
declare
  v_repaired record;
begin
  perform pg_temp.keylatch_step(12);
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
  raise notice E'keylatch is whole.\n'
    'If this database was restored, keys that were revoked after the dump was made\n'
    'are active again. To revoke these keys again, run:\n'
    'keylatch revocations apply FILE';
end $$;
drop table keylatch_before;
drop function pg_temp.keylatch_state();
drop function pg_temp.keylatch_step(integer);
