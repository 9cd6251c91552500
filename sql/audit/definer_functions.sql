-- Which functions run with the rights of their owner, and why?
--
-- These functions bypass the row policies, so each function has a reason here. A function without
-- a reason was not shipped with keylatch.
--
-- function_name  the function
-- owned_by       the owner, whose rights the function has
-- executable     who may call it; nobody can call a trigger function, whatever is granted
-- because        why it needs the owner's rights
-- with_settings  search_path must be pg_catalog, pg_temp, so that no other object is found first
with reasons (function_name, because) as (
  values
  (
    'keylatch.resolve_key',
    'Only the owner may read key_hash. Here, not in an internal function behind a wrapper, '
    'because a second call would be a measurable part of the time.'
  ),
  ('keylatch.resolve_keys', 'As resolve_key.'),
  (
    'keylatch_internal.add_usage',
    'A role that may resolve keys may count their use, and write nothing else. Reports never '
    'wait: keys that another report has locked are left to the next report.'
  ),
  ('keylatch_internal.await_replicas', 'How far a standby is needs pg_read_all_stats.'),
  (
    'keylatch_internal.change_session',
    'Only these calls change a session, each for the holder of its token.'
  ),
  (
    'keylatch_internal.check_session_key',
    'At the commit it runs as the visitor, who may not read keys.'
  ),
  ('keylatch_internal.delete_old_sessions', 'A timer prunes the sessions of every workspace.'),
  (
    'keylatch_internal.delete_session',
    'A role with the right to change the table could lock all of it. A role that sees a row '
    'in the view may end that session.'
  ),
  ('keylatch_internal.describe_installation', 'Only the owner may read the table.'),
  (
    'keylatch_internal.explain_for_resolver',
    'A service that resolves keys reads no table, and may log why it refused one.'
  ),
  (
    'keylatch_internal.find_key',
    'Only the owner may read key_hash. It takes the key, not the hash, so that a stolen '
    'hash finds nothing. A holder of the key learns its id, which opens nothing.'
  ),
  (
    'keylatch_internal.find_session',
    'Only the owner may read token_hash. Only the holder of a token gets an answer.'
  ),
  ('keylatch_internal.keep_scheme', 'Only the owner may read secrets and write schemes.'),
  ('keylatch_internal.move_scheme_end', 'Only the owner may write schemes.'),
  ('keylatch_internal.notify_caches', 'A role that changes a key has no right to the sequence.'),
  ('keylatch_internal.read_heartbeat', 'A service that listens may not read the sequence.'),
  (
    'keylatch_internal.read_position',
    'The timeline of a replica''s stream needs pg_read_all_stats.'
  ),
  ('keylatch_internal.record_change', 'Only the triggers write events.'),
  ('keylatch_internal.record_new_key', 'Only the triggers write events.'),
  ('keylatch_internal.refuse', 'Only the owner may read the table of errors.'),
  (
    'keylatch_internal.request_identity',
    'Anon may not resolve keys. It takes no argument, and reads only the key in the '
    'request''s headers. It calls nothing with an exception block: that would fail in a '
    'parallel plan before version 17.'
  ),
  (
    'keylatch_internal.revoke_workspace_keys',
    'A role that may delete a workspace may have no right to edit its keys.'
  ),
  (
    'keylatch_internal.seal_key_events',
    'Only this function may write or lock checkpoints.'
  ),
  (
    'keylatch_internal.share_workspaces',
    'A role that could lock these rows itself could keep others from making keys.'
  ),
  (
    'keylatch_internal.start_session',
    'Anon may open a session and nothing else. The origin is the request''s own.'
  ),
  (
    'keylatch_internal.take_import',
    'An import brings hashes, and only the owner may write that column.'
  ),
  (
    'keylatch_internal.upgrade_legacy_key',
    'A service that resolves keys reads no salted hash.'
  ),
  (
    'keylatch_internal.verify_checkpoints',
    'A checkpoint seals the events of all workspaces. It returns counts and digests. '
    'Stable, so that all queries see one snapshot: a concurrent seal_events does not look '
    'like a gap.'
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
