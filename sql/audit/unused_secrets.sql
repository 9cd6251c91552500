-- Which active secrets has nobody used for 90 days?
--
-- Needs: usage
--
-- keylatch knows only the use that services report (record_usage, keylatch.usage in Python). If no
-- service has ever reported use to this database, the answer has no row.
--
-- workspace_id  the workspace of the key
-- key_id        the key
-- masked_key, label   how people recognise the key
-- created_at    when the key was made
-- last_used_at  when a service last reported a use of the key; null if no service reported a use
select
  k.workspace_id,
  k.id as key_id,
  k.masked_key,
  k.label,
  k.created_at,
  u.last_used_at
from keylatch.keys as k
left join keylatch.key_usage as u on k.id = u.key_id
where k.kind = 'secret'
  and k.status in ('active', 'superseded')
  and k.created_at < pg_catalog.now() - interval '90 days'
  and coalesce(u.last_used_at < pg_catalog.now() - interval '90 days', true)
  and exists (select 1 from keylatch.key_usage)
order by u.last_used_at nulls first, k.created_at;
