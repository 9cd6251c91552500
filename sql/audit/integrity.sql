-- Do the keys keep the rules that nobody should be able to break?
--
-- No row is the good answer. Every row is a key, or an event, that no call of keylatch can make:
-- who made it had the owner's rights. Run it as the owner, who alone may read hashes.
--
-- problem       what is wrong
-- workspace_id  whose it is
-- key_id        the key
select
  'the hash is not that of the publishable key' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
where k.kind = 'publishable' and k.key_hash is distinct from keylatch.hash_key(k.public_key)
union all
select
  'a secret key is kept in clear' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
where k.kind = 'secret' and k.public_key is not null
union all
select
  'the key has two successors' as problem,
  k.workspace_id,
  k.rotated_from as key_id
from keylatch_internal.keys as k
where k.rotated_from is not null
group by k.workspace_id, k.rotated_from
having count(*) > 1
union all
select
  'the key succeeds one of another workspace, kind or environment' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
inner join keylatch_internal.keys as o on k.rotated_from = o.id
where (k.workspace_id, k.kind, k.environment) is distinct from (
  o.workspace_id, o.kind, o.environment
)
union all
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
  -- One that was imported dead has its death in that event.
  and not exists (
    select 1
    from keylatch_internal.key_events as i
    where i.key_id = k.id and i.event = 'imported' and i.changes ? 'revoked_at'
  )
union all
select
  'an event has no place in the chain' as problem,
  e.workspace_id,
  e.key_id
from keylatch_internal.key_events as e
left join keylatch_internal.key_event_links as l on e.id = l.event_id
where l.event_id is null
order by problem, workspace_id, key_id;
