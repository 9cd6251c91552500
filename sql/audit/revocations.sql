-- Who revoked which keys in the last 90 days, and why?
--
-- occurred_at   when
-- workspace_id  whose key it was
-- key_id        the key
-- hint, label   what people tell it by
-- user_id       the signed-in user; null when it was none
-- address       where the request came from, as it says itself
-- reason        why; rotated: by its rotation. workspace deleted: with its workspace
-- acted_as      the role that was taken, and the login where it is another
select
  e.occurred_at,
  e.workspace_id,
  e.key_id,
  k.hint,
  k.label,
  e.user_id,
  e.address,
  e.reason,
  e.role || case when e.login = e.role then '' else ' by ' || e.login end as acted_as
from keylatch.key_events as e
inner join keylatch.keys as k on e.key_id = k.id
where e.event = 'revoked' and e.occurred_at > pg_catalog.now() - interval '90 days'
order by e.occurred_at desc;
