"""The client refuses an argument only if the database would receive another value."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.vectors import SECRET
from keylatch import Keylatch, Secret
from keylatch.errors import InvalidArgument, NotInstalled
from keylatch.models import KeyUsage
from keylatch.transports.wire import plain

pytestmark = pytest.mark.one_server

ID = UUID(int=1)
ANY_TEXT = st.text(st.characters())


class Sent(Exception):
    """The call reached the transport."""


class RecordingTransport:
    """Keeps the arguments of a call instead of sending them."""

    def __init__(self) -> None:
        self.arguments: Mapping[str, object] = {}

    def call(self, function: str, arguments: Mapping[str, object]) -> Any:
        self.arguments = arguments
        raise Sent(function)


def sent(call: Callable[[Keylatch], object]) -> dict[str, Any]:
    """Return the arguments that a call sends, as JSON values."""
    transport = RecordingTransport()
    with pytest.raises(Sent):
        call(Keylatch(transport))
    arguments: dict[str, Any] = json.loads(json.dumps(transport.arguments, default=plain))
    return arguments


def refused(call: Callable[[Keylatch], object]) -> str:
    """Return the error's detail after the client has refused to send a call."""
    transport = RecordingTransport()
    with pytest.raises(InvalidArgument) as caught:
        call(Keylatch(transport))
    assert caught.value.slug == "invalid_argument"
    assert caught.value.sqlstate is None
    assert caught.value.__cause__ is None
    return str(caught.value.detail)


