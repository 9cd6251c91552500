-- Module legacy: the functions that write a batch of import lines to the tables.

create function keylatch_internal.share_import(p_lines keylatch_internal.import_line[])
returns uuid[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  insert into keylatch_internal.workspace_latches (workspace_id)
  select distinct (l.key).workspace_id from unnest(p_lines) as l where l.problem is null order by 1
  on conflict do nothing;
  return array(
    with shared as materialized (
      select w.workspace_id, w.deleted_at from keylatch_internal.workspace_latches as w
      where w.workspace_id in (select (l.key).workspace_id from unnest(p_lines) as l)
      order by w.workspace_id for share
    )
    select s.workspace_id from shared as s where s.deleted_at is not null
  );
end $$;
comment on function keylatch_internal.share_import is
  'Locks the workspaces of an import against deletion. Returns the workspaces already deleted.';

create function keylatch_internal.insert_lines(
  p_lines keylatch_internal.import_line[], p_import jsonb
)
returns uuid[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_ids uuid[];
  v_source constant text := p_import ->> 'source';
  v_import_id constant uuid := (p_import ->> 'id')::uuid;
begin
  with new as (
    insert into keylatch_internal.keys (
      id, workspace_id, kind, environment, key_hash, public_key, masked_key, label, metadata,
      allowed_origins, scopes, expires_at, suspended_at, revoked_at, revoke_reason, created_at,
      created_by, updated_at, imported_at
    )
    select
      k.id, k.workspace_id, k.kind, k.environment, k.key_hash, k.public_key, k.masked_key, k.label,
      k.metadata, k.allowed_origins, k.scopes, k.expires_at, k.suspended_at, k.revoked_at,
      regexp_replace(
        k.revoke_reason,
        '([a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_)[1-9A-HJ-NP-Za-km-z]{36}', E'\\1...', 'g'
      ), k.created_at, k.created_by, k.updated_at, k.imported_at
    from unnest(array(select l.key from unnest(p_lines) as l)) with ordinality as k
    -- All imports insert keys in this order, so that two imports of the same keys do not deadlock.
    order by k.key_hash, k.ordinality
    on conflict (key_hash) do nothing
    returning keys.id
  )
  select coalesce(array_agg(n.id), '{}') into v_ids from new as n;
  insert into keylatch_internal.legacy_keys (
    key_id, workspace_id, scheme, source, import_id, seen_by, last_used_at, verifier, clear_part,
    rounds
  )
  select
    n.id, (l.key).workspace_id, l.scheme, v_source, v_import_id, v_import_id,
    (l.given ->> 'last_used_at')::timestamptz, l.verifier, l.clear_part, l.rounds
  from unnest(p_lines) as l inner join unnest(v_ids) as n (id) on n.id = (l.key).id;
  insert into keylatch_internal.legacy_texts (text_hash, key_hash)
  select l.text_hash, (l.key).key_hash
  from unnest(p_lines) as l inner join unnest(v_ids) as n (id) on n.id = (l.key).id
  where l.scheme = 'sha256' and l.rounds is null and l.text_hash <> (l.key).key_hash
  order by l.text_hash on conflict do nothing;
  return v_ids;
end $$;
comment on function keylatch_internal.insert_lines is
  'Inserts the new keys into keys, legacy_keys and legacy_texts, and returns their ids.';

create function keylatch_internal.similar_rounds(p_part text, p_workspace_id uuid)
returns bigint language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce((
    select sum(s.rounds) from keylatch_internal.similar_keys(
      array(select left(p_part, n) from generate_series(0, length(p_part)) as n), p_workspace_id
    ) as s
  ), 0) + coalesce((
    select sum(g.rounds) from keylatch_internal.legacy_keys as g
    where g.workspace_id = p_workspace_id
      -- clear_part is printable ASCII, and the character 7f sorts after all printable ASCII.
      and g.clear_part > p_part and g.clear_part < p_part || E'\x7f'
      and g.rounds > 0 and g.upgraded_at is null
  ), 0);
end $$;
comment on function keylatch_internal.similar_rounds is
  'Returns the sum of rounds of the salted keys that may equal a key with this clear_part.';

create function keylatch_internal.limit_rounds(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_line record;
  v_workspace_id uuid;
  v_part text collate "C";
  v_end text collate "C";
  v_rounds bigint;
  v_opposite bigint;
  v_taken bigint;
begin
  -- The order puts a clear_part before all longer ones that begin with it, so all share one sum.
  for v_line in
    select l."position", (l.key).workspace_id, l.clear_part collate "C" as part, l.rounds
    from unnest(p_lines) as l where l.problem is null and l.rounds is not null
      and not exists (select from keylatch_internal.keys as k where k.key_hash = (l.key).key_hash)
    order by 2, 3, 1 loop
    if v_line.workspace_id is distinct from v_workspace_id
      or not starts_with(v_line.part, v_part) then
      -- Of the same key, one line may know the first characters (p:) and another the last (s:).
      if v_line.workspace_id is distinct from v_workspace_id or starts_with(v_line.part, v_end) then
        v_end := translate(left(v_line.part, 1), 'ps', 'sp');
        v_opposite := coalesce((
          select sum(g.rounds) from keylatch_internal.legacy_keys as g
          where g.workspace_id = v_line.workspace_id and v_line.part <> ''
            and g.clear_part between v_end and v_end || E'\x7f'
            and g.rounds > 0 and g.upgraded_at is null
        ), 0) + case when v_line.workspace_id = v_workspace_id then v_taken else 0 end;
        v_taken := 0;
      end if;
      v_workspace_id := v_line.workspace_id;
      v_part := v_line.part;
      v_rounds := keylatch_internal.similar_rounds(v_part, v_workspace_id);
    end if;
    if v_rounds + v_opposite + v_line.rounds > keylatch_internal.round_budget() then
      p_lines[v_line."position"].problem := array[
        format('To compare all keys that may equal this key, upgrade_key would need more than '
          '%s rounds.', keylatch_internal.round_budget()),
        'Give starts_with or ends_with of the key. If you know neither, see sql/docs/first_use.md.'];
    else
      v_rounds := v_rounds + v_line.rounds;
      v_taken := v_taken + v_line.rounds;
    end if;
  end loop;
  return p_lines;
end $$;
comment on function keylatch_internal.limit_rounds is
  'Refuses a salted hash if one call of upgrade_key could not compare all keys that may be equal.';

create function keylatch_internal.hold_lines(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_line record;
  v_schemes constant text[] :=
    '{plaintext,sha256}' || array(select s.name from keylatch_internal.legacy_schemes as s);
begin
  for v_line in
    select l."position", l.text_hash
    from unnest(p_lines) as l
    where l.problem is null and l.rounds is null and (
      -- resolve_key does not compute the slow hash of a PBKDF2 scheme.
      l.scheme in (select s.name from keylatch_internal.legacy_schemes as s where s.iter > 0)
      or exists (select from keylatch_internal.similar_keys(coalesce(l.parts, array(
        select left(l.clear_part, n) from generate_series(0, length(l.clear_part)) as n
      )), (l.key).workspace_id))
      or l.parts is null and (
        keylatch_internal.similar_rounds(l.clear_part, (l.key).workspace_id) > 0
        -- A salted line of the same key may know the other end of the key: see limit_rounds.
        or exists (
          select from keylatch_internal.legacy_keys as g
          where g.workspace_id = (l.key).workspace_id and g.rounds > 0 and g.upgraded_at is null
            and g.clear_part between translate(left(l.clear_part, 1), 'ps', 'sp')
            and translate(left(l.clear_part, 1), 'ps', 'sp') || E'\x7f'
        )
        -- A key that waits under another scheme may be the same plaintext key, and may be revoked.
        or exists (
          select from unnest(v_schemes) as n (name)
          inner join keylatch_internal.legacy_keys as g on n.name = g.scheme
          where n.name <> l.scheme and (n.name, l.scheme) <> ('plaintext', 'sha256')
            and g.workspace_id = (l.key).workspace_id and g.rounds = 0 and g.upgraded_at is null
        )
      )
    ) and not exists (select from keylatch_internal.keys as k where k.key_hash = (l.key).key_hash)
  loop
    p_lines[v_line."position"].rounds := 0;
    p_lines[v_line."position"].verifier := encode(v_line.text_hash, 'hex');
    p_lines[v_line."position"].key.key_hash :=
      keylatch_internal.legacy_hash('held', v_line.text_hash);
    p_lines[v_line."position"].key.public_key := null;
  end loop;
  return p_lines;
end $$;
comment on function keylatch_internal.hold_lines is
  'Makes an unsalted key wait for upgrade_key if the scheme of the key is slow (PBKDF2), or if the
key may be the same plaintext key as another waiting key.';

create function keylatch_internal.must_hold(p_workspaces uuid[])
returns boolean language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from keylatch_internal.legacy_schemes as s where s.iter > 0)
    or exists (
      select from keylatch_internal.legacy_keys as g
      where g.workspace_id = any (p_workspaces) and g.upgraded_at is null
        -- Two conditions for two indexes: no index supports "rounds >= 0".
        and (g.rounds > 0 or g.rounds = 0)
    );
end $$;
comment on function keylatch_internal.must_hold is
  'Returns true if hold_lines may find a key to hold in an import into these workspaces.';

create function keylatch_internal.add_hashes(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_line record;
  v_has_schemes constant boolean := exists (select from keylatch_internal.legacy_schemes);
begin
  for v_line in
    select l."position", case when v_has_schemes and l.scheme = 'sha256' and not exists (
        select from keylatch_internal.keys as k where k.key_hash = l.text_hash
      ) then keylatch_internal.legacy_hash('sha256', l.text_hash) end as own,
      array(
        select t.key_hash from keylatch_internal.legacy_texts as t where t.text_hash = l.text_hash
      ) as known
    from unnest(p_lines) as l where l.problem is null loop
    if v_line.own is not null and p_lines[v_line."position"].rounds is null then
      p_lines[v_line."position"].key.key_hash := v_line.own;
    end if;
    p_lines[v_line."position"].other_hashes :=
      p_lines[v_line."position"].other_hashes || array_remove(v_line.own || v_line.known, null);
  end loop;
  return p_lines;
end $$;
comment on function keylatch_internal.add_hashes is
  'Adds to each line the key_hash of existing rows that upgrade_key has matched with the same key.
If schemes exist, gives alg sha256 its own key_hash: a row under the plain SHA-256 would resolve
even if the same plaintext key were revoked under a scheme.';

create function keylatch_internal.write_import(
  inout p_lines keylatch_internal.import_line[], p_import jsonb, out p_new uuid[]
)
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_workspaces constant uuid[] := array(
    select distinct (l.key).workspace_id from unnest(p_lines) as l
  );
  v_is_salted constant boolean := exists (select from unnest(p_lines) as l where l.rounds > 0);
  v_scheme text;
begin
  -- An import that must see the rows of all other imports runs alone. Only imports wait.
  if v_is_salted or keylatch_internal.must_hold(v_workspaces) or exists (
    select from unnest(p_lines) as l, keylatch_internal.legacy_schemes where l.scheme = 'plaintext'
  ) then
    lock table keylatch_internal.legacy_settings in exclusive mode;
  else
    lock table keylatch_internal.legacy_settings in share mode;
  end if;
  if v_is_salted then
    p_lines := keylatch_internal.limit_rounds(p_lines);
    p_new := keylatch_internal.insert_lines(array(
      select l from unnest(p_lines) as l where l.problem is null and l.rounds > 0
    ), p_import);
  end if;
  -- Each line is compared with earlier rows, so plaintext is last. A fixed order avoids deadlocks.
  for v_scheme in
    select l.scheme from unnest(p_lines) as l group by l.scheme
    order by l.scheme = 'plaintext', l.scheme not in (
      select s.name from keylatch_internal.legacy_schemes as s where s.iter > 0
    ), 1 loop
    if keylatch_internal.must_hold(v_workspaces) then -- again: another import may have ended
      p_lines := keylatch_internal.hold_lines(p_lines);
    end if;
    -- After hold_lines: if a first use ends meanwhile, its key no longer waits, but has a text.
    if exists (select from keylatch_internal.legacy_schemes)
      or exists (select from keylatch_internal.legacy_texts) then
      p_lines := keylatch_internal.add_hashes(p_lines);
    end if;
    p_new := p_new || keylatch_internal.insert_lines(array(
      select l from unnest(p_lines) as l
      where l.problem is null and coalesce(l.rounds = 0, true) and l.scheme = v_scheme
        and not exists (
          select from keylatch_internal.keys as k where k.key_hash = any (l.other_hashes)
        )
    ), p_import);
  end loop;
end $$;
comment on function keylatch_internal.write_import is
  'Inserts the new keys. An unsalted key waits if it may be the same key as a waiting key.';

create function keylatch_internal.move_key(p_id uuid, p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_to constant keylatch_internal.keys := p_line.key;
  v_key keylatch_internal.keys;
  -- A key that expires within a minute counts as expired, because writing the row takes time.
  v_soon timestamptz;
  v_label text;
  v_scopes text[];
begin
  select k.* into v_key from keylatch_internal.keys as k where k.id = p_id for update;
  v_soon := clock_timestamp() + interval '1 minute';
  p_line.outcome := 'exists';
  if v_key.revoked_at is not null then
    return p_line;
  elsif v_to.revoked_at is not null
    or (v_to.expires_at <= v_soon and coalesce(v_key.expires_at > v_soon, true)) then
    update keylatch_internal.keys as k
    set revoked_at = v_soon, revoke_reason = case when v_to.revoked_at is null
      then 'expired in the imported system' else v_to.revoke_reason end
    where k.id = p_id;
    p_line.outcome := 'moved';
    p_line.note := 'The key is revoked now.';
    return p_line;
  elsif v_key.expires_at <= v_soon then
    return p_line;
  end if;
  v_label := case when p_line.given ? 'label' then v_to.label else v_key.label end;
  v_scopes := case when p_line.given ? 'scopes' then v_to.scopes else v_key.scopes end;
  p_line.note := nullif(concat_ws(
    ' ',
    case when v_to.expires_at < coalesce(v_key.expires_at, 'infinity')
      then 'The key expires earlier now.' end,
    case when v_to.suspended_at is not null and v_key.suspended_at is null
      then 'The key is suspended now.' end,
    case when v_label <> v_key.label then 'The label changed.' end,
    case when v_scopes <> v_key.scopes then 'The scopes changed.' end
  ), '');
  if p_line.note is not null then
    p_line.outcome := case when starts_with(p_line.note, 'The key') then 'moved' else 'changed' end;
    update keylatch_internal.keys as k
    set expires_at = least(k.expires_at, v_to.expires_at),
      suspended_at = coalesce(k.suspended_at, v_to.suspended_at), label = v_label, scopes = v_scopes
    where k.id = p_id;
  end if;
  return p_line;
end $$;
comment on function keylatch_internal.move_key is
  'Applies an import line to an existing key: the revocation, the suspension, an earlier expiry, the
label and the scopes. Returns the line with a note of what changed.';

create function keylatch_internal.settle_import(
  p_lines keylatch_internal.import_line[], p_import jsonb, p_new uuid[]
)
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_line keylatch_internal.import_line;
  v_row record;
  v_known uuid[] := '{}'::uuid[];
begin
  for v_row in
    select
      l."position", k.id, k.workspace_id = (l.key).workspace_id as is_ours,
      k.revoked_at is null and (
        (l.key).revoked_at is not null or (l.key).expires_at < coalesce(k.expires_at, 'infinity')
        or ((l.key).suspended_at is not null and k.suspended_at is null)
        or (l.given ? 'label' and (l.key).label <> k.label)
        or (l.given ? 'scopes' and (l.key).scopes <> k.scopes)
      ) as is_different
    from unnest(p_lines) as l
    cross join lateral (select distinct u.hash from unnest(l.other_hashes) as u (hash)) as h
    inner join keylatch_internal.keys as k on h.hash = k.key_hash
    where l.problem is null
      -- With "not exists", a cached plan would compare each line with each element of p_new.
      and (l.key).id not in (select n.id from unnest(p_new) as n (id))
    -- All imports lock keys in this order, so that two imports of the same keys do not deadlock.
    order by k.created_at, k.id, l."position" loop
    v_line := p_lines[v_row."position"];
    v_line.outcome := 'exists';
    if not v_row.is_ours then
      v_line.problem := array[
        'The key already exists in another workspace.',
        'Find out which workspace is right: a key belongs to exactly one workspace.'];
    elsif v_row.is_different then
      v_line := keylatch_internal.move_key(v_row.id, v_line);
    end if;
    if v_row.is_ours then
      -- array_append in a plain assignment extends the array in place, without a copy.
      v_known := array_append(v_known, v_row.id);
    end if;
    v_line.key.id := v_row.id;
    p_lines[v_row."position"] := v_line;
  end loop;
  if p_import ->> 'source' <> '' then
    -- All imports lock rows in this order, so that two imports of one source do not deadlock.
    with locked as materialized (
      select g.key_id from keylatch_internal.legacy_keys as g
      where g.key_id = any (v_known) and g.seen_by <> (p_import ->> 'id')::uuid
      order by g.key_id for update
    )
    update keylatch_internal.legacy_keys as g
    set source = p_import ->> 'source', seen_by = (p_import ->> 'id')::uuid
    from locked as l where g.key_id = l.key_id;
  end if;
  return p_lines;
end $$;
comment on function keylatch_internal.settle_import is
  'Updates the keys that existed before the import, and sets the outcome of each line.';

-- The grants of this file.
revoke all on function keylatch_internal.share_import, keylatch_internal.insert_lines,
keylatch_internal.similar_rounds, keylatch_internal.limit_rounds, keylatch_internal.hold_lines,
keylatch_internal.must_hold, keylatch_internal.add_hashes, keylatch_internal.write_import,
keylatch_internal.move_key, keylatch_internal.settle_import
from public, anon, authenticated, service_role;
