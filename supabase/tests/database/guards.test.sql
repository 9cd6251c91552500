-- The guards of the tenancy and the modules that no call can reach: the owner tries each by hand.
begin;
\ir people.psql
select plan(29);

create function pg_temp.wait(p_id uuid, p_rounds integer default 1) returns void language sql as
$$
  insert into keylatch_internal.legacy_keys (
    key_id, workspace_id, scheme, import_id, seen_by, verifier, rounds
  )
  values (p_id, pg_temp.a(), 'bcrypt', p_id, p_id, 'x', p_rounds);
$$;
create function pg_temp.open(p_id uuid, p_token text) returns void language sql as
$$
  insert into keylatch_internal.sessions (
    id, token_hash, workspace_id, key_id, origin, created_at, expires_at
  )
  values (
    p_id, sha256(p_token::bytea), pg_temp.a(), p_id, 'https://a.example', now(),
    now() + interval '1 hour'
  );
$$;
create function pg_temp.seal(p_number bigint) returns void language sql as
$$
  insert into keylatch_internal.key_event_checkpoints (number, events, previous, digest, sealed_at)
  values (p_number, 1, '', sha256('x'), now());
$$;

-- One row of each table, to try the guards against.
select pg_temp.wait(pg_temp.a());
insert into keylatch_internal.legacy_schemes (name, digest) values ('old', 'md5');
insert into keylatch_internal.legacy_secrets (name, secret) values ('old', 'x');
insert into keylatch_internal.legacy_texts (text_hash, key_hash) values ('x', 'y');
alter table keylatch_internal.sessions disable trigger user;
select pg_temp.open(pg_temp.a(), 'first');
select pg_temp.seal(1000000);
insert into keylatch_internal.session_endings (workspace_id, key_id)
values (pg_temp.a(), pg_temp.a());
insert into keylatch_internal.legacy_settings default values on conflict do nothing;
insert into keylatch_internal.session_limits default values on conflict do nothing;
set local session_replication_role = replica;
insert into keylatch_internal.key_events (
  id, workspace_id, key_id, event, occurred_at, role, login, changes
)
values (pg_temp.a(), pg_temp.a(), pg_temp.a(), 'issued', now(), 'x', 'x', '{}');

select throws_ok(v.statement, '23514', null, v.promise)
from (
  values
  (
    'insert into keylatch.workspace_membership (workspace_id, user_id, role)
    values (pg_temp.a(), pg_temp.user_id(''stranger''), ''owner'')',
    'a role is admin or member'
  ),
  ('insert into keylatch.workspaces (name) values ('''')', 'a workspace has a name'),
  ('select pg_temp.wait(pg_temp.b(), null)', 'a salted hash has a number of rounds'),
  (
    'insert into keylatch_internal.legacy_settings (only_row) values (false)',
    'the settings of imported keys have one row'
  ),
  (
    'update keylatch_internal.legacy_settings set upgrades_per_minute = 0',
    'a limit on upgrades is at least one'
  ),
  (
    'insert into keylatch_internal.session_limits (only_row) values (false)',
    'the limits of sessions have one row'
  ),
  (
    'update keylatch_internal.session_limits set sessions_per_minute = 0',
    'a limit on sessions is at least one'
  ),
  (
    'update keylatch_internal.session_limits set trusted_address_header = ''X Y''',
    'a trusted header is the name of a header'
  )
) as v (statement, promise);

select throws_ok(v.statement, '23505', null, v.promise)
from (
  values
  (
    'insert into keylatch.workspace_membership (workspace_id, user_id, role)
    values (pg_temp.a(), pg_temp.user_id(''alice''), ''member'')',
    'a user has one role in a workspace'
  ),
  ('select pg_temp.seal(1000000)', 'a checkpoint number exists once'),
  (
    'insert into keylatch_internal.key_events (
      id, workspace_id, key_id, event, occurred_at, role, login, changes
    )
    select id, workspace_id, key_id, event, occurred_at, role, login, changes
    from keylatch_internal.key_events where id = pg_temp.a()',
    'an event exists once'
  ),
  ('select pg_temp.wait(pg_temp.a())', 'a key is imported once'),
  (
    'insert into keylatch_internal.legacy_schemes (name, digest) values (''old'', ''sha1'')',
    'a scheme name exists once'
  ),
  (
    'insert into keylatch_internal.legacy_secrets (name, secret) values (''old'', ''y'')',
    'a secret name exists once'
  ),
  (
    'insert into keylatch_internal.legacy_texts (text_hash, key_hash) values (''x'', ''y'')',
    'a text is stored once'
  ),
  (
    'insert into keylatch.workspaces (name, external_id) values (''x'', ''7''), (''y'', ''7'')',
    'an external id names one workspace'
  ),
  (
    'insert into keylatch_internal.legacy_settings default values',
    'the settings of imported keys exist once'
  ),
  (
    'insert into keylatch_internal.session_endings (workspace_id, key_id)
    values (pg_temp.a(), pg_temp.a())',
    'the sessions of a key are ended once'
  ),
  (
    'insert into keylatch_internal.session_limits default values',
    'the limits of sessions exist once'
  ),
  ('select pg_temp.open(pg_temp.a(), ''second'')', 'a session id exists once'),
  ('select pg_temp.open(pg_temp.b(), ''first'')', 'a token opens one session')
) as v (statement, promise);
set local session_replication_role = origin;

-- A grant by mistake shows no row, because no policy allows a row.
create function pg_temp.shown(p_table text) returns bigint language plpgsql as
$$
declare
  v_there bigint;
  v_shown bigint;
begin
  execute format('grant select on %s to authenticated', p_table);
  execute format('select count(*) from %s', p_table) into v_there;
  perform set_config('role', 'authenticated', true);
  execute format('select count(*) from %s', p_table) into v_shown;
  perform set_config('role', 'none', true);
  return case when v_there > 0 then v_shown end;
end
$$;
select is(
  pg_temp.shown(v.name), 0::bigint, format('a grant alone shows nothing of %s', v.name)
)
from (
  values
  ('keylatch_internal.event_settings'), ('keylatch_internal.key_event_checkpoints'),
  ('keylatch_internal.legacy_settings'), ('keylatch_internal.legacy_schemes'),
  ('keylatch_internal.legacy_secrets'), ('keylatch_internal.legacy_texts'),
  ('keylatch_internal.legacy_keys'),
  ('keylatch_internal.session_limits')
) as v (name);

select * from finish();
rollback;
