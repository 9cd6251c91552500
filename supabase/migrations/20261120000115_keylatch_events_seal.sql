-- Module events: sealing the events into a chain of checkpoints, and verifying the chain.

create function keylatch_internal.event_digest(p_event keylatch_internal.key_events)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- JSON makes the hashed string unambiguous, whatever a label contains. The time is microseconds
  -- since 1970, so that no setting changes its format. For an erased event, the hash in "erased"
  -- replaces the personal data.
  return sha256(convert_to(jsonb_build_array(
    'keylatch event 1', p_event.id, p_event.workspace_id, p_event.key_id, p_event.event,
    trunc(extract(epoch from p_event.occurred_at) * 1000000), p_event.role, p_event.login,
    encode(case
      when p_event.erased is null then keylatch_internal.personal_digest(p_event)
      when coalesce(p_event.user_id::text, p_event.address, p_event.agent, p_event.reason) is null
        and p_event.changes = '{}' then p_event.erased
    end, 'hex')
  )::text, 'UTF8'));
end $$;
comment on function keylatch_internal.event_digest is
  'Returns the SHA-256 of a JSON array of all fields of an event.';

create function keylatch_internal.digest_events(
  p_number bigint, p_previous bytea, out events bigint, out digest bytea
)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  select count(*), sha256(p_previous || int8send(p_number) || coalesce(
    string_agg(keylatch_internal.event_digest(e), '' order by e.occurred_at, e.id), ''
  ))
  into events, digest
  from keylatch_internal.key_events as e
  where e.checkpoint = p_number;
end $$;
comment on function keylatch_internal.digest_events is
  'Counts the events of a checkpoint, and computes the digest of the checkpoint from these events.';

create type keylatch.event_sealing as (checkpoint bigint, events integer, is_done boolean);
comment on type keylatch.event_sealing is
  'The result of seal_events. checkpoint: the last one that the call made, or null. events: how many
the call sealed. is_done: true if no event that the call could see is left unsealed.';

create function keylatch_internal.seal_key_events(p_limit integer)
returns keylatch.event_sealing language plpgsql volatile security definer
-- definer because: only this function may write or lock checkpoints.
-- enable_seqscan, jit: a cached plan must stay fast when the table has grown.
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  v_result keylatch.event_sealing;
  v_number bigint;
  v_previous bytea;
  v_batch record;
begin
  perform keylatch_internal.require_grants('keylatch_internal.seal_key_events');
  if coalesce(p_limit not between 1 and 100000, true) then
    perform keylatch_internal.refuse(
      'invalid_argument', 'limit must be from 1 to 100000.', 'Leave limit out to use 10000.'
    );
  end if;
  -- Only concurrent calls of seal_events wait for this lock.
  lock table keylatch_internal.key_event_checkpoints in share row exclusive mode;
  select c.number, c.digest into v_number, v_previous
  from keylatch_internal.key_event_checkpoints as c order by c.number desc limit 1;
  v_number := coalesce(v_number, 0);
  with unsealed as materialized (
    select
      e.workspace_id, e.occurred_at, e.id,
      row_number() over (order by e.checkpoint, e.occurred_at, e.id) as n
    from keylatch_internal.key_events as e
    where e.checkpoint is null order by e.checkpoint, e.occurred_at, e.id limit p_limit
  )
  -- Not by ctid, which changes if the owner erases the event meanwhile.
  update keylatch_internal.key_events as e
  set checkpoint = v_number + (u.n + 999) / 1000
  from unsealed as u
  where e.workspace_id = u.workspace_id and e.occurred_at = u.occurred_at and e.id = u.id;
  get diagnostics v_result.events = row_count;
  for _ in 1 .. (v_result.events + 999) / 1000 loop
    v_number := v_number + 1;
    v_previous := coalesce(v_previous, '');
    v_batch := keylatch_internal.digest_events(v_number, v_previous);
    insert into keylatch_internal.key_event_checkpoints
      (number, events, previous, digest, sealed_at)
    values (v_number, v_batch.events, v_previous, v_batch.digest, clock_timestamp());
    v_previous := v_batch.digest;
    v_result.checkpoint := v_number;
  end loop;
  v_result.is_done :=
    not exists (select from keylatch_internal.key_events as e where e.checkpoint is null);
  return v_result;
end $$;
comment on function keylatch_internal.seal_key_events is 'Implements keylatch.seal_events.';

create function keylatch.seal_events("limit" integer default 10000)
returns keylatch.event_sealing language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- In REPEATABLE READ, two concurrent calls would make the same checkpoint.
  perform keylatch_internal.require_read_committed('Sealing events');
  if exists (
    select from pg_catalog.pg_subscription_rel as r
    where r.srrelid = 'keylatch_internal.key_event_checkpoints'::regclass
  ) then
    -- Two checkpoints with the same number would stop the replication of revocations, too.
    perform keylatch_internal.refuse(
      'sealed_at_publisher', 'On a logical replica, the checkpoints come from the publisher.'
    );
  end if;
  return keylatch_internal.seal_key_events(seal_events."limit");
end $$;
comment on function keylatch.seal_events is
  'Adds up to "limit" of the oldest unsealed events to the chain of checkpoints. Run seal_events in
a cron job, and repeat the call until is_done is true.

