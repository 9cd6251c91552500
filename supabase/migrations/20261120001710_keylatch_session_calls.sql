-- What a page, its application and a timer call about sessions.

create type keylatch.opened_session as (
  token text,
  expires_at timestamptz
);
comment on type keylatch.opened_session is
  'A new session: its token, shown this once, and until when it lasts.';

create type keylatch.session as (
  session_id uuid,
  workspace_id uuid,
  key_id uuid,
  origin text,
  subject text,
  expires_at timestamptz
);
comment on type keylatch.session is
  'A session as the application sees it: whose it is, the key and the page that opened it, the
application''s own id of the visitor, and until when it lasts.';

create type keylatch.session_pruning as (
  pruned integer
);
comment on type keylatch.session_pruning is 'How many expired sessions a call deleted.';

create function keylatch_internal.session_end(p_workspace_id uuid)
returns timestamptz
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  return clock_timestamp() + coalesce(
    (select s.lifetime from keylatch.session_settings as s where s.workspace_id = p_workspace_id),
    interval '24 hours'
  );
end;
$$;

comment on function keylatch_internal.session_end(uuid) is
  'Until when a session of this workspace lasts that is opened or slid now.';

revoke all on function keylatch_internal.session_end(uuid)
from public, anon, authenticated, service_role;

create function keylatch_internal.start_session(p_key text)
returns keylatch.opened_session
language plpgsql
volatile
-- definer because: anon may open a session and do nothing else. The origin is the request's own.
security definer
set search_path = ''
as $$
declare
  v_origin constant pg_catalog.text :=
    nullif(current_setting('request.headers', true), '')::pg_catalog.jsonb ->> 'origin';
  v_address constant pg_catalog.text := keylatch_internal.client_address();
  v_limits keylatch_internal.installation;
  v_key keylatch.resolved_key;
  v_session keylatch.opened_session;
begin
  select r.* into v_key
  from keylatch.resolve_key(p_key, v_origin) as r
  where r.kind = 'publishable';

  if found then
    select i.* into v_limits from keylatch_internal.installation as i;
    perform keylatch_internal.take_permit(
      'open_session', v_key.key_id::pg_catalog.text, v_limits.sessions_per_minute
    );
    -- Key and address together, so that two keys never wait for each other.
    if v_address is not null then
      perform keylatch_internal.take_permit(
        'open_session', format('%s %s', v_key.key_id, v_address), v_limits.sessions_per_address
      );
    end if;
    -- Whoever revokes the key at this moment waits, and then ends this session too; or went first.
    perform from keylatch_internal.keys as k
    where k.id = v_key.key_id
      and k.revoked_at is null
      and k.suspended_at is null
      and (k.expires_at is null or k.expires_at > clock_timestamp())
    for share;
  end if;
  if not found then
    raise sqlstate 'PT401' using
      message = 'session_refused',
      detail = 'The key opens no session from this page.',
      hint = 'It is mistyped, dead, not publishable, or not for this origin; an admin of its '
        || 'workspace can ask explain_key.';
  end if;

  v_session.token := keylatch_internal.complete_key(split_part(p_key, '_', 1) || '_st_');
  v_session.expires_at := keylatch_internal.session_end(v_key.workspace_id);
  insert into keylatch_internal.sessions (
    token_hash, workspace_id, key_id, origin, created_at, expires_at
  )
  values (
    keylatch.hash_key(v_session.token), v_key.workspace_id, v_key.key_id, v_origin,
    clock_timestamp(), v_session.expires_at
  );
  return v_session;
end;
$$;

comment on function keylatch_internal.start_session(text) is
  'Does the work of open_session.';

