"""The calls of the modules events and usage, over every transport."""

from collections.abc import Callable
from datetime import UTC, datetime

from client.system import System
from keylatch import Keylatch
from keylatch.models import KeyUsage

ActAs = Callable[..., Keylatch]


def test_events_come_in_pages_the_newest_first_and_their_seal_is_verified(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    issued = kl.issue(system.people.a, label="before")
    kl.revoke(issued.id, reason="leaked")
    (newest,) = kl.events(system.people.a, limit=1)
    assert (newest.event, newest.key_id, newest.reason) == ("revoked", issued.id, "leaked")
    assert newest.user_id == system.people.alice
    (before,) = kl.events(system.people.a, after=newest.id, limit=1)
    assert (before.event, before.key_id) == ("issued", issued.id)
    assert before.changes["label"] == {"new": "before"}

    service = act_as("service_role")
    assert service.seal_events(limit=100_000).is_done
    assert kl.events(system.people.a, limit=1)[0].checkpoint is not None
    found = kl.verify_events(limit=1000)
    assert (found.is_intact, found.unsealed, found.next_checkpoint) == (True, 0, None)
    assert found.digest


def test_uses_and_refusals_are_reported_and_read(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    issued, now = kl.issue(system.people.a, kind="secret"), datetime.now(UTC)
    assert kl.usage(issued.id) is None
    uses = [KeyUsage(key_id=issued.id, uses=3, last_used_at=now)]
    service = act_as("keylatch_resolver")
    assert service.record_usage(uses, refusals={issued.id: {"expired": 2}}) == frozenset()
    assert service.record_usage([], refusals={issued.id: {"expired": 1}}) == frozenset()
    assert kl.usage(issued.id) == uses[0]
    refusals = system.owner.execute(
        "select verdict, refusals from keylatch.key_refusals where key_id = %s", [issued.id]
    ).fetchall()
    assert refusals == [("expired", 3)]
