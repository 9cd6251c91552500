"""`Secret`: printing, storing or comparing an object never shows the key."""

import copy
import dataclasses
import json
import logging
import pickle
import pprint
from collections.abc import Callable
from datetime import UTC, datetime
from string import Template
from typing import Any
from uuid import UUID

import pytest
import rich.console
import rich.pretty
import rich.traceback

from client.printing import everything_about, rich_text
from client.samples import JSON
from client.vectors import SECRET
from keylatch import AsyncKeylatch, Keylatch, Secret, hash_key, parse_key
from keylatch.errors import InvalidArgument, KeylatchError
from keylatch.models import IssuedKey
from keylatch.secret import mask_keys

pytestmark = pytest.mark.one_server

SHOWN = f"wk_sk_live_...{SECRET[-4:]}"
ISSUED = IssuedKey(
    key=Secret(SECRET),
    id=UUID(int=1),
    workspace_id=UUID(int=2),
    kind="secret",
    environment="live",
    masked_key=SHOWN,
    fingerprint=hash_key(SECRET).hex()[:8],
    label="",
    allowed_origins=(),
    scopes=(),
    metadata={},
    expires_at=None,
    rotated_from=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    created_by=None,
)


PRINTERS: dict[str, Callable[[object], str]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": lambda value: f"{value}",
    "padded": lambda value: format(Template("$it").substitute(it=value), ">60"),
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031
    "in a list": lambda value: str([value]),
    "pprint": pprint.pformat,
    "rich": rich_text,
    "rich pretty": lambda value: rich.pretty.pretty_repr(value),
    "json with str": lambda value: json.dumps({"key": value}, default=str),
    "pickle": lambda value: pickle.dumps(value).decode("latin-1"),
    "pickle, oldest protocol": lambda value: pickle.dumps(value, 0).decode("latin-1"),
}


@pytest.mark.parametrize("name", PRINTERS)
@pytest.mark.parametrize("value", [Secret(SECRET), ISSUED], ids=["the secret", "a result"])
def test_nothing_that_prints_shows_the_value(name: str, value: object) -> None:
    """Threat: a key or secret shows up in a repr."""
    text = PRINTERS[name](value)
    assert SECRET not in text
    assert SECRET[11:-4] not in text


def test_people_see_the_masked_key_of_a_key_and_nothing_of_other_texts() -> None:
    assert repr(Secret(SECRET)) == f"Secret('{SHOWN}')"
    assert str(Secret(SECRET)) == SHOWN
    assert f"{Secret(SECRET):>20}" == f"{SHOWN:>20}"
    for text in ("", "hunter2", SECRET + "\n", " " + SECRET, "\ud800"):
        assert repr(Secret(text)) == "Secret('...')"


