-- Module sessions: the calls that open, resolve, change, end and prune sessions.

create type keylatch.opened_session as (token text, expires_at timestamptz);
comment on type keylatch.opened_session is
  'A new session: the token, which no other call returns, and when the session expires.';

create type keylatch.session as (
  session_id uuid, workspace_id uuid, key_id uuid, origin text, subject text, expires_at timestamptz
);
comment on type keylatch.session is
  'A session: its workspace, its key, the origin of the web page that opened the session, the
visitor''s id in the application, and when the session expires.';

create function keylatch_internal.session_expiry(p_workspace_id uuid, p_created_at timestamptz)
returns timestamptz language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_lifetime constant interval := (
    select s.lifetime from keylatch.session_settings as s where s.workspace_id = p_workspace_id
  );
begin
  -- Adds hours, because a day may have 23 hours in the time zone of the caller.
  return least(
    clock_timestamp() + coalesce(v_lifetime, '24 hours'), p_created_at + interval '2160 hours'
  );
end $$;
comment on function keylatch_internal.session_expiry is
  'Returns the expiry time of a session opened or extended now: at most 90 days after its opening.';

create function keylatch_internal.start_session(p_key text)
returns keylatch.opened_session language plpgsql volatile security definer
-- definer because: anon may open a session and nothing else. The origin is a header of the request.
set search_path = pg_catalog, pg_temp as $$
declare
  v_origin constant text := nullif(current_setting('request.headers', true), '')::jsonb ->> 'origin';
  v_now constant timestamptz := clock_timestamp();
  v_key keylatch.resolved_key;
  v_count keylatch_internal.sessions;
  v_session keylatch.opened_session;
begin
  perform keylatch_internal.require_read_committed('Opening a session');
  select r.* into v_key
  from keylatch.resolve_key(p_key, v_origin) as r
  where r.kind = 'publishable';
  if not found then
    perform keylatch_internal.refuse(
      'session_refused', 'The key is mistyped, not active, not publishable, or not for this origin.'
    );
  end if;
  -- Counts before the token is made, because count_session refuses most calls of a flood.
  v_count := keylatch_internal.count_session(v_key.key_id, v_now);
  v_session.token := keylatch_internal.complete_key(
    coalesce(substring(p_key, '^([a-z][a-z0-9]{1,11})_pk_'), 'wk') || '_st_'
  );
  v_session.expires_at := keylatch_internal.session_expiry(v_key.workspace_id, v_now);
  insert into keylatch_internal.sessions (
    token_hash, workspace_id, key_id, origin, address_mark, opened_before, counted_since,
    created_at, expires_at
  )
  values (
    sha256(convert_to(v_session.token, 'UTF8')), v_key.workspace_id, v_key.key_id, v_origin,
    v_count.address_mark, v_count.opened_before, v_count.counted_since,
    v_now, v_session.expires_at
  );
  return v_session;
end $$;
comment on function keylatch_internal.start_session is 'Implements keylatch.open_session.';

create function keylatch_internal.check_session_key()
returns trigger language plpgsql volatile security definer
-- definer because: at the commit the trigger runs as the visitor, who may not read keys.
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'keylatch_internal.sessions'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.check_session_key');
  end if;
  if not exists (select from keylatch_internal.active_keys as k where k.id = new.key_id) then
    perform keylatch_internal.refuse('session_refused', 'The key became inactive meanwhile.');
  end if;
  return null;
end $$;
comment on function keylatch_internal.check_session_key is
  'A trigger function that refuses, at commit, a new session whose key is no longer active.';

create constraint trigger sessions_insert_check_key
after insert on keylatch_internal.sessions
deferrable initially deferred for each row
-- A restored session was checked when it was opened.
when (new.created_at > pg_catalog.clock_timestamp() - interval '1 minute')
execute function keylatch_internal.check_session_key();
comment on trigger sessions_insert_check_key on keylatch_internal.sessions is
  'Refuses, at commit, a new session whose key was revoked during the request.
