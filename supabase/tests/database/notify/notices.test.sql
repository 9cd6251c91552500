-- Notices: which changes send a notice to caches, which advance the sign, and which do neither.
begin;
\ir ../people.psql
select plan(48);

-- What a statement does: notices that wait for the commit, and signs for notices left out.
create function pg_temp.signs() returns bigint language sql as
$$ select last_value + is_called::integer from keylatch_internal.notices_left_out $$;
create function pg_temp.told(p_who text, p_statement text) returns text language plpgsql as
$$
declare
  v_signs constant bigint := pg_temp.signs();
begin
  perform set_config('keylatch.notices', '', true), set_config('keylatch.left_out', '', true);
  perform pg_temp.act_as(p_who);
  execute p_statement;
  perform set_config('session_replication_role', 'origin', true) where p_who = 'replica';
  perform set_config('request.jwt.claims', '', true), set_config('role', 'none', true);
  return coalesce(nullif(current_setting('keylatch.notices'), ''), '0') || ' notices, '
    || pg_temp.signs() - v_signs || ' signs';
end
$$;
create function pg_temp.patch(p_name text, p_changes text) returns text language sql as
$$ select format('update keylatch.keys set %s where id = %L', p_changes, pg_temp.id(p_name)) $$;

select pg_temp.make('secret', '''secret'', scopes => ''{a}''');
select pg_temp.make('page', '''publishable'', allowed_origins => ''{https://a.example}''');
select pg_temp.make('ending', '''secret'', expires_at => now() + ''1 day''');
select pg_temp.make('rotated', '''secret''');

select is(pg_temp.told(c.who, pg_temp.patch(c.key, c.changes)), '1 notices, 0 signs',
  c.who || ' tells of ' || c.changes)
from (values
  ('alice', 'secret', 'scopes = ''{b}'''),
  ('alice', 'secret', 'metadata = ''{"n": 1}'''),
  ('service_role', 'page', 'allowed_origins = ''{}'''),
  ('alice', 'secret', 'suspended_at = now()'),
  ('alice', 'secret', 'suspended_at = null'),
  ('alice', 'secret', 'expires_at = now() + interval ''2 days'''),
  ('alice', 'ending', 'expires_at = now() + interval ''1 hour'''),
  ('owner', 'page', 'revoked_at = now()'),
  ('replica', 'rotated', 'suspended_at = now()'),
  ('replica', 'rotated', 'suspended_at = null')
) as c (who, key, changes);
select is(pg_temp.told('alice', format('select keylatch.rotate_key(%L, ''1 hour'')', pg_temp.id('rotated'))),
  '1 notices, 0 signs', 'a rotation sends a notice for the old key');

select is(pg_temp.told('alice', s.statement), '0 notices, 0 signs', 'no notice for ' || s.about)
from (values
  ('a new key', 'select keylatch.issue_key(pg_temp.a())'),
  ('a label', pg_temp.patch('secret', 'label = ''x''')),
  ('unchanged values', pg_temp.patch('secret', 'scopes = scopes, suspended_at = suspended_at')),
  ('a later expiry', pg_temp.patch('ending', 'expires_at = now() + interval ''3 days''')),
  ('a removed expiry', pg_temp.patch('ending', 'expires_at = null'))
) as s (about, statement);

-- An extension together with another change tells of the changed keys, and of no other key.

select pg_temp.make('first', '''secret'', expires_at => now() + ''1 day''');
select pg_temp.make('second', '''secret'', expires_at => now() + ''9 days''');
select is(pg_temp.told('alice', s.statement), '1 notices, 0 signs', s.about)
from (values
  ('an extension with new scopes sends a notice for the key', pg_temp.patch(
    'first', 'expires_at = now() + interval ''2 days'', scopes = ''{b}'''
  )),
  ('an extension beside a shorter expiry sends one, in any order', $$
    update keylatch.keys set expires_at = now() + interval '5 days'
    where id in (pg_temp.id('first'), pg_temp.id('second')) $$),
  ('a change after an extension sends one', $$
    update keylatch.keys set expires_at = now() + interval '6 days'
    where id in (pg_temp.id('first'), pg_temp.id('second'));
    select keylatch.suspend_key(pg_temp.id('secret')) $$)
) as s (about, statement);
select is(
  pg_temp.told('alice', 'set local keylatch.left_out = ''on''; '
    || pg_temp.patch('first', 'scopes = ''{c}''')),
  '0 notices, 1 signs', 'after a sign, a transaction advances the sign, and sends no notice'
);

select pg_temp.make('soon', '''secret'', expires_at => now() + ''40 seconds''');
create function pg_temp.after_a_notice(p_key text) returns text language sql as
$$ select pg_temp.outcome('alice', format(
  'select set_config(''keylatch.notices'', ''1'', true); update keylatch.keys
   set expires_at = now() + interval ''20 days'' where id = %L; set constraints all immediate',
  pg_temp.id(p_key)
)) $$;
select is(pg_temp.after_a_notice('soon'), 'PT409 expired_is_final',
  'after a notice, a key that expires within a minute cannot be extended');
