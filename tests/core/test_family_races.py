"""Races in a family: a cascade against repeated rotations, and a PATCH against a rotation."""

from functools import partial
from uuid import UUID

import psycopg
import pytest

from core.racing import REVOKE, ROTATE, Connection, Outcome, System, attempt, together
from stack import HANG_SECONDS, Database, People

PATCH = "update keylatch.keys set revoked_at = now(), revoke_reason = 'leaked' where id = %s"
# A chain of successors. The last %(active)s are not revoked. Returns the first and last.
FAMILY = """
with recursive line as (
  select 1 as n, gen_random_uuid() as id, null::uuid as rotated_from
  union all
  select l.n + 1, gen_random_uuid(), l.id from line as l where l.n < %(size)s
),
made as (
  insert into keylatch_internal.keys (
    id, workspace_id, kind, key_hash, masked_key, rotated_from, created_at,
    updated_at, superseded_at, expires_at, revoked_at, revoke_reason
  )
  select
    l.id, %(workspace)s, 'secret', sha256(l.id::text::bytea), 'wk_sk_live_...1111', l.rotated_from,
    now() - interval '1 day' + l.n * interval '1 s', now(),
    case when l.n < %(size)s then now() end, now() + interval '1 day',
    case when l.n <= %(size)s - %(active)s then now() end,
    case when l.n <= %(size)s - %(active)s then 'rotated' end
  from line as l
)
select l.id from line as l where l.n in (1, %(size)s) order by l.n
"""
GRACES = pytest.mark.parametrize("grace", ["0", "1 hour"])


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


def family(system: System, *, size: int, active: int) -> tuple[UUID, UUID]:
    """The oldest and the youngest key of a new family, which the owner inserts like an import."""
    given = {"workspace": system.workspace, "size": size, "active": active}
    with psycopg.connect(system.database.url, autocommit=True) as owner:
        (oldest,), (youngest,) = owner.execute(FAMILY, given).fetchall()
        owner.execute("analyze keylatch_internal.keys")
    return oldest, youngest


def rotate_on(session: Connection, key: UUID, grace: str, texts: list[str]) -> Outcome:
    """Rotate a key, its successor and so on, up to a thousand times or until a refusal."""
    for _ in range(1000):
        outcome = attempt(session, ROTATE, [key, grace])
        if outcome.word != "done":
            break
        key, text = outcome.row
        texts.append(text)
    return outcome


@GRACES
def test_a_family_that_goes_on_rotating_does_not_outlive_a_cascade(
    system: System, grace: str
) -> None:
    # The cascade needs longer to read this many keys than a rotation takes.
    oldest, youngest = family(system, size=600, active=1)
    rotator, revoker = system.session(), system.session()
    texts: list[str] = []
    revoker.execute("select set_config('statement_timeout', %s, false)", [f"{HANG_SECONDS}s"])
    rotated, revoked = together(
        [
            partial(rotate_on, rotator, youngest, grace, texts),
            partial(attempt, revoker, REVOKE, [oldest, True]),
        ]
    )
    assert (rotated.word, revoked.word) == ("key_revoked", "done")
    assert set(system.statuses()) == {"revoked"}
    assert not any(system.resolves(text) for text in texts)


def test_a_cascade_over_a_long_family_reads_each_key_a_few_times(system: System) -> None:
    """Threat: work that grows with the square of the family outlasts the time of a request."""
    read = (
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_all_tables"
        " where relid = 'keylatch_internal.keys'::regclass"
    )
    _, youngest = family(system, size=800, active=400)
    revoker = system.session(autocommit=False)
    assert attempt(revoker, REVOKE, [youngest, True]).word == "done"
    rows = revoker.execute(read).fetchone()
    revoker.commit()
    assert set(system.statuses()) == {"revoked"}
    assert rows is not None
    assert rows[0] < 20 * 800


@GRACES
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_patch_that_waits_for_a_rotation_revokes_or_hears_that_the_key_is_revoked(
    system: System, grace: str, ending: str
) -> None:
    key, text = system.issue()
    rotator = system.session(autocommit=False)
    made = attempt(rotator, ROTATE, [key, grace])
    patch = system.waiting(PATCH, [key], waits_for=rotator)
    getattr(rotator, ending)()
    rotated = ending == "commit"
    # A rotation without a grace has already revoked the key, with its own reason, which stays.
    expected = "revoked_is_final" if rotated and grace == "0" else "done"
    assert patch.outcome().word == expected
    assert system.statuses() == ["revoked", *(["active"] if rotated else [])]
    assert not system.resolves(text)
    assert system.resolves(made.row[1]) == rotated


@GRACES
def test_a_rotation_that_waits_for_a_patch_makes_no_successor_of_a_revoked_key(
    system: System, grace: str
) -> None:
    key, text = system.issue()
    patcher = system.session(autocommit=False)
    assert attempt(patcher, PATCH, [key]).word == "done"
    rotation = system.waiting(ROTATE, [key, grace], waits_for=patcher)
    patcher.commit()
    assert rotation.outcome().word == "key_revoked"
    assert system.statuses() == ["revoked"]
    assert not system.resolves(text)
