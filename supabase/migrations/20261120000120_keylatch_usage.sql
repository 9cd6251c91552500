-- Module usage: when a key was last used, how often, and why it was refused. The numbers are
-- approximate, so that a read needs no write: services count and report sums now and then.

create table keylatch_internal.key_usage (
  key_id uuid not null,
  workspace_id uuid not null,
  last_used_at timestamptz,
  uses bigint not null default 0,

  constraint key_usage_pkey primary key (key_id)
-- Half of each page stays free, so that an update touches no index.
) with (fillfactor = 50);
comment on table keylatch_internal.key_usage is
  'One row for each key that was reported. A report locks the row while it counts. No foreign key:
its check would lock the key.';
comment on column keylatch_internal.key_usage.key_id is 'The key.';
comment on column keylatch_internal.key_usage.workspace_id is 'Its workspace.';
comment on column keylatch_internal.key_usage.last_used_at is 'The last use that was reported.';
comment on column keylatch_internal.key_usage.uses is 'How many uses were reported in all.';

create table keylatch_internal.key_days (
  key_id uuid not null,
  day date not null,
  verdict text not null,
  workspace_id uuid not null,
  number bigint not null,

  constraint key_days_pkey primary key (key_id, day, verdict)
) with (fillfactor = 50);
comment on table keylatch_internal.key_days is
  'How often a key was used or refused on a day. Written under a lock on the row of key_usage.';
comment on column keylatch_internal.key_days.key_id is 'The key.';
comment on column keylatch_internal.key_days.day is 'The day, UTC.';
comment on column keylatch_internal.key_days.verdict is 'The verdict of explain_key.';
comment on column keylatch_internal.key_days.workspace_id is 'Its workspace.';
comment on column keylatch_internal.key_days.number is 'How many were reported.';

alter table keylatch_internal.key_usage enable row level security;
alter table keylatch_internal.key_days enable row level security;

create policy key_usage_select_admin on keylatch_internal.key_usage
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_usage_select_admin on keylatch_internal.key_usage is
  'A signed-in user sees the use of the keys of the workspaces that they administer.';

create policy key_days_select_admin on keylatch_internal.key_days
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_days_select_admin on keylatch_internal.key_days is
  'A signed-in user sees the use of the keys of the workspaces that they administer.';

create view keylatch.key_usage with (security_invoker = true) as
select u.key_id, u.workspace_id, u.last_used_at, u.uses
from keylatch_internal.key_usage as u
where u.uses > 0;
comment on view keylatch.key_usage is
  'When the keys that you administer were last used, and how often: approximately.

Services report now and then. A row does not contain uses that are not reported yet, or that a
service had counted when it crashed.';
comment on column keylatch.key_usage.key_id is 'The key.';
comment on column keylatch.key_usage.workspace_id is 'Its workspace.';
comment on column keylatch.key_usage.last_used_at is 'The last use that was reported.';
comment on column keylatch.key_usage.uses is 'How many uses were reported in all.';

create view keylatch.key_usage_days with (security_invoker = true) as
select d.key_id, d.day as used_on, d.workspace_id, d.number as uses
from keylatch_internal.key_days as d
where d.verdict = 'valid';
comment on view keylatch.key_usage_days is
  'How often the keys that you administer were used on a day, UTC: approximately, as key_usage.';
comment on column keylatch.key_usage_days.key_id is 'The key.';
comment on column keylatch.key_usage_days.used_on is 'The day, UTC.';
comment on column keylatch.key_usage_days.workspace_id is 'Its workspace.';
comment on column keylatch.key_usage_days.uses is 'How many uses of the day were reported.';

create view keylatch.key_refusals with (security_invoker = true) as
select d.key_id, d.day as refused_on, d.verdict, d.workspace_id, d.number as refusals
from keylatch_internal.key_days as d
where d.verdict <> 'valid';
comment on view keylatch.key_refusals is
  'How often the keys that you administer were refused on a day, UTC, and why: approximately.

A text that is not one of your keys (unknown, malformed) is not counted.';
comment on column keylatch.key_refusals.key_id is 'The key.';
comment on column keylatch.key_refusals.refused_on is 'The day, UTC.';
comment on column keylatch.key_refusals.verdict is 'The verdict of explain_key.';
comment on column keylatch.key_refusals.workspace_id is 'Its workspace.';
comment on column keylatch.key_refusals.refusals is 'How many refusals of the day were reported.';

create type keylatch_internal.usage_count as (
  key_id uuid, verdict text, number numeric, counted_at timestamptz
);
comment on type keylatch_internal.usage_count is
  'Uses of a key (verdict valid) or its refusals for one reason, and when the last one was.';

