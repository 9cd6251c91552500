-- Module usage: when a key was last used, how often, and why it was refused. Services count uses
-- in memory and report sums from time to time, so the numbers are approximate.

create table keylatch_internal.key_usage (
  key_id uuid not null,
  workspace_id uuid not null,
  last_used_at timestamptz,
  uses bigint not null default 0,

  constraint key_usage_pkey primary key (key_id)
-- fillfactor 50 leaves space in each page, so that an update changes no index (HOT update).
) with (fillfactor = 50);
comment on table keylatch_internal.key_usage is
  'One row of usage totals for each key. record_usage locks this row. A foreign key would lock the
row of the key, so this table has no foreign key.';
comment on column keylatch_internal.key_usage.key_id is 'The id of the key.';
comment on column keylatch_internal.key_usage.workspace_id is 'The workspace of the key.';
comment on column keylatch_internal.key_usage.last_used_at is 'The time of the last reported use.';
comment on column keylatch_internal.key_usage.uses is 'The total number of reported uses.';

create table keylatch_internal.key_days (
  key_id uuid not null,
  day date not null,
  verdict text not null,
  workspace_id uuid not null,
  number bigint not null,

  constraint key_days_pkey primary key (key_id, day, verdict)
) with (fillfactor = 50);
comment on table keylatch_internal.key_days is
  'How often a key was used or refused on a day. record_usage locks the row in key_usage first.';
comment on column keylatch_internal.key_days.key_id is 'The id of the key.';
comment on column keylatch_internal.key_days.day is 'The day in UTC.';
comment on column keylatch_internal.key_days.verdict is
  'For uses, the word valid. For refusals, the verdict of explain_key: why the key was refused.';
comment on column keylatch_internal.key_days.workspace_id is 'The workspace of the key.';
comment on column keylatch_internal.key_days.number is
  'How many uses or refusals of that day were reported.';

alter table keylatch_internal.key_usage enable row level security;
alter table keylatch_internal.key_days enable row level security;

create policy key_usage_select_admin on keylatch_internal.key_usage
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_usage_select_admin on keylatch_internal.key_usage is
  'A signed-in user may read the key usage of the workspaces that the user administers.';

create policy key_days_select_admin on keylatch_internal.key_days
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_days_select_admin on keylatch_internal.key_days is
  'A signed-in user may read the key usage of the workspaces that the user administers.';

create view keylatch.key_usage with (security_invoker = true) as
select u.key_id, u.workspace_id, u.last_used_at, u.uses
from keylatch_internal.key_usage as u
where u.uses > 0;
comment on view keylatch.key_usage is
  'The approximate number of uses, and the last use, of each key that you administer.

Services report uses from time to time. Uses that are not reported yet are missing. If a service
crashes, the uses that it had not reported are lost.';

create view keylatch.key_usage_days with (security_invoker = true) as
select d.key_id, d.day as used_on, d.workspace_id, d.number as uses
from keylatch_internal.key_days as d
where d.verdict = 'valid';
comment on view keylatch.key_usage_days is
  'The approximate number of uses on each day (UTC) of each key that you administer.';
comment on column keylatch.key_usage_days.used_on is 'The day in UTC.';
comment on column keylatch.key_usage_days.uses is 'How many uses of the day were reported.';

create view keylatch.key_refusals with (security_invoker = true) as
select d.key_id, d.day as refused_on, d.verdict, d.workspace_id, d.number as refusals
from keylatch_internal.key_days as d
where d.verdict <> 'valid';
comment on view keylatch.key_refusals is
  'The approximate number of refusals, by day (UTC) and reason, of each key that you administer.

Refusals of unknown and malformed keys are not counted.';
comment on column keylatch.key_refusals.refused_on is 'The day in UTC.';
comment on column keylatch.key_refusals.verdict is 'Why the key was refused: see explain_key.';
comment on column keylatch.key_refusals.refusals is 'How many refusals of the day were reported.';
select keylatch_internal.expose_table('keylatch_internal.key_usage', 'keylatch.key_usage');
select keylatch_internal.expose_table(
  'keylatch_internal.key_days', 'keylatch.key_usage_days', 'keylatch.key_refusals'
);

create type keylatch_internal.usage_count as (
  key_id uuid, verdict text, number numeric, counted_at timestamptz
);
comment on type keylatch_internal.usage_count is
  'The number of uses (verdict valid) or refusals of a key for one verdict, and the last time.';

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
      -- Require a time zone. This rule also refuses words such as "tomorrow".
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
    ) then
    raise data_exception;
  end if;
  -- The batch may contain the same id in upper case and in lower case.
  return array(
    select row(c.key_id, c.verdict, least(sum(c.number), 1000000000), max(c.counted_at))
      ::keylatch_internal.usage_count
    from unnest(v_counts) as c
    group by c.key_id, c.verdict
  );
exception
  -- This handler also catches the errors of casts and of jsonb_each.
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
  'Adds up the numbers of a usage report by key and verdict. Refuses an invalid report.';

create function keylatch_internal.add_usage(p_batch jsonb)
returns uuid[] language plpgsql volatile security definer
-- definer because: the roles that may call record_usage may not write tables.
-- A report never waits: the function returns the keys that another report has locked.
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
  'Adds a usage report to the totals. Returns the keys that another report has locked.';

create type keylatch.usage_report as (again uuid[]);
comment on type keylatch.usage_report is
  'The result of record_usage: the keys whose numbers the caller must report again.';

create function keylatch.record_usage(batch jsonb)
returns keylatch.usage_report language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return row(keylatch_internal.add_usage(record_usage.batch))::keylatch.usage_report;
end $$;
comment on function keylatch.record_usage is
  'Adds the uses and refusals that a service counted to the totals of the keys.

batch: {"<key id>": {"uses": number, "refusals": {"<verdict>": number}, "last_used_at": time}, …},
up to 10000 entries, each with uses, refusals or both. last_used_at: ISO 8601 with a time zone; by
default now. The refusals are counted on the day of last_used_at. verdict: as from explain_key.
Returns again: the keys to report again, because another report had locked them. The call never
waits and locks no key. The stored last_used_at never decreases. Ids of unknown keys are ignored.
Errors: invalid_argument (400).';

update keylatch_internal.installation set modules = array_append(modules, 'usage');

-- The grants of this file: services may report usage, and admins may read usage.
revoke all on table keylatch_internal.key_usage, keylatch_internal.key_days, keylatch.key_usage,
keylatch.key_usage_days, keylatch.key_refusals from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.read_usage, keylatch_internal.add_usage,
keylatch.record_usage from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_usage, keylatch_internal.key_days, keylatch.key_usage,
keylatch.key_usage_days, keylatch.key_refusals to authenticated, service_role;
grant execute on function keylatch_internal.add_usage, keylatch.record_usage
to service_role, keylatch_resolver;
