-- Module sessions: a web page opens a session with a publishable key, and gets a session token.
--
-- A session stays open after its key is rotated or revoked. Only end_sessions and the deletion of a
-- workspace end sessions early: these calls insert a row into session_endings, and every read of a
-- session checks session_endings. So opening a session takes no lock on the key, and a session that
-- is committed after the call of end_sessions has ended, too.

insert into keylatch_internal.errors (slug, code, hint) values
('session_refused', 'PT401', 'Ask an admin of the workspace to call explain_key.'),
('invalid_session', 'PT401', 'Let the page open a new session.'),
('session_not_found', 'PT404', 'Let the page of the visitor open a new session.'),
('subject_is_final', 'PT409', 'Let the page open a new session for another visitor.');

create table keylatch_internal.sessions (
  id uuid not null default pg_catalog.gen_random_uuid(),
  token_hash bytea not null,
  workspace_id uuid not null,
  key_id uuid not null,
  origin text not null,
  -- squawk-ignore prefer-bigint-over-int
  address_mark integer not null default 0,
  opened_before bigint not null default 0,
  counted_since timestamptz not null default '-infinity',
  subject text,
  created_at timestamptz not null,
  expires_at timestamptz not null,

  constraint sessions_pkey primary key (id),
  constraint sessions_token_hash_key unique (token_hash)
);
create index sessions_workspace_id_key_id_idx on keylatch_internal.sessions (workspace_id, key_id);
create index sessions_key_id_created_at_idx on keylatch_internal.sessions (key_id, created_at);
create index sessions_key_id_address_mark_created_at_idx
on keylatch_internal.sessions (key_id, address_mark, created_at) where address_mark <> 0;
create index sessions_expires_at_idx on keylatch_internal.sessions (expires_at);
comment on table keylatch_internal.sessions is
  'All sessions, until prune_sessions deletes old sessions. A foreign key would lock the key.';
comment on column keylatch_internal.sessions.id is 'The id of the session, which is no secret.';
comment on column keylatch_internal.sessions.token_hash is 'The SHA-256 of the session token.';
comment on column keylatch_internal.sessions.workspace_id is 'The workspace of the session.';
comment on column keylatch_internal.sessions.key_id is 'The key that opened the session.';
comment on column keylatch_internal.sessions.origin is 'The origin of the web page.';
comment on column keylatch_internal.sessions.address_mark is
  'A hash of the visitor''s address, for the rate limit; 0 if addresses are not limited.';
comment on column keylatch_internal.sessions.opened_before is
  'How many committed sessions the key had opened in the minute before this session.';
comment on column keylatch_internal.sessions.counted_since is
  'When the oldest session in opened_before was opened, or else when this session was opened.';
comment on column keylatch_internal.sessions.subject is 'The application''s id of the visitor.';
comment on column keylatch_internal.sessions.created_at is 'When the session was opened.';
comment on column keylatch_internal.sessions.expires_at is 'When the session expires or ended.';
comment on index keylatch_internal.sessions_workspace_id_key_id_idx is
  'Finds the sessions of a workspace or a key.';
comment on index keylatch_internal.sessions_key_id_created_at_idx is
  'Counts the sessions that a key opened in the last minute.';
comment on index keylatch_internal.sessions_key_id_address_mark_created_at_idx is
  'Counts the sessions that a key opened for one client address in the last minute.';
comment on index keylatch_internal.sessions_expires_at_idx is 'Finds expired sessions.';

create table keylatch_internal.session_endings (
  workspace_id uuid not null,
  key_id uuid not null,
  ended_at timestamptz not null default pg_catalog.clock_timestamp(),

  constraint session_endings_pkey primary key (key_id, workspace_id)
);
comment on table keylatch_internal.session_endings is
  'The keys and workspaces whose sessions are all ended, including sessions that open later.';
