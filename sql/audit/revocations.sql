-- Who revoked which keys in the last 90 days, and why?
--
-- revoked_at    when the key was revoked
-- workspace_id  the workspace of the key
-- key_id        the key
-- masked_key, label   how people recognise the key
-- revoked_by    the signed-in user who revoked the key; null if no user was signed in
-- reason        why; "rotated" after a rotation, "workspace deleted" after a deletion
select
  k.revoked_at,
  k.workspace_id,
  k.id as key_id,
  k.masked_key,
  k.label,
  k.revoked_by,
  k.revoke_reason as reason
from keylatch.keys as k
where k.revoked_at > pg_catalog.now() - interval '90 days'
order by k.revoked_at desc;
