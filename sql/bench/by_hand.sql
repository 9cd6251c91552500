-- The usual hand-written way: an SQL function, definer, with a search_path, planned at each call.
\set n random(0, :keys / 10 - 1) * 10 + 1
select key_id, workspace_id, kind, environment, scopes, metadata, expires_at
from keylatch.bench_by_hand('wk_bench_' || :n);