create function keylatch_internal.read_usage(p_batch jsonb)
returns keylatch_internal.usage_count[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_counts keylatch_internal.usage_count[];
begin
  v_counts := array(
    select row(e.key_id::uuid, c.verdict, c.number, case
      when e.entry ->> 'last_used_at' is null then v_now
      -- A zone is required. Words like "tomorrow" have no zone.
      when e.entry ->> 'last_used_at' ~
        '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}[0-9:.]*([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$'
        then least((e.entry ->> 'last_used_at')::timestamptz, v_now)
    end)::keylatch_internal.usage_count
    from jsonb_each(p_batch) as e (key_id, entry)
    left join lateral (
      select 'valid', (e.entry -> 'uses')::numeric where e.entry ? 'uses'
      union all
      select nullif(r.key, 'valid'), r.value::numeric from jsonb_each(e.entry -> 'refusals') as r
    ) as c (verdict, number) on true
  );
  if jsonb_typeof(p_batch) is distinct from 'object'
    or (select count(*) > 10000 from jsonb_object_keys(p_batch))
    or exists (
      select from unnest(v_counts) as c
      where c.number is null or c.number not between 1 and 1000000000 or c.number <> trunc(c.number)
        or c.counted_at is null or c.counted_at < v_now - interval '30 days'
        or c.verdict is null or c.verdict not in (
          'valid', 'revoked', 'expired', 'suspended', 'secret_in_browser', 'origin_required',
          'origin_denied'
        )
    )
  then
    raise data_exception;
  end if;
  -- One id may be spelled in capitals and in small letters.
  return array(
    select row(c.key_id, c.verdict, least(sum(c.number), 1000000000), max(c.counted_at))
      ::keylatch_internal.usage_count
    from unnest(v_counts) as c
    group by c.key_id, c.verdict
  );
exception
  -- Also the errors of casts and of jsonb_each.
  when data_exception then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'batch must map up to 10000 key ids to objects with uses or refusals, whole numbers from 1 '
      'to 1000000000. last_used_at must be a time with a zone, in the last 30 days.',
      'For example {"<key id>": {"uses": 3, "last_used_at": "2026-01-31T09:30:00Z", "refusals": '
      '{"origin_denied": 2}}}.'
    );
    return null;
end $$;
comment on function keylatch_internal.read_usage is
  'The sums of a report, one for each key and verdict. Refuses an invalid report.';

create function keylatch_internal.add_usage(p_batch jsonb)
returns uuid[] language plpgsql volatile security definer
-- definer because: a role that may resolve keys may count their use, and write nothing else.
-- Reports never wait: keys that another report has locked are left to the next report.
set search_path = pg_catalog, pg_temp set lock_timeout = '10ms' as $$
declare
  v_counts constant keylatch_internal.usage_count[] := keylatch_internal.read_usage(p_batch);
  v_key_ids constant uuid[] := array(select distinct c.key_id from unnest(v_counts) as c);
  v_locked uuid[];
begin
  perform keylatch_internal.require_grants('keylatch_internal.add_usage');
  begin
    insert into keylatch_internal.key_usage (key_id, workspace_id)
    select k.id, k.workspace_id from keylatch_internal.keys as k
    where k.id = any (v_key_ids)
      and not exists (select from keylatch_internal.key_usage as u where u.key_id = k.id)
    order by k.id
    on conflict (key_id) do nothing;
  exception
    when lock_not_available then null;
  end;
  v_locked := array(
    select u.key_id from keylatch_internal.key_usage as u
    where u.key_id = any (v_key_ids)
    order by u.key_id
    for update skip locked
  );
  update keylatch_internal.key_usage as u
  set last_used_at = greatest(u.last_used_at, c.counted_at), uses = u.uses + c.number
  from unnest(v_counts) as c
  where u.key_id = c.key_id and u.key_id = any (v_locked) and c.verdict = 'valid';
  insert into keylatch_internal.key_days as d (key_id, day, verdict, workspace_id, number)
  select c.key_id, (c.counted_at at time zone 'UTC')::date, c.verdict, u.workspace_id, c.number
  from unnest(v_counts) as c
  inner join keylatch_internal.key_usage as u on c.key_id = u.key_id
  where c.key_id = any (v_locked)
  on conflict (key_id, day, verdict) do update set number = d.number + excluded.number;
  return array(
    select k.id from keylatch_internal.keys as k
    where k.id = any (v_key_ids) and k.id <> all (v_locked)
  );
end $$;
comment on function keylatch_internal.add_usage is
  'Adds up a report; returns the keys that another report has locked.';

create type keylatch.usage_report as (
  again uuid[]
);
comment on type keylatch.usage_report is
  'The result of a report: the keys that must be reported again.';

create function keylatch.record_usage(batch jsonb)
returns keylatch.usage_report language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return row(keylatch_internal.add_usage(record_usage.batch))::keylatch.usage_report;
end $$;
comment on function keylatch.record_usage is
  'Adds up how often keys were used and refused, as a service has counted it.

batch: {"<key id>": {"uses": number, "refusals": {"<verdict>": number}, "last_used_at": time}, …},
up to 10000 entries, each with uses, refusals or both. last_used_at: ISO 8601 with a zone, now if left
out; its day is also the day of the refusals. verdict: what explain_key says of a known key.
again: the keys that another report has locked; report them again. A report never waits and locks
no key. last_used_at never moves back. Ids of unknown keys are ignored.
Errors: invalid_argument (400).';

update keylatch_internal.installation set modules = array_append(modules, 'usage');

-- Who may do what: services report, admins read.
revoke all on table
keylatch_internal.key_usage, keylatch_internal.key_days, keylatch.key_usage,
keylatch.key_usage_days, keylatch.key_refusals
from public, anon, authenticated, service_role;
revoke all on function
keylatch_internal.read_usage, keylatch_internal.add_usage, keylatch.record_usage
from public, anon, authenticated, service_role;
grant select on table
keylatch_internal.key_usage, keylatch_internal.key_days, keylatch.key_usage,
keylatch.key_usage_days, keylatch.key_refusals
to authenticated, service_role;
grant execute on function keylatch_internal.add_usage, keylatch.record_usage
to service_role, keylatch_resolver;
