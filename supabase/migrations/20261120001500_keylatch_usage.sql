-- When a key was last used and how often, approximately, without a write per read: services count
-- for themselves and report sums now and then.

create table keylatch_internal.key_usage (
  key_id uuid not null,
  workspace_id uuid not null,
  last_used_at timestamptz not null,
  uses bigint not null,

  constraint key_usage_pkey primary key (key_id),
  constraint key_usage_uses_check check (uses >= 0)
) with (fillfactor = 50);

comment on table keylatch_internal.key_usage is
  'One row a key that was used. No foreign key: its check would lock the row of the key. Half of
each page stays free, so that an update touches no index.';
comment on column keylatch_internal.key_usage.key_id is 'The key.';
comment on column keylatch_internal.key_usage.workspace_id is 'Its workspace, for the row policy.';
comment on column keylatch_internal.key_usage.last_used_at is 'The last use that was reported.';
comment on column keylatch_internal.key_usage.uses is 'How many were reported in all.';

create table keylatch_internal.key_usage_days (
  key_id uuid not null,
  used_on date not null,
  workspace_id uuid not null,
  uses bigint not null,

  constraint key_usage_days_pkey primary key (key_id, used_on),
  constraint key_usage_days_uses_check check (uses >= 0)
) with (fillfactor = 50);

comment on table keylatch_internal.key_usage_days is 'How often a key was used on a day, UTC.';
comment on column keylatch_internal.key_usage_days.key_id is 'The key.';
comment on column keylatch_internal.key_usage_days.used_on is
  'The day, UTC, of the last of the uses that were reported together.';
comment on column keylatch_internal.key_usage_days.workspace_id is
  'Its workspace, for the row policy.';
comment on column keylatch_internal.key_usage_days.uses is 'How many were reported of that day.';

revoke all on table keylatch_internal.key_usage from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_usage to authenticated, service_role;
revoke all on table keylatch_internal.key_usage_days from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_usage_days to authenticated, service_role;

alter table keylatch_internal.key_usage enable row level security;
alter table keylatch_internal.key_usage_days enable row level security;

create policy key_usage_select_admin on keylatch_internal.key_usage
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_usage_select_admin on keylatch_internal.key_usage is
  'A signed-in user sees the use of the keys of the workspaces that they administer.';

create policy key_usage_days_select_admin on keylatch_internal.key_usage_days
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_usage_days_select_admin on keylatch_internal.key_usage_days is
  'A signed-in user sees the use of the keys of the workspaces that they administer.';

create view keylatch.key_usage with (security_invoker = true) as
select
  u.key_id,
  u.workspace_id,
  u.last_used_at,
  u.uses
from keylatch_internal.key_usage as u;

comment on view keylatch.key_usage is
  'When the keys that you administer were last used, and how often: approximately.

A key without a row was not used since somebody reports. Services report now and then, so a row is
behind by what they have not reported yet, and what a service that crashed had counted is missing.';
comment on column keylatch.key_usage.key_id is 'The key.';
comment on column keylatch.key_usage.workspace_id is 'Its workspace.';
comment on column keylatch.key_usage.last_used_at is 'The last use that was reported.';
comment on column keylatch.key_usage.uses is 'How many were reported in all.';

create view keylatch.key_usage_days with (security_invoker = true) as
select
  d.key_id,
  d.used_on,
  d.workspace_id,
  d.uses
from keylatch_internal.key_usage_days as d;

comment on view keylatch.key_usage_days is
  'How often the keys that you administer were used on a day, UTC: approximately, as key_usage.';
comment on column keylatch.key_usage_days.key_id is 'The key.';
comment on column keylatch.key_usage_days.used_on is 'The day, UTC.';
comment on column keylatch.key_usage_days.workspace_id is 'Its workspace.';
comment on column keylatch.key_usage_days.uses is 'How many were reported of that day.';

revoke all on table keylatch.key_usage from public, anon, authenticated, service_role;
grant select on table keylatch.key_usage to authenticated, service_role;
revoke all on table keylatch.key_usage_days from public, anon, authenticated, service_role;
grant select on table keylatch.key_usage_days to authenticated, service_role;

create function keylatch_internal.add_usage(
  p_key_ids uuid[], p_uses bigint[], p_last_used_at timestamptz[]
)
returns uuid[]
language plpgsql
volatile
-- definer because: who may resolve keys may count their use, and write nothing else.
security definer
set search_path = ''
as $$
declare
  v_mine pg_catalog.uuid[];