comment on column keylatch_internal.session_endings.workspace_id is 'The id of the workspace.';
comment on column keylatch_internal.session_endings.key_id is
  'The id of the key. If it is equal to workspace_id, all keys of the workspace are meant.';
comment on column keylatch_internal.session_endings.ended_at is 'When the sessions ended.';

create view keylatch.sessions with (security_invoker = true) as
select s.id, s.workspace_id, s.key_id, s.origin, s.subject, s.created_at, s.expires_at
from keylatch_internal.sessions as s
where
  s.expires_at > pg_catalog.clock_timestamp()
  and not exists (
    select from keylatch_internal.session_endings as e
    where e.workspace_id = s.workspace_id and e.key_id in (s.key_id, s.workspace_id)
  );
comment on view keylatch.sessions is
  'The open sessions of the workspaces that you administer. DELETE a row to end the session.';
comment on column keylatch.sessions.id is 'The id that current_session_id returns.';
comment on column keylatch.sessions.workspace_id is 'The workspace of the session.';
comment on column keylatch.sessions.key_id is 'The key that opened the session.';
comment on column keylatch.sessions.origin is 'The origin of the web page that opened the session.';
comment on column keylatch.sessions.subject is 'The application''s own id of the visitor.';
comment on column keylatch.sessions.created_at is 'When the session was opened.';
comment on column keylatch.sessions.expires_at is 'When the session expires.';

create function keylatch_internal.delete_session()
returns trigger language plpgsql volatile security definer
-- definer because: a role with the right to change the table could lock all of it. A role that sees
-- a row in the view may end that session.
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'keylatch.sessions'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.delete_session');
  end if;
  -- The row stays for the rate limit, until it is pruned.
  update keylatch_internal.sessions as s set expires_at = clock_timestamp() where s.id = old.id;
  return old;
end $$;
comment on function keylatch_internal.delete_session is 'Ends the session of a deleted row.';

create trigger sessions_delete_instead
instead of delete on keylatch.sessions
for each row execute function keylatch_internal.delete_session();
comment on trigger sessions_delete_instead on keylatch.sessions is 'Ends the session.';

create table keylatch.session_settings (
  workspace_id uuid not null,
  lifetime interval not null default '24 hours',

  constraint session_settings_pkey primary key (workspace_id)
);
comment on table keylatch.session_settings is
  'The session lifetime of a workspace. Without a row, a session lasts 24 hours.';
comment on column keylatch.session_settings.workspace_id is 'The id of the workspace.';
comment on column keylatch.session_settings.lifetime is
  'The lifetime of new and extended sessions, from 1 minute to 90 days. The value is stored in
hours: a month counts as 30 days, and a day as 24 hours.';

create function keylatch_internal.judge_session_settings()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- Not compared as an interval: 120000 months and minus 3599950 days would be 50 days.
  v_seconds constant numeric := extract(epoch from new.lifetime);
begin
  if v_seconds is null or v_seconds not between 60 and 90 * 86400 then
    perform keylatch_internal.refuse(
      'invalid_argument', 'lifetime must be from 1 minute to 90 days.', 'Pass for example "8 hours".'
    );
  end if;
  new.lifetime := make_interval(secs => v_seconds::double precision);
  return new;
end $$;
comment on function keylatch_internal.judge_session_settings is
  'Refuses a lifetime that is too short or too long, and writes it in hours.';

create trigger session_settings_write_judge
before insert or update on keylatch.session_settings
for each row execute function keylatch_internal.judge_session_settings();
comment on trigger session_settings_write_judge on keylatch.session_settings is
  'Checks each new lifetime.

The trigger does not fire for rows that a restore or a publisher writes.';

alter table keylatch_internal.sessions enable row level security;
alter table keylatch_internal.session_endings enable row level security;
alter table keylatch.session_settings enable row level security;

create policy sessions_select_admin on keylatch_internal.sessions
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy sessions_select_admin on keylatch_internal.sessions is
  'A signed-in user may read the sessions of the workspaces that the user administers.';

