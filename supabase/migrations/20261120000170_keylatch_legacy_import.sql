-- Module legacy: the import of keys, line by line.

create function keylatch_internal.mask_key(p_key text)
returns text language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when keylatch_internal.key_form(p_key) = 'valid' then left(p_key, -36)
    else ''
  end || '...' || right(p_key, case when length(p_key) >= 20 then 4 else 0 end);
end $$;
comment on function keylatch_internal.mask_key is
  'The masked key for a key of any form, for example ...uVO9: at least 16 characters and two thirds
of the text stay hidden.';

create function keylatch_internal.insert_keys(p_keys keylatch_internal.keys[])
returns setof uuid language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return query
  insert into keylatch_internal.keys (
    id, workspace_id, kind, environment, key_hash, public_key, masked_key, label, metadata,
    allowed_origins, scopes, expires_at, suspended_at, revoked_at, revoked_by, revoke_reason,
    created_at, created_by, updated_at, imported_at
  )
  select
    k.id, k.workspace_id, k.kind, k.environment, k.key_hash, k.public_key, k.masked_key, k.label,
    k.metadata, k.allowed_origins, k.scopes, k.expires_at, k.suspended_at, k.revoked_at,
    k.revoked_by, k.revoke_reason, k.created_at, k.created_by, k.updated_at, k.imported_at
  from unnest(p_keys) with ordinality as k
  -- In one order, so that two imports of the same keys do not deadlock.
  order by k.key_hash, k.ordinality
  on conflict (key_hash) do nothing
  returning keys.id;
end $$;
comment on function keylatch_internal.insert_keys is
  'Inserts these rows, except for texts that already have a row. Returns the ids of the new rows.';

-- Reading an import: each line on its own, so that a bad line does not affect other lines.

create type keylatch_internal.import_line as (
  "position" integer, given jsonb, key keylatch_internal.keys, scheme text, verifier text,
  clear_part text, parts text[], rounds integer, text_hash bytea, other_hashes bytea[],
  problem text[], outcome text, note text
);
comment on type keylatch_internal.import_line is
  'A line of an import: its fields, the row of keys that was read from them, how a waiting key is
recognised, the hash of its text or scheme, under which hashes its row may exist already, and the
problem or the outcome of the line.';

create view keylatch_internal.import_fields as
select v.type, v.longest, v.pattern, v.rule, v.hint, f.field
from (
  values
  ('{workspace_id,created_by}'::text[], 'string', null,
    '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$', 'a UUID',
    'Give the id of the workspace of the key. created_by may be left out.'),
  ('{expires_at,suspended_at,revoked_at,created_at,last_used_at}', 'string', null,
    E'^(19|[2-9]\\d)\\d\\d-\\d\\d-\\d\\d'
    '([T ]\\d\\d:\\d\\d(:\\d\\d(\\.\\d{1,6})?)? ?(Z|[+-]\\d\\d(:?\\d\\d)?))?$',
    'ISO 8601 with a zone, from the year 1900 on',
    'Write 2027-01-31T09:30:00Z, or 2027-01-31 for the beginning of that day in UTC.'),
  ('{key}', 'string', 1000, E'^(?!\\s)[^\\x01-\\x1f\\x7f-\\x9f]+(?<!\\s)$',
    'a text of 1 to 1000 characters, without control characters and spaces around it',
    'Give the key exactly as its holder sends it.'),
  ('{workspace}', 'string', 200, '.', 'a text of 1 to 200 characters',
    'Give the external_id of the workspace.'),
  ('{alg}', 'string', null, '^(sha256|sha256_salted|pbkdf2_(sha1|sha256|sha512)|django|bcrypt)$',
    'sha256, sha256_salted, pbkdf2_sha1, pbkdf2_sha256, pbkdf2_sha512, django or bcrypt',
    'For another hash without a salt call declare_scheme, and give its name as scheme. For scrypt '
    'and argon2, see sql/docs/first_use.md.'),
  ('{scheme}', 'string', 40, '.', 'the name of a scheme', 'Call declare_scheme first.'),
  ('{salt_place}', 'string', null, '^(before|after)$', 'before or after',
    'Say where the old system put the salt: before or after the key.'),
  ('{hash_encoding}', 'string', null, '^(hex|base64)$', 'hex or base64',
    'In hex a hash of 32 bytes has 64 characters, in base64 43 and a =.'),
  ('{salt_encoding}', 'string', null, '^(hex|base64|text)$', 'hex, base64 or text',
    'Say text if the other system hashed the salt as it is written.'),
  ('{iter}', null, 7, '^[1-9][0-9]*$', 'a number of rounds from 1 on',
    'Give the number of rounds of the other system.'),
  ('{starts_with,ends_with}', 'string', 32, '^[ -~]*$', 'up to 32 printable ASCII characters',
    'Give the part of the key that the other system stored in plaintext, if any.'),
  ('{masked_key}', 'string', 40, '^[ -~]+$', '1 to 40 printable ASCII characters',
    'Give a short form of the key, for example its last four characters.'),
  ('{force}', 'string', 200, '.', 'a reason of 1 to 200 characters',
    'Say why the weak key is imported.'),
  ('{hash,salt,kind,environment,label,revoke_reason}', 'string', null, null, 'a text',
    'Write the value between quotes.'),
  ('{allowed_origins,scopes}', 'array', null, null, 'a list', 'For example ["orders:read"].'),
  ('{metadata}', 'object', null, null, 'an object', 'For example {"plan": "pro"}.')
) as v (fields, type, longest, pattern, rule, hint)
cross join lateral pg_catalog.unnest(v.fields) as f (field);
comment on view keylatch_internal.import_fields is
  'For each field of a line: its JSON type, its regular expression, and the rule in words. Rules
