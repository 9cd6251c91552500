-- The chain: each event of a workspace has a number and a hash over all before it, so that a past
-- that somebody rewrote shows.
--
-- An event is written when its change is, so that it names who did it. Its place in the chain it
-- gets at the commit: whoever writes in a workspace waits there for whoever commits before, and
-- nobody waits in another workspace. Taken earlier, two transactions that change the same keys in
-- another order would wait for each other.

create table keylatch_internal.key_event_links (
  workspace_id uuid not null,
  number bigint not null,
  event_id bigint not null,
  hash bytea not null,

  constraint key_event_links_pkey primary key (workspace_id, number),
  constraint key_event_links_event_id_key unique (event_id),
  constraint key_event_links_number_check check (number > 0),
  constraint key_event_links_hash_check check (octet_length(hash) = 32)
);

comment on table keylatch_internal.key_event_links is
  'The place of each event in the chain of its workspace, and the hash up to there. A table of its
own, so that neither it nor the events are ever updated.';
comment on column keylatch_internal.key_event_links.workspace_id is 'Whose chain it is.';
comment on column keylatch_internal.key_event_links.number is 'Counts from 1, without gaps.';
comment on column keylatch_internal.key_event_links.event_id is 'The event.';
comment on column keylatch_internal.key_event_links.hash is
  'SHA-256 of the hash before and this event, as event_hash encodes it.';

create table keylatch_internal.key_event_heads (
  workspace_id uuid not null,
  number bigint not null,
  hash bytea not null,

  constraint key_event_heads_pkey primary key (workspace_id),
  constraint key_event_heads_number_check check (number >= 0)
) with (fillfactor = 50);

comment on table keylatch_internal.key_event_heads is
  'The end of each chain. Who adds to a chain locks its row, so that a chain has one end.';
comment on column keylatch_internal.key_event_heads.workspace_id is 'Whose chain it is.';
comment on column keylatch_internal.key_event_heads.number is 'The number of the last event.';
comment on column keylatch_internal.key_event_heads.hash is 'The hash of the last event.';

revoke all on table keylatch_internal.key_event_links
from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_event_links to authenticated, service_role;
revoke all on table keylatch_internal.key_event_heads
from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_event_heads to authenticated, service_role;
alter table keylatch_internal.key_event_links enable row level security;
alter table keylatch_internal.key_event_heads enable row level security;

create policy key_event_links_select_admin on keylatch_internal.key_event_links
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_event_links_select_admin on keylatch_internal.key_event_links is
  'A signed-in user sees the chains of the workspaces that they administer.';

create policy key_event_heads_select_admin on keylatch_internal.key_event_heads
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_event_heads_select_admin on keylatch_internal.key_event_heads is
  'A signed-in user sees the ends of the chains of the workspaces that they administer.';

create trigger key_event_links_change_keep
before update or delete on keylatch_internal.key_event_links
for each row execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_event_links enable always trigger key_event_links_change_keep;
comment on trigger key_event_links_change_keep on keylatch_internal.key_event_links is
  'Links are not changed or deleted.';

create trigger key_event_links_truncate_keep
before truncate on keylatch_internal.key_event_links
for each statement execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_event_links enable always trigger key_event_links_truncate_keep;
comment on trigger key_event_links_truncate_keep on keylatch_internal.key_event_links is
  'The table is not emptied.';

create trigger key_event_heads_change_keep
before update or delete on keylatch_internal.key_event_heads
for each row execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_event_heads enable always trigger key_event_heads_change_keep;
comment on trigger key_event_heads_change_keep on keylatch_internal.key_event_heads is
  'The end of a chain moves forward, and is not deleted.';

create trigger key_event_heads_truncate_keep
before truncate on keylatch_internal.key_event_heads
for each statement execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_event_heads enable always trigger key_event_heads_truncate_keep;
comment on trigger key_event_heads_truncate_keep on keylatch_internal.key_event_heads is
  'The table is not emptied.';

create function keylatch_internal.event_hash(
  p_event keylatch_internal.key_events, p_number bigint, p_previous bytea
)
returns bytea
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  -- Microseconds since 1970, which no setting writes differently.
  v_occurred constant pg_catalog.text :=
    (extract(epoch from p_event.occurred_at) * 1000000)::bigint;
  v_changes constant pg_catalog.text := p_event.changes;