create policy session_endings_select_admin on keylatch_internal.session_endings
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_endings_select_admin on keylatch_internal.session_endings is
  'A signed-in user may read the session endings of the workspaces that the user administers.';

create policy session_endings_insert_admin on keylatch_internal.session_endings
for insert to authenticated
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_endings_insert_admin on keylatch_internal.session_endings is
  'A signed-in user may end the sessions of the workspaces that the user administers.';

create policy session_settings_select_admin on keylatch.session_settings
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_settings_select_admin on keylatch.session_settings is
  'A signed-in user may read the session settings of the workspaces that the user administers.';

create policy session_settings_insert_admin on keylatch.session_settings
for insert to authenticated
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_settings_insert_admin on keylatch.session_settings is
  'A signed-in user may insert session settings for the workspaces that the user administers.';

create policy session_settings_update_admin on keylatch.session_settings
for update to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()))
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_settings_update_admin on keylatch.session_settings is
  'A signed-in user may update the session settings of the workspaces that the user administers.';

create table keylatch_internal.session_limits (
  only_row boolean not null default true,
  sessions_per_minute bigint not null default 600,
  sessions_per_address bigint not null default 30,
  trusted_address_header text,

  constraint session_limits_pkey primary key (only_row),
  constraint session_limits_only_row_check check (only_row),
  constraint session_limits_per_minute_check check (
    sessions_per_minute > 0 and sessions_per_address > 0
  ),
  constraint session_limits_trusted_address_header_check check (
    trusted_address_header ~ '^[a-z0-9-]{1,64}$'
  )
);
comment on table keylatch_internal.session_limits is
  'The rate limits for opening sessions, in one row. Only the owner may change the limits.';
comment on column keylatch_internal.session_limits.only_row is 'Always true: there is one row.';
comment on column keylatch_internal.session_limits.sessions_per_minute is
  'How many sessions one key may open in a minute. A limit of many thousands makes counting slow.';
comment on column keylatch_internal.session_limits.sessions_per_address is
  'How many sessions of a key one client address (IPv4, or /64 of IPv6) may open in a minute.';
comment on column keylatch_internal.session_limits.trusted_address_header is
  'The header in which your gateway writes the address of a client, in lower case, for example
cf-connecting-ip. Of several addresses, the last counts. Null: addresses are not limited, because a
client can write anything into a header that no gateway overwrites.';
insert into keylatch_internal.session_limits default values;
alter table keylatch_internal.session_limits enable row level security;

create function keylatch_internal.limited_address(p_address text)
returns text language plpgsql immutable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_address inet;
begin
  -- Some gateways add the port: 192.0.2.1:443, [2001:db8::1]:443.
  v_address := coalesce(
    substring(p_address, '^[[](.+)[]](?::[0-9]{1,5})?$'),
    substring(p_address, '^([0-9.]+):[0-9]{1,5}$'),
    p_address
  )::inet;
  -- An IPv4 address may be written as IPv6, or be translated to it.
  if v_address <<= inet '::ffff:0:0/96' or v_address <<= inet '64:ff9b::/96' then
    v_address := inet '0.0.0.0' + (v_address - network(set_masklen(v_address, 96))::inet);
  end if;
  -- For IPv6, the network counts: a single household has 2^64 addresses.
  return coalesce(case family(v_address)
    when 4 then host(v_address)
    else network(set_masklen(v_address, 64))::text
  end, 'unknown');
exception
  when invalid_text_representation then return 'unknown';
end $$;
comment on function keylatch_internal.limited_address is
  'Returns the client address for the rate limit: an IPv4 address, a /64 network of IPv6, or
"unknown" for a string that is not an address.';