def test_every_argument_is_sent_in_the_form_of_json() -> None:
    everything = sent(
        lambda kl: kl.issue(
            str(ID).upper(),
            kind="secret",
            label="Bücher",
            allowed_origins={"https://a.example": 1}.keys(),
            scopes=(scope for scope in ["read"]),
            environment="test",
            expires_at=datetime(2027, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            metadata=MappingProxyType({"a": [1, None, {"b": True}]}),
            prefix="acme",
        )
    )
    assert everything == {
        "workspace_id": str(ID),
        "kind": "secret",
        "label": "Bücher",
        "allowed_origins": ["https://a.example"],
        "scopes": ["read"],
        "environment": "test",
        "expires_at": "2027-01-01T00:00:00+00:00",
        "metadata": {"a": [1, None, {"b": True}]},
        "prefix": "acme",
    }


def test_the_defaults_are_those_of_the_contract() -> None:
    assert sent(lambda kl: kl.issue(ID)) == {
        "workspace_id": str(ID),
        "kind": "publishable",
        "label": "",
        "allowed_origins": [],
        "scopes": [],
        "environment": "live",
        "expires_at": None,
        "metadata": {},
        "prefix": "wk",
    }
    assert sent(lambda kl: kl.rotate(ID)) == {
        "key_id": str(ID),
        "grace": "0 microseconds",
        "expires_at": None,
    }
    assert sent(lambda kl: kl.revoke(ID)) == {
        "key_id": str(ID),
        "reason": None,
        "cascade": False,
    }
    assert sent(lambda kl: kl.retire_workspace(ID)) == {"workspace_id": str(ID), "limit": 10_000}
    assert sent(lambda kl: kl.events(ID)) == {
        "workspace_id": str(ID),
        "after": None,
        "limit": 1000,
    }
    assert sent(lambda kl: kl.seal_events()) == {"limit": 10_000}
    assert sent(lambda kl: kl.verify_events()) == {"from_checkpoint": 1, "limit": 100}
    assert sent(lambda kl: kl.wait_for_replicas()) == {"timeout": "10000000 microseconds"}
    assert sent(lambda kl: kl.end_sessions(ID)) == {"key_id": str(ID), "reason": None}
    assert sent(lambda kl: kl.resolve_session("t")) == {"token": "t", "extend": False}
    assert sent(lambda kl: kl.upgrade_key("k")) == {
        "key": "k",
        "workspace_id": None,
        "origin": None,
    }
    assert sent(lambda kl: kl.import_keys([])) == {
        "lines": [],
        "dry_run": False,
        "strict": False,
        "source": "",
        "import_id": None,
        "probes": [],
    }
    assert sent(lambda kl: kl.resolve("k")) == {"key": "k", "origin": None}
    assert sent(lambda kl: kl.explain("k", origin="")) == {"key": "k", "origin": ""}


def test_a_grace_is_sent_in_microseconds_so_that_no_change_of_clocks_alters_it() -> None:
    for grace, text in [
        (timedelta(days=1), "86400000000 microseconds"),
        (timedelta(hours=-1), "-3600000000 microseconds"),
        (timedelta(microseconds=2**63 - 1), f"{2**63 - 1} microseconds"),
    ]:
        assert sent(partial(Keylatch.rotate, key_id=ID, grace=grace))["grace"] == text


UUID_CALLS: dict[str, Callable[[Keylatch, Any], object]] = {
    "issue workspace_id": lambda kl, value: kl.issue(value),
    "list workspace_id": lambda kl, value: kl.list(value),
    "rotate key_id": lambda kl, value: kl.rotate(value),
    "revoke key_id": lambda kl, value: kl.revoke(value),
    "suspend key_id": lambda kl, value: kl.suspend(value),
    "unsuspend key_id": lambda kl, value: kl.unsuspend(value),
    "end_sessions key_id": lambda kl, value: kl.end_sessions(value),
    "retire_workspace workspace_id": lambda kl, value: kl.retire_workspace(value),
    "legacy_keys workspace_id": lambda kl, value: kl.legacy_keys(value),
    "revoke_legacy_key id": lambda kl, value: kl.revoke_legacy_key(value),
    "events workspace_id": lambda kl, value: kl.events(value),
    "show key_id": lambda kl, value: kl.show(value),
}
NO_UUIDS = [
    "",
    "1",
    SECRET,
    str(ID)[:-1],
    str(ID) + "\n",
    f"{{{ID}}}",
    f"urn:uuid:{ID}",
    str(ID).replace("-", "_"),
    str(ID).replace("-", "", 1),
    "0" * 31 + "_",
    "+" + "0" * 31,
    "00000000-0000000000000000-00000000",
    "٠" * 32,
    "\x00",
    None,
    5,
    b"0" * 32,
    ID.bytes,
    [ID],
    Secret(SECRET),
]


@pytest.mark.parametrize("value", NO_UUIDS, ids=repr)
@pytest.mark.parametrize("call", UUID_CALLS)
def test_an_invalid_uuid_is_refused_by_field_and_not_repeated(call: str, value: object) -> None:
    detail = refused(lambda kl: UUID_CALLS[call](kl, value))
    assert detail.startswith(call.split()[1])
    assert "UUID" in detail
    assert SECRET not in detail


@pytest.mark.parametrize("value", [ID, str(ID), str(ID).upper(), ID.hex], ids=repr)
def test_every_usual_form_of_a_uuid_is_sent_in_the_one_form(value: UUID | str) -> None:
    assert sent(lambda kl: kl.revoke(value))["key_id"] == str(ID)


WRONG: list[tuple[str, Callable[[Keylatch], object]]] = [
    ("kind", lambda kl: kl.issue(ID, kind=None)),  # type: ignore[arg-type]
    ("kind", lambda kl: kl.issue(ID, kind="secret\x00")),
    ("label", lambda kl: kl.issue(ID, label=5)),  # type: ignore[arg-type]
    ("label", lambda kl: kl.issue(ID, label="\x00")),
    ("label", lambda kl: kl.issue(ID, label="\ud800")),
    ("label", lambda kl: kl.issue(ID, label=Secret(SECRET))),  # type: ignore[arg-type]
    ("prefix", lambda kl: kl.issue(ID, prefix="\udfff")),
    ("environment", lambda kl: kl.issue(ID, environment=b"live")),  # type: ignore[arg-type]
    ("allowed_origins", lambda kl: kl.issue(ID, allowed_origins="https://a.example")),
    ("allowed_origins", lambda kl: kl.issue(ID, allowed_origins=None)),  # type: ignore[arg-type]
    ("allowed_origins", lambda kl: kl.issue(ID, allowed_origins={"https://a.example": 1})),
    ("allowed_origins", lambda kl: kl.issue(ID, allowed_origins=[None])),  # type: ignore[list-item]
    ("allowed_origins", lambda kl: kl.issue(ID, allowed_origins=["https://a\x00.example"])),
    ("scopes", lambda kl: kl.issue(ID, scopes="read")),
    ("scopes", lambda kl: kl.issue(ID, scopes=b"read")),  # type: ignore[arg-type]
    ("scopes", lambda kl: kl.issue(ID, scopes=7)),  # type: ignore[arg-type]
    ("scopes", lambda kl: kl.issue(ID, scopes=["\ud800"])),
    ("expires_at", lambda kl: kl.issue(ID, expires_at=datetime(2030, 1, 1))),
    ("expires_at", lambda kl: kl.issue(ID, expires_at=date(2030, 1, 1))),  # type: ignore[arg-type]
    ("expires_at", lambda kl: kl.issue(ID, expires_at="infinity")),  # type: ignore[arg-type]
    ("expires_at", lambda kl: kl.issue(ID, expires_at=timedelta(1))),  # type: ignore[arg-type]
    (
        "expires_at",
        lambda kl: kl.rotate(
            ID, expires_at=datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))
        ),
    ),
    ("metadata", lambda kl: kl.issue(ID, metadata=[])),  # type: ignore[arg-type]
    ("metadata", lambda kl: kl.issue(ID, metadata="{}")),  # type: ignore[arg-type]
    ("metadata", lambda kl: kl.issue(ID, metadata={"a": float("nan")})),
    ("metadata", lambda kl: kl.issue(ID, metadata={"a": float("-inf")})),
    ("metadata", lambda kl: kl.issue(ID, metadata={"a": {1, 2}})),
    ("metadata", lambda kl: kl.issue(ID, metadata={"a": Secret(SECRET)})),
    ("metadata", lambda kl: kl.issue(ID, metadata={"a": 10**5000})),
    ("metadata", lambda kl: kl.issue(ID, metadata={("a",): 1})),  # type: ignore[dict-item]
    ("metadata", lambda kl: kl.issue(ID, metadata={"a": ["\x00"]})),
    ("metadata", lambda kl: kl.issue(ID, metadata={"a": {"\ud800": 1}})),
    ("metadata", lambda kl: kl.issue(ID, metadata=nested(100_000))),
    ("grace", lambda kl: kl.rotate(ID, grace=5)),  # type: ignore[arg-type]
    ("grace", lambda kl: kl.rotate(ID, grace="1 day")),  # type: ignore[arg-type]
    ("grace", lambda kl: kl.rotate(ID, grace=None)),  # type: ignore[arg-type]
    ("grace", lambda kl: kl.rotate(ID, grace=timedelta.max)),
    ("grace", lambda kl: kl.rotate(ID, grace=timedelta.min)),
    ("reason", lambda kl: kl.revoke(ID, reason=5)),  # type: ignore[arg-type]
    ("reason", lambda kl: kl.revoke(ID, reason="a\x00b")),
    ("cascade", lambda kl: kl.revoke(ID, cascade=1)),  # type: ignore[arg-type]
    ("cascade", lambda kl: kl.revoke(ID, cascade=None)),  # type: ignore[arg-type]
    ("wait_for_replicas", lambda kl: kl.revoke(ID, wait_for_replicas=1)),  # type: ignore[arg-type]
    ("limit", lambda kl: kl.retire_workspace(ID, limit=True)),
    ("limit", lambda kl: kl.retire_workspace(ID, limit=2**63)),
    ("limit", lambda kl: kl.events(ID, limit="5")),  # type: ignore[arg-type]
    ("after", lambda kl: kl.events(ID, after="5")),
    ("from_checkpoint", lambda kl: kl.verify_events(from_checkpoint=1.0)),  # type: ignore[arg-type]
    ("timeout", lambda kl: kl.wait_for_replicas(timeout=5)),  # type: ignore[arg-type]
    ("strict", lambda kl: kl.import_keys([], strict=None)),  # type: ignore[arg-type]
    ("workspace_id", lambda kl: kl.upgrade_key("k", workspace_id="5")),
    ("key", lambda kl: kl.resolve(None)),  # type: ignore[arg-type]
    ("key", lambda kl: kl.resolve(SECRET.encode())),  # type: ignore[arg-type]
    ("key", lambda kl: kl.explain(5)),  # type: ignore[arg-type]
    ("origin", lambda kl: kl.resolve("k", origin=5)),  # type: ignore[arg-type]
    ("origin", lambda kl: kl.explain("k", origin=b"https://a.example")),  # type: ignore[arg-type]
]


