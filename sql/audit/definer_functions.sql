-- Which functions run with the rights of their owner, and why?
--
-- Each of them passes the row policies, so each has its reason here. A function without a reason
-- was not shipped with keylatch.
--
-- function_name  which
-- owned_by       with whose rights it runs
-- executable     who may call it; nobody can call a trigger function, whatever is granted
-- because        why it has to
-- with_settings  search_path must be pg_catalog, pg_temp: nobody can put an object in its way
with reasons (function_name, because) as (
  values
  (
    'keylatch.resolve_key',
    'Key_hash is readable by the owner alone. Here and not in an internal function behind '
    'a wrapper, because on this path a second call is a measurable part of the whole. At '
    'most one row; but from "rows 1" the type generators make a single object.'
  ),
  ('keylatch.resolve_keys', 'As resolve_key.'),
  (
    'keylatch_internal.add_usage',
    'Who may resolve keys may count their use, and write nothing else. Nobody waits to '
    'count: what another report has locked is left to the next report.'
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
    'A role with the right to delete from the table could lock all of it. Who sees a row '
    'in the view may delete it.'
  ),
  ('keylatch_internal.describe_installation', 'No role but the owner reads the table.'),
  (
    'keylatch_internal.explain_for_resolver',
    'A service that resolves keys reads no table, and may log why it refused one.'
  ),
  (
    'keylatch_internal.find_key',
    'Key_hash is readable by the owner alone. It takes the key, not the hash, so that a '
    'stolen hash finds nothing. A holder of the key learns its id, which opens nothing.'
  ),
  (
    'keylatch_internal.find_session',
    'Token_hash is readable by the owner alone. Only the holder of a token gets an '
    'answer.'
  ),
  ('keylatch_internal.keep_scheme', 'Nobody but the owner reads secrets and writes schemes.'),
  ('keylatch_internal.move_scheme_end', 'Nobody but the owner writes schemes.'),
  ('keylatch_internal.notify_caches', 'Who changes a key has no right to the sequence.'),
  ('keylatch_internal.read_heartbeat', 'A service that listens reads no sequence.'),
  (
    'keylatch_internal.read_position',
    'The timeline of a replica''s stream needs pg_read_all_stats.'
  ),
  ('keylatch_internal.record_change', 'Nobody writes events but the triggers.'),
  ('keylatch_internal.record_new_key', 'Nobody writes events but the triggers.'),
  ('keylatch_internal.refuse', 'The table of errors is readable by its owner alone.'),
  (
    'keylatch_internal.request_identity',
    'Anon may not resolve keys. It takes no argument, and reads no key but that of the '
    'request''s own headers. Nothing on its path has an exception block: that would fail '
    'in a parallel plan before version 17.'
  ),
  (
    'keylatch_internal.revoke_workspace_keys',
    'A role that may delete a workspace need not be one that may edit its keys.'
  ),
  (
    'keylatch_internal.seal_key_events',
    'Nobody writes checkpoints, or may lock them, but this.'
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
    'keylatch_internal.take_back',
    'What is known of imported keys is written by the owner alone.'
  ),
  (
    'keylatch_internal.take_import',
    'An import brings hashes, and no role but the owner may name that column.'
  ),
  (
    'keylatch_internal.upgrade_legacy_key',
    'A service that resolves keys reads no salted hash.'
  ),
  (
    'keylatch_internal.verify_checkpoints',
    'A checkpoint seals the events of all workspaces. It tells counts and digests. '
    'Stable, so that all of it sees one snapshot: a seal_events meanwhile does not look '
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
