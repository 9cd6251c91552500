-- Which rotations are overdue: secrets older than a year, or still used although superseded?
--
-- Needs: usage
--
-- workspace_id  the workspace of the key
-- key_id        the key
-- masked_key, label   how people recognise the key
-- created_at    when the key was made
-- expires_at    when the key expires; null if the key never expires
-- last_used_at  when a service last reported a use of the key
-- why           why the rotation is overdue
select
  k.workspace_id,
  k.id as key_id,
  k.masked_key,
  k.label,
  k.created_at,
  k.expires_at,
  u.last_used_at,
  case k.status
    when 'superseded' then 'a caller still uses the key, which expires: give it the successor'
    else 'older than a year: rotate the key with a grace period'
  end as why
from keylatch.keys as k
left join keylatch.key_usage as u on k.id = u.key_id
where k.kind = 'secret'
  and (
    (k.status in ('active', 'suspended') and k.created_at < pg_catalog.now() - interval '1 year')
    or (k.status = 'superseded' and u.last_used_at > k.superseded_at + interval '1 hour')
  )
order by k.expires_at, k.created_at;
