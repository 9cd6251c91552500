-- Module notify: NOTIFY tells caches of resolved keys which key has changed, and functions show the
-- replication lag of replicas.
--
-- The payload on the channel "keylatch" is the first 16 hex digits of the SHA-256 of the key id,
-- because every database role can LISTEN but must not learn key ids. The payload * means any key.

insert into keylatch_internal.errors (slug, code, hint) values
('replicas_behind', 'PT504', 'Call wait_for_replicas again. Your change is already committed.');

create sequence keylatch_internal.notices_left_out;
comment on sequence keylatch_internal.notices_left_out is
  'A counter of changes that were not sent with NOTIFY. Caches read the counter regularly.';

create function keylatch_internal.is_notify_stuck()
returns boolean language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_holders text[];
begin
  -- Without a synchronous standby, a commit does not wait for another server.
  for v_try in 1 .. 2 loop
    exit when current_setting('synchronous_standby_names') = '';
    v_holders := array(
      select l.virtualtransaction from pg_catalog.pg_locks as l
      where l.locktype = 'object' and l.classid = 'pg_catalog.pg_database'::regclass
        and l.objid = 0 and l.granted and l.pid <> pg_backend_pid()
        and (v_try = 1 or l.virtualtransaction = any (v_holders))
    );
    exit when v_holders = '{}';
    perform pg_sleep(0.1) where v_try = 1;
  end loop;
  return cardinality(v_holders) > 0;
end $$;
comment on function keylatch_internal.is_notify_stuck is
  'True if another transaction holds the server''s NOTIFY lock while it waits for a standby.';

create function keylatch_internal.notify_caches()
returns trigger language plpgsql volatile security definer
-- definer because: a role that changes a key may not write the sequence notices_left_out.
set search_path = pg_catalog, pg_temp as $$
declare
  -- A caller who changes the settings below makes notices more general, and loses none.
  v_notices constant integer := coalesce(
    substring(current_setting('keylatch.notices', true), '^[0-9]{1,4}$')::integer, 0
  );
begin
  if tg_relid <> 'keylatch_internal.keys'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.notify_caches');
  end if;
  -- A full queue would make the commit fail. Commits that notify wait for each other, so this
  -- commit could wait for a standby. The check takes time, so a transaction makes it once.
  if current_setting('keylatch.left_out', true) = 'on' or pg_notification_queue_usage() > 0.5
    or (v_notices = 0 and keylatch_internal.is_notify_stuck()) then
    perform nextval('keylatch_internal.notices_left_out');
    perform set_config('keylatch.left_out', 'on', true);
  else
    perform pg_notify('keylatch', case when v_notices >= 1000 or tg_op = 'INSERT'
      or (new.imported_at is not null and new.revoked_at is distinct from old.revoked_at) then '*'
      else left(encode(sha256(convert_to(new.id::text, 'UTF8')), 'hex'), 16) end);
    if v_notices < 1000 then
      perform set_config('keylatch.notices', (v_notices + 1)::text, true);
    end if;
  end if;
  return null;
end $$;
comment on function keylatch_internal.notify_caches is
  'A trigger function that notifies caches of a changed key, or else increments notices_left_out.';

-- Caches contain no new keys and no labels, and drop an entry when its key expires.
create trigger keys_update_notify after update on keylatch_internal.keys for each row when (
  new.revoked_at is distinct from old.revoked_at
  or new.suspended_at is distinct from old.suspended_at
  or new.superseded_at is distinct from old.superseded_at
  or new.allowed_origins is distinct from old.allowed_origins
  or new.scopes is distinct from old.scopes or new.metadata is distinct from old.metadata
  or coalesce(new.expires_at, 'infinity') < coalesce(old.expires_at, 'infinity')
) execute function keylatch_internal.notify_caches();
alter table keylatch_internal.keys enable always trigger keys_update_notify;
comment on trigger keys_update_notify on keylatch_internal.keys is
  'Notifies caches of a changed key at commit, also on a logical replica.';