def test_a_log_record_does_not_show_the_value(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("app").warning("issued %s and %r in %s", ISSUED.key, ISSUED.key, ISSUED)
    assert SHOWN in caplog.text
    assert SECRET not in caplog.text


def test_json_refuses_it() -> None:
    with pytest.raises(TypeError, match="Secret is not JSON serializable"):
        json.dumps({"key": Secret(SECRET)})


def test_an_unpickled_copy_says_why_it_has_no_value() -> None:
    received = pickle.loads(pickle.dumps(ISSUED))  # noqa: S301
    with pytest.raises(RuntimeError, match="was unpickled"):
        received.key.reveal()
    assert dataclasses.replace(received, key=ISSUED.key) == ISSUED
    assert received.key != ISSUED.key
    assert received.key == received.key
    assert received.key != pickle.loads(pickle.dumps(received.key))  # noqa: S301
    assert repr(received.key) == "Secret('...')"
    assert hash(received.key) == hash(received.key)
    state: Any = ISSUED.key
    assert state.__getstate__() is None
    with pytest.raises(RuntimeError, match="was unpickled"):
        hash_key(received.key)


def test_copies_within_the_process_keep_the_value() -> None:
    copies = [
        copy.copy(ISSUED).key,
        copy.copy(ISSUED.key),
        copy.deepcopy(ISSUED).key,
        dataclasses.asdict(ISSUED)["key"],
        dataclasses.replace(ISSUED, label="x").key,
    ]
    assert [one.reveal() for one in copies] == [SECRET] * 5


def test_equality_is_by_value_between_secrets_alone_and_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Secret(SECRET) == Secret(SECRET)
    assert Secret(SECRET) != Secret(SECRET[:-1])
    assert Secret("\ud800") == Secret("\ud800")
    assert Secret(SECRET) != SECRET
    assert len({Secret(SECRET), Secret(SECRET), Secret("other")}) == 2

    asked: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("keylatch.secret.hmac.compare_digest", lambda *pair: asked.append(pair))
    assert not Secret("a") == Secret("b")  # noqa: SIM201
    assert asked == [(b"a", b"b")]


def test_a_secret_has_no_dict_cannot_be_changed_and_takes_only_a_string() -> None:
    secret = Secret(SECRET)
    with pytest.raises(TypeError):
        vars(secret)
    for name in ("_value", "value"):
        with pytest.raises(AttributeError):
            setattr(secret, name, "x")
        with pytest.raises(AttributeError):
            delattr(secret, name)
    with pytest.raises(TypeError, match="not bytes"):
        Secret(SECRET.encode())  # type: ignore[arg-type]
    assert secret.reveal() == SECRET


class FailingTransport:
    """Answers with a new key that cannot be read, or raises an error."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def call(self, function: str, arguments: object) -> object:
        from keylatch.transports.wire import as_rows

        if isinstance(self.answer, KeylatchError):
            raise self.answer
        return as_rows(self.answer)


@pytest.mark.parametrize("others", [{}, {**JSON[IssuedKey], "key": None, "workspace_id": "?"}])
def test_a_new_key_that_cannot_be_read_is_in_no_frame_of_the_traceback(
    others: dict[str, object],
) -> None:
    client = Keylatch(FailingTransport({**others, "key": SECRET, "id": str(UUID(int=1))}))  # type: ignore[arg-type]
    with pytest.raises(KeylatchError, match="workspace_id") as caught:
        client.issue(UUID(int=2))
    text = everything_about(caught.value)
    assert "Secret('wk_sk_live_" in text, "the frames were not captured"
    assert SECRET not in text


def test_a_key_given_as_a_secret_is_in_no_frame_of_the_traceback() -> None:
    secret = Secret(SECRET)
    mistyped = Secret(SECRET[:-1] + "1")
    client = Keylatch(FailingTransport(KeylatchError("database_error")))  # type: ignore[arg-type]

    def parse() -> None:
        parse_key(mistyped)

    def unsendable() -> None:
        hash_key(Secret(SECRET + "\ud800"))

    def wrong_origin() -> None:
        client.resolve(secret, origin=5)  # type: ignore[arg-type]

    def refused() -> None:
        client.explain(secret)

    for call in (parse, unsendable, wrong_origin, refused):
        with pytest.raises(KeylatchError) as caught:
            call()
        text = everything_about(caught.value)
        assert "Secret('" in text or call is unsendable
        assert SECRET[:-1] not in text, call.__name__


@pytest.mark.parametrize("field", ["workspace_id", "key_id"])
def test_a_key_given_as_an_id_is_not_repeated_by_the_error(field: str) -> None:
    client = Keylatch(FailingTransport({}))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=field) as caught:
        if field == "key_id":
            client.revoke(SECRET)
        else:
            client.list(SECRET)
    assert SECRET not in str(caught.value) + repr(caught.value)


def test_texts_of_servers_are_masked() -> None:
    text = f'refused "{SECRET}", ({SECRET[:-1]}), wk_pk_test_1 and {SECRET}x'
    assert SECRET[11:-5] not in mask_keys(text)
    assert mask_keys(text).startswith(f'refused "{SHOWN}", (')
    assert mask_keys("wk_pk_test_1234") == str(Secret("wk_pk_test_1234")) == "wk_pk_test_..."
    assert mask_keys("nothing to hide: wk_sk_prod_x") == "nothing to hide: wk_sk_prod_x"


def test_the_clients_themselves_print_no_connection() -> None:
    for kind in (Keylatch, AsyncKeylatch):
        assert SECRET not in repr(kind(FailingTransport(SECRET)))  # type: ignore[arg-type]


def test_the_frames_of_the_checks_above_would_show_a_plain_text() -> None:
    """The counter-example: a traceback with locals shows a text that is not a `Secret`."""

    def careless() -> None:
        key = SECRET
        raise ValueError(len(key))

    with pytest.raises(ValueError, match=str(len(SECRET))) as caught:
        careless()
    assert SECRET in everything_about(caught.value)