The trigger does not fire in the apply worker of a logical replica.';

create constraint trigger sessions_update_hold_expiry
after update on keylatch_internal.sessions deferrable initially deferred for each row
when (new.expires_at > greatest(old.expires_at, pg_catalog.clock_timestamp()))
execute function keylatch_internal.hold_expiry('session_not_found');
comment on trigger sessions_update_hold_expiry on keylatch_internal.sessions is
  'A transaction cannot extend a session that expires before its commit, or before the commit waits
for a synchronous standby. The trigger does not fire for rows that a publisher sends.';

create function keylatch.open_session(key text)
returns keylatch.opened_session language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.start_session(open_session.key);
end $$;
comment on function keylatch.open_session is
  'Opens a session for a visitor of a page, by POST with the publishable key of the page.

open_session works only over REST, because it reads the header Origin. No other call returns the
token. Send it to the API as x-session-token, or to your server for resolve_session.
A key opens up to 600 sessions a minute, and up to 30 per client address if an address header is
trusted. The owner can change each limit in keylatch_internal.session_limits.
Errors: session_refused (401) for any wrong key or origin; too_many_requests (429, Retry-After);
read_committed_required (400).';

create function keylatch_internal.find_session(p_token text)
returns keylatch.session language plpgsql stable security definer
-- definer because: only the owner may read token_hash. Only a caller who has a token gets the
-- session.
set search_path = pg_catalog, pg_temp as $$
declare
  v_session keylatch.session;
begin
  perform keylatch_internal.require_grants('keylatch_internal.find_session');
  select s.id, s.workspace_id, s.key_id, s.origin, s.subject, s.expires_at
  into v_session
  from keylatch_internal.sessions as t
  inner join keylatch.sessions as s on t.id = s.id
  where t.token_hash = sha256(convert_to(p_token, 'UTF8'));
  return v_session;
end $$;
comment on function keylatch_internal.find_session is
  'Returns the open session with this session token, or null if no open session has the token.';

create function keylatch_internal.change_session(p_token text, p_change text, p_subject text)
returns keylatch.session language plpgsql volatile security definer
-- definer because: no role may update sessions. A caller who has the token may change the session.
set search_path = pg_catalog, pg_temp as $$
declare
  v_session keylatch.session;
begin
  perform keylatch_internal.require_grants('keylatch_internal.change_session');
  if (p_change = 'attach' and p_subject is null)
    or p_subject !~ E'^[^\\x01-\\x1f\\x7f-\\x9f]{1,200}$' then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'subject must be a text of 1 to 200 characters without control characters.',
      'Pass your own id of the visitor.'
    );
  end if;
  -- Locks the row first, so that the session cannot expire between the check and the update.
  perform from keylatch_internal.sessions as s
  where s.token_hash = sha256(convert_to(p_token, 'UTF8'))
  for update;
  v_session := keylatch_internal.find_session(p_token);
  if v_session.session_id is null and p_change <> 'extend' then
    perform keylatch_internal.refuse(
      'session_not_found', 'The token is mistyped, or its session has expired or was ended.'
    );
  end if;
  update keylatch_internal.sessions as s
  set subject = coalesce(s.subject, p_subject),
    expires_at = case p_change
      when 'extend' then greatest(
        s.expires_at, keylatch_internal.session_expiry(s.workspace_id, s.created_at)
      )
      -- The row is not deleted yet, because the rate limit counts the row.
      when 'close' then clock_timestamp()
      else s.expires_at
    end
  where s.id = v_session.session_id
  returning s.subject, s.expires_at into v_session.subject, v_session.expires_at;
  return v_session;
end $$;
comment on function keylatch_internal.change_session is
  'Extends or closes the session with this token, or attaches a subject to the session.';