def nested(depth: int) -> dict[str, Any]:
    """Return an object that contains this many objects inside each other."""
    content: dict[str, Any] = {}
    for _ in range(depth):
        content = {"a": content}
    return content


@pytest.mark.parametrize(("field", "call"), WRONG)
def test_a_value_that_would_arrive_as_another_value_is_refused_by_field(
    field: str, call: Callable[[Keylatch], object]
) -> None:
    detail = refused(call)
    assert detail.startswith(f"{field} ")
    assert SECRET not in detail


def test_values_that_only_break_a_rule_are_sent_to_the_database() -> None:
    arguments = sent(
        lambda kl: kl.issue(
            ID,
            kind="nonsense",
            label="\x07" * 1000,
            allowed_origins=["not an origin"] * 1000,
            scopes=["Not A Word"],
            environment="",
            expires_at=datetime(1, 1, 1, tzinfo=UTC),
            metadata={"a": "x" * 100_000},
            prefix="",
        )
    )
    assert arguments["kind"] == "nonsense"
    assert arguments["expires_at"] == "0001-01-01T00:00:00+00:00"
    assert len(arguments["allowed_origins"]) == 1000


def test_metadata_is_copied_when_the_call_is_made() -> None:
    transport = RecordingTransport()
    metadata = {"a": [1]}
    with pytest.raises(Sent):
        Keylatch(transport).issue(ID, metadata=metadata)
    metadata["a"].append(2)
    assert transport.arguments["metadata"] == {"a": [1]}


