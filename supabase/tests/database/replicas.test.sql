-- Replicas: how far a server has got, and a revocation that has none to wait for.
begin;
\ir people.psql
select plan(10);

select is(
  pg_temp.run(w.who, $$
    select row(p.system_identifier = i.system_identifier, p.is_replica, p.position > 0)::text
    from keylatch.log_position() as p, keylatch.installation() as i $$),
  '(t,f,t)',
  'log_position() tells ' || w.who || ' the server, that this is the primary, and how far it is'
)
from (values ('stranger'), ('alice'), ('service_role'), ('keylatch_resolver')) as w (who);
select is(
  pg_temp.outcome('anon', 'select keylatch.log_position()'), '42501', 'and tells anon nothing'
);

select pg_temp.make('key');
select is(
  pg_temp.outcome('alice', $$
    select keylatch.revoke_key(pg_temp.id('key'), wait_for_replicas => true) $$),
  'PT400 invalid_argument',
  'without a synchronous standby nothing can be waited for'
);
select is(pg_temp.of('key', 'status'), 'active', 'and the key is as it was');
select is(
  current_setting('synchronous_commit'), 'on', 'so are the settings of the transaction'
);
select pg_temp.manage('revoke_key', 'key');
select is(pg_temp.of('key', 'status'), 'revoked', 'without waiting it is revoked');
select is(
  pg_temp.outcome('alice', $$
    select keylatch.revoke_key(pg_temp.id('key'), wait_for_replicas => true) $$),
  'PT400 invalid_argument',
  'that again is no error does not mean that it waited'
);

select * from finish();
rollback;
