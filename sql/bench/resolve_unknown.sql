-- resolve_key of an unknown key: the cost of a guess.
\set n random(1, :keys)
select key_id, workspace_id, kind, environment, scopes, metadata, expires_at
from keylatch.resolve_key('wk_guess_' || :n);