@given(text=ANY_TEXT, origin=st.none() | ANY_TEXT)
@example(text="\x00\ud800\udfff", origin="\x00")
@example(text=SECRET + "\udc80", origin=None)
@example(text=SECRET + "x" * 2_000_000, origin="https://a.example" + " " * 100_000)
def test_any_text_is_sent_for_the_database_to_judge(text: str, origin: str | None) -> None:
    for arguments in (
        sent(lambda kl: kl.resolve(text, origin=origin)),
        sent(lambda kl: kl.explain(Secret(text), origin=origin)),
    ):
        for given_text, sent_text in [(text, arguments["key"]), (origin, arguments["origin"])]:
            if given_text is None:
                assert sent_text is None
                continue
            assert "\x00" not in sent_text
            sent_text.encode()
            assert len(sent_text) <= 8193
            # The text is unchanged, or it cannot be a key or an origin.
            assert sent_text == given_text or "\ufffd" in sent_text


def test_the_key_is_a_secret_from_the_client_to_the_transport() -> None:
    transport = RecordingTransport()
    for key in (SECRET, Secret(SECRET)):
        with pytest.raises(Sent):
            Keylatch(transport).resolve(key)
        assert transport.arguments["key"] == Secret(SECRET)
        assert SECRET not in repr(transport.arguments)