create function keylatch_internal.address_mark(p_header text)
returns integer language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- A gateway appends the address that it saw to what the client claimed.
  return coalesce(nullif(hashtext(keylatch_internal.limited_address(trim(split_part(
    nullif(current_setting('request.headers', true), '')::jsonb ->> p_header, ',', -1
  )))), 0), 1);
end $$;
comment on function keylatch_internal.address_mark is
  'Returns a hash, never 0, of the client address in the HTTP header p_header.';

create function keylatch_internal.count_in_flight(
  p_key_mark integer, p_address_mark integer, out of_key bigint, out of_address bigint
)
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- A request that has not committed is seen by its marker. Nobody can forge a marker: only a
  -- request that opens a session locks the table in this mode.
  select count(*), count(*) filter (where m.objid::integer = p_address_mark)
  into of_key, of_address
  from pg_catalog.pg_locks as m
  inner join pg_catalog.pg_locks as w on m.pid = w.pid
  where m.locktype = 'advisory' and m.classid = p_key_mark::oid and m.objsubid = 2
    -- A copy of the database on this server has the same keys and the same oids of tables.
    and m.database = (
      select d.oid from pg_catalog.pg_database as d where d.datname = current_database()
    )
    and m.pid <> pg_backend_pid()
    and w.relation = 'keylatch_internal.sessions'::regclass and w.mode = 'RowExclusiveLock';
end $$;
comment on function keylatch_internal.count_in_flight is
  'How many other requests are opening a session of the key now, and how many for the address.';

create function keylatch_internal.count_opened(
  p_key_id uuid, p_now timestamptz, p_limit bigint, out number bigint, out since timestamptz
)
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- A later time comes from a wrong clock and does not count.
  v_from constant timestamptz := p_now - interval '1 minute';
begin
  -- The last 16 rows are enough to refuse a flood. Each says how many sessions its request found,
  -- and since when. If request A found as many sessions as request B, or more, then B did not find
  -- A: else B would have found more than A. So the session of A is added to the number of B.
  select
    last.opened_before + row_number() over (order by last.opened_before desc), last.counted_since
  into number, since
  from (
    select s.opened_before, s.counted_since
    from keylatch_internal.sessions as s
    where s.key_id = p_key_id and s.created_at between v_from and p_now
    order by s.created_at desc
    limit 16
  ) as last
  where last.counted_since between v_from and p_now
  order by 1 desc
  limit 1;
  if number >= p_limit then
    return;
  end if;
  select count(*), coalesce(min(s.created_at), p_now) into number, since
  from keylatch_internal.sessions as s
  where s.key_id = p_key_id and s.created_at between v_from and p_now;
end $$;
comment on function keylatch_internal.count_opened is
  'How many sessions a key opened in the minute before, and when the first. At the limit or above,
the number is a lower bound.';

create function keylatch_internal.count_session(p_key_id uuid, p_now timestamptz)
returns keylatch_internal.sessions language plpgsql volatile security invoker
-- A plan from the time when the table was empty would later read the whole table.
set enable_seqscan = off
set search_path = pg_catalog, pg_temp as $$
declare
  v_limits record;
  v_session keylatch_internal.sessions;
  v_key_mark constant integer := hashtext(p_key_id::text);
  v_opened record;
  v_of_key bigint;
  v_of_address bigint := 0;
  v_address_since timestamptz;
  v_in_flight record;
