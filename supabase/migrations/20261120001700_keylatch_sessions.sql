-- Sessions of visitors: a page that has nothing but a publishable key opens one with it, and goes
-- on with the session's token.
--
-- A session outlives its key, so that a rotation cuts no conversation off.

create table keylatch_internal.sessions (
  id uuid not null default pg_catalog.gen_random_uuid(),
  token_hash bytea not null,
  workspace_id uuid not null,
  key_id uuid not null,
  origin text not null,
  subject text,
  created_at timestamptz not null,
  expires_at timestamptz not null,

  constraint sessions_pkey primary key (id),
  constraint sessions_token_hash_key unique (token_hash),
  constraint sessions_token_hash_check check (octet_length(token_hash) = 32),
  constraint sessions_subject_check check (
    length(subject) between 1 and 200 and subject !~ '[\x01-\x1f\x7f-\x9f]'
  ),
  constraint sessions_expires_at_check check (expires_at > created_at and isfinite(expires_at))
);

-- For a revocation or a deletion that ends them, and for an admin's list.
create index sessions_workspace_id_key_id_idx on keylatch_internal.sessions (workspace_id, key_id);
create index sessions_key_id_idx on keylatch_internal.sessions (key_id);
create index sessions_expires_at_idx on keylatch_internal.sessions (expires_at);

comment on table keylatch_internal.sessions is
  'Sessions that were opened and have not been closed or pruned. No foreign key: its check would
lock the row of the key for as long as it is not committed.';
comment on column keylatch_internal.sessions.id is 'Names it where the token must not stand.';
comment on column keylatch_internal.sessions.token_hash is
  'SHA-256 of the token, which is kept nowhere. Readable by the owner alone.';
comment on column keylatch_internal.sessions.workspace_id is 'The workspace of its key.';
comment on column keylatch_internal.sessions.key_id is 'The key that it was opened with.';
comment on column keylatch_internal.sessions.origin is 'The origin of the page that opened it.';
comment on column keylatch_internal.sessions.subject is
  'The application''s own id of the visitor, set once; null until then.';
comment on column keylatch_internal.sessions.created_at is 'When it was opened.';
comment on column keylatch_internal.sessions.expires_at is 'From then on it is over.';
comment on index keylatch_internal.sessions_workspace_id_key_id_idx is
  'Finds the sessions of a workspace.';
comment on index keylatch_internal.sessions_key_id_idx is 'Finds the sessions of a key.';
comment on index keylatch_internal.sessions_expires_at_idx is 'Finds what is to be pruned.';

revoke all on table keylatch_internal.sessions from public, anon, authenticated, service_role;
grant
select (id, workspace_id, key_id, origin, subject, created_at, expires_at),
delete
on table keylatch_internal.sessions to authenticated, service_role;

alter table keylatch_internal.sessions enable row level security;

create policy sessions_select_admin on keylatch_internal.sessions
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy sessions_select_admin on keylatch_internal.sessions is
  'A signed-in user sees the sessions of the workspaces that they administer.';

create policy sessions_delete_admin on keylatch_internal.sessions
for delete to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy sessions_delete_admin on keylatch_internal.sessions is
  'A signed-in user ends sessions of the workspaces that they administer.';

create view keylatch.sessions with (security_invoker = true) as
select
  s.id,
  s.workspace_id,
  s.key_id,
  s.origin,
  s.subject,
  s.created_at,
  s.expires_at
from keylatch_internal.sessions as s
where s.expires_at > pg_catalog.clock_timestamp();

comment on view keylatch.sessions is
  'The open sessions of the workspaces that you administer. Delete one to end it.';
comment on column keylatch.sessions.id is 'As current_session_id gives it.';
comment on column keylatch.sessions.workspace_id is 'The workspace of its key.';
comment on column keylatch.sessions.key_id is 'The key that it was opened with, dead or alive.';
comment on column keylatch.sessions.origin is 'The origin of the page that opened it.';
comment on column keylatch.sessions.subject is 'The application''s own id of the visitor.';
comment on column keylatch.sessions.created_at is 'When it was opened.';
comment on column keylatch.sessions.expires_at is 'From then on it is over.';

revoke all on table keylatch.sessions from public, anon, authenticated, service_role;
grant select, delete on table keylatch.sessions to authenticated, service_role;

create table keylatch.session_settings (
  workspace_id uuid not null,
  lifetime interval not null default '24 hours',

  constraint session_settings_pkey primary key (workspace_id),
  constraint session_settings_lifetime_check check (
    lifetime between interval '1 minute' and interval '90 days'
  )
);

comment on table keylatch.session_settings is
  'How long the sessions of a workspace last, where that is not 24 hours. Its admins write it.';
comment on column keylatch.session_settings.workspace_id is 'The workspace.';
comment on column keylatch.session_settings.lifetime is
  'From 1 minute to 90 days, for sessions that are opened or slid from now on.';

revoke all on table keylatch.session_settings from public, anon, authenticated, service_role;
grant select, insert, update, delete on table keylatch.session_settings
to authenticated, service_role;

alter table keylatch.session_settings enable row level security;

create policy session_settings_select_admin on keylatch.session_settings
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_settings_select_admin on keylatch.session_settings is
  'A signed-in user sees the settings of the workspaces that they administer.';

create policy session_settings_insert_admin on keylatch.session_settings
for insert to authenticated
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_settings_insert_admin on keylatch.session_settings is
  'A signed-in user makes settings for the workspaces that they administer.';

create policy session_settings_update_admin on keylatch.session_settings
for update to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()))
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_settings_update_admin on keylatch.session_settings is
  'A signed-in user changes the settings of the workspaces that they administer.';

create policy session_settings_delete_admin on keylatch.session_settings
for delete to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy session_settings_delete_admin on keylatch.session_settings is
  'A signed-in user takes the settings of the workspaces that they administer back.';
