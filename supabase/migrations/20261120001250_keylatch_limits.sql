-- How often somebody may do what costs something: a fixed window of a minute for each subject.

-- Unlogged: after a crash everybody begins anew, and no permit is written to the log.
create unlogged table keylatch_internal.permits (
  kind text not null,
  subject text not null,
  window_ends_at timestamptz not null,
  taken bigint not null,

  constraint permits_pkey primary key (kind, subject)
) with (fillfactor = 50);

comment on table keylatch_internal.permits is
  'How often each subject did something in its current window. Nobody but the owner reads it.';
comment on column keylatch_internal.permits.kind is 'What is limited, such as open_session.';
comment on column keylatch_internal.permits.subject is
  'Who: the id of a key or a workspace, and the address where that counts too.';
comment on column keylatch_internal.permits.window_ends_at is
  'A minute after the first of the window.';
comment on column keylatch_internal.permits.taken is 'How many in this window, refused ones not.';

revoke all on table keylatch_internal.permits from public, anon, authenticated, service_role;
alter table keylatch_internal.permits enable row level security;

create function keylatch_internal.take_permit(p_kind text, p_subject text, p_limit bigint)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_now constant pg_catalog.timestamptz := clock_timestamp();
  v_seconds integer;
  v_detail pg_catalog.text;
  v_hint constant pg_catalog.text := 'Wait so long, and do not try more often than you have to.';
begin
  -- One row for each subject: who shares a subject takes turns, and nobody else waits.
  insert into keylatch_internal.permits as p (kind, subject, window_ends_at, taken)
  values (p_kind, p_subject, v_now + interval '1 minute', 1)
  on conflict (kind, subject) do update set
    taken = case when p.window_ends_at <= v_now then 1 else p.taken + 1 end,
    window_ends_at = case
      when p.window_ends_at <= v_now then excluded.window_ends_at else p.window_ends_at
    end
  where p.window_ends_at <= v_now or p.taken < p_limit;
  if found then
    return;
  end if;

  select greatest(ceil(extract(epoch from p.window_ends_at - v_now)), 1)
  into v_seconds
  from keylatch_internal.permits as p
  where p.kind = p_kind and p.subject = p_subject;
  v_detail := format('More than %s in a minute. Try again in %s s.', p_limit, v_seconds);
  if coalesce(current_setting('request.method', true), '') <> '' then
    -- PostgREST's own form, the only one that brings a header with an error.
    raise sqlstate 'PGRST' using
      message = jsonb_build_object(
        'code', 'PT429', 'message', 'too_many_requests', 'details', v_detail, 'hint', v_hint
      ),
      detail = jsonb_build_object(
        'status', 429, 'headers', jsonb_build_object('Retry-After', v_seconds::pg_catalog.text)
      );
  end if;
  raise sqlstate 'PT429' using
    message = 'too_many_requests', detail = v_detail, hint = v_hint;
end;
$$;

comment on function keylatch_internal.take_permit(text, text, bigint) is
  'Counts one for this subject, or refuses it with too_many_requests (429, Retry-After over REST)
when its window of a minute is full. What is rolled back afterwards is not counted.';

revoke all on function keylatch_internal.take_permit(text, text, bigint)
from public, anon, authenticated, service_role;

create function keylatch_internal.client_address()
returns text
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_header constant pg_catalog.text := (
    select i.trusted_address_header from keylatch_internal.installation as i
  );
  v_given pg_catalog.text;
begin
  if v_header is null then
    return null;
  end if;
  v_given := nullif(current_setting('request.headers', true), '')::pg_catalog.jsonb ->> v_header;
  -- A gateway adds what it saw behind what the client claimed.
  v_given := trim(split_part(coalesce(v_given, ''), ',', -1));
  if v_given !~ '^[0-9a-fA-F:.]{2,45}$' then
    -- Who comes past the gateway shares one.
    return 'unknown';
  end if;
  -- Of IPv6 the network: a single household has 2^64 addresses.
  return case family(v_given::pg_catalog.inet)
    when 4 then host(v_given::pg_catalog.inet)
    else network(set_masklen(v_given::pg_catalog.inet, 64))::pg_catalog.text
  end;
exception
  when invalid_text_representation then
    return 'unknown';
end;
$$;

comment on function keylatch_internal.client_address() is
  'Where the request comes from, by the header that the installation trusts; null without one.';

revoke all on function keylatch_internal.client_address()
from public, anon, authenticated, service_role;