create function keylatch.resolve_session(token text, extend boolean default false)
returns setof keylatch.session language plpgsql volatile security invoker rows 2
-- Returns at most one row, but "rows 1" would make type generators declare a single object.
set search_path = pg_catalog, pg_temp as $$
declare
  v_session constant keylatch.session := case
    when resolve_session.extend
      then keylatch_internal.change_session(resolve_session.token, 'extend', null)
    else keylatch_internal.find_session(resolve_session.token)
  end;
begin
  if v_session.session_id is not null then
    return next v_session;
  end if;
end $$;
comment on function keylatch.resolve_session is
  'Returns the open session with this token, or no row if the token is mistyped, expired or closed.
The servers of the application call resolve_session.

extend: the session gets its whole lifetime again from now, but at most 90 days from its opening.
Without extend nothing is written. Compare origin with the Origin header of your request.';

create function keylatch.close_session(token text)
returns keylatch.session language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.change_session(close_session.token, 'close', null);
end $$;
comment on function keylatch.close_session is
  'Ends the session with this token, and returns the session. Errors: session_not_found (404).';

create function keylatch.attach_subject(token text, subject text)
returns keylatch.session language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_session keylatch.session;
begin
  v_session := keylatch_internal.change_session(
    attach_subject.token, 'attach', attach_subject.subject
  );
  if v_session.subject <> attach_subject.subject then
    perform keylatch_internal.refuse('subject_is_final', 'The session has another subject already.');
  end if;
  return v_session;
end $$;
comment on function keylatch.attach_subject is
  'Stores the application''s own id of the visitor in a session. The id can be stored only once.

Repeating the call with the same subject is no error.
Errors: session_not_found (404), subject_is_final (409), invalid_argument (400).';

create type keylatch.session_ending as (
  id uuid, revoked_at timestamptz, already_revoked boolean, ended integer
);
comment on type keylatch.session_ending is
  'The result of end_sessions: the id of the key, the time of its revocation, whether the key was
revoked before the call, and how many open sessions the call ended, counted up to 100000.';

create function keylatch.end_sessions(key_id uuid, reason text default null)
returns keylatch.session_ending language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.session_ending;
  v_workspace_id uuid;
begin
  select r.id, r.revoked_at, r.already_revoked, null::integer into v_result
  from keylatch.revoke_key(end_sessions.key_id, end_sessions.reason) as r;
  select k.workspace_id into v_workspace_id from keylatch.keys as k where k.id = v_result.id;
  select count(*) into v_result.ended
  from (
    select from keylatch.sessions as s
    where s.workspace_id = v_workspace_id and s.key_id = v_result.id
    limit 100000
  ) as open_ones;
  insert into keylatch_internal.session_endings (workspace_id, key_id)
  values (v_workspace_id, v_result.id)
  on conflict do nothing;
  return v_result;
end $$;
comment on function keylatch.end_sessions is
  'Revokes an abused key if the key is still active, and ends all sessions that the key opened.

Repeating the call is no error. Errors: key_not_found (404), invalid_argument (400).';

create function keylatch_internal.end_workspace_sessions()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  insert into keylatch_internal.session_endings (workspace_id, key_id)
  values (new.workspace_id, new.workspace_id)
  on conflict do nothing;
  return null;
end $$;
comment on function keylatch_internal.end_workspace_sessions is
  'A trigger function that ends the sessions of a workspace.';

create trigger workspace_latches_write_end_sessions
after insert or update on keylatch_internal.workspace_latches
for each row
when (new.deleted_at is not null) execute function keylatch_internal.end_workspace_sessions();
comment on trigger workspace_latches_write_end_sessions on keylatch_internal.workspace_latches is
  'Deleting a workspace ends its sessions.
The trigger does not fire on a logical replica, which receives the ended sessions themselves.';

create function keylatch_internal.delete_old_sessions(p_batch integer)
returns integer language plpgsql volatile security definer
-- definer because: prune_sessions deletes the sessions of every workspace.
set search_path = pg_catalog, pg_temp as $$
declare
  v_expired integer;
  v_ended integer;
