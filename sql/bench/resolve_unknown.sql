-- resolve_key of a key that there is not: what somebody who guesses costs.
\set n random(1, :keys)
select key_id, workspace_id, kind, environment, scopes, metadata, expires_at
from keylatch.resolve_key('wk_guess_' || :n);
