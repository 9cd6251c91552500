-- Where the salted hash of an imported key is kept until its first use.
--
-- The keys of an older system are taken over as they are, so that nobody needs a new one. A key in
-- clear or its SHA-256 is native at once. A salted hash cannot be looked up: its row is among the
-- keys, listed and revocable, and the migration "claim" makes it native when somebody uses it.

create table keylatch_internal.foreign_hashes (
  key_id uuid not null,
  workspace_id uuid not null,
  algorithm text not null,
  verifier text not null,
  starts_with text collate "C" not null default '',
  imported_at timestamptz not null,

  constraint foreign_hashes_pkey primary key (key_id),
  constraint foreign_hashes_algorithm_check check (algorithm in ('pbkdf2_sha256', 'bcrypt')),
  constraint foreign_hashes_starts_with_check check (length(starts_with) <= 32)
);

-- For a claim: of one workspace those that a key may be.
create index foreign_hashes_workspace_id_starts_with_idx
on keylatch_internal.foreign_hashes (workspace_id, starts_with);

comment on table keylatch_internal.foreign_hashes is
  'The salted hashes of imported keys that nobody has used since; a claim deletes the row. No
foreign key: keys are never deleted, and the latch says so in its own words.';
comment on column keylatch_internal.foreign_hashes.key_id is 'The key.';
comment on column keylatch_internal.foreign_hashes.workspace_id is 'Its workspace.';
comment on column keylatch_internal.foreign_hashes.algorithm is 'pbkdf2_sha256 or bcrypt.';
comment on column keylatch_internal.foreign_hashes.verifier is
  'Of pbkdf2_sha256 the iterations, the salt and the hash, both in hex, with $ between; of bcrypt
the whole text. Readable by the owner alone.';
comment on column keylatch_internal.foreign_hashes.starts_with is
  'What the key begins with, as far as the older system knew; empty where it did not.';
comment on column keylatch_internal.foreign_hashes.imported_at is 'When it was imported.';
comment on index keylatch_internal.foreign_hashes_workspace_id_starts_with_idx is
  'Finds those of a workspace that a key may be.';

revoke all on table keylatch_internal.foreign_hashes
from public, anon, authenticated, service_role;
-- All but the hash, and only what the view below shows.
grant select (key_id, workspace_id, algorithm, imported_at)
on table keylatch_internal.foreign_hashes to authenticated, service_role;

alter table keylatch_internal.foreign_hashes enable row level security;

create policy foreign_hashes_select_admin on keylatch_internal.foreign_hashes
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy foreign_hashes_select_admin on keylatch_internal.foreign_hashes is
  'A signed-in user sees which keys are unclaimed in the workspaces that they administer.';

create view keylatch.unclaimed_keys with (security_invoker = true) as
select
  f.key_id,
  f.workspace_id,
  f.algorithm,
  f.imported_at
from keylatch_internal.foreign_hashes as f
inner join keylatch.keys as k on f.key_id = k.id
where k.status in ('active', 'superseded', 'suspended');

comment on view keylatch.unclaimed_keys is
  'The living keys of your workspaces that were imported with a salted hash and not used since.

Such a key resolves through claim_key alone, which makes it a native one.';
comment on column keylatch.unclaimed_keys.key_id is 'The key.';
comment on column keylatch.unclaimed_keys.workspace_id is 'Its workspace.';
comment on column keylatch.unclaimed_keys.algorithm is 'pbkdf2_sha256 or bcrypt.';
comment on column keylatch.unclaimed_keys.imported_at is 'When it was imported.';

revoke all on table keylatch.unclaimed_keys from public, anon, authenticated, service_role;
grant select on table keylatch.unclaimed_keys to authenticated, service_role;
