"""A logical replica with imported keys: a first use at the replica does not stop replication."""

from core.racing import REVOKE, System
from modules.test_import import resolves
from modules.test_upgrade import salted, upgrade
from stack import Cluster, Database, People, until
from stack.subscriber import subscribed

TABLES = ("keys", "legacy_keys", "legacy_texts")


def test_a_first_use_at_the_replica_and_at_the_publisher_does_not_stop_the_replica(
    server: Cluster, template: str, database: Database, people: People
) -> None:
    system = System(database, people)
    service = database.connect("service_role")
    both, there = "a key that is used at both", "a key that is used there"
    ids = [salted(service, key) for key in (both, there)]
    with subscribed(server, template, database, *TABLES) as replica:
        other = System(replica, people)
        subscriber = replica.connect("service_role")
        used = "select upgraded_at from keylatch_internal.legacy_keys where key_id = %s"
        until(lambda: len(other.owner.execute("select from keylatch.legacy_keys").fetchall()) == 2)
        assert upgrade(subscriber, both) == ids[0]
        before = other.owner.execute(used, [ids[0]]).fetchone()
        assert [upgrade(service, key) for key in (both, there)] == ids
        # These changes arrive after the first uses, so the worker has applied the first uses.
        until(lambda: resolves(other, there) == ids[1], "the worker stopped")
        assert other.owner.execute(used, [ids[0]]).fetchone() == before
        system.session().execute(REVOKE, [ids[0], False])
        until(lambda: resolves(other, both) is None, "the worker stopped")