revoke all on function keylatch_internal.start_session(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.start_session(text) to anon, authenticated;

create function keylatch.open_session(key text)
returns keylatch.opened_session
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  return keylatch_internal.start_session(open_session.key);
end;
$$;

comment on function keylatch.open_session(text) is
  'Opens a session for a visitor of a page, by POST with the page''s publishable key.

The origin is that of the request''s own header, so it works over REST alone. The token is shown this
once; send it as x-session-token, or let your application ask resume_session. Of whom the key is,
nothing is said. A key opens as many in a minute as sessions_per_minute in the installation''s row
says (600), for one address as many as sessions_per_address (30) if an address header is trusted;
who uses up the first keeps the page''s other visitors waiting until the minute is over.
Errors: session_refused (401), for every reason alike; too_many_requests (429, Retry-After).';

revoke all on function keylatch.open_session(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch.open_session(text) to anon, authenticated;

create function keylatch_internal.find_session(p_token text)
returns keylatch.session
language plpgsql
stable
-- definer because: hashes are readable by the owner alone. It answers only whoever has the token.
security definer
set search_path = ''
as $$
declare
  v_session keylatch.session;
begin
  select s.id, s.workspace_id, s.key_id, s.origin, s.subject, s.expires_at
  into v_session
  from keylatch_internal.sessions as s
  where s.token_hash = sha256(convert_to(p_token, 'UTF8')) and s.expires_at > clock_timestamp();
  return v_session;
end;
$$;

comment on function keylatch_internal.find_session(text) is
  'The open session of this token; null for any other text.';

revoke all on function keylatch_internal.find_session(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.find_session(text) to service_role, keylatch_resolver;

create function keylatch_internal.change_session(p_token text, p_change text, p_subject text)
returns keylatch.session
language plpgsql
volatile
-- definer because: nobody writes sessions but these calls, each for whoever has the token.
security definer
set search_path = ''
as $$
declare
  v_session keylatch.session := keylatch_internal.find_session(p_token);
begin
  if v_session.session_id is null then
    return null;
  elsif p_change = 'slide' then
    update keylatch_internal.sessions as s
    set expires_at = greatest(s.expires_at, keylatch_internal.session_end(s.workspace_id))
    where s.id = v_session.session_id and s.expires_at > clock_timestamp()
    returning s.expires_at into v_session.expires_at;
  elsif p_change = 'close' then
    delete from keylatch_internal.sessions as s where s.id = v_session.session_id;
  elsif p_change = 'attach' then
    -- Of two at once one is first; the other sees what that one wrote.
    update keylatch_internal.sessions as s
    set subject = coalesce(s.subject, p_subject)
    where s.id = v_session.session_id
    returning s.subject into v_session.subject;
  end if;
  return case when found then v_session end;
end;
$$;

comment on function keylatch_internal.change_session(text, text, text) is
  'Slides, closes, or attaches a subject to the session of this token; null if there is none.';

revoke all on function keylatch_internal.change_session(text, text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.change_session(text, text, text)
to service_role, keylatch_resolver;

create function keylatch.resume_session(token text, slide boolean default false)
returns setof keylatch.session
language plpgsql
volatile
security invoker
-- At most one; but of "rows 1" the type generators make a single object.
rows 2
set search_path = ''
as $$
declare
  v_session constant keylatch.session := case
    when resume_session.slide
      then keylatch_internal.change_session(resume_session.token, 'slide', null)
    else keylatch_internal.find_session(resume_session.token)
  end;
begin
  if v_session.session_id is not null then
    return next v_session;
  end if;
end;
$$;

comment on function keylatch.resume_session(text, boolean) is
  'The session of a token, for the application''s own servers; no row if it is not good.

Mistyped, expired, closed, or no token at all: all look alike. slide: it lasts its whole lifetime
again from now on; without it nothing is written. Compare origin with that of the request.';

revoke all on function keylatch.resume_session(text, boolean)
from public, anon, authenticated, service_role;
grant execute on function keylatch.resume_session(text, boolean) to service_role, keylatch_resolver;

create function keylatch_internal.require_session(p_session keylatch.session)
returns keylatch.session
language plpgsql
immutable
security invoker
set search_path = ''
as $$
begin
  if p_session.session_id is null then
    raise sqlstate 'PT404' using
      message = 'session_not_found',
      detail = 'The text is not the token of an open session.',
      hint = 'It is mistyped, expired or closed; the visitor''s page opens a new session.';
  end if;
  return p_session;
end;
$$;

comment on function keylatch_internal.require_session(keylatch.session) is
  'Gives the session back, or refuses its lack.';

revoke all on function keylatch_internal.require_session(keylatch.session)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.require_session(keylatch.session)
to service_role, keylatch_resolver;

create function keylatch.close_session(token text)
returns keylatch.session
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  return keylatch_internal.require_session(
    keylatch_internal.change_session(close_session.token, 'close', null)
  );
end;
$$;

comment on function keylatch.close_session(text) is
  'Ends a session at once, and gives what it was.

Errors: session_not_found (404).';

revoke all on function keylatch.close_session(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch.close_session(text) to service_role, keylatch_resolver;

create function keylatch.attach_subject(token text, subject text)
returns keylatch.session
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_session keylatch.session;
begin
  if attach_subject.subject is null
    or length(attach_subject.subject) not between 1 and 200
    or attach_subject.subject ~ '[\x01-\x1f\x7f-\x9f]'
  then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'subject must be a text of 1 to 200 characters without control characters.',
      hint = 'Give your own id of the visitor.';
  end if;
  v_session := keylatch_internal.require_session(
    keylatch_internal.change_session(attach_subject.token, 'attach', attach_subject.subject)
  );
  if v_session.subject <> attach_subject.subject then
    raise sqlstate 'PT409' using
      message = 'subject_is_final',
      detail = 'The session has another subject already.',
      hint = 'Let the visitor''s page open a new session for somebody else.';
  end if;
  return v_session;
end;
$$;

comment on function keylatch.attach_subject(text, text) is
  'Says who the visitor of a session is, in the application''s own words, once.

The same subject again is not an error.
Errors: session_not_found (404), subject_is_final (409), invalid_argument (400).';

revoke all on function keylatch.attach_subject(text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch.attach_subject(text, text) to service_role, keylatch_resolver;

create function keylatch_internal.delete_expired_sessions(p_batch integer)
returns integer
language plpgsql
volatile
-- definer because: pruning looks at the sessions of every workspace, and at the permits.
security definer
set search_path = ''
as $$
declare
  v_pruned integer;
begin
  -- What somebody else has in hand is left to the next time.
  delete from keylatch_internal.sessions as s
  where s.id in (
    select e.id
    from keylatch_internal.sessions as e
    where e.expires_at <= clock_timestamp()
    order by e.expires_at
    limit p_batch
    for update skip locked
  );
  get diagnostics v_pruned = row_count;

  delete from keylatch_internal.permits as p
  where (p.kind, p.subject) in (
    select e.kind, e.subject
    from keylatch_internal.permits as e
    where e.window_ends_at <= clock_timestamp()
    limit p_batch
    for update skip locked
  );
  return v_pruned;
end;
$$;

comment on function keylatch_internal.delete_expired_sessions(integer) is
  'Does the work of prune_sessions.';

revoke all on function keylatch_internal.delete_expired_sessions(integer)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.delete_expired_sessions(integer) to service_role;

create function keylatch.prune_sessions(batch integer default 10000)
returns keylatch.session_pruning
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if prune_sessions.batch is null or prune_sessions.batch not between 1 and 100000 then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'batch must be from 1 to 100000.',
      hint = 'Leave it out for 10000, and call again while it gives as many.';
  end if;
  return row(keylatch_internal.delete_expired_sessions(prune_sessions.batch));
end;
$$;

comment on function keylatch.prune_sessions(integer) is
  'Deletes up to so many expired sessions, and gives how many; for a timer, such as pg_cron.

It waits for nobody and nobody waits for it. An expired session is of no use before, too.
Errors: invalid_argument (400).';

revoke all on function keylatch.prune_sessions(integer)
from public, anon, authenticated, service_role;
grant execute on function keylatch.prune_sessions(integer) to service_role;
