"""Extreme values that the database accepts, written by every path and read by every client."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from client.system import Clients, System
from keylatch import Keylatch
from keylatch.models import ResolvedKey

LAST = datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
WIDE = "\U0001d518"  # Four bytes of UTF-8, two units of UTF-16.


def nested(levels: int) -> dict[str, Any]:
    """Return an object of nested lists and objects with this many levels below it."""
    inner: Any = [] if levels % 2 else {}
    for level in range(levels - 1, 0, -1):
        inner = [inner] if level % 2 else {"a": inner}
    return {"a": inner}


VALUES: dict[str, dict[str, Any]] = {
    "the longest label": {"label": WIDE * 200},
    "the largest metadata": {"metadata": {"a": "x" * (8192 - len('{"a": ""}'))}},
    "the deepest metadata": {"metadata": nested(15)},
    # jsonb stores numbers in decimal, so it returns a large float as an integer.
    "the largest numbers": {
        "metadata": {"a": [17976931348623157 * 10**292, -(10**308), 2**63, 5e-324]}
    },
    "odd texts": {"metadata": {'"\\\u007f\u2028': "\ud7ff\ue000\uffff" + WIDE, "": None}},
    "the last expiry": {"expires_at": LAST},
    "the most scopes": {"scopes": [f"{n:02d}" + "s" * 62 for n in range(64)]},
    "the most origins": {
        "kind": "publishable",
        "allowed_origins": [
            f"https://{'a' * 63}.{'b' * 63}.{'c' * 63}.x{n}.example:65535" for n in range(100)
        ],
    },
}


@dataclass(frozen=True, slots=True)
class Written:
    """A key, its text, and the values that were written."""

    workspace: UUID
    id: UUID
    key: str
    values: dict[str, Any]

    @property
    def origin(self) -> str | None:
        """The origin to resolve the key from, or None for a secret key."""
        return next(iter(self.values.get("allowed_origins", [])), None)


def by_issue(service: Keylatch, system: System, workspace: UUID, values: dict[str, Any]) -> Written:
    issued = service.issue(workspace, **{"kind": "secret", **values})
    return Written(workspace, issued.id, issued.key.reveal(), values)


def by_rotation(
    service: Keylatch, system: System, workspace: UUID, values: dict[str, Any]
) -> Written:
    first = by_issue(service, system, workspace, values)
    issued = service.rotate(first.id)
    return Written(workspace, issued.id, issued.key.reveal(), values)


def by_patch(service: Keylatch, system: System, workspace: UUID, values: dict[str, Any]) -> Written:
    changes = {name: value for name, value in values.items() if name != "kind"}
    issued = service.issue(workspace, kind=values.get("kind", "secret"))
    answer = system.rest.request(
        "PATCH",
        f"keys?id=eq.{issued.id}",
        token=system.token("service_role"),
        json=json.loads(json.dumps(changes, default=str)),
    )
    assert answer.status_code == 204, answer.text
    return Written(workspace, issued.id, issued.key.reveal(), values)


def by_import(
    service: Keylatch, system: System, workspace: UUID, values: dict[str, Any]
) -> Written:
    key = f"Imported-{uuid4()}"
    line = {"workspace_id": workspace, "key": key, "kind": "secret", **values}
    (outcome,) = service.import_keys([line]).lines
    assert outcome.outcome == "imported", outcome
    assert outcome.key_id is not None
    return Written(workspace, outcome.key_id, key, values)


PATHS: dict[str, Callable[[Keylatch, System, UUID, dict[str, Any]], Written]] = {
    "issue": by_issue,
    "rotate": by_rotation,
    "patch": by_patch,
    "import": by_import,
}


@pytest.fixture(scope="module")
def written(system: System) -> Iterator[dict[str, list[Written]]]:
    """Write each extreme by each path. The keys of one extreme share a workspace."""
    with psycopg.connect(system.database.authenticator_url, autocommit=True) as connection:
        service = Keylatch.from_psycopg(connection, claims=system.claims("service_role"))
        yield {
            name: [path(service, system, workspace, values) for path in PATHS.values()]
            for name, values in VALUES.items()
            for workspace in [uuid4()]
        }


def is_as_written(row: Any, values: dict[str, Any]) -> bool:
    """Whether a client read the values that were written."""
    shown = {"kind", "metadata", "scopes"} if isinstance(row, ResolvedKey) else set(values)
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in shown and name != "expires_at"
    }
    read = {name: getattr(row, name) for name in given}
    return read == given and row.expires_at == values.get("expires_at")


@pytest.mark.parametrize("name", VALUES)
def test_an_extreme_is_read_as_it_was_written_alone_and_beside_another_tenant(
    clients: Clients, system: System, written: dict[str, list[Written]], name: str
) -> None:
    service = clients.act_as("service_role")
    other = service.issue(system.people.b, kind="secret")
    keys = written[name]
    for one in keys:
        found = service.resolve(one.key, origin=one.origin)
        assert found is not None
        assert is_as_written(found, one.values)
        assert is_as_written(service.show(one.id), one.values)
        assert service.explain(one.key, origin=one.origin).verdict == "valid"
    batch = [other.key.reveal(), *(one.key for one in keys)]
    origins = [None, *(one.origin for one in keys)]
    neighbor, *found_many = service.resolve_many(batch, origins=origins)
    assert neighbor is not None
    assert all(is_as_written(row, keys[0].values) for row in found_many)
    listed = {row.id: row for row in service.list(keys[0].workspace)}
    assert all(is_as_written(listed[one.id], one.values) for one in keys)
    assert {event.key_id for event in service.events(keys[0].workspace)} == set(listed)


def test_the_longest_reason_is_read_as_it_was_written(clients: Clients, system: System) -> None:
    service = clients.act_as("service_role")
    issued = service.issue(system.people.b, kind="secret")
    service.revoke(issued.id, reason=WIDE * 500)
    assert service.show(issued.id).revoke_reason == WIDE * 500
    assert WIDE * 500 in [event.reason for event in service.events(system.people.b)]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
def test_the_last_expiry_is_read_in_every_time_zone(
    system: System, written: dict[str, list[Written]], zone: str
) -> None:
    with psycopg.connect(system.database.authenticator_url, autocommit=True) as connection:
        connection.execute("select set_config('TimeZone', %s, false)", [zone])
        service = Keylatch.from_psycopg(connection, claims=system.claims("service_role"))
        for one in written["the last expiry"]:
            assert service.show(one.id).expires_at == LAST
            found = service.resolve(one.key)
            assert found is not None
            assert found.expires_at == LAST


@pytest.mark.parametrize("moment", ["9999-01-01T00:00:00Z", "9999-12-31T23:30:00Z"])
def test_an_expiry_that_a_client_may_not_be_able_to_read_is_refused_by_every_path(
    system: System, moment: str
) -> None:
    """East of Greenwich the last moment is in the year 10000, which Python cannot represent."""
    issue = "select id from keylatch.issue_key(%(workspace)s, 'secret', expires_at => %(moment)s)"
    with psycopg.connect(system.database.url, autocommit=True) as owner:
        values = {"workspace": system.people.b, "moment": "2999-01-01T00:00:00Z"}
        (values["key"],) = owner.execute(issue, values).fetchone() or (None,)
        values["moment"] = moment
        patch = "update keylatch.keys set expires_at = %(moment)s where id = %(key)s"
        for statement in (
            issue,
            "select id from keylatch.rotate_key(%(key)s, expires_at => %(moment)s)",
            patch,
        ):
            with pytest.raises(psycopg.DatabaseError, match="invalid_argument") as caught:
                owner.execute(statement.encode(), values)
            assert caught.value.diag.message_detail == (
                "expires_at must be in the future and before the year 9999."
            )
    with psycopg.connect(system.database.superuser_url, autocommit=True) as applying:
        applying.execute("set session_replication_role = replica")
        with pytest.raises(psycopg.errors.CheckViolation):
            applying.execute(patch, {**values, "moment": "9999-12-31T23:30:00Z"})
