"""A logical replica: a second database of the same server that subscribes to tables of keylatch."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from stack.cluster import Cluster
from stack.database import Database


@contextmanager
def subscribed(
    server: Cluster, template: str, publisher: Database, *tables: str
) -> Iterator[Database]:
    """Yield the replica. Afterwards drop the subscription first, because it would keep its slot."""
    published = sql.SQL(", ").join(sql.Identifier("keylatch_internal", name) for name in tables)
    with Database(server, f"{publisher.name}_replica", template) as replica:
        source, target = publisher.connect(superuser=True), replica.connect(superuser=True)
        # A worker waits this long before it restarts; the default is 5 seconds.
        source.execute("alter system set wal_retrieve_retry_interval = '100ms'")
        source.execute("select pg_reload_conf()")
        source.execute(sql.SQL("create publication keys for table {}").format(published))
        # On one server the slot must be created first, or both sides wait for each other.
        source.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [replica.name])
        target.execute(
            sql.SQL(
                "create subscription keys connection {} publication keys"
                " with (create_slot = false, slot_name = {})"
            ).format(sql.Literal(publisher.inner_url), sql.Identifier(replica.name))
        )
        try:
            yield replica
        finally:
            target.execute("drop subscription if exists keys")
