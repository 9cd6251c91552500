-- resolve_key of a publishable key with an origin that it allows.
\set n random(1, :keys / 10) * 10
select key_id, workspace_id, kind, environment, scopes, metadata, expires_at
from keylatch.resolve_key('wk_bench_' || :n, 'https://shop.example');