begin
  -- A schema-only copy of the database has no row.
  select coalesce(max(l.sessions_per_minute), 600) as of_key,
    coalesce(max(l.sessions_per_address), 30) as of_address, max(l.trusted_address_header) as header
  into v_limits
  from keylatch_internal.session_limits as l
  where l.only_row;
  v_session.address_mark := 0;
  if v_limits.header is not null then
    v_session.address_mark := keylatch_internal.address_mark(v_limits.header);
    select count(*), coalesce(min(s.created_at), p_now) into v_of_address, v_address_since
    from keylatch_internal.sessions as s
    where s.key_id = p_key_id and s.address_mark = v_session.address_mark and s.address_mark <> 0
      and s.created_at between p_now - interval '1 minute' and p_now;
  end if;
  v_opened := keylatch_internal.count_opened(p_key_id, p_now, v_limits.of_key);
  v_of_key := v_opened.number;
  -- Reading pg_locks blocks others for a moment, so a flood must not get here.
  if v_of_key < v_limits.of_key and (
    v_limits.header is null or v_of_address < v_limits.of_address
  ) then
    v_in_flight := keylatch_internal.count_in_flight(v_key_mark, v_session.address_mark);
    v_of_key := v_of_key + v_in_flight.of_key;
    v_of_address := v_of_address + v_in_flight.of_address;
  end if;
  if v_of_key >= v_limits.of_key then
    perform keylatch_internal.refuse('too_many_requests', format(
      'The key opened %s sessions in the last minute.', v_limits.of_key
    ), null, v_opened.since + interval '1 minute');
  elsif v_limits.header is not null and v_of_address >= v_limits.of_address then
    perform keylatch_internal.refuse('too_many_requests', format(
      'The key opened %s sessions for this address in the last minute.', v_limits.of_address
    ), null, v_address_since + interval '1 minute');
  end if;
  v_session.opened_before := v_opened.number;
  v_session.counted_since := v_opened.since;
  -- The marker, until the end of the transaction. The lock is shared and tried, so it never waits.
  perform pg_try_advisory_xact_lock_shared(v_key_mark, v_session.address_mark);
  return v_session;
end $$;
comment on function keylatch_internal.count_session is
  'Marks a request that opens a session, or refuses the request with too_many_requests. Returns what
the session stores of the count: address_mark, opened_before and counted_since.

Nobody waits here. Requests that count at the same moment do not see each other, so a minute has at
most as many sessions as the limit plus the number of requests in flight.';

create type keylatch.opened_session as (
  token text, expires_at timestamptz
);
comment on type keylatch.opened_session is
  'A new session: its token, shown only here, and when it expires.';

create type keylatch.session as (
  session_id uuid, workspace_id uuid, key_id uuid, origin text, subject text, expires_at timestamptz
);
comment on type keylatch.session is
  'A session: its workspace, the key and the origin of the page that opened it, the application''s
own id of the visitor, and when it expires.';

create function keylatch_internal.session_expiry(p_workspace_id uuid, p_created_at timestamptz)
returns timestamptz language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_lifetime constant interval := (
    select s.lifetime from keylatch.session_settings as s where s.workspace_id = p_workspace_id
  );
begin
  -- In hours: a day may have 23 hours in the time zone of the caller.
  return least(
    clock_timestamp() + coalesce(v_lifetime, '24 hours'), p_created_at + interval '2160 hours'
  );
end $$;
comment on function keylatch_internal.session_expiry is
  'When a session expires that is opened or extended now: at most 90 days after its opening.';

create function keylatch_internal.start_session(p_key text)
returns keylatch.opened_session language plpgsql volatile security definer
-- definer because: anon may open a session and nothing else. The origin is the request's own.
set search_path = pg_catalog, pg_temp as $$
declare
  v_origin constant text := nullif(current_setting('request.headers', true), '')::jsonb ->> 'origin';
  v_now constant timestamptz := clock_timestamp();
  v_key keylatch.resolved_key;
  v_count keylatch_internal.sessions;
  v_session keylatch.opened_session;
begin
  select r.* into v_key
  from keylatch.resolve_key(p_key, v_origin) as r
  where r.kind = 'publishable';
  if not found then
    perform keylatch_internal.refuse(
      'session_refused', 'The key is mistyped, not active, not publishable, or not for this origin.'
    );
  end if;
  -- Before the token is made, because most calls of a flood end here.
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
-- definer because: at the commit it runs as the visitor, who may not read keys.
set search_path = pg_catalog, pg_temp as $$
begin
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
  'A revoked key opens no session, however long the request takes.

