-- Does the log of events tell of each key how it came about and that it was revoked?
--
-- Needs: events
--
-- No row is the good answer. Each row is a change that was made with the owner's rights, past the
-- triggers, or before the module "events" was installed.
--
-- problem       what is wrong
-- workspace_id  the workspace of the key
-- key_id        the key
select
  'no event says how the key came about' as problem,
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
    when k.revoked_at is null then 'the key was revoked, and is not any longer'
    else 'the key is revoked, and no event says so'
  end as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
left join keylatch_internal.key_events as e on k.id = e.key_id and e.event = 'revoked'
where (k.revoked_at is null) <> (e.id is null)
  -- A key that was imported as revoked has its revocation in that event.
  and not exists (
    select 1
    from keylatch_internal.key_events as i
    where i.key_id = k.id and i.event = 'imported' and i.changes ? 'revoked_at'
  )
order by problem, workspace_id, key_id;
