-- Does each key look as its events say?
--
-- Needs: events
--
-- An empty answer is good. Each row is a change that the owner made without the triggers, or a
-- change from before the module "events" was installed. For each field of a key, the last event
-- that names the field must say what the key's row says. Events have only a digest of the metadata.
--
-- The answer says nothing about a field that an erased or archived event may have changed: see
-- sql/ops/erase_person.sql and archive_events.sql. A key that take_back_import.sql deleted has
-- events and no row. On a logical replica, a row can also be a local change that a later change of
-- the publisher replaced. 100,000 keys with 200,000 events take about 15 seconds.
--
-- problem       what is wrong with the key or its events
-- workspace_id  the workspace of the key
-- key_id        the key
with counts as (
  select
    e.checkpoint,
    count(*) as events
  from keylatch_internal.key_events as e
  group by e.checkpoint
),

archived as (
  -- The events up to the last checkpoint whose events were removed may be incomplete.
  select
    max(c.number) as number,
    max(c.sealed_at) as sealed_at
  from keylatch_internal.key_event_checkpoints as c
  left join counts as n on c.number = n.checkpoint
  where c.archived_at is not null and coalesce(n.events, 0) < c.events
),

events as (
  select
    e.*,
    e.event in ('issued', 'rotated', 'imported') as is_first,
    -- A key can be revoked when it is imported: the event "imported" records the revocation.
    e.event = 'revoked' or e.changes ? 'revoked_at' as is_revocation,
    coalesce(e.checkpoint > a.number, true) as is_after_archive
  from keylatch_internal.key_events as e
  cross join archived as a
),

logs as (
  select
    e.key_id,
    min(e.workspace_id::text)::uuid as workspace_id,
    bool_or(e.is_first) as has_first,
    bool_or(e.is_first and e.is_after_archive) as is_whole,
    bool_or(e.is_revocation) as has_revocation,
    bool_or(e.erased is not null and (e.is_revocation or e.is_first)) as is_revocation_erased,
    max(e.occurred_at) filter (where e.erased is not null) as erased_at,
    bool_or(e.is_after_archive) as has_events_after_archive,
    bool_or(
      e.event = 'revoked' and e.reason = 'the import was undone' and e.user_id is null
    ) and not bool_or(e.event in ('issued', 'rotated')) as is_import_undone
  from events as e
  group by e.key_id
),

statements as materialized (
  select
    e.key_id,
    e.occurred_at,
    f.field,
    case f.field
      when 'kind' then k.kind
      when 'environment' then k.environment
      when 'masked_key' then k.masked_key
      when 'rotated_from' then k.rotated_from::text
      when 'label' then k.label
      when 'metadata' then encode(sha256(convert_to(k.metadata::text, 'UTF8')), 'hex')
      when 'allowed_origins' then to_jsonb(k.allowed_origins)::text
      when 'scopes' then to_jsonb(k.scopes)::text
      -- The text of a time as in events, whatever the session's time zone is.
      when 'expires_at' then to_jsonb(k.expires_at at time zone 'UTC') #>> '{}'
      when 'suspended_at' then to_jsonb(k.suspended_at at time zone 'UTC') #>> '{}'
      when 'superseded_at' then to_jsonb(k.superseded_at at time zone 'UTC') #>> '{}'
      when 'revoked_at' then to_jsonb(k.revoked_at at time zone 'UTC') #>> '{}'
      when 'revoked_by' then k.revoked_by::text
      when 'revoke_reason' then k.revoke_reason
    end as in_key,
    case
      when f.field = 'revoked_by' then case when not e.is_first then e.user_id::text end
      when f.field = 'revoke_reason' then e.reason
      when f.field = 'metadata' and not e.changes ? 'metadata' then encode(sha256('{}'), 'hex')
      when f.is_time then replace(e.changes -> f.field ->> 'new', '+00:00', '')
      else e.changes -> f.field ->> 'new'
    end as in_log
  from events as e
  inner join keylatch_internal.keys as k on e.key_id = k.id
  inner join (
    values
    ('kind', false, false),
    ('environment', false, false),
    ('masked_key', false, false),
    ('rotated_from', false, false),
    ('label', false, false),
    ('metadata', false, false),
    ('allowed_origins', false, false),
    ('scopes', false, false),
    ('expires_at', true, false),
    ('suspended_at', true, false),
    ('superseded_at', true, false),
    ('revoked_at', true, true),
    ('revoked_by', false, true),
    ('revoke_reason', false, true)
  ) as f (field, is_time, is_of_revocation) on case
    when f.is_of_revocation then e.is_revocation and k.revoked_at is not null
    -- The first event leaves out the fields that had their default.
    else e.is_first or e.changes ? f.field
  end
  where e.erased is null and e.is_after_archive
),