that hold for every key are in check_key.';

create function keylatch_internal.read_import_fields(p_lines jsonb)
returns keylatch_internal.import_line[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return array(
    with given as materialized (
      select e.place, case when jsonb_typeof(e.line) <> 'object' then null
        when not jsonb_path_exists(e.line, '$.* ? (@ == null)') then e.line
        else e.line - array(select f.key from jsonb_each(e.line) as f where f.value = 'null')
      end as line
      from jsonb_array_elements(p_lines) with ordinality as e (line, place)
    ),
    wrong as (
      select distinct on (g.place) g.place, case
        when r.rule is null then array[
          'The line has an unknown field.',
          'See the comment of import_keys for the fields.']
        else array[f.key || ' must be ' || r.rule || '.', r.hint]
      end as problem
      from given as g
      cross join jsonb_each(
        case when g.line ? 'workspace_id' then g.line else '{"workspace_id": null}' || g.line end
      ) with ordinality as f (key, value, number)
      left join keylatch_internal.import_fields as r on f.key = r.field
      where r.rule is null or jsonb_typeof(f.value) <> r.type
        or case when r.pattern is not null then f.value #>> '{}' !~ r.pattern end
        or case when r.longest is not null then length(f.value #>> '{}') > r.longest end
      order by g.place, f.number
    )
    select row(
      g.place, g.line, null, null, null, '', null, null, null, null,
      case when g.line is null
        then array['The line is not a JSON object.', 'Write {"workspace_id": …, "key": …}.']
        else w.problem
      end, 'imported', null
    )::keylatch_internal.import_line
    from given as g left join wrong as w on g.place = w.place
    order by g.place
  );
end $$;
comment on function keylatch_internal.read_import_fields is
  'The lines of an import without their nulls, and what is wrong with the fields of each line.';

create function keylatch_internal.read_plaintext(p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_text constant text := p_line.given ->> 'key';
  v_force constant text := p_line.given ->> 'force';
  v_form constant text := keylatch_internal.key_form(v_text);
  v_weakness constant text := case
    when keylatch_internal.is_placeholder(v_text) then 'is a placeholder'
    when v_text ~ E'^(\\$[0-9a-z-]+\\$|[a-z0-9_]+\\$[0-9]+\\$|\\{[A-Za-z0-9]+\\})'
      or v_text ~* '^(md5|sha[0-9]+|bcrypt|pbkdf2|scrypt|argon2)[^ ]{0,10}[:=$]'
      then 'has the form of a hash'
    when v_text ~* E'^[+-]?[0-9]+([.,][0-9]+)?e[+-]?[0-9]+$' then 'is a number of a spreadsheet'
    when v_text ~ '[^ -~]' then 'has characters that are not printable ASCII'
    when length(v_text) < 16 then 'is shorter than 16 characters'
    when (select count(distinct c.letter) from string_to_table(v_text, null) as c (letter)) < 6
      then 'has fewer than 6 different characters'
  end;
begin
  p_line.problem := case
    when v_form = 'checksum_failed' then array[
      'key looks like a key of keylatch, but its check characters are wrong.',
      'Copy the whole key again: it was mistyped or cut off.']
    when v_form = 'valid'
      and v_text !~ format('_%sk_%s_', left((p_line.key).kind, 1), (p_line.key).environment)
      then array[
      'key has another kind or environment than the line.',
      'Leave kind and environment out.']
    when v_weakness is not null and v_force is null then array[
      'key ' || v_weakness || '.',
      'Leave the line out and issue a new key. To import the key anyway, give a reason as force.']
  end;
  p_line.note := case
    when v_force is not null then 'Imported by force: ' || v_force
    when v_text ~ '^[0-9a-fA-F]{64}$'
      then 'The key looks like a SHA-256. If it is the hash of the key, import it as such.'
  end;
  p_line.key.key_hash := sha256(convert_to(v_text, 'UTF8'));
  p_line.scheme := 'plaintext';
  p_line.other_hashes := array(
    select u.hash from unnest(keylatch_internal.scheme_hashes(v_text)) as h (hash)
    cross join lateral (
      values (h.hash), (keylatch_internal.legacy_hash('held', h.hash))
    ) as u (hash)
  );
  p_line.key.public_key := case (p_line.key).kind when 'publishable' then v_text end;
  p_line.key.masked_key := keylatch_internal.mask_key(v_text);
  p_line.parts := keylatch_internal.clear_parts(v_text);
  return p_line;
end $$;
comment on function keylatch_internal.read_plaintext is
  'Reads a key in plaintext. Refuses a weak key, unless force is given.';

create function keylatch_internal.read_verifier(p_line keylatch_internal.import_line, p_hash bytea)
returns keylatch_internal.import_line language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_given constant jsonb := p_line.given;
  v_text constant text := v_given ->> 'hash';
  v_django constant boolean := v_given ->> 'alg' = 'django';
  v_rounds constant text := coalesce(
    case when v_django then split_part(v_text, '$', 2) else v_given ->> 'iter' end, ''
  );
  v_salt constant bytea := case when v_django then convert_to(split_part(v_text, '$', 3), 'UTF8')
    else keylatch_internal.read_bytes(v_given ->> 'salt', v_given ->> 'salt_encoding') end;
begin
  p_line.scheme := case when v_django then split_part(v_text, '$', 1) else v_given ->> 'alg' end;
  p_line.problem := case
    when p_line.scheme = 'bcrypt' then case
      when v_text !~ E'^\\$2[aby]\\$(0[4-9]|1[0-5])\\$[./A-Za-z0-9]{53}$' then array[
      'hash must be a bcrypt hash: $2a$, $2b$ or $2y$, a cost from 04 to 15, $ and 53 characters.',
      'Give the whole hash of the other system. For a higher cost, see sql/docs/first_use.md.'] end
    when coalesce(octet_length(v_salt), 0) not between 1 and 1000 then array[
      'salt must be 1 to 1000 bytes, written as salt_encoding says.',
      'Say text if the other system hashed the salt as it is written.']
    when p_line.scheme <> 'sha256_salted' and v_rounds = '' then array[
      'iter must be given with ' || p_line.scheme || '.',
      'Give the number of rounds of the other system.']
    when (p_line.scheme = 'sha256_salted') <> (v_given ? 'salt_place') then array[
      'salt_place must be given with sha256_salted, and only there.', 'Say before or after.']
  end;
  if p_line.problem is not null then
    return p_line;
  end if;
  p_line.verifier := case p_line.scheme
    -- 2a, 2b and 2y are one algorithm; pgcrypto knows it by the first name.
    when 'bcrypt' then '$2a' || substr(v_text, 4)
    else concat_ws('$', coalesce(nullif(v_rounds, ''), v_given ->> 'salt_place'),
      encode(v_salt, 'hex'), encode(p_hash, 'hex'))
  end;
  p_line.key.key_hash :=
    keylatch_internal.legacy_hash('salted', convert_to(p_line.verifier, 'UTF8'));
  p_line.rounds := case p_line.scheme
    when 'sha256_salted' then 10
    when 'bcrypt' then 32 * (1 << substring(v_text, 5, 2)::integer)
    else greatest(100, v_rounds::integer * ceil(octet_length(p_hash) / case p_line.scheme
      when 'pbkdf2_sha512' then 64.0 when 'pbkdf2_sha256' then 32.0 else 20.0 end))
  end;
  return p_line;
end $$;
comment on function keylatch_internal.read_verifier is
  'Reads a salted hash and converts it to the form of the column verifier.';

create function keylatch_internal.read_legacy_hash(p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_given constant jsonb := p_line.given;
  v_alg constant text := v_given ->> 'alg';
  v_text constant text := v_given ->> 'hash';
  v_scheme constant text := coalesce(v_given ->> 'scheme', v_alg);
  v_hash constant bytea := case when v_alg = 'django' then decode(substring(
    v_text,
    E'^pbkdf2_sha(?:1|256|512)\\$[1-9][0-9]{0,6}\\$[^$]{1,250}\\$([A-Za-z0-9+/]{27,86}={1,2})$'
  ), 'base64') else keylatch_internal.read_bytes(v_text, v_given ->> 'hash_encoding') end;
  v_kept keylatch_internal.legacy_schemes;
  v_length integer := case when v_alg in ('sha256', 'sha256_salted') then 32 end;
begin
  if v_given ? 'scheme' then
    select s.* into v_kept
    from keylatch_internal.legacy_schemes as s where s.name = v_scheme;
    v_length := coalesce(v_kept.length, case v_kept.digest when 'md5' then 16 when 'sha1' then 20
      else right(v_kept.digest, 3)::integer / 8 end);
    p_line.key.expires_at := least((p_line.key).expires_at, v_kept.ends_at);
  end if;
  p_line.problem := case
    when v_text is null then array[
      'The line has neither key nor hash.',
      'Give the key in plaintext, or its hash with alg. If you have neither, issue a new key.']
    when v_scheme is null then array[
      'alg must be given with a hash.', 'Give sha256, pbkdf2_sha256, django or bcrypt, or a scheme.']
    when v_alg is not null and v_given ? 'scheme' then array[
      'A line cannot have both alg and scheme.', 'Leave alg out.']
    when v_given ? 'scheme' and v_length is null then array[
      'scheme is not the name of a scheme.', 'Call declare_scheme first.']
    when v_given ?| '{salt,salt_encoding,salt_place,iter}'
      and v_scheme !~ '^(pbkdf2|sha256_salted)' then array[
      'salt, salt_encoding, salt_place and iter do not go with ' || v_scheme || '.',
      'Leave them out.']
    when v_scheme = 'bcrypt' then null
    when v_scheme = 'django' and v_hash is null then array[
      'hash must be a Django hash: pbkdf2_sha256$iterations$salt$hash.',
      'Give the whole text. For other hashers of Django, see sql/docs/first_use.md.']
    when octet_length(v_hash) is null or octet_length(v_hash) <> v_length
      or octet_length(v_hash) not between 16 and 128 then array[
      format('hash must be %s bytes, written as hash_encoding says.', coalesce(v_length, 32)),
      'In hex a hash of 32 bytes has 64 characters, in base64 43 and a =.']
  end;
  p_line.clear_part := case
    when not v_given ?| '{starts_with,ends_with}' then ''
    when length(v_given ->> 'ends_with') > coalesce(length(v_given ->> 'starts_with'), 0)
      then 's:' || reverse(v_given ->> 'ends_with')
    else coalesce('p:' || nullif(v_given ->> 'starts_with', ''), '') end;
  if p_line.problem is not null then
    return p_line;
  elsif v_alg <> 'sha256' then
    return keylatch_internal.read_verifier(p_line, v_hash);
  end if;
  p_line.scheme := v_scheme;
  p_line.key.key_hash := case v_scheme when 'sha256' then v_hash
    else keylatch_internal.legacy_hash(v_scheme, v_hash) end;
  return p_line;
end $$;
comment on function keylatch_internal.read_legacy_hash is 'Reads the hash of a line.';

create function keylatch_internal.name_workspaces(p_lines jsonb)
returns jsonb language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_names text[] := array(
    select distinct l.line ->> 'workspace' from jsonb_array_elements(p_lines) as l (line)
    where jsonb_typeof(l.line -> 'workspace') = 'string' and not l.line ? 'workspace_id'
  );
  v_ids jsonb := '{}'::jsonb;
begin
  -- With your own tenancy this table does not exist, and the imported file has the ids.
  if cardinality(v_names) > 0 and to_regclass('keylatch.workspaces') is not null then
    execute 'select coalesce(jsonb_object_agg(w.external_id, w.id), ''{}'') '
      'from keylatch.workspaces as w where w.external_id = any ($1)' into v_ids using v_names;
  end if;
  return case when cardinality(v_names) = 0 then p_lines else (
    select jsonb_agg(
      case when v_ids ? (l.line ->> 'workspace')
        then l.line || jsonb_build_object('workspace_id', v_ids -> (l.line ->> 'workspace'))
        else l.line end order by l.place
    )
    from jsonb_array_elements(p_lines) with ordinality as l (line, place)
  ) end;
end $$;
comment on function keylatch_internal.name_workspaces is
  'The lines with the workspace_id of the workspace that they name by its external_id.';

create function keylatch_internal.usual_key(p_now timestamptz)
returns keylatch_internal.keys language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return jsonb_populate_record(null::keylatch_internal.keys, jsonb_build_object(
    'label', '', 'metadata', '{}'::jsonb, 'allowed_origins', '[]'::jsonb, 'scopes', '[]'::jsonb,
    'kind', 'secret', 'environment', 'live', 'masked_key', '...', 'created_at', p_now,
    'updated_at', p_now, 'imported_at', p_now
  ));
end $$;
comment on function keylatch_internal.usual_key is 'Returns the default values of an imported key.';

create function keylatch_internal.read_import(p_lines jsonb)
returns keylatch_internal.import_line[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_own text[];
  v_usual constant keylatch_internal.keys := keylatch_internal.usual_key(v_now);
  v_key keylatch_internal.keys;
  v_good keylatch_internal.keys;
  v_line keylatch_internal.import_line;
  v_lines keylatch_internal.import_line[] := keylatch_internal.read_import_fields(p_lines);
  v_place integer := 0;
begin
  while v_place < cardinality(v_lines) loop
    begin
      -- A block for each line would be slow. After an exception the next line follows.
      while v_place < cardinality(v_lines) loop
        v_place := v_place + 1;
        v_line := v_lines[v_place];
        continue when v_line.problem is not null;
        v_key := v_usual;
        v_key.id := gen_random_uuid();
        if v_line.given ? 'key' then
          v_own := regexp_match(v_line.given ->> 'key',
            '^[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[[:alnum:]]{36}$');
          v_key.kind := case v_own[1] when 'pk' then 'publishable' else 'secret' end;
          v_key.environment := coalesce(v_own[2], 'live');
        end if;
        v_key := jsonb_populate_record(v_key, v_line.given);
        v_line.key := v_key;
        if v_key.expires_at <= v_now then
          -- An expired key may be imported. Any other time is judged as for a new key.
          v_key.expires_at := null;
        end if;
        v_line.problem := case
          when greatest(v_key.suspended_at, v_key.revoked_at, v_key.created_at,
            (v_line.given ->> 'last_used_at')::timestamptz) > v_now then array[
            'suspended_at, revoked_at, created_at and last_used_at must not be in the future.',
            'For a key that expires later, give expires_at.']
          -- Values that equal those of the good line before are not checked again.
          else keylatch_internal.check_key(case when v_good.kind = v_key.kind
            and v_good.environment = v_key.environment then v_good end, v_key)
        end;
        if v_line.problem is null then
          v_good := v_key;
          v_line := case when v_line.given ? 'key' then keylatch_internal.read_plaintext(v_line)
            else keylatch_internal.read_legacy_hash(v_line) end;
        end if;
        v_lines[v_place] := v_line;
      end loop;
    exception
      when data_exception then
        v_line.problem := array['The line has an impossible time, or a list in a list.',
          'Correct expires_at, suspended_at, revoked_at, created_at, allowed_origins or scopes.'];
        v_lines[v_place] := v_line;
    end;
  end loop;
  return keylatch_internal.finish_reading(v_lines);
end $$;
comment on function keylatch_internal.read_import is 'Checks lines, without reading any key.';

create function keylatch_internal.finish_reading(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- As in legacy_hash, which is too slow to be called for each line.
  v_held constant bytea := decode('ff', 'hex') || 'held' || decode('ff', 'hex');
begin
  return array(
    select row(
      l."position", l.given, l.key, l.scheme, l.verifier, l.clear_part, l.parts, l.rounds,
      (l.key).key_hash,
      l.other_hashes || array[(l.key).key_hash, sha256(v_held || (l.key).key_hash)],
      -- Under a scheme or a salt the text is judged when it comes.
      case when l.scheme = 'sha256' and l.problem is null and (l.key).key_hash in (
        select sha256(convert_to(w.word, 'UTF8')) from unnest(
          '{"",undefined,"null","NULL","Null",none,NONE,None,nil,nan,NaN,true,TRUE,True,false,'
          'FALSE,False,todo,TODO,redacted,REDACTED,[redacted],[REDACTED],changeme,change-me,'
          'placeholder}'::text[]
        ) as w (word)
      ) then array['hash is that of a placeholder.', 'Leave the line out and issue a new key.']
      else l.problem end, l.outcome, l.note
    )::keylatch_internal.import_line
    from unnest(p_lines) as l order by l."position"
  );
end $$;
comment on function keylatch_internal.finish_reading is
  'Adds the other hashes of each line, and refuses the hash of nothing or of a placeholder.';

-- Importing a batch.

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
      order by w.workspace_id
      for share
    )
    select s.workspace_id from shared as s where s.deleted_at is not null
  );
end $$;
comment on function keylatch_internal.share_import is
  'Prevents the deletion of the workspaces of an import, and names those that are already deleted.';

create function keylatch_internal.insert_lines(
  p_lines keylatch_internal.import_line[], p_import jsonb
)
returns uuid[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_ids constant uuid[] := array(
    select keylatch_internal.insert_keys(array(select l.key from unnest(p_lines) as l))
  );
  v_source constant text := p_import ->> 'source';
  v_import_id constant uuid := (p_import ->> 'id')::uuid;
begin
  insert into keylatch_internal.legacy_keys (
    key_id, workspace_id, scheme, source, import_id, seen_by, last_used_at, verifier, clear_part,
    rounds
  )
  select
    n.id, (l.key).workspace_id, l.scheme, v_source, v_import_id, v_import_id,
    (l.given ->> 'last_used_at')::timestamptz, l.verifier, l.clear_part, l.rounds
  from unnest(p_lines) as l
  inner join unnest(v_ids) as n (id) on n.id = (l.key).id;
  insert into keylatch_internal.legacy_texts (text_hash, key_hash)
  select l.text_hash, (l.key).key_hash
  from unnest(p_lines) as l
  inner join unnest(v_ids) as n (id) on n.id = (l.key).id
  where l.scheme = 'sha256' and l.rounds is null and l.text_hash <> (l.key).key_hash
  order by l.text_hash on conflict do nothing;
  return v_ids;
end $$;
comment on function keylatch_internal.insert_lines is
  'Inserts the keys that do not exist yet, and what the import knows of each key. Returns the ids of
the new keys.';

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
      -- A known part is printable ASCII, and this character sorts after all of these.
      and g.clear_part > p_part and g.clear_part < p_part || E'\x7f'
      and g.rounds > 0 and g.upgraded_at is null
  ), 0);
end $$;
comment on function keylatch_internal.similar_rounds is
  'The cost of the waiting keys that may have the same text as a key with this clear part.';

create function keylatch_internal.limit_rounds(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_line record;
  v_workspace_id uuid;
  v_part text collate "C";
  v_rounds bigint;
begin
  -- In this order, a part comes before all parts that begin with it, and they share one sum.
  for v_line in
    select l."position", (l.key).workspace_id, l.clear_part collate "C" as part, l.rounds
    from unnest(p_lines) as l
    where l.problem is null and l.rounds is not null
      and not exists (select from keylatch_internal.keys as k where k.key_hash = (l.key).key_hash)
    order by 2, 3, 1
  loop
    if v_line.workspace_id is distinct from v_workspace_id
      or not starts_with(v_line.part, v_part) then
      v_workspace_id := v_line.workspace_id;
      v_part := v_line.part;
      v_rounds := keylatch_internal.similar_rounds(v_part, v_workspace_id);
    end if;
    if v_rounds + v_line.rounds > keylatch_internal.round_budget() then
      p_lines[v_line."position"].problem := array[
        format('The waiting keys that may be this one would need more than %s rounds together: '
          'upgrade_key would not reach it.', keylatch_internal.round_budget()),
        'Give starts_with or ends_with if it is known. Otherwise see sql/docs/first_use.md.'];
    else
      v_rounds := v_rounds + v_line.rounds;
    end if;
  end loop;
  return p_lines;
end $$;
comment on function keylatch_internal.limit_rounds is
  'Refuses the salted hashes that upgrade_key could not reach in the rounds of one call.';

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
      -- A look-up does not compute slow hashes.
      l.scheme in (select s.name from keylatch_internal.legacy_schemes as s where s.iter > 0)
      or exists (select from keylatch_internal.similar_keys(coalesce(l.parts, array(
        select left(l.clear_part, n) from generate_series(0, length(l.clear_part)) as n
      )), (l.key).workspace_id))
      or l.parts is null and (
        keylatch_internal.similar_rounds(l.clear_part, (l.key).workspace_id) > 0
        -- A waiting row of another hash may have the same text, and may be revoked.
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
  'Lets the keys wait that may be the same key as a salted hash, and the keys of a slow scheme.
Their first use decides.';

create function keylatch_internal.add_hashes(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_line record;
  v_has_schemes constant boolean := exists (select from keylatch_internal.legacy_schemes);
begin
  for v_line in
    select
      l."position", case when v_has_schemes and l.scheme = 'sha256' and not exists (
        select from keylatch_internal.keys as k where k.key_hash = l.text_hash
      ) then keylatch_internal.legacy_hash('sha256', l.text_hash) end as own,
      array(
        select t.key_hash from keylatch_internal.legacy_texts as t where t.text_hash = l.text_hash
      ) as known
    from unnest(p_lines) as l where l.problem is null
  loop
    p_lines[v_line."position"].key.key_hash :=
      coalesce(v_line.own, p_lines[v_line."position"].key.key_hash);
    p_lines[v_line."position"].other_hashes :=
      p_lines[v_line."position"].other_hashes || array_remove(v_line.own || v_line.known, null);
  end loop;
  return p_lines;
end $$;
comment on function keylatch_internal.add_hashes is
  'Adds the hashes of the keys that a first use has shown to have the text of a line. Keeps a
SHA-256 apart from the hash of the text: a look-up by the hash of the text would not see that the
text has a revoked row under a scheme.';

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
begin
  -- An import of salted hashes runs alone, so that no other import misses it. Only imports wait.
  if v_is_salted then
    lock table keylatch_internal.legacy_settings in exclusive mode;
  else
    lock table keylatch_internal.legacy_settings in share mode;
  end if;
  if exists (select from keylatch_internal.legacy_schemes)
    or exists (select from keylatch_internal.legacy_texts) then
    p_lines := keylatch_internal.add_hashes(p_lines);
  end if;
  if v_is_salted then
    p_lines := keylatch_internal.limit_rounds(p_lines);
    p_new := keylatch_internal.insert_lines(array(
      select l from unnest(p_lines) as l where l.problem is null and l.rounds > 0
    ), p_import);
  end if;
  -- Not "rounds >= 0", for which there is no index.
  if exists (select from keylatch_internal.legacy_schemes as s where s.iter > 0) or exists (
    select from keylatch_internal.legacy_keys as g
    where g.workspace_id = any (v_workspaces) and g.rounds > 0 and g.upgraded_at is null
  ) or exists (
    select from keylatch_internal.legacy_keys as g
    where g.workspace_id = any (v_workspaces) and g.rounds = 0 and g.upgraded_at is null
  ) then
    p_lines := keylatch_internal.hold_lines(p_lines);
  end if;
  p_new := p_new || keylatch_internal.insert_lines(array(
    select l from unnest(p_lines) as l
    where l.problem is null and coalesce(l.rounds = 0, true)
      and not exists (
        select from keylatch_internal.keys as k where k.key_hash = any (l.other_hashes)
      )
  ), p_import);
end $$;
comment on function keylatch_internal.write_import is
  'Inserts the keys that do not exist yet: salted hashes that upgrade_key can find, and all others.
Of the others, a key waits if it may be the same key as a salted hash.';

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
    or (v_to.expires_at <= v_soon and coalesce(v_key.expires_at > v_soon, true))
  then
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
  'Revokes, suspends or shortens a key if the line says so, takes over label and scopes, and says
what changed.';

create function keylatch_internal.note_source(p_ids uuid[], p_import jsonb)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- In one order, so that two imports of one source do not deadlock.
  with locked as materialized (
    select g.key_id from keylatch_internal.legacy_keys as g
    where g.key_id = any (p_ids) and g.seen_by <> (p_import ->> 'id')::uuid
    order by g.key_id for update
  )
  update keylatch_internal.legacy_keys as g
  set source = p_import ->> 'source', seen_by = (p_import ->> 'id')::uuid
  from locked as l where g.key_id = l.key_id;
end $$;
comment on function keylatch_internal.note_source is
  'Notes which import of a source named these keys last.';

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
      -- Not "not exists", which a plan for short lists would compare with each line.
      and (l.key).id not in (select n.id from unnest(p_new) as n (id))
    -- In one order, so that two imports of the same keys do not deadlock.
    order by k.created_at, k.id, l."position"
  loop
    v_line := p_lines[v_row."position"];
    v_line.outcome := 'exists';
    if not v_row.is_ours then
      v_line.problem := array[
        'The key already exists in another workspace.',
        'Find out which workspace is right: a key belongs to one workspace.'];
    elsif v_row.is_different then
      v_line := keylatch_internal.move_key(v_row.id, v_line);
    end if;
    if v_row.is_ours then
      -- Not in an expression: that would copy the whole list each time.
      v_known := array_append(v_known, v_row.id);
    end if;
    v_line.key.id := v_row.id;
    p_lines[v_row."position"] := v_line;
  end loop;
  if p_import ->> 'source' <> '' and cardinality(v_known) > 0 then
    perform keylatch_internal.note_source(v_known, p_import);
  end if;
  return p_lines;
end $$;
comment on function keylatch_internal.settle_import is
  'Updates the keys that existed already, and sets the outcome of each line.';

create type keylatch.import_outcome as (
  "position" integer, outcome text, key_id uuid, slug text, detail text, hint text
);
comment on type keylatch.import_outcome is
  'The outcome of the line at this position of a batch, from 1: imported (resolves from now on),
waiting (for its first use), exists (unchanged), changed (label or scopes), moved (revoked,
suspended or expires earlier) or refused, with slug, reason and next step. detail: what changed.';

create type keylatch.import_probe as ("position" integer, verdict text, key_id uuid);
comment on type keylatch.import_probe is
  'What explain_key would answer, after the import, for a key that was passed to try the import.';

create type keylatch.import_report as (
  imported integer, existing integer, moved integer, waiting integer, refused integer,
  lines keylatch.import_outcome[], changed integer, import_id uuid, probes keylatch.import_probe[]
);
comment on type keylatch.import_report is
  'The result of a batch: how many lines had each outcome, the outcome of each line, the id of the
import, and the verdict about each probe.';

create function keylatch_internal.probe_import(p_probes jsonb)
returns keylatch.import_probe[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- In a loop, not in one statement, so that the next probe sees what upgrade_key recorded.
  perform keylatch_internal.upgrade_legacy_key(
    p.probe ->> 'key', (p.probe ->> 'workspace_id')::uuid
  )
  from jsonb_array_elements(p_probes) as p (probe);
  return array(
    select row(p.place, (e.explained).verdict, (e.explained).key_id)::keylatch.import_probe
    from jsonb_array_elements(p_probes) with ordinality as p (probe, place)
    cross join lateral (
      select keylatch_internal.explain(k, p.probe ->> 'key', p.probe ->> 'origin') as explained
      from (select keylatch_internal.find_key(p.probe ->> 'key') as id) as f
      left join keylatch.keys as k on f.id = k.id
    ) as e
    order by p.place
  );
end $$;
comment on function keylatch_internal.probe_import is
  'Tries some keys against what was just imported.';

create function keylatch_internal.report_import(
  p_lines keylatch_internal.import_line[], p_dry_run boolean, p_import_id uuid,
  p_probes keylatch.import_probe[]
)
returns keylatch.import_report language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_report keylatch.import_report;
begin
  select
    count(*) filter (where o.outcome = 'imported'), count(*) filter (where o.outcome = 'exists'),
    count(*) filter (where o.outcome = 'moved'), count(*) filter (where o.outcome = 'waiting'),
    count(*) filter (where o.outcome = 'refused'),
    coalesce(array_agg(
      row(o."position", o.outcome, o.key_id, o.slug, o.detail, o.hint)::keylatch.import_outcome
      order by o."position"
    ), '{}'),
    count(*) filter (where o.outcome = 'changed'), p_import_id, p_probes
  into v_report
  from unnest(p_lines) as l
  cross join lateral (
    select
      l."position", case
        when l.problem is not null then 'refused'
        when l.outcome = 'imported' and l.rounds is not null then 'waiting'
        else l.outcome
      end as outcome,
      case when l.problem is null and not (p_dry_run and l.outcome = 'imported')
        then (l.key).id end as key_id,
      case when l.problem is not null then 'invalid_argument' end as slug,
      coalesce(l.problem[1], l.note) as detail, l.problem[2] as hint
  ) as o;
  return v_report;
end $$;
comment on function keylatch_internal.report_import is 'Makes the report that import_keys returns.';

create function keylatch_internal.take_import(
  p_lines jsonb, p_dry_run boolean, p_strict boolean, p_import jsonb, p_probes jsonb
)
returns keylatch.import_report language plpgsql volatile security definer
-- definer because: an import brings hashes, and only the owner may write that column.
-- enable_seqscan: a plan from the time when the tables were small would read whole tables later.
-- jit: without seqscan, a table that has no index looks so expensive that JIT would compile.
-- work_mem: the lines of a batch take up to 20 MB, and each statement would write them to a file.
set search_path = pg_catalog, pg_temp set timezone = 'UTC'
set enable_seqscan = off set jit = off set work_mem = '32MB' as $$
declare
  v_lines keylatch_internal.import_line[] := keylatch_internal.read_import(
    keylatch_internal.name_workspaces(p_lines)
  );
  v_refused keylatch_internal.import_line;
  v_probes keylatch.import_probe[];
  v_deleted uuid[];
  v_new uuid[];
  v_place integer;
begin
  perform keylatch_internal.require_grants('keylatch_internal.take_import');
  begin
    v_deleted := keylatch_internal.share_import(v_lines);
    for v_place in
      select l."position" from unnest(v_lines) as l where (l.key).workspace_id = any (v_deleted)
    loop
      v_lines[v_place].problem := array[
        'The workspace was deleted, so no key is imported there.',
        'Import the key into a workspace with a new id.'];
    end loop;
    select w.p_lines, w.p_new into v_lines, v_new
    from keylatch_internal.write_import(v_lines, p_import) as w;
    v_lines := keylatch_internal.settle_import(v_lines, p_import, v_new);
    v_probes := keylatch_internal.probe_import(p_probes);
    if p_dry_run then
      raise sqlstate 'UNDO0';
    end if;
  exception
    -- This undoes rows, but not variables, so a dry run reports the same as a real run.
    when sqlstate 'UNDO0' then null;
  end;
  select l.* into v_refused from unnest(v_lines) as l where l.problem is not null limit 1;
  if p_strict and found then
    perform keylatch_internal.refuse(
      'invalid_argument', format('Line %s: %s', v_refused."position", v_refused.problem[1]),
      v_refused.problem[2]
    );
  end if;
  return keylatch_internal.report_import(
    v_lines, p_dry_run, (p_import ->> 'id')::uuid, v_probes
  );
end $$;
comment on function keylatch_internal.take_import is 'Implements keylatch.import_keys.';

create function keylatch.import_keys(
  lines jsonb, dry_run boolean default false, strict boolean default false,
  source text default '', import_id uuid default null, probes jsonb default '[]'
)
returns keylatch.import_report language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_problem constant text[] := case
    when coalesce(jsonb_typeof(import_keys.lines) <> 'array', true)
      or jsonb_array_length(import_keys.lines) > 10000 then array[
      'lines must be a list of up to 10000 objects.',
      'Send several batches: keylatch import does so.']
    when length(import_keys.source) > 200 then array[
      'source must be a text of up to 200 characters.', 'Name the old system and its table.']
    when coalesce(jsonb_typeof(import_keys.probes) <> 'array', true)
      or jsonb_array_length(import_keys.probes) > 20
      or jsonb_path_exists(import_keys.probes, '$[*] ? (@.key.type() != "string"
        || !exists(@.key) || exists(@.workspace_id) && !(@.workspace_id like_regex
        "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"))') then array[
      'probes must be a list of up to 20 objects with key, and perhaps workspace_id and origin.',
      'For example [{"key": "…"}].']
  end;
begin
  if v_problem is not null then
    perform keylatch_internal.refuse('invalid_argument', v_problem[1], v_problem[2]);
  end if;
  return keylatch_internal.take_import(
    import_keys.lines, coalesce(import_keys.dry_run, false), coalesce(import_keys.strict, false),
    jsonb_build_object(
      'id', coalesce(import_keys.import_id, gen_random_uuid()),
      'source', coalesce(import_keys.source, '')
    ),
    import_keys.probes
  );
end $$;
comment on function keylatch.import_keys is
  'Imports the keys of another system, each line on its own: a bad line is refused, and the others
are imported. With strict, nothing is imported if a line is refused. Repeating an import is safe.

lines: up to 10000 objects. A line has workspace_id (or workspace, an external_id of
keylatch.workspaces), and key in plaintext, or hash with hash_encoding (hex or base64) and one of
  scheme: the name of a scheme of declare_scheme, for other hashes without a salt
  alg: sha256 (of the whole key); sha256_salted with salt, salt_encoding (hex, base64 or text) and
    salt_place (before or after the key); pbkdf2_sha1, pbkdf2_sha256 or pbkdf2_sha512 with salt,
    salt_encoding and iter; django (the whole pbkdf2_sha256$iterations$salt$hash); bcrypt ($2a$,
    $2b$ or $2y$, cost to 15; keys over 72 bytes never match)
A salted hash waits until upgrade_key sees its text. So does a key that may be the same key as a
waiting hash. All other keys resolve at once. A salted hash that is imported later, or a hash of the
same text under another scheme, becomes a second key of the text. If one of these is inactive, the
text does not resolve. A key in plaintext, or a SHA-256 that was imported before the first scheme, is
an exception: only its own row counts.
starts_with, ends_with (up to 32 characters; the longer is used) help upgrade_key to find a waiting
key. The keys of a workspace that may have the same text need at most 1200000 rounds together, or
lines are refused.
Further: kind (secret unless the key says otherwise), environment, label, metadata, scopes,
allowed_origins, masked_key, expires_at, suspended_at, revoked_at with revoke_reason, created_at,
created_by, last_used_at. Times are ISO 8601 with a zone. If the key exists already, it gets the
label and the scopes, an earlier expiry, a suspension and a revocation from the line; everything
else stays.
A key in plaintext needs 16 characters, 6 of them different, and must not look like a placeholder,
a hash or a number; force, with a reason, imports it anyway.
dry_run: nothing is written. probes: keys that are tried against the import, also in a dry run.
source and import_id: for finish_import; batches of one file share them.
Errors: invalid_argument (400), for the batch as a whole.';

create function keylatch.finish_import(source text, import_id uuid, "limit" integer default 10000)
returns keylatch.retirement language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.retirement;
begin
  if not exists (
    select from keylatch_internal.legacy_keys as g
    where g.source = finish_import.source and g.seen_by = finish_import.import_id
  ) then
    perform keylatch_internal.refuse(
      'invalid_argument', 'No key of this source was imported with this import_id.',
      'Pass the source and the import_id of the batches of the whole file.'
    );
  end if;
  with locked as materialized (
    select k.id from keylatch.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where g.source = finish_import.source and g.seen_by <> finish_import.import_id
      and k.revoked_at is null and coalesce(k.expires_at > clock_timestamp(), true)
    order by k.created_at, k.id limit finish_import."limit"
    for update of k skip locked
  )
  update keylatch.keys as k
  set revoked_at = clock_timestamp(), revoke_reason = 'deleted in ' || finish_import.source
  from locked as l where k.id = l.id;
  get diagnostics v_result.revoked = row_count;
  v_result.is_done := not exists (
    select from keylatch.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where g.source = finish_import.source and g.seen_by <> finish_import.import_id
      and k.revoked_at is null and coalesce(k.expires_at > clock_timestamp(), true)
  );
  return v_result;
end $$;
comment on function keylatch.finish_import is
  'Revokes up to "limit" keys of a source that the import import_id did not contain. Call
finish_import only after an import of all keys of the source. Repeat it until is_done is true.

Errors: invalid_argument (400), also if the import named no key at all.';

update keylatch_internal.installation set modules = array_append(modules, 'legacy');

-- The grants of this file.
revoke all on table keylatch_internal.import_fields
from public, anon, authenticated, service_role;
revoke all on function
keylatch_internal.mask_key, keylatch_internal.insert_keys, keylatch_internal.read_import_fields,
keylatch_internal.read_plaintext, keylatch_internal.read_verifier,
keylatch_internal.finish_reading, keylatch_internal.note_source,
keylatch_internal.read_legacy_hash, keylatch_internal.name_workspaces,
keylatch_internal.usual_key, keylatch_internal.read_import,
keylatch_internal.share_import, keylatch_internal.insert_lines,
keylatch_internal.similar_rounds, keylatch_internal.limit_rounds, keylatch_internal.hold_lines,
keylatch_internal.add_hashes,
keylatch_internal.write_import, keylatch_internal.move_key, keylatch_internal.settle_import,
keylatch_internal.probe_import, keylatch_internal.report_import, keylatch_internal.take_import,
keylatch.import_keys, keylatch.finish_import
from public, anon, authenticated, service_role;
grant execute on function
keylatch.import_keys, keylatch_internal.take_import, keylatch.finish_import
to service_role;
