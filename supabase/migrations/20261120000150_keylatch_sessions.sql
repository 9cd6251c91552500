-- Module sessions: a web page opens a session with a publishable key, and gets a session token.
--
-- A session stays open after its key is rotated or revoked. Only end_sessions and the deletion of a
-- workspace end all sessions of a key. Both insert a row into session_endings, and every read of a
-- session checks session_endings. So opening a session takes no lock on the key, and end_sessions
-- also ends a session that is committed later.

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
  'All sessions that prune_sessions has not deleted. A foreign key on key_id would lock the key.';
comment on column keylatch_internal.sessions.id is 'The id, which current_session_id returns.';
comment on column keylatch_internal.sessions.token_hash is 'The SHA-256 of the session token.';
comment on column keylatch_internal.sessions.workspace_id is 'The workspace of the session.';
comment on column keylatch_internal.sessions.key_id is 'The key that opened the session.';
comment on column keylatch_internal.sessions.origin is 'The origin of the web page.';
comment on column keylatch_internal.sessions.address_mark is
  'A hash of the visitor''s address, for the rate limit; 0 if there is no limit per address.';
comment on column keylatch_internal.sessions.opened_before is
  'How many committed sessions the key had opened in the minute before this session.';
comment on column keylatch_internal.sessions.counted_since is
  'When the oldest of the opened_before sessions was opened, or created_at if there were none.';
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
  'The keys and workspaces whose sessions are all ended, including sessions that are opened later.';
comment on column keylatch_internal.session_endings.workspace_id is 'The id of the workspace.';
comment on column keylatch_internal.session_endings.key_id is
  'The id of the key. A value equal to workspace_id stands for all keys of the workspace.';
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
select keylatch_internal.expose_table('keylatch_internal.sessions', 'keylatch.sessions');
select keylatch_internal.expose_table('keylatch_internal.session_endings');

create function keylatch_internal.delete_session()
returns trigger language plpgsql volatile security definer
-- definer because: a role with the right to change the table could lock the whole table. A role
-- that sees a session in the view may end the session.
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'keylatch.sessions'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.delete_session');
  end if;
  -- The row is not deleted yet, because the rate limit counts it. prune_sessions deletes the row.
  update keylatch_internal.sessions as s set expires_at = clock_timestamp() where s.id = old.id;
  return old;
end $$;
comment on function keylatch_internal.delete_session is 'A trigger function: ends the session.';

create trigger sessions_delete_instead
instead of delete on keylatch.sessions
for each row execute function keylatch_internal.delete_session();
comment on trigger sessions_delete_instead on keylatch.sessions is 'DELETE ends the session.';

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
select keylatch_internal.expose_table('keylatch.session_settings');

create function keylatch_internal.judge_session_settings()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- In seconds, because intervals with months and negative days compare in an unexpected way.
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
  'A trigger function that refuses a lifetime outside the limits, and turns its days into hours.';

create trigger session_settings_write_judge before insert or update on keylatch.session_settings
for each row execute function keylatch_internal.judge_session_settings();
comment on trigger session_settings_write_judge on keylatch.session_settings is
  'Checks each new lifetime.
The trigger does not fire for rows that a restore or logical replication writes.';

alter table keylatch_internal.sessions enable row level security;
alter table keylatch_internal.session_endings enable row level security;
alter table keylatch.session_settings enable row level security;

create policy sessions_select_admin on keylatch_internal.sessions
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy sessions_select_admin on keylatch_internal.sessions is
  'A signed-in user may read the sessions of the workspaces that the user administers.';

create policy session_endings_select_admin on keylatch_internal.session_endings
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_endings_select_admin on keylatch_internal.session_endings is
  'A signed-in user may read the session endings of the workspaces that the user administers.';

create policy session_endings_insert_admin on keylatch_internal.session_endings
for insert to authenticated with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_endings_insert_admin on keylatch_internal.session_endings is
  'A signed-in user may end the sessions of the workspaces that the user administers.';

create policy session_settings_select_admin on keylatch.session_settings
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_settings_select_admin on keylatch.session_settings is
  'A signed-in user may read the session settings of the workspaces that the user administers.';

create policy session_settings_insert_admin on keylatch.session_settings
for insert to authenticated with check (workspace_id in (select keylatch.admin_workspace_ids()));
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
  constraint session_limits_per_minute_check
  check (sessions_per_minute > 0 and sessions_per_address > 0),
  constraint session_limits_trusted_address_header_check
  check (trusted_address_header ~ '^[a-z0-9-]{1,64}$')
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
cf-connecting-ip. The last address in the header counts. Null: addresses are not limited, because a
client can write anything into a header that no gateway overwrites.';
insert into keylatch_internal.session_limits default values;
alter table keylatch_internal.session_limits enable row level security;

