-- The lower limit: the same columns by the hash, in a prepared statement of the owner.
\set n random(0, :keys / 10 - 1) * 10 + 1
select id, workspace_id, kind, environment, scopes, metadata, expires_at
from keylatch_internal.keys
where key_hash = sha256(convert_to('wk_bench_' || :n, 'UTF8'));