create trigger keys_insert_notify after insert on keylatch_internal.keys for each row when (
  new.imported_at is not null
  and pg_catalog.num_nonnulls(new.revoked_at, new.suspended_at, new.expires_at) > 0
) execute function keylatch_internal.notify_caches();
alter table keylatch_internal.keys enable always trigger keys_insert_notify;
comment on trigger keys_insert_notify on keylatch_internal.keys is
  'Makes caches forget all keys if an imported key is inactive or has an expiry. A revocation of an
imported key does the same. A cache may know the plaintext key by the id of another row. If the key
is suspended later, or expires, such a cache returns the key until the entry in the cache ends.';

create function keylatch_internal.hold_extension()
returns trigger language plpgsql volatile security definer
-- definer because: at the commit the trigger may run as a login without rights here.
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.require_grants('keylatch_internal.hold_extension');
  if current_setting('keylatch.notices', true) > '0' then
    if old.expires_at < clock_timestamp() + interval '1 minute' then
      perform keylatch_internal.refuse(
        'expired_is_final',
        format('The key expires at %s, and the commit may take longer, because the ', old.expires_at)
        || 'transaction made other changes to keys.', 'Extend the key in a transaction of its own.'
      );
    end if;
    -- Far less than a minute: if the commit waits longer for other commits, the commit fails.
    perform set_config('lock_timeout', '5s', true)
    where current_setting('lock_timeout')::interval not between '1 ms' and '5 s';
  end if;
  return null;
end $$;
comment on function keylatch_internal.hold_extension is
  'A trigger function that limits how long the commit waits if a key is extended with a NOTIFY.';

create constraint trigger keys_update_hold_extension
after update on keylatch_internal.keys deferrable initially deferred for each row
when (coalesce(new.expires_at, 'infinity') > old.expires_at)
execute function keylatch_internal.hold_extension();
comment on trigger keys_update_hold_extension on keylatch_internal.keys is
  'Refuses to extend a key that expires soon if the transaction has sent a NOTIFY: such a commit may
wait for other commits with a NOTIFY, and the key may expire before. A commit that waits longer than
5 seconds fails together with its revocations, so revoke keys in a transaction of their own.
The trigger does not fire for rows that a publisher sends.';

create type keylatch.server_position as (
  system_identifier text, timeline integer, is_replica boolean, "position" bigint
);
comment on type keylatch.server_position is
  'The result of replay_position: the server, its timeline, whether it is a replica, and its LSN.';

create function keylatch_internal.read_position()
returns keylatch.server_position language plpgsql stable security definer
-- definer because: the timeline of a replica's stream needs pg_read_all_stats.
set search_path = pg_catalog, pg_temp as $$
declare
  v_here keylatch.server_position;
begin
  v_here.system_identifier := (select c.system_identifier::text from pg_control_system() as c);
  v_here.is_replica := pg_is_in_recovery();
  if v_here.is_replica then
    v_here.timeline := (
      select w.received_tli from pg_catalog.pg_stat_wal_receiver as w where w.status = 'streaming'
    );
    v_here."position" := pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0');
  else
    -- The name of a WAL file begins with the timeline, in 8 hex digits.
    v_here.timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer;
    v_here."position" := pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0');
  end if;
  return v_here;
end $$;
comment on function keylatch_internal.read_position is 'Implements keylatch.replay_position.';

create function keylatch.replay_position()
returns keylatch.server_position language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.read_position();
end $$;
comment on function keylatch.replay_position is
  'Returns the LSN that a primary has flushed, or that a replica has replayed.

Call this on the primary, then on the replica. If system_identifier and timeline are equal, and the
replica''s LSN is not below the primary''s LSN, the replica is up to date. timeline is null on a
replica without a WAL receiver, or if the owner of keylatch lacks pg_monitor: assume it is stale.';

create function keylatch_internal.read_heartbeat(
  p_with_writers boolean, out server_time timestamptz, out left_out bigint, out place text,
  out writers text[]
)
returns record language plpgsql volatile security definer
-- definer because: the role of a cache may not read the sequence notices_left_out.
set search_path = pg_catalog, pg_temp as $$
declare
  v_here constant keylatch.server_position := keylatch_internal.read_position();
  v_database constant oid := (
    select d.oid from pg_catalog.pg_database as d where d.datname = current_database()
  );