begin
  -- Fixed for good: a field is its length in bytes, a colon, itself and a comma; null is "-,". So
  -- no two events have the same text, whatever somebody writes into a label. A UUID has 36 bytes.
  return sha256(coalesce(p_previous, '') || convert_to(
    concat(
      '16:keylatch event 1,36:', p_event.workspace_id,
      ',', length(p_number::pg_catalog.text), ':', p_number,
      ',', length(p_event.id::pg_catalog.text), ':', p_event.id,
      ',36:', p_event.key_id,
      ',', length(p_event.event), ':', p_event.event,
      ',', length(v_occurred), ':', v_occurred,
      ',', coalesce('36:' || p_event.user_id, '-'),
      ',', octet_length(p_event.role), ':', p_event.role,
      ',', octet_length(p_event.login), ':', p_event.login,
      ',', coalesce(octet_length(p_event.address) || ':' || p_event.address, '-'),
      ',', coalesce(octet_length(p_event.agent) || ':' || p_event.agent, '-'),
      ',', coalesce(octet_length(p_event.reason) || ':' || p_event.reason, '-'),
      ',', octet_length(v_changes), ':', v_changes, ','
    ),
    'UTF8'
  ));
end;
$$;

comment on function keylatch_internal.event_hash(keylatch_internal.key_events, bigint, bytea) is
  'The hash of an event at this place in its chain, after this hash.

SHA-256 over the hash before (32 bytes, none before the first) and the event in an encoding that
stays.';

revoke all on function keylatch_internal.event_hash(keylatch_internal.key_events, bigint, bytea)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.event_hash(keylatch_internal.key_events, bigint, bytea)
to authenticated, service_role;

create function keylatch_internal.lock_event_head(p_workspace_id uuid)
returns keylatch_internal.key_event_heads
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_head keylatch_internal.key_event_heads;
begin
  select h.* into v_head
  from keylatch_internal.key_event_heads as h
  where h.workspace_id = p_workspace_id
  for update;
  if not found then
    insert into keylatch_internal.key_event_heads (workspace_id, number, hash)
    values (p_workspace_id, 0, '')
    on conflict do nothing;
    select h.* into v_head
    from keylatch_internal.key_event_heads as h
    where h.workspace_id = p_workspace_id
    for update;
  end if;
  return v_head;
end;
$$;

comment on function keylatch_internal.lock_event_head(uuid) is
  'The end of a workspace''s chain, made if there is none, and nobody else''s until the commit.';

revoke all on function keylatch_internal.lock_event_head(uuid)
from public, anon, authenticated, service_role;

create function keylatch_internal.link_key_events()
returns trigger
language plpgsql
volatile
-- definer because: nobody writes the chain but this.
security definer
set search_path = ''
-- Of a table that grows for ever the end is read. A planner that does not know how little that is
-- would compile for it, plan it anew each time, or keep a plan from when the table was small.
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_event keylatch_internal.key_events;
  v_first keylatch_internal.key_events;
  v_head keylatch_internal.key_event_heads;
  v_heads keylatch_internal.key_event_heads[] := '{}';
  v_links keylatch_internal.key_event_links[] := '{}';