limit: 1 to 100000. Events of open transactions are sealed by a later call.
Errors: invalid_argument (400), read_committed_required (400), sealed_at_publisher (409).';

create type keylatch.event_verification as (
  is_intact boolean, checkpoints bigint, events bigint, unsealed bigint, next_checkpoint bigint,
  broken_checkpoint bigint, problem text, digest text
);
comment on type keylatch.event_verification is
  'The result of verify_events: whether all checkpoints that the call read are intact; how many
checkpoints and events are intact; how many events are not sealed yet (up to a million); the
next checkpoint to verify (null at the end); the first broken checkpoint and its problem; and the
digest of the last intact checkpoint, in hex.';

create function keylatch_internal.verify_checkpoints(p_from bigint, p_limit integer)
returns keylatch.event_verification language plpgsql stable security definer
-- definer because: a checkpoint covers the events of all workspaces. Callers get only counts and
-- digests. "stable" gives all queries one snapshot, so a concurrent seal_events shows no gap.
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  v_result keylatch.event_verification;
  v_last bigint;
  v_previous bytea;
  v_checkpoint keylatch_internal.key_event_checkpoints;
  v_found record;
begin
  perform keylatch_internal.require_grants('keylatch_internal.verify_checkpoints');
  if coalesce(p_from < 1 or p_limit not between 1 and 1000, true) then
    perform keylatch_internal.refuse(
      'invalid_argument', 'from_checkpoint must be 1 or more, and limit from 1 to 1000.',
      'Pass 1 first, and then next_checkpoint of the last result.'
    );
  end if;
  select coalesce(max(c.number), 0) into v_last from keylatch_internal.key_event_checkpoints as c;
  select c.digest into v_previous
  from keylatch_internal.key_event_checkpoints as c where c.number = p_from - 1;
  select 0, 0, count(*) into v_result.checkpoints, v_result.events, v_result.unsealed
  from (select from keylatch_internal.key_events as e where e.checkpoint is null limit 1000000) as n;
  for v_offset in 0 .. greatest(least(v_last - p_from, p_limit - 1), -1) loop
    select c.* into v_checkpoint
    from keylatch_internal.key_event_checkpoints as c where c.number = p_from + v_offset;
    v_found := keylatch_internal.digest_events(p_from + v_offset, v_checkpoint.previous);
    v_result.problem := case
      when v_checkpoint.number is null then 'The checkpoint is missing.'
      when v_checkpoint.previous is distinct from coalesce(v_previous, '')
        then 'The checkpoint does not contain the digest of the previous checkpoint.'
      when v_checkpoint.archived_at is not null and v_found.events = 0 then null
      when v_found.events < v_checkpoint.events then 'An event of the checkpoint is missing.'
      when v_found.events > v_checkpoint.events then 'The checkpoint has an event that was not sealed.'
      when v_found.digest is distinct from v_checkpoint.digest
        then 'An event, or the checkpoint, was changed.'
    end;
    v_result.next_checkpoint := nullif(p_from + v_offset, v_last) + 1;
    if v_result.problem is not null then
      v_result.broken_checkpoint := p_from + v_offset;
      exit;
    end if;
    v_previous := v_checkpoint.digest;
    v_result.digest := encode(v_previous, 'hex');
    v_result.checkpoints := v_result.checkpoints + 1;
    v_result.events := v_result.events + v_found.events;
  end loop;
  if v_result.problem is null and v_result.next_checkpoint is null and (
    select min(e.checkpoint) < 1 or max(e.checkpoint) > v_last
    from keylatch_internal.key_events as e
  ) then
    v_result.broken_checkpoint := v_last + 1;
    v_result.problem := 'The checkpoint of sealed events is missing.';
  end if;
  v_result.is_intact := v_result.problem is null;
  return v_result;
end $$;
comment on function keylatch_internal.verify_checkpoints is 'Implements keylatch.verify_events.';

create function keylatch.verify_events(
  from_checkpoint bigint default 1, "limit" integer default 100
)
returns keylatch.event_verification language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if row_security_active('keylatch_internal.key_events'::regclass)
    and not exists (select from keylatch.admin_workspace_ids()) then
    perform keylatch_internal.refuse('admin_required', 'You administer no workspace.');
  end if;
  return keylatch_internal.verify_checkpoints(verify_events.from_checkpoint, verify_events."limit");
end $$;
comment on function keylatch.verify_events is
  'Detects events that were changed, removed, duplicated or added after the sealing. Repeat the call
with next_checkpoint of the last result as from_checkpoint, until next_checkpoint is null.

limit: how many checkpoints to verify, 1 to 1000. The owner of the tables could rebuild the whole
chain. To detect that, store digests in another system (sql/ops/anchor_events.sql).
Errors: invalid_argument (400), admin_required (403).';

update keylatch_internal.installation set modules = array_append(modules, 'events');

-- The grants of this file. Only the triggers may insert events.
revoke all on function keylatch_internal.event_digest, keylatch_internal.digest_events,
keylatch_internal.seal_key_events, keylatch_internal.verify_checkpoints, keylatch.seal_events,
keylatch.verify_events from public, anon, authenticated, service_role;
grant execute on function keylatch.verify_events, keylatch_internal.verify_checkpoints
to authenticated, service_role;
grant execute on function keylatch.seal_events, keylatch_internal.seal_key_events to service_role;