begin
  perform keylatch_internal.require_grants('keylatch_internal.read_heartbeat');
  server_time := clock_timestamp();
  place := concat_ws(' ', v_here.system_identifier, v_here.timeline, v_database);
  left_out := (
    select s.last_value + s.is_called::integer from keylatch_internal.notices_left_out as s
  );
  -- After reading the sequence: a writer that advanced it had this lock before.
  if p_with_writers then
    writers := array(
      select l.virtualtransaction from pg_catalog.pg_locks as l
      where l.relation = 'keylatch_internal.keys'::regclass and l.database = v_database
        and l.mode = 'RowExclusiveLock'
    );
  end if;
end $$;
comment on function keylatch_internal.read_heartbeat is
  'A cache calls read_heartbeat regularly on the connection that runs LISTEN.

left_out: the counter of changes that were not sent. If the counter grows, the cache must drop all
entries, and must store no entry until all transactions in "writers" have ended.
writers: the transactions that change keys now, if the caller asks for them.
place: the identity of the database: system identifier, timeline and database oid.';

create type keylatch.replica_wait as (is_synchronous boolean, waited_for integer);
comment on type keylatch.replica_wait is
  'The result of wait_for_replicas: how many synchronous standbys have replayed earlier commits.';

create function keylatch_internal.await_replicas(p_seconds numeric)
returns keylatch.replica_wait language plpgsql volatile security definer
-- definer because: reading the position of a standby needs pg_read_all_stats.
set search_path = pg_catalog, pg_temp as $$
declare
  v_target pg_lsn;
  v_ends timestamptz;
  v_result keylatch.replica_wait;
  v_problem constant text[] := case
    when p_seconds is null or p_seconds not between 0 and 60
      then array['timeout must be from 0 to 1 minute.', 'Leave timeout out to use 10 seconds.']
    when pg_is_in_recovery()
      then array['The server is a replica.', 'Call wait_for_replicas on the primary.']
    when current_setting('synchronous_standby_names') = ''
      then array['There is no synchronous standby.', 'Set synchronous_standby_names on the primary.']
    when pg_current_xact_id_if_assigned() is not null
      then array[
        'The transaction has changed data.', 'Commit before you call wait_for_replicas.'
      ]
    when not pg_has_role('pg_read_all_stats', 'usage')
      then array['The owner of keylatch cannot see replicas.', 'Grant pg_monitor to that owner.']
  end;
begin
  perform keylatch_internal.require_grants('keylatch_internal.await_replicas');
  if v_problem is not null then
    perform keylatch_internal.refuse('invalid_argument', v_problem[1], v_problem[2]);
  end if;
  v_target := pg_current_wal_flush_lsn();
  v_ends := clock_timestamp() + p_seconds * interval '1 second';
  -- This loop polls and takes no lock, so the call blocks no other session.
  loop
    select coalesce(bool_and(r.replay_lsn >= v_target), false), count(*) into v_result
    from pg_catalog.pg_stat_replication as r
    where r.sync_state in ('sync', 'quorum');
    exit when v_result.is_synchronous;
    if clock_timestamp() >= v_ends then
      perform keylatch_internal.refuse(
        'replicas_behind', format('A synchronous standby is still behind after %s s.', p_seconds)
      );
    end if;
    perform pg_sleep(0.01);
  end loop;
  return v_result;
end $$;
comment on function keylatch_internal.await_replicas is 'Implements keylatch.wait_for_replicas.';

create function keylatch.wait_for_replicas(timeout interval default '10 seconds')
returns keylatch.replica_wait language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.await_replicas(extract(epoch from wait_for_replicas.timeout));
end $$;
comment on function keylatch.wait_for_replicas is
  'Waits until all synchronous standbys have replayed all commits from before this call.

After a revocation is committed, call wait_for_replicas in a new transaction. The call blocks no
other session. timeout: up to 1 minute; over REST, choose less than statement_timeout.
Errors: invalid_argument (400), replicas_behind (504).';

update keylatch_internal.installation set modules = array_append(modules, 'notify');

-- The grants of this file.
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