begin
  -- The first event of a transaction takes all others of it along.
  if exists (select 1 from keylatch_internal.key_event_links as l where l.event_id = new.id) then
    return null;
  end if;

  -- What is visible and has no link is of this transaction: others link theirs as they commit.
  -- One workspace after the other in one order, so that two transactions take turns.
  for v_event in
    select e.*
    from keylatch_internal.key_events as e
    where e.id >= new.id
      and not exists (
        select 1 from keylatch_internal.key_event_links as l where l.event_id = e.id offset 0
      )
    order by e.workspace_id, e.id
  loop
    if v_head.workspace_id is distinct from v_event.workspace_id then
      v_heads := v_heads || v_head;
      v_head := keylatch_internal.lock_event_head(v_event.workspace_id);
      -- Keys are kept, so a chain begins with the workspace's first key.
      if v_head.number = 0 and v_event.event in ('issued', 'imported') then
        insert into keylatch_internal.key_events (
          workspace_id, key_id, event, occurred_at, user_id, role, login, address, agent, changes
        )
        values (
          v_event.workspace_id, v_event.key_id, 'first_key', v_event.occurred_at, v_event.user_id,
          v_event.role, v_event.login, v_event.address, v_event.agent, '{}'
        )
        returning * into v_first;
        -- Where nothing is deferred, that one has been linked by now.
        v_head := keylatch_internal.lock_event_head(v_event.workspace_id);
        if v_head.number = 0 then
          v_head := row(
            v_head.workspace_id, 1, keylatch_internal.event_hash(v_first, 1, v_head.hash)
          );
          v_links := v_links || row(
            v_head.workspace_id, v_head.number, v_first.id, v_head.hash
          )::keylatch_internal.key_event_links;
        end if;
      end if;
    end if;
    v_head := row(
      v_head.workspace_id,
      v_head.number + 1,
      keylatch_internal.event_hash(v_event, v_head.number + 1, v_head.hash)
    );
    v_links := v_links || row(
      v_head.workspace_id, v_head.number, v_event.id, v_head.hash
    )::keylatch_internal.key_event_links;
  end loop;
  v_heads := v_heads || v_head;

  insert into keylatch_internal.key_event_links (workspace_id, number, event_id, hash)
  select l.workspace_id, l.number, l.event_id, l.hash
  from unnest(v_links) as l;
  update keylatch_internal.key_event_heads as h
  set number = n.number, hash = n.hash
  from unnest(v_heads) as n
  where h.workspace_id = n.workspace_id;
  return null;
end;
$$;

comment on function keylatch_internal.link_key_events() is
  'Puts the events of this transaction at the end of the chains of their workspaces.';

revoke all on function keylatch_internal.link_key_events()
from public, anon, authenticated, service_role;

create constraint trigger key_events_insert_link
after insert on keylatch_internal.key_events
deferrable initially deferred
for each row
when (
  new.is_first
  and (
    -- Asked here because from version 16 on nothing may be deferred in such a worker.
    pg_catalog.current_setting('session_replication_role') <> 'replica'
    or not keylatch_internal.is_apply_worker()
  )
)
execute function keylatch_internal.link_key_events();
alter table keylatch_internal.key_events enable always trigger key_events_insert_link;
comment on trigger key_events_insert_link on keylatch_internal.key_events is
  'Every event gets its place in the chain when it is committed.';

create view keylatch.key_events with (security_invoker = true) as
select
  l.workspace_id,
  l.number,
  e.key_id,
  e.event,
  e.occurred_at,
  e.user_id,
  e.role,
  e.login,
  e.address,
  e.agent,
  e.reason,
  e.changes,
  pg_catalog.encode(l.hash, 'hex') as hash
from keylatch_internal.key_event_links as l
inner join keylatch_internal.key_events as e on l.event_id = e.id;

comment on view keylatch.key_events is
  'What happened to the keys of the workspaces that you administer: never changed, never deleted.

Filter by workspace_id and order by number. verify_events tells whether it was tampered with.';
comment on column keylatch.key_events.workspace_id is 'The workspace of the key.';
comment on column keylatch.key_events.number is
  'The place in the chain of the workspace, from 1 on without gaps: the order of the commits.';
comment on column keylatch.key_events.key_id is 'The key.';
comment on column keylatch.key_events.event is
  'first_key, issued, rotated (made as a successor), imported, claimed, changed, suspended, resumed,
superseded (by its successor, with a grace) or revoked.';
comment on column keylatch.key_events.occurred_at is 'When, by the server''s clock.';
comment on column keylatch.key_events.user_id is 'The signed-in user; null when it was none.';
comment on column keylatch.key_events.role is 'The role that the session had taken.';
comment on column keylatch.key_events.login is
  'The role that had logged in: authenticator is PostgREST.';
comment on column keylatch.key_events.address is
  'Where the request came from, as its headers say: what a client wrote there itself is no proof.';
comment on column keylatch.key_events.agent is
  'The User-Agent of the request, or the application_name of a session in SQL.';
comment on column keylatch.key_events.reason is 'Why, of a revocation.';
comment on column keylatch.key_events.changes is
  'Old and new of each public field that changed: {"label": {"old": "a", "new": "b"}}.';
