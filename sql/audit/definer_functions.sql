-- Which functions run with the rights of their owner, and why?
--
-- Each is a door through the row policies, so each has its reason here. One without was not shipped
-- with keylatch.
--
-- function_name  which
-- owned_by       with whose rights it runs
-- executable     who may call it; nobody can call a trigger function, whatever is granted
-- because        why it has to
-- with_settings  must be an empty search_path, so that nobody can put an object in its way
with reasons (function_name, because) as (
  values
  (
    'keylatch.resolve_key',
    'Hashes are readable by the owner alone. It answers only whoever holds the key itself.'
  ),
  ('keylatch.resolve_keys', 'As resolve_key.'),
  (
    'keylatch_internal.find_key',
    'Hashes are readable by the owner alone. It gives an id, which opens nothing, to whoever holds '
    'the key.'
  ),
  (
    'keylatch_internal.revoke_workspace_keys',
    'Whoever may delete a workspace need not be one who may edit its keys.'
  ),
  (
    'keylatch_internal.call_first_key_hook',
    'What the application provisions is not for the admin of a workspace to touch.'
  ),
  ('keylatch_internal.record_new_keys', 'Nobody writes events but this.'),
  ('keylatch_internal.record_key_change', 'Nobody writes events but this.'),
  ('keylatch_internal.link_key_events', 'Nobody writes the chain of events but this.'),
  (
    'keylatch_internal.request_identity',
    'anon may not resolve keys and sessions. It takes no argument, and reads no key but that of '
    'the request''s own headers.'
  ),
  (
    'keylatch_internal.start_session',
    'anon may open a session and do nothing else. The origin is the request''s own.'
  ),
  (
    'keylatch_internal.find_session',
    'Hashes are readable by the owner alone. It answers only whoever has the token.'
  ),
  (
    'keylatch_internal.change_session',
    'Nobody writes sessions but these calls, each for whoever has the token.'
  ),
  (
    'keylatch_internal.adopted_column',
    'An application that reads need not see what else is adopted, nor write there.'
  ),
  (
    'keylatch_internal.delete_expired_sessions',
    'Pruning looks at the sessions of every workspace, and at the permits.'
  ),
  (
    'keylatch_internal.take_import',
    'An import brings hashes, and no role but the owner may name that column.'
  ),
  (
    'keylatch_internal.claim_foreign_key',
    'Who may resolve keys proves one here, and nobody else writes or reads a hash.'
  ),
  (
    'keylatch_internal.add_usage',
    'Whoever may resolve keys may count their use, and write nothing else.'
  )
)

select
  n.nspname || '.' || p.proname as function_name,
  pg_catalog.pg_get_userbyid(p.proowner) as owned_by,
  coalesce(
    (
      select string_agg(coalesce(g.rolname, 'public'), ', ' order by g.rolname)
      from aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) as x
      left join pg_catalog.pg_roles as g on x.grantee = g.oid
      where x.grantee <> p.proowner
    ),
    'its owner alone'
  ) as executable,
  coalesce(r.because, 'IT WAS NOT SHIPPED WITH KEYLATCH') as because,
  array_to_string(p.proconfig, ', ') as with_settings
from pg_catalog.pg_proc as p
inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
left join reasons as r on n.nspname || '.' || p.proname = r.function_name
where n.nspname in ('keylatch', 'keylatch_internal') and p.prosecdef
order by function_name;
