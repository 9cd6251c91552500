-- Does the log of events show how each key was made, and each revocation?
--
-- Needs: events
--
-- An empty answer is good. Each row is a change that the owner made without the triggers, or a
-- change from before the module "events" was installed.
--
-- problem       what is wrong with the key or its events
-- workspace_id  the workspace of the key
-- key_id        the key
select
  'no event says how the key was made' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
where not exists (
  select 1
  from keylatch_internal.key_events as e
  where e.key_id = k.id and e.event in ('issued', 'rotated', 'imported')
)
union all
select
  case
    when k.revoked_at is null then 'the key was revoked, but is not revoked any more'
    else 'the key is revoked, but no event says so'
  end as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
left join keylatch_internal.key_events as e on k.id = e.key_id and e.event = 'revoked'
where (k.revoked_at is null) <> (e.id is null)
  -- For a key that was revoked when imported, the event "imported" records the revocation.
  and not exists (
    select 1
    from keylatch_internal.key_events as i
    where i.key_id = k.id and i.event = 'imported' and i.changes ? 'revoked_at'
  )
order by problem, workspace_id, key_id;
