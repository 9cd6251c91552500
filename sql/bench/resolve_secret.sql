-- resolve_key of a secret key.
\set n random(0, :keys / 10 - 1) * 10 + 1
select key_id, workspace_id, kind, environment, scopes, metadata, expires_at
from keylatch.resolve_key('wk_bench_' || :n);