begin
  -- In one order, so that two reports that make the same rows take turns and do not meet head on.
  insert into keylatch_internal.key_usage as u (key_id, workspace_id, last_used_at, uses)
  select k.id, k.workspace_id, '-infinity'::pg_catalog.timestamptz, 0
  from unnest(p_key_ids) as g (key_id)
  inner join keylatch_internal.keys as k on g.key_id = k.id
  -- Asked first, since "on conflict" alone would wait for whoever is updating the row.
  where not exists (select 1 from keylatch_internal.key_usage as u where u.key_id = k.id)
  order by k.id
  on conflict (key_id) do nothing;

  -- A row that another report is writing is left to the next time: nobody waits to count.
  v_mine := array(
    select u.key_id
    from keylatch_internal.key_usage as u
    where u.key_id = any (p_key_ids)
    for update skip locked
  );

  update keylatch_internal.key_usage as u
  set
    last_used_at = greatest(u.last_used_at, r.last_used_at),
    uses = u.uses + r.uses
  from unnest(p_key_ids, p_uses, p_last_used_at) as r (key_id, uses, last_used_at)
  where u.key_id = r.key_id and u.key_id = any (v_mine);

  insert into keylatch_internal.key_usage_days as d (key_id, used_on, workspace_id, uses)
  select
    r.key_id, (r.last_used_at at time zone 'UTC')::pg_catalog.date, u.workspace_id, r.uses
  from unnest(p_key_ids, p_uses, p_last_used_at) as r (key_id, uses, last_used_at)
  inner join keylatch_internal.key_usage as u on r.key_id = u.key_id
  where r.key_id = any (v_mine)
  on conflict (key_id, used_on) do update set uses = d.uses + excluded.uses;

  return array(
    select g.key_id
    from unnest(p_key_ids) as g (key_id)
    inner join keylatch_internal.keys as k on g.key_id = k.id
    where g.key_id <> all (v_mine)
  );
end;
$$;

comment on function keylatch_internal.add_usage(uuid[], bigint[], timestamptz[]) is
  'Adds these uses, each key once; gives the keys that another report is counting at the moment.';

revoke all on function keylatch_internal.add_usage(uuid[], bigint[], timestamptz[])
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.add_usage(uuid[], bigint[], timestamptz[])
to service_role, keylatch_resolver;

create type keylatch.usage_report as (
  again uuid[]
);
comment on type keylatch.usage_report is
  'What came of a report of uses: the keys that have to be reported again.';

create function keylatch.record_usage(batch jsonb)
returns keylatch.usage_report
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_key_ids pg_catalog.uuid[];
  v_uses bigint[];
  v_times pg_catalog.timestamptz[];
begin
  if jsonb_typeof(record_usage.batch) is distinct from 'object' then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'batch must be an object with an entry for each key.',
      hint = 'For example {"<key id>": {"uses": 3, "last_used_at": "2026-01-31T09:30:00Z"}}.';
  end if;

  begin
    select
      array_agg(b.key_id::pg_catalog.uuid),
      array_agg((b.used ->> 'uses')::bigint),
      array_agg((b.used ->> 'last_used_at')::pg_catalog.timestamptz)
    into v_key_ids, v_uses, v_times
    from jsonb_each(record_usage.batch) as b (key_id, used);
  exception
    when data_exception then v_uses := '{0}'::bigint[];
  end;
  if record_usage.batch = '{}' then
    return row('{}'::pg_catalog.uuid[])::keylatch.usage_report;
  elsif cardinality(v_key_ids) > 10000 or exists (
    select 1
    from unnest(v_key_ids, v_uses, v_times) as r (key_id, uses, last_used_at)
    where r.key_id is null or r.uses is null or r.uses not between 1 and 1000000000
      or r.last_used_at is null or not isfinite(r.last_used_at)
      or r.last_used_at < clock_timestamp() - interval '30 days'
  )
  then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'batch must have up to 10000 entries by the UUID of a key, each with uses, a number '
        || 'from 1 to 1000000000, and last_used_at, a time of the last 30 days.',
      hint = 'For example {"<key id>": {"uses": 3, "last_used_at": "2026-01-31T09:30:00Z"}}.';
  end if;
  -- Nobody has used a key tomorrow.
  v_times := array(
    select least(t.used_at, clock_timestamp())
    from unnest(v_times) with ordinality as t (used_at, place)
    order by t.place
  );
  return row(
    keylatch_internal.add_usage(v_key_ids, v_uses, v_times)
  )::keylatch.usage_report;
end;
$$;

comment on function keylatch.record_usage(jsonb) is
  'Adds up how often keys were used and when last, as a service has counted it.

batch: {"<key id>": {"uses", "last_used_at"}, …}, up to 10000 entries. A key that another report is counting in
this moment is left out and named in again: nobody waits to count. A time never moves back; ids that name no key
are left out. It takes no lock on a key. Errors: invalid_argument (400).';

revoke all on function keylatch.record_usage(jsonb)
from public, anon, authenticated, service_role;
grant execute on function keylatch.record_usage(jsonb) to service_role, keylatch_resolver;