select is(pg_temp.after_a_notice('first'), '0 rows', 'a key that expires later can be extended');
select is(
  pg_temp.outcome('alice', $$ set local keylatch.notices = ''; set local keylatch.left_out = ''; $$
    || pg_temp.patch('soon', 'expires_at = null, scopes = ''{b}''')
    || '; set constraints all immediate'), 'PT409 expired_is_final',
  'a key that expires within a minute cannot be extended together with another change');
select is(
  pg_temp.outcome('alice', $$ set local keylatch.notices = ''; $$
    || pg_temp.patch('soon', 'expires_at = null') || '; set constraints all immediate'), '0 rows',
  'the first key can be extended in a transaction of its own');
select is(
  pg_temp.run('alice', $$ select set_config('keylatch.notices', '1', true); $$
    || pg_temp.patch('first', 'expires_at = null')
    || '; set constraints all immediate; select current_setting(''lock_timeout'')'), '5s',
  'after a notice, the commit of an extension waits up to five seconds for other commits');
select is(
  pg_temp.run('alice', $$ set local keylatch.notices = '1'; set local lock_timeout = '200ms'; $$
    || pg_temp.patch('second', 'expires_at = null')
    || '; set constraints all immediate; select current_setting(''lock_timeout'')'), '200ms',
  'a shorter timeout of the caller stays');

-- An imported key that is inactive may be a key that caches know under another id.

create function pg_temp.import(p_column text) returns text language sql as
$$ select format(
  'insert into keylatch_internal.keys (id, workspace_id, kind, environment, key_hash, masked_key,
    label, metadata, allowed_origins, scopes, created_at, updated_at, imported_at%1$s)
  select i, pg_temp.a(), ''secret'', ''live'', sha256(uuid_send(i)), ''...'', ''imported'', ''{}'',
    ''{}'', ''{}'', now(), now(), now()%2$s
  from (values (gen_random_uuid()), (gen_random_uuid())) as n (i)',
  ', ' || p_column, ', now()' || left(p_column, 0)
) $$;
select is(
  pg_temp.told('owner', pg_temp.import(c.name)), c.told, format('an import with %s', c.name)
)
from (values
  ('revoked_at', '2 notices, 0 signs'), ('suspended_at', '2 notices, 0 signs'),
  ('expires_at', '2 notices, 0 signs'), (null, '0 notices, 0 signs')
) as c (name, told);

-- Many keys at once.

select set_config('keylatch.notices', '', true) is not null as ok \gset
select pg_temp.run('alice', $$
  select cardinality(keys) from keylatch.issue_keys(pg_temp.a(), array(
    select 'fleet' from generate_series(1, 1100)
  )) $$) as made \gset
select is(:made, 1100, 'a fleet exists');
select is(
  pg_temp.told('alice', 'update keylatch.keys set suspended_at = now() where label = ''fleet'''),
  '1000 notices, 0 signs', 'a fleet sends 1000 notices for keys, and then the notice for any key'
);
select is(
  pg_temp.outcome('alice', format(
    'set local keylatch.notices = %L; select keylatch.revoke_key(%L)', v.value, pg_temp.id('soon')
  )),
  '1 row', format('no revocation fails if a session sets the count to %L', v.value)
)
from (values ('x'), ('-1'), ('1e9'), ('99999999999999999999'), ('9999')) as v (value);

-- A heartbeat.

select ok(
  h.server_time between now() and clock_timestamp() and h.left_out = pg_temp.signs()
  and h.place = concat_ws(' ', i.system_identifier, p.timeline, i.database_oid)
  and h.writers is null,
  'a heartbeat returns the time, the signs and the place'
)
from keylatch_internal.read_heartbeat(false) as h, keylatch.installation() as i,
  keylatch.replay_position() as p;
select is(
  (select h.writers from keylatch_internal.read_heartbeat(true) as h),
  array(select distinct virtualtransaction from pg_locks where pid = pg_backend_pid()),
  'a heartbeat returns the transactions that change keys: this one'
);
select is(
  pg_temp.outcome(w.who, 'select keylatch_internal.read_heartbeat(true)'), w.outcome,
  w.who || ' asks for a heartbeat: ' || w.outcome
)
from (values
  ('anon', '42501'), ('alice', '42501'), ('service_role', '1 row'), ('keylatch_resolver', '1 row')
) as w (who, outcome);
select is(
  pg_temp.outcome(w.who, 'select nextval(''keylatch_internal.notices_left_out'')'), '42501',
  w.who || ' leaves no sign by hand'
)
from (values ('anon'), ('alice'), ('service_role'), ('keylatch_resolver')) as w (who);
select is(pg_temp.outcome('alice', 'select * from keylatch_internal.notices_left_out'), '42501',
  'nor reads the sequence');

select * from finish();
rollback;
