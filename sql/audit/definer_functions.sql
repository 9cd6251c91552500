-- Which functions run with the rights of their owner, and why?
--
-- A function with the rights of its owner bypasses row policies, so the answer gives a reason for
-- each function. A function without a reason was not shipped with keylatch.
--
-- function_name  the function
-- arguments      the types of the arguments; another function of the name was not shipped
-- owned_by       the owner, whose rights the function has
-- executable     who may call the function; nobody can call a trigger function directly
-- because        why the function needs the rights of its owner
-- with_settings  search_path must be pg_catalog, pg_temp, so that no other object is found first
with reasons (function_name, arguments, because) as (
  values
  (
    'keylatch.resolve_key', 'text, text',
    'Only the owner may read key_hash. An invoker wrapper around an internal function would '
    'make resolve_key measurably slower.'
  ),
  (
    'keylatch.resolve_keys', 'text[], text[]',
    'Only the owner may read key_hash. A wrapper would be slower.'
  ),
  (
    'keylatch_internal.add_usage', 'jsonb',
    'The roles that may call record_usage may not write tables. A report never waits: the '
    'function returns the keys that another report has locked.'
  ),
  (
    'keylatch_internal.await_replicas', 'numeric',
    'Reading a standby''s position needs pg_read_all_stats.'
  ),
  (
    'keylatch_internal.change_session', 'text, text, text',
    'No role may update sessions. A caller who has the token may change the session.'
  ),
  (
    'keylatch_internal.check_session_key', '',
    'At the commit the trigger runs as the visitor, who may not read keys.'
  ),
  (
    'keylatch_internal.delete_old_sessions', 'integer',
    'Pruning deletes sessions of all workspaces.'
  ),
  (
    'keylatch_internal.delete_session', '',
    'A role with the right to change the table could lock the whole table. A role that sees a '
    'session in the view may end the session.'
  ),
  ('keylatch_internal.describe_installation', '', 'Only the owner may read installation.'),
  (
    'keylatch_internal.explain_for_resolver', 'text, text',
    'keylatch_resolver may not read tables, but may log why a key was refused.'
  ),
  (
    'keylatch_internal.find_key', 'text',
    'Only the owner may read key_hash. The argument is the plaintext key, so that a thief of a '
    'hash cannot find a key. The holder of a key may learn its id.'
  ),
  (
    'keylatch_internal.find_session', 'text',
    'Only the owner may read token_hash. Only a caller who has a token gets the session.'
  ),
  (
    'keylatch_internal.hold_expiry', '',
    'At the commit the trigger may run as a login without rights here.'
  ),
  (
    'keylatch_internal.hold_extension', '',
    'At the commit the trigger may run as a login without rights here.'
  ),
  (
    'keylatch_internal.keep_scheme', 'text, jsonb',
    'Only the owner may read secrets and write schemes.'
  ),
  (
    'keylatch_internal.move_scheme_end', 'text, timestamp with time zone',
    'Only the owner may write schemes.'
  ),
  ('keylatch_internal.notify_caches', '', 'Callers may not write the sequence notices_left_out.'),
  (
    'keylatch_internal.read_heartbeat', 'boolean',
    'A cache may not read the sequence notices_left_out.'
  ),
  (
    'keylatch_internal.read_position', '',
    'The timeline of a replica''s stream needs pg_read_all_stats.'
  ),
  ('keylatch_internal.record_change', '', 'Only the triggers write events.'),
  ('keylatch_internal.record_new_key', '', 'Only the triggers write events.'),
  ('keylatch_internal.record_revocations', '', 'Only the triggers write events.'),
  (
    'keylatch_internal.refuse', 'text, text, text, timestamp with time zone',
    'Only the owner may read the table of errors.'
  ),
  (
    'keylatch_internal.request_identity', '',
    'anon may not resolve keys. The function reads only the key in the headers. No function '
    'called here has an exception block, which fails in a parallel plan before PostgreSQL '
    '17.'
  ),
  (
    'keylatch_internal.revoke_workspace_keys', '',
    'A role that may delete a workspace may lack the right to update keys.'
  ),
  (
    'keylatch_internal.seal_key_events', 'integer',
    'Only this function may write or lock checkpoints.'
  ),
  (
    'keylatch_internal.share_workspaces', '',
    'A role that may lock rows of workspace_latches could block all new keys.'
  ),
  (
    'keylatch_internal.start_session', 'text',
    'anon may open a session and nothing else. The origin is a header of the request.'
  ),
  (
    'keylatch_internal.take_import', 'jsonb, boolean, boolean, jsonb, jsonb',
    'An import writes key_hash, and only the owner may write the column key_hash.'
  ),
  (
    'keylatch_internal.upgrade_legacy_key', 'text, uuid',
    'A service that resolves keys may not read salted hashes.'
  ),
  (
    'keylatch_internal.verify_checkpoints', 'bigint, integer',
    'A checkpoint covers the events of all workspaces. Callers get only counts and digests. '
    '"stable" gives all queries one snapshot, so a concurrent seal_events shows no gap.'
  )
)

select
  n.nspname || '.' || p.proname as function_name,
  pg_catalog.oidvectortypes(p.proargtypes) as arguments,
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
left join reasons as r
  on n.nspname || '.' || p.proname = r.function_name
  and pg_catalog.oidvectortypes(p.proargtypes) = r.arguments
where n.nspname in ('keylatch', 'keylatch_internal') and p.prosecdef
order by function_name, arguments;