Origin sessions only: a logical replica takes the publisher''s rows as they are.';

create function keylatch.open_session(key text)
returns keylatch.opened_session language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.start_session(open_session.key);
end $$;
comment on function keylatch.open_session is
  'Opens a session for a visitor of a page, by POST with the publishable key of the page.

The origin is the Origin header of the request, so this works only over REST. The token is shown
only here: send it as x-session-token, or pass it to your application, which calls resolve_session.
A key opens up to 600 sessions a minute, and up to 30 for one address if an address header is
trusted; the owner changes both in keylatch_internal.session_limits.
Errors: session_refused (401), whatever the reason; too_many_requests (429, Retry-After).';

create function keylatch_internal.find_session(p_token text)
returns keylatch.session language plpgsql stable security definer
-- definer because: only the owner may read token_hash. Only the holder of a token gets an
-- answer.
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
  'Returns the open session with this session token, or null if there is no such session.';

create function keylatch_internal.change_session(p_token text, p_change text, p_subject text)
returns keylatch.session language plpgsql volatile security definer
-- definer because: only these calls change a session, each for the holder of its token.
set search_path = pg_catalog, pg_temp as $$
declare
  v_session keylatch.session;
begin
  perform keylatch_internal.require_grants('keylatch_internal.change_session');
  -- Locked first: nothing waits between the check of the time and the change.
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
      -- The row stays for the rate limit, until it is pruned.
      when 'close' then clock_timestamp()
      else s.expires_at
    end
  where s.id = v_session.session_id
  returning s.subject, s.expires_at into v_session.subject, v_session.expires_at;
  return v_session;
end $$;
comment on function keylatch_internal.change_session is
  'Extends or closes the session of this token, or attaches a subject to it.';

create function keylatch.resolve_session(token text, extend boolean default false)
returns setof keylatch.session language plpgsql volatile security invoker rows 2
-- At most one row. But "rows 1" would make the type generators return a single object.
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
  'One row for the token of an open session, no row if not: mistyped, expired and closed look alike.
For the servers of the application.

extend: the session lasts its whole lifetime again, from now on, but never longer than 90 days from
its opening. Without extend nothing is written. Compare origin with the Origin of the request.';

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
  if attach_subject.subject is null
    or length(attach_subject.subject) not between 1 and 200
    or attach_subject.subject ~ E'[\\x01-\\x1f\\x7f-\\x9f]'
  then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'subject must be a text of 1 to 200 characters without control characters.',
      'Pass your own id of the visitor.'
    );
  end if;
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
  'A revoked key, when it was revoked, whether that was before this call, and how many open sessions
this call ended, counted up to 100000.';

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
  'Revokes an abused key, if it is not revoked yet, and ends all sessions that it opened.

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
  'Ends the sessions of a workspace.';

create trigger workspace_latches_write_end_sessions
after insert or update on keylatch_internal.workspace_latches
for each row
when (new.deleted_at is not null) execute function keylatch_internal.end_workspace_sessions();
comment on trigger workspace_latches_write_end_sessions on keylatch_internal.workspace_latches is
  'Deleting a workspace ends its sessions.

Origin sessions only: a logical replica gets the publisher''s endings as replicated rows.';

create function keylatch_internal.delete_old_sessions(p_batch integer)
returns integer language plpgsql volatile security definer
-- definer because: a timer prunes the sessions of every workspace.
set search_path = pg_catalog, pg_temp as $$
declare
  v_expired integer;
  v_ended integer;
begin
  perform keylatch_internal.require_grants('keylatch_internal.delete_old_sessions');
  -- Locked rows are left to the next call.
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
    from keylatch_internal.session_endings as e
    inner join keylatch_internal.sessions as o
      on e.workspace_id = o.workspace_id and e.key_id in (o.key_id, o.workspace_id)
    limit p_batch - v_expired
    for update of o skip locked
  );
  get diagnostics v_ended = row_count;
  return v_expired + v_ended;
