"""doctor tells apart: the same database at another URL, a copy, another installation, a replica."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from cli.doctor.examining import examined, only, run, summaries
from keylatch.errors import InvalidArgument
from keylatch.models import Installation
from keylatch_cli.doctor import identity
from keylatch_cli.doctor.anchors import read_anchors
from keylatch_cli.doctor.report import Report, Site
from stack import Cluster, Database, Janitor, People, Server
from stack.database import make_template
from stack.standby import Standby

pytestmark = pytest.mark.one_server


@pytest.fixture
def elsewhere(local_server: Server, janitor: Janitor) -> Iterator[Database]:
    """An installation on a server of its own."""
    with Server(janitor=janitor) as other, Database(other, "other", make_template(other)) as found:
        yield found


def against(database: Database, url: str) -> Report:
    """Examine a database, and compare it with the database at another URL."""
    with psycopg.connect(url, autocommit=True) as other:
        return examined(database, against=other)


def test_another_address_of_the_same_database_is_the_same(
    database: Database, people: People
) -> None:
    report = against(database, database.url.replace("127.0.0.1", "localhost"))
    assert report.findings == ()
    assert report.against == report.site


def test_a_copy_by_create_database_is_not_the_same(
    database: Database, people: People, server: Cluster
) -> None:
    with Database(server, f"copy_{uuid4().hex}", database.name, is_copy=True) as copy:
        finding = only(against(database, copy.url))
        assert summaries([finding]) == [("error", "other_installation", "--against")]
        assert f"database {copy.name} of the same server" in finding.what
        assert "keylatch installation renew" in finding.fix
        assert "keylatch revocations apply" in finding.fix


def test_another_installation_and_a_restored_copy_are_not_the_same(
    database: Database, people: People, elsewhere: Database
) -> None:
    finding = only(against(database, elsewhere.url))
    assert summaries([finding]) == [("error", "other_installation", "--against")]
    assert "another installation" in finding.what
    assert "unknown to the other" in finding.why
    site = examined(database).site
    assert site.installation is not None
    run(elsewhere, f"update keylatch_internal.installation set id = '{site.installation.id}'")
    assert "restored copy" in only(against(database, elsewhere.url)).what


def test_a_database_that_is_older_than_its_last_anchor_is_rolled_back(
    database: Database, people: People, tmp_path: Path
) -> None:
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute("select keylatch.issue_key(%s, 'secret')", [people.a])
        owner.execute("select keylatch.seal_events(1000)")
        row = owner.execute(
            "select number, encode(digest, 'hex'), now() from keylatch_internal"
            ".key_event_checkpoints order by number desc limit 1"
        ).fetchone()
    assert row is not None
    number, digest, at = row
    kept = tmp_path / "anchors.csv"
    for line, expected in (
        (f"{number},{digest},{at}\n", []),
        (f"{number + 1},{digest},{at}\n", [("error", "rolled_back", f"checkpoint {number + 1}")]),
        (f"{number},{'0' * 64},{at}\n", [("error", "anchor_differs", f"checkpoint {number}")]),
    ):
        kept.write_text(line)
        assert summaries(examined(database, anchors=read_anchors(kept)).findings) == expected
    kept.write_text("no anchor\n")
    with pytest.raises(InvalidArgument, match="cannot be read as anchors"):
        read_anchors(kept)


def test_an_address_without_keylatch_or_without_rights_is_said(
    database: Database, people: People, bare: Database
) -> None:
    report = against(database, bare.url)
    assert summaries(report.findings) == [("error", "not_installed", f"database {bare.name}")]
    report = against(database, database.authenticator_url)
    assert report.findings == ()
    assert report.unchecked[0].subject == "--against"


def without_lag(site: Site) -> Site:
    """Return the site without the replica's lag, which differs between two examinations."""
    assert site.installation is not None
    return dataclasses.replace(
        site, installation=dataclasses.replace(site.installation, replica_lag_seconds=None)
    )


def test_a_replica_is_the_same_and_can_be_examined(
    database: Database, people: People, local_server: Server, janitor: Janitor
) -> None:
    with Standby(local_server, janitor=janitor) as standby:
        standby.catch_up()
        report = against(database, standby.url(database.name))
        assert report.findings == ()
        assert report.against is not None
        assert report.against.installation is not None
        assert report.against.installation.is_replica
        on_replica = examined(database, standby.url(database.name))
        assert on_replica.findings == ()
        assert without_lag(on_replica.site) == without_lag(report.against)


@pytest.mark.parametrize(
    ("lag", "words"), [(None, "is not known"), (11.4, "11 s behind"), (9.9, None), (0.0, None)]
)
def test_a_replica_that_is_far_behind_or_cannot_tell_is_a_warning(
    lag: float | None, words: str | None
) -> None:
    replica = Installation(
        id=uuid4(),
        schema_version="0.1.0",
        modules=(),
        database_name="shop",
        database_oid=1,
        installed_at=datetime.now(UTC),
        system_identifier="1",
        is_replica=True,
        replica_lag_seconds=lag,
        made_in="1/1/1",
    )
    findings = list(identity.check_lag("database", replica))
    assert summaries(findings) == ([("warning", "replica_lag", "database")] if words else [])
    assert not words or words in findings[0].what
    primary = dataclasses.replace(replica, is_replica=False)
    assert list(identity.check_lag("database", primary)) == []