create function keylatch_internal.limited_address(p_address text)
returns text language plpgsql immutable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_address inet;
begin
  -- Some gateways add the port to the address, as in 192.0.2.1:443 or [2001:db8::1]:443.
  v_address := coalesce(
    substring(p_address, '^[[](.+)[]](?::[0-9]{1,5})?$'),
    substring(p_address, '^([0-9.]+):[0-9]{1,5}$'),
    p_address
  )::inet;
  -- An IPv4 address may be written as an IPv6 address (IPv4-mapped), or translated by NAT64.
  if v_address <<= inet '::ffff:0:0/96' or v_address <<= inet '64:ff9b::/96' then
    v_address := inet '0.0.0.0' + (v_address - network(set_masklen(v_address, 96))::inet);
  end if;
  -- For IPv6, the limit counts the /64 network, because a single household has 2^64 addresses.
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

create function keylatch_internal.count_in_flight(
  p_key_mark integer, p_address_mark integer, out of_key bigint, out of_address bigint
)
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- An advisory lock marks a request that has not committed. A mark counts only with a
  -- RowExclusiveLock on the table sessions, and a connection counts once: to forge marks is no use.
  select
    count(distinct m.pid), count(distinct m.pid) filter (where m.objid::integer = p_address_mark)
  into of_key, of_address
  from pg_catalog.pg_locks as m
  inner join pg_catalog.pg_locks as w on m.pid = w.pid
  where m.locktype = 'advisory' and m.classid = p_key_mark::oid and m.objsubid = 2
    -- A copy of this database on the same server has the same key ids and the same table oids.
    and m.database = (
      select d.oid from pg_catalog.pg_database as d where d.datname = current_database()
    )
    and m.pid <> pg_backend_pid()
    and w.relation = 'keylatch_internal.sessions'::regclass and w.mode = 'RowExclusiveLock';
end $$;
comment on function keylatch_internal.count_in_flight is
  'Returns how many other open transactions are opening a session of the key, and of the address.';

create function keylatch_internal.count_opened(
  p_key_id uuid, p_now timestamptz, p_limit bigint, out number bigint, out since timestamptz
)
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- A session with a created_at after p_now comes from a wrong clock and does not count.
  v_from constant timestamptz := p_now - interval '1 minute';
begin
  -- The last 16 rows are enough to refuse a flood. opened_before is the number of sessions that the
  -- request of a row found. If request A found at least as many sessions as request B, then B did
  -- not find the session of A (or B would have found more). So A adds one to the number of B.
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
  'Returns how many sessions a key opened in the minute before p_now, and when the key opened the
first of these sessions. A number at or above the limit is a lower bound.';

create function keylatch_internal.count_session(p_key_id uuid, p_now timestamptz)
returns keylatch_internal.sessions language plpgsql volatile security invoker
-- enable_seqscan: a cached plan from an empty table would still scan the whole table later.
set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
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
  -- In a schema-only copy of the database, the table session_limits has no row.
  select coalesce(max(l.sessions_per_minute), 600) as of_key,
    coalesce(max(l.sessions_per_address), 30) as of_address, max(l.trusted_address_header) as header
  into v_limits
  from keylatch_internal.session_limits as l
  where l.only_row;
  v_session.address_mark := 0;
  if v_limits.header is not null then
    -- A hash, never 0. The last address in the header, because a gateway appends its client's.
    v_session.address_mark := coalesce(nullif(hashtext(keylatch_internal.limited_address(trim(
      split_part(nullif(current_setting('request.headers', true), '')::jsonb ->> v_limits.header,
        ',', -1)
    ))), 0), 1);
    select count(*), coalesce(min(s.created_at), p_now) into v_of_address, v_address_since
    from keylatch_internal.sessions as s
    where s.key_id = p_key_id and s.address_mark = v_session.address_mark and s.address_mark <> 0
      and s.created_at between p_now - interval '1 minute' and p_now;
  end if;
  v_opened := keylatch_internal.count_opened(p_key_id, p_now, v_limits.of_key);
  v_of_key := v_opened.number;
  -- Reading pg_locks blocks other backends for a moment, so a flood must be refused before.
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
  -- This lock marks the request until the transaction ends. pg_try_…_shared never waits.
  perform pg_try_advisory_xact_lock_shared(v_key_mark, v_session.address_mark);
  return v_session;
end $$;
comment on function keylatch_internal.count_session is
  'Counts a request that opens a session, or refuses the request with too_many_requests. Returns the
columns address_mark, opened_before and counted_since of the new session.

No request waits for another. Requests that count at the same moment do not see each other, so a
minute can have as many sessions as the limit plus the number of requests in flight.';

-- The grants of this file.
revoke all on table keylatch_internal.sessions, keylatch_internal.session_endings,
keylatch_internal.session_limits, keylatch.sessions, keylatch.session_settings
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.delete_session, keylatch_internal.judge_session_settings,
keylatch_internal.limited_address, keylatch_internal.count_in_flight,
keylatch_internal.count_opened, keylatch_internal.count_session
from public, anon, authenticated, service_role;
-- The grants name columns, because a grant on the whole table could allow a role to lock the table.
grant select (id, workspace_id, key_id, origin, subject, created_at, expires_at)
on table keylatch_internal.sessions to authenticated, service_role;
grant select, insert (workspace_id, key_id) on table keylatch_internal.session_endings
to authenticated, service_role;
grant select, delete on table keylatch.sessions to authenticated, service_role;
grant select, insert (workspace_id, lifetime), update (workspace_id, lifetime)
on table keylatch.session_settings to authenticated, service_role;