end $$;
comment on function keylatch_internal.delete_old_sessions is 'Implements keylatch.prune_sessions.';

create type keylatch.session_pruning as (
  pruned integer
);
comment on type keylatch.session_pruning is 'The number of sessions that prune_sessions deleted.';

create function keylatch.prune_sessions(batch integer default 10000)
returns keylatch.session_pruning language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if prune_sessions.batch is null or prune_sessions.batch not between 1 and 100000 then
    perform keylatch_internal.refuse(
      'invalid_argument', 'batch must be from 1 to 100000.',
      'Leave batch out to use 10000. Call again while pruned equals batch.'
    );
  end if;
  return row(keylatch_internal.delete_old_sessions(prune_sessions.batch))::keylatch.session_pruning;
end $$;
comment on function keylatch.prune_sessions is
  'Deletes up to "batch" sessions that have expired or were ended. Run prune_sessions every minute,
for example with pg_cron.

The call waits for no lock and blocks no other call. Errors: invalid_argument (400).';

-- What the module request calls to read a session.

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
  -- The key may have any status: a session outlives its key.
  inner join keylatch_internal.keys as k on s.key_id = k.id
  -- A token that another page has stolen does not work there.
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
  'The identity from x-session-token; null without that header, an error for an invalid token.

A session has the scopes and the metadata of the key that it was opened with, as they are now.';

create function keylatch.current_session_id()
returns uuid language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (keylatch_internal.request_identity()).session_id;
end $$;
comment on function keylatch.current_session_id is
  'Returns the id of the session in the header x-session-token, or null without the header.

In a row policy, compare a column with (select keylatch.current_session_id()).
Errors: invalid_session (401); as current_workspace_id.';

update keylatch_internal.installation set modules = array_append(modules, 'sessions');

-- The grants of this file.
revoke all on table
keylatch_internal.sessions, keylatch_internal.session_endings, keylatch_internal.session_limits,
keylatch.sessions, keylatch.session_settings
from public, anon, authenticated, service_role;
revoke all on function
keylatch_internal.delete_session, keylatch_internal.judge_session_settings,
keylatch_internal.limited_address, keylatch_internal.address_mark,
keylatch_internal.count_in_flight, keylatch_internal.count_opened, keylatch_internal.count_session,
keylatch_internal.session_expiry, keylatch_internal.start_session,
keylatch_internal.check_session_key, keylatch_internal.find_session,
keylatch_internal.change_session, keylatch_internal.end_workspace_sessions,
keylatch_internal.delete_old_sessions, keylatch.open_session, keylatch.resolve_session,
keylatch.close_session, keylatch.attach_subject, keylatch.end_sessions, keylatch.prune_sessions,
keylatch.current_session_id
from public, anon, authenticated, service_role;

-- By column, so that nobody may lock a whole table.
grant select (id, workspace_id, key_id, origin, subject, created_at, expires_at)
on table keylatch_internal.sessions to authenticated, service_role;
grant select, insert (workspace_id, key_id)
on table keylatch_internal.session_endings to authenticated, service_role;
grant select, delete on table keylatch.sessions to authenticated, service_role;
grant select, insert (workspace_id, lifetime), update (workspace_id, lifetime)
on table keylatch.session_settings to authenticated, service_role;

grant execute on function keylatch.current_session_id to anon, authenticated, service_role;
grant execute on function keylatch.open_session, keylatch_internal.start_session
to anon, authenticated;
grant execute on function keylatch.end_sessions to authenticated, service_role;
grant execute on function
keylatch.resolve_session, keylatch.close_session, keylatch.attach_subject,
keylatch_internal.find_session, keylatch_internal.change_session
to service_role, keylatch_resolver;
grant execute on function keylatch.prune_sessions, keylatch_internal.delete_old_sessions
to service_role;
