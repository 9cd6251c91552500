-- Resolving, which says yes or nothing, and explaining, which says why.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = public, extensions;
select plan(49);

-- alice administers workspace A, bob B; mia is a plain member of A.
insert into auth.users (id) values
('a11ce000-0000-4000-8000-00000000000a'),
('b0b00000-0000-4000-8000-00000000000b'),
('31a00000-0000-4000-8000-00000000000c');
insert into keylatch.workspaces (id, name) values
('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'A'), ('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 'B');
insert into keylatch.workspace_membership (workspace_id, user_id, role) values
('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'a11ce000-0000-4000-8000-00000000000a', 'admin'),
('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', '31a00000-0000-4000-8000-00000000000c', 'member'),
('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 'b0b00000-0000-4000-8000-00000000000b', 'admin');

-- Goes on as this role and user, the way PostgREST does.
create function pg_temp.go_on_as(p_role text, p_user text default null) returns void
language plpgsql as $$
begin
  perform set_config('role', p_role, true);
  perform set_config(
    'request.jwt.claims', json_build_object('role', p_role, 'sub', p_user)::text, true
  );
end;
$$;

create temporary table made (name text, id uuid, key text);
grant all on made to public;
create function pg_temp.key(p_name text) returns text language sql as $$
  select m.key from made as m where m.name = p_name;
$$;
create function pg_temp.id(p_name text) returns uuid language sql as $$
  select m.id from made as m where m.name = p_name;
$$;

select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
insert into made
select n.name, i.id, i.key
from (values ('widget'), ('nowhere')) as n (name),
  keylatch.issue_key(
    'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', label => n.name, metadata => '{"a": 1}', scopes => '{chat}',
    allowed_origins => case n.name when 'widget' then '{https://a.example}'::text[] else '{}' end
  ) as i;
insert into made
select n.name, i.id, i.key
from (values ('server'), ('suspended'), ('revoked'), ('expired'), ('old')) as n (name),
  keylatch.issue_key('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'secret', n.name) as i;
select keylatch.suspend_key(pg_temp.id('suspended'));
select keylatch.revoke_key(pg_temp.id('revoked'), 'leaked');
select keylatch.rotate_key(pg_temp.id('old'), '1 hour');
update keylatch.keys set expires_at = clock_timestamp() + interval '0.2 seconds'
where id = pg_temp.id('expired');

select pg_temp.go_on_as('service_role');
select is(
  (
    select (r.key_id, r.workspace_id, r.kind, r.environment, r.scopes, r.metadata, r.expires_at)::text
    from keylatch.resolve_key(pg_temp.key('widget'), 'https://a.example') as r
  ),
  (
    select (k.id, k.workspace_id, k.kind, k.environment, k.scopes, k.metadata, k.expires_at)::text
    from keylatch.keys as k where k.id = pg_temp.id('widget')
  ),
  'a publishable key resolves from its origin, with all that the runtime needs'
);
select is(
  (select count(*) from keylatch.resolve_key(pg_temp.key(n.name))), 1::bigint,
  format('the %s secret key resolves', n.name)
)
from (values ('server'), ('old'), ('expired')) as n (name);
-- The transaction is the same: it is the clock that counts.
select pg_sleep(0.3);
select is_empty(
  format('select * from keylatch.resolve_key(%L, %L)', r.key, r.origin),
  format('%s: no row', r.what)
)
from (values
  ('an expired key', pg_temp.key('expired'), null),
  ('a revoked key', pg_temp.key('revoked'), null),
  ('a suspended key', pg_temp.key('suspended'), null),
  ('a secret key from a page', pg_temp.key('server'), 'https://a.example'),
  ('a secret key with an empty origin', pg_temp.key('server'), ''),
  ('a publishable key without an origin', pg_temp.key('widget'), null),
  ('a publishable key with an empty origin', pg_temp.key('widget'), ''),
  ('a publishable key from another origin', pg_temp.key('widget'), 'https://b.example'),
  ('a publishable key that allows none', pg_temp.key('nowhere'), 'https://a.example'),
  ('an unknown key', 'wk_sk_live_' || repeat('1', 36), null),
  ('a key with a space', pg_temp.key('server') || ' ', null),
  ('a key in capitals', upper(pg_temp.key('server')), null),
  ('nothing', '', null), ('null', null, null), ('a megabyte', repeat('a', 1048576), null),
  ('its hash', encode(sha256(convert_to(pg_temp.key('server'), 'UTF8')), 'hex'), null)
) as r (what, key, origin);

select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
select is(
  (keylatch.explain_key(e.key, e.origin)).verdict, e.verdict,
  format('%s: %s', e.what, e.verdict)
)
from (values
  ('a text', 'my key', null, 'malformed'), ('null', null, null, 'malformed'),
  ('a typo', 'wk_sk_live_' || repeat('1', 36), null, 'checksum_failed'),
  ('a key of nobody', keylatch_internal.generate_key('wk', 'secret', 'live'), null, 'unknown'),
  ('a revoked key from a page', pg_temp.key('revoked'), 'https://a.example', 'revoked'),
  ('an expired key', pg_temp.key('expired'), null, 'expired'),
  ('a suspended key', pg_temp.key('suspended'), null, 'suspended'),
  ('a secret key from a page', pg_temp.key('server'), 'https://a.example', 'secret_in_browser'),
  ('a publishable key without origin', pg_temp.key('widget'), null, 'origin_required'),
  ('from another origin', pg_temp.key('widget'), 'https://b.example', 'origin_denied'),
  ('from no origin at all', pg_temp.key('widget'), '', 'origin_denied'),
  ('from its origin', pg_temp.key('widget'), 'https://a.example', 'valid'),
  ('a secret key', pg_temp.key('server'), null, 'valid'),
  ('a superseded key', pg_temp.key('old'), null, 'valid')
) as e (what, key, origin, verdict);
select matches(
  (keylatch.explain_key(pg_temp.key('nowhere'), 'https://a.example')).detail,
  'allowed_origins is empty', 'it says that a key without origins resolves from nowhere'
);
select matches(
  (keylatch.explain_key(pg_temp.key('old'))).detail, 'superseded and ends at',
  'it says until when a superseded key lives'
);
select matches(
  (keylatch.explain_key(pg_temp.key('revoked'))).detail, 'leaked', 'it says why a key was revoked'
);
select ok(
  e.detail <> '' and e.hint <> '', format('%s has words for people', e.verdict)
)
from (values ('widget'), ('nowhere'), ('server'), ('suspended'), ('revoked'), ('expired'), ('old'))
  as n (name),
  keylatch.explain_key(pg_temp.key(n.name)) as e;

select pg_temp.go_on_as('authenticated', 'b0b00000-0000-4000-8000-00000000000b');
select is(
  (keylatch.explain_key(pg_temp.key('server'))::text),
  (keylatch.explain_key(keylatch_internal.generate_key('wk', 'secret', 'live'))::text),
  'to the admin of another workspace a key of this one is as unknown as any'
);
select pg_temp.go_on_as('service_role');
select is(
  (keylatch.explain_key(pg_temp.key('server'))).verdict, 'valid', 'service_role is told of any key'
);
select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
select throws_ok(
  'select * from keylatch.resolve_key(''x'')', '42501', null, 'a signed-in user may not resolve'
);
select pg_temp.go_on_as('postgres');
select is(i.is_replica, false, 'installation() says that this is no replica')
from keylatch.installation() as i;
select is(i.replica_lag_seconds, 0::double precision, 'and is not behind')
from keylatch.installation() as i;

select * from finish();
rollback;
