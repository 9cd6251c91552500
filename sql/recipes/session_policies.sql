-- Recipe: a table of your own that visitors of a page read and write. Each visitor has the rows of
-- their own session. All names of tables are examples; supabase/examples/widget is an example page.
-- The recipe needs the module sessions: keylatch install . --with sessions.
--
-- The page calls open_session once, with its publishable key, and gets a token. The page sends the
-- token as x-session-token with every request. A request with a token has the role anon.

create table if not exists public.notes (
  id bigint generated always as identity primary key,
  workspace_id uuid not null,
  session_id uuid not null,
  note text not null check (length(note) between 1 and 1000)
);
create index if not exists notes_session_id_idx on public.notes (session_id);
alter table public.notes enable row level security;

alter table public.notes
alter column workspace_id set default keylatch.current_workspace_id(),
alter column session_id set default keylatch.current_session_id();

revoke all on table public.notes from anon;
grant select on table public.notes to anon;
-- A visitor may set only the column note.
grant insert (note) on table public.notes to anon;

-- A visitor reads the notes of one session. A server whose secret key has the scope notes:read
-- reads all notes of its workspace. Never give this scope to the publishable key of the page.
create policy notes_select_visitor_or_server on public.notes
for select to anon
using (
  session_id = (select keylatch.current_session_id())
  or (
    (select keylatch.current_session_id()) is null
    and workspace_id = (select keylatch.current_workspace_id())
    and (select keylatch.has_scope('notes:read'))
  )
);

create policy notes_insert_session on public.notes
for insert to anon
with check (
  session_id = (select keylatch.current_session_id())
  and workspace_id = (select keylatch.current_workspace_id())
);

-- The restrictive policy refuses an invalid key or token, whatever the other policies allow.
create policy notes_all_check_request on public.notes
as restrictive
for all to anon, authenticated
using ((select keylatch.check_request()))
with check ((select keylatch.check_request()));
