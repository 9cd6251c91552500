-- Make a key and revoke it, two transactions: session n in workspace n, or all in workspace 0.
select id as key_id
from keylatch.issue_key(
  ('00000000-0000-4000-8000-' || lpad((:client_id * :spread)::text, 12, '0'))::uuid, 'secret'
)
\gset
select id
from keylatch.revoke_key(':key_id', 'bench');
