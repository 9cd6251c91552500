-- What ends sessions early: end_sessions, the deletion of their workspace, an admin.
begin;
\ir ../people.psql
\ir visitors.psql
select plan(42);

create function pg_temp.end_them(p_who text, p_name text) returns text language sql as
$$ select pg_temp.outcome(p_who, format('select keylatch.end_sessions(%L, %L)', pg_temp.id(p_name), 'abused')) $$;
-- Like a request that is slower than the ending: its row appears after the ending.
create function pg_temp.late(p_name text) returns void language plpgsql as
$$
declare
  v_row keylatch_internal.sessions;
begin
  delete from keylatch_internal.sessions as s
  where s.token_hash = sha256(convert_to(pg_temp.token(p_name), 'UTF8'))
  returning s.* into strict v_row;
  v_row.created_at := v_row.created_at + interval '1 hour';
  insert into keylatch_internal.sessions select v_row.*;
end
$$;

-- A session is checked again when it is committed: a slow request outlasts no revocation.

select pg_temp.make('slow page', $$ 'publishable', allowed_origins => '{https://a.example}' $$);
select pg_temp.keep('slow', 'slow page');
select pg_temp.manage('suspend_key', 'slow page');
select throws_ok(
  'set constraints all immediate', 'PT401', 'session_refused',
  'a session is not committed once its key is suspended'
);
select pg_temp.manage('unsuspend_key', 'slow page');
select lives_ok('set constraints all immediate', 'a session is committed while the key is active');
set constraints all deferred;
select pg_temp.keep('slower', 'slow page');
select pg_temp.manage('revoke_key', 'slow page');
select throws_ok(
  'set constraints all immediate', 'PT401', 'session_refused',
  'a session is not committed once its key is revoked'
);
delete from keylatch_internal.sessions as s
where s.token_hash = sha256(convert_to(pg_temp.token('slower'), 'UTF8'));

-- Who may.

select pg_temp.keep('first');
select is(pg_temp.end_them(v.who, 'page'), v.outcome, format('%s ends the sessions of a key', v.who))
from (values
  ('alice', '1 row'), ('service_role', '1 row'), ('bob', 'PT404 key_not_found'),
  ('mia', 'PT404 key_not_found'), ('stranger', 'PT404 key_not_found'), ('anon', '42501'),
  ('keylatch_resolver', '42501')
) as v (who, outcome);
select is(
  pg_temp.outcome(v.who, format(
    'insert into keylatch_internal.session_endings (workspace_id, key_id) values (%L, %L)',
    v.workspace_id, pg_temp.id('page')
  )),
  v.outcome, format('%s writes an ending in %s', v.who, left(v.workspace_id::text, 1))
)
from (values
  ('alice', pg_temp.a(), '1 row'), ('bob', pg_temp.a(), '42501'), ('mia', pg_temp.a(), '42501'),
  ('anon', pg_temp.a(), '42501'), ('bob', pg_temp.b(), '1 row')
) as v (who, workspace_id, outcome);
select is(
  pg_temp.outcome(v.who, format('%s keylatch_internal.session_endings %s', v.verb, v.rest)),
  '42501', format('%s cannot %s an ending', v.who, v.verb)
)
from (values
  ('alice', 'update', 'set ended_at = null'), ('alice', 'delete from', ''),
  ('service_role', 'update', 'set ended_at = null'), ('service_role', 'delete from', ''),
  ('service_role', 'truncate', '')
) as v (who, verb, rest);

-- An ending with the wrong workspace of the key has no effect.

select pg_temp.run('bob', format(
  'insert into keylatch_internal.session_endings (workspace_id, key_id) values (%L, %L)'
  ' returning key_id', pg_temp.b(), pg_temp.id('page')
));
select pg_temp.run('bob', format(
  'insert into keylatch_internal.session_endings (workspace_id, key_id) values (%L, %L)'
  ' returning key_id', pg_temp.b(), pg_temp.b()
));
select is(pg_temp.resolved('first'), 1::bigint, 'the admin of another workspace ends nothing here');

-- end_sessions revokes the key and ends its sessions in one call. Repeating it is no error.

select pg_temp.make('other page', $$ 'publishable', allowed_origins => '{https://a.example}' $$);
select pg_temp.keep('second');
select pg_temp.keep('spared', 'other page');
create function pg_temp.end_page() returns text language sql as
$$ select pg_temp.run('alice', format(
  'select concat_ws('' '', e.id = %L, e.already_revoked, e.ended) '
  || 'from keylatch.end_sessions(%L, ''abused'') as e', pg_temp.id('page'), pg_temp.id('page')
)) $$;
select is(pg_temp.end_page(), 't f 2', 'the answer counts both sessions');
select is(pg_temp.of('page', 'status'), 'revoked', 'the key is revoked');
select is(pg_temp.of('page', 'revoke_reason'), 'abused', 'end_sessions stores the reason');
select is(
  pg_temp.of('page', 'revoked_by'), pg_temp.user_id('alice')::text, 'end_sessions stores the caller'
);
select is(
  pg_temp.resolved('first') + pg_temp.resolved('second'), 0::bigint, 'both sessions have ended'
);
select is(pg_temp.resolved('spared'), 1::bigint, 'the session of another key goes on');
select is(
  pg_temp.outcome(v.role, format(v.statement, pg_temp.token('first'))), v.outcome,
  format('no call of %s reopens a session: %s', v.role, v.statement)
)
from (values
  ('keylatch_resolver', 'select keylatch.resolve_session(%L, true)', '0 rows'),
  ('keylatch_resolver', 'select keylatch.attach_subject(%L, ''x'')', 'PT404 session_not_found'),
  ('keylatch_resolver', 'select keylatch.close_session(%L)', 'PT404 session_not_found')
) as v (role, statement, outcome);
select is(
  pg_temp.outcome('alice', 'select from keylatch.sessions'), '2 rows',
  'the view shows only open sessions'
);
select pg_temp.late('second');
select is(
  pg_temp.resolved('second'), 0::bigint,
  'a session that is committed after the ending has ended, too'
);
select is(pg_temp.end_page(), 't t 0', 'calling it again is no error, and ends nothing');

-- The sessions of a key that was revoked earlier go on until end_sessions.

select pg_temp.manage('revoke_key', 'other page', '''season is over''');
select is(pg_temp.resolved('spared'), 1::bigint, 'revoke_key alone ends no session');
select is(
  pg_temp.run('alice', format(
    'select concat_ws('' '', e.already_revoked, e.ended) from keylatch.end_sessions(%L) as e',
    pg_temp.id('other page')
  )),
  't 1', 'end_sessions ends the sessions of a revoked key'
);
select is(
  pg_temp.of('other page', 'revoke_reason'), 'season is over',
  'the first reason of the revocation stays'
);
select is(pg_temp.resolved('spared'), 0::bigint, 'no session is left');

-- Deleting a workspace, and an admin's DELETE.

select is(
  pg_temp.outcome(v.who, 'delete from keylatch.sessions'), v.outcome,
  format('%s deletes sessions through the view', v.who)
)
from (values ('bob', '0 rows'), ('alice', '1 row')) as v (who, outcome);
delete from keylatch.workspaces where id = pg_temp.a();
select is(pg_temp.resolved('slow'), 0::bigint, 'deleting a workspace ends its sessions');
select is(
  (select count(*) from keylatch.sessions), 0::bigint, 'the view shows no ended session to any role'
);
select is(
  (keylatch.prune_sessions()).pruned,
  (select count(*)::integer from pg_temp.opened) - 1, 'pruning deletes ended sessions'
);

select * from finish();
rollback;