matched as materialized (
  select
    s.*,
    case
      when coalesce(s.in_log = s.in_key, num_nulls(s.in_log, s.in_key) = 2) then true
      -- Events have a text as keylatch_internal.clean_word prepares it. The query repeats the
      -- expressions, because the owner could replace the function.
      when s.field in ('label', 'revoke_reason') then coalesce(
        s.in_log = left(
          regexp_replace(
            regexp_replace(s.in_key, e'[\\x01-\\x1f\\x7f-\\x9f]', ' ', 'g'),
            '([a-z][a-z0-9]{1,11}_(?:(?:pk|sk)_(?:live|test)|st)_)[1-9A-HJ-NP-Za-km-z]+',
            e'\\1...', 'g'
          ),
          500
        ),
        false
      )
      else false
    end as is_equal
  from statements as s
),

fields as (
  select
    m.key_id,
    m.field,
    min(m.in_key) as in_key,
    max(m.occurred_at) as said_at,
    max(m.occurred_at) filter (where m.is_equal) as equal_at,
    (array_agg(m.in_log order by m.occurred_at desc) filter (where not m.is_equal))[1] as in_log
  from matched as m
  where (m.key_id, m.field) in (
    select
      d.key_id,
      d.field
    from matched as d
    where not d.is_equal
  )
  group by m.key_id, m.field
),

problems as (
  select
    case
      when f.field = 'metadata' then 'metadata is not what the last event says'
      else format(
        '%s is %s, but the last event says %s',
        f.field,
        coalesce('"' || f.in_key || '"', 'null'),
        coalesce('"' || f.in_log || '"', 'null')
      )
    end as problem,
    k.workspace_id,
    k.id as key_id
  from fields as f
  inner join keylatch_internal.keys as k on f.key_id = k.id
  inner join logs as l on f.key_id = l.key_id
  where f.equal_at is distinct from f.said_at and case
    when f.field like 'revoke%' then f.equal_at is null and not l.is_revocation_erased
    -- A replica keeps what it revoked or superseded itself, and the publisher's events go on: such
    -- a key may also have an earlier value, but never a later expiry.
    when k.revoked_at is not null
      and f.field in ('expires_at', 'suspended_at', 'superseded_at', 'scopes')
      then f.equal_at is null and l.erased_at is null
    when k.superseded_at is not null and f.field = 'superseded_at'
      then f.equal_at is null and l.erased_at is null
    when k.superseded_at is not null and f.field = 'expires_at'
      and convert_to(f.in_key, 'UTF8') < convert_to(f.in_log, 'UTF8')
      then f.equal_at is null and l.erased_at is null
    else coalesce(f.said_at > l.erased_at, true)
  end
  union all
  select
    case
      when k.revoked_at is null then 'the key was revoked, but is not revoked any more'
      else 'the key is revoked, but no event says so'
    end as problem,
    k.workspace_id,
    k.id as key_id
  from keylatch_internal.keys as k
  cross join archived as a
  left join logs as l on k.id = l.key_id
  where case
    when k.revoked_at is null then l.has_revocation
    when coalesce(l.has_revocation or l.is_revocation_erased, false) then false
    -- A removed event was sealed, and therefore is older than its checkpoint.
    else a.number is null or l.is_whole or k.revoked_at > a.sealed_at
  end
  union all
  select
    'no event says how the key was made' as problem,
    k.workspace_id,
    k.id as key_id
  from keylatch_internal.keys as k
  cross join archived as a
  left join logs as l on k.id = l.key_id
  where coalesce(not l.has_first, true)
    and (a.number is null or coalesce(k.imported_at, k.created_at) > a.sealed_at)
  union all
  select
    'the key is in another workspace than its events' as problem,
    k.workspace_id,
    k.id as key_id
  from keylatch_internal.keys as k
  inner join events as e on k.id = e.key_id and k.workspace_id <> e.workspace_id
  group by k.id
  union all
  select
    'the log has events of a key that is not in the table' as problem,
    l.workspace_id,
    l.key_id
  from logs as l
  left join keylatch_internal.keys as k on l.key_id = k.id
  where k.id is null and l.has_events_after_archive and not l.is_import_undone
)

select
  p.problem,
  p.workspace_id,
  p.key_id
from problems as p
order by p.problem, p.workspace_id, p.key_id;
