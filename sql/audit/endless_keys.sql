-- Which active secrets never expire?
--
-- workspace_id  the workspace of the key
-- key_id        the key
-- masked_key, label   how people recognise the key
-- scopes        what the key may do
-- created_at    when the key was made
-- age_days      how old the key is, in days
select
  k.workspace_id,
  k.id as key_id,
  k.masked_key,
  k.label,
  k.scopes,
  k.created_at,
  floor(extract(epoch from pg_catalog.now() - k.created_at) / 86400) as age_days
from keylatch.keys as k
where k.kind = 'secret' and k.status in ('active', 'suspended') and k.expires_at is null
order by k.created_at;