begin
  perform keylatch_internal.require_grants('keylatch_internal.delete_old_sessions');
  if coalesce(p_batch not between 1 and 100000, true) then
    perform keylatch_internal.refuse(
      'invalid_argument', 'batch must be from 1 to 100000.',
      'Leave batch out to use 10000. Repeat the call until it prunes fewer sessions.'
    );
  end if;
  -- The next call deletes rows that are locked now.
  delete from keylatch_internal.sessions as s
  where s.id in (
    select o.id from keylatch_internal.sessions as o
    where o.expires_at <= clock_timestamp()
      -- The rate limit counts all sessions of the last minute, also closed sessions.
      and o.created_at <= clock_timestamp() - interval '1 minute'
    order by o.expires_at
    limit p_batch
    for update skip locked
  );
  get diagnostics v_expired = row_count;
  delete from keylatch_internal.sessions as s
  where s.id in (
    select o.id
    from keylatch_internal.sessions as o
    -- With "e.key_id in (...)", each ending would be compared with each session of the workspace.
    cross join lateral unnest(array[o.key_id, o.workspace_id]) as n (key_id)
    inner join keylatch_internal.session_endings as e
      on o.workspace_id = e.workspace_id and n.key_id = e.key_id
    limit p_batch - v_expired
    for update of o skip locked
  );
  get diagnostics v_ended = row_count;
  return v_expired + v_ended;
end $$;
comment on function keylatch_internal.delete_old_sessions is 'Implements keylatch.prune_sessions.';

create type keylatch.session_pruning as (pruned integer);
comment on type keylatch.session_pruning is 'The number of sessions that prune_sessions deleted.';

create function keylatch.prune_sessions(batch integer default 10000)
returns keylatch.session_pruning language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return row(keylatch_internal.delete_old_sessions(prune_sessions.batch))::keylatch.session_pruning;
end $$;
comment on function keylatch.prune_sessions is
  'Deletes up to "batch" sessions that have expired or were ended. Run prune_sessions every minute,
for example with pg_cron.

The call waits for no lock and blocks no other call. Errors: invalid_argument (400).';

-- The module request calls other_identity, so that row policies can use a session.

alter type keylatch_internal.identity add attribute session_id uuid;

create or replace function keylatch_internal.other_identity(p_headers jsonb)
returns keylatch_internal.identity language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_token constant text := p_headers ->> 'x-session-token';
  v_identity keylatch_internal.identity;
begin
  if v_token is null then
    return null;
  end if;
  perform keylatch_internal.require_one_identity(p_headers ->> 'x-api-key' is not null);
  select s.workspace_id, s.key_id, k.scopes, k.metadata, s.session_id
  into v_identity
  from keylatch_internal.find_session(v_token) as s
  -- The key may have any status, because a session stays open after its key is revoked.
  inner join keylatch_internal.keys as k on s.key_id = k.id
  -- A stolen token does not work on a page of another origin.
  where s.origin is not distinct from p_headers ->> 'origin';
  if not found then
    perform keylatch_internal.refuse(
      'invalid_session',
      'The x-session-token of this request is mistyped, expired, ended, or of another origin.'
    );
  end if;
  return v_identity;
end $$;
comment on function keylatch_internal.other_identity is
  'Returns the identity of the header x-session-token; null without the header. Refuses a bad token.

A session has the present scopes and metadata of the key that opened the session.';

create function keylatch.current_session_id()
returns uuid language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (keylatch_internal.request_identity()).session_id;
end $$;
comment on function keylatch.current_session_id is
  'Returns the id of the session in the header x-session-token, or null without the header.

In a row policy, compare a column with (select keylatch.current_session_id()).
Errors: invalid_session (401), and the errors of current_workspace_id.';

update keylatch_internal.installation set modules = array_append(modules, 'sessions');

-- The grants of this file.
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