def test_the_error_of_an_old_schema_is_no_value_error() -> None:
    """`except ValueError` around a call must catch bad arguments but no errors of the setup."""
    assert issubclass(InvalidArgument, ValueError)
    assert not issubclass(NotInstalled, ValueError)


def test_a_batch_that_names_a_key_twice_is_refused() -> None:
    use = KeyUsage(key_id=ID, last_used_at=datetime.now(UTC), uses=1)
    same = KeyUsage(key_id=str(ID).upper(), last_used_at=use.last_used_at, uses=1)  # type: ignore[arg-type]
    assert refused(lambda kl: kl.record_usage([use, use])) == "uses names a key twice"
    assert refused(lambda kl: kl.record_usage([use, same])) == "uses names a key twice"


@pytest.mark.parametrize(
    ("call", "detail"),
    [
        (lambda kl: kl.record_usage(None), "uses is None, not a list of KeyUsage"),
        (lambda kl: kl.record_usage([(ID, 1)]), "uses is tuple, not a KeyUsage"),
        (lambda kl: kl.record_usage([usage(uses=object())]), "uses is object, not an int"),
        (
            lambda kl: kl.record_usage([usage(last_used_at=1)]),
            "last_used_at is int, not a datetime",
        ),
        (lambda kl: kl.record_usage([usage(key_id="x")]), "key_id is not a UUID"),
        (lambda kl: kl.record_usage(refusals=[ID]), "refusals is list, not a mapping"),
        (lambda kl: kl.record_usage(refusals={ID: None}), "refusals is None, not a JSON object"),
        (
            lambda kl: kl.record_usage(refusals={ID: {"revoked": object()}}),
            "refusals has a value that JSON cannot hold",
        ),
        (
            lambda kl: kl.import_keys([{"key": "x", "n": float("nan")}]),
            "lines[1].n is not a number that JSON can hold",
        ),
        (lambda kl: kl.seal_events(limit=2**40), "limit is larger than the database can hold"),
    ],
)
def test_what_json_or_sql_cannot_hold_is_named(
    call: Callable[[Keylatch], object], detail: str
) -> None:
    assert refused(call) == detail


def usage(**fields: Any) -> KeyUsage:
    return KeyUsage(**{"key_id": ID, "last_used_at": datetime.now(UTC), "uses": 1, **fields})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"label": "a\0b"}, "lines[1].label has a NUL or a lone surrogate, which is not allowed"),
        ({"label": "\ud800"}, "lines[1].label has a NUL or a lone surrogate, which is not allowed"),
        ({"key": "a\0b"}, "lines[1].key has a NUL or a lone surrogate, which is not allowed"),
        ({"la\0bel": "a"}, "lines[1] has a NUL or a lone surrogate, which is not allowed"),
        ({"\ud800": "a"}, "lines[1] has a NUL or a lone surrogate, which is not allowed"),
        ({7: "a"}, "lines[1] is int, not a string"),
        (["label"], "lines[1] is list, not a JSON object"),
    ],
)
def test_an_import_line_that_cannot_be_sent_is_refused(line: Any, problem: str) -> None:
    assert refused(lambda kl: kl.import_keys([line])) == problem


def test_an_import_line_is_sent_as_it_is() -> None:
    line = {"label": "Bücher & Läden", "a name of somebody's own": "x", "scopes": ["a"], "key": "k"}
    assert sent(lambda kl: kl.import_keys([line]))["lines"] == [line]


def test_the_key_in_an_import_line_is_a_secret() -> None:
    transport = RecordingTransport()
    with pytest.raises(Sent):
        Keylatch(transport).import_keys([{"key": SECRET}])
    assert SECRET not in repr(transport.arguments)
