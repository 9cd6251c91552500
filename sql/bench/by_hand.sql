-- The usual way by hand: a SQL function that is definer and has a search_path, planned at each call.
\set n random(0, :keys / 10 - 1) * 10 + 1
select key_id, workspace_id, kind, environment, scopes, metadata, expires_at
from keylatch.bench_by_hand('wk_bench_' || :n);