comment on column keylatch.key_events.hash is
  'SHA-256 over the hash before and this event, in hex: keep one elsewhere to anchor the chain.';

revoke all on table keylatch.key_events from public, anon, authenticated, service_role;
grant select on table keylatch.key_events to authenticated, service_role;

create function keylatch.list_events(workspace_id uuid)
returns setof keylatch.key_events
language sql
stable
security invoker
set search_path = ''
as $$
  select e.*
  from keylatch.key_events as e
  where e.workspace_id = list_events.workspace_id
  order by e.number desc;
$$;

comment on function keylatch.list_events(uuid) is
  'What happened to the keys of a workspace, the newest first; nothing if you do not administer it.

For SQL callers. Over REST read the view key_events itself, which filters, orders and pages.';

revoke all on function keylatch.list_events(uuid)
from public, anon, authenticated, service_role;
grant execute on function keylatch.list_events(uuid) to authenticated, service_role;

create type keylatch.event_verification as (
  workspace_id uuid,
  is_intact boolean,
  events bigint,
  head text,
  broken_number bigint,
  problem text
);
comment on type keylatch.event_verification is
  'Whether the events of a workspace are as they were written: how many are, the hash of the last of
them in hex, and of the first broken link its number and what is wrong with it.';

create function keylatch.verify_events(workspace_id uuid)
returns keylatch.event_verification
language plpgsql
-- All of it on one snapshot, so that nobody who commits meanwhile looks like a gap.
stable
security invoker
set search_path = ''
as $$
declare
  v_result keylatch.event_verification;
  v_link keylatch_internal.key_event_links;
  v_event keylatch_internal.key_events;
  v_head keylatch_internal.key_event_heads;
  v_previous pg_catalog.bytea := ''::pg_catalog.bytea;
begin
  v_result.workspace_id := verify_events.workspace_id;
  v_result.events := 0;

  for v_link in
    select l.*
    from keylatch_internal.key_event_links as l
    where l.workspace_id = verify_events.workspace_id
    order by l.number
  loop
    v_result.broken_number := v_result.events + 1;
    select e.* into v_event from keylatch_internal.key_events as e where e.id = v_link.event_id;
    v_result.problem := case
      when v_link.number <> v_result.broken_number then 'The link of this number is missing.'
      when v_event.id is null then 'The event of this link is missing.'
      when v_event.workspace_id <> v_link.workspace_id
        then 'The event of this link is of another workspace.'
      when v_link.hash <> keylatch_internal.event_hash(v_event, v_link.number, v_previous)
        then 'The event, or its link, is not what was written.'
    end;
    exit when v_result.problem is not null;
    v_result.events := v_link.number;
    v_previous := v_link.hash;
  end loop;

  if v_result.problem is null then
    select h.* into v_head
    from keylatch_internal.key_event_heads as h
    where h.workspace_id = verify_events.workspace_id;
    v_result.broken_number := v_result.events + 1;
    v_result.problem := case
      when coalesce(v_head.number, 0) > v_result.events
        then 'Links are missing from this number to the end.'
      when coalesce(v_head.number, 0) < v_result.events or v_head.hash <> v_previous
        then 'The end of the chain is not what was written.'
      when v_result.events = 0 and exists (
        select 1 from keylatch.keys as k where k.workspace_id = verify_events.workspace_id
      )
        then 'The workspace has keys, and no event says how they came about.'
    end;
  end if;

  v_result.is_intact := v_result.problem is null;
  v_result.head := encode(nullif(v_previous, ''), 'hex');
  if v_result.is_intact then
    v_result.broken_number := null;
  end if;
  return v_result;
end;
$$;

comment on function keylatch.verify_events(uuid) is
  'Computes the chain of a workspace''s events again, and names the first broken link if any is.

Who may alter the tables can rewrite a whole chain: keep its head elsewhere, as
sql/ops/anchor_events.sql shows, to see that too. A workspace that you do not administer has no
events here.';

revoke all on function keylatch.verify_events(uuid)
from public, anon, authenticated, service_role;
grant execute on function keylatch.verify_events(uuid) to authenticated, service_role;
